"""Messages as the kernel left them (`agent.bus.ring`) -> arrays of frames and stamps. Pure.

A message is a frame of 16 bytes (classic) or 72 (FD), and control messages: `struct cmsghdr`
(length, level, type: 16 bytes), then a stamp or the drop counter. On one socket nearly all of them
look alike, in one of four ways: one stamp or three, without or with the counter behind it. Those
are read as columns, after their headers have been compared word by word. Any other message is
walked through alone, and what does not fit there is not read at all.

Nothing that the kernel hands on is believed: a length beyond 8 or 64, a message that is neither 16
nor 72 bytes long or was cut, costs that frame, and is counted.
"""

import dataclasses
import struct
from typing import Final

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
    UInt16,
    UInt32,
    UInt64,
)
from agent.bus.ring import FRAME_BYTES, HEADER_BYTES, Messages
from agent.clock import SECOND

CLASSIC_BYTES: Final = 16
NO_STAMP: Final = -1

_MSG_DONTROUTE: Final = 0x04  # the kernel's mark of a frame that this host has sent
_MSG_CTRUNC: Final = 0x08
_MSG_TRUNC: Final = 0x20
_SOL_SOCKET: Final = 1
_SCM_TIMESTAMPNS: Final = 35
_SCM_TIMESTAMPING: Final = 37
_SO_RXQ_OVFL: Final = 40
_CMSG: Final = struct.Struct("=Qii")
_STAMP: Final = struct.Struct("=qq")
_COUNT: Final = struct.Struct("=I")
_COUNTER_SPACE: Final = 24
_COUNTER_LENGTH: Final = 20
_SHORT_ID: Final = 0x7FF
_LATEST_S: Final = 1 << 33  # beyond this, nanoseconds do not fit 63 bits


def _masks() -> UInt64:
    """Eight words for each length 0 to 64 that keep the bytes before it."""
    kept = np.arange(64) < np.arange(65)[:, np.newaxis]
    return np.where(kept, 0xFF, 0).astype(np.uint8).view(np.uint64)


_KEEP_64: Final = _masks()
_KEEP_8: Final = np.ascontiguousarray(_KEEP_64[:, 0])


@dataclasses.dataclass(frozen=True, slots=True)
class CanFrames:
    """n frames of m messages, m - n of which were `bad`.

    id uint32[n] (with the kernel's flag bits), length uint16[n], flags uint8[n], data uint8[n, 8]
    (64 where a frame is longer), zero beyond the length; stamp and hardware int64[n], wall time and
    the controller's own time in ns, -1 without; rows intp[n] | None: the message of each frame,
    None where none was bad; drops: the kernel's drop counter when the last message that tells it
    was queued, modulo 2**32.
    """

    id: UInt32
    length: UInt16
    flags: UInt8
    data: UInt8
    stamp: Int64
    hardware: Int64
    rows: NDArray[np.intp] | None
    bad: int
    drops: int | None

    def __len__(self) -> int:
        return len(self.id)


def parse(messages: Messages) -> CanFrames:
    """What messages hold. Raises nothing, whatever they hold; gives copies, no views."""
    n = messages.count
    header = _rows(messages.headers, n, HEADER_BYTES).view(np.uint32)
    frames = _rows(messages.frames, n, FRAME_BYTES)
    told, size = header[:, 12], header[:, 14]
    stamp, hardware, drops = parse_controls(
        _rows(messages.control, n, messages.control_bytes),
        header.view(np.uint64)[:, 5],
        told & np.uint32(_MSG_CTRUNC) != 0,
    )
    length = frames[:, 4].astype(np.uint16)
    fd = size == FRAME_BYTES
    good = (
        (fd | (size == CLASSIC_BYTES))
        & (length <= np.where(fd, np.uint16(64), np.uint16(8)))
        & (told & np.uint32(_MSG_TRUNC) == 0)
    )
    rows = None
    if not good.all():
        rows = np.flatnonzero(good)
        frames, length, fd, told = frames[rows], length[rows], fd[rows], told[rows]
        stamp, hardware = stamp[rows], hardware[rows]
    ids = _ids(frames.view(np.uint32)[:, 0])
    flags = np.where(told & np.uint32(_MSG_DONTROUTE), np.uint8(SENT), np.uint8(0))
    if fd.any():
        bits = frames[:, 5] & np.uint8(FD_BIT_RATE_SWITCH | FD_ERROR_STATE) | np.uint8(FD_FRAME)
        flags |= np.where(fd, bits, np.uint8(0))
    return CanFrames(
        id=ids,
        length=length,
        flags=flags,
        data=_payload(frames, length, ids & np.uint32(REMOTE) != 0),
        stamp=stamp,
        hardware=hardware,
        rows=rows,
        bad=n - len(frames),
        drops=drops,
    )


def _rows(memory: memoryview | bytes, n: int, size: int) -> UInt8:
    if not n:  # NumPy refuses an empty buffer
        return np.empty((0, size), np.uint8)
    return np.frombuffer(memory, np.uint8, n * size).reshape(n, size)


