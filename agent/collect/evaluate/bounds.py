"""What every condition can be in a span, all at once.

Numbers are intervals with two flags, whether they can be known and unknown. The sum of two
intervals, for instance, has the sums of their ends as ends: rounding keeps the order, so no value
lies outside. Conditions are three bits: can be false (1), unknown (2), true (4).

Expressions of one kind and level are one call, so the number of calls depends on how deep
conditions are, and not on how many there are.
"""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, Int64
from agent.collect.evaluate.hull import Bools, Hull, Hulls, Look
from agent.collect.evaluate.program import Program
from agent.collect.evaluate.span import Span
from agent.collect.evaluate.state import Memory
from agent.collect.evaluate.window_bounds import WindowBounds
from agent.collect.expression.tree import (
    Arithmetic,
    Both,
    Changed,
    Compare,
    Edge,
    Either,
    For,
    Function,
    Missing,
    Not,
    Number,
    Previous,
    RawIs,
    Truth,
    Valid,
)

CAN_BE_FALSE, CAN_BE_UNKNOWN, CAN_BE_TRUE = 1, 2, 4
ANYTHING = 7

Bits = NDArray[np.uint8]
Places = NDArray[np.intp]


def _table() -> Bits:
    """What comes out of `and`, `or` and `not`, of what both operands can be.

    uint8[256]: the place is 64 * operator (0, 1, 2) + 8 * left + right.
    """
    table = np.zeros((4, 8, 8), np.uint8)
    for a in range(8):
        for b in range(8):
            for x in (v for v in range(3) if a >> v & 1):
                for y in (v for v in range(3) if b >> v & 1):
                    for operator, value in enumerate((min(x, y), max(x, y), 2 - x)):
                        table[operator, a, b] |= 1 << value
    return table.ravel()


TABLE = _table()
_SEVERAL = np.array([bits & (bits - 1) != 0 for bits in range(8)])
"""Whether more than one is possible."""
_OPERATOR = {Both: 0, Either: 1, Not: 2}


