"""Budgets: what is given up, and in which order, when a day's bytes run short.

The limits of the agent itself (`agent.limits`) give up the same in the same order.

A budget is so many MB a day, over all links or over metered ones. What counts is the plain share of
it that is used, whatever the time of day: a vehicle that drives in the morning only may well use
all of its day by noon.

    used       level  rates            lanes that are off
    below 70 %   0    whole            -
    70 %         1    one sample in 2  -
    80 %         2    one in 4         -
    85 %         3    one in 4         raw
    90 %         4    one in 8         raw
    95 %         5    -                raw, telemetry

What costs resolution goes before what costs all of a lane, and of the lanes the least important one
goes first. `event` and `report` are whole at every level: the last twentieth of a day is theirs,
and beyond the limit they go on, because the limit of the contract is the device file's matter
(`agent.uplink.allowance`). Of several budgets the one that is used most decides.

A level is entered at its share and left `HYSTERESIS` below it, so that a figure that wavers at a
border does not switch rates at every look. A new day begins with little used, and so at level 0.
Days are those of whoever counts the bytes; this machine only sees the figure fall, and no clock
that jumps can confuse it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.clock import SECOND, BootNs
from agent.settings.plan import Budget
from agent.settings.types import LANES, Lane

HYSTERESIS: Final = 0.05
_MB: Final = 1_000_000


class Degradation(NamedTuple):
    """What is given up now."""

    level: int = 0
    """From 0, nothing, to 5."""
    factor: int = 1
    """One sample is kept where there would be so many: 1, 2, 4 or 8."""
    lanes_off: frozenset[Lane] = frozenset()
    """Nothing is kept for these."""


class _Step(NamedTuple):
    share: float
    """Of the day's bytes, from which on it holds."""
    degradation: Degradation
    sentence: str


_RAW: Final[frozenset[Lane]] = frozenset({"raw"})
_STEPS: Final = (
    _Step(0.00, Degradation(), "everything is kept"),
    _Step(0.70, Degradation(1, 2), "one sample in 2 is kept"),
    _Step(0.80, Degradation(2, 4), "one sample in 4 is kept"),
    _Step(0.85, Degradation(3, 4, _RAW), "one sample in 4 is kept, and no raw frames"),
    _Step(0.90, Degradation(4, 8, _RAW), "one sample in 8 is kept, and no raw frames"),
    _Step(0.95, Degradation(5, 8, _RAW | {"telemetry"}), "only events and reports are kept"),
)

LEVELS: Final = len(_STEPS) - 1
"""The highest level, at which all is given up that may be."""


def degradation_of(level: int) -> Degradation:
    """What is given up at a level."""
    return _STEPS[level].degradation


def sentence_of(level: int) -> str:
    """What is still kept at a level, such as `one sample in 2 is kept`."""
    return _STEPS[level].sentence


def level_of(share: float, before: int) -> int:
    """The level at a share of a day's bytes that are used, where it was `before`."""
    return max(_level(share), min(before, _level(share + HYSTERESIS)))


REPORT: Final = TableSchema(
    "agent",
    "Budget",
    (
        SignalSchema(
            "Level", "uint64", 8, choices=tuple((s.degradation.level, s.sentence) for s in _STEPS)
        ),
        SignalSchema("UsedPercent", "uint64", 16, unit="%"),
    ),
)
"""What a plan can keep of this machine: `Budget.Level` and `Budget.UsedPercent`."""


