"""The repository: its present state, verified, and how a change of it is written."""

import contextlib
import copy
import dataclasses
import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, TypeVar

from tuf.api.exceptions import LengthOrHashMismatchError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from agent.errors import UpdateError
from agent.ota.operator.change import (
    Change,
    MissingKeysError,
    T,
    complaint,
    lack_of,
    links,
    parse,
    sign,
)
from agent.ota.operator.files import METADATA, TIMESTAMP, Folder
from agent.ota.operator.keys import ROLES, KeyRing
from agent.spool.filesystem import FileSystem

DAYS: Final[Mapping[str, int]] = {"root": 365, "targets": 365, "snapshot": 14, "timestamp": 14}
DAYS_KEY: Final = "edge-agent-days"
"""What root.json calls the lives of metadata in days."""

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


@dataclasses.dataclass(frozen=True)
class State:
    """What a repository says, every signature checked; expiry is for `status`.

    Attributes:
        roots: all of them, the first first.
        targets_bytes, snapshot_bytes: as they lie there.
    """

    roots: tuple[Metadata[Root], ...]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    snapshot_bytes: bytes
    targets: Metadata[Targets]
    targets_bytes: bytes

    @property
    def root(self) -> Metadata[Root]:
        return self.roots[-1]

    def change(self) -> Change:
        """A change that begins here."""
        return Change(self.roots, self.targets.signed.version)

    def metadata(self, role: str) -> Root | Timestamp | Snapshot | Targets:
        found: dict[str, Root | Timestamp | Snapshot | Targets] = {
            "root": self.root.signed,
            "targets": self.targets.signed,
            "snapshot": self.snapshot.signed,
            "timestamp": self.timestamp.signed,
        }
        return found[role]


