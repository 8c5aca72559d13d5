"""A car that takes its plans over the air: the operator's desk, the cloud beside it, and its bus.

async with station(folder, interface) as place:
    async with place.car.agent(), load(interface) as traffic:
        place.desk.publish(1, FLEET)
        await place.settled("fleet 1")
"""

import asyncio
import contextlib
import io
import json
import urllib.request
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final

from agent.batch import BatchReader, read_batch
from agent.cli import main
from tests import processes
from tests.vm import frames
from tests.vm.car import DBC, PLAN, Car

NUMBERS, OTHERS = 0x123, 0x321
BOTH: Final = DBC + 'BO_ 801 Others: 8 A\n SG_ Other : 0|64@1+ (1,0) [0|0] "" A\n'
FLEET: Final = PLAN.replace('name = "all"', 'name = "fleet"', 1)
"""What the factory plan wants, as a bundle."""
MORE: Final = FLEET.replace('"Numbers.Number"', '"Numbers.Number", "Others.Other"')
STORM: Final = """
[[campaign]]
name = "storm"
signals = ["Numbers.Number"]
[campaign.trigger]
when = "bit(Numbers.Number, 0)"
"""
"""An event for each second number."""
NOTHING_MAY_GO: Final = '[[budget]]\nlink = "any"\nmb_per_day = 0.000001\n'
TRIAL_S: Final = 4.0
_EACH: Final = 50
_PERIOD_S: Final = 0.02


class Desk:
    """An operator with keys and a repository; commands run in this process."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.repository = folder / "repository"
        self._keys = folder / "keys"
        self._config = config
        self._plans = folder / "plans"

    def begin(self) -> None:
        """Make keys and a repository, where there are none yet."""
        if not (self.repository / "metadata").exists():
            keys = ("--root-keys", 1, "--root-threshold", 1, "--no-passphrase")
            _done("init", self.repository, "--keys", self._keys, *keys)

    def publish(self, version: int, plan: str, dbc: str = DBC, *, to: str = "all") -> None:
        """Make a bundle and offer it; with no `to`, to nobody yet."""
        folder = self._plans / str(version)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "plan.toml").write_text(plan)
        (folder / "numbers.dbc").write_text(dbc)
        bundle = folder / "it.bundle"
        _done("bundle", folder / "plan.toml", "--version", version, "-o", bundle)
        words = ("--keys", self._keys, "-c", self._config, *(("--to", to) if to else ()))
        _done("publish", self.repository, bundle, *words)

    def roll_out(self, bundle: str, *words: str) -> None:
        _done("rollout", self.repository, bundle, *words, "--keys", self._keys)


def _done(*words: object) -> None:
    status, said = command("ota", *words)
    assert status == 0, said


def command(*words: object) -> tuple[int, str]:
    """`edge-agent WORDS` in this process: its exit status, and what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        status = main([str(word) for word in words])
    return status, said.getvalue()


class Cloud:
    """The reference cloud, which serves the repository too; it can go and come back."""

    def __init__(self, folder: Path, repository: Path) -> None:
        self.data = folder / "cloud"
        self.port = 0
        self._repository = repository
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        words = ("--data", self.data, "--ota", self._repository)
        self._process = await processes.start(
            *("cloud", "--listen", f"127.0.0.1:{self.port}"),
            *(str(word) for word in words),
            log=self.data.with_suffix(".log"),
        )
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), processes.LIMIT_S)
        address = next(word for word in line.decode().replace(",", " ").split() if "://" in word)
        self.port = int(address.rstrip("/").rsplit(":", 1)[1])

    async def stop(self) -> None:
        if self._process is not None:
            await processes.stop(self._process)
            self._process = None

    def updates(self) -> list[tuple[str, str, str]]:
        """What the vehicle has told of bundles, the oldest first: what, bundle, why."""
        url = f"http://127.0.0.1:{self.port}/v1/vehicles/car/updates"
        try:
            with urllib.request.urlopen(url, timeout=processes.LIMIT_S) as answer:
                told = json.load(answer)["updates"]
        except OSError:
            return []  # it has not heard of the vehicle, or is not there
        return [(each["what"], each["bundle"], each["why"]) for each in reversed(told)]


