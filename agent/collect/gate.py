"""When a campaign collects: between two days, and while its condition is true.

Rows are let through by the truth at their own time. Those whose time is not decided yet (the
condition waits for the next block, or for another bus) are held until it is, so what is kept does
not depend on where blocks end.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Int64
from agent.collect.rows import Rows, owned, samples, take, times

if TYPE_CHECKING:
    from agent.collect.conditions import Steps


class Truth:
    """A condition's truth over the time that still matters."""

    def __init__(self, *, before: bool = False) -> None:
        self._before = before
        self._times = np.empty(0, np.int64)

    def note(self, steps: "Steps") -> None:
        self._times = np.concatenate([self._times, steps.times])

    def at(self, moments: Int64) -> NDArray[np.bool_]:
        """bool[n]: whether it holds at these times."""
        place = np.searchsorted(self._times, moments, side="right")
        odd = (place & 1).astype(bool)
        return ~odd if self._before else odd

    def forget(self, before: int) -> None:
        """Nobody asks for times before this one any more."""
        n = int(np.searchsorted(self._times, before, side="right"))
        self._before ^= bool(n & 1)
        self._times = self._times[n:]


class Gate:
    """Lets rows through while a condition is true."""

    def __init__(self) -> None:
        self._truth = Truth()
        self._waiting: list[Rows] = []
        self.held = 0
        """Samples that wait for a decision."""

    def take(self, rows: list[Rows], steps: "Steps | None", horizon: int) -> tuple[list[Rows], int]:
        """What passes up to the horizon, and how many samples do not."""
        if steps is not None:
            self._truth.note(steps)
        passed: list[Rows] = []
        waiting: list[Rows] = []
        before = samples(rows) + self.held
        for each in [*self._waiting, *rows]:
            moments = times(each)
            decided = moments <= horizon
            inside = take(each, decided & self._truth.at(moments))
            if len(inside):
                passed.append(inside)
            if not decided.all():
                waiting.append(owned(take(each, ~decided)))
        self._waiting = waiting
        oldest = min((int(times(each).min()) for each in waiting), default=horizon)
        self._truth.forget(min(oldest, horizon))
        self.held = samples(waiting)
        return passed, before - self.held - samples(passed)
