"""Which values of signals leave every condition as it is.

A comparison of a signal with a constant can only become another where the signal crosses the
constant; `raw is` where it takes or leaves one of its values; `valid` where it takes or leaves a
code. Each of these is a *zone* of raw values, for a comparison a little wider than need be, so that
no rounding matters. While all samples of a signal lie between the zones next to its held value,
nothing that is said of it changes. Where the held value lies in a zone, equal ones are as good.

What depends on more than one signal, on floats, or on raw values beyond 52 bits, is not watched.
"""

import dataclasses
import math
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Int64
from agent.collect.evaluate.program import Program
from agent.collect.expression.tree import (
    Changed,
    Compare,
    Condition,
    Missing,
    Number,
    Previous,
    RawIs,
    Valid,
    Window,
)

LEAST, GREATEST = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)
_MAX_BITS = 52
_ROUNDING = 1e-15
"""Relative: raw * scale + offset and the way back are off by less."""
_MEANS = 1e-8
"""Relative; means are off by far less."""
_LEAVES = Compare | RawIs | Valid | Missing | Changed
_LEVEL = ("min", "max", "mean")
_ABOVE = {"<": False, "<=": False, ">": True, ">=": True, "==": False, "!=": True}
_BELOW = {"<": True, "<=": True, ">": False, ">=": False, "==": False, "!=": True}

Zone = tuple[int, int]
"""First and last raw value."""


@dataclasses.dataclass(frozen=True, slots=True)
class WindowLeaf:
    """A comparison of a window with a constant: true on one side of its zone, or the other."""

    place: int
    window: int
    """Place of the window in `Program.numbers`."""
    slot: int
    duration: int
    low: float
    high: float
    """Physical ends of the zone."""
    below: bool
    above: bool


