"""The limits of the agent itself: at which level it gives up something to stay within them. Pure.

What is given up at each level, and in which order, stands in `agent.collect.budget`: one order for
all that can run short. Of the limits the one with the highest level decides.

**CPU**: the mean share of one core, measured every ten seconds. Above the limit it goes a level up,
each time; below 70 % of it for a minute, a level down.

**Memory**: resident, looked at every ten seconds. From 90 % of the limit on it goes a level up,
each time; below 80 % for a minute, a level down. What is resident seldom falls by much, and no
sample less makes a program smaller, so the gap is narrower than that of the CPU.

**Bytes written**: what is passed to write() in a day (UTC; `agent.uplink.allowance` says which day
it is where no clock is right). The shares of a day's bytes have the levels of a budget. What is
counted outlives a restart (`Limiter.state`).

A level that goes up again as soon as it went down would swing for ever, and all rates with it. So
where a step down did not hold for as long as it was waited for, the next one is waited for twice as
long, up to 15 minutes; where one has held, the wait is a minute again. Time in which nobody looked,
as in suspend, counts as two looks.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from agent.clock import SECOND, BootNs
from agent.collect.budget import LEVELS, level_of
from agent.settings import Limits
from agent.uplink.allowance import Allowance, Now

EVERY_NS: Final = 10 * SECOND
HOLD_NS: Final = 60 * SECOND
MOST_HOLD_NS: Final = 900 * SECOND
CPU_CLEAR: Final = 0.7
MEMORY_NEAR: Final = 0.9
MEMORY_CLEAR: Final = 0.8
_MB: Final = 1_000_000


class Ladder:
    """A level that goes up when it must, and down when it surely may."""

    def __init__(self) -> None:
        self.level = 0
        self._hold_ns = HOLD_NS
        self._clear_ns = 0
        """For how long it could have gone down."""
        self._since_fall_ns: int | None = None
        """None where the last fall has held, or was none."""

    def look(self, passed_ns: int, *, over: bool, clear: bool) -> int:
        """The level, after a look that came so long after the one before."""
        passed_ns = min(max(0, passed_ns), 2 * EVERY_NS)
        if self._since_fall_ns is not None:
            self._since_fall_ns += passed_ns
            if self._since_fall_ns > self._hold_ns:
                self._since_fall_ns, self._hold_ns = None, HOLD_NS
        self._clear_ns = self._clear_ns + passed_ns if clear and not over else 0
        if over and self.level < LEVELS:
            self.level += 1
            if self._since_fall_ns is not None:
                self._since_fall_ns, self._hold_ns = None, min(2 * self._hold_ns, MOST_HOLD_NS)
        elif self.level and self._clear_ns >= self._hold_ns:
            self.level -= 1
            self._clear_ns = self._since_fall_ns = 0
        return self.level


class Taken(NamedTuple):
    """What the process has taken so far."""

    cpu_s: float
    memory_bytes: int | None
    """Resident now; None where the kernel does not say."""
    written_bytes: int


class Limiter:
    """Follows what the process takes. Not thread-safe."""

    def __init__(self, limits: Limits, kept: Mapping[str, Any] | None = None) -> None:
        """`kept` is what `state` gave before; what is wrong in it is left out."""
        self._limits = limits
        self._cpu = Ladder()
        self._memory = Ladder()
        self._written_level = 0
        self._allowance = Allowance(limits.written_mb_day, 0, kept)
        self._counted = 0
        self._looked: tuple[BootNs, float] | None = None
        """When CPU and memory were looked at, and the CPU time then."""
        self._cpu_percent: float | None = None
        self._memory_bytes: int | None = None
        self._today = 0
        self._since: BootNs | None = None

    @property
    def level(self) -> int:
        """What is to be given up: that of the limit which asks for most."""
        return max(self.levels.values())

    @property
    def levels(self) -> dict[str, int]:
        """`cpu`, `memory` and `written`, each with its own."""
        return {
            "cpu": self._cpu.level,
            "memory": self._memory.level,
            "written": self._written_level,
        }

    def look(self, now: Now, taken: Taken) -> list[str]:
        """What is taken now. Gives of each limit whose level changed what is used of it."""
        before = self.levels
        self.count(now, taken.written_bytes)
        if self._limits.written_mb_day:
            share = self._today / (self._limits.written_mb_day * _MB)
            self._written_level = level_of(share, self._written_level)
        self._look(now.boot, taken)
        after = self.levels
        if after != before:
            self._since = now.boot
        said = {row["name"]: str(row["said"]) for row in self._rows()}
        return [said[name] for name, level in after.items() if level != before[name]]

    def count(self, now: Now, written_bytes: int) -> None:
        """So much was written since the process began."""
        self._allowance.add(max(0, written_bytes - self._counted), now)
        self._counted = max(written_bytes, self._counted)
        self._today = self._allowance.today(now)

    def state(self) -> dict[str, dict[str, Any]]:
        """What has to be kept over a restart, fit for JSON."""
        return self._allowance.state()

    def status(self) -> dict[str, Any]:
        """For the status; fit for JSON."""
        return {
            "level": self.level,
            "since_boot_s": None if self._since is None else round(self._since / SECOND, 3),
            "written_bytes": self._counted,
            "limits": self._rows(),
        }

    def _look(self, now: BootNs, taken: Taken) -> None:
        """CPU and memory, when it is time."""
        if self._looked is None:
            self._looked = now, taken.cpu_s
            self._memory_bytes = taken.memory_bytes
            return
        then, cpu_s = self._looked
        passed_ns = now - then
        if passed_ns < EVERY_NS:
            return
        self._looked = now, taken.cpu_s
        percent = self._cpu_percent = max(0.0, 100 * (taken.cpu_s - cpu_s) * SECOND / passed_ns)
        if limit := self._limits.cpu_percent:
            self._cpu.look(passed_ns, over=percent > limit, clear=percent < CPU_CLEAR * limit)
        used = self._memory_bytes = taken.memory_bytes
        if (most := self._limits.memory_mb << 20) and used is not None:
            self._memory.look(
                passed_ns, over=used >= MEMORY_NEAR * most, clear=used < MEMORY_CLEAR * most
            )

    def _rows(self) -> list[dict[str, Any]]:
        """Each limit that there is, with what is used of it: `said` is for people."""
        limits, levels = self._limits, self.levels
        most = limits.memory_mb << 20
        figures = (
            ("cpu", self._cpu_percent, limits.cpu_percent, 1, "%"),
            ("memory", self._memory_bytes, most, 1 << 20, "MB"),
            ("written", self._today, limits.written_mb_day * _MB, _MB, "MB"),
        )
        return [
            {
                "name": name,
                "used": None if used is None else round(used, 1),
                "limit": limit,
                "used_ratio": None if used is None else round(used / limit, 4),
                "level": levels[name],
                "said": _said(name, used, limit, scale, unit),
            }
            for name, used, limit, scale, unit in figures
            if limit
        ]


def _said(name: str, used: float | None, limit: float, scale: int, unit: str) -> str:
    """`memory 480 MB of 512 MB`, `written 0.04 MB of 50 MB today`."""
    known = "?" if used is None else _figure(used / scale)
    today = " today" if name == "written" else ""
    return f"{name} {known} {unit} of {limit / scale:g} {unit}{today}"


def _figure(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{round(value, 2):g}"
