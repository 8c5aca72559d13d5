"""Tables in, sealed batches out: exact values, whole chains, a ledger that closes all the time."""

import random
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from agent.batch import BatchReader, read_batch
from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.clock import Quality
from agent.errors import SpoolError
from tests.spool.car import (
    BOTH,
    CLOUD,
    EVENT,
    RAW,
    SERIALS,
    Car,
    Limits,
    StillClock,
    content,
    contents,
    records,
    run_and_identity,
    serials,
)
from tests.spool.fakefs import Disk, fail_at

MIXED = TableSchema(
    "powertrain",
    "Mixed",
    (
        SignalSchema("Signed", "int64", 64, 0.1, -40, "degC"),
        SignalSchema("Unsigned", "uint64", 64, choices=((0, "off"), (1, "on"))),
        SignalSchema("Float", "float64", 64),
        SignalSchema("Text", "bytes", 40),
    ),
    source=0x21,
    branch="Group=3",
)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def test_values_come_back_exactly(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD])
    table = SignalTable(
        MIXED,
        np.array([5_000_000, 7_000_000], np.int64),
        {
            "int64": np.array([[-(1 << 63), (1 << 63) - 1]], np.int64),
            "uint64": np.array([[0, (1 << 64) - 1]], np.uint64),
            "float64": np.array([[0.1, -1e300]], np.float64),
        },
        (np.frombuffer(b"helloworld", np.uint8).reshape(2, 5),),
        "all",
    )
    car.store.add({CLOUD: [table]})
    car.commit()
    car.end()

    (back,) = [t for p in car.parcels() for t in read_batch(p.path)]
    assert back.schema.signals == MIXED.signals
    assert (back.source, back.branch, back.campaign, back.clock) == (0x21, "Group=3", "all", "wall")
    for name in ("Signed", "Unsigned", "Float"):
        assert back.raw[name].tolist() == table.raw[name].tolist()
    assert back.payloads[0].tobytes() == b"helloworld"


def test_the_ledger_closes_after_every_step(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [BOTH, EVENT])
    car.add(BOTH, range(10))
    car.check()
    assert car.counts()["memory"] == 10
    assert car.counts("depot")["memory"] == 10

    car.commit()
    assert car.counts()["spooled"] == car.counts()["waiting"] == 10
    car.add(EVENT, range(10, 15))
    car.later(61)
    assert (car.counts()["batches"], car.counts("depot")["batches"]) == (1, 1)
    car.acknowledge()
    car.check()
    assert car.counts()["acknowledged"] == 10
    assert car.counts("depot")["waiting"] == 10
    car.end()
    assert car.counts()["waiting"] == 5


def test_a_batch_is_sealed_at_its_age(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD])
    car.add(CLOUD, range(3))
    car.commit()
    car.later(59)
    assert car.parcels() == []

    car.later(1)
    assert contents(car.parcels()) == Counter(range(3))


def test_a_batch_is_sealed_at_its_size(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD], limits=Limits(seal_kib=16))
    source = random.Random(1)
    numbers = [source.getrandbits(48) for _ in range(6000)]
    for i in range(0, len(numbers), 500):
        car.add(CLOUD, numbers[i : i + 500])
        car.commit()
    assert len(car.parcels()) == 4
    assert all(16 << 10 <= p.size < 24 << 10 for p in car.parcels())

    car.end()
    assert contents(car.parcels()) == Counter(numbers)


def test_seal_now_seals_what_is_open_and_nothing_later(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD, EVENT])
    car.add(CLOUD, range(3))
    car.commit()

    car.store.seal_now()
    car.commit()
    assert contents(car.parcels()) == Counter(range(3))

    car.add(CLOUD, range(3, 6))
    car.commit()
    assert len(car.parcels()) == 1


def test_while_nothing_is_taken_batches_grow(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD])
    serial = iter(range(1000))
    for _ in range(12):  # minutes without a link
        car.add(CLOUD, [next(serial)])
        car.later(61)
    assert len(car.parcels()) == 1
    car.add(CLOUD, [next(serial)])
    car.later(900)
    assert len(car.parcels()) == 2


def test_the_end_of_a_run_is_told_in_its_last_batch(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD])
    car.add(CLOUD, range(3))
    car.commit()
    car.later(61)
    car.add(CLOUD, range(3, 5))
    car.end()

    first, last = sorted(car.parcels(), key=lambda p: p.path.name)
    assert [r["final"] for r in records(first.path, "ledger")] == [False, False]
    assert [r["final"] for r in records(last.path, "ledger")] == [False, True]
    end = records(last.path, "ledger")[-1]
    assert end["stream"] == {"samples": 5}
    assert end["run"]["uplink"]["cloud"]["spooled"] == 5


def test_a_run_without_samples_leaves_nothing(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD, EVENT])
    car.commit()
    car.end()
    assert car.parcels() == []
    assert list((tmp_path / "spool/open").iterdir()) == []