class Watch:
    """What of a program can be watched."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._zones: dict[int, set[Zone]] = defaultdict(set)
        self.leaves: dict[int, list[int]] = defaultdict(list)
        """By slot: what is watched of it, and can be evaluated with a few others."""
        self.delicate = np.zeros(len(program.signals), bool)
        """Slots of which more is watched."""
        self.windows: list[WindowLeaf] = []
        self.simple: dict[int, tuple[str, float]] = {}
        """Of `leaves`, those of slots with comparisons only: operators and constants."""
        self.slots_of: dict[int, list[int]] = {}
        """The slots of leaves that can be evaluated with a few others."""
        vague = []
        for place, node in enumerate(program.conditions):
            if isinstance(node, _LEAVES) and not self._look_at(place, node):
                vague.append(place)
        for slot, places in self.leaves.items():
            nodes = [program.conditions[place] for place in places]
            constants = {
                place: (node.operator, node.right.value)
                for place, node in zip(places, nodes, strict=True)
                if isinstance(node, Compare) and isinstance(node.right, Number)
            }
            if len(constants) == len(places) and not program.coded[slot]:
                self.simple |= constants
        self.vague = np.array(vague, np.intp)
        """Leaves that are not watched at all."""
        for slot in self._zones:
            for first, last, _ in program.signals[slot].schema.codes:
                if first <= GREATEST and last >= LEAST:
                    self._zones[slot].add((max(first, LEAST), min(last, GREATEST)))
        self._sort_zones()

    def _sort_zones(self) -> None:
        rows = [(slot, *zone) for slot in sorted(self._zones) for zone in self._zones[slot]]
        self._slot, self._first, self._last = np.array(rows, np.int64).reshape(-1, 3).T.copy()
        self._slots, self._begins = np.unique(self._slot, return_index=True)

    # What is watched

    def _look_at(self, place: int, node: Condition) -> bool:
        program = self._program
        below = program.condition_parts[place]
        if isinstance(node, Compare):
            return self._look_at_compare(place, node, below)
        slot = below[0]
        schema = program.signals[slot].schema
        whole = slot < program.whole
        wide = schema.kind == "uint64" and schema.bits > 63
        match node:
            case RawIs():
                self.slots_of[place] = [slot]
                if not whole or wide or node.mask is not None:
                    return False
                self._zones[slot] |= {(r, r) for r in node.raws if LEAST <= r <= GREATEST}
                self.leaves[slot].append(place)
            case Valid():
                self.slots_of[place] = [slot]
                if not whole or (wide and schema.codes):
                    return False
                self._zones[slot] |= set()
                self.leaves[slot].append(place)
            case Changed():
                if not whole:
                    return False
                self._zones[slot].add((LEAST, GREATEST))
                self.delicate[slot] = True
            case Missing():
                if not whole:
                    return False
                self._zones[slot] |= set()
                self.delicate[slot] = True
        return True

    def _look_at_compare(self, place: int, node: Compare, below: tuple[int, ...]) -> bool:
        program = self._program
        if not isinstance(node.right, Number):
            self._note_slots(place, below)
            return False
        left = program.numbers[below[0]]
        value = float(node.right.value)
        if below[0] < len(program.signals):
            slot = below[0]
            self.slots_of[place] = [slot]
            if not self._is_fine(slot):
                return False
            self._zone(slot, value, 0)
            self.leaves[slot].append(place)
            return True
        if isinstance(left, Window):
            slot = program.number_parts[below[0]][0]
            if left.name not in _LEVEL or not self._is_fine(slot) or not math.isfinite(value):
                return False
            width = self._zone(slot, value, _MEANS) * abs(program.scale[slot])
            self.delicate[slot] = True
            low, high = value - width, value + width
            below_it, above_it = _BELOW[node.operator], _ABOVE[node.operator]
            self.windows.append(
                WindowLeaf(place, below[0], slot, left.duration_ns, low, high, below_it, above_it)
            )
            return True
        self._note_slots(place, below)
        return False

    def _note_slots(self, place: int, below: tuple[int, ...]) -> None:
        """The slots of a comparison of any numbers, if it needs nothing else of the past."""
        program = self._program
        slots, stack = set(), list(below)
        while stack:
            number = stack.pop()
            if isinstance(program.numbers[number], Window | Previous):
                return
            if number < len(program.signals):
                slots.add(number)
            stack += program.number_parts[number]
        self.slots_of[place] = sorted(slots)

    def _is_fine(self, slot: int) -> bool:
        """Whether what is physical can be told from raw values by zones."""
        program = self._program
        scale, offset = float(program.scale[slot]), float(program.offset[slot])
        return (
            slot < program.whole
            and bool(program.plain[slot])
            and program.signals[slot].schema.bits <= _MAX_BITS
            and math.isfinite(scale)
            and math.isfinite(offset)
            and abs(scale) > 1e-100
        )

    def _zone(self, slot: int, value: float, more: float) -> float:
        """Note where a signal crosses a value; gives half the width of the zone, in raw units."""
        program = self._program
        scale, offset = float(program.scale[slot]), float(program.offset[slot])
        zones = self._zones[slot]
        if not math.isfinite(value):
            return 0.0  # unknown, or the same for all
        raw = (value - offset) / scale
        reach = abs(raw) + 2 * abs(offset / scale) + 2.0 ** program.signals[slot].schema.bits
        width = 1 + (_ROUNDING + more) * reach
        if reach < 2.0**60:
            zones.add((math.floor(raw - width), math.ceil(raw + width)))
        elif abs(raw) <= abs(offset / scale) + 2.0**60:
            zones.add((LEAST, GREATEST))
        return width

    # Between which values nothing changes

    def limits(self, raw: Int64, quiet: NDArray[np.bool_]) -> tuple[Int64, Int64]:
        """The least and greatest raw value of each slot, int64[slots] each.

        `raw` are the held values; of slots that are not `quiet`, no sample leaves all as it is.
        """
        low: Int64 = np.full(len(raw), LEAST, np.int64)
        high: Int64 = np.full(len(raw), GREATEST, np.int64)
        if len(self._slots):
            held = raw.take(self._slot)
            above, below = self._first > held, self._last < held
            lows = np.where(below, self._last + 1, np.where(above, LEAST, held))
            highs = np.where(above, self._first - 1, np.where(below, GREATEST, held))
            low[self._slots] = np.maximum.reduceat(lows, self._begins)
            high[self._slots] = np.minimum.reduceat(highs, self._begins)
        low[~quiet], high[~quiet] = GREATEST, LEAST
        return low, high

    def limits_of(self, slot: int, raw: int) -> tuple[int, int]:
        """The same of a slot."""
        low, high = LEAST, GREATEST
        for first, last in self._zones.get(slot, ()):
            if first > raw:
                high = min(high, first - 1)
            elif last < raw:
                low = max(low, last + 1)
            else:
                return raw, raw
        return low, high
