"""Traffic of two buses and conditions over it, drawn at random or as a drive has them."""

import dataclasses
import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.clock import SECOND
from agent.collect.expression import tree as t
from agent.signals.database import SignalPath
from tests.collect.condition_reference import Row

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
THRESHOLDS: Final = [-10.0, -9.5, -2.0, 0.0, 0.5, 1.0, 3.0, 5.5, 100.0, 2.0**60, 2.0**65, math.inf]
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


def named(conditions: Iterable[t.Condition]) -> dict[str, t.Condition]:
    return {f"c{number}": tree for number, tree in enumerate(conditions)}


def calm_traffic(seed: int) -> Traffic:
    """Values that mostly stay as they were, and many blocks: what is decided without rows."""
    draw = random.Random(seed)
    held: dict[tuple[str, str], Any] = {}

    def raws(bus: str, *names: str) -> dict[str, Any]:
        for name in names:
            if (bus, name) not in held or draw.random() < 0.3:
                held[bus, name] = draw.choice(RAWS[name])
        return {name: held[bus, name] for name in names}

    def row(bus: str, time: int) -> Row:
        if draw.random() < 0.5:
            return Row(bus, "Engine", time, raws(bus, "level", "angle"))
        if bus == "can1":
            sent = raws(bus, "big", "long", "real")
            return Row(bus, "Sender", time, sent, draw.choice([1, 2, 3]))
        branch, names = draw.choice([("page=0", ["page", "down"]), ("page=1", ["page", "part"])])
        if draw.random() < 0.2:
            return Row(bus, "Text", time, raws(bus, "text"))
        return Row(bus, "Group", time, raws(bus, *names), branch=branch)

    span, rows = draw.choice([30, 60, 200]), {}
    for bus in ("can0", "can1"):
        first = Row(bus, "Engine", 0, raws(bus, "level", "angle"))
        times = sorted(draw.randrange(span) for _ in range(draw.randrange(60)))
        rows[bus] = [first, *(row(bus, time) for time in times)]
    size = draw.choice([1, 3, 8, 20])
    blocks = [(draw.choice(["can0", "can1"]), draw.randint(1, size)) for _ in range(40)]
    return Traffic(rows, [("can0", 1), ("can1", 1), *blocks])


@st.composite
def twice_cut(draw: st.DrawFn) -> tuple[Traffic, Traffic]:
    """The same rows in other blocks."""
    one = draw(traffic())
    blocks = draw(st.lists(st.tuples(st.sampled_from(["can0", "can1"]), st.integers(1, 30))))
    return one, dataclasses.replace(one, blocks=[*one.blocks[:2], *blocks])


def driving(seconds: int) -> Traffic:
    """Signals that move slowly, of two buses, at 20 and 50 ms."""
    generator = np.random.default_rng(5)
    rows: dict[str, list[Row]] = {"can0": [], "can1": []}
    for bus, of in rows.items():
        for number in range(seconds * 50):
            now = number * 20_000_000 + int(generator.integers(0, 5_000_000))
            level = int(100 + 40 * np.sin(number / 90) + 3 * generator.normal())
            level = 255 if number % 170 > 160 else level
            raws = {"level": level, "angle": int(200 * np.sin(number / 60))}
            of.append(Row(bus, "Engine", now, raws))
            if bus == "can1" and number % 3 == 0 and number % 200 < 150:
                walk = float(np.round(8 * np.cos(number / 150), 2))
                sent = {"big": 2**63 + number // 40, "long": -number, "real": walk}
                of.append(Row(bus, "Sender", now + 7_000, sent, number % 2))
    return Traffic(
        {bus: sorted(of, key=lambda row: row.time) for bus, of in rows.items()},
        [("can0", 1), ("can1", 1), *[("can0", 20), ("can1", 25)] * 50],
    )


def many(count: int) -> dict[str, t.Condition]:
    """Conditions such as people write, no two alike."""
    made: list[t.Condition] = []
    for number in itertools.count():
        if len(made) >= count:
            return named(made)
        threshold = 60 + number % 90
        one, other = SIGNALS[number % 5], SIGNALS[(3 * number + 1) % len(SIGNALS)]
        mean = t.Window(0, "mean", LEVEL, SECOND)
        most = t.Window(0, "max", one, 3 * SECOND)
        calm = t.Compare(0, "<", t.Function(0, "abs", ANGLE), number_node(number % 60))
        high = above(LEVEL, threshold)
        made += [
            t.Both(0, high, calm),
            t.For(0, t.Either(0, calm, above(other, threshold - 100)), SECOND),
            t.Either(0, above(mean, threshold), t.Edge(0, "falls", calm)),
            t.Both(0, t.Not(0, above(most, threshold)), t.Valid(0, LEVEL)),
            t.Both(0, t.Missing(0, REAL, (1 + number) * 100_000_000), high),
            above(t.Arithmetic(0, "-", one, t.Previous(0, one)), number % 7),
            t.For(0, t.Not(0, t.Valid(0, LEVEL, "not available")), (1 + number) * SECOND // 5),
            t.Both(0, t.RawIs(0, LEVEL, frozenset({threshold, 255})), t.Changed(0, LEVEL)),
        ]
    raise AssertionError


def number_node(value: float) -> t.Number:
    return number(float(value))


def engine(bus: str, time: int, level: int, angle: int = 0) -> Row:
    return Row(bus, "Engine", time, {"level": level, "angle": angle})


def level_table(times: NDArray[Any], levels: NDArray[Any]) -> SignalTable:
    schema = TableSchema("can0", "Engine", (SCHEMAS["Engine", "level"],))
    return SignalTable(schema, times.astype(np.int64), {"uint64": levels.astype(np.uint64)[None]})
