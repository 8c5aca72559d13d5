"""How many reissues may be under way, and which of them breaks the link.

Some platforms close the connection at a frame that they do not like. A report of which they do so
would be the oldest in the store for ever. So each connection that breaks with reissues under way
leaves an eighth of the window, and each answer that confirms some doubles it again. When nothing is
left of it, the session is careful: reissues go one by one, each with a heartbeat right behind. When
the link breaks very soon after one, that one is the suspect.

A bad link, or a platform that falls over, breaks at that moment as well, so a suspect is tried
again on a link that has shown more: before it goes out, the connection must have stood twice as
long as the one that it seemed to break, and a heartbeat must have been answered then. A link that
breaks earlier clears it. Only a report that breaks the link each time, however long that stood,
comes to `broken_tries` in a row and is given up. A link that hangs is blamed on nobody.
"""

from typing import Final

from agent.clock import SECOND, BootNs

_SHRINKS: Final = 8
_GROWS: Final = 2
# A break is blamed on a report within this time, or this many times the delay of an answer.
_SOON_NS: Final = SECOND
_DELAYS: Final = 3
_MOST_PATIENCE_NS: Final = 60 * SECOND


class ReissueWindow:
    """Of one platform, over all its connections."""

    def __init__(self, most: int, broken_tries: int) -> None:
        self._most = most
        self._broken_tries = broken_tries
        self._left = most
        self._began = 0
        self._asked_at = 0
        self._delay_ns = 0
        self._proved = False
        self._sent_at = 0
        self._patience_ns = 0
        self._suspect: int | None = None
        self._breaks = 0

    @property
    def size(self) -> int:
        """So many may be under way."""
        return max(1, self._left)

    @property
    def careful(self) -> bool:
        """Whether they go one by one, as the link broke again and again."""
        return self._left == 0

    @property
    def proved(self) -> bool:
        """Whether the link is good enough for a reissue."""
        return self._proved or not self.careful

    @property
    def proof_at(self) -> int:
        """When a heartbeat may prove it, in boot time."""
        return self._began + self._patience_ns

    def begin(self, now: BootNs) -> None:
        """A login was answered."""
        self._began = now
        self._proved = False

    def ask(self, now: BootNs) -> None:
        """A heartbeat goes out."""
        self._asked_at = now

    def answer(self, now: BootNs) -> None:
        """It was answered."""
        self._delay_ns = now - self._asked_at
        self._proved = self._proved or self._asked_at >= self.proof_at

    def sent(self, now: BootNs) -> None:
        """A reissue goes out."""
        self._sent_at = now

    def confirmed(self) -> None:
        """Reissues were."""
        self._left = min(max(1, self._left * _GROWS), self._most)
        self._patience_ns = 0
        self._clear()

    def broke(self, now: BootNs, reissues: int, oldest: int | None) -> bool:
        """The link broke. Gives whether the oldest report under way is to be given up.

        Args:
            now: in boot time.
            reissues: how many are under way.
            oldest: the key of what is longest under way, if that is a reissue.
        """
        careful = self.careful
        if reissues:
            self._left //= _SHRINKS
        if not careful:
            return False
        if not self._proved:
            self._patience_ns //= 2
            self._clear()
            return False
        if oldest is None or now - self._sent_at > max(_SOON_NS, _DELAYS * self._delay_ns):
            return False
        self._patience_ns = min(2 * (now - self._began), _MOST_PATIENCE_NS)
        self._breaks = self._breaks + 1 if self._suspect == oldest else 1
        self._suspect = oldest
        if self._breaks < self._broken_tries:
            return False
        self._clear()
        return True

    def _clear(self) -> None:
        self._suspect, self._breaks = None, 0
