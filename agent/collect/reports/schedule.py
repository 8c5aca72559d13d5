"""Which samples of a vehicle become reports to one platform.

A complete sample comes each second, which is as often as an alarm needs it (`alarm_s`, at most 1).
In the order of what counts more:

1. Alarm: when the level comes to `alarm_level` or above, all samples of the time before
   (`alarm_before_s`) that were not reported are, though not as live ones; and from there on every
   sample is for `alarm_after_s`, and until the alarm ends where the edition wants that. An alarm
   within that time begins it anew, and has nothing before it that was not reported.
2. Period: a sample is reported when waiting for the next one would be too late.
3. Power-off: reports go on for `off_reports_s`. Then the vehicle is only watched, until
   `off_watch_s` after the power-off, with one report in the last `off_last_s` of it. Then it is
   asleep; an alarm is reported all the same. A vehicle is on as long as it is heard and does not
   say that it is off; one that charges is on.

Samples that are not reported lie in a ring for the alarm that may come, in the bytes that would be
sent, and are thinned when they are older. Where no alarm is mapped, nothing does.

All of it depends on the samples and their times alone. A platform may change a `Tuning` at any
moment: it counts from the next sample on.
"""

import dataclasses
import math
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from agent.clock import SECOND
from agent.collect.reports.tuning import Tuning
from agent.gbt32960.sample import Sample

LONGEST_PERIOD_S: Final = 30.0
_MOST_BEFORE_S: Final = 120.0
_STEP_NS: Final = SECOND
# The wall clock is slewed a little against the times of samples.
_SLACK_NS: Final = SECOND // 2
_JITTER_NS: Final = SECOND // 10
_OFF: Final = 2
_CHARGING: Final = (1, 2)


class Encoded(NamedTuple):
    """A sample in the bytes of an edition, and how many of its fields are codes."""

    bodies: tuple[bytes, ...]
    invalid: int = 0
    abnormal: int = 0


class Chosen(NamedTuple):
    """A sample that is reported. `live`: it is the present one, none of before an alarm."""

    time: int
    encoded: Encoded
    live: bool


@dataclasses.dataclass(slots=True)
class Decision:
    """What one sample leads to."""

    reports: list[Chosen] = dataclasses.field(default_factory=list)
    """In the order of their times."""
    thinned: int = 0
    """Samples that are not reported any more."""
    fell_asleep: bool = False


class Schedule:
    """Of one platform."""

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        self._ring: deque[tuple[int, Encoded]] = deque()
        self._reported: int | None = None
        self._in_alarm = False
        self._alarm_from: int | None = None
        self._off_at: int | None = None
        self.is_asleep = False

    def __len__(self) -> int:
        """How many samples wait for an alarm."""
        return len(self._ring)

    def offer(self, time_ns: int, sample: Sample, encoded: Callable[[], Encoded]) -> Decision:
        """The next sample. Its bytes are asked for where they are reported or may be yet."""
        decision = Decision(thinned=self._age(time_ns))
        alarmed = self._alarm(time_ns, sample, decision)
        self._power(time_ns, sample)
        if alarmed or self._due(time_ns):
            decision.reports.append(Chosen(time_ns, encoded(), live=True))
            self._reported = time_ns
        elif sample.alarms is not None and sample.fresh:
            self._ring.append((time_ns, encoded()))
        else:
            decision.thinned += 1
        if decision.reports:
            self.is_asleep = False
        elif not self.is_asleep and time_ns > self._ends:
            self.is_asleep = decision.fell_asleep = True
        return decision

    def clear(self) -> int:
        """No alarm comes any more; gives how many samples are thinned by that."""
        gone = len(self._ring)
        self._ring.clear()
        return gone

    def adopt(self, old: "Schedule") -> None:
        """Go on where another one was, which is not used any more."""
        for name in ("_ring", "_reported", "_in_alarm", "_alarm_from", "_off_at", "is_asleep"):
            setattr(self, name, getattr(old, name))

    def _age(self, time_ns: int) -> int:
        before_s = min(self._tuning.alarm_before_s, _MOST_BEFORE_S)
        oldest = time_ns - _ns(before_s) - _SLACK_NS
        gone = 0
        while self._ring and self._ring[0][0] < oldest:
            self._ring.popleft()
            gone += 1
        return gone

    def _alarm(self, time_ns: int, sample: Sample, decision: Decision) -> bool:
        """Whether every sample is wanted."""
        tuning = self._tuning
        level = sample.alarms.level if sample.alarms is not None and sample.fresh else 0
        # A level that is not known compares as none.
        in_alarm = level >= tuning.alarm_level
        if in_alarm and not self._in_alarm:
            self._alarm_from = time_ns
            decision.reports += [Chosen(time, held, live=False) for time, held in self._ring]
            self._ring.clear()
        self._in_alarm = in_alarm
        if in_alarm and tuning.alarm_until_end:
            return True
        begin = self._alarm_from
        return begin is not None and time_ns <= begin + _ns(tuning.alarm_after_s) + _JITTER_NS

    def _power(self, time_ns: int, sample: Sample) -> None:
        vehicle = sample.items.get("vehicle", {})
        is_off = vehicle.get("vehicle_state") == _OFF
        is_on = sample.fresh and (not is_off or vehicle.get("charge_state") in _CHARGING)
        if is_on:
            self._off_at = None
        elif self._off_at is None:
            self._off_at = time_ns

    @property
    def _ends(self) -> float:
        """When the watch after the power-off is over."""
        return math.inf if self._off_at is None else self._off_at + _ns(self._tuning.off_watch_s)

    def _due(self, time_ns: int) -> bool:
        tuning = self._tuning
        last = self._reported
        if self._off_at is None or time_ns <= self._off_at + _ns(tuning.off_reports_s):
            period = _ns(min(tuning.report_s, LONGEST_PERIOD_S))
            return last is None or time_ns + _STEP_NS > last + period + _JITTER_NS
        begin = self._ends - _ns(tuning.off_last_s)
        return begin <= time_ns <= self._ends and (last is None or last < begin)


def _ns(seconds: float) -> int:
    return round(seconds * SECOND)
