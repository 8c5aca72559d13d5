"""What a mapping was told of a vehicle: when rows came, up to where all have come, conditions.

`Heard` knows nothing of values; those are in `Held`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from agent.blocks import Int64, SignalTable, TableSchema, TimeBase
from agent.clock import SECOND
from agent.signals.database import ANY_BUS, SignalPath

if TYPE_CHECKING:
    from agent.collect.conditions import Steps

NEVER: Final = -(1 << 62)
LAG_NS: Final = 10 * SECOND
"""A bus that is further behind the newest one is not waited for."""

_FAR: Final = 1 << 62
_NO_TIMES: Final[Int64] = np.empty(0, np.int64)


class Truth:
    """A condition over time, as far as its changes are known."""

    def __init__(self) -> None:
        self._value = False
        self._times = _NO_TIMES
        """When it changes after the time that was asked for last."""
        self.rose = False
        """Whether it became true between the last two times that were asked for."""

    def note(self, steps: "Steps", since: int) -> None:
        """Changes; where what was before them is news, it is so from `since` on."""
        times = self._times
        if steps.before != self._value ^ bool(len(times) & 1):
            since = max(since, int(times[-1])) if len(times) else since
            times = np.append(times, np.int64(since))
        self._times = np.concatenate([times, steps.times])

    def at(self, time_ns: int) -> bool:
        """The truth at a time; times are asked for in ascending order."""
        passed = int(np.searchsorted(self._times, time_ns, "right"))
        self.rose = passed > self._value
        if passed:
            self._value ^= bool(passed & 1)
            self._times = self._times[passed:]
        return self._value


@dataclasses.dataclass(frozen=True, slots=True)
class _Reading:
    """Whether a table has signals that are wanted, and whether such that are read of any bus."""

    some: bool
    by_any_bus: bool


class Heard:
    """When there were rows with signals that are wanted.

    Attributes:
        clock: that of the first rows; rows of another clock are not taken.
        first: the first row before anything was decided; None before there is one.
        newest: the newest row, NEVER before there is one.
        decided: up to where `until` was asked.
    """

    def __init__(self, wanted: set[SignalPath]) -> None:
        self._wanted = wanted
        self._buses = {path.bus for path in wanted} - {ANY_BUS}
        self._any_bus = any(path.bus == ANY_BUS for path in wanted)
        self._found: set[str] = set()
        """Buses that gave signals which are read of any bus."""
        self._readings: dict[TableSchema, _Reading] = {}
        self._waiting: list[Int64] = []
        """Times of rows that are later than `decided`, each ascending."""
        self._passed = NEVER
        """The newest of the others."""
        self._resumed = NEVER
        """The first row after a silence of all buses."""
        self.clock: TimeBase | None = None
        self.first: int | None = None
        self.newest = NEVER
        self.decided: int | None = None

    def put(self, tables: Sequence[SignalTable]) -> list[SignalTable]:
        """Gives the tables that have something of what is wanted."""
        mine = []
        for table in tables:
            reading = self._readings.get(table.schema)
            if reading is None:
                reading = self._readings[table.schema] = self._read(table.schema)
            if not reading.some or not len(table):
                continue
            self.clock = self.clock or table.clock
            if table.clock != self.clock:
                continue
            if reading.by_any_bus:
                self._found.add(table.bus)
            mine.append(table)
        if mine:
            times = np.sort(np.concatenate([table.time for table in mine]))
            self._waiting.append(times)
            self._note_silence(times)
            self.newest = max(self.newest, int(times[-1]))
            if self.decided is None:
                first = int(times[0])
                self.first = first if self.first is None else min(first, self.first)
        return mine

    def horizon(self, reached: Mapping[str, int]) -> tuple[int, int]:
        """Up to and with which time no row is missing, and the newest time of a bus.

        NEVER where nothing is known.
        """
        waited = self._buses | self._found
        if self._any_bus and not self._found:
            waited |= set(reached)
        known = [reached[bus] for bus in waited if bus in reached and abs(reached[bus]) < _FAR]
        if not known:
            return NEVER, NEVER
        newest = max(known)
        if self.first is not None and any(bus not in reached for bus in waited):
            # A bus from which nothing has come yet is as far as the first row.
            known.append(self.first)
        # After a silence of all, nobody lags before the first one has come further.
        late = newest - LAG_NS
        horizon = min(time for time in known if max(time, self._resumed) >= late)
        return max(horizon, min(self._resumed, newest) - LAG_NS) - 1, newest

    def until(self, time_ns: int) -> int:
        """The newest row up to and with a time; times are asked for in ascending order."""
        waiting = []
        for times in self._waiting:
            passed = int(np.searchsorted(times, time_ns, "right"))
            if passed:
                self._passed = max(self._passed, int(times[passed - 1]))
            if passed < len(times):
                waiting.append(times[passed:])
        self._waiting = waiting
        self.decided = time_ns
        return self._passed

    def following(self) -> int | None:
        """The first row after the time that was asked for last."""
        return min((int(times[0]) for times in self._waiting), default=None)

    def adopt(self, old: "Heard") -> None:
        """Go on where another one was that wanted other signals."""
        for name in ("_waiting", "_passed", "_resumed", "clock", "first", "newest", "decided"):
            setattr(self, name, getattr(old, name))

    def _note_silence(self, times: Int64) -> None:
        """`times` are ascending."""
        if self.newest != NEVER:
            ends = times[np.diff(times, prepend=self.newest) > LAG_NS]
            if len(ends):
                self._resumed = int(ends[-1])

    def _read(self, schema: TableSchema) -> _Reading:
        found = {
            bus
            for bus in (schema.bus, ANY_BUS)
            for name in schema.names
            if SignalPath(bus, schema.message, name) in self._wanted
        }
        return _Reading(bool(found), ANY_BUS in found)
