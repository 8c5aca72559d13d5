"""Scenarios on a real bench: those of the program end well, a planted defect is found and named."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agent.bench.cloud.answers import Handler
from agent.bench.cloud.faults import CloudFaults
from agent.bench.ground import Ground, Options
from agent.bench.scenario import find_scenario, load_scenario
from agent.bench.scenario.loading import scenario_names
from agent.bench.scenario.recorded import record
from agent.bench.scenario.runner import Where, run_scenario
from agent.bench.scenario.verdict import Verdict
from agent.bench.world import World
from agent.cli import main
from agent.settings import packaged


def run(
    path: Path, folder: Path, open_world: Any = None, given: dict[str, Any] | None = None
) -> Verdict:
    scenario = load_scenario(path, given)
    return asyncio.run(run_scenario(scenario, Where(folder / "bench"), open_world=open_world))


OF_MINUTES = ("gbt32960",)
"""An alarm has half a minute before it and one after it."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.system] if name in OF_MINUTES else [])
        for name in scenario_names()
        if name != "recording"
    ],
)
def test_a_scenario_of_the_program_ends_well(name: str, tmp_path: Path) -> None:
    verdict = run(find_scenario(name), tmp_path)

    assert verdict.good, "\n".join(verdict.lines())
    assert verdict.ledger["uplink"]["cloud"]["waiting"] == 0


def test_a_recording_of_ones_own_arrives_signal_by_signal(tmp_path: Path) -> None:
    path = find_scenario("recording")
    log = tmp_path / "drive.log"
    truck = load_scenario(find_scenario("truck")).head.vehicle
    truck.seconds = 20
    record(truck, log)
    mine = {"log": str(log), "dbc": [str(packaged("dbc/truck.dbc"))], "takes_s": 8}

    verdict = run(path, tmp_path, given={"vehicle": mine})

    assert verdict.good, "\n".join(verdict.lines())
    assert "each signal is as in the recording" in "\n".join(verdict.lines())


SHORT = """\
version = 1
name = "short"
plan = "plan-ev.toml"
settle_s = 20

[vehicle]
seconds = 6

[agent]
seal_after_s = 1

[[expect]]
that = "ledger-closes"

[[expect]]
that = "complete"

[[expect]]
that = "event"
name = "no-such-thing"
note = "nothing of this name is in the plan"
"""


class _Forgetful(CloudFaults):
    """A cloud that says of one batch that it has it, whenever it is asked, and has not."""

    forgotten = ""

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        name = request.match_info.get("batch_id", "")
        if request.method != "PUT" or not re.search(r"-telemetry-[2-9]$", name):
            return await handler(request)
        if self.forgotten not in ("", name):
            return await handler(request)
        self.forgotten = name
        await request.read()
        digest = request.headers["Content-Digest"]
        return web.json_response({}, status=201, headers={"Content-Digest": digest})


class _ForgetfulWorld(World):
    def __init__(self, ground: Ground, tell: Callable[[str], None]) -> None:
        super().__init__(ground, tell)
        self.cloud_faults = _Forgetful()


def test_a_cloud_that_loses_what_it_acknowledged_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "short.toml"
    path.write_text(SHORT, "utf-8")
    forgotten = []

    @contextlib.asynccontextmanager
    async def forgetful(options: Options, tell: Callable[[str], None]) -> AsyncIterator[World]:
        async with _ForgetfulWorld.open(options, tell) as world:
            yield world
            assert isinstance(world.cloud_faults, _Forgetful)
            forgotten.append(world.cloud_faults.forgotten.rpartition("-")[2])

    verdict = run(path, tmp_path, forgetful)

    ledger, complete, event = verdict.judged
    assert verdict.status == 1
    assert ledger.good  # the agent did nothing wrong
    assert not complete.good
    assert re.search(
        rf"run 1: batch {forgotten[0]} of lane telemetry.* [\d,]+ samples", complete.finding.seen
    ), complete.finding.seen
    assert not event.good
    text = "\n".join(verdict.lines())
    assert f"{path}:15\n" in text
    assert f"(nothing of this name is in the plan)\n         {path}:18\n" in text


def test_the_command_ends_as_the_verdict_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "short.toml"
    step = '[[step]]\nwhen = "bench.frames > 1_000_000"\nwithin = 1\ndo = "link-down"\n'
    path.write_text(SHORT.replace("seconds = 6", "seconds = 2") + step, "utf-8")

    status = main(["bench", "--scenario", str(path), "--json", "--listen", "127.0.0.1:0"])

    told = json.loads(capsys.readouterr().out)
    assert status == 1
    assert [each["good"] for each in told["expectations"]] == [True, True, False]
    assert "was not so within 1 s" in told["steps"][0]["failed"]
    assert told["ledger"]["uplink"]["cloud"]["waiting"] == 0


def test_a_scenario_that_cannot_be_is_misuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "short.toml"
    path.write_text(SHORT.replace("complete", "compleat"), "utf-8")

    assert main(["bench", "--scenario", str(path)]) == 2
    assert f'{path}:16: there is no expectation "compleat"' in capsys.readouterr().err
