"""What waits for an uplink: in which order it is sent, and what goes when there is too much."""

import random
import threading
from collections import Counter
from pathlib import Path

import pytest

from agent.batch import BatchReader
from agent.batch.format import Record
from agent.spool.outbox import Parcel
from agent.spool.store import QUARANTINE_FILES, StreamKey
from tests.spool.car import BOTH, CLOUD, EVENT, RAW, Car, Limits, content, contents, records
from tests.spool.fakefs import Disk

REPORT = StreamKey("report", ("cloud",))
MIB = 1 << 20


def _batch(car: Car, key: StreamKey, numbers: range) -> None:
    """One sealed batch."""
    car.add(key, numbers)
    car.commit()
    car.store.seal_now()
    car.commit()


def _sequences(parcels: list[Parcel]) -> list[tuple[str, int]]:
    return [(p.lane, int(p.batch_id.rpartition("-")[2])) for p in parcels]


def test_the_most_important_lane_goes_first(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [RAW, CLOUD, REPORT, EVENT])
    for key in (RAW, CLOUD, REPORT, EVENT):
        _batch(car, key, range(3))
    assert [p.lane for p in car.parcels()] == ["event", "report", "telemetry", "raw"]


def test_the_newest_telemetry_goes_first_and_then_the_oldest(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD, EVENT])
    for i in range(4):
        _batch(car, CLOUD, range(i, i + 1))
        _batch(car, EVENT, range(10 + i, 11 + i))
    telemetry = [n for lane, n in _sequences(car.parcels()) if lane == "telemetry"]
    events = [n for lane, n in _sequences(car.parcels()) if lane == "event"]
    assert telemetry == [4, 1, 2, 3]
    assert events == [1, 2, 3, 4]


def test_after_a_start_the_backlog_is_in_the_order_in_which_it_was_made(tmp_path: Path) -> None:
    """Run 10 is after run 9, sequence 12 after sequence 2."""
    for run in range(10):
        car = Car(tmp_path / "spool", [CLOUD])
        for i in range(12 if run == 8 else 1):
            _batch(car, CLOUD, range(i, i + 1))
        car.end()
    car = Car(tmp_path / "spool", [CLOUD])
    order = [(int(p.batch_id.split("-")[1]), int(p.batch_id.split("-")[3])) for p in car.parcels()]
    assert order == sorted(order)
    assert len(order) >= 21


def test_batches_in_but_are_passed_over(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD])
    for i in range(3):
        _batch(car, CLOUD, range(i, i + 1))
    outbox = car.store.outboxes["cloud"]
    first, second, third = car.parcels()
    assert outbox.next(frozenset({first.batch_id})) == second
    assert outbox.next(frozenset({first.batch_id, second.batch_id})) == third
    assert outbox.next(frozenset(p.batch_id for p in car.parcels())) is None


def test_an_acknowledgement_counts_once_and_leaves_other_uplinks_alone(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [BOTH])
    _batch(car, BOTH, range(3))
    outbox = car.store.outboxes["cloud"]
    (parcel,) = car.parcels()
    assert outbox.acknowledge(parcel)
    assert not outbox.acknowledge(parcel)
    assert not parcel.path.exists()
    assert contents(car.parcels("depot")) == Counter(range(3))


def test_what_could_not_be_removed_is_still_waiting(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD], fs=disk)
    _batch(car, CLOUD, range(3))

    def broken(_number: int, what: str) -> None:
        if what.startswith("unlink"):
            raise OSError(5, "Input/output error")

    disk.before = broken
    outbox = car.store.outboxes["cloud"]
    with pytest.raises(OSError, match="Input/output error"):
        outbox.acknowledge(car.parcels()[0])
    with pytest.raises(OSError, match="Input/output error"):
        outbox.evict("evicted: quota")
    assert outbox.waiting()[0] == 1
    assert car.counts()["waiting"] == 3


def test_whatever_races_each_batch_is_counted_once(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD])
    for i in range(60):
        _batch(car, CLOUD, range(i, i + 1))
    outbox = car.store.outboxes["cloud"]
    start = threading.Barrier(3)

    def acknowledge() -> None:
        start.wait()
        while outbox.next() is not None:
            car.acknowledge() if outbox.waiting()[0] > 3 else _drop()

    def _drop() -> None:
        parcel = outbox.next()
        if parcel and outbox.acknowledge(parcel):
            car.ledger.add("uplink", "cloud", waiting=-1, acknowledged=1)

    def evict() -> None:
        start.wait()
        while outbox.evict("evicted: quota"):
            car.ledger.add("uplink", "cloud", waiting=-1, evicted=1)

    def quarantine() -> None:
        start.wait()
        while parcel := outbox.next():
            if outbox.quarantine(parcel, "a test"):
                car.ledger.add("uplink", "cloud", waiting=-1, quarantined=1)

    threads = [threading.Thread(target=t) for t in (acknowledge, evict, quarantine)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    car.check()
    assert car.counts()["waiting"] == 0
    assert car.parcels() == []


def test_quarantine_is_bounded_and_the_oldest_goes(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD])
    folder = tmp_path / "spool/quarantine/cloud"
    for i in range(QUARANTINE_FILES + 3):
        _batch(car, CLOUD, range(i, i + 1))
        assert car.store.outboxes["cloud"].quarantine(car.parcels()[0], "a test")
        car.ledger.add("uplink", "cloud", waiting=-1, quarantined=1)
        car.check()
    kept = sorted(int(p.stem.rpartition("-")[2]) for p in folder.iterdir())
    assert kept == list(range(4, QUARANTINE_FILES + 4))


