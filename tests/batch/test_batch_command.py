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
from agent.blocks import Event, Reports, SignalSchema, SignalTable, TableSchema
from agent.clock import SECOND
from agent.commands import batch
from agent.errors import ConfigError

BEGIN = 1_700_000_000 * SECOND
ANCHOR = {"boot_id": "b1", "boot": 0, "wall": BEGIN, "quality": "gnss"}


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


# reports to a platform

ENGINE_2016 = bytes.fromhex("04 01 0BB8 FFFF")
POSITION_2025 = bytes.fromhex("05 02 01 06EA0500 02549480")
MAKER = bytes.fromhex("80 0002 ABCD")


def _reports(path: Path, *, anchors: bool = True) -> Path:
    rows = (
        ("gbt32960-2016", 30, ENGINE_2016 + MAKER),
        ("gbt32960-2025", 31, POSITION_2025),
        ("gbt32960-2016", 40, ENGINE_2016 + b"\x05\x00"),
        ("morse", 41, b"sos"),
    )
    header: dict[str, Any] = {"anchors": [ANCHOR]} if anchors else {}
    with BatchWriter(path, boot_id="b1", **header) as writer:
        for form, second, body in rows:
            writer.add(Reports(form, np.array([second * SECOND]), (body,)))
        writer.add(
            Event(
                {"kind": "trip", "name": "trip", "time": 0, "clock": "boot", "campaign": ""}
                | {"first": 30 * SECOND, "last": 31 * SECOND, "id": "t1"}
            )
        )
    return path


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_show_tells_of_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _reports(tmp_path / "a.batch")
    assert _run("show", str(path)) == 0
    out = capsys.readouterr().out
    assert (
        "reports of gbt32960-2016: 2 with 19 bytes, "
        "2023-11-14T22:13:50.000000000Z to 2023-11-14T22:14:00.000000000Z" in out
    )
    assert "4 samples" in out

    assert _run("show", str(path), "--json") == 0
    (shown,) = json.loads(capsys.readouterr().out)
    assert (shown["samples"], shown["lost_samples"], shown["problems"]) == (4, 0, [])
    assert shown["reports"][1] == {
        "form": "gbt32960-2025",
        "clock": "wall",
        "count": 1,
        "bytes": 11,
        "first": BEGIN + 31 * SECOND,
        "last": BEGIN + 31 * SECOND,
    }


def test_reports_are_exported_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _reports(tmp_path / "a.batch")
    target = tmp_path / "out.jsonl"
    assert _run("export", str(tmp_path), "--to", str(target), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["reports"], told["undecoded"], told["clocks"]) == (4, 1, ["wall"])
    assert told["forms"] == ["gbt32960-2016", "gbt32960-2025", "morse"]

    good, bad, new, unknown = _lines(target)
    assert good == {
        "time": "2023-11-14T22:13:50.000000000Z",
        "time_ns": BEGIN + 30 * SECOND,
        "clock": "wall",
        "form": "gbt32960-2016",
        "body": (ENGINE_2016 + MAKER).hex(),
        "items": [
            {
                "type": 4,
                "name": "engine",
                "values": {"state": 1, "speed": 3000, "consumption": "invalid"},
            },
            {"type": 0x80, "name": "maker", "data": "abcd"},
        ],
    }
    assert [item["name"] for item in bad["items"]] == ["engine"]
    assert "position" in bad["error"]
    (position,) = new["items"]
    assert position["values"]["longitude"] == pytest.approx(116.0)
    assert (unknown["items"], unknown["body"]) == (None, b"sos".hex())


def test_reports_of_a_boot_that_nothing_dates_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _reports(tmp_path / "a.batch", anchors=False)
    target = tmp_path / "out.jsonl"
    assert _run("export", str(tmp_path), "--to", str(target)) == 0
    out = capsys.readouterr().out
    assert "4 reports from 1 batches" in out
    assert "1 cannot be decoded" in out
    assert "no anchor dates some of them" in out
    first = _lines(target)[0]
    assert (first["time"], first["time_ns"], first["clock"]) == (None, 30 * SECOND, "boot")


def test_reports_of_an_event(tmp_path: Path) -> None:
    _reports(tmp_path / "a.batch")
    target = tmp_path / "out.jsonl"
    assert _run("export", str(tmp_path), "--to", str(target), "--event", "t1") == 0
    seconds = [(line["time_ns"] - BEGIN) // SECOND for line in _lines(target)]
    assert seconds == [30, 31]


def test_reports_have_no_signals(tmp_path: Path) -> None:
    path = _reports(tmp_path / "a.batch")
    with pytest.raises(ConfigError, match="takes reports"):
        _run("export", str(path), "--to", str(tmp_path / "out.jsonl"), "--signals", "Speed")
