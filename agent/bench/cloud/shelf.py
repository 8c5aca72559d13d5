"""What was read out of one batch, kept beside it: nothing of a batch is decoded twice.

A batch lies in the order of time, for the vehicle that writes it: chunks of a second, in each a
little of every signal. A question asks for one signal over a day. So each batch is turned once,
when it is taken in, and the result is kept as a shelf: per table the columns of the whole batch,
each of which can be read alone, and the extract (header, ledger, events, ...) from which summaries
are made. A restart reads shelves and no batches.

Shelves are no truth. One that is missing, damaged, of another version or of another batch is made
again from the batch; one that cannot be written is held in memory for the question at hand. The
folder may be removed at any time.

    shelf   = magic[8] size:u32 crc:u32 head[size] schemas blob*
    head    = zstd(msgpack): `batch` [size, received], `extract`, `places` (see `PLACE`),
              `digests` (16 bytes a place, of the schema), `schemas` [offset, size]
    schemas = zstd(msgpack list of schema records), read only where a digest is not known yet
    blob    = zstd with a checksum: rows:u32 columns:u32 start:i64 width:u8[columns]
              base:u64[columns] data; then the payloads of signals of kind bytes
    data    = per column rows x width bytes: value - base, modulo 2**64; floats by their bits

Column 0 is the time: differences in ns to the row before, from `start`. All of it little-endian.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import google_crc32c
import msgpack
import numpy as np
from numpy.typing import NDArray

from agent.batch.columns import ReadSchema
from agent.batch.format import unpack_map, zstd
from agent.batch.schema import pack_schema, unpack_schema
from agent.batch.words import width_of
from agent.bench.cloud.store import Stored
from agent.blocks import NUMERIC_KINDS, Int64, Kind, SignalTable, UInt64
from agent.errors import BatchError

SUFFIX: Final = ".shelf"
PLACE: Final = ("first", "last", "rows", "offset", "size")
"""int64 each: the times that a table spans (ns, as they are in the batch), its rows, its blob."""

_MAGIC: Final = b"\x89VEASH1\n"
_FIXED: Final = struct.Struct("<8sII")
_BLOB: Final = struct.Struct("<IIq")
_DIGEST: Final = 16
_WORD: Final = (1 << 64) - 1
_U32, _F32 = struct.Struct("<I"), struct.Struct("<f")
_U64, _F64 = struct.Struct("<Q"), struct.Struct("<d")
_P = zstd.CompressionParameter
_OPTIONS: Final = {int(_P.compression_level): 1, int(_P.checksum_flag): 1}


@dataclasses.dataclass(frozen=True)
class Shelf:
    """The head of a shelf.

    `places` int64[n, 5] (see `PLACE`) and `digests`, n of them, tell of n tables.
    """

    extract: Mapping[str, Any]
    places: Int64
    digests: tuple[bytes, ...]
    schemas: tuple[int, int]
    """Where the schema records lie: offset and size."""
    data: bytes | None = None
    """All of it, where it could not be written."""


@dataclasses.dataclass(slots=True)
class Blob:
    """One table of a shelf, unpacked as far as questions go."""

    data: memoryview
    rows: int
    start: int
    widths: list[int]
    bases: UInt64
    begin: int

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Raises BatchError for what is damaged."""
        try:
            data = memoryview(zstd.decompress(packed))
            rows, columns, start = _BLOB.unpack_from(data)
            widths = list(data[_BLOB.size : _BLOB.size + columns])
            at = _BLOB.size + columns
            bases = np.frombuffer(data, "<u8", columns, at)
        except (zstd.ZstdError, struct.error, ValueError) as e:
            raise BatchError(f"a shelf is damaged: {e}") from e
        return cls(data, rows, start, widths, bases, at + 8 * columns)

    def words(self, column: int) -> UInt64:
        """uint64[rows] of one column."""
        width = self.widths[column]
        if width == 0:
            return np.full(self.rows, self.bases[column])
        at = self.begin + self.rows * sum(self.widths[:column])
        narrow = np.frombuffer(self.data, f"<u{width}", self.rows, at)
        words: UInt64 = narrow.astype(np.uint64)
        words += self.bases[column]
        return words

    def time(self) -> Int64:
        return np.cumsum(self.words(0).view(np.int64)) + self.start

    def raw(self, schema: ReadSchema, signal: str) -> NDArray[Any]:
        """The raw values of a signal: of its own type, n of them; of bytes uint8[n, w]."""
        kind, row = schema.table.place[signal]
        if kind == "bytes":
            before = schema.payload_widths[:row]
            at = self.begin + self.rows * (sum(self.widths) + sum(before))
            width = schema.payload_widths[row]
            payload = np.frombuffer(self.data, np.uint8, self.rows * width, at)
            return payload.reshape(self.rows, width)
        words = self.words(_columns(schema)[kind] + row)
        if kind == "float32":
            return words.astype(np.uint32).view(np.float32)
        return words.view(kind)

    def row(self, schema: ReadSchema, at: int) -> list[int | float | bytes]:
        """The raw values of one row, in the order of the signals."""
        words: list[int] = []
        begin = self.begin
        for width, base in zip(self.widths, self.bases.tolist(), strict=True):
            place = begin + at * width
            narrow = int.from_bytes(self.data[place : place + width], "little")
            words.append((narrow + base) & _WORD)
            begin += self.rows * width
        raws: list[int | float | bytes] = []
        columns = _columns(schema)
        for signal in schema.table.signals:
            kind, row = schema.table.place[signal.name]
            if kind == "bytes":
                width = schema.payload_widths[row]
                place = begin + self.rows * sum(schema.payload_widths[:row]) + at * width
                raws.append(bytes(self.data[place : place + width]))
                continue
            word = words[columns[kind] + row]
            if kind == "int64":
                raws.append(word - (word >> 63 << 64))
            elif kind == "uint64":
                raws.append(word)
            elif kind == "float32":
                raws.append(float(_F32.unpack(_U32.pack(word))[0]))
            else:
                raws.append(float(_F64.unpack(_U64.pack(word))[0]))
        return raws


