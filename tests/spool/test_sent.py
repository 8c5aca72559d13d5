"""Acknowledged batches that are kept for a while, and sent again when the receiver asks."""

from collections import Counter
from pathlib import Path

import pytest

from agent.errors import SpoolError
from tests.spool.car import BOTH, CLOUD, EVENT, Car, Limits, contents
from tests.spool.fakefs import Disk, fail_at

KEEP = Limits(keep_sent_hours=2)


def _drive(car: Car, n: int = 4) -> list[str]:
    """Batches, all acknowledged; their names."""
    names = []
    for i in range(n):
        car.add(CLOUD, range(i * 3, i * 3 + 3))
        car.store.seal_now()
        car.commit()
        names.append(car.acknowledge().batch_id)
        car.check()
    return names


def test_sent_batches_are_kept_and_count_in_no_sum(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD], limits=KEEP)
    _drive(car)
    assert car.store.status()["sent"]["cloud"]["batches"] == 4
    assert car.store.outboxes["cloud"].waiting() == (0, 0)
    counts = car.counts()
    assert (counts["acknowledged"], counts["waiting"], counts["resent"]) == (12, 0, 0)


def test_without_the_setting_nothing_is_kept(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD])
    _drive(car)
    assert car.store.status()["sent"] == {}
    assert list((tmp_path / "spool").rglob("*-telemetry-1.batch")) == []


def test_a_range_is_sent_again_and_the_ledger_closes(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD], limits=KEEP)
    names = _drive(car)
    assert car.store.resend("cloud", names[1], names[2]) == 2
    car.check()
    assert car.counts()["resent"] == car.counts()["waiting"] == 6
    assert contents(car.parcels()) == Counter(range(3, 9))
    assert [p.batch_id for p in car.parcels()] == names[1:3]

    for _ in range(2):
        car.acknowledge()
        car.check()
    assert car.counts()["acknowledged"] == 18
    assert car.store.resend("cloud", names[0]) == 1
    assert car.store.resend("cloud", names[0]) == 0  # it waits already


def test_what_is_sent_again_is_in_its_place_in_the_queue(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD], limits=KEEP)
    names = _drive(car, 2)
    for i in range(2):
        car.add(CLOUD, range(100 + i, 101 + i))
        car.store.seal_now()
        car.commit()
    waiting = [p.batch_id for p in car.parcels()]
    car.store.resend("cloud", names[0], names[1])
    assert [p.batch_id for p in car.parcels()] == [waiting[0], *names, waiting[1]]


def test_kept_batches_go_after_their_time(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD], limits=KEEP)
    names = _drive(car)
    car.later(7100)
    assert car.store.status()["sent"]["cloud"]["batches"] == 4
    car.later(200)
    assert car.store.status()["sent"] == {}
    assert car.store.resend("cloud", names[0], names[3]) == 0


def test_a_start_keeps_what_was_kept(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD], limits=KEEP)
    names = _drive(car)
    car.end()
    car = Car(tmp_path / "spool", [CLOUD], limits=KEEP)
    assert (car.counts()["found"], car.counts()["waiting"]) == (0, 0)
    assert car.store.resend("cloud", names[0], names[3]) == 4
    car.check()
    assert contents(car.parcels()) == Counter(range(12))


def test_a_start_without_the_setting_removes_what_was_kept(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD], limits=KEEP)
    _drive(car)
    car.end()
    Car(tmp_path / "spool", [CLOUD]).end()
    assert list((tmp_path / "spool/uplinks/cloud/sent").iterdir()) == []


def test_each_uplink_keeps_its_own(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [BOTH], limits=KEEP)
    car.add(BOTH, range(3))
    car.store.seal_now()
    car.commit()
    name = car.acknowledge("cloud").batch_id
    assert car.store.resend("depot", name) == 0
    assert contents(car.parcels("depot")) == Counter(range(3))
    assert car.store.resend("cloud", name) == 1


@pytest.mark.parametrize(
    ("first", "last"),
    [
        ("nothing", ""),
        ("../../etc/passwd-1-telemetry-1", ""),
        ("0123456789abcdef-1-telemetry-1", "0123456789abcdef-2-telemetry-1"),
        ("0123456789abcdef-1-telemetry-1", "0123456789abcdef-1-event-1"),
        ("0123456789abcdef-1-telemetry-1", "fedcba9876543210-1-telemetry-1"),
        ("0123456789abcdef-1-nolane-1", ""),
    ],
)
def test_what_is_no_range_is_refused(tmp_path: Path, first: str, last: str) -> None:
    car = Car(tmp_path / "spool", [CLOUD], limits=KEEP)
    with pytest.raises(SpoolError, match="is no range of batches"):
        car.store.resend("cloud", first, last)


def test_an_unknown_uplink_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD], limits=KEEP)
    with pytest.raises(SpoolError, match="there is no uplink moon; there is: cloud, depot"):
        car.store.resend("moon", "0123456789abcdef-1-telemetry-1")


def test_where_a_sent_batch_cannot_be_kept_it_just_goes(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD], fs=disk, limits=KEEP)
    car.add(CLOUD, range(3))
    car.store.seal_now()
    car.commit()

    def no_link(_number: int, what: str) -> None:
        if what.startswith(("link", "make_folder")):
            raise OSError(28, "No space left on device")

    disk.before = no_link
    car.acknowledge()
    car.check()
    assert car.store.status()["sent"] == {}
    assert car.parcels() == []


def test_an_error_while_a_batch_is_put_back_loses_nothing(tmp_path: Path) -> None:
    for first in range(1, 12):
        root = tmp_path / str(first)
        root.mkdir()
        disk = Disk(root)
        car = Car(root / "spool", [CLOUD, EVENT], fs=disk, limits=KEEP)
        (name,) = _drive(car, 1)
        disk.operations = 0
        disk.before = fail_at(first, 5)
        try:
            car.store.resend("cloud", name)
        except SpoolError:
            car.check()
            disk.before = lambda _number, _what: None
            assert car.store.resend("cloud", name) == 1
        disk.before = lambda _number, _what: None
        car.check()
        assert contents(car.parcels()) == Counter(range(3))


def test_a_batch_that_was_damaged_while_it_was_kept_is_not_sent_again(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD], limits=KEEP)
    (name,) = _drive(car, 1)
    path = tmp_path / f"spool/uplinks/cloud/sent/{name}.batch"
    path.write_bytes(path.read_bytes()[:-5])
    assert car.store.resend("cloud", name) == 0
    car.check()
    assert (tmp_path / f"spool/quarantine/cloud/{name}.batch").exists()
