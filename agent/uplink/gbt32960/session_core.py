"""What the parts of a session share: the present time, the timers, the counts, the actions."""

import enum
from collections import Counter
from collections.abc import Iterator

from agent.clock import BootNs, WallNs
from agent.uplink.gbt32960.session_types import Action


class Timer(enum.Enum):
    CONNECT = enum.auto()
    CONNECT_LATE = enum.auto()
    LOGIN = enum.auto()
    HEARTBEAT = enum.auto()
    HEARTBEAT_LATE = enum.auto()
    TIME_SYNC = enum.auto()
    REISSUE = enum.auto()
    AGAIN = enum.auto()
    LEAVE = enum.auto()


class Core:
    """One event at a time: it has a time, and makes actions in an order."""

    def __init__(self) -> None:
        self.now = BootNs(0)
        self.wall = WallNs(0)
        self.out: list[Action] = []
        self.counts: Counter[str] = Counter()
        self.online = False
        self.clock_good = True
        self._timers: dict[Timer, int] = {}

    @property
    def first(self) -> BootNs | None:
        """When the first timer is due."""
        return BootNs(min(self._timers.values())) if self._timers else None

    def armed(self, timer: Timer) -> bool:
        return timer in self._timers

    def arm(self, timer: Timer, at: int | None) -> None:
        """Set it to this boot time, or take it away."""
        if at is None:
            self._timers.pop(timer, None)
        else:
            self._timers[timer] = at

    def disarm(self) -> None:
        """Take all timers away."""
        self._timers.clear()

    def due(self) -> Iterator[Timer]:
        """The timers that are due, the first one first; also those armed meanwhile."""
        while self._timers:
            timer = min(self._timers, key=self._timers.__getitem__)
            if self._timers[timer] > self.now:
                return
            del self._timers[timer]
            yield timer
