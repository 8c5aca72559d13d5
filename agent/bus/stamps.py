"""The kernel's stamps of frames, laid into boot time. Pure.

The kernel stamps a frame with wall time when it comes in. Boot time is that plus the offset (boot -
wall), measured at the read. Usually that is all. But the wall clock may be set between the two: a
board that boots in 1970 is set to today as soon as GNSS or NTP arrives.

What is known besides is when a frame can have come in: after the last read that found nothing more
to read, and before now. If the offset is another one than at that earlier read, the clock was set
meanwhile, and this window says which of the two is right for a frame. A clock that was set by less
than the window is wide leaves frames inside of it either way; then the frames before the step are
those whose stamps go on evenly with the old offset. What fits neither way is put at the nearer end
of the window, and counted.

A frame may lie in the kernel between its stamp and its socket (a backlog, under load), so its stamp
alone, a little before the window, is no sign that the clock was set.

Times of a bus never go back.

The controller's own stamps (`HardwareClock`) are another clock, of unknown zero: they give the
distances, and the kernel's stamps say where they lie.
"""

import dataclasses
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Int64
from agent.bus.ring import Read
from agent.clock import MILLISECOND, SECOND

# The offset is not measured in no time, and a frame is queued a little after it is stamped; under
# load that may be much later, but not as late as this.
GRACE_NS: Final = 2 * MILLISECOND
LATE_NS: Final = SECOND
# The fastest slewing (100,000 ppm) over the longest time between two reads stays near this.
STEP_NS: Final = MILLISECOND


@dataclasses.dataclass(frozen=True, slots=True)
class Reads:
    """m reads: count int64[m] frames of each; now, offset int64[m] ns; emptied bool[m]."""

    count: Int64
    now: Int64
    offset: Int64
    emptied: NDArray[np.bool_]

    @classmethod
    def of(cls, reads: Sequence[Read], rows: NDArray[np.intp] | None = None) -> "Reads":
        """Reads of a ring, of whose messages only `rows` are frames (None: all)."""
        ends = np.array([read.end for read in reads], np.int64)
        if rows is not None:
            ends = np.searchsorted(rows, ends).astype(np.int64)
        return cls(
            np.diff(ends, prepend=0),
            np.array([read.now for read in reads], np.int64),
            np.array([read.offset for read in reads], np.int64),
            np.array([read.emptied for read in reads], np.bool_),
        )


class KernelStamps:
    """Stamps of one bus -> boot times.

    Args:
        now: boot time when the socket was opened, in ns.
        offset: boot time - wall time of that moment, in ns.
        last: no frame lies before this boot time.
    """

    def __init__(self, now: int, offset: int, last: int = 0) -> None:
        self.clamped = 0
        """Frames so far that were put at an end of their window."""
        self.last = last
        """Boot time of the last frame."""
        self._hardware = HardwareClock()
        self._since = now
        self._before = offset

    @property
    def forced(self) -> int:
        """Frames so far that were clamped, and how often the controller's clock was set."""
        return self.clamped + self._hardware.jumps

    def times(self, stamps: Int64, reads: Reads, hardware: Int64 | None = None) -> Int64:
        """Boot times int64[n], none before the one before it and none after its read.

        Args:
            stamps: int64[n], wall time in ns, negative where the kernel gave none: such a frame is
                dated with its read, and counted.
            reads: their counts add up to n.
            hardware: int64[n], the controller's stamps; used where each frame has one (>= 0).
        """
        if not len(reads.now):
            return np.empty(0, np.int64)
        times = self._by_kernel(stamps, reads)
        if not len(times):
            return times
        times = np.maximum.accumulate(np.maximum(times, self.last))
        if hardware is not None and (hardware >= 0).all():
            times = self._hardware.times(hardware, times)
            times = np.maximum.accumulate(np.maximum(times, self.last))
        self.last = int(times[-1])
        return times

    def _by_kernel(self, stamps: Int64, reads: Reads) -> Int64:
        m = len(reads.now)
        # For each read the last one before it that left nothing behind: place 0 is `_since`.
        emptied = np.concatenate([[True], reads.emptied])
        place = np.maximum.accumulate(np.where(emptied, np.arange(m + 1), 0))
        since = np.concatenate([[self._since], reads.now])[place]
        before = np.concatenate([[self._before], reads.offset])[place]
        self._since, self._before = int(since[-1]), int(before[-1])
        since, before = since[:-1], before[:-1]
        now = np.repeat(reads.now, reads.count)
        times = stamps + np.repeat(reads.offset, reads.count)
        wrong = (
            (stamps < 0)
            | (times < np.repeat(since, reads.count) - LATE_NS)
            | (times > now + GRACE_NS)
        )
        doubtful = np.abs(reads.offset - before) > STEP_NS
        if wrong.any():
            ends = np.cumsum(reads.count)
            doubtful[np.searchsorted(ends, np.flatnonzero(wrong), side="right")] = True
        for read in np.flatnonzero(doubtful & (reads.count > 0)).tolist():
            end = int(reads.count[: read + 1].sum())
            rows = slice(end - int(reads.count[read]), end)
            times[rows], forced = _settle(
                stamps[rows],
                (int(since[read]), int(reads.now[read])),
                int(before[read]),
                int(reads.offset[read]),
            )
            self.clamped += forced
        return np.minimum(times, now)


