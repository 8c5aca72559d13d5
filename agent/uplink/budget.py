"""Budgets of the whole process or of an uplink: second attempts, and bytes a second.

Back-off protects a receiver from one sender. The budget of retries protects the link and the
battery from all of them: with every uplink failing at once, no more than `capacity` retries come in
a burst and `per_minute` after that.
"""

from agent.clock import SECOND, BootNs


class RetryBudget:
    """A token bucket of which only the moment is kept at which it will be full.

    Shared by all senders. It belongs to the event loop: not thread-safe.
    """

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


class Pace:
    """How fast one uplink may send: bytes are booked, and go when those before them are paid.

    No burst is saved up: a link that others use is not to be filled after a pause. Only the moment
    at which the last booking is paid is kept. Times are seconds of any clock that is never set.
    """

    _PIECE_S = 0.25
    _PIECE_MIN = 1024

    def __init__(self, kbit_s: float) -> None:
        if kbit_s <= 0:
            raise ValueError("a pace needs a rate above 0")
        self._bytes_per_s = kbit_s * 1000 / 8
        self._paid_at = 0.0

    def take(self, size: int, now: float) -> float:
        """Book bytes; gives the seconds to wait before they may go."""
        begins = max(self._paid_at, now)
        self._paid_at = begins + size / self._bytes_per_s
        return begins - now

    def piece(self, most: int) -> int:
        """How many bytes to send at once, so that the link is used evenly."""
        return max(self._PIECE_MIN, min(most, int(self._bytes_per_s * self._PIECE_S)))
