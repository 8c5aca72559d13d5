"""The daemon: starts the rooms in order, moves blocks between them, and stops them.

    source threads (one a bus) -> queue -> decode thread -> spool thread -> event loop (uplinks)

The event loop also answers the status socket and feeds systemd's watchdog. Every hand-over counts
in the ledger, so a snapshot closes at any time: frames in the queue are `queued`, samples that are
not yet durable are `memory`.

A stop ends the sources first, lets the decode thread empty the queue, then commits and seals the
spool. It does not wait for the network: what is sealed is sent after the next start.
"""

import asyncio
import contextlib
import json
import logging
import queue
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent import __version__
from agent.blocks import FrameBlock
from agent.bus.recording import RecordingSource
from agent.bus.source import Deliver, Source
from agent.clock import SECOND, Clock, SystemClock
from agent.collect import Collector, Plan
from agent.collect.collector import Destination
from agent.ledger import Ledger, differences
from agent.observe.notify import notify, watchdog_interval_s
from agent.observe.socket import StatusServer
from agent.settings import Bus, Device, PythonCanBus, RecordingBus, SlcanBus
from agent.signals import Decoder
from agent.spool.folder import Positions, same_recording
from agent.spool.store import SpoolStore, StreamKey
from agent.uplink.budget import RetryBudget
from agent.uplink.sender import Sender

log = logging.getLogger("edge_agent")

_QUEUE_BLOCKS = 8
_JOIN_S = 0.5
_LAST_WORDS_S = 0.5
LAST_RUN = "last-run.json"


