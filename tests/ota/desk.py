"""An operator's desk: keys, a repository behind a web server, the command line, and vehicles.

desk.run("publish", desk.repo, bundle, "--keys", desk.keys, "-c", desk.device)
with desk.server() as url:
vehicle = desk.vehicle(url, "van-1", groups={"canary"})
assert vehicle.look() == "ev 3"
"""

import contextlib
import io
import json
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from agent import __version__
from agent.cli import main
from agent.clock import WallNs
from agent.ota.bundle import read
from agent.ota.choice import Identity, Leave, Take, choose, due, parse
from agent.ota.client import Client
from agent.ota.trusted import Floor, Trusted
from agent.ota.types import BundleId
from agent.settings import Ota
from tests.ota.server import Server

DAY = 86_400 * 10**9

DBC = """VERSION ""
BS_:
BU_: A
BO_ 1 Motion: 8 A
 SG_ Speed : 0|16@1+ (0.1,0) [0|250] "km/h" A
 SG_ Soc : 16|8@1+ (0.5,0) [0|100] "%" A
"""
PLAN = """version = 1
name = "ev"
[[database]]
bus = "*"
files = ["car.dbc"]
[[campaign]]
name = "all"
signals = ["Motion.*"]
every_ms = {every_ms}
"""
DEVICE = """vehicle = "van-1"
plan = "plan.toml"
[[bus]]
name = "powertrain"
kind = "socketcan"
interface = "can0"
[[uplink]]
name = "cloud"
url = "https://cloud.example"
"""


class Answer(NamedTuple):
    """What a run of the command gave."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*words: object) -> Answer:
    """`edge-agent ota ...`, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["ota", *map(str, words)])
    return Answer(status, out.getvalue(), err.getvalue())


class Vehicle:
    """One that keeps what it trusts, and takes at once what is for it."""

    def __init__(
        self, name: str, groups: Collection[str], url: str, root_file: Path, work: Path
    ) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.identity = Identity(name, frozenset(groups), __version__)
        self.client = Client(Ota(url=url, root_file=str(root_file)), work, "test", time.monotonic)
        self.trusted: Trusted | None = None
        self.floors: dict[str, Floor] = {}
        self.current: BundleId | None = None
        self.requests: list[str] = []
        self.plan = ""

    def look(self, later_days: float = 0.0) -> str:
        """Look, take what is for it; gives what runs then.

        Raises:
            UpdateError: the repository is refused, or cannot be reached.
        """
        now = WallNs(time.time_ns() + int(later_days * DAY))
        looked = self.client.look(self.trusted, self.floors, now)
        self.trusted, self.floors = looked.trusted, looked.floors
        listing = parse(looked.targets)
        assert listing.findings == ()
        choice = choose(listing, self.identity, current=self.current, rejected=(), pinned=False)
        if isinstance(choice, Take):
            bundle = read(self.client.download(looked.targets[choice.offer.path]))
            assert bundle.id == choice.offer.id
            self.current = bundle.id
            self.plan = bundle.files[bundle.manifest.plan].decode()
        elif isinstance(choice, Leave):
            self.current = None
        self.requests = [request.id for request in due(listing, self.identity, (), now)]
        return self.current.title if self.current else "factory"


class Desk:
    """A folder with a repository and all that is needed to fill it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repo = folder / "repo"
        self.keys = folder / "keys"
        self.device = folder / "agent.toml"
        (folder / "car.dbc").write_text(DBC)
        self.device.write_text(DEVICE)
        self._vehicles = 0

    def init(self, *words: object) -> Answer:
        """With keys that are not encrypted, unless the words say otherwise."""
        return self.good("init", self.repo, "--keys", self.keys, *(words or ["--no-passphrase"]))

    def bundle(self, version: int, *words: object, plan: str = "") -> Path:
        """A bundle file of a plan that differs from that of any other version."""
        path = self.folder / "plan.toml"
        path.write_text(plan or PLAN.format(every_ms=version))
        output = self.folder / f"ev-{version}.bundle"
        self.good("bundle", path, "--version", version, "-o", output, *words)
        return output

    def publish(self, version: int, *words: object) -> Answer:
        return self.good(
            "publish", self.repo, self.bundle(version), *self.signed, "-c", self.device, *words
        )

    @property
    def signed(self) -> tuple[object, ...]:
        return ("--keys", self.keys)

    @staticmethod
    def run(*words: object) -> Answer:
        return run(*words)

    @staticmethod
    def good(*words: object) -> Answer:
        """A command that must succeed."""
        answer = run(*words)
        assert (answer.status, answer.err) == (0, ""), answer
        return answer

    def status(self) -> Any:
        return run("status", self.repo, "--json").json

    def key(self, role: str, number: int = 0) -> Path:
        """A private key that counts now."""
        roles = run("keys", self.repo, "--keys", self.keys, "--json").json["roles"]
        (keys,) = [entry["keys"] for entry in roles if entry["role"] == role]
        return Path([key["file"] for key in keys if key["file"]][number])

    def key_id(self, role: str, number: int = 0) -> str:
        return self.key(role, number).stem.removeprefix(f"{role}-")

    @contextlib.contextmanager
    def server(self, folder: Path | None = None) -> Iterator[Server]:
        with Server(folder or self.repo) as server:
            yield server

    def vehicle(self, server: Server, name: str = "van-1", *groups: str) -> Vehicle:
        """One that was given the first root."""
        self._vehicles += 1
        work = self.folder / f"vehicle-{self._vehicles}"
        root = self.repo / "metadata" / "1.root.json"
        return Vehicle(name, groups, server.url, root, work)
