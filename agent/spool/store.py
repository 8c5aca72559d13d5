"""The spool at work: tables in, durable batches out, in a thread of its own."""

import contextlib
import datetime as dt
import errno
import functools
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.blocks import Kept
from agent.clock import (
    SECOND,
    Anchor,
    AnchorBook,
    BootNs,
    Clock,
    Quality,
    WallNs,
    best_anchor,
)
from agent.errors import SpoolError
from agent.ledger import Ledger
from agent.settings import Batch, Spool
from agent.spool.ages import Ages
from agent.spool.filesystem import FileSystem
from agent.spool.folder import Closing, SpoolFolder
from agent.spool.memory import Memory, StreamKey
from agent.spool.outbox import FolderOutbox
from agent.spool.parcel import Parcel
from agent.spool.positions import Positions
from agent.spool.quota import Keeper
from agent.spool.recovery import UNREADABLE, recover
from agent.spool.shelf import Shelf
from agent.spool.stream import Stream, Surroundings
from agent.spool.tombstones import Tombstones

__all__ = ["QUARANTINE_FILES", "SpoolStore", "StreamKey"]

log = logging.getLogger("edge_agent.spool")

_BACKLOG_AGE_S = 900.0
"""While no uplink of a stream takes anything, its batches grow to full size, up to this age."""
_REPORT_AGE_S = 600.0
"""Records of how the agent is come once a minute: each by itself would cost seven times as much."""
_RETRY_S = 1.0
_JUMP_S = 1.0
"""What a clock must jump by to be worth a line in the log."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
QUARANTINE_FILES = 100
"""How many files are kept aside for each uplink; the oldest goes first."""


class SpoolStore:
    """Takes tables from the decode thread, makes them durable, hands sealed batches to outboxes.

    `add`, `room`, `seal_now`, `resend` and `status` may be called from any thread.
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
        shares: Mapping[str, float] | None = None,
        fs: FileSystem | None = None,
        sealed: Callable[[str], None] = lambda _uplink: None,
    ) -> None:
        """Take the folder and find what a run before left.

        `shares` are the weights by which the uplinks share the quota, 1 where none is named;
        `sealed` is called with the uplink's name when a batch waits for it.

        Raises:
            SpoolError: the folder is in use or cannot be written.
        """
        self.folder = SpoolFolder(root, list(uplinks), fs)
        self._vehicle = vehicle
        self._settings = spool
        self._batch = batch
        self._ledger = ledger
        self._clock = clock
        self._sealed = sealed
        self._streams: dict[StreamKey, Stream] = {}
        self._tombstones = Tombstones(uplinks)
        self._memory = Memory(spool.memory_mb << 20, ledger)
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._ended = False
        self._hurries: list[threading.Event] = []
        self._full = False
        """Whether the disk was full in the round before."""
        self._alive_at: dict[str, BootNs] = {}
        self.trouble = ""
        """What the disk does wrong now, a sentence; empty when all is well."""
        self._sent = Shelf(self.folder, self.folder.sent_folder, uplinks)
        self._quarantine = Shelf(
            self.folder,
            self.folder.quarantine_folder,
            (*uplinks, UNREADABLE),
            most=QUARANTINE_FILES,
        )
        found = recover(self.folder, self._quarantine)
        self.resume: Mapping[str, Positions] = found.positions
        self._closing = list(found.left_open)
        """Batches that wait to be sealed, published or removed."""
        self._anchors = AnchorBook(clock, found.anchors)
        self._said: dict[bool, Anchor] = {}
        """What the log was told last, of GNSS and of the computer's own clock."""
        ages = Ages(clock, self._anchors, found.born)
        self._around = Surroundings(
            folder=self.folder,
            settings=batch,
            headers=[{"": {"vehicle": vehicle}}],
            memory=self._memory,
            tombstones=self._tombstones,
            anchors=self._anchors,
            ages=ages,
            ledger=ledger,
            clock=clock,
            interval_ns=round(spool.commit_interval_s * SECOND),
            closed=self._closing.append,
        )
        self.outboxes: dict[str, FolderOutbox] = {}
        for uplink in uplinks:
            parcels = found.parcels[uplink]
            self.outboxes[uplink] = FolderOutbox(
                uplink,
                self.folder,
                parcels,
                sent=self._sent,
                quarantine=self._quarantine,
                uptime=ages.uptime if spool.keep_sent_hours else None,
                acknowledged=functools.partial(self._alive, uplink),
                lost=functools.partial(self._tombstones.add, uplink),
                resent=functools.partial(self._resent, uplink),
            )
            waiting = sum(p.samples for p in parcels)
            waiting += sum(left.samples for left in self._closing if uplink in left.uplinks)
            spoiled = sum(p.samples for p, _ in found.spoiled[uplink])
            ledger.add(
                "uplink", uplink, found=waiting + spoiled, waiting=waiting, quarantined=spoiled
            )
            for parcel, stones in found.spoiled[uplink]:
                self._tombstones.add(uplink, parcel, "quarantined: its end is damaged", stones)
        self._keeper = Keeper(
            self.folder,
            spool,
            self.outboxes,
            shares or {},
            sent=self._sent,
            quarantine=self._quarantine,
            ages=ages,
            ledger=ledger,
        )
        self._thread = threading.Thread(target=self._work, name="spool", daemon=True)

    # -- the decode thread's side ------------------------------------------------------------

    def start(
        self,
        keys: Sequence[StreamKey],
        header: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        thread: bool = True,
    ) -> None:
        """Begin; `keys` are the streams of the plan. Without a thread, `commit` does the work.

        `header` adds to the headers of batches, by privacy profile; "" is for those without one.
        """
        self._around.headers[:] = [self._headers(header)]
        self.open(keys)
        if self._closing:
            log.info("batches that an earlier run left open, sealed now: %d", len(self._closing))
        self.commit()
        if thread:
            self._thread.start()

    def open(self, keys: Sequence[StreamKey]) -> None:
        """Make streams known that a plan will need. From any thread."""
        for key in keys:
            if key not in self._streams:
                reached = self.resume.get(key.name, {})
                self._memory.open(key, reached)
                self._streams[key] = Stream(key, self._around, reached)

    def switch(
        self, keys: Sequence[StreamKey], header: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        """What is added from now on was kept by another plan: open batches are sealed."""
        self.open(keys)
        self._around.headers.append(self._headers(header))
        self._memory.epoch += 1
        self.seal_now()

    def _headers(
        self, header: Mapping[str, Mapping[str, Any]] | None
    ) -> dict[str, Mapping[str, Any]]:
        found = {"": {}, **(header or {})}
        return {profile: {"vehicle": self._vehicle, **more} for profile, more in found.items()}

    def anchor(self) -> Anchor | None:
        """What dates this boot as well as it is known now."""
        return best_anchor(self._anchors.all(), self._clock.boot_id)

    def add(
        self,
        kept: Mapping[StreamKey, Sequence[Kept]],
        positions: Positions | None = None,
    ) -> None:
        """Keep what a block gave; `positions` say how far it reaches in a recording.

        An event that is complete is sealed, with all before it, as soon as it is durable.
        """
        self._memory.add(kept, positions)
        if not self.trouble and self._memory.nbytes > self._memory.bound // 4:
            self._wake.set()

    def room(self) -> bool:
        """Whether a recording, which can wait, should go on."""
        return self._memory.nbytes < self._memory.bound // 2

    def date(self, boot: BootNs, wall: WallNs) -> None:
        """A GNSS receiver says what time it was at a boot time."""
        self._anchors.tell(boot, wall)

    # -- the senders' side -------------------------------------------------------------------

    def _alive(self, uplink: str) -> None:
        self._alive_at[uplink] = self._clock.boot()

    def _resent(self, uplink: str, parcel: Parcel) -> None:
        self._ledger.add("uplink", uplink, resent=parcel.samples, waiting=parcel.samples)

    def resend(self, uplink: str, first: str, last: str = "") -> int:
        """Send batches again that were acknowledged and are still kept; how many.

        From `first` to `last`, both included, of one install, run and lane. Touches the disk.

        Raises:
            SpoolError: there is no such uplink, these are no batches, or the disk fails.
        """
        outbox = self.outboxes.get(uplink)
        if outbox is None:
            raise SpoolError(f"there is no uplink {uplink}; there is: {', '.join(self.outboxes)}")
        n = outbox.resend(first, last or first)
        if n:
            self._sealed(uplink)
        return n

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

    def _say(self, anchors: Sequence[Anchor]) -> None:
        """What the clock shows, for the log: at first, after a jump, when it is better known."""
        for anchor in anchors:
            gnss = anchor.quality is Quality.GNSS
            last = self._said.get(gnss)
            if last and last.quality == anchor.quality:
                jump_s = (anchor.offset - last.offset) / SECOND
                if abs(jump_s) < _JUMP_S:
                    continue
                how = f"it jumped by {jump_s:+,.0f} s"
            else:
                how = "not synchronised" if not anchor.quality else "synchronised"
            self._said[gnss] = anchor
            whose = "GNSS" if gnss else "the clock"
            shown = dt.datetime.fromtimestamp(anchor.wall // SECOND, dt.UTC)
            log.info("%s shows %s: %s", whose, f"{shown:%Y-%m-%d %H:%M:%S} UTC", how)

    def _round(self, *, final: bool = False, last: bool = False) -> bool:
        errors: list[OSError] = []
        with self._lock:
            hurries, self._hurries = self._hurries, []
        anchors = self._anchors.look()
        self._say(anchors)
        for batch in self._closing:
            if not batch.sealed:
                with _noted(errors):
                    self.folder.seal(batch, self._around.known_anchors())
        for stream in list(self._streams.values()):
            held = self._held(stream)
            if not held:
                with _noted(errors):
                    stream.commit(anchors)
            with _noted(errors):
                if final:
                    if not held or last:
                        stream.end()
                elif self._due(stream, hurry=bool(hurries)):
                    stream.seal()
        self._hand_over(errors)
        full = any(e.errno in _FULL for e in errors)
        with _noted(errors):
            self._keeper.remove_old()
        with _noted(errors):
            self._keeper.keep_within(full=full and self._full)
        self._full = full
        if errors:
            with self._lock:
                self._hurries = hurries + self._hurries
        else:
            for hurry in hurries:
                hurry.set()
        self._tell(errors)
        return not errors

    def _held(self, stream: Stream) -> bool:
        """Whether a file that was given up after an error has to be cut first.

        It may hold a chunk that is pending again: if both went to disk, a power cut could show the
        samples twice. When memory gets short, the samples are worth more than that; at the end of
        the run they are counted as lost, although the next start may find them there.
        """
        uncut = any(b.stream == stream.key.name and not b.sealed for b in self._closing)
        return uncut and self._memory.nbytes < self._memory.bound // 2

    def _tell(self, errors: Sequence[OSError]) -> None:
        trouble = ""
        if errors:
            trouble = f"the spool cannot be written: {errors[0].strerror or errors[0]}"
        if trouble and trouble != self.trouble:
            log.error("%s; the newest data stays in memory up to its bound", trouble)
        elif self.trouble and not trouble:
            log.warning("the disk works again")
        self.trouble = trouble

    def _due(self, stream: Stream, *, hurry: bool) -> bool:
        if not stream.says_something:
            return False
        if hurry or stream.full:
            return True
        age_s = (self._clock.boot() - stream.since) / SECOND
        least_s = _REPORT_AGE_S if stream.patient else 0.0
        if age_s < max(self._batch.seal_after_s, least_s):
            return False
        return age_s >= _BACKLOG_AGE_S or any(map(self._takes, stream.key.uplinks))

    def _takes(self, uplink: str) -> bool:
        """Whether an uplink took something lately, or has nothing to take."""
        if self.outboxes[uplink].waiting()[0] == 0:
            return True
        age = self._clock.boot() - self._alive_at.get(uplink, BootNs(-(10**18)))
        return age < (2 * self._batch.seal_after_s + 5) * SECOND

    def _hand_over(self, errors: list[OSError]) -> None:
        """Publish or remove what is closed, once an open batch keeps the positions in it."""
        streams = {stream.key.name: stream for stream in list(self._streams.values())}
        for name in {batch.stream for batch in self._closing if batch.end}:
            stream = streams.get(name)
            if stream is not None and stream.durable_positions and not stream.open:
                with _noted(errors):
                    stream.begin()
        for batch in list(self._closing):
            stream = streams.get(batch.stream)
            if batch.end and stream and stream.durable_positions and not stream.open:
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
            self.outboxes[uplink].add(
                Parcel(
                    batch.batch_id,
                    batch.lane,
                    path,
                    batch.size,
                    batch.samples,
                    batch.born,
                    batch.tombstones > 0,
                )
            )
            self._ledger.add("uplink", uplink, batches=1, bytes=batch.size)
            self._sealed(uplink)

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
            self._round(final=True, last=True)  # once more, into new files
        self._ended = True
        self._memory.end()

    def close(self) -> None:
        """Let go of the folder."""
        for stream in self._streams.values():
            stream.drop()
        self.folder.close()

    def seal_now(self) -> threading.Event:
        """Seal what is open at the next round, whatever its age: nothing more will come.

        The event is set once that is done and outboxes know of it.
        """
        event = threading.Event()
        with self._lock:
            self._hurries.append(event)
        self._wake.set()
        return event

    def status(self) -> dict[str, Any]:
        """For the status socket; touches no disk and waits for none."""
        now = self._clock.boot()
        streams = list(self._streams.values())
        return {
            "folder": str(self.folder.root),
            "install": self.folder.install,
            "run": self.folder.run,
            "trouble": self.trouble,
            "memory_bytes": self._memory.nbytes,
            "quota_bytes": self._settings.quota_mb << 20,
            "lanes": {uplink: box.status() for uplink, box in self.outboxes.items()},
            "open": {s.key.name: told for s in streams if (told := s.status()) is not None},
            "durable": {
                s.key.name: at.status(now) for s in streams if (at := s.durable) is not None
            },
            "sent": self._sent.status(),
            "quarantine": self._quarantine.status(),
        }


@contextlib.contextmanager
def _noted(errors: list[OSError]) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        errors.append(e)
