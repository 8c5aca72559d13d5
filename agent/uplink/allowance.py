"""How many bytes may still go over a link that costs money, this day and this month. Pure.

A day and a month are those of the calendar in UTC as long as the clock is synchronised. Without
that nothing is known of the calendar, so a period then ends after 24 hours (a month: 31 days) in
which the computer was *up*: more time has passed than that, so no real day is ever given more than
its limit. A clock that becomes good in the middle of a period names it and forgives nothing; one
that turns out to have been ahead renames it.

The last tenth of a limit is for the lane `event`. What is larger than all of a limit goes when
nothing else was spent in its period, so that nothing waits for ever.
"""

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from agent.clock import SECOND, BootNs, WallNs
from agent.settings import Lane

DAY_S: Final = 24 * 3600.0
MONTH_S: Final = 31 * DAY_S
RESERVE: Final = 0.1
_MB: Final = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Now:
    """One moment by both clocks."""

    boot: BootNs
    wall: WallNs
    synchronised: bool

    @property
    def date(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.wall / SECOND, dt.UTC)


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """Not now: why, and when to ask again."""

    until: BootNs
    why: str


def on_the_link(body_bytes: int) -> int:
    """An estimate of what a request costs.

    4 % for TCP, IP and TLS, and 2 kB for its head, its answer and its share of a handshake.
    """
    return body_bytes + body_bytes // 25 + 2000


@dataclasses.dataclass(slots=True)
class _Period:
    """What was spent in one day or month."""

    kind: str
    limit: int
    length_s: float
    name: str = ""
    """Its date; empty while the clock was not synchronised."""
    spent: int = 0
    up_s: float = 0.0

    def pass_time(self, up_s: float, now: Now) -> None:
        self.up_s += up_s
        if now.synchronised:
            name = now.date.strftime("%Y-%m-%d" if self.kind == "day" else "%Y-%m")
            over = name > self.name if self.name else self.up_s >= self.length_s
            if over:
                self.spent, self.up_s = 0, 0.0
            self.name = name
        elif self.up_s >= self.length_s:
            self.name, self.spent, self.up_s = "", 0, 0.0

    def left_s(self, now: Now) -> float:
        """Seconds until it ends."""
        if not now.synchronised:
            return max(0.0, self.length_s - self.up_s)
        today = now.date.replace(hour=0, minute=0, second=0, microsecond=0)
        if self.kind == "day":
            end = today + dt.timedelta(days=1)
        else:
            end = (today.replace(day=1) + dt.timedelta(days=32)).replace(day=1)
        return (end - now.date).total_seconds()


class Allowance:
    """Spent bytes of this day and this month. Not thread-safe."""

    def __init__(
        self, mb_day: float, mb_month: float, kept: Mapping[str, Any] | None = None
    ) -> None:
        """`kept` is what `state` gave before; what is wrong in it is left out."""
        self._periods = [
            _Period("day", round(mb_day * _MB), DAY_S),
            _Period("month", round(mb_month * _MB), MONTH_S),
        ]
        self._seen: BootNs | None = None
        for period in self._periods:
            row = (kept or {}).get(period.kind)
            if isinstance(row, dict):
                _restore(period, row)

    @property
    def limited(self) -> bool:
        """Whether there is any limit."""
        return any(period.limit for period in self._periods)

    def refusal(self, body_bytes: int, lane: Lane, now: Now) -> Refusal | None:
        """Why a batch may not go now; None if it may."""
        self._pass_time(now)
        cost = on_the_link(body_bytes)
        for period in reversed(self._periods):
            share = 1.0 if lane == "event" else 1.0 - RESERVE
            if not period.limit or not period.spent:
                continue
            if period.spent + cost > period.limit * share:
                until = BootNs(now.boot + round(period.left_s(now) * SECOND))
                events = "" if lane == "event" else "; events still go"
                return Refusal(
                    until,
                    f"the metered link has carried {period.spent / _MB:.1f} of "
                    f"{period.limit / _MB:g} MB this {period.kind}{events}",
                )
        return None

    def spend(self, body_bytes: int, now: Now) -> None:
        """So much of a batch has gone over the metered link, whatever came of it."""
        self.add(on_the_link(body_bytes), now)

    def add(self, count: int, now: Now) -> None:
        """So many bytes were spent, with all that is around them."""
        self._pass_time(now)
        for period in self._periods:
            period.spent += count

    def today(self, now: Now) -> int:
        """Bytes of this day so far."""
        self._pass_time(now)
        return self._periods[0].spent

    def state(self) -> dict[str, dict[str, Any]]:
        """What has to be kept over a restart, fit for JSON."""
        return {
            p.kind: {"name": p.name, "spent_bytes": p.spent, "up_s": round(p.up_s)}
            for p in self._periods
        }

    def _pass_time(self, now: Now) -> None:
        seen, self._seen = self._seen, now.boot
        up_s = 0.0 if seen is None else max(0, now.boot - seen) / SECOND
        for period in self._periods:
            period.pass_time(up_s, now)


def _restore(period: _Period, row: Mapping[str, Any]) -> None:
    name, spent, up_s = row.get("name"), row.get("spent_bytes"), row.get("up_s")
    if isinstance(name, str) and len(name) <= 10:
        period.name = name
    if isinstance(spent, int) and spent >= 0:
        period.spent = spent
    if isinstance(up_s, int) and up_s >= 0:
        period.up_s = float(up_s)
