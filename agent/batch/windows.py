"""What belongs to an event: the rows of its campaign, from its first moment to its last one."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.batch.dated import Path, dated_event, is_time, opened
from agent.batch.reader import BatchReader
from agent.batch.reports import chosen_reports
from agent.blocks import Int64, KeptFrames, Reports, SignalTable, TimeBase
from agent.errors import ConfigError

_MOST = (1 << 63) - 1

Told = tuple[dict[str, Any], str]
"""An event and the boot of the batch that tells it."""
_Key = tuple[str, str, str]
"""Clock, boot (of times that count from one) and campaign."""


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """The time of one event; `campaign` is empty where it is of no campaign."""

    event: dict[str, Any]
    boot_id: str
    first: int
    last: int

    @property
    def campaign(self) -> str:
        campaign = self.event.get("campaign")
        return campaign if isinstance(campaign, str) else ""


def find(paths: Sequence[Path], wanted: str) -> list[Window]:
    """The windows of the event with this id, or of all events of this name.

    Of one that is told several times, what was told last counts. One that is still under way has
    no end.

    Raises:
        ConfigError: there is none, or it covers no time.
        BatchError: a file is no batch, or of a newer format.
    """
    told: list[Told] = []
    for reader, anchor in opened(paths):
        boot_id = str(reader.header.get("boot_id", ""))
        for kind, value in reader.records():
            event = dated_event(value, anchor) if kind == "event" else None
            if event is not None and wanted in (event.get("id"), event.get("name")):
                told.append((event, boot_id))
    windows = [window for each in newest(told) if (window := _window(*each)) is not None]
    if not windows:
        what = "covers no time" if told else "is not in these batches"
        raise ConfigError(f"the event {wanted} {what}; `edge-agent batch show` lists the events")
    return windows


def newest(told: Iterable[Told]) -> list[Told]:
    """Each event once, as it was told last, in the order in which they were told first."""
    found: dict[tuple[str, str], Told] = {}
    for event, boot_id in told:
        key = str(event.get("name")), str(event.get("id", f"{boot_id} {event['time']}"))
        if key not in found or found[key][0].get("complete") is not True:
            found[key] = event, boot_id
    return list(found.values())


def _window(event: dict[str, Any], boot_id: str) -> Window | None:
    first, last = event.get("first"), event.get("last")
    if not is_time(first):
        return None
    return Window(event, boot_id, first, last if is_time(last) else _MOST)


class Within:
    """Lets through what lies in any of some windows."""

    def __init__(self, windows: Iterable[Window]) -> None:
        self._windows: dict[_Key, list[Window]] = {}
        for window in windows:
            clock: TimeBase = window.event["clock"]
            key = (clock, _boot(clock, window.boot_id), window.campaign)
            self._windows.setdefault(key, []).append(window)

    def tables(self, reader: BatchReader, tables: Iterable[SignalTable]) -> Iterable[SignalTable]:
        """Of one file, dated."""
        for table in tables:
            rows = self._rows(reader, table.clock, table.campaign, table.time)
            if rows.any():
                yield table if rows.all() else table.take(rows)

    def frames(self, reader: BatchReader, frames: Iterable[KeptFrames]) -> Iterable[KeptFrames]:
        """Of one file, dated."""
        for each in frames:
            rows = self._rows(reader, each.block.clock, each.campaign, each.block.time)
            if rows.any():
                yield each if rows.all() else KeptFrames(each.block[rows], each.campaign)

    def reports(self, reader: BatchReader, reports: Iterable[Reports]) -> Iterable[Reports]:
        """Of one file, dated. They are of no campaign."""
        for each in reports:
            rows = self._rows(reader, each.clock, "", each.time)
            if rows.any():
                yield each if rows.all() else chosen_reports(each, rows)

    def _rows(
        self, reader: BatchReader, clock: TimeBase, campaign: str, time: Int64
    ) -> NDArray[np.bool_]:
        boot = _boot(clock, str(reader.header.get("boot_id", "")))
        inside = np.zeros(len(time), bool)
        for name in {campaign, ""}:
            for window in self._windows.get((clock, boot, name), ()):
                inside |= (time >= window.first) & (time <= window.last)
        return inside


def _boot(clock: TimeBase, boot_id: str) -> str:
    return boot_id if clock == "boot" else ""
