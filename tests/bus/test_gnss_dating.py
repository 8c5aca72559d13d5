"""Which times of a receiver are believed, and what anchors they make."""

import datetime as dt
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.bus.gnss.dating import NOT_BEFORE, AnchorKeeper, correct
from agent.clock import MILLISECOND, SECOND, BootNs, WallNs

UNIX: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
NOON: Final = WallNs(1_774_267_200 * SECOND)
BOOT: Final = BootNs(1000 * SECOND)


def wall(moment: str) -> WallNs:
    since = dt.datetime.fromisoformat(f"{moment}+00:00") - UNIX
    return WallNs(since // dt.timedelta(seconds=1) * SECOND)


class TestDates:
    def test_a_right_date_stays(self) -> None:
        assert correct(wall("2026-03-23T12:00")) == (wall("2026-03-23T12:00"), 0)
        assert correct(wall("2045-01-01T00:00")) == (wall("2045-01-01T00:00"), 0)

    @pytest.mark.parametrize(
        ("shown", "real", "weeks"),
        [
            ("2006-08-07T12:00", "2026-03-23T12:00", 1024),
            ("1986-12-22T12:00", "2026-03-23T12:00", 2048),
            ("2023-12-31T23:59:59", "2043-08-16T23:59:59", 1024),
        ],
    )
    def test_a_week_number_that_has_rolled_over_is_corrected(
        self, shown: str, real: str, weeks: int
    ) -> None:
        assert correct(wall(shown)) == (wall(real), weeks)

    @pytest.mark.parametrize(
        "shown",
        [
            "1970-01-01T00:00",
            "1980-01-06T00:00",
            "1980-01-07T03:00",
            "1999-08-22T00:05",
            "2000-01-01T12:00",
        ],
    )
    def test_where_counters_begin_is_no_date(self, shown: str) -> None:
        assert correct(wall(shown)) is None

    @given(st.integers(0, 200 * 366 * 86_400 * SECOND))
    def test_a_corrected_date_is_as_young_as_this_program_and_of_the_same_second(
        self, shown: int
    ) -> None:
        result = correct(WallNs(shown))

        if result is not None:
            real, weeks = result
            assert real >= NOT_BEFORE
            assert real - shown == weeks * 7 * 86_400 * SECOND
            assert weeks == 0 or real < NOT_BEFORE + 1024 * 7 * 86_400 * SECOND


class Receiver:
    """Epochs a second apart, each arriving some time after it was so."""

    def __init__(self) -> None:
        self.keeper = AnchorKeeper()
        self.seconds = 0

    def epoch(self, delay_ms: int = 100, off_s: float = 0) -> int | None:
        """The anchor that this epoch makes: its offset (wall - boot) less the true one, ms."""
        self.seconds += 1
        began = BootNs(BOOT + self.seconds * SECOND + delay_ms * MILLISECOND)
        shown = WallNs(NOON + self.seconds * SECOND + round(off_s * SECOND))
        anchor = self.keeper.take(began, shown)
        if anchor is None:
            return None
        assert anchor[1] == shown
        assert anchor[0] <= began, "no epoch arrives before it was so"
        return round((anchor[1] - anchor[0] - (NOON - BOOT)) / MILLISECOND)


class TestAnchors:
    def test_three_epochs_that_agree_make_the_first_one(self) -> None:
        receiver = Receiver()

        assert [receiver.epoch() for _ in range(4)] == [None, None, -100, -100]

    def test_the_least_delay_counts(self) -> None:
        receiver = Receiver()

        found = [receiver.epoch(delay) for delay in (300, 250, 400, 120, 380, 290)]

        assert found == [None, None, -250, -120, -120, -120]

    def test_one_epoch_that_is_off_is_passed_over(self) -> None:
        receiver = Receiver()
        for _ in range(5):
            receiver.epoch()

        found = [receiver.epoch(off_s=off) for off in (0, 3600, 0, -19, 19, 0)]

        assert found == [-100, None, -100, None, None, -100]

    def test_a_jump_is_believed_when_three_in_a_row_agree_on_it(self) -> None:
        receiver = Receiver()
        for _ in range(5):
            receiver.epoch()

        found = [receiver.epoch(off_s=2) for _ in range(4)]

        assert found == [None, None, 1900, 1900]

    def test_a_jump_back_is_followed_too(self) -> None:
        receiver = Receiver()
        for _ in range(5):
            receiver.epoch(off_s=2)

        assert [receiver.epoch() for _ in range(4)] == [None, None, -100, -100]

    def test_epochs_that_were_held_up_together_do_not_agree(self) -> None:
        receiver = Receiver()

        found = [receiver.epoch(delay) for delay in (9000, 7500, 6000, 4500, 3000, 1500)]

        assert set(found) == {None}

    @pytest.mark.parametrize("ppm", [-100, 100])
    def test_a_boot_clock_that_is_off_is_followed(self, ppm: int) -> None:
        keeper = AnchorKeeper()
        for second in range(36_000):
            drift = second * SECOND * ppm // 1_000_000
            began = BootNs(BOOT + second * SECOND + drift + 100 * MILLISECOND)
            anchor = keeper.take(began, WallNs(NOON + second * SECOND))

        assert anchor is not None
        assert began - anchor[0] < MILLISECOND


def test_the_time_after_a_tunnel_is_taken_as_it_is() -> None:
    receiver = Receiver()
    for _ in range(5):
        receiver.epoch()

    receiver.seconds += 7200

    assert receiver.epoch(delay_ms=150) == -150
