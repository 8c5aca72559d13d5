"""The valid samples of signals that windows still look at."""

import collections
import functools
import itertools
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, Int64, SignalSchema
from agent.clock import SECOND

MAX_SAMPLES = 1 << 20
"""How many samples a window has at most: beyond, the oldest are dropped and counted."""
_LEAST_ROOM = 256
_MAX_NOTED, _MAX_NOTED_SAMPLES = 64, 1 << 17
"""Beyond, what was noted is looked at."""
_SHORT_SUM_BITS = 62 - 20
"""Raw values of so many bits: MAX_SAMPLES of them can be summed in 63."""
_LOW = np.int64(0xFFFF_FFFF)
_FEW = 1 << 16
"""With so many values to look at in all, windows are reduced one by one."""


class Noted:
    """Samples of some slots in a span, slot by slot."""

    def __init__(self, slots: Int64, edges: Int64, time: Int64, raw: NDArray[Any]) -> None:
        """Take samples; `edges`, int64[slots + 1], are where those of each slot begin."""
        self._slots, self._edges = slots, edges
        self._time, self._raw = time, raw

    def __len__(self) -> int:
        return len(self._time)

    def extremes(self) -> tuple[Int64, Float64, Float64]:
        """Slots, with the least and greatest raw value of each; NaN where there is one."""
        begins = self._edges[:-1]
        least = np.minimum.reduceat(self._raw, begins).astype(np.float64)
        return self._slots, least, np.maximum.reduceat(self._raw, begins).astype(np.float64)

    @functools.cached_property
    def _places(self) -> dict[int, tuple[int, int]]:
        pairs = itertools.pairwise(self._edges.tolist())
        return dict(zip(self._slots.tolist(), pairs, strict=True))

    def of(self, slot: int) -> tuple[Int64, NDArray[Any]] | None:
        """Times, and raw values: int64 (unsigned ones as their bits) or float64."""
        place = self._places.get(slot)
        return None if place is None else (self._time[slice(*place)], self._raw[slice(*place)])


class Histories:
    """What windows look at.

    Samples that come are only noted, and looked at when somebody asks or when there are many: most
    blocks are decided without, and what no window sees any more is dropped as it is.
    """

    def __init__(self) -> None:
        self.of: dict[int, History] = {}
        """By slot."""
        self.dropped = 0
        """How much of what was noted is no longer there."""
        self.decided_until: int | None = None
        self._noted: collections.deque[tuple[int, Noted]] = collections.deque()
        """With the end of the span."""
        self._samples = 0
        self._longest = 0

    def add(self, slot: int, schema: SignalSchema, duration_ns: int) -> None:
        """Hold the samples of a slot for its longest window."""
        self.of[slot] = History(slot, schema, duration_ns, self)
        self._longest = max(self._longest, duration_ns)

    @property
    def overflown(self) -> int:
        return sum(history.overflown for history in self.of.values())

    @property
    def noted(self) -> int:
        """How often something was noted."""
        return self.dropped + len(self._noted)

    def since(self, known: int) -> Iterable[Noted]:
        """What was noted after the first `known` times, and is still there."""
        return (of for _, of in itertools.islice(self._noted, max(known - self.dropped, 0), None))

    def note(self, end: int, noted: Noted) -> None:
        """Add samples of a span, valid or not, that are not older than those before."""
        self._noted.append((end, noted))
        self._samples += len(noted)

    def decided(self, time: int) -> None:
        """No window before `time` is looked at any more."""
        self.decided_until = time
        if len(self._noted) >= _MAX_NOTED or self._samples >= _MAX_NOTED_SAMPLES:
            self.settle()
        else:
            self._drop(time - self._longest)

    def settle(self) -> None:
        """Look at all that was noted, and forget what no window can see any more."""
        if self.decided_until is not None:
            for history in self.of.values():
                history.catch_up(self.decided_until)
            self._drop(self.decided_until)

    def _drop(self, until: int) -> None:
        while self._noted and self._noted[0][0] <= until:
            self._samples -= len(self._noted.popleft()[1])
            self.dropped += 1


