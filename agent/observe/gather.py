"""What a support engineer asks for: each source as a text for the file, and what it says as facts.

Sources are independent and run at the same time; each is bounded in time and size, and one that
fails gives its reason in the place of its text. Nothing is changed anywhere, no credential file is
opened, and what is gathered has still to go through `agent.observe.scrub`.
"""

import contextlib
import dataclasses
import datetime as dt
import functools
import importlib.metadata
import json
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agent import __version__
from agent.clock import SECOND, Quality
from agent.errors import AgentError
from agent.observe.facts import Facts
from agent.observe.gather_system import computer, heat, interfaces, process, storage
from agent.observe.machine import MOST_BYTES, Machine, TooLong, together
from agent.observe.scrub import Scrubber
from agent.settings import PREFIX, Device, load_device

SERVICE: Final = "edge-agent.service"
_LAST_RUN: Final = "last-run.json"
_LINES: Final = "500"
_SECONDS: Final = 5.0
_CHECK_SECONDS: Final = 20.0
"""Loading large databases for the first time takes its time on a small computer, and so does
importing what reads the spool while that goes on."""
_MOST_CONFIG: Final = 256 << 10
_MOST_BATCHES: Final = 2_000
_PROPERTIES: Final = (
    *("LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "ConditionResult"),
    *("ExecMainCode", "ExecMainStatus", "ExecMainStartTimestamp", "ExecMainExitTimestamp"),
    *("NRestarts", "MainPID", "MemoryCurrent", "MemoryPeak", "MemoryHigh", "MemoryMax"),
    *("CPUUsageNSec", "TasksCurrent", "FragmentPath", "DropInPaths", "StateDirectory", "User"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a source gives: a text, and fields of `Facts`."""

    text: str
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Subject:
    """What is examined."""

    config: Path
    check: Sequence[str]
    """The command that checks it: `edge-agent check -c ...`."""
    device: Device | None
    """None where it cannot be loaded: `trouble` says why."""
    trouble: str = ""
    socket: Path | None = None
    """In place of the device file's."""

    @property
    def state(self) -> Path:
        """The state folder; where the configuration does not tell, that of the service."""
        return Path(self.device.state_dir if self.device is not None else "/var/lib/edge-agent")


@dataclasses.dataclass(frozen=True, slots=True)
class Gathered:
    files: Mapping[str, str]
    """Texts by name, scrubbed."""
    facts: Facts
    failed: Mapping[str, str]
    """Sources that gave nothing, and why."""
    clean: Callable[[str], str]
    """Takes out of a text what was taken out of these."""


Source = Callable[[Machine, Subject, Scrubber], Found]


def subject_of(
    config: Path, check: Sequence[str], machine: Machine, socket: Path | None = None
) -> Subject:
    """Load the device file; never fails."""
    try:
        device = load_device(config, machine.environment)
    except AgentError as e:
        return Subject(config, check, None, str(e), socket)
    return Subject(config, check, device, socket=socket)


def gather(machine: Machine, subject: Subject) -> Gathered:
    """Ask every source. Takes as long as the slowest one is allowed to."""
    scrubber = Scrubber(machine.environment, exists=lambda name: _beside(subject, name))
    facts = Facts(device=subject.device, config_error=subject.trouble)
    jobs = [
        (functools.partial(source, machine, subject, scrubber), seconds)
        for _, source, seconds in SOURCES
    ]
    files: dict[str, str] = {}
    failed: dict[str, str] = {}
    for (name, _, _), found in zip(SOURCES, together(jobs), strict=True):
        if isinstance(found, Found):
            files[name] = found.text
            facts = dataclasses.replace(facts, **found.facts)
        else:
            failed[name] = _reason(found)
            files[name] = f"There is nothing here: {failed[name]}\n"
    if not machine.root:
        files["note.txt"] = "This was not gathered as root: some of it could not be read.\n"
    # Only now, and after a look at all texts, is every secret known that one of them may repeat.
    files = {name: bounded(text) for name, text in sorted(files.items())}
    for text in files.values():
        scrubber.learn(text)
    clean = {name: scrubber.text(text) for name, text in files.items()}
    failed = {name: scrubber.text(why) for name, why in failed.items()}
    return Gathered(clean, facts, failed, scrubber.text)


def bounded(text: str) -> str:
    """At most `MOST_BYTES`; the end is what goes."""
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= MOST_BYTES:
        return data.decode()
    return f"{data[:MOST_BYTES].decode('utf-8', 'ignore')}\n(cut here)\n"


def _reason(error: Exception) -> str:
    match error:
        case FileNotFoundError():
            return f"{error.filename}: there is no such file or command"
        case TooLong():
            return str(error)
        case OSError():
            return f"{error.filename or ''}: {error.strerror or error}".removeprefix(": ")
        case AgentError():
            return str(error)
    return f"{type(error).__name__}: {error}"


def _beside(subject: Subject, name: str) -> bool:
    try:
        return (subject.config.parent / name).is_file()
    except (OSError, ValueError):
        return False


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


# configuration


def _configuration(machine: Machine, subject: Subject, scrubber: Scrubber) -> Found:
    return Found(scrubber.toml(_text(machine.read(str(subject.config), _MOST_CONFIG))))


def _plan(machine: Machine, subject: Subject, scrubber: Scrubber) -> Found:
    if subject.device is None:
        raise AgentError("the configuration cannot be used, so it names no plan")
    return Found(scrubber.toml(_text(machine.read(subject.device.plan, _MOST_CONFIG))))


def _updates(_machine: Machine, subject: Subject, scrubber: Scrubber) -> Found:
    """The record of updates, and the plan of the bundle that runs."""
    device = subject.device
    if device is None or device.ota is None:
        return Found("This vehicle takes no plans over the air.\n")
    from agent.ota import bundle, record  # noqa: PLC0415 - slow to import, and rarely needed
    from agent.ota.store import Store  # noqa: PLC0415

    store = Store(subject.state / "ota")
    known = store.load()
    text = _json({**record.summary(known), "trouble": store.trouble})
    if (runs := record.running(known)) is not None:
        read = bundle.read(store.bundle(runs.sha256))
        plan = _text(read.files[read.manifest.plan])
        text += f"\n# The plan of {runs.title}:\n{scrubber.toml(plan)}"
    return Found(text)


def _environment(machine: Machine, _subject: Subject, scrubber: Scrubber) -> Found:
    mine = {
        name: value
        for name, value in machine.environment.items()
        if name.startswith(PREFIX)
        or name.lower().endswith("_proxy")
        or name in ("STATE_DIRECTORY", "CREDENTIALS_DIRECTORY", "LANG", "TZ")
    }
    return Found(scrubber.variables(mine) or "No variable sets anything.\n")


def _check(machine: Machine, subject: Subject, _scrubber: Scrubber) -> Found:
    done = machine.run([*subject.check, "--json"], _CHECK_SECONDS)
    text = _text(done.text)
    if done.status == 2:
        said = [line for line in text.splitlines() if line.startswith("edge-agent: ")]
        why = said[-1].removeprefix("edge-agent: ") if said else text.strip()[-300:]
        return Found(text, {"config_error": why})
    findings: tuple[str, ...] = ()
    with contextlib.suppress(ValueError, KeyError, TypeError):
        findings = tuple(str(each) for each in json.loads(text)["findings"])
    return Found(text, {"findings": findings})


# the agent


def _status(machine: Machine, subject: Subject, _scrubber: Scrubber) -> Found:
    path = subject.socket or (Path(subject.device.socket) if subject.device else None)
    path = path or subject.state / "agent.sock"
    try:
        status = machine.ask(path, "status")
        if isinstance(status, dict):
            return Found(_json(status), {"status": status, "live": True})
        why, denied = f"{path}: what answers here is no agent", False
    except AgentError as e:
        why, denied = str(e), isinstance(e.__cause__, PermissionError)
    facts: dict[str, Any] = {"unanswered": why, "denied": denied}
    try:
        last = json.loads(machine.read(str(subject.state / _LAST_RUN)))
    except (OSError, ValueError) as e:
        return Found(f"{why}\nNor is there one of the last stop: {e}\n", facts)
    if isinstance(last, dict):
        facts["status"] = last
    return Found(f"{why}\nThe status at the last clean stop:\n{_json(last)}", facts)


def _log(machine: Machine, _subject: Subject, _scrubber: Scrubber) -> Found:
    command = ["journalctl", "-u", SERVICE, "-n", _LINES, "-o", "short-iso", "--no-pager"]
    text = _text(machine.run(command, _SECONDS, tail=True).text)
    return Found(text, {"log": tuple(text.splitlines())})


def _kernel_log(machine: Machine, _subject: Subject, _scrubber: Scrubber) -> Found:
    command = ["journalctl", "-k", "-b", "-n", _LINES, "-o", "short-monotonic", "--no-pager"]
    try:
        done = machine.run(command, _SECONDS, tail=True)
        useful = done.status == 0 and b"-- No entries --" not in done.text
    except FileNotFoundError:
        useful = False
    if not useful:
        done = machine.run(["dmesg"], _SECONDS, tail=True)
    lines = _text(done.text).splitlines()[-int(_LINES) :]
    return Found("\n".join(lines) + "\n", {"kernel_log": tuple(lines)})


def _unit(machine: Machine, _subject: Subject, scrubber: Scrubber) -> Found:
    names = ",".join(_PROPERTIES)
    shown = _text(machine.run(["systemctl", "show", SERVICE, "-p", names], _SECONDS).text)
    properties = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    units = machine.run(["systemctl", "cat", SERVICE, "can-bus@.service"], _SECONDS).text
    text = f"{shown}\n{scrubber.unit(_text(units))}"
    return Found(text, {"unit": properties} if "ActiveState" in properties else {})


def _process(machine: Machine, subject: Subject, _scrubber: Scrubber) -> Found:
    return Found(*process(machine, subject.state))


def _spool(_machine: Machine, subject: Subject, _scrubber: Scrubber) -> Found:
    """What waits, without reading batches wholly."""
    from agent.spool.survey import identity, places, spool_of  # noqa: PLC0415 - slow to import

    root = spool_of(subject.state)
    if not root.is_dir():
        raise AgentError(f"{root}: there is no spool here, or it may not be read")
    found = list(places(root))
    sums: dict[str, list[int]] = {}
    listed: list[str] = []
    for place in found:
        try:
            told = place.path.stat()
        except OSError:
            continue  # sent meanwhile
        lane = f"{place.state}/{place.uplink}/{place.path.parent.name}".replace("//", "/")
        row = sums.setdefault(lane, [0, 0])
        row[0] += 1
        row[1] += told.st_size
        if len(listed) < _MOST_BATCHES:
            when = dt.datetime.fromtimestamp(told.st_mtime, dt.UTC)
            listed.append(f"{place.path} {told.st_size} {when:%Y-%m-%dT%H:%M:%SZ}")
    answer = {
        "spool": str(root),
        "problems": identity(root, found),
        "totals": {name: {"batches": n, "bytes": size} for name, (n, size) in sorted(sums.items())},
        "batches": listed,
        "left_out": max(0, len(found) - _MOST_BATCHES),
    }
    return Found(_json(answer))


# the computer


def _interfaces(machine: Machine, _subject: Subject, _scrubber: Scrubber) -> Found:
    return Found(*interfaces(machine))


def _computer(machine: Machine, _subject: Subject, _scrubber: Scrubber) -> Found:
    return Found(*computer(machine))


def _storage(machine: Machine, subject: Subject, _scrubber: Scrubber) -> Found:
    return Found(*storage(machine, subject.state))


def _heat(machine: Machine, _subject: Subject, _scrubber: Scrubber) -> Found:
    return Found(*heat(machine))


def _clock(machine: Machine, _subject: Subject, _scrubber: Scrubber) -> Found:
    clock = machine.clock
    quality = clock.quality()
    wall = dt.datetime.fromtimestamp(clock.wall() / SECOND, dt.UTC)
    text = (
        f"wall clock: {wall:%Y-%m-%d %H:%M:%S} UTC\nquality: {quality.name.lower()}\n"
        f"seconds since the boot: {clock.boot() / SECOND:.0f}\nboot: {clock.boot_id}\n"
    )
    for command in (["timedatectl", "show"], ["journalctl", "--list-boots", "--no-pager"]):
        try:
            text += f"\n{_text(machine.run(command, _SECONDS / 2, tail=True).text)}"
        except OSError as e:
            text += f"\n{' '.join(command)}: {_reason(e)}\n"
    synchronised = quality is not Quality.UNSYNCHRONISED
    return Found(text, {"synchronised": synchronised, "year": wall.year})


def _packages(_machine: Machine, _subject: Subject, _scrubber: Scrubber) -> Found:
    return Found("".join(f"{line}\n" for line in _versions()))


def _versions() -> Iterator[str]:
    yield f"edge-agent {__version__}"
    yield f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})"
    yield ""
    packages = {
        (str(each.metadata["Name"]), each.version) for each in importlib.metadata.distributions()
    }
    yield from (f"{name} {version}" for name, version in sorted(packages))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


SOURCES: Final[tuple[tuple[str, Source, float], ...]] = (
    ("configuration.toml", _configuration, _SECONDS),
    ("plan.toml", _plan, _SECONDS),
    ("environment.txt", _environment, _SECONDS),
    ("check.txt", _check, _CHECK_SECONDS + 1),
    ("status.txt", _status, _SECONDS + 1),
    ("log.txt", _log, _SECONDS + 1),
    ("kernel-log.txt", _kernel_log, 2 * _SECONDS + 1),
    ("unit.txt", _unit, 2 * _SECONDS + 1),
    ("process.txt", _process, _SECONDS),
    ("updates.txt", _updates, _CHECK_SECONDS),
    ("spool.json", _spool, _CHECK_SECONDS),
    ("interfaces.txt", _interfaces, _SECONDS + 1),
    ("computer.txt", _computer, _SECONDS),
    ("storage.txt", _storage, _SECONDS),
    ("heat.txt", _heat, _SECONDS),
    ("clock.txt", _clock, _SECONDS + 1),
    ("packages.txt", _packages, _SECONDS),
)
"""Name in the file, source, and the seconds that it may take."""
