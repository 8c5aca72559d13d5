"""Policies as they are defined, one sample at a time: slow and obvious."""

import dataclasses
import math
import struct
from typing import Any

import numpy as np

from agent.blocks import SignalSchema, TableSchema
from agent.collect.rules import AGGREGATES, Rule

SeriesKey = tuple[str, str, int | None, str]
Bits = int | bytes


@dataclasses.dataclass(frozen=True)
class Sample:
    """One value of one signal: an int, a float (float32 ones are representable) or bytes."""

    table: TableSchema
    signal: SignalSchema
    time: int
    raw: Any

    @property
    def series(self) -> SeriesKey:
        return (self.table.bus, self.table.message, self.table.source, self.signal.name)

    @property
    def bits(self) -> Bits:
        return bits_of(self.raw, self.signal.kind)

    @property
    def physical(self) -> float:
        return float(self.signal.physical(np.array([self.raw], self.signal.kind))[0])

    @property
    def valid(self) -> bool:
        """No code."""
        if self.signal.kind not in ("int64", "uint64"):
            return True
        return not any(first <= self.raw <= last for first, last, _ in self.signal.codes)

    @property
    def on(self) -> bool:
        return self.signal.kind != "bytes" and self.valid and math.isfinite(self.physical)


def bits_of(raw: Any, kind: str) -> Bits:
    if kind == "float64":
        return int.from_bytes(struct.pack("<d", raw), "little")
    if kind == "float32":
        return int.from_bytes(struct.pack("<f", raw), "little")
    return raw if kind == "bytes" else int(raw)


class Thinning:
    """What one series keeps; `kept` is in the order of decisions."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.kept: list[Sample] = []
        self.offered = 0
        self._before: Sample | None = None
        self._listed = False

    def take(self, sample: Sample) -> None:
        self.offered += 1
        rule, before = self.rule, self._before
        entry = sample.table.entries
        if rule.kind == "every" and entry and before is not None and before.time == sample.time:
            keep = self._listed
        elif rule.kind == "all" or before is None or (entry and rule.kind != "every"):
            keep = True
        elif rule.kind == "every":
            keep = sample.time // rule.interval_ns != before.time // rule.interval_ns
        elif rule.kind == "on_change":
            keep = sample.bits != before.bits or self._old(sample)
        else:
            keep = self._far(sample, before) or self._old(sample)
        self._listed = keep
        self._before = sample
        if keep:
            self.kept.append(sample)

    def _old(self, sample: Sample) -> bool:
        at_least = self.rule.at_least_ns
        return at_least > 0 and sample.time - self.kept[-1].time >= at_least

    def _far(self, sample: Sample, before: Sample) -> bool:
        """Too far from what was kept last, for a dead band."""
        last = self.kept[-1]
        if sample.on != last.on:
            return True
        if not sample.on:
            return sample.bits != last.bits
        bound = self.rule.bound
        if self.rule.kind == "dead_band_relative":
            bound = abs(last.physical) * bound
        return abs(sample.physical - last.physical) > bound

    def finish(self) -> None:
        """Nothing is held here."""


class DoorThinning(Thinning):
    """The swinging door, which looks at all samples since the anchor again and again."""

    def __init__(self, rule: Rule) -> None:
        super().__init__(rule)
        self._since: list[Sample] = []
        """The anchor, which was kept last, and all after it; the last of these is held."""

    def take(self, sample: Sample) -> None:
        self.offered += 1
        if sample.table.entries:
            self.kept.append(sample)
            return
        before, self._before = self._before, sample
        if before is None:
            self._keep(sample)
        elif before.on and sample.on and self._goes_on(sample.time - before.time):
            if not self._reaches(sample):
                self._keep(before)
            if self._old(sample):
                self._keep(sample)
            else:
                self._since.append(sample)
        elif before.on != sample.on or sample.on:
            self.finish()
            self._keep(sample)
        elif before.bits != sample.bits or self._old(sample):
            self._keep(sample)

    def _goes_on(self, since: int) -> bool:
        """Whether a line goes on to a sample that is so much later."""
        at_least = self.rule.at_least_ns
        return since > 0 and (at_least == 0 or since < at_least)

    def _keep(self, sample: Sample) -> None:
        self.kept.append(sample)
        self._since = [sample]

    def _reaches(self, sample: Sample) -> bool:
        """Whether a line from the anchor to this is near all between."""
        anchor, *between = self._since
        slope = _slope(anchor, sample)
        bound = self.rule.bound
        return all(_slope(anchor, s, -bound) <= slope <= _slope(anchor, s, bound) for s in between)

    def finish(self) -> None:
        if len(self._since) > 1:
            self._keep(self._since[-1])


def _slope(a: Sample, b: Sample, off: float = 0.0) -> float:
    return (b.physical - a.physical + off) / (b.time - a.time)


class Windowing:
    """The windows of one series: [(window, aggregates by name)]."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self._floor: int | None = None
        self._open: int | None = None
        self._samples: list[Sample] = []

    def take(self, sample: Sample) -> None:
        window = sample.time // self.rule.interval_ns
        late = [w for w in (self._open, self._floor) if w is not None]
        window = max([window, *late])
        if self._open is not None and window != self._open:
            self.close()
        self._open = window
        self._samples.append(sample)

    def reach(self, time: int) -> None:
        """The bus has reached a time."""
        now = time // self.rule.interval_ns
        if self._open is not None and self._open < now:
            self.close()
        self._floor = now if self._floor is None else max(now, self._floor)

    def close(self) -> None:
        if self._open is None:
            return
        valid = [s for s in self._samples if s.valid and not _is_nan(s.raw)]
        if valid:
            figures = _figures(valid)
            wanted = self.rule.aggregates or AGGREGATES
            chosen = {name: value for name, value in figures.items() if name in wanted}
            self.rows.append((self._open * self.rule.interval_ns, chosen))
        self._floor = max(self._floor or self._open + 1, self._open + 1)
        self._open, self._samples = None, []


def _is_nan(raw: Any) -> bool:
    return isinstance(raw, float) and math.isnan(raw)


def _figures(valid: list[Sample]) -> dict[str, Any]:
    """By aggregate: bits."""
    signal = valid[0].signal
    raws = [sample.raw for sample in valid]
    figures: dict[str, Any] = {"last": valid[-1].bits, "count": len(raws)}
    if signal.kind == "bytes":
        return figures
    # -0.0 is below 0.0.
    ordered = sorted(raws, key=lambda raw: (raw, math.copysign(1, raw)))
    low, high = bits_of(ordered[0], signal.kind), bits_of(ordered[-1], signal.kind)
    figures["min"], figures["max"] = (low, high) if signal.scale >= 0 else (high, low)
    total: Any = 0 if isinstance(raws[0], int) else 0.0
    for raw in raws:
        total += raw
    mean = float(total) / len(raws) * float(signal.scale) + float(signal.offset)
    figures["mean"] = "nan" if math.isnan(mean) else bits_of(mean, "float64")
    return figures
