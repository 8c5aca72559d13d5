"""What came from one vehicle, in memory: small, and enough to say what is missing.

A report is known by its time and a checksum of its items, without the signature, which is another
one each time that it is sent. What comes a second time is a copy. Frames of one time with other
items are the parts of one sample (2016 splits great packs), whose cells are joined.
"""

import zlib
from collections import Counter, deque
from typing import Final

import numpy as np

from agent.bench.gbt32960.behaviour import LOGIN, LOGOUT, REALTIME, REPORTS
from agent.bench.gbt32960.gaps import Alarm, Gap, alarms, gaps
from agent.bench.gbt32960.journal import DAMAGED, FRAME, MALFORMED, Entry
from agent.blocks import Int64
from agent.clock import SECOND, WallNs
from agent.gbt32960.codec import GBT2016, GBT2025, Codec, Values, unpack_time
from agent.gbt32960.envelope import Frame
from agent.gbt32960.layout import COMMAND, Code, GbtError
from agent.gbt32960.layout2025 import SIGNATURE_TYPE
from agent.gbt32960.packs import Pack, join_packs

_VEHICLE: Final = 0x01
_OFF: Final = 2
_PARKED_CHARGING: Final = 1
_HIGHEST: Final = 4
_ALARMS: Final = {"2016": 0x07, "2025": 0x06}
_SPLIT_CELLS: Final = 0x08
_REISSUE_SHIFT: Final = 16
_OFF_BIT: Final = 1 << 32
_MOST_COPIES: Final = 0xFFFF
_KEPT: Final = 1000
_KEPT_MALFORMED: Final = 100
_KEPT_BYTES: Final = 64
_MOST_OPEN: Final = 200
_MOST_PARTS: Final = 64


def entry_of(frame: Frame, values: Values | None, arrival: WallNs) -> Entry:
    """What is kept of a frame; `values` are None where it is malformed."""
    data = frame.to_bytes()
    if values is None:
        return Entry(MALFORMED, arrival, data)
    if frame.ack != COMMAND or frame.command not in REPORTS:
        return Entry(FRAME, arrival, data)
    off, level, flags, split = False, 0, 0, False
    body = frame.body
    for item in values["items"]:
        if item.type == _VEHICLE:
            state, charge = item.values["vehicle_state"], item.values["charge_state"]
            off = state == _OFF and charge != _PARKED_CHARGING
        elif item.type == _ALARMS[frame.codec.layout.name]:
            level, flags = item.values["level"], item.values["flags"]
        elif item.type == _SPLIT_CELLS and frame.codec is GBT2016:
            split = _is_split(item.values)
        elif item.type == SIGNATURE_TYPE and frame.codec is GBT2025:
            block = item.values
            body = body[: -6 - len(block["signature_r"]) - len(block["signature_s"])]
    # The codes of "abnormal" and "invalid" are no level.
    level = level if level <= _HIGHEST else 0
    return Entry(FRAME, arrival, data, off, split, level, flags, zlib.crc32(body[6:]))


