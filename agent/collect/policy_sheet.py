"""Tables of a block side by side, so that one call does a step for all their series.

    sheet       rows: the first, second, ... sample of each series; columns: the series
    columns     those of a table lie together, the longest tables first

So a row is contiguous, and the series that still have a sample at a row are the first ones of it:
`active[row]`. Tables of very different lengths are in sheets of their own, as the rest of a column
is waste.

Before that, the tables of one sender are made to `Unit`s, in which each series has all its samples
of the block: mostly a table as it is. Where signals are in several tables (branches of a
multiplexer, frames of several lengths), those that are in the same ones become a unit, with the
rows of these tables in the order of time. What is chosen of it goes back to the tables.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, Int64, Kind, SignalTable, TableSchema, UInt64
from agent.collect.policy_memory import Layout, Memory, Slots

Mask = NDArray[np.bool_]

_WASTE = 4
"""A sheet has no table that is shorter than its longest by more than this factor..."""
_SHORT = 16
"""... unless that has no more than these rows."""


@dataclasses.dataclass(slots=True)
class Part:
    """A table of which some signals are in other tables of the block too."""

    table: SignalTable
    layout: Layout
    chosen: Mask
    """bool[n, columns]: what is kept of it."""


@dataclasses.dataclass(slots=True)
class Origin:
    """Where the rows and columns of a unit come from."""

    parts: list[Part]
    columns: list[Slots]
    """Of each part: which of its columns the unit has."""
    order: Slots | None
    """Which row of the parts, one behind the other, each row is; None with one part."""

    def choose(self, chosen: Mask) -> None:
        """Tell the parts what of the unit is kept, bool[n, columns]."""
        if self.order is not None:
            sorted_, chosen = chosen, np.empty_like(chosen)
            chosen[self.order] = sorted_
        begin = 0
        for part, columns in zip(self.parts, self.columns, strict=True):
            end = begin + len(part.table)
            part.chosen[:, columns] = chosen[begin:end]
            begin = end

    def single(self, column: int, row: int) -> TableSchema:
        """The schema of a table of one sample: of the table that it is from."""
        at = row if self.order is None else int(self.order[row])
        for part, columns in zip(self.parts, self.columns, strict=True):
            if at < len(part.table):
                return part.layout.singles[int(columns[column])]
            at -= len(part.table)
        raise IndexError(row)


@dataclasses.dataclass(slots=True)
class Unit:
    """Samples of series, all of a block, in the order of time; `origin` is None for a table."""

    table: SignalTable
    layout: Layout
    origin: Origin | None = None


def units(tables: Iterable[SignalTable], memory: Memory) -> tuple[list[Unit], list[Part]]:
    """All samples of tables that have rows; and the tables of which units were put together."""
    streams: dict[tuple[str, str, int | None], list[tuple[SignalTable, Layout]]] = {}
    for table in tables:
        if len(table):
            layout = memory.layout(table.schema)
            streams.setdefault(layout.stream, []).append((table, layout))
    found: list[Unit] = []
    shared: list[Part] = []
    for stream in streams.values():
        if len(stream) == 1:
            found.append(Unit(*stream[0]))
            continue
        parts = [Part(t, la, np.zeros((len(t), len(la.columns)), bool)) for t, la in stream]
        shared += parts
        found += _together(parts, memory)
    return found, shared


def _together(parts: Sequence[Part], memory: Memory) -> list[Unit]:
    """Units of the tables of one sender."""
    where: dict[int, list[int]] = {}
    for number, part in enumerate(parts):
        for slot in part.layout.slots.tolist():
            where.setdefault(slot, []).append(number)
    clusters: dict[tuple[int, ...], list[int]] = {}
    for slot, numbers in where.items():
        clusters.setdefault(tuple(numbers), []).append(slot)
    return [
        _unit([parts[n] for n in numbers], slots, memory) for numbers, slots in clusters.items()
    ]


def _unit(parts: list[Part], slots: list[int], memory: Memory) -> Unit:
    first = parts[0].layout
    names = [first.columns[first.column[slot]].name for slot in slots]
    schema = first.schema.subset(names)
    layout = memory.layout(schema)
    columns = [
        np.array([part.layout.column[slot] for slot in layout.slots.tolist()], np.intp)
        for part in parts
    ]
    order = None
    if len(parts) > 1:
        # Where a table has late samples, those stay behind the sample that they came after.
        keys = [np.maximum.accumulate(part.table.time) for part in parts]
        order = np.argsort(np.concatenate(keys), kind="stable")
    picked = [_pick(part, at, schema) for part, at in zip(parts, columns, strict=True)]
    table = picked[0] if order is None else _merged(picked, order)
    return Unit(table, layout, Origin(parts, columns, order))


def _pick(part: Part, columns: Slots, schema: TableSchema) -> SignalTable:
    """These columns of a table, in this order."""
    table = part.table
    rows: dict[Kind, list[int]] = {}
    for column in columns.tolist():
        kind, row = part.layout.place[column]
        rows.setdefault(kind, []).append(row)
    payloads = tuple(table.payloads[row] for row in rows.pop("bytes", ()))
    values = {kind: table.values[kind][at] for kind, at in rows.items()}
    return SignalTable(schema, table.time, values, payloads)


def _merged(tables: Sequence[SignalTable], order: Slots) -> SignalTable:
    first = tables[0]
    return SignalTable(
        first.schema,
        np.concatenate([t.time for t in tables])[order],
        {k: np.concatenate([t.values[k] for t in tables], axis=1)[:, order] for k in first.values},
        tuple(
            np.concatenate([t.payloads[i] for t in tables])[order]
            for i in range(len(first.payloads))
        ),
    )


def single_columns(unit: Unit, memory: Memory) -> list[Unit]:
    """The same samples, each series in a unit of its own; they have no origin."""
    part = Part(unit.table, unit.layout, np.empty((0, 0), bool))
    return [
        Unit(_pick(part, np.array([column], np.intp), schema), memory.layout(schema))
        for column, schema in enumerate(unit.layout.singles)
    ]


class Sheet:
    """Units of about equal length, the longest first."""

    def __init__(self, members: Sequence[Unit], memory: Memory) -> None:
        self.units = members
        self._memory = memory
        widths = [len(unit.layout.columns) for unit in members]
        self.begins = np.cumsum([0, *widths[:-1]])
        """intp[units]: the first column of each."""
        self.unit_of = np.repeat(np.arange(len(members)), widths)
        """intp[columns]"""
        self.columns = sum(widths)
        lengths = np.array([len(unit.table) for unit in members])
        self.rows = int(lengths[0])
        self.slots: Slots = np.concatenate([unit.layout.slots for unit in members])
        """intp[columns]: the numbers of the series."""
        self.last = lengths[self.unit_of] - 1
        """intp[columns]: the row of the last sample of each."""
        self.every = np.arange(self.columns)
        # The lengths do not rise, so negative ones do not fall.
        ended = np.searchsorted(-lengths, -np.arange(self.rows), side="left")
        self.active: list[int] = np.append(self.begins, self.columns)[ended].tolist()
        """Of each row: how many columns have a sample there, which are the first ones."""

    def blocks(self) -> Iterable[tuple[Unit, int]]:
        """The units, and where their columns begin."""
        return zip(self.units, self.begins.tolist(), strict=True)

    @functools.cached_property
    def words(self) -> UInt64:
        """uint64[rows, columns]: raw values bit by bit, or numbers that stand for bytes."""
        words = np.zeros((self.rows, self.columns), np.uint64)
        for unit, begin in self.blocks():
            table, layout = unit.table, unit.layout
            for kind, first, count in layout.spans:
                out = words[: len(table), begin + first : begin + first + count]
                if kind == "bytes":
                    slots = layout.slots[first:].tolist()
                    for column, (slot, payload) in enumerate(
                        zip(slots, table.payloads, strict=True)
                    ):
                        out[:, column] = self._memory.tokens(slot, payload)
                else:
                    out[...] = _bits(table.values[kind]).T
        return words

    @functools.cached_property
    def last_words(self) -> UInt64:
        """uint64[columns]: `words` of the last sample of each series; 0 for bytes."""
        parts: list[UInt64] = []
        for unit in self.units:
            for kind, _, count in unit.layout.spans:
                if kind == "bytes":
                    parts.append(np.zeros(count, np.uint64))
                else:
                    parts.append(_bits(unit.table.values[kind][:, -1]).astype(np.uint64))
        return np.concatenate(parts)

    @functools.cached_property
    def times(self) -> Int64:
        """Of the samples, int64[rows, columns]."""
        times = np.zeros((self.rows, self.columns), np.int64)
        for unit, begin in self.blocks():
            n = len(unit.table)
            times[:n, begin : begin + len(unit.layout.columns)] = unit.table.time[:, None]
        return times

    @functools.cached_property
    def physical(self) -> Float64:
        """float64[rows, columns]: values in their units; infinite or NaN where there is none.

        As `SignalSchema.physical`, and NaN for codes and bytes.
        """
        values = np.zeros((self.rows, self.columns))
        memory = self._memory
        for unit, begin in self.blocks():
            n = len(unit.table)
            for kind, first, count in unit.layout.spans:
                out = values[:n, begin + first : begin + first + count]
                out[...] = np.nan if kind == "bytes" else unit.table.values[kind].T
        with np.errstate(all="ignore"):  # a result beyond all doubles is no number either
            np.multiply(values, memory.scale[self.slots], out=values)
            np.add(values, memory.offset[self.slots], out=values)
        for unit, begin in self.blocks():
            table, layout = unit.table, unit.layout
            for column in layout.whole:
                kind, row = layout.place[column]
                exact = layout.columns[column].physical(table.values[kind][row])
                values[: len(table), begin + column] = exact
            for column in layout.coded:
                kind, row = layout.place[column]
                coded = layout.columns[column].validity(table.values[kind][row]) != 0
                values[: len(table), begin + column][coded] = np.nan
        return values

    def clear_rest(self, chosen: Mask) -> None:
        """Set to False what lies behind the last sample of a column."""
        for unit, begin in self.blocks():
            if len(unit.table) < self.rows:
                chosen[len(unit.table) :, begin : begin + len(unit.layout.columns)] = False

    def kept(self, chosen: Mask) -> list[SignalTable]:
        """What is chosen of the tables, bool[rows, columns]; for `Origin`s, they are told."""
        equal = (chosen == chosen[:, self.begins[self.unit_of]]).all(axis=0)
        uniform = np.logical_and.reduceat(equal, self.begins).tolist()
        found: list[SignalTable] = []
        for number, (unit, begin) in enumerate(self.blocks()):
            n, table = len(unit.table), unit.table
            mine = chosen[:n, begin : begin + len(unit.layout.columns)]
            if unit.origin is not None:
                unit.origin.choose(mine)
            elif uniform[number]:
                found += whole_rows(table, mine[:, 0])
            else:
                found += by_signal(table, unit.layout, mine)
        return found


def _bits(values: NDArray[Any]) -> NDArray[Any]:
    return values.view(np.uint32 if values.dtype.itemsize == 4 else np.uint64)


def sheets(found: Sequence[Unit], memory: Memory) -> list[Sheet]:
    """Units in sheets."""
    ordered = sorted(found, key=lambda unit: -len(unit.table))
    groups: list[list[Unit]] = []
    longest = 0
    for unit in ordered:
        if not groups or (longest > _SHORT and len(unit.table) * _WASTE < longest):
            groups.append([])
            longest = len(unit.table)
        groups[-1].append(unit)
    return [Sheet(group, memory) for group in groups]


def kept_parts(parts: Iterable[Part]) -> list[SignalTable]:
    """What is chosen of tables, after each `Origin` has told them."""
    found: list[SignalTable] = []
    for part in parts:
        if (part.chosen == part.chosen[:, :1]).all():
            found += whole_rows(part.table, part.chosen[:, 0])
        else:
            found += by_signal(part.table, part.layout, part.chosen)
    return found


def whole_rows(table: SignalTable, rows: Mask) -> list[SignalTable]:
    """Rows of a table, bool[n]: none, itself or another one."""
    (at,) = rows.nonzero()
    if len(at) == len(rows):
        return [table]
    if not len(at):
        return []
    # As `SignalTable.take`, which is slower than what it does.
    values = {kind: array.take(at, axis=1) for kind, array in table.values.items()}
    payloads = tuple(payload[at] for payload in table.payloads)
    return [SignalTable(table.schema, table.time.take(at), values, payloads, table.campaign)]


def by_signal(table: SignalTable, layout: Layout, chosen: Mask) -> list[SignalTable]:
    """A table a signal, of the rows that are chosen of it, bool[n, columns]."""
    columns, rows = chosen.T.nonzero()
    edges = columns.searchsorted(np.arange(len(layout.columns) + 1)).tolist()
    times, campaign, singles = table.time.take(rows), table.campaign, layout.singles
    found: list[SignalTable] = []
    for kind, first, count in layout.spans:
        begin, end = edges[first], edges[first + count]
        if kind != "bytes":
            kept = table.values[kind][columns[begin:end] - first, rows[begin:end]][None]
        for column in range(first, first + count):
            a, b = edges[column], edges[column + 1]
            if a == b:
                continue
            schema, time = singles[column], times[a:b]
            if kind == "bytes":
                payload = table.payloads[column - first][rows[a:b]]
                found.append(SignalTable(schema, time, {}, (payload,), campaign))
            else:
                values: dict[Kind, NDArray[Any]] = {kind: kept[:, a - begin : b - begin]}
                found.append(SignalTable(schema, time, values, (), campaign))
    return found
