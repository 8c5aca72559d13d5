"""What a broker and a cloud say, and what a vehicle makes of it; and what strangers say to them."""

import asyncio
import datetime as dt
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes

from agent.bench.cloud.store import Store
from agent.bench.fleet import Fleet
from agent.uplink import mqttwire, wire
from agent.uplink.broker import properties_of
from tests import processes
from tests.bench.cloudbench import VEHICLE, Batch, Client, Drive, files
from tests.system.broker import Mosquitto, free_port, mosquitto
from tests.system.mqttworld import answered, check, check_end, cloud, end_well, to
from tests.uplink.certificates import YEAR, Authority

pytestmark = pytest.mark.system


def stranger(broker: Mosquitto) -> aiomqtt.Client:
    """Somebody else at the broker."""
    return aiomqtt.Client("127.0.0.1", broker.port, protocol=aiomqtt.ProtocolVersion.V5)


def test_a_batch_over_the_limit_of_the_broker_is_never_sent(tmp_path: Path) -> None:
    async def main(broker: Mosquitto) -> None:
        await broker.start()
        store = Store(tmp_path / "data")
        fleet = Fleet(tmp_path / "fleet", 1, to(broker.url), interval_s=0.5)
        (vehicle,) = fleet.vehicles
        async with cloud(broker, store), fleet.sending():
            await fleet.drive(1)
            await fleet.drained()
            assert fleet.counts["acknowledged"] > 0
            await asyncio.to_thread(vehicle.collect, 2000.0)
            await answered(vehicle, "413")
            assert "packets of 4,000 bytes" in vehicle.sender.state["why"]
            await asyncio.to_thread(vehicle.collect, 1.0)
            await fleet.drained()  # a small one after it has shown that it was the large one
        assert vehicle.sender.state["quarantined_batches"] == 1
        check(fleet, tmp_path)
        assert "oversize" not in broker.log.read_text()
        fleet.close()
        store.close()

    settings = ("allow_anonymous true", "persistence false", "max_packet_size 4000")
    with mosquitto(tmp_path / "broker", settings) as broker:
        asyncio.run(main(broker))


