"""The daemon: starts the rooms in order, moves blocks between them, and stops them.

    source threads (one a bus) -> queue -> decode thread -> spool thread -> event loop (uplinks)

The event loop also answers the status socket, and feeds systemd's watchdog while the decode thread
gets on. Every hand-over counts in the ledger, so a snapshot closes at any time: frames in the queue
are `queued`, samples that are not yet durable are `memory`.

A stop ends the sources first, lets the decode thread empty the queue, then commits and seals the
spool. It does not wait for the network: what is sealed is sent after the next start.
"""

import asyncio
import contextlib
import json
import logging
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent import __version__
from agent.blocks import Event, Kept
from agent.bus.early import EarlyFrames
from agent.bus.factory import Surroundings, sources_of
from agent.clock import SECOND, BootNs, Clock, SystemClock
from agent.collect import Plan
from agent.collect.collector import Destination
from agent.decoding import DecodeThread
from agent.ending import Ending, until_so
from agent.errors import AgentError, ConfigError, DatabaseError
from agent.ignition import Key, signal_of
from agent.intake import Intake
from agent.ledger import Ledger, differences
from agent.memories import Memories
from agent.observe.notify import STOPPING, feed_watchdog, notify
from agent.observe.socket import Command, StatusServer
from agent.ota import load_factory_plan
from agent.pipeline import Pipeline, Prepared, headers, prepare
from agent.platforms import Platforms
from agent.recent import RecentFrames
from agent.settings import Device, SocketCanBus
from agent.signals.filters import union
from agent.spending import Spending
from agent.spool.positions import Positions
from agent.spool.store import SpoolStore, StreamKey
from agent.telling import Telling
from agent.uplink.budget import RetryBudget
from agent.uplink.meter import Meter
from agent.uplink.sender import Sender, Senders, Sending

if TYPE_CHECKING:
    from agent.ota.store import Store
    from agent.updates import Updates

log = logging.getLogger("edge_agent")

LAST_RUN = "last-run.json"


