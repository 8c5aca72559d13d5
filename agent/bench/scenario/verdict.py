"""The verdict: what was expected, what was seen, where that stands; as text, JSON, exit status."""

import dataclasses
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from agent.bench.scenario.judge import Finding
from agent.bench.scenario.model import Scenario
from agent.bench.scenario.seen import StepSeen
from agent.ledger import Counts
from agent.observe.report import ledger_lines

_COLUMNS: Final = 96


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """An expectation that was decided: its line, how, and when.

    `decided_s` counts since the vehicle drove; None is at the end.
    """

    line: int
    that: str
    finding: Finding
    decided_s: float | None = None
    note: str = ""

    @property
    def good(self) -> bool:
        return self.finding.state == "ok"


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """How a scenario ended."""

    scenario: Scenario
    judged: Sequence[Judged]
    steps: Sequence[StepSeen]
    trouble: Sequence[str] = ()
    """What ended the run early, or could not be done: sentences."""
    ledger: Counts = dataclasses.field(default_factory=dict)
    """Of the newest process of the agent."""
    seconds: float = 0.0
    processes: int = 1
    folder: Path | None = None
    """Where the batches and the logs are."""

    @property
    def good(self) -> bool:
        failed = any(step.failed for step in self.steps)
        return not failed and not self.trouble and all(each.good for each in self.judged)

    @property
    def status(self) -> int:
        """The exit status."""
        return 0 if self.good else 1

    def lines(self) -> Iterator[str]:
        """For people."""
        scenario = self.scenario
        yield f"Scenario {scenario.name}: {scenario.head.about or scenario.path}"
        for step in self.steps:
            if step.failed:
                yield from _told("WRONG", f"step {step.do}", step.failed)
                yield f"         {scenario.where(step.line)}"
        for each in self.judged:
            finding = each.finding
            yield from _told("ok" if each.good else "WRONG", finding.expected, finding.seen)
            if not each.good:
                if each.note:
                    yield from _wrapped(f"         ({each.note})")
                yield f"         {scenario.where(each.line)}"
        for sentence in self.trouble:
            yield from _told("WRONG", "the bench runs to its end", sentence)
        if self.ledger:
            yield ""
            if self.processes > 1:
                yield f"The ledger of the newest of {self.processes} processes of the agent:"
            yield from ledger_lines(self.ledger)
        yield ""
        wrong = sum(not each.good for each in self.judged)
        wrong += sum(bool(step.failed) for step in self.steps) + len(self.trouble)
        if not wrong:
            yield f"All {len(self.judged)} expectations of {scenario.name} are met."
        else:
            yield f"WRONG: {wrong} of what {scenario.name} expects is not so."
            if self.folder is not None:
                yield f"Batches and logs are in {self.folder}"

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        scenario = self.scenario
        return {
            "scenario": scenario.name,
            "file": scenario.path,
            "good": self.good,
            "seconds": round(self.seconds, 1),
            "expectations": [
                {
                    "that": each.that,
                    "good": each.good,
                    "expected": each.finding.expected,
                    "seen": each.finding.seen,
                    "line": each.line,
                    "decided_s": each.decided_s,
                    "note": each.note,
                }
                for each in self.judged
            ],
            "steps": [dataclasses.asdict(step) for step in self.steps],
            "trouble": list(self.trouble),
            "processes": self.processes,
            "ledger": self.ledger,
            "folder": None if self.folder is None else str(self.folder),
        }


def _told(word: str, expected: str, seen: str) -> Iterator[str]:
    yield from _wrapped(f"  {word:5}  {expected}" + (f": {seen}" if seen else ""))


def _wrapped(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, _COLUMNS, subsequent_indent=9 * " ")