class Repository:
    """A folder as `agent.ota.operator` describes it."""

    def __init__(
        self,
        root: Path,
        fs: FileSystem | None = None,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self.root = root
        self.folder = Folder(root, fs)
        self.now = now

    @contextlib.contextmanager
    def changing(self, *, make: bool = False) -> Iterator[None]:
        """Hold the lock of the repository; a change that a crash cut short is written to its end.

        Raises:
            UpdateError: another command holds it, or the disk fails.
        """
        there = self.folder.metadata_names() or self.folder.interrupted
        if not make and not there:
            raise UpdateError(f"{self.root}: is no repository; `edge-agent ota init` makes one")
        with self.folder.changing(make=make):
            yield

    def load(self) -> State:
        """Read and verify all metadata.

        Raises:
            UpdateError: a file is missing, damaged or not signed by enough keys.
        """
        roots = self._roots()
        judge = roots[-1].signed
        timestamp, _ = self._role(TIMESTAMP, Timestamp, judge)
        meta = timestamp.signed.snapshot_meta
        snapshot, snapshot_bytes = self._role(f"{meta.version}.snapshot.json", Snapshot, judge)
        self._same(f"{meta.version}.snapshot.json", snapshot_bytes, meta)
        meta = snapshot.signed.meta["targets.json"]
        targets, targets_bytes = self._role(f"{meta.version}.targets.json", Targets, judge)
        self._same(f"{meta.version}.targets.json", targets_bytes, meta)
        return State(tuple(roots), timestamp, snapshot, snapshot_bytes, targets, targets_bytes)

    def next_version(self, role: str, present: int = 0) -> int:
        """Above what is used and above any file: what a mirror has once seen never changes."""
        ending = f".{role}.json"
        names = self.folder.metadata_names()
        used = [name.removesuffix(ending) for name in names if name.endswith(ending)]
        return max([present, *(int(number) for number in used if number.isdecimal())]) + 1

    def expires(self, role: str, days: Mapping[str, int]) -> dt.datetime:
        return self.now().replace(microsecond=0) + dt.timedelta(days=days[role])

    def half_over(self, signed: Root | Timestamp | Snapshot | Targets, root: Root) -> bool:
        """Whether metadata have less than half of their life before them."""
        return signed.expires - self.now() < dt.timedelta(days=days_of(root)[signed.type]) / 2

    def apply(self, change: Change, ring: KeyRing, *, refresh: bool = False) -> None:
        """Make snapshot and timestamp of a change that is signed, and write all of it.

        With `refresh`, the timestamp is made anew in any case, and a snapshot that is half over.
        The keys that `ring` has made are written first.

        Raises:
            UpdateError: signatures are missing, the repository is not what the change began from,
                or the disk fails.
        """
        state = self.load() if change.known else None
        self._check_base(change, state)
        if lacks := change.lacks():
            raise complaint(lacks, ring)
        snapshot, timestamps = self._follow(change, state, ring, refresh=refresh)
        roots = [(f"{root.signed.version}.root.json", root.to_bytes()) for root in change.roots]
        stamps = [(TIMESTAMP, timestamp.to_bytes()) for timestamp in timestamps]
        writes = roots[:-1]
        if change.targets is not None:
            version = change.targets.signed.version
            writes.append((f"{version}.targets.json", change.targets.to_bytes()))
        if snapshot is not None:
            writes.append((f"{snapshot.signed.version}.snapshot.json", snapshot.to_bytes()))
        writes += stamps[:-1]
        writes += roots[-1:]
        writes += stamps[-1:]
        ring.save()
        self.folder.write(change.files, writes)

    def _follow(
        self, change: Change, state: State | None, ring: KeyRing, *, refresh: bool
    ) -> tuple[Metadata[Snapshot] | None, list[Metadata[Timestamp]]]:
        """The snapshot and the timestamps that a change asks for.

        The last timestamp follows the last root, because vehicles look for new roots only where the
        timestamp is new. Of two roots, the metadata between them need a timestamp of their own.
        """
        judges = change.judges()
        days = days_of(judges[-1])
        snapshot: Metadata[Snapshot] | None = None
        if (
            change.targets is not None
            or state is None
            or lack_of(state.snapshot, judges[-1])
            or (refresh and self.half_over(state.snapshot.signed, judges[-1]))
        ):
            snapshot = self._new_snapshot(change, state, days)
            self._sign(snapshot, judges, ring)
        needed = (
            snapshot is not None
            or refresh
            or (state is not None and lack_of(state.timestamp, judges[-1]) is not None)
        )
        if not needed and not change.roots:
            return None, []
        timestamps = [
            self._new_timestamp(snapshot, state, days, above=above)
            for above in range(1, max(len(change.roots), 1) + 1)
        ]
        try:
            for timestamp in timestamps:
                self._sign(timestamp, judges, ring)
        except MissingKeysError:
            if needed:
                raise
            return None, []  # the next refresh makes it
        return snapshot, timestamps

    def _sign(self, metadata: Metadata[S], judges: Sequence[Root], ring: KeyRing) -> None:
        for judge in judges:
            sign(metadata, judge, ring)
        if lacks := [lack for judge in judges if (lack := lack_of(metadata, judge))]:
            raise complaint(list(dict.fromkeys(lacks)), ring)

    def _new_snapshot(
        self, change: Change, state: State | None, days: Mapping[str, int]
    ) -> Metadata[Snapshot]:
        present = 0 if state is None else state.snapshot.signed.version
        if change.targets is not None:
            data, number = change.targets.to_bytes(), change.targets.signed.version
        elif state is not None:
            data, number = state.targets_bytes, state.targets.signed.version
        else:
            raise UpdateError(f"{self.root}: a new repository needs targets")
        return Metadata(
            Snapshot(
                version=self.next_version("snapshot", present),
                expires=self.expires("snapshot", days),
                meta={"targets.json": MetaFile.from_data(number, data, ["sha256"])},
            )
        )

    def _new_timestamp(
        self,
        snapshot: Metadata[Snapshot] | None,
        state: State | None,
        days: Mapping[str, int],
        *,
        above: int,
    ) -> Metadata[Timestamp]:
        if snapshot is not None:
            data, number = snapshot.to_bytes(), snapshot.signed.version
        elif state is not None:
            data, number = state.snapshot_bytes, state.snapshot.signed.version
        else:
            raise UpdateError(f"{self.root}: a new repository needs a snapshot")
        present = 0 if state is None else state.timestamp.signed.version
        return Metadata(
            Timestamp(
                version=present + above,
                expires=self.expires("timestamp", days),
                snapshot_meta=MetaFile.from_data(number, data, ["sha256"]),
            )
        )

    def _check_base(self, change: Change, state: State | None) -> None:
        if state is None:
            return
        same = state.root.signed == change.known[-1].signed
        if not same or state.targets.signed.version != change.base_targets:
            raise UpdateError(
                f"{self.root}: has changed since this change was made; make it again from what is "
                "there now"
            )

    def _roots(self) -> list[Metadata[Root]]:
        roots: list[Metadata[Root]] = []
        while True:
            name = f"{len(roots) + 1}.root.json"
            data = self.folder.metadata(name)
            if data is None and roots:
                return roots
            root = self._parsed(name, data, Root)
            if root.signed.version != len(roots) + 1:
                raise self._bad(name, f"is version {root.signed.version}")
            roots.append(root)
            for judge in list(links(roots))[-1][1]:
                if lack := lack_of(root, judge):
                    raise self._bad(name, f"is not to be trusted: {lack}")

    def _role(self, name: str, kind: type[S], judge: Root) -> tuple[Metadata[S], bytes]:
        data = self.folder.metadata(name)
        metadata = self._parsed(name, data, kind)
        if lack := lack_of(metadata, judge):
            raise self._bad(name, f"is not to be trusted: {lack}")
        return metadata, data or b""

    def _parsed(self, name: str, data: bytes | None, kind: type[T]) -> Metadata[T]:
        if data is None:
            raise self._bad(name, "is missing")
        try:
            return parse(data, kind)
        except ValueError as e:
            raise self._bad(name, f"cannot be read: {e}") from e

    def _same(self, name: str, data: bytes, meta: MetaFile) -> None:
        try:
            meta.verify_length_and_hashes(data)
        except LengthOrHashMismatchError as e:
            raise self._bad(name, "is not the file that was signed") from e

    def _bad(self, name: str, what: str) -> UpdateError:
        return UpdateError(
            f"{self.root / METADATA / name}: {what}; put the file back from a copy of the "
            "repository"
        )


def days_of(root: Root) -> dict[str, int]:
    """The lives of metadata in days, as the root says."""
    said = root.unrecognized_fields.get(DAYS_KEY)
    told = said if isinstance(said, dict) else {}
    return {
        role: days if isinstance(days := told.get(role), int) and days > 0 else DAYS[role]
        for role in ROLES
    }


def check_anchors(roots: Sequence[Metadata[Root]], ring: KeyRing) -> None:
    """Refuse a repository, by its roots, that is not the one to which folders of keys belong.

    Raises:
        UpdateError: the roots do not go through the root.json of a folder.
    """
    known = {root.signed.version: root for root in roots}
    for path, data in ring.anchors():
        try:
            trusted = parse(data, Root)
        except ValueError as e:
            raise UpdateError(f"{path}: cannot be read: {e}") from e
        there = known.get(trusted.signed.version)
        if there is None or there.signed != trusted.signed:
            raise UpdateError(
                f"{path}: the keys beside it belong to another repository, or to a newer state of "
                "this one (its roots do not go through this root.json); nothing is signed"
            )


def copy_of(signed: T) -> T:
    """To be changed."""
    return copy.deepcopy(signed)
