"""All messages of a block at once, where their layout is fixed.

A call into NumPy costs about a microsecond, whatever it does; a hundred messages of ten signals in
a block would cost thousands of them. So messages of about equal row counts are decoded together:
their payload words are gathered into a matrix of one row a message and byte order, that into one
row a signal, and then each step is one call for all of them:

    bits  = words[pair] << left            (signals, rows), a signal's highest bit at bit 63
    value = bits >> right                  logical for unsigned, arithmetic for signed

Rows are as long as the longest message of the group; what lies behind a shorter one's end is not
looked at. Tables get views of the matrix. The matrix of physical values is made when somebody first
asks for one, again for all signals together.
"""

import contextlib
import ctypes
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, Int64, Kind, SignalSchema, UInt64


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


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_KEPT_BYTES = 32 << 20
_LONG = 1000
"""From this many rows on, a call for each message costs less than moving its words once more."""


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


class Matrix:
    """The values of one group: raw ones, and physical ones once asked for."""

    def __init__(self, group: "Group", words: UInt64) -> None:
        self._group = group
        self.words = words

    @functools.cached_property
    def physical(self) -> Float64:
        """All of them, float64[signals, rows]."""
        group = self._group
        values = np.empty(self.words.shape, np.float64)
        signed = len(self.words) if group.below_sign_bit else group.signed
        np.copyto(values[:signed], self.words[:signed].view(np.int64))
        np.copyto(values[signed:], self.words[signed:])
        if group.scale is not None:
            values *= group.scale
        if group.offset is not None:
            values += group.offset
        return values


class Rows:
    """Where a table's signals lie in a matrix; its `physical` values, as `blocks.Scaled` says."""

    __slots__ = ("int64", "matrix", "n", "plain", "uint64")

    def __init__(self, matrix: Matrix, place: _Place, n: int) -> None:
        self.matrix = matrix
        self.int64, self.uint64, self.plain = place
        self.n = n

    def values(self) -> dict[Kind, NDArray[Any]]:
        """The raw values, as a table holds them."""
        values: dict[Kind, NDArray[Any]] = {}
        words = self.matrix.words
        if self.int64 is not None:
            values["int64"] = words[self.int64, : self.n].view(np.int64)
        if self.uint64 is not None:
            values["uint64"] = words[self.uint64, : self.n]
        return values

    def physical(self, kind: Kind) -> Float64 | None:
        """float64[signals of that kind, n]; None where one must be made from raw values."""
        rows = self.int64 if kind == "int64" else self.uint64
        return self.matrix.physical[rows, : self.n] if self.plain else None


class Group:
    """Messages that are decoded together."""

    def __init__(self, layouts: Sequence[Layout]) -> None:
        parts = [(layout, member) for member, layout in enumerate(layouts)]
        signed = [(la, m, slice(0, la.signed)) for la, m in parts]
        unsigned = [(la, m, slice(la.signed, len(la.signals))) for la, m in parts]
        self.signed = sum(la.signed for la in layouts)
        both = signed + unsigned
        order = np.concatenate([la.big_endian[s] for la, _, s in both])
        member = np.concatenate([np.full(len(la.signals[s]), m, np.intp) for la, m, s in both])
        pairs, self._pair = np.unique(2 * member + order, return_inverse=True)
        self._member = pairs // 2
        self._swapped = pairs % 2
        self.swaps = bool(self._swapped.any())
        """Whether any signal is big-endian."""
        self._left = np.concatenate([la.left[s] for la, _, s in both])[:, None]
        self._right = np.concatenate([la.right[s] for la, _, s in both])[:, None]
        schemas = [s for la, _, part in both for s in la.signals[part]]
        scale = np.array([[float(s.scale)] for s in schemas])
        offset = np.array([[float(s.offset)] for s in schemas])
        # Converting int64 is cheaper than uint64, and the same where the highest bit is 0.
        self.below_sign_bit = all(s.bits < 64 for s in schemas[self.signed :])
        self.scale = None if (scale == 1).all() else scale
        # Adding 0 matters to a product of -0.0 alone.
        self.offset = None if (offset == 0).all() and (scale > 0).all() else offset
        self._places: list[_Place] = []
        at, behind = 0, self.signed
        for la in layouts:
            more = len(la.signals) - la.signed
            int64 = slice(at, at + la.signed) if la.signed else None
            uint64 = slice(behind, behind + more) if more else None
            self._places.append((int64, uint64, la.plain))
            at, behind = at + la.signed, behind + more

    def take(self, words: UInt64, begins: Int64, counts: Int64) -> list[Rows]:
        """Decode.

        `words` are the payloads of a sorted block; where the group `swaps`, followed by the same
        byte-swapped.
        `begins` and `counts` say where the frames of each member lie: int64[members] each.
        """
        longest = int(counts.max())
        frames = len(words) // 2 if self.swaps else len(words)
        if longest >= _LONG:
            bits = self._one_by_one(words, begins, counts, longest)
        else:
            at = begins[self._member][:, None] + np.arange(longest)
            np.minimum(at, frames - 1, out=at)
            if self.swaps:
                at += self._swapped[:, None] * frames
            bits = words.take(at).take(self._pair, axis=0)
            np.left_shift(bits, self._left, out=bits)
        signed = self.signed
        if signed:
            whole = bits[:signed].view(np.int64)
            np.right_shift(whole, self._right[:signed].view(np.int64), out=whole)
        if signed < len(bits):
            np.right_shift(bits[signed:], self._right[signed:], out=bits[signed:])
        matrix = Matrix(self, bits)
        return [
            Rows(matrix, place, n) for place, n in zip(self._places, counts.tolist(), strict=True)
        ]

    def _one_by_one(self, words: UInt64, begins: Int64, counts: Int64, longest: int) -> UInt64:
        """The first of the two shifts, message by message, straight from the words."""
        bits = np.zeros((len(self._pair), longest), np.uint64)
        swapped = len(words) // 2 if self.swaps else 0
        edges = np.flatnonzero(np.diff(self._pair)) + 1
        for a, b in zip([0, *edges.tolist()], [*edges.tolist(), len(self._pair)], strict=True):
            pair = self._pair[a]
            n = int(counts[self._member[pair]])
            begin = int(begins[self._member[pair]] + self._swapped[pair] * swapped)
            np.left_shift(words[begin : begin + n], self._left[a:b], out=bits[a:b, :n])
        return bits
