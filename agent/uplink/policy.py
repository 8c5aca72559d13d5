"""What an answer means: the state machine of one uplink, as the room's docstring describes it.

Nothing here waits, reads a clock or throws dice: times and a source of randomness are handed in,
decisions come out. The caller carries a decision out before it hands in the next answer.
"""

import dataclasses
import enum
import http
from collections.abc import Callable
from typing import Final, Literal, Self

from agent.clock import SECOND, BootNs

STEP_MIN_S: Final = 1.0
STEP_MAX_S: Final = 900.0
RETRY_AFTER_MIN_S: Final = 1.0
RETRY_AFTER_MAX_S: Final = 3600.0
RETRY_AFTER_SPREAD: Final = 0.25
PROBE_MIN_S: Final = 900.0
PROBE_MAX_S: Final = 3600.0
RETURN_S: Final = 60.0

_BAD_BATCH: Final = frozenset({400, 413, 415, 422})
_UNAUTHORISED: Final = frozenset({401, 403})
_ABSENT: Final = frozenset({404, 410})
_LATER: Final = frozenset({408, 409, 425, 429, *range(500, 600)})
_OVERLOADED: Final = frozenset({429, 503})


class Digest(enum.Enum):
    """What an answer says about the sha-256 of the batch."""

    MATCHED = "matched"
    ABSENT = "not repeated"
    WRONG = "wrong"


class Fault(enum.Enum):
    """Why there is no answer; the value is the beginning of a sentence."""

    NETWORK = "the receiver cannot be reached"
    TIMEOUT = "the connection did not come up in time"
    STALLED = "the transfer did not move any more"
    CLOCK = "the clock of this computer is probably wrong"
    TLS = "the receiver's TLS is not trusted"
    CREDENTIAL = "the credential cannot be used"
    UNREADABLE = "the batch cannot be read"
    SPOOL = "the spool failed"


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What came of one request: a status, or the fault because of which there is none."""

    status: int | None = None
    digest: Digest = Digest.ABSENT
    length_matched: bool = False
    """Only of HEAD: the receiver's length is that of the batch."""
    retry_after_s: float | None = None
    fault: Fault = Fault.NETWORK
    """Counts only without a status."""
    detail: str = ""
    resend: tuple[tuple[str, str], ...] = ()
    """Ranges of batch ids that the receiver wants once more."""
    sent_bytes: int | None = None
    """Of the batch, until there was this answer; None: all of it."""

    def after(self, sent_bytes: int) -> Self:
        """The same answer, after so much of a batch."""
        return dataclasses.replace(self, sent_bytes=sent_bytes)


