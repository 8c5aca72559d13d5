"""A recording that stands in for a bus: at its own speed, faster, or as fast as it is taken."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from agent.blocks import FrameBlock
from agent.bus.logs import LogReader, read_log
from agent.bus.source import DeliverFrames
from agent.clock import MILLISECOND, SECOND, BootNs, Clock, SystemClock
from agent.errors import BusError


class RecordingSource:
    """One bus fed from a file.

    Frames keep the recording's own times. `begin_at` frames are passed over, those up to
    `play_from` are given without waiting, and no block reaches across a frame count in `cuts`: so a
    run goes on exactly where an earlier one was durable.

    Args:
        bus: name of the bus.
        path: the recording.
        channel: one channel of it; None for all.
        speed: 1 as recorded, 10 ten times as fast, 0 flat out.
        loop: begin again at the end, with times that go on.
        block_ms: a block spans at most this much of its time, as one of a bus would: what follows
            from a recording is the same at any speed.

    Raises:
        BusError: the recording cannot be read.
    """

    def __init__(
        self,
        bus: str,
        path: str,
        *,
        channel: str | None = None,
        speed: float = 1.0,
        loop: bool = False,
        block_ms: int = 500,
        clock: Clock | None = None,
    ) -> None:
        self.bus = bus
        self.path = path
        self.state = "starting"
        self.begin_at = 0
        self.play_from = 0
        self.cuts: frozenset[int] = frozenset()
        self.counts = {"bad_lines": 0}
        self.notes: list[str] = []
        self._bad_before = 0
        self._channel = channel
        self._speed = speed
        self._loop = loop
        self._block_ms = block_ms
        self._clock = clock or SystemClock()
        read_log(path, channel=channel, bus=bus).close()  # a missing file is said at once
        self.size = Path(path).stat().st_size

    @property
    def resumable(self) -> bool:
        """Whether a frame count names a place in it for good."""
        return not self._loop

    def run(self, deliver: DeliverFrames, stop: threading.Event) -> None:
        """As `Source.run`; ends with the recording."""
        self.state = "reading"
        try:
            shift = 0
            while True:
                first, last = self._play(deliver, stop, shift)
                if not self._loop or stop.is_set() or first is None:
                    break
                shift += last - first + 10 * MILLISECOND
            self.state = "ended"
        except BusError as e:
            self.state = f"ended: {e}"

    def _play(
        self, deliver: DeliverFrames, stop: threading.Event, shift: int
    ) -> tuple[int | None, int]:
        began = self._clock.boot()
        self._bad_before = self.counts["bad_lines"]
        first: int | None = None
        last = 0
        position = self.begin_at
        with read_log(self.path, channel=self._channel, bus=self.bus) as reader:
            for block in self._pieces(reader):
                position += len(block)
                if first is None:
                    first = int(block.time[0])
                last = max(last, int(block.time[-1]))
                if position <= self.play_from:
                    played = round((last - first) / (self._speed or 1))
                    began = BootNs(self._clock.boot() - played)
                elif self._speed:
                    due = began + (last - first) / self._speed
                    while (left := due - self._clock.boot()) > 0:
                        if stop.wait(min(left / SECOND, 1.0)):
                            return first, last
                if stop.is_set():
                    return first, last
                deliver(_shifted(block, shift))
                self._note(reader)
            self._note(reader)
        return first, last

    def _note(self, reader: LogReader) -> None:
        self.counts["bad_lines"] = self._bad_before + reader.bad
        self.notes = reader.notes

    def _pieces(self, blocks: Iterator[FrameBlock]) -> Iterator[FrameBlock]:
        """Blocks from `begin_at` on, cut where they must be and where time asks for it."""
        position = 0
        span = self._block_ms * MILLISECOND
        for block in blocks:
            begin = position
            position += len(block)
            if position <= self.begin_at:
                continue
            borders = {self.begin_at - begin, *(cut - begin for cut in self.cuts)}
            cells = block.time // span
            borders.update((np.flatnonzero(cells[1:] != cells[:-1]) + 1).tolist())
            edges = sorted(b for b in borders if 0 < b < len(block))
            for a, b in zip([0, *edges], [*edges, len(block)], strict=True):
                if begin + a >= self.begin_at:
                    yield block[a:b]


def _shifted(block: FrameBlock, shift: int) -> FrameBlock:
    if not shift:
        return block
    return FrameBlock(
        block.bus,
        block.time + shift,
        block.id,
        block.length,
        block.flags,
        block.data,
        block.clock,
    )
