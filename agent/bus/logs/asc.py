"""Vector .asc: `0.153600 1  594x  Rx  d 8 34 21 34 21 A0 61 04 20`, and `CANFD` lines.

`base hex` or `base dec` says how ids and data are written, `timestamps relative` that each time is
the distance to the line before; both hold until a later header (joined recordings) says otherwise.
A header's date is not added. Lines that begin with a time and are no frame (statistics, chip
status, other buses, `TxRq` requests) are events and passed over; their times still count in
relative mode.

Columns, counted from 0:

    time channel id dir d|r dlc data...
    time channel ErrorFrame
    time CANFD channel dir id [name] brs esi dlc length data... duration bits flags ...
    time CANFD channel dir ErrorFrame
"""

import re
from collections.abc import Iterator

import numpy as np

from agent.blocks import (
    ERROR,
    FD_BIT_RATE_SWITCH,
    FD_ERROR_STATE,
    FD_FRAME,
    ID_BITS,
    REMOTE,
    SENT,
    Int64,
)
from agent.bus.logs.frames import Frames, Tally, bytes_of_dlc, join, mark_extended
from agent.bus.logs.source import Source
from agent.bus.logs.text import (
    Bool,
    Index,
    Piece,
    byte_columns,
    decimal,
    fixed_point,
    hex_number,
    is_word,
    pieces,
)

LOOKS = re.compile(
    rb"^\s*(base\s+(hex|dec)\b|begin\s+triggerblock|"
    rb"\d+\.\d+\s+(\d+\s+([0-9A-F]+x?\s+(Tx|Rx)|ErrorFrame)|CANFD\s))",
    re.MULTILINE | re.IGNORECASE,
)

_HEADER = re.compile(
    rb"//|date\b|base\b|(no\s+)?internal\s+events|begin\b|end\b|previous\s+log", re.IGNORECASE
)
_BASE = re.compile(rb"base\s+(hex|dec)(?:\s+timestamps\s+(absolute|relative))?", re.IGNORECASE)
_FAR_NS = 1 << 61
# Bits of the column `flags` of a CANFD line.
_FLAG_REMOTE = 0x10
_FLAG_EDL = 0x1000


class _State:
    """What a header said last, and the time of the line before."""

    def __init__(self) -> None:
        self.is_decimal = False
        self.is_relative = False
        self.time = 0


def read(source: Source, tally: Tally) -> Iterator[Frames]:
    state = _State()
    for piece in pieces(source, tally):
        yield from _parse(piece, state, tally)


def _parse(piece: Piece, state: _State, tally: Tally) -> Iterator[Frames]:
    text = piece.text
    lines = np.flatnonzero(piece.count > 0)
    digit = text[piece.start[piece.first[lines]]] - np.uint8(48)
    timed = lines[digit <= 9]
    decimal_base, relative, foreign = _headers(piece, lines[digit > 9], timed, state)
    time, time_ok = fixed_point(text, *piece.token(timed, 0), 9)
    time_ok &= time < _FAR_NS
    time = _absolute(np.where(time_ok, time, 0), relative, state)

    second = piece.token(timed, 1)
    channel, has_channel = decimal(text, *second)
    is_fd = time_ok & is_word(text, *second, b"CANFD")
    is_classic = time_ok & has_channel
    parts: list[tuple[Index, Frames, Index]] = []
    for base in (16, 10):
        of_base = decimal_base == (base == 10)
        rows = is_classic & of_base
        if rows.any():
            parts.append(_classic(piece, timed[rows], time[rows], channel[rows], base))
        rows = is_fd & of_base
        if rows.any():
            parts.append(_fd(piece, timed[rows], time[rows], base))
    bad = np.concatenate([foreign, timed[~time_ok], *(part[2] for part in parts)])
    if len(timed) and piece.is_cut(int(timed[-1])) and not any(len(part[0]) for part in parts):
        # The cut line is a piece of its own; what is left of it may look like an event.
        bad = timed
    piece.report(np.sort(bad), "not a frame as Vector writes it, skipped", tally)
    if len(parts) == 1:
        yield parts[0][1]
    elif parts:
        # Several kinds of lines: back in the order of the lines.
        order = np.argsort(np.concatenate([part[0] for part in parts]))
        yield join([part[1] for part in parts]).take(order)


def _headers(piece: Piece, untimed: Index, timed: Index, state: _State) -> tuple[Bool, Bool, Index]:
    """For each timed line: is its base decimal, is its time relative; and the foreign lines."""
    changes = [-1]
    decimals = [state.is_decimal]
    relatives = [state.is_relative]
    foreign = []
    for row in untimed.tolist():
        line = piece.content(row)
        base = _BASE.match(line)
        if base:
            state.is_decimal = base[1].lower() == b"dec"
            state.is_relative = (base[2] or b"").lower() == b"relative"
            changes.append(row)
            decimals.append(state.is_decimal)
            relatives.append(state.is_relative)
        elif not _HEADER.match(line):
            foreign.append(row)
    holds = np.searchsorted(changes, timed) - 1
    return np.array(decimals)[holds], np.array(relatives)[holds], np.array(foreign, np.intp)


