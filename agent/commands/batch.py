"""`edge-agent batch`: look into batches, and get the samples out."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import BatchError, ConfigError

if TYPE_CHECKING:
    from agent.batch import BatchReader
    from agent.blocks import SignalTable


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser("batch", help="look into batches, export their samples")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="what batches hold, and whether they are whole")
    show.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a batch or a folder")
    show.add_argument("--json", action="store_true", help="print JSON")
    export = actions.add_parser(
        "export",
        help="write the samples to CSV or Parquet",
        description="Write one row a sample; batches of one boot are dated together.",
    )
    export.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a batch or a folder")
    export.add_argument(
        "--to", required=True, type=Path, metavar="OUT", help="the target: .csv or .parquet"
    )
    export.add_argument(
        "--signals",
        action="append",
        metavar="GLOB",
        help="only these: Signal, Message.Signal or bus.Message.Signal, with * and ?; repeatable",
    )
    export.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 good, 1 something in the batches is wrong.

    Raises:
        ConfigError: a file that is not there, or a target that cannot be written.
    """
    paths = _batches(args.files)
    return _show(args, paths) if args.action == "show" else _export(args, paths)


def _batches(places: list[Path]) -> list[Path]:
    from agent.batch.format import SUFFIX

    found: list[Path] = []
    for place in places:
        if place.is_dir():
            inside = sorted(place.rglob(f"*{SUFFIX}"))
            if not inside:
                raise ConfigError(f"{place}: there is no *{SUFFIX} file in this folder")
            found += inside
        elif place.exists():
            found.append(place)
        else:
            raise ConfigError(f"{place}: there is no such file or folder")
    # A spool has a batch in the folder of each uplink: the same file under several names.
    return list({(s.st_dev, s.st_ino): p for p in found for s in [p.stat()]}.values())


def _complain(text: str) -> None:
    print(text, file=sys.stderr)


# show


def _show(args: argparse.Namespace, paths: list[Path]) -> int:
    shown: list[dict[str, Any]] = []
    for path in paths:
        try:
            shown.append(_describe(path))
        except BatchError as e:
            shown.append({"file": str(path), "problems": [str(e)]})
    if args.json:
        print(json.dumps(shown, ensure_ascii=False, indent=2, default=_plain))
    else:
        print("\n\n".join("\n".join(_readable(batch)) for batch in shown))
    return 1 if any(batch["problems"] for batch in shown) else 0


def _plain(value: object) -> object:
    return bytes(value).hex() if isinstance(value, bytes | memoryview) else str(value)


def _describe(path: Path) -> dict[str, Any]:
    from agent.batch import BatchReader

    reader = BatchReader(path)
    scan = reader.scan()
    records: dict[str, int] = {}
    others: dict[str, list[Any]] = {}
    signals: dict[tuple[Any, ...], dict[str, Any]] = {}
    samples = 0
    for kind, value in reader.records():
        records[kind] = records.get(kind, 0) + 1
        if kind == "samples":
            _count(signals, value)
            samples += value.samples
        elif kind in ("ledger", "anchor", "tombstone"):
            others.setdefault(kind, []).append(value)
    problems = list(reader.notes)
    if scan.bad_chunks and not problems:
        problems.append(f"{path}: {scan.bad_chunks} chunks are bad")
    lost = (scan.samples or samples) - samples
    if lost:
        problems.append(f"{path}: {lost:,} of {scan.samples:,} samples cannot be read")
    if scan.trailing:
        problems.append(f"{path}: {scan.trailing:,} bytes follow the last whole chunk")
    if scan.footer is not None and scan.footer.get("chunks") != scan.chunks + scan.bad_chunks:
        problems.append(f"{path}: the footer tells of {scan.footer.get('chunks')} chunks")
    return {
        "file": str(path),
        "bytes": reader.size,
        "header": reader.header,
        "sealed": scan.sealed,
        "recovered": scan.recovered,
        "chunks": scan.chunks,
        "bad_chunks": scan.bad_chunks,
        "samples": samples,
        "lost_samples": lost,
        "records": records,
        "anchors": [_anchor_json(a) for a in reader.anchors()],
        "signals": sorted(
            signals.values(), key=lambda s: (s["bus"], s["message"], s["source"] or 0, s["signal"])
        ),
        "ledger": others.get("ledger", []),
        "tombstones": others.get("tombstone", []),
        "footer": scan.footer,
        "problems": problems,
    }


