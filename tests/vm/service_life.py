"""The life of the service on a vehicle: what goes wrong there, one after the other, in three boots.

    python3 -m tests.vm.service_life PACKAGE faults FACTS.json    until the computer is off
    python3 -m tests.vm.service_life PACKAGE cut FACTS.json       the next boot, until a power cut
    python3 -m tests.vm.service_life PACKAGE end FACTS.json       the boot after that

Frames with numbers flow nearly all the time, so that in the end one can say which of them arrived.
What is seen is noted; `test_service.py` on the host judges. It changes the whole system, so it
belongs into guests that are thrown away; `service_guest.py` says what outlives them.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from agent.clock import SECOND
from tests.vm.package_guest import run, until
from tests.vm.package_life import BUS, CONFIGURATION, STATE, UNIT, pid, reads, status
from tests.vm.service_guest import (
    Cloud,
    Flow,
    Journal,
    all_sent,
    arrived,
    boot_id,
    command,
    counts,
    enable_as_before,
    examined,
    fields,
    fill,
    how,
    in_an_open_batch,
    journal_of,
    make_room,
    set_clock,
    set_up,
    since_boot,
    spool,
    spooled,
)

OFF: Final = "the computer is off"
CUT: Final = "now the power goes"

_HOOK: Final = Path("/usr/lib/systemd/system-shutdown/edge-agent-test")
_BOOT: Final = Path("/mnt/data/boot")
_SECOND_BOOT: Final = 1_000_000
"""The first number in it."""
_HOUR_NS: Final = 3600 * SECOND
_IN_1970: Final = 40_000 * SECOND


def main(package: str, part: str, facts: str) -> int:
    """Live through a part; what was seen goes to `facts`, also where it breaks off."""
    seen: dict[str, Any] = {}
    began = time.monotonic()

    def note(name: str, what: object) -> None:
        seen[name] = what
        with Path(facts).open("w", encoding="utf-8") as file:
            json.dump(seen, file, indent=1)
            file.flush()
            os.fsync(file.fileno())  # the power may go at any time
        print(f"{time.monotonic() - began:6.1f} s  {name}", flush=True)

    set_clock(time.time_ns(), synchronised=True)
    if part != "faults":
        enable_as_before()
    set_up(package)
    note("set up", boot_id())
    for name, what in PARTS[part]():
        note(name, what)
    return 0


# the first boot


def faults() -> Iterator[tuple[str, Any]]:
    """Each ends in an agent that runs."""
    _BOOT.write_text(boot_id(), "ascii")
    with Cloud():
        yield from late()
        with Flow(0) as flow:
            spooled(500)
            yield "fields", fields("powertrain")
            yield "well", {**examined("well"), **how()}
            yield "hung", hung()
            yield "killed", killed()
            yield "out of memory", out_of_memory()
        all_sent()
        full = full_disk(flow.next)
        yield "full disk", full
        jumped = clock_jumps(full["numbers"][1])
        yield "clock", jumped
    with Flow(jumped["numbers"][1]):
        spooled(1000)
        until(lambda: counts()["waiting"], "something waits")
        yield "before the shutdown", {"run": spool()["run"], **counts()}
        shut_down()


def late() -> Iterator[tuple[str, Any]]:
    """The service is there before its interface."""
    journal = Journal()
    name = CONFIGURATION / "can" / f"{BUS}.conf"
    enabled = run("systemctl", "enable", "--now", UNIT).returncode
    until(status, "the agent")
    yield "missing", {**examined("missing"), **how()}
    command("ip", "link", "add", BUS, "type", "vcan")
    until(reads, "the agent reads")
    said = {"enabled": enabled, "configured": name.exists(), "run": spool()["run"]}
    yield "late", {**said, "journal": journal.lines(), **how()}


def fault(hit: Callable[[Journal], None]) -> dict[str, Any]:
    """The process ends by force, another one follows."""
    journal = Journal()
    process, before = pid(), {"run": spool()["run"], "durable": counts()["spooled"]}
    hit(journal)
    until(lambda: pid() not in (0, process) and reads(), "another process")
    spooled(1)
    return {**before, "next": spool()["run"], "journal": journal.lines(), **how()}


def killed() -> dict[str, Any]:
    in_an_open_batch()
    return fault(lambda _: os.kill(pid(), signal.SIGKILL))


def hung() -> dict[str, Any]:
    return fault(lambda _: os.kill(pid(), signal.SIGSTOP))


def out_of_memory() -> dict[str, Any]:
    """The service may take less than it has; later it may again."""
    doctor: dict[str, Any] = {}

    def hit(journal: Journal) -> None:
        command("systemctl", "set-property", "--runtime", UNIT, "MemoryMax=16M")
        until(lambda: "Scheduled restart" in "\n".join(journal.lines()), "the kernel acts")
        doctor.update(examined("memory"))
        command("systemctl", "set-property", "--runtime", UNIT, "MemoryMax=768M")

    return {**fault(hit), "doctor": doctor}


def full_disk(begin: int) -> dict[str, Any]:
    """No block is left for the agent while frames go on; then there is room again."""
    journal = Journal()
    before = spool()["run"]
    fill()
    with Flow(begin) as flow:
        until(lambda: counts()["memory"] > 2000 and spool()["trouble"], "it is noticed", spool)
        full = how()
        make_room()
        until(lambda: not spool()["trouble"], "there is room", spool)
        spooled(1000)
    all_sent()
    said = {"run": spool()["run"], "before": before, "numbers": [begin, flow.next]}
    return {**said, "full": full, "journal": journal.lines(), **dict(counts()), **how()}


def clock_jumps(begin: int) -> dict[str, Any]:
    """A start in 1970; later it is known what time it is; then that was an hour too much."""
    journal = Journal()
    right = time.time_ns() - since_boot()
    set_clock(_IN_1970, synchronised=False)
    command("systemctl", "restart", UNIT)
    until(reads, "the agent in 1970")
    from_ns = right + since_boot()
    with Flow(begin) as flow:
        spooled(500)
        set_clock(right + since_boot() + _HOUR_NS, synchronised=True)
        spooled(500)
        set_clock(right + since_boot(), synchronised=True)
        spooled(500)
    to_ns = right + since_boot()
    all_sent()
    said = {"run": spool()["run"], "numbers": [begin, flow.next], "times": [from_ns, to_ns]}
    return {**said, "journal": journal.lines(), **how()}


def shut_down() -> None:
    """Ask for it, and stay until the end; the last words come when no file system is left."""
    where = Path("/proc/self/fd/1").readlink()
    _HOOK.parent.mkdir(exist_ok=True)
    _HOOK.write_text(f"#!/bin/sh\necho '{OFF}' >{where}\n", "ascii")
    _HOOK.chmod(0o755)
    command("systemctl", "poweroff")
    while True:
        signal.pause()


# the second boot


def after_the_shutdown() -> Iterator[tuple[str, Any]]:
    """What waited goes; then the power goes while frames flow."""
    yield "shutdown", journal_of(_BOOT.read_text("ascii"))
    yield "last run", json.loads((STATE.parent / "private/edge-agent/last-run.json").read_text())
    with Cloud():
        yield "booted", booted()
        journal = Journal()
        all_sent()
        yield "sent", journal.lines()
    with Flow(_SECOND_BOOT):
        spooled(2000)
        in_an_open_batch()
        yield "durable", {"run": spool()["run"], **counts()}
        print(CUT, flush=True)
        signal.pause()


def booted() -> dict[str, Any]:
    """What is enabled is started, as at the end of every boot."""
    journal = Journal()
    command("systemctl", "start", "default.target")
    until(reads, "the agent after the boot")
    return {"run": spool()["run"], "journal": journal.lines(), **dict(counts()), **how()}


# the third boot


def after_the_cut() -> Iterator[tuple[str, Any]]:
    with Cloud():
        yield "booted", booted()
        journal = Journal()
        all_sent()
        yield "sent", journal.lines()
        yield "arrived", arrived()
        yield "after all", how()


Part = Callable[[], Iterator[tuple[str, Any]]]
PARTS: Final[Mapping[str, Part]] = {
    "faults": faults,
    "cut": after_the_shutdown,
    "end": after_the_cut,
}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
