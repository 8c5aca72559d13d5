"""A deterministic archive: files in a tar in a zstd frame, in the one form that `pack` gives it.

The tar is plain ustar (POSIX.1-2001 pax(1), "ustar Interchange Format"): for each file a header of
512 bytes and the content, filled up to 512; two blocks of zeros are the end, and nothing follows.
Mode 0644, owner and group 0 without names, time 0. The first file is the caller's, the others
follow in the order of their names. The zstd frame states the content size and carries a checksum.
Any tar and zstd can look into it.

`members` does not interpret what a tar may hold. It reads the name and the size from a header and
makes the header again: where the two differ by a byte, the archive is refused. So links, devices,
folders, pax and GNU extensions, sparse files, other number formats and wrong checksums are refused
without code of their own; the type is only looked at to say which it was.

Time and memory are bounded whatever comes in: the frame is unpacked piece by piece, as far as the
next file needs it; a size in a header that the rest of the frame cannot hold is refused before
anything of it is unpacked; zstd may use a window of 8 MiB, which is what its level 19 uses.
"""

import io
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from agent.batch.format import zstd
from agent.errors import UpdateError

MOST_PACKED: Final = 16 << 20
MOST_UNPACKED: Final = 64 << 20
"""Bytes of the tar, headers and filling included."""
MOST_FILES: Final = 200
"""Beside the first one."""
MOST_NAME: Final = 255
"""Bytes of a name in UTF-8."""

_BLOCK: Final = 512
_PIECE: Final = 1 << 17
_MAGIC: Final = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1: a zstd frame, and not one to be skipped
_LEVEL: Final = 19
_WINDOW_LOG: Final = 23
_HEADER: Final = struct.Struct("100s8s8s8s12s12s8s1s100s6s2s32s32s8s8s155s12x")
_SIZE: Final = re.compile(rb"[0-7]{11}\x00")
_FILE: Final = b"0"
_OTHER_TYPES: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder of its own",
    b"6": "a named pipe",
    b"x": "a pax header",
    b"g": "a pax header",
    b"K": "a GNU header for a long link",
    b"L": "a GNU header for a long name",
    b"S": "a sparse file",
}


def refused(what: str) -> UpdateError:
    return UpdateError(f"the bundle is refused: {what}; pack and publish it again")


def brief(text: str, most: int = 160) -> str:
    """What came from outside, fit for one line of a message."""
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= most else f"{text[:most]}..."


def shown(name: str) -> str:
    """A name that came from outside, in quotation marks."""
    return f'"{brief(name, 80)}"'


def pack(files: Sequence[tuple[str, bytes]]) -> bytes:
    """The archive of files; those behind the first have to be in the order of their names.

    The same files give the same bytes, with the same version of libzstd.

    Raises:
        UpdateError: a name or a size that `members` would refuse.
    """
    blocks: list[bytes] = []
    for name, content in files:
        if why := wrong_with(name):
            raise refused(f"the name {shown(name)} {why}")
        blocks += [_header(name, len(content)), content, bytes(-len(content) % _BLOCK)]
    tar = b"".join([*blocks, bytes(2 * _BLOCK)])
    if len(tar) > MOST_UNPACKED:
        raise refused(f"it has {len(tar)} bytes unpacked, where {MOST_UNPACKED} are the most")
    parameter = zstd.CompressionParameter
    compressor = zstd.ZstdCompressor(
        options={
            parameter.compression_level: _LEVEL,
            parameter.content_size_flag: 1,
            parameter.checksum_flag: 1,
        }
    )
    return compressor.compress(tar, zstd.ZstdCompressor.FLUSH_FRAME)


