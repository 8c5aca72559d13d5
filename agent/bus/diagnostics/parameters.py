"""The job that polls OBD parameters: first which ones there are, then their values.

An ECU says in bitmaps (parameters 00, 20, 40 ...) what it has; each bitmap has a bit for the next.
They are asked for at the start, when the vehicle wakes up, and every hour, because an ECU may have
slept through the question. Only parameters that somebody has are polled.

Up to six parameters go into one request. An ECU that answers such a request not at all, or leaves
out something that it has, gets the missing ones one by one; when that helped twice, or when it
refuses the request, it is asked for one at a time from then on.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from agent.blocks import SignalTable
from agent.bus.diagnostics import messages
from agent.bus.diagnostics.jobs import FOREVER, Ask, Job, Patience, Report
from agent.bus.diagnostics.messages import Answer
from agent.bus.diagnostics.pids import PIDS, split
from agent.bus.diagnostics.requests import Address, ObdRequest
from agent.bus.diagnostics.tables import OBD, pid_branch
from agent.clock import SECOND, BootNs

_SERVICE: Final = 0x01
_ECHO: Final = 0x41
_STALE_NS: Final = 3600 * SECOND
_SILENT_MAX: Final = 2
_GROUPS_FAILED_MAX: Final = 2

Group = tuple[int, ...]


class Discovery:
    """Which parameters the ECUs of an address have; shared by the jobs that ask there."""

    def __init__(self, address: Address, highest: int) -> None:
        self.address = address
        self.highest = highest
        self.has: dict[int, frozenset[int]] = {}
        self.rounds = 0
        self._found: dict[int, set[int]] = {}
        self._next: int | None = 0
        self._silent = 0
        self._stale_at = BootNs(0)

    def restart(self) -> None:
        self._found = {}
        self._next = 0
        self._silent = 0

    def ask(self, now: BootNs) -> Ask | None:
        """The next bitmap to ask for; None when all is known."""
        if self._next is None and now >= self._stale_at:
            self.restart()
        if (base := self._next) is None:
            return None
        expects = frozenset(ecu for ecu, has in self._found.items() if base in has)
        return Ask(
            self.address,
            bytes([_SERVICE, base]),
            echoes=(bytes([_ECHO, base]),),
            expects=self.address.only or expects,
        )

    def take(self, answers: Sequence[Answer], now: BootNs) -> bool:
        """What came back for the bitmap; whether anybody has answered."""
        base = self._next or 0
        maps = [(a.ecu, a.payload[2:]) for a in answers if a.refusal is None]
        maps = [(ecu, bitmap) for ecu, bitmap in maps if len(bitmap) == 4]
        for ecu, bitmap in maps:
            word = int.from_bytes(bitmap, "big")
            self._found.setdefault(ecu, {0}).update(
                base + 1 + bit for bit in range(32) if word >> (31 - bit) & 1
            )
        following = base + 0x20
        if not maps:
            self._silent += 1
            if self._silent < _SILENT_MAX:
                return False
            if base == 0 and not self.has:
                return False  # nobody there; it will be asked again
        self._silent = 0
        more = any(following in has for has in self._found.values())
        if maps and more and following <= self.highest:
            self._next = following
        else:
            self._next = None
            self._stale_at = BootNs(now + _STALE_NS)
            self.has = {ecu: frozenset(has) for ecu, has in self._found.items()} or self.has
            self.rounds += 1
        return bool(maps)


class ParametersJob(Job):
    """Polls the parameters of one `ObdRequest`."""

    def __init__(
        self, address: Address, request: ObdRequest, report: Report, discovery: Discovery
    ) -> None:
        super().__init__(address, request.interval_s, report)
        self._wanted = request.numbers
        self._together = request.together
        self._discovery = discovery
        self._rounds_known = 0
        self._single = request.together == 1
        self._groups_failed = 0
        self._left: deque[Group] = deque()
        self._asked: Group | None = None
        self._doubted: set[int] = set()
        self._dropped: set[int] = set()
        self._told: tuple[int, ...] = ()
        self._patience: dict[int, Patience] = {}
        self._mid_round = False
        self._start = Patience()

    def wake(self, now: BootNs) -> None:
        super().wake(now)
        self._discovery.restart()
        self._left.clear()
        self._mid_round = False
        self._patience.clear()
        self._start.well()

    def ask(self, now: BootNs) -> Ask | None:
        self._asked = None
        if (ask := self._discovery.ask(now)) is not None:
            return ask
        if self._rounds_known != self._discovery.rounds:
            self._rounds_known = self._discovery.rounds
            self._single = self._together == 1
            self._groups_failed = 0
            self._tell()
        if not self._mid_round:
            self._left = deque(self._groups(now))
            self._mid_round = True
        if not self._left:
            self._end_round(now)
            return None
        self._asked = group = self._left.popleft()
        return Ask(
            self.address,
            bytes([_SERVICE, *group]),
            echoes=tuple(bytes([_ECHO, number]) for number in group),
            expects=self.address.only
            or frozenset(e for e, has in self._discovery.has.items() if has & set(group)),
        )

    def _tell(self) -> None:
        missing = tuple(n for n in self._wanted if n not in self._somebody_has())
        if missing and missing != self._told:
            names = ", ".join(PIDS[n].fields[0].name for n in missing)
            self.report.notes.append(f"no ECU at {self.address} has {names}: not asked for")
        self._told = missing

    def _somebody_has(self) -> frozenset[int]:
        return frozenset().union(*self._discovery.has.values())

    def _groups(self, now: BootNs) -> Iterable[Group]:
        there = self._somebody_has() - self._dropped
        polled = [
            n
            for n in self._wanted
            if n in there and (n not in self._patience or self._patience[n].until <= now)
        ]
        size = 1 if self._single else self._together
        return (tuple(polled[i : i + size]) for i in range(0, len(polled), size))

    def _end_round(self, now: BootNs) -> None:
        self._mid_round = False
        self._doubted.clear()
        if self._dropped.issuperset(self._wanted):
            self.due = FOREVER
        else:
            self.next_round(now)

    def take(self, answers: Sequence[Answer], now: BootNs) -> list[SignalTable]:
        refusals = {a.ecu: a.refusal for a in answers if a.refusal is not None}
        if (group := self._asked) is None:
            if self._discovery.take(answers, now):
                self._start.well()
            elif not self._discovery.has:
                self._without_bitmap(refusals, now)
            return []
        found, whole = self._read(answers, frozenset(group))
        if not found and self.again_when_busy(next(iter(refusals.values()), None), now):
            self._left.appendleft(group)
            return []
        self._busy = 0
        missing = tuple(n for n in group if n not in whole)
        if len(group) == 1:
            self._judge_one(group[0], {} if found else refusals, now, good=not missing)
        elif not missing:
            self._groups_failed = 0
        else:
            self._left.extendleft((number,) for number in reversed(missing))
            self._doubted.update(missing)
            if refusals and not found:
                self._ask_one_by_one()
        if not self._left:
            self._end_round(now)
        return found

    def _read(
        self, answers: Sequence[Answer], group: frozenset[int]
    ) -> tuple[list[SignalTable], set[int]]:
        """Tables of the answers, and the parameters that all who have them have given."""
        found: list[SignalTable] = []
        given: dict[int, frozenset[int]] = {}
        for answer in answers:
            if answer.refusal is not None:
                continue
            parts = split(answer.payload[1:], group)
            if parts is None:
                self.report.totals["bad"] += 1
                continue
            given[answer.ecu] = frozenset(parts)
            for number, data in parts.items():
                table = self.report.tables.values(
                    OBD,
                    pid_branch(number),
                    PIDS[number].fields,
                    source=answer.source,
                    time=answer.time,
                    data=data,
                )
                if table is not None:
                    found.append(table)
        got = frozenset().union(*given.values())
        # Of an ECU that is silent altogether nothing is concluded while others answer.
        left_out = {n for e, gave in given.items() for n in group & self._has(e) - gave}
        return found, set(got - left_out)

    def _holders(self, number: int) -> set[int]:
        return {ecu for ecu, has in self._discovery.has.items() if number in has}

    def _has(self, ecu: int) -> frozenset[int]:
        return self._discovery.has.get(ecu, frozenset())

    def _without_bitmap(self, refusals: Mapping[int, int], now: BootNs) -> None:
        """Nobody has said what there is."""
        if self.again_when_busy(next(iter(refusals.values()), None), now):
            return
        codes = set(refusals.values())
        if codes and codes <= messages.NEVER:
            self.drop("OBD service 01", min(codes))
            self.due = FOREVER
            return
        self._start.failed(now)
        self.next_round(now)
        self.due = max(self.due, self._start.until)

    def _judge_one(
        self, number: int, refusals: Mapping[int, int], now: BootNs, *, good: bool
    ) -> None:
        patience = self._patience.setdefault(number, Patience())
        codes = set(refusals.values())
        if good:
            patience.well()
            if number in self._doubted:
                self._doubted.clear()
                self._groups_failed += 1
                if self._groups_failed >= _GROUPS_FAILED_MAX:
                    self._ask_one_by_one()
        elif self._holders(number) <= refusals.keys() and messages.NEVER.issuperset(codes):
            self._dropped.add(number)
            self.drop(f"parameter 0x{number:02X}", min(codes))
        else:
            patience.failed(now)

    def _ask_one_by_one(self) -> None:
        if not self._single:
            self._single = True
            self.report.notes.append(
                f"{self.address} does not answer several parameters at once: one a request"
            )
            self._left = deque((number,) for group in self._left for number in group)
