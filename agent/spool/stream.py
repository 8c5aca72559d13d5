"""One stream: its blocks into chunks, its chunks into a batch, durable step by step.

After an error the batch ends at its last durable chunk and is handed on to be cut there; the blocks
go back to memory and into a new batch.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.batch.encoder import BatchEncoder, Entry
from agent.batch.format import Record
from agent.batch.reader import pack_anchor
from agent.blocks import Event, Kept, KeptFrames, Reports
from agent.clock import SECOND, Anchor, AnchorBook, BootNs, Clock, Quality
from agent.ledger import Ledger
from agent.settings import Batch, Lane
from agent.spool.ages import Ages, Born
from agent.spool.folder import Closing, SpoolFolder
from agent.spool.memory import Block, Memory, StreamKey
from agent.spool.positions import Positions
from agent.spool.recorded import Span, by_time, joined, length
from agent.spool.tombstones import Tombstones

log = logging.getLogger("edge_agent.spool")


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What all streams of a spool share."""

    folder: SpoolFolder
    settings: Batch
    headers: list[Mapping[str, Mapping[str, Any]]]
    """Of each plan, counted as `Block.epoch` does: profile -> what the header of a batch says."""
    memory: Memory
    tombstones: Tombstones
    anchors: AnchorBook
    ages: Ages
    ledger: Ledger
    clock: Clock
    interval_ns: int
    """Of the time of a recording, this much is one chunk, however fast it is played."""
    closed: Callable[[Closing], None]
    """Takes a batch to which nothing is added any more."""
    sequences: dict[Lane, int] = dataclasses.field(default_factory=dict)

    def known_anchors(self) -> list[Anchor]:
        """For each boot and quality the newest: nothing else is ever used to date a sample."""
        newest: dict[tuple[str, Quality], Anchor] = {}
        for anchor in self.anchors.all():
            newest[anchor.boot_id, anchor.quality] = anchor
        return list(newest.values())


@dataclasses.dataclass(slots=True)
class _Open:
    """A batch that is being written."""

    batch_id: str
    sequence: int
    path: Path
    handle: int
    encoder: BatchEncoder
    born: Born
    durable: int = 0
    """Bytes that are on disk for sure."""
    samples: int = 0
    """With frames and reports, each of which counts as one."""
    frames: int = 0
    reports: int = 0
    events: int = 0
    chunks: int = 0
    tombstones: int = 0
    span: Span | None = None
    """Of the time of a recording."""
    keep: bool = False
    """Whether it says anything to a receiver: samples, events, a tombstone, the end of the run."""
    complete: bool = False
    """Whether it holds the end of an event, for which somebody waits."""
    sealed: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Durable:
    """How far a stream has come for sure: everything up to here survives a power cut."""

    batch_id: str
    sequence: int
    chunks: int
    batch_samples: int
    """Of this batch."""
    samples: int
    """Of this stream in this run."""
    at: BootNs

    def status(self, now: BootNs) -> dict[str, Any]:
        return {
            "batch_id": self.batch_id,
            "sequence": self.sequence,
            "chunks": self.chunks,
            "batch_samples": self.batch_samples,
            "samples": self.samples,
            "age_s": round((now - self.at) / SECOND, 3),
        }


