"""A driver, a store and a platform around one session, on a simulated clock.

The driver carries out actions as the contract of session_types.py says it, and checks on the way
what holds whatever happens:

* nothing but a login goes out before a login was answered well on this connection,
* a report that is lent or goes out has one fate at most, and none after the connection has ended,
* one report is not under way twice,
* live reports go out in their order, and so do lent ones that were not refused before,
* while the link is good and something waits, there is a timer or an answer to come,
* what is in memory stays within the settings.
"""

import dataclasses
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from agent.clock import SECOND, BootNs, WallNs
from agent.uplink.gbt32960.session import Session
from agent.uplink.gbt32960.session_settings import SessionSettings
from agent.uplink.gbt32960.session_types import (
    Action,
    Active,
    Answered,
    ClockTold,
    Close,
    Command,
    Confirmed,
    Connect,
    Connected,
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
    Report,
    Result,
    SendHeartbeat,
    SendLogin,
    SendLogout,
    SendRealtime,
    SendReissue,
    SendReply,
    SendTimeSync,
    SerialState,
    SetTimer,
    StoreWaits,
)

NOON: Final = WallNs(1_772_337_600 * SECOND)
"""2026-03-01 12:00:00 in Beijing."""


@dataclasses.dataclass(frozen=True)
class Style:
    """How a platform answers a command."""

    result: Result | None
    """None: never."""
    time: bool = True
    """Whether the answer repeats the time."""


ECHO: Final = Style(Result.OK)
TIME_ONLY: Final = Style(Result.OK)
EMPTY: Final = Style(Result.OK, time=False)
ERROR: Final = Style(Result.ERROR)
EMPTY_ERROR: Final = Style(Result.ERROR, time=False)
DUPLICATE: Final = Style(Result.DUPLICATE_VIN)
NEVER: Final = Style(None)


class Platform:
    """What the other side does. The standard's own manners, where a test does not change them."""

    def __init__(self) -> None:
        self.styles = dict.fromkeys(Command, ECHO)
        self.styles[Command.REALTIME] = self.styles[Command.REISSUE] = NEVER
        self.accepts = True
        self.reachable = True
        """False: a connection neither comes up nor fails."""
        self.refuses: Callable[[Report], bool] = lambda _: False
        """Reports that are answered with an error."""
        self.breaks_at: Callable[[Report], bool] = lambda _: False
        """Reports at which the connection is closed."""
        self.latency_s = 0.05
        self.stands_s: float | None = None
        """The link breaks so long after each login."""

    def style(self, command: Command, report: Report | None) -> Style:
        if report is not None and self.refuses(report):
            return ERROR
        return self.styles[command]


