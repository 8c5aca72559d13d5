"""`edge-agent ota init`, `keys`, `sign`, `refresh`: keys of a repository, and what they sign."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.commands.ota_options import (
    ONLINE,
    ROLES,
    add_json,
    add_keys,
    add_making,
    add_repo,
    add_to_sign,
    carry_out,
    days_of,
    need_keys,
    plain_of,
    ring_of,
)
from agent.errors import ConfigError, UpdateError

if TYPE_CHECKING:
    from agent.commands.ota_options import Make
    from agent.ota.operator.change import Change
    from agent.ota.operator.keys import KeyRing
    from agent.ota.operator.repository import Repository, State


def add_parsers(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add these commands to those of `edge-agent ota`."""
    _add_init(sub)
    _add_keys(sub)
    _add_sign(sub)
    _add_refresh(sub)


def _add_init(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    init = sub.add_parser(
        "init",
        help="operator: make keys and a repository",
        description="Make private keys (encrypted with the pass phrase in "
        "EDGE_AGENT_OTA_PASSPHRASE, or asked for) and a repository: plain files for any web "
        "server or object store. Nothing that is there is overwritten.",
    )
    add_repo(init)
    init.add_argument("--keys", type=Path, required=True, metavar="DIR", help="where keys go")
    for role, count, threshold in (("root", 3, 2), ("targets", 1, 1)):
        init.add_argument(
            f"--{role}-keys",
            type=int,
            default=count,
            metavar="N",
            help=f"so many keys of {role} (default: %(default)s)",
        )
        init.add_argument(
            f"--{role}-threshold",
            type=int,
            default=threshold,
            metavar="N",
            help="so many of them must sign (default: %(default)s)",
        )
    add_making(init)
    init.set_defaults(run=_init)


def _init(args: argparse.Namespace) -> int:
    from agent.ota.operator.repository import Repository
    from agent.ota.operator.rotation import begin
    from agent.ota.operator.work import finish

    repository = Repository(args.repo)
    try:
        args.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"{args.keys}: cannot be made: {e.strerror}") from e
    ring = ring_of([args.keys])
    with repository.changing(make=True):
        change = begin(
            repository,
            ring,
            counts={"root": args.root_keys, "targets": args.targets_keys},
            thresholds={"root": args.root_threshold, "targets": args.targets_threshold},
            days=days_of(args),
            plain=plain_of(args),
        )
        state = finish(repository, ring, change)
    for line in _begun(args.repo, state, ring):
        print(line)
    return 0


def _begun(repo: Path, state: "State", ring: "KeyRing") -> Iterator[str]:
    from agent.ota.operator.survey import keys_here

    places: dict[bool, list[str]] = {True: [], False: []}
    for role, _, path in keys_here(state, ring):
        if path is not None and role:
            places[role in ONLINE].append(str(path))
    yield f"{repo}: the repository is made; publish the folder with any web server"
    yield "These keys belong offline, in two places (whoever has them commands the fleet):"
    yield from (f"  {path}" for path in places[False])
    yield "These sign every day (`edge-agent ota refresh`) and may stay where the repository is:"
    yield from (f"  {path}" for path in places[True])
    yield f"Into each vehicle goes {repo}/metadata/1.root.json, and into its agent.toml:"
    yield "  [ota]"
    yield '  url = "https://..."                         # of that folder'
    yield '  root_file = "/etc/edge-agent/root.json"     # the file from above'


