"""`edge-agent ...`: the command line.

Each command is a module of `agent.commands` with `add_parser` and `run`; it is imported here, and
what is slow to import only when it runs. Exit status: 0 good, 1 found something wrong, 2 misuse.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence

from agent import __version__
from agent.commands import (
    batch,
    bench,
    check,
    cloud,
    dbc,
    decode,
    doctor,
    enrol,
    estimate,
    key,
    ota,
    plan,
    reload,
    replay,
    run,
    simulate,
    spool,
    status,
)
from agent.errors import AgentError, ConfigError

_COMMANDS = (
    *(run, check, status, doctor, reload, key, enrol),
    *(decode, estimate, plan, ota, dbc, batch, spool),
    *(bench, cloud, simulate, replay),
)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="edge-agent",
        description="Decodes CAN buses in a vehicle, keeps the data through power cuts, uploads "
        "exact values when there is a link.",
        epilog="`edge-agent COMMAND --help` says more about a command.",
    )
    top.add_argument("--version", action="version", version=f"edge-agent {__version__}")
    sub = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add_parser(sub)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a person never sees a traceback for something that is theirs to mend."""
    args = parser().parse_args(arguments)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except ConfigError as e:
        return _complain(e, 2)
    except AgentError as e:
        return _complain(e, 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has had enough; the interpreter must not complain about it either.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _complain(error: AgentError, status: int) -> int:
    print(f"edge-agent: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
