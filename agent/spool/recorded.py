"""Rows of recordings, which may be read much faster than they were made.

They are chunked and sealed by their own time: a run at any speed gives what a vehicle would have
sent, and `edge-agent estimate` can tell it beforehand.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from agent.batch.reports import chosen_reports
from agent.blocks import Event, Int64, Kept, KeptFrames, Reports, SignalTable

_Rows = SignalTable | KeptFrames | Reports
Span = tuple[int, int]
"""The least and the greatest time of a recording, ns."""


def span_of(kept: Iterable[Kept]) -> Span | None:
    """From when to when rows of recordings reach; None where there are none."""
    times = [each for each in map(_times, kept) if each is not None]
    if not times:
        return None
    return min(int(t.min()) for t in times), max(int(t.max()) for t in times)


def joined(a: Span | None, b: Span | None) -> Span | None:
    if a is None or b is None:
        return a or b
    return min(a[0], b[0]), max(a[1], b[1])


def length(span: Span | None) -> int:
    """In ns; 0 where there is none."""
    return 0 if span is None else span[1] - span[0]


def by_time(kept: list[Kept], interval_ns: int) -> Iterator[tuple[bool, list[Kept]]]:
    """What one chunk takes, each with whether it is the last."""
    span = span_of(kept)
    if span is None or 2 * length(span) <= 3 * interval_ns:
        yield True, kept
        return
    parts: dict[int, list[Kept]] = {}
    for each in kept:
        times = _times(each)
        if times is None or isinstance(each, Event):
            parts.setdefault(span[1] // interval_ns, []).append(each)
            continue
        cells = times // interval_ns
        for cell in np.unique(cells).tolist():
            rows = cells == cell
            parts.setdefault(cell, []).append(each if rows.all() else _rows(each, rows))
    for place, cell in enumerate(sorted(parts)):
        yield place == len(parts) - 1, parts[cell]


def _times(kept: Kept) -> Int64 | None:
    """Times of rows that are those of a recording."""
    if isinstance(kept, Event) or not len(kept):
        return None
    rows = kept.block if isinstance(kept, KeptFrames) else kept
    return rows.time if rows.clock == "recorded" else None


def _rows(kept: _Rows, rows: NDArray[np.bool_]) -> _Rows:
    if isinstance(kept, SignalTable):
        return kept.take(rows)
    if isinstance(kept, Reports):
        return chosen_reports(kept, rows)
    return KeptFrames(kept.block[rows], kept.campaign)
