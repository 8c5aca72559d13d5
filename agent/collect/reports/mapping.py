"""`[gbt32960]` of a plan: from which signals the values of a report are made.

`Mapping.build` finds every signal and checks every unit and word once. `CompiledReports.sample`
then makes a `Sample` of the values that are held, at any moment:

    compiled = Mapping.build(plan.gbt32960, database, vss)
    held = Held(compiled.slots)
    held.take(tables, until_ns)                         rows up to and with the moment
    compiled.sample(held, truths, until_ns)             physical values by the layouts' names

What is missing, a code, or older than `stale_after_s` is NaN. Values are as the plan gives them,
also out of range; what becomes of that in an edition is for who encodes it. The current has the
sign that it is given. Extremes are found in the cells of the packs, field by field where
[gbt32960.extremes] has none. A position that is not valid is the last valid one.

The level of alarms is the highest of `level` and of those of the general alarms that are there.
"""

import collections.abc
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from agent.blocks import Float64
from agent.collect.expression.tree import Condition
from agent.collect.reports.extremes import extremes
from agent.collect.reports.fields import (
    ANY,
    EDITIONS,
    editions_of,
    fields_of,
    flags_of,
)
from agent.collect.reports.held import Held, Slots
from agent.collect.reports.mapping_values import Values, at
from agent.collect.reports.parts import (
    AlarmsOf,
    Fields,
    MakerNumber,
    Numbered,
    Position,
    ValuesOf,
    values_at,
)
from agent.collect.reports.values import Flag, Moment
from agent.errors import ConfigError
from agent.gbt32960.layout import Edition
from agent.gbt32960.sample import Sample
from agent.settings.gbt32960_mapping import AlarmFields, AlarmTable, Gbt32960Mapping, MakerItem
from agent.signals.database import Database, SignalPath

__all__ = ["CompiledReports", "Held", "Mapping"]

_S: Final = 1e9
_THERMAL: Final = 4
_FAULTS: Final = ("battery_faults", "motor_faults", "engine_faults", "other_faults")
_ITEMS: Final = ("vehicle", "engine", "fuel_cell", "extremes", "supercapacitor")
_LISTS: Final = {"motor": "motors", "pack": "packs", "stack": "stacks"}
"""What the plan calls them, and what a sample does."""


