"""GVRET .csv of SavvyCAN: a header line names the columns, times are microseconds.

`Time Stamp,ID,Extended,Bus,LEN,D1,...` or, newer, `Time Stamp,ID,Extended,Dir,Bus,LEN,D1,...`; id
and data hexadecimal. Bytes of data that a frame does not have are missing or empty.
"""

import re
from collections.abc import Iterator

import numpy as np

from agent.blocks import FD_FRAME, ID_BITS, SENT
from agent.bus.logs.frames import Frames, Tally, mark_extended
from agent.bus.logs.source import Source
from agent.bus.logs.text import (
    Piece,
    byte_columns,
    decimal,
    fixed_point,
    hex_number,
    is_word,
    pieces,
)
from agent.errors import BusError

LOOKS = re.compile(rb"\A(\xef\xbb\xbf)?\s*Time ?Stamp\s*,\s*ID\s*,\s*Extended\s*,", re.IGNORECASE)

_NEEDED = ("time stamp", "id", "extended", "bus", "len")


def read(source: Source, tally: Tally) -> Iterator[Frames]:
    columns: dict[str, int] = {}
    for piece in pieces(source, tally, commas=True):
        if not columns:
            columns = _columns(source)
        yield _parse(piece, columns, tally)


def _columns(source: Source) -> dict[str, int]:
    """Name of a column -> its place.

    Raises:
        BusError: the first line does not name the columns of this format.
    """
    first = source.head.lstrip().split(b"\n", 1)[0].removeprefix(b"\xef\xbb\xbf")
    line = first.decode("ascii", "replace").lower()
    found = {name.strip(): place for place, name in enumerate(line.split(","))}
    if "timestamp" in found:
        found["time stamp"] = found["timestamp"]
    missing = [name for name in _NEEDED if name not in found]
    if missing:
        raise BusError(
            f"{source.path} has no column {', '.join(missing)} in its first line; "
            "a GVRET recording begins with 'Time Stamp,ID,Extended,Bus,LEN,D1,...'."
        )
    found.setdefault("d1", found["len"] + 1)
    return found


def _parse(piece: Piece, columns: dict[str, int], tally: Tally) -> Frames:
    text = piece.text
    first = piece.start[piece.first]
    blank = (piece.count == 1) & (piece.end[piece.first] == first)
    # A header stands at the top, and again where recordings were joined.
    header = ((text[first] | 32) == ord("t")) | (text[first] == 0xEF)
    rows = np.flatnonzero(~blank & ~header)

    time, ok = fixed_point(text, *piece.token(rows, columns["time stamp"]), 3)
    number, id_ok = hex_number(text, *piece.token(rows, columns["id"]))
    channel, channel_ok = decimal(text, *piece.token(rows, columns["bus"]))
    length, length_ok = decimal(text, *piece.token(rows, columns["len"]))
    start, end = piece.token(rows, columns["extended"])
    letter = text[start] | 32
    extended = (letter == ord("t")) | (letter == ord("1"))
    extended_ok = extended | (letter == ord("f")) | (letter == ord("0"))
    ok &= id_ok & (number <= ID_BITS) & channel_ok & extended_ok & (end > start)
    ok &= length_ok & (length <= 64)
    sent = np.zeros(len(rows), np.bool_)
    if "dir" in columns:
        sent = is_word(text, *piece.token(rows, columns["dir"]), b"Tx")

    data, data_ok = byte_columns(piece, rows, columns["d1"], np.where(ok, length, 0))
    good = ok & data_ok
    piece.report(rows[~good], "not a frame as SavvyCAN writes it, skipped", tally)
    return Frames(
        time,
        mark_extended(number, extended),
        length.astype(np.uint16),
        (np.where(length > 8, FD_FRAME, 0) | np.where(sent, SENT, 0)).astype(np.uint8),
        data,
        channel,
    ).take(good)
