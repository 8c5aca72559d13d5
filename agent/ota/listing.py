"""What a repository says of its targets: bundles that it offers, and requests.

A target says what it is in its `custom` (TUF specification, 4.5), below the key `edge-agent`:

    {"kind": "bundle", "name": "ev", "version": 3, "minimum_agent": "0.1.0",
     "rollout": {"state": "active", "rules": [{"groups": ["ev"], "vehicles": [], "percent": 25}]}}
    {"kind": "request", "id": "r-1", "groups": [], "vehicles": ["car-1"],
     "expires": "2026-12-01T00:00:00Z", "do": "fire", "campaign": "limp"}
    {"kind": "request", ..., "do": "resend", "uplink": "cloud", "first": "...", "last": "..."}

at `bundles/{name}-{version}.bundle` and `requests/{id}.json`: so there is one bundle of a name and
version, and one request of an id. Unknown keys are left alone, so that a later version can say
more. What is malformed is skipped and told, and the rest goes on: one bad entry must not keep a
fleet from the others.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from agent.clock import WallNs
from agent.ota.archive import MOST_PACKED, brief, shown
from agent.ota.bundle import AgentVersion, Audience, Digest, Version
from agent.ota.types import BundleId, Target
from agent.settings.types import Name

KEY: Final = "edge-agent"
"""Of a target's `custom`: below it stands what this module reads."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MOST_TEXT: Final = 128
_Text = Annotated[str, Meta(max_length=_MOST_TEXT)]
_Set = Annotated[str, Meta(min_length=1, max_length=_MOST_TEXT)]


class Rule(Struct, frozen=True, kw_only=True):
    """So many percent of the vehicles that it names; it names all where both lists are empty."""

    groups: tuple[_Text, ...] = ()
    vehicles: tuple[_Text, ...] = ()
    percent: Annotated[float, Meta(ge=0, le=100)]

    @property
    def audience(self) -> Audience:
        return Audience(self.groups, self.vehicles)


class Rollout(Struct, frozen=True, kw_only=True):
    """Whether vehicles take a bundle, and which; without a rule it reaches none."""

    state: Literal["active", "paused", "withdrawn"]
    rules: tuple[Rule, ...] = ()


class BundleEntry(Struct, frozen=True, kw_only=True, tag_field="kind", tag="bundle"):
    """What a target says that is a bundle."""

    name: Name
    version: Version
    minimum_agent: AgentVersion = ""
    rollout: Rollout

    @property
    def path(self) -> str:
        return f"bundles/{self.name}-{self.version}.bundle"


class FireEntry(Struct, frozen=True, kw_only=True, tag_field="do", tag="fire"):
    """Keep now what the trigger of a campaign would keep; an empty name means all of them."""

    id: Name
    groups: tuple[_Text, ...] = ()
    vehicles: tuple[_Text, ...] = ()
    expires: Annotated[datetime, Meta(tz=True)]
    campaign: _Text = ""
    kind: Literal["request"] = "request"

    @property
    def path(self) -> str:
        return f"requests/{self.id}.json"


class ResendEntry(Struct, frozen=True, kw_only=True, tag_field="do", tag="resend"):
    """Send batches once more that are still there, from the first id to the last."""

    id: Name
    groups: tuple[_Text, ...] = ()
    vehicles: tuple[_Text, ...] = ()
    expires: Annotated[datetime, Meta(tz=True)]
    uplink: Name
    first: _Set
    last: _Set
    kind: Literal["request"] = "request"

    @property
    def path(self) -> str:
        return f"requests/{self.id}.json"


RequestEntry = FireEntry | ResendEntry
"""What a target says that is a request; also the content of its file, which no vehicle fetches."""


@dataclass(frozen=True)
class Offer:
    """A bundle that the repository has: where, and for whom."""

    path: str
    length: int
    sha256: str
    name: str
    version: int
    minimum_agent: str
    rollout: Rollout

    @property
    def id(self) -> BundleId:
        return BundleId(self.name, self.version, self.sha256)

    @property
    def title(self) -> str:
        """For a person: `ev 3`."""
        return self.id.title


