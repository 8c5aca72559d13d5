"""Stamps of wall time become boot times, whatever is done to the wall clock meanwhile."""

import dataclasses
import itertools
from typing import Final

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.blocks import Int64
from agent.bus.canraw import ClockPair
from agent.bus.ring import Read
from agent.bus.stamps import GRACE_NS, LATE_NS, HardwareClock, KernelStamps, Reads

US: Final = 1_000
MS: Final = 1_000_000
S: Final = 1_000_000_000
YEAR: Final = 365 * 24 * 3600 * S
TODAY: Final = 1_790_000_000 * S


@dataclasses.dataclass(frozen=True)
class Wall:
    """A wall clock over boot time: what it shows at 0, a drift, and where it is set by how much."""

    begin: int = TODAY
    slew_ppm: int = 0
    steps: tuple[tuple[int, int], ...] = ()

    def __call__(self, boot: int) -> int:
        stepped = sum(by for at, by in self.steps if boot >= at)
        return self.begin + boot + boot * self.slew_ppm // 1_000_000 + stepped

    def offset(self, boot: int) -> int:
        return boot - self(boot)


def converted(
    wall: Wall,
    frames: list[int],
    reads: list[int],
    *,
    left_behind: frozenset[int] = frozenset(),
    a_block: int = 1_000,
) -> tuple[KernelStamps, Int64]:
    """Frames that came at these boot times, read at those; blocks of `a_block` reads."""
    stamps = KernelStamps(0, wall.offset(0))
    got = []
    for begin in range(0, len(reads), a_block):
        block = reads[begin : begin + a_block]
        since = reads[begin - 1] if begin else -1
        mine = [f for f in frames if since < f <= block[-1]]
        noted = [
            Read(sum(f <= read for f in mine), read, wall.offset(read), emptied=read not in left)
            for read in block
            for left in [left_behind]
        ]
        got.append(stamps.times(np.array([wall(f) for f in mine], np.int64), Reads.of(noted)))
    return stamps, np.concatenate(got)


def every(period: int, begin: int, end: int) -> list[int]:
    return list(range(begin, end, period))


def test_without_a_step_times_are_exact() -> None:
    frames = every(3 * MS, 1, 100 * MS)

    stamps, times = converted(Wall(), frames, every(25 * MS, 25 * MS, 126 * MS))

    assert times.tolist() == frames
    assert stamps.clamped == 0


