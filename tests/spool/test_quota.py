"""Who gives way when there is too much: shares, ages, and what is kept beside."""

import random
from pathlib import Path

import pytest

from agent.clock import SECOND, BootNs, Quality, WallNs
from agent.spool.store import QUARANTINE_FILES, StreamKey
from tests.spool.car import BOTH, CLOUD, Car, Limits, StillClock, records
from tests.spool.fakefs import Disk

DEPOT = StreamKey("telemetry", ("depot",))
MIB = 1 << 20
DAY_S = 86_400


class Board(StillClock):
    """A computer that can be started anew, with a wall clock that can be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.boots = 1
        self.wall_s = 1_700_000_000.0

    def restart(self, off_s: float = 0.0) -> None:
        self.wall_s += self.now_s + off_s
        self.now_s = 10.0
        self.boots += 1
        self.boot_id = f"boot-{self.boots}"

    def wall(self) -> WallNs:
        return WallNs(round((self.wall_s + self.now_s) * SECOND))


def sealed(car: Car, key: StreamKey, numbers: range) -> None:
    """One batch that waits."""
    car.add(key, numbers)
    car.store.seal_now()
    car.commit()


def fill(car: Car, key: StreamKey, bytes_: int) -> None:
    """So much more, in batches that hardly pack."""
    source = random.Random(1)
    for _ in range(max(1, bytes_ // 48_000)):
        car.add(key, [source.getrandbits(48) for _ in range(8000)])
        car.commit()


def waiting(car: Car, uplink: str) -> int:
    return car.store.outboxes[uplink].waiting()[1]


# -- shares ------------------------------------------------------------------------------------


def test_of_two_uplinks_the_one_that_holds_more_gives_way(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [BOTH], fs=disk)
    for i in range(4):
        sealed(car, BOTH, range(i, i + 1))
    for _ in range(3):
        car.acknowledge("cloud")
    disk.free = 64 * MIB - 1
    car.commit()
    assert (car.counts("cloud")["evicted"], car.counts("depot")["evicted"]) == (0, 1)


def test_the_quota_is_divided_by_the_weights_of_the_uplinks(tmp_path: Path) -> None:
    car = Car(
        tmp_path / "spool",
        [CLOUD, DEPOT],
        limits=Limits(quota_mb=4, seal_kib=64),
        shares={"cloud": 3, "depot": 1},
    )
    for _ in range(4):
        fill(car, CLOUD, MIB)
        fill(car, DEPOT, MIB // 2)
    assert waiting(car, "cloud") + waiting(car, "depot") <= 4 * MIB
    assert waiting(car, "cloud") == pytest.approx(3 * MIB, rel=0.1)
    assert waiting(car, "depot") == pytest.approx(MIB, rel=0.2)


def test_what_one_uplink_leaves_unused_another_may_use(tmp_path: Path) -> None:
    car = Car(
        tmp_path / "spool",
        [CLOUD, DEPOT],
        limits=Limits(quota_mb=4, seal_kib=64),
        shares={"cloud": 1, "depot": 9},
    )
    fill(car, CLOUD, MIB)
    assert MIB < waiting(car, "cloud") < 4 * MIB
    assert car.counts("cloud")["evicted"] == 0


def test_a_batch_for_two_uplinks_counts_for_both(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [BOTH], limits=Limits(quota_mb=2, seal_kib=64))
    source = random.Random(1)
    for _ in range(60):
        car.add(BOTH, [source.getrandbits(48) for _ in range(4000)])
        car.commit()
    assert waiting(car, "cloud") + waiting(car, "depot") <= 2 * MIB
    assert waiting(car, "cloud") == pytest.approx(MIB, rel=0.2)


# -- ages --------------------------------------------------------------------------------------

ONE_DAY = Limits(max_age_days=1)


def test_what_waits_too_long_goes_and_the_next_batch_says_so(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD], limits=ONE_DAY)
    sealed(car, CLOUD, range(3))
    (old,) = car.parcels()
    car.later(DAY_S - 60)
    sealed(car, CLOUD, range(3, 6))
    assert car.counts()["evicted"] == 0

    car.later(120)
    assert car.counts()["evicted"] == 3
    assert old.batch_id not in {p.batch_id for p in car.parcels()}
    car.end()
    told = [stone for p in car.parcels() for stone in records(p.path, "tombstone")]
    assert [(t["batch_id"], t["reason"]) for t in told] == [(old.batch_id, "too old")]


def test_a_jump_of_the_wall_clock_makes_nothing_old(tmp_path: Path) -> None:
    """A board that boots in 1970, is set right, and later jumps by ten years."""
    clock = Board()
    clock.wall_s, clock.known = 0.0, Quality.UNSYNCHRONISED
    car = Car(tmp_path / "spool", [CLOUD], limits=ONE_DAY, clock=clock)
    sealed(car, CLOUD, range(3))
    clock.wall_s, clock.known = 1.7e9, Quality.NTP
    car.later(3600)
    clock.restart(off_s=60)
    car.store.close()

    car = Car(tmp_path / "spool", [CLOUD], limits=ONE_DAY, clock=clock)
    car.later(3600)
    clock.wall_s += 10 * 365 * DAY_S
    car.later(3600)
    clock.wall_s -= 20 * 365 * DAY_S
    car.later(3600)
    assert car.counts()["evicted"] == 0
    assert car.counts()["waiting"] == 3


def test_after_a_start_a_clock_that_has_just_been_set_is_not_believed_yet(tmp_path: Path) -> None:
    clock = Board()
    car = Car(tmp_path / "spool", [CLOUD], limits=ONE_DAY, clock=clock)
    sealed(car, CLOUD, range(3))
    car.store.close()
    clock.restart(off_s=3 * DAY_S)

    car = Car(tmp_path / "spool", [CLOUD], limits=ONE_DAY, clock=clock)
    car.later(300)
    assert car.counts()["evicted"] == 0
    car.later(400)
    assert car.counts()["evicted"] == 3


def test_without_a_clock_the_time_that_the_computer_was_up_makes_old(tmp_path: Path) -> None:
    """Weeks without synchronisation, eight hours up a day: 24 hours are over on the third."""
    clock = Board()
    clock.wall_s, clock.known = 0.0, Quality.UNSYNCHRONISED
    evicted = []
    for day in range(3):
        car = Car(tmp_path / "spool", [CLOUD], limits=ONE_DAY, clock=clock)
        sealed(car, CLOUD, range(2 * day, 2 * day + 1))
        car.later(8 * 3600)
        sealed(car, CLOUD, range(2 * day + 1, 2 * day + 2))
        evicted.append(car.counts()["evicted"])
        car.store.close()
        clock.restart()
        clock.wall_s = 0.0  # 1970 again
    assert evicted == [0, 0, 1]


def test_a_batch_whose_age_cannot_be_known_is_young(tmp_path: Path) -> None:
    clock = Board()
    clock.known = Quality.UNSYNCHRONISED
    car = Car(tmp_path / "spool", [CLOUD], limits=ONE_DAY, clock=clock)
    sealed(car, CLOUD, range(3))
    car.store.close()
    for _ in range(3):
        clock.restart(off_s=30 * DAY_S)
        car = Car(tmp_path / "spool", [CLOUD], limits=ONE_DAY, clock=clock)
        car.later(3600)
        car.store.close()
    assert car.counts()["waiting"] == 3


def test_suspend_counts_as_time(tmp_path: Path) -> None:
    """The boot clock goes on while the computer sleeps: two days of sleep are two days."""
    car = Car(tmp_path / "spool", [CLOUD], limits=ONE_DAY)
    sealed(car, CLOUD, range(3))
    car.later(2 * DAY_S)
    assert car.counts()["evicted"] == 3


def test_gnss_dates_what_an_earlier_boot_left(tmp_path: Path) -> None:
    clock = Board()
    clock.known = Quality.UNSYNCHRONISED
    true_s = clock.wall_s
    for n in range(2):
        car = Car(tmp_path / "spool", [CLOUD], limits=ONE_DAY, clock=clock)
        car.store.date(BootNs(clock.boot()), WallNs(round((true_s + n * 5 * DAY_S) * SECOND)))
        sealed(car, CLOUD, range(n, n + 1))
        car.later(700)
        counts = car.counts()
        car.store.close()
        clock.restart()
        clock.wall_s = 0.0
    assert counts["evicted"] == 1


# -- what goes before anything that waits ------------------------------------------------------


def test_sent_batches_and_quarantine_go_before_anything_that_waits(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD], fs=disk, limits=Limits(keep_sent_hours=1))
    for i in range(3):
        sealed(car, CLOUD, range(i, i + 1))
    car.acknowledge()
    assert car.store.outboxes["cloud"].quarantine(car.parcels()[0], "a test")
    car.ledger.add("uplink", "cloud", waiting=-1, quarantined=1)

    left = []
    for _ in range(3):
        disk.free = 64 * MIB - 1
        car.commit()
        disk.free = 1 << 40
        status = car.store.status()
        left.append((len(status["sent"]), len(status["quarantine"]), len(car.parcels())))
    assert left == [(0, 1, 1), (0, 0, 1), (0, 0, 0)]


def test_what_is_kept_and_quarantined_counts_in_the_quota(tmp_path: Path) -> None:
    limits = Limits(quota_mb=2, seal_kib=64, keep_sent_hours=1)
    car = Car(tmp_path / "spool", [CLOUD], limits=limits)
    for _ in range(30):
        fill(car, CLOUD, 100 << 10)
        while len(car.parcels()) > 5:
            car.acknowledge()
        if car.parcels():
            parcel = car.parcels()[0]
            assert car.store.outboxes["cloud"].quarantine(parcel, "a test")
            n = parcel.samples
            car.ledger.add("uplink", "cloud", waiting=-n, quarantined=n)
        car.commit()
        files = [p for p in (tmp_path / "spool").rglob("*.batch") if p.parent.name != "open"]
        assert sum(p.stat().st_size for p in files) <= 2 * MIB
    assert car.counts()["evicted"] == 0


def test_files_that_are_no_batches_are_kept_in_a_bounded_quarantine(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD])
    car.end()
    for i in range(QUARANTINE_FILES + 5):
        path = tmp_path / f"spool/open/0123456789abcdef-1-telemetry-{i}.batch"
        path.write_bytes(b"\0" * 100)
    Car(tmp_path / "spool", [CLOUD]).end()
    kept = sorted(
        int(p.stem.rpartition("-")[2]) for p in (tmp_path / "spool/quarantine/unreadable").iterdir()
    )
    assert kept == list(range(5, QUARANTINE_FILES + 5))
