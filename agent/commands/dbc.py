"""`edge-agent dbc`: what is wrong in database files, and what was done about it."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser("dbc", help="look into DBC files")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        help="what is wrong in DBC files, and what was done about it",
        description="Read database files (DBC, KCD, SYM, ARXML) and tell what is wrong in them. "
        "Exit status 0: nothing; 1: usable, with findings; 2: a file of which nothing is usable.",
    )
    check.add_argument("files", nargs="+", type=Path, metavar="FILE", help="the database files")
    check.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 nothing is wrong, 1 something is, 2 of a file nothing can be used."""
    from agent.settings import find

    files = [_describe(find(path, "dbc")) for path in args.files]
    if args.json:
        print(json.dumps(files, ensure_ascii=False, indent=2))
    else:
        print("\n\n".join("\n".join(_readable(file)) for file in files))
    if not all(file["usable"] for file in files):
        return 2
    return 1 if any(file["findings"] for file in files) else 0


def _describe(path: Path) -> dict[str, Any]:
    from agent.errors import DatabaseError
    from agent.signals.files import read_file

    try:
        reading = read_file(path)
    except DatabaseError as e:
        why = str(e).removeprefix(f"{path}: ")
        return {"file": str(path), "usable": False, "why": why, "findings": []}
    return {
        "file": str(path),
        "usable": True,
        "encoding": reading.encoding,
        "messages": len(reading.messages),
        "signals": sum(len(message.signals) for message in reading.messages),
        "findings": [
            {"line": f.line, "item": f.item, "what": f.what, "done": f.done}
            for f in reading.findings
        ],
    }


def _readable(file: dict[str, Any]) -> Iterator[str]:
    yield file["file"]
    if not file["usable"]:
        yield f"  NOT USABLE  {file['why']}"
        return
    encoding = f", {file['encoding']}" if file["encoding"] else ""
    yield f"  {file['messages']:,} messages, {file['signals']:,} signals{encoding}"
    findings = file["findings"]
    width = max((len(f"{f['line']}") for f in findings), default=0)
    for finding in findings:
        line = f"line {finding['line']:>{width}}" if finding["line"] else f"{'file':<{width + 5}}"
        yield f"  {line}  {finding['item']}: {finding['what']}; {finding['done']}"
    yield f"  {len(findings):,} findings." if findings else "  Good."
