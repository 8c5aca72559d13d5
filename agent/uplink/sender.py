"""The loop of one uplink: outbox -> transport -> policy -> outbox and ledger.

Everything that touches the disk runs in threads. What a success or a quarantine changes, files and
ledger, changes in one call in one thread: a cancelled sender leaves nothing half done.
"""

import asyncio
import collections
import dataclasses
import logging
import random as _random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal, Protocol, TypedDict

from agent.clock import SECOND, BootNs, Clock, Quality
from agent.errors import AgentError
from agent.ledger import Ledger
from agent.settings import Uplink
from agent.spool.outbox import Outbox, Parcel
from agent.uplink import wire
from agent.uplink.budget import RetryBudget
from agent.uplink.credentials import HasCredentials
from agent.uplink.door import make_transport, proof
from agent.uplink.meter import Meter
from agent.uplink.policy import (
    Acknowledged,
    Answer,
    Ask,
    Decision,
    Fault,
    Hold,
    PassOver,
    Policy,
    Quarantine,
    Wait,
)
from agent.uplink.resend import Resender
from agent.uplink.transport import Gone

_log = logging.getLogger("edge_agent.uplink")

# asyncio's clock stands still while the computer is suspended, the boot clock does not: a longer
# wait is looked at again this often.
_LOOK_S: Final = 60.0

# Longer than this without a word to the receiver is an absence from which others return as well.
_ABSENCE_NS: Final = 3600 * SECOND

State = Literal["idle", "sending", "waiting", "held"]


class Status(TypedDict):
    """What the status page shows of an uplink; fit for JSON, and without secrets."""

    name: str
    url: str
    state: State
    why: str
    until_s: float | None
    answered_s_ago: float | None
    """Since the answer, or the lack of one, that `why` speaks of."""
    last_success_s_ago: float | None
    credential: str
    """What a person should know of token and certificate; empty when all is well."""
    sent_batches: int
    sent_bytes: int
    quarantined_batches: int
    resent_batches: int
    attempts: int
    retries: int
    answers: dict[str, int]


class Sending(Protocol):
    """What sends for one uplink, whatever that is."""

    async def run(self) -> None:
        """Send until cancelled."""
        ...

    def wake(self) -> None:
        """Something new waits. From any thread."""
        ...

    @property
    def idle(self) -> bool:
        """Whether nothing waits for this uplink. Touches no disk."""
        ...

    @property
    def waiting(self) -> int:
        """How many batches wait."""
        ...

    async def drained(self) -> None:
        """Wait until nothing waits for this uplink."""
        ...

    @property
    def state(self) -> Status:
        """How this uplink is, and why."""
        ...


@dataclasses.dataclass(slots=True)
class _Totals:
    sent_batches: int = 0
    sent_bytes: int = 0
    quarantined_batches: int = 0
    resent_batches: int = 0
    attempts: int = 0
    retries: int = 0
    answers: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


