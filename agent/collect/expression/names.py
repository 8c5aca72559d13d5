"""Signals by the names that a condition has for them.

The rule is that of `Database.select` for names without wildcards, read from an index: a plan may
have hundreds of conditions, and a database tens of thousands of signals.
"""

import difflib
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from agent.blocks import SignalSchema
from agent.collect.expression.lexer import KEYWORDS, PLAIN_NAME, quoted
from agent.collect.expression.source import short
from agent.errors import ConfigError
from agent.signals.database import Database, SignalPath

_Entry = tuple[SignalPath, SignalSchema]

_MAX_LIKENED: Final = 200
"""Names longer than this are no slip of the pen, and comparing them takes long."""


class Names:
    """An index of the signals of a database."""

    def __init__(self, database: Database) -> None:
        # A path that is described twice (answers of several branches) is one signal.
        schemas: dict[SignalPath, SignalSchema] = {}
        for path, schema in _signals(database):
            schemas.setdefault(path, schema)
        self._schemas = schemas
        self._by_signal: dict[str, list[SignalPath]] = {}
        for path in schemas:
            self._by_signal.setdefault(path.signal, []).append(path)

    @classmethod
    def of(cls, database: Database) -> "Names":
        """The index of a database, made once for as long as the database lives."""
        key = id(database)
        known = _INDEXES.get(key)
        if known is not None and known[0]() is database:
            return known[1]
        names = cls(database)
        _INDEXES[key] = (weakref.ref(database, lambda _: _INDEXES.pop(key, None)), names)
        return names

    def find(self, name: str, vss: Mapping[str, SignalPath]) -> _Entry:
        """The one signal that a name names.

        Raises:
            ConfigError: there is none, or there are several; without the place in a text.
        """
        path = vss.get(name)
        if path is None:
            found = self._matching(name)
            if len(found) > 1:
                shown = sorted(self._shown(p) for p in found)
                raise ConfigError(
                    f'"{short(name)}" names {len(found)} signals: {", ".join(shown[:5])}'
                    f"{', ...' if len(found) > 5 else ''}; write one of these"
                )
            path = found[0] if found else None
        if path is None or path not in self._schemas:
            raise ConfigError(f'no signal is called "{short(name)}"{self._hint(name, vss)}')
        return path, self._schemas[path]

    def _matching(self, name: str) -> list[SignalPath]:
        """As `Signal`, `Message.Signal` or `bus.Message.Signal`; any part may have dots itself."""
        found = list(self._by_signal.get(name, ()))
        dot = name.find(".")
        while dot >= 0:
            front = name[:dot]
            found += (
                p
                for p in self._by_signal.get(name[dot + 1 :], ())
                if front in (p.message, f"{p.bus}.{p.message}")
            )
            dot = name.find(".", dot + 1)
        return found

    def _shown(self, path: SignalPath) -> str:
        """As it can be written: with the bus where it must be."""
        return written(path if len(self._matching(str(path))) > 1 else str(path))

    def _hint(self, name: str, vss: Mapping[str, SignalPath]) -> str:
        if name.lower() in KEYWORDS:
            return f'; write "{name.lower()}" in lower case'
        strange = [f"U+{ord(c):04X}" for c in dict.fromkeys(name) if not c.isascii()][:4]
        near = self._near(name, vss)
        return (f"; it has {', '.join(strange)}" if strange else "") + (
            f"; near it: {', '.join(near)}" if near else ""
        )

    def _near(self, name: str, vss: Mapping[str, SignalPath]) -> list[str]:
        if len(name) > _MAX_LIKENED:
            return []
        by_signal: dict[str, SignalPath | str] = {}
        by_address: dict[str, SignalPath | str] = {path.casefold(): path for path in vss}
        for path in self._schemas:
            by_signal.setdefault(path.signal.casefold(), path)
            by_address.setdefault(str(path).casefold(), path)
        whole = name.casefold()
        last = whole.rpartition(".")[2]
        likened = (
            (whole, by_address | by_signal),
            (last, by_signal),
        )
        found: dict[str, None] = {}
        for wanted, known in likened:
            for match in difflib.get_close_matches(wanted, known, 3, 0.6):
                hit = known[match]
                found[written(hit) if isinstance(hit, str) else self._shown(hit)] = None
        return list(found)[:3]


_INDEXES: Final[dict[int, tuple["weakref.ref[Database]", Names]]] = {}


def written(name: SignalPath | str) -> str:
    """A name as it stands in a condition; a path with its bus."""
    text = name if isinstance(name, str) else f"{name.bus}.{name.message}.{name.signal}"
    plain = PLAIN_NAME.fullmatch(text) and text not in KEYWORDS
    return text if plain else quoted(text, "`")


def _signals(database: Database) -> Iterator[_Entry]:
    """In the order of `Database.paths`."""
    for bus, messages in database.buses.items():
        for message in messages:
            yield from _of(bus, message.name, (s.schema for s in message.signals))
    for bus, expanders in database.expanders.items():
        for expander in expanders:
            yield from _of(bus, expander.name, expander.signals)
    for table in (*database.tables, *database.telling):
        yield from _of(table.bus, table.message, table.signals)


def _of(bus: str, message: str, schemas: Iterable[SignalSchema]) -> Iterator[_Entry]:
    return ((SignalPath(bus, message, schema.name), schema) for schema in schemas)
