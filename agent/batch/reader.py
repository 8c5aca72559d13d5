"""Reading one batch as it is; `dated` reads several together.

Nothing in a file is believed: every length is checked against what is there, what a chunk unpacks
to is bounded, and a chunk that fails costs itself and the rest of its zstd frame.
"""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.batch.columns import ReadSchema, State, unpack_tables
from agent.batch.format import (
    CHUNK_HEAD,
    CONTINUED,
    END_MAGIC,
    END_SIZE,
    FOOTER,
    MAX_CHUNK_CONTENT,
    NEW_FRAME,
    WINDOW_LOG,
    ChunkHead,
    Record,
    chunk_is_whole,
    footer_from_tail,
    unpack_chunk,
    unpack_header,
    unpack_map,
    unpack_records,
    zstd,
)
from agent.batch.frames import MAX_FRAME_BYTES, unpack_frames, unpacked_bytes
from agent.batch.reports import MAX_REPORT_BYTES, reports_bytes, unpack_reports
from agent.batch.schema import unpack_schema
from agent.clock import Anchor, BootNs, Quality, WallNs
from agent.errors import BatchError

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SEARCH_BYTES = 128 << 20
_DECODER_OPTIONS = {int(zstd.DecompressionParameter.window_log_max): WINDOW_LOG + 3}


@dataclasses.dataclass(slots=True)
class Scan:
    """What a file holds by its chunk heads and checksums, without decoding."""

    chunks: int = 0
    bad_chunks: int = 0
    footer: dict[str, Any] | None = None
    end: int = 0
    """Offset behind the last whole chunk that needs no other to follow."""
    trailing: int = 0
    """Bytes behind `end` that are not zero padding."""

    @property
    def samples(self) -> int | None:
        """How many values the footer says; None of a file that is not sealed."""
        samples = self.footer.get("samples") if self.footer else None
        return samples if isinstance(samples, int) else None

    @property
    def sealed(self) -> bool:
        return self.footer is not None

    @property
    def recovered(self) -> bool:
        return bool(self.footer and self.footer.get("recovered"))

    @property
    def whole(self) -> bool:
        """Sealed, and nothing is missing."""
        return (
            self.footer is not None
            and not self.bad_chunks
            and not self.trailing
            and self.footer.get("chunks") == self.chunks
        )


def scan_chunks(data: bytes, offset: int) -> Scan:
    """Walk the chunks from an offset (the end of the header)."""
    scan = Scan(end=offset)
    chunks = 0
    for at, head in _chunks(data, offset):
        if head is None:
            scan.bad_chunks += 1
            continue
        end = at + CHUNK_HEAD + head.size
        if head.flags & FOOTER:
            try:
                scan.footer = unpack_map(data[at + CHUNK_HEAD : end], "the footer")
            except BatchError:
                scan.bad_chunks += 1
            if data[end + 4 : end + END_SIZE] == END_MAGIC:
                end += END_SIZE
            scan.end = end
            break
        chunks += 1
        if not head.flags & CONTINUED:
            scan.chunks, scan.end = chunks, end
    scan.trailing = len(data[scan.end :].rstrip(b"\0"))
    if scan.footer is None:
        # Behind damage it is found from the back.
        scan.footer = footer_from_tail(data)
    if scan.footer is not None:
        promised = scan.footer.get("chunks")
        if isinstance(promised, int) and promised > scan.chunks:
            scan.bad_chunks = promised - scan.chunks
    return scan


def _chunks(data: bytes, offset: int) -> Iterator[tuple[int, ChunkHead | None]]:
    """Offsets and heads of the whole chunks; a head of None stands for a stretch that is bad."""
    view = memoryview(data)
    used = len(data.rstrip(b"\0"))
    patience = _SEARCH_BYTES
    while True:
        head = unpack_chunk(view, offset)
        if head is not None and chunk_is_whole(view, offset, head):
            yield offset, head
            offset += CHUNK_HEAD + head.size
            continue
        if offset >= used:
            return
        if head is not None:
            after = offset + CHUNK_HEAD + head.size
            following = unpack_chunk(view, after)
            if following is not None and chunk_is_whole(view, after, following):
                yield offset, None
                offset = after
                continue
        found, patience = _resynchronise(data, offset + 1, patience)
        if found is None:
            if head is not None:
                yield offset, None
            return
        yield offset, None
        offset = found


def _resynchronise(data: bytes, offset: int, patience: int) -> tuple[int | None, int]:
    """The next whole chunk that begins a zstd frame, behind a damaged length.

    `patience` is how many bytes may be summed up in vain, so that a hostile file costs little.
    """
    at = data.find(_ZSTD_MAGIC, offset + CHUNK_HEAD)
    while at >= 0 and patience > 0:
        begin = at - CHUNK_HEAD
        head = unpack_chunk(data, begin)
        if head is not None and head.flags & NEW_FRAME:
            if chunk_is_whole(data, begin, head):
                return begin, patience
            patience -= head.size
        patience -= CHUNK_HEAD
        at = data.find(_ZSTD_MAGIC, at + 1)
    return None, patience


