"""A stranger's walk: the commands of README.md, word by word, on a system that knows nothing.

    python3 -m tests.vm.walk PACKAGE.deb FACTS.json

What a reader has is made here: an adapter that is plugged in (a controller of the kernel on a
pseudo-terminal), a folder in which the package and the vehicle's DBC file lie, and a vehicle that
says something as soon as somebody listens. All else is done by the commands, one after the other,
each as soon as there is something for it to show. `test_walk.py` on the host judges what they said
and what is in the cloud. It changes the whole system, so it belongs into a guest.
"""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from agent.batch import read_batch
from tests import processes
from tests.vm.car import DBC
from tests.vm.guest import REPOSITORY
from tests.vm.package_bus import adapter
from tests.vm.package_guest import run, until

FRAMES: Final = 500
SENT: Final = [n * 0x0101_0101_0101 for n in range(FRAMES)]
"""What the vehicle says: the value of each frame."""

_CAR: Final = DBC.replace("BU_:", "BS_:\nBU_:")
_ID: Final = 0x123
_FOLDER: Final = Path("/root/walk")
_SOCKET: Final = Path("/var/lib/edge-agent/agent.sock")
_LIMIT_S: Final = 120.0
"""For a command, and for data to arrive: batches are a minute long, as the example says."""
_OF_A_READER: Final = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}


def commands() -> list[str]:
    """The lines of the section "On a vehicle" that are to be typed."""
    text = (REPOSITORY / "README.md").read_text("utf-8")
    section = re.search(r"^## On a vehicle\n(.*?)^## ", text + "\n## ", re.DOTALL | re.MULTILINE)
    assert section, "README.md has no such section"
    return [line.strip() for line in section[1].splitlines() if line.startswith("    ")]


def main(package: str, facts: str) -> int:
    """Walk; what was seen goes to `facts` also where it breaks off."""
    seen: dict[str, Any] = {}
    began = time.monotonic()
    try:
        prepare(Path(package))
        with adapter() as (name, wire):
            run("ip", "link", "set", name, "name", "can0")
            for line, status in walk(wire):
                seen[line] = {"status": status}
                print(f"{time.monotonic() - began:6.1f} s  {line}")
                if status:
                    break
            run("systemctl", "stop", "edge-agent", "can-bus@can0")
        seen["in the cloud"] = in_the_cloud()
        seen["exported"] = exported()
    finally:
        for number, line in enumerate(commands()):
            if line in seen:  # now, for some go on in the background
                seen[line]["output"] = output(number).read_text("utf-8", "replace")
        Path(facts).write_text(json.dumps(seen, indent=1), "utf-8")
    return 0


def prepare(package: Path) -> None:
    """A folder with what the reader has; and nothing of this checkout is installed."""
    Path("/usr/bin/edge-agent").unlink(missing_ok=True)
    # No power is cut here; what is written need not wait for the disk.
    Path("/etc/dpkg/dpkg.cfg.d/walk").write_text("force-unsafe-io\n", "ascii")
    _FOLDER.mkdir()
    shutil.copy(package, _FOLDER)
    (_FOLDER / "car.dbc").write_text(_CAR, "utf-8")


def walk(wire: int) -> Iterator[tuple[str, int]]:
    """Each command and its exit status; the vehicle speaks once, when the agent listens."""
    spoken = False
    for number, line in enumerate(commands()):
        if line.startswith("make "):
            continue  # on the reader's own machine
        yield line, typed(line, output(number))
        if not spoken and processes.status(_SOCKET) is not None:
            until(reads, "the agent")
            for value in SENT:
                os.write(wire, b"t%03X8%s\r" % (_ID, value.to_bytes(8, "little").hex().encode()))
            until(lambda: len(numbers()) >= FRAMES, "the cloud", numbers, _LIMIT_S)
            spoken = True


def typed(line: str, said: Path) -> int:
    """Have a shell do it; gives its exit status. What is printed goes to a file."""
    with said.open("wb") as out:
        return subprocess.run(
            ["bash", "-c", line],
            cwd=_FOLDER,
            env=_OF_A_READER,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=_LIMIT_S,
            check=False,
        ).returncode


def output(number: int) -> Path:
    """What a command has printed."""
    return Path(f"/root/output-{number}")


def reads() -> bool:
    said = processes.status(_SOCKET)
    return said is not None and [bus["state"] for bus in said["buses"]] == ["reading"]


def in_the_cloud() -> list[tuple[str, list[int]]]:
    """Every signal of every table in the batches there, and its values."""
    return [
        (f"{table.message}.{name}", table.raw[name].tolist())
        for table in read_batch(*sorted(_FOLDER.rglob("*.batch")))
        for name in table.names
    ]


def numbers() -> list[int]:
    return [n for name, values in in_the_cloud() if name == "Numbers.Number" for n in values]


def exported() -> list[tuple[str, str]]:
    """What a spreadsheet would show: signals and values."""
    rows: list[tuple[str, str]] = []
    for table in _FOLDER.glob("*.csv"):
        with table.open(newline="", encoding="utf-8") as file:
            rows += [(f"{r['message']}.{r['signal']}", r["value"]) for r in csv.DictReader(file)]
    return rows


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
