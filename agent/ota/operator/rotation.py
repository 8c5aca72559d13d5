"""The first keys, new keys for old ones, and metadata that are signed once more."""

import datetime as dt
from collections.abc import Collection, Mapping

from tuf.api.metadata import Key, Metadata, Root, Targets

from agent.errors import UpdateError
from agent.ota.operator.change import Change, lack_of
from agent.ota.operator.keys import ONLINE, ROLES, KeyRing, short
from agent.ota.operator.repository import DAYS, DAYS_KEY, Repository, State, copy_of, days_of

_MOST_KEYS = 32
_LEAST_PREFIX = 6


def begin(
    repository: Repository,
    ring: KeyRing,
    *,
    counts: Mapping[str, int],
    thresholds: Mapping[str, int],
    days: Mapping[str, int],
    plain: Collection[str] = (),
) -> Change:
    """A new repository, with new keys, signed.

    Args:
        repository: where; there is none yet.
        ring: where the keys go.
        counts: of keys, by role; 1 where it says nothing.
        thresholds: how many of them must sign; 1 where it says nothing.
        days: lives of metadata, for which it says something.
        plain: roles whose keys are not encrypted.

    Raises:
        UpdateError: there is a repository, or a number makes no sense.
    """
    if any(name.endswith(".root.json") for name in repository.folder.metadata_names()):
        raise UpdateError(f"{repository.root}: is a repository already; nothing was changed")
    lives = {**DAYS, **days}
    root = Root(
        version=1,
        expires=repository.expires("root", lives),
        consistent_snapshot=True,
        unrecognized_fields={DAYS_KEY: lives},
    )
    for role in ROLES:
        count, threshold = counts.get(role, 1), thresholds.get(role, 1)
        if not 1 <= threshold <= count <= _MOST_KEYS:
            raise UpdateError(
                f"{role}: {threshold} of {count} keys cannot be; at least 1 must sign, at most "
                f"{_MOST_KEYS} can"
            )
        for _ in range(count):
            root.add_key(ring.make(role, encrypted=role not in plain), role)
        root.roles[role].threshold = threshold
    targets = Metadata(
        Targets(
            version=repository.next_version("targets"),
            expires=repository.expires("targets", lives),
        )
    )
    change = Change((), 0, [Metadata(root)], targets)
    change.sign(ring)
    return change


def find_key(root: Root, prefix: str) -> str:
    """The key id that begins so.

    Raises:
        UpdateError: none does, or several do.
    """
    found = [key for key in root.keys if key.startswith(prefix.lower())]
    if len(prefix) < _LEAST_PREFIX or len(found) != 1:
        keys = ", ".join(sorted(map(short, root.keys)))
        raise UpdateError(f"{prefix}: does not name one key; they are: {keys}")
    return found[0]


def rotate(
    repository: Repository,
    state: State,
    ring: KeyRing,
    *,
    roles: Collection[str] = (),
    lost: Collection[str] = (),
    days: Mapping[str, int] | None = None,
    plain: Collection[str] = (),
) -> Change:
    """Replace all keys of some roles, and single ones; signed as far as keys are here.

    Args:
        repository: where it is written.
        state: what it is now.
        ring: keys that are here; new ones are made in it.
        roles: all of whose keys are replaced.
        lost: key ids that are replaced, of any role.
        days: new lives of metadata.
        plain: roles whose new keys are not encrypted.
    """
    last = copy_of(state.root.signed)
    both = copy_of(state.root.signed)
    last.unrecognized_fields[DAYS_KEY] = {**days_of(last), **(days or {})}
    others = False
    for role in ROLES:
        before = state.root.signed.roles[role].keyids
        for leaving in before if role in roles else [key for key in before if key in lost]:
            new = ring.make(role, encrypted=role not in plain)
            _replace(last, role, leaving, new)
            if role == "root":
                _replace(both, role, leaving, new)
            else:
                both.add_key(new, role)
                others = True
    both.unrecognized_fields = last.unrecognized_fields
    change = state.change()
    steps = [both, last] if others else [last]
    for version, root in enumerate(steps, state.root.signed.version + 1):
        root.version = version
        root.expires = repository.expires("root", days_of(last))
        change.roots.append(Metadata(root))
    if lack_of(state.targets, last):
        change.targets = again(repository, state, last)
    change.sign(ring)
    return change


def again(repository: Repository, state: State, root: Root) -> Metadata[Targets]:
    """The present targets as a new version, not signed yet."""
    targets = copy_of(state.targets.signed)
    targets.version = repository.next_version("targets", targets.version)
    targets.expires = repository.expires("targets", days_of(root))
    return Metadata(targets)


def renew(repository: Repository, state: State, ring: KeyRing) -> Change:
    """Root and targets once more, if half of their life is over and enough keys are here."""
    change = state.change()
    if repository.half_over(state.root.signed, state.root.signed):
        root = copy_of(state.root.signed)
        root.version += 1
        root.expires = repository.expires("root", days_of(root))
        change.roots.append(Metadata(root))
        change.sign(ring)
        if change.lacks():
            change.roots.clear()
    if repository.half_over(state.targets.signed, state.root.signed):
        change.targets = again(repository, state, state.root.signed)
        change.sign(ring)
        if change.lacks():
            change.targets = None
    return change


def left(expires: dt.datetime, now: dt.datetime) -> float:
    """Days."""
    return (expires - now) / dt.timedelta(days=1)


def soon(role: str, expires: dt.datetime, now: dt.datetime, days: Mapping[str, int]) -> bool:
    """Whether it is time to sign again: the last quarter of a life, at most 30 days."""
    return left(expires, now) < min(days[role] / 4, 30.0)


def online(role: str) -> bool:
    return role in ONLINE


def _replace(root: Root, role: str, leaving: str, new: Key) -> None:
    root.revoke_key(leaving, role)
    root.add_key(new, role)
