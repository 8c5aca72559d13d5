"""Cuts the power before every operation of a run, in every way, and looks at what is left.

As a program it does that with the run that exercises everything, and prints the number of cases:

    python -m tests.spool.cuts [--mixed N]
"""

import argparse
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.spool.conftest import fast_folder
from tests.spool.drive import Drive
from tests.spool.fakefs import CUTS, Cut, Disk

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
    same promises is examined once. `mixed`: how many ways are tried at each operation in which each
    unsynced change has a fate of its own.
    """

    def __init__(
        self,
        disk: Disk,
        scratch: Path,
        examine: Callable[[Path], None],
        promises: Callable[[], int] = lambda: 0,
        *,
        mixed: int = 0,
    ) -> None:
        self.points = 0
        self.alike = 0
        """Cases in which all unsynced changes had the same fate."""
        self.mixed = 0
        """Cases in which each had its own."""
        self._most = mixed
        self._disk = disk
        self._scratch = scratch
        self._examine = examine
        self._promises = promises
        self._seen: set[int] = set()
        disk.before = self

    @property
    def cases(self) -> int:
        return self.alike + self.mixed

    def __str__(self) -> str:
        return (
            f"{self.cases:,} different disks after a power cut at {self.points:,} operations "
            f"({self.alike:,} with all unsynced changes alike, {self.mixed:,} with each by itself)"
        )

    def __call__(self, number: int, what: str) -> None:
        if what.partition(" ")[0] in _CHANGES:
            self.cut_now(f"before operation {number}, {what}")

    def cut_now(self, when: str) -> None:
        self.points += 1
        for data, names in CUTS:
            self.alike += self._look(when, Disk.cut(data, names))
        for cut in self._mixed_cuts(when):
            self.mixed += self._look(when, cut)

    def _mixed_cuts(self, when: str) -> Iterator[Cut]:
        if self._most:
            yield from self._disk.mixed_cuts(self._most, when)

    def _look(self, when: str, cut: Cut) -> bool:
        image = hash((self._promises(), self._disk.image(cut)))
        if image in self._seen:
            return False
        self._seen.add(image)
        self._disk.lay_out(self._scratch, cut)
        try:
            self._examine(self._scratch)
        except BaseException as e:
            e.add_note(f"cut {when}: {cut.what}")
            raise
        shutil.rmtree(self._scratch)
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--mixed",
        type=int,
        default=30,
        metavar="N",
        help="ways at each operation in which each unsynced change has a fate of its own",
    )
    args = parser.parse_args()
    logging.getLogger("edge_agent.spool").disabled = True
    began = time.monotonic()
    with tempfile.TemporaryDirectory(dir=fast_folder()) as folder:
        (Path(folder) / "disk").mkdir()
        disk = Disk(Path(folder) / "disk")
        drive = Drive(disk)
        cutter = Cutter(
            disk, Path(folder) / "left", drive.examine, lambda: drive.promises, mixed=args.mixed
        )
        drive.whole()
        cutter.cut_now("at the end")
    print(f"{cutter}, in {time.monotonic() - began:.0f} s: nothing that was promised is lost")


if __name__ == "__main__":
    main()
