"""The conditions that read the same buses, decided together."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Int64, SignalSchema, SignalTable
from agent.clock import SECOND
from agent.collect.evaluate.advance import advance, fold, note
from agent.collect.evaluate.batch import Batch, Form, Forms
from agent.collect.evaluate.bounds import Bounds
from agent.collect.evaluate.calm import Calm
from agent.collect.evaluate.columns import Columns
from agent.collect.evaluate.exact import Exact
from agent.collect.evaluate.keep import KeptGroup, KeptHistory, KeptSlot, KeptTable
from agent.collect.evaluate.program import Program, paths
from agent.collect.evaluate.series import TRUE, Series
from agent.collect.evaluate.slots import NEVER, Wiring
from agent.collect.evaluate.span import Cut, Part, Span
from agent.collect.evaluate.state import Memory
from agent.collect.evaluate.windows import as_kind
from agent.collect.expression.tree import Condition, Signal
from agent.signals.database import ANY_BUS, SignalPath

LAG_NS = SECOND
"""A bus that is further behind the newest one is not waited for."""


class Change(NamedTuple):
    """A condition's truth before, and when it changes."""

    before: bool
    times: Int64


class Understood(NamedTuple):
    """What a group goes on from."""

    kept: KeptGroup
    memory: Memory | None
    pending: Batch | None


def buses_of(tree: Condition) -> frozenset[str]:
    """What a condition reads; `ANY_BUS` among them stands for those that turn out to have it."""
    return frozenset(path.bus for path in paths(tree))


