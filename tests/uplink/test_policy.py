"""The status table, row by row, and what holds whatever a receiver answers."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import SECOND, BootNs
from agent.uplink.policy import (
    Acknowledged,
    Answer,
    Ask,
    Decision,
    Digest,
    Fault,
    Hold,
    PassOver,
    Policy,
    Quarantine,
    Wait,
)

NOW = BootNs(5_000 * SECOND)
OK = Answer(201, Digest.MATCHED)
BAD = (400, 413, 415, 422)
LATER = (408, 409, 425, 429, 500, 501, 502, 503, 504, 507, 599)
SLOW = (100, 101, 300, 301, 302, 303, 304, 307, 308, 402, 405, 406, 411, 418, 426, 431, 451, 600)


def policy(r: float | Callable[[], float] = 0.5, kind: str = "http") -> Policy:
    return Policy(
        "object-store" if kind == "object-store" else "http",
        r if callable(r) else lambda: r,
    )


def delay(decision: Decision) -> float:
    assert isinstance(decision, Wait | Hold | PassOver)
    return (decision.until - NOW) / SECOND


@pytest.mark.parametrize("status", [200, 201, 202, 204, 206, 299])
def test_success_needs_our_digest(status: int) -> None:
    assert policy().answered("a", Answer(status, Digest.MATCHED), NOW) == Acknowledged()
    for digest in (Digest.ABSENT, Digest.WRONG):
        decision = policy().answered("a", Answer(status, digest), NOW)
        assert isinstance(decision, Wait)
        assert not decision.slow
        assert "digest" in decision.why


@pytest.mark.parametrize("digest", Digest)
def test_any_2xx_of_an_object_store_is_a_success(digest: Digest) -> None:
    assert policy(kind="object-store").answered("a", Answer(204, digest), NOW) == Acknowledged()


@pytest.mark.parametrize("status", LATER)
def test_later(status: int) -> None:
    decision = policy(1.0).answered("a", Answer(status), NOW)
    assert isinstance(decision, Wait)
    assert not decision.slow
    assert delay(decision) == 1


@pytest.mark.parametrize("fault", set(Fault) - {Fault.CREDENTIAL, Fault.UNREADABLE})
def test_no_answer_is_later_and_says_why(fault: Fault) -> None:
    decision = policy().answered("a", Answer(fault=fault, detail="broken"), NOW)
    assert isinstance(decision, Wait)
    assert decision.why == f"{fault.value}: broken"


def test_a_certificate_of_another_time_is_called_a_fault_of_the_clock() -> None:
    decision = policy().answered("a", Answer(fault=Fault.CLOCK), NOW)
    assert isinstance(decision, Wait)
    assert "clock of this computer" in decision.why


def test_the_back_off_doubles_from_1_s_to_15_min_with_full_jitter() -> None:
    high, low = policy(1.0), policy(0.0)
    steps = [delay(high.answered("a", Answer(500), NOW)) for _ in range(12)]
    assert steps == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]
    assert [delay(low.answered("a", Answer(500), NOW)) for _ in range(12)] == [0] * 12


@pytest.mark.parametrize("status", [429, 503])
def test_an_overloaded_receiver_gets_half_a_step_at_least(status: int) -> None:
    low = policy(0.0)
    steps = [delay(low.answered("a", Answer(status), NOW)) for _ in range(12)]
    assert steps == [0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 450, 450]


def test_a_success_ends_the_back_off() -> None:
    p = policy(1.0)
    for _ in range(5):
        p.answered("a", Answer(500), NOW)
    assert p.retries("b")
    p.answered("a", OK, NOW)
    assert not p.retries("b")
    assert delay(p.answered("b", Answer(500), NOW)) == 1


@pytest.mark.parametrize(
    ("asked_for", "given_s"),
    [(1, 1.5), (120, 135), (3600, 4050), (86_400, 4050), (1e300, 4050), (0, 0.5), (0.2, 0.5)],
)
@pytest.mark.parametrize("status", [429, 503, 500, 409])
def test_retry_after_is_honoured_up_to_an_hour_and_spread_by_a_quarter_of_it(
    status: int, asked_for: float, given_s: float
) -> None:
    never_less = policy(0.0).answered("a", Answer(status, retry_after_s=asked_for), NOW)
    assert delay(never_less) >= (min(asked_for, 3600) if asked_for >= 1 else 0)
    if status in (429, 503) and asked_for < 1:
        return  # they have a floor of half a step
    decision = policy(0.5).answered("a", Answer(status, retry_after_s=asked_for), NOW)
    assert delay(decision) == given_s


@pytest.mark.parametrize(("r", "minutes"), [(0.0, 15), (1.0, 60)])
@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_hold_and_probe(status: int, r: float, minutes: int) -> None:
    p = policy(r)
    decision = p.answered("a", Answer(status), NOW)
    assert isinstance(decision, Hold)
    assert delay(decision) == minutes * 60
    assert decision.reload == (status in (401, 403))
    assert str(status) in decision.why
    assert (p.held, p.retries("a")) == (True, False)
    assert (p.answered("b", OK, NOW), p.held) == (Acknowledged(), False)


@pytest.mark.parametrize("status", [500, 302, 400, 404, 200])
def test_held_stays_held_until_a_success_and_quarantines_nothing(status: int) -> None:
    p = policy()
    p.answered("a", Answer(404), NOW)
    for batch in ("a", "b", "c"):
        decision = p.answered(batch, Answer(status), NOW)
        assert isinstance(decision, Hold)
        assert 900 <= delay(decision) <= 3600
    assert p.held


def test_a_missing_token_holds() -> None:
    assert isinstance(policy().answered("a", Answer(fault=Fault.CREDENTIAL), NOW), Hold)


def test_a_changed_credential_is_tried_once_at_once() -> None:
    p = policy()
    p.answered("a", Answer(401), NOW)
    assert (p.renewed(), p.held) == (True, False)
    p.answered("a", Answer(401), NOW)
    assert (p.renewed(), p.held) == (False, True)
    p.answered("a", OK, NOW)
    p.answered("b", Answer(401), NOW)
    assert (p.renewed(), p.held) == (True, False)


@pytest.mark.parametrize("status", SLOW)
def test_anything_else_is_slow(status: int) -> None:
    decision = policy(0.0).answered("a", Answer(status), NOW)
    assert isinstance(decision, Wait)
    assert decision.slow
    assert delay(decision) == 450
    assert delay(policy(1.0).answered("a", Answer(status), NOW)) == 900


@pytest.mark.parametrize("status", BAD)
def test_a_bad_batch_is_quarantined_when_the_next_one_is_accepted(status: int) -> None:
    p = policy()
    decision = p.answered("a", Answer(status, detail="no such unit"), NOW)
    assert isinstance(decision, PassOver)
    assert p.pass_over == {"a"}
    accepted = p.answered("b", OK, NOW)
    assert isinstance(accepted, Acknowledged)
    ((batch, reason),) = accepted.judged
    assert batch == "a"
    assert str(status) in reason
    assert "no such unit" in reason
    assert p.pass_over == frozenset()


@pytest.mark.parametrize("first", BAD)
@pytest.mark.parametrize("second", BAD)
def test_two_refused_in_a_row_are_the_fault_of_the_endpoint(first: int, second: int) -> None:
    p = policy()
    p.answered("a", Answer(first), NOW)
    p.answered("b", Answer(500), NOW)  # neither a success nor a refusal
    decision = p.answered("b", Answer(second), NOW)
    assert isinstance(decision, Hold)
    assert "endpoint" in decision.why
    assert p.pass_over == {"a", "b"}
    assert p.answered("c", OK, NOW) == Acknowledged()
    assert p.pass_over == frozenset()


def test_the_same_batch_twice_is_not_two_in_a_row() -> None:
    p = policy()
    p.answered("a", Answer(400), NOW)
    assert p.retries("a")
    assert isinstance(p.answered("a", Answer(400), NOW), PassOver)


def test_a_refused_batch_that_is_accepted_later_is_not_quarantined() -> None:
    p = policy()
    p.answered("a", Answer(400), NOW)
    assert p.answered("a", OK, NOW) == Acknowledged()
    assert p.answered("b", OK, NOW) == Acknowledged()


def test_a_refusal_from_before_a_hold_is_not_judged_after_it() -> None:
    p = policy()
    p.answered("a", Answer(400), NOW)
    p.answered("b", Answer(404), NOW)
    assert p.answered("b", OK, NOW) == Acknowledged()


def test_files_that_cannot_be_read_are_quarantined_but_not_two_in_a_row() -> None:
    p = policy()
    unreadable = Answer(fault=Fault.UNREADABLE, detail="Input/output error")
    assert isinstance(p.answered("a", unreadable, NOW), Quarantine)
    assert isinstance(p.answered("b", unreadable, NOW), Hold)


HEAD_ROWS: list[tuple[Answer, type[Decision]]] = [
    (Answer(200, Digest.MATCHED), Acknowledged),
    (Answer(200, Digest.MATCHED, length_matched=True), Acknowledged),
    (Answer(204, Digest.ABSENT, length_matched=True), Acknowledged),
    (Answer(200, Digest.WRONG, length_matched=True), Quarantine),
    (Answer(200, Digest.WRONG), Quarantine),
    (Answer(200, Digest.ABSENT), Quarantine),
    (Answer(404), Quarantine),
    (Answer(410), Quarantine),
    (Answer(405), Quarantine),
    (Answer(302), Quarantine),
    (Answer(412), Quarantine),
    (Answer(400), Quarantine),
    (Answer(401), Hold),
    (Answer(403), Hold),
    (Answer(429), Wait),
    (Answer(503), Wait),
    (Answer(fault=Fault.NETWORK), Wait),
    (Answer(fault=Fault.STALLED), Wait),
]


@pytest.mark.parametrize(("answer", "decision"), HEAD_ROWS)
@pytest.mark.parametrize("kind", ["http", "object-store"])
def test_412_is_decided_by_head(answer: Answer, decision: type[Decision], kind: str) -> None:
    p = policy(kind=kind)
    assert p.answered("a", Answer(412), NOW) == Ask()
    found = p.asked("a", answer, NOW)
    assert isinstance(found, decision)
    if isinstance(found, Quarantine):
        assert "identity conflict" in found.reason


def test_a_second_conflict_in_a_row_holds() -> None:
    p = policy()
    assert isinstance(p.asked("a", Answer(200, Digest.WRONG), NOW), Quarantine)
    assert isinstance(p.asked("b", Answer(200, Digest.WRONG), NOW), Hold)


def test_head_proves_a_batch_but_judges_no_other() -> None:
    p = policy()
    p.answered("a", Answer(400), NOW)
    assert p.asked("b", Answer(200, Digest.MATCHED), NOW) == Acknowledged()
    assert p.pass_over == {"a"}


answers = st.builds(
    Answer,
    status=st.none() | st.sampled_from((200, 201, 204, 412, 401, 404, *BAD, *LATER, *SLOW)),
    digest=st.sampled_from(Digest),
    length_matched=st.booleans(),
    retry_after_s=st.none() | st.floats(min_value=0, allow_nan=False),
    fault=st.sampled_from(Fault),
)


@given(
    rounds=st.lists(st.tuples(answers, answers, st.integers(0, 3)), max_size=60),
    kind=st.sampled_from(["http", "object-store"]),
    seed=st.integers(0, 9),
)
def test_whatever_is_answered(
    rounds: list[tuple[Answer, Answer, int]], kind: str, seed: int
) -> None:
    """Unlink only what the receiver has; quarantine never twice without a success between."""
    p = policy(random.Random(seed).random, kind)
    waiting = list(range(1000))
    now = NOW
    successes = 0
    successes_at_quarantine: int | None = None
    for put, head, pick in rounds:
        left = [b for b in waiting if str(b) not in p.pass_over]
        batch = left[min(pick, len(left) - 1)]
        was_held = p.held
        decision, proof = p.answered(str(batch), put, now), put
        if isinstance(decision, Ask):
            assert put.status == 412
            decision, proof = p.asked(str(batch), head, now), head
        quarantined: list[str] = []
        match decision:
            case Acknowledged(judged):
                assert proof.status is not None
                assert 200 <= proof.status < 300
                assert (
                    proof.digest is Digest.MATCHED
                    or (proof is put and kind == "object-store")
                    or (proof is head and proof.length_matched and proof.digest is Digest.ABSENT)
                )
                successes += proof is put
                waiting.remove(batch)
                quarantined = [b for b, _ in judged]
                assert not p.held
            case Quarantine():
                assert not was_held
                quarantined = [str(batch)]
            case PassOver(until):
                assert 0 <= until - now <= 900 * SECOND
            case Wait(until):
                assert not was_held
                assert 0 <= until - now <= 4500 * SECOND
                now = until
            case Hold(until):
                assert p.held
                assert 900 * SECOND <= until - now <= 4500 * SECOND
                now = until
        for gone in quarantined:
            assert successes_at_quarantine != successes
            successes_at_quarantine = successes
            waiting.remove(int(gone))
