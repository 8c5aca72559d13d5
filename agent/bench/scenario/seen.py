"""What was seen of a run up to a moment: all that a judge needs, and nothing that moves."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from agent.bench.scenario.arrived import Samples
from agent.bench.scenario.figures import Figures


@dataclasses.dataclass(frozen=True, slots=True)
class StepSeen:
    """What became of a step; times in seconds since the vehicle drives."""

    line: int
    do: str
    taken_s: float | None = None
    back_s: float | None = None
    """When it was taken back; of what is done once, when it was done."""
    recovered_s: float | None = None
    """So long after that all worked again."""
    failed: str = ""
    """Why it could not be taken: a sentence."""


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """The state of things at a moment."""

    at_s: float
    over: bool
    """The agent has left, and nothing will change any more."""
    figures: Figures
    looks: int = 0
    """How often the agent's ledger was looked at."""
    open_ledgers: Sequence[str] = ()
    """Looks in which it did not close: sentences."""
    completeness: Mapping[str, Any] | None = None
    """What the cloud answers; None before the end, and where it knows no such vehicle."""
    differences: Sequence[str] = ()
    """What the newest process says it kept, and the cloud does not have: sentences."""
    events: Sequence[Mapping[str, Any]] = ()
    updates: Sequence[Mapping[str, Any]] = ()
    signals: Mapping[str, Samples] = dataclasses.field(default_factory=dict)
    steps: Sequence[StepSeen] = ()
    platform: Mapping[str, Any] | None = None
    """The verdict on a platform; None before the end, and where there is none."""
    compared: Sequence[str] | None = None
    """Where signals differ from the recording decoded directly: sentences. None: not compared."""
