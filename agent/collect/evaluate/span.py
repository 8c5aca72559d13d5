"""The samples of a span of time: which rows of which batches, and columns of single signals."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, Int64, SignalSchema
from agent.collect.evaluate.batch import Batch, Form, Rows
from agent.collect.expression.tree import Signal
from agent.signals.database import ANY_BUS, SignalPath

NEVER = int(np.iinfo(np.int64).min)
"""Before all times."""


class Taps:
    """Which rows of which forms hold the samples of which slots."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._count: list[int] = []
        self._rows: list[int] = []
        self._slots: list[int] = []
        self._arrays: tuple[Int64, Int64, Int64, Int64] | None = None

    def add(self, form: int, rows: Sequence[int], slots: Sequence[int]) -> None:
        while len(self._first) <= form:
            self._first.append(len(self._rows))
            self._count.append(0)
        self._first[form], self._count[form] = len(self._rows), len(rows)
        self._rows += rows
        self._slots += slots
        self._arrays = None

    def __bool__(self) -> bool:
        return bool(self._rows)

    def select(self, forms: NDArray[np.intp]) -> tuple[Int64, Int64, Int64]:
        """Of tables of these forms: places in `forms`, rows and slots, int64[k] each."""
        if self._arrays is None:
            lists = (self._first, self._count, self._rows, self._slots)
            first, count, rows, slots = (np.array(part, np.int64) for part in lists)
            self._arrays = first, count, rows, slots
        first, count, rows, slots = self._arrays
        if not len(rows):
            return rows, rows, rows
        known = forms < len(first)
        at = np.where(known, forms, 0)
        counts = np.where(known, count[at], 0)
        tables = np.repeat(np.arange(len(forms)), counts)
        skip = first[at] - (np.cumsum(counts) - counts)
        index = np.arange(len(tables)) + skip[tables]
        return tables, rows[index], slots[index]


class Wiring:
    """The taps of a group's slots, for each way in which values are stored."""

    def __init__(self, signals: Sequence[Signal], slot: dict[SignalPath, int]) -> None:
        self._signals = signals
        self._slot = slot
        self.whole, self.floats, self.texts = Taps(), Taps(), Taps()

    def connect(self, form: Form) -> tuple[bool, bool]:
        """Whether a table of this form has signals of the group, and some by any bus.

        A signal of the same name that is stored or scaled in another way, as another database for
        another bus may have it, is another signal.
        """
        schema = form.schema
        found: dict[str, tuple[list[int], list[int]]] = {k: ([], []) for k in ("i", "f", "b")}
        by_any_bus = False
        for signal in schema.signals:
            for bus in dict.fromkeys((schema.bus, ANY_BUS)):
                slot = self._slot.get(SignalPath(bus, schema.message, signal.name))
                if slot is None or not _alike(signal, self._signals[slot].schema):
                    continue
                by_any_bus |= bus == ANY_BUS
                kind, row = schema.place[signal.name]
                way = "b" if kind == "bytes" else "i" if kind.endswith("int64") else "f"
                row += {"uint64": form.signed, "float64": form.single}.get(kind, 0)
                found[way][0].append(row)
                found[way][1].append(slot)
        for taps, (rows, slots) in zip(
            (self.whole, self.floats, self.texts), found.values(), strict=True
        ):
            taps.add(form.number, rows, slots)
        return any(slots for _, slots in found.values()), by_any_bus


def _alike(one: SignalSchema, other: SignalSchema) -> bool:
    return (one.kind, one.scale, one.offset, one.codes) == (
        other.kind,
        other.scale,
        other.offset,
        other.codes,
    )


class Base:
    """What is known of every slot at the last decided moment."""

    def __init__(self, slots: int, began: int) -> None:
        self.seen = np.zeros(slots, bool)
        self.time: Int64 = np.full(slots, began, np.int64)
        """Of the last sample; where there was none, from when on one was waited for."""
        self.raw: Int64 = np.zeros(slots, np.int64)
        """The last raw value; of uint64 and float64 the bits."""
        self.previous: Float64 = np.full(slots, np.nan)
        """The physical value before the last; kept only where it is asked for."""
        self.valid_time: Int64 = np.full(slots, NEVER, np.int64)
        """Of the last valid sample; kept only for slots with windows."""
        self.changed = np.zeros(slots, bool)
        """Whether a sample of just that moment differed; kept only where it is asked for."""
        self.texts: dict[int, bytes] = {}


