"""Sockets that are only read, on real ones of another family: the kernel calls are the same."""

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

import agent.bus.canraw as module
from agent.bus.canframes import parse
from agent.bus.canraw import CanSocket, ClockPair, MessageSocket, pack_filters
from agent.bus.early import EarlyReader
from agent.bus.stamps import KernelStamps, Reads
from agent.errors import BusError
from tests.bus.messages import Wire, classic, fd

_WAIT_S: Final = 30.0


def until(true: Callable[[], bool]) -> None:
    """Wait for what another thread brings about."""
    moment = threading.Event()
    for _ in range(int(_WAIT_S / 0.005)):
        if true():
            return
        moment.wait(0.005)
    raise AssertionError("it did not come about")


def test_one_call_takes_many_messages_and_leaves_none() -> None:
    with Wire() as wire:
        wire.send(*(classic(n, n.to_bytes(2, "big")) for n in range(300)))

        assert wire.reader.receive() == 300
        assert wire.reader.emptied
        assert wire.reader.receive() == 0
        frames = parse(wire.reader.messages())

        assert frames.id.tolist() == list(range(300))
        assert frames.data[:, 1].tolist() == [n % 256 for n in range(300)]


def test_a_ring_that_is_full_takes_no_more_until_it_is_cleared() -> None:
    with Wire(slots=100) as wire:
        wire.send(*(classic(n) for n in range(250)))

        seen = []
        while wire.reader.receive():
            assert wire.reader.room == 100 - wire.reader.waiting
            seen += parse(wire.reader.messages()).id.tolist()
            wire.reader.clear()

        assert seen == list(range(250))


def test_slots_are_used_again_for_other_sizes() -> None:
    with Wire(slots=4) as wire:
        for data in (b"\xff" * 64, b"\x01", b"\x02" * 12):
            wire.send(fd(7, data), classic(8, b"\x03"))
            wire.reader.receive()
            frames = parse(wire.reader.messages())
            wire.reader.clear()

            assert frames.length.tolist() == [len(data), 1]
            assert frames.data[0].tobytes().rstrip(b"\0") == data
            assert frames.data[1].tobytes().rstrip(b"\0") == b"\x03"


def test_the_kernel_stamps_each_message_when_it_comes() -> None:
    with Wire() as wire:
        begin, _ = ClockPair()()
        stamps = KernelStamps(*wire.reader.opened)
        wire.send(*(classic(n) for n in range(100)))
        sent, _ = ClockPair()()

        wire.reader.receive()
        messages = wire.reader.messages()
        frames = parse(messages)
        times = stamps.times(frames.stamp, Reads.of(messages.reads, frames.rows)).tolist()

        # The first may be stamped late: the kernel turns stamping on in its own time.
        assert times == sorted(times)
        assert begin - 2_000_000 <= times[0]
        assert times[-1] <= messages.reads[-1].now
        assert times[50] <= sent + 2_000_000
        assert stamps.clamped == 0


@pytest.mark.parametrize("hardware_stamps", [False, True])
def test_what_does_not_fit_the_buffer_is_counted_by_the_kernel(*, hardware_stamps: bool) -> None:
    with Wire(buffer_bytes=20_000, hardware_stamps=hardware_stamps) as wire:
        wire.send(*(classic(n % 2048) for n in range(500)))
        wire.reader.receive()
        first = wire.reader.waiting
        assert 0 < first < 500
        assert wire.reader.drops() == 500 - first

        # The count comes along with the next message that fits.
        wire.send(classic(1))
        wire.reader.receive()
        frames = parse(wire.reader.messages())

        assert len(frames) == first + 1
        assert frames.drops == 500 - first
        assert (frames.stamp > 0).all()
        assert frames.bad == 0


def test_messages_that_are_no_frames_are_seen_as_such() -> None:
    with Wire() as wire:
        wire.send(b"", b"x" * 15, b"x" * 73, b"x" * 4000, classic(5))
        wire.reader.receive()

        frames = parse(wire.reader.messages())

    assert frames.id.tolist() == [5]
    assert frames.bad == 4


def test_a_buffer_is_granted_as_asked_or_as_the_kernel_allows() -> None:
    with Wire(buffer_bytes=100_000) as wire:
        assert wire.reader.buffer_bytes == 200_000


def test_what_the_kernel_reports_is_raised() -> None:
    with Wire() as wire:
        descriptor = wire.reader.fileno()
        elsewhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(elsewhere, descriptor)
        os.close(elsewhere)

        with pytest.raises(OSError, match="non-socket") as caught:
            wire.reader.receive()

        assert caught.value.errno == errno.ENOTSOCK
        assert wire.reader.drops() is None


def test_a_closed_socket_gives_its_descriptor_back_once_and_its_ring_stays() -> None:
    wire = Wire()
    wire.send(classic(3))
    wire.reader.receive()
    descriptor = wire.reader.fileno()

    wire.reader.close()
    wire.close()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    assert parse(wire.reader.messages()).id.tolist() == [3]


