"""A link that can be disturbed: a TCP relay between an uplink and its server, with real sockets.

It can be cut, slow, late, and lossy. A relay sees no packets, so a lossy link is what TCP makes of
one: whoever loses a packet waits and sends it again, twice as long each time, and after some times
in vain the connection is given up. One direction stands still meanwhile, as bytes come in order.
"""

import asyncio
import contextlib
import random
import socket
import struct
from typing import Final, Self

from agent.errors import TransientError

_READ_BYTES: Final = 65_536
_DISTURBED_BYTES: Final = 1460
"""Pieces in which a disturbed link passes bytes on: one packet of Ethernet."""
RESEND_S: Final = 0.2
"""The least time after which Linux sends a packet again (TCP_RTO_MIN)."""
_RESENDS: Final = 6
"""Then the connection is given up; a kernel has more patience, nobody on a bench has."""
_RESET: Final = struct.pack("ii", 1, 0)  # linger for 0 s: close() sends a reset


class _GivenUpError(Exception):
    """A packet was lost so often that the connection is over, in both directions."""


class Link:
    """Relays connections to `target_host:target_port` until it is cut.

    `up` and `down` count bytes that were passed on towards the target and back. All methods
    belong to the event loop's thread.

    Args:
        target_host: where connections go.
        target_port: its port.
        host: where to listen.
        port: where to listen; 0 takes a free one, which `port` tells after `start`.
        seed: of what a lossy link loses.
        resend_s: after which a packet that was lost is sent again.

    Attributes:
        kbit_s: what passes in a second, in each direction, of all connections; 0 is no limit.
        lost_percent: of packets, 0 to 100.
        latency_ms: by which each direction is late.
    """

    def __init__(
        self,
        target_host: str,
        target_port: int,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 1,
        resend_s: float = RESEND_S,
    ) -> None:
        self.port = port
        self.kbit_s = 0.0
        self.lost_percent = 0.0
        self.latency_ms = 0.0
        self.up = 0
        self.down = 0
        self.connections = 0
        self.is_cut = False
        self._target = (target_host, target_port)
        self._host = host
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._resend_s = resend_s
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        self._changed = asyncio.Event()
        self._free_at = {True: 0.0, False: 0.0}

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen.

        Raises:
            TransientError: the address cannot be listened on.
        """
        try:
            self._server = await asyncio.start_server(self._accept, self._host, self.port)
        except OSError as error:
            raise TransientError(
                f"the link cannot listen on {self._host}:{self.port} ({error})"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Reset every connection, and each new one from now on."""
        self.is_cut = True
        self.wake()
        for writer in self._open:
            _reset(writer)

    def wake(self) -> None:
        """What waits, because the link is slow, late or lossy, looks at it again at once."""
        self._changed.set()
        self._changed = asyncio.Event()
        self._free_at = {True: 0.0, False: 0.0}

    def restore(self) -> None:
        """Let new connections through again."""
        self.is_cut = False

    async def close(self) -> None:
        """Stop listening and drop what is open."""
        if self._server is None:
            return
        self._server.close()
        self.kbit_s = self.lost_percent = self.latency_ms = 0
        self.wake()
        for writer in self._open:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            _reset(writer)
            return
        self._open.add(writer)
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            # As a network does whose far end does not listen.
            self._open.discard(writer)
            _reset(writer)
            return
        self._open.add(far_writer)
        try:
            if writer.transport.is_closing():  # cut while the far end was being connected
                return
            await asyncio.gather(
                self._pass(reader, far_writer, up=True), self._pass(far_reader, writer, up=False)
            )
        except _GivenUpError:
            _reset(writer)
            _reset(far_writer)
        finally:
            for end in (writer, far_writer):
                self._open.discard(end)
                _reset(end) if self.is_cut else end.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        """One direction, until its end; the other may go on (half-closed)."""
        with contextlib.suppress(OSError):
            while data := await reader.read(self._piece):
                await self._delay(len(data), up=up)
                writer.write(data)
                await writer.drain()
                if up:
                    self.up += len(data)
                else:
                    self.down += len(data)
            if writer.can_write_eof():
                writer.write_eof()
            return
        # A reset on one side is a reset on the other.
        writer.transport.abort()

    @property
    def _piece(self) -> int:
        disturbed = self.kbit_s or self.lost_percent or self.latency_ms
        return _DISTURBED_BYTES if disturbed else _READ_BYTES

    async def _delay(self, size: int, *, up: bool) -> None:
        """Wait as long as a piece takes.

        Raises:
            _GivenUpError: it was lost too often.
        """
        if self.kbit_s:
            now = asyncio.get_running_loop().time()
            self._free_at[up] = max(now, self._free_at[up]) + size * 8 / (self.kbit_s * 1000)
            await self._wait(self._free_at[up] - now)
        if self.latency_ms:
            await self._wait(self.latency_ms / 1000)
        wait_s, tries = self._resend_s, 0
        while self._random.random() * 100 < self.lost_percent:
            if (tries := tries + 1) > _RESENDS:
                raise _GivenUpError
            await self._wait(wait_s)
            wait_s *= 2

    async def _wait(self, seconds: float) -> None:
        """So long, or until the link is another one."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)


def _reset(writer: asyncio.StreamWriter) -> None:
    end = writer.get_extra_info("socket")
    if end is not None:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
