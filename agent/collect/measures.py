"""Signals as quantities: found as a plan names them, in natural order, in a unit that is asked for.

Sessions and reports use it. Cells that one pattern names are in natural order (Cell2 before
Cell10); a multiplexer is none of them.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping

from agent.blocks import SignalSchema
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


class Measures:
    """The signals of a database."""

    def __init__(self, database: Database, vss: Mapping[str, SignalPath]) -> None:
        self._database = database
        self._vss = vss
        self._schemas = _schemas(database)
        self._selectors = _selectors(database)

    def one(self, pattern: str) -> SignalPath:
        """The signal that a pattern names.

        Raises:
            ConfigError: it names none or several.
        """
        found = self._database.select(resolve([pattern], self._vss))
        if len(found) > 1:
            raise ConfigError(f'"{pattern}" names {len(found)} signals; it has to name one')
        return next(iter(found))

    def many(self, patterns: Iterable[str]) -> list[SignalPath]:
        """The signals of patterns, each once: those of one pattern in natural order.

        Raises:
            ConfigError: a pattern names nothing, or a plain name names several.
        """
        paths: list[SignalPath] = []
        for pattern in patterns:
            found = self._database.select(resolve([pattern], self._vss)).difference(paths)
            if set("*?") & set(pattern):
                found -= self._selectors
            unique = len({p.signal for p in found}) == len(found)
            paths += sorted(found, key=lambda p: _natural(p, by_message=not unique))
        return paths

    def schema(self, path: SignalPath) -> SignalSchema:
        """What a signal is.

        Raises:
            ConfigError: it is no number.
        """
        schema = self._schemas[path]
        if schema.kind == "bytes":
            raise ConfigError(f"{path} holds bytes, not a number")
        return schema

    def column(self, path: SignalPath, slot: int, unit: str, factor: int = 1) -> Column:
        """A signal in a unit, times a factor; an unknown or empty unit is taken for that one.

        Raises:
            ConfigError: it is no number, or measures something else.
        """
        schema = self.schema(path)
        if not quantities(schema.unit):
            return Column(slot, factor)
        try:
            scale, offset = conversion(schema.unit, unit)
        except ConfigError as e:
            raise ConfigError(f"{path}: {e}") from e
        scale, offset = scale * factor, offset * factor
        return Column(slot, float(scale.numerator), float(scale.denominator), float(offset))


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
