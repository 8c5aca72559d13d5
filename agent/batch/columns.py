"""Tables to columns of deltas and back; docs/batch-format.md, "samples".

Each numeric column, and the time in steps of the batch's resolution, is a sequence of 64-bit words
(int64 and uint64 as they are, floats by their bits). The difference to the row before, modulo
2**64, is zigzag coded and stored in the narrowest of 0, 1, 2, 4 or 8 bytes that holds the column; 0
means that nothing changed. Columns of one width lie together, over all tables, and their bytes in
planes (all lowest bytes of a column, then the next ones), because neighbours then resemble each
other. The first row of a table in a zstd frame has no row before it and is kept apart, in `first`;
rows of later chunks continue from the last one. Schema ids and row counts are differences too, so
that what a vehicle repeats each second looks the same each second.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.batch.format import MAX_VALUES
from agent.batch.words import (
    WIDTHS,
    Cursor,
    from_planes,
    planes,
    unzigzag,
    width_of,
    zigzag,
)
from agent.blocks import NUMERIC_KINDS, Int64, Kind, SignalTable, TableSchema, UInt8, UInt64
from agent.errors import BatchError

_RECORD = "a samples record"


@dataclasses.dataclass(slots=True)
class Last:
    """What a zstd frame knows of a schema: its last row (time first), and its last row count."""

    row: UInt64
    rows: int


State = dict[int, Last]


def _narrow(values: UInt64) -> bytes:
    """Whole numbers in the narrowest of 1, 2, 4 or 8 bytes that holds them all; which, first."""
    width = max(1, int(width_of(values.max(initial=0))))
    return bytes([width]) + values.astype(f"<u{width}").tobytes()


def _from_narrow(cursor: Cursor, n: int) -> UInt64:
    width = cursor.take(1)[0]
    if width not in WIDTHS:
        raise BatchError(f"a samples record has numbers of {width} bytes")
    return np.frombuffer(cursor.take(n * width), f"<u{width}").astype(np.uint64)


def _flat(tables: Sequence[tuple[int, SignalTable]], resolution_ns: int) -> tuple[UInt64, Int64]:
    """All columns of all tables one behind the other as words, and how many each table has."""
    times = np.concatenate([table.time for _, table in tables]) // resolution_ns
    words = times.view(np.uint64)
    pieces: list[NDArray[Any]] = []
    columns = []
    at = 0
    for _, table in tables:
        pieces.append(words[at : at + len(table.time)])
        at += len(table.time)
        count = 1
        for kind in NUMERIC_KINDS:
            values = table.values.get(kind)
            if values is None:
                continue
            count += len(values)
            bits = values.view(np.uint32) if kind == "float32" else values.view(np.uint64)
            pieces.append(bits.ravel())
        columns.append(count)
    return np.concatenate(pieces, dtype=np.uint64), np.array(columns)


def pack_tables(
    tables: Sequence[tuple[int, SignalTable]], state: State, resolution_ns: int
) -> dict[str, Any]:
    """The map of one samples record; `tables` are (schema id, table) with ascending ids.

    The columns of all tables are one array here, so that each step is one call for all of them.
    """
    ids = np.array([schema_id for schema_id, _ in tables], np.uint64)
    rows = np.array([len(table.time) for _, table in tables])
    last = [state.get(schema_id) for schema_id, _ in tables]
    known = np.array([one is not None for one in last])
    words, columns = _flat(tables, resolution_ns)
    lengths = np.repeat(rows, columns)
    ends = np.cumsum(lengths)
    begins = ends - lengths
    has_last = np.repeat(known, columns)
    fresh = begins[~has_last]
    change = np.empty_like(words)
    np.subtract(words[1:], words[:-1], out=change[1:])
    if known.any():
        before = np.concatenate([one.row for one in last if one is not None])
        change[begins[has_last]] = words[begins[has_last]] - before
    change[fresh] = 0
    coded = zigzag(change)
    width = width_of(np.maximum.reduceat(coded, begins))
    final = words[ends - 1]
    edges = [0, *np.cumsum(columns).tolist()]
    for i, (schema_id, _) in enumerate(tables):
        state[schema_id] = Last(final[edges[i] : edges[i + 1]], int(rows[i]))
    stored = lengths - ~has_last
    stored_in = np.repeat(width, lengths)
    stored_in[fresh] = 0
    rows_before = np.array([one.rows if one else 0 for one in last])
    parts = [
        _narrow(np.diff(ids, prepend=np.uint64(0))),
        _narrow(zigzag((rows - rows_before).view(np.uint64))),
        width.tobytes(),
        _pack_first(zigzag(words[fresh])),
        *(planes(coded[stored_in == w], stored[width == w], w) for w in WIDTHS),
    ]
    record: dict[str, Any] = {"n": len(tables), "columns": b"".join(parts)}
    if payloads := [p.tobytes() for _, table in tables for p in table.payloads]:
        record["payload"] = b"".join(payloads)
    return record


def _pack_first(words: UInt64) -> bytes:
    """First rows, as one list: the width of each number, then the numbers of each width."""
    width = width_of(words)
    groups = (words[width == w] for w in WIDTHS)
    return width.tobytes() + b"".join(
        planes(group, np.array([len(group)]), w) for w, group in zip(WIDTHS, groups, strict=True)
    )


def _unpack_first(cursor: Cursor, count: int) -> UInt64:
    width = cursor.widths(count)
    words = np.zeros(count, np.uint64)
    for w in WIDTHS:
        places = np.flatnonzero(width == w)
        words[places] = from_planes(cursor.take(w * len(places)), 1, len(places), w)[0]
    return unzigzag(words)


@dataclasses.dataclass(frozen=True)
class ReadSchema:
    """A schema as it was read: with the width in bytes of each signal of kind bytes."""

    table: TableSchema
    campaign: str

    @functools.cached_property
    def counts(self) -> Mapping[Kind, int]:
        counts: dict[Kind, int] = {}
        for kind in NUMERIC_KINDS:
            if n := sum(s.kind == kind for s in self.table.signals):
                counts[kind] = n
        return counts

    @functools.cached_property
    def columns(self) -> int:
        """Time and the numeric signals."""
        return 1 + sum(self.counts.values())

    @functools.cached_property
    def payload_widths(self) -> list[int]:
        return [(s.bits + 7) // 8 for s in self.table.signals if s.kind == "bytes"]


@dataclasses.dataclass(slots=True)
class _Reading:
    """A table while it is read."""

    schema_id: int
    schema: ReadSchema
    last: Last | None
    width: UInt8
    words: UInt64


def unpack_tables(
    record: Mapping[str, Any],
    schemas: Mapping[int, ReadSchema],
    state: State,
    resolution_ns: int,
) -> list[SignalTable]:
    """The tables of one samples record.

    Raises:
        BatchError: the record contradicts itself, or names a schema that was not read.
    """
    try:
        columns_of = Cursor(record["columns"], _RECORD)
        reading = _layout(record["n"], columns_of, schemas, state)
        first = _unpack_first(columns_of, sum(len(r.width) for r in reading if r.last is None))
        payload = Cursor(record.get("payload", b""), _RECORD)
        for w in WIDTHS:
            for r in reading:
                columns = np.flatnonzero(r.width == w)
                if len(columns):
                    begin = int(r.last is None)
                    n = r.words.shape[1] - begin
                    data = columns_of.take(len(columns) * n * w)
                    r.words[columns, begin:] = unzigzag(from_planes(data, len(columns), n, w))
        columns_of.end()
    except (KeyError, TypeError, ValueError) as e:
        raise BatchError(f"a samples record lacks a part or has it in the wrong form: {e}") from e
    taken = 0
    tables = []
    for r in reading:
        if r.last is None:
            r.words[:, 0] = first[taken : taken + len(r.width)]
            taken += len(r.width)
        else:
            r.words[:, 0] += r.last.row
        np.cumsum(r.words, axis=1, out=r.words)
        state[r.schema_id] = Last(r.words[:, -1].copy(), r.words.shape[1])
        tables.append(_table(r.schema, r.words, payload, resolution_ns))
    payload.end()
    return tables


def _layout(
    count: Any, columns: Cursor, schemas: Mapping[int, ReadSchema], state: State
) -> list[_Reading]:
    if not isinstance(count, int) or not 0 < count <= MAX_VALUES:
        raise BatchError("a samples record says an impossible number of tables")
    ids = np.cumsum(_from_narrow(columns, count)).tolist()
    changes = unzigzag(_from_narrow(columns, count)).view(np.int64).tolist()
    found: list[tuple[int, int, ReadSchema, Last | None]] = []
    total = 0
    for schema_id, change in zip(ids, changes, strict=True):
        schema = schemas.get(schema_id)
        if schema is None:
            raise BatchError(f"samples of schema {schema_id}, which is missing")
        last = state.get(schema_id)
        n = change + (last.rows if last else 0)
        total += schema.columns * n
        if n <= 0 or total > MAX_VALUES:
            raise BatchError("a samples record says impossible sizes")
        found.append((schema_id, n, schema, last))
    reading = []
    for schema_id, n, schema, last in found:
        width = columns.widths(schema.columns)
        words = np.zeros((schema.columns, n), np.uint64)
        reading.append(_Reading(schema_id, schema, last, width, words))
    return reading


def _table(schema: ReadSchema, words: UInt64, payload: Cursor, resolution_ns: int) -> SignalTable:
    values: dict[Kind, NDArray[Any]] = {}
    row = 1
    for kind, k in schema.counts.items():
        bits = words[row : row + k]
        values[kind] = (
            bits.astype(np.uint32).view(np.float32) if kind == "float32" else bits.view(kind)
        )
        row += k
    n = words.shape[1]
    payloads = tuple(
        np.frombuffer(payload.take(n * w), np.uint8).reshape(n, w) for w in schema.payload_widths
    )
    time = words[0].view(np.int64) * resolution_ns
    return SignalTable(schema.table, time, values, payloads, schema.campaign)
