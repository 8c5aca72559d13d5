"""A plain page for a browser: which vehicles there are, and whether their data is complete."""

from collections.abc import Mapping, Sequence
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

_COLUMNS = ("Vehicle", "Complete", "Batches", "Samples", "Bytes", "Last received", "Ask")


def landing(vehicles: Sequence[Mapping[str, Any]]) -> str:
    """The page at `/`; everything that came from outside is escaped."""
    heads = "".join(f'<th scope="col">{name}</th>' for name in _COLUMNS)
    rows = "".join(_row(v) for v in vehicles)
    body = (
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        if vehicles
        else "<p>No batch has arrived yet.</p>"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Vehicle data</title><style>{_STYLE}</style></head>"
        f"<body><h1>Vehicle data</h1>{body}</body></html>\n"
    )


def _row(vehicle: Mapping[str, Any]) -> str:
    name = escape(vehicle["vehicle"])
    good = "yes" if vehicle["complete"] else "no"
    links = " ".join(
        f'<a href="/v1/vehicles/{name}/{what}">{what}</a>'
        for what in ("completeness", "latest", "batches")
    )
    numbers = "".join(
        f'<td class="number">{vehicle[key]:,}</td>' for key in ("batches", "samples", "bytes")
    )
    return (
        f'<tr><th scope="row">{name}</th>'
        f'<td><span class="{good}">{good}</span><br>{escape(vehicle["verdict"])}</td>'
        f"{numbers}<td>{escape(vehicle['last_received'] or '')}</td><td>{links}</td></tr>"
    )
