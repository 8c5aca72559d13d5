"""Raw frames, reports and events in the spool: counted, found again, last to be given up."""

import errno
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from agent.batch import BatchReader, read_events, read_reports
from agent.blocks import Event, Reports, TimeBase
from agent.clock import SECOND
from agent.spool.outbox import Parcel
from agent.spool.store import StreamKey
from agent.spool.survey import look, places, verify
from tests.spool.car import (
    CLOUD,
    EVENT,
    RAW,
    Car,
    Limits,
    content,
    contents,
    frames,
    records,
    serials,
)
from tests.spool.fakefs import Before, Disk

REPORT = StreamKey("report", ("cloud",))


def reports(
    numbers: Iterable[int], *, clock: TimeBase = "boot", size: int = 8, awake: bool = True
) -> Reports:
    """Reports that carry these numbers, one each, a second apart."""
    values = list(numbers)
    times = np.array([SECOND * value + 1 for value in values], np.int64)
    bodies = tuple(value.to_bytes(8, "big") + bytes(size - 8) for value in values)
    return Reports("gbt32960-2016", times, bodies, clock, awake=awake)


def reported(parcel: Parcel) -> list[int]:
    """What the reports in a batch carry."""
    found = list(read_reports(parcel.path))
    times = [time for each in found for time in each.time.tolist()]
    assert all(time % SECOND == 1 for time in times)  # to the nanosecond
    return [int.from_bytes(body[:8], "big") for each in found for body in each.bodies]


def event(name: str, *, complete: bool = False) -> Event:
    return Event(
        {
            "kind": "trigger",
            "name": name,
            "id": name,
            "campaign": "hot",
            "time": 5_000_000,
            "clock": "boot",
            "complete": complete,
        }
    )


def works(operation: int, what: str) -> None:
    """A disk on which everything works."""


def refuses(word: str) -> Before:
    """A disk that does not do this one thing."""

    def before(_operation: int, what: str) -> None:
        if what.partition(" ")[0] == word:
            raise OSError(errno.EIO, os.strerror(errno.EIO), what)

    return before


def names(parcel: Parcel) -> list[str]:
    return [event["name"] for event in read_events(parcel.path)]


def test_a_frame_counts_as_one_sample(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [RAW])
    car.store.add({RAW: [frames(range(5, 40)), frames(range(40, 105)), serials(range(5))]})
    car.check()
    assert car.counts()["memory"] == 105
    car.commit()
    assert car.counts()["spooled"] == 105

    car.end()
    (parcel,) = car.parcels()
    assert parcel.samples == 105
    assert content(parcel.path) == Counter(range(105))
    scan = BatchReader(parcel.path).scan()
    assert scan.whole
    assert scan.footer is not None
    assert (scan.samples, scan.footer["frames"], scan.footer.get("events")) == (105, 100, None)
    (_, ledger) = records(parcel.path, "ledger")
    assert ledger["stream"] == {"samples": 105}


def test_frames_and_events_left_open_are_found_again(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [RAW, EVENT])
    car.store.add({RAW: [frames(range(30))], EVENT: [event("begun")]})
    car.commit()
    car.store.close()  # the process is gone

    car = Car(tmp_path / "spool", [RAW, EVENT])
    car.check()
    assert car.counts()["found"] == car.counts()["waiting"] == 30
    alone, raw = car.parcels()
    assert (names(alone), alone.samples) == (["begun"], 0)
    assert (content(raw.path), raw.samples) == (Counter(range(30)), 30)
    footers = [BatchReader(parcel.path).scan().footer or {} for parcel in (alone, raw)]
    assert [(f["recovered"], f.get("events"), f.get("frames")) for f in footers] == [
        (True, 1, None),
        (True, None, 30),
    ]
    car.end()


def test_an_event_is_sent_as_soon_as_it_is_complete(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [EVENT, CLOUD])
    car.store.add({EVENT: [event("hot"), serials(range(3))], CLOUD: [serials(range(3, 5))]})
    car.commit()
    car.later(1)
    assert car.parcels() == []

    car.store.add({EVENT: [serials(range(5, 9)), event("hot", complete=True)]})
    car.commit()
    (parcel,) = car.parcels()  # and nothing of the other stream
    assert names(parcel) == ["hot", "hot"]
    assert parcel.samples == 7
    (_, ledger) = records(parcel.path, "ledger")
    assert ledger["stream"] == {"samples": 7, "events": 2}

    car.store.add({EVENT: [serials(range(9, 12))]})
    car.later(1)
    assert len(car.parcels()) == 1  # the next one has its own time
    car.end()


def test_an_event_alone_makes_a_batch(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [EVENT])
    car.store.add({EVENT: [event("begun")]})
    car.later(1)
    assert car.parcels() == []
    car.later(60)
    assert [names(parcel) for parcel in car.parcels()] == [["begun"]]

    car.store.add({EVENT: [event("last")]})
    car.end()
    assert [names(parcel) for parcel in car.parcels()] == [["begun"], ["last"]]
    first, last = (BatchReader(parcel.path) for parcel in car.parcels())
    assert last.header["previous"] == first.header["sequence"]
    assert [entry["final"] for entry in records(last.path, "ledger")] == [False, True]


@pytest.mark.parametrize("what", ["write_at", "sync"])
def test_an_event_that_the_disk_refuses_waits(tmp_path: Path, what: str) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [EVENT], fs=disk)
    car.store.add({EVENT: [event("first")]})
    car.commit()
    disk.before = refuses(what)
    car.store.add({EVENT: [event("second", complete=True)]})
    car.commit()
    assert car.store.trouble != ""

    disk.before = works
    for _ in range(3):
        car.later(1)
    assert car.store.trouble == ""
    told = [name for parcel in car.parcels() for name in names(parcel)]
    assert sorted(told) == ["first", "second"]
    car.end()


