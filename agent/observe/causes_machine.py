"""Causes that the computer itself shows: the service, memory, disk, clock, network interfaces."""

import re
from collections.abc import Callable, Iterator
from typing import Final

from agent.bus.linkmessage import LinkInfo
from agent.observe.facts import Cause, Facts, count, rows, text
from agent.observe.report import size
from agent.settings import SocketCanBus

_RESTART: Final = "systemctl restart edge-agent"
_MB: Final = 1_000_000
_RESTARTS: Final = 3
_LITTLE_MEMORY_BYTES: Final = 48 * _MB
_HOT_DEGREES: Final = 95.0
_NO_DEGREES: Final = 200.0
"""From here on it is a sensor that is not there, and no temperature."""
_BUSY_PERCENT: Final = 90.0
_WORN: Final = 10
_FIRST_YEAR: Final = 2024
"""No clock that was ever right shows an earlier one: this program is younger."""
_MANY_ERRORS: Final = 96
"""From here on a controller is in the state "error warning" (ISO 11898-1)."""

_EXIT: Final = {
    "200": ("its working folder is missing", "look at the unit with: systemctl cat edge-agent"),
    "203": ("/usr/bin/edge-agent cannot be run", "install the package anew"),
    "217": ("its user cannot be made", "look at: journalctl -u edge-agent -b"),
    "226": (
        "systemd cannot set up its view of the file system",
        "look for a missing path in the unit's drop-ins: systemctl cat edge-agent",
    ),
    "238": (
        "its state folder cannot be made",
        "look at the disk below /var/lib, and who owns /var/lib/edge-agent",
    ),
    "243": (
        "a credential that the unit names cannot be loaded",
        "put the file there that LoadCredential= names: systemctl cat edge-agent",
    ),
}
"""Exit statuses of systemd itself (systemd.exec(5), "Process Exit Codes")."""

_BAD_DISK: Final = re.compile(
    r"I/O error|EXT4-fs error|EXT4-fs \(.*\): .*[Rr]emounting|F2FS-fs.*(error|corrupt)|"
    r"critical (medium|target) error|[Rr]emounting filesystem read-only|"
    r"mmc\d+: .*(error|timeout|reset failed)"
)
_KILLED: Final = re.compile(r"[Oo]ut of memory: Kill|oom-kill:|oom_reaper")
_COMPLAINT: Final = re.compile(
    r"edge-agent: (?!.*(Main process|Failed with|Scheduled|Deactivated))\S|"
    r"\b(error|critical|Traceback|Error:)"
)


def configuration(facts: Facts) -> Iterator[Cause]:
    if facts.config_error:
        running = " (the agent that runs has an earlier one)" if facts.live else ""
        yield Cause(
            *(75 if facts.live else 100, "config"),
            f"the configuration cannot be used{running}: {facts.config_error}",
            f"mend that, see what `edge-agent check` says, then {_RESTART}",
        )


def stopped(facts: Facts) -> Iterator[Cause]:
    """No agent answers."""
    if facts.live:
        return
    if facts.denied:
        yield Cause(
            *(92, "permission"),
            "this user may not ask the agent",
            "run this command as root, or as a member of the group of its socket",
        )
        return
    unit = facts.unit
    state, result = unit.get("ActiveState", ""), unit.get("Result", "")
    weight, what = 80, "no agent runs"
    do = "start it: systemctl enable --now edge-agent, or without systemd: edge-agent run"
    if unit.get("LoadState") == "not-found":
        do = "install the package with its service, or start `edge-agent run`"
    elif result == "oom-kill" or (state != "inactive" and _out_of_memory(facts.log)):
        # Of a service that is just tried again the result of the last try is forgotten.
        yield Cause(
            *(95, "memory"),
            "the kernel has ended the agent because it took too much memory",
            "let it keep less in memory (memory_mb, pre_s of triggers), or raise MemoryMax of the "
            "unit; plans with fewer signals take less",
        )
        return
    elif result == "watchdog":
        weight, what = 85, "the agent hung, and systemd's watchdog has ended it"
        do = f"{_RESTART}, and report it with this file: that is a defect"
    elif unit.get("ConditionResult") == "no" and state != "active":
        weight, what = 90, "the service does not start: a condition of its unit does not hold"
        do = "put the configuration where ConditionPathExists= says: systemctl cat edge-agent"
    elif state == "failed" or (unit.get("ExecMainStatus", "0") != "0" and state != "active"):
        code = unit.get("ExecMainStatus", "")
        why, do = _EXIT.get(code, ("", f"look at: journalctl -u edge-agent -b; then {_RESTART}"))
        again = ", and is tried again and again" if state == "activating" else ""
        weight = 88
        what = f"the agent ends with {_ending(unit.get('ExecMainCode', ''), code)}{again}"
        if said := why or _last_complaint(facts.log):
            what = f"{what}: {said}"
    elif state == "active":
        weight, what = 82, "the service runs, but the agent does not answer"
        do = f"look whether `socket` and `state_dir` are those of the service; else {_RESTART}"
    elif state in ("activating", "deactivating", "reloading"):
        weight, what, do = 60, f"the service is {state}", "ask again in a minute"
    elif state == "inactive":
        what = "no agent runs: its service was stopped, or never started"
    elif said := _last_complaint(facts.log):
        what = f"no agent runs; the last complaint in its log: {said}"
    yield Cause(weight, "stopped", what, do)


