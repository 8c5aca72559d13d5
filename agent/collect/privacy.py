"""Privacy profiles: what batches must not tell of a vehicle and its ways.

A profile masks the tables of one campaign before anything is made of them: rates, dead bands and
windows see masked samples only, so an aggregate of them tells nothing that they do not tell. Other
campaigns, and the conditions of triggers, see the real ones.

**Name.** With a purpose the vehicle has a pseudonym: an HMAC of purpose and name with a secret of
this installation. It stays the same, cannot be turned back without the secret, and those of two
purposes cannot be joined. Signals that tell the VIN take the pseudonym's characters where they are
text (cut, or filled with NUL) and there is a purpose; all others are left out.

**Place.** A position is a pair: latitude and longitude of one message, or of two messages of one
bus and sender. Then a coordinate goes with the newest sample of the other one before it, which is
known for `HELD_NS`. Codes (not available, error), NaN and numbers beyond 90 and 360 degrees are no
coordinates. In this order:

1. Within a geofence, and where a fence is set and the position is not known, both coordinates
   become "not available": a raw value that the schema's codes call so, or else the sample is left
   out. What is no measurement anyway (a code, NaN) stays.
2. The others are rounded to the middle of their cell. Bands of latitude are at least `round_m`
   high, and round the middle of each goes a whole number of cells at least `round_m` wide. Every
   place in a cell gives the same numbers, so that averaging brings nothing back. A longitude
   without its latitude has no cell and is masked as in 1; so is a number that is no coordinate.

Distances are those on a sphere with the smallest radius of curvature that WGS 84 has anywhere. They
are up to 1 % short and never long: a fence or a cell is never smaller than it was asked to be.

What is not masked can still give a place away: speed and heading from a known begin, or the times
at which positions are missing. A plan that minds leaves those signals out.

Nothing here outlives the process but the secret: after a restart, positions that come in two
messages are not known until each has come once, so that more is masked and not less.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.collect.masking import Edit
from agent.collect.position import (
    HELD_NS,
    MOST_LATITUDE,
    MOST_LONGITUDE,
    NOTHING,
    Grid,
    Series,
    at,
    coordinate,
    distance_m,
    joined,
    newest,
)
from agent.collect.pseudonym import pseudonym, secret_of
from agent.collect.rules import AGGREGATES
from agent.errors import ConfigError
from agent.settings.plan import Privacy
from agent.signals import Database
from agent.signals.database import ANY_BUS, SignalPath
from agent.signals.vss import resolve

__all__ = ["HELD_NS", "Profile", "secret_of"]

_DEGREES: Final = re.compile(r"(deg(ree)?s?|grad)?[nesw]?", re.IGNORECASE)

_Axis = Literal["vin", "latitude", "longitude"]


class _Pair(NamedTuple):
    latitude: SignalPath
    longitude: SignalPath


_Key = tuple[_Pair, str, int | None]
"""A pair, and the bus and source that it comes from."""


class _Place(NamedTuple):
    """Where the names of a pair stand in a table."""

    pair: _Pair
    latitude: str
    longitude: str
    """Empty where the table does not have it."""


@dataclasses.dataclass(frozen=True)
class _Part:
    """What of a table is private."""

    vin: tuple[str, ...]
    places: tuple[_Place, ...]
    folded: tuple[tuple[str, str], ...]
    """Aggregates of latitude and longitude, by two; empty where there is none."""


class Profile:
    """A privacy profile at work on the tables of one campaign; belongs to the decode thread."""

    def __init__(
        self,
        settings: Privacy,
        database: Database,
        vss: Mapping[str, SignalPath] | None = None,
        *,
        vehicle: str,
        secret: bytes = b"",
    ) -> None:
        """`secret` is needed where a purpose is set (`secret_of`).

        Raises:
            ConfigError: signals that do not exist or cannot be masked, or a part of the profile
                that would do nothing.
            ValueError: a purpose without a secret.
        """
        self.name = settings.name
        self.pseudonym = vehicle
        """Of the vehicle for the purpose; its name where there is none."""
        if settings.purpose:
            self.pseudonym = pseudonym(secret, settings.purpose, vehicle)
        self.blanked = 0
        """Samples that became "not available", in this run."""
        self._settings = settings
        self._grid = Grid(settings.round_m) if settings.round_m else None
        try:
            self._axes, self._pairs = _signals(settings, database, vss or {})
        except ConfigError as e:
            raise ConfigError(f'privacy "{settings.name}": {e}') from e
        self._parts: dict[TableSchema, _Part | None] = {}
        self._subsets: dict[tuple[TableSchema, tuple[str, ...]], TableSchema] = {}
        self.held: dict[_Key, tuple[Series, Series]] = {}
        """The newest samples of both coordinates; real ones, for nobody but the next profile."""

    def adopt(self, old: "Profile") -> None:
        """Go on with the positions that another one knows."""
        self.blanked = old.blanked
        mine = set(self._pairs.values())
        self.held = {key: held for key, held in old.held.items() if key[0] in mine}

    def statement(self) -> dict[str, Any]:
        """What batches say of how they were masked; not where the fences are."""
        settings = self._settings
        said: dict[str, Any] = {
            "profile": self.name,
            "purpose": settings.purpose,
            "pseudonym": bool(settings.purpose),
            "round_m": settings.round_m,
            "geofences": len(settings.geofence),
        }
        if settings.vin:
            said["vin"] = "replaced" if settings.purpose else "left out"
        return said

    def covers(self, path: SignalPath) -> bool:
        """Whether a signal is masked, so that its value must not stand anywhere else either."""
        return self._axis(path.bus, path.message, path.signal) is not None

    def apply(
        self, tables: Sequence[SignalTable], seen: Sequence[SignalTable] | None = None
    ) -> tuple[list[SignalTable], int]:
        """Tables of a block, masked, and how many of their samples were left out.

        `seen` are all tables of the block: a campaign may keep one coordinate and not the other.
        Without it, what `tables` say is all that is known. To be called for every block, also where
        there is nothing to mask: what was seen is held for the next one.
        """
        known = self._known(tables if seen is None else seen)
        masked: list[SignalTable] = []
        left_out = 0
        for table in tables:
            part = self._part(table.schema)
            if part is None or not len(table):
                masked.append(table)
                continue
            edit = Edit(table)
            for name in part.vin:
                edit.replace_text(name, self.pseudonym if self._settings.purpose else "")
            for place in part.places:
                self._mask(edit, place, known)
            for latitude, longitude in part.folded:
                self._mask_folded(edit, latitude, longitude)
            masked += edit.tables(self._subset)
            left_out += edit.left_out
            self.blanked += edit.blanked
        return masked, left_out

    # -- what a table has --------------------------------------------------------------------

    def _axis(self, bus: str, message: str, name: str) -> _Axis | None:
        known = self._axes
        return known.get(SignalPath(bus, message, name)) or known.get(
            SignalPath(ANY_BUS, message, name)
        )

    def _part(self, schema: TableSchema) -> _Part | None:
        if schema not in self._parts:
            self._parts[schema] = self._new_part(schema)
        return self._parts[schema]

    def _new_part(self, schema: TableSchema) -> _Part | None:
        vin: list[str] = []
        places: dict[_Pair, dict[str, str]] = {}
        folded: dict[str, dict[str, str]] = {}
        for name in schema.names:
            base, _, suffix = name.rpartition(".")
            if axis := self._axis(schema.bus, schema.message, name):
                suffix = ""
            elif suffix in AGGREGATES:
                axis = self._axis(schema.bus, schema.message, base)
            if axis == "vin":
                vin.append(name)
            elif axis and suffix:
                folded.setdefault(suffix, {})[axis] = name
            elif axis:
                pair = self._pair(schema.bus, schema.message, name)
                places.setdefault(pair, {})[axis] = name
        if not (vin or places or folded):
            return None
        return _Part(
            tuple(vin),
            tuple(
                _Place(pair, found.get("latitude", ""), found.get("longitude", ""))
                for pair, found in places.items()
            ),
            tuple(
                (found.get("latitude", ""), found.get("longitude", ""))
                for suffix, found in folded.items()
                if suffix != "count" or self._settings.geofence
            ),
        )

    def _pair(self, bus: str, message: str, name: str) -> _Pair:
        found = self._pairs.get(SignalPath(bus, message, name))
        return found or self._pairs[SignalPath(ANY_BUS, message, name)]

    def _subset(self, schema: TableSchema, names: tuple[str, ...]) -> TableSchema:
        key = (schema, names)
        if key not in self._subsets:
            self._subsets[key] = schema.subset(names)
        return self._subsets[key]

    # -- positions ---------------------------------------------------------------------------

    def _known(self, tables: Sequence[SignalTable]) -> dict[_Key, tuple[Series, Series]]:
        """The samples of both coordinates in this block, behind those that are held."""
        found: dict[_Key, tuple[list[Series], list[Series]]] = {}
        for table in tables:
            part = self._part(table.schema)
            if part is None or not len(table):
                continue
            for place in part.places:
                key = (place.pair, table.bus, table.source)
                parts = found.setdefault(key, ([], []))
                for name, series, most in (
                    (place.latitude, parts[0], MOST_LATITUDE),
                    (place.longitude, parts[1], MOST_LONGITUDE),
                ):
                    if name:
                        series.append(Series(table.time, coordinate(table, name, most)))
        known = dict(self.held)
        for key, (latitude, longitude) in found.items():
            held = self.held.get(key, (NOTHING, NOTHING))
            both = joined(held[0], latitude), joined(held[1], longitude)
            known[key] = both
            self.held[key] = newest(both[0]), newest(both[1])
        return known

    def _mask(self, edit: Edit, place: _Place, known: Mapping[_Key, tuple[Series, Series]]) -> None:
        table = edit.table
        pair = place.pair
        series = known.get((pair, table.bus, table.source), (NOTHING, NOTHING))
        # A frame has one time; in two messages, only what came before is sure to be known.
        side: Literal["left", "right"] = (
            "right" if pair.latitude.message == pair.longitude.message else "left"
        )
        latitude, longitude = (
            coordinate(table, name, most) if name else at(values, table.time, side)
            for name, most, values in (
                (place.latitude, MOST_LATITUDE, series[0]),
                (place.longitude, MOST_LONGITUDE, series[1]),
            )
        )
        hidden = np.zeros(len(table), bool)
        if self._settings.geofence:
            hidden = np.isnan(latitude) | np.isnan(longitude)
            for fence in self._settings.geofence:
                centre = (fence.latitude, fence.longitude)
                hidden |= distance_m(latitude, longitude, centre) <= fence.radius_m
        if place.latitude:
            hide = hidden | np.isnan(latitude)
            edit.hide(place.latitude, hide)
            if self._grid:
                edit.put(place.latitude, self._grid.latitude(latitude), ~hide)
        if place.longitude:
            hide = hidden | np.isnan(longitude)
            if self._grid:
                hide |= np.isnan(latitude)
            edit.hide(place.longitude, hide)
            if self._grid:
                rounded = self._grid.longitude(latitude, longitude)
                edit.put(place.longitude, rounded, ~hide)

    def _mask_folded(self, edit: Edit, latitude: str, longitude: str) -> None:
        """Aggregates of real positions: a mean may lie outside of a fence, its samples inside."""
        table = edit.table
        everywhere = np.ones(len(table), bool)
        if self._grid is None or self._settings.geofence:
            for name in filter(None, (latitude, longitude)):
                edit.leave_out(name, everywhere)
            return
        here = np.full(len(table), np.nan)
        if latitude:
            here = coordinate(table, latitude, MOST_LATITUDE)
            edit.leave_out(latitude, np.isnan(here))
            edit.put(latitude, self._grid.latitude(here), ~np.isnan(here))
        if longitude:
            there = coordinate(table, longitude, MOST_LONGITUDE)
            unknown = np.isnan(here) | np.isnan(there)
            edit.leave_out(longitude, unknown)
            edit.put(longitude, self._grid.longitude(here, there), ~unknown)


# -- what a profile names --------------------------------------------------------------------


def _signals(
    settings: Privacy, database: Database, vss: Mapping[str, SignalPath]
) -> tuple[dict[SignalPath, _Axis], dict[SignalPath, _Pair]]:
    """What each signal tells, and the pair that a coordinate belongs to.

    Raises:
        ConfigError: see `Profile`.
    """
    named: list[tuple[_Axis, Sequence[str]]] = [
        ("vin", settings.vin),
        ("latitude", settings.latitude),
        ("longitude", settings.longitude),
    ]
    axes: dict[SignalPath, _Axis] = {}
    order = {path: number for number, path in enumerate(dict.fromkeys(database.paths()))}
    by_axis: dict[_Axis, list[SignalPath]] = {}
    for axis, patterns in named:
        by_axis[axis] = sorted(database.select(resolve(patterns, vss)), key=order.__getitem__)
        for path in by_axis[axis]:
            if axes.setdefault(path, axis) != axis:
                raise ConfigError(f"{path} is named as {axes[path]} and as {axis}")
    latitudes, longitudes = by_axis["latitude"], by_axis["longitude"]
    masks = bool(settings.round_m or settings.geofence)
    if masks and not (latitudes or longitudes):
        raise ConfigError('"round_m" and geofences need the signals "latitude" and "longitude"')
    if bool(latitudes) != bool(longitudes):
        raise ConfigError('"latitude" and "longitude" belong together: name the signals of both')
    if latitudes and not masks:
        raise ConfigError("positions would stay as they are: set round_m or a geofence")
    for path, schema in _schemas(database, {*latitudes, *longitudes}):
        _check_coordinate(path, schema)
    pairs = _pairs(latitudes, longitudes)
    return axes, {path: pair for pair in pairs for path in pair}


def _schemas(
    database: Database, wanted: set[SignalPath]
) -> Iterable[tuple[SignalPath, SignalSchema]]:
    for bus in database.buses:
        for message in database.messages(bus):
            for signal in message.signals:
                if (path := SignalPath(bus, message.name, signal.name)) in wanted:
                    yield path, signal.schema
        for expander in database.lists(bus):
            for schema in expander.signals:
                if (path := SignalPath(bus, expander.name, schema.name)) in wanted:
                    yield path, schema
    for table in (*database.tables, *database.telling):
        for schema in table.signals:
            if (path := SignalPath(table.bus, table.message, schema.name)) in wanted:
                yield path, schema


def _check_coordinate(path: SignalPath, schema: SignalSchema) -> None:
    if schema.kind == "bytes" or not schema.scale:
        raise ConfigError(f"{path} holds no number, and a coordinate is one")
    letters = re.sub(r"[^A-Za-z]", "", schema.unit)  # the sign of a degree is often garbled
    if not _DEGREES.fullmatch(letters):
        raise ConfigError(f'{path} is in "{schema.unit}", and positions are masked in degrees')


def _pairs(latitudes: Sequence[SignalPath], longitudes: Sequence[SignalPath]) -> list[_Pair]:
    """In a message one after another, in its order; of the rest, one of each on a bus.

    Raises:
        ConfigError: a coordinate is left over.
    """
    pairs: list[_Pair] = []
    lefts: dict[tuple[str, str], tuple[list[SignalPath], list[SignalPath]]] = {}
    for number, paths in enumerate((latitudes, longitudes)):
        for path in paths:
            lefts.setdefault((path.bus, path.message), ([], []))[number].append(path)
    alone: dict[str, tuple[list[SignalPath], list[SignalPath]]] = {}
    for (bus, message), (north, east) in lefts.items():
        if north and east:
            if len(north) != len(east):
                raise ConfigError(
                    f"{message} has {len(north)} latitudes and {len(east)} longitudes; name one of "
                    "each, or as many"
                )
            pairs += map(_Pair, north, east)
        else:
            of_bus = alone.setdefault(bus, ([], []))
            of_bus[0].extend(north)
            of_bus[1].extend(east)
    for north, east in alone.values():
        if len(north) != 1 or len(east) != 1:
            names = ", ".join(str(path) for path in (*north, *east)[:4])
            raise ConfigError(
                f"it is not clear what belongs together: {names}; name both coordinates of a "
                "message, or one latitude and one longitude of a bus"
            )
        pairs.append(_Pair(north[0], east[0]))
    return pairs
