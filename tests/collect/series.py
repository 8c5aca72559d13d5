"""Made-up signals for the tests of policies: rows, cut into blocks of tables, and back."""

import collections
import dataclasses
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from agent.blocks import Kind, SignalSchema, SignalTable, TableSchema
from tests.collect.reference import Bits, Sample, SeriesKey, bits_of

PAGE = SignalSchema("Page", "uint64", 8)
PLAIN = SignalSchema("Plain", "int64", 12, scale=-0.5, offset=3, unit="A")
ZERO = SignalSchema("Zero", "float32", 32, scale=0.1)
ONE = SignalSchema("One", "float64", 64, unit="V")
TEXT = SignalSchema("Text", "bytes", 72)
CODED = SignalSchema("Coded", "uint64", 8, scale=0.4, codes=((254, 254, "error"), (255, 255, "?")))
LONG = SignalSchema("Long", "uint64", 64)
DEEP = SignalSchema("Deep", "int64", 64, scale=3, offset=1)

# Branches and lengths of one message, which share signals in different places.
SCHEMAS = (
    TableSchema("can0", "Paged", (PAGE, PLAIN, ZERO, TEXT), branch="Page=0"),
    TableSchema("can0", "Paged", (ONE, PLAIN, PAGE), branch="Page=1"),
    TableSchema("can0", "Paged", (PAGE,), branch="Page=1"),
    TableSchema("can0", "Other", (CODED, LONG, DEEP), source=3),
    TableSchema("can1", "Other", (CODED, TEXT), source=3),
    TableSchema("can1", "List", (CODED, PLAIN), entries=True),
)

_POOLS: dict[str, Sequence[Any]] = {
    "Page": (0, 1),
    "Plain": (-2048, -3, -2, -1, 0, 1, 2, 3, 2047),
    "Zero": (0.0, -0.0, 1.0, 1.5, 2.25, float("nan"), float("inf")),
    "One": (0.0, -0.0, 0.1, 0.2, 0.30000000000000004, 1e16, 1e300, float("nan"), float("-inf")),
    "Text": (b"aaaaaaaaa", b"aaaaaaaab", b"zzzzzzzzz"),
    "Coded": (0, 1, 2, 3, 4, 5, 6, 253, 254, 255),
    "Long": (0, 1, 2**32, 2**63, 2**64 - 1, 2**53 + 1),
    "Deep": (-(2**63), -1, 0, 1, 2**62, 2**63 - 1),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of one table."""

    schema: TableSchema
    time: int
    raw: tuple[Any, ...]

    def samples(self) -> Iterator[Sample]:
        for signal, raw in zip(self.schema.signals, self.raw, strict=True):
            yield Sample(self.schema, signal, self.time, raw)


@st.composite
def drives(draw: st.DrawFn, schemas: Sequence[TableSchema] = SCHEMAS) -> list[Row]:
    """Rows in the order of time; only rows of one schema may have one time.

    Values jump about, or stay for a while, or go up and down.
    """
    source = random.Random(draw(st.integers(0, 2**32)))
    switch = draw(st.sampled_from([0.05, 0.5]))
    stay = draw(st.sampled_from([0.0, 0.5, 0.9]))
    count = draw(st.integers(0, 60))
    far = draw(st.sampled_from([3, 30]))
    rows: list[Row] = []
    last: dict[str, Any] = {}
    time = draw(st.integers(-100, 100))
    schema = schemas[0]
    for _ in range(count):
        if source.random() < switch:
            schema = source.choice(schemas)
            time += 1
        time += source.randrange(far)
        raw = []
        for signal in schema.signals:
            if signal.name not in last or source.random() >= stay:
                last[signal.name] = source.choice(_POOLS[signal.name])
            raw.append(last[signal.name])
        rows.append(Row(schema, time, tuple(raw)))
    return rows


def blocks(
    rows: Sequence[Row], cuts: Iterable[int], order: Mapping[int, int] | None = None
) -> Iterator[list[SignalTable]]:
    """Rows, cut into blocks; a table a schema, which `order` puts in another order."""
    ranks = order or {}
    for a, b in itertools.pairwise([0, *sorted(set(cuts)), len(rows)]):
        by_schema: dict[int, list[Row]] = {}
        for row in rows[a:b]:
            by_schema.setdefault(SCHEMAS.index(row.schema), []).append(row)
        numbers = sorted(by_schema, key=lambda number: ranks.get(number, number))
        yield [table(by_schema[number]) for number in numbers]


def table(rows: Sequence[Row]) -> SignalTable:
    """Rows of one schema."""
    schema = rows[0].schema
    values: dict[Kind, list[Any]] = {}
    payloads = []
    for column, signal in enumerate(schema.signals):
        raw = [row.raw[column] for row in rows]
        if signal.kind == "bytes":
            payloads.append(np.frombuffer(b"".join(raw), np.uint8).reshape(len(raw), -1))
        else:
            values.setdefault(signal.kind, []).append(np.array(raw, signal.kind))
    time = np.array([row.time for row in rows], np.int64)
    return SignalTable(schema, time, {k: np.stack(v) for k, v in values.items()}, tuple(payloads))


Found = dict[tuple[SeriesKey, str], list[tuple[int, Bits]]]
"""By series and branch: times and bits, in the order of time."""


def found(tables: Iterable[SignalTable]) -> Found:
    """What is in tables."""
    result: dict[tuple[SeriesKey, str], list[tuple[int, Bits]]] = collections.defaultdict(list)
    for each in tables:
        assert len(each) > 0
        for signal in each.schema.signals:
            column = each.raw[signal.name]
            assert len(column) == len(each.time)
            raws = [v.tobytes() if signal.kind == "bytes" else v.item() for v in column]
            key = ((each.bus, each.message, each.source, signal.name), each.branch)
            result[key] += [
                (time, bits_of(raw, signal.kind))
                for time, raw in zip(each.time.tolist(), raws, strict=True)
            ]
    return {key: sorted(samples) for key, samples in result.items()}


def expected(kept: Iterable[Sample]) -> Found:
    """What should be, of samples."""
    result: dict[tuple[SeriesKey, str], list[tuple[int, Bits]]] = collections.defaultdict(list)
    for sample in kept:
        result[sample.series, sample.table.branch].append((sample.time, sample.bits))
    return {key: sorted(samples) for key, samples in result.items()}
