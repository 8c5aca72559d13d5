"""The bench on a virtual bus of a real kernel."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import can
import pytest

from agent.bench.sinks import open_sink
from agent.bench.world import Options, World
from agent.errors import ConfigError
from tests.processes import LIMIT_S
from tests.vm.links import Links

pytestmark = pytest.mark.vm


@pytest.fixture
def interface(vcan: Links) -> Iterator[str]:
    """A bus by a name that people give theirs."""
    vcan.add("vcan77")
    yield "vcan77"
    vcan.remove("vcan77")


ASKS_FOR_ENGINE_SPEED = can.Message(
    arbitration_id=0x7DF, data=[2, 1, 0x0C, 0, 0, 0, 0, 0], is_extended_id=False
)
OF_ENGINE_SPEED = (4, 0x41, 0x0C)


def asked(interface: str) -> tuple[int, ...] | None:
    """How an ECU's answer to a request for the engine's speed begins."""
    engine = [{"can_id": 0x7E8, "can_mask": 0x7F8, "extended": False}]
    with can.Bus(interface, interface="socketcan", can_filters=engine) as bus:
        bus.send(ASKS_FOR_ENGINE_SPEED)
        answer = bus.recv(LIMIT_S)
        return None if answer is None else tuple(answer.data[:3])


def test_frames_and_bus_off_go_through_the_kernel(tmp_path: Path, interface: str) -> None:
    def errors(status: Mapping[str, Any]) -> int:
        (row,) = status["ledger"]["bus"].values()
        return int(row["error"])

    async def run() -> None:
        told: list[str] = []
        options = Options(folder=tmp_path, bus=interface, seal_after_s=0.5)
        async with World.open(options, told.append) as world:

            async def shows(condition: Callable[[Mapping[str, Any]], Any], what: str) -> None:
                loop = asyncio.get_running_loop()
                end = loop.time() + LIMIT_S
                while not ((status := await world.status()) and condition(status)):
                    assert loop.time() < end, f"waited in vain: {what}; {status}"
                    await asyncio.sleep(0.05)

            assert any(interface in line for line in told)
            await shows(lambda s: s["ledger"]["uplink"]["cloud"]["acknowledged"] > 0, "a batch")
            assert await asyncio.to_thread(asked, interface) == OF_ENGINE_SPEED
            await world.press("bus-off", True, {})
            await shows(lambda s: errors(s) == 1, "an error frame")
            sent = world.frames
            await shows(lambda s: s["buses"][0]["last_frames_s"] > 1, "silence")
            assert world.frames == sent
            await world.press("bus-off", False, {})
            await shows(lambda s: errors(s) == 2, "the controller's restart")
            await shows(lambda s: s["buses"][0]["last_frames_s"] < 1, "frames again")
            with pytest.raises(ConfigError, match="choose --bus slcan"):
                await world.press("clock-jump", True, {})
            verdict = await world.finish()
            assert verdict.wrong == ()
            assert verdict.arrived == verdict.kept > 0

    asyncio.run(run())


def test_an_interface_that_is_down_is_not_taken(tmp_path: Path, vcan: Links) -> None:
    vcan.add("vcan78")
    vcan.down("vcan78")
    try:
        with pytest.raises(ConfigError, match="vcan78 cannot be used here"):
            open_sink("vcan78", tmp_path, threading.Event()).close()
    finally:
        vcan.remove("vcan78")
