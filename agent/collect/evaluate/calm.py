"""Spans in which little happens, decided without looking at most signals.

From what is held at a decided moment, `Calm` makes once what every condition is, and between which
values each signal leaves all as it is (agent.collect.evaluate.watch). From then on, a span costs
one look at the extremes of each new batch. Where a signal goes beyond its limits, or a `for` runs
out, what hangs on it is evaluated for that span, and its limits are made anew. The rest of what is
held follows when a batch is done with, or when somebody asks.

Some leaves are not watched, as they hang on several signals, or on floats. That is as good while
others make the truth without them; and if not, and they can be evaluated, they are in every span.

`decide` gives None where this does not do: a window that comes near its constant, a signal that was
missing, many signals that move at once. Then the group decides the span for all conditions, and
`Calm` begins anew later: the sooner, the longer it had been of use.
"""

import copy
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from agent.blocks import Int64
from agent.collect.evaluate.bounds import ANYTHING, CAN_BE_FALSE, CAN_BE_TRUE, Bits, Bounds
from agent.collect.evaluate.columns import Columns
from agent.collect.evaluate.exact import Exact, compared
from agent.collect.evaluate.logic import Logic
from agent.collect.evaluate.program import Program
from agent.collect.evaluate.series import FOREVER, Series
from agent.collect.evaluate.span import Few, Part, Span
from agent.collect.evaluate.state import Memory
from agent.collect.evaluate.watch import GREATEST, LEAST, Watch, WindowLeaf
from agent.collect.expression.tree import (
    Edge,
    For,
    Missing,
    Previous,
    Window,
)

