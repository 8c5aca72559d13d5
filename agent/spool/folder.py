"""The spool folder: where things are, whose it is, and how a batch leaves `open/`."""

import contextlib
import dataclasses
import errno
import logging
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent.batch.format import SUFFIX, pack_footer
from agent.batch.reader import pack_anchor
from agent.clock import Anchor
from agent.errors import SpoolError
from agent.settings import LANES, Lane
from agent.spool.ages import Born
from agent.spool.filesystem import FileSystem, RealFileSystem, replace_durably
from agent.spool.naming import order_of
from agent.spool.positions import Positions, further, same_recording

__all__ = [
    "Closing",
    "Positions",
    "SpoolFolder",
    "further",
    "order_of",
    "passing",
    "same_recording",
]

log = logging.getLogger("edge_agent.spool")

_INSTALL = re.compile(r"[0-9a-f]{16}")
_PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
"""What a disk may say for a while; anything else at a start is how the folder was set up."""


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
    frames: int = 0
    """How many of the samples are raw frames."""
    reports: int = 0
    """How many of them are reports."""
    events: int = 0
    anchors: tuple[Anchor, ...] = ()
    born: Born | None = None
    tombstones: int = 0
    """How many it carries."""
    footer: bool = False
    """Whether the file ends with a footer."""
    sealed: bool = False
    """Whether that is durable, and nothing lies behind it."""
    linked: bool = False
    size: int = 0


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
        with passing("folders cannot be made yet"):
            self.make(self.open_folder, *lanes)

    def make(self, *folders: Path) -> None:
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
            for name in self.names(folder):
                yield order_of(name.removesuffix(SUFFIX))[0]

    def names(self, folder: Path) -> list[str]:
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

    def sent_folder(self, uplink: str) -> Path:
        """Where acknowledged batches stay for a while."""
        return self.root / "uplinks" / uplink / "sent"

    def quarantine_folder(self, uplink: str) -> Path:
        return self.root / "quarantine" / uplink

    def batch_id(self, lane: Lane, sequence: int) -> str:
        return f"{self.install}-{self.run}-{lane}-{sequence}"

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.fs.close(self._lock)

    # -- a batch on its way out of `open/` ---------------------------------------------------

    def create(self, batch_id: str) -> int:
        """A new file in `open/`; its entry is durable after `sync_open`."""
        self.make(self.open_folder)
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
                        "tombstones": batch.tombstones,
                        **({"frames": batch.frames} if batch.frames else {}),
                        **({"reports": batch.reports} if batch.reports else {}),
                        **({"events": batch.events} if batch.events else {}),
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
                self.make(lane)
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

    def move(self, source: Path, target: Path) -> None:
        """Give a batch another place; a cut may leave it in both.

        Not by renaming: that does nothing where both names are the same file already.
        """
        self.make(target.parent)
        with contextlib.suppress(FileExistsError):
            self.fs.link(source, target)
        with contextlib.suppress(FileNotFoundError):
            self.fs.unlink(source)


@contextlib.contextmanager
def passing(what: str, *, always: bool = False) -> Iterator[None]:
    """Log what the disk does not do now, and go on without it."""
    try:
        yield
    except OSError as e:
        if not always and e.errno not in _PASSING:
            raise
        log.warning("%s: %s", what, e.strerror or e)
