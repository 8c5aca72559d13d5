"""Many light vehicles against one cloud: how much it takes in, and whether anything is lost.

The vehicles (`fleet.py`: real spool, ledger and uplink code) share this process. The cloud is a
process of its own, `edge-agent cloud` as a person would start it: so neither lends the other its
interpreter, and the rate is that of one cloud. On a machine with few cores they still share those.

What is shown while it runs is the vehicles' word: what a receiver has acknowledged. The verdict at
the end asks the cloud for each vehicle and holds its answer against the ledger of that vehicle.

Files, below a folder that is made for each run:

    fleet/VEHICLE/   identity and spool of each vehicle
    cloud/           what arrived
    cloud.log        what the cloud said
    vehicles.log     what the vehicles said: too many would say the same for a terminal
"""

import abc
import asyncio
import contextlib
import dataclasses
import logging
import resource
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, Protocol, Self, TypeVar

import aiohttp

from agent.bench.fleet import Fleet, LightFleet
from agent.bench.host import BenchError
from agent.bench.link import Link
from agent.bench.loadverdict import Figures, LoadVerdict, judge
from agent.errors import ConfigError
from agent.settings import Uplink

MOST_VEHICLES: Final = 5000
_START_S: Final = 60.0
_LEAVE_S: Final = 60.0
_ASK_S: Final = 300.0
_LOOK_S: Final = 0.5
_ASKED_AT_ONCE: Final = 4
_FILES_A_VEHICLE: Final = 6
"""Lock, open batch, connection and what is open for a moment; the cloud has fewer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """What a load is made of."""

    vehicles: int
    seconds: float = 120.0
    """The vehicles drive so long; what waits then is sent after that."""
    interval_s: float = 10.0
    """Each vehicle seals a batch so often."""
    folder: Path | None = None
    """Where the run's folder is made; without one it is temporary."""
    host: str = "127.0.0.1"
    port: int = 0
    """Of the cloud; 0 picks a free one."""
    seed: int = 1
    drain_s: float = 300.0
    """So long may it take until all is sent, from the end of the drive."""
    link: bool = False
    """Whether a link that can be cut lies between the vehicles and the cloud."""

    def check(self) -> None:
        """Say what cannot be.

        Raises:
            ConfigError: it cannot.
        """
        if not 1 <= self.vehicles <= MOST_VEHICLES:
            raise ConfigError(f"--vehicles {self.vehicles}: from 1 to {MOST_VEHICLES:,}")
        if not 0 < self.seconds < 1e7:
            raise ConfigError("--seconds must be above 0")


class FleetVerdict(Protocol):
    """How a load ended."""

    @property
    def good(self) -> bool: ...

    def as_json(self) -> dict[str, Any]: ...

    def lines(self) -> list[str]: ...


Asked = TypeVar("Asked", bound=LoadOptions)
F = TypeVar("F", bound=LightFleet[Any])


