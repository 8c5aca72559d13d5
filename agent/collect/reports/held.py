"""The last values of the signals that reports read, as they are known at one moment after another.

Each signal has a slot: a place in two arrays, its last value and the time of that. A signal may
have two, one of physical values (NaN where the raw value is a code) and one of raw values, which a
table of states needs. Slots of bus `*` are of the message on any bus, and the last sample wins.

Rows come a block at a time, and moments are in the midst of blocks: rows of later times wait.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, Int64, Kind, SignalSchema, SignalTable, TableSchema
from agent.signals.database import ANY_BUS, SignalPath

_NEVER: Final = -(1 << 62)


class Slots:
    """Which signal has which slots; filled while a plan is compiled."""

    def __init__(self) -> None:
        self._slots: dict[tuple[SignalPath, bool], int] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def of(self, path: SignalPath, *, raw: bool = False) -> int:
        """The slot of a signal, made where there is none yet."""
        return self._slots.setdefault((path, raw), len(self._slots))

    @property
    def wanted(self) -> set[SignalPath]:
        return {path for path, _ in self._slots}

    @property
    def by_signal(self) -> Mapping[tuple[SignalPath, bool], int]:
        """Slots by signal, and whether they are of raw values."""
        return self._slots


class Held:
    """What is known of every slot.

    Shapes and dtypes: value float64[slots], NaN where nothing is known; time int64[slots], ns.
    `fix` is the last valid position (longitude, latitude), which `CompiledReports.sample` keeps.
    """

    def __init__(self, slots: Slots) -> None:
        self._slots = dict(slots.by_signal)
        self.value: Float64 = np.full(len(slots), np.nan)
        self.time: Int64 = np.full(len(slots), _NEVER, np.int64)
        self.fix: tuple[float, float] | None = None
        self._picked: dict[TableSchema, _Picked | None] = {}
        self._waiting: list[_Rows] = []

    def take(self, tables: Iterable[SignalTable], until_ns: int) -> None:
        """Take the rows up to and with a time; later ones wait for a later call."""
        for table in tables:
            schema = table.schema
            if schema not in self._picked:
                self._picked[schema] = _picked(schema, self._slots)
            picked = self._picked[schema]
            if picked is not None and len(table):
                self._waiting.append(_Rows(picked, _in_order(table)))
        if not self._waiting:
            return
        with np.errstate(all="ignore"):  # what overflows or is no number has a meaning here
            self._waiting = [rows for rows in self._waiting if self._go_on(rows, until_ns)]

    def adopt(self, old: "Held") -> None:
        """Go on with what another one knew of the same signals."""
        for signal, slot in self._slots.items():
            if (other := old._slots.get(signal)) is not None:  # noqa: SLF001 - one Held to another
                self.value[slot], self.time[slot] = old.value[other], old.time[other]
        self.fix = old.fix

    def _go_on(self, rows: "_Rows", until_ns: int) -> bool:
        """Take what is of a time up to this; whether there is more."""
        table, picked = rows.table, rows.picked
        stop = len(table.time)
        if table.time[-1] > until_ns:
            stop = int(table.time.searchsorted(until_ns, "right"))
        if stop > rows.begin:
            rows.begin = stop
            time = int(table.time[stop - 1])
            newer = self.time[picked.slots] <= time
            slots = picked.slots[newer]
            self.value[slots] = picked.values(table, stop - 1)[newer]
            self.time[slots] = time
        return stop < len(table)


@dataclasses.dataclass(slots=True, eq=False)
class _Rows:
    """A table whose rows from `begin` on are not taken yet."""

    picked: "_Picked"
    table: SignalTable
    begin: int = 0


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Columns of one kind: their rows in `values[kind]`, their places among the slots, scales."""

    kind: Kind
    rows: NDArray[np.intp]
    places: NDArray[np.intp]
    scale: Float64
    offset: Float64


class _Picked:
    """The columns of a table that have slots."""

    def __init__(
        self, schema: TableSchema, columns: Sequence[tuple[SignalSchema, int, bool]]
    ) -> None:
        """`columns`: signal, slot, whether it is of raw values."""
        self.slots = np.array([slot for _, slot, _ in columns], np.intp)
        kinds: dict[Kind, list[tuple[int, int, float, float]]] = {}
        self._slow: list[tuple[int, SignalSchema]] = []
        """Columns whose raw values may be codes, or need more than doubles."""
        for place, (signal, _, raw) in enumerate(columns):
            kind, row = schema.place[signal.name]
            scale, offset = (1.0, 0.0) if raw else (float(signal.scale), float(signal.offset))
            kinds.setdefault(kind, []).append((row, place, scale, offset))
            if not raw and (signal.codes or signal.needs_whole_arithmetic):
                self._slow.append((place, signal))
        self._parts = [_part(kind, columns) for kind, columns in kinds.items()]

    def values(self, table: SignalTable, row: int) -> Float64:
        """float64[slots] of one row, NaN where it is no measurement."""
        found = np.empty(len(self.slots))
        for part in self._parts:
            raw = table.values[part.kind][part.rows, row].astype(np.float64)
            found[part.places] = raw * part.scale + part.offset
        for place, signal in self._slow:
            one = table.raw[signal.name][row : row + 1]
            found[place] = np.nan if signal.validity(one)[0] else signal.physical(one)[0]
        return found


def _part(kind: Kind, columns: Sequence[tuple[int, int, float, float]]) -> _Part:
    rows, places, scale, offset = zip(*columns, strict=True)
    return _Part(
        kind,
        np.array(rows, np.intp),
        np.array(places, np.intp),
        np.array(scale, np.float64),
        np.array(offset, np.float64),
    )


def _picked(schema: TableSchema, slots: Mapping[tuple[SignalPath, bool], int]) -> _Picked | None:
    columns: list[tuple[SignalSchema, int, bool]] = []
    for signal in schema.signals:
        if signal.kind == "bytes":
            continue
        for bus in (schema.bus, ANY_BUS):
            for raw in (False, True):
                slot = slots.get((SignalPath(bus, schema.message, signal.name), raw))
                if slot is not None:
                    columns.append((signal, slot, raw))
    return _Picked(schema, columns) if columns else None


def _in_order(table: SignalTable) -> SignalTable:
    """The same rows in the order of time."""
    time: NDArray[Any] = table.time
    if len(time) < 2 or not (time[1:] < time[:-1]).any():
        return table
    return table.take(np.argsort(time, kind="stable"))
