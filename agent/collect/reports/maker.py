"""Reports to platforms, made of the samples of signals as they come.

`ReportMaker` belongs to the decode thread. It takes one complete sample of the vehicle at each
whole second of the wall clock (of the boot clock, while the wall clock is not known), gives it to
the `Schedule` of each platform, and makes rows of what that chooses. A sample is evaluated once for
all platforms, and encoded once for an edition.

A second is decided when every bus that the mapping reads has passed it, so that it does not matter
where blocks end: then all values and conditions of that second are known. A bus that lags more than
`LAG_NS` behind the newest is not waited for. What comes late counts from the next second on.

Where nothing is heard for longer than all platforms watch a vehicle (a suspended computer, a pause
of a recording), no samples are made until something is heard: these seconds are `skipped`.

Reports of the present second are live. What is decided much later, such as what lay in a queue, is
not: it goes out as what it is, an older report. Nothing of a recording is live.
"""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.blocks import Int64, Reports, SignalTable, TimeBase
from agent.clock import SECOND
from agent.collect.expression import signals_of
from agent.collect.reports.heard import LAG_NS, NEVER, Heard, Truth
from agent.collect.reports.held import Held
from agent.collect.reports.mapping_values import CONDITIONS
from agent.collect.reports.schedule import Decision, Encoded, Schedule
from agent.collect.reports.tuning import Tuning
from agent.gbt32960.layout import Edition
from agent.gbt32960.report import FORMS, encode
from agent.gbt32960.sample import Sample
from agent.signals.database import SignalPath

if TYPE_CHECKING:
    from agent.collect.conditions import Steps
    from agent.collect.reports.mapping import CompiledReports

# ruff: noqa: SLF001 - one maker goes on where another was

PRESENT_NS: Final = LAG_NS + 5 * SECOND
"""Further behind the newest time that was seen, a second is not the present any more."""

_ALARMS: Final = f"{CONDITIONS}alarms."
_NO_TIMES: Final[Int64] = np.empty(0, np.int64)


