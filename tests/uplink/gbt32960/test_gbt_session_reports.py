"""What becomes of reports: answer styles seen in the field, refusals, long gaps."""

import itertools

import pytest

from agent.clock import SECOND
from agent.uplink.gbt32960.session_settings import SessionSettings
from agent.uplink.gbt32960.session_types import (
    Active,
    Answered,
    Close,
    Command,
    Confirmed,
    Connect,
    Fetch,
    Lent,
    Link,
    Live,
    Reason,
    Report,
    Result,
    SendHeartbeat,
    SendLogin,
    SendRealtime,
    SendReissue,
    StoreWaits,
)
from tests.uplink.gbt32960.gbt_session_world import (
    DUPLICATE,
    ECHO,
    EMPTY,
    EMPTY_ERROR,
    ERROR,
    NEVER,
    TIME_ONLY,
    Style,
    World,
    counted,
)

STYLES = {
    "full echo": ECHO,
    "time only": TIME_ONLY,
    "empty": EMPTY,
    "error": ERROR,
    "empty error": EMPTY_ERROR,
    "duplicate VIN": DUPLICATE,
    "never": NEVER,
}
GOOD = ("full echo", "time only", "empty")


def reports_answered(style: Style, settings: SessionSettings | None = None) -> World:
    world = World(settings)
    world.platform.styles[Command.REALTIME] = style
    world.platform.styles[Command.REISSUE] = style
    return world


# ---- answer styles


@pytest.mark.parametrize("style", STYLES)
def test_each_answer_style_to_a_login(style: str) -> None:
    world = World()
    world.platform.styles[Command.LOGIN] = STYLES[style]
    world.tell(Active(active=True))
    world.drive(10)
    world.run(170)
    assert (world.at(Link.ONLINE)) == (style in GOOD)
    assert (len(world.arrived) > 0) == (style in GOOD)
    assert len(world.times(SendLogin)) == (1 if style in GOOD else 3)


@pytest.mark.parametrize("style", [*GOOD, "never"])
def test_each_answer_style_to_reports_that_are_taken(style: str) -> None:
    world = reports_answered(STYLES[style])
    stored = world.make_stored(100)
    world.online()
    world.drive(10)
    world.run(300)
    world.drive(None)
    world.run(100)
    assert world.confirmed() == {report.key for report in world.store}
    assert sorted(report.key for _, report in world.arrived) == list(range(1, 131))
    assert len(stored) == len(world.sent(SendReissue))
    assert world.dropped() == {}


@pytest.mark.parametrize("style", ["error", "empty error", "duplicate VIN"])
def test_each_answer_style_to_reports_that_are_refused(style: str) -> None:
    world = reports_answered(STYLES[style])
    world.make_stored(20)
    world.online()
    for _ in range(5):
        world.make()
        world.run(10)
    world.run(1000)
    assert world.dropped() == {report.key: Reason.REFUSED for report in world.store}
    for report in world.store:
        assert sum(each is report for _, each in world.arrived) in (3, 4)


@pytest.mark.parametrize("style", GOOD)
def test_each_answer_style_to_a_heartbeat_that_is_right(style: str) -> None:
    world = World()
    world.platform.styles[Command.HEARTBEAT] = STYLES[style]
    world.online()
    world.drive(10)
    world.run(3600)
    assert world.sent(Close) == []
    assert len(world.confirmed()) >= 354


@pytest.mark.parametrize("style", ["error", "empty error", "duplicate VIN", "never"])
def test_each_answer_style_to_a_heartbeat_that_is_wrong(style: str) -> None:
    world = World()
    world.platform.styles[Command.HEARTBEAT] = STYLES[style]
    world.online()
    world.drive(10)
    world.run(3600)
    # Nothing is believed, so nothing is lost; and a platform is not asked ever faster.
    assert world.fates == {}
    assert len(world.waiting) == 360
    assert 20 < len(world.times(SendLogin)) < 80


def test_a_platform_that_answers_reports_but_never_heartbeats_keeps_its_link() -> None:
    world = reports_answered(ECHO)
    world.platform.styles[Command.HEARTBEAT] = NEVER
    world.make_stored(200)
    world.online()
    world.drive(10)
    world.run(600)
    assert world.sent(Close) == []
    assert len(world.confirmed()) >= 259
    assert counted(world)["heartbeats_unanswered"] > 3


