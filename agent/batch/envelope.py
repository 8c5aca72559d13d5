"""A long signal in few points: of each interval the first, least, greatest and last value.

The number of intervals is fixed. They are short at first, and whenever the time does not fit any
more, two become one. So memory does not depend on how long a recording is, which nobody knows
before its end, and no peak is lost. A signal with few samples keeps each of them, with its time.
"""

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, Int64

_FIRST_WIDTH_NS = 1 << 10


class Envelope:
    """One signal; `add` takes samples, `points` gives what is to be drawn.

    Args:
        intervals: how many there are; up to four points of each are drawn.
    """

    def __init__(self, intervals: int = 2048) -> None:
        self._n = intervals
        self._width = _FIRST_WIDTH_NS
        self._origin: int | None = None
        # Of each interval: first, least, greatest and last, as time and value.
        self._time = np.zeros((4, intervals), np.int64)
        self._value = np.zeros((4, intervals), np.float64)
        self._used = np.zeros(intervals, np.bool_)
        self.samples = 0

    def add(self, time: Int64, value: Float64) -> None:
        """Take samples: int64[n] in nanoseconds, float64[n]. What is not finite is left out."""
        finite = np.isfinite(value)
        time, value = time[finite], value[finite]
        if not len(time):
            return
        self.samples += len(time)
        order = np.argsort(time, kind="stable")
        time, value = time[order], value[order]
        self._fit(int(time[0]), int(time[-1]))
        if self._origin is None:
            raise AssertionError
        place = (time - self._origin) // self._width
        begins = np.flatnonzero(np.diff(place, prepend=-1))
        ends = np.append(begins[1:], len(place)) - 1
        by_value = np.lexsort((value, place))
        rows = np.stack([begins, by_value[begins], by_value[ends], ends])
        self._merge(place[begins], time[rows], value[rows])

    def points(self) -> tuple[Int64, Float64]:
        """Times, int64[m], in order, and values, float64[m]; m is at most 4 times the intervals."""
        time = self._time[:, self._used].T
        value = self._value[:, self._used].T
        order = np.argsort(time, axis=1, kind="stable")
        time = np.take_along_axis(time, order, 1).ravel()
        value = np.take_along_axis(value, order, 1).ravel()
        if not len(time):
            return time, value
        same = (np.diff(time) == 0) & (np.diff(value) == 0)
        new = np.append(True, ~same)
        return time[new], value[new]

    def _fit(self, first: int, last: int) -> None:
        """Make the intervals so long that all samples have one."""
        if self._origin is None:
            self._origin = first
        while True:
            lead = max(0, -(-(self._origin - first) // self._width))
            used = np.flatnonzero(self._used)
            top = int(used[-1]) + lead if len(used) else 0
            top = max(top, (last - self._origin) // self._width + lead)
            if top < self._n:
                break
            self._fold()
        if lead:
            self._origin -= lead * self._width
            for array in (self._time, self._value, self._used):
                array[...] = np.roll(array, lead, axis=-1)

    def _fold(self) -> None:
        used = np.flatnonzero(self._used)
        time, value = self._time[:, used], self._value[:, used]
        self._used[:] = False
        self._width *= 2
        # Those in an even place first, so that their partners come after them.
        for parity in (0, 1):
            some = used % 2 == parity
            self._merge(used[some] // 2, time[:, some], value[:, some])

    def _merge(self, place: NDArray[np.intp], time: Int64, value: Float64) -> None:
        """Join rows (4, k) with the intervals of these places, which are all different."""
        there = self._used[place]
        old_time, old_value = self._time[:, place], self._value[:, place]
        better = np.stack(
            [
                time[0] < old_time[0],
                value[1] < old_value[1],
                value[2] > old_value[2],
                time[3] >= old_time[3],
            ]
        )
        take = better | ~there
        self._time[:, place] = np.where(take, time, old_time)
        self._value[:, place] = np.where(take, value, old_value)
        self._used[place] = True
