"""COVESA VSS: signals by the names that applications use, in the units of VSS.

A plan's `[[vss]]` gives a signal of the database its path, and a unit if it wants another one. The
unit is changed in the schema alone: scale and offset are composed with the conversion, rounded
once. Raw values stay what they are on the bus, and so do value tables and codes.

A path may stand in a plan wherever a signal can. So that the two are never mistaken for one
another, a pattern with `*` or `?` is taken for VSS only where its first part is written out and
begins a path that the plan has: `Vehicle.Speed`, `Vehicle.Cabin.*`, but not `*` or `*.Speed`.
"""

import dataclasses
import fnmatch
import glob
import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType

from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.errors import ConfigError
from agent.settings.plan import VssOfSignal
from agent.signals.database import Database, SignalPath

__all__ = ["Labels", "resolve", "with_vss"]

_Changed = Mapping[SignalPath, SignalSchema]


def with_vss(
    database: Database, entries: Sequence[VssOfSignal]
) -> tuple[Database, Mapping[str, SignalPath]]:
    """The database with VSS paths and units in its schemas, and the signal of each path.

    Raises:
        ConfigError: a signal does not exist or is given twice, a path is given twice, or a unit
            cannot be made of the signal's.
    """
    if not entries:
        return database, {}
    find = _Finder(database)
    signals: dict[str, SignalPath] = {}
    paths: dict[SignalPath, str] = {}
    changed: dict[SignalPath, SignalSchema] = {}
    for entry in entries:
        try:
            path = find.only(entry.signal)
            _free(signals.get(entry.path), paths.get(path), path)
            schema = _in_unit(find.schema(path), entry.unit)
        except ConfigError as e:
            raise ConfigError(f"{entry.path}: {e}") from e
        changed[path] = dataclasses.replace(schema, vss=entry.path)
        signals[entry.path], paths[path] = path, entry.path
    return _with_schemas(database, changed), MappingProxyType(signals)


def resolve(patterns: Iterable[str], mapping: Mapping[str, SignalPath]) -> list[str]:
    """Patterns in which VSS paths have become signals, as `bus.Message.Signal`; others stay.

    A VSS pattern with `*` or `?` becomes all the signals whose paths it matches.
    """
    roots = {path.partition(".")[0] for path in mapping}
    found: list[str] = []
    for pattern in patterns:
        if pattern in mapping:
            found.append(_address(mapping[pattern]))
            continue
        matched = []
        if pattern.partition(".")[0] in roots:
            matched = [s for path, s in mapping.items() if fnmatch.fnmatchcase(path, pattern)]
        found += [_address(signal) for signal in matched] or [pattern]
    return found


class Labels:
    """Puts the database's schemas into tables that sources make: those come with their own."""

    def __init__(self, database: Database) -> None:
        self._signals = {
            (table.bus, table.message, signal.name): signal
            for table in (*database.tables, *database.telling)
            for signal in table.signals
        }
        self._known: dict[TableSchema, TableSchema] = {}

    def apply(self, table: SignalTable) -> SignalTable:
        """The same rows; the same table where the database says nothing else of it."""
        schema = table.schema
        known = self._known.get(schema)
        if known is None:
            signals = tuple(
                self._signals.get((schema.bus, schema.message, s.name), s) for s in schema.signals
            )
            changed = signals != schema.signals
            known = dataclasses.replace(schema, signals=signals) if changed else schema
            self._known[schema] = known
        return table if known is schema else dataclasses.replace(table, schema=known, scaled=None)


def _address(path: SignalPath) -> str:
    """A pattern that is this signal alone: the bus `*` is a name here."""
    return f"{glob.escape(path.bus)}.{path.message}.{path.signal}"


def _free(signal: SignalPath | None, vss: str | None, path: SignalPath) -> None:
    if signal is not None:
        raise ConfigError(f"it is given twice, for {signal} and for {path}")
    if vss is not None:
        raise ConfigError(f"{path} is {vss} already; a signal has one path")


