"""What a platform may ask of a session: the table of parameters, control, and far too much."""

import pytest

from agent.clock import SECOND
from agent.uplink.gbt32960.session_settings import SessionSettings
from agent.uplink.gbt32960.session_types import (
    Action,
    Control,
    Edition,
    KeepParameters,
    Query,
    SendHeartbeat,
    SendRealtime,
    SendReply,
    SetParameters,
)
from tests.uplink.gbt32960.gbt_session_world import NOON, World, counted

E2016, E2025 = Edition.E2016, Edition.E2025
ENDPOINTS = (0x04, 0x05, 0x06, 0x0D, 0x0E, 0x0F)
VERSIONS = (0x07, 0x08)


def online(edition: Edition = E2016) -> World:
    settings = SessionSettings(
        edition=edition,
        domain="p.example",
        port=32_960,
        hardware_version="H1",
        firmware_version="F2",
    )
    world = World(settings)
    world.online()
    return world


def replies(actions: list[Action]) -> list[SendReply]:
    return [action for action in actions if isinstance(action, SendReply)]


def change(world: World, *values: tuple[int, int | None]) -> list[Action]:
    return world.tell(SetParameters(NOON, values))


def query(world: World, *ids: int) -> SendReply:
    (reply,) = replies(world.tell(Query(NOON, ids)))
    return reply


@pytest.mark.parametrize(
    ("edition", "id_", "low", "high"),
    [
        (E2016, 0x01, 0, 60_000),
        (E2016, 0x02, 1, 600),
        (E2016, 0x03, 0, 60_000),
        (E2016, 0x09, 1, 240),
        (E2016, 0x0A, 1, 600),
        (E2016, 0x0B, 1, 600),
        (E2016, 0x0C, 1, 240),
        (E2016, 0x10, 1, 2),
        (E2025, 0x01, 0, 60_000),
        (E2025, 0x02, 1, 30),
        (E2025, 0x03, 0, 1),
        (E2025, 0x09, 1, 240),
        (E2025, 0x0B, 1, 600),
        (E2025, 0x0C, 1, 240),
    ],
)
def test_a_parameter_may_be_set_within_the_bounds_of_its_edition(
    edition: Edition, id_: int, low: int, high: int
) -> None:
    world = online(edition)
    for value in (low, high):
        actions = change(world, (id_, value))
        assert replies(actions) == [SendReply(0x81, NOON, ok=True)]
        assert query(world, id_).values == ((id_, value),)
    for bad in (low - 1, high + 1, None):
        assert replies(change(world, (id_, bad))) == [SendReply(0x81, NOON, ok=False)]
        assert query(world, id_).values == ((id_, high),)


@pytest.mark.parametrize("id_", [*ENDPOINTS, *VERSIONS, 0x00, 0x11, 0xFF])
def test_endpoints_versions_and_unknown_ids_cannot_be_set(id_: int) -> None:
    world = online()
    actions = change(world, (id_, 1))
    assert actions == [SendReply(0x81, NOON, ok=False)]
    assert counted(world)["settings_refused"] == 1


@pytest.mark.parametrize("bad", [(0x06, 9999), (0x09, 0), (0x55, 1), (0x05, None)])
def test_one_bad_value_rejects_all(bad: tuple[int, int | None]) -> None:
    world = online()
    assert change(world, (0x02, 20), bad, (0x09, 30)) == [SendReply(0x81, NOON, ok=False)]
    assert query(world, 0x02, 0x09).values == ((0x02, 10), (0x09, 60))


def test_what_was_set_is_kept_before_it_is_answered_and_only_if_it_changed() -> None:
    world = online()
    kept, reply = change(world, (0x02, 20), (0x03, 500))[:2]
    assert isinstance(kept, KeepParameters)
    assert dict(kept.values)[0x02] == 20
    assert reply == SendReply(0x81, NOON, ok=True)
    assert replies(change(world, (0x02, 20))) == change(world, (0x02, 20))


def test_what_was_kept_is_there_after_a_restart_less_what_does_not_fit_any_more() -> None:
    world = World(parameters={0x02: 25, 0x03: 100, 0x09: 30, 0x06: 1, 0x77: 2})
    assert world.session.parameters.report_ms == 25_000
    assert world.session.parameters.heartbeat_s == 30
    newer = World(SessionSettings(edition=E2025), parameters={0x02: 600, 0x03: 100, 0x09: 30})
    assert newer.session.parameters.report_ms == 10_000
    assert newer.session.parameters.heartbeat_s == 30


def test_a_query_shows_everything_that_the_table_has() -> None:
    world = online()
    reply = query(world, *range(1, 0x11))
    assert reply.ok
    assert reply.time == NOON
    told = dict(reply.values)
    assert (told[0x04], told[0x05], told[0x06]) == (9, "p.example", 32_960)
    assert (told[0x07], told[0x08]) == ("H1", "F2")
    assert (told[0x0D], told[0x0E], told[0x0F]) == (0, "", 0)
    assert (told[0x02], told[0x03], told[0x09], told[0x0C]) == (10, 1000, 60, 30)


def test_a_query_for_what_the_table_does_not_have_is_refused() -> None:
    world = online()
    assert query(world, 0x01, 0x20) == SendReply(0x80, NOON, ok=False)
    assert query(world) == SendReply(0x80, NOON, ok=True)


@pytest.mark.parametrize("id_", [1, 2, 3, 4, 5, 6, 7, 0, 255])
def test_control_is_always_refused_and_counted(id_: int) -> None:
    world = online()
    assert world.tell(Control(NOON, id_)) == [SendReply(0x82, NOON, ok=False)]
    assert counted(world)["controls_refused"] == 1


def test_a_heartbeat_period_that_was_set_counts_from_the_last_heartbeat() -> None:
    world = online()
    world.run(30)
    change(world, (0x09, 5))
    world.run(12)
    assert len(world.sent(SendHeartbeat)) == 3


def test_a_platform_that_commands_without_end_costs_a_count() -> None:
    world = online()
    world.drive(10)
    minutes = 5
    for _ in range(minutes * 60):
        world.run(1)
        for id_ in range(5):
            world.tell(Control(NOON, id_))
            world.tell(Query(NOON, (id_,) * 255))
            change(world, (0x09, id_), (0x06, 1))
            change(world, (0x02, 10 + id_))
    counts = counted(world)
    commands = minutes * 60 * 20
    assert len(world.sent(SendReply)) <= 60 * (minutes + 1)
    assert len(world.sent(KeepParameters)) <= 60 * (minutes + 1)
    assert counts["commands_over_limit"] == commands - len(world.sent(SendReply))
    assert counts["controls_refused"] == minutes * 60 * 5
    # And it kept nobody from reporting.
    assert len(world.sent(SendRealtime)) == minutes * 6
    assert len(world.confirmed()) >= (minutes - 2) * 6


def test_a_command_before_the_login_was_answered_is_not() -> None:
    world = World()
    for _ in range(10):
        assert world.tell(Query(NOON, (1,))) == []
    assert world.tell(Control(NOON, 1)) == []
    assert counted(world)["stray"] == 11


def test_the_limit_of_commands_begins_anew_each_minute() -> None:
    world = online()
    for _ in range(3):
        given = [replies(world.tell(Control(NOON, 2))) for _ in range(100)]
        assert sum(map(len, given)) == 60
        world.run(61)
    assert world.time > 180
    assert world.now > 180 * SECOND
