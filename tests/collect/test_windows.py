"""Aggregates over windows, against their definition, wherever blocks end."""

import collections
import itertools
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.collect.policies import Policy, policy_of
from agent.collect.rules import AGGREGATES, Rule
from tests.collect.reference import SeriesKey, Windowing, bits_of
from tests.collect.series import SCHEMAS, Row, blocks, drives, table

RULES = st.builds(
    Rule,
    kind=st.just("window"),
    interval_ns=st.sampled_from([1, 7, 25, 100, 1000]),
    aggregates=st.one_of(
        st.just(()), st.lists(st.sampled_from(AGGREGATES), unique=True).map(tuple)
    ),
)
Rows = dict[SeriesKey, list[tuple[int, dict[str, Any]]]]


def by_definition(rule: Rule, pieces: Sequence[Sequence[Row]], told: Sequence[bool]) -> Rows:
    """What windows should be given; `told`: of each block, whether it is said what was reached."""
    series: dict[SeriesKey, Windowing] = {}
    said: dict[str, int] = {}
    for number, rows in enumerate(pieces):
        for row in rows:
            for sample in row.samples():
                if sample.series not in series:
                    series[sample.series] = Windowing(rule)
                    if row.schema.bus in said:
                        series[sample.series].reach(said[row.schema.bus])
                series[sample.series].take(sample)
        if told[number]:
            said = newest(pieces[: number + 1])
            for (bus, *_), each in series.items():
                if bus in said:
                    each.reach(said[bus])
    for each in series.values():
        each.close()
    return {key: each.rows for key, each in series.items() if any(f for _, f in each.rows)}


def newest(pieces: Iterable[Sequence[Row]]) -> dict[str, int]:
    """The newest time of each bus."""
    times: dict[str, int] = {}
    for rows in pieces:
        for row in rows:
            times[row.schema.bus] = max(row.time, times.get(row.schema.bus, row.time))
    return times


def given_by(tables: Iterable[SignalTable]) -> Rows:
    """The windows that are in tables."""
    result: dict[SeriesKey, dict[int, dict[str, Any]]] = collections.defaultdict(dict)
    for each in tables:
        assert each.branch == ""
        assert len(each) > 0
        for schema in each.schema.signals:
            name, aggregate = schema.name.rsplit(".", 1)
            for time, raw in zip(each.time.tolist(), each.raw[schema.name], strict=True):
                value = raw.tobytes() if schema.kind == "bytes" else raw.item()
                nan = isinstance(value, float) and math.isnan(value)
                row = result[each.bus, each.message, each.source, name].setdefault(time, {})
                assert aggregate not in row, "a window is given once"
                row[aggregate] = "nan" if nan else bits_of(value, schema.kind)
    return {key: sorted(rows.items()) for key, rows in result.items()}


def successor(policy: Policy, how: str) -> Policy:
    """The policy that goes on with what another one knows."""
    if how == "same":
        return policy
    new = policy_of(policy.rule)
    if how == "adopts":
        new.adopt(policy)
    else:
        new.restore(msgpack.unpackb(msgpack.packb(policy.state()), strict_map_key=False))
    return new


def run(
    rule: Rule,
    pieces: Sequence[Sequence[SignalTable]],
    reached: Sequence[Mapping[str, int]],
    how: str = "same",
    at: int = 0,
) -> list[SignalTable]:
    """All tables that are made; `how` the policy of block `at` follows the one before."""
    policy = policy_of(rule)
    made: list[SignalTable] = []
    for number, tables in enumerate(pieces):
        if number == at:
            policy = successor(policy, how)
        outcome = policy.apply(tables, reached[number])
        assert outcome.kept == outcome.thinned == policy.held == 0
        assert outcome.folded == sum(t.samples for t in tables)
        assert outcome.made == sum(t.samples for t in outcome.tables)
        made += outcome.tables
    outcome = policy.finish()
    assert outcome.folded == outcome.kept == outcome.thinned == 0
    assert outcome.made == sum(t.samples for t in outcome.tables)
    return made + outcome.tables


def cut(rows: Sequence[Row], cuts: Iterable[int]) -> list[Sequence[Row]]:
    edges = [0, *sorted(set(cuts)), len(rows)]
    return [rows[a:b] for a, b in itertools.pairwise(edges)]


def said(pieces: Sequence[Sequence[Row]], told: Sequence[bool]) -> list[dict[str, int]]:
    return [newest(pieces[: n + 1]) if tells else {} for n, tells in enumerate(told)]


