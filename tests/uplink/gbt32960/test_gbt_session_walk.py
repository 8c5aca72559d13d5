"""Whatever happens in whatever order: what the world around the session checks holds.

See gbt_session_world.py for what that is. At the end the platform comes to its senses, and all
reports that are left get their fate.
"""

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import SECOND
from agent.uplink.gbt32960.session_settings import SessionSettings
from agent.uplink.gbt32960.session_types import (
    Active,
    Answered,
    BatterySwapped,
    ClockQuality,
    Command,
    Control,
    Edition,
    Lent,
    Link,
    Query,
    Result,
    SetParameters,
    StoreWaits,
)
from tests.uplink.gbt32960.gbt_session_world import (
    DUPLICATE,
    ECHO,
    EMPTY,
    EMPTY_ERROR,
    ERROR,
    NEVER,
    Platform,
    Style,
    World,
)

STYLES = st.sampled_from((ECHO, EMPTY, ERROR, EMPTY_ERROR, DUPLICATE, NEVER))
SETTINGS = st.builds(
    SessionSettings,
    edition=st.sampled_from(Edition),
    login_retry_s=st.sampled_from((10, 60)),
    login_pause_min=st.just(1),
    heartbeat_s=st.sampled_from((5, 60)),
    answer_timeout_s=st.sampled_from((3, 60)),
    report_retry_s=st.sampled_from((5, 60)),
    refused_close_s=st.sampled_from((0, 600)),
    broken_tries=st.sampled_from((1, 4)),
    reissue_window=st.sampled_from((1, 4, 16)),
    fetch=st.sampled_from((1, 7)),
    most_unconfirmed=st.just(32),
    heartbeats_answered=st.booleans(),
)
STEP = st.one_of(
    st.tuples(st.just("run"), st.sampled_from((0.02, 0.3, 3.0, 20.0, 100.0))),
    st.tuples(st.just("make"), st.integers(1, 12)),
    st.tuples(st.just("store"), st.integers(1, 30)),
    st.tuples(st.just("cut"), st.none()),
    st.tuples(st.just("swap"), st.none()),
    st.tuples(st.just("active"), st.booleans()),
    st.tuples(st.just("clock"), st.booleans()),
    st.tuples(st.just("accepts"), st.booleans()),
    st.tuples(st.just("refuses"), st.integers(2, 7)),
    st.tuples(st.just("breaks"), st.integers(2, 7)),
    st.tuples(st.just("style"), st.tuples(st.sampled_from(Command), STYLES)),
    st.tuples(st.just("latency"), st.sampled_from((0.01, 1.0, 30.0))),
    st.tuples(
        st.just("answer"),
        st.tuples(st.sampled_from(Command), st.sampled_from(Result), st.integers(-20, 0)),
    ),
    st.tuples(st.just("command"), st.integers(0, 255)),
)


def take(world: World, what: str, how: object) -> None:
    match what, how:
        case "run", float(seconds):
            world.run(seconds)
        case "make", int(count):
            for _ in range(count):
                world.make()
        case "store", int(count):
            world.make_stored(count)
        case "cut", _:
            world.cut()
        case "swap", _:
            world.tell(BatterySwapped())
        case "active", bool(active):
            world.tell(Active(active))
        case "clock", bool(good):
            world.tell(ClockQuality(good))
        case "accepts", bool(accepts):
            world.platform.accepts = accepts
        case "refuses", int(each):
            world.platform.refuses = lambda report: report.key % each == 0
        case "breaks", int(each):
            world.platform.breaks_at = lambda report: report.key % each == 1
        case "style", (Command() as command, Style() as style):
            world.platform.styles[command] = style
        case "latency", float(latency):
            world.platform.latency_s = latency
        case "answer", (Command() as command, Result() as result, int(ago)):
            if command is not Command.LOGIN:
                time = None if ago == 0 else type(world.wall)(world.wall + ago * SECOND)
                world.tell(Answered(command, result, time))
        case "command", int(number):
            world.tell(Control(world.wall, number))
            world.tell(Query(world.wall, (number,)))
            world.tell(SetParameters(world.wall, ((number % 16, number),)))
            world.tell(StoreWaits())
        case _:
            raise AssertionError(what)


@given(SETTINGS, st.booleans(), st.lists(STEP, min_size=20, max_size=80))
@settings(max_examples=100)
def test_whatever_happens_each_report_has_one_fate(
    how: SessionSettings, awake: bool, steps: list[tuple[str, object]]
) -> None:
    world = World(how)
    if awake:
        world.online()
    for what, detail in steps:
        take(world, what, detail)
    world.cut()
    world.platform = Platform()
    world.tell(ClockQuality(good=True))
    world.tell(Active(active=False))
    world.make_stored(1)
    # Longer than all pauses and back-offs together, and than what is left takes one by one.
    world.run(1200)
    assert world.waiting == []
    assert world.session.held == 0
    assert world.at(Link.OFF)
    assert set(world.fates) == {report.key for report in world.store}


@given(st.lists(st.tuples(st.sampled_from(Command), st.sampled_from(Result)), max_size=60))
@settings(max_examples=40)
def test_answers_without_a_question_change_nothing(answers: list[tuple[Command, Result]]) -> None:
    world = World(dataclasses.replace(SessionSettings(), reissue_window=4))
    world.tell(Lent(()))
    for command, result in answers:
        assert world.tell(Answered(command, result, world.wall)) == []
    world.online()
    world.make_stored(10)
    world.run(30)
    assert len(world.confirmed()) == 10
