"""A change of a repository before it is written: what is to be signed, and by whom.

`Change` holds what needs keys that are kept apart: new roots, new targets, files. Snapshot and
timestamp follow from these and are made when it is written. Where the keys of a role lie in
several places, a change goes from hand to hand in a file, and each adds signatures; all of it is
public.
"""

import base64
import binascii
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Targets, Timestamp

from agent.errors import UpdateError
from agent.ota.operator.keys import KeyRing, short


class MissingKeysError(UpdateError):
    """Not enough signatures for a change; elsewhere there may be more keys."""


T = TypeVar("T", Root, Timestamp, Snapshot, Targets)

_FORMAT = 1
_FILE = re.compile(
    r"(?:bundles|requests)/(?P<sha256>[0-9a-f]{64})\.[A-Za-z0-9][A-Za-z0-9._-]{0,200}"
)


@dataclasses.dataclass(frozen=True)
class Lack:
    """A role whose signatures do not suffice yet."""

    what: str
    have: int
    threshold: int
    keys: tuple[str, ...]
    """Any of these may sign."""

    def __str__(self) -> str:
        keys = " or ".join(short(key) for key in self.keys)
        return f"{self.what} has {self.have} of {self.threshold} signatures; missing: {keys}"


@dataclasses.dataclass
class Change:
    """What is to become of a repository.

    Attributes:
        known: the roots that it begins from, all of them; none: a new repository.
        base_targets: the version of targets that it begins from; 0: there is none.
        roots: new ones, in the order of their versions. Of two, the first is written before all
            else, and the last one after it.
        targets: new targets, if they change.
        files: new files by their place below `targets/`.
    """

    known: tuple[Metadata[Root], ...]
    base_targets: int
    roots: list[Metadata[Root]] = dataclasses.field(default_factory=list)
    targets: Metadata[Targets] | None = None
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)

    @property
    def last_root(self) -> Metadata[Root]:
        """The root that counts when the change is written."""
        return (*self.known, *self.roots)[-1]

    def judges(self) -> list[Root]:
        """The roots under which other metadata must hold."""
        return [root.signed for root in self.roots or self.known[-1:]]

    def sign(self, ring: KeyRing) -> int:
        """Add the signatures that the keys which are here can give; says how many were new."""
        added = 0
        for root, judges in self._links():
            added += sum(sign(root, judge, ring) for judge in judges)
        if self.targets is not None:
            added += sum(sign(self.targets, judge, ring) for judge in self.judges())
        return added

    def lacks(self) -> list[Lack]:
        """What is not signed by enough keys yet."""
        found = [
            lack
            for root, judges in self._links()
            for judge in judges
            if (lack := lack_of(root, judge)) is not None
        ]
        if self.targets is not None:
            told = (lack_of(self.targets, judge) for judge in self.judges())
            found += [lack for lack in told if lack is not None]
        return list(dict.fromkeys(found))

    def _links(self) -> Iterator[tuple[Metadata[Root], list[Root]]]:
        begin = min(len(self.known), 1)
        yield from list(links((*self.known[-1:], *self.roots)))[begin:]

    # -- from hand to hand ---------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """For a file; `read` takes it."""
        found = {
            "format": _FORMAT,
            "known": [root.to_dict() for root in self.known],
            "base_targets": self.base_targets,
            "roots": [root.to_dict() for root in self.roots],
            "targets": None if self.targets is None else self.targets.to_dict(),
            "files": {name: base64.b64encode(data).decode() for name, data in self.files.items()},
        }
        return json.dumps(found).encode() + b"\n"

    @classmethod
    def read(cls, path: Path) -> "Change":
        """A change from a file; what it wants signed is for a person to judge.

        Raises:
            UpdateError: it is none.
        """
        try:
            data = path.read_bytes()
        except OSError as e:
            raise UpdateError(f"{path}: cannot be read: {e.strerror}") from e
        try:
            found: Any = json.loads(data)
            if found["format"] != _FORMAT:
                raise UpdateError(f"{path}: is of a newer version of this program; update it")
            change = cls(
                known=tuple(_metadata(each, Root) for each in found["known"]),
                base_targets=int(found["base_targets"]),
                roots=[_metadata(each, Root) for each in found["roots"]],
                targets=None if found["targets"] is None else _metadata(found["targets"], Targets),
                files={
                    str(name): base64.b64decode(text, validate=True)
                    for name, text in found["files"].items()
                },
            )
        except (
            *(ValueError, KeyError, TypeError, AttributeError, RecursionError),
            *(binascii.Error, RepositoryError),
        ) as e:
            raise UpdateError(
                f"{path}: is no change to be signed, such as --to-sign writes, or is damaged"
            ) from e
        for name, content in change.files.items():
            match = _FILE.fullmatch(name)
            if match is None or match["sha256"] != hashlib.sha256(content).hexdigest():
                raise UpdateError(f"{path}: {name!r} is no place for the file that it holds")
        for root, judges in links(change.known):
            if any(lack_of(root, judge) for judge in judges):
                raise UpdateError(f"{path}: root {root.signed.version} in it is not to be trusted")
        return change


def links(roots: Sequence[Metadata[Root]]) -> Iterator[tuple[Metadata[Root], list[Root]]]:
    """Each root with those whose keys must have signed it: the one before, and itself."""
    for number, root in enumerate(roots):
        yield root, [each.signed for each in roots[max(0, number - 1) : number + 1]]


def sign(metadata: Metadata[T], judge: Root, ring: KeyRing) -> int:
    """Sign with the keys of its role that are here and have not signed; says how many did."""
    added = 0
    role = metadata.signed.type
    result = judge.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    for key in result.unsigned.values():
        signer = ring.signer(key)
        if signer is not None:
            metadata.sign(signer, append=True)
            added += 1
    return added


def lack_of(metadata: Metadata[T], judge: Root) -> Lack | None:
    """What a root still asks of metadata; None where it is content."""
    role = metadata.signed.type
    result = judge.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
    if result.verified:
        return None
    what = f"{role} {metadata.signed.version}"
    return Lack(what, len(result.signed), result.threshold, tuple(sorted(result.unsigned)))


def parse(data: bytes, kind: type[T]) -> Metadata[T]:
    """Metadata of one kind.

    Raises:
        ValueError: it is not that.
    """
    try:
        metadata: Metadata[T] = Metadata.from_bytes(data)
    except RepositoryError as e:
        raise ValueError(str(e)) from e
    return _checked(metadata, kind)


def _metadata(data: dict[str, Any], kind: type[T]) -> Metadata[T]:
    return _checked(Metadata[T].from_dict(data), kind)


def _checked(metadata: Metadata[T], kind: type[T]) -> Metadata[T]:
    signed: Signed = metadata.signed
    if not isinstance(signed, kind):
        raise ValueError(f"is {signed.type}, not {kind.type}")  # noqa: TRY004 - it is data
    return metadata


def complaint(lacks: list[Lack], ring: KeyRing) -> MissingKeysError:
    """Why a change cannot be written, and what to do."""
    what = "; ".join(map(str, lacks))
    wanted = next((short(key) for lack in lacks for key in lack.keys), "")
    return MissingKeysError(
        f"{what}: there is no file such as *-{wanted}.pem in {ring.where}; name the folders of "
        "these keys with --keys (which may be given several times)"
    )
