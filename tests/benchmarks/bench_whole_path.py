"""The whole path, frames in memory to acknowledged batch, against cantools, json and gzip."""

import asyncio
import json
import statistics
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cantools.database import DecodeError

from agent import settings
from agent.blocks import EXTENDED, FrameBlock
from agent.clock import MILLISECOND, SECOND, BootNs, Quality, SystemClock, WallNs
from agent.collect import Collector, Plan
from agent.ledger import Ledger, differences
from agent.signals import Database, Decoder
from agent.spool.store import SpoolStore, StreamKey
from agent.uplink.budget import RetryBudget
from agent.uplink.sender import Sender
from tests.benchmarks.processes import cloud
from tests.benchmarks.report import Figure, cpu_s, file_system, medians, parser, show
from tests.benchmarks.traffic import KONA, VEHICLE, Traffic, cantools_messages, join, later, sources

_UPLINK = "cloud"
_VEHICLE_S = 60
"""How much driving one round holds: one sealed batch."""
_ROUNDS = 5
_SEAL_S = 60

Steps = list[list[FrameBlock]]
"""Blocks, and after each list of them a commit."""


class FrameClock:
    """A boot clock that shows the time of the frames, so that batches are as on a drive."""

    boot_id = "bench"

    def __init__(self) -> None:
        self.now = 0

    def boot(self) -> BootNs:
        return BootNs(self.now)

    def wall(self) -> WallNs:
        return WallNs(self.now)

    def quality(self) -> Quality:
        return Quality.NTP


class Rooms:
    """The agent's rooms in one process, joined as the daemon joins them, without its waiting.

    A commit happens after each second of the frames' time and not of the run's, and a batch is
    sealed at 60 s of it: chunks, batches, fsyncs and requests are those of a drive.
    """

    def __init__(self, folder: Path, database: Database, url: str) -> None:
        device = settings.Device(
            vehicle="bench", plan="", uplink=[settings.Uplink(name=_UPLINK, url=url)]
        )
        wanted = settings.Plan(
            version=1,
            name="all",
            database=[],
            campaign=[settings.Campaign(name="all", signals=["*"])],
        )
        plan = Plan.build(wanted, database, [_UPLINK])
        self.ledger = Ledger()
        self._clock = FrameClock()
        # The thread's own rounds stay out of the way: commits are made here.
        spool = settings.Spool(commit_interval_s=60, memory_mb=1024, free_floor_mb=0)
        self._store = SpoolStore(
            folder,
            vehicle=device.vehicle,
            uplinks=[_UPLINK],
            spool=spool,
            batch=settings.Batch(seal_after_s=_SEAL_S),
            ledger=self.ledger,
            clock=self._clock,
            sealed=lambda _uplink: self._sender.wake(),
        )
        self._sender = Sender(
            device.uplink[0],
            device.vehicle,
            self._store.outboxes[_UPLINK],
            self.ledger,
            SystemClock(),
            budget=RetryBudget(),
        )
        self._decoder = Decoder.of_paths(database, plan.wanted)
        self._collector = Collector(plan, self.ledger)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._upload, daemon=True)
        self.rooms_s = {"decode": 0.0, "collect": 0.0, "pack and make durable": 0.0}
        """CPU time of the thread that runs these rooms."""

    def __enter__(self) -> Self:
        self._store.start([StreamKey(*where) for where in self._collector.destinations])
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        self._store.stop()
        self._store.close()

    def _upload(self) -> None:
        async def run() -> None:
            self._task = asyncio.ensure_future(self._sender.run())
            await asyncio.gather(self._task, return_exceptions=True)

        self._loop.run_until_complete(run())
        self._loop.close()

    def feed(self, steps: Steps) -> None:
        """Take all frames, and return when the receiver has acknowledged the last sample."""
        for blocks in steps:
            for block in blocks:
                began = time.thread_time()
                self.ledger.add("bus", block.bus, received=len(block), read=len(block))
                tables, counts = self._decoder.decode_counted(block)
                decoded = time.thread_time()
                kept = self._collector.offer(tables)
                self._store.add({StreamKey(*where): parts for where, parts in kept.items()})
                self.ledger.add(
                    "bus",
                    block.bus,
                    decoded=counts.decoded,
                    unknown=counts.unknown,
                    undecodable=counts.undecodable,
                    remote=counts.remote,
                    error=counts.error,
                )
                self._clock.now = max(self._clock.now, int(block.time[-1]))
                self.rooms_s["decode"] += decoded - began
                self.rooms_s["collect"] += time.thread_time() - decoded
            self._commit()
        self._clock.now += _SEAL_S * SECOND
        self._commit()
        while self.ledger.snapshot()["uplink"][_UPLINK]["waiting"]:
            time.sleep(0.01)
        counts_now = self.ledger.snapshot()
        row = counts_now["uplink"][_UPLINK]
        if differences(counts_now) or row["kept"] != row["acknowledged"] or not row["kept"]:
            raise RuntimeError(f"not everything was acknowledged: {row}")

    def _commit(self) -> None:
        began = time.thread_time()
        self._store.commit()
        self.rooms_s["pack and make durable"] += time.thread_time() - began


