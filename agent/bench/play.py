"""Frames onto a bus at the pace of their times: what `simulate` and `replay` have in common."""

import contextlib
import dataclasses
import errno
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol, TextIO

import can
import numpy as np

from agent.bench.adapter import VirtualAdapter
from agent.blocks import (
    ERROR,
    EXTENDED,
    FD_BIT_RATE_SWITCH,
    FD_ERROR_STATE,
    FD_FRAME,
    ID_BITS,
    REMOTE,
    FrameBlock,
)
from agent.clock import SECOND
from agent.errors import BusError

STEP_S: Final = 0.02
_PROGRESS_S: Final = 1.0


class Sink(Protocol):
    """Where frames go."""

    name: str

    def ready(self) -> bool:
        """Wait until frames are wanted; False at the stop."""
        ...

    def send(self, block: FrameBlock) -> int:
        """Send; how many frames went out. May block.

        Raises:
            BusError: the bus or the file is gone.
        """
        ...

    def close(self) -> None: ...


class AdapterSink:
    """A virtual serial adapter."""

    def __init__(self, path: str, stop: threading.Event) -> None:
        self.name = path
        self._adapter = VirtualAdapter(path, stop)

    def ready(self) -> bool:
        return self._adapter.wait_opened()

    def send(self, block: FrameBlock) -> int:
        return self._adapter.send(block)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._adapter.drain()
        self._adapter.close()


class SocketCanSink:
    """A SocketCAN interface, through python-can.

    Raises:
        BusError: no such interface, or it is down.
    """

    def __init__(self, interface: str, stop: threading.Event) -> None:
        self.name = interface
        self._stop = stop
        try:
            self._bus = can.Bus(interface="socketcan", channel=interface, fd=True)
        except (can.CanError, OSError, AttributeError) as error:
            raise BusError(why_not_open(interface, error)) from error

    def ready(self) -> bool:
        return True

    def send(self, block: FrameBlock) -> int:
        sent = 0
        columns = (block.id.tolist(), block.length.tolist(), block.flags.tolist(), block.data)
        for identifier, length, flags, data in zip(*columns, strict=True):
            if identifier & ERROR:
                continue  # the kernel makes these itself
            message = can.Message(
                arbitration_id=identifier & ID_BITS,
                is_extended_id=bool(identifier & EXTENDED),
                is_remote_frame=bool(identifier & REMOTE),
                is_fd=bool(flags & FD_FRAME),
                bitrate_switch=bool(flags & FD_BIT_RATE_SWITCH),
                error_state_indicator=bool(flags & FD_ERROR_STATE),
                dlc=length,
                data=None if identifier & REMOTE else data[:length].tobytes(),
            )
            if not self._send(message):
                break
            sent += 1
        return sent

    def _send(self, message: can.Message) -> bool:
        while not self._stop.is_set():
            try:
                self._bus.send(message)
            except can.CanOperationError as error:
                # The interface's queue is full: that passes.
                if error.error_code not in (errno.ENOBUFS, errno.EAGAIN):
                    raise BusError(f"cannot send on {self.name} ({error})") from error
                self._stop.wait(0.001)
            except OSError as error:
                raise BusError(f"cannot send on {self.name} ({error})") from error
            else:
                return True
        return False

    def close(self) -> None:
        self._bus.shutdown()


class CandumpSink:
    """A file in the format of `candump -L`.

    Raises:
        BusError: the file cannot be written.
    """

    def __init__(self, path: str, channel: str) -> None:
        self.name = path
        self._channel = channel
        try:
            self._file: TextIO = Path(path).open("w", encoding="ascii")  # noqa: SIM115 - see close
        except OSError as error:
            raise BusError(f"cannot write {path} ({error.strerror})") from error

    def ready(self) -> bool:
        return True

    def send(self, block: FrameBlock) -> int:
        try:
            self._file.writelines(candump_lines(block, self._channel))
        except OSError as error:
            raise BusError(f"cannot write {self.name} ({error.strerror})") from error
        return len(block)

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise BusError(f"cannot write {self.name} ({error.strerror})") from error