_MANY_LOUD = 24
"""With more signals beyond their limits, they are not looked at one by one."""
_MANY_MATTER = 3
"""With more signals that make a difference for each batch, deciding everything costs less."""
_MANY_NERVOUS = 16
_SOON, _LONGEST_PAUSE = 4, 64
"""Spans."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Held:
    """What is known from a decided moment on."""

    bits: bytearray
    """What each condition is, or can be in any span; changed as spans are decided."""
    windows: Sequence[WindowLeaf]
    """Those that are watched."""
    nervous: set[int]
    """What must be evaluated in every span."""


class Calm:
    def __init__(self, program: Program, bounds: Bounds) -> None:
        self._program = program
        self._bounds = bounds
        self._watch = watch = Watch(program)
        windowed = [
            program.number_parts[place][0]
            for place, node in enumerate(program.numbers)
            if isinstance(node, Window)
        ]
        self._able = (
            program.whole + program.floats == len(program.signals)
            and not any(isinstance(node, Previous) for node in program.numbers)
            and bool(program.plain[windowed].all())
        )
        self._window_places = np.array([leaf.place for leaf in watch.windows], np.intp)
        self._logic = Logic(program, watch.slots_of)
        missing = program.of_type(Missing)
        self._missing = np.array([program.condition_parts[p][0] for p in missing], np.intp)
        durations = [n.duration_ns for n in program.conditions if isinstance(n, Missing)]
        self._missing_ns = np.array(durations, np.int64)
        fors = [node for node in program.conditions if isinstance(node, For)]
        self._for_places = np.array(program.of_type(For), np.intp)
        self._for_ns = np.array([node.duration_ns for node in fors], np.int64)
        self._roots = set(program.roots)
        self.unknown = np.ones(len(program.signals), bool)
        """bool[slots]: which signals of windows may be unknown in the spans decided here."""
        valid = np.arange(len(program.signals)) < program.whole
        valid &= watch.delicate | ~program.coded
        self._unsure = ~valid
        self._held: _Held | None = None
        self._limits: tuple[Int64, Int64]
        self._version = 0
        self._timer = self._silence = 0
        """Until when nothing runs out, and nothing is missing that is not."""
        self._age = self._pause = self._penalty = 0

    def drop(self) -> None:
        """Something else than spans that were decided here has changed what is held."""
        self._held = None

    def decide(
        self, memory: Memory, parts: Sequence[Part], horizon: int, until: int
    ) -> dict[int, Series] | None:
        """The truth of whole conditions that may change in a span, by place; None: see above.

        What is held need not be as of the horizon, but with what the parts have until then.
        """
        if not self._able or not all(part.smooth for part in parts):
            return None
        if self._held is None and not self._begin(memory, horizon):
            return None
        held = self._held
        found = None if held is None else self._decide(held, memory, parts, (horizon, until))
        if found is None:
            # A pause after each time that was of little use.
            self._penalty = min(2 * self._penalty + 1, _LONGEST_PAUSE) if self._age < _SOON else 0
            self._pause = self._penalty
            self._held = None
        self._age += 1
        return found

    def _begin(self, memory: Memory, horizon: int) -> bool:
        if self._pause:
            self._pause -= 1
            return False
        if memory.fired.any() or memory.base.changed.any():
            return False  # what is true for this moment only
        self._held = self._look(memory, horizon)
        if self._held is None:
            self._penalty = self._pause = min(2 * self._penalty + 1, _LONGEST_PAUSE)
            return False
        base = memory.base
        quiet = base.seen.copy()
        quiet[self._missing[base.time.take(self._missing) + self._missing_ns <= horizon]] = False
        self._limits = self._watch.limits(base.raw, quiet)
        self._version += 1
        self._timer = self._next_timer(memory, horizon)
        self._silence = self._next_silence(self._held, memory, horizon)
        self._age = 0
        return True

    def _look(self, memory: Memory, horizon: int) -> _Held | None:
        """What is known of all conditions; what is held is as of the horizon."""
        program, watch, bounds = self._program, self._watch, self._bounds
        found = bounds.held(memory, horizon, watch.vague, self._window_places)
        unknown = bounds.unknown
        # Windows must know which of their samples are valid; of others, they look at each.
        self.unknown = unknown | self._unsure
        windows = []
        reach = bounds.reach() if watch.windows else {}
        for leaf in watch.windows:
            truth = self._side(memory, horizon, leaf, reach[leaf.window])
            if truth is not None and not unknown[leaf.slot]:
                windows.append(leaf)
                found[leaf.place] = CAN_BE_TRUE if truth else CAN_BE_FALSE
        bounds.join(found, memory, horizon)
        bits = bytearray(found.tobytes())
        timers = [p for p in self._for_places.tolist() if self._logic.is_open(bits, p)]
        for place in timers:
            bits[place] = CAN_BE_FALSE | CAN_BE_TRUE
        if timers and self._logic.spread(bits, timers, memory, horizon) is None:
            return None
        edges = program.of_type(Edge)
        if any(self._logic.is_open(bits, place) for place in edges):
            return None
        nervous = bounds.wanted(np.frombuffer(bits, np.uint8))
        if len(nervous) > _MANY_NERVOUS or self._logic.leaves(bits, nervous) is None:
            return None
        return _Held(bits, windows, set(nervous))

    def _side(
        self, memory: Memory, horizon: int, leaf: WindowLeaf, reach: tuple[float, float]
    ) -> bool | None:
        """The truth of a window that is surely on one side of its constant, as its signal is."""
        base, program, slot = memory.base, self._program, leaf.slot
        if not base.seen[slot] or base.valid_time[slot] + leaf.duration <= horizon:
            return None
        value = float(base.raw[slot]) * program.scale[slot] + program.offset[slot]
        low, high = reach
        if low > leaf.high and value > leaf.high:
            return leaf.above
        if high < leaf.low and value < leaf.low:
            return leaf.below
        return None

    def _next_timer(self, memory: Memory, time: int) -> int:
        """When, after a moment, a `for` runs out next if its condition goes on."""
        on = (memory.since + self._for_ns)[memory.holds]
        return int(on[on > time].min(initial=FOREVER))

    def _next_silence(self, held: _Held, memory: Memory, time: int) -> int:
        """When, after a moment, something is missing, or a window empty, if no samples come.

        It may be later, as of some samples only what is held does not know yet.
        """
        base = memory.base
        ends = base.time.take(self._missing) + self._missing_ns
        first = int(ends[ends > time].min(initial=FOREVER))
        if held.windows:
            slots = [leaf.slot for leaf in held.windows]
            durations = np.array([leaf.duration for leaf in held.windows], np.int64)
            first = min(first, int((base.valid_time[slots] + durations).min()))
        return first

    # A span

    def _decide(
        self, held: _Held, memory: Memory, parts: Sequence[Part], within: tuple[int, int]
    ) -> dict[int, Series] | None:
        horizon, until = within
        if until >= self._silence:
            self._silence = self._next_silence(held, memory, horizon)
            if until >= self._silence:
                return None
        due: list[int] = []
        if until >= self._timer:
            on = memory.since + self._for_ns
            mine = memory.holds & (on > horizon) & (on <= until)
            due = self._for_places[mine].tolist()
        loud = self._loud(parts, horizon, until)
        if loud is None or len(loud) > _MANY_LOUD or len(held.nervous) > _MANY_NERVOUS:
            return None
        if any(self._watch.delicate[slot] or not memory.base.seen[slot] for slot in loud):
            return None
        if not (loud or due or held.nervous):
            return {}
        return self._decide_few(held, memory, parts, within, (loud, due))

    def _loud(self, parts: Sequence[Part], horizon: int, until: int) -> list[int] | None:
        """The slots that go beyond their limits in a span; None: too many to look."""
        loud: set[int] = set()
        low, high = self._limits
        for part in parts:
            batch = part.batch
            if batch.oldest > until:
                continue
            found = part.loud(self._limits, self._version)
            if not len(found):
                continue
            if len(found) > _MANY_LOUD:
                return None
            for slot in part.wires.whole.slot.take(found).tolist():
                piece = part.stretch(slot, (horizon, until))
                if piece is None or not len(piece.raw):
                    continue
                if piece.raw.min() < low[slot] or piece.raw.max() > high[slot]:
                    loud.add(slot)
        return sorted(loud)

    def _decide_few(
        self,
        held: _Held,
        memory: Memory,
        parts: Sequence[Part],
        within: tuple[int, int],
        causes: tuple[Sequence[int], Sequence[int]],
    ) -> dict[int, Series] | None:
        """As `_decide`; `causes` are slots beyond their limits, and `for` that run out."""
        watch, until = self._watch, within[1]
        loud, due = causes
        bits = bytearray(held.bits)
        moved = [place for slot in loud for place in watch.leaves.get(slot, ())]
        for place in moved:
            bits[place] = ANYTHING
        for place in due:
            bits[place] = CAN_BE_FALSE | CAN_BE_TRUE
        touched = self._logic.spread(bits, [*moved, *due], memory, until)
        if touched is None:
            return None
        fors = [p for p in (*touched, *held.nervous) if p in memory.fors]
        timers = {*due, *(p for p in fors if self._logic.is_open(bits, p))}
        above = (*moved, *touched, *due, *held.nervous)
        roots = {p for p in above if bits[p] > CAN_BE_TRUE and p in self._roots}
        wanted = {*timers, *roots, *held.nervous}
        leaves = self._logic.leaves(bits, wanted)
        if leaves is None:
            return None
        slots = sorted({slot for leaf in leaves for slot in watch.slots_of[leaf]})
        if len(slots) > _MANY_MATTER * sum(part.batch.oldest <= until for part in parts):
            return None
        # What makes no difference now is not looked at until it does.
        asleep = set(loud).difference(slots)
        self._sleep(held, asleep, memory, until)
        if not wanted:
            return {}
        awake = [
            slot
            for slot in slots
            if slot in watch.leaves and not watch.delicate[slot] and memory.base.seen[slot]
        ]
        asked = wanted.union(*(watch.leaves[slot] for slot in awake))
        possible = np.frombuffer(bytes(bits), np.uint8)
        simple = watch.simple.keys() >= leaves and memory.base.seen[slots].all()
        look = self._look_at_simple if simple else self._look_at_any
        exact, raws = look(memory, parts, within, slots, possible)
        exact.evaluate(asked)
        moved = [place for slot in awake for place in watch.leaves[slot]]
        truths = {place: exact.series(place).values[-1] for place in moved}
        self._go_on(held, memory, until, truths, timers)
        low, high = self._limits
        for slot in awake:
            low[slot], high[slot] = watch.limits_of(slot, raws[slot])
        self._version += len(awake) > 0
        if timers:
            self._timer = self._next_timer(memory, until)
        return {place: exact.series(place) for place in asked if place in self._roots}

    def _look_at_any(
        self,
        memory: Memory,
        parts: Sequence[Part],
        within: tuple[int, int],
        slots: Sequence[int],
        possible: Bits,
    ) -> tuple[Exact, dict[int, int]]:
        """What evaluates conditions of few slots, and the raw values at the end of the span."""
        horizon, until = within
        mask = np.zeros(len(self._program.signals), bool)
        mask[slots] = True
        all_few = [Few(part, mask) for part in parts if part.batch.oldest <= until]
        few = [cut for cut in all_few if cut.has_slots]
        base = copy.copy(memory.base)
        base.raw, base.seen = base.raw.copy(), base.seen.copy()
        for cut in few:
            cut.hold(base, horizon)
            cut.cut(horizon, until)
        span = Span(horizon, until, few, base)
        later = copy.copy(base)
        later.raw, later.seen = base.raw.copy(), base.seen.copy()
        for cut in few:
            cut.hold(later, until)
        exact = Exact(self._program, memory, Columns(self._program, span), span, possible)
        return exact, {slot: int(later.raw[slot]) for slot in slots}

    def _look_at_simple(
        self,
        memory: Memory,
        parts: Sequence[Part],
        within: tuple[int, int],
        slots: Sequence[int],
        possible: Bits,
    ) -> tuple[Exact, dict[int, int]]:
        """As `_look_at_any`, where all are comparisons with constants."""
        program, given, raws = self._program, {}, {}
        begin = np.array(within[:1], np.int64)
        for slot in slots:
            pieces = [np.array([memory.base.raw[slot]])]
            times = [begin]
            for part in parts:
                found = part.stretch(slot, within)
                if found is not None:
                    if found.before is not None:
                        pieces = [np.array([found.before])]
                    times.append(found.time)
                    pieces.append(found.raw)
            stamps, values = np.concatenate(times), np.concatenate(pieces)
            raws[slot] = int(values[-1])
            physical = values * program.scale[slot] + program.offset[slot]
            last = np.append(stamps[1:] != stamps[:-1], True)
            if not last.all():
                stamps, physical = stamps[last], physical[last]
            for place in self._watch.leaves[slot]:
                truths = compared(*self._watch.simple[place], physical)
                change = np.append(True, truths[1:] != truths[:-1])
                given[place] = Series(stamps[change], truths[change])
        span = Span(*within, [], memory.base)
        exact = Exact(program, memory, Columns(program, span), span, possible, given=given)
        return exact, raws

    def _sleep(self, held: _Held, slots: Iterable[int], memory: Memory, until: int) -> None:
        """Look no more at signals of which nothing makes a difference."""
        places = [place for slot in slots for place in self._watch.leaves.get(slot, ())]
        for place in places:
            held.bits[place] = ANYTHING
        self._logic.spread(held.bits, places, memory, until)
        low, high = self._limits
        for slot in slots:
            low[slot], high[slot] = LEAST, GREATEST
            self._version += 1

    def _go_on(
        self,
        held: _Held,
        memory: Memory,
        until: int,
        truths: Mapping[int, np.int8],
        timers: Iterable[int],
    ) -> None:
        """Bring what is known of conditions to the end of a span; `truths` are those of leaves."""
        bits, changed = held.bits, []
        for place, truth in truths.items():
            held.nervous.discard(place)
            now = 1 << int(truth)
            if bits[place] != now:
                bits[place] = now
                changed.append(place)
        for place in (
            self._logic.spread(bits, changed, memory, until, also=timers, ended=True) or ()
        ):
            is_timer = place in memory.fors and self._logic.is_open(bits, place)
            if is_timer or (bits[place] > CAN_BE_TRUE and place in self._roots):
                held.nervous.add(place)
            else:
                held.nervous.discard(place)
