"""Options that several of the operator's commands have, and what is made of them."""

import argparse
import datetime as dt
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import ConfigError, UpdateError

if TYPE_CHECKING:
    from agent.ota.bundle import Audience
    from agent.ota.operator.change import Change
    from agent.ota.operator.content import Stage
    from agent.ota.operator.keys import KeyRing
    from agent.ota.operator.repository import Repository, State

    Make = Callable[[Repository, State, KeyRing], Change]

ROLES = ("root", "targets", "snapshot", "timestamp")
ONLINE = ("snapshot", "timestamp")


def add_repo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repo", type=Path, metavar="REPO", help="the folder of the repository")


def add_keys(parser: argparse.ArgumentParser, *, needed: bool = True) -> None:
    parser.add_argument(
        "--keys",
        type=Path,
        action="append",
        required=needed,
        default=None if needed else [],
        metavar="DIR",
        help="a folder of private keys; repeatable",
    )


def add_making(parser: argparse.ArgumentParser) -> None:
    """Options of commands that make keys."""
    parser.add_argument(
        "--days",
        action="append",
        default=[],
        metavar="ROLE=N",
        help="life of its metadata: root and targets 365 days, snapshot and timestamp 14, unless "
        "said otherwise; repeatable",
    )
    parser.add_argument("--no-passphrase", action="store_true", help="do not encrypt new keys")
    parser.add_argument(
        "--no-passphrase-online",
        action="store_true",
        help="do not encrypt new keys of snapshot and timestamp, for a timer",
    )


def add_to_sign(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to-sign",
        type=Path,
        metavar="FILE",
        help="if keys are missing here, put the change into this file, for `edge-agent ota sign`",
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_audience(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--groups", nargs="+", action="extend", default=[], metavar="GROUP", help="for these groups"
    )
    parser.add_argument(
        "--vehicles",
        nargs="+",
        action="extend",
        default=[],
        metavar="GLOB",
        help="for vehicles with such names",
    )


def add_stages(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to",
        action="append",
        default=[],
        metavar="GROUP",
        help="a group; or all, which is every vehicle that the bundle is for; repeatable",
    )
    parser.add_argument(
        "--vehicles", nargs="+", default=[], metavar="GLOB", help="vehicles with such names"
    )
    parser.add_argument(
        "--percent", type=int, metavar="P", help="so many of them, 0 to 100 (default: 100)"
    )


def stages_of(args: argparse.Namespace, audience: "Audience") -> "list[Stage]":
    from agent.ota.operator.content import Stage

    percent = 100 if args.percent is None else args.percent
    if not 0 <= percent <= 100:
        raise ConfigError(f"--percent {percent}: is not from 0 to 100")
    stages = [
        Stage(audience.groups, audience.vehicles, percent)
        if group == "all"
        else Stage((group,), (), percent)
        for group in args.to
    ]
    if args.vehicles:
        stages.append(Stage((), tuple(args.vehicles), percent))
    if args.percent is not None and not stages:
        raise ConfigError("--percent of whom? Add --to all, --to GROUP or --vehicles GLOB")
    return stages


def ring_of(folders: Sequence[Path]) -> "KeyRing":
    from agent.ota.operator.keys import KeyRing

    return KeyRing(folders)


def need_keys(args: argparse.Namespace) -> None:
    if not args.keys:
        raise ConfigError("name the folder of the private keys with --keys")


def carry_out(args: argparse.Namespace, make: "Make", ring: "KeyRing | None" = None) -> "State":
    from agent.ota.operator import work
    from agent.ota.operator.change import MissingKeysError
    from agent.ota.operator.repository import Repository

    repository = Repository(args.repo)
    ring = ring or ring_of(args.keys)
    found = ring
    try:
        return work.carry_out(
            repository, ring, lambda state: make(repository, state, found), to_sign=args.to_sign
        )
    except MissingKeysError as e:
        raise UpdateError(
            f"{e}; or put the change into a file with --to-sign FILE, and sign it where they are"
        ) from e


def plain_of(args: argparse.Namespace) -> Sequence[str]:
    if args.no_passphrase:
        return ROLES
    return ONLINE if args.no_passphrase_online else ()


def days_of(args: argparse.Namespace) -> dict[str, int]:
    found = {}
    for text in args.days:
        match = re.fullmatch(rf"({'|'.join(ROLES)})=([1-9][0-9]{{0,3}})", text)
        if match is None:
            raise ConfigError(f"--days {text}: is not such as timestamp=7")
        found[match[1]] = int(match[2])
    return found


def time_of(text: str) -> dt.datetime:
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    if match := re.fullmatch(r"([1-9][0-9]{0,4})([hd])", text):
        count = int(match[1])
        return now + (dt.timedelta(hours=count) if match[2] == "h" else dt.timedelta(days=count))
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError as e:
        raise ConfigError(
            f"--expires {text}: is no time such as 12h, 7d, 2026-12-01 or 2026-12-01T08:00Z"
        ) from e
    return found.replace(tzinfo=dt.UTC) if found.tzinfo is None else found.astimezone(dt.UTC)