def _ids(raw: UInt32) -> UInt32:
    """A short identifier has 11 bits, whatever else stands in its word."""
    ids = raw.copy()
    beyond = (ids & np.uint32(EXTENDED | ERROR) == 0) & (ids & np.uint32(ID_BITS) > _SHORT_ID)
    if beyond.any():
        ids[beyond] &= np.uint32(REMOTE | _SHORT_ID)
    return ids


def _payload(frames: UInt8, length: UInt16, remote: NDArray[np.bool_]) -> UInt8:
    """Data uint8[n, 8 or 64]: the slots hold what earlier, longer frames left behind them."""
    words = frames.view(np.uint64)
    used = np.where(remote, np.uint16(0), length) if remote.any() else length
    if len(length) and int(length.max()) > 8:
        wide: UInt64 = words[:, 1:] & _KEEP_64[used]
        return wide.view(np.uint8)
    narrow: UInt64 = words[:, 1] & _KEEP_8[used]
    return narrow.view(np.uint8).reshape(-1, 8)


def parse_controls(
    control: UInt8, used: UInt64, cut: NDArray[np.bool_]
) -> tuple[Int64, Int64, int | None]:
    """Stamps int64[n], the controller's stamps int64[n], and the last drop counter.

    Args:
        control: uint8[n, w], control messages from the begin of each row; w a multiple of 8.
        used: uint64[n], how many bytes of a row were written.
        cut: bool[n], more was to be written.
    """
    n, width = control.shape
    words = control.view(np.int64).reshape(n, width // 8)
    stamp = np.full(n, NO_STAMP, np.int64)
    hardware = np.full(n, NO_STAMP, np.int64)
    counter = np.full(n, -1, np.int64)
    left = np.ones(n, np.bool_)
    for kind, at in ((_SCM_TIMESTAMPNS, 4), (_SCM_TIMESTAMPING, 8)):
        if at > words.shape[1]:
            continue
        fits = left & ~cut & (words[:, 0] == 8 * at) & (words[:, 1] == _kind(kind))
        plain = fits & (used == 8 * at)
        counted = np.zeros(n, np.bool_)
        if at + 3 <= words.shape[1] and not plain.all():
            counted = (
                fits
                & (used == 8 * at + _COUNTER_SPACE)
                & (words[:, at] == _COUNTER_LENGTH)
                & (words[:, at + 1] == _kind(_SO_RXQ_OVFL))
            )
            counter[counted] = words[counted, at + 2] & 0xFFFF_FFFF
        known = plain | counted
        if not known.any():
            continue
        rows: slice | NDArray[np.bool_] = slice(None) if known.all() else known
        stamp[rows] = _nanoseconds(words[rows, 2], words[rows, 3])
        if kind == _SCM_TIMESTAMPING:
            hardware[rows] = _nanoseconds(words[rows, 6], words[rows, 7])
        left &= ~known
    for row in np.flatnonzero(left).tolist():
        stamp[row], hardware[row], counter[row] = _walk(control[row].tobytes(), int(used[row]))
    told = np.flatnonzero(counter >= 0)
    return stamp, hardware, int(counter[told[-1]]) if len(told) else None


def _kind(kind: int) -> int:
    return _SOL_SOCKET | kind << 32


def _nanoseconds(seconds: Int64, rest: Int64) -> Int64:
    """Of a timespec; one that is zero was not filled in, and one out of range is none."""
    real = (seconds >= 0) & (seconds < _LATEST_S) & (rest >= 0) & (rest < SECOND)
    real &= (seconds | rest) != 0
    return np.where(real, np.where(real, seconds, 0) * SECOND + rest, NO_STAMP)


def _walk(control: bytes, used: int) -> tuple[int, int, int]:
    """One message: (stamp, the controller's stamp, drop counter), -1 for what it does not tell."""
    stamp = hardware = counter = -1
    at, end = 0, min(used, len(control))
    while at + _CMSG.size <= end:
        length, level, kind = _CMSG.unpack_from(control, at)
        size = length - _CMSG.size
        if size < 0 or at + length > end:
            break
        body = at + _CMSG.size
        if level == _SOL_SOCKET and kind == _SCM_TIMESTAMPNS and size == _STAMP.size:
            stamp = _stamp(control, body)
        elif level == _SOL_SOCKET and kind == _SCM_TIMESTAMPING and size == 3 * _STAMP.size:
            stamp = _stamp(control, body)
            hardware = _stamp(control, body + 2 * _STAMP.size)
        elif level == _SOL_SOCKET and kind == _SO_RXQ_OVFL and size == _COUNT.size:
            counter = _COUNT.unpack_from(control, body)[0]
        at += (length + 7) // 8 * 8
    return stamp, hardware, counter


def _stamp(control: bytes, at: int) -> int:
    seconds, rest = _STAMP.unpack_from(control, at)
    if 0 <= seconds < _LATEST_S and 0 <= rest < SECOND and (seconds or rest):
        return int(seconds * SECOND + rest)
    return NO_STAMP
