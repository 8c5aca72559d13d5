"""The LAWICEL ASCII protocol of serial adapters ("slcan"): bytes in any pieces -> frames.

A line is a frame and ends with a carriage return:

    tIIILDD..   RIIIIIIIIL       t, T data; r, R remote; capitals have 29-bit identifiers, 8 digits
    dIIILDD..   BIIIIIIIILDD..   d, D CAN FD; b, B CAN FD with bit rate switch; L is a DLC code to F

with four hexadecimal digits of a millisecond stamp (0 to 59,999) at the end where the adapter was
told to give them (`Z1`). A bare carriage return or `z`, `Z` acknowledges, BELL refuses; both may
stand between lines at any time, so BELL ends a line too.

The parser works on all bytes of a block at once. Every byte is translated to the value of its hex
digit by one table; the lines' digits are gathered into a matrix in which the DLC of each line, at
its place by the type, stands in the same column; from there on a column is an array operation. What
does not fit its own length to the byte is a bad line, is counted, and costs only itself.
"""

import dataclasses
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from agent.blocks import (
    EXTENDED,
    FD_BIT_RATE_SWITCH,
    FD_FRAME,
    ID_BITS,
    REMOTE,
    Int64,
    UInt8,
    UInt16,
    UInt32,
)
from agent.clock import MILLISECOND

# Longer than any line; of a line without an end no more than this is kept, which stays malformed.
_TAIL_BYTES: Final = 512
_STAMP_RANGE_MS: Final = 60_000
_NO_DIGIT: Final = 0xFF


def _tables() -> tuple[UInt8, UInt8, NDArray[np.int16], UInt32, UInt8, NDArray[np.bool_]]:
    digit = np.full(256, _NO_DIGIT, np.uint8)
    for value, character in enumerate(b"0123456789ABCDEF"):
        digit[character] = digit[ord(chr(character).lower())] = value
    end = np.zeros(256, np.uint8)
    end[list(b"\r\n\x07")] = 1
    # Payload bytes by (type, DLC); -1 is no such frame.
    size = np.full((256, 16), -1, np.int16)
    for kind in b"tTrR":
        size[kind, :9] = range(9)
    for kind in b"dDbB":
        size[kind] = (*range(9), 12, 16, 20, 24, 32, 48, 64)
    id_flags = np.zeros(256, np.uint32)
    id_flags[list(b"TDB")] = EXTENDED
    id_flags[ord("R")] = EXTENDED | REMOTE
    id_flags[ord("r")] = REMOTE
    flags = np.zeros(256, np.uint8)
    flags[list(b"dD")] = FD_FRAME
    flags[list(b"bB")] = FD_FRAME | FD_BIT_RATE_SWITCH
    acknowledges = np.zeros(256, np.bool_)
    acknowledges[list(b"zZ")] = True
    return digit, end, size, id_flags, flags, acknowledges


_DIGIT, _END, _SIZE, _ID_FLAGS, _FLAGS, _ACKNOWLEDGES = _tables()


@dataclasses.dataclass(frozen=True, slots=True)
class SlcanFrames:
    """n frames in the order of their lines.

    id uint32[n] (with the kernel's flag bits), length uint16[n], flags uint8[n], data uint8[n, 8]
    (64 where one is longer), stamp int32[n] (milliseconds, -1 without), end int64[n] (how many
    bytes had been fed when the line was complete).
    """

    id: UInt32
    length: UInt16
    flags: UInt8
    data: UInt8
    stamp: NDArray[np.int32]
    end: Int64

    def __len__(self) -> int:
        return len(self.id)


class SlcanParser:
    """Bytes in any pieces -> frames. `bad` counts lines that are none. Never raises."""

    def __init__(self) -> None:
        self.bad = 0
        self._tail = b""
        self._consumed = 0  # stream position of the first byte of the tail

    def feed(self, data: bytes) -> SlcanFrames:
        """The frames that are complete with these bytes; what is left over waits for more."""
        joined = self._tail + data
        raw = np.frombuffer(joined, np.uint8)
        ends = np.flatnonzero(_END[raw])
        base = self._consumed
        whole = int(ends[-1]) + 1 if len(ends) else 0
        rest = joined[whole:]
        self._tail = rest[:_TAIL_BYTES]
        self._consumed += len(joined) - len(self._tail)
        starts = np.concatenate([np.zeros(min(1, len(ends)), np.int64), ends[:-1] + 1])
        sizes = ends - starts
        kinds = raw[starts]
        real = (sizes > 0) & ~((sizes == 1) & _ACKNOWLEDGES[kinds])
        starts, sizes, kinds = starts[real], sizes[real], kinds[real]
        frames, good = _parse(raw, starts, sizes, kinds)
        self.bad += len(starts) - int(np.count_nonzero(good))
        return dataclasses.replace(frames, end=ends[real][good] + 1 + base)

    def cut(self) -> None:
        """The stream breaks off here: half a line is a bad one, and never meets what comes next."""
        self.bad += bool(self._tail)
        self._tail = b""

    @property
    def endless(self) -> bool:
        """Whether more bytes than any line has came since the last end of a line."""
        return len(self._tail) == _TAIL_BYTES


