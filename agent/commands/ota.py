"""`edge-agent ota`: configuration over the air, on the device and at the operator's desk."""

import argparse
import datetime as dt
import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.ota.store import Store
    from agent.settings import Device

_ON_DEVICE = (
    ("show", "which plan runs here, what is on trial, what was taken back and why"),
    ("poll", "look at the repository now"),
    ("rollback", "give up the bundle that runs, for the one before it or the factory plan"),
    ("pin", "stay with what runs, whatever the repository says"),
    ("unpin", "follow the repository again"),
)


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from agent.commands import ota_operator
    from agent.commands.status import add_where

    parser = sub.add_parser(
        "ota",
        help="plans over the air: publish them, see and roll back what runs",
        description="Plans over the air. On a device: show, poll, rollback, pin, unpin; without a "
        "running agent they work on its state folder. All others are for the operator, who keeps "
        "keys and a repository.",
    )
    inner = parser.add_subparsers(title="commands", metavar="WHAT", required=True)
    for what, words in _ON_DEVICE:
        command = inner.add_parser(what, help=f"on a device: {words}", description=_said(words))
        add_where(command)
        command.set_defaults(run=functools.partial(run, what))
    ota_operator.add_parsers(inner)


def _said(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def run(what: str, args: argparse.Namespace) -> int:
    """Ask the running agent, or where none runs its state folder.

    Raises:
        AgentError: the device takes no plans over the air, or what is asked for cannot be done.
    """
    path, device = args.socket, None
    if path is None:
        device = _device(args)
        path = Path(device.socket)
    status = _asked(path, what) if path.exists() else None
    if status is None:
        status = _by_hand(what, device or _device(args))
    if args.json:
        print(json.dumps(status))
    else:
        for line in lines(status):
            print(line)
    return 1 if what == "show" and status.get("trouble") else 0


def _device(args: argparse.Namespace) -> "Device":
    from agent.commands.run import find_config
    from agent.errors import ConfigError
    from agent.settings import load_device

    path = find_config(args.config)
    device = load_device(path)
    if device.ota is None:
        raise ConfigError(
            f"{path}: there is no table [ota], so this vehicle takes no plans over the air"
        )
    return device


def _asked(path: Path, what: str) -> "dict[str, Any] | None":
    """What a running agent answers; None where nobody does."""
    from agent.errors import AgentError
    from agent.observe.socket import NobodyAnswers, ask

    try:
        answer = ask(path, "ota", what, timeout_s=60)
    except NobodyAnswers:
        return None
    if not isinstance(answer, dict) or "running" not in answer:
        raise AgentError(f"{path}: what answers here is no agent")
    return answer


def _by_hand(what: str, device: "Device") -> dict[str, Any]:
    """The same on the folder of an agent that does not run."""
    from agent.errors import UpdateError
    from agent.ota import record as records
    from agent.ota.store import Store

    if what == "poll":
        raise UpdateError("no agent runs here: it looks at the repository when it is started")
    folder = Path(device.state_dir) / "ota"
    store = Store(folder)
    if what == "show":
        store.load()
    elif not folder.is_dir():
        raise UpdateError(f"{folder}: no plan has come over the air yet")
    else:
        with store:
            if what == "rollback":
                _roll_back(store)
            else:
                store.change(functools.partial(records.pinned, on=what == "pin"))
    return {**records.summary(store.record), "state": "not running", "trouble": store.trouble}


def _roll_back(store: "Store") -> None:
    """Give up what runs; the agent tells that once it is started."""
    import secrets

    from agent.clock import SystemClock, certain
    from agent.ota import record as records

    bundle = records.running(store.record)
    report = records.Report(
        secrets.token_hex(6), "rolled back", bundle, records.BY_HAND, certain(SystemClock())
    )
    store.change(lambda record: records.reported(records.left(record, records.BY_HAND), report))


def lines(status: Mapping[str, Any]) -> Iterator[str]:
    """The state of updates, for a terminal."""
    trial = status["trial"]
    words = f"bundle {status['running']}" if status["running"] != "factory" else "the factory plan"
    yield f"running: {words}{', on trial' if trial else ''}{', pinned' * status['pinned']}"
    if trial:
        yield f"last good: {status['last_good']}; start {trial['starts']} of this trial"
    else:
        yield f"before it: {status['previous']}"
    yield f"state: {status['state']}{_why(status)}"
    if status.get("looked_s_ago") is not None:
        from agent.observe.report import duration

        yield f"repository: looked {duration(status['looked_s_ago'])} ago{_until(status)}"
    if status.get("clock_untrusted"):
        yield "clock: not trusted; expiries are judged by the last time that was known for sure"
    if status.get("trouble"):
        yield f"trouble: {status['trouble']}"
    for finding in status.get("findings", ()):
        yield f"finding: {finding}"
    for each in status["rejected"]:
        yield f"rejected: {each['bundle']}: {each['why']}"


def _why(status: Mapping[str, Any]) -> str:
    return f"; {status['why']}" if status.get("why") else ""


def _until(status: Mapping[str, Any]) -> str:
    if status.get("expires") is None:
        return ""
    until = dt.datetime.fromtimestamp(status["expires"], dt.UTC)
    return f", its word holds until {until:%Y-%m-%d %H:%M} UTC"
