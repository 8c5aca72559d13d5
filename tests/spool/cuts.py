"""Cuts the power before every operation of a run, in every way, and looks at what is left."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tests.spool.fakefs import CUTS, Disk

_CHANGES = (
    "make_folder",
    "create",
    "reserve",
    "write_at",
    "sync",
    "truncate",
    "link",
    "rename",
    "unlink",
    "sync_folder",
)


class Cutter:
    """The `before` of a disk: `examine` gets a folder for each different thing a cut may leave.

    `promises` tells how many promises were made so far: what was left in the same way under the
    same promises is examined once.
    """

    def __init__(
        self,
        disk: Disk,
        scratch: Path,
        examine: Callable[[Path], None],
        promises: Callable[[], int] = lambda: 0,
    ) -> None:
        self.cases = 0
        self._disk = disk
        self._scratch = scratch
        self._examine = examine
        self._promises = promises
        self._seen: set[tuple[int, frozenset[tuple[str, bytes]]]] = set()
        disk.before = self

    def __call__(self, number: int, what: str) -> None:
        if what.partition(" ")[0] in _CHANGES:
            self.cut_now(f"before operation {number}, {what}")

    def cut_now(self, when: str) -> None:
        for data, names in CUTS:
            image = self._promises(), self._disk.image(data, names)
            if image in self._seen:
                continue
            self._seen.add(image)
            self.cases += 1
            self._disk.lay_out(self._scratch, data, names)
            try:
                self._examine(self._scratch)
            except BaseException as e:
                e.add_note(f"cut {when}: data {data}, names {names}")
                raise
            shutil.rmtree(self._scratch)
