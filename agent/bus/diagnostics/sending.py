"""Everything that puts a frame on a bus; imported only for a bus whose file says `transmit = true`.

`Poller` takes requests from the schedule, sends them and brings the answers back. `SocketLink` is
the way to a bus; `agent.bus.diagnostics.adapters` has another.
"""

import contextlib
import errno
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from agent.blocks import (
    ERROR,
    EXTENDED,
    FD_BIT_RATE_SWITCH,
    ID_BITS,
    REMOTE,
    SignalTable,
)
from agent.bus.diagnostics.conversation import Conversation, Transport
from agent.bus.diagnostics.jobs import Ask
from agent.bus.diagnostics.requests import Address
from agent.bus.diagnostics.schedule import Schedule
from agent.clock import SECOND, BootNs, Clock
from agent.errors import BusError

_CLASSIC: Final = struct.Struct("=IB3x8s")
_FD: Final = struct.Struct("=IBBxx64s")
_FILTER: Final = struct.Struct("=II")
_INVERTED: Final = 0x2000_0000  # CAN_INV_FILTER, linux/can.h
_FD_LENGTHS: Final = (*range(9), 12, 16, 20, 24, 32, 48, 64)

_WAIT_S: Final = 0.2
_LOOK_NS: Final = SECOND // 2
_FRESH_NS: Final = 2 * SECOND
_STALE_FRAMES: Final = 64

Received = tuple[int, bytes, BootNs]
"""Id with the flag of 29-bit ids, data, and boot time."""


class Link(Protocol):
    """A way to a bus: sends frames, and gives those with which ECUs may answer."""

    def send(self, frame: int, data: bytes) -> None:
        """Put a frame on the bus; never waits.

        Raises:
            BusError: it cannot be sent.
        """
        ...

    def recv(self, timeout_s: float) -> Received | None:
        """The next frame of an ECU, or None when none has come in time.

        Raises:
            BusError: the bus is gone.
        """
        ...

    def traffic(self) -> bool:
        """Whether since the last call any frame passed that is none of diagnostics.

        Raises:
            BusError: the bus is gone.
        """
        ...

    def close(self) -> None: ...


OpenLink = Callable[[Sequence[Address]], Link]
"""Opens a way to the bus for requests to these addresses. Raises BusError where it cannot."""


class Poller:
    """Polls one bus over one link."""

    def __init__(
        self,
        link: Link,
        schedule: Schedule,
        clock: Clock,
        *,
        fd: bool,
        padding: int | None,
        answer_ns: int,
        quiet_ns: int,
        awake: Callable[[], bool] | None,
        needs_traffic: bool,
    ) -> None:
        self._link = link
        self._schedule = schedule
        self._clock = clock
        self._answer_ns = answer_ns
        self._quiet_ns = quiet_ns
        self._awake = awake
        self._needs_traffic = needs_traffic
        self._transport = Transport(fd=fd, padding=padding)
        self._looked = clock.boot()
        self._seen: BootNs | None = None
        self.why_silent = ""

    def step(self, stop: threading.Event) -> list[SignalTable]:
        """Send one request and wait for its answers, or wait a little; gives their tables.

        Raises:
            BusError: the bus is gone.
        """
        now = self._clock.boot()
        due = self._schedule.next(now, awake=self._may_ask(now))
        if isinstance(due, Ask):
            return self._converse(due, stop)
        wait_s = min(_WAIT_S, max(0, due - now) / SECOND)
        if self._link.recv(wait_s) is not None:
            self._schedule.report.totals["unexpected"] += 1
        return []

    def _may_ask(self, now: BootNs) -> bool:
        if self._awake is not None and not self._awake():
            self.why_silent = "the vehicle sleeps"
            return False
        if self._needs_traffic and not self._sees_traffic(now):
            self.why_silent = f"no frame was seen on the bus for {self._quiet_ns / SECOND:g} s"
            return False
        self.why_silent = ""
        return True

    def _sees_traffic(self, now: BootNs) -> bool:
        self._look(now)
        return self._seen is not None and now - self._seen < self._quiet_ns

    def _look(self, now: BootNs) -> None:
        """A look at the bus twice a second; what passed is then at most that old.

        After a longer time without a look (a suspend) nothing is known about when it passed: that
        look does not count.
        """
        if self._seen is not None and now - self._looked < _LOOK_NS:
            return
        if self._link.traffic() and now - self._looked <= _FRESH_NS:
            self._seen = now
        self._looked = now

    def _converse(self, ask: Ask, stop: threading.Event) -> list[SignalTable]:
        clock, totals = self._clock, self._schedule.report.totals
        # What is still here answers nothing that is asked now.
        for _ in range(_STALE_FRAMES):
            if self._link.recv(0) is None:
                break
            totals["unexpected"] += 1
        conversation = Conversation(
            ask, self._transport, totals, now=clock.boot(), answer_ns=self._answer_ns
        )
        try:
            self._send(conversation)
            while not stop.is_set() and (wait := conversation.over_at - clock.boot()) > 0:
                self._look(clock.boot())
                received = self._link.recv(min(_WAIT_S, wait / SECOND))
                if received is not None:
                    ecu, data, time = received
                    conversation.frame(ecu, data, time, clock.boot())
                    self._send(conversation)
        except BusError:
            self._schedule.finish(ask, conversation.answers, clock.boot())
            raise
        if conversation.over_at > clock.boot():
            self._schedule.cut_short()
            return []
        return self._schedule.finish(ask, conversation.answers, clock.boot())

    def _send(self, conversation: Conversation) -> None:
        frames, conversation.out = conversation.out, []
        for frame, data in frames:
            self._link.send(frame, data)


