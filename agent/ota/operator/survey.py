"""What a repository looks like from outside: what a vehicle would take of it, what expires when."""

import dataclasses
import datetime as dt
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.ngclient import FetcherInterface, Updater, UpdaterConfig

from agent import __version__
from agent.ota.bundle import Audience
from agent.ota.choice import Identity, Take, choose
from agent.ota.listing import Listing
from agent.ota.operator.change import Change
from agent.ota.operator.content import listing_of, stages_of, words_of
from agent.ota.operator.keys import ROLES, KeyRing, short
from agent.ota.operator.repository import Repository, State, days_of
from agent.ota.operator.rotation import left, online, soon

_MOST_ROOTS = 10_000


@dataclasses.dataclass(frozen=True)
class Role:
    """A role of the repository as it is now."""

    name: str
    version: int
    expires: dt.datetime
    days_left: float
    threshold: int
    keys: tuple[str, ...]
    soon: bool


def roles(repository: Repository, state: State) -> list[Role]:
    now = repository.now()
    root = state.root.signed
    found = []
    for name in ROLES:
        signed = state.metadata(name)
        found.append(
            Role(
                name,
                signed.version,
                signed.expires,
                left(signed.expires, now),
                root.roles[name].threshold,
                tuple(root.roles[name].keyids),
                soon(name, signed.expires, now, days_of(root)),
            )
        )
    return found


def faults(repository: Repository, state: State) -> list[str]:
    """Why a vehicle that begins with the first root would not take all that is here, if so.

    Asks python-tuf itself, over the files; so it finds what our own look does not ask for.
    """
    found: list[str] = []
    late = [role for role in roles(repository, state) if role.days_left < 0]
    found += [
        f"{role.name} has expired on {role.expires:%Y-%m-%d %H:%M} UTC: "
        f"{'`edge-agent ota refresh`' if online(role.name) else _again(role.name)}"
        for role in late
    ]
    with tempfile.TemporaryDirectory(prefix="edge-agent-") as folder:
        updater = Updater(
            str(Path(folder) / "metadata"),
            "file:///metadata/",
            str(folder),
            "file:///targets/",
            _Files(repository.root),
            UpdaterConfig(max_root_rotations=_MOST_ROOTS),
            bootstrap=repository.folder.metadata("1.root.json"),
        )
        try:
            updater.refresh()
        except ExpiredMetadataError as e:
            return found or [f"{repository.root}: {e}"]
        except (RepositoryError, DownloadError) as e:
            return [*found, f"{repository.root}: a vehicle would refuse it: {e}"]
        for path in sorted(state.targets.signed.targets):
            info = updater.get_targetinfo(path)
            place = Path(folder) / "target"
            try:
                if info is not None:
                    updater.download_target(info, str(place))
            except (RepositoryError, DownloadError):
                found.append(f"targets/{path}: the file is missing or damaged; publish it again")
    return [*found, *listing_of(state.targets.signed).findings]


def _again(role: str) -> str:
    return f"sign it again with its keys (`edge-agent ota refresh` with the folder of {role} keys)"


def warnings(repository: Repository, state: State) -> list[str]:
    """What is good still, and should not be left as it is."""
    found = [
        f"{role.name} expires on {role.expires:%Y-%m-%d %H:%M} UTC, in {role.days_left:.1f} days"
        for role in roles(repository, state)
        if role.soon and role.days_left >= 0
    ]
    if repository.folder.interrupted:
        found.append("a change was cut short; the next command that changes something finishes it")
    return found


def bundles(listed: Listing) -> list[dict[str, Any]]:
    """Each bundle with how far it is rolled out, for programs."""
    return [
        {
            "name": offer.name,
            "version": offer.version,
            "bytes": offer.length,
            "sha256": offer.sha256,
            "minimum_agent": offer.minimum_agent,
            "state": offer.rollout.state,
            "stages": [
                {
                    "groups": list(stage.groups),
                    "vehicles": list(stage.vehicles),
                    "percent": stage.percent,
                }
                for stage in stages_of(offer)
            ],
        }
        for offer in sorted(listed.offers, key=lambda offer: (offer.name, offer.version))
    ]


def requests(listed: Listing) -> list[dict[str, Any]]:
    """Each request that has not expired long ago, for programs."""
    return [
        {
            "id": request.id,
            "groups": list(request.audience.groups),
            "vehicles": list(request.audience.vehicles),
            "do": request.do,
            "campaign": request.campaign,
            "uplink": request.uplink,
            "first": request.first,
            "last": request.last,
            "expires": f"{dt.datetime.fromtimestamp(request.expires // 10**9, dt.UTC):%FT%TZ}",
        }
        for request in listed.requests
    ]


