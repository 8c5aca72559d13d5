"""What a vehicle has come to trust of a repository, and how a look at it may fail.

The types of `agent.ota.client`, apart from it: the client needs python-tuf, which is slow to
import, and the durable record of a vehicle needs only these.
"""

from dataclasses import dataclass

from msgspec import Struct

from agent.clock import WallNs
from agent.errors import UpdateError
from agent.ota.types import Target


class Floor(Struct, frozen=True):
    """Below which version a role's metadata are not taken any more.

    Attributes:
        version: the highest that was ever taken.
        keys: SHA-256 over the role's keys and threshold in the root that was trusted then. For
            `root` itself over those of `root_file`. Another value ends the floor: whoever has the
            root keys has given the role new ones, because the old ones signed what they should not.
    """

    version: int
    keys: str


class Trusted(Struct, frozen=True):
    """The metadata that were last found good.

    Attributes:
        files: content by name below python-tuf's folder of metadata: `timestamp.json`,
            `snapshot.json`, `targets.json` and `root_history/{version}.root.json`.
        etag: what the server calls this timestamp.json; empty where it does not say.
    """

    files: dict[str, bytes]
    etag: str


@dataclass(frozen=True)
class Learned:
    """What is to be kept of a look that failed: roots that are newer, and verified."""

    trusted: Trusted
    floors: dict[str, Floor]


@dataclass(frozen=True)
class Looked:
    """What a look at the repository has found.

    Attributes:
        trusted: to be made durable, together with `floors`, before `targets` are acted on.
        floors: by role: root, timestamp, snapshot, targets.
        targets: by path.
        changed: whether `trusted` is another one than before.
        expires: when the timestamp does. Later than this, the repository counts as frozen.
    """

    trusted: Trusted
    floors: dict[str, Floor]
    targets: dict[str, Target]
    changed: bool
    expires: WallNs


class LookError(UpdateError):
    """A look or a download that came to nothing.

    Attributes:
        learned: what is to be made durable all the same. A vehicle that has seen that a key was
            revoked must not forget it because of what went wrong after it.
    """

    def __init__(self, sentence: str, learned: Learned | None = None) -> None:
        super().__init__(sentence)
        self.learned = learned


class Unreachable(LookError):  # noqa: N818  (what the repository is, and so reads at its place)
    """The repository does not answer, or not as one: later it may."""


class Untrusted(LookError):  # noqa: N818  (as above)
    """What came is not what the trusted keys say, or not any more: it looks like an attack."""
