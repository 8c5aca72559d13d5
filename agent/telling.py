"""What a running agent tells of itself unasked: figures for a Prometheus, records for the cloud."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from agent.clock import Clock
from agent.errors import ConfigError
from agent.observe.metrics import exposition
from agent.observe.reporter import Reporter
from agent.observe.scrape import MetricsServer
from agent.observe.vitals import Vitals
from agent.settings import Device
from agent.settings.metrics import address_of

log = logging.getLogger("edge_agent")

Status = Callable[[], Mapping[str, Any]]


class Telling:
    """Belongs to the event loop."""

    def __init__(
        self, device: Device, clock: Clock, status: Status, tell: Callable[[dict[str, Any]], object]
    ) -> None:
        """`status` is that of the agent, with that of this in it; `tell` takes an event."""
        self._where = address_of(device.metrics)
        self._clock = clock
        self._status = status
        self._reporter = Reporter(Vitals(Path(device.state_dir)), clock, status, tell)

    def status(self) -> dict[str, Any]:
        """The process and the computer, for the status."""
        return self._reporter.status()

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """Tell while the context lasts."""
        async with contextlib.AsyncExitStack() as stack:
            if self._where is not None:
                server = MetricsServer(self._where, lambda: exposition(self._status()), self._clock)
                try:
                    await stack.enter_async_context(server)
                except ConfigError as e:  # a port that is taken must not keep it from collecting
                    log.warning("no metrics: %s", e)
            task = asyncio.create_task(self._reporter.run())
            try:
                yield
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
