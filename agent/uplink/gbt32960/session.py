"""The terminal's session to one GB/T 32960 platform, as a pure state machine of both editions.

Events and times go in, actions come out (session_types.py); there is no socket, no clock and no
byte in it. The caller carries out the actions in their order before it hands in the next event,
and calls `tick` when the time of the last `SetTimer` has come.

    OFF --wanted--> DOWN --Connect--> CONNECTING --connected--> LOGIN --ok--> ONLINE
     ^               ^                    |                       |             |
     |               +------ lost --------+------- lost ----------+--- lost ----+
     +---- logout ok, or no answer ---- LEAVING <------- not wanted any more ---+

A connection is wanted while the vehicle is awake (`Active`) and as long as the store waits.

**Login** goes out as soon as there is a connection, and nothing before it is answered. Without an
answer it is repeated, with the next serial; after three tries the connection is closed for 30 min.
A refused login (a bad one, a duplicate VIN) is a try like any other. A platform that closes the
connection at each login is not asked faster for that.

**Reports** (session_reports.py): a live report goes out at once or is left to the store, which has
every report anyway. What waits in the store is lent to the session and goes out in the gaps. A
report is remembered until the platform has it; when the connection ends first, it is forgotten and
lent again later. So a report arrives once or more.

**Heartbeat**: one at a time. One that is not answered in time ends the connection, unless the
platform answered a report that went out after it. An early one asks for an answer when many
reissues are unconfirmed, when there are no more of them, and before a logout. That is also what
holds back a sender that is faster than the link.

**Retries used up**: the table of the standard has the terminal drop the link then. A report that
was refused to the end is given up, so that it cannot block the rest, and the link is dropped with
it, once in `refused_close_s` at most: a fresh login may help a platform that has lost its mind, but
one that refuses many reports shall not cost a login each.

**Back-off**: 0.5 to 1 of a step that doubles; it begins anew when reports are confirmed, or when a
heartbeat is answered on a connection that stood for the longest step.

Memory: `most_unconfirmed` reports, `fetch` lent ones, and as many counts of failures as the former.
"""

from collections.abc import Callable, Mapping
from typing import Final

from agent.clock import SECOND, BootNs, WallNs
from agent.uplink.gbt32960.session_core import Core, Timer
from agent.uplink.gbt32960.session_parameters import CommandDesk, Parameters
from agent.uplink.gbt32960.session_reports import SessionReports
from agent.uplink.gbt32960.session_settings import SessionSettings
from agent.uplink.gbt32960.session_types import (
    Action,
    Active,
    Answered,
    BatterySwapped,
    ClockQuality,
    ClockTold,
    Close,
    Command,
    Connect,
    Connected,
    Control,
    Edition,
    Event,
    KeepSerial,
    Lent,
    Link,
    Live,
    Lost,
    Query,
    Result,
    SendHeartbeat,
    SendLogin,
    SendLogout,
    SendTimeSync,
    SerialState,
    SetParameters,
    SetTimer,
    Stop,
    StoreWaits,
)

MOST_SERIAL: Final = 65_531
_DAY_S: Final = 86_400
_BEIJING_S: Final = 8 * 3600


