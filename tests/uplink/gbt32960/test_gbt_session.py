"""The session table of GB/T 32960.3, row by row; a test of a row is named after it."""

import itertools

import pytest

from agent.clock import SECOND, BootNs, WallNs
from agent.errors import ConfigError
from agent.settings.gbt32960 import Gbt32960
from agent.uplink.gbt32960.session_settings import SessionSettings
from agent.uplink.gbt32960.session_types import (
    Active,
    BatterySwapped,
    ClockQuality,
    ClockTold,
    Close,
    Command,
    Connect,
    Edition,
    KeepSerial,
    Lent,
    Link,
    Live,
    Lost,
    Query,
    Reason,
    Report,
    SendHeartbeat,
    SendLogin,
    SendLogout,
    SendRealtime,
    SendReissue,
    SendReply,
    SendTimeSync,
    SerialState,
    SetParameters,
    SetTimer,
    Stop,
    StoreWaits,
)
from tests.uplink.gbt32960.gbt_session_world import (
    DUPLICATE,
    EMPTY,
    ERROR,
    NEVER,
    NOON,
    Style,
    World,
    counted,
)

DAY_S = 86_400
HEARTBEAT_S, TIMEOUT_S = 0x09, 0x0B


def device(edition: int = 2016, login_retry_s: int = 0, reissue_days: float = 7.0) -> Gbt32960:
    return Gbt32960(
        edition=2016 if edition == 2016 else 2025,
        vin="LTEST000000000001",
        login_retry_s=login_retry_s,
        reissue_days=reissue_days,
    )


# ---- transport


def test_transport_the_login_is_sent_by_itself_right_after_the_connection() -> None:
    world = World()
    world.tell(Active(active=True))
    world.run(0.06)
    assert world.times(Connect) == [0.0]
    assert [type(action) for _, action in world.log[-3:]] == [KeepSerial, SendLogin, SetTimer]
    assert world.at(Link.LOGIN)
    world.run(1)
    assert world.at(Link.ONLINE)


def test_transport_nothing_goes_out_before_the_login_was_answered() -> None:
    world = World()
    world.platform.styles[Command.LOGIN] = NEVER
    world.make_stored(5)
    world.drive(1)
    world.tell(Active(active=True))
    world.run(30)
    world.tell(Query(world.wall, (1,)))
    others = (SendRealtime, SendReissue, SendHeartbeat, SendTimeSync, SendReply, SendLogout)
    assert len(world.times(SendLogin)) == 1
    assert world.sent(*others) == []


def test_transport_a_bad_login_that_is_ignored_is_sent_again() -> None:
    world = World()
    world.platform.styles[Command.LOGIN] = NEVER
    world.tell(Active(active=True))
    world.run(50)
    world.platform.styles[Command.LOGIN] = EMPTY
    world.run(20)
    assert len(world.times(SendLogin)) == 2
    assert world.at(Link.ONLINE)


# ---- login retry


@pytest.mark.parametrize(
    ("edition", "written_s", "retry_s"),
    [(2016, 0, 60), (2016, 180, 180), (2025, 0, 180), (2025, 60, 60)],
    ids=["2016: 1 min", "2016: 3 min in a second sentence", "2025: 3 min", "2025 as 2016"],
)
@pytest.mark.parametrize("style", [NEVER, ERROR, DUPLICATE], ids=["never", "error", "duplicate"])
def test_login_retry_three_tries_then_30_minutes(
    edition: int, written_s: int, retry_s: int, style: Style
) -> None:
    world = World(SessionSettings.from_device(device(edition, written_s)))
    world.platform.styles[Command.LOGIN] = style
    world.tell(Active(active=True))
    world.run(3 * retry_s + 1800 + 10)
    tries = [round(at) for at in world.times(SendLogin)]
    assert tries == [0, retry_s, 2 * retry_s, 3 * retry_s + 1800]
    assert [round(at) for at in world.times(Close)] == [3 * retry_s]
    assert [round(at) for at in world.times(Connect)] == [0, 3 * retry_s + 1800]


