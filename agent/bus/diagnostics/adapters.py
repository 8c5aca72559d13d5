"""A way to the bus for diagnostics through python-can, for adapters that are no network interface.

As `agent.bus.diagnostics.sending`, this sends, and is imported by whoever opens such a bus:

    open_link=lambda addresses: PythonCanLink(can.Bus(...), addresses, clock)
"""

import contextlib
from collections.abc import Iterator, Sequence

import can

from agent.blocks import EXTENDED, ID_BITS
from agent.bus.diagnostics.requests import Address
from agent.bus.diagnostics.sending import Received
from agent.clock import SECOND, Clock
from agent.errors import BusError


class PythonCanLink:
    """Any interface of python-can. Each frame of the bus passes through Python here.

    Args:
        bus: a `can.Bus`; closed with this link.
        addresses: whom requests go to.
        clock: the seam to time.
        fd: send FD frames.
    """

    def __init__(
        self, bus: can.BusABC, addresses: Sequence[Address], clock: Clock, *, fd: bool = False
    ) -> None:
        self._bus = bus
        self._addresses = tuple(addresses)
        self._clock = clock
        self._fd = fd
        self._passed = False

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # Drivers raise what they like, beyond can.CanError.
            raise BusError(f"the adapter {self._bus.channel_info} fails ({error})") from error

    def send(self, frame: int, data: bytes) -> None:
        message = can.Message(
            arbitration_id=frame & ID_BITS,
            is_extended_id=bool(frame & EXTENDED),
            is_fd=self._fd,
            bitrate_switch=self._fd,
            data=data,
        )
        with self._translated():
            self._bus.send(message)

    def recv(self, timeout_s: float) -> Received | None:
        end = self._clock.boot() + round(timeout_s * SECOND)
        while True:
            with self._translated():
                message = self._bus.recv(max(0.0, (end - self._clock.boot()) / SECOND))
            if message is None:
                return None
            frame = message.arbitration_id | (EXTENDED if message.is_extended_id else 0)
            if message.is_error_frame or message.is_remote_frame or not message.is_rx:
                continue
            if any(address.flow_id(frame) is not None for address in self._addresses):
                return frame, bytes(message.data), self._clock.boot()
            self._passed |= not _diagnostic(frame, self._addresses)
            if self._clock.boot() >= end:
                return None

    def traffic(self) -> bool:
        passed, self._passed = self._passed, False
        return passed

    def close(self) -> None:
        with self._translated():
            self._bus.shutdown()


def _diagnostic(frame: int, addresses: Sequence[Address]) -> bool:
    number = frame & ID_BITS
    if frame & EXTENDED:
        usual = number >> 17 == 0x18DA0000 >> 17
    else:
        usual = number == 0x7DF or number >> 4 == 0x7E
    return usual or any(frame == address.send_id for address in addresses)
