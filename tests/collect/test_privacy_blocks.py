"""Positions that come in pieces: two messages, several tables, any blocks."""

import itertools
import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.clock import SECOND
from agent.collect.privacy import HELD_NS
from agent.settings.plan import Geofence
from tests.collect.places import (
    ALL_POSITIONS,
    EAST,
    HOME,
    LATITUDE,
    LONGITUDE,
    NORTH,
    POSITION,
    RADIUS_M,
    SPEED,
    UNAVAILABLE,
    metres,
    positions,
    profile,
    raw_of,
    rounded,
    split,
    table,
)


class TestTwoMessages:
    def test_the_newest_other_coordinate_decides(self) -> None:
        masker = split(geofence=[HOME])
        north = table(NORTH, {"Lat": [48.0, 48.0, 49.0]}, [2, 4, 6])
        east = table(EAST, {"Lon": [11.0, 12.0, 12.0]}, [1, 3, 7])
        masked, left_out = masker.apply([north, east])
        told = {name: t.time.tolist() for t in masked for name in t.names if name != "Speed"}
        assert told == {"Lat": [4, 6], "Lon": [3, 7]}
        assert left_out == 2

    @pytest.mark.parametrize("blocks", [1, 2])
    def test_of_one_stamp_neither_is_before_the_other(self, blocks: int) -> None:
        """Which came first is known only as long as both are in one block."""
        masker = split(geofence=[HOME])
        tables = [table(NORTH, {"Lat": [49.0, 48.0]}, [1, 2]), table(EAST, {"Lon": [11.0]}, [2])]
        masked = []
        for block in [tables] if blocks == 1 else [[one] for one in tables]:
            masked += masker.apply(block)[0]
        assert [t.time.tolist() for t in masked if "Lon" in t.names] == [[2]]

    def test_before_the_other_one_has_come_nothing_is_told(self) -> None:
        masker = split(geofence=[HOME])
        assert masker.apply([table(EAST, {"Lon": [12.0]}, [1])]) == ([], 1)

    def test_a_coordinate_that_is_too_old_goes_with_nothing(self) -> None:
        masker = split(geofence=[HOME])
        masker.apply([table(NORTH, {"Lat": [49.0]}, [0])])
        east = table(EAST, {"Lon": [12.0, 12.0]}, [HELD_NS, HELD_NS + 1])
        [masked], left_out = masker.apply([east])
        assert masked.time.tolist() == [HELD_NS]
        assert left_out == 1

    def test_longitudes_are_rounded_in_the_band_of_the_latitude_before(self) -> None:
        masker = split(round_m=10_000)
        masker.apply([table(NORTH, {"Lat": [60.0]}, [0])])
        [masked], _ = masker.apply([table(EAST, {"Lon": [11.0]}, [1])])
        assert masked.physical("Lon")[0] == rounded(10_000, (60.0, 11.0))[1]

    def test_senders_do_not_speak_for_each_other(self) -> None:
        masker = profile(geofence=[HOME])
        of_two = TableSchema("can0", "Position", (LONGITUDE,), source=2)
        rows = [positions([(49.0, 11.0)]), table(of_two, {"Longitude": [11.0]})]
        masked, _ = masker.apply(rows)
        assert [t.validity("Longitude").tolist() for t in masked] == [[0], [1]]

    def test_time_that_goes_back_is_another_recording(self) -> None:
        masker = split(geofence=[HOME])
        masker.apply([table(NORTH, {"Lat": [49.0]}, [100])])
        masker.apply([table(NORTH, {"Lat": [48.0]}, [5])])
        masked, left_out = masker.apply([table(EAST, {"Lon": [11.0, 12.0]}, [6, 7])])
        assert [t.time.tolist() for t in masked] == [[7]]
        assert left_out == 1

    def test_what_is_held_goes_over_to_the_next_plan(self) -> None:
        old, new = split(geofence=[HOME]), split(geofence=[HOME], round_m=1000)
        old.apply([table(NORTH, {"Lat": [49.0]}, [0])])
        new.adopt(old)
        masked, left_out = new.apply([table(EAST, {"Lon": [12.0]}, [1])])
        assert (len(masked), left_out) == (1, 0)

    def test_a_coordinate_that_the_campaign_does_not_keep_is_seen_all_the_same(self) -> None:
        rows = positions([(48.0, 11.0), (49.0, 11.0)])
        only = rows.select(POSITION.subset(["Longitude"]))
        [alone], _ = profile(geofence=[HOME]).apply([only], [rows])
        assert alone.names == ("Longitude",)
        assert alone.validity("Longitude").tolist() == [1, 0]

        north, east = table(NORTH, {"Lat": [49.0]}, [0]), table(EAST, {"Lon": [12.0]}, [1])
        masker = split(geofence=[HOME])
        assert masker.apply([], [north]) == ([], 0)
        masked, left_out = masker.apply([east], [east])
        assert (len(masked), left_out) == (1, 0)


