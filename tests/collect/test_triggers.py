"""What is kept around an event: complete to the sample, wherever blocks, batches and runs end."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import BootNs
from agent.collect import Collector
from agent.errors import ConfigError
from agent.ledger import Ledger, differences
from agent.memories import Memories
from agent.settings import Campaign
from agent.signals import Database
from tests.collect.triggerruns import MS, Row, Run, S, database_in, hot, motor, pack, plan_of


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    return database_in(tmp_path_factory.mktemp("triggers"))


def windows_of(rows: Sequence[Row], pre: int, post: int, interval: int) -> list[tuple[int, int]]:
    """By the definition: around each moment at which the temperature rises above 100."""
    found: list[tuple[int, int]] = []
    last = None
    hot = False
    for t, message, payload in rows:
        if message != 2:
            continue
        now = payload[0] > 100
        if now and not hot and (last is None or t - last >= interval):
            found.append((t - pre, t + post))
            last = t
        hot = now
    return found


@st.composite
def drives(draw: st.DrawFn) -> tuple[list[Row], list[int]]:
    steps = draw(st.lists(st.integers(1, 400), min_size=1, max_size=60))
    times = list(itertools.accumulate(steps))
    rows = [
        pack(t, draw(st.sampled_from([20, 100, 101, 200]))) if draw(st.booleans()) else motor(t)
        for t in times
    ]
    cuts = draw(st.lists(st.integers(0, len(rows)), max_size=8))
    return rows, sorted(cuts)


@settings(max_examples=150, deadline=None)
@given(
    drive=drives(),
    pre=st.integers(0, 1500),
    post=st.integers(0, 1500),
    interval=st.sampled_from([0, 700]),
)
def test_windows_are_complete_to_the_row_wherever_blocks_end(
    database: Database, drive: tuple[list[Row], list[int]], pre: int, post: int, interval: int
) -> None:
    rows, cuts = drive
    plan = plan_of(
        database,
        hot(frames=True, pre_s=pre / 1000, post_s=post / 1000, min_interval_s=interval / 1000),
    )
    run = Run(plan)
    for a, b in itertools.pairwise([0, *cuts, len(rows)]):
        run.feed(rows[a:b])
    run.finish()

    windows = windows_of(rows, pre, post, interval)
    wanted = [row for row in rows if any(a <= row[0] <= b for a, b in windows)]
    names = {1: "Motor", 2: "Pack"}
    assert run.rows == sorted((t, names[i]) for t, i, _ in wanted)
    assert run.frames == sorted(t for t, *_ in wanted)
    assert [(e["first"] // MS, e["last"] // MS) for e in run.events] == windows
    assert all(e["complete"] and not e["missing"] for e in run.events)


@settings(max_examples=60, deadline=None)
@given(drive=drives(), at=st.integers(0, 60))
def test_a_restart_in_order_loses_nothing_that_was_read(
    database: Database,
    tmp_path_factory: pytest.TempPathFactory,
    drive: tuple[list[Row], list[int]],
    at: int,
) -> None:
    rows, cuts = drive
    plan = plan_of(database, hot(frames=True, pre_s=1, post_s=1))
    run = Run(plan, tmp_path_factory.mktemp("state"))
    at = min(at, len(rows))
    for a, b in itertools.pairwise(sorted([0, *cuts, at, len(rows)])):
        if a == at:
            run.restart(rows[at - 1][0] if at else 0)
        run.feed(rows[a:b])
    run.finish()

    windows = windows_of(rows, 1000, 1000, 0)
    wanted = [row for row in rows if any(a <= row[0] <= b for a, b in windows)]
    assert run.frames == sorted(t for t, *_ in wanted)
    assert len(run.rows) == len(wanted)
    assert [e["time"] // MS for e in run.events] == [a + 1000 for a, _ in windows]


def test_an_event_that_a_restart_interrupts_says_what_is_missing(
    database: Database, tmp_path: Path
) -> None:
    run = Run(plan_of(database, hot(pre_s=1, post_s=10)), tmp_path)
    run.feed([pack(0, 20), pack(1000, 150), pack(1100, 150)])
    run.restart(5000)
    run.feed([pack(5000, 20), pack(20_000, 20)])
    run.finish()

    (event,) = run.events
    assert event["complete"]
    ((first, last, why),) = event["missing"]
    assert (first // MS, last // MS) == (1100, 5000)
    assert why == "the agent did not run"
    assert [t for t, _ in run.rows] == [0, 1000, 1100, 5000]


def test_state_of_another_boot_is_not_taken_over(database: Database, tmp_path: Path) -> None:
    plan = plan_of(database, hot(pre_s=1, post_s=10))
    run = Run(plan, tmp_path)
    run.feed([pack(0, 20), pack(1000, 150), pack(1100, 150)])
    Memories(tmp_path, "boot-1").write(run.collector)
    fresh = Collector(plan, Ledger(), boot_id="boot-2")

    Memories(tmp_path, "boot-2").read(fresh, BootNs(0))

    assert fresh.open_events()["campaigns"] == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x80", b"\x91" * 5000, b"\x81\xa7version\x01"])
def test_files_that_cannot_be_understood_cost_themselves(
    database: Database, tmp_path: Path, content: bytes
) -> None:
    plan = plan_of(database, hot(pre_s=1))
    Memories(tmp_path, "boot-1").write(Collector(plan, Ledger()))
    for path in tmp_path.iterdir():
        path.write_bytes(content)
    run = Run(plan, tmp_path)

    Memories(tmp_path, "boot-1").read(run.collector, BootNs(0))

    run.feed([pack(0, 150)])
    assert len(run.finish().events) == 1


def test_level_keeps_from_before_until_after(database: Database) -> None:
    run = Run(plan_of(database, hot(mode="level", pre_s=0.5, post_s=0.5)))
    hot_from, hot_to = 2000, 6000
    rows = [pack(t, 150 if hot_from <= t < hot_to else 20) for t in range(0, 9000, 100)]
    for row in rows:
        run.feed([row])
    run.finish()

    assert [t for t, _ in run.rows] == list(range(1500, 6501, 100))
    (event,) = run.events
    assert (event["first"] // MS, event["last"] // MS) == (1500, 6500)


def test_no_more_than_so_many_a_day(database: Database) -> None:
    run = Run(plan_of(database, hot(per_day=2)))
    hours = [
        pack(h * 3_600_000 + k, temp) for h in range(0, 30, 3) for k, temp in ((0, 150), (1, 20))
    ]
    run.feed(hours)
    run.finish()

    assert [e["time"] // (3600 * S) for e in run.events] == [0, 3, 24, 27]
    assert run.collector.status()[0]["suppressed"] == 6


def test_what_had_to_go_for_lack_of_memory_is_named(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.collect.collector.RING_BYTES", 4096)
    run = Run(plan_of(database, hot(frames=True, pre_s=100)))
    for t in range(0, 50_000, 10):
        run.feed([motor(t)])
    run.feed([pack(50_000, 150), motor(50_001)])
    run.finish()

    (event,) = run.events
    ((first, last, why),) = event["missing"]
    assert first == event["first"]
    assert 40_000 < last // MS < 50_000
    assert why == "no memory was left"
    assert min(run.frames) > last // MS


def test_half_as_much_is_held_at_each_level_at_which_memory_is_short(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.collect.collector.RING_BYTES", 32 << 10)
    run = Run(plan_of(database, hot(frames=True, pre_s=1000)))
    held: list[int] = []
    for level in (0, 1, 3, 0):
        run.collector.squeeze(level)
        for t in range(20_000 * len(held), 20_000 * (len(held) + 1), 10):
            run.feed([motor(t)])
        held.append(run.collector.status()[0]["ring_bytes"])
    assert [
        bound - 1000 < n <= bound
        for n, bound in zip(held, (32_768, 16_384, 4_096, 32_768), strict=True)
    ] == [True] * 4
    run.feed([pack(80_000, 150), motor(80_001)])
    run.finish()
    assert [why for *_, why in run.events[0]["missing"]] == ["no memory was left"]
    assert differences(run.ledger.snapshot()) == []


def test_raw_frames_and_privacy_do_not_go_together(database: Database) -> None:
    campaign = hot(frames=True)
    campaign.privacy = "research"
    with pytest.raises(ConfigError, match="no \\[\\[privacy\\]\\] is called"):
        plan_of(database, campaign)


def test_an_event_tells_values_that_came_long_before(database: Database) -> None:
    run = Run(plan_of(database, hot(when="Temp > 100 and Speed < 500 and Torque >= 0")))
    run.feed([motor(7)])
    for t in range(100, 5000, 100):
        run.feed([pack(t, 20)])
    run.feed([pack(5000, 150)])
    run.finish()

    (event,) = run.events
    assert event["values"] == {"Motor.Speed": 7.0, "Motor.Torque": 0.0, "Pack.Temp": 150.0}


def test_an_event_that_a_change_of_plan_cuts_short_says_so(database: Database) -> None:
    run = Run(plan_of(database, hot(post_s=10)))
    run.feed([pack(0, 20), pack(1000, 150), pack(1500, 150), pack(2000, 150)])
    following = Collector(plan_of(database, Campaign(name="all", signals=["*"])), run.ledger)
    run.kept += [each for rows in run.collector.retire(following).values() for each in rows]

    (event,) = run.events
    assert event["complete"]
    ((first, last, why),) = event["missing"]
    assert (first // MS, last // MS) == (2000, 11_000)
    assert why == "nothing was collected then"
    assert differences(run.ledger.snapshot()) == []
