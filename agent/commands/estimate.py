"""`edge-agent estimate`: what a plan would cost and find on a recording."""

import argparse
import contextlib
import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.estimate import Estimate

_MB = 1e6
_TOP = 15


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser(
        "estimate",
        help="what a plan would cost, and find, on a recording",
        description="Run a recording through a collection plan and tell what it would upload, by "
        "campaign and signal, what its triggers would find and what would never occur. Exit "
        "status 1 where a campaign keeps nothing.",
    )
    parser.add_argument("log", metavar="LOG", help="candump, asc, blf, trc, mf4, gvret csv")
    parser.add_argument("--plan", type=Path, required=True, metavar="PLAN", help="the plan")
    parser.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help="a device file: uplinks, batch settings"
    )
    parser.add_argument("--bus", metavar="NAME", help="which bus of the plan the recording is")
    parser.add_argument("--channel", metavar="N", help="only this channel of the recording")
    parser.add_argument("--all", action="store_true", help="list every signal, not the costliest")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Estimate and print.

    Raises:
        AgentError: recording, plan, database or device file cannot be used.
    """
    from agent.estimate import estimate
    from agent.ota import build_plan
    from agent.settings import Batch, find, load_device, load_plan

    path = find(args.plan, "config")
    device = load_device(find(args.config, "config")) if args.config else None
    written = load_plan(path)
    buses = [entry.bus for entry in written.database if entry.bus != "*"]
    if device is not None:
        buses = [bus.name for bus in device.bus]
    bus = args.bus or (buses[0] if len(buses) == 1 else "powertrain")
    uplinks = (
        device.receivers
        if device is not None
        else sorted({name for c in written.campaign for name in c.uplinks}) or ["cloud"]
    )
    platforms = (written.gbt32960.uplinks or ["platform"]) if written.gbt32960 is not None else []
    if device is not None:
        platforms = list(device.platforms)
    plan = build_plan(path, buses=[*buses, bus], uplinks=uplinks, platforms=platforms)
    with _quiet():
        found = estimate(
            args.log,
            plan,
            bus=bus,
            channel=args.channel,
            uplinks=uplinks,
            batch=device.batch if device is not None else Batch(),
        )
    if args.json:
        print(json.dumps(_as_json(found)))
    else:
        for line in _lines(found, args.log, plan.name, every=args.all):
            print(line)
    return 1 if any(not c["kept"] for c in found.campaigns.values()) else 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What a run would log is printed in its place."""
    logger = logging.getLogger("edge_agent")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _as_json(found: "Estimate") -> dict[str, Any]:
    whole = dataclasses.asdict(found)
    whole["bytes_an_hour"] = found.an_hour(found.bytes)
    whole["bytes_a_day"] = found.an_hour(found.bytes) * 24
    return whole


def _lines(found: "Estimate", log: str, plan: str, *, every: bool) -> Iterator[str]:
    from agent.observe.report import duration, size, table

    def rates(amount: float) -> tuple[str, str]:
        hour = found.an_hour(amount)
        return f"{hour / _MB:,.2f}", f"{hour * 24 / _MB:,.1f}"

    yield f"{log}: {duration(found.seconds)}, {found.frames:,} frames; plan {plan}"
    yield (
        f"  {found.samples:,} samples in {found.batches:,} batches, {size(found.bytes)}"
        + (f": {found.bytes / found.samples:.2f} bytes a sample" if found.samples else "")
    )
    cpu = found.cpu_s / max(found.seconds, 1.0) * 100
    yield f"  {cpu:.1f} % of a core of this machine, {size(found.ring_bytes)} wait for triggers"
    yield ""
    yield from table(
        [("campaign", "lane", "signals", "kept", "events", "MB/h", "MB/day")]
        + [
            (
                name,
                row["lane"],
                f"{row['signals']:,}",
                f"{row['kept']:,}",
                f"{row['events']:,}" if row["trigger"] else "-",
                *rates(row["bytes"]),
            )
            for name, row in found.campaigns.items()
        ]
        + [("all of it", "", "", f"{found.samples:,}", "", *rates(found.bytes))]
    )
    for name, told in found.platforms.items():
        yield (
            f"{told['reports']:,} reports to {name}: {rates(told['bytes'])[0]} MB/h in frames of "
            "their own"
        )
    signals = sorted(found.signals.items(), key=lambda item: -item[1]["bytes"])
    shown = signals if every else signals[:_TOP]
    if shown:
        yield ""
        rows: list[tuple[str, ...]] = [("signal, about", "samples", "MB/h", "MB/day")]
        rows += [(name, f"{row['samples']:,}", *rates(row["bytes"])) for name, row in shown]
        yield from table(rows)
    if len(shown) < len(signals):
        yield f"  ... and {len(signals) - len(shown):,} more (--all)"
    for event in found.events[:_TOP]:
        values = ", ".join(
            f"{name} = {value if isinstance(value, str) else format(value, '.6g')}"
            for name, value in event["values"].items()
        )
        yield f"event {event['name']} at {event['time'] / 1e9:.3f} s: {values}"
    if len(found.events) > _TOP:
        yield f"  ... and {len(found.events) - _TOP:,} more events"
    if found.never:
        few = ", ".join(found.never if every else found.never[:_TOP])
        more = "" if every or len(found.never) <= _TOP else ", ..."
        yield f"{len(found.never):,} signals never occur: {few}{more}"