class History:
    """Samples of a slot in the order of time, in arrays that grow; the oldest leave in front."""

    def __init__(
        self, slot: int, schema: SignalSchema, duration_ns: int, histories: Histories
    ) -> None:
        self._slot = slot
        self._histories = histories
        self._known = 0
        """How much of what was noted is looked at."""
        self._schema = schema
        self._duration_ns = duration_ns
        """The longest window."""
        self._first = self._last = 0
        self._arrays: tuple[Int64, Float64, Int64] = _room(0)
        self._overflown = 0

    @property
    def overflown(self) -> int:
        """How many samples were dropped though a window should have them."""
        self._settle()
        return self._overflown

    @property
    def time(self) -> Int64:
        self._settle()
        return self._arrays[0][self._first : self._last]

    @property
    def values(self) -> Float64:
        """Physical values; none is NaN."""
        self._settle()
        return self._arrays[1][self._first : self._last]

    @property
    def raw(self) -> Int64:
        """Of floats, the bits."""
        self._settle()
        return self._arrays[2][self._first : self._last]

    def catch_up(self, time: int) -> None:
        """Look at all that was noted; forget what no window after `time` can see."""
        self._settle()
        self._forget(time)

    def _settle(self) -> None:
        histories = self._histories
        if self._known == histories.noted:
            return
        new = histories.since(self._known)
        found = [piece for noted in new if (piece := noted.of(self._slot)) is not None]
        self._known = histories.noted
        if not found:
            return
        time = np.concatenate([t for t, _ in found])
        raw = as_kind(np.concatenate([r for _, r in found]), self._schema)
        values = values_of(self._schema, raw)
        valid = ~np.isnan(values)
        if histories.decided_until is not None:
            self._forget(histories.decided_until)
        if valid.all():
            self.append(time, values, raw)
        else:
            self.append(time[valid], values[valid], raw[valid])

    def append(self, time: Int64, values: Float64, raw: NDArray[Any]) -> None:
        """Add valid samples that are not older than those before."""
        n, m = len(time), self._last - self._first
        if self._last + n > len(self._arrays[0]):
            kept = [array[self._first : self._last] for array in self._arrays]
            self._arrays = _room(max(_LEAST_ROOM, 2 * (m + n)))
            for array, old in zip(self._arrays, kept, strict=True):
                array[:m] = old
            self._first, self._last = 0, m
        a, b = self._last, self._last + n
        for array, new in zip(self._arrays, (time, values, raw.view(np.int64)), strict=True):
            array[a:b] = new
        self._last = b

    def _forget(self, time: int) -> None:
        """Drop what no window after `time` can see, and what is beyond the limit."""
        times = self._arrays[0][self._first : self._last]
        self._first += int(np.searchsorted(times, time - self._duration_ns, "right"))
        # Of the samples until then, at most so many can still be in a window.
        beyond = int(np.searchsorted(times, time, "right")) - (len(times) - self._size)
        beyond -= MAX_SAMPLES
        if beyond > 0:
            self._overflown += beyond
            self._first += beyond

    @property
    def _size(self) -> int:
        return self._last - self._first

    def moments(self, duration_ns: int, begin: int, end: int) -> Int64:
        """When samples come or leave a window in (begin, end], in order, behind `begin`."""
        time = self.time
        come = time[np.searchsorted(time, begin, "right") :]
        a, b = np.searchsorted(time, (begin - duration_ns, end - duration_ns), "right")
        both = np.concatenate(([begin], come, time[a:b] + duration_ns))
        both.sort(kind="stable")
        new = np.empty(len(both), bool)
        new[0] = True
        np.not_equal(both[1:], both[:-1], out=new[1:])
        return both[new]

    def look(self, name: "Name", duration_ns: int, at: Int64) -> Float64:
        """What the window says at each time, float64[n]; NaN is unknown."""
        time = self.time
        ends = np.searchsorted(time, at, "right")
        begins = np.maximum(np.searchsorted(time, at - duration_ns, "right"), ends - MAX_SAMPLES)
        counts = ends - begins
        if name == "count":
            return counts.astype(np.float64)
        found = np.full(len(at), np.nan)
        some = counts > 0
        if not some.any():
            return found
        a, b = begins[some], ends[some]
        found[some] = self._of_samples(name, a, b)
        return found

    def _of_samples(self, name: "Name", a: Int64, b: Int64) -> Float64:
        values = self.values
        if name == "min":
            return _extreme(np.minimum, values, a, b)
        if name == "max":
            return _extreme(np.maximum, values, a, b)
        if name == "mean":
            return self._mean(a, b)
        delta: Float64 = values[b - 1] - values[a]
        if name == "rate":
            lasted = self.time[b - 1] - self.time[a]
            delta = np.where(lasted > 0, delta / (lasted / SECOND), np.nan)
        return delta

    def _mean(self, a: Int64, b: Int64) -> Float64:
        schema = self._schema
        counts = b - a
        if schema.kind.startswith("float"):
            return _reduced(np.add, self.values, a, b) / counts
        first = int(a[0])
        raw = self.raw[first : int(b[-1])]
        if schema.bits <= _SHORT_SUM_BITS:
            sums = _sums(raw, a - first, b - first).astype(np.float64)
        else:
            # In two halves no sum is beyond 2**53, and only their sum is rounded.
            high = raw >> 32 if schema.kind == "int64" else (raw.view(np.uint64) >> np.uint64(32))
            upper = _sums(high.astype(np.int64), a - first, b - first)
            lower = _sums(raw & _LOW, a - first, b - first)
            sums = upper.astype(np.float64) * 2.0**32 + lower
        means: Float64 = sums / counts * float(schema.scale) + float(schema.offset)
        return means


