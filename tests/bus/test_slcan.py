"""The serial path: lines to frames, and a source on a real pseudo-terminal."""

import itertools
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.bench.adapter import VirtualAdapter, format_lines
from agent.blocks import (
    EXTENDED,
    FD_BIT_RATE_SWITCH,
    FD_FRAME,
    MAX_BLOCK_FRAMES,
    REMOTE,
    FrameBlock,
    SignalTable,
)
from agent.bus.lawicel import StampClock
from agent.bus.slcan import SlcanFrames, SlcanParser, SlcanSource
from agent.bus.source import Source
from agent.clock import BootNs, SystemClock
from agent.errors import ConfigError

Frame = tuple[int, int, int, bytes, int]  # id with flag bits, length, flags, data, stamp

LENGTHS: Final = (*range(9), 12, 16, 20, 24, 32, 48, 64)
LINE: Final = re.compile(
    rb"([tTrRdDbB])((?<=[trdb])[0-9A-Fa-f]{3}|(?<=[TRDB])[0-9A-Fa-f]{8})([0-9A-Fa-f])([0-9A-Fa-f]*)"
)


def reference(stream: bytes) -> tuple[list[Frame], int]:
    """What a stream holds, line by line: frames, and how many lines are none."""
    frames, bad = [], 0
    for line in re.split(rb"[\r\n\x07]", stream)[:-1]:
        if line in (b"", b"z", b"Z"):
            continue
        frame = reference_line(line)
        if frame is None:
            bad += 1
        else:
            frames.append(frame)
    return frames, bad


def reference_line(line: bytes) -> Frame | None:
    match = LINE.fullmatch(line)
    if match is None:
        return None
    kind, identifier, code, rest = match[1].decode(), int(match[2], 16), int(match[3], 16), match[4]
    extended, remote, fd = kind in "TRDB", kind in "rR", kind in "dDbB"
    if identifier > (0x1FFF_FFFF if extended else 0x7FF) or (code > 8 and not fd):
        return None
    length = LENGTHS[code]
    digits = 0 if remote else 2 * length
    stamp = rest[digits:]
    if len(rest) < digits or len(stamp) not in (0, 4) or int(stamp or b"0", 16) >= 60_000:
        return None
    return (
        identifier | (EXTENDED if extended else 0) | (REMOTE if remote else 0),
        length,
        (FD_FRAME if fd else 0) | (FD_BIT_RATE_SWITCH if kind in "bB" else 0),
        bytes.fromhex(rest[:digits].decode()),
        int(stamp, 16) if stamp else -1,
    )


def as_frames(parsed: SlcanFrames) -> list[Frame]:
    result: list[Frame] = []
    for row in range(len(parsed)):
        identifier, length = int(parsed.id[row]), int(parsed.length[row])
        data = parsed.data[row].tobytes()
        used = 0 if identifier & REMOTE else length
        assert not any(data[used:]), "bytes beyond the length are zero"
        stamp = int(parsed.stamp[row])
        result.append((identifier, length, int(parsed.flags[row]), data[:used], stamp))
    return result


HEX: Final = "0123456789abcdefABCDEF"


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """A well-formed line most of the time, with one byte off sometimes."""
    kind = draw(st.sampled_from("tTrRdDbB"))
    width, top = (3, 0x7FF) if kind.islower() else (8, 0x1FFF_FFFF)
    code = draw(st.integers(0, 15 if kind in "dDbB" else 8))
    data = b"" if kind in "rR" else draw(st.binary(min_size=LENGTHS[code], max_size=LENGTHS[code]))
    stamp = draw(st.one_of(st.just(""), st.integers(0, 59_999).map("{:04X}".format)))
    identifier = draw(st.integers(0, top))
    line = f"{kind}{identifier:0{width}X}{code:X}{data.hex()}{stamp}".encode()
    if draw(st.integers(0, 4)) == 0:
        at = draw(st.integers(0, len(line) - 1))
        line = draw(
            st.sampled_from(
                (
                    line[:at],
                    line[:at] + line[at + 1 :],
                    line[:at] + b"G" + line[at + 1 :],
                    line[at:],
                )
            )
        )
    return line + draw(st.sampled_from((b"\r", b"\r", b"\r", b"\x07", b"\r\n", b"\rz\r", b"\r\r")))


streams = st.one_of(
    st.lists(lines(), max_size=12).map(b"".join),
    st.text("tTrRdDbBzZ\r\x07\n" + HEX, max_size=120).map(str.encode),
    st.binary(max_size=80),
)


