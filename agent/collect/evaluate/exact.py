"""Conditions moment by moment: the series of every expression that is needed, each made once."""

import collections
import itertools
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, Int64
from agent.collect.evaluate.columns import Column, Columns
from agent.collect.evaluate.program import Program
from agent.collect.evaluate.series import (
    FALSE,
    FOREVER,
    TRUE,
    UNKNOWN,
    Joiner,
    Series,
    Truths,
    after,
    moments,
    runs,
)
from agent.collect.evaluate.span import Span
from agent.collect.evaluate.state import Memory
from agent.collect.expression.tree import (
    Arithmetic,
    Both,
    Changed,
    Compare,
    Condition,
    Edge,
    Either,
    For,
    Function,
    Missing,
    Not,
    Number,
    Previous,
    RawIs,
    Signal,
    Truth,
    Valid,
    Window,
)

_ARITHMETIC = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}
_COMPARE = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}
_MEANINGS = {"not available": 1, "error": 2}  # as agent.blocks.MEANINGS
_FEW_RAWS = 8
_NEUTRAL: dict[type[Condition], int] = {Both: 4, Either: 1}
_ONLY = {1: FALSE, 2: UNKNOWN, 4: TRUE}
"""Bits of what is possible (agent.collect.evaluate.bounds), where it is one thing only."""


