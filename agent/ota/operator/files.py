"""The folder of a repository: durable writes in order, a journal, a lock. Knows nothing of TUF."""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agent.errors import UpdateError
from agent.spool.filesystem import FileSystem, RealFileSystem, replace_durably

METADATA = "metadata"
TARGETS = "targets"
TIMESTAMP = "timestamp.json"
JOURNAL = ".journal.json"
LOCK = ".lock"

_NAME = re.compile(r"(?:[1-9][0-9]*\.(?:root|targets|snapshot)|timestamp)\.json")


class PublicFileSystem(RealFileSystem):
    """What lies in a repository is for everyone: a web server reads it as a user of its own."""

    def make_folder(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True, mode=0o755)

    def create(self, path: Path) -> int:
        handle = super().create(path)
        path.chmod(0o644)
        return handle

    def lock(self, path: Path) -> int:
        handle = super().lock(path)
        with contextlib.suppress(OSError):  # it may be another user's
            path.chmod(0o644)
        return handle


class Folder:
    """Writes are whole or not there; a failing disk is told in one sentence."""

    def __init__(self, root: Path, fs: FileSystem | None = None) -> None:
        self.root = root
        self._fs = fs or PublicFileSystem()

    @contextlib.contextmanager
    def changing(self, *, make: bool = False) -> Iterator[None]:
        """Hold the lock; what a crash left undone is done first.

        Raises:
            UpdateError: someone else holds it, or the folder cannot be written.
        """
        with self._told():
            if make:
                self._make(self.root)
            handle = self._lock()
            try:
                self._finish()
                yield
            finally:
                self._fs.close(handle)

    def metadata(self, name: str) -> bytes | None:
        """A metadata file such as `3.root.json`; None where there is none."""
        with self._told():
            try:
                return self._fs.read(self.root / METADATA / name)
            except FileNotFoundError:
                return None

    def metadata_names(self) -> list[str]:
        with self._told():
            try:
                return self._fs.names(self.root / METADATA)
            except FileNotFoundError:
                return []

    @property
    def interrupted(self) -> bool:
        """Whether a change waits to be written to its end."""
        with self._told():
            try:
                return JOURNAL in self._fs.names(self.root)
            except FileNotFoundError:
                return False

    def write(self, files: dict[str, bytes], metadata: Sequence[tuple[str, bytes]]) -> None:
        """Files below `targets/`, then metadata in order: all of it, or nothing that counts.

        Raises:
            UpdateError: the disk failed; the next change writes the rest, if there was a point.
        """
        with self._told():
            for name, data in files.items():
                path = self.root / TARGETS / name
                self._make(path.parent)
                replace_durably(self._fs, path, data)
            self._make(self.root / METADATA)
            journal = {"format": 1, "write": [[n, d.decode("utf-8")] for n, d in metadata]}
            replace_durably(self._fs, self.root / JOURNAL, json.dumps(journal).encode())
            self._replay(metadata)

    def _replay(self, metadata: Sequence[tuple[str, bytes]]) -> None:
        for name, data in metadata:
            replace_durably(self._fs, self.root / METADATA / name, data)
        self._fs.unlink(self.root / JOURNAL)
        self._fs.sync_folder(self.root)

    def _finish(self) -> None:
        """Write what a journal still holds."""
        path = self.root / JOURNAL
        try:
            data = self._fs.read(path)
        except FileNotFoundError:
            return
        metadata = _journal(path, data)
        if self._is_over(metadata):
            self._fs.unlink(path)
            self._fs.sync_folder(self.root)
        else:
            self._replay(metadata)

    def _is_over(self, metadata: Sequence[tuple[str, bytes]]) -> bool:
        """Whether a journal is of the past, as in a folder that was put together of two copies."""
        present = self.metadata(TIMESTAMP)
        ours = [_version(data) for name, data in metadata if name == TIMESTAMP]
        return present is not None and bool(ours) and _version(present) > max(ours)

    def _make(self, path: Path) -> None:
        if path.is_dir():
            return
        self._make(path.parent)
        self._fs.make_folder(path)
        self._fs.sync_folder(path.parent)

    def _lock(self) -> int:
        try:
            return self._fs.lock(self.root / LOCK)
        except BlockingIOError as e:
            raise UpdateError(
                f"{self.root}: another command is changing this repository; try again when it is "
                "done"
            ) from e
        except FileNotFoundError as e:
            raise UpdateError(f"{self.root}: there is no such repository") from e

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise UpdateError(f"{e.filename or self.root}: {e.strerror or e}") from e


def _journal(path: Path, data: bytes) -> list[tuple[str, bytes]]:
    """What a journal says; it came from a file, and may name metadata alone."""
    try:
        found: Any = json.loads(data)
        writes = [(str(name), str(text).encode("utf-8")) for name, text in found["write"]]
        if found["format"] != 1:
            raise UpdateError(f"{path}: is of a newer version of this program; update it")
    except (ValueError, KeyError, TypeError) as e:
        raise UpdateError(
            f"{path}: is not the journal of an interrupted change; remove it if no command of this "
            "program has written it"
        ) from e
    for name, _ in writes:
        if not _NAME.fullmatch(name):
            raise UpdateError(f"{path}: names {name!r}, which is no metadata file")
    return writes


def _version(data: bytes) -> int:
    """Of a timestamp; 0 where it does not say. Who signed it is not asked here."""
    try:
        return int(json.loads(data)["signed"]["version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0