def test_login_retry_the_pause_is_parameter_0c() -> None:
    world = World(parameters={0x0C: 2})
    world.platform.styles[Command.LOGIN] = NEVER
    world.tell(Active(active=True))
    world.run(310)
    assert [round(at) for at in world.times(SendLogin)] == [0, 60, 120, 300]


def test_login_retry_then_it_goes_on_and_uploads_what_was_stored_meanwhile() -> None:
    world = World()
    world.platform.styles[Command.LOGIN] = NEVER
    world.tell(Active(active=True))
    world.drive(10)
    world.run(1900)
    world.platform.styles[Command.LOGIN] = EMPTY
    world.run(400)
    assert world.keys_sent(SendReissue)[:180] == list(range(1, 181))
    world.drive(None)
    world.run(100)
    assert world.waiting == []
    assert len(world.confirmed()) == len(world.store)


def test_login_retry_a_login_that_is_answered_ends_the_count_of_tries() -> None:
    world = World()
    world.platform.styles[Command.LOGIN] = NEVER
    world.tell(Active(active=True))
    world.run(100)
    world.platform.styles[Command.LOGIN] = EMPTY
    world.run(130)
    assert world.at(Link.ONLINE)
    world.platform.styles[Command.LOGIN] = NEVER
    world.cut()
    world.run(130)
    assert [round(at) for at in world.times(SendLogin)] == [0, 60, 120, 231, 291, 351]


def test_login_retry_a_platform_that_closes_at_each_login_is_not_asked_faster() -> None:
    world = World()
    world.platform.styles[Command.LOGIN] = NEVER
    world.tell(Active(active=True))
    for _ in range(4000):
        world.run(1)
        world.cut()
    logins = [round(at) for at in world.times(SendLogin)]
    assert logins == pytest.approx([0, 60, 120, 1921, 1981, 2041, 3842, 3902, 3962], abs=6)


def test_emqx_closes_the_connection_at_a_frame_that_it_does_not_like() -> None:
    # It closes at anything before the login, and at a frame error; see the reports that break it.
    world = World()
    world.online()
    world.cut()
    assert world.at(Link.DOWN)
    world.run(5)
    kinds = [type(a) for _, a in world.sent(SendLogin, SendRealtime, SendReissue, SendHeartbeat)]
    assert kinds == [SendLogin, SendLogin]


# ---- login serial


def test_login_serial_counts_each_login_and_restarts_each_beijing_day() -> None:
    midnight = WallNs(NOON + 12 * 3600 * SECOND)
    world = World(wall=midnight - 100 * SECOND)
    world.online()
    for _ in range(3):
        world.cut()
        world.run(61)
    assert [a.serial for _, a in world.sent(SendLogin) if isinstance(a, SendLogin)] == [1, 2, 3, 1]
    days = [a.state.day for _, a in world.sent(KeepSerial) if isinstance(a, KeepSerial)]
    assert [day - days[0] for day in days] == [0, 0, 0, 1]


