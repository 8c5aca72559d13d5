"""The pure half of writing a batch: what is kept and records in, bytes to append out."""

import dataclasses
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from agent.batch.columns import State, pack_tables
from agent.batch.format import (
    CHUNKS_PER_FRAME,
    CONTINUED,
    MAX_CHUNK_CONTENT,
    MAX_RECORD,
    MAX_VALUES,
    NEW_FRAME,
    WINDOW_LOG,
    Record,
    pack_chunk,
    pack_footer,
    pack_header,
    pack_record,
    zstd,
)
from agent.batch.frames import RESOLUTION_NS, joined, pack_frames, pieces, unpacked_bytes
from agent.batch.reports import (
    joined_reports,
    pack_reports,
    report_pieces,
    reports_bytes,
)
from agent.batch.schema import pack_schema
from agent.blocks import (
    Event,
    Int64,
    Kept,
    KeptFrames,
    Reports,
    SignalTable,
    TableSchema,
    TimeBase,
    concatenate,
)
from agent.clock import MILLISECOND

_P = zstd.CompressionParameter
_OPTIONS = {
    # A second of signals is some hundred bytes to some ten kilobytes: small tables that are
    # searched well (and matches of 3 bytes) pack it better than a high level's large ones, at a
    # tenth of the time; the benchmarks print the figures.
    int(_P.window_log): WINDOW_LOG,
    int(_P.strategy): int(zstd.Strategy.btlazy2),
    int(_P.hash_log): 16,
    int(_P.chain_log): 16,
    int(_P.search_log): 5,
    int(_P.target_length): 32,
    int(_P.min_match): 3,
}

Entry = tuple[Record, dict[str, Any]]


@dataclasses.dataclass(slots=True)
class _Part:
    """A record, or the tables that become one: they are packed when their zstd frame is known."""

    record: bytes = b""
    tables: list[tuple[int, SignalTable]] = dataclasses.field(default_factory=list)
    room: int = 0
    """The most that it takes, packed or unpacked, where that is not the length of the record."""

    @property
    def size(self) -> int:
        return self.room or len(self.record)