@pytest.mark.parametrize("by", [TODAY - 5 * S, -TODAY // 2, 3600 * S, -300 * MS, 50 * MS])
@pytest.mark.parametrize("at", [1 * MS, 40 * MS, 42 * MS + 1, 50 * MS, 99 * MS])
def test_a_clock_that_is_set_between_reception_and_read_moves_no_frame(by: int, at: int) -> None:
    begin = TODAY if by < 0 else 5 * S
    frames = every(MS, 1, 100 * MS)

    stamps, times = converted(
        Wall(begin, steps=((at, by),)), frames, every(25 * MS, 25 * MS, 101 * MS)
    )

    assert times.tolist() == frames
    assert stamps.clamped == 0


def test_a_small_step_is_found_between_the_frames_around_it() -> None:
    frames = every(MS, 1, 100 * MS)

    for by in (5 * MS, -5 * MS):
        stamps, times = converted(
            Wall(steps=((62 * MS, by),)), frames, every(25 * MS, 25 * MS, 101 * MS)
        )

        assert times.tolist() == frames
        assert stamps.clamped == 0


def test_frames_left_behind_by_a_read_are_not_moved_to_it() -> None:
    # The read at 50 ms took only some: those of the next read came before it, too.
    frames = every(MS, 1, 60 * MS)
    wall = Wall(5 * S, steps=((30 * MS, YEAR),))
    noted = [
        Read(10, 25 * MS, wall.offset(25 * MS), emptied=False),
        Read(20, 50 * MS, wall.offset(50 * MS), emptied=False),
        Read(60, 60 * MS, wall.offset(60 * MS), emptied=True),
    ]
    stamps = KernelStamps(0, wall.offset(0))

    times = stamps.times(np.array([wall(f) for f in frames], np.int64), Reads.of(noted))

    assert times.tolist() == frames
    assert stamps.clamped == 0


@pytest.mark.parametrize("by", [0, 5 * S, -5 * S])
def test_frames_that_lay_in_the_kernels_backlog_keep_their_time(by: int) -> None:
    # Under load, eight buses at once: stamped, then queued 30 ms later, after an empty read.
    wall = Wall(steps=((70 * MS, by),))
    frames = every(MS, 41 * MS, 60 * MS)
    stamps = KernelStamps(0, wall.offset(0))
    noted = [
        Read(0, 55 * MS, wall.offset(55 * MS), emptied=True),
        Read(19, 90 * MS, wall.offset(90 * MS), emptied=True),
    ]

    times = stamps.times(np.array([wall(f) for f in frames], np.int64), Reads.of(noted))

    assert times.tolist() == frames
    assert stamps.clamped == 0


def test_a_clock_that_is_set_twice_between_two_reads_is_clamped_and_counted() -> None:
    wall = Wall(steps=((10 * MS, YEAR), (20 * MS, -YEAR)))
    frames = every(5 * MS, 2 * MS, 25 * MS)

    stamps, times = converted(wall, frames, [25 * MS, 50 * MS])

    assert times.tolist() == [2 * MS, 7 * MS, 25 * MS, 25 * MS, 25 * MS]
    assert stamps.clamped == 2


def test_a_frame_without_a_stamp_is_dated_with_its_read_and_counted() -> None:
    stamps = KernelStamps(0, -TODAY)
    reads = Reads.of([Read(3, 20 * MS, -TODAY, emptied=True)])

    times = stamps.times(np.array([TODAY + 5 * MS, -1, TODAY + 7 * MS], np.int64), reads)

    assert times.tolist() == [5 * MS, 20 * MS, 20 * MS]
    assert stamps.clamped == 1


def test_messages_that_were_no_frames_are_left_out_of_their_reads() -> None:
    noted = [Read(2, 10, 0, emptied=True), Read(5, 20, 0, emptied=True)]

    reads = Reads.of(noted, np.array([1, 2, 4]))

    assert reads.count.tolist() == [1, 2]


def test_reads_without_frames_still_move_the_window() -> None:
    # Set by 100 ms between the third and the fourth read: told by the third, which read nothing.
    wall = Wall(steps=((310 * MS, 100 * MS),))

    stamps, times = converted(wall, [305 * MS], [100 * MS, 200 * MS, 300 * MS, 400 * MS], a_block=1)

    assert times.tolist() == [305 * MS]
    assert stamps.clamped == 0


@st.composite
def traffic(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """When frames came and when they were read; the last read is after all frames."""
    gaps = draw(st.lists(st.integers(1, 60 * MS), min_size=1, max_size=40))
    pauses = draw(st.lists(st.integers(50 * US, 200 * MS), min_size=1, max_size=12))
    frames = np.cumsum(gaps).tolist()
    reads = np.cumsum(pauses).tolist()
    reads.append(max(frames[-1], reads[-1]) + draw(st.integers(1, 200 * MS)))
    return frames, reads


@given(
    traffic(),
    st.integers(0, 3 * S),
    st.one_of(
        st.integers(-YEAR, YEAR),
        st.integers(-100 * MS, 100 * MS),
        st.sampled_from([50 * YEAR, -50 * YEAR]),
    ),
    st.integers(-500, 500),
    st.integers(1, 5),
)
@example(([1, 2, 3], [10, 20, 30]), 2, 50 * YEAR, 0, 1)
@example(([10 * MS, 20 * MS, 30 * MS], [100 * MS, 110 * MS]), 20 * MS, -50 * YEAR, 0, 1)
def test_whatever_one_step_does_times_stay_in_order_and_near(
    told: tuple[list[int], list[int]], at: int, by: int, slew_ppm: int, a_block: int
) -> None:
    frames, reads = told
    wall = Wall(100 * YEAR, slew_ppm, ((at, by),))
    longest = max(np.diff(reads, prepend=0).tolist())

    stamps, times = converted(wall, frames, reads, a_block=a_block)

    error = np.abs(times - frames)
    assert (np.diff(times) >= 0).all()
    # No step moves a frame by more than it is wide, nor out of the time between two reads.
    drift = longest * abs(slew_ppm) // 1_000_000 + 2
    assert int(error.max()) <= min(abs(by), longest + GRACE_NS) + drift
    if abs(by) > longest + 2 * GRACE_NS + drift:
        assert int(error.max()) <= drift
        assert stamps.clamped == 0


@given(
    st.lists(st.one_of(st.integers(-1, 2**62), st.just(-1)), max_size=30),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, S), st.booleans()), max_size=6),
    st.lists(st.integers(-(2**62), 2**61), min_size=7, max_size=7),
)
def test_any_stamps_at_all_give_times_in_their_window(
    wild: list[int], noted: list[tuple[int, int, bool]], offsets: list[int]
) -> None:
    reads, end, now = [], 0, 0
    for (count, pause, emptied), offset in zip(noted, offsets, strict=False):
        end, now = min(len(wild), end + count), now + pause
        reads.append(Read(end, now, offset, emptied=emptied))
    stamps = KernelStamps(0, offsets[-1])

    times = stamps.times(np.array(wild[:end], np.int64), Reads.of(reads))

    assert len(times) == end
    assert (np.diff(times) >= 0).all()
    assert stamps.clamped <= end
    begin, since = 0, 0
    for read in reads:
        assert all(since - LATE_NS <= t <= read.now for t in times[begin : read.end].tolist())
        begin = read.end
        since = read.now if read.emptied else since


