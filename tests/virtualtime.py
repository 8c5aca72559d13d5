"""An event loop in which waiting takes no time, and a clock that shows its time.

    with Time() as time:
        time.run(something())        # a sleep of an hour ends at once, and the clock is an hour on

Where nothing is ready, the time goes on to the next moment at which something is. It stands still
while blocking work is under way in a thread (`asyncio.to_thread`, `agent.apart`): that takes as
long as it takes, and nobody's timeout runs out meanwhile.
"""

import asyncio
import selectors
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, Self, TypeVar

from agent import apart
from agent.clock import SECOND, BootNs, Quality, WallNs

_T = TypeVar("_T")
_LOOK_S = 0.05


def _apart() -> bool:
    """Whether there is such work; a loop may itself run in a thread of another one's."""
    here = threading.current_thread()
    return any(t.name == apart.NAME for t in threading.enumerate() if t is not here)


class _Selector(selectors.DefaultSelector):
    """Passes virtual time in place of waiting for it."""

    passed_s = 0.0
    at_work = 0
    """Jobs in threads of the executor."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # First: what a thread said as its last is among the events then.
        busy = self.at_work > 0 or _apart()
        if busy or timeout is None:
            while not (events := super().select(_LOOK_S if timeout is None or timeout else 0)):
                if timeout is not None:
                    break
            return events
        if not (events := super().select(0)):
            self.passed_s += max(0.0, timeout)
        return events


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._virtual = _Selector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.passed_s

    def run_in_executor(  # type: ignore[override]  # as its base class has it
        self, executor: Executor | None, func: Callable[..., _T], *args: Any
    ) -> "asyncio.Future[_T]":
        self._virtual.at_work += 1
        done = super().run_in_executor(executor, func, *args)
        done.add_done_callback(self._worked)
        return done

    def _worked(self, _done: "asyncio.Future[Any]") -> None:
        self._virtual.at_work -= 1


class Time:
    """A loop and a clock (agent.clock.Clock); the wall clock may be set.

    Attributes:
        set: what the wall clock is ahead of the boot clock, ns.
        good: how far that can be believed.
    """

    boot_id = "boot-1"

    def __init__(self, wall: WallNs, quality: Quality = Quality.NTP) -> None:
        self._loop = _Loop()
        self.good = quality
        self.set = 0
        self.set_wall(wall)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        return self._loop.run_until_complete(work)

    def task(self, work: Coroutine[Any, Any, _T]) -> "asyncio.Task[_T]":
        """Begin something that goes on whenever the loop runs."""
        return self._loop.create_task(work)

    def set_wall(self, wall: WallNs) -> None:
        self.set = wall - self.boot()

    @property
    def passed_s(self) -> float:
        return self._loop.time()

    def boot(self) -> BootNs:
        return BootNs(1000 * SECOND + round(self._loop.time() * SECOND))

    def wall(self) -> WallNs:
        return WallNs(self.boot() + self.set)

    def quality(self) -> Quality:
        return self.good
