"""`edge-agent decode`: a recording, or a bus, as values."""

import argparse
import contextlib
import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Generator

    from agent.blocks import Float64, FrameBlock
    from agent.bus import LogReader
    from agent.signals import Decoder
    from agent.signals.summary import Summary

_PROGRESS_S: Final = 0.25


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser(
        "decode",
        help="decode a recording, or watch a bus",
        description="Decode a recording with DBC files: a table of what it holds, or all samples "
        "as CSV, Parquet, MDF 4 or JSON lines, or a picture of some. With --live, show what is on "
        "a bus right now: `edge-agent decode --live can0 --dbc car.dbc`.",
    )
    parser.add_argument(
        "log", metavar="LOG", nargs="?", help="candump, asc, blf, trc, mf4, gvret csv"
    )
    parser.add_argument(
        "--live",
        metavar="BUS",
        help="in place of a recording: a SocketCAN interface, such as can0, or the path of a "
        "serial adapter, such as /dev/ttyACM0. Nothing is sent. Keys scroll, q or Ctrl-C ends; "
        "where the output is no terminal, it comes once a second",
    )
    parser.add_argument(
        "--bitrate",
        type=int,
        default=500_000,
        metavar="BIT/S",
        help="with --live: of the bus behind a serial adapter (default: %(default)s)",
    )
    parser.add_argument("--seconds", type=float, metavar="N", help="with --live: end after so long")
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
        "--mf4", type=Path, metavar="FILE", help="write them as ASAM MDF 4, with units and texts"
    )
    output.add_argument(
        "--plot",
        nargs="+",
        metavar="SIGNAL",
        help="draw these signals (patterns as of --signals), one below the other, into -o FILE",
    )
    output.add_argument(
        "--summary", action="store_true", help="figures of each signal (the default)"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="with --plot: the picture, a PNG (default: plot.png)",
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
    from agent.settings import find
    from agent.signals import Database, Decoder

    _check(args)
    files = [find(path, "dbc") for path in args.dbc]
    database = Database.load(files, j1939=args.j1939, expand=args.expand)
    for finding in database.findings:
        _say(f"finding: {finding}")
    decoder = Decoder(database, args.plot or args.signals)
    if args.live:
        from agent.commands.decode_live import run_live

        return run_live(args, decoder)
    return _recording(args, decoder)


def _check(args: argparse.Namespace) -> None:
    """Say what does not go together.

    Raises:
        ConfigError: something.
    """
    if bool(args.log) == bool(args.live):
        raise ConfigError("name a recording, or a bus with --live")
    of_a_recording = {
        "--csv": args.csv,
        "--parquet": args.parquet,
        "--mf4": args.mf4,
        "--plot": args.plot,
        "--summary": args.summary,
        "--channel": args.channel,
        "--by-source": args.by_source,
    }
    given = [name for name, value in of_a_recording.items() if value]
    if args.live and given:
        raise ConfigError(f"{given[0]} is of a recording: leave it out with --live")
    if args.seconds is not None and not args.live:
        raise ConfigError("--seconds is of --live: a recording has an end")
    if args.output and not args.plot:
        raise ConfigError("-o names the picture of --plot: add the signals that are to be drawn")
    if args.plot and args.signals:
        raise ConfigError("--plot names its signals itself: leave out --signals")


def _recording(args: argparse.Namespace, decoder: "Decoder") -> int:
    from agent.bus import read_log
    from agent.signals.summary import Summary

    summary = Summary(by_source=args.by_source)
    with (
        read_log(args.log, channel=args.channel) as reader,
        contextlib.closing(_watched(reader, args.log, decoder, summary)) as blocks,
    ):
        target, written = _target(args), False
        if target:
            written = _export(args, target, blocks, decoder)
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
    if target:
        if args.json:
            print(json.dumps(summary.frames_json()))
        elif written:
            print(f"{summary.frames_line()} -> {target}")
    elif args.summary or not args.json:
        if args.json:
            print(json.dumps(summary.as_json()))
        else:
            for line in summary.lines():
                print(line)
    status = _verdict(args, summary, bad)
    return status if written or not target else 1


def _target(args: argparse.Namespace) -> Path | None:
    """The file that is asked for."""
    if args.plot:
        return args.output or Path("plot.png")
    target: Path | None = args.csv or args.parquet or args.mf4
    return target


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
) -> "Generator[FrameBlock]":
    """The blocks, with progress on a terminal."""
    shown = sys.stderr.isatty()
    began, due = time.monotonic(), 0.0
    try:
        for block in reader:
            summary.note(block, decoder.knows(block))
            yield block
            now = time.monotonic()
            if shown and now >= due:
                due = now + _PROGRESS_S
                line = _progress(reader.progress, summary.frames, now - began)
                print(f"\r{name}: {line}\x1b[K", end="", file=sys.stderr, flush=True)
    finally:
        if due:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _progress(share: float, frames: int, seconds: float) -> str:
    speed = frames / seconds if seconds > 0 else 0.0
    left = f", {seconds * (1 - share) / share:,.0f} s left" if share > 0 else ""
    return f"{100 * share:.0f} %, {frames:,} frames, {speed:,.0f} frames/s{left}"


def _export(
    args: argparse.Namespace, target: Path, blocks: Iterator["FrameBlock"], decoder: "Decoder"
) -> bool:
    """Whether there was something to be written."""
    tables = (table for block in blocks for table in decoder.decode(block))
    if args.plot:
        from agent.batch.plot import Plot

        plot = Plot()
        plot.add(tables)
        if not plot.samples:
            _say(f"nothing is drawn: {args.log} has no sample of {', '.join(args.plot)}")
            return False
        plot.save(target, Path(args.log).name)
    elif args.mf4:
        from agent.batch.measurement import export_mdf

        export_mdf(tables, target)
    else:
        from agent.batch.export import export_tables

        export_tables(tables, target, "csv" if args.csv else "parquet")
    return True


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
