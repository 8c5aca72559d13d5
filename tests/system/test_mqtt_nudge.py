"""A vehicle is told by its broker to look for new configuration, and nothing else comes of it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from agent.bench.fleet import LightVehicle
from agent.clock import SystemClock
from agent.uplink.budget import RetryBudget
from agent.uplink.sender import Sender
from tests import processes
from tests.system.broker import Mosquitto, mosquitto
from tests.system.mqttworld import to

pytestmark = pytest.mark.system

NAME = "van-7"
TOPIC = f"fleet/v1/vehicles/{NAME}/ota"


@contextlib.asynccontextmanager
async def stranger(broker: Mosquitto) -> AsyncIterator[aiomqtt.Client]:
    """Somebody at the broker who takes batches, and may say what he likes."""
    version = aiomqtt.ProtocolVersion.V5
    async with aiomqtt.Client("127.0.0.1", broker.port, protocol=version) as client:
        await client.subscribe("fleet/v1/vehicles/+/batches/+", qos=1)
        yield client


@contextlib.asynccontextmanager
async def sending(
    vehicle: LightVehicle, broker: Mosquitto, nudged: Callable[[], None] | None, **settings: Any
) -> AsyncIterator[Sender]:
    """A sender of the vehicle's batches that is told of nudges."""
    sender = Sender(
        to(f"{broker.url}/fleet", **settings)(NAME),
        NAME,
        vehicle.store.outboxes["cloud"],
        vehicle.ledger,
        SystemClock(),
        budget=RetryBudget(),
        nudged=nudged,
    )
    task = asyncio.create_task(sender.run())
    try:
        yield sender
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def batch_arrives(vehicle: LightVehicle, sender: Sender, client: aiomqtt.Client) -> None:
    await asyncio.to_thread(vehicle.collect, 1.0)
    sender.wake()
    async with asyncio.timeout(30):
        await anext(client.messages)


@pytest.mark.parametrize("acknowledge", ["cloud", "broker"])
def test_a_nudge_is_heard_whatever_it_says_unless_it_is_retained(
    tmp_path: Path, acknowledge: str
) -> None:
    heard: list[None] = []

    async def main(broker: Mosquitto) -> None:
        await broker.start()
        vehicle = LightVehicle(tmp_path / "van", NAME, to(broker.url)(NAME))
        async with stranger(broker) as client:
            await client.publish(TOPIC, b"of last year", qos=1, retain=True)
            async with sending(
                vehicle, broker, lambda: heard.append(None), acknowledge=acknowledge
            ) as sender:
                await batch_arrives(vehicle, sender, client)
                for payload in (b"", b"\xff{", b"x" * 10_000):
                    await client.publish(TOPIC, payload, qos=1)
                await client.publish(TOPIC.replace(NAME, "van-8"), b"", qos=1)
                await client.publish(TOPIC, b"", qos=0)
                await processes.until(lambda: len(heard) >= 4, "four nudges")
                await batch_arrives(vehicle, sender, client)
        assert len(heard) == 4
        vehicle.close()

    with mosquitto(tmp_path / "broker") as broker:
        asyncio.run(main(broker))


def test_who_does_not_want_to_know_does_not_listen(tmp_path: Path) -> None:
    async def main(broker: Mosquitto) -> None:
        await broker.start()
        vehicle = LightVehicle(tmp_path / "van", NAME, to(broker.url)(NAME))
        async with stranger(broker) as client, sending(vehicle, broker, None) as sender:
            await batch_arrives(vehicle, sender, client)
        assert f"{NAME}/receipts" in broker.log.read_text()
        assert f"{NAME}/ota" not in broker.log.read_text()
        vehicle.close()

    with mosquitto(tmp_path / "broker") as broker:
        asyncio.run(main(broker))


def test_batches_are_sent_where_nudges_are_forbidden(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Brokers of before knew nothing of this topic: their rules do not allow it."""
    forbidden = {"acltype": "subscribeLiteral", "topic": TOPIC, "allow": False}
    rules = {
        "defaultACLAccess": {
            "publishClientSend": True,
            "publishClientReceive": True,
            "subscribe": True,
            "unsubscribe": True,
        },
        "roles": [{"rolename": "all", "acls": [forbidden]}],
        "groups": [{"groupname": "all", "roles": [{"rolename": "all"}]}],
        "anonymousGroup": "all",
    }
    (tmp_path / "rules.json").write_text(json.dumps(rules))

    async def main(broker: Mosquitto) -> None:
        await broker.start()
        vehicle = LightVehicle(tmp_path / "van", NAME, to(broker.url)(NAME))
        async with stranger(broker) as client:
            for _ in range(2):
                async with sending(vehicle, broker, lambda: None, acknowledge="broker") as sender:
                    await batch_arrives(vehicle, sender, client)
                    await sender.drained()
        assert vehicle.ledger.snapshot()["uplink"]["cloud"]["acknowledged"] > 0
        vehicle.close()

    plugins = [*Path("/usr/lib").glob("**/mosquitto_dynamic_security.so")]
    assert plugins, "the plugin comes with mosquitto"
    settings = (
        "allow_anonymous true",
        "persistence false",
        f"plugin {plugins[0]}",
        f"plugin_opt_config_file {tmp_path / 'rules.json'}",
    )
    with mosquitto(tmp_path / "broker", settings) as broker:
        asyncio.run(main(broker))
    said = [r for r in caplog.records if "not told of new configuration" in r.getMessage()]
    assert len(said) == 2  # once by each sender
    assert "not authorized" in said[0].getMessage()
