"""One block, told to `Messages` part by part: a part ends where a look ends."""

import numpy as np
from numpy.typing import NDArray

from agent.blocks import FrameBlock, Int64, UInt32
from agent.signals.decoder import Occurrences
from agent.signals.health_messages import Messages, State
from agent.signals.health_values import Samples


class Pending:
    """What a block holds.

    Args:
        block: its frames, n > 0.
        time: int64[n], the `BusTime` of each.
        there: which frames are of which message.
        messages: who is told.
        samples: what is wrong in the samples of the block; under OK, all of messages in parts.
    """

    def __init__(
        self,
        block: FrameBlock,
        time: Int64,
        there: Occurrences,
        messages: Messages,
        samples: dict[State, Samples],
    ) -> None:
        self._block = block
        self._time = time
        self._there = there
        self._messages = messages
        self._samples = samples
        self._row = 0
        self._wrong_rows, self._wrong_numbers = self._wrong_lengths()

    def take(self, end: int) -> UInt32:
        """Tell the messages of all rows before `end`; gives the unknown ids among them."""
        begin, self._row = self._row, end
        if begin == end:
            return self._block.id[:0]
        whole = begin == 0 and end == len(self._block)
        if len(self._there.numbers):
            self._came(begin, end, whole=whole)
        if len(self._wrong_rows):
            first, behind = np.searchsorted(self._wrong_rows, (begin, end))
            self._messages.note(State.WRONG_LENGTH, self._wrong_numbers[first:behind])
        for state, samples in self._samples.items():
            self._note(state, samples, begin, end)
        unknown = self._there.unknown
        if len(unknown) and not whole:
            unknown = unknown[(unknown >= begin) & (unknown < end)]
        return self._block.id[unknown]

    def _came(self, begin: int, end: int, *, whole: bool) -> None:
        """Tell which messages are in these rows."""
        there, messages = self._there, self._messages
        order, numbers, begins, counts = there.order, there.numbers, there.begins, there.counts
        rows = order
        if not whole:
            inside = (order >= begin) & (order < end)
            counts = np.add.reduceat(inside, begins, dtype=np.int64)
            came = np.flatnonzero(counts)
            # In the part, the rows of a message follow those of the parts before.
            before = np.add.reduceat(order < begin, begins, dtype=np.int64)
            numbers, begins, counts = numbers[came], (begins + before)[came], counts[came]
            rows = order[inside]
            if not len(numbers):
                return
        time = self._time
        messages.absorb(numbers, counts, time[order[begins]], time[order[begins + counts - 1]])
        if messages.minds_senders:
            of_messages = rows[len(rows) - int(counts.sum()) :]
            addresses = (self._block.id[of_messages] & np.uint32(0xFF)).astype(np.uint8)
            messages.senders(np.repeat(numbers, counts), addresses)

    def _note(self, state: State, samples: Samples, begin: int, end: int) -> None:
        # A sample has the stamp of its frame, and no row.
        stamps = self._block.time
        mine = np.ones(len(samples.time), bool)
        if begin:
            mine &= samples.time >= stamps[begin]
        if end < len(stamps):
            mine &= samples.time < stamps[end]
        numbers = samples.number[mine]
        if state is State.OK:
            self._messages.sampled(numbers)
        else:
            self._messages.note(state, numbers)

    def _wrong_lengths(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Rows of the frames of a wrong length, in their order, and the number of each."""
        there, messages = self._there, self._messages
        nothing = np.zeros(0, np.intp), np.zeros(0, np.intp)
        if not len(there.numbers):
            return nothing
        lengths = self._block.length
        low, high = messages.shortest[there.numbers], messages.longest[there.numbers]
        least, most = lengths.min(), lengths.max()
        if least == most:
            wrong = (least < low) | (most > high)
        else:
            lengths = lengths[there.order]
            wrong = (np.minimum.reduceat(lengths, there.begins) < low) | (
                np.maximum.reduceat(lengths, there.begins) > high
            )
        if not wrong.any():
            return nothing
        begins, counts = there.begins[wrong], there.counts[wrong]
        each = np.repeat(np.flatnonzero(wrong), counts)
        within = np.arange(len(each)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = there.order[np.repeat(begins, counts) + within]
        found = self._block.length[rows]
        bad = (found < low[each]) | (found > high[each])
        rows, numbers = rows[bad], there.numbers[each[bad]].astype(np.intp)
        order = np.argsort(rows)
        return rows[order], numbers[order]