class Sender:
    """Sends what waits for one uplink, until it is cancelled.

    `sleep` and `random` are seams for tests: what waits between attempts, and numbers in [0, 1).
    `nudged` is called when a broker brings word to look for new configuration.

    Raises:
        ConfigError: the address cannot be one of this kind of uplink, or a package is missing.
    """

    def __init__(
        self,
        settings: Uplink,
        vehicle: str,
        outbox: Outbox,
        ledger: Ledger,
        clock: Clock,
        *,
        budget: RetryBudget,
        meter: Meter | None = None,
        random: Callable[[], float] = _random.random,
        user_agent: str = "vehicle-edge-agent",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        nudged: Callable[[], None] | None = None,
    ) -> None:
        self._name = settings.name
        self._url = wire.shown(settings.url)
        self._outbox = outbox
        self._ledger = ledger
        self._clock = clock
        self._budget = budget
        self._meter = meter
        self._sleep = sleep
        self._transport = make_transport(settings, vehicle, user_agent, nudged)
        self._policy = Policy(proof(settings), random)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._new = asyncio.Event()
        self._empty = asyncio.Event()
        self._woken = False
        self._state: State = "waiting"
        self._why = "not started yet"
        self._until: BootNs | None = None
        self._pass_until = BootNs(0)
        self._suspects: dict[str, Parcel] = {}
        self._gone: str | None = None
        self._said: set[str] = set()
        self._answered: BootNs | None = None
        self._last_success: BootNs | None = None
        self._noticed = ""
        self._resender = Resender(self._name, outbox, clock)
        self._totals = _Totals()
        ledger.open("uplink", self._name)

    async def run(self) -> None:
        """Send until cancelled. Nothing that a receiver, the link or the spool does ends it."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._come_back()
            while True:
                parcel = await self._choose()
                if parcel is not None and await self._affordable(parcel):
                    await self._attempt(parcel)
        finally:
            self._loop = None
            await self._transport.close()

    def wake(self) -> None:
        """Something new waits. From any thread; ends no back-off and no hold."""
        self._woken = True
        if (loop := self._loop) is None:
            return  # run() looks before it waits
        try:
            loop.call_soon_threadsafe(self._new.set)
        except RuntimeError:
            return  # the loop has ended meanwhile, and the sender with it

    @property
    def idle(self) -> bool:
        """Whether nothing waits for this uplink. Touches no disk."""
        return self._empty.is_set() and not self._woken

    @property
    def waiting(self) -> int:
        """How many batches wait."""
        return self._outbox.waiting()[0]

    async def drained(self) -> None:
        """Wait until nothing waits for this uplink: for a while only, at the end of the agent."""
        while not self.idle:
            self._empty.clear()
            await self._empty.wait()

    @property
    def state(self) -> Status:
        """How this uplink is, and why."""
        now = self._clock.boot()
        ended, answered = self._last_success, self._answered
        totals = self._totals
        return {
            "name": self._name,
            "url": self._url,
            "state": self._state,
            "why": self._why,
            "until_s": None if self._until is None else max(0, self._until - now) / SECOND,
            "answered_s_ago": None if answered is None else (now - answered) / SECOND,
            "last_success_s_ago": None if ended is None else (now - ended) / SECOND,
            "credential": self._notice(),
            "sent_batches": totals.sent_batches,
            "sent_bytes": totals.sent_bytes,
            "quarantined_batches": totals.quarantined_batches,
            "resent_batches": totals.resent_batches,
            "attempts": totals.attempts,
            "retries": totals.retries,
            "answers": dict(totals.answers),
        }

    async def _come_back(self) -> None:
        """Not all at once: what waits since long, or since another boot, waits a little longer."""
        try:
            parcel = await asyncio.to_thread(self._outbox.next)
        except (AgentError, OSError):
            return  # the loop comes upon it again, and says it
        if parcel is None or parcel.born is None:
            return
        now = self._clock.boot()
        here = parcel.born.boot_id == self._clock.boot_id
        if here and now - parcel.born.boot < _ABSENCE_NS:
            return
        until = self._policy.returns(now)
        self._show("waiting", "back after an absence, and maybe not alone", until)
        await self._pause(until)

    async def _affordable(self, parcel: Parcel) -> bool:
        """Whether the link of now may carry it; waits for a while if not."""
        if self._meter is None:
            return True
        refusal = await self._meter.refusal(parcel.size, parcel.lane)
        if refusal is None:
            return True
        self._trouble("waiting", "link", refusal.why, refusal.until)
        look = BootNs(self._clock.boot() + round(_LOOK_S * SECOND))
        await self._pause(min(look, refusal.until), until=refusal.until, or_new=True)
        return False

    async def _choose(self) -> Parcel | None:
        """The batch to send now; None after a wait, when it is time to look again."""
        self._woken = False
        self._new.clear()
        refused = self._policy.pass_over
        try:
            if refused:
                other = await asyncio.to_thread(self._outbox.next, refused)
                if other is not None:
                    return other
                if not self._policy.held and self._clock.boot() < self._pass_until:
                    await self._pause(self._pass_until, or_new=True)
                    return None
            parcel = await asyncio.to_thread(self._outbox.next)
        except (AgentError, OSError) as e:
            await self._spool_failed("", e)
            return None
        if parcel is None:
            self._policy.emptied()
            self._suspects.clear()
            if not self._policy.held:
                self._show("idle", "nothing waits")
            self._empty.set()
            await self._new.wait()
            self._empty.clear()
        return parcel

    async def _attempt(self, parcel: Parcel) -> None:
        policy = self._policy
        retry = policy.retries(parcel.batch_id)
        if retry:
            while lacking := self._budget.take(self._clock.boot()):
                await self._sleep(lacking)
        if not policy.held:
            self._show("sending", self._why if retry else f"sending {parcel.batch_id}")
        try:
            answer = await self._transport.put(parcel)
        except Gone:
            await self._vanished(parcel)
            return
        self._gone = None
        self._totals.attempts += 1
        self._totals.retries += retry
        await self._count(answer, parcel.size)
        decision = policy.answered(parcel.batch_id, answer, self._clock.boot())
        if isinstance(decision, Ask):
            answer = await self._transport.ask(parcel)
            await self._count(answer, 0, "HEAD ")
            decision = policy.asked(parcel.batch_id, answer, self._clock.boot())
        try:
            await self._carry_out(decision, parcel, answer)
        except (AgentError, OSError) as e:
            await self._spool_failed(parcel.batch_id, e)

    async def _carry_out(self, decision: Decision, parcel: Parcel, answer: Answer) -> None:
        match decision:
            case Acknowledged(judged):
                await self._acknowledge(parcel)
                self._totals.resent_batches += await self._resender.serve(answer.resend)
                for batch_id, reason in judged:
                    if suspect := self._suspects.pop(batch_id, None):
                        await self._quarantine(suspect, reason)
            case Quarantine(reason):
                await self._quarantine(parcel, reason)
            case PassOver(until, why):
                self._suspects = {parcel.batch_id: parcel}
                self._pass_until = until
                self._show("waiting", why, until)  # what comes of it is logged
            case Wait(until, why, slow):
                self._trouble("waiting", f"slow {answer.status}" if slow else "later", why, until)
                await self._pause(until)
            case Hold(until, why, reload):
                self._suspects.clear()
                if reload and await self._transport.reload() and self._policy.renewed():
                    return
                key = f"hold {answer.status or answer.fault.name}"
                self._trouble("held", key, why, until)
                credential = reload or answer.fault is Fault.CREDENTIAL
                await self._pause(until, or_renewed=credential)
                await self._transport.reload()

    async def _acknowledge(self, parcel: Parcel) -> None:
        def acknowledge() -> None:
            # One that was evicted while it was under way is in the ledger already.
            if self._outbox.acknowledge(parcel):
                n = parcel.samples
                self._ledger.add("uplink", self._name, waiting=-n, acknowledged=n)

        await asyncio.to_thread(acknowledge)
        self._transport.forget(parcel.batch_id)
        self._suspects.pop(parcel.batch_id, None)
        self._last_success = self._clock.boot()
        self._totals.sent_batches += 1
        self._totals.sent_bytes += parcel.size
        if self._said:
            _log.info("uplink %s: batches are accepted again", self._name)
            self._said.clear()
        self._show("sending", "")

    async def _quarantine(self, parcel: Parcel, reason: str) -> None:
        def quarantine() -> None:
            if self._outbox.quarantine(parcel, reason):
                n = parcel.samples
                self._ledger.add("uplink", self._name, waiting=-n, quarantined=n)

        await asyncio.to_thread(quarantine)
        self._transport.forget(parcel.batch_id)
        self._totals.quarantined_batches += 1
        _log.warning("uplink %s: %s is in quarantine: %s", self._name, parcel.batch_id, reason)

    async def _vanished(self, parcel: Parcel) -> None:
        """Evicted meanwhile, so the next one; unless the outbox goes on naming it."""
        self._policy.forget(parcel.batch_id)
        self._suspects.pop(parcel.batch_id, None)
        self._transport.forget(parcel.batch_id)
        again, self._gone = self._gone == parcel.batch_id, parcel.batch_id
        if again:
            error = FileNotFoundError(0, f"{parcel.path} is not there")
            await self._spool_failed(parcel.batch_id, error)

    async def _spool_failed(self, batch_id: str, error: Exception) -> None:
        detail = getattr(error, "strerror", None) or str(error)
        answer = Answer(fault=Fault.SPOOL, detail=detail)
        decision = self._policy.answered(batch_id, answer, self._clock.boot())
        if isinstance(decision, Wait | Hold):
            state: State = "held" if isinstance(decision, Hold) else "waiting"
            self._trouble(state, "spool", decision.why, decision.until)
            await self._pause(decision.until)

    async def _pause(
        self,
        end: BootNs,
        *,
        until: BootNs | None = None,
        or_new: bool = False,
        or_renewed: bool = False,
    ) -> None:
        """Wait to the end, or until something new waits, or the credential is another one.

        `until` is shown in place of the end.
        """
        self._until = end if until is None else until
        try:
            while (left := end - self._clock.boot()) > 0 and not (or_new and self._new.is_set()):
                sleep = self._sleep(min(left / SECOND, _LOOK_S))
                await (_first(sleep, self._new.wait()) if or_new else sleep)
                if or_renewed and await self._transport.reload() and self._policy.renewed():
                    break
        finally:
            self._until = None

    async def _count(self, answer: Answer, size: int, prefix: str = "") -> None:
        what = answer.fault.name.lower() if answer.status is None else str(answer.status)
        self._totals.answers[prefix + what] += 1
        self._answered = self._clock.boot()
        if self._meter is not None:
            await self._meter.spend(size if answer.sent_bytes is None else answer.sent_bytes)
        notice = self._notice()
        if notice and notice != self._noticed:
            _log.warning("uplink %s: %s", self._name, notice)
        self._noticed = notice

    def _notice(self) -> str:
        if not isinstance(self._transport, HasCredentials):
            return ""
        good = self._clock.quality() > Quality.UNSYNCHRONISED
        return self._transport.notice(self._clock.wall(), synchronised=good)

    def _show(self, state: State, why: str, until: BootNs | None = None) -> None:
        self._state, self._why, self._until = state, why, until

    def _trouble(self, state: State, key: str, why: str, until: BootNs) -> None:
        """Show it; log it when it is of a new kind since the last success."""
        self._show(state, why, until)
        if key not in self._said:
            self._said.add(key)
            left = (until - self._clock.boot()) / SECOND
            _log.warning("uplink %s: %s; %s, next in %.0f s", self._name, why, state, left)


class Senders:
    """The senders of all uplinks, started and stopped together; belongs to the event loop."""

    def __init__(self, senders: Sequence[Sending]) -> None:
        self.all = tuple(senders)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Send, unless that goes on already."""
        if not self._tasks:
            self._tasks = [asyncio.create_task(sender.run()) for sender in self.all]

    async def stop(self) -> None:
        """Send nothing any more; what was under way is sent again after the next start."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def idle(self) -> bool:
        """Whether nothing waits for any uplink."""
        return all(sender.idle for sender in self.all)

    @property
    def waiting(self) -> int:
        """How many batches wait, those for several uplinks several times."""
        return sum(sender.waiting for sender in self.all)


async def _first(*things: Awaitable[object]) -> None:
    """Wait for the first of these, and end the others."""
    tasks = [asyncio.ensure_future(thing) for thing in things]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
