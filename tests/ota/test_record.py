"""What is remembered, step by step: bounded, and never without what must not be forgotten."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.clock import WallNs
from agent.errors import UpdateError
from agent.ota import record as records
from agent.ota.record import (
    BY_HAND,
    MOST_DONE,
    MOST_REJECTED,
    MOST_REPORTS,
    MOST_STARTS,
    Floor,
    Record,
    Report,
    Trial,
    running,
)
from agent.ota.stored import record_bytes
from tests.ota.life import bundle

ONE, TWO, THREE = bundle(1), bundle(2), bundle(3)
FRESH = Record()
WITH_ONE = Record(current=ONE)
WITH_TWO = Record(current=TWO, previous=ONE)
TRYING = records.accepted(WITH_ONE, TWO)


def report(name: str, why: str = "as measured") -> Report:
    return Report(name, "committed", ONE, why, WallNs(7))


# -- a trial -----------------------------------------------------------------------------------


def test_a_vehicle_begins_with_the_factory_plan() -> None:
    assert running(FRESH) is None
    assert records.started(FRESH) == FRESH
    assert records.stopped(FRESH) == FRESH


def test_what_is_on_trial_runs_until_the_verdict() -> None:
    assert running(TRYING) == TWO
    assert TRYING.current == ONE

    stays = records.committed(TRYING)
    assert (running(stays), stays.previous, stays.trial) == (TWO, ONE, None)

    back = records.rejected(TRYING, "it evicts")
    assert (running(back), back.previous, back.trial) == (ONE, None, None)
    assert [(r.bundle, r.why) for r in back.rejected] == [(TWO, "it evicts")]


def test_the_first_bundle_has_the_factory_plan_before_it() -> None:
    first = records.committed(records.accepted(FRESH, ONE))
    assert running(first) == ONE
    assert first.previous is None
    assert running(records.left(first, BY_HAND)) is None


def test_a_plan_that_ends_the_process_three_times_is_taken_back() -> None:
    record = TRYING
    for _ in range(MOST_STARTS - 1):
        record = records.started(record)
        assert running(record) == TWO

    record = records.started(record, WallNs(5))

    assert running(record) == ONE
    assert [r.bundle for r in record.rejected] == [TWO]
    (told,) = record.reports
    assert (told.what, told.bundle, told.wall) == ("rolled back", TWO, 5)
    assert "started 3 times" in told.why
    assert records.started(record) == record


def test_switching_the_ignition_off_in_a_trial_is_no_crash() -> None:
    record = TRYING
    for _ in range(10):
        record = records.started(records.stopped(record))
    assert record == TRYING
    assert records.stopped(records.stopped(record)).trial == Trial(TWO, 0)


def test_without_a_trial_there_is_no_verdict() -> None:
    with pytest.raises(UpdateError, match="no bundle is on trial"):
        records.committed(WITH_ONE)
    with pytest.raises(UpdateError, match="no bundle is on trial"):
        records.rejected(WITH_ONE, "harm")


def test_what_runs_is_on_trial_or_was_taken_back_is_not_tried() -> None:
    with pytest.raises(UpdateError, match="ev 2 is on trial"):
        records.accepted(TRYING, THREE)
    with pytest.raises(UpdateError, match="ev 1 runs already"):
        records.accepted(WITH_ONE, ONE)
    with pytest.raises(UpdateError, match=r"ev 2 was taken back here before \(it evicts\)"):
        records.accepted(records.rejected(TRYING, "it evicts"), TWO)


def test_a_refused_bundle_changes_nothing_that_runs() -> None:
    record = records.refused(WITH_TWO, THREE, "harmful in the rehearsal")
    assert replace(record, rejected=()) == WITH_TWO
    assert records.refused(record, THREE, "again").rejected[0].why == "again"


# -- going back --------------------------------------------------------------------------------


def test_by_hand_the_way_leads_to_the_bundle_before_and_then_to_the_factory_plan() -> None:
    once = records.left(WITH_TWO, BY_HAND)
    assert (running(once), once.previous) == (ONE, None)
    twice = records.left(once, BY_HAND)
    assert running(twice) is None
    assert [r.bundle for r in twice.rejected] == [TWO, ONE]
    with pytest.raises(UpdateError, match="the factory plan runs"):
        records.left(twice, BY_HAND)


def test_by_hand_a_trial_ends_where_it_began() -> None:
    record = records.left(TRYING, BY_HAND)
    assert running(record) == ONE
    assert [r.bundle for r in record.rejected] == [TWO]


def test_nobody_goes_back_to_a_bundle_that_was_taken_back() -> None:
    assert running(records.left(records.refused(WITH_TWO, ONE, "harm"), BY_HAND)) is None


def test_a_withdrawn_bundle_may_come_again() -> None:
    record = records.withdrawn(WITH_TWO)
    assert running(record) == ONE
    assert record.rejected == ()
    assert running(records.withdrawn(TRYING)) == ONE
    assert running(records.accepted(record, TWO)) == TWO
    with pytest.raises(UpdateError, match="the factory plan runs"):
        records.withdrawn(FRESH)


def test_without_its_archive_the_bundle_before_runs_and_a_report_says_so() -> None:
    record = records.without(WITH_TWO, TWO.sha256, "the archive is damaged", WallNs(5))
    assert (running(record), record.previous, record.rejected) == (ONE, None, ())
    (told,) = record.reports
    assert (told.what, told.bundle, told.wall) == ("rolled back", TWO, 5)
    assert told.why == "it cannot be used: the archive is damaged"


def test_without_any_archive_the_factory_plan_runs() -> None:
    record = records.accepted(WITH_TWO, THREE)
    order = []
    while (bundle := running(record)) is not None:
        order.append(bundle)
        record = records.without(record, bundle.sha256, "damaged")
    assert order == [THREE, TWO, ONE]
    assert [told.bundle for told in record.reports] == order


def test_an_archive_that_does_not_run_goes_without_a_report() -> None:
    record = records.without(WITH_TWO, ONE.sha256, "damaged")
    assert record == Record(current=TWO)
    assert records.without(record, ONE.sha256, "damaged") == record
    trying = records.without(TRYING, ONE.sha256, "damaged")
    assert (running(trying), trying.current, trying.reports) == (TWO, None, ())


# -- the rest ----------------------------------------------------------------------------------


def test_floors_rise_and_only_other_keys_bring_them_down() -> None:
    record = records.trust(FRESH, {"root": Floor(3, "a"), "targets": Floor(9, "a")}, WallNs(50))
    lower = records.trust(record, {"root": Floor(2, "a")}, WallNs(20))
    assert lower == record
    rotated = records.trust(record, {"targets": Floor(1, "b")}, WallNs(60))
    assert rotated.floors == {"root": Floor(3, "a"), "targets": Floor(1, "b")}
    assert rotated.time_floor == 60


def test_pin_and_requests_and_reports() -> None:
    assert records.pinned(FRESH, on=True).pinned
    assert not records.pinned(records.pinned(FRESH, on=True), on=False).pinned
    record = records.done(records.done(FRESH, "r-1"), "r-2")
    assert records.done(record, "r-1").done == ("r-2", "r-1")
    record = records.reported(records.reported(FRESH, report("a")), report("b"))
    assert [each.id for each in records.told(record, ["a", "c"]).reports] == ["b"]
    assert records.reported(record, report("b")) == record


def test_a_reason_is_one_line_that_can_be_shown_whatever_it_was() -> None:
    record = records.refused(FRESH, ONE, "line\nline\x00\ud800\u202e " + "é" * 5000)
    (entry,) = record.rejected
    assert entry.why.isprintable()
    assert entry.why.startswith("line line??? é")
    assert len(entry.why) == 1000
    record_bytes(records.reported(record, report("a", "\ud800" * 3000)))


def test_what_is_remembered_is_bounded() -> None:
    record = Record(current=bundle(1), previous=bundle(2), trial=Trial(bundle(3), 1))
    for n in range(400):
        record = records.refused(record, bundle(n), "\U0001f697" * 2000)
        record = records.done(record, f"{n:064d}")
        record = records.reported(record, report(f"{n:032d}", "\U0001f697" * 2000))

    assert [r.bundle.version for r in record.rejected] == list(range(400 - MOST_REJECTED, 400))
    assert record.done[0] == f"{400 - MOST_DONE:064d}"
    assert record.reports[0].id == f"{400 - MOST_REPORTS:032d}"
    assert len(record_bytes(record)) < 1 << 20


def test_a_record_for_a_person() -> None:
    assert records.summary(FRESH) == {
        "running": "factory",
        "last_good": "factory",
        "previous": "factory",
        "trial": None,
        "pinned": False,
        "rejected": [],
    }
    shown = records.summary(records.accepted(records.refused(WITH_TWO, ONE, "harm"), THREE))
    assert shown["running"] == "ev 3"
    assert shown["last_good"] == "ev 2"
    assert shown["trial"] == {"bundle": "ev 3", "starts": 1}
    assert shown["rejected"] == [{"bundle": "ev 1", "why": "harm"}]
    msgspec.json.encode(shown)


# -- any order ---------------------------------------------------------------------------------

_STEPS = st.sampled_from(
    [
        "accepted",
        "started",
        "stopped",
        "committed",
        "rejected",
        "left",
        "withdrawn",
        "without",
        "trust",
        "rotate",
    ]
)


@given(steps=st.lists(st.tuples(_STEPS, st.integers(1, 6)), max_size=60))
def test_in_any_order_nothing_that_was_taken_back_runs_and_no_floor_sinks(
    steps: list[tuple[str, int]],
) -> None:
    record = FRESH
    for step, n in steps:
        before = record
        try:
            record = _take(record, step, n)
        except UpdateError:
            assert record == before
        taken_back = {r.bundle.sha256 for r in record.rejected}
        assert {r.bundle.sha256 for r in before.rejected} <= taken_back
        ran = running(record)
        assert ran is None or ran.sha256 not in taken_back
        assert record.time_floor >= before.time_floor
        for role, floor in before.floors.items():
            now = record.floors[role]
            assert now.keys != floor.keys or now.version >= floor.version
        assert record.current is None or record.current != record.previous


def _take(record: Record, step: str, n: int) -> Record:
    match step:
        case "accepted":
            return records.accepted(record, bundle(n))
        case "started":
            return records.started(record)
        case "stopped":
            return records.stopped(record)
        case "committed":
            return records.committed(record)
        case "rejected":
            return records.rejected(record, "harm")
        case "left":
            return records.left(record, BY_HAND)
        case "withdrawn":
            return records.withdrawn(record)
        case "without":
            return records.without(record, bundle(n).sha256, "damaged")
        case "trust":
            keys = record.floors["root"].keys if record.floors else "0"
            return records.trust(record, {"root": Floor(n, keys)}, WallNs(n))
        case _:
            return records.trust(record, {"root": Floor(n, f"{n}")}, WallNs(n))
