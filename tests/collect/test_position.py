"""Cells on the earth."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.collect.places import RADIUS_M, grids, latitudes, longitudes, metres, rounded


class TestGrid:
    @given(lat=latitudes, lon=longitudes, round_m=grids)
    def test_a_place_moves_within_its_cell(self, lat: float, lon: float, round_m: float) -> None:
        place = rounded(round_m, (lat, lon))
        assert -90 < place[0] < 90
        assert -180 < place[1] < 180
        # Half a diagonal; near the poles the last cells are wider than they are high.
        assert metres(place, (lat, lon)) < (0.75 if abs(lat) < 80 else 3) * round_m

    @given(lat=latitudes, lon=longitudes, round_m=grids)
    def test_rounding_again_changes_nothing(self, lat: float, lon: float, round_m: float) -> None:
        place = rounded(round_m, (lat, lon))
        assert rounded(round_m, place) == pytest.approx(place, abs=1e-12)

    @given(
        lat=st.floats(-85, 85),
        lon=longitudes,
        round_m=grids,
        north=st.floats(-0.49, 0.49),
        east=st.floats(-0.49, 0.49),
    )
    def test_all_places_of_a_cell_that_is_as_large_as_asked_are_one(
        self, lat: float, lon: float, round_m: float, north: float, east: float
    ) -> None:
        """Averages over a parked vehicle's noise, or over many visits, bring nothing back."""
        middle = rounded(round_m, (lat, lon))
        metre = 180 / math.pi / RADIUS_M
        step = round_m * metre / math.cos(math.radians(middle[0]))
        near = (middle[0] + north * round_m * metre, middle[1] + east * step)
        assert rounded(round_m, near) == middle

    @given(lat=latitudes, lon=st.floats(-180, 0, exclude_max=True), round_m=grids)
    def test_longitudes_that_count_to_360_have_the_same_cells(
        self, lat: float, lon: float, round_m: float
    ) -> None:
        west = rounded(round_m, (lat, lon))
        east = rounded(round_m, (west[0], west[1] + 360))
        assert east == pytest.approx((west[0], west[1] + 360), abs=1e-9)

    def test_the_poles_are_places_too(self) -> None:
        assert rounded(1000, (90, 17))[0] == pytest.approx(90 - 0.0045, abs=1e-4)
        assert rounded(1000, (-90, 17))[0] == pytest.approx(-90 + 0.0045, abs=1e-4)
