"""Answers on their way out to one vehicle: at once, or late, together and in pieces.

What waits is bounded: beyond `MOST_BYTES` the connection reads no more until some has gone.
"""

import asyncio
from typing import Final

from agent.bench.gbt32960.behaviour import Behaviour

MOST_BYTES: Final = 1 << 20


class Outlet:
    """Writes to a transport in order; belongs to the event loop.

    Args:
        transport: where to.
        behaviour: looked at for each answer.
    """

    def __init__(self, transport: asyncio.Transport, behaviour: Behaviour) -> None:
        self._transport = transport
        self._behaviour = behaviour
        self._waiting: list[tuple[float, bytes]] = []
        self._bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def say(self, data: bytes) -> None:
        """Send it after everything that was said before."""
        b = self._behaviour
        if self._task is None and not (b.delay_s or b.piece_bytes or b.merge):
            self._transport.write(data)
            return
        loop = asyncio.get_running_loop()
        self._waiting.append((loop.time() + b.delay_s, data))
        self._bytes += len(data)
        self._more.set()
        self._flow()
        if self._task is None:
            self._task = loop.create_task(self._run())

    def pause(self) -> None:
        """The transport has enough: the vehicle does not read."""
        self._room.clear()
        self._flow()

    def resume(self) -> None:
        self._room.set()
        self._flow()

    async def room(self) -> None:
        """Wait until the transport takes more."""
        await self._room.wait()

    def stop(self) -> None:
        """What waits is dropped."""
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    def _flow(self) -> None:
        """Read from who reads: nobody can make us keep answers without end."""
        if self._transport.is_closing():
            return
        if self._bytes > MOST_BYTES or not self._room.is_set():
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._behaviour.merge_s
        while self._waiting:
            while len(self._waiting) < self._behaviour.merge and loop.time() < end:
                self._more.clear()
                try:
                    await asyncio.wait_for(self._more.wait(), end - loop.time())
                except TimeoutError:
                    break
            together, self._waiting = self._waiting, []
            if not self._behaviour.merge:
                self._waiting = together[1:]
                together = together[:1]
            await asyncio.sleep(max(0.0, together[-1][0] - loop.time()))
            data = b"".join(each for _, each in together)
            size = self._behaviour.piece_bytes or len(data)
            for at in range(0, len(data), size):
                await self._room.wait()
                self._transport.write(data[at : at + size])
                if at + size < len(data):
                    await asyncio.sleep(self._behaviour.piece_gap_s)
            self._bytes -= len(data)
            self._flow()
            end = loop.time() + self._behaviour.merge_s
        self._task = None