def test_a_password_that_is_refused_is_read_again_and_tried(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    passwords.touch(0o600)
    for user, word in (("van-0000", "right"), ("cloud", "its-own")):
        subprocess.run(
            ["mosquitto_passwd", "-b", str(passwords), user, word], check=True, timeout=30
        )
    token = tmp_path / "token"
    token.write_text("wrong\n")

    async def main(broker: Mosquitto) -> None:
        await broker.start()
        store = Store(tmp_path / "data")
        fleet = Fleet(tmp_path / "fleet", 1, to(broker.url, token_file=str(token)), interval_s=0.5)
        (vehicle,) = fleet.vehicles
        broker.user = "cloud:its-own@"
        async with cloud(broker, store):
            async with fleet.sending():
                await asyncio.to_thread(vehicle.collect, 1.0)
                await answered(vehicle, "403")
                await processes.until(lambda: vehicle.sender.state["state"] == "held", "held")
                assert vehicle.sender.waiting > 0
            token.write_text("right\n")
            async with fleet.sending():
                await end_well(fleet, tmp_path)
        fleet.close()
        store.close()

    settings = ("allow_anonymous false", "persistence false", f"password_file {passwords}")
    with mosquitto(tmp_path / "broker", settings) as broker:
        asyncio.run(main(broker))


def test_a_topic_that_is_forbidden_holds_the_uplink(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic read v1/vehicles/van-0000/receipts\ntopic write nothing\n")

    async def main(broker: Mosquitto) -> None:
        await broker.start()
        fleet = Fleet(tmp_path / "fleet", 1, to(broker.url), interval_s=0.5)
        (vehicle,) = fleet.vehicles
        async with fleet.sending():
            await asyncio.to_thread(vehicle.collect, 1.0)
            await answered(vehicle, "403")
            await processes.until(lambda: vehicle.sender.state["state"] == "held", "held")
            assert "not authorized" in vehicle.sender.state["why"]
        assert fleet.counts["acknowledged"] == 0
        check(fleet, tmp_path)
        fleet.close()

    settings = ("allow_anonymous true", "persistence false", f"acl_file {rules}")
    with mosquitto(tmp_path / "broker", settings) as broker:
        asyncio.run(main(broker))


def test_the_word_of_the_broker_is_enough_where_that_is_set_but_not_without_a_subscriber(
    tmp_path: Path,
) -> None:
    async def main(broker: Mosquitto) -> None:
        await broker.start()
        fleet = Fleet(tmp_path / "fleet", 1, to(broker.url, acknowledge="broker"), interval_s=0.5)
        (vehicle,) = fleet.vehicles
        async with fleet.sending():
            await asyncio.to_thread(vehicle.collect, 1.0)
            await answered(vehicle, "503")
            assert fleet.counts["acknowledged"] == 0
            async with stranger(broker) as archive:
                await archive.subscribe("v1/vehicles/+/batches/+", qos=1)
                await fleet.drained()
                message = await anext(archive.messages)
        assert fleet.counts["acknowledged"] == fleet.counts["kept"] > 0
        assert isinstance(message.payload, bytes)
        assert message.properties is not None
        sent = vars(message.properties)
        digest = wire.digest_field(hashlib.sha256(message.payload).digest())
        assert mqttwire.digest_of(sent["UserProperty"]) == digest
        assert sent["ContentType"] == wire.CONTENT_TYPE
        fleet.close()

    with mosquitto(tmp_path / "broker") as broker:
        asyncio.run(main(broker))


def test_the_status_of_a_vehicle_is_retained_and_its_last_will_ends_it(tmp_path: Path) -> None:
    async def main(broker: Mosquitto) -> None:
        await broker.start()
        store = Store(tmp_path / "data")
        fleet = Fleet(tmp_path / "fleet", 2, to(broker.url), interval_s=0.5)
        async with cloud(broker, store), stranger(broker) as watcher:
            await watcher.subscribe("v1/vehicles/+/status", qos=1)
            seen: dict[str, bool] = {}

            async def watch(what: bool) -> None:
                async with asyncio.timeout(30):
                    while list(seen.values()) != [what] * 2:
                        message = await anext(watcher.messages)
                        said: dict[str, Any] = json.loads(bytes(message.payload))
                        seen[str(message.topic).split("/")[2]] = said["online"]

            async with fleet.sending():
                await fleet.drive(1)
                await watch(True)
                await fleet.drained()
            await watch(False)  # they left, and said so
            seen.clear()
            async with stranger(broker) as late:
                await late.subscribe("v1/vehicles/van-0001/status", qos=1)
                assert json.loads(bytes((await anext(late.messages)).payload))["online"] is False
            async with fleet.sending():
                await fleet.drive(1)
                await watch(True)
                # Another client takes the names of the two over: the broker ends their connections.
                for vehicle in fleet.vehicles:
                    async with aiomqtt.Client(
                        "127.0.0.1",
                        broker.port,
                        identifier=f"{vehicle.name}.cloud",
                        protocol=aiomqtt.ProtocolVersion.V5,
                    ):
                        pass
                await watch(False)
                await end_well(fleet, tmp_path)  # and they come back for the next batch
                await watch(True)
        fleet.close()
        store.close()

    with mosquitto(tmp_path / "broker") as broker:
        asyncio.run(main(broker))


@pytest.mark.parametrize(
    ("valid", "trusted", "kind"),
    [
        ((-YEAR, YEAR), True, "201"),
        ((YEAR, 2 * YEAR), True, "clock"),
        ((-2 * YEAR, -YEAR), True, "clock"),
        ((-YEAR, YEAR), False, "tls"),
    ],
    ids=["good", "not yet valid", "expired", "not ours"],
)
def test_certificates_of_both_sides(
    tmp_path: Path, valid: tuple[dt.timedelta, dt.timedelta], trusted: bool, kind: str
) -> None:
    authority = Authority()
    ours = authority.write(tmp_path / "ca.pem")
    authority.server(tmp_path, *valid)
    client = authority.put(tmp_path / "client")

    async def main(broker: Mosquitto) -> None:
        await broker.start()
        store = Store(tmp_path / "data")
        url = broker.url.replace("mqtt:", "mqtts:")
        ca_file = ours if trusted else Authority("somebody else").write(tmp_path / "other.pem")
        fleet = Fleet(tmp_path / "fleet", 1, to(url, ca_file=ca_file, **client), interval_s=0.5)
        (vehicle,) = fleet.vehicles
        async with fleet.sending():
            await asyncio.to_thread(vehicle.collect, 1.0)
            await answered(vehicle, "503" if kind == "201" else kind)
            if kind == "201":
                # The cloud shows none: it has a listener of its own.
                async with cloud(broker, store, port=plain):
                    await asyncio.to_thread(vehicle.collect, 2000.0)
                    await end_well(fleet, tmp_path)
                assert vehicle.sender.state["credential"] == ""
        check(fleet, tmp_path)
        fleet.close()
        store.close()

    plain = free_port()
    settings = (
        f"certfile {tmp_path / 'server.crt'}",
        f"keyfile {tmp_path / 'server.key'}",
        f"cafile {ours}",
        "require_certificate true",
        f"listener {plain} 127.0.0.1",
        "allow_anonymous true",
        "persistence false",
    )
    with mosquitto(tmp_path / "broker", settings) as broker:
        asyncio.run(main(broker))


def test_the_whole_program_over_a_broker(tmp_path: Path) -> None:
    """A recording, the daemon, mosquitto with a prefix, a cloud of its own process: complete."""

    async def main(broker: Mosquitto) -> None:
        await broker.start()
        log = tmp_path / "drive.log"
        words = ("simulate", "--log", str(log), "--seconds", "5")
        assert await (await processes.start(*words, log=tmp_path / "simulate.log")).wait() == 0
        (tmp_path / "agent.toml").write_text(
            f"""
            vehicle = "car-1"
            plan = "{Path(__file__).parents[2] / "config" / "plan-ev.toml"}"
            state_dir = "state"
            [[bus]]
            name = "powertrain"
            kind = "recording"
            path = "{log}"
            speed = 0
            [[uplink]]
            name = "cloud"
            kind = "mqtt"
            url = "{broker.url}/fleet/eu"
            """
        )
        cloud = await processes.start(
            *("cloud", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "data")),
            *("--mqtt", f"{broker.url}/fleet/eu"),
            log=tmp_path / "cloud.log",
        )
        assert cloud.stdout is not None
        listening = (await cloud.stdout.readline()).decode().split()
        assert (await cloud.stdout.readline()).startswith(b"subscribed")
        agent = await processes.start(
            *("run", "-c", str(tmp_path / "agent.toml"), "--drain"), log=tmp_path / "agent.log"
        )
        assert await asyncio.wait_for(agent.wait(), processes.LIMIT_S) == 0
        host, _, port = listening[2].rstrip(",").removeprefix("http://").rpartition(":")
        client = Client(host, int(port))
        answer = await asyncio.to_thread(client.get, "/v1/vehicles/car-1/completeness")
        assert answer["complete"], answer["verdict"]
        assert answer["samples"] > 1000
        assert await processes.stop(cloud) == 0

    with mosquitto(tmp_path / "broker") as broker:
        asyncio.run(main(broker))


# -- strangers ------------------------------------------------------------------------------------


def message(batch: Batch, **changes: Any) -> dict[str, Any]:
    """What a vehicle would publish, with something else in it."""
    digest = wire.digest_field(hashlib.sha256(batch.data).digest())
    content = {"payload": batch.data, "digest": digest, "type": wire.CONTENT_TYPE} | changes
    values: dict[str, Any] = {}
    if content["type"]:
        values["ContentType"] = content["type"]
    if content["digest"]:
        values["UserProperty"] = (mqttwire.DIGEST, content["digest"])
    return {
        "topic": f"v1/vehicles/{VEHICLE}/batches/{content.get('batch_id', batch.batch_id)}",
        "payload": content["payload"],
        "qos": content.get("qos", 1),
        "properties": properties_of(PacketTypes.PUBLISH, **values),
    }


def test_what_is_no_good_batch_gets_a_receipt_that_says_so_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    drive = Drive()
    good, other = drive.batch(), Drive().batch(rows=9)
    assert good.batch_id == other.batch_id
    cases: list[tuple[int, dict[str, Any]]] = [
        (422, message(good, payload=b"x", digest=wire.digest_field(hashlib.sha256(b"x").digest()))),
        (422, message(good, batch_id="00c0ffee-1-telemetry-2")),
        (409, message(good, payload=good.data + b"x")),
        (400, message(good, digest="")),
        (400, message(good, digest="sha-256=:AAAA:")),
        (400, message(good, batch_id="..")),
        (400, message(good, batch_id="é" * 5000)),
        (415, message(good, type="")),
        (415, message(good, type="text/html")),
        (413, message(good, payload=bytes(51_000))),
        (201, message(good)),
        (200, message(good)),
        (412, message(other)),
        (200, message(good, qos=0)),
    ]

    async def main(broker: Mosquitto) -> None:
        await broker.start()
        store = Store(tmp_path / "data")
        async with cloud(broker, store, max_batch=50_000) as ingest, stranger(broker) as car:
            await car.subscribe(f"v1/vehicles/{VEHICLE}/receipts", qos=1)
            # Names that no vehicle can have are nobody to answer to.
            for name in ("", "..", "a b", "-x", "\N{BELL}", "é", "x" * 65):
                await car.publish(f"v1/vehicles/{name}/batches/{good.batch_id}", b"x", qos=1)
            for status, words in cases:
                await car.publish(**words)
                async with asyncio.timeout(30):
                    got = await anext(car.messages)
                receipt = mqttwire.Receipt.decode(bytes(got.payload))
                assert receipt is not None
                assert receipt.status == status, receipt
            assert ingest.counts["foreign"] == 7
        assert len(files(tmp_path / "data")) == 1
        store.close()

    with mosquitto(tmp_path / "broker") as broker:
        asyncio.run(main(broker))


def test_receipts_that_lie_take_nothing_from_a_vehicle(tmp_path: Path) -> None:
    async def main(broker: Mosquitto) -> None:
        await broker.start()
        store = Store(tmp_path / "data")
        fleet = Fleet(tmp_path / "fleet", 1, to(broker.url), interval_s=0.5)
        (vehicle,) = fleet.vehicles
        other = wire.digest_field(hashlib.sha256(b"other").digest())
        async with stranger(broker) as liar:
            await liar.subscribe("v1/vehicles/+/batches/+", qos=1)
            async with fleet.sending():
                await asyncio.to_thread(vehicle.collect, 1.0)
                batch_id = str((await anext(liar.messages)).topic).split("/")[4]
                for payload in (
                    b"\xff",
                    b"{}",
                    b"x" * 10_000,
                    mqttwire.Receipt("another", 201, other).encode(),
                    mqttwire.Receipt(batch_id, 201, other).encode(),
                ):
                    await liar.publish("v1/vehicles/van-0000/receipts", payload, qos=1)
                await answered(vehicle, "201")
                assert "digest of other bytes" in vehicle.sender.state["why"]
                assert fleet.counts["acknowledged"] == 0
                async with cloud(broker, store):
                    await end_well(fleet, tmp_path)
        fleet.close()
        store.close()
        check_end(fleet, tmp_path)

    with mosquitto(tmp_path / "broker") as broker:
        asyncio.run(main(broker))


def test_another_batch_under_the_same_name_is_an_identity_conflict(tmp_path: Path) -> None:
    """Two vehicles with one installation: a state folder was copied."""

    async def main(broker: Mosquitto) -> None:
        await broker.start()
        store = Store(tmp_path / "data")
        fleet = Fleet(tmp_path / "fleet", 1, to(broker.url), interval_s=0.5)
        (vehicle,) = fleet.vehicles
        install = vehicle.store.folder.install
        taken = Drive().batch()
        foreign = tmp_path / "data" / "vehicles" / vehicle.name / "2024-01-01"
        foreign.mkdir(parents=True)
        (foreign / f"{install}-1-telemetry-1.batch").write_bytes(taken.data)
        store.close()
        store = Store(tmp_path / "data")
        async with cloud(broker, store), fleet.sending():
            await asyncio.to_thread(vehicle.collect, 1.0)
            await processes.until(
                lambda: vehicle.sender.state["quarantined_batches"] == 1, "quarantined"
            )
        assert fleet.differences() == []
        fleet.close()
        store.close()

    with mosquitto(tmp_path / "broker") as broker:
        asyncio.run(main(broker))