def test_a_batch_in_quarantine_is_told_in_the_next_one(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD])
    _batch(car, CLOUD, range(3))
    (bad,) = car.parcels()
    car.store.outboxes["cloud"].quarantine(bad, "422: not for us")
    car.ledger.add("uplink", "cloud", waiting=-3, quarantined=3)
    _batch(car, CLOUD, range(3, 6))
    (parcel,) = car.parcels()
    assert records(parcel.path, "tombstone") == [
        {
            "batch_id": bad.batch_id,
            "samples": 3,
            "uplink": "cloud",
            "reason": "quarantined: 422: not for us",
        }
    ]


def test_the_oldest_of_the_least_important_lane_goes_and_the_next_batch_says_so(
    tmp_path: Path,
) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD, EVENT, RAW], fs=disk)
    for key, begin in ((CLOUD, 0), (EVENT, 10), (RAW, 20), (RAW, 30), (CLOUD, 40)):
        _batch(car, key, range(begin, begin + 2))
    raw = [p.batch_id for p in car.parcels() if p.lane == "raw"]
    telemetry = sorted(p.batch_id for p in car.parcels() if p.lane == "telemetry")

    evicted: list[str] = []
    for _ in range(3):
        before = {p.batch_id for p in car.parcels()}
        disk.free = 64 * MIB - 1
        car.commit()
        disk.free = 1 << 40
        evicted += before - {p.batch_id for p in car.parcels()}
    assert evicted == [*raw, telemetry[0]]
    assert car.counts()["evicted"] == 6

    car.end()
    told = [t for p in car.parcels() for t in records(p.path, "tombstone")]
    assert [t["batch_id"] for t in told] == evicted
    assert {t["reason"] for t in told} == {"evicted: free space"}


def test_a_tombstone_survives_a_cut_even_where_no_sample_follows(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD], fs=disk)
    _batch(car, CLOUD, range(3))
    disk.free = 0
    car.commit()  # evicts
    disk.free = 1 << 40
    car.commit()  # writes the tombstone
    disk.lay_out(tmp_path.with_name("left"), Disk.cut("dropped", "kept"))

    again = Car(tmp_path.with_name("left") / "spool", [CLOUD])
    (parcel,) = again.parcels()
    assert len(records(parcel.path, "tombstone")) == 1
    assert content(parcel.path) == Counter()


def test_the_quota_holds(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD], limits=Limits(quota_mb=2, seal_kib=256))
    source = random.Random(1)
    for _ in range(40):
        car.add(CLOUD, [source.getrandbits(48) for _ in range(8000)])
        car.commit()
        assert car.store.outboxes["cloud"].waiting()[1] <= 2 * MIB
    assert car.counts()["evicted"] > 0
    assert len(car.parcels()) > 3


def test_for_free_space_only_what_is_lacking_goes_in_one_round(tmp_path: Path) -> None:
    """A file system may give space back late: asking it again and again would empty the spool."""
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD], fs=disk)
    for i in range(5):
        _batch(car, CLOUD, range(i, i + 1))
    disk.free = 64 * MIB - 1
    car.commit()
    assert car.counts()["evicted"] == 1
    disk.free = 64 * MIB - 1 - car.parcels()[0].size
    car.commit()
    assert car.counts()["evicted"] == 3


def test_a_full_disk_without_a_floor_is_relieved_too(tmp_path: Path) -> None:
    """ENOSPC twice in a row: collecting the new is worth more than the oldest of the old."""
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD], fs=disk, limits=Limits(free_floor_mb=0))
    for i in range(3):
        _batch(car, CLOUD, range(i, i + 1))

    def full(_number: int, what: str) -> None:
        if what == "write_at" and len(car.store.outboxes["cloud"].by_lane()) and _many():
            raise OSError(28, "No space left on device")

    def _many() -> bool:
        return car.store.outboxes["cloud"].waiting()[0] > 2

    disk.before = full
    car.add(CLOUD, range(10, 13))
    for _ in range(4):
        car.later(1)
    assert car.store.trouble == ""
    assert car.counts()["evicted"] == 1
    assert car.counts()["memory"] == 0


def test_an_evicted_batch_that_was_under_way_changes_nothing_more(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD], fs=disk)
    _batch(car, CLOUD, range(3))
    (parcel,) = car.parcels()
    disk.free = 0
    car.commit()
    assert not car.store.outboxes["cloud"].acknowledge(parcel)
    assert not car.store.outboxes["cloud"].quarantine(parcel, "late")
    car.check()
    assert car.counts()["evicted"] == 3


def test_a_batch_that_lost_its_end_goes_to_quarantine_and_is_counted(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD])
    _batch(car, CLOUD, range(3))
    _batch(car, CLOUD, range(3, 6))
    bad = car.parcels()[1]
    car.store.close()
    bad.path.write_bytes(bad.path.read_bytes()[:-5])

    again = Car(tmp_path / "spool", [CLOUD])
    again.check()
    counts = again.counts()
    assert (counts["found"], counts["quarantined"], counts["waiting"]) == (6, 3, 3)
    again.end()
    told = [t for p in again.parcels() for t in records(p.path, Record.TOMBSTONE.name.lower())]
    assert [t["batch_id"] for t in told] == [bad.batch_id]


def test_a_long_footer_is_no_damage(tmp_path: Path) -> None:
    """Many boots that wait make a footer longer than the tail that is usually read."""
    for boot in range(60):
        car = Car(tmp_path / "spool", [CLOUD])
        car.clock.boot_id = f"boot-{boot:032d}"
        _batch(car, CLOUD, range(boot, boot + 1))
        car.end()
    car = Car(tmp_path / "spool", [CLOUD])
    assert car.counts()["found"] == 60
    newest = max(car.parcels(), key=lambda p: p.size)
    footer = BatchReader(newest.path).scan().footer
    assert footer is not None
    assert len(footer["anchors"]) > 50
