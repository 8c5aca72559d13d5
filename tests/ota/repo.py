"""A real TUF repository in a folder, of which anything can go wrong.

    repo = Repository(tmp_path / "repo", now=NOW)
    repo.add("bundles/ev-3.bundle", content, custom={...})
    repo.publish()                                      # targets, snapshot, timestamp; consistent
    repo.rotate("timestamp")                            # a new key, a new root; then publish again
    thief = repo.keys["timestamp"]                      # what is stolen signs whatever it is told
    repo.write(Timestamp(version=2**31 - 1, ...), thief)

The folder is what a web server would serve: `metadata/` and `targets/`. Every operation signs with
real keys and writes real files. `save` and `back_to` keep a day of the repository and bring it back
as an attacker's mirror would, keys and all that is in memory left as they are.
"""

import copy
import datetime as dt
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    TOP_LEVEL_ROLE_NAMES,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

Keys = list[CryptoSigner]
Content = Root | Timestamp | Snapshot | Targets

# A day on which no computer that runs these tests is: who asks its clock is found out.
NOW: Final = dt.datetime(2041, 5, 6, 7, 8, 9, tzinfo=dt.UTC)
# (number of keys, threshold)
THRESHOLDS: Final = {"root": (2, 2), "targets": (2, 2), "snapshot": (1, 1), "timestamp": (1, 1)}
LIVES: Final = {
    "root": dt.timedelta(days=365),
    "targets": dt.timedelta(days=90),
    "snapshot": dt.timedelta(days=30),
    "timestamp": dt.timedelta(days=7),
}
FIELD: Final = "edge-agent"


def new_keys(count: int = 1) -> Keys:
    return [CryptoSigner.generate_ed25519() for _ in range(count)]


def signed(content: Content, keys: Sequence[CryptoSigner]) -> bytes:
    """As a file, signed by these."""
    metadata: Metadata[Any] = Metadata(copy.deepcopy(content))
    for key in keys:
        metadata.sign(key, append=True)
    return metadata.to_bytes()


