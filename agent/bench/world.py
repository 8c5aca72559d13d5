"""The bench: a virtual vehicle, the agent as it runs in a vehicle, and the reference cloud.

    async with World.open(Options(vehicle="ev", seconds=30)) as world:
        await world.press("link-down", True, {})
        await world.driven()
        verdict = await world.finish()

One process holds the cloud, a link to it that can be disturbed, and the vehicle, a thread that
plays frames onto a bus. The agent is a process of its own, `edge-agent run`, so that it can be
killed.

    ground.py     the files: device file, plan, databases
    driver.py     the vehicle          sinks.py      the bus
    host.py       the agent            shifted.py    its wall clock
    link.py       the link             publisher.py  configuration over the air
    faults.py     what can be pressed  verdict.py    how it ended
    gbt32960/     a platform, where one is asked for
"""

import asyncio
import contextlib
import dataclasses
import itertools
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import aiohttp

from agent.bench.actions import Actions
from agent.bench.answering import Answering
from agent.bench.cloud.faults import CloudFaults
from agent.bench.cloud.repository import Repository
from agent.bench.cloud.server import create_app, serve
from agent.bench.cloud.store import Store
from agent.bench.driver import Driver, noted
from agent.bench.ecus import Watch, vehicle_ecus
from agent.bench.faults import Switchboard
from agent.bench.gbt32960.platform import Platform
from agent.bench.gbt32960.record import Record
from agent.bench.gbt32960.verdict import judge as judge_platform
from agent.bench.gbt32960.view import PlatformView
from agent.bench.ground import PLATFORM, REPORT_S, VIN, Ground, Options, VehicleKind
from agent.bench.host import AgentProcess, BenchError
from agent.bench.link import Link
from agent.bench.publisher import Publisher
from agent.bench.sinks import BenchSink, open_sink
from agent.bench.verdict import Ended, Run, Verdict, judge
from agent.errors import AgentError, ConfigError
from agent.ledger import Counts

__all__ = ["BenchError", "Options", "VehicleKind", "Verdict", "World"]

_POLL_S: Final = 0.1
_LONG_S: Final = 3.0
"""Who waits longer than this for the next try, though nothing is wrong any more, is not waited for:
the agent is restarted, as a person would do."""


