"""`edge-agent reload`: a running agent reads its plan again."""

import argparse
import json


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from agent.commands.status import add_where

    parser = sub.add_parser(
        "reload",
        help="tell a running agent to read its plan again",
        description="Tell a running agent to read its collection plan and database files again, "
        "and to go on with them. If they cannot be used, it goes on as before and says why.",
    )
    add_where(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Ask; prints the plan that runs now.

    Raises:
        AgentError: no agent answers, or the plan cannot be used.
    """
    from agent.commands.status import socket_of
    from agent.observe.socket import ask

    answer = ask(socket_of(args), "reload", timeout_s=60)
    print(json.dumps(answer) if args.json else f"plan {answer['plan']}")
    return 0
