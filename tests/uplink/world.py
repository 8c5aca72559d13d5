"""A sender and all around it: an outbox in a folder, a ledger, time that passes in sleeps."""

import asyncio
import contextlib
import datetime as dt
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from agent.clock import SECOND, BootNs, Quality, WallNs
from agent.ledger import Ledger, differences
from agent.settings import LANES, Lane, Uplink
from agent.spool.outbox import Parcel
from agent.uplink.budget import RetryBudget
from agent.uplink.meter import Meter
from agent.uplink.sender import Sender, Status
from tests.uplink.badserver import BadServer

NAME = "cloud"


class FakeTime:
    """A clock, and a sleep that moves it instead of waiting."""

    boot_id = "boot-1"

    def __init__(self) -> None:
        self._now = 1000 * SECOND
        self._offset = 0
        self._quality = Quality.UNSYNCHRONISED
        self.slept: list[float] = []
        self.enough: Callable[[], bool] = lambda: False
        self.reached = asyncio.Event()

    def boot(self) -> BootNs:
        return BootNs(self._now)

    def wall(self) -> WallNs:
        return WallNs(self._now + self._offset)

    def quality(self) -> Quality:
        return self._quality

    def set_wall(self, moment: dt.datetime, quality: Quality = Quality.NTP) -> None:
        """As NTP does it."""
        self._offset = int(moment.timestamp()) * SECOND - self._now
        self._quality = quality

    def pass_s(self, seconds: float) -> None:
        self._now += round(seconds * SECOND)

    async def sleep(self, seconds: float) -> None:
        """Pass the time; once a test has seen enough, time stands still."""
        if self.enough():
            self.reached.set()
            await asyncio.Event().wait()
        self.slept.append(seconds)
        self._now += round(seconds * SECOND)
        await asyncio.sleep(0)


class FakeOutbox:
    """Batches as files in a folder."""

    def __init__(self, folder: Path, ledger: Ledger, uplink: str = NAME) -> None:
        self.uplink = uplink
        self.contents: dict[str, bytes] = {}
        self.acknowledged: list[str] = []
        self.quarantined: dict[str, str] = {}
        self.evicted: list[str] = []
        self.failures: list[OSError] = []
        self.kept: dict[str, bytes] = {}
        """What `resend` finds: batches that were acknowledged and not yet thrown away."""
        self.keeps = False
        self._folder = folder
        self._ledger = ledger
        self._parcels: dict[str, Parcel] = {}

    def put(self, batch_id: str, content: bytes, lane: Lane = "telemetry", n: int = 7) -> Parcel:
        path = self._folder / f"{self.uplink}-{batch_id}.batch"
        path.write_bytes(content)
        parcel = Parcel(batch_id, lane, path, len(content), n)
        self.contents[batch_id] = content
        self._parcels[batch_id] = parcel
        self._ledger.add("uplink", self.uplink, found=n, waiting=n)
        return parcel

    def replace(self, parcel: Parcel) -> None:
        self._parcels[parcel.batch_id] = parcel

    def evict(self, batch_id: str) -> None:
        parcel = self._parcels.pop(batch_id)
        parcel.path.unlink()
        self.evicted.append(batch_id)
        n = parcel.samples
        self._ledger.add("uplink", self.uplink, waiting=-n, evicted=n)

    def waiting_ids(self) -> list[str]:
        return list(self._parcels)

    def next(self, but: frozenset[str] = frozenset()) -> Parcel | None:
        found = [p for p in self._parcels.values() if p.batch_id not in but]
        return min(found, key=lambda p: LANES.index(p.lane), default=None)

    def acknowledge(self, parcel: Parcel) -> bool:
        if self.failures:
            raise self.failures.pop(0)
        if self._parcels.pop(parcel.batch_id, None):
            if self.keeps:
                self.kept[parcel.batch_id] = parcel.path.read_bytes()
            parcel.path.unlink()
            self.acknowledged.append(parcel.batch_id)
            return True
        return False

    def quarantine(self, parcel: Parcel, reason: str) -> bool:
        if self._parcels.pop(parcel.batch_id, None):
            parcel.path.rename(parcel.path.with_suffix(".bad"))
            self.quarantined[parcel.batch_id] = reason
            return True
        return False

    def resend(self, first: str, last: str) -> int:
        wanted = [b for b in sorted(self.kept) if first <= b <= last]
        for batch_id in wanted:
            self.acknowledged.remove(batch_id)
            self._ledger.add("uplink", self.uplink, acknowledged=-7, found=-7)
            self.put(batch_id, self.kept.pop(batch_id))
        return len(wanted)

    def waiting(self) -> tuple[int, int]:
        return len(self._parcels), sum(p.size for p in self._parcels.values())


class World:
    """Everything around one sender, until a test has seen enough."""

    def __init__(self, folder: Path, server: BadServer) -> None:
        self.folder = folder
        self.server = server
        self.time = FakeTime()
        self.ledger = Ledger()
        self.outbox = FakeOutbox(folder, self.ledger)
        self.budget = RetryBudget()
        self.random = random.Random(4711)
        self.url = f"http://127.0.0.1:{server.port}/base/"

    def fill(self, count: int, size: int = 3000) -> None:
        for i in range(count):
            self.outbox.put(f"batch-{i}", self.random.randbytes(size + i))

    def sender(
        self,
        *,
        kind: str = "http",
        stall_timeout_s: float = 20.0,
        connect_timeout_s: float = 10.0,
        meter: Meter | None = None,
        **more: Any,
    ) -> Sender:
        """`more` are keys of an uplink in the device file."""
        settings = Uplink(
            name=NAME,
            kind="object-store" if kind == "object-store" else "http",
            url=self.url,
            connect_timeout_s=connect_timeout_s,
            stall_timeout_s=stall_timeout_s,
            **more,
        )
        return Sender(
            settings,
            "car-1",
            self.outbox,
            self.ledger,
            self.time,
            budget=self.budget,
            meter=meter,
            random=self.random.random,
            sleep=self.time.sleep,
        )

    async def run(self, sender: Sender, until: Callable[[], bool] | None = None) -> Status:
        """Run until nothing waits, or until this is so when the sender sleeps; gives its state."""
        self.time.reached.clear()
        if until is not None:
            self.time.enough = until
        async with started(sender) as running:
            ends: list[asyncio.Future[Any]] = [running, asyncio.ensure_future(sender.drained())]
            ends.append(asyncio.ensure_future(self.time.reached.wait()))
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            assert not running.done(), running
            for end in ends[1:]:
                end.cancel()
        self.time.enough = lambda: False
        return sender.state

    def check(self) -> None:
        """Nothing is lost, and nothing is said to be there that is not."""
        outbox = self.outbox
        places = [outbox.acknowledged, outbox.quarantined, outbox.evicted, outbox.waiting_ids()]
        assert sorted(b for place in places for b in place) == sorted(outbox.contents)
        for batch_id in outbox.acknowledged:
            assert self.server.stored[batch_id] == outbox.contents[batch_id]
        counts = self.ledger.snapshot()
        assert differences(counts) == []
        row = counts["uplink"][NAME]
        for counter, place in zip(
            ("acknowledged", "quarantined", "evicted", "waiting"), places, strict=True
        ):
            assert row[counter] == 7 * len(place), counter


@contextlib.asynccontextmanager
async def started(sender: Sender) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(sender.run())
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