def report(repository: Repository, state: State) -> dict[str, Any]:
    """All of it, for programs."""
    listed = listing_of(state.targets.signed)
    return {
        "repository": str(repository.root),
        "roles": {role.name: _role(role) for role in roles(repository, state)},
        "bundles": bundles(listed),
        "requests": requests(listed),
        "faults": faults(repository, state),
        "warnings": warnings(repository, state),
    }


def _role(role: Role) -> dict[str, Any]:
    return {
        "version": role.version,
        "expires": f"{role.expires:%Y-%m-%dT%H:%M:%SZ}",
        "days_left": round(role.days_left, 1),
        "threshold": role.threshold,
        "keys": [short(key) for key in role.keys],
    }


def keys_here(state: State, ring: KeyRing) -> Iterator[tuple[str, str, Path | None]]:
    """Each key as role, key id and where its private part lies; then those of no role."""
    left_over = dict(ring.files())
    root = state.root.signed
    for role in ROLES:
        for key in root.roles[role].keyids:
            left_over.pop(short(key), None)
            yield role, key, ring.file(key)
    for key, path in sorted(left_over.items()):
        yield "", key, path


def fleet(lines: Iterable[str]) -> list[tuple[str, frozenset[str]]]:
    """Vehicles with their groups, from lines such as `van-7 canary depot-2`."""
    found = []
    for line in lines:
        words = line.split("#")[0].split()
        if words:
            found.append((words[0], frozenset(words[1:])))
    return found


def takers(
    state: State, vehicles: Iterable[tuple[str, frozenset[str]]]
) -> tuple[Mapping[str, int], list[tuple[str, str]]]:
    """What vehicles with nothing but their factory plan would take: how many each, and each one."""
    listed = listing_of(state.targets.signed)
    each = []
    for name, groups in vehicles:
        identity = Identity(name, groups, __version__)
        choice = choose(listed, identity, current=None, rejected=(), pinned=False)
        title = choice.offer.title if isinstance(choice, Take) else "nothing"
        each.append((name, title))
    return Counter(title for _, title in each), each


class _Files(FetcherInterface):
    """The files of a repository, as a server would answer."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self._root / unquote(urlsplit(url).path).lstrip("/")
        try:
            return iter([path.read_bytes()])
        except FileNotFoundError as e:
            raise DownloadHTTPError(f"{path}: is missing", 404) from e


def bundle_lines(bundle: Mapping[str, Any]) -> Iterator[str]:
    """An entry of `bundles`, for a person."""
    needs = f", needs agent {bundle['minimum_agent']}" if bundle["minimum_agent"] else ""
    reaches = "" if bundle["stages"] else ", reaches no vehicle yet"
    yield f"{bundle['name']} {bundle['version']}: {bundle['state']}{reaches}{needs}"
    for stage in bundle["stages"]:
        yield f"  {_whom(stage)}: {stage['percent']} %"


def request_line(request: Mapping[str, Any]) -> str:
    """An entry of `requests`, for a person."""
    what = request["campaign"] or "every trigger"
    if request["do"] == "resend":
        what = f"{request['uplink']} {request['first']} to {request['last']}"
    return (
        f"{request['id']}: {request['do']} {what}, for {_whom(request)}, until {request['expires']}"
    )


def change_lines(change: Change) -> Iterator[str]:
    """What whoever signs a change puts a name to; from what is signed, nothing else."""
    for root in change.roots:
        yield f"root {root.signed.version}, good until {root.signed.expires:%Y-%m-%d}"
        for name in ROLES:
            role = root.signed.roles[name]
            yield f"  {name}: {role.threshold} of {', '.join(map(short, role.keyids))}"
    if change.targets is not None:
        targets = change.targets.signed
        yield f"targets {targets.version}, good until {targets.expires:%Y-%m-%d}"
        listed = listing_of(targets)
        for bundle in bundles(listed):
            yield from (f"  {line}" for line in bundle_lines(bundle))
        for request in requests(listed):
            yield f"  {request_line(request)}"


def report_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """A report, for a person."""
    yield str(found["repository"])
    for name, role in found["roles"].items():
        yield (
            f"  {name} {role['version']}: good until {role['expires']} ({role['days_left']} days), "
            f"{role['threshold']} of {len(role['keys'])} keys sign"
        )
    if not found["bundles"]:
        yield "there are no bundles"
    for bundle in found["bundles"]:
        yield from bundle_lines(bundle)
    for request in found["requests"]:
        yield request_line(request)
    for title, count in found.get("vehicles", {}).get("totals", {}).items():
        yield f"{count:,} vehicles would take {title}"
    for line in found["warnings"]:
        yield f"soon: {line}"
    for line in found["faults"]:
        yield f"WRONG: {line}"
    if not found["faults"]:
        yield "a vehicle takes all of this"


def _whom(found: Mapping[str, Any]) -> str:
    return words_of(Audience(tuple(found["groups"]), tuple(found["vehicles"])))