@settings(deadline=None, max_examples=400)
@given(
    rule=RULES,
    rows=drives(),
    order=st.permutations(range(len(SCHEMAS))),
    how=st.sampled_from(["same", "adopts", "restored"]),
    data=st.data(),
)
def test_windows_are_as_defined_to_the_last_bit_wherever_blocks_end(
    rule: Rule, rows: list[Row], order: list[int], how: str, data: st.DataObject
) -> None:
    cuts = data.draw(st.sets(st.integers(0, len(rows)), max_size=6))
    at = data.draw(st.integers(0, len(cuts)))
    pieces = cut(rows, cuts)
    told = data.draw(st.lists(st.booleans(), min_size=len(pieces), max_size=len(pieces)))
    tables = list(blocks(rows, cuts, dict(enumerate(order))))
    made = run(rule, tables, said(pieces, told), how, at)
    assert given_by(made) == by_definition(rule, [rows], [False])


@settings(deadline=None, max_examples=200)
@given(rule=RULES, rows=drives(SCHEMAS[3:5]), data=st.data())
def test_late_samples_count_in_the_next_window_that_is_given(
    rule: Rule, rows: list[Row], data: st.DataObject
) -> None:
    rows = data.draw(st.permutations(rows))
    pieces = cut(rows, data.draw(st.sets(st.integers(0, len(rows)), max_size=5)))
    told = data.draw(st.lists(st.booleans(), min_size=len(pieces), max_size=len(pieces)))
    tables = [[t for part in blocks(piece, ()) for t in part] for piece in pieces]
    made = run(rule, tables, said(pieces, told))
    assert given_by(made) == by_definition(rule, pieces, told)


@settings(deadline=None, max_examples=100)
@given(rows=drives(), data=st.data())
def test_no_valid_sample_is_lost_when_samples_of_several_tables_are_late(
    rows: list[Row], data: st.DataObject
) -> None:
    rows = data.draw(st.permutations(rows))
    pieces = cut(rows, data.draw(st.sets(st.integers(0, len(rows)), max_size=5)))
    tables = [[t for part in blocks(piece, ()) for t in part] for piece in pieces]
    rule = Rule("window", interval_ns=10, aggregates=("count",))
    made = given_by(run(rule, tables, said(pieces, [True] * len(pieces))))
    valid = collections.Counter(
        s.series for row in rows for s in row.samples() if s.valid and s.raw == s.raw
    )
    counted = {key: sum(row["count"] for _, row in windows) for key, windows in made.items()}
    assert counted == dict(valid)


@pytest.mark.parametrize("interval", [3, 1000])
def test_a_mean_of_many_floats_is_that_of_adding_them_in_their_order(interval: int) -> None:
    source = random.Random(7)
    schema = TableSchema("can0", "Floats", (SignalSchema("X", "float64", 64),))
    rows = [
        Row(schema, t, (source.uniform(-1, 1) * 10 ** source.randrange(12),)) for t in range(999)
    ]
    rule = Rule("window", interval_ns=interval, aggregates=("mean",))
    pieces = cut(rows, [100, 101, 500])
    made = run(rule, [[table(p)] for p in pieces], [{}] * 4)
    assert given_by(made) == by_definition(rule, [rows], [False])


def test_a_sum_of_large_integers_does_not_overflow() -> None:
    schema = TableSchema("can0", "Large", (SignalSchema("X", "uint64", 64),))
    offered = table([Row(schema, t, (2**64 - 1,)) for t in range(5)])
    policy = policy_of(Rule("window", interval_ns=100, aggregates=("mean",)))
    policy.apply([offered])
    [made] = policy.finish().tables
    assert made.raw["X.mean"].tolist() == [float(2**64 - 1)]


SPEED = SignalSchema("Speed", "uint64", 16, scale=0.01, unit="km/h", vss="Vehicle.Speed")
LEVEL = SignalSchema("Level", "int64", 8, scale=-2, offset=1, choices=((0, "off"),))
NAME = SignalSchema("Name", "bytes", 72)
MOTOR = TableSchema("can0", "Motor", (SPEED, NAME, LEVEL), source=7, branch="Page=1")


def motor(*rows: tuple[int, int, int]) -> SignalTable:
    return table([Row(MOTOR, t, (speed, b"name %04d" % t, level)) for t, speed, level in rows])


def test_a_window_is_given_when_a_later_one_begins_and_has_the_time_of_its_begin() -> None:
    policy = policy_of(Rule("window", interval_ns=100))
    assert policy.apply([motor((110, 5, 1), (150, 7, -1))]).tables == []
    [made] = policy.apply([motor((205, 1, 0))]).tables
    assert made.time.tolist() == [100]
    assert {n: c.tolist() for n, c in made.raw.items() if n != "Name.last"} == {
        "Speed.min": [5],
        "Speed.max": [7],
        "Speed.mean": [0.06],
        "Speed.last": [7],
        "Speed.count": [2],
        "Name.count": [2],
        "Level.min": [1],
        "Level.max": [-1],
        "Level.mean": [1.0],
        "Level.last": [-1],
        "Level.count": [2],
    }
    assert made.raw["Name.last"].tobytes() == b"name 0150"
    assert (made.bus, made.message, made.source, made.branch) == ("can0", "Motor", 7, "")