def candump_lines(block: FrameBlock, channel: str) -> Iterator[str]:
    """Lines of `candump -L`: `(seconds) channel id#data`, `id##flagsdata` of CAN FD, `id#R`."""
    payloads = [row.tobytes().hex().upper() for row in block.data]
    columns = (block.time, block.id, block.length, block.flags)
    rows = zip(*(c.tolist() for c in columns), payloads, strict=True)
    for moment, identifier, length, flags, payload in rows:
        seconds, rest = divmod(moment, SECOND)
        wide = identifier & (EXTENDED | ERROR)
        number = identifier & (ID_BITS | ERROR)
        text = f"{number:08X}" if wide else f"{number:03X}"
        if identifier & REMOTE:
            text += f"#R{length or ''}"
        elif flags & FD_FRAME:
            text += f"##{flags & 3:X}{payload[: 2 * length]}"
        else:
            text += f"#{payload[: 2 * length]}"
        yield f"({seconds:010d}.{rest // 1000:06d}) {channel} {text}\n"


@dataclasses.dataclass(slots=True)
class Played:
    """What was played: frames offered, frames that went out by sink, and how long it took."""

    frames: int
    sent: dict[str, int]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        return {"frames": self.frames, "sent": self.sent, "seconds": round(self.seconds, 3)}

    def as_text(self) -> str:
        parts = [f"{count} frames to {name}" for name, count in self.sent.items()]
        return f"sent {', '.join(parts)} in {self.seconds:.1f} s"


def play(
    blocks: Iterable[FrameBlock],
    sinks: list[Sink],
    stop: threading.Event,
    *,
    speed: float = 1.0,
    progress: TextIO | None = None,
) -> Played:
    """Send blocks in order, in steps of 20 ms, until they end or `stop` is set.

    A frame is sent when as much time has passed since the start as lies between it and the first
    frame, divided by `speed`; 0 sends flat out. A time before the one already reached is due now.

    Raises:
        BusError: a sink failed.
    """
    played = Played(0, {sink.name: 0 for sink in sinks}, 0)
    if not all(sink.ready() for sink in sinks):
        return played
    began = time.monotonic()
    shown = began
    first: int | None = None
    for block in blocks:
        if stop.is_set():
            break
        if first is None and len(block):
            first = int(block.time[0])
        # Times that go back, as in a recording that was put together, must not stop the search.
        due = np.maximum.accumulate(block.time)
        done = 0
        while done < len(block) and not stop.is_set():
            now = time.monotonic()
            end = len(block)
            if speed:
                reached = (first or 0) + int((now - began) * speed * SECOND)
                end = int(np.searchsorted(due, reached, "right"))
            if end > done:
                piece = block[done:end]
                for sink in sinks:
                    played.sent[sink.name] += sink.send(piece)
                played.frames += end - done
                done = end
            if progress and now - shown >= _PROGRESS_S:
                shown = now
                progress.write(f"\r{played.frames} frames, {now - began:.0f} s ")
                progress.flush()
            if done < len(block):
                stop.wait(STEP_S)
    played.seconds = time.monotonic() - began
    if progress:
        progress.write("\n")
    return played


@contextlib.contextmanager
def stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set `stop` for as long as this lasts; for the main thread."""
    ends = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in ends}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def terminal() -> TextIO | None:
    """Where progress is shown: standard error if a person sees it."""
    return sys.stderr if sys.stderr.isatty() else None


def why_not_open(interface: str, error: Exception) -> str:
    """Why a SocketCAN interface cannot be opened, for people."""
    number = getattr(error, "errno", None) or getattr(error, "error_code", None)
    if number == errno.ENODEV:
        return (
            f"there is no interface {interface}; make it with "
            f"'ip link add {interface} type vcan' and 'ip link set {interface} up'"
        )
    if number == errno.ENETDOWN:
        return f"interface {interface} is down; 'ip link set {interface} up' starts it"
    if number in (errno.EPERM, errno.EACCES):
        return f"no permission to open {interface}"
    if number in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.ENOPROTOOPT):
        return f"this kernel has no CAN support, so {interface} cannot be opened"
    return f"interface {interface} cannot be opened ({error})"
