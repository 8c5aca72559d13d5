"""The life of a package in a guest: installed, used, replaced, removed, forgotten.

    python3 -m tests.vm.package_life OLDER.deb NEWER.deb FACTS.json

Does what an operator does, with dpkg and systemctl, and notes what it sees; `test_package.py` on
the host judges. It changes the whole system, so it belongs into a guest that is thrown away.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from agent.batch import BatchReader
from agent.errors import BatchError
from tests import processes
from tests.vm import frames
from tests.vm.car import DBC, PLAN
from tests.vm.package_bus import buses
from tests.vm.package_guest import dpkg, files, properties, run, until
from tests.vm.updates import FLEET, Desk

AGENT: Final = "/usr/bin/edge-agent"
UNIT: Final = "edge-agent.service"
CONFIGURATION: Final = Path("/etc/edge-agent")
STATE: Final = Path("/var/lib/edge-agent")
CLOUD: Final = Path("/tmp/cloud")  # noqa: S108 - of a guest that nobody else uses
OPERATOR: Final = Path("/tmp/operator")  # noqa: S108 - the same
BUS: Final = "vcan20"
EDITED: Final = "# edited by the operator\n"
WANTED: Final = 0x123
AT_ONCE: Final = 500
BUNDLE: Final = "fleet 1"

_DROP_INS: Final = Path("/etc/systemd/system/edge-agent.service.d")
_RUN_TIME: Final = Path("/run/systemd/system/edge-agent.service.d")


def main(older: str, newer: str, facts: str) -> int:
    """Live through it; what was seen goes to `facts` also where it breaks off."""
    seen: dict[str, Any] = {}
    began = time.monotonic()
    try:
        for name, what in life(older, newer):
            seen[name] = what
            print(f"{time.monotonic() - began:6.1f} s  {name}")
    finally:
        Path(facts).write_text(json.dumps(seen, indent=1), "utf-8")
    return 0


def life(older: str, newer: str) -> Iterator[tuple[str, Any]]:
    """What is seen, by name."""
    Path(AGENT).unlink(missing_ok=True)  # the guest's own, which points at the checkout
    before = files()
    yield "installed", installed(older)
    yield "analysed", analysed()
    yield from buses()
    desk = Desk(OPERATOR, CONFIGURATION / "agent.toml")
    desk.begin()
    configure(over_the_air(desk))
    systemctl("start", f"can-bus@{BUS}")
    yield "enabled", systemctl("enable", "--now", UNIT)
    with Cloud(desk):
        send(0)
        yield "arrived", arrived(0)
        yield "reloaded", reloaded()
        yield "over the air", taken(desk, 1)
    send(2)
    yield "waiting", until(waiting, "a batch in the spool")
    yield "upgraded", replaced(newer, 3)
    with Cloud(desk):
        yield "arrived after the upgrade", arrived(3)
    yield "downgraded", replaced(older, 4)
    yield "killed", killed(signal.SIGKILL)
    yield "with drop-ins", with_drop_ins()
    yield "hung", killed(signal.SIGSTOP)
    yield "stopped", stopped()
    systemctl("start", UNIT)
    yield "removed", removed()
    dpkg("--purge", "vehicle-edge-agent")
    yield "purged", sorted(files() - before)
    yield "gone", sorted(before - files())


def systemctl(*words: str) -> int:
    """`systemctl WORDS`; gives its exit status."""
    return run("systemctl", *words).returncode


def installed(package: str) -> dict[str, Any]:
    dpkg("--install", package)
    return {
        "state": [properties(UNIT, "ActiveState", "UnitFileState")],
        "rmem_max": Path("/proc/sys/net/core/rmem_max").read_text("ascii").strip(),
        "check": run(AGENT, "check").stdout,
        "changed files": run("dpkg", "--verify", "vehicle-edge-agent").stdout,
        "modules outside": modules_outside(),
    }


def modules_outside() -> list[str]:
    """Modules that the agent takes neither from its package nor from the interpreter."""
    launcher = Path(AGENT).read_text("utf-8").partition("from agent.cli")[0]
    program = f"{launcher}import agent.daemon, agent.commands.cloud, aiomqtt, gpiod, isotp\n"
    program += "import pynmea2, udsoncan\n"
    program += "for m in sys.modules.values(): print(getattr(m, '__file__', None) or '')\n"
    shebang = launcher.splitlines()[0].removeprefix("#!").split()
    done = run(*shebang, "-c", program)
    if done.returncode:
        return [done.stderr]
    ours = ("/usr/lib/edge-agent/python/", "/usr/lib/python3.11/")
    return [f for f in done.stdout.split() if not f.startswith(ours)]


def analysed() -> dict[str, Any]:
    units = (UNIT, "can-bus@can0.service")
    verified = run("systemd-analyze", "verify", *units)
    return {
        "verify": (verified.returncode, verified.stdout + verified.stderr),
        "exposure": {unit: exposure(unit) for unit in units},
    }


def exposure(unit: str) -> float:
    """How exposed a unit is, from 0 to 10, as systemd-analyze says."""
    said = run("systemd-analyze", "security", "--no-pager", unit).stdout
    match = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)
    assert match, said
    return float(match[1])


def configure(more: str = "") -> None:
    """What an operator does: edits the device file, adds a plan with its database, and a bus.

    `more` are tables for the device file.
    """
    path = CONFIGURATION / "agent.toml"
    text = path.read_text("utf-8")
    for before, after in (
        ('"can0"', f'"{BUS}"'),
        ('"plan-ev.toml"', '"plan.toml"'),
        ('"https://telemetry.example.com"', f'"http://127.0.0.1:{Cloud.PORT}"'),
        ("seal_after_s = 60 ", "seal_after_s = 1 "),
    ):
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    path.write_text(text + more + EDITED, "utf-8")
    (CONFIGURATION / "plan.toml").write_text(PLAN, "utf-8")
    (CONFIGURATION / "numbers.dbc").write_text(DBC, "utf-8")
    (CONFIGURATION / "can" / f"{BUS}.conf").write_text("KIND=vcan\nFD=on\n", "ascii")


def over_the_air(desk: Desk) -> str:
    """The table that has plans come from the operator's desk, whose root is put beside it."""
    root = CONFIGURATION / "root.json"
    root.write_bytes((desk.repository / "metadata/1.root.json").read_bytes())
    # One slow CPU does everything here; what a plan costs is no subject.
    return (
        f'[ota]\nurl = "http://127.0.0.1:{Cloud.PORT}/ota"\nroot_file = "{root}"\n'
        "trial_s = 1\nmax_cpu_percent = 1000\n"
    )


