"""The files of the reference cloud: an upload becomes a batch whole and durable, or leaves nothing.

An upload is written to a temporary file of its own, so any number may run for one id. `commit`
checks it and then, under a lock, gives it its name: the first one wins, the others are told what is
there. The index in memory is filled from the folders at the start, and changed only after the disk
was.

A folder has one owner, or several that all say that they share it. Those look on disk for what they
do not know, and give names one at a time: whoever does it has a lock on the vehicle's folder until
the name is durable. So the first one wins between them too, and none speaks of a batch that a power
cut could still take.

Every method may touch the disk, so a server calls them from threads; all of them are thread-safe,
except that one `Upload` belongs to one caller at a time.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Container, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, Protocol

from agent.batch import BatchReader
from agent.batch.format import SUFFIX
from agent.clock import SECOND, Clock, SystemClock, WallNs
from agent.errors import AgentError, BatchError, ConfigError
from agent.settings import LANES

_VEHICLE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BATCH_ID: Final = re.compile(
    rf"[0-9a-f]{{4,64}}-[0-9]{{1,12}}-(?:{'|'.join(LANES)})-[0-9]{{1,12}}"
)
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_ABANDONED_S: Final = 3600.0
"""A half upload of a shared folder is nobody's when nothing was written to it for so long."""


def is_vehicle(name: str) -> bool:
    """Whether a text can be a vehicle's name; no such name means anything in a path."""
    return _VEHICLE.fullmatch(name) is not None


def is_batch_id(name: str) -> bool:
    """Whether a text can be a batch id: install - run - lane - sequence."""
    return _BATCH_ID.fullmatch(name) is not None


class DigestMismatchError(AgentError):
    """What arrived is not what the sender digested."""


class ConflictError(AgentError):
    """Another batch is here under the same id."""


class FileSystem(Protocol):
    """The seam to the disk: the steps whose order makes an acknowledgement true."""

    def write(self, fd: int, data: bytes) -> None: ...

    def sync_file(self, fd: int) -> None: ...

    def rename(self, source: Path, target: Path) -> None: ...

    def sync_folder(self, path: Path) -> None: ...


