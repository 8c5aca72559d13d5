"""A bench whose agent reads a recording, as a bus of its own kind, and not what a bus gives.

Times are those of the recording, at any speed, and every kind of frame is in it. What cannot be
done to such a bus is whatever happens between a vehicle and its bus: frames lie in a file.
"""

import asyncio
import json
import threading
from pathlib import Path
from typing import Final

from agent.bench.anydbc import DatabaseVehicle
from agent.bench.charging import ChargingVehicle
from agent.bench.pages import Vehicle as VirtualBus
from agent.bench.play import CandumpSink
from agent.bench.scenario.model import Vehicle
from agent.bench.sinks import BenchSink, Kind
from agent.bench.truck import VirtualTruck
from agent.bench.vehicle import VirtualVehicle
from agent.bench.world import BenchError, World
from agent.blocks import FrameBlock
from agent.clock import SECOND, BootNs

# A file is dated from the first second of 2026, UTC, so that a seed gives the same file each time.
_START: Final = BootNs(1_767_225_600 * SECOND)
_CHUNK_S: Final = 5.0
_POLL_S: Final = 0.1


def record(vehicle: Vehicle, path: Path) -> None:
    """Write `vehicle.seconds` of a virtual vehicle's driving, as `candump -L` would.

    Raises:
        BusError: the file cannot be written.
        DatabaseError: the vehicle cannot be made of its database files.
    """
    drives = _virtual(vehicle)
    sink = CandumpSink(str(path), drives.bus)
    try:
        until, end = 0.0, vehicle.seconds or 0.0
        while until < end:
            until = min(until + _CHUNK_S, end)
            sink.send(drives.frames(until))
    finally:
        sink.close()


def _virtual(vehicle: Vehicle) -> VirtualBus:
    if vehicle.kind == "dbc":
        files = [Path(each) for each in vehicle.dbc]
        return DatabaseVehicle(files, vehicle.seed, _START, "can0", j1939=vehicle.j1939)
    if vehicle.kind == "truck":
        return VirtualTruck(vehicle.seed, _START)
    if vehicle.kind == "charging":
        return ChargingVehicle(vehicle.seed, _START)
    return VirtualVehicle(vehicle.seed, _START)


class RecordedBus:
    """A recording in the place of a bus: the agent reads it by itself.

    What is sent here goes nowhere; it is the same recording at the same pace, and tells the bench
    how far it is.
    """

    kind: Kind = "memory"

    def __init__(self, log: Path, channel: str, speed: float) -> None:
        self.name = str(log)
        self.skipped = 0
        self._channel = channel
        self._speed = speed

    def settings(self, bitrate: int) -> str:
        return (
            f'kind = "recording"\npath = {json.dumps(self.name)}\n'
            f"channel = {json.dumps(self._channel)}\nspeed = {self._speed:g}\n"
        )

    def ready(self) -> bool:
        return True

    def send(self, block: FrameBlock) -> int:
        return len(block)

    def bus_off(self) -> None: ...

    def bus_on(self) -> None: ...

    def close(self) -> None: ...


class RecordedWorld(World):
    """A bench with a recording as its bus: `Options.log` and `Options.speed` say which."""

    def _open_bus(self, tearing: threading.Event) -> BenchSink:
        options = self.ground.options
        if options.log is None:
            raise BenchError("no recording was named")
        return RecordedBus(options.log, options.channel, options.speed)

    async def driven(self) -> None:
        """Wait until the agent has read the recording to its end.

        Raises:
            AgentError: it ended by itself.
        """
        await super().driven()
        while True:
            self.agent.check()
            status = await self.status()
            if status and all(bus["state"].startswith("ended") for bus in status["buses"]):
                return
            await asyncio.sleep(_POLL_S)
