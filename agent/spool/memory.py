"""What the decode thread has given and the disk has not taken yet.

The only place where the two threads of the spool meet: `add` takes a lock that is never held while
the disk works, so that a disk that is slow, full or gone costs the decode thread nothing. Blocks
are made durable whole or not at all: they are taken, and given back after an error.

Bounded: beyond it the oldest block of the stream that holds the most goes, counted as lost to disk.
The newest block of a stream always stays.
"""

import dataclasses
import threading
from collections.abc import Mapping, Sequence

from agent.blocks import SignalTable
from agent.ledger import Ledger
from agent.settings import Lane
from agent.spool.positions import Positions, further

_CHUNK_BYTES = 4 << 20
"""A chunk takes no more blocks once their arrays have this size; a chunk holds at most 16 MiB."""


@dataclasses.dataclass(frozen=True, slots=True)
class StreamKey:
    """Which batches samples go into: a lane and a set of uplinks."""

    lane: Lane
    uplinks: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.lane}/{'+'.join(self.uplinks)}"


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """What a block of frames gave a stream: made durable whole, or not at all."""

    tables: tuple[SignalTable, ...]
    positions: Positions
    """How far the recordings are read with it."""
    samples: int
    nbytes: int


@dataclasses.dataclass(slots=True)
class _Queue:
    positions: Positions
    pending: list[Block] = dataclasses.field(default_factory=list)
    nbytes: int = 0
    """With those that are being written just now."""


class Memory:
    """The blocks of all streams that are not durable; thread-safe."""

    def __init__(self, bound: int, ledger: Ledger) -> None:
        """`bound` in bytes of the arrays."""
        self.bound = bound
        self._ledger = ledger
        self._lock = threading.Lock()
        self._queues: dict[StreamKey, _Queue] = {}
        self._ended = False

    def open(self, key: StreamKey, positions: Positions) -> None:
        self._queues[key] = _Queue(dict(positions))

    def add(
        self, tables: Mapping[StreamKey, Sequence[SignalTable]], positions: Positions | None
    ) -> None:
        with self._lock:
            for queue in self._queues.values() if positions else ():
                queue.positions = further(queue.positions, positions or {})
            for key, parts in tables.items():
                queue = self._queues[key]
                samples = sum(t.samples for t in parts)
                nbytes = sum(t.nbytes for t in parts)
                if self._ended:
                    self.count(key, kept=samples, lost_end=samples)
                    continue
                queue.pending.append(Block(tuple(parts), queue.positions, samples, nbytes))
                queue.nbytes += nbytes
                self.count(key, kept=samples, memory=samples)
            self._shed()

    def take(self, key: StreamKey) -> list[Block]:
        """The oldest blocks, enough for one chunk."""
        with self._lock:
            queue = self._queues[key]
            n = nbytes = 0
            while n < len(queue.pending) and nbytes < _CHUNK_BYTES:
                nbytes += queue.pending[n].nbytes
                n += 1
            blocks, queue.pending = queue.pending[:n], queue.pending[n:]
        return blocks

    def give_back(self, key: StreamKey, blocks: list[Block]) -> None:
        """They could not be written."""
        with self._lock:
            queue = self._queues[key]
            queue.pending = blocks + queue.pending
            self._shed()

    def done(self, key: StreamKey, blocks: Sequence[Block]) -> None:
        """They are durable, or lost for good."""
        with self._lock:
            self._queues[key].nbytes -= sum(block.nbytes for block in blocks)

    def end(self) -> None:
        """What is here, and what still comes, is lost at the end of the run."""
        with self._lock:
            self._ended = True
            for key, queue in self._queues.items():
                lost = sum(block.samples for block in queue.pending)
                self.count(key, memory=-lost, lost_end=lost)
                queue.pending.clear()
                queue.nbytes = 0

    def count(self, key: StreamKey, **changes: int) -> None:
        """Into the ledgers of all uplinks of a stream."""
        for uplink in key.uplinks:
            self._ledger.add("uplink", uplink, **changes)

    @property
    def nbytes(self) -> int:
        return sum(queue.nbytes for queue in self._queues.values())

    def _shed(self) -> None:
        while self.nbytes > self.bound:
            full = [(key, q) for key, q in self._queues.items() if len(q.pending) > 1]
            if not full:
                return
            key, queue = max(full, key=lambda item: item[1].nbytes)
            block = queue.pending.pop(0)
            queue.nbytes -= block.nbytes
            self.count(key, memory=-block.samples, lost_disk=block.samples)
