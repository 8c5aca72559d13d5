"""The steps of a scenario: each waits for its time and its condition, and takes its fault back.

Steps do not wait for each other. What a step does is done by the bench; when it was done, when it
was over, and when all worked again after that is noted here.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from agent.bench.scenario.actions import ACTIONS, can_end, ends_at_the_end, over_after_s
from agent.bench.scenario.figures import Comparison, Figure, Figures
from agent.bench.scenario.model import PlacedStep
from agent.bench.scenario.seen import StepSeen
from agent.errors import AgentError, ConfigError

LOOK_S = 0.25


class Pressed(Protocol):
    """What a step needs of a bench."""

    async def press(self, name: str, on: bool, parameters: Mapping[str, Any]) -> Any: ...


class StepRun:
    """One step as it happens.

    Args:
        placed: the step.
        bench: where it is taken.
        now: seconds since the vehicle drives.
        figures: the newest figures, for its condition.
        tell: takes a line for people.
    """

    def __init__(
        self,
        placed: PlacedStep,
        bench: Pressed,
        now: Callable[[], float],
        figures: Callable[[], Figures],
        tell: Callable[[str], None],
    ) -> None:
        self.seen = StepSeen(placed.line, placed.step.do)
        self._placed = placed
        self._bench = bench
        self._now = now
        self._figures = figures
        self._tell = tell
        self._before: _Progress | None = None

    @property
    def is_on(self) -> bool:
        """Whether there is something to be taken back."""
        lasts = ends_at_the_end(self._placed.step.do)
        return lasts and self.seen.taken_s is not None and self.seen.back_s is None

    @property
    def stays(self) -> bool:
        """Whether what it did outlasts the drive."""
        step = self._placed.step
        published = can_end(step.do) and not ends_at_the_end(step.do)
        return published and step.lasts is None and step.until is None

    async def run(self) -> None:
        """From its time to its end, if it has one."""
        step = self._placed.step
        try:
            await self._wait_until(step.at)
            if step.when and not await self._comes(Comparison.read(step.when)):
                self._note(failed=f"{step.when}: that was not so within {step.within:g} s")
                return
            await self._bench.press(step.do, True, self._placed.parameters)
            now = self._now()
            self._note(taken_s=now)
            self._say("", self._placed.parameters)
            if step.lasts is not None or step.until is not None:
                until = step.until if step.until is not None else now + (step.lasts or 0)
                await self._wait_until(until)
                await self.take_back()
            elif not ends_at_the_end(step.do):
                self._note(back_s=now + over_after_s(step.do, self._placed.parameters))
        except ConfigError as e:
            self._note(failed=str(e))
        except AgentError as e:
            self._note(failed=f"the bench could not do it: {e}")

    async def take_back(self) -> None:
        """End the fault.

        Raises:
            AgentError: the bench could not.
        """
        await self._bench.press(self._placed.step.do, False, {})
        self._note(back_s=self._now())
        self._say("is over", {})

    def look(self, figures: Figures, *, drives: bool, answers: bool) -> None:
        """Find out whether all works again after it is over."""
        seen = self.seen
        if seen.back_s is None or seen.recovered_s is not None:
            return
        now = self._now()
        if now < seen.back_s:
            return
        progress = _Progress.of(figures)
        if self._before is None:
            self._before = progress
            return
        if answers and progress.goes_on(self._before, drives=drives):
            self._note(recovered_s=round(max(0.0, now - seen.back_s), 2))

    async def _comes(self, condition: Comparison) -> bool:
        end = self._now() + self._placed.step.within
        while not (so := condition.holds(self._figures())) and self._now() < end:  # noqa: ASYNC110 - see below
            # Figures are looked at by another task, every so often.
            await asyncio.sleep(LOOK_S)
        return so

    async def _wait_until(self, moment: float) -> None:
        while (rest := moment - self._now()) > 0:  # noqa: ASYNC110 - time is what is waited for
            await asyncio.sleep(rest)

    def _note(self, **changes: Any) -> None:
        self.seen = dataclasses.replace(self.seen, **changes)

    def _say(self, what: str, parameters: Mapping[str, Any]) -> None:
        told = ", ".join(f"{key} = {value}" for key, value in parameters.items())
        words = " ".join(filter(None, (ACTIONS[self._placed.step.do].title, what)))
        self._tell(f"--- {words}{f' ({told})' if told else ''} ---")


@dataclasses.dataclass(frozen=True, slots=True)
class _Progress:
    """How far the newest process of the agent has come."""

    processes: int
    read: float
    acknowledged: float
    unsent: float

    @classmethod
    def of(cls, figures: Figures) -> "_Progress":
        newest = Figures(figures.ledgers[-1:], figures.status, figures.bench)

        def count(name: str) -> float:
            return Figure.read(name).of(newest) or 0.0

        return cls(
            len(figures.ledgers),
            count("bus.*.read"),
            count("uplink.*.acknowledged"),
            count("uplink.*.waiting") + count("uplink.*.memory"),
        )

    def goes_on(self, before: "_Progress", *, drives: bool) -> bool:
        """Frames are read and batches arrive; where nothing drives, nothing waits."""
        if not drives:
            return not self.unsent
        if self.processes != before.processes:
            return self.read > 0 and self.acknowledged > 0
        return self.read > before.read and self.acknowledged > before.acknowledged
