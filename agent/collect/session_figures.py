"""The figures of a trip or charging session, summed up stretch by stretch.

`Stretch` holds all samples of some time, in order; `Totals` adds up those of them that lie in a
session. However a session is cut into stretches, the same additions are made in the same order, so
the figures do not depend on the cuts, to the last bit.

What holds between samples (voltage and current, the cells) is held at most for a while: power is
known where both are at most 5 s old, and a cell's value counts for a spread for 60 s. A list of all
cells that a bus sends in turns is whole that way, and what was read before a silence is not set
against what was read after it.

Power is taken as straight between two moments at which it is known, and integrated where these are
at most 5 s apart; a line through zero is split there into energy in and out.
"""

import dataclasses
import functools
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, Int64

GAP_NS: Final = 5_000_000_000
KEPT_NS: Final = 60_000_000_000
_JOULE_PER_KWH = 3_600_000
_S = 1_000_000_000
_ELEMENTS = 1 << 17
"""Values of cells at work at a time: a megabyte for each array of them."""

VOLTAGE, CURRENT, POWER, SOC, ODOMETER, FIRST_OF_GROUPS = range(6)
"""Slots of the single signals; those of the cells follow, then those of the temperatures."""

Span = tuple[int, int]
"""Slots of a group, from and to."""


