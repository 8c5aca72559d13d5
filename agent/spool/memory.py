"""What the decode thread has given and the disk has not taken yet.

The only place where the two threads of the spool meet: `add` takes a lock that is never held while
the disk works, so that a disk that is slow, full or gone costs the decode thread nothing. Blocks
are made durable whole or not at all: they are taken, and given back after an error.

Bounded: beyond it the oldest block of the stream that holds the most goes, counted as lost to disk.
The newest block of a stream always stays. Events are small and say what happened: they outlive the
rows of their block, until nothing but events is left.
"""

import dataclasses
import threading
from collections.abc import Mapping, Sequence

from agent.blocks import Event, Kept, Reports
from agent.clock import SECOND
from agent.ledger import Ledger
from agent.settings import Lane
from agent.spool.positions import Positions, further
from agent.spool.recorded import Span, joined, length, span_of

_JUMP_NS = 2 * SECOND
_CHUNK_BYTES = 4 << 20
"""A chunk takes no more blocks once their arrays have this size; a chunk holds at most 16 MiB."""


@dataclasses.dataclass(frozen=True, slots=True)
class StreamKey:
    """Which batches samples go into: a lane, a set of uplinks, and how they are masked."""

    lane: Lane
    uplinks: tuple[str, ...]
    profile: str = ""

    @property
    def name(self) -> str:
        plain = f"{self.lane}/{'+'.join(self.uplinks)}"
        return f"{plain}/{self.profile}" if self.profile else plain


@dataclasses.dataclass(frozen=True, slots=True)
class Block:
    """What a block of frames gave a stream: made durable whole, or not at all."""

    kept: tuple[Kept, ...]
    positions: Positions
    """How far the recordings are read with it."""
    samples: int
    nbytes: int
    epoch: int = 0
    """Under which plan it was kept: a batch holds blocks of one."""
    span: Span | None = None
    """Of the time of a recording."""

    def without_rows(self) -> "Block":
        """Only its events."""
        events = tuple(each for each in self.kept if isinstance(each, Event))
        nbytes = sum(event.nbytes for event in events)
        return dataclasses.replace(self, kept=events, samples=0, nbytes=nbytes)


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
        self.epoch = 0
        """Counts the plans; written by the decode thread."""
        self._ledger = ledger
        self._lock = threading.Lock()
        self._queues: dict[StreamKey, _Queue] = {}
        self._ended = False

    def open(self, key: StreamKey, positions: Positions) -> None:
        with self._lock:
            self._queues.setdefault(key, _Queue(dict(positions)))

    def add(self, kept: Mapping[StreamKey, Sequence[Kept]], positions: Positions | None) -> None:
        with self._lock:
            for queue in self._queues.values() if positions else ():
                queue.positions = further(queue.positions, positions or {})
            for key, every in kept.items():
                queue = self._queues[key]
                # Reports without a row only tell a sender that no more come.
                parts = [each for each in every if not isinstance(each, Reports) or len(each)]
                if not parts and not queue.positions:
                    continue  # a chunk of nothing cannot be written
                samples = sum(each.samples for each in parts)
                nbytes = sum(each.nbytes for each in parts)
                if self._ended:
                    self.count(key, kept=samples, lost_end=samples)
                    continue
                queue.pending.append(
                    Block(
                        tuple(parts), queue.positions, samples, nbytes, self.epoch, span_of(parts)
                    )
                )
                queue.nbytes += nbytes
                self.count(key, kept=samples, memory=samples)
            self._shed()

    def take(self, key: StreamKey, most_ns: int) -> list[Block]:
        """The oldest blocks of one plan, enough for one chunk.

        Of a recording's time they reach no further than `most_ns`, unless it is a single one, and
        not over a jump back.
        """
        with self._lock:
            queue = self._queues[key]
            n = nbytes = 0
            span: Span | None = None
            epoch = queue.pending[0].epoch if queue.pending else 0
            while n < len(queue.pending) and nbytes < _CHUNK_BYTES:
                if queue.pending[n].epoch != epoch:
                    break
                this = queue.pending[n].span
                back = this is not None and span is not None and this[0] < span[1] - _JUMP_NS
                span = joined(span, this)
                if n and (back or length(span) > most_ns):
                    break
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
        return sum(queue.nbytes for queue in list(self._queues.values()))

    def _shed(self) -> None:
        while self.nbytes > self.bound:
            full = [(key, q) for key, q in self._queues.items() if len(q.pending) > 1]
            if not full:
                return
            key, queue = max(full, key=lambda item: item[1].nbytes)
            n = next((n for n, block in enumerate(queue.pending[:-1]) if block.samples), 0)
            block = queue.pending[n]
            rest = block.without_rows()
            queue.pending[n : n + 1] = [rest] if block.samples and rest.kept else []
            queue.nbytes -= block.nbytes - (rest.nbytes if block.samples else 0)
            self.count(key, memory=-block.samples, lost_disk=block.samples)
