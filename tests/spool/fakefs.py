"""A disk whose power can be cut and that can fail or be slow, at any operation.

`Disk` is a `FileSystem` over a real folder: what the agent sees is what lies there. Beside it a
model keeps what is on the medium for sure (data at the last sync of its file, names at the last
sync of their folder) and what was done since. `lay_out` writes into another folder what a power cut
at this moment may leave.

Before every operation `before` is called with its number and name: it may raise an OSError, which
is then the answer of that operation, or look at what a cut would leave. A write that fails has
written its first half; what a failed sync did not bring to the medium never gets there, as with
Linux since it gives the error once and drops the pages. Where `before` waits, or lets a clock go
on, the disk is slow.

What a cut leaves is told in two ways: `CUTS` treats all unsynced changes alike, `mixed_cuts` gives
each one (a write, a change of size, an entry in a folder) a fate of its own, so that later ones may
be there without earlier ones: a disk that reorders.
"""

import contextlib
import dataclasses
import itertools
import math
import os
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

from agent.spool.filesystem import RealFileSystem

Data = Literal["kept", "dropped", "torn", "short", "holed", "untrimmed"]
"""Of data that was not synced: all, nothing, the first half of the last write (and the file's old
end), all but its last 6 bytes, only its second half, all writes but no truncation."""
Names = Literal["kept", "dropped"]
"""Of changes of folders that were not synced."""
CUTS: list[tuple[Data, Names]] = [(d, n) for n in get_args(Names) for d in get_args(Data)]

Fate = Literal["kept", "dropped", "torn", "zeroed"]
"""Of one change. Only a write can be torn (its first half is there) or zeroed."""
Before = Callable[[int, str], None]


@dataclasses.dataclass(frozen=True, eq=False)
class _Write:
    offset: int
    data: bytes