class BatchReader:
    """One batch file: `header`, `scan()` and `records()`.

    `lost_chunks` counts, while `records()` runs, what could not be read; `notes` says why, in
    sentences.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the header.

        Raises:
            BatchError: the file cannot be read, is no batch, or is of a newer format.
        """
        self.path = Path(path)
        try:
            # Read and not mapped: the spool may cut a file that is open.
            self._data = self.path.read_bytes()
        except OSError as e:
            raise BatchError(f"{self.path}: cannot be read: {e.strerror}") from e
        self._view = memoryview(self._data)
        self.header, self._begin = unpack_header(self._view, str(self.path))
        resolution = self.header.get("resolution_ns")
        if not isinstance(resolution, int) or not 0 < resolution <= 10**10:
            raise BatchError(f"{self.path}: the header names no time resolution")
        self._resolution_ns = resolution
        self.lost_chunks = 0
        self.notes: list[str] = []

    @property
    def size(self) -> int:
        return len(self._view)

    def scan(self) -> Scan:
        return scan_chunks(self._data, self._begin)

    def records(self) -> Iterator[tuple[str, Any]]:
        """(kind, value) of every record that can be read, in order.

        `kind` is the lower-case name of a `Record`; the value of `samples` is a SignalTable (one
        item a table), of `frames` a KeptFrames, of `reports` a Reports, of all others the map.
        Unknown records are skipped.
        """
        self.lost_chunks = 0
        self.notes = []
        scan = self.scan()
        schemas: dict[int, ReadSchema] = {}
        state: State = {}
        stream: zstd.ZstdDecompressor | None = None
        good = 0
        for at, head in _chunks(self._data, self._begin):
            if head is None:
                stream = None
                self._lose(at, "its checksum is wrong")
                continue
            if head.flags & FOOTER or (scan.footer is None and at >= scan.end):
                break
            if head.flags & NEW_FRAME:
                stream = zstd.ZstdDecompressor(options=_DECODER_OPTIONS)
                state.clear()
            if stream is None:
                self._lose(at, "it continues a damaged one")
                continue
            payload = self._view[at + CHUNK_HEAD : at + CHUNK_HEAD + head.size]
            try:
                items = self._unpack(_inflate(stream, payload), schemas, state)
            except BatchError as e:
                stream = None
                self._lose(at, str(e))
                continue
            good += 1
            yield from items
        promised = scan.footer.get("chunks") if scan.footer else None
        if isinstance(promised, int):
            self.lost_chunks = max(self.lost_chunks, promised - good)

    def _lose(self, at: int, why: str) -> None:
        self.lost_chunks += 1
        if len(self.notes) < 10:
            self.notes.append(f"{self.path}: the chunk at byte {at} cannot be read: {why}")

    def _unpack(
        self, content: bytes, schemas: dict[int, ReadSchema], state: State
    ) -> list[tuple[str, Any]]:
        items: list[tuple[str, Any]] = []
        room = MAX_FRAME_BYTES
        report_room = MAX_REPORT_BYTES
        for kind, body in unpack_records(memoryview(content)):
            if kind not in Record.__members__.values():
                continue
            value = unpack_map(body, f"a record of type {kind}")
            if kind == Record.SCHEMA:
                schema_id, schema = unpack_schema(value)
                schemas[schema_id] = schema
                items.append(("schema", value))
            elif kind == Record.SAMPLES:
                tables = unpack_tables(value, schemas, state, self._resolution_ns)
                items += [("samples", table) for table in tables]
            elif kind == Record.FRAMES:
                frames = unpack_frames(value, room)
                room -= unpacked_bytes(frames)
                items.append(("frames", frames))
            elif kind == Record.REPORTS:
                reports = unpack_reports(value, report_room)
                report_room -= reports_bytes(reports)
                items.append(("reports", reports))
            else:
                items.append((Record(kind).name.lower(), value))
        return items

    def totals(self) -> dict[str, int]:
        """What can be read, as a footer says it: samples; frames, reports, events where any are."""
        counts = {"samples": 0, "frames": 0, "reports": 0, "events": 0}
        for kind, value in self.records():
            if kind in ("samples", "frames", "reports"):
                counts["samples"] += value.samples
            if kind in ("frames", "reports"):
                counts[kind] += value.samples
            elif kind == "event":
                counts["events"] += 1
        return {name: n for name, n in counts.items() if n or name == "samples"}

    def count_samples(self) -> int:
        """How many values, frames and reports can be read."""
        return self.totals()["samples"]

    def anchors(self) -> list[Anchor]:
        """All clock anchors that the file holds."""
        footer = self.scan().footer
        found = list(self.header.get("anchors") or ())
        if footer is not None and isinstance(footer.get("anchors"), list):
            found += footer["anchors"]
        else:
            found += [value for kind, value in self.records() if kind == "anchor"]
        return [a for a in map(unpack_anchor, found) if a is not None]


def _inflate(stream: zstd.ZstdDecompressor, payload: memoryview) -> bytes:
    try:
        content = stream.decompress(bytes(payload), MAX_CHUNK_CONTENT)
    except zstd.ZstdError as e:
        raise BatchError(f"its content is damaged: {e}") from e
    except EOFError as e:
        raise BatchError("it continues a zstd frame that has ended") from e
    if not stream.eof and not stream.needs_input:
        raise BatchError(f"it unpacks to more than {MAX_CHUNK_CONTENT >> 20} MiB")
    return content


def pack_anchor(anchor: Anchor) -> dict[str, Any]:
    return {
        "boot_id": anchor.boot_id,
        "boot": anchor.boot,
        "wall": anchor.wall,
        "quality": anchor.quality.name.lower(),
    }


def unpack_anchor(value: Any) -> Anchor | None:
    """An anchor from outside; None where it is not one."""
    try:
        return Anchor(
            str(value["boot_id"]),
            BootNs(int(value["boot"])),
            WallNs(int(value["wall"])),
            Quality[str(value["quality"]).upper()],
        )
    except (KeyError, TypeError, ValueError):
        return None
