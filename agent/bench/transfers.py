"""J1939 messages of more than eight bytes, cut into the frames that carry them.

Three ways (agent.signals.transport reads them): a broadcast (BAM, J1939-21 5.10.2) every 50 ms to
everybody; a transfer with RTS, CTS and EndOfMsgACK to one node (5.10.3), with the frames of both;
and the fast packets of NMEA 2000. All messages of one id are cut at once.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from agent.bench.pages import Part
from agent.blocks import EXTENDED, Int64, UInt8
from agent.clock import MILLISECOND
from agent.signals.model import Message

MAX_BYTES: Final = 1785
MAX_FAST: Final = 223
_BROADCAST_NS: Final = 50 * MILLISECOND
_DIRECT_NS: Final = 5 * MILLISECOND
_FAST_NS: Final = MILLISECOND
_LONGEST_NS: Final = 4_800 * MILLISECOND
_RTS, _CTS, _END, _BAM = 16, 17, 19, 32
_TO_ALL: Final = 0xFF


def destination(message: Message) -> int:
    """The node that a message is for; 0xFF for everybody."""
    return message.id >> 8 & 0xFF if (message.id >> 16 & 0xFF) < 240 else _TO_ALL


def steps(message: Message, *, fast: bool) -> int:
    """How many frames one message takes, those of the receiver included."""
    if fast:
        return 1 + message.length // 7
    packets = -(-message.length // 7)
    return packets + (1 if destination(message) == _TO_ALL else 3)


def gap_ns(message: Message, *, fast: bool) -> int:
    """Time between two of these frames."""
    if fast:
        return _FAST_NS
    usual = _BROADCAST_NS if destination(message) == _TO_ALL else _DIRECT_NS
    return min(usual, _LONGEST_NS // steps(message, fast=False))


def cut(message: Message, time: Int64, number: Int64, data: UInt8, *, fast: bool) -> list[Part]:
    """The frames of n messages that begin at `time`.

    Args:
        message: whose length is 1 to 223 bytes (fast), or 9 to 1785.
        time: int64[n].
        number: int64[n], which counts the messages.
        data: uint8[n, at least length], the payloads.
        fast: as fast packets.
    """
    payload = data[:, : message.length]
    gap = gap_ns(message, fast=fast)
    if fast:
        rows = _fast_packets(payload, number)
        return [(time + k * gap, message.id | EXTENDED, 8, r) for k, r in enumerate(rows)]
    source, target = message.id & 0xFF, destination(message)
    packets = -(-message.length // 7)
    group = message.pgn.to_bytes(3, "little")
    size = message.length.to_bytes(2, "little")
    control = EXTENDED | 0x1CEC_0000
    there, back = control | target << 8 | source, control | source << 8 | target
    opening = [(there, bytes([_BAM, *size, packets, 0xFF, *group]))]
    closing: list[tuple[int, bytes]] = []
    if target != _TO_ALL:
        opening = [
            (there, bytes([_RTS, *size, packets, 0xFF, *group])),
            (back, bytes([_CTS, packets, 1, 0xFF, 0xFF, *group])),
        ]
        closing = [(back, bytes([_END, *size, packets, 0xFF, *group]))]
    carried = EXTENDED | 0x1CEB_0000 | target << 8 | source
    frames = [(i, _same(row, len(time))) for i, row in opening]
    frames += [(carried, row) for row in _packets(payload, packets)]
    frames += [(i, _same(row, len(time))) for i, row in closing]
    return [(time + k * gap, i, 8, row) for k, (i, row) in enumerate(frames)]


def _same(row: bytes, n: int) -> UInt8:
    return np.tile(np.frombuffer(row, np.uint8), (n, 1))


def _packets(payload: UInt8, packets: int) -> Sequence[UInt8]:
    """Numbers from 1, and 7 bytes each; the last one filled up with 0xFF."""
    n, size = payload.shape
    padded = np.full((n, 7 * packets), 0xFF, np.uint8)
    padded[:, :size] = payload
    rows = np.empty((packets, n, 8), np.uint8)
    rows[:, :, 0] = np.arange(1, packets + 1)[:, np.newaxis]
    rows[:, :, 1:] = padded.reshape(n, packets, 7).swapaxes(0, 1)
    return list(rows)


def _fast_packets(payload: UInt8, number: Int64) -> Sequence[UInt8]:
    n, size = payload.shape
    packets = 1 + size // 7
    padded = np.full((n, 7 * packets), 0xFF, np.uint8)
    padded[:, 0] = size
    padded[:, 1 : 1 + size] = payload
    rows = np.empty((packets, n, 8), np.uint8)
    sequence = (number % 8).astype(np.uint8) << np.uint8(5)
    rows[:, :, 0] = sequence | np.arange(packets, dtype=np.uint8)[:, np.newaxis]
    rows[:, :, 1:] = padded.reshape(n, packets, 7).swapaxes(0, 1)
    return list(rows)
