"""What conditions are made of others, and what becomes of them if some of those change."""

import heapq
from collections.abc import Iterable, Mapping, Sequence

from agent.collect.evaluate.bounds import CAN_BE_FALSE, CAN_BE_TRUE, TABLE
from agent.collect.evaluate.program import Program
from agent.collect.evaluate.state import Memory
from agent.collect.expression.tree import Both, Edge, Either, For, Not

_OPERATOR = {Both: 0, Either: 1, Not: 2}
_TABLE = TABLE.tobytes()
_SEVERAL = bytes(bits & (bits - 1) != 0 for bits in range(8))


class Logic:
    """Works on `bits`: what is possible for each condition, as in agent.collect.evaluate.bounds."""

    def __init__(self, program: Program, slots_of: Mapping[int, Sequence[int]]) -> None:
        """Look at a program; `slots_of` has the leaves that can be evaluated with a few others."""
        self._program = program
        self._slots_of = slots_of
        self._parents: list[list[int]] = [[] for _ in program.conditions]
        self._operator: list[int | None] = []
        self._made: set[int] = set()
        """Those that are made of others."""
        self._for_ns: dict[int, int] = {}
        for place, node in enumerate(program.conditions):
            operator = _OPERATOR.get(type(node))
            self._operator.append(operator)
            if operator is not None or isinstance(node, For | Edge):
                self._made.add(place)
                for below in set(program.condition_parts[place]):
                    self._parents[below].append(place)
            if isinstance(node, For):
                self._for_ns[place] = node.duration_ns

    def is_open(self, bits: bytearray, place: int) -> bool:
        """Whether the operand of a `for` or an edge can be several things."""
        return bool(_SEVERAL[bits[self._program.condition_parts[place][0]]])

    def spread(
        self,
        bits: bytearray,
        changed: Iterable[int],
        memory: Memory,
        until: int,
        *,
        also: Iterable[int] = (),
        ended: bool = False,
    ) -> list[int] | None:
        """Make what conditions are from what has changed below; gives those that were looked at.

        None: there are edges above. `also` are looked at, too. `ended`: at the end of a span.
        """
        parents, operators = self._parents, self._operator
        parts = self._program.condition_parts
        heap = [*also, *(above for place in changed for above in parents[place])]
        heapq.heapify(heap)
        touched: list[int] = []
        while heap:
            place = heapq.heappop(heap)
            if touched and touched[-1] == place:
                continue
            touched.append(place)
            operator, below = operators[place], parts[place]
            if operator is not None:
                new = _TABLE[(operator << 6) + (bits[below[0]] << 3) + bits[below[-1]]]
            elif (number := memory.fors.get(place)) is None:
                return None
            elif _SEVERAL[bits[below[0]]]:
                new = CAN_BE_FALSE | CAN_BE_TRUE
            elif not ended:
                new = bits[place]
            else:
                on = int(memory.since[number]) + self._for_ns[place]
                new = CAN_BE_TRUE if memory.holds[number] and on <= until else CAN_BE_FALSE
            if new != bits[place]:
                bits[place] = new
                for above in parents[place]:
                    heapq.heappush(heap, above)
        return touched

    def leaves(self, bits: bytearray, wanted: Iterable[int]) -> set[int] | None:
        """The leaves on which conditions hang; None if one cannot be evaluated here."""
        program, slots_of = self._program, self._slots_of
        leaves: set[int] = set()
        seen: set[int] = set()
        stack = list(wanted)
        while stack:
            place = stack.pop()
            if place in seen or not _SEVERAL[bits[place]]:
                continue
            seen.add(place)
            if place in self._made:
                stack += program.condition_parts[place]
            elif place in slots_of:
                leaves.add(place)
            else:
                return None
        return leaves
