"""The spool at work: tables in, durable batches out, in a thread of its own."""

import contextlib
import dataclasses
import functools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.batch.encoder import BatchEncoder, Entry
from agent.batch.format import Record
from agent.batch.reader import pack_anchor
from agent.blocks import SignalTable
from agent.clock import SECOND, Anchor, AnchorBook, BootNs, Clock
from agent.errors import SpoolError
from agent.ledger import Ledger
from agent.settings import Batch, Lane, Spool
from agent.spool.filesystem import FileSystem
from agent.spool.folder import Positions, SpoolFolder
from agent.spool.outbox import FolderOutbox, Parcel

log = logging.getLogger("edge_agent.spool")

_BACKLOG_AGE_S = 900.0
"""While no uplink of a stream takes anything, its batches grow to full size, up to this age."""
_RETRY_S = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class StreamKey:
    """Which batches samples go into: a lane and a set of uplinks."""

    lane: Lane
    uplinks: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.lane}/{'+'.join(self.uplinks)}"


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
    sealed: bool = False


@dataclasses.dataclass(slots=True)
class _Stream:
    key: StreamKey
    pending: list[SignalTable] = dataclasses.field(default_factory=list)
    pending_bytes: int = 0
    positions: Positions = dataclasses.field(default_factory=dict)
    durable_positions: Positions = dataclasses.field(default_factory=dict)
    open: _Open | None = None
    previous: int = 0
    """The sequence of the batch before, in this stream and run."""
    samples: int = 0
    """Made durable in this run."""


