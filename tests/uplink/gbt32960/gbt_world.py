"""A vehicle, its sender and a platform, in one event loop whose time may be virtual."""

import asyncio
import contextlib
import dataclasses
import datetime as dt
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from agent.bench.gbt32960.behaviour import Behaviour
from agent.bench.gbt32960.platform import Platform
from agent.bench.gbt32960.record import Record, Taken
from agent.blocks import Reports
from agent.clock import SECOND, Clock, WallNs
from agent.collect.reports.tuning import Tuning
from agent.gbt32960.codec import unpack_time
from agent.gbt32960.envelope import Frame
from agent.settings import Gbt32960, Uplink
from agent.uplink.gbt32960.link import PlatformSender
from agent.uplink.gbt32960.tally import PlatformState
from tests.uplink.gbt32960.gbt_vehicle import UPLINK, Vehicle, number_of

VIN = "LEDGAGENT00000001"
NOON = WallNs(int(dt.datetime(2026, 7, 7, 12, tzinfo=dt.UTC).timestamp()) * SECOND)
_HOURS_S = 200 * 3600.0
LOGIN, LIVE, REISSUE, LOGOUT = 0x01, 0x02, 0x03, 0x04


class Seen(Record):
    """Keeps the frames in their order as well."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Frame] = []

    def take(self, frame: Frame, arrival: WallNs, vin: str) -> Taken:
        self.frames.append(frame)
        return super().take(frame, arrival, vin)

    def of(self, *commands: int) -> list[Frame]:
        return [frame for frame in self.frames if frame.command in commands]

    def numbers(self, *commands: int) -> list[int]:
        """Of the reports, in the order in which they came; live and reissued."""
        return [number_of(frame.body) for frame in self.of(*commands or (LIVE, REISSUE))]

    def times(self, *commands: int) -> list[WallNs]:
        return [unpack_time(frame.body[:6]) for frame in self.of(*commands or (LIVE, REISSUE))]


class World:
    """One vehicle and what is around it.

    Attributes:
        vehicle: its spool; `restart` puts another process in its place.
        sender: as `run` uses it.
        next: the number of the next report.
    """

    def __init__(self, folder: Path, platform: Platform, seen: Seen, clock: Clock) -> None:
        self.folder = folder
        self.platform = platform
        self.seen = seen
        self.clock = clock
        self.url = f"gbt32960://127.0.0.1:{platform.port}"
        self.tuning = Tuning()
        self.keys: dict[str, Any] = {}
        self.uplink: dict[str, Any] = {}
        self.next = 0
        self.made: dict[int, int] = {}
        self.vehicle = Vehicle(folder, clock)
        self.sender = self.make()

    def make(self) -> PlatformSender:
        settings = Uplink(
            name=UPLINK,
            kind="gbt32960",
            url=self.url,
            gbt32960=Gbt32960(**{"vin": VIN, "reissue_per_s": 1000.0, **self.keys}),
            **self.uplink,
        )
        sender = PlatformSender(
            settings,
            self.vehicle.outbox,
            self.vehicle.ledger,
            self.clock,
            tuning=self.tuning,
            state_dir=self.folder,
            seal=self.vehicle.seal,
            anchor=self.vehicle.store.anchor,
            random=lambda: 0.5,
        )
        self.vehicle.sealed = sender.wake
        return sender

    def configure(self, uplink: dict[str, Any] | None = None, **keys: Any) -> None:
        """Another device file: keys of [uplink.gbt32960], and of the uplink."""
        self.keys.update(keys)
        self.uplink.update(uplink or {})
        self.sender = self.make()

    def restart(self) -> None:
        """The power is cut, and comes back at once."""
        self.vehicle.check()
        self.vehicle.drop()
        self.vehicle = Vehicle(self.folder, self.clock)
        self.sender = self.make()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.sender.run())
        try:
            yield
            assert not task.done(), task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # -- reports -----------------------------------------------------------------------------

    def numbers(self, count: int) -> range:
        first, self.next = self.next, self.next + count
        return range(first, self.next)

    def report(self, count: int = 1, **more: Any) -> Reports:
        """New reports, spooled, not sealed, and offered as live ones."""
        reports = self.vehicle.reports(self.numbers(count), live=True, **more)
        self._keep(reports)
        self.sender.offer(reports)
        return reports

    def store(self, count: int, **more: Any) -> None:
        """New reports that nobody was there to send, in a batch of their own."""
        self._keep(self.vehicle.reports(self.numbers(count), **more))
        self.vehicle.seal()

    def _keep(self, reports: Reports) -> None:
        self.vehicle.keep(reports, seal=False)
        self.made.update(zip(self.numbers_of(reports), reports.time.tolist(), strict=True))

    def numbers_of(self, reports: Reports) -> list[int]:
        return [int.from_bytes(body[3:7], "big") for body in reports.bodies]

    def sleep(self) -> None:
        """The vehicle is off."""
        empty = self.vehicle.reports([])
        self.sender.offer(dataclasses.replace(empty, awake=False))

    # -- what is waited for ------------------------------------------------------------------

    @property
    def told(self) -> PlatformState:
        return self.sender.state["platform"]

    async def until(self, condition: Callable[[], Any], step_s: float = 0.05) -> None:
        """Wait until it is so; in virtual time that takes none."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _HOURS_S
        while not condition():
            assert loop.time() < end, f"in vain: {self.sender.state}"
            await asyncio.sleep(step_s)

    async def all_there(self, step_s: float = 0.05) -> None:
        """Wait until the platform has everything, and the spool owes it nothing."""
        self.vehicle.seal()
        await self.until(lambda: self.sender.idle, step_s)
        self.check()

    def check(self) -> None:
        """Everything came with its own time, reissues in order, and the ledger is closed."""
        self.vehicle.check()
        offset = NOON - 1000 * SECOND
        came = dict(zip(self.seen.numbers(), self.seen.times(), strict=True))
        nearest = {n: round((t + offset) / SECOND) * SECOND for n, t in self.made.items()}
        assert came == nearest

    def in_order(self) -> None:
        """Reissues rise in time, but where a link began anew."""
        times = self.seen.times(REISSUE)
        assert times == sorted(times)


@contextlib.asynccontextmanager
async def world(
    folder: Path,
    clock: Clock,
    behaviour: Behaviour | None = None,
    *,
    tls: ssl.SSLContext | None = None,
    its_clock: Clock | None = None,
) -> AsyncIterator[World]:
    """A platform on 127.0.0.1, and a vehicle that does not run yet."""
    seen = Seen()
    its_clock = its_clock or clock
    async with Platform(seen, behaviour=behaviour, clock=its_clock, tls=tls) as platform:
        made = World(folder, platform, seen, clock)
        yield made
        made.vehicle.finish()


@contextlib.asynccontextmanager
async def scripted(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server that does what a test says; gives its address."""
    ends: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        ends[task] = writer
        with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
            await serve(reader, writer)
            await asyncio.Event().wait()

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    try:
        yield f"gbt32960://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task, writer in ends.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        await server.wait_closed()
        await asyncio.sleep(0.1)