class Disk:
    """The operating system's."""

    def write(self, fd: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    def sync_file(self, fd: int) -> None:
        os.fsync(fd)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def sync_folder(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """A batch that is here, and durable."""

    vehicle: str
    batch_id: str
    path: Path
    size: int
    received: WallNs


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an upload: `created`, or it was `present` with the same digest."""

    status: Literal["created", "present"]
    stored: Stored
    samples: int | None = None
    """What its footer says; None of one that is not sealed."""


class Upload:
    """A batch that is arriving: a temporary file and the digest of what it holds so far."""

    def __init__(self, folder: Path, vehicle: str, batch_id: str, disk: FileSystem) -> None:
        self.vehicle = vehicle
        self.batch_id = batch_id
        self.size = 0
        self.placed = False
        self._disk = disk
        self._hash = hashlib.sha256()
        self.fd, name = tempfile.mkstemp(suffix=".part", dir=folder)
        self.path = Path(name)

    def write(self, data: bytes) -> None:
        """Append.

        Raises:
            OSError: the disk is full or fails.
        """
        self._disk.write(self.fd, data)
        self._hash.update(data)
        self.size += len(data)

    @property
    def digest(self) -> bytes:
        return self._hash.digest()

    def close(self) -> None:
        """Give the file descriptor back, and remove the temporary file unless it has its name."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            if not self.placed:
                self.path.unlink(missing_ok=True)


class Store:
    """All batches below one folder."""

    def __init__(
        self,
        root: Path,
        *,
        shared: bool = False,
        disk: FileSystem | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Take the folder, clear away half uploads and find what is there.

        Raises:
            ConfigError: the folder cannot be made or written, or another cloud has it.
        """
        self.root = root
        self._shared = shared
        self._disk = disk or Disk()
        self._clock = clock or SystemClock()
        self._vehicles = root / "vehicles"
        self._incoming = root / "incoming"
        self._lock = threading.Lock()
        self._batches: dict[str, dict[str, Stored]] = {}
        self._digests: dict[tuple[str, str], bytes] = {}
        self._durable_folders: set[Path] = set()
        self._held = -1
        try:
            for folder in (root, self._vehicles, self._incoming):
                folder.mkdir(parents=True, exist_ok=True)
            self._hold()
            self._clear()
            for folder in (self._vehicles, self._incoming, root):
                self._disk.sync_folder(folder)
            for stored in self._find_all():
                self._batches.setdefault(stored.vehicle, {})[stored.batch_id] = stored
        except OSError as e:
            self.close()
            raise ConfigError(
                f"{root}: cannot keep batches here: {e.strerror or e}; name a folder that this "
                "user may write with --data"
            ) from e

    def _hold(self) -> None:
        self._held = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            kind = fcntl.LOCK_SH if self._shared else fcntl.LOCK_EX
            fcntl.flock(self._held, kind | fcntl.LOCK_NB)
        except BlockingIOError as e:
            self.close()
            raise ConfigError(
                f"{self.root}: another cloud keeps its batches here; stop it, name another "
                "folder with --data, or start all of them with --shared"
            ) from e

    def _clear(self) -> None:
        for half in self._incoming.iterdir():
            with contextlib.suppress(FileNotFoundError):
                age_s = (self._clock.wall() - half.stat().st_mtime_ns) / SECOND
                if not self._shared or age_s > _ABANDONED_S:
                    half.unlink()

    def _find_all(
        self, pattern: str = f"*/*/*{SUFFIX}", known: Container[str] = ()
    ) -> Iterator[Stored]:
        for path in sorted(self._vehicles.glob(pattern)):
            vehicle, batch_id = path.parts[-3], path.name.removesuffix(SUFFIX)
            if batch_id in known:
                continue
            if is_vehicle(vehicle) and is_batch_id(batch_id) and _DAY.fullmatch(path.parts[-2]):
                state = path.stat()
                received = WallNs(state.st_mtime_ns)
                yield Stored(vehicle, batch_id, path, state.st_size, received)

    def close(self) -> None:
        """Let go of the folder."""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    @contextlib.contextmanager
    def _placing(self, vehicle: str) -> Iterator[None]:
        """While this lasts nobody else gives a name to a batch of this vehicle."""
        with self._lock:
            if not self._shared:
                yield
                return
            self._make_folder(self._vehicles / vehicle)
            folder = os.open(self._vehicles / vehicle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(folder, fcntl.LOCK_EX)
                yield
            finally:
                os.close(folder)

    def _look(self, vehicle: str, name: str = "*") -> None:
        """Take what others have stored of a vehicle into the index: one batch, or all."""
        known = self._batches.setdefault(vehicle, {})
        for stored in self._find_all(f"{vehicle}/*/{name}{SUFFIX}", known):
            known.setdefault(stored.batch_id, stored)

    def vehicles(self) -> list[str]:
        if self._shared:
            names = sorted(p.name for p in self._vehicles.iterdir() if is_vehicle(p.name))
            return [name for name in names if self.batches(name)]
        with self._lock:
            return sorted(self._batches)

    def batches(self, vehicle: str) -> list[Stored]:
        """The batches of a vehicle in the order in which they were received."""
        if self._known_to_others(vehicle):
            with self._placing(vehicle):
                self._look(vehicle)
        with self._lock:
            found = list(self._batches.get(vehicle, {}).values())
        return sorted(found, key=lambda s: (s.received, s.batch_id))

    def count(self, vehicle: str) -> int:
        """How many batches of a vehicle there are; cheaper than to list them."""
        if self._known_to_others(vehicle):
            return len(self.batches(vehicle))
        with self._lock:
            return len(self._batches.get(vehicle, {}))

    def find(self, vehicle: str, batch_id: str) -> Stored | None:
        with self._lock:
            found = self._batches.get(vehicle, {}).get(batch_id)
        if found is None and self._known_to_others(vehicle) and is_batch_id(batch_id):
            with self._placing(vehicle):
                self._look(vehicle, batch_id)
                found = self._batches.get(vehicle, {}).get(batch_id)
        return found

    def _known_to_others(self, vehicle: str) -> bool:
        return self._shared and is_vehicle(vehicle) and (self._vehicles / vehicle).is_dir()

    def digest(self, stored: Stored) -> bytes:
        """The sha-256 of a batch, computed when it is first asked for.

        Raises:
            OSError: the file cannot be read.
        """
        key = (stored.vehicle, stored.batch_id)
        known = self._digests.get(key)
        if known is None:
            with stored.path.open("rb") as file:
                known = hashlib.file_digest(file, "sha256").digest()
            self._digests[key] = known
        return known

    def upload(self, vehicle: str, batch_id: str) -> Upload:
        """Begin an upload; its `close` must be called in the end, whatever happens.

        Raises:
            ValueError: the names cannot be names; nothing else keeps them inside the folder.
            OSError: the disk is full or fails.
        """
        if not (is_vehicle(vehicle) and is_batch_id(batch_id)):
            raise ValueError(f"{vehicle!r}, {batch_id!r}: not names of a vehicle and a batch")
        return Upload(self._incoming, vehicle, batch_id, self._disk)

    def commit(self, upload: Upload, digest: bytes) -> Outcome:
        """Check an upload against the sender's digest and keep it: durable when this returns.

        Raises:
            DigestMismatchError: it did not arrive as it was sent.
            BatchError: it did, and is no batch, another batch, or damaged.
            ConflictError: another batch has this id.
            OSError: the disk is full or fails; nothing is kept.
        """
        if upload.digest != digest:
            raise DigestMismatchError(
                f"{upload.batch_id}: the {upload.size} bytes that arrived do not have the digest "
                "that was announced; send it again"
            )
        samples = _check(upload)
        received = self._clock.wall()
        os.utime(upload.fd, ns=(received, received))
        self._disk.sync_file(upload.fd)
        with self._placing(upload.vehicle):
            here = self._batches.get(upload.vehicle, {}).get(upload.batch_id)
            if here is None and self._shared:
                self._look(upload.vehicle, upload.batch_id)
                here = self._batches.get(upload.vehicle, {}).get(upload.batch_id)
            if here is None:
                stored = Stored(
                    upload.vehicle,
                    upload.batch_id,
                    self._place(upload, received),
                    upload.size,
                    received,
                )
                self._batches.setdefault(upload.vehicle, {})[upload.batch_id] = stored
                self._digests[upload.vehicle, upload.batch_id] = digest
                return Outcome("created", stored, samples)
        if self.digest(here) != digest:
            raise ConflictError(f"{upload.batch_id}: is already here with other content")
        return Outcome("present", here, samples)

    def _place(self, upload: Upload, received: WallNs) -> Path:
        """Give the upload its name, durably; or leave nothing under that name."""
        day = datetime.fromtimestamp(received / SECOND, UTC).date().isoformat()
        vehicle = self._vehicles / upload.vehicle
        folder = vehicle / day
        for each in (vehicle, folder):
            self._make_folder(each)
        target = folder / f"{upload.batch_id}{SUFFIX}"
        try:
            self._disk.rename(upload.path, target)
            upload.placed = True
            self._disk.sync_folder(folder)
        except OSError:
            # Unacknowledged and possibly not durable: the sender will come again.
            with contextlib.suppress(OSError):
                target.unlink(missing_ok=True)
            raise
        return target

    def _make_folder(self, path: Path) -> None:
        if path not in self._durable_folders:
            path.mkdir(exist_ok=True)
            self._disk.sync_folder(path.parent)
            self._durable_folders.add(path)


def _check(upload: Upload) -> int | None:
    """The samples (by the footer) of an upload that is the batch it says it is.

    Raises:
        BatchError: it is not.
    """
    try:
        reader = BatchReader(upload.path)
    except BatchError as e:
        raise BatchError(str(e).replace(str(upload.path), upload.batch_id)) from e
    privacy = reader.header.get("privacy")
    hidden = isinstance(privacy, dict) and privacy.get("pseudonym") is True
    for key, name in (("batch_id", upload.batch_id), ("vehicle", upload.vehicle)):
        if key == "vehicle" and hidden:
            continue  # the header has a pseudonym; who sent it, the address tells
        if reader.header.get(key) != name:
            raise BatchError(
                f"{upload.batch_id}: was sent to an address with the {key} {name!r}, but its "
                f"header says {str(reader.header.get(key))[:80]!r}"
            )
    scan = reader.scan()
    if scan.bad_chunks or scan.trailing:
        raise BatchError(
            f"{upload.batch_id}: is damaged: {scan.bad_chunks} bad chunks beside {scan.chunks} "
            f"good ones, and {scan.trailing} bytes after the last one"
        )
    if scan.footer is not None and scan.footer.get("chunks") != scan.chunks:
        raise BatchError(
            f"{upload.batch_id}: has {scan.chunks} chunks, but its footer says "
            f"{str(scan.footer.get('chunks'))[:20]}"
        )
    return scan.samples