def test_login_serial_is_at_most_65531_and_goes_on_after_a_restart() -> None:
    today = (NOON // SECOND + 8 * 3600) // DAY_S
    world = World(serial=SerialState(today, 65_530))
    world.online()
    world.cut()
    world.run(10)
    logins = [a.serial for _, a in world.sent(SendLogin) if isinstance(a, SendLogin)]
    assert logins == [65_531, 1]


def test_login_serial_is_kept_before_it_goes_out_and_the_logout_has_it() -> None:
    world = World()
    world.online()
    world.tell(Active(active=False))
    world.run(2)
    order = [type(a) for _, a in world.sent(KeepSerial, SendLogin, SendLogout, Close)]
    assert order == [KeepSerial, SendLogin, SendLogout, Close]
    (_, login), (_, logout) = world.sent(SendLogin, SendLogout)
    assert isinstance(login, SendLogin)
    assert isinstance(logout, SendLogout)
    assert login.serial == logout.serial


# ---- realtime


def test_realtime_goes_out_at_once_with_its_own_time() -> None:
    world = World()
    world.online()
    report = world.make()
    assert SendRealtime(report) in [action for at, action in world.log if at == world.time]


@pytest.mark.parametrize(("raw", "period_s"), [(5, 5), (30, 30), (31, 30), (600, 30)])
def test_realtime_period_is_adjustable_and_at_most_30_s(raw: int, period_s: int) -> None:
    world = World()
    world.online()
    world.tell(SetParameters(world.wall, ((0x02, raw),)))
    assert world.session.parameters.report_ms == period_s * 1000


def test_realtime_also_after_the_power_off_until_the_vehicle_sleeps() -> None:
    world = World()
    world.online()
    world.drive(10)
    world.run(180)  # who makes the reports counts these 3 min
    assert len(world.sent(SendRealtime)) == 18
    world.drive(None)
    world.tell(Active(active=False))
    world.run(5)
    assert world.at(Link.OFF)
    assert len(world.confirmed()) == 18


def test_level_3_alarm_the_part_before_it_goes_as_reissue_and_the_rest_live() -> None:
    world = World()
    world.online()
    before = world.make_stored(27)
    for _ in range(30):
        world.make()
        world.run(1)
    assert world.keys_sent(SendRealtime) == list(range(28, 58))
    assert world.keys_sent(SendReissue) == [report.key for report in before]


def test_realtime_without_a_link_is_left_to_the_store() -> None:
    world = World()
    world.platform.accepts = False
    world.tell(Active(active=True))
    world.run(2)
    report = world.make()
    assert world.session.held == 0
    world.platform.accepts = True
    world.run(20)
    assert world.arrived == [(Command.REISSUE, report)]
    assert counted(world)["left_to_store"] == 1


# ---- realtime answer


def test_realtime_answer_a_right_report_has_none_and_a_heartbeat_confirms_it() -> None:
    world = World()
    world.online()
    first = world.make()
    world.run(58)
    assert world.confirmed() == set()
    world.run(2)
    assert world.times(SendHeartbeat) == [60.1]
    assert world.confirmed() == {first.key}


def test_realtime_answer_a_wrong_one_is_sent_again_each_minute_and_given_up_after_three() -> None:
    world = World()
    world.platform.refuses = lambda _: True
    world.online()
    report = world.make()
    world.run(200)
    assert world.keys_sent(SendRealtime) == [report.key] * 3
    assert world.times(SendRealtime) == pytest.approx([1, 61, 121], abs=0.2)
    assert world.dropped() == {report.key: Reason.REFUSED}


def test_realtime_answer_the_time_between_and_the_number_of_tries_are_settings() -> None:
    world = World(SessionSettings(report_retry_s=10, report_tries=2))
    world.platform.refuses = lambda _: True
    world.online()
    world.make()
    world.run(100)
    assert world.times(SendRealtime) == pytest.approx([1, 11], abs=0.2)


# ---- heartbeat


@pytest.mark.parametrize("period_s", [1, 60, 240])
def test_heartbeat_period_is_adjustable_by_parameter_09(period_s: int) -> None:
    world = World()
    world.online()
    world.tell(SetParameters(world.wall, ((HEARTBEAT_S, period_s),)))
    world.run(5.5 * period_s)
    assert len(world.sent(SendHeartbeat)) in (5, 6)
    gaps = [b - a for a, b in itertools.pairwise(world.times(SendHeartbeat))]
    assert gaps == pytest.approx([period_s] * len(gaps), abs=0.2)


def test_heartbeat_without_an_answer_ends_the_connection() -> None:
    world = World(parameters={TIMEOUT_S: 20})
    world.platform.styles[Command.HEARTBEAT] = NEVER
    world.online()
    report = world.make()
    world.run(80.5)
    assert world.times(SendHeartbeat) == [60.1]
    assert world.times(Close) == [80.1]
    world.run(2)
    assert world.times(Connect) == [0.0, 81.1]
    assert world.keys_sent(SendReissue) == [report.key]


def test_heartbeat_that_is_refused_leads_to_a_new_login() -> None:
    world = World()
    world.platform.styles[Command.HEARTBEAT] = ERROR
    world.online()
    world.run(62)
    assert world.times(Close) == [60.1]
    assert len(world.sent(SendLogin)) == 2
    assert counted(world)["heartbeats_refused"] == 1


# ---- same VIN connects again


def test_same_vin_connects_again_and_the_dropped_one_comes_back_ever_slower() -> None:
    world = World()
    world.online()
    for _ in range(600):
        if world.at(Link.ONLINE):
            world.cut()
        world.run(1)
    gaps = [b - a for a, b in itertools.pairwise(world.times(Connect))]
    assert gaps[:6] == pytest.approx([2, 3, 5, 9, 17, 33], abs=1.1)
    assert max(gaps) == pytest.approx(61, abs=1.1)


def test_a_platform_that_answers_and_soon_drops_each_link_is_asked_ever_slower() -> None:
    world = World(SessionSettings(heartbeat_s=1))
    world.online()
    for _ in range(120):
        world.run(5)
        world.cut()
    gaps = [b - a for a, b in itertools.pairwise(world.times(Connect))]
    assert max(gaps) > 60


def test_same_vin_is_counted_when_the_login_answer_says_it() -> None:
    world = World()
    world.platform.styles[Command.LOGIN] = DUPLICATE
    world.tell(Active(active=True))
    world.run(10)
    assert world.at(Link.LOGIN)
    assert counted(world)["duplicate_vin"] == 1


# ---- the terminal drops the link


def test_terminal_drops_the_link_when_the_retries_of_a_report_are_used_up() -> None:
    world = World()
    world.platform.refuses = lambda report: report.key == 1
    world.online()
    world.make()
    world.run(120.3)
    assert world.times(Close) == [121.2]
    world.run(10)
    assert world.at(Link.ONLINE)


def test_terminal_drops_the_link_at_most_once_in_a_while_for_reports_that_are_refused() -> None:
    world = World(SessionSettings(refused_close_s=600))
    world.platform.refuses = lambda report: report.key % 2 == 0
    world.online()
    world.drive(10)
    world.run(1000)
    assert len(world.times(Close)) == 2
    assert {key % 2 for key in world.dropped()} == {0}
    assert {key % 2 for key in world.confirmed()} == {1}


def test_terminal_drops_the_link_tcp_broken_and_comes_back_with_jitter() -> None:
    first = {}
    for dice in (0.0, 0.5, 1.0):
        world = World(random=lambda dice=dice: dice)  # type: ignore[misc]
        world.platform.accepts = False
        world.tell(Active(active=True))
        world.run(400)
        times = world.times(Connect)
        first[dice] = [b - a for a, b in itertools.pairwise(times)][:8]
    assert first[1.0] == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60], abs=0.3)
    assert first[0.5] == pytest.approx([0.75, 1.5, 3, 6, 12, 24, 45, 45], abs=0.3)
    assert first[0.0] == pytest.approx([0.5, 1, 2, 4, 8, 16, 30, 30], abs=0.3)