def test_a_header_says_whose_a_batch_is(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [BOTH])
    car.add(BOTH, range(3))
    car.end()

    (parcel,) = car.parcels()
    header = BatchReader(parcel.path).header
    install, run = run_and_identity(parcel.path)
    assert (header["install"], header["run"], header["lane"]) == (install, run, "telemetry")
    assert (header["sequence"], header["previous"]) == (1, 0)
    assert header["batch_id"] == parcel.batch_id == f"{install}-{run}-telemetry-1"
    assert header["vehicle"] == "car-1"
    assert header["stream"] == "telemetry/cloud+depot"
    assert header["uplinks"] == ["cloud", "depot"]
    assert header["plan"] == "test"
    assert header["boot_id"] == "boot-1"
    assert header["created"]["quality"] == "ntp"
    assert [a["boot_id"] for a in header["anchors"]] == ["boot-1"]


def test_two_uplinks_share_one_file(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [BOTH])
    car.add(BOTH, range(3))
    car.end()
    (a,), (b,) = car.parcels("cloud"), car.parcels("depot")
    assert a.path.samefile(b.path)
    assert list((tmp_path / "spool/open").iterdir()) == []


def test_streams_that_share_a_lane_have_chains_of_their_own(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [BOTH, CLOUD])
    serial = iter(range(100))
    for _ in range(3):
        for key in (BOTH, CLOUD):
            car.add(key, [next(serial)])
        car.store.seal_now()
        car.commit()

    headers = [BatchReader(p.path).header for p in car.parcels()]
    assert sorted(h["sequence"] for h in headers) == [1, 2, 3, 4, 5, 6]
    for name in ("telemetry/cloud+depot", "telemetry/cloud"):
        chain = sorted((h["sequence"], h["previous"]) for h in headers if h["stream"] == name)
        assert [p for _, p in chain] == [0, *(s for s, _ in chain[:-1])]
    assert len(car.parcels("depot")) == 3


def test_thousands_of_tables_arrive(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD, RAW], limits=Limits(seal_kib=64))
    others = [
        TableSchema("powertrain", f"Message{i}", (SignalSchema("Serial", "uint64", 48),))
        for i in range(40)
    ]
    for i in range(3000):
        key = CLOUD if i % 3 else RAW
        car.store.add({key: [serials(range(i * 4, i * 4 + 4), others[i % 40])]})
        if i % 500 == 0:
            car.commit()
    car.end()
    assert contents(car.parcels()) == Counter(range(12_000))
    assert car.counts()["kept"] == car.counts()["spooled"] == 12_000


def test_much_that_waited_in_memory_is_written_in_bounded_chunks_and_batches(
    tmp_path: Path, disk: Disk
) -> None:
    """After an outage of the disk, 24 MiB that hardly pack must not become one chunk."""
    car = Car(tmp_path / "spool", [CLOUD], fs=disk, limits=Limits(seal_kib=1024))
    random_numbers = np.random.default_rng(1)
    disk.before = fail_at(1, 5, 1 << 30)
    expected = 0
    for _ in range(24):
        numbers = random_numbers.integers(0, 1 << 48, 1 << 16).tolist()
        car.add(CLOUD, numbers)
        expected += len(numbers)
    car.commit()
    assert car.store.trouble != ""

    disk.before = lambda _number, _what: None
    car.commit()
    car.end()
    assert car.store.trouble == ""
    assert car.counts()["spooled"] == expected
    assert max(p.size for p in car.parcels()) < 8 << 20
    assert sum(BatchReader(p.path).count_samples() for p in car.parcels()) == expected


def test_memory_is_bounded_while_the_disk_fails_and_the_newest_stays(
    tmp_path: Path, disk: Disk
) -> None:
    car = Car(tmp_path / "spool", [CLOUD, RAW], fs=disk, limits=Limits(memory_mb=1))
    disk.before = fail_at(1, 28, 1 << 30)
    tracemalloc.start()
    try:
        for i in range(200):
            car.store.add({CLOUD: [serials(range(i * 2000, (i + 1) * 2000))]})
            car.check()
            if i % 20 == 0:
                car.commit()
        assert tracemalloc.get_traced_memory()[0] < 8 << 20
    finally:
        tracemalloc.stop()
    assert car.store.status()["memory_bytes"] <= 1 << 20
    lost = car.counts()["lost_disk"]
    assert lost > 0
    assert not car.store.room()

    disk.before = lambda _number, _what: None
    car.commit()
    car.end()
    assert car.store.room()
    assert contents(car.parcels()) == Counter(range(lost, 400_000))


def test_what_comes_after_the_end_is_counted_as_lost(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD])
    car.end()
    car.add(CLOUD, range(3))
    car.check()
    assert car.counts()["lost_end"] == 3