class SpoolStore:
    """Takes tables from the decode thread, makes them durable, hands sealed batches to outboxes.

    `add`, `status` and `anchor` may be called from any thread.
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
        """Take the folder and recover what a run before left.

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
        self._orphans: list[tuple[StreamKey, _Open]] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._hurry = False
        self._alive_at: dict[str, BootNs] = {}
        self.trouble = ""
        """What the disk does wrong now, a sentence; empty when all is well."""
        try:
            found = self.folder.recover()
        except OSError as e:
            raise SpoolError(f"{root}: cannot be recovered: {e.strerror}") from e
        self.resume: Mapping[str, Positions] = found.positions
        self._left_open = found.left_open
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
            samples = sum(p.samples for p in parcels)
            samples += sum(left.samples for left in found.left_open if uplink in left.uplinks)
            ledger.add("uplink", uplink, found=samples, waiting=samples)
        self._thread = threading.Thread(target=self._work, name="spool", daemon=True)

    # -- the decode thread's side ------------------------------------------------------------

    def start(self, keys: Sequence[StreamKey]) -> None:
        """Begin; `keys` are the streams of the plan.

        Raises:
            SpoolError: the folder cannot be written.
        """
        try:
            for key in keys:
                stream = self._streams[key] = _Stream(key)
                stream.positions = stream.durable_positions = dict(self.resume.get(key.name, {}))
                if stream.positions:
                    self._begin(stream)  # keeps the positions from now on
            for left in self._left_open:
                if left.samples:
                    self._hand_over(left.lane, left.uplinks, left.batch_id, left.samples)
                else:
                    self._fs.unlink(left.path)
        except OSError as e:
            raise SpoolError(f"{self.folder.root}: cannot be recovered: {e.strerror or e}") from e
        if self._left_open:
            log.info("%d batches of an earlier run were sealed", len(self._left_open))
        self._thread.start()

    def add(
        self,
        tables: Mapping[StreamKey, Sequence[SignalTable]],
        positions: Positions | None = None,
    ) -> None:
        """Keep what a block gave; `positions` say how far it reaches in a recording."""
        with self._lock:
            for stream in self._streams.values() if positions else ():
                stream.positions = _further(stream.positions, positions or {})
            for key, parts in tables.items():
                stream = self._streams[key]
                samples = sum(t.samples for t in parts)
                stream.pending += parts
                stream.pending_bytes += sum(t.nbytes for t in parts)
                for uplink in key.uplinks:
                    self._ledger.add("uplink", uplink, kept=samples, memory=samples)
            self._shed()
            if sum(s.pending_bytes for s in self._streams.values()) > self._memory // 4:
                self._wake.set()

    @property
    def _memory(self) -> int:
        return self._settings.memory_mb << 20

    def _shed(self) -> None:
        """Over the bound: the oldest tables of the fullest stream go, and are counted."""
        while sum(s.pending_bytes for s in self._streams.values()) > self._memory:
            stream = max(self._streams.values(), key=lambda s: s.pending_bytes)
            if len(stream.pending) < 2:
                return
            table = stream.pending.pop(0)
            stream.pending_bytes -= table.nbytes
            for uplink in stream.key.uplinks:
                self._ledger.add("uplink", uplink, memory=-table.samples, lost_disk=table.samples)

    def room(self) -> bool:
        """Whether a recording, which can wait, should go on."""
        with self._lock:
            return sum(s.pending_bytes for s in self._streams.values()) < self._memory // 2

    def _alive(self, uplink: str) -> None:
        self._alive_at[uplink] = self._clock.boot()

    # -- the spool thread's side -------------------------------------------------------------

    def _work(self) -> None:
        interval = self._settings.commit_interval_s
        while not self._stopping:
            self._wake.wait(interval if not self.trouble else max(interval, _RETRY_S))
            self._wake.clear()
            self.commit()

    def commit(self) -> None:
        """One round: make durable what is pending, seal what is due, keep within the quota."""
        try:
            anchor = self._anchors.look()
            for stream in self._streams.values():
                self._commit_stream(stream, anchor)
            for stream in self._streams.values():
                if self._due(stream):
                    self._seal(stream)
            self._finish_orphans()
            self._keep_within_quota()
        except OSError as e:
            self._fail(e)
        else:
            if self.trouble:
                log.warning("the disk works again")
            self.trouble = ""

    def _fail(self, error: OSError) -> None:
        trouble = f"the spool cannot be written: {error.strerror or error}"
        if trouble != self.trouble:
            log.error("%s; the newest data stays in memory up to its bound", trouble)
        self.trouble = trouble

    def _commit_stream(self, stream: _Stream, anchor: Anchor | None) -> None:
        with self._lock:
            tables, stream.pending = stream.pending, []
            size, stream.pending_bytes = stream.pending_bytes, 0
            positions = stream.positions
        entries = self._entombed(stream.key)
        if anchor is not None and stream.open is not None:
            entries.append((Record.ANCHOR, pack_anchor(anchor)))
        if tables and positions:
            entries.append((Record.POSITION, dict(positions)))
        if not tables and not entries:
            return
        try:
            batch = stream.open or self._begin(stream)
            if tables and not batch.samples:
                self._fs.reserve(batch.handle, self._batch.seal_kib << 10)
            self._append(batch, batch.encoder.chunk(tables, entries))
        except OSError:
            with self._lock:
                stream.pending = tables + stream.pending
                stream.pending_bytes += size
            self._abandon(stream)
            raise
        if tables:
            stream.durable_positions = positions
        samples = sum(t.samples for t in tables)
        batch.samples += samples
        stream.samples += samples
        self._clear_tombstones(entries)
        for uplink in stream.key.uplinks:
            self._ledger.add("uplink", uplink, memory=-samples, spooled=samples, waiting=samples)

    def _begin(self, stream: _Stream) -> _Open:
        """A new batch, its header durable."""
        key = stream.key
        sequence = self._sequences[key.lane] = self._sequences.get(key.lane, 0) + 1
        batch_id = self.folder.batch_id(key.lane, sequence)
        path = self.folder.open_path(batch_id)
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
                "anchors": [pack_anchor(a) for a in self._anchors.all()],
                "positions": stream.durable_positions,
                **self._header,
            },
            resolution_ns=self._batch.time_resolution_us * 1000,
        )
        batch = _Open(batch_id, sequence, path, self._fs.create(path), encoder, now)
        try:
            entry = self._ledger_entry(stream, "open")
            self._append(batch, encoder.begin() + encoder.chunk((), [entry]))
            self._fs.sync_folder(self.folder.open_folder)
        except OSError:
            self._orphan(stream.key, batch)
            raise
        stream.open = batch
        stream.previous = sequence
        return batch

    def _append(self, batch: _Open, data: bytes, *, last: bool = False) -> None:
        self._fs.write_at(batch.handle, batch.durable, data)
        if last:
            self._fs.truncate(batch.handle, batch.durable + len(data))
        self._fs.sync(batch.handle)
        batch.durable += len(data)
        batch.chunks = batch.encoder.chunks

    def _ledger_entry(self, stream: _Stream, at: str, final: bool = False) -> Entry:
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

    def _due(self, stream: _Stream) -> bool:
        batch = stream.open
        if batch is None or not batch.samples:
            return False
        if self._hurry or batch.encoder.size >= self._batch.seal_kib << 10:
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

    def _seal(self, stream: _Stream, final: bool = False) -> None:
        batch = stream.open
        if batch is None:
            return
        try:
            entry = self._ledger_entry(stream, "seal", final)
            anchors = [pack_anchor(a) for a in self._anchors.all()]
            self._append(
                batch,
                batch.encoder.chunk((), [entry]) + batch.encoder.finish({"anchors": anchors}),
                last=True,
            )
            batch.sealed = True
            stream.open = None
            if stream.durable_positions:
                self._begin(stream)  # keeps the positions before this one can go
        except OSError:
            self._abandon(stream, batch)
            raise
        self._orphan(stream.key, batch)
        self._finish_orphans()

    def _abandon(self, stream: _Stream, batch: _Open | None = None) -> None:
        """After an error: what is durable of a batch stays; the rest goes into a new one."""
        batch = batch or stream.open
        if batch is not None:
            if stream.open is batch:
                stream.open = None
            self._orphan(stream.key, batch)

    def _orphan(self, key: StreamKey, batch: _Open) -> None:
        """Nothing more is written to this batch; it waits to be sealed and handed over."""
        with contextlib.suppress(OSError):
            self._fs.close(batch.handle)
        self._orphans.append((key, batch))

    def _finish_orphans(self) -> None:
        while self._orphans:
            key, batch = self._orphans[0]
            if batch.durable:
                if not batch.sealed:
                    self.folder.seal_at(
                        batch.path,
                        batch.durable,
                        batch.chunks,
                        batch.samples,
                        self._anchors.all(),
                    )
                    batch.sealed = True
                self._hand_over(key.lane, key.uplinks, batch.batch_id, batch.samples)
            else:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.unlink(batch.path)
            self._orphans.pop(0)

    def _hand_over(self, lane: Lane, uplinks: tuple[str, ...], batch_id: str, samples: int) -> None:
        """A sealed batch to its outboxes."""
        self.folder.publish(batch_id, lane, uplinks)
        for uplink in uplinks:
            if uplink not in self.outboxes:
                continue  # an uplink that agent.toml no longer names: kept until it does
            path = self.folder.parcel_path(uplink, lane, batch_id)
            size = self._fs.size(path)
            self.outboxes[uplink].add(Parcel(batch_id, lane, path, size, samples))
            self._ledger.add("uplink", uplink, batches=1, bytes=size)
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
            for tombstone in self._tombstones[uplink]
        ]

    def _clear_tombstones(self, entries: Sequence[Entry]) -> None:
        for kind, tombstone in entries:
            if kind == Record.TOMBSTONE:
                self._tombstones[tombstone["uplink"]].remove(tombstone)

    def _keep_within_quota(self) -> None:
        quota = self._settings.quota_mb << 20
        floor = self._settings.free_floor_mb << 20
        while True:
            sizes = {name: box.waiting()[1] for name, box in self.outboxes.items()}
            if not sizes:
                return
            over = sum(sizes.values()) > quota
            if not over and self._fs.free_bytes(self.folder.root) >= floor:
                return
            uplink = max(sizes, key=lambda name: sizes[name])
            victim = self.outboxes[uplink].evict()
            if victim is None:
                return
            self._ledger.add("uplink", uplink, waiting=-victim.samples, evicted=victim.samples)
            self._entomb(uplink, victim, "evicted: " + ("quota" if over else "free space"))
            log.warning("evicted %s of uplink %s: the spool is full", victim.batch_id, uplink)

    # -- the end -----------------------------------------------------------------------------

    def stop(self) -> None:
        """Commit and seal everything; what the disk does not take now is counted as lost."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            for stream in self._streams.values():
                self._commit_stream(stream, None)
            for stream in self._streams.values():
                if stream.samples and stream.open is None:
                    self._begin(stream)
                if stream.samples:
                    self._seal(stream, final=True)
            self._finish_orphans()
        except OSError as e:
            self._fail(e)
        for stream in self._streams.values():
            lost = sum(t.samples for t in stream.pending)
            for uplink in stream.key.uplinks:
                self._ledger.add("uplink", uplink, memory=-lost, lost_end=lost)
            stream.pending.clear()

    def close(self) -> None:
        """Let go of the folder."""
        self.folder.close()

    def seal_now(self) -> None:
        """Seal what is open at the next round, whatever its age: nothing more will come."""
        self._hurry = True
        self._wake.set()

    def status(self) -> dict[str, Any]:
        """For the status socket."""
        return {
            "folder": str(self.folder.root),
            "install": self.folder.install,
            "run": self.folder.run,
            "trouble": self.trouble,
            "memory_bytes": sum(s.pending_bytes for s in self._streams.values()),
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
                    "batch_id": stream.open.batch_id,
                    "durable_bytes": stream.open.durable,
                    "samples": stream.open.samples,
                }
                for stream in self._streams.values()
                if stream.open is not None
            },
        }


def _further(old: Positions, new: Positions) -> Positions:
    """Positions after a block; a position in the same recording never goes back."""
    merged = dict(old)
    for bus, position in new.items():
        known = merged.get(bus)
        if (
            known is None
            or not same_recording(known, position)
            or position["frames"] > known["frames"]
        ):
            merged[bus] = position
    return merged


def same_recording(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two positions speak of the same file."""
    return a.get("path") == b.get("path") and a.get("size") == b.get("size")