def _absolute(time: Int64, relative: Bool, state: _State) -> Int64:
    """Distances added up; an absolute time sets the sum anew."""
    if not relative.any():
        if len(time):
            state.time = int(time[-1])
        return time
    # Sums may wrap on hostile input only: the result is then a wrong time, never an error.
    added = np.cumsum(np.where(relative, time, 0))
    anchor = np.maximum.accumulate(np.where(relative, -1, np.arange(len(time))))
    offset = np.where(anchor < 0, state.time, time[anchor] - added[anchor])
    total: Int64 = (offset + added).astype(np.int64)
    state.time = max(min(int(total[-1]), _FAR_NS), -_FAR_NS)
    return total


def _number(piece: Piece, token: tuple[Index, Index], base: int) -> tuple[Int64, Bool]:
    return (hex_number if base == 16 else decimal)(piece.text, *token)


def _identifier(piece: Piece, token: tuple[Index, Index], base: int) -> tuple[Int64, Bool, Bool]:
    """Id, whether it is marked as extended, and whether it is one at all."""
    start, end = token
    extended = ((piece.text[end - 1] | 32) == ord("x")) & (end > start)
    number, ok = _number(piece, (start, end - extended), base)
    return number, extended, ok & (number <= ID_BITS)


def _direction(piece: Piece, token: tuple[Index, Index]) -> tuple[Bool, Bool, Bool]:
    """Whether a token says sent, received, or requested."""
    return (
        is_word(piece.text, *token, b"Tx"),
        is_word(piece.text, *token, b"Rx"),
        is_word(piece.text, *token, b"TxRq"),
    )


def _classic(
    piece: Piece, rows: Index, time: Int64, channel: Int64, base: int
) -> tuple[Index, Frames, Index]:
    third = piece.token(rows, 2)
    error = is_word(piece.text, *third, b"ErrorFrame")
    number, extended, id_ok = _identifier(piece, third, base)
    sent, received, requested = _direction(piece, piece.token(rows, 3))
    frame = ~error & ~requested & (id_ok | sent | received)

    kind = piece.token(rows, 4)
    remote = frame & is_word(piece.text, *kind, b"r")
    is_data = frame & is_word(piece.text, *kind, b"d")
    dlc, dlc_ok = _number(piece, piece.token(rows, 5), base)
    dlc_ok &= dlc <= 15
    classic = np.zeros(len(rows), np.bool_)
    length = np.where(dlc_ok & (remote | is_data), bytes_of_dlc(dlc, classic), 0)
    data, data_ok = byte_columns(piece, rows, 6, np.where(is_data, length, 0), base=base)

    good = error | (id_ok & (sent | received) & (remote | (is_data & dlc_ok & data_ok)))
    bad = rows[frame & ~good]
    ids = np.where(error, np.uint32(ERROR), mark_extended(number, extended))
    ids |= np.where(remote, np.uint32(REMOTE), np.uint32(0))
    good &= error | frame
    flags = np.where(sent & ~error, SENT, 0).astype(np.uint8)
    frames = Frames(time, ids, length.astype(np.uint16), flags, data, channel)
    return rows[good], frames.take(good), bad


def _fd(piece: Piece, rows: Index, time: Int64, base: int) -> tuple[Index, Frames, Index]:
    text = piece.text
    channel, channel_ok = decimal(text, *piece.token(rows, 2))
    sent, received, requested = _direction(piece, piece.token(rows, 3))
    fourth = piece.token(rows, 4)
    error = channel_ok & is_word(text, *fourth, b"ErrorFrame")
    number, extended, id_ok = _identifier(piece, fourth, base)

    # A symbolic name may stand before the bit rate switch, which is a digit.
    named = ~decimal(text, *piece.token(rows, 5))[1]
    at = 5 + named.astype(np.intp)
    switch, switch_ok = decimal(text, *piece.token(rows, at))
    state, state_ok = decimal(text, *piece.token(rows, at + 1))
    dlc, dlc_ok = _number(piece, piece.token(rows, at + 2), base)
    length, length_ok = decimal(text, *piece.token(rows, at + 3))
    length_ok &= length <= 64
    length = np.where(length_ok, length, 0)
    data, data_ok = byte_columns(piece, rows, at + 4, length, base=base)
    bits, bits_ok = hex_number(text, *piece.token(rows, at + 6 + length))

    # A CANFD line may hold a classic frame; the flags say so where the recorder wrote them.
    remote = (length == 0) & ((bits_ok & ((bits & _FLAG_REMOTE) != 0)) | (~bits_ok & (dlc > 0)))
    fd = ~remote & (~bits_ok | ((bits & _FLAG_EDL) != 0))
    length = np.where(remote, bytes_of_dlc(dlc, fd), length)
    good = channel_ok & id_ok & (sent | received) & switch_ok & state_ok & dlc_ok & (dlc <= 15)
    good &= length_ok & data_ok & (fd | (length <= 8))
    good |= error
    bad = rows[~good & ~requested]

    flags = np.where(fd, FD_FRAME, 0)
    flags |= np.where(fd & (switch == 1), FD_BIT_RATE_SWITCH, 0)
    flags |= np.where(fd & (state == 1), FD_ERROR_STATE, 0)
    flags |= np.where(sent, SENT, 0)
    flags = np.where(error, 0, flags)
    ids = mark_extended(number, extended) | np.where(remote, np.uint32(REMOTE), np.uint32(0))
    ids = np.where(error, np.uint32(ERROR), ids)
    length = np.where(error, 0, length)
    data[error] = 0
    good &= ~requested
    frames = Frames(time, ids, length.astype(np.uint16), flags.astype(np.uint8), data, channel)
    return rows[good], frames.take(good), bad
