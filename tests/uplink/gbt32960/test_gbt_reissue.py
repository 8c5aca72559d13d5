"""From batches of the spool to reports that are lent, and what becomes of the batches."""

import asyncio
import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.clock import SECOND, BootNs, Quality, WallNs
from agent.gbt32960.layout2016 import LAYOUT2016
from agent.spool.outbox import FolderOutbox
from agent.uplink.gbt32960.dates import Dates
from agent.uplink.gbt32960.reissue import Fate, Reissue
from agent.uplink.gbt32960.rows import Row
from agent.uplink.gbt32960.state import State
from tests.uplink.gbt32960.gbt_vehicle import UPLINK, Vehicle, number_of

NOON = WallNs(int(dt.datetime(2026, 7, 7, 12, tzinfo=dt.UTC).timestamp()) * SECOND)


class Still:
    """A clock that a test moves."""

    def __init__(self, boot_id: str = "boot-1", wall: WallNs = NOON) -> None:
        self.boot_id = boot_id
        self.now = 1000 * SECOND
        self.ahead = wall - self.now
        self.good = Quality.NTP

    def boot(self) -> BootNs:
        return BootNs(self.now)

    def wall(self) -> WallNs:
        return WallNs(self.now + self.ahead)

    def quality(self) -> Quality:
        return self.good

    def lose(self) -> None:
        """No battery behind it: it shows 1970."""
        self.good, self.ahead = Quality.UNSYNCHRONISED, 0


class Desk:
    """A reissue and the spool behind it."""

    def __init__(self, folder: Path, clock: Still) -> None:
        self.clock = clock
        self.vehicle = Vehicle(folder, clock)
        self.state = State(folder, UPLINK)
        dates = Dates(clock, self.vehicle.store.anchor, self.state)
        self.outbox: FolderOutbox = self.vehicle.outbox
        self.reissue = Reissue(
            UPLINK, self.outbox, self.vehicle.ledger, clock, dates, layout=LAYOUT2016
        )

    def lend(self, limit: int = 1000) -> list[Row]:
        return asyncio.run(self.reissue.lend(limit))

    def close(self) -> int:
        return asyncio.run(self.reissue.close())

    def settle(self, rows: list[Row], fate: Fate = Fate.CONFIRMED) -> None:
        for row in rows:
            self.reissue.settle(row.key, fate)

    def counted(self) -> dict[str, int]:
        self.vehicle.check()
        names = ("waiting", "acknowledged", "evicted", "quarantined")
        return {name: n for name in names if (n := self.vehicle.counts[name])}


def numbers(rows: list[Row]) -> list[int]:
    return [number_of(row.data) for row in rows]


@pytest.fixture
def clock() -> Still:
    return Still()


@pytest.fixture
def desk(tmp_path: Path, clock: Still) -> Iterator[Desk]:
    made = Desk(tmp_path, clock)
    yield made
    made.vehicle.finish()


def test_a_batch_is_acknowledged_when_all_its_reports_are_confirmed(desk: Desk) -> None:
    desk.vehicle.keep(desk.vehicle.reports(range(5)))
    rows = desk.lend()
    assert numbers(rows) == [0, 1, 2, 3, 4]
    assert [row.wall for row in rows] == [NOON + i * SECOND for i in range(5)]

    desk.settle(rows[:4])
    assert desk.close() == 0
    assert desk.counted() == {"waiting": 5}
    desk.settle(rows[4:])
    assert desk.close() == 1
    assert desk.counted() == {"acknowledged": 5}
    assert desk.lend() == []


def test_times_are_the_nearest_whole_second(desk: Desk, clock: Still) -> None:
    clock.ahead += 3_000_000
    desk.vehicle.keep(desk.vehicle.reports([1], first=clock.now - 3_100_000))
    desk.vehicle.keep(desk.vehicle.reports([2], first=clock.now + SECOND - 2_900_000))
    assert [row.wall for row in desk.lend()] == [NOON, NOON + SECOND]


def test_several_batches_are_lent_together_and_once(desk: Desk) -> None:
    for i in range(4):
        desk.vehicle.keep(
            desk.vehicle.reports(range(10 * i, 10 * i + 10), first=(i + 1) * 10 * SECOND)
        )
    got: list[Row] = []
    while rows := desk.lend(7):
        assert len(rows) <= 7
        got += rows
    assert numbers(got) == list(range(40))
    desk.settle(got)
    assert desk.close() == 4
    assert desk.counted() == {"acknowledged": 40}


