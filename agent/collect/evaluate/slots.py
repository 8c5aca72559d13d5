"""Slots: one for each signal that a group of conditions reads, and how tables fill them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Int64, SignalSchema
from agent.collect.evaluate.batch import Form, Layout
from agent.collect.evaluate.program import LEVEL
from agent.collect.expression.tree import Signal
from agent.signals.database import ANY_BUS, SignalPath

NEVER = int(np.iinfo(np.int64).min)
"""Before all times."""
_MAX_WIRES = 64


class Stretches(NamedTuple):
    """Which values of the tables of a layout are samples of slots: int64[k] each."""

    table: Int64
    place: Int64
    """Where the values of that table and type begin, as a place in `Rows.begins`."""
    row: Int64
    """Behind which of them, in rows of the table."""
    slot: Int64

    def of(self, tables: NDArray[np.bool_]) -> "Stretches":
        """Those of some tables, bool[tables]."""
        if not len(self.table):
            return self
        mine = tables.take(self.table).nonzero()[0]
        if len(mine) == len(self.table):
            return self
        return Stretches(*(part.take(mine) for part in self))

    def of_slots(self, slots: NDArray[np.bool_]) -> "Stretches":
        """Those of some slots, bool[slots]."""
        mine = slots.take(self.slot).nonzero()[0]
        return Stretches(*(part.take(mine) for part in self))


class Taps:
    """Which rows of which forms hold the samples of which slots."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._count: list[int] = []
        self._taps: list[tuple[int, int, int]] = []
        self._arrays: tuple[Int64, Int64, Int64] | None = None

    def add(self, form: int, taps: Sequence[tuple[int, int, int]]) -> None:
        """Of a form: the type (0 or 1, as in `Layout`), the row among those of it, the slot."""
        while len(self._first) <= form:
            self._first.append(len(self._taps))
            self._count.append(0)
        self._first[form], self._count[form] = len(self._taps), len(taps)
        self._taps += taps
        self._arrays = None

    def of(self, forms: NDArray[np.intp]) -> Stretches:
        """Where the samples are in tables of these forms."""
        if self._arrays is None:
            taps: Int64 = np.array(self._taps, np.int64).reshape(-1, 3).T.copy()
            self._arrays = np.array(self._first, np.int64), np.array(self._count, np.int64), taps
        first, count, taps = self._arrays
        counts = count[forms]
        tables: Int64 = np.repeat(np.arange(len(forms)), counts)
        skip = first[forms] - (np.cumsum(counts) - counts)
        kind, row, slot = taps.take(np.arange(len(tables)) + skip[tables], axis=1)
        return Stretches(tables, kind * len(forms) + tables, row, slot)


class Wires:
    """The samples of a group's slots in the tables of a layout."""

    def __init__(
        self, layout: Layout, whole: Stretches, floats: Stretches, texts: Stretches
    ) -> None:
        self.whole, self.floats, self.texts = whole, floats, texts
        self.distinct = not len(whole.slot) or int(np.bincount(whole.slot).max()) == 1
        """Whether no slot of whole numbers is in several tables."""
        alone = not len(floats.slot) or int(np.bincount(floats.slot).max()) == 1
        self.single = self.distinct and alone and not len(texts.slot)
        """Whether no slot is in several tables, and none is of bytes."""
        self.connected = np.zeros(len(layout.kinds), bool)
        """bool[tables]: whether there are some."""
        for stretches in (whole, floats, texts):
            self.connected[stretches.table] = True
        self.some = bool(self.connected.any())
        self.whole_rows, self.float_rows = (
            (np.cumsum(counts) - counts).take(stretches.place) + stretches.row
            for counts, stretches in ((layout.whole, whole), (layout.floats, floats))
        )
        """Which of all signals in `Rows` each stretch is."""
        self.place = {slot: i for i, slot in enumerate(whole.slot.tolist())}
        """Of a slot's stretch of whole numbers, where it has one."""
        mine = self.connected.nonzero()[0].tolist()
        self.buses = {layout.forms[table].schema.bus for table in mine}


class Wiring:
    """The taps of a group's slots, for each way in which values are stored."""

    def __init__(self, signals: Sequence[Signal], slot: dict[SignalPath, int]) -> None:
        self._signals = signals
        self._slot = slot
        self._taps = Taps(), Taps(), Taps()
        self._forms: dict[int, int] = {}
        self.shared = False
        """Whether tables of several forms have samples of one slot."""
        self._wires: dict[Layout, Wires] = {}
        """Of the layouts of some blocks: which tables come together varies little."""

    def connect(self, form: Form) -> tuple[bool, bool]:
        """Whether a table of this form has signals of the group, and some by any bus.

        A signal of the same name that is stored or scaled in another way, as another database for
        another bus may have it, is another signal.
        """
        schema = form.schema
        found: tuple[list[tuple[int, int, int]], ...] = ([], [], [])
        by_any_bus = False
        for signal in schema.signals:
            for bus in dict.fromkeys((schema.bus, ANY_BUS)):
                slot = self._slot.get(SignalPath(bus, schema.message, signal.name))
                if slot is None or not _alike(signal, self._signals[slot].schema):
                    continue
                by_any_bus |= bus == ANY_BUS
                kind, row = schema.place[signal.name]
                found[LEVEL[kind]].append((int(kind in {"uint64", "float64"}), row, slot))
                self.shared |= self._forms.setdefault(slot, form.number) != form.number
        for taps, mine in zip(self._taps, found, strict=True):
            taps.add(form.number, mine)
        self._wires.clear()
        return any(found), by_any_bus

    def of(self, layout: Layout) -> Wires:
        wires = self._wires.get(layout)
        if wires is None:
            if len(self._wires) >= _MAX_WIRES:
                self._wires.clear()
            whole, floats, texts = (taps.of(layout.kinds) for taps in self._taps)
            wires = self._wires[layout] = Wires(layout, whole, floats, texts)
        return wires


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
