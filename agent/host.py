"""What updates need of the daemon: its frames, its figures, its switch, its word to the cloud."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Protocol

from agent.blocks import Event, FrameBlock
from agent.clock import Clock
from agent.collect import Plan
from agent.decoding import DecodeThread
from agent.errors import ConfigError
from agent.ledger import Ledger
from agent.ota.judge import Reading, reading_of
from agent.pipeline import Pipeline, Prepared
from agent.recent import RecentFrames
from agent.spool.store import SpoolStore, StreamKey
from agent.uplink.sender import Senders

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Host(Protocol):
    """What the daemon does for updates. In the event loop, but for `rehearsed`."""

    @property
    def alive(self) -> bool:
        """Whether another plan can follow; not when the agent stops."""
        ...

    def prepared(self) -> Prepared: ...
    def rehearsed(self, plan: Plan) -> Prepared:
        """A plan compiled, with a ledger of its own; in any thread."""
        ...

    def switch(self, plan: Plan, bundle: str, /) -> Awaitable[None]:
        """Go on with a plan, and what its bundle is called; an AgentError: it cannot be."""
        ...

    def reading(self) -> Reading: ...
    def frames(self) -> list[FrameBlock]: ...
    def tell(self, event: dict[str, Any]) -> threading.Event:
        """An event for the lane `report`; is set when it is durable."""
        ...

    async def fire(self, campaign: str, why: str) -> list[str]: ...
    async def resend(self, uplink: str, first: str, last: str) -> int: ...


class UpdateHost:
    """A daemon as a host: its parts. Belongs to the event loop."""

    def __init__(
        self,
        *,
        clock: Clock,
        ledger: Ledger,
        store: SpoolStore,
        pipeline: Pipeline,
        decoder: DecodeThread,
        senders: Senders,
        recent: RecentFrames,
        reports: StreamKey,
        stopped: Callable[[], str],
        rehearsed: Callable[[Plan], Prepared],
        switch: Callable[[Plan, str], Awaitable[None]],
        resend: Callable[[str, str, str], Awaitable[dict[str, Any]]],
    ) -> None:
        """`stopped` says why nothing may be sent now, as a budget that is used up does."""
        self._clock = clock
        self._ledger = ledger
        self._store = store
        self._pipeline = pipeline
        self._decoder = decoder
        self._senders = senders
        self._recent = recent
        self._stopped = stopped
        self._resend = resend
        self.rehearsed = rehearsed
        self.switch = switch
        self._reports = reports

    @property
    def alive(self) -> bool:
        """Whether another plan can follow: not once the decode thread has ended."""
        return self._decoder.alive

    def prepared(self) -> Prepared:
        return self._pipeline.prepared

    def frames(self) -> list[FrameBlock]:
        return self._recent.blocks()

    def tell(self, event: dict[str, Any]) -> threading.Event:
        """An event for every receiver, whatever the plan says."""
        if self._reports.uplinks:
            self._store.open([self._reports])
            self._store.add({self._reports: [Event(event)]})
        return self._store.seal_now()

    async def fire(self, campaign: str, why: str) -> list[str]:
        """Begin events by request, between two blocks.

        Raises:
            ConfigError: no campaign of that name has a trigger, or the agent stops.
        """
        done = self._decoder.between(lambda: self._pipeline.fire(campaign, why))
        while not done.done() and self._decoder.alive:  # noqa: ASYNC110 - a thread sets no event
            await asyncio.sleep(0.05)
        if not done.done():
            raise ConfigError("the agent stops: nothing can be fired any more")
        return list(done.result())

    async def resend(self, uplink: str, first: str, last: str) -> int:
        """Send batches again that are still kept; gives how many.

        Raises:
            ConfigError: there is no such uplink.
            SpoolError: these are no batches, or the disk fails.
        """
        return int((await self._resend(uplink, first, last))["batches"])

    def reading(self) -> Reading:
        """How the agent does now."""
        counts = self._ledger.snapshot()
        states = [sender.state["state"] for sender in self._senders.all]
        return reading_of(
            self._clock.boot(),
            counts,
            spool_trouble=self._store.trouble,
            sending_stopped=self._stopped(),
            online=any(state in ("idle", "sending") for state in states),
            cpu_s=time.process_time(),
            memory_bytes=_memory(),
            on_bus={bus: row["received"] + row["filtered"] for bus, row in counts["bus"].items()},
        )


def _memory() -> int:
    """Resident, bytes (proc(5)); 0 where the kernel does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * _PAGE
    return 0