class World:
    """One session and what is around it; `log` has each action and when it came."""

    def __init__(
        self,
        settings: SessionSettings | None = None,
        *,
        random: Callable[[], float] = lambda: 1.0,
        serial: SerialState | None = None,
        parameters: Mapping[int, int] | None = None,
        wall: int = NOON,
    ) -> None:
        self.settings = settings or SessionSettings()
        self.session = Session(self.settings, random, serial=serial, parameters=parameters)
        self.platform = Platform()
        self.now = 1000 * SECOND
        self.began = self.now
        self.wall_offset = wall - self.now
        self.log: list[tuple[float, Action]] = []
        self.fates: dict[int, Confirmed | Dropped] = {}
        self.arrived: list[tuple[Command, Report]] = []
        self.keys = itertools.count(1)
        self.store: list[Report] = []
        self._cursor = 0
        self._queue: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._connection = 0
        self._logged_in = False
        self._timer: int | None = None
        self._under_way: set[int] = set()
        self._lent: set[int] = set()
        self._to_come = 0
        self._newest: dict[type, int] = {}
        self._failed: set[int] = set()
        self._period: float | None = None

    # ---- what a test does and asks

    @property
    def wall(self) -> WallNs:
        return WallNs(self.now + self.wall_offset)

    @property
    def time(self) -> float:
        """Seconds since the beginning."""
        return (self.now - self.began) / SECOND

    def at(self, link: Link) -> bool:
        """Whether the session stands so."""
        return self.session.link is link

    def tell(self, event: Event) -> list[Action]:
        if isinstance(event, Answered) and event.result is not Result.OK:
            # Which one was refused the session knows, or guesses: each of them may go out again.
            self._failed |= self._under_way
            self._lent |= self._under_way
            self._under_way.clear()
        actions = self.session.handle(event, BootNs(self.now), self.wall)
        self._carry_out(actions)
        return actions

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + round(seconds * SECOND)
        while True:
            due = self._queue[0][0] if self._queue else end + 1
            timer = end + 1 if self._timer is None else max(self._timer, self.now)
            if min(due, timer) > end:
                break
            if due <= timer:
                self.now = max(self.now, due)
                heapq.heappop(self._queue)[2]()
            else:
                self.now, self._timer = timer, None
                self._carry_out(self.session.tick(BootNs(self.now), self.wall))
        self.now = end

    def online(self) -> None:
        """The vehicle is awake, and logged in."""
        self.tell(Active(active=True))
        self.run(1)
        assert self.session.link is Link.ONLINE

    def make(self, *, live: bool = True, wall: int | None = None) -> Report:
        """A report is made and stored, and offered while it is live."""
        report = Report(next(self.keys), WallNs(self.wall if wall is None else wall))
        self.store.append(report)
        if live:
            self.tell(Live(report))
        return report

    def make_stored(self, count: int) -> list[Report]:
        """Reports of earlier, a second apart."""
        first = self.wall - count * SECOND
        made = [self.make(live=False, wall=first + i * SECOND) for i in range(count)]
        self.tell(StoreWaits())
        return made

    def drive(self, period_s: float | None) -> None:
        """Make a report each period from now on; None: no more."""
        if self._period is None and period_s is not None:
            self._at(period_s, self._driven)
        self._period = period_s

    def cut(self) -> None:
        """The connection breaks."""
        if self._connected:
            under_way = self._under_way | (self._lent & self._failed)
            self._end()
            # This moment is the last one for a fate of what was under way.
            self._under_way = under_way
            self.tell(Lost())
            self._under_way.clear()

    def sent(self, *kinds: type) -> list[tuple[float, Action]]:
        """What went out, or was done, of these kinds of actions."""
        return [(at, action) for at, action in self.log if isinstance(action, kinds)]

    def times(self, *kinds: type) -> list[float]:
        """When that was, to a tenth of a second."""
        return [round(at, 1) for at, _ in self.sent(*kinds)]

    def keys_sent(self, *kinds: type) -> list[int]:
        """The keys of reports that went out."""
        actions = (action for _, action in self.sent(*kinds))
        return [a.report.key for a in actions if isinstance(a, SendRealtime | SendReissue)]

    def confirmed(self) -> set[int]:
        return {key for key, fate in self.fates.items() if isinstance(fate, Confirmed)}

    def dropped(self) -> dict[int, Reason]:
        return {key: f.reason for key, f in self.fates.items() if isinstance(f, Dropped)}

    @property
    def waiting(self) -> list[Report]:
        """What the store still has."""
        return [r for r in self.store if r.key not in self.fates]

    # ---- the driver

    def _driven(self) -> None:
        if self._period is not None:
            self.make()
            self.tell(StoreWaits())
            self._at(self._period, self._driven)

    def _at(self, after_s: float, what: Callable[[], None]) -> None:
        at = self.now + round(after_s * SECOND)
        heapq.heappush(self._queue, (at, next(self._order), what))

    @property
    def _connected(self) -> bool:
        return self.session.link in (Link.LOGIN, Link.ONLINE, Link.LEAVING)

    def _carry_out(self, actions: Iterable[Action]) -> None:
        for action in actions:
            self.log.append((self.time, action))
            self._do(action)
        self._check()

    def _do(self, action: Action) -> None:
        match action:
            case SetTimer(at):
                self._timer = at
            case Connect():
                self._connect()
            case Close():
                self._end()
            case Fetch(limit):
                self._later(0.01, lambda: self.tell(Lent(self._lend(limit))))
            case Confirmed(report) | Dropped(report):
                assert report.key not in self.fates
                assert report.key in self._under_way | self._lent
                self._under_way.discard(report.key)
                self._lent.discard(report.key)
                self.fates[report.key] = action
            case SendLogin(time):
                self._say(Command.LOGIN, time)
            case SendLogout(time):
                self._say(Command.LOGOUT, time)
            case SendHeartbeat():
                self._say(Command.HEARTBEAT, None)
            case SendTimeSync():
                self._say(Command.TIME_SYNC, self.wall)
            case SendRealtime(report):
                self._send(Command.REALTIME, report, SendRealtime)
            case SendReissue(report):
                assert report.key in self._lent | self._failed
                self._send(Command.REISSUE, report, SendReissue)
            case SendReply():
                assert self._logged_in
            case KeepSerial() | KeepParameters() | ClockTold():
                pass

    def _connect(self) -> None:
        self._end()
        up = self.platform.accepts
        if self.platform.reachable:
            self._later(0.05, lambda: self.tell(Connected() if up else Lost()))

    def _end(self) -> None:
        self._connection += 1
        self._logged_in = False
        self._cursor = 0
        self._to_come = 0
        self._under_way.clear()
        self._lent.clear()
        self._failed.clear()
        self._newest.clear()

    def _later(self, after_s: float, what: Callable[[], object]) -> None:
        """Something that comes to nothing when the connection ends before."""
        connection = self._connection
        self._to_come += 1

        def do() -> None:
            if self._connection == connection:
                self._to_come -= 1
                what()

        self._at(after_s, do)

    def _lend(self, limit: int) -> tuple[Report, ...]:
        lent: list[Report] = []
        while self._cursor < len(self.store) and len(lent) < limit:
            report = self.store[self._cursor]
            self._cursor += 1
            if report.key not in self.fates:
                lent.append(report)
                self._lent.add(report.key)
        return tuple(lent)

    def _send(self, command: Command, report: Report, kind: type) -> None:
        assert report.key not in self._under_way
        assert report.key not in self.fates
        self._under_way.add(report.key)
        self._lent.discard(report.key)
        if report.key not in self._failed:
            assert report.key > self._newest.get(kind, 0)
            self._newest[kind] = report.key
        self.arrived.append((command, report))
        if self.platform.breaks_at(report):
            assert self._logged_in
            self._later(self.platform.latency_s, self.cut)
            return
        self._say(command, report.wall, report)

    def _say(self, command: Command, time: WallNs | None, report: Report | None = None) -> None:
        assert self._connected
        assert self._logged_in or command is Command.LOGIN
        style = self.platform.style(command, report)
        if style.result is None:
            return
        answer = Answered(command, style.result, time if style.time else None)

        def arrive() -> None:
            if command is Command.LOGIN and style.result is Result.OK:
                self._logged_in = True
                if self.platform.stands_s is not None:
                    self._later(self.platform.stands_s, self.cut)
            self.tell(answer)

        self._later(self.platform.latency_s, arrive)

    def _check(self) -> None:
        session, settings = self.session, self.settings
        assert session.held <= settings.most_unconfirmed + 2 * settings.fetch
        online = session.link is Link.ONLINE
        if online and (session.held or self._cursor < len(self.store)):
            assert self._timer is not None or self._to_come
        if session.link not in (Link.OFF, Link.STOPPED):
            assert self._timer is not None


def counted(world: World) -> Counter[str]:
    return Counter(world.session.counts)
