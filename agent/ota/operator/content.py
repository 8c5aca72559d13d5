"""What targets say: bundles, how far each is rolled out, and requests.

Canonical JSON, which is what is signed, has no fractions: percentages are whole numbers.
"""

import dataclasses
import datetime as dt
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tuf.api.metadata import Metadata, TargetFile, Targets

from agent.bus.factory import tables_of
from agent.clock import WallNs
from agent.errors import AgentError, UpdateError
from agent.ota import listing
from agent.ota.attempt import LIMITS
from agent.ota.bundle import Audience, Bundle, read
from agent.ota.factory import build_plan
from agent.ota.listing import KEY, Listing, Offer
from agent.ota.operator.change import Change
from agent.ota.operator.repository import Repository, State
from agent.ota.operator.rotation import again
from agent.ota.types import Target
from agent.settings import load_device

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_TITLE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,63})-(?P<version>[1-9][0-9]{0,8})")
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ROOM = 100_000
"""For signatures, bytes."""
_KEPT = dt.timedelta(days=1)
"""An expired request is still told for so long."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A step of a roll-out: so many percent of a group, of vehicles by name, or of all."""

    groups: tuple[str, ...] = ()
    vehicles: tuple[str, ...] = ()
    percent: int = 100

    @property
    def audience(self) -> Audience:
        return Audience(self.groups, self.vehicles)

    @property
    def words(self) -> str:
        """For whom, for a person."""
        return words_of(self.audience)


def words_of(audience: Audience) -> str:
    """For a person, whom an audience names."""
    parts = [f"group {group}" for group in audience.groups] + list(audience.vehicles)
    return ", ".join(parts) or "all"


def listing_of(targets: Targets) -> Listing:
    """What vehicles read in targets."""
    return listing.parse(
        {
            path: Target(path, file.length, file.hashes.get("sha256", ""), file.custom or {})
            for path, file in targets.targets.items()
        }
    )


def check_bundle(data: bytes, devices: Sequence[Path]) -> Bundle:
    """Read a bundle and build its plan for each device file, as vehicles will.

    Raises:
        UpdateError: one of them would refuse it; says which, and why.
    """
    bundle = read(data)
    with tempfile.TemporaryDirectory(prefix="edge-agent-") as folder:
        path = bundle.extract(Path(folder) / "plan")
        for file in devices:
            # Variables are for the vehicle's own surroundings, not for the operator's.
            try:
                device = load_device(file, {"STATE_DIRECTORY": "/var/lib/edge-agent"})
                build_plan(
                    path,
                    buses=[bus.name for bus in device.bus],
                    uplinks=device.receivers,
                    platforms=list(device.platforms),
                    tables=[table for bus in device.bus for table in tables_of(bus)],
                )
            except AgentError as e:
                why = str(e).replace(f"{folder}/plan/", "")
                raise UpdateError(
                    f"bundle {bundle.title} would be refused where {file} is the device file: {why}"
                ) from e
    return bundle


def publish(
    repository: Repository, state: State, bundle: Bundle, data: bytes, stages: Sequence[Stage] = ()
) -> Change:
    """Add a bundle; without stages, it reaches no vehicle yet.

    Raises:
        UpdateError: there is one of this version, or a newer one of this name.
    """
    manifest = bundle.manifest
    offers = [o for o in listing_of(state.targets.signed).offers if o.name == manifest.name]
    newest = max(offers, key=lambda offer: offer.version, default=None)
    if newest is not None and newest.version >= manifest.version:
        same = any(offer.sha256 == bundle.sha256 for offer in offers)
        raise UpdateError(
            f"{bundle.title} is published already: `edge-agent ota rollout` says to whom"
            if same
            else f"{bundle.title}: the repository has {newest.title}; make the bundle with "
            f"--version {newest.version + 1} or higher"
        )
    custom = {
        "kind": "bundle",
        "name": manifest.name,
        "version": manifest.version,
        "minimum_agent": manifest.minimum_agent,
        "audience": _lists(manifest.audience),
        "rollout": {"state": "active", "rules": []},
    }
    _put_stages(custom, stages)
    path = f"bundles/{manifest.name}-{manifest.version}.bundle"
    return _with(repository, state, path, data, custom)


def roll_out(
    repository: Repository,
    state: State,
    title: str,
    stages: Sequence[Stage] = (),
    to_state: Literal["", "active", "paused", "withdrawn"] = "",
) -> Change:
    """Set stages of a bundle, one for each audience, and its state where one is given.

    Raises:
        UpdateError: there is no such bundle.
    """
    offer = find(state, title)
    change, targets = _edit(repository, state)
    custom = targets.targets[offer.path].unrecognized_fields["custom"][KEY]
    if to_state:
        custom["rollout"]["state"] = to_state
    _put_stages(custom, stages)
    _check(state, targets)
    return change


