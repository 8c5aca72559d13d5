"""What the cloud has of a vehicle: its batches, each read once, however often one looks."""

import collections
import dataclasses
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.batch import BatchReader
from agent.bench.ground import PLATFORM
from agent.blocks import SignalTable
from agent.errors import BatchError
from agent.spool.naming import order_of

_BATCHES: Final = "*.batch"
HAPPENED: Final = ("trigger", "trip", "charging")
"""Kinds of events that tell what happened at some time."""


@dataclasses.dataclass(slots=True)
class Samples:
    """Samples of one signal: how many, and their physical values as far as they are measurements.

    `total` is the sum over all samples, also of those that are no measurements, as `Totals` has it.
    """

    count: int = 0
    total: float = 0.0
    minimum: float | None = None
    maximum: float | None = None

    def take(self, other: "Samples") -> None:
        """Add what another one has."""
        self.count += other.count
        self.total += other.total
        lows = [x for x in (self.minimum, other.minimum) if x is not None]
        highs = [x for x in (self.maximum, other.maximum) if x is not None]
        self.minimum, self.maximum = min(lows, default=None), max(highs, default=None)


Totals = dict[str, Samples]
"""`Message.Signal`, with `@source` behind it on J1939 -> its samples."""


def add(totals: Totals, table: SignalTable) -> None:
    """Take the rows of a table into account."""
    for signal in table.schema.signals:
        name = f"{table.message}.{signal.name}"
        if table.source is not None:
            name += f"@{table.source}"
        row = totals.setdefault(name, Samples())
        row.count += len(table)
        if signal.kind == "bytes" or not len(table):
            continue
        values = table.physical(signal.name)
        row.total += float(values.sum())
        values = values[(table.validity(signal.name) == 0) & ~np.isnan(values)]
        if len(values):
            row.take(Samples(0, 0.0, float(values.min()), float(values.max())))


class Arrived:
    """The batches that come into a folder of the cloud, and what they hold.

    What is in it already is of earlier runs, and never looked at. Events are in the order in which
    they happened; the last word about each counts. `unreadable` says of files why they cannot be
    read. `look` may be called from any thread; whoever reads the rest waits for it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._looking = threading.Lock()
        self._before = set(folder.rglob(_BATCHES))
        self.files: list[Path] = []
        self.unreadable: dict[Path, str] = {}
        self.stored = 0
        self.samples = 0
        self.frames = 0
        self.signals: Totals = {}
        self.updates: list[dict[str, Any]] = []
        self.reports: list[dict[str, Any]] = []
        """What the agent found out, such as which vehicle it is in."""
        self._by_campaign: dict[int, collections.Counter[str]] = {}
        self._events: dict[str, dict[str, Any]] = {}
        self._begin: int | None = None

    @property
    def kept(self) -> int:
        """As the ledger counts: a raw frame is one."""
        return self.samples + self.frames

    @property
    def events(self) -> list[dict[str, Any]]:
        return sorted(self._events.values(), key=_moment)

    @property
    def begin(self) -> int:
        """The time of the first sample, ns; that of the first event where there is none."""
        if self._begin is not None:
            return self._begin
        return _moment(self.events[0]) if self._events else 0

    def by_campaign(self, run: int) -> Mapping[str, int]:
        """Samples and raw frames of one run, by campaign."""
        return self._by_campaign.get(run, {})

    def look(self) -> None:
        """Read what has come since the last look."""
        # One that was given up by its task may still be at work in its thread.
        with self._looking:
            known = {*self.files, *self.unreadable, *self._before}
            found = (path for path in self._folder.rglob(_BATCHES) if path not in known)
            for path in sorted(found, key=lambda path: order_of(path.stem)):
                self._take(path)

    def _take(self, path: Path) -> None:
        try:
            self._read(path)
        except BatchError as e:
            self.unreadable[path] = str(e)
        except FileNotFoundError:
            return  # the cloud has thrown it away again, which is not for us to judge
        else:
            self.files.append(path)

    def _read(self, path: Path) -> None:
        reader = BatchReader(path)
        # Not what the agent tells of itself, nor windows, which lie on a grid.
        told = reader.header.get("lane") == "report"
        run, _ = order_of(path.stem)
        campaigns = self._by_campaign.setdefault(run, collections.Counter())
        self.stored += path.stat().st_size
        for kind, value in reader.records():
            if kind == "samples":
                self.samples += value.samples
                campaigns[value.campaign] += value.samples
                add(self.signals, value)
                if not told and not any("." in name for name in value.names):
                    self._began(int(value.time.min()))
            elif kind == "frames":
                self.frames += value.samples
                campaigns[value.campaign] += value.samples
                self._began(int(value.block.time.min()))
            elif kind == "event":
                self._event(run, value)

    def _began(self, time: int) -> None:
        self._begin = time if self._begin is None else min(self._begin, time)

    def _event(self, run: int, value: dict[str, Any]) -> None:
        if value["kind"] == "update":
            if value.get("id") not in [each.get("id") for each in self.updates]:
                self.updates.append(value)
            return
        if value["kind"] not in HAPPENED:
            self.reports.append(value)
            return
        # It is told when it begins and when it is complete; the last word counts.
        key = str(value.get("id", f"{run} {value['kind']} {value.get('time')}"))
        if not self._events.get(key, {}).get("complete"):
            self._events[key] = value

    def differences(self, ledger: Mapping[str, Any], run: int) -> list[str]:
        """What a run's last ledger says was kept, and is not here; each as a sentence."""
        here = self.by_campaign(run)
        wrong = []
        # What is reported to a platform goes there, and not here.
        kept = sum(row["kept"] for name, row in ledger["uplink"].items() if name != PLATFORM)
        have = sum(here.values())
        if kept != have:
            wrong.append(f"run {run} kept {kept:,} samples, but {have:,} are in the cloud")
        for name, row in ledger["campaign"].items():
            if here.get(name, 0) != row["kept"]:
                wrong.append(
                    f"campaign {name} kept {row['kept']:,} in run {run}, "
                    f"but {here.get(name, 0):,} are in the cloud"
                )
        return wrong


def _moment(event: Mapping[str, Any]) -> int:
    """When something began: the time of a trip is that of its end."""
    return int(event["time" if event["kind"] == "trigger" else "first"])
