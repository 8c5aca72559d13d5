"""Updates as a vehicle meets them: taken, refused, taken back, cut short, withdrawn.

The repository and its server are real, as is the folder; the car is a double, and time virtual.
What goes wrong around them is in tests/test_updates_troubled.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.clock import Quality
from agent.errors import ConfigError
from agent.ota.bundle import Audience
from agent.settings import load_device
from tests.updating import (
    DBC,
    FACTORY,
    OTHER_DBC,
    PLAN,
    TAKEN,
    Vehicle,
    World,
    on_ev_1,
    wall,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


class TestTaken:
    def test_a_new_bundle_is_tried_and_stays(self, world: World) -> None:
        vehicle = world.vehicle().start()
        vehicle.until(vehicle.runs(FACTORY))
        assert vehicle.car.plan == FACTORY
        world.publish(1)

        vehicle.look_again()

        assert vehicle.shows("ev 1")
        assert vehicle.car.plan == "ev-1"
        assert vehicle.reports == TAKEN
        assert vehicle.why("accepted").startswith("rehearsed with 300 frames of 3.0 s: 300 decoded")
        assert vehicle.why("committed").startswith("well for 20 s: 20,000 of 20,000 frames decoded")
        assert vehicle.status["why"] == "ev 1 runs"

    def test_it_runs_after_the_next_start_and_nothing_is_fetched_again(self, world: World) -> None:
        vehicle = on_ev_1(world)
        vehicle.kill()
        assert vehicle.start().car.plan == "ev-1"
        vehicle.look_again()
        assert vehicle.car.switches == []
        assert vehicle.reports == TAKEN
        assert world.fetched("ev 1") == 1

    def test_a_report_says_when_where_that_is_known_for_certain(self, world: World) -> None:
        vehicle = on_ev_1(world)
        accepted, _, committed = vehicle.spool
        assert accepted["kind"] == "update"
        assert (
            wall()
            < accepted["wall"]
            < committed["wall"]
            == world.time.wall() - (world.time.boot() - committed["time"])
        )
        vehicle.kill()
        world.publish(2)
        world.time.good = Quality.UNSYNCHRONISED
        vehicle.start()
        vehicle.until(vehicle.runs("ev 2"))
        assert [event["wall"] for event in vehicle.spool[3:]] == [0, 0, 0]

    def test_nothing_is_told_while_nothing_changes(self, world: World) -> None:
        vehicle = world.vehicle(poll_s=10).start()
        vehicle.pass_s(200)
        assert vehicle.reports == []
        assert world.server.asked.count("metadata/timestamp.json") == 20


class TestRefused:
    """For what a bundle is; it is not fetched again."""

    def refused(self, world: World, title: str, why: str) -> None:
        vehicle = world.vehicle().start()
        vehicle.until(vehicle.runs(FACTORY))

        assert vehicle.reports == [("refused", title)]
        assert why in vehicle.why("refused")
        assert vehicle.rejected == [title]
        assert vehicle.status["why"].startswith(f"{title} is refused: ")
        assert vehicle.status["trouble"] == ""
        vehicle.look_again()
        vehicle.kill()
        vehicle.start()
        vehicle.until(vehicle.runs(FACTORY))
        assert world.fetched(title) == 1
        assert vehicle.reports == [("refused", title)]
        assert vehicle.car.plan == FACTORY
        assert not list((vehicle.folder / "state/ota/bundles").iterdir())

    def test_another_version_than_the_repository_says(self, world: World) -> None:
        world.publish(2, data=world.bundle(1))
        self.refused(world, "ev 2", "the repository calls it ev 2, but its manifest says ev 1")

    def test_another_name_than_the_repository_says(self, world: World) -> None:
        world.publish(1, name="bus", data=world.bundle(1))
        self.refused(world, "bus 1", "the repository calls it bus 1, but its manifest says ev 1")

    def test_for_other_vehicles(self, world: World) -> None:
        world.publish(1, audience=Audience(vehicles=("truck-*",)))
        self.refused(world, "ev 1", "not for this vehicle")

    def test_for_a_newer_agent(self, world: World) -> None:
        world.publish(1, minimum_agent="99.0")
        self.refused(world, "ev 1", "it needs agent 99.0 or later")

    def test_no_bundle_at_all(self, world: World) -> None:
        world.publish(1, data=b"\x28\xb5\x2f\xfd" + b"nonsense" * 100)
        self.refused(world, "ev 1", "the bundle is refused")

    def test_a_plan_that_cannot_be_here(self, world: World) -> None:
        plan = PLAN.format(name="ev-1") + 'uplinks = ["another"]\n'
        world.publish(1, plan=plan)
        self.refused(world, "ev 1", "another")

    def test_a_plan_that_wants_what_there_is_not(self, world: World) -> None:
        world.publish(1, plan=PLAN.format(name="ev-1").replace("Motion", "Notion"))
        self.refused(world, "ev 1", 'no signal is called "Notion.*"')

    def test_a_database_that_is_none(self, world: World) -> None:
        world.publish(1, dbc="\x00\x01 BO_ garbage {{{")
        self.refused(world, "ev 1", "car.dbc")

    def test_harm_in_the_rehearsal(self, world: World) -> None:
        world.publish(1, dbc=OTHER_DBC)
        self.refused(world, "ev 1", "none of 300 frames is in the database")

    @pytest.mark.parametrize("error", [ConfigError("it says what cannot be"), KeyError("seed")])
    def test_what_cannot_be_compiled(self, world: World, error: Exception) -> None:
        world.publish(1)
        vehicle = world.vehicle().start(cannot_compile=error)
        vehicle.until(vehicle.runs(FACTORY))
        assert vehicle.reports == [("refused", "ev 1")]
        assert str(error) in vehicle.why("refused")
        vehicle.look_again()
        assert world.fetched("ev 1") == 1

    def test_the_signal_of_the_key_must_be_in_it(self, world: World) -> None:
        world.publish(1, dbc=DBC.replace("Speed", "Pace"))
        vehicle = world.vehicle()
        file = vehicle.folder / "agent.toml"
        file.write_text(file.read_text() + '[ignition]\nsignal = "Motion.Speed"\n')
        vehicle = Vehicle(vehicle.folder, world.time, load_device(file))
        vehicle.start()
        vehicle.until(vehicle.runs(FACTORY))
        assert "Motion.Speed" in vehicle.why("refused")
        vehicle.kill()

    def test_a_new_version_is_taken_after_it(self, world: World) -> None:
        world.publish(1, dbc=OTHER_DBC)
        vehicle = world.vehicle().start()
        vehicle.until(vehicle.runs(FACTORY))
        world.publish(2)
        vehicle.look_again()
        assert vehicle.reports[1:] == [(what, "ev 2") for what, _ in TAKEN]


class TestHarmful:
    """In its trial: it is taken back, and remembered."""

    def test_the_plan_before_runs_again(self, world: World) -> None:
        vehicle = on_ev_1(world)
        vehicle.car.harmful = {"ev 2"}
        world.publish(2)
        vehicle.look_again()

        assert vehicle.car.switches == ["ev 1", "ev 2", "ev 1"]
        assert vehicle.car.plan == "ev-1"
        assert vehicle.reports[3:] == [(w, "ev 2") for w in ("accepted", "applied", "rolled back")]
        assert "of 5,000 frames are decoded (0%)" in vehicle.why("rolled back")
        assert vehicle.rejected == ["ev 2"]
        vehicle.look_again()
        vehicle.kill()
        assert vehicle.start().car.plan == "ev-1"
        vehicle.look_again()
        assert vehicle.reports[6:] == []
        assert world.fetched("ev 2") == 1

    def test_the_factory_plan_where_there_was_nothing_else(self, world: World) -> None:
        world.publish(1)
        vehicle = world.vehicle().start(harmful={"ev 1"})
        vehicle.until(lambda: vehicle.rejected == ["ev 1"] and vehicle.state == "waiting")
        assert vehicle.car.switches == ["ev 1", FACTORY]
        assert not list((vehicle.folder / "state/ota/bundles").iterdir())
        assert not list((vehicle.folder / "state/ota/plans").iterdir())

    @pytest.mark.parametrize("error", [ConfigError("no stream for it"), ZeroDivisionError("ratio")])
    def test_what_cannot_be_switched_to(self, world: World, error: Exception) -> None:
        world.publish(1)
        vehicle = world.vehicle().start(refuses={"ev 1": error})
        vehicle.until(lambda: vehicle.rejected == ["ev 1"])
        vehicle.until(vehicle.runs(FACTORY))
        assert vehicle.reports == [("accepted", "ev 1"), ("rolled back", "ev 1")]
        assert str(error) in vehicle.why("rolled back")
        assert vehicle.car.switches == []

    def test_a_plan_that_cannot_be_gone_back_to_at_once_is_gone_back_to_later(
        self, world: World
    ) -> None:
        vehicle = on_ev_1(world)
        vehicle.car.harmful = {"ev 2"}
        vehicle.car.refuses = {"ev 1": ConfigError("not now")}
        world.publish(2)
        vehicle.command("poll")
        vehicle.until(lambda: vehicle.rejected == ["ev 2"])
        vehicle.until(lambda: vehicle.status["trouble"] == "not now")
        assert vehicle.car.plan == "ev-2"

        vehicle.car.refuses = {}
        vehicle.until(lambda: vehicle.car.plan == "ev-1")
        vehicle.until(vehicle.runs("ev 1"))
        assert vehicle.reports[-1] == ("rolled back", "ev 2")

    def test_a_bundle_that_cannot_be_read_any_more_gives_way_to_the_factory_plan(
        self, world: World
    ) -> None:
        vehicle = on_ev_1(world)
        vehicle.kill()
        (archive,) = (vehicle.folder / "state/ota/bundles").iterdir()
        archive.write_bytes(archive.read_bytes()[:-1])
        assert vehicle.start().car.plan == FACTORY
        vehicle.until(lambda: vehicle.shows("ev 1") and vehicle.state == "waiting")
        assert vehicle.reports[3:] == [("rolled back", "ev 1"), *TAKEN]
        assert "is damaged" in vehicle.why("rolled back")


class TestCutShort:
    """The process ends in a trial."""

    def in_trial(self, world: World) -> Vehicle:
        world.publish(1)
        vehicle = world.vehicle(trial_s=100).start()
        vehicle.until(vehicle.trying("ev 1"))
        return vehicle

    def test_it_goes_on_after_the_next_start(self, world: World) -> None:
        vehicle = self.in_trial(world)
        vehicle.kill()
        vehicle.start()
        assert vehicle.car.plan == "ev-1"
        assert vehicle.status["trial"] == {"bundle": "ev 1", "starts": 2}
        began = world.time.passed_s
        vehicle.until(vehicle.runs("ev 1"))
        assert world.time.passed_s - began >= 100
        assert vehicle.reports == TAKEN
        assert vehicle.car.switches == []

    def test_a_plan_that_ends_the_process_three_times_is_taken_back(self, world: World) -> None:
        vehicle = self.in_trial(world)
        for _ in range(2):
            vehicle.kill()
            vehicle.start()
            vehicle.until(vehicle.trying("ev 1"))
        vehicle.kill()
        vehicle.start()
        assert vehicle.car.plan == FACTORY
        vehicle.until(vehicle.runs(FACTORY))
        assert vehicle.reports[2:] == [("rolled back", "ev 1")]
        assert "started 3 times" in vehicle.why("rolled back")
        vehicle.look_again()
        assert world.fetched("ev 1") == 1

    def test_a_bundle_that_ends_the_process_when_it_is_looked_at_is_refused(
        self, world: World
    ) -> None:
        """Before any trial: such as a database that takes all the memory there is."""
        world.publish(1)
        vehicle = world.vehicle().start()
        for _ in range(3):
            vehicle.until(lambda: vehicle.state == "rehearsing")
            vehicle.kill()
            vehicle.start()
        vehicle.until(vehicle.runs(FACTORY))
        assert vehicle.reports == [("refused", "ev 1")]
        assert "each of the 3 times that it looked at it" in vehicle.why("refused")

    def test_an_end_in_order_while_it_is_looked_at_is_no_fault(self, world: World) -> None:
        world.publish(1)
        vehicle = world.vehicle().start()
        for _ in range(5):
            vehicle.until(lambda: vehicle.state == "rehearsing")
            vehicle.end()
            vehicle.start()
        vehicle.until(vehicle.runs("ev 1"))

    def test_an_end_in_order_is_no_fault_of_the_plan(self, world: World) -> None:
        vehicle = self.in_trial(world)
        for _ in range(6):
            vehicle.end()
            vehicle.start()
            vehicle.until(vehicle.trying("ev 1"))
        vehicle.until(vehicle.runs("ev 1"))

    def test_an_end_by_a_defect_is(self, world: World) -> None:
        vehicle = self.in_trial(world)
        vehicle.end("the decode thread failed")
        assert vehicle.start().car.plan == FACTORY
        vehicle.until(vehicle.runs(FACTORY))
        assert vehicle.why("rolled back").endswith("in its trial: the decode thread failed")

    def test_an_end_in_order_while_it_is_switched_to_neither(self, world: World) -> None:
        """The agent stops, so the switch comes to nothing; that is no word against the plan."""
        world.publish(1)
        vehicle = world.vehicle().start()
        vehicle.car.during_switch = lambda: setattr(vehicle.car, "alive", False)
        vehicle.until(lambda: not vehicle.car.alive and vehicle.state == "waiting")
        vehicle.end()
        vehicle.start()
        assert vehicle.car.plan == "ev-1"
        vehicle.until(vehicle.runs("ev 1"))
        assert vehicle.rejected == []

    def test_a_resumed_trial_that_does_harm(self, world: World) -> None:
        vehicle = self.in_trial(world)
        vehicle.kill()
        vehicle.start(harmful={"ev 1"})
        vehicle.until(lambda: vehicle.rejected == ["ev 1"])
        vehicle.until(vehicle.runs(FACTORY))
        assert vehicle.car.plan == FACTORY
        assert "frames is decoded" in vehicle.why("rolled back")


class TestWhatTheRepositoryWants:
    def test_a_paused_bundle_is_taken_by_nobody_and_kept_by_who_has_it(self, world: World) -> None:
        first = on_ev_1(world)
        world.roll_out(1, "paused")
        second = world.vehicle().start()
        second.until(second.runs(FACTORY))
        first.look_again()
        assert first.car.plan == "ev-1"
        assert second.status["why"] == "the plan of agent.toml stays: ev 1 is paused"

    def test_a_withdrawn_bundle_gives_way_to_a_lower_version(self, world: World) -> None:
        vehicle = on_ev_1(world)
        world.publish(2)
        vehicle.look_again()
        world.roll_out(2, "withdrawn")
        vehicle.look_again()
        assert vehicle.shows("ev 1")
        assert vehicle.rejected == []
        assert vehicle.reports[-3:] == TAKEN

    def test_without_another_one_to_the_factory_plan(self, world: World) -> None:
        """Not to the one before it, which is not for this vehicle any more either."""
        vehicle = on_ev_1(world)
        world.publish(2)
        vehicle.look_again()
        world.roll_out(1, "withdrawn")
        world.roll_out(2, "withdrawn")
        vehicle.look_again()
        assert vehicle.shows(FACTORY)
        assert vehicle.car.switches == ["ev 1", "ev 2", FACTORY]
        assert vehicle.reports[-1] == ("rolled back", "ev 2")
        assert "is withdrawn" in vehicle.why("rolled back")

    def test_it_may_come_again(self, world: World) -> None:
        vehicle = on_ev_1(world)
        world.roll_out(1, "withdrawn")
        vehicle.look_again()
        assert vehicle.shows(FACTORY)
        world.roll_out(1, "active")
        vehicle.look_again()
        assert vehicle.shows("ev 1")

    def test_a_lower_version_is_not_taken(self, world: World) -> None:
        world.publish(2)
        vehicle = world.vehicle().start()
        vehicle.until(vehicle.runs("ev 2"))
        world.publish(1)
        vehicle.look_again()
        assert vehicle.shows("ev 2")
        assert world.fetched("ev 1") == 0

    def test_what_cannot_be_understood_is_a_finding_and_nothing_else(self, world: World) -> None:
        world.repo.add("bundles/odd.bundle", b"odd", {"edge-agent": {"kind": "bundle"}})
        vehicle = on_ev_1(world)
        (finding,) = vehicle.status["findings"]
        assert '"bundles/odd.bundle" of the repository is skipped' in finding
