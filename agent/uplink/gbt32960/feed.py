"""What a session gets to send: live reports as they are made, and those that the spool lends.

A report that has to be signed first is signed beside the loop, so that heartbeats do not wait for
it, and comes as an event. What cannot be signed now stays in the spool and is tried again later.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from agent.blocks import Reports
from agent.clock import SECOND, BootNs, Clock
from agent.uplink.gbt32960.channel import Channel
from agent.uplink.gbt32960.reissue import Reissue
from agent.uplink.gbt32960.rows import Row
from agent.uplink.gbt32960.session_types import Lent, Live, Report
from agent.uplink.gbt32960.sign import Desk
from agent.uplink.gbt32960.speaker import Voice
from agent.uplink.gbt32960.tally import Tally

_AGAIN_NS: Final = 60 * SECOND
"""After the spool or the signing command failed."""
_SEAL_S: Final = 5.0
_LOOK_S: Final = 0.1
_MOST_OFFERED: Final = 64


class Feed:
    """Of one uplink. All but `offer` belongs to the event loop.

    Attributes:
        active: whether the vehicle is awake, so that reports are made.
        again: when to look again at what could not be read or signed.
    """

    def __init__(
        self,
        reissue: Reissue,
        desk: Desk,
        channel: Channel,
        *,
        tally: Tally,
        voice: Voice,
        clock: Clock,
        seal: Callable[[], object],
        came: Callable[[], None],
    ) -> None:
        self._reissue = reissue
        self._desk = desk
        self._channel = channel
        self._tally = tally
        self._voice = voice
        self._clock = clock
        self._seal = seal
        self._came = came
        self._offered: deque[Reports] = deque()
        self._signing: asyncio.Task[None] | None = None
        self._falling: asyncio.Task[None] | None = None
        self.active = False
        self.again: BootNs | None = None

    # -- live reports ------------------------------------------------------------------------

    def offer(self, reports: Reports) -> None:
        """New ones, or the word that the vehicle is off. From any thread."""
        if len(self._offered) >= _MOST_OFFERED:
            with contextlib.suppress(IndexError):  # they were looked at just now
                self._tally.overtaken += len(self._offered.popleft())
        self._offered.append(reports)

    def begin(self) -> None:
        """What was offered before this moment is not live any more."""
        if self._falling is not None:
            self.active, self._falling = False, None
        while self._offered:
            self.active = self._offered.popleft().awake

    def take(self, *, online: bool) -> list[Report]:
        """What was offered and can go out now; what is to be signed comes later."""
        live: list[Report] = []
        while self._offered:
            reports = self._offered.popleft()
            self._look_at_key(awake=reports.awake)
            if reports.live and online:
                live += self._live(reports)
        return live

    def _live(self, reports: Reports) -> list[Report]:
        ready = []
        for row in self._reissue.rows(reports):
            if row is None:
                self._tally.undated += 1
            elif self._desk.ready(row):
                ready.append(_report(row))
            elif not self._desk.put(row):
                self._tally.overtaken += 1
            elif self._signing is None:
                self._signing = self._channel.begin(self._sign())
        return ready

    async def _sign(self) -> None:
        def tell(row: Row) -> None:
            self._channel.tell(Live(_report(row)))

        await self._desk.work(tell)
        self._signing = None
        self._say_trouble()

    def _look_at_key(self, *, awake: bool) -> None:
        if self._falling is not None:
            self._falling.cancel()
            self._falling = None
        if awake:
            self.active = True
        else:
            self._falling = self._channel.beside(self._fall_asleep())

    async def _fall_asleep(self) -> None:
        """What is not sealed yet is, before the session looks whether it may log out."""
        sealed = self._seal()
        if isinstance(sealed, threading.Event):
            for _ in range(round(_SEAL_S / _LOOK_S)):
                if not sealed.is_set():
                    await asyncio.sleep(_LOOK_S)
        self.active = False
        self._came()

    # -- reports of the spool ----------------------------------------------------------------

    def lend(self, limit: int) -> None:
        """Lend so many at most; `Lent` comes."""
        self._channel.begin(self._lend(limit))

    async def _lend(self, limit: int) -> None:
        ready: list[Row] = []
        try:
            await self._fill(ready, limit)
        except Exception:
            # The session asks for no more before it has an answer.
            self._channel.tell(Lent(()))
            raise
        self._channel.tell(Lent(tuple(map(_report, ready))))

    async def _fill(self, ready: list[Row], limit: int) -> None:
        rows = await self._reissue.lend(limit)
        for place, row in enumerate(rows):
            if not await self._desk.finish(row):
                self._reissue.give_back(each.key for each in rows[place:])
                break
            ready.append(row)
        self._say_trouble()
        if self._reissue.trouble or len(ready) < len(rows):
            self.again = BootNs(self._clock.boot() + _AGAIN_NS)

    def still(self, lent: Lent) -> Lent:
        """Without what was confirmed meanwhile, as it was under way live."""
        return Lent(tuple(each for each in lent.reports if self._reissue.wants(each.key)))

    def due(self, now: BootNs) -> bool:
        """Whether it is time to look again; then what was set aside may be lent again."""
        if self.again is None or now < self.again:
            return False
        self.again = None
        self._reissue.look_again()
        return True

    def ended(self) -> None:
        """The link has ended, and with it the work that belonged to it."""
        self._signing = None
        self._desk.clear()
        self._reissue.ended()

    def _say_trouble(self) -> None:
        if trouble := self._desk.trouble:
            self._voice.trouble("sign", f"{trouble}; reports wait in the spool")
        if trouble := self._reissue.trouble:
            self._voice.trouble("spool", trouble)


def _report(row: Row) -> Report:
    return Report(row.key, row.wall, row)
