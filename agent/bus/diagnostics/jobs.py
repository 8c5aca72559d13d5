"""What is to be asked again and again: one job a request, and what its answers lead to.

A job is a state machine without I/O: `ask` gives the request to send now, `take` gets what came
back and makes tables of it. `due` is when it wants to ask next; `agent.bus.diagnostics.schedule`
decides when it may.

A request that gets no answer, or a refusal, is asked less and less often: 1, 2, 4 ... 60 s. One
that an ECU says it does not have (0x11, 0x12, 0x31) is never asked again in this run.
"""

import abc
import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from agent.blocks import SignalTable
from agent.bus.diagnostics import messages
from agent.bus.diagnostics.messages import Answer
from agent.bus.diagnostics.requests import Address, Did, UdsDtcRequest, UdsRequest
from agent.bus.diagnostics.tables import DTC_OF_SERVICE, Tables, did_branch
from agent.clock import SECOND, BootNs

FOREVER: Final = BootNs(2**63 - 1)
BACKOFF_MAX_NS: Final = 60 * SECOND
_BUSY_NS: Final = SECOND // 2
_BUSY_MAX: Final = 3
_SESSION_KEPT_NS: Final = 3 * SECOND  # an ECU leaves it after 5 s without a request


def backoff_ns(failures: int) -> int:
    """1, 2, 4 ... 60 s for 1, 2, 3 ... failures in a row."""
    return min(BACKOFF_MAX_NS, SECOND << min(failures - 1, 6))


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """One request, ready to be sent.

    Attributes:
        echoes: how a positive answer may begin.
        expects: ids of ECUs; when all of them have answered, no further one is waited for. Empty
            where nobody knows who will answer: the whole time is waited.
        silent: no answer is asked for.
    """

    address: Address
    payload: bytes
    echoes: tuple[bytes, ...] = ()
    expects: frozenset[int] = frozenset()
    silent: bool = False


@dataclasses.dataclass(slots=True)
class Report:
    """Where jobs count and say what people should know; shared by all jobs of a bus."""

    tables: Tables
    totals: Counter[str] = dataclasses.field(default_factory=Counter)
    notes: list[str] = dataclasses.field(default_factory=list)


class Patience:
    """How often something failed in a row, and until when it rests."""

    def __init__(self) -> None:
        self.failures = 0
        self.until = BootNs(0)

    def failed(self, now: BootNs) -> None:
        self.failures += 1
        self.until = BootNs(now + backoff_ns(self.failures))

    def well(self) -> None:
        self.failures = 0
        self.until = BootNs(0)


class Job(abc.ABC):
    """Something that is asked at an interval."""

    def __init__(self, address: Address, interval_s: float, report: Report) -> None:
        self.address = address
        self.report = report
        self.due = BootNs(0)
        self._interval = round(interval_s * SECOND)
        self._busy = 0

    def wake(self, now: BootNs) -> None:
        """The vehicle is awake (again): begin at once, and as if nothing had failed."""
        if self.due != FOREVER:
            self.due = now
        self._busy = 0

    @abc.abstractmethod
    def ask(self, now: BootNs) -> Ask | None:
        """The request to send now; None where there is nothing to ask, and `due` has moved on."""

    @abc.abstractmethod
    def take(self, answers: Sequence[Answer], now: BootNs) -> list[SignalTable]:
        """What came back for the last `ask`; moves `due` on."""

    def next_round(self, now: BootNs) -> None:
        """The next point of the interval after now; those that were missed are left out."""
        missed = max(0, now - self.due) // self._interval
        self.due = BootNs(self.due + (missed + 1) * self._interval)

    def again_when_busy(self, refusal: int | None, now: BootNs) -> bool:
        """Whether the ECU is busy and is to be asked once more, a little later (0x21)."""
        if refusal != messages.BUSY_REPEAT_REQUEST or self._busy >= _BUSY_MAX:
            self._busy = 0
            return False
        self._busy += 1
        self.due = BootNs(now + _BUSY_NS)
        return True

    def drop(self, what: str, refusal: int) -> None:
        self.report.totals["unsupported"] += 1
        self.report.notes.append(
            f"{what} at {self.address} is not supported (response code 0x{refusal:02X}) "
            "and is not asked for again"
        )


class SingleJob(Job):
    """One request that stays the same.

    `read` makes tables of a positive answer, None of a broken one.
    """

    def __init__(
        self,
        what: str,
        ask: Ask,
        interval_s: float,
        report: Report,
        read: Callable[[Answer], list[SignalTable] | None],
        *,
        session: "Session | None" = None,
    ) -> None:
        super().__init__(ask.address, interval_s, report)
        self._what = what
        self._ask = ask
        self._read = read
        self._session = session
        self._patience = Patience()
        self._known: dict[int, int] = {}
        self._opening = False

    def wake(self, now: BootNs) -> None:
        super().wake(now)
        self._patience.well()
        self._known.clear()

    def ask(self, now: BootNs) -> Ask | None:
        self._opening = self._session is not None and self._session.closed(now)
        if self._opening and self._session is not None:
            return self._session.ask
        # Who has answered twice is expected to answer: no waiting for others then.
        expects = frozenset(ecu for ecu, times in self._known.items() if times >= 3)
        return dataclasses.replace(self._ask, expects=self._ask.expects or expects)

    def take(self, answers: Sequence[Answer], now: BootNs) -> list[SignalTable]:
        if self._session is not None:
            if answers:
                self._session.used(now)
            if self._opening:
                if not self._session.take(answers, now, self.report):
                    self._fail(now)
                # Else it is still due, and comes next: what the session was opened for.
                return []
        found = []
        good = [answer for answer in answers if answer.refusal is None]
        for answer in good:
            tables = self._read(answer)
            if tables is None:
                self.report.totals["bad"] += 1
            else:
                found += tables
                self._known[answer.ecu] = min(4, self._known.get(answer.ecu, 0) + 2)
        for ecu in self._known.keys() - {answer.ecu for answer in answers}:
            self._known[ecu] -= 1
        self._known = {ecu: times for ecu, times in self._known.items() if times > 0}
        if good:
            self._busy = 0
            if found:
                self._patience.well()
                self.next_round(now)
            else:
                self._fail(now)
        else:
            self._refused({a.ecu: a.refusal for a in answers if a.refusal is not None}, now)
        return found

    def _refused(self, refusals: Mapping[int, int], now: BootNs) -> None:
        codes = set(refusals.values())
        if self.again_when_busy(next(iter(refusals.values()), None), now):
            return
        if codes and codes <= messages.NEVER and self._known.keys() <= refusals.keys():
            self.drop(self._what, min(codes))
            self.due = FOREVER
            return
        if self._session is not None and messages.NOT_IN_THIS_SESSION & codes:
            self._session.close()
        self._fail(now)

    def _fail(self, now: BootNs) -> None:
        self._patience.failed(now)
        self.next_round(now)
        self.due = max(self.due, self._patience.until)