def test_the_time_before_an_alarm_goes_before_what_was_stored_earlier(desk: Desk) -> None:
    """The seconds before an alarm come out of the ring after a report that is later than they."""
    vehicle = desk.vehicle
    vehicle.keep(vehicle.reports([1, 2, 3], first=100 * SECOND, step_s=10))
    vehicle.keep(vehicle.reports(range(4, 13), first=111 * SECOND))
    vehicle.keep(vehicle.reports([13], first=130 * SECOND))
    rows: list[Row] = []
    while some := desk.lend(2):
        rows += some
    assert [row.wall for row in rows] == sorted(row.wall for row in rows)
    assert numbers(rows)[:4] == [1, 2, 4, 5]


def test_what_is_owed_is_lent_again_after_the_link_has_ended(desk: Desk) -> None:
    desk.vehicle.keep(desk.vehicle.reports(range(6)))
    rows = desk.lend(4)
    desk.settle(rows[1:3])
    desk.reissue.ended()
    assert numbers(desk.lend()) == [0, 3, 4, 5]


def test_reports_that_could_not_be_signed_are_lent_again(desk: Desk) -> None:
    desk.vehicle.keep(desk.vehicle.reports(range(6)))
    rows = desk.lend(4)
    desk.reissue.give_back(row.key for row in rows[2:])
    assert numbers(desk.lend()) == [2, 3, 4, 5]


def test_reports_that_were_confirmed_live_are_not_lent(desk: Desk) -> None:
    made = desk.vehicle.reports(range(6), live=True)
    live = [row for row in desk.reissue.rows(made) if row is not None]
    assert numbers(live) == list(range(6))
    desk.settle(live[:2])
    desk.vehicle.keep(made)
    rows = desk.lend()
    assert [row.key for row in rows] == [row.key for row in live[2:]]
    assert numbers(rows) == [2, 3, 4, 5]
    desk.settle(rows)
    assert desk.close() == 1
    assert desk.counted() == {"acknowledged": 6}


def test_frames_of_one_time_are_told_apart(desk: Desk) -> None:
    made = desk.vehicle.reports([7, 8, 7], step_s=0)
    live = [row for row in desk.reissue.rows(made) if row is not None]
    assert len({row.key for row in live}) == 3
    desk.settle(live[:1])
    desk.vehicle.keep(made)
    assert numbers(desk.lend()) == [8, 7]


def test_expired_reports_count_as_evicted(desk: Desk) -> None:
    desk.vehicle.keep(desk.vehicle.reports(range(5)))
    rows = desk.lend()
    desk.settle(rows[:3], Fate.EXPIRED)
    desk.settle(rows[3:])
    assert desk.close() == 1
    assert desk.counted() == {"evicted": 3, "acknowledged": 2}
    desk.vehicle.keep(desk.vehicle.reports(range(5, 9)))
    desk.settle(desk.lend(), Fate.EXPIRED)
    assert desk.close() == 1
    assert desk.counted() == {"evicted": 7, "acknowledged": 2}
    assert UPLINK not in desk.vehicle.store.status()["quarantine"]


def test_a_refused_report_puts_its_batch_aside_after_the_others_are_sent(desk: Desk) -> None:
    desk.vehicle.keep(desk.vehicle.reports(range(5)))
    rows = desk.lend()
    desk.settle(rows[:1], Fate.REFUSED)
    assert desk.close() == 0
    desk.settle(rows[1:])
    assert desk.close() == 1
    assert desk.counted() == {"quarantined": 1, "acknowledged": 4}
    assert desk.vehicle.store.status()["quarantine"][UPLINK]["batches"] == 1


@pytest.mark.parametrize("form", ["gbt32960-2025", "gbt32960-2037", "something"])
def test_reports_that_the_platform_cannot_read_go_to_quarantine(desk: Desk, form: str) -> None:
    desk.vehicle.keep(desk.vehicle.reports(range(3), form=form))
    assert desk.lend() == []
    assert desk.close() == 1
    assert desk.counted() == {"quarantined": 3}


