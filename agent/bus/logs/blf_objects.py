"""The frames among the objects of a .blf stream, gathered by type.

Of an object the header gives the time, and the body, which begins after it, the frame. Offsets into
the bodies of the types that hold a frame, little endian:

    1, 86  CAN message    channel u16, flags u8, dlc u8, id u32, data 8
    2      CAN error      channel u16
    73     CAN error ext  channel u16, @10 dlc u8, @16 id u32, @24 data 8
    100    CAN FD         channel u16, flags u8, dlc u8, id u32, @13 flags u8, valid u8, @20 data 64
    101    CAN FD 64      channel u8, dlc u8, valid u8, @4 id u32, @12 flags u32, @34 direction u8,
                          @35 offset of extra data u8, @40 data
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.blocks import (
    ERROR,
    EXTENDED,
    FD_BIT_RATE_SWITCH,
    FD_ERROR_STATE,
    FD_FRAME,
    ID_BITS,
    REMOTE,
    SENT,
    Int64,
    UInt8,
)
from agent.bus.logs.frames import Frames, bytes_of_dlc, mark_extended
from agent.bus.logs.text import Bool, window

MARGIN = 192
"""Bytes behind the last object, so that a window of any type lies inside the array."""

CLASSIC, CLASSIC_2, BUS_ERROR, BUS_ERROR_EXT, FD, FD_64 = 1, 86, 2, 73, 100, 101
FRAME_TYPES = (CLASSIC, CLASSIC_2, BUS_ERROR, BUS_ERROR_EXT, FD, FD_64)

_HEADER = np.dtype(
    [
        ("letters", "S4"),
        ("header_bytes", "<u2"),
        ("version", "<u2"),
        ("size", "<u4"),
        ("type", "<u4"),
        ("flags", "<u4"),
        ("status", "<u4"),
        ("time", "<u8"),
    ]
)
_CLASSIC = np.dtype(
    [("channel", "<u2"), ("flags", "u1"), ("dlc", "u1"), ("id", "<u4"), ("data", "u1", 8)]
)
_ERROR_EXT = np.dtype(
    {
        "names": ["channel", "dlc", "id", "data"],
        "formats": ["<u2", "u1", "<u4", ("u1", 8)],
        "offsets": [0, 10, 16, 24],
        "itemsize": 32,
    }
)
_FD = np.dtype(
    {
        "names": ["channel", "flags", "dlc", "id", "fd_flags", "valid", "data"],
        "formats": ["<u2", "u1", "u1", "<u4", "u1", "u1", ("u1", 64)],
        "offsets": [0, 2, 3, 4, 13, 14, 20],
        "itemsize": 84,
    }
)
_FD_64 = np.dtype(
    {
        "names": ["channel", "dlc", "valid", "id", "flags", "direction", "extra", "data"],
        "formats": ["u1", "u1", "u1", "<u4", "<u4", "u1", "u1", ("u1", 64)],
        "offsets": [0, 1, 2, 4, 12, 34, 35, 40],
        "itemsize": 104,
    }
)

_TEN_MICROSECONDS = 1
_FAR_NS = 1 << 61


@dataclasses.dataclass
class _Bodies:
    """The bodies of objects of one type: where each begins, how many bytes it has."""

    array: UInt8
    body: Int64
    room: Int64
    header_bytes: Int64


@dataclasses.dataclass
class _Columns:
    """What the frames of one type are: arrays of n, and whether the object holds together."""

    channel: NDArray[Any]
    number: NDArray[Any]
    kernel_flags: NDArray[Any]
    flags: NDArray[Any]
    length: NDArray[Any]
    data: UInt8
    ok: Bool


def decode(array: UInt8, places: NDArray[np.int64], start_ns: int) -> tuple[Frames, int]:
    """The frames of the objects at these places, in their order, and how many were hostile."""
    header = _view(array, places, _HEADER)
    rows = np.flatnonzero(np.isin(header["type"], FRAME_TYPES))
    header, places = header[rows], places[rows]
    kind = header["type"]
    wide = bool(np.isin(kind, (FD, FD_64)).any())
    n = len(rows)
    frames = Frames(
        np.zeros(n, np.int64),
        np.zeros(n, np.uint32),
        np.zeros(n, np.uint16),
        np.zeros(n, np.uint8),
        np.zeros((n, 64 if wide else 8), np.uint8),
        np.zeros(n, np.int64),
    )
    header_bytes = np.where(header["version"] == 1, 32, 40)
    ok: Bool = np.isin(header["version"], (1, 2)) & (header["size"] >= header_bytes)
    unit = np.where(header["flags"] == _TEN_MICROSECONDS, np.uint64(10_000), np.uint64(1))
    ok &= header["time"] < np.uint64(_FAR_NS) // unit
    frames.time[:] = np.where(ok, header["time"] * unit, 0).astype(np.int64) + start_ns

    for number in np.unique(kind).tolist():
        here = np.flatnonzero(kind == number)
        body = places[here] + header_bytes[here]
        room = header["size"][here].astype(np.int64) - header_bytes[here]
        columns = _READ[number](_Bodies(array, body, room, header_bytes[here]))
        ids = mark_extended(columns.number & ID_BITS, (columns.number & EXTENDED) != 0)
        frames.id[here] = ids | columns.kernel_flags.astype(np.uint32)
        frames.length[here] = columns.length
        frames.flags[here] = columns.flags
        frames.data[here, : columns.data.shape[1]] = columns.data
        frames.channel[here] = columns.channel
        ok[here] &= columns.ok
    return frames.take(ok), n - int(ok.sum())


def _view(array: UInt8, places: NDArray[np.int64], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The records at these places, which may overlap: a copy."""
    return window(array, places, dtype.itemsize).view(dtype)[:, 0]


