"""Several batches read together, so that the clock anchors of all of them date each.

What a batch of a time before the clock was right holds is dated by an anchor of a later one of the
same boot. Dated times are of the clock `wall`; without a good anchor they stay `boot`, and those of
a recording stay `recorded`.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from agent.batch.reader import BatchReader
from agent.blocks import FrameBlock, KeptFrames, Reports, SignalTable, TableSchema, concatenate
from agent.clock import Anchor, best_anchor

Path = str | os.PathLike[str]


def read_batch(*paths: Path) -> Iterator[SignalTable]:
    """The samples of batches, dated: for each file one table a schema, in the order of first use.

    Raises:
        BatchError: a file is no batch, or of a newer format. Damaged chunks are left out; use
            `BatchReader` to count them.
    """
    for reader, anchor in opened(paths):
        yield from tables_of(reader, anchor)


def read_frames(*paths: Path) -> Iterator[KeptFrames]:
    """The raw frames of batches, dated, in the order in which they lie in the files.

    Raises:
        BatchError: as `read_batch`.
    """
    for reader, anchor in opened(paths):
        yield from frames_of(reader, anchor)


def read_reports(*paths: Path) -> Iterator[Reports]:
    """The reports of batches, dated, in the order in which they lie in the files.

    Raises:
        BatchError: as `read_batch`.
    """
    for reader, anchor in opened(paths):
        yield from reports_of(reader, anchor)


def read_events(*paths: Path) -> Iterator[dict[str, Any]]:
    """The events of batches, dated, in the order in which they lie in the files.

    docs/batch-format.md says what is in one. What says no time is left out. An event that was told
    when it began and again when it was complete comes twice, with the same `id`.

    Raises:
        BatchError: as `read_batch`.
    """
    for reader, anchor in opened(paths):
        for kind, value in reader.records():
            if kind == "event" and (event := dated_event(value, anchor)) is not None:
                yield event


def opened(paths: Sequence[Path]) -> Iterator[tuple[BatchReader, Anchor | None]]:
    """Each file, and the anchor that dates it.

    Raises:
        BatchError: a file is no batch, or of a newer format.
    """
    # Twice one at a time, and not all at once: there may be many.
    anchors = list(dict.fromkeys(a for path in paths for a in BatchReader(path).anchors()))
    for path in paths:
        reader = BatchReader(path)
        yield reader, best_anchor(anchors, str(reader.header.get("boot_id", "")))


def tables_of(reader: BatchReader, anchor: Anchor | None) -> Iterator[SignalTable]:
    """The samples of one file, as `read_batch`."""
    groups: dict[tuple[TableSchema, str], list[SignalTable]] = {}
    for kind, value in reader.records():
        if kind == "samples":
            groups.setdefault((value.schema, value.campaign), []).append(value)
    for group in groups.values():
        yield dated(concatenate(group), anchor)


def frames_of(reader: BatchReader, anchor: Anchor | None) -> Iterator[KeptFrames]:
    """The raw frames of one file, as `read_frames`."""
    for kind, value in reader.records():
        if kind == "frames":
            yield dated_frames(value, anchor)


def reports_of(reader: BatchReader, anchor: Anchor | None) -> Iterator[Reports]:
    """The reports of one file, as `read_reports`."""
    for kind, value in reader.records():
        if kind == "reports":
            yield dated_reports(value, anchor)


def dated(table: SignalTable, anchor: Anchor | None) -> SignalTable:
    """A table of boot time in wall time, where there is an anchor to date it."""
    if table.clock != "boot" or anchor is None:
        return table
    schema = dataclasses.replace(table.schema, clock="wall")
    return dataclasses.replace(table, schema=schema, time=table.time + anchor.offset)


def dated_frames(frames: KeptFrames, anchor: Anchor | None) -> KeptFrames:
    """As `dated`."""
    block = frames.block
    if block.clock != "boot" or anchor is None:
        return frames
    time = block.time + anchor.offset
    moved = FrameBlock(
        block.bus, time, block.id, block.length, block.flags, block.data, clock="wall"
    )
    return KeptFrames(moved, frames.campaign)


def dated_reports(reports: Reports, anchor: Anchor | None) -> Reports:
    """As `dated`."""
    if reports.clock != "boot" or anchor is None:
        return reports
    return dataclasses.replace(reports, time=reports.time + anchor.offset, clock="wall")


def dated_event(value: Mapping[str, Any], anchor: Anchor | None) -> dict[str, Any] | None:
    """As `dated`, a copy; None where it says no time or no clock."""
    clock = value.get("clock")
    if not is_time(value.get("time")) or clock not in ("boot", "recorded"):
        return None
    event = dict(value)
    if clock == "recorded" or anchor is None:
        return event
    event["clock"] = "wall"
    for key in ("time", "first", "last"):
        if is_time(event.get(key)):
            event[key] += anchor.offset
    missing = event.get("missing")
    if isinstance(missing, list):
        event["missing"] = [_moved(part, anchor.offset) for part in missing]
    return event


def _moved(part: Any, offset: int) -> Any:
    """A part of a window: from, to, why."""
    if not isinstance(part, list):
        return part
    return [each + offset if is_time(each) else each for each in part]


def is_time(value: Any) -> TypeGuard[int]:
    """Whether something from outside can be nanoseconds."""
    return type(value) is int and -(1 << 63) <= value < 1 << 63
