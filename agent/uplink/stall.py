"""When a transfer does not move any more.

The time since the last piece was taken by the connection says little on a slow link: the kernel's
send buffer can hold what takes minutes to leave, and a receiver that is still being fed would be
given up again and again. So the peer's acknowledgements count as well (`tcpi_bytes_acked` of
`struct tcp_info`, linux/tcp.h).
"""

import asyncio
import socket
import struct
import weakref
from typing import Final, Self

_BYTES_ACKED_AT: Final = 120
_LOOKS: Final = 4
"""How often to look while one stall timeout passes."""


class Sockets:
    """The sockets of one connection pool: makes them, and tells what their peers have got."""

    def __init__(self) -> None:
        self._made: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def make(self, family: int, kind: int, protocol: int) -> socket.socket:
        """A new socket, as asyncio wants it."""
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        self._made.add(made)
        return made

    def acknowledged(self) -> int:
        """Bytes that the peers' kernels have acknowledged; 0 where the kernel does not tell."""
        total = 0
        for made in list(self._made):
            try:
                info = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED_AT + 8)
                total += struct.unpack_from("=Q", info, _BYTES_ACKED_AT)[0]
            except (OSError, struct.error):
                continue  # closed, or an old kernel
        return total


class Progress:
    """Moves a deadline as long as something moves. Used as a context around one request.

    Until the first piece is taken the deadline stays where it was set.
    """

    def __init__(self, deadline: asyncio.Timeout, sockets: Sockets, stall_s: float) -> None:
        self._deadline = deadline
        self._sockets = sockets
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._sending = False
        self._over = False
        self._seen = sockets.acknowledged()

    def __enter__(self) -> Self:
        self._look_later()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()

    def moved(self) -> None:
        """A piece of the batch was taken; harmless after the end, when an answer came early."""
        self._sending = True
        if not self._over and not self._deadline.expired():
            self._deadline.reschedule(self._loop.time() + self._stall_s)

    def _look_later(self) -> None:
        self._timer = self._loop.call_later(self._stall_s / _LOOKS, self._look)

    def _look(self) -> None:
        seen = self._sockets.acknowledged()
        # Before the first piece it is the handshake that moves, and that has a limit of its own.
        if seen != self._seen and self._sending:
            self.moved()
        self._seen = seen
        self._look_later()
