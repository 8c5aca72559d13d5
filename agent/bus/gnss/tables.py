"""The signals of a receiver: what the tables are, and an epoch as rows of them.

All values are int64. What a receiver does not know is the largest value of the signal's bits, as in
NMEA 2000, and the schema's codes say "not available"; zero always means zero.
"""

import functools
from collections.abc import Mapping
from typing import Final

import numpy as np

from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.clock import MILLISECOND, BootNs, WallNs

FIX_QUALITY: Final = (
    (0, "none"),
    (1, "gps"),
    (2, "dgps"),
    (3, "pps"),
    (4, "rtk fixed"),
    (5, "rtk float"),
    (6, "estimated"),
    (7, "manual"),
    (8, "simulated"),
    (9, "sbas"),
)
"""The quality indicator of GGA (NMEA 0183); 9 is what NovAtel receivers add."""
FIX_MODE: Final = ((1, "none"), (2, "2D"), (3, "3D"))

STEPS_A_DEGREE: Final = 10**7
MOST_LATITUDE: Final = 90 * STEPS_A_DEGREE
MOST_LONGITUDE: Final = 180 * STEPS_A_DEGREE
MOST_ALTITUDE: Final = 100_000 * 100  # 100 km: beyond it a receiver is wrong, or no vehicle's
MOST_SPEED: Final = 100_000 * 1000
MOST_DOP: Final = 10_000 * 100
MOST_SATELLITES: Final = 999


def _signal(
    name: str,
    bits: int,
    scale: float,
    unit: str,
    limits: tuple[float, float],
    *,
    choices: tuple[tuple[int, str], ...] = (),
    vss: str = "",
) -> SignalSchema:
    unknown = (1 << bits - 1) - 1
    return SignalSchema(
        name,
        "int64",
        bits,
        scale=scale,
        unit=unit,
        choices=choices,
        minimum=limits[0],
        maximum=limits[1],
        vss=vss,
        codes=((unknown, unknown, "not available"),),
    )


_HERE = "Vehicle.CurrentLocation"
_POSITION: Final = (
    _signal("Latitude", 32, 1e-7, "deg", (-90, 90), vss=f"{_HERE}.Latitude"),
    _signal("Longitude", 32, 1e-7, "deg", (-180, 180), vss=f"{_HERE}.Longitude"),
    _signal("Altitude", 32, 0.01, "m", (-100_000, 100_000), vss=f"{_HERE}.Altitude"),
    _signal("Speed", 32, 0.001, "km/h", (0, 100_000)),
    _signal("Heading", 32, 0.01, "deg", (0, 359.99), vss=f"{_HERE}.Heading"),
    _signal("FixQuality", 8, 1, "", (0, 9), choices=FIX_QUALITY),
    _signal("FixMode", 8, 1, "", (1, 3), choices=FIX_MODE),
    _signal("SatellitesUsed", 16, 1, "", (0, MOST_SATELLITES)),
    _signal("Hdop", 32, 0.01, "", (0, 10_000)),
    _signal("Pdop", 32, 0.01, "", (0, 10_000)),
    _signal("Vdop", 32, 0.01, "", (0, 10_000)),
)
_SATELLITES: Final = (_signal("InView", 16, 1, "", (0, MOST_SATELLITES)),)
_TIME: Final = (
    SignalSchema("Utc", "int64", 64, scale=0.001, unit="s"),
    SignalSchema("WeeksAdded", "int64", 16),
)
_UNKNOWN: Final = {s.name: s.codes[0][0] for s in (*_POSITION, *_SATELLITES)}


@functools.cache
def schemas(bus: str) -> tuple[TableSchema, TableSchema, TableSchema]:
    """What a receiver of this name gives: `Position`, `Satellites` and `Time`."""
    return (
        TableSchema(bus, "Position", _POSITION),
        TableSchema(bus, "Satellites", _SATELLITES),
        TableSchema(bus, "Time", _TIME),
    )


def position_row(bus: str, time: BootNs, values: Mapping[str, int]) -> SignalTable:
    """One row of `Position`; signals that are not in `values` are not available."""
    return _row(schemas(bus)[0], time, values)


def satellites_row(bus: str, time: BootNs, in_view: int) -> SignalTable:
    return _row(schemas(bus)[1], time, {"InView": in_view})


def time_row(bus: str, time: BootNs, wall: WallNs, weeks_added: int) -> SignalTable:
    """One row of `Time`: UTC in milliseconds since 1970, and by how much it was corrected."""
    values = {"Utc": wall // MILLISECOND, "WeeksAdded": weeks_added}
    return _row(schemas(bus)[2], time, values)


def _row(schema: TableSchema, time: BootNs, values: Mapping[str, int]) -> SignalTable:
    raw = [[values[n] if n in values else _UNKNOWN[n]] for n in schema.names]
    return SignalTable(schema, np.array([time], np.int64), {"int64": np.array(raw, np.int64)})
