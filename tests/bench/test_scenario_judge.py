"""Expectations against made-up observations: what is decided when, and in which words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.bench.scenario import load_scenario
from agent.bench.scenario.arrived import Samples
from agent.bench.scenario.figures import Comparison, Figure, Figures
from agent.bench.scenario.judge import Finding, judge, words
from agent.bench.scenario.model import (
    Complete,
    CountIs,
    EventArrives,
    Frames,
    LedgerCloses,
    Recovered,
    SameAsDecoded,
    SamplesAre,
    UpdateEnds,
)
from agent.bench.scenario.seen import Seen, StepSeen
from agent.bench.scenario.verdict import Judged, Verdict
from agent.ledger import Counts, Ledger


def ledger(**uplink: int) -> Counts:
    book = Ledger()
    book.add("bus", "can.0", received=100, read=90, dropped=10, decoded=90)
    book.add("uplink", "cloud", **uplink)
    return book.snapshot()


STATUS = {
    "health": {"can0": {"silent": {"messages": 2}}, "can1": {"silent": {"messages": 3}}},
    "uplinks": [{"name": "cloud", "retries": 4, "why": "nothing waits"}],
}
FIGURES = Figures(
    [ledger(kept=7, spooled=7, waiting=2, evicted=1), ledger(kept=5, spooled=5, waiting=3)],
    STATUS,
    {"frames": 200},
)


def now(at_s: float = 5.0, **more: Any) -> Seen:
    return Seen(at_s, over=False, figures=FIGURES, **more)


def end(**more: Any) -> Seen:
    return Seen(30.0, over=True, figures=FIGURES, looks=120, **more)


class TestFigures:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("uplink.cloud.kept", 12),  # of both processes
            ("uplink.cloud.waiting", 3),  # a level: of the newest one
            ("uplink.*.evicted", 1),
            ("bus.can.0.received", 200),
            ("bus.can1.received", None),
            ("bench.frames", 200),
            ("status.health.*.silent.messages", 5),
            ("status.uplinks.cloud.retries", 4),
            ("status.uplinks.*.retries", 4),
            ("status.uplinks.cloud.why", None),
            ("status.nothing.of.it", None),
        ],
    )
    def test_a_figure_is_found_by_its_name(self, name: str, value: float | None) -> None:
        assert Figure.read(name).of(FIGURES) == value

    @pytest.mark.parametrize(
        ("condition", "holds"),
        [
            ("uplink.cloud.kept >= 12", True),
            ("uplink.cloud.kept > 12", False),
            ("uplink.cloud.kept == 12.0", True),
            ("uplink.cloud.kept<1_000", True),
            ("status.nothing <= 5", False),  # what is not there is not small
        ],
    )
    def test_a_condition_compares(self, condition: str, holds: bool) -> None:
        assert Comparison.read(condition).holds(FIGURES) is holds


class TestLedger:
    def test_it_is_decided_at_the_end(self) -> None:
        assert judge(LedgerCloses(), now()).state == "open"
        assert judge(LedgerCloses(), end()) == Finding(
            "ok", "the ledger closes", "it closed in each of 120 looks"
        )

    def test_one_look_in_which_it_did_not_close_is_enough(self) -> None:
        found = judge(LedgerCloses(), now(open_ledgers=["at 3.2 s: bus can0: 1, but 2"]))

        assert (found.state, found.seen) == ("wrong", "at 3.2 s: bus can0: 1, but 2")


def run(
    *gaps: Mapping[str, Any], number: int = 1, stop: str = "clean", samples: int = 50
) -> dict[str, Any]:
    return {
        "run": number,
        "end": stop,
        "samples": samples,
        "batches": 3,
        "evicted_samples": 4,
        "uplinks": [{"lost_on_board": 6}],
        "gaps": list(gaps),
    }


def answer(*runs: Mapping[str, Any]) -> dict[str, Any]:
    return {"runs": list(runs), "unreadable": {}}


MISSING = {"kind": "missing", "text": "batch 3 of lane telemetry is missing with 120 samples"}
EVICTED = {"kind": "evicted", "text": "the vehicle evicted batch 2"}
EMPTY = {"kind": "empty", "text": "batch 4 had nothing"}


class TestComplete:
    def test_what_the_cloud_misses_is_named_with_its_run(self) -> None:
        found = judge(Complete(), end(completeness=answer(run(), run(MISSING, number=2))))

        assert found.state == "wrong"
        assert found.seen == "run 2: batch 3 of lane telemetry is missing with 120 samples"

    def test_a_batch_that_had_nothing_is_no_gap(self) -> None:
        found = judge(Complete(), end(completeness=answer(run(EMPTY, stop="cut"), run())))

        assert found.state == "ok"
        assert found.seen == "100 samples in 6 batches, none is missing"

    @pytest.mark.parametrize(("allow", "state"), [((), "wrong"), (("evicted",), "ok")])
    def test_what_was_given_up_and_named_may_be_allowed(
        self, allow: Sequence[Any], state: str
    ) -> None:
        found = judge(Complete(allow=list(allow)), end(completeness=answer(run(EVICTED))))

        assert found.state == state
        assert ("evicted and counted: 4" in found.seen) == (state == "ok")

    @pytest.mark.parametrize(
        ("completeness", "says"),
        [
            (None, "nothing has arrived at the cloud"),
            (answer(run(samples=0)), "no sample has arrived"),
            (answer(run(stop="running")), "the last ledger of the agent is not there"),
            (answer(run()) | {"unreadable": {"b-1": "damaged"}}, "b-1: damaged"),
        ],
    )
    def test_nothing_is_complete_that_nobody_can_tell(
        self, completeness: Mapping[str, Any] | None, says: str
    ) -> None:
        found = judge(Complete(), end(completeness=completeness))

        assert found.state == "wrong"
        assert says in found.seen

    def test_the_agents_own_count_is_held_against_it(self) -> None:
        seen = end(completeness=answer(run()), differences=["campaign a kept 5, but 4 are here"])

        assert judge(Complete(), seen).seen == "campaign a kept 5, but 4 are here"


@pytest.mark.parametrize(("allowed", "state"), [(0, "wrong"), (20, "ok"), (19, "wrong")])
def test_frames_that_were_sent_were_read(allowed: int, state: str) -> None:
    found = judge(Frames(lost_at_most=allowed), end())

    assert (found.state, found.seen) == (
        state,
        "the vehicle sent 200 frames, the agent read 180",
    )


HOT = {"kind": "trigger", "name": "hot", "complete": True}
HALF = {"kind": "trigger", "name": "hot", "complete": False}
TRIP = {"kind": "trip", "name": "drive", "complete": True}


class TestEvents:
    def test_one_is_found_by_its_name_or_its_kind(self) -> None:
        assert judge(EventArrives(name="hot"), end(events=[HOT, TRIP])).state == "ok"
        assert judge(EventArrives(name="trip"), end(events=[HOT, TRIP])).state == "ok"

    def test_those_that_did_arrive_are_named(self) -> None:
        found = judge(EventArrives(name="cold"), end(events=[TRIP, HOT]))

        assert (found.state, found.seen) == (
            "wrong",
            "it did not arrive; those that did: drive, hot",
        )

    def test_one_without_its_end_does_not_count(self) -> None:
        found = judge(EventArrives(name="hot"), end(events=[HALF]))

        assert (found.state, found.seen) == ("wrong", "0 whole, 1 without its end")

    def test_it_is_decided_when_it_comes_or_when_its_time_is_over(self) -> None:
        expect = EventArrives(name="hot", by=10)

        assert judge(expect, now(5)).state == "open"
        assert judge(expect, now(5, events=[HOT])).state == "ok"
        assert judge(expect, now(10)).state == "wrong"

    def test_too_many_are_told_at_once(self) -> None:
        expect = EventArrives(name="hot", at_most=1)

        assert judge(expect, now(events=[HOT])).state == "open"
        assert judge(expect, now(events=[HOT, HOT])).state == "wrong"
        assert judge(expect, end(events=[HOT])).state == "ok"


class TestCounts:
    @pytest.mark.parametrize(
        ("bounds", "state"),
        [
            ({"equals": 12}, "ok"),
            ({"equals": 11}, "wrong"),
            ({"at_least": 12, "at_most": 12}, "ok"),
            ({"at_most": 11}, "wrong"),
            ({"at_least": 13}, "wrong"),
        ],
    )
    def test_it_is_judged_at_the_end(self, bounds: Mapping[str, Any], state: str) -> None:
        expect = CountIs(of="uplink.cloud.kept", **bounds)

        assert judge(expect, now()).state == "open"
        assert judge(expect, end()).state == state

    def test_what_is_reached_in_time_may_be_gone_at_the_end(self) -> None:
        expect = CountIs(of="uplink.cloud.waiting", at_least=3, by=8)

        assert judge(expect, now(2)).state == "ok"

    def test_what_is_not_reached_in_time_is_wrong_from_then_on(self) -> None:
        expect = CountIs(of="uplink.cloud.waiting", at_least=4, by=8)

        assert judge(expect, now(7.9)).state == "open"
        assert judge(expect, now(8)).state == "wrong"

    def test_a_figure_that_is_not_there_is_no_nought(self) -> None:
        found = judge(CountIs(of="uplink.clod.evicted", equals=0), end())

        assert (found.state, found.seen) == ("wrong", "there is no such figure")


UPDATES = [
    {"what": "committed", "bundle": "bench 1", "why": "well for 3 s"},
    {"what": "refused", "bundle": "bench 3", "why": "none of 9 frames is in the database"},
]


@pytest.mark.parametrize(
    ("expect", "state"),
    [
        (UpdateEnds(what="committed"), "ok"),
        (UpdateEnds(what="committed", bundle="bench 1"), "ok"),
        (UpdateEnds(what="committed", bundle="bench 2"), "wrong"),
        (UpdateEnds(what="refused", why="is in the database"), "ok"),
        (UpdateEnds(what="refused", why="tampered"), "wrong"),
        (UpdateEnds(what="committed", at_most=0, at_least=0), "wrong"),
        (UpdateEnds(what="rolled back", at_most=0, at_least=0), "ok"),
    ],
)
def test_updates_are_found_by_what_became_of_which(expect: UpdateEnds, state: str) -> None:
    assert judge(expect, end(updates=UPDATES)).state == state


def test_what_the_vehicle_told_of_updates_is_shown() -> None:
    found = judge(UpdateEnds(what="rolled back"), end(updates=UPDATES[:1]))

    assert found.seen == "the vehicle told: bench 1 committed (well for 3 s)"


SIGNALS = {
    "EEC1.EngineSpeed@0": Samples(10, 9000.0, 650.0, 1500.0),
    "EEC1.EngineSpeed@3": Samples(5, 0.0, None, None),  # nothing but "not available"
    "ET1.Temperature": Samples(3, 270.0, 80.0, 109.0),
}


class TestSamples:
    @pytest.mark.parametrize(
        ("expect", "state"),
        [
            (SamplesAre(signal="EEC1.EngineSpeed", equals=15), "ok"),
            (SamplesAre(signal="EEC1.EngineSpeed", min=600, max=1500), "ok"),
            (SamplesAre(signal="EEC1.EngineSpeed", max=1499), "wrong"),
            (SamplesAre(signal="EEC1.EngineSpeed", min=651, at_least=1), "wrong"),
            (SamplesAre(signal="*.Temp*", at_most=2), "wrong"),
            (SamplesAre(signal="ET2.*", at_least=1), "wrong"),
        ],
    )
    def test_they_are_judged_by_number_and_value(self, expect: SamplesAre, state: str) -> None:
        assert judge(expect, end(signals=SIGNALS)).state == state

    def test_what_was_seen_is_said_with_its_bounds(self) -> None:
        found = judge(SamplesAre(signal="EEC1.*", min=0, max=1), end(signals=SIGNALS))

        assert found.expected == "samples of EEC1.*: none is below 0 or above 1"
        assert found.seen == "15 samples of 2 signals from 650 to 1500"

    def test_bounds_alone_ask_for_a_sample(self) -> None:
        assert judge(SamplesAre(signal="ET2.*", max=5), end(signals=SIGNALS)).state == "wrong"


def test_a_recording_is_compared_signal_by_signal() -> None:
    assert judge(SameAsDecoded(), end(compared=(), signals=SIGNALS)).state == "ok"
    assert judge(SameAsDecoded(), end(compared=["A.B: 3 samples, 2 here"])).seen.startswith("A.B")
    assert judge(SameAsDecoded(), end()).state == "wrong"


class TestRecovery:
    EXPECT = Recovered(after="link-down", within=5)

    @pytest.mark.parametrize(
        ("step", "at_s", "state"),
        [
            (StepSeen(9, "link-down", 1.0, 4.0, 2.0), 8, "open"),  # it may come again
            (StepSeen(9, "link-down", 1.0, 4.0, 6.0), 11, "wrong"),
            (StepSeen(9, "link-down", 1.0, 4.0), 8, "open"),
            (StepSeen(9, "link-down", 1.0, 4.0), 10, "wrong"),
            (StepSeen(9, "link-down", 1.0), 100, "open"),
            (StepSeen(9, "bus-off", 1.0, 2.0), 100, "open"),
        ],
    )
    def test_it_is_late_when_it_is(self, step: StepSeen, at_s: float, state: str) -> None:
        assert judge(self.EXPECT, now(at_s, steps=[step])).state == state

    def test_at_the_end_it_was_in_time_or_not(self) -> None:
        good = StepSeen(9, "link-down", 1.0, 4.0, 2.0)
        never = StepSeen(14, "link-down", 8.0, 9.0)

        assert judge(self.EXPECT, end(steps=[good])).state == "ok"
        found = judge(self.EXPECT, end(steps=[good, never]))
        assert found.state == "wrong"
        assert found.seen == "over at 9.0 s, and nothing worked again since (line 14)"


def test_every_expectation_has_words() -> None:
    assert (
        words(CountIs(of="bus.*.dropped", at_least=1, by=3)) == "bus.*.dropped: at least 1 by 3 s"
    )
    assert words(UpdateEnds(what="refused", bundle="b*", why="bad", at_most=2)) == (
        'updates of b* that are refused because "bad": 1 to 2'
    )
    assert words(Complete(allow=["lost"])).endswith("but for what was lost, and counted")


class TestVerdict:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "mine.toml"
        path.write_text(
            'version = 1\nname = "mine"\n\n[[step]]\ndo = "link-down"\n\n'
            '[[expect]]\nthat = "frames"\n\n[[expect]]\nthat = "event"\nname = "hot"\n'
        )
        return path

    def test_what_is_wrong_is_told_with_its_line_and_note(self, path: Path) -> None:
        judged = [
            Judged(7, "frames", Finding("ok", "the agent read every frame", "10")),
            Judged(10, "event", Finding("wrong", "event hot", "none"), 4.5, "it was warm"),
        ]
        verdict = Verdict(load_scenario(path), judged, [StepSeen(4, "link-down", 1, 2)])

        text = "\n".join(verdict.lines())

        assert "  ok     the agent read every frame: 10\n" in text
        assert f"  WRONG  event hot: none\n         (it was warm)\n         {path}:10\n" in text
        assert "WRONG: 1 of what mine expects is not so." in text
        assert verdict.status == 1

    def test_a_step_that_failed_is_wrong_too(self, path: Path) -> None:
        verdict = Verdict(load_scenario(path), [], [StepSeen(4, "link-down", failed="no link")])

        assert verdict.status == 1
        assert f"{path}:4" in "\n".join(verdict.lines())

    def test_json_says_the_same(self, path: Path) -> None:
        judged = [Judged(7, "frames", Finding("ok", "every frame", "10"))]
        told = Verdict(load_scenario(path), judged, [], ["the agent ended"]).as_json()

        assert told["good"] is False
        assert told["trouble"] == ["the agent ended"]
        assert told["expectations"][0]["line"] == 7
