"""How well signals are kept: the policies of a plan, as the code uses them."""

import dataclasses
from typing import Literal

Kind = Literal["all", "every", "on_change", "dead_band", "dead_band_relative", "door", "window"]

AGGREGATES = ("min", "max", "mean", "last", "count")


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """One policy.

    `interval_ns` is that of `every` and `window`; `bound` the dead band (in the signal's unit, or
    a fraction of the value that was kept) or the door's greatest deviation. With `at_least_ns`,
    `on_change`, dead bands and the door keep a sample where the one kept before is that old.
    """

    kind: Kind = "all"
    interval_ns: int = 0
    bound: float = 0.0
    at_least_ns: int = 0
    aggregates: tuple[str, ...] = ()
