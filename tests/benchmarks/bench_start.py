"""Start-up: `edge-agent --help`, the daemon's imports, the daemon until it is ready, and idle."""

import dataclasses
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from agent.bench.vehicle import dbc_path
from tests.benchmarks.processes import VEHICLE_SET, daemon
from tests.benchmarks.report import Figure, parser, show

_ROUNDS = 9
_DAEMON_ROUNDS = 3
_IDLE_S = 5.0
_IMPORTS = "import agent.daemon, agent.ota, agent.settings, agent.commands.run\n"
_LEAVE = "import os; os._exit(0)"
"""Without taking apart what was imported, which a daemon never does either."""
_SLOWEST = 8
_DEVICE = """
vehicle = "bench"
plan = "plan.toml"
state_dir = "state"
[[bus]]
name = "can0"
kind = "recording"
path = "one-frame.log"
[[uplink]]
name = "cloud"
url = "http://127.0.0.1:9/"
"""
_PLAN = """
version = 1
name = "idle"
database = [{{ bus = "*", files = ["{dbc}"] }}]
[[campaign]]
name = "all"
signals = ["*"]
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """Of one process: from start to end, and user and system time, in milliseconds."""

    wall_ms: float
    cpu_ms: float


def installed(folder: Path) -> dict[str, str]:
    """An environment in which modules are compiled once, as they are where they are installed."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**environment, "PYTHONPYCACHEPREFIX": str(folder)}


def cost(command: Sequence[str], environment: Mapping[str, str]) -> Cost:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    wall = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(1000 * wall, 1000 * cpu)


def middle(costs: Sequence[Cost]) -> Cost:
    return Cost(
        statistics.median(c.wall_ms for c in costs), statistics.median(c.cpu_ms for c in costs)
    )


def imports(environment: Mapping[str, str]) -> tuple[float, list[tuple[float, str]]]:
    """Milliseconds of all imports of the daemon, and the slowest packages (their own modules)."""
    command = [sys.executable, "-X", "importtime", "-c", VEHICLE_SET + _IMPORTS]
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    told = run.stderr
    packages: dict[str, float] = {}
    total = 0.0
    for own, name in re.findall(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", told, re.MULTILINE):
        total += int(own) / 1000
        package = name.partition(".")[0]
        packages[package] = packages.get(package, 0.0) + int(own) / 1000
    return total, sorted(((ms, name) for name, ms in packages.items()), reverse=True)[:_SLOWEST]


def idle(
    environment: Mapping[str, str], *, extras: bool
) -> tuple[list[float], float, float, float]:
    """Milliseconds to ready of each start, then MB and peak MB, and CPU % of a core when idle."""
    ready = []
    rss = peak = share = 0.0
    for _ in range(_DAEMON_ROUNDS):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "agent.toml").write_text(_DEVICE, "ascii")
            (folder / "plan.toml").write_text(_PLAN.format(dbc=dbc_path()), "utf-8")
            (folder / "one-frame.log").write_text("(1700000000.0) can0 7FF#00\n", "ascii")
            config = folder / "agent.toml"
            with daemon(config, folder, extras=extras, environment=environment) as running:
                ready.append(1000 * running.ready_s)
                time.sleep(1)
                before = running.usage()
                time.sleep(_IDLE_S)
                after = running.usage()
                share = 100 * (after.cpu_s - before.cpu_s) / _IDLE_S
                rss, peak = after.rss_mb, after.peak_mb
    return ready, rss, peak, share


def figures(environment: Mapping[str, str]) -> Iterator[Figure]:
    commands = {
        "bare": [sys.executable, "-c", "pass"],
        "help": [sys.executable, "-m", "agent.cli", "--help"],
        "daemon": [sys.executable, "-c", VEHICLE_SET + _IMPORTS + _LEAVE],
        "everything": [sys.executable, "-c", _IMPORTS + _LEAVE],
    }
    told: dict[str, list[Cost]] = {name: [] for name in commands}
    for number in range(_ROUNDS + 1):
        for name, command in commands.items():
            spent = cost(command, environment)
            if number:  # the first one compiles
                told[name].append(spent)
    bare, help_, daemon_set, everything = told.values()
    yield Figure("python without anything: CPU", middle(bare).cpu_ms, "ms")
    yield Figure("edge-agent --help: time", middle(help_).wall_ms, "ms", "at most", 100)
    yield Figure("edge-agent --help: CPU", middle(help_).cpu_ms, "ms")
    yield Figure("importing the daemon's set: time", middle(daemon_set).wall_ms, "ms")
    yield Figure("importing the daemon's set: CPU", middle(daemon_set).cpu_ms, "ms")
    total, slowest = imports(environment)
    yield Figure("  sum of -X importtime, which costs time itself", total, "ms")
    for ms, package in slowest:
        yield Figure(f"  of which {package}", ms, "ms")
    yield Figure("  with every extra that is here: CPU", middle(everything).cpu_ms, "ms")
    for extras, who in ((False, "daemon"), (True, "daemon with every extra")):
        ready, rss, peak, share = idle(environment, extras=extras)
        start = statistics.median(ready)
        yield Figure(f"{who}: process start to READY=1", start, "ms", "at most", 400)
        note = f"(peak {peak:.0f} MB)"
        yield Figure(f"{who}, idle: memory", rss, "MB", "at most", 80, note=note)
        yield Figure(f"{who}, idle: CPU of one core", share, "%")


def main() -> None:
    args = parser(__doc__ or "").parse_args()
    notes = (
        f"Medians of {_ROUNDS} starts each, in turn, {_DAEMON_ROUNDS} of the daemon; modules are",
        "  compiled already, files are in the file cache.",
        "The daemon has the virtual vehicle's database, one bus without traffic and an uplink that",
        "  is not there, and sees only the packages that a vehicle has; with every extra,",
        "  libraries import what asammdf brings where they find it. MB are 1,000,000 bytes.",
    )
    with tempfile.TemporaryDirectory() as folder:
        found = [*figures(installed(Path(folder)))]
    show("Start", found, notes, as_json=args.json)


if __name__ == "__main__":
    main()
