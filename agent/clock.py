"""The two clocks, and the anchors that join them.

Order, ages and deadlines come from the boot clock (`CLOCK_BOOTTIME`: never set, goes on during
suspend). The wall clock is a label that may be decades wrong until GNSS or NTP arrives. Types keep
the two apart: `BootNs` and `WallNs` are both nanoseconds in an int, and the type checker refuses to
mix them.

An `Anchor` says what the wall clock showed at one boot time, and how good that was. The anchor of a
boot that was made last among the best ones dates everything of that boot, also what was stored
before the clock was right.
"""

import ctypes
import dataclasses
import enum
import functools
import os
import time
from pathlib import Path
from typing import NewType, Protocol

BootNs = NewType("BootNs", int)
WallNs = NewType("WallNs", int)

SECOND = 1_000_000_000
MILLISECOND = 1_000_000

_STA_UNSYNC = 0x0040  # linux/timex.h


class Quality(enum.IntEnum):
    """How far the wall clock can be believed; a higher one wins."""

    UNSYNCHRONISED = 0
    NTP = 1
    GNSS = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Anchor:
    boot_id: str
    boot: BootNs
    wall: WallNs
    quality: Quality

    @property
    def offset(self) -> int:
        """Nanoseconds to add to a boot time of this boot to get wall time."""
        return self.wall - self.boot


class Clock(Protocol):
    """The seam to time: what a test replaces to let hours pass."""

    boot_id: str

    def boot(self) -> BootNs: ...

    def wall(self) -> WallNs: ...

    def quality(self) -> Quality: ...


class _Timex(ctypes.Structure):
    """`struct timex` as far as `status`, and room for the rest (adjtimex(2))."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


class SystemClock:
    """The kernel's clocks."""

    def __init__(self) -> None:
        try:
            self.boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        except OSError:
            # Without the kernel's id, a boot is told apart by when it began.
            began = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            self.boot_id = f"unknown-{began // SECOND}-{os.getpid()}"

    def boot(self) -> BootNs:
        return BootNs(time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    def wall(self) -> WallNs:
        return WallNs(time.time_ns())

    def quality(self) -> Quality:
        """What the kernel says of its own discipline: an NTP daemon clears STA_UNSYNC."""
        timex = _Timex()
        if _libc().adjtimex(ctypes.byref(timex)) < 0 or timex.status & _STA_UNSYNC:
            return Quality.UNSYNCHRONISED
        return Quality.NTP


def certain(clock: Clock) -> WallNs:
    """What time it is where that is known for certain, else 0."""
    known = clock.quality() is not Quality.UNSYNCHRONISED
    return clock.wall() if known else WallNs(0)


class AnchorBook:
    """The anchors of all boots that still matter; asks the clock and notes a change.

    Not thread-safe: it belongs to the thread that packs batches.
    """

    TOLERANCE_NS = 20 * MILLISECOND  # slewing by NTP stays below this between two looks
    GNSS_TOLERANCE_NS = 500 * MILLISECOND  # sentences without a pulse are late by some of this

    def __init__(self, clock: Clock, known: tuple[Anchor, ...] = ()) -> None:
        self._clock = clock
        self._anchors = list(dict.fromkeys(known))
        self._told: Anchor | None = None

    def tell(self, boot: BootNs, wall: WallNs) -> None:
        """A GNSS receiver says what time it was at a boot time. From any thread."""
        self._told = Anchor(self._clock.boot_id, boot, wall, Quality.GNSS)

    def look(self) -> list[Anchor]:
        """Compare the clocks now; gives a new anchor after a jump or a change of quality."""
        clock = self._clock
        now = Anchor(clock.boot_id, clock.boot(), clock.wall(), clock.quality())
        found = []
        last = self.current(gnss=now.quality is Quality.GNSS)
        if (
            last is None
            or last.quality != now.quality
            or abs(last.offset - now.offset) >= self.TOLERANCE_NS
        ):
            found.append(now)
        told, self._told = self._told, None
        if told is not None:
            last = self.current(gnss=True)
            if last is None or abs(last.offset - told.offset) >= self.GNSS_TOLERANCE_NS:
                found.append(told)
        self._anchors += found
        return found

    def current(self, *, gnss: bool = False) -> Anchor | None:
        """The newest anchor of this boot, of the computer's own clock or of a GNSS receiver."""
        mine = (a for a in reversed(self._anchors) if a.boot_id == self._clock.boot_id)
        return next((a for a in mine if (a.quality is Quality.GNSS) == gnss), None)

    def forget_boots_except(self, boot_ids: set[str]) -> None:
        """Drop the anchors of boots of which no batch is waiting any more."""
        keep = boot_ids | {self._clock.boot_id}
        self._anchors = [a for a in self._anchors if a.boot_id in keep]

    def all(self) -> tuple[Anchor, ...]:
        return tuple(self._anchors)


def best_anchor(anchors: tuple[Anchor, ...] | list[Anchor], boot_id: str) -> Anchor | None:
    """The anchor that dates a boot: the newest of the best quality, None without a good one."""
    good = [a for a in anchors if a.boot_id == boot_id and a.quality > Quality.UNSYNCHRONISED]
    return max(good, key=lambda a: (a.quality, a.boot), default=None)
