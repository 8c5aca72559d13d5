"""What a receiver's date and time are worth, and the anchors that they make.

How exact: a receiver without a pulse line tells the time some tens to hundreds of milliseconds
after it was so (it computes first, and talks slowly), and this delay changes from epoch to epoch.
It is never negative. So the least delay seen is the best estimate, and what remains of it is an
error of typically 50 to 500 ms: wall times then lie that much in the past.

What is no time:

- the dates that receivers show before they know better (`correct`),
- an epoch that was read late, because this program was held up,
- a time on which three epochs in a row do not agree, to a second, with the boot clock: at the start
  and after every jump.

Weeks are numbered in 10 bits in the signal, and an old firmware shows a date that lies 1,024 weeks
(19.6 years) in the past, or twice that. This program knows when it was made.
"""

import datetime as dt
from typing import Final

from agent.clock import SECOND, BootNs, WallNs

WEEKS_OF_ROLLOVER: Final = 1024
_ROLLOVER_NS: Final = WEEKS_OF_ROLLOVER * 7 * 86_400 * SECOND
_EPOCH: Final = dt.date(1970, 1, 1)


def _midnight(year: int, month: int, day: int) -> WallNs:
    return WallNs((dt.date(year, month, day) - _EPOCH).days * 86_400 * SECOND)


NOT_BEFORE: Final = _midnight(2024, 1, 1)
"""This program is younger than that, so no right date lies before."""
# Where counters begin: Unix, GPS and its weeks 1,024 and 2,048, and round numbers.
_FIRST_REAL: Final = _midnight(1981, 1, 1)
_DEFAULT_DAYS: Final = (_midnight(1999, 8, 22), _midnight(2000, 1, 1), _midnight(2019, 4, 7))


def correct(shown: WallNs) -> tuple[WallNs, int] | None:
    """A receiver's time, and how many weeks had to be added to it; None if it is a default."""
    if shown < _FIRST_REAL or any(0 <= shown - day < 86_400 * SECOND for day in _DEFAULT_DAYS):
        return None
    rounds = max(0, -((shown - NOT_BEFORE) // _ROLLOVER_NS))
    return WallNs(shown + rounds * _ROLLOVER_NS), rounds * WEEKS_OF_ROLLOVER


class AnchorKeeper:
    """Times of epochs and when they came -> anchors, with the least delay seen.

    The least delay creeps up by 200 ppm, more than a quartz is off, so that a boot clock that is
    fast does not run away from the time for ever.
    """

    _CREEP_PPM: Final = 200
    _AGREE_NS: Final = SECOND
    _AGREEING: Final = 3

    def __init__(self) -> None:
        self._offset: int | None = None  # wall - boot, the largest seen: the least delay
        self._seen = 0
        self._unproven: list[int] = []

    def take(self, began: BootNs, wall: WallNs) -> tuple[BootNs, WallNs] | None:
        """An anchor, if this epoch is to be believed.

        Args:
            began: when the epoch began to arrive; may be late, never early.
            wall: the time that it tells, corrected.
        """
        offset = wall - began
        if self._offset is not None and abs(offset - self._offset) <= self._AGREE_NS:
            crept = (began - self._seen) * self._CREEP_PPM // 1_000_000
            self._offset = max(self._offset - crept, offset)
            self._unproven = []
        else:
            agreeing = [*self._unproven, offset]
            if max(agreeing) - min(agreeing) > self._AGREE_NS:
                agreeing = [offset]
            if len(agreeing) < self._AGREEING:
                self._unproven = agreeing
                return None
            self._offset = max(agreeing)
            self._unproven = []
        self._seen = began
        return BootNs(wall - self._offset), wall
