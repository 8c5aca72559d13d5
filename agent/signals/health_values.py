"""Samples that cannot be right: out of the stated range, and of counters that stand still.

All samples of a block are looked at, and few tables have anything wrong. So the columns of all
tables are laid end to end, one call finds the extremes of each, and only a column that reaches
beyond its range is looked at sample by sample; likewise for counters.

What is taken from where is the same for each block that has the same tables, as most have: such a
shape is made once and kept.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Int64, Kind, SignalSchema, SignalTable, TableSchema, UInt64
from agent.signals.health_counters import Counters, is_counter
from agent.signals.health_messages import State
from agent.signals.health_ranges import Check, range_of

_MAX_PLANS: Final = 8192
_MAX_SHAPES: Final = 64


class Samples(NamedTuple):
    """k samples, with the message of each."""

    time: Int64
    number: NDArray[np.intp]

    @classmethod
    def of(cls, parts: Sequence[tuple[Int64, int]]) -> "Samples":
        """From times, and the number of a message for each; at least one."""
        return cls(
            np.concatenate([time for time, _ in parts]),
            np.repeat([number for _, number in parts], [len(time) for time, _ in parts]),
        )


class _TablePlan(NamedTuple):
    """What is looked at in the tables of one schema."""

    schema: TableSchema
    number: int
    """Of the message; -1 where it is in no file, as a list: there is nothing to look at."""
    checks: tuple[tuple[Kind, int, int], ...]
    """Kind, row, and the number of the check."""
    counters: tuple[tuple[Kind, int, int], ...]
    """Kind, row, and the place of the counter."""


class _Columns:
    """Columns of one kind that have a range; `found` are their tables, rows and checks."""

    def __init__(
        self, kind: Kind, found: Sequence[tuple[int, int, int]], checks: Sequence[Check]
    ) -> None:
        whole = kind in ("int64", "uint64")
        limits = np.iinfo(kind) if whole else np.finfo("float64")
        ranges = [checks[check].range for _, _, check in found]
        exact = kind if whole else "float64"
        low = [limits.min if r.low is None else r.low for r in ranges]
        high = [limits.max if r.high is None else r.high for r in ranges]
        self._low, self._high = np.array(low, exact), np.array(high, exact)
        # NaN is out of no range; the others are faster.
        self._least: np.ufunc = np.minimum if whole else np.fmin
        self._most: np.ufunc = np.maximum if whole else np.fmax
        self._kind = kind
        self._tables = np.array([table for table, _, _ in found], np.intp)
        self._rows = [(table, row) for table, row, _ in found]
        self._owners = [(table, check) for table, _, check in found]

    def beyond(self, tables: Sequence[SignalTable], lengths: Int64) -> list[tuple[int, int]]:
        """(table, check) of those that reach beyond their range."""
        kind = self._kind
        flat = np.concatenate([tables[table].values[kind][row] for table, row in self._rows])
        mine = lengths[self._tables]
        begins = np.cumsum(mine) - mine
        low = self._least.reduceat(flat, begins) < self._low
        high = self._most.reduceat(flat, begins) > self._high
        return [self._owners[i] for i in np.flatnonzero(low | high).tolist()]


class _Shape:
    """What is looked at in a sequence of tables."""

    def __init__(
        self, plans: Sequence[_TablePlan], checks: Sequence[Check], in_parts: frozenset[int]
    ) -> None:
        self.numbers = [plan.number for plan in plans]
        self.whole = [table for table, plan in enumerate(plans) if plan.number in in_parts]
        by_kind: dict[Kind, list[tuple[int, int, int]]] = {}
        for table, plan in enumerate(plans):
            for kind, row, check in plan.checks:
                by_kind.setdefault(kind, []).append((table, row, check))
        self.columns = [_Columns(kind, found, checks) for kind, found in by_kind.items()]
        counters: dict[int, list[tuple[int, Kind, int]]] = {}
        for table, plan in enumerate(plans):
            for kind, row, place in plan.counters:
                counters.setdefault(place, []).append((table, kind, row))
        self.counters = [where[0] for where in counters.values()]
        """Table, kind and row of each counter; of those that are in several tables, the first."""
        self.counting = np.array([table for table, _, _ in self.counters], np.intp)
        self.signed = [i for i, (_, kind, _) in enumerate(self.counters) if kind == "int64"]
        self.places = np.array(list(counters), np.intp)
        # Branches and lengths of one message: their rows interleave.
        self.several = {i: w for i, w in enumerate(counters.values()) if len(w) > 1}


class Values:
    """The samples of one bus.

    Args:
        numbers: message -> its number.
        in_parts: numbers of messages that are seen by their samples alone.
        asked: (message, signal) of the counters that were asked for; None to go by the names.
    """

    def __init__(
        self,
        numbers: dict[str, int],
        in_parts: frozenset[int],
        asked: frozenset[tuple[str, str]] | None,
    ) -> None:
        self._numbers = numbers
        self._in_parts = in_parts
        self._asked = asked
        self._plans: dict[int, _TablePlan] = {}
        self._shapes: dict[tuple[int, ...], _Shape] = {}
        self._checks: list[Check] = []
        self._of_name: dict[tuple[str, str], int] = {}
        self.out_of_range: dict[int, int] = {}
        """Samples by the number of their check."""
        self._counters = Counters(armed=asked is not None)

    def name(self, check: int) -> str:
        return self._checks[check].name

    @property
    def stuck(self) -> list[str]:
        """The counters whose last samples stand still."""
        return self._counters.stuck

    def take(self, tables: Sequence[SignalTable]) -> dict[State, Samples]:
        """What is wrong in the next tables. Under OK: samples of messages that come in parts."""
        sizes = [len(table.time) for table in tables]
        if 0 in sizes:
            tables = [table for table, size in zip(tables, sizes, strict=True) if size]
            sizes = [size for size in sizes if size]
        if not sizes:
            return {}
        lengths = np.array(sizes)
        shape = self._shape(tables)
        whole = [(tables[i].time, shape.numbers[i]) for i in shape.whole]
        wrong = self._out_of_range(tables, lengths, shape) if shape.columns else []
        standing = self._standing_still(tables, lengths, shape) if shape.counters else []
        return {
            state: Samples.of(found)
            for state, found in (
                (State.OK, whole),
                (State.OUT_OF_RANGE, wrong),
                (State.STUCK_COUNTER, standing),
            )
            if found
        }

    def _out_of_range(
        self, tables: Sequence[SignalTable], lengths: Int64, shape: _Shape
    ) -> list[tuple[Int64, int]]:
        suspects = [one for columns in shape.columns for one in columns.beyond(tables, lengths)]
        found = []
        for place, number in suspects:
            check, table = self._checks[number], tables[place]
            rows = check.wrong(table.raw[check.schema.name])
            if len(rows):
                self.out_of_range[number] = self.out_of_range.get(number, 0) + len(rows)
                found.append((table.time[rows], shape.numbers[place]))
        return found

    def _standing_still(
        self, tables: Sequence[SignalTable], lengths: Int64, shape: _Shape
    ) -> list[tuple[Int64, int]]:
        columns: list[UInt64] = [tables[t].values[kind][row] for t, kind, row in shape.counters]
        for i in shape.signed:
            columns[i] = columns[i].view(np.uint64)
        lengths = lengths[shape.counting]
        times: dict[int, Int64] = {}
        for i, where in shape.several.items():
            time = np.concatenate([tables[table].time for table, _, _ in where])
            order = np.argsort(time, kind="stable")
            parts: list[NDArray[Any]] = [tables[t].values[kind][row] for t, kind, row in where]
            columns[i] = np.concatenate(parts).view(np.uint64)[order]
            times[i] = time[order]
            lengths[i] = len(time)
        found = []
        for i, rows in self._counters.take(shape.places, columns, lengths):
            table = shape.counters[i][0]
            time = times[i] if i in times else tables[table].time
            found.append((time[rows], shape.numbers[table]))
        return found

    # -- what is looked at -------------------------------------------------------------------

    def _shape(self, tables: Sequence[SignalTable]) -> _Shape:
        key = tuple([id(table.schema) for table in tables])
        shape = self._shapes.get(key)
        if shape is None:
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            if len(self._plans) >= _MAX_PLANS:
                self._plans.clear()
                self._shapes.clear()
            plans = [self._plans.get(id(t.schema)) or self._plan(t.schema) for t in tables]
            shape = self._shapes[key] = _Shape(plans, self._checks, self._in_parts)
        return shape

    def _plan(self, schema: TableSchema) -> _TablePlan:
        number = self._numbers.get(schema.message, -1)
        checks = []
        counters = []
        for signal in schema.signals if number >= 0 else ():
            kind, row = schema.place[signal.name]
            check = self._check(schema.message, signal)
            if check is not None:
                checks.append((kind, row, check))
            if self._is_counter(schema.message, signal):
                key = (schema.message, schema.source, signal.name)
                place = self._counters.place(key, signal)
                if place is not None:
                    counters.append((kind, row, place))
        plan = _TablePlan(schema, number, tuple(checks), tuple(counters))
        self._plans[id(schema)] = plan  # which keeps the schema, so its id stays its own
        return plan

    def _check(self, message: str, signal: SignalSchema) -> int | None:
        key = (message, signal.name)
        number = self._of_name.get(key)
        if number is None:
            limits = range_of(signal)
            if limits is None:
                return None
            number = self._of_name[key] = len(self._checks)
            self._checks.append(Check.of(message, signal, limits))
        return number

    def _is_counter(self, message: str, signal: SignalSchema) -> bool:
        if self._asked is None:
            return is_counter(signal)
        return signal.kind in ("int64", "uint64") and (message, signal.name) in self._asked

    def adopt(self, old: "Values") -> None:
        """Go on with the counters and counts of the same messages."""
        self._plans, self._shapes = {}, {}
        self._counters = old._counters  # noqa: SLF001 - one of our own
        self._checks = old._checks  # noqa: SLF001 - as above
        self._of_name = old._of_name  # noqa: SLF001 - as above
        self.out_of_range = old.out_of_range
