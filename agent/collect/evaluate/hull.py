"""What each signal can be in a span: its held value and the extremes of its samples.

`physical` never falls where raw values rise, or never rises (each of its roundings keeps the
order), so the extremes of the raw values give those of the physical ones exactly. Where whole
arithmetic is used instead, the bounds are widened by more than float arithmetic can be off.
"""

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, Int64
from agent.collect.evaluate.program import Program
from agent.collect.evaluate.slots import Base
from agent.collect.evaluate.span import Span

_LEAST, _GREATEST = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)
_SLACK = 1e-15
"""Relative; three roundings are off by less than 4e-16."""

Bools = NDArray[np.bool_]


class Look(NamedTuple):
    """What some signals can be, as `Hull` has it of all."""

    low: Float64
    high: Float64
    known: Bools
    unknown: Bools


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Hull:
    """Arrays by slot."""

    low: Float64
    high: Float64
    """Physical; never NaN."""
    known: Bools
    """Whether the signal can have a value."""
    unknown: Bools
    """Whether it can be unknown."""
    least: Int64
    greatest: Int64
    """Raw, of whole numbers; meaningless for others."""
    constant: Bools
    """Whether the raw value is surely the same throughout."""
    touched: Bools
    """Whether there are samples."""

    def look(self, slots: Int64) -> Look:
        return Look(self.low[slots], self.high[slots], self.known[slots], self.unknown[slots])


class Hulls:
    def __init__(self, program: Program) -> None:
        schemas = [s.schema for s in program.signals]
        whole = schemas[: program.whole]
        self._slots = len(schemas)
        self._whole = slice(0, program.whole)
        self._floats = slice(program.whole, program.whole + program.floats)
        self._scale, self._offset = program.scale, program.offset
        self._wide = _places(s.kind == "uint64" and s.bits > 63 for s in whole)
        self._widened = _places(
            s.needs_whole_arithmetic or (s.kind == "uint64" and s.bits > 63) for s in whole
        )
        self._vague = _places(s.kind == "uint64" and s.bits > 63 and bool(s.codes) for s in whole)
        """Slots of which the codes are not looked at: they may be anything."""
        coded = [
            (slot, max(first, _LEAST), min(last, _GREATEST))
            for slot, s in enumerate(whole)
            for first, last, _ in s.codes
            if first <= _GREATEST and last >= _LEAST
        ]
        columns = np.array(coded, np.int64).reshape(-1, 3).T.copy()
        self._coded, self._first, self._last = columns

    def of(self, base: Base, span: Span) -> Hull:
        seen = base.seen
        touched = np.zeros(self._slots, bool)
        least = np.where(seen, base.raw, _GREATEST)
        greatest = np.where(seen, base.raw, _LEAST)
        for cut in span.cuts:
            if len(slots := cut.whole.slot):
                a, b = cut.whole.extremes()
                if cut.distinct:
                    least[slots] = np.minimum(least.take(slots), a)
                    greatest[slots] = np.maximum(greatest.take(slots), b)
                else:
                    np.minimum.at(least, slots, a)
                    np.maximum.at(greatest, slots, b)
                touched[slots] = True
        constant = (least == greatest) | ~touched
        low: Float64 = np.zeros(self._slots)
        high: Float64 = np.zeros(self._slots)
        known, unknown = seen | touched, ~seen
        self._scale_whole(least, greatest, low, high)
        self._look_for_codes(least, greatest, known, unknown)
        floats = self._floats
        if floats.stop > floats.start:
            low[floats], high[floats], constant[floats], anything = self._of_floats(base, span)
            unknown[floats] |= anything
            for cut in span.cuts:
                touched[cut.floats.slot] = True
            known[floats] = seen[floats] | touched[floats]
        if floats.stop < self._slots:
            for cut in span.cuts:
                touched[cut.texts.slot] = True
            texts = slice(floats.stop, None)
            known[texts], constant[texts] = seen[texts] | touched[texts], ~touched[texts]
        if not known.all():
            low[~known] = high[~known] = 0
        return Hull(low, high, known, unknown, least, greatest, constant, touched)

    def _scale_whole(self, least: Int64, greatest: Int64, low: Float64, high: Float64) -> None:
        whole = self._whole
        a, b = least[whole].astype(np.float64), greatest[whole].astype(np.float64)
        for slot in self._wide.tolist():
            if least[slot] < 0 <= greatest[slot]:  # bits of numbers on both sides of 2**63
                a[slot], b[slot] = 0.0, 2.0**64
            elif least[slot] < 0:
                a[slot], b[slot] = a[slot] + 2.0**64, b[slot] + 2.0**64
        scale, offset = self._scale[whole], self._offset[whole]
        a, b = a * scale + offset, b * scale + offset
        np.minimum(a, b, out=low[whole])
        np.maximum(a, b, out=high[whole])
        if len(widened := self._widened):
            slack = np.maximum(np.abs(low[widened]), np.abs(high[widened]))
            slack = (slack + np.abs(offset[widened])) * _SLACK
            low[widened] -= slack
            high[widened] += slack

    def _look_for_codes(self, least: Int64, greatest: Int64, known: Bools, unknown: Bools) -> None:
        slots = self._coded
        if len(slots):
            a, b = least[slots], greatest[slots]
            unknown[slots[(self._first <= b) & (self._last >= a)]] = True
            known[slots[(self._first <= a) & (self._last >= b)]] = False
        if len(self._vague):
            unknown[self._vague] = True
            known[self._vague] = True

    def _of_floats(self, base: Base, span: Span) -> tuple[Float64, Float64, Bools, Bools]:
        """Of float slots: the bounds, whether they are constant, whether they can be anything."""
        floats, seen = self._floats, base.seen
        held = base.raw.view(np.float64)
        odd = ~np.isfinite(held) & seen
        least = np.where(seen & ~odd, held, np.inf)
        greatest = np.where(seen & ~odd, held, -np.inf)
        touched = np.zeros(self._slots, bool)
        for cut in span.cuts:
            if len(slots := cut.floats.slot):
                a, b = cut.floats.extremes()
                np.fmin.at(least, slots, a)
                np.fmax.at(greatest, slots, b)
                np.logical_or.at(odd, slots, cut.floats.odd())
                touched[slots] = True
        least, greatest, touched = least[floats], greatest[floats], touched[floats]
        scale, offset = self._scale[floats], self._offset[floats]
        a, b = least * scale + offset, greatest * scale + offset
        # With infinite or NaN among the values, or too great ones, it may be anything.
        anything = odd[floats] | ~np.isfinite(a) | ~np.isfinite(b)
        low = np.where(anything, -np.inf, np.minimum(a, b))
        high = np.where(anything, np.inf, np.maximum(a, b))
        # -0.0 and 0.0 are other bits, and NaN has many.
        constant = ~touched | ((least == greatest) & (least != 0) & ~anything)
        return low, high, constant, anything


def _places(which: Iterable[bool]) -> NDArray[np.intp]:
    return np.fromiter(which, bool).nonzero()[0]
