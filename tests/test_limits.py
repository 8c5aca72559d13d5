"""At which level something is given up to stay within limits, and when it is taken back."""

import datetime as dt
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import SECOND, BootNs, WallNs
from agent.limits import Limiter, Taken
from agent.settings import Limits
from agent.uplink.allowance import Now

MAY = dt.datetime(2031, 5, 10, 12, tzinfo=dt.UTC)
MB = 1_000_000
MIB = 1 << 20
HOUR = 3600


def at(second: float, moment: dt.datetime | None = MAY) -> Now:
    """So long after the boot; the wall clock is right where `moment` says when that was."""
    wall = 0 if moment is None else round((moment.timestamp() + second) * SECOND)
    return Now(BootNs(round(second * SECOND)), WallNs(wall), moment is not None)


class Process:
    """One that takes what a test says, looked at each ten seconds."""

    def __init__(self, **limits: Any) -> None:
        self.limiter = Limiter(Limits(**{"memory_mb": 0, **limits}))
        self.second = 0.0
        self.said: list[str] = []
        self._cpu_s = 5.0  # a start takes some
        self._written = 0
        self.limiter.look(at(0), Taken(self._cpu_s, None, 0))

    def go_on(
        self, cpu: float = 0, memory: int | None = None, written: int = 0, every_s: float = 10
    ) -> int:
        """One look later; `cpu` in % of a core, `memory` in MiB. Gives the level."""
        self.second += every_s
        self._cpu_s += cpu / 100 * every_s
        self._written += written
        resident = None if memory is None else memory * MIB
        self.said += self.limiter.look(at(self.second), Taken(self._cpu_s, resident, self._written))
        return self.limiter.level

    def cpu(self, percents: Iterable[float]) -> list[int]:
        return [self.go_on(cpu=percent) for percent in percents]

    def memory(self, sizes: Iterable[int | None]) -> list[int]:
        return [self.go_on(memory=size) for size in sizes]


def rises(levels: list[int]) -> Iterator[int]:
    """At which looks the level went up."""
    for n, (before, after) in enumerate(itertools.pairwise(levels), 1):
        if after > before:
            yield n


class TestCpu:
    def test_each_ten_seconds_above_the_limit_are_a_level(self) -> None:
        assert Process(cpu_percent=10).cpu([11] * 7) == [1, 2, 3, 4, 5, 5, 5]

    def test_what_the_start_took_is_not_held_against_it(self) -> None:
        assert Process(cpu_percent=10).cpu([1]) == [0]

    def test_it_is_the_mean_of_ten_seconds_that_counts(self) -> None:
        process = Process(cpu_percent=10)
        busy = [process.go_on(cpu=60, every_s=1), *(process.go_on(every_s=1) for _ in range(9))]
        assert busy == [0] * 10

    def test_a_minute_clearly_below_is_a_level_less(self) -> None:
        process = Process(cpu_percent=10)
        process.cpu([11, 11])
        assert process.cpu([6.9] * 12) == [2] * 5 + [1] * 6 + [0]

    def test_near_the_limit_everything_stays_as_it_is(self) -> None:
        process = Process(cpu_percent=10)
        process.cpu([11, 11])
        assert set(process.cpu([7.1, 9.9] * 50)) == {2}

    def test_the_minute_begins_anew_where_it_was_interrupted(self) -> None:
        process = Process(cpu_percent=10)
        process.cpu([11])
        assert process.cpu([*[5] * 5, 8, *[5] * 6]) == [1] * 11 + [0]

    def test_a_level_that_is_needed_is_left_less_and_less_often(self) -> None:
        """With everything it takes 12 %, with half of it 5 %."""
        process = Process(cpu_percent=10)
        levels = [0]
        for _ in range(1000):
            levels.append(process.go_on(cpu=5 if levels[-1] else 12))
        distances = [b - a for a, b in itertools.pairwise(rises(levels))]
        assert distances[:5] == [7, 13, 25, 49, 91]  # a minute, two, four, eight, fifteen; one over
        assert set(distances[4:]) == {91}

    def test_after_a_fall_that_held_the_wait_is_a_minute_again(self) -> None:
        process = Process(cpu_percent=10)
        process.cpu([12, *[5] * 6, 12])  # up, down, and up again at once
        assert process.cpu([5] * 12) == [1] * 11 + [0]
        process.cpu([5] * 13)
        process.cpu([12])
        assert process.cpu([5] * 6) == [1] * 5 + [0]

    def test_a_suspend_is_no_time_in_which_it_was_below(self) -> None:
        process = Process(cpu_percent=10)
        process.cpu([11])
        assert process.go_on(every_s=8 * HOUR) == 1

    def test_without_a_limit_nothing_is_given_up(self) -> None:
        assert set(Process().cpu([400] * 10)) == {0}


class TestMemory:
    def test_from_nine_tenths_on_each_ten_seconds_are_a_level(self) -> None:
        assert Process(memory_mb=100).memory([89, 90, 95, 200, 100, 99, 99]) == [
            0,
            1,
            2,
            3,
            4,
            5,
            5,
        ]

    def test_a_minute_below_eight_tenths_is_a_level_less(self) -> None:
        process = Process(memory_mb=100)
        process.memory([90, 90])
        assert process.memory([79] * 12) == [2] * 5 + [1] * 6 + [0]

    def test_between_the_two_everything_stays_as_it_is(self) -> None:
        process = Process(memory_mb=100)
        process.memory([90])
        assert set(process.memory([80, 89] * 50)) == {1}

    def test_where_the_kernel_does_not_say_nothing_changes(self) -> None:
        process = Process(memory_mb=100)
        assert process.memory([90, *[None] * 20]) == [1] * 21

    def test_there_is_a_limit_unless_it_is_taken_away(self) -> None:
        most = Limits().memory_mb
        assert Process(memory_mb=most).memory([most]) == [1]
        assert set(Process(memory_mb=0).memory([100_000] * 10)) == {0}


