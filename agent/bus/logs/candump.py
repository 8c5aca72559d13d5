"""candump -l and -L of can-utils: `(1436509052.249713) can0 18FEF100#2A366C2BBA R`.

An id of up to three digits is a standard one, longer ones are extended, and the kernel's error bit
makes an error frame. `#R` is a remote frame with an optional length, `##` a CAN FD frame with one
digit of flags, `_` and a digit at the end the raw DLC of an 8 byte frame (not kept). R or T behind
the frame tells received from sent.

A last line without a line end may be cut within its data, and nothing in the line says so. It
counts as whole if it is as long as a frame can be or as the frame before it with the same id.
"""

import re
from collections.abc import Iterator

import numpy as np

from agent.blocks import (
    ERROR,
    FD_BIT_RATE_SWITCH,
    FD_ERROR_STATE,
    FD_FRAME,
    REMOTE,
    SENT,
    Int64,
    UInt8,
)
from agent.bus.logs.frames import Frames, Names, Tally, mark_extended
from agent.bus.logs.source import Source
from agent.bus.logs.text import (
    HEX,
    Bool,
    Index,
    Piece,
    decimal,
    fixed_point,
    hex_number,
    hex_run,
    pieces,
    window,
)

LOOKS = re.compile(rb"^\s*\(-?\d+(\.\d+)?\)\s+\S+\s+[0-9A-Fa-f]+#", re.MULTILINE)

_HASH = ord("#")
_MAX_NAME_BYTES = 64


def read(source: Source, tally: Tally) -> Iterator[Frames]:
    before: Frames | None = None
    for piece in pieces(source, tally):
        frames = _parse(piece, tally, before)
        yield frames
        before = frames


def _parse(piece: Piece, tally: Tally, before: Frames | None) -> Frames:
    text = piece.text
    lines = np.flatnonzero(piece.count > 0)
    lines = lines[text[piece.start[piece.first[lines]]] != _HASH]  # a comment of a careful person
    shape = (piece.count[lines] == 3) | (piece.count[lines] == 4)
    rows = lines[shape]

    start, end = piece.token(rows, 0)
    brackets = (text[start] == ord("(")) & (text[end - 1] == ord(")"))
    time, time_ok = fixed_point(text, start + 1, end - 1, 9)
    channel, channel_ok = _channels(piece, *piece.token(rows, 1), tally.names)
    sent, direction_ok = _direction(piece, rows)

    start, end = piece.token(rows, 2)
    marks = window(text, start, 9) == _HASH
    hash_at = start + marks.argmax(1)
    number, id_ok = hex_number(text, start, hash_at)
    error = (number & ERROR) != 0
    id_ok &= marks.any(1) & (number <= ERROR | 0x1FFF_FFFF) & (hash_at < end)
    extended = ~error & (hash_at - start > 3)

    begin = hash_at + 1
    fd = (text[begin] == _HASH) & (begin < end)
    fd_bits = HEX[text[begin + 1]]
    flags = np.where(fd, (fd_bits & (FD_BIT_RATE_SWITCH | FD_ERROR_STATE)) | FD_FRAME, 0)
    fd_ok = ~fd | ((fd_bits <= 15) & (begin + 1 < end))
    begin = np.where(fd, np.minimum(begin + 2, end), begin)
    raw_dlc = (text[end - 2] == ord("_")) & (HEX[text[end - 1]] <= 15) & (begin <= end - 2)
    end = np.where(raw_dlc, end - 2, end)
    remote = ((text[begin] | 32) == ord("r")) & (begin < end) & ~fd

    asked, asked_ok = decimal(text, begin + 1, end)
    bare = end - begin == 1
    data, data_ok = _data(piece, begin, np.where(remote, begin, end), fd)
    length = np.where(remote, np.where(bare, 0, asked), (end - begin) // 2)
    data_ok &= ~remote | bare | (asked_ok & (asked <= 8))

    ids = mark_extended(number & 0x1FFF_FFFF, extended)
    ids = np.where(error, (number & 0x1FFF_FFFF).astype(np.uint32) | np.uint32(ERROR), ids)
    ids |= np.where(remote, np.uint32(REMOTE), np.uint32(0))
    good = brackets & time_ok & channel_ok & direction_ok & id_ok & fd_ok & data_ok
    if len(rows) and piece.is_cut(int(rows[-1])):
        full = length[-1] == (64 if fd[-1] else 8)
        marked = remote[-1] | (piece.count[rows[-1]] == 4)
        good[-1] &= full | marked | _is_usual(ids[-1], length[-1], before)

    bad = np.sort(np.concatenate([lines[~shape], rows[~good]]))
    piece.report(bad, "not a frame as candump writes it, skipped", tally)
    return Frames(
        time,
        ids,
        length.astype(np.uint16),
        (flags | np.where(sent, SENT, 0)).astype(np.uint8),
        data,
        channel,
    ).take(good)


def _channels(piece: Piece, start: Index, end: Index, names: Names) -> tuple[Int64, Bool]:
    """The number of each interface name; found once a name, not once a line."""
    text = piece.text
    channel = np.zeros(len(start), np.int64)
    ok = np.zeros(len(start), np.bool_)
    length = end - start
    seen = window(text, start, int(np.clip(length.max(initial=1), 1, _MAX_NAME_BYTES)))
    open_rows = np.flatnonzero(length <= _MAX_NAME_BYTES)
    while len(open_rows):
        size = int(length[open_rows[0]])
        name = seen[open_rows[0], :size]
        same = (length[open_rows] == size) & (seen[open_rows, :size] == name).all(1)
        key = names.key(name.tobytes())
        if key is None:
            break
        channel[open_rows[same]] = key
        ok[open_rows[same]] = True
        open_rows = open_rows[~same]
    return channel, ok


def _direction(piece: Piece, rows: Index) -> tuple[Bool, Bool]:
    start, end = piece.token(rows, 3)
    letter = piece.text[start] | 32
    present = end > start
    sent = present & (letter == ord("t"))
    return sent, ~present | ((end - start == 1) & (sent | (letter == ord("r"))))


def _data(piece: Piece, start: Index, end: Index, fd: Bool) -> tuple[UInt8, Bool]:
    """Classic data by 8 bytes; the few long rows, if any, by 64."""
    data, ok = hex_run(piece.text, start, end, 8)
    long = np.flatnonzero(fd & (end - start > 16))
    if not len(long):
        return data, ok
    wide = np.zeros((len(data), 64), np.uint8)
    wide[:, :8] = data
    wide[long], ok[long] = hex_run(piece.text, start[long], end[long], 64)
    return wide, ok


def _is_usual(number: np.uint32, length: np.int64, before: Frames | None) -> bool:
    """Whether the frame before with this id was as long."""
    if before is None:
        return False
    rows = np.flatnonzero(before.id == number)
    return len(rows) > 0 and bool(before.length[rows[-1]] == length)
