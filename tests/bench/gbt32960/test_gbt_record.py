"""What came from vehicles: counted, kept over a restart, and what is missing is named."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from agent.bench.gbt32960.record import FullError, Record
from agent.bench.gbt32960.vehicle import VehicleRecord
from agent.gbt32960.codec import GBT2016, GBT2025, Codec
from agent.gbt32960.envelope import Frame, request
from agent.gbt32960.signature import append
from tests.bench.gbt32960.platformbench import (
    BEGIN,
    CODECS,
    VIN,
    alarm_item,
    at,
    cell_items,
    login,
    logout,
    report,
    vehicle_item,
)


def kept(frames: Iterable[Frame], folder: Path | None = None) -> Record:
    record = Record(folder)
    for n, frame in enumerate(frames):
        record.take(frame, at(1000 + n), VIN)
    return record


def of(frames: Iterable[Frame]) -> VehicleRecord:
    return kept(frames).vehicles[VIN]


def seconds(*stretches: tuple[int, int, int]) -> list[Frame]:
    """Reports of 2016 in stretches: first, last, step."""
    times = [t for first, last, step in stretches for t in range(first, last + 1, step)]
    return [report(GBT2016, t) for t in times]


# -- what is counted -------------------------------------------------------------------------


def test_live_reports_reissues_and_copies_are_told_apart() -> None:
    vehicle = of(
        [
            report(GBT2016, 0),
            report(GBT2016, 10),
            report(GBT2016, 10, stored=True),
            report(GBT2016, 5, stored=True),
        ]
    )

    counts = vehicle.counts
    assert vehicle.reports == 3
    assert (counts["live"], counts["reissued"], counts["copies"]) == (2, 2, 1)


def test_a_copy_that_was_signed_again_is_a_copy() -> None:
    plain = report(GBT2025, 0)
    signed = [
        request(GBT2025, command, VIN, append(plain.body, 1, bytes([n]) * 32, bytes(32)))
        for n, command in enumerate((0x02, 0x03))
    ]

    vehicle = of(signed)

    assert (vehicle.reports, vehicle.counts["copies"]) == (1, 1)


def test_live_reports_that_go_back_in_time_are_out_of_order() -> None:
    vehicle = of([report(GBT2016, t) for t in (0, 10, 5, 5, 20)])

    assert vehicle.counts["disorder"] == 1


def test_reissues_may_be_older_than_live_reports() -> None:
    vehicle = of([report(GBT2016, 100), report(GBT2016, 10, stored=True), report(GBT2016, 110)])

    assert vehicle.counts["disorder"] == 0


def test_cells_of_split_packs_are_joined_in_any_order() -> None:
    parts = cell_items(450)
    frames = [report(GBT2016, 0, part) for part in reversed(parts)]

    vehicle = of([*frames, report(GBT2016, 10)])

    assert (vehicle.reports, vehicle.counts["joined"], vehicle.incomplete) == (4, 1, 0)


def test_cells_that_did_not_come_are_noticed() -> None:
    parts = cell_items(450)
    vehicle = of([report(GBT2016, 0, parts[0]), report(GBT2016, 10)])

    assert vehicle.incomplete == 1


def test_the_newest_sample_shows_its_packs_whole() -> None:
    vehicle = of([report(GBT2016, 0, part) for part in cell_items(450)])

    (pack,) = vehicle.packs()
    assert dict(pack.cells) == {n: 3000 + n for n in range(1, 451)}


# -- gaps ------------------------------------------------------------------------------------


def test_a_gap_has_a_name() -> None:
    vehicle = of(seconds((0, 0, 10), (180, 300, 10)))

    assert [gap.name for gap in vehicle.gaps(10)] == [
        "2026-01-01 10:00:10 to 10:03:00: 17 reports missing"
    ]


def test_one_report_is_named_as_one() -> None:
    vehicle = of(seconds((0, 20, 10), (40, 50, 10)))

    assert [gap.name for gap in vehicle.gaps(10)] == [
        "2026-01-01 10:00:30 to 10:00:40: 1 report missing"
    ]


def test_a_gap_over_midnight_names_both_days() -> None:
    vehicle = of(seconds((50_000, 50_000, 1), (50_600, 50_600, 1)))

    (gap,) = vehicle.gaps(30)
    assert gap.name == "2026-01-01 23:53:50 to 2026-01-02 00:03:20: 19 reports missing"


def test_reissues_fill_gaps() -> None:
    late = [report(GBT2016, t, stored=True) for t in range(10, 180, 10)]

    vehicle = of([*seconds((0, 0, 10), (180, 200, 10)), *late])

    assert vehicle.gaps(10) == []


def test_nothing_is_missing_after_a_logout() -> None:
    frames = seconds((0, 60, 10))
    frames += [logout(GBT2016, time=at(65)), login(GBT2016, time=at(3600))]
    frames += seconds((3600, 3660, 10))

    assert of(frames).gaps(10) == []


def test_a_broken_link_is_no_logout() -> None:
    frames = [login(GBT2016), *seconds((0, 60, 10)), login(GBT2016, serial=2, time=at(200))]
    frames += seconds((200, 220, 10))

    assert [gap.missing for gap in of(frames).gaps(10)] == [13]


def test_a_parked_vehicle_misses_nothing() -> None:
    on = [report(GBT2016, t) for t in range(0, 100, 10)]
    off = [report(GBT2016, t, vehicle_item(GBT2016, off=True)) for t in range(100, 280, 10)]
    later = [report(GBT2016, t) for t in range(9000, 9050, 10)]

    assert of([*on, *off, *later]).gaps(10) == []
    assert len(of([*on, *off[:5], *later]).gaps(10)) == 1


# -- alarms ----------------------------------------------------------------------------------


def alarmed(codec: Codec, times: Iterable[int], begin: int, end: int) -> list[Frame]:
    return [
        report(
            codec,
            t,
            vehicle_item(codec),
            *([alarm_item(codec, 3, ["insulation"])] if begin <= t < end else []),
        )
        for t in times
    ]


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: c.layout.name)
def test_an_alarm_with_every_second_around_it_is_complete(codec: Codec) -> None:
    times = [*range(0, 70, 10), *range(70, 200), *range(200, 300, 10)]

    (alarm,) = of([login(codec), *alarmed(codec, times, 100, 160)]).alarms()

    assert alarm.name == "2026-01-01 10:01:40 to 10:02:39: level 3"
    assert (alarm.flags, alarm.missing) == (1 << 11, 0)


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: c.layout.name)
def test_seconds_that_are_missing_before_an_alarm_are_counted(codec: Codec) -> None:
    times = [*range(0, 90, 10), *range(90, 200)]

    (alarm,) = of([login(codec), *alarmed(codec, times, 100, 160)]).alarms()

    assert alarm.missing == 18
    assert alarm.name == "2026-01-01 10:01:40 to 10:02:39: level 3, 18 of its seconds missing"


def test_in_2025_an_alarm_is_reported_each_second_to_its_end() -> None:
    times = [*range(70, 131), *range(135, 200, 5)]

    (old,) = of(alarmed(GBT2016, times, 100, 160)).alarms()
    (new,) = of([login(GBT2025), *alarmed(GBT2025, times, 100, 160)]).alarms()

    assert old.missing == 0
    assert new.missing == 20  # of 131 to 155, only every fifth is there


# -- on disk ---------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS, ids=lambda c: c.layout.name)
def test_everything_is_known_again_after_a_restart(tmp_path: Path, codec: Codec) -> None:
    frames = [login(codec, serial=4), *alarmed(codec, range(0, 100, 5), 50, 80)]
    frames += [request(codec, 0x02, VIN, b"\x1a"), logout(codec, time=at(100))]
    if codec is GBT2016:
        frames += [report(codec, 200, part) for part in cell_items(450)]
    before = kept(frames, tmp_path).vehicles[VIN]

    after = Record(tmp_path).vehicles[VIN]

    assert after.counts == before.counts
    assert after.reports == before.reports
    assert after.gaps(4) == before.gaps(4)
    assert after.alarms() == before.alarms()
    assert list(after.logins) == list(before.logins)
    assert list(after.malformed) == list(before.malformed)
    assert after.latest() == before.latest()
    assert after.packs() == before.packs()
    assert after.codec is codec


def test_a_torn_entry_at_the_end_is_cut_off_and_the_next_one_is_whole(tmp_path: Path) -> None:
    kept([report(GBT2016, 0), report(GBT2016, 10)], tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-5])

    again = Record(tmp_path)
    again.take(report(GBT2016, 20), at(0), VIN)

    assert Record(tmp_path).vehicles[VIN].times().tolist() == [BEGIN // 10**9, at(20) // 10**9]


def test_any_vin_has_a_file(tmp_path: Path) -> None:
    names = ["../../etc", "L\udcff\udc80", "=41", "lower", "LOWER", "with space", "\x01"]
    record = Record(tmp_path)
    for vin in names:
        record.take(report(GBT2016, 0, vin=vin), BEGIN, vin)

    assert sorted(Record(tmp_path).vehicles) == sorted(names)
    assert len(list(tmp_path.iterdir())) == len(names)


def test_times_of_the_whole_century_are_kept() -> None:
    record = Record()
    for year in (0, 37, 38, 99):
        body = bytes((year, 1, 1, 0, 0, 0)) + report(GBT2016, 0).body[6:]
        record.take(request(GBT2016, 0x02, VIN, body), BEGIN, VIN)

    assert record.vehicles[VIN].reports == 4
    assert len(record.vehicles[VIN].gaps(30)) == 3


@pytest.mark.parametrize(
    ("bounds", "fits"),
    [({"most_vehicles": 2}, 2), ({"most_reports": 3}, 3)],
    ids=["vehicles", "reports"],
)
def test_a_bound_is_a_bound(bounds: dict[str, int], fits: int) -> None:
    record = Record(**bounds)  # type: ignore[arg-type]
    for n in range(fits):
        record.take(report(GBT2016, 0, vin=f"V{n}"), BEGIN, f"V{n}")

    with pytest.raises(FullError):
        record.take(report(GBT2016, 0, vin="MORE"), BEGIN, "MORE")


def test_the_disk_is_full(tmp_path: Path) -> None:
    record = Record(tmp_path)
    (tmp_path / f"{VIN}.frames").symlink_to("/dev/full")

    with pytest.raises(FullError, match=VIN):
        record.take(report(GBT2016, 0), BEGIN, VIN)
    assert VIN not in record.vehicles
