"""The reports of a session: live, sent and not confirmed, refused, lent for reissue.

**Confirmed.** A report that is right has no answer in the standard. A connection keeps its order,
so the answer to a heartbeat shows that the platform has read all that was sent before that
heartbeat: these reports are confirmed, less those that were refused. A platform that answers a
report with its time confirms that one. An answer without a time confirms nothing, as nobody knows
which one it is for.

**Refused.** It goes out again after a while, by the same command, and is given up after some times;
the times are counted over connections. Where the refusal has no time in it, it is the last report
of that command or, at a platform that answers each one, the oldest without an answer.

**Lent.** Lent reports go out singly after a silence, so a live report never waits for more than
one. A window of them may be unconfirmed (session_window.py).
"""

import dataclasses
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator
from typing import Final

from agent.clock import MILLISECOND, SECOND, BootNs, WallNs
from agent.uplink.gbt32960.session_core import Core, Timer
from agent.uplink.gbt32960.session_settings import SessionSettings
from agent.uplink.gbt32960.session_types import (
    Answered,
    Command,
    Confirmed,
    Dropped,
    Fetch,
    Reason,
    Report,
    Result,
    SendRealtime,
    SendReissue,
)
from agent.uplink.gbt32960.session_window import ReissueWindow

_DAY_NS: Final = 86_400 * SECOND
_EARLY_NS: Final = SECOND
"""Between a heartbeat and an early one."""


@dataclasses.dataclass(slots=True, eq=False)
class _Sent:
    report: Report
    command: Command
    number: int
    answered: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class _Refused:
    report: Report
    command: Command
    again: BootNs


