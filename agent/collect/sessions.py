"""Trips and charging sessions: what an electric vehicle did between two moments, in one record.

A session begins when its condition becomes true and ends when the condition has been false for
`end_after_s`; its last moment is the one at which that began. A condition that is true again sooner
goes on with the session. Trips and charging sessions are made independently of one another.

Rows and changes of the conditions wait until every bus has come as far (`reached`, or 10 minutes
behind the first), and are then taken in the order of their times: the figures do not depend on
where blocks end, nor on how buses take turns. Rows of a time that was taken already come too late
and are counted.

Values are compared and given in V, A, kW, % and km, temperatures in degC: where the database has
another unit of the same quantity, they are converted; an unknown or empty unit is taken for the one
that is asked for. Samples that are no measurements (codes, NaN) do not exist here.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from agent import settings
from agent.blocks import Float64, Int64, SignalTable, TableSchema, TimeBase
from agent.collect.measures import Column
from agent.collect.session_figures import (
    ODOMETER,
    POWER,
    SOC,
    VOLTAGE,
    Extreme,
    Held,
    Stretch,
    Totals,
    time_of,
)
from agent.collect.session_machine import Machine, Steps
from agent.collect.session_signals import Signals
from agent.signals.database import ANY_BUS, Database, SignalPath

__all__ = ["SessionMaker", "Steps"]

_S = 1_000_000_000
_LAG_NS = 600 * _S
_NEVER: Final = -(1 << 62)
_FAR: Final = 1 << 62
"""No time of a sample: who says that a bus has reached this says that nothing comes any more."""

_KINDS = ("trip", "charging")


_Key = tuple[str, str, int, str, str]
"""Bus, message, source, branch, signals: in this order tables stand at one time."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Piece:
    """The samples that one table gave: time int64[n], slots int64[k], values float64[k, n].

    NaN is no sample.
    """

    key: _Key
    time: Int64
    slots: Int64
    values: Float64

    def rows(self, mask: NDArray[np.bool_]) -> "_Piece":
        return _Piece(self.key, self.time[mask], self.slots, self.values[:, mask])


class _Picked:
    """What is wanted of the tables of one schema."""

    def __init__(self, schema: TableSchema, columns: Sequence[tuple[str, Column]]) -> None:
        source = -1 if schema.source is None else schema.source
        names = " ".join(schema.names)
        self.key = (schema.bus, schema.message, source, schema.branch, names)
        self.names = [name for name, _ in columns]
        self.coded = [n for n, name in enumerate(self.names) if schema.by_name[name].codes]
        self.slots = np.array([column.slot for _, column in columns], np.int64)
        self._convert = not all(column.is_same for _, column in columns)
        parts = [(column.above, column.below, column.offset) for _, column in columns]
        self._parts = np.array(parts, np.float64).reshape(-1, 3).T[:, :, None]

    def values(self, table: SignalTable) -> Float64:
        """float64[k, n], NaN where there is no measurement."""
        found = np.empty((len(self.names), len(table)))
        for row, name in zip(found, self.names, strict=True):
            row[:] = table.physical(name)
        for place in self.coded:
            found[place][table.validity(self.names[place]) != 0] = np.nan
        if self._convert:
            above, below, offset = self._parts
            found = found * above / below + offset
        return found


