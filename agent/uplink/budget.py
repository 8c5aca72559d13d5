"""One budget of second attempts for the whole process: a token bucket.

Back-off protects a receiver from one sender. The budget protects the link and the battery from all
of them: with every uplink failing at once, no more than `capacity` retries come in a burst and
`per_minute` after that. Only the moment at which the bucket will be full is kept.
"""

from agent.clock import SECOND, BootNs


class RetryBudget:
    """Shared by all senders. It belongs to the event loop: not thread-safe."""

    def __init__(self, capacity: int = 10, per_minute: float = 6.0) -> None:
        if capacity < 1 or per_minute <= 0:
            raise ValueError("a budget needs a capacity of 1 and a rate above 0 at least")
        self._capacity = capacity
        self._interval = round(60 * SECOND / per_minute)
        self._full_at = 0

    def take(self, now: BootNs) -> float:
        """Take one retry; gives 0.0, or the seconds until there may be one (nothing is taken)."""
        full_at = max(self._full_at, now)
        lacking = full_at - now - (self._capacity - 1) * self._interval
        if lacking > 0:
            return lacking / SECOND
        self._full_at = full_at + self._interval
        return 0.0
