"""The file of a batch on its way out: in pieces, read outside the event loop, at a given pace.

However big a batch is, one piece of it is in memory, and what the connection has not yet taken.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import BinaryIO, Final

from agent.uplink.budget import Pace

_PIECE_BYTES: Final = 64 * 1024
_LOOK_S: Final = 1.0
"""How often to say that a pause of our own is none of the receiver's."""


class Body:
    """A file in pieces. Each iteration begins at the beginning.

    `now` and `sleep` are seams for tests: seconds of a clock that is never set, and what waits.
    """

    def __init__(
        self,
        file: BinaryIO,
        size: int,
        pace: Pace | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._file = file
        self._size = size
        self._pace = pace
        self._now = now
        self._sleep = sleep
        self._look_s = _LOOK_S
        self.handed = 0
        """Bytes of this iteration that the connection was given."""
        self.sent = 0
        """The same of all iterations."""
        self.error: OSError | None = None
        self._on_piece: Callable[[], None] = lambda: None

    @property
    def done(self) -> bool:
        return self.handed >= self._size

    def watch(self, on_piece: Callable[[], None], within_s: float) -> None:
        """Call this with each piece, and during a pause of our own at least this often."""
        self._on_piece = on_piece
        self._look_s = min(_LOOK_S, within_s)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.handed = 0
        while self.handed < self._size:
            try:
                piece = await asyncio.to_thread(self._read, self.handed)
            except OSError as e:
                self.error = e
                raise
            await self._keep_pace(len(piece))
            # Counted before it is written: an answer can come before the generator goes on.
            self.handed += len(piece)
            self.sent += len(piece)
            self._on_piece()
            yield piece

    async def _keep_pace(self, size: int) -> None:
        if self._pace is None:
            return
        left = self._pace.take(size, self._now())
        while left > 0:
            self._on_piece()
            pause = min(left, self._look_s)
            await self._sleep(pause)
            left -= pause

    def _read(self, offset: int) -> bytes:
        self._file.seek(offset)
        most = _PIECE_BYTES if self._pace is None else self._pace.piece(_PIECE_BYTES)
        piece = self._file.read(min(most, self._size - offset))
        if not piece:
            raise OSError(0, "it is shorter than it was")
        return piece
