"""The sender to one GB/T 32960 platform: it stands beside the senders of batches.

    decode thread --offer--> +--------+ --Live--> +---------+ --SendRealtime--> connection
                             | sender |           | session |
    spool --wake, outbox---> +--------+ --Lent--> +---------+ --SendReissue---> connection
                                 ^                     |
                                 +-- Confirmed, Dropped, Fetch, ...

The session (session.py) decides; here its actions are carried out, in their order, before the next
event goes in. What takes time (to connect, to read a batch, to sign, to close a batch) is done by
tasks beside the loop, whose results come in as events; each belongs to a connection and is left out
when that has ended meanwhile.

Every report is in the spool before it is offered here, so whatever goes wrong costs a duplicate. A
live report that cannot go out at once is forgotten; after a login the spool is asked to seal what
is open, so that its reports can be lent.

The boot clock says when to do something, the wall clock only dates (dates.py). While nothing says
what time it is no report goes out, but a login does, as the platform may know the time.
"""

import asyncio
import logging
import random as _random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from agent import __version__
from agent.blocks import Reports
from agent.clock import SECOND, Anchor, BootNs, Clock, WallNs
from agent.collect.reports.tuning import Tuning
from agent.errors import AgentError, ConfigError
from agent.gbt32960.envelope import Frame
from agent.gbt32960.layout import GbtError
from agent.ledger import Ledger
from agent.settings import Uplink
from agent.uplink import wire
from agent.uplink.gbt32960.card import Card
from agent.uplink.gbt32960.channel import Channel, Dial
from agent.uplink.gbt32960.connection import Ended, dial
from agent.uplink.gbt32960.dates import Dates
from agent.uplink.gbt32960.feed import Feed
from agent.uplink.gbt32960.frames import Words
from agent.uplink.gbt32960.reissue import Fate, Reissue, ReportOutbox
from agent.uplink.gbt32960.session import Session
from agent.uplink.gbt32960.session_settings import SessionSettings
from agent.uplink.gbt32960.session_types import (
    Action,
    Active,
    Answered,
    ClockQuality,
    ClockTold,
    Close,
    Command,
    Confirmed,
    Connect,
    Dropped,
    Event,
    Fetch,
    KeepParameters,
    KeepSerial,
    Lent,
    Link,
    Live,
    Lost,
    Reason,
    Result,
    SetTimer,
    Stop,
    StoreWaits,
)
from agent.uplink.gbt32960.sign import Desk, Signer
from agent.uplink.gbt32960.speaker import Speaker, Voice
from agent.uplink.gbt32960.state import State
from agent.uplink.gbt32960.tally import PlatformStatus, Tally
from agent.uplink.sender import State as Standing

_log = logging.getLogger("edge_agent.uplink")

# asyncio's clock stands still while the computer is suspended, the boot clock does not: a longer
# wait is looked at again this often.
_LOOK_NS: Final = 60 * SECOND
_STUCK_NS: Final = 5 * SECOND
_SHORTEST_S: Final = 0.001
_DISK_NS: Final = 10 * SECOND
_VERSION_BYTES: Final = 5
_DEFECT_S: Final = 10.0

_FATES: Final = {Reason.REFUSED: Fate.REFUSED, Reason.EXPIRED: Fate.EXPIRED}


