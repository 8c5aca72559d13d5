"""Word of what was given up arrives, whatever becomes of the batch that carries it."""

from pathlib import Path
from typing import Any

from agent.batch import BatchReader
from agent.spool.naming import order_of
from agent.spool.tombstones import MOST
from tests.spool.car import BOTH, CLOUD, Car, Limits, records
from tests.spool.fakefs import Disk

MIB = 1 << 20


def _sealed(car: Car, numbers: range) -> str:
    car.add(CLOUD, numbers)
    car.store.seal_now()
    car.commit()
    return max((p.batch_id for p in car.parcels()), key=order_of)


def _evict(car: Car, disk: Disk) -> None:
    """One batch goes."""
    disk.free = 64 * MIB - 1
    car.commit()
    disk.free = 1 << 40


def _told(car: Car) -> list[dict[str, Any]]:
    return [stone for p in car.parcels() for stone in records(p.path, "tombstone")]


def test_tombstones_of_a_batch_that_is_evicted_go_into_the_next(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD], fs=disk)
    gone = []
    for i in range(4):  # each carries the word of the one before, and goes too
        gone.append(_sealed(car, range(i, i + 1)))
        _evict(car, disk)
    assert car.parcels() == []
    _sealed(car, range(10, 11))
    assert [t["batch_id"] for t in _told(car)] == gone


def test_tombstones_in_a_batch_of_an_earlier_run_are_not_forgotten_either(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD], fs=disk)
    gone = [_sealed(car, range(1))]
    _evict(car, disk)
    gone.append(_sealed(car, range(1, 2)))
    car.end()

    car = Car(tmp_path / "spool", [CLOUD], fs=disk)
    _evict(car, disk)
    _sealed(car, range(2, 3))
    assert [t["batch_id"] for t in _told(car)] == gone


def test_tombstones_of_a_batch_that_was_cut_while_it_was_written_are_kept(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD], fs=disk)
    gone = [_sealed(car, range(1))]
    _evict(car, disk)
    car.add(CLOUD, range(1, 2))
    car.commit()
    car.store.close()

    car = Car(tmp_path / "spool", [CLOUD], fs=disk)
    gone.append(car.parcels()[0].batch_id)
    _evict(car, disk)
    _sealed(car, range(2, 3))
    assert [t["batch_id"] for t in _told(car)] == gone


def test_a_receiver_that_refuses_a_batch_hears_its_tombstones_from_another(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD], fs=disk)
    gone = [_sealed(car, range(1))]
    _evict(car, disk)
    gone.append(_sealed(car, range(1, 2)))
    assert car.store.outboxes["cloud"].quarantine(car.parcels()[0], "422")
    car.ledger.add("uplink", "cloud", waiting=-1, quarantined=1)
    _sealed(car, range(2, 3))
    assert [t["batch_id"] for t in _told(car)] == gone


def test_only_the_uplink_that_loses_the_batch_hears_its_tombstones_again(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [BOTH], fs=disk)
    for i in range(3):
        car.add(BOTH, range(i, i + 1))
        car.store.seal_now()
        car.commit()
        if i < 2:
            _evict(car, disk)
            _evict(car, disk)
    stones = _told(car)
    assert {t["uplink"] for t in stones} == {"cloud", "depot"}
    names = [(t["uplink"], t["batch_id"]) for t in stones]
    assert len(names) == len(set(names)) == 4


def test_thousands_of_tombstones_become_ranges_and_lose_no_sample(tmp_path: Path) -> None:
    """A disk that takes only little, for long: what is said stays small, and stays true."""
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD], fs=disk, limits=Limits(seal_kib=64))
    gone = 0
    for i in range(MOST + 40):
        _sealed(car, range(i * 2, i * 2 + 2))
        _evict(car, disk)
        gone += 2
    last = _sealed(car, range(10_000, 10_001))
    stones = _told(car)
    assert len(stones) <= MOST
    assert sum(t["samples"] for t in stones) == gone == car.counts()["evicted"]
    assert sum(t.get("batches", 1) for t in stones) == MOST + 40
    (folded,) = (t for t in stones if "last" in t)
    assert order_of(folded["batch_id"]) == (1, 1)
    assert order_of(folded["last"]) < order_of(last)
    assert all(order_of(folded["last"]) < order_of(t["batch_id"]) for t in stones if t != folded)
    assert car.parcels()[0].size < 64 << 10


def test_the_footer_says_whether_there_are_tombstones(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD], fs=disk)
    _sealed(car, range(1))
    first = BatchReader(car.parcels()[0].path).scan().footer
    _evict(car, disk)
    _sealed(car, range(1, 2))
    second = BatchReader(car.parcels()[0].path).scan().footer
    assert first is not None
    assert second is not None
    assert (first["tombstones"], second["tombstones"]) == (0, 1)
