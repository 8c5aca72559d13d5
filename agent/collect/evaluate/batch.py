"""The tables of a block as flat arrays.

Every table that has a signal of some condition is copied whole, all values of all tables of a type
into one array, signal by signal: one call copies everything, one more finds the least value of each
signal. The copy outlives the block, for rows that cannot be decided yet.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, Int64, SignalTable, TableSchema, UInt8

_MAX_KNOWN = 1 << 14


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


class Forms:
    """The forms of all tables that came; `None` for tables without any signal of a condition."""

    def __init__(self, wanted: Callable[[Form], bool]) -> None:
        self._wanted = wanted
        self._by_identity: dict[int, tuple[TableSchema, Form | None]] = {}
        self._by_schema: dict[TableSchema, Form | None] = {}
        self.all: list[Form] = []
        self._counts: Int64 | None = None
        self._ranks: Int64 | None = None

    def known(self, tables: Iterable[SignalTable]) -> list[tuple[Form, SignalTable]]:
        """The tables that are wanted and have rows."""
        # A schema's own hash is a call into Python, and schemas live as long as their decoder.
        get = self._by_identity.get
        found = []
        for table in tables:
            if not len(table.time):
                continue
            entry = get(id(table.schema))
            form = self._of(table.schema) if entry is None else entry[1]
            if form is not None:
                found.append((form, table))
        return found

    def _of(self, schema: TableSchema) -> Form | None:
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
        """int64[2, forms]: rows of whole numbers, and of floats."""
        if self._counts is None:
            pairs = [(f.signed + f.unsigned, f.single + f.double) for f in self.all]
            self._counts = np.array(pairs, np.int64).T.copy()
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


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The values of one type (whole numbers, or floats) of all tables, and where they lie."""

    flat: NDArray[Any]
    """int64 (unsigned ones as their bits) or float64; one more value stands at the end."""
    first: Int64
    """int64[tables]: the number of each table's first row."""
    begins: Int64
    """int64[rows]: where each row begins in `flat`."""

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
    if (begins[1:] == ends[:-1]).all():
        edges = np.append(begins, ends[-1])
        return ufunc.reduceat(flat, edges)[:-1]
    # What lies between two stretches is reduced as well, and not looked at.
    edges = np.empty(2 * len(begins), np.int64)
    edges[::2] = begins
    edges[1::2] = ends
    return ufunc.reduceat(flat, edges)[::2]


class Batch:
    """Tables with at least one row each, the rows of a table in the order of time."""

    def __init__(self, forms: Forms, tables: Sequence[tuple[Form, SignalTable]]) -> None:
        times = [table.time for _, table in tables]
        sizes = np.array([len(t) for t in times], np.int64)
        self.time: Int64 = np.concatenate(times)
        ends = np.cumsum(sizes)
        step_back = self.time[1:] < self.time[:-1]
        step_back[ends[:-1] - 1] = False
        if step_back.any():
            tables = [(form, _in_order(table)) for form, table in tables]
            self.time = np.concatenate([table.time for _, table in tables])
        self.forms = [form for form, _ in tables]
        self.kinds = np.array([form.number for form in self.forms], np.intp)
        """intp[tables]: the number of each table's form."""
        self._forms = forms
        self.sizes = sizes
        self.begins = ends - sizes
        self.first_times = self.time[self.begins]
        self.last_times = self.time[ends - 1]
        counts = forms.counts[:, self.kinds]
        self.whole = self._rows(_whole(tables), counts[0])
        self.floats = self._rows(_floats(tables), counts[1])
        self.texts: dict[int, tuple[UInt8, ...]] = {
            number: tuple(p.copy() for p in table.payloads)
            for number, (form, table) in enumerate(tables)
            if form.texts
        }
        """The payloads of tables that have some."""

    @property
    def ranks(self) -> Int64:
        """int64[tables]: as `Forms.ranks`, which change as more forms get known."""
        return self._forms.ranks[self.kinds]

    def _rows(self, flat: NDArray[Any], counts: Int64) -> Rows:
        lengths = np.repeat(self.sizes, counts)
        return Rows(flat, np.cumsum(counts) - counts, np.cumsum(lengths) - lengths)

    @functools.cached_property
    def whole_extremes(self) -> tuple[Int64, Int64]:
        """The least and the greatest of each row of whole numbers."""
        begins, ends = self._edges(self.whole)
        return self.whole.least(begins, ends), self.whole.greatest(begins, ends)

    @functools.cached_property
    def float_extremes(self) -> tuple[Float64, Float64, NDArray[np.bool_]]:
        begins, ends = self._edges(self.floats)
        rows = self.floats
        return rows.least(begins, ends), rows.greatest(begins, ends), rows.odd(begins, ends)

    @staticmethod
    def _edges(rows: Rows) -> tuple[Int64, Int64]:
        return rows.begins, np.append(rows.begins[1:], len(rows.flat) - 1)

    def until(self, time: int) -> Int64:
        """int64[tables]: how many rows of each table have at most this time."""
        if (self.last_times <= time).all():
            return self.sizes
        here = (self.time <= time).view(np.int8)
        counts: Int64 = np.add.reduceat(here, self.begins, dtype=np.int64)
        return counts

    def tables(self, begins: Int64) -> list[SignalTable]:
        """The rows of each table from a place on, as tables again."""
        made = []
        for number in np.flatnonzero(begins < self.sizes).tolist():
            form, n, skip = self.forms[number], int(self.sizes[number]), int(begins[number])
            start = int(self.begins[number])
            values: dict[Any, NDArray[Any]] = {}
            for rows, kinds in (
                (self.whole, (("int64", form.signed), ("uint64", form.unsigned))),
                (self.floats, (("float32", form.single), ("float64", form.double))),
            ):
                row = int(rows.first[number])
                for kind, k in kinds:
                    if not k:
                        continue
                    at = int(rows.begins[row])
                    matrix = rows.flat[at : at + k * n].reshape(k, n)[:, skip:]
                    values[kind] = matrix.view(np.uint64) if kind == "uint64" else matrix
                    if kind == "float32":
                        values[kind] = matrix.astype(np.float32)
                    row += k
            texts = tuple(p[skip:] for p in self.texts.get(number, ()))
            time = self.time[start + skip : start + n]
            made.append(SignalTable(form.schema, time, values, texts))
        return made


def _in_order(table: SignalTable) -> SignalTable:
    return table.take(np.argsort(table.time, kind="stable"))


def _whole(tables: Sequence[tuple[Form, SignalTable]]) -> Int64:
    parts: list[NDArray[Any]] = []
    for form, table in tables:
        values = table.values
        if form.signed:
            parts.append(values["int64"])
        if form.unsigned:
            parts.append(values["uint64"])
    parts.append(np.zeros(1, np.int64))
    # The bits stay what they are: a view of each table would take half as long again.
    flat: Int64 = np.concatenate(parts, axis=None, dtype=np.int64, casting="unsafe")
    return flat


def _floats(tables: Sequence[tuple[Form, SignalTable]]) -> Float64:
    parts: list[NDArray[Any]] = []
    for form, table in tables:
        if form.single:
            parts.append(table.values["float32"])
        if form.double:
            parts.append(table.values["float64"])
    parts.append(np.zeros(1, np.float64))
    flat: Float64 = np.concatenate(parts, axis=None, dtype=np.float64)
    return flat
