"""`edge-agent decode`: a recording as values."""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.blocks import Float64, FrameBlock
    from agent.bus import LogReader
    from agent.signals import Decoder
    from agent.signals.summary import Summary


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser(
        "decode",
        help="decode a recording",
        description="Decode a recording with DBC files: a table of what it holds, or all samples "
        "as CSV, Parquet or JSON lines.",
    )
    parser.add_argument("log", metavar="LOG", help="candump, asc, blf, trc, mf4, gvret csv")
    parser.add_argument(
        "--dbc", nargs="+", type=Path, required=True, metavar="FILE", help="the database files"
    )
    parser.add_argument("--channel", metavar="N", help="only this channel of the recording")
    parser.add_argument(
        "--j1939", action="store_true", help="match 29-bit ids by PGN, whatever the DBC says"
    )
    parser.add_argument(
        "--expand",
        action="append",
        default=[],
        metavar="NAME",
        help="make rows of the list in DM1, DM2, BMV or BMT (may be repeated)",
    )
    parser.add_argument(
        "--signals", action="append", metavar="GLOB", help="only these signals (may be repeated)"
    )
    parser.add_argument(
        "--by-source", action="store_true", help="a J1939 source address each on its own"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--csv", type=Path, metavar="FILE", help="write all samples as CSV")
    output.add_argument("--parquet", type=Path, metavar="FILE", help="write them as Parquet")
    output.add_argument(
        "--summary", action="store_true", help="figures of each signal (the default)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Decode; exit status 1 where not one frame could be decoded or a line was bad.

    Raises:
        BusError: the recording cannot be read.
        DatabaseError: a database file cannot be used.
        ConfigError: a pattern names no signal, `--expand` no list, or an extra is not installed.
    """
    from agent.bus import read_log
    from agent.settings import find
    from agent.signals import Database, Decoder
    from agent.signals.summary import Summary

    files = [find(path, "dbc") for path in args.dbc]
    database = Database.load(files, j1939=args.j1939, expand=args.expand)
    for finding in database.findings:
        _say(f"finding: {finding}")
    decoder = Decoder(database, args.signals)
    summary = Summary(by_source=args.by_source)
    with read_log(args.log, channel=args.channel) as reader:
        blocks = _watched(reader, args.log, decoder, summary)
        if args.csv or args.parquet:
            _export(args, blocks, decoder)
        elif args.json and not args.summary:
            _json_lines(blocks, decoder, summary)
        else:
            for block in blocks:
                summary.add(decoder.decode(block))
        bad, notes = reader.bad, reader.notes
    summary.counts = decoder.counts
    for note in notes:
        _say(note)
    if bad > len(notes):
        _say(f"{args.log}: {bad - len(notes):,} more bad lines")
    if args.csv or args.parquet:
        if args.json:
            print(json.dumps(summary.frames_json()))
        else:
            print(f"{summary.frames_line()} -> {args.csv or args.parquet}")
    elif args.summary or not args.json:
        if args.json:
            print(json.dumps(summary.as_json()))
        else:
            for line in summary.lines():
                print(line)
    return _verdict(args, summary, bad)


def _verdict(args: argparse.Namespace, summary: "Summary", bad: int) -> int:
    if not summary.frames:
        where = f" of channel {args.channel}" if args.channel else ""
        _say(f"{args.log}: there are no frames{where}")
        return 1
    if not summary.counts.decoded + summary.counts.reassembled:
        ids = ", ".join(summary.commonest_ids(8))
        names = ", ".join(str(f) for f in args.dbc)
        if ids:
            why = f"is described by {names}. Ids that occur most: {ids}"
        else:
            why = f"could be decoded with {names}: {summary.frames_line()}"
        _say(f"0 % decoded: no frame of {args.log} {why}")
        return 1
    return 1 if bad else 0


def _say(text: str) -> None:
    print(f"edge-agent: {text}", file=sys.stderr)


def _watched(
    reader: "LogReader", name: str, decoder: "Decoder", summary: "Summary"
) -> Iterator["FrameBlock"]:
    """The blocks, with progress on a terminal."""
    shown = -1
    for block in reader:
        summary.note(block, decoder.knows(block))
        yield block
        percent = int(reader.progress * 100)
        if sys.stderr.isatty() and percent != shown:
            shown = percent
            print(f"\r{name}: {percent} %", end="", file=sys.stderr, flush=True)
    if shown >= 0:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _export(args: argparse.Namespace, blocks: Iterator["FrameBlock"], decoder: "Decoder") -> None:
    from agent.batch.export import export_tables

    tables = (table for block in blocks for table in decoder.decode(block))
    export_tables(tables, args.csv or args.parquet, "csv" if args.csv else "parquet")


def _json_lines(blocks: Iterator["FrameBlock"], decoder: "Decoder", summary: "Summary") -> None:
    """A line a table: what a program can read while it comes."""
    for block in blocks:
        for table in decoder.decode(block):
            summary.add([table])
            print(
                json.dumps(
                    {
                        "bus": table.bus,
                        "message": table.message,
                        "source": table.source,
                        "branch": table.branch,
                        "time": [ns / 1e9 for ns in table.time.tolist()],
                        "signals": {
                            s.name: (
                                [bytes(row).hex() for row in table.raw[s.name]]
                                if s.kind == "bytes"
                                else _numbers(table.physical(s.name))
                            )
                            for s in table.schema.signals
                        },
                    }
                )
            )


def _numbers(values: "Float64") -> list[float | None]:
    """JSON has no word for what is not a finite number."""
    return [v if math.isfinite(v) else None for v in values.tolist()]
