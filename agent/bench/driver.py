"""The vehicle of a bench: a thread that plays frames onto a bus, with faults on their way."""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from agent.bench.disturb import Disturbed
from agent.bench.pages import Vehicle
from agent.bench.play import play
from agent.bench.sinks import BenchSink
from agent.blocks import FrameBlock
from agent.bus import read_log
from agent.clock import SECOND
from agent.errors import AgentError

_CHUNK_S: Final = 0.5
_LOOP_GAP_NS: Final = 1_000_000
"""Between the last frame of a round and the first of the next."""


def vehicle_blocks(vehicle: Vehicle) -> Iterator[FrameBlock]:
    """A vehicle that drives on and on."""
    until = 0.0
    while True:
        until += _CHUNK_S
        yield vehicle.frames(until)


def recording_blocks(path: Path, channel: str, *, again: bool) -> Iterator[FrameBlock]:
    """One channel of a recording, the first where none is named; once, or again and again.

    Raises:
        BusError: it cannot be read.
    """
    shift = 0
    while True:
        bus: str | None = None
        first = last = 0
        with read_log(path, channel=channel or None) as log:
            for block in log:
                if not len(block):
                    continue
                if bus is None:
                    bus, first = block.bus, int(block.time[0])
                if block.bus == bus:
                    last = max(last, int(block.time.max()))
                    yield dataclasses.replace(block, time=block.time + shift)
        if bus is None or not again:
            return
        shift += last - first + _LOOP_GAP_NS


def no_longer_than(blocks: Iterable[FrameBlock], seconds: float) -> Iterator[FrameBlock]:
    """Blocks as far as frames of the first so many seconds."""
    end: int | None = None
    for block in blocks:
        if end is None and len(block):
            end = int(block.time[0]) + round(seconds * SECOND)
        if end is None or not len(block) or int(block.time.max()) < end:
            yield block
            continue
        yield block[block.time < end]
        return


def noted(blocks: Iterable[FrameBlock], note: Callable[[FrameBlock], None]) -> Iterator[FrameBlock]:
    """The same blocks; each is shown to somebody on its way."""
    for block in blocks:
        note(block)
        yield block


class Driver:
    """Plays blocks onto a bus in a thread of its own.

    Args:
        blocks: the frames, at the pace of their times.
        sink: the bus; it is closed by whoever made it.
        speed: times as fast; 0 is flat out.
        make: makes what frames are disturbed with, when that is first asked for.

    Attributes:
        ended: set when no frame comes any more, for whatever reason.
        trouble: why it ended, where that was no end in order.
        sent: frames that went onto the bus.
    """

    def __init__(
        self,
        blocks: Iterable[FrameBlock],
        sink: BenchSink,
        *,
        speed: float,
        make: Callable[[], Disturbed],
    ) -> None:
        self.ended = threading.Event()
        self.trouble = ""
        self.sent = 0
        self.name = sink.name
        self._blocks = blocks
        self._sink = sink
        self._speed = speed
        self._make = make
        self._disturbed: Disturbed | None = None
        self._lock = threading.Lock()
        self._began: float | None = None
        self._took: float | None = None
        self._halt = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vehicle", daemon=True)

    @property
    def seconds(self) -> float:
        """For how long it drives, or drove."""
        if self._took is not None:
            return self._took
        return 0.0 if self._began is None else time.monotonic() - self._began

    def start(self) -> None:
        self._thread.start()

    def halt(self) -> None:
        """The vehicle stops."""
        self._halt.set()

    def join(self) -> None:
        """Wait until it has."""
        if self._thread.ident is not None:
            self._thread.join()

    def disturb(self, name: str, on: bool, parameters: dict[str, Any]) -> None:
        """Switch a fault of `agent.bench.disturb`.

        Raises:
            ConfigError: a parameter that cannot be.
        """
        if self._disturbed is None:
            self._disturbed = self._make()
        with self._lock:
            self._disturbed.set(name, on, **parameters)

    def ready(self) -> bool:
        """As `Sink`: for `play`."""
        if not self._sink.ready():
            return False
        self._began = time.monotonic()
        return True

    def send(self, block: FrameBlock) -> int:
        """As `Sink`."""
        with self._lock:
            if self._disturbed is not None:
                block = self._disturbed.apply(block)
        sent = self._sink.send(block) if len(block) else 0
        self.sent += sent
        return sent

    def close(self) -> None:
        """As `Sink`; the bus is closed by whoever made it."""

    def _run(self) -> None:
        try:
            with contextlib.ExitStack() as stack:
                if isinstance(self._blocks, Iterator) and hasattr(self._blocks, "close"):
                    stack.callback(self._blocks.close)
                play(self._blocks, [self], self._halt, speed=self._speed)
        except AgentError as e:
            self.trouble = str(e)
        except Exception as e:  # noqa: BLE001 - it must not end without a word
            self.trouble = f"the vehicle failed: {type(e).__name__}: {e}"
        finally:
            self._took = self.seconds
            self.ended.set()