class Daemon:
    """One run of the agent."""

    def __init__(
        self,
        device: Device,
        plan: Plan,
        clock: Clock | None = None,
        early: Callable[[str], EarlyFrames | None] = lambda _bus: None,
        *,
        bundle: str = "",
        bundles: "Store | None" = None,
    ) -> None:
        """Open the spool and the recordings; nothing runs yet.

        `early` gives the socket of a bus that was opened before everything else. `bundle` is what
        the plan came with over the air, `bundles` is where those are kept.

        Raises:
            SpoolError: the spool is in use or cannot be written.
            BusError: a recording cannot be read.
            ConfigError: a bus or an uplink is set up in a way that cannot be.
        """
        self._device = device
        self._clock = clock or SystemClock()
        self._began = self._clock.boot()
        self._reports = StreamKey("report", tuple(sorted(device.receivers)))
        self.ledger = Ledger()
        self._by_uplink: dict[str, Sending] = {}
        self._store = SpoolStore(
            Path(device.state_dir) / "spool",
            vehicle=device.vehicle,
            uplinks=[uplink.name for uplink in device.uplink],
            spool=device.spool,
            batch=device.batch,
            ledger=self.ledger,
            clock=self._clock,
            sealed=self._wake,
            shares={uplink.name: uplink.share for uplink in device.uplink},
        )
        self._platforms = Platforms(device, self._store, self.ledger, self._clock)
        budget = RetryBudget()
        self._meter = Meter(device.link, Path(device.state_dir), self._clock)
        for uplink in device.uplink:
            if uplink.gbt32960 is not None:
                self._by_uplink[uplink.name] = self._platforms.sender(uplink)
                continue
            self._by_uplink[uplink.name] = Sender(
                uplink,
                device.vehicle,
                self._store.outboxes[uplink.name],
                self.ledger,
                self._clock,
                budget=budget,
                user_agent=f"vehicle-edge-agent/{__version__}",
                meter=self._meter,
                nudged=None if bundles is None else self._nudged,
            )
        self._senders = Senders(list(self._by_uplink.values()))
        self._key = Key(
            device.ignition,
            plan,
            self._clock,
            self._senders,
            seal=self._store.seal_now,
            heard=self._heard,
        )
        self._recent = RecentFrames() if device.ota is not None else None
        self._pipeline = Pipeline(
            self._prepare(plan, bundle),
            self.ledger,
            self._clock,
            self._keep,
            self._key.note,
            recent=self._recent,
        )
        self._decoder = DecodeThread(
            self._pipeline,
            switched=self._switched,
            ended=self._end_of_input,
            failed=self._decode_failed,
        )
        self._spending = Spending(
            device,
            plan,
            self._meter,
            self._clock,
            pipeline=self._pipeline,
            decoder=self._decoder,
            recent=self._recent,
        )
        self._memories = Memories(Path(device.state_dir), self._clock.boot_id)
        self._telling = Telling(device, self._clock, self.status, self._report)
        self._updates = self._make_updates(bundles)
        self._stop = threading.Event()
        self._switching = asyncio.Lock()
        self._reloading: asyncio.Future[None] | None = None
        self._open_events: list[str] = []
        self._failed: list[str] = []
        around = Surroundings(self._clock, self._store.date, early, self._key.awake, self._filters)
        self._intakes = [
            (
                bus,
                Intake(
                    source,
                    ledger=self.ledger,
                    clock=self._clock,
                    put=self._decoder.put,
                    room=self._store.room,
                    stop=self._stop,
                ),
            )
            for bus in device.bus
            for source in sources_of(bus, around)
        ]
        intakes = [intake for _, intake in self._intakes]
        self._ending = Ending(intakes, self._decoder, self._store, self._senders, self.ledger)

    def _prepare(self, plan: Plan, bundle: str, ledger: Ledger | None = None) -> Prepared:
        return prepare(
            plan,
            ledger or self.ledger,
            vehicle=self._device.vehicle,
            secret=self._secret(plan),
            boot_id=self._clock.boot_id,
            tunings=self._platforms.tunings,
            also=() if self._key.signal is None else (self._key.signal,),
            bundle=bundle,
        )

    def _make_updates(self, bundles: "Store | None") -> "Updates | None":
        """What looks for plans over the air, where the device file has [ota]."""
        if bundles is None or self._device.ota is None or self._recent is None:
            return None
        from agent.host import UpdateHost  # noqa: PLC0415 - few need it
        from agent.updates import Updates  # noqa: PLC0415 - the same

        host = UpdateHost(
            clock=self._clock,
            ledger=self.ledger,
            store=self._store,
            pipeline=self._pipeline,
            decoder=self._decoder,
            senders=self._senders,
            recent=self._recent,
            reports=self._reports,
            stopped=lambda: self._spending.spent,
            rehearsed=lambda plan: self._prepare(plan, "", Ledger()),
            switch=self.switch,
            resend=self._resend,
        )
        return Updates(self._device, self._device.ota, bundles, self._clock, host)

    def _secret(self, plan: Plan) -> bytes:
        """What pseudonyms are made with, where there is one."""
        if not any(profile.purpose for profile in plan.written.privacy):
            return b""
        from agent.collect.pseudonym import secret_of  # noqa: PLC0415 - few plans need it

        return secret_of(Path(self._device.state_dir))

    def _filters(self, bus: str) -> list[tuple[int, int]] | None:
        return self._pipeline.prepared.filters(bus)

    # -- threads -----------------------------------------------------------------------------

    def _wake(self, uplink: str) -> None:
        if sender := self._by_uplink.get(uplink):
            sender.wake()

    def _nudged(self) -> None:
        if self._updates is not None:
            self._updates.nudge()

    def _switched(self, prepared: Prepared) -> None:
        """In the decode thread: what comes from now on was kept by another plan."""
        self._store.switch(
            [StreamKey(*where) for where in prepared.destinations], headers(prepared)
        )

    def _decode_failed(self, sentence: str) -> None:
        self._failed.append(sentence)
        self._stop.set()

    @property
    def _recordings(self) -> list[Intake]:
        """They are read again from their begin, so nothing has to be remembered for them."""
        return [intake for _, intake in self._intakes if intake.is_recording]

    def _end_of_input(self) -> None:
        """Give what is held back, or keep it for the next run."""
        recordings = self._recordings
        if not recordings:
            self._pipeline.suspend()
            self._memories.write(self._pipeline.collector)
        elif all(i.ended for i in recordings):
            ends = [i.end() for i in recordings]
            positions = {bus: where for known, _ in ends for bus, where in known.items()}
            self._pipeline.finish(positions, frozenset.intersection(*(had for _, had in ends)))

    def _keep(self, kept: Mapping[Destination, Sequence[Kept]], position: Positions | None) -> None:
        self._store.add({StreamKey(*where): rows for where, rows in kept.items()}, position)
        self._platforms.offer(kept)

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
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        prepared = self._pipeline.prepared
        self._store.start([StreamKey(*where) for where in prepared.destinations], headers(prepared))
        for _, intake in self._intakes:
            intake.resume(
                prepared.collector.destinations,
                lambda where: self._store.resume.get(StreamKey(*where).name, {}),
                from_begin=prepared.collector.needs_history,
            )
        if self._recordings:
            self._memories.forget()
        else:
            self._memories.read(prepared.collector, self._clock.boot())
        tasks: list[asyncio.Task[Any]] = []
        commands: dict[str, Command] = {
            "status": self.status,
            "sleep": self._key.sleep,
            "wake": self._key.wake,
            "resend": self._resend,
            "reload": self.reload,
        }
        if self._updates is not None:
            commands["ota"] = self._updates.command
        try:
            async with (
                StatusServer(Path(self._device.socket), commands),
                self._telling.at_work(),
            ):
                self._decoder.start()
                for _, intake in self._intakes:
                    intake.start()
                self._senders.start()
                tasks.append(asyncio.create_task(feed_watchdog(self._decoder)))
                tasks.append(asyncio.create_task(self._mind(stop)))
                tasks.append(asyncio.create_task(self._spending.tend()))
                if self._updates is not None:
                    tasks.append(asyncio.create_task(self._updates.run()))
                notify(f"READY=1\nSTATUS=plan {prepared.plan.name}")
                log.info("vehicle %s: running plan %s", self._device.vehicle, prepared.plan.name)
                if drain:
                    tasks.append(asyncio.create_task(self._ending.drain(stop)))
                await self._until(stop)
                notify(STOPPING)
                self._stop.set()
                self._failed += await asyncio.to_thread(self._ending.halt)
                await self._ending.last_words(told)
        finally:
            for task in tasks:
                task.cancel()
            await self._senders.stop()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._key.close()
            await asyncio.to_thread(self._store.stop)  # where the socket could not be made
            self._store.close()
            await asyncio.to_thread(self._spending.close)
        self._leave_word()
        for sentence in differences(self.ledger.snapshot()):
            log.error("the ledger does not close: %s", sentence)
            self._failed.append(sentence)
        if self._updates is not None:
            self._updates.end(self._failed)
        return 1 if self._failed else 0

    def _report(self, event: dict[str, Any]) -> None:
        """Something of the agent itself, for every receiver; whatever the plan says."""
        if not self._reports.uplinks:
            return
        self._store.open([self._reports])
        self._store.add({self._reports: [Event(event)]})

    async def _resend(self, uplink: str, first: str, last: str = "") -> dict[str, Any]:
        """The command `resend`: kept batches from `first` to `last` go once more."""
        if uplink not in self._by_uplink:
            raise ConfigError(
                f"no uplink is called {uplink}; there is {', '.join(self._by_uplink)}"
            )
        return {"batches": await asyncio.to_thread(self._store.resend, uplink, first, last)}

    async def reload(self) -> dict[str, Any]:
        """The command `reload`: read the plan again, and go on with it.

        Raises:
            ConfigError: the plan cannot be used; the one that runs goes on.
        """
        if self._pipeline.prepared.bundle:
            raise ConfigError(
                f"bundle {self._pipeline.prepared.bundle} runs, not the plan of agent.toml; "
                "`edge-agent ota rollback` goes back to that"
            )
        try:
            plan = await asyncio.to_thread(load_factory_plan, self._device)
        except DatabaseError as e:
            raise ConfigError(str(e)) from e
        signal_of(self._device.ignition, plan)
        await self.switch(plan)
        return {"plan": plan.name}

    async def switch(self, plan: Plan, bundle: str = "") -> None:
        """Go on with another plan at the next border between blocks.

        Until then the kernel lets pass what either of them wants.

        Raises:
            ConfigError: the plan says what cannot be.
        """
        async with self._switching:
            prepared = await asyncio.to_thread(self._prepare, plan, bundle)
            prepared.collector.degradation = self._spending.ahead(plan)
            before = self._pipeline.prepared
            self._store.open([StreamKey(*where) for where in prepared.destinations])
            self._set_filters(lambda bus: union(before.filters(bus), prepared.filters(bus)))
            done = self._decoder.switch(prepared)
            await until_so(lambda: done.done() or not self._decoder.alive)
            if not done.done():
                raise ConfigError("the agent stops: no plan follows any more")
            done.result()
            self._set_filters(prepared.filters)
            self._spending.follow(plan)
            self._spending.look()
            notify(f"STATUS=plan {plan.name}")

    def _set_filters(self, filters: Callable[[str], list[tuple[int, int]] | None]) -> None:
        for bus, intake in self._intakes:
            if isinstance(bus, SocketCanBus) and bus.kernel_filter:
                intake.set_filters(filters(bus.name))

    def _hang_up(self) -> None:
        """SIGHUP: as the command `reload`; what is wrong is logged."""

        async def reload() -> None:
            try:
                await self.reload()
            except AgentError as e:
                log.warning("the plan stays as it is: %s", e)

        self._reloading = asyncio.ensure_future(reload())

    async def _until(self, stop: asyncio.Event) -> None:
        while not stop.is_set() and not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.5)

    async def _mind(self, stop: asyncio.Event) -> None:
        """What is looked at twice a second: silence on a bus, the key, budget and limits."""
        told = ""
        while True:
            try:
                for _, intake in self._intakes:
                    intake.listen()
                await self._key.look()
                await self._tell_pipeline()
            except Exception as e:
                if told != repr(e):  # a defect; what else the agent does goes on
                    told = repr(e)
                    log.exception("looking after key, budget and events failed")
            if self._key.leave.is_set():
                stop.set()
            await asyncio.sleep(0.5)

    async def _tell_pipeline(self) -> None:
        """What the collector needs from outside: the clock, budget and limits."""
        collector = self._pipeline.collector
        collector.anchor = self._store.anchor()
        self._spending.look()
        events = collector.open_events()
        names = sorted(events["campaigns"])
        if names != self._open_events and not self._recordings:
            self._open_events = names
            await asyncio.to_thread(self._memories.note, self._pipeline.plan, events)

    def _heard(self) -> BootNs:
        return max((i.heard or self._began for _, i in self._intakes), default=self._began)

    # -- the end -----------------------------------------------------------------------------

    def _leave_word(self) -> None:
        """The last status, for whoever asks when nobody answers any more."""
        with contextlib.suppress(OSError):
            path = Path(self._device.state_dir) / LAST_RUN
            path.write_text(json.dumps(self.status()) + "\n", encoding="utf-8")

    def status(self) -> dict[str, Any]:
        """Everything that the status socket tells."""
        for _, intake in self._intakes:
            intake.count()
        counts = self.ledger.snapshot()
        return {
            "agent": __version__,
            "vehicle": self._device.vehicle,
            "plan": self._pipeline.plan.name,
            **self._pipeline.status(),
            "uptime_s": round((self._clock.boot() - self._began) / SECOND, 3),
            "clock": self._clock.quality().name.lower(),
            "boot_id": self._clock.boot_id,
            "buses": [
                intake.status(str(type(bus).__struct_config__.tag)) for bus, intake in self._intakes
            ],
            "ignition": self._key.status(),
            "link": self._meter.status(),
            "budget": self._spending.status(),
            "limits": self._spending.limits(),
            "uplinks": [sender.state for sender in self._senders.all],
            "spool": self._store.status(),
            "ota": self._updates.status() if self._updates is not None else None,
            "ledger": counts,
            "differences": differences(counts),
            **self._telling.status(),
        }
