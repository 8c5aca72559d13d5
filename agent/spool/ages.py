"""How old a batch is, without believing a wall clock.

Within a boot the boot clock says it. Across boots there are two witnesses, and the one that says
more wins:

- **Uptime.** Each batch notes how long the computer was up, added over the boots that the spool
  knew, when it was made and when it was sealed. The difference of two such figures is a lower bound
  of what lies between: time while the computer was off is missing, so that an age is never said too
  high. What the figure begins with does not matter, and no file keeps it: a start goes on from the
  highest figure of the batches that are there, and where none is, nothing is old.
- **Anchors**, where both boots have a good one (NTP, GNSS) and this boot's clock can be believed:
  it has been good for ten minutes, and its good anchors do not contradict each other by more than
  an hour. A wall clock that was never set, or that has just jumped, says nothing.

An age that cannot be known is 0.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from agent.clock import SECOND, AnchorBook, BootNs, Clock, Quality, best_anchor

_STEADY_NS = 600 * SECOND
_CONTRADICTION_NS = 3600 * SECOND


@dataclasses.dataclass(frozen=True, slots=True)
class Born:
    """When a batch was made."""

    boot_id: str
    boot: BootNs
    uptime: int | None
    """Nanoseconds, over boots; None of a batch that does not say it."""


def born_of(header: Mapping[str, Any]) -> Born | None:
    """What the header of a batch says; None where it is not usable."""
    return _moment(header, header.get("created"))


def sealed_of(header: Mapping[str, Any], footer: Mapping[str, Any]) -> Born | None:
    """When it was sealed, the same way."""
    return _moment(header, footer.get("sealed"))


def _moment(header: Mapping[str, Any], when: Any) -> Born | None:
    if not isinstance(when, dict) or not isinstance(boot := when.get("boot"), int):
        return None
    uptime = when.get("uptime")
    return Born(
        str(header.get("boot_id", "")),
        BootNs(boot),
        uptime if isinstance(uptime, int) and uptime >= 0 else None,
    )


class Ages:
    """Ages of batches. Not thread-safe but for `uptime`: belongs to the spool's thread."""

    def __init__(self, clock: Clock, book: AnchorBook, found: Iterable[Born]) -> None:
        """`found`: when the batches were made and sealed that are there at the start."""
        self._clock = clock
        self._book = book
        mine, others = [], []
        for born in found:
            if born.uptime is not None and born.boot_id == clock.boot_id:
                mine.append(born.uptime - born.boot)
            elif born.uptime is not None:
                others.append(born.uptime)
        self._before = max(mine or others, default=0)
        """Uptime of the boots before this one."""

    def uptime(self) -> int:
        """Now, in nanoseconds, over boots."""
        return self._before + self._clock.boot()

    def age_ns(self, born: Born | None) -> int:
        """At least how old a batch is; 0 where nothing is known."""
        if born is None:
            return 0
        if born.boot_id == self._clock.boot_id:
            return max(0, self._clock.boot() - born.boot)
        by_uptime = 0 if born.uptime is None else self.uptime() - born.uptime
        return max(0, by_uptime, self._by_wall(born))

    def _by_wall(self, born: Born) -> int:
        now = self._clock.boot()
        mine = [a for a in self._book.all() if a.boot_id == self._clock.boot_id]
        good = [a for a in mine if a.quality > Quality.UNSYNCHRONISED]
        if not good or now - min(a.boot for a in good) < _STEADY_NS:
            return 0
        offsets = [a.offset for a in good]
        here = best_anchor(good, self._clock.boot_id)
        there = best_anchor(self._book.all(), born.boot_id)
        if here is None or there is None or max(offsets) - min(offsets) > _CONTRADICTION_NS:
            return 0
        return (now + here.offset) - (born.boot + there.offset)