class StampClock:
    """An adapter's milliseconds, which wrap at 60,000, laid into boot time.

    A read is late by an unknown time, never early. So the adapter's zero lies at the least of
    (time of read - stamp) seen so far; that least creeps up by 200 ppm, more than two quartzes
    drift apart, so that an adapter whose clock is slow does not fall behind for ever.
    """

    _CREEP_PPM: Final = 200

    def __init__(self) -> None:
        self._first: tuple[int, int] | None = None
        self._zero = 0
        self._seen = 0

    def times(self, stamps: NDArray[np.int32], reads: Int64) -> Int64:
        """Boot times int64[n], none after its read; stamps integer[n], reads int64[n], n > 0."""
        if self._first is None:
            self._first = (int(stamps[0]), int(reads[0]))
            self._zero, self._seen = int(reads[0]), int(reads[0])
        stamp, read = self._first
        since = stamps.astype(np.int64) - stamp
        expected = (reads - read) // MILLISECOND
        # One second of grace: an adapter's clock may run ahead of ours, and a read be late.
        wraps = (expected - since + 1000) // _STAMP_RANGE_MS
        elapsed = (since + wraps * _STAMP_RANGE_MS) * MILLISECOND
        crept = (int(reads[0]) - self._seen) * self._CREEP_PPM // 1_000_000
        self._zero = min(self._zero + crept, int((reads - elapsed).min()))
        self._seen = int(reads[0])
        times: Int64 = elapsed + self._zero
        return times


def _parse(
    raw: UInt8, starts: Int64, sizes: Int64, kinds: UInt8
) -> tuple[SlcanFrames, NDArray[np.bool_]]:
    """Frames of those lines that are good, and which lines these are."""
    extended = _ID_FLAGS[kinds] & np.uint32(EXTENDED) != 0
    wide = bool(_FLAGS[kinds].any())
    columns = 128 if wide else 16
    # Five digits in front, so that an 11-bit identifier ends in the same column as a 29-bit one.
    front = np.zeros(5, np.uint8)
    back = np.zeros(10 + columns + 4, np.uint8)
    digits = np.concatenate([front, _DIGIT[raw], back])
    rows = sliding_window_view(digits, 10 + columns)[starts + np.where(extended, 5, 0)]
    identifier = rows[:, 1:9].copy()
    identifier[~extended, :5] = 0
    code = rows[:, 9]
    length = _SIZE[kinds, code & 15]
    payload_digits = np.where(_ID_FLAGS[kinds] & np.uint32(REMOTE) != 0, 0, 2 * length)
    header = np.where(extended, 10, 5)
    stamped = sizes == header + payload_digits + 4
    used = np.arange(columns) < payload_digits[:, np.newaxis]
    digits_of_data = np.where(used, rows[:, 10:], 0)
    stamp_at = starts + 5 + header + np.maximum(payload_digits, 0)
    stamp_digits = sliding_window_view(digits, 4)[np.minimum(stamp_at, len(digits) - 4)]
    stamps = stamp_digits.astype(np.int32) @ np.array([4096, 256, 16, 1], np.int32)
    ids = _bytes(identifier).view(">u4")[:, 0].astype(np.uint32)
    good = (
        (sizes >= header)
        & (code < 16)
        & (length >= 0)
        & (stamped | (sizes == header + payload_digits))
        & (identifier < 16).all(axis=1)
        & (ids <= np.where(extended, ID_BITS, 0x7FF))
        & (digits_of_data < 16).all(axis=1)
        & (~stamped | ((stamp_digits < 16).all(axis=1) & (stamps < _STAMP_RANGE_MS)))
    )
    data = _bytes(digits_of_data[good])
    lengths = length[good].astype(np.uint16)
    if wide and not (lengths > 8).any():
        data = data[:, :8].copy()
    frames = SlcanFrames(
        id=ids[good] | _ID_FLAGS[kinds[good]],
        length=lengths,
        flags=_FLAGS[kinds[good]],
        data=data,
        stamp=np.where(stamped, stamps, -1)[good].astype(np.int32),
        end=np.empty(0, np.int64),
    )
    return frames, good


def _bytes(digits: UInt8) -> UInt8:
    """Pairs of hex digits uint8[n, 2 k] -> bytes uint8[n, k]."""
    joined: UInt8 = np.ascontiguousarray(digits[:, 0::2] << 4 | digits[:, 1::2])
    return joined