def _cut(data: NDArray[Any], length: NDArray[Any]) -> UInt8:
    """The data without what lies beyond the length."""
    return np.where(np.arange(data.shape[1]) < length[:, None], data, np.uint8(0))


def _classic(at: _Bodies) -> _Columns:
    seen = _view(at.array, at.body, _CLASSIC)
    remote = (seen["flags"] & 0x80) != 0
    length = bytes_of_dlc(seen["dlc"], np.zeros(len(seen), np.bool_))
    return _Columns(
        seen["channel"],
        seen["id"],
        np.where(remote, REMOTE, 0),
        np.where(seen["flags"] & 1, SENT, 0),
        length,
        _cut(seen["data"], np.where(remote, 0, length)),
        (at.room >= _CLASSIC.itemsize) & (seen["dlc"] <= 15),
    )


def _bus_error(at: _Bodies) -> _Columns:
    n = len(at.body)
    none = np.zeros(n, np.int64)
    channel = at.array[at.body] | (at.array[at.body + 1].astype(np.int64) << 8)
    error = np.full(n, ERROR)
    data = np.zeros((n, 8), np.uint8)
    return _Columns(channel, none, error, none, none, data, at.room >= 2)


def _bus_error_ext(at: _Bodies) -> _Columns:
    seen = _view(at.array, at.body, _ERROR_EXT)
    none = np.zeros(len(seen), np.int64)
    length = bytes_of_dlc(seen["dlc"], np.zeros(len(seen), np.bool_))
    return _Columns(
        seen["channel"],
        seen["id"],
        np.full(len(seen), ERROR),
        none,
        length,
        _cut(seen["data"], length),
        (at.room >= _ERROR_EXT.itemsize) & (seen["dlc"] <= 15),
    )


def _fd_flags(fd: Bool, switch: Bool, state: Bool, sent: Bool) -> NDArray[Any]:
    return (
        np.where(fd, FD_FRAME, 0)
        | np.where(fd & switch, FD_BIT_RATE_SWITCH, 0)
        | np.where(fd & state, FD_ERROR_STATE, 0)
        | np.where(sent, SENT, 0)
    )


def _fd(at: _Bodies) -> _Columns:
    seen = _view(at.array, at.body, _FD)
    remote = (seen["flags"] & 0x80) != 0
    bits = seen["fd_flags"]
    fd = (bits & 1) != 0
    written = np.where(remote, 0, seen["valid"].astype(np.int64))
    return _Columns(
        seen["channel"],
        seen["id"],
        np.where(remote, REMOTE, 0),
        _fd_flags(fd, (bits & 2) != 0, (bits & 4) != 0, (seen["flags"] & 1) != 0),
        np.where(remote, bytes_of_dlc(seen["dlc"], fd), written),
        _cut(seen["data"], written),
        (at.room >= 20 + written) & (written <= np.where(fd, 64, 8)) & (seen["dlc"] <= 15),
    )


def _fd_64(at: _Bodies) -> _Columns:
    seen = _view(at.array, at.body, _FD_64)
    bits = seen["flags"]
    remote = (bits & 0x10) != 0
    fd = (bits & 0x1000) != 0
    length = np.where(remote, 0, seen["valid"].astype(np.int64))
    # Fewer bytes may be there than the frame has; the rest is zero, as Vector's own tools show it.
    extra = seen["extra"].astype(np.int64) - at.header_bytes
    behind = np.where((seen["extra"] > 0) & (extra < at.room), extra, at.room)
    return _Columns(
        seen["channel"],
        seen["id"],
        np.where(remote, REMOTE, 0),
        _fd_flags(fd, (bits & 0x2000) != 0, (bits & 0x4000) != 0, seen["direction"] != 0),
        np.where(remote, bytes_of_dlc(seen["dlc"], fd), length),
        _cut(seen["data"], np.minimum(length, behind - 40)),
        (at.room >= 40) & (length <= np.where(fd, 64, 8)) & (seen["dlc"] <= 15),
    )


_READ = {
    CLASSIC: _classic,
    CLASSIC_2: _classic,
    BUS_ERROR: _bus_error,
    BUS_ERROR_EXT: _bus_error_ext,
    FD: _fd,
    FD_64: _fd_64,
}