def test_what_the_disk_does_not_take_at_the_end_is_counted_as_lost(
    tmp_path: Path, disk: Disk
) -> None:
    car = Car(tmp_path / "spool", [CLOUD], fs=disk)
    car.add(CLOUD, range(3))
    car.commit()
    car.add(CLOUD, range(3, 5))
    disk.before = fail_at(1, 5, 1 << 30)
    car.store.stop()
    car.check()
    counts = car.counts()
    assert (counts["spooled"], counts["lost_end"], counts["memory"]) == (3, 2, 0)

    disk.before = lambda _number, _what: None
    car.store.close()
    assert contents(Car(tmp_path / "spool", [CLOUD]).parcels()) == Counter(range(3))


def test_a_stream_whose_file_fails_does_not_hold_up_the_others(tmp_path: Path, disk: Disk) -> None:
    car = Car(tmp_path / "spool", [CLOUD, EVENT], fs=disk)

    def no_telemetry(_number: int, what: str) -> None:
        if "create" in what and "telemetry" in what:
            raise OSError(5, "Input/output error")

    disk.before = no_telemetry
    car.add(CLOUD, range(3))
    car.add(EVENT, range(3, 6))
    car.commit()
    car.later(61)
    assert contents(car.parcels()) == Counter(range(3, 6))
    assert car.counts()["memory"] == 3
    assert "Input/output error" in car.store.trouble


def test_a_batch_that_was_given_up_empty_leaves_no_gap_in_the_chain(
    tmp_path: Path, disk: Disk
) -> None:
    """Its header was durable, its first chunk failed: nobody will ever see it."""
    car = Car(tmp_path / "spool", [CLOUD], fs=disk)
    failed = []

    def second_write(_number: int, what: str) -> None:
        if what == "reserve":
            failed.append(1)
        if what == "write_at" and len(failed) == 1:
            failed.append(2)
            raise OSError(5, "Input/output error")

    disk.before = second_write
    car.add(CLOUD, range(3))
    car.commit()
    assert car.store.trouble != ""
    car.commit()
    car.end()
    (parcel,) = car.parcels()
    header = BatchReader(parcel.path).header
    assert (header["sequence"], header["previous"]) == (2, 0)
    assert content(parcel.path) == Counter(range(3))


def test_a_block_that_cannot_be_packed_costs_itself(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD])
    car.add(CLOUD, range(3))
    car.commit()
    nameless = TableSchema("powertrain", "\udc80", SERIALS.signals)
    bad = serials([99], nameless)
    car.store.add({CLOUD: [bad]})
    car.commit()
    car.add(CLOUD, range(3, 6))
    car.end()
    assert car.counts()["lost_disk"] == bad.samples
    assert contents(car.parcels()) == Counter(range(6))


def test_a_jump_of_the_clock_is_noted_and_dates_what_came_before(tmp_path: Path) -> None:
    clock = StillClock()
    clock.known = Quality.UNSYNCHRONISED
    car = Car(tmp_path / "spool", [CLOUD], clock=clock)
    car.add(CLOUD, range(3))
    car.commit()
    clock.known = Quality.GNSS
    car.add(CLOUD, range(3, 6))
    car.end()
    (parcel,) = car.parcels()
    assert [a["quality"] for a in records(parcel.path, "anchor")] == ["gnss"]
    assert {t.clock for t in read_batch(parcel.path)} == {"wall"}


def test_anchors_stay_few_over_many_starts_and_changes(tmp_path: Path) -> None:
    """A vehicle that never gets rid of its last batch must not repeat all boots for ever."""
    for boot in range(30):
        clock = StillClock()
        clock.boot_id = f"boot-{boot}"
        car = Car(tmp_path / "spool", [CLOUD], clock=clock)
        for change in range(10):
            clock.known = Quality.NTP if change % 2 else Quality.UNSYNCHRONISED
            car.add(CLOUD, [boot * 10 + change])
            car.commit()
        while len(car.parcels()) > 2:
            car.acknowledge()
        car.end()
    newest = max(car.parcels(), key=lambda p: p.path.name)
    assert len(BatchReader(newest.path).header["anchors"]) < 10


def test_a_spool_in_use_is_refused_and_free_again_after_a_failed_start(tmp_path: Path) -> None:
    car = Car(tmp_path / "spool", [CLOUD])
    for _ in range(2):
        with pytest.raises(SpoolError, match="another edge-agent is using this spool"):
            Car(tmp_path / "spool", [CLOUD])
    car.end()
    Car(tmp_path / "spool", [CLOUD]).end()


def test_a_folder_that_may_not_be_written_is_refused_in_a_sentence(
    tmp_path: Path, disk: Disk
) -> None:
    disk.before = fail_at(6, 13, 1 << 30)
    with pytest.raises(SpoolError, match="the spool cannot be written: Permission denied"):
        Car(tmp_path / "spool", [CLOUD], fs=disk)
    disk.before = lambda _number, _what: None
    Car(tmp_path / "spool", [CLOUD], fs=disk).end()
