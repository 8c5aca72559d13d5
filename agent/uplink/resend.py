"""Batches that a receiver lacks although it has acknowledged them: sent again, as far as kept.

A receiver that asks with every answer gets a range once an hour: what it cannot keep, it would
otherwise be sent for ever. A range of which nothing is kept may be one that still waits and is
acknowledged later, so it costs a look into the spool, but once a minute only.
"""

import asyncio
import logging
from typing import Final, Protocol, runtime_checkable

from agent.clock import SECOND, BootNs, Clock
from agent.errors import AgentError

_log = logging.getLogger("edge_agent.uplink")

_EVERY_NS: Final = 3600 * SECOND
_IN_VAIN_NS: Final = 60 * SECOND
_REMEMBERED: Final = 64


@runtime_checkable
class Keeps(Protocol):
    """An outbox that keeps for a while what was acknowledged."""

    def resend(self, first: str, last: str) -> int:
        """Put sent batches that are still kept into the queue again; how many.

        Raises:
            SpoolError: these are no batches, or the disk does not do it.
        """
        ...


class Resender:
    """What one receiver has asked for again. Belongs to one sender."""

    def __init__(self, uplink: str, outbox: object, clock: Clock) -> None:
        self._uplink = uplink
        self._outbox = outbox if isinstance(outbox, Keeps) else None
        self._clock = clock
        self._not_before: dict[tuple[str, str], BootNs] = {}

    async def serve(self, ranges: tuple[tuple[str, str], ...]) -> int:
        """Put into the queue again what is kept of these ranges; how many batches."""
        if self._outbox is None:
            return 0
        total = 0
        for wanted in ranges:
            now = self._clock.boot()
            if now < self._not_before.get(wanted, 0):
                continue
            try:
                n = await asyncio.to_thread(self._outbox.resend, *wanted)
            except AgentError as e:
                _log.warning("uplink %s: cannot be sent again: %s", self._uplink, e)
                n = 0
            self._not_before.pop(wanted, None)
            self._not_before[wanted] = BootNs(now + (_EVERY_NS if n else _IN_VAIN_NS))
            if n:
                _log.info(
                    "uplink %s: the receiver lacks %s to %s: %d batches are sent again",
                    self._uplink,
                    *wanted,
                    n,
                )
            while len(self._not_before) > _REMEMBERED:
                del self._not_before[next(iter(self._not_before))]
            total += n
        return total
