"""A fleet in one process: light vehicles, each with the real spool and the real uplink code.

A `LightAgent` is an agent without buses and decoding: identity, spool folder, ledger, sender and
transport are the daemon's own. What a `LightVehicle` keeps are samples of a drive, packed by the
real encoder; every interval they become one sealed batch. Many of them share an event loop for the
network and a few threads for the disk, where the daemon has one each.

So a receiver, a broker or a link meets what a fleet of that size would send, and afterwards every
sample can be accounted for: by the ledger of each vehicle, and by the names of its batches.
"""

import abc
import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np

from agent import __version__
from agent.blocks import Int64, Kept, SignalSchema, SignalTable, TableSchema
from agent.clock import MILLISECOND, SECOND, BootNs, Clock, SystemClock
from agent.ledger import Ledger, differences
from agent.settings import Batch, Lane, Spool, Uplink
from agent.spool.outbox import FolderOutbox
from agent.spool.store import SpoolStore, StreamKey
from agent.uplink.budget import RetryBudget
from agent.uplink.sender import Sender, Status

_MOTION: Final = TableSchema(
    bus="powertrain",
    message="Motion",
    signals=(
        SignalSchema("Speed", "uint64", 16, 0.01, 0, "km/h"),
        SignalSchema("Torque", "int64", 16, 0.5, 0, "Nm"),
        SignalSchema("Odometer", "uint64", 32, 0.1, 0, "km"),
    ),
)
_BATTERY: Final = TableSchema(
    bus="powertrain",
    message="Battery",
    signals=(
        SignalSchema("Voltage", "uint64", 16, 0.1, 0, "V"),
        SignalSchema("Current", "int64", 16, 0.1, 0, "A"),
        SignalSchema("StateOfCharge", "uint64", 10, 0.1, 0, "%"),
    ),
)
_MOTION_STEP_NS: Final = 100 * MILLISECOND
_BATTERY_STEP_NS: Final = 1000 * MILLISECOND
_AT_ONCE: Final = 4


class LightSender(Protocol):
    """A sender of an agent, as far as a fleet needs it."""

    async def run(self) -> None: ...

    async def drained(self) -> None: ...

    def wake(self) -> None: ...

    @property
    def idle(self) -> bool: ...

    @property
    def state(self) -> Status: ...


S = TypeVar("S", bound=LightSender)


class LightAgent(abc.ABC, Generic[S]):
    """One vehicle with one uplink: all of it but what it keeps and how that is sent.

    `collect` belongs to one thread at a time, everything else to the event loop.

    Args:
        root: its folder; identity and spool are kept there from run to run.
        name: the vehicle's name at the receiver.
        uplink: where its batches go, by any transport.
        lane: of its batches.
        clock: the seam to time.
        seed: of its drive.

    Raises:
        SpoolError: the folder is in use or cannot be written.
        ConfigError: the uplink cannot be one.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        uplink: Uplink,
        *,
        lane: Lane,
        clock: Clock | None = None,
        seed: int = 0,
    ) -> None:
        self.name = name
        self.ledger = Ledger()
        self._root = root
        self._clock = clock or SystemClock()
        self._random = np.random.default_rng(seed)
        self._until = self._clock.boot()
        self._key = StreamKey(lane, (uplink.name,))
        self.store = SpoolStore(
            root,
            vehicle=name,
            uplinks=[uplink.name],
            spool=Spool(quota_mb=16, free_floor_mb=0),
            batch=Batch(),
            ledger=self.ledger,
            clock=self._clock,
            sealed=lambda _: self.sender.wake(),
        )
        self.sender: S = self._make_sender(uplink, self.store.outboxes[uplink.name])
        self._uplink = uplink.name
        header = {"": {"plan": "fleet", "agent": __version__}}
        self.store.start([self._key], header, thread=False)

    @abc.abstractmethod
    def _make_sender(self, uplink: Uplink, outbox: FolderOutbox) -> S:
        """What sends its batches."""

    @abc.abstractmethod
    def _happened(self, now: BootNs) -> Sequence[Kept]:
        """What is to be kept since the last call, up to a time of this boot."""

    def collect(self, seconds: float | None = None) -> None:
        """Keep what happened since the last call, and seal it: one batch more waits to be sent.

        `seconds` is how long that was, where it is not to be as long as it was. After a disk error
        the samples stay in memory and go into the next batch.
        """
        now = self._clock.boot()
        if seconds is not None:
            now = BootNs(self._until + round(seconds * SECOND))
        kept = self._happened(now)
        self._until = max(now, self._until)
        if kept:
            self.store.add({self._key: kept})
        if self._is_full():
            self.store.seal_now()
        self.store.commit()

    def _is_full(self) -> bool:
        """Whether what was kept so far becomes a batch now."""
        return True

    @property
    def counts(self) -> dict[str, int]:
        """The ledger's row of the uplink."""
        return self.ledger.snapshot()["uplink"][self._uplink]

    def finish(self) -> None:
        """The end of the run: what it leaves is sealed, with its last ledger."""
        self.store.stop()

    def close(self) -> None:
        self.store.close()