class AnyLoad(abc.ABC, Generic[Asked, F]):
    """A fleet of some kind and its cloud, while `open` lasts.

    Attributes:
        fleet: the vehicles.
        url: of the cloud and its page.
        link: between the two, where one was asked for.
    """

    fleet: F
    url: str
    link: Link | None = None

    def __init__(self, options: Asked) -> None:
        self.options = options
        self._root = Path()
        self._began = 0.0
        self._cpu_cloud = 0.0
        self._cloud: asyncio.subprocess.Process | None = None
        self._sending = contextlib.AsyncExitStack()

    @property
    def cloud_pid(self) -> int | None:
        """None once it has ended."""
        process = self._cloud
        return process.pid if process is not None and process.returncode is None else None

    @classmethod
    @contextlib.asynccontextmanager
    async def open(
        cls, options: Asked, tell: Callable[[str], None] = lambda _: None
    ) -> AsyncIterator[Self]:
        """Start the cloud and the vehicles; end them all.

        Raises:
            ConfigError: options that cannot be, or too many vehicles for this computer.
            BenchError: the cloud does not start.
            SpoolError: a folder cannot be written.
        """
        options.check()
        async with contextlib.AsyncExitStack() as stack:
            load = cls(options)
            await load._start(stack, tell)
            yield load

    async def _start(self, stack: contextlib.AsyncExitStack, tell: Callable[[str], None]) -> None:
        options = self.options
        _allow_files(_FILES_A_VEHICLE * options.vehicles + 256)
        self._root = await asyncio.to_thread(_folder, options.folder)
        if options.folder is None:
            stack.push_async_callback(asyncio.to_thread, _remove, self._root)
        tell(f"folder   {self._root}")
        stack.enter_context(_logged(self._root / "vehicles.log"))
        stack.push_async_callback(self._end_cloud)
        self.url = await self._start_cloud()
        tell(f"cloud    {self.url}  (a process of its own)")
        to = self.receiver
        if options.link:
            scheme, _, address = to.partition("://")
            host, _, port = address.rpartition(":")
            self.link = await stack.enter_async_context(Link(host.strip("[]"), int(port)))
            to = f"{scheme}://127.0.0.1:{self.link.port}"
        self.fleet = await asyncio.to_thread(self._make_fleet, self._root / "fleet", to)
        stack.push_async_callback(asyncio.to_thread, self.fleet.close)
        tell(f"vehicles {options.vehicles:,}, a {self.unit} each in {options.interval_s:g} s")
        await stack.enter_async_context(self._sending)
        await self._sending.enter_async_context(self.fleet.sending())
        self._began = asyncio.get_running_loop().time()

    unit: ClassVar[str] = "batch"
    """What a vehicle sends each interval."""
    words: ClassVar[tuple[str, ...]] = ()
    """More options of the cloud."""

    @property
    def receiver(self) -> str:
        """Where the vehicles send to."""
        return self.url

    @abc.abstractmethod
    def _make_fleet(self, folder: Path, url: str) -> F:
        """The vehicles, which send to this address."""

    async def _start_cloud(self) -> str:
        options = self.options
        log = self._root / "cloud.log"
        with log.open("ab") as errors:
            self._cloud = process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "agent.cli", "cloud", "--data", str(self._root / "cloud")),
                *("--listen", f"{options.host}:{options.port}", *self.words),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                # A Ctrl-C is for the bench, which ends its parts in order.
                process_group=0,
            )
        return await self._address_told(process.stdout, log)

    async def _address_told(self, told: asyncio.StreamReader | None, log: Path) -> str:
        """The address in the next line of the cloud.

        Raises:
            BenchError: it has none.
        """
        if told is None:
            raise AssertionError
        line = b""
        with contextlib.suppress(TimeoutError):
            line = await asyncio.wait_for(told.readline(), _START_S)
        if b"://" not in line:
            raise BenchError(f"the cloud did not start: {_end_of(log)}")
        address = next(word for word in line.decode().replace(",", " ").split() if "://" in word)
        return address.replace("//0.0.0.0:", "//127.0.0.1:").rstrip("/")

    async def _end_cloud(self) -> None:
        process = self._cloud
        if process is None or process.returncode is not None:
            return
        before = _cpu_of_children()
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _LEAVE_S)
        except TimeoutError:
            process.kill()
            await process.wait()
        self._cpu_cloud = _cpu_of_children() - before

    async def drive(self) -> None:
        """Let the vehicles drive as long as was asked for, or until `halt`.

        Raises:
            BenchError: the cloud has ended meanwhile.
        """
        driving = asyncio.create_task(self.fleet.drive(self.options.seconds))
        watching = asyncio.create_task(self._cloud.wait()) if self._cloud else None
        things = [driving, *([watching] if watching else [])]
        try:
            await asyncio.wait(things, return_when=asyncio.FIRST_COMPLETED)
            if not driving.done():
                raise BenchError(f"the cloud has ended by itself; see {self._root / 'cloud.log'}")
            await driving
        finally:
            self.fleet.halt()
            if watching:
                watching.cancel()
            await asyncio.gather(*things, return_exceptions=True)

    def halt(self) -> None:
        """Let the vehicles stop soon; what waits is still to be sent by `finish`."""
        self.fleet.halt()

    def figures(self) -> Figures:
        """How it is right now."""
        counts = self.fleet.counts
        senders = [v.sender.state for v in self.fleet.vehicles]
        return Figures(
            seconds=asyncio.get_running_loop().time() - self._began,
            batches=sum(s["sent_batches"] for s in senders),
            samples=counts["acknowledged"],
            bytes=sum(s["sent_bytes"] for s in senders),
            waiting=counts["waiting"],
            errors=sum(s["retries"] for s in senders),
        )

    @abc.abstractmethod
    async def finish(self, tell: Callable[[str], None] = lambda _: None) -> FleetVerdict:
        """End the runs, send what waits, and ask the cloud what it has; called once.

        `tell` gets a line now and then, while it lasts.
        """

    async def _left(self) -> tuple[float, float]:
        """End sending and the cloud; gives the CPU seconds of the vehicles and of the cloud."""
        cpu = resource.getrusage(resource.RUSAGE_SELF)
        await self._sending.aclose()
        await self._end_cloud()
        return cpu.ru_utime + cpu.ru_stime, self._cpu_cloud

    def _answers(self) -> dict[str, int]:
        answers: dict[str, int] = {}
        for vehicle in self.fleet.vehicles:
            for what, n in vehicle.sender.state["answers"].items():
                answers[what] = answers.get(what, 0) + n
        return answers

    async def _drained(self, tell: Callable[[str], None], wrong: list[str]) -> None:
        draining = asyncio.create_task(self.fleet.drained())
        loop = asyncio.get_running_loop()
        until = loop.time() + self.options.drain_s
        try:
            while not draining.done() and loop.time() < until:
                left = sum(not v.sender.idle for v in self.fleet.vehicles)
                tell(f"the vehicles have stopped; {left:,} still send")
                await asyncio.wait([draining], timeout=_LOOK_S)
        finally:
            if not draining.done():
                wrong.append(f"not all was sent within {self.options.drain_s:g} s of the end")
                draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)


