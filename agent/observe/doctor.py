"""The doctor: what is wrong with an agent, and everything that somebody far away needs to see why.

    gather ── texts, facts ──> scrub ──> one .tar.gz
                    └── facts ──> causes ──> the likeliest three, for whoever sits in the vehicle

The file can be handed on: `agent.observe.scrub` has taken secrets out, and credential files were
never opened. It still tells names of the vehicle, its buses and signals, addresses of its network,
and what the plan says of places. Only its owner may read it.
"""

import dataclasses
import datetime as dt
import gzip
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from agent import __version__
from agent.clock import SECOND
from agent.errors import ConfigError
from agent.observe.causes import diagnose
from agent.observe.facts import Cause, Facts
from agent.observe.gather import Subject, gather
from agent.observe.machine import Machine

SHOWN: Final = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Examination:
    """What was found."""

    name: str
    """`doctor-{vehicle}-{time}`, the time in UTC as this computer's clock shows it."""
    time_s: int
    causes: tuple[Cause, ...]
    findings: tuple[str, ...]
    files: Mapping[str, str]
    """Texts by name, without secrets."""
    failed: Mapping[str, str]

    @property
    def well(self) -> bool:
        return not self.causes


def examine(machine: Machine, subject: Subject) -> Examination:
    """Gather and judge; never fails, whatever is wrong with this computer."""
    now_s = machine.clock.wall() // SECOND
    found = gather(machine, subject)
    causes = tuple(
        dataclasses.replace(cause, what=found.clean(cause.what), do=found.clean(cause.do))
        for cause in diagnose(found.facts)
    )
    findings = tuple(map(found.clean, found.facts.findings))
    when = dt.datetime.fromtimestamp(now_s, dt.UTC)
    made = Examination(
        f"doctor-{_vehicle(found.facts)}-{when:%Y%m%dT%H%M%SZ}",
        now_s,
        causes,
        findings,
        found.files,
        found.failed,
    )
    report = {
        "report.txt": "".join(f"{line}\n" for line in lines(made, len(causes))),
        "report.json": json.dumps(as_json(made), ensure_ascii=False, indent=1) + "\n",
    }
    return dataclasses.replace(made, files={**report, **found.files})


def _vehicle(facts: Facts) -> str:
    """As the device file names it, which is fit for the name of a file."""
    return facts.device.vehicle if facts.device is not None else "unknown"


def lines(found: Examination, most: int = SHOWN) -> Iterator[str]:
    """For a person: what is wrong, the likeliest first, and what to do."""
    if found.well:
        yield "Nothing is wrong, as far as can be seen from here."
    for place, cause in enumerate(found.causes[:most], 1):
        yield f"{place}. {_sentence(cause.what)}"
        yield f"   {_sentence(cause.do)}"
    if (more := len(found.causes) - most) > 0:
        yield f"{more} more in report.txt of the file."
    if found.findings:
        yield f"`edge-agent check` has {len(found.findings)} findings; they are in check.txt."
    if found.failed:
        yield f"Could not be had: {', '.join(sorted(found.failed))}."


def _sentence(text: str) -> str:
    line = " ".join(text.split())
    return f"{line[:1].upper()}{line[1:]}".removesuffix(".") + "."


def as_json(found: Examination) -> dict[str, Any]:
    """For programs."""
    return {
        "name": found.name,
        "time": found.time_s,
        "agent": __version__,
        "well": found.well,
        "causes": [dataclasses.asdict(cause) for cause in found.causes],
        "findings": list(found.findings),
        "files": sorted(found.files),
        "failed": dict(found.failed),
    }


def pack(found: Examination) -> bytes:
    """The .tar.gz; the same bytes for the same examination."""
    raw = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=found.time_s) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, text in sorted(found.files.items()):
            data = text.encode("utf-8", "backslashreplace")
            member = tarfile.TarInfo(f"{found.name}/{name}")
            member.size, member.mtime, member.mode = len(data), found.time_s, 0o600
            archive.addfile(member, io.BytesIO(data))
    return raw.getvalue()


def write(found: Examination, path: Path) -> None:
    """Put the file there, whole or not at all; only its owner may read it.

    Raises:
        ConfigError: it cannot be written there.
    """
    temporary = None
    try:
        # mkstemp makes it 0600 from its first moment on.
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
        with open(handle, "wb") as file:  # noqa: PTH123 - it is open already
            file.write(pack(found))
        Path(temporary).replace(path)
    except OSError as e:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise ConfigError(
            f"{path}: cannot be written: {e.strerror}; name another place with --output"
        ) from e