class Contest:
    """Both contestants on one traffic."""

    def __init__(self, traffic: Traffic, url: str, folder: Path) -> None:
        self._traffic = traffic
        self._url = url
        self._folder = folder
        self._runs = 0
        self._database = traffic.database()
        self._repeats = max(1, round(_VEHICLE_S * SECOND / traffic.span_ns))
        self._frames = [*_as_tuples(traffic)]
        self._messages = {
            message.frame_id | (EXTENDED if message.is_extended_frame else 0): message
            for path in traffic.dbc
            for message in cantools_messages(path)
        }
        self._live = self._steps([*traffic.seconds()])
        self._large = self._steps([*traffic.large_blocks()])
        self.shares: dict[str, list[float]] = {}

    def _steps(self, once: Steps) -> Steps:
        """The whole traffic, once to warm up and then as often as it is measured."""
        traffic = self._traffic
        shifts = [i * traffic.span_ns - traffic.first_ns for i in range(self._repeats + 1)]
        return [later(blocks, shift) for shift in shifts for blocks in once]

    def agent(self, steps: Steps) -> float:
        """CPU seconds a frame. The first repetition warms up: schemas, branches, connection."""
        self._runs += 1
        warm = len(steps) // (self._repeats + 1)
        with Rooms(self._folder / f"spool-{self._runs}", self._database, self._url) as rooms:
            rooms.feed(steps[:warm])
            rooms.rooms_s = dict.fromkeys(rooms.rooms_s, 0.0)
            spent = cpu_s(lambda: rooms.feed(steps[warm:]))
            frames = self._traffic.frames * self._repeats
            rest = spent - sum(rooms.rooms_s.values())
            if steps is self._live:
                for room, room_s in {**rooms.rooms_s, "upload": rest}.items():
                    self.shares.setdefault(room, []).append(1e6 * room_s / frames)
        return spent / frames

    def plain(self) -> float:
        """CPU seconds a frame of the other way."""
        return cpu_s(self._decode_dump_zip) / len(self._frames)

    def _decode_dump_zip(self) -> int:
        packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        size = 0
        lines: list[str] = []
        for number, data, when in self._frames:
            message = self._messages.get(number)
            if message is None:
                continue
            try:
                values: Any = message.decode(data, decode_choices=False, allow_truncated=True)
            except DecodeError:
                continue
            values["time"] = when
            lines.append(json.dumps(values))
            if len(lines) == 1000:
                size += len(packer.compress("\n".join(lines).encode()))
                lines.clear()
        size += len(packer.compress("\n".join(lines).encode()))
        return size + len(packer.flush())

    def figures(self) -> Iterator[Figure]:
        name = self._traffic.name
        contestants: dict[str, Callable[[], float]] = {
            "plain": self.plain,
            "live": lambda: self.agent(self._live),
            "large": lambda: self.agent(self._large),
        }
        found = medians(contestants, _ROUNDS)
        note = f"({self._traffic.frames:,} frames, {self._repeats} times)"
        yield Figure(f"{name}: cantools + json + gzip", 1e6 * found["plain"], "µs/frame")
        yield Figure(f"{name}: agent, live", 1e6 * found["live"], "µs/frame", note=note)
        for room, told in self.shares.items():
            yield Figure(f"{name}:   of which {room}", statistics.median(told), "µs/frame")
        yield Figure(f"{name}: ratio, live", found["plain"] / found["live"], "x", target=15)
        yield Figure(f"{name}: agent, large blocks", 1e6 * found["large"], "µs/frame")
        yield Figure(
            f"{name}: ratio, large blocks", found["plain"] / found["large"], "x", target=15
        )


def _as_tuples(traffic: Traffic) -> Iterator[tuple[int, bytes, float]]:
    frames = join([*traffic.buses])
    rows: Sequence[Any] = (frames.id.tolist(), frames.length.tolist(), frames.time.tolist())
    for number, length, when, data in zip(*rows, frames.data, strict=True):
        yield number, data.tobytes()[:length], when // MILLISECOND / 1000


def main() -> None:
    made = parser(__doc__ or "")
    made.add_argument(
        "--folder", type=Path, help="where the spool lies; the system's temporary folder if not set"
    )
    args = made.parse_args()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name, cloud(Path(name) / "cloud") as url:
        kind = file_system(Path(name))
        for source in (KONA, VEHICLE):
            if (load := sources().get(source)) is not None:
                figures += Contest(load(), url, Path(name)).figures()
    notes = (
        "CPU time, user and system, of all threads; medians of alternating rounds.",
        "live: blocks of 500 ms a bus, a commit a second of driving, as a running agent has them.",
        "large blocks: of up to 16,384 frames, and a commit after each.",
        f"The spool is on {kind}, with real fsyncs; the receiver is another process.",
    )
    show("Whole path", figures, notes, as_json=args.json)


if __name__ == "__main__":
    main()
