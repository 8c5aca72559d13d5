"""`edge-agent doctor`: what is wrong, and one file for whoever is to help."""

import argparse
import json
import sys
from pathlib import Path

from agent.commands.run import add_config, find_config


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser(
        "doctor",
        help="say what is wrong, and put all that shows why into one file",
        description="Look at configuration, status, logs, kernel, disk, clock and interfaces; "
        "print the likeliest causes of what is wrong and what to do, and write all that was found "
        "into one file, without secrets. Best run as root. Nothing is changed. Exit status: 0 "
        "nothing is wrong, 1 something is, 2 the file cannot be written.",
    )
    add_config(parser)
    parser.add_argument("--socket", type=Path, help="the agent's socket, in place of that of FILE")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="the file (default: doctor-VEHICLE-TIME.tar.gz in this folder)",
    )
    parser.add_argument("--json", action="store_true", help="print the causes as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Examine this computer, write the file, print the causes.

    Raises:
        ConfigError: the file cannot be written.
    """
    from agent.observe.doctor import as_json, examine, lines, write
    from agent.observe.gather import subject_of
    from agent.observe.machine import SystemMachine

    machine = SystemMachine()
    config = find_config(args.config)
    check = [sys.executable, "-m", "agent.cli", "check", "-c", str(config)]
    found = examine(machine, subject_of(config, check, machine, args.socket))
    path = args.output or Path(f"{found.name}.tar.gz")
    write(found, path)
    if args.json:
        print(json.dumps({**as_json(found), "file": str(path)}, ensure_ascii=False))
    else:
        for line in lines(found):
            print(line)
        print(f"All that was found is in {path}; secrets were taken out.")
    return 0 if found.well else 1
