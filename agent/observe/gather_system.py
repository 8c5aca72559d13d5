"""The computer below the agent: interfaces, memory, storage, temperatures, the process itself.

Each function gives a text for the file and fields of `agent.observe.facts.Facts`. Files of /proc
and /sys are shown as they are; what is not there on this kernel is left out, or said.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from agent.bus.linkmessage import LinkInfo
from agent.clock import SECOND
from agent.errors import AgentError
from agent.observe.facts import Flash, Process, Space
from agent.observe.machine import Machine

Told = tuple[str, dict[str, Any]]

_SECONDS: Final = 2.0
_SAMPLE_S: Final = 1.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_SMALL: Final = 64 << 10
_KERNEL: Final = (
    *("/proc/version", "/etc/os-release", "/proc/uptime", "/proc/loadavg", "/proc/meminfo"),
    *("/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory"),
    *("/sys/firmware/devicetree/base/model", "/proc/interrupts", "/proc/softirqs"),
)
_NETWORK: Final = ("rmem_max", "rmem_default", "wmem_max", "netdev_max_backlog", "netdev_budget")
_OF_PROCESS: Final = ("status", "limits", "cgroup", "wchan", "oom_score", "oom_score_adj", "io")


def read(machine: Machine, path: str) -> str | None:
    """A small file as a text; None where it cannot be read."""
    try:
        data = machine.read(path, _SMALL)
    except OSError:
        return None
    return data.decode("utf-8", "backslashreplace").strip("\n\0 ")


def _shown(machine: Machine, paths: Sequence[str]) -> Iterator[str]:
    for path in paths:
        text = read(machine, path)
        if text is not None and "\n" not in text:
            yield f"{path}: {text}"
        elif text is not None:
            yield f"\n{path}:\n{text}\n"


def _lines(lines: Iterator[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def interfaces(machine: Machine) -> Told:
    """What the kernel says of its network interfaces, and what `ip` makes of it."""
    facts: dict[str, Any] = {}
    try:
        found = machine.links()
        facts["links"] = {info.name: info for info in found}
        text = _lines(map(_link, found))
    except (AgentError, OSError) as e:
        text = f"{e}\n"
    for command in (
        ["ip", "-details", "-statistics", "link", "show"],
        ["ip", "-brief", "address"],
        ["ip", "route"],
    ):
        try:
            said = machine.run(command, _SECONDS).text.decode("utf-8", "backslashreplace")
        except OSError as e:
            said = f"cannot be run: {e}\n"
        text += f"\n$ {' '.join(command)}\n{said}"
    return text, facts


def _link(info: LinkInfo) -> str:
    told = {name: value for name, value in dataclasses.asdict(info).items() if value is not None}
    return json.dumps(told)


def computer(machine: Machine) -> Told:
    """Kernel, memory, load, limits of the network."""
    network = [f"/proc/sys/net/core/{name}" for name in _NETWORK]
    uname = os.uname()
    text = f"{uname.sysname} {uname.release} {uname.version} {uname.machine}\n"
    text += _lines(_shown(machine, [*network, *_KERNEL]))
    cpus = os.cpu_count() or 1
    facts: dict[str, Any] = {"cpus": cpus}
    if (most := read(machine, network[0])) is not None and most.isdigit():
        facts["rmem_max"] = int(most)
    memory = _table(read(machine, "/proc/meminfo") or "")
    for field, key in (("memory_bytes", "MemTotal"), ("memory_available_bytes", "MemAvailable")):
        if key in memory:
            facts[field] = memory[key]
    load = (read(machine, "/proc/loadavg") or "").split()
    with contextlib.suppress(ValueError, IndexError):
        facts["load"] = float(load[1])
    return f"{text}\nprocessors: {cpus}\n", facts


def _table(text: str) -> dict[str, int]:
    """The values of a file such as /proc/meminfo, in bytes."""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            found[name] = int(words[0]) << (10 if words[-1] == "kB" else 0)
    return found


def storage(machine: Machine, folder: Path) -> Told:
    """The file system of the state folder, and the age of the flash."""
    facts: dict[str, Any] = {"flash": tuple(_flash(machine))}
    space = None
    place = folder
    while space is None:
        try:
            space = machine.space(str(place))
        except OSError:
            if place == place.parent:
                raise
            place = place.parent  # the folder itself may not be there yet
    mounts = read(machine, "/proc/self/mountinfo") or ""
    facts["space"] = space = _mounted(space, place, mounts)
    lines = [json.dumps(dataclasses.asdict(space)), ""]
    lines += [json.dumps(dataclasses.asdict(flash)) for flash in facts["flash"]]
    return _lines(iter([*lines, "", mounts, *_shown(machine, ["/proc/diskstats"])])), facts


def _mounted(space: Space, folder: Path, mounts: str) -> Space:
    """With how it is mounted (proc(5), /proc/pid/mountinfo): the last of the longest fitting."""
    real = os.path.realpath(folder)
    longest = -1
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if len(fields) < 6 or len(rest) < 3:
            continue
        point = fields[4].replace("\\040", " ")
        inside = point in ("/", real) or real.startswith(f"{point}/")
        if inside and len(point) >= longest:
            longest = len(point)
            options = tuple(dict.fromkeys([*fields[5].split(","), *rest[2].split(",")]))
            space = dataclasses.replace(space, options=options, kind=rest[0], source=rest[1])
    return space


def _flash(machine: Machine) -> Iterator[Flash]:
    try:
        names = machine.names("/sys/block")
    except OSError:
        return
    for name in names:
        life = read(machine, f"/sys/block/{name}/device/life_time")
        end = read(machine, f"/sys/block/{name}/device/pre_eol_info")
        if life is not None or end is not None:
            with contextlib.suppress(ValueError):
                times = tuple(int(word, 16) for word in (life or "").split())
                yield Flash(name, times, int(end or "0", 16))


def heat(machine: Machine) -> Told:
    """Temperatures of the thermal zones, and how fast the processors may go."""
    degrees = {}
    lines = []
    base = "/sys/class/thermal"
    with contextlib.suppress(OSError):
        for zone in machine.names(base):
            value = read(machine, f"{base}/{zone}/temp")
            if value is not None and value.lstrip("-").isdigit():
                name = f"{zone} {read(machine, f'{base}/{zone}/type') or ''}".strip()
                degrees[name] = int(value) / 1000
                lines.append(f"{name}: {degrees[name]:.1f} °C")
    speed = "/sys/devices/system/cpu/cpu0/cpufreq"
    names = ("scaling_governor", "scaling_cur_freq", "scaling_max_freq", "cpuinfo_max_freq")
    lines += _shown(machine, [f"{speed}/{name}" for name in names])
    return _lines(iter(lines or ["This kernel tells no temperatures."])), {"degrees": degrees}


def process(machine: Machine, state: Path) -> Told:
    """The agent that holds the spool of a state folder, as the kernel sees it.

    Raises:
        AgentError: none does.
    """
    pid = _holder(machine, state / "spool" / "lock")
    if pid is None:
        raise AgentError("no process holds the spool, so no agent runs here")
    paths = [f"/proc/{pid}/{name}" for name in _OF_PROCESS]
    text = _lines(_shown(machine, paths))
    before = _cpu_s(machine, pid), machine.clock.boot()
    machine.wait(_SAMPLE_S)
    after = _cpu_s(machine, pid), machine.clock.boot()
    seconds = (after[1] - before[1]) / SECOND
    percent = None
    if before[0] is not None and after[0] is not None and seconds > 0:
        percent = 100 * (after[0] - before[0]) / seconds
        text += f"\nprocessor: {percent:.1f} % of one, over {seconds:.1f} s\n"
    resident = _table(read(machine, f"/proc/{pid}/status") or "").get("VmRSS", 0)
    return text, {"process": Process(pid, resident, percent)}


def _holder(machine: Machine, lock: Path) -> int | None:
    """Which process has locked a file (proc(5), /proc/locks)."""
    try:
        stat = lock.stat()
    except OSError:
        return None
    file = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    for line in (read(machine, "/proc/locks") or "").splitlines():
        words = line.split()
        if len(words) >= 6 and words[1] == "FLOCK" and words[5] == file and words[4].isdigit():
            return int(words[4])
    return None


def _cpu_s(machine: Machine, pid: int) -> float | None:
    """Seconds of a processor that a process has taken: fields 14 and 15 of /proc/pid/stat."""
    fields = (read(machine, f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
    try:
        return (int(fields[11]) + int(fields[12])) / _TICKS
    except (ValueError, IndexError):
        return None
