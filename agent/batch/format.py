"""The layout of a batch file: numbers and checks that writer, reader and recovery share.

All integers are little-endian.

    file   = magic[8] format:u16 zero:u16 features:u32 size:u32 crc:u32 header[size] chunk*
    chunk  = crc:u32 size:u24 flags:u8 payload[size]
    record = type:u8 size:u32 msgpack-map[size]

    end    = size:u32 "BAEV"                        behind the footer chunk: its size, head included

`crc` is CRC32C, in the file header over all before it and the header map after it, in a chunk over
everything that follows it. A chunk of size 0 (or the end of the file) is the end.
"""

import dataclasses
import enum
import struct
import sys
from typing import Any, Final

import google_crc32c
import msgpack
import numpy as np

from agent.errors import BatchError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = ["zstd"]

MAGIC: Final = b"\x89VEAB\r\n\x1a"
FORMAT: Final = 1
FEATURE_ZSTD: Final = 1
KNOWN_FEATURES: Final = FEATURE_ZSTD
MEDIA_TYPE: Final = "application/vnd.vehicle-edge-agent.batch"
END_MAGIC: Final = b"BAEV"
SUFFIX: Final = ".batch"

CHUNKS_PER_FRAME: Final = 16
NEW_FRAME: Final = 1
FOOTER: Final = 2
CONTINUED: Final = 4

MAX_HEADER: Final = 1 << 20
MAX_CHUNK: Final = (1 << 24) - 1
MAX_CHUNK_CONTENT: Final = 12 << 20
"""Even where nothing can be compressed, this fits into a chunk."""
MAX_RECORD: Final = 4 << 20
"""What the writer puts into one samples record, before it is packed."""
MAX_VALUES: Final = 1 << 20
"""Rows times columns of one samples record, at the most."""
WINDOW_LOG: Final = 18

_FIXED: Final = struct.Struct("<8sHHIII")
_CHUNK: Final = struct.Struct("<II")
_RECORD: Final = struct.Struct("<BI")
CHUNK_HEAD: Final = _CHUNK.size
END_SIZE: Final = 8


class Record(enum.IntEnum):
    """Types of records; a reader skips those it does not know."""

    SCHEMA = 1
    SAMPLES = 2
    FRAMES = 3
    EVENT = 4
    LEDGER = 5
    ANCHOR = 6
    HEALTH = 7
    REPORTS = 8
    TOMBSTONE = 9
    POSITION = 10


@dataclasses.dataclass(frozen=True, slots=True)
class ChunkHead:
    crc: int
    size: int
    flags: int


def pack_map(value: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True, default=_plain)
    return packed


def _plain(value: object) -> object:
    """A number that came out of an array."""
    if isinstance(value, np.generic):
        plain: object = value.item()
        return plain
    raise TypeError(f"{type(value).__name__} has no place in a record")


def unpack_map(data: bytes | memoryview, what: str) -> dict[str, Any]:
    """A msgpack map with text keys, from outside.

    Raises:
        BatchError: it is not one.
    """
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=False)
    except (ValueError, RecursionError, msgpack.UnpackException) as e:
        raise BatchError(f"{what} is no msgpack map: {e}") from e
    if not isinstance(value, dict):
        raise BatchError(f"{what} is no msgpack map")
    return value


def pack_header(header: dict[str, Any]) -> bytes:
    body = pack_map(header)
    fixed = _FIXED.pack(MAGIC, FORMAT, 0, FEATURE_ZSTD, len(body), 0)[:-4]
    return fixed + struct.pack("<I", google_crc32c.value(fixed + body)) + body


def unpack_header(data: bytes | memoryview, name: str) -> tuple[dict[str, Any], int]:
    """The header map of a file and the offset of its first chunk.

    Raises:
        BatchError: no batch, a damaged header, or a format that this version does not know.
    """
    if len(data) < _FIXED.size or bytes(data[:8]) != MAGIC:
        raise BatchError(f"{name}: is not a batch file")
    _, version, _, features, size, crc = _FIXED.unpack_from(data)
    if version != FORMAT or features != KNOWN_FEATURES:
        raise BatchError(
            f"{name}: is of format {version} with features {features:#x}; this version reads "
            f"format {FORMAT} with features {KNOWN_FEATURES:#x}: install a newer one"
        )
    end = _FIXED.size + size
    if size > MAX_HEADER or end > len(data):
        raise BatchError(f"{name}: the header is cut")
    body = bytes(data[_FIXED.size : end])
    if google_crc32c.value(bytes(data[: _FIXED.size - 4]) + body) != crc:
        raise BatchError(f"{name}: the header is damaged (its checksum is wrong)")
    return unpack_map(body, f"{name}: the header"), end


def pack_chunk(payload: bytes, flags: int) -> bytes:
    if len(payload) > MAX_CHUNK:
        raise ValueError(f"a chunk of {len(payload)} bytes")
    rest = struct.pack("<I", len(payload) | flags << 24) + payload
    return struct.pack("<I", google_crc32c.value(rest)) + rest


def unpack_chunk(data: bytes | memoryview, offset: int) -> ChunkHead | None:
    """The head of the chunk at an offset; None at the end, also where it cannot be one."""
    if offset + CHUNK_HEAD > len(data):
        return None
    crc, size_and_flags = _CHUNK.unpack_from(data, offset)
    head = ChunkHead(crc, size_and_flags & MAX_CHUNK, size_and_flags >> 24)
    if head.size == 0 or offset + CHUNK_HEAD + head.size > len(data):
        return None
    return head


def pack_footer(footer: dict[str, Any]) -> bytes:
    """The footer chunk, plain msgpack so that it can be read without the rest, and the end mark."""
    chunk = pack_chunk(pack_map(footer), FOOTER)
    return chunk + struct.pack("<I4s", len(chunk), END_MAGIC)


def footer_from_tail(tail: bytes) -> dict[str, Any] | None:
    """The footer from the last bytes of a file; None where it has none or more are needed."""
    if len(tail) < END_SIZE + CHUNK_HEAD:
        return None
    size, magic = struct.unpack("<I4s", tail[-END_SIZE:])
    begin = len(tail) - END_SIZE - size
    if magic != END_MAGIC or begin < 0:
        return None
    head = unpack_chunk(tail, begin)
    if head is None or not head.flags & FOOTER or not chunk_is_whole(tail, begin, head):
        return None
    try:
        return unpack_map(tail[begin + CHUNK_HEAD : begin + CHUNK_HEAD + head.size], "the footer")
    except BatchError:
        return None


def chunk_is_whole(data: bytes | memoryview, offset: int, head: ChunkHead) -> bool:
    crc: int = google_crc32c.value(bytes(data[offset + 4 : offset + CHUNK_HEAD + head.size]))
    return crc == head.crc


def pack_record(kind: Record, value: dict[str, Any]) -> bytes:
    body = pack_map(value)
    return _RECORD.pack(kind, len(body)) + body


def unpack_records(data: memoryview) -> list[tuple[int, memoryview]]:
    """The records of a chunk's content, as (type, bytes of the map).

    Raises:
        BatchError: a length that reaches beyond the content.
    """
    records = []
    offset = 0
    while offset < len(data):
        if offset + _RECORD.size > len(data):
            raise BatchError("a record is cut")
        kind, size = _RECORD.unpack_from(data, offset)
        offset += _RECORD.size
        if offset + size > len(data):
            raise BatchError("a record is longer than its chunk")
        records.append((kind, data[offset : offset + size]))
        offset += size
    return records
