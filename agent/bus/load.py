"""How busy a bus was: bits of the frames that were seen, over its bit rate. Pure.

A classic frame with n bytes of data has 47 + 8 n bits with an 11-bit identifier and 67 + 8 n with
29 bits, the three bits between frames included. All but the last 13 of them are stuffed: a bit is
put in after five equal ones. In the worst case that adds a quarter, in random data a thirtieth; the
frames of real drives have 0.094 to 0.095 stuffing bits a bit (two makes of cars, 11-bit
identifiers). Counting them would cost more than everything else together, so that mean is taken:
the load of one second is good to about one part in thirty.

A CAN FD frame (ISO 11898-1) has 30 bits at the nominal rate (50 with 29-bit identifiers) and

    5 + 8 n    error state, length, data: stuffed as above
    4 + 17     stuff count, CRC, and 6 fixed stuffing bits (up to 16 bytes)
    4 + 21     the same, and 7 fixed stuffing bits (beyond)

at the data rate if it switches. Error frames and frames that other nodes break off are not counted.
"""

from typing import Final

import numpy as np

from agent.blocks import ERROR, EXTENDED, FD_BIT_RATE_SWITCH, FD_FRAME, REMOTE, FrameBlock

_STUFFING: Final = 0.095
_SHORT: Final = 47
_LONG: Final = 67
_NEVER_STUFFED: Final = 13  # CRC delimiter, acknowledgement, end of frame, intermission
_FD_SHORT: Final = 30
_FD_LONG: Final = 50
_FD_BEFORE_DATA: Final = 5
_FD_CRC_17: Final = 4 + 17 + 6
_FD_CRC_21: Final = 4 + 21 + 7


def busy_bits(block: FrameBlock) -> tuple[float, float]:
    """Bits of all frames of a block: (at the nominal rate, at the rate of FD data)."""
    identifier = block.id
    real = identifier & np.uint32(ERROR) == 0
    extended = identifier & np.uint32(EXTENDED) != 0
    fd = block.flags & np.uint8(FD_FRAME) != 0
    payload = np.where(identifier & np.uint32(REMOTE), 0, block.length).astype(np.int64) * 8
    classic = real & ~fd
    frames = int(np.count_nonzero(classic))
    longer = int(np.count_nonzero(classic & extended))
    bits = _SHORT * frames + (_LONG - _SHORT) * longer + int(payload[classic].sum())
    nominal = bits + _STUFFING * (bits - _NEVER_STUFFED * frames)
    switched = 0.0
    if fd.any():
        real &= fd
        head = np.where(extended, _FD_LONG, _FD_SHORT)
        head = head + _STUFFING * (head - _NEVER_STUFFED)
        crc = np.where(payload > 8 * 16, _FD_CRC_21, _FD_CRC_17)
        body = (_FD_BEFORE_DATA + payload) * (1 + _STUFFING) + crc
        fast = real & (block.flags & np.uint8(FD_BIT_RATE_SWITCH) != 0)
        nominal += float(head[real].sum() + body[real & ~fast].sum())
        switched = float(body[fast].sum())
    return nominal, switched


class LoadMeter:
    """Adds up bits between two readings.

    Args:
        bitrate: nominal, in bit/s; None where it is not known, which leaves the load unknown.
        data_bitrate: of FD data, in bit/s; None leaves the load unknown once a frame uses it.
    """

    def __init__(self, bitrate: int | None, data_bitrate: int | None = None) -> None:
        self.bitrate = bitrate
        self.data_bitrate = data_bitrate
        self._nominal = 0.0
        self._switched = 0.0

    def add(self, block: FrameBlock) -> None:
        if self.bitrate:
            nominal, switched = busy_bits(block)
            self._nominal += nominal
            self._switched += switched

    def read(self, seconds: float) -> float | None:
        """The share of these seconds in which the bus was busy, 0 to 1; begins anew."""
        nominal, switched = self._nominal, self._switched
        self._nominal = self._switched = 0.0
        if not self.bitrate or seconds <= 0 or (switched and not self.data_bitrate):
            return None
        busy = nominal / self.bitrate
        if switched and self.data_bitrate:
            busy += switched / self.data_bitrate
        # Frames of the second before may be read in this one, and stuffing is estimated.
        return min(1.0, busy / seconds)
