"""`edge-agent run`: the daemon."""

import argparse
import logging
import os
import sys
from pathlib import Path

_LEVELS = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser(
        "run",
        help="run the agent",
        description="Run the agent until SIGTERM or SIGINT; it then seals and leaves within 2 s.",
    )
    add_config(parser)
    parser.add_argument(
        "--drain",
        action="store_true",
        help="with recordings: leave when all is read and every batch is acknowledged",
    )
    parser.set_defaults(run=run)


def add_config(parser: argparse.ArgumentParser) -> None:
    """The option that names the device file."""
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        default=Path("/etc/edge-agent/agent.toml"),
        metavar="FILE",
        help="the device file (default: %(default)s)",
    )


def find_config(path: Path) -> Path:
    """The device file, or the one of that name that comes with the program."""
    from agent.settings import find

    return find(path, "config")


def run(args: argparse.Namespace) -> int:
    """Load the configuration, then run.

    Raises:
        AgentError: something is wrong with configuration, plan, databases, recordings or spool.
    """
    import asyncio

    from agent.daemon import Daemon
    from agent.ota import load_factory_plan
    from agent.settings import load_device

    device = load_device(find_config(args.config))
    set_up_logging(device.log_level)
    plan = load_factory_plan(device)
    for finding in plan.database.findings:
        logging.getLogger("edge_agent.signals").warning("%s", finding)
    return asyncio.run(Daemon(device, plan).run(drain=args.drain))


def set_up_logging(level: str) -> None:
    """Lines on standard error; below systemd with the priority in front (sd-daemon(3))."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Priority() if "JOURNAL_STREAM" in os.environ else _Plain())
    root = logging.getLogger("edge_agent")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    root.propagate = False


class _Plain(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.levelname = record.levelname.lower()
        return super().format(record)


class _Priority(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"<{_LEVELS.get(record.levelname.lower(), 6)}>{super().format(record)}"