@dataclasses.dataclass(frozen=True)
class Held:
    """The last sample of each slot: value float64[slots], NaN where there is none, and its time."""

    value: Float64
    time: Int64

    @classmethod
    def nothing(cls, slots: int) -> Self:
        return cls(np.full(slots, np.nan), np.zeros(slots, np.int64))


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Samples of the cells, or of the temperatures."""

    time: Int64
    place: NDArray[np.intp]
    """Places in the group, from 0."""
    value: Float64
    moments: Int64
    """When one of them had a sample."""
    spread: Float64
    """What holds then, the greatest less the least; NaN for less than two."""


@dataclasses.dataclass(frozen=True, eq=False)
class Stretch:
    """Valid samples of some time.

    time int64[n] ascending, slot intp[n] ascending within a time, value float64[n]: V, A, W (out of
    the pack is positive), %, km, and the units of the groups.
    """

    time: Int64
    slot: NDArray[np.intp]
    value: Float64
    before: Held
    spans: tuple[Span, ...]
    """The slots of each group."""

    @functools.cached_property
    def _is_last(self) -> NDArray[np.bool_]:
        """bool[n]: no other sample of that time and slot follows (of lists, one does)."""
        last = np.ones(len(self.time), bool)
        np.logical_or(
            self.time[1:] != self.time[:-1], self.slot[1:] != self.slot[:-1], out=last[:-1]
        )
        return last

    def after(self) -> Held:
        """What holds when it is over."""
        held = Held(self.before.value.copy(), self.before.time.copy())
        slots, place = np.unique(self.slot[::-1], return_index=True)
        place = len(self.slot) - 1 - place
        held.value[slots], held.time[slots] = self.value[place], self.time[place]
        return held

    def of(self, slot: int) -> tuple[Int64, Float64]:
        """Times and values of one signal."""
        mine = self.slot == slot
        return self.time[mine], self.value[mine]

    @functools.cached_property
    def power(self) -> tuple[Int64, Float64]:
        """The moments at which power is known, and W."""
        direct = self._is_last & (self.slot == POWER)
        if direct.any():
            return self.time[direct], self.value[direct]
        mine = np.flatnonzero(self._is_last & (self.slot <= CURRENT))
        time, slot, value = self.time[mine], self.slot[mine], self.value[mine]
        known = np.ones(len(mine), bool)
        product = np.ones(len(mine))
        for each in (VOLTAGE, CURRENT):
            place = np.where(slot == each, np.arange(len(mine)), -1)
            np.maximum.accumulate(place, out=place)
            earlier = place < 0
            held = np.where(earlier, self.before.value[each], value[place])
            since = np.where(earlier, self.before.time[each], time[place])
            known &= np.isfinite(held) & (time - since <= GAP_NS)
            product = product * held
        # Where both came at one time, the second of the two rows knows both.
        known[:-1] &= time[1:] != time[:-1]
        return time[known], product[known]

    @functools.cached_property
    def groups(self) -> tuple[Group, ...]:
        return tuple(self._group(span) for span in self.spans)

    def _group(self, span: Span) -> Group:
        mine = (self.slot >= span[0]) & (self.slot < span[1])
        moments, spread = self._spread(span)
        return Group(self.time[mine], self.slot[mine] - span[0], self.value[mine], moments, spread)

    def _spread(self, span: Span) -> tuple[Int64, Float64]:
        mine = self._is_last & (self.slot >= span[0]) & (self.slot < span[1])
        time, place, value = self.time[mine], self.slot[mine] - span[0], self.value[mine]
        begins = np.diff(time, prepend=time[:1] - 1) != 0
        moments, row = time[begins], np.cumsum(begins) - 1
        held, since = self.before.value[slice(*span)], self.before.time[slice(*span)]
        found = np.empty(len(moments))
        step = max(1, _ELEMENTS // max(1, len(held)))
        for begin in range(0, len(moments), step):
            now = moments[begin : begin + step]
            here = (row >= begin) & (row < begin + step)
            table = np.full((len(now) + 1, len(held)), np.nan)
            table[0] = held
            table[row[here] - begin + 1, place[here]] = value[here]
            origin = np.where(np.isnan(table), 0, np.arange(len(now) + 1)[:, None])
            np.maximum.accumulate(origin, axis=0, out=origin)
            table = np.take_along_axis(table, origin, axis=0)[1:]
            origin = origin[1:]
            times = np.where(origin == 0, since, now[origin - 1])
            counts = ~np.isnan(table) & (now[:, None] - times <= KEPT_NS)
            high = np.where(counts, table, -np.inf).max(axis=1)
            low = np.where(counts, table, np.inf).min(axis=1)
            found[begin : begin + step] = np.where(counts.sum(axis=1) > 1, high - low, np.nan)
            held, since = table[-1], times[-1]
        return moments, found


def integral(power: Float64, seconds: Float64) -> tuple[Float64, Float64]:
    """Energy in and out, J, between n + 1 moments at which power is known."""
    before, after = power[:-1], power[1:]
    low, high = np.minimum(before, after), np.maximum(before, after)
    mean = (before + after) / 2
    twice = np.where(high > low, 2 * (high - low), 1)
    crosses = (low < 0) & (high > 0)
    outward = np.where(crosses, high * high / twice, np.maximum(mean, 0))
    inward = np.where(crosses, low * low / twice, np.maximum(-mean, 0))
    return inward * seconds, outward * seconds


def _plus(start: float, terms: Float64) -> float:
    """A sum from the left: pairwise summation would depend on where a stretch ends."""
    return float(np.add.accumulate(np.concatenate(([start], terms)))[-1])


Extreme = tuple[float, int, int]
"""Value, place in the group from 0, time."""


@dataclasses.dataclass
class GroupTotals:
    """What is known of a group of signals."""

    least: Extreme | None = None
    greatest: Extreme | None = None
    spread: float | None = None

    def add(self, group: Group, after: int, until: int) -> None:
        rows = _within(group.time, after, until)
        value = group.value[rows]
        if not len(value):
            return
        low, high = int(value.argmin()), int(value.argmax())
        if self.least is None or value[low] < self.least[0]:
            self.least = _extreme(group, rows.start + low)
        if self.greatest is None or value[high] > self.greatest[0]:
            self.greatest = _extreme(group, rows.start + high)
        spread = group.spread[_within(group.moments, after, until)]
        spread = spread[~np.isnan(spread)]
        if len(spread):
            greatest = float(spread.max())
            self.spread = greatest if self.spread is None else max(self.spread, greatest)

    @classmethod
    def of(cls, state: Any) -> Self:
        spread = None if state["spread"] is None else float(state["spread"])
        return cls(_extreme_of(state["least"]), _extreme_of(state["greatest"]), spread)


@dataclasses.dataclass
class Totals:
    """The figures of a session so far; times in ns, power in W, energy in J."""

    first: int
    """When the session began."""
    moment: int | None = None
    """The last one at which power was known, ..."""
    power: float = 0.0
    inward: float | None = None
    outward: float | None = None
    gap_ns: int = 0
    soc: tuple[float, float, float, float] | None = None
    """First, last, least, greatest."""
    odometer: tuple[float, float] | None = None
    """First, last."""
    cells: GroupTotals = dataclasses.field(default_factory=GroupTotals)
    temperatures: GroupTotals = dataclasses.field(default_factory=GroupTotals)

    def add(self, stretch: Stretch, after: int, until: int) -> None:
        """Samples with after < time <= until."""
        self._add_power(*stretch.power, after, until)
        time, value = stretch.of(SOC)
        value = value[_within(time, after, until)]
        if len(value):
            first, _, least, greatest = self.soc or (float(value[0]), 0, np.inf, -np.inf)
            least, greatest = min(least, float(value.min())), max(greatest, float(value.max()))
            self.soc = (first, float(value[-1]), least, greatest)
        time, value = stretch.of(ODOMETER)
        value = value[_within(time, after, until)]
        if len(value):
            first = self.odometer[0] if self.odometer else float(value[0])
            self.odometer = (first, float(value[-1]))
        cells, temperatures = stretch.groups
        self.cells.add(cells, after, until)
        self.temperatures.add(temperatures, after, until)

    def _add_power(self, time: Int64, power: Float64, after: int, until: int) -> None:
        rows = _within(time, after, until)
        time, power = time[rows], power[rows]
        if not len(time):
            return
        if self.moment is None:
            self._add_gap(int(time[0]) - self.first)
        else:
            time = np.concatenate(([self.moment], time))
            power = np.concatenate(([self.power], power))
        self.moment, self.power = int(time[-1]), float(power[-1])
        apart = np.diff(time)
        near = apart <= GAP_NS
        self.gap_ns += int(apart[~near].sum())
        if near.any():
            inward, outward = integral(power, apart / _S)
            self.inward = _plus(self.inward or 0.0, inward[near])
            self.outward = _plus(self.outward or 0.0, outward[near])

    def _add_gap(self, length: int) -> None:
        if length > GAP_NS:
            self.gap_ns += length

    def energy(self, last: int) -> dict[str, float | None]:
        """At the end of the session; None where nothing could be integrated."""
        rest = last - (self.first if self.moment is None else self.moment)
        gap = self.gap_ns + (rest if rest > GAP_NS else 0)
        return {
            "energy_in_kwh": None if self.inward is None else self.inward / _JOULE_PER_KWH,
            "energy_out_kwh": None if self.outward is None else self.outward / _JOULE_PER_KWH,
            "gap_s": gap / _S,
        }

    def copy(self) -> "Totals":
        cells, temperatures = (
            dataclasses.replace(self.cells),
            dataclasses.replace(self.temperatures),
        )
        return dataclasses.replace(self, cells=cells, temperatures=temperatures)

    @classmethod
    def of(cls, state: Any) -> Self:
        """What `dataclasses.asdict` gave.

        Raises:
            KeyError, TypeError, ValueError: it did not give this.
        """
        soc, odometer = state["soc"], state["odometer"]
        if soc is not None:
            first, last, least, greatest = map(float, soc)
            soc = (first, last, least, greatest)
        if odometer is not None:
            begin, end = map(float, odometer)
            odometer = (begin, end)
        inward, outward = state["inward"], state["outward"]
        return cls(
            first=time_of(state["first"]),
            moment=None if state["moment"] is None else time_of(state["moment"]),
            power=float(state["power"]),
            inward=None if inward is None else float(inward),
            outward=None if outward is None else float(outward),
            gap_ns=time_of(state["gap_ns"]),
            soc=soc,
            odometer=odometer,
            cells=GroupTotals.of(state["cells"]),
            temperatures=GroupTotals.of(state["temperatures"]),
        )


def _extreme(group: Group, row: int) -> Extreme:
    return float(group.value[row]), int(group.place[row]), int(group.time[row])


def _extreme_of(state: Any) -> Extreme | None:
    if state is None:
        return None
    value, place, time = state
    return float(value), int(place), time_of(time)


def time_of(value: Any) -> int:
    """A time out of a file.

    Raises:
        TypeError, ValueError: it is none.
    """
    if not -(1 << 63) <= int(value) < 1 << 63:
        raise ValueError(f"{value} is no time")
    return int(value)


def _within(time: Int64, after: int, until: int) -> slice:
    """The rows with after < time <= until."""
    begin, end = np.searchsorted(time, [after, until], side="right")
    return slice(int(begin), int(end))
