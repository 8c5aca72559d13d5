"""A vehicle that is kept up to date, in virtual time, by a real repository behind a web server.

    with World(tmp_path) as world:
        world.publish(1)
        vehicle = world.vehicle(trial_s=30)
        vehicle.start()                                  # the process begins
        vehicle.until(lambda: vehicle.shows("ev 1"))     # as long as it takes, in no time
        vehicle.kill()                                   # and ends, without a word

`Car` stands for the daemon: what comes on its bus, what the plan that runs makes of it, its switch
and its spool. It does what it is told to, also badly.
"""

import asyncio
import contextlib
import datetime as dt
import hashlib
import itertools
import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from agent.blocks import FrameBlock
from agent.clock import SECOND, WallNs, certain
from agent.collect import Plan
from agent.errors import ConfigError
from agent.ledger import Ledger
from agent.ota.bundle import Audience, pack
from agent.ota.judge import Reading
from agent.ota.start import load_running_plan
from agent.ota.store import Store
from agent.ota.types import BundleId
from agent.pipeline import Prepared, prepare
from agent.settings import Device, load_device
from agent.spool.filesystem import FileSystem
from agent.updates import Updates
from tests.ota.repo import FIELD, NOW, Repository
from tests.ota.server import Server
from tests.virtualtime import Time

DBC = """VERSION ""
BU_: A
BO_ 256 Motion: 8 A
 SG_ Speed : 0|16@1+ (0.01,0) [0|655] "km/h" A
 SG_ Distance : 16|32@1+ (1,0) [0|0] "m" A
"""
OTHER_DBC = DBC.replace("BO_ 256", "BO_ 700")
"""Of another vehicle: it decodes nothing here."""
PLAN = """version = 1
name = "{name}"
[[database]]
bus = "*"
files = ["car.dbc"]
[[campaign]]
name = "all"
signals = ["Motion.*"]
"""
DEVICE = """vehicle = "car-1"
plan = "plan.toml"
state_dir = "state"
[[bus]]
name = "powertrain"
kind = "socketcan"
interface = "can0"
[[uplink]]
name = "cloud"
url = "https://cloud.example"
[ota]
url = "{url}"
root_file = "{root_file}"
"""
FRAMES_A_SECOND = 1000
FACTORY = "factory"
TAKEN = [("accepted", "ev 1"), ("applied", "ev 1"), ("committed", "ev 1")]
"""What is told of a bundle that does well."""


def wall(moment: dt.datetime = NOW) -> WallNs:
    return WallNs(int(moment.timestamp()) * SECOND)


