"""`edge-agent batch show` and `export`, as a person uses them."""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.batch import BatchWriter
from agent.batch.format import Record
from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.clock import SECOND
from agent.commands import batch
from agent.errors import ConfigError

ANCHOR = {"boot_id": "b1", "boot": 0, "wall": 1_700_000_000 * SECOND, "quality": "gnss"}


def _run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    batch.add_parser(parser.add_subparsers())
    return batch.run(parser.parse_args(["batch", *words]))


def _table(message: str, second: int) -> SignalTable:
    schema = TableSchema(
        "bus0", message, (SignalSchema("Speed", "uint64", 16, 0.5, 0, "km/h"),), source=3
    )
    rows = np.arange(100)
    time = second * SECOND + rows * 10_000_000
    return SignalTable(schema, time, {"uint64": (rows * 37 % 101).astype(np.uint64)[None]})


def _write(path: Path, *, anchors: bool = True) -> Path:
    header: dict[str, Any] = {"vehicle": "car", "boot_id": "b1"}
    if anchors:
        header["anchors"] = [ANCHOR]
    with BatchWriter(path, **header) as writer:
        writer.record(Record.LEDGER, {"at": "open", "final": False})
        for second in range(3):
            writer.add(_table("Left", second))
            writer.add(_table("Right", second))
            writer.flush()
        writer.record(Record.TOMBSTONE, {"batch_id": "x", "samples": 3, "reason": "age"})
    return path


def _damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_show_is_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _write(tmp_path / "a.batch")
    assert _run("show", str(path)) == 0
    out = capsys.readouterr().out
    for text in (
        "600 samples",
        "sealed",
        "vehicle: car",
        "anchor: 2023-11-14T22:13:20.000000000Z was 0.000 s of boot b1 (gnss)",
        "bus0.Left.Speed from 3",
        "ledger at open",
        "tombstone: ",
    ):
        assert text in out
    assert "PROBLEM" not in out


def test_show_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path / "a.batch")
    assert _run("show", str(tmp_path), "--json") == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert shown["samples"] == 600
    assert shown["records"]["tombstone"] == 1
    assert [(s["message"], s["count"]) for s in shown["signals"]] == [("Left", 300), ("Right", 300)]
    assert shown["problems"] == []


def test_show_tells_of_damage_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _damage(_write(tmp_path / "a.batch"))
    (tmp_path / "b.batch").write_bytes(b"not one")
    _write(tmp_path / "c.batch")
    assert _run("show", str(tmp_path), "--json") == 1
    damaged, no_batch, good = json.loads(capsys.readouterr().out)
    assert damaged["bad_chunks"] == 1
    assert damaged["lost_samples"] + damaged["samples"] == 600
    assert no_batch["problems"]
    assert good["problems"] == []


def test_export_dates_batches_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(tmp_path / "early.batch", anchors=False)
    _write(tmp_path / "later.batch")
    target = tmp_path / "out.csv"
    assert _run("export", str(tmp_path), "--to", str(target), "--json") == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 1200
    with target.open(encoding="utf-8", newline="") as file:
        assert {row["clock"] for row in csv.DictReader(file)} == {"wall"}


def test_export_of_some_signals(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.batch")
    target = tmp_path / "out.csv"
    assert _run("export", str(path), "--to", str(target), "--signals", "bus0.L*.Speed") == 0
    with target.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["message"] for row in rows} == {"Left"}
    assert len(rows) == 300


def test_a_batch_that_lies_in_two_folders_is_exported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The spool links one file into the folder of each uplink."""
    path = _write(tmp_path / "a.batch")
    (tmp_path / "other.batch").hardlink_to(path)
    assert _run("export", str(tmp_path), "--to", str(tmp_path / "out.csv"), "--json") == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 600


def test_export_of_damaged_batches_gives_what_can_be_read_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _damage(_write(tmp_path / "a.batch"))
    (tmp_path / "b.batch").write_bytes(b"not one")
    assert _run("export", str(tmp_path), "--to", str(tmp_path / "out.parquet")) == 1
    captured = capsys.readouterr()
    assert "1 bad chunks" in captured.err
    assert "b.batch: is not a batch file" in captured.err
    assert (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("show", "{}/none.batch"),
        ("show", "{}/empty"),
        ("export", "{}/a.batch", "--to", "{}/out.xlsx"),
        ("export", "{}/a.batch", "--to", "{}/no/out.csv"),
    ],
)
def test_misuse_is_said_in_a_sentence(tmp_path: Path, words: tuple[str, ...]) -> None:
    _write(tmp_path / "a.batch")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError):
        _run(*(w.format(tmp_path) for w in words))
