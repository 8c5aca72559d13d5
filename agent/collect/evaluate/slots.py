"""Slots: one for each signal that a group of conditions reads, and how tables fill them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Int64, SignalSchema
from agent.collect.evaluate.batch import Form
from agent.collect.expression.tree import Signal
from agent.signals.database import ANY_BUS, SignalPath

NEVER = int(np.iinfo(np.int64).min)
"""Before all times."""
_MAX_SELECTED = 32


class Taps:
    """Which rows of which forms hold the samples of which slots."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._count: list[int] = []
        self._rows: list[int] = []
        self._slots: list[int] = []
        self._arrays: tuple[Int64, Int64, Int64, Int64] | None = None
        self._selected: dict[bytes, tuple[Int64, Int64, Int64]] = {}
        """Of the tables of some blocks: which come together varies little."""

    def add(self, form: int, rows: Sequence[int], slots: Sequence[int]) -> None:
        while len(self._first) <= form:
            self._first.append(len(self._rows))
            self._count.append(0)
        self._first[form], self._count[form] = len(self._rows), len(rows)
        self._rows += rows
        self._slots += slots
        self._arrays = None
        self._selected.clear()

    def __bool__(self) -> bool:
        return bool(self._rows)

    def select(self, forms: NDArray[np.intp]) -> tuple[Int64, Int64, Int64]:
        """Of tables of these forms: places in `forms`, rows and slots, int64[k] each."""
        key = forms.tobytes()
        found = self._selected.get(key)
        if found is None:
            if len(self._selected) >= _MAX_SELECTED:
                self._selected.clear()
            found = self._selected[key] = self._select(forms)
        return found

    def _select(self, forms: NDArray[np.intp]) -> tuple[Int64, Int64, Int64]:
        if self._arrays is None:
            lists = (self._first, self._count, self._rows, self._slots)
            first, count, rows, slots = (np.array(part, np.int64) for part in lists)
            self._arrays = first, count, rows, slots
        first, count, rows, slots = self._arrays
        if not len(rows):
            return rows, rows, rows
        known = forms < len(first)
        at = np.where(known, forms, 0)
        counts = np.where(known, count[at], 0)
        tables = np.repeat(np.arange(len(forms)), counts)
        skip = first[at] - (np.cumsum(counts) - counts)
        index = np.arange(len(tables)) + skip[tables]
        return tables, rows[index], slots[index]


class Wiring:
    """The taps of a group's slots, for each way in which values are stored."""

    def __init__(self, signals: Sequence[Signal], slot: dict[SignalPath, int]) -> None:
        self._signals = signals
        self._slot = slot
        self.whole, self.floats, self.texts = Taps(), Taps(), Taps()

    def connect(self, form: Form) -> tuple[bool, bool]:
        """Whether a table of this form has signals of the group, and some by any bus.

        A signal of the same name that is stored or scaled in another way, as another database for
        another bus may have it, is another signal.
        """
        schema = form.schema
        found: dict[str, tuple[list[int], list[int]]] = {k: ([], []) for k in ("i", "f", "b")}
        by_any_bus = False
        for signal in schema.signals:
            for bus in dict.fromkeys((schema.bus, ANY_BUS)):
                slot = self._slot.get(SignalPath(bus, schema.message, signal.name))
                if slot is None or not _alike(signal, self._signals[slot].schema):
                    continue
                by_any_bus |= bus == ANY_BUS
                kind, row = schema.place[signal.name]
                way = "b" if kind == "bytes" else "i" if kind.endswith("int64") else "f"
                row += {"uint64": form.signed, "float64": form.single}.get(kind, 0)
                found[way][0].append(row)
                found[way][1].append(slot)
        for taps, (rows, slots) in zip(
            (self.whole, self.floats, self.texts), found.values(), strict=True
        ):
            taps.add(form.number, rows, slots)
        return any(slots for _, slots in found.values()), by_any_bus


def _alike(one: SignalSchema, other: SignalSchema) -> bool:
    return (one.kind, one.scale, one.offset, one.codes) == (
        other.kind,
        other.scale,
        other.offset,
        other.codes,
    )


class Base:
    """What is known of every slot at the last decided moment."""

    def __init__(self, slots: int, began: int) -> None:
        self.seen = np.zeros(slots, bool)
        self.time: Int64 = np.full(slots, began, np.int64)
        """Of the last sample; where there was none, from when on one was waited for."""
        self.raw: Int64 = np.zeros(slots, np.int64)
        """The last raw value; of uint64 and float64 the bits."""
        self.preceded = np.zeros(slots, bool)
        self.previous: Int64 = np.zeros(slots, np.int64)
        """The raw value before the last, where there is one; kept only where it is asked for."""
        self.valid_time: Int64 = np.full(slots, NEVER, np.int64)
        """Of the last valid sample; kept only for slots with windows."""
        self.changed = np.zeros(slots, bool)
        """Whether a sample of just that moment differed; kept only where it is asked for."""
        self.texts: dict[int, bytes] = {}