def _add_keys(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    keys = sub.add_parser(
        "keys",
        help="operator: show keys, replace lost or stolen ones",
        description="List the keys of a repository, and which private ones are here. With --rotate "
        "or --lost replace keys: signed by those that are left, old and new, as the thresholds "
        "ask.",
    )
    add_repo(keys)
    add_keys(keys, needed=False)
    keys.add_argument(
        "--rotate", action="append", choices=ROLES, default=[], help="replace its keys; repeatable"
    )
    keys.add_argument(
        "--lost",
        action="append",
        default=[],
        metavar="KEYID",
        help="replace this key, lost or stolen; repeatable",
    )
    add_making(keys)
    add_to_sign(keys)
    add_json(keys)
    keys.set_defaults(run=_keys)


def _keys(args: argparse.Namespace) -> int:
    from agent.ota.operator.repository import Repository
    from agent.ota.operator.survey import keys_here, roles

    repository = Repository(args.repo)
    ring = ring_of(args.keys)
    if args.rotate or args.lost:
        need_keys(args)
        state = carry_out(args, _rotation(args), ring)
    else:
        state = repository.load()
    private = list(keys_here(state, ring))
    rows: list[dict[str, Any]] = [
        {
            "role": role.name,
            "threshold": role.threshold,
            "expires": f"{role.expires:%Y-%m-%dT%H:%M:%SZ}",
            "keys": [
                {"id": key, "file": str(path) if path else None}
                for name, key, path in private
                if name == role.name
            ],
        }
        for role in roles(repository, state)
    ]
    others = [str(path) for name, _, path in private if not name]
    if args.json:
        print(json.dumps({"roles": rows, "other_files": others}, indent=2))
        return 0
    for row in rows:
        print(
            f"{row['role']}: {row['threshold']} of {len(row['keys'])} must sign; "
            f"good until {row['expires']}"
        )
        for key in row["keys"]:
            print(f"  {key['id'][:16]}  {key['file'] or 'not here'}")
    for path in others:
        print(f"no key of this repository, unless a change waits to be signed: {path}")
    return 0


def _rotation(args: argparse.Namespace) -> "Make":
    from agent.ota.operator.rotation import find_key, rotate

    def make(repository: "Repository", state: "State", ring: "KeyRing") -> "Change":
        return rotate(
            repository,
            state,
            ring,
            roles=args.rotate,
            lost=[find_key(state.root.signed, prefix) for prefix in args.lost],
            days=days_of(args),
            plain=plain_of(args),
        )

    return make


def _add_sign(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    sign = sub.add_parser(
        "sign",
        help="operator: sign a change that was put into a file with --to-sign",
        description="Show what the change says, and add the signatures that the keys here can "
        "give. With REPO, and when enough have signed, write it into the repository.",
    )
    sign.add_argument("file", type=Path, metavar="FILE", help="as --to-sign has written it")
    sign.add_argument("repo", type=Path, metavar="REPO", nargs="?", help="write it here, if whole")
    add_keys(sign)
    sign.set_defaults(run=_sign)


def _sign(args: argparse.Namespace) -> int:
    from agent.ota.operator import work
    from agent.ota.operator.change import Change
    from agent.ota.operator.repository import Repository, check_anchors
    from agent.ota.operator.survey import change_lines

    change = Change.read(args.file)
    ring = ring_of(args.keys)
    check_anchors(change.known, ring)
    for line in change_lines(change):
        print(line)
    added = change.sign(ring)
    if added:
        work.write_change(change, args.file)
    lacks = change.lacks()
    for lack in lacks:
        print(f"{args.file}: {lack}", file=sys.stderr)
    if lacks or args.repo is None:
        if not added and lacks:
            raise UpdateError(f"{args.file}: no key in {ring.where} is asked for; nothing signed")
        print(f"{args.file}: {added} signatures more" + ("" if lacks else "; enough have signed"))
        return 1 if lacks else 0
    work.carry_out(Repository(args.repo), ring, lambda _: change)
    print(f"{args.repo}: done; {args.file} can be removed")
    return 0


def _add_refresh(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    refresh = sub.add_parser(
        "refresh",
        help="operator: sign the timestamp again, every day",
        description="Sign the timestamp anew; the rest, too, where half of its life is over and "
        "its keys are here. For a daily timer; keys of root and targets are not needed.",
    )
    add_repo(refresh)
    add_keys(refresh)
    refresh.set_defaults(run=_refresh)


def _refresh(args: argparse.Namespace) -> int:
    from agent.ota.operator import work
    from agent.ota.operator.repository import Repository
    from agent.ota.operator.rotation import renew
    from agent.ota.operator.survey import roles, warnings

    repository = Repository(args.repo)
    ring = ring_of(args.keys)
    state = work.carry_out(
        repository, ring, lambda state: renew(repository, state, ring), refresh=True
    )
    print(
        "; ".join(
            f"{role.name} {role.version} is good until {role.expires:%Y-%m-%d %H:%M} UTC"
            for role in roles(repository, state)
        )
    )
    for line in warnings(repository, state):
        print(line, file=sys.stderr)
    return 0
