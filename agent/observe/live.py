"""The newest value of each signal of a bus, for a table that is looked at.

Blocks and tables are taken as they come; what is shown is worked out when it is asked for, a few
times a second, whatever the bus does. Of a table only the last row is kept.

Rates are those of the last seconds, by the times of the samples; of what has fallen silent they
sink. A signal that is in several branches of a multiplexer, or in
long and short frames, is one line: its newest value, and all its samples.
"""

import collections
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.blocks import (
    ERROR,
    EXTENDED,
    ID_BITS,
    REMOTE,
    FrameBlock,
    SignalSchema,
    SignalTable,
    TableSchema,
)
from agent.clock import SECOND

_TICKS: Final = 10
"""Rates are over so many calls of `tick` that brought something new."""
_LEAST_NAME: Final = 14
_BESIDE_NAME: Final = 46
MOST_UNKNOWN: Final = 4096
"""Different ids that are told apart; what comes beyond is counted as one."""


@dataclasses.dataclass(slots=True)
class Line:
    """One signal: what is known of it."""

    name: str
    """`Message.Signal`, with `@0x17` behind it for a J1939 source address."""
    unit: str
    value: float | None = None
    """Physical; None where it is not a finite number, or bytes."""
    text: str = ""
    """As a person reads it: the name of a state, a number with its digits, bytes."""
    time: int = 0
    count: int = 0
    rate: float = 0.0
    """Samples a second."""
    counts: collections.deque[tuple[int, int]] = dataclasses.field(
        default_factory=lambda: collections.deque(maxlen=_TICKS + 1)
    )

    def as_json(self, now: int) -> dict[str, Any]:
        """For programs."""
        return {
            "value": self.value,
            "text": self.text,
            "unit": self.unit,
            "rate": round(self.rate, 3),
            "age_s": round(max(0, now - self.time) / SECOND, 3),
            "count": self.count,
        }


class Live:
    """The table. One thread at a time; times are of the clock of the blocks, nanoseconds."""

    def __init__(self) -> None:
        self.frames = 0
        self.frame_rate = 0.0
        self.known = 0
        """Frames whose id a database has."""
        self._lines: dict[tuple[str, int | None, str], Line] = {}
        self._fresh: dict[TableSchema, tuple[SignalTable, int, int]] = {}
        """The last row, how many there were, and the time of the first, since the last tick."""
        self._unknown: dict[int, int] = {}
        self._unknown_rest = 0
        self._frame_counts: collections.deque[tuple[int, int]] = collections.deque(
            maxlen=_TICKS + 1
        )
        self._newest = 0

    def note(self, block: FrameBlock, known: NDArray[np.bool_]) -> None:
        """Count the frames of a block; `known` bool[n] says which ids a database has."""
        if not len(block):
            return
        if not self._frame_counts:
            self._frame_counts.append((int(block.time[0]), 1))
        self._newest = int(block.time[-1])
        self.frames += len(block)
        self.known += int(np.count_nonzero(known))
        plain = (block.id & np.uint32(REMOTE | ERROR)) == 0
        ids, counts = np.unique(block.id[plain & ~known], return_counts=True)
        for number, count in zip(ids.tolist(), counts.tolist(), strict=True):
            if number in self._unknown or len(self._unknown) < MOST_UNKNOWN:
                self._unknown[number] = self._unknown.get(number, 0) + count
            else:
                self._unknown_rest += count

    def add(self, table: SignalTable) -> None:
        """Take the samples of a table."""
        if len(table):
            before = self._fresh.get(table.schema)
            count, first = before[1:] if before else (0, int(table.time[0]))
            self._fresh[table.schema] = _last_row(table), count + len(table), first

    def tick(self, now: int) -> None:
        """Bring lines and rates up to date; to be called at even distances."""
        for table, count, first in self._fresh.values():
            for signal in table.schema.signals:
                key = table.message, table.source, signal.name
                line = self._lines.get(key)
                if line is None:
                    source = "" if table.source is None else f"@{table.source:#04x}"
                    name = f"{table.message}.{signal.name}{source}"
                    line = self._lines[key] = Line(name, signal.unit)
                    line.counts.append((first, 1))
                line.count += count
                if (time := int(table.time[-1])) >= line.time:
                    line.time = time
                    line.value, line.text = _told(signal, table.raw[signal.name])
        self._fresh.clear()
        for line in self._lines.values():
            line.rate = _rate(line.counts, line.time, line.count, now)
        if self._frame_counts:
            self.frame_rate = _rate(self._frame_counts, self._newest, self.frames, now)

    def lines(self) -> list[Line]:
        """By name."""
        return sorted(self._lines.values(), key=lambda line: line.name)

    def unknown(self) -> dict[str, int]:
        """Ids that no database has, such as `7E8` or `18FEF100x`, the commonest first -> frames."""
        common = sorted(self._unknown.items(), key=lambda item: (-item[1], item[0]))
        found = {f"{i & ID_BITS:X}{'x' if i & EXTENDED else ''}": n for i, n in common}
        return found | ({"others": self._unknown_rest} if self._unknown_rest else {})

    def rows(self, now: int, columns: int = 100) -> Iterator[str]:
        """The table without its head; where it is to be narrow, names lose their beginning."""
        lines = self.lines()
        room = max(_LEAST_NAME, columns - _BESIDE_NAME)
        width = min(room, max((len(line.name) for line in lines), default=_LEAST_NAME))
        for line in lines:
            age = _age(max(0, now - line.time) / SECOND)
            yield (
                f"{_end(line.name, width):{width}}  {line.text[:16]:>16} {line.unit[:8]:8} "
                f"{line.rate:>7.1f}/s {age:>7}"
            )
        for number, count in self.unknown().items():
            yield f"{'id ' + number:{width}}  {count:>16,} frames, in no database"


