"""Once a minute: look at the computer, and tell the cloud how the agent is.

The computer is looked at in a thread: a disk that hangs holds up this task alone. What was found
last stands in the status (`status`), for whoever asks in between. Nothing is told while the key is
off: a vehicle that stands still must not write to its flash, or wake its link, to say that.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from agent.clock import Clock
from agent.observe.health import record
from agent.observe.vitals import Vitals

log = logging.getLogger("edge_agent")

EVERY_S: Final = 60.0


class Reporter:
    """Belongs to the event loop."""

    def __init__(
        self,
        vitals: Vitals,
        clock: Clock,
        status: Callable[[], Mapping[str, Any]],
        tell: Callable[[dict[str, Any]], object],
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`status` gives that of the agent, with `Reporter.status` in it; `tell` takes an event.

        `sleep` is a seam for tests: what waits between two records.
        """
        self._vitals = vitals
        self._clock = clock
        self._status = status
        self._tell = tell
        self._sleep = sleep
        self._computer: dict[str, Any] = {}

    def status(self) -> dict[str, Any]:
        """For the status: `process`, as it is now, and `machine`, as it was at the last look."""
        return {"process": self._vitals.process(), "machine": self._computer}

    async def run(self) -> None:
        """Until cancelled; the first record is told after the first minute.

        A defect costs one record.
        """
        failure = ""
        before: Mapping[str, Any] | None = None
        while True:
            try:
                self._computer = await asyncio.to_thread(self._vitals.look)
                now = self._status()
                wanted = now["uplinks"] and now["ignition"]["state"] != "asleep"
                if wanted and before is not None:
                    self._tell(record(now, self._clock.boot(), before))
                before = now
            except Exception as e:
                if failure != repr(e):
                    failure = repr(e)
                    log.exception("telling how the agent is failed")
            await self._sleep(EVERY_S)