def _anchor_json(anchor: Any) -> dict[str, Any]:
    return {
        "boot_id": anchor.boot_id,
        "boot": anchor.boot,
        "wall": anchor.wall,
        "quality": anchor.quality.name.lower(),
    }


def _count(signals: dict[tuple[Any, ...], dict[str, Any]], table: "SignalTable") -> None:
    for signal in table.schema.signals:
        key = (table.bus, table.message, table.source, signal.name, table.clock, table.campaign)
        row = signals.setdefault(
            key,
            {
                "bus": table.bus,
                "message": table.message,
                "source": table.source,
                "signal": signal.name,
                "unit": signal.unit,
                "clock": table.clock,
                "campaign": table.campaign,
                "count": 0,
            },
        )
        row["count"] += len(table)


def _readable(batch: dict[str, Any]) -> Iterator[str]:
    yield batch["file"]
    if "header" in batch:
        yield from _facts(batch)
    for problem in batch["problems"]:
        yield f"  PROBLEM  {problem}"


def _facts(batch: dict[str, Any]) -> Iterator[str]:
    end = "recovered after a cut" if batch["recovered"] else "sealed"
    samples, size = batch["samples"], batch["bytes"]
    each = f", {size / samples:.2f} bytes a sample" if samples else ""
    yield (
        f"  {size:,} bytes, {batch['chunks']:,} chunks, {samples:,} samples{each}; "
        f"{end if batch['sealed'] else 'not sealed'}"
    )
    yield "  header"
    for key, value in batch["header"].items():
        if key != "anchors":
            yield f"    {key}: {_short(value)}"
    records = ", ".join(f"{n:,} {kind}" for kind, n in sorted(batch["records"].items()))
    yield f"  records: {records or 'none'}"
    for anchor in batch["anchors"]:
        yield (
            f"  anchor: {_wall(anchor['wall'])} was {anchor['boot'] / 1e9:.3f} s of boot "
            f"{anchor['boot_id']} ({anchor['quality']})"
        )
    names = [
        (
            f"{s['bus']}.{s['message']}.{s['signal']}"
            + ("" if s["source"] is None else f" from {s['source']}")
        )
        for s in batch["signals"]
    ]
    width = min(max(map(len, names), default=0), 60)
    yield f"  signals: {len(names)}"
    for name, s in zip(names, batch["signals"], strict=True):
        yield f"    {name:<{width}}  {s['count']:>9,}  {s['clock']:<8}  {s['unit']}"
    for entry in batch["ledger"]:
        yield f"  ledger at {entry.get('at')}: {_short({k: entry[k] for k in entry if k != 'at'})}"
    for stone in batch["tombstones"]:
        yield f"  tombstone: {_short(stone)}"


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=_plain)


def _wall(ns: int) -> str:
    import numpy as np

    return f"{np.datetime64(ns, 'ns')}Z"


# export


def _export(args: argparse.Namespace, paths: list[Path]) -> int:
    from agent.batch import BatchReader, read_batch
    from agent.batch.export import Format, export_tables

    formats: dict[str, Format] = {".csv": "csv", ".parquet": "parquet"}
    chosen = formats.get(args.to.suffix.lower())
    if chosen is None:
        raise ConfigError(f"--to {args.to}: the name must end in .csv or .parquet")
    problems: list[str] = []
    good: list[Path] = []
    for path in paths:
        try:
            reader = BatchReader(path)
        except BatchError as e:
            problems.append(str(e))
            continue
        good.append(path)
        problems += _damage(reader)
    tables = read_batch(*good)
    if args.signals:
        tables = _selected(tables, _fits(args.signals))
    samples = export_tables(tables, args.to, chosen)
    if args.json:
        answer = {
            "target": str(args.to),
            "batches": len(good),
            "samples": samples,
            "problems": problems,
        }
        print(json.dumps(answer, ensure_ascii=False, indent=2))
    else:
        for problem in problems:
            _complain(problem)
        print(f"{args.to}: {samples:,} samples from {len(good):,} batches")
        if args.signals and not samples:
            _complain(f"no signal fits {', '.join(args.signals)}")
    return 1 if problems else 0


def _damage(reader: "BatchReader") -> list[str]:
    scan = reader.scan()
    if not scan.bad_chunks and not scan.trailing:
        return []
    text = (
        f"{reader.path}: {scan.bad_chunks} bad chunks beside {scan.chunks} good ones, "
        f"{scan.trailing:,} bytes after the last one; what can be read is exported"
    )
    return [text]


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