class TestFilters:
    def test_none_passes_everything_and_an_empty_list_nothing(self) -> None:
        assert pack_filters(None) == bytes(8)
        assert pack_filters([]) == b""

    def test_512_are_taken_and_one_more_is_refused(self) -> None:
        assert len(pack_filters([(n, 0x7FF) for n in range(512)])) == 512 * 8
        with pytest.raises(BusError, match="513 filters are more than the 512"):
            pack_filters([(n, 0x7FF) for n in range(513)])

    @pytest.mark.parametrize("wrong", [(-1, 0), (1 << 32, 0), (0, 1 << 32)])
    def test_numbers_beyond_32_bits_are_refused(self, wrong: tuple[int, int]) -> None:
        with pytest.raises(BusError, match="32 bits"):
            pack_filters([wrong])

    def test_a_socket_that_has_none_says_so(self) -> None:
        with Wire() as wire, pytest.raises(BusError, match="refuses the filters"):
            wire.reader.set_filters([(1, 1)])


class TestOpening:
    def test_an_interface_needs_a_name(self) -> None:
        with pytest.raises(BusError, match="needs a name"):
            CanSocket("")

    def test_one_that_cannot_be_opened_says_why(self) -> None:
        # A kernel with CAN has no such interface; one without has nothing at all.
        with pytest.raises(BusError, match=r"no interface nowhere0|this kernel has no CAN"):
            CanSocket("nowhere0")

    def test_a_name_that_is_too_long_is_refused(self) -> None:
        with pytest.raises(BusError, match=r"cannot be opened|this kernel has no CAN"):
            CanSocket("a-name-that-is-much-too-long-for-an-interface")


class TestEarly:
    """What comes while the program still imports is kept, in order."""

    def test_all_frames_are_handed_over_in_their_order(self) -> None:
        with Wire(slots=50) as wire:
            early = EarlyReader([wire.reader])
            early.start()
            for begin in range(0, 500, 100):
                wire.send(*(classic(n) for n in range(begin, begin + 100)))
            probe = wire.reader

            until(lambda: not _readable(probe))
            handed = early.hand_over(wire.reader)
            early.stop()

            seen: list[int] = []
            for messages in handed.captured:
                seen += parse(messages).id.tolist()
            seen += parse(handed.socket.messages()).id.tolist()
            assert seen == list(range(500))
            stamps = KernelStamps(*wire.reader.opened)
            for messages in (*handed.captured, handed.socket.messages()):
                frames = parse(messages)
                stamps.times(frames.stamp, Reads.of(messages.reads, frames.rows))
            assert stamps.clamped == 0

    def test_memory_is_bounded_and_the_kernel_keeps_the_rest(self) -> None:
        with Wire(slots=50) as wire:
            early = EarlyReader([wire.reader], limit_bytes=50 * 200 * 2)
            early.start()
            wire.send(*(classic(n) for n in range(500)))

            until(lambda: wire.reader.room == 0)
            handed = early.hand_over(wire.reader)
            early.stop()

            assert [messages.count for messages in handed.captured] == [50, 50]
            seen = [n for m in handed.captured for n in parse(m).id.tolist()]
            while True:
                seen += parse(wire.reader.messages()).id.tolist()
                wire.reader.clear()
                if not wire.reader.receive():
                    break
            assert seen == list(range(500))

    def test_each_socket_is_handed_over_once_and_the_others_go_on(self) -> None:
        with Wire() as one, Wire() as other:
            early = EarlyReader([one.reader, other.reader])
            early.start()

            early.hand_over(one.reader)
            with pytest.raises(KeyError):
                early.hand_over(one.reader)
            other.send(classic(9))
            until(lambda: other.reader.waiting == 1)
            early.stop()

            assert other.reader.fileno() == -1, "nobody took it"
            assert one.reader.fileno() >= 0

    def test_a_reader_that_never_ran_can_be_stopped(self) -> None:
        with Wire() as wire:
            EarlyReader([wire.reader]).stop()
            assert wire.reader.fileno() == -1

    def test_a_socket_that_fails_is_left_for_its_reader(self) -> None:
        with Wire() as wire, Wire() as other:
            elsewhere, writer = os.pipe()  # always readable, and no socket
            os.close(writer)
            os.dup2(elsewhere, wire.reader.fileno())
            os.close(elsewhere)
            early = EarlyReader([wire.reader, other.reader])
            early.start()

            other.send(classic(9))
            until(lambda: other.reader.waiting == 1)
            handed = early.hand_over(wire.reader)
            early.stop()

            assert handed.captured == []


def _readable(opened: MessageSocket) -> bool:
    with contextlib.closing(socket.socket(fileno=os.dup(opened.fileno()))) as probe:
        try:
            probe.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        return True


_IMPORT: Final = """
import sys, types
import agent
room = types.ModuleType("agent.bus")  # the room itself may import what it likes
room.__path__ = [agent.__path__[0] + "/bus"]
sys.modules["agent.bus"] = room
import agent.bus.canraw, agent.bus.early
print(*sorted(sys.modules))
"""


def test_sockets_are_opened_without_waiting_for_anything_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-c", _IMPORT],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(module.__file__).parents[2],
    )

    loaded = set(done.stdout.split())
    assert "agent.bus.canraw" in loaded
    assert not loaded & {"numpy", "dataclasses", "typing", "logging", "pathlib", "msgspec", "can"}


def test_there_is_no_way_to_send() -> None:
    public = {name for name in dir(CanSocket) if not name.startswith("_")}

    assert public == {
        "buffer_bytes",
        "clear",
        "close",
        "drops",
        "emptied",
        "fileno",
        "messages",
        "receive",
        "room",
        "set_filters",
        "waiting",
    }
