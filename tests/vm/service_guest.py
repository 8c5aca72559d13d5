"""What the life of the service is lived with: a disk that outlives guests, frames, a cloud.

On the disk lie the agent's state, in a small file system of its own that can be filled, the
journal, and what the cloud has. All else is thrown away with each guest.
"""

import collections
import contextlib
import ctypes
import json
import os
import subprocess
import tarfile
import threading
import time
from pathlib import Path
from typing import Any, Final, Self

from agent.batch.dated import opened, tables_of
from tests.vm import frames
from tests.vm.package_guest import dpkg, run, until
from tests.vm.package_life import (
    AGENT,
    BUS,
    CONFIGURATION,
    STATE,
    UNIT,
    configure,
    status,
)

SECRET: Final = "correct-horse-battery-staple"  # noqa: S105 - to be looked for where it must not be
WATCHDOG_S: Final = 8
"""In place of the unit's 30."""
WANTED: Final = 0x123

_DISK: Final = Path("/mnt/data")
_CLOUD: Final = _DISK / "cloud"
_STATE_DISK: Final = Path("/mnt/state")
_FILLER: Final = _STATE_DISK / "filler"
_DROP_INS: Final = Path("/etc/systemd/system/edge-agent.service.d")
_WANTED: Final = Path("/etc/systemd/system/multi-user.target.wants")
_PLAN_SIGNALS: Final = 'signals = ["Numbers.Number"]'


# the disk, and what is installed on it


def set_up(package: str) -> None:
    """Mount what outlives the guest, and install and configure the package."""
    _mount_state()
    _bind(_DISK / "journal", Path("/var/log/journal"))
    command("systemctl", "restart", "systemd-journald")
    Path(AGENT).unlink(missing_ok=True)  # the guest's own, which points at the checkout
    _DROP_INS.mkdir()
    lines = ["[Service]", f"WatchdogSec={WATCHDOG_S}", "LoadCredential=token:/etc/edge-agent/token"]
    (_DROP_INS / "test.conf").write_text("\n".join([*lines, f"Environment=KEY={SECRET}", ""]))
    dpkg("--install", package)
    configure()
    path = CONFIGURATION / "agent.toml"
    text = path.read_text("utf-8")
    for before, after in (
        ("seal_after_s = 1 ", "seal_after_s = 3 "),
        ("free_floor_mb = 64 ", "free_floor_mb = 0 "),
        ('# token_file = "/etc/edge-agent/token"', 'token_file = "credential:token" #'),
    ):
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    path.write_text(text, "utf-8")
    plan = CONFIGURATION / "plan.toml"
    lines = plan.read_text("utf-8").splitlines()
    plan.write_text("\n".join([*lines[:-1], _PLAN_SIGNALS, ""]), "utf-8")
    (CONFIGURATION / "token").write_text(f"{SECRET}\n", "ascii")


def _mount_state() -> None:
    image = _DISK / "state.img"
    if not image.exists():
        # What the agent gives back when the disk is full goes to the share that is root's alone.
        command("mke2fs", "-q", "-t", "ext4", "-m", "20", str(image), "64M")
    _STATE_DISK.mkdir()
    command("mount", "-o", "loop", str(image), str(_STATE_DISK))
    private = STATE.parent / "private"
    private.mkdir(mode=0o700, exist_ok=True)
    _bind(_STATE_DISK / "agent", private / STATE.name)


def _bind(source: Path, target: Path) -> None:
    source.mkdir(exist_ok=True)
    target.mkdir(exist_ok=True)
    command("mount", "--bind", str(source), str(target))


def fill() -> None:
    """Take every block of the agent's file system, also those that are root's alone."""
    with _FILLER.open("ab") as file:
        size = 64 << 20
        while size >= 1 << 10:
            end = file.seek(0, os.SEEK_END)
            try:
                os.posix_fallocate(file.fileno(), end, size)
            except OSError:
                size //= 2