class TestHardware:
    """The controller's own clock gives the distances; the kernel's stamps say where they lie."""

    ZERO: Final = 123_456_789 * S  # where the controller's clock stands at boot

    def read(self, stamps: KernelStamps, frames: Int64, late: Int64, own: Int64) -> Int64:
        """One block of frames that the kernel saw `late` ns after they came."""
        seen = frames + late
        now = int(seen[-1]) + MS
        reads = Reads.of([Read(len(frames), now, -TODAY, emptied=True)])
        return stamps.times(seen + TODAY, reads, own)

    def test_distances_are_those_of_the_controller(self) -> None:
        random = np.random.default_rng(1)
        stamps = KernelStamps(0, -TODAY)

        for block in range(1, 6):
            frames = block * S + np.arange(100) * MS
            late = random.integers(20 * US, 900 * US, 100)
            late[50] = 20 * US
            times = self.read(stamps, frames, late, frames + self.ZERO)

            assert np.diff(times).tolist() == [MS] * 99
            assert int(np.abs(times - frames).max()) <= 20 * US + 600 * US

        assert stamps.forced == 0

    def test_none_lies_after_the_kernel_has_seen_it(self) -> None:
        stamps = KernelStamps(0, -TODAY)
        frames = S + np.arange(50) * MS
        slow = frames - np.arange(50) * 100  # the controller's clock is 100 ppm slow

        for block in range(50):
            now = frames + block * S
            times = self.read(stamps, now, np.full(50, 30 * US), slow + block * (S - 100_000))
            assert (times <= now + 30 * US).all()
            assert (times >= now - 600 * US).all()

        assert stamps.forced == 0

    @pytest.mark.parametrize("by", [-3 * S, 3 * S, -(10**17), 10**17])
    @pytest.mark.parametrize("place", [0, 25])
    def test_a_clock_that_jumps_is_noticed_and_counted_once(self, by: int, place: int) -> None:
        stamps = KernelStamps(0, -TODAY)
        frames = np.arange(50) * MS
        late = np.full(50, 30 * US)
        jump = np.where(np.arange(50) >= place, by, 0)

        self.read(stamps, frames + S, late, frames + S + self.ZERO)
        jumped = self.read(stamps, frames + 2 * S, late, frames + 2 * S + self.ZERO + jump)
        after = self.read(stamps, frames + 3 * S, late, frames + 3 * S + self.ZERO + by)

        assert jumped.tolist() == (frames + 2 * S + 30 * US).tolist()
        assert after.tolist() == (frames + 3 * S + 30 * US).tolist()
        assert stamps.forced == 1

    def test_a_block_in_which_one_has_no_stamp_keeps_the_kernels(self) -> None:
        stamps = KernelStamps(0, -TODAY)
        frames = S + np.arange(3) * MS
        own = frames + self.ZERO
        own[1] = -1

        times = self.read(stamps, frames, np.array([1 * US, 9 * US, 5 * US]), own)

        assert times.tolist() == [S + US, S + MS + 9 * US, S + 2 * MS + 5 * US]

    @given(
        st.lists(st.tuples(st.integers(0, 2**62), st.integers(0, 10 * S)), min_size=1, max_size=30)
    )
    def test_any_stamps_give_times_that_are_none_after_the_kernels(
        self, rows: list[tuple[int, int]]
    ) -> None:
        clock = HardwareClock()
        kernel = 0
        for own, gap in rows:
            kernel += gap
            times = clock.times(np.array([own], np.int64), np.array([kernel], np.int64))
            assert kernel - HardwareClock.JUMP_NS <= int(times[0]) <= kernel


def test_clocks_are_measured_at_once_even_where_the_process_was_interrupted() -> None:
    quiet = [1 * S, 1 * S + 200, 2 * S, 2 * S + 210, 3 * S, 3 * S + 190]
    interrupted = [100 * S, 100 * S + 7 * MS, 101 * S, 101 * S + 200]
    boots = iter([*quiet, *interrupted])
    walls = iter(TODAY + n for n in range(5))
    clocks = ClockPair(lambda: next(boots), lambda: next(walls))

    assert clocks() == (3 * S + 190, 3 * S + 95 - TODAY - 2)
    assert clocks() == (101 * S + 200, 101 * S + 100 - TODAY - 4)


def test_a_machine_on_which_clocks_are_slow_is_not_asked_again_for_that() -> None:
    boots = itertools.count(step=50 * US)
    clocks = ClockPair(lambda: next(boots), lambda: 0)

    clocks()
    before = next(boots)
    now, _ = clocks()

    assert now - before == 2 * 50 * US
