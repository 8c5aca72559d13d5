"""Tables to columns of deltas and back; docs/batch-format.md, "samples".

Each numeric column, and the time in steps of the batch's resolution, is a sequence of 64-bit words
(int64 and uint64 as they are, floats by their bits). The difference to the row before, modulo
2**64, is zigzag coded and stored in the narrowest of 0, 1, 2, 4 or 8 bytes that holds the column; 0
means that nothing changed. Bytes are stored by planes (all lowest bytes, then the next ones),
because neighbours in a plane resemble each other. The first row of a table in a zstd frame has no
row before it and is kept apart, in `first`; rows of later chunks continue from the last one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.batch.format import MAX_VALUES
from agent.blocks import NUMERIC_KINDS, Kind, SignalTable, TableSchema, UInt8, UInt64
from agent.errors import BatchError

_WIDTHS = (1, 2, 4, 8)
_LIMITS = np.array([0, 0xFF, 0xFFFF, 0xFFFF_FFFF], np.uint64)
_WIDTH_OF_CLASS = np.array([0, 1, 2, 4, 8], np.uint8)

State = dict[int, UInt64]
"""Of a zstd frame: schema id -> the last row, time first, as words."""


def _words(table: SignalTable, resolution_ns: int) -> UInt64:
    """Time and numeric columns of a table, uint64[1 + k, n]."""
    counts = {kind: len(array) for kind, array in table.values.items()}
    words = np.empty((1 + sum(counts.values()), len(table)), np.uint64)
    np.floor_divide(table.time, resolution_ns, out=words[0].view(np.int64))
    row = 1
    for kind in NUMERIC_KINDS:
        if kind in counts:
            array = table.values[kind]
            bits: NDArray[Any] = array.view(np.uint32) if kind == "float32" else array
            target = words[row : row + counts[kind]]
            target[...] = bits if kind == "float32" else bits.view(np.uint64)
            row += counts[kind]
    return words


def _zigzag(words: UInt64) -> UInt64:
    signed = words.view(np.int64)
    return ((signed << 1) ^ (signed >> 63)).view(np.uint64)


def _unzigzag(words: UInt64) -> UInt64:
    return (words >> np.uint64(1)) ^ (np.uint64(0) - (words & np.uint64(1)))


def _planes(words: UInt64, width: int) -> bytes:
    """uint64[k, n] as k columns of `width` byte planes each."""
    narrow = words.astype(f"<u{width}")
    if width == 1:
        return narrow.tobytes()
    k, n = narrow.shape
    return narrow.view(np.uint8).reshape(k, n, width).transpose(0, 2, 1).tobytes()


def _from_planes(data: memoryview, k: int, n: int, width: int) -> UInt64:
    if width == 1:
        return np.frombuffer(data, np.uint8).reshape(k, n).astype(np.uint64)
    planes = np.frombuffer(data, np.uint8).reshape(k, width, n).transpose(0, 2, 1)
    narrow = np.ascontiguousarray(planes).view(f"<u{width}").reshape(k, n)
    return narrow.astype(np.uint64)


def pack_tables(
    tables: Sequence[tuple[int, SignalTable]], state: State, resolution_ns: int
) -> dict[str, bytes]:
    """The map of one samples record; `tables` are (schema id, table), each id at most once."""
    widths: list[UInt8] = []
    deltas: list[bytes] = []
    first: list[UInt64] = []
    payloads: list[bytes] = []
    for schema_id, table in tables:
        words = _words(table, resolution_ns)
        last = state.get(schema_id)
        if last is None:
            first.append(words[:, 0])
            change = words[:, 1:] - words[:, :-1]
        else:
            change = np.empty_like(words)
            np.subtract(words[:, 0], last, out=change[:, 0])
            np.subtract(words[:, 1:], words[:, :-1], out=change[:, 1:])
        state[schema_id] = words[:, -1].copy()
        coded = _zigzag(change)
        largest = coded.max(axis=1, initial=0)
        width = _WIDTH_OF_CLASS[np.searchsorted(_LIMITS, largest)]
        widths.append(width)
        for w in _WIDTHS:
            columns = np.flatnonzero(width == w)
            if len(columns):
                deltas.append(_planes(coded[columns], w))
        payloads += [p.tobytes() for p in table.payloads]
    record = {
        "schema": np.array([i for i, _ in tables], "<u4").tobytes(),
        "rows": np.array([len(t) for _, t in tables], "<u4").tobytes(),
        "width": np.concatenate(widths).tobytes(),
        "delta": b"".join(deltas),
    }
    if first:
        record["first"] = _planes(_zigzag(np.concatenate(first))[None, :], 8)
    if payloads:
        record["payload"] = b"".join(payloads)
    return record


class _Cursor:
    """Takes pieces of a byte string in turn, and never beyond its end."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def take(self, size: int) -> memoryview:
        piece = self._data[self._at : self._at + size]
        if len(piece) != size:
            raise BatchError("a samples record is shorter than it says")
        self._at += size
        return piece