class SessionMaker:
    """Makes the records of trips and charging sessions; belongs to the decode thread."""

    def __init__(
        self,
        sessions: settings.Sessions,
        database: Database,
        vss: Mapping[str, SignalPath] | None = None,
    ) -> None:
        """Find the signals.

        Raises:
            ConfigError: one does not exist, is not one, is no number or measures something else.
        """
        self._signals = Signals(sessions, database, vss or {})
        end_after_ns = round(sessions.end_after_s * _S)
        self._machines = {kind: Machine(end_after_ns) for kind in _KINDS}
        self._held = Held.nothing(self._signals.slots)
        self._pieces: list[_Piece] = []
        self._taken: int | None = None
        """Up to which time, without it, everything is taken."""
        self._newest = _NEVER
        self._clock = "boot"
        self._picked: dict[TableSchema, _Picked | None] = {}
        self.late = 0
        """Samples that came too late to be taken in their order."""

    @property
    def wanted(self) -> set[SignalPath]:
        """What must be decoded, besides what the conditions need."""
        return set(self._signals.columns)

    @property
    def signals(self) -> list[str]:
        """What this makes sessions of; a state goes on where it is the same."""
        return self._signals.names()

    def take(
        self,
        tables: Sequence[SignalTable],
        moving: Steps | None,
        charging: Steps | None,
        reached: Mapping[str, int],
    ) -> list[dict[str, Any]]:
        """The rows of a block; gives the sessions that ended.

        `moving` and `charging` have the changes that were decided since the last call (None for
        none), for all times before those of `reached`: up to where each bus has come, rows of which
        may still follow at that time itself. A bus that is silent has to be moved on by the caller.
        """
        for table in tables:
            self._put(table)
        times = [t for t in reached.values() if abs(t) < _FAR]
        times += [int(each.times[-1]) for each in (moving, charging) if each and len(each.times)]
        self._newest = max([self._newest, *times])
        begin = self._begin(times) if self._taken is None else self._taken
        for kind, steps in zip(_KINDS, (moving, charging), strict=True):
            if steps is not None:
                self._machines[kind].note(steps, self._taken, begin)
        if not reached:
            return []
        first = max((t for t in reached.values() if t < _FAR), default=_NEVER)
        return self._go_on(max(min(reached.values()), first - _LAG_NS))

    def finish(self) -> list[dict[str, Any]]:
        """The run ends: what ended, and what is going on, which is not complete."""
        found = self._go_on(self._newest + 1)
        for kind, machine in self._machines.items():
            going, machine.open = machine.open, None
            if going is None:
                continue
            if going.fell is not None and going.then is not None:
                found.append(self._record(kind, going.fell, going.then, complete=False))
            else:
                last = max(self._newest, going.totals.first)
                found.append(self._record(kind, last, going.totals, complete=False))
        return found

    def adopt(self, old: "SessionMaker") -> bool:
        """Go on where another one stopped; False where it made sessions of other signals.

        What goes on in that one is then for its own `finish` to give.
        """
        if self.signals != old.signals:
            return False
        end_after_ns = self._machines["trip"].end_after_ns
        for name in ("_machines", "_held", "_pieces", "_taken", "_newest", "_clock", "late"):
            setattr(self, name, getattr(old, name))
        for machine in self._machines.values():
            machine.end_after_ns = end_after_ns
        return True

    def state(self) -> dict[str, Any]:
        """What a next run of the same boot needs to go on, for msgpack."""
        return {
            "signals": self.signals,
            "taken": self._taken,
            "newest": self._newest,
            "clock": self._clock,
            "late": self.late,
            "held": [self._held.value.tobytes(), self._held.time.tobytes()],
            "machines": {kind: machine.state() for kind, machine in self._machines.items()},
            "pieces": [
                [list(p.key), p.time.tobytes(), p.slots.tobytes(), p.values.tobytes()]
                for p in self._pieces
            ],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with what `state` gave; all of it or, with an error, nothing.

        Raises:
            ValueError: it did not give this, or with other signals.
        """
        try:
            if state["signals"] != self.signals:
                raise ValueError("the sessions were made of other signals")
            slots = self._signals.slots
            value, time = state["held"]
            held = Held(_array(value, np.float64, slots), _array(time, np.int64, slots))
            pieces = [_piece(each, slots) for each in state["pieces"]]
            machines = {k: m.restored(state["machines"][k]) for k, m in self._machines.items()}
            for machine in machines.values():
                self._check(machine)
            taken = None if state["taken"] is None else time_of(state["taken"])
            newest, late = time_of(state["newest"]), int(state["late"])
            clock = _clock(state["clock"])
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as e:
            raise ValueError(f"no state of sessions: {e!r}") from e
        self._held, self._pieces, self._machines = held, pieces, machines
        self._taken, self._newest, self._clock, self.late = taken, newest, clock, late

    def _check(self, machine: Machine) -> None:
        going = machine.open
        figures = [] if going is None else [t for t in (going.totals, going.then) if t is not None]
        for totals in figures:
            for group, paths in zip(
                (totals.cells, totals.temperatures), self._signals.groups, strict=True
            ):
                for extreme in (group.least, group.greatest):
                    if extreme is not None and not 0 <= extreme[1] < len(paths):
                        raise ValueError(f"there is no cell {extreme[1]}")

    # -- samples -----------------------------------------------------------------------------

    def _put(self, table: SignalTable) -> None:
        """Note the samples of a table; its arrays belong to the decoder."""
        schema = table.schema
        if schema not in self._picked:
            columns = [
                (name, column)
                for name in schema.names
                for bus in (schema.bus, ANY_BUS)
                for column in self._signals.columns.get(SignalPath(bus, schema.message, name), ())
            ]
            self._picked[schema] = _Picked(schema, columns) if columns else None
        picked = self._picked[schema]
        if picked is None or not len(table):
            return
        piece = _Piece(picked.key, table.time.copy(), picked.slots, picked.values(table))
        if self._taken is not None and int(piece.time.min()) < self._taken:
            late = piece.time < self._taken
            self.late += int(np.isfinite(piece.values[:, late]).sum())
            piece = piece.rows(~late)
            if not len(piece.time):
                return
        self._pieces.append(piece)
        self._newest = max(self._newest, int(piece.time.max()))
        self._clock = schema.clock

    def _begin(self, times: Iterable[int]) -> int | None:
        """The first time that is known of, while nothing is taken."""
        return min([*times, *(int(p.time.min()) for p in self._pieces)], default=None)

    def _go_on(self, horizon: int) -> list[dict[str, Any]]:
        """Take all that is before the horizon."""
        taken = self._taken
        if taken is not None and horizon <= taken:
            return []
        stretch = self._stretch(horizon)
        self._taken = horizon
        found = [
            self._record(kind, last, totals, complete=True)
            for kind, machine in self._machines.items()
            for last, totals in machine.take(
                stretch, _NEVER + 1 if taken is None else taken, horizon
            )
        ]
        self._held = stretch.after()
        return sorted(found, key=lambda record: (record["last"], record["kind"]))

    def _stretch(self, horizon: int) -> Stretch:
        """The samples before a time, in order; the others wait on."""
        ripe, waiting = [], []
        for piece in self._pieces:
            mask = piece.time < horizon
            if mask.all():
                ripe.append(piece)
                continue
            waiting.append(piece.rows(~mask))
            if mask.any():
                ripe.append(piece.rows(mask))
        self._pieces = waiting
        # At one time, messages stand in the order of their names: blocks cannot change that.
        ripe.sort(key=lambda piece: piece.key)
        lengths = [len(p.time) for p in ripe for _ in p.slots]
        time = np.concatenate([np.empty(0, np.int64), *(p.time for p in ripe for _ in p.slots)])
        slot = np.concatenate([np.empty(0, np.int64), *(p.slots for p in ripe)])
        value = np.concatenate([np.empty(0), *(p.values.ravel() for p in ripe)])
        slot = np.repeat(slot, np.array(lengths, np.intp))
        valid = np.isfinite(value)
        if not valid.all():
            time, slot, value = time[valid], slot[valid], value[valid]
        order = np.lexsort((slot, time))
        spans = tuple(self._signals.spans)
        return Stretch(time[order], slot[order], value[order], self._held, spans)

    # -- records -----------------------------------------------------------------------------

    def _record(self, kind: str, last: int, totals: Totals, *, complete: bool) -> dict[str, Any]:
        """The value of an event record; keys only for what is mapped, None where nothing came."""
        signals = self._signals
        record: dict[str, Any] = {
            "kind": kind,
            "name": kind,
            "campaign": "",
            "time": last,
            "first": totals.first,
            "last": last,
            "clock": self._clock,
            "complete": complete,
            "duration_s": (last - totals.first) / _S,
        }
        if signals.has(POWER, VOLTAGE):
            record |= totals.energy(last)
        if signals.has(SOC):
            names = ("soc_first", "soc_last", "soc_min", "soc_max")
            record |= zip(names, totals.soc or (None,) * 4, strict=True)
        if signals.has(ODOMETER):
            first_last = totals.odometer
            record["distance_km"] = None if first_last is None else first_last[1] - first_last[0]
        groups = (("cell", totals.cells), ("temperature", totals.temperatures))
        for (name, group), paths in zip(groups, signals.groups, strict=True):
            if paths:
                record[f"{name}_min"] = _extreme(group.least, paths)
                record[f"{name}_max"] = _extreme(group.greatest, paths)
                record[f"{name}_spread_max"] = group.spread
        return record


def _extreme(extreme: Extreme | None, paths: Sequence[SignalPath]) -> dict[str, Any] | None:
    if extreme is None:
        return None
    value, place, time = extreme
    return {"value": value, "signal": str(paths[place]), "number": place + 1, "time": time}


def _clock(text: Any) -> str:
    if text not in get_args(TimeBase):
        raise ValueError(f"there is no clock {text!r}")
    return str(text)


def _array(data: Any, kind: Any, length: int | None = None) -> Any:
    """An array of its own from bytes.

    Raises:
        TypeError, ValueError: it is none, or has another length.
    """
    found = np.frombuffer(data, kind).copy()
    if length is not None and len(found) != length:
        raise ValueError(f"{len(found)} values in place of {length}")
    return found


def _piece(state: Any, slots: int) -> _Piece:
    key, times, numbers, values = state
    bus, message, source, branch, names = key
    time, slot = _array(times, np.int64), _array(numbers, np.int64)
    if not len(time) or not len(slot) or not 0 <= int(slot.min()) <= int(slot.max()) < slots:
        raise ValueError("there is no such slot")
    value = _array(values, np.float64, len(slot) * len(time)).reshape(len(slot), len(time))
    where = (str(bus), str(message), int(source), str(branch), str(names))
    return _Piece(where, time, slot, value)
