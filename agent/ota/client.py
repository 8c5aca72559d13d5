"""What the repository says, verified by python-tuf, within bounds of our own.

python-tuf's `Updater` does the work that the TUF specification describes (root after root, then
timestamp, snapshot, targets; signatures, thresholds, versions, expiry). It is wrapped where a
vehicle needs more than it gives:

- **Power cuts.** It keeps its files without fsync, and takes an older repository again when two of
  them were emptied. So it works in a folder that is wiped before each look (`agent.ota.attempt`).
  What it found good is handed to the caller as bytes, to be made durable all at once. From a look
  that failed only roots are kept: a key that was revoked stays so.
- **Rollback.** The caller's `floors` say below which version nothing is taken, whatever has become
  of the stored files.
- **Time.** It asks the computer's clock, which may be back in 1970, where nothing expires. The
  caller gives the reference time: the wall clock, or what it knows that has passed for certain.
- **Fast forward.** Whoever has stolen keys may sign a version so high that nothing newer can come.
  The cure is a root with new keys for these roles. Our floors are bound to the keys and fall with
  them. python-tuf forgets a stored file only when it does not verify any more; where the cure
  renews the keys of snapshot or targets alone, its stored files would stand against it. They are
  left out then (TUF specification 5.3.11, and the same for targets).
- **Size.** A timestamp that is signed with a stolen key may name any length for a snapshot, which
  python-tuf would fetch to the end, on disk. `agent.ota.fetch` has the bounds.

**When nothing has changed**, a look is one small request: timestamp.json, with the ETag that it
had. What is stored is verified afresh all the same, without the network. A new root is therefore
noticed with the next timestamp; an operator who renews keys publishes one. Stored files that do not
verify, or have expired, always lead to a whole look.

Delegated roles are not followed: all targets stand in targets.json, and what a delegation promises
counts for nothing.

python-tuf is slow to import: import this module in a thread, at the first look.
"""

import datetime as dt
import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from tuf.api.metadata import Root

from agent.clock import WallNs
from agent.ota.attempt import LIMITS, Attempt, keys_of
from agent.ota.fetch import Deadline, Fetcher, Shelf
from agent.ota.trusted import Floor, Learned, Looked, LookError, Trusted, Unreachable, Untrusted
from agent.ota.types import Target
from agent.settings.ota import Ota

__all__ = [
    "Client",
    "Floor",
    "Learned",
    "LookError",
    "Looked",
    "Target",
    "Trusted",
    "Unreachable",
    "Untrusted",
]

_TIMESTAMP: Final = "metadata/timestamp.json"
# What a bundle may have when it is read.
_MOST_TARGET_BYTES: Final = 16 * 2**20
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_LAST_NS: Final = 2**63 - 1
# No "..", nothing hidden, nothing that a URL would have another meaning for.
_PATH: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*\Z")
_SHA256: Final = re.compile(r"[0-9a-f]{64}\Z")


