"""Reports to bytes and back; docs/batch-format.md, "reports".

A record holds reports of one form and clock, in the order in which they were kept, and needs no
other record to be read: for each its time, to the nanosecond, and its body as it goes on the wire.
The bodies lie one behind the other. Nothing of them is looked at here; the compressor of the chunk
finds what they have in common.

Times are not rounded, unlike those of samples: by its time a report is known again.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from agent.batch.format import MAX_CHUNK_CONTENT, MAX_RECORD
from agent.batch.words import Cursor, column, unzigzag, whole, zigzag
from agent.blocks import Reports, TimeBase
from agent.errors import BatchError

MAX_REPORT_BYTES = 16 << 20
"""What the reports of one chunk may unpack to, at the most."""
REPORT_BYTES = 64
"""What a report takes in memory beside its body."""

_RECORD = "a reports record"


def reports_bytes(reports: Reports) -> int:
    """What reports take once they are read."""
    return sum(REPORT_BYTES + len(body) for body in reports.bodies)


def joined_reports(parts: Sequence[Reports]) -> Reports:
    """Reports of one form and clock, one after another."""
    if len(parts) == 1:
        return parts[0]
    time = np.concatenate([part.time for part in parts])
    bodies = tuple(body for part in parts for body in part.bodies)
    return Reports(parts[0].form, time, bodies, parts[0].clock)


def chosen_reports(reports: Reports, rows: NDArray[np.bool_]) -> Reports:
    """Those of them for which `rows`, bool[n], is true."""
    bodies = tuple(reports.bodies[row] for row in np.flatnonzero(rows).tolist())
    return Reports(
        reports.form, reports.time[rows], bodies, reports.clock, reports.live, reports.awake
    )


def report_pieces(reports: Reports) -> Iterator[Reports]:
    """In records of a bounded size."""
    ends = np.cumsum([REPORT_BYTES + len(body) for body in reports.bodies])
    if ends[-1] <= MAX_RECORD:
        yield reports
        return
    begin = 0
    while begin < len(reports):
        most = MAX_RECORD + (int(ends[begin - 1]) if begin else 0)
        end = max(begin + 1, int(np.searchsorted(ends, most, side="right")))
        time, bodies = reports.time[begin:end], reports.bodies[begin:end]
        yield Reports(reports.form, time, bodies, reports.clock)
        begin = end


def pack_reports(reports: Reports) -> dict[str, Any]:
    """The map of one reports record; there is at least one report.

    Raises:
        ValueError: they do not fit into a chunk.
    """
    if reports_bytes(reports) > MAX_CHUNK_CONTENT:
        raise ValueError(f"{len(reports)} reports are too long for a chunk")
    lengths = np.array([len(body) for body in reports.bodies], np.uint64)
    return {
        "form": reports.form,
        "clock": reports.clock,
        "n": len(reports),
        "first": int(reports.time[0]),
        "columns": column(zigzag(np.diff(reports.time).view(np.uint64))) + column(lengths),
        "bodies": b"".join(reports.bodies),
    }


def unpack_reports(record: Mapping[str, Any], room: int = MAX_REPORT_BYTES) -> Reports:
    """The reports of one record; they may take `room` bytes in memory.

    Raises:
        BatchError: the record contradicts itself, or is of an impossible size.
    """
    try:
        cursor = Cursor(record["columns"], _RECORD)
        n = whole(record["n"], 1, room // REPORT_BYTES, _RECORD)
        first = whole(record["first"], -(1 << 63), (1 << 63) - 1, _RECORD)
        form, clock, bodies = record["form"], record["clock"], record["bodies"]
    except (KeyError, TypeError, ValueError) as e:
        raise BatchError(f"{_RECORD} lacks a part or has it in the wrong form: {e}") from e
    if not (isinstance(form, str) and isinstance(bodies, bytes) and clock in get_args(TimeBase)):
        raise BatchError(f"{_RECORD} has a form, clock or bodies that are none")
    if n * REPORT_BYTES + len(bodies) > room:
        raise BatchError(f"{_RECORD} says impossible sizes")
    time = np.empty(n, np.int64)
    time[0] = first
    time[1:] = unzigzag(cursor.column(n - 1)).view(np.int64)
    lengths = cursor.column(n)
    cursor.end()
    # Each by itself as well: a sum of huge ones could come out right.
    if int(lengths.max()) > len(bodies) or int(lengths.sum()) != len(bodies):
        raise BatchError(f"{_RECORD} has bodies of another length than it says")
    ends = np.cumsum(lengths).tolist()
    cut = tuple(bodies[a:b] for a, b in zip([0, *ends], ends, strict=False))
    return Reports(form, np.cumsum(time), cut, clock)
