"""Positions: cells and distances on the earth, and which coordinates go with which.

All on a sphere with the smallest radius of curvature that WGS 84 has anywhere. Distances on it are
up to 1 % short and never long: what is asked to be so large is never smaller.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np

from agent.blocks import Float64, Int64, SignalTable
from agent.clock import SECOND

HELD_NS: Final = 10 * SECOND
"""For so long a coordinate goes with later samples of the other one."""
MOST_LATITUDE: Final = 90.0
MOST_LONGITUDE: Final = 360.0
"""Some count from 0 to 360 degrees and not from -180 to 180."""

# WGS 84, meridional radius of curvature at the equator: a(1 - e**2), the smallest of all.
_RADIUS_M: Final = 6_335_439.0
_DEGREE_M: Final = np.pi * _RADIUS_M / 180


class Grid:
    """Cells on the earth: at least `round_m` metres high, and wide in their middle."""

    def __init__(self, round_m: float) -> None:
        self._bands = max(1, int(180 * _DEGREE_M / round_m))

    def latitude(self, latitude: Float64) -> Float64:
        """The middle of each one's band, degrees; NaN stays NaN."""
        high = 180 / self._bands
        # The poles belong to the last bands, and not to ones behind them.
        band = np.clip(np.floor((latitude + 90) / high), 0, self._bands - 1)
        middle: Float64 = (band + 0.5) * high - 90
        return middle

    def longitude(self, latitude: Float64, longitude: Float64) -> Float64:
        """The middle of each one's cell, degrees; NaN where one of them is NaN.

        A cell and the one that is 360 degrees further are the same place. Fewer and fewer fit round
        a band towards the poles.
        """
        middle_of_band = self.latitude(latitude)
        cells = np.maximum(1, np.floor(2 * self._bands * np.cos(np.radians(middle_of_band))))
        wide = 360 / cells
        cell = np.floor((longitude + 180) / wide)
        # 180 belongs to the last cell: the next one begins with numbers that few senders have.
        cell = np.where(longitude <= 180, np.minimum(cell, cells - 1), cell)
        middle: Float64 = (cell + 0.5) * wide - 180
        return middle


def distance_m(latitude: Float64, longitude: Float64, to: tuple[float, float]) -> Float64:
    """Haversine of degrees; NaN of NaN."""
    north, east = np.radians(to)
    lat, lon = np.radians(latitude), np.radians(longitude)
    half = (
        np.sin((lat - north) / 2) ** 2 + np.cos(lat) * np.cos(north) * np.sin((lon - east) / 2) ** 2
    )
    distance: Float64 = 2 * _RADIUS_M * np.arcsin(np.sqrt(np.minimum(half, 1)))
    return distance


def coordinate(table: SignalTable, name: str, most: float) -> Float64:
    """A signal in degrees, float64[n]; NaN where a sample is no coordinate."""
    schema, raw = table.schema.by_name[name], table.raw[name]
    # Not `table.physical`: that may scale all signals of a block for this one.
    values = schema.physical(raw)
    return np.where((schema.code_of(raw) < 0) & (np.abs(values) <= most), values, np.nan)


class Series(NamedTuple):
    """Samples of one coordinate in the order of time; NaN where it is none."""

    time: Int64
    value: Float64


NOTHING: Final = Series(np.empty(0, np.int64), np.empty(0, np.float64))


def joined(held: Series, parts: Sequence[Series]) -> Series:
    """What is held, and the samples of a block behind it.

    Time that goes back is another recording: what was held then says nothing any more.
    """
    if not parts:
        return held
    time = np.concatenate([part.time for part in parts])
    value = np.concatenate([part.value for part in parts])
    order = np.argsort(time, kind="stable")
    before = held.time < time[order[0]]
    return Series(
        np.concatenate([held.time[before], time[order]]),
        np.concatenate([held.value[before], value[order]]),
    )


def newest(series: Series) -> Series:
    """The newest sample, and the newest before it: all that later blocks can ask for."""
    if not len(series.time):
        return NOTHING
    last = len(series.time) - 1
    before = int(np.searchsorted(series.time, series.time[last])) - 1
    rows = [last] if before < 0 else [before, last]
    return Series(series.time[rows], series.value[rows])


def at(series: Series, times: Int64, side: Literal["left", "right"]) -> Float64:
    """The newest sample before each time (`right`: or at it), NaN where that is too old."""
    if not len(series.time):
        return np.full(len(times), np.nan)
    row = np.searchsorted(series.time, times, side=side) - 1
    known = (row >= 0) & (times - series.time[row] <= HELD_NS)
    return np.where(known, series.value[row], np.nan)