class PlatformSender:
    """Sends reports to one platform, until it is cancelled. May be run again.

    Args:
        settings: the uplink, with its `gbt32960`.
        outbox: where its batches wait.
        ledger: counts reports.
        clock: of this boot.
        tuning: what the platform sets goes in here.
        state_dir: keeps a file of its own.
        seal: asks the spool to seal what is open; may give an event that says when that is done.
        anchor: the synchronised anchor of this boot, where there is one.
        random: a seam for tests, numbers in [0, 1).
        connect: a seam for tests, opens a connection or raises `Ended`.

    Raises:
        ConfigError: address, credentials or the vehicle's data cannot be.
    """

    def __init__(
        self,
        settings: Uplink,
        outbox: ReportOutbox,
        ledger: Ledger,
        clock: Clock,
        *,
        tuning: Tuning,
        state_dir: Path,
        seal: Callable[[], object],
        anchor: Callable[[], Anchor | None],
        random: Callable[[], float] = _random.random,
        connect: Dial = dial,
    ) -> None:
        written = settings.gbt32960
        if written is None:
            raise ConfigError(f'uplink "{settings.name}": [uplink.gbt32960] is missing')
        self._name = settings.name
        self._written = written
        self._url = wire.shown(settings.url)
        self._outbox = outbox
        self._clock = clock
        self._tuning = tuning
        self._seal = seal
        self._random = random
        self._new = asyncio.Event()
        self._tally = Tally()
        self._channel = Channel(settings, clock, self._tally, dial=connect, came=self._new.set)
        self._state = State(state_dir, settings.name)
        self._dates = Dates(clock, anchor, self._state)
        self._words = Words(written)
        self._card = Card(written)
        self._speaker = Speaker(self._words, self._card, self._channel, self._tally)
        self._voice = Voice(settings.name, clock)
        layout = self._words.codec.layout
        self._reissue = Reissue(settings.name, outbox, ledger, clock, self._dates, layout=layout)
        marker = written.signature_covers_marker
        self._desk = Desk(Signer(written.sign, marker=marker) if written.sign else None)
        self._feed = Feed(
            self._reissue,
            self._desk,
            self._channel,
            tally=self._tally,
            voice=self._voice,
            clock=clock,
            seal=seal,
            came=self._new.set,
        )
        try:
            self._words.login(self._dates.now(), 1, written.iccid)
        except GbtError as e:
            raise ConfigError(f'uplink "{settings.name}": {e}') from e
        self._session_settings = SessionSettings.from_device(
            written,
            domain=self._channel.host,
            port=self._channel.port,
            connect_timeout_s=settings.connect_timeout_s,
            firmware_version=__version__[:_VERSION_BYTES],
        )
        self._session = self._new_session()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._empty = asyncio.Event()
        self._woken = False
        self._closing: asyncio.Task[None] | None = None
        self._deadline: BootNs | None = None
        self._close_after = BootNs(0)
        self._store_waits = False
        self._told_active = False
        self._told_good = True
        self._dated = False
        self._pending = False
        self._why = "not started yet"
        self._refused = ""
        """What the platform answered to the last login, where that was no success."""
        ledger.open("uplink", self._name)

    # -- what the others see -----------------------------------------------------------------

    async def run(self) -> None:
        """Send until cancelled. Nothing that a platform, the link or the spool does ends it."""
        self._loop = asyncio.get_running_loop()
        self._begin()
        told = ""
        try:
            while True:
                try:
                    await self._round()
                except Exception as e:  # noqa: BLE001  logged, but not twice
                    if told != repr(e):  # a defect; what is in the spool is still there
                        told = repr(e)
                        _log.exception("uplink %s: the sender failed", self._name)
                    self._unlink("a defect of this program")
                    await asyncio.sleep(_DEFECT_S)
                    self._begin()
                await self._wait()
        finally:
            self._loop = None
            self._session.handle(Stop(), self._clock.boot(), self._dates.now())
            self._unlink("the agent ends", politely=False)
            await self._channel.close()

    def offer(self, reports: Reports) -> None:
        """Reports that the spool has taken; without rows: the vehicle is off. From any thread."""
        self._feed.offer(reports)
        self._notify()

    def wake(self) -> None:
        """Something new waits in the outbox. From any thread."""
        self._woken = True
        self._notify()

    def _notify(self) -> None:
        if (loop := self._loop) is None:
            return  # run() looks before it waits
        try:
            loop.call_soon_threadsafe(self._new.set)
        except RuntimeError:
            return  # the loop has ended meanwhile, and the sender with it

    @property
    def idle(self) -> bool:
        """Whether nothing waits for this platform. Touches no disk."""
        return not self._woken and self.waiting == 0

    @property
    def waiting(self) -> int:
        """How many batches wait."""
        return self._outbox.waiting()[0]

    async def drained(self) -> None:
        """Wait until nothing waits for this platform: for a while only, at the end."""
        while not self.idle:
            self._empty.clear()
            await self._empty.wait()

    @property
    def state(self) -> PlatformStatus:
        """How this uplink is, and why."""
        fates = self._reissue.counts
        platform = self._tally.platform(
            self._session.link.value,
            self._state.serial.serial,
            fates,
            unsigned=self._desk.failures,
            spoilt=self._channel.spoilt,
            trouble=self._desk.trouble or self._card.trouble or self._reissue.trouble,
        )
        return self._tally.status(
            self._name,
            self._url,
            self._standing(),
            credential=self._channel.notice,
            batches=fates,
            platform=platform,
            now=self._clock.boot(),
        )

    def _standing(self) -> tuple[Standing, str, BootNs | None]:
        link = self._session.link
        if link is Link.ONLINE:
            return ("sending" if self.waiting else "idle"), "online", None
        if link in (Link.OFF, Link.STOPPED, Link.LEAVING) and not self.waiting:
            return "idle", "nothing waits", None
        if not self._dates.good and self._dates.offset is None and link is Link.OFF:
            return "waiting", "the time is not known yet", None
        why = self._refused or self._why
        return "waiting", why, self._deadline if link is Link.DOWN else None

    # -- the loop ----------------------------------------------------------------------------

    def _new_session(self) -> Session:
        session = Session(
            self._session_settings,
            self._random,
            serial=self._state.serial,
            parameters=self._state.parameters,
        )
        if self._state.parameters:
            self._tune(session)
        return session

    def _begin(self) -> None:
        """A session from what is kept; what was offered before this moment is not live any more."""
        self._session = self._new_session()
        self._told_active, self._told_good = False, True
        self._deadline = None
        self._feed.begin()
        self._store_waits = True
        self._reissue.look_again()

    async def _round(self) -> None:
        self._new.clear()
        await self._mind_clock()
        while (what := self._channel.take()) is not None:
            await self._take(what)
        for report in self._feed.take(online=self._session.link is Link.ONLINE):
            await self._handle(Live(report))
        now = self._clock.boot()
        if self._feed.due(now) or self._woken:
            self._woken = False
            self._store_waits = True
        if self._allowed:
            await self._tell()
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            await self._carry_out(self._session.tick(now, self._dates.now()))
        self._tidy(now)

    async def _wait(self) -> None:
        now = self._clock.boot()
        end = now + _LOOK_NS
        if self._pending:
            end = now + _STUCK_NS
        for each in (self._deadline, self._feed.again):
            if each is not None:
                end = min(end, each)
        try:
            async with asyncio.timeout(max(_SHORTEST_S, (end - now) / SECOND)):
                await self._new.wait()
        except TimeoutError:
            return

    @property
    def _allowed(self) -> bool:
        """Whether a login makes sense: there is a time for it, or the platform tells it."""
        return self._written.time_sync or self._dates.offset is not None

    async def _tell(self) -> None:
        if self._feed.active != self._told_active:
            self._told_active = self._feed.active
            await self._handle(Active(self._told_active))
        if self._store_waits:
            self._store_waits = False
            if await self._reissue.owes():
                await self._handle(StoreWaits())

    async def _mind_clock(self) -> None:
        if (certain := self._dates.certain) is not None:
            await self._keep_clock(certain)
        good = self._dates.good
        if self._written.time_sync and good != self._told_good:
            self._told_good = good
            await self._handle(ClockQuality(good))
        dated, self._dated = self._dated, self._dates.offset is not None
        if self._dated and not dated:
            self._look_back()

    async def _keep_clock(self, offset: int) -> None:
        known = self._state.clock(self._clock.boot_id)
        if known is None or abs(known - offset) >= SECOND:
            await asyncio.to_thread(self._state.keep_clock, self._clock.boot_id, offset)

    def _look_back(self) -> None:
        """What could not go out may go now."""
        self._reissue.look_again()
        self._store_waits = True
        self._seal()

    def _tidy(self, now: BootNs) -> None:
        self._pending = self._channel.look()
        if self._reissue.settled and self._closing is None and now >= self._close_after:
            self._closing = self._channel.beside(self._close_settled())
        if self.idle:
            self._empty.set()

    async def _close_settled(self) -> None:
        try:
            if await self._reissue.close():
                self._store_waits = True
        except (AgentError, OSError) as e:
            self._close_after = BootNs(self._clock.boot() + _DISK_NS)
            self._voice.trouble("spool", f"the spool does not work: {e}")
        finally:
            self._closing = None
            self._new.set()

    # -- events and actions ------------------------------------------------------------------

    async def _handle(self, event: Event) -> None:
        await self._carry_out(self._session.handle(event, self._clock.boot(), self._dates.now()))

    async def _carry_out(self, actions: list[Action]) -> None:
        for action in actions:
            await self._do(action)

    async def _do(self, action: Action) -> None:
        match action:
            case SetTimer(at):
                self._deadline = at
            case Confirmed(report):
                self._tally.success = self._clock.boot()
                self._voice.well()
                self._reissue.settle(report.key, Fate.CONFIRMED)
            case Dropped(report, reason):
                self._reissue.settle(report.key, _FATES[reason])
            case Fetch(limit):
                self._feed.lend(limit)
            case Connect():
                self._channel.open()
            case Close(why):
                self._unlink(why)
                if self._session.link is not Link.OFF:
                    self._voice.trouble("link", f"the link was closed: {why}")
            case KeepSerial(state):
                await asyncio.to_thread(self._state.keep_serial, state)
            case KeepParameters(values):
                await asyncio.to_thread(self._state.keep_parameters, dict(values))
                self._tune(self._session)
            case ClockTold(time):
                await self._clock_told(time)
            case _:
                await self._speaker.say(action)

    async def _clock_told(self, time: WallNs) -> None:
        await self._keep_clock(time - self._clock.boot())
        if not self._dated:
            _log.info("uplink %s: the platform told the time", self._name)
        self._dated = True
        self._look_back()

    def _tune(self, session: Session) -> None:
        # An alarm is reported each second whatever the platform sets: that is the most it may.
        self._tuning.report_s = min(session.parameters.report_ms / 1000, 30.0)

    # -- the connection ----------------------------------------------------------------------

    async def _take(self, what: Event | Frame | Ended) -> None:
        if isinstance(what, Ended):
            await self._lost(str(what))
            return
        if isinstance(what, Frame):
            event, wrong = self._words.event(what)
            if wrong:
                self._tally.bad_frames += 1
                _log.debug("uplink %s: a frame %s", self._name, wrong)
            if event is None:
                return
            if isinstance(event, Answered):
                self._answered(event)
            what = event
        if isinstance(what, Lent):
            still = self._feed.still(what)
            # Empty would mean that nothing more waits.
            self._store_waits |= bool(what.reports) and not still.reports
            what = still
        await self._handle(what)

    def _answered(self, answer: Answered) -> None:
        told = f"{answer.command.value}: {answer.result.value}"
        tally = self._tally
        tally.answers[told] += 1
        tally.last_answer, tally.answered = told, self._clock.boot()
        if answer.command is not Command.LOGIN:
            return
        if answer.result is Result.OK:
            self._logged_in()
        else:
            self._refused = f"answered {told}"
            self._voice.trouble(told, f"the platform {self._refused}")

    def _logged_in(self) -> None:
        self._tally.success = self._clock.boot()
        self._voice.up()
        self._why, self._refused = "online", ""
        # What could not go out live is in an open batch.
        self._seal()
        self._store_waits = True

    async def _lost(self, why: str) -> None:
        self._unlink(why)
        self._refused = ""
        self._voice.trouble("link", f"no link: {why}")
        await self._handle(Lost())

    def _unlink(self, why: str, *, politely: bool = True) -> None:
        """There is no connection any more."""
        self._why = why
        self._channel.end(politely=politely)
        self._feed.ended()
        self._store_waits = True
