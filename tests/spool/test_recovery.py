"""A power cut at every operation, and an error at every operation.

What is promised: the spool opens again; what was durable and is not acknowledged, evicted or in
quarantine waits; nothing that waits is corrupt; no name of a batch is used twice.
"""

import errno
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import SpoolError
from tests.spool.car import BOTH, Car, contents
from tests.spool.cuts import Cutter
from tests.spool.drive import KEYS, UPLINKS, Drive, of
from tests.spool.fakefs import Disk, fail_at


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("edge_agent.spool")
    logger.disabled = True
    yield
    logger.disabled = False


def _prepared(tmp_path: Path, name: str = "disk") -> Disk:
    (tmp_path / name).mkdir()
    return Disk(tmp_path / name)


@pytest.mark.parametrize("mixed", [3, pytest.param(60, marks=[pytest.mark.slow])])
@pytest.mark.timeout(3600)
def test_a_power_cut_at_any_operation_costs_nothing_that_was_durable(
    tmp_path: Path, mixed: int
) -> None:
    disk = _prepared(tmp_path)
    drive = Drive(disk)
    cutter = Cutter(disk, tmp_path / "left", drive.examine, lambda: drive.promises, mixed=mixed)

    drive.whole()
    cutter.cut_now("at the end")

    assert cutter.alike > 300
    assert cutter.mixed > 300
    print(cutter)


def test_a_power_cut_during_recovery_costs_nothing_either(tmp_path: Path) -> None:
    """A cut, and then another one at every operation of the start that follows it."""
    disk = _prepared(tmp_path)
    drive = Drive(disk)
    car = drive.open()
    drive.round(car)
    drive.round(car, 61)
    drive.acknowledge(car, "depot")
    cases = 0

    def cut_again(left: Path) -> None:
        nonlocal cases
        second = Disk(left)
        cutter = Cutter(second, tmp_path / "left again", drive.examine, mixed=2)
        drive.examine(left, second)
        cases += cutter.cases

    drive.round(car)
    disk.operations = 0
    cutter = Cutter(disk, tmp_path / "left", lambda _left: None)
    cutter._examine = lambda left: cut_again(left) if cutter.cases % 4 == 0 else None
    drive.add(car)
    car.later(61)
    car.store.close()
    assert cases > 150
    print(f"{cases} second cuts")


def _operations(tmp_path: Path) -> int:
    disk = _prepared(tmp_path, "count")
    drive = Drive(disk)
    drive.first_run(drive.open())
    drive.second_run(drive.open())
    return disk.operations


_EVERY = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.mark.parametrize(
    ("number", "count", "step"),
    [
        (errno.EIO, 1, 1),
        (errno.ENOSPC, 1, 5),
        (errno.EDQUOT, 1, 9),
        (errno.EROFS, 1, 9),
        (errno.EIO, 12, 32),
        (errno.EROFS, 12, 32),
        pytest.param(errno.ENOSPC, 1, 1, marks=_EVERY),
        pytest.param(errno.EDQUOT, 1, 1, marks=_EVERY),
        pytest.param(errno.EROFS, 1, 1, marks=_EVERY),
        pytest.param(errno.ENOSPC, 12, 2, marks=_EVERY),
    ],
)
def test_an_error_at_any_operation_costs_nothing_that_is_not_counted(
    tmp_path: Path, number: int, count: int, step: int
) -> None:
    total = _operations(tmp_path)
    for first in range(1, total + 1, step):
        disk = _prepared(tmp_path, "disk")
        disk.before = fail_at(first, number, count)
        try:
            _survive(disk)
        except BaseException as e:
            e.add_note(f"{errno.errorcode[number]} at {count} operations from {first}")
            raise
        shutil.rmtree(disk.root)


def _survive(disk: Disk) -> None:
    drive = Drive(disk)
    told: Counter[str] = Counter()  # what the ledgers say was given up, by uplink
    car = _start(drive)
    drive.first_run(car)
    counts = car.counts()
    assert counts["kept"] == counts["spooled"] + counts["memory"]
    told += _given_up(car)
    car = _start(drive)
    drive.second_run(car)
    counts = car.counts()
    assert counts["memory"] == 0
    assert counts["kept"] == counts["spooled"] + counts["lost_end"]
    told += _given_up(car)

    disk.before = lambda _number, _what: None
    car = Car(disk.root / "spool", KEYS, fs=disk)
    car.check()
    assert car.store.trouble == ""
    for uplink in UPLINKS:
        parcels = [p for p in car.parcels(uplink) if p.batch_id not in drive.arrived[uplink]]
        waiting = contents(parcels)
        assert not waiting or max(waiting.values()) == 1
        have = set(waiting).union(*drive.arrived[uplink].values())
        assert have <= of(drive.added, uplink)
        assert len(of(drive.durable, uplink) - have) <= told[uplink]
    car.store.close()


def _given_up(car: Car) -> Counter[str]:
    counts = {uplink: car.counts(uplink) for uplink in UPLINKS}
    return Counter({u: row["evicted"] + row["quarantined"] for u, row in counts.items()})