class _Failures:
    """How often each of some reports has failed; the one that failed longest ago is forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: OrderedDict[int, int] = OrderedDict()

    def count(self, key: int) -> int:
        count = self._counts.pop(key, 0) + 1
        self._counts[key] = count
        if len(self._counts) > self._most:
            self._counts.popitem(last=False)
        return count

    def forget(self, key: int) -> None:
        self._counts.pop(key, None)


class SentReports:
    """The reports of one connection whose fate is not known, in the order of sending."""

    def __init__(self) -> None:
        self._sent: deque[_Sent] = deque()
        self._refused: deque[_Refused] = deque()
        self._number = 0
        self._reissues = 0
        self._covers = 0
        self._read = 0
        self._answers_each = False

    def __len__(self) -> int:
        return len(self._sent) + len(self._refused)

    @property
    def under_way(self) -> int:
        """How many are on their way; the rest was refused and waits for its time."""
        return len(self._sent)

    @property
    def reissues(self) -> int:
        """How many of those under way are reissues."""
        return self._reissues

    @property
    def first(self) -> tuple[Report, Command] | None:
        """What is longest under way."""
        return (self._sent[0].report, self._sent[0].command) if self._sent else None

    @property
    def next_again(self) -> BootNs | None:
        """When the first refused one is to be sent again."""
        return self._refused[0].again if self._refused else None

    @property
    def mark_read(self) -> bool:
        """Whether the platform answered something that went out after the mark."""
        return self._read > self._covers

    def add(self, report: Report, command: Command) -> None:
        """It goes out."""
        self._number += 1
        self._reissues += command is Command.REISSUE
        self._sent.append(_Sent(report, command, self._number))

    def mark(self) -> None:
        """A heartbeat or a logout goes out: its answer will cover all that was sent by now."""
        self._covers = self._number

    def covered(self) -> Iterator[tuple[Report, Command]]:
        """The answer has come; gives what it confirms."""
        while self._sent and self._sent[0].number <= self._covers:
            yield self._take(self._sent[0])

    def accepted(self, command: Command, time: WallNs | None) -> tuple[Report, Command] | None:
        """A platform that answers right reports too: the one of this time, if there is one."""
        if time is None:
            self._answers_each = True
            if (oldest := self._unanswered(command)) is not None:
                oldest.answered = True
            return None
        found = self._of_time(command, time)
        if found is None:
            return None
        self._read = max(self._read, found.number)
        return self._take(found)

    def refused(self, command: Command, time: WallNs | None) -> Report | None:
        """The one that was refused, if it is known; it is not under way any more."""
        if time is not None:
            found = self._of_time(command, time)
        elif self._answers_each:
            found = self._unanswered(command)
        else:
            found = next((s for s in reversed(self._sent) if s.command is command), None)
        return None if found is None else self._take(found)[0]

    def take_first(self) -> Report:
        """Take out what is longest under way."""
        return self._take(self._sent[0])[0]

    def send_again(self, report: Report, command: Command, again: BootNs) -> None:
        """Keep what was refused until then."""
        self._refused.append(_Refused(report, command, again))

    def due_again(self, now: BootNs) -> Iterator[tuple[Report, Command]]:
        """Take out what is to be sent again by now."""
        while self._refused and self._refused[0].again <= now:
            refused = self._refused.popleft()
            yield refused.report, refused.command

    def _take(self, sent: _Sent) -> tuple[Report, Command]:
        self._sent.remove(sent)
        self._reissues -= sent.command is Command.REISSUE
        return sent.report, sent.command

    def _unanswered(self, command: Command) -> _Sent | None:
        return next((s for s in self._sent if s.command is command and not s.answered), None)

    def _of_time(self, command: Command, time: WallNs) -> _Sent | None:
        # A report carries whole seconds; of two of one second, the first is answered first.
        second = time // SECOND
        matching = (s for s in self._sent if s.command is command)
        return next((s for s in matching if s.report.wall // SECOND == second), None)


class SessionReports:
    """All reports that are in memory, and what becomes of them."""

    def __init__(self, settings: SessionSettings, core: Core) -> None:
        self._settings = settings
        self._core = core
        self._counts: Counter[str] = core.counts
        self._sent = SentReports()
        self._lent: deque[Report] = deque()
        self._keys: set[int] = set()
        self._refusals = _Failures(settings.most_unconfirmed)
        self._window = ReissueWindow(settings.reissue_window, settings.broken_tries)
        self._asked_at = 0
        self._waiting = False
        self._asked = False
        self._told_since = False

    @property
    def held(self) -> int:
        """How many are in memory."""
        return len(self._sent) + len(self._lent)

    @property
    def unconfirmed(self) -> int:
        """How many went out and have no fate yet."""
        return len(self._sent)

    @property
    def waiting(self) -> bool:
        """Whether the store has, or may have, something to lend."""
        return self._waiting

    @property
    def settled(self) -> bool:
        """Whether there is nothing left to send, to ask for or to wait for."""
        return not (self._waiting or self._asked or self._lent or len(self._sent))

    @property
    def mark_read(self) -> bool:
        """Whether the platform has shown that it read beyond the last heartbeat."""
        return self._sent.mark_read

    def logged_in(self) -> None:
        """A connection may be used."""
        self._asked_at = self._core.now
        self._window.begin(self._core.now)
        self.store_waits()

    def live(self, report: Report) -> None:
        """A new report: it goes out at once, or is left to the store."""
        if report.key in self._keys:
            return
        if self._core.online and len(self._sent) < self._settings.most_unconfirmed:
            self._keys.add(report.key)
            self._send(report, Command.REALTIME)
        else:
            self._counts["left_to_store"] += 1
            self.store_waits()

    def store_waits(self) -> None:
        """The store has something to lend."""
        self._waiting = self._told_since = True

    def lent(self, reports: tuple[Report, ...]) -> None:
        """The store lends these; none: it has no more than what it told of since the question."""
        if not self._core.online:
            self._counts["stray"] += 1
            return
        if not reports and self._asked:
            self._waiting = self._told_since
        self._asked = False
        new = {report.key: report for report in reports if report.key not in self._keys}
        self._keys.update(new)
        self._lent = deque(sorted([*self._lent, *new.values()], key=lambda r: r.key))

    def mark(self) -> None:
        """A heartbeat or a logout goes out; see `confirm`."""
        self._sent.mark()
        self._asked_at = self._core.now
        self._window.ask(self._core.now)

    def confirm(self) -> int:
        """Its answer has come. Gives how many reports it confirms."""
        self._window.answer(self._core.now)
        covered = list(self._sent.covered())
        for report, _ in covered:
            self._confirmed(report)
        self._widen(covered)
        return len(covered)

    def end(self, *, broke: bool) -> None:
        """The connection has ended: what has no fate is forgotten, and lies in the store."""
        if broke:
            self._blame()
        if left := self.held:
            self._counts["forgotten"] += left
            self._waiting = True
        self._sent = SentReports()
        self._lent.clear()
        self._keys.clear()
        self._asked = False

    def again(self) -> None:
        """Send what was refused a while ago."""
        for report, command in self._sent.due_again(self._core.now):
            self._send(report, command)
        self._core.arm(Timer.AGAIN, self._sent.next_again)

    def reissue(self) -> None:
        """Send the oldest one that was lent."""
        self._window.sent(self._core.now)
        self._send(self._lent.popleft(), Command.REISSUE)

    def answered(self, answer: Answered) -> bool:
        """A report was answered. Gives whether one was given up."""
        command, time = answer.command, answer.time
        if answer.result is Result.OK:
            # The standard has no such answer, but many platforms give it.
            if (accepted := self._sent.accepted(command, time)) is not None:
                self._confirmed(accepted[0])
                self._widen([accepted])
            return False
        self._counts["reports_refused"] += 1
        report = self._sent.refused(command, time)
        if report is None:
            self._counts["stray"] += 1
            return False
        if self._refusals.count(report.key) >= self._settings.report_tries:
            self._drop(report, Reason.REFUSED)
            return True
        again = BootNs(self._core.now + self._settings.report_retry_s * SECOND)
        self._sent.send_again(report, command, again)
        if self._core.online:
            self._core.arm(Timer.AGAIN, self._sent.next_again)
        return False

    def pump(self, *, hurry: bool) -> int | None:
        """Keep the reissue going: fetch, wait for silence. Gives when an answer is to be asked for.

        `hurry`: what is under way is to be confirmed soon, whatever it is.
        """
        core, sent = self._core, self._sent
        self._expire()
        window = self._window
        full = (
            sent.reissues >= window.size
            or len(sent) >= self._settings.most_unconfirmed // 2
            or (window.careful and sent.under_way > 0)
            or not window.proved
        )
        if self._lent and not full:
            if not core.armed(Timer.REISSUE):
                gap = self._settings.reissue_gap_ms * MILLISECOND
                core.arm(Timer.REISSUE, core.now + gap)
        else:
            core.arm(Timer.REISSUE, None)
        if not self._lent and self._waiting and not self._asked:
            self._asked, self._told_since = True, False
            core.out.append(Fetch(self._settings.fetch))
        done = not (self._lent or self._waiting)
        if not window.proved and self._lent:
            return window.proof_at
        if sent.under_way and (full or hurry or (done and sent.reissues > 0)):
            return core.now if window.careful else self._asked_at + _EARLY_NS
        return None

    def _send(self, report: Report, command: Command) -> None:
        self._sent.add(report, command)
        if command is Command.REALTIME:
            self._counts["sent_realtime"] += 1
            self._core.out.append(SendRealtime(report))
        else:
            self._counts["sent_reissue"] += 1
            self._core.out.append(SendReissue(report))
        # The silence begins anew.
        self._core.arm(Timer.REISSUE, None)

    def _expire(self) -> None:
        oldest = self._core.wall - round(self._settings.reissue_days * _DAY_NS)
        while self._lent and self._core.clock_good and self._lent[0].wall < oldest:
            self._drop(self._lent.popleft(), Reason.EXPIRED)

    def _blame(self) -> None:
        """The link broke: was it the report that is longest under way?"""
        first = self._sent.first
        oldest = first[0].key if first and first[1] is Command.REISSUE else None
        if self._window.broke(self._core.now, self._sent.reissues, oldest):
            self._counts["broke_the_link"] += 1
            self._drop(self._sent.take_first(), Reason.REFUSED)

    def _widen(self, confirmed: list[tuple[Report, Command]]) -> None:
        if any(command is Command.REISSUE for _, command in confirmed):
            self._window.confirmed()

    def _confirmed(self, report: Report) -> None:
        self._counts["confirmed"] += 1
        self._settle(report)
        self._core.out.append(Confirmed(report))

    def _drop(self, report: Report, reason: Reason) -> None:
        self._counts[f"dropped_{reason.name.lower()}"] += 1
        self._settle(report)
        self._core.out.append(Dropped(report, reason))

    def _settle(self, report: Report) -> None:
        self._keys.discard(report.key)
        self._refusals.forget(report.key)