class Place:
    """Desk, cloud and car in one folder."""

    def __init__(self, folder: Path, desk: Desk, cloud: Cloud, car: Car) -> None:
        self.folder = folder
        self.desk = desk
        self.cloud = cloud
        self.car = car

    def ota(self) -> dict[str, Any]:
        """What the agent says of its updates; empty while none answers."""
        status = processes.status(self.car.socket)
        return {} if status is None else dict(status["ota"])

    async def settled(self, bundle: str) -> dict[str, Any]:
        """Wait until a bundle runs and is not on trial."""
        return await self.until(
            lambda ota: ota["running"] == bundle and ota["trial"] is None, f"{bundle} stays"
        )

    async def on_trial(self, bundle: str) -> dict[str, Any]:
        return await self.until(
            lambda ota: ota["trial"] is not None and ota["running"] == bundle, f"{bundle} is tried"
        )

    async def rejected(self, bundle: str) -> str:
        """Wait until a bundle is rejected, and another one runs; gives why."""
        ota = await self.until(lambda ota: bundle in _reasons(ota), f"{bundle} is rejected")
        return _reasons(ota)[bundle]

    async def told(self, *words: tuple[str, str]) -> dict[tuple[str, str], str]:
        """Wait until the cloud has heard all of this; gives the reasons."""

        def found() -> dict[tuple[str, str], str] | None:
            heard = {(what, bundle): why for what, bundle, why in self.cloud.updates()}
            return heard if heard.keys() >= set(words) else None

        try:
            heard: dict[tuple[str, str], str] = await processes.until(found, f"the word of {words}")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.cloud.updates()}\n{self.car.said}") from None
        return heard

    async def until(self, holds: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Wait until what the agent says of its updates is so."""

        def found() -> dict[str, Any] | None:
            ota = self.ota()
            return ota if ota and holds(ota) else None

        try:
            ota: dict[str, Any] = await processes.until(found, what)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.ota()}\n{self.car.said}") from None
        return ota

    def batches(self) -> list[BatchReader]:
        """Those at the cloud, and those that still wait in the spool; each once."""
        spool = self.folder / "state/spool/uplinks/cloud"
        found = map(BatchReader, [*spool.rglob("*.batch"), *self.cloud.data.rglob("*.batch")])
        return list({batch.header["batch_id"]: batch for batch in found}.values())

    def numbers(self, message: str = "Numbers", campaign: str = "all") -> dict[str, list[int]]:
        """What was kept of a message, by the bundle that its batches name; in order."""
        found: dict[str, list[int]] = {}
        for batch in self.batches():
            numbers = found.setdefault(batch.header.get("bundle", ""), [])
            for table in read_batch(batch.path):
                if (table.campaign, table.message) == (campaign, message):
                    numbers += table.raw[table.names[0]].tolist()
        return {bundle: sorted(numbers) for bundle, numbers in found.items() if numbers}

    def holds(self, collected: Sequence[range]) -> None:
        """Whether all of these numbers were kept, and none twice."""
        numbers = [n for some in self.numbers().values() for n in some]
        kept = set(numbers)
        assert len(kept) == len(numbers)
        lost = {some: len(some) - len(kept.intersection(some)) for some in collected}
        assert not any(lost.values()), f"{lost}\n{self.car.said}"


def _reasons(ota: dict[str, Any]) -> dict[str, str]:
    """Why bundles were rejected, of those that do not run any more."""
    return {
        each["bundle"]: each["why"] for each in ota["rejected"] if each["bundle"] != ota["running"]
    }


@contextlib.asynccontextmanager
async def station(
    folder: Path, interface: str, more: str = "", *, plan: str = PLAN, trial_s: float = TRIAL_S
) -> AsyncIterator[Place]:
    """A cloud, and a car that looks into its repository every second; no agent runs yet."""
    desk = Desk(folder / "desk", folder / "agent.toml")
    desk.begin()
    cloud = Cloud(folder, desk.repository)
    await cloud.start()
    try:
        car = Car(folder, {"body": interface}, cloud.port, more, BOTH)
        (folder / "plan.toml").write_text(plan)
        car.config.write_text(
            f'{car.config.read_text()}[ota]\nurl = "http://127.0.0.1:{cloud.port}/ota"\n'
            f'root_file = "{desk.repository}/metadata/1.root.json"\n'
            f"poll_s = 1\ntrial_s = {trial_s}\n"
            # One slow CPU is shared with whoever sends here; what a plan costs is no subject.
            "max_cpu_percent = 1000\n"
        )
        yield Place(folder, desk, cloud, car)
    finally:
        await cloud.stop()


class Load:
    """Frames that carry their number, without an end."""

    def __init__(self, interface: str, identifiers: Collection[int]) -> None:
        self.sent = 0
        """Of each id."""
        self._interface = interface
        self._identifiers = identifiers

    async def run(self) -> None:
        with frames.Sender(self._interface) as sender:
            while True:
                payloads = [n.to_bytes(8, "little") for n in range(self.sent, self.sent + _EACH)]
                for identifier in self._identifiers:
                    sender.send_many(
                        frames.Prepared([frames.classic(identifier, p) for p in payloads])
                    )
                self.sent += _EACH
                await asyncio.sleep(_PERIOD_S)

    async def more(self, n: int = 2000) -> range:
        """Wait until so many more are sent; gives their numbers."""
        numbers = range(self.sent, self.sent + n)
        await processes.until(lambda: self.sent >= numbers.stop, f"{n} more frames")
        return numbers


@contextlib.asynccontextmanager
async def load(interface: str, *identifiers: int) -> AsyncIterator[Load]:
    """Some 2,500 frames a second of each id, as far as this machine can."""
    traffic = Load(interface, identifiers or (NUMBERS,))
    running = asyncio.create_task(traffic.run())
    try:
        yield traffic
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
