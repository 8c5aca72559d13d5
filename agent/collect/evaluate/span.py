"""The samples of a span of time: which rows of which batches."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Int64
from agent.collect.evaluate.batch import Batch, Rows
from agent.collect.evaluate.slots import Base, Stretches, Wires


@dataclasses.dataclass(slots=True, eq=False)
class Part:
    """A batch of which a group has not decided all rows."""

    batch: Batch
    wires: Wires
    done: Int64
    """int64[tables]: how many rows are decided."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Touched:
    """Stretches of values that belong to a span: one for each table and slot."""

    rows: Rows
    table: Int64
    slot: Int64
    begins: Int64
    ends: Int64
    """In `rows.flat`."""

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
