"""A disk whose power can be cut and that can fail, at any operation.

`Disk` is a `FileSystem` over a real folder: what the agent sees is what lies there. Beside it a
model keeps what is on the medium for sure (data at the last sync of its file, names at the last
sync of their folder) and what was done since. `lay_out` writes into another folder what a power cut
at this moment may leave.

Before every operation `before` is called with its number and name: it may raise an OSError, which
is then the answer of that operation, or look at what a cut would leave. A write that fails has
written its first half; what a failed sync did not bring to the medium never gets there, as with
Linux since it gives the error once and drops the pages.
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

from agent.spool.filesystem import RealFileSystem

Data = Literal["kept", "dropped", "torn", "short", "holed", "untrimmed"]
"""Of data that was not synced: all, nothing, the first half of the last write (and the file's old
end), all but its last 6 bytes, only its second half, all writes but no truncation."""
Names = Literal["kept", "dropped"]
"""Of changes of folders that were not synced."""
CUTS: list[tuple[Data, Names]] = [(d, n) for n in get_args(Names) for d in get_args(Data)]

Before = Callable[[int, str], None]


@dataclasses.dataclass(frozen=True)
class _Write:
    offset: int
    data: bytes


@dataclasses.dataclass(frozen=True)
class _Resize:
    size: int
    cut: bool
    """Whether it cuts (truncate) or only extends (reserve)."""


@dataclasses.dataclass(eq=False)
class _File:
    synced: bytes = b""
    changes: list[_Write | _Resize] = dataclasses.field(default_factory=list)

    def content(self, kept: Data) -> bytes:
        """What is left of it after a cut."""
        if kept == "dropped":
            return self.synced
        data = bytearray(self.synced)
        last = max((i for i, c in enumerate(self.changes) if isinstance(c, _Write)), default=-1)
        for i, change in enumerate(self.changes):
            if isinstance(change, _Write):
                _put(data, change if i < last else _damaged(change, kept))
            elif len(data) < change.size:
                data.extend(bytes(change.size - len(data)))
            elif change.cut and kept in ("kept", "holed"):
                del data[change.size :]
        return bytes(data)


def _put(data: bytearray, write: _Write) -> None:
    if not write.data:
        return
    if len(data) < write.offset:
        data.extend(bytes(write.offset - len(data)))
    data[write.offset : write.offset + len(write.data)] = write.data


def _damaged(write: _Write, kept: Data) -> _Write:
    half = len(write.data) // 2
    if kept == "torn":
        return _Write(write.offset, write.data[:half])
    if kept == "short":
        return _Write(write.offset, write.data[:-6])
    if kept == "holed":
        return _Write(write.offset, bytes(half) + write.data[half:])
    return write


class _Folder:
    def __init__(self) -> None:
        self.now: dict[str, _File | _Folder] = {}
        self.synced: dict[str, _File | _Folder] = {}

    def entries(self, kept: Names) -> "dict[str, _File | _Folder]":
        return self.now if kept == "kept" else self.synced


def _nothing(_number: int, _what: str) -> None:
    pass


class Disk(RealFileSystem):
    """A file system below `root`, which must exist; what lies there is on the medium."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.before: Before = _nothing
        self.operations = 0
        self._prefix = len(str(root)) + 1
        self.journal: list[str] = []
        self.free = 1 << 40
        """What `free_bytes` answers."""
        self._files: dict[tuple[int, int], _File] = {}
        self._open: dict[int, _File] = {}
        self._top = self._load(root)

    # -- a power cut -------------------------------------------------------------------------

    def image(self, data: Data, names: Names) -> frozenset[tuple[str, bytes]]:
        """What a cut now would leave, to tell which cuts are alike; a folder ends with a slash."""
        return frozenset(
            (f"{path}/", b"") if isinstance(node, _Folder) else (str(path), node.content(data))
            for path, node in _walk(self._top, Path(), names)
        )

    def lay_out(self, where: Path, data: Data, names: Names) -> None:
        """Write what a cut now would leave into a new folder."""
        where.mkdir()
        written: dict[_File, Path] = {}
        for path, node in _walk(self._top, where, names):
            if isinstance(node, _Folder):
                path.mkdir()
            elif node in written:
                os.link(written[node], path)
            else:
                path.write_bytes(node.content(data))
                written[node] = path

    # -- FileSystem --------------------------------------------------------------------------

    def make_folder(self, path: Path) -> None:
        self._step("make_folder", path)
        super().make_folder(path)
        folder = self._top
        for name in path.relative_to(self.root).parts:
            node = folder.now.setdefault(name, _Folder())
            assert isinstance(node, _Folder)
            folder = node

    def names(self, path: Path) -> list[str]:
        self._step("names", path)
        return super().names(path)

    def size(self, path: Path) -> int:
        self._step("size", path)
        return super().size(path)

    def read(self, path: Path) -> bytes:
        self._step("read", path)
        return super().read(path)

    def read_head(self, path: Path, size: int) -> bytes:
        self._step("read_head", path)
        return super().read_head(path, size)

    def read_tail(self, path: Path, size: int) -> bytes:
        self._step("read_tail", path)
        return super().read_tail(path, size)

    def create(self, path: Path) -> int:
        self._step("create", path)
        handle = super().create(path)
        self._folder(path.parent).now[path.name] = self._open[handle] = _File()
        return handle

    def reserve(self, handle: int, size: int) -> None:
        with contextlib.suppress(OSError):
            self._step("reserve", handle)
            super().reserve(handle, size)
            self._open[handle].changes.append(_Resize(size, cut=False))

    def open_append(self, path: Path) -> int:
        self._step("open_append", path)
        handle = super().open_append(path)
        self._open[handle] = self._file(path)
        return handle

    def write_at(self, handle: int, offset: int, data: bytes) -> None:
        try:
            self._step("write_at", handle)
        except OSError:
            self._write(handle, offset, data[: len(data) // 2])
            raise
        self._write(handle, offset, data)

    def _write(self, handle: int, offset: int, data: bytes) -> None:
        super().write_at(handle, offset, data)
        self._open[handle].changes.append(_Write(offset, bytes(data)))

    def sync(self, handle: int) -> None:
        file = self._open[handle]
        try:
            self._step("sync", handle)
        except OSError:
            file.changes.clear()
            raise
        file.synced = file.content("kept")
        file.changes.clear()

    def truncate(self, handle: int, size: int) -> None:
        self._step("truncate", handle)
        super().truncate(handle, size)
        self._open[handle].changes.append(_Resize(size, cut=True))

    def close(self, handle: int) -> None:
        super().close(handle)  # first: Linux has closed it even where it says EIO
        self._open.pop(handle, None)
        self._step("close", handle)

    def link(self, source: Path, target: Path) -> None:
        self._step("link", target)
        super().link(source, target)
        self._folder(target.parent).now[target.name] = self._file(source)

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename", target)
        super().rename(source, target)
        node = self._folder(source.parent).now.pop(source.name)
        self._folder(target.parent).now[target.name] = node

    def unlink(self, path: Path) -> None:
        self._step("unlink", path)
        super().unlink(path)
        del self._folder(path.parent).now[path.name]

    def sync_folder(self, path: Path) -> None:
        self._step("sync_folder", path)
        folder = self._folder(path)
        folder.synced = dict(folder.now)

    def free_bytes(self, path: Path) -> int:
        self._step("free_bytes", path)
        return self.free

    def lock(self, path: Path) -> int:
        self._step("lock", path)
        handle = super().lock(path)
        self._folder(path.parent).now.setdefault(path.name, _File())
        return handle

    # -- the model ---------------------------------------------------------------------------

    def _step(self, what: str, where: Path | int) -> None:
        if isinstance(where, Path):
            what += f" {str(where)[self._prefix :]}"
        self.operations += 1
        self.journal.append(what)
        self.before(self.operations, what)

    def _load(self, path: Path) -> _Folder:
        folder = _Folder()
        for entry in os.scandir(path):
            if entry.is_dir():
                folder.now[entry.name] = self._load(Path(entry.path))
                continue
            stat = entry.stat()
            known = self._files.setdefault((stat.st_dev, stat.st_ino), _File())
            known.synced = Path(entry.path).read_bytes()
            folder.now[entry.name] = known
        folder.synced = dict(folder.now)
        return folder

    def _folder(self, path: Path) -> _Folder:
        folder = self._top
        for name in path.relative_to(self.root).parts:
            node = folder.now[name]
            assert isinstance(node, _Folder)
            folder = node
        return folder

    def _file(self, path: Path) -> _File:
        node = self._folder(path.parent).now[path.name]
        assert isinstance(node, _File)
        return node


def _walk(folder: _Folder, path: Path, names: Names) -> Iterator[tuple[Path, _File | _Folder]]:
    for name, node in folder.entries(names).items():
        yield path / name, node
        if isinstance(node, _Folder):
            yield from _walk(node, path / name, names)


def fail_at(first: int, number: int, count: int = 1) -> Before:
    """`before` of a disk on which operations from `first` on fail with this errno."""

    def before(operation: int, what: str) -> None:
        if first <= operation < first + count:
            raise OSError(number, os.strerror(number), what)

    return before
