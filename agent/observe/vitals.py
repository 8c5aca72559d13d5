"""What the kernel tells of this process and its computer, read from /proc and /sys.

    process      CPU time, resident memory (/proc/self/statm, proc(5))
    temperature  the hottest zone (class/thermal/thermal_zone*/temp)
    flash        wear of an eMMC 5.0 or later (block/mmcblk*/device/life_time and pre_eol_info;
                 JESD84-B50: DEVICE_LIFE_TIME_EST_TYP_A and _B, PRE_EOL_INFO)
    disk         free space and size of the state folder's file system

What is not there, or is nonsense, is left out. SD cards, and most virtual machines, tell nothing of
all this.
"""

import contextlib
import os
import re
import time
from pathlib import Path
from typing import Any, Final

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_ZONES: Final = 64
_DEVICES: Final = 4
_COLDEST: Final = -60_000
_HOTTEST: Final = 200_000
"""Thousandths of a degree. A sensor that is not there says -274000, or some millions."""
_DISK: Final = re.compile(r"mmcblk\d+")  # mmcblk0boot0 is a part of mmcblk0
_EXCEEDED: Final = 0x0B
_URGENT: Final = 0x03


class Vitals:
    """Of the computer below a root folder; `root` is a seam for tests."""

    def __init__(self, state_dir: Path, root: Path = Path("/")) -> None:
        """`state_dir` lies on the file system whose free space matters."""
        self._state_dir = state_dir
        self._root = root

    def process(self) -> dict[str, Any]:
        """This process: `cpu_s` and `memory_bytes`. Fast, and fit for JSON."""
        told: dict[str, Any] = {"cpu_s": round(time.process_time(), 3)}
        with contextlib.suppress(OSError, ValueError, IndexError):
            pages = (self._root / "proc/self/statm").read_text("ascii").split()[1]
            told["memory_bytes"] = int(pages) * _PAGE
        return told

    def look(self) -> dict[str, Any]:
        """The computer: `temperature_c`, `disk` and `flash`. May block; fit for JSON."""
        told: dict[str, Any] = {}
        if (temperature := self._temperature()) is not None:
            told["temperature_c"] = temperature
        with contextlib.suppress(OSError):
            disk = os.statvfs(self._state_dir)
            told["disk"] = {
                "free_bytes": disk.f_bavail * disk.f_frsize,
                "size_bytes": disk.f_blocks * disk.f_frsize,
            }
        if flash := self._flash():
            told["flash"] = flash
        return told

    def _temperature(self) -> float | None:
        zones = sorted((self._root / "sys/class/thermal").glob("thermal_zone*"))[:_ZONES]
        found = [t for zone in zones if (t := _number(zone / "temp")) is not None]
        return max((t / 1000 for t in found if _COLDEST <= t <= _HOTTEST), default=None)

    def _flash(self) -> dict[str, dict[str, Any]]:
        """Device -> `life` (of type A and B, in tenths of it that are used) and `end_of_life`."""
        blocks = sorted((self._root / "sys/block").glob("mmcblk*"))
        found: dict[str, dict[str, Any]] = {}
        for device in [block for block in blocks if _DISK.fullmatch(block.name)][:_DEVICES]:
            told: dict[str, Any] = {}
            life = _hexadecimals(device / "device/life_time")
            if len(life) == 2 and any(life) and max(life) <= _EXCEEDED:
                told["life"] = life
            end = _hexadecimals(device / "device/pre_eol_info")
            if len(end) == 1 and 0 < end[0] <= _URGENT:
                told["end_of_life"] = end[0]
            if told:
                found[device.name] = told
        return found


def _number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(_beginning(path))
    return None


def _hexadecimals(path: Path) -> list[int]:
    with contextlib.suppress(OSError, ValueError):
        return [int(word, 16) for word in _beginning(path).split()]
    return []


def _beginning(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(64).decode("ascii", "replace")