def test_a_connection_that_never_comes_up_is_tried_again() -> None:
    world = World()
    world.platform.reachable = False
    world.tell(Active(active=True))
    world.run(60)
    assert world.times(Close) == [60.0]
    world.platform.reachable = True
    world.run(2)
    assert world.at(Link.ONLINE)


# ---- time sync


def test_time_sync_only_when_the_clock_fails() -> None:
    world = World()
    world.online()
    world.run(300)
    assert world.sent(SendTimeSync) == []
    world.tell(ClockQuality(good=False))
    world.run(1)
    assert world.times(SendTimeSync) == [301.0]
    ((_, told),) = world.sent(ClockTold)
    assert isinstance(told, ClockTold)
    assert abs(told.time - world.wall) < 2 * SECOND
    world.tell(ClockQuality(good=True))
    world.run(8000)
    assert len(world.sent(SendTimeSync)) == 1


@pytest.mark.parametrize("style", [ERROR, NEVER, EMPTY], ids=["error", "never", "empty"])
def test_time_sync_an_error_is_tried_again_later(style: Style) -> None:
    world = World()
    world.tell(ClockQuality(good=False))
    world.platform.styles[Command.TIME_SYNC] = style
    world.online()
    world.run(150)
    assert world.times(SendTimeSync) == [0.1, 60.1, 120.1]
    assert world.sent(ClockTold) == []


