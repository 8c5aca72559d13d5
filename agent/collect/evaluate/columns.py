"""The samples of single signals in a span."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, Int64, SignalSchema
from agent.collect.evaluate.program import Program
from agent.collect.evaluate.span import Span, Touched
from agent.collect.evaluate.windows import Noted, as_kind, values_of


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
        return cls(times, times[last], last.nonzero()[0])


class Column:
    """The samples of one slot in a span, behind the value that it had before."""

    def __init__(
        self,
        schema: SignalSchema,
        stamps: Stamps,
        raw: NDArray[Any],
        seen: bool,
        physical: Float64 | None = None,
    ) -> None:
        self.schema = schema
        self.stamps = stamps
        self.raw = raw
        self.seen = seen
        """Whether there was a sample before; the first value stands for nothing without."""
        self._physical = physical

    @functools.cached_property
    def values(self) -> Float64:
        """Physical values, NaN where they are unknown. Bytes: 0."""
        if self.schema.kind == "bytes":
            values = np.zeros(len(self.raw))
        else:
            values = values_of(self.schema, self.raw, self._physical)
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


class Bundle(NamedTuple):
    """The samples of many slots, each behind the value that its slot had before."""

    places: NDArray[np.intp]
    """Whose they are, by their places among those asked for."""
    edges: Int64
    """int64[slots + 1]: where those of each begin."""
    times: Int64
    values: Float64
    """Physical, NaN where they are unknown."""


class Columns:
    """The columns of a span, each made once."""

    def __init__(self, program: Program, span: Span) -> None:
        self._program = program
        self._span = span
        begin = np.array([span.begin], np.int64)
        self.origin = Stamps(begin, begin, None)
        """No samples."""
        self._columns: dict[int, Column] = {}
        self._stamps: dict[tuple[int, int], Stamps] = {}

    def of(self, slot: int) -> Column:
        column = self._columns.get(slot)
        if column is None:
            column = self._columns[slot] = self._column(slot)
        return column

    def previous(self, slot: int) -> float:
        """The physical value before the one that is held at the begin; NaN is unknown."""
        base = self._span.base
        if not base.preceded[slot]:
            return math.nan
        schema = self._program.signals[slot].schema
        return float(values_of(schema, as_kind(base.previous[slot : slot + 1], schema))[0])

    # Many at once

    def prepare(self, slots: Iterable[int]) -> None:
        """Make the columns of many slots at once, where the samples of each lie in one place."""
        span, program = self._span, self._program
        wanted = np.zeros(len(program.signals), bool)
        wanted[[slot for slot in slots if slot not in self._columns]] = True
        wanted &= self._in_one_place
        for number, part in span.parts:
            mine = wanted[part.slot].nonzero()[0]
            if not len(mine):
                continue
            slot, table = part.slot[mine], part.table[mine]
            raw, edges = _gather(part.rows.flat, part.begins[mine], part.ends[mine], 1)
            lengths = edges[1:] - edges[:-1]
            raw[edges[:-1]] = span.base.raw[slot].view(raw.dtype)
            values = raw.astype(np.float64) * program.scale[slot].repeat(lengths)
            values += program.offset[slot].repeat(lengths)
            self._prepare_stamps(number, table)
            rows = (slot.tolist(), table.tolist(), span.base.seen[slot].tolist())
            pieces = itertools.pairwise(edges.tolist())
            for of, at, seen, (a, b) in zip(*rows, pieces, strict=True):
                schema = program.signals[of].schema
                stamps = self._stamps[number, at]
                column = Column(schema, stamps, as_kind(raw[a:b], schema), seen, values[a:b])
                self._columns[of] = column

    def _prepare_stamps(self, number: int, tables: Int64) -> None:
        cut = self._span.cuts[number]
        tables = np.unique(tables)
        begins = cut.batch.begins[tables]
        times, edges = _gather(
            cut.batch.time, begins + cut.begins[tables], begins + cut.ends[tables], 1
        )
        # What came too late counts as after the begin.
        np.maximum(times, self._span.begin + 1, out=times)
        times[edges[:-1]] = self._span.begin
        differ = bool((times[1:] != times[:-1]).all())
        for table, (a, b) in zip(tables.tolist(), itertools.pairwise(edges.tolist()), strict=True):
            mine = times[a:b]
            stamps = Stamps(mine, mine, None) if differ else Stamps.of(mine)
            self._stamps.setdefault((number, table), stamps)

    def is_in_one_place(self, slot: int) -> bool:
        """Whether `bundles` can give a slot."""
        return bool(self._in_one_place[slot])

    @functools.cached_property
    def _in_one_place(self) -> NDArray[np.bool_]:
        in_one: NDArray[np.bool_] = self._program.plain & (self._span.stretches == 1)
        return in_one

    def bundles(self, slots: Int64) -> Iterable[Bundle]:
        """The samples of slots that each lie in one place; a slot may stand there twice."""
        span, program = self._span, self._program
        places, first = span.places[slots], 0
        for number, part in span.parts:
            found = places - first
            mine = ((found >= 0) & (found < len(part.slot))).nonzero()[0]
            first += len(part.slot)
            if not len(mine):
                continue
            at, slot = found[mine], slots[mine]
            times, raw, edges = self._gather(number, part, at, 1)
            raw[edges[:-1]] = span.base.raw[slot].view(raw.dtype)
            times[edges[:-1]] = span.begin
            lengths = edges[1:] - edges[:-1]
            values = raw.astype(np.float64) * program.scale[slot].repeat(lengths)
            values += program.offset[slot].repeat(lengths)
            for i in program.coded[slot].nonzero()[0].tolist():
                schema, one = program.signals[slot[i]].schema, slice(edges[i], edges[i + 1])
                values[one] = values_of(schema, as_kind(raw[one], schema), values[one])
            values[edges[:-1][~span.base.seen[slot]]] = np.nan
            yield Bundle(mine, edges, times, values)

    def copies(self, wanted: NDArray[np.bool_]) -> Iterable[Noted]:
        """The samples of slots of numbers among those wanted, bool[slots]."""
        span = self._span
        single = wanted & (span.stretches == 1)
        for number, part in span.parts:
            mine = single.take(part.slot).nonzero()[0]
            if len(mine):
                yield self._copy(number, part, mine)
        for slot in (wanted & (span.stretches > 1)).nonzero()[0].tolist():
            column = self.of(slot)
            time, raw = column.stamps.all[1:], column.raw[1:]
            raw = raw.view(np.int64) if raw.dtype == np.uint64 else raw
            yield Noted(np.array([slot]), np.array([0, len(time)]), time, raw)

    def _copy(self, number: int, part: Touched, mine: NDArray[np.intp]) -> Noted:
        time, raw, edges = self._gather(number, part, mine, 0)
        return Noted(part.slot[mine], edges, time, raw)

    def _gather(
        self, number: int, part: Touched, mine: NDArray[np.intp], room: int
    ) -> tuple[Int64, NDArray[Any], Int64]:
        """Times and raw values of some stretches of a part, with room before each; and the edges.

        What came too late counts as after the begin.
        """
        cut, table = self._span.cuts[number], part.table[mine]
        begins, ends = part.begins[mine], part.ends[mine]
        index, edges = _indices(begins, ends, room)
        raw = part.rows.flat.take(index, mode="clip")
        shift = cut.batch.begins[table] + cut.begins[table] - begins
        index += shift.repeat(edges[1:] - edges[:-1])
        time: Int64 = cut.batch.time.take(index, mode="clip")
        np.maximum(time, self._span.begin + 1, out=time)
        return time, raw, edges

    # One

    def _column(self, slot: int) -> Column:
        schema, base = self._program.signals[slot].schema, self._span.base
        seen = bool(base.seen[slot])
        if schema.kind == "bytes":
            return self._column_of_texts(slot, schema, seen)
        pieces, found = [], []
        if self._span.stretches[slot]:
            for number, part in self._span.parts:
                for at in (part.slot == slot).nonzero()[0].tolist():
                    pieces.append(part.rows.flat[part.begins[at] : part.ends[at]])
                    found.append((number, int(part.table[at])))
        held = base.raw[slot : slot + 1]
        if schema.kind.startswith("float"):
            held = held.view(np.float64)
        raw, stamps = self._join(held, pieces, found)
        return Column(schema, stamps, as_kind(raw, schema), seen)

    def _column_of_texts(self, slot: int, schema: SignalSchema, seen: bool) -> Column:
        pieces, found = [], []
        for number, cut in enumerate(self._span.cuts):
            texts = cut.texts
            mine = texts.slot == slot
            rows = zip(texts.table[mine].tolist(), texts.row[mine].tolist(), strict=True)
            for table, row in rows:
                payload = cut.batch.texts[table][row]
                texts = payload.view(f"S{payload.shape[1]}")[:, 0]
                pieces.append(texts[int(cut.begins[table]) : int(cut.ends[table])])
                found.append((number, table))
        held = np.array([self._span.base.texts.get(slot, b"")], np.bytes_)
        raw, stamps = self._join(held, pieces, found)
        return Column(schema, stamps, raw, seen)

    def _join(
        self,
        held: NDArray[Any],
        pieces: Sequence[NDArray[Any]],
        found: Sequence[tuple[int, int]],
    ) -> tuple[NDArray[Any], Stamps]:
        """Raw values of several tables in the order of time; `found` are cuts and tables."""
        if not pieces:
            return held.copy(), self.origin
        stamps = [self._stamps_of(number, table) for number, table in found]
        if len(pieces) == 1:
            return np.concatenate((held, pieces[0])), stamps[0]
        ranks = [int(self._ranks[number][table]) for number, table in found]
        order = sorted(range(len(pieces)), key=lambda i: ranks[i])
        raw = np.concatenate([pieces[i] for i in order])
        times = np.concatenate([stamps[i].all[1:] for i in order])
        by_time = np.argsort(times, kind="stable")
        all_times = np.concatenate((self.origin.all, times[by_time]))
        return np.concatenate((held, raw[by_time])), Stamps.of(all_times)

    @functools.cached_property
    def _ranks(self) -> list[Int64]:
        return [cut.batch.ranks for cut in self._span.cuts]

    def _stamps_of(self, number: int, table: int) -> Stamps:
        if (number, table) not in self._stamps:
            self._prepare_stamps(number, np.array([table], np.int64))
        return self._stamps[number, table]


def _gather(
    flat: NDArray[Any], begins: Int64, ends: Int64, room: int
) -> tuple[NDArray[Any], Int64]:
    """Stretches one behind the other, with room before each; and int64[n + 1], where they begin."""
    index, edges = _indices(begins, ends, room)
    return flat.take(index, mode="clip"), edges


def _indices(begins: Int64, ends: Int64, room: int) -> tuple[Int64, Int64]:
    lengths = ends - begins + room
    edges = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=edges[1:])
    index = np.arange(edges[-1]) + (begins - room - edges[:-1]).repeat(lengths)
    return index, edges
