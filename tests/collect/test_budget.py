"""What is given up when a day's bytes run short, and that it is little before it is much."""

import itertools
import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.clock import SECOND, BootNs
from agent.collect.budget import HYSTERESIS, REPORT, BudgetKeeper, Degradation, Slower
from agent.settings.plan import Budget
from agent.settings.types import LANES, Lane

MB = 1_000_000
DAY = [Budget(link="any", mb_per_day=100)]


def at(second: float = 0) -> BootNs:
    return BootNs(round(second * SECOND))


def used(keeper: BudgetKeeper, percent: float) -> Degradation:
    """Look after so much of 100 MB was sent over all links."""
    return keeper.look(at(), {"any": round(percent * MB)})


shares = st.floats(0, 200, allow_nan=False)


class TestKeeper:
    @pytest.mark.parametrize(
        ("percent", "factor", "off"),
        [
            (0, 1, set()),
            (69.9, 1, set()),
            (70, 2, set()),
            (79.9, 2, set()),
            (80, 4, set()),
            (85, 4, {"raw"}),
            (90, 8, {"raw"}),
            (94.9, 8, {"raw"}),
            (95, 8, {"raw", "telemetry"}),
            (1000, 8, {"raw", "telemetry"}),
        ],
    )
    def test_the_order_in_which_things_are_given_up(
        self, percent: float, factor: int, off: set[Lane]
    ) -> None:
        now = used(BudgetKeeper(DAY), percent)
        assert (now.factor, set(now.lanes_off)) == (factor, off)

    def test_without_a_budget_nothing_is_given_up(self) -> None:
        assert BudgetKeeper([]).look(at(), {"any": 10**15, "metered": 10**15}) == Degradation()

    @given(a=shares, b=shares)
    def test_more_use_never_gives_up_less(self, a: float, b: float) -> None:
        less, more = (used(BudgetKeeper(DAY), share) for share in sorted((a, b)))
        assert less.level <= more.level
        assert less.factor <= more.factor
        assert less.lanes_off <= more.lanes_off

    @given(history=st.lists(shares, max_size=30))
    def test_events_and_reports_are_never_given_up(self, history: list[float]) -> None:
        keeper = BudgetKeeper(DAY)
        for share in history:
            now = used(keeper, share)
            assert now.lanes_off <= {"raw", "telemetry"}
            # Of the lanes, those that are off are the least important ones.
            assert set(now.lanes_off) == set(LANES[len(LANES) - len(now.lanes_off) :])

    @given(history=st.lists(shares, max_size=30))
    def test_a_level_lies_between_that_of_the_share_and_that_of_a_little_more(
        self, history: list[float]
    ) -> None:
        keeper = BudgetKeeper(DAY)
        for share in history:
            level = used(keeper, share).level
            assert used(BudgetKeeper(DAY), share).level <= level
            assert level <= used(BudgetKeeper(DAY), share + 100 * HYSTERESIS).level

    @pytest.mark.parametrize("border", [70, 80, 85, 90, 95])
    @given(waver=st.lists(st.floats(-4.9, 4.9), max_size=30))
    def test_a_figure_that_wavers_at_a_border_changes_the_level_once(
        self, border: int, waver: list[float]
    ) -> None:
        keeper = BudgetKeeper(DAY)
        reached = used(keeper, border).level
        assert all(used(keeper, border + w).level == reached for w in waver)

    def test_a_new_day_begins_whole(self) -> None:
        keeper = BudgetKeeper(DAY)
        assert used(keeper, 99).level == 5
        assert used(keeper, 0) == Degradation()

    @given(
        looks=st.lists(st.tuples(st.integers(-(10**18), 10**18), shares), min_size=1, max_size=20)
    )
    def test_no_jump_of_a_clock_changes_what_is_given_up(
        self, looks: list[tuple[int, float]]
    ) -> None:
        steady, jumping = BudgetKeeper(DAY), BudgetKeeper(DAY)
        for second, (jump, share) in enumerate(looks):
            sent = {"any": round(share * MB)}
            assert steady.look(at(second), sent) == jumping.look(BootNs(jump), sent)

    def test_the_budget_that_is_used_most_decides(self) -> None:
        keeper = BudgetKeeper([*DAY, Budget(link="metered", mb_per_day=10)])
        assert keeper.look(at(), {"any": 50 * MB, "metered": 1 * MB}).level == 0
        assert keeper.look(at(), {"any": 50 * MB, "metered": 8 * MB}).level == 2
        assert keeper.look(at(), {"any": 96 * MB, "metered": 8 * MB}).level == 5

    def test_a_class_of_links_that_is_not_known_is_not_held_against_anything(self) -> None:
        keeper = BudgetKeeper([Budget(link="metered", mb_per_day=1)])
        assert keeper.look(at(), {"any": 500 * MB}) == Degradation()

    def test_the_level_of_the_plan_before_is_where_the_next_one_goes_on(self) -> None:
        old, new = BudgetKeeper(DAY), BudgetKeeper(DAY)
        used(old, 71)
        new.adopt(old)
        assert used(new, 68).level == 1
        assert new.change == ""

    def test_a_change_is_a_sentence_and_no_change_is_none(self) -> None:
        keeper = BudgetKeeper([Budget(link="metered", mb_per_day=100)])
        said = []
        for share in (10, 70, 71, 86, 87, 0):
            keeper.look(at(), {"metered": share * MB})
            said.append(keeper.change.partition(" of 100 MB a day over metered links are used: "))
        assert [(begin, end) for begin, _, end in said] == [
            ("", ""),
            ("budget: 70%", "one sample in 2 is kept"),
            ("", ""),
            ("budget: 86%", "one sample in 4 is kept, and no raw frames"),
            ("", ""),
            ("budget: 0%", "everything is kept"),
        ]

    def test_the_status_says_what_is_used_and_what_that_costs(self) -> None:
        keeper = BudgetKeeper([*DAY, Budget(link="metered", mb_per_day=0.5)])
        keeper.look(at(7), {"any": 96 * MB})
        status = json.loads(json.dumps(keeper.status()))
        assert status == {
            "level": 5,
            "factor": 8,
            "lanes_off": ["telemetry", "raw"],
            "degraded": "only events and reports are kept",
            "since_boot_s": 7.0,
            "budgets": [
                {"link": "any", "used_bytes": 96 * MB, "limit_bytes": 100 * MB},
                {"link": "metered", "used_bytes": None, "limit_bytes": MB // 2},
            ],
        }

    def test_a_plan_can_collect_it(self) -> None:
        keeper = BudgetKeeper(DAY)
        used(keeper, 72.9)
        table = keeper.row(at(3))
        assert table.schema is REPORT
        assert (table.bus, table.message) == ("agent", "Budget")
        assert table.time.tolist() == [3 * SECOND]
        assert {name: table.raw[name].tolist() for name in table.names} == {
            "Level": [1],
            "UsedPercent": [72],
        }


# -- thinning --------------------------------------------------------------------------------

MOTOR = TableSchema("can0", "Motor", (SignalSchema("Speed", "uint64", 16),))
SHORT = TableSchema("can0", "Motor", (SignalSchema("Speed", "uint64", 16),), branch="Page=1")
OTHER = TableSchema("can0", "Motor", (SignalSchema("Speed", "uint64", 16),), source=3)
LIST = TableSchema("can0", "Codes", (SignalSchema("SPN", "uint64", 19),), entries=True)
SCHEMAS = (MOTOR, SHORT, OTHER, LIST)

Row = tuple[int, int]  # time, place in SCHEMAS


def tables(rows: Sequence[Row], numbers: Sequence[int]) -> list[SignalTable]:
    """The tables of a block; the value of a row is its number in the whole."""
    found = []
    for place, schema in enumerate(SCHEMAS):
        mine = [(time, n) for (time, p), n in zip(rows, numbers, strict=True) if p == place]
        if mine:
            time, value = np.array(mine, np.int64).T
            found.append(SignalTable(schema, time.copy(), {"uint64": value[None].astype("u8")}))
    return found


def slow(rows: Sequence[Row], cuts: Sequence[int], factor: int) -> tuple[set[int], int]:
    """Which rows are kept, and how many are not."""
    slower = Slower()
    kept: list[int] = []
    thinned = 0
    for a, b in itertools.pairwise([0, *sorted(cuts), len(rows)]):
        found, count = slower.apply(tables(rows[a:b], range(a, b)), factor)
        thinned += count
        kept += [n for table in found for n in table.values["uint64"][0].tolist()]
    assert len(set(kept)) == len(kept)
    return set(kept), thinned


def reference(rows: Sequence[Row], factor: int) -> set[int]:
    """Row by row. The two branches of a message are one series."""
    seen: dict[int, int] = {}
    last: dict[int, int] = {}
    kept = set()
    for number, (time, place) in enumerate(rows):
        series = 0 if place == 1 else place
        same_list = SCHEMAS[place].entries and last.get(series) == time
        if not same_list:
            seen[series] = seen.get(series, -1) + 1
        last[series] = time
        if seen[series] % factor == 0:
            kept.add(number)
    return kept


@st.composite
def streams(draw: st.DrawFn) -> list[Row]:
    """Rows in the order of time; only the entries of a list share one."""
    time, rows = 0, []
    for place in draw(st.lists(st.integers(0, 3), max_size=40)):
        time += draw(st.integers(1, 50))
        entries = draw(st.integers(1, 4)) if SCHEMAS[place].entries else 1
        rows += [(time, place)] * entries
    return rows


class TestSlower:
    @given(rows=streams(), factor=st.sampled_from([1, 2, 3, 4, 8]), data=st.data())
    def test_it_keeps_every_so_many_of_each_series_wherever_blocks_end(
        self, rows: list[Row], factor: int, data: st.DataObject
    ) -> None:
        cuts = data.draw(st.lists(st.integers(0, len(rows)), max_size=8))
        kept, thinned = slow(rows, cuts, factor)
        assert kept == reference(rows, factor)
        assert thinned == len(rows) - len(kept)

    @given(rows=streams(), data=st.data())
    def test_a_list_is_kept_whole_or_not_at_all(self, rows: list[Row], data: st.DataObject) -> None:
        cuts = data.draw(st.lists(st.integers(0, len(rows)), max_size=8))
        kept, _ = slow(rows, cuts, 4)
        for number, (a, b) in enumerate(itertools.pairwise(rows)):
            if a == b:
                assert (number in kept) == (number + 1 in kept)

    @given(rows=streams())
    def test_what_a_higher_factor_keeps_a_lower_one_keeps_too(self, rows: list[Row]) -> None:
        kept = [slow(rows, [], factor)[0] for factor in (1, 2, 4, 8)]
        assert kept[0] >= kept[1] >= kept[2] >= kept[3]

    def test_one_in_eight_is_an_eighth(self) -> None:
        rows = [(n, 0) for n in range(8000)]
        kept, thinned = slow(rows, [100, 5000], 8)
        assert (len(kept), thinned) == (1000, 7000)

    def test_all_signals_of_a_row_are_counted(self) -> None:
        signals = tuple(SignalSchema(name, "uint64", 8) for name in "ABC")
        schema = TableSchema("can0", "Three", signals)
        table = SignalTable(schema, np.arange(10), {"uint64": np.zeros((3, 10), np.uint64)})
        _, thinned = Slower().apply([table], 2)
        assert thinned == 15

    def test_campaigns_do_not_count_for_each_other(self) -> None:
        slower = Slower()
        [one] = tables([(1, 0), (2, 0)], [0, 1])
        two = SignalTable(one.schema, one.time, one.values, campaign="other")
        for table in (one, two):
            [kept], _ = slower.apply([table], 2)
            assert kept.time.tolist() == [1]

    def test_a_factor_of_one_hands_tables_on_as_they_are(self) -> None:
        given_ones = tables([(1, 0), (2, 3)], [0, 1])
        kept, thinned = Slower().apply(given_ones, 1)
        assert all(a is b for a, b in zip(kept, given_ones, strict=True))
        assert thinned == 0

    def test_tables_without_rows_are_no_trouble(self) -> None:
        [table] = tables([(1, 0)], [0])
        assert Slower().apply([table.take(slice(0, 0))], 2) == ([], 0)

    def test_a_factor_below_one_is_refused(self) -> None:
        with pytest.raises(ValueError, match="0"):
            Slower().apply([], 0)
