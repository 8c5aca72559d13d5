"""What a profile lets nobody know: the vehicle's name, its VIN, and where it was."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.blocks import FrameBlock, SignalSchema, SignalTable, TableSchema
from agent.bus.gnss.tables import position_row, schemas
from agent.clock import BootNs
from agent.collect.privacy import Profile
from agent.errors import ConfigError
from agent.settings.plan import Geofence, Privacy
from agent.signals import Database, Decoder
from agent.signals.database import SignalPath
from tests.collect.places import (
    ALL_POSITIONS,
    DATABASE,
    ERROR,
    HOME,
    IDENTITY,
    LONGITUDE,
    NORTH,
    POSITION,
    SPEED,
    UNAVAILABLE,
    degrees,
    longitudes,
    one,
    positions,
    profile,
    rounded,
    split,
    table,
)
from tests.signals.dbctext import Msg, Sig, text


class TestVin:
    VIN = ("Identity.Vin", "Identity.LongVin", "Identity.VinPart")

    def test_text_becomes_the_pseudonym_and_numbers_are_left_out(self) -> None:
        masker = profile(purpose="research", vin=self.VIN)
        [masked], left_out = masker.apply([table(IDENTITY, {"Speed": [10.0, 20.0]})])
        assert masked.names == ("Vin", "LongVin", "Speed")
        name = masker.pseudonym.encode()
        assert bytes(masked.raw["Vin"][1]) == name[:17]
        assert bytes(masked.raw["LongVin"][0]) == name + bytes(8)
        assert masked.physical("Speed").tolist() == [10, 20]
        assert left_out == 2

    def test_without_a_purpose_there_is_nothing_to_put_in_its_place(self) -> None:
        [masked], left_out = profile(vin=self.VIN).apply([table(IDENTITY, {"Speed": [1.0]})])
        assert masked.names == ("Speed",)
        assert left_out == 3

    def test_aggregates_of_it_go_the_same_way(self) -> None:
        signals = (
            SignalSchema("Vin.last", "bytes", 136),
            SignalSchema("VinPart.last", "uint64", 56),
            SignalSchema("VinPart.count", "uint64", 32),
        )
        folded = table(TableSchema("can0", "Identity", signals), {"VinPart.last": [7]})
        [masked], left_out = profile(purpose="x", vin=self.VIN).apply([folded])
        assert masked.names == ("Vin.last",)
        assert b"WDB" not in bytes(masked.raw["Vin.last"][0])
        assert left_out == 2

    def test_a_table_of_which_nothing_is_left_is_gone(self) -> None:
        alone = TableSchema("can0", "Identity", (SignalSchema("VinPart", "uint64", 56),))
        assert profile(vin=self.VIN).apply([table(alone, {"VinPart": [1, 2, 3]})]) == ([], 3)


# -- rounding --------------------------------------------------------------------------------


KINDS = [
    degrees("Latitude"),
    degrees("Latitude", "int64", bits=32, scale=1e-7),
    degrees("Latitude", "int64", bits=64, scale=1e-16),
    degrees("Latitude", "float32", bits=32),
    degrees("Latitude", "float64"),
]


class TestRounding:
    @pytest.mark.parametrize("schema", KINDS, ids=lambda s: f"{s.kind}-{s.bits}-{s.scale:g}")
    @given(lat=st.floats(-80, 80), lon=longitudes)
    def test_raw_values_of_a_cell_are_the_same_and_stay_the_same(
        self, schema: SignalSchema, lat: float, lon: float
    ) -> None:
        if schema.scale == 1e-16:
            lat = math.nextafter(lat, 0)
        both = (schema, SignalSchema(**{**_fields(schema), "name": "Longitude", "scale": 1e-7}))
        if schema.kind in ("float32", "float64"):
            both = (schema, SignalSchema(**{**_fields(schema), "name": "Longitude"}))
        elif schema.bits == 64:
            both = (schema, LONGITUDE)
        where = TableSchema("can0", "Position", both)
        middle = rounded(1000, (lat, lon))
        noise = [(0.0, 0.0), (0.004, 0.004), (-0.004, -0.004), (0.002, -0.003)]
        rows = table(
            where,
            {
                "Latitude": [middle[0] + n for n, _ in noise],
                "Longitude": [middle[1] + e for _, e in noise],
            },
        )
        masker = profile(round_m=1000)
        once = one(masker, rows)
        twice = one(masker, once)
        for name, exact in zip(("Latitude", "Longitude"), middle, strict=True):
            assert len(set(once.raw[name].tolist())) == 1
            assert once.raw[name].tolist() == twice.raw[name].tolist()
            assert once.physical(name)[0] == pytest.approx(exact, abs=2e-5)

    def test_what_is_no_position_stays_and_so_does_the_table_of_others(self) -> None:
        rows = positions([(48.2, 11.5)])
        before = rows.raw["Latitude"].tolist()
        masked = one(profile(round_m=1000), rows)
        assert masked.raw["Speed"].tolist() == rows.raw["Speed"].tolist()
        assert masked.raw["Latitude"].tolist() != before
        assert rows.raw["Latitude"].tolist() == before

    def test_codes_stay_and_what_is_no_coordinate_becomes_one(self) -> None:
        rows = table(
            POSITION,
            {
                "Latitude": [UNAVAILABLE, ERROR, 91.0, 48.0],
                "Longitude": [11.0, ERROR, 11.0, UNAVAILABLE],
            },
        )
        masked = one(profile(round_m=1000), rows)
        assert masked.raw["Latitude"].tolist()[:3] == [UNAVAILABLE, ERROR, UNAVAILABLE]
        assert masked.validity("Latitude")[3] == 0
        # Without a latitude it is not known how wide its cell is.
        assert masked.raw["Longitude"].tolist() == [UNAVAILABLE, ERROR, UNAVAILABLE, UNAVAILABLE]

    def test_a_coarse_signal_does_not_move_at_all(self) -> None:
        coarse = TableSchema(
            "can0",
            "Position",
            tuple(degrees(n, "int64", bits=16, scale=1) for n in ("Latitude", "Longitude")),
        )
        masked = one(profile(round_m=1000), table(coarse, {"Latitude": [48], "Longitude": [-11]}))
        assert (masked.raw["Latitude"][0], masked.raw["Longitude"][0]) == (48, -11)

    def test_a_float_that_is_not_a_number_stays_and_an_infinite_one_is_left_out(self) -> None:
        rows = table(NORTH, {"Lat": [math.nan, math.inf, 48.0]})
        masked, left_out = split(round_m=1000).apply([rows])
        found = {t: part for part in masked for t in part.time.tolist()}
        assert math.isnan(found[0].raw["Lat"][0])
        assert found[1].names == ("Speed",)
        assert found[2].names == ("Lat", "Speed")
        assert left_out == 1


def _fields(schema: SignalSchema) -> dict[str, Any]:
    return {name: getattr(schema, name) for name in schema.__dataclass_fields__}


# -- geofences -------------------------------------------------------------------------------


def beside(
    place: Geofence, bearing_deg: float, distance_m: float, latitude: float
) -> tuple[float, float]:
    """A place near the centre, by the radii of curvature of WGS 84."""
    e2, a = 0.00669437999014, 6_378_137.0
    w = 1 - e2 * math.sin(math.radians(latitude)) ** 2
    meridian, normal = a * (1 - e2) / w**1.5, a / math.sqrt(w)
    north = distance_m * math.cos(math.radians(bearing_deg)) / meridian
    east = distance_m * math.sin(math.radians(bearing_deg)) / normal
    return (
        latitude + math.degrees(north),
        place.longitude + math.degrees(east) / math.cos(math.radians(latitude)),
    )


class TestGeofence:
    @given(
        latitude=st.floats(-70, 70),
        longitude=longitudes,
        bearing=st.floats(0, 360),
        radius=st.floats(20, 5000),
    )
    def test_no_place_within_its_radius_on_the_real_earth_is_told(
        self, latitude: float, longitude: float, bearing: float, radius: float
    ) -> None:
        fence = Geofence(latitude=latitude, longitude=longitude, radius_m=radius)
        masker = profile(geofence=[fence])
        inside = beside(fence, bearing, 0.995 * radius, latitude)
        outside = beside(fence, bearing, 1.02 * radius, latitude)
        places = [(lat, (lon + 180) % 360 - 180) for lat, lon in (inside, outside)]
        masked = one(masker, positions(places))
        for name in ("Latitude", "Longitude"):
            assert masked.validity(name).tolist() == [1, 0]

    def test_inside_both_are_not_available_and_the_rest_of_the_row_stays(self) -> None:
        rows = positions([(48.0, 11.0), (48.1, 11.0)])
        masker = profile(geofence=[HOME])
        masked = one(masker, rows)
        assert masked.raw["Latitude"].tolist() == [UNAVAILABLE, rows.raw["Latitude"][1]]
        assert masked.raw["Longitude"].tolist() == [UNAVAILABLE, rows.raw["Longitude"][1]]
        assert masked.raw["Speed"].tolist() == rows.raw["Speed"].tolist()
        assert masker.blanked == 2

    def test_where_no_code_says_so_the_samples_are_left_out(self) -> None:
        both = (degrees("Latitude", "float64"), degrees("Longitude", "float64"), SPEED)
        schema = TableSchema("can0", "Position", both)
        rows = table(schema, {"Latitude": [48.0, 49.0], "Longitude": [11.0, 11.0]}, [5, 6])
        masked, left_out = profile(geofence=[HOME]).apply([rows])
        assert {(t.names, *t.time.tolist()) for t in masked} == {
            (("Speed",), 5),
            (("Latitude", "Longitude", "Speed"), 6),
        }
        assert left_out == 2
        assert sum(t.samples for t in masked) + left_out == rows.samples

    def test_a_position_that_is_not_known_is_not_told(self) -> None:
        rows = table(
            POSITION,
            {"Latitude": [49.0, UNAVAILABLE, ERROR, 99.0], "Longitude": [ERROR, 12.0, 12.0, 12.0]},
        )
        masked = one(profile(geofence=[HOME]), rows)
        assert masked.raw["Latitude"].tolist() == [UNAVAILABLE, UNAVAILABLE, ERROR, UNAVAILABLE]
        assert masked.raw["Longitude"].tolist() == [ERROR, *[UNAVAILABLE] * 3]

    def test_any_of_several_hides_also_across_the_date_line(self) -> None:
        fiji = Geofence(latitude=-17.0, longitude=179.99, radius_m=10_000)
        rows = positions([(48.0, 11.0), (-17.0, -179.99), (0.0, 0.0)])
        masked = one(profile(geofence=[HOME, fiji]), rows)
        assert masked.validity("Latitude").tolist() == [1, 1, 0]

    def test_the_fence_is_looked_for_before_places_are_rounded(self) -> None:
        small = Geofence(latitude=48.0, longitude=11.0, radius_m=100)
        masked = one(
            profile(geofence=[small], round_m=100_000), positions([(48.0, 11.0), (48.01, 11.0)])
        )
        assert masked.validity("Latitude").tolist() == [1, 0]

    def test_it_masks_what_a_receiver_gives(self) -> None:
        database = Database({}, tables=schemas("gnss"))
        written = Privacy(
            name="careful", latitude=["gnss.Position.Lat*"], longitude=["*Long*"], geofence=[HOME]
        )
        masker = Profile(written, database, vehicle="truck-7")
        values = {"Latitude": 48 * 10**7, "Longitude": 11 * 10**7, "Altitude": 50_000}
        masked = one(masker, position_row("gnss", BootNs(1), values))
        assert masked.validity("Latitude").tolist() == [1]
        assert masked.validity("Longitude").tolist() == [1]
        assert masked.validity("Altitude").tolist() == [0]

    def test_files_for_every_bus_name_signals_of_each(self, tmp_path: Path) -> None:
        path = tmp_path / "car.dbc"
        signals = [
            Sig("Latitude", 0, 32, signed=True, scale="1E-7"),
            Sig("Longitude", 32, 32, signed=True, scale="1E-7"),
        ]
        path.write_text(text([Msg("Position", 5, 8, signals)]), "utf-8")
        database = Database.load([path])
        written = Privacy(
            name="careful", latitude=["Latitude"], longitude=["Longitude"], geofence=[HOME]
        )
        masker = Profile(written, database, vehicle="truck-7")
        places = np.array([[48 * 10**7, 11 * 10**7], [49 * 10**7, 11 * 10**7]], "<i4")
        block = FrameBlock.from_arrays(
            bus="can3", time=[1, 2], id=[5, 5], length=[8, 8], data=places.view(np.uint8)
        )
        masked, left_out = masker.apply(Decoder(database).decode(block))
        assert [t.time.tolist() for t in masked] == [[2]]
        assert left_out == 2


# -- aggregates ------------------------------------------------------------------------------

FOLDED = TableSchema(
    "can0",
    "Position",
    (
        degrees("Latitude.mean", "float64"),
        degrees("Longitude.mean", "float64"),
        degrees("Latitude.min"),
        degrees("Longitude.max"),
        SignalSchema("Latitude.count", "uint64", 32),
        SignalSchema("Speed.mean", "float64", 64),
    ),
)


class TestAggregates:
    def rows(self) -> SignalTable:
        columns: dict[str, Sequence[float]] = {
            "Latitude.mean": [48.123456],
            "Longitude.mean": [11.123456],
            "Latitude.min": [48.1],
            "Longitude.max": [11.2],
            "Latitude.count": [1000],
            "Speed.mean": [33.0],
        }
        return table(FOLDED, columns)

    def test_they_are_rounded_like_samples(self) -> None:
        [masked], left_out = profile(round_m=1000).apply([self.rows()])
        lat, lon = rounded(1000, (48.123456, 11.123456))
        assert masked.raw["Latitude.mean"][0] == lat
        assert masked.raw["Longitude.mean"][0] == lon
        assert masked.physical("Latitude.min")[0] == pytest.approx(rounded(1000, (48.1, 0))[0])
        assert masked.raw["Latitude.count"][0] == 1000
        # Without the latitude that it belongs to, its cell is not known.
        assert "Longitude.max" not in masked.names
        assert left_out == 1

    def test_with_a_fence_they_are_left_out(self) -> None:
        far = Geofence(latitude=0, longitude=0, radius_m=1)
        [masked], left_out = profile(round_m=1000, geofence=[far]).apply([self.rows()])
        assert masked.names == ("Speed.mean",)
        assert left_out == 5


# -- what a plan may say ---------------------------------------------------------------------


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"vin": ["Nothing"]}, 'no signal is called "Nothing"'),
            ({"latitude": ["Latitude"], "round_m": 10}, "belong together"),
            ({"longitude": ["Longitude"], "round_m": 10}, "belong together"),
            ({"vin": ["Identity.Vin"], "round_m": 10}, 'need the signals "latitude"'),
            ({"vin": ["Identity.Vin"], "geofence": [HOME]}, 'need the signals "latitude"'),
            ({"latitude": ["Latitude"], "longitude": ["Longitude"]}, "would stay as they are"),
            (
                {"latitude": ["Identity.Vin"], "longitude": ["Longitude"], "round_m": 1},
                "holds no number",
            ),
            (
                {"latitude": ["Latitude"], "longitude": ["Latitude"], "round_m": 1},
                "as latitude and as longitude",
            ),
            (
                {"latitude": ["Latitude", "Lat"], "longitude": ["Longitude"], "round_m": 1},
                "not clear what belongs together: North.Lat",
            ),
            (
                {"latitude": ["Latitude", "Position.Speed"], "longitude": ["Lon"], "round_m": 1},
                'in "km/h"',
            ),
        ],
    )
    def test_what_cannot_be_is_refused_with_the_name_of_the_profile(
        self, settings: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(ConfigError, match=re.escape(words)) as raised:
            profile(**settings)
        assert str(raised.value).startswith('privacy "careful": ')

    @pytest.mark.parametrize("unit", ["deg", "Degrees", "°", "Â°", "", "deg N"])
    def test_degrees_are_written_in_many_ways(self, unit: str) -> None:
        both = (degrees("Latitude", unit=unit), degrees("Longitude", unit=unit))
        database = Database({}, tables=(TableSchema("can0", "Position", both),))
        written = Privacy(name="careful", latitude=["Latitude"], longitude=["Longitude"], round_m=1)
        Profile(written, database, vehicle="truck-7")

    @pytest.mark.parametrize("unit", ["rad", "min", "mdeg", "1e-7 deg"])
    def test_other_units_are_refused(self, unit: str) -> None:
        both = (degrees("Latitude", unit=unit), degrees("Longitude", unit=unit))
        database = Database({}, tables=(TableSchema("can0", "Position", both),))
        written = Privacy(name="careful", latitude=["Latitude"], longitude=["Longitude"], round_m=1)
        with pytest.raises(ConfigError, match="masked in degrees"):
            Profile(written, database, vehicle="truck-7")

    def test_receivers_of_one_message_are_pairs_in_its_order(self) -> None:
        names = ("Lat1", "Lon1", "Lat2", "Lon2")
        schema = TableSchema("can0", "Two", tuple(degrees(name) for name in names))
        written = Privacy(name="careful", latitude=["Lat*"], longitude=["Lon*"], geofence=[HOME])
        masker = Profile(written, Database({}, tables=(schema,)), vehicle="truck-7")
        rows = table(schema, {"Lat1": [48.0], "Lon1": [11.0], "Lat2": [48.0], "Lon2": [12.0]})
        masked = one(masker, rows)
        assert [int(masked.validity(name)[0]) for name in names] == [1, 1, 0, 0]

    def test_vss_paths_name_signals(self) -> None:
        here = "Vehicle.CurrentLocation"
        vss = {
            f"{here}.Latitude": SignalPath("can0", "Position", "Latitude"),
            f"{here}.Longitude": SignalPath("can0", "Position", "Longitude"),
        }
        written = Privacy(
            name="careful",
            latitude=[f"{here}.Latitude"],
            longitude=[f"{here}.Longitude"],
            geofence=[HOME],
        )
        masker = Profile(written, DATABASE, vss, vehicle="truck-7")
        assert one(masker, positions([(48.0, 11.0)])).validity("Latitude").tolist() == [1]

    def test_the_statement_says_how_and_not_where(self) -> None:
        masker = profile(
            **ALL_POSITIONS, purpose="research", vin=["Vin"], round_m=250, geofence=[HOME, HOME]
        )
        assert masker.statement() == {
            "profile": "careful",
            "purpose": "research",
            "pseudonym": True,
            "round_m": 250,
            "geofences": 2,
            "vin": "replaced",
        }
        assert "vin" not in profile(round_m=1).statement()
        assert profile(vin=["Vin"]).statement()["vin"] == "left out"

    def test_it_says_which_signals_it_covers(self) -> None:
        masker = profile(round_m=1)
        assert masker.covers(SignalPath("can0", "Position", "Latitude"))
        assert not masker.covers(SignalPath("can0", "Position", "Speed"))
