"""The door between the spool and a sender: what waits for one uplink, and what became of it."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from agent.batch import BatchReader
from agent.errors import BatchError, SpoolError
from agent.settings import LANES, Lane
from agent.spool.folder import SpoolFolder
from agent.spool.naming import lane_of, order_of, sequences
from agent.spool.parcel import Parcel
from agent.spool.recovery import sealed_parcel
from agent.spool.shelf import Shelf
from agent.spool.tombstones import Tombstone, carried

__all__ = ["FolderOutbox", "Outbox", "Parcel"]

log = logging.getLogger("edge_agent.spool")


class Outbox(Protocol):
    """The sealed batches of one uplink.

    Every method may touch the disk, so none is called from the event loop.
    """

    uplink: str

    def next(self, but: frozenset[str] = frozenset()) -> Parcel | None:
        """The most urgent batch but these: by lane, the newest telemetry first, then the oldest."""
        ...

    def acknowledge(self, parcel: Parcel) -> bool:
        """The receiver has it, so the link of this uplink goes; False where it had gone before."""
        ...

    def quarantine(self, parcel: Parcel, reason: str) -> bool:
        """The receiver will never take it: aside; False where it had gone before."""
        ...

    def waiting(self) -> tuple[int, int]:
        """How many batches wait, and how many bytes they have."""
        ...


class FolderOutbox:
    """The outbox of one uplink over the spool folder; thread-safe."""

    def __init__(
        self,
        uplink: str,
        folder: SpoolFolder,
        parcels: Iterable[Parcel],
        *,
        sent: Shelf,
        quarantine: Shelf,
        uptime: Callable[[], int] | None,
        acknowledged: Callable[[], None] = lambda: None,
        lost: Callable[[Parcel, str, Sequence[Tombstone]], None] = lambda _p, _r, _c: None,
        resent: Callable[[Parcel], None] = lambda _parcel: None,
    ) -> None:
        """`uptime` dates what is kept after it was sent; None: nothing is kept.

        Called with each batch: `lost` when it was given up, with the reason and the tombstones that
        it carried; `resent` before it waits again.
        """
        self.uplink = uplink
        self._folder = folder
        self._sent = sent
        self._quarantine = quarantine
        self._uptime = uptime
        self._lock = threading.Lock()
        self._lanes: dict[Lane, dict[str, Parcel]] = {lane: {} for lane in LANES}
        self._newest = ""
        """The telemetry batch that was sealed last; it goes before the backlog."""
        self._acknowledged = acknowledged
        self._lost = lost
        self._resent = resent
        for parcel in parcels:
            self._lanes[parcel.lane][parcel.batch_id] = parcel

    def add(self, parcel: Parcel) -> None:
        """A batch was sealed for this uplink."""
        with self._lock:
            self._lanes[parcel.lane][parcel.batch_id] = parcel
            if parcel.lane == "telemetry":
                self._newest = parcel.batch_id

    def next(self, but: frozenset[str] = frozenset()) -> Parcel | None:
        with self._lock:
            for lane in LANES:
                waiting = self._lanes[lane]
                if lane == "telemetry" and self._newest in waiting and self._newest not in but:
                    return waiting[self._newest]
                for batch_id, parcel in waiting.items():
                    if batch_id not in but:
                        return parcel
        return None

    # Whoever takes a parcel off the list has to count it; before that its file has gone, so that
    # after an error it is still on the list and can be tried again.

    def acknowledge(self, parcel: Parcel) -> bool:
        if self._uptime is not None:
            self._keep(parcel, self._uptime())
        with contextlib.suppress(FileNotFoundError):
            self._folder.fs.unlink(parcel.path)
        self._acknowledged()
        return self._forget(parcel)

    def _keep(self, parcel: Parcel, since: int) -> None:
        """Put what was sent aside; where that cannot be, it just goes."""
        with self._lock:
            if parcel.batch_id not in self._lanes[parcel.lane]:
                return
        try:
            self._sent.put(self.uplink, parcel.path, since)
        except OSError as e:
            log.debug("%s cannot be kept: %s", parcel.batch_id, e.strerror)

    def quarantine(self, parcel: Parcel, reason: str) -> bool:
        stones = self._carried(parcel)
        with contextlib.suppress(FileNotFoundError):
            self._quarantine.put(self.uplink, parcel.path)
        if not self._forget(parcel):
            return False
        self._lost(parcel, f"quarantined: {reason}", stones)
        return True

    def evict(self, reason: str, parcel: Parcel | None = None) -> Parcel | None:
        """Give up a batch: this one, or the oldest of the least important lane.

        None where nothing (or not that one) waits.
        """
        while (victim := parcel or self._least()) is not None:
            stones = self._carried(victim)
            with contextlib.suppress(FileNotFoundError):
                self._folder.fs.unlink(victim.path)
            if self._forget(victim):
                self._lost(victim, reason, stones)
                return victim
            if parcel is not None:
                break
        return None

    def _carried(self, parcel: Parcel) -> list[Tombstone]:
        """What would be forgotten with a batch."""
        if not parcel.tombstones:
            return []
        try:
            return carried(BatchReader(parcel.path).records(), self.uplink)
        except BatchError as e:
            log.debug("the tombstones in %s cannot be read: %s", parcel.batch_id, e)
            return []

    def resend(self, first: str, last: str) -> int:
        """Put sent batches that are still kept into the queue again; how many.

        `first` and `last` are of one install, run and lane.

        Raises:
            SpoolError: these are no batches, or the disk does not do it; what was put back before
                that waits.
        """
        wanted = sequences(first, last)
        if wanted is None:
            raise SpoolError(
                f"{first} to {last}: is no range of batches; name two of one install, run and lane"
            )
        prefix, numbers = wanted
        n = 0
        for kept in self._sent.of(self.uplink):
            begin, _, number = kept.batch_id.rpartition("-")
            if f"{begin}-" != prefix or int(number) not in numbers:
                continue
            if self._sent.take(self.uplink, kept):
                try:
                    n += self._again(kept.batch_id)
                except OSError as e:
                    self._sent.put_back(self.uplink, kept)
                    raise SpoolError(f"{kept.path}: cannot be sent again: {e.strerror}") from e
        return n

    def _again(self, batch_id: str) -> bool:
        (lane,) = (known for known in LANES if known == lane_of(batch_id))
        target = self._folder.parcel_path(self.uplink, lane, batch_id)
        with contextlib.suppress(FileNotFoundError):  # after an error it may be there already
            self._folder.move(self._folder.sent_folder(self.uplink) / target.name, target)
        self._folder.fs.sync_folder(target.parent)
        parcel = sealed_parcel(self._folder.fs, lane, target)
        if parcel is None:  # damaged where it lay
            self._quarantine.put(self.uplink, target)
            return False
        with self._lock:
            if batch_id in self._lanes[lane]:
                return False
            self._resent(parcel)
            waiting = {**self._lanes[lane], batch_id: parcel}
            self._lanes[lane] = dict(sorted(waiting.items(), key=lambda item: order_of(item[0])))
        return True

    def _least(self) -> Parcel | None:
        with self._lock:
            for lane in reversed(LANES):
                for parcel in self._lanes[lane].values():
                    return parcel
        return None

    def all(self) -> list[Parcel]:
        """Everything that waits."""
        with self._lock:
            return [parcel for lane in self._lanes.values() for parcel in lane.values()]

    def waiting(self) -> tuple[int, int]:
        with self._lock:
            sizes = [p.size for lane in self._lanes.values() for p in lane.values()]
        return len(sizes), sum(sizes)

    def by_lane(self) -> dict[Lane, tuple[int, int]]:
        """Batches and bytes that wait in each lane."""
        with self._lock:
            return {
                lane: (len(parcels), sum(p.size for p in parcels.values()))
                for lane, parcels in self._lanes.items()
            }

    def status(self) -> dict[str, dict[str, int]]:
        """What waits, by lane; without empty ones."""
        lanes = self.by_lane().items()
        return {lane: {"batches": n, "bytes": size} for lane, (n, size) in lanes if n}

    def _forget(self, parcel: Parcel) -> bool:
        with self._lock:
            return self._lanes[parcel.lane].pop(parcel.batch_id, None) is not None
