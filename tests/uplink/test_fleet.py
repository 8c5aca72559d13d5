"""A fleet that comes back together spreads itself: five hundred policies and one receiver."""

import collections
import heapq
import random
from collections.abc import Callable

import pytest

from agent.clock import SECOND, BootNs
from agent.uplink.budget import RetryBudget
from agent.uplink.policy import Acknowledged, Answer, Digest, Hold, PassOver, Policy, Wait

FLEET = 500
HOUR = 3600.0


class Vehicle:
    """A policy, its budget, and when it sends next, seconds."""

    def __init__(self, seed: int) -> None:
        self.policy = Policy("http", random.Random(seed).random)
        self.budget = RetryBudget()

    def attempt(self, now: float, answer: Answer) -> float | None:
        """Send a batch that is answered so; when to send again, or None when it has arrived."""
        boot = BootNs(round(now * SECOND))
        if self.policy.retries("batch") and (lacking := self.budget.take(boot)):
            return now + lacking
        decision = self.policy.answered("batch", answer, boot)
        if isinstance(decision, Acknowledged):
            return None
        assert isinstance(decision, Wait | Hold | PassOver)
        return decision.until / SECOND


def attempts(
    starts: list[float], receiver: Callable[[float], Answer], limit_s: float
) -> tuple[list[float], int]:
    """The times of all attempts of the fleet, and how many vehicles got through."""
    fleet = [Vehicle(seed) for seed in range(len(starts))]
    queue = [(start, i) for i, start in enumerate(starts)]
    heapq.heapify(queue)
    times: list[float] = []
    through = 0
    while queue:
        now, i = heapq.heappop(queue)
        if now > limit_s:
            break
        times.append(now)
        again = fleet[i].attempt(now, receiver(now))
        if again is None:
            through += 1
        else:
            heapq.heappush(queue, (again, i))
    return times, through


def peak(times: list[float], begin: float = 0.0) -> int:
    """The most attempts in any second from `begin` on."""
    seconds = collections.Counter(int(t) for t in times if t >= begin)
    return max(seconds.values())


ACCEPTED = Answer(201, Digest.MATCHED)


@pytest.mark.parametrize(
    "failing",
    [Answer(), Answer(503), Answer(500), Answer(404), Answer(401), Answer(418)],
    ids=["no answer", "503", "500", "404", "401", "418"],
)
def test_a_receiver_that_returns_after_two_days_is_not_stormed(failing: Answer) -> None:
    """All began to fail in the same second."""
    returns = 48 * HOUR
    times, through = attempts(
        [0.0] * FLEET,
        lambda now: ACCEPTED if now >= returns else failing,
        returns + 2 * HOUR,
    )
    assert through == FLEET
    assert peak(times, returns) < FLEET / 50
    # Long before it returns they do not knock all together any more.
    assert peak(times, HOUR) < FLEET / 20


def test_vehicles_that_start_together_after_days_offline_do_not_knock_together() -> None:
    """A depot gets its power back, or a tunnel ends."""
    starts = [
        Policy("http", random.Random(seed).random).returns(BootNs(0)) / SECOND
        for seed in range(FLEET)
    ]
    times, through = attempts(starts, lambda _: ACCEPTED, HOUR)
    assert through == FLEET
    assert max(times) <= 60
    assert peak(times) < FLEET / 10


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("asked_s", [60, 600, 3600])
def test_those_who_were_told_the_same_do_not_come_back_at_the_same_time(
    status: int, asked_s: int
) -> None:
    returns = float(asked_s)
    times, through = attempts(
        [0.0] * FLEET,
        lambda now: ACCEPTED if now >= returns else Answer(status, retry_after_s=asked_s),
        3 * HOUR,
    )
    later = [t for t in times if t > 0]
    assert through == FLEET
    assert min(later) >= asked_s
    assert peak(later) < FLEET / 10


def test_a_receiver_that_can_take_few_at_a_time_gets_all_of_them_in_the_end() -> None:
    taken: collections.Counter[int] = collections.Counter()

    def receiver(now: float) -> Answer:
        taken[int(now)] += 1
        return ACCEPTED if taken[int(now)] <= 5 else Answer(503)

    times, through = attempts([0.0] * FLEET, receiver, HOUR)
    assert through == FLEET
    assert len(times) < 12 * FLEET
