"""Frames from a serial adapter that speaks LAWICEL ASCII ("slcan"), or from a pseudo-terminal.

The thread reads whatever has come, every few milliseconds, and only notes when; bytes are parsed
once a block, many lines at a time. A frame is dated with the read that completed its line. Where
the adapter stamps frames itself (`timestamps`), its milliseconds give the distances, and the reads
only where they lie in boot time.

An adapter that is missing, refuses or is unplugged is waited for: `state` says why, and every
second is a new try. The only bytes that are ever written are commands; frames are not among them.
"""

import contextlib
import errno
import os
import select
import termios
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import serial

from agent.blocks import MAX_BLOCK_FRAMES, FrameBlock, Int64
from agent.bus.lawicel import SlcanFrames, SlcanParser, StampClock
from agent.bus.source import Deliver
from agent.clock import MILLISECOND, SECOND, Clock, SystemClock
from agent.errors import BusError, ConfigError

__all__ = ["SlcanFrames", "SlcanParser", "SlcanSource"]

_BITRATES: Final = {
    10_000: b"S0",
    20_000: b"S1",
    50_000: b"S2",
    100_000: b"S3",
    125_000: b"S4",
    250_000: b"S5",
    500_000: b"S6",
    800_000: b"S7",
    1_000_000: b"S8",
}
_READ_BYTES: Final = 65_536
# A block is parsed at the latest when so many bytes wait; more than 16,384 frames become two.
_BLOCK_BYTES: Final = 20 * MAX_BLOCK_FRAMES
# One wake-up for what comes within this time; it also bounds how late a frame may be dated.
_COALESCE_S: Final = 0.004
_ANSWER_S: Final = 0.5