class TestWritten:
    @pytest.mark.parametrize(
        ("mb", "level"),
        [(0, 0), (69.9, 0), (70, 1), (80, 2), (85, 3), (90, 4), (95, 5), (1000, 5)],
    )
    def test_the_shares_of_a_day_have_the_levels_of_a_budget(self, mb: float, level: int) -> None:
        assert Process(written_mb_day=100).go_on(written=round(mb * MB)) == level

    def test_it_counts_at_once(self) -> None:
        assert Process(written_mb_day=100).go_on(written=71 * MB, every_s=0.5) == 1

    def test_a_new_day_begins_whole(self) -> None:
        process = Process(written_mb_day=100)
        assert process.go_on(written=99 * MB) == 5
        assert process.go_on(every_s=11 * HOUR) == 5
        assert process.go_on(every_s=HOUR) == 0  # it began at noon

    def test_what_is_kept_over_a_restart_counts(self) -> None:
        process = Process(written_mb_day=100)
        process.go_on(written=60 * MB)
        kept = json.loads(json.dumps(process.limiter.state()))

        after = Limiter(Limits(written_mb_day=100), kept)
        after.look(at(20), Taken(0, None, 11 * MB))  # counted from its own begin

        assert after.levels["written"] == 1
        (row,) = (r for r in after.status()["limits"] if r["name"] == "written")
        assert row["used"] == 71 * MB

    def test_a_clock_that_becomes_right_in_the_middle_forgives_nothing(self) -> None:
        limiter = Limiter(Limits(written_mb_day=100))
        limiter.look(at(0, None), Taken(0, None, 90 * MB))
        limiter.look(at(60), Taken(0, None, 90 * MB))
        assert limiter.levels["written"] == 4

    def test_without_a_right_clock_a_day_is_24_hours_of_running(self) -> None:
        limiter = Limiter(Limits(written_mb_day=100))
        limiter.look(at(0, None), Taken(0, None, 90 * MB))
        limiter.look(at(23 * HOUR, None), Taken(0, None, 90 * MB))
        assert limiter.level == 4
        limiter.look(at(24 * HOUR, None), Taken(0, None, 90 * MB))
        assert limiter.level == 0

    @given(
        jumps=st.lists(st.integers(0, 4_000_000_000), min_size=1, max_size=30),
        good=st.lists(st.booleans(), min_size=30, max_size=30),
    )
    def test_what_was_just_written_counts_whatever_the_clock_does(
        self, jumps: list[int], good: list[bool]
    ) -> None:
        limiter = Limiter(Limits(written_mb_day=100))
        written = 0
        for second, (wall, right) in enumerate(zip(jumps, good, strict=False)):
            written += MB
            now = Now(BootNs(second * SECOND), WallNs(wall * SECOND), right)
            limiter.look(now, Taken(0, None, written))
            (row,) = (r for r in limiter.status()["limits"] if r["name"] == "written")
            assert MB <= row["used"] <= written

    @pytest.mark.parametrize("kept", [{}, {"day": 3}, {"day": {"spent_bytes": "much"}}])
    def test_a_spoiled_count_is_nothing_written(self, kept: dict[str, Any]) -> None:
        limiter = Limiter(Limits(written_mb_day=1), kept)
        assert limiter.look(at(0), Taken(0, None, 0)) == []


class TestAll:
    def test_the_limit_that_asks_for_most_decides(self) -> None:
        process = Process(cpu_percent=10, memory_mb=100, written_mb_day=100)
        assert process.go_on(cpu=11, memory=50, written=80 * MB) == 2
        assert process.limiter.levels == {"cpu": 1, "memory": 0, "written": 2}

    def test_each_change_is_said_once_with_its_figure(self) -> None:
        process = Process(cpu_percent=12.5, memory_mb=512, written_mb_day=0.05)
        process.go_on(cpu=1, memory=100)
        process.go_on(cpu=20, memory=480, written=36_000)
        process.go_on(cpu=12, memory=440)
        assert process.said == [
            "cpu 20 % of 12.5 %",
            "memory 480 MB of 512 MB",
            "written 0.04 MB of 0.05 MB today",
        ]

    def test_the_status_has_every_limit_that_there_is(self) -> None:
        process = Process(memory_mb=512)
        process.go_on(memory=128)
        assert json.loads(json.dumps(process.limiter.status())) == {
            "level": 0,
            "since_boot_s": None,
            "written_bytes": 0,
            "limits": [
                {
                    "name": "memory",
                    "used": 128 * MIB,
                    "limit": 512 * MIB,
                    "used_ratio": 0.25,
                    "level": 0,
                    "said": "memory 128 MB of 512 MB",
                }
            ],
        }

    def test_what_is_not_known_yet_is_said_to_be_so(self) -> None:
        (row,) = Process(cpu_percent=10).limiter.status()["limits"]
        assert (row["used"], row["said"]) == (None, "cpu ? % of 10 %")

    @given(
        st.lists(
            st.tuples(st.floats(0, 400), st.integers(0, 2000), st.floats(0.1, 100_000)),
            max_size=60,
        )
    )
    def test_levels_go_one_by_one_and_never_beyond_the_last(
        self, looks: list[tuple[float, int, float]]
    ) -> None:
        process = Process(cpu_percent=50, memory_mb=512)
        for cpu, memory, every_s in looks:
            before = process.limiter.levels
            process.go_on(cpu=cpu, memory=memory, every_s=every_s)
            for name, level in process.limiter.levels.items():
                assert 0 <= level <= 5
                assert abs(level - before[name]) <= 1