class Load(AnyLoad[LoadOptions, Fleet]):
    """Vehicles that keep samples."""

    def _make_fleet(self, folder: Path, url: str) -> Fleet:
        options = self.options
        uplink = Uplink(name="cloud", url=url)
        return Fleet(
            folder,
            options.vehicles,
            lambda _name: uplink,
            interval_s=options.interval_s,
            seed=options.seed,
        )

    async def finish(self, tell: Callable[[str], None] = lambda _: None) -> LoadVerdict:
        """See `AnyLoad.finish`."""
        loop = asyncio.get_running_loop()
        driven = self.figures()
        wrong: list[str] = []
        await self.fleet.finish()
        began = loop.time()
        await self._drained(tell, wrong)
        drained = loop.time()
        found = await self._asked(tell)
        asked = loop.time()
        cpu_vehicles_s, cpu_cloud_s = await self._left()
        for vehicle in self.fleet.vehicles:
            wrong += judge(vehicle, found.get(vehicle.name))
        counts = self.fleet.counts
        span = driven.seconds or 1.0
        return LoadVerdict(
            vehicles=len(self.fleet.vehicles),
            seconds=driven.seconds,
            batches_s=driven.batches / span,
            samples_s=driven.samples / span,
            mb_s=driven.bytes / 1e6 / span,
            kept=counts["kept"],
            acknowledged=counts["acknowledged"],
            samples=sum(each["samples"] for each in found.values()),
            batches=sum(each["batches"] for each in found.values()),
            bytes=sum(each["bytes"] for each in found.values()),
            complete=sum(
                bool(found[v.name]["complete"]) if v.name in found else not v.counts["kept"]
                for v in self.fleet.vehicles
            ),
            errors=self.figures().errors,
            answers=self._answers(),
            late_s=self.fleet.late_s,
            drained_s=drained - began,
            read_s=asked - drained,
            cpu_vehicles_s=cpu_vehicles_s,
            cpu_cloud_s=cpu_cloud_s,
            wrong=tuple(wrong),
        )

    async def _asked(self, tell: Callable[[str], None]) -> dict[str, dict[str, Any]]:
        """The cloud's completeness of each vehicle that it knows, when it has read everything."""
        found: dict[str, dict[str, Any]] = {}
        left = {v.name for v in self.fleet.vehicles}
        loop = asyncio.get_running_loop()
        until = loop.time() + _ASK_S
        turn = asyncio.Semaphore(_ASKED_AT_ONCE)
        async with aiohttp.ClientSession(self.url) as session:

            async def ask(name: str) -> None:
                address = f"/v1/vehicles/{name}/completeness"
                async with turn, session.get(address) as answer:
                    if answer.status == 200:
                        found[name] = await answer.json()
                    # What is acknowledged is known at once; it may have to be read yet.
                    if answer.status == 404 or not found.get(name, {"behind": True})["behind"]:
                        left.discard(name)

            while left and loop.time() < until:
                tell(f"the cloud is asked; {len(left):,} vehicles to go")
                with contextlib.suppress(aiohttp.ClientError):
                    await asyncio.gather(*map(ask, sorted(left)))
                if left:
                    await asyncio.sleep(_LOOK_S)
        return found


def _end_of(log: Path) -> str:
    said = log.read_text("utf-8", "replace").strip().splitlines()[-1:]
    return " ".join(said) or "it says nothing"


def _folder(parent: Path | None) -> Path:
    try:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="edge-agent-load-", dir=parent)).absolute()
    except OSError as e:
        raise ConfigError(f"--folder {parent}: {e.strerror or e}") from e


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What this program logs goes into a file while this lasts."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logs = [logging.getLogger(name) for name in ("agent", "edge_agent")]
    before = [log.propagate for log in logs]
    try:
        for log in logs:
            log.addHandler(handler)
            log.propagate = False
        yield
    finally:
        for log, propagate in zip(logs, before, strict=True):
            log.removeHandler(handler)
            log.propagate = propagate
        handler.close()


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _allow_files(wanted: int) -> None:
    """Let this process and those it starts have so many files open.

    Raises:
        ConfigError: the limit of the system is below.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ConfigError(
            f"so many vehicles need {wanted:,} open files, and {hard:,} are allowed (ulimit -Hn)"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _cpu_of_children() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
