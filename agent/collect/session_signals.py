"""The signals of trips and charging sessions, and how their values are made.

Each signal has a slot: voltage, current, power, state of charge and odometer have their own, the
cells and the temperatures follow in the order in which the plan names them. Cells that one pattern
names are in natural order (Cell2 before Cell10); a multiplexer is none of them.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

from agent import settings
from agent.blocks import SignalSchema
from agent.collect.session_figures import (
    CURRENT,
    FIRST_OF_GROUPS,
    ODOMETER,
    POWER,
    SOC,
    VOLTAGE,
    Span,
)
from agent.errors import ConfigError
from agent.signals.database import Database, SignalPath
from agent.signals.units import conversion, quantities
from agent.signals.vss import resolve


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """A signal in a slot: value = (physical * above) / below + offset."""

    slot: int
    above: float = 1
    below: float = 1
    offset: float = 0

    @property
    def is_same(self) -> bool:
        return self.above == self.below and not self.offset


class Signals:
    """What the settings name: slots of signals, and how their values are made."""

    def __init__(
        self, sessions: settings.Sessions, database: Database, vss: Mapping[str, SignalPath]
    ) -> None:
        self._database = database
        self._vss = vss
        self._schemas = _schemas(database)
        self._selectors = _selectors(database)
        self.columns: dict[SignalPath, list[Column]] = {}
        inward = -1 if sessions.charging_current_is_positive else 1
        if sessions.power:
            self._one("power", sessions.power, POWER, "kW", 1000 * inward)
        elif sessions.voltage or sessions.current:
            if not (sessions.voltage and sessions.current):
                raise ConfigError('"voltage" and "current" belong together')
            self._one("voltage", sessions.voltage, VOLTAGE, "V")
            self._one("current", sessions.current, CURRENT, "A", inward)
        if sessions.soc:
            self._one("soc", sessions.soc, SOC, "%")
        if sessions.odometer:
            self._one("odometer", sessions.odometer, ODOMETER, "km")
        self.groups: list[list[SignalPath]] = []
        self.spans: list[Span] = []
        begin = FIRST_OF_GROUPS
        for name, unit in (("cell_voltages", "V"), ("temperatures", "degC")):
            paths = self._many(name, getattr(sessions, name), begin, unit)
            self.groups.append(paths)
            self.spans.append((begin, begin + len(paths)))
            begin += len(paths)
        self.slots = begin

    def has(self, *slots: int) -> bool:
        """Whether any of them is in use."""
        return any(c.slot in slots for columns in self.columns.values() for c in columns)

    def names(self) -> list[str]:
        """What each slot is, for what is left to the next run."""
        found = [f"{c.slot} {p.bus}.{p}" for p, columns in self.columns.items() for c in columns]
        return sorted(found)

    def _one(self, name: str, pattern: str, slot: int, unit: str, factor: int = 1) -> None:
        found = self._database.select(resolve([pattern], self._vss))
        if len(found) > 1:
            raise ConfigError(f'{name}: "{pattern}" names {len(found)} signals; it has to name one')
        self._add(name, next(iter(found)), slot, unit, factor)

    def _many(self, name: str, patterns: Iterable[str], slot: int, unit: str) -> list[SignalPath]:
        paths: list[SignalPath] = []
        for pattern in patterns:
            found = self._database.select(resolve([pattern], self._vss)).difference(paths)
            if set("*?") & set(pattern):
                found -= self._selectors
            unique = len({p.signal for p in found}) == len(found)
            paths += sorted(found, key=lambda p: _natural(p, by_message=not unique))
        for number, path in enumerate(paths):
            self._add(name, path, slot + number, unit)
        return paths

    def _add(self, name: str, path: SignalPath, slot: int, unit: str, factor: int = 1) -> None:
        schema = self._schemas[path]
        if schema.kind == "bytes":
            raise ConfigError(f"{name}: {path} holds bytes, not a number")
        column = Column(slot, factor)
        if quantities(schema.unit):
            try:
                scale, offset = conversion(schema.unit, unit)
            except ConfigError as e:
                raise ConfigError(f"{name}: {path}: {e}") from e
            scale, offset = scale * factor, offset * factor
            column = Column(slot, float(scale.numerator), float(scale.denominator), float(offset))
        self.columns.setdefault(path, []).append(column)


def _schemas(database: Database) -> dict[SignalPath, SignalSchema]:
    found = {
        SignalPath(bus, message.name, signal.name): signal.schema
        for bus, messages in database.buses.items()
        for message in messages
        for signal in message.signals
    }
    found |= {
        SignalPath(bus, expander.name, schema.name): schema
        for bus, expanders in database.expanders.items()
        for expander in expanders
        for schema in expander.signals
    }
    return found | {
        SignalPath(table.bus, table.message, schema.name): schema
        for table in (*database.tables, *database.telling)
        for schema in table.signals
    }


def _selectors(database: Database) -> set[SignalPath]:
    """Multiplexers: the pattern of a message's signals does not mean them."""
    return {
        SignalPath(bus, message.name, signal.name)
        for bus, messages in database.buses.items()
        for message in messages
        for signal in message.signals
        if signal.multiplexer
    }


def _natural(path: SignalPath, *, by_message: bool) -> list[list[tuple[int, str]]]:
    """Cell2 before Cell10: by the signals' names, or by those of their messages first."""
    names = [path.signal, path.message, path.bus]
    if by_message:
        names = [path.message, path.signal, path.bus]
    # Runs of digits are numbers; each is a pair, so that a number and a text can be compared.
    return [
        [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
        for name in names
    ]
