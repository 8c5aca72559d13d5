"""Configuration over the air on the bench: a repository with keys of its own, good and hostile.

Keys are made for one bench and lie beside its repository: they protect nothing.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from agent.errors import UpdateError
from agent.ota.bundle import pack, read
from agent.ota.operator.change import Change
from agent.ota.operator.content import Stage, find, publish, roll_out
from agent.ota.operator.keys import KeyRing
from agent.ota.operator.repository import Repository, State
from agent.ota.operator.rotation import begin
from agent.ota.operator.work import carry_out, finish

Kind = Literal["good", "tampered", "harmful"]
Make = Callable[[Repository, State], Change]

NAME: Final = "bench"
"""Of all bundles here, so that each is newer than the one before."""
_PLAIN: Final = ("root", "targets", "snapshot", "timestamp")
# A plan like any other, with the database of another vehicle: this one's buses say nothing in it.
_HARMFUL_PLAN: Final = """version = 1
name = "harmful"

[[database]]
bus = "*"
files = ["another-vehicle.dbc"]

[[campaign]]
name = "everything"
signals = ["*"]
"""
_HARMFUL_DBC: Final = """VERSION ""

BU_: Nobody

BO_ 2565864686 NeverSent: 8 Nobody
 SG_ Nothing : 0|8@1+ (1,0) [0|255] "" Nobody
"""


class Publisher:
    """Publishes bundles for the vehicle of a bench. To be called in a thread: it writes files.

    Args:
        folder: for repository and keys; one that is there is replaced.
        plan: the plan that the vehicle has, of which good bundles are made.

    Raises:
        UpdateError: the disk fails.
    """

    def __init__(self, folder: Path, plan: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.root = folder / "repository"
        self._keys = folder / "keys"
        self._harmful = folder / "harmful"
        self._plan = plan
        self._version = 0
        try:
            for made in (self.root, self._keys, self._harmful):
                made.mkdir(parents=True)
            (self._harmful / "plan.toml").write_text(_HARMFUL_PLAN)
            (self._harmful / "another-vehicle.dbc").write_text(_HARMFUL_DBC)
        except OSError as e:
            raise UpdateError(f"{folder}: cannot be written: {e.strerror}") from e
        repository, ring = Repository(self.root), KeyRing([self._keys])
        with repository.changing(make=True):
            change = begin(repository, ring, counts={}, thresholds={}, days={}, plain=_PLAIN)
            finish(repository, ring, change)

    @property
    def root_file(self) -> Path:
        """Whose word the vehicle trusts."""
        return self.root / "metadata" / "1.root.json"

    def publish(self, kind: Kind) -> str:
        """Add a bundle for every vehicle; what it is called here.

        A good one has the plan that the vehicle has already. A harmful one is signed as well, and
        decodes nothing. Of a tampered one, the archive is not what was signed.

        Raises:
            UpdateError: it cannot be made of the plan, or the disk fails.
        """
        self._version += 1
        plan = self._harmful / "plan.toml" if kind == "harmful" else self._plan
        data = pack(plan, version=self._version, name=NAME)
        bundle = read(data)

        def make(repository: Repository, state: State) -> Change:
            change = publish(repository, state, bundle, data, [Stage()])
            if kind == "tampered":
                change.files = {name: _tampered(file) for name, file in change.files.items()}
            return change

        self._carry_out(make)
        return f"{NAME}-{self._version}"

    def withdraw(self, title: str) -> None:
        """Take a bundle back: a vehicle that has it goes back to what it had.

        Raises:
            UpdateError: there is no such bundle, or the disk fails.
        """

        def make(repository: Repository, state: State) -> Change:
            find(state, title)
            return roll_out(repository, state, title, to_state="withdrawn")

        self._carry_out(make)

    def _carry_out(self, make: Make) -> None:
        repository = Repository(self.root)
        carry_out(repository, KeyRing([self._keys]), lambda state: make(repository, state))


def _tampered(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]