class BudgetKeeper:
    """Follows the bytes of a day. Pure; belongs to whoever counts them."""

    def __init__(self, budgets: Sequence[Budget]) -> None:
        self.degradation = Degradation()
        self.change = ""
        """A sentence for the log where the last look changed the level; else empty."""
        self._budgets = tuple(budgets)
        self._used: dict[str, int] = {}
        self._since: BootNs | None = None

    def adopt(self, old: "BudgetKeeper") -> None:
        """Go on at the level of another one; the next look decides with these budgets."""
        self.degradation = old.degradation

    def look(self, now: BootNs, sent: Mapping[str, int]) -> Degradation:
        """What to give up, after so many bytes of this day: link class -> bytes.

        A class that is not in `sent` is not known, and nothing is given up for it.
        """
        self._used = {link: max(0, count) for link, count in sent.items()}
        share = max((self._share(budget) for budget in self._budgets), default=0.0)
        before = self.degradation.level
        level = level_of(share, before)
        self.change = ""
        if level != before or self._since is None:
            self._since = now
        if level != before:
            self.degradation = _STEPS[level].degradation
            self.change = (
                f"budget: {share:.0%} of {self._fullest()} are used: {_STEPS[level].sentence}"
            )
        return self.degradation

    @property
    def spent(self) -> str:
        """Why only events and reports are kept now; empty while more is."""
        return _STEPS[-1].sentence if self.degradation == _STEPS[-1].degradation else ""

    @property
    def used_percent(self) -> int:
        """Of the budget that is used most, whole percent, rounded down."""
        return int(100 * max((self._share(budget) for budget in self._budgets), default=0.0))

    def status(self) -> dict[str, Any]:
        """For the status; fit for JSON."""
        now = self.degradation
        return {
            "level": now.level,
            "factor": now.factor,
            "lanes_off": [lane for lane in LANES if lane in now.lanes_off],
            "degraded": _STEPS[now.level].sentence if now.level else "",
            "since_boot_s": None if self._since is None else round(self._since / SECOND, 3),
            "budgets": [
                {
                    "link": budget.link,
                    "used_bytes": self._used.get(budget.link),
                    "limit_bytes": _limit(budget),
                }
                for budget in self._budgets
            ],
        }

    def row(self, time: BootNs) -> SignalTable:
        """One row of `REPORT`."""
        most = (1 << 16) - 1
        values = [[self.degradation.level], [min(self.used_percent, most)]]
        return SignalTable(
            REPORT, np.array([time], np.int64), {"uint64": np.array(values, np.uint64)}
        )

    def _share(self, budget: Budget) -> float:
        return self._used.get(budget.link, 0) / _limit(budget)

    def _fullest(self) -> str:
        budget = max(self._budgets, key=self._share, default=None)
        if budget is None:
            return "no budget"
        links = "all links" if budget.link == "any" else "metered links"
        return f"{budget.mb_per_day:g} MB a day over {links}"


def _limit(budget: Budget) -> int:
    return max(1, round(budget.mb_per_day * _MB))


def _level(share: float) -> int:
    # Hundredths of a percent, so that 0.70 and 0.65 + 0.05 are the same share.
    return max(n for n, step in enumerate(_STEPS) if round(share, 4) >= step.share)


_Series = tuple[str, str, str, int | None, tuple[str, ...]]
"""Campaign, bus, message, source and signals: what is thinned together."""


class Slower:
    """Keeps one row in `factor` of each series. Belongs to the decode thread.

    Rows are counted, in the order of their times, and not measured on a grid of time: that needs to
    know nothing of a series' rate and holds for any policy that made it. Of a list (`entries`) all
    rows of one time are counted as one, and kept or left together. Tables of the same signals are
    one series, so that nothing depends on where blocks end, nor on frames of another length or
    branch. While the factor is 1 nothing is counted.

    The rows that 8 keeps are among those that 4 keeps, and so on: where the factor changes, the
    distance of rows changes and nothing is kept twice.

    It suits rows that are each a sample of their own. Rows that hold until the next one (on change,
    dead bands, the door) do not say when one of them is missing: there, thin what goes into the
    policy.
    """

    def __init__(self) -> None:
        self._seen: dict[_Series, tuple[int, int | None]] = {}
        """Series -> how many rows, or lists, came; and the time of the last one."""

    def apply(self, tables: Sequence[SignalTable], factor: int) -> tuple[list[SignalTable], int]:
        """Tables with fewer rows, and how many samples were thinned.

        Raises:
            ValueError: a factor below 1.
        """
        if factor < 1:
            raise ValueError(f"one sample in {factor} is none")
        if factor == 1:
            return list(tables), 0
        series: dict[_Series, list[SignalTable]] = {}
        for table in tables:
            key = (table.campaign, table.bus, table.message, table.source, table.names)
            series.setdefault(key, []).append(table)
        kept = [
            part if rows.all() else part.take(rows)
            for key, parts in series.items()
            for part, rows in zip(parts, self._choose(key, parts, factor), strict=True)
        ]
        thinned = sum(t.samples for t in tables) - sum(t.samples for t in kept)
        return [table for table in kept if len(table)], thinned

    def _choose(
        self, key: _Series, parts: Sequence[SignalTable], factor: int
    ) -> list[NDArray[np.bool_]]:
        """Which rows of each table are kept: bool[n] for each."""
        times = np.concatenate([part.time for part in parts])
        if not len(times):
            return [np.empty(0, bool) for _ in parts]
        order = np.argsort(times, kind="stable")
        in_order = times[order]
        count, last = self._seen.get(key, (0, None))
        number = count + np.arange(len(times))
        if parts[0].schema.entries:
            begins = np.diff(in_order, prepend=in_order[0] - 1) != 0
            begins[0] = last is None or in_order[0] != last
            number = count + np.cumsum(begins) - 1
        self._seen[key] = int(number[-1]) + 1, int(in_order[-1])
        chosen = np.empty(len(times), bool)
        chosen[order] = number % factor == 0
        ends = np.cumsum([len(part) for part in parts])
        return np.split(chosen, ends[:-1])