@dataclasses.dataclass(frozen=True, slots=True)
class Acknowledged:
    """The receiver has the batch."""

    judged: tuple[tuple[str, str], ...] = ()
    """Batches refused before, and why: this success shows that it is them; quarantine them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ask:
    """Find out with HEAD what the receiver has."""


@dataclasses.dataclass(frozen=True, slots=True)
class Quarantine:
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class PassOver:
    """Keep the batch and send another one; this one again not before `until`."""

    until: BootNs
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class Wait:
    """Send nothing before `until`. `slow` is the row "anything else"."""

    until: BootNs
    why: str
    slow: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Hold:
    """Send nothing before `until`, and then one batch as a probe."""

    until: BootNs
    why: str
    reload: bool = False
    """Read the credential again."""


Decision = Acknowledged | Ask | Quarantine | PassOver | Wait | Hold


class Policy:
    """The state of one uplink.

    `random` gives numbers in [0, 1).
    """

    def __init__(
        self,
        kind: Literal["http", "object-store"],
        random: Callable[[], float],
    ) -> None:
        self._kind = kind
        self._random = random
        self._steps = 0
        self._failing = False
        self._held: str | None = None
        self._renewed = False
        self._last_refused: str | None = None
        self._suspect: tuple[str, str] | None = None
        self._refused: set[str] = set()

    @property
    def held(self) -> bool:
        return self._held is not None

    def retries(self, batch: str) -> bool:
        """Whether sending this batch now is a second attempt, which the budget has to allow."""
        return not self.held and (self._failing or batch in self._refused)

    @property
    def pass_over(self) -> frozenset[str]:
        """The batches that are not to be sent now if there is any other one."""
        return frozenset(self._refused) if self.held or self._suspect else frozenset()

    def returns(self, now: BootNs) -> BootNs:
        """When to send first after a long absence: others may come back at this very moment."""
        return BootNs(now + round(RETURN_S * self._random() * SECOND))

    def answered(self, batch: str, answer: Answer, now: BootNs) -> Decision:
        """Decide after a PUT of this batch."""
        status = answer.status
        if status is None:
            return self._faulted(batch, answer, now)
        if 200 <= status < 300:
            if self._kind == "object-store" or answer.digest is Digest.MATCHED:
                return self._accepted(batch)
            return self._later(answer, now, _unproven(status, answer.digest))
        if status == 412:
            return Ask()
        if status in _BAD_BATCH:
            return self._refuse(batch, _said(answer), now)
        if status in _ABSENT:
            why = f"{_said(answer)}; the address is wrong, or nobody listens there"
            return self._hold(now, why)
        decision = self._about_the_endpoint(answer, now)
        return decision or self._slowly(answer, now)

    def asked(self, batch: str, answer: Answer, now: BootNs) -> Decision:
        """Decide after the HEAD that `Ask` wanted."""
        status = answer.status
        if status is None:
            return self._faulted(batch, answer, now)
        if decision := self._about_the_endpoint(answer, now):
            return decision
        found = 200 <= status < 300
        same = answer.digest is Digest.MATCHED or (
            answer.digest is Digest.ABSENT and answer.length_matched
        )
        if found and same:
            return self._confirmed(batch)
        what = "it has other bytes" if found else f"HEAD was {_said(answer)}"
        reason = f"identity conflict: the receiver has a batch of this name, and {what}"
        return self._refuse(batch, reason, now, proven=True)

    def renewed(self) -> bool:
        """The credential has changed since it was refused; gives whether to try it at once.

        Once only until something succeeds, so that a file that changes all the time cannot turn
        a hold into a storm.
        """
        if self._renewed:
            return False
        self._renewed = True
        self._held = None
        return True

    def forget(self, batch: str) -> None:
        """The batch has gone by another way: evicted, or taken off by hand."""
        self._refused.discard(batch)
        if self._suspect and self._suspect[0] == batch:
            self._suspect = None

    def emptied(self) -> None:
        """Nothing waits any more: forget what was remembered about batches."""
        self._refused.clear()
        self._suspect = None

    def _accepted(self, batch: str) -> Acknowledged:
        suspect, self._suspect, self._last_refused = self._suspect, None, None
        confirmed = self._confirmed(batch)
        if suspect is None or suspect[0] == batch:
            return confirmed
        self._refused.discard(suspect[0])
        return Acknowledged(judged=(suspect,))

    def _confirmed(self, batch: str) -> Acknowledged:
        self.forget(batch)
        self._steps = 0
        self._failing = False
        self._held = None
        self._renewed = False
        return Acknowledged()

    def _faulted(self, batch: str, answer: Answer, now: BootNs) -> Decision:
        why = f"{answer.fault.value}: {answer.detail}" if answer.detail else answer.fault.value
        if answer.fault is Fault.CREDENTIAL:
            return self._hold(now, why)
        if answer.fault is Fault.UNREADABLE:
            return self._refuse(batch, why, now, proven=True)
        return self._later(answer, now, why)

    def _about_the_endpoint(self, answer: Answer, now: BootNs) -> Decision | None:
        """The rows that say nothing about a batch, neither to PUT nor to HEAD."""
        if answer.status in _UNAUTHORISED:
            return self._hold(now, f"{_said(answer)}; a new credential is needed", reload=True)
        if answer.status in _LATER:
            return self._later(answer, now, _said(answer))
        return None

    def _refuse(
        self, batch: str, reason: str, now: BootNs, *, proven: bool = False
    ) -> PassOver | Quarantine | Hold:
        last, self._last_refused = self._last_refused, batch
        self._refused.add(batch)
        if last not in (None, batch):
            return self._hold(now, f"refused batch after batch, so it is the endpoint: {reason}")
        if self.held:
            return self._hold(now, reason)
        if proven:
            self.forget(batch)
            return Quarantine(reason)
        self._suspect = (batch, reason)
        until = BootNs(now + round(self._step() * SECOND))
        return PassOver(until, f"a batch was refused, another one will show why: {reason}")

    def _later(self, answer: Answer, now: BootNs, why: str) -> Wait | Hold:
        if self._held is not None:
            return self._hold(now, self._held, at_least_s=answer.retry_after_s)
        self._failing = True
        asked_for = answer.retry_after_s or 0.0
        floor = 0.5 if answer.status in _OVERLOADED else 0.0
        delay = self._step(floor)
        if asked_for >= RETRY_AFTER_MIN_S:
            # Those who were told the same at the same time would come back together.
            delay = min(asked_for, RETRY_AFTER_MAX_S)
            delay += max(delay * RETRY_AFTER_SPREAD, STEP_MIN_S) * self._random()
        return Wait(BootNs(now + round(delay * SECOND)), why)

    def _slowly(self, answer: Answer, now: BootNs) -> Wait | Hold:
        if self._held is not None:
            return self._hold(now, self._held, at_least_s=answer.retry_after_s)
        self._failing = True
        delay = STEP_MAX_S * (0.5 + 0.5 * self._random())
        why = f"{_said(answer)}; an answer that a receiver of batches does not give"
        return Wait(BootNs(now + round(delay * SECOND)), why, slow=True)

    def _step(self, floor: float = 0.0) -> float:
        """Seconds of the next step of the back-off, with full jitter above the floor."""
        step = min(STEP_MIN_S * 2.0 ** min(self._steps, 32), STEP_MAX_S)
        self._steps += 1
        return step * (floor + (1.0 - floor) * self._random())

    def _hold(
        self, now: BootNs, why: str, *, reload: bool = False, at_least_s: float | None = None
    ) -> Hold:
        self._held = why
        # What was refused before the endpoint went wrong is tried again before it is judged.
        self._suspect = None
        delay = PROBE_MIN_S + (PROBE_MAX_S - PROBE_MIN_S) * self._random()
        if at_least_s:
            spread = 1.0 + RETRY_AFTER_SPREAD * self._random()
            delay = max(delay, min(at_least_s, RETRY_AFTER_MAX_S) * spread)
        return Hold(BootNs(now + round(delay * SECOND)), why, reload=reload)


def _said(answer: Answer) -> str:
    status = answer.status or 0
    try:
        phrase = f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        phrase = str(status)
    return f"answered {phrase} ({answer.detail})" if answer.detail else f"answered {phrase}"


def _unproven(status: int, digest: Digest) -> str:
    if digest is Digest.WRONG:
        return f"answered {status}, but with the digest of other bytes"
    return (
        f"answered {status} without repeating the digest, so nothing shows that it has the batch; "
        'if it is an object store, set kind = "object-store"'
    )
