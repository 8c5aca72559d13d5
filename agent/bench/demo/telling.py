"""What the demo prints, for people: short lines and aligned figures."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, Final

from agent.bench.demo.arrived import Arrived
from agent.clock import SECOND
from agent.observe.report import size

_HEAD: Final = ("time", "link", "frames", "samples kept", "batches sent", "waiting", "bytes each")
_WIDTHS: Final = (6, 4, 9, 12, 12, 15, 10)
_COLUMNS: Final = 96
_INDENT: Final = 8 * " "


def say(text: str = "") -> None:
    print(text, flush=True)  # noqa: T201 - the demo talks to a person, and only here


def title(number: int, text: str) -> None:
    say()
    say(f"== {number}. {text}")


def note(text: str) -> None:
    say(f"  {text}")


def process(name: str, pid: int, text: str) -> None:
    say(f"  {name:8} pid {pid}: {text}")


def progress_head() -> None:
    say(_row(_HEAD))


def progress(passed: float, status: Mapping[str, Any], *, up: bool) -> None:
    (bus,) = status["ledger"]["bus"].values()
    (uplink,) = status["ledger"]["uplink"].values()
    (sender,) = status["uplinks"]
    lanes = status["spool"]["lanes"].get(sender["name"], {}).values()
    waiting = sum(lane["batches"] for lane in lanes), sum(lane["bytes"] for lane in lanes)
    spooled, stored = uplink["spooled"], uplink["bytes"]
    stored += sum(o["durable_bytes"] for o in status["spool"]["open"].values())
    cells = (
        f"{passed:.0f} s",
        "up" if up else "DOWN",
        f"{bus['received']:,}",
        f"{uplink['kept']:,}",
        f"{sender['sent_batches']:,}",
        f"{waiting[0]} ({size(waiting[1])})" if waiting[0] else "-",
        f"{stored / spooled:.2f}" if spooled else "-",
    )
    say(_row(cells))


def _row(cells: Iterable[str]) -> str:
    return "  " + "  ".join(c.rjust(w) for c, w in zip(cells, _WIDTHS, strict=True)).rstrip()


def campaigns(ledger: Mapping[str, Any]) -> None:
    """What each campaign of a plan has made of what it was offered."""
    rows = ledger["campaign"]
    width = max(map(len, rows))
    say(f"  {'campaign':{width}}  {'offered':>12}  {'kept':>10}  {'of it':>6}  events")
    for name, row in rows.items():
        offered, kept, events = row["offered"], row["kept"], row.get("events", 0)
        share = f"{kept / offered:.1%}" if offered else "-"
        say(f"  {name:{width}}  {offered:12,}  {kept:10,}  {share:>6}  {events or '-':>6}")


def events(arrived: Arrived) -> None:
    """Each event that arrived: when, and what fired it or what it amounts to."""
    for event in arrived.events:
        if event.get("kind") in ("trip", "charging"):
            _session(event, arrived.begin)
            continue
        at = (event["time"] - arrived.begin) / SECOND
        _wrapped(f"  event {event['name']} at {at:.1f} s: {' '.join(event['expression'].split())}")
        _wrapped(f"{_INDENT}{_window(event)}{_values(event.get('values') or {})}")
    for report in arrived.reports:
        for bus in (report.get("buses") or {}).values():
            _wrapped(f"  report: {bus['why']}" + ("" if report.get("decided") else " (so far)"))


def _wrapped(text: str) -> None:
    for line in textwrap.wrap(text, _COLUMNS, subsequent_indent=_INDENT):
        say(line)


def _window(event: Mapping[str, Any]) -> str:
    """How much was kept around the moment."""
    first, last, moment = event["first"], event["last"], event["time"]
    text = f"kept {(moment - first) / SECOND:.0f} s before"
    if last is not None:
        text += f" and {(last - moment) / SECOND:.0f} s after"
    missing = len(event.get("missing") or ())
    return text + (f", of which {missing} parts are missing" if missing else "")


def _values(values: Mapping[str, Any]) -> str:
    shown = [f"{name.rsplit('.', 1)[-1]} = {_short(value)}" for name, value in values.items()]
    return f"; {', '.join(shown[:3])}" if shown else ""


def _session(event: Mapping[str, Any], begin: int) -> None:
    """A trip or a charging session with its figures, as far as the plan's signals give them."""
    first, last = ((event[key] - begin) / SECOND for key in ("first", "last"))
    end = "" if event["complete"] else ", when the run ended"
    say(f"  {event['kind']} from {first:.1f} s to {last:.1f} s{end}")
    figures = []
    if event.get("distance_km") is not None:
        figures.append(f"{event['distance_km']:.2f} km")
    if event.get("energy_in_kwh") is not None:
        figures.append(f"{event['energy_in_kwh']:.3f} kWh in, {event['energy_out_kwh']:.3f} out")
    if event.get("soc_first") is not None:
        figures.append(f"charge {event['soc_first']:.2f} to {event['soc_last']:.2f} %")
    if figures:
        say(f"        {', '.join(figures)}")
    for name, unit in (("cell", "V"), ("temperature", "degC")):
        high, low = event.get(f"{name}_max"), event.get(f"{name}_min")
        if high and low:
            say(
                f"        {name} {high['number']} up to {high['value']:.3f} {unit}, "
                f"{low['number']} down to {low['value']:.3f} {unit}; "
                f"apart by {event[f'{name}_spread_max']:.3f}"
            )


def _short(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def total(arrived: Arrived) -> None:
    each = f", {arrived.stored / arrived.kept:.2f} bytes each" if arrived.kept else ""
    frames = f" and {arrived.frames:,} raw frames" if arrived.frames else ""
    say(
        f"  The cloud has {len(arrived.files)} batches, {size(arrived.stored)}, with "
        f"{arrived.samples:,} samples{frames}{each}."
    )
