"""`edge-agent batch export`: samples as a table, raw frames as a recording, reports as JSON."""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import BatchError, ConfigError

if TYPE_CHECKING:
    from agent.batch import BatchReader
    from agent.batch.windows import Within
    from agent.blocks import Reports, SignalTable


def export(args: argparse.Namespace, paths: list[Path]) -> int:
    """0 good, 1 something in the batches is wrong.

    Raises:
        ConfigError: there is no such event, or the target cannot be written.
    """
    from agent.batch.framelog import SUFFIXES

    suffix = args.to.suffix.lower()
    writers = {
        ".csv": _tables,
        ".parquet": _tables,
        **dict.fromkeys(SUFFIXES, _frames),
        ".jsonl": _reports,
    }
    write = writers.get(suffix)
    if write is None:
        *known, last = writers
        raise ConfigError(f"--to {args.to}: the name must end in {', '.join(known)} or {last}")
    if args.signals and write is not _tables:
        what = "reports" if write is _reports else "raw frames"
        raise ConfigError(f"--signals: {args.to} takes {what}, and those have no signals")
    problems: list[str] = []
    good = list(_readable(paths, problems))
    within = None
    if args.event is not None:
        from agent.batch.windows import Within, find

        within = Within(find(good, args.event))
    answer, notes = write(args, good, within)
    if args.json:
        whole = {"target": str(args.to), "batches": len(good), **answer, "problems": problems}
        print(json.dumps(whole, ensure_ascii=False, indent=2))
    else:
        for problem in problems:
            print(problem, file=sys.stderr)
        for note in notes:
            print(note)
    return 1 if problems else 0


def _readable(paths: list[Path], problems: list[str]) -> Iterator[Path]:
    from agent.batch import BatchReader

    for path in paths:
        try:
            reader = BatchReader(path)
        except BatchError as e:
            problems.append(str(e))
            continue
        problems += _damage(reader)
        yield path


def _damage(reader: "BatchReader") -> list[str]:
    scan = reader.scan()
    if not scan.bad_chunks and not scan.trailing:
        return []
    text = (
        f"{reader.path}: {scan.bad_chunks} bad chunks beside {scan.chunks} good ones, "
        f"{scan.trailing:,} bytes after the last one; what can be read is exported"
    )
    return [text]


# raw frames


def _frames(
    args: argparse.Namespace, paths: list[Path], within: "Within | None"
) -> tuple[dict[str, Any], list[str]]:
    from agent.batch.framelog import export_frames
    from agent.batch.merged import Merged

    merged = Merged(paths) if within is None else Merged(paths, within.frames)
    count, left = export_frames(merged, args.to)
    named = args.to.suffix.lower() == ".log"
    channels = {bus: bus if named else n + 1 for n, bus in enumerate(merged.buses)}
    answer = {
        "frames": count,
        "left_out": left,
        "channels": channels,
        "clocks": sorted(merged.clocks),
    }
    notes = [f"{args.to}: {count:,} raw frames from {len(paths):,} batches"]
    if not named:
        notes += [f"  channel {number} is bus {bus}" for bus, number in channels.items()]
    if left:
        notes.append(f"  {left:,} messages are longer than a frame, and left out")
    if "boot" in merged.clocks:
        notes.append("  no anchor dates some of them: their time counts from their boot")
    return answer, notes


# samples


def _tables(
    args: argparse.Namespace, paths: list[Path], within: "Within | None"
) -> tuple[dict[str, Any], list[str]]:
    from agent.batch.export import Format, export_tables

    formats: dict[str, Format] = {".csv": "csv", ".parquet": "parquet"}
    tables = _read(paths, within)
    if args.signals:
        tables = _selected(tables, _fits(args.signals))
    samples = export_tables(tables, args.to, formats[args.to.suffix.lower()])
    notes = [f"{args.to}: {samples:,} samples from {len(paths):,} batches"]
    if args.signals and not samples and not args.json:
        print(f"no signal fits {', '.join(args.signals)}", file=sys.stderr)
    return {"samples": samples}, notes


def _read(paths: list[Path], within: "Within | None") -> "Iterator[SignalTable]":
    from agent.batch.dated import opened, tables_of

    for reader, anchor in opened(paths):
        tables: Iterable[SignalTable] = tables_of(reader, anchor)
        yield from tables if within is None else within.tables(reader, tables)


def _fits(patterns: list[str]) -> "Callable[[SignalTable, str], bool]":
    from fnmatch import fnmatchcase

    def fits(table: "SignalTable", signal: str) -> bool:
        name = f"{table.message}.{signal}"
        names = (signal, name, f"{table.bus}.{name}")
        return any(fnmatchcase(n, p) for p in patterns for n in names)

    return fits


def _selected(
    tables: "Iterator[SignalTable]", fits: "Callable[[SignalTable, str], bool]"
) -> "Iterator[SignalTable]":
    for table in tables:
        names = [name for name in table.names if fits(table, name)]
        if names:
            yield table.select(table.schema.subset(names))


# reports


def _reports(
    args: argparse.Namespace, paths: list[Path], within: "Within | None"
) -> tuple[dict[str, Any], list[str]]:
    from agent.batch.reportlog import export_reports

    done = export_reports(_read_reports(paths, within), args.to)
    answer = {
        "reports": done.reports,
        "undecoded": done.undecoded,
        "forms": sorted(done.forms),
        "clocks": sorted(done.clocks),
    }
    notes = [f"{args.to}: {done.reports:,} reports from {len(paths):,} batches"]
    if done.undecoded:
        notes.append(f"  {done.undecoded:,} cannot be decoded; `error` says why")
    if "boot" in done.clocks:
        notes.append("  no anchor dates some of them: their time counts from their boot")
    return answer, notes


def _read_reports(paths: list[Path], within: "Within | None") -> "Iterator[Reports]":
    from agent.batch.dated import opened, reports_of

    for reader, anchor in opened(paths):
        reports: Iterable[Reports] = reports_of(reader, anchor)
        yield from reports if within is None else within.reports(reader, reports)
