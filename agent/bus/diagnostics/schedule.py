"""When to ask whom: one request at a time, and none that only disturbs.

- One request is outstanding on a bus, whatever the number of ECUs, and `pause_ns` passes between
  the end of one and the next.
- The job that has been due longest comes first. Points of its interval that were missed are left
  out, never made up for.
- An ECU that has not answered twice running rests 2, 4, 8 ... 60 s, all its jobs with it. A request
  that it has never answered says nothing of an ECU that answers others: what is not supported may
  be passed over in silence. Such a request rests by itself.
- Nothing is asked before the vehicle is known to be awake, and nothing when it sleeps. A waking
  begins anew: rests end, and what ECUs have is asked again.

No I/O and no clock: the caller says what time it is, sends what `next` gives, and brings the
answers to `finish`.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from agent.blocks import SignalTable
from agent.bus.diagnostics.jobs import (
    FOREVER,
    Ask,
    Job,
    Patience,
    Report,
    Session,
    TesterPresentJob,
    did_job,
    obd_dtc_job,
    uds_dtc_job,
)
from agent.bus.diagnostics.messages import Answer
from agent.bus.diagnostics.parameters import Discovery, ParametersJob
from agent.bus.diagnostics.requests import (
    Address,
    ObdDtcRequest,
    ObdRequest,
    Request,
    UdsRequest,
    address_of,
)
from agent.bus.diagnostics.tables import Tables
from agent.clock import BootNs

_SAID_AFTER: Final = 3


class Schedule:
    """All diagnostic requests of one bus."""

    def __init__(self, bus: str, requests: Sequence[Request], pause_ns: int) -> None:
        self.report = Report(Tables(bus))
        self._pause_ns = pause_ns
        self._jobs = list(_jobs(requests, self.report))
        self._ecus = {job.address: Patience() for job in self._jobs}
        self._answered: set[Job] = set()
        self._free_at = BootNs(0)
        self._awake = False
        self._current: Job | None = None

    @property
    def unanswered(self) -> bool:
        """Whether nobody answers any more."""
        return all(ecu.failures >= _SAID_AFTER for ecu in self._ecus.values())

    def next(self, now: BootNs, *, awake: bool) -> Ask | BootNs:
        """The request to send now, or when to come back (FOREVER: nothing is left to ask).

        While a vehicle sleeps that is never; come back as soon as it is awake.
        """
        if not awake:
            self._awake = False
            return FOREVER
        if not self._awake:
            self._awake = True
            for job in self._jobs:
                job.wake(now)
            for ecu in self._ecus.values():
                ecu.well()
            self._answered.clear()
        if now < self._free_at:
            return self._free_at
        # A job that has nothing to ask moves on; each gets one chance to.
        for _ in range(len(self._jobs) + 1):
            job = min(self._jobs, key=self._due)
            if (due := self._due(job)) > now:
                return due
            if (ask := job.ask(now)) is not None:
                self._current = job
                self.report.totals["requests"] += 1
                return ask
        return BootNs(now + self._pause_ns)

    def _due(self, job: Job) -> BootNs:
        return max(job.due, self._ecus[job.address].until)

    def finish(self, ask: Ask, answers: Sequence[Answer], now: BootNs) -> list[SignalTable]:
        """What came back for the last request; gives the tables of it."""
        job, self._current = self._current, None
        self._free_at = BootNs(now + self._pause_ns)
        if job is None:
            return []
        totals = self.report.totals
        refused = sum(answer.refusal is not None for answer in answers)
        totals["answered"] += len(answers) - refused
        totals["negative"] += refused
        if not ask.silent:
            totals["timeouts"] += _missing(ask, answers)
            self._judge(job, now, answered=bool(answers))
        return job.take(answers, now)

    def cut_short(self) -> None:
        """The run ends while the last request is outstanding."""
        self._current = None
        self.report.totals["cut_short"] += 1

    def _judge(self, job: Job, now: BootNs, *, answered: bool) -> None:
        ecu = self._ecus[job.address]
        if answered:
            self._answered.add(job)
            if ecu.failures >= _SAID_AFTER:
                self.report.notes.append(f"{job.address} answers again")
            ecu.well()
            return
        if job not in self._answered and any(j.address == job.address for j in self._answered):
            return
        ecu.failed(now)
        if ecu.failures == 1:
            ecu.until = BootNs(0)  # one answer may be lost without the rest having to wait
        elif ecu.failures == _SAID_AFTER:
            self.report.notes.append(
                f"{job.address} does not answer; it is asked less and less often"
            )


def _missing(ask: Ask, answers: Sequence[Answer]) -> int:
    if ask.expects:
        return len(ask.expects - {answer.ecu for answer in answers})
    return int(not answers)


def _jobs(requests: Sequence[Request], report: Report) -> Iterable[Job]:
    sessions: dict[tuple[Address, int], Session] = {}
    discoveries: dict[Address, Discovery] = {}
    for request in requests:
        address = address_of(request)
        if isinstance(request, ObdRequest):
            discovery = discoveries.setdefault(address, Discovery(address, 0))
            discovery.highest = max(discovery.highest, *request.numbers)
            yield ParametersJob(address, request, report, discovery)
        elif isinstance(request, ObdDtcRequest):
            for service in request.services:
                yield obd_dtc_job(address, service, request.interval_s, report)
        elif isinstance(request, UdsRequest):
            session = None
            if request.session:
                key = (address, request.session)
                if key not in sessions:
                    sessions[key] = Session(*key)
                session = sessions[key]
                if request.tester_present:
                    yield TesterPresentJob(address, session, report)
            for did in request.dids:
                yield did_job(address, did, request, report, session)
        else:
            yield uds_dtc_job(address, request, report)
