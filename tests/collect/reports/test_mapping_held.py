"""The values that reports hold, against a slow reading of the same rows."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.collect.reports.held import Held, Slots
from agent.signals.database import ANY_BUS, SignalPath
from tests.collect.reports.mapped import SNA, S, Small

TEXT = """
    [vehicle]
    soc = "Soc"
    total_voltage = "Voltage"
    total_current = "Current"
    gear = { signal = "Gear", values = { Park = 15, Drive = 14 } }
    [[pack]]
    cells = ["Cells.*"]
"""
Row = tuple[float, str, dict[str, int]]

times = st.integers(0, 120).map(lambda n: n / 4)
packs = st.builds(
    lambda v, a: ("Pack", {"Voltage": v, "Current": a}),
    st.sampled_from([0, 3500, SNA]),
    st.integers(-100, 100),
)
states = st.builds(
    lambda g, soc: ("State", {"Gear": g, "Soc": soc}), st.integers(0, 15), st.integers(0, 255)
)
cells = st.builds(
    lambda page, one, other: (
        "Cells",
        {"Page": 0, "Cell1": one, "Cell2": other}
        if page
        else {"Page": 1, "Cell9": one, "Cell10": other},
    ),
    st.booleans(),
    st.integers(0, SNA),
    st.integers(0, SNA),
)
rows = st.lists(st.tuples(times, packs | states | cells), max_size=40)


@pytest.fixture(scope="module", name="small")
def of_all_tests(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("held"), TEXT)


def last(said: list[Row], name: str, time: float) -> float | None:
    """The last raw value of a signal up to a time; None where it is older than 10 s."""
    found = [(t, n, raw[name]) for n, (t, _, raw) in enumerate(said) if name in raw and t <= time]
    if not found or max(found)[0] < time - 10:
        return None
    return max(found)[2]


def expected(said: list[Row], time: float) -> list[float]:
    """As the tests' own reading of the mapping has them."""

    def physical(name: str, scale: float, *codes: int) -> float:
        raw = last(said, name, time)
        return math.nan if raw is None or raw in codes else raw * scale

    gear = last(said, "Gear", time)
    values = [
        physical("Soc", 0.5),
        physical("Voltage", 0.1, SNA),
        physical("Current", 0.1),
        {0: 15.0, 3: 14.0}.get(int(gear), math.nan) if gear is not None else math.nan,
    ]
    names = ("Cell1", "Cell2", "Cell9", "Cell10")
    return values + [physical(name, 0.001, SNA) for name in names]


def found(small: Small, held: Held, time: float) -> list[float]:
    sample = small.compiled.sample(held, {}, round(time * S))
    names = ("soc", "total_voltage", "total_current", "gear")
    values = [float(sample.items["vehicle"][name]) for name in names]
    return values + list(np.asarray(sample.lists["packs"][0]["cells"]))


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(said=rows, cuts=st.sets(st.integers(0, 40), max_size=4), step=st.sampled_from([0.25, 1, 7]))
def test_every_moment_has_the_last_rows_before_it(
    small: Small, said: list[tuple[float, tuple[str, dict[str, int]]]], cuts: set[int], step: float
) -> None:
    """Wherever blocks end; moments lie in the midst of blocks, and rows wait for theirs."""
    told: list[Row] = sorted(((t, *row) for t, row in said), key=lambda row: row[0])
    held = Held(small.compiled.slots)
    ends = [0, *sorted(cuts), len(told)]
    moments = np.arange(0, 32, step).tolist()
    for begin, end in itertools.pairwise(ends):
        block = told[begin:end]
        if not block:
            continue
        tables = small.tables(block)
        reached = block[-1][0]
        # Rows of the time itself may follow in the next block.
        while moments and moments[0] < reached:
            held.take(tables, round(moments[0] * S))
            tables = []
            np.testing.assert_allclose(
                found(small, held, moments[0]), expected(told[:end], moments[0]), rtol=1e-12
            )
            moments.pop(0)
        held.take(tables, round(reached * S) - 1)
    for moment in moments:
        held.take([], round(moment * S))
        np.testing.assert_allclose(found(small, held, moment), expected(told, moment), rtol=1e-12)


def table(
    bus: str,
    times: list[int],
    values: list[float],
    *,
    message: str = "M",
    source: int | None = None,
) -> SignalTable:
    schema = TableSchema(bus, message, (SignalSchema("X", "int64", 16),), source=source)
    raw = np.array([values], np.int64)
    return SignalTable(schema, np.array(times, np.int64), {"int64": raw})


def slots(*paths: SignalPath) -> Slots:
    made = Slots()
    for path in paths:
        made.of(path)
    return made


class TestHeld:
    def test_a_signal_of_any_bus_is_the_last_of_all(self) -> None:
        held = Held(slots(SignalPath(ANY_BUS, "M", "X"), SignalPath("b", "M", "X")))
        held.take([table("a", [5], [50]), table("b", [3], [30])], 10)
        assert held.value.tolist() == [50, 30]
        held.take([table("b", [7], [70])], 10)
        assert held.value.tolist() == [70, 70]

    def test_of_several_sources_the_last_one_counts(self) -> None:
        held = Held(slots(SignalPath("a", "M", "X")))
        held.take([table("a", [5], [50], source=1), table("a", [4], [40], source=2)], 10)
        assert held.value.tolist() == [50]

    def test_rows_that_are_out_of_order_are_put_in_order(self) -> None:
        held = Held(slots(SignalPath("a", "M", "X")))
        held.take([table("a", [5, 9, 7], [50, 90, 70])], 8)
        assert held.value.tolist() == [70]
        held.take([], 9)
        assert held.value.tolist() == [90]

    def test_what_is_not_mapped_costs_no_memory(self) -> None:
        held = Held(slots(SignalPath("a", "M", "X")))
        held.take([table("a", [5], [50], message="N"), table("b", [5], [50])], 10)
        assert np.isnan(held.value).all()

    def test_one_goes_on_with_what_another_knew(self) -> None:
        one, two = SignalPath("a", "M", "X"), SignalPath("b", "M", "X")
        old = Held(slots(one, two))
        old.take([table("a", [5], [50]), table("b", [3], [30])], 10)
        old.fix = (1, 2)
        new = Held(slots(two, SignalPath("c", "M", "X")))
        new.adopt(old)
        np.testing.assert_equal(new.value, [30, np.nan])
        assert new.fix == (1, 2)

    def test_whole_numbers_beyond_doubles_are_scaled_whole(self) -> None:
        schema = TableSchema("a", "M", (SignalSchema("X", "uint64", 64, scale=3),))
        raw = np.array([[(1 << 62) + 1]], np.uint64)
        held = Held(slots(SignalPath("a", "M", "X")))
        held.take([SignalTable(schema, np.array([1], np.int64), {"uint64": raw})], 1)
        assert held.value[0] == float(3 * ((1 << 62) + 1))