class Group:
    def __init__(self, buses: frozenset[str], trees: Mapping[str, Condition]) -> None:
        """Join conditions, given by their digests.

        Raises:
            ValueError: as `Program`.
        """
        self.buses = buses
        self._any_bus = ANY_BUS in buses or not buses
        self._found: set[str] = set()
        """Buses that gave signals which are read by any bus."""
        self._program = program = Program(list(trees.values()))
        self._roots = dict(zip(trees, program.roots, strict=True))
        self._all_roots = np.unique(np.array(program.roots, np.intp))
        self._names = {root: name for name, root in self._roots.items()}
        self._wiring = Wiring(program.signals, program.slot)
        self._bounds = Bounds(program)
        self._calm = Calm(program, self._bounds)
        self._newest: dict[str, int] = {}
        """By bus, the newest row that has come; any bus is one where signals are of any bus."""
        self._settled = NEVER
        """No row until then is missing in what is held."""
        self._parts: list[Part] = []
        self._memory: Memory | None = None
        self.horizon = NEVER
        self._began = NEVER
        self._firsts: dict[str, int] = {}
        """The first look at each bus, until the group has begun."""
        self.late = 0

    @property
    def overflown(self) -> int:
        self._settle()
        return 0 if self._memory is None else self._memory.histories.overflown

    def truth(self, tree: str) -> bool:
        return self._memory is not None and bool(self._memory.truths[self._roots[tree]])

    def last(self, tree: str) -> list[tuple[Signal, NDArray[Any]]]:
        """The signals of a condition that were seen, each with its last raw value, kind[1]."""
        if self._memory is None:
            return []
        self._settle()
        base, signals = self._memory.base, self._program.signals
        slots = self._program.slots_below(self._roots[tree])
        return [
            (signals[slot], as_kind(base.raw[slot : slot + 1], signals[slot].schema))
            for slot in slots
            if base.seen[slot] and signals[slot].schema.kind != "bytes"
        ]

    # What comes

    def connect(self, form: Form) -> bool:
        """Whether tables of this form have signals of this group."""
        connected, by_any_bus = self._wiring.connect(form)
        if by_any_bus:
            self._found.add(form.schema.bus)
        return connected

    def add(self, batch: Batch) -> None:
        """Take tables of one block; what is too late is counted."""
        wires = self._wiring.of(batch.layout)
        mine = wires.connected
        if not wires.some:
            return
        late = self._memory is not None and batch.oldest <= self.horizon
        if late:
            self._settle()  # late rows count from the next moment on
            self.late += int(batch.until(self.horizon)[mine].sum())
        buses = {ANY_BUS} if self._any_bus else wires.buses
        newest = max(self._newest.get(bus, NEVER) for bus in buses)
        # Equal times are in the order in which they come, if they are of equal tables.
        in_order = batch.oldest > newest or (batch.oldest == newest and not self._wiring.shared)
        smooth = wires.single and not late and in_order
        self._newest |= dict.fromkeys(buses, max(newest, batch.newest))
        self._parts.append(Part(batch, wires, smooth=smooth))

    def note_firsts(self, firsts: Mapping[str, int]) -> None:
        """The earliest time of some buses, of which the first that was told counts."""
        self._firsts = {**firsts, **self._firsts}

    def ready(self, reached: Mapping[str, int]) -> int:
        """Up to which time all samples have come, or are not waited for."""
        buses = self._waited_for(reached)
        known = [reached[bus] for bus in buses if bus in reached]
        if not known:
            return NEVER
        began = self._began
        if self._memory is None:
            began = self._first(reached)
        newest = max(known)
        # A bus from which nothing has come yet is as far as the first look.
        times = known + [began for bus in buses if bus not in reached]
        return min(time for time in times if newest - time <= LAG_NS) - 1

    def _waited_for(self, reached: Mapping[str, int]) -> set[str]:
        named = self.buses - {ANY_BUS}
        if self._any_bus and not self._found:
            return {*named, *reached}
        return {*named, *self._found}

    def _first(self, reached: Mapping[str, int]) -> int:
        buses = self._waited_for(reached)
        firsts = self._firsts
        return min((firsts[bus] for bus in buses if bus in firsts), default=NEVER)

    @property
    def has_begun(self) -> bool:
        return self._memory is not None

    @property
    def newest_row(self) -> int:
        """The newest time that is held back."""
        return max((part.batch.newest for part in self._parts), default=NEVER)

    # What is decided

    def decide(self, until: int, reached: Mapping[str, int]) -> dict[str, Change]:
        """Decide all moments up to and with `until`; gives what changes, by digest."""
        if self._memory is None:
            first = self._first(reached)
            if first == NEVER or until < first:
                return {}
            self._memory = Memory(self._program, first)
            self._began, self.horizon = first, first - 1
            self._settled = self.horizon
        if until <= self.horizon:
            return {}
        memory = self._memory
        if not memory.fresh[self._all_roots].any():
            series = self._calm.decide(memory, self._parts, self.horizon, until)
            if series is not None:
                return self._go_on(memory, series, until)
        self._settle()
        self._calm.drop()
        return self._decide_all(memory, until)

    def _go_on(self, memory: Memory, series: Mapping[int, Series], until: int) -> dict[str, Change]:
        """After a calm span."""
        self.horizon = until
        done = [part for part in self._parts if part.batch.newest <= until]
        if done:
            self._parts = [part for part in self._parts if part.batch.newest > until]
            for part in done:
                fold(memory, part, self._program, self._bounds, self._calm.unknown)
            memory.histories.decided(until)
        return self._named(list(series), self._changes(memory, list(series), [*series.values()]))

    def _settle(self) -> None:
        """Bring all that is held to the horizon."""
        memory = self._memory
        if memory is None or self._settled == self.horizon:
            return
        cuts = [Cut(part, self.horizon) for part in self._parts]
        span = Span(self._settled, self.horizon, cuts, memory.base)
        columns = Columns(self._program, span)
        with np.errstate(all="ignore"):  # as in Conditions.feed
            if memory.histories.of:
                for noted in columns.copies(memory.windowed):
                    note(memory, noted, self.horizon, self._program, self._bounds)
            advance(memory, span, columns, self._calm.unknown)
        self._settled = self.horizon
        for part, cut in zip(self._parts, cuts, strict=True):
            part.done = cut.ends

    def _decide_all(self, memory: Memory, until: int) -> dict[str, Change]:
        program = self._program
        cuts = [Cut(part, until) for part in self._parts]
        span = Span(self.horizon, until, cuts, memory.base)
        columns = Columns(program, span)
        if memory.histories.of:
            for noted in columns.copies(memory.windowed):
                memory.histories.note(until, noted)
        fresh = bool(memory.fresh[self._all_roots].any())
        possible = None if fresh else self._bounds.possible(memory, span)
        exact = Exact(program, memory, columns, span, possible)
        if possible is None:
            wanted = [*self._all_roots.tolist(), *memory.fors, *memory.edges]
        else:
            wanted = self._bounds.wanted(possible)
        exact.evaluate(wanted)
        roots = list(set(wanted) & self._names.keys())
        if fresh:
            found = [self._change(memory, root, span, exact.series(root)) for root in roots]
        else:
            found = self._changes(memory, roots, [exact.series(root) for root in roots])
        memory.fresh[:] = False
        memory.fired = exact.fired
        advance(memory, span, columns, None if possible is None else self._bounds.unknown)
        self.horizon = self._settled = until
        if fresh:
            self._bounds.remember(memory)
        for part, cut in zip(self._parts, cuts, strict=True):
            part.done = cut.ends
        self._parts = [p for p in self._parts if (p.done < p.batch.sizes).any()]
        return self._named(roots, found)

    def _named(self, roots: Iterable[int], changes: Iterable[Change]) -> dict[str, Change]:
        return {
            self._names[root]: change
            for root, change in zip(roots, changes, strict=True)
            if len(change.times)
        }

    @staticmethod
    def _change(memory: Memory, root: int, span: Span, series: Series) -> Change:
        """Of a condition that may never have been looked at."""
        times, truths = series.times, series.values == TRUE
        before = bool(memory.truths[root])
        memory.truths[root] = truths[-1]
        if memory.fresh[root] and truths[0]:
            # What is true without any sample is true from the first look on.
            first = span.begin + 1
            if len(times) > 1 and times[1] == first:
                times, truths = times[1:], truths[1:]
            else:
                times = np.concatenate(([first], times[1:]))
            change = (truths != np.concatenate(([before], truths[:-1]))).nonzero()[0]
        else:
            change = (truths[1:] != truths[:-1]).nonzero()[0] + 1
        return Change(before, times[change])

    @staticmethod
    def _changes(memory: Memory, roots: list[int], series: list[Series]) -> list[Change]:
        """Of many conditions, one behind the other."""
        if not roots:
            return []
        times = np.concatenate([of.times for of in series])
        truths = np.concatenate([of.values for of in series]) == TRUE
        ends = np.cumsum([len(of.times) for of in series])
        change = np.empty(len(truths), bool)
        np.not_equal(truths[1:], truths[:-1], out=change[1:])
        change[0] = False
        change[ends[:-1]] = False
        places = change.nonzero()[0]
        times, cuts = times[places], places.searchsorted(ends).tolist()
        before = memory.truths[roots].tolist()
        memory.truths[roots] = truths[ends - 1]
        edges = itertools.pairwise([0, *cuts])
        return [Change(was, times[a:b]) for was, (a, b) in zip(before, edges, strict=True)]

    # What is kept

    def keep(self) -> KeptGroup | None:
        """All that is known; None before anything has come."""
        memory = self._memory
        if memory is None and not self._firsts:
            return None
        self._settle()
        program = self._program
        kept = KeptGroup(
            buses=sorted(self.buses),
            found=sorted(self._found),
            firsts=dict(self._firsts),
            began=self._began,
            horizon=self.horizon,
        )
        for part in self._parts:
            for table in part.batch.tables(part.done):
                kept.pending.append(KeptTable.of(table, list(self._schemas(table.bus, table))))
        if memory is None:
            return kept
        memory.histories.settle()
        kept.slots = [_kept_slot(memory, program, slot) for slot in range(len(program.signals))]
        kept.timers = {
            program.digests[place]: (int(memory.since[i]), bool(memory.holds[i]))
            for place, i in memory.fors.items()
        }
        kept.edges = {
            program.digests[place]: bool(memory.fired[i]) for place, i in memory.edges.items()
        }
        kept.truths = {name: bool(memory.truths[root]) for name, root in self._roots.items()}
        return kept

    def understand(self, kept: KeptGroup, forms: Forms) -> Understood:
        """What to go on from; nothing is changed yet.

        Raises:
            ValueError: it cannot be what was kept.
        """
        tables = [rows.table(self._schemas(rows.bus, rows)) for rows in kept.pending]
        pending = forms.batch(tables)
        memory: Memory | None = None
        if kept.horizon != NEVER:
            memory = Memory(self._program, kept.horizon + 1)
            self._recall(memory, kept)
        return Understood(kept, memory, pending)

    def take(self, understood: Understood) -> None:
        """Go on from what a group of the same buses knew."""
        kept, memory, pending = understood
        self._found |= set(kept.found)
        self._firsts = dict(kept.firsts)
        self._began, self.horizon, self._memory = kept.began, kept.horizon, memory
        self._settled = kept.horizon
        self._calm.drop()
        if memory is not None:
            self._bounds.remember(memory)
        late = self.late
        if pending is not None:
            self.add(pending)
        self.late = late  # was counted when it came

    def _recall(self, memory: Memory, kept: KeptGroup) -> None:
        program = self._program
        memory.histories.decided(kept.horizon)
        for slot_kept in kept.slots:
            slot = program.slot.get(slot_kept.path)
            if slot is not None and program.signals[slot].schema.kind == slot_kept.kind:
                _recall_slot(memory, slot, slot_kept, kept.horizon)
        for place, number in memory.fors.items():
            if (timer := kept.timers.get(program.digests[place])) is not None:
                memory.since[number], memory.holds[number] = timer
        for place, number in memory.edges.items():
            memory.fired[number] = kept.edges.get(program.digests[place], False)
        for name, root in self._roots.items():
            if (truth := kept.truths.get(name)) is not None:
                memory.truths[root], memory.fresh[root] = truth, False

    def _schemas(self, bus: str, table: SignalTable | KeptTable) -> dict[str, SignalSchema]:
        """The signals of a table that this group reads, by name."""
        names: Iterable[str] = table.columns if isinstance(table, KeptTable) else table.names
        program, found = self._program, {}
        for name in names:
            for of in (bus, ANY_BUS):
                slot = program.slot.get(SignalPath(of, table.message, name))
                if slot is not None:
                    found[name] = program.signals[slot].schema
        return found