# -- against a slow reference ----------------------------------------------------------------

BOTH = POSITION
ONLY_LATITUDE = TableSchema("can0", "Position", (LATITUDE,), source=1, branch="Page=1")
ONLY_LONGITUDE = TableSchema("can0", "Position", (LONGITUDE, SPEED), source=1, branch="Page=2")
KINDS_OF_ROWS = (BOTH, ONLY_LATITUDE, ONLY_LONGITUDE, NORTH, EAST)

Row = tuple[int, int, float, float]  # time, place in KINDS_OF_ROWS, latitude, longitude

# Degrees; inside of the fence, outside, nowhere. NaN is sent as a code where there is one.
SOME_LATITUDES = (48.0, 48.01, 48.2, 60.0, -33.3, 95.0, math.nan)
SOME_LONGITUDES = (11.0, 11.01, 11.3, -70.2, 179.99, 400.0, math.nan)


@st.composite
def streams(draw: st.DrawFn) -> list[Row]:
    rows: list[Row] = []
    time = 0
    for _ in range(draw(st.integers(0, 30))):
        kind = draw(st.integers(0, 4))
        # Two messages may have one stamp; a series has none twice.
        tied = rows and {kind, rows[-1][1]} == {3, 4} and (len(rows) < 2 or rows[-2][0] < time)
        time += draw(st.sampled_from([*([0] if tied else []), 1, SECOND, 4 * SECOND, 11 * SECOND]))
        latitude = draw(st.sampled_from(SOME_LATITUDES))
        rows.append((time, kind, latitude, draw(st.sampled_from(SOME_LONGITUDES))))
    return rows


def as_raw(schema: SignalSchema, value: float) -> float:
    if schema.kind == "float64":
        return value
    return UNAVAILABLE if math.isnan(value) or value > 200 else raw_of(schema, value)


def as_tables(rows: Sequence[Row]) -> list[SignalTable]:
    found = []
    for place, schema in enumerate(KINDS_OF_ROWS):
        mine = [row for row in rows if row[1] == place]
        if mine:
            columns = {
                s.name: [
                    int(raw) if isinstance(raw := as_raw(s, row[2 + _axis(s)]), int) else raw
                    for row in mine
                ]
                for s in schema.signals
                if s is not SPEED
            }
            found.append(table(schema, columns, [row[0] for row in mine]))
    return found


def _axis(schema: SignalSchema) -> int:
    return int(schema.name.startswith("Lon"))


def coordinate_of(schema: SignalSchema, row: Row) -> float:
    """NaN where it is none."""
    value = row[2 + _axis(schema)]
    if as_raw(schema, value) == UNAVAILABLE:
        return math.nan
    return value if abs(value) <= (360 if _axis(schema) else 90) else math.nan


CODE = math.inf
Told = dict[tuple[int, str], float]  # time and signal -> raw; CODE where it is no measurement


def coordinate_in(schema: TableSchema, axis: int) -> SignalSchema | None:
    return next((s for s in schema.signals if s is not SPEED and _axis(s) == axis), None)


def place_of(row: Row, rows: Sequence[Row]) -> tuple[float, float]:
    """Its own coordinates, or the newest other one of its message or pair of messages."""
    place = [math.nan, math.nan]
    for axis in (0, 1):
        for other in rows:
            signal = coordinate_in(KINDS_OF_ROWS[other[1]], axis)
            related = (other[1] < 3) == (row[1] < 3)
            known = other is row or 0 < row[0] - other[0] <= HELD_NS
            if signal is not None and related and known:
                place[axis] = coordinate_of(signal, other)
                if other is row:
                    break
    return place[0], place[1]