class Session:
    """One platform. It begins inactive, and with a good clock.

    Args:
        settings: of this platform.
        random: numbers in [0, 1), so that a fleet does not come back in one moment.
        serial: as last kept.
        parameters: as last kept, raw by id.
    """

    def __init__(
        self,
        settings: SessionSettings,
        random: Callable[[], float],
        *,
        serial: SerialState | None = None,
        parameters: Mapping[int, int] | None = None,
    ) -> None:
        self._settings = settings
        self._random = random
        self._serial = serial or SerialState()
        self._parameters = Parameters(settings, parameters)
        self._core = Core()
        self._counts = self._core.counts
        self._desk = CommandDesk(settings, self._parameters, self._counts)
        self._reports = SessionReports(settings, self._core)
        self._link = Link.OFF
        self._active = False
        self._tries = 0
        self._steps = 0
        self._not_before = 0
        """No login before this time."""
        self._left_at: int | None = None
        """When it last logged out."""
        self._online_at = 0
        self._heartbeat_at = 0
        self._refused_close_at: int | None = None
        self._told: int | None = None

    @property
    def link(self) -> Link:
        """How it stands."""
        return self._link

    @property
    def parameters(self) -> Parameters:
        """What the platform may have changed."""
        return self._parameters

    @property
    def held(self) -> int:
        """How many reports are in memory; the store has them all."""
        return self._reports.held

    @property
    def unconfirmed(self) -> int:
        """How many of them went out, and their fate is not known."""
        return self._reports.unconfirmed

    @property
    def counts(self) -> Mapping[str, int]:
        """What was counted since the beginning, by name; what never happened is left out."""
        return dict(self._counts)

    def handle(self, event: Event, now: BootNs, wall: WallNs) -> list[Action]:
        """Something has happened; gives what is to be done."""
        self._core.now, self._core.wall = now, wall
        if self._link is not Link.STOPPED:
            self._take(event)
        return self._finish()

    def tick(self, now: BootNs, wall: WallNs) -> list[Action]:
        """Time has passed; gives what is to be done. Any time will do, a late one too."""
        self._core.now, self._core.wall = now, wall
        self._told = -1
        return self._finish()

    def _take(self, event: Event) -> None:
        match event:
            case Live(report):
                self._reports.live(report)
            case Lent(reports):
                self._reports.lent(reports)
            case Answered():
                self._answered(event)
            case Query() | SetParameters() | Control():
                self._commanded(event)
            case Connected():
                self._connected()
            case Lost():
                self._ended(broke=True)
            case StoreWaits():
                self._reports.store_waits()
            case Active(active):
                if active and not self._active and self._link is Link.DOWN and not self._steps:
                    self._reconnect(self._core.now)
                self._active = active
            case ClockQuality(good):
                self._clock(good=good)
            case BatterySwapped():
                if self._settings.edition is Edition.E2025 and self._link is Link.ONLINE:
                    self._counts["battery_swaps"] += 1
                    self._leave()
            case Stop():
                self._stop()

    def _finish(self) -> list[Action]:
        self._run_timers()
        self._look()
        self._run_timers()
        first = self._core.first
        if first != self._told:
            self._told = first
            self._core.out.append(SetTimer(first))
        out, self._core.out = self._core.out, []
        return out

    def _look(self) -> None:
        """What the present state of things asks for."""
        match self._link:
            case Link.ONLINE:
                at = self._reports.pump(hurry=not self._active)
                if at is not None:
                    self._plan_heartbeat(at)
                elif not self._active and self._reports.settled:
                    self._leave()
            case Link.OFF if self._wanted:
                connect_at: int = self._core.now
                if self._left_at is not None and not self._active:
                    # A store that has something every now and then is not worth a login each time.
                    connect_at = max(
                        connect_at, self._left_at + self._settings.reconnect_most_s * SECOND
                    )
                self._reconnect(connect_at)
            case Link.DOWN | Link.CONNECTING | Link.LOGIN if not self._wanted:
                if self._link is not Link.DOWN:
                    self._core.out.append(Close("the vehicle is off, and nothing waits"))
                self._go(Link.OFF)
                self._core.disarm()

    @property
    def _wanted(self) -> bool:
        return self._active or self._reports.waiting

    def _go(self, link: Link) -> None:
        self._link = link
        self._core.online = link is Link.ONLINE

    def _run_timers(self) -> None:
        for timer in self._core.due():
            self._expired(timer)

    def _expired(self, timer: Timer) -> None:
        match timer:
            case Timer.CONNECT:
                self._go(Link.CONNECTING)
                self._core.arm(
                    Timer.CONNECT_LATE,
                    self._core.now + self._settings.connect_timeout_s * SECOND,
                )
                self._core.out.append(Connect())
            case Timer.CONNECT_LATE:
                self._drop("no connection in time")
            case Timer.LOGIN:
                if self._tries < self._settings.login_tries:
                    self._login()
                else:
                    self._drop("no login was answered well")
            case Timer.HEARTBEAT:
                self._heartbeat()
            case Timer.HEARTBEAT_LATE:
                self._counts["heartbeats_unanswered"] += 1
                if self._settings.heartbeats_answered and not self._reports.mark_read:
                    self._drop("no answer to a heartbeat")
                else:
                    self._read()
            case Timer.TIME_SYNC:
                self._time_sync()
            case Timer.REISSUE:
                self._reports.reissue()
            case Timer.AGAIN:
                self._reports.again()
            case Timer.LEAVE:
                self._counts["logouts_unanswered"] += 1
                self._drop("no answer to the logout")

    # ---- the connection

    def _reconnect(self, at: int) -> None:
        self._go(Link.DOWN)
        self._core.arm(Timer.CONNECT, max(at, self._not_before))

    def _connected(self) -> None:
        if self._link is Link.CONNECTING:
            self._core.arm(Timer.CONNECT_LATE, None)
            self._login()
        else:
            self._counts["stray"] += 1

    def _drop(self, why: str) -> None:
        self._core.out.append(Close(why))
        self._ended(broke=False)

    def _ended(self, *, broke: bool) -> None:
        """There is no connection any more; a new one is planned, if one is wanted."""
        link = self._link
        if link in (Link.OFF, Link.DOWN):
            self._counts["stray"] += 1
            return
        self._core.disarm()
        self._reports.end(broke=broke)
        if link is Link.LEAVING:
            self._left_at = self._core.now
            self._go(Link.OFF)
        elif link is Link.LOGIN and self._tries >= self._settings.login_tries:
            self._tries = 0
            self._counts["login_pauses"] += 1
            self._not_before = self._core.now + self._parameters.login_pause_s * SECOND
            self._reconnect(self._core.now)
        else:
            self._counts["lost_connections"] += 1
            self._reconnect(self._core.now + self._back_off_ns())

    def _back_off_ns(self) -> int:
        settings = self._settings
        step = min(settings.reconnect_s << min(self._steps, 16), settings.reconnect_most_s)
        self._steps += 1
        return round(step * (0.5 + 0.5 * self._random()) * SECOND)

    def _leave(self) -> None:
        self._go(Link.LEAVING)
        self._core.disarm()
        self._core.out.append(SendLogout(self._core.wall, self._serial.serial))
        self._reports.mark()
        self._core.arm(Timer.LEAVE, self._core.now + self._parameters.answer_timeout_s * SECOND)

    def _stop(self) -> None:
        if self._link not in (Link.OFF, Link.DOWN):
            self._core.out.append(Close("the agent ends"))
        self._reports.end(broke=False)
        self._core.disarm()
        self._go(Link.STOPPED)

    # ---- commands of the terminal and their answers

    def _login(self) -> None:
        self._go(Link.LOGIN)
        self._tries += 1
        day = (self._core.wall // SECOND + _BEIJING_S) // _DAY_S
        goes_on = self._serial.day == day and self._serial.serial < MOST_SERIAL
        self._serial = SerialState(day, self._serial.serial + 1 if goes_on else 1)
        self._not_before = self._core.now + self._settings.login_retry_s * SECOND
        self._core.arm(Timer.LOGIN, self._not_before)
        self._core.out += [
            KeepSerial(self._serial),
            SendLogin(self._core.wall, self._serial.serial),
        ]

    def _heartbeat(self) -> None:
        self._heartbeat_at = self._core.now
        self._reports.mark()
        late = self._core.now + self._parameters.answer_timeout_s * SECOND
        self._core.arm(Timer.HEARTBEAT_LATE, late)
        self._core.out.append(SendHeartbeat())

    def _plan_heartbeat(self, early: int | None = None) -> None:
        if self._core.armed(Timer.HEARTBEAT_LATE):
            return
        at = self._heartbeat_at + self._parameters.heartbeat_s * SECOND
        if early is not None:
            at = min(at, early)
        self._core.arm(Timer.HEARTBEAT, max(at, self._core.now))

    def _read(self) -> None:
        """The platform has read all that went out before the last heartbeat."""
        self._core.arm(Timer.HEARTBEAT_LATE, None)
        stood = self._core.now - self._online_at >= self._settings.reconnect_most_s * SECOND
        if self._reports.confirm() or stood:
            self._steps = 0
        self._plan_heartbeat()

    def _time_sync(self) -> None:
        self._core.arm(Timer.TIME_SYNC, self._core.now + self._settings.time_sync_retry_s * SECOND)
        self._core.out.append(SendTimeSync())

    def _ask_time(self) -> None:
        if self._settings.time_sync and not self._core.armed(Timer.TIME_SYNC):
            self._time_sync()

    def _clock(self, *, good: bool) -> None:
        self._core.clock_good = good
        if good:
            self._core.arm(Timer.TIME_SYNC, None)
        elif self._link is Link.ONLINE:
            self._ask_time()

    def _answered(self, answer: Answered) -> None:
        ok = answer.result is Result.OK
        match answer.command, self._link:
            case Command.LOGIN, Link.LOGIN if ok:
                self._logged_in()
            case Command.LOGIN, Link.LOGIN:
                self._counts["logins_refused"] += 1
                if answer.result is Result.DUPLICATE_VIN:
                    self._counts["duplicate_vin"] += 1
            case Command.HEARTBEAT, Link.ONLINE if self._core.armed(Timer.HEARTBEAT_LATE):
                if ok:
                    self._read()
                else:
                    # It does not know this vehicle any more: only a login can help.
                    self._counts["heartbeats_refused"] += 1
                    self._drop("the platform refused a heartbeat")
            case Command.LOGOUT, Link.LEAVING:
                if ok:
                    self._reports.confirm()
                self._drop("logged out")
            case Command.TIME_SYNC, Link.ONLINE if self._core.armed(Timer.TIME_SYNC):
                if ok and answer.time is not None:
                    self._core.out.append(ClockTold(answer.time))
                    again = self._core.now + self._settings.time_sync_period_s * SECOND
                    self._core.arm(Timer.TIME_SYNC, again)
            case ((Command.REALTIME | Command.REISSUE), (Link.ONLINE | Link.LEAVING)):
                if self._reports.answered(answer):
                    self._given_up()
            case _:
                self._counts["stray"] += 1

    def _logged_in(self) -> None:
        self._go(Link.ONLINE)
        self._online_at = self._core.now
        self._tries = 0
        self._not_before = 0
        self._core.arm(Timer.LOGIN, None)
        self._counts["logins"] += 1
        self._heartbeat_at = self._core.now
        self._plan_heartbeat()
        self._reports.logged_in()
        if not self._core.clock_good:
            self._ask_time()

    def _given_up(self) -> None:
        """A report was refused to the end."""
        last, now = self._refused_close_at, self._core.now
        if self._link is not Link.ONLINE:
            return
        if last is None or now - last >= self._settings.refused_close_s * SECOND:
            self._refused_close_at = now
            self._drop("a report was refused each time")

    def _commanded(self, event: Query | SetParameters | Control) -> None:
        if self._link is not Link.ONLINE:
            self._counts["stray"] += 1
            return
        self._core.out += self._desk.answer(event, self._core.now)
        self._plan_heartbeat()
