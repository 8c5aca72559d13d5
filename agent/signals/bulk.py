"""All messages of a block at once, where their layout is fixed.

Each step is made for many values by one call into NumPy, and as few passes over memory as may be,
for a call costs about a microsecond whatever it does, and a step does little with a value:

    bits  = word << left            a signal's highest bit at bit 63
    value = bits >> right           logical for unsigned, arithmetic for signed

Messages come together in two ways, so that few calls do it:

- A `Family` is of one layout: one message with many rows, or several whose signals lie alike, such
  as those of a battery's cells. It is decoded like one message with the rows of all, signal by
  signal, without the steps that change nothing.
- A `Group` is of any layouts with about equal row counts. Payload words are gathered into a matrix
  of one row a message and byte order, and each step is one call for all signals, or for all
  messages that have equally many. Rows are as long as the longest message; what lies behind a
  shorter one's end is not looked at. The shift left reads each word where it is needed, as a matrix
  of copies would be a pass more; members are put in an order in which those of one shape lie
  together.

Tables get views of the matrix. The matrix of physical values is made when somebody first asks for
one, again for all signals together.

An operand that is the same for a whole row, as the shifts and scales of a group are, NumPy copies
into a buffer that is as long as some rows together, at the cost of a pass (numpy issue 17471). It
does not where a row is longer than the buffer. So the buffer is made as small as it can be while
long rows are worked on; nothing is converted in these calls, so nothing else needs it.
"""

import contextlib
import ctypes
import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, Int64, Kind, SignalSchema, UInt64

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_KEPT_BYTES = 32 << 20
_UNBUFFERED = 128
"""From this many rows on, a row's own loop costs less than copies of its shift or scale."""
_LEAST_BUFFER = 16
"""The smallest that NumPy allows."""
_ALL_BITS = np.uint64(2**64 - 1)
_CALL = 8192
"""A call for a run of messages costs as much as copying this many words once more."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """A message of classic frames that can be decoded in bulk.

    `signals` are the int64 ones, then the uint64 ones; `big_endian`, `left` and `right` say the
    byte order and the shifts of each.
    """

    signals: tuple[SignalSchema, ...]
    signed: int
    """How many of them are int64."""
    big_endian: NDArray[np.bool_]
    left: UInt64
    right: UInt64

    @functools.cached_property
    def plain(self) -> bool:
        """Whether float arithmetic gives the physical values of all of them."""
        return not any(s.needs_whole_arithmetic for s in self.signals)

    @functools.cached_property
    def below_sign_bit(self) -> bool:
        """Whether the highest bit of all uint64 values is 0."""
        return all(s.bits < 64 for s in self.signals[self.signed :])

    @functools.cached_property
    def scale(self) -> Float64:
        return np.array([s.scale for s in self.signals], np.float64)

    @functools.cached_property
    def offset(self) -> Float64:
        return np.array([s.offset for s in self.signals], np.float64)

    @functools.cached_property
    def shape(self) -> tuple[int, int, bytes]:
        """Equal where rows are made of words in the same way."""
        return self.signed, len(self.signals), self.big_endian.tobytes()

    @functools.cached_property
    def key(self) -> tuple[Any, ...]:
        """Equal where one can be decoded and scaled as the other."""
        arrays = (self.left, self.right, self.scale, self.offset)
        return (*self.shape, *(array.tobytes() for array in arrays), self.plain)


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library keep some freed memory instead of giving it back at once.

    The matrices of a block are made and freed many times a second. By default glibc returns arrays
    of their size to the kernel, and every page of the next one is faulted in anew: several times
    the cost of decoding. Without glibc nothing changes.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


_Place = tuple[slice | None, slice | None, bool]
"""Rows of the int64 and of the uint64 signals, and whether they are `plain`."""


class _Source(Protocol):
    def physical(self, signed: Int64, unsigned: UInt64) -> Float64:
        """A matrix of physical values from one of raw values, given twice."""
        ...


class Matrix:
    """The values of a family or group: raw ones, and physical ones once asked for."""

    def __init__(self, source: _Source, bits: UInt64) -> None:
        self._source = source
        self.unsigned = bits
        self.signed: Int64 = bits.view(np.int64)

    @functools.cached_property
    def physical(self) -> Float64:
        """All of them, float64[signals, rows]."""
        with np.errstate(all="ignore"):  # as SignalSchema.physical
            return self._source.physical(self.signed, self.unsigned)


class Rows:
    """Where a table's values lie in a matrix; its `physical` values, as `blocks.Scaled` says."""

    __slots__ = ("_columns", "_matrix", "_place")

    def __init__(self, matrix: Matrix, place: _Place, columns: slice) -> None:
        self._matrix = matrix
        self._place = place
        self._columns = columns

    def values(self) -> dict[Kind, NDArray[Any]]:
        """The raw values, as a table holds them."""
        int64, uint64, _ = self._place
        if int64 is None:
            return {"uint64": self._matrix.unsigned[uint64, self._columns]}
        values: dict[Kind, NDArray[Any]] = {"int64": self._matrix.signed[int64, self._columns]}
        if uint64 is not None:
            values["uint64"] = self._matrix.unsigned[uint64, self._columns]
        return values

    def physical(self, kind: Kind) -> Float64 | None:
        """float64[signals of that kind, n]; None where one must be made from raw values."""
        int64, uint64, plain = self._place
        if not plain:
            return None
        return self._matrix.physical[int64 if kind == "int64" else uint64, self._columns]