@dataclasses.dataclass(frozen=True, eq=False)
class _Resize:
    size: int
    cut: bool
    """Whether it cuts (truncate) or only extends (reserve)."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Entry:
    name: str
    node: "_File | _Folder | None"
    """None: the name is gone."""


_Change = _Write | _Resize | _Entry
_Fates = Mapping[_Change, Fate]


@dataclasses.dataclass(frozen=True)
class Cut:
    """What a power cut leaves of what was not synced."""

    what: str
    content: "Callable[[_File], bytes]"
    entries: "Callable[[_Folder], Mapping[str, _File | _Folder]]"


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

    def mixed(self, fates: _Fates) -> bytes:
        """What is left of it where each change has a fate of its own."""
        data = bytearray(self.synced)
        for change in self.changes:
            fate = fates[change]
            if fate == "dropped":
                continue
            if isinstance(change, _Write):
                _put(data, _written(change, fate))
            elif len(data) < change.size:
                data.extend(bytes(change.size - len(data)))
            elif change.cut:
                del data[change.size :]
        return bytes(data)


def _written(write: _Write, fate: Fate) -> _Write:
    if fate == "torn":
        return _Write(write.offset, write.data[: len(write.data) // 2])
    return _Write(write.offset, bytes(len(write.data))) if fate == "zeroed" else write


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
        self.changes: list[_Entry] = []

    def set(self, name: str, node: "_File | _Folder | None") -> None:
        if node is None:
            del self.now[name]
        else:
            self.now[name] = node
        self.changes.append(_Entry(name, node))

    def sync(self) -> None:
        self.synced = dict(self.now)
        self.changes.clear()

    def entries(self, kept: Names) -> "dict[str, _File | _Folder]":
        return self.now if kept == "kept" else self.synced

    def mixed(self, fates: _Fates) -> "dict[str, _File | _Folder]":
        entries = dict(self.synced)
        for change in self.changes:
            if fates[change] == "kept":
                if change.node is None:
                    entries.pop(change.name, None)
                else:
                    entries[change.name] = change.node
        return entries


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

    @staticmethod
    def cut(data: Data, names: Names) -> Cut:
        """All unsynced changes alike."""
        return Cut(
            f"data {data}, names {names}",
            lambda file: file.content(data),
            lambda folder: folder.entries(names),
        )

    def mixed_cuts(self, most: int, seed: str) -> Iterator[Cut]:
        """Each unsynced change by itself: all ways where these are at most `most`, else some."""
        changes = list(self._unsynced())
        choices = [
            get_args(Fate) if isinstance(c, _Write) else ("kept", "dropped") for c in changes
        ]
        if math.prod(map(len, choices)) <= most:
            ways = list(itertools.product(*choices))
        else:
            source = random.Random(seed)
            ways = [tuple(map(source.choice, choices)) for _ in range(most)]
        for way in ways:
            fates: dict[_Change, Fate] = dict(zip(changes, way, strict=True))
            what = ", ".join(f"{_told(change)} {fate}" for change, fate in fates.items())
            yield Cut(f"of what was not synced: {what}", *_of_fates(fates))

    def _unsynced(self) -> Iterator[_Change]:
        """Every change that a cut may lose, once."""
        seen: set[_File | _Folder] = {self._top}
        todo: list[_File | _Folder] = [self._top]
        while todo:
            node = todo.pop()
            yield from node.changes
            if isinstance(node, _Folder):
                found = [*node.now.values(), *node.synced.values()]
                found += [c.node for c in node.changes if c.node is not None]
                new = [n for n in dict.fromkeys(found) if n not in seen]
                seen.update(new)
                todo += new

    def image(self, cut: Cut) -> frozenset[tuple[str, bytes]]:
        """What a cut now would leave, to tell which cuts are alike; a folder ends with a slash."""
        return frozenset(
            (f"{path}/", b"") if isinstance(node, _Folder) else (str(path), cut.content(node))
            for path, node in _walk(self._top, Path(), cut)
        )

    def lay_out(self, where: Path, cut: Cut) -> None:
        """Write what a cut now would leave into a new folder."""
        where.mkdir()
        written: dict[_File, Path] = {}
        for path, node in _walk(self._top, where, cut):
            if isinstance(node, _Folder):
                path.mkdir()
            elif node in written:
                os.link(written[node], path)
            else:
                path.write_bytes(cut.content(node))
                written[node] = path

    # -- FileSystem --------------------------------------------------------------------------

    def make_folder(self, path: Path) -> None:
        self._step("make_folder", path)
        super().make_folder(path)
        folder = self._top
        for name in path.relative_to(self.root).parts:
            if name not in folder.now:
                folder.set(name, _Folder())
            node = folder.now[name]
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
        self._open[handle] = _File()
        self._folder(path.parent).set(path.name, self._open[handle])
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
        self._folder(target.parent).set(target.name, self._file(source))

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename", target)
        super().rename(source, target)
        node = self._file(source)
        self._folder(source.parent).set(source.name, None)
        self._folder(target.parent).set(target.name, node)

    def unlink(self, path: Path) -> None:
        self._step("unlink", path)
        super().unlink(path)
        self._folder(path.parent).set(path.name, None)

    def sync_folder(self, path: Path) -> None:
        self._step("sync_folder", path)
        self._folder(path).sync()

    def free_bytes(self, path: Path) -> int:
        self._step("free_bytes", path)
        return self.free

    def lock(self, path: Path) -> int:
        self._step("lock", path)
        handle = super().lock(path)
        folder = self._folder(path.parent)
        if path.name not in folder.now:
            folder.set(path.name, _File())
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


def _walk(folder: _Folder, path: Path, cut: Cut) -> Iterator[tuple[Path, _File | _Folder]]:
    for name, node in cut.entries(folder).items():
        yield path / name, node
        if isinstance(node, _Folder):
            yield from _walk(node, path / name, cut)


def _of_fates(
    fates: _Fates,
) -> tuple[Callable[[_File], bytes], Callable[[_Folder], Mapping[str, _File | _Folder]]]:
    return lambda file: file.mixed(fates), lambda folder: folder.mixed(fates)


def _told(change: _Change) -> str:
    match change:
        case _Write(offset, data):
            return f"{len(data)} bytes at {offset}"
        case _Resize(size):
            return f"size {size}"
        case _Entry(name, node):
            return f"{'no ' if node is None else ''}{name}"


def fail_at(first: int, number: int, count: int = 1) -> Before:
    """`before` of a disk on which operations from `first` on fail with this errno."""

    def before(operation: int, what: str) -> None:
        if first <= operation < first + count:
            raise OSError(number, os.strerror(number), what)

    return before
