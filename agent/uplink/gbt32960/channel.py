"""The link of the moment: what is being connected or is connected, and the work that ends with it.

Whatever such work finds out is an event in one queue with the frames that came. When the link ends,
its tasks are cancelled and the queue is emptied, so nothing of it reaches the next one.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from agent.clock import SECOND, BootNs, Clock, Quality
from agent.gbt32960.envelope import Frame
from agent.settings import Uplink
from agent.uplink.credentials import Credentials
from agent.uplink.door import check_address, platform_of
from agent.uplink.gbt32960.connection import JUNK, Connection, Ended, Streams
from agent.uplink.gbt32960.session_types import Connected, Event
from agent.uplink.gbt32960.tally import Tally
from agent.uplink.trust import Unusable

_log = logging.getLogger("edge_agent.uplink")

_JUNK_NS: Final = 30 * SECOND
"""Who sent junk is left alone for so long."""

Dial = Callable[[str, int, Any, float], Awaitable[Streams]]


class Channel:
    """Of one uplink. Belongs to one event loop.

    Args:
        settings: of the uplink.
        clock: the seam to time.
        tally: counts what came.
        dial: opens a connection or raises `Ended`.
        came: called when there is something to `take`.

    Raises:
        ConfigError: the address cannot be.
    """

    def __init__(
        self,
        settings: Uplink,
        clock: Clock,
        tally: Tally,
        *,
        dial: Dial,
        came: Callable[[], None],
    ) -> None:
        check_address(settings)
        self.host, self.port, _ = platform_of(settings)
        self._name = settings.name
        self._settings = settings
        self._clock = clock
        self._tally = tally
        self._dial = dial
        self._came = came
        self._credentials = _Credentials(settings)
        self._connection: Connection | None = None
        self._events: deque[Event | Ended] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._of_link: set[asyncio.Task[None]] = set()
        self._not_before = BootNs(0)

    # -- work --------------------------------------------------------------------------------

    def begin(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Work that ends with the link."""
        task = self.beside(work)
        self._of_link.add(task)
        task.add_done_callback(self._of_link.discard)
        return task

    def beside(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Work that goes on when the link ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("uplink %s: the sender failed", self._name, exc_info=error)

    def tell(self, event: Event) -> None:
        """What work has found out."""
        self._events.append(event)
        self._came()

    async def close(self) -> None:
        """End all work."""
        tasks = [*self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- the link ----------------------------------------------------------------------------

    def open(self) -> None:
        """Connect; `Connected` comes, or `Ended`."""
        self.begin(self._connect())

    async def _connect(self) -> None:
        wait = self._not_before - self._clock.boot()
        if wait > 0:
            await asyncio.sleep(wait / SECOND)
        settings = self._settings
        try:
            if self._credentials.needed:
                await asyncio.to_thread(self._credentials.look)
            streams = await self._dial(
                self.host, self.port, self._credentials.tls, settings.connect_timeout_s
            )
        except (Unusable, Ended) as e:
            self._events.append(Ended(str(e)))
            self._came()
            return
        self._tally.connections += 1
        self._connection = Connection(
            streams, self._clock, stall_s=settings.stall_timeout_s, came=self._came
        )
        self.tell(Connected())

    def take(self) -> Event | Frame | Ended | None:
        """What came next: from work, from the platform, or that the link has ended."""
        if self._events:
            return self._events.popleft()
        connection = self._connection
        if connection is None:
            return None
        if (frame := connection.take()) is not None:
            return frame
        return None if connection.ended is None else Ended(connection.ended)

    async def send(self, data: bytes) -> bool:
        """Send; gives whether it is under way. Where it is not, `take` says why."""
        if self._connection is None:
            return False
        try:
            await self._connection.send(data)
        except Ended:
            return False
        self._tally.sent_bytes += len(data)
        return True

    def end(self, *, politely: bool) -> None:
        """There is no link any more; politely, what was sent before still goes out."""
        for task in list(self._of_link):
            task.cancel()
        self._events.clear()
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._tally.bad_frames += connection.bad_frames
        self._tally.skipped_bytes += connection.skipped_bytes
        if connection.ended == JUNK:
            self._not_before = BootNs(self._clock.boot() + _JUNK_NS)
        if politely and connection.ended is None:
            self.beside(connection.close())
        else:
            connection.drop()

    # -- what the status shows ---------------------------------------------------------------

    def look(self) -> bool:
        """Give up what has begun and does not come; gives whether to look again soon."""
        if self._connection is None:
            return False
        self._connection.look()
        return self._connection.pending

    @property
    def spoilt(self) -> tuple[int, int]:
        """Bad frames and skipped bytes of this connection, not counted yet."""
        connection = self._connection
        return (connection.bad_frames, connection.skipped_bytes) if connection else (0, 0)

    @property
    def notice(self) -> str:
        """What a person should know of the credentials."""
        good = self._clock.quality() > Quality.UNSYNCHRONISED
        return self._credentials.notice(self._clock.wall(), synchronised=good)


class _Credentials(Credentials):
    """Those that are shown to a platform."""

    def __init__(self, settings: Uplink) -> None:
        super().__init__(settings)
        self._secure = settings.url.startswith("gbt32960s:")

    @property
    def needed(self) -> bool:
        return self._secure
