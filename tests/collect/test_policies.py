"""What policies keep, against their definitions, wherever blocks end."""

import contextlib
import itertools
import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.collect.policies import Policy, policy_of
from agent.collect.rules import Rule
from tests.collect.reference import DoorThinning, Sample, SeriesKey, Thinning
from tests.collect.series import SCHEMAS, Row, blocks, drives, expected, found, table

TIMES = st.integers(1, 60)
BOUNDS = st.sampled_from([0.0, 0.1, 0.4, 0.5, 1.0, 2.0, 1000.0])
AT_LEAST = st.one_of(st.just(0), TIMES)
RULES = st.one_of(
    st.just(Rule()),
    st.builds(Rule, kind=st.just("every"), interval_ns=TIMES),
    st.builds(Rule, kind=st.just("on_change"), at_least_ns=AT_LEAST),
    st.builds(
        Rule,
        kind=st.sampled_from(["dead_band", "dead_band_relative"]),
        bound=BOUNDS,
        at_least_ns=AT_LEAST,
    ),
    st.builds(Rule, kind=st.just("door"), bound=BOUNDS, at_least_ns=AT_LEAST),
)
DOORS = st.builds(Rule, kind=st.just("door"), bound=BOUNDS, at_least_ns=AT_LEAST)
SUCCESSION = st.sampled_from(["same", "adopts", "restored"])


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


def by_definition(rule: Rule, rows: Sequence[Row]) -> list[Sample]:
    series: dict[SeriesKey, Thinning] = {}
    for row in rows:
        for sample in row.samples():
            if sample.series not in series:
                made = DoorThinning(rule) if rule.kind == "door" else Thinning(rule)
                series[sample.series] = made
            series[sample.series].take(sample)
    for each in series.values():
        each.finish()
    return [sample for each in series.values() for sample in each.kept]


def run(
    rule: Rule,
    pieces: Sequence[Sequence[SignalTable]],
    how: str = "same",
    at: int = 0,
    told: Sequence[bool] = (),
) -> list[SignalTable]:
    """All that is kept; `how` the policy of block `at` follows the one before.

    `told`: of each block, whether it is said how far the buses are with it.
    """
    policy = policy_of(rule)
    kept: list[SignalTable] = []
    newest: dict[str, int] = {}
    offered = counted = thinned = 0
    for number, tables in enumerate(pieces):
        if number == at:
            policy = successor(policy, how)
        for t in tables:
            newest[t.bus] = max(int(t.time.max()), newest.get(t.bus, -(10**9)))
        outcome = policy.apply(tables, newest if told and told[number] else {})
        kept += outcome.tables
        offered += sum(t.samples for t in tables)
        counted += outcome.kept
        thinned += outcome.thinned
        assert outcome.folded == outcome.made == 0
        assert counted == sum(t.samples for t in kept)
        assert offered == counted + thinned + policy.held
    outcome = policy.finish()
    kept += outcome.tables
    assert policy.held == 0
    assert offered == counted + outcome.kept + thinned + outcome.thinned
    assert counted + outcome.kept == sum(t.samples for t in kept)
    return kept


@settings(deadline=None, max_examples=400)
@given(
    rule=RULES,
    rows=drives(),
    order=st.permutations(range(len(SCHEMAS))),
    how=SUCCESSION,
    data=st.data(),
)
def test_what_is_kept_is_as_defined_wherever_blocks_end(
    rule: Rule, rows: list[Row], order: list[int], how: str, data: st.DataObject
) -> None:
    cuts = data.draw(st.sets(st.integers(0, len(rows)), max_size=6))
    at = data.draw(st.integers(0, len(cuts)))
    pieces = list(blocks(rows, cuts, dict(enumerate(order))))
    told = data.draw(st.lists(st.booleans(), min_size=len(pieces), max_size=len(pieces)))
    assert found(run(rule, pieces, how, at, told)) == expected(by_definition(rule, rows))


