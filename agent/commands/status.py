"""`edge-agent status`: how a running agent is."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from agent.commands.run import add_config, find_config


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser(
        "status",
        help="ask a running agent how it is",
        description="Ask a running agent over its local socket: buses, uplinks, why something "
        "waits, and the ledger. Exit status 1 where something has to be seen to, which is told at "
        "the end, or where no agent answers.",
    )
    add_where(parser)
    parser.add_argument("--watch", action="store_true", help="show it again each second")
    parser.set_defaults(run=run)


def add_where(parser: argparse.ArgumentParser) -> None:
    """The options that name a running agent, and how to print what it answers."""
    add_config(parser)
    parser.add_argument("--socket", type=Path, help="the socket, in place of the device file's")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def socket_of(args: argparse.Namespace) -> Path:
    """The socket of the running agent that is asked.

    Raises:
        ConfigError: the device file cannot be used.
    """
    from agent.settings import load_device

    return args.socket or Path(load_device(find_config(args.config)).socket)


def run(args: argparse.Namespace) -> int:
    """Ask and print.

    Raises:
        AgentError: no agent answers.
    """
    from agent.observe.health import healthy
    from agent.observe.socket import ask

    path = socket_of(args)
    while True:
        status = ask(path, "status")
        _show(status, as_json=args.json, again=args.watch)
        if not args.watch:
            return 1 if healthy(status) else 0
        time.sleep(1)


def _show(status: dict[str, Any], *, as_json: bool, again: bool) -> None:
    from agent.observe.health import healthy
    from agent.observe.report import status_lines

    if as_json:
        print(json.dumps(status))
        return
    if again and sys.stdout.isatty():
        print("\x1b[H\x1b[2J", end="")
    for line in status_lines(status):
        print(line)
    for problem in healthy(status):
        print(f"problem: {problem}")
