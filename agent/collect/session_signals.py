"""The signals of trips and charging sessions, and how their values are made.

Each signal has a slot: voltage, current, power, state of charge and odometer have their own, the
cells and the temperatures follow in the order in which the plan names them.
"""

from collections.abc import Iterable, Mapping

from agent import settings
from agent.collect.measures import Column, Measures
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


class Signals:
    """What the settings name: slots of signals, and how their values are made."""

    def __init__(
        self, sessions: settings.Sessions, database: Database, vss: Mapping[str, SignalPath]
    ) -> None:
        self._measures = Measures(database, vss)
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
        try:
            path = self._measures.one(pattern)
        except ConfigError as e:
            raise ConfigError(f"{name}: {e}") from e
        self._add(name, path, slot, unit, factor)

    def _many(self, name: str, patterns: Iterable[str], slot: int, unit: str) -> list[SignalPath]:
        paths = self._measures.many(patterns)
        for number, path in enumerate(paths):
            self._add(name, path, slot + number, unit)
        return paths

    def _add(self, name: str, path: SignalPath, slot: int, unit: str, factor: int = 1) -> None:
        try:
            column = self._measures.column(path, slot, unit, factor)
        except ConfigError as e:
            raise ConfigError(f"{name}: {e}") from e
        self.columns.setdefault(path, []).append(column)
