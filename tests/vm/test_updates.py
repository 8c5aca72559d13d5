"""Plans over the air on a real kernel: one that stays, and ones that are taken back."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests import processes
from tests.vm.car import DBC
from tests.vm.guest import REPOSITORY
from tests.vm.links import Links
from tests.vm.updates import (
    BOTH,
    FLEET,
    MORE,
    NOTHING_MAY_GO,
    NUMBERS,
    OTHERS,
    STORM,
    Place,
    load,
    station,
)

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]

OTHER_CAR = DBC.replace("291", "1911")
"""A database in which nothing of this bus is."""
UNIT = "edge-agent-of-a-test"


def test_an_update_under_load_loses_no_sample(vcan: Links, tmp_path: Path) -> None:
    """With filters of the kernel: what both plans want passes at every moment."""
    asyncio.run(_under_load(vcan(), tmp_path))


async def _under_load(interface: str, folder: Path) -> None:
    async with station(folder, interface, "kernel_filter = true") as place:
        desk, car = place.desk, place.car
        async with car.agent():
            await processes.until(lambda: car.bus("body"), "the agent")
            async with load(interface, NUMBERS, OTHERS) as traffic:
                await traffic.more()
                desk.publish(1, MORE, BOTH, to="")
                await traffic.more()
                assert place.ota()["running"] == "factory"
                desk.roll_out("fleet-1", "--to", "all")
                await place.settled("fleet 1")
                last = await traffic.more()
            heard = await place.told(
                ("accepted", "fleet 1"), ("applied", "fleet 1"), ("committed", "fleet 1")
            )
            assert (await car.read("body", traffic.sent))["dropped"] == 0
    assert "rehearsed with" in heard["accepted", "fleet 1"]
    kept = place.numbers()
    assert kept.keys() == {"", "fleet 1"}
    assert kept[""] + kept["fleet 1"] == list(range(traffic.sent))
    others = place.numbers("Others")["fleet 1"]
    # Until the switch filters hid them; from then on there are all of them.
    assert others == list(range(others[0], traffic.sent))
    assert others[0] < last.start


def test_bundles_that_do_harm_are_taken_back(vcan: Links, tmp_path: Path) -> None:
    """One after the other, each with nobody's help; collecting goes on."""
    asyncio.run(_harmful(vcan(), tmp_path))


async def _harmful(interface: str, folder: Path) -> None:
    harmful = {
        2: (FLEET, OTHER_CAR, "refused", "is in the database"),
        3: (FLEET + STORM, DBC, "refused", "most are of campaign storm"),
        4: (FLEET + NOTHING_MAY_GO, DBC, "rolled back", "only events and reports are kept"),
    }
    collected = []
    async with station(folder, interface) as place:
        async with place.car.agent():
            await processes.until(lambda: place.car.bus("body"), "the agent")
            async with load(interface) as traffic:
                place.desk.publish(1, FLEET)
                await place.settled("fleet 1")
                for version, (plan, dbc, what, why) in harmful.items():
                    bundle = f"fleet {version}"
                    place.desk.publish(version, plan, dbc)
                    assert why in await place.rejected(bundle)
                    assert why in (await place.told((what, bundle)))[what, bundle]
                    assert place.ota()["running"] == "fleet 1"
                    collected.append(await traffic.more())
        assert [bundle for what, bundle, _ in place.cloud.updates() if what == "applied"] == [
            "fleet 1",
            "fleet 4",
        ]
        place.holds(collected)


def test_what_no_rehearsal_can_know_comes_out_in_the_trial(vcan: Links, tmp_path: Path) -> None:
    """The bus is silent when the bundle comes; its trial lasts until there are frames."""
    asyncio.run(_silent(vcan(), tmp_path))


async def _silent(interface: str, folder: Path) -> None:
    async with station(folder, interface) as place:
        place.desk.publish(1, FLEET, OTHER_CAR)
        async with place.car.agent():
            await place.on_trial("fleet 1")
            async with load(interface) as traffic:
                assert "frames is decoded" in await place.rejected("fleet 1")
                heard = await place.told(("accepted", "fleet 1"), ("rolled back", "fleet 1"))
                collected = await traffic.more()
        assert "no frames to rehearse with" in heard["accepted", "fleet 1"]
        assert place.numbers().keys() == {""}
        place.holds([collected])


@pytest.mark.vm_guest
def test_a_bundle_that_ends_the_process_is_taken_back(vcan: Links, tmp_path: Path) -> None:
    """Below systemd, which starts the agent again: with a link, and without one."""
    asyncio.run(_deadly(vcan(), tmp_path))


async def _deadly(interface: str, folder: Path) -> None:
    collected = []
    async with station(folder, interface, trial_s=8) as place:
        place.desk.publish(1, FLEET)
        async with unit(place), load(interface) as traffic:
            await place.settled("fleet 1")
            for version, online in ((2, True), (3, False)):
                bundle = f"fleet {version}"
                place.desk.publish(version, FLEET)
                assert await kills(place, bundle, online=online) <= 3
                assert "the agent ended each time" in await place.rejected(bundle)
                assert place.ota()["running"] == "fleet 1"
                collected.append(await traffic.more())
                if not online:
                    await place.cloud.start()
                await place.told(("applied", bundle), ("rolled back", bundle))
    place.holds(collected)


async def kills(place: Place, bundle: str, *, online: bool) -> int:
    """Kill each process that says that this bundle is on trial; gives how many there were."""
    killed = 0
    while True:
        ota = await asyncio.to_thread(place.ota)
        if ota and bundle in [each["bundle"] for each in ota["rejected"]]:
            return killed
        if ota and ota["trial"] and ota["running"] == bundle:
            if not online:
                await place.cloud.stop()
            await kill()
            killed += 1
        await asyncio.sleep(0.02)


async def kill() -> None:
    """End the process of the unit at once, and wait until it is gone."""
    pid = main_pid()
    os.kill(pid, signal.SIGKILL)
    await processes.until(lambda: main_pid() != pid, "the end of the process")


def main_pid() -> int:
    """Of the unit; 0 while none runs."""
    return int(done("systemctl", "show", "--property=MainPID", "--value", UNIT))


def done(*words: str) -> str:
    return subprocess.run(words, check=True, timeout=60, capture_output=True, text=True).stdout


@contextlib.asynccontextmanager
async def unit(place: Place) -> AsyncIterator[None]:
    """The agent as a unit of systemd, which starts it again however it ends."""
    options = (
        *("--service-type=notify", "--property=Restart=always", "--property=RestartSec=100ms"),
        *("--property=StartLimitIntervalSec=0", f"--property=StandardError=append:{place.car.log}"),
        *(f"--working-directory={REPOSITORY}", "--setenv=PYTHONDONTWRITEBYTECODE=1"),
    )
    program = (sys.executable, "-m", "agent.cli", "run", "-c", str(place.car.config))
    done("systemd-run", "--quiet", f"--unit={UNIT}", *options, *program)
    try:
        yield
    finally:
        done("systemctl", "stop", UNIT)
