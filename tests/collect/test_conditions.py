"""Conditions over columns, against one moment at a time."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.clock import SECOND
from agent.collect.conditions import LAG_NS, NEVER, Conditions, Steps
from agent.collect.evaluate.windows import MAX_SAMPLES
from agent.collect.expression import tree as t
from agent.signals.database import SignalPath
from tests.collect.condition_reference import Reference, Row, expected

CODES: Final = ((250, 253, "reserved"), (254, 254, "error"), (255, 255, "not available"))
SCHEMAS: Final = {
    ("Engine", "level"): SignalSchema("level", "uint64", 8, codes=CODES),
    ("Engine", "angle"): SignalSchema("angle", "int64", 12, 0.5, -10),
    ("Group", "page"): SignalSchema("page", "uint64", 2),
    ("Group", "down"): SignalSchema("down", "int64", 16, -2, 1),
    ("Group", "part"): SignalSchema("part", "float32", 32),
    ("Sender", "big"): SignalSchema("big", "uint64", 64, 3, 1),
    ("Sender", "long"): SignalSchema("long", "int64", 60, 0.25, 0, codes=((7, 9, "error"),)),
    ("Sender", "real"): SignalSchema("real", "float64", 64, 2.0, -1.0),
    ("Text", "text"): SignalSchema("text", "bytes", 32),
}
FLOATS: Final = [0.0, -0.0, 1.5, -2.0, 3.25, float("nan"), float("inf"), float("-inf")]
RAWS: Final[dict[str, Sequence[Any]]] = {
    "level": [0, 1, 2, 3, 4, 100, 251, 254, 255],
    "angle": [-5, -1, 0, 1, 2, 19, 20, 21, 30],
    "page": [0, 1],
    "down": [-3, -1, 0, 1, 2],
    "part": FLOATS,
    "big": [0, 1, 5, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1],
    "long": [-(2**59), -4, 0, 3, 8, 2**54 + 1, 2**59 - 1],
    "real": FLOATS,
    "text": [b"on\0\0", b"off\0", b"long"],
}
THRESHOLDS: Final = [-10.0, -9.5, -2.0, 0.0, 0.5, 1.0, 2.0, 3.0, 5.5, 100.0, 2.0**60, float("inf")]
DURATIONS: Final = [1, 2, 3, 5, 8, 20, 60]


def signal(bus: str, message: str, name: str) -> t.Signal:
    return t.Signal(0, SignalPath(bus, message, name), SCHEMAS[message, name])


LEVEL, ANGLE = signal("can0", "Engine", "level"), signal("can0", "Engine", "angle")
ANY_LEVEL = signal("*", "Engine", "level")
OTHER_LEVEL = signal("can1", "Engine", "level")
REAL = signal("can1", "Sender", "real")
SIGNALS: Final = [
    LEVEL,
    ANGLE,
    ANY_LEVEL,
    OTHER_LEVEL,
    signal("*", "Engine", "angle"),
    signal("can0", "Group", "down"),
    signal("can0", "Group", "part"),
    signal("can1", "Sender", "big"),
    signal("can1", "Sender", "long"),
    REAL,
]
TEXT: Final = signal("can0", "Text", "text")


def number(value: float) -> t.Number:
    return t.Number(0, value)


def above(of: t.Numeric, value: float) -> t.Compare:
    return t.Compare(0, ">", of, number(value))


@st.composite
def raw_is(draw: st.DrawFn) -> t.RawIs:
    of = draw(st.sampled_from([s for s in SIGNALS if "float" not in s.schema.kind]))
    raws = draw(st.frozensets(st.sampled_from([*RAWS[of.path.signal], -7, 2**64]), min_size=1))
    return t.RawIs(0, of, raws, draw(st.sampled_from([None, None, 1, 2, 0xFF, 2**63])))


def numerics() -> st.SearchStrategy[t.Numeric]:
    signals = st.sampled_from(SIGNALS)
    window = st.builds(
        t.Window,
        st.just(0),
        st.sampled_from(["min", "max", "mean", "count", "delta", "rate"]),
        signals,
        st.sampled_from(DURATIONS),
    )
    leaves = signals | window | st.builds(t.Previous, st.just(0), signals)
    return st.recursive(
        leaves | st.builds(number, st.sampled_from(THRESHOLDS)),
        lambda inner: (
            st.builds(t.Arithmetic, st.just(0), st.sampled_from("+-*/"), inner, inner)
            | st.builds(t.Function, st.just(0), st.sampled_from(["negative", "abs"]), inner)
        ),
        max_leaves=3,
    )


def trees() -> st.SearchStrategy[t.Condition]:
    zero, durations = st.just(0), st.sampled_from(DURATIONS)
    any_signal = st.sampled_from([*SIGNALS, TEXT])
    meanings = st.sampled_from(["valid", "not available", "error"])
    operators = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    leaves = (
        st.builds(
            t.Compare, zero, operators, numerics(), st.builds(number, st.sampled_from(THRESHOLDS))
        )
        | st.builds(t.Compare, zero, operators, numerics(), numerics())
        | raw_is()
        | st.builds(t.Valid, zero, any_signal, meanings)
        | st.builds(t.Missing, zero, any_signal, durations)
        | st.builds(t.Changed, zero, any_signal)
        | st.builds(t.Truth, zero, st.booleans())
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.builds(t.Both, zero, inner, inner)
            | st.builds(t.Either, zero, inner, inner)
            | st.builds(t.Not, zero, inner)
            | st.builds(t.For, zero, inner, durations)
            | st.builds(t.Edge, zero, st.sampled_from(["rises", "falls"]), inner)
        ),
        max_leaves=5,
    )


def values(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({name: st.sampled_from(RAWS[name]) for name in names})


def rows_of(bus: str) -> st.SearchStrategy[Row]:
    """Any row of a bus, at a time from 0 on."""
    time = st.integers(0, 40)
    engine = st.builds(Row, st.just(bus), st.just("Engine"), time, values("level", "angle"))
    if bus == "can1":
        sources = st.sampled_from([1, 2, 3])
        sent = values("big", "long", "real")
        return engine | st.builds(Row, st.just(bus), st.just("Sender"), time, sent, sources)
    return (
        engine
        | st.builds(
            Row,
            st.just(bus),
            st.just("Group"),
            time,
            values("page", "down"),
            branch=st.just("page=0"),
        )
        | st.builds(
            Row,
            st.just(bus),
            st.just("Group"),
            time,
            values("page", "part"),
            branch=st.just("page=1"),
        )
        | st.builds(Row, st.just(bus), st.just("Text"), time, values("text"))
    )


def tables(rows: Iterable[Row]) -> list[SignalTable]:
    """Rows as a decoder hands them on: a table for each message, source and branch."""
    together: dict[Any, list[Row]] = {}
    for row in rows:
        key = (row.bus, row.message, row.source, row.branch)
        together.setdefault(key, []).append(row)
    return [table(schema_of(of[0]), of) for of in together.values()]


def schema_of(row: Row) -> TableSchema:
    signals = tuple(SCHEMAS[row.message, name] for name in row.raws)
    return TableSchema(row.bus, row.message, signals, row.source, row.branch)


def table(schema: TableSchema, rows: Sequence[Row]) -> SignalTable:
    made: dict[Any, list[NDArray[Any]]] = {}
    texts = []
    for of in schema.signals:
        column = [row.raws[of.name] for row in rows]
        if of.kind == "bytes":
            texts.append(np.array([list(text) for text in column], np.uint8))
        else:
            made.setdefault(of.kind, []).append(np.array(column, of.kind))
    stacked = {kind: np.stack(columns) for kind, columns in made.items()}
    return SignalTable(
        schema, np.array([row.time for row in rows], np.int64), stacked, tuple(texts)
    )


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Rows of two buses in the order of time, and where blocks end: (bus, rows) each."""

    rows: Mapping[str, Sequence[Row]]
    blocks: Sequence[tuple[str, int]]

    @property
    def all(self) -> list[Row]:
        return [row for rows in self.rows.values() for row in rows]

    def feeds(self) -> Iterator[tuple[list[SignalTable], dict[str, int]]]:
        """What is handed on block by block; what is left of a bus at the end is its last block."""
        done = dict.fromkeys(self.rows, 0)
        reached: dict[str, int] = {}
        for bus, n in [*self.blocks, *((bus, 1000) for bus in self.rows)]:
            block = self.rows[bus][done[bus] : done[bus] + n]
            done[bus] += n
            if block:
                reached[bus] = block[-1].time
                yield tables(block), dict(reached)


