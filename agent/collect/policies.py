"""The policies of a campaign that keep samples as they are, and how one is made.

Per series, a sample is kept

- `all`: always;
- `every`: where it lies in another cell of a fixed grid (time // interval) than the one before;
- `on_change`: where its raw value differs from that of the sample before, bit by bit, so that NaN
  equals itself;
- `dead_band`, `dead_band_relative`: where its physical value differs from the last one that was
  kept by more than `bound`, or by more than `bound` times the size of that one;
- `door`: where lines between samples that are kept would otherwise be further than `bound` from
  one that is not (a swinging door).

The first sample of a series is always kept. With `at_least_ns`, the last three also keep a sample
where the one kept last is that old.

A sample is *on* where it has a finite physical value that is no code (`SignalSchema.codes`); bytes
never are. Dead bands and doors keep each sample at which on changes to off or back, and of those
that are off each whose raw value differs from that of the sample before.

**Lists** (`TableSchema.entries`): rows of one time are kept or thinned together. With all but
`every` they are all kept, as a row cannot be compared with the one before, which is another entry.

**The door.** From the sample that was kept last, the anchor, each later one leaves a cone of slopes
that pass it within the bound. Where the slope to a new sample lies outside what the cones have in
common, the door breaks: the sample before it is kept, as the line to that one is good for all
between, and is the new anchor. So all that is kept was measured, and the error is bounded for every
sample and not only on the average. The sample before is known to be kept, or not, only with the
next one: it is `held` until then. A line ends, so that the samples on both sides are kept, with on
and off changes, where a sample is not later than the one before, and where it is later by
`at_least_ns` or more: so nothing is held for longer, whether or not a next sample comes.

**Cost.** With dead bands, doors and `at_least_ns`, whether a sample is kept depends on what was
kept before it. So these go from row to row, in one step for all series of the block (`Sheet`). A
step costs some microseconds for a few series, and twice as much for a thousand, whatever is kept.
The worst case is a block of a single message, where there are as many steps as frames.
tests/benchmarks/bench_policies.py prints both.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from agent.blocks import Float64, Int64, SignalTable
from agent.collect.policy_base import NOTHING, Outcome, Policy
from agent.collect.policy_memory import Fields, Memory, Slots
from agent.collect.policy_sheet import (
    Mask,
    Sheet,
    Unit,
    by_signal,
    kept_parts,
    units,
    whole_rows,
)
from agent.collect.policy_walk import Line, Walk
from agent.collect.rules import Rule

__all__ = ["Outcome", "Policy", "policy_of"]


def policy_of(rule: Rule) -> Policy:
    """A policy that has seen nothing yet.

    Raises:
        ValueError: a rule that cannot be: no interval, or a bound below 0.
    """
    if rule.kind in ("every", "window") and rule.interval_ns <= 0:
        raise ValueError(f"an interval of {rule.interval_ns} ns")
    if not rule.bound >= 0 or rule.at_least_ns < 0:
        raise ValueError(f"a bound of {rule.bound}, or a time of {rule.at_least_ns} ns")
    match rule.kind:
        case "all":
            return All(rule, Memory({}))
        case "every":
            return Every(rule, Memory(Every.FIELDS))
        case "on_change":
            return OnChange(rule, Memory(OnChange.FIELDS))
        case "dead_band" | "dead_band_relative":
            return DeadBand(rule, Memory(DeadBand.FIELDS))
        case "door":
            from agent.collect.policy_door import Door  # noqa: PLC0415 - costs time at the start

            return Door(rule, Memory(Door.FIELDS))
        case "window":
            from agent.collect.windows import Window  # noqa: PLC0415 - costs time at the start

            return Window(rule, Memory(Window.FIELDS))


class All(Policy):
    """Keeps everything."""

    def apply(self, tables: Sequence[SignalTable], reached: Mapping[str, int] = NOTHING) -> Outcome:
        return Outcome([t for t in tables if len(t)], kept=sum(t.samples for t in tables))


class Every(Policy):
    """Keeps the first sample of each interval.

    `seen`; `time` and `cell` of the last sample; `chosen`: it was kept.
    """

    FIELDS: ClassVar[Fields] = {
        "seen": ("?", False),
        "time": ("<i8", 0),
        "cell": ("<i8", 0),
        "chosen": ("?", False),
    }

    def apply(self, tables: Sequence[SignalTable], reached: Mapping[str, int] = NOTHING) -> Outcome:
        found, parts = units(tables, self._memory)
        if not found:
            return Outcome()
        times = np.concatenate([unit.table.time for unit in found])
        cells = times // self.rule.interval_ns
        edges = np.cumsum([0, *(len(unit.table) for unit in found)])
        differs = np.empty(len(cells), bool)
        np.not_equal(cells[1:], cells[:-1], out=differs[1:])
        widths = [len(unit.layout.columns) for unit in found]
        slots = np.concatenate([unit.layout.slots for unit in found])
        unit_of = np.repeat(np.arange(len(found)), widths)
        # By series: is the first sample of this block kept?
        head = self._head(slots, cells[edges[:-1]][unit_of])
        columns = [0, *itertools.accumulate(widths)]
        first = np.logical_and.reduceat(head, columns[:-1])
        none = ~np.logical_or.reduceat(head, columns[:-1])
        differs[edges[:-1]] = first
        outcome = Outcome()
        last = np.empty(len(slots), bool)
        for number, unit in enumerate(found):
            mine = slice(columns[number], columns[number + 1])
            rows = differs[edges[number] : edges[number + 1]]
            if unit.table.schema.entries:
                chosen = self._of_lists(unit, rows, head[mine])
            elif unit.origin is None and (first[number] or none[number]):
                last[mine] = rows[-1]
                made = whole_rows(unit.table, rows)
                outcome.tables += made
                outcome.kept += sum(table.samples for table in made)
                continue
            else:
                chosen = np.repeat(rows[:, None], widths[number], axis=1)
                chosen[0] = head[mine]
            last[mine] = chosen[-1]
            outcome.kept += int(np.count_nonzero(chosen))
            if unit.origin is not None:
                unit.origin.choose(chosen)
            else:
                outcome.tables += _chosen(unit, chosen)
        outcome.tables += kept_parts(parts)
        outcome.thinned = sum(t.samples for t in tables) - outcome.kept
        memory = self._memory
        memory["seen"][slots] = True
        memory["time"][slots] = times[edges[1:] - 1][unit_of]
        memory["cell"][slots] = cells[edges[1:] - 1][unit_of]
        memory["chosen"][slots] = last
        return outcome

    def _head(self, slots: Slots, cells: Int64) -> Mask:
        head: Mask = ~self._memory["seen"][slots] | (self._memory["cell"][slots] != cells)
        return head

    def _of_lists(self, unit: Unit, rows: Mask, head: Mask) -> Mask:
        """bool[n, columns]: as its first row, so is a list."""
        memory, slots, time = self._memory, unit.layout.slots, unit.table.time
        goes_on = memory["seen"][slots] & (memory["time"][slots] == time[0])
        begins = np.diff(time, prepend=time[0] - 1) != 0
        numbers = np.cumsum(begins) - 1
        chosen: Mask = np.repeat(rows[begins][:, None], len(slots), axis=1)
        chosen[0] = np.where(goes_on, memory["chosen"][slots], head)
        lists: Mask = chosen[numbers]
        return lists


def _chosen(unit: Unit, chosen: Mask) -> list[SignalTable]:
    if (chosen == chosen[:, :1]).all():
        return whole_rows(unit.table, chosen[:, 0])
    return by_signal(unit.table, unit.layout, chosen)


class OnChange(Walk):
    """Keeps what differs from the sample before.

    `seen`; `word`: the last sample's bits; `kept`: when one was kept last.
    """

    FIELDS: ClassVar[Fields] = {"seen": ("?", False), "word": ("<u8", 0), "kept": ("<i8", 0)}

    def _walk(self, sheet: Sheet, outcome: Outcome) -> Mask:
        memory, slots, words = self._memory, sheet.slots, sheet.words
        chosen = np.empty(words.shape, bool)
        np.not_equal(words[1:], words[:-1], out=chosen[1:])
        chosen[0] = ~memory["seen"][slots] | (words[0] != memory["word"][slots])
        if self.rule.at_least_ns:
            kept = memory["kept"][slots]
            self._old(sheet, chosen, kept)
            memory["kept"][slots] = kept
        sheet.clear_rest(chosen)
        memory["seen"][slots] = True
        memory["word"][slots] = words[sheet.last, sheet.every]
        return chosen

    def _old(self, sheet: Sheet, chosen: Mask, kept: Int64) -> None:
        """Choose also where the last one is old."""
        age = np.empty(sheet.columns, np.int64)
        old = np.empty(sheet.columns, bool)
        for mine, time, m in zip(chosen, sheet.times, sheet.active, strict=True):
            np.subtract(time[:m], kept[:m], out=age[:m])
            np.greater_equal(age[:m], self.rule.at_least_ns, out=old[:m])
            np.logical_or(mine[:m], old[:m], out=mine[:m])
            np.copyto(kept[:m], time[:m], where=mine[:m])


class DeadBand(Line):
    """Keeps what differs from what was kept.

    `seen`; of the last sample `on` and, if it was not, `word`; of the last that was kept `value`
    and `kept`, its time.
    """

    FIELDS: ClassVar[Fields] = {
        "seen": ("?", False),
        "on": ("?", False),
        "word": ("<u8", 0),
        "value": ("<f8", np.nan),
        "kept": ("<i8", 0),
    }

    def _walk(self, sheet: Sheet, outcome: Outcome) -> Mask:
        memory, slots = self._memory, sheet.slots
        _, forced = self._forced(sheet)
        value, kept = memory["value"][slots], memory["kept"][slots]
        chosen = np.zeros((sheet.rows, sheet.columns), bool)
        self._step(sheet, forced, chosen, value, kept)
        memory["value"][slots] = value
        memory["kept"][slots] = kept
        return chosen

    def _step(
        self, sheet: Sheet, forced: Mask | None, chosen: Mask, value: Float64, kept: Int64
    ) -> None:
        rule = self.rule
        relative = rule.kind == "dead_band_relative"
        bound: Float64 = np.abs(value) * rule.bound if relative else np.full_like(value, rule.bound)
        off = np.empty_like(value)
        age = np.empty_like(kept)
        old = np.empty(sheet.columns, bool)
        for row, (values, m) in enumerate(zip(sheet.physical, sheet.active, strict=True)):
            now, distance, mine = values[:m], off[:m], chosen[row, :m]
            np.subtract(now, value[:m], out=distance)
            np.absolute(distance, out=distance)
            np.greater(distance, bound[:m], out=mine)
            if forced is not None:
                np.logical_or(mine, forced[row, :m], out=mine)
            if rule.at_least_ns:
                time = sheet.times[row, :m]
                np.subtract(time, kept[:m], out=age[:m])
                np.greater_equal(age[:m], rule.at_least_ns, out=old[:m])
                np.logical_or(mine, old[:m], out=mine)
                np.copyto(kept[:m], time, where=mine)
            np.copyto(value[:m], now, where=mine)
            if relative:
                np.absolute(now, out=distance)
                np.multiply(distance, rule.bound, out=distance)
                np.copyto(bound[:m], distance, where=mine)