def make_room() -> None:
    _FILLER.unlink()


def enable_as_before() -> None:
    """As `systemctl enable` left it in an earlier boot; the package is to be installed after it."""
    _WANTED.mkdir(parents=True, exist_ok=True)
    for name, template in ((UNIT, UNIT), (f"can-bus@{BUS}.service", "can-bus@.service")):
        (_WANTED / name).symlink_to(f"/lib/systemd/system/{template}")


def command(*words: str) -> str:
    """A command that must not fail; gives what it printed."""
    done = run(*words)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


# the agent


def spool() -> dict[str, Any]:
    """How the spool is; empty while no agent answers."""
    said = status()
    return {} if said is None else dict(said["spool"])


def counts() -> dict[str, int]:
    """The ledger of the uplink; zeros while no agent answers."""
    said = status()
    row = {} if said is None else said["ledger"]["uplink"]["cloud"]
    return collections.defaultdict(int, row)


def spooled(more: int) -> None:
    """Wait until so many more samples are durable."""
    begin = counts()["spooled"]
    until(lambda: counts()["spooled"] >= begin + more, f"{more} samples more", counts)


def all_sent() -> None:
    """Wait until the cloud has everything; no frames come any more."""

    def sent() -> bool:
        said = status()
        if said is None or said["ledger"]["bus"]["powertrain"]["queued"]:
            return False
        row = said["ledger"]["uplink"]["cloud"]
        return bool(row["kept"] or row["found"]) and not (row["memory"] or row["waiting"])

    # What waits at a start may stay up to a minute, so that a fleet does not come back all at once.
    with contextlib.suppress(AssertionError):
        until(sent, "everything is sent")
    until(sent, "everything is sent", counts)


def in_an_open_batch() -> None:
    """Wait until a batch has just begun: for some seconds it will not be sealed."""
    before = _open()
    until(lambda: _open() not in ("", before), "a batch is begun", spool)


def _open() -> str:
    for batch in spool().get("open", {}).values():
        if batch["durable_bytes"] and batch["samples"]:
            return str(batch["batch_id"])
    return ""


def how() -> dict[str, Any]:
    """How the agent is, for systemd, for a person, and by its ledger."""
    asked = run(AGENT, "status")
    said = status() or {}
    return {
        "ActiveState": command("systemctl", "show", UNIT, "-P", "ActiveState").strip(),
        "status": asked.returncode,
        "problems": [line for line in asked.stdout.splitlines() if line.startswith("problem")],
        "differences": said.get("differences", ["it does not answer"]),
    }


def examined(name: str) -> dict[str, Any]:
    """What `edge-agent doctor` says, and what is in its file."""
    path = _DISK / f"{name}.tar.gz"
    done = run(AGENT, "doctor", "--json", "--output", str(path))
    assert path.exists(), done.stderr
    with tarfile.open(path) as archive:
        files = {
            Path(member.name).name: file.read().decode()
            for member in archive
            if (file := archive.extractfile(member)) is not None
        }
    return {
        "exit": done.returncode,
        "causes": json.loads(done.stdout)["causes"],
        "failed": json.loads(done.stdout)["failed"],
        "mode": oct(path.stat().st_mode & 0o7777),
        "owner": path.stat().st_uid,
        "files": sorted(files),
        "unit": [line for line in files["unit.txt"].splitlines() if "ActiveState=" in line],
        "log": files["log.txt"].splitlines(),
        "with a secret": [each for each, text in files.items() if SECRET in text],
    }


# the journal


class Journal:
    """What is said of the unit from now on, by systemd and by the agent."""

    def __init__(self) -> None:
        # Of an entry of this unit: of another's, `--after-cursor` would skip one too many.
        said = run("journalctl", "--unit", UNIT, "--lines=1", "--show-cursor").stdout
        cursor = said.partition("-- cursor: ")[2].strip()
        self._after = [f"--after-cursor={cursor}"] if cursor else []

    def lines(self) -> list[str]:
        words = ["--no-pager", "--unit", UNIT, *self._after, "--output=short"]
        return command("journalctl", *words).splitlines()


