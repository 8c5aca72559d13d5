"""Raw frames to bytes and back; docs/batch-format.md, "raw frames".

A record holds frames of one bus, campaign and clock, in the order in which they were kept, and
needs no other record to be read. Frames that agree in id, flags and length are of one kind. A table
names the kinds, a column the kind of each frame, another one the times. The payloads lie by kind:
the first of each kind whole, of the others what each byte changed since the frame of that kind
before, in byte planes over all kinds of one length.

Measured on recordings, chunks of a second, microseconds: 1.2 bytes a frame on the two buses of a
car, 1.9 on a truck's, 5.3 where nearly every byte is a measurement; the same without sorting by
kind takes 1.0 to 1.8 times as much. A sort in which each kind has a time column of its own, and
none says the order, takes a tenth more, and loses the order of equal times.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from agent.batch.format import MAX_RECORD
from agent.batch.words import Cursor, column, unzigzag, whole, zigzag
from agent.blocks import (
    FrameBlock,
    Int64,
    KeptFrames,
    TimeBase,
    UInt8,
    UInt16,
    UInt64,
)
from agent.errors import BatchError

RESOLUTION_NS = 1000
"""Of frames, in a batch whose samples have no finer one: the kernel's stamps are not better."""
MAX_FRAME_BYTES = 16 << 20
"""What the frames of one chunk may unpack to, at the most."""

_BESIDE = 15
"""Bytes of a frame beside its data: time 8, id 4, length 2, flags 1."""
_KIND = 7
"""Bytes of a kind in the table: id 4, flags 1, length 2."""
_RECORD = "a frames record"


def frame_bytes(longest: int) -> int:
    """What each frame of a record takes in memory, where the longest has so many bytes."""
    return _BESIDE + _width(longest)


def _width(longest: int) -> int:
    return 8 if longest <= 8 else max(64, longest)


def unpacked_bytes(frames: KeptFrames) -> int:
    """What frames take once they are read."""
    return len(frames) * frame_bytes(int(frames.block.length.max()))


def joined(parts: Sequence[KeptFrames]) -> KeptFrames:
    """Frames of one bus, campaign and clock, one after another; as wide as the widest."""
    if len(parts) == 1:
        return parts[0]
    blocks = [part.block for part in parts]
    width = max(block.data.shape[1] for block in blocks)
    block = FrameBlock(
        blocks[0].bus,
        np.concatenate([b.time for b in blocks]),
        np.concatenate([b.id for b in blocks]),
        np.concatenate([b.length for b in blocks]),
        np.concatenate([b.flags for b in blocks]),
        np.concatenate([widened(b.data, width) for b in blocks]),
        blocks[0].clock,
    )
    return KeptFrames(block, parts[0].campaign)


