"""The spool folder: where things are, whose it is, and what a start finds in it."""

import contextlib
import dataclasses
import errno
import logging
import re
import secrets
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.batch import BatchReader
from agent.batch.format import (
    END_MAGIC,
    END_SIZE,
    MAX_CHUNK,
    SUFFIX,
    footer_from_tail,
    pack_footer,
    unpack_header,
)
from agent.batch.reader import Scan, pack_anchor, scan_chunks, unpack_anchor
from agent.clock import Anchor
from agent.errors import BatchError, SpoolError
from agent.settings import LANES, Lane
from agent.spool.filesystem import FileSystem, RealFileSystem, replace_durably
from agent.spool.outbox import Parcel

log = logging.getLogger("edge_agent.spool")

_TAIL = 4096
_HEAD = 1 << 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_INSTALL = re.compile(r"[0-9a-f]{16}")
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""What a disk may say for a while; anything else at a start is how the folder was set up."""
QUARANTINE_FILES = 100
"""How many files are kept aside for each uplink; the oldest goes first."""

Positions = dict[str, dict[str, Any]]
"""Bus -> where its recording was read to: `path`, `size` and `frames`."""


@dataclasses.dataclass(slots=True)
class Closing:
    """A file in `open/` to which no samples are added any more: to be sealed and published.

    Each step notes here that it is done, so that after an error it is tried again from there.
    """

    batch_id: str
    path: Path
    stream: str
    lane: Lane
    uplinks: tuple[str, ...]
    end: int
    """Behind the last chunk that counts; 0 where not even the header does."""
    chunks: int
    samples: int
    keep: bool
    """Whether it says anything to a receiver; otherwise the file just goes."""
    anchors: tuple[Anchor, ...] = ()
    footer: bool = False
    """Whether the file ends with a footer."""
    sealed: bool = False
    """Whether that is durable, and nothing lies behind it."""
    linked: bool = False
    size: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a start found."""

    parcels: Mapping[str, list[Parcel]]
    """By uplink, oldest first; without those that are still in `open/`."""
    left_open: tuple[Closing, ...]
    """Oldest first; to be published or removed once their positions have new keepers."""
    positions: Mapping[str, Positions]
    """By stream: how far its batches reach."""
    anchors: tuple[Anchor, ...]
    """Of the boots of these batches."""
    spoiled: Mapping[str, list[Parcel]]
    """By uplink: batches that have lost their end, and are in quarantine now."""


