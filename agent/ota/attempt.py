"""One run of python-tuf over a folder of its own, and its verdict in words.

`Updater` reads and writes files, and does so without fsync. So it gets a folder that is wiped
first, into which the stored files are laid; afterwards they are read back as bytes. Nothing durable
ever lies there.
"""

import datetime as dt
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Root, Snapshot, Targets, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.updater import Updater

from agent.ota.fetch import Fetcher, Shelf
from agent.ota.trusted import LookError, Unreachable, Untrusted

# Bounds of one file, in bytes. There are no delegations, so a snapshot names one file.
LIMITS: Final = UpdaterConfig(
    root_max_length=256 * 1024,
    timestamp_max_length=16 * 1024,
    snapshot_max_length=256 * 1024,
    targets_max_length=4 * 2**20,
)
# JSON has no bound for a number, but what keeps a floor has. Nobody gets there by counting.
MOST_VERSION: Final = 2**53

_STORED: Final = ("timestamp.json", "snapshot.json", "targets.json")
_STORED_ROOT: Final = re.compile(r"root_history/([1-9][0-9]{0,8})\.root\.json\Z")


class Attempt:
    """Ask one source, with these files in mind.

    Args:
        folder: is wiped.
        anchor: the root metadata that are trusted without further question.
        files: as `Trusted.files`; whatever else they name is left out.
        url: of the repository.
        source: what answers for it.
        reference: the time by which metadata expire.

    Attributes:
        anchor: the root that was given.

    Raises:
        Unreachable: the folder cannot be written.
        Untrusted: the anchor is no root that is signed by itself.
    """

    def __init__(
        self,
        folder: Path,
        anchor: bytes,
        files: Mapping[str, bytes],
        url: str,
        source: Fetcher | Shelf,
        *,
        reference: dt.datetime,
    ) -> None:
        self._folder = folder
        self._source = source
        try:
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "root_history").mkdir(parents=True)
            for name, content in files.items():
                if name in _STORED or _STORED_ROOT.match(name):
                    (folder / name).write_bytes(content)
            self._updater = Updater(
                str(folder),
                f"{url.rstrip('/')}/metadata",
                fetcher=source,
                config=LIMITS,
                bootstrap=anchor,
            )
        except OSError as e:
            raise self._unwritable(e) from e
        # A file of the operator, but a file: what the parser raises, it is no root.
        except Exception as e:
            raise Untrusted(
                "The file that [ota] root_file names is no root metadata that is signed by itself, "
                "so nobody's word is trusted: put the repository's 1.root.json there."
            ) from e
        # There is no public way to say by which time metadata expire, nor to see all targets, nor
        # the root that was reached when a later role failed.
        self._set = self._updater._trusted_set  # noqa: SLF001
        self._set.reference_time = reference
        self.anchor = self._set.root

    @property
    def root(self) -> Root:
        """The newest root that was verified, also of a run that failed."""
        return self._set.root

    @property
    def timestamp(self) -> Timestamp:
        return self._set.timestamp

    @property
    def snapshot(self) -> Snapshot:
        return self._set.snapshot

    @property
    def targets(self) -> Targets:
        return self._set.targets

    def run(self) -> None:
        """Take in what the source has, and verify it.

        Raises:
            Unreachable: the source did not answer, or the folder cannot be written.
            Untrusted: what it answered is not to be trusted.
        """
        try:
            self._updater.refresh()
        except LookError:
            raise
        except DownloadError as e:
            raise Unreachable(str(e)) from e
        except OSError as e:
            raise self._unwritable(e) from e
        # Bytes of a stranger have gone through parsers: whatever these raise, it was no metadata.
        except Exception as e:
            verdict = _verdict(e, self._source.asked.rpartition("/")[2])
            raise Untrusted(f"{self._source.what} {verdict}.") from e
        for signed in (self.timestamp, self.snapshot, self.targets):
            if type(signed.version) is not int or signed.version > MOST_VERSION:
                raise Untrusted(
                    f"{signed.type}.json is signed with a version beyond {MOST_VERSION}, so that "
                    f"nothing could come after it: the keys of {signed.type} are in wrong hands."
                )

    def roots(self) -> dict[str, bytes]:
        """The verified roots after the anchor, as `Trusted.files` has them."""
        versions = range(self.anchor.version + 1, self.root.version + 1)
        return self._read([f"root_history/{version}.root.json" for version in versions])

    def files(self) -> dict[str, bytes]:
        """Everything that was verified, as `Trusted.files` has it."""
        return {**self.roots(), **self._read(_STORED)}

    def _read(self, names: list[str] | tuple[str, ...]) -> dict[str, bytes]:
        try:
            return {name: (self._folder / name).read_bytes() for name in names}
        except OSError as e:
            raise self._unwritable(e) from e

    def _unwritable(self, error: OSError) -> Unreachable:
        return Unreachable(
            f"The repository was not asked, because the work folder {self._folder} cannot be used: "
            f"{error.strerror or 'no reason given'}."
        )


def keys_of(root: Root, role: str) -> str:
    """SHA-256 over the keys and the threshold that a root gives to a role.

    With the public keys themselves: an id may be given to another key.
    """
    known = [(keyid, root.keys.get(keyid)) for keyid in root.roles[role].keyids]
    keys = sorted(
        json.dumps([keyid, key and key.to_dict()], sort_keys=True) for keyid, key in known
    )
    return hashlib.sha256(json.dumps([root.roles[role].threshold, keys]).encode()).hexdigest()


def _verdict(error: Exception, name: str) -> str:
    """What python-tuf's refusal of a file means; half a sentence.

    Its own words are repeated where they tell the number of signatures or the file that expired.
    Those about versions are not: some name the two numbers the wrong way round.
    """
    if isinstance(error, UnsignedMetadataError):
        return (
            "is not signed by the keys that are trusted for it: it is forged, or signed with keys "
            f"that were revoked, or by too few ({error})"
        )
    if isinstance(error, ExpiredMetadataError):
        return (
            f"shows the repository as it was: {error}. Someone keeps newer metadata from this "
            "vehicle (a freeze), or the operator has signed none, or our clock is ahead"
        )
    if isinstance(error, BadVersionNumberError):
        if name == "timestamp.json":
            return "is older than what this vehicle has seen: a rollback"
        if name.endswith("root.json"):
            return "is another version of the root than its name says: a rollback, or a mistake"
        return (
            "is not the version that the metadata above it name, or names older ones than this "
            "vehicle has seen: a mix of different times (mix and match), or a rollback"
        )
    if isinstance(error, LengthOrHashMismatchError):
        return "is not the file that the metadata above it name: a mix and match, or damage"
    if isinstance(error, DeserializationError):
        return "is no TUF metadata: damage, or something else than the repository answers"
    return "does not fit to the other metadata: forged, or made by a tool that is at fault"
