"""A recording in the place of a bus: its frames, its speed, where it begins and where it is cut."""

import itertools
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agent.blocks import FrameBlock
from agent.bus.recording import RecordingSource
from agent.clock import MILLISECOND, SECOND, BootNs, Quality, WallNs
from agent.errors import BusError

START = 1_700_000_000 * SECOND


class Time:
    """A clock, and an event to wait for that moves it: waiting takes no time."""

    boot_id = "boot"

    def __init__(self) -> None:
        self.now = 50 * SECOND

    def boot(self) -> BootNs:
        return BootNs(self.now)

    def wall(self) -> WallNs:
        return WallNs(self.now)

    def quality(self) -> Quality:
        return Quality.UNSYNCHRONISED


class Stop(threading.Event):
    """What ends a source. A wait lets the clock go on by as much, and a test look."""

    def __init__(self, time: Time, until: Callable[[], bool] = lambda: False) -> None:
        super().__init__()
        self._time = time
        self._until = until

    def wait(self, timeout: float | None = None) -> bool:
        """Pass the time."""
        if self._until():
            self.set()
        if not self.is_set():
            assert timeout is not None
            assert timeout > 0
            self._time.now += math.ceil(timeout * SECOND)
        return self.is_set()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A hundred frames of two channels, 100 ms apart; frame i has id i."""
    path = tmp_path / "drive.log"
    write(path, range(100))
    return path


def write(path: Path, numbers: Sequence[int]) -> None:
    lines = []
    for i in numbers:
        stamp = START + i * 100 * MILLISECOND
        seconds, rest = divmod(stamp, SECOND)
        lines.append(f"({seconds}.{rest // 1000:06d}) can{i % 2} {i:03X}#00\n")
    path.write_text("".join(lines), "utf-8")


class Sink:
    """Takes the blocks and remembers when they came."""

    def __init__(self, time: Time) -> None:
        self._time = time
        self.blocks: list[FrameBlock] = []
        self.at: list[int] = []

    def __call__(self, block: FrameBlock) -> None:
        self.blocks.append(block)
        self.at.append(self._time.now)

    @property
    def ids(self) -> list[int]:
        return [i for block in self.blocks for i in block.id.tolist()]

    @property
    def sizes(self) -> list[int]:
        return [len(block) for block in self.blocks]


def play(source: RecordingSource, time: Time, stop: Stop | None = None) -> Sink:
    sink = Sink(time)
    source.run(sink, stop or Stop(time))
    return sink


@pytest.mark.parametrize("speed", [0.0, 0.5, 1.0, 1000.0, 1e15, math.inf])
def test_every_frame_comes_once_in_order_with_its_recorded_time(log: Path, speed: float) -> None:
    time = Time()
    source = RecordingSource("can", str(log), channel="can0", speed=speed, clock=time)
    assert source.state == "starting"
    sink = play(source, time)
    assert sink.ids == list(range(0, 100, 2))
    times = [t for block in sink.blocks for t in block.time.tolist()]
    assert times == [START + i * 100 * MILLISECOND for i in range(0, 100, 2)]
    assert {(block.bus, block.clock) for block in sink.blocks} == {("can", "recorded")}
    assert source.state == "ended"


def test_all_channels_come_where_none_is_chosen(log: Path) -> None:
    time = Time()
    sink = play(RecordingSource("can", str(log), speed=0, clock=time), time)
    assert sorted(sink.ids) == list(range(100))


@pytest.mark.parametrize(("speed", "seconds"), [(1.0, 9.8), (10.0, 0.98), (0.25, 39.2)])
def test_a_recording_takes_its_time(log: Path, speed: float, seconds: float) -> None:
    time = Time()
    source = RecordingSource("can", str(log), channel="can0", speed=speed, block_ms=100, clock=time)
    began = time.now
    sink = play(source, time)
    assert time.now - began == pytest.approx(seconds * SECOND)
    for block, at in zip(sink.blocks, sink.at, strict=True):
        due = (int(block.time[-1]) - START) / speed
        assert at - began >= due - 1000, "a frame came before it was on the bus"
        span = int(block.time[-1] - block.time[0])
        assert span <= 100 * MILLISECOND * speed


def test_flat_out_waits_for_nothing(log: Path) -> None:
    time = Time()
    play(RecordingSource("can", str(log), speed=0, clock=time), time)
    assert time.now == Time().now


@pytest.mark.parametrize("speed", [0.0, 10.0])
@pytest.mark.parametrize("begin", [0, 1, 17, 49, 50, 99])
def test_it_begins_after_the_frames_that_an_earlier_run_has(
    log: Path, begin: int, speed: float
) -> None:
    time = Time()
    source = RecordingSource("can", str(log), channel="can0", speed=speed, clock=time)
    assert source.resumable
    source.begin_at = begin
    assert play(source, time).ids == list(range(0, 100, 2))[begin:]


@pytest.mark.parametrize("speed", [0.0, 10.0])
def test_no_block_reaches_across_a_cut(log: Path, speed: float) -> None:
    time = Time()
    source = RecordingSource("can", str(log), channel="can0", speed=speed, clock=time)
    source.begin_at = 5
    source.cuts = frozenset({0, 5, 12, 13, 50, 999})
    sink = play(source, time)
    ends = [5 + sum(sink.sizes[: i + 1]) for i in range(len(sink.sizes))]
    assert {12, 13, 50} <= set(ends)
    assert sink.ids == list(range(0, 100, 2))[5:]


def test_cuts_beyond_the_first_window_of_a_recording_are_kept(tmp_path: Path) -> None:
    """A window of the reader has 16,384 frames; counts go on behind it."""
    path = tmp_path / "long.log"
    lines = [f"({i // 1000}.{i % 1000:03d}000) can0 {i % 2000:03X}#00\n" for i in range(40_000)]
    path.write_text("".join(lines), "utf-8")
    time = Time()
    source = RecordingSource("can", str(path), speed=0, clock=time)
    source.begin_at = 20_000
    source.cuts = frozenset({20_001, 39_999})
    sink = play(source, time)
    assert sum(sink.sizes) == 20_000
    ends = {20_000 + sum(sink.sizes[: i + 1]) for i in range(len(sink.sizes))}
    assert {20_001, 39_999} <= ends


def test_a_loop_begins_again_with_times_that_go_on(log: Path) -> None:
    time = Time()
    source = RecordingSource("can", str(log), channel="can0", speed=100, loop=True, clock=time)
    assert not source.resumable
    sink = Sink(time)
    source.run(sink, Stop(time, lambda: sum(sink.sizes) >= 150))
    assert sink.ids[:150] == list(range(0, 100, 2)) * 3
    times = [t for block in sink.blocks for t in block.time.tolist()]
    assert all(a < b for a, b in itertools.pairwise(times))
    assert times[50] - times[49] == 10 * MILLISECOND


def test_a_loop_over_no_frames_ends(tmp_path: Path) -> None:
    path = tmp_path / "none.log"
    path.write_text("\n", "utf-8")
    time = Time()
    source = RecordingSource("can", str(path), loop=True, clock=time)
    assert play(source, time).blocks == []
    assert source.state == "ended"


def test_a_stop_ends_it_while_it_waits(log: Path) -> None:
    time = Time()
    source = RecordingSource("can", str(log), channel="can0", block_ms=100, clock=time)
    sink = Sink(time)
    source.run(sink, Stop(time, lambda: len(sink.blocks) >= 3))
    assert sink.ids == [0, 2, 4]


def test_a_stop_ends_it_flat_out(log: Path) -> None:
    time = Time()
    source = RecordingSource("can", str(log), channel="can0", speed=0, block_ms=60_000, clock=time)
    source.cuts = frozenset({10, 20})
    stop = Stop(time)
    sink = Sink(time)

    def deliver(block: FrameBlock) -> None:
        sink(block)
        stop.set()

    source.run(deliver, stop)
    assert sink.sizes == [10]


def test_a_speed_near_zero_gives_one_time_after_another(log: Path) -> None:
    write(log, range(3))
    time = Time()
    source = RecordingSource("can", str(log), channel="can0", speed=1e-9, block_ms=10, clock=time)
    sink = Sink(time)
    source.run(sink, Stop(time, lambda: time.now > 1000 * SECOND))
    assert sink.ids == [0]


def test_bad_lines_are_told(log: Path) -> None:
    log.write_text(log.read_text("utf-8") + "(1.0) can0 XYZ#00\n", "utf-8")
    time = Time()
    source = RecordingSource("can", str(log), speed=0, clock=time)
    play(source, time)
    assert source.counts == {"bad_lines": 1}
    assert "drive.log:101" in source.notes[0]


def test_a_missing_recording_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(BusError, match=r"none\.log"):
        RecordingSource("can", str(tmp_path / "none.log"), clock=Time())


def test_a_recording_that_goes_away_ends_the_bus_with_a_reason(log: Path) -> None:
    time = Time()
    source = RecordingSource("can", str(log), clock=time)
    log.unlink()
    assert play(source, time).blocks == []
    assert source.state.startswith("ended: ")
    assert "drive.log" in source.state
