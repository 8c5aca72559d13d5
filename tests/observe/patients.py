"""A computer for the doctor to examine: files, commands and an agent that a test makes up."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.bus.linkmessage import LinkInfo, LinkStatistics
from agent.clock import SECOND, BootNs, Clock, Quality, WallNs
from agent.errors import AgentError, BusError
from agent.observe.facts import Space
from agent.observe.machine import MOST_BYTES, Output
from agent.observe.socket import NobodyAnswers

NOW = 1_936_101_600  # 2031-05-09 14:00 UTC


class PatientClock:
    """Time passes only where somebody waits."""

    boot_id = "11111111-2222-3333-4444-555555555555"

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.known: Quality = Quality.NTP
        self.wall_s = NOW

    def boot(self) -> BootNs:
        return BootNs(round(self.seconds * SECOND))

    def wall(self) -> WallNs:
        return WallNs(self.wall_s * SECOND)

    def quality(self) -> Quality:
        return self.known


class Patient:
    """Implements `agent.observe.machine.Machine`.

    A command is found by its first words. What is not set up is not there: no such command, no such
    file. Files that are not of the kernel are those of the real disk.
    """

    def __init__(self) -> None:
        self.time = PatientClock()
        self.clock: Clock = self.time
        self.environment: Mapping[str, str] = {}
        self.root = True
        self.commands: dict[str, Output | OSError] = {}
        self.files: dict[str, bytes] = {}
        self.interfaces: list[LinkInfo] | AgentError = []
        self.status: Any = NobodyAnswers("agent.sock: no agent answers here; is it running?")
        self.disk = Space("/", total_bytes=10**10, free_bytes=5 * 10**9, free_files=10**6)

    def prints(self, command: str, text: str, status: int = 0) -> None:
        self.commands[command] = Output(status, text.encode())

    def run(self, command: Sequence[str], timeout_s: float, *, tail: bool = False) -> Output:
        line = " ".join(command)
        fitting = [known for known in self.commands if line.startswith(known)]
        if not fitting:
            raise FileNotFoundError(2, "No such file or directory", command[0])
        answer = self.commands[max(fitting, key=len)]
        if isinstance(answer, OSError):
            raise answer
        text = answer.text[-MOST_BYTES:] if tail else answer.text[:MOST_BYTES]
        return dataclasses.replace(answer, text=text)

    def read(self, path: str, most: int = MOST_BYTES) -> bytes:
        if path in self.files:
            return self.files[path][:most]
        if path.startswith(("/proc/", "/sys/", "/etc/")):
            raise FileNotFoundError(2, "No such file or directory", path)
        return Path(path).read_bytes()[:most]

    def names(self, path: str) -> list[str]:
        inside = {known[len(path) + 1 :] for known in self.files if known.startswith(f"{path}/")}
        if not inside:
            raise FileNotFoundError(2, "No such file or directory", path)
        return sorted({name.partition("/")[0] for name in inside})

    def space(self, path: str) -> Space:
        if not Path(path).is_dir():
            raise FileNotFoundError(2, "No such file or directory", path)
        return dataclasses.replace(self.disk, path=path)

    def links(self) -> list[LinkInfo]:
        if isinstance(self.interfaces, BusError):
            raise self.interfaces
        assert isinstance(self.interfaces, list)
        return self.interfaces

    def ask(self, socket: Path, command: str) -> Any:
        if isinstance(self.status, Exception):
            raise self.status
        assert command == "status"
        return self.status

    def wait(self, seconds: float) -> None:
        self.time.seconds += seconds


def interface(name: str = "can0", *, packets: int = 1000, **keys: Any) -> LinkInfo:
    """A CAN interface that is well, but for what is said."""
    counts = dict.fromkeys((f.name for f in dataclasses.fields(LinkStatistics)), 0)
    usual: dict[str, Any] = {
        "index": 3,
        "name": name,
        "kind": "can",
        "can": True,
        "up": True,
        "running": True,
        "operstate": "up",
        "mtu": 16,
        "statistics": LinkStatistics(**{**counts, "rx_packets": packets}),
        "state": "active",
        "bitrate": 500_000,
        "listen_only": True,
        "rx_errors": 0,
    }
    return LinkInfo(**{**usual, **keys})


def well(**keys: Any) -> dict[str, Any]:
    """The status of an agent that is well, but for what is said."""
    return {
        "agent": "0.1.0",
        "vehicle": "van-7",
        "plan": "all",
        "uptime_s": 7325.5,
        "clock": "ntp",
        "buses": [bus()],
        "ignition": {"state": "awake", "trouble": ""},
        "link": {"metered": None, "trouble": ""},
        "uplinks": [uplink()],
        "spool": {"trouble": "", "lanes": {}, "quarantine": {}},
        "ota": None,
        "budget": {"degraded": ""},
        "recognition": {"recognised": None, "findings": [], "buses": {}},
        "ledger": {
            "bus": {"powertrain": {"received": 9000, "read": 9000, "decoded": 9000}},
            "campaign": {},
            "uplink": {"cloud": {"kept": 10, "spooled": 10, "acknowledged": 10}},
        },
        "differences": [],
        **keys,
    }


def bus(**keys: Any) -> dict[str, Any]:
    """A bus of a status."""
    return {
        "name": "powertrain",
        "kind": "socketcan",
        "state": "reading",
        "last_frames_s": 0.1,
        "controller": "active",
        "error_frames": 0,
        "last_error": "",
        **keys,
    }


def uplink(**keys: Any) -> dict[str, Any]:
    """An uplink of a status."""
    return {
        "name": "cloud",
        "state": "idle",
        "why": "",
        "until_s": None,
        "last_success_s_ago": None,
        "credential": "",
        **keys,
    }
