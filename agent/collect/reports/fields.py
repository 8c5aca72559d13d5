"""The fields that a plan can map, read from the layouts of both editions of GB/T 32960.3.

A field has the unit, the range and the words that an edition gives it; where the editions differ,
what one of them allows is allowed. The keys are those of agent/settings/gbt32960_mapping.py.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from agent.collect.expression.labels import fold
from agent.errors import ConfigError
from agent.gbt32960 import layout2016, layout2025
from agent.gbt32960.layout import Edition, Field, Kind, Number, Part, Rows

EDITIONS: Final[tuple[Edition, ...]] = (2016, 2025)

_TABLES: Final[Mapping[str, Mapping[Edition, tuple[Kind, ...]]]] = {
    "vehicle": {2016: (layout2016.VEHICLE,), 2025: (layout2025.VEHICLE,)},
    "motor": {2016: (layout2016.MOTORS,), 2025: (layout2025.MOTORS,)},
    "engine": {2016: (layout2016.ENGINE,), 2025: (layout2025.ENGINE,)},
    "fuel_cell": {2016: (layout2016.FUEL_CELL,), 2025: (layout2025.FUEL_CELL,)},
    "position": {2016: (layout2016.POSITION,), 2025: (layout2025.POSITION,)},
    "extremes": {2016: (layout2016.EXTREMES,)},
    "alarms": {2016: (layout2016.ALARMS,), 2025: (layout2025.ALARMS,)},
    "pack": {
        2016: (layout2016.CELL_VOLTAGES, layout2016.TEMPERATURES),
        2025: (layout2025.PACK_VOLTAGES, layout2025.PACK_TEMPERATURES),
    },
    "stack": {2025: (layout2025.STACKS,)},
    "supercapacitor": {2025: (layout2025.SUPERCAPACITOR,)},
}
"""What each table of a plan speaks of."""

_ROWS: Final = frozenset({"motors", "packs", "stacks"})
"""Lists of things that have tables of their own."""
_MADE: Final = frozenset(
    {"number", "total_cells", "first_cell", "status", "alarm_levels", "gear_invalid"}
)
"""Fields that follow from others."""
_RENAMED: Final[Mapping[tuple[str, Edition, str], str]] = {
    # The editions measure it in mg/kg and in % by volume, which are not the same quantity.
    ("fuel_cell", 2025, "hydrogen_concentration_max"): "hydrogen_concentration_volume"
}
_ALIASES: Final[Mapping[str, str]] = {"park": "p", "drive": "d", "reverse": "r"}
"""Of the layout's words for gears."""


@dataclasses.dataclass(frozen=True)
class FieldSpec:
    """What may be the value of a field.

    Attributes:
        numbers: as the editions have it; for a list, those of its entries.
        editions: which have it.
    """

    name: str
    numbers: tuple[Number, ...]
    editions: frozenset[Edition]

    @property
    def unit(self) -> str:
        return self.numbers[0].unit if self.numbers else ""

    @functools.cached_property
    def words(self) -> Mapping[str, float]:
        """The standard's words, folded."""
        found = {fold(text): float(raw) for n in self.numbers for raw, text in n.labels.items()}
        return found | {alias: found[word] for alias, word in _ALIASES.items() if word in found}

    @property
    def is_state(self) -> bool:
        """Whether only numbers with a meaning of their own are allowed."""
        return bool(self.numbers) and all(n.labels and n.high is None for n in self.numbers)

    def word(self, text: str) -> float | None:
        """The number of a word; None for what is none."""
        return self.words.get(fold(text.replace("_", " ")))

    def constant(self, written: float | str) -> float:
        """A number that a plan gives the field.

        Raises:
            ConfigError: it is no word of the field, or out of range in every edition.
        """
        if isinstance(written, str):
            found = self.word(written)
            if found is None:
                raise ConfigError(f'"{written}" is not a word of this field; {self.allowed()}')
            return found
        if self.numbers and not any(_in_range(number, written) for number in self.numbers):
            raise ConfigError(f"{written} is out of range; {self.allowed()}")
        return float(written)

    def allowed(self) -> str:
        """What may be written."""
        texts = []
        for number in self.numbers:
            parts = []
            if number.range is not None:
                low, high = (raw / number.steps + number.offset for raw in number.range)
                parts.append(f"{low:.10g} to {high:.10g} {number.unit}".rstrip())
            parts += [f'{raw} "{text}"' for raw, text in number.labels.items()]
            texts.append(", ".join(parts))
        return "allowed: " + ", or ".join(dict.fromkeys(texts))


ANY: Final = FieldSpec("", (), frozenset(EDITIONS))
"""A field of a maker: any number in any unit."""


@functools.cache
def fields_of(table: str) -> Mapping[str, FieldSpec]:
    """The fields of a table of the plan, in the order of the layouts."""
    found: dict[str, FieldSpec] = {}
    for edition, kinds in _TABLES[table].items():
        for name, number in (pair for kind in kinds for pair in _numbers(kind.fields)):
            key = _RENAMED.get((table, edition, name), name)
            before = found.get(key)
            numbers = (*before.numbers, number) if before else (number,)
            editions = (before.editions if before else frozenset()) | {edition}
            found[key] = FieldSpec(key, numbers, editions)
    return MappingProxyType(found)


def editions_of(table: str) -> frozenset[Edition]:
    """The editions that know of a table at all."""
    return frozenset(_TABLES[table])


@functools.cache
def flags_of(edition: Edition) -> tuple[str, ...]:
    """The names of the general alarms."""
    (kind,) = _TABLES["alarms"][edition]
    return tuple(part.name for field in kind.fields for part in getattr(field, "parts", ()))


def _numbers(fields: tuple[Field, ...]) -> Iterator[tuple[str, Number]]:
    for field in fields:
        match field:
            case Rows(name=name, row=tuple(row)) if name in _ROWS:
                yield from _numbers(row)
            case Rows(name=name, row=Number() as row) if name not in _MADE:
                yield name, row
            case Number(name="flags"):
                pass
            case Number(parts=parts) if parts and field.name not in _MADE:
                for part in parts:
                    if part.name not in _MADE:
                        yield part.name, _number(part)
            case Number() if field.name not in _MADE:
                yield field.name, field
            case _:
                pass


def _number(part: Part) -> Number:
    """Some bits of a number as one of its own."""
    high = None if part.labels else (1 << part.width) - 1
    return Number(part.name, 1, high=high, coded=False, labels=part.labels)


def _in_range(number: Number, physical: float) -> bool:
    raw = round((physical - number.offset) * number.steps)
    if number.name in ("longitude", "latitude"):
        raw = abs(raw)  # the hemisphere is in the status
    return number.in_range(raw)
