"""The raw frames of several batches in the order of time.

Batches overlap: buses, lanes and campaigns are written side by side. So all of them are read twice.
The first time only notes when the frames of each record begin; the second time reads a record when
its time has come, and gives what no later record can come before. In memory are the batches that
overlap at one time, and not all of them. Frames of one time keep the order of the files. A frame
that two campaigns kept is there twice.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from agent.batch.dated import Path, frames_of, opened
from agent.batch.reader import BatchReader
from agent.blocks import KeptFrames, TimeBase
from agent.bus.logs.frames import Frames, join
from agent.clock import Anchor

STRETCH = 1 << 16
"""Frames that are gathered before they are sorted."""

Choose = Callable[[BatchReader, Iterable[KeptFrames]], Iterable[KeptFrames]]


class _Feed:
    """One file: its records of frames, and the least time of each and all behind it."""

    def __init__(self, path: Path, anchor: Anchor | None, lows: list[int]) -> None:
        self._path = path
        self._anchor = anchor
        self._lows = lows
        self._records: Iterator[KeptFrames] | None = None

    @property
    def low(self) -> int | None:
        """No frame that is still to come is before this; None at the end."""
        return self._lows[-1] if self._lows else None

    def next(self, choose: Choose) -> KeptFrames:
        if self._records is None:
            reader = BatchReader(self._path)
            self._records = iter(choose(reader, frames_of(reader, self._anchor)))
        self._lows.pop()
        return next(self._records)


class Merged:
    """All frames of some batches by time; `buses` by their names, as channels are numbered."""

    def __init__(
        self, paths: Sequence[Path], choose: Choose = lambda _reader, frames: frames
    ) -> None:
        """`choose` lets through what is wanted of a file, record by record.

        Raises:
            BatchError: a file is no batch, or of a newer format.
        """
        self._choose = choose
        self._feeds: list[_Feed] = []
        self.clocks: set[TimeBase] = set()
        names: set[str] = set()
        for path, (reader, anchor) in zip(paths, opened(paths), strict=True):
            lows: list[int] = []
            for each in choose(reader, frames_of(reader, anchor)):
                lows.append(int(each.block.time.min()))
                names.add(each.block.bus)
                self.clocks.add(each.block.clock)
            # From the last record to the first, so that the next one stands at the end.
            falling = np.minimum.accumulate(np.array(lows[::-1], np.int64)).tolist()
            self._feeds.append(_Feed(path, anchor, falling))
        self.buses = tuple(sorted(names))

    def __iter__(self) -> Iterator[Frames]:
        """Stretches of frames; their `channel` is the place in `buses`.

        Raises:
            BatchError: a file has gone meanwhile.
        """
        waiting: list[Frames] = []
        count, due = 0, STRETCH
        heap = [(feed.low, n) for n, feed in enumerate(self._feeds) if feed.low is not None]
        heapq.heapify(heap)
        while heap:
            low, n = heapq.heappop(heap)
            if count >= due:
                sure, waiting = _split(waiting, low)
                count = sum(map(len, waiting))
                due = max(STRETCH, 2 * count)
                if len(sure):
                    yield sure
            feed = self._feeds[n]
            frames = self._frames(feed.next(self._choose))
            waiting.append(frames)
            count += len(frames)
            if feed.low is not None:
                heapq.heappush(heap, (feed.low, n))
        if waiting:
            yield _split(waiting, None)[0]

    def _frames(self, kept: KeptFrames) -> Frames:
        block = kept.block
        channel = np.full(len(block), self.buses.index(block.bus))
        return Frames(block.time, block.id, block.length, block.flags, block.data, channel)


def _split(waiting: list[Frames], low: int | None) -> tuple[Frames, list[Frames]]:
    """By time: what is before `low`, and the rest; all of it where that is None."""
    frames = join(waiting)
    frames = frames.take(np.argsort(frames.time, kind="stable"))
    n = len(frames) if low is None else int(np.searchsorted(frames.time, low))
    rest = frames.take(slice(n, None))
    return frames.take(slice(n)), [rest] if len(rest) else []
