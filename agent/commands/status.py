"""`edge-agent status`: how a running agent is."""

import argparse
import json
import shutil
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
    if args.watch:
        return _watch(path, as_json=args.json)
    status = ask(path, "status")
    if args.json:
        print(json.dumps(status))
    else:
        print("\n".join(_lines(status)))
    return 1 if healthy(status) else 0


def _watch(path: Path, *, as_json: bool) -> int:
    """Each second until a signal, also while no agent answers, such as between two runs."""
    from agent.observe.socket import NobodyAnswers, ask

    before: dict[str, Any] | None = None
    while True:
        try:
            status = ask(path, "status")
        except NobodyAnswers as e:
            before, lines = None, [] if as_json else ["waiting for an agent", str(e)]
        else:
            lines = [json.dumps(status)] if as_json else _lines(status, before)
            before = status
        if sys.stdout.isatty() and not as_json:
            _paint(lines)
        elif lines:
            print("\n".join([*lines, *([] if as_json else [""])]))
        sys.stdout.flush()
        time.sleep(1)


def _paint(lines: list[str]) -> None:
    """Lines in the place of those before, as far as the terminal goes; nothing flickers."""
    width, height = shutil.get_terminal_size()
    shown = [line[:width] for line in lines]
    if len(shown) >= height:
        shown[height - 2 :] = [f"({len(shown) - height + 2} more lines; the terminal is too low)"]
    print("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in shown) + "\x1b[J", end="")


def _lines(status: dict[str, Any], before: dict[str, Any] | None = None) -> list[str]:
    from agent.observe.health import healthy
    from agent.observe.report import status_lines

    problems = (f"problem: {problem}" for problem in healthy(status))
    return [*status_lines(status, before), *problems]
