"""The file of one vehicle: what it sent, frame after frame, as it came.

An entry is a head and the bytes of a frame. It is written whole, with one write, before the frame
is answered; fsync is left out, as only a kill of this process has to be survived here. A kill in
the middle of a write leaves a torn entry at the end, which was never answered: it is cut off when
the file is read again.

    bytes
        1  kind: 1 a frame that was read, 2 a malformed one, 3 bytes that belong to no frame
        1  bit 0: the vehicle was off; bit 1: it has a part of a pack only
        1  alarm level
        1  0
        4  alarm flags; of kind 3, how many start marks led to no frame
        4  CRC32 of the information items, without time and signature
        4  length of the frame
        8  arrival, nanoseconds since 1970
        4  CRC32 of all before it and of the frame
"""

import contextlib
import dataclasses
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from agent.clock import WallNs
from agent.gbt32960.envelope import MAX_FRAME

FRAME: Final = 1
MALFORMED: Final = 2
DAMAGED: Final = 3

_HEAD: Final = struct.Struct(">BBBxIIIq")
_CHECK: Final = struct.Struct(">I")
OVERHEAD: Final = _HEAD.size + _CHECK.size


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One frame, and what was seen in it."""

    kind: int
    arrival: WallNs
    frame: bytes = b""
    off: bool = False
    split: bool = False
    level: int = 0
    flags: int = 0
    content: int = 0

    def to_bytes(self) -> bytes:
        head = _HEAD.pack(
            self.kind,
            self.off | self.split << 1,
            self.level,
            self.flags,
            self.content,
            len(self.frame),
            self.arrival,
        )
        return head + _CHECK.pack(zlib.crc32(self.frame, zlib.crc32(head))) + self.frame


class Journal:
    """Appends to and reads the file at `path`.

    Attributes:
        size: bytes of it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.size = 0

    def read(self) -> Iterator[Entry]:
        """All entries; a torn one at the end is cut off.

        Raises:
            OSError: the file cannot be read, or not be cut.
        """
        self.size = 0
        with self._path.open("rb") as file:
            while (entry := _next(file.read(OVERHEAD), file.read)) is not None:
                self.size += OVERHEAD + len(entry.frame)
                yield entry
        os.truncate(self._path, self.size)

    def append(self, entry: Entry) -> None:
        """Write an entry; it survives a kill of this process from now on.

        Raises:
            OSError: it could not be written; the file is as before.
        """
        data = entry.to_bytes()
        # Thousands of vehicles would need thousands of open files.
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        written = 0
        try:
            written = os.write(fd, data)
        finally:
            if written != len(data):
                with contextlib.suppress(OSError):
                    os.ftruncate(fd, self.size)
            os.close(fd)
        if written != len(data):
            raise OSError(f"{self._path}: the disk is full")
        self.size += len(data)


def _next(head: bytes, read: Callable[[int], bytes]) -> Entry | None:
    if len(head) < OVERHEAD:
        return None
    kind, bits, level, flags, content, size, arrival = _HEAD.unpack_from(head)
    if size > MAX_FRAME:
        return None
    frame = read(size)
    (check,) = _CHECK.unpack_from(head, _HEAD.size)
    if len(frame) < size or zlib.crc32(frame, zlib.crc32(head[: _HEAD.size])) != check:
        return None
    off, split = bool(bits & 1), bool(bits & 2)
    return Entry(kind, WallNs(arrival), frame, off, split, level, flags, content)