def _columns(schema: ReadSchema) -> dict[Kind, int]:
    """The column of the first signal of each kind."""
    found: dict[Kind, int] = {}
    column = 1
    for kind in NUMERIC_KINDS:
        found[kind] = column
        column += schema.counts.get(kind, 0)
    return found


def pack_table(table: SignalTable) -> bytes:
    """The blob of a table, which has rows."""
    n = len(table)
    change = np.diff(table.time, prepend=table.time[:1])
    parts = [_relative(change[None])]
    for kind in NUMERIC_KINDS:
        values = table.values.get(kind)
        if values is None:
            continue
        if kind == "float32":
            parts.append((values.view(np.uint32).astype(np.uint64), np.zeros(len(values), "u8")))
        elif kind == "float64":
            parts.append((values.view(np.uint64), np.zeros(len(values), "u8")))
        else:
            parts.append(_relative(values))
    bases = np.concatenate([base for _, base in parts])
    widths = np.concatenate([width_of(words.max(axis=1)) for words, _ in parts])
    rows = [row for words, _ in parts for row in words]
    content = [
        _BLOB.pack(n, len(bases), int(table.time[0])),
        widths.tobytes(),
        bases.astype("<u8").tobytes(),
        *(
            row.astype(f"<u{width}").tobytes()
            for row, width in zip(rows, widths.tolist(), strict=True)
            if width
        ),
        *(payload.tobytes() for payload in table.payloads),
    ]
    return zstd.compress(b"".join(content), options=_OPTIONS)


def _relative(values: NDArray[Any]) -> tuple[UInt64, UInt64]:
    """Whole numbers (k, n) from the least of each column on; and those."""
    base = values.min(axis=1).view(np.uint64)
    return np.ascontiguousarray(values).view(np.uint64) - base[:, None], base


@functools.lru_cache(maxsize=8192)
def _record_of(schema: Any, campaign: str) -> tuple[bytes, bytes]:
    packed: bytes = msgpack.packb(pack_schema(0, schema, campaign), use_bin_type=True)
    return packed, hashlib.blake2b(packed, digest_size=_DIGEST).digest()


def pack(stored: Stored, extract: Mapping[str, Any], tables: Sequence[SignalTable]) -> bytes:
    """A shelf, the same bytes for the same batch."""
    tables = [table for table in tables if len(table)]
    records: dict[bytes, bytes] = {}
    digests = []
    for table in tables:
        record, digest = _record_of(table.schema, table.campaign)
        records[digest] = record
        digests.append(digest)
    blobs = [pack_table(table) for table in tables]
    schemas = zstd.compress(b"".join(records.values()), options=_OPTIONS) if records else b""
    sizes = np.array([len(blob) for blob in blobs], np.int64)
    places = np.zeros((len(tables), len(PLACE)), np.int64)
    if tables:
        places[:, 0] = [table.time.min() for table in tables]
        places[:, 1] = [table.time.max() for table in tables]
        places[:, 2] = [len(table) for table in tables]
        places[:, 3] = len(schemas) + np.cumsum(sizes) - sizes  # behind the head
        places[:, 4] = sizes
    head = {
        "batch": [stored.size, stored.received],
        "extract": packable(extract),
        "places": places.astype("<i8").tobytes(),
        "digests": b"".join(digests),
        "schemas": len(schemas),
    }
    packed = zstd.compress(msgpack.packb(head, use_bin_type=True), options=_OPTIONS)
    fixed = _FIXED.pack(_MAGIC, len(packed), google_crc32c.value(packed))
    return b"".join([fixed, packed, schemas, *blobs])


