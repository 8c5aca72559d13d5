"""Agents against the platform: light vehicles, the verdicts, and faults that are pressed."""

import asyncio
import contextlib
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.bench.faults import find
from agent.bench.gbt32960.behaviour import HEARTBEAT, LOGIN, REALTIME, Answer
from agent.bench.gbt32960.faults import actions
from agent.bench.gbt32960.fleet import ReportingFleet, ReportingVehicle, vin_of
from agent.bench.gbt32960.load import ReportLoad, ReportLoadOptions, ReportVerdict, judge
from agent.bench.gbt32960.platform import Platform
from agent.bench.gbt32960.verdict import judge as judge_platform
from agent.cli import main
from agent.errors import ConfigError
from agent.gbt32960.codec import GBT2016, GBT2025
from agent.gbt32960.envelope import request
from tests import processes
from tests.bench.gbt32960.platformbench import (
    VIN,
    Terminal,
    cell_items,
    heartbeat,
    login,
    report,
    run,
)
from tests.bench.gbt32960.test_gbt_cloud import asked, cloud
from tests.bench.gbt32960.test_gbt_record import of, seconds

VEHICLES = 6


def test_all_reports_of_a_fleet_arrive_though_the_link_was_down(tmp_path: Path) -> None:
    options = ReportLoadOptions(
        vehicles=VEHICLES, seconds=3.0, interval_s=1.0, folder=tmp_path, link=True, heartbeat_s=1
    )

    async def drive() -> ReportVerdict:
        async with ReportLoad.open(options) as load:
            assert load.link is not None
            driving = asyncio.create_task(load.drive())
            await processes.until(lambda: load.fleet.counts["acknowledged"], "confirmed")
            load.link.cut()
            fleet = load.fleet.vehicles
            await processes.until(
                lambda: all(v.sender.state["why"] != "online" for v in fleet), "all are cut off"
            )
            load.link.restore()
            await driving
            return await load.finish()

    verdict = asyncio.run(drive())
    assert verdict.wrong == ()
    assert verdict.made == verdict.kept == verdict.acknowledged == verdict.reports >= VEHICLES
    assert (verdict.gaps, verdict.disorder, verdict.malformed) == (0, 0, 0)
    assert "Every ledger closes" in verdict.lines()[-1]


def test_a_platform_that_is_killed_and_comes_back_has_everything(tmp_path: Path) -> None:
    async def test() -> None:
        data, port = tmp_path / "data", 0
        fleet: ReportingFleet | None = None
        async with contextlib.AsyncExitStack() as stack:
            for number in (signal.SIGKILL, signal.SIGTERM):
                async with cloud(data, number, port) as (url, port):
                    if fleet is None:
                        at = f"gbt32960://127.0.0.1:{port}"
                        folder = tmp_path / "fleet"
                        fleet = ReportingFleet(folder, 4, at, report_s=1, heartbeat_s=1)
                        stack.callback(fleet.close)
                        await stack.enter_async_context(fleet.sending())
                    await fleet.drive(2)
                    if number == signal.SIGKILL:
                        continue
                    await fleet.finish()
                    await fleet.drained()
                    known = (await asked(url, "/v1/gbt32960?period_s=1"))["vehicles"]

        assert fleet is not None
        assert fleet.differences() == []
        assert [each["reports"] for each in known] == [v.made for v in fleet.vehicles]
        assert [each["verdict"] for each in known] == [""] * 4

    asyncio.run(test())


@pytest.mark.parametrize("edition", [2016, 2025])
def test_a_vehicle_reports_what_the_codec_can_read(tmp_path: Path, edition: int) -> None:
    async def test(platform: Platform) -> None:
        url = f"gbt32960://127.0.0.1:{platform.port}"
        vehicle = ReportingVehicle(
            tmp_path,
            vin_of(1),
            url,
            edition=2016 if edition == 2016 else 2025,
            report_s=1,
            answer_timeout_s=5,
        )
        sending = asyncio.create_task(vehicle.sender.run())
        await asyncio.to_thread(vehicle.collect)
        await asyncio.to_thread(vehicle.collect, 3.0)
        vehicle.finish()
        known = platform.record.vehicles
        await platform.until(
            lambda: vin_of(1) in known and known[vin_of(1)].reports == vehicle.made
        )
        assert known[vin_of(1)].gaps(1) == []
        assert known[vin_of(1)].counts["malformed"] == 0
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        vehicle.close()

    run(test)