def test_time_sync_can_be_left_out() -> None:
    world = World(SessionSettings(time_sync=False))
    world.tell(ClockQuality(good=False))
    world.online()
    world.run(150)
    assert world.sent(SendTimeSync) == []


# ---- reissue, its age, storage


def test_reissue_goes_in_the_gaps_between_live_reports_with_its_own_time() -> None:
    world = World()
    world.online()
    stored = world.make_stored(50)
    world.run(0.5)
    live = world.make()
    world.run(10)
    again = [report for command, report in world.arrived if command is Command.REISSUE]
    assert again == stored
    assert [report.wall for report in again] == [report.wall for report in stored]
    # The live one was not kept waiting by the 45 that were still to go.
    assert (Command.REALTIME, live) in world.arrived[:6]


@pytest.mark.parametrize("days", [3.0, 7.0], ids=["2016 in one reading", "7 days"])
def test_reissue_age_is_a_setting(days: float) -> None:
    world = World(SessionSettings.from_device(device(reissue_days=days)))
    ages = (days + 0.01, days - 0.01, 0.5)
    old, young, new = (
        world.make(live=False, wall=world.wall - round(age * DAY_S * SECOND)) for age in ages
    )
    world.tell(StoreWaits())
    world.run(100)
    assert world.dropped() == {old.key: Reason.EXPIRED}
    assert world.confirmed() == {young.key, new.key}
    assert old.key not in world.keys_sent(SendReissue)


def test_reissue_age_says_nothing_while_the_clock_is_bad() -> None:
    world = World()
    world.tell(ClockQuality(good=False))
    old = world.make(live=False, wall=world.wall - 9000 * DAY_S * SECOND)
    world.tell(StoreWaits())
    world.run(100)
    assert world.confirmed() == {old.key}


def test_storage_what_is_not_confirmed_when_the_link_ends_is_lent_again() -> None:
    world = World()
    world.online()
    for _ in range(5):
        world.make()
        world.run(10)
    world.cut()
    assert world.session.held == 0
    assert world.fates == {}
    world.run(20)
    assert world.keys_sent(SendReissue) == [1, 2, 3, 4, 5]
    assert world.confirmed() == {1, 2, 3, 4, 5}


# ---- the timing row of 2025


def test_2025_a_battery_swap_needs_a_new_login() -> None:
    for edition, logins in ((Edition.E2025, 2), (Edition.E2016, 1)):
        world = World(SessionSettings(edition=edition))
        world.online()
        world.make()
        world.tell(BatterySwapped())
        world.run(2)
        assert world.at(Link.ONLINE)
        assert len(world.sent(SendLogin)) == logins
        # The answer to the logout confirms as well.
        assert len(world.confirmed()) == logins - 1
        assert len(world.arrived) == 1


def test_2025_reissue_window_is_7_days_and_a_login_is_repeated_after_3_min() -> None:
    settings = SessionSettings.from_device(device(2025))
    assert settings.reissue_days == 7
    assert settings.login_retry_s == 180
    assert settings.login_pause_min == 30


# ---- when a connection is wanted