class Daemon:
    """One run of the agent."""

    def __init__(self, device: Device, plan: Plan, clock: Clock | None = None) -> None:
        """Open the spool and the recordings; nothing runs yet.

        Raises:
            SpoolError: the spool is in use or cannot be written.
            BusError: a recording cannot be read.
            ConfigError: a bus or an uplink is set up in a way that cannot be.
        """
        self._device = device
        self._plan = plan
        self._clock = clock or SystemClock()
        self._began = self._clock.boot()
        self.ledger = Ledger()
        self._senders: dict[str, Sender] = {}
        self._sources = [_source(bus, self._clock) for bus in device.bus]
        for source in self._sources:
            self.ledger.open("bus", source.bus)
        self._store = SpoolStore(
            Path(device.state_dir) / "spool",
            vehicle=device.vehicle,
            uplinks=[uplink.name for uplink in device.uplink],
            spool=device.spool,
            batch=device.batch,
            ledger=self.ledger,
            clock=self._clock,
            header={"plan": plan.name, "agent": __version__},
            sealed=self._wake,
        )
        budget = RetryBudget()
        for uplink in device.uplink:
            self._senders[uplink.name] = Sender(
                uplink,
                device.vehicle,
                self._store.outboxes[uplink.name],
                self.ledger,
                self._clock,
                budget=budget,
                user_agent=f"vehicle-edge-agent/{__version__}",
            )
        self._collector = Collector(plan, self.ledger)
        self._decoder = Decoder.of_paths(plan.database, plan.wanted)
        self._queue: queue.Queue[tuple[FrameBlock, Positions | None, frozenset[Destination]]] = (
            queue.Queue(_QUEUE_BLOCKS)
        )
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._failed: list[str] = []
        self._drained = False

    # -- threads -----------------------------------------------------------------------------

    def _wake(self, uplink: str) -> None:
        if sender := self._senders.get(uplink):
            sender.wake()

    def _deliverer(self, source: Source) -> Deliver:
        """What a source calls with each block: count it, and put it into the queue."""
        recording = source if isinstance(source, RecordingSource) and source.resumable else None
        reached = self._resume(recording) if recording else {}
        frames = recording.begin_at if recording else 0

        def deliver(block: FrameBlock) -> None:
            nonlocal frames
            n = len(block)
            self.ledger.add("bus", source.bus, received=n, read=n, queued=n)
            position = None
            skip: frozenset[Destination] = frozenset()
            if recording:
                # A recording can wait: it is held back before anything would have to be dropped.
                while not self._store.room() and not self._stop.wait(0.05):
                    pass
                frames += n
                position = {source.bus: _position(recording, frames)}
                skip = frozenset(key for key, begin in reached.items() if begin >= frames)
            self._queue.put((block, position, skip))

        return deliver

    def _resume(self, source: RecordingSource) -> dict[Destination, int]:
        """Where each destination's data of this recording ended in an earlier run."""
        here = _position(source, 0)
        reached = {}
        for destination in self._collector.destinations:
            known = self._store.resume.get(StreamKey(*destination).name, {}).get(source.bus)
            same = known is not None and same_recording(known, here)
            reached[destination] = int(known["frames"]) if known and same else 0
        source.begin_at = min(reached.values(), default=0)
        source.cuts = frozenset(reached.values())
        if source.begin_at:
            log.info("bus %s: goes on at frame %d of %s", source.bus, source.begin_at, source.path)
        return reached

    def _read(self, source: Source, deliver: Deliver) -> None:
        try:
            source.run(deliver, self._stop)
        except Exception:
            log.exception("bus %s: reading failed", source.bus)
            self._failed.append(f"bus {source.bus}: reading failed")
        self.ledger.add("bus", source.bus, bad_lines=getattr(source, "bad", 0))
        for note in getattr(source, "notes", ()):
            log.warning("%s", note)
        if source.state != "reading":
            log.info("bus %s: %s", source.bus, source.state)

    def _decode(self) -> None:
        try:
            while True:
                try:
                    block, position, skip = self._queue.get(timeout=0.1)
                except queue.Empty:
                    if self._ended.is_set():
                        return
                    continue
                tables, c = self._decoder.decode_counted(block)
                kept = self._collector.offer(tables, skip)
                self._store.add(
                    {StreamKey(*where): parts for where, parts in kept.items()}, position
                )
                self.ledger.add(
                    "bus",
                    block.bus,
                    queued=-len(block),
                    decoded=c.decoded,
                    transport=c.transport,
                    remote=c.remote,
                    error=c.error,
                    unknown=c.unknown,
                    undecodable=c.undecodable,
                    no_branch=c.no_branch,
                    short=c.short,
                    reassembled=c.reassembled,
                    transport_lost=c.transport_lost,
                )
        except Exception:
            log.exception("decoding failed")
            self._failed.append("decoding failed")
            self._stop.set()

    # -- the run -----------------------------------------------------------------------------

    async def run(self, *, drain: bool = False) -> int:
        """Run until a signal, or with `drain` until all recordings are read and all is sent.

        Raises:
            ConfigError: the status socket cannot be made.
        """
        stop = asyncio.Event()
        told = asyncio.Event()

        def leave() -> None:
            told.set()
            stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, leave)
        keys = [StreamKey(*where) for where in self._collector.destinations]
        self._store.start(keys)
        deliverers = [self._deliverer(source) for source in self._sources]
        readers = [
            threading.Thread(target=self._read, args=pair, name=f"bus {pair[0].bus}", daemon=True)
            for pair in zip(self._sources, deliverers, strict=True)
        ]
        decoder = threading.Thread(target=self._decode, name="decode", daemon=True)
        tasks: list[asyncio.Task[Any]] = []
        try:
            async with StatusServer(Path(self._device.socket), {"status": self.status}):
                for thread in (decoder, *readers):
                    thread.start()
                tasks = [asyncio.create_task(s.run()) for s in self._senders.values()]
                tasks.append(asyncio.create_task(self._watchdog()))
                notify(f"READY=1\nSTATUS=plan {self._plan.name}")
                log.info("vehicle %s: running plan %s", self._device.vehicle, self._plan.name)
                if drain:
                    tasks.append(asyncio.create_task(self._drain(readers, stop)))
                await self._until(stop)
                notify("STOPPING=1")
                await asyncio.to_thread(self._halt, readers, decoder)
                await self._last_words(told)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(self._store.stop)  # where the socket could not be made
            self._store.close()
        self._leave_word()
        for sentence in differences(self.ledger.snapshot()):
            log.error("the ledger does not close: %s", sentence)
            self._failed.append(sentence)
        return 1 if self._failed else 0

    async def _until(self, stop: asyncio.Event) -> None:
        while not stop.is_set() and not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.5)

    async def _drain(self, readers: list[threading.Thread], stop: asyncio.Event) -> None:
        """End the run once everything is read, durable and acknowledged."""
        await _until_so(
            lambda: not any(r.is_alive() for r in readers) and not self._waits("queued", "memory")
        )
        self._store.seal_now()
        await _until_so(lambda: not self._waits("waiting"))
        self._drained = True
        stop.set()

    def _leave_word(self) -> None:
        """The last status, for whoever asks when nobody answers any more."""
        with contextlib.suppress(OSError):
            path = Path(self._device.state_dir) / LAST_RUN
            path.write_text(json.dumps(self.status()) + "\n", encoding="utf-8")

    async def _last_words(self, told: asyncio.Event) -> None:
        """What was sealed at the end, among it that the run has ended well, goes if it can.

        A drained run waits for that, until it is told to leave.
        """
        waits = [asyncio.ensure_future(sender.drained()) for sender in self._senders.values()]
        words = asyncio.gather(*waits)
        if told.is_set() or not self._drained:
            await asyncio.wait([words], timeout=_LAST_WORDS_S)
        else:
            hurry = asyncio.ensure_future(told.wait())
            either: list[asyncio.Future[Any]] = [words, hurry]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
        words.cancel()
        await asyncio.gather(*waits, return_exceptions=True)

    def _waits(self, *levels: str) -> bool:
        counts = self.ledger.snapshot()
        rows = [*counts["bus"].values(), *counts["uplink"].values()]
        return any(row.get(level, 0) for row in rows for level in levels)

    def _halt(self, readers: list[threading.Thread], decoder: threading.Thread) -> None:
        began = time.monotonic()
        self._stop.set()
        for reader in readers:
            reader.join(_JOIN_S)
        self._ended.set()
        decoder.join(_JOIN_S)
        self._store.stop()
        log.info("stopped in %.2f s", time.monotonic() - began)

    async def _watchdog(self) -> None:
        interval = watchdog_interval_s()
        while interval is not None:
            notify("WATCHDOG=1")
            await asyncio.sleep(interval)

    def status(self) -> dict[str, Any]:
        """Everything that the status socket tells."""
        counts = self.ledger.snapshot()
        return {
            "agent": __version__,
            "vehicle": self._device.vehicle,
            "plan": self._plan.name,
            "uptime_s": round((self._clock.boot() - self._began) / SECOND, 3),
            "clock": self._clock.quality().name.lower(),
            "boot_id": self._clock.boot_id,
            "buses": [
                {"name": source.bus, "kind": _kind(bus), "state": source.state}
                for source, bus in zip(self._sources, self._device.bus, strict=True)
            ],
            "uplinks": [sender.state for sender in self._senders.values()],
            "spool": self._store.status(),
            "ledger": counts,
            "differences": differences(counts),
        }


async def _until_so(condition: Callable[[], bool]) -> None:
    """Wait for what threads bring about: their counters set no event of this loop."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def _position(source: RecordingSource, frames: int) -> dict[str, Any]:
    return {"path": source.path, "size": source.size, "frames": frames}


def _kind(bus: Bus) -> str:
    return str(type(bus).__struct_config__.tag)


def _source(bus: Bus, clock: Clock) -> Source:
    match bus:
        case RecordingBus():
            return RecordingSource(
                bus.name,
                bus.path,
                channel=bus.channel or None,
                speed=bus.speed,
                loop=bus.loop,
                block_ms=bus.block_ms,
                clock=clock,
            )
        case SlcanBus():
            from agent.bus.slcan import SlcanSource  # noqa: PLC0415 - only where it is used

            return SlcanSource(
                bus.name,
                bus.device,
                bitrate=bus.bitrate,
                listen_only=bus.listen_only,
                block_ms=bus.block_ms,
                clock=clock,
            )
        case PythonCanBus():
            from agent.bus.pythoncan import PythonCanSource  # noqa: PLC0415 - slow to import

            return PythonCanSource(
                bus.name, bus.interface, bus.channel, bus.options, bus.block_ms, clock=clock
            )
