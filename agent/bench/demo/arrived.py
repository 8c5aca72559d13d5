"""What the cloud has of a vehicle: the batches that were not there before, read again."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from agent.batch import BatchReader

HAPPENED: Final = ("trigger", "trip", "charging")
"""Kinds of events that tell what happened at some time."""


@dataclasses.dataclass
class Arrived:
    """Batches of one vehicle; events in the order in which they happened."""

    files: list[Path]
    stored: int = 0
    samples: int = 0
    frames: int = 0
    begin: int = 0
    """The time of the first sample, ns; that of the first event where there is none."""
    by_campaign: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    """Samples and raw frames."""
    events: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    reports: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """What the agent found out, such as which vehicle it is in."""

    @property
    def kept(self) -> int:
        """As the ledger counts: a raw frame is one."""
        return self.samples + self.frames

    @classmethod
    def read(cls, files: Iterable[Path], begin: int | None = None) -> Self:
        """Read all records of batches; `begin` where it is known from elsewhere.

        Raises:
            BatchError: a file is none.
        """
        found = cls(sorted(files))
        begins: list[int] = []
        events: dict[str, dict[str, Any]] = {}
        for path in found.files:
            found.stored += path.stat().st_size
            reader = BatchReader(path)
            for kind, value in reader.records():
                if kind == "samples":
                    found.samples += value.samples
                    found.by_campaign[value.campaign] += value.samples
                    # Not what the agent tells of itself, nor windows, which lie on a grid.
                    told = reader.header.get("lane") == "report"
                    if not told and not any("." in name for name in value.names):
                        begins.append(int(value.time.min()))
                elif kind == "frames":
                    found.frames += value.samples
                    found.by_campaign[value.campaign] += value.samples
                    begins.append(int(value.block.time.min()))
                elif kind == "event":
                    # It is told when it begins and when it is complete; the last word counts.
                    key = str(value.get("id", f"{value['kind']} {value.get('time')}"))
                    if value["kind"] not in HAPPENED:
                        found.reports.append(value)
                    elif not events.get(key, {}).get("complete"):
                        events[key] = value
        found.events = sorted(events.values(), key=_moment)
        first = _moment(found.events[0]) if found.events else 0
        found.begin = min(begins, default=first) if begin is None else begin
        return found

    def differences(self, ledger: Mapping[str, Any], expected: Sequence[str]) -> list[str]:
        """What is not as the ledger says, or did not arrive, each as a sentence."""
        wrong = []
        kept = sum(row["kept"] for row in ledger["uplink"].values())
        if kept != self.kept:
            wrong.append(f"{kept:,} samples were kept, but {self.kept:,} are in the cloud")
        for name, row in ledger["campaign"].items():
            here = self.by_campaign[name]
            if here != row["kept"]:
                wrong.append(f"campaign {name} kept {row['kept']:,}, but {here:,} are in the cloud")
        for name in expected:
            mine = [e for e in self.events if name in (e["name"], e["kind"])]
            if not mine:
                have = ", ".join(sorted({str(e["name"]) for e in self.events})) or "none"
                wrong.append(f'the event "{name}" did not arrive; those that did: {have}')
            elif not any(e.get("complete", True) for e in mine):
                wrong.append(f'the event "{name}" arrived, but not its end')
        return wrong


def _moment(event: Mapping[str, Any]) -> int:
    """When something began: the time of a trip is that of its end."""
    return int(event["time" if event["kind"] == "trigger" else "first"])