def members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents, as they are unpacked; only one that came to its end is whole.

    Raises:
        UpdateError: it is not, byte by byte, an archive as `pack` makes it, or it is too large.
    """
    frame = _Frame(data)
    seen: set[str] = set()
    previous = ""
    while (block := frame.take(_BLOCK)) != bytes(_BLOCK):
        name, size = _read(block)
        if name in seen:
            raise refused(f"{shown(name)} is in it twice")
        if len(seen) > 1 and name < previous:
            raise refused(f"{shown(name)} is not in the order of the names")
        if len(seen) > MOST_FILES:
            raise refused(f"it has more than {MOST_FILES} files")
        seen.add(name)
        previous = name
        if size > frame.left:
            raise refused(f"{shown(name)} says that it has {size} bytes, which is more than it has")
        content = frame.take(size)
        if any(frame.take(-size % _BLOCK)):
            raise refused(f"there are bytes between {shown(name)} and what follows")
        yield name, content
    if any(frame.take(_BLOCK)):
        raise refused("one block of zeros is followed by something else than its end")
    frame.end()


def wrong_with(name: str) -> str:
    """What is wrong with the name of a file, as the end of a sentence; nothing where it is good."""
    if not name.isprintable():
        return "has characters that cannot be shown"
    if name.startswith("/"):
        return "is absolute"
    parts = name.split("/")
    if ".." in parts:
        return 'leads upwards with ".."'
    if "" in parts or "." in parts:
        return "is no plain relative name"
    if len(name.encode()) > MOST_NAME or _split(name.encode()) is None:
        return "is too long"
    return ""


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """The two fields of a name: up to 155 bytes, then, behind a slash, up to 100."""
    if len(name) <= 100:
        return b"", name
    slash = name.find(b"/", len(name) - 101)
    return (name[:slash], name[slash + 1 :]) if 0 <= slash <= 155 else None


def _header(name: str, size: int) -> bytes:
    prefix, tail = _split(name.encode()) or (b"", b"")
    fields = [
        tail,
        *(b"%07o" % number for number in (0o644, 0, 0)),
        *(b"%011o" % number for number in (size, 0)),
        b" " * 8,  # what the checksum counts in its own place
        _FILE,
        b"",
        b"ustar",
        b"00",
        b"",
        b"",
        *(b"%07o" % number for number in (0, 0)),
        prefix,
    ]
    fields[6] = b"%06o\0 " % sum(_HEADER.pack(*fields))
    return _HEADER.pack(*fields)


def _read(block: bytes) -> tuple[str, int]:
    """The name and the size in a header, when it is the one that these two have."""
    fields = _HEADER.unpack(block)
    tail, prefix = (field.split(b"\0")[0] for field in (fields[0], fields[15]))
    try:
        name = (prefix + b"/" + tail if prefix else tail).decode()
    except UnicodeDecodeError as e:
        raise refused("a name in it is not UTF-8 text") from e
    if fields[7] != _FILE:
        kind = _OTHER_TYPES.get(fields[7], "something else than a file")
        raise refused(f"{shown(name)} is {kind}")
    if why := wrong_with(name):
        raise refused(f"the name {shown(name)} {why}")
    if not _SIZE.fullmatch(fields[4]):
        raise refused(f"the size of {shown(name)} is no number of a plain archive")
    size = int(fields[4][:-1], 8)
    if block != _header(name, size):
        raise refused(f"the header of {shown(name)} is not the one that a bundle has")
    return name, size


class _Frame:
    """One zstd frame, unpacked as far as it is asked for."""

    def __init__(self, data: bytes) -> None:
        if len(data) > MOST_PACKED:
            raise refused(f"it has {len(data)} bytes, where {MOST_PACKED} are the most")
        try:
            size = zstd.get_frame_info(data[:32]).decompressed_size
        except zstd.ZstdError as e:
            raise refused("it does not begin like a bundle") from e
        if size is None or not data.startswith(_MAGIC):
            raise refused("it does not begin like a bundle")
        if size > MOST_UNPACKED:
            raise refused(f"it has {size} bytes unpacked, where {MOST_UNPACKED} are the most")
        self.left = size
        self._data = memoryview(data)
        self._at = 0
        self._stream = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: _WINDOW_LOG}
        )

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if size > self.left:
            raise refused("it ends too early")
        self.left -= size
        taken = io.BytesIO()  # it gives its own memory away, where a join would copy it
        while size:
            piece = self._more(min(size, _PIECE))
            if not piece and self._done:
                raise refused("it ends too early")
            size -= taken.write(piece)
        return taken.getvalue()

    def end(self) -> None:
        """See that nothing is left, neither in the frame nor behind it."""
        if self.left:
            raise refused("something follows the end of the archive")
        while not self._done:
            if self._more(1):
                raise refused("something follows the end of the archive")
        if not self._stream.eof:
            raise refused("it ends too early")
        if self._stream.unused_data or self._at < len(self._data):
            raise refused("something follows the end of the archive")

    @property
    def _done(self) -> bool:
        return self._stream.eof or (self._stream.needs_input and self._at == len(self._data))

    def _more(self, most: int) -> bytes:
        if self._done:
            return b""
        piece = b""
        if self._stream.needs_input:
            piece = bytes(self._data[self._at : self._at + _PIECE])
            self._at += len(piece)
        try:
            return self._stream.decompress(piece, max_length=most)
        except zstd.ZstdError as e:
            raise refused("it is damaged: it cannot be unpacked") from e
