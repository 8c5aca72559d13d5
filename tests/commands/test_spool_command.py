"""`edge-agent spool list`, `verify` and `export`, on a live and on a dead spool."""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.batch import BatchReader
from agent.commands import batch, spool
from agent.errors import ConfigError
from agent.spool.store import StreamKey
from agent.spool.survey import Place, export, look, places, verify
from tests.spool.car import BOTH, CLOUD, EVENT, Car, Limits, contents
from tests.spool.fakefs import Disk


def _run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    spool.add_parser(parser.add_subparsers())
    return spool.run(parser.parse_args(["spool", *words]))


def _json(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    status = _run(*words, "--json")
    return status, json.loads(capsys.readouterr().out)


def _sealed(car: Car, key: StreamKey, numbers: range) -> None:
    car.add(key, numbers)
    car.store.seal_now()
    car.commit()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Car]:
    """A spool with something in every place, held by an agent."""
    car = Car(tmp_path / "spool", [BOTH, EVENT], limits=Limits(keep_sent_hours=1))
    for i in range(4):
        _sealed(car, BOTH, range(i * 10, i * 10 + 5))
    car.acknowledge("cloud")
    outbox = car.store.outboxes["cloud"]
    parcel = outbox.next()
    assert parcel is not None
    assert outbox.quarantine(parcel, "422: not for us")
    car.ledger.add("uplink", "cloud", waiting=-5, quarantined=5)
    car.add(EVENT, range(100, 107))
    car.commit()
    yield car
    car.store.close()


@pytest.fixture
def dead(live: Car, tmp_path: Path) -> Path:
    """The folder of a disk that was taken out while the agent ran."""
    copied: dict[tuple[int, int], Path] = {}
    target = tmp_path / "removed"
    source = live.store.folder.root
    for path in sorted(source.rglob("*")):
        other = target / path.relative_to(source)
        other.parent.mkdir(parents=True, exist_ok=True)
        stat = path.stat()
        known = copied.get((stat.st_dev, stat.st_ino))
        if path.is_file() and known is not None:
            other.hardlink_to(known)
        elif path.is_file():
            shutil.copy(path, other)
            copied[stat.st_dev, stat.st_ino] = other
    return target


@pytest.mark.usefixtures("live")
def test_list_shows_every_batch_in_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, answer = _json(capsys, "list", "--spool", str(tmp_path / "spool"))
    assert status == 0
    seen = sorted((b["state"], b["uplink"], b["lane"], b["samples"]) for b in answer["batches"])
    assert seen == [
        ("open", "cloud", "event", 7),
        ("open", "cloud+depot", "telemetry", 0),  # the word of the one in quarantine
        ("quarantined", "cloud", "telemetry", 5),
        ("sent", "cloud", "telemetry", 5),
        *[("waiting", "cloud", "telemetry", 5)] * 2,
        *[("waiting", "depot", "telemetry", 5)] * 4,
    ]
    waits = [t for t in answer["totals"] if (t["uplink"], t["state"]) == ("depot", "waiting")]
    assert [(t["batches"], t["samples"]) for t in waits] == [(4, 20)]
    assert {b["clock"] for b in answer["batches"]} == {"wall"}