def pieces(frames: KeptFrames) -> Iterator[KeptFrames]:
    """In records of a bounded size."""
    block = frames.block
    step = max(1, MAX_RECORD // frame_bytes(int(block.length.max())))
    if len(block) <= step:
        yield frames
        return
    for begin in range(0, len(block), step):
        yield KeptFrames(block[begin : begin + step], frames.campaign)


def widened(data: UInt8, width: int) -> UInt8:
    """The same bytes, zeros behind them, uint8[n, width]."""
    if data.shape[1] == width:
        return data
    wide = np.zeros((len(data), width), np.uint8)
    wide[:, : data.shape[1]] = data
    return wide


def pack_frames(frames: KeptFrames, resolution_ns: int = RESOLUTION_NS) -> dict[str, Any]:
    """The map of one frames record; there is at least one frame."""
    block = frames.block
    kinds, kind = _kinds(block)
    length = (kinds >> np.uint64(40)).astype("<u2")
    time = block.time // resolution_ns
    table = (
        (kinds >> np.uint64(8)).astype("<u4"),
        kinds.astype(np.uint8),
        length,
    )
    parts = [
        *(values.tobytes() for values in table),
        column(zigzag(np.diff(time).view(np.uint64))),
        column(kind.astype(np.uint64)),
        *_pack_payloads(block, kind, length),
    ]
    record: dict[str, Any] = {
        "bus": block.bus,
        "clock": block.clock,
        "resolution_ns": resolution_ns,
        "n": len(block),
        "kinds": len(kinds),
        "first": int(time[0]),
        "columns": b"".join(parts),
    }
    if frames.campaign:
        record["campaign"] = frames.campaign
    return record


def _kinds(block: FrameBlock) -> tuple[UInt64, NDArray[np.intp]]:
    """The kinds, as length << 40 | id << 8 | flags, ascending; and the kind of each frame."""
    keys = (
        block.length.astype(np.uint64) << np.uint64(40)
        | block.id.astype(np.uint64) << np.uint64(8)
        | block.flags.astype(np.uint64)
    )
    return np.unique(keys, return_inverse=True)


def _groups(kind: NDArray[np.integer], length: UInt16) -> Iterator[tuple[int, Int64, Int64]]:
    """For each length but 0: that, the rows of it by kind, and which of those begin a kind."""
    order = np.argsort(kind, kind="stable")
    sorted_kinds = kind[order]
    begins = np.ones(len(order), bool)
    begins[1:] = sorted_kinds[1:] != sorted_kinds[:-1]
    lengths = length[sorted_kinds]
    edges = [0, *(np.flatnonzero(lengths[1:] != lengths[:-1]) + 1).tolist(), len(order)]
    for a, b in itertools.pairwise(edges):
        if size := int(lengths[a]):
            yield size, order[a:b], np.flatnonzero(begins[a:b])


def _pack_payloads(
    block: FrameBlock, kind: NDArray[np.intp], length: UInt16
) -> tuple[bytes, bytes]:
    firsts: list[bytes] = []
    changes: list[bytes] = []
    for size, rows, begins in _groups(kind, length):
        data = block.data[rows, :size]
        firsts.append(data[begins].tobytes())
        change = np.delete(data[1:] - data[:-1], begins[1:] - 1, axis=0)
        changes.append(change.T.tobytes())
    return b"".join(firsts), b"".join(changes)


def unpack_frames(record: Mapping[str, Any], room: int = MAX_FRAME_BYTES) -> KeptFrames:
    """The frames of one record; they may take `room` bytes in memory.

    Raises:
        BatchError: the record contradicts itself, or is of an impossible size.
    """
    try:
        cursor = Cursor(record["columns"], _RECORD)
        n = whole(record["n"], 1, room // _BESIDE, _RECORD)
        count = whole(record["kinds"], 1, n, _RECORD)
        resolution = whole(record["resolution_ns"], 1, 10**10, _RECORD)
        first = whole(record["first"], -(1 << 63), (1 << 63) - 1, _RECORD)
        bus, campaign, clock = record["bus"], record.get("campaign", ""), record["clock"]
        if not (isinstance(bus, str) and isinstance(campaign, str) and clock in get_args(TimeBase)):
            raise BatchError(f"{_RECORD} has a bus, campaign or clock that is none")
    except (KeyError, TypeError, ValueError) as e:
        raise BatchError(f"{_RECORD} lacks a part or has it in the wrong form: {e}") from e
    ids = np.frombuffer(cursor.take(4 * count), "<u4")
    flags = np.frombuffer(cursor.take(count), np.uint8)
    length = np.frombuffer(cursor.take(2 * count), "<u2")
    if (length[1:] < length[:-1]).any():
        raise BatchError(f"{_RECORD} has kinds that are not in order")
    longest = int(length[-1])
    if n * frame_bytes(longest) > room:
        raise BatchError(f"{_RECORD} says impossible sizes")
    time = np.empty(n, np.int64)
    time[0] = first
    time[1:] = unzigzag(cursor.column(n - 1)).view(np.int64)
    time = np.cumsum(time) * resolution
    numbers = cursor.column(n)
    if int(numbers.max()) >= count:
        raise BatchError(f"{_RECORD} has a frame of a kind that is none")
    kind = numbers.astype(np.intp)
    if not np.bincount(kind, minlength=count).all():
        raise BatchError(f"{_RECORD} has a kind without a frame")
    data = _unpack_payloads(cursor, kind, length, (n, _width(longest)))
    cursor.end()
    block = FrameBlock(
        bus,
        time,
        ids.astype(np.uint32)[kind],
        length.astype(np.uint16)[kind],
        flags[kind],
        data,
        clock,
    )
    return KeptFrames(block, campaign)


def _unpack_payloads(
    cursor: Cursor, kind: NDArray[np.intp], length: UInt16, shape: tuple[int, int]
) -> UInt8:
    # Nothing is made before it is known that the bytes for it are there.
    firsts = np.frombuffer(cursor.take(int(length.sum(dtype=np.int64))), np.uint8)
    data = np.zeros(shape, np.uint8)
    taken = 0
    for size, rows, begins in _groups(kind, length):
        first = firsts[taken : taken + len(begins) * size].reshape(-1, size)
        taken += first.size
        others = len(rows) - len(begins)
        planes = np.frombuffer(cursor.take(others * size), np.uint8).reshape(size, others)
        rest = np.ones(len(rows), bool)
        rest[begins] = False
        # One sum over all kinds; what it had where a kind begins is taken off again.
        change = np.zeros((len(rows), size), np.uint8)
        change[rest] = planes.T
        total = np.cumsum(change, axis=0, dtype=np.uint8)
        of_kind = np.cumsum(~rest) - 1
        data[rows, :size] = total + (first - total[begins])[of_kind]
    return data
