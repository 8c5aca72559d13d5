"""Batches that count in no sum any more and are kept for a while: sent ones, and quarantine.

A shelf has a folder for each uplink and knows what lies there, so that the quota can count it. What
lies on a shelf goes before anything that waits.
"""

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from agent.batch.format import SUFFIX
from agent.spool.folder import SpoolFolder
from agent.spool.naming import order_of

log = logging.getLogger("edge_agent.spool")


@dataclasses.dataclass(frozen=True, slots=True)
class Kept:
    """A file on a shelf."""

    path: Path
    size: int
    since: int | None
    """Uptime when it was put there, ns; None where it lay there at the start."""

    @property
    def batch_id(self) -> str:
        return self.path.name.removesuffix(SUFFIX)


class Shelf:
    """Files by uplink, oldest first; thread-safe. No lock is held while the disk works.

    Raises (all methods that touch files): OSError, as the disk does.
    """

    def __init__(
        self,
        folder: SpoolFolder,
        place: Callable[[str], Path],
        uplinks: Iterable[str],
        *,
        most: int | None = None,
    ) -> None:
        """`place` is the folder of an uplink; `most` files are kept for each."""
        self._folder = folder
        self._place = place
        self._most = most
        self._lock = threading.Lock()
        self._kept: dict[str, dict[str, Kept]] = {}
        for uplink in uplinks:
            self._kept[uplink] = {}
            for name in folder.names(place(uplink)):
                with contextlib.suppress(OSError):
                    path = place(uplink) / name
                    kept = Kept(path, folder.fs.size(path), None)
                    self._kept[uplink][kept.batch_id] = kept

    def put(self, uplink: str, path: Path, since: int | None = None) -> None:
        """Move a file here; where there is no more room, the oldest go."""
        while self._most is not None and len(self.of(uplink)) >= self._most:
            self.remove(uplink, self.of(uplink)[0])
        target = self._place(uplink) / path.name
        size = self._folder.fs.size(path)
        self._folder.move(path, target)
        with self._lock:
            kept = Kept(target, size, since)
            self._kept.setdefault(uplink, {})[kept.batch_id] = kept

    def of(self, uplink: str) -> list[Kept]:
        with self._lock:
            kept = list(self._kept.get(uplink, {}).values())
        return sorted(kept, key=lambda k: order_of(k.batch_id))

    def take(self, uplink: str, kept: Kept) -> bool:
        """It is not on the shelf any more, the caller has it; False where it had gone before."""
        with self._lock:
            return self._kept.get(uplink, {}).pop(kept.batch_id, None) is not None

    def put_back(self, uplink: str, kept: Kept) -> None:
        """It was taken, and could not be used."""
        with self._lock:
            self._kept[uplink][kept.batch_id] = kept

    def remove(self, uplink: str, kept: Kept) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._folder.fs.unlink(kept.path)
        self.take(uplink, kept)

    def remove_oldest(self) -> int:
        """Remove one file of the uplink that has the most here; how many bytes, 0: nothing is."""
        totals = self.totals()
        uplink = max(totals, key=lambda name: totals[name][::-1], default="")
        for kept in self.of(uplink)[:1]:
            self.remove(uplink, kept)
            return max(1, kept.size)
        return 0

    def totals(self) -> dict[str, tuple[int, int]]:
        """Files and bytes by uplink."""
        with self._lock:
            return {
                uplink: (len(kept), sum(k.size for k in kept.values()))
                for uplink, kept in self._kept.items()
            }

    def status(self) -> dict[str, dict[str, int]]:
        """By uplink, those that have something here."""
        return {u: {"batches": n, "bytes": size} for u, (n, size) in self.totals().items() if n}
