"""Frames from a serial adapter that speaks LAWICEL ASCII ("slcan"), or from a pseudo-terminal.

The thread reads whatever has come, every few milliseconds, and only notes when; bytes are parsed
once a block, many lines at a time. A frame is dated with the read that completed its line. Where
the adapter stamps frames itself (`timestamps`), its milliseconds give the distances, and the reads
only where they lie in boot time.

An adapter that is missing, refuses or is unplugged is waited for: `state` says why, and every
second is a new try. So it does where bytes come and none of them is a frame, as with a wrong baud
rate. The only bytes that are ever written are commands; frames are not among them.

Two families of firmware are met. LAWICEL's own answer each command, and `L` opens them silent. The
stock firmware of CANable and CANtact answers nothing but `V`, and ignores `L`: it is silent after
`M1`, opens with `O`, and takes the bit rate of the data phase of CAN FD with `Y`. (github.com/
normaldotcom/canable2-fw, README.)
"""

import os
import re
import select
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from agent.blocks import MAX_BLOCK_FRAMES, FrameBlock, Int64
from agent.bus import serialport
from agent.bus.lawicel import SlcanFrames, SlcanParser, StampClock
from agent.bus.session import DeviceSource
from agent.bus.source import Deliver
from agent.clock import MILLISECOND, SECOND, BootNs, Clock
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
# Of the data phase of CAN FD, where the firmware has it: 2 and 5 Mbit/s are in all of them.
_DATA_BITRATES: Final = {
    500_000: b"Y0",
    1_000_000: b"Y1",
    2_000_000: b"Y2",
    4_000_000: b"Y4",
    5_000_000: b"Y5",
    8_000_000: b"Y8",
}
# What `V` answers on firmware that is silent after `M1`: the address of its sources.
_SILENT_BY_M1: Final = re.compile(rb"canable|cantact", re.IGNORECASE)
_CR: Final = b"\r"
_BELL: Final = b"\x07"
# A block is parsed at the latest when so many bytes wait; more than 16,384 frames become two.
_BLOCK_BYTES: Final = 20 * MAX_BLOCK_FRAMES
# One wake-up for what comes within this time; it also bounds how late a frame may be dated.
_COALESCE_S: Final = 0.004
_ANSWER_S: Final = 0.5
# Bytes without a single frame for so long are no passing disturbance.
_NOISE_NS: Final = 2 * SECOND


