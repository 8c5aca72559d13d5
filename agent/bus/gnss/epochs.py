"""Reports of a receiver (sentences, gpsd's objects) joined into epochs.

A receiver measures a few times a second and then tells the result in a burst of reports. Some carry
the time of day of the measurement and say whether there was a fix (RMC, GGA, GNS, GLL, TPV): they
make an epoch. Others (GSA, VTG, GSV, SKY) say no time and belong to the burst in which they come. A
ZDA only adds a date.

An epoch ends

- with a report of another time of day, or with one that this epoch has had already,
- where a time is not known, half a second after its first report,
- after a silence (`quiet`), so that at one epoch a second nobody waits a second for the row.

A receiver that pauses within its burst shows itself: after the silence comes what belongs to the
epoch that was just closed. That report is dropped, and from then on silence is no end any more,
until ten epochs came without such a pause.

Reports without a time that come before the first one with a time join it if there was a silence
before them; on a line that is never silent they join the epoch before.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

from agent.clock import SECOND, BootNs, WallNs

_KNOWN_WITHOUT_FIX: Final = ("FixMode", "SatellitesUsed")
_APART_NS: Final = SECOND // 2
_PATIENCE_EPOCHS: Final = 10


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """When bytes came: boot time of the read, and of the start of their transmission.

    `began` may be late by what nobody can know, and early by no more than 20 ms, which drivers hold
    bytes back; None where the reader itself was late.
    """

    read: BootNs
    began: BootNs | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What one sentence or object says. Values are raw, by names of signals."""

    kind: str
    """Who says what, such as GNRMC."""
    makes_epoch: bool = False
    repeats: bool = False
    """An epoch may have several of this kind, each fuller than the last."""
    at: int | None = None
    """Of which moment, in nanoseconds of whatever zero this receiver uses."""
    fixed: bool = False
    values: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Measurements, if the epoch has a fix at all."""
    fallback: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """The same where no other report of the epoch says it better."""
    largest: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Known without a fix too; one report a constellation, the largest counts."""
    in_view: int | None = None
    utc: WallNs | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Epoch:
    """What a receiver said of one moment; a value that is missing was not available."""

    mark: Mark
    values: Mapping[str, int]
    in_view: int | None
    utc: WallNs | None
    """The receiver's date and time, if it had a fix; as the receiver tells it."""


class Joiner:
    """Reports in the order in which they came -> epochs. Never raises."""

    def __init__(self) -> None:
        self._open = _Burst()
        self._closed: _Burst | None = None  # by silence, and nothing has begun since
        self._patience = 0  # epochs for which silence is no end
        self._paused = False
        self._date: Report | None = None  # a ZDA; it may come before the epoch that it dates

    def add(self, report: Report, mark: Mark) -> list[Epoch]:
        """The epoch that this report ends, if it ends one."""
        if not report.makes_epoch:
            if report.utc is not None:
                self._date = report
            self._open.join(report)
            return []
        if self._closed is not None and self._closed.had_more(report):
            self._patience = _PATIENCE_EPOCHS
            return []
        ended: list[Epoch] = []
        if self._open.ends_with(report, mark):
            ended = self._close()
            self._patience = max(0, self._patience - 1)
        elif self._paused and self._open.mark is not None:
            self._patience = _PATIENCE_EPOCHS  # it paused again, and goes on
        self._paused = False
        self._closed = None
        if self._open.mark is None:
            self._open.mark = mark
        self._open.join(report)
        if self._date is not None and self._date.at == report.at:
            self._open.join(self._date)
        else:
            self._date = None  # not to be met by the same time of another day
        return ended

    def quiet(self) -> list[Epoch]:
        """Nothing has come for a while: the epoch that is now complete."""
        if self._patience:
            self._paused = True
            return []
        if self._open.mark is not None:
            self._closed = self._open
        return self._close()

    def end(self) -> list[Epoch]:
        """Nothing will come any more: the epoch in hand."""
        return self._close()

    def _close(self) -> list[Epoch]:
        burst, self._open = self._open, _Burst()
        epoch = burst.epoch()
        return [] if epoch is None else [epoch]


class _Burst:
    """The reports of one epoch so far."""

    def __init__(self) -> None:
        self.mark: Mark | None = None
        self._at: int | None = None
        self._kinds: set[str] = set()
        self._fixed = False
        self._values: dict[str, int] = {}
        self._fallback: dict[str, int] = {}
        self._largest: dict[str, int] = {}
        self._in_view: dict[str, int] = {}
        self._utc: WallNs | None = None
        self._date: WallNs | None = None

    def ends_with(self, report: Report, mark: Mark) -> bool:
        if self.mark is None:
            return False
        if self._at is None or report.at is None:
            apart = mark.read - self.mark.read >= _APART_NS
        else:
            apart = self._at != report.at
        return apart or (report.kind in self._kinds and not report.repeats)

    def had_more(self, report: Report) -> bool:
        """Whether a report that comes after the end belongs here."""
        same = report.at is not None and report.at == self._at
        return same and (report.repeats or report.kind not in self._kinds)

    def join(self, report: Report) -> None:
        if report.makes_epoch:
            self._kinds.add(report.kind)
            self._at = report.at if self._at is None else self._at
            self._fixed = self._fixed or report.fixed
            self._utc = self._utc if report.utc is None else report.utc
        elif report.utc is not None and report.at == self._at:
            self._date = report.utc
        self._values.update(report.values)
        self._fallback.update(report.fallback)
        for name, value in report.largest.items():
            self._largest[name] = max(value, self._largest.get(name, value))
        if report.in_view is not None:
            # A constellation with several signals tells its satellites once for each.
            known = self._in_view.get(report.kind, 0)
            self._in_view[report.kind] = max(report.in_view, known)

    def epoch(self) -> Epoch | None:
        if self.mark is None:
            return None
        if self._fixed:
            values = {**self._fallback, **self._values, **self._largest}
            utc = self._date if self._utc is None else self._utc
        else:
            known = {n: v for n, v in self._largest.items() if n in _KNOWN_WITHOUT_FIX}
            values, utc = {"FixQuality": 0, **known}, None
        in_view = sum(self._in_view.values()) if self._in_view else None
        return Epoch(self.mark, values, in_view, utc)