@dataclasses.dataclass(slots=True, eq=False)
class Part:
    """A batch of which a group has not decided all rows."""

    batch: Batch
    done: Int64
    """int64[tables]: how many rows are decided."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Touched:
    """Stretches of rows that belong to a span: one for each table and slot."""

    rows: Rows
    table: Int64
    slot: Int64
    row: Int64
    begins: Int64
    ends: Int64
    entire: NDArray[np.bool_]
    """Whether a stretch is its whole row."""

    @property
    def last(self) -> Int64:
        """The last value of each, floats as their bits."""
        values: Int64 = self.rows.flat[self.ends - 1].view(np.int64)
        return values


class Cut:
    """The rows of a batch that belong to a span."""

    def __init__(self, part: Part, wiring: Wiring, until: int) -> None:
        self.batch = batch = part.batch
        self.begins = part.done
        self.ends = np.maximum(batch.until(until), part.done)
        self._wiring = wiring

    @functools.cached_property
    def tables(self) -> NDArray[np.intp]:
        """The tables with rows in the span."""
        return np.flatnonzero(self.ends > self.begins)

    @functools.cached_property
    def whole(self) -> Touched:
        return self._touched(self._wiring.whole, self.batch.whole)

    @functools.cached_property
    def floats(self) -> Touched:
        return self._touched(self._wiring.floats, self.batch.floats)

    @functools.cached_property
    def texts(self) -> tuple[Int64, Int64, Int64]:
        """Tables, places of payloads and slots of signals of bytes."""
        at, row, slot = self._wiring.texts.select(self.batch.kinds[self.tables])
        return self.tables[at], row, slot

    def _touched(self, taps: Taps, rows: Rows) -> Touched:
        batch = self.batch
        at, row, slot = taps.select(batch.kinds[self.tables])
        table = self.tables[at]
        row = row + rows.first[table]
        begin, a, b = rows.begins[row], self.begins[table], self.ends[table]
        entire = (a == 0) & (b == batch.sizes[table])
        return Touched(rows, table, slot, row, begin + a, begin + b, entire)

    def whole_extremes(self) -> tuple[Int64, Int64]:
        """The least and greatest of each stretch of `whole`."""
        touched = self.whole
        if touched.entire.all():
            least, greatest = self.batch.whole_extremes
            return least[touched.row], greatest[touched.row]
        begins, ends = touched.begins, touched.ends
        return touched.rows.least(begins, ends), touched.rows.greatest(begins, ends)

    def float_extremes(self) -> tuple[Float64, Float64, NDArray[np.bool_]]:
        """The same of `floats`, and whether some are NaN or infinite."""
        touched = self.floats
        if touched.entire.all():
            least, greatest, odd = self.batch.float_extremes
            return least[touched.row], greatest[touched.row], odd[touched.row]
        rows, begins, ends = touched.rows, touched.begins, touched.ends
        return rows.least(begins, ends), rows.greatest(begins, ends), rows.odd(begins, ends)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Stamps:
    """The times of a column: the span's begin, then the time of each sample."""

    all: Int64
    times: Int64
    """Equal ones once."""
    keep: NDArray[np.intp] | None
    """The last of each time; None where all differ."""

    @classmethod
    def of(cls, times: Int64) -> "Stamps":
        last = np.empty(len(times), bool)
        last[-1] = True
        np.not_equal(times[1:], times[:-1], out=last[:-1])
        if last.all():
            return cls(times, times, None)
        return cls(times, times[last], np.flatnonzero(last))


class Column:
    """The samples of one slot in a span, behind the value that it had before."""

    def __init__(self, schema: SignalSchema, stamps: Stamps, raw: NDArray[Any], seen: bool) -> None:
        self.schema = schema
        self.stamps = stamps
        self.raw = raw
        self.seen = seen
        """Whether there was a sample before; the first value stands for nothing without."""

    @functools.cached_property
    def values(self) -> Float64:
        """Physical values, NaN where they are unknown. Bytes: 0."""
        if self.schema.kind == "bytes":
            values = np.zeros(len(self.raw))
        else:
            values = self.schema.physical(self.raw)
            if self.schema.codes:
                values[self.schema.validity(self.raw) != 0] = np.nan
        if not self.seen:
            values[0] = np.nan
        return values

    def last_of_each(self, values: NDArray[Any]) -> NDArray[Any]:
        """One value for each of `stamps.times`."""
        return values if self.stamps.keep is None else values[self.stamps.keep]

    def differs(self) -> NDArray[np.bool_]:
        """bool[n]: whether each sample's raw value is another than the one before."""
        raw = self.raw.view(np.int64) if self.raw.dtype.kind == "f" else self.raw
        differs: NDArray[np.bool_] = raw[1:] != raw[:-1]
        if not self.seen and len(differs):
            differs[0] = False
        return differs


