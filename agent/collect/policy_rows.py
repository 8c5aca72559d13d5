"""Tables of the figures of windows."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np

from agent.blocks import Int64, Kind, SignalSchema, SignalTable, TableSchema, UInt8, UInt64
from agent.collect.policy_figures import Figures, of_keys
from agent.collect.policy_memory import Layout, Memory, Slots, as_kind
from agent.collect.policy_sheet import Mask
from agent.collect.rules import AGGREGATES

_OF_BYTES: Final = ("last", "count")
_LOW, _HIGH, _MEAN, _LAST, _COUNT = range(5)


class Texts:
    """The bytes that windows had last, by series; a number says which."""

    def __init__(self) -> None:
        self._arrays: dict[int, list[UInt8]] = {}
        self._filled: dict[int, int] = {}

    def add(self, slot: int, payload: UInt8) -> UInt64:
        """Keep uint8[n, w]; gives their numbers, uint64[n]."""
        begin = self._filled.get(slot, 0)
        self._filled[slot] = begin + len(payload)
        self._arrays.setdefault(slot, []).append(payload)
        return np.arange(begin, begin + len(payload), dtype=np.uint64)

    def get(self, slot: int, numbers: UInt64) -> UInt8:
        """Those with these numbers, uint8[n, w]."""
        arrays = self._arrays[slot]
        width = max(array.shape[1] for array in arrays)
        fitted = [np.pad(array, ((0, 0), (0, width - array.shape[1]))) for array in arrays]
        found: UInt8 = np.concatenate(fitted)[numbers.astype(np.intp)]
        return found


@dataclasses.dataclass(frozen=True)
class _Recipe:
    """A table of figures: its schema, and where its values are in a stack of them.

    `rows`: of each kind, which rows of the stack [figure, column], flat; `texts`: the columns of
    kind bytes; `floats`: those of which least and greatest are keys that are no bits.
    """

    schema: TableSchema
    rows: dict[Kind, Slots]
    texts: list[int]
    floats: list[tuple[int, Kind]]


@dataclasses.dataclass(frozen=True, slots=True)
class _Done:
    """R windows that are complete: intp[R], int64[R], and their figures, uint64[5, R]."""

    slot: Slots
    window: Int64
    stack: UInt64

    def __getitem__(self, rows: Slots | Mask) -> "_Done":
        return _Done(self.slot[rows], self.window[rows], self.stack[:, rows])


class Groups:
    """Puts figures into tables of the signals that were first met together."""

    def __init__(self, aggregates: Sequence[str], interval_ns: int) -> None:
        self._aggregates = tuple(a for a in AGGREGATES if a in aggregates or not aggregates)
        self._interval_ns = interval_ns
        self._recipes: dict[tuple[TableSchema, tuple[int, ...]], _Recipe] = {}

    def tables(self, done: Figures, texts: Texts, memory: Memory) -> list[SignalTable]:
        """Of windows that are complete, in the order of time a signal; each at most once."""
        done = done[done.count > 0]
        if not len(done.slot):
            return []
        homes = memory["home"][done.slot]
        order = np.lexsort((done.slot, done.window, homes))
        done, homes = done[order], homes[order]
        means, counts = done.means(memory).view(np.uint64), done.count.view(np.uint64)
        stack = np.stack([done.low, done.high, means, done.last, counts])
        edges = np.flatnonzero(np.diff(homes, prepend=-1, append=-1)).tolist()
        found: list[SignalTable] = []
        for begin, end in itertools.pairwise(edges):
            layout = memory.layout(memory.homes[int(homes[begin])])
            rows = slice(begin, end)
            group = _Done(done.slot[rows], done.window[rows], stack[:, rows])
            found += self._of_group(layout, group, texts)
        return found

    def _of_group(self, layout: Layout, done: "_Done", texts: Texts) -> list[SignalTable]:
        """Of one group's windows, sorted by window and series."""
        columns = self._having_rows(layout)
        if len(columns) < len(layout.columns):
            done = done[np.isin(done.slot, layout.slots[list(columns)])]
            if not len(done.slot):
                return []
        found: list[SignalTable] = []
        full = _full(done.window, len(columns))
        if full is None or full.any():
            whole = done if full is None else done[full]
            # Series of a group got their numbers together, in the order of its columns.
            rows = np.arange(len(whole.slot)).reshape(-1, len(columns)).T.ravel()
            found.append(self._table(layout, columns, whole[rows], texts))
        if full is not None:
            rest = done[~full]
            for column in columns:
                one = rest[rest.slot == layout.slots[column]]
                if len(one.slot):
                    found.append(self._table(layout, (column,), one, texts))
        return found

    def _having_rows(self, layout: Layout) -> tuple[int, ...]:
        """The columns of which anything is asked for that they have."""
        if any(aggregate in _OF_BYTES for aggregate in self._aggregates):
            return tuple(range(len(layout.columns)))
        return tuple(n for n, signal in enumerate(layout.columns) if signal.kind != "bytes")

    def _table(
        self, layout: Layout, columns: tuple[int, ...], done: "_Done", texts: Texts
    ) -> SignalTable:
        """Of figures by column and then window, as many of each column."""
        key = (layout.schema, columns)
        recipe = self._recipes.get(key)
        if recipe is None:
            recipe = self._recipes[key] = self._recipe(layout, columns)
        stack = done.stack.reshape(len(done.stack), len(columns), -1)
        for row, kind in recipe.floats:
            stack[_LOW, row] = of_keys(stack[_LOW, row], kind)
            stack[_HIGH, row] = of_keys(stack[_HIGH, row], kind)
        many = stack.shape[2]
        flat = stack.reshape(-1, many)
        values = {
            kind: as_kind(flat.take(rows, axis=0), kind) for kind, rows in recipe.rows.items()
        }
        payloads = tuple(
            texts.get(int(done.slot[row * many]), stack[_LAST, row]) for row in recipe.texts
        )
        return SignalTable(recipe.schema, done.window[:many] * self._interval_ns, values, payloads)

    def _recipe(self, layout: Layout, columns: tuple[int, ...]) -> _Recipe:
        at = {layout.columns[column].name: row for row, column in enumerate(columns)}
        signals: list[SignalSchema] = []
        rows: dict[Kind, list[int]] = {}
        texts: list[int] = []
        for signal in layout.schema.signals:
            for aggregate in self._aggregates if signal.name in at else ():
                if signal.kind == "bytes" and aggregate not in _OF_BYTES:
                    continue
                made, figure = _figure(signal, aggregate)
                signals.append(made)
                if made.kind == "bytes":
                    texts.append(at[signal.name])
                else:
                    row = figure * len(columns) + at[signal.name]
                    rows.setdefault(made.kind, []).append(row)
        schema = dataclasses.replace(layout.schema, signals=tuple(signals))
        kinds = [(row, layout.columns[column].kind) for row, column in enumerate(columns)]
        floats: list[tuple[int, Kind]] = [
            (row, kind) for row, kind in kinds if kind in ("float32", "float64")
        ]
        return _Recipe(schema, {k: np.array(r, np.intp) for k, r in rows.items()}, texts, floats)


def _full(windows: Int64, columns: int) -> Mask | None:
    """Which of sorted windows are there once a column, bool[R]; None: all are."""
    if (
        len(windows) % columns == 0
        and (windows[::columns] == windows[columns - 1 :: columns]).all()
    ):
        return None  # none is there more often
    begins = np.append(np.diff(windows) != 0, [True])
    counts = np.diff(np.flatnonzero(begins), prepend=-1)
    return np.repeat(counts == columns, counts)


def _figure(signal: SignalSchema, aggregate: str) -> tuple[SignalSchema, int]:
    """The schema of an aggregate, and which figure it is."""
    name = f"{signal.name}.{aggregate}"
    if aggregate == "count":
        return SignalSchema(name, "uint64", 32), _COUNT
    if aggregate == "mean":
        return SignalSchema(name, "float64", 64, unit=signal.unit), _MEAN
    same = dataclasses.replace(signal, name=name)
    if aggregate == "last":
        return same, _LAST
    return same, _LOW if (aggregate == "min") == (signal.scale >= 0) else _HIGH
