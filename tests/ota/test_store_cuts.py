"""A power cut at every operation of a vehicle's updates, and an error at every operation.

What is promised: a start finds the record before or behind the step, and every archive that it
names, whole; the floors and what was taken back with it; and it can go on from there.
"""

import errno
import itertools
import logging
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.ota.record import running
from agent.ota.store import Store
from tests.ota.life import Life, bundle, floors, plain
from tests.spool.conftest import fast_folder
from tests.spool.cuts import Cutter
from tests.spool.fakefs import Disk, fail_at


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("edge_agent.ota")
    logger.disabled = True
    yield
    logger.disabled = False


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=fast_folder()) as name:
        yield Path(name)


def _prepared(folder: Path, name: str = "disk") -> Disk:
    (folder / name).mkdir()
    return Disk(folder / name)


@pytest.mark.parametrize("mixed", [4, pytest.param(200, marks=[pytest.mark.slow])])
@pytest.mark.timeout(3600)
def test_a_power_cut_at_any_operation_leaves_the_step_before_or_behind(
    folder: Path, mixed: int
) -> None:
    disk = _prepared(folder)
    life = Life(disk)
    cutter = Cutter(disk, folder / "left", life.examine, lambda: life.promises, mixed=mixed)

    life.whole()
    cutter.cut_now("at the end")

    assert cutter.points > 500
    assert cutter.cases > 300
    print(cutter)


def test_a_power_cut_where_the_first_thing_ever_is_a_bundle(folder: Path) -> None:
    """No folder was synced by anything before."""
    disk = _prepared(folder)
    life = Life(disk)
    cutter = Cutter(disk, folder / "left", life.examine, lambda: life.promises, mixed=500)
    life.accept(1)
    assert cutter.mixed > 10


def test_a_power_cut_while_a_vehicle_goes_on_from_another_one_is_no_different(
    folder: Path,
) -> None:
    disk = _prepared(folder)
    life = Life(disk)
    cases = 0

    def cut_again(left: Path) -> None:
        nonlocal cases
        second = Life(Disk(left))
        second.check(life)
        cutter = Cutter(second.disk, folder / "again", second.examine, lambda: second.promises)
        second.go_on()
        cases += cutter.cases
        second.store.close()

    numbers = itertools.count()
    life.start()
    life.look(1)
    Cutter(
        disk,
        folder / "left",
        lambda left: cut_again(left) if next(numbers) % 16 == 0 else None,
        lambda: life.promises,
    )
    life.accept(1)
    life.commit()
    life.look(2)
    life.accept(2)
    life.kill()
    assert cases > 300
    print(f"{cases} second cuts")


def _operations(folder: Path) -> int:
    disk = _prepared(folder, "count")
    Life(disk).whole()
    return disk.operations


_EVERY = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.mark.parametrize(
    ("number", "count", "step"),
    [
        (errno.EIO, 1, 3),
        (errno.ENOSPC, 1, 11),
        (errno.EROFS, 1, 17),
        (errno.EIO, 2, 11),
        (errno.EIO, 12, 13),
        (errno.EROFS, 12, 17),
        pytest.param(errno.EIO, 1, 1, marks=_EVERY),
        pytest.param(errno.EIO, 2, 1, marks=_EVERY),
        pytest.param(errno.ENOSPC, 1, 1, marks=_EVERY),
        pytest.param(errno.EROFS, 1, 1, marks=_EVERY),
        pytest.param(errno.EIO, 12, 1, marks=_EVERY),
    ],
)
def test_an_error_at_any_operation_costs_time_and_nothing_else(
    folder: Path, number: int, count: int, step: int
) -> None:
    good = Life(_prepared(folder, "good"))
    good.whole()
    told = 0
    for first in range(1, _operations(folder) + 1, step):
        disk = _prepared(folder)
        disk.before = fail_at(first, number, count)
        try:
            told += _survive(disk, good, folder)
        except BaseException as e:
            e.add_note(f"{errno.errorcode[number]} at {count} operations from {first}")
            raise
        shutil.rmtree(disk.root)
    assert told


def _survive(disk: Disk, good: Life, folder: Path) -> int:
    life = Life(disk, patient=True)
    life.whole()
    assert all(error.startswith(str(disk.root)) for error in life.errors)
    assert life.store.trouble == ""
    for left in (life.store.record, Store(disk.root / "ota").load()):
        assert left.floors == floors(2, "renewed")
        assert {r.bundle for r in left.rejected} == {bundle(n) for n in (2, 3, 5, 6)}
        assert left.done == ("r-1", "r-2")
        assert running(left) == running(good.store.record)
    # And all of it is durable.
    where = folder / "left"
    disk.lay_out(where, Disk.cut("dropped", "dropped"))
    after = Store(where / "ota")
    assert plain(after.load()) == plain(life.store.record)
    assert after.trouble == ""
    shutil.rmtree(where)
    life.store.close()
    return len(life.errors)
