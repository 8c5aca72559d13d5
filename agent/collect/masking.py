"""A table that is being masked: samples replaced, made "not available" or left out."""

import dataclasses
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, Kind, SignalSchema, SignalTable, TableSchema

Bools = NDArray[np.bool_]
Subset = Callable[[TableSchema, tuple[str, ...]], TableSchema]

_UNAVAILABLE: Final = "not available"


class Edit:
    """Changes of one table; the arrays of the table itself are not written to."""

    def __init__(self, table: SignalTable) -> None:
        self.table = table
        self.blanked = 0
        """Samples that became "not available"."""
        self.left_out = 0
        """Samples that are not there any more; known after `tables`."""
        self._values: dict[Kind, NDArray[Any]] = dict(table.values)
        self._payloads = list(table.payloads)
        self._absent: dict[str, Bools] = {}

    def replace_text(self, name: str, text: str) -> None:
        """Other text in place of bytes; numbers, and all where there is no text, are left out."""
        kind, row = self.table.schema.place[name]
        if kind != "bytes" or not text:
            self.leave_out(name, np.ones(len(self.table), bool))
            return
        rows, width = self._payloads[row].shape
        cell = text.encode("utf-8")[:width].ljust(width, b"\0")
        self._payloads[row] = np.tile(np.frombuffer(cell, np.uint8), (rows, 1))

    def leave_out(self, name: str, rows: Bools) -> None:
        """`rows` is a mask, bool[n]."""
        if rows.any():
            self._absent[name] = rows

    def hide(self, name: str, rows: Bools) -> None:
        """Measurements become "not available", or are left out where nothing says that."""
        schema, raw = self.table.schema.by_name[name], self.table.raw[name]
        rows = rows & (schema.code_of(raw) < 0) & ~np.isnan(raw)
        code = next((last for _, last, meaning in schema.codes if meaning == _UNAVAILABLE), None)
        if code is None or schema.kind not in ("int64", "uint64"):
            self.leave_out(name, rows)
        elif rows.any():
            self._column(name)[rows] = code
            self.blanked += int(rows.sum())

    def put(self, name: str, physical: Float64, rows: Bools) -> None:
        """The raw values that are nearest to physical ones; these are float64[n]."""
        if rows.any():
            column = self._column(name)
            raw = _raw(self.table.schema.by_name[name], physical[rows])
            column[rows] = raw.astype(column.dtype)

    def tables(self, subset: Subset) -> list[SignalTable]:
        """What is left: rows that lack the same samples are one table.

        `subset` gives the schema of a table that has only some of its signals.
        """
        whole = dataclasses.replace(
            self.table, values=self._values, payloads=tuple(self._payloads), scaled=None
        )
        if not self._absent:
            return [whole]
        lacks = np.stack(list(self._absent.values()))
        self.left_out = int(lacks.sum())
        patterns, which = np.unique(lacks, axis=1, return_inverse=True)
        found = []
        for number, pattern in enumerate(patterns.T):
            gone = {name for name, lack in zip(self._absent, pattern, strict=True) if lack}
            names = tuple(name for name in whole.names if name not in gone)
            if names:
                part = whole.take(which.reshape(-1) == number) if len(patterns.T) > 1 else whole
                found.append(part.select(subset(whole.schema, names)) if gone else part)
        return found

    def _column(self, name: str) -> NDArray[Any]:
        kind, row = self.table.schema.place[name]
        if self._values[kind] is self.table.values[kind]:
            self._values[kind] = self.table.values[kind].copy()
        column: NDArray[Any] = self._values[kind][row]
        return column


def _raw(schema: SignalSchema, physical: Float64) -> Float64:
    raw = (physical - float(schema.offset)) / float(schema.scale)
    if schema.kind not in ("int64", "uint64"):
        return raw
    signed = schema.kind == "int64"
    least = -float(1 << schema.bits - 1) if signed else 0.0
    end = float(1 << schema.bits - signed)
    # Beyond 2**53 doubles are more than 1 apart.
    most = min(end - 1, float(np.nextafter(end, 0)))
    return np.clip(np.rint(raw), least, most)