def _start(drive: Drive) -> Car:
    """Start again and again, as systemd does."""
    while True:
        try:
            return drive.open()
        except SpoolError:
            continue


def test_samples_of_a_file_that_was_given_up_are_never_in_two_files(tmp_path: Path) -> None:
    """Their sync failed, so they may be in it; it cannot be cut now; then the process is killed."""
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [BOTH], fs=disk)
    car.add(BOTH, range(3))
    car.commit()
    failures = ["sync", "open_append"]

    def fail(_number: int, what: str) -> None:
        if failures and what.startswith(failures[0]):
            raise OSError(errno.EIO, "Input/output error", failures.pop(0))

    disk.before = fail
    car.add(BOTH, range(3, 6))
    car.commit()
    car.commit()
    assert failures == []
    car.store.close()
    assert contents(Car(tmp_path / "spool", [BOTH]).parcels()) == Counter(range(6))


# -- identity ----------------------------------------------------------------------------------


def _identity(root: Path, disk: Disk | None = None) -> tuple[str, int]:
    """A run that makes one batch, all of which is acknowledged: the folder remembers nothing."""
    car = Car(root / "spool", KEYS, fs=disk)
    car.add(BOTH, range(3))
    car.commit()
    car.store.stop()
    for uplink in UPLINKS:
        while car.parcels(uplink):
            car.acknowledge(uplink)
    car.store.close()
    return car.store.folder.install, car.store.folder.run


def test_the_run_rises_and_the_install_id_stays(tmp_path: Path) -> None:
    install, run = _identity(tmp_path)
    assert [_identity(tmp_path) for _ in range(3)] == [(install, run + n) for n in (1, 2, 3)]


@pytest.mark.parametrize("damage", [b"", b"\0" * 2, b"\xff\xfe", b"one\n", None])
def test_a_damaged_run_counter_leads_to_no_name_twice(tmp_path: Path, damage: bytes | None) -> None:
    """Nothing is left by which the old runs could be known: the identity has to be a new one."""
    known = {_identity(tmp_path) for _ in range(3)}
    path = tmp_path / "spool/run"
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    assert _identity(tmp_path) not in known
    assert len({_identity(tmp_path) for _ in range(3)} | known) == 6


@pytest.mark.parametrize("damage", [b"", b"\0" * 16, b"../../../../etc/", b"\xff" * 16, None])
def test_a_damaged_install_id_is_made_anew(tmp_path: Path, damage: bytes | None) -> None:
    old, _ = _identity(tmp_path)
    path = tmp_path / "spool/install"
    path.unlink()
    if damage is not None:
        path.write_bytes(damage)
    new, _ = _identity(tmp_path)
    assert new != old
    assert set(new) <= set("0123456789abcdef")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_nothing_at_the_start_keeps_nobody_from_collecting(
    tmp_path: Path, number: int
) -> None:
    install, run = _identity(tmp_path)
    disk = Disk(tmp_path)

    def takes_nothing(_number: int, what: str) -> None:
        if what.startswith(("create", "write_at", "sync", "make_folder ")):
            if what == "make_folder spool":
                return
            raise OSError(number, "it takes nothing")

    disk.before = takes_nothing
    car = Car(tmp_path / "spool", KEYS, fs=disk)
    car.add(BOTH, range(3))
    car.commit()
    assert "it takes nothing" in car.store.trouble
    assert car.counts()["memory"] == 3

    disk.before = lambda _number, _what: None
    car.commit()
    car.end()
    assert car.store.trouble == ""
    assert contents(car.parcels()) == Counter(range(3))
    assert car.store.folder.install != install
    assert _identity(tmp_path)[1] > run


def test_a_file_that_cannot_be_read_now_waits_for_a_better_day(tmp_path: Path) -> None:
    """Neither does it keep the agent from starting, nor is it taken for damaged."""
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", KEYS, fs=disk)
    car.add(BOTH, range(3))
    car.later(1)
    car.store.close()

    def unreadable(_number: int, what: str) -> None:
        if what.startswith("read spool/open"):
            raise OSError(errno.EIO, "Input/output error")

    disk.before = unreadable
    car = Car(tmp_path / "spool", KEYS, fs=disk)
    assert car.parcels() == []
    car.end()
    disk.before = lambda _number, _what: None
    assert contents(Car(tmp_path / "spool", KEYS, fs=disk).parcels()) == Counter(range(3))


def test_an_empty_file_and_strangers_in_the_folders_do_no_harm(tmp_path: Path) -> None:
    _identity(tmp_path)
    spool = tmp_path / "spool"
    (spool / "open/0-1-telemetry-1.batch").write_bytes(b"")
    (spool / "open/note.txt").write_text("a person was here")
    (spool / "uplinks/cloud/telemetry/lost+found").mkdir()
    car = Car(spool, KEYS)
    assert car.store.trouble == ""
    assert car.parcels() == []
    assert (spool / "quarantine/unreadable/0-1-telemetry-1.batch").exists()
    car.end()
