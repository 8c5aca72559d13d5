"""Vector .blf: containers of compressed bytes, which together are one stream of objects.

    file      "LOGG" header, then objects "LOBJ"; those of type 10 are containers
    container 16 bytes of header, method (0 stored, 2 zlib), size, payload
    object    "LOBJ", header size u16, header version u16, object size u32, type u32,
              flags u32, 4 bytes, time u64 (its unit is in flags), in version 2 8 more bytes, body

An object may begin in one container and end in a later one. Objects are four to seven bytes apart
from where their size says they end, so the next one is searched for within eight bytes.

The places of the objects in a stretch of the stream come from one search for "LOBJ": if every
occurrence lies where the one before says, they are the chain of objects. If not (a payload that
contains the letters, or damage), the chain is walked one by one. Sizes in the file are only ever
compared, never allocated; an object larger than 64 KiB is no frame and is passed over in the
stream. Layout of the objects: as python-can reads and writes them (can/io/blf.py).
"""

import datetime as dt
import struct
import zlib
from collections.abc import Iterator

import numpy as np

from agent.blocks import Int64, UInt8
from agent.bus.logs.blf_objects import FRAME_TYPES, MARGIN, decode
from agent.bus.logs.frames import Frames, Tally
from agent.bus.logs.source import Source
from agent.errors import BusError

MAGIC = b"LOGG"

_FILE_HEADER = struct.Struct("<4sL")
_START_AT = 40
_SYSTEM_TIME = struct.Struct("<8H")
_FILE_HEADER_BYTES = 72
_OBJECT = struct.Struct("<4sHHLL")
_CONTAINER = struct.Struct("<H6xL4x")
_CONTAINER_TYPE = 10
_STORED, _ZLIB = 0, 2
_SIGNATURE = b"LOBJ"
_SEARCH_BYTES = 8

_PIECE_BYTES = 1 << 20
_READ_BYTES = 1 << 16
_MAX_OBJECT_BYTES = 1 << 16


def read(source: Source, tally: Tally) -> Iterator[Frames]:
    """As the other parsers.

    Raises:
        BusError: the file has no BLF header.
    """
    head = source.read(_FILE_HEADER_BYTES)
    if len(head) < _FILE_HEADER_BYTES or not head.startswith(MAGIC):
        raise BusError(f"{source.path} has no whole header of a BLF recording.")
    _, header_bytes = _FILE_HEADER.unpack_from(head)
    start = _start_ns(head)
    _pass_over(source, max(header_bytes - _FILE_HEADER_BYTES, 0))

    rest = b""
    skip = 0
    gathered: list[bytes] = []
    size = 0
    for data in _stream(source, tally):
        taken = data[skip:]
        skip -= len(data) - len(taken)
        gathered.append(taken)
        size += len(taken)
        if data and size < _PIECE_BYTES:
            continue
        stretch = b"".join([rest, *gathered])
        frames, used = _objects(stretch, start, tally)
        yield frames
        gathered, size = [], 0
        # No data is a gap: what was begun before it is lost with it.
        skip = max(used - len(stretch), 0) if data else 0
        rest = stretch[used:] if data else b""
    stretch = b"".join([rest, *gathered])
    frames, used = _objects(stretch, start, tally)
    yield frames
    if len(stretch) - used >= _SEARCH_BYTES or used > len(stretch) or skip:
        tally.skip("the last object is cut, skipped")
    if source.broken:
        tally.note(f"{source.broken}; what came before was read")


