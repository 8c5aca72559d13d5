"""What updates need of the daemon: its frames, its figures, its switch, its word to the cloud."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from agent.blocks import Event, FrameBlock
from agent.clock import Clock
from agent.collect import Plan
from agent.decoding import DecodeThread
from agent.ledger import Ledger
from agent.ota.judge import Reading, reading_of
from agent.pipeline import Pipeline, Prepared
from agent.recent import RecentFrames
from agent.spool.store import SpoolStore, StreamKey
from agent.uplink.sender import Senders

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class UpdateHost:
    """The parts of a daemon, as `agent.updates` wants them. Belongs to the event loop."""

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
        uplinks = tuple(sorted(sender.state["name"] for sender in senders.all))
        self._reports = StreamKey("report", uplinks)

    def prepared(self) -> Prepared:
        return self._pipeline.prepared

    def frames(self) -> list[FrameBlock]:
        return self._recent.blocks()

    def tell(self, event: dict[str, Any]) -> threading.Event:
        """An event for every uplink, whatever the plan says."""
        self._store.open([self._reports])
        self._store.add({self._reports: [Event(event)]})
        return self._store.seal_now()

    async def fire(self, campaign: str, why: str) -> list[str]:
        """Begin events by request, between two blocks.

        Raises:
            ConfigError: no campaign of that name has a trigger.
        """
        done = self._decoder.between(lambda: self._pipeline.fire(campaign, why))
        return list(await asyncio.wrap_future(done))

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
