"""The raw values that a signal may have, of the range that its file states.

A range is a pair minimum < maximum, in the unit of the signal. It is made one of raw values here,
with a tolerance of a millionth of a step for what decimal fractions lose. Raw values that are codes
or have a name are in no range and are right. What holds all that the bits can say is no range.
"""

import math
from fractions import Fraction
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.blocks import SignalSchema

_STEP: Final = Fraction(1, 1_000_000)


class Range(NamedTuple):
    """The raw values of a signal that are right; None where nothing is too low, or too high."""

    low: int | float | None
    high: int | float | None


def range_of(signal: SignalSchema) -> Range | None:
    """What a signal's raw values must be; None where they can be anything."""
    low, high, scale = signal.minimum, signal.maximum, signal.scale
    if low is None or high is None or not low < high or not scale or signal.kind == "bytes":
        return None
    if not all(map(math.isfinite, (low, high, scale, signal.offset))):
        return None
    step, offset = _exact(scale), _exact(signal.offset)
    ends = sorted(((_exact(low) - offset) / step, (_exact(high) - offset) / step))
    if signal.kind not in ("int64", "uint64"):
        slack = _STEP * (ends[1] - ends[0])
        try:
            return Range(float(ends[0] - slack), float(ends[1] + slack))
        except OverflowError:
            return None
    first, last = math.ceil(ends[0] - _STEP), math.floor(ends[1] + _STEP)
    half = 1 << (signal.bits - 1)
    least, most = (-half, half - 1) if signal.kind == "int64" else (0, 2 * half - 1)
    if first > most or last < least:
        return None  # nothing could be right: the range is not one of this signal
    too_low = first > least and not _excused(signal, least, first - 1)
    too_high = last < most and not _excused(signal, last + 1, most)
    if not too_low and not too_high:
        return None
    return Range(first if too_low else None, last if too_high else None)


def _exact(number: float) -> Fraction:
    """The decimal number that was written in the file."""
    return Fraction(repr(number))


def _excused(signal: SignalSchema, first: int, last: int) -> bool:
    """Whether all raw values from first to last are codes or have names."""
    spans = sorted(
        [(a, b) for a, b, _ in signal.codes] + [(value, value) for value, _ in signal.choices]
    )
    for begin, end in spans:
        if begin > first:
            break
        first = max(first, end + 1)
    return first > last


class Check(NamedTuple):
    """A signal with a range."""

    name: str
    schema: SignalSchema
    range: Range
    named: NDArray[Any] | None
    """Raw values with names, in the type of the column."""

    @classmethod
    def of(cls, message: str, schema: SignalSchema, limits: Range) -> "Check":
        named = None
        if schema.choices and schema.kind in ("int64", "uint64"):
            info = np.iinfo(schema.kind)
            inside = [v for v, _ in schema.choices if info.min <= v <= info.max]
            named = np.array(inside, schema.kind)
        return cls(f"{message}.{schema.name}", schema, limits, named)

    def wrong(self, raw: NDArray[Any]) -> NDArray[np.intp]:
        """The places of raw values that are out of the range."""
        bad = np.zeros(len(raw), bool)
        if self.range.low is not None:
            bad |= raw < self.range.low
        if self.range.high is not None:
            bad |= raw > self.range.high
        places = np.flatnonzero(bad)
        values = raw[places]
        right = self.schema.code_of(values) >= 0
        if self.named is not None:
            right |= np.isin(values, self.named)
        return places[~right]
