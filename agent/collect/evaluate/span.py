"""The samples of a span of time: which rows of which batches."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Int64
from agent.collect.evaluate.batch import Batch, Rows
from agent.collect.evaluate.slots import Base, Stretches, Wires
from agent.collect.evaluate.windows import Noted


class Piece(NamedTuple):
    """Some samples of a slot."""

    before: int | None
    """The raw value before them, unless that is in what is held."""
    time: Int64
    raw: Int64


class Part:
    """A batch of which not all rows are in what a group holds."""

    def __init__(self, batch: Batch, wires: Wires, *, smooth: bool) -> None:
        self.batch = batch
        self.wires = wires
        self.smooth = smooth
        """Whether no row is late, or earlier than those of other batches of its slots."""
        self.done: Int64 = np.where(wires.connected, 0, batch.sizes)
        """int64[tables]: how many rows are in what is held."""
        self._looked_at = -1
        self._loud = np.zeros(0, np.intp)

    @functools.cached_property
    def whole(self) -> "Touched":
        """Of whole numbers, all rows."""
        return self._touched(self.wires.whole, self.wires.whole_rows, self.batch.whole)

    @functools.cached_property
    def floats(self) -> "Touched":
        return self._touched(self.wires.floats, self.wires.float_rows, self.batch.floats)

    def _touched(self, stretches: Stretches, at: Int64, rows: Rows) -> "Touched":
        begins = rows.places.take(at)
        ends = begins + rows.lengths.take(at)
        return Touched(rows, stretches.table, stretches.slot, begins, ends)

    def stretch(self, slot: int, times: tuple[int, int]) -> Piece | None:
        """The samples of a slot of whole numbers after a time, up to and with another.

        None: there are none in the batch.
        """
        place = self.wires.place.get(slot)
        if place is None:
            return None
        table, begin = int(self.wires.whole.table[place]), int(self.whole.begins[place])
        done = int(self.done[table])
        since, until = (int(self.batch.until(time)[table]) for time in times)
        flat = self.batch.whole.flat
        before = int(flat[begin + since - 1]) if since > done else None
        a, b = max(since, done), max(until, done)
        first = int(self.batch.begins[table])
        time, raw = self.batch.time[first + a : first + b], flat[begin + a : begin + b]
        return Piece(before, time, raw)

    def samples(self, touched: "Touched") -> Noted:
        """Copies of those that are not in what is held yet, of stretches with all rows."""
        touched = touched.between(self.done, self.batch.sizes)
        table, begins = touched.table, touched.begins
        lengths = touched.ends - begins
        edges = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=edges[1:])
        index = np.arange(edges[-1])
        index += (begins - edges[:-1]).repeat(lengths)
        raw = touched.rows.flat.take(index)
        first = self.batch.begins.take(table) + self.done.take(table)
        index += (first - begins).repeat(lengths)
        return Noted(touched.slot, edges, self.batch.time.take(index), raw)

    def loud(self, limits: tuple[Int64, Int64], version: int) -> NDArray[np.intp]:
        """Which stretches of `whole` have values beyond the limits of their slots."""
        if self._looked_at != version:
            slot = self.wires.whole.slot
            least, greatest = (of.take(self.wires.whole_rows) for of in self.batch.whole.extremes)
            beyond = (least < limits[0].take(slot)) | (greatest > limits[1].take(slot))
            self._looked_at, self._loud = version, beyond.nonzero()[0]
        return self._loud


_NO_TEXTS = Stretches(*(np.zeros(0, np.int64) for _ in Stretches._fields))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Touched:
    """Stretches of values that belong to a span: one for each table and slot."""

    rows: Rows
    table: Int64
    slot: Int64
    begins: Int64
    ends: Int64
    """In `rows.flat`."""

    def of_slots(self, slots: NDArray[np.bool_]) -> "Touched":
        """Those of some slots, bool[slots]."""
        return self._take(slots.take(self.slot).nonzero()[0]) if len(self.slot) else self

    def between(self, first: Int64, end: Int64) -> "Touched":
        """Of all rows of tables, those from a first one on, int64[tables]."""
        if not len(self.slot):
            return self
        a, b = first.take(self.table), end.take(self.table)
        mine = (b > a).nonzero()[0]
        found = self._take(mine)
        begins = found.begins
        return dataclasses.replace(found, begins=begins + a.take(mine), ends=begins + b.take(mine))

    def _take(self, mine: NDArray[np.intp]) -> "Touched":
        of = (self.table, self.slot, self.begins, self.ends)
        return Touched(self.rows, *(array.take(mine) for array in of))

    @property
    def last(self) -> Int64:
        """The last value of each, floats as their bits."""
        values: Int64 = self.rows.flat.take(self.ends - 1).view(np.int64)
        return values

    @property
    def before_last(self) -> Int64:
        """The value before the last of each with more than one."""
        values: Int64 = self.rows.flat.take(np.maximum(self.ends - 2, 0)).view(np.int64)
        return values

    def extremes(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The least and greatest of each; floats: NaN is left out where there are others."""
        return self.rows.least(self.begins, self.ends), self.rows.greatest(self.begins, self.ends)

    def odd(self) -> NDArray[np.bool_]:
        """Of floats, whether some are NaN or infinite."""
        return self.rows.odd(self.begins, self.ends)


