"""A second reader of batch files, written from docs/batch-format.md alone."""

import struct
import sys
from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import msgpack

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Record = dict[str, Any]
KINDS = ("int64", "uint64", "float32", "float64")
MASK = 2**64 - 1
NOT_UNDERSTOOD = (ValueError, LookupError, TypeError, ArithmeticError, EOFError, zstd.ZstdError)


@dataclass
class Table:
    schema: Record
    time: list[int]
    columns: dict[str, list[int | float | bytes]]


@dataclass
class Raw:
    """A record of raw frames: (time, id, flags, length, bytes) of each."""

    record: Record
    frames: list[tuple[int, int, int, int, bytes]]


@dataclass
class Reported:
    """A record of reports: (time, body) of each."""

    record: Record
    reports: list[tuple[int, bytes]]


@dataclass
class Batch:
    header: Record
    footer: Record | None = None
    tables: list[Table] = field(default_factory=list)
    raw: list[Raw] = field(default_factory=list)
    reported: list[Reported] = field(default_factory=list)
    records: list[tuple[int, Record]] = field(default_factory=list)
    lost: int = 0


class Bytes:
    """Hands out bytes from the front, and refuses when there are not enough."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.data) - self.at:
            raise ValueError("the bytes end too early")
        self.at += count
        return self.data[self.at - count : self.at]

    def integer(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def integers(self, count: int) -> list[int]:
        """One byte w, then the integers of w bytes."""
        width = self.integer(1)
        if width not in (1, 2, 4, 8):
            raise ValueError(f"integers of {width} bytes")
        return [self.integer(width) for _ in range(count)]

    def widths(self, count: int) -> list[int]:
        widths = list(self.take(count))
        if not set(widths) <= {0, 1, 2, 4, 8}:
            raise ValueError("a width that there is not")
        return widths

    def plain_planes(self, count: int, width: int) -> list[int]:
        """Numbers as byte planes."""
        planes = self.take(count * width)
        return [int.from_bytes(planes[row::count], "little") for row in range(count)]

    def planes(self, count: int, width: int) -> list[int]:
        """Zigzag coded numbers as byte planes."""
        return [unzigzag(z) for z in self.plain_planes(count, width)]

    def wide_column(self, count: int) -> list[int]:
        """One byte w, then the numbers as byte planes; all zero where w is."""
        (width,) = self.widths(1)
        return self.plain_planes(count, width) if width else [0] * count

    def finish(self) -> None:
        if self.at != len(self.data):
            raise ValueError("bytes are left over")


def unzigzag(z: int) -> int:
    return (z >> 1) ^ -(z & 1)


def signed(word: int) -> int:
    return word - 2**64 if word >> 63 else word


def value(kind: str, word: int) -> int | float:
    if kind == "float32":
        return float(struct.unpack("<f", (word & 0xFFFFFFFF).to_bytes(4, "little"))[0])
    if kind == "float64":
        return float(struct.unpack("<d", word.to_bytes(8, "little"))[0])
    return signed(word) if kind == "int64" else word


def raw_frames(body: Record, room: int) -> Raw:
    """A record of raw frames, if these take at most `room` bytes."""
    n, count = body["n"], body["kinds"]
    if not 1 <= n <= room // 15 or not 1 <= count <= n or not 1 <= body["resolution_ns"] <= 10**10:
        raise ValueError("impossible sizes")
    if not (isinstance(body["bus"], str) and isinstance(body.get("campaign", ""), str)):
        raise TypeError("a name that is no text")
    if body["clock"] not in ("boot", "recorded", "wall"):
        raise ValueError("a clock that there is not")
    data = Bytes(body["columns"])
    ids = [data.integer(4) for _ in range(count)]
    flags = [data.integer(1) for _ in range(count)]
    lengths = [data.integer(2) for _ in range(count)]
    if lengths != sorted(lengths) or n * frame_size(lengths[-1]) > room:
        raise ValueError("lengths that cannot be")
    steps = [signed_in_64(body["first"])]
    for z in data.wide_column(n - 1):
        steps.append(signed(steps[-1] + unzigzag(z) & MASK))
    kinds = data.wide_column(n)
    if set(kinds) != set(range(count)):
        raise ValueError("a kind that is none, or has no frame")
    payloads = {(kind, 0): data.take(lengths[kind]) for kind in range(count)}
    for length in sorted(set(lengths) - {0}):
        places = [
            (kind, number)
            for kind in range(count)
            if lengths[kind] == length
            for number in range(1, kinds.count(kind))
        ]
        planes = data.take(length * len(places))
        for row, (kind, number) in enumerate(places):
            changes = planes[row :: len(places)]
            before = payloads[kind, number - 1]
            payloads[kind, number] = bytes(
                (a + b) % 256 for a, b in zip(before, changes, strict=True)
            )
    data.finish()
    seen = [0] * count
    frames = []
    for step, kind in zip(steps, kinds, strict=True):
        payload = payloads[kind, seen[kind]] if lengths[kind] else b""
        seen[kind] += 1
        time = step * body["resolution_ns"]
        frames.append((time, ids[kind], flags[kind], lengths[kind], payload))
    return Raw(body, frames)


def reports(body: Record, room: int) -> Reported:
    """A record of reports, if these take at most `room` bytes."""
    n, bodies = body["n"], body["bodies"]
    if type(n) is not int or n < 1 or 64 * n + len(bodies) > room:
        raise ValueError("impossible sizes")
    if not isinstance(body["form"], str) or not isinstance(bodies, bytes):
        raise TypeError("a form that is no text, or bodies that are no bytes")
    if body["clock"] not in ("boot", "recorded", "wall"):
        raise ValueError("a clock that there is not")
    columns, rest = Bytes(body["columns"]), Bytes(bodies)
    times = [signed_in_64(body["first"])]
    for z in columns.wide_column(n - 1):
        times.append(signed(times[-1] + unzigzag(z) & MASK))
    found = [rest.take(length) for length in columns.wide_column(n)]
    columns.finish()
    rest.finish()
    return Reported(body, list(zip(times, found, strict=True)))


def frame_size(longest: int) -> int:
    return 15 + (8 if longest <= 8 else max(64, longest))


def signed_in_64(number: int) -> int:
    if type(number) is not int or not -(2**63) <= number < 2**63:
        raise ValueError("not an i64")
    return number


def unpack(data: bytes) -> Record:
    body = msgpack.unpackb(data, strict_map_key=False)
    if not isinstance(body, dict):
        raise TypeError("not a map")
    return body


class Frame:
    """One zstd frame: the decompressor, and what the deltas of its chunks are based on."""

    def __init__(self, schemas: dict[int, Record], resolution: int) -> None:
        self.schemas, self.resolution = schemas, resolution
        self.unzip = zstd.ZstdDecompressor()
        self.rows: dict[int, int] = {}  # by schema: the number of rows of the previous table
        self.last: dict[int, list[int]] = {}  # by schema: the last row of the previous table

    def chunk(self, payload: bytes, batch: Batch) -> None:
        """Add what the chunk holds; all of it, or nothing where it is not understood."""
        unzipped = self.unzip.decompress(payload, 64 * 2**20 + 1)
        if len(unzipped) > 64 * 2**20 or self.unzip.unused_data:
            raise ValueError("more than a chunk may hold")
        content = Bytes(unzipped)
        tables: list[Table] = []
        raw: list[Raw] = []
        records: list[tuple[int, Record]] = []
        reported: list[Reported] = []
        room = report_room = 16 * 2**20
        while content.at < len(content.data):
            kind = content.integer(1)
            body = content.take(content.integer(4))
            if kind == 1:
                schema = unpack(body)
                self.schemas[schema["id"]] = schema
            elif kind == 2:
                tables += self.samples(unpack(body))
            elif kind == 3:
                raw.append(raw_frames(unpack(body), room))
                longest = max(length for _, _, _, length, _ in raw[-1].frames)
                room -= len(raw[-1].frames) * frame_size(longest)
            elif kind == 8:
                reported.append(reports(unpack(body), report_room))
                report_room -= sum(64 + len(report) for _, report in reported[-1].reports)
            elif 4 <= kind <= 10:
                records.append((kind, unpack(body)))
        batch.tables += tables
        batch.raw += raw
        batch.reported += reported
        batch.records += records

    def samples(self, body: Record) -> list[Table]:
        data, payload = Bytes(body["columns"]), Bytes(body.get("payload", b""))
        ids = data.integers(body["n"])
        for index in range(1, len(ids)):
            ids[index] += ids[index - 1]
        isfirst, rows = [], []
        for schema_id, z in zip(ids, data.integers(body["n"]), strict=True):
            isfirst.append(schema_id not in self.rows)
            self.rows[schema_id] = self.rows.get(schema_id, 0) + unzigzag(z)
            rows.append(self.rows[schema_id])
            if rows[-1] < 1:
                raise ValueError("a table without rows")

        schemas = [self.schemas[schema_id] for schema_id in ids]
        signals = [  # those that have a column, in the order of the columns
            [s for kind in KINDS for s in schema["signals"] if s["kind"] == kind]
            for schema in schemas
        ]
        widths = [data.widths(1 + len(of_table)) for of_table in signals]

        first_count = sum(len(w) for w, first in zip(widths, isfirst, strict=True) if first)
        first_widths = data.widths(first_count)
        first_words = [0] * first_count
        for width in (1, 2, 4, 8):
            places = [place for place, w in enumerate(first_widths) if w == width]
            for place, word in zip(places, data.planes(len(places), width), strict=True):
                first_words[place] = word & MASK

        deltas: dict[tuple[int, int], list[int]] = {}  # by table and column
        for width in (1, 2, 4, 8):
            for table, of_table in enumerate(widths):
                for column, w in enumerate(of_table):
                    if w == width:
                        deltas[table, column] = data.planes(rows[table] - isfirst[table], width)
        data.finish()

        tables = []
        for table, schema in enumerate(schemas):
            first = isfirst[table]
            columns: list[list[int]] = []
            for column in range(len(widths[table])):
                words = [first_words.pop(0) if first else self.last[ids[table]][column]]
                for delta in deltas.get((table, column), [0] * (rows[table] - first)):
                    words.append((words[-1] + delta) & MASK)
                columns.append(words if first else words[1:])
            self.last[ids[table]] = [words[-1] for words in columns]
            raw: dict[str, list[int | float | bytes]] = {}
            for signal, words in zip(signals[table], columns[1:], strict=True):
                raw[signal["name"]] = [value(signal["kind"], word) for word in words]
            for signal in schema["signals"]:
                if signal["kind"] == "bytes":
                    length = (signal["bits"] + 7) // 8
                    raw[signal["name"]] = [payload.take(length) for _ in range(rows[table])]
            time = [signed(word) * self.resolution for word in columns[0]]
            tables.append(Table(schema, time, raw))
        payload.finish()
        return tables


def crc(data: bytes) -> int:
    return int(google_crc32c.value(data))


def chunk_end(data: bytes, at: int) -> int:
    return at + 8 + int.from_bytes(data[at + 4 : at + 7], "little")


def good(data: bytes, at: int) -> bool:
    """Whether a whole chunk with the right CRC stands there."""
    end = chunk_end(data, at)
    right = int.from_bytes(data[at : at + 4], "little")
    return at + 8 < end <= len(data) and crc(data[at + 4 : end]) == right


def at_end(data: bytes, at: int) -> bool:
    """Whether the chunks end there: at the last byte, at zeros only, or at the mark of the end."""
    return at <= len(data) and (
        not any(data[at:]) or (at + 8 == len(data) and data.endswith(b"BAEV"))
    )


def behind_damage(data: bytes, at: int) -> int:
    """Where to go on after the chunk there was found damaged."""
    following = chunk_end(data, at)
    if good(data, following):
        return following
    magic = data.find(b"\x28\xb5\x2f\xfd", at + 9)
    while magic >= 0:
        if data[magic - 1] & 1 and good(data, magic - 8):
            return magic - 8
        magic = data.find(b"\x28\xb5\x2f\xfd", magic + 1)
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    if data.endswith(b"BAEV") and footer > at and good(data, footer):
        return footer
    return following if following > at + 8 and at_end(data, following) else len(data)


def read(data: bytes) -> Batch:
    start = Bytes(data)
    fixed = start.take(20)
    magic, version, _, features, size = struct.unpack("<8sHHII", fixed)
    if magic != b"\x89VEAB\r\n\x1a" or version != 1 or features != 1 or size > 2**20:
        raise ValueError("not a batch of format 1")
    header_crc = start.integer(4)
    packed = start.take(size)
    if crc(fixed + packed) != header_crc:
        raise ValueError("the header is damaged")
    batch = Batch(msgpack.unpackb(packed))
    resolution = batch.header["resolution_ns"]
    schemas: dict[int, Record] = {}
    frame: Frame | None = None  # none: its deltas are lost, wait for the next one
    at = start.at
    while not at_end(data, at):
        if not good(data, at):
            whole = at + 8 < chunk_end(data, at) <= len(data)
            at, frame = behind_damage(data, at), None
            if whole or at < len(data) or data.endswith(b"BAEV"):
                batch.lost += 1  # otherwise it was being written when the power went
            continue
        flags, payload = data[at + 7], data[at + 8 : chunk_end(data, at)]
        at = chunk_end(data, at)
        try:
            if flags & 2:
                batch.footer = unpack(payload)
                break
            if flags & 1:
                frame = Frame(schemas, resolution)
            if frame is None:
                batch.lost += 1
                continue
            frame.chunk(payload, batch)
        except NOT_UNDERSTOOD:
            batch.lost += 1
            frame = None
    return batch
