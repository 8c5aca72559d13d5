"""One TCP connection to a platform, with or without TLS, used once.

Nothing that a platform sends costs more than a count. Frames wait in a bounded number, and
nothing is read while that is reached. What comes may be about as much as what went out, as answers
repeat it, and a megabyte a minute more; a platform that sends more than that loses the connection.
"""

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from typing import Final

from agent.clock import SECOND, BootNs, Clock
from agent.gbt32960.envelope import Frame, Stream
from agent.uplink import trust

_READ_BYTES: Final = 16 * 1024
_BUFFER_BYTES: Final = 64 * 1024
_MOST_FRAMES: Final = 1000
_FREE_BYTES: Final = 1 << 20
"""That may come beyond what went out, and that much again in a minute."""
_FREE_NS: Final = 60 * SECOND
_SILENT_NS: Final = 10 * SECOND
_STUCK_NS: Final = 30 * SECOND
_FAREWELL_S: Final = 5.0

JUNK: Final = "it sends more than anybody asked for"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Ended(Exception):  # noqa: N818  (no error: connections end)
    """There is no connection any more; the text says why."""


async def dial(host: str, port: int, tls: ssl.SSLContext | None, timeout_s: float) -> Streams:
    """Open a connection.

    Raises:
        Ended: there is none.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.open_connection(
                host, port, ssl=tls, server_hostname=host if tls else None, limit=_BUFFER_BYTES
            )
    except (OSError, ValueError) as e:
        raise Ended(reason(e, timeout_s)) from e


def reason(error: Exception, timeout_s: float = 0.0) -> str:
    """Why there is no connection, for a person; without the address."""
    match error:
        case ssl.SSLCertVerificationError():
            return trust.certificate(error).detail
        case TimeoutError() if timeout_s:
            return f"no connection within {timeout_s:g} s"
        case ssl.SSLError():
            return f"TLS: {error.reason or 'no reason given'}"
        case OSError(strerror=str(words)) if words and "Connect call failed" not in words:
            return words
        case ConnectionRefusedError():
            return "connection refused"
        case _:
            return str(error) or type(error).__name__


class Connection:
    """Belongs to one event loop. Reads from its making on.

    Args:
        streams: what `dial` gave.
        clock: of the allowance and of what is stuck.
        stall_s: a write that does not move for so long ends the connection.
        came: called when there are frames, or the connection has ended.
    """

    def __init__(
        self, streams: Streams, clock: Clock, *, stall_s: float, came: Callable[[], None]
    ) -> None:
        self._reader, self._writer = streams
        self._writer.transport.set_write_buffer_limits(high=_READ_BYTES)
        self._clock = clock
        self._stall_s = stall_s
        self._came = came
        self._stream = Stream()
        self._frames: deque[Frame] = deque()
        self._taken = asyncio.Event()
        self._free = float(_FREE_BYTES)
        self._freed: BootNs = clock.boot()
        self._progress: BootNs = self._freed
        self._heard: BootNs = self._freed
        self.sent_bytes = 0
        self.ended: str | None = None
        """Why the connection has ended."""
        self._reading = asyncio.create_task(self._read())

    @property
    def bad_frames(self) -> int:
        return self._stream.bad_frames

    @property
    def skipped_bytes(self) -> int:
        return self._stream.skipped_bytes

    @property
    def pending(self) -> bool:
        """Whether a frame has begun and not ended."""
        return self._stream.pending_bytes > 0

    def take(self) -> Frame | None:
        """The next frame that came; None: none yet."""
        if not self._frames:
            return None
        self._taken.set()
        return self._frames.popleft()

    def look(self) -> None:
        """Give up what has begun and does not come; now and then, while something is pending."""
        now = self._clock.boot()
        silent = now - self._heard >= _SILENT_NS
        if self.pending and (silent or now - self._progress >= _STUCK_NS):
            while self._stream.pending_bytes:
                self._frames += self._stream.give_up()
            self._progress = now
            self._came()

    async def send(self, data: bytes) -> None:
        """Send, and wait until it is under way.

        Raises:
            Ended: it is not, and the connection has ended.
        """
        if self.ended is not None:
            raise Ended(self.ended)
        self._writer.write(data)
        self.sent_bytes += len(data)
        self._free += len(data)
        try:
            async with asyncio.timeout(self._stall_s):
                await self._writer.drain()
        except TimeoutError as e:
            raise Ended(self._end(f"nothing has moved for {self._stall_s:g} s")) from e
        except OSError as e:
            raise Ended(self._end(reason(e))) from e

    async def close(self) -> None:
        """Send what is to be sent, for a few seconds at most, and end."""
        self._end("closed")
        await self._stop_reading()
        self._writer.close()
        try:
            async with asyncio.timeout(_FAREWELL_S):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()

    def drop(self) -> None:
        """End at once."""
        self._end("dropped")
        self._reading.cancel()
        self._writer.transport.abort()

    async def _stop_reading(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    def _end(self, why: str) -> str:
        if self.ended is None:
            self.ended = why
            self._came()
        return self.ended

    async def _read(self) -> None:
        try:
            while self.ended is None and (data := await self._reader.read(_READ_BYTES)):
                if not self._affordable(len(data)):
                    self._end(JUNK)
                    return
                self._heard = self._clock.boot()
                if frames := self._stream.feed(data):
                    self._progress = self._heard
                    self._frames += frames
                    self._came()
                elif self._stream.pending_bytes <= len(data):
                    self._progress = self._heard  # what is pending has begun just now
                while len(self._frames) >= _MOST_FRAMES and self.ended is None:
                    self._taken.clear()
                    await self._taken.wait()
            self._end("the platform has closed the connection")
        except OSError as e:
            self._end(reason(e))

    def _affordable(self, size: int) -> bool:
        now = self._clock.boot()
        self._free += _FREE_BYTES * (now - self._freed) / _FREE_NS
        self._freed = now
        # What went out long ago is answered or will never be.
        self._free = min(self._free, 4.0 * _FREE_BYTES) - size
        return self._free >= 0