def _settle(stamps: Int64, window: tuple[int, int], before: int, offset: int) -> tuple[Int64, int]:
    """Times of one read across which the clock was set; and how many were put by force."""
    since, now = window
    given = stamps >= 0
    old, new = stamps + before, stamps + offset
    for grace in (GRACE_NS, LATE_NS):
        old_fits = given & (old >= since - grace) & (old <= now + GRACE_NS)
        new_fits = given & (new >= since - grace) & (new <= now + GRACE_NS)
        for split in _splits(stamps, before < offset):
            if (
                old_fits[:split].all()
                and new_fits[split:].all()
                and not (0 < split < len(stamps) and old[split - 1] > new[split])
            ):
                return np.concatenate([old[:split], new[split:]]), 0
        if (old_fits | new_fits).all():
            return np.where(new_fits, new, old), 0
    times = np.where(new_fits, new, np.where(old_fits, old, np.clip(new, since, now)))
    times[~given] = now
    return times, int(np.count_nonzero(~(old_fits | new_fits)))


def _splits(stamps: Int64, set_back: bool) -> tuple[int, ...]:
    """Where the step may lie: at the largest jump of the stamps in its direction, or at an end."""
    n = len(stamps)
    if n < 2:
        return 0, n
    jumps = np.diff(stamps)
    return int((jumps.argmin() if set_back else jumps.argmax()) + 1), 0, n


class HardwareClock:
    """A controller's own stamps laid into boot time, by the kernel's stamps of the same frames.

    The kernel's stamp is late by an unknown time, never early. So the controller's zero lies at the
    least of (kernel's time - stamp) seen so far; that least creeps up by more than the two clocks
    can drift apart (slewing by NTP included), so that a slow controller does not fall behind for
    ever. `jumps` counts where its clock was set: such a block keeps the kernel's times, and the
    estimate begins anew.
    """

    CREEP_PPM: Final = 600
    JUMP_NS: Final = 50 * MILLISECOND

    def __init__(self) -> None:
        self.jumps = 0
        self._zero: int | None = None
        self._seen = 0

    def times(self, hardware: Int64, kernel: Int64) -> Int64:
        """Boot times int64[n], n > 0, none after the kernel's.

        Args:
            hardware: int64[n], the controller's stamps in ns, each given.
            kernel: int64[n], boot times by the kernel's stamps.
        """
        late = kernel - hardware
        least, most = int(late.min()), int(late.max())
        zero = least
        if self._zero is not None:
            crept = (int(kernel[-1]) - self._seen) * self.CREEP_PPM // 1_000_000
            zero = min(self._zero + crept, least)
        if most - zero > self.JUMP_NS or (
            self._zero is not None and self._zero - zero > self.JUMP_NS
        ):
            self.jumps += 1
            self._zero = None
            return kernel
        self._zero, self._seen = zero, int(kernel[-1])
        return hardware + zero
