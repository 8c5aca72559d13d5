"""Rows that a trigger may still ask for: in memory, bounded, each given away at most once."""

import collections
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Int64
from agent.collect.rows import Rows, owned, take, times
from agent.collect.trigger import Window


class _Held(NamedTuple):
    rows: Rows
    newest: int
    nbytes: int


def within(moments: Int64, windows: Sequence[Window]) -> NDArray[np.bool_]:
    """bool[n]: which times lie in any of the windows."""
    found = np.zeros(len(moments), bool)
    for window in windows:
        found |= (moments >= window.first) & (moments <= window.last)
    return found


class Ring:
    """The rows of one campaign that no window has wanted so far, in the order of their coming."""

    def __init__(self, bound: int) -> None:
        """`bound` in bytes of the arrays."""
        self.bound = bound
        self.nbytes = 0
        self.held = 0
        """Samples that wait."""
        self.lost_until: int | None = None
        """The newest time of which rows had to go because of the bound; None for none."""
        self._rows: collections.deque[_Held] = collections.deque()

    def take(self, rows: Sequence[Rows], windows: Sequence[Window]) -> list[Rows]:
        """The rows inside the windows, among these and those that wait; all others wait."""
        wanted: list[Rows] = []
        if windows:
            first = min(w.first for w in windows)
            waiting, self._rows = self._rows, collections.deque()
            self.nbytes = self.held = 0
            for held in waiting:
                if held.newest < first:
                    self._put(held)
                else:
                    self._sort(held.rows, windows, wanted)
        for each in rows:
            if windows:
                self._sort(each, windows, wanted)
            else:
                self._put(_held(owned(each)))
        return wanted

    def _sort(self, rows: Rows, windows: Sequence[Window], wanted: list[Rows]) -> None:
        inside = within(times(rows), windows)
        if inside.any():
            wanted.append(take(rows, inside))
        if not inside.all():
            self._put(_held(owned(take(rows, ~inside))))

    def _put(self, held: _Held) -> None:
        self._rows.append(held)
        self.nbytes += held.nbytes
        self.held += held.rows.samples

    def forget(self, before: int) -> int:
        """Let go of rows that are older, and of the oldest beyond the bound; how many samples."""
        gone = 0
        while self._rows and (self._rows[0].newest < before or self.nbytes > self.bound):
            held = self._rows.popleft()
            if held.newest >= before:
                self.lost_until = max(held.newest, self.lost_until or held.newest)
            gone += held.rows.samples
            self.nbytes -= held.nbytes
        self.held -= gone
        return gone

    def all(self) -> list[Rows]:
        return [held.rows for held in self._rows]


def _held(rows: Rows) -> _Held:
    return _Held(rows, int(times(rows).max()), rows.nbytes)
