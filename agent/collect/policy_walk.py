"""Policies that go through the samples of a block side by side (`policy_sheet`)."""

import abc
from collections.abc import Mapping, Sequence

import numpy as np

from agent.blocks import SignalTable
from agent.collect.policy_base import NOTHING, Outcome, Policy
from agent.collect.policy_sheet import Mask, Sheet, kept_parts, sheets, units


class Walk(Policy):
    """Goes through the sheets of a block."""

    def apply(self, tables: Sequence[SignalTable], reached: Mapping[str, int] = NOTHING) -> Outcome:
        before = self.held
        lists = [t for t in tables if t.schema.entries and len(t)]
        found, parts = units((t for t in tables if not t.schema.entries), self._memory)
        outcome = Outcome(lists, kept=sum(t.samples for t in lists))
        for sheet in sheets(found, self._memory):
            with np.errstate(all="ignore"):  # NaN and infinities have their meaning here
                chosen = self._walk(sheet, outcome)
            outcome.kept += int(np.count_nonzero(chosen))
            outcome.tables += sheet.kept(chosen)
        outcome.tables += kept_parts(parts)
        offered = sum(table.samples for table in tables)
        outcome.thinned = offered + before - self.held - outcome.kept
        return outcome

    @abc.abstractmethod
    def _walk(self, sheet: Sheet, outcome: Outcome) -> Mask:
        """bool[rows, columns]: what is kept; what of earlier blocks is, goes into `outcome`."""


class Line(Walk):
    """What dead bands and the door share: which samples are on, and what is kept whatever it is."""

    def _forced(self, sheet: Sheet) -> tuple[Mask | None, Mask | None]:
        """What is on and what is kept for being the first, or on or off, bool[rows, columns] each.

        None: all are, also the samples before; none is. Values that are not on are NaN afterwards.
        """
        memory, slots, values = self._memory, sheet.slots, sheet.physical
        seen, was_on = memory["seen"][slots], memory["on"][slots]
        on = np.isfinite(values)
        if on.all() and was_on.all() and seen.all():
            return None, None
        np.copyto(values, np.nan, where=~on)
        words = sheet.words
        forced = np.empty(on.shape, bool)
        forced[1:] = (on[1:] != on[:-1]) | (~on[1:] & (words[1:] != words[:-1]))
        forced[0] = ~seen | (on[0] != was_on) | (~on[0] & (words[0] != memory["word"][slots]))
        memory["seen"][slots] = True
        memory["on"][slots] = on[sheet.last, sheet.every]
        memory["word"][slots] = words[sheet.last, sheet.every]
        return on, forced