class Span:
    """What a group decides at once: all moments after `begin`, up to and with `end`."""

    def __init__(
        self, begin: int, end: int, cuts: Sequence[Cut], base: Base, signals: Sequence[Signal]
    ) -> None:
        self.begin = begin
        self.end = end
        self.cuts = [cut for cut in cuts if len(cut.tables)]
        self.origin = Stamps.of(np.array([begin], np.int64))
        self._base = base
        self._signals = signals
        self._columns: dict[int, Column] = {}
        self._stamps: dict[tuple[int, int], Stamps] = {}

    def time_at(self, cut: Cut, table: Int64) -> Int64:
        """The time of the last row of tables; what came too late counts as after the begin."""
        batch = cut.batch
        times: Int64 = batch.time[batch.begins[table] + cut.ends[table] - 1]
        return np.maximum(times, self.begin + 1)

    @functools.cached_property
    def _found(self) -> tuple[list[int], Int64]:
        """Where the stretches of each slot begin, and int64[stretches, 4]: cut, table, begin, end.

        They are in the order of their slots.
        """
        parts = [(number, t) for number, c in enumerate(self.cuts) for t in (c.whole, c.floats)]
        if not parts:
            return [0] * (len(self._signals) + 1), np.zeros((0, 4), np.int64)
        slots = np.concatenate([t.slot for _, t in parts])
        cuts = np.repeat([number for number, _ in parts], [len(t.slot) for _, t in parts])
        order = np.argsort(slots, kind="stable")
        columns = (
            cuts,
            np.concatenate([t.table for _, t in parts]),
            np.concatenate([t.begins for _, t in parts]),
            np.concatenate([t.ends for _, t in parts]),
        )
        edges = np.searchsorted(slots[order], np.arange(len(self._signals) + 1)).tolist()
        return edges, np.stack(columns, axis=1)[order]

    @functools.cached_property
    def _ranks(self) -> list[Int64]:
        return [cut.batch.ranks for cut in self.cuts]

    def column(self, slot: int) -> Column:
        column = self._columns.get(slot)
        if column is None:
            column = self._columns[slot] = self._column(slot)
        return column

    def _column(self, slot: int) -> Column:
        schema = self._signals[slot].schema
        base = self._base
        seen = bool(base.seen[slot])
        if schema.kind == "bytes":
            return self._column_of_texts(slot, schema, seen)
        edges, rows = self._found
        found = rows[edges[slot] : edges[slot + 1]].tolist()
        is_float = schema.kind.startswith("float")
        held = base.raw.view(np.float64)[slot] if is_float else base.raw[slot]
        pieces = [self._flat(cut, is_float)[a:b] for cut, _, a, b in found]
        stamps = [self._stamps_of(cut, table) for cut, table, _, _ in found]
        dtype = np.float64 if is_float else np.int64
        raw, joined = self._join(np.array([held], dtype), pieces, stamps, found)
        if schema.kind == "uint64":
            raw = raw.view(np.uint64)
        return Column(schema, joined, raw, seen)

    def _flat(self, cut: int, is_float: bool) -> NDArray[Any]:
        batch = self.cuts[cut].batch
        return batch.floats.flat if is_float else batch.whole.flat

    def _column_of_texts(self, slot: int, schema: SignalSchema, seen: bool) -> Column:
        found: list[list[int]] = []
        pieces: list[NDArray[Any]] = []
        for number, cut in enumerate(self.cuts):
            places, rows, slots = cut.texts
            for table, row in zip(
                places[slots == slot].tolist(), rows[slots == slot].tolist(), strict=True
            ):
                a, b = int(cut.begins[table]), int(cut.ends[table])
                payload = cut.batch.texts[table][row]
                found.append([number, table, a, b])
                pieces.append(payload.view(f"S{payload.shape[1]}")[a:b, 0])
        stamps = [self._stamps_of(cut, table) for cut, table, _, _ in found]
        held = np.array([self._base.texts.get(slot, b"")], np.bytes_)
        raw, joined = self._join(held, pieces, stamps, found)
        return Column(schema, joined, raw, seen)

    def _join(
        self,
        held: NDArray[Any],
        pieces: list[NDArray[Any]],
        stamps: list[Stamps],
        found: Sequence[Sequence[int]],
    ) -> tuple[NDArray[Any], Stamps]:
        if not pieces:
            return held, self.origin
        if len(pieces) == 1:
            return np.concatenate((held, pieces[0])), stamps[0]
        ranks = [int(self._ranks[cut][table]) for cut, table, _, _ in found]
        order = sorted(range(len(pieces)), key=lambda i: ranks[i])
        raw = np.concatenate([pieces[i] for i in order])
        times = np.concatenate([stamps[i].all[1:] for i in order])
        by_time = np.argsort(times, kind="stable")
        all_times = np.concatenate((self.origin.all, times[by_time]))
        return np.concatenate((held, raw[by_time])), Stamps.of(all_times)

    def _stamps_of(self, number: int, table: int) -> Stamps:
        key = (number, table)
        stamps = self._stamps.get(key)
        if stamps is None:
            cut = self.cuts[number]
            begin = int(cut.batch.begins[table])
            a, b = begin + int(cut.begins[table]), begin + int(cut.ends[table])
            times = np.empty(b - a + 1, np.int64)
            times[0] = self.begin
            times[1:] = cut.batch.time[a:b]
            if times[1] <= self.begin:
                np.maximum(times[1:], self.begin + 1, out=times[1:])
            stamps = self._stamps[key] = Stamps.of(times)
        return stamps
