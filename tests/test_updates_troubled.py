"""Updates in every weather: by hand, by request, without a link, on a silent bus or a sick disk.

As tests/test_updates: a real repository, server and folder, a double of the car, virtual time.
"""

import datetime as dt
import errno
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.clock import Quality
from agent.errors import ConfigError, UpdateError
from agent.ota.store import Store
from tests.ota.server import hang_up, status
from tests.spool.fakefs import Before, Disk, fail_at
from tests.updating import (
    FACTORY,
    TAKEN,
    Vehicle,
    World,
    listening,
    on_ev_1,
    wall,
)

DAY = dt.timedelta(days=1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path) as made:
        yield made


class TestByHand:
    def test_pinned_nothing_is_taken(self, world: World) -> None:
        vehicle = on_ev_1(world)
        assert vehicle.command("pin")["pinned"]
        world.publish(2)
        vehicle.look_again()
        assert vehicle.shows("ev 1")
        vehicle.kill()
        vehicle.start()
        vehicle.until(lambda: vehicle.status["why"] == "ev 1 is pinned at this vehicle")
        assert world.fetched("ev 2") == 0

        assert not vehicle.command("unpin")["pinned"]
        vehicle.look_again()
        assert vehicle.shows("ev 2")

    def test_pinned_while_another_one_is_looked_at(self, world: World) -> None:
        vehicle = on_ev_1(world)
        world.publish(2)
        vehicle.command("poll")
        vehicle.until(lambda: vehicle.state in ("fetching", "rehearsing"))
        vehicle.command("pin")
        vehicle.until(lambda: vehicle.state == "waiting")
        assert vehicle.shows("ev 1")
        assert vehicle.car.switches == ["ev 1"]

    def test_back_from_a_trial(self, world: World) -> None:
        vehicle = on_ev_1(world)
        world.publish(2)
        vehicle.command("poll")
        vehicle.until(vehicle.trying("ev 2"))

        status = vehicle.command("rollback")

        assert (status["running"], status["trial"]) == ("ev 1", None)
        assert vehicle.car.plan == "ev-1"
        assert vehicle.reports[-1] == ("rolled back", "ev 2")
        assert vehicle.why("rolled back") == "by hand"
        vehicle.look_again()
        world.publish(3)
        vehicle.look_again()
        assert vehicle.shows("ev 3")  # its trial is not taken back
        assert vehicle.rejected == ["ev 2"]

    def test_back_from_a_trial_that_a_restart_interrupted(self, world: World) -> None:
        vehicle = on_ev_1(world)
        world.publish(2)
        vehicle.command("poll")
        vehicle.until(vehicle.trying("ev 2"))
        vehicle.kill()
        vehicle.start()
        assert vehicle.command("rollback")["running"] == "ev 1"
        vehicle.until(vehicle.runs("ev 1"))
        assert vehicle.car.plan == "ev-1"
        assert vehicle.rejected == ["ev 2"]

    def test_back_after_a_trial_to_the_one_before_and_then_to_the_factory_plan(
        self, world: World
    ) -> None:
        vehicle = on_ev_1(world)
        world.publish(2)
        vehicle.look_again()
        for running in ("ev 1", FACTORY):
            assert vehicle.command("rollback")["running"] == running
            vehicle.look_again()
            assert vehicle.shows(running)
        assert vehicle.rejected == ["ev 2", "ev 1"]
        assert vehicle.reports[-2:] == [("rolled back", "ev 2"), ("rolled back", "ev 1")]
        assert vehicle.car.plan == FACTORY

    def test_from_the_factory_plan_there_is_no_way_back(self, world: World) -> None:
        vehicle = world.vehicle().start()
        vehicle.until(vehicle.runs(FACTORY))
        with pytest.raises(ConfigError, match="nothing to go back to"):
            vehicle.command("rollback")
        assert vehicle.reports == []

    def test_back_while_the_next_one_is_looked_at(self, world: World) -> None:
        """What is about to be tried is not swept away with what is given up."""
        vehicle = on_ev_1(world)
        world.publish(2)
        vehicle.command("poll")
        vehicle.until(lambda: vehicle.state in ("fetching", "rehearsing"))
        assert vehicle.command("rollback")["running"] == FACTORY
        vehicle.until(vehicle.runs("ev 2"))
        vehicle.kill()
        assert vehicle.start().car.plan == "ev-2"
        assert vehicle.rejected == ["ev 1"]

    def test_nonsense(self, world: World) -> None:
        vehicle = world.vehicle().start()
        with pytest.raises(ConfigError, match="show, poll, rollback, pin and unpin, not dance"):
            vehicle.command("dance")

    def test_the_status_is_fit_for_json(self, world: World) -> None:
        vehicle = on_ev_1(world)
        found = json.loads(json.dumps(vehicle.command("show")))
        assert found["running"] == "ev 1"
        assert found["looked_s_ago"] < 60
        assert found["expires"] == (wall() // 10**9) + 7 * 86_400


class TestRequests:
    def test_fire_and_resend_are_done_once_also_across_a_restart(self, world: World) -> None:
        world.request("r-1", expires=DAY, do="fire", campaign="all")
        world.request("r-2", expires=DAY, do="resend", uplink="cloud", first="a", last="b")
        vehicle = world.vehicle().start()
        vehicle.until(lambda: len(vehicle.reports) == 2 and vehicle.runs(FACTORY)())
        assert vehicle.car.fired == [("all", "request r-1")]
        assert vehicle.car.resent == [("cloud", "a", "b")]
        assert [e["why"] for e in vehicle.spool] == [
            "r-1: fired all",
            "r-2: 7 batches are sent again",
        ]
        vehicle.look_again()
        vehicle.kill()
        vehicle.start()
        vehicle.look_again()
        assert (vehicle.car.fired, vehicle.car.resent) == ([], [])
        assert len(vehicle.reports) == 2

    def test_what_cannot_be_done_is_told_and_not_tried_again(self, world: World) -> None:
        world.request("r-1", expires=DAY, do="fire", campaign="none")
        vehicle = world.vehicle().start()
        vehicle.until(lambda: vehicle.reports == [("request", "")])
        assert vehicle.why("request") == "r-1: no campaign with a trigger is called none"
        vehicle.look_again()
        assert len(vehicle.spool) == 1

    def test_what_is_for_others_or_came_too_late_is_not_done(self, world: World) -> None:
        world.request("r-1", expires=DAY, do="fire", vehicles=["truck-*"])
        world.request("r-2", expires=dt.timedelta(seconds=-5), do="fire")
        vehicle = world.vehicle().start()
        vehicle.until(lambda: vehicle.status["looked_s_ago"] is not None)
        vehicle.look_again()
        assert vehicle.car.fired == []
        assert vehicle.reports == []

    def test_a_clock_that_was_set_back_does_not_bring_one_back(self, world: World) -> None:
        vehicle = world.vehicle().start()
        vehicle.until(lambda: vehicle.status["looked_s_ago"] is not None)
        world.time.set_wall(wall(dt.datetime(1970, 1, 2, tzinfo=dt.UTC)))
        world.request("r-1", expires=dt.timedelta(seconds=-5), do="fire")
        vehicle.look_again()
        assert vehicle.car.fired == []


class TestBadWeather:
    def test_a_server_that_is_away_is_told_once_and_the_plan_goes_on(self, world: World) -> None:
        vehicle = on_ev_1(world)
        vehicle.kill()
        world.server.misbehave("*", hang_up)
        with listening() as lines:
            vehicle.start()
            assert vehicle.car.plan == "ev-1"
            vehicle.pass_s(30_000)
            assert "127.0.0.1" in vehicle.status["trouble"]
            assert len(lines) == 1
            world.server.recover()
            world.publish(2)
            vehicle.until(vehicle.runs("ev 2"), within_s=10_000)
        assert vehicle.status["trouble"] == ""
        assert lines[1] == "the repository answers, and its word is good again"

    def test_a_server_that_is_away_is_asked_less_and_less_often(self, world: World) -> None:
        world.server.misbehave("*", status(503))
        vehicle = world.vehicle(poll_s=3600).start()
        vehicle.pass_s(10)
        asked = []
        for _ in range(6):
            asked.append(len(world.server.requests))
            vehicle.pass_s(1800)
        times = [later - earlier for earlier, later in itertools.pairwise(asked)]
        assert times[0] > 3
        assert times[-1] <= 1

    def test_a_download_that_breaks_off_is_tried_again(self, world: World) -> None:
        world.publish(1)
        world.server.misbehave("targets/*", hang_up, times=1)
        vehicle = world.vehicle().start()
        vehicle.until(lambda: vehicle.status["trouble"] != "")
        vehicle.until(vehicle.runs("ev 1"))
        assert vehicle.rejected == []

    def test_a_key_that_was_revoked_stays_so_though_the_look_failed(self, world: World) -> None:
        """A mirror gives the new root, and what the stolen key has signed."""
        vehicle = on_ev_1(world)
        stolen = world.repo.keys["timestamp"]
        world.repo.rotate("timestamp")
        world.repo.timestamp.version += 1
        world.repo.write(world.repo.timestamp, stolen)
        vehicle.look_again()
        vehicle.kill()
        world.repo.metadata("2.root.json").unlink()  # now it hides the new root

        vehicle.start()
        vehicle.pass_s(10)

        assert "keys that were revoked" in vehicle.status["trouble"]
        assert vehicle.store.record.floors["root"].version == 2

    def test_a_clock_that_was_never_set_is_told(self, world: World) -> None:
        vehicle = on_ev_1(world)
        assert not vehicle.status["clock_untrusted"]
        world.time.good = Quality.UNSYNCHRONISED
        assert vehicle.status["clock_untrusted"]
        world.time.good = Quality.NTP
        world.time.set_wall(wall(dt.datetime(1970, 1, 2, tzinfo=dt.UTC)))
        assert vehicle.status["clock_untrusted"]
        vehicle.look_again()
        assert vehicle.status["trouble"] == ""

    def test_a_defect_in_one_round_costs_that_round(self, world: World) -> None:
        vehicle = world.vehicle().start()
        vehicle.until(vehicle.runs(FACTORY))
        world.publish(1)
        vehicle.car.defect = ZeroDivisionError("a defect")
        vehicle.command("poll")
        with listening() as lines:
            vehicle.pass_s(30)
            assert lines == ["looking for updates failed"]
        vehicle.car.defect = None
        vehicle.until(vehicle.runs("ev 1"))
        assert vehicle.reports == TAKEN
        assert world.fetched("ev 1") == 1

    def test_nudges_are_followed_soon_and_not_too_often(self, world: World) -> None:
        vehicle = world.vehicle(poll_s=86_400).start()
        vehicle.pass_s(3600)
        assert vehicle.status["looked_s_ago"] > 3590
        world.publish(1)
        vehicle.updates.nudge()
        vehicle.pass_s(11)  # a part of ten seconds
        vehicle.until(vehicle.runs("ev 1"))
        began = world.time.passed_s
        before = world.server.asked.count("metadata/timestamp.json")
        while world.time.passed_s - began < 600:
            vehicle.updates.nudge()
            vehicle.pass_s(1)
        assert 9 <= world.server.asked.count("metadata/timestamp.json") - before <= 11

    def test_a_nudge_in_a_trial_is_not_forgotten(self, world: World) -> None:
        world.publish(1)
        vehicle = world.vehicle(poll_s=86_400).start()
        vehicle.until(vehicle.trying("ev 1"))
        world.publish(2)
        vehicle.updates.nudge()
        vehicle.until(vehicle.runs("ev 2"), within_s=300)

    def test_a_poll_in_a_trial_is_not_forgotten(self, world: World) -> None:
        world.publish(1)
        vehicle = world.vehicle(poll_s=86_400).start()
        vehicle.until(vehicle.trying("ev 1"))
        world.publish(2)
        vehicle.command("poll")
        vehicle.until(vehicle.runs("ev 2"), within_s=100)


class TestSilentBus:
    def test_a_trial_goes_on_until_frames_come(self, world: World) -> None:
        world.publish(1)
        vehicle = world.vehicle().start(silent=True)
        vehicle.until(vehicle.trying("ev 1"))
        vehicle.pass_s(600)
        assert vehicle.shows("ev 1", trial=True)
        assert vehicle.status["why"] == "ev 1 is on trial, and waits for frames"
        vehicle.car.silent = False
        vehicle.until(vehicle.runs("ev 1"), within_s=60)
        assert "frames decoded" in vehicle.why("committed")

    def test_at_most_an_hour(self, world: World) -> None:
        world.publish(1)
        vehicle = world.vehicle().start(silent=True)
        vehicle.until(vehicle.trying("ev 1"))
        vehicle.until(vehicle.runs("ev 1"), within_s=3700)
        assert world.time.passed_s > 3600
        assert "no frames came: decoding could not be judged" in vehicle.why("committed")

    def test_it_can_be_taken_back_meanwhile(self, world: World) -> None:
        world.publish(1)
        vehicle = world.vehicle().start(silent=True)
        vehicle.until(vehicle.trying("ev 1"))
        vehicle.pass_s(600)
        assert vehicle.command("rollback")["running"] == FACTORY


class TestReports:
    def test_they_are_given_again_after_a_crash_until_they_are_durable(self, world: World) -> None:
        world.publish(1)
        vehicle = world.vehicle().start(durable=False)
        vehicle.until(lambda: vehicle.shows("ev 1") and vehicle.state == "waiting")
        assert vehicle.reports == TAKEN
        assert len(vehicle.spool) == 3  # once in one process
        vehicle.kill()
        first = {event["id"] for event in vehicle.spool}
        vehicle.spool.clear()  # what was not durable is lost

        vehicle.start()
        vehicle.until(lambda: not vehicle.store.record.reports)
        assert vehicle.reports == TAKEN
        assert {event["id"] for event in vehicle.spool} == first
        vehicle.kill()
        vehicle.start()
        vehicle.pass_s(60)
        assert len(vehicle.spool) == 3

    def test_a_spool_that_takes_nothing_holds_up_nothing(self, world: World) -> None:
        world.publish(1)
        vehicle = world.vehicle().start(durable=False, harmful={"ev 1"})
        vehicle.until(lambda: vehicle.rejected == ["ev 1"], within_s=60)
        assert vehicle.car.plan == FACTORY


class TestSickDisk:
    """The folder of updates is on a disk that takes nothing any more."""

    def vehicle(self, world: World, **settings: Any) -> tuple[Vehicle, Disk]:
        folder = world.folder / "car"
        (folder / "state").mkdir(parents=True)
        disk = Disk(folder / "state")
        return world.vehicle(folder, disk, **settings), disk

    def test_without_the_record_nothing_is_accepted(self, world: World) -> None:
        vehicle, disk = self.vehicle(world)
        vehicle.start()
        vehicle.until(vehicle.runs(FACTORY))
        world.publish(1)
        disk.before = _full("record")
        vehicle.look_again()
        assert "cannot be written" in vehicle.status["trouble"]
        vehicle.pass_s(1000)
        assert vehicle.car.switches == []
        assert vehicle.reports == []

        disk.before = _well
        vehicle.until(vehicle.runs("ev 1"))
        assert vehicle.status["trouble"] == ""

    def test_a_disk_that_is_full_is_no_fault_of_the_bundle(self, world: World) -> None:
        vehicle, disk = self.vehicle(world)
        world.publish(1)
        disk.before = _full("bundles")
        vehicle.start()
        vehicle.until(lambda: "an archive cannot be written" in vehicle.status["trouble"])
        vehicle.pass_s(1000)
        assert vehicle.rejected == []
        assert vehicle.car.switches == []
        assert world.fetched("ev 1") == 1  # it is fetched once
        disk.before = _well
        vehicle.until(vehicle.runs("ev 1"))
        assert vehicle.reports == TAKEN
        assert world.fetched("ev 1") == 1

    def test_where_the_working_copy_has_no_room_the_plan_is_read_elsewhere(
        self, world: World
    ) -> None:
        vehicle, _ = self.vehicle(world)
        world.publish(1)
        (vehicle.folder / "state/ota").mkdir()
        (vehicle.folder / "state/ota/plans").write_text("no folder")
        vehicle.start()
        vehicle.until(vehicle.runs("ev 1"))
        vehicle.kill()
        assert vehicle.start().car.plan == "ev-1"

    def test_a_harmful_plan_is_taken_back_all_the_same(self, world: World) -> None:
        vehicle, disk = self.vehicle(world)
        world.publish(1)
        vehicle.start()
        vehicle.until(vehicle.runs("ev 1"))
        world.publish(2)
        vehicle.car.harmful = {"ev 2"}
        vehicle.command("poll")
        vehicle.until(vehicle.trying("ev 2"))
        disk.before = _full("record")

        vehicle.until(lambda: vehicle.car.plan == "ev-1")

        assert vehicle.shows("ev 1")
        assert vehicle.rejected == ["ev 2"]
        assert Store(vehicle.store.folder).load().trial is not None  # so the disk says still
        with pytest.raises(UpdateError):
            vehicle.command("pin")
        vehicle.pass_s(300)
        assert "cannot be written" in vehicle.status["trouble"]
        assert vehicle.car.switches == ["ev 1", "ev 2", "ev 1"]

        disk.before = _well
        assert vehicle.command("pin")["pinned"]
        vehicle.pass_s(300)
        record = Store(vehicle.store.folder).load()
        assert (record.trial, record.pinned) == (None, True)
        assert [each.bundle.title for each in record.rejected] == ["ev 2"]
        assert vehicle.reports[-1] == ("rolled back", "ev 2")

    def test_what_the_disk_did_not_take_is_saved_at_the_end(self, world: World) -> None:
        vehicle, disk = self.vehicle(world)
        world.publish(1)
        vehicle.start(harmful={"ev 1"})
        vehicle.until(vehicle.trying("ev 1"))
        disk.before = _full("record")
        vehicle.until(lambda: vehicle.car.plan == FACTORY)
        disk.before = _well
        vehicle.end()
        assert vehicle.start().car.plan == FACTORY
        assert vehicle.rejected == ["ev 1"]

    def test_without_a_try_that_is_counted_there_is_none(self, world: World) -> None:
        vehicle, disk = self.vehicle(world, trial_s=100)
        world.publish(1)
        vehicle.start()
        vehicle.until(vehicle.trying("ev 1"))
        vehicle.kill()
        disk.before = _full("record")
        vehicle.start()
        assert vehicle.car.plan == FACTORY
        disk.before = _well
        vehicle.until(vehicle.runs("ev 1"))

    @pytest.mark.parametrize("at", range(0, 113, 7))
    def test_an_error_at_any_moment_of_a_trial_leaves_the_plan_that_the_record_says(
        self, world: World, at: int
    ) -> None:
        vehicle, disk = self.vehicle(world)
        vehicle.start()
        vehicle.until(vehicle.runs(FACTORY))
        world.publish(1)
        disk.before = fail_at(disk.operations + at, errno.EIO, count=3)
        vehicle.command("poll")
        vehicle.until(vehicle.runs("ev 1"), within_s=10_000)
        assert vehicle.car.switches == ["ev 1"]
        assert vehicle.rejected == []
        assert vehicle.reports[0] == ("accepted", "ev 1")
        assert vehicle.reports[-1] == ("committed", "ev 1")


def _full(part: str) -> Before:
    """No file with this in its name can be made."""

    def before(_number: int, what: str) -> None:
        if what.startswith("create") and part in what:
            raise OSError(errno.ENOSPC, "No space left on device")

    return before


def _well(_number: int, _what: str) -> None:
    pass
