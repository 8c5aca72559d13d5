"""Text recordings by array: pieces of lines, their tokens, and columns of tokens as numbers.

A piece is about a megabyte of whole lines as one array of bytes. Its tokens are two arrays, where
each starts and where it ends, and a third says which token is the first of a line. A column of a
format is then a gather: the same few steps for all lines at once, whatever their number.

The bytes of a piece stand between two margins of line ends, so that a window around any token lies
inside the array. A token that a line does not have is the empty one; no parser below takes an empty
token for a value, so a short line is a bad line without further checks.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from agent.blocks import Int64, UInt8
from agent.bus.logs.frames import Tally
from agent.bus.logs.source import Source

PIECE_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 16

Bool = NDArray[np.bool_]
Index = NDArray[np.intp]

_FRONT = 32
_BACK = 160
_DIGITS = 18
_NEWLINE, _RETURN, _COMMA, _DOT, _MINUS = 10, 13, 44, 46, 45
_POWERS = 10 ** np.arange(19, dtype=np.int64)

HEX = np.full(256, 255, np.uint8)
"""Character -> value of the hexadecimal digit, 255 where it is none."""
HEX[np.frombuffer(b"0123456789", np.uint8)] = np.arange(10)
HEX[np.frombuffer(b"abcdef", np.uint8)] = np.arange(10, 16)
HEX[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)


@dataclasses.dataclass(slots=True)
class Piece:
    """Whole lines and their tokens.

    text uint8; line[i] the line end before line i; start, end of the tokens, with the empty token
    as the last; first[i] the first token of line i, count[i] how many it has.
    """

    text: UInt8
    number: int
    whole: bool
    line: Index
    start: Index
    end: Index
    first: Index
    count: Index

    def token(self, rows: Index, column: int | Index) -> tuple[Index, Index]:
        """Start and end of a token of each of these lines; empty where a line has fewer."""
        where = np.where(column < self.count[rows], self.first[rows] + column, len(self.start) - 1)
        return self.start[where], self.end[where]

    def is_cut(self, row: int) -> bool:
        """The last line of the file, where no line end says that it is all there."""
        return not self.whole and row == len(self.count) - 1

    def content(self, row: int) -> bytes:
        """A line for a look at its words; a header is parsed one by one."""
        begin = int(self.line[row]) + 1
        return self.text[begin : min(int(self.line[row + 1]), begin + 512)].tobytes().strip()

    def report(self, rows: Index, what: str, tally: Tally) -> None:
        """Count these lines as skipped; `what` says what they are not."""
        for row in rows[:10].tolist():
            cut = self.is_cut(row)
            tally.note("cut in mid-line, skipped" if cut else what, self.number + row)
        tally.bad += len(rows)


def pieces(source: Source, tally: Tally, *, commas: bool = False) -> Iterator[Piece]:
    """The file in pieces of whole lines, tokens separated by white space or by commas."""
    make = _split_commas if commas else _split_space
    carry = b""
    number = 1
    skipping = False
    while chunk := source.read(PIECE_BYTES):
        rest = chunk
        if skipping:
            end = rest.find(b"\n")
            if end < 0:
                continue
            rest = rest[end + 1 :]
            number += 1
            skipping = False
        lines = carry + rest
        cut = lines.rfind(b"\n") + 1
        carry = lines[cut:]
        if cut:
            piece = make(lines[:cut], number, whole=True)
            number += len(piece.count)
            yield piece
        if len(carry) > MAX_LINE_BYTES:
            tally.skip("a line without an end, skipped", number)
            carry = b""
            skipping = True
    if carry.strip():
        yield make(carry, number, whole=False)
    if source.broken:
        tally.skip(f"{source.broken}; what came before was read")


def _framed(lines: bytes) -> tuple[UInt8, Index]:
    """The bytes between margins, and the line ends: the one before the first line, and each own."""
    text = np.frombuffer(b"\n" * _FRONT + lines + b"\n" * _BACK, np.uint8)
    last = _FRONT + len(lines) + (not lines.endswith(b"\n"))
    return text, np.flatnonzero(text[_FRONT - 1 : last] == _NEWLINE) + (_FRONT - 1)


def _split_space(lines: bytes, number: int, *, whole: bool) -> Piece:
    text, line = _framed(lines)
    space = text <= 32
    edges = np.flatnonzero(space[1:] != space[:-1]) + 1
    empty = len(text) - _BACK
    start = np.append(edges[0::2], empty)
    end = np.append(edges[1::2], empty)
    first = np.searchsorted(start[:-1], line)
    return Piece(text, number, whole, line, start, end, first[:-1], np.diff(first))


def _split_commas(lines: bytes, number: int, *, whole: bool) -> Piece:
    text, line = _framed(lines)
    inside = text[_FRONT - 1 : int(line[-1]) + 1]
    marks = np.flatnonzero((inside == _COMMA) | (inside == _NEWLINE)) + (_FRONT - 1)
    empty = len(text) - _BACK
    start = np.append(marks[:-1] + 1, empty)
    end = np.append(marks[1:], empty)
    end = np.maximum(end - (text[end - 1] == _RETURN), start)
    first = np.searchsorted(marks, line)
    return Piece(text, number, whole, line, start, end, first[:-1], np.diff(first))


def window(text: UInt8, start: Index, width: int) -> UInt8:
    """`width` bytes from each start, uint8[n, width]."""
    out: UInt8 = sliding_window_view(text, width)[start]
    return out


def is_word(text: UInt8, start: Index, end: Index, word: bytes) -> Bool:
    """Whether the token is this word; the case of letters does not matter."""
    lower = np.frombuffer(word.lower(), np.uint8)
    seen = window(text, start, len(word))
    seen = np.where((seen >= 65) & (seen <= 90), seen | 32, seen)
    same: Bool = (end - start == len(word)) & (seen == lower).all(1)
    return same


def decimal(text: UInt8, start: Index, end: Index) -> tuple[Int64, Bool]:
    """Whole numbers of up to 18 digits: value int64[n], and whether the token is one."""
    length = end - start
    width = int(np.clip(length.max(initial=1), 1, _DIGITS))
    digits = window(text, end - width, width) - np.uint8(48)
    if (length != width).any():
        outside = np.arange(width) < (width - length)[:, None]
        digits[outside] = 0
    ok: Bool = (length >= 1) & (length <= width) & (digits <= 9).all(1)
    value = np.zeros(len(start), np.int64)
    for column in range(width):
        value *= 10
        value += digits[:, column]
    return value, ok


def fixed_point(text: UInt8, start: Index, end: Index, places: int) -> tuple[Int64, Bool]:
    """Decimal fractions as whole numbers of 10**-places, int64[n], and whether the token is one.

    Exact: no floating point takes part. Digits beyond `places` are cut off.
    """
    minus = (text[start] == _MINUS) & (end > start)
    start = start + minus
    length = end - start
    seen = window(text, start, int(np.clip(length.max(initial=1), 1, 2 * _DIGITS)))
    dot = (seen == _DOT).argmax(1)
    dot = np.where((seen[np.arange(len(dot)), dot] == _DOT) & (dot < length), dot, length)
    whole, ok = decimal(text, start, start + dot)
    behind = start + np.minimum(dot + 1, length)
    used = np.minimum(end - behind, places)
    part, part_ok = decimal(text, behind, behind + used)
    ok &= part_ok | (used == 0)
    cut_off = end - behind - used
    if (cut_off > 0).any():
        ok &= decimal(text, behind + used, end)[1] | (cut_off == 0)
    scale = int(_POWERS[places])
    ok &= whole < np.iinfo(np.int64).max // scale
    value = np.where(ok, whole, 0) * scale + np.where(ok, part, 0) * _POWERS[places - used]
    return np.where(minus, -value, value), ok


def hex_number(text: UInt8, start: Index, end: Index) -> tuple[Int64, Bool]:
    """Hexadecimal numbers of up to 8 digits: value int64[n], and whether the token is one."""
    length = end - start
    digits = HEX[window(text, end - 8, 8)]
    digits[np.arange(8) < (8 - length)[:, None]] = 0
    ok: Bool = (length >= 1) & (length <= 8) & (digits <= 15).all(1)
    pairs = np.ascontiguousarray((digits[:, 0::2] << 4) | (digits[:, 1::2] & 15))
    return pairs.view(">u4").ravel().astype(np.int64), ok


def hex_run(text: UInt8, start: Index, end: Index, width: int) -> tuple[UInt8, Bool]:
    """Bytes written without a space, two digits each: uint8[n, width], and whether all are."""
    length = end - start
    digits = HEX[window(text, start, 2 * width)]
    if (length != 2 * width).any():
        digits[np.arange(2 * width) >= length[:, None]] = 0
    ok: Bool = (length % 2 == 0) & (length <= 2 * width) & (digits <= 15).all(1)
    return ((digits[:, 0::2] << 4) | (digits[:, 1::2] & 15)).astype(np.uint8), ok


def byte_columns(
    piece: Piece, rows: Index, column: int | Index, length: Int64, *, base: int = 16
) -> tuple[UInt8, Bool]:
    """`length` bytes a line, a token each from `column` on: uint8[n, 8 or 64], and whether all are.

    A line of which the file ends in the middle of the last byte counts as one that is not.
    """
    width = 64 if int(length.max(initial=0)) > 8 else 8
    wanted = np.arange(width) < length[:, None]
    have = piece.count[rows] - column
    ok: Bool = have >= length
    place = (piece.first[rows] + column)[:, None] + np.arange(width)
    place = np.where(wanted & ok[:, None], place, len(piece.start) - 1)
    start, end = piece.start[place], piece.end[place]
    size = end - start
    if base == 16:
        high = HEX[piece.text[start]]
        low = HEX[piece.text[start + 1]]
        one = size == 1
        low = np.where(one, high, low)
        high = np.where(one, 0, high)
        good = (size <= 2) & (high <= 15) & (low <= 15)
        value = (high << 4) | (low & 15)
        if len(rows) and piece.is_cut(int(rows[-1])):
            last = max(int(length[-1]) - 1, 0)
            good[-1, last] &= int(size[-1, last]) == 2
    else:
        number, is_number = decimal(piece.text, start.ravel(), end.ravel())
        good = (is_number & (number <= 255)).reshape(place.shape)
        value = number.reshape(place.shape).astype(np.uint8)
    ok &= (good | ~wanted).all(1)
    return np.where(wanted, value, 0).astype(np.uint8), ok


def one_digit(text: UInt8, start: Index, end: Index) -> tuple[Int64, Bool]:
    """A token of one hexadecimal digit, such as a DLC."""
    value = HEX[text[start]]
    return value.astype(np.int64), (end - start == 1) & (value <= 15)
