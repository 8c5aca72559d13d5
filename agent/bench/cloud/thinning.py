"""Many samples to few points, for a chart. Pure.

A point stands for the samples of one bucket of time: the least, the greatest and the last value,
and the time of the last sample. Buckets lie on a grid that does not move with the window, so a
chart that is asked for again and again does not flicker. Where there are no more samples than
points were asked for, each is a point of its own.

A value that is no measurement is NaN. It is left out of a bucket that has others.

Samples that are far apart are not to be joined by a line: between them is a point without values.
"Far" is ten times the usual distance, and at least five seconds. Such points come on top of those
that were asked for.
"""

import dataclasses
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, Int64
from agent.clock import MILLISECOND, SECOND

_FAR: Final = 10
_LEAST_GAP_NS: Final = 5 * SECOND
_DISTANCES: Final = 10_000
"""The usual distance is the median of about so many, taken evenly."""
_STEPS: Final = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Points:
    """n points: `time` int64[n] in ns; `least`, `greatest`, `last` float64[n], NaN for no value.

    `gap_ns` is the distance above which two samples are not joined.
    """

    time: Int64
    least: Float64
    greatest: Float64
    last: Float64
    gap_ns: int


def width_for(first: int, last: int, points: int) -> int:
    """The width of buckets in ns, of which no more than `points` hold all of first..last."""
    scale = MILLISECOND
    while True:
        for step in _STEPS:
            width = int(step * scale)
            if last // width - first // width < points:
                return width
        scale *= 10


def thin(time: Int64, value: Float64, points: int, width: int) -> Points:
    """`time` int64[n] in ns, ascending; `value` float64[n]; `width` of a bucket in ns."""
    n = len(time)
    if n == 0:
        return Points(time, value, value, value, _LEAST_GAP_NS)
    distance = np.diff(time)
    gap_ns = gap_of(distance)
    ends = bucket_ends(time, points, width)
    if len(ends) == n:
        least = greatest = last = value
    else:
        begins = np.concatenate(([0], ends[:-1] + 1))
        least = np.fmin.reduceat(value, begins)
        greatest = np.fmax.reduceat(value, begins)
        known = np.where(np.isnan(value), -1, np.arange(n))
        found = np.maximum.reduceat(known, begins)
        last = np.where(found >= 0, value[found], np.nan)
    at = time[ends]
    breaks = np.flatnonzero(distance > gap_ns)
    if len(breaks):
        bucket = np.searchsorted(ends, breaks)
        between = ends[bucket] == breaks
        after, breaks = bucket[between] + 1, breaks[between]
        at = np.insert(at, after, time[breaks] + distance[breaks] // 2)
        least, greatest, last = (np.insert(v, after, np.nan) for v in (least, greatest, last))
    return Points(at, least, greatest, last, gap_ns)


def gap_of(distance: Int64) -> int:
    """Above which distance in ns samples are far apart."""
    if len(distance) == 0:
        return _LEAST_GAP_NS
    usual = float(np.median(distance[:: max(1, len(distance) // _DISTANCES)]))
    return max(_LEAST_GAP_NS, int(_FAR * usual))


def bucket_ends(time: Int64, points: int, width: int) -> NDArray[np.intp]:
    """The place of the last sample of each bucket; every sample where they are few."""
    n = len(time)
    if n <= points:
        return np.arange(n)
    bucket = time // width
    return np.append(np.flatnonzero(bucket[1:] != bucket[:-1]), n - 1)


def in_order(time: Int64, value: NDArray[Any]) -> tuple[Int64, NDArray[Any]]:
    """Samples by time; one that was kept twice (the same value at the same time) comes once.

    `value` float64[n], or uint8[n, w] for payloads.
    """
    if len(time) < 2:
        return time, value
    if (time[1:] < time[:-1]).any():
        order = np.argsort(time, kind="stable")
        time, value = time[order], value[order]
    same = np.flatnonzero(time[1:] == time[:-1])
    if len(same):
        a, b = value[same], value[same + 1]
        equal = (a == b).all(axis=1) if value.ndim == 2 else (a == b) | (np.isnan(a) & np.isnan(b))
        keep = np.ones(len(time), bool)
        keep[same[equal] + 1] = False
        time, value = time[keep], value[keep]
    return time, value