class SpoolFolder:
    """A spool folder that this process holds.

    Raises (all methods): OSError, as the disk does.
    """

    def __init__(self, root: Path, uplinks: list[str], fs: FileSystem | None = None) -> None:
        """Take the folder: lock it, read or make its identity, raise the run counter.

        Raises:
            SpoolError: another agent holds it, or it cannot be written.
        """
        self.fs: FileSystem = fs or RealFileSystem()
        self.root = root
        self.uplinks = uplinks
        self._made: set[Path] = set()
        try:
            self.fs.make_folder(root)
            self._lock = self.fs.lock(root / "lock")
        except BlockingIOError as e:
            raise SpoolError(
                f"{root}: another edge-agent is using this spool; stop it, or choose another "
                "state_dir"
            ) from e
        except OSError as e:
            raise SpoolError(f"{root}: the spool cannot be written: {e.strerror}") from e
        try:
            self._make_folders()
            self.install, self.run = self._identify()
        except OSError as e:
            self.close()
            raise SpoolError(f"{root}: the spool cannot be written: {e.strerror}") from e

    def _make_folders(self) -> None:
        lanes = [self.lane_folder(uplink, lane) for uplink in self.uplinks for lane in LANES]
        with _passing("folders cannot be made yet"):
            self._make(self.open_folder, *lanes)

    def _make(self, *folders: Path) -> None:
        """Make folders durably: an entry in a folder that a cut takes away is lost with it."""
        new = [folder for folder in folders if folder not in self._made]
        for folder in new:
            self.fs.make_folder(folder)
        top = self.root.parent
        for parent in dict.fromkeys(p for f in new for p in f.parents if p.is_relative_to(top)):
            self.fs.sync_folder(parent)
        self._made.update(new)

    def _identify(self) -> tuple[str, int]:
        """Install id and run of this process: a pair that no batch was ever named with.

        The stored counter is raised before it is used. Where that cannot be, because the counter is
        damaged or the disk does not take it, an install id that was never used stands in.
        """
        run = 1 + max(self._runs(), default=0)
        try:
            install, counter = self._read_identity()
            if counter is not None:
                run = max(run, counter + 1)
            if install is None or counter is None:
                install = secrets.token_hex(8)
                replace_durably(self.fs, self.root / "install", f"{install}\n".encode())
            replace_durably(self.fs, self.root / "run", f"{run}\n".encode())
        except OSError as e:
            if e.errno not in _PASSING:
                raise
            log.warning("the run counter cannot be raised (%s): a new identity", e.strerror)
            return secrets.token_hex(8), run
        return install, run

    def _read_identity(self) -> tuple[str | None, int | None]:
        """What the files say; None where one is not there or is damaged."""
        install = counter = None
        with contextlib.suppress(FileNotFoundError):
            text = self.fs.read(self.root / "install").decode("ascii", "replace").strip()
            install = text if _INSTALL.fullmatch(text) else None
        with contextlib.suppress(FileNotFoundError, ValueError):
            counter = max(0, int(self.fs.read(self.root / "run")))
        return install, counter

    def _runs(self) -> Iterator[int]:
        """Runs that left a trace, for the order of batches."""
        folders = [self.open_folder]
        folders += [self.lane_folder(uplink, lane) for uplink in self.uplinks for lane in LANES]
        for folder in folders:
            for name in self._names(folder):
                yield order_of(name.removesuffix(SUFFIX))[0]

    def _names(self, folder: Path) -> list[str]:
        """The batches in a folder, in the order in which they were made."""
        try:
            names = [name for name in self.fs.names(folder) if name.endswith(SUFFIX)]
        except FileNotFoundError:
            return []
        except OSError as e:
            log.warning("%s: cannot be read: %s", folder, e.strerror)
            return []
        return sorted(names, key=lambda name: order_of(name.removesuffix(SUFFIX)))

    @property
    def open_folder(self) -> Path:
        return self.root / "open"

    def lane_folder(self, uplink: str, lane: Lane) -> Path:
        return self.root / "uplinks" / uplink / lane

    def open_path(self, batch_id: str) -> Path:
        return self.open_folder / f"{batch_id}{SUFFIX}"

    def parcel_path(self, uplink: str, lane: Lane, batch_id: str) -> Path:
        return self.lane_folder(uplink, lane) / f"{batch_id}{SUFFIX}"

    def batch_id(self, lane: Lane, sequence: int) -> str:
        return f"{self.install}-{self.run}-{lane}-{sequence}"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.fs.close(self._lock)

    # -- a batch on its way out of `open/` ---------------------------------------------------

    def create(self, batch_id: str) -> int:
        """A new file in `open/`; its entry is durable after `sync_open`."""
        self._make(self.open_folder)
        return self.fs.create(self.open_path(batch_id))

    def sync_open(self) -> None:
        self.fs.sync_folder(self.open_folder)

    def seal(self, batch: Closing, anchors: Iterable[Anchor]) -> None:
        """Cut a batch behind its last whole chunk, durably, and seal it where it is kept."""
        handle = self.fs.open_append(batch.path)
        try:
            if not batch.footer:
                known = dict.fromkeys((*batch.anchors, *anchors))
                footer = batch.keep * pack_footer(
                    {
                        "chunks": batch.chunks,
                        "samples": batch.samples,
                        "recovered": True,
                        "anchors": [pack_anchor(a) for a in known],
                    }
                )
                self.fs.write_at(handle, batch.end, footer)
                batch.size = batch.end + len(footer)
                self.fs.truncate(handle, batch.size)
            # Also where it was found sealed: that may be in the page cache only.
            self.fs.sync(handle)
        finally:
            self.fs.close(handle)
        batch.footer = batch.sealed = True

    def publish(self, batch: Closing) -> None:
        """Link a sealed batch into its lanes, durably, and take it out of `open/`."""
        if not batch.linked:
            for uplink in batch.uplinks:
                lane = self.lane_folder(uplink, batch.lane)
                self._make(lane)
                with contextlib.suppress(FileExistsError):  # a start after a cut does this again
                    self.fs.link(batch.path, self.parcel_path(uplink, batch.lane, batch.batch_id))
                self.fs.sync_folder(lane)
            batch.linked = True
        self.remove(batch)

    def remove(self, batch: Closing) -> None:
        """Take a batch out of `open/`."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.unlink(batch.path)
        self.sync_open()

    def quarantine(self, path: Path, uplink: str) -> None:
        """Put a file aside, bounded."""
        folder = self.root / "quarantine" / uplink
        self._make(folder)
        names = self._names(folder)
        for name in names[: max(0, len(names) + 1 - QUARANTINE_FILES)]:
            with contextlib.suppress(FileNotFoundError):
                self.fs.unlink(folder / name)
        self.fs.rename(path, folder / path.name)

    # -- what a start finds ------------------------------------------------------------------

    def recover(self) -> Found:
        """List what a run before left. A file that cannot be read now is left where it is."""
        positions: dict[str, Positions] = {}
        left: list[Closing] = []
        anchors: list[Anchor] = []
        boots: set[str] = set()
        for name in self._names(self.open_folder):
            path = self.open_folder / name
            try:
                batch, reached, boot = self._left_open(path)
            except OSError as e:
                log.warning("%s: cannot be read: %s", path, e.strerror)
                continue
            except BatchError as e:
                # Cut before its header was durable, or no batch: nothing in it was ever promised.
                log.warning("%s", e)
                with contextlib.suppress(OSError):
                    self.quarantine(path, "unreadable")
                continue
            left.append(batch)
            anchors += batch.anchors
            boots.add(boot)
            if reached:
                positions[batch.stream] = further(positions.get(batch.stream, {}), reached)
        names = {batch.path.name for batch in left}
        parcels: dict[str, list[Parcel]] = {}
        spoiled: dict[str, list[Parcel]] = {}
        seen: set[str] = set()
        for uplink in self.uplinks:
            parcels[uplink], spoiled[uplink] = [], []
            for lane in LANES:
                for name in self._names(self.lane_folder(uplink, lane)):
                    if name in names:
                        continue  # published in part: will be again
                    with _passing(f"{name} cannot be read", always=True):
                        path = self.lane_folder(uplink, lane) / name
                        footer = self._footer(path)
                        if footer is None:
                            spoiled[uplink].append(self._spoil(uplink, lane, path))
                            continue
                        samples = _count(footer.get("samples"))
                        parcels[uplink].append(
                            Parcel(
                                name.removesuffix(SUFFIX), lane, path, self.fs.size(path), samples
                            )
                        )
                        if name not in seen:
                            seen.add(name)
                            anchors += _anchors_of(footer)
                            boots.add(self._boot_of(path))
            parcels[uplink].sort(key=lambda p: order_of(p.batch_id))
        known = dict.fromkeys(a for a in anchors if a.boot_id in boots)
        return Found(parcels, tuple(left), positions, tuple(known), spoiled)

    def _left_open(self, path: Path) -> tuple[Closing, Positions, str]:
        """A file in `open/`, how far it reaches in recordings, and its boot.

        Raises:
            BatchError: it has no whole header.
        """
        data = self.fs.read(path)
        header, begin = unpack_header(data, str(path))
        stream, lane, uplinks = _whose(header)
        reader = BatchReader(path)
        positions: Positions = dict(header.get("positions") or {})
        samples = 0
        keep = False
        for kind, value in reader.records():
            if kind == "position":
                positions.update(value)
            elif kind == "samples":
                samples += value.samples
            elif kind == "tombstone":
                keep = True
        scan = scan_chunks(data, begin)
        sealed = footer_from_tail(data) is not None
        if scan.footer is not None and not sealed:
            # The footer is there, what must stand behind it (or its end) is not: cut before it.
            scan = _before_footer(data, begin, scan)
        batch = Closing(
            batch_id=path.name.removesuffix(SUFFIX),
            path=path,
            stream=stream,
            lane=lane,
            uplinks=uplinks,
            end=scan.end,
            chunks=scan.chunks,
            samples=samples,
            keep=keep or sealed or samples > 0,
            anchors=tuple(reader.anchors()),
            footer=sealed,
            size=len(data),
        )
        return batch, positions, str(header.get("boot_id", ""))

    def _footer(self, path: Path) -> dict[str, Any] | None:
        tail = self.fs.read_tail(path, _TAIL)
        if len(tail) == _TAIL and tail.endswith(END_MAGIC):
            size = struct.unpack_from("<I", tail, len(tail) - END_SIZE)[0]
            if len(tail) < size + END_SIZE <= MAX_CHUNK:
                tail = self.fs.read_tail(path, size + END_SIZE)
        return footer_from_tail(tail)

    def _boot_of(self, path: Path) -> str:
        with contextlib.suppress(BatchError):
            try:
                header, _ = unpack_header(self.fs.read_head(path, _HEAD), str(path))
            except BatchError:  # a long one
                header, _ = unpack_header(self.fs.read(path), str(path))
            return str(header.get("boot_id", ""))
        return ""

    def _spoil(self, uplink: str, lane: Lane, path: Path) -> Parcel:
        samples = 0
        with contextlib.suppress(BatchError):
            samples = BatchReader(path).count_samples()
        size = self.fs.size(path)
        self.quarantine(path, uplink)
        log.error("%s: has lost its end, and is in quarantine", path)
        return Parcel(path.name.removesuffix(SUFFIX), lane, path, size, samples)


@contextlib.contextmanager
def _passing(what: str, *, always: bool = False) -> Iterator[None]:
    """Log what the disk does not do now, and go on without it."""
    try:
        yield
    except OSError as e:
        if not always and e.errno not in _PASSING:
            raise
        log.warning("%s: %s", what, e.strerror or e)


def order_of(batch_id: str) -> tuple[int, int]:
    """(run, sequence) of a batch: the order in which batches of a lane were made."""
    try:
        _, run, _, sequence = batch_id.split("-")
        return int(run), int(sequence)
    except ValueError:
        return 0, 0


def further(old: Positions, new: Positions) -> Positions:
    """Positions after a block; a position in the same recording never goes back."""
    merged = dict(old)
    for bus, position in new.items():
        known = merged.get(bus)
        if (
            known is None
            or not same_recording(known, position)
            or position["frames"] > known["frames"]
        ):
            merged[bus] = position
    return merged


def same_recording(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two positions speak of the same file."""
    return a.get("path") == b.get("path") and a.get("size") == b.get("size")


def _before_footer(data: bytes, begin: int, scan: Scan) -> Scan:
    """The chunks before the footer of a file: without its last byte it is none."""
    end = scan.end - END_SIZE if data[: scan.end].endswith(END_MAGIC) else scan.end
    return scan_chunks(data[: end - 1], begin)


def _whose(header: Mapping[str, Any]) -> tuple[str, Lane, tuple[str, ...]]:
    try:
        lane, uplinks = header["lane"], tuple(header["uplinks"])
        if lane not in LANES or not uplinks or not all(_NAME.fullmatch(u) for u in uplinks):
            raise BatchError("the header names no lane or no uplink")
        return str(header["stream"]), lane, uplinks
    except (KeyError, TypeError) as e:
        raise BatchError(f"the header lacks a part: {e}") from e


def _anchors_of(footer: Mapping[str, Any]) -> list[Anchor]:
    found = footer.get("anchors")
    known = map(unpack_anchor, found if isinstance(found, list) else ())
    return [a for a in known if a is not None]


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
