"""The samples of a span of time: which rows of which batches."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, Int64
from agent.collect.evaluate.batch import Batch, Rows
from agent.collect.evaluate.slots import Base, Taps, Wiring

_NO_PLACES = (np.zeros(0, np.int64),) * 5


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

    @property
    def before_last(self) -> Int64:
        """The value before the last of each with more than one."""
        values: Int64 = self.rows.flat[np.maximum(self.ends - 2, 0)].view(np.int64)
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
        if not taps:
            return Touched(rows, *_NO_PLACES, np.zeros(0, bool))
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


class Span:
    """What a group decides at once: all moments after `begin`, up to and with `end`."""

    def __init__(self, begin: int, end: int, cuts: Sequence[Cut], base: Base) -> None:
        self.begin = begin
        self.end = end
        self.base = base
        """As of the begin."""
        self.cuts = [cut for cut in cuts if len(cut.tables)]

    @functools.cached_property
    def parts(self) -> list[tuple[int, Touched]]:
        """The stretches of all cuts that have some, with the number of their cut."""
        parts = [(i, part) for i, cut in enumerate(self.cuts) for part in (cut.whole, cut.floats)]
        return [(number, part) for number, part in parts if len(part.slot)]

    @functools.cached_property
    def stretches(self) -> Int64:
        """int64[slots]: how many stretches each slot has."""
        slots = [part.slot for _, part in self.parts] or [np.zeros(0, np.int64)]
        counts: Int64 = np.bincount(np.concatenate(slots), minlength=len(self.base.time))
        return counts

    def time_at(self, cut: Cut, table: Int64) -> Int64:
        """The time of the last row of tables; what came too late counts as after the begin."""
        batch = cut.batch
        times: Int64 = batch.time[batch.begins[table] + cut.ends[table] - 1]
        return np.maximum(times, self.begin + 1)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Last:
    """The last sample of each slot in a span, but of bytes."""

    slot: Int64
    time: Int64
    raw: Int64
    """Of floats, the bits."""
    raw_before: Int64
    """The one before in the same stretch, where that has so many."""
    count: Int64
    """How many samples the stretch has."""
    single: bool
    """Whether each slot has one stretch; else the last of a slot in these arrays is its last."""

    @classmethod
    def of(cls, span: Span) -> "Last":
        parts = [(span.cuts[number], part) for number, part in span.parts]
        if not parts:
            none = np.zeros(0, np.int64)
            return cls(none, none, none, none, none, single=True)
        slot = np.concatenate([part.slot for _, part in parts])
        time = np.concatenate([span.time_at(cut, part.table) for cut, part in parts])
        raw = np.concatenate([part.last for _, part in parts])
        before = np.concatenate([part.before_last for _, part in parts])
        count = np.concatenate([part.ends - part.begins for _, part in parts])
        single = bool((span.stretches <= 1).all())
        if not single:
            ranks = np.concatenate([cut.batch.ranks[part.table] for cut, part in parts])
            order = np.lexsort((ranks, time))
            slot, time, raw = slot[order], time[order], raw[order]
            before, count = before[order], count[order]
        return cls(slot, time, raw, before, count, single)
