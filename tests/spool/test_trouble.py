"""A disk that is full, read-only, failing or slow: collection goes on, and it heals by itself."""

import errno
import os
import threading
from collections import Counter
from pathlib import Path

import pytest

from agent.errors import SpoolError
from agent.spool.filesystem import RealFileSystem
from tests.spool.car import BOTH, CLOUD, EVENT, Car, Limits, contents
from tests.spool.fakefs import Disk

SMALL = Limits(memory_mb=1)
WRITES = ("create", "write_at", "sync", "truncate", "link", "rename", "unlink", "make_folder")


def _nothing(_number: int, _what: str) -> None:
    pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_while_nothing_can_be_changed_memory_is_bounded_and_it_heals(
    tmp_path: Path, number: int
) -> None:
    """As after a remount to read-only: all that changes anything fails, reading goes on."""
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD, EVENT], fs=disk, limits=SMALL)
    car.add(CLOUD, range(1000))
    car.commit()

    def read_only(_number: int, what: str) -> None:
        if what.startswith(WRITES):
            raise OSError(number, os.strerror(number))

    disk.before = read_only
    for i in range(1, 200):
        car.add(CLOUD, range(i * 1000, (i + 1) * 1000))
        car.later(1)
        assert car.store.status()["memory_bytes"] <= 1 << 20
    assert os.strerror(number) in car.store.trouble
    lost = car.counts()["lost_disk"]
    assert lost > 0

    disk.before = _nothing
    car.later(1)
    assert car.store.trouble == ""
    car.end()
    arrived = contents(car.parcels())
    assert arrived == Counter([*range(1000), *range(1000 + lost, 200_000)])


def test_an_acknowledgement_on_a_read_only_disk_is_made_up_for_later(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD], fs=disk)
    car.add(CLOUD, range(3))
    car.later(1)
    car.store.seal_now()
    car.commit()

    def read_only(_number: int, what: str) -> None:
        if what.startswith(WRITES):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    disk.before = read_only
    with pytest.raises(OSError, match="Read-only"):
        car.acknowledge()
    assert car.counts()["waiting"] == 3
    disk.before = _nothing
    car.acknowledge()
    assert (car.counts()["waiting"], car.counts()["acknowledged"]) == (0, 3)


class _ReadOnly(RealFileSystem):
    """A file system that was mounted read-only before the start."""

    def __init__(self) -> None:
        self.is_so = True

    def _refuse(self) -> None:
        if self.is_so:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def create(self, path: Path) -> int:
        self._refuse()
        return super().create(path)

    def open_append(self, path: Path) -> int:
        self._refuse()
        return super().open_append(path)

    def unlink(self, path: Path) -> None:
        self._refuse()
        super().unlink(path)


def test_a_start_on_a_read_only_disk_collects_in_memory_until_it_can_be_written(
    tmp_path: Path,
) -> None:
    car = Car(tmp_path / "spool", [CLOUD])
    car.add(CLOUD, range(3))
    car.end()
    fs = _ReadOnly()
    car = Car(tmp_path / "spool", [CLOUD], fs=fs)
    car.add(CLOUD, range(3, 6))
    car.later(1)
    assert "Read-only file system" in car.store.trouble
    assert (car.counts()["memory"], car.counts()["waiting"]) == (3, 3)

    fs.is_so = False
    car.later(1)
    car.end()
    assert contents(car.parcels()) == Counter(range(6))


def test_a_lock_can_be_taken_on_a_read_only_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's answer stands in for a mount, which only root could make."""
    Car(tmp_path / "spool", [CLOUD]).end()
    opened = os.open

    def read_only(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", read_only)
    car = Car(tmp_path / "spool", [CLOUD])
    with pytest.raises(SpoolError, match="another edge-agent is using this spool"):
        Car(tmp_path / "spool", [CLOUD])
    car.end()


def test_a_disk_that_is_slow_for_ten_seconds_costs_nothing(tmp_path: Path) -> None:
    """Each sync takes ten seconds of the clock; meanwhile blocks come in."""
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD], fs=disk)
    serial = iter(range(10_000))
    expected = 0

    def slow(_number: int, what: str) -> None:
        nonlocal expected
        if what == "sync":
            for _ in range(10):
                car.clock.now_s += 1
                car.add(CLOUD, [next(serial)])
                expected += 1
                assert car.counts()["kept"] == expected

    disk.before = slow
    for _ in range(20):
        car.later(1)
    disk.before = _nothing
    car.end()
    assert car.store.trouble == ""
    assert contents(car.parcels()) == Counter(range(expected))
    assert car.counts()["lost_disk"] == 0


def test_the_thread_that_collects_never_waits_for_the_disk(tmp_path: Path) -> None:
    """The disk hangs in a sync until it is let go; all that the other threads ask is answered."""
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [BOTH], fs=disk, limits=SMALL)
    hangs, let_go = threading.Event(), threading.Event()

    def hang(_number: int, what: str) -> None:
        if what == "sync":
            hangs.set()
            let_go.wait()

    disk.before = hang
    spool = threading.Thread(target=car.store.commit)
    car.add(BOTH, range(1000))
    spool.start()
    hangs.wait()
    for i in range(1, 200):
        car.add(BOTH, range(i * 1000, (i + 1) * 1000))
        car.check()
    assert car.store.status()["memory_bytes"] <= 1 << 20
    assert not car.store.room()
    counts = car.counts()
    assert counts["kept"] == 200_000
    assert counts["kept"] == counts["memory"] + counts["lost_disk"]
    assert car.store.outboxes["cloud"].next() is None

    disk.before = _nothing
    let_go.set()
    spool.join()
    car.end()
    arrived = contents(car.parcels())
    assert arrived.total() == 200_000 - car.counts()["lost_disk"]
    assert set(range(1000)) < set(arrived)
    assert 199_999 in arrived


def test_what_is_lost_is_never_the_newest_of_a_stream(tmp_path: Path) -> None:
    """One stream holds all the memory in a single block: the other gives way, not the bound."""
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD, EVENT], fs=disk, limits=SMALL)

    def broken(_number: int, what: str) -> None:
        if what.startswith(WRITES):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    disk.before = broken
    car.add(EVENT, range(40_000))
    for i in range(1, 100):
        car.add(CLOUD, range(i * 100_000, i * 100_000 + 2000))
    assert car.store.status()["memory_bytes"] <= 1 << 20
    disk.before = _nothing
    car.commit()
    car.end()
    assert set(range(40_000)) < set(contents(car.parcels()))


def test_the_durable_point_is_in_the_status(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [CLOUD, EVENT], fs=disk)
    assert car.store.status()["durable"] == {}
    car.add(CLOUD, range(3))
    car.commit()
    car.add(CLOUD, range(3, 5))
    car.later(1)
    at = car.store.status()["durable"]["telemetry/cloud"]
    assert at["batch_id"].endswith("-telemetry-1")
    assert (at["sequence"], at["batch_samples"], at["samples"], at["age_s"]) == (1, 5, 5, 0)

    disk.before = lambda _number, what: _fail(what)
    car.add(CLOUD, range(5, 9))
    car.later(7)
    later = car.store.status()["durable"]["telemetry/cloud"]
    assert later == {**at, "age_s": 7}

    disk.before = _nothing
    car.later(1)
    now = car.store.status()["durable"]["telemetry/cloud"]
    assert (now["sequence"], now["batch_samples"], now["samples"]) == (2, 4, 9)
    assert now["age_s"] == 0


def _fail(what: str) -> None:
    if what.startswith(WRITES):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