def test_a_platform_that_is_known_to_answer_no_heartbeats_is_a_setting() -> None:
    world = World(SessionSettings(heartbeats_answered=False, answer_timeout_s=10))
    world.platform.styles[Command.HEARTBEAT] = NEVER
    world.make_stored(300)
    world.online()
    world.drive(10)
    world.run(600)
    assert world.sent(Close) == []
    assert len(world.confirmed()) > 340


def test_an_answer_that_nobody_waited_for_costs_a_count() -> None:
    world = World()
    world.online()
    before = len(world.log)
    for command in Command:
        for result in (Result.OK, Result.ERROR, Result.UNKNOWN):
            world.tell(Answered(command, result, world.wall))
            world.tell(Answered(command, result))
    assert len(world.log) == before
    assert world.at(Link.ONLINE)
    assert counted(world)["stray"] > 20


# ---- which report an answer is for


def test_a_refusal_with_a_time_is_for_the_report_of_that_time() -> None:
    world = World()
    world.online()
    first = world.make()
    world.run(2)
    second = world.make()
    world.tell(Answered(Command.REALTIME, Result.ERROR, first.wall))
    world.run(61)
    assert world.keys_sent(SendRealtime) == [first.key, second.key, first.key]


def test_a_refusal_without_a_time_is_for_the_last_report() -> None:
    world = World()
    world.online()
    world.make()
    world.run(2)
    last = world.make()
    world.tell(Answered(Command.REALTIME, Result.ERROR))
    world.run(61)
    assert world.keys_sent(SendRealtime) == [1, last.key, last.key]


def test_a_refusal_without_a_time_of_a_platform_that_answers_each_is_for_the_oldest() -> None:
    world = World()
    world.online()
    for _ in range(3):
        world.make()
    world.tell(Answered(Command.REALTIME, Result.OK))
    world.tell(Answered(Command.REALTIME, Result.ERROR))
    world.tell(Answered(Command.REALTIME, Result.OK))
    assert world.confirmed() == set()
    world.run(61)
    assert world.keys_sent(SendRealtime) == [1, 2, 3, 2]


def test_an_empty_answer_confirms_nothing_by_itself() -> None:
    world = reports_answered(EMPTY)
    world.online()
    world.make()
    world.run(20)
    assert world.confirmed() == set()
    assert world.session.unconfirmed == 1


def test_frames_of_one_sample_have_one_time_and_two_fates() -> None:
    world = World()
    world.online()
    one, two = world.make(), world.make()
    assert one.wall == two.wall
    world.tell(Answered(Command.REALTIME, Result.ERROR, one.wall))
    world.tell(Answered(Command.REALTIME, Result.OK, one.wall))
    assert world.confirmed() == {two.key}


def test_a_heartbeat_answer_does_not_confirm_what_went_out_after_the_heartbeat() -> None:
    world = World()
    world.platform.latency_s = 5
    world.tell(Active(active=True))
    world.run(60)
    early = world.make()
    world.run(6)
    assert len(world.times(SendHeartbeat)) == 1
    late = world.make()
    world.run(6)
    assert world.confirmed() == {early.key}
    assert late.key not in world.fates


# ---- refused reports


def test_one_refused_report_does_not_hold_up_the_others() -> None:
    world = World()
    world.platform.refuses = lambda report: report.key == 50
    world.make_stored(300)
    world.online()
    world.run(60)
    assert len(world.confirmed()) == 299
    world.run(200)
    assert world.dropped() == {50: Reason.REFUSED}
    assert world.waiting == []


def test_refusals_are_counted_over_connections() -> None:
    world = World()
    world.platform.refuses = lambda _: True
    world.online()
    for _ in range(3):
        if not world.store:
            world.make()
        world.run(2)
        world.cut()
        world.run(10)
    assert world.dropped() == {1: Reason.REFUSED}


# ---- lent and live


def test_a_lent_report_that_is_under_way_is_not_sent_twice() -> None:
    world = World()
    world.online()
    live = world.make()
    world.tell(StoreWaits())
    world.run(5)
    assert [report for _, report in world.arrived] == [live]
    world.run(60)
    assert world.confirmed() == {live.key}


def test_a_live_report_that_was_lent_before_goes_out_once() -> None:
    world = World()
    world.online()
    world.run(1)
    report = Report(next(world.keys), world.wall)
    world.store.append(report)
    world.tell(StoreWaits())
    world.run(0.05)
    world.tell(Live(report))
    world.run(5)
    assert world.arrived == [(Command.REISSUE, report)]


