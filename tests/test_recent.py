"""The ring of the last frames, and what bounds it."""

import threading

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.blocks import FrameBlock, TimeBase
from agent.clock import MILLISECOND
from agent.recent import RecentFrames


def block_of(
    first_ms: int,
    n: int = 10,
    *,
    bus: str = "motor",
    width: int = 8,
    clock: TimeBase = "boot",
    step_ms: int = 1,
) -> FrameBlock:
    """So many frames, one each `step_ms`; the id says when."""
    at = first_ms + step_ms * np.arange(n)
    return FrameBlock.from_arrays(
        bus=bus,
        time=at * MILLISECOND,
        id=at % 0x800,
        length=np.full(n, 8),
        data=np.repeat(at[:, np.newaxis] % 256, width, axis=1),
        clock=clock,
    )


def times_ms(recent: RecentFrames) -> list[int]:
    return [t // MILLISECOND for block in recent.blocks() for t in block.time.tolist()]


def test_the_last_seconds_of_all_buses_are_kept_in_the_order_of_their_coming() -> None:
    recent = RecentFrames(seconds=2)
    for number in range(50):
        recent.add(block_of(100 * number))
        recent.add(block_of(100 * number + 50, bus="body"))

    found = recent.blocks()

    newest = 49 * 100 + 59
    assert {block.bus for block in found} == {"motor", "body"}
    assert min(times_ms(recent)) == newest - 2000
    assert [block.bus for block in found[-4:]] == ["motor", "body", "motor", "body"]
    last = found[-1]
    assert (last.id == (4950 + np.arange(10)) % 0x800).all()
    assert (last.data[:, 0] == (4950 + np.arange(10)) % 256).all()


def test_a_source_may_use_its_arrays_again() -> None:
    block = block_of(0)
    recent = RecentFrames()
    recent.add(block)
    for array in (block.time, block.id, block.length, block.flags, block.data):
        array[:] = 0

    (kept,) = recent.blocks()

    assert kept.time.tolist() == [MILLISECOND * n for n in range(10)]
    assert kept.id.tolist() == list(range(10))
    assert kept.length.tolist() == [8] * 10
    assert kept.data[:, 7].tolist() == list(range(10))


def test_of_a_block_that_began_long_ago_only_its_end_is_given() -> None:
    recent = RecentFrames(seconds=10)
    recent.add(block_of(0, 100, step_ms=1000))  # as a recording that is read flat out
    assert times_ms(recent) == [1000 * n for n in range(89, 100)]


def test_while_it_is_paused_nothing_is_kept() -> None:
    recent = RecentFrames()
    recent.add(block_of(0))
    recent.paused = True
    recent.add(block_of(100))
    assert (recent.blocks(), recent.nbytes) == ([], 0)

    recent.paused = False
    recent.add(block_of(200))
    assert times_ms(recent) == list(range(200, 210))


def test_what_was_said_before_a_silence_stays() -> None:
    recent = RecentFrames(seconds=1)
    recent.add(block_of(0))
    assert len(times_ms(recent)) == 10


def test_stamps_that_jump_cost_what_came_before_and_nothing_that_comes() -> None:
    recent = RecentFrames(seconds=1)
    recent.add(block_of(0))
    recent.add(block_of(10**9))
    recent.add(block_of(20))
    recent.add(block_of(40))

    assert times_ms(recent) == [*range(20, 30), *range(40, 50)]


def test_times_of_a_recording_are_not_compared_with_those_of_this_boot() -> None:
    recent = RecentFrames(seconds=1)
    for number in range(100):
        recent.add(block_of(100 * number, clock="recorded"))
        recent.add(block_of(10**9 + 100 * number))

    found = {block.clock: int(block.time[0]) // MILLISECOND for block in recent.blocks()[:2]}

    assert found == {"recorded": 8909, "boot": 10**9 + 8909}


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 100_000), st.integers(0, 2000), st.sampled_from([8, 64])),
        max_size=60,
    ),
    st.integers(0, 50_000),
    st.integers(1, 20),
)
def test_bytes_and_blocks_are_bounded_whatever_comes(
    blocks: list[tuple[int, int, int]], most_bytes: int, most_blocks: int
) -> None:
    recent = RecentFrames(10, most_bytes, most_blocks)
    for first, n, width in blocks:
        recent.add(block_of(first, n, width=width))
        found = recent.blocks()
        size = sum(each.nbytes for b in found for each in (b.time, b.id, b.length, b.flags, b.data))
        assert size <= recent.nbytes <= most_bytes
        assert len(found) <= most_blocks
    if blocks and blocks[-1][1] and most_bytes >= 2000 * 79:
        assert times_ms(recent)[-1] == blocks[-1][0] + blocks[-1][1] - 1


def test_of_a_block_over_the_bound_the_last_frames_are_kept() -> None:
    recent = RecentFrames(10, most_bytes=23 * 4)
    recent.add(block_of(0, 100))
    assert times_ms(recent) == [96, 97, 98, 99]


def test_they_can_be_asked_for_while_they_come() -> None:
    recent = RecentFrames(seconds=0.2)
    stop = threading.Event()
    wrong: list[str] = []

    def read() -> None:
        while not stop.is_set():
            found = times_ms(recent)
            if found != sorted(found) or (found and found[-1] - found[0] > 200):
                wrong.append(f"{found[0]} to {found[-1]}")

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(3000):
        recent.add(block_of(10 * number))
    stop.set()
    for reader in readers:
        reader.join()

    assert wrong == []
