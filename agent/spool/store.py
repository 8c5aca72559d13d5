"""The spool at work: tables in, durable batches out, in a thread of its own."""

import contextlib
import dataclasses
import errno
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.batch.encoder import BatchEncoder, Entry
from agent.batch.format import Record
from agent.batch.reader import pack_anchor
from agent.blocks import SignalTable
from agent.clock import SECOND, Anchor, AnchorBook, BootNs, Clock, Quality, WallNs
from agent.ledger import Ledger
from agent.settings import Batch, Lane, Spool
from agent.spool.filesystem import FileSystem
from agent.spool.folder import Closing, Positions, SpoolFolder, further
from agent.spool.outbox import FolderOutbox, Parcel

log = logging.getLogger("edge_agent.spool")

_BACKLOG_AGE_S = 900.0
"""While no uplink of a stream takes anything, its batches grow to full size, up to this age."""
_RETRY_S = 1.0
_CHUNK_BYTES = 4 << 20
"""A chunk takes no more blocks once their arrays have this size; a chunk holds at most 16 MiB."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclasses.dataclass(frozen=True, slots=True)
class StreamKey:
    """Which batches samples go into: a lane and a set of uplinks."""

    lane: Lane
    uplinks: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.lane}/{'+'.join(self.uplinks)}"


@dataclasses.dataclass(frozen=True, slots=True)
class _Block:
    """What a block of frames gave a stream: made durable whole, or not at all."""

    tables: tuple[SignalTable, ...]
    positions: Positions
    """How far the recordings are read with it."""
    samples: int
    nbytes: int


@dataclasses.dataclass(slots=True)
class _Open:
    """A batch that is being written."""

    batch_id: str
    sequence: int
    path: Path
    handle: int
    encoder: BatchEncoder
    since: BootNs
    durable: int = 0
    """Bytes that are on disk for sure."""
    samples: int = 0
    chunks: int = 0
    keep: bool = False
    """Whether it says anything to a receiver: samples, a tombstone, the end of the run."""
    sealed: bool = False


@dataclasses.dataclass(slots=True)
class _Stream:
    key: StreamKey
    pending: list[_Block] = dataclasses.field(default_factory=list)
    pending_bytes: int = 0
    """With those that are being written just now."""
    positions: Positions = dataclasses.field(default_factory=dict)
    durable_positions: Positions = dataclasses.field(default_factory=dict)
    open: _Open | None = None
    previous: int = 0
    """The sequence of the batch before that a receiver will see, in this stream and run."""
    samples: int = 0
    """Made durable in this run."""
    ended: bool = False
    """The ledger of the end of the run is durable."""


class SpoolStore:
    """Takes tables from the decode thread, makes them durable, hands sealed batches to outboxes.

    `add`, `room`, `seal_now` and `status` may be called from any thread.
    """

    def __init__(
        self,
        root: Path,
        *,
        vehicle: str,
        uplinks: Sequence[str],
        spool: Spool,
        batch: Batch,
        ledger: Ledger,
        clock: Clock,
        header: Mapping[str, Any] | None = None,
        fs: FileSystem | None = None,
        sealed: Callable[[str], None] = lambda _uplink: None,
    ) -> None:
        """Take the folder and find what a run before left.

        `header` adds to the header of every batch; `sealed` is called with the uplink's name when
        a batch waits for it.

        Raises:
            SpoolError: the folder is in use or cannot be written.
        """
        self.folder = SpoolFolder(root, list(uplinks), fs)
        self._fs = self.folder.fs
        self._vehicle = vehicle
        self._settings = spool
        self._batch = batch
        self._ledger = ledger
        self._clock = clock
        self._header = dict(header or {})
        self._sealed = sealed
        self._streams: dict[StreamKey, _Stream] = {}
        self._sequences: dict[Lane, int] = {}
        self._tombstones: dict[str, list[dict[str, Any]]] = {u: [] for u in uplinks}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._ended = False
        self._hurry: threading.Event | None = None
        self._full = False
        """Whether the disk was full in the round before."""
        self._alive_at: dict[str, BootNs] = {}
        self.trouble = ""
        """What the disk does wrong now, a sentence; empty when all is well."""
        found = self.folder.recover()
        self.resume: Mapping[str, Positions] = found.positions
        self._closing = list(found.left_open)
        """Batches that wait to be sealed, published or removed."""
        self._anchors = AnchorBook(clock, found.anchors)
        self.outboxes: dict[str, FolderOutbox] = {}
        for uplink in uplinks:
            parcels = found.parcels[uplink]
            self.outboxes[uplink] = FolderOutbox(
                uplink,
                self.folder,
                parcels,
                functools.partial(self._alive, uplink),
                functools.partial(self._entomb, uplink),
            )
            waiting = sum(p.samples for p in parcels)
            waiting += sum(left.samples for left in self._closing if uplink in left.uplinks)
            spoiled = sum(p.samples for p in found.spoiled[uplink])
            ledger.add(
                "uplink", uplink, found=waiting + spoiled, waiting=waiting, quarantined=spoiled
            )
            for parcel in found.spoiled[uplink]:
                self._entomb(uplink, parcel, "quarantined: its end is damaged")
        self._thread = threading.Thread(target=self._work, name="spool", daemon=True)

    # -- the decode thread's side ------------------------------------------------------------

    def start(self, keys: Sequence[StreamKey], *, thread: bool = True) -> None:
        """Begin; `keys` are the streams of the plan. Without a thread, `commit` does the work."""
        for key in keys:
            stream = self._streams[key] = _Stream(key)
            stream.positions = stream.durable_positions = dict(self.resume.get(key.name, {}))
        if self._closing:
            log.info("%d batches of an earlier run are sealed", len(self._closing))
        self.commit()
        if thread:
            self._thread.start()

    def add(
        self,
        tables: Mapping[StreamKey, Sequence[SignalTable]],
        positions: Positions | None = None,
    ) -> None:
        """Keep what a block gave; `positions` say how far it reaches in a recording."""
        with self._lock:
            for stream in self._streams.values() if positions else ():
                stream.positions = further(stream.positions, positions or {})
            for key, parts in tables.items():
                stream = self._streams[key]
                samples = sum(t.samples for t in parts)
                nbytes = sum(t.nbytes for t in parts)
                if self._ended:
                    self._count(stream, kept=samples, lost_end=samples)
                    continue
                stream.pending.append(_Block(tuple(parts), stream.positions, samples, nbytes))
                stream.pending_bytes += nbytes
                self._count(stream, kept=samples, memory=samples)
            self._shed()
            if not self.trouble and self._in_memory() > self._memory // 4:
                self._wake.set()

    def _count(self, stream: _Stream, **changes: int) -> None:
        for uplink in stream.key.uplinks:
            self._ledger.add("uplink", uplink, **changes)

    @property
    def _memory(self) -> int:
        return self._settings.memory_mb << 20

    def _in_memory(self) -> int:
        return sum(s.pending_bytes for s in self._streams.values())

    def _shed(self) -> None:
        """Over the bound: the oldest blocks of the fullest stream go, and are counted."""
        while self._in_memory() > self._memory:
            stream = max(self._streams.values(), key=lambda s: s.pending_bytes)
            if len(stream.pending) < 2:
                return
            block = stream.pending.pop(0)
            stream.pending_bytes -= block.nbytes
            self._count(stream, memory=-block.samples, lost_disk=block.samples)

    def room(self) -> bool:
        """Whether a recording, which can wait, should go on."""
        with self._lock:
            return self._in_memory() < self._memory // 2

    def date(self, boot: BootNs, wall: WallNs) -> None:
        """A GNSS receiver says what time it was at a boot time."""
        self._anchors.tell(boot, wall)

    def _alive(self, uplink: str) -> None:
        self._alive_at[uplink] = self._clock.boot()

    # -- the spool thread's side -------------------------------------------------------------

    def _work(self) -> None:
        interval = self._settings.commit_interval_s
        while not self._stopping:
            self._wake.wait(interval if not self.trouble else max(interval, _RETRY_S))
            self._wake.clear()
            try:
                self.commit()
            except Exception:
                log.exception("the spool failed")

    def commit(self) -> None:
        """One round: make durable what is pending, seal what is due, keep within the quota.

        An error costs the step in which it happens; the others are done all the same, so that one
        bad file holds up nothing and a full disk is relieved.
        """
        self._round()

    def _round(self, *, final: bool = False) -> bool:
        errors: list[OSError] = []
        hurry = self._hurry
        anchors = self._anchors.look()
        for batch in self._closing:
            if not batch.sealed:
                with _noted(errors):
                    self.folder.seal(batch, self._known_anchors())
        for stream in self._streams.values():
            if final or not self._held(stream):
                with _noted(errors):
                    self._commit_stream(stream, anchors)
            with _noted(errors):
                if final:
                    self._end(stream)
                elif self._due(stream, hurry=hurry is not None):
                    self._seal(stream)
        self._hand_over(errors)
        full = any(e.errno in _FULL for e in errors)
        with _noted(errors):
            self._keep_within_quota(full=full and self._full)
        self._full = full
        if hurry is not None and not errors:
            self._hurry = None
            hurry.set()
        self._tell(errors)
        return not errors

    def _held(self, stream: _Stream) -> bool:
        """Whether a file that was given up after an error has to be cut first.

        It may hold a chunk that is pending again: if both went to disk, a power cut could show the
        samples twice. When memory gets short, the samples are worth more than that.
        """
        uncut = any(b.stream == stream.key.name and not b.sealed for b in self._closing)
        return uncut and self._in_memory() < self._memory // 2

    def _tell(self, errors: Sequence[OSError]) -> None:
        trouble = ""
        if errors:
            trouble = f"the spool cannot be written: {errors[0].strerror or errors[0]}"
        if trouble and trouble != self.trouble:
            log.error("%s; the newest data stays in memory up to its bound", trouble)
        elif self.trouble and not trouble:
            log.warning("the disk works again")
        self.trouble = trouble

    def _commit_stream(self, stream: _Stream, anchors: Sequence[Anchor]) -> None:
        """Write what is pending, in chunks of a bounded size."""
        entries = self._entombed(stream.key)
        if stream.open is not None:
            entries += [(Record.ANCHOR, pack_anchor(anchor)) for anchor in anchors]
        while True:
            blocks = self._take(stream)
            if not blocks and not entries:
                return
            self._write(stream, blocks, entries)
            entries = []
            if stream.open and stream.open.encoder.size >= self._batch.seal_kib << 10:
                self._seal(stream)

    def _take(self, stream: _Stream) -> list[_Block]:
        with self._lock:
            n = nbytes = 0
            while n < len(stream.pending) and nbytes < _CHUNK_BYTES:
                nbytes += stream.pending[n].nbytes
                n += 1
            blocks, stream.pending = stream.pending[:n], stream.pending[n:]
        return blocks

    def _write(self, stream: _Stream, blocks: list[_Block], entries: list[Entry]) -> None:
        """One chunk; after an error the blocks are pending again."""
        tables = [table for block in blocks for table in block.tables]
        samples = sum(block.samples for block in blocks)
        positions = blocks[-1].positions if blocks else {}
        if positions:
            entries = [*entries, (Record.POSITION, dict(positions))]
        try:
            batch = stream.open or self._begin(stream)
            if tables and not batch.samples:
                self._fs.reserve(batch.handle, self._batch.seal_kib << 10)
            if not (data := self._pack(batch, tables, entries)):
                self._close_batch(stream)
                self._written(stream, blocks)
                self._count(stream, memory=-samples, lost_disk=samples)
                return
            self._append(batch, data)
        except OSError:
            self._close_batch(stream)
            with self._lock:
                stream.pending = blocks + stream.pending
                self._shed()
            raise
        if positions:
            stream.durable_positions = positions
        tombstones = [value for kind, value in entries if kind == Record.TOMBSTONE]
        for tombstone in tombstones:
            self._tombstones[tombstone["uplink"]].remove(tombstone)
        batch.samples += samples
        batch.keep |= bool(samples or tombstones)
        stream.samples += samples
        self._written(stream, blocks)
        self._count(stream, memory=-samples, spooled=samples, waiting=samples)

    def _written(self, stream: _Stream, blocks: Sequence[_Block]) -> None:
        with self._lock:
            stream.pending_bytes -= sum(block.nbytes for block in blocks)

    def _pack(self, batch: _Open, tables: list[SignalTable], entries: list[Entry]) -> bytes:
        """A chunk; empty for what cannot be packed, and could not be the next time either."""
        try:
            return batch.encoder.chunk(tables, entries)
        except Exception:
            log.exception("%d tables cannot be packed, and are lost", len(tables))
            return b""

    def _begin(self, stream: _Stream) -> _Open:
        """A new batch, its header durable."""
        key = stream.key
        sequence = self._sequences[key.lane] = self._sequences.get(key.lane, 0) + 1
        batch_id = self.folder.batch_id(key.lane, sequence)
        now = self._clock.boot()
        encoder = BatchEncoder(
            {
                "batch_id": batch_id,
                "vehicle": self._vehicle,
                "install": self.folder.install,
                "run": self.folder.run,
                "lane": key.lane,
                "sequence": sequence,
                "stream": key.name,
                "previous": stream.previous,
                "uplinks": list(key.uplinks),
                "boot_id": self._clock.boot_id,
                "created": {
                    "boot": now,
                    "wall": self._clock.wall(),
                    "quality": self._clock.quality().name.lower(),
                },
                "anchors": [pack_anchor(a) for a in self._known_anchors()],
                "positions": stream.durable_positions,
                **self._header,
            },
            resolution_ns=self._batch.time_resolution_us * 1000,
        )
        handle = self.folder.create(batch_id)
        path = self.folder.open_path(batch_id)
        batch = stream.open = _Open(batch_id, sequence, path, handle, encoder, now)
        try:
            entry = self._ledger_entry(stream, "open")
            self._append(batch, encoder.begin() + encoder.chunk((), [entry]))
            self.folder.sync_open()
        except OSError:
            self._close_batch(stream)
            raise
        return batch

    def _append(self, batch: _Open, data: bytes, *, last: bool = False) -> None:
        self._fs.write_at(batch.handle, batch.durable, data)
        if last:
            self._fs.truncate(batch.handle, batch.durable + len(data))
        self._fs.sync(batch.handle)
        batch.durable += len(data)
        batch.chunks = batch.encoder.chunks

    def _known_anchors(self) -> list[Anchor]:
        """For each boot and quality the newest: nothing else is ever used to date a sample."""
        newest: dict[tuple[str, Quality], Anchor] = {}
        for anchor in self._anchors.all():
            newest[anchor.boot_id, anchor.quality] = anchor
        return list(newest.values())

    def _ledger_entry(self, stream: _Stream, at: str, *, final: bool = False) -> Entry:
        return (
            Record.LEDGER,
            {
                "at": at,
                "final": final,
                "boot": self._clock.boot(),
                "run": self._ledger.snapshot(),
                "stream": {"samples": stream.samples},
            },
        )

    def _due(self, stream: _Stream, *, hurry: bool) -> bool:
        batch = stream.open
        if batch is None or not batch.keep:
            return False
        if hurry or batch.encoder.size >= self._batch.seal_kib << 10:
            return True
        age_s = (self._clock.boot() - batch.since) / SECOND
        if age_s < self._batch.seal_after_s:
            return False
        return age_s >= _BACKLOG_AGE_S or any(map(self._takes, stream.key.uplinks))

    def _takes(self, uplink: str) -> bool:
        """Whether an uplink took something lately, or has nothing to take."""
        if self.outboxes[uplink].waiting()[0] == 0:
            return True
        age = self._clock.boot() - self._alive_at.get(uplink, BootNs(-(10**18)))
        return age < (2 * self._batch.seal_after_s + 5) * SECOND

    def _seal(self, stream: _Stream, *, final: bool = False) -> None:
        batch = stream.open
        if batch is None:
            return
        try:
            entry = self._ledger_entry(stream, "seal", final=final)
            anchors = [pack_anchor(a) for a in self._known_anchors()]
            self._append(
                batch,
                batch.encoder.chunk((), [entry]) + batch.encoder.finish({"anchors": anchors}),
                last=True,
            )
            batch.sealed = batch.keep = True
        finally:
            self._close_batch(stream)

    def _close_batch(self, stream: _Stream) -> None:
        """Nothing more is written to the open batch; after an error it ends at its durable part."""
        batch, stream.open = stream.open, None
        if batch is None:
            return
        with contextlib.suppress(OSError):
            self._fs.close(batch.handle)
        if batch.keep:
            stream.previous = batch.sequence
        self._closing.append(
            Closing(
                batch_id=batch.batch_id,
                path=batch.path,
                stream=stream.key.name,
                lane=stream.key.lane,
                uplinks=stream.key.uplinks,
                end=batch.durable,
                chunks=batch.chunks,
                samples=batch.samples,
                keep=batch.keep,
                footer=batch.sealed,
                sealed=batch.sealed,
                size=batch.durable,
            )
        )

    def _hand_over(self, errors: list[OSError]) -> None:
        """Publish or remove what is closed, once an open batch keeps the positions in it."""
        streams = {stream.key.name: stream for stream in self._streams.values()}
        for name in {batch.stream for batch in self._closing if batch.end}:
            stream = streams.get(name)
            if stream is not None and stream.durable_positions and stream.open is None:
                with _noted(errors):
                    self._begin(stream)
        for batch in list(self._closing):
            stream = streams.get(batch.stream)
            if batch.end and stream and stream.durable_positions and stream.open is None:
                continue
            with _noted(errors):
                if not batch.sealed:
                    continue  # in the next round
                if batch.keep:
                    self._publish(batch)
                else:
                    self.folder.remove(batch)
                self._closing.remove(batch)

    def _publish(self, batch: Closing) -> None:
        """A sealed batch to its outboxes."""
        self.folder.publish(batch)
        for uplink in batch.uplinks:
            if uplink not in self.outboxes:
                continue  # an uplink that agent.toml no longer names: kept until it does
            path = self.folder.parcel_path(uplink, batch.lane, batch.batch_id)
            parcel = Parcel(batch.batch_id, batch.lane, path, batch.size, batch.samples)
            self.outboxes[uplink].add(parcel)
            self._ledger.add("uplink", uplink, batches=1, bytes=batch.size)
            self._sealed(uplink)

    def _entomb(self, uplink: str, parcel: Parcel, reason: str) -> None:
        """Say in a coming batch that this one will never arrive; from any thread."""
        self._tombstones[uplink].append(
            {
                "batch_id": parcel.batch_id,
                "samples": parcel.samples,
                "uplink": uplink,
                "reason": reason[:200],
            }
        )

    def _entombed(self, key: StreamKey) -> list[Entry]:
        return [
            (Record.TOMBSTONE, tombstone)
            for uplink in key.uplinks
            for tombstone in list(self._tombstones[uplink])
        ]

    def _keep_within_quota(self, *, full: bool) -> None:
        """Evict what is too much.

        For the free space only as much as is lacking, then the disk is asked again in the next
        round: some file systems give space back late, and a batch that is being sent keeps its.
        """
        quota = self._settings.quota_mb << 20
        floor = self._settings.free_floor_mb << 20
        lacking = max(floor - self._fs.free_bytes(self.folder.root), int(full))
        while True:
            sizes = {name: box.waiting()[1] for name, box in self.outboxes.items()}
            over = sum(sizes.values()) > quota
            if not sizes or not (over or lacking > 0):
                return
            uplink = max(sizes, key=lambda name: sizes[name])
            victim = self.outboxes[uplink].evict()
            if victim is None:
                return
            lacking -= victim.size
            self._ledger.add("uplink", uplink, waiting=-victim.samples, evicted=victim.samples)
            self._entomb(uplink, victim, "evicted: " + ("quota" if over else "free space"))
            log.warning("evicted %s of uplink %s: the spool is full", victim.batch_id, uplink)

    # -- the end -----------------------------------------------------------------------------

    def stop(self) -> None:
        """Commit and seal everything; what the disk does not take now is counted as lost."""
        if self._ended:
            return
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self._round(final=True):
            self._round(final=True)  # once more, into new files
        with self._lock:
            self._ended = True
            for stream in self._streams.values():
                lost = sum(block.samples for block in stream.pending)
                self._count(stream, memory=-lost, lost_end=lost)
                stream.pending.clear()
                stream.pending_bytes = 0

    def _end(self, stream: _Stream) -> None:
        """Seal with the last ledger of the run, where the run had anything to say."""
        if stream.ended or not (stream.samples or (stream.open and stream.open.keep)):
            return
        if stream.open is None:
            self._begin(stream)
        self._seal(stream, final=True)
        stream.ended = True

    def close(self) -> None:
        """Let go of the folder."""
        for stream in self._streams.values():
            if stream.open is not None:
                with contextlib.suppress(OSError):
                    self._fs.close(stream.open.handle)
                stream.open = None
        self.folder.close()

    def seal_now(self) -> threading.Event:
        """Seal what is open at the next round, whatever its age: nothing more will come.

        The event is set once that is done and outboxes know of it.
        """
        with self._lock:
            if self._hurry is None:
                self._hurry = threading.Event()
            event = self._hurry
        self._wake.set()
        return event

    def status(self) -> dict[str, Any]:
        """For the status socket."""
        return {
            "folder": str(self.folder.root),
            "install": self.folder.install,
            "run": self.folder.run,
            "trouble": self.trouble,
            "memory_bytes": self._in_memory(),
            "lanes": {
                uplink: {
                    lane: {"batches": n, "bytes": size}
                    for lane, (n, size) in box.by_lane().items()
                    if n
                }
                for uplink, box in self.outboxes.items()
            },
            "open": {
                stream.key.name: {
                    "batch_id": batch.batch_id,
                    "durable_bytes": batch.durable,
                    "samples": batch.samples,
                }
                for stream in self._streams.values()
                if (batch := stream.open) is not None
            },
        }


@contextlib.contextmanager
def _noted(errors: list[OSError]) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        errors.append(e)