def send(number: int) -> None:
    """Send the frames of a round, once the agent reads the bus."""
    until(reads, "the agent")
    with frames.Sender(BUS) as sender:
        for begin in range(number * AT_ONCE, (number + 1) * AT_ONCE, 100):
            numbers = range(begin, begin + 100)
            sender.send_many(
                frames.Prepared([frames.classic(WANTED, n.to_bytes(8, "little")) for n in numbers])
            )


def status() -> dict[str, Any] | None:
    return processes.status(STATE / "agent.sock")


def reads() -> bool:
    said = status()
    return said is not None and said["buses"][0]["state"] == "reading"


def waiting() -> list[str]:
    """Batches that wait for the cloud."""
    if not (said := status()) or said["ledger"]["bus"]["powertrain"]["queued"]:
        return []
    return sorted(path.name for path in STATE.glob("spool/uplinks/cloud/*/*.batch"))


class Cloud:
    """The reference cloud that is in the package; it serves the operator's repository, too."""

    PORT: Final = 8080

    def __init__(self, desk: Desk) -> None:
        words = ["--listen", f"127.0.0.1:{self.PORT}", "--data", str(CLOUD)]
        self._words = [AGENT, "cloud", *words, "--ota", str(desk.repository)]

    def __enter__(self) -> None:
        CLOUD.mkdir(exist_ok=True)
        self._process = subprocess.Popen(self._words, stdout=subprocess.DEVNULL)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)


def arrived(number: int) -> dict[str, list[int]]:
    """What is in the cloud, by bundle, when a round has come."""
    until(lambda: bundles_of(number, CLOUD), f"round {number} in the cloud", lambda: kept(CLOUD))
    return kept(CLOUD)


def kept(folder: Path) -> dict[str, list[int]]:
    """The numbers in the batches below a folder, by the bundle that these name; in order."""
    found: dict[str, list[int]] = {}
    for path in folder.rglob("*.batch"):
        # One that is just begun, or has just gone elsewhere, is seen the next time.
        with contextlib.suppress(BatchError):
            batch = BatchReader(path)
            numbers = found.setdefault(batch.header.get("bundle", ""), [])
            for kind, table in batch.records():
                if kind == "samples" and table.message == "Numbers":
                    numbers += table.raw["Number"].tolist()
    return {bundle: sorted(numbers) for bundle, numbers in found.items() if numbers}


def bundles_of(number: int, folder: Path) -> list[str]:
    """Which bundles name the batches below a folder that hold a round; none until all of it is."""
    wanted = set(range(number * AT_ONCE, (number + 1) * AT_ONCE))
    by_bundle = {bundle: wanted.intersection(numbers) for bundle, numbers in kept(folder).items()}
    if sum(map(len, by_bundle.values())) < len(wanted):
        return []
    return sorted(bundle for bundle, numbers in by_bundle.items() if numbers)


def taken(desk: Desk, number: int) -> str:
    """A plan is published, tried while a round comes, and stays; gives what the agent says."""
    desk.publish(1, FLEET)
    run(AGENT, "ota", "poll")
    until(lambda: updates().get("state") == "trial", f"{BUNDLE} is tried", updates)
    send(number)
    until(lambda: not updates().get("trial", BUNDLE), f"{BUNDLE} stays", updates)
    return shown()


