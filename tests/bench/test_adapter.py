"""The virtual adapter, as a program sees it that opens its path like a serial device."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import serial

from agent.bench.adapter import VirtualAdapter, format_lines
from agent.blocks import (
    ERROR,
    EXTENDED,
    FD_BIT_RATE_SWITCH,
    FD_FRAME,
    REMOTE,
    FrameBlock,
)
from agent.errors import BusError


def until(condition: Callable[[], bool]) -> None:
    """Look until something is so; the deadline is far, and only for a test that would hang."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "this never became so"
        time.sleep(0.005)


def block(*frames: tuple[int, int, bytes]) -> FrameBlock:
    """Frames of (id with flag bits, flags, data), a millisecond apart."""
    width = 64 if any(len(data) > 8 for _, _, data in frames) else 8
    return FrameBlock.from_arrays(
        bus="powertrain",
        time=np.arange(len(frames)) * 1_000_000,
        id=[identifier for identifier, _, _ in frames],
        length=[len(data) for _, _, data in frames],
        flags=[flags for _, flags, _ in frames],
        data=[list(data.ljust(width, b"\0")) for _, _, data in frames],
    )


@pytest.fixture
def adapter(tmp_path: Path) -> Iterator[VirtualAdapter]:
    with VirtualAdapter(tmp_path / "tty") as made:
        yield made


@pytest.fixture
def port(adapter: VirtualAdapter) -> Iterator[serial.Serial]:
    with serial.Serial(str(adapter.path), timeout=30) as opened:
        yield opened


def ask(port: serial.Serial, command: bytes, size: int = 1) -> bytes:
    port.write(command + b"\r")
    answer: bytes = port.read(size)
    return answer


class TestLines:
    def test_each_kind_of_frame_has_its_letter_and_digits(self) -> None:
        lines, ends = format_lines(
            block(
                (0x7FF, 0, b"\x01\xab"),
                (0x123 | EXTENDED, 0, b""),
                (0x123 | REMOTE, 0, b"\0\0\0"),
                (0x1FFFFFFF | REMOTE | EXTENDED, 0, b""),
            )
        )

        assert lines.split(b"\r") == [b"t7FF201AB", b"T000001230", b"r1233", b"R1FFFFFFF0", b""]
        assert ends.tolist() == [10, 21, 27, 38]

    def test_fd_frames_have_a_dlc_code_and_may_switch_the_bit_rate(self) -> None:
        switched = FD_FRAME | FD_BIT_RATE_SWITCH
        lines, _ = format_lines(
            block((1, FD_FRAME, b"\x11" * 12), (2 | EXTENDED, switched, b"\x22" * 64))
        )

        assert lines == b"d0019" + b"11" * 12 + b"\rB00000002F" + b"22" * 64 + b"\r"

    def test_stamps_are_milliseconds_that_wrap_each_minute(self) -> None:
        frames = block((1, 0, b""), (1, 0, b""))
        frames.time[:] = [59_999 * 1_000_000, 60_001 * 1_000_000]

        assert format_lines(frames, stamps=True)[0] == b"t0010EA5F\rt00100001\r"

    def test_an_error_frame_has_no_line(self) -> None:
        lines, ends = format_lines(block((1, 0, b""), (ERROR | 4, 0, b"\0" * 8), (2, 0, b"")))

        assert lines == b"t0010\rt0020\r"
        assert ends.tolist() == [6, 6, 12]


class TestCommands:
    def test_it_answers_like_an_adapter(self, port: serial.Serial) -> None:
        assert ask(port, b"C") == b"\x07"  # it is closed
        assert ask(port, b"S6") == b"\r"
        assert ask(port, b"V", 6) == b"V1013\r"
        assert ask(port, b"") == b"\r"
        assert ask(port, b"?") == b"\x07"
        assert ask(port, b"O") == b"\r"
        assert ask(port, b"S6") == b"\x07"  # not while it is open
        assert ask(port, b"O") == b"\x07"
        assert ask(port, b"C") == b"\r"

    def test_frames_that_a_program_wants_to_send_are_refused_and_counted(
        self, adapter: VirtualAdapter, port: serial.Serial
    ) -> None:
        ask(port, b"O")

        assert ask(port, b"t1230") == b"\x07"
        assert adapter.refused == 1


class TestSending:
    def test_nothing_comes_before_the_channel_is_opened(
        self, adapter: VirtualAdapter, port: serial.Serial
    ) -> None:
        assert adapter.send(block((1, 0, b""))) == 0
        assert ask(port, b"L") == b"\r"
        assert adapter.wait_opened()

        assert adapter.send(block((2, 0, b""))) == 1

        assert port.read(6) == b"t0020\r"
        assert adapter.sent == 1

    def test_drained_means_that_the_reader_has_everything(
        self, adapter: VirtualAdapter, port: serial.Serial
    ) -> None:
        ask(port, b"O")
        assert adapter.wait_opened()
        many = block(*[(1, 0, b"\x55" * 8)] * 400)  # more than a terminal's own buffer
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append(port.read(400 * 22)))
        assert adapter.send(many) == 400

        reader.start()
        assert adapter.drain()
        adapter.close()

        reader.join()
        assert len(got[0]) == 400 * 22

    def test_a_program_that_goes_away_ends_a_send_that_waits(self, adapter: VirtualAdapter) -> None:
        port = serial.Serial(str(adapter.path), timeout=30)
        ask(port, b"O")
        assert adapter.wait_opened()
        counts: list[int] = []
        endless = block(*[(1, 0, b"\x55" * 8)] * 16_000)
        sender = threading.Thread(target=lambda: counts.append(adapter.send(endless)))
        sender.start()

        port.read(22)
        port.close()

        sender.join()
        assert 0 < counts[0] < 16_000
        assert adapter.sent == counts[0]
        until(lambda: not adapter.opened.is_set())

    def test_the_stop_ends_every_wait(self, tmp_path: Path) -> None:
        stop = threading.Event()
        with VirtualAdapter(tmp_path / "tty", stop) as adapter:
            stop.set()
            assert not adapter.wait_opened()


class TestLink:
    def test_the_link_goes_with_the_adapter(self, tmp_path: Path) -> None:
        with VirtualAdapter(tmp_path / "tty") as adapter:
            assert adapter.path.exists()
        assert not adapter.path.is_symlink()

    def test_a_link_left_behind_is_replaced_but_a_file_is_not(self, tmp_path: Path) -> None:
        stale, file = tmp_path / "stale", tmp_path / "file"
        stale.symlink_to("/dev/pts/none")
        file.write_text("mine")

        with VirtualAdapter(stale):
            assert stale.exists()
        with pytest.raises(BusError, match="cannot make a virtual adapter"):
            VirtualAdapter(file)
        assert file.read_text() == "mine"