def _start_ns(head: bytes) -> int:
    year, month, _, day, hour, minute, second, milli = _SYSTEM_TIME.unpack_from(head, _START_AT)
    try:
        start = dt.datetime(year, month, day, hour, minute, second, tzinfo=dt.UTC)
    except ValueError:
        return 0
    seconds = (start - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(seconds=1)
    if milli > 999 or abs(seconds) > 1 << 32:
        return 0
    return (seconds * 1000 + int(milli)) * 1_000_000


def _pass_over(source: Source, size: int) -> None:
    while size > 0 and (data := source.read(min(size, _READ_BYTES))):
        size -= len(data)


class _Ahead:
    """A source with a look at what comes next."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._next = b""

    def peek(self, size: int) -> bytes:
        if len(self._next) < size:
            self._next += self._source.read(size - len(self._next))
        return self._next[:size]

    def read(self, size: int) -> bytes:
        data = self.peek(size)
        self._next = self._next[size:]
        return data


class _Body:
    """The bytes of one container."""

    def __init__(self, ahead: _Ahead, size: int) -> None:
        self._ahead = ahead
        self._left = size

    def read(self, size: int) -> bytes:
        data = self._ahead.read(min(size, self._left))
        self._left = self._left - len(data) if data else 0
        return data


def _stream(source: Source, tally: Tally) -> Iterator[bytes]:
    """The payload of the containers, unpacked, in bounded pieces; an empty one is a gap."""
    ahead = _Ahead(source)
    while head := ahead.peek(_OBJECT.size + _SEARCH_BYTES):
        at = head.find(_SIGNATURE, 0, _SEARCH_BYTES + 3)
        if at < 0 and len(head) < _OBJECT.size + _SEARCH_BYTES:
            if head.strip(b"\0"):
                tally.skip("the last container is cut, skipped")
            return
        if at < 0:
            tally.skip("damaged between two containers; the next one is searched for")
            _search(ahead)
            yield b""
            continue
        ahead.read(at)
        head = ahead.read(_OBJECT.size)
        if len(head) < _OBJECT.size:
            tally.skip("the last container is cut, skipped")
            return
        _, _, _, size, kind = _OBJECT.unpack(head)
        if size < _OBJECT.size:
            tally.skip("a container that says it is smaller than its header, skipped")
            yield b""
            continue
        body = _Body(ahead, size - _OBJECT.size)
        if kind == _CONTAINER_TYPE:
            yield from _unpack(body, tally)
        while body.read(_READ_BYTES):
            pass


def _search(ahead: _Ahead) -> None:
    """To the next "LOBJ", or to the end of the file."""
    ahead.read(1)
    while (block := ahead.peek(_READ_BYTES)) and (at := block.find(_SIGNATURE)) != 0:
        if at > 0:
            ahead.read(at)
        else:
            ahead.read(len(block) - 3 if len(block) == _READ_BYTES else len(block))


def _unpack(body: _Body, tally: Tally) -> Iterator[bytes]:
    head = body.read(_CONTAINER.size)
    if len(head) < _CONTAINER.size:
        tally.skip("the last container is cut, skipped")
        yield b""
        return
    method, size = _CONTAINER.unpack(head)
    if method == _STORED:
        while data := body.read(_READ_BYTES):
            size -= len(data)
            yield data
        if size > 0:
            tally.skip("a container is cut; what came before was read")
            yield b""
        return
    if method != _ZLIB:
        tally.skip(f"a container with compression {method}, which is not known, skipped")
        yield b""
        return
    unpacker = zlib.decompressobj()
    try:
        while not unpacker.eof:
            packed = unpacker.unconsumed_tail or body.read(_READ_BYTES)
            if not packed:
                tally.skip("a container is cut; what came before was read")
                yield b""
                return
            if data := unpacker.decompress(packed, _PIECE_BYTES):
                yield data
    except zlib.error as error:
        tally.skip(f"a container is damaged ({error}); what came before was read")
        yield b""


def _objects(stretch: bytes, start: int, tally: Tally) -> tuple[Frames, int]:
    """The frames of a stretch, and how many of its bytes are done with (more, if to be skipped)."""
    array = np.frombuffer(stretch + bytes(MARGIN), np.uint8)
    found = _chain(array, len(stretch))
    if found is None:
        places, used, lost = _walk(stretch)
        if lost:
            tally.skip("damaged objects, skipped", count=lost)
    else:
        places, used = found
    frames, lost = decode(array, places, start)
    if lost:
        tally.skip("objects whose fields contradict each other, skipped", count=lost)
    return frames, used


def _chain(array: UInt8, size: int) -> tuple[Int64, int] | None:
    """Where the whole objects begin, and where the last ends; None if they must be walked."""
    letters = np.frombuffer(_SIGNATURE, np.uint8)
    places = np.flatnonzero(array[: max(size - _OBJECT.size + 1, 0)] == letters[0])
    for n in (1, 2, 3):
        places = places[array[places + n] == letters[n]]
    if not len(places):
        return None
    sizes = np.zeros(len(places), np.int64)
    for n in range(4):
        sizes |= array[places + 8 + n].astype(np.int64) << (8 * n)
    ends = places + sizes
    gaps = np.append(places[0], places[1:] - ends[:-1])
    if (gaps < 0).any() or (gaps >= _SEARCH_BYTES).any() or (sizes < _OBJECT.size).any():
        return None
    last = int(ends[-1])
    if last > size:
        whole = sizes[-1] <= _MAX_OBJECT_BYTES
        return (places[:-1], int(places[-1])) if whole else None
    return (places, last) if size - last < _OBJECT.size + _SEARCH_BYTES else None


def _walk(stretch: bytes) -> tuple[Int64, int, int]:
    """The same one by one, over damage: places, bytes done with, objects lost."""
    places = []
    lost = 0
    at = 0
    while at + _OBJECT.size <= len(stretch):
        begin = stretch.find(_SIGNATURE, at, at + _SEARCH_BYTES + 3)
        if begin < 0:
            lost += 1
            begin = stretch.find(_SIGNATURE, at)
            if begin < 0:
                at = len(stretch) - 3
                break
        at = begin
        if begin + _OBJECT.size > len(stretch):
            break
        _, _, _, size, kind = _OBJECT.unpack_from(stretch, begin)
        if size < _OBJECT.size or (kind in FRAME_TYPES and size > _MAX_OBJECT_BYTES):
            lost += 1
            at = begin + len(_SIGNATURE)
        elif begin + size <= len(stretch):
            places.append(begin)
            at = begin + size
        elif size > _MAX_OBJECT_BYTES:
            at = begin + size
        else:
            break
    return np.array(places, np.int64), at, lost