@dataclass(frozen=True)
class Request:
    """Something that vehicles are asked to do once.

    Attributes:
        id: never used for another one.
        audience: the vehicles that are asked.
        expires: from when on it is not to be done any more.
        do: `fire` a trigger by hand, or `resend` batches.
        campaign: of `fire`, the campaign; empty: every one with a trigger.
        uplink: of `resend`, where to.
        first: of `resend`, the id of the first batch.
        last: of `resend`, the id of the last batch.
    """

    id: str
    audience: Audience
    expires: WallNs
    do: Literal["fire", "resend"]
    campaign: str = ""
    uplink: str = ""
    first: str = ""
    last: str = ""


@dataclass(frozen=True)
class Listing:
    """What a repository has; each of `findings` is a sentence on a target that is skipped."""

    offers: tuple[Offer, ...] = ()
    requests: tuple[Request, ...] = ()
    findings: tuple[str, ...] = ()


def parse(targets: Mapping[str, Target]) -> Listing:
    """Read what targets say of themselves; those that say nothing to this agent are left alone."""
    offers: list[Offer] = []
    requests: list[Request] = []
    findings: list[str] = []
    for path, target in sorted(targets.items()):
        custom: object = target.custom
        if not isinstance(custom, Mapping) or KEY not in custom:
            continue
        try:
            found = _read(path, target, custom[KEY])
        except _MalformedError as e:
            findings.append(f"{shown(path)} of the repository is skipped: {e}; publish it again")
            continue
        if isinstance(found, Offer):
            offers.append(found)
        else:
            requests.append(found)
    return Listing(tuple(offers), tuple(requests), tuple(findings))


class _MalformedError(Exception):
    """What is wrong with an entry, as a part of a sentence."""


def _read(path: str, target: Target, data: Any) -> Offer | Request:
    kind = data.get("kind") if isinstance(data, Mapping) else None
    if kind not in ("bundle", "request"):
        what = shown(kind) if isinstance(kind, str) else "that it is"
        raise _MalformedError(f"this agent does not know the kind {what}")
    try:
        entry: BundleEntry | RequestEntry = msgspec.convert(
            data,
            BundleEntry if kind == "bundle" else RequestEntry,
        )
    except (msgspec.ValidationError, ValueError, OverflowError) as e:
        raise _MalformedError(f"its entry cannot be used: {brief(str(e))}") from e
    if path != entry.path:
        raise _MalformedError(f"it calls itself {entry.path}")
    return _offer(target, entry) if isinstance(entry, BundleEntry) else _request(entry)


def _offer(target: Target, entry: BundleEntry) -> Offer:
    if not 0 < target.length <= MOST_PACKED:
        raise _MalformedError(f"it has {target.length} bytes, where {MOST_PACKED} are the most")
    try:
        sha256 = msgspec.convert(target.sha256, Digest)
    except msgspec.ValidationError as e:
        raise _MalformedError("the repository does not state its SHA-256") from e
    return Offer(
        path=target.path,
        length=target.length,
        sha256=sha256,
        name=entry.name,
        version=entry.version,
        minimum_agent=entry.minimum_agent,
        rollout=entry.rollout,
    )


def _request(entry: RequestEntry) -> Request:
    request = Request(
        id=entry.id,
        audience=Audience(entry.groups, entry.vehicles),
        expires=WallNs((entry.expires - _EPOCH) // timedelta(microseconds=1) * 1000),
        do="fire" if isinstance(entry, FireEntry) else "resend",
    )
    if isinstance(entry, FireEntry):
        return dataclasses.replace(request, campaign=entry.campaign)
    return dataclasses.replace(request, uplink=entry.uplink, first=entry.first, last=entry.last)