@settings(deadline=None, max_examples=100)
@given(rule=RULES, rows=drives(SCHEMAS[3:4]), data=st.data())
def test_late_samples_of_a_table_are_taken_as_they_come(
    rule: Rule, rows: list[Row], data: st.DataObject
) -> None:
    rows = data.draw(st.permutations(rows))
    cuts = data.draw(st.sets(st.integers(0, len(rows)), max_size=4))
    kept = run(rule, list(blocks(rows, cuts)))
    assert found(kept) == expected(by_definition(rule, rows))


@settings(deadline=None, max_examples=100)
@given(rule=RULES, rows=drives(), data=st.data())
def test_nothing_is_lost_or_made_of_late_samples_in_several_tables(
    rule: Rule, rows: list[Row], data: st.DataObject
) -> None:
    rows = data.draw(st.permutations(rows))
    cuts = data.draw(st.sets(st.integers(0, len(rows)), max_size=4))
    kept = found(run(rule, list(blocks(rows, cuts))))
    offered = expected(sample for row in rows for sample in row.samples())
    for series, samples in kept.items():
        left = list(offered[series])
        for sample in samples:
            left.remove(sample)


NUMBER = SignalSchema("Number", "float64", 64)
NUMBERS = TableSchema("can0", "Numbers", (NUMBER,))


@st.composite
def curves(draw: st.DrawFn) -> list[Row]:
    """Noise, ramps and steps at uneven times."""
    source = random.Random(draw(st.integers(0, 2**32)))
    time, value, slope = 0, 0.0, 0.0
    rows = []
    for _ in range(draw(st.integers(1, 80))):
        time += source.randrange(1, 10**9)
        if source.random() < 0.1:
            slope = source.uniform(-1, 1)
        if source.random() < 0.05:
            value += source.uniform(-100, 100)
        value += slope + source.choice([0, 0, source.gauss(0, 0.3)])
        rows.append(Row(NUMBERS, time, (value,)))
    return rows


@settings(deadline=None, max_examples=200)
@given(rows=curves(), bound=st.sampled_from([0.0, 0.01, 0.5, 3.0]), at_least=AT_LEAST)
def test_lines_between_what_a_door_keeps_are_within_the_bound_of_all_samples(
    rows: list[Row], bound: float, at_least: int
) -> None:
    rule = Rule("door", bound=bound, at_least_ns=at_least * 10**8)
    kept = run(rule, [[table(rows)]])
    points = [
        (time, Fraction(value))
        for t in kept
        for time, value in zip(t.time.tolist(), t.raw["Number"].tolist(), strict=True)
    ]
    points.sort()
    assert points[0][0] == rows[0].time
    assert points[-1][0] == rows[-1].time
    # Slopes are rounded to 53 bits.
    largest = max(abs(row.raw[0]) for row in rows)
    allowed = Fraction(bound) + Fraction(largest + bound) / 2**50
    values = {row.time: Fraction(row.raw[0]) for row in rows}
    for (t0, v0), (t1, v1) in itertools.pairwise(points):
        for row in rows:
            if t0 < row.time < t1:
                line = v0 + (v1 - v0) * Fraction(row.time - t0, t1 - t0)
                assert abs(line - values[row.time]) <= allowed


def test_a_door_keeps_two_samples_of_a_ramp_however_long() -> None:
    rows = [Row(NUMBERS, t, (float(t),)) for t in range(1000)]
    kept = run(Rule("door", bound=0.25), list(blocks_of(rows, 100)))
    assert [t for each in kept for t in each.time.tolist()] == [0, 999]


def test_a_door_holds_a_sample_no_longer_than_the_time_it_is_told() -> None:
    policy = policy_of(Rule("door", bound=1.0, at_least_ns=10))
    rows = [Row(NUMBERS, t, (0.0,)) for t in range(25)]
    decided = []
    for row in rows:
        outcome = policy.apply([table([row])])
        decided += [t for each in outcome.tables for t in each.time.tolist()]
        assert policy.held == (row.time % 10 != 0)
    assert decided == [0, 10, 20]


