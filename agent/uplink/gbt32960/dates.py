"""Which wall time it was at a boot time, for reports to a platform.

    this boot     a synchronised anchor; else what the platform told, or what an earlier process of
                  this boot knew; else the computer's own clock, where it shows 2025 or later
    other boots   a synchronised anchor in the batch; else what was kept of that boot; else what
                  the computer's clock showed then, where that was 2025 or later
    a recording   its own time

A report has the nearest whole second. Where none of these says anything it has no time yet, and
waits; one of another boot never gets one.
"""

from collections.abc import Callable, Iterable
from typing import Final

from agent.batch import BatchReader
from agent.blocks import TimeBase
from agent.clock import SECOND, Anchor, Clock, Quality, WallNs, best_anchor
from agent.gbt32960.scalars import END, FIRST, year_begins
from agent.uplink.gbt32960.state import State

_PLAUSIBLE: Final = year_begins(2025)


class Dates:
    """Of one uplink. `anchor` gives the synchronised anchor of this boot, or None."""

    def __init__(self, clock: Clock, anchor: Callable[[], Anchor | None], state: State) -> None:
        self._clock = clock
        self._anchor = anchor
        self._state = state

    @property
    def certain(self) -> int | None:
        """What to add to boot time, as a synchronised clock says it."""
        anchor = self._anchor()
        if anchor is None or anchor.quality is Quality.UNSYNCHRONISED:
            return None
        return anchor.offset

    @property
    def good(self) -> bool:
        """Whether nobody has to be asked for the time."""
        return self.certain is not None or self._plausible is not None

    @property
    def _plausible(self) -> int | None:
        wall = self._clock.wall()
        return wall - self._clock.boot() if _PLAUSIBLE <= wall < END else None

    @property
    def offset(self) -> int | None:
        """What to add to a boot time of this boot; None: that is not known yet."""
        if (certain := self.certain) is not None:
            return certain
        kept = self._state.clock(self._clock.boot_id)
        return self._plausible if kept is None else kept

    def offset_of(self, reader: BatchReader) -> int | None:
        """What to add to the boot times in a batch."""
        boot_id = str(reader.header.get("boot_id", ""))
        if boot_id == self._clock.boot_id:
            return self.offset
        return self.of_other(boot_id, reader.anchors())

    def of_other(self, boot_id: str, anchors: Iterable[Anchor]) -> int | None:
        """The same for another boot, by anchors that were found."""
        mine = [a for a in anchors if a.boot_id == boot_id]
        if (best := best_anchor(mine, boot_id)) is not None:
            return best.offset
        if (kept := self._state.clock(boot_id)) is not None:
            return kept
        shown = [a for a in mine if _PLAUSIBLE <= a.wall < END]
        return shown[-1].offset if shown else None

    def now(self) -> WallNs:
        """What time it is, as well as that is known; one that a frame can say."""
        offset, wall = self.offset, self._clock.wall()
        if offset is not None:
            wall = WallNs(self._clock.boot() + offset)
        return WallNs(min(max(wall, FIRST), END - SECOND))


def wall_of(time: int, clock: TimeBase, offset: int | None) -> WallNs | None:
    """The whole second of a report; None where it has none that a frame can say."""
    if clock == "boot":
        if offset is None:
            return None
        time += offset
    wall = (time + SECOND // 2) // SECOND * SECOND
    return WallNs(wall) if FIRST <= wall < END else None
