"""Who is connected to a server of this program, bounded: too many, and strangers who say nothing.

At most `MOST_CLIENTS` are connected. When another one comes, the one goes that has waited longest
without a question, so that clients who say nothing cannot lock out one who asks at once; where each
of them has asked something, the newcomer goes.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

MOST_CLIENTS: Final = 16
_LAST_WORDS_S: Final = 0.2
"""How long an answer may still take when the server is closed."""

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Clients:
    """Belongs to the event loop. `accept` is what `asyncio.start_server` calls."""

    def __init__(self, serve: Serve) -> None:
        """`serve` talks to one client, and may leave the connection open: it is closed then."""
        self._serve = serve
        self._tasks: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        self._answered: set[asyncio.StreamWriter] = set()
        self._closed = False

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A client has come."""
        if self._closed or not self._room():
            writer.transport.abort()
            return
        task = asyncio.ensure_future(self._talk(reader, writer))
        self._tasks[writer] = task
        task.add_done_callback(lambda _: self._gone(writer))

    def keep(self, writer: asyncio.StreamWriter) -> None:
        """This one has asked, and is not sent away before its answer."""
        self._answered.add(writer)

    async def close(self, server: asyncio.Server) -> None:
        """Close the server, and whoever is still connected."""
        self._closed = True
        # asyncio forgets, and never closes, what it has accepted and not yet handed on when the
        # server is closed: nothing more is accepted, and what was is handed on first.
        loop = asyncio.get_running_loop()
        for listening in server.sockets:
            loop.remove_reader(listening.fileno())
        await asyncio.sleep(0)
        server.close()
        if answers := [task for writer, task in self._tasks.items() if writer in self._answered]:
            await asyncio.wait(answers, timeout=_LAST_WORDS_S)
        for writer, task in self._tasks.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _room(self) -> bool:
        if len(self._tasks) < MOST_CLIENTS:
            return True
        silent = next((writer for writer in self._tasks if writer not in self._answered), None)
        if silent is None:
            return False
        silent.transport.abort()
        self._tasks.pop(silent)
        return True

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(high=0)  # so that drain waits for all of it
        try:
            await self._serve(reader, writer)
        finally:
            writer.transport.abort()

    def _gone(self, writer: asyncio.StreamWriter) -> None:
        self._tasks.pop(writer, None)
        self._answered.discard(writer)
