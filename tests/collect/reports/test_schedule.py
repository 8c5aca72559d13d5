"""Which samples become reports: the period, alarms, the time after power-off."""

import dataclasses
import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.collect.reports.schedule import Encoded, Schedule
from agent.collect.reports.tuning import Tuning
from agent.gbt32960.sample import Alarms, Sample

S = 1_000_000_000
ON, OFF = 1.0, 2.0
PARKED_CHARGING, NOT_CHARGING = 1.0, 3.0


def tuning2025() -> Tuning:
    return Tuning(edition=2025, alarm_until_end=True, off_watch_s=3600.0)


@dataclasses.dataclass
class Run:
    """A vehicle second after second, and what was reported of it."""

    tuning: Tuning = dataclasses.field(default_factory=Tuning)
    now: int = 0
    reported: list[int] = dataclasses.field(default_factory=list)
    later: list[int] = dataclasses.field(default_factory=list)
    """Of `reported`, those that are older ones."""
    slept: list[int] = dataclasses.field(default_factory=list)
    encoded: int = 0
    sampled: int = 0
    thinned: int = 0

    def __post_init__(self) -> None:
        self.schedule = Schedule(self.tuning)

    def second(
        self,
        level: float | None = 0.0,
        state: float = ON,
        charge: float = NOT_CHARGING,
        *,
        fresh: bool = True,
    ) -> None:
        """One more second; a `level` of None: no alarms are mapped."""
        sample = Sample(
            items={"vehicle": {"vehicle_state": state, "charge_state": charge}},
            alarms=None if level is None else Alarms(level),
            fresh=fresh,
        )
        now = self.now
        decision = self.schedule.offer(now * S, sample, lambda: self._encode(now))
        for report in decision.reports:
            assert report.encoded.bodies == (str(report.time // S).encode(),)
            self.reported.append(report.time // S)
            if not report.live:
                self.later.append(report.time // S)
        if decision.fell_asleep:
            self.slept.append(now)
        self.sampled += 1
        self.thinned += decision.thinned
        assert self.sampled == len(self.reported) + self.thinned + len(self.schedule)
        self.now += 1

    def seconds(
        self,
        count: int,
        level: float | None = 0.0,
        state: float = ON,
        charge: float = NOT_CHARGING,
        *,
        fresh: bool = True,
    ) -> None:
        for _ in range(count):
            self.second(level, state, charge, fresh=fresh)

    def _encode(self, now: int) -> Encoded:
        self.encoded += 1
        return Encoded((str(now).encode(),))


def gaps(times: Iterable[int]) -> set[int]:
    ordered = sorted(times)
    return {b - a for a, b in itertools.pairwise(ordered)}


# -- the period ----------------------------------------------------------------------------------


def test_the_first_sample_is_reported_and_then_one_in_a_period() -> None:
    run = Run()

    run.seconds(41)

    assert run.reported == [0, 10, 20, 30, 40]
    assert run.later == []


@pytest.mark.parametrize(("period_s", "steps"), [(1, {1}), (2.5, {2}), (30, {30}), (600, {30})])
def test_a_period_is_never_exceeded_nor_more_than_half_a_minute(
    period_s: float, steps: set[int]
) -> None:
    run = Run(Tuning(report_s=period_s))

    run.seconds(130)

    assert gaps(run.reported) == steps


def test_a_new_period_counts_from_the_next_sample_on() -> None:
    run = Run(Tuning(report_s=30.0))
    run.seconds(8)

    run.tuning.report_s = 5.0
    run.seconds(10)

    assert run.reported == [0, 8, 13]


def test_clocks_that_are_slewed_make_no_report_late_or_extra() -> None:
    schedule = Schedule(Tuning(report_s=10.0))
    sample = Sample(items={"vehicle": {"vehicle_state": ON}})
    times = [n * S + (n % 3 - 1) * S // 50 for n in range(1, 62)]

    found = [
        n for n, t in enumerate(times) if schedule.offer(t, sample, lambda: Encoded(())).reports
    ]

    assert found == [0, 10, 20, 30, 40, 50, 60]


# -- alarms --------------------------------------------------------------------------------------


def test_an_alarm_gives_every_second_of_half_a_minute_before_and_after() -> None:
    run = Run()
    run.seconds(95)

    run.seconds(60, level=3.0)

    assert set(range(65, 126)) <= set(run.reported)
    assert len(run.reported) == len(set(run.reported))
    assert gaps(t for t in run.reported if 65 <= t <= 125) == {1}
    assert gaps(t for t in run.reported if t >= 126) == {10}


def test_what_was_before_the_alarm_goes_as_older_reports_and_is_not_sent_twice() -> None:
    run = Run()
    run.seconds(95)

    run.second(level=3.0)

    assert run.later == [t for t in range(65, 95) if t % 10]
    assert run.reported[-1] == 95
    assert run.later[-1] == 94


def test_a_second_alarm_within_the_first_goes_on_with_it() -> None:
    run = Run()
    run.seconds(60)
    run.seconds(2, level=3.0)
    run.seconds(18)

    run.seconds(2, level=3.0)
    run.seconds(60)

    assert sorted(run.reported) == sorted(set(run.reported))
    assert gaps(t for t in run.reported if 30 <= t <= 110) == {1}
    assert max(run.later) < 60


def test_an_alarm_after_the_first_has_its_own_time_before() -> None:
    run = Run()
    run.seconds(60)
    run.seconds(1, level=3.0)
    run.seconds(60)

    run.seconds(1, level=3.0)

    assert gaps(t for t in run.reported if t >= 30) == {1}
    assert len(run.reported) == len(set(run.reported))


def test_an_alarm_at_the_start_has_nothing_before_it() -> None:
    run = Run()

    run.seconds(40, level=3.0)

    assert run.reported[:31] == list(range(31))
    assert run.later == []


@pytest.mark.parametrize("level", [0.0, 1.0, 2.0, float("nan")])
def test_a_lower_or_unknown_level_is_no_alarm(level: float) -> None:
    run = Run()
    run.seconds(35)

    run.seconds(10, level=level)

    assert run.reported == [0, 10, 20, 30, 40]


def test_in_2025_every_second_is_reported_until_the_alarm_ends() -> None:
    run = Run(tuning2025())
    run.seconds(40)

    run.seconds(200, level=4.0)
    run.seconds(50)

    assert gaps(t for t in run.reported if 10 <= t < 240) == {1}
    assert gaps(t for t in run.reported if t >= 240) == {10}


def test_in_2025_a_short_alarm_gives_the_time_after_it_began_too() -> None:
    run = Run(tuning2025())
    run.seconds(40)

    run.seconds(1, level=3.0)
    run.seconds(60)

    assert gaps(t for t in run.reported if 10 <= t <= 70) == {1}


def test_a_level_that_is_asked_for_later_is_an_alarm_then() -> None:
    run = Run()
    run.seconds(45, level=2.0)

    run.tuning.alarm_level = 2
    run.second(level=2.0)

    assert gaps(t for t in run.reported if t >= 15) == {1}


def test_nothing_is_held_nor_encoded_where_no_alarm_can_come() -> None:
    run = Run()

    run.seconds(100, level=None)

    assert run.encoded == len(run.reported) == 10
    assert len(run.schedule) == 0


def test_what_is_held_is_bounded() -> None:
    run = Run(Tuning(alarm_before_s=100_000.0))

    run.seconds(1000)

    assert len(run.schedule) <= 121


# -- power-off -----------------------------------------------------------------------------------


def test_reports_go_on_for_three_minutes_after_the_power_off() -> None:
    run = Run()
    run.seconds(51)

    run.seconds(400, state=OFF)

    assert run.reported == list(range(0, 240, 10))
    assert run.slept == [232]


def test_a_vehicle_that_falls_silent_is_off() -> None:
    run = Run()
    run.seconds(51)

    run.seconds(400, fresh=False)

    assert run.reported == list(range(0, 240, 10))
    assert run.slept == [232]


def test_in_2025_a_vehicle_is_watched_for_an_hour_with_one_report_at_its_end() -> None:
    run = Run(tuning2025())
    run.seconds(51)

    run.seconds(4000, state=OFF)

    assert run.reported == [*range(0, 240, 10), 51 + 3570]
    assert run.slept == [51 + 3601]


def test_a_vehicle_that_is_parked_and_charges_is_on() -> None:
    run = Run()

    run.seconds(1000, state=OFF, charge=PARKED_CHARGING)

    assert run.reported == list(range(0, 1000, 10))
    assert run.slept == []


def test_a_vehicle_that_does_not_tell_its_state_is_on_while_it_is_heard() -> None:
    run = Run()

    run.seconds(500, state=float("nan"))

    assert run.slept == []
    assert gaps(run.reported) == {10}


def test_the_vehicle_wakes_with_a_report_at_once() -> None:
    run = Run()
    run.seconds(11)
    run.seconds(500, state=OFF)

    run.seconds(12)

    assert run.reported[-2:] == [511, 521]
    assert not run.schedule.is_asleep
    assert len(run.slept) == 1


def test_switched_off_again_its_time_begins_anew() -> None:
    run = Run()
    run.seconds(100, state=OFF)
    run.seconds(5)

    run.seconds(400, state=OFF)

    assert max(run.reported) == 280
    assert run.slept == [105 + 181]


def test_an_alarm_in_the_watch_is_reported_with_the_time_before() -> None:
    run = Run(tuning2025())
    run.seconds(1)
    run.seconds(1000, state=OFF)

    run.seconds(5, level=4.0, state=OFF)
    run.seconds(100, state=OFF)

    assert [t for t in run.reported if t > 500] == list(range(971, 1032))
    assert run.slept == []


def test_an_alarm_wakes_a_vehicle_that_is_asleep_for_its_time() -> None:
    run = Run()
    run.seconds(1)
    run.seconds(1000, state=OFF)

    run.seconds(5, level=3.0, state=OFF)
    run.seconds(100, state=OFF)

    assert [t for t in run.reported if t > 500] == list(range(971, 1032))
    assert run.slept == [182, 1032]


def test_the_last_alarm_of_a_vehicle_that_falls_silent_ends() -> None:
    run = Run(tuning2025())
    run.seconds(10, level=4.0)

    run.seconds(4000, level=4.0, fresh=False)

    assert run.slept == [10 + 3601]


# -- all of it -----------------------------------------------------------------------------------

seconds = st.lists(
    st.tuples(
        st.integers(1, 80),
        st.sampled_from([0.0, 2.0, 3.0, 4.0, float("nan")]),
        st.sampled_from([ON, OFF]),
        st.booleans(),
    ),
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(phases=seconds, is_2025=st.booleans(), period=st.integers(1, 40))
def test_no_sample_is_reported_twice_and_each_finds_its_end(
    phases: list[tuple[int, float, float, bool]],
    is_2025: bool,
    period: int,
) -> None:
    run = Run(tuning2025() if is_2025 else Tuning())
    run.tuning.report_s = period

    for count, level, state, fresh in phases:
        run.seconds(count, level, state, fresh=fresh)

    assert len(run.reported) == len(set(run.reported))
    live = [t for t in run.reported if t not in run.later]
    assert live == sorted(live)
    assert run.later == sorted(run.later)
    run.thinned += run.schedule.clear()
    assert run.sampled == len(run.reported) + run.thinned
