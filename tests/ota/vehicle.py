"""A vehicle that looks at a repository, and keeps what it is told to keep."""

import datetime as dt
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import msgspec

from agent.clock import SECOND, WallNs
from agent.ota.client import Client, Floor, Looked, LookError, Trusted
from agent.settings.ota import Ota
from tests.ota.repo import NOW, Repository
from tests.ota.server import Server


def wall(moment: dt.datetime) -> WallNs:
    return WallNs(int(moment.timestamp()) * SECOND)


class Vehicle:
    """Its durable memory and its client; `settings` are keys of [ota]."""

    def __init__(
        self,
        url: str,
        folder: Path,
        root: Path,
        *,
        now: dt.datetime = NOW,
        clock: Callable[[], float] = time.monotonic,
        **settings: Any,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.root_file = folder / "root.json"
        shutil.copy(root, self.root_file)
        keys = {"url": url, "root_file": str(self.root_file), "deadline_s": 20, **settings}
        self.settings = msgspec.convert(keys, Ota)
        self.work = folder / "work"
        self.now = now
        self.trusted: Trusted | None = None
        self.floors: dict[str, Floor] = {}
        self.client = Client(self.settings, self.work, "edge-agent/0", clock)

    def look(self) -> Looked:
        """A look, after which it remembers what it should, also when it raises."""
        try:
            looked = self.client.look(self.trusted, self.floors, wall(self.now))
        except LookError as e:
            if e.learned:
                self.trusted, self.floors = e.learned.trusted, e.learned.floors
            raise
        self.trusted, self.floors = looked.trusted, looked.floors
        return looked

    def fetch(self, path: str = "bundles/ev-1.bundle") -> bytes:
        """Look, and download this target."""
        return self.client.download(self.look().targets[path])

    def versions(self) -> dict[str, int]:
        """Of the roles, as they were taken last."""
        return {role: floor.version for role, floor in self.floors.items()}


class World:
    """A repository with one bundle, its server, and a vehicle that has not looked yet."""

    BUNDLE = b"bundle " * 300

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.repo = Repository(folder / "repo", **options)
        self.repo.add_bundle("ev", 1, self.BUNDLE)
        self.repo.publish()
        self.server = Server(self.repo.folder)
        self.vehicle = self.another("vehicle")

    def another(self, name: str, **settings: Any) -> Vehicle:
        """One more vehicle, with the root file of the first day."""
        return Vehicle(self.server.url, self.folder / name, self.repo.root_file, **settings)

    def __enter__(self) -> Self:
        self.server.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.__exit__(*error)