def _kept_slot(memory: Memory, program: Program, slot: int) -> KeptSlot:
    base, signal = memory.base, program.signals[slot]
    history = memory.histories.of.get(slot)
    return KeptSlot(
        signal.path.bus,
        signal.path.message,
        signal.path.signal,
        signal.schema.kind,
        bool(base.seen[slot]),
        int(base.time[slot]),
        int(base.raw[slot]),
        bool(base.preceded[slot]),
        int(base.previous[slot]),
        int(base.valid_time[slot]),
        bool(base.changed[slot]),
        base.texts.get(slot, b""),
        None if history is None else KeptHistory.of(history.time, history.values, history.raw),
    )


def _recall_slot(memory: Memory, slot: int, kept: KeptSlot, horizon: int) -> None:
    base = memory.base
    if kept.time > horizon + 1 or kept.valid_time > horizon:
        raise ValueError(f"{kept.path} has a sample after the last decided moment")
    base.seen[slot], base.time[slot], base.raw[slot] = kept.seen, kept.time, kept.raw
    base.preceded[slot], base.previous[slot] = kept.preceded, kept.previous
    base.valid_time[slot], base.changed[slot] = kept.valid_time, kept.changed
    if kept.text:
        base.texts[slot] = kept.text
    history = memory.histories.of.get(slot)
    if history is not None and kept.history is not None:
        history.append(*kept.history.arrays())