class Bounds:
    def __init__(self, program: Program) -> None:
        self._program = program
        self._hulls = Hulls(program)
        self._find_numbers()
        self._find_leaves()
        self._find_levels()
        self._windows = WindowBounds(program)
        timers = [*program.of_type(For), *program.of_type(Edge)]
        self._timers = np.array(timers, np.intp)
        self._timed = np.array([program.condition_parts[p][0] for p in timers], np.intp)
        self._roots = np.unique(np.array(program.roots, np.intp))
        self.unknown = np.ones(len(program.signals), bool)
        """Which slots can have been unknown in the last span."""

    def _find_numbers(self) -> None:
        program = self._program
        constants: list[tuple[int, float]] = []
        previous: list[tuple[int, int]] = []
        level = [0] * len(program.numbers)
        steps: dict[tuple[int, str], list[tuple[int, int, int]]] = defaultdict(list)
        for place, node in enumerate(program.numbers):
            below = program.number_parts[place]
            match node:
                case Number():
                    constants.append((place, float(node.value)))
                case Previous():
                    previous.append((place, below[0]))
                case Arithmetic() | Function():
                    level[place] = 1 + max(level[p] for p in below)
                    name = node.operator if isinstance(node, Arithmetic) else node.name
                    steps[level[place], name].append((place, below[0], below[-1]))
        self._constants = np.array([p for p, _ in constants], np.intp)
        self._values = np.array([v for _, v in constants], np.float64)
        self._previous = _columns(previous, 2)
        self._steps = [(name, _columns(rows, 3)) for (_, name), rows in sorted(steps.items())]

    def _find_leaves(self) -> None:
        program = self._program
        compares: dict[str, list[tuple[int, int, int]]] = {o: [] for o in ("<", "<=", "==", "!=")}
        raws: list[tuple[int, int, int]] = []
        sure: list[tuple[int, int, bool]] = []
        codes: list[tuple[int]] = []
        valid, meaning, missing, changed = [], [], [], []
        for place, node in enumerate(program.conditions):
            below = program.condition_parts[place]
            match node:
                case Compare(operator=">" | ">="):
                    compares[node.operator.replace(">", "<")].append((place, below[1], below[0]))
                case Compare():
                    compares[node.operator].append((place, below[0], below[1]))
                case RawIs():
                    schema = program.signals[below[0]].schema
                    limited = schema.kind == "int64" or (
                        schema.kind == "uint64" and schema.bits < 64
                    )
                    sure.append((place, below[0], limited and node.mask is None))
                    raws += [
                        (len(sure) - 1, below[0], r) for r in node.raws if -(1 << 63) <= r < 1 << 63
                    ]
                case Valid(meaning="valid"):
                    valid.append((place, below[0]))
                case Valid():
                    of = program.signals[below[0]].schema.codes
                    meaning.append((place, below[0]))
                    codes += [(place,)] if of else []
                case Missing():
                    missing.append((place, below[0], node.duration_ns))
                case Changed():
                    changed.append((place, below[0]))
        self._compares = {name: _columns(rows, 3) for name, rows in compares.items()}
        self._sure = _columns(sure, 3)
        self._raws = _columns(raws, 3)
        self._valid, self._meaning = _columns(valid, 2), _columns(meaning, 2)
        self._coded = _columns(codes, 1)
        self._missing, self._changed = _columns(missing, 3), _columns(changed, 2)

    def _find_levels(self) -> None:
        program = self._program
        level = [0] * len(program.conditions)
        logic: dict[int, list[tuple[int, int, int, int]]] = defaultdict(list)
        fors: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        edges: dict[int, list[tuple[int, int]]] = defaultdict(list)
        truths = []
        for place, node in enumerate(program.conditions):
            below = program.condition_parts[place]
            if isinstance(node, Both | Either | Not | For | Edge):
                level[place] = 1 + max(level[p] for p in below)
            match node:
                case Truth():
                    truths.append((place, CAN_BE_TRUE if node.value else CAN_BE_FALSE))
                case Both() | Either() | Not():
                    row = (place, _OPERATOR[type(node)], below[0], below[-1])
                    logic[level[place]].append(row)
                case For():
                    fors[level[place]].append((place, below[0], node.duration_ns))
                case Edge():
                    edges[level[place]].append((place, below[0]))
        self._truths = _columns(truths, 2)
        self._levels = [
            (
                _columns([(place, a, b) for place, _, a, b in logic[n]], 3),
                np.array([operator << 6 for _, operator, _, _ in logic[n]], np.uint8),
                _columns(fors[n], 3),
                _columns(edges[n], 2),
            )
            for n in range(1, max(level, default=0) + 1)
        ]
        numbers = {place: i for i, place in enumerate(program.of_type(For))}
        self._for_number = np.zeros(len(program.conditions), np.intp)
        self._for_number[list(numbers)] = list(numbers.values())
        self._edge_number = np.zeros(len(program.conditions), np.intp)
        places = program.of_type(Edge)
        self._edge_number[places] = np.arange(len(places))

    def possible(self, memory: Memory, span: Span) -> Bits:
        """uint8[conditions]: what each can be at some moment from the span's begin to its end."""
        hull = self._hulls.of(memory.base, span)
        self.unknown = hull.unknown
        bits = np.zeros(len(self._program.conditions), np.uint8)
        self._compare(bits, *self._intervals(memory, span, hull))
        self._leaves(bits, memory, span, hull)
        self._join(bits, memory, span)
        return bits

    def held(self, memory: Memory, at: int, vague: Places, windows: Places) -> Bits:
        """What each condition is at a decided moment, uint8[conditions].

        Of the leaves `vague` and `windows` nothing is known: windows are not looked at.
        """
        span = Span(at, at, [], memory.base)
        hull = self._hulls.of(memory.base, span)
        self.unknown = hull.unknown
        bits = np.zeros(len(self._program.conditions), np.uint8)
        self._compare(bits, *self._intervals(memory, span, hull, look=False))
        self._leaves(bits, memory, span, hull)
        bits[vague] = bits[windows] = ANYTHING
        return bits

    def join(self, bits: Bits, memory: Memory, at: int) -> None:
        """Of the leaves in `bits`, make what the other conditions are at a decided moment."""
        self._join(bits, memory, Span(at, at, [], memory.base))

    def reach(self) -> dict[int, tuple[float, float]]:
        """Between which values windows are, by place in `Program.numbers`: wide, if anything."""
        return self._windows.reach()

    def note(self, slots: Int64, low: Float64, high: Float64) -> None:
        """Take note of samples of windows between these physical values, in no span."""
        self._windows.note(slots, low, high)

    def wanted(self, bits: Bits) -> list[int]:
        """Conditions to evaluate: whose truth may change, or on which a timer or an edge hangs."""
        roots = self._roots[bits.take(self._roots) > CAN_BE_TRUE]
        timers = self._timers[_SEVERAL.take(bits.take(self._timed))]
        return [*roots.tolist(), *timers.tolist()]

    # Numbers

    def _intervals(
        self, memory: Memory, span: Span, hull: Hull, *, look: bool = True
    ) -> tuple[Float64, Float64, Bools, Bools]:
        n, slots = len(self._program.numbers), len(hull.low)
        low, high = np.empty(n), np.empty(n)
        known, unknown = np.empty(n, bool), np.empty(n, bool)
        low[:slots], high[:slots] = hull.low, hull.high
        low[slots:] = high[slots:] = 0
        known[:slots], unknown[:slots] = hull.known, hull.unknown
        known[slots:], unknown[slots:] = True, False
        low[self._constants] = high[self._constants] = self._values
        unknown[self._constants] = np.isnan(self._values)
        if look:
            self._windows.look(memory, span, hull, (low, high, unknown))
            self._look_back(hull, low, high, known, unknown)
        for name, (place, a, b) in self._steps:
            known[place] = known[a] & known[b]
            unknown[place] = unknown[a] | unknown[b]
            ends = _ends(name, low[a], high[a], low[b], high[b])
            least, greatest = np.minimum.reduce(ends), np.maximum.reduce(ends)
            odd = ~(np.isfinite(least) & np.isfinite(greatest))
            if name == "/":
                odd |= (low[b] <= 0) & (high[b] >= 0)
            # Beyond all doubles, or divided by 0: it may be anything, and NaN is unknown.
            low[place] = np.where(odd, -np.inf, least)
            high[place] = np.where(odd, np.inf, greatest)
            unknown[place] |= odd
        return low, high, known, unknown

    def _look_back(
        self, hull: Hull, low: Float64, high: Float64, known: Bools, unknown: Bools
    ) -> None:
        """What samples before the last can be.

        Before a span, such a sample lay in the last span that had samples, or was held then.
        """
        place, slot = self._previous
        if not len(place):
            return
        before = self._before
        low[place] = np.minimum(before.low, hull.low[slot])
        high[place] = np.maximum(before.high, hull.high[slot])
        unknown[place] = before.unknown | hull.unknown[slot]
        known[place] = before.known | hull.known[slot]
        # What is not known has no bounds.
        only = hull.known[slot] & ~before.known
        low[place[only]], high[place[only]] = hull.low[slot[only]], hull.high[slot[only]]
        only = before.known & ~hull.known[slot]
        low[place[only]], high[place[only]] = before.low[only], before.high[only]
        for mine, of in zip(before, hull.look(slot), strict=True):
            np.copyto(mine, of, where=hull.touched[slot])

    def _compare(
        self, bits: Bits, low: Float64, high: Float64, known: Bools, unknown: Bools
    ) -> None:
        state = known.view(np.uint8) + (unknown.view(np.uint8) << 1)
        for operator, (place, a, b) in self._compares.items():
            if not len(place):
                continue
            low_a, high_a, low_b, high_b = low.take(a), high.take(a), low.take(b), high.take(b)
            if operator == "<":
                can, cannot = low_a < high_b, high_a >= low_b
            elif operator == "<=":
                can, cannot = low_a <= high_b, high_a > low_b
            else:
                can = (low_a <= high_b) & (low_b <= high_a)
                cannot = (low_a != high_b) | (low_b != high_a)
                if operator == "!=":
                    can, cannot = cannot, can
            state_a, state_b = state.take(a), state.take(b)
            both = (state_a & state_b & 1).view(bool)
            _set(bits, place, cannot & both, can & both, ((state_a | state_b) >> 1).view(bool))

    # Conditions of signals

    def _leaves(self, bits: Bits, memory: Memory, span: Span, hull: Hull) -> None:
        base = memory.base
        if len(self._truths[0]):
            bits[self._truths[0]] = self._truths[1]
        self._raw_is(bits, base.seen, hull)
        place, slot = self._valid
        if len(place):
            _set(bits, place, hull.unknown.take(slot), hull.known.take(slot))
        place, slot = self._meaning
        if len(place):
            bits[place] = CAN_BE_FALSE
            bits[self._coded[0]] = ANYTHING - CAN_BE_UNKNOWN
            quiet = ~hull.unknown[slot]
            bits[place[quiet]] = CAN_BE_FALSE
        place, slot, duration = self._missing
        if len(place):
            since = base.time.take(slot) + duration
            was = since <= span.begin
            _set(bits, place, ~was | hull.touched.take(slot), was | (since <= span.end))
        place, slot = self._changed
        if len(place):
            now = base.changed.take(slot)
            _set(bits, place, np.ones(len(place), bool), now | ~hull.constant.take(slot))

    def _raw_is(self, bits: Bits, seen: Bools, hull: Hull) -> None:
        place, slot, limited = self._sure
        if not len(place):
            return
        number, raw_slot, raw = self._raws
        within = (raw >= hull.least[raw_slot]) & (raw <= hull.greatest[raw_slot])
        can = np.zeros(len(place), bool)
        can[number[within]] = True
        constant = hull.least[slot] == hull.greatest[slot]
        vague = limited == 0
        present = seen[slot] | hull.touched[slot]
        _set(
            bits,
            place,
            (vague | ~(can & constant)) & present,
            (vague | can) & present,
            ~seen[slot],
        )

    # Conditions of conditions

    def _join(self, bits: Bits, memory: Memory, span: Span) -> None:
        for logic, operator, fors, edges in self._levels:
            place, a, b = logic
            bits[place] = TABLE.take(operator + (bits.take(a) << 3) + bits.take(b))
            place, of, duration = fors
            if len(place):
                number = self._for_number[place]
                holds, on = memory.holds.take(number), memory.since.take(number) + duration
                operand = bits.take(of)
                steady = operand == CAN_BE_TRUE
                was = holds & (on <= span.begin) & steady
                can = (~steady & (duration < span.end - span.begin)) | (holds & (on <= span.end))
                can &= operand >= CAN_BE_TRUE  # if it can be true at all
                _set(bits, place, ~was, can)
            place, of = edges
            if len(place):
                one = (bits[of] & (bits[of] - 1)) == 0
                fired = memory.fired[self._edge_number[place]]
                _set(bits, place, np.ones(len(place), bool), fired | ~one)

    def remember(self, memory: Memory) -> None:
        """Begin anew with what is held of windows."""
        self._windows.remember(memory)
        n = len(self._previous[0])
        anything = np.ones(n, bool)
        self._before = Look(np.full(n, -np.inf), np.full(n, np.inf), anything, anything.copy())


def _set(bits: Bits, place: Places, no: Bools, yes: Bools, unknown: Bools | None = None) -> None:
    found = (yes.view(np.uint8) << 2) + no.view(np.uint8)
    if unknown is not None:
        found += unknown.view(np.uint8) << 1
    bits[place] = found


def _columns(rows: Iterable[tuple[int, ...]], width: int) -> Int64:
    return np.array(list(rows), np.int64).reshape(-1, width).T.copy()


def _ends(name: str, a: Float64, b: Float64, c: Float64, d: Float64) -> tuple[Float64, ...]:
    """Among which the ends lie of what [a, b] and [c, d] give; one operand stands twice."""
    match name:
        case "+":
            return a + c, b + d
        case "-":
            return a - d, b - c
        case "*":
            return a * c, a * d, b * c, b * d
        case "/":
            return a / c, a / d, b / c, b / d
        case "negative":
            return -b, -a
    both = np.abs(a), np.abs(b)
    return np.where((a <= 0) & (b >= 0), 0.0, np.minimum(*both)), np.maximum(*both)
