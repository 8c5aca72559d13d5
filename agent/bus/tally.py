"""Totals that only grow: what the kernel dropped and lost, and what to say of a growing total."""

from typing import Final

from agent.clock import SECOND

_QUIET_NS: Final = 10 * SECOND


class DropCounter:
    """The kernel's counts of drops, 32 bits each and one for each socket, added up.

    Counts may come in any order: one that came with a frame is older than one that was asked for.
    """

    def __init__(self) -> None:
        self.total = 0
        self._last = 0

    def begin(self) -> None:
        """There is a new socket, which has dropped nothing."""
        self._last = 0

    def tell(self, count: int) -> None:
        """`count` modulo 2**32; one that is older than the last is known already."""
        more = (count - self._last) & 0xFFFF_FFFF
        if more < 1 << 31:
            self.total += more
            self._last = count


class LossCounter:
    """What interfaces lost before any socket: totals of each interface since it was made."""

    def __init__(self) -> None:
        self.total = 0
        self._last: int | None = None

    def begin(self) -> None:
        """It may be another interface; its first total is where counting begins."""
        self._last = None

    def tell(self, count: int) -> None:
        if self._last is not None and count > self._last:
            self.total += count - self._last
        self._last = count


class Spell:
    """Tells when a total begins to grow, and when it has not grown for ten seconds."""

    def __init__(self) -> None:
        self.total = 0
        self._at_begin = 0
        self._grew_at: int | None = None

    def see(self, now: int, total: int) -> bool:
        """Whether a spell begins with this total."""
        if total == self.total:
            return False
        begins = self._grew_at is None
        if begins:
            self._at_begin = self.total
        self.total, self._grew_at = total, now
        return begins

    def over(self, now: int) -> int | None:
        """By how much the total grew in the spell that ends now; None if none ends."""
        if self._grew_at is None or now - self._grew_at < _QUIET_NS:
            return None
        self._grew_at = None
        return self.total - self._at_begin
