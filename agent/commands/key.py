"""`edge-agent sleep` and `edge-agent wake`: tell a running agent that the key is off, or on."""

import argparse
import functools
import json


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from agent.commands.status import add_where

    for command, words, more in (
        ("sleep", "the key is off: seal, send, then rest", "It answers at once and does that."),
        ("wake", "the key is on: send again", "Buses were read all the time."),
    ):
        parser = sub.add_parser(
            command,
            help=f"tell a running agent that {words}",
            description=f"Tell a running agent that {words}. {more}",
        )
        add_where(parser)
        parser.set_defaults(run=functools.partial(run, command))


def run(command: str, args: argparse.Namespace) -> int:
    """Ask; prints what the agent is now: awake, sealing or asleep.

    Raises:
        AgentError: no agent answers.
    """
    from agent.commands.status import socket_of
    from agent.observe.socket import ask

    answer = ask(socket_of(args), command)
    print(json.dumps(answer) if args.json else answer["state"])
    return 0