class SocketLink:
    """SocketCAN: one socket for requests and answers, and one that only sees whether others talk.

    The kernel gives the first socket nothing but the ids of answers. The second one has the
    opposite filter and the smallest buffer that the kernel allows; it is emptied at a look, so a
    busy bus costs no time here. Frames that other programs of this machine send count as traffic,
    requests and answers of diagnostics do not: polling does not keep itself alive.

    Raises:
        BusError: there is no such interface, it is down, or this kernel has no CAN.
    """

    def __init__(
        self, interface: str, addresses: Sequence[Address], clock: Clock, *, fd: bool = False
    ) -> None:
        self._interface = interface
        self._clock = clock
        self._fd = fd
        answers = sorted({pair for address in addresses for pair in address.filters})
        data_frame = REMOTE  # in a mask: the flag must be 0
        diagnostic = {(0x7DF, EXTENDED | 0x7FF), (0x7E0, EXTENDED | 0x7F0)}
        diagnostic |= {(0x18DA0000 | EXTENDED, EXTENDED | 0x1FFE_0000), *answers}
        diagnostic |= {(address.send_id, EXTENDED | ID_BITS) for address in addresses}
        with contextlib.ExitStack() as opened, self._translated("cannot be opened"):
            self._socket = opened.enter_context(_raw_socket())
            self._others = opened.enter_context(_raw_socket())
            self._filter(self._socket, [(i, mask | data_frame) for i, mask in answers])
            self._filter(self._others, [(i | _INVERTED, mask) for i, mask in sorted(diagnostic)])
            self._others.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_JOIN_FILTERS, 1)
            self._others.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            if fd:
                self._socket.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FD_FRAMES, 1)
            self._others.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FD_FRAMES, 1)
            for opening in (self._socket, self._others):
                opening.bind((interface,))
            opened.pop_all()

    def _filter(self, opened: socket.socket, filters: Sequence[tuple[int, int]]) -> None:
        packed = b"".join(_FILTER.pack(*pair) for pair in filters)
        opened.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FILTER, packed)

    @contextlib.contextmanager
    def _translated(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BusError(_why(self._interface, what, error)) from error

    def send(self, frame: int, data: bytes) -> None:
        if self._fd:
            packed = _FD.pack(frame, len(data), FD_BIT_RATE_SWITCH, data)
        else:
            packed = _CLASSIC.pack(frame, len(data), data)
        with self._translated("cannot be sent to"):
            self._socket.send(packed)

    def recv(self, timeout_s: float) -> Received | None:
        with self._translated("cannot be read"):
            if not select.select([self._socket], [], [], timeout_s)[0]:
                return None
            try:
                packed = self._socket.recv(_FD.size)
            except BlockingIOError:
                return None
        frame, length = struct.unpack_from("=IB", packed)
        if frame & (REMOTE | ERROR):
            return None
        return frame, packed[8 : 8 + min(length, len(packed) - 8)], self._clock.boot()

    def traffic(self) -> bool:
        passed = False
        with self._translated("cannot be read"), contextlib.suppress(BlockingIOError):
            # No more than the buffer holds, also where frames come faster than they are read here.
            for _ in range(64):
                self._others.recv(_FD.size)
                passed = True
        return passed

    def close(self) -> None:
        self._socket.close()
        self._others.close()


def _raw_socket() -> socket.socket:
    opened = socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW)
    opened.setblocking(False)
    return opened


def _why(interface: str, what: str, error: OSError) -> str:
    if error.errno == errno.ENODEV:
        return f"there is no interface {interface}"
    if error.errno == errno.ENETDOWN:
        return f"the interface {interface} is down"
    if error.errno == errno.EAFNOSUPPORT:
        return "this kernel has no CAN"
    if error.errno in (errno.ENOBUFS, errno.EAGAIN):
        return f"the interface {interface} takes no more frames; is another node on the bus?"
    return f"the interface {interface} {what} ({error})"
