"""What the faults of a bench do to its parts; each is taken back by its other half."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agent.bench.faults import Action
from agent.bench.gbt32960.faults import actions as platform_actions
from agent.bench.publisher import Publisher
from agent.bench.sinks import BenchSink
from agent.errors import ConfigError

if TYPE_CHECKING:
    from agent.bench.world import World

Parameters = Mapping[str, Any]


class Actions:
    """The actions of a world.

    Attributes:
        all: by the names of the faults.
        frames_lost: whether something was done because of which frames that were sent cannot all
            have been read.
    """

    def __init__(self, world: "World", publisher: Publisher, sink: BenchSink) -> None:
        self.frames_lost = False
        self._world = world
        self._publisher = publisher
        self._sink = sink
        self._published: dict[str, list[str]] = {"update": [], "hostile-update": []}
        self._power_on = asyncio.Event()
        self._power: asyncio.Task[None] | None = None
        self.all: Mapping[str, Action] = {
            "link-down": self._link_down,
            "link-slow": self._link_slow,
            "link-lossy": self._link_lossy,
            "cloud-status": self._cloud_status,
            "lost-ack": self._lost_ack,
            "disk-full": self._disk_full,
            "ecu-silent": lambda on, p: self._disturb("ecu-silent", on, p),
            "bit-flips": lambda on, p: self._disturb("bit-flips", on, p),
            "stuck-counter": lambda on, p: self._disturb("stuck-counter", on, p),
            "false-value": lambda on, p: self._disturb("false-value", on, p),
            "overload": lambda on, p: self._disturb("overload", on, p),
            "bus-off": self._bus_off,
            "clock-jump": self._clock_jump,
            "power-cut": self._power_cut,
            "hostile-update": self._hostile_update,
            "update": self._update,
            **(platform_actions(world.platform) if world.platform else {}),
        }

    async def close(self) -> None:
        """The agent is not started again after this."""
        if self._power is not None:
            self._power.cancel()
            await asyncio.gather(self._power, return_exceptions=True)

    # -- link and cloud ----------------------------------------------------------------------

    async def _link_down(self, on: bool, _: Parameters) -> None:
        for link in self._world.links:
            if on:
                link.cut()
            else:
                link.restore()

    async def _link_slow(self, on: bool, parameters: Parameters) -> None:
        for link in self._world.links:
            link.kbit_s = parameters["kbit_s"] if on else 0
            link.latency_ms = parameters["latency_ms"] if on else 0
            link.wake()

    async def _link_lossy(self, on: bool, parameters: Parameters) -> None:
        for link in self._world.links:
            link.lost_percent = parameters["percent"] if on else 0
            link.wake()

    async def _cloud_status(self, on: bool, parameters: Parameters) -> None:
        self._world.cloud_faults.status = int(parameters["code"]) if on else 0

    async def _lost_ack(self, on: bool, _: Parameters) -> None:
        self._world.cloud_faults.lost_ack = on

    # -- the computer ------------------------------------------------------------------------

    async def _disk_full(self, on: bool, _: Parameters) -> None:
        self._world.agent.set_disk_full(on)

    async def _clock_jump(self, on: bool, parameters: Parameters) -> None:
        if on and self._sink.kind == "vcan":
            raise ConfigError(
                "the kernel stamps the frames of a vcan interface by its own clock, which does not "
                "jump: choose --bus slcan for this fault"
            )
        self._world.agent.shift_clock(parameters["seconds"] if on else 0)

    async def _power_cut(self, on: bool, parameters: Parameters) -> None:
        if self._power is not None:
            self._power_on.set()
            await self._power
            self._power = None
        if not on:
            return
        self.frames_lost = True
        self._world.agent.check()
        await self._world.agent.kill()
        self._power_on.clear()
        self._power = asyncio.create_task(self._power_back(parameters["off_s"]))

    async def _power_back(self, after_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._power_on.wait(), after_s)
        await self._world.agent.start()
        self._world.switchboard.over("power-cut")

    # -- the bus -----------------------------------------------------------------------------

    async def _disturb(self, name: str, on: bool, parameters: Parameters) -> None:
        given = {k: v for k, v in parameters.items() if v != ""} if on else {}
        if "node" in given:
            given.pop("message", None)  # that is only the default, or part of the node
        await asyncio.to_thread(self._world.driver.disturb, name, on, given)

    async def _bus_off(self, on: bool, _: Parameters) -> None:
        self.frames_lost = True
        await asyncio.to_thread(self._sink.bus_off if on else self._sink.bus_on)

    # -- configuration over the air ----------------------------------------------------------

    async def _hostile_update(self, on: bool, parameters: Parameters) -> None:
        await self._withdraw("hostile-update")
        if on:
            await self._publish("hostile-update", parameters["kind"])

    async def _update(self, on: bool, _: Parameters) -> None:
        if on:
            await self._publish("update", "good")
        else:
            await self._withdraw("update")

    async def _publish(self, name: str, kind: Any) -> None:
        title = await asyncio.to_thread(self._publisher.publish, kind)
        self._published[name].append(title)

    async def _withdraw(self, name: str) -> None:
        while self._published[name]:
            await asyncio.to_thread(self._publisher.withdraw, self._published[name].pop())