class Exact:
    """Evaluates conditions in a span, and brings timers and edges to its end."""

    def __init__(
        self,
        program: Program,
        memory: Memory,
        columns: Columns,
        span: Span,
        possible: NDArray[np.uint8] | None,
        *,
        given: Mapping[int, Series] | None = None,
    ) -> None:
        """Begin a span; `given` are the series of conditions that are known already."""
        self._program = program
        self._memory = memory
        self._columns = columns
        self._possible = None if possible is None else possible.tobytes()
        self._asked: set[int] = set()
        self._joiner = Joiner()
        self._numbers: dict[int, Series] = {}
        self._conditions: dict[int, Series] = dict(given or {})
        self._within = (span.begin, span.end)
        self.fired = np.zeros_like(memory.fired)
        """Which edges there are at just the last moment."""

    def evaluate(self, wanted: Iterable[int]) -> None:
        """Make the series of conditions, and of what they are made of."""
        # A timer goes on, even where it surely does not run out.
        self._asked = set(wanted)
        needed, numbers, slots, simple = self._find()
        if slots:
            self._columns.prepare(slots)
        if simple:
            self._compare_signals(simple)
        for place in sorted(numbers):  # parts come before what is made of them
            self._numbers[place] = self._number(place)
        for place in sorted(needed - self._conditions.keys()):
            self._conditions[place] = self._condition(place)

    def _find(self) -> tuple[set[int], set[int], set[int], list[int]]:
        """Conditions, numbers and slots that are needed; comparisons of signals with constants."""
        program = self._program
        needed: set[int] = set()
        numbers: set[int] = set()
        slots: set[int] = set()
        simple: list[int] = []
        stack = list(self._asked)
        while stack:
            place = stack.pop()
            if place in needed:
                continue
            needed.add(place)
            if place in self._conditions or self._constant(place) is not None:
                continue
            node, below = program.conditions[place], program.condition_parts[place]
            if isinstance(node, Both | Either):
                alone = self._alone(node, below)
                stack += below if alone is None else (alone,)
            elif isinstance(node, Not | For | Edge):
                stack += below
            elif not isinstance(node, Compare):
                slots.update(below)
            elif self._is_simple(node, below):
                simple.append(place)
            else:
                numbers.update(below)
        stack = list(numbers)
        while stack:
            more = set(program.number_parts[stack.pop()]) - numbers
            numbers |= more
            stack += more
        slots |= {place for place in numbers if place < len(program.signals)}
        return needed, numbers, slots, simple

    def series(self, place: int) -> Series:
        """The truth of an evaluated condition."""
        return self._conditions[place]

    def _constant(self, place: int) -> int | None:
        if self._possible is None or place in self._asked:
            return None
        return _ONLY.get(self._possible[place])

    def _is_simple(self, node: Compare, below: tuple[int, ...]) -> bool:
        """Whether a signal is compared with a constant, and can be so together with others."""
        slot = below[0]
        is_signal = slot < len(self._program.signals)
        return is_signal and isinstance(node.right, Number) and self._columns.is_in_one_place(slot)

    def _alone(self, node: Both | Either, below: tuple[int, ...]) -> int | None:
        """The operand that makes the truth alone, as the other is surely neutral."""
        possible = self._possible
        if possible is None:
            return None
        neutral = _NEUTRAL[type(node)]
        a, b = below
        return b if possible[a] == neutral else a if possible[b] == neutral else None

    # Numbers

    def _number(self, place: int) -> Series:
        node, below = self._program.numbers[place], self._program.number_parts[place]
        match node:
            case Signal():
                column = self._columns.of(place)
                return Series(column.stamps.times, column.last_of_each(column.values))
            case Number():
                return Series(self._columns.origin.times, np.array([node.value], np.float64))
            case Arithmetic():
                times, left, right = self._joiner.join(*(self._numbers[p] for p in below))
                values: Float64 = _ARITHMETIC[node.operator](left, right)
                if node.operator == "/":
                    values = np.where(right == 0, np.nan, values)
                return Series(times, values)
            case Function():
                of = self._numbers[below[0]]
                return Series(of.times, np.abs(of.values) if node.name == "abs" else -of.values)
            case Previous():
                column = self._columns.of(below[0])
                before = np.concatenate(([self._columns.previous(below[0])], column.values[:-1]))
                return Series(column.stamps.times, column.last_of_each(before))
            case Window():
                history = self._memory.histories.of[below[0]]
                at = history.moments(node.duration_ns, *self._within)
                return Series(at, history.look(node.name, node.duration_ns, at))
        raise TypeError(f"{type(node).__name__} is no number")

    # Conditions

    def _condition(self, place: int) -> Series:
        constant = self._constant(place)
        if constant is not None:
            return self._always(constant)
        node, below = self._program.conditions[place], self._program.condition_parts[place]
        match node:
            case Truth():
                return self._always(TRUE if node.value else FALSE)
            case Compare():
                return self._compare(node, below)
            case Both() | Either():
                alone = self._alone(node, below)
                if alone is not None:
                    return self._conditions[alone]
                return self._join(isinstance(node, Both), *(self._conditions[p] for p in below))
            case Not():
                of = self._conditions[below[0]]
                return Series(of.times, np.int8(TRUE) - of.values)
            case For():
                return self._for(place, node, self._conditions[below[0]])
            case Edge():
                return self._edge(place, node, self._conditions[below[0]])
        return self._of_signal(node, below[0])

    def _join(self, both: bool, a: Series, b: Series) -> Series:
        neutral = TRUE if both else FALSE
        if len(a.values) == 1 and a.values[0] == neutral:
            return b
        if len(b.values) == 1 and b.values[0] == neutral:
            return a
        times, left, right = self._joiner.join(a, b)
        return Series(times, np.minimum(left, right) if both else np.maximum(left, right))

    def _always(self, truth: int) -> Series:
        return Series(self._columns.origin.times, np.array([truth], np.int8))

    def _compare(self, node: Compare, below: tuple[int, ...]) -> Series:
        times, left, right = self._joiner.join(*(self._numbers[p] for p in below))
        return Series(times, _truths(_COMPARE[node.operator], left, right))

    def _compare_signals(self, places: list[int]) -> None:
        """Many comparisons of a signal with a constant, in one call for each operator.

        Of their times, those are left at which the truth becomes another.
        """
        program = self._program
        rows = [
            (node.operator, program.condition_parts[place][0], node.right.value, place)
            for place in places
            if isinstance(node := program.conditions[place], Compare)
            and isinstance(node.right, Number)
        ]
        rows.sort(key=lambda row: row[0])
        slots = np.array([row[1] for row in rows], np.int64)
        constants = np.array([row[2] for row in rows], np.float64)
        for bundle in self._columns.bundles(slots):
            edges = bundle.edges
            mine = [rows[i] for i in bundle.places.tolist()]
            values, right = bundle.values, constants[bundle.places].repeat(edges[1:] - edges[:-1])
            truths = np.empty(len(values), np.int8)
            done = 0
            for operator, count in collections.Counter(row[0] for row in mine).items():
                a, b = int(edges[done]), int(edges[done + count])
                truths[a:b] = _truths(_COMPARE[operator], values[a:b], right[a:b])
                done += count
            times, truths, cuts = _changes(bundle.times, truths, edges)
            for row, (a, b) in zip(mine, itertools.pairwise(cuts.tolist()), strict=True):
                self._conditions[row[3]] = Series(times[a:b], truths[a:b])

    def _of_signal(self, node: Condition, slot: int) -> Series:
        column = self._columns.of(slot)
        match node:
            case RawIs():
                truths = _is_raw(node, column)
                return Series(column.stamps.times, column.last_of_each(truths))
            case Valid():
                truths = _is_valid(node, column)
                return Series(column.stamps.times, column.last_of_each(truths))
            case Missing():
                times = column.stamps.times
                begins = np.concatenate((self._memory.base.time[slot : slot + 1], times[1:]))
                ends = np.concatenate((times[1:], [FOREVER]))
                return after(begins, ends, node.duration_ns, self._within)
            case Changed():
                on = np.unique(column.stamps.all[1:][column.differs()])
                return moments(on, bool(self._memory.base.changed[slot]), self._within)
        raise TypeError(f"{type(node).__name__} is no condition")

    def _for(self, place: int, node: For, of: Series) -> Series:
        memory, number = self._memory, self._memory.fors[place]
        begins, ends = runs(of.values == TRUE, of.times, int(memory.since[number]))
        holds = len(ends) > 0 and ends[-1] == FOREVER
        memory.holds[number] = holds
        if holds:
            memory.since[number] = begins[-1]
        return after(begins, ends, node.duration_ns, self._within)

    def _edge(self, place: int, node: Edge, of: Series) -> Series:
        number = self._memory.edges[place]
        wanted = TRUE if node.name == "rises" else FALSE
        is_wanted = of.values == wanted
        edges = is_wanted[1:] & ~is_wanted[:-1]
        first = self._first_sample(self._program.condition_parts[place][0])
        if first is not None:
            edges &= (of.values[:-1] != UNKNOWN) | (of.times[1:] > first)
        on = of.times[1:][edges]
        self.fired[number] = len(on) > 0 and on[-1] == self._within[1]
        return moments(on, bool(self._memory.fired[number]), self._within)

    def _first_sample(self, condition: int) -> int | None:
        """Of all signals below; None where there were some before this span."""
        slots = self._program.slots_below(condition)
        if self._memory.base.seen[slots].any():
            return None
        firsts = [s.times[1] for s in (self._columns.of(i).stamps for i in slots) if len(s.all) > 1]
        return int(min(firsts, default=self._within[1]))