def packable(extract: Mapping[str, Any]) -> dict[str, Any]:
    """An extract without what was nested too deep in a batch to be packed again."""
    try:
        msgpack.packb(extract, use_bin_type=True)
    except (ValueError, TypeError, OverflowError):
        return {key: _pruned(value) for key, value in extract.items()}
    return dict(extract)


def _pruned(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: each for key, each in value.items() if _can_be_packed(each)}
    if isinstance(value, list):
        return [each for each in value if _can_be_packed(each)]
    return value


def _can_be_packed(value: Any) -> bool:
    try:
        msgpack.packb(value, use_bin_type=True)
    except (ValueError, TypeError, OverflowError):
        return False
    return True


def unpack(data: bytes, stored: Stored, *, whole: bool = False) -> Shelf:
    """The head of a shelf, of which `data` is at least the beginning.

    Raises:
        BatchError: it is none, is damaged, or is one of another batch.
    """
    if len(data) < _FIXED.size:
        raise BatchError("a shelf is cut")
    magic, size, crc = _FIXED.unpack_from(data)
    packed = data[_FIXED.size : _FIXED.size + size]
    if magic != _MAGIC or len(packed) != size or google_crc32c.value(packed) != crc:
        raise BatchError("a shelf is damaged, or of another version")
    head = unpack_map(zstd.decompress(packed), "the head of a shelf")
    if head["batch"] != [stored.size, stored.received]:
        raise BatchError("a shelf is of another batch")
    places = np.frombuffer(head["places"], "<i8").reshape(-1, len(PLACE)).copy()
    begin = _FIXED.size + size
    places[:, 3] += begin
    digests = head["digests"]
    cut = tuple(digests[at : at + _DIGEST] for at in range(0, len(digests), _DIGEST))
    schemas = begin, int(head["schemas"])
    return Shelf(head["extract"], places, cut, schemas, data if whole else None)


def unpack_schemas(packed: bytes) -> dict[bytes, ReadSchema]:
    """The schemas of a shelf by their digests.

    Raises:
        BatchError: they are damaged.
    """
    try:
        content = zstd.decompress(packed) if packed else b""
        unpacker = msgpack.Unpacker(raw=False, strict_map_key=False)
        unpacker.feed(content)
        found = {}
        at = 0
        for record in unpacker:
            end = unpacker.tell()
            digest = hashlib.blake2b(content[at:end], digest_size=_DIGEST).digest()
            found[digest] = unpack_schema(record)[1]
            at = end
    except (zstd.ZstdError, ValueError, msgpack.UnpackException) as e:
        raise BatchError(f"the schemas of a shelf are damaged: {e}") from e
    return found


class Shelves:
    """The shelves below one folder; thread-safe, as a file is whole or not there."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, stored: Stored) -> Path:
        return self._root / stored.vehicle / f"{stored.batch_id}{SUFFIX}"

    def head(self, stored: Stored) -> Shelf | None:
        """What is kept of a batch; None where there is nothing that can be used."""
        try:
            with self.path(stored).open("rb") as file:
                begin = file.read(64 << 10)
                if len(begin) >= _FIXED.size:
                    size = _FIXED.unpack_from(begin)[1] + _FIXED.size
                    begin += file.read(max(0, size - len(begin)))
            return unpack(begin, stored)
        except (OSError, BatchError, KeyError, ValueError, TypeError, zstd.ZstdError):
            return None

    def keep(self, stored: Stored, data: bytes) -> bool:
        """Write a shelf; whether that could be done. It need not survive a power cut."""
        path = self.path(stored)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fd, name = tempfile.mkstemp(suffix=".part", dir=path.parent)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(data)
                Path(name).rename(path)
            except OSError:
                with contextlib.suppress(OSError):
                    Path(name).unlink()
                raise
        except OSError:
            return False
        return True

    def read(self, stored: Stored, pieces: Sequence[tuple[int, int]]) -> list[bytes]:
        """Pieces of a shelf, each (offset, size).

        Raises:
            OSError: it is not there.
            BatchError: it is shorter than it was.
        """
        fd = os.open(self.path(stored), os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = [os.pread(fd, size, offset) for offset, size in pieces]
        finally:
            os.close(fd)
        if any(len(data) != size for data, (_, size) in zip(found, pieces, strict=True)):
            raise BatchError("a shelf is cut")
        return found
