"""Conditions over columns, against one moment at a time."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.blocks import SignalTable, TableSchema
from agent.collect.conditions import LAG_NS, NEVER, Conditions, Steps
from agent.collect.evaluate.windows import MAX_SAMPLES
from agent.collect.expression import tree as t
from tests.collect.condition_reference import Row, expected
from tests.collect.condition_traffic import (
    ANGLE,
    ANY_LEVEL,
    LEVEL,
    OTHER_LEVEL,
    REAL,
    SCHEMAS,
    TEXT,
    Traffic,
    above,
    calm_traffic,
    driving,
    engine,
    level_table,
    many,
    named,
    number,
    signal,
    tables,
    traffic,
    trees,
    twice_cut,
)
from tests.collect.slow_traffic import slow_traffic, slow_trees


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


seeds = st.integers(0, 2**32 - 1)
thorough = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@thorough
@given(st.lists(trees(), min_size=1, max_size=6).map(named), traffic())
def test_conditions_change_when_the_reference_says(
    conditions: dict[str, t.Condition], sent: Traffic
) -> None:
    found = run(conditions, sent)
    assert found == {name: expected(tree, sent.all) for name, tree in conditions.items()}


@settings(thorough, max_examples=150)
@given(st.lists(trees(), min_size=8, max_size=12).map(named), seeds)
def test_conditions_of_calm_signals_change_when_the_reference_says(
    conditions: dict[str, t.Condition], seed: int
) -> None:
    sent = calm_traffic(seed)
    found = run(conditions, sent)
    assert found == {name: expected(tree, sent.all) for name, tree in conditions.items()}


@settings(thorough, max_examples=250)
@given(st.lists(slow_trees(), min_size=1, max_size=5).map(named), seeds)
def test_conditions_of_slow_signals_change_when_the_reference_says(
    conditions: dict[str, t.Condition], seed: int
) -> None:
    sent = slow_traffic(seed)
    found = run(conditions, sent)
    assert found == {name: expected(tree, sent.all) for name, tree in conditions.items()}


@thorough
@given(st.lists(trees(), min_size=1, max_size=6).map(named), twice_cut())
def test_borders_of_blocks_change_nothing(
    conditions: dict[str, t.Condition], sent: tuple[Traffic, Traffic]
) -> None:
    assert run(conditions, sent[0]) == run(conditions, sent[1])


@thorough
@given(
    st.lists(trees() | slow_trees(), min_size=1, max_size=8).map(named),
    traffic() | seeds.map(calm_traffic) | seeds.map(slow_traffic),
    st.integers(0, 40),
    st.sampled_from(["adopt", "restore"]),
)
def test_moving_on_at_any_border_changes_nothing(
    conditions: dict[str, t.Condition], sent: Traffic, border: int, how: str
) -> None:
    """Under other names, and among others that were not there before."""
    evaluator = Conditions({f"old {name}": tree for name, tree in conditions.items()})
    watcher = Watcher(conditions)

    def ours(told: Mapping[str, Steps]) -> dict[str, Steps]:
        return {n: s for of, s in told.items() if (n := of.removeprefix("old ")) in conditions}

    for fed, (block, reached) in enumerate(sent.feeds()):
        if fed == border:
            others: dict[str, t.Condition] = {
                "x": t.For(0, above(ANY_LEVEL, 1), 3),
                "y": t.Changed(0, REAL),
            }
            later = Conditions({**others, **conditions})
            if how == "adopt":
                later.adopt(evaluator)
            else:
                later.restore(msgpack.unpackb(msgpack.packb(evaluator.state())))
            evaluator = later
        told = ours(evaluator.feed(block, reached))
        if fed >= border:
            watcher.see(told, evaluator)
        else:
            for name, steps in told.items():
                watcher.times[name] += steps.times.tolist()
    for name, steps in ours(evaluator.finish()).items():
        watcher.times[name] += steps.times.tolist()
    assert watcher.times == run(conditions, sent)


# Traffic as it is: many rows a block, most of which change nothing


def test_slow_signals_are_as_the_reference_says() -> None:
    sent = driving(8)
    conditions = many(40)
    found = run(conditions, sent)
    assert found == {name: expected(tree, sent.all) for name, tree in conditions.items()}
    assert sum(len(times) > 2 for times in found.values()) > 15


def test_hundreds_of_conditions_are_each_as_if_alone() -> None:
    sent = driving(12)
    conditions = many(320)
    alone = {name: run({name: tree}, sent)[name] for name, tree in conditions.items()}
    assert run(conditions, sent) == alone


# Single rules


def changes(
    condition: t.Condition, rows: Sequence[Row], reached: Mapping[str, int] | None = None
) -> list[int]:
    """When a condition changes that is fed all rows at once."""
    evaluator = Conditions({"c": condition})
    newest = {row.bus: max(r.time for r in rows if r.bus == row.bus) for row in rows}
    steps = [evaluator.feed(tables(rows), {**newest, **(reached or {})}), evaluator.finish()]
    return [time for told in steps if "c" in told for time in told["c"].times.tolist()]


@pytest.mark.parametrize("operator", ["and", "or"])
@pytest.mark.parametrize("left", [False, None, True])
@pytest.mark.parametrize("right", [False, None, True])
def test_unknown_joins_as_kleene_says(operator: str, left: bool | None, right: bool | None) -> None:
    unknown = above(OTHER_LEVEL, 0)  # never seen
    operands = [t.Truth(0, v) if v is not None else unknown for v in (left, right)]
    node = t.Both(0, *operands) if operator == "and" else t.Either(0, *operands)
    seen = t.Valid(0, LEVEL)
    wanted = {left, right}
    if operator == "and":
        truth = False if False in wanted else None if None in wanted else True
    else:
        truth = True if True in wanted else None if None in wanted else False
    rows = [engine("can0", 5, 1)]
    is_true = t.Both(0, seen, node)
    is_false = t.Both(0, seen, t.Not(0, node))
    assert (changes(is_true, rows) == [5]) is (truth is True)
    assert (changes(is_false, rows) == [5]) is (truth is False)


def test_steps_tell_the_truth_at_given_times() -> None:
    steps = Steps(True, np.array([10, 20, 21]))
    times = np.array([0, 9, 10, 19, 20, 21, 22])
    assert steps.at(times).tolist() == [True, True, False, False, True, False, False]
    assert steps.rises().tolist() == [20]
    assert Steps(False, np.array([3, 4, 9])).rises().tolist() == [3, 9]


def test_the_last_moment_of_a_block_waits_for_the_next_one() -> None:
    evaluator = Conditions({"c": above(LEVEL, 5)})
    assert evaluator.horizon("c") == NEVER
    assert evaluator.feed(tables([engine("can0", 1, 0), engine("can0", 9, 7)]), {"can0": 9}) == {}
    assert (evaluator.horizon("c"), evaluator.truth("c")) == (8, False)
    # The same moment goes on: the last sample of it counts.
    assert evaluator.feed(tables([engine("can0", 9, 3)]), {"can0": 9}) == {}
    told = evaluator.feed(tables([engine("can0", 12, 8)]), {"can0": 12})
    assert told == {}
    assert evaluator.finish()["c"].times.tolist() == [12]
    assert (evaluator.horizon("c"), evaluator.truth("c")) == (12, True)


def test_a_condition_waits_for_all_its_buses() -> None:
    both = t.Both(0, above(LEVEL, 5), above(OTHER_LEVEL, 5))
    evaluator = Conditions({"both": both, "one": above(LEVEL, 5)})
    evaluator.feed(tables([engine("can0", 1, 9), engine("can0", 50, 9)]), {"can0": 50})
    assert (evaluator.horizon("one"), evaluator.horizon("both")) == (49, NEVER)
    told = evaluator.feed(tables([engine("can1", 20, 9), engine("can1", 30, 9)]), {"can1": 30})
    assert told["both"].times.tolist() == [20]
    assert evaluator.horizon("both") == 29


def test_a_bus_that_lags_is_not_waited_for_and_its_late_rows_are_counted() -> None:
    both = t.Both(0, above(LEVEL, 5), above(OTHER_LEVEL, 5))
    evaluator = Conditions({"c": both})
    start = tables([engine("can0", 1, 9), engine("can1", 1, 0)])
    evaluator.feed(start, {"can0": 1, "can1": 1})
    evaluator.feed(tables([engine("can0", 1 + LAG_NS, 9)]), {"can0": 1 + LAG_NS})
    assert evaluator.horizon("c") == NEVER
    evaluator.feed(tables([engine("can0", 2 + LAG_NS, 9)]), {"can0": 2 + LAG_NS})
    assert evaluator.horizon("c") == 1 + LAG_NS
    told = evaluator.feed(tables([engine("can1", 70, 9)]), {"can1": 70})
    assert told == {}
    assert evaluator.late == 1
    # What was late counts from the first moment on that was not decided.
    told = evaluator.feed(tables([engine("can0", 71 + LAG_NS, 9)]), {"can0": 71 + LAG_NS})
    assert told["c"].times.tolist() == [2 + LAG_NS]


def test_a_bus_that_was_never_heard_is_waited_for_no_longer_than_another() -> None:
    evaluator = Conditions({"c": t.Either(0, above(LEVEL, 5), above(OTHER_LEVEL, 5))})
    evaluator.feed(tables([engine("can0", 10, 9)]), {"can0": 10})
    evaluator.feed(tables([engine("can0", 10 + LAG_NS, 9)]), {"can0": 10 + LAG_NS})
    assert evaluator.horizon("c") < 10
    told = evaluator.feed(tables([engine("can0", 11 + LAG_NS, 9)]), {"can0": 11 + LAG_NS})
    assert told["c"].times.tolist() == [10]


def test_a_signal_of_any_bus_waits_for_the_buses_that_give_it() -> None:
    evaluator = Conditions({"c": above(ANY_LEVEL, 5)})
    evaluator.feed(tables([engine("can0", 1, 0)]), {"can0": 1, "can1": 1, "gnss": 1})
    evaluator.feed(tables([engine("can1", 1, 0)]), {"can1": 1})
    evaluator.feed(tables([engine("can0", 30, 9)]), {"can0": 30})
    assert evaluator.horizon("c") == NEVER
    told = evaluator.feed(tables([engine("can1", 40, 0)]), {"can1": 40})
    assert evaluator.horizon("c") == 29
    assert told == {}
    assert evaluator.feed([], {"can0": 60})["c"].times.tolist() == [30]
    assert evaluator.horizon("c") == 39


def test_missing_comes_true_on_a_silent_bus_as_its_time_goes_on() -> None:
    evaluator = Conditions({"c": t.Missing(0, LEVEL, 100), "never": t.Missing(0, ANGLE, 1000)})
    evaluator.feed(tables([engine("can0", 50, 1)]), {"can0": 50})
    assert evaluator.feed([], {"can0": 150}) == {}
    assert evaluator.feed([], {"can0": 151})["c"].times.tolist() == [150]


def test_missing_of_what_was_never_seen_counts_from_the_first_look() -> None:
    rows = [Row("can0", "Text", time, {"text": b"on\0\0"}) for time in (40, 90, 200)]
    assert changes(t.Missing(0, LEVEL, 100), rows) == [140]


def test_what_is_true_without_samples_is_true_from_the_first_look() -> None:
    rows = [engine("can0", 40, 1), engine("can0", 90, 255)]
    assert changes(t.Truth(0, True), rows) == [40]
    assert changes(t.Not(0, t.Valid(0, OTHER_LEVEL)), [engine("can1", 40, 255)]) == [40]
    assert changes(t.For(0, t.Truth(0, True), 30), rows) == [70]


def test_an_edge_from_unknown_counts_but_at_the_first_sample() -> None:
    rises = t.Edge(0, "rises", above(LEVEL, 5))
    rows = [
        engine("can0", time, level) for time, level in [(1, 9), (2, 255), (3, 9), (7, 0), (8, 9)]
    ]
    assert changes(rises, rows) == [3, 4, 8]
    rows.insert(0, engine("can0", 0, 0))
    assert changes(rises, rows) == [1, 2, 3, 4, 8]


def test_rows_that_are_out_of_order_are_put_in_order() -> None:
    rows = [engine("can0", 9, 9), engine("can0", 3, 0), engine("can0", 5, 0), engine("can0", 20, 0)]
    assert changes(above(LEVEL, 5), rows) == [9, 20]


def test_tables_without_rows_change_nothing() -> None:
    evaluator = Conditions({"c": above(LEVEL, 5)})
    rows = [engine("can0", 3, 0), engine("can0", 5, 9)]
    full = tables(rows)
    empty = [table.take(slice(0, 0)) for table in full]
    assert evaluator.feed([*empty, *full], {"can0": 6})["c"].times.tolist() == [5]
    assert evaluator.feed(empty, {"can0": 9}) == {}
    assert evaluator.horizon("c") == 8


def test_whole_arithmetic_is_not_rounded_before_the_end() -> None:
    """3 * raw + 1 at 2**62: multiplied in float64, neighbours could not be told apart."""
    big = signal("can1", "Sender", "big")
    at = (2**62 + 1) * 3 + 1
    rows = [
        Row("can1", "Sender", time, {"big": raw, "long": 0, "real": 0.0})
        for time, raw in enumerate([2**62, 2**62 + 1, 2**62 + 2**11, 2**63 + 5, 2**64 - 1])
    ]
    truths = [float(row.raws["big"] * 3 + 1) >= float(at) for row in rows]
    first = truths.index(True)
    assert changes(t.Compare(0, ">=", big, number(float(at))), rows) == [first]
    assert changes(t.RawIs(0, big, frozenset({2**63 + 5})), rows) == [3, 4]


def test_a_signal_of_the_same_name_but_another_scale_is_another_signal() -> None:
    other = dataclasses.replace(SCHEMAS["Engine", "level"], scale=2)
    schema = TableSchema("can0", "Engine", (other,))
    strange = SignalTable(schema, np.array([1, 2]), {"uint64": np.array([[9, 9]], np.uint64)})
    evaluator = Conditions({"c": above(LEVEL, 5)})
    evaluator.feed([strange], {"can0": 2})
    assert evaluator.finish() == {}


def test_a_long_chain_is_no_deep_recursion() -> None:
    chain: t.Condition = above(LEVEL, 0)
    for threshold in range(1500):
        chain = t.Both(0, chain, above(LEVEL, threshold % 5))
    assert changes(chain, [engine("can0", 1, 3), engine("can0", 2, 9)]) == [2]


@pytest.mark.parametrize(
    "condition",
    [
        t.For(0, above(LEVEL, 1), 0),
        t.Missing(0, LEVEL, -1),
        above(t.Window(0, "mean", LEVEL, 0), 1),
        above(TEXT, 1),
        above(t.Previous(0, TEXT), 1),
        above(t.Window(0, "count", TEXT, 5), 1),
        t.RawIs(0, TEXT, frozenset({1})),
    ],
)
def test_what_has_no_meaning_is_refused(condition: t.Condition) -> None:
    with pytest.raises(ValueError, match=r"duration|bytes"):
        Conditions({"c": condition})


# Windows


def test_long_windows_are_as_a_loop_says() -> None:
    generator = np.random.default_rng(3)
    n, duration = 6000, 1_000_000
    times = np.cumsum(generator.integers(1, 2000, n))
    levels = 100 + 20 * np.sin(np.arange(n) / 500) + 10 * generator.normal(size=n)
    table = level_table(times, np.clip(levels, 0, 200))
    raws = table.values["uint64"][0].astype(int)
    begins = np.searchsorted(times, times - duration, "right")
    windows = [raws[a : b + 1] for b, a in enumerate(begins)]
    for name, of, threshold in (("min", min, 60.0), ("max", max, 140.0), ("mean", None, 100.0)):
        if of is None:
            values = np.array([float(w.sum()) / len(w) for w in windows])
        else:
            values = np.array([of(w) for w in windows])
        # Without leaving samples in between, there is nothing to see but at samples.
        condition = t.Both(
            0,
            above(t.Window(0, name, LEVEL, duration), threshold),  # type: ignore[arg-type]
            t.Changed(0, LEVEL),
        )
        evaluator = Conditions({"c": condition})
        rises: list[int] = []
        for a in range(0, n, 3000):
            told = evaluator.feed(
                [table.take(slice(a, a + 3000))], {"can0": int(times[a:][:3000][-1])}
            )
            rises += told["c"].rises().tolist() if "c" in told else []
        told = evaluator.finish()
        rises += told["c"].rises().tolist() if "c" in told else []
        differs = np.append(False, raws[1:] != raws[:-1])
        wanted = times[differs & (values > threshold)]
        alone = np.append(True, np.diff(wanted) > 1)  # of neighbours, the second is no rise
        assert rises == wanted[alone].tolist()


def test_a_window_holds_a_bounded_number_of_samples_and_counts_the_others() -> None:
    count = t.Window(0, "count", LEVEL, 1 << 60)
    evaluator = Conditions({"full": t.Compare(0, ">=", count, number(float(MAX_SAMPLES)))})
    n, size = MAX_SAMPLES + 50_000, 1 << 17
    found: list[int] = []
    for a in range(0, n, size):
        times = np.arange(a, min(a + size, n))
        told = evaluator.feed([level_table(times, times % 200)], {"can0": int(times[-1])})
        found += told["full"].times.tolist() if "full" in told else []
    evaluator.finish()
    assert found == [MAX_SAMPLES - 1]
    assert 0 < evaluator.overflown <= 50_000


# What moves on


def test_a_new_condition_begins_anew_but_knows_the_last_values() -> None:
    old = Conditions({"a": above(LEVEL, 5)})
    old.feed(tables([engine("can0", 1, 9), engine("can0", 50, 9)]), {"can0": 50})
    new = Conditions({"b": above(LEVEL, 7), "c": t.For(0, above(LEVEL, 7), 20)})
    new.adopt(old)
    assert (new.horizon("b"), new.truth("b")) == (49, False)
    told = new.feed(tables([engine("can0", 90, 9)]), {"can0": 90})
    assert told["b"].times.tolist() == [50]
    assert told["c"].times.tolist() == [70]


def test_a_new_condition_of_other_buses_begins_with_what_comes_next() -> None:
    old = Conditions({"a": above(LEVEL, 5)})
    old.feed(tables([engine("can0", 1, 9), engine("can1", 1, 9)]), {"can0": 1, "can1": 1})
    old.feed(tables([engine("can0", 900, 9)]), {"can0": 900, "can1": 1})
    new = Conditions({"b": t.Missing(0, OTHER_LEVEL, 100)})
    new.adopt(old)
    assert new.feed([], {"can1": 950}) == {}
    assert new.feed([], {"can1": 1049}) == {}
    assert new.feed([], {"can1": 1100})["b"].times.tolist() == [1050]


def test_counts_go_on_with_what_is_adopted() -> None:
    old = Conditions({"a": above(LEVEL, 5)})
    old.feed(tables([engine("can0", 1, 9), engine("can0", 50, 9)]), {"can0": 50})
    old.feed(tables([engine("can0", 10, 9)]), {"can0": 50})
    new = Conditions({"b": above(LEVEL, 5)})
    new.adopt(old)
    assert old.late == new.late == 1


def broken_states() -> Iterator[tuple[str, Any]]:
    evaluator = Conditions({"c": t.For(0, above(t.Window(0, "mean", LEVEL, 99), 5), 9)})
    evaluator.feed(tables([engine("can0", 1, 9), engine("can0", 50, 9)]), {"can0": 50})

    def state() -> Any:
        return msgpack.unpackb(msgpack.packb(evaluator.state()))

    for key in state():
        broken = state()
        del broken[key]
        yield f"no {key}", broken
    yield "another version", {**state(), "version": 2}
    yield "a strange time", {**state(), "reached": {"can0": "soon"}}
    yield "an empty group", {**state(), "groups": [{}]}
    slot = ["groups", 0, "slots", 0]
    wrong: list[tuple[str, list[Any], Any]] = [
        ("a slot without a name", [*slot, "signal"], None),
        ("a raw value beyond 64 bits", [*slot, "raw"], 1 << 64),
        ("a sample after the horizon", [*slot, "time"], 1 << 60),
        ("half a time", [*slot, "history", "time"], b"1234"),
        ("fewer values than times", [*slot, "history", "values"], b""),
        ("a window out of order", [*slot, "history"], _history([2, 1], [0.0, 0.0])),
        ("a sample that is not valid", [*slot, "history"], _history([1], [float("nan")])),
        ("half a pending row", ["groups", 0, "pending", 0, "time"], b"12345678" * 2),
        ("a timer that is no pair", ["groups", 0, "timers"], {"x": 1}),
    ]
    for name, path, value in wrong:
        broken = state()
        inner = broken
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
        yield name, broken
    yield "a text", "state"
    yield "nothing", None


def _history(times: list[int], values: list[float]) -> dict[str, bytes]:
    time = np.array(times, np.int64).tobytes()
    return {"time": time, "values": np.array(values).tobytes(), "raw": time}


@pytest.mark.parametrize("state", [pytest.param(s, id=name) for name, s in broken_states()])
def test_a_state_that_is_none_is_refused_and_changes_nothing(state: Any) -> None:
    evaluator = Conditions({"c": t.For(0, above(t.Window(0, "mean", LEVEL, 99), 5), 9)})
    with pytest.raises(ValueError, match=r"\w"):
        evaluator.restore(state)
    assert evaluator.horizon("c") == NEVER
    evaluator.feed(tables([engine("can0", 1, 9)]), {"can0": 1})
    told = evaluator.feed(tables([engine("can0", 50, 9)]), {"can0": 50})
    assert told["c"].times.tolist() == [10]