class VehicleRecord:
    """One vehicle. `take` is given every entry in the order of arrival, also when read again.

    Attributes:
        vin: as it logs in.
        codec: of the edition of its last login.
        counts: frames and what they were, by name.
        logins: (time, serial, arrival) of the last logins.
        malformed: (arrival, reason, first bytes) of the last malformed frames.
        alarm_level: that of the newest report.
    """

    def __init__(self, vin: str) -> None:
        self.vin = vin
        self.codec: Codec = GBT2016
        self.counts: Counter[str] = Counter()
        self.logins: deque[tuple[WallNs, int, WallNs]] = deque(maxlen=_KEPT)
        self.logouts: deque[int] = deque(maxlen=_KEPT)
        self.malformed: deque[tuple[WallNs, str, str]] = deque(maxlen=_KEPT_MALFORMED)
        self.alarm_level = 0
        self.last_arrival: WallNs | None = None
        self._reports: dict[int, int] = {}
        self._alarms: dict[int, tuple[int, int]] = {}
        self._live = 0
        self._newest = 0
        self._latest: list[Frame] = []
        self._open: dict[int, list[Values]] = {}
        self._found: tuple[tuple[float, ...], list[Gap]] | None = None
        """Gaps, and what they were found in: a page asks again and again."""

    @property
    def reports(self) -> int:
        """How many different reports there are; the parts of a sample are a report each."""
        return len(self._reports)

    def take(self, entry: Entry, frame: Frame | None, values: Values | None, wrong: str) -> None:
        """Count one entry.

        Args:
            entry: as it is kept.
            frame: of it; None for bytes that belong to no frame.
            values: of the frame, where it was decoded; a report is kept without them, too.
            wrong: why a malformed frame is malformed.
        """
        self.last_arrival = entry.arrival
        if frame is None or entry.kind == DAMAGED:
            self.counts["bad_frames"] += entry.flags
            return
        self.counts["frames"] += 1
        if entry.kind == MALFORMED:
            self.counts["malformed"] += 1
            shown = entry.frame[:_KEPT_BYTES].hex(" ")
            self.malformed.append((entry.arrival, wrong, shown))
        elif frame.ack != COMMAND:
            self.counts["replies"] += 1
        elif frame.command in REPORTS:
            self._report(entry, frame, values)
        else:
            self.counts[frame.codec.layout.commands[frame.command].name] += 1
            self._other(entry, frame, values)

    def _other(self, entry: Entry, frame: Frame, values: Values | None) -> None:
        if values is None:
            return
        if frame.command == LOGIN:
            self.codec = frame.codec
            self.logins.append((values["time"], values["serial"], entry.arrival))
        elif frame.command == LOGOUT:
            self.logouts.append(values["time"] // SECOND)

    # -- reports -----------------------------------------------------------------------------

    def _report(self, entry: Entry, frame: Frame, values: Values | None) -> None:
        time = unpack_time(frame.body[:6]) // SECOND
        live = frame.command == REALTIME
        key = time << 32 | entry.content
        known = self._reports.get(key)
        seen = known or 0
        shift = 0 if live else _REISSUE_SHIFT
        if (seen >> shift) & _MOST_COPIES < _MOST_COPIES:
            seen += 1 << shift
        self._reports[key] = seen | (_OFF_BIT if entry.off else 0)
        self.counts["live" if live else "reissued"] += 1
        if known is not None:
            self.counts["copies"] += 1
        if live:
            self.counts["disorder"] += time < self._live
            self._live = time
        if entry.level or entry.flags:
            level, flags = self._alarms.get(time, (0, 0))
            self._alarms[time] = (max(level, entry.level), flags | entry.flags)
        if time > self._newest:
            self._newest, self._latest, self.alarm_level = time, [], 0
        if time == self._newest:
            self.alarm_level = max(self.alarm_level, entry.level)
            if known is None and len(self._latest) < _MOST_PARTS:
                self._latest.append(frame)
        if known is None and entry.split:
            self._join(time, values)

    def _join(self, time: int, values: Values | None) -> None:
        """Keep the parts of packs until all of their cells are there."""
        parts = [
            item.values
            for item in (values or {}).get("items", ())
            if item.type == _SPLIT_CELLS and _is_split(item.values)
        ]
        if not parts:
            return
        known = self._open.setdefault(time, [])
        known += parts[: max(0, _MOST_PARTS - len(known))]
        try:
            missing = sum(pack.missing for pack in join_packs(known))
        except GbtError:
            missing = 1
        if not missing:
            del self._open[time]
            self.counts["joined"] += 1
        elif len(self._open) > _MOST_OPEN:
            del self._open[min(self._open)]
            self.counts["not_joined"] += 1

    # -- what is asked -----------------------------------------------------------------------

    @property
    def incomplete(self) -> int:
        """Samples of which cells are missing, but for the newest one, which is still coming."""
        return self.counts["not_joined"] + sum(time < self._newest for time in self._open)

    def _table(self) -> tuple[Int64, Int64]:
        """Times of the reports in order, and what is known of each."""
        n = len(self._reports)
        keys = np.fromiter(self._reports.keys(), np.uint64, n)
        order = np.argsort(keys)
        times = (keys[order] >> np.uint64(32)).astype(np.int64)
        return times, np.fromiter(self._reports.values(), np.int64, n)[order]

    def times(self) -> Int64:
        """Times of all samples, in seconds since 1970, sorted."""
        return np.unique(self._table()[0])

    def gaps(self, period_s: float) -> list[Gap]:
        """Where reports are missing; see `gaps.gaps`."""
        state = (self.reports, self.counts["vehicle_logout"], period_s)
        if self._found is None or self._found[0] != state:
            self._found = (state, self._gaps(period_s))
        return self._found[1]

    def _gaps(self, period_s: float) -> list[Gap]:
        all_times, seen = self._table()
        if not len(all_times):
            return []
        times, first = np.unique(all_times, return_index=True)
        off = np.logical_or.reduceat(seen & _OFF_BIT != 0, first)
        return gaps(times, off, np.array(sorted(self.logouts), np.int64), period_s)

    def alarms(self) -> list[Alarm]:
        """All alarms; see `gaps.alarms`."""
        if not self._alarms:
            return []
        times = self.times()
        levels, flags = np.zeros(len(times), np.int64), np.zeros(len(times), np.int64)
        for time, (level, bits) in self._alarms.items():
            place = np.searchsorted(times, time)
            levels[place], flags[place] = level, bits
        return alarms(times, levels, flags, until_end=self.codec is GBT2025)

    def latest(self) -> tuple[int, list[tuple[Codec, Values]]]:
        """Time of the newest sample, and edition and raw values of its frames."""
        return self._newest, [(frame.codec, frame.decode()) for frame in self._latest]

    def packs(self) -> list[Pack]:
        """The packs of the newest sample with their cells in raw values, joined."""
        frames = [frame for frame in self._latest if frame.codec is GBT2016]
        items = [item for frame in frames for item in frame.decode()["items"]]
        found = [item.values for item in items if item.type == _SPLIT_CELLS]
        try:
            return join_packs(found)
        except GbtError:
            return []


def _is_split(values: Values) -> bool:
    rows = values["packs"]
    return not isinstance(rows, Code) and any(
        not isinstance(row["cells"], Code) and row["total_cells"] > len(row["cells"])
        for row in rows
    )