@dataclasses.dataclass(frozen=True, eq=False)
class CompiledReports:
    """What a sample is made of.

    Attributes:
        written: what the plan says.
        slots: the signals whose last values are held; `Held(slots)` holds them.
        conditions: by a name of their own; their truths have to be given for each sample.
    """

    written: Gbt32960Mapping
    slots: Slots
    conditions: dict[str, Condition]
    items: dict[str, Fields]
    lists: dict[str, list[Numbered]]
    position: Position | None
    alarms: AlarmsOf | None
    maker: dict[int, list[MakerNumber]]
    vital: frozenset[int]
    """Slots that tell that the vehicle is there."""

    @property
    def wanted(self) -> set[SignalPath]:
        """What must be decoded."""
        return self.slots.wanted

    def sample(
        self, held: Held, truths: collections.abc.Mapping[str, bool], time_ns: int
    ) -> Sample:
        """The vehicle at a moment: `held` has taken all rows up to it, and none of later times.

        Raises:
            KeyError: the truth of a condition is not given.
        """
        with np.errstate(all="ignore"):
            return self._sample(held, Moment(held, truths, time_ns))

    def unmapped(self, edition: Edition | None = None) -> list[str]:
        """Items and fields without a value: of one edition, or of any."""
        editions = EDITIONS if edition is None else (edition,)
        return list(dict.fromkeys(name for each in editions for name in self._unmapped(each)))

    def _sample(self, held: Held, moment: Moment) -> Sample:
        items = {name: values_at(fields, moment) for name, fields in self.items.items()}
        lists = {name: [each.at(moment) for each in own] for name, own in self.lists.items()}
        if found := extremes(*_groups(lists.get("packs", ()))):
            items["extremes"] = {**found, **items.get("extremes", {})}
        if (capacitor := items.get("supercapacitor")) is not None and (
            found := extremes(*_groups([capacitor]))
        ):
            items["supercapacitor_extremes"] = dict(found)
        if self.position is not None:
            items["position"] = self.position.at(moment, held)
        return Sample(
            items=items,
            lists=lists,
            alarms=self.alarms.at(moment) if self.alarms is not None else None,
            maker={
                number: b"".join(field.at(moment) for field in fields)
                for number, fields in self.maker.items()
            },
            fresh=moment.is_fresh(
                np.array(sorted(self.vital), np.intp), round(self.written.stale_after_s * _S)
            ),
        )

    def _unmapped(self, edition: Edition) -> Iterator[str]:
        for table in ("vehicle", "motor", "engine", "fuel_cell", "position", "extremes"):
            if edition in editions_of(table):
                yield from self._missing(table, edition)
        yield from self._missing_alarms(edition)
        for table in ("pack", "stack", "supercapacitor"):
            if edition in editions_of(table):
                yield from self._missing(table, edition)

    def _missing(self, table: str, edition: Edition) -> Iterator[str]:
        groups: list[tuple[str, collections.abc.Set[str]]]
        if table in _LISTS:
            own = self.lists.get(_LISTS[table], [])
            places = [f"{table} #{n}" for n in range(1, len(own) + 1)] if own[1:] else [table]
            groups = [(where, each.fields.keys()) for where, each in zip(places, own, strict=False)]
        elif table == "position":
            groups = [] if self.position is None else [(table, fields_of(table).keys())]
        else:
            mapped = set(self.items.get(table, {}))
            if table == "extremes":
                mapped |= self._computed()
            groups = [(table, mapped)] if mapped or table in self.items else []
        if not groups:
            yield table
        for where, has in groups:
            for name, spec in fields_of(table).items():
                if edition in spec.editions and name not in has:
                    yield f"{where}.{name}"

    def _computed(self) -> set[str]:
        """The extremes that the cells of the packs give."""
        packs = [pack.fields for pack in self.lists.get("packs", ())]
        one = [(1.0, np.zeros(1))]
        cells, probes = (any(key in pack for pack in packs) for key in ("cells", "probes"))
        return set(extremes(one if cells else [], one if probes else []))

    def _missing_alarms(self, edition: Edition) -> Iterator[str]:
        alarms = self.alarms
        if alarms is None:
            yield "alarms"
            return
        if alarms.level is None and not any(level for _, level in alarms.flags.values()):
            yield "alarms.level"
        yield from (f"alarms.{n}" for n in flags_of(edition) if n not in alarms.flags)
        yield from (f"alarms.{n}" for n in _FAULTS if not alarms.faults[n])