class Stream:
    """Belongs to the spool's thread; `durable` may be read by any.

    Raises (all methods): OSError, as the disk does.
    """

    def __init__(self, key: StreamKey, around: Surroundings, positions: Positions) -> None:
        """`positions`: how far the batches of earlier runs reach."""
        self.key = key
        self._epoch = 0
        self._seal_after_ns = round(around.settings.seal_after_s * SECOND)
        self.durable_positions: Positions = dict(positions)
        self.durable: Durable | None = None
        """The last thing that is on disk for sure."""
        self.samples = 0
        """Made durable in this run, with frames and reports."""
        self.events = 0
        self.ended = False
        """The ledger of the end of the run is durable."""
        self._around = around
        self._fs = around.folder.fs
        self._open: _Open | None = None
        self._previous = 0
        """The sequence of the batch before that a receiver will see, in this stream and run."""

    @property
    def open(self) -> bool:
        """Whether a batch is being written."""
        return self._open is not None

    @property
    def says_something(self) -> bool:
        """Whether the batch that is being written is worth sending."""
        return self._open is not None and self._open.keep

    @property
    def full(self) -> bool:
        """Whether that batch has the size at which it is sealed."""
        batch = self._open
        return batch is not None and batch.encoder.size >= self._around.settings.seal_kib << 10

    @property
    def urgent(self) -> bool:
        """Whether that batch is sealed whatever its size: an event in it is complete."""
        return self._open is not None and self._open.complete

    @property
    def patient(self) -> bool:
        """Whether nobody waits for that batch: it only says now and then how the agent is."""
        batch = self._open
        if batch is None or self.key.lane != "report":
            return False
        return not (batch.samples or batch.complete or batch.tombstones)

    @property
    def since(self) -> BootNs:
        """When that batch was begun; now where there is none."""
        return self._around.clock.boot() if self._open is None else self._open.born.boot

    def status(self) -> dict[str, Any] | None:
        """The batch that is being written, for the status."""
        batch = self._open
        if batch is None:
            return None
        return {
            "batch_id": batch.batch_id,
            "durable_bytes": batch.durable,
            "samples": batch.samples,
        }

    def commit(self, anchors: Sequence[Anchor]) -> None:
        """Write what is pending, in chunks of a bounded size."""
        stones = self._around.tombstones.of(self.key.uplinks)
        entries: list[Entry] = [(Record.TOMBSTONE, stone) for stone in stones]
        if self._open is not None:
            entries += [(Record.ANCHOR, pack_anchor(anchor)) for anchor in anchors]
        while True:
            left_ns = self._seal_after_ns - length(self._open.span if self._open else None)
            blocks = self._around.memory.take(self.key, left_ns)
            if not blocks and not entries:
                return
            self._write(blocks, entries)
            entries = []
            span = self._open.span if self._open else None
            if self.full or self.urgent or length(span) >= self._seal_after_ns:
                self.seal()

    def _write(self, blocks: list[Block], entries: list[Entry]) -> None:
        """One chunk; after an error the blocks are pending again."""
        memory = self._around.memory
        kept = [each for block in blocks for each in block.kept]
        samples = sum(block.samples for block in blocks)
        positions = blocks[-1].positions if blocks else {}
        if positions:
            entries = [*entries, (Record.POSITION, dict(positions))]
        stones = [value for kind, value in entries if kind == Record.TOMBSTONE]
        try:
            if blocks and blocks[0].epoch != self._epoch:
                self.seal()
                self._epoch = blocks[0].epoch
            batch = self._open or self.begin()
            if samples and not batch.samples:
                self._fs.reserve(batch.handle, self._around.settings.seal_kib << 10)
            if not (data := _packed(batch, kept, entries, self._around.interval_ns)):
                self._close()
                memory.done(self.key, blocks)
                memory.count(self.key, memory=-samples, lost_disk=samples)
                return
            self._append(batch, data)
        except OSError:
            self._close()
            memory.give_back(self.key, blocks)
            raise
        if positions:
            self.durable_positions = positions
        self._around.tombstones.durable(stones)
        events = [each for each in kept if isinstance(each, Event)]
        batch.samples += samples
        batch.frames += sum(each.samples for each in kept if isinstance(each, KeptFrames))
        batch.reports += sum(each.samples for each in kept if isinstance(each, Reports))
        batch.events += len(events)
        batch.complete |= any(event.complete for event in events)
        batch.tombstones += len(stones)
        for block in blocks:
            batch.span = joined(batch.span, block.span)
        batch.keep |= bool(samples or events or stones)
        self.samples += samples
        self.events += len(events)
        self._note(batch)
        memory.done(self.key, blocks)
        memory.count(self.key, memory=-samples, spooled=samples, waiting=samples)

    def begin(self) -> _Open:
        """A new batch, its header durable."""
        around, key = self._around, self.key
        sequence = around.sequences[key.lane] = around.sequences.get(key.lane, 0) + 1
        batch_id = around.folder.batch_id(key.lane, sequence)
        clock = around.clock
        born = Born(clock.boot_id, clock.boot(), around.ages.uptime())
        encoder = BatchEncoder(
            {
                "batch_id": batch_id,
                "install": around.folder.install,
                "run": around.folder.run,
                "lane": key.lane,
                "sequence": sequence,
                "stream": key.name,
                "previous": self._previous,
                "uplinks": list(key.uplinks),
                "boot_id": born.boot_id,
                "created": {
                    "boot": born.boot,
                    "wall": clock.wall(),
                    "quality": clock.quality().name.lower(),
                    "uptime": born.uptime,
                },
                "anchors": [pack_anchor(a) for a in around.known_anchors()],
                "positions": self.durable_positions,
                **_of_profile(around.headers[self._epoch], key.profile),
            },
            resolution_ns=around.settings.time_resolution_us * 1000,
        )
        handle = around.folder.create(batch_id)
        path = around.folder.open_path(batch_id)
        batch = self._open = _Open(batch_id, sequence, path, handle, encoder, born)
        try:
            entry = self._ledger_entry("open")
            self._append(batch, encoder.begin() + encoder.chunk((), [entry]))
            around.folder.sync_open()
        except OSError:
            self._close()
            raise
        self._note(batch)
        return batch

    def _note(self, batch: _Open) -> None:
        self.durable = Durable(
            batch.batch_id,
            batch.sequence,
            batch.chunks,
            batch.samples,
            self.samples,
            self._around.clock.boot(),
        )

    def _append(self, batch: _Open, data: bytes, *, last: bool = False) -> None:
        self._fs.write_at(batch.handle, batch.durable, data)
        if last:
            self._fs.truncate(batch.handle, batch.durable + len(data))
        self._fs.sync(batch.handle)
        batch.durable += len(data)
        batch.chunks = batch.encoder.chunks

    def _ledger_entry(self, at: str, *, final: bool = False) -> Entry:
        return (
            Record.LEDGER,
            {
                "at": at,
                "final": final,
                "boot": self._around.clock.boot(),
                "run": self._around.ledger.snapshot(),
                "stream": {
                    "samples": self.samples,
                    **({"events": self.events} if self.events else {}),
                },
            },
        )

    def seal(self, *, final: bool = False) -> None:
        """End the batch that is being written, where there is one."""
        batch = self._open
        if batch is None:
            return
        try:
            entry = self._ledger_entry("seal", final=final)
            anchors = [pack_anchor(a) for a in self._around.known_anchors()]
            footer = {
                "anchors": anchors,
                "tombstones": batch.tombstones,
                "sealed": {
                    "boot": self._around.clock.boot(),
                    "uptime": self._around.ages.uptime(),
                },
            }
            data = batch.encoder.chunk((), [entry]) + batch.encoder.finish(footer)
            self._append(batch, data, last=True)
            batch.sealed = batch.keep = True
            self._note(batch)
        finally:
            self._close()

    def end(self) -> None:
        """Seal with the last ledger of the run, where the run had anything to say."""
        if self.ended or not (self.samples or self.events or self.says_something):
            return
        if self._open is None:
            self.begin()
        self.seal(final=True)
        self.ended = True

    def drop(self) -> None:
        """Let go of the file; what is durable in it is found at the next start."""
        batch, self._open = self._open, None
        if batch is not None:
            with contextlib.suppress(OSError):
                self._fs.close(batch.handle)

    def _close(self) -> None:
        """Nothing more is written to the open batch; after an error it ends at its durable part."""
        batch = self._open
        if batch is None:
            return
        self.drop()
        if batch.keep:
            self._previous = batch.sequence
        self._around.closed(
            Closing(
                batch_id=batch.batch_id,
                path=batch.path,
                stream=self.key.name,
                lane=self.key.lane,
                uplinks=self.key.uplinks,
                end=batch.durable,
                chunks=batch.chunks,
                samples=batch.samples,
                frames=batch.frames,
                reports=batch.reports,
                events=batch.events,
                keep=batch.keep,
                born=batch.born,
                tombstones=batch.tombstones,
                footer=batch.sealed,
                sealed=batch.sealed,
                size=batch.durable,
            )
        )


def _of_profile(headers: Mapping[str, Mapping[str, Any]], profile: str) -> Mapping[str, Any]:
    return headers.get(profile) or headers[""]


def _packed(batch: _Open, kept: list[Kept], entries: list[Entry], interval_ns: int) -> bytes:
    """A chunk; empty for what cannot be packed, and could not be the next time either."""
    try:
        return b"".join(
            batch.encoder.chunk(part, entries if last else (), continued=not last)
            for last, part in by_time(kept, interval_ns)
        )
    except Exception:
        log.exception("%d tables and events cannot be packed, and are lost", len(kept))
        return b""