class SlcanSource(DeviceSource):
    """One bus behind a serial adapter.

    Args:
        bus: name of the bus.
        device: a device such as /dev/ttyACM0, or the path of a pseudo-terminal.
        bitrate: of the bus, one of the nine that the protocol has a number for.
        data_bitrate: of the data phase, for CAN FD with an adapter that can; None leaves it alone.
        listen_only: do not even acknowledge frames on the bus.
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
        data_bitrate: int | None = None,
        listen_only: bool = True,
        timestamps: bool = False,
        block_ms: int = 500,
        baudrate: int = 115_200,
        retry_s: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(bus, retry_s=retry_s, clock=clock)
        self._device = os.fspath(device)
        self._settings = [_command(bus, "bit", _BITRATES, bitrate)]
        if data_bitrate is not None:
            self._settings.append(_command(bus, "data bit", _DATA_BITRATES, data_bitrate))
        if timestamps:
            self._settings.append(b"Z1")
        self._listen_only = listen_only
        self._block_ns = block_ms * MILLISECOND
        self._baudrate = baudrate
        self._parser = SlcanParser()
        self._bad_before = 0
        self._bad = 0
        self._noise_since: BootNs | None = None
        self._last = 0

    @property
    def counts(self) -> Mapping[str, int]:
        """`bad_lines`: lines that were no frame, and halves of one where the adapter went away."""
        return {"bad_lines": self._bad}

    def _session(self, deliver: Deliver, stop: threading.Event) -> None:
        """As `DeviceSource._session`."""
        # Half a line of the session before must not meet the first line of this one.
        self._parser = SlcanParser()
        self._bad_before = self._bad
        self._noise_since = None
        port = serialport.open_port(self._device, self._baudrate)
        collected = _Collected(self._parser)
        try:
            with serialport.in_use(self._device):
                early = self._configure(port)
            self._reads()
            if early:
                collected.add(early, self._clock.boot())
            while not stop.is_set():
                with serialport.in_use(self._device):
                    self._read(port.fileno(), collected, stop)
                if collected.due(self._clock.boot(), self._block_ns):
                    self._flush(collected, deliver)
            with serialport.in_use(self._device):
                port.write(b"C\r")
        finally:
            port.close()
            self._flush(collected, deliver)
            if not stop.is_set():
                self._parser.cut()
                self._bad = self._bad_before + self._parser.bad

    def _configure(self, port: Any) -> bytes:
        """Stop, set up and start the adapter; gives bytes that came after its last answer."""
        self._ask(port, b"C")
        # An adapter that was left running still sends; its last frames belong to nobody.
        quiet = time.monotonic() + 1.0
        while port.read(serialport.READ_BYTES) and time.monotonic() < quiet:
            pass
        for command in self._settings:
            self._demand(port, command)
        if not self._listen_only:
            return self._demand(port, b"O")
        answer = self._demand(port, b"L")
        if not answer and _SILENT_BY_M1.search(self._firmware(port)):
            self._demand(port, b"M1")
            answer = self._demand(port, b"O")
        return b"" if answer == _CR else answer

    def _demand(self, port: Any, command: bytes) -> bytes:
        """As `_ask`, for a command that must not be refused.

        Raises:
            BusError: it is.
        """
        answer = self._ask(port, command)
        if answer == _BELL:
            hint = _HINTS.get(command[:1], "")
            raise BusError(f"the adapter {self._device} refuses {command.decode()}{hint}")
        return answer

    def _ask(self, port: Any, command: bytes) -> bytes:
        """Send a command; gives the first byte of the answer, or none where none comes."""
        port.write(command + _CR)
        answer = b""
        deadline = time.monotonic() + _ANSWER_S
        while not answer and time.monotonic() < deadline:
            answer = port.read(1)
        return answer

    def _firmware(self, port: Any) -> bytes:
        """What the adapter says that it is; empty where it says nothing."""
        answer = self._ask(port, b"V")
        deadline = time.monotonic() + _ANSWER_S
        while answer and not answer.endswith((_CR, _BELL)) and time.monotonic() < deadline:
            answer += port.read(1)
        return answer

    def _read(self, descriptor: int, collected: "_Collected", stop: threading.Event) -> None:
        wait_s = 0.1
        if collected.size:
            left_ns = collected.began + self._block_ns - self._clock.boot()
            wait_s = min(wait_s, max(0, left_ns) / SECOND)
        if not select.select([descriptor], [], [], wait_s)[0]:
            return
        data = serialport.read_some(descriptor)
        if data:
            collected.add(data, self._clock.boot())
        if len(data) < 1024:
            stop.wait(_COALESCE_S)

    def _judge(self, *, frames: bool, noise: bool) -> None:
        """Is what comes frames at all? The word is given after some seconds of nothing else."""
        now = self._clock.boot()
        if frames:
            self._noise_since = None
            self._reads()
        elif noise and self._noise_since is None:
            self._noise_since = now
        elif noise and self._noise_since is not None and now - self._noise_since >= _NOISE_NS:
            self._waits(
                f"what comes from {self._device} is no frame; "
                f"is the baud rate of {self._baudrate} right?"
            )

    def _flush(self, collected: "_Collected", deliver: Deliver) -> None:
        frames, times = collected.take()
        bad, self._bad = self._bad, self._bad_before + self._parser.bad
        self._judge(frames=len(frames) > 0, noise=self._bad > bad or self._parser.endless)
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


_HINTS: Final = {
    b"L": " (set listen_only = false if it has no such mode)",
    b"Y": " (leave data_bitrate out if it has no CAN FD)",
    b"Z": " (set timestamps = false if it has none)",
}


def _command(bus: str, what: str, commands: Mapping[int, bytes], rate: int) -> bytes:
    if rate not in commands:
        known = ", ".join(f"{number // 1000}" for number in commands)
        raise ConfigError(
            f"bus {bus}: a serial adapter has no setting for a {what} rate of {rate} bit/s; "
            f"it has {known} kbit/s"
        )
    return commands[rate]
