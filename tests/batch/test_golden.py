"""Batches of every released format are read for ever, by both readers, to the bit."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.batch import BatchReader, read_batch, read_events, read_frames, read_reports
from tests.batch.golden.make import FOLDER, plain, plain_frames
from tests.batch.independent_reader import read

TABLES = FOLDER / "format-1.batch"
FRAMES = FOLDER / "format-1-frames.batch"
REPORTS = FOLDER / "format-1-reports.batch"


def expected_of(path: Path) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return expected


def test_there_are_golden_batches_of_format_1() -> None:
    assert sorted(FOLDER.glob("format-*.batch")) == [FRAMES, REPORTS, TABLES]


def test_the_product_reads_samples() -> None:
    found: dict[str, Any] = {}
    for kind, table in BatchReader(TABLES).records():
        if kind != "samples":
            continue
        signals = found.setdefault(table.message, {"time": []})
        signals["time"] += table.time.tolist()
        for name in table.names:
            raw = table.raw[name]
            values = [bytes(row) for row in raw] if raw.ndim == 2 else raw.tolist()
            signals.setdefault(name, []).extend(map(plain, values))
    assert found == expected_of(TABLES)


def test_the_independent_reader_reads_samples() -> None:
    batch = read(TABLES.read_bytes())
    found: dict[str, Any] = {}
    for table in batch.tables:
        signals = found.setdefault(table.schema["message"], {"time": []})
        signals["time"] += table.time
        for name, values in table.columns.items():
            signals.setdefault(name, []).extend(map(plain, values))
    assert found == expected_of(TABLES)


def test_the_product_reads_frames_and_events() -> None:
    found: dict[str, Any] = {"frames": {}, "events": []}
    for kind, value in BatchReader(FRAMES).records():
        if kind == "frames":
            where = f"{value.block.bus}/{value.campaign}/{value.block.clock}"
            found["frames"].setdefault(where, []).extend(plain_frames(value.block))
        elif kind == "event":
            found["events"].append(value)
    assert found == expected_of(FRAMES)


def test_the_independent_reader_reads_frames_and_events() -> None:
    batch = read(FRAMES.read_bytes())
    found: dict[str, Any] = {"frames": {}, "events": []}
    for raw in batch.raw:
        record = raw.record
        where = f"{record['bus']}/{record.get('campaign', '')}/{record['clock']}"
        found["frames"].setdefault(where, []).extend(
            [time, number, flags, length, data.hex()]
            for time, number, flags, length, data in raw.frames
        )
    found["events"] = [record for kind, record in batch.records if kind == 4]
    assert found == expected_of(FRAMES)


def test_the_product_reads_reports() -> None:
    found: dict[str, list[Any]] = {}
    for kind, value in BatchReader(REPORTS).records():
        if kind == "reports":
            rows = zip(value.time.tolist(), value.bodies, strict=True)
            found.setdefault(f"{value.form}/{value.clock}", []).extend(
                [time, body.hex()] for time, body in rows
            )
    assert found == expected_of(REPORTS)


def test_the_independent_reader_reads_reports() -> None:
    found: dict[str, list[Any]] = {}
    for each in read(REPORTS.read_bytes()).reported:
        found.setdefault(f"{each.record['form']}/{each.record['clock']}", []).extend(
            [time, body.hex()] for time, body in each.reports
        )
    assert found == expected_of(REPORTS)


@pytest.mark.parametrize("path", [TABLES, FRAMES, REPORTS], ids=lambda path: path.stem)
def test_nothing_is_lost(path: Path) -> None:
    batch = read(path.read_bytes())
    assert batch.lost == 0
    assert batch.footer is not None
    assert batch.footer["chunks"] == 20


def test_the_footer_counts_frames_and_events() -> None:
    scan = BatchReader(FRAMES).scan()
    expected = expected_of(FRAMES)
    frames = sum(map(len, expected["frames"].values()))
    assert scan.footer is not None
    assert (scan.samples, scan.footer["frames"], scan.footer["events"]) == (frames, frames, 2)
    assert BatchReader(FRAMES).count_samples() == frames


def test_the_footer_counts_reports() -> None:
    scan = BatchReader(REPORTS).scan()
    reports = sum(map(len, expected_of(REPORTS).values()))
    assert scan.footer is not None
    assert (scan.samples, scan.footer["reports"]) == (reports, reports)
    assert BatchReader(REPORTS).totals() == {"samples": reports, "reports": reports}


def test_boot_time_is_dated_by_the_good_anchor_and_recordings_keep_theirs() -> None:
    tables = {table.message: table for table in read_batch(TABLES)}
    assert tables["Motor"].clock == "wall"
    assert tables["Motor"].time[0] == 10**18 - 4_000_000_000
    assert tables["Mixed"].clock == "recorded"
    assert tables["Mixed"].source == 0x21
    assert tables["Cells"].branch == "Group=2"
    assert tables["Motor"].schema.by_name["Gear"].choices == ((0, "P"), (1, "R"), (3, "D"))


def test_frames_and_events_are_dated_as_samples_are() -> None:
    frames = list(read_frames(FRAMES))
    assert {(kept.block.bus, kept.block.clock) for kept in frames} == {
        ("powertrain", "wall"),
        ("body", "recorded"),
    }
    assert frames[0].block.time[0] == 10**18 - 4_000_000_000

    begun, complete = read_events(FRAMES)
    shift = 10**18 - 4_000_000_000
    assert (begun["clock"], begun["time"], begun["last"]) == ("wall", shift + 7 * 10**9, None)
    assert (complete["first"], complete["last"]) == (shift + 5 * 10**9, shift + 9 * 10**9)
    assert complete["missing"] == [
        [shift + 5 * 10**9, shift + 6 * 10**9, "no memory was left"],
    ]


def test_reports_are_dated_to_the_nanosecond() -> None:
    found = list(read_reports(REPORTS))
    assert {(each.form, each.clock) for each in found} == {
        ("gbt32960-2016", "wall"),
        ("gbt32960-2025", "recorded"),
    }
    assert found[0].time[0] == 10**18 - 4_000_000_000 + 123_456_789