def find(state: State, title: str) -> Offer:
    """A bundle by what people call it: `ev-3`.

    Raises:
        UpdateError: there is none.
    """
    match = _TITLE.fullmatch(title)
    offers = listing_of(state.targets.signed).offers
    for offer in offers:
        if match and (offer.name, offer.version) == (match["name"], int(match["version"])):
            return offer
    there = ", ".join(f"{offer.name}-{offer.version}" for offer in offers) or "none"
    raise UpdateError(f"{title}: is no bundle of this repository; it has: {there}")


@dataclasses.dataclass(frozen=True)
class Asked:
    """A request to vehicles."""

    audience: Audience
    expires: dt.datetime
    do: Mapping[str, str]
    """Beginning with `do`: `fire`, campaign; or `resend`, uplink, first, last."""


def ask(repository: Repository, state: State, asked: Asked) -> tuple[Change, str]:
    """Add a request; gives its id, too.

    Raises:
        UpdateError: it would expire at once, or is malformed.
    """
    now = repository.now()
    if asked.expires <= now:
        raise UpdateError("the request would have expired already; give it a later --expires")
    stem = f"r-{now:%Y%m%d}"
    used = [t.removeprefix("requests/") for t in state.targets.signed.targets]
    number = next(n for n in range(1, len(used) + 2) if f"{stem}-{n}.json" not in used)
    name = f"{stem}-{number}"
    custom = {
        "kind": "request",
        "id": name,
        **_lists(asked.audience),
        "expires": f"{asked.expires:%Y-%m-%dT%H:%M:%SZ}",
        **asked.do,
    }
    data = json.dumps(custom, indent=2).encode() + b"\n"
    return _with(repository, state, f"requests/{name}.json", data, custom), name


def cancel(repository: Repository, state: State, name: str) -> Change:
    """Take a request back: vehicles that have not done it will not.

    Raises:
        UpdateError: there is none.
    """
    change, targets = _edit(repository, state)
    if targets.targets.pop(f"requests/{name}.json", None) is None:
        there = ", ".join(r.id for r in listing_of(state.targets.signed).requests) or "none"
        raise UpdateError(f"{name}: is no request of this repository; it has: {there}")
    return change


def stages_of(offer: Offer) -> list[Stage]:
    return [Stage(r.groups, r.vehicles, int(r.percent)) for r in offer.rollout.rules]


def audience_of(state: State, offer: Offer) -> Audience:
    """For whom a bundle was made, as it said when it was published."""
    custom = state.targets.signed.targets[offer.path].custom[KEY]
    said = custom.get("audience")
    told = said if isinstance(said, dict) else {}
    return Audience(tuple(told.get("groups", ())), tuple(told.get("vehicles", ())))


def _put_stages(custom: dict[str, Any], stages: Sequence[Stage]) -> None:
    rules: list[dict[str, Any]] = custom["rollout"]["rules"]
    for stage in stages:
        lists = _lists(stage.audience)
        rule = next((r for r in rules if all(r.get(k, []) == lists[k] for k in lists)), None)
        if rule is None:
            rule = {**lists, "percent": 0}
            rules.append(rule)
        rule["percent"] = stage.percent


def _with(
    repository: Repository, state: State, path: str, data: bytes, custom: dict[str, Any]
) -> Change:
    change, targets = _edit(repository, state)
    file = TargetFile.from_data(path, data, ["sha256"])
    file.unrecognized_fields["custom"] = {KEY: custom}
    targets.targets[path] = file
    change.files = dict.fromkeys(file.get_prefixed_paths(), data)
    _check(state, targets)
    return change


def _check(state: State, targets: Targets) -> None:
    """Refuse what vehicles would skip, because it is malformed or too much."""
    before = listing_of(state.targets.signed).findings
    if findings := [f for f in listing_of(targets).findings if f not in before]:
        raise UpdateError(findings[0])
    size = len(Metadata(targets).to_bytes())
    if size > LIMITS.targets_max_length - _ROOM:
        raise UpdateError(
            f"the list of bundles and requests would have {size:,} bytes, more than vehicles take; "
            "name groups in place of many vehicles"
        )


def _edit(repository: Repository, state: State) -> tuple[Change, Targets]:
    """A change with targets to be edited; requests that have long expired are gone from them."""
    change = state.change()
    metadata: Metadata[Targets] = again(repository, state, state.root.signed)
    change.targets = metadata
    over = WallNs((repository.now() - _KEPT - _EPOCH) // dt.timedelta(microseconds=1) * 1000)
    for request in listing_of(metadata.signed).requests:
        if request.expires < over:
            del metadata.signed.targets[f"requests/{request.id}.json"]
    return change, metadata.signed


def _lists(audience: Audience) -> dict[str, list[str]]:
    for group in audience.groups:
        if not _GROUP.fullmatch(group):
            raise UpdateError(f"{group!r} is no name that a group of vehicles can have")
    return {"groups": list(audience.groups), "vehicles": list(audience.vehicles)}
