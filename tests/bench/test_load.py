"""A fleet against one cloud: what it says when all is well, and when something is not."""

import asyncio
import json
import os
import re
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from agent.bench.host import BenchError
from agent.bench.load import Load, LoadOptions
from agent.bench.loadverdict import LoadVerdict
from agent.cli import main
from agent.errors import ConfigError
from tests import processes

VEHICLES = 20


def options(folder: Path, **given: Any) -> LoadOptions:
    """Vehicles in a hurry, as a test is."""
    return LoadOptions(
        **{"vehicles": VEHICLES, "seconds": 3.0, "interval_s": 1.0, "folder": folder, **given}
    )


def check_whole(verdict: LoadVerdict) -> None:
    """Everything that was kept has arrived, and was counted as one."""
    assert verdict.wrong == ()
    assert verdict.good
    assert verdict.kept > 0
    assert verdict.kept == verdict.acknowledged == verdict.samples
    assert verdict.complete == verdict.vehicles == VEHICLES


def clear(folder: Path, vehicle: str) -> None:
    """Remove all batches that wait on board."""
    for path in folder.glob(f"*/fleet/{vehicle}/**/*.batch"):
        path.unlink()


def test_all_that_a_fleet_keeps_arrives_though_the_link_was_down(tmp_path: Path) -> None:
    async def run() -> LoadVerdict:
        async with Load.open(options(tmp_path, seconds=6.0, link=True)) as load:
            assert load.link is not None
            driving = asyncio.create_task(load.drive())
            await processes.until(lambda: load.fleet.counts["acknowledged"], "samples arrive")
            load.link.cut()
            figures = [load.figures()]

            async def grown(what: str, by: int) -> None:
                began = getattr(figures[-1], what)
                while getattr(figures[-1], what) < began + by:
                    await asyncio.sleep(0.02)
                    figures.append(load.figures())

            async with asyncio.timeout(processes.LIMIT_S):
                await grown("errors", 5)
                await grown("waiting", 1)
            load.link.restore()
            await driving
            return await load.finish()

    verdict = asyncio.run(run())
    check_whole(verdict)
    assert verdict.errors >= 5
    assert sum(n for what, n in verdict.answers.items() if not what.isdigit()) >= 5


def test_a_fleet_that_is_halted_ends_well_too(tmp_path: Path) -> None:
    async def run() -> LoadVerdict:
        async with Load.open(options(tmp_path, seconds=1e6)) as load:
            driving = asyncio.create_task(load.drive())
            await processes.until(lambda: load.fleet.counts["acknowledged"], "samples arrive")
            load.halt()
            await driving
            return await load.finish()

    check_whole(asyncio.run(run()))


def test_batches_that_are_lost_on_board_are_named_by_vehicle(tmp_path: Path) -> None:
    """Somebody clears a spool while the link is down: what was kept does not arrive."""

    async def run() -> tuple[LoadVerdict, str]:
        async with Load.open(options(tmp_path, seconds=1e6, link=True, drain_s=1.0)) as load:
            assert load.link is not None
            driving = asyncio.create_task(load.drive())
            vehicle = load.fleet.vehicles[3]
            others = [v for v in load.fleet.vehicles if v is not vehicle]
            await processes.until(lambda: vehicle.counts["acknowledged"], "samples arrive")
            load.link.cut()
            await processes.until(lambda: vehicle.counts["waiting"], "samples wait")
            load.halt()
            await driving
            await load.fleet.finish()
            clear(tmp_path, vehicle.name)
            load.link.restore()
            # However slow the machine: the end waits for the others before it is in a hurry.
            async with asyncio.timeout(processes.LIMIT_S):
                await asyncio.gather(*(v.sender.drained() for v in others))
            return await load.finish(), vehicle.name

    verdict, name = asyncio.run(run())
    assert not verdict.good
    assert verdict.wrong[0] == "not all was sent within 1 s of the end"
    assert {sentence.partition(": ")[0] for sentence in verdict.wrong[1:]} == {name}
    assert any("samples were kept, and " in sentence for sentence in verdict.wrong)
    assert verdict.samples < verdict.kept
    assert any(line.startswith(f"WRONG: {name}: ") for line in verdict.lines())


def test_a_cloud_that_dies_is_not_taken_for_a_slow_one(tmp_path: Path) -> None:
    async def run() -> None:
        async with Load.open(options(tmp_path, seconds=1e6, interval_s=100.0)) as load:
            driving = asyncio.create_task(load.drive())
            await processes.until(lambda: load.fleet.counts["acknowledged"], "samples arrive")
            await load.fleet.drained()
            assert load.cloud_pid is not None
            os.kill(load.cloud_pid, signal.SIGKILL)
            await driving

    with pytest.raises(BenchError, match=r"the cloud has ended by itself; see .*cloud\.log"):
        asyncio.run(run())


def test_an_address_that_is_taken_is_said(tmp_path: Path) -> None:
    async def run(port: int) -> None:
        async with Load.open(options(tmp_path, port=port)):
            pass

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BenchError, match=rf"cannot listen on 127\.0\.0\.1:{port}"):
            asyncio.run(run(port))


@pytest.mark.parametrize("words", [(), ("--fault", "link-down")])
def test_the_command_ends_with_a_verdict(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--vehicles", "10", "--seconds", "3", "--listen", "127.0.0.1:0", "--json")
    status = main(["bench", *given, *words])
    out, err = capsys.readouterr()
    verdict = json.loads(out)
    assert (status, verdict["wrong"], verdict["good"]) == (0, [], True)
    assert verdict["kept"] == verdict["acknowledged"] == verdict["samples"] > 0
    assert verdict["complete"] == verdict["vehicles"] == 10
    assert ("the link is down for 1 s" in err) is bool(words)
    assert "uplink cloud" not in err
    assert re.search(r"10 vehicles  [0-9.]+ batches/s  [0-9,]+ samples/s  [0-9.]+ MB/s  ", err)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--vehicle", "truck"), "--vehicle is of one vehicle"),
        (("--bus", "slcan"), "--bus is of one vehicle"),
        (("--scenario", "x.toml"), "--scenario is of one vehicle"),
        (("--fault", "disk-full"), "--vehicles knows one fault: link-down"),
    ],
)
def test_what_goes_with_one_vehicle_only_is_refused(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "--vehicles", "10", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"vehicles": 0}, "from 1 to 5,000"),
        ({"vehicles": 5001}, "from 1 to 5,000"),
        ({"seconds": 0.0}, "--seconds must be above 0"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        options(tmp_path, **given).check()