def test_reports_of_this_boot_wait_until_the_time_is_known(tmp_path: Path, clock: Still) -> None:
    clock.lose()
    desk = Desk(tmp_path, clock)
    desk.vehicle.keep(desk.vehicle.reports(range(3)))
    assert desk.lend() == []
    assert desk.reissue.rows(desk.vehicle.reports([9], live=True)) == [None]
    assert not asyncio.run(desk.reissue.owes())
    assert desk.counted() == {"waiting": 3}

    desk.state.keep_clock("boot-1", NOON - 1000 * SECOND)
    assert desk.lend() == []
    desk.reissue.look_again()
    rows = desk.lend()
    assert [row.wall for row in rows] == [NOON, NOON + SECOND, NOON + 2 * SECOND]
    desk.settle(rows)
    desk.close()
    desk.vehicle.finish()


def test_reports_of_an_old_boot_without_a_clock_go_to_quarantine(
    tmp_path: Path, clock: Still
) -> None:
    clock.lose()
    before = Desk(tmp_path, clock)
    before.vehicle.keep(before.vehicle.reports(range(3)))
    before.vehicle.finish()
    desk = Desk(tmp_path, Still("boot-2"))
    assert desk.lend() == []
    desk.close()  # and with it the last batch of that run, which has no report
    assert desk.counted() == {"quarantined": 3}
    assert desk.outbox.waiting() == (0, 0)
    desk.vehicle.finish()


def test_a_clock_that_was_kept_dates_the_reports_of_an_old_boot(
    tmp_path: Path, clock: Still
) -> None:
    clock.lose()
    before = Desk(tmp_path, clock)
    before.vehicle.keep(before.vehicle.reports(range(3)))
    before.state.keep_clock("boot-1", NOON - 1000 * SECOND)
    before.vehicle.finish()
    desk = Desk(tmp_path, Still("boot-2"))
    assert [row.wall for row in desk.lend()] == [NOON, NOON + SECOND, NOON + 2 * SECOND]
    desk.vehicle.finish()


def test_a_later_batch_dates_an_earlier_one_of_an_old_boot(tmp_path: Path, clock: Still) -> None:
    clock.lose()
    before = Desk(tmp_path, clock)
    before.vehicle.keep(before.vehicle.reports(range(3)))
    clock.good, clock.ahead = Quality.NTP, NOON - clock.now
    before.vehicle.keep(before.vehicle.reports([3], first=1060 * SECOND))
    before.vehicle.finish()
    desk = Desk(tmp_path, Still("boot-2"))
    assert [row.wall - NOON for row in desk.lend()] == [0, SECOND, 2 * SECOND, 60 * SECOND]
    desk.vehicle.finish()


def test_unreadable_batches_go_to_quarantine(desk: Desk) -> None:
    desk.vehicle.keep(desk.vehicle.reports(range(3)))
    parcel = desk.outbox.next()
    assert parcel is not None
    parcel.path.write_bytes(b"something else")
    assert desk.lend() == []
    assert desk.close() == 1
    assert desk.counted() == {"quarantined": 3}


def test_a_damaged_chunk_costs_its_reports_only(desk: Desk) -> None:
    vehicle = desk.vehicle
    vehicle.keep(vehicle.reports(range(200)), seal=False)
    vehicle.store.commit()
    vehicle.keep(vehicle.reports(range(200, 220), first=2000 * SECOND))
    parcel = desk.outbox.next()
    assert parcel is not None
    data = bytearray(parcel.path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    parcel.path.write_bytes(data)
    rows = desk.lend()
    assert len(rows) < 220
    desk.settle(rows)
    assert desk.close() == 1
    counted = desk.counted()
    assert counted["quarantined"] == 220 - len(rows)
    assert counted.get("acknowledged", 0) == len(rows)


def test_a_batch_that_was_evicted_meanwhile_is_not_counted_twice(desk: Desk) -> None:
    desk.vehicle.keep(desk.vehicle.reports(range(3)))
    rows = desk.lend()
    parcel = desk.outbox.evict("evicted: quota")
    assert parcel is not None
    desk.vehicle.ledger.add("uplink", UPLINK, waiting=-3, evicted=3)
    desk.settle(rows)
    assert desk.close() == 1
    assert desk.counted() == {"evicted": 3}


def test_memory_is_bounded_by_batches_that_are_open(desk: Desk) -> None:
    for i in range(30):
        desk.vehicle.keep(desk.vehicle.reports([i], first=(i + 1) * SECOND))
    rows = desk.lend()
    assert numbers(rows) == list(range(len(rows)))
    assert 0 < len(rows) < 30
    assert desk.lend() == []
    assert asyncio.run(desk.reissue.owes())
    desk.settle(rows)
    desk.close()
    assert numbers(desk.lend())[0] == len(rows)
