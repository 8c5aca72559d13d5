"""A look at the blocks of an .mf4 before a library follows their links.

asammdf trusts the links of a file: a list of blocks that leads back into itself would be read for
ever, and a zipped block may claim any size. Here every list is walked once, without reading data.

    block   "##XX", 4 bytes, length u64, number of links u64, links u64[...], data
    DZ      @24 type of the original 2 bytes, zip type u8, 1 byte, parameter u32, original size u64,
            zipped size u64

Links outside the file end a list here; what they mean is for the reader to say.
"""

import struct
from typing import IO

from agent.errors import BusError

_BLOCK = struct.Struct("<2s2s4xQQ")
_ZIPPED = struct.Struct("<QQ")
_HEADER_AT = 64
_HEADER_BYTES = 104
_HEADER = (b"##", b"HD", _HEADER_BYTES, 6)
_MAX_LINKS = 1 << 20
# deflate packs at most 1,032 bytes into one.
_MAX_RATIO = 1100

# Which links of a block lead on to lists that a reader follows; None stands for all of them.
_FOLLOWED: dict[bytes, tuple[int, ...] | None] = {
    b"HD": (0, 1, 2, 3, 4),
    b"DG": (0, 1, 2),
    b"CG": (0, 1),
    b"CN": (0, 1, 4, 5),
    b"CC": None,
    b"CA": (0,),
    b"DL": None,
    b"LD": None,
    b"HL": (0,),
    b"FH": (0,),
    b"AT": (0,),
    b"EV": (0,),
    b"CH": (0, 1),
}


def check(file: IO[bytes], name: str) -> None:
    """Refuse a file that could keep a reader busy for ever.

    Raises:
        BusError: blocks that lead back to themselves, or a zipped block of impossible size.
    """
    size = file.seek(0, 2)
    file.seek(_HEADER_AT)
    head = file.read(_HEADER_BYTES)
    if len(head) < _HEADER_BYTES or _BLOCK.unpack_from(head) != _HEADER:
        raise BusError(f"{name} is cut or damaged: it has no whole header.")
    active: set[int] = set()
    done: set[int] = set()
    stack: list[tuple[int, list[int]]] = [(0, [_HEADER_AT])]
    while stack:
        here, onward = stack[-1]
        if not onward:
            active.discard(here)
            done.add(here)
            stack.pop()
            continue
        there = onward.pop()
        if there in active:
            raise BusError(f"{name} is damaged: its blocks lead back to themselves.")
        if there in done or not 0 < there <= size - _BLOCK.size:
            continue
        active.add(there)
        stack.append((there, _links(file, there, size, name)))


def _links(file: IO[bytes], at: int, size: int, name: str) -> list[int]:
    file.seek(at)
    marks, kind, length, count = _BLOCK.unpack(file.read(_BLOCK.size))
    if marks != b"##":
        return []
    if kind == b"DZ":
        file.seek(at + 32)
        sizes = file.read(_ZIPPED.size)
        if len(sizes) == _ZIPPED.size:
            original, zipped = _ZIPPED.unpack(sizes)
            if zipped > size or original > max(zipped, 64) * _MAX_RATIO:
                raise BusError(f"{name} is damaged: a zipped block of impossible size.")
        return []
    if kind not in _FOLLOWED or count > min(_MAX_LINKS, length // 8):
        return []
    raw = file.read(8 * count)
    links = list(struct.unpack(f"<{len(raw) // 8}Q", raw[: len(raw) // 8 * 8]))
    chosen = _FOLLOWED[kind]
    return links if chosen is None else [links[n] for n in chosen if n < len(links)]