def test_a_door_holds_a_sample_no_longer_also_where_no_other_comes() -> None:
    policy = policy_of(Rule("door", bound=1.0, at_least_ns=10))
    offered = [table([Row(NUMBERS, t, (0.0,)) for t in range(5)])]
    assert [t.time.tolist() for t in policy.apply(offered, {"can0": 13}).tables] == [[0]]
    assert policy.held == 1
    assert [t.time.tolist() for t in policy.apply([], {"can0": 14}).tables] == [[4]]
    assert policy.held == 0


def test_a_door_goes_on_after_it_was_finished() -> None:
    policy = policy_of(Rule("door", bound=0.5))
    first = [Row(NUMBERS, t, (float(t),)) for t in range(10)]
    then = [Row(NUMBERS, t, (9.0,)) for t in range(10, 20)]
    kept = policy.apply([table(first)]).tables + policy.finish().tables
    kept += policy.apply([table(then)]).tables + policy.finish().tables
    assert [t for each in kept for t in each.time.tolist()] == [0, 9, 19]


def blocks_of(rows: Sequence[Row], size: int) -> list[list[SignalTable]]:
    return [[table(rows[i : i + size])] for i in range(0, len(rows), size)]


A, B = SignalSchema("A", "uint64", 8), SignalSchema("B", "uint64", 8, scale=2)
PAIR = TableSchema("can0", "Pair", (A, B))


def pair(*values: tuple[int, int], begin: int = 0) -> SignalTable:
    return table([Row(PAIR, begin + i, v) for i, v in enumerate(values)])


@pytest.mark.parametrize("rule", [Rule(), Rule("every", 1), Rule("on_change"), Rule("dead_band")])
def test_a_table_that_is_kept_whole_is_the_one_that_was_offered(rule: Rule) -> None:
    offered = pair((1, 2), (2, 3), (3, 4))
    [kept] = policy_of(rule).apply([offered]).tables
    assert kept is offered


def test_signals_that_are_kept_alike_stay_in_one_table() -> None:
    [kept] = policy_of(Rule("on_change")).apply([pair((1, 5), (1, 5), (2, 6))]).tables
    assert kept.schema is PAIR
    assert kept.time.tolist() == [0, 2]
    assert {name: column.tolist() for name, column in kept.raw.items()} == {
        "A": [1, 2],
        "B": [5, 6],
    }


def test_signals_that_are_not_kept_alike_have_tables_of_their_own_always_of_one_schema() -> None:
    policy = policy_of(Rule("on_change"))
    first = policy.apply([pair((1, 5), (2, 5), (2, 6))]).tables
    again = policy.apply([pair((2, 7), (3, 7), (3, 7), begin=3)]).tables
    assert [(t.names, t.time.tolist()) for t in first] == [(("A",), [0, 1]), (("B",), [0, 2])]
    assert [(t.names, t.time.tolist()) for t in again] == [(("A",), [4]), (("B",), [3])]
    assert [t.schema for t in first] == [t.schema for t in again]
    assert all(a.schema is b.schema for a, b in zip(first, again, strict=True))


def test_the_campaign_of_a_table_is_left_alone() -> None:
    offered = pair((1, 5), (2, 5), (2, 6))
    offered.campaign = "drive"
    kept = policy_of(Rule("on_change")).apply([offered]).tables
    assert {t.campaign for t in kept} == {"drive"}


def test_a_list_is_kept_or_thinned_whole_also_where_a_block_ends_within_it() -> None:
    lists = TableSchema("can0", "Codes", (A, B), entries=True)
    rows = [Row(lists, time, (n, n)) for n, time in enumerate([3, 3, 3, 7, 7, 12, 12])]
    for cut in range(len(rows)):
        pieces = [[table(piece)] for piece in (rows[:cut], rows[cut:]) if piece]
        kept = run(Rule("every", interval_ns=10), pieces)
        assert [t for each in kept for t in each.time.tolist()] == [3, 3, 3, 12, 12]


