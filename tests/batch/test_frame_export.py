"""Raw frames out of batches into recordings, and an event alone out of all."""

import argparse
import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.batch import BatchWriter
from agent.batch.merged import STRETCH, Merged
from agent.blocks import (
    ERROR,
    EXTENDED,
    FD_BIT_RATE_SWITCH,
    FD_FRAME,
    REMOTE,
    SENT,
    Event,
    FrameBlock,
    KeptFrames,
    SignalSchema,
    SignalTable,
    TableSchema,
)
from agent.bus import read_log
from agent.clock import MILLISECOND, SECOND
from agent.commands import batch
from agent.errors import ConfigError

WALL = 1_700_000_000 * SECOND
ANCHOR = {"boot_id": "b1", "boot": 0, "wall": WALL, "quality": "gnss"}
BUSES = ("body", "powertrain")
SPEED = TableSchema("body", "Motor", (SignalSchema("Speed", "uint64", 16),))

Row = tuple[int, str, int, int, int, bytes]
"""Time, channel, id, flags, length, bytes."""

KINDS = (
    (0x123, 0, 8),
    (0x7FF, SENT, 0),
    (EXTENDED | 0x18FEF100, 0, 8),
    (EXTENDED | 0x12, SENT, 3),
    (REMOTE | 0x200, 0, 5),
    (0x321, FD_FRAME | FD_BIT_RATE_SWITCH, 24),
    (EXTENDED | 0x1ABCDE, FD_FRAME, 64),
)
ERRORS = ((ERROR | 0x4, 0, 8), (ERROR | 0x200, 0, 8))


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    batch.add_parser(parser.add_subparsers())
    return batch.run(parser.parse_args(["batch", *map(str, words)]))


