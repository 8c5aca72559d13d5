"""The tables of a block as flat arrays.

Every table that has a signal of some condition is copied whole, all values of all tables of a type
into one array, signal by signal: one call copies everything, one more finds the least value of each
signal. The copy outlives the block, for rows that cannot be decided yet.

What depends only on which tables come together is made once, and kept as a `Layout`: blocks of the
same traffic have the same tables most of the time.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Int64, SignalTable, TableSchema, UInt8

_MAX_KNOWN = 1 << 14
_MAX_LAYOUTS = 64
_FEW = 8
"""Tables that are searched one by one."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Form:
    """A kind of table: how many rows of each type it has."""

    number: int
    schema: TableSchema
    signed: int
    unsigned: int
    single: int
    double: int
    texts: bool
    """Whether payloads are wanted."""


class Layout:
    """Tables of certain forms, one behind the other."""

    def __init__(
        self, schemas: Sequence[TableSchema], forms: Sequence[Form | None], counts: Int64
    ) -> None:
        """Look at the tables that come together; `counts` are those of `Forms`."""
        self.schemas = schemas
        """Of all tables; kept, as a layout is found by who they are."""
        self.chosen = [i for i, form in enumerate(forms) if form is not None]
        """The tables that are wanted."""
        self.forms = [form for form in forms if form is not None]
        self.kinds = np.array([form.number for form in self.forms], np.intp)
        """intp[tables]: the number of each wanted table's form."""
        by_type: Int64 = counts[:, self.kinds]
        self.whole, self.floats = by_type[:2].ravel(), by_type[2:4].ravel()
        """int64[2 * tables]: how many rows of int64, then of uint64; of float32, then float64."""
        self.signed, self.unsigned, self.single, self.double, self.texts = (
            of.nonzero()[0].tolist() for of in by_type
        )
        """Which tables have rows of a type, and payloads."""