def test_nothing_comes_of_nothing() -> None:
    empty = pair((1, 2)).take(np.zeros(0, np.intp))
    for rule in (Rule(), Rule("every", 5), Rule("on_change"), Rule("door", bound=1.0)):
        outcome = policy_of(rule).apply([empty])
        assert (outcome.tables, outcome.kept, outcome.thinned) == ([], 0, 0)


def test_a_signal_with_another_scale_is_another_series() -> None:
    policy = policy_of(Rule("on_change"))
    policy.apply([pair((1, 5))])
    rescaled = TableSchema("can0", "Pair", (A, SignalSchema("B", "uint64", 8, scale=4)))
    [kept] = policy.apply([table([Row(rescaled, 1, (1, 5))])]).tables
    assert kept.names == ("B",)


def test_a_policy_does_not_follow_one_of_another_rule() -> None:
    with pytest.raises(ValueError, match="cannot go on"):
        policy_of(Rule("on_change")).adopt(policy_of(Rule("dead_band", bound=1.0)))


JUNK: tuple[Any, ...] = (
    None,
    -1,
    0,
    3,
    2**70,
    -(2**63),
    0.5,
    float("inf"),
    "x",
    b"",
    b"\xff" * 8,
    [],
    {},
    [1],
)
WINDOWS = st.builds(Rule, kind=st.just("window"), interval_ns=TIMES)


def spoiled(value: Any, source: random.Random) -> Any:
    """Something with one part that is lost or different."""
    if isinstance(value, dict) and value and source.random() < 0.95:
        key = source.choice(sorted(value))
        changed = {**value, key: spoiled(value[key], source)}
        if source.random() < 0.05:
            del changed[key]
        return changed
    if isinstance(value, list) and value and source.random() < 0.9:
        at = source.randrange(len(value))
        now = [] if source.random() < 0.05 else [spoiled(value[at], source)]
        return [*value[:at], *now, *value[at + 1 :]]
    if isinstance(value, bytes) and value and source.random() < 0.8:
        at = source.randrange(len(value))
        return value[:at] + bytes([source.randrange(256)]) + value[at + 1 :]
    return source.choice(JUNK)


@settings(deadline=None, max_examples=400)
@given(rule=st.one_of(RULES, WINDOWS), rows=drives(), seed=st.integers(0, 2**32))
def test_a_state_that_was_spoiled_is_refused_or_does_no_harm(
    rule: Rule, rows: list[Row], seed: int
) -> None:
    first, then = [*blocks(rows, [len(rows) // 2])]
    policy, source = policy_of(rule), random.Random(seed)
    policy.apply(first)
    state = policy.state()
    new = policy_of(rule)
    with contextlib.suppress(ValueError):
        new.restore(spoiled(state, source))
    new.apply(then, {"can0": 10**9})
    new.finish()


@pytest.mark.parametrize("part", ["signals", "series", "columns", "homes", "payloads", "marks"])
def test_a_state_without_a_part_is_refused_and_changes_nothing(part: str) -> None:
    policy = policy_of(Rule("on_change"))
    policy.apply([pair((1, 5))])
    state = policy.state()
    del state[part]
    with pytest.raises(ValueError, match="missing"):
        policy.restore(state)
    assert policy.apply([pair((1, 5), begin=1)]).tables == []


@pytest.mark.parametrize(
    "rule",
    [
        Rule("every"),
        Rule("window", interval_ns=-1),
        Rule("door", bound=-1.0),
        Rule("dead_band", bound=float("nan")),
        Rule("on_change", at_least_ns=-1),
    ],
)
def test_a_rule_that_cannot_be_makes_no_policy(rule: Rule) -> None:
    with pytest.raises(ValueError, match=r"interval|bound"):
        policy_of(rule)
