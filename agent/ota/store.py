"""The folder of configuration over the air: written so that power may go at any moment.

    record.json, record.copy.json   the record (agent.ota.record), twice
    bundles/{sha256}.bundle         archives, as they were downloaded
    trusted.msgpack                 what was last found good of the repository, and the floors again
    lock                            held by the agent, or by the command that changes the record

**One step after the other.** Every file is written beside its place, synced, renamed, and its
folder synced (`replace_durably`), so it has its old or its new content. What a step leans on is
durable before it:

    fetch     the record with the new floors; then trusted.msgpack. After a cut between them the
              stored metadata are older than the floors, so the next look asks for all of them.
    keep      the archive; a record names it only afterwards. After a cut nothing names it, and the
              next `keep` or `clean` removes it.
    try       the record with the trial; only then the plan is switched. After a cut the start
              switches to it, and has counted this as a try before that.
    verdict   the record without the trial; only then what it has let go of is removed. After a cut
              before the record the trial goes on, after it the verdict stands.
    clean     both copies of the record are whole and equal before anything is removed: no older
              copy names what is gone.

**Two copies.** The one that is older or damaged is written first, so the other one is whole while
that happens. Each carries a CRC32C over the record and the record's serial number; the whole one
with the highest counts. Damaged files are skipped, and written again with the next change.

**Floors** are the highest that any whole file says: of a role with the same keys the highest
version, else what has the higher serial. So they outlive any two of the three files. `save` never
lets them sink.

**A disk that fails.** Loading always comes to an end: with what can be read, at worst the factory
plan, and `trouble` says why. Writing raises UpdateError. The record in memory is then the one
before, that on the disk may be the one behind it; the next one that is written has a higher serial
than both. A passing fault must not take away what is known: where the disk gave no copy of the
record, nothing is written until the next start; where it kept back one file, that is read again
before the first write, and if it says something else then, nothing is written either.

**A newer agent** may have left a higher format number. Then the factory plan runs, and nothing is
written or removed, so that the newer agent finds it all again. The envelope (the CRC, and in the
record `format` and `serial`) stays as it is for ever.
"""

import contextlib
import hashlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self

from msgspec.structs import replace

from agent.clock import WallNs
from agent.errors import UpdateError
from agent.ota import record as records
from agent.ota import stored
from agent.ota.record import UNKNOWN, Record
from agent.ota.stored import Content, Found
from agent.ota.trusted import Trusted
from agent.spool.filesystem import FileSystem, RealFileSystem, replace_durably

log = logging.getLogger("edge_agent.ota")

MOST_BUNDLE: Final = 16 << 20

_BUNDLES: Final = "bundles"
_LOCK: Final = "lock"
_SUFFIX: Final = ".bundle"
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")