def test_a_window_is_given_when_its_bus_has_reached_its_end() -> None:
    policy = policy_of(Rule("window", interval_ns=100, aggregates=("last",)))
    assert policy.apply([motor((110, 5, 1))], {"can0": 199, "can1": 500}).tables == []
    [made] = policy.apply([], {"can0": 200}).tables
    assert made.raw["Speed.last"].tolist() == [5]
    assert policy.apply([], {"can0": 900}).tables == []
    assert policy.finish().tables == []


def test_aggregates_are_described_as_the_signals_that_they_are_of() -> None:
    policy = policy_of(Rule("window", interval_ns=10))
    policy.apply([motor((1, 5, 1))])
    [made] = policy.finish().tables
    by_name = made.schema.by_name
    assert made.names[:5] == ("Speed.min", "Speed.max", "Speed.mean", "Speed.last", "Speed.count")
    assert by_name["Speed.max"] == SignalSchema(
        "Speed.max", "uint64", 16, scale=0.01, unit="km/h", vss="Vehicle.Speed"
    )
    assert by_name["Level.last"].choices == ((0, "off"),)
    assert by_name["Speed.mean"] == SignalSchema("Speed.mean", "float64", 64, unit="km/h")
    assert by_name["Speed.count"] == SignalSchema("Speed.count", "uint64", 32)


COLD = SignalSchema("Cold", "uint64", 8, codes=((255, 255, "not available"),))
WARM = SignalSchema("Warm", "uint64", 8, codes=((255, 255, "not available"),))
HEAT = TableSchema("can0", "Heat", (COLD, WARM))


def test_windows_in_which_only_some_signals_are_valid_are_in_tables_of_their_own() -> None:
    policy = policy_of(Rule("window", interval_ns=10, aggregates=("mean", "count")))
    values = [(1, 2), (255, 3), (255, 255), (4, 255), (5, 6)]
    rows = [Row(HEAT, 10 * n, value) for n, value in enumerate(values)]
    made = policy.apply([table(rows)], {"can0": 1000}).tables
    assert [(t.names, t.time.tolist(), t.raw[t.names[0]].tolist()) for t in made] == [
        (("Cold.mean", "Cold.count", "Warm.mean", "Warm.count"), [0, 40], [1.0, 5.0]),
        (("Cold.mean", "Cold.count"), [30], [4.0]),
        (("Warm.mean", "Warm.count"), [10], [3.0]),
    ]


def test_the_schemas_of_windows_are_always_the_same_ones() -> None:
    policy = policy_of(Rule("window", interval_ns=10))
    made = []
    for n in range(6):
        rows = [Row(HEAT, 10 * n, (n, 255 if n % 2 else n))]
        made += policy.apply([table(rows)], {"can0": 10 * n + 10}).tables
    assert len(made) == 6
    assert len({id(t.schema) for t in made}) == 2


def test_a_window_with_no_valid_sample_makes_no_row() -> None:
    policy = policy_of(Rule("window", interval_ns=10))
    outcome = policy.apply([table([Row(HEAT, 1, (255, 255))])], {"can0": 10})
    assert (outcome.tables, outcome.folded, outcome.made) == ([], 2, 0)


def test_samples_after_the_end_of_a_plan_make_a_row_of_their_own() -> None:
    policy = policy_of(Rule("window", interval_ns=100, aggregates=("count",)))
    policy.apply([table([Row(HEAT, 1, (1, 1)), Row(HEAT, 2, (1, 1))])])
    first = policy.finish().tables
    policy.apply([table([Row(HEAT, 3, (1, 1))])])
    again = policy.finish().tables
    assert [(t.time.tolist(), t.raw["Cold.count"].tolist()) for t in first + again] == [
        ([0], [2]),
        ([0], [1]),
    ]


def test_what_is_given_does_not_change_with_the_block_that_it_came_from() -> None:
    """A decoder's tables are views of a matrix that is used again."""
    policy = policy_of(Rule("window", interval_ns=100))
    offered = motor((110, 5, 1))
    policy.apply([offered])
    for array in offered.values.values():
        np.copyto(array, 0)
    [made] = policy.finish().tables
    assert made.raw["Speed.min"].tolist() == [5]