@dataclasses.dataclass(frozen=True, slots=True)
class ReadSchema:
    """A schema as it was read: with the width in bytes of each signal of kind bytes."""

    table: TableSchema
    campaign: str

    @property
    def counts(self) -> Mapping[Kind, int]:
        counts: dict[Kind, int] = {}
        for kind in NUMERIC_KINDS:
            if n := sum(s.kind == kind for s in self.table.signals):
                counts[kind] = n
        return counts

    @property
    def payload_widths(self) -> list[int]:
        return [(s.bits + 7) // 8 for s in self.table.signals if s.kind == "bytes"]


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
        ids = np.frombuffer(record["schema"], "<u4").tolist()
        rows = np.frombuffer(record["rows"], "<u4").tolist()
        widths = np.frombuffer(record["width"], np.uint8)
        delta = _Cursor(record["delta"])
        payload = _Cursor(record.get("payload", b""))
        first_bytes = record.get("first", b"")
        first = _unzigzag(_from_planes(memoryview(first_bytes), 1, len(first_bytes) // 8, 8)[0])
    except (KeyError, TypeError, ValueError) as e:
        raise BatchError(f"a samples record lacks a part or has it in the wrong form: {e}") from e
    if len(ids) != len(rows):
        raise BatchError("a samples record has unequal numbers of schemas and row counts")
    tables = []
    column = taken = total = 0
    for schema_id, n in zip(ids, rows, strict=True):
        schema = schemas.get(schema_id)
        if schema is None:
            raise BatchError(f"samples of schema {schema_id}, which is missing")
        counts = schema.counts
        k = 1 + sum(counts.values())
        total += k * n
        width = widths[column : column + k]
        if total > MAX_VALUES or n == 0 or len(width) != k:
            raise BatchError("a samples record says impossible sizes")
        column += k
        last = state.get(schema_id)
        words = np.zeros((k, n), np.uint64)
        if last is None:
            begin = first[taken : taken + k]
            if len(begin) != k:
                raise BatchError("a samples record lacks first rows")
            taken += k
            words[:, 0] = begin
        skip = int(last is None)
        for w in _WIDTHS:
            columns = np.flatnonzero(width == w)
            if len(columns):
                data = delta.take(len(columns) * (n - skip) * w)
                words[columns, skip:] = _unzigzag(_from_planes(data, len(columns), n - skip, w))
        if last is not None:
            words[:, 0] += last
        np.cumsum(words, axis=1, out=words)
        state[schema_id] = words[:, -1].copy()
        tables.append(_table(schema, counts, words, payload, resolution_ns))
    return tables


def _table(
    schema: ReadSchema,
    counts: Mapping[Kind, int],
    words: UInt64,
    payload: _Cursor,
    resolution_ns: int,
) -> SignalTable:
    values: dict[Kind, NDArray[Any]] = {}
    row = 1
    for kind, k in counts.items():
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
