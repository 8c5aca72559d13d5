"""Counters of messages, and whether they stand still.

A counter stands still when five samples in a row have one value that is no code. A counter that was
not asked for, but is called one, may be a count of faults: it is one that must not stand still only
after it has changed eight times in a row.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Int64, SignalSchema, UInt64

Rows = NDArray[np.intp]

_STUCK: Final = 5
_COUNTS: Final = 8
_MAX_BITS: Final = 8
_MAX_COUNTERS: Final = 4096
_FAR: Final = 1 << 40
"""Farther than any place in a block."""

_COUNTER_NAME: Final = re.compile(
    r"(?:.*(?:_|[a-z0-9](?=[A-Z])))?"
    r"(?i:(?:alive|rolling|message|msg)?_?(?:counter|cntr|cnt|ctr))(?:_?\d+)?"
)
"""`Counter`, `Alive_Counter`, `CF_Esp_AliveCnt1`, `SpeedMessageCounter`; not `Encounter`."""


def is_counter(signal: SignalSchema) -> bool:
    """Whether a signal is called a counter of messages, and is small enough to be one."""
    whole = signal.kind == "uint64" and 1 < signal.bits <= _MAX_BITS
    return whole and _COUNTER_NAME.fullmatch(signal.name) is not None


class Counters:
    """What is known of each counter, and which samples of them stand still."""

    def __init__(self, *, armed: bool) -> None:
        self._armed_at_once = armed
        self._places: dict[tuple[str, int | None, str], int] = {}
        self._schemas: list[SignalSchema] = []
        self._last: UInt64 = np.zeros(0, np.uint64)
        self._seen: NDArray[np.bool_] = np.zeros(0, bool)
        self._armed: NDArray[np.bool_] = np.zeros(0, bool)
        self._equal: Int64 = np.zeros(0, np.int64)
        """How often in a row the value was the one before, up to now; and how often it was not."""
        self._changes: Int64 = np.zeros(0, np.int64)

    @property
    def stuck(self) -> list[str]:
        """Message.Signal of those that stand still."""
        names = list(self._places)
        standing = np.flatnonzero(self._armed & (self._equal >= _STUCK - 1)).tolist()
        return sorted(
            {
                f"{names[i][0]}.{names[i][2]}"
                for i in standing
                if self._schemas[i].code_of(self._last[i : i + 1])[0] < 0
            }
        )

    def place(self, key: tuple[str, int | None, str], schema: SignalSchema) -> int | None:
        """The place of a counter; None where there are too many."""
        place = self._places.get(key)
        if place is None and len(self._places) < _MAX_COUNTERS:
            place = self._places[key] = len(self._places)
            self._schemas.append(schema)
            self._last = np.append(self._last, np.uint64(0))
            self._seen = np.append(self._seen, False)
            self._armed = np.append(self._armed, self._armed_at_once)
            self._equal = np.append(self._equal, 0)
            self._changes = np.append(self._changes, 0)
        return place

    def take(
        self, places: NDArray[np.intp], columns: Sequence[UInt64], lengths: Int64
    ) -> list[tuple[int, Rows]]:
        """The next samples of k counters, each once, in their order; none is empty.

        Gives what stands still: where in `columns`, and the places there.
        """
        flat = np.concatenate(columns)
        ends = np.cumsum(lengths)
        begins = ends - lengths
        same = np.empty(len(flat), bool)
        np.equal(flat[1:], flat[:-1], out=same[1:])
        seen = self._seen[places]
        same[begins] = (flat[begins] == self._last[places]) & seen
        self._last[places] = flat[ends - 1]
        self._seen[places] = True
        if not same.any():
            self._moved(places, lengths - ~seen)
            return []
        moving = ~np.logical_or.reduceat(same, begins)
        self._moved(places[moving], (lengths - ~seen)[moving])
        others = np.flatnonzero(~moving)
        pieces = [same[a:b] for a, b in zip(begins[others], ends[others], strict=True)]
        runs = _Runs(np.concatenate(pieces), lengths[others], ~seen[others])
        found = []
        for segment, standing in self._standing(runs, places[others]):
            column = int(others[segment])
            schema = self._schemas[places[column]]
            rows = standing
            if schema.codes:
                rows = rows[schema.code_of(columns[column][rows].view(np.int64)) < 0]
            if len(rows):
                found.append((column, rows))
        return found

    def _moved(self, places: NDArray[np.intp], changes: Int64) -> None:
        """All samples of these differed from the ones before, so many times."""
        changes = self._changes[places] + changes
        self._equal[places] = 0
        self._changes[places] = changes
        self._armed[places] |= changes >= _COUNTS

    def _standing(self, runs: "_Runs", places: NDArray[np.intp]) -> Iterator[tuple[int, Rows]]:
        """What stands still of some counters: segments, and the places in each."""
        equal = runs.of(runs.same, self._equal[places])
        changes = runs.of(~runs.same & ~runs.first, self._changes[places])
        counted = np.where(changes >= _COUNTS, runs.index, _FAR)
        armed_at = np.where(self._armed[places], -1, np.minimum.reduceat(counted, runs.begins))
        self._equal[places] = equal[runs.ends - 1]
        self._changes[places] = changes[runs.ends - 1]
        self._armed[places] |= armed_at < _FAR
        at = np.flatnonzero((equal >= _STUCK - 1) & (runs.index > armed_at[runs.segment]))
        if not len(at):
            return
        segments, firsts = np.unique(runs.segment[at], return_index=True)
        for segment, mine in zip(segments.tolist(), np.split(at, firsts[1:]), strict=True):
            yield segment, runs.index[mine]


class _Runs:
    """Runs in segments that are laid end to end."""

    def __init__(self, same: NDArray[np.bool_], lengths: Int64, fresh: NDArray[np.bool_]) -> None:
        self.same = same
        self.ends = np.cumsum(lengths)
        self.begins = self.ends - lengths
        self.segment = np.repeat(np.arange(len(lengths)), lengths)
        self.index = np.arange(len(same)) - self.begins[self.segment]
        """The place of each in its segment."""
        self.first = fresh[self.segment] & (self.index == 0)
        """The very first sample, which has none before it."""

    def of(self, on: NDArray[np.bool_], before: Int64) -> Int64:
        """How many in a row are on up to each one; `before` each segment there were so many."""
        # The last place in the segment that is not on: segments are far enough apart.
        off = self.segment * _FAR + np.where(on, 0, self.index + 1)
        last_off = np.maximum.accumulate(off) - self.segment * _FAR
        run: Int64 = self.index + 1 - last_off
        return np.where(last_off == 0, run + before[self.segment], run)
