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
from agent.blocks import SignalTable
from agent.bus.early import EarlyFrames
from agent.bus.factory import Surroundings, sources_of
from agent.clock import SECOND, BootNs, Clock, SystemClock
from agent.collect import Collector, Plan
from agent.collect.collector import Destination
from agent.errors import ConfigError
from agent.ignition import Key
from agent.intake import Intake, Item
from agent.ledger import Ledger, differences
from agent.observe.notify import notify, watchdog_interval_s
from agent.observe.socket import Command, StatusServer
from agent.settings import Bus, Device
from agent.signals import Decoder
from agent.signals.filters import kernel_filters
from agent.spool.folder import Positions
from agent.spool.store import SpoolStore, StreamKey
from agent.uplink.budget import RetryBudget
from agent.uplink.meter import Meter
from agent.uplink.sender import Sender, Senders

log = logging.getLogger("edge_agent")

_QUEUE_BLOCKS = 8
_JOIN_S = 0.5
_LAST_WORDS_S = 0.5
LAST_RUN = "last-run.json"


class Daemon:
    """One run of the agent."""

    def __init__(
        self,
        device: Device,
        plan: Plan,
        clock: Clock | None = None,
        early: Callable[[str], EarlyFrames | None] = lambda _bus: None,
    ) -> None:
        """Open the spool and the recordings; nothing runs yet.

        `early` gives the socket of a bus that was opened before everything else.

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
        self._by_uplink: dict[str, Sender] = {}
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
            shares={uplink.name: uplink.share for uplink in device.uplink},
        )
        budget = RetryBudget()
        self._meter = Meter(device.link, Path(device.state_dir), self._clock)
        for uplink in device.uplink:
            self._by_uplink[uplink.name] = Sender(
                uplink,
                device.vehicle,
                self._store.outboxes[uplink.name],
                self.ledger,
                self._clock,
                budget=budget,
                user_agent=f"vehicle-edge-agent/{__version__}",
                meter=self._meter,
            )
        self._senders = Senders(list(self._by_uplink.values()))
        self._collector = Collector(plan, self.ledger)
        self._key = Key(
            device.ignition,
            plan,
            self._clock,
            self._senders,
            seal=self._store.seal_now,
            heard=self._heard,
        )
        key = set() if self._key.signal is None else {self._key.signal}
        self._wanted = plan.wanted | key
        self._decoder = Decoder.of_paths(plan.database, self._wanted)
        self._queue: queue.Queue[Item] = queue.Queue(_QUEUE_BLOCKS)
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._failed: list[str] = []
        self._drained = False
        around = Surroundings(self._clock, self._store.date, early, self._key.awake, self._filters)
        self._intakes = [
            (
                bus,
                Intake(
                    source,
                    ledger=self.ledger,
                    clock=self._clock,
                    put=self._queue.put,
                    room=self._store.room,
                    stop=self._stop,
                ),
            )
            for bus in device.bus
            for source in sources_of(bus, around)
        ]

    def _filters(self, bus: str) -> list[tuple[int, int]] | None:
        return kernel_filters(self._plan.database, bus, self._wanted)

    # -- threads -----------------------------------------------------------------------------

    def _wake(self, uplink: str) -> None:
        if sender := self._by_uplink.get(uplink):
            sender.wake()

    def _decode(self) -> None:
        try:
            while True:
                try:
                    block, position, skip = self._queue.get(timeout=0.1)
                except queue.Empty:
                    if self._ended.is_set():
                        return
                    continue
                if isinstance(block, SignalTable):
                    self._keep([block], position, skip)
                    continue
                tables, c = self._decoder.decode_counted(block)
                self._keep(tables, position, skip)
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

    def _keep(
        self,
        tables: list[SignalTable],
        position: Positions | None,
        skip: frozenset[Destination],
    ) -> None:
        self._key.note(tables)
        kept = self._collector.offer(tables, skip)
        self._store.add({StreamKey(*where): parts for where, parts in kept.items()}, position)

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
        for _, intake in self._intakes:
            intake.resume(
                self._collector.destinations,
                lambda where: self._store.resume.get(StreamKey(*where).name, {}),
            )
        decoder = threading.Thread(target=self._decode, name="decode", daemon=True)
        tasks: list[asyncio.Task[Any]] = []
        commands: dict[str, Command] = {
            "status": self.status,
            "sleep": self._key.sleep,
            "wake": self._key.wake,
            "resend": self._resend,
        }
        try:
            async with StatusServer(Path(self._device.socket), commands):
                decoder.start()
                for _, intake in self._intakes:
                    intake.start()
                self._senders.start()
                tasks.append(asyncio.create_task(self._watchdog()))
                tasks.append(asyncio.create_task(self._mind(stop)))
                notify(f"READY=1\nSTATUS=plan {self._plan.name}")
                log.info("vehicle %s: running plan %s", self._device.vehicle, self._plan.name)
                if drain:
                    tasks.append(asyncio.create_task(self._drain(stop)))
                await self._until(stop)
                notify("STOPPING=1")
                await asyncio.to_thread(self._halt, decoder)
                await self._last_words(told)
        finally:
            for task in tasks:
                task.cancel()
            await self._senders.stop()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._key.close()
            await asyncio.to_thread(self._store.stop)  # where the socket could not be made
            self._store.close()
        self._leave_word()
        for sentence in differences(self.ledger.snapshot()):
            log.error("the ledger does not close: %s", sentence)
            self._failed.append(sentence)
        return 1 if self._failed else 0

    async def _resend(self, uplink: str, first: str, last: str = "") -> dict[str, Any]:
        """The command `resend`: kept batches from `first` to `last` go once more."""
        if uplink not in self._by_uplink:
            raise ConfigError(
                f"no uplink is called {uplink}; there is {', '.join(self._by_uplink)}"
            )
        return {"batches": await asyncio.to_thread(self._store.resend, uplink, first, last)}

    async def _until(self, stop: asyncio.Event) -> None:
        while not stop.is_set() and not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.5)

    async def _mind(self, stop: asyncio.Event) -> None:
        """What is looked at twice a second: silence on a bus, the key."""
        while True:
            for _, intake in self._intakes:
                intake.listen()
            await self._key.look()
            if self._key.leave.is_set():
                stop.set()
            await asyncio.sleep(0.5)

    def _heard(self) -> BootNs:
        return max((i.heard or self._began for _, i in self._intakes), default=self._began)

    # -- the end -----------------------------------------------------------------------------

    async def _drain(self, stop: asyncio.Event) -> None:
        """End the run once everything is read, durable and acknowledged."""
        await _until_so(
            lambda: (
                not any(i.alive for _, i in self._intakes) and not self._waits("queued", "memory")
            )
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
        waits = [asyncio.ensure_future(sender.drained()) for sender in self._senders.all]
        words = asyncio.gather(*waits)
        if told.is_set() or not self._drained:
            await asyncio.wait([words], timeout=_LAST_WORDS_S)
        else:
            hurry = asyncio.ensure_future(told.wait())
            either: list[asyncio.Future[Any]] = [words, hurry]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
        words.cancel()
        await asyncio.gather(words, return_exceptions=True)

    def _waits(self, *levels: str) -> bool:
        counts = self.ledger.snapshot()
        rows = [*counts["bus"].values(), *counts["uplink"].values()]
        return any(row.get(level, 0) for row in rows for level in levels)

    def _halt(self, decoder: threading.Thread) -> None:
        began = time.monotonic()
        self._stop.set()
        for _, intake in self._intakes:
            intake.join(_JOIN_S)
            if intake.failed:
                self._failed.append(intake.failed)
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
        for _, intake in self._intakes:
            intake.count()
        counts = self.ledger.snapshot()
        return {
            "agent": __version__,
            "vehicle": self._device.vehicle,
            "plan": self._plan.name,
            "uptime_s": round((self._clock.boot() - self._began) / SECOND, 3),
            "clock": self._clock.quality().name.lower(),
            "boot_id": self._clock.boot_id,
            "buses": [intake.status(_kind(bus)) for bus, intake in self._intakes],
            "ignition": self._key.status(),
            "link": self._meter.status(),
            "uplinks": [sender.state for sender in self._senders.all],
            "spool": self._store.status(),
            "ledger": counts,
            "differences": differences(counts),
        }


async def _until_so(condition: Callable[[], bool]) -> None:
    """Wait for what threads bring about: their counters set no event of this loop."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.05)


def _kind(bus: Bus) -> str:
    return str(type(bus).__struct_config__.tag)
