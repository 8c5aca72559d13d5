"""What windows can be in a span.

A window lies within all values since a while: those of two periods, each as long as the window or
longer, of which the older is dropped when the newer is full.
"""

import numpy as np

from agent.blocks import Float64, Int64
from agent.clock import SECOND
from agent.collect.evaluate.hull import Bools, Hull
from agent.collect.evaluate.program import Program
from agent.collect.evaluate.span import Span
from agent.collect.evaluate.state import Memory
from agent.collect.evaluate.windows import MAX_SAMPLES
from agent.collect.expression.tree import Window

_SLACK = 1e-9
"""Relative; means and rates are off by far less."""


class WindowBounds:
    def __init__(self, program: Program) -> None:
        rows = [
            (place, program.number_parts[place][0], node.duration_ns, node.name)
            for place, node in enumerate(program.numbers)
            if isinstance(node, Window)
        ]
        self._slots = len(program.signals)
        self._place = np.array([r[0] for r in rows], np.intp)
        self._slot = np.array([r[1] for r in rows], np.intp)
        self._duration = np.array([r[2] for r in rows], np.int64)
        names = np.array([r[3] for r in rows], "U8")
        self._mean, self._delta = names == "mean", names == "delta"
        self._counts = np.flatnonzero(names == "count").tolist()
        self._rates = np.flatnonzero(names == "rate").tolist()
        self._offset = np.array([abs(float(program.signals[r[1]].schema.offset)) for r in rows])
        self._began: Int64 = np.zeros(len(rows), np.int64)
        self._empty = (np.full(len(rows), np.inf), np.full(len(rows), -np.inf))
        self._older = self._newer = self._empty

    def remember(self, memory: Memory) -> None:
        """All that is held becomes the older period at the next look."""
        low, high = (end.copy() for end in self._empty)
        for number, slot in enumerate(self._slot.tolist()):
            values = memory.histories.of[slot].values
            if len(values):
                low[number], high[number] = values.min(), values.max()
        self._older, self._newer = self._empty, (low, high)
        self._began = np.full(len(self._slot), np.iinfo(np.int64).min // 2)

    def look(
        self, memory: Memory, span: Span, hull: Hull, into: tuple[Float64, Float64, Bools]
    ) -> None:
        if not len(self._place):
            return
        slot, duration = self._slot, self._duration
        full = span.begin - self._began >= duration
        self._older = _either(full, self._newer, self._older)
        self._newer = _either(full, self._empty, self._newer)
        self._began = np.where(full, span.begin, self._began)
        self._add(hull)
        low = np.minimum(self._older[0], self._newer[0])
        high = np.maximum(self._older[1], self._newer[1])
        slack = _SLACK * (np.maximum(np.abs(low), np.abs(high)) + self._offset)
        reach = high - low
        low, high = (
            np.where(self._delta, -reach, np.where(self._mean, low - slack, low)),
            np.where(self._delta, reach, np.where(self._mean, high + slack, high)),
        )
        unknown = memory.base.valid_time[slot] + duration <= span.end
        for number in self._counts:
            low[number], high[number] = self._count(memory, span, number)
            unknown[number] = False
        for number in self._rates:
            most, unknown[number] = self._rate(memory, span, number, float(reach[number]))
            low[number], high[number] = -most, most
        odd = ~(np.isfinite(low) & np.isfinite(high))
        into[0][self._place] = np.where(odd, -np.inf, low)
        into[1][self._place] = np.where(odd, np.inf, high)
        into[2][self._place] = unknown | odd

    def reach(self) -> dict[int, tuple[float, float]]:
        low = np.minimum(self._older[0], self._newer[0]).tolist()
        high = np.maximum(self._older[1], self._newer[1]).tolist()
        return dict(zip(self._place.tolist(), zip(low, high, strict=True), strict=True))

    def note(self, slots: Int64, low: Float64, high: Float64) -> None:
        lows, highs = np.full(self._slots, np.inf), np.full(self._slots, -np.inf)
        lows[slots], highs[slots] = low, high
        self._newer = (
            np.minimum(self._newer[0], lows.take(self._slot)),
            np.maximum(self._newer[1], highs.take(self._slot)),
        )

    def _add(self, hull: Hull) -> None:
        here = hull.touched[self._slot] & hull.known[self._slot]
        low = np.where(here, hull.low[self._slot], np.inf)
        high = np.where(here, hull.high[self._slot], -np.inf)
        self._newer = np.minimum(self._newer[0], low), np.maximum(self._newer[1], high)

    def _count(self, memory: Memory, span: Span, number: int) -> tuple[int, int]:
        slot, duration = int(self._slot[number]), int(self._duration[number])
        time = memory.histories.of[slot].time
        now, staying, oldest = np.searchsorted(
            time, (span.begin, span.end - duration, span.begin - duration), "right"
        ).tolist()
        return min(max(now - staying, 0), MAX_SAMPLES), min(len(time) - oldest, MAX_SAMPLES)

    def _rate(self, memory: Memory, span: Span, number: int, reach: float) -> tuple[float, bool]:
        """The greatest rate, up or down, and whether it can be unknown."""
        slot, duration = int(self._slot[number]), int(self._duration[number])
        time = memory.histories.of[slot].time
        now, staying = np.searchsorted(time, (span.begin, span.end - duration), "right").tolist()
        lasted = int(time[now - 1] - time[staying]) if now > staying else 0
        if lasted <= 0 or len(time) > MAX_SAMPLES:
            return np.inf, True
        return reach / (lasted / SECOND) * (1 + _SLACK), False


def _either(
    which: Bools, a: tuple[Float64, Float64], b: tuple[Float64, Float64]
) -> tuple[Float64, Float64]:
    return np.where(which, a[0], b[0]), np.where(which, a[1], b[1])
