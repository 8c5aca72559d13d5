"""The time in which a bus had frames, and a bounded count of ids: what `health` counts with."""

from typing import Final

import numpy as np

from agent.blocks import Int64, UInt32
from agent.clock import SECOND

PAUSE_NS: Final = 5 * SECOND
"""A bus without a frame for longer than this sleeps: its messages are not missed meanwhile."""


class BusTime:
    """Stamps without pauses and jumps: it stands still while the bus sleeps, and never goes back.

    It begins with the first stamp. A step of more than `PAUSE_NS`, forward or backward, counts
    nothing, so a clock that is set does no harm. The result does not depend on where blocks end.
    """

    def __init__(self) -> None:
        self.stamp: int | None = None
        """The last stamp; None before the first."""
        self.now = 0
        """What it stood at then."""
        self._here = 0
        """The same before stamps that came out of order were put right."""

    def take(self, time: Int64) -> Int64:
        """int64[n], n > 0: what it stands at for each stamp of the next block."""
        if self.stamp is None:
            self.stamp = self.now = self._here = int(time[0])
        begin = int(time[0]) - self.stamp
        in_order = self._here == self.now and begin >= 0 and bool((time[1:] >= time[:-1]).all())
        if in_order and begin + int(time[-1]) - int(time[0]) > PAUSE_NS:
            steps = time[1:] - time[:-1]
            in_order = begin <= PAUSE_NS and int(steps.max(initial=0)) <= PAUSE_NS
        if in_order:
            shift = self._here - self.stamp
            here = peak = time + shift if shift else time
        else:
            steps = np.diff(time, prepend=self.stamp)
            steps[(steps > PAUSE_NS) | (steps < -PAUSE_NS)] = 0
            here = self._here + np.cumsum(steps)
            peak = np.maximum.accumulate(np.maximum(here, self.now))
        self.stamp, self._here, self.now = int(time[-1]), int(here[-1]), int(peak[-1])
        return peak


class IdCounter:
    """Counts frames by id. The first `limit` ids are remembered, all frames are counted.

    May be read from any thread while one counts.
    """

    def __init__(self, limit: int = 4096) -> None:
        self.frames = 0
        self._limit = limit
        self._known: tuple[UInt32, Int64] = (np.zeros(0, np.uint32), np.zeros(0, np.int64))

    @property
    def ids(self) -> int:
        """How many different ones are remembered; at the limit, there may have been more."""
        return len(self._known[0])

    @property
    def full(self) -> bool:
        return self.ids >= self._limit

    def add(self, ids: UInt32) -> None:
        """Count the ids of frames, in the order in which they came."""
        if not len(ids):
            return
        self.frames += len(ids)
        found, counts = _counted(ids)
        known, frames = self._known
        at = np.searchsorted(known, found)
        old = at < len(known)
        old[old] = known[at[old]] == found[old]
        frames = frames.copy()
        frames[at[old]] += counts[old]
        new = np.flatnonzero(~old)
        room = self._limit - len(known)
        if len(new) > room:  # the first ones that came, wherever blocks end
            _, first = np.unique(ids, return_index=True)
            new = new[np.argsort(first[new])[:room]]
        if len(new):
            known = np.concatenate((known, found[new]))
            frames = np.concatenate((frames, counts[new]))
            order = np.argsort(known)
            known, frames = known[order], frames[order]
        self._known = known, frames

    def most(self, n: int) -> list[tuple[int, int]]:
        """The n most frequent ids: (id, frames)."""
        known, frames = self._known
        order = np.argsort(-frames, kind="stable")[:n]
        return list(zip(known[order].tolist(), frames[order].tolist(), strict=True))


def _counted(ids: UInt32) -> tuple[UInt32, Int64]:
    """The different ids in their order, and how many there are of each."""
    if int(ids.max()) < 1 << 11:  # several times as fast as sorting
        sizes = np.bincount(ids)
        found = np.flatnonzero(sizes)
        return found.astype(np.uint32), sizes[found]
    return np.unique(ids, return_counts=True)