class World:
    """A running bench; a `agent.bench.door.BenchDoor`. Belongs to the event loop.

    Attributes:
        url: of the cloud and its page.
        folder: agent.toml, the plan, agent.log, state/, cloud/ and ota/ are in it.
        vehicle: the vehicle's name at the cloud.
        link: between agent and cloud.
        links: all links of the agent.
        platform: of GB/T 32960, where one was asked for.
        cloud_faults: what the cloud does wrong.
        scenario: shown in `state()`; whoever runs a scenario sets it.
    """

    url: str
    link: Link
    links: tuple[Link, ...]
    agent: AgentProcess
    driver: Driver
    switchboard: Switchboard

    def __init__(self, ground: Ground, tell: Callable[[str], None]) -> None:
        self.ground = ground
        self.folder = ground.folder
        self.vehicle = ground.vehicle
        self.cloud_faults = CloudFaults()
        self.scenario: dict[str, Any] | None = None
        self._tell = tell
        self._ready = False
        self._good = False
        self._clean: set[Run] = set()
        self._troubles: list[str] = []
        self._verdict: Verdict | None = None
        self.platform: Platform | None = None
        self._platform_link: Link | None = None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, options: Options, tell: Callable[[str], None] = lambda _: None
    ) -> AsyncIterator[Self]:
        """Start all parts, and end them when this is left; `tell` is given a line for each.

        Raises:
            ConfigError: options that cannot be.
            AgentError: a part does not start; the message says why, with the end of its log.
        """
        async with contextlib.AsyncExitStack() as stack:
            folder = options.folder
            started = False
            world: Self | None = None
            if folder is None:
                folder = Path(tempfile.mkdtemp(prefix="edge-agent-bench-"))
                made = folder

                def remove() -> None:
                    if not started or (world is not None and world._good):
                        shutil.rmtree(made, ignore_errors=True)
                    else:
                        tell(f"everything of it is kept in {made}")

                stack.callback(remove)
            world = cls(await asyncio.to_thread(Ground, options, folder.absolute()), tell)
            tell(f"folder   {world.folder}")
            await world._start(stack)
            started = True
            try:
                yield world
            except ConfigError:
                started = False  # of what was asked for: there is nothing to look into
                raise

    async def _start(self, stack: contextlib.AsyncExitStack) -> None:
        ground, options, tell = self.ground, self.ground.options, self._tell
        try:
            store = await asyncio.to_thread(Store, self.folder / "cloud")
        except ConfigError as e:
            raise ConfigError(
                f"{self.folder}: another bench runs in this folder, or it cannot be used; end it, "
                "or name another folder with --folder"
            ) from e
        stack.callback(store.close)
        publisher = await asyncio.to_thread(Publisher, self.folder / "ota", ground.plan)
        await self._start_platform(stack)
        app = create_app(
            store,
            ota=Repository(publisher.root),
            bench=self,
            faults=self.cloud_faults,
            platform=PlatformView(self.platform) if self.platform else None,
        )
        self.url = await stack.enter_async_context(serve(app, options.host, options.port))
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        if host in ("0.0.0.0", "[::]"):
            self.url = f"http://127.0.0.1:{port}"
            host = "127.0.0.1"
        tell(f"cloud    {self.url}")
        self.link = await stack.enter_async_context(Link(host.strip("[]"), int(port)))
        self.links = (self.link, *((self._platform_link,) if self._platform_link else ()))

        tearing = threading.Event()
        sink = await asyncio.to_thread(self._open_bus, tearing)
        stack.push_async_callback(asyncio.to_thread, sink.close)
        stack.callback(tearing.set)
        tell(f"bus      {ground.bus}: {sink.kind} {sink.name}".rstrip())
        self._sink = sink
        self._session = await stack.enter_async_context(aiohttp.ClientSession())

        socket = ground.socket
        if socket is None:
            short = tempfile.mkdtemp(prefix="edge-agent-")
            stack.callback(shutil.rmtree, short, ignore_errors=True)
            socket = Path(short) / "agent.sock"
        self.socket = socket
        ground.write_device_file(
            bus=sink.settings(ground.bitrate),
            socket=socket,
            port=self.link.port,
            platform_port=self._platform_link.port if self._platform_link else 0,
            root_file=publisher.root_file,
        )
        self.agent = AgentProcess(ground.config, socket, self.folder)
        stack.push_async_callback(self.agent.end)
        blocks = await asyncio.to_thread(ground.blocks)
        if sink.kind == "vcan" and options.log is None:
            # The one kind of bus on which the agent can ask; a recording has no ECUs.
            watch = Watch(await asyncio.to_thread(ground.database), ground.bus)
            stack.enter_context(Answering(sink.name, vehicle_ecus(watch.readings)))
            blocks = noted(blocks, watch.note)
        self.driver = Driver(blocks, sink, speed=options.speed, make=ground.disturbed)
        actions = Actions(self, publisher, sink)
        stack.push_async_callback(actions.close)
        self.actions = actions
        self.switchboard = Switchboard(actions.all, await asyncio.to_thread(ground.defaults))
        await self.agent.start()
        tell(f"agent    pid {self.agent.pid}, edge-agent run -c {ground.config}")
        tell(f"plan     {ground.plan}")
        watching = asyncio.create_task(self.agent.watch())
        stack.push_async_callback(_cancelled, watching)
        self.driver.start()
        stack.push_async_callback(asyncio.to_thread, self.driver.join)
        stack.callback(tearing.set)
        stack.callback(self.driver.halt)
        while not self.driver.seconds and not self.driver.ended.is_set():
            self.agent.check()
            await asyncio.sleep(_POLL_S)
        self._ready = True
        tell(f"vehicle  {ground.vehicle} drives")

    async def _start_platform(self, stack: contextlib.AsyncExitStack) -> None:
        """A GB/T 32960 platform and a link to it, where one was asked for."""
        if not self.ground.options.gbt32960:
            return
        folder = await asyncio.to_thread(_fresh, self.folder, "platform")
        record = await asyncio.to_thread(Record, folder, period_s=float(REPORT_S))
        self.platform = await stack.enter_async_context(Platform(record))
        self._tell(f"platform {self.platform.url}")
        self._platform_link = await stack.enter_async_context(Link("127.0.0.1", self.platform.port))

    def _open_bus(self, tearing: threading.Event) -> BenchSink:
        """The bus; called in a thread, once."""
        return open_sink(self.ground.options.bus, self.folder, tearing)

    # -- the door ----------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """See `agent.bench.door`; the status is one of the last half second."""
        if not self._ready:
            agent_state = {"state": "starting", "pid": None, "status": None}
            return {"vehicle": self.vehicle, "agent": agent_state, "faults": [], "scenario": None}
        agent = self.agent
        return {
            "vehicle": self.vehicle,
            "agent": {"state": agent.state, "pid": agent.pid, "status": agent.status},
            "faults": self.switchboard.states(),
            "scenario": self.scenario,
        }

    async def press(self, name: str, on: bool, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Switch a fault; gives its state.

        Returns when the fault is in force (or has gone), not when its effect is seen. "update"
        publishes a good bundle; off withdraws it.

        Raises:
            ConfigError: no such fault, or a parameter that cannot be.
            AgentError: it cannot be done.
        """
        if not self._ready:
            raise BenchError("the bench is still starting; press again in a moment")
        return await self.switchboard.press(name, parameters, on=on)

    # -- how it is ---------------------------------------------------------------------------

    async def status(self) -> dict[str, Any] | None:
        """What the agent says of itself right now; None while it does not answer."""
        return await self.agent.look()

    async def cloud(self, what: str = "") -> Any:
        """What the cloud says of the vehicle; None while it does not know it.

        That is the JSON of /v1/vehicles/{vehicle}/{what}: "events", "updates", "completeness",
        "batches" and so on; of the vehicle itself without a word.

        Raises:
            BenchError: the cloud refuses the question.
        """
        address = f"{self.url}/v1/vehicles/{self.vehicle}/{what}".rstrip("/")
        async with self._session.get(address) as answer:
            if answer.status == 404:
                return None
            if answer.status != 200:
                raise BenchError(f"{address}: {answer.status} {await answer.text()}")
            return await answer.json()

    @property
    def frames(self) -> int:
        """That the vehicle put on the bus so far."""
        return self.driver.sent

    @property
    def seconds(self) -> float:
        """Since the vehicle began to drive."""
        return self.driver.seconds

    @property
    def ledgers(self) -> Mapping[Run, Counts]:
        """(installation, run) -> the newest counts of each process, the oldest one first."""
        return self.agent.ledgers

    async def driven(self) -> None:
        """Wait until the vehicle has arrived: `seconds` are over, or the recording.

        Raises:
            AgentError: the vehicle failed, or the agent ended by itself.
        """
        while not self.driver.ended.is_set():
            self.agent.check()
            await asyncio.sleep(_POLL_S)
        if self.driver.trouble:
            raise BenchError(self.driver.trouble)

    async def settled(self, limit_s: float = 60.0) -> bool:
        """Wait until all that was kept is acknowledged; False when that takes too long."""
        return await self._until(self._is_home, limit_s)

    # -- the end -----------------------------------------------------------------------------

    async def finish(self, limit_s: float = 60.0) -> Verdict:
        """End in order, and say how it was; what goes wrong on the way is in the verdict.

        The vehicle stops, faults are taken back, everything that waits is sent, the agent leaves.
        Then what arrived is compared with what its ledgers say.
        """
        if self._verdict is None:
            self.driver.halt()
            await asyncio.to_thread(self.driver.join)
            self._note(self.driver.trouble)
            with self._noted():
                await self.switchboard.lift()
                await self._bring_home(limit_s)
            self._verdict = self._with_platform(judge(await self._ended()))
            self._good = self._verdict.good
        return self._verdict

    def _with_platform(self, verdict: Verdict) -> Verdict:
        """The verdict with what the platform has, where there is one."""
        if self.platform is None:
            return verdict
        found = judge_platform(
            self.platform.record.vehicles.get(VIN),
            self.agent.ledgers,
            self._clean,
            uplink=PLATFORM,
            period_s=REPORT_S,
            whole=self.agent.runs == 1 and not self.actions.frames_lost,
        )
        return dataclasses.replace(
            verdict, platform=found.as_json(), wrong=(*verdict.wrong, *found.wrong)
        )

    async def _bring_home(self, limit_s: float) -> None:
        """Let everything be sent, then let the agent leave.

        An agent whose uplink is on hold looks after some minutes whether that is over: that long
        nobody waits at a bench, so it is restarted.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + limit_s
        while True:
            await self._until(
                lambda status: self._is_home(status) or _waits_long(status), end - loop.time()
            )
            last = await self.agent.leave()
            self._clean.add((str(last["spool"]["install"]), int(last["spool"]["run"])))
            waiting = any(row["waiting"] for row in last["ledger"]["uplink"].values())
            if not waiting or loop.time() >= end:
                return
            await self.agent.start()

    async def _until(self, condition: Callable[[Mapping[str, Any]], bool], limit_s: float) -> bool:
        loop = asyncio.get_running_loop()
        end = loop.time() + limit_s
        while True:
            if self.agent.state == "ended":
                return False
            status = await self.agent.look()
            if status is not None and condition(status):
                return True
            if loop.time() > end:
                return False
            await asyncio.sleep(_POLL_S)

    def _is_home(self, status: Mapping[str, Any]) -> bool:
        """Whether everything was read, is durable, sealed and sent, as far as samples go."""
        ledger = status["ledger"]
        reading = any(row["queued"] for row in ledger["bus"].values())
        packing = any(row["memory"] for row in ledger["uplink"].values())
        received = sum(row["received"] for row in ledger["bus"].values())
        if self.driver.ended.is_set() and self._whole_bus and self.agent.runs == 1:
            reading = reading or received < self.driver.sent
        # Of what is open, what has no sample yet is of no account: a next one may never come.
        opened = status["spool"]["open"].items()
        # The agent's own reports of itself are never complete; those to a platform count.
        platform = f"report/{PLATFORM}"
        open_now = any(
            each["samples"] and (n == platform or not n.startswith("report")) for n, each in opened
        )
        waiting = any(status["spool"]["lanes"].values())
        return not (reading or packing or waiting or open_now)

    @property
    def _whole_bus(self) -> bool:
        """Whether every frame that was sent must have been read."""
        return self._sink.kind != "vcan" and not self.actions.frames_lost

    async def _ended(self) -> Ended:
        batches = await self.cloud("batches") or {"batches": []}
        events = await self.cloud("events") or {"events": []}
        updates = await self.cloud("updates") or {"updates": []}
        return Ended(
            ledgers=self.agent.ledgers,
            clean=self._clean,
            frames=self.frames,
            whole_bus=self._whole_bus,
            batches=batches["batches"],
            events=events["events"],
            updates=updates["updates"],
            completeness=await self.cloud("completeness"),
            troubles=tuple(self._troubles),
            elsewhere=(PLATFORM,),
        )

    def _note(self, trouble: str) -> None:
        if trouble:
            self._troubles.append(trouble)

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except AgentError as e:
            self._note(str(e))


def _fresh(folder: Path, name: str) -> Path:
    """A folder with nothing in it: what came in a bench before is of no account in this one."""
    for n in itertools.count(1):
        path = folder / (name if n == 1 else f"{name}-{n}")
        if not path.exists() or not any(path.iterdir()):
            return path
    raise AssertionError


def _waits_long(status: Mapping[str, Any]) -> bool:
    return any((each["until_s"] or 0) > _LONG_S for each in status["uplinks"])


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
