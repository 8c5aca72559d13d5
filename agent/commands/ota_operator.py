"""`edge-agent ota`, the operator's part: what a repository offers to which vehicles.

Keys are in agent.commands.ota_keys.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.commands import ota_keys
from agent.commands.ota_options import (
    add_audience,
    add_json,
    add_keys,
    add_repo,
    add_stages,
    add_to_sign,
    carry_out,
    need_keys,
    stages_of,
    time_of,
)
from agent.errors import ConfigError

if TYPE_CHECKING:
    from agent.ota.operator.change import Change
    from agent.ota.operator.keys import KeyRing
    from agent.ota.operator.repository import Repository, State


def add_parsers(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the operator's commands to those of `edge-agent ota`."""
    ota_keys.add_parsers(sub)
    _add_bundle(sub)
    _add_publish(sub)
    _add_rollout(sub)
    _add_request(sub)
    _add_status(sub)


def _add_bundle(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    bundle = sub.add_parser(
        "bundle",
        help="operator: put a plan and its database files into one file",
        description="Put a plan and the database files that it names into one file, to be "
        "published. The same files give the same bytes.",
    )
    bundle.add_argument("plan", type=Path, metavar="PLAN", help="the collection plan")
    bundle.add_argument("--version", type=int, required=True, metavar="N", help="1 or higher")
    bundle.add_argument("-o", "--output", type=Path, metavar="FILE", help="default: NAME-N.bundle")
    bundle.add_argument("--name", default="", help="default: the plan's own name")
    add_audience(bundle)
    bundle.add_argument(
        "--minimum-agent", default="", metavar="VERSION", help="older agents do not take it"
    )
    bundle.set_defaults(run=_bundle)


def _bundle(args: argparse.Namespace) -> int:
    from agent.ota.bundle import Audience, pack, read

    data = pack(
        args.plan,
        version=args.version,
        minimum_agent=args.minimum_agent,
        audience=Audience(tuple(args.groups), tuple(args.vehicles)),
        name=args.name,
    )
    bundle = read(data)
    output = args.output or Path(f"{bundle.manifest.name}-{bundle.manifest.version}.bundle")
    try:
        output.write_bytes(data)
    except OSError as e:
        raise ConfigError(f"{output}: cannot be written: {e.strerror}") from e
    print(f"{output}: {bundle.title}, {len(bundle.files)} files, {len(data):,} bytes")
    return 0


def _add_publish(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    publish = sub.add_parser(
        "publish",
        help="operator: add a bundle to the repository",
        description="Build the plan of a bundle for each device file, as vehicles will, and add it "
        "to the repository. It reaches no vehicle until --to or --vehicles say so, here or with "
        "`edge-agent ota rollout`.",
    )
    add_repo(publish)
    publish.add_argument("bundle", type=Path, metavar="BUNDLE")
    add_keys(publish)
    publish.add_argument(
        "-c",
        "--config",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="a device file of the fleet; repeatable, one for each kind of vehicle",
    )
    add_stages(publish)
    add_to_sign(publish)
    add_json(publish)
    publish.set_defaults(run=_publish)


def _publish(args: argparse.Namespace) -> int:
    from agent.commands.run import find_config
    from agent.ota.operator.content import check_bundle, publish

    try:
        data = args.bundle.read_bytes()
    except OSError as e:
        raise ConfigError(f"{args.bundle}: cannot be read: {e.strerror}") from e
    bundle = check_bundle(data, [find_config(path) for path in args.config])

    def make(repository: "Repository", state: "State", _: "KeyRing") -> "Change":
        stages = stages_of(args, bundle.manifest.audience)
        return publish(repository, state, bundle, data, stages)

    state = carry_out(args, make)
    return _show_bundle(args, state, f"{bundle.manifest.name}-{bundle.manifest.version}")


def _add_rollout(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    rollout = sub.add_parser(
        "rollout",
        help="operator: which vehicles take a bundle",
        description="Set a stage of a bundle's roll-out: so many percent of a group, of vehicles "
        "by name, or of all. Raising the percentage only adds vehicles; lowering it takes the "
        "bundle from none. Without options, show the stages.",
    )
    add_repo(rollout)
    rollout.add_argument("bundle", metavar="NAME-VERSION")
    add_stages(rollout)
    state = rollout.add_mutually_exclusive_group()
    for option, value, words in (
        ("pause", "paused", "no vehicle takes it any more; who has it keeps it"),
        ("resume", "active", "go on after --pause or --withdraw"),
        ("withdraw", "withdrawn", "who has it goes back to the best other one"),
    ):
        state.add_argument(
            f"--{option}", dest="state", action="store_const", const=value, help=words
        )
    add_keys(rollout, needed=False)
    add_to_sign(rollout)
    add_json(rollout)
    rollout.set_defaults(run=_rollout)


def _rollout(args: argparse.Namespace) -> int:
    from agent.ota.operator.content import audience_of, find, roll_out
    from agent.ota.operator.repository import Repository

    asked = args.state or args.to or args.vehicles
    if args.percent is not None and not (args.to or args.vehicles):
        raise ConfigError("--percent of whom? Add --to all, --to GROUP or --vehicles GLOB")
    if not asked:
        return _show_bundle(args, Repository(args.repo).load(), args.bundle)
    need_keys(args)

    def make(repository: "Repository", state: "State", _: "KeyRing") -> "Change":
        stages = stages_of(args, audience_of(state, find(state, args.bundle)))
        return roll_out(repository, state, args.bundle, stages, args.state or "")

    return _show_bundle(args, carry_out(args, make), args.bundle)


def _show_bundle(args: argparse.Namespace, state: "State", title: str) -> int:
    from agent.ota.operator.content import find, listing_of
    from agent.ota.operator.survey import bundle_lines, bundles

    offer = find(state, title)
    (found,) = [
        bundle
        for bundle in bundles(listing_of(state.targets.signed))
        if (bundle["name"], bundle["version"]) == (offer.name, offer.version)
    ]
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        for line in bundle_lines(found):
            print(line)
    return 0


def _add_request(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    request = sub.add_parser(
        "request",
        help="operator: ask vehicles for something, once",
        description="Ask vehicles to keep now what a trigger would keep (fire [CAMPAIGN]), or to "
        "send kept batches once more (resend UPLINK FIRST [LAST]); or take that back (cancel ID).",
    )
    add_repo(request)
    request.add_argument("do", choices=("fire", "resend", "cancel"))
    request.add_argument("what", nargs="*", metavar="WHAT", help="see above")
    add_audience(request)
    request.add_argument("--all", action="store_true", help="every vehicle")
    request.add_argument(
        "--expires",
        default="7d",
        metavar="WHEN",
        help="later than this it is not done: 12h, 7d, 2026-12-01 or 2026-12-01T08:00Z "
        "(default: %(default)s)",
    )
    add_keys(request)
    add_to_sign(request)
    add_json(request)
    request.set_defaults(run=_request)


def _request(args: argparse.Namespace) -> int:
    from agent.ota.bundle import Audience
    from agent.ota.operator.content import Asked, ask, cancel, listing_of
    from agent.ota.operator.survey import request_line, requests

    if args.do == "cancel":
        name = _one(args, "ID")
        carry_out(args, lambda repository, state, _: cancel(repository, state, name))
        print(json.dumps({"id": name}) if args.json else f"{name}: is taken back")
        return 0
    whom = bool(args.groups or args.vehicles)
    if whom == args.all:
        raise ConfigError("whom? Name --groups or --vehicles; or say --all, for every vehicle")
    do: dict[str, str] = {"do": "fire", "campaign": ""}
    if args.do == "fire" and args.what:
        do["campaign"] = _one(args, "CAMPAIGN")
    elif args.do == "resend":
        if len(args.what) not in (2, 3):
            raise ConfigError("resend needs UPLINK FIRST [LAST]: an uplink's name and batch ids")
        do = {"do": "resend", "uplink": args.what[0], "first": args.what[1], "last": args.what[-1]}
    asked = Asked(Audience(tuple(args.groups), tuple(args.vehicles)), time_of(args.expires), do)
    names: list[str] = []

    def make(repository: "Repository", state: "State", _: "KeyRing") -> "Change":
        change, name = ask(repository, state, asked)
        names.append(name)
        return change

    state = carry_out(args, make)
    listed = listing_of(state.targets.signed)
    (found,) = [each for each in requests(listed) if each["id"] == names[0]]
    print(json.dumps(found) if args.json else request_line(found))
    return 0


def _one(args: argparse.Namespace, what: str) -> str:
    if len(args.what) != 1:
        raise ConfigError(f"{args.do} takes one {what}")
    return str(args.what[0])


def _add_status(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    status = sub.add_parser(
        "status",
        help="operator: what a repository says, and whether vehicles would take it",
        description="Show bundles, requests, and what expires when; check all of it as a vehicle "
        "does. Exit status 1: a vehicle would refuse it.",
    )
    add_repo(status)
    status.add_argument(
        "--vehicles",
        nargs="+",
        metavar="VEHICLE",
        help="what these would take, if they had their factory plan: names, or a file with a "
        "vehicle and its groups in each line",
    )
    add_json(status)
    status.set_defaults(run=_status)


def _status(args: argparse.Namespace) -> int:
    from agent.ota.operator.repository import Repository
    from agent.ota.operator.survey import fleet, report, report_lines, takers

    repository = Repository(args.repo)
    state = repository.load()
    found = report(repository, state)
    if args.vehicles:
        totals, each = takers(state, fleet(_lines(args.vehicles)))
        found["vehicles"] = {"totals": totals, "each": dict(each)}
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        for line in report_lines(found):
            print(line)
    return 1 if found["faults"] else 0


def _lines(words: Sequence[str]) -> list[str]:
    if len(words) == 1 and Path(words[0]).is_file():
        try:
            return Path(words[0]).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"{words[0]}: cannot be read: {e}") from e
    return list(words)