class LightVehicle(LightAgent[Sender]):
    """One that keeps samples of a drive; see `LightAgent`."""

    def __init__(
        self, root: Path, name: str, uplink: Uplink, *, clock: Clock | None = None, seed: int = 0
    ) -> None:
        super().__init__(root, name, uplink, lane="telemetry", clock=clock, seed=seed)
        self._speed = 0.0
        self._odometer = 10_000
        self._charge = 900.0

    def _make_sender(self, uplink: Uplink, outbox: FolderOutbox) -> Sender:
        return Sender(
            uplink,
            self.name,
            outbox,
            self.ledger,
            self._clock,
            budget=RetryBudget(),
            user_agent=f"vehicle-edge-agent/{__version__}",
        )

    def _happened(self, now: BootNs) -> Sequence[Kept]:
        return [t for t in (self._motion(now), self._battery(now)) if len(t.time)]

    def _times(self, now: BootNs, step: int) -> Int64:
        first = -(-self._until // step) * step
        return np.arange(first, now, step, dtype=np.int64)

    def _motion(self, now: BootNs) -> SignalTable:
        time = self._times(now, _MOTION_STEP_NS)
        push = self._random.normal(0, 1.5, len(time))
        speed = np.clip(self._speed + np.cumsum(push), 0, 130)
        way = self._odometer + np.cumsum(speed * _MOTION_STEP_NS / SECOND / 360)
        if len(time):
            self._speed, self._odometer = float(speed[-1]), int(way[-1])
        unsigned = np.stack([speed * 100, way]).astype(np.uint64)
        signed = np.rint(push * 40).astype(np.int64)[None]
        return SignalTable(_MOTION, time, {"uint64": unsigned, "int64": signed}, campaign="fleet")

    def _battery(self, now: BootNs) -> SignalTable:
        time = self._times(now, _BATTERY_STEP_NS)
        current = self._random.normal(-200, 150, len(time))
        charge = np.clip(self._charge - np.arange(len(time)) * 0.05, 0, 1000)
        if len(time):
            self._charge = float(charge[-1])
        unsigned = np.stack([3500 + charge / 2 + current / 40, charge]).astype(np.uint64)
        signed = np.rint(current).astype(np.int64)[None]
        return SignalTable(_BATTERY, time, {"uint64": unsigned, "int64": signed}, campaign="fleet")


V = TypeVar("V", bound=LightAgent[Any])


class LightFleet(Generic[V]):
    """Light vehicles that drive and send until they are told to stop.

    Args:
        root: a folder below which each vehicle has its own.
        names: of the vehicles.
        make: a vehicle from its folder, its name and its number among them.
        interval_s: each vehicle seals a batch so often; they take turns within it.

    Raises:
        SpoolError: the folder of a vehicle is in use or cannot be written.
        ConfigError: an uplink cannot be one.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        make: Callable[[Path, str, int], V],
        *,
        interval_s: float = 10.0,
    ) -> None:
        self.interval_s = interval_s
        self.late_s = 0.0
        """By how much a vehicle was late with a batch, at the most."""
        self._halted = False
        self.vehicles: Sequence[V] = tuple(
            make(root / name, name, n) for n, name in enumerate(names)
        )

    @contextlib.asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """All senders run while this lasts."""
        tasks = [asyncio.create_task(v.sender.run()) for v in self.vehicles]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def drive(self, seconds: float) -> None:
        """Let every vehicle collect and seal in its turn for so long, or until `halt`.

        A few do it at once, as they wait for the disk most of the time.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        turns = max(1, round(seconds / self.interval_s * len(self.vehicles)))
        step_s = self.interval_s / len(self.vehicles)
        busy: dict[int, asyncio.Task[None]] = {}
        try:
            for turn in range(turns):
                due, place = began + turn * step_s, turn % len(self.vehicles)
                await asyncio.sleep(max(0.0, due - loop.time()))
                while not self._halted and (len(busy) >= _AT_ONCE or place in busy):
                    await asyncio.wait(busy.values(), return_when=asyncio.FIRST_COMPLETED)
                    for done in [each for each, task in busy.items() if task.done()]:
                        busy.pop(done).result()
                if self._halted:
                    return
                busy[place] = loop.create_task(self._turn(self.vehicles[place], due + step_s))
        finally:
            await asyncio.gather(*busy.values())

    async def _turn(self, vehicle: V, due: float) -> None:
        await asyncio.to_thread(vehicle.collect)
        self.late_s = max(self.late_s, asyncio.get_running_loop().time() - due)

    def halt(self) -> None:
        """Let `drive` end at the next turn."""
        self._halted = True

    async def drained(self) -> None:
        """Wait until nothing waits for any uplink."""
        await asyncio.gather(*(v.sender.drained() for v in self.vehicles))

    async def finish(self) -> None:
        """End the run of every vehicle; its last batch waits to be sent after that."""
        for first in range(0, len(self.vehicles), _AT_ONCE):
            some = self.vehicles[first : first + _AT_ONCE]
            await asyncio.gather(*(asyncio.to_thread(vehicle.finish) for vehicle in some))

    def close(self) -> None:
        """Let go of all folders."""
        for vehicle in self.vehicles:
            vehicle.close()

    @property
    def counts(self) -> Counter[str]:
        """The sums of the ledgers of all vehicles."""
        total: Counter[str] = Counter()
        for vehicle in self.vehicles:
            total.update(vehicle.counts)
        return total

    def differences(self) -> list[str]:
        """The sums that do not close, of any vehicle; empty when all is well."""
        return [
            f"{vehicle.name}: {sentence}"
            for vehicle in self.vehicles
            for sentence in differences(vehicle.ledger.snapshot())
        ]


class Fleet(LightFleet[LightVehicle]):
    """One of vehicles that keep samples.

    Args:
        root: a folder below which each vehicle has its own.
        count: how many.
        uplink: the settings of the vehicle with this name.
        interval_s: each vehicle seals a batch so often; they take turns within it.
        seed: of the drives.
        prefix: what vehicles are called, before their number.

    Raises:
        SpoolError: the folder of a vehicle is in use or cannot be written.
        ConfigError: an uplink cannot be one.
    """

    def __init__(
        self,
        root: Path,
        count: int,
        uplink: Callable[[str], Uplink],
        *,
        interval_s: float = 10.0,
        seed: int = 0,
        prefix: str = "van",
    ) -> None:
        def make(folder: Path, name: str, number: int) -> LightVehicle:
            return LightVehicle(folder, name, uplink(name), seed=seed + number)

        names = [f"{prefix}-{n:04}" for n in range(count)]
        super().__init__(root, names, make, interval_s=interval_s)