def test_events_outlive_the_rows_that_memory_has_no_room_for(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [RAW], fs=disk, limits=Limits(memory_mb=1))
    disk.before = refuses("write_at")
    rounds, each = 40, 3_000  # each some 69 kB
    for number in range(rounds):
        car.store.add(
            {RAW: [frames(range(number * each, (number + 1) * each)), event(f"e{number}")]}
        )
        car.commit()
    assert car.counts()["lost_disk"] > 0

    disk.before = works
    car.later(1)
    car.later(1)
    car.end()
    lost = car.counts()["lost_disk"]
    assert contents(car.parcels()) == Counter(range(lost, rounds * each))  # the newest
    told = [name for parcel in car.parcels() for name in names(parcel)]
    assert told == [f"e{number}" for number in range(rounds)]


def test_a_look_into_the_folder_knows_frames_and_events(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [RAW, EVENT])
    car.store.add({RAW: [frames(range(5, 35))], EVENT: [event("begun")]})
    car.commit()
    found = [look(place) for place in places(tmp_path / "spool")]
    raw = max((f for f in found if f is not None), key=lambda f: f.samples)
    assert (raw.samples, raw.first_ns, raw.last_ns) == (30, 5_000_000, 34_000_000)
    car.end()
    for place in places(tmp_path / "spool"):
        told = verify(place, [place])
        assert told is not None
        assert told[0] == []
        seen = look(place)
        assert seen is not None
        assert (seen.samples, seen.first_ns) in {(30, 5_000_000), (0, None)}


def test_reports_count_as_samples_and_come_back_as_they_were(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [REPORT])
    car.store.add({REPORT: [reports(range(5)), reports([])]})
    car.store.add({REPORT: [reports(range(5, 12))]})
    car.check()
    assert car.counts()["memory"] == 12
    car.commit()
    assert car.counts()["spooled"] == 12
    seen = [look(place) for place in places(tmp_path / "spool")]
    assert [(s.samples, s.first_ns, s.last_ns) for s in seen if s] == [(12, 1, 11_000_000_001)]

    car.end()
    (parcel,) = car.parcels()
    assert (parcel.lane, parcel.samples) == ("report", 12)
    assert reported(parcel) == list(range(12))
    scan = BatchReader(parcel.path).scan()
    assert scan.footer is not None
    assert (scan.samples, scan.footer["reports"], scan.footer.get("frames")) == (12, 12, None)
    (place,) = places(tmp_path / "spool")
    assert verify(place, [place]) == ([], 12)


def test_reports_left_open_are_found_again(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [REPORT])
    car.store.add({REPORT: [reports(range(7))]})
    car.commit()
    car.store.close()  # the process is gone

    car = Car(tmp_path / "spool", [REPORT])
    car.check()
    assert car.counts()["found"] == car.counts()["waiting"] == 7
    (parcel,) = car.parcels()
    assert (reported(parcel), parcel.samples) == (list(range(7)), 7)
    footer = BatchReader(parcel.path).scan().footer or {}
    assert (footer["recovered"], footer["reports"]) == (True, 7)
    car.end()


def test_reports_wait_no_longer_than_samples(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [REPORT])
    car.store.add({REPORT: [reports(range(3))]})
    car.commit()
    car.later(59)
    assert car.parcels() == []
    car.later(2)
    assert [reported(parcel) for parcel in car.parcels()] == [[0, 1, 2]]
    car.end()


def test_word_that_no_more_reports_come_ends_no_batch(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [REPORT])
    car.store.add({REPORT: [reports(range(3))]})
    car.commit()
    for nothing in ([reports([], awake=False)], []):
        car.store.add({REPORT: nothing})
        car.commit()
    car.store.add({REPORT: [reports(range(3, 5))]})
    car.commit()
    car.end()
    assert [reported(parcel) for parcel in car.parcels()] == [list(range(5))]


def test_reports_of_a_recording_lie_in_chunks_of_its_own_time(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [REPORT])
    car.store.add({REPORT: [reports(range(30), clock="recorded"), event("begun")]})
    car.end()
    (parcel,) = car.parcels()
    assert reported(parcel) == list(range(30))
    assert [len(record) for record in records(parcel.path, "reports")] == [1] * 30
    assert names(parcel) == ["begun"]


def test_reports_that_memory_has_no_room_for_are_counted(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    car = Car(tmp_path / "spool", [REPORT], fs=disk, limits=Limits(memory_mb=1))
    disk.before = refuses("write_at")
    for number in range(200):
        car.store.add({REPORT: [reports([number], size=10_000)]})
        car.commit()
    lost = car.counts()["lost_disk"]
    assert 90 < lost < 110

    disk.before = works
    car.later(1)
    car.later(1)
    car.end()
    left = [number for parcel in car.parcels() for number in reported(parcel)]
    assert left == list(range(car.counts()["lost_disk"], 200))  # the newest


def test_streams_of_one_lane_seal_by_themselves(tmp_path: Path) -> None:
    other = StreamKey("event", ("cloud", "depot"))
    car = Car(tmp_path / "spool", [EVENT, other])
    car.store.add({EVENT: [event("mine", complete=True)], other: [event("other")]})
    car.commit()
    assert [names(parcel) for parcel in car.parcels()] == [["mine"]]
    assert car.parcels("depot") == []
    car.end()