def _last_row(table: SignalTable) -> SignalTable:
    """A copy, so that nothing of the rest is kept."""
    return SignalTable(
        table.schema,
        table.time[-1:].copy(),
        {kind: array[:, -1:].copy() for kind, array in table.values.items()},
        tuple(payload[-1:].copy() for payload in table.payloads),
    )


def _rate(counts: collections.deque[tuple[int, int]], time: int, count: int, now: int) -> float:
    """Of the last seconds: (time of a sample, how many there were with it), the newest last."""
    if count > counts[-1][1]:
        counts.append((time, count))
    (then, before), (newest, last) = counts[0], counts[-1]
    if last <= before or newest <= then:
        return 0.0
    period = (newest - then) / (last - before)
    end = max(newest, now - 2 * max(period, SECOND / 2))
    return (last - before) * SECOND / (end - then)


def _told(signal: SignalSchema, raw: NDArray[Any]) -> tuple[float | None, str]:
    if signal.kind == "bytes":
        return None, bytes(raw[0]).hex()
    physical = float(signal.physical(raw)[0])
    value = physical if math.isfinite(physical) else None
    if signal.kind in ("int64", "uint64"):
        word = dict(signal.choices).get(int(raw[0]))
        if word is not None:
            return value, word
        code = int(signal.code_of(raw)[0])
        if code >= 0:
            return value, signal.codes[code][2]
    return value, _digits(physical, signal)


def _digits(value: float, signal: SignalSchema) -> str:
    """As many digits behind the point as the scale has."""
    if not math.isfinite(value) or signal.kind in ("float32", "float64"):
        return f"{value:.6g}"
    step = f"{signal.scale:.6f}".rstrip("0")
    places = len(step.partition(".")[2])
    return f"{value:.{places}f}" if abs(value) < 1e12 and signal.scale >= 1e-6 else f"{value:.6g}"


def _end(name: str, width: int) -> str:
    """The signal stands at the end of a name."""
    return name if len(name) <= width else f"…{name[len(name) - width + 1 :]}"


def _age(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.0f} min"