class Session:
    """A diagnostic session of one ECU, shared by the jobs that need it (ISO 14229-2: S3)."""

    def __init__(self, address: Address, number: int) -> None:
        self._number = number
        self._until = BootNs(0)
        self._refused = False
        self.ask = Ask(
            address,
            messages.open_session(number),
            echoes=(bytes([0x50, number]),),
            expects=address.only,
        )

    def closed(self, now: BootNs) -> bool:
        return now >= self._until and not self._refused

    def close(self) -> None:
        self._until = BootNs(0)

    def used(self, now: BootNs) -> None:
        """A request kept it open."""
        if self._until > now:
            self._until = BootNs(now + _SESSION_KEPT_NS)

    @property
    def until(self) -> BootNs:
        return self._until

    def take(self, answers: Sequence[Answer], now: BootNs, report: Report) -> bool:
        """Whether it is open now, or never will be: then data is read without it."""
        refusal = answers[0].refusal if answers else None
        if refusal in messages.NEVER:
            self._refused = True
            report.totals["unsupported"] += 1
            report.notes.append(
                f"session {self._number} at {self.ask.address} is refused (response code "
                f"0x{refusal:02X}): data is read without it"
            )
            return True
        if not answers or refusal is not None:
            return False
        self._until = BootNs(now + _SESSION_KEPT_NS)
        return True


class TesterPresentJob(Job):
    """Keeps a session open while nothing else is asked."""

    def __init__(self, address: Address, session: Session, report: Report) -> None:
        super().__init__(address, 2.0, report)
        self._session = session
        self._ask = Ask(address, messages.tester_present(), silent=True)

    def ask(self, now: BootNs) -> Ask | None:
        if self._session.closed(now):
            self.due = BootNs(now + self._interval)  # whoever needs it opens it
            return None
        quiet_since = self._session.until - _SESSION_KEPT_NS
        if self._session.until == 0:
            self.due = BootNs(now + self._interval)
            return None
        if now < quiet_since + self._interval:
            self.due = BootNs(quiet_since + self._interval)
            return None
        return self._ask

    def take(self, answers: Sequence[Answer], now: BootNs) -> list[SignalTable]:
        self._session.used(now)
        self.due = BootNs(now + self._interval)
        return []


def did_job(
    address: Address, did: Did, request: UdsRequest, report: Report, session: Session | None
) -> SingleJob:
    """ReadDataByIdentifier of one identifier."""

    def read(answer: Answer) -> list[SignalTable] | None:
        table = report.tables.values(
            request.message,
            did_branch(did.did),
            did.fields,
            source=answer.source,
            time=answer.time,
            data=messages.did_data(answer.payload),
        )
        return None if table is None else [table]

    ask = Ask(
        address,
        messages.read_did(did.did),
        echoes=(b"\x62" + did.did.to_bytes(2, "big"),),
        expects=address.only,
    )
    what = f"identifier 0x{did.did:04X}"
    return SingleJob(what, ask, request.interval_s, report, read, session=session)


def uds_dtc_job(address: Address, request: UdsDtcRequest, report: Report) -> SingleJob:
    """ReadDTCInformation by status mask."""

    def read(answer: Answer) -> list[SignalTable] | None:
        found = messages.uds_dtcs(answer.payload)
        if found is None:
            return None
        return report.tables.dtcs(
            request.message,
            0x19,
            found[1],
            available=found[0],
            source=answer.source,
            time=answer.time,
        )

    ask = Ask(
        address,
        messages.read_dtcs(request.status_mask),
        echoes=(b"\x59\x02",),
        expects=address.only,
    )
    return SingleJob("ReadDTCInformation", ask, request.interval_s, report, read)


def obd_dtc_job(address: Address, service: int, interval_s: float, report: Report) -> SingleJob:
    """Trouble codes of service 03, 07 or 0A."""

    def read(answer: Answer) -> list[SignalTable] | None:
        codes = messages.obd_dtcs(answer.payload)
        if codes is None:
            return None
        return report.tables.dtcs(
            DTC_OF_SERVICE[service],
            service,
            codes,
            available=0,
            source=answer.source,
            time=answer.time,
        )

    ask = Ask(address, bytes([service]), echoes=(bytes([service + 0x40]),), expects=address.only)
    return SingleJob(f"OBD service {service:02X}", ask, interval_s, report, read)