class Family:
    """Messages of one layout, decoded as one."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        layout = self._layout = layouts[0]
        signed = layout.signed
        int64 = slice(0, signed) if signed else None
        uint64 = slice(signed, len(layout.signals)) if signed < len(layout.signals) else None
        self._place: _Place = (int64, uint64, layout.plain)
        self._scales = list(zip(layout.scale.tolist(), layout.offset.tolist(), strict=True))

    def take(self, words: UInt64, begins: Int64, counts: Int64) -> list[Rows]:
        """Decode, as `Group.take`."""
        ends = begins + counts
        if (begins[1:] == ends[:-1]).all():
            mine = words[begins[0] : ends[-1]]
        else:
            mine = np.concatenate(
                [words[a:b] for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
            )
        matrix = Matrix(self, self._decode(mine))
        edges = np.cumsum(counts).tolist()
        return [Rows(matrix, self._place, slice(a, b)) for a, b in itertools.pairwise([0, *edges])]

    def _decode(self, words: UInt64) -> UInt64:
        layout = self._layout
        bits = np.empty((len(layout.signals), len(words)), np.uint64)
        swapped = words.byteswap() if layout.big_endian.any() else words
        for row, out in enumerate(bits):
            word = swapped if layout.big_endian[row] else words
            left, right = layout.left[row], layout.right[row]
            if row < layout.signed:
                np.left_shift(word, left, out=out)
                whole = out.view(np.int64)
                np.right_shift(whole, right.view(np.int64), out=whole)
            elif left == right:  # the lowest bits
                np.bitwise_and(word, _ALL_BITS >> right, out=out)
            elif left:
                np.left_shift(word, left, out=out)
                np.right_shift(out, right, out=out)
            else:
                np.right_shift(word, right, out=out)
        return bits

    def physical(self, signed: Int64, unsigned: UInt64) -> Float64:
        values = np.empty(signed.shape, np.float64)
        whole = len(signed) if self._layout.below_sign_bit else self._layout.signed
        for row, (out, (scale, offset)) in enumerate(zip(values, self._scales, strict=True)):
            np.copyto(out, signed[row] if row < whole else unsigned[row])
            if scale != 1:
                np.multiply(out, scale, out=out)
            if offset != 0 or scale <= 0:  # adding 0 makes -0.0 what it is for cantools
                np.add(out, offset, out=out)
        return values


@dataclasses.dataclass(frozen=True, slots=True)
class _Run:
    """Neighbouring rows that are made of neighbouring pairs, equally many of each."""

    rows: slice
    pairs: slice
    left: UInt64
    """uint64[pairs, rows of each, 1]"""


class Group:
    """Messages of any layouts with about equal row counts, decoded together."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        order = sorted(range(len(layouts)), key=lambda member: layouts[member].shape)
        ordered = [layouts[member] for member in order]
        self._signed = sum(la.signed for la in ordered)
        parts = [(la, i, slice(0, la.signed)) for i, la in enumerate(ordered)]
        parts += [(la, i, slice(la.signed, None)) for i, la in enumerate(ordered)]
        # The big-endian pairs come last.
        n = len(ordered)
        pairs, self._pair = np.unique(
            np.concatenate([la.big_endian[s] * n + i for la, i, s in parts]), return_inverse=True
        )
        self._member = np.array(order)[pairs % n]
        self._little_endian = int((pairs < n).sum())
        self._left = np.concatenate([la.left[s] for la, _, s in parts])[:, None]
        self._right = np.concatenate([la.right[s] for la, _, s in parts])[:, None]
        self._runs = self._find_runs()
        scale = np.concatenate([la.scale[s] for la, _, s in parts])[:, None]
        offset = np.concatenate([la.offset[s] for la, _, s in parts])[:, None]
        # Converting int64 is cheaper than uint64, and the same where the highest bit is 0.
        self._below_sign_bit = all(la.below_sign_bit for la in ordered)
        self._scale = None if (scale == 1).all() else scale
        # Adding 0 matters to a product of -0.0 alone.
        self._offset = None if (offset == 0).all() and (scale > 0).all() else offset
        places: dict[int, _Place] = {}
        at, behind = 0, self._signed
        for member, la in zip(order, ordered, strict=True):
            more = len(la.signals) - la.signed
            int64 = slice(at, at + la.signed) if la.signed else None
            uint64 = slice(behind, behind + more) if more else None
            places[member] = (int64, uint64, la.plain)
            at, behind = at + la.signed, behind + more
        self._places = [places[member] for member in range(len(layouts))]

    def _find_runs(self) -> list[_Run]:
        begins = np.flatnonzero(np.diff(self._pair, prepend=-1))  # where the next pair begins
        each = np.diff(begins, append=len(self._pair))
        pairs = self._pair[begins]
        goes_on = (each[1:] == each[:-1]) & (pairs[1:] == pairs[:-1] + 1)
        edges = [0, *(np.flatnonzero(~goes_on) + 1).tolist(), len(begins)]
        runs = []
        for a, b in itertools.pairwise(edges):
            first, row, n = int(pairs[a]), int(begins[a]), int(each[a])
            rows = slice(row, row + (b - a) * n)
            left = self._left[rows].reshape(b - a, n, 1)
            runs.append(_Run(rows, slice(first, first + b - a), left))
        return runs

    def take(self, words: UInt64, begins: Int64, counts: Int64) -> list[Rows]:
        """Decode.

        `words` are the payloads of a sorted block, read as little-endian: uint64[n]. `begins` and
        `counts` say where the frames of each member lie: int64[members] each.
        """
        longest = int(counts.max())
        at = begins[self._member][:, None] + np.arange(longest)
        gathered = words.take(at, mode="clip")
        gathered[self._little_endian :].byteswap(inplace=True)
        if longest < _UNBUFFERED:
            bits = self._decode(gathered)
        else:
            with np.errstate():  # which restores the buffer's size
                np.setbufsize(_LEAST_BUFFER)
                bits = self._decode(gathered)
        matrix = Matrix(self, bits)
        return [
            Rows(matrix, place, slice(n))
            for place, n in zip(self._places, counts.tolist(), strict=True)
        ]

    def _decode(self, gathered: UInt64) -> UInt64:
        """uint64[signals, rows]: the values; those of int64 signals as their bits."""
        signals, n = len(self._pair), gathered.shape[1]
        if len(self._runs) * _CALL <= signals * n:
            bits = np.empty((signals, n), np.uint64)
            for run in self._runs:
                out = bits[run.rows].reshape(len(run.left), -1, n)
                np.left_shift(gathered[run.pairs, None], run.left, out=out)
        else:
            bits = gathered.take(self._pair, axis=0)
            np.left_shift(bits, self._left, out=bits)
        signed = self._signed
        if signed:
            whole = bits[:signed].view(np.int64)
            np.right_shift(whole, self._right[:signed].view(np.int64), out=whole)
        if signed < signals:
            np.right_shift(bits[signed:], self._right[signed:], out=bits[signed:])
        return bits

    def physical(self, signed: Int64, unsigned: UInt64) -> Float64:
        values: Float64 = np.empty(signed.shape, np.float64)
        whole = len(signed) if self._below_sign_bit else self._signed
        np.copyto(values[:whole], signed[:whole])
        np.copyto(values[whole:], unsigned[whole:])
        if values.shape[1] >= _UNBUFFERED:
            np.setbufsize(_LEAST_BUFFER)  # until the errstate in Matrix.physical ends
        if self._scale is not None:
            np.multiply(values, self._scale, out=values)
        if self._offset is not None:
            np.add(values, self._offset, out=values)
        return values
