"""What is missing between the reports of a vehicle, and what its alarms were: pure functions.

Times are whole seconds since 1970, sorted, each once. They are named as they are on the wire, in
Beijing time.
"""

import dataclasses
import math
from datetime import datetime, timedelta, timezone
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Int64

_BEIJING: Final = timezone(timedelta(hours=8))
_SEGMENT_S: Final = 60
STOP_LEVEL: Final = 3
"""From here on an alarm is reported with the time before and after it."""
AROUND_S: Final = 30


@dataclasses.dataclass(frozen=True, slots=True)
class Gap:
    """Reports that should be between two others."""

    begin: int
    """When the first one is missing, in seconds since 1970."""
    end: int
    """When the next one is there."""
    missing: int

    @property
    def name(self) -> str:
        reports = "report" if self.missing == 1 else "reports"
        return f"{stretch(self.begin, self.end)}: {self.missing:,} {reports} missing"


@dataclasses.dataclass(frozen=True, slots=True)
class Alarm:
    """From the first report of an alarm to its last."""

    begin: int
    end: int
    level: int
    """The highest."""
    flags: int
    """All bits that occurred."""
    missing: int
    """Reports of single seconds that are missing around level 3 and above."""

    @property
    def name(self) -> str:
        missing = f", {self.missing} of its seconds missing" if self.missing else ""
        return f"{stretch(self.begin, self.end)}: level {self.level}{missing}"


def gaps(
    times: Int64, off: NDArray[np.bool_], logouts: Int64, period_s: float, off_s: int = 150
) -> list[Gap]:
    """Where two reports that follow each other are further apart than the period.

    A vehicle that logged out in between is excused, and so is one that had been off for `off_s`.

    Args:
        times: of the reports.
        off: whether the vehicle was off, as each of them says.
        logouts: times of logouts, sorted.
        period_s: the longest time between two reports.
        off_s: reports go on for about so long after the power-off.
    """
    apart = np.flatnonzero(np.diff(times) > period_s)
    if not len(apart):
        return []
    # The place of the last report before that says "on"; -1 where there is none.
    on = np.maximum.accumulate(np.where(off, -1, np.arange(len(times))))
    found = []
    for place in apart.tolist():
        last, following = int(times[place]), int(times[place + 1])
        out = np.searchsorted(logouts, last)
        if out < len(logouts) and logouts[out] <= following:
            continue
        if on[place] < 0 or last - times[on[place]] >= off_s:
            continue
        missing = max(1, math.ceil((following - last) / period_s) - 1)
        found.append(Gap(int(last + period_s), following, missing))
    return found


def alarms(times: Int64, levels: Int64, flags: Int64, *, until_end: bool) -> list[Alarm]:
    """The alarms, from first to last.

    Args:
        times: of the reports.
        levels: alarm level of each of them.
        flags: alarm flags of each.
        until_end: level 3 and above is reported each second until its end (2025), and not only for
            30 s (2016).
    """
    found = []
    for first, last in _runs((levels > 0) | (flags != 0)):
        part = slice(first, last + 1)
        missing = 0
        for onset, end in _runs(levels[part] >= STOP_LEVEL):
            missing += _missing(times, first + onset, first + end, until_end=until_end)
        found.append(
            Alarm(
                int(times[first]),
                int(times[last]),
                int(levels[part].max()),
                int(np.bitwise_or.reduce(flags[part])),
                missing,
            )
        )
    return found


def _runs(true: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last place of each run."""
    edges = np.diff(true.astype(np.int8), prepend=0, append=0)
    begins, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1
    return list(zip(begins.tolist(), ends.tolist(), strict=True))


def _missing(times: Int64, onset: int, end: int, *, until_end: bool) -> int:
    """Seconds without a report around an alarm, as far as the vehicle was on at all."""
    before = np.flatnonzero(np.diff(times[: onset + 1]) > _SEGMENT_S)
    start = times[before[-1] + 1] if len(before) else times[0]
    first = max(int(start), int(times[onset]) - AROUND_S)
    last = int(times[onset]) + AROUND_S
    if until_end:
        last = max(last, int(times[end]))
    last = min(last, int(times[-1]))
    there = np.searchsorted(times, last, "right") - np.searchsorted(times, first)
    return last - first + 1 - int(there)


def moment(seconds: int) -> str:
    """Such as 2026-01-01 10:00:10."""
    return f"{datetime.fromtimestamp(seconds, _BEIJING):%Y-%m-%d %H:%M:%S}"


def stretch(begin: int, end: int) -> str:
    """Such as 2026-01-01 10:00:10 to 10:03:00."""
    first, last = moment(begin), moment(end)
    return f"{first} to {last.split()[1] if last[:10] == first[:10] else last}"