def middle_of_cell(round_m: float, lat: float, lon: float) -> tuple[float, float]:
    """In plain arithmetic, one place at a time."""
    bands = int(math.pi * RADIUS_M / round_m)
    band = min(int((lat + 90) * bands / 180), bands - 1)
    middle = (band + 0.5) * 180 / bands - 90
    cells = max(1, int(2 * bands * math.cos(math.radians(middle))))
    cell = min(int((lon + 180) * cells / 360), cells - 1)
    return middle, (cell + 0.5) * 360 / cells - 180


def reference(rows: Sequence[Row], fences: Sequence[Geofence], round_m: float) -> Told:
    """Row by row, looking back over all that has come."""
    told: Told = {}
    for row in rows:
        place = place_of(row, rows)
        unknown = any(map(math.isnan, place))
        fenced = fences and any(
            unknown or metres(place, (f.latitude, f.longitude)) <= f.radius_m for f in fences
        )
        for signal in KINDS_OF_ROWS[row[1]].signals:
            key, axis = (row[0], signal.name), _axis(signal)
            raw = 0 if signal is SPEED else as_raw(signal, row[2 + axis])
            if signal is SPEED:
                told[key] = 0
            elif raw == UNAVAILABLE or math.isnan(raw):
                told[key] = CODE
            elif fenced or math.isnan(place[axis]) or (round_m and axis and unknown):
                if signal.codes:
                    told[key] = CODE
            elif round_m:
                to = middle_of_cell(round_m, place[0], 0.0 if unknown else place[1])
                told[key] = raw_of(signal, to[axis])
            else:
                told[key] = raw
    return told


def told_by(tables: Sequence[SignalTable]) -> Told:
    told: Told = {}
    for part in tables:
        for name in part.names:
            for time, raw, code in zip(
                part.time.tolist(), part.raw[name].tolist(), part.validity(name), strict=True
            ):
                assert (time, name) not in told
                told[time, name] = CODE if code or math.isnan(raw) else raw
    return told


class TestWhole:
    @given(
        rows=streams(),
        fences=st.sampled_from([[], [HOME]]),
        round_m=st.sampled_from([0.0, 500.0, 20_000.0]),
        data=st.data(),
    )
    def test_it_masks_as_row_by_row_wherever_blocks_end(
        self, rows: list[Row], fences: list[Geofence], round_m: float, data: st.DataObject
    ) -> None:
        round_m = round_m or (0.0 if fences else 500.0)
        masker = profile(**ALL_POSITIONS, geofence=fences, round_m=round_m)
        cuts = data.draw(st.lists(st.integers(0, len(rows)), max_size=8))
        masked: list[SignalTable] = []
        given_ones = left_out = 0
        for a, b in itertools.pairwise([0, *sorted(cuts), len(rows)]):
            block = as_tables(rows[a:b])
            found, count = masker.apply(block)
            masked += found
            left_out += count
            given_ones += sum(t.samples for t in block)
        expected = reference(rows, fences, round_m)
        told = told_by(masked)
        assert told == pytest.approx(expected, rel=1e-12)
        assert left_out == given_ones - len(told)

    @given(rows=streams())
    def test_masking_what_is_masked_changes_nothing(self, rows: list[Row]) -> None:
        """Of one message. Of two, what is left out of one hides more of the other."""
        masker = profile(round_m=500)
        once, _ = masker.apply(as_tables([row for row in rows if row[1] == 0]))
        twice, left_out = profile(round_m=500).apply(once)
        assert told_by(twice) == told_by(once)
        assert left_out == 0

    def test_other_tables_are_handed_on_as_they_are(self) -> None:
        other = table(TableSchema("can0", "Motor", (SPEED,)), {"Speed": [1.0]})
        empty = positions([(48.0, 11.0)]).take(slice(0, 0))
        masked, left_out = profile(round_m=1000).apply([other, empty])
        assert masked[0] is other
        assert (len(masked[1]), left_out) == (0, 0)
