"""A power cut at every step of real updates: the agent starts, and comes to where it was going.

What is driven is `Updates` itself: looks, downloads, trials, verdicts, going back by hand. What a
cut may leave of its folder is handed to another process, which must begin with the plan before the
step or the one behind it, whole, and must bring the step to its end.
"""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.ota.record import Record
from tests.spool.conftest import fast_folder
from tests.spool.cuts import Cutter
from tests.spool.fakefs import Disk
from tests.updating import FACTORY, OTHER_DBC, Vehicle, World
from tests.virtualtime import Time

HARMFUL = {"ev 3"}


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


class Drive:
    """A vehicle on a disk whose power is cut, and what may be found after a cut now."""

    def __init__(self, world: World) -> None:
        folder = world.folder / "car"
        (folder / "state").mkdir(parents=True)
        self.world = world
        self.disk = Disk(folder / "state")
        self.vehicle = world.vehicle(folder, self.disk)
        self.left = world.vehicle(world.folder / "left")
        self.step = 0
        self.known = Record()
        """What is remembered for certain."""
        self.may_run = {FACTORY}
        self.ends_with = FACTORY
        self.went_on = 0
        self.failure: BaseException | None = None
        """The first; the program takes it for a defect of its own, and goes on."""
        self._seen: set[tuple[int, str]] = set()

    def towards(self, bundle: str, *, through: str = "") -> None:
        """From now on, going on ends with this bundle; on the way `through` may run, too."""
        self.known = self.vehicle.store.record
        self.may_run = {self.ends_with, bundle, through or bundle}
        self.ends_with = bundle
        self.step += 1

    def whole(self) -> None:
        """Everything that becomes of bundles; where a look is not asked for, it is the first."""
        world, vehicle = self.world, self.vehicle
        self.towards("ev 1")
        world.publish(1)
        vehicle.start(harmful=HARMFUL)
        vehicle.until(vehicle.runs("ev 1"))
        self.towards("ev 2")
        world.publish(2)
        vehicle.look_again()

        self.towards("ev 2", through="ev 3")  # its trial is cut short once, and then it does harm
        world.publish(3)
        vehicle.command("poll")
        vehicle.until(vehicle.trying("ev 3"))
        vehicle.kill()
        vehicle.start(harmful=HARMFUL)
        vehicle.until(lambda: vehicle.rejected == ["ev 3"])
        vehicle.until(vehicle.runs("ev 2"))

        self.towards("ev 2")
        world.publish(4, dbc=OTHER_DBC)  # refused in the rehearsal
        vehicle.look_again()
        self.towards("ev 1")
        vehicle.command("rollback")
        self.towards("ev 5")
        world.publish(5)
        vehicle.command("poll")
        vehicle.until(vehicle.trying("ev 5"))
        vehicle.end()
        vehicle.start()
        vehicle.until(vehicle.runs("ev 5"))

        self.towards("ev 5")
        world.repo.rotate("timestamp", "snapshot")
        world.repo.publish()
        vehicle.look_again()
        self.towards(FACTORY)
        world.roll_out(1, "withdrawn")
        world.roll_out(5, "withdrawn")
        vehicle.look_again()
        self.towards(FACTORY)

    # -- after a cut -------------------------------------------------------------------------

    def examine(self, state: Path) -> None:
        """Start on what a cut now has left, and go on."""
        assert state == Path(self.left.device.state_dir)
        with Time(self.world.time.wall()) as time:
            vehicle = Vehicle(self.left.folder, time, self.left.device)
            try:
                bundle = vehicle.load()
                found = self.start(vehicle)
                assert bundle == (found.trial.bundle if found.trial else found.current)
                self.go_on(vehicle, found)
            except BaseException as e:
                self.failure = self.failure or e
                raise
            finally:
                vehicle.kill()

    def start(self, vehicle: Vehicle) -> Record:
        """What is remembered, and the plan that runs by it."""
        found = vehicle.store.record
        assert vehicle.store.trouble == ""
        # Nothing was named that is not there, whole.
        assert not [r.why for r in found.reports if "cannot be used" in r.why]
        plan = vehicle.car.plan
        assert plan.replace("-", " ") in self.may_run
        assert plan == (vehicle.car.prepared().bundle.replace(" ", "-") or FACTORY)
        assert set(self.known.rejected) <= set(found.rejected)
        assert self.step == 1 or len(self.known.floors) == 4
        for role, floor in self.known.floors.items():
            now = found.floors[role]
            assert now.keys != floor.keys or now.version >= floor.version
        assert found.time_floor >= self.known.time_floor
        return found

    def go_on(self, vehicle: Vehicle, found: Record) -> None:
        """To the end of the step, and through one more start; once from each state."""
        archives = sorted(p.name for p in (vehicle.store.folder / "bundles").glob("*"))
        reports = tuple(replace(report, id="", wall=0) for report in found.reports)
        state = replace(found, serial=0, reports=reports, time_floor=0)
        key = (self.step, f"{state} {archives} {vehicle.store.trusted() is None}")
        if key in self._seen:
            return
        self._seen.add(key)
        self.went_on += 1
        vehicle.go(harmful=HARMFUL)
        ends = self.ends_with
        if self.step == 5 and found.current == self.known.current:
            ends = "ev 2"  # the command to go back has not been heard
        vehicle.until(vehicle.runs(ends))
        vehicle.kill()
        bundle = vehicle.load()
        assert (bundle.title if bundle else FACTORY) == ends
        assert vehicle.store.record.trial is None
        if self.step > 3:
            assert "ev 3" in [each.bundle.title for each in vehicle.store.record.rejected]


@pytest.mark.parametrize("mixed", [2, pytest.param(50, marks=[pytest.mark.slow])])
@pytest.mark.timeout(1800)
def test_from_every_crash_point_the_agent_starts_and_comes_to_where_it_was_going(
    folder: Path, mixed: int
) -> None:
    with World(folder) as world:
        drive = Drive(world)
        cutter = Cutter(
            drive.disk,
            Path(drive.left.device.state_dir),
            drive.examine,
            lambda: drive.step,
            mixed=mixed,
        )

        try:
            drive.whole()
            cutter.cut_now("at the end")
        finally:
            if drive.failure is not None:
                raise drive.failure

    assert cutter.points > 500
    assert cutter.cases > 200
    print(f"{cutter}; {drive.went_on} times to the end")