def test_list_says_why_a_batch_is_in_quarantine(
    live: Car, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _sealed(live, BOTH, range(200, 203))  # carries the word of it
    _, answer = _json(capsys, "list", "--spool", str(tmp_path / "spool"))
    reasons = [b["reason"] for b in answer["batches"] if b["state"] == "quarantined"]
    assert reasons == ["422: not for us"]


@pytest.mark.usefixtures("live")
def test_list_is_readable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("list", "--spool", str(tmp_path)) == 0  # the state folder will do
    out = capsys.readouterr().out
    assert "waiting" in out
    assert "depot, telemetry, waiting: 4 batches" in out


@pytest.mark.usefixtures("live")
def test_the_device_file_says_where_the_spool_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(f'vehicle = "car"\nplan = "plan.toml"\nstate_dir = "{tmp_path}"\n')
    status, answer = _json(capsys, "list", "-c", str(path))
    assert (status, answer["spool"]) == (0, str(tmp_path / "spool"))


@pytest.mark.usefixtures("live")
def test_a_live_spool_is_sound_and_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {p: p.stat().st_size for p in (tmp_path / "spool").rglob("*")}
    status, answer = _json(capsys, "verify", "--spool", str(tmp_path / "spool"))
    assert (status, answer["problems"]) == (0, [])
    assert answer["samples"] == 4 * 5 + 7
    assert {p: p.stat().st_size for p in (tmp_path / "spool").rglob("*")} == before


def _damages() -> list[tuple[str, str]]:
    return [
        ("flip", "cannot be read: its checksum is wrong"),
        ("cut", "its end is damaged"),
        ("longer", "its end is damaged: 4 bytes follow"),
        ("renamed", "is the same file as"),
        ("other lane", "its header names the lane 'telemetry', it lies in 'raw'"),
        ("other uplink", "its header names ['cloud', 'depot']"),
        ("header", "the header is damaged"),
        ("twice", "is there twice"),
        ("run", "there are batches of run 1"),
        ("install", "is damaged; the next start makes a new identity"),
    ]


@pytest.mark.parametrize(("damage", "words"), _damages())
def test_verify_names_the_file_and_what_is_wrong(
    dead: Path, capsys: pytest.CaptureFixture[str], damage: str, words: str
) -> None:
    path = sorted((dead / "uplinks/depot/telemetry").iterdir())[2]
    data = bytearray(path.read_bytes())
    match damage:
        case "flip":
            data[len(data) // 2 + 50] ^= 1
            path.write_bytes(data)
        case "cut":
            path.write_bytes(data[:-5])
        case "longer":
            path.write_bytes(bytes(data) + b"more")
        case "renamed":
            path.rename(path.with_name(path.name.replace("telemetry-3", "telemetry-77")))
        case "other lane":
            (dead / "uplinks/depot/raw").mkdir(exist_ok=True)
            path.rename(dead / "uplinks/depot/raw" / path.name)
            (dead / "uplinks/cloud/telemetry" / path.name).unlink()
        case "other uplink":
            (dead / "uplinks/moon/telemetry").mkdir(parents=True)
            path.rename(dead / "uplinks/moon/telemetry" / path.name)
            (dead / "uplinks/cloud/telemetry" / path.name).unlink()
        case "header":
            data[30] ^= 1
            path.write_bytes(data)
        case "twice":
            path.unlink()
            path.write_bytes(data)
        case "run":
            (dead / "run").write_text("0\n")
        case _:
            (dead / "install").write_bytes(b"\0" * 16)
    status, answer = _json(capsys, "verify", "--spool", str(dead))
    assert status == 1
    assert any(words in problem for problem in answer["problems"]), answer["problems"]
    assert all(str(dead) in problem for problem in answer["problems"])


def test_export_takes_every_batch_once_and_cuts_the_open_one(
    dead: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = (dead / "open").glob("*-event-*")
    with path.open("r+b") as file:  # what a cut left behind the last whole chunk
        file.seek(len(path.read_bytes().rstrip(b"\0")))
        file.write(b"\x07\x00torn")
    status, answer = _json(capsys, "export", str(tmp_path / "out"), "--spool", str(dead))
    assert (status, answer["problems"], answer["left_open"]) == (0, [], 0)
    files = sorted((tmp_path / "out").iterdir())
    assert all(BatchReader(p).scan().whole for p in files)
    samples = sum(BatchReader(p).count_samples() for p in files)
    assert samples == 4 * 5 + 7

    parser = argparse.ArgumentParser()
    batch.add_parser(parser.add_subparsers())
    words = ["batch", "export", str(tmp_path / "out"), "--to", str(tmp_path / "out.csv")]
    assert batch.run(parser.parse_args(words)) == 0
    assert len((tmp_path / "out.csv").read_text("utf-8").splitlines()) == samples + 1


def test_export_of_a_live_spool_leaves_the_open_batch_to_the_agent(
    live: Car, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, answer = _json(
        capsys, "export", str(tmp_path / "out"), "--spool", str(tmp_path / "spool")
    )
    assert (status, answer["batches"]) == (0, 4)
    assert answer["left_open"] >= 1
    while live.parcels("depot"):  # what the agent does afterwards changes nothing
        live.acknowledge("depot")
    assert sum(BatchReader(p).count_samples() for p in (tmp_path / "out").iterdir()) == 20


def test_export_for_one_uplink_and_with_all_that_is_kept(
    dead: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(dead / "open")
    _, one = _json(capsys, "export", str(tmp_path / "a"), "--spool", str(dead), "--uplink", "cloud")
    words = ("--uplink", "cloud", "--all")
    _, everything = _json(capsys, "export", str(tmp_path / "b"), "--spool", str(dead), *words)
    assert (one["batches"], everything["batches"]) == (2, 4)


def test_export_again_changes_nothing(
    dead: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert _run("export", str(tmp_path / "out"), "--spool", str(dead)) == 0
    assert "batches" in capsys.readouterr().out
    found = [p for p in (tmp_path / "out").iterdir() if not p.name.endswith(".batch")]
    assert found == []


def test_what_cannot_be_exported_is_said_and_the_rest_goes(
    dead: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (dead / "open/0123456789abcdef-1-event-9.batch").write_bytes(b"\0" * 50)
    status, answer = _json(capsys, "export", str(tmp_path / "out"), "--spool", str(dead))
    assert status == 1
    assert len(answer["problems"]) == 1
    assert answer["batches"] >= 5


def test_a_file_that_vanishes_meanwhile_is_left_out(live: Car, tmp_path: Path) -> None:
    found: list[Place] = list(places(tmp_path / "spool"))
    while live.parcels("depot"):
        live.acknowledge("depot")
    live.add(EVENT, range(300, 303))
    live.store.seal_now()
    live.commit()
    gone = [place for place in found if not place.path.exists()]
    assert len(gone) >= 5
    assert [look(place) for place in gone] == [None] * len(gone)
    assert [verify(place, found) for place in gone] == [None] * len(gone)
    assert not any(export(place, tmp_path / "x.batch") for place in gone)


def test_a_folder_without_a_spool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no spool here"):
        _run("list", "--spool", str(tmp_path))


def test_what_a_start_finds_is_what_export_took(dead: Path, tmp_path: Path) -> None:
    """The two ways to rescue a disk agree."""
    assert _run("export", str(tmp_path / "out"), "--spool", str(dead)) == 0
    exported: set[int] = set()
    for path in (tmp_path / "out").iterdir():
        for kind, table in BatchReader(path).records():
            if kind == "samples":
                exported |= set(table.raw["Serial"].tolist())
    moved = tmp_path / "rescue"
    moved.mkdir()
    dead.rename(moved / "spool")
    car = Car(moved / "spool", [BOTH, EVENT, CLOUD], fs=Disk(moved))
    everything = [*car.parcels("cloud"), *car.parcels("depot")]
    assert set(contents(everything)) == exported
    car.end()
