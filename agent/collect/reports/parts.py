"""The parts of a sample that are more than single fields: lists, position, alarms, maker items."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Final

from agent.blocks import Float64
from agent.collect.reports.held import Held
from agent.collect.reports.values import Flag, Moment, Series, Term
from agent.gbt32960.sample import Alarms

_FULL_CODE: Final = 0xFFFFFFFF
_LONGITUDE: Final = 180.0
_LATITUDE: Final = 90.0

Fields = dict[str, Term | Series]
ValuesOf = dict[str, float | Float64]


@dataclasses.dataclass(frozen=True, slots=True)
class Numbered:
    """A motor, a pack, a stack."""

    number: int
    fields: Fields

    def at(self, moment: Moment) -> ValuesOf:
        return {"number": float(self.number), **values_at(self.fields, moment)}


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    longitude: Term
    latitude: Term
    valid: Flag | None
    datum: float

    def at(self, moment: Moment, held: Held) -> ValuesOf:
        longitude, latitude = self.longitude.at(moment), self.latitude.at(moment)
        fixed = abs(longitude) <= _LONGITUDE and abs(latitude) <= _LATITUDE  # NaN is not
        if fixed and (self.valid is None or self.valid.at(moment)):
            held.fix = (longitude, latitude)
        else:
            fixed = False
        longitude, latitude = held.fix or (math.nan, math.nan)
        return {
            "longitude": longitude,
            "latitude": latitude,
            "no_fix": float(not fixed),
            "datum": self.datum,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class AlarmsOf:
    level: Term | None
    flags: dict[str, tuple[Flag, int]]
    """With the level of each, 0 for none."""
    faults: dict[str, list[Term]]

    def at(self, moment: Moment) -> Alarms:
        there = {name: level for name, (flag, level) in self.flags.items() if flag.at(moment)}
        levels = {name: level for name, level in there.items() if level}
        highest = float(max(levels.values(), default=0))
        if self.level is not None:
            level = self.level.at(moment)
            # What is not known may be anything from what is known upwards.
            highest = highest or math.nan if math.isnan(level) else max(highest, level)
        codes = {name: _codes(terms, moment) for name, terms in self.faults.items()}
        return Alarms(level=highest, flags=frozenset(there), levels=levels, **codes)


@dataclasses.dataclass(frozen=True, slots=True)
class MakerNumber:
    term: Term
    width: int
    scale: float
    offset: float

    def at(self, moment: Moment) -> bytes:
        """Big-endian; the two highest values mean abnormal and invalid, as elsewhere."""
        invalid = (1 << 8 * self.width) - 1
        value = (self.term.at(moment) - self.offset) / self.scale
        if math.isnan(value):
            raw = invalid
        else:
            raw = round(value) if math.isfinite(value) else -1
            raw = raw if 0 <= raw < invalid - 1 else invalid - 1
        return raw.to_bytes(self.width, "big")


def values_at(fields: Fields, moment: Moment) -> ValuesOf:
    return {name: term.at(moment) for name, term in fields.items()}


def _codes(terms: Sequence[Term], moment: Moment) -> list[int]:
    """The codes of faults that are there, each once."""
    found: dict[int, None] = {}
    for term in terms:
        value = term.at(moment)
        if math.isfinite(value) and 0 < (code := round(value)) <= _FULL_CODE:
            found[code] = None
    return list(found)
