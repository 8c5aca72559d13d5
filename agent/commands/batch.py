"""`edge-agent batch`: look into batches, and get samples, raw frames and reports out."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import BatchError, ConfigError

if TYPE_CHECKING:
    from agent.blocks import KeptFrames, Reports, SignalTable


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser("batch", help="look into batches, export what they hold")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="what batches hold, and whether they are whole")
    show.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a batch or a folder")
    show.add_argument("--json", action="store_true", help="print JSON")
    export = actions.add_parser(
        "export",
        help="write samples to CSV or Parquet, raw frames to a recording, reports to JSON lines",
        description="The name of the target decides. CSV and Parquet: one row a sample. Raw frames "
        "as candump (.log), Vector (.asc, .blf) or ASAM MDF 4 (.mf4), in the order of time. "
        "Reports to a platform as JSON (.jsonl), one a line, decoded. "
        "Batches of one boot are dated together.",
    )
    export.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a batch or a folder")
    export.add_argument(
        "--to",
        required=True,
        type=Path,
        metavar="OUT",
        help="the target: .csv or .parquet; .log, .asc, .blf or .mf4; .jsonl",
    )
    export.add_argument(
        "--signals",
        action="append",
        metavar="GLOB",
        help="only these: Signal, Message.Signal or bus.Message.Signal, with * and ?; repeatable",
    )
    export.add_argument(
        "--event",
        metavar="EVENT",
        help="only what belongs to this event: its id, or a name for all events of that name",
    )
    export.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """0 good, 1 something in the batches is wrong.

    Raises:
        ConfigError: a file that is not there, or a target that cannot be written.
    """
    from agent.commands.batch_export import export

    paths = _batches(args.files)
    return _show(args, paths) if args.action == "show" else export(args, paths)


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
    from agent.batch.dated import dated_event, dated_reports
    from agent.batch.windows import newest
    from agent.clock import best_anchor

    reader = BatchReader(path)
    scan = reader.scan()
    boot_id = str(reader.header.get("boot_id", ""))
    anchors = reader.anchors()
    anchor = best_anchor(anchors, boot_id)
    records: dict[str, int] = {}
    others: dict[str, list[Any]] = {}
    signals: dict[tuple[Any, ...], dict[str, Any]] = {}
    frames: dict[tuple[Any, ...], dict[str, Any]] = {}
    reports: dict[tuple[str, str], dict[str, Any]] = {}
    events = []
    samples = 0
    for kind, value in reader.records():
        records[kind] = records.get(kind, 0) + 1
        if kind == "samples":
            _count(signals, value)
            samples += value.samples
        elif kind == "frames":
            _count_frames(frames, value)
            samples += value.samples
        elif kind == "reports":
            _count_reports(reports, dated_reports(value, anchor))
            samples += value.samples
        elif kind == "event":
            if (event := dated_event(value, anchor)) is not None:
                events.append((event, boot_id))
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
        "anchors": [_anchor_json(a) for a in anchors],
        "signals": sorted(
            signals.values(), key=lambda s: (s["bus"], s["message"], s["source"] or 0, s["signal"])
        ),
        "frames": [
            {**row, "ids": len(row["ids"])}
            for row in sorted(frames.values(), key=lambda f: (f["bus"], f["campaign"]))
        ],
        "reports": [reports[key] for key in sorted(reports)],
        "events": [event for event, _ in newest(events)],
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


def _count_frames(frames: dict[tuple[Any, ...], dict[str, Any]], kept: "KeptFrames") -> None:
    block = kept.block
    row = frames.setdefault(
        (block.bus, kept.campaign, block.clock),
        {
            "bus": block.bus,
            "campaign": kept.campaign,
            "clock": block.clock,
            "count": 0,
            "ids": set(),
        },
    )
    row["count"] += len(kept)
    row["ids"].update(block.id.tolist())


def _count_reports(rows: dict[tuple[str, str], dict[str, Any]], reports: "Reports") -> None:
    first, last = int(reports.time.min()), int(reports.time.max())
    row = rows.setdefault(
        (reports.form, reports.clock),
        {
            "form": reports.form,
            "clock": reports.clock,
            "count": 0,
            "bytes": 0,
            "first": first,
            "last": last,
        },
    )
    row["count"] += len(reports)
    row["bytes"] += sum(map(len, reports.bodies))
    row["first"], row["last"] = min(first, row["first"]), max(last, row["last"])


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
    for row in batch["frames"]:
        ids = "1 id" if row["ids"] == 1 else f"{row['ids']:,} ids"
        of = f" for {row['campaign']}" if row["campaign"] else ""
        yield f"  raw frames of {row['bus']}: {row['count']:,} with {ids}, {row['clock']}{of}"
    for row in batch["reports"]:
        first, last = (_moment(row[end], row["clock"]) for end in ("first", "last"))
        yield (
            f"  reports of {row['form']}: {row['count']:,} with {row['bytes']:,} bytes, "
            f"{first} to {last}"
        )
    for event in batch["events"]:
        yield from _event(event)
    for entry in batch["ledger"]:
        yield f"  ledger at {entry.get('at')}: {_short({k: entry[k] for k in entry if k != 'at'})}"
    for stone in batch["tombstones"]:
        yield f"  tombstone: {_short(stone)}"


def _event(event: dict[str, Any]) -> Iterator[str]:
    """What happened, when, and what belongs to it."""
    clock = event["clock"]
    parts = [f"{event.get('kind')} {event.get('name')}"]
    if event.get("expression"):
        parts.append(_short(event["expression"]))
    if not event.get("complete", True):
        parts.append("not complete")
    yield f"  event: {_moment(event['time'], clock)}  {': '.join(parts)}"
    if event.get("id"):
        yield f"    id: {_short(event['id'])}"
    if isinstance(event.get("first"), int):
        last = event.get("last")
        end = _moment(last, clock) if isinstance(last, int) else "still under way"
        yield f"    window: {_moment(event['first'], clock)} to {end}"
    values = event.get("values")
    for name, value in values.items() if isinstance(values, dict) else ():
        yield f"    {name} = {_short(value)}"
    missing = event.get("missing")
    for part in missing if isinstance(missing, list) else ():
        if isinstance(part, list) and len(part) == 3 and isinstance(part[0], int):
            times = " to ".join(_moment(t, clock) for t in part[:2] if isinstance(t, int))
            yield f"    missing: {times}: {_short(part[2])}"
    rest = {k: v for k, v in event.items() if k not in _TOLD}
    if rest:
        yield f"    {_short(rest)}"


_TOLD = (
    *("kind", "name", "time", "clock", "campaign", "id", "first", "last", "complete"),
    *("expression", "values", "missing"),
)


def _moment(ns: int, clock: str) -> str:
    return _wall(ns) if clock == "wall" else f"{ns / 1e9:.3f} s ({clock})"


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=_plain)


def _wall(ns: int) -> str:
    import numpy as np

    return f"{np.datetime64(ns, 'ns')}Z"
