"""A broker that is stopped, killed, held and cut off in the middle: what is kept arrives, once."""

import asyncio
import signal
from pathlib import Path

import pytest

from agent.bench.cloud.store import Store
from agent.bench.fleet import Fleet
from agent.bench.link import Link
from tests import processes
from tests.system.broker import Mosquitto, mosquitto
from tests.system.mqttworld import answered, check, check_end, cloud, end_well, to

pytestmark = pytest.mark.system

IN_MEMORY = ("allow_anonymous true", "persistence false")
ON_DISK = ("allow_anonymous true", "persistence true", "autosave_interval 1")


async def more_acknowledged(fleet: Fleet) -> None:
    goal = fleet.counts["acknowledged"] + 100
    await processes.until(lambda: fleet.counts["acknowledged"] > goal, "batches go through")


async def more_passed(link: Link) -> None:
    goal = link.up + 3000
    await processes.until(lambda: link.up > goal, "bytes move")


@pytest.mark.parametrize("settings", [IN_MEMORY, ON_DISK], ids=["in memory", "on disk"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_broker_that_ends_and_comes_back(
    tmp_path: Path, settings: tuple[str, ...], number: signal.Signals
) -> None:
    async def main(broker: Mosquitto) -> None:
        await broker.start()
        store = Store(tmp_path / "data")
        fleet = Fleet(tmp_path / "fleet", 8, to(broker.url), interval_s=0.5)
        async with cloud(broker, store), fleet.sending():
            drive = asyncio.create_task(fleet.drive(6))
            for _ in range(2):
                await more_acknowledged(fleet)
                await broker.stop(number)
                await answered(fleet.vehicles[0], "network")
                check(fleet, tmp_path)
                await broker.start()
            await drive
            await end_well(fleet, tmp_path)
        fleet.close()
        store.close()

    with mosquitto(tmp_path / "broker", settings) as broker:
        asyncio.run(main(broker))


def test_a_broker_that_stands_still_is_given_up_and_tried_again(tmp_path: Path) -> None:
    async def main(broker: Mosquitto) -> None:
        await broker.start()
        store = Store(tmp_path / "data")
        fleet = Fleet(tmp_path / "fleet", 4, to(broker.url), interval_s=0.5)
        async with cloud(broker, store), fleet.sending():
            drive = asyncio.create_task(fleet.drive(6))
            await processes.until(lambda: fleet.counts["acknowledged"] > 50, "batches go through")
            broker.send(signal.SIGSTOP)
            for vehicle in fleet.vehicles:
                await answered(vehicle, "stalled")
            await answered(fleet.vehicles[0], "timeout")  # it accepts, and does not greet
            check(fleet, tmp_path)
            broker.send(signal.SIGCONT)
            await drive
            await end_well(fleet, tmp_path)
        fleet.close()
        store.close()

    with mosquitto(tmp_path / "broker") as broker:
        asyncio.run(main(broker))


def test_a_link_that_is_cut_again_and_again(tmp_path: Path) -> None:
    async def main(broker: Mosquitto) -> None:
        await broker.start()
        store = Store(tmp_path / "data")
        async with Link("127.0.0.1", broker.port) as link, cloud(broker, store):
            url = f"mqtt://127.0.0.1:{link.port}"
            fleet = Fleet(tmp_path / "fleet", 8, to(url), interval_s=0.3)
            async with fleet.sending():
                drive = asyncio.create_task(fleet.drive(6))
                for _ in range(6):
                    # In the middle of whatever is under way: no boundary of a packet is waited for.
                    await more_passed(link)
                    link.cut()
                    await asyncio.sleep(0)
                    check(fleet, tmp_path)
                    link.restore()
                await drive
                await end_well(fleet, tmp_path)
            assert link.connections > len(fleet.vehicles)
            fleet.close()
        store.close()

    with mosquitto(tmp_path / "broker") as broker:
        asyncio.run(main(broker))


def test_receipts_that_get_lost_cost_a_second_sending_and_nothing_else(tmp_path: Path) -> None:
    async def main(broker: Mosquitto) -> None:
        await broker.start()
        store = Store(tmp_path / "data")
        fleet: Fleet

        async with Link("127.0.0.1", broker.port) as link:

            def cut_before_the_receipt(_outcome: object) -> None:
                link.cut()
                asyncio.get_running_loop().call_soon(link.restore)

            fleet = Fleet(
                tmp_path / "fleet", 3, to(f"mqtt://127.0.0.1:{link.port}"), interval_s=0.5
            )
            async with (
                cloud(broker, store, cut_before_the_receipt) as ingest,
                fleet.sending(),
            ):
                await fleet.drive(2)
                await end_well(fleet, tmp_path)
            # Sent again, found to be here already, and told so.
            assert ingest.counts["200"] > 0
        fleet.close()
        store.close()

    with mosquitto(tmp_path / "broker") as broker:
        asyncio.run(main(broker))


def test_a_cloud_that_is_killed_while_another_goes_on(tmp_path: Path) -> None:
    async def main(broker: Mosquitto) -> None:
        await broker.start()
        words = ("cloud", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "data"), "--shared")
        clouds = [
            await processes.start(*words, "--mqtt", broker.url, log=tmp_path / "cloud.log")
            for _ in range(2)
        ]
        for process in clouds:
            assert process.stdout is not None
            while not (await process.stdout.readline()).startswith(b"subscribed"):
                pass
        fleet = Fleet(tmp_path / "fleet", 8, to(broker.url), interval_s=0.3)
        async with fleet.sending():
            drive = asyncio.create_task(fleet.drive(5))
            await processes.until(lambda: fleet.counts["acknowledged"] > 200, "batches go through")
            await processes.stop(clouds[0], signal.SIGKILL)
            check(fleet, tmp_path)
            await drive
            await end_well(fleet, tmp_path)
        assert await processes.stop(clouds[1]) == 0
        check_end(fleet, tmp_path)
        fleet.close()

    with mosquitto(tmp_path / "broker") as broker:
        asyncio.run(main(broker))


def test_without_a_cloud_nothing_is_acknowledged_and_the_state_says_why(tmp_path: Path) -> None:
    async def main(broker: Mosquitto) -> None:
        await broker.start()
        fleet = Fleet(tmp_path / "fleet", 2, to(broker.url), interval_s=0.5)
        async with fleet.sending():
            await fleet.drive(1)
            for vehicle in fleet.vehicles:
                await answered(vehicle, "503")
                assert "no cloud is subscribed" in vehicle.sender.state["why"]
            assert fleet.counts["acknowledged"] == 0
            store = Store(tmp_path / "data")
            async with cloud(broker, store):
                await end_well(fleet, tmp_path)
            store.close()
        fleet.close()

    with mosquitto(tmp_path / "broker") as broker:
        asyncio.run(main(broker))
