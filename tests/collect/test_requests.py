"""An event by request: what a trigger would keep, because somebody wants to see it now."""

from collections.abc import Sequence
from pathlib import Path

import msgpack
import pytest

from agent.blocks import Event
from agent.clock import BootNs
from agent.collect import Collector
from agent.errors import ConfigError
from agent.ledger import Ledger
from agent.memories import Memories
from agent.settings import Campaign
from agent.signals import Database
from tests.collect.triggerruns import MS, Row, Run, database_in, hot, pack, plan_of


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    return database_in(tmp_path_factory.mktemp("requests"))


REQUEST = "request r-1: send what there is"


def every_100_ms(a: int, b: int) -> list[Row]:
    return [pack(t, 20) for t in range(a, b, 100)]


def pieces(rows: Sequence[Row], size: int) -> list[Sequence[Row]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


@pytest.mark.parametrize("mode", ["rising", "level"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_request_gets_the_window_around_the_moment_as_if_the_condition_had_come_true(
    database: Database, mode: str, size: int
) -> None:
    run = Run(plan_of(database, hot(frames=True, mode=mode, pre_s=2, post_s=3)))
    before, after = every_100_ms(0, 10_000), every_100_ms(10_000, 20_000)
    for rows in pieces(before, size):
        run.feed(rows)
    assert run.collector.fire("hot", REQUEST) == ["hot"]
    for rows in pieces(after, size):
        run.feed(rows)
    run.finish()

    wanted = list(range(7900, 12_901, 100))
    assert [t for t, _ in run.rows] == run.frames == wanted
    (event,) = run.events
    assert (event["first"] // MS, event["time"] // MS, event["last"] // MS) == (7900, 9900, 12_900)
    assert event["complete"]
    assert event["requested"]
    assert event["expression"] == REQUEST
    assert event["values"] == {"Pack.Temp": 20.0}
    assert event["missing"] == []


def test_a_request_is_told_when_it_begins_and_when_it_is_complete(database: Database) -> None:
    run = Run(plan_of(database, hot(post_s=1)))
    run.feed(every_100_ms(0, 1000))
    run.collector.fire("", REQUEST)
    run.feed(every_100_ms(1000, 1200))
    run.feed(every_100_ms(1200, 5000))

    told = [e.value for e in run.kept if isinstance(e, Event)]
    assert [e["complete"] for e in told] == [False, True]
    assert len({e["id"] for e in told}) == 1
    assert run.collector.status()[0]["events"] == 1
    assert not run.collector.open_events()["campaigns"]


def test_neither_bound_holds_for_a_request_and_it_takes_nothing_from_a_day(
    database: Database,
) -> None:
    run = Run(plan_of(database, hot(min_interval_s=3600, per_day=2)))
    run.feed([pack(0, 20)])
    run.collector.fire("hot", REQUEST)
    run.feed([pack(1000, 150), pack(2000, 20)])
    for _ in range(3):
        run.collector.fire("hot", REQUEST)
        run.feed([pack(3000, 20)])
    run.feed([pack(2_000_000, 150), pack(2_000_001, 20)])  # too soon after the one before
    run.feed([pack(4_000_000, 150), pack(4_000_001, 20)])
    run.finish()

    assert [(e["time"] // MS, e["requested"]) for e in run.events] == [
        (0, True),
        (1000, False),
        (2000, True),
        (3000, True),
        (4_000_000, False),
    ]
    assert run.collector.status()[0]["suppressed"] == 1


def test_a_request_at_the_moment_of_an_event_is_another_event(database: Database) -> None:
    run = Run(plan_of(database, hot(pre_s=1, post_s=1)))
    run.feed([pack(0, 20), pack(1000, 150)])
    for words in (REQUEST, "request r-2", REQUEST):
        run.collector.fire("hot", words)
    run.feed([pack(3000, 20)])
    run.finish()

    told = [(e["time"] // MS, e["expression"]) for e in run.events]
    assert sorted(told) == [(1000, "Temp > 100"), (1000, REQUEST), (1000, "request r-2")]
    assert [t for t, _ in run.rows] == [0, 1000]  # once each, however many events want them


def test_a_request_before_anything_came_waits_for_the_first_that_comes(
    database: Database, tmp_path: Path
) -> None:
    run = Run(plan_of(database, hot(pre_s=1, post_s=1)), tmp_path)
    run.collector.fire("hot", REQUEST)
    run.feed([])
    assert run.events == []
    run.restart(0)
    run.feed([pack(5000, 20)])
    run.feed([pack(5500, 20), pack(7000, 20)])
    run.finish()

    (event,) = run.events
    assert (event["time"] // MS, event["expression"]) == (5000, REQUEST)
    assert [t for t, _ in run.rows] == [5000, 5500]


def test_a_request_goes_on_after_a_restart_in_order(database: Database, tmp_path: Path) -> None:
    run = Run(plan_of(database, hot(pre_s=1, post_s=10)), tmp_path)
    run.feed(every_100_ms(0, 2000))
    run.collector.fire("hot", REQUEST)
    run.restart(5000)
    run.feed(every_100_ms(5000, 20_000))
    run.finish()

    (event,) = run.events
    assert event["complete"]
    assert event["expression"] == REQUEST
    ((first, last, why),) = event["missing"]
    assert (first // MS, last // MS, why) == (1900, 5000, "the agent did not run")
    assert [t for t, _ in run.rows] == [*range(900, 2000, 100), *range(5000, 11_901, 100)]


def test_a_request_goes_on_after_a_power_cut(database: Database, tmp_path: Path) -> None:
    plan = plan_of(database, hot(post_s=10))
    run = Run(plan, tmp_path)
    run.feed(every_100_ms(0, 2000))
    run.collector.fire("hot", REQUEST)
    Memories(tmp_path, "boot-1").note(plan, run.collector.open_events())
    after = Run(plan)
    Memories(tmp_path, "boot-1").read(after.collector, BootNs(5000 * MS))
    after.feed(every_100_ms(5000, 20_000))
    after.finish()

    (event,) = after.events
    assert (event["time"] // MS, event["expression"]) == (1900, REQUEST)
    assert [t for t, _ in after.rows] == list(range(5000, 11_901, 100))


def test_a_request_goes_on_in_another_plan_that_has_the_campaign_too(database: Database) -> None:
    run = Run(plan_of(database, hot(pre_s=1, post_s=2)))
    run.feed(every_100_ms(0, 2000))
    run.collector.fire("hot", REQUEST)
    more = Campaign(name="more", signals=["Motor.*"])
    following = Collector(plan_of(database, hot(pre_s=1, post_s=2), more), run.ledger)
    run.kept += [each for rows in run.collector.retire(following).values() for each in rows]
    run.collector = following
    run.feed(every_100_ms(2000, 9000))
    run.finish()

    (event,) = run.events
    assert event["complete"]
    assert event["missing"] == []
    assert [t for t, _ in run.rows] == list(range(900, 3901, 100))


def test_a_request_that_a_change_of_plan_cuts_short_says_so(database: Database) -> None:
    run = Run(plan_of(database, hot(post_s=10)))
    run.feed(every_100_ms(0, 2000))
    run.collector.fire("hot", REQUEST)
    following = Collector(plan_of(database, Campaign(name="all", signals=["*"])), run.ledger)
    run.kept += [each for rows in run.collector.retire(following).values() for each in rows]

    (event,) = run.events
    assert event["complete"]
    assert event["expression"] == REQUEST
    ((_, last, why),) = event["missing"]
    assert (last // MS, why) == (11_900, "nothing was collected then")


def test_a_request_fires_one_campaign_or_all_that_have_a_trigger(database: Database) -> None:
    other = hot(when="Speed > 1000")
    other.name = "fast"
    plan = plan_of(database, hot(), Campaign(name="all", signals=["*"]), other)
    collector = Collector(plan, Ledger())

    assert collector.fire("", REQUEST) == ["hot", "fast"]
    assert collector.fire("fast", REQUEST) == ["fast"]
    with pytest.raises(ConfigError, match=r'"all" has no trigger.* with a trigger: hot, fast'):
        collector.fire("all", REQUEST)
    with pytest.raises(ConfigError, match=r'"cold" is none of this plan.*: hot, fast'):
        collector.fire("cold", REQUEST)
    plain = Collector(plan_of(database, Campaign(name="all", signals=["*"])), Ledger())
    assert plain.fire("", REQUEST) == []
    with pytest.raises(ConfigError, match="with a trigger: none"):
        plain.fire("hot", REQUEST)


def test_words_of_a_request_are_bounded_and_never_empty(database: Database) -> None:
    run = Run(plan_of(database, hot()))
    run.feed([pack(0, 20)])
    for words in ("", "x" * 10_000, "\ud800"):
        run.collector.fire("hot", words)
    run.finish()

    assert sorted(len(e["expression"]) for e in run.events) == [1, 9, 300]
    assert all(msgpack.packb(e) for e in run.events)
