"""What a parser hands on, and how it becomes blocks: `Frames`, `Names`, `Tally`, `blocks`.

A parser yields `Frames`: a handful of arrays, as many frames as one piece of the file held, of all
channels mixed. `blocks` cuts the sequence of them into windows of 16,384 frames of the file and
gives each window as one block a channel. A window is counted in frames, never in bytes, so where
blocks begin depends on the file and on the choice of a channel alone, and two buses stay together
in time: a slow bus is never held back until its own block is full.
"""

import dataclasses
import re
from collections.abc import Callable, Generator, Iterator

import numpy as np
from numpy.typing import NDArray

from agent.blocks import (
    EXTENDED,
    ID_BITS,
    MAX_BLOCK_FRAMES,
    FrameBlock,
    Int64,
    UInt8,
    UInt16,
    UInt32,
)

MAX_NOTES = 10
MAX_NAMES = 256
"""More channels than any recorder has; a file that names more is damaged or hostile."""

STANDARD_ID_BITS = 0x7FF
FD_LENGTHS = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 32, 48, 64], np.int64)
"""DLC (0 to 15) -> bytes, ISO 11898-1."""


@dataclasses.dataclass(slots=True)
class Frames:
    """n frames of any channels, as `FrameBlock`, and the channel of each.

    time int64[n] (ns), id uint32[n], length uint16[n], flags uint8[n], data uint8[n, 8 or 64] (zero
    beyond the length), channel int64[n] (see `Names`).
    """

    time: Int64
    id: UInt32
    length: UInt16
    flags: UInt8
    data: UInt8
    channel: Int64

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: slice | NDArray[np.bool_] | NDArray[np.intp]) -> "Frames":
        return Frames(
            self.time[rows],
            self.id[rows],
            self.length[rows],
            self.flags[rows],
            self.data[rows],
            self.channel[rows],
        )


class Names:
    """The channels of one recording: a number stands for itself, a name gets a negative number."""

    def __init__(self) -> None:
        self._keys: dict[bytes, int] = {}
        self._names: list[str] = []

    def key(self, name: bytes) -> int | None:
        """The number of a channel that has a name; None when there are already too many."""
        known = self._keys.get(name)
        if known is not None:
            return known
        if len(self._names) == MAX_NAMES:
            return None
        self._names.append(name.decode("utf-8", "backslashreplace"))
        self._keys[name] = -len(self._names)
        return -len(self._names)

    def name(self, key: int) -> str:
        return self._names[-1 - key] if key < 0 else str(key)


class Tally:
    """What is learned on the way: the channels, how much was bad, the first places in words."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.names = Names()
        self.bad = 0
        self.notes: list[str] = []

    def skip(self, what: str, line: int | None = None, count: int = 1) -> None:
        self.bad += count
        self.note(what, line)

    def note(self, what: str, line: int | None = None) -> None:
        if len(self.notes) < MAX_NOTES:
            place = self.name if line is None else f"{self.name}:{line}"
            self.notes.append(f"{place}: {what}")


def mark_extended(number: NDArray[np.integer], extended: NDArray[np.bool_]) -> UInt32:
    """Ids with the kernel's flag: whatever the file says, an id over 11 bits is an extended one."""
    wide = extended | (number > STANDARD_ID_BITS)
    return (number.astype(np.uint32) & np.uint32(ID_BITS)) | np.where(
        wide, np.uint32(EXTENDED), np.uint32(0)
    )


def bytes_of_dlc(dlc: NDArray[np.integer], fd: NDArray[np.bool_]) -> Int64:
    """DLC -> bytes; a classic frame has at most 8. Codes beyond 15 count as 15."""
    code = np.clip(dlc, 0, 15).astype(np.int64)
    length: Int64 = np.where(fd, FD_LENGTHS[code], np.minimum(code, 8))
    return length


def chooser(names: Names, wanted: str) -> Callable[[int], bool]:
    """Whether a channel is the one that was asked for, by its name or the number it ends in."""
    number = int(wanted) if wanted.isascii() and wanted.isdigit() else None

    def choose(key: int) -> bool:
        name = names.name(key)
        trailing = re.search(r"[0-9]+\Z", name)
        return name == wanted or (
            number is not None and trailing is not None and int(trailing[0]) == number
        )

    return choose


def _widen(data: UInt8, width: int) -> UInt8:
    if data.shape[1] == width:
        return data
    wide = np.zeros((len(data), width), np.uint8)
    wide[:, : data.shape[1]] = data
    return wide


def join(parts: list[Frames]) -> Frames:
    """One after another; as wide as the widest."""
    if len(parts) == 1:
        return parts[0]
    width = max(p.data.shape[1] for p in parts)
    return Frames(
        np.concatenate([p.time for p in parts]),
        np.concatenate([p.id for p in parts]),
        np.concatenate([p.length for p in parts]),
        np.concatenate([p.flags for p in parts]),
        np.concatenate([_widen(p.data, width) for p in parts]),
        np.concatenate([p.channel for p in parts]),
    )


def _block(bus: str, frames: Frames) -> FrameBlock:
    width = 64 if int(frames.length.max()) > 8 else 8
    data = frames.data
    if data.shape[1] > width:
        data = np.ascontiguousarray(data[:, :width])
    return FrameBlock(
        bus, frames.time, frames.id, frames.length, frames.flags, _widen(data, width), "recorded"
    )


def _split(window: Frames, label: Callable[[int], str]) -> Iterator[FrameBlock]:
    """One block a channel, in the order in which the channels first appear."""
    key = window.channel
    if (key == key[0]).all():
        yield _block(label(int(key[0])), window)
        return
    order = np.argsort(key, kind="stable")
    borders = np.flatnonzero(np.diff(key[order])) + 1
    for rows in sorted(np.split(order, borders), key=lambda r: int(r[0])):
        yield _block(label(int(key[rows[0]])), window.take(rows))


def _kept(frames: Frames, choose: Callable[[int], bool]) -> Frames:
    keys = np.unique(frames.channel)
    wanted = [int(k) for k in keys if choose(int(k))]
    if len(wanted) == len(keys):
        return frames
    return frames.take(np.isin(frames.channel, wanted))


def blocks(
    parts: Iterator[Frames],
    choose: Callable[[int], bool] | None,
    label: Callable[[int], str],
) -> Generator[FrameBlock, None, None]:
    """Windows of 16,384 frames of the chosen channels (None: all), each split by channel."""
    waiting: list[Frames] = []
    count = 0
    for part in parts:
        if not len(part):
            continue
        kept = part if choose is None else _kept(part, choose)
        if not len(kept):
            continue
        waiting.append(kept)
        count += len(kept)
        if count < MAX_BLOCK_FRAMES:
            continue
        joined = join(waiting)
        whole = count - count % MAX_BLOCK_FRAMES
        for begin in range(0, whole, MAX_BLOCK_FRAMES):
            yield from _split(joined.take(slice(begin, begin + MAX_BLOCK_FRAMES)), label)
        waiting = [joined.take(slice(whole, None))] if count > whole else []
        count -= whole
    if waiting:
        yield from _split(join(waiting), label)
