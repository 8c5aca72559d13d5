"""The last seconds of frames of all buses, for a plan to be rehearsed with.

Frames are copied when they come, because a source uses its arrays again, and given to whoever asks.
Times are those of the frames: when all buses fall silent, the last seconds before that stay. What
is old compared with the newest block of its kind of time goes first; bytes and blocks are bounded
besides, so a bus that floods, or has wild stamps, costs no more memory than another.
"""

import collections
import threading
from typing import Final

import numpy as np

from agent.blocks import FrameBlock, TimeBase
from agent.clock import SECOND

MOST_BYTES: Final = 8 << 20
"""Ten seconds of eight full buses of 500 kbit/s."""
MOST_BLOCKS: Final = 4096
"""Ten seconds of blocks of 20 ms on eight buses: each costs a kilobyte of objects besides."""


class RecentFrames:
    """A ring of blocks. `add` is called in the decode thread, `blocks` in any."""

    def __init__(
        self, seconds: float = 10, most_bytes: int = MOST_BYTES, most_blocks: int = MOST_BLOCKS
    ) -> None:
        self._span_ns = round(seconds * SECOND)
        self._most_bytes = most_bytes
        self._most_blocks = most_blocks
        self._lock = threading.Lock()
        self._kept: collections.deque[FrameBlock] = collections.deque()
        self._bytes = 0
        self._newest: dict[TimeBase, int] = {}
        """Last stamp of the block that came last."""
        self._paused = False

    def add(self, block: FrameBlock) -> None:
        """Keep a copy; of a block over the bound its last frames."""
        if not len(block):
            return
        if (size := _size(block)) > self._most_bytes:
            rows = self._most_bytes * len(block) // size
            if not rows:
                return
            block = block[-rows:]
            size = _size(block)
        with self._lock:
            if self._paused:
                return
            copy = FrameBlock(
                block.bus,
                block.time.copy(),
                block.id.copy(),
                block.length.copy(),
                block.flags.copy(),
                block.data.copy(),
                block.clock,
            )
            newest = int(copy.time[-1])
            kept = self._kept
            kept.append(copy)
            self._bytes += size
            self._newest[copy.clock] = newest
            while (
                self._bytes > self._most_bytes
                or len(kept) > self._most_blocks
                or (
                    kept[0].clock == copy.clock
                    and abs(newest - int(kept[0].time[-1])) > self._span_ns
                )
            ):
                self._bytes -= _size(kept.popleft())

    @property
    def paused(self) -> bool:
        """Whether nothing is kept, because memory is short. Set in any thread."""
        return self._paused

    @paused.setter
    def paused(self, paused: bool) -> None:
        with self._lock:
            self._paused = paused
            if paused:
                self._kept.clear()
                self._bytes = 0

    def blocks(self) -> list[FrameBlock]:
        """What is kept, in the order in which it came; nobody writes into it any more."""
        with self._lock:
            kept, newest = list(self._kept), dict(self._newest)
        found = []
        for block in kept:
            inside = np.abs(newest[block.clock] - block.time) <= self._span_ns
            if inside.all():
                found.append(block)
            elif inside.any():
                found.append(block[inside])
        return found

    @property
    def nbytes(self) -> int:
        """Of the arrays that are kept."""
        return self._bytes


def _size(block: FrameBlock) -> int:
    return len(block) * (15 + int(block.data.shape[1]))  # time 8, id 4, length 2, flags 1
