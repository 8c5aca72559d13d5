"""The virtual vehicle's ECUs on a bus of the kernel, asked by the agent as it runs in a vehicle."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.bench.answering import Answering
from agent.bench.ecus import VIN, Watch, vehicle_ecus
from agent.bench.play import SocketCanSink, play
from agent.bench.vehicle import BUS, VirtualVehicle, dbc_path
from agent.blocks import FrameBlock
from agent.bus.diagnostics import (
    Did,
    Field,
    ObdDtcRequest,
    ObdRequest,
    Request,
    UdsDtcRequest,
    UdsRequest,
)
from agent.errors import BusError
from agent.signals import Database
from tests import processes
from tests.vm.links import Links
from tests.vm.test_diagnostics import Polled, until

pytestmark = pytest.mark.vm

REQUESTS: list[Request] = [
    ObdRequest([0x0C, 0x0D, 0x05, 0x42], 0.2),
    ObdDtcRequest([3, 7], 0.5),
    UdsRequest(
        0x7E4,
        0x7EC,
        [
            Did(0xF190, [Field("Vin", bits=17 * 8, kind="ascii")]),
            Did(0x4801, [Field("StateOfCharge", bits=16, scale=0.01)]),
        ],
        interval_s=0.3,
        session=3,
        tester_present=True,
    ),
    UdsDtcRequest(0x7E4, 0x7EC, interval_s=0.5, status_mask=0xFF),
]


def drive(name: str, watch: Watch, stop: threading.Event) -> None:
    """The virtual car on the bus, without an end."""
    vehicle = VirtualVehicle(1)

    def blocks() -> Iterator[FrameBlock]:
        reached = 20.0  # in motion
        vehicle.frames(reached)
        while True:
            reached += 0.2
            block = vehicle.frames(reached)
            watch.note(block)
            yield block

    sink = SocketCanSink(name, stop)
    play(blocks(), [sink], stop)
    sink.close()


def test_the_agent_reads_parameters_identifiers_and_trouble_codes(vcan: Links) -> None:
    name, stop = vcan(), threading.Event()
    watch = Watch(Database.load([dbc_path()]), BUS)
    driver = threading.Thread(target=drive, args=(name, watch, stop))
    driver.start()
    with Answering(name, vehicle_ecus(watch.readings)) as answering:
        polled = Polled(name, REQUESTS, answer_ms=2000)
        try:
            until(lambda: len(polled.values("VehicleSpeed")) > 3)
            until(lambda: len(polled.values("Vin")) > 1 and len(polled.values("Code")) > 4)
        finally:
            polled.end()
            stop.set()
            driver.join()

    assert max(polled.values("VehicleSpeed")) > 0
    assert {bytes(vin) for vin in polled.values("Vin")} == {VIN.encode()}
    assert polled.source.totals["bad"] == polled.source.totals["unsupported"] == 0
    assert answering.unsent == 0


def test_ecus_answer_again_when_the_bus_was_down_for_a_while(vcan: Links) -> None:
    name, stop = vcan(), threading.Event()
    watch = Watch(Database.load([dbc_path()]), BUS)
    with Answering(name, vehicle_ecus(watch.readings)):
        vcan.down(name)
        vcan.up(name)
        driver = threading.Thread(target=drive, args=(name, watch, stop))
        driver.start()
        polled = Polled(name, REQUESTS, answer_ms=2000)
        try:
            until(lambda: len(polled.values("VehicleSpeed")) > 1)
        finally:
            polled.end()
            stop.set()
            driver.join()


def test_an_interface_that_is_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(BusError, match="there is no interface nothing0"):
        Answering("nothing0", vehicle_ecus(dict))


def test_simulate_answers_beside_its_frames(vcan: Links, tmp_path: Path) -> None:
    name = vcan()

    async def ask() -> None:
        log = tmp_path / "simulate.log"
        words = ("simulate", "--dbc", str(dbc_path()), "--vcan", name, "--ecus", "--json")
        process = await processes.start(*words, log=log)
        polled = Polled(name, REQUESTS, answer_ms=2000)
        try:
            await processes.until(lambda: len(polled.values("Vin")) > 0, "an answer")
        finally:
            await asyncio.to_thread(polled.end)
            assert await processes.stop(process) == 0, log.read_text()
        assert process.stdout is not None
        assert json.loads(await process.stdout.read())["frames"] > 0

    asyncio.run(ask())
