"""What flows through a campaign: tables and raw frames, both rows with a time."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.blocks import FrameBlock, Int64, KeptFrames, SignalTable

Rows = SignalTable | KeptFrames


def times(rows: Rows) -> Int64:
    """int64[n], ns."""
    return rows.time if isinstance(rows, SignalTable) else rows.block.time


def bus_of(rows: Rows) -> str:
    return rows.bus if isinstance(rows, SignalTable) else rows.block.bus


def take(rows: Rows, mask: NDArray[np.bool_]) -> Rows:
    """Some of the rows; the same object where it is all of them."""
    if mask.all():
        return rows
    if isinstance(rows, SignalTable):
        return rows.take(mask)
    return KeptFrames(rows.block[mask], rows.campaign)


def owned(rows: Rows) -> Rows:
    """A copy that keeps nothing alive but itself: tables are views of all that a block gave."""
    if isinstance(rows, KeptFrames):
        return KeptFrames(_owned_frames(rows.block), rows.campaign)
    return SignalTable(
        rows.schema,
        rows.time.copy(),
        {kind: array.copy() for kind, array in rows.values.items()},
        tuple(payload.copy() for payload in rows.payloads),
        rows.campaign,
    )


def _owned_frames(block: FrameBlock) -> FrameBlock:
    arrays = (block.time, block.id, block.length, block.flags, block.data)
    time, ids, length, flags, data = (_own(array) for array in arrays)
    return FrameBlock(block.bus, time, ids, length, flags, data, block.clock)


def _own(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.base is None else array.copy()


def samples(rows: Iterable[Rows]) -> int:
    return sum(each.samples for each in rows)
