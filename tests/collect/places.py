"""Tables of positions, and plain arithmetic on the earth."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.blocks import Kind, SignalSchema, SignalTable, TableSchema
from agent.collect.position import Grid
from agent.collect.privacy import Profile
from agent.settings.plan import Geofence, Privacy
from agent.signals import Database

SECRET = bytes(range(32))
HOME = Geofence(latitude=48.0, longitude=11.0, radius_m=5_000)
RADIUS_M = 6_335_439.0

CODES = ((0xFE000000, 0xFEFFFFFF, "error"), (0xFF000000, 0xFFFFFFFF, "not available"))
UNAVAILABLE = 0xFFFFFFFF
ERROR = 0xFE000000


def degrees(name: str, kind: Kind = "uint64", **more: Any) -> SignalSchema:
    """A coordinate; as J1939 has it where nothing else is said."""
    if kind == "uint64":
        more = {"bits": 32, "scale": 1e-7, "offset": -210, "codes": CODES, **more}
    return SignalSchema(name, kind, **{"bits": 64, "unit": "deg", **more})


LATITUDE, LONGITUDE = degrees("Latitude"), degrees("Longitude")
SPEED = SignalSchema("Speed", "uint64", 16, 0.1, unit="km/h")
POSITION = TableSchema("can0", "Position", (LATITUDE, LONGITUDE, SPEED), source=1)
NORTH = TableSchema("can0", "North", (degrees("Lat", "float64"), SPEED))
EAST = TableSchema("can0", "East", (degrees("Lon", "float64"),))
IDENTITY = TableSchema(
    "can0",
    "Identity",
    (
        SignalSchema("Vin", "bytes", 136),
        SignalSchema("LongVin", "bytes", 8 * 30),
        SignalSchema("VinPart", "uint64", 56),
        SPEED,
    ),
)
DATABASE = Database({}, tables=(POSITION, NORTH, EAST, IDENTITY))
ALL_POSITIONS = {
    "latitude": ["Position.Latitude", "North.Lat"],
    "longitude": ["Position.Longitude", "East.Lon"],
}


def profile(**settings: Any) -> Profile:
    """With the names of `POSITION`, unless others are given."""
    if not {"latitude", "longitude", "vin"} & set(settings):
        settings |= {"latitude": ["Position.Latitude"], "longitude": ["Position.Longitude"]}
    written = Privacy(name="careful", **settings)
    return Profile(written, DATABASE, vehicle="truck-7", secret=SECRET)


def split(**settings: Any) -> Profile:
    return profile(latitude=["North.Lat"], longitude=["East.Lon"], **settings)


def raw_of(schema: SignalSchema, value: float) -> float:
    whole = schema.kind in ("int64", "uint64")
    return round((value - schema.offset) / schema.scale) if whole else value


def table(
    schema: TableSchema, columns: Mapping[str, Sequence[float]], times: Sequence[int] = ()
) -> SignalTable:
    """Rows of physical values, or of raw ones where they are ints; 0 where nothing is said."""
    rows = len(next(iter(columns.values())))
    values: dict[Kind, NDArray[Any]] = {}
    for kind in dict.fromkeys(s.kind for s in schema.signals if s.kind != "bytes"):
        raw = [
            [v if isinstance(v, int) else raw_of(s, v) for v in columns.get(s.name, [0] * rows)]
            for s in schema.signals
            if s.kind == kind
        ]
        values[kind] = np.array(raw, kind)
    payloads = tuple(
        np.tile(np.frombuffer(b"WDB1234567890ABCD".ljust(s.bits // 8, b"."), np.uint8), (rows, 1))
        for s in schema.signals
        if s.kind == "bytes"
    )
    time = np.array(times or range(rows), np.int64)
    return SignalTable(schema, time, values, payloads)


def positions(places: Sequence[tuple[float, float]]) -> SignalTable:
    return table(
        POSITION, {"Latitude": [p[0] for p in places], "Longitude": [p[1] for p in places]}
    )


def one(masker: Profile, given_one: SignalTable) -> SignalTable:
    """What becomes of a table that stays whole."""
    [masked], left_out = masker.apply([given_one])
    assert left_out == 0
    return masked


latitudes = st.floats(-90, 90)
longitudes = st.floats(-180, 180)
grids = st.sampled_from([1.0, 50.0, 1000.0, 12_345.0, 100_000.0])


def metres(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Great-circle distance, by the chord between two points of the sphere."""

    def point(place: tuple[float, float]) -> NDArray[np.float64]:
        lat, lon = map(math.radians, place)
        return np.array(
            [math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)]
        )

    return 2 * RADIUS_M * math.asin(min(1, float(np.linalg.norm(point(a) - point(b))) / 2))


def rounded(round_m: float, place: tuple[float, float]) -> tuple[float, float]:
    grid = Grid(round_m)
    lat, lon = np.array([place[0]]), np.array([place[1]])
    return float(grid.latitude(lat)[0]), float(grid.longitude(lat, lon)[0])
