"""Conditions of a plan over the samples that come: when each is true.

`Conditions` belongs to the decode thread. It is fed with the tables of every block, and gives the
moments at which conditions change. How it works stands in agent.collect.evaluate.

A moment is decided when every bus that the condition reads has reached a later one, so that the
result does not depend on where blocks end: the last moment of a block waits for the next block, or
for `finish`. A bus that lags more than `LAG_NS` behind the newest of the condition's buses is not
waited for. Samples that come for decided times are counted as late, and count from the first
undecided moment on.

Which buses those are: the named ones; for signals of any bus, those that have given such signals to
conditions with the same buses, and all that were heard of until one has. A bus is heard of by
`reached`. Nothing is decided while none of a condition's buses goes on: that `missing` comes true
on a bus that has fallen silent, somebody must say in `reached` how late it is there.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Int64, SignalTable
from agent.collect.evaluate.batch import Form, Forms
from agent.collect.evaluate.group import LAG_NS, Change, Group, buses_of
from agent.collect.evaluate.keep import Kept, from_state, to_state
from agent.collect.evaluate.program import digest
from agent.collect.evaluate.slots import NEVER
from agent.collect.expression.tree import Condition, Signal

__all__ = ["LAG_NS", "NEVER", "Conditions", "Steps"]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """A condition over time: its truth before, and the moments at which it changes.

    A truth of moments only, such as `changed(x)`, holds for one nanosecond.
    """

    before: bool
    """Just before the first of `times`, since the last call."""
    times: Int64
    """int64[m], ascending: at each the truth becomes the other one."""

    def at(self, times: Int64) -> NDArray[np.bool_]:
        """bool[n]: the truth at given times."""
        odd = (np.searchsorted(self.times, times, "right") & 1).astype(bool)
        return ~odd if self.before else odd

    def rises(self) -> Int64:
        """When it becomes true."""
        return self.times[1 if self.before else 0 :: 2]


class Conditions:
    """Decides conditions as samples come. Not thread-safe."""

    def __init__(self, conditions: Mapping[str, Condition]) -> None:
        """Compile conditions, given by name.

        Raises:
            ValueError: a duration that is not positive, or bytes that are used as a number.
        """
        self._digests = {name: digest(tree) for name, tree in conditions.items()}
        self._names: dict[str, list[str]] = defaultdict(list)
        trees: dict[frozenset[str], dict[str, Condition]] = defaultdict(dict)
        self._group_of: dict[str, frozenset[str]] = {}
        for name, tree in conditions.items():
            of = self._digests[name]
            self._names[of].append(name)
            self._group_of[of] = buses = buses_of(tree)
            trees[buses][of] = tree
        self._groups = {buses: Group(buses, mine) for buses, mine in trees.items()}
        self._forms = Forms(self._connect)
        self._reached: dict[str, int] = {}
        self._late = self._overflown = 0

    @property
    def late(self) -> int:
        """Rows that came after their time was decided, for each set of buses that reads them."""
        return self._late + sum(group.late for group in self._groups.values())

    @property
    def overflown(self) -> int:
        """Samples that windows have dropped, as they had too many."""
        return self._overflown + sum(group.overflown for group in self._groups.values())

    def feed(self, tables: Sequence[SignalTable], reached: Mapping[str, int]) -> dict[str, Steps]:
        """Take the tables of one block, and decide what can be decided.

        `reached` tells the newest time that was seen on buses so far, ns: at least on that of the
        block. Gives the conditions whose truth changes.
        """
        with np.errstate(all="ignore"):  # what overflows or is no number has a meaning here
            self._note_firsts(tables, reached)
            for bus, time in reached.items():
                self._reached[bus] = max(time, self._reached.get(bus, NEVER))
            batch = self._forms.batch(tables)
            steps: dict[str, Steps] = {}
            for group in self._groups.values():
                if batch is not None:
                    group.add(batch)
                until = group.ready(self._reached)
                steps |= self._named(group.decide(until, self._reached))
        return steps

    def finish(self) -> dict[str, Steps]:
        """Decide everything that is held back, up to the newest time that was seen anywhere."""
        groups = self._groups.values()
        newest = max([*self._reached.values(), *(g.newest_row for g in groups)], default=NEVER)
        steps: dict[str, Steps] = {}
        with np.errstate(all="ignore"):
            for group in groups:
                steps |= self._named(group.decide(newest, self._reached))
        return steps

    def horizon(self, name: str) -> int:
        """Up to and with which time a condition is decided, ns; NEVER before there is one.

        Raises:
            KeyError: no such condition.
        """
        return self._groups[self._group_of[self._digests[name]]].horizon

    def truth(self, name: str) -> bool:
        """Whether a condition is true at its horizon; false before there is one.

        Raises:
            KeyError: no such condition.
        """
        of = self._digests[name]
        return self._groups[self._group_of[of]].truth(of)

    def last(self, name: str) -> list[tuple[Signal, NDArray[Any]]]:
        """The signals of a condition that were seen, each with its last raw value at the horizon.

        Arrays of one value, in the kind of the signal's schema (float64 for float32); texts are
        left out.

        Raises:
            KeyError: no such condition.
        """
        of = self._digests[name]
        return self._groups[self._group_of[of]].last(of)

    def adopt(self, old: "Conditions") -> None:
        """Go on where others were, before anything is fed; they are not used any more.

        Conditions of equal trees go on as if nothing had been. Others begin anew at the first
        moment that is not decided, but know the last values that conditions of the same buses had.
        """
        self._take(old.keep())
        self._late, self._overflown = old.late, old.overflown

    def state(self) -> dict[str, Any]:
        """All that is known, for msgpack; what was counted is not in it.

        Times are of the clock of the samples: of no use after another boot.
        """
        return to_state(self.keep())

    def restore(self, state: object) -> None:
        """Go on from a state, as `adopt` does.

        Raises:
            ValueError: it is none; nothing is changed.
        """
        self._take(from_state(state))

    def keep(self) -> Kept:
        """All that is known, for `adopt`."""
        kept = [group.keep() for group in self._groups.values()]
        groups = [group for group in kept if group is not None]
        return Kept(1, dict(self._reached), groups)

    def _take(self, kept: Kept) -> None:
        mine = [(self._groups.get(frozenset(part.buses)), part) for part in kept.groups]
        groups = [(group, part) for group, part in mine if group is not None]
        understood = [(group, group.understand(part, self._forms)) for group, part in groups]
        for group, part in understood:
            group.take(part)
        self._reached = dict(kept.reached)

    def _connect(self, form: Form) -> bool:
        connected = [group.connect(form) for group in self._groups.values()]
        return any(connected)

    def _note_firsts(self, tables: Iterable[SignalTable], reached: Mapping[str, int]) -> None:
        waiting = [group for group in self._groups.values() if not group.has_begun]
        if not waiting:
            return
        firsts: dict[str, int] = {}
        for table in tables:
            if len(table.time):
                first = int(table.time.min())
                firsts[table.bus] = min(first, firsts.get(table.bus, first))
        for group in waiting:
            group.note_firsts({**reached, **firsts})

    def _named(self, changes: Mapping[str, Change]) -> dict[str, Steps]:
        return {
            name: Steps(change.before, change.times)
            for of, change in changes.items()
            for name in self._names[of]
        }