class Repository:
    """The four roles, their keys, and the files.

    Args:
        folder: where it lies; made when it is not there.
        now: its idea of the time, from which lives are counted. It may be set later.
        thresholds: (number of keys, threshold) of the roles that differ from the usual ones.
        consistent: whether file names carry versions and digests.

    Attributes:
        keys: by role, what its next publication is signed with.
        root, targets, snapshot, timestamp: as they were published last, to be changed at will.
        contents: of the targets, by path.
    """

    def __init__(
        self,
        folder: Path,
        *,
        now: dt.datetime = NOW,
        thresholds: Mapping[str, tuple[int, int]] | None = None,
        consistent: bool = True,
    ) -> None:
        self.folder = folder
        self.now = now
        self.contents: dict[str, bytes] = {}
        self.keys: dict[str, Keys] = {}
        self.lives = dict(LIVES)
        (folder / "metadata").mkdir(parents=True)
        (folder / "targets").mkdir()
        self.root = Root(version=1, consistent_snapshot=consistent)
        self.targets = Targets(version=1)
        self.snapshot = Snapshot(version=1)
        self.timestamp = Timestamp(version=1)
        for role, (count, threshold) in {**THRESHOLDS, **(thresholds or {})}.items():
            self._give(role, new_keys(count), threshold)
        self._published: set[str] = set()
        self.publish_root(again=True)

    @property
    def root_file(self) -> Path:
        """The first root: what a vehicle is given."""
        return self.folder / "metadata" / "1.root.json"

    @property
    def consistent(self) -> bool:
        return bool(self.root.consistent_snapshot)

    def metadata(self, name: str) -> Path:
        return self.folder / "metadata" / name

    def add(self, path: str, content: bytes, custom: Mapping[str, Any] | None = None) -> TargetFile:
        """Put a file into the repository; the next `publish` signs it."""
        target = TargetFile.from_data(path, content, ["sha256"])
        if custom is not None:
            target.unrecognized_fields["custom"] = dict(custom)
        self.targets.targets[path] = target
        self.contents[path] = content
        self.target_file(path).parent.mkdir(parents=True, exist_ok=True)
        self.target_file(path).write_bytes(content)
        return target

    def add_bundle(
        self,
        name: str,
        version: int,
        content: bytes,
        *,
        state: str = "active",
        rules: Sequence[Mapping[str, Any]] = ({"percent": 100},),
        minimum_agent: str = "",
    ) -> TargetFile:
        """Put a bundle into the repository, and say to whom it goes.

        A percentage is a whole number: canonical JSON, which is what is signed, has no others.
        """
        custom = {
            "kind": "bundle",
            "name": name,
            "version": version,
            "minimum_agent": minimum_agent,
            "rollout": {"state": state, "rules": [dict(rule) for rule in rules]},
        }
        return self.add(f"bundles/{name}-{version}.bundle", content, {FIELD: custom})

    def target_file(self, path: str) -> Path:
        """Where the content of a target lies."""
        folder, _, name = path.rpartition("/")
        if self.consistent:
            name = f"{hashlib.sha256(self.contents[path]).hexdigest()}.{name}"
        return self.folder / "targets" / folder / name

    def publish(self, *roles: str) -> None:
        """Sign and write the next version of these roles, by default of all but root."""
        for role in roles or ("targets", "snapshot", "timestamp"):
            content: Content = getattr(self, role)
            if role in self._published:
                content.version += 1
            self._published.add(role)
            self.sign(role)

    def sign(self, role: str) -> bytes:
        """Sign and write a role as it stands, with what is below it; its version stays."""
        content: Content = getattr(self, role)
        if isinstance(content, Snapshot):
            content.meta["targets.json"] = MetaFile(version=self.targets.version)
        if isinstance(content, Timestamp):
            content.snapshot_meta = MetaFile(version=self.snapshot.version)
        content.expires = self.now + self.lives[role]
        return self.write(content, self.keys[role])

    def publish_root(self, *, also: Sequence[CryptoSigner] = (), again: bool = False) -> bytes:
        """The next root, signed by its own keys and by `also`, the keys of the one before it."""
        if not again:
            self.root.version += 1
        self.root.expires = self.now + self.lives["root"]
        unique = {key.public_key.keyid: key for key in (*also, *self.keys["root"])}
        return self.write(self.root, list(unique.values()))

    def rotate(self, *roles: str, count: int | None = None, threshold: int | None = None) -> None:
        """New keys for these roles, and the root that says so. Publish what they sign next."""
        before = self.keys["root"]
        for role in roles:
            old = self.root.roles[role]
            fresh = new_keys(count or len(old.keyids))
            self._give(role, fresh, threshold or old.threshold)
        self.publish_root(also=before)

    def write(self, content: Content, keys: Sequence[CryptoSigner]) -> bytes:
        """Sign anything with anything, and put it where a client looks for it."""
        data = signed(content, keys)
        name = f"{content.type}.json"
        if content.type == "root" or (self.consistent and content.type != "timestamp"):
            name = f"{content.version}.{name}"
        self.metadata(name).write_bytes(data)
        return data

    def save(self, folder: Path) -> Path:
        """A copy of everything that is served, as an attacker may have kept it."""
        shutil.copytree(self.folder, folder)
        return folder

    def back_to(self, saved: Path, *, names: Sequence[str] = ()) -> None:
        """Serve a saved state again, or only these of its metadata files."""
        if names:
            for name in names:
                shutil.copy(saved / "metadata" / name, self.metadata(name))
            return
        shutil.rmtree(self.folder)
        shutil.copytree(saved, self.folder)

    def _give(self, role: str, keys: Keys, threshold: int) -> None:
        assert role in TOP_LEVEL_ROLE_NAMES
        for keyid in list(self.root.roles[role].keyids):
            self.root.revoke_key(keyid, role)
        for key in keys:
            self.root.add_key(key.public_key, role)
        self.root.roles[role].threshold = threshold
        self.keys[role] = keys
