"""Which report breaks the link, and which link is only bad."""

import itertools

import pytest

from agent.clock import SECOND, BootNs
from agent.uplink.gbt32960.session_settings import SessionSettings
from agent.uplink.gbt32960.session_types import Active, Reason, SendHeartbeat, SendLogin
from agent.uplink.gbt32960.session_window import ReissueWindow
from tests.uplink.gbt32960.gbt_session_world import World, counted


def boot(seconds: float) -> BootNs:
    return BootNs(round(seconds * SECOND))


def prove(window: ReissueWindow, at: float) -> None:
    window.ask(boot(at))
    window.answer(boot(at + 0.1))


def careful(tries: int = 8) -> ReissueWindow:
    """A link that broke three times, and has just been proved on a fourth connection."""
    window = ReissueWindow(128, tries)
    for at in (0, 10, 20):
        window.begin(boot(at))
        assert not window.broke(boot(at + 1), 5, 1)
    assert window.careful
    window.begin(boot(30))
    prove(window, 30)
    assert window.proved
    return window


def test_a_connection_that_breaks_leaves_an_eighth_and_each_answer_doubles_it() -> None:
    window = ReissueWindow(128, 8)
    sizes = []
    for _ in range(4):
        window.broke(boot(1), 5, 1)
        sizes.append(window.size)
    assert sizes == [16, 2, 1, 1]
    for _ in range(9):
        window.confirmed()
        sizes.append(window.size)
    assert sizes[4:] == [1, 2, 4, 8, 16, 32, 64, 128, 128]


def test_a_connection_that_breaks_without_reissues_says_nothing_about_them() -> None:
    window = ReissueWindow(128, 1)
    for at in range(10):
        window.begin(boot(at))
        assert not window.broke(boot(at + 0.5), 0, None)
    assert window.size == 128


def test_only_a_break_soon_after_the_report_is_blamed_on_it() -> None:
    for late, blamed in ((0.5, True), (0.9, True), (1.1, False), (60, False)):
        window = careful(tries=1)
        window.sent(boot(31))
        assert window.broke(boot(31 + late), 1, 7) == blamed


def test_soon_means_some_delays_of_an_answer_on_a_slow_link() -> None:
    for late, blamed in ((2.9, True), (3.1, False)):
        window = careful(tries=1)
        window.ask(boot(31))
        window.answer(boot(32))
        window.sent(boot(33))
        assert window.broke(boot(33 + late), 1, 7) == blamed


def test_a_live_report_is_not_blamed() -> None:
    window = careful(tries=1)
    window.sent(boot(31))
    assert not window.broke(boot(31.2), 1, None)


def test_before_a_suspect_goes_out_again_the_link_must_have_stood_twice_as_long() -> None:
    window = careful()
    window.sent(boot(32))
    window.broke(boot(32.5), 1, 7)
    window.begin(boot(40))
    assert window.proof_at == boot(45)
    prove(window, 44)
    assert not window.proved
    prove(window, 45)
    assert window.proved


def test_a_link_that_breaks_before_that_clears_the_suspect_and_is_asked_for_less() -> None:
    window = careful(tries=2)
    window.sent(boot(32))
    window.broke(boot(32.5), 1, 7)
    window.begin(boot(40))
    assert not window.broke(boot(42), 0, None)
    window.begin(boot(50))
    assert window.proof_at == boot(52.5)
    prove(window, 53)
    window.sent(boot(54))
    assert not window.broke(boot(54.1), 1, 7)


def test_a_confirmed_reissue_clears_the_suspect() -> None:
    window = careful(tries=2)
    window.sent(boot(32))
    window.broke(boot(32.5), 1, 7)
    window.confirmed()
    assert not window.careful
    window.begin(boot(40))
    assert window.proof_at == boot(40)
    window.broke(boot(41), 1, 7)
    window.begin(boot(50))
    prove(window, 50)
    window.sent(boot(51))
    assert not window.broke(boot(51.1), 1, 7)


def test_another_report_begins_its_own_count() -> None:
    window = careful(tries=2)
    given_up = []
    for at, key in ((40, 7), (100, 8), (300, 8)):
        window.begin(boot(at))
        prove(window, at + 61)
        window.sent(boot(at + 62))
        given_up.append(window.broke(boot(at + 62.1), 1, key))
    assert given_up == [False, False, True]


# ---- with a session around it


@pytest.mark.parametrize("period_s", [1, 10])
def test_a_report_that_breaks_the_link_each_time_does_not_block_the_rest(period_s: int) -> None:
    world = World()
    world.platform.breaks_at = lambda report: report.key == 40
    world.make_stored(100)
    world.online()
    world.drive(period_s)
    world.run(1800)
    assert world.dropped() == {40: Reason.REFUSED}
    assert len(world.waiting) < 70 / period_s
    assert counted(world)["broke_the_link"] == 1
    # It was found among many, and few logins were spent on it.
    assert len(world.times(SendLogin)) < 25


def test_several_reports_that_break_the_link_in_a_row() -> None:
    world = World()
    world.platform.breaks_at = lambda report: report.key in (3, 4, 5)
    world.make_stored(10)
    world.run(3600)
    assert set(world.dropped()) == {3, 4, 5}
    assert world.waiting == []


def test_heartbeats_go_on_while_a_link_is_proved() -> None:
    world = World(SessionSettings(heartbeat_s=5))
    world.platform.breaks_at = lambda report: report.key == 1
    world.make_stored(2)
    world.tell(Active(active=True))
    world.run(1800)
    assert set(world.dropped()) == {1}
    order = world.sent(SendHeartbeat, SendLogin)
    gaps = [b[0] - a[0] for a, b in itertools.pairwise(order) if isinstance(b[1], SendHeartbeat)]
    assert max(gaps) < 5.2


@pytest.mark.parametrize("stands_s", [0.12, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 7.0])
@pytest.mark.parametrize("latency_s", [0.05, 0.3, 1.0])
def test_a_link_that_is_only_bad_loses_nothing(stands_s: float, latency_s: float) -> None:
    world = World()
    world.platform.stands_s, world.platform.latency_s = stands_s, latency_s
    world.make_stored(20)
    world.tell(Active(active=True))
    world.run(3600)
    assert world.dropped() == {}
    world.platform.stands_s = None
    world.run(300)
    assert len(world.confirmed()) == 20


@pytest.mark.parametrize("stands_s", [0.5, 2, 5])
def test_a_link_that_is_bad_takes_what_it_can(stands_s: float) -> None:
    world = World()
    world.make_stored(60)
    world.platform.stands_s = stands_s
    world.tell(Active(active=True))
    world.run(7200)
    assert len(world.confirmed()) == 60
