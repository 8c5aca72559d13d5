"""A link that can be cut: a TCP relay between an uplink and its server, with real sockets."""

import asyncio
import contextlib
import socket
import struct
from typing import Final, Self

from agent.errors import TransientError

_READ_BYTES: Final = 65_536
_RESET: Final = struct.pack("ii", 1, 0)  # linger for 0 s: close() sends a reset


class Link:
    """Relays connections to `target_host:target_port` until it is cut.

    `up` and `down` count bytes that were passed on towards the target and back. All methods
    belong to the event loop's thread.

    Args:
        target_host: where connections go.
        target_port: its port.
        host: where to listen.
        port: where to listen; 0 takes a free one, which `port` tells after `start`.
    """

    def __init__(
        self, target_host: str, target_port: int, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self.port = port
        self.up = 0
        self.down = 0
        self.connections = 0
        self.is_cut = False
        self._target = (target_host, target_port)
        self._host = host
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

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
        for writer in self._open:
            _reset(writer)

    def restore(self) -> None:
        """Let new connections through again."""
        self.is_cut = False

    async def close(self) -> None:
        """Stop listening and drop what is open."""
        if self._server is None:
            return
        self._server.close()
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
        finally:
            for end in (writer, far_writer):
                self._open.discard(end)
                _reset(end) if self.is_cut else end.close()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        """One direction, until its end; the other may go on (half-closed)."""
        with contextlib.suppress(OSError):
            while data := await reader.read(_READ_BYTES):
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


def _reset(writer: asyncio.StreamWriter) -> None:
    end = writer.get_extra_info("socket")
    if end is not None:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
