"""The door between the spool and a sender: what waits for one uplink, and what became of it."""

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from agent.settings import LANES, Lane

if TYPE_CHECKING:
    from agent.spool.folder import SpoolFolder


@dataclasses.dataclass(frozen=True, slots=True)
class Parcel:
    """A sealed batch that waits for an uplink."""

    batch_id: str
    lane: Lane
    path: Path
    size: int
    samples: int


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
        folder: "SpoolFolder",
        parcels: Iterable[Parcel],
        acknowledged: Callable[[], None] = lambda: None,
        lost: Callable[[Parcel, str], None] = lambda _parcel, _reason: None,
    ) -> None:
        self.uplink = uplink
        self._folder = folder
        self._lock = threading.Lock()
        self._lanes: dict[Lane, dict[str, Parcel]] = {lane: {} for lane in LANES}
        self._newest = ""
        """The telemetry batch that was sealed last; it goes before the backlog."""
        self._acknowledged = acknowledged
        self._lost = lost
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
        with contextlib.suppress(FileNotFoundError):
            self._folder.fs.unlink(parcel.path)
        self._acknowledged()
        return self._forget(parcel)

    def quarantine(self, parcel: Parcel, reason: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            self._folder.quarantine(parcel.path, self.uplink)
        if not self._forget(parcel):
            return False
        self._lost(parcel, f"quarantined: {reason}")
        return True

    def evict(self) -> Parcel | None:
        """Give up the oldest batch of the least important lane; None where nothing waits."""
        while (victim := self._least()) is not None:
            with contextlib.suppress(FileNotFoundError):
                self._folder.fs.unlink(victim.path)
            if self._forget(victim):
                return victim
        return None

    def _least(self) -> Parcel | None:
        with self._lock:
            for lane in reversed(LANES):
                for parcel in self._lanes[lane].values():
                    return parcel
        return None

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

    def _forget(self, parcel: Parcel) -> bool:
        with self._lock:
            return self._lanes[parcel.lane].pop(parcel.batch_id, None) is not None