def boot_id() -> str:
    """This boot, as journalctl calls it."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    return text.strip().replace("-", "")


def journal_of(boot: str) -> list[str]:
    """What was said of the unit in a boot."""
    words = ["--unit", UNIT, "--boot", boot, "--output=short"]
    return command("journalctl", "--no-pager", *words).splitlines()


def fields(name: str) -> dict[str, Any]:
    """The fields of the last line about a bus."""
    words = ["--unit", UNIT, f"BUS={name}", "--output=json", "--lines=1"]
    last: dict[str, Any] = json.loads(command("journalctl", "--no-pager", *words))
    return {field: last.get(field) for field in ("MESSAGE", "PRIORITY", "BUS", "LOGGER")}


# the clock


class _Timex(ctypes.Structure):
    """`struct timex` as far as `status`, and room for the rest (adjtimex(2))."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


_ADJ_MAXERROR_AND_STATUS: Final = 0x0004 | 0x0010  # linux/timex.h


def set_clock(wall_ns: int, *, synchronised: bool) -> None:
    """Set the wall clock as an NTP daemon does, or as somebody who only believes to know."""
    time.clock_settime_ns(time.CLOCK_REALTIME, wall_ns)
    if synchronised:
        timex = _Timex(modes=_ADJ_MAXERROR_AND_STATUS, maxerror=0, status=0)
        assert ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex)) >= 0


def since_boot() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


# the world around it


class Flow:
    """Frames, each with its number, from a thread: 1,000 a second, from `begin` on."""

    AT_ONCE: Final = 20

    def __init__(self, begin: int) -> None:
        self.next = begin
        """The number that comes next; all before it were sent."""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _send(self) -> None:
        # At a shutdown the bus goes down first.
        with frames.Sender(BUS) as sender, contextlib.suppress(OSError):
            while not self._end.wait(0.02):
                numbers = range(self.next, self.next + self.AT_ONCE)
                payloads = [n.to_bytes(8, "little") for n in numbers]
                sender.send_many(frames.Prepared([frames.classic(WANTED, p) for p in payloads]))
                self.next = numbers.stop


class Cloud:
    """The reference cloud of the package, over the disk."""

    def __enter__(self) -> Self:
        _CLOUD.mkdir(exist_ok=True)
        words = ["cloud", "--listen", "127.0.0.1:8080", "--data", str(_CLOUD)]
        self._process = subprocess.Popen([AGENT, *words], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "the cloud does not come up"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=60)


def arrived() -> dict[str, Any]:
    """What the cloud has, by run of the agent: which numbers, and how they are dated."""
    paths = {path: int(path.stem.split("-")[1]) for path in sorted(_CLOUD.rglob("*.batch"))}
    numbers: dict[int, list[int]] = collections.defaultdict(list)
    times: dict[int, list[int]] = collections.defaultdict(list)
    clocks: dict[int, set[str]] = collections.defaultdict(set)
    # All at once: what dates a batch may have come with a later one.
    for (reader, anchor), n in zip(opened(list(paths)), paths.values(), strict=True):
        for table in tables_of(reader, anchor):
            numbers[n] += table.raw["Number"].tolist()
            times[n] += [int(table.time.min()), int(table.time.max())]
            clocks[n].add(table.clock)
    everything = [number for each in numbers.values() for number in each]
    return {
        "twice": len(everything) - len(set(everything)),
        "runs": {
            str(n): {
                "first": min(each),
                "last": max(each),
                "count": len(each),
                "clocks": sorted(clocks[n]),
                "times": [min(times[n]), max(times[n])],
            }
            for n, each in numbers.items()
        },
    }
