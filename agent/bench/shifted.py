"""`python -m agent.bench.shifted FILE BENCH ...`: `edge-agent ...` with a wall clock that is off.

FILE holds by how many nanoseconds, int64 in the byte order of this computer; the bench changes it
while the agent runs. Boot time is what it is. Nothing in the agent itself knows of this: its
`SystemClock` is another one here, before anything else is imported.

BENCH is the process that starts it. A bench that is killed takes its agent along: nobody else would
end it.
"""

import ctypes
import mmap
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Final

from agent import clock
from agent.clock import SystemClock, WallNs

OFFSET_BYTES: Final = 8
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


class Offset:
    """Nanoseconds in a file that two processes share.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(OFFSET_BYTES))
        with path.open("r+b") as file:
            self._cell = memoryview(mmap.mmap(file.fileno(), OFFSET_BYTES)).cast("q")

    @property
    def ns(self) -> int:
        return self._cell[0]

    @ns.setter
    def ns(self, value: int) -> None:
        self._cell[0] = value


def main() -> None:
    """Replace the clock, then be `edge-agent`; does not return."""
    path, bench, *arguments = sys.argv[1:]
    offset = Offset(Path(path))

    class ShiftedClock(SystemClock):
        def wall(self) -> WallNs:
            return WallNs(super().wall() + offset.ns)

    clock.SystemClock = ShiftedClock  # type: ignore[misc]
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(bench):
        sys.exit(1)  # the bench has ended already
    sys.argv = ["edge-agent", *arguments]
    runpy.run_module("agent.cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