def _out_of_memory(lines: tuple[str, ...]) -> bool:
    """Whether the last end was the kernel's doing: OOMPolicy=continue leaves it a mere signal."""
    ends = [n for n, line in enumerate(lines) if "Main process exited" in line]
    around = lines[max(0, ends[-1] - 3) : ends[-1] + 3] if ends else ()
    return any("killed by the OOM killer" in line for line in around)


def _ending(how: str, code: str) -> str:
    # CLD_EXITED, CLD_KILLED and CLD_DUMPED of wait(2), by number or by name.
    return f"signal {code}" if how in ("2", "3", "killed", "dumped") else f"exit status {code}"


def _last_complaint(lines: tuple[str, ...]) -> str:
    for line in reversed(lines[-100:]):
        if _COMPLAINT.search(line):
            return line.strip()[-300:]
    return ""


def restarts(facts: Facts) -> Iterator[Cause]:
    times = facts.unit.get("NRestarts", "")
    if facts.live and times.isdigit() and int(times) >= _RESTARTS:
        yield Cause(
            *(58, "restarts"),
            f"the agent has ended and was started again {times} times since the boot",
            "look for its last words before each end: journalctl -u edge-agent -b -p warning",
        )


def buses(facts: Facts) -> Iterator[Cause]:
    """The interfaces of CAN buses, as the kernel has them."""
    if facts.device is None or facts.links is None:
        return
    for bus in facts.device.bus:
        if isinstance(bus, SocketCanBus):
            yield from _interface(bus, facts.links.get(bus.interface), facts)


def _interface(bus: SocketCanBus, info: LinkInfo | None, facts: Facts) -> Iterator[Cause]:
    name, key = bus.interface, "bus"
    who = f'bus "{bus.name}"'
    if info is None:
        yield Cause(
            *(78, key, f"{who}: there is no interface {name}"),
            "is the adapter plugged in, and its driver loaded? `ip link` shows what there is; "
            "a virtual bus has to be made",
            bus.name,
        )
        return
    if not info.up:
        yield Cause(
            *(77, key, f"{who}: the interface {name} is down"),
            f"put its bit rate into /etc/edge-agent/can/{name}.conf and run: systemctl restart "
            f"can-bus@{name}; or: ip link set {name} up type can bitrate N listen-only on",
            bus.name,
        )
        return
    errors = info.counters.bus_error if info.counters else 0
    heard = _good_frames(facts, bus.name)
    if heard is None and info.statistics is not None:
        heard = info.statistics.rx_packets
    if info.state == "off":
        yield Cause(
            *(79, key, f"{who}: the controller of {name} is bus-off: it has given up sending"),
            "compare the bit rate with that of the bus, look at wiring and termination (60 ohms "
            f"between both lines); then: ip link set {name} down, and up again. restart-ms lets it "
            "come back by itself, listen-only keeps it from getting there",
            bus.name,
        )
    elif not heard and (errors or (info.rx_errors or 0) >= _MANY_ERRORS):
        rate = f"{info.bitrate:,} bit/s" if info.bitrate else "its bit rate"
        yield wrong_rate(bus.name, f"{name} is set to {rate}")
    elif info.state in ("warning", "passive"):
        yield Cause(
            *(46, key, f"{who}: the controller of {name} sees many errors ({info.state})"),
            "look at wiring, termination and sample point; a bus with too few nodes that "
            "acknowledge looks like this too",
            bus.name,
        )


def wrong_rate(bus: str, setting: str) -> Cause:
    return Cause(
        *(76, "bus", f'bus "{bus}": error frames and not one good one: the bit rate is wrong'),
        f"{setting}; set that of the bus (125, 250, 500 or 1000 kbit/s are usual), for CAN FD also "
        "that of the data part. Else: two lines swapped, or no termination",
        bus,
    )


def _good_frames(facts: Facts, bus: str) -> int | None:
    """Frames of a bus that were no error frames; None where no agent counted them."""
    ledger = facts.status.get("ledger")
    known = any(text(each, "name") == bus for each in rows(facts.status, "buses"))
    if not facts.live or not known:
        return None
    kinds = ("decoded", "transport", "remote", "unknown", "undecodable")
    return sum(count(ledger, "bus", bus, kind) for kind in kinds)


