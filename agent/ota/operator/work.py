"""One change from its beginning to its end: lock, look, make, sign, write."""

from collections.abc import Callable
from pathlib import Path

from agent.errors import UpdateError
from agent.ota.operator.change import Change, MissingKeysError
from agent.ota.operator.keys import KeyRing
from agent.ota.operator.repository import Repository, State, check_anchors
from agent.spool.filesystem import RealFileSystem, replace_durably


class ToBeSignedError(UpdateError):
    """A change was put into a file, because keys are missing."""


def carry_out(
    repository: Repository,
    ring: KeyRing,
    make: Callable[[State], Change],
    *,
    to_sign: Path | None = None,
    refresh: bool = False,
) -> State:
    """Change a repository; gives what it is then.

    Args:
        repository: which.
        ring: the keys that are here.
        make: the change, from what the repository is.
        to_sign: where the change goes if keys are missing.
        refresh: sign the timestamp anew in any case.

    Raises:
        ToBeSignedError: the change is in `to_sign`.
        UpdateError: nothing was changed; or the disk failed.
    """
    with repository.changing():
        state = repository.load()
        check_anchors(state.roots, ring)
        return finish(repository, ring, make(state), to_sign=to_sign, refresh=refresh)


def finish(
    repository: Repository,
    ring: KeyRing,
    change: Change,
    *,
    to_sign: Path | None = None,
    refresh: bool = False,
) -> State:
    """Sign and write a change while the repository is held; as `carry_out`."""
    change.sign(ring)
    try:
        repository.apply(change, ring, refresh=refresh)
    except MissingKeysError as e:
        if to_sign is None:
            raise
        ring.save()
        write_change(change, to_sign)
        what = "; ".join(map(str, change.lacks())) or "keys of snapshot or timestamp are missing"
        raise ToBeSignedError(
            f"the change is in {to_sign}, and not in the repository yet: {what}; sign it where the "
            f"keys are: `edge-agent ota sign {to_sign} --keys DIR`"
        ) from e
    ring.anchor(change.last_root.to_bytes())
    return repository.load()


def write_change(change: Change, path: Path) -> None:
    """Into a file, whole or not at all.

    Raises:
        UpdateError: it cannot be written.
    """
    try:
        replace_durably(RealFileSystem(), path, change.to_bytes())
    except OSError as e:
        raise UpdateError(f"{path}: cannot be written: {e.strerror}") from e