def answer(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    capsys.readouterr()
    assert run(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


def block_of(
    n: int, *, bus: str = "body", begin: int = 0, step: int = MILLISECOND, errors: bool = False
) -> FrameBlock:
    """Frames of all kinds in turn, `step` apart; the first bytes count."""
    kinds = np.array((*KINDS, *ERRORS) if errors else KINDS)
    turn = np.arange(n) % len(kinds)
    ids, flags, length = kinds[turn].T
    data = np.zeros((n, 64), np.uint8)
    data[:] = np.arange(64) + np.arange(n)[:, None]
    data[(np.arange(64) >= length[:, None]) | ((ids & REMOTE) != 0)[:, None]] = 0
    time = begin + np.arange(n) * step
    return FrameBlock.from_arrays(bus=bus, time=time, id=ids, length=length, flags=flags, data=data)


def rows_of(blocks: Iterable[FrameBlock], channels: Any, shift: int = 0) -> list[Row]:
    return [
        (time + shift, channels[block.bus], number, flags, length, bytes(row[:length]))
        for block in blocks
        for time, number, flags, length, row in zip(
            *(c.tolist() for c in (block.time, block.id, block.flags, block.length)),
            block.data,
            strict=True,
        )
    ]


def read_back(path: Path) -> list[Row]:
    rows: list[Row] = []
    reader = read_log(path)
    for block in reader:
        rows += rows_of([block], {block.bus: block.bus})
    assert reader.bad == 0, reader.notes
    return sorted(rows, key=lambda row: row[0])


def write(path: Path, *blocks: FrameBlock, campaign: str = "", dated: bool = True) -> Path:
    """A batch with a chunk for each block."""
    header: dict[str, Any] = {"boot_id": "b1", "anchors": [ANCHOR] if dated else []}
    with BatchWriter(path, **header) as writer:
        for block in blocks:
            writer.add(KeptFrames(block, campaign))
            writer.flush()
    return path


@pytest.mark.parametrize("errors", [False, True])
@pytest.mark.parametrize("suffix", ["log", "blf", "mf4"])
def test_frames_come_back_from_a_recording(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, errors: bool
) -> None:
    body = block_of(300, begin=1_234_567_000, step=1_003_000, errors=errors)
    power = block_of(200, bus="powertrain", begin=1_234_068_000, step=1_507_000)
    source = write(tmp_path / "a.batch", body, power)
    target = tmp_path / f"out.{suffix}"
    told = answer(capsys, "export", source, "--to", target)
    assert (told["frames"], told["left_out"], told["clocks"]) == (500, 0, ["wall"])
    names = BUSES if suffix == "log" else (1, 2)
    assert told["channels"] == dict(zip(BUSES, names, strict=True))

    channels = {bus: str(channel) for bus, channel in told["channels"].items()}
    written = sorted(rows_of([body, power], channels, WALL), key=lambda row: row[0])
    found = read_back(target)
    if errors:  # no format agrees with another one about what an error frame says
        found, written = (
            [(*row[:2], ERROR, 0, 0, b"") if row[2] & ERROR else row for row in rows]
            for rows in (found, written)
        )
    if suffix == "blf":  # its writer reckons with seconds as doubles
        assert max(abs(a[0] - b[0]) for a, b in zip(found, written, strict=True)) < 500
        found = [(0, *row[1:]) for row in found]
        written = [(0, *row[1:]) for row in written]
    assert found == written


def test_candump_keeps_what_error_frames_say(tmp_path: Path) -> None:
    block = block_of(30, errors=True)
    target = tmp_path / "out.log"
    assert run("export", write(tmp_path / "a.batch", block), "--to", target) == 0
    assert [row[2:] for row in read_back(target)] == [
        row[2:] for row in rows_of([block], {"body": ""})
    ]


def test_asc_counts_time_from_the_whole_millisecond(tmp_path: Path) -> None:
    block = block_of(50, begin=1_234_567_000, step=1_003_000)
    target = tmp_path / "out.asc"
    assert run("export", write(tmp_path / "a.batch", block), "--to", target) == 0
    begin = 1_234 * MILLISECOND
    assert read_back(target) == rows_of([block], {"body": "1"}, -begin)


def test_frames_of_batches_that_overlap_come_in_the_order_of_time(tmp_path: Path) -> None:
    """Far more than are sorted at once; each file has gaps that others fill."""
    per, files = STRETCH // 4, 12
    times = np.arange(per * files) * 1000
    paths = []
    for number in range(files):
        # The odd ones interleave with each other, the even ones follow each other.
        mine = times[number::2][: per // 2] if number % 2 else times[number * per :][:per]
        blocks = [
            FrameBlock.from_arrays(
                bus=BUSES[number % 2],
                time=part,
                id=np.full(len(part), number),
                length=np.zeros(len(part)),
                data=np.zeros((len(part), 8), np.uint8),
            )
            for part in np.array_split(mine, 7)
        ]
        paths.append(write(tmp_path / f"{number}.batch", *blocks[::-1]))
    merged = Merged(paths)
    stretches = list(merged)
    assert len(stretches) > 1
    time = np.concatenate([frames.time for frames in stretches])
    assert (np.diff(time) >= 0).all()
    ids = np.concatenate([frames.id for frames in stretches])
    assert np.bincount(ids).tolist() == [per, per // 2] * (files // 2)
    assert merged.buses == BUSES


def test_a_batch_without_an_anchor_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path / "a.batch", block_of(3, begin=5 * SECOND), dated=False)
    assert run("export", source, "--to", tmp_path / "out.log") == 0
    assert "counts from their boot" in capsys.readouterr().out
    assert read_back(tmp_path / "out.log")[0][0] == 5 * SECOND


def test_what_was_put_together_of_several_frames_is_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = FrameBlock.from_arrays(
        bus="body", time=[1], id=[2], length=[100], data=np.zeros((1, 100), np.uint8)
    )
    source = write(tmp_path / "a.batch", block_of(7), long)
    assert run("export", source, "--to", tmp_path / "out.log") == 0
    assert "1 messages are longer" in capsys.readouterr().out
    assert len(read_back(tmp_path / "out.log")) == 7


@pytest.mark.parametrize("suffix", ["log", "asc", "blf", "mf4"])
def test_without_frames_the_recording_is_empty(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"out.{suffix}"
    assert run("export", write(tmp_path / "a.batch"), "--to", target) == 0
    assert target.stat().st_size > 0 or suffix == "log"


def event(name: str, first: int, last: int | None, **more: Any) -> Event:
    return Event(
        {
            "kind": "trigger",
            "name": name,
            "id": f"{name}-{first}",
            "campaign": "hot",
            "time": first + SECOND,
            "clock": "boot",
            "first": first,
            "last": last,
            "complete": last is not None,
            "expression": "Temperature > 55",
            "values": {"Motor.Temperature": 56.5},
            "missing": [[first, first + SECOND, "no memory was left"]],
            **more,
        }
    )


def table_of(n: int, campaign: str) -> SignalTable:
    values = np.arange(n, dtype=np.uint64)[None]
    return SignalTable(SPEED, np.arange(n) * SECOND, {"uint64": values}, campaign=campaign)


@pytest.fixture
def eventful(tmp_path: Path) -> Path:
    """Two minutes of two campaigns, a row a second, and two events of one of them."""
    with BatchWriter(tmp_path / "a.batch", boot_id="b1", anchors=[ANCHOR]) as writer:
        for campaign in ("hot", "all"):
            writer.add(KeptFrames(block_of(120, step=SECOND), campaign))
            writer.add(table_of(120, campaign))
        writer.add(event("hot", 10 * SECOND, None))
        writer.flush()
        writer.add(event("hot", 10 * SECOND, 19 * SECOND))
        writer.add(event("hot", 50 * SECOND, 50 * SECOND))
    with BatchWriter(tmp_path / "other.batch", boot_id="b2") as writer:
        writer.add(KeptFrames(block_of(120, step=SECOND), "hot"))
        writer.add(event("early", 3 * SECOND, 4 * SECOND))
    return tmp_path


def seconds(path: Path) -> list[int]:
    return [round((row[0] - WALL) / SECOND) for row in read_back(path)]


def test_one_event_alone(eventful: Path) -> None:
    target = eventful / "out.log"
    assert run("export", eventful, "--to", target, "--event", f"hot-{10 * SECOND}") == 0
    assert seconds(target) == list(range(10, 20))

    assert run("export", eventful, "--to", target, "--event", "hot") == 0
    assert seconds(target) == [*range(10, 20), 50]


def test_the_samples_of_one_event(eventful: Path) -> None:
    target = eventful / "out.csv"
    assert run("export", eventful, "--to", target, "--event", "hot") == 0
    with target.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["campaign"] for row in rows} == {"hot"}
    assert [int(row["raw"]) for row in rows] == [*range(10, 20), 50]


def test_an_event_of_a_boot_without_an_anchor_finds_only_that_boot(eventful: Path) -> None:
    target = eventful / "out.log"
    assert run("export", eventful, "--to", target, "--event", "early") == 0
    assert [row[0] for row in read_back(target)] == [3 * SECOND, 4 * SECOND]


def test_an_event_that_goes_on_has_no_end(tmp_path: Path) -> None:
    with BatchWriter(tmp_path / "a.batch", boot_id="b1", anchors=[ANCHOR]) as writer:
        writer.add(KeptFrames(block_of(5, step=SECOND), "hot"))
        writer.add(event("hot", 3 * SECOND, None))
    assert run("export", tmp_path, "--to", tmp_path / "out.log", "--event", "hot") == 0
    assert seconds(tmp_path / "out.log") == [3, 4]


def test_a_trip_is_of_all_campaigns(eventful: Path) -> None:
    with BatchWriter(eventful / "trip.batch", boot_id="b1") as writer:
        writer.add(event("trip", 5 * SECOND, 6 * SECOND, kind="trip", campaign=""))
    assert run("export", eventful, "--to", eventful / "out.log", "--event", "trip") == 0
    assert seconds(eventful / "out.log") == [5, 5, 6, 6]


@pytest.mark.parametrize(
    "words",
    [
        ("--to", "{}/out.log", "--event", "cold"),
        ("--to", "{}/out.log", "--signals", "*"),
        ("--to", "{}/out.trc"),
        ("--to", "{}/no/out.blf"),
        ("--to", "{}/out.csv", "--event", "report"),
    ],
)
def test_misuse_is_said_in_a_sentence(eventful: Path, words: tuple[str, ...]) -> None:
    with BatchWriter(eventful / "report.batch", boot_id="b1") as writer:
        writer.add(Event({"kind": "report", "name": "report", "time": SECOND, "clock": "boot"}))
    with pytest.raises(ConfigError):
        run("export", eventful, *(word.format(eventful) for word in words))
    assert [p.name for p in eventful.iterdir() if not p.name.endswith(".batch")] == []


def test_show_tells_frames_and_events(eventful: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", eventful / "a.batch") == 0
    out = capsys.readouterr().out
    for text in (
        "480 samples",
        "raw frames of body: 120 with 7 ids, boot for hot",
        "event: 2023-11-14T22:13:31.000000000Z  trigger hot: Temperature > 55",
        "window: 2023-11-14T22:13:30.000000000Z to 2023-11-14T22:13:39.000000000Z",
        "Motor.Temperature = 56.5",
        "missing: 2023-11-14T22:13:30.000000000Z to 2023-11-14T22:13:31.000000000Z: no memory",
    ):
        assert text in out
    assert "not complete" not in out  # it was told again


def test_show_for_programs(eventful: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = answer(capsys, "show", eventful / "a.batch")
    assert shown["problems"] == []
    assert [(f["campaign"], f["count"], f["ids"]) for f in shown["frames"]] == [
        ("all", 120, 7),
        ("hot", 120, 7),
    ]
    assert [(e["id"], e["clock"], e["time"]) for e in shown["events"]] == [
        (f"hot-{10 * SECOND}", "wall", WALL + 11 * SECOND),
        (f"hot-{50 * SECOND}", "wall", WALL + 51 * SECOND),
    ]
    assert shown["records"]["event"] == 3
