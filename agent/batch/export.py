"""Decoded tables as CSV or Parquet, one row a sample.

Columns, the same in both forms, in this order:

    time_ns   int64      nanoseconds of `clock`
    time      UTC        of `clock` wall: CSV ISO 8601 with nanoseconds, Parquet timestamp[ns, UTC];
                         empty for the other clocks, whose zero is not 1970
    clock     text       wall, boot or recorded
    bus, message, source (J1939 address, or empty), branch (multiplexer), signal
    raw                  the value as it was on the bus, exact. CSV: one column; an integer, the
                         shortest decimal that reads back as the same double, or hexadecimal bytes.
                         Parquet: `raw_int` int64 for every integer that fits, `raw_uint` uint64 for
                         those from 2**63 on, `raw_float` double, `raw_bytes` binary; one is set.
    value     double     physical: raw * scale + offset; empty for bytes
    label     text       the value table's word for this raw value; without one, what a code means:
                         not available, error, reserved
    unit, campaign       text

The long form is what survives: signals come and go with the plan, messages have times of their own,
and a query engine pivots it in a line. Rows are grouped by message and signal in stretches of about
`ROWS` samples, a stretch being a row group in Parquet; they are not sorted by time throughout.

Memory is bounded by a stretch, not by the input. Whole columns are worked on, never a row. The
target appears under its name when it is whole and durable, or not at all.
"""

import csv
import importlib
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agent.batch.target import whole
from agent.blocks import Float64, SignalSchema, SignalTable, TableSchema, concatenate
from agent.errors import ConfigError

ROWS = 1 << 17
"""Samples that are gathered before they are written."""

Format = Literal["csv", "parquet"]

CSV_COLUMNS = (
    "time_ns", "time", "clock", "bus", "message", "source", "branch", "signal", "raw", "value",
    "label", "unit", "campaign",
)  # fmt: skip


def export_tables(
    tables: Iterable[SignalTable],
    target: str | os.PathLike[str],
    format: Format,  # noqa: A002
) -> int:
    """Write tables to a file and give the number of samples in it.

    Raises:
        ConfigError: the target cannot be written, or Parquet is asked for and pyarrow is missing.
        BatchError: from reading `tables`, when they come from `read_batch`.
    """
    begin: type[_Csv | _Parquet] = _Csv if format == "csv" else _Parquet
    count = 0
    with whole(Path(target)) as part, part.open("wb") as file:
        writer = begin(file)
        for stretch in stretches(tables):
            for table in stretch:
                count += table.samples
            writer.write(stretch)
        writer.close()
    return count


def stretches(tables: Iterable[SignalTable]) -> Iterator[list[SignalTable]]:
    """About ROWS samples at a time, tables of one schema and campaign joined."""
    groups: dict[tuple[TableSchema, str], list[SignalTable]] = {}
    count = 0
    for table in tables:
        for piece in _pieces(table):
            groups.setdefault((piece.schema, piece.campaign), []).append(piece)
            count += piece.samples
            if count >= ROWS:
                yield [concatenate(group) for group in groups.values()]
                groups = {}
                count = 0
    if groups:
        yield [concatenate(group) for group in groups.values()]


