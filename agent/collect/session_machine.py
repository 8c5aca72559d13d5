"""When sessions of one kind begin and end, and which samples are theirs.

While it is not decided whether a session goes on, its figures are kept twice: as of the moment at
which its condition became false, and as they go on. A condition that flickers costs nothing: its
changes within `end_after_s` are taken out before any figure is looked at.
"""

import dataclasses
from typing import Any, Protocol

import numpy as np

from agent.blocks import Int64
from agent.collect.session_figures import Stretch, Totals, time_of


class Steps(Protocol):
    """A condition over a piece of time."""

    @property
    def before(self) -> bool:
        """Whether it holds before the first of its changes; truth alternates with each."""

    @property
    def times(self) -> Int64:
        """When it changes, ns, ascending."""


@dataclasses.dataclass
class Open:
    """A session that is going on."""

    totals: Totals
    fell: int | None = None
    """When its condition became false, while it is not decided whether that ends it."""
    then: Totals | None = None
    """The figures as of that moment."""


class Machine:
    """The sessions of one kind."""

    def __init__(self, end_after_ns: int) -> None:
        self.end_after_ns = end_after_ns
        self.truth = False
        """Of the condition, after the last step that is known."""
        self.steps = np.empty(0, np.int64)
        """Changes of the condition that wait."""
        self.open: Open | None = None

    def note(self, steps: Steps, taken: int | None, begin: int | None) -> None:
        """Changes to come.

        What is `taken` cannot change any more; `begin` is the first time that is known.
        """
        times = steps.times if taken is None else np.maximum(steps.times, taken)
        if steps.before != self.truth:
            if begin is None:
                return  # nothing is known yet, not even a time
            # Whoever decides the condition has begun anew: what it says holds from now on.
            times = np.concatenate((np.array([begin], np.int64), times))
        self.steps = np.concatenate((self.steps, times))
        self.truth = steps.before ^ bool(len(steps.times) & 1)

    def take(self, stretch: Stretch, now: int, horizon: int) -> list[tuple[int, Totals]]:
        """Go on from `now` to before `horizon`: the last moments and figures of what ended."""
        count = int(np.searchsorted(self.steps, horizon))
        changes, self.steps = self.steps[:count], self.steps[count:]
        going = self.open
        if going is not None and going.fell is not None:
            changes = np.concatenate((np.array([going.fell], np.int64), changes))
        # Rises and falls by turns, beginning with a fall where a session is going on.
        left = self._without_pauses(changes, first_fall=int(going is None))
        pending = False
        ended: list[tuple[int, Totals]] = []
        after = now - 1
        for moment in left.tolist():
            if going is None:
                going, after = Open(Totals(moment)), moment - 1
                continue
            if going.fell != moment or going.then is None:
                going.totals.add(stretch, after, moment)
                going.fell, going.then, after = moment, going.totals.copy(), moment
            pending = moment == left[-1] and horizon - moment < self.end_after_ns
            if not pending:
                ended.append((moment, going.then))
                going = None
        if going is not None:
            if not pending:
                going.fell = going.then = None
            going.totals.add(stretch, after, horizon - 1)
        self.open = going
        return ended

    def _without_pauses(self, changes: Int64, first_fall: int) -> Int64:
        """Without the falls after which the condition soon held again, and these rises."""
        falls, rises = changes[first_fall::2], changes[first_fall + 1 :: 2]
        pauses = rises - falls[: len(rises)] < self.end_after_ns
        keep = np.ones(len(changes), bool)
        keep[first_fall : first_fall + 2 * len(rises)] = ~np.repeat(pauses, 2)
        return changes[keep]

    def state(self) -> dict[str, Any]:
        going = None
        if self.open is not None:
            then = self.open.then
            going = {
                "totals": dataclasses.asdict(self.open.totals),
                "fell": self.open.fell,
                "then": None if then is None else dataclasses.asdict(then),
            }
        return {"truth": self.truth, "steps": self.steps.tolist(), "open": going}

    def restored(self, state: Any) -> "Machine":
        machine = Machine(self.end_after_ns)
        machine.truth = bool(state["truth"])
        machine.steps = np.array([time_of(t) for t in state["steps"]], np.int64)
        if (machine.steps[1:] < machine.steps[:-1]).any():
            raise ValueError("changes of a condition are in no order")
        if state["open"] is not None:
            fell, then = state["open"]["fell"], state["open"]["then"]
            machine.open = Open(
                Totals.of(state["open"]["totals"]),
                None if fell is None else time_of(fell),
                None if then is None else Totals.of(then),
            )
        return machine