class Mapping:
    """Compiles `[gbt32960]`."""

    def __init__(
        self,
        written: Gbt32960Mapping,
        database: Database,
        vss: collections.abc.Mapping[str, SignalPath],
    ) -> None:
        self._written = written
        self._values = Values(database, vss)
        self._stale_ns = round(written.stale_after_s * _S)
        self._own = {SignalPath(t.bus, t.message, n) for t in database.telling for n in t.names}

    @classmethod
    def build(
        cls,
        written: Gbt32960Mapping,
        database: Database,
        vss: collections.abc.Mapping[str, SignalPath],
    ) -> CompiledReports:
        """Find every signal that the mapping names.

        Raises:
            ConfigError: a key names a signal that does not exist or measures something else, or a
                value that the standard does not have.
        """
        with at("[gbt32960]"):
            return cls(written, database, vss).compiled()

    def compiled(self) -> CompiledReports:
        """What `build` gives, without the name of the table in errors."""
        written, values = self._written, self._values
        items = {
            name: self._fields(name, name, table)
            for name in _ITEMS
            if (table := getattr(written, name)) is not None
        }
        if written.supercapacitor is not None:
            number = written.supercapacitor.number or 1
            items["supercapacitor"]["number"] = values.term("", number, ANY, 0)
        lists = {
            plural: self._numbered(name, tables)
            for name, plural in _LISTS.items()
            if (tables := getattr(written, name))
        }
        alarms = self._alarms(written.alarms) if written.alarms is not None else None
        maker = self._maker(written.maker)
        vital = {s for (p, _), s in values.slots.by_signal.items() if p not in self._own}
        position = self._position()
        return CompiledReports(
            written,
            values.slots,
            values.conditions,
            items,
            lists,
            position,
            alarms,
            maker,
            # A receiver of positions goes on while the vehicle sleeps, and so does the agent.
            frozenset(vital or values.slots.by_signal.values()),
        )

    def _fields(self, table: str, where: str, written: Any) -> Fields:
        """The fields of one table that are mapped, in the order of the layouts."""
        stale_ns = self._stale(written)
        found: Fields = {}
        for name, spec in fields_of(table).items():
            value = getattr(written, name, None)
            key = f"{where}.{name}"
            if isinstance(value, list):
                if value:
                    found[name] = self._values.series(key, value, spec, stale_ns)
            elif name in ("brake_force", "drive_force"):
                if value:
                    found[name] = self._values.flag(key, value)
            elif value is not None:
                found[name] = self._values.term(key, value, spec, stale_ns)
        return found

    def _numbered(self, name: str, tables: Sequence[Any]) -> list[Numbered]:
        found: list[Numbered] = []
        for place, table in enumerate(tables, 1):
            where, number = f"{name} #{place}", table.number or place
            if number in [other.number for other in found]:
                raise ConfigError(f"{where}: the number {number} is given twice; set number")
            found.append(Numbered(number, self._fields(name, where, table)))
        return found

    def _position(self) -> Position | None:
        written = self._written.position
        if written is None:
            return None
        fields, stale_ns, values = fields_of("position"), self._stale(written), self._values
        with at("position.datum"):
            datum = fields["datum"].constant(written.datum)
        return Position(
            values.term("position.longitude", written.longitude, fields["longitude"], stale_ns),
            values.term("position.latitude", written.latitude, fields["latitude"], stale_ns),
            values.flag("position.valid", written.valid) if written.valid else None,
            datum,
        )

    def _alarms(self, written: AlarmFields) -> AlarmsOf:
        specs, stale_ns, values = fields_of("alarms"), self._stale(written), self._values
        level = None
        if written.level is not None:
            level = values.term("alarms.level", written.level, specs["level"], stale_ns)
        flags: dict[str, tuple[Flag, int]] = {}
        for name in dict.fromkeys(name for edition in EDITIONS for name in flags_of(edition)):
            alarm = getattr(written, name)
            if isinstance(alarm, AlarmTable):
                flags[name] = values.flag(f"alarms.{name}", alarm.when), alarm.level
            elif alarm:
                flags[name] = values.flag(f"alarms.{name}", alarm), 0
        if "thermal_event" in flags:  # it always has this level
            flags["thermal_event"] = flags["thermal_event"][0], _THERMAL
        faults = {
            name: [
                values.term(f"alarms.{name} #{place}", value, specs[name], stale_ns)
                for place, value in enumerate(getattr(written, name), 1)
            ]
            for name in _FAULTS
        }
        return AlarmsOf(level, flags, faults)

    def _maker(self, items: Sequence[MakerItem]) -> dict[int, list[MakerNumber]]:
        found: dict[int, list[MakerNumber]] = {}
        for item in items:
            where, stale_ns = f"maker 0x{item.type:02X}", self._stale(item)
            if item.type in found:
                raise ConfigError(f"{where}: the type is given twice")
            found[item.type] = []
            for place, field in enumerate(item.fields, 1):
                key = f"{where} #{place}"
                if not field.scale or not math.isfinite(field.scale + field.offset):
                    raise ConfigError(f"{key}: the scale cannot be {field.scale}")
                term = self._values.term(key, field.value, ANY, stale_ns)
                found[item.type].append(MakerNumber(term, field.width, field.scale, field.offset))
        return found

    def _stale(self, table: msgspec.Struct) -> int:
        """After which time values of a table are none any more, ns."""
        own: float | None = getattr(table, "stale_after_s", None)
        return self._stale_ns if own is None else round(own * _S)


def _groups(
    packs: Sequence[ValuesOf],
) -> tuple[list[tuple[float, Float64]], list[tuple[float, Float64]]]:
    """Cells and probes with the numbers of their packs."""
    cells, probes = (
        [(float(pack["number"]), np.asarray(pack[name])) for pack in packs if name in pack]
        for name in ("cells", "probes")
    )
    return cells, probes