class ReportMaker:
    """Makes reports for all platforms of a vehicle."""

    def __init__(
        self,
        compiled: "CompiledReports",
        tunings: Mapping[str, Tuning],
        count: Callable[[str, dict[str, int]], None],
    ) -> None:
        """`tunings` by platform; `count` is told what changed of a platform's counters.

        `sampled` is always `reported` + `thinned` + `held`, in moments; `held` is a level.
        """
        self._compiled = compiled
        self._count = count
        self._tunings = dict(tunings)
        self._schedules = {name: Schedule(tuning) for name, tuning in tunings.items()}
        self._held = Held(compiled.slots)
        self._tables: list[SignalTable] = []
        """Those that `_held` has not got yet."""
        self._truths = {name: Truth() for name in compiled.conditions}
        self._alarms = [name for name in compiled.conditions if name.startswith(_ALARMS)]
        self._heard = Heard(compiled.wanted.union(*map(signals_of, compiled.conditions.values())))
        self._offset = 0
        self._newest = NEVER
        """The newest time that was told of a bus or a row."""
        self._last: int | None = None
        """The second that was decided last."""

    @property
    def wanted(self) -> set[SignalPath]:
        """What must be decoded, besides what the conditions need."""
        return self._compiled.wanted

    def take(
        self,
        tables: Sequence[SignalTable],
        steps: Mapping[str, "Steps"],
        reached: Mapping[str, int],
        wall_offset: int | None,
    ) -> dict[str, list[Reports]]:
        """The rows of a block; gives reports by platform, in the order of their times.

        Args:
            tables: with rows in any order.
            steps: changes of conditions that were decided since the last call, for all times
                before those of `reached`.
            reached: up to where each bus has come, ns; rows of it may still follow at that time
                itself. A bus that is silent has to be moved on by the caller.
            wall_offset: wall time less boot time, ns, where it is known; a recording needs none.
        """
        self._put(tables, steps, wall_offset)
        horizon, newest = self._heard.horizon(reached)
        self._newest = max(self._newest, newest)
        return self._decide(horizon)

    def finish(self) -> dict[str, list[Reports]]:
        """The end of all input: decide all seconds up to the newest time that was seen."""
        made = self._decide(max(self._newest, self._heard.newest))
        for name, schedule in self._schedules.items():
            self._drop(name, schedule.clear())
        return made

    def adopt(self, old: "ReportMaker") -> None:
        """Go on where another one was, which is not used any more.

        Where the mappings differ, what is known of signals that both read is kept. The bytes that
        wait for an alarm remain as they are.
        """
        for name, schedule in old._schedules.items():
            if name in self._schedules and old._edition(name) == self._edition(name):
                self._schedules[name].adopt(schedule)
            else:
                old._drop(name, schedule.clear())
        mine, others = self._compiled.conditions, old._compiled.conditions
        for name in mine.keys() & others.keys():
            if mine[name] == others[name]:
                self._truths[name] = old._truths[name]
        if self._compiled.slots.by_signal == old._compiled.slots.by_signal:
            self._held = old._held
        else:
            old._held.take((), old._heard.newest)
            self._held.adopt(old._held)
        self._heard.adopt(old._heard)
        self._tables = old._tables
        self._offset, self._newest, self._last = old._offset, old._newest, old._last

    # -- what comes ---------------------------------------------------------------------------

    def _put(
        self,
        tables: Sequence[SignalTable],
        steps: Mapping[str, "Steps"],
        wall_offset: int | None,
    ) -> None:
        self._tables += self._heard.put(tables)
        for name, changes in steps.items():
            if name in self._truths:
                self._truths[name].note(changes, NEVER if self._last is None else self._last)
        if wall_offset is not None:
            self._offset = wall_offset

    def _edition(self, platform: str) -> Edition:
        return self._tunings[platform].edition

    def _drop(self, platform: str, gone: int) -> None:
        if gone:
            self._count(platform, {"thinned": gone, "held": -gone})

    # -- second after second ------------------------------------------------------------------

    def _decide(self, horizon: int) -> dict[str, list[Reports]]:
        """All seconds that are left, up to and with a time."""
        made = {name: _Rows(self._edition(name), self._heard.clock) for name in self._schedules}
        counts: dict[str, Counter[str]] = {name: Counter() for name in self._schedules}
        while (second := self._next()) is not None and second <= horizon:
            silent = second - self._heard.until(second)
            if silent > self._watch_ns() and all(s.is_asleep for s in self._schedules.values()):
                seconds = self._silence(second, horizon)
                self._last = second + (seconds - 1) * SECOND
                for each in counts.values():
                    each["skipped"] += seconds
            else:
                self._moment(second, made, counts)
                self._last = second
        for name, each in counts.items():
            if changes := {key: n for key, n in each.items() if n}:
                self._count(name, changes)
        return {name: found for name, rows in made.items() if (found := rows.all())}

    def _next(self) -> int | None:
        """The whole second to be decided next; None while nothing was heard."""
        clock = self._heard.clock
        if clock is None:
            return None
        offset = self._offset if clock == "boot" else 0
        if self._last is None:
            first = self._heard.first
            return None if first is None else -(-(first + offset) // SECOND) * SECOND - offset
        # The nearest one: where the clocks are slewed, no second comes twice or is left out.
        return (self._last + SECOND + offset + SECOND // 2) // SECOND * SECOND - offset

    def _watch_ns(self) -> int:
        return round(max(t.off_watch_s for t in self._tunings.values()) * SECOND)

    def _silence(self, second: int, horizon: int) -> int:
        """How many seconds from this one on there is nothing to be heard in."""
        following = self._heard.following()
        end = horizon + 1 if following is None else min(following, horizon + 1)
        return max(1, -(-(end - second) // SECOND))

    def _moment(
        self,
        second: int,
        made: Mapping[str, "_Rows"],
        counts: Mapping[str, "Counter[str]"],
    ) -> None:
        self._held.take(self._tables, second)
        self._tables = []
        truths = {name: truth.at(second) for name, truth in self._truths.items()}
        # An alarm counts however short it was.
        truths |= {name: self._truths[name].rose or truths[name] for name in self._alarms}
        sample = self._compiled.sample(self._held, truths, second)
        bytes_ = _Encoding(sample)
        present = self._heard.clock == "boot" and self._newest - second <= PRESENT_NS
        for name, schedule in self._schedules.items():
            held = len(schedule)
            edition = self._edition(name)
            decision = schedule.offer(second, sample, functools.partial(bytes_.of, edition))
            made[name].add(decision, present=present)
            changes = counts[name]
            changes["sampled"] += 1
            changes["reported"] += len(decision.reports)
            changes["thinned"] += decision.thinned
            changes["held"] += len(schedule) - held
            for chosen in decision.reports:
                changes["invalid"] += chosen.encoded.invalid
                changes["abnormal"] += chosen.encoded.abnormal


class _Encoding:
    """A sample in the editions that are asked for."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._made: dict[Edition, Encoded] = {}

    def of(self, edition: Edition) -> Encoded:
        if edition not in self._made:
            bodies, invalid, abnormal = encode(self._sample, edition)
            self._made[edition] = Encoded(tuple(bodies), invalid, abnormal)
        return self._made[edition]


class _Rows:
    """Reports of one platform, joined where they are alike."""

    def __init__(self, edition: Edition, clock: TimeBase | None) -> None:
        self._form = FORMS[edition]
        self._clock: TimeBase = clock or "boot"
        self._made: list[Reports] = []
        self._live = False
        self._times: list[int] = []
        self._bodies: list[bytes] = []

    def add(self, decision: Decision, *, present: bool) -> None:
        for time, encoded, live in decision.reports:
            if (live and present) != self._live:
                self._close()
                self._live = live and present
            self._times += [time] * len(encoded.bodies)
            self._bodies += encoded.bodies
        if decision.fell_asleep:
            self._close()
            self._made.append(Reports(self._form, _NO_TIMES, (), self._clock, awake=False))

    def all(self) -> list[Reports]:
        self._close()
        return self._made

    def _close(self) -> None:
        if self._times:
            time, bodies = np.array(self._times, np.int64), tuple(self._bodies)
            self._made.append(Reports(self._form, time, bodies, self._clock, self._live))
        self._times, self._bodies = [], []