class BatchEncoder:
    """Encodes one batch file from its first byte to its last.

    Every method returns the bytes that it added; they must be appended in that order.
    """

    def __init__(self, header: dict[str, Any], *, resolution_ns: int = MILLISECOND) -> None:
        """Begin a batch; `header` holds at least `batch_id`, `resolution_ns` is added to it."""
        self._header = {**header, "resolution_ns": resolution_ns}
        self._resolution_ns = resolution_ns
        self._schemas: dict[tuple[TableSchema, str], int] = {}
        self._state: State = {}
        self._stream = zstd.ZstdCompressor(options=_OPTIONS)
        self._first_ns: int | None = None
        self._last_ns: int | None = None
        self.chunks = 0
        self.samples = 0
        """With frames and reports, each of which counts as one."""
        self.frames = 0
        self.reports = 0
        self.events = 0
        self.size = 0

    def begin(self) -> bytes:
        return self._count(pack_header(self._header))

    def chunk(
        self, kept: Iterable[Kept], entries: Sequence[Entry] = (), *, continued: bool = False
    ) -> bytes:
        """A chunk with these rows and records; empty bytes where there is nothing to write.

        Too much for one becomes several, which recovery keeps or cuts off together; with
        `continued` also together with the chunk that follows.
        """
        every = list(kept)
        parts = self._parts(each for each in every if isinstance(each, SignalTable))
        parts += self._frames(each for each in every if isinstance(each, KeptFrames))
        parts += self._reports(each for each in every if isinstance(each, Reports))
        parts += self._events(each for each in every if isinstance(each, Event))
        parts += [_Part(pack_record(kind, value)) for kind, value in entries]
        contents: list[list[_Part]] = []
        room = 0
        for part in parts:
            if part.size > room:
                contents.append([])
                room = MAX_CHUNK_CONTENT
            contents[-1].append(part)
            room -= part.size
        return b"".join(
            self._chunk(content, CONTINUED if continued or i < len(contents) - 1 else 0)
            for i, content in enumerate(contents)
        )

    def _chunk(self, parts: Sequence[_Part], flags: int) -> bytes:
        place = self.chunks % CHUNKS_PER_FRAME
        if place == 0:
            flags |= NEW_FRAME
            self._state.clear()
        content = b"".join(
            part.record
            or pack_record(
                Record.SAMPLES, pack_tables(part.tables, self._state, self._resolution_ns)
            )
            for part in parts
        )
        payload = (
            self._stream.compress(content, zstd.ZstdCompressor.FLUSH_FRAME)
            if place == CHUNKS_PER_FRAME - 1
            else self._stream.compress(content, zstd.ZstdCompressor.FLUSH_BLOCK)
        )
        self.chunks += 1
        return self._count(pack_chunk(payload, flags))

    def finish(self, footer: dict[str, Any] | None = None) -> bytes:
        """The footer, which seals the batch."""
        return self._count(
            pack_footer(
                {
                    "chunks": self.chunks,
                    "samples": self.samples,
                    "first": self._first_ns,
                    "last": self._last_ns,
                    **({"frames": self.frames} if self.frames else {}),
                    **({"reports": self.reports} if self.reports else {}),
                    **({"events": self.events} if self.events else {}),
                    **(footer or {}),
                }
            )
        )

    def _count(self, data: bytes) -> bytes:
        self.size += len(data)
        return data

    def _parts(self, tables: Iterable[SignalTable]) -> list[_Part]:
        """Schemas that are new, then the tables by schema, in records of bounded size."""
        groups: dict[tuple[TableSchema, str], list[SignalTable]] = {}
        for table in tables:
            if len(table):
                groups.setdefault((table.schema, table.campaign), []).append(table)
        parts: list[_Part] = []
        for key in groups:
            if key not in self._schemas:
                schema_id = self._schemas[key] = len(self._schemas)
                parts.append(_Part(pack_record(Record.SCHEMA, pack_schema(schema_id, *key))))
        now = _Part()
        values = MAX_VALUES
        times: list[Int64] = []
        for schema_id, key in sorted(
            ((self._schemas[k], k) for k in groups), key=operator.itemgetter(0)
        ):
            table = concatenate(groups[key])
            self.samples += table.samples
            times.append(table.time)
            columns = len(table.schema.signals) + 1
            row_bytes = 8 * columns + sum(p.shape[1] for p in table.payloads)
            step = max(1, min(MAX_VALUES // columns, MAX_RECORD // row_bytes))
            for begin in range(0, len(table), step):
                piece = table if len(table) <= step else table.take(slice(begin, begin + step))
                size = row_bytes * len(piece) + 20 * columns
                full = values + columns * len(piece) > MAX_VALUES or now.size + size > MAX_RECORD
                if begin or full:
                    now = _Part()
                    values = 0
                    parts.append(now)
                now.tables.append((schema_id, piece))
                now.room += size
                values += columns * len(piece)
        if times:
            self._note_times(np.concatenate(times))
        return parts

    def _frames(self, kept: Iterable[KeptFrames]) -> list[_Part]:
        """A record for each bus, campaign and clock; several where there is much."""
        groups: dict[tuple[str, str, TimeBase], list[KeptFrames]] = {}
        for each in kept:
            if len(each):
                key = (each.block.bus, each.campaign, each.block.clock)
                groups.setdefault(key, []).append(each)
        parts = []
        resolution_ns = min(RESOLUTION_NS, self._resolution_ns)
        for group in groups.values():
            frames = joined(group)
            self.samples += len(frames)
            self.frames += len(frames)
            self._note_times(frames.block.time)
            for piece in pieces(frames):
                record = pack_record(Record.FRAMES, pack_frames(piece, resolution_ns))
                parts.append(_Part(record, room=max(unpacked_bytes(piece), len(record))))
        return parts

    def _reports(self, kept: Iterable[Reports]) -> list[_Part]:
        """A record for each form and clock; several where there is much."""
        groups: dict[tuple[str, TimeBase], list[Reports]] = {}
        for each in kept:
            if len(each):
                groups.setdefault((each.form, each.clock), []).append(each)
        parts = []
        for group in groups.values():
            reports = joined_reports(group)
            self.samples += len(reports)
            self.reports += len(reports)
            self._note_times(reports.time)
            for piece in report_pieces(reports):
                record = pack_record(Record.REPORTS, pack_reports(piece))
                parts.append(_Part(record, room=reports_bytes(piece)))
        return parts

    def _events(self, kept: Iterable[Event]) -> list[_Part]:
        parts = [_Part(pack_record(Record.EVENT, event.value)) for event in kept]
        self.events += len(parts)
        return parts

    def _note_times(self, times: Int64) -> None:
        first, last = int(times.min()), int(times.max())
        self._first_ns = first if self._first_ns is None else min(first, self._first_ns)
        self._last_ns = last if self._last_ns is None else max(last, self._last_ns)
