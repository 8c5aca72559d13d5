"""PEAK .trc, versions 1.0, 1.1, 1.2, 1.3, 2.0 and 2.1.

Lines that begin with `;` are comments or header. `$FILEVERSION` tells the columns of version 1, and
`$COLUMNS` those of version 2; none of them means version 1.0. Times are milliseconds since
`$STARTTIME` (days since 1899-12-30, UTC), or since the start of the recording in version 1.0. What
is no data or remote frame (status, warnings, error counters, events) is passed over.
"""

import dataclasses
import datetime as dt
import re
from collections.abc import Iterator

import numpy as np

from agent.blocks import (
    FD_BIT_RATE_SWITCH,
    FD_ERROR_STATE,
    FD_FRAME,
    ID_BITS,
    REMOTE,
    SENT,
    Int64,
    UInt8,
)
from agent.bus.logs.frames import FD_LENGTHS, Frames, Tally, mark_extended
from agent.bus.logs.source import Source
from agent.bus.logs.text import (
    Index,
    Piece,
    byte_columns,
    decimal,
    fixed_point,
    hex_number,
    is_word,
    pieces,
)
from agent.errors import BusError

LOOKS = re.compile(
    rb"^;\$FILEVERSION=|^;\s*Columns description|^\s*\d+\)\s+\d+(\.\d+)?\s", re.MULTILINE
)

# Letters as in $COLUMNS: O time, B bus, T type, d direction, I id, L DLC, l length, D data.
_COLUMNS_1 = {
    "1.0": "N O I L D",
    "1.1": "N O d I L D",
    "1.2": "N O B d I L D",
    "1.3": "N O B d I R L D",
}
# Words of two letters, as `_pair` gives them.
_DT, _FD, _FB, _FE, _BI, _RR, _RX, _TX = (
    int.from_bytes(word, "big") for word in (b"DT", b"FD", b"FB", b"FE", b"BI", b"RR", b"Rx", b"Tx")
)
_FRAMES = (_DT, _FD, _FB, _FE, _BI, _RR)
_DIRECTIONS = (_RX, _TX)
_EPOCH = dt.datetime(1899, 12, 30, tzinfo=dt.UTC)
_UNIX = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_COMMENT = ord(";")
_FAR_NS = 1 << 61


@dataclasses.dataclass
class _Layout:
    version: str = "1.0"
    start_ns: int = 0
    columns: dict[str, int] = dataclasses.field(default_factory=dict)


def read(source: Source, tally: Tally) -> Iterator[Frames]:
    """As the other parsers.

    Raises:
        BusError: the header names a version that is not known, or no columns.
    """
    layout = _Layout()
    settled = False
    for piece in pieces(source, tally):
        lines = np.flatnonzero(piece.count > 0)
        comment = piece.text[piece.start[piece.first[lines]]] == _COMMENT
        rows = lines[~comment]
        if not settled:
            above = lines[comment & (lines < rows[0])] if len(rows) else lines[comment]
            for row in above.tolist():
                _header(piece.content(row), layout)
            if len(rows):
                _settle(layout, source)
                settled = True
        if len(rows):
            yield _parse(piece, rows, layout, tally)


def _header(line: bytes, layout: _Layout) -> None:
    if not line.startswith(b";$"):
        return
    key, _, value = line[2:].decode("ascii", "replace").partition("=")
    if key == "FILEVERSION":
        layout.version = value.strip()
    elif key == "STARTTIME":
        try:
            start = _EPOCH + dt.timedelta(days=float(value)) - _UNIX
        except (ValueError, OverflowError):
            return
        start_ns = start // dt.timedelta(microseconds=1) * 1000
        layout.start_ns = start_ns if abs(start_ns) < _FAR_NS else 0
    elif key == "COLUMNS":
        letters = [letter.strip() for letter in value.split(",")]
        layout.columns = {letter: place for place, letter in enumerate(letters)}