class Forms:
    """The forms of all tables that came; `None` for tables without any signal of a condition."""

    def __init__(self, wanted: Callable[[Form], bool]) -> None:
        self._wanted = wanted
        self._by_identity: dict[int, tuple[TableSchema, Form | None]] = {}
        self._by_schema: dict[TableSchema, Form | None] = {}
        self._layouts: dict[tuple[int, ...], Layout] = {}
        self.all: list[Form] = []
        self._counts: Int64 | None = None
        self._ranks: Int64 | None = None

    def batch(self, tables: Sequence[SignalTable]) -> "Batch | None":
        """The tables that are wanted and have rows; None if there are none."""
        schemas = [table.schema for table in tables]
        # A schema's own hash is a call into Python, and schemas live as long as their decoder.
        key = tuple(map(id, schemas))
        layout = self._layouts.get(key)
        if layout is None:
            if len(self._layouts) >= _MAX_LAYOUTS:
                self._layouts.clear()
            forms = [self._form(schema) for schema in schemas]
            layout = self._layouts[key] = Layout(schemas, forms, self.counts)
        mine = tables
        if len(layout.chosen) < len(tables):
            mine = [tables[i] for i in layout.chosen]
        times = [table.time for table in mine]
        sizes = [len(time) for time in times]
        if 0 in sizes:
            return self.batch([table for table in mine if len(table.time)])
        return Batch(self, layout, mine, times, sizes) if sizes else None

    def _form(self, schema: TableSchema) -> Form | None:
        entry = self._by_identity.get(id(schema))
        if entry is not None:
            return entry[1]
        if schema not in self._by_schema:
            self._by_schema[schema] = self._new(schema)
        form = self._by_schema[schema]
        if len(self._by_identity) >= _MAX_KNOWN:
            self._by_identity.clear()
        self._by_identity[id(schema)] = (schema, form)
        return form

    def _new(self, schema: TableSchema) -> Form | None:
        kinds = [s.kind for s in schema.signals]
        form = Form(
            len(self.all),
            schema,
            kinds.count("int64"),
            kinds.count("uint64"),
            kinds.count("float32"),
            kinds.count("float64"),
            "bytes" in kinds,
        )
        if not self._wanted(form):
            return None
        self.all.append(form)
        self._counts = self._ranks = None
        return form

    @property
    def counts(self) -> Int64:
        """int64[5, forms]: rows of int64, uint64, float32 and float64; 1 for payloads."""
        if self._counts is None:
            rows = [(f.signed, f.unsigned, f.single, f.double, f.texts) for f in self.all]
            self._counts = np.array(rows, np.int64).reshape(-1, 5).T.copy()
        return self._counts

    @property
    def ranks(self) -> Int64:
        """int64[forms]: which comes first where samples of several tables have one time."""
        if self._ranks is None:
            keys = [
                (f.schema.bus, -1 if f.schema.source is None else f.schema.source, f.schema.branch)
                for f in self.all
            ]
            order = {key: rank for rank, key in enumerate(sorted(set(keys)))}
            self._ranks = np.array([order[key] for key in keys], np.int64)
        return self._ranks


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """The values of one type (whole numbers, or floats) of all tables, and where they lie."""

    flat: NDArray[Any]
    """int64 (unsigned ones as their bits) or float64; one more value stands at the end."""
    begins: Int64
    """int64[2 * tables]: where the values of each table begin in `flat`, as in `Layout`."""
    counts: Int64
    """int64[2 * tables]: how many signals of a type each table has."""
    sizes: Int64
    """int64[2 * tables]: how many values each of them has."""

    @functools.cached_property
    def lengths(self) -> Int64:
        """int64[signals]: how many values each signal of the tables has, one behind the other."""
        return self.sizes.repeat(self.counts)

    @functools.cached_property
    def places(self) -> Int64:
        """int64[signals]: where the values of each begin."""
        return self.lengths.cumsum() - self.lengths

    @functools.cached_property
    def extremes(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """The least and greatest value of each signal; NaN if there is one."""
        values, places = self.flat[:-1], self.places
        if not len(places):
            return values, values
        return np.minimum.reduceat(values, places), np.maximum.reduceat(values, places)

    def least(self, begins: Int64, ends: Int64) -> NDArray[Any]:
        """The least value in each stretch; floats: NaN is left out where there are others."""
        ufunc = np.minimum if self.flat.dtype == np.int64 else np.fmin
        return _reduce(ufunc, self.flat, begins, ends)

    def greatest(self, begins: Int64, ends: Int64) -> NDArray[Any]:
        ufunc = np.maximum if self.flat.dtype == np.int64 else np.fmax
        return _reduce(ufunc, self.flat, begins, ends)

    def odd(self, begins: Int64, ends: Int64) -> NDArray[np.bool_]:
        """Whether floats of each stretch are NaN or infinite."""
        return _reduce(np.logical_or, ~np.isfinite(self.flat), begins, ends).astype(bool)


def _reduce(ufunc: np.ufunc, flat: NDArray[Any], begins: Int64, ends: Int64) -> NDArray[Any]:
    if not len(begins):
        return flat[:0]
    # What lies between two stretches is reduced as well, and not looked at.
    edges = np.empty(2 * len(begins), np.int64)
    edges[::2] = begins
    edges[1::2] = ends
    return ufunc.reduceat(flat, edges)[::2]


class Batch:
    """Tables with at least one row each, the rows of a table in the order of time."""

    def __init__(
        self,
        forms: Forms,
        layout: Layout,
        tables: Sequence[SignalTable],
        times: Sequence[Int64],
        sizes: Sequence[int],
    ) -> None:
        """Copy tables; `times` and `sizes` are theirs."""
        self._forms = forms
        self.layout = layout
        self.sizes: Int64 = np.array(sizes, np.int64)
        self.time: Int64 = np.concatenate(times)
        ends = self.sizes.cumsum()
        step_back = self.time[1:] < self.time[:-1]
        step_back[ends[:-1] - 1] = False
        if step_back.any():
            tables = [_in_order(table) for table in tables]
            self.time = np.concatenate([table.time for table in tables])
        self.begins: Int64 = ends - self.sizes
        self.first_times = self.time.take(self.begins)
        self.last_times = self.time.take(ends - 1)
        self.oldest, self.newest = int(self.first_times.min()), int(self.last_times.max())
        self._until: dict[int, Int64] = {}
        values = [table.values for table in tables]
        twice = np.concatenate((self.sizes, self.sizes))
        self.whole = _rows(
            layout.whole,
            twice,
            [values[i]["int64"] for i in layout.signed],
            [values[i]["uint64"] for i in layout.unsigned],
            np.dtype(np.int64),
        )
        self.floats = _rows(
            layout.floats,
            twice,
            [values[i]["float32"] for i in layout.single],
            [values[i]["float64"] for i in layout.double],
            np.dtype(np.float64),
        )
        self.texts: dict[int, tuple[UInt8, ...]] = {
            number: tuple(p.copy() for p in tables[number].payloads) for number in layout.texts
        }
        """The payloads of tables that have some."""

    @property
    def ranks(self) -> Int64:
        """int64[tables]: as `Forms.ranks`, which change as more forms get known."""
        return self._forms.ranks[self.layout.kinds]

    def until(self, time: int) -> Int64:
        """int64[tables]: how many rows of each table have at most this time."""
        counts = self._until.get(time)
        if counts is None:
            if len(self._until) >= _FEW:  # several groups ask for the same
                self._until.clear()
            counts = self._until[time] = self._counts(time)
        return counts

    def _counts(self, time: int) -> Int64:
        later = (self.last_times > time).nonzero()[0]
        if not len(later):
            return self.sizes
        if len(later) > _FEW:
            here = (self.time <= time).view(np.int8)
            found: Int64 = np.add.reduceat(here, self.begins, dtype=np.int64)
            return found
        counts = self.sizes.copy()
        for table in later.tolist():
            begin = int(self.begins[table])
            mine = self.time[begin : begin + int(self.sizes[table])]
            counts[table] = np.searchsorted(mine, time, "right")
        return counts

    def tables(self, begins: Int64) -> list[SignalTable]:
        """The rows of each table from a place on, as tables again."""
        made, tables = [], len(self.sizes)
        for number in (begins < self.sizes).nonzero()[0].tolist():
            form, n, skip = self.layout.forms[number], int(self.sizes[number]), int(begins[number])
            start = int(self.begins[number])
            values: dict[Any, NDArray[Any]] = {}
            for rows, kinds in (
                (self.whole, (("int64", form.signed), ("uint64", form.unsigned))),
                (self.floats, (("float32", form.single), ("float64", form.double))),
            ):
                for section, (kind, k) in enumerate(kinds):
                    if not k:
                        continue
                    at = int(rows.begins[section * tables + number])
                    matrix = rows.flat[at : at + k * n].reshape(k, n)[:, skip:]
                    values[kind] = matrix.view(np.uint64) if kind == "uint64" else matrix
                    if kind == "float32":
                        values[kind] = matrix.astype(np.float32)
            texts = tuple(p[skip:] for p in self.texts.get(number, ()))
            time = self.time[start + skip : start + n]
            made.append(SignalTable(form.schema, time, values, texts))
        return made


def _in_order(table: SignalTable) -> SignalTable:
    return table.take(np.argsort(table.time, kind="stable"))


def _rows(
    counts: Int64,
    sizes: Int64,
    first: Sequence[NDArray[Any]],
    second: Sequence[NDArray[Any]],
    dtype: np.dtype[Any],
) -> Rows:
    """The values of two types, those of one behind those of the other."""
    lengths = counts * sizes
    ends = lengths.cumsum()
    begins = ends - lengths
    middle = int(begins[len(lengths) // 2])
    flat = np.empty(int(ends[-1]) + 1, dtype)
    flat[-1] = 0
    for parts, room in ((first, flat[:middle]), (second, flat[middle:-1])):
        if parts:
            # The bits of unsigned ones stay what they are.
            out = room.view(np.uint64) if parts[0].dtype == np.uint64 else room
            np.concatenate(parts, axis=None, out=out)
    return Rows(flat, begins, counts, sizes)
