"""A responder on a SocketCAN interface: a thread that hears requests and sends the answers.

Only a kernel with CAN has this. The agent's serial path sends nothing on the bus, so a virtual
adapter has nothing to answer.
"""

import contextlib
import heapq
import itertools
import select
import socket
import struct
import threading
import time
from typing import Final, Self

from agent.bench.play import why_not_open
from agent.bench.responder import Responder
from agent.blocks import EXTENDED, ID_BITS
from agent.clock import SECOND
from agent.errors import BusError

_FRAME: Final = struct.Struct("=IB3x8s")
_FILTER: Final = struct.Struct("=II")
_POLL_S: Final = 0.1
_MOST_WAITING: Final = 4096
_CLASSIC: Final = 8


class Answering:
    """Answers on an interface from the start of the block to its end.

    `unsent` counts frames that the interface did not take.

    Raises:
        BusError: no such interface, it is down, or this kernel has no CAN.
    """

    def __init__(self, interface: str, responder: Responder) -> None:
        self.unsent = 0
        self._responder = responder
        self._stop = threading.Event()
        self._due: list[tuple[int, int, int, bytes]] = []
        self._number = itertools.count()
        with contextlib.ExitStack() as opened:
            try:
                self._socket = opened.enter_context(
                    socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW)
                )
                filters = b"".join(
                    _FILTER.pack(i, EXTENDED | ID_BITS) for i in sorted(responder.ids)
                )
                self._socket.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FILTER, filters)
                self._socket.setblocking(False)
                self._socket.bind((interface,))
            except (OSError, AttributeError) as error:
                raise BusError(why_not_open(interface, error)) from error
            opened.pop_all()
        self._thread = threading.Thread(target=self._run, name="ecus", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            now = time.monotonic_ns()
            self._send_due(now)
            wait_s = (self._due[0][0] - now) / SECOND if self._due else _POLL_S
            try:
                if select.select([self._socket], [], [], max(0.0, min(wait_s, _POLL_S)))[0]:
                    self._hear(self._socket.recv(_FRAME.size))
            except BlockingIOError:
                continue
            except OSError:
                # The interface is down, and may come back: no ECU hears anything meanwhile.
                self._stop.wait(_POLL_S)

    def _hear(self, packed: bytes) -> None:
        if len(packed) != _FRAME.size:
            return
        frame, length, data = _FRAME.unpack(packed)
        heard = time.monotonic_ns()
        for delay, identifier, row in self._responder.hear(frame, data[: min(length, _CLASSIC)]):
            if len(self._due) < _MOST_WAITING:
                heapq.heappush(self._due, (heard + delay, next(self._number), identifier, row))

    def _send_due(self, now: int) -> None:
        while self._due and self._due[0][0] <= now:
            _, _, identifier, row = heapq.heappop(self._due)
            try:
                self._socket.send(_FRAME.pack(identifier, len(row), row))
            except OSError:
                self.unsent += 1
