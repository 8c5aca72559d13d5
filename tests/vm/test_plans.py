"""Plans on a bus of a real kernel: another one under load, and a trigger across a restart."""

import asyncio
from pathlib import Path

import pytest

from agent.batch import read_batch
from agent.observe.socket import ask
from tests import processes
from tests.vm import frames
from tests.vm.car import DBC, PLAN, Car
from tests.vm.links import Links

pytestmark = pytest.mark.vm

NUMBERS, OTHERS = 0x123, 0x321
BOTH = DBC + 'BO_ 801 Others: 8 A\n SG_ Other : 0|64@1+ (1,0) [0|0] "" A\n'
MORE = PLAN.replace('name = "all"', 'name = "more"', 1).replace(
    '"Numbers.Number"', '"Numbers.Number", "Others.Other"'
)
TRIGGER = """
[[campaign]]
name = "around"
signals = ["Numbers.Number"]
[campaign.trigger]
when = "Numbers.Number == 3000"
pre_s = 60
post_s = 2
"""


def prepared(n: int, begin: int, identifier: int = NUMBERS) -> frames.Prepared:
    return frames.Prepared(
        [frames.classic(identifier, i.to_bytes(8, "little")) for i in range(begin, begin + n)]
    )


def numbers(car: Car, campaign: str, message: str = "Numbers") -> list[int]:
    """What a campaign kept of a message: at the cloud, or still in the spool."""
    paths = [*(car.folder / "cloud").rglob("*.batch")]
    paths += (car.folder / "state/spool/uplinks/cloud").rglob("*.batch")
    tables = [t for t in read_batch(*paths) if (t.campaign, t.message) == (campaign, message)]
    return sorted(v for t in tables for v in t.raw[t.names[0]].tolist())


def test_plans_follow_each_other_under_load(vcan: Links, tmp_path: Path) -> None:
    """With filters of the kernel: what both plans want passes at every moment."""
    asyncio.run(_follow(vcan(), tmp_path))


async def _follow(interface: str, folder: Path) -> None:
    rounds, each = 200, 50
    async with processes.cloud(folder / "cloud") as port:
        car = Car(folder, {"body": interface}, port, "kernel_filter = true", BOTH)
        async with car.agent():
            await processes.until(lambda: car.bus("body"), "the agent")

            async def switch() -> None:
                for plan in (MORE, PLAN, MORE, PLAN, MORE):
                    (folder / "plan.toml").write_text(plan)
                    await asyncio.to_thread(ask, car.socket, "reload", timeout_s=60)

            switching = asyncio.create_task(switch())
            with frames.Sender(interface) as sender:
                for number in range(rounds):
                    sender.send_many(prepared(each, number * each))
                    sender.send_many(prepared(each, number * each, OTHERS))
                    await asyncio.sleep(0.02)
                await switching
                sender.send_many(prepared(each, 10**6, OTHERS))
            status = processes.status(car.socket)
            assert status is not None
            assert status["plan"] == "more"
            await car.read("body", rounds * each + each)
    assert numbers(car, "all") == list(range(rounds * each))
    others = numbers(car, "all", "Others")
    assert others[-each:] == list(range(10**6, 10**6 + each))
    assert len(others) == len(set(others))


def test_what_came_before_a_restart_is_there_for_a_trigger_after_it(
    vcan: Links, tmp_path: Path
) -> None:
    asyncio.run(_restart(vcan(), tmp_path))


async def _restart(interface: str, folder: Path) -> None:
    async with processes.cloud(folder / "cloud") as port:
        car = Car(folder, {"body": interface}, port)
        (folder / "plan.toml").write_text(PLAN + TRIGGER)
        with frames.Sender(interface) as sender:
            for begin in (0, 2000):
                async with car.agent():
                    await processes.until(lambda: car.bus("body"), "the agent")
                    for part in range(begin, begin + 2000, 100):
                        sender.send_many(prepared(100, part))
                        await asyncio.sleep(0.01)
                    await car.read("body", 2000)
    assert numbers(car, "around") == list(range(4000))
