"""The swinging door: what straight lines need; `policies` says how it decides."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

import numpy as np

from agent.blocks import Float64, Int64, SignalTable
from agent.collect.policy_base import NOTHING, Outcome
from agent.collect.policy_memory import Fields, Memory, Slots, as_kind
from agent.collect.policy_sheet import Mask, Sheet
from agent.collect.policy_walk import Line


class Door(Line):
    """Keeps what straight lines need.

    `seen`; of the last sample `on` and, if it was not, `word`, `time`, `value` and `held`: it is
    not decided; then `bits`, its raw value, and `home`, the schema of the table that it becomes if
    it is kept. Of the one that was kept last, the anchor, `from_time` and `from_value`; `low` and
    `high`: the slopes that are left, 1/ns.
    """

    FIELDS: ClassVar[Fields] = {
        "seen": ("?", False),
        "on": ("?", False),
        "word": ("<u8", 0),
        "time": ("<i8", 0),
        "value": ("<f8", np.nan),
        "held": ("?", False),
        "bits": ("<u8", 0),
        "home": ("<i8", 0),
        "from_time": ("<i8", 0),
        "from_value": ("<f8", np.nan),
        "low": ("<f8", -np.inf),
        "high": ("<f8", np.inf),
    }

    @property
    def held(self) -> int:
        """As `Policy.held`."""
        return int(np.count_nonzero(self._memory["held"]))

    def apply(self, tables: Sequence[SignalTable], reached: Mapping[str, int] = NOTHING) -> Outcome:
        """As `Policy.apply`."""
        outcome = super().apply(tables, reached)
        memory, at_least_ns = self._memory, self.rule.at_least_ns
        if at_least_ns:
            for bus, time in reached.items():
                slots = memory.slots_of(bus)
                due = memory["held"][slots] & (memory["time"][slots] <= time - at_least_ns)
                self._settle(slots[due], outcome)
        return outcome

    def finish(self) -> Outcome:
        """Keep what is held."""
        outcome = Outcome()
        self._settle(np.flatnonzero(self._memory["held"]), outcome)
        return outcome

    def _settle(self, slots: Slots, outcome: Outcome) -> None:
        """Keep what series hold: their lines begin there."""
        memory = self._memory
        self._release(slots, outcome)
        memory["held"][slots] = False
        for field in ("time", "value"):
            memory[f"from_{field}"][slots] = memory[field][slots]
        memory["low"][slots] = -np.inf
        memory["high"][slots] = np.inf

    def _check(self, memory: Memory) -> None:
        for slot in np.flatnonzero(memory["held"]).tolist():
            signal = memory.keys[slot].signal
            if not memory.has_home(slot) or len(memory.homes[memory["home"][slot]].signals) != 1:
                raise ValueError(f"a sample of {signal.name} is held without its table")
            if signal.kind == "bytes":
                raise ValueError(f"bytes of {signal.name} are held")

    def _release(self, slots: Slots, outcome: Outcome) -> None:
        """Keep samples of earlier blocks."""
        memory = self._memory
        times, bits = memory["time"][slots], memory["bits"][slots]
        for row, home in enumerate(memory["home"][slots].tolist()):
            schema = memory.homes[home]
            kind = schema.signals[0].kind
            values = as_kind(bits[row : row + 1], kind)[None]
            outcome.tables.append(SignalTable(schema, times[row : row + 1], {kind: values}))
        outcome.kept += len(slots)

    def _walk(self, sheet: Sheet, outcome: Outcome) -> Mask:
        memory, slots = self._memory, sheet.slots
        on, forced = self._ends(sheet)
        chosen = np.zeros((sheet.rows, sheet.columns), bool)
        line = _Lines(*(memory[name][slots] for name in _LINE))
        held = memory["held"][slots]
        times, values = sheet.times, sheet.physical
        before = (memory["time"][slots], memory["value"][slots])
        for row, m in enumerate(sheet.active):
            time, value = times[row, :m], values[row, :m]
            broken = line.broken(time, value)
            if forced is not None:
                broken |= forced[row, :m]
            at = np.flatnonzero(broken)
            if len(at):
                kept = at[held[at]]
                if row:
                    chosen[row - 1, kept] = True
                else:
                    self._release(slots[kept], outcome)
                line.begin(at, *before)
                line.measure(at, time, value)
            line.narrow(m, self.rule.bound)
            now = self._now(line, m, None if forced is None else forced[row, :m])
            held[:m] = True if on is None else on[row, :m]
            if now is not None and len(at := np.flatnonzero(now)):
                chosen[row, at] = True
                line.begin(at, time, value)
                held[at] = False
            before = (time, value)
        for name, column in zip(_LINE, line.state, strict=True):
            memory[name][slots] = column
        memory["time"][slots] = times[sheet.last, sheet.every]
        memory["value"][slots] = values[sheet.last, sheet.every]
        memory["held"][slots] = held
        memory["bits"][slots[held]] = sheet.last_words[held]
        memory["home"][slots[held]] = self._homes(sheet)[held]
        return chosen

    def _ends(self, sheet: Sheet) -> tuple[Mask | None, Mask | None]:
        """As `_forced`, and also where a line ends: time does not go on, or goes on too far."""
        on, forced = self._forced(sheet)
        times = sheet.times
        since = np.empty_like(times)
        np.subtract(times[1:], times[:-1], out=since[1:])
        np.subtract(times[0], self._memory["time"][sheet.slots], out=since[0])
        ends = since <= 0
        if self.rule.at_least_ns:
            ends |= since >= self.rule.at_least_ns
        sheet.clear_rest(ends)
        if not ends.any():
            return on, forced
        if on is None or forced is None:
            return on, ends
        return on, forced | (ends & on)

    def _now(self, line: "_Lines", m: int, forced: Mask | None) -> Mask | None:
        """What is kept at once, bool[m]; None: nothing is."""
        if not self.rule.at_least_ns:
            return forced
        old: Mask = line.age[:m] >= self.rule.at_least_ns
        return old if forced is None else old | forced

    def _homes(self, sheet: Sheet) -> Int64:
        """int64[columns]: numbers of the schemas of the last samples."""
        homes: list[int] = []
        for unit in sheet.units:
            if unit.origin is None:
                homes += unit.layout.homes
            else:
                last = len(unit.table) - 1
                homes += [
                    self._memory.home(unit.origin.single(column, last))
                    for column in range(len(unit.layout.columns))
                ]
        return np.array(homes, np.int64)


_LINE: Final = ("from_time", "from_value", "low", "high")


class _Lines:
    """The lines of all series of a sheet: an anchor, and the slopes that are left."""

    def __init__(self, from_time: Int64, from_value: Float64, low: Float64, high: Float64) -> None:
        self.state = (from_time, from_value, low, high)
        self.age: Int64 = np.empty_like(from_time)
        """Of the sample that was measured last: how much later than the anchor it is, ns..."""
        self._span = np.empty_like(low)
        self._rise = np.empty_like(low)
        """... and how much higher."""
        self._slope = np.empty_like(low)

    def broken(self, time: Int64, value: Float64) -> Mask:
        """Measure a sample of each of the first m series; bool[m]: no line reaches it."""
        m = len(time)
        from_time, from_value, low, high = self.state
        age, span, rise, slope = (a[:m] for a in (self.age, self._span, self._rise, self._slope))
        np.subtract(time, from_time[:m], out=age)
        np.copyto(span, age)
        np.subtract(value, from_value[:m], out=rise)
        np.divide(rise, span, out=slope)
        broken: Mask = slope > high[:m]
        broken |= slope < low[:m]
        return broken

    def measure(self, at: Slots, time: Int64, value: Float64) -> None:
        """Measure again those that have a new anchor."""
        from_time, from_value, _, _ = self.state
        self.age[at] = self._span[at] = time[at] - from_time[at]
        self._rise[at] = value[at] - from_value[at]

    def begin(self, at: Slots, time: Int64, value: Float64) -> None:
        """A sample becomes the anchor."""
        from_time, from_value, low, high = self.state
        from_time[at] = time[at]
        from_value[at] = value[at]
        low[at] = -np.inf
        high[at] = np.inf

    def narrow(self, m: int, bound: float) -> None:
        """Leave the slopes that pass what was measured within the bound."""
        _, _, low, high = self.state
        span, rise, slope = self._span[:m], self._rise[:m], self._slope[:m]
        np.add(rise, bound, out=slope)
        np.divide(slope, span, out=slope)
        np.minimum(high[:m], slope, out=high[:m])
        np.subtract(rise, bound, out=slope)
        np.divide(slope, span, out=slope)
        np.maximum(low[:m], slope, out=low[:m])