class _Vehicle:
    """A vehicle with a ledger that says what a test wants."""

    name = VIN

    def __init__(self, made: int, **counts: int) -> None:
        self.made = made
        names = ("memory", "waiting", "lost_disk", "lost_end", "evicted", "quarantined")
        self.counts = dict.fromkeys(names, 0) | {"kept": made} | counts
        self.ledger = self

    def snapshot(self) -> Mapping[str, Any]:
        return {"bus": {}, "campaign": {}, "uplink": {}, "report": {}}


FOUND = {"reports": 5, "verdict": "", "online": False}


@pytest.mark.parametrize(
    ("counts", "found", "said"),
    [
        ({}, FOUND, ""),
        ({}, None, "the platform does not know it"),
        ({}, FOUND | {"reports": 4}, "5 reports were kept, and 4 different ones"),
        ({}, FOUND | {"verdict": "a gap"}, "a gap"),
        ({}, FOUND | {"online": True}, "it has not logged out"),
        ({"waiting": 2}, FOUND, "2 reports were not confirmed"),
        ({"quarantined": 1}, FOUND, "1 reports are in quarantine"),
        ({"kept": 4}, FOUND | {"reports": 4}, "5 reports were made, and 4 kept"),
    ],
)
def test_what_is_wrong_with_a_light_vehicle_is_said(
    counts: dict[str, int], found: Mapping[str, Any] | None, said: str
) -> None:
    wrong = judge(_Vehicle(5, **counts), found)  # type: ignore[arg-type]

    assert bool(wrong) == bool(said)
    assert not said or said in wrong[0]


def ledgers(**counts: int) -> dict[tuple[str, int], Any]:
    row = dict.fromkeys(("lost_disk", "lost_end", "evicted", "waiting"), 0) | counts
    return {("install", 1): {"uplink": {"cloud": {"kept": 99}, "platform": row}}}


@pytest.mark.parametrize(
    ("frames", "counts", "clean", "whole", "said"),
    [
        (seconds((0, 40, 10)), {"kept": 5}, True, True, ""),
        (seconds((0, 30, 10)), {"kept": 5}, True, True, "made 5 reports, 4 are at the platform"),
        (seconds((0, 40, 10)), {"kept": 4}, True, True, "made 4 reports, 5 are at the platform"),
        (seconds((0, 40, 10)), {"spooled": 4}, False, True, ""),
        (seconds((0, 40, 10)), {"kept": 5, "waiting": 1}, True, True, "1 reports were not"),
        (seconds((0, 0, 10), (50, 80, 10)), {"kept": 5}, True, True, "4 reports missing"),
        (seconds((0, 0, 10), (50, 80, 10)), {"kept": 5}, True, False, ""),
        ([report(GBT2016, 0), request(GBT2016, 2, VIN)], {"kept": 1}, True, False, "malformed"),
    ],
)
def test_what_the_platform_has_is_held_against_the_ledger(
    frames: list[Any], counts: dict[str, int], clean: bool, whole: bool, said: str
) -> None:
    verdict = judge_platform(
        of(frames),
        ledgers(**counts),
        {("install", 1)} if clean else set(),
        uplink="platform",
        period_s=10,
        whole=whole,
    )

    assert verdict.good == (not said)
    assert not said or said in " ".join(verdict.wrong)
    assert json.dumps(verdict.as_json())


def test_a_vehicle_that_never_came_is_noticed() -> None:
    verdict = judge_platform(
        None, ledgers(kept=0), {("install", 1)}, uplink="platform", period_s=10, whole=True
    )

    assert verdict.wrong == ("the platform has no report",)


# -- faults ----------------------------------------------------------------------------------


