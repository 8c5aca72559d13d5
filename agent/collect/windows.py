"""Aggregates over windows: least, greatest, mean and last value, and how many.

The grid is fixed: window w covers sample times [w * T, (w + 1) * T), whenever collection began. A
window of a series is given when it is complete: when a sample of a later one has come, or when its
bus has reached its end. Its row has the time at which the window **begins**, w * T.

    <Signal>.min .max    raw, as the signal is; by physical size, so by falling raw values where
                         the scale is negative
    <Signal>.last        raw
    <Signal>.mean        float64 in the signal's unit
    <Signal>.count       uint64, how many samples were valid

Only valid samples count: no codes (`SignalSchema.codes`), no NaN. A window without any makes no
row. Bytes have `last` and `count` alone.

**Exact.** Raw integers are added as integers, in two halves of 32 bits where they are long, so that
nothing overflows below 2**31 samples; floats are added as float64 from the oldest to the newest.
The mean is double(sum) / count * scale + offset. So no result depends on where blocks end.

**Late samples**, of a window that was left, count in the one that is open, or in the next one where
none is: nothing is lost, and no window is given twice. Only `finish` gives windows as they are; if
samples of the same window come after it, they make a row of their own.

**Tables.** The signals of the table in which a signal was met first are a group. Windows in which
all of a group have a row are a table of the group; other rows are in tables of one signal. So there
are few schemas, always the same ones. A group has no branch, as aggregates are over all of them.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Int64, Kind, SignalTable
from agent.collect.policy_base import NOTHING, Outcome, Policy
from agent.collect.policy_figures import Figures, Runs, of_bytes, of_numbers
from agent.collect.policy_memory import KINDS, Fields, Memory, Slots
from agent.collect.policy_rows import Groups, Texts
from agent.collect.policy_sheet import Mask, Unit, single_columns, units
from agent.collect.rules import Rule

_NEVER: Final = -(1 << 62)


class Window(Policy):
    """Aggregates.

    `open`: the series has an open window, with these figures (`policy_figures.Figures`); `home`:
    the group, -1 until it has one. `Memory.marks` are the windows in which buses are.
    """

    FIELDS: ClassVar[Fields] = {
        "open": ("?", False),
        "home": ("<i8", -1),
        "window": ("<i8", 0),
        "count": ("<i8", 0),
        "low": ("<u8", 0),
        "high": ("<u8", 0),
        "last": ("<u8", 0),
        "sum_low": ("<i8", 0),
        "sum_high": ("<i8", 0),
        "sum": ("<f8", 0.0),
    }

    def __init__(self, rule: Rule, memory: Memory) -> None:
        super().__init__(rule, memory)
        self._groups = Groups(rule.aggregates, rule.interval_ns)
        self._texts = Texts()

    def apply(self, tables: Sequence[SignalTable], reached: Mapping[str, int] = NOTHING) -> Outcome:
        self._find_homes(tables)
        found, _ = units(tables, self._memory)
        done = self._add(found) if found else []
        for bus, time in reached.items():
            done += self._reach(bus, time)
        outcome = self._given(done)
        outcome.folded = sum(table.samples for table in tables)
        return outcome

    def finish(self) -> Outcome:
        """Give open windows as they are."""
        slots = np.flatnonzero(self._memory["open"])
        return self._given([self._close(slots)])

    def _check(self, memory: Memory) -> None:
        """As `Policy._check`."""
        for slot in np.flatnonzero(memory["open"]).tolist():
            signal = memory.keys[slot].signal
            known = signal.kind != "bytes" or slot in memory.payloads
            if not known or not memory.has_home(slot):
                raise ValueError(f"an open window of {signal.name} is without its table")
        if (memory["count"] < 0).any() or (abs(memory["window"]) > -_NEVER).any():
            raise ValueError("a window that cannot be")

    def _find_homes(self, tables: Sequence[SignalTable]) -> None:
        """Put the signals that are met for the first time into groups."""
        memory = self._memory
        for table in tables:
            slots = memory.layout(table.schema).slots
            new = memory["home"][slots] < 0
            if new.any():
                layout = memory.layout(table.schema)
                names = [s.name for s, is_new in zip(layout.columns, new, strict=True) if is_new]
                schema = dataclasses.replace(table.schema.subset(names), branch="", entries=False)
                memory["home"][slots[new]] = memory.home(schema)

    def _given(self, done: list[Figures]) -> Outcome:
        tables = []
        if done:
            tables = self._groups.tables(Figures.joined(done), self._texts, self._memory)
        self._texts = Texts()
        return Outcome(tables, made=sum(table.samples for table in tables))

    def _reach(self, bus: str, time: int) -> list[Figures]:
        """Windows that end because their bus has reached a time."""
        memory = self._memory
        mark = max(time // self.rule.interval_ns, memory.marks.get(bus, _NEVER))
        memory.marks[bus] = mark
        slots = memory.slots_of(bus)
        slots = slots[memory["open"][slots] & (memory["window"][slots] < mark)]
        return [self._close(slots)] if len(slots) else []

    def _close(self, slots: Slots) -> Figures:
        """Figures of open windows, which are open no longer."""
        memory = self._memory
        figures = Figures.remembered(memory, slots)
        for row, slot in enumerate(slots.tolist()):
            if memory.keys[slot].signal.kind == "bytes":
                last = np.frombuffer(memory.payloads[slot][1], np.uint8)
                figures.last[row : row + 1] = self._texts.add(slot, last[None])
        memory["open"][slots] = False
        return figures

    def _add(self, found: Sequence[Unit]) -> list[Figures]:
        """Take samples in; gives the windows that end because a later one begins."""
        memory = self._memory
        cut = self._cut(found)
        parts: list[Figures] = []
        runs: list[Runs] = []
        for kind in KINDS:
            members = cut.having(kind)
            if not members:
                continue
            now = cut.runs(members)
            runs.append(now)
            if kind == "bytes":
                parts.append(self._of_bytes(members, now))
            else:
                values, valid = _flat(kind, members)
                parts.append(of_numbers(values, valid, now, memory))
        figures = Figures.joined(parts)
        first = np.concatenate([r.first for r in runs])
        final = np.concatenate([r.final for r in runs])
        left = memory["open"][figures.slot] & (memory["window"][figures.slot] != figures.window)
        done = [self._close(figures.slot[left & first])]
        newest = figures[final]
        newest.remember(memory)
        memory["open"][newest.slot] = True
        for slot, number in zip(newest.slot.tolist(), newest.last, strict=True):
            if memory.keys[slot].signal.kind == "bytes":
                payload = self._texts.get(slot, number[None])[0]
                memory.payloads[slot] = (0, payload.tobytes())
        return [*done, figures[~final]]

    def _cut(self, found: Sequence[Unit]) -> "_Cut":
        """In which windows samples count."""
        memory = self._memory
        windows = [unit.table.time // self.rule.interval_ns for unit in found]
        units_: list[Unit] = []
        counted: list[Int64] = []
        for unit, window in zip(found, windows, strict=True):
            slots = unit.layout.slots
            opened = np.where(memory["open"][slots], memory["window"][slots], _NEVER)
            floor = np.maximum(opened, memory.marks.get(unit.table.bus, _NEVER))
            if window[0] >= floor.max() and (window[1:] >= window[:-1]).all():
                units_.append(unit)
                counted.append(window)
                continue
            # Some are late; where a signal of others was given already, they are not late alike.
            rising = np.maximum.accumulate(window)
            for single, least in zip(single_columns(unit, memory), floor.tolist(), strict=True):
                units_.append(single)
                counted.append(np.maximum(rising, least))
        return _Cut(units_, counted)

    def _of_bytes(self, members: Sequence["_Member"], runs: Runs) -> Figures:
        last = np.empty(len(runs.slot), np.uint64)
        begin = run = 0
        for member in members:
            for slot, payload in zip(
                member.slots.tolist(), member.unit.table.payloads, strict=True
            ):
                many = member.runs
                rows = runs.end[run : run + many] - 1 - begin
                last[run : run + many] = self._texts.add(slot, payload[rows])
                begin += len(payload)
                run += many
        return of_bytes(runs, last, self._memory)


@dataclasses.dataclass(frozen=True, slots=True)
class _Member:
    """The columns of one kind of a unit."""

    unit: Unit
    first: int
    count: int
    begin: int
    """Its first row of all units..."""
    first_run: int
    """... its first run..."""
    runs: int
    """... and how many it has."""

    @property
    def slots(self) -> Slots:
        return self.unit.layout.slots[self.first : self.first + self.count]


class _Cut:
    """The rows of units, one behind the other, cut into runs of one window."""

    def __init__(self, found: Sequence[Unit], windows: Sequence[Int64]) -> None:
        self._units = found
        joined = np.concatenate(windows)
        lengths = [len(window) for window in windows]
        self._edges = [0, *itertools.accumulate(lengths)]
        begins = np.empty(len(joined), bool)
        np.not_equal(joined[1:], joined[:-1], out=begins[1:])
        begins[self._edges[:-1]] = True
        self._start = np.flatnonzero(begins)
        self._end = np.append(self._start[1:], len(joined))
        self._window = joined[self._start]
        self._runs: list[int] = np.searchsorted(self._start, self._edges).tolist()

    def having(self, kind: Kind) -> list[_Member]:
        """The units that have columns of a kind."""
        return [
            _Member(unit, first, count, begin, a, b - a)
            for unit, begin, (a, b) in zip(
                self._units, self._edges[:-1], itertools.pairwise(self._runs), strict=True
            )
            for its_kind, first, count in unit.layout.spans
            if its_kind == kind
        ]

    def runs(self, members: Sequence[_Member]) -> Runs:
        """Runs of the series of members, one behind the other."""
        counts = [member.count for member in members]
        slots = np.concatenate([member.slots for member in members])
        # By series, then by run.
        length, begin, first_run, many = (
            np.repeat(numbers, counts)
            for numbers in (
                [len(member.unit.table) for member in members],
                [member.begin for member in members],
                [member.first_run for member in members],
                [member.runs for member in members],
            )
        )
        offset = np.cumsum(length) - length
        series = np.repeat(np.arange(len(slots)), many)
        number = np.arange(len(series)) - np.repeat(np.cumsum(many) - many, many)
        run = first_run[series] + number
        shift = (offset - begin)[series]
        return Runs(
            slots[series],
            self._window[run],
            self._start[run] + shift,
            self._end[run] + shift,
            number == 0,
            number == many[series] - 1,
        )


def _flat(kind: Kind, members: Sequence[_Member]) -> tuple[NDArray[Any], Mask | None]:
    """Values of a kind, series by series, kind[N]; which are valid, bool[N], or None: all are."""
    values: NDArray[Any] = np.concatenate([m.unit.table.values[kind].ravel() for m in members])
    if values.dtype.kind == "f":
        numbers = ~np.isnan(values)
        return values, None if numbers.all() else numbers
    if not any(member.unit.layout.coded for member in members):
        return values, None
    valid = np.ones(len(values), bool)
    begin = 0
    for member in members:
        n, layout = len(member.unit.table), member.unit.layout
        for column in layout.coded:
            row = column - member.first
            if 0 <= row < member.count:
                mine = slice(begin + row * n, begin + (row + 1) * n)
                valid[mine] = layout.columns[column].validity(values[mine]) == 0
        begin += member.count * n
    return values, None if valid.all() else valid
