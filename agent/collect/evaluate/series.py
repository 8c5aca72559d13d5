"""Values over a span of time, and how two of them are joined.

A `Series` says what holds from each of its times on; the first time is the begin of the span, with
what held before it. Truth is of Kleene's logic, as int8: false, unknown, true are 0, 1 and 2, so
that `and` is the minimum, `or` the maximum and `not x` is 2 - x.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Int64

FALSE, UNKNOWN, TRUE = 0, 1, 2
FOREVER = int(np.iinfo(np.int64).max)

Truths = NDArray[np.int8]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Series:
    times: Int64
    values: NDArray[Any]


class Joiner:
    """Brings series to the same times; what was joined once is remembered for a span."""

    def __init__(self) -> None:
        self._joined: dict[tuple[int, int], tuple[Int64, Int64, Int64, Int64, Int64]] = {}

    def join(self, a: Series, b: Series) -> tuple[Int64, NDArray[Any], NDArray[Any]]:
        """Common times, and both values at them (one value alone stands for all)."""
        if a.times is b.times or len(b.times) == 1:
            return a.times, a.values, b.values
        if len(a.times) == 1:
            return b.times, a.values, b.values
        key = (id(a.times), id(b.times))
        found = self._joined.get(key)
        if found is None:
            both = np.concatenate((a.times, b.times[1:]))
            both.sort(kind="stable")
            new = np.empty(len(both), bool)
            new[0] = True
            np.not_equal(both[1:], both[:-1], out=new[1:])
            times = both[new]
            of_a = a.times.searchsorted(times, "right") - 1
            of_b = b.times.searchsorted(times, "right") - 1
            # The two arrays of times are kept, so that their ids stay theirs.
            found = self._joined[key] = (times, of_a, of_b, a.times, b.times)
        times, of_a, of_b, _, _ = found
        return times, a.values[of_a], b.values[of_b]


def runs(truths: NDArray[np.bool_], times: Int64, since: int) -> tuple[Int64, Int64]:
    """Where truth begins and where it ends (FOREVER if it does not), int64[runs] each.

    `since` is when the truth that holds at the first time began.
    """
    change = (truths[1:] != truths[:-1]).nonzero()[0] + 1
    at = times[change]
    if truths[0]:
        at = np.concatenate(([since], at))
    if len(at) % 2:
        at = np.concatenate((at, [FOREVER]))
    return at[::2], at[1::2]


def after(begins: Int64, ends: Int64, duration: int, span: tuple[int, int]) -> Series:
    """Truth from `duration` after the begin of each run to its end."""
    first, last = span
    on = begins + duration
    holds = (on < ends) & (on <= last)
    if not holds.any():
        return Series(np.array([first], np.int64), np.zeros(1, np.int8))
    on, ends = on[holds], ends[holds]
    times = np.empty(2 * len(on), np.int64)
    times[::2] = on
    times[1::2] = ends
    return _alternating(times[times <= last], first)


def moments(on: Int64, now: bool, span: tuple[int, int]) -> Series:
    """Truth for one nanosecond from each time on; `now`: also from the begin of the span on."""
    first, last = span
    if now:
        on = np.concatenate(([first], on))
    off = on + 1
    goes_on = np.isin(off, on, assume_unique=True) if len(on) > 1 else np.zeros(len(on), bool)
    begins = on if not goes_on.any() else on[~np.isin(on, off, assume_unique=True)]
    off = off[~goes_on]
    times = np.empty(len(begins) + len(off), np.int64)
    times[::2] = begins
    times[1::2] = off
    return _alternating(times[times <= last], first)


def _alternating(times: Int64, first: int) -> Series:
    """Truth that begins at the first of `times`, ends at the second, and so on."""
    before = int(np.searchsorted(times, first, "right"))
    later = times[before:]
    all_times = np.concatenate(([first], later))
    values = (np.arange(before, before + len(all_times), dtype=np.int64) & 1).astype(np.int8)
    return Series(all_times, values * np.int8(TRUE))