class SlcanSource:
    """One bus behind a serial adapter.

    Args:
        bus: name of the bus.
        device: a device such as /dev/ttyACM0, or the path of a pseudo-terminal.
        bitrate: of the bus, one of the nine that the protocol has a number for.
        listen_only: do not even acknowledge frames on the bus (`L` in place of `O`).
        timestamps: let the adapter stamp frames (`Z1`) and use its stamps.
        block_ms: longest time that frames wait for their block to be closed.
        baudrate: of the serial line; adapters on USB do not mind.
        retry_s: time between two tries to open the device.
        clock: the seam to time.

    Raises:
        ConfigError: a bit rate that the protocol does not have.
    """

    def __init__(
        self,
        bus: str,
        device: str | os.PathLike[str],
        *,
        bitrate: int = 500_000,
        listen_only: bool = True,
        timestamps: bool = False,
        block_ms: int = 500,
        baudrate: int = 115_200,
        retry_s: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        if bitrate not in _BITRATES:
            known = ", ".join(f"{rate // 1000}" for rate in _BITRATES)
            raise ConfigError(
                f"bus {bus}: a serial adapter has no setting for {bitrate} bit/s; "
                f"it has {known} kbit/s"
            )
        self.bus = bus
        self.state = "starting"
        self._device = os.fspath(device)
        self._commands = [_BITRATES[bitrate], b"L" if listen_only else b"O"]
        if timestamps:
            self._commands.insert(1, b"Z1")
        self._block_ns = block_ms * MILLISECOND
        self._baudrate = baudrate
        self._retry_s = retry_s
        self._clock = clock or SystemClock()
        self._parser = SlcanParser()
        self._bad_before = 0
        self._last = 0

    @property
    def bad(self) -> int:
        """Lines so far that were no frame."""
        return self._bad_before + self._parser.bad

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """As `Source.run`; blocks of at most 16,384 frames."""
        self.state = "starting"
        while not stop.is_set():
            try:
                self._session(deliver, stop)
            except BusError as error:
                self.state = f"waiting: {error}"
                stop.wait(self._retry_s)
        self.state = "ended"

    def _session(self, deliver: Deliver, stop: threading.Event) -> None:
        """Open, read until `stop`, close.

        Raises:
            BusError: the device cannot be opened, refuses, or is gone.
        """
        # Half a line of the session before must not meet the first line of this one.
        self._bad_before = self.bad
        self._parser = SlcanParser()
        port = self._open()
        collected = _Collected(self._parser)
        try:
            with self._translated():
                early = self._configure(port)
            self.state = "reading"
            if early:
                collected.add(early, self._clock.boot())
            while not stop.is_set():
                with self._translated():
                    self._read(port.fileno(), collected, stop)
                if collected.due(self._clock.boot(), self._block_ns):
                    self._flush(collected, deliver)
            with self._translated():
                port.write(b"C\r")
        finally:
            port.close()
            self._flush(collected, deliver)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (OSError, termios.error) as error:
            raise BusError(f"the adapter {self._device} is gone ({error})") from error

    def _open(self) -> Any:
        try:
            return serial.Serial(
                self._device,
                baudrate=self._baudrate,
                timeout=0.05,
                write_timeout=1.0,
                exclusive=True,
            )
        except (OSError, ValueError, termios.error) as error:
            raise BusError(_why(self._device, error)) from error

    def _configure(self, port: Any) -> bytes:
        """Stop, set up and start the adapter; gives bytes that came after its last answer."""
        self._ask(port, b"C")
        # An adapter that was left running still sends; its last frames belong to nobody.
        quiet = time.monotonic() + 1.0
        while port.read(_READ_BYTES) and time.monotonic() < quiet:
            pass
        rest = b""
        for command in self._commands:
            rest = self._ask(port, command)
        return rest

    def _ask(self, port: Any, command: bytes) -> bytes:
        """Send a command and wait for the answer; some adapters never answer, and work."""
        port.write(command + b"\r")
        answer = b""
        deadline = time.monotonic() + _ANSWER_S
        while not answer and time.monotonic() < deadline:
            answer = port.read(1)
        if answer == b"\x07" and command != b"C":  # what is closed refuses to be closed
            hint = " (set listen_only = false if it has no such mode)" if command == b"L" else ""
            raise BusError(f"the adapter {self._device} refuses {command.decode()}{hint}")
        return b"" if answer == b"\r" else answer

    def _read(self, descriptor: int, collected: "_Collected", stop: threading.Event) -> None:
        wait_s = 0.1
        if collected.size:
            left_ns = collected.began + self._block_ns - self._clock.boot()
            wait_s = min(wait_s, max(0, left_ns) / SECOND)
        if not select.select([descriptor], [], [], wait_s)[0]:
            return
        try:
            data = os.read(descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            raise OSError(errno.ENODEV, "unplugged")
        collected.add(data, self._clock.boot())
        if len(data) < 1024:
            stop.wait(_COALESCE_S)

    def _flush(self, collected: "_Collected", deliver: Deliver) -> None:
        frames, times = collected.take()
        if not len(frames):
            return
        # The boot clock never goes back, but stamps of an adapter may by a little.
        times = np.maximum.accumulate(np.maximum(times, self._last))
        self._last = int(times[-1])
        for begin in range(0, len(frames), MAX_BLOCK_FRAMES):
            rows = slice(begin, begin + MAX_BLOCK_FRAMES)
            deliver(
                FrameBlock(
                    self.bus,
                    times[rows],
                    frames.id[rows],
                    frames.length[rows],
                    frames.flags[rows],
                    frames.data[rows],
                )
            )


class _Collected:
    """What was read since the last block: bytes, and at which stream position and time."""

    def __init__(self, parser: SlcanParser) -> None:
        self._parser = parser
        self._stamps = StampClock()
        self._fed = 0
        self._chunks: list[bytes] = []
        self._ends: list[int] = []
        self._times: list[int] = []
        self.size = 0

    @property
    def began(self) -> int:
        return self._times[0]

    def add(self, data: bytes, now: int) -> None:
        self._fed += len(data)
        self.size += len(data)
        self._chunks.append(data)
        self._ends.append(self._fed)
        self._times.append(now)

    def due(self, now: int, block_ns: int) -> bool:
        return self.size >= _BLOCK_BYTES or (self.size > 0 and now - self.began >= block_ns)

    def take(self) -> tuple[SlcanFrames, Int64]:
        """Parse what is here: frames, and for each the boot time of the read that completed it."""
        frames = self._parser.feed(b"".join(self._chunks))
        times = np.empty(0, np.int64)
        if len(frames):
            times = np.array(self._times, np.int64)[np.searchsorted(self._ends, frames.end)]
            if (frames.stamp >= 0).all():
                times = self._stamps.times(frames.stamp, times)
        self._chunks, self._ends, self._times, self.size = [], [], [], 0
        return frames, times


def _why(device: str, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == errno.ENOENT:
        return f"the adapter {device} is not there"
    if number in (errno.EACCES, errno.EPERM):
        return f"no permission to open {device}; its group (often dialout) must include this user"
    if number in (errno.EBUSY, errno.EAGAIN):
        return f"the adapter {device} is in use by another program"
    return f"the adapter {device} cannot be opened ({error})"