class Store:
    """One vehicle's folder. Every method may be called in any thread, and blocks.

    Use `open` (or `with`) to change anything; `load` alone looks, and takes no lock.

    Args:
        folder: `ota` in the state folder; made when it is missing.
        fs: the disk.
    """

    def __init__(self, folder: Path, fs: FileSystem | None = None) -> None:
        self.folder = folder
        self.record = Record()
        """The one that counts. What was stored last, unless `trouble` says otherwise."""
        self.trouble = ""
        """Why what is stored cannot be used or changed; empty when all is well."""
        self._fs: FileSystem = fs or RealFileSystem()
        self._guard = threading.RLock()
        self._lock: int | None = None
        self._made = False
        self._found = Found(self.record)
        self._serial = 0
        self._stale = False
        self._order = list(stored.COPIES)

    # -- begin and end -----------------------------------------------------------------------

    def open(self) -> None:
        """Take the folder and load the record. A sick disk is no error here: see `trouble`.

        Raises:
            UpdateError: another process holds the folder.
        """
        with self._guard:
            trouble = ""
            try:
                self._take()
            except OSError as e:
                trouble = f"{self.folder} cannot be written: {e.strerror or e}"
            self.load()
            self._say(self.trouble or trouble)

    def close(self) -> None:
        """Let go of the folder."""
        with self._guard, contextlib.suppress(OSError):
            handle, self._lock = self._lock, None
            if handle is not None:
                self._fs.close(handle)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def load(self) -> Record:
        """Read what is stored; never fails, see `trouble`."""
        with self._guard:
            found = self._found = self._look()
            self.record = found.record
            self._serial = found.record.serial
            self._stale = found.stale
            self._order = list(found.order)
            self._say(found.trouble)
            return self.record

    def begin(self, wall: WallNs = UNKNOWN) -> Record:
        """Count this start of the process, and give the record to start with.

        Where a try cannot be counted there is none: what was on trial is given up for now, so that
        a plan that ends the process cannot do so for ever on a disk that takes nothing.
        """
        with self._guard:
            if not self.attempt(records.started(self.record, wall)):
                self.record = replace(self.record, trial=None)
                self._stale = True
            return self.record

    # -- the record --------------------------------------------------------------------------

    def change(self, step: Callable[[Record], Record]) -> Record:
        """Make a step of the record as it is now durable, whatever other threads do.

        Raises:
            UpdateError: as `save`, or from the step.
        """
        with self._guard:
            return self.save(step(self.record))

    def save(self, record: Record) -> Record:
        """Make a record durable; when this returns, it counts. Floors do not sink by it.

        Returns:
            It, as it was stored.

        Raises:
            UpdateError: it is not known to be durable; `self.record` is the one before.
        """
        with self._guard:
            known = self.record
            # Whoever started from an older record does not know the newest keys of a role.
            parts = (record, known) if record.serial < known.serial else (known, record)
            record = replace(
                record,
                serial=known.serial,
                floors=records.raised(parts[0].floors, parts[1].floors),
                time_floor=max(record.time_floor, known.time_floor),
            )
            if record == known and not self._stale:
                return known
            with self._writing("the record"):
                record = replace(record, serial=self._serial + 1)
                data = stored.record_bytes(record)
                self._serial, self._stale = record.serial, True
                for name in tuple(self._order):
                    replace_durably(self._fs, self.folder / name, data)
                    self._order.remove(name)
                    self._order.append(name)
            self.record, self._stale = record, False
            return record

    def attempt(self, record: Record) -> bool:
        """Save where that is possible; else `trouble` says why, and nothing has changed."""
        try:
            self.save(record)
        except UpdateError as e:
            self._say(str(e))
            return False
        return True

    # -- archives ----------------------------------------------------------------------------

    def keep(self, data: bytes, sha256: str) -> None:
        """Make an archive durable, and remove those that nothing names.

        Raises:
            UpdateError: it is another one than it should be, or too large, or the disk failed.
        """
        path = self._archive(sha256)
        if len(data) > MOST_BUNDLE or hashlib.sha256(data).hexdigest() != sha256:
            raise UpdateError(
                f"{path} is not written: its {len(data)} bytes are not the archive of this name; "
                "fetch it again"
            )
        with self._guard:
            self.clean()
            with self._writing("an archive"):
                try:
                    replace_durably(self._fs, path, data)
                except OSError:
                    with contextlib.suppress(OSError):
                        self._fs.unlink(path.with_name(path.name + ".new"))
                    raise

    def bundle(self, sha256: str) -> bytes:
        """The archive with this digest.

        Raises:
            UpdateError: it is not there, damaged, or cannot be read.
        """
        path = self._archive(sha256)
        try:
            data = self._read(path, MOST_BUNDLE)
        except FileNotFoundError as e:
            raise UpdateError(f"{path} is missing: the bundle has to be fetched again") from e
        except OSError as e:
            raise UpdateError(f"{path} cannot be read: {e.strerror or e}; look at the disk") from e
        if hashlib.sha256(data).hexdigest() != sha256:
            raise UpdateError(f"{path} is damaged: the bundle has to be fetched again")
        return data

    def clean(self) -> None:
        """Bring the folder in order: both copies of the record, and no archive without a name.

        Raises:
            UpdateError: the disk failed; what could not be removed is removed another time.
        """
        with self._guard:
            if self._stale:
                self.save(self.record)
            record = self.record
            named = (records.running(record), record.current, record.previous)
            wanted = {f"{bundle.sha256}{_SUFFIX}" for bundle in named if bundle is not None}
            with self._writing("the folder"):
                folder = self.folder / _BUNDLES
                gone = [name for name in self._fs.names(folder) if name not in wanted]
                for name in gone:
                    self._fs.unlink(folder / name)
                if gone:
                    self._fs.sync_folder(folder)

    def _archive(self, sha256: str) -> Path:
        if not _SHA256.fullmatch(sha256):
            raise UpdateError(f'"{sha256[:80]}" is no SHA-256: there can be no such bundle')
        return self.folder / _BUNDLES / f"{sha256}{_SUFFIX}"

    # -- the repository ----------------------------------------------------------------------

    def trusted(self) -> Trusted | None:
        """What was last found good of the repository; None where that is not known any more."""
        with self._guard:
            if self._found.refusal:
                return None
            return stored.trusted_of(self._content(stored.TRUSTED))

    def trust(self, trusted: Trusted) -> None:
        """Make it durable, with the floors of the record, which is saved before.

        Raises:
            UpdateError: it is too large, or the disk failed; the old one may still be there.
        """
        with self._guard:
            data = stored.trusted_bytes(self.record, trusted)
            with self._writing("the metadata of the repository"):
                replace_durably(self._fs, self.folder / stored.TRUSTED, data)

    # -- reading -----------------------------------------------------------------------------

    def _look(self) -> Found:
        """What the files say; no error of the disk leaves this."""
        return stored.found(self.folder, {name: self._content(name) for name in stored.LIMITS})

    def _content(self, name: str) -> Content:
        try:
            return self._read(self.folder / name, stored.LIMITS[name])
        except FileNotFoundError:
            return None
        except OSError as e:
            return e

    def _read(self, path: Path, most: int) -> bytes:
        """One more byte than it may have, so that what is too long is not whole."""
        try:
            return self._fs.read_head(path, most + 1)
        except FileNotFoundError:
            raise
        except OSError:
            return self._fs.read_head(path, most + 1)

    # -- writing -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self, what: str) -> Iterator[None]:
        """Be allowed to write; an error of the disk becomes a sentence."""
        try:
            self._prepare()
            yield
        except OSError as e:
            sentence = (
                f"{self.folder}: {what} cannot be written ({e.strerror or e}); look at the disk"
            )
            self._say(sentence)
            raise UpdateError(sentence) from e
        self._say("")

    def _prepare(self) -> None:
        """See that this process may write, and that there is where to.

        Raises:
            UpdateError: it may not.
            OSError: as the disk does.
        """
        late = self._lock is None
        if late:
            self._take()
        if (late or self._found.unread) and not self._found.refusal:
            self._compare()
        if self._found.refusal:
            raise UpdateError(self._found.refusal)
        if not self._made:
            self._fs.make_folder(self.folder / _BUNDLES)
            self._fs.sync_folder(self.folder)
            self._fs.sync_folder(self.folder.parent)
            self._made = True

    def _compare(self) -> None:
        """What was read without the lock, or on a sick disk, must still be what is there."""
        before, now = self._found, self._look()
        if now.record == before.record and not now.refusal:
            self._found = replace(now, unread=False)
            return
        refusal = now.refusal or (
            f"{self.folder}: what is stored was not read when this program began, and now is: "
            "nothing is changed until it is started again"
        )
        self._found = replace(before, refusal=refusal)

    def _take(self) -> None:
        if self._lock is not None:
            return
        try:
            self._fs.make_folder(self.folder)
            self._lock = self._fs.lock(self.folder / _LOCK)
        except BlockingIOError as e:
            raise UpdateError(
                f"{self.folder}: an edge-agent is running and uses it; ask that one, or stop it"
            ) from e

    def _say(self, trouble: str) -> None:
        """Log the beginning and the end of trouble."""
        if self._found.refusal:
            trouble = self._found.refusal
        if trouble and trouble != self.trouble:
            log.error("%s", trouble)
        elif self.trouble and not trouble:
            log.info("%s can be used again", self.folder)
        self.trouble = trouble