class _Finder:
    """Signals by their full names: a plan may have hundreds, and patterns look at every signal."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._schemas = _schemas(database)
        self._names: dict[str, set[SignalPath]] = {}
        for path in database.paths():
            for name in (path.signal, str(path), f"{path.bus}.{path}"):
                self._names.setdefault(name, set()).add(path)

    def only(self, name: str) -> SignalPath:
        found = self._names.get(name, set())
        if len(found) != 1:
            found = self._database.select([name])
        if len(found) > 1:
            names = ", ".join(sorted(map(str, found))[:3])
            raise ConfigError(f'"{name}" names {len(found)} signals: {names}, ...; name one')
        return next(iter(found))

    def schema(self, path: SignalPath) -> SignalSchema:
        if path not in self._schemas:
            raise ConfigError(f"{path} counts the entries of a list and cannot have a path")
        return self._schemas[path]


def _schemas(database: Database) -> dict[SignalPath, SignalSchema]:
    """What can be changed: all but the numbers that lists are given (their `Number`)."""
    found = {
        SignalPath(bus, message.name, signal.name): signal.schema
        for bus, messages in database.buses.items()
        for message in messages
        for signal in message.signals
    }
    found |= {
        SignalPath(bus, expander.name, field.schema.name): field.schema
        for bus, expanders in database.expanders.items()
        for expander in expanders
        for field in expander.fields
    }
    found |= {
        SignalPath(table.bus, table.message, signal.name): signal
        for table in (*database.tables, *database.telling)
        for signal in table.signals
    }
    return found


def _in_unit(schema: SignalSchema, unit: str) -> SignalSchema:
    """The signal in another unit.

    Raises:
        ConfigError: they do not fit, or the signal is no number.
    """
    if not unit:
        return schema
    if schema.kind == "bytes":
        raise ConfigError(f"{schema.name} holds bytes and has no unit")
    from agent.signals.units import conversion  # noqa: PLC0415 - slow, and few plans need it

    try:
        factor, offset = conversion(schema.unit, unit)
    except ConfigError as e:
        hint = "" if schema.unit.strip() else '; leave "unit" out'
        raise ConfigError(f"{e}{hint}") from e
    if factor == 1 and offset == 0:
        return dataclasses.replace(schema, unit=unit)

    def limit(value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return value
        return _double(_exact(value) * factor + offset)

    return dataclasses.replace(
        schema,
        unit=unit,
        scale=_double(_exact(schema.scale) * factor),
        offset=_double(_exact(schema.offset) * factor + offset),
        minimum=limit(schema.minimum),
        maximum=limit(schema.maximum),
    )


def _exact(number: float) -> Fraction:
    """The number that the file has: 0.1 there is a tenth, and no double is."""
    try:
        return Fraction(repr(number))
    except ValueError as e:
        raise ConfigError(f"a scale or offset of {number} cannot be converted") from e


def _double(number: Fraction) -> float:
    try:
        return float(number)
    except OverflowError as e:
        raise ConfigError("its scale in that unit is beyond all numbers") from e


def _with_schemas(database: Database, changed: _Changed) -> Database:
    buses = {
        bus: tuple(
            message
            if not any(SignalPath(bus, message.name, s.name) in changed for s in message.signals)
            else dataclasses.replace(
                message,
                signals=tuple(
                    dataclasses.replace(
                        s, schema=changed.get(SignalPath(bus, message.name, s.name), s.schema)
                    )
                    for s in message.signals
                ),
            )
            for message in messages
        )
        for bus, messages in database.buses.items()
    }
    expanders = {
        bus: tuple(
            dataclasses.replace(
                expander,
                fields=tuple(
                    dataclasses.replace(
                        f,
                        schema=changed.get(SignalPath(bus, expander.name, f.schema.name), f.schema),
                    )
                    for f in expander.fields
                ),
            )
            for expander in each
        )
        for bus, each in database.expanders.items()
    }
    tables, telling = (
        tuple(
            dataclasses.replace(
                table,
                signals=tuple(
                    changed.get(SignalPath(table.bus, table.message, s.name), s)
                    for s in table.signals
                ),
            )
            for table in each
        )
        for each in (database.tables, database.telling)
    )
    return dataclasses.replace(
        database, buses=buses, expanders=expanders, tables=tables, telling=telling
    )