def test_what_is_lent_to_a_connection_that_has_ended_is_forgotten() -> None:
    world = World()
    world.online()
    world.run(1)
    world.cut()
    world.tell(Lent(tuple(world.make_stored(3))))
    assert world.session.held == 0
    world.run(20)
    assert world.confirmed() == {1, 2, 3}


def test_a_store_that_got_something_while_it_looked_is_asked_again() -> None:
    world = World()
    world.online()
    world.run(5)
    assert Fetch(32) in world.tell(StoreWaits())
    assert Fetch(32) not in world.tell(StoreWaits())
    assert Fetch(32) in world.tell(Lent(()))
    assert Fetch(32) not in world.tell(Lent(()))


def test_a_parked_vehicle_comes_back_for_what_was_not_confirmed() -> None:
    world = World()
    world.make_stored(3)
    world.run(0.8)
    assert len(world.arrived) == 3
    world.cut()
    world.run(30)
    assert world.confirmed() == {1, 2, 3}
    assert world.at(Link.OFF)


def test_a_reissue_goes_out_after_a_silence_only() -> None:
    world = World(SessionSettings(reissue_gap_ms=300))
    world.make_stored(50)
    world.online()
    world.drive(0.7)
    world.run(30)
    sent = world.sent(SendRealtime, SendReissue)
    gaps = [b[0] - a[0] for a, b in itertools.pairwise(sent) if isinstance(b[1], SendReissue)]
    assert min(gaps) > 0.299
    assert world.keys_sent(SendReissue) == list(range(1, 51))


def test_reissues_unconfirmed_are_a_window_and_an_early_heartbeat_asks_for_more() -> None:
    world = World(SessionSettings(reissue_window=10, reissue_gap_ms=50))
    world.make_stored(35)
    world.online()
    world.run(9)
    assert world.waiting == []
    under_way = most = 0
    for _, action in world.sent(SendReissue, Confirmed):
        under_way += 1 if isinstance(action, SendReissue) else -1
        most = max(most, under_way)
    assert most == 10
    assert 4 <= len(world.sent(SendHeartbeat)) <= 6


def test_the_last_reissues_are_confirmed_by_an_early_heartbeat() -> None:
    world = World()
    world.online()
    world.run(5)
    world.make_stored(3)
    world.run(3)
    assert world.confirmed() == {1, 2, 3}


def test_live_reports_alone_cost_no_early_heartbeats() -> None:
    world = World()
    world.online()
    world.drive(1)
    world.run(600)
    assert len(world.sent(SendHeartbeat)) == 10


def test_live_reports_are_left_to_the_store_when_too_many_are_unconfirmed() -> None:
    world = World(SessionSettings(most_unconfirmed=20, reissue_window=10))
    world.platform.styles[Command.HEARTBEAT] = NEVER
    world.online()
    world.drive(1)
    world.run(60)
    assert world.session.unconfirmed == 20
    assert counted(world)["left_to_store"] > 0
    world.platform.styles[Command.HEARTBEAT] = ECHO
    world.drive(None)
    world.run(300)
    assert world.waiting == []


def test_two_days_offline_are_reissued_in_order_between_live_reports() -> None:
    world = World()
    world.platform.accepts = False
    world.tell(Active(active=True))
    world.drive(10)
    world.run(2 * 86_400)
    assert len(world.store) == 17_280
    assert world.session.held == 0
    assert len(world.times(Connect)) < 3000
    world.platform.accepts = True
    world.run(3600)
    world.drive(None)
    world.run(70)
    offline = [key for key in world.keys_sent(SendReissue) if key <= 17_280]
    assert offline == list(range(1, 17_281))
    assert world.waiting == []
    assert world.dropped() == {}
    # The link was found again within a minute, and a live report waits for nothing.
    back = world.sent(SendRealtime)[0][0]
    assert 2 * 86_400 < back < 2 * 86_400 + 75
    live = [(at, a.report) for at, a in world.sent(SendRealtime) if isinstance(a, SendRealtime)]
    assert all(round(at * SECOND) + world.began + world.wall_offset == r.wall for at, r in live)
    times = [at for at, _ in live]
    assert all(9.9 < b - a < 10.1 for a, b in itertools.pairwise(times))
    assert world.session.counts["confirmed"] == len(world.store)