def test_a_parked_vehicle_connects_for_what_waits_and_logs_out_after_it() -> None:
    world = World()
    stored = world.make_stored(40)
    world.run(30)
    assert len(world.confirmed()) == len(stored)
    assert world.at(Link.OFF)
    assert len(world.sent(SendLogout)) == 1
    assert [type(a) for _, a in world.log][-2:] == [Close, SetTimer]


def test_a_parked_vehicle_is_not_logged_in_for_each_single_report() -> None:
    world = World()
    for _ in range(60):
        world.make_stored(1)
        world.run(5)
    assert len(world.sent(SendLogin)) == 5
    world.run(60)
    assert world.waiting == []


def test_it_does_not_connect_when_nothing_wants_it() -> None:
    world = World()
    world.run(1000)
    assert world.log == []
    world.platform.accepts = False
    world.tell(Active(active=True))
    world.run(5)
    world.tell(Active(active=False))
    assert world.at(Link.OFF)
    assert world.log[-1][1] == SetTimer(None)


def test_a_vehicle_that_wakes_up_while_it_logs_out_comes_back_at_once() -> None:
    world = World()
    world.online()
    world.tell(Active(active=False))
    assert world.at(Link.LEAVING)
    world.tell(Active(active=True))
    world.run(1)
    assert world.at(Link.ONLINE)
    assert len(world.sent(SendLogin)) == 2


def test_a_logout_that_nobody_answers_ends_after_the_time_out() -> None:
    world = World()
    world.platform.styles[Command.LOGOUT] = NEVER
    world.online()
    world.tell(Active(active=False))
    world.run(70)
    assert world.times(Close) == [61.0]
    assert world.at(Link.OFF)


def test_stop_closes_and_nothing_counts_afterwards() -> None:
    world = World()
    world.online()
    world.make()
    world.tell(Stop())
    assert [type(a) for _, a in world.log[-2:]] == [Close, SetTimer]
    before = len(world.log)
    for event in (Active(active=True), StoreWaits(), Lost(), Live(Report(99, world.wall))):
        world.tell(event)
    world.tell(Lent((Report(7, world.wall),)))
    assert len(world.log) == before
    assert world.session.held == 0
    assert world.at(Link.STOPPED)


def test_a_late_tick_after_a_suspend_does_no_harm() -> None:
    world = World()
    world.online()
    world.make()
    world.now += 7200 * SECOND
    world.tell(Active(active=True))
    world.run(70)
    assert world.at(Link.ONLINE)
    assert world.confirmed() == {1}


def test_a_tick_without_a_reason_does_nothing_but_tell_the_timer() -> None:
    world = World()
    world.online()
    actions = world.session.tick(BootNs(world.now), world.wall)
    assert [type(action) for action in actions] == [SetTimer]


# ---- settings


@pytest.mark.parametrize(
    ("name", "value"),
    [("login_retry_s", 0), ("reissue_window", 0), ("reissue_days", -1.0), ("port", 70_000)],
)
def test_a_setting_out_of_its_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=name):
        SessionSettings(**{name: value})  # type: ignore[arg-type]


def test_settings_of_the_device_file_come_through() -> None:
    written = Gbt32960(
        vin="LTEST000000000001",
        report_s=5,
        heartbeat_s=20,
        answer_timeout_s=7,
        login_pause_min=3,
        reissue_per_s=4.0,
        time_sync=False,
    )
    settings = SessionSettings.from_device(written, domain="p.example", port=32960)
    assert settings.report_s == 5
    assert settings.reissue_gap_ms == 250
    assert not settings.time_sync
    world = World(settings)
    parameters = world.session.parameters
    assert (parameters.report_ms, parameters.heartbeat_s) == (5000, 20)
    assert (parameters.answer_timeout_s, parameters.login_pause_s) == (7, 180)
    assert parameters.answer((5, 6)) == ((5, "p.example"), (6, 32960))