@st.composite
def traffic(draw: st.DrawFn) -> Traffic:
    rows = {}
    for bus in ("can0", "can1"):
        # The first row of each bus says that it has Engine: nothing is decided before.
        first = Row(bus, "Engine", 0, draw(values("level", "angle")))
        drawn = draw(st.lists(rows_of(bus), max_size=25))
        rows[bus] = [first, *sorted(drawn, key=lambda row: row.time)]
    blocks = draw(st.lists(st.tuples(st.sampled_from(["can0", "can1"]), st.integers(1, 8))))
    return Traffic(rows, [("can0", 1), ("can1", 1), *blocks])


class Watcher:
    """Keeps what `Conditions` tell, and checks that it fits together."""

    def __init__(self, names: Iterable[str]) -> None:
        self.times: dict[str, list[int]] = {name: [] for name in names}
        self.horizon = dict.fromkeys(self.times, NEVER)

    def see(self, told: Mapping[str, Steps], conditions: Conditions) -> None:
        for name, steps in told.items():
            times = steps.times.tolist()
            assert times
            assert times == sorted(set(times))
            assert steps.before == bool(len(self.times[name]) % 2)
            assert times[0] > self.horizon[name]
            self.times[name] += times
        for name, times in self.times.items():
            horizon = conditions.horizon(name)
            assert horizon >= self.horizon[name]
            assert not times or times[-1] <= horizon
            assert conditions.truth(name) == bool(len(times) % 2)
            self.horizon[name] = horizon


def run(conditions: Mapping[str, t.Condition], sent: Traffic) -> dict[str, list[int]]:
    evaluator, watcher = Conditions(conditions), Watcher(conditions)
    for block, reached in sent.feeds():
        watcher.see(evaluator.feed(block, reached), evaluator)
    watcher.see(evaluator.finish(), evaluator)
    assert evaluator.late == 0
    return watcher.times


def named(conditions: Iterable[t.Condition]) -> dict[str, t.Condition]:
    return {f"c{number}": tree for number, tree in enumerate(conditions)}


thorough = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@thorough
@given(st.lists(trees(), min_size=1, max_size=6).map(named), traffic())
def test_conditions_change_when_the_reference_says(
    conditions: dict[str, t.Condition], sent: Traffic
) -> None:
    found = run(conditions, sent)
    assert found == {name: expected(tree, sent.all) for name, tree in conditions.items()}
