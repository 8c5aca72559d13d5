"""Frames through python-can: its virtual bus within this process, and its own serial driver."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import can
import numpy as np
import pytest

from agent.bench.adapter import VirtualAdapter
from agent.blocks import (
    ERROR,
    EXTENDED,
    FD_BIT_RATE_SWITCH,
    FD_FRAME,
    REMOTE,
    FrameBlock,
    SignalTable,
)
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

    def begin(
        interface: str, channel: str, options: Mapping[str, Any] | None = None
    ) -> tuple[PythonCanSource, list[FrameBlock]]:
        source = PythonCanSource(
            "powertrain", interface, channel, options, block_ms=20, retry_s=0.02
        )
        got: list[FrameBlock] = []

        def deliver(block: FrameBlock | SignalTable) -> None:
            assert isinstance(block, FrameBlock)
            got.append(block)

        threads.append(threading.Thread(target=source.run, args=(deliver, stop), daemon=True))
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


def test_what_a_driver_gives_and_is_no_frame_is_counted(start: Start) -> None:
    source, got = start("virtual", "nonsense")
    until(lambda: source.state == "reading")
    with can.Bus("nonsense", interface="virtual") as bus:
        for message in (
            can.Message(arbitration_id=0x800, is_extended_id=False),
            can.Message(arbitration_id=1 << 29),
            can.Message(arbitration_id=-1),
            can.Message(arbitration_id=1, dlc=16),
            can.Message(arbitration_id=1, dlc=65, is_fd=True),
            can.Message(arbitration_id=1, dlc=2, data=bytes(3)),
            can.Message(arbitration_id=7, dlc=15, data=bytes(range(8))),
        ):
            bus.send(message)
        until(lambda: sum(map(len, got)) == 1)

    assert source.counts == {"bad_lines": 6}
    assert got[0].id.tolist() == [7 | EXTENDED]
    assert got[0].length.tolist() == [8]  # a DLC over 8 is 8 on a classic bus
    assert got[0].data.tolist() == [list(range(8))]


def ten_frames() -> FrameBlock:
    return FrameBlock.from_arrays(
        bus="powertrain",
        time=np.arange(10),
        id=np.arange(10),
        length=np.full(10, 8),
        data=np.full((10, 8), 0x55),
    )


def test_an_adapter_that_is_unplugged_is_waited_for_and_read_again(
    start: Start, tmp_path: Path
) -> None:
    """With python-can's own driver for serial adapters, which raises what pyserial raises."""
    path = tmp_path / "ttyACM0"
    options = {"bitrate": 500_000, "sleep_after_open": 0}
    with VirtualAdapter(path) as adapter:
        source, got = start("slcan", str(path), options)
        assert adapter.wait_opened()
        adapter.send(ten_frames())
        until(lambda: sum(map(len, got)) == 10)
    until(lambda: source.state.startswith(f"waiting: the adapter slcan {path} cannot be "))

    with VirtualAdapter(path) as adapter:
        assert adapter.wait_opened()
        adapter.send(ten_frames())
        until(lambda: sum(map(len, got)) == 20)
        assert source.state == "reading"
        assert adapter.refused == 0
        assert b"S6" in adapter.commands
