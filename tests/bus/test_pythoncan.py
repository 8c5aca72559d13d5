"""Frames through python-can, on its virtual bus within this process."""

import threading
import time
from collections.abc import Callable, Iterator

import can
import pytest

from agent.blocks import ERROR, EXTENDED, FD_BIT_RATE_SWITCH, FD_FRAME, REMOTE, FrameBlock
from agent.bus.pythoncan import PythonCanSource


def until(condition: Callable[[], bool]) -> None:
    """Look until something is so; the deadline is far, and only for a test that would hang."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "this never became so"
        time.sleep(0.005)


Start = Callable[..., tuple[PythonCanSource, list[FrameBlock]]]


@pytest.fixture
def start() -> Iterator[Start]:
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def begin(interface: str, channel: str) -> tuple[PythonCanSource, list[FrameBlock]]:
        source = PythonCanSource("powertrain", interface, channel, block_ms=20, retry_s=0.02)
        got: list[FrameBlock] = []
        threads.append(threading.Thread(target=source.run, args=(got.append, stop), daemon=True))
        threads[-1].start()
        return source, got

    yield begin
    stop.set()
    for thread in threads:
        thread.join()


def test_every_kind_of_frame_arrives_as_it_was_sent(start: Start) -> None:
    source, got = start("virtual", "kinds")
    until(lambda: source.state == "reading")
    with can.Bus("kinds", interface="virtual") as bus:
        for message in (
            can.Message(arbitration_id=0x123, is_extended_id=False, data=b"\1\2\3"),
            can.Message(arbitration_id=0x1ABCDEF0, data=bytes(8)),
            can.Message(arbitration_id=5, is_extended_id=False, is_remote_frame=True, dlc=4),
            can.Message(arbitration_id=1, is_error_frame=True, is_extended_id=False, dlc=0),
            can.Message(
                arbitration_id=7,
                is_extended_id=False,
                is_fd=True,
                bitrate_switch=True,
                data=b"\x55" * 12,
            ),
        ):
            bus.send(message)
        until(lambda: sum(map(len, got)) == 5)

    ids = [i for block in got for i in block.id.tolist()]
    assert ids == [0x123, 0x1ABCDEF0 | EXTENDED, 5 | REMOTE, 1 | ERROR, 7]
    assert [n for block in got for n in block.length.tolist()] == [3, 8, 4, 0, 12]
    assert got[-1].flags.tolist()[-1] == FD_FRAME | FD_BIT_RATE_SWITCH
    assert got[0].data[0].tobytes()[:8] == b"\1\2\3" + bytes(5)
    assert got[-1].data.shape[1] == 64
    assert got[-1].data[-1].tobytes() == b"\x55" * 12 + bytes(52)
    times = [t for block in got for t in block.time.tolist()]
    assert times == sorted(times)
    assert times[-1] <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def test_an_adapter_that_cannot_be_opened_is_waited_for_and_said(start: Start) -> None:
    source, _ = start("no-such-interface", "0")

    until(lambda: source.state.startswith("waiting: "))

    assert "the adapter no-such-interface 0 cannot be opened" in source.state
