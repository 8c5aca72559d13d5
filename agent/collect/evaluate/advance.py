"""What is held, brought to the end of a span."""

import numpy as np

from agent.collect.evaluate.bounds import Bounds
from agent.collect.evaluate.columns import Columns
from agent.collect.evaluate.hull import Bools
from agent.collect.evaluate.program import Program
from agent.collect.evaluate.span import Last, Part, Span
from agent.collect.evaluate.state import Memory
from agent.collect.evaluate.windows import Noted


def advance(memory: Memory, span: Span, columns: Columns, unknown: Bools | None) -> None:
    """Make the last samples of a span what is held.

    `unknown` are the slots that may have been unknown in it; None stands for all.
    """
    base = memory.base
    last = Last.of(span, previous=bool(memory.preceding))
    # Columns begin with what was held, so they are looked at before that is another.
    texts = {slot: columns.of(slot) for cut in span.cuts for slot in cut.texts.slot.tolist()}
    ended = np.zeros(len(base.time), bool)
    ended[last.slot[last.time == span.end]] = True
    ended[list(texts)] = True
    changed = [
        slot
        for slot in memory.changing
        if ended[slot]
        and columns.of(slot).differs()[columns.of(slot).stamps.all[1:] == span.end].any()
    ]
    base.changed[:] = False
    base.changed[changed] = True
    if memory.preceding:
        _advance_previous(memory, columns, last)
    for slot, column in texts.items():
        base.texts[slot] = bytes(column.raw[-1])
        base.time[slot], base.seen[slot] = column.stamps.all[-1], True
    base.time[last.slot], base.raw[last.slot], base.seen[last.slot] = last.time, last.raw, True
    if memory.histories.of:
        valid = memory.windowed & (False if unknown is None else ~unknown)
        base.valid_time[valid] = base.time[valid]
        for slot in (memory.windowed & ~valid).nonzero()[0].tolist():
            if len(times := memory.histories.of[slot].time):
                base.valid_time[slot] = max(base.valid_time[slot], times[-1])
        memory.histories.decided(span.end)


def _advance_previous(memory: Memory, columns: Columns, last: Last) -> None:
    base = memory.base
    if last.single:
        slots, more = last.slot, last.count > 1
        base.preceded[slots] = more | base.seen[slots]
        base.previous[slots] = np.where(more, last.raw_before, base.raw[slots])
        return
    for slot in memory.preceding:
        raw = columns.of(slot).raw
        if len(raw) > 1:
            base.preceded[slot] = len(raw) > 2 or bool(base.seen[slot])
            base.previous[slot] = raw[-2:-1].view(np.int64)[0]


def fold(memory: Memory, part: Part, program: Program, bounds: Bounds, unknown: Bools) -> None:
    """Add all rows of a batch to what is held, where nothing asks for more than the last ones.

    They are newer than what is held. `unknown` is as for `advance`.
    """
    base, batch = memory.base, part.batch
    if memory.histories.of:
        for touched in (part.whole, part.floats):
            noted = part.samples(touched.of_slots(memory.windowed))
            if len(noted):
                note(memory, noted, batch.newest, program, bounds)
    for touched in (part.whole, part.floats):
        slot = touched.slot
        if len(slot):
            base.raw[slot], base.seen[slot] = touched.last, True
            base.time[slot] = batch.last_times.take(touched.table)
    if memory.histories.of:
        valid = memory.windowed & ~unknown
        base.valid_time[valid] = base.time[valid]


def note(memory: Memory, noted: Noted, end: int, program: Program, bounds: Bounds) -> None:
    """Add samples to windows, where no span is decided for all conditions."""
    memory.histories.note(end, noted)
    slots, least, greatest = noted.extremes()
    a = least * program.scale[slots] + program.offset[slots]
    b = greatest * program.scale[slots] + program.offset[slots]
    low, high = np.minimum(a, b), np.maximum(a, b)
    odd = ~(np.isfinite(low) & np.isfinite(high))
    bounds.note(slots, np.where(odd, -np.inf, low), np.where(odd, np.inf, high))
