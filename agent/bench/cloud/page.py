"""A plain page for a browser: which vehicles there are, and whether their data is complete."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { border-bottom: 1px solid #ccc; padding: .4rem .8rem; text-align: left }
th, td { vertical-align: top }
td.number { text-align: right; white-space: nowrap }
.yes { color: #060 } .no { color: #a00; font-weight: bold }
"""

_COLUMNS = ("Vehicle", "Complete", "Plan", "Batches", "Samples", "Bytes", "Last received", "Ask")
_OF_EVENTS = ("Time", "Vehicle", "What", "Why", "Values")
_OF_UPDATES = ("Time", "Vehicle", "What", "Bundle", "Why")
_LONGEST = 200
"""Characters of what an event says."""


def landing(
    vehicles: Sequence[Mapping[str, Any]],
    events: Sequence[Mapping[str, Any]],
    updates: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page at `/`; everything that came from outside is escaped."""
    body = _table(_COLUMNS, map(_row, vehicles)) if vehicles else "<p>No batch has arrived yet.</p>"
    if updates:
        body += f"<h2>Latest updates</h2>{_table(_OF_UPDATES, map(_update, updates))}"
    if events:
        body += f"<h2>Latest events</h2>{_table(_OF_EVENTS, map(_event, events))}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Vehicle data</title><style>{_STYLE}</style></head>"
        f"<body><h1>Vehicle data</h1>{body}</body></html>\n"
    )


def _table(columns: Iterable[str], rows: Iterable[str]) -> str:
    heads = "".join(f'<th scope="col">{name}</th>' for name in columns)
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _event(row: Mapping[str, Any]) -> str:
    event = row["event"]
    what = " ".join(str(event[key]) for key in ("kind", "name") if event.get(key))
    if event.get("requested") is True:
        what += ", by request"
    if event.get("complete") is False:
        what += ", not complete"
    values = event.get("values")
    said = "; ".join(f"{k} = {v}" for k, v in values.items()) if isinstance(values, dict) else ""
    return _cells(row["time"], row["vehicle"], what, event.get("expression") or "", said)


def _update(row: Mapping[str, Any]) -> str:
    return _cells(row["time"] or "", *(row[k] for k in ("vehicle", "what", "bundle", "why")))


def _cells(*cells: object) -> str:
    texts = (escape(str(cell)[:_LONGEST]) for cell in cells)
    return f"<tr>{''.join(f'<td>{text}</td>' for text in texts)}</tr>"


def _plan(vehicle: Mapping[str, Any]) -> str:
    """Which plan it runs, and in which bundle that came."""
    bundle = "factory" if vehicle["bundle"] is None else f"bundle {vehicle['bundle']}"
    texts = (escape(text[:_LONGEST]) for text in (vehicle["plan"], bundle))
    return "<br>".join(texts) if vehicle["plan"] or vehicle["bundle"] else ""


def _row(vehicle: Mapping[str, Any]) -> str:
    name = escape(vehicle["vehicle"])
    good = "yes" if vehicle["complete"] else "no"
    links = " ".join(
        f'<a href="/v1/vehicles/{name}/{what}">{what}</a>'
        for what in ("completeness", "latest", "events", "updates", "batches")
    )
    numbers = "".join(
        f'<td class="number">{vehicle[key]:,}</td>' for key in ("batches", "samples", "bytes")
    )
    return (
        f'<tr><th scope="row">{name}</th>'
        f'<td><span class="{good}">{good}</span><br>{escape(vehicle["verdict"])}</td>'
        f"<td>{_plan(vehicle)}</td>"
        f"{numbers}<td>{escape(vehicle['last_received'] or '')}</td><td>{links}</td></tr>"
    )