def disk(facts: Facts) -> Iterator[Cause]:
    space, device = facts.space, facts.device
    floor = device.spool.free_floor_mb << 20 if device is not None else 0
    if space is not None:
        if "ro" in space.options:
            yield Cause(
                *(93, "disk", f"the file system of {space.path} is mounted read-only"),
                "the kernel does that after errors: look at `journalctl -k -b`, check the file "
                "system, replace the flash if it is worn; or mount it for writing",
                space.path,
            )
        elif space.free_files == 0:
            yield Cause(
                *(91, "disk", f"the file system of {space.path} can take no more files"),
                "remove files, or make the file system anew with more inodes",
                space.path,
            )
        elif space.free_bytes <= max(floor, space.total_bytes // 200):
            yield Cause(
                *(86, "disk"),
                f"the disk of {space.path} is full: {size(space.free_bytes)} are free of "
                f"{size(space.total_bytes)}, and {size(floor)} are to be left free",
                "find out what fills it (du -xd1), make room, or lower quota_mb of [spool]",
                space.path,
            )
    bad = [line for line in facts.kernel_log if _BAD_DISK.search(line)]
    if bad:
        yield Cause(
            *(84, "disk", f"the kernel reports errors of a disk: {bad[-1].strip()[-200:]}"),
            "save the data (edge-agent spool export), and replace the flash",
            "kernel",
        )
    for flash in facts.flash:
        worn = max(flash.life_times, default=0)
        if worn >= _WORN or flash.end_of_life >= 2:
            used = "all of its life is" if worn > _WORN else f"{worn * 10} % of its life are"
            what = used if worn >= _WORN else "most of its reserve is"
            yield Cause(
                *(54, "flash", f"the flash {flash.name} is worn: {what} used"),
                "plan to replace it; a longer commit_interval_s and fewer signals write less",
                flash.name,
            )


def memory(facts: Facts) -> Iterator[Cause]:
    available, total = facts.memory_available_bytes, facts.memory_bytes
    if available is not None and available < max(_LITTLE_MEMORY_BYTES, (total or 0) // 20):
        yield Cause(
            *(62, "memory", f"the computer has only {size(available)} of memory left"),
            "find out what takes it (top -o %MEM); let the agent keep less (memory_mb of [spool], "
            "pre_s of triggers)",
        )
    if any(_KILLED.search(line) for line in facts.kernel_log):
        ours = any("edge-agent" in x for x in facts.kernel_log if _KILLED.search(x))
        who = "the agent" if ours else "a process"
        yield Cause(
            *(72 if ours else 44, "memory"),
            f"the kernel has ended {who} since the boot because memory was used up",
            "look at `journalctl -k -b | grep -i memory` for who took it",
            "kernel",
        )
    limit = facts.unit.get("MemoryHigh", "")
    process = facts.process
    if process is not None and limit.isdigit() and process.resident_bytes > int(limit) * 0.95:
        yield Cause(
            *(64, "memory"),
            f"the agent takes {size(process.resident_bytes)} of memory, and is slowed down from "
            f"{size(int(limit))} on (MemoryHigh of its unit)",
            "plans with fewer signals, shorter pre_s and a smaller memory_mb take less; or raise "
            "MemoryHigh and MemoryMax in a drop-in",
            "agent",
        )


def processor(facts: Facts) -> Iterator[Cause]:
    process = facts.process
    percent = process.cpu_percent if process is not None else None
    if percent is not None and percent >= _BUSY_PERCENT:
        yield Cause(
            *(56, "cpu", f"the agent takes {percent:.0f} % of a processor"),
            "`edge-agent estimate` says what a plan costs; drop raw frames, conditions over many "
            "signals and short windows first; kernel_filter hides frames that nobody wants",
        )
    elif facts.load is not None and facts.load > 2 * facts.cpus:
        yield Cause(
            *(48, "cpu"),
            f"the computer is overloaded: {facts.load:.1f} processes want to run on "
            f"{facts.cpus} processors",
            "find out which (top); raise CPUWeight of the unit if the agent is to come first",
        )


def heat(facts: Facts) -> Iterator[Cause]:
    for name, degrees in facts.degrees.items():
        if _HOT_DEGREES <= degrees < _NO_DEGREES:
            yield Cause(
                *(52, "heat", f"the computer is hot: {degrees:.0f} °C at {name}"),
                "it slows itself down like that: look at cooling and where it is mounted",
                name,
            )


def clock(facts: Facts) -> Iterator[Cause]:
    if facts.synchronised is False and facts.year is not None and facts.year < _FIRST_YEAR:
        yield Cause(
            *(45, "clock", f"the clock shows the year {facts.year}, and nothing sets it"),
            "let NTP or a GNSS receiver set it (timedatectl set-ntp true); data is dated right "
            "afterwards, but TLS fails until then",
        )


RULES: Final[tuple[Callable[[Facts], Iterator[Cause]], ...]] = (
    configuration,
    stopped,
    restarts,
    buses,
    disk,
    memory,
    processor,
    heat,
    clock,
)
