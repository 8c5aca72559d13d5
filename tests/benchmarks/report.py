"""What every benchmark shares: CPU time, contestants in turn, and one form of table."""

import argparse
import dataclasses
import gc
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

Bound = Literal["at least", "at most"]


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One line of a table. Without a target it only explains the others."""

    what: str
    value: float | None
    """None: could not be measured; the note says why."""
    unit: str = ""
    bound: Bound = "at least"
    target: float | None = None
    note: str = ""

    @property
    def verdict(self) -> str:
        """`ok`, `missed`, or empty where there is nothing to hold."""
        if self.target is None or self.value is None:
            return ""
        ok = self.value >= self.target if self.bound == "at least" else self.value <= self.target
        return "ok" if ok else "missed"

    def cells(self) -> tuple[str, str, str, str]:
        value = "not run" if self.value is None else f"{_number(self.value)} {self.unit}".strip()
        target = "" if self.target is None else f"{self.bound} {_number(self.target)}"
        return self.what, value, target, " ".join(filter(None, (self.verdict, self.note)))


def _number(value: float) -> str:
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def parser(about: str) -> argparse.ArgumentParser:
    """The options that every benchmark has; `about` is a module's docstring."""
    made = argparse.ArgumentParser(description=about.splitlines()[0])
    made.add_argument("--json", action="store_true", help="print the figures as JSON")
    return made


def show(title: str, figures: Sequence[Figure], notes: Sequence[str], *, as_json: bool) -> None:
    """Print a table, or the same as one JSON object."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if as_json:
        rows = [{**dataclasses.asdict(f), "verdict": f.verdict} for f in figures]
        print(json.dumps({"title": title, "machine": machine, "figures": rows, "notes": notes}))
        return
    print(f"{title} ({machine})")
    head = ("", "figure", "target", "")
    cells = [head, *(f.cells() for f in figures)]
    widths = [max(len(row[i]) for row in cells) for i in range(3)]
    for what, value, target, rest in cells:
        line = f"  {what:<{widths[0]}}  {value:>{widths[1]}}  {target:<{widths[2]}}  {rest}"
        print(line.rstrip())
    for note in notes:
        print(f"  {note}")


def cpu_s(run: Callable[[], object], at_least_s: float = 0.0) -> float:
    """User and system time of all threads of this process for one call, in seconds.

    A short call is repeated until `at_least_s` is spent, and the mean is given.
    """
    calls = 0
    gc.collect()
    began = time.process_time()
    while True:
        run()
        calls += 1
        spent = time.process_time() - began
        if spent >= at_least_s:
            return spent / calls


def medians(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of what each contestant says, the contestants taking turns."""
    told: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            told[name].append(run())
    return {name: statistics.median(values) for name, values in told.items()}


def file_system(path: Path) -> str:
    """Which file system a folder is on, as /proc/mounts has it."""
    found = ("", "unknown")
    for line in Path("/proc/mounts").read_text("utf-8").splitlines():
        _, mount, kind, *_ = line.split()
        if path.resolve().is_relative_to(mount) and len(mount) >= len(found[0]):
            found = (mount, kind)
    return found[1]
