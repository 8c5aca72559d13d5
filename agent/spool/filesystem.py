"""The seam to the file system: everything that the spool asks of a disk.

What this process gives to the disk is counted here, in `WRITTEN`: bytes passed to write(), as the
kernel counts the CPU time of a process. What lies below, such as pages, a journal and the flash's
own blocks, is not in it.
"""

import contextlib
import errno
import fcntl
import os
import threading
from pathlib import Path
from typing import Final, Protocol


class Written:
    """Bytes that were passed to write(), of all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = 0

    @property
    def total(self) -> int:
        """Since the process began."""
        return self._total

    def add(self, count: int) -> None:
        with self._lock:
            self._total += count


WRITTEN: Final = Written()
"""Of this process: the spool, and every small file that is replaced whole."""


class FileSystem(Protocol):
    """Single steps, so that a test can cut the power between any two; each raises OSError."""

    def make_folder(self, path: Path) -> None: ...
    def names(self, path: Path) -> list[str]: ...
    def size(self, path: Path) -> int: ...
    def read(self, path: Path) -> bytes: ...
    def read_head(self, path: Path, size: int) -> bytes: ...
    def read_tail(self, path: Path, size: int) -> bytes: ...
    def create(self, path: Path) -> int: ...
    def reserve(self, handle: int, size: int) -> None: ...
    def open_append(self, path: Path) -> int: ...
    def write_at(self, handle: int, offset: int, data: bytes) -> None: ...
    def sync(self, handle: int) -> None: ...
    def truncate(self, handle: int, size: int) -> None: ...
    def close(self, handle: int) -> None: ...
    def link(self, source: Path, target: Path) -> None: ...
    def rename(self, source: Path, target: Path) -> None: ...
    def unlink(self, path: Path) -> None: ...
    def sync_folder(self, path: Path) -> None: ...
    def free_bytes(self, path: Path) -> int: ...
    def lock(self, path: Path) -> int: ...


class RealFileSystem:
    """The kernel's."""

    def make_folder(self, path: Path) -> None:
        new = [each for each in (path, *path.parents) if not each.exists()]
        path.mkdir(parents=True, exist_ok=True, mode=0o750)
        for each in reversed(new):
            _give(each)

    def names(self, path: Path) -> list[str]:
        return sorted(entry.name for entry in path.iterdir())

    def size(self, path: Path) -> int:
        return path.stat().st_size

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def read_head(self, path: Path, size: int) -> bytes:
        with path.open("rb") as file:
            return file.read(size)

    def read_tail(self, path: Path, size: int) -> bytes:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size))
            return file.read(size)

    def create(self, path: Path) -> int:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        _give(path)
        return handle

    def reserve(self, handle: int, size: int) -> None:
        """Set space aside, so that appending changes no metadata; no matter where that fails."""
        with contextlib.suppress(OSError):
            os.posix_fallocate(handle, 0, size)

    def open_append(self, path: Path) -> int:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def write_at(self, handle: int, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(handle, view, offset)
            if not written:
                raise OSError(errno.EIO, "the disk took nothing")
            WRITTEN.add(written)
            offset += written
            view = view[written:]

    def sync(self, handle: int) -> None:
        os.fdatasync(handle)

    def truncate(self, handle: int, size: int) -> None:
        os.ftruncate(handle, size)

    def close(self, handle: int) -> None:
        os.close(handle)

    def link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def sync_folder(self, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def free_bytes(self, path: Path) -> int:
        stat = os.statvfs(path)
        return stat.f_bavail * stat.f_frsize

    def lock(self, path: Path) -> int:
        """Take the lock for as long as the handle is open; BlockingIOError where it is taken."""
        try:
            new = not path.exists()
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            if new:
                _give(path)
        except OSError as e:
            if e.errno != errno.EROFS:
                raise
            # Mounted read-only after an error: collecting begins all the same, in memory.
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise
        return handle


def _give(path: Path) -> None:
    """What root makes belongs to whom its folder belongs to: the agent is another user."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def replace_durably(fs: FileSystem, path: Path, data: bytes) -> None:
    """Write a small file so that a power cut leaves the old or the new content.

    Raises:
        OSError: it may have the old or the new content.
    """
    temporary = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        fs.unlink(temporary)
    handle = fs.create(temporary)
    try:
        fs.write_at(handle, 0, data)
        fs.sync(handle)
    finally:
        fs.close(handle)
    fs.rename(temporary, path)
    fs.sync_folder(path.parent)
