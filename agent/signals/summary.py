"""Figures of each signal of a recording: what `edge-agent decode --summary` prints."""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.blocks import ERROR, EXTENDED, ID_BITS, REMOTE, FrameBlock, SignalSchema, SignalTable
from agent.signals.decoder import Counts


@dataclasses.dataclass(slots=True)
class _Figures:
    schema: SignalSchema
    count: int = 0
    raw_sum: int = 0
    raw_min: int | None = None
    raw_max: int | None = None
    sum: float = 0.0
    min: float = math.inf
    max: float = -math.inf
    first_ns: int | None = None
    last_ns: int = 0
    not_valid: int = 0

    def add(self, time: NDArray[np.int64], raw: NDArray[Any], physical: Any) -> None:
        self.count += len(time)
        if self.schema.codes:
            self.not_valid += int(np.count_nonzero(self.schema.validity(raw)))
        first, last = int(time.min()), int(time.max())
        self.first_ns = first if self.first_ns is None else min(first, self.first_ns)
        self.last_ns = last if self.count == len(time) else max(last, self.last_ns)
        if self.schema.kind in ("int64", "uint64"):
            low, high = int(raw.min()), int(raw.max())
            self.raw_min = low if self.raw_min is None else min(low, self.raw_min)
            self.raw_max = high if self.raw_max is None else max(high, self.raw_max)
            self.raw_sum += _exact_sum(raw)
        if physical is not None:
            finite = physical[np.isfinite(physical)]
            with np.errstate(over="ignore"):
                self.sum += float(finite.sum())
            if len(finite):
                self.min = min(self.min, float(finite.min()))
                self.max = max(self.max, float(finite.max()))

    def as_json(self) -> dict[str, Any]:
        whole = self.schema.kind in ("int64", "uint64")
        number = self.schema.kind != "bytes" and self.min <= self.max
        return {
            "count": self.count,
            "raw_sum": self.raw_sum if whole else None,
            "raw_min": self.raw_min if whole else None,
            "raw_max": self.raw_max if whole else None,
            "sum": self.sum if number and math.isfinite(self.sum) else None,
            "min": self.min if number else None,
            "max": self.max if number else None,
            "first_time": _seconds(self.first_ns),
            "last_time": _seconds(self.last_ns),
        }


def _exact_sum(raw: NDArray[Any]) -> int:
    """The sum of 64-bit integers, which 64 bits may not hold."""
    high = (raw >> raw.dtype.type(32)).sum(dtype=raw.dtype)
    low = (raw & raw.dtype.type(0xFFFF_FFFF)).sum(dtype=raw.dtype)
    return (int(high) << 32) + int(low)


def _seconds(ns: int | None) -> float | None:
    return None if ns is None else ns / 1e9


class Summary:
    """Adds up blocks and tables."""

    def __init__(self, *, by_source: bool = False) -> None:
        self._by_source = by_source
        self._figures: dict[str, _Figures] = {}
        self._unknown: dict[int, int] = {}
        self._first_ns: int | None = None
        self._last_ns: int | None = None
        self.frames = 0
        self.counts = Counts()
        """What became of the frames; set by the caller when all are read."""

    def note(self, block: FrameBlock, known: NDArray[np.bool_]) -> None:
        """Count a block's frames, times and the ids that no database knows."""
        self.frames += len(block)
        first, last = int(block.time.min()), int(block.time.max())
        self._first_ns = first if self._first_ns is None else min(first, self._first_ns)
        self._last_ns = last if self._last_ns is None else max(last, self._last_ns)
        plain = (block.id & np.uint32(REMOTE | ERROR)) == 0
        ids, counts = np.unique(block.id[plain & ~known], return_counts=True)
        for number, count in zip(ids.tolist(), counts.tolist(), strict=True):
            self._unknown[number] = self._unknown.get(number, 0) + count

    def add(self, tables: Iterable[SignalTable]) -> None:
        for table in tables:
            source = f"@{table.source:#04x}" if self._by_source and table.source is not None else ""
            for signal in table.schema.signals:
                name = f"{table.message}.{signal.name}{source}"
                figures = self._figures.get(name)
                if figures is None:
                    figures = self._figures[name] = _Figures(signal)
                physical = None if signal.kind == "bytes" else table.physical(signal.name)
                figures.add(table.time, table.raw[signal.name], physical)

    def commonest_ids(self, n: int) -> list[str]:
        """The ids that no database knows, the commonest first: `7E8`, `18FEF100x`."""
        common = sorted(self._unknown.items(), key=lambda item: (-item[1], item[0]))[:n]
        return [f"{i & ID_BITS:X}{'x' if i & EXTENDED else ''}" for i, _ in common]

    def frames_json(self) -> dict[str, Any]:
        """Totals of the recording, for programs."""
        return {
            "frames": self.frames,
            "decoded_frames": self.counts.decoded,
            "unknown_frames": self.counts.unknown,
            "undecodable_frames": self.counts.undecodable,
            "remote_or_error_frames": self.counts.remote + self.counts.error,
            "first_time": _seconds(self._first_ns),
            "last_time": _seconds(self._last_ns),
        }

    def as_json(self) -> dict[str, Any]:
        """Totals and signals: times in seconds, raw figures exact, physical ones in the unit."""
        return {
            **self.frames_json(),
            "signals": {name: f.as_json() for name, f in sorted(self._figures.items())},
        }

    def frames_line(self) -> str:
        c = self.counts
        share = 100 * c.decoded / self.frames if self.frames else 0
        parts = [f"{self.frames:,} frames", f"{c.decoded:,} decoded ({share:.1f} %)"]
        parts += [
            f"{count:,} {what}"
            for count, what in (
                (c.transport, "parts of longer messages"),
                (c.reassembled, "messages put together from these and decoded"),
                (c.transport_lost, "longer messages incomplete"),
                (c.unknown, "not in the database"),
                (c.undecodable, "undecodable"),
                (c.remote, "remote"),
                (c.error, "error frames"),
                (c.no_branch, "with a multiplexer value without a branch"),
                (c.short, "shorter than the database says"),
            )
            if count
        ]
        return ", ".join(parts)

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        yield self.frames_line()
        if self._first_ns is not None and self._last_ns is not None:
            span = (self._last_ns - self._first_ns) / 1e9
            yield f"from {self._first_ns / 1e9:.6f} s, {span:.3f} s long"
        if self._unknown and self.counts.decoded:
            yield f"commonest unknown ids: {', '.join(self.commonest_ids(8))}"
        if not self._figures:
            return
        width = max(len(name) for name in self._figures)
        yield f"{'signal'.ljust(width)}  {'count':>9}  {'min':>12}  {'mean':>12}  {'max':>12}  unit"
        for name, f in sorted(self._figures.items()):
            if f.min <= f.max:
                cells = (f"{v:>12.6g}" for v in (f.min, f.sum / f.count, f.max))
            else:
                cells = (f"{'-':>12}" for _ in range(3))
            numbers = "  ".join(cells)
            codes = f"  ({f.not_valid:,} not valid)" if f.not_valid else ""
            yield f"{name.ljust(width)}  {f.count:>9,}  {numbers}  {f.schema.unit}{codes}".rstrip()
