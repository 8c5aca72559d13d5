"""What campaigns keep of the tables of a block."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.blocks import FrameBlock, SignalTable
from agent.collect import Collector, Plan
from agent.collect.budget import degradation_of
from agent.collect.collector import Destination
from agent.errors import ConfigError
from agent.ledger import Ledger, differences
from agent.settings import Campaign, DatabaseOfBus
from agent.settings import Plan as PlanFile
from agent.signals import Database, Decoder
from tests.signals.dbctext import Msg, Sig, text

MS = 1_000_000
TELEMETRY = Destination("telemetry", ("cloud",))

MOTOR = Msg("Motor", 1, 8, [Sig("Speed", 0, 16), Sig("Torque", 16, 16), Sig("State", 56, 8)])
PAGED = Msg(
    "Paged",
    2,
    8,
    [
        Sig("Page", 0, 8, multiplexer=True),
        Sig("Plain", 8, 16),
        Sig("Zero", 24, 8, parent="Page", values=(0,)),
        Sig("One", 24, 8, parent="Page", values=(1,)),
    ],
)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    path = tmp_path_factory.mktemp("collect") / "car.dbc"
    path.write_text(text([MOTOR, PAGED]), "utf-8")
    return Database.load([path])


def plan(database: Database, *campaigns: Campaign, uplinks: Sequence[str] = ("cloud",)) -> Plan:
    described = [DatabaseOfBus(bus="*", files=["car.dbc"])]
    written = PlanFile(version=1, name="test", database=described, campaign=list(campaigns))
    return Plan.build(written, database, uplinks)


def frames(rows: Sequence[tuple[int, int, bytes]]) -> FrameBlock:
    """A block of (time in ms, id, payload)."""
    return FrameBlock.from_arrays(
        bus="can0",
        time=[t * MS for t, _, _ in rows],
        id=[i for _, i, _ in rows],
        length=[len(p) for _, _, p in rows],
        data=np.frombuffer(b"".join(p.ljust(8, b"\0") for *_, p in rows), np.uint8).reshape(-1, 8),
    )


def collect(
    plan: Plan, block: FrameBlock, cuts: Sequence[int] = ()
) -> tuple[dict[Destination, list[SignalTable]], Ledger]:
    """What is kept of a block that is cut into pieces."""
    ledger = Ledger()
    collector, decoder = Collector(plan, ledger), Decoder.of_paths(plan.database, plan.wanted)
    kept: dict[Destination, list[SignalTable]] = {}
    for a, b in itertools.pairwise([0, *sorted(cuts), len(block)]):
        for where, rows in collector.offer(decoder.decode(block[a:b])).items():
            tables = [each for each in rows if isinstance(each, SignalTable)]
            assert len(tables) == len(rows)
            kept.setdefault(where, []).extend(tables)
    return kept, ledger


def times_of(tables: Sequence[SignalTable], name: str) -> list[int]:
    """When a signal was kept, in ms."""
    return sorted(t // MS for table in tables if name in table.names for t in table.time.tolist())


def first_of_each_interval(times: Sequence[int], every: int) -> list[int]:
    """A time is kept unless the one before it lies in the same interval."""
    kept = []
    before: Any = None
    for time in times:
        if time // every != before:
            kept.append(time)
        before = time // every
    return kept


ANY_TIMES = st.lists(st.integers(0, 400), min_size=1, max_size=40)


@settings(deadline=None)
@given(times=ANY_TIMES, every=st.integers(1, 150), data=st.data(), jumps=st.booleans())
def test_the_first_sample_of_each_interval_is_kept_wherever_blocks_end(
    database: Database, times: list[int], every: int, data: st.DataObject, jumps: bool
) -> None:
    if not jumps:
        times = sorted(times)
    cuts = data.draw(st.sets(st.integers(0, len(times))))
    campaign = Campaign(name="slow", signals=["Motor.*"], every_ms=every)
    block = frames([(t, 1, bytes(8)) for t in times])
    kept, ledger = collect(plan(database, campaign), block, sorted(cuts))
    expected = first_of_each_interval(times, every)
    assert [t // MS for table in kept[TELEMETRY] for t in table.time.tolist()] == expected
    row = ledger.snapshot()["campaign"]["slow"]
    assert (row["offered"], row["kept"]) == (3 * len(times), 3 * len(expected))
    assert differences(ledger.snapshot()) == []


@settings(deadline=None)
@given(data=st.data(), every=st.integers(1, 150))
def test_frames_of_different_lengths_and_branches_are_one_series_for_a_signal_of_all(
    database: Database, data: st.DataObject, every: int
) -> None:
    times = sorted(data.draw(st.sets(st.integers(0, 400), min_size=1, max_size=40)))
    cuts = data.draw(st.sets(st.integers(0, len(times))))
    payloads = st.one_of(
        st.binary(min_size=3, max_size=8).map(lambda p: b"\0" + p[1:]),
        st.binary(min_size=3, max_size=8).map(lambda p: b"\1" + p[1:]),
        st.binary(min_size=3, max_size=8),
    )
    block = frames([(t, 2, data.draw(payloads)) for t in times])
    slow = Campaign(name="slow", signals=["Paged.Plain"], every_ms=every, lane="event")
    other = Campaign(name="all", signals=["Paged.*", "Motor.*"])
    kept, _ = collect(plan(database, slow, other), block, sorted(cuts))
    assert times_of(kept[Destination("event", ("cloud",))], "Plain") == first_of_each_interval(
        times, every
    )
    assert times_of(kept[TELEMETRY], "Plain") == times


def test_a_branch_of_a_multiplexer_is_thinned_by_itself(database: Database) -> None:
    """Pages that take turns are all kept, though the interval is longer than a round."""
    block = frames([(t, 2, bytes([t // 10 % 2, *bytes(7)])) for t in range(0, 200, 10)])
    campaign = Campaign(name="slow", signals=["Paged.*"], every_ms=100)
    kept, _ = collect(plan(database, campaign), block)
    assert times_of(kept[TELEMETRY], "Zero") == [0, 100]
    assert times_of(kept[TELEMETRY], "One") == [10, 110]


def test_a_campaign_has_only_its_columns_with_their_values(database: Database) -> None:
    payloads = [bytes([i, 1, 2 * i, 2, 0, 0, 0, 255 - i]) for i in range(20)]
    block = frames([(i, 1, p) for i, p in enumerate(payloads)])
    two = Campaign(name="two", signals=["Motor.State", "Motor.Speed"], lane="event")
    everything = Campaign(name="all", signals=["*"])
    kept, _ = collect(plan(database, two, everything), block, [7])
    tables = kept[Destination("event", ("cloud",))]
    assert {(t.names, t.campaign) for t in tables} == {(("Speed", "State"), "two")}
    assert [v for t in tables for v in t.raw["Speed"].tolist()] == [256 + i for i in range(20)]
    assert [v for t in tables for v in t.raw["State"].tolist()] == [255 - i for i in range(20)]
    assert {(t.names, t.campaign) for t in kept[TELEMETRY]} == {
        (("Speed", "Torque", "State"), "all")
    }


def test_several_campaigns_keep_the_same_signal_each_at_its_own_rate(database: Database) -> None:
    block = frames([(t, 1, bytes(8)) for t in range(100)])
    campaigns = [
        Campaign(name="fast", signals=["Motor.Speed"], every_ms=10),
        Campaign(name="slow", signals=["Motor.*"], exclude=["Torque"], every_ms=50),
        Campaign(name="page", signals=["Paged.*"]),
    ]
    kept, ledger = collect(plan(database, *campaigns), block)
    by_name = {t.campaign: t for t in kept[TELEMETRY]}
    assert {name: (t.names, len(t)) for name, t in by_name.items()} == {
        "fast": (("Speed",), 10),
        "slow": (("Speed", "State"), 2),
    }
    rows = ledger.snapshot()["campaign"]
    assert {n: (r["offered"], r["kept"], r["thinned"]) for n, r in rows.items()} == {
        "fast": (100, 10, 90),
        "slow": (200, 4, 196),
        "page": (0, 0, 0),
    }


def test_lane_and_uplinks_make_the_destination(database: Database) -> None:
    campaigns = [
        Campaign(name="a", signals=["Motor.Speed"], uplinks=["home", "cloud"], lane="event"),
        Campaign(name="b", signals=["Motor.Torque"], uplinks=["cloud", "home"], lane="event"),
        Campaign(name="c", signals=["Motor.State"]),
    ]
    built = plan(database, *campaigns, uplinks=("home", "cloud"))
    kept, _ = collect(built, frames([(0, 1, bytes(8))]))
    both = ("cloud", "home")
    assert {where: [t.campaign for t in ts] for where, ts in kept.items()} == {
        Destination("event", both): ["a", "b"],
        Destination("telemetry", both): ["c"],
    }
    assert Collector(built, Ledger()).destinations == [
        Destination("event", both),
        Destination("telemetry", both),
    ]


def test_a_destination_that_has_the_block_already_is_offered_nothing(database: Database) -> None:
    campaigns = [
        Campaign(name="a", signals=["Motor.Speed"], lane="event"),
        Campaign(name="b", signals=["Motor.Speed"]),
    ]
    built = plan(database, *campaigns)
    ledger = Ledger()
    tables = Decoder.of_paths(built.database, built.wanted).decode(frames([(0, 1, bytes(8))]))
    kept = Collector(built, ledger).offer(tables, frozenset([TELEMETRY]))
    assert list(kept) == [Destination("event", ("cloud",))]
    assert ledger.snapshot()["campaign"]["b"]["offered"] == 0


@pytest.mark.parametrize(
    ("campaign", "words"),
    [
        (Campaign(name="x", signals=["Sped"]), 'campaign "x": no signal is called "Sped"'),
        (
            Campaign(name="x", signals=["*"], uplinks=["moon"]),
            'no uplink is called "moon"; .*cloud',
        ),
        (Campaign(name="x", signals=["Speed"], exclude=["*"]), "exclude leaves no signal"),
        (Campaign(name="x", signals=["*"], exclude=["Sped"]), 'no signal is called "Sped"'),
    ],
)
def test_a_campaign_that_cannot_be_is_refused_by_name(
    database: Database, campaign: Campaign, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        plan(database, campaign)


def test_a_plan_wants_the_signals_of_all_its_campaigns(database: Database) -> None:
    built = plan(
        database,
        Campaign(name="a", signals=["Motor.Speed"]),
        Campaign(name="b", signals=["Paged.*"], exclude=["Paged.One"]),
    )
    assert sorted(map(str, built.wanted)) == [
        "Motor.Speed",
        "Paged.Page",
        "Paged.Plain",
        "Paged.Zero",
    ]


def test_a_condition_on_a_bus_that_never_speaks_holds_up_rows_for_ten_seconds(
    tmp_path: Path,
) -> None:
    (tmp_path / "motor.dbc").write_text(text([MOTOR]), "utf-8")
    (tmp_path / "paged.dbc").write_text(text([PAGED]), "utf-8")
    files = {"can0": [tmp_path / "motor.dbc"], "dead": [tmp_path / "paged.dbc"]}
    campaign = Campaign(name="c", signals=["Motor.Speed"], condition="dead.Paged.Page > 3")
    built = plan(Database.load(files), campaign)
    ledger = Ledger()
    collector, decoder = Collector(built, ledger), Decoder.of_paths(built.database, built.wanted)
    for second in range(60):
        block = frames([(second * 1000, 1, bytes(8))])
        assert collector.offer(decoder.decode(block), block=block) == {}
        assert ledger.snapshot()["campaign"]["c"]["held"] <= 10
    row = ledger.snapshot()["campaign"]["c"]
    assert (row["offered"], row["outside"]) == (60, 60 - row["held"])


@pytest.mark.parametrize("level", [0, 5])
def test_a_plan_begins_with_what_it_was_told_to_give_up(database: Database, level: int) -> None:
    """And not with what the one before had to, whose budget is nothing to it."""
    built = plan(database, Campaign(name="all", signals=["Motor.*"]))
    before, following = Collector(built, Ledger()), Collector(built, Ledger())
    before.degradation = degradation_of(5 - level)
    following.degradation = degradation_of(level)

    before.retire(following)

    tables = Decoder.of_paths(built.database, built.wanted).decode(frames([(0, 1, bytes(8))] * 2))
    given = following.offer(tables).values()
    assert sum(each.samples for rows in given for each in rows) == (0 if level else 6)