def _pieces(table: SignalTable) -> Iterator[SignalTable]:
    step = max(1, ROWS // max(1, len(table.schema.signals)))
    if table.samples:
        for begin in range(0, len(table), step):
            yield table if len(table) <= step else table.take(slice(begin, begin + step))


def _physical(signal: SignalSchema, raw: NDArray[Any]) -> Float64 | None:
    if signal.kind == "bytes":
        return None
    with np.errstate(all="ignore"):  # a result beyond all doubles is infinite
        return signal.physical(raw)


class _Csv:
    """RFC 4180 with line feeds, UTF-8; texts are quoted where they must be."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self._file = file
        self._lines([",".join(CSV_COLUMNS)])

    def _lines(self, lines: list[str]) -> None:
        self._file.write(("\n".join(lines) + "\n").encode("utf-8", "replace"))

    def write(self, tables: list[SignalTable]) -> None:
        for table in tables:
            numbers = table.time.tolist()
            if table.clock == "wall":
                stamps = np.datetime_as_string(table.time.view("datetime64[ns]"), "ns").tolist()
                times = [f"{n},{stamp}Z" for n, stamp in zip(numbers, stamps, strict=True)]
            else:
                times = [f"{n}," for n in numbers]
            source = "" if table.source is None else table.source
            for signal in table.schema.signals:
                before = _row(
                    table.clock, table.bus, table.message, source, table.branch, signal.name
                )
                after = _row(signal.unit, table.campaign)
                raw, value, label = self._texts(signal, table.raw[signal.name])
                self._lines(
                    [
                        f"{t},{before},{r},{v},{text},{after}"
                        for t, r, v, text in zip(times, raw, value, label, strict=True)
                    ]
                )

    @staticmethod
    def _texts(
        signal: SignalSchema, column: NDArray[Any]
    ) -> tuple[list[str], list[str], list[str]]:
        empty = [""] * len(column)
        physical = _physical(signal, column)
        if physical is None:
            return [bytes(row).hex() for row in column], empty, empty
        values = column.tolist()
        # repr of a float is the shortest text that reads back as the same double.
        raw = list(map(repr, values))
        value = list(map(repr, physical.tolist()))
        if not signal.choices and not signal.codes:
            return raw, value, empty
        meanings = _meanings(signal, column)
        if not signal.choices:
            return raw, value, meanings
        names = {number: _row(name) for number, name in signal.choices}
        return raw, value, [names.get(v, m) for v, m in zip(values, meanings, strict=True)]

    def close(self) -> None:
        pass


def _meanings(signal: SignalSchema, column: NDArray[Any]) -> list[str]:
    """What each raw value means as a code; empty for measurements."""
    texts = [*(_row(meaning) for _, _, meaning in signal.codes), ""]
    return [texts[place] for place in signal.code_of(column).tolist()]


def _row(*fields: object) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(fields)
    # The writer puts quotes around a single empty field, to tell it from no field.
    return "" if fields == ("",) else out.getvalue()


class _Parquet:
    """A row group for each stretch; numbers go in as whole columns, texts as runs."""

    def __init__(self, file: io.BufferedWriter) -> None:
        self._pa, parquet = _pyarrow()
        pa = self._pa
        types = {
            **dict.fromkeys(CSV_COLUMNS, pa.string()),
            "time_ns": pa.int64(),
            "time": pa.timestamp("ns", tz="UTC"),
            "source": pa.int16(),
            "value": pa.float64(),
        }
        raw = {
            "raw_int": pa.int64(),
            "raw_uint": pa.uint64(),
            "raw_float": pa.float64(),
            "raw_bytes": pa.binary(),
        }
        fields = [
            field
            for name in CSV_COLUMNS
            for field in (raw.items() if name == "raw" else [(name, types[name])])
        ]
        self._schema = pa.schema(fields)
        self._writer = parquet.ParquetWriter(file, self._schema, compression="zstd")

    def write(self, tables: list[SignalTable]) -> None:
        pa = self._pa
        runs = [(table, signal) for table in tables for signal in table.schema.signals]
        counts = np.array([len(table) for table, _ in runs])
        time = np.concatenate([table.time for table, _ in runs])
        wall = np.repeat(np.array([table.clock == "wall" for table, _ in runs]), counts)
        source = np.repeat(
            np.array([-1 if t.source is None else t.source for t, _ in runs], np.int16), counts
        )
        columns = {
            "time_ns": pa.array(time),
            "time": pa.array(time, mask=~wall).cast(self._schema.field("time").type),
            "source": pa.array(source, mask=source < 0),
            "label": self._labels(runs),
            **self._numbers(runs, counts),
        }
        # Texts that are the same for all samples of a signal in a table.
        constant = {
            "signal": [signal.name for _, signal in runs],
            "unit": [signal.unit for _, signal in runs],
        }
        for name in ("clock", "bus", "message", "branch", "campaign"):
            constant[name] = [getattr(table, name) for table, _ in runs]
        for name, texts in constant.items():
            words, codes = np.unique(np.array(texts, object), return_inverse=True)
            columns[name] = self._words(np.repeat(codes, counts), words.tolist())
        names = self._schema.names
        self._writer.write_table(
            pa.table([columns[n] for n in names], schema=self._schema), row_group_size=2 * ROWS
        )

    def _numbers(
        self, runs: list[tuple[SignalTable, SignalSchema]], counts: NDArray[np.int_]
    ) -> dict[str, Any]:
        pa = self._pa
        words: list[NDArray[np.uint64]] = []
        floats: list[Float64] = []
        values: list[Float64] = []
        payloads: list[Any] = []
        for table, signal in runs:
            column = table.raw[signal.name]
            nothing = np.zeros(len(table))
            whole = signal.kind in ("int64", "uint64")
            words.append(column.view(np.uint64) if whole else nothing.view(np.uint64))
            floats.append(
                column.astype(np.float64) if signal.kind in ("float32", "float64") else nothing
            )
            physical = _physical(signal, column)
            values.append(nothing if physical is None else physical)
            payloads.append(
                pa.array([bytes(row) for row in column], pa.binary())
                if signal.kind == "bytes"
                else pa.nulls(len(table), pa.binary())
            )
        word = np.concatenate(words)
        kind = np.repeat(np.array([signal.kind for _, signal in runs]), counts)
        big = (kind == "uint64") & (word >= np.uint64(1 << 63))
        whole = ((kind == "int64") | (kind == "uint64")) & ~big
        real = (kind == "float32") | (kind == "float64")
        return {
            "raw_int": pa.array(word.view(np.int64), mask=~whole),
            "raw_uint": pa.array(word, mask=~big),
            "raw_float": pa.array(np.concatenate(floats), mask=~real),
            "raw_bytes": pa.concat_arrays(payloads),
            "value": pa.array(np.concatenate(values), mask=kind == "bytes"),
        }

    def _labels(self, runs: list[tuple[SignalTable, SignalSchema]]) -> Any:
        words: list[str] = [""]
        parts: list[NDArray[np.int64]] = []
        for table, signal in runs:
            if signal.kind == "bytes" or not (signal.choices or signal.codes):
                parts.append(np.full(len(table), -1))
                continue
            names = {number: len(words) + i for i, (number, _) in enumerate(signal.choices)}
            words += [name for _, name in signal.choices]
            seen, inverse = np.unique(table.raw[signal.name], return_inverse=True)
            codes = [c + len(words) if c >= 0 else -1 for c in signal.code_of(seen).tolist()]
            words += [meaning for _, _, meaning in signal.codes]
            found = [names.get(v, c) for v, c in zip(seen.tolist(), codes, strict=True)]
            parts.append(np.array(found, np.int64)[inverse])
        return self._words(np.concatenate(parts), words)

    def _words(self, codes: NDArray[np.int_], words: list[str]) -> Any:
        """A text column from indices; a negative one is null."""
        pa = self._pa
        indices = pa.array(codes.astype(np.int32), mask=codes < 0)
        return pa.DictionaryArray.from_arrays(indices, pa.array(words, pa.string())).cast(
            pa.string()
        )

    def close(self) -> None:
        self._writer.close()


def _pyarrow() -> tuple[Any, Any]:
    try:
        pyarrow = importlib.import_module("pyarrow")
        return pyarrow, importlib.import_module("pyarrow.parquet")
    except ImportError as e:
        raise ConfigError(
            "Parquet needs pyarrow, which is not installed: "
            "pip install 'vehicle-edge-agent[cloud]', or export to CSV"
        ) from e
