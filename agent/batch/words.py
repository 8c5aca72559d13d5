"""Whole numbers as bytes that pack well, and back: what the records of a batch share.

Differences are zigzag coded, stored in the narrowest of 0, 1, 2, 4 or 8 bytes that holds them all,
and their bytes laid in planes: all lowest bytes first, because neighbours then resemble each other.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Int64, UInt8, UInt64
from agent.errors import BatchError

WIDTHS = (1, 2, 4, 8)
_LIMITS = np.array([0, 0xFF, 0xFFFF, 0xFFFF_FFFF], np.uint64)
_WIDTH_OF_CLASS = np.array([0, 1, 2, 4, 8], np.uint8)


def zigzag(words: UInt64) -> UInt64:
    signed = words.view(np.int64)
    return ((signed << 1) ^ (signed >> 63)).view(np.uint64)


def unzigzag(words: UInt64) -> UInt64:
    return (words >> np.uint64(1)) ^ (np.uint64(0) - (words & np.uint64(1)))


def width_of(largest: NDArray[np.uint64]) -> UInt8:
    """How many bytes hold numbers up to `largest`: 0, 1, 2, 4 or 8."""
    return _WIDTH_OF_CLASS[np.searchsorted(_LIMITS, largest)]


def planes(values: UInt64, lengths: Int64, width: int) -> bytes:
    """Columns one behind the other, `lengths` long each, as `width` byte planes a column."""
    narrow = values.astype(f"<u{width}")
    if width == 1:
        return narrow.tobytes()
    digits = narrow.view(np.uint8).reshape(-1, width)
    # Byte b of value i of a column lies at the column's begin + b * its length + i.
    begins = np.cumsum(lengths) - lengths
    at = np.arange(len(values)) + np.repeat(begins * (width - 1), lengths)
    step = np.repeat(lengths, lengths)
    laid = np.empty(digits.size, np.uint8)
    for b in range(width):
        laid[at] = digits[:, b]
        at += step
    return laid.tobytes()


def from_planes(data: memoryview, k: int, n: int, width: int) -> UInt64:
    """Columns (k) of n numbers each, uint64[k, n]."""
    if width == 1:
        return np.frombuffer(data, np.uint8).reshape(k, n).astype(np.uint64)
    laid = np.frombuffer(data, np.uint8).reshape(k, width, n).transpose(0, 2, 1)
    narrow = np.ascontiguousarray(laid).view(f"<u{width}").reshape(k, n)
    return narrow.astype(np.uint64)


def column(values: UInt64) -> bytes:
    """One column: its width, then its byte planes."""
    width = int(width_of(values.max(initial=0)))
    if width == 0:
        return b"\0"
    return bytes([width]) + planes(values, np.array([len(values)]), width)


def whole(value: Any, least: int, most: int, what: str) -> int:
    """A whole number from outside; `what` as in `Cursor`.

    Raises:
        TypeError: it is none.
        BatchError: it is out of bounds.
    """
    if type(value) is not int:
        raise TypeError(f"{value!r} is no whole number")
    if not least <= value <= most:
        raise BatchError(f"{what} says impossible sizes")
    return value


class Cursor:
    """Takes pieces of a byte string in turn, and never beyond its end."""

    def __init__(self, data: bytes, what: str) -> None:
        """`what` names the record for a person who reads that it is damaged."""
        self._data = memoryview(data)
        self._at = 0
        self.what = what

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> memoryview:
        piece = self._data[self._at : self._at + size]
        if len(piece) != size:
            raise BatchError(f"{self.what} is shorter than it says")
        self._at += size
        return piece

    def widths(self, count: int) -> UInt8:
        width = np.frombuffer(self.take(count), np.uint8)
        if not np.isin(width, _WIDTH_OF_CLASS).all():
            raise BatchError(f"{self.what} has columns of an impossible width")
        return width

    def column(self, n: int) -> UInt64:
        """What `column` gave, uint64[n]."""
        width = int(self.widths(1)[0])
        if width == 0:
            return np.zeros(n, np.uint64)
        return from_planes(self.take(n * width), 1, n, width).reshape(n)

    def end(self) -> None:
        if self.left:
            raise BatchError(f"{self.what} is longer than it says")