def updates() -> dict[str, Any]:
    said = status()
    return {} if said is None else dict(said["ota"])


def shown() -> str:
    """Which plan runs, as the operator on the vehicle sees it."""
    return run(AGENT, "ota", "show").stdout.partition("\n")[0]


def replaced(package: str, number: int) -> dict[str, Any]:
    """Another version in place of the one that runs; then comes a round."""
    process, install, batches = pid(), identity(), waiting()
    dpkg("--install", package)
    until(reads, "the agent after it was replaced")
    spooled = set(waiting())
    send(number)
    spool = STATE / "spool"  # without a link the newest batch stays open
    return {
        "version": run("dpkg-query", "-W", "-f", "${Version}", "vehicle-edge-agent").stdout,
        "edits": (CONFIGURATION / "agent.toml").read_text("utf-8").endswith(EDITED),
        "restarted": pid() not in (0, process),
        "identity": identity() == install,
        "spool": set(batches) <= spooled,
        "shown": shown(),
        "named by new batches": until(
            lambda: bundles_of(number, spool), f"round {number} in the spool", lambda: kept(spool)
        ),
        "enabled": properties(UNIT, "UnitFileState")["UnitFileState"],
        "changed files": run("dpkg", "--verify", "vehicle-edge-agent").stdout,
        "byte code without source": [
            str(f)
            for f in Path("/usr/lib/edge-agent").rglob("*.pyc")
            if not (f.parent.parent / f"{f.name.partition('.')[0]}.py").exists()
        ],
    }


def identity() -> bytes:
    return (STATE / "spool/install").read_bytes()


def pid() -> int:
    return int(properties(UNIT, "MainPID")["MainPID"])


def reloaded() -> dict[str, Any]:
    """`systemctl reload`, with a plan that is good, and one that is not."""
    plan = CONFIGURATION / "plan.toml"
    process = pid()
    plan.write_text(PLAN.replace('"all"', '"other"'), "utf-8")
    good = systemctl("reload", UNIT)
    plan.write_text("nonsense = 1\n", "utf-8")
    bad = systemctl("reload", UNIT)
    said = status() or {}
    plan.write_text(PLAN, "utf-8")
    return {"good": good, "bad": bad, "plan": said.get("plan"), "same process": pid() == process}


def killed(number: signal.Signals) -> dict[str, Any]:
    """The process is hit; systemd is to start another one."""
    process = pid()
    os.kill(process, number)
    until(lambda: pid() not in (0, process) and reads(), "another process")
    return properties(UNIT, "ActiveState")


def with_drop_ins() -> dict[str, Any]:
    """The drop-in for serial devices, a credential that may be missing, and a short watchdog."""
    _DROP_INS.mkdir()
    (_DROP_INS / "serial.conf").symlink_to("/usr/share/edge-agent/systemd/serial.conf")
    credential = "LoadCredential=token:/etc/edge-agent/token\nSetCredential=token:none\n"
    _RUN_TIME.mkdir(parents=True)
    (_RUN_TIME / "test.conf").write_text(f"[Service]\n{credential}WatchdogSec=5\n", "ascii")
    systemctl("daemon-reload")
    started = systemctl("restart", UNIT)
    until(reads, "the agent with drop-ins")
    verified = run("systemd-analyze", "verify", UNIT)
    return {
        "started": started,
        "verify": (verified.returncode, verified.stdout + verified.stderr),
        "exposure": exposure(UNIT),
        "groups": groups(),
        "credential": Path("/run/credentials", UNIT, "token").read_text("ascii"),
    }


def groups() -> str:
    """The supplementary groups of the agent, and the number of dialout."""
    said = Path(f"/proc/{pid()}/status").read_text("ascii")
    mine = next(line for line in said.splitlines() if line.startswith("Groups:"))
    dialout = run("getent", "group", "dialout").stdout.split(":")[2]
    return "dialout" if dialout in mine.split() else mine


def stopped() -> dict[str, Any]:
    began = time.monotonic()
    systemctl("stop", UNIT)
    print(f"stopped in {time.monotonic() - began:.1f} s")
    last = json.loads((STATE / "last-run.json").read_text("utf-8"))
    return {**properties(UNIT, "Result", "ActiveState"), "differences": last["differences"]}


def removed() -> dict[str, Any]:
    until(reads, "the agent")
    dpkg("--remove", "vehicle-edge-agent")
    words = run("ps", "-eo", "args").stdout.splitlines()
    return {
        "processes": [
            line for line in words if "edge-agent" in line and "package_life" not in line
        ],
        "unit": properties(UNIT, "LoadState")["LoadState"],
        "configuration": (CONFIGURATION / "agent.toml").exists(),
        "state": (STATE / "spool/install").exists(),
        "code": [f for f in sorted(files()) if f.startswith("/usr/") and "edge-agent" in f],
    }


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