def compared(operator: str, constant: float, values: Float64) -> Truths:
    """The truth of a comparison with a constant at each value."""
    return _truths(_COMPARE[operator], values, np.float64(constant))


def _truths(compare: np.ufunc, left: Float64, right: Float64 | np.float64) -> Truths:
    truths: Truths = compare(left, right).view(np.int8) * np.int8(TRUE)
    unknown = np.isnan(left) | np.isnan(right)
    if unknown.any():
        truths[unknown] = UNKNOWN
    return truths


def _changes(times: Int64, truths: Truths, edges: Int64) -> tuple[Int64, Truths, Int64]:
    """Of several series one behind the other: the times of changes, the truths, the edges."""
    last = np.empty(len(times), bool)
    np.not_equal(times[1:], times[:-1], out=last[:-1])
    last[edges[1:] - 1] = True
    if not last.all():
        places = last.nonzero()[0]
        times, truths, edges = times[places], truths[places], places.searchsorted(edges)
    change = np.empty(len(times), bool)
    np.not_equal(truths[1:], truths[:-1], out=change[1:])
    change[edges[:-1]] = True
    places = change.nonzero()[0]
    return times[places], truths[places], places.searchsorted(edges)


def _is_raw(node: RawIs, column: Column) -> Truths:
    raw = column.raw
    if raw.dtype.kind == "f":
        wanted = np.array([r for r in sorted(node.raws) if float(r) == r], np.float64)
    else:
        info = np.iinfo(raw.dtype)
        fitting = sorted(r for r in node.raws if info.min <= r <= info.max)
        wanted = np.array(fitting, raw.dtype)
        if node.mask is not None:
            raw = raw & _mask(node.mask, raw.dtype)
    if len(wanted) <= _FEW_RAWS:
        found = np.zeros(len(raw), bool)
        for one in wanted:
            found |= raw == one
    else:
        found = np.isin(raw, wanted)
    truths = found.view(np.int8) * np.int8(TRUE)
    if not column.seen:
        truths[0] = UNKNOWN
    return truths


def _mask(mask: int, dtype: np.dtype) -> np.integer:
    bits = np.uint64(mask & (1 << 64) - 1)
    return bits if dtype == np.uint64 else bits.view(np.int64)


def _is_valid(node: Valid, column: Column) -> Truths:
    if node.meaning == "valid":
        holds = ~np.isnan(column.values)
    elif column.schema.kind == "bytes":
        holds = np.zeros(len(column.raw), bool)
    else:
        holds = column.schema.validity(column.raw) == _MEANINGS[node.meaning]
        holds[0] &= column.seen
    return holds.view(np.int8) * np.int8(TRUE)
