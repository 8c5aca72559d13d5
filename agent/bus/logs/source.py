"""The bytes of a recording: opened, decompressed as they are read, never more than was asked for.

Compression is told by the first bytes, whatever the name says. All of it is streamed: a file that
unpacks to a million times its size costs time, not memory. A compressed file that ends early or is
damaged gives what came before; `broken` then says why it ended.
"""

import gzip
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from agent.errors import BusError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

HEAD_BYTES = 1 << 16
_RAW_BYTES = 1 << 16
# xz -9 asks for 65 MB; a dictionary of gigabytes is a trap.
_XZ_MEMORY = 192 << 20

_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, zstd.ZstdError, ValueError)


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Unpacked:
    """Streams of xz or zstd, one after another, with at most `size` bytes unpacked a read."""

    def __init__(self, raw: BinaryIO, new: Callable[[], _Decompressor]) -> None:
        self._raw = raw
        self._new = new
        self._stream = new()
        self._begun = False

    def read(self, size: int, /) -> bytes:
        while True:
            if self._stream.eof:
                # What follows may be a further stream, or the zeros that xz allows as padding.
                rest = (self._stream.unused_data or self._raw.read(_RAW_BYTES)).lstrip(b"\0")
                if not rest:
                    if not (peek := self._raw.read(_RAW_BYTES)):
                        return b""
                    rest = peek
                self._stream = self._new()
                data = self._stream.decompress(rest, size)
            else:
                rest = self._raw.read(_RAW_BYTES) if self._stream.needs_input else b""
                if not rest and self._stream.needs_input:
                    raise EOFError
                data = self._stream.decompress(rest, size)
            if data:
                return data


def _new_xz() -> _Decompressor:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)


def _new_zstd() -> _Decompressor:
    return zstd.ZstdDecompressor()


class Source:
    """A file of a recording, to be read from front to back.

    Raises:
        BusError: the file is missing, no regular file, empty, or may not be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.fspath(path))
        self.name = self.path.name
        self.broken = ""
        self.share: float | None = None
        """How much has been read, 0 to 1, where the parser knows better than the file's position"""
        self._raw = _open(self.path)
        self._size = max(os.fstat(self._raw.fileno()).st_size, 1)
        magic = self._raw.read(6)
        self._raw.seek(0)
        self.compression = ""
        self._stream: _Readable = self._raw
        if magic.startswith(b"\x1f\x8b"):
            self.compression = "gzip"
            self._stream = gzip.GzipFile(fileobj=self._raw)
        elif magic.startswith(b"\xfd7zXZ\0"):
            self.compression = "xz"
            self._stream = _Unpacked(self._raw, _new_xz)
        elif magic.startswith(b"\x28\xb5\x2f\xfd"):
            self.compression = "zstd"
            self._stream = _Unpacked(self._raw, _new_zstd)
        self._ahead = b""
        self._ahead = self.read(HEAD_BYTES)
        self.head = self._ahead
        """The first 64 KiB"""
        if not self.head:
            self.close()
            why = f" of which nothing can be unpacked: {self.broken}" if self.broken else ""
            raise BusError(f"{self.path} is an empty recording{why}.")

    @property
    def progress(self) -> float:
        if self.share is not None:
            return min(self.share, 1.0)
        if self._raw.closed:
            return 1.0
        return min(self._raw.tell() / self._size, 1.0)

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end: what a read gives never depends on the compressor.

        Raises:
            BusError: the disk fails.
        """
        taken, self._ahead = self._ahead[:size], self._ahead[size:]
        parts = [taken]
        missing = size - len(taken)
        while missing > 0 and not self.broken and not self._raw.closed:
            try:
                data = self._stream.read(missing)
            except _DAMAGE as error:
                said = f" ({error})" if str(error) and not isinstance(error, EOFError) else ""
                self.broken = f"the {self.compression} file is cut or damaged{said}"
                break
            except OSError as error:
                raise BusError(f"{self.path} cannot be read: {error.strerror or error}.") from error
            if not data:
                break
            parts.append(data)
            missing -= len(data)
        return b"".join(parts)

    def close(self) -> None:
        self._raw.close()


def _open(path: Path) -> BinaryIO:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise BusError(f"{path} is a directory; name a recording in it.")
        if not stat.S_ISREG(mode):
            raise BusError(f"{path} is no regular file; a recording must be one.")
        return path.open("rb")
    except FileNotFoundError as error:
        raise BusError(f"There is no recording {path}.") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BusError(f"{path} cannot be opened: {reason}.") from error