@given(streams, st.lists(st.integers(0, 400), max_size=6))
@example(b"t1230\r", [0, 1, 2, 3, 4, 5])
@example(b"T1FFFFFFF0\rT200000000\rt8000\rt1239112233445566778899\r", [])
@example(b"t1230EA5F\rt1230EA60\r", [])
@example(b"dFFF0\r", [])
def test_any_stream_in_any_pieces_is_read_as_line_by_line(stream: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    parser = SlcanParser()
    got: list[Frame] = []
    ends: list[int] = []

    for begin, end in itertools.pairwise(places):
        parsed = parser.feed(stream[begin:end])
        got += as_frames(parsed)
        ends += parsed.end.tolist()

    wanted, bad = reference(stream)
    assert got == wanted
    assert parser.bad == bad
    assert ends == sorted(ends)
    assert all(stream[end - 1 : end] in (b"\r", b"\n", b"\x07") for end in ends)


def test_a_line_without_end_costs_itself_and_little_memory() -> None:
    parser = SlcanParser()

    for _ in range(100):
        assert not len(parser.feed(b"t1238" * 10_000))
    frames = as_frames(parser.feed(b"\rt1232AABB\r"))

    assert frames == [(0x123, 2, 0, b"\xaa\xbb", -1)]
    assert parser.bad == 1


def test_half_a_line_at_the_end_of_a_stream_is_a_bad_one() -> None:
    parser = SlcanParser()
    parser.feed(b"t1230\rt123811")

    parser.cut()
    frames = as_frames(parser.feed(b"2233\rt1231AA\r"))

    assert frames == [(0x123, 1, 0, b"\xaa", -1)]
    assert parser.bad == 2


def test_a_stream_that_breaks_off_between_lines_costs_nothing() -> None:
    parser = SlcanParser()
    parser.feed(b"t1230\r")

    parser.cut()

    assert parser.bad == 0


def test_a_block_of_classic_frames_is_eight_bytes_wide_and_one_with_long_frames_is_wider() -> None:
    assert SlcanParser().feed(b"t1230\r").data.shape == (1, 8)
    assert SlcanParser().feed(b"d12380011223344556677\r").data.shape == (1, 8)
    assert SlcanParser().feed(b"t1230\rb1239" + b"00" * 12 + b"\r").data.shape == (2, 64)


def frames(n: int, *, seed: int = 0) -> FrameBlock:
    """As many frames, of all kinds that have a classic line."""
    random = np.random.default_rng(seed)
    length = random.integers(0, 9, n).astype(np.uint16)
    extended = random.integers(0, 2, n).astype(bool)
    identifier = np.where(extended, random.integers(0, 1 << 29, n), random.integers(0, 1 << 11, n))
    remote = random.integers(0, 10, n) == 0
    data = random.integers(0, 256, (n, 8), np.uint8)
    data[np.arange(8) >= np.where(remote, 0, length)[:, np.newaxis]] = 0
    return FrameBlock.from_arrays(
        bus="powertrain",
        time=np.arange(n) * 1_000_000,
        id=identifier.astype(np.uint32)
        | np.where(extended, EXTENDED, 0).astype(np.uint32)
        | np.where(remote, REMOTE, 0).astype(np.uint32),
        length=length,
        data=data,
    )


def fd_frames(n: int) -> FrameBlock:
    """As many CAN FD frames of all lengths, every other one with the bit rate switched."""
    random = np.random.default_rng(1)
    length = np.array(LENGTHS, np.uint16)[random.integers(0, len(LENGTHS), n)]
    data = random.integers(0, 256, (n, 64), np.uint8)
    data[np.arange(64) >= length[:, np.newaxis]] = 0
    return FrameBlock.from_arrays(
        bus="powertrain",
        time=np.arange(n) * 1_000_000,
        id=np.arange(n, dtype=np.uint32) | np.uint32(EXTENDED),
        length=length,
        flags=FD_FRAME | np.where(np.arange(n) % 2, FD_BIT_RATE_SWITCH, 0),
        data=data,
    )


class TestStamps:
    SECOND = 1_000_000_000

    def test_they_give_the_distances_also_where_they_wrap(self) -> None:
        stamps = np.array([59_980, 59_990, 0, 10], np.int32)

        times = StampClock().times(stamps, np.full(4, 5 * self.SECOND))

        assert np.diff(times).tolist() == [10_000_000] * 3
        assert times[-1] == 5 * self.SECOND  # none is later than its read

    def test_whole_minutes_of_silence_are_seen_in_the_reads(self) -> None:
        clock = StampClock()
        first = clock.times(np.array([100], np.int32), np.array([0]))

        later = clock.times(np.array([600], np.int32), np.array([180 * self.SECOND + 500_000_000]))

        assert int(later[0] - first[0]) == 180 * self.SECOND + 500_000_000

    def test_a_late_read_does_not_move_the_frames_after_it(self) -> None:
        clock = StampClock()
        clock.times(np.array([0], np.int32), np.array([0]))

        late = clock.times(np.array([100, 200], np.int32), np.array([200_000_000, 200_000_000]))

        assert late.tolist() == pytest.approx([100_000_000, 200_000_000], abs=50_000)

    @pytest.mark.parametrize("drift", [-100e-6, 100e-6])
    def test_an_adapter_whose_quartz_is_off_is_followed(self, drift: float) -> None:
        clock = StampClock()
        for tenth in range(36_000):  # an hour
            read = tenth * self.SECOND // 10
            stamp = int(tenth * 100 * (1 + drift)) % 60_000
            at = int(clock.times(np.array([stamp], np.int32), np.array([read]))[0])

        assert abs(at - read) < 3_000_000


class Bench:
    """A source in its thread, and what it has delivered."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.source: Source = SlcanSource("powertrain", path, retry_s=0.02, block_ms=30, **options)
        self.blocks: list[FrameBlock] = []
        self.stop = threading.Event()
        self._thread = threading.Thread(
            target=self.source.run, args=(self._take, self.stop), daemon=True
        )
        self._thread.start()

    def _take(self, block: FrameBlock | SignalTable) -> None:
        assert isinstance(block, FrameBlock)
        self.blocks.append(block)

    def close(self) -> None:
        self.stop.set()
        self._thread.join()

    @property
    def bad_lines(self) -> int:
        return self.source.counts["bad_lines"]

    def until_bad_lines(self, count: int) -> None:
        until(lambda: self.bad_lines == count)

    @property
    def count(self) -> int:
        return sum(map(len, self.blocks))


class FastClock(SystemClock):
    """A boot clock on which a second passes in five thousandths of one."""

    def boot(self) -> BootNs:
        return BootNs(200 * super().boot())


def of_block(block: FrameBlock) -> list[tuple[int, int, int, bytes]]:
    """id, length, flags and data of each frame, as `reference` gives them."""
    return [
        (
            int(block.id[row]),
            int(block.length[row]),
            int(block.flags[row]),
            block.data[row, : 0 if block.id[row] & REMOTE else block.length[row]].tobytes(),
        )
        for row in range(len(block))
    ]


def until(condition: Callable[[], bool]) -> None:
    """Look until something is so; the deadline is far, and only for a test that would hang."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "this never became so"
        time.sleep(0.005)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ttyACM0"


@pytest.fixture
def start(path: Path) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def begin(**options: Any) -> Bench:
        benches.append(Bench(path, **options))
        return benches[-1]

    yield begin
    for bench in benches:
        bench.close()


class TestSource:
    def test_every_frame_that_an_adapter_sends_arrives(
        self, path: Path, start: Callable[..., Bench]
    ) -> None:
        wanted = frames(20_000)
        with VirtualAdapter(path) as adapter:
            bench = start()
            assert adapter.wait_opened()
            assert adapter.send(wanted) == len(wanted)
            until(lambda: bench.count == len(wanted))

        for field in ("id", "length", "data"):
            got = np.concatenate([getattr(block, field) for block in bench.blocks])
            assert (got == getattr(wanted, field)).all(), field
        assert bench.bad_lines == 0
        assert all(len(block) <= MAX_BLOCK_FRAMES for block in bench.blocks)

    def test_times_are_boot_times_in_order(self, path: Path, start: Callable[..., Bench]) -> None:
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        with VirtualAdapter(path) as adapter:
            bench = start()
            assert adapter.wait_opened()
            for seed in range(5):
                adapter.send(frames(100, seed=seed))
            until(lambda: bench.count == 500)

        times = np.concatenate([block.time for block in bench.blocks])
        assert before < times[0]
        assert times[-1] <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        assert (np.diff(times) >= 0).all()

    def test_stamps_of_the_adapter_are_laid_into_boot_time(
        self, path: Path, start: Callable[..., Bench]
    ) -> None:
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        with VirtualAdapter(path) as adapter:
            bench = start(timestamps=True)
            assert adapter.wait_opened()
            adapter.send(frames(50))
            until(lambda: bench.count == 50)

        times = np.concatenate([block.time for block in bench.blocks])
        assert (np.diff(times) >= 0).all()
        assert before - 50_000_000 < times[0]
        assert times[-1] <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def test_what_is_no_frame_is_counted(self, path: Path, start: Callable[..., Bench]) -> None:
        good, _ = format_lines(frames(3))
        with VirtualAdapter(path) as adapter:
            bench = start()
            assert adapter.wait_opened()
            adapter.send_bytes(b"t12\r" + good + b"\xff\xfe\rt1238zz\rt9991\r" + good)
            until(lambda: bench.count == 6)

        assert bench.bad_lines == 4

    def test_a_missing_adapter_is_waited_for_and_said(
        self, path: Path, start: Callable[..., Bench]
    ) -> None:
        bench = start()
        until(lambda: bench.source.state == f"waiting: the adapter {path} is not there")

        with VirtualAdapter(path) as adapter:
            assert adapter.wait_opened()
            adapter.send(frames(10))
            until(lambda: bench.count == 10)
            assert bench.source.state == "reading"

    def test_unplugged_and_plugged_in_again_it_goes_on(
        self, path: Path, start: Callable[..., Bench]
    ) -> None:
        with VirtualAdapter(path) as adapter:
            bench = start()
            assert adapter.wait_opened()
            adapter.send(frames(10))
            adapter.send_bytes(b"t12381122")  # half a line, then the plug is pulled
            until(lambda: bench.count == 10)
        until(lambda: bench.source.state.startswith("waiting: "))

        with VirtualAdapter(path) as adapter:
            assert adapter.wait_opened()
            adapter.send(frames(7))
            until(lambda: bench.count == 17)

        assert bench.bad_lines == 1

    @pytest.mark.parametrize(
        ("options", "commands"),
        [
            ({}, [b"C", b"S6", b"L"]),
            ({"listen_only": False, "bitrate": 250_000}, [b"C", b"S5", b"O"]),
            ({"timestamps": True}, [b"C", b"S6", b"Z1", b"L"]),
            ({"data_bitrate": 2_000_000}, [b"C", b"S6", b"Y2", b"L"]),
            ({"data_bitrate": 5_000_000, "timestamps": True}, [b"C", b"S6", b"Y5", b"Z1", b"L"]),
        ],
    )
    def test_it_only_listens_unless_told_otherwise_and_sends_nothing(
        self,
        path: Path,
        start: Callable[..., Bench],
        options: dict[str, Any],
        commands: list[bytes],
    ) -> None:
        with VirtualAdapter(path) as adapter:
            bench = start(**options)
            assert adapter.wait_opened()
            adapter.send(frames(100))
            until(lambda: bench.count == 100)

            assert list(adapter.commands) == commands
            assert adapter.silent == (commands[-1] == b"L")
            assert adapter.refused == 0

    def test_an_adapter_that_answers_nothing_is_opened_silent_as_its_firmware_wants_it(
        self, path: Path, start: Callable[..., Bench]
    ) -> None:
        """The stock firmware of CANable ignores `L`: it would stay closed for ever."""
        with VirtualAdapter(path, mute=b"9f34 github.com/normaldotcom/canable2-fw.git") as adapter:
            bench = start(data_bitrate=2_000_000)
            assert adapter.wait_opened()
            adapter.send(frames(100))
            until(lambda: bench.count == 100)

            assert adapter.silent
            assert list(adapter.commands) == [b"C", b"S6", b"Y2", b"L", b"V", b"M1", b"O"]

    def test_an_unknown_adapter_that_answers_nothing_is_never_opened_so_that_it_acknowledges(
        self, path: Path, start: Callable[..., Bench]
    ) -> None:
        with VirtualAdapter(path, mute=b"") as adapter:
            bench = start()
            until(lambda: bench.source.state == "reading")

            assert list(adapter.commands) == [b"C", b"S6", b"L", b"V"]

    def test_fd_frames_arrive(self, path: Path, start: Callable[..., Bench]) -> None:
        wanted = fd_frames(2_000)
        with VirtualAdapter(path) as adapter:
            bench = start(data_bitrate=2_000_000)
            assert adapter.wait_opened()
            adapter.send(wanted)
            until(lambda: bench.count == len(wanted))

        for field in ("id", "length", "flags", "data"):
            got = np.concatenate([getattr(block, field) for block in bench.blocks])
            assert (got == getattr(wanted, field)).all(), field
        assert bench.bad_lines == 0

    @pytest.mark.parametrize("seed", range(4))
    def test_every_well_formed_frame_arrives_and_every_other_is_counted(
        self, path: Path, start: Callable[..., Bench], seed: int
    ) -> None:
        """Lines torn at any byte, noise between them, and the plug pulled in the middle of one."""
        random = np.random.default_rng(seed)
        wanted: list[Frame] = []
        bad = 0
        bench = start()
        for session in range(3):
            stream = b"".join(
                format_lines(frames(50, seed=seed + session))[0]
                + random.integers(0, 256, random.integers(0, 60), np.uint8).tobytes()
                + b"\r"
                for _ in range(6)
            )
            whole, wrong = reference(stream)
            wanted += whole
            bad += wrong + 1
            with VirtualAdapter(path) as adapter:
                assert adapter.wait_opened()
                cuts = np.sort(random.integers(0, len(stream), 40)).tolist()
                for begin, end in itertools.pairwise([0, *cuts, len(stream)]):
                    assert adapter.send_bytes(stream[begin:end]) == end - begin
                adapter.send_bytes(b"t1238AABB")
                assert adapter.drain()
            bench.until_bad_lines(bad)

        got = [frame for block in bench.blocks for frame in of_block(block)]
        assert got == [frame[:4] for frame in wanted]

    def test_a_wrong_baud_rate_is_guessed_from_bytes_without_a_single_frame(
        self, path: Path, start: Callable[..., Bench], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "edge_agent")
        noise = np.random.default_rng(0).integers(128, 256, 2_000, np.uint8).tobytes()
        with VirtualAdapter(path) as adapter:
            bench = start(clock=FastClock(), baudrate=57_600)
            assert adapter.wait_opened()

            def garbled() -> bool:
                adapter.send_bytes(noise + b"\r")
                return bench.source.state == (
                    f"waiting: what comes from {path} is no frame; is the baud rate of 57600 right?"
                )

            until(garbled)
            assert bench.bad_lines > 0
            adapter.send_bytes(b"\rt1230\r")
            until(lambda: bench.source.state == "reading")

        lines = [record.getMessage() for record in caplog.records[:2]]
        assert lines == [
            f"bus powertrain: what comes from {path} is no frame; is the baud rate of 57600 right?",
            "bus powertrain: reading again",
        ]

    def test_noise_without_the_end_of_a_line_is_noise_too(
        self, path: Path, start: Callable[..., Bench]
    ) -> None:
        with VirtualAdapter(path) as adapter:
            bench = start(clock=FastClock())
            assert adapter.wait_opened()

            def garbled() -> bool:
                adapter.send_bytes(b"\xff" * 1_000)
                return "is no frame" in bench.source.state

            until(garbled)
            adapter.send_bytes(b"\r")
            until(lambda: bench.bad_lines == 1)

    @pytest.mark.parametrize(
        ("refuses", "options", "words"),
        [
            (b"L", {}, "refuses L (set listen_only = false"),
            (b"Y", {"data_bitrate": 2_000_000}, "refuses Y2 (leave data_bitrate out"),
            (b"Z", {"timestamps": True}, "refuses Z1 (set timestamps = false"),
            (b"S", {}, "refuses S6"),
        ],
    )
    def test_an_adapter_that_refuses_is_named(
        self,
        path: Path,
        start: Callable[..., Bench],
        refuses: bytes,
        options: dict[str, Any],
        words: str,
    ) -> None:
        with VirtualAdapter(path, refuses=refuses):
            bench = start(**options)
            until(lambda: words in bench.source.state)

    def test_it_ends_when_it_is_told_to_and_closes_the_channel(
        self, path: Path, start: Callable[..., Bench]
    ) -> None:
        with VirtualAdapter(path) as adapter:
            bench = start()
            assert adapter.wait_opened()
            bench.close()
            until(lambda: not adapter.opened.is_set())

        assert bench.source.state == "ended"

    def test_a_slow_reader_slows_the_adapter_and_loses_nothing(self, path: Path) -> None:
        source = SlcanSource("powertrain", path, block_ms=10)
        stop, gate = threading.Event(), threading.Event()
        got: list[int] = []

        def deliver(block: FrameBlock | SignalTable) -> None:
            gate.wait()
            got.append(len(block))

        thread = threading.Thread(target=source.run, args=(deliver, stop), daemon=True)
        thread.start()
        with VirtualAdapter(path) as adapter:
            assert adapter.wait_opened()
            sender = threading.Thread(target=adapter.send, args=(frames(20_000),), daemon=True)
            sender.start()
            gate.set()
            until(lambda: sum(got) == 20_000)
            sender.join()
            stop.set()
            thread.join()

    def test_a_bit_rate_that_the_protocol_lacks_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="33333"):
            SlcanSource("powertrain", "/dev/ttyACM0", bitrate=33_333)
        with pytest.raises(ConfigError, match="a data bit rate of 3000000"):
            SlcanSource("powertrain", "/dev/ttyACM0", data_bitrate=3_000_000)