class Cut:
    """The rows of a batch that belong to a span."""

    def __init__(self, part: Part, until: int) -> None:
        self.batch = batch = part.batch
        self.begins = part.done
        self.ends: Int64 = np.maximum(batch.until(until), part.done)
        self._wires = part.wires
        self._here = self.ends > self.begins
        self.some = bool(self._here.any())
        self.distinct = part.wires.distinct
        """Whether no slot of whole numbers has several stretches."""

    @functools.cached_property
    def whole(self) -> Touched:
        return self._touched(self._wires.whole, self.batch.whole)

    @functools.cached_property
    def floats(self) -> Touched:
        return self._touched(self._wires.floats, self.batch.floats)

    @functools.cached_property
    def texts(self) -> Stretches:
        """Of signals of bytes; rows are places of payloads."""
        return self._wires.texts.of(self._here)

    def _touched(self, stretches: Stretches, rows: Rows) -> Touched:
        table, place, row, slot = stretches.of(self._here)
        at = rows.begins.take(place) + row * self.batch.sizes.take(table)
        return Touched(rows, table, slot, at + self.begins.take(table), at + self.ends.take(table))


class Few(Cut):
    """The samples of few slots."""

    def __init__(self, part: Part, slots: NDArray[np.bool_]) -> None:
        """All of them; `slots`, bool[slots], are those that are looked at."""
        self.batch, self._done = part.batch, part.done
        self._whole, self._floats = part.whole.of_slots(slots), part.floats.of_slots(slots)
        self.has_slots = len(self._whole.slot) > 0 or len(self._floats.slot) > 0
        self.distinct = part.wires.distinct
        self.texts = _NO_TEXTS

    def hold(self, base: Base, time: int) -> None:
        """Make the last ones until a time what is held, but for their times."""
        counts = self.batch.until(time)
        for touched in (self._whole, self._floats):
            if len(touched.slot):
                count = counts.take(touched.table)
                some = (count > self._done.take(touched.table)).nonzero()[0]
                slot = touched.slot.take(some)
                last = touched.rows.flat.take((touched.begins + count - 1).take(some))
                base.raw[slot], base.seen[slot] = last.view(np.int64), True

    def cut(self, since: int, until: int) -> None:
        """Keep those of a span; what is held may have more."""
        self.begins = np.maximum(self.batch.until(since), self._done)
        self.ends = np.maximum(self.batch.until(until), self.begins)
        self.whole = self._whole.between(self.begins, self.ends)
        self.floats = self._floats.between(self.begins, self.ends)
        self.some = len(self.whole.slot) > 0 or len(self.floats.slot) > 0


class Span:
    """What a group decides at once: all moments after `begin`, up to and with `end`."""

    def __init__(self, begin: int, end: int, cuts: Sequence[Cut], base: Base) -> None:
        self.begin = begin
        self.end = end
        self.base = base
        """As of the begin."""
        self.cuts = [cut for cut in cuts if cut.some]

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

    @functools.cached_property
    def places(self) -> Int64:
        """int64[slots]: a stretch of each slot that has some, by its place in all parts."""
        slots = [part.slot for _, part in self.parts] or [np.zeros(0, np.int64)]
        places: Int64 = np.full(len(self.base.time), -1, np.int64)
        together = np.concatenate(slots)
        places[together] = np.arange(len(together))
        return places

    def time_at(self, cut: Cut, table: Int64) -> Int64:
        """The time of the last row of tables; what came too late counts as after the begin."""
        batch = cut.batch
        last = batch.time.take(batch.begins + np.maximum(cut.ends, 1) - 1)
        times: Int64 = np.maximum(last, self.begin + 1).take(table)
        return times


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
    def of(cls, span: Span, *, previous: bool) -> "Last":
        """Of the samples of a span; without `previous`, the last two arrays stand for nothing."""
        parts = [(span.cuts[number], part) for number, part in span.parts]
        if not parts:
            none = np.zeros(0, np.int64)
            return cls(none, none, none, none, none, single=True)
        slot = np.concatenate([part.slot for _, part in parts])
        time = np.concatenate([span.time_at(cut, part.table) for cut, part in parts])
        raw = np.concatenate([part.last for _, part in parts])
        before = count = raw
        if previous:
            before = np.concatenate([part.before_last for _, part in parts])
            count = np.concatenate([part.ends - part.begins for _, part in parts])
        several = (span.stretches.take(slot) > 1).nonzero()[0]
        if len(several):
            order = several[np.lexsort((_ranks(parts, several), time[several]))]
            for array in (slot, time, raw, *((before, count) if previous else ())):
                array[several] = array[order]
        return cls(slot, time, raw, before, count, not len(several))


def _ranks(parts: Sequence[tuple[Cut, Touched]], places: NDArray[np.intp]) -> Int64:
    """Of stretches by their places in all parts, one behind the other."""
    ranks, first = [], 0
    for cut, part in parts:
        mine = places[(places >= first) & (places < first + len(part.table))] - first
        ranks.append(cut.batch.ranks[part.table[mine]])
        first += len(part.table)
    return np.concatenate(ranks)
