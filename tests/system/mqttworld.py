"""Vehicles, a broker and clouds, and the sum that must be right whatever happened between them."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from agent.batch import BatchReader
from agent.bench.cloud.mqtt import BrokerIngest
from agent.bench.cloud.server import MAX_BATCH
from agent.bench.cloud.store import Outcome, Store
from agent.bench.fleet import Fleet, LightVehicle
from agent.settings import Uplink
from tests import processes
from tests.system.broker import Mosquitto

DRAIN_S = 90.0


def to(url: str, **settings: Any) -> Callable[[str], Uplink]:
    """An uplink over MQTT that is impatient, as a test is."""

    def uplink(_vehicle: str) -> Uplink:
        given = {"connect_timeout_s": 3.0, "stall_timeout_s": 2.0, **settings}
        return Uplink(name="cloud", kind="mqtt", url=url, **given)

    return uplink


@contextlib.asynccontextmanager
async def cloud(
    broker: Mosquitto,
    store: Store,
    received: Callable[[Outcome], None] = lambda _: None,
    max_batch: int = MAX_BATCH,
    port: int = 0,
) -> AsyncIterator[BrokerIngest]:
    """A cloud that takes batches from a broker while this lasts; subscribed at the beginning."""
    url = f"mqtt://127.0.0.1:{port}" if port else broker.url
    said: list[str] = []
    ingest = BrokerIngest(store, url, max_batch=max_batch, told=said.append)
    stop = asyncio.Event()
    task = asyncio.create_task(ingest.run(received, stop))
    try:
        await processes.until(
            lambda: any(line.startswith("subscribed") for line in said), f"subscribed: {said}"
        )
        yield ingest
    finally:
        stop.set()
        await task


def stored_samples(folder: Path) -> Counter[str]:
    """Samples by batch id in the folders of all clouds; a batch that is there twice fails."""
    found: Counter[str] = Counter()
    for path in folder.glob("**/vehicles/*/*/*.batch"):
        name = path.name.removesuffix(".batch")
        assert name not in found, f"{name} was stored twice"
        scan = BatchReader(path).scan()
        assert scan.samples is not None
        found[name] = scan.samples
    return found


def check(fleet: Fleet, folder: Path) -> None:
    """Whenever it is asked: the ledgers close, and what counts as acknowledged is at the cloud."""
    acknowledged = fleet.counts["acknowledged"]  # first: more may arrive meanwhile
    assert fleet.differences() == []
    assert acknowledged <= stored_samples(folder).total()


def check_end(fleet: Fleet, folder: Path) -> None:
    """When nothing waits any more: every sample has arrived, once."""
    check(fleet, folder)
    counts, stored = fleet.counts, stored_samples(folder)
    assert counts["waiting"] == counts["memory"] == counts["evicted"] == counts["quarantined"] == 0
    assert counts["kept"] == counts["acknowledged"] == stored.total()
    assert len(stored) == counts["batches"]


async def answered(vehicle: LightVehicle, what: str) -> None:
    """Wait until a sender has met an answer of this kind."""
    await processes.until(
        lambda: what in vehicle.sender.state["answers"], f"{what}; {vehicle.sender.state}"
    )


async def end_well(fleet: Fleet, folder: Path) -> None:
    """End the runs, let everything be sent, and check the sum."""
    await fleet.finish()
    try:
        await asyncio.wait_for(fleet.drained(), DRAIN_S)
    except TimeoutError:
        states = [v.sender.state for v in fleet.vehicles if not v.sender.idle]
        raise AssertionError(f"these still wait: {states}") from None
    check_end(fleet, folder)
