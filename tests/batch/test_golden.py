"""Batches of every released format are read for ever, by both readers, to the bit."""

import json
from pathlib import Path
from typing import Any

import pytest

from agent.batch import BatchReader, read_batch
from tests.batch.golden.make import FOLDER, plain
from tests.batch.independent_reader import read

GOLDEN = sorted(FOLDER.glob("format-*.batch"))


def expected_of(path: Path) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    return expected


def test_there_is_a_golden_batch_of_format_1() -> None:
    assert [path.name for path in GOLDEN] == ["format-1.batch"]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_product_reads_it(path: Path) -> None:
    found: dict[str, Any] = {}
    for kind, table in BatchReader(path).records():
        if kind != "samples":
            continue
        signals = found.setdefault(table.message, {"time": []})
        signals["time"] += table.time.tolist()
        for name in table.names:
            raw = table.raw[name]
            values = [bytes(row) for row in raw] if raw.ndim == 2 else raw.tolist()
            signals.setdefault(name, []).extend(map(plain, values))
    assert found == expected_of(path)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_independent_reader_reads_it(path: Path) -> None:
    batch = read(path.read_bytes())
    found: dict[str, Any] = {}
    for table in batch.tables:
        signals = found.setdefault(table.schema["message"], {"time": []})
        signals["time"] += table.time
        for name, values in table.columns.items():
            signals.setdefault(name, []).extend(map(plain, values))
    assert found == expected_of(path)
    assert batch.lost == 0
    assert batch.footer is not None
    assert batch.footer["chunks"] == 20


def test_boot_time_is_dated_by_the_good_anchor_and_recordings_keep_theirs() -> None:
    tables = {table.message: table for table in read_batch(GOLDEN[0])}
    assert tables["Motor"].clock == "wall"
    assert tables["Motor"].time[0] == 10**18 - 4_000_000_000
    assert tables["Mixed"].clock == "recorded"
    assert tables["Mixed"].source == 0x21
    assert tables["Cells"].branch == "Group=2"
    assert tables["Motor"].schema.by_name["Gear"].choices == ((0, "P"), (1, "R"), (3, "D"))