def pressed(name: str, *, on: bool = True, **parameters: Any) -> Any:
    """A test's way to press a fault of the platform."""

    async def press(platform: Platform) -> None:
        wanted = find(name).checked(parameters if on else {})
        await actions(platform)[name](on, wanted)

    return press


def test_the_platform_answers_as_it_was_told() -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as vehicle:
            await vehicle.asks(login(GBT2025))
            await pressed("platform-answers", style="echo")(platform)
            assert (await vehicle.asks(report(GBT2025, 0))).command == REALTIME
            await pressed("platform-answers", style="time", to="heartbeat")(platform)
            assert len((await vehicle.asks(heartbeat(GBT2025))).body) == 6
            await pressed("platform-answers", style="duplicate", to="everything")(platform)
            assert platform.behaviour.to(LOGIN) is Answer.DUPLICATE
            await pressed("platform-answers", on=False)(platform)
            assert (await vehicle.asks(heartbeat(GBT2025))).body == b""

    run(test)


def test_the_platform_sends_pieces_and_drops_links_until_that_is_taken_back() -> None:
    async def test(platform: Platform) -> None:
        await pressed("platform-pieces", bytes=5, late_ms=1, garbage=20)(platform)
        async with Terminal.connect(platform.port) as vehicle:
            assert (await vehicle.asks(login(GBT2016))).command == LOGIN
            assert vehicle.stream.skipped_bytes >= 20
            await pressed("platform-drops", frames=2)(platform)
            assert await vehicle.ended()
        await pressed("platform-pieces", on=False)(platform)
        await pressed("platform-drops", on=False)(platform)
        async with Terminal.connect(platform.port) as vehicle:
            for frame in (login(GBT2016), *[heartbeat(GBT2016)] * 3):
                await vehicle.asks(frame)

    run(test)


def test_a_hostile_platform_sends_to_who_is_there_and_to_who_comes() -> None:
    async def test(platform: Platform) -> None:
        async with Terminal.connect(platform.port) as first:
            await first.asks(login(GBT2016))
            await pressed("platform-mischief", kind="control")(platform)
            assert (await first.read()).command == 0x82
        async with Terminal.connect(platform.port) as second:
            await second.asks(login(GBT2016))
            assert (await second.read()).command == 0x82
        await pressed("platform-mischief", on=False)(platform)
        async with Terminal.connect(platform.port) as third:
            await third.asks(login(GBT2016))
            assert (await third.asks(heartbeat(GBT2016))).command == HEARTBEAT

    run(test)


# -- the command -----------------------------------------------------------------------------


def test_one_command_runs_vehicle_agent_and_platform(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(
        [
            *("bench", "--gbt32960", "2025", "--seconds", "5", "--json", "--bus", "slcan"),
            *("--folder", str(tmp_path), "--listen", "127.0.0.1:0"),
            *("--fault", "platform-answers:style=echo"),
        ]
    )

    told = json.loads(capsys.readouterr().out)
    assert (status, told["wrong"]) == (0, [])
    platform = told["platform"]
    assert platform["edition"] == "2025"
    assert platform["made"] == platform["reports"] >= 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gbt32960", "--vehicle", "truck"], "name a --plan"),
        (["--fault", "platform-drops", "--seconds", "1", "--bus", "slcan"], "needs a platform"),
        (["--gbt32960", "--vehicles", "0"], "--vehicles 0"),
    ],
)
def test_what_cannot_be_is_said(
    tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--listen", "127.0.0.1:0", "--folder", str(tmp_path)]

    assert main(["bench", *where, *words]) != 0
    assert said in capsys.readouterr().err


def test_reports_more_often_than_a_second_cannot_be() -> None:
    with pytest.raises(ConfigError, match="1 to 30 s"):
        ReportLoadOptions(vehicles=1, interval_s=0.5).check()


def test_packs_of_both_ways_are_the_same_sample() -> None:
    parts = cell_items(450)
    live = [report(GBT2016, 0, part) for part in parts]
    stored = [report(GBT2016, 0, part, stored=True) for part in parts]

    vehicle = of([*live, *stored])

    assert (vehicle.reports, vehicle.counts["copies"], vehicle.incomplete) == (3, 3, 0)
