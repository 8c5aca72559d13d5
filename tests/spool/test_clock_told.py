"""What the log tells of the clock by which samples are dated."""

from pathlib import Path

import pytest

from agent.clock import SECOND, Quality, WallNs
from tests.spool.car import CLOUD, Car, StillClock


class Settable(StillClock):
    """A clock that somebody sets."""

    offset_s = 0.0

    def wall(self) -> WallNs:
        return WallNs(self.boot() + round(self.offset_s * SECOND))


def test_a_jump_is_told_and_no_drift(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "edge_agent.spool")
    clock = Settable()
    clock.known = Quality.UNSYNCHRONISED
    car = Car(tmp_path / "spool", [CLOUD], clock=clock)
    for offset_s in (1_900_000_000, 1_900_000_000.5, 1_899_996_400):
        clock.offset_s, clock.known = offset_s, Quality.NTP
        car.later(1)
    gnss_s = clock.now_s + 1_899_996_400
    car.store.date(clock.boot(), WallNs(round(gnss_s * SECOND)))
    car.later(1)
    car.end()

    assert [record.getMessage() for record in caplog.records] == [
        "the clock shows 1970-01-01 00:16:40 UTC: not synchronised",
        "the clock shows 2030-03-17 18:03:21 UTC: synchronised",
        "the clock shows 2030-03-17 17:03:23 UTC: it jumped by -3,600 s",
        "GNSS shows 2030-03-17 17:03:23 UTC: synchronised",
    ]
