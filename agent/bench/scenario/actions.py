"""What a step can do: the faults of the bench, and how long each lasts."""

from collections.abc import Mapping
from typing import Any, Final

from agent.bench.faults import CATALOGUE, Fault

ACTIONS: Final[Mapping[str, Fault]] = {fault.name: fault for fault in CATALOGUE}

ON_A_LIVE_BUS: Final = frozenset(
    {
        *("ecu-silent", "bit-flips", "stuck-counter", "false-value", "overload", "bus-off"),
        "clock-jump",
    }
)
"""Faults that mean nothing to an agent that reads a recording."""

_BY_ITSELF: Final = "power-cut"
"""Is over when its time is: a step cannot end it."""
_PUBLISHED: Final = frozenset({"update", "hostile-update"})
"""Stay published, also at the end, unless the step says until when."""


def can_end(name: str) -> bool:
    """Whether a step may say how long it lasts."""
    return name != _BY_ITSELF


def ends_at_the_end(name: str) -> bool:
    """Whether what is still on is taken back when the vehicle has driven."""
    return name != _BY_ITSELF and name not in _PUBLISHED


def over_after_s(name: str, parameters: Mapping[str, Any]) -> float:
    """How long after it was begun something that no step ends is over, s."""
    if name != _BY_ITSELF:
        return 0.0
    return float(ACTIONS[name].checked(parameters)["off_s"])
