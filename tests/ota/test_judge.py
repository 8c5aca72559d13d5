"""The verdict on a trial, from readings of an agent that does this or that."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.clock import SECOND, BootNs
from agent.ledger import Ledger
from agent.ota.judge import Judge, Limits, Reading, Verdict, reading_of

TRIAL_S = 120
LIMITS = Limits(TRIAL_S, max_cpu_percent=60, max_memory_mb=512, max_events_per_minute=60)
SWITCH_S = 1000.0
"""Boot time of the switch; the process began at 0."""


@dataclass(frozen=True)
class Doing:
    """What an agent does, a second or at any moment."""

    decoded: Mapping[str, float] = field(default_factory=lambda: {"body": 200, "motor": 1000})
    not_decoded: Mapping[str, float] = field(default_factory=dict)
    on_bus: Mapping[str, float] = field(default_factory=dict)
    kept: float = 5000
    offered: float = 9000
    events: float = 0.1
    lost_disk: float = 0
    evicted: float = 0
    acknowledged: float = 4000
    quarantined: float = 0
    differences: tuple[str, ...] = ()
    spool_trouble: str = ""
    sending_stopped: str = ""
    online: bool = True
    cpu_percent: float = 12
    memory_mb: float = 90


@dataclass(frozen=True)
class World:
    """One way of doing before the switch, and one behind it."""

    before: Doing = field(default_factory=Doing)
    after: Doing = field(default_factory=Doing)

    def at(self, second: float) -> Reading:
        """What a reading at a boot time says."""
        then = min(second, SWITCH_S)
        since = max(0.0, second - SWITCH_S)
        b, a = self.before, self.after
        now = a if second > SWITCH_S else b

        def total(name: str) -> int:
            return int(getattr(b, name) * then + getattr(a, name) * since)

        def by_bus(name: str) -> dict[str, int]:
            first, then_ = getattr(b, name), getattr(a, name)
            buses = {*first, *then_}
            return {x: int(first.get(x, 0) * then + then_.get(x, 0) * since) for x in sorted(buses)}

        return Reading(
            at=BootNs(round(second * SECOND)),
            decoded=by_bus("decoded"),
            not_decoded=by_bus("not_decoded"),
            kept=total("kept"),
            offered=total("offered"),
            events=total("events"),
            lost_disk=total("lost_disk"),
            evicted=total("evicted"),
            acknowledged=total("acknowledged"),
            quarantined=total("quarantined"),
            differences=now.differences,
            spool_trouble=now.spool_trouble,
            sending_stopped=now.sending_stopped,
            online=now.online,
            cpu_s=(b.cpu_percent * then + a.cpu_percent * since) / 100,
            memory_bytes=int(now.memory_mb * (1 << 20)),
            on_bus=by_bus("on_bus"),
        )


def watched(
    world: World,
    *,
    alone: bool = False,
    expected: Mapping[str, float] | None = None,
    gaps: Sequence[float] = (1.0,),
    limits: Limits = LIMITS,
) -> tuple[Verdict, float]:
    """The verdict, and how many seconds behind the switch it came.

    `alone`: nothing is known of before. `gaps` between readings are used one after another.
    """
    before = [] if alone else [world.at(SWITCH_S - 5 + s) for s in range(6)]
    judge = Judge(limits, before, expected=expected)
    second = SWITCH_S + 1
    for number in range(10_000):
        verdict = judge.look(world.at(second))
        if verdict is not None:
            assert verdict == judge.look(world.at(second + 1)), "a verdict stays"
            return verdict, second - SWITCH_S
        second += gaps[number % len(gaps)]
    raise AssertionError("there was never a verdict")


def but(**changes: Any) -> Doing:
    """What is usual, with changes."""
    return dataclasses.replace(Doing(), **changes)


HARM: dict[str, tuple[World, str]] = {
    "a bus decodes less than half of its share": (
        World(after=but(decoded={"body": 200, "motor": 400}, not_decoded={"motor": 600})),
        "bus motor: .* frames are decoded (40%), where it should be 100%",
    ),
    "nothing of a bus is decoded": (
        World(after=but(decoded={"body": 200}, not_decoded={"motor": 1000})),
        "bus motor: 0 of .* frames are decoded",
    ),
    "less than half of a share that was small": (
        World(
            before=but(decoded={"motor": 100}, not_decoded={"motor": 900}),
            after=but(decoded={"motor": 30}, not_decoded={"motor": 970}),
        ),
        "(3%), where it should be 10%",
    ),
    "nothing is collected": (
        World(after=but(kept=0, offered=0)),
        "nothing is collected of .* frames",
    ),
    "the ledger does not close": (
        World(after=but(differences=("bus motor: read = 3, but queued = 2",))),
        "the ledger does not close: bus motor: read = 3, but queued = 2",
    ),
    "the spool is in trouble": (
        World(after=but(spool_trouble="the spool cannot be written: No space left on device")),
        "No space left",
    ),
    "samples are lost to the disk": (World(after=but(lost_disk=100)), "samples were lost"),
    "the spool gives up what is not sent": (World(after=but(evicted=9)), "the spool is full"),
    "CPU": (World(after=but(cpu_percent=75)), "75 % of a core over .* s, and the limit is 60 %"),
    "memory": (World(after=but(memory_mb=700)), "700 MB of memory, and the limit is 512 MB"),
    "a storm of triggers": (
        World(after=but(events=4)),
        "events in a minute, and the limit is 60",
    ),
    "batches are refused": (World(after=but(quarantined=50)), "the receiver refuses batches"),
    "nothing is sent any more": (
        World(after=but(acknowledged=0, sending_stopped="the budget of 0.001 MB is used up")),
        "nothing is sent any more: the budget of 0.001 MB is used up",
    ),
}

WELL: dict[str, World] = {
    "as before": World(),
    "fewer samples of fewer signals": World(after=but(kept=3, offered=4)),
    "only a trigger, which waits": World(after=but(kept=0)),
    "filters hide what is not wanted": World(
        after=but(decoded={"motor": 20}, on_bus={"motor": 1000, "body": 200})
    ),
    "a bit more than half of a share": World(
        after=but(decoded={"body": 200, "motor": 600}, not_decoded={"motor": 400})
    ),
    "better than before": World(
        before=but(decoded={"motor": 10}, not_decoded={"motor": 990}),
        after=but(decoded={"motor": 900}, not_decoded={"motor": 100}),
    ),
    "a bus that fell silent": World(after=but(decoded={"motor": 1000})),
    "all buses fell silent": World(after=but(decoded={}, kept=0, offered=0)),
    "no link": World(after=but(online=False, acknowledged=0)),
    "trouble as before": World(
        before=but(spool_trouble="the disk is bad", lost_disk=10, evicted=10, quarantined=10),
        after=but(spool_trouble="the disk is bad", lost_disk=20, evicted=20, quarantined=20),
    ),
    "costs as before": World(
        before=but(cpu_percent=80, memory_mb=700, events=3),
        after=but(cpu_percent=85, memory_mb=720, events=3),
    ),
    "a ledger that did not close before": World(
        before=but(differences=("bus motor: a = 1, but b = 2",)),
        after=but(differences=("bus motor: a = 1, but b = 2",)),
    ),
    "sending had stopped before": World(
        before=but(sending_stopped="the budget is used up"),
        after=but(sending_stopped="the budget is used up"),
    ),
}

GAPS = st.lists(st.floats(0.3, 4.5), min_size=1, max_size=40)


def matches(why: str, pattern: str) -> bool:
    """Whether the parts between `.*` come in their order."""
    at = 0
    for part in pattern.split(".*"):
        at = why.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True


@pytest.mark.parametrize("name", HARM)
def test_harm_is_told_with_figures(name: str) -> None:
    world, why = HARM[name]

    verdict, second = watched(world)

    assert not verdict.good
    assert matches(verdict.why, why), verdict.why
    assert second <= TRIAL_S + 5


@pytest.mark.parametrize("name", WELL)
def test_what_is_well_or_no_fault_of_the_plan_stays(name: str) -> None:
    verdict, second = watched(WELL[name])

    assert verdict.good, verdict.why
    assert second >= TRIAL_S


@pytest.mark.parametrize("name", sorted(set(HARM) - {"nothing is collected"}))
def test_what_is_clear_is_told_at_once(name: str) -> None:
    _, second = watched(HARM[name][0])

    assert second < 25


def test_a_good_verdict_has_figures() -> None:
    verdict, _ = watched(World())

    assert verdict == Verdict(
        good=True,
        why="well for 120 s: 144,000 of 144,000 frames decoded, 600,000 samples kept, 12 events, "
        "480,000 samples acknowledged, 12 % of a core, 90 MB",
    )


@settings(deadline=None)
@given(st.sampled_from(sorted(HARM)), GAPS)
@example("CPU", [4.5])
@example("a storm of triggers", [0.3])
def test_harm_is_harm_however_often_it_is_looked_at(name: str, gaps: list[float]) -> None:
    verdict, _ = watched(HARM[name][0], gaps=gaps)
    assert not verdict.good


@settings(deadline=None)
@given(st.sampled_from(sorted(WELL)), GAPS)
def test_well_is_well_however_often_it_is_looked_at(name: str, gaps: list[float]) -> None:
    verdict, _ = watched(WELL[name], gaps=gaps)
    assert verdict.good, verdict.why


READINGS = st.builds(
    Reading,
    at=st.integers(0, 400).map(lambda s: BootNs(s * SECOND)),
    decoded=st.dictionaries(st.sampled_from("ab"), st.integers(0, 10_000)),
    not_decoded=st.dictionaries(st.sampled_from("ab"), st.integers(0, 10_000)),
    kept=st.integers(0, 1000),
    offered=st.integers(0, 1000),
    events=st.integers(0, 300),
    lost_disk=st.integers(0, 2),
    evicted=st.integers(0, 2),
    acknowledged=st.integers(0, 10),
    quarantined=st.integers(0, 2),
    differences=st.sampled_from([(), ("a = 1, but b = 2",)]),
    spool_trouble=st.sampled_from(["", "the disk is full"]),
    sending_stopped=st.sampled_from(["", "the budget is used up"]),
    online=st.booleans(),
    cpu_s=st.floats(0, 100),
    memory_bytes=st.integers(0, 1 << 31),
    on_bus=st.dictionaries(st.sampled_from("ab"), st.integers(0, 10_000)),
)


@settings(deadline=None)
@given(
    st.lists(READINGS, max_size=5),
    st.lists(READINGS, max_size=30),
    st.none() | st.dictionaries(st.sampled_from("abc"), st.floats(0, 1)),
)
def test_any_readings_in_any_order_give_a_verdict_with_words_or_none(
    before: list[Reading], after: list[Reading], expected: dict[str, float] | None
) -> None:
    judge = Judge(LIMITS, sorted(before, key=lambda r: r.at), expected=expected)
    for reading in after:
        verdict = judge.look(reading)
        assert verdict is None or verdict.why


class TestRehearsed:
    """What a rehearsal found is asked of the trial, and no more."""

    SMALLER = World(after=but(decoded={"motor": 300, "body": 200}, not_decoded={"motor": 700}))

    def test_a_database_with_fewer_messages_on_purpose_is_no_harm(self) -> None:
        assert not watched(self.SMALLER)[0].good
        assert watched(self.SMALLER, expected={"motor": 0.3, "body": 1.0})[0].good

    def test_a_plan_that_wants_nothing_of_a_bus_any_more_is_no_harm(self) -> None:
        world = World(after=but(decoded={"body": 200}, not_decoded={"motor": 1000}))
        assert watched(world, expected={"motor": 0.0, "body": 1.0})[0].good

    def test_frames_that_decode_worse_than_in_the_rehearsal_are_harm(self) -> None:
        world = World(after=but(decoded={"motor": 100, "body": 200}, not_decoded={"motor": 900}))
        assert not watched(world, expected={"motor": 0.3, "body": 1.0})[0].good

    def test_filters_that_let_nothing_of_a_bus_through_that_lives_are_harm(self) -> None:
        world = World(after=but(decoded={"body": 200}, on_bus={"motor": 1000}))

        verdict, _ = watched(world, expected={"motor": 0.5, "body": 1.0})

        assert not verdict.good
        assert "bus motor: none of 30,000 frames on it passes" in verdict.why

    def test_a_bus_that_is_silent_is_not_judged_by_what_was_expected(self) -> None:
        world = World(after=but(decoded={"body": 200}, on_bus={"motor": 0}))
        assert watched(world, expected={"motor": 0.5, "body": 1.0})[0].good


class TestUnjudged:
    """What there was no occasion to judge is said, and is not harm."""

    def test_offline(self) -> None:
        verdict, _ = watched(WELL["no link"])
        assert verdict.unjudged == ("offline: uploading could not be judged",)
        assert verdict.why.endswith("; offline: uploading could not be judged")

    def test_online_with_nothing_to_send_yet(self) -> None:
        verdict, _ = watched(World(after=but(acknowledged=0)))
        assert verdict.unjudged == ("nothing was acknowledged: uploading could not be judged",)

    def test_one_silent_bus(self) -> None:
        verdict, _ = watched(WELL["a bus that fell silent"])
        assert verdict.unjudged == ("bus body was silent: decoding could not be judged",)

    def test_no_frames_at_all(self) -> None:
        verdict, _ = watched(WELL["all buses fell silent"])
        assert "no frames came: decoding could not be judged" in verdict.unjudged

    def test_a_handful_of_frames(self) -> None:
        world = World(after=but(decoded={"body": 200}, not_decoded={"motor": 0.5}))
        verdict, _ = watched(world)
        assert verdict.good
        assert verdict.unjudged == ("bus motor had 60 frames only: decoding could not be judged",)

    def test_a_trial_of_some_seconds(self) -> None:
        short = dataclasses.replace(LIMITS, trial_s=5.0)
        verdict, _ = watched(World(after=but(cpu_percent=300)), limits=short)
        assert verdict.good
        assert "the trial was too short to judge the CPU" in verdict.unjudged


class TestAlone:
    """A process that starts in the middle of a trial knows nothing of before."""

    @pytest.mark.parametrize(
        "name",
        [
            "the ledger does not close",
            "CPU",
            "memory",
            "a storm of triggers",
            "batches are refused",
            "nothing is sent any more",
        ],
    )
    def test_what_can_be_judged_alone_is(self, name: str) -> None:
        assert not watched(HARM[name][0], alone=True)[0].good

    def test_a_plan_that_decodes_nothing_is_harmful(self) -> None:
        world = World(after=but(decoded={}, not_decoded={"motor": 1000}))

        verdict, _ = watched(world, alone=True)

        assert not verdict.good
        assert matches(verdict.why, "none of .* frames is decoded")

    def test_a_bus_without_a_database_that_wakes_first_is_no_harm(self) -> None:
        judge = Judge(LIMITS)
        verdict = None
        for second in range(1, TRIAL_S + 2):
            reading = World().at(SWITCH_S + second)
            awake = {"motor": 1000 * max(0, second - 20)}
            reading = dataclasses.replace(reading, decoded=awake, not_decoded={"x": 500 * second})
            verdict = judge.look(reading)
        assert verdict is not None
        assert verdict.good, verdict.why

    def test_a_plan_that_wants_nothing_decoded_is_not(self) -> None:
        world = World(after=but(decoded={}, not_decoded={"motor": 1000}))
        assert watched(world, alone=True, expected={"motor": 0.0})[0].good

    def test_a_plan_that_decodes_a_little_is_not(self) -> None:
        world = World(after=but(decoded={"motor": 1}, not_decoded={"motor": 1000}))
        assert watched(world, alone=True)[0].good

    def test_a_spool_that_is_full_may_have_been_so_for_days(self) -> None:
        assert watched(HARM["the spool gives up what is not sent"][0], alone=True)[0].good

    def test_a_bus_that_nobody_knew_before_is_judged_so_too(self) -> None:
        world = World(before=but(decoded={}), after=but(decoded={}, not_decoded={"motor": 1000}))
        assert not watched(world, expected={"motor": 1.0})[0].good


class TestTime:
    def test_a_computer_that_sleeps_does_not_pass_a_trial(self) -> None:
        """It was suspended for an hour after ten seconds: nobody looked for that time."""
        verdict, second = watched(World(), gaps=[*[1.0] * 10, 3600.0, *[1.0] * 300])

        assert verdict.good
        assert second > 3600 + TRIAL_S - 20

    def test_compiling_at_the_switch_is_not_counted(self) -> None:
        world = World()
        judge = Judge(LIMITS, [world.at(SWITCH_S - 5), world.at(SWITCH_S)])
        verdict = None
        for second in range(1, 300):
            reading = world.at(SWITCH_S + second)
            burnt = min(second, 4) * 1.0
            verdict = judge.look(dataclasses.replace(reading, cpu_s=reading.cpu_s + burnt))
            if verdict is not None:
                break
        assert verdict is not None
        assert verdict.good, verdict.why

    @pytest.mark.parametrize(
        "change",
        [
            {"spool_trouble": "the disk is full"},
            {"differences": ("a = 1, but b = 2",)},
            {"sending_stopped": "the budget is used up"},
            {"memory_bytes": 1 << 31},
        ],
    )
    def test_what_passes_within_two_readings_is_no_harm(self, change: Any) -> None:
        world = World()
        judge = Judge(LIMITS, [world.at(SWITCH_S - 5), world.at(SWITCH_S)])
        verdict = None
        for second in range(1, 300):
            reading = world.at(SWITCH_S + second)
            if second % 10 in (7, 8):
                reading = dataclasses.replace(reading, **change)
            if (verdict := judge.look(reading)) is not None:
                break
        assert verdict is not None
        assert verdict.good, verdict.why

    def test_a_trial_does_not_end_well_while_something_begins_to_go_wrong(self) -> None:
        world = World()
        judge = Judge(LIMITS, [world.at(SWITCH_S - 5), world.at(SWITCH_S)])
        for second in range(1, TRIAL_S + 1):
            assert judge.look(world.at(SWITCH_S + second)) is None
        full = [
            dataclasses.replace(world.at(SWITCH_S + TRIAL_S + s), spool_trouble="the disk is full")
            for s in (1, 2, 3)
        ]

        assert judge.look(full[0]) is None
        assert judge.look(full[1]) is None
        assert judge.look(full[2]) == Verdict(good=False, why="the disk is full")

    def test_a_reading_twice_or_from_the_past_is_left_out(self) -> None:
        world = World(after=but(spool_trouble="the disk is full"))
        judge = Judge(LIMITS, [world.at(SWITCH_S - 5), world.at(SWITCH_S)])
        for second in (3, 3, 2, 1, 3):
            assert judge.look(world.at(SWITCH_S + second)) is None


def test_a_burst_of_events_in_one_second_is_a_storm_already() -> None:
    world = World()
    judge = Judge(LIMITS, [world.at(SWITCH_S - 5), world.at(SWITCH_S)])
    judge.look(world.at(SWITCH_S + 1))
    reading = world.at(SWITCH_S + 2)

    verdict = judge.look(dataclasses.replace(reading, events=reading.events + 61))

    assert verdict is not None
    assert not verdict.good


def test_a_reading_is_made_of_the_ledger() -> None:
    ledger = Ledger()
    ledger.add("bus", "motor", received=9, read=9, decoded=5, unknown=1, undecodable=2, remote=1)
    ledger.add("bus", "body", received=1, read=1, decoded=1)
    ledger.add("campaign", "a", offered=7, kept=5, thinned=2, events=3)
    ledger.add("campaign", "b", offered=1, kept=1)
    ledger.add("uplink", "cloud", kept=9, spooled=5, lost_disk=4)
    ledger.add("uplink", "cloud", acknowledged=2, evicted=1, quarantined=2)
    ledger.add("uplink", "house", kept=9, memory=8)

    reading = reading_of(
        BootNs(5),
        ledger.snapshot(),
        spool_trouble="",
        sending_stopped="",
        online=True,
        cpu_s=1.5,
        memory_bytes=1 << 20,
    )

    assert reading.decoded == {"motor": 5, "body": 1}
    assert reading.not_decoded == {"motor": 3, "body": 0}
    assert (reading.offered, reading.kept, reading.events) == (8, 6, 3)
    assert (reading.lost_disk, reading.evicted) == (4, 1)
    assert (reading.acknowledged, reading.quarantined) == (2, 2)
    (unequal,) = reading.differences
    assert unequal.startswith("uplink house: kept = 9, but memory + spooled")
    assert json.dumps(dataclasses.asdict(reading))
