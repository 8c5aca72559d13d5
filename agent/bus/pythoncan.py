"""Frames from any adapter that python-can knows (PCAN, Vector, Kvaser, gs_usb, ...).

For rare adapters: one Python object a frame is what that library gives. SocketCAN and serial
adapters have sources of their own, which are many times cheaper. Nothing is ever sent.
"""

import contextlib
import math
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

import can
import numpy as np

from agent.blocks import (
    ERROR,
    EXTENDED,
    FD_BIT_RATE_SWITCH,
    FD_ERROR_STATE,
    FD_FRAME,
    ID_BITS,
    MAX_BLOCK_FRAMES,
    REMOTE,
    SENT,
    FrameBlock,
)
from agent.bus.session import DeviceSource
from agent.bus.source import Deliver
from agent.clock import MILLISECOND, SECOND, Clock
from agent.errors import BusError

_WAIT_S: Final = 0.1


class PythonCanSource(DeviceSource):
    """One bus behind a python-can interface.

    A stamp that python-can gives is used where it is wall time between the last frame and now
    (drivers differ in what they count); else a frame is dated when it is read.

    Args:
        bus: name of the bus.
        interface: python-can's name of the driver, such as `pcan`.
        channel: as the driver wants it; empty for the driver's own choice.
        options: further arguments of `can.Bus`, such as `bitrate`.
        block_ms: longest time that frames wait for their block to be closed.
        retry_s: time between two tries to open the device.
        clock: the seam to time.
    """

    def __init__(
        self,
        bus: str,
        interface: str,
        channel: str,
        options: Mapping[str, Any] | None = None,
        block_ms: int = 500,
        *,
        retry_s: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(bus, retry_s=retry_s, clock=clock)
        self._interface = interface
        self._channel = channel
        self._options = dict(options or {})
        self._block_ns = block_ms * MILLISECOND
        self._last = 0
        self._bad = 0

    @property
    def counts(self) -> Mapping[str, int]:
        """`bad_lines`: messages of a driver that are no frame."""
        return {"bad_lines": self._bad}

    def _session(self, deliver: Deliver, stop: threading.Event) -> None:
        with self._translated("cannot be opened"):
            device = can.Bus(
                channel=self._channel or None, interface=self._interface, **self._options
            )
        self._reads()
        block = _Filling(self.bus)
        try:
            while not stop.is_set():
                wait_s = _WAIT_S
                if block.count:
                    left_ns = block.began + self._block_ns - self._clock.boot()
                    wait_s = min(wait_s, max(0, left_ns) / SECOND)
                with self._translated("cannot be read"):
                    message = device.recv(wait_s)
                if message is not None and not _is_frame(message):
                    self._bad += 1
                elif message is not None:
                    block.add(message, self._date(message.timestamp))
                if block.count == MAX_BLOCK_FRAMES or (
                    block.count and self._clock.boot() - block.began >= self._block_ns
                ):
                    deliver(block.take())
        finally:
            try:
                if block.count:
                    deliver(block.take())
            finally:
                # Why it cannot even be closed says less than why it could not be read.
                with contextlib.suppress(BusError), self._translated("cannot be closed"):
                    device.shutdown()

    def _date(self, stamp: float) -> int:
        now = self._clock.boot()
        if not math.isfinite(stamp):
            stamp = 0.0
        stamped = int(stamp * SECOND) - self._clock.wall() + now
        self._last = stamped if self._last <= stamped <= now else now
        return self._last

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # Drivers raise what they like, beyond can.CanError, also for a missing library.
            name = f"{self._interface} {self._channel}".rstrip()
            raise BusError(f"the adapter {name} {what} ({error})") from error


def _is_frame(message: can.Message) -> bool:
    """Whether it can stand in a block; python-can itself does not look at what a driver gives."""
    largest = ID_BITS if message.is_extended_id or message.is_error_frame else 0x7FF
    longest = 64 if message.is_fd else 15  # a classic frame with a DLC over 8 has eight bytes
    return (
        0 <= message.arbitration_id <= largest
        and 0 <= message.dlc <= longest
        and len(message.data) <= (message.dlc if message.is_fd else min(message.dlc, 8))
    )


class _Filling:
    """The arrays of the block that is being filled."""

    def __init__(self, bus: str) -> None:
        self._bus = bus
        self._time = np.zeros(MAX_BLOCK_FRAMES, np.int64)
        self._id = np.zeros(MAX_BLOCK_FRAMES, np.uint32)
        self._length = np.zeros(MAX_BLOCK_FRAMES, np.uint16)
        self._flags = np.zeros(MAX_BLOCK_FRAMES, np.uint8)
        self._data = np.zeros((MAX_BLOCK_FRAMES, 64), np.uint8)
        self._wide = False
        self.count = 0

    @property
    def began(self) -> int:
        return int(self._time[0])

    def add(self, message: can.Message, time: int) -> None:
        row = self.count
        self._time[row] = time
        self._id[row] = (
            message.arbitration_id
            | (EXTENDED if message.is_extended_id else 0)
            | (REMOTE if message.is_remote_frame else 0)
            | (ERROR if message.is_error_frame else 0)
        )
        length = message.dlc if message.is_fd else min(message.dlc, 8)
        self._length[row] = length
        self._flags[row] = (
            (FD_FRAME if message.is_fd else 0)
            | (FD_BIT_RATE_SWITCH if message.bitrate_switch else 0)
            | (FD_ERROR_STATE if message.error_state_indicator else 0)
            | (0 if message.is_rx else SENT)
        )
        data = message.data
        self._data[row, : len(data)] = np.frombuffer(data, np.uint8)
        self._wide = self._wide or length > 8
        self.count += 1

    def take(self) -> FrameBlock:
        n, width = self.count, 64 if self._wide else 8
        block = FrameBlock(
            self._bus,
            self._time[:n].copy(),
            self._id[:n].copy(),
            self._length[:n].copy(),
            self._flags[:n].copy(),
            self._data[:n, :width].copy(),
        )
        self._data[:n] = 0
        self._wide = False
        self.count = 0
        return block
