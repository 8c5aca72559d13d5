"""The pure half of writing a batch: tables and records in, bytes to append out."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any

from agent.batch.columns import State, pack_tables
from agent.batch.format import (
    CHUNKS_PER_FRAME,
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
from agent.batch.schema import pack_schema
from agent.blocks import SignalTable, TableSchema, concatenate
from agent.clock import MILLISECOND

_P = zstd.CompressionParameter
_OPTIONS = {
    # A second of signals is some hundred bytes to some ten kilobytes: small tables that are
    # searched well (and matches of 3 bytes) pack it better than a high level's large ones, at a
    # tenth of the time; the benchmarks print the figures.
    int(_P.window_log): WINDOW_LOG,
    int(_P.strategy): int(zstd.Strategy.btultra),
    int(_P.hash_log): 16,
    int(_P.chain_log): 16,
    int(_P.search_log): 5,
    int(_P.target_length): 32,
    int(_P.min_match): 3,
}

Entry = tuple[Record, dict[str, Any]]


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
        self.size = 0

    def begin(self) -> bytes:
        return self._count(pack_header(self._header))

    def chunk(self, tables: Iterable[SignalTable], entries: Sequence[Entry] = ()) -> bytes:
        """One chunk with these tables and records; empty bytes where there is nothing to write."""
        new_frame = self.chunks % CHUNKS_PER_FRAME == 0
        if new_frame:
            self._state.clear()
        samples, parts = self._pack(tables)
        parts += [pack_record(kind, value) for kind, value in entries]
        if not parts:
            return b""
        last = self.chunks % CHUNKS_PER_FRAME == CHUNKS_PER_FRAME - 1
        content = b"".join(parts)
        payload = (
            self._stream.compress(content, zstd.ZstdCompressor.FLUSH_FRAME)
            if last
            else self._stream.compress(content, zstd.ZstdCompressor.FLUSH_BLOCK)
        )
        self.chunks += 1
        self.samples += samples
        return self._count(pack_chunk(payload, NEW_FRAME if new_frame else 0))

    def finish(self, footer: dict[str, Any] | None = None) -> bytes:
        """The footer, which seals the batch."""
        return self._count(
            pack_footer(
                {
                    "chunks": self.chunks,
                    "samples": self.samples,
                    "first": self._first_ns,
                    "last": self._last_ns,
                    **(footer or {}),
                }
            )
        )

    def _count(self, data: bytes) -> bytes:
        self.size += len(data)
        return data

    def _pack(self, tables: Iterable[SignalTable]) -> tuple[int, list[bytes]]:
        groups: dict[tuple[TableSchema, str], list[SignalTable]] = {}
        for table in tables:
            if len(table):
                groups.setdefault((table.schema, table.campaign), []).append(table)
        parts: list[bytes] = []
        records: list[list[tuple[int, SignalTable]]] = []
        samples = room = 0
        for key in groups:
            if key not in self._schemas:
                schema_id = self._schemas[key] = len(self._schemas)
                parts.append(pack_record(Record.SCHEMA, pack_schema(schema_id, *key)))
        for schema_id, key in sorted(
            ((self._schemas[k], k) for k in groups), key=operator.itemgetter(0)
        ):
            table = concatenate(groups[key])
            samples += table.samples
            self._note_times(table)
            width = len(table.schema.signals) + 1
            step = max(1, MAX_VALUES // width)
            for begin in range(0, len(table), step):
                piece = table if len(table) <= step else table.take(slice(begin, begin + step))
                if begin or width * len(piece) > room:
                    records.append([])
                    room = MAX_VALUES
                records[-1].append((schema_id, piece))
                room -= width * len(piece)
        for record in records:
            packed = pack_tables(record, self._state, self._resolution_ns)
            parts.append(pack_record(Record.SAMPLES, packed))
        return samples, parts

    def _note_times(self, table: SignalTable) -> None:
        first, last = int(table.time.min()), int(table.time.max())
        self._first_ns = first if self._first_ns is None else min(first, self._first_ns)
        self._last_ns = last if self._last_ns is None else max(last, self._last_ns)
