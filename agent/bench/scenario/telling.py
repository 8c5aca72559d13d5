"""What is shown while a scenario runs, for people: short lines and aligned figures."""

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from agent.bench.scenario.arrived import Arrived
from agent.clock import SECOND
from agent.observe.report import size

Say = Callable[[str], None]

_HEAD: Final = ("time", "agent", "frames", "samples kept", "batches sent", "waiting", "bytes each")
_WIDTHS: Final = (6, 8, 9, 12, 12, 15, 10)
_COLUMNS: Final = 96
_INDENT: Final = 8 * " "


class Progress:
    """A table that grows by a row every so often; its head comes with the first row."""

    def __init__(self, say: Say, step_s: float = 2.0) -> None:
        self._say = say
        self._step_s = step_s
        self._next = 0.0
        self._begun = False

    def look(self, passed: float, state: str, status: Mapping[str, Any] | None) -> None:
        """Show a row if it is time for one."""
        if passed < self._next:
            return
        self._next = passed + self._step_s
        if not self._begun:
            self._begun = True
            self._say(_row(_HEAD))
        self._say(_row(_cells(passed, state, status)))


def _cells(passed: float, state: str, status: Mapping[str, Any] | None) -> Iterator[str]:
    yield f"{passed:.0f} s"
    yield state
    if status is None:
        yield from ("-",) * 5
        return
    ledger = status["ledger"]
    uplinks = ledger["uplink"].values()
    yield f"{sum(bus['received'] for bus in ledger['bus'].values()):,}"
    yield f"{sum(row['kept'] for row in uplinks):,}"
    yield f"{sum(sender['sent_batches'] for sender in status['uplinks']):,}"
    lanes = [lane for every in status["spool"]["lanes"].values() for lane in every.values()]
    batches, stored = (sum(lane[key] for lane in lanes) for key in ("batches", "bytes"))
    yield f"{batches} ({size(stored)})" if batches else "-"
    spooled = sum(row["spooled"] for row in uplinks)
    used = sum(row["bytes"] for row in uplinks)
    used += sum(each["durable_bytes"] for each in status["spool"]["open"].values())
    yield f"{used / spooled:.2f}" if spooled else "-"


def _row(cells: Iterable[str]) -> str:
    aligned = (c.rjust(w) for c, w in zip(cells, _WIDTHS, strict=True))
    return "  " + "  ".join(aligned).rstrip()


def campaigns(ledger: Mapping[str, Any]) -> Iterator[str]:
    """What each campaign of a plan has made of what it was offered."""
    rows = ledger["campaign"]
    width = max(map(len, rows), default=8)
    yield f"  {'campaign':{width}}  {'offered':>12}  {'kept':>10}  {'of it':>6}  events"
    for name, row in rows.items():
        offered, kept, count = row["offered"], row["kept"], row.get("events", 0)
        share = f"{kept / offered:.1%}" if offered else "-"
        yield f"  {name:{width}}  {offered:12,}  {kept:10,}  {share:>6}  {count or '-':>6}"


def happened(arrived: Arrived) -> Iterator[str]:
    """Each event that arrived: when, and what fired it or what it amounts to."""
    for event in arrived.events:
        if event.get("kind") in ("trip", "charging"):
            yield from _session(event, arrived.begin)
            continue
        at = (event["time"] - arrived.begin) / SECOND
        why = " ".join(event["expression"].split())
        yield from _wrapped(f"  event {event['name']} at {at:.1f} s: {why}")
        yield from _wrapped(f"{_INDENT}{_window(event)}{_values(event.get('values') or {})}")
    for update in arrived.updates:
        why = f": {update['why']}" if update.get("why") else ""
        yield from _wrapped(f"  update {update.get('bundle') or ''} {update.get('what')}{why}")
    for report in arrived.reports:
        for bus in (report.get("buses") or {}).values():
            if isinstance(bus, Mapping) and bus.get("why"):
                decided = "" if report.get("decided") else " (so far)"
                yield from _wrapped(f"  report: {bus['why']}{decided}")


def _wrapped(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, _COLUMNS, subsequent_indent=_INDENT)


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


def _session(event: Mapping[str, Any], begin: int) -> Iterator[str]:
    """A trip or a charging session with its figures, as far as the plan's signals give them."""
    first, last = ((event[key] - begin) / SECOND for key in ("first", "last"))
    end = "" if event["complete"] else ", when the run ended"
    yield f"  {event['kind']} from {first:.1f} s to {last:.1f} s{end}"
    figures = []
    if event.get("distance_km") is not None:
        figures.append(f"{event['distance_km']:.2f} km")
    if event.get("energy_in_kwh") is not None:
        figures.append(f"{event['energy_in_kwh']:.3f} kWh in, {event['energy_out_kwh']:.3f} out")
    if event.get("soc_first") is not None:
        figures.append(f"charge {event['soc_first']:.2f} to {event['soc_last']:.2f} %")
    if figures:
        yield f"        {', '.join(figures)}"
    for name, unit in (("cell", "V"), ("temperature", "degC")):
        high, low = event.get(f"{name}_max"), event.get(f"{name}_min")
        if high and low:
            yield (
                f"        {name} {high['number']} up to {high['value']:.3f} {unit}, "
                f"{low['number']} down to {low['value']:.3f} {unit}; "
                f"apart by {event[f'{name}_spread_max']:.3f}"
            )


def _short(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def total(arrived: Arrived) -> str:
    """What the cloud has, in one line."""
    each = f", {arrived.stored / arrived.kept:.2f} bytes each" if arrived.kept else ""
    frames = f" and {arrived.frames:,} raw frames" if arrived.frames else ""
    return (
        f"  The cloud has {len(arrived.files)} batches, {size(arrived.stored)}, with "
        f"{arrived.samples:,} samples{frames}{each}."
    )
