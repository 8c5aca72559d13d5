"""The figures of windows: what many rows of many series come to, at once.

Series lie one behind the other, each cut into runs, the rows of one window. Least and greatest are
found by *keys*, integers in the order of the values: an integer is its own key; that of a float is
made of its bits, so that also -0.0 and 0.0 are in order, whichever came first.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, Int64, Kind, UInt64
from agent.collect.policy_memory import Memory, Slots, as_words
from agent.collect.policy_sheet import Mask

HALF: Final = 32
_LOW_HALF: Final = (1 << HALF) - 1
_ALL_BUT_SIGN: Final = np.int64((1 << 63) - 1)

FIELDS: Final = ("window", "count", "low", "high", "last", "sum_low", "sum_high", "sum")
_ALL: Final = ("slot", *FIELDS)


@dataclasses.dataclass(slots=True)
class Figures:
    """Of R windows of series; `slot` is intp[R], the numbers of the series.

    `low` and `high` are keys, `last` is bits, uint64[R] each; the sum of integers is `sum_high` *
    2**32 + `sum_low`, of floats `sum`. Of windows without a valid sample only `window` and `count`
    mean something. Of bytes, `last` says where they are (`policy_rows.Texts`).
    """

    slot: Slots
    window: Int64
    count: Int64
    low: UInt64
    high: UInt64
    last: UInt64
    sum_low: Int64
    sum_high: Int64
    sum: Float64

    def __getitem__(self, rows: Slots | Mask) -> "Figures":
        return Figures(*(getattr(self, name)[rows] for name in _ALL))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> "Figures":
        """One behind the other; there is at least one."""
        return Figures(*(np.concatenate([getattr(p, name) for p in parts]) for name in _ALL))

    @classmethod
    def remembered(cls, memory: Memory, slots: Slots) -> Self:
        """Of the open windows of series."""
        return cls(slots, *(memory[name][slots] for name in FIELDS))

    def remember(self, memory: Memory) -> None:
        """Make these the open windows."""
        for name in FIELDS:
            memory[name][self.slot] = getattr(self, name)

    def means(self, memory: Memory) -> Float64:
        """In the units of the signals, float64[R]; counts are above 0."""
        with np.errstate(all="ignore"):  # infinities are values
            total = self.sum + self.sum_low.astype(np.float64)  # one of them is 0
            for row in np.flatnonzero(self.sum_high).tolist():
                total[row] = float((int(self.sum_high[row]) << HALF) + int(self.sum_low[row]))
            return total / self.count * memory.scale[self.slot] + memory.offset[self.slot]


@dataclasses.dataclass(frozen=True, slots=True)
class Runs:
    """Which samples are of which window: those from `start` to `end` of series `slot`.

    `slot`, `window`, `start`, `end`: arrays of R; the runs are in order and without gaps. `first`,
    `final`: which are the first or the last one of their series.
    """

    slot: Slots
    window: Int64
    start: Int64
    end: Int64
    first: Mask
    final: Mask


def of_bytes(runs: Runs, last: UInt64, memory: Memory) -> Figures:
    """Figures of bytes; `last` says where those of each run are."""
    none = np.zeros(len(last), np.int64)
    words = none.view(np.uint64)
    begun = _begun(runs, memory)
    count = runs.end - runs.start
    count[begun] += memory["count"][runs.slot[begun]]
    return Figures(
        runs.slot, runs.window, count, words, words, last, none, none, none.astype(np.float64)
    )


def of_numbers(values: NDArray[Any], valid: Mask | None, runs: Runs, memory: Memory) -> Figures:
    """Figures of values of one kind, [N]; those of open windows go on.

    `valid`: bool[N], which values count; None: all do. `runs.first` whose window is open already
    has what it came to until now.
    """
    keys = _keys(values)
    start = runs.start
    if valid is None:
        count = runs.end - start
        last = values[runs.end - 1]
        least, greatest = keys, keys
    else:
        count = np.add.reduceat(valid.astype(np.int64), start)
        place = np.maximum.reduceat(np.where(valid, np.arange(len(values)), 0), start)
        last = values[place]
        limits = np.iinfo(keys.dtype)
        least = np.where(valid, keys, keys.dtype.type(limits.max))
        greatest = np.where(valid, keys, keys.dtype.type(limits.min))
        values = np.where(valid, values, values.dtype.type(0))
    low = np.minimum.reduceat(least, start)
    high = np.maximum.reduceat(greatest, start)
    # What goes on.
    at = _begun(runs, memory)
    before = Figures.remembered(memory, runs.slot[at])
    some = before.count > 0
    at, before = at[some], before[some]
    low[at] = np.minimum(low[at], before.low.view(keys.dtype))
    high[at] = np.maximum(high[at], before.high.view(keys.dtype))
    words = as_words(last)
    words[at] = np.where(count[at] > 0, words[at], before.last)
    count[at] += before.count
    sum_low, sum_high = np.zeros(len(start), np.int64), np.zeros(len(start), np.int64)
    sums = np.zeros(len(start))
    if values.dtype.kind == "f":
        sums[at] = before.sum
        _add_in_order(sums, values.astype(np.float64), start, runs.end)
    else:
        sum_low, sum_high = _whole_sums(values, runs, memory)
        sum_low[at] += before.sum_low
        sum_high[at] += before.sum_high
    keyed = (low.view(np.uint64), high.view(np.uint64))
    return Figures(runs.slot, runs.window, count, *keyed, words, sum_low, sum_high, sums)


def _begun(runs: Runs, memory: Memory) -> Slots:
    """Which runs go on with what their open window has."""
    begun = runs.first & memory["open"][runs.slot]
    begun &= memory["window"][runs.slot] == runs.window
    return np.flatnonzero(begun)


def _keys(values: NDArray[Any]) -> NDArray[Any]:
    """Integers in the order of values, int64[N] or uint64[N]."""
    if values.dtype.kind != "f":
        return values
    bits = values.astype(np.float64).view(np.int64)
    return bits ^ (bits >> 63 & _ALL_BUT_SIGN)


def of_keys(keys: UInt64, kind: Kind) -> UInt64:
    """The bits of the values of a kind that have these keys."""
    if kind not in ("float32", "float64"):
        return keys
    signed = keys.view(np.int64)
    bits = signed ^ (signed >> 63 & _ALL_BUT_SIGN)
    with np.errstate(all="ignore"):  # keys from a file may be beyond float32
        return as_words(bits.view(np.float64).astype(kind))


def _whole_sums(values: NDArray[Any], runs: Runs, memory: Memory) -> tuple[Int64, Int64]:
    """Exact sums of runs, of the lower and upper halves."""
    signals = memory.keys
    if all(signals[slot].signal.bits <= HALF for slot in np.unique(runs.slot).tolist()):
        return np.add.reduceat(values.view(np.int64), runs.start), np.zeros_like(runs.start)
    low = (values & values.dtype.type(_LOW_HALF)).view(np.int64)
    high = (values >> values.dtype.type(HALF)).view(np.int64)
    return np.add.reduceat(low, runs.start), np.add.reduceat(high, runs.start)


def _add_in_order(sums: Float64, values: Float64, start: Int64, end: Int64) -> None:
    """Add to each sum its values, one after another."""
    lengths = end - start
    with np.errstate(all="ignore"):  # infinities are values
        if len(start) <= lengths.max():
            for run, (a, b) in enumerate(zip(start.tolist(), end.tolist(), strict=True)):
                sums[run] = np.add.accumulate(np.append(sums[run], values[a:b]))[-1]
            return
        order = np.argsort(-lengths, kind="stable")
        total, begin = sums[order], start[order]
        still = np.searchsorted(-lengths[order], -np.arange(lengths.max()), side="left")
        for step, n in enumerate(still.tolist()):
            total[:n] += values[begin[:n] + step]
        sums[order] = total