def _settle(layout: _Layout, source: Source) -> None:
    if layout.version in _COLUMNS_1:
        letters = _COLUMNS_1[layout.version].split()
        layout.columns = {letter: place for place, letter in enumerate(letters)}
        if layout.version == "1.0":
            layout.start_ns = 0
    elif layout.version not in ("2.0", "2.1"):
        raise BusError(
            f"{source.path} is a PEAK trace of version {layout.version[:20]!r}; "
            f"versions {', '.join(_COLUMNS_1)}, 2.0 and 2.1 can be read."
        )
    elif not set("OTId") <= layout.columns.keys() or not {"l", "L"} & layout.columns.keys():
        raise BusError(f"{source.path} is a PEAK trace without a usable $COLUMNS line.")
    layout.columns.setdefault("D", len(layout.columns))


def _pair(text: UInt8, start: Index, end: Index) -> Int64:
    """A word of two letters as a number, 0 for any other token."""
    value: Int64 = text[start].astype(np.int64) << 8 | text[start + 1]
    return np.where(end - start == 2, value, 0)


def _parse(piece: Piece, rows: Index, layout: _Layout, tally: Tally) -> Frames:
    text, columns = piece.text, layout.columns

    # A line with another word than these where the type stands is an event and not a frame.
    what = "T" if "T" in columns else "d" if "d" in columns else "I"
    start, end = piece.token(rows, columns[what])
    if what == "I":
        other = is_word(text, start, end, b"FFFFFFFF")
    else:
        known = np.isin(_pair(text, start, end), _FRAMES if what == "T" else _DIRECTIONS)
        other = ~known & (text[start] >= ord("A")) & (text[start] <= ord("Z")) & (end - start >= 2)
    rows = rows[~other]

    time, ok = fixed_point(text, *piece.token(rows, columns["O"]), 6)
    ok &= np.abs(time) < _FAR_NS
    start, end = piece.token(rows, columns["I"])
    number, id_ok = hex_number(text, start, end)
    extended = end - start > 4
    ok &= id_ok & (number <= ID_BITS)
    channel = np.ones(len(rows), np.int64)
    if "B" in columns:
        channel, channel_ok = decimal(text, *piece.token(rows, columns["B"]))
        ok &= channel_ok
    sent = np.zeros(len(rows), np.bool_)
    if "d" in columns:
        way = _pair(text, *piece.token(rows, columns["d"]))
        sent = way == _TX
        ok &= sent | (way == _RX)

    fd = np.zeros(len(rows), np.bool_)
    flags = np.where(sent, SENT, 0)
    if "T" in columns:
        kind = _pair(text, *piece.token(rows, columns["T"]))
        ok &= np.isin(kind, _FRAMES)
        fd = np.isin(kind, (_FD, _FB, _FE, _BI))
        flags |= np.where(fd, FD_FRAME, 0)
        flags |= np.where((kind == _FB) | (kind == _FE), FD_BIT_RATE_SWITCH, 0)
        flags |= np.where((kind == _FE) | (kind == _BI), FD_ERROR_STATE, 0)
        remote = kind == _RR
    else:
        remote = is_word(text, *piece.token(rows, columns["D"]), b"RTR")

    length, length_ok = decimal(text, *piece.token(rows, columns["l" if "l" in columns else "L"]))
    if "l" not in columns:
        # The DLC of an FD frame is a code, and some recorders write the bytes: the data tell.
        written = piece.count[rows] - columns["D"]
        cut = piece.is_cut(int(rows[-1])) if len(rows) else False
        bytes_written = (length == written) & ~(cut & (rows == rows.max(initial=0)))
        code = fd & (length <= 15) & ~bytes_written
        length = np.where(code, FD_LENGTHS[np.clip(length, 0, 15)], length)
    ok &= length_ok & (length <= np.where(fd, 64, 8))
    data, data_ok = byte_columns(piece, rows, columns["D"], np.where(ok & ~remote, length, 0))
    good = ok & data_ok
    piece.report(rows[~good], "not a frame as PEAK writes it, skipped", tally)
    ids = mark_extended(number, extended) | np.where(remote, np.uint32(REMOTE), np.uint32(0))
    return Frames(
        time + layout.start_ns,
        ids,
        length.astype(np.uint16),
        flags.astype(np.uint8),
        data,
        channel,
    ).take(good)