class AtOnce(threading.Event):
    """Of a spool that has made durable what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.set()


class Car:
    """A daemon without its threads; see `agent.host.Host`."""

    def __init__(self, time: Time, plan: Plan, bundle: str, *, spool: list[dict[str, Any]]) -> None:
        self.alive = True
        self.harmful: Collection[str] = ()
        """Bundles with which nothing is decoded, once they run."""
        self.refuses: Mapping[str, Exception] = {}
        """Bundles that cannot be switched to, and why."""
        self.cannot_compile: Exception | None = None
        self.defect: Exception | None = None
        """What asking for a reading comes upon."""
        self.silent = False
        """No frame comes."""
        self.durable = True
        """Whether the spool makes durable what it is told."""
        self.switches: list[str] = []
        self.fired: list[tuple[str, str]] = []
        self.resent: list[tuple[str, str, str]] = []
        self.during_switch: Callable[[], None] = lambda: None
        self._time = time
        self._spool = spool
        self._prepared = _prepared(plan, bundle)
        self._read_at = time.boot()
        self._decoded = self._not_decoded = 0

    @property
    def plan(self) -> str:
        return self._prepared.plan.name

    def prepared(self) -> Prepared:
        return self._prepared

    def rehearsed(self, plan: Plan) -> Prepared:
        if self.cannot_compile is not None:
            raise self.cannot_compile
        return _prepared(plan, "")

    async def switch(self, plan: Plan, bundle: str, /) -> None:
        await asyncio.sleep(0.1)
        self.during_switch()
        if not self.alive:
            raise ConfigError("the agent stops: no plan follows any more")
        if bundle in self.refuses:
            raise self.refuses[bundle]
        self._pass()
        self._prepared = _prepared(plan, bundle)
        self.switches.append(bundle or FACTORY)

    def reading(self) -> Reading:
        if self.defect is not None:
            raise self.defect
        self._pass()
        n = self._decoded
        return Reading(
            self._time.boot(),
            {"powertrain": n},
            {"powertrain": self._not_decoded},
            kept=n,
            offered=n,
            events=0,
            lost_disk=0,
            evicted=0,
            acknowledged=n,
            quarantined=0,
            differences=(),
            spool_trouble="",
            sending_stopped="",
            online=True,
            cpu_s=0.01 * self._time.passed_s,
            memory_bytes=100 << 20,
            on_bus={"powertrain": n + self._not_decoded},
        )

    def frames(self) -> list[FrameBlock]:
        n = 0 if self.silent else 300
        data = np.zeros((n, 8), np.uint8)
        data[:, 0] = np.arange(n) % 256
        times = self._time.boot() - (n - np.arange(n)) * (SECOND // 100)
        return [
            FrameBlock.from_arrays(
                bus="powertrain", time=times, id=np.full(n, 256), length=np.full(n, 8), data=data
            )
        ]

    def tell(self, event: dict[str, Any]) -> threading.Event:
        self._spool.append(event)
        return AtOnce() if self.durable else threading.Event()

    async def fire(self, campaign: str, why: str) -> list[str]:
        if campaign not in ("", "all"):
            raise ConfigError(f"no campaign with a trigger is called {campaign}")
        self.fired.append((campaign, why))
        return ["all"]

    async def resend(self, uplink: str, first: str, last: str) -> int:
        self.resent.append((uplink, first, last))
        return 7

    def _pass(self) -> None:
        """The frames since the last look."""
        now = self._time.boot()
        n = 0 if self.silent else (now - self._read_at) * FRAMES_A_SECOND // SECOND
        self._read_at = now
        if self._prepared.bundle in self.harmful:
            self._not_decoded += n
        else:
            self._decoded += n


def _prepared(plan: Plan, bundle: str) -> Prepared:
    return prepare(plan, Ledger(), boot_id="this", bundle=bundle)


class Vehicle:
    """A state folder, and a process over it or not.

    Attributes:
        spool: every report that was told, by any process.
        car: what the process that runs, or ran last, is the agent of.
    """

    def __init__(
        self, folder: Path, time: Time, device: Device, fs: FileSystem | None = None
    ) -> None:
        self.folder = folder
        self.time = time
        self.device = device
        self.fs = fs
        self.spool: list[dict[str, Any]] = []
        self.random = 0.5
        """What chance gives; with this, a look is due exactly when its time has passed."""
        self._car: Car | None = None
        self._updates: Updates | None = None
        self._task: asyncio.Task[None] | None = None
        self.store = Store(Path(device.state_dir) / "ota", fs)

    # -- the process -------------------------------------------------------------------------

    def start(self, **more: Any) -> "Vehicle":
        """A process begins; `more` are attributes of the car."""
        self.load()
        self.go(**more)
        return self

    def load(self) -> BundleId | None:
        """As far as the plan to begin with; gives its bundle."""
        assert self._task is None
        self.store = Store(self.store.folder, self.fs)
        self.store.open()
        plan, bundle = load_running_plan(self.device, self.store, certain(self.time))
        title = bundle.title if bundle else ""
        self._car = Car(self.time, plan, title, spool=self.spool)
        return bundle

    def go(self, **more: Any) -> None:
        """Go on from there."""
        for name, value in more.items():
            setattr(self.car, name, value)
        assert self.device.ota is not None
        self._updates = Updates(
            self.device,
            self.device.ota,
            self.store,
            self.time,
            self.car,
            random=lambda: self.random,
        )
        self._task = self.time.task(self._updates.run())

    def kill(self) -> None:
        """The process is gone, without a word."""
        if self._task is not None:
            self._task.cancel()
            self.time.run(asyncio.wait([self._task]))
            assert self._task.cancelled()
        self._task = None
        self.store.close()

    def end(self, *failed: str) -> None:
        """It ends in order, or because something failed."""
        updates, store = self.updates, self.store
        assert self._task is not None
        self._task.cancel()
        self.time.run(asyncio.wait([self._task]))
        self._task = None
        updates.end(failed)
        store.close()

    @property
    def car(self) -> Car:
        assert self._car is not None
        return self._car

    @property
    def updates(self) -> Updates:
        assert self._updates is not None
        return self._updates

    # -- what comes about --------------------------------------------------------------------

    def until(self, condition: Callable[[], bool], within_s: float = 1000) -> None:
        """Let time pass until something is so."""
        last = self.time.passed_s + within_s

        async def wait() -> None:
            while not condition():
                assert self.time.passed_s < last, self.updates.status()
                assert self._task is not None
                assert not self._task.done()
                await asyncio.sleep(0.25)

        self.time.run(wait())

    def pass_s(self, seconds: float) -> None:
        """Let so much time pass."""
        self.time.run(asyncio.sleep(seconds))

    def look_again(self) -> None:
        """As long as it takes to look once more, and to follow from it."""
        self.command("poll")
        self.pass_s(1)
        self.until(lambda: self.state == "waiting")

    def command(self, what: str) -> dict[str, Any]:
        return self.time.run(self.updates.command(what))

    @property
    def status(self) -> dict[str, Any]:
        return self.updates.status()

    @property
    def state(self) -> str:
        return str(self.status["state"])

    def shows(self, running: str, *, trial: bool = False) -> bool:
        """Whether this is what runs, and whether it is on trial."""
        status = self.status
        return status["running"] == running and (status["trial"] is not None) == trial

    def trying(self, bundle: str) -> Callable[[], bool]:
        return lambda: self.shows(bundle, trial=True) and self.state == "trial"

    def runs(self, bundle: str) -> Callable[[], bool]:
        """For `until`: it looked, this stays, and all is told."""
        return lambda: (
            self.shows(bundle)
            and self.state == "waiting"
            and self.status["looked_s_ago"] is not None
            and not self.store.record.reports
        )

    @property
    def reports(self) -> list[tuple[str, str]]:
        """What was told, each report once: the step, and which bundle."""
        unique = {event["id"]: event for event in self.spool}
        return [(event["what"], event["bundle"]) for event in unique.values()]

    def why(self, what: str, bundle: str = "") -> str:
        """The reason in the last report of a step."""
        found = [e for e in self.spool if e["what"] == what and bundle in ("", e["bundle"])]
        return str(found[-1]["why"])

    @property
    def rejected(self) -> list[str]:
        return [each["bundle"] for each in self.status["rejected"]]


class World:
    """A repository and its server; `time` is everybody's."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.time = Time(wall())
        self.repo = Repository(folder / "repo")
        self.repo.publish()
        self.server = Server(self.repo.folder)
        self._vehicles = itertools.count(1)
        self._stack = contextlib.ExitStack()
        self._all: list[Vehicle] = []

    def __enter__(self) -> Self:
        self._stack.enter_context(self.time)
        self._stack.enter_context(self.server)
        return self

    def __exit__(self, *error: object) -> None:
        for vehicle in self._all:
            vehicle.kill()
        self._stack.close()

    # -- the operator ------------------------------------------------------------------------

    def bundle(
        self,
        version: int,
        *,
        name: str = "ev",
        plan: str = "",
        dbc: str = DBC,
        minimum_agent: str = "",
        audience: Audience = Audience(),  # noqa: B008 - it is frozen
    ) -> bytes:
        """A bundle whose plan is called by name and version."""
        folder = self.folder / f"bundle-{name}-{version}"
        folder.mkdir(exist_ok=True)
        (folder / "plan.toml").write_text(plan or PLAN.format(name=f"{name}-{version}"))
        (folder / "car.dbc").write_text(dbc)
        return pack(
            folder / "plan.toml",
            version=version,
            name=name,
            minimum_agent=minimum_agent,
            audience=audience,
        )

    def publish(
        self,
        version: int,
        *,
        name: str = "ev",
        data: bytes | None = None,
        state: str = "active",
        **more: Any,
    ) -> str:
        """Put a bundle into the repository, for all vehicles; gives what it is called."""
        data = self.bundle(version, name=name, **more) if data is None else data
        self.repo.add_bundle(name, version, data, state=state)
        self.repo.publish()
        return f"{name} {version}"

    def roll_out(self, version: int, state: str, *, name: str = "ev") -> None:
        data = self.repo.contents[f"bundles/{name}-{version}.bundle"]
        self.publish(version, name=name, data=data, state=state)

    def request(self, name: str, *, expires: dt.timedelta, **more: Any) -> None:
        """Ask all vehicles for something."""
        until = (NOW + expires).strftime("%Y-%m-%dT%H:%M:%SZ")
        custom = {"kind": "request", "id": name, "expires": until, **more}
        self.repo.add(f"requests/{name}.json", b"{}", {FIELD: custom})
        self.repo.publish()

    def fetched(self, title: str) -> int:
        """How often a bundle was asked for."""
        name, version = title.split(" ")
        path = f"bundles/{name}-{version}.bundle"
        digest = hashlib.sha256(self.repo.contents[path]).hexdigest()
        return self.server.asked.count(f"targets/bundles/{digest}.{name}-{version}.bundle")

    # -- vehicles ----------------------------------------------------------------------------

    def vehicle(
        self, folder: Path | None = None, fs: FileSystem | None = None, **settings: Any
    ) -> Vehicle:
        """One with a factory plan; `settings` are keys of [ota], with a trial of 20 s."""
        folder = folder or self.folder / f"vehicle-{next(self._vehicles)}"
        folder.mkdir(exist_ok=True)
        (folder / "car.dbc").write_text(DBC)
        (folder / "plan.toml").write_text(PLAN.format(name=FACTORY))
        keys = {"trial_s": 20, "deadline_s": 60, **settings}
        lines = [f"{key} = {_toml(value)}" for key, value in keys.items()]
        device = DEVICE.format(url=self.server.url, root_file=self.repo.root_file)
        (folder / "agent.toml").write_text(device + "\n".join(lines) + "\n")
        vehicle = Vehicle(folder, self.time, load_device(folder / "agent.toml"), fs)
        self._all.append(vehicle)
        return vehicle


def _toml(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def on_ev_1(world: World, **settings: Any) -> Vehicle:
    """A vehicle on which ev 1 has done well."""
    world.publish(1)
    vehicle = world.vehicle(**settings).start()
    vehicle.until(vehicle.runs("ev 1"))
    return vehicle


@contextlib.contextmanager
def listening(name: str = "edge_agent.ota") -> Iterator[list[str]]:
    """What a part of the program logs meanwhile."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)