Name = Literal["min", "max", "mean", "count", "delta", "rate"]


def as_kind(raw: NDArray[Any], schema: SignalSchema) -> NDArray[Any]:
    """Raw values as they are held, as numbers of the signal's own kind (float32 as float64)."""
    if schema.kind == "int64":
        return raw
    return raw.view("float64" if schema.kind == "float32" else schema.kind)


def values_of(schema: SignalSchema, raw: NDArray[Any], physical: Float64 | None = None) -> Float64:
    """Physical values, NaN where they are unknown; `physical` is changed if it is given."""
    values = schema.physical(raw) if physical is None else physical
    if schema.codes:
        values[schema.validity(raw) != 0] = np.nan
    return values


def _room(n: int) -> tuple[Int64, Float64, Int64]:
    return np.empty(n, np.int64), np.empty(n, np.float64), np.empty(n, np.int64)


def _sums(values: Int64, a: Int64, b: Int64) -> Int64:
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=sums[1:])
    return sums[b] - sums[a]


def _reduced(ufunc: np.ufunc, values: Float64, a: Int64, b: Int64) -> Float64:
    """Of values[a:b] for each; none is empty, and neither a nor b falls."""
    first = int(a[0])
    edges = np.empty(2 * len(a), np.int64)
    edges[::2] = a - first
    edges[1::2] = b - first
    # reduceat takes no end behind the last value, so one more stands there.
    looked_at = np.append(values[first : int(b[-1])], 0.0)
    reduced: Float64 = ufunc.reduceat(looked_at, edges)[::2]
    return reduced


def _extreme(ufunc: np.ufunc, values: Float64, a: Int64, b: Int64) -> Float64:
    """The least or greatest of values[a:b] for each; none is empty."""
    lengths = b - a
    if int(lengths.sum()) <= max(_FEW, 4 * len(values)):
        return _reduced(ufunc, values, a, b)
    # Stretches of 2**k values, for rising k; two of them cover any window.
    first = int(a[0])
    a, b, table = a - first, b - first, values[first : int(b[-1])]
    power = np.frexp(lengths)[1] - 1
    found = np.empty(len(a))
    for k in range(int(power.max()) + 1):
        mine = power == k
        found[mine] = ufunc(table[a[mine]], table[b[mine] - (1 << k)])
        table = ufunc(table[: -(1 << k)], table[1 << k :]) if len(table) > 1 << k else table
    return found
