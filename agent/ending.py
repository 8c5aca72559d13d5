"""The end of a run: wait for the work, stop the threads in order, send the last words."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from agent.decoding import DecodeThread
from agent.intake import Intake
from agent.ledger import Ledger
from agent.spool.store import SpoolStore
from agent.uplink.sender import Senders

log = logging.getLogger("edge_agent")

_JOIN_S: Final = 0.5
_LAST_WORDS_S: Final = 0.5
_POLL_S: Final = 0.05


async def until_so(condition: Callable[[], bool]) -> None:
    """Wait for what threads bring about: their counters set no event of this loop."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)


class Ending:
    """Belongs to the event loop."""

    def __init__(
        self,
        intakes: Sequence[Intake],
        decoder: DecodeThread,
        store: SpoolStore,
        senders: Senders,
        ledger: Ledger,
    ) -> None:
        self._intakes = intakes
        self._decoder = decoder
        self._store = store
        self._senders = senders
        self._ledger = ledger
        self._drained = False

    async def drain(self, stop: asyncio.Event) -> None:
        """Set `stop` once everything is read, durable and acknowledged."""
        await until_so(
            lambda: not any(i.alive for i in self._intakes) and not self._waits("queued")
        )
        self._decoder.end()
        await until_so(lambda: not self._decoder.alive and not self._waits("memory"))
        self._store.seal_now()
        await until_so(lambda: not self._waits("waiting"))
        self._drained = True
        stop.set()

    def halt(self) -> list[str]:
        """Sources, which have been told to stop, then decoding, then the spool. Blocks.

        Gives a sentence for each source that a defect of this program has ended.
        """
        began = time.monotonic()
        for intake in self._intakes:
            intake.join(_JOIN_S)
        self._decoder.end()
        self._decoder.join(_JOIN_S)
        self._store.stop()
        log.info("stopped in %.2f s", time.monotonic() - began)
        return [intake.failed for intake in self._intakes if intake.failed]

    async def last_words(self, told: asyncio.Event) -> None:
        """What was sealed at the end, among it that the run has ended well, goes if it can.

        A drained run waits for that, until it is told to leave.
        """
        waits = [asyncio.ensure_future(sender.drained()) for sender in self._senders.all]
        words = asyncio.gather(*waits)
        if told.is_set() or not self._drained:
            await asyncio.wait([words], timeout=_LAST_WORDS_S)
        else:
            hurry = asyncio.ensure_future(told.wait())
            either: list[asyncio.Future[Any]] = [words, hurry]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
        words.cancel()
        await asyncio.gather(words, return_exceptions=True)

    def _waits(self, *levels: str) -> bool:
        counts = self._ledger.snapshot()
        rows = [*counts["bus"].values(), *counts["uplink"].values()]
        return any(row.get(level, 0) for row in rows for level in levels)