class Client:
    """Looks at one repository, again and again. It blocks, so it belongs in a thread, and in one.

    Args:
        settings: where the repository is, and whose word is trusted.
        work: a folder for files that may be lost; `look` in it is wiped.
        user_agent: how we call ourselves to the server.
        now: a clock that is never set, in seconds; for `deadline_s`.
    """

    def __init__(
        self, settings: Ota, work: Path, user_agent: str, now: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._folder = work / "look"
        self._user_agent = user_agent
        self._now = now
        # Whether the repository puts digests before the names of its targets.
        self._digests_in_names = True

    def look(
        self, trusted: Trusted | None, floors: Mapping[str, Floor], reference: WallNs
    ) -> Looked:
        """Ask what the repository says now.

        Args:
            trusted: what the last look gave, or None. Damaged files in it cost only requests.
            floors: the same.
            reference: the time by which metadata expire: the greater of the wall clock and what is
                known to have passed.

        Raises:
            Unreachable: there is no answer that could be judged. Later there may be one.
            Untrusted: the answer is not what the trusted keys say, or older than what they said.
        """
        known = trusted or Trusted({}, "")
        look = _Look(self._settings, self._folder, known, floors, _moment(reference))
        with self._fetcher() as fetcher:
            attempt = look.standing()
            found = known
            if attempt is None or _has_changed(fetcher, known):
                attempt = look.fresh(fetcher)
                found = Trusted(attempt.files(), fetcher.etags.get(_TIMESTAMP, ""))
        self._digests_in_names = bool(attempt.root.consistent_snapshot)
        return Looked(
            trusted=found,
            floors=_floors_of(attempt),
            targets=_targets_of(attempt),
            changed=found != known,
            expires=_nanoseconds(attempt.timestamp.expires),
        )

    def download(self, target: Target) -> bytes:
        """Fetch a target of the last look; its length and digest are right.

        Raises:
            Unreachable: it did not come, or not whole.
            Untrusted: what came is not what was signed, or what was signed is beyond our bounds.
        """
        if not 0 <= target.length <= _MOST_TARGET_BYTES:
            raise Untrusted(
                f"{target.path} is said to have {target.length} bytes, and this vehicle takes "
                f"{_MOST_TARGET_BYTES} at most: it was not fetched."
            )
        folder, slash, name = target.path.rpartition("/")
        if self._digests_in_names:
            name = f"{target.sha256}.{name}"
        with self._fetcher() as fetcher:
            content = fetcher.get(f"targets/{quote(folder + slash + name)}", target.length).body
            what = fetcher.what
        if len(content) != target.length:
            raise Untrusted(
                f"{what} came with {len(content)} bytes and not the {target.length} that "
                "are signed: it was replaced on its way, or in the mirror."
            )
        if hashlib.sha256(content).hexdigest() != target.sha256:
            raise Untrusted(
                f"{what} came with another content than the signed one (its SHA-256 "
                "differs): it was replaced on its way, or in the mirror."
            )
        return content

    def _fetcher(self) -> Fetcher:
        deadline = Deadline(self._settings.deadline_s, self._now)
        return Fetcher(self._settings, self._user_agent, deadline)


class _Look:
    """One look: the stored files and the floors, against what is asked.

    Raises:
        Untrusted: root_file cannot be read.
    """

    def __init__(
        self,
        settings: Ota,
        folder: Path,
        known: Trusted,
        floors: Mapping[str, Floor],
        reference: dt.datetime,
    ) -> None:
        self._url = settings.url
        self._folder = folder
        self._known = known
        self._floors = floors
        self._reference = reference
        try:
            # Read each time: an operator may have replaced it.
            self._anchor = Path(settings.root_file).read_bytes()
        except OSError as e:
            raise Untrusted(
                f"{settings.root_file} ([ota] root_file) cannot be read, so nobody's word is "
                f"trusted: {e.strerror or 'no reason given'}."
            ) from e

    def standing(self) -> Attempt | None:
        """What the stored files say by themselves; None where they do not hold any more."""
        timestamp = self._known.files.get("timestamp.json")
        if timestamp is None:
            return None
        attempt = self._attempt(self._known.files, Shelf(timestamp))
        try:
            attempt.run()
            self._compare(attempt)
        except LookError:
            return None
        return attempt

    def fresh(self, fetcher: Fetcher) -> Attempt:
        """What the repository says now.

        Raises:
            Unreachable: as of Client.look.
            Untrusted: the same.
        """
        attempt = self._attempt(self._known.files, fetcher)
        try:
            try:
                attempt.run()
            except Untrusted:
                if not self._renewed(attempt.root):
                    raise
                # What the old keys signed must not stand against what the new ones sign.
                attempt = self._attempt(attempt.roots(), fetcher)
                attempt.run()
            self._compare(attempt)
        except LookError as e:
            e.learned = self._learned(attempt)
            raise
        return attempt

    def _attempt(self, files: Mapping[str, bytes], source: Fetcher | Shelf) -> Attempt:
        return Attempt(
            self._folder, self._anchor, files, self._url, source, reference=self._reference
        )

    def _renewed(self, root: Root) -> bool:
        """Whether keys other than those of root are new since the last look."""
        return any(
            role != "root" and floor.keys != keys_of(root, role)
            for role, floor in self._floors.items()
            if role in root.roles
        )

    def _compare(self, attempt: Attempt) -> None:
        """Hold it against the floors.

        Raises:
            Untrusted: a role is below its own.
        """
        for role, now in _floors_of(attempt).items():
            floor = self._floors.get(role)
            if floor is not None and now.keys == floor.keys and now.version < floor.version:
                raise Untrusted(
                    f"The repository shows {role}.json in version {now.version}, and this vehicle "
                    f"has had version {floor.version}: a rollback."
                )

    def _learned(self, attempt: Attempt) -> Learned | None:
        """The roots that are newer than those that are known."""
        now = _floor_of_root(attempt)
        floor = self._floors.get("root")
        before = floor.version if floor and floor.keys == now.keys else attempt.anchor.version
        if now.version <= before:
            return None
        files = {**self._known.files, **attempt.roots()}
        return Learned(Trusted(files, self._known.etag), {**self._floors, "root": now})


def _has_changed(fetcher: Fetcher, known: Trusted) -> bool:
    answer = fetcher.get(_TIMESTAMP, LIMITS.timestamp_max_length, known.etag)
    return not answer.unchanged and answer.body != known.files["timestamp.json"]


def _floor_of_root(attempt: Attempt) -> Floor:
    """Bound to the keys of the anchor, so that only another repository may begin with 1 again."""
    return Floor(attempt.root.version, keys_of(attempt.anchor, "root"))


def _floors_of(attempt: Attempt) -> dict[str, Floor]:
    return {
        "root": _floor_of_root(attempt),
        "timestamp": Floor(attempt.timestamp.version, keys_of(attempt.root, "timestamp")),
        "snapshot": Floor(attempt.snapshot.version, keys_of(attempt.root, "snapshot")),
        "targets": Floor(attempt.targets.version, keys_of(attempt.root, "targets")),
    }


def _targets_of(attempt: Attempt) -> dict[str, Target]:
    """The targets that this vehicle could fetch; whatever else is signed is left out."""
    return {
        path: Target(path, file.length, file.hashes["sha256"], _mapping(file.custom))
        for path, file in attempt.targets.targets.items()
        if _PATH.match(path) and type(file.length) is int and _is_sha256(file.hashes.get("sha256"))
    }


def _is_sha256(digest: Any) -> bool:
    return isinstance(digest, str) and _SHA256.match(digest) is not None


def _mapping(custom: Any) -> Mapping[str, Any]:
    return custom if isinstance(custom, dict) else {}


def _moment(time: WallNs) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=time // 1000)


def _nanoseconds(moment: dt.datetime) -> WallNs:
    return WallNs(min((moment - _EPOCH) // dt.timedelta(microseconds=1) * 1000, _LAST_NS))
