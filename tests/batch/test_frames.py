"""Raw frames and events come back, through the product's reader and through an independent one."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.batch import BatchReader, BatchWriter, read_events, read_frames
from agent.batch.format import Record
from agent.batch.frames import pack_frames
from agent.blocks import (
    ERROR,
    EXTENDED,
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
from agent.clock import SECOND
from agent.errors import BatchError
from tests.batch.independent_reader import Batch, read
from tests.shared_data import needs_shared, shared

Row = tuple[str, str, str, int, int, int, int, bytes]
"""Bus, campaign, clock, time, id, flags, length, bytes."""

ANCHOR = {"boot_id": "b1", "boot": 0, "wall": 1_700_000_000 * SECOND, "quality": "gnss"}
SPEED = TableSchema("bus0", "Motor", (SignalSchema("Speed", "uint64", 16),))


def block_of(
    rng: np.random.Generator, n: int, *, bus: str = "bus0", clock: Any = "boot", wide: int = 8
) -> FrameBlock:
    """Frames of a few kinds, with payloads that rest, count or are anything."""
    ids = np.array([0x100, 0x7FF, EXTENDED | 0x18FEF100, REMOTE | 0x20, ERROR | 1, EXTENDED])
    longest = np.array([8, wide, wide // 3, 4, 8, 0])
    flags = np.array([0, FD_FRAME if wide > 8 else 0, SENT, 0, 0, 0])
    kind = rng.integers(0, len(ids), n)
    length = np.where(rng.random(n) < 0.9, longest[kind], rng.integers(0, wide + 1, n))
    data = np.zeros((n, wide), np.uint8)
    data[:, 0] = np.arange(n)
    data[:, 1::3] = rng.integers(0, 256, data[:, 1::3].shape)
    data[np.arange(wide) >= length[:, None]] = 0
    begin = int(rng.integers(-(2**40), 2**60))
    time = begin + np.cumsum(rng.integers(-50_000, 5_000_000, n))
    return FrameBlock.from_arrays(
        bus=bus, time=time, id=ids[kind], length=length, flags=flags[kind], data=data, clock=clock
    )


def rows_of(kept: KeptFrames, step: int) -> list[Row]:
    block = kept.block
    columns = (block.time // step * step, block.id, block.flags, block.length)
    return [
        (block.bus, kept.campaign, block.clock, time, number, flags, length, bytes(row[:length]))
        for time, number, flags, length, row in zip(
            *(column.tolist() for column in columns), block.data, strict=True
        )
    ]


def product(path: Path) -> list[Row]:
    return [
        row
        for kind, value in BatchReader(path).records()
        if kind == "frames"
        for row in rows_of(value, 1)
    ]


def independent(batch: Batch) -> list[Row]:
    return [
        (r["bus"], r.get("campaign", ""), r["clock"], time, number, flags, length, data)
        for r, frames in ((raw.record, raw.frames) for raw in batch.raw)
        for time, number, flags, length, data in frames
    ]


@settings(max_examples=60, deadline=None)
@given(
    chunks=st.lists(st.lists(st.integers(0, 300), max_size=4), max_size=20),
    resolution=st.sampled_from((1, 1_000, 1_000_000)),
    seed=st.integers(0, 2**32),
)
def test_what_is_written_comes_back(chunks: list[list[int]], resolution: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    written: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "some.batch")
        with BatchWriter(path, resolution_ns=resolution) as writer:
            for sizes in chunks:
                for n in sizes:
                    block = block_of(
                        rng,
                        n,
                        bus=str(rng.choice(["bus0", "bus1"])),
                        clock=str(rng.choice(["boot", "recorded"])),
                        wide=int(rng.choice([8, 64, 200])),
                    )
                    kept = KeptFrames(block, str(rng.choice(["", "raw"])))
                    writer.add(kept)
                    written += rows_of(kept, min(resolution, 1000))
                writer.flush()
        batch = read(path.read_bytes())
        found = product(path)
    assert batch.lost == 0
    assert batch.footer is not None
    assert batch.footer["samples"] == batch.footer.get("frames", 0) == len(written)
    assert sorted(found) == sorted(independent(batch)) == sorted(written)
    for key in {row[:3] for row in written}:  # within a bus, campaign and clock nothing is moved
        assert [r for r in found if r[:3] == key] == [r for r in written if r[:3] == key]
    times = [row[3] // 1000 for row in written]
    ends = [end and end // 1000 for end in (batch.footer["first"], batch.footer["last"])]
    assert ends == [min(times, default=None), max(times, default=None)]


def test_frames_keep_microseconds_where_samples_keep_milliseconds(tmp_path: Path) -> None:
    block = FrameBlock.from_arrays(
        bus="b", time=[1_234_567_890], id=[1], length=[0], data=np.zeros((1, 8), np.uint8)
    )
    with BatchWriter(tmp_path / "a.batch") as writer:
        writer.add(KeptFrames(block))
    (kept,) = read_frames(tmp_path / "a.batch")
    assert kept.block.time.tolist() == [1_234_567_000]


@pytest.mark.parametrize(("n", "wide"), [(400_000, 8), (80_000, 64), (9_000, 1785)])
def test_what_does_not_fit_one_record_becomes_several(tmp_path: Path, n: int, wide: int) -> None:
    rng = np.random.default_rng(n)
    kept = KeptFrames(block_of(rng, n, wide=wide))
    with BatchWriter(tmp_path / "big.batch") as writer:
        writer.add(kept)
    reader = BatchReader(tmp_path / "big.batch")
    found = [value.block for kind, value in reader.records() if kind == "frames"]
    assert reader.lost_chunks == 0
    assert len(found) > 1
    for name in ("id", "length", "flags"):
        whole = np.concatenate([getattr(block, name) for block in found])
        assert np.array_equal(whole, getattr(kept.block, name))
    data = np.concatenate([block.data[:, :wide] for block in found])
    assert np.array_equal(data, kept.block.data)


def some_batch(path: Path) -> list[Row]:
    """Frames, samples and events side by side; all frames differ."""
    rng = np.random.default_rng(5)
    written: list[Row] = []
    with BatchWriter(path, boot_id="b1", anchors=[ANCHOR]) as writer:
        for chunk in range(36):
            kept = KeptFrames(block_of(rng, 1 + chunk % 5), "raw")
            kept.block.time[:] = chunk * SECOND + np.arange(len(kept)) * 1_000_000
            written += rows_of(kept, 1000)
            writer.add(kept)
            time = np.array([chunk * SECOND])
            writer.add(SignalTable(SPEED, time, {"uint64": np.array([[chunk]], np.uint64)}))
            writer.add(Event({"kind": "trigger", "name": "e", "id": f"e{chunk}"}))
            writer.flush()
    return written


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Row], Path]:
    folder = tmp_path_factory.mktemp("damage")
    rows = some_batch(folder / "sound.batch")
    return (folder / "sound.batch").read_bytes(), rows, folder / "damaged.batch"


@settings(max_examples=300, deadline=None)
@given(
    flips=st.lists(
        st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=4, unique=True
    )
)
def test_damage_loses_chunks_but_never_invents_a_frame(
    sound: tuple[bytes, list[Row], Path], flips: list[tuple[int, int]]
) -> None:
    whole, written, path = sound
    damaged = bytearray(whole)
    for place, bits in flips:
        damaged[place % len(whole)] ^= bits
    path.write_bytes(damaged)
    try:
        found: list[Row] | None = product(path)
    except BatchError:
        found = None
    try:
        batch: Batch | None = read(bytes(damaged))
    except ValueError:
        batch = None
    assert (batch is None) == (found is None)
    if batch is None or found is None:
        return
    assert set(found) <= set(written)
    assert len(set(found)) == len(found)
    assert set(independent(batch)) <= set(written)
    if len(flips) == 1:
        assert found == independent(batch)


def good_record() -> dict[str, Any]:
    return pack_frames(KeptFrames(block_of(np.random.default_rng(3), 40), "raw"))


def reads(path: Path, record: dict[str, Any], kind: Record = Record.FRAMES) -> tuple[int, int, int]:
    """Of a batch with this record in its second chunk: chunks lost, frames by both readers."""
    with BatchWriter(path) as writer:
        writer.add(KeptFrames(block_of(np.random.default_rng(1), 3)))
        writer.flush()
        writer.record(kind, record)
    reader = BatchReader(path)
    found = sum(len(value) for kind, value in reader.records() if kind == "frames")
    batch = read(path.read_bytes())
    assert reader.lost_chunks == batch.lost
    return reader.lost_chunks, found, sum(len(raw.frames) for raw in batch.raw)


HOSTILE: list[dict[str, Any]] = [
    {"n": 0},
    {"n": -1},
    {"n": 2**40},
    {"n": 10**6},
    {"n": 41},
    {"n": 39},
    {"n": 40.0},
    {"n": True},
    {"n": None},
    {"kinds": 0},
    {"kinds": 41},
    {"kinds": 2**33},
    {"first": 2**63},
    {"first": "0"},
    {"resolution_ns": 0},
    {"resolution_ns": 10**11},
    {"bus": 5},
    {"bus": None},
    {"campaign": 5},
    {"clock": "sundial"},
    {"clock": []},
    {"columns": b""},
    {"columns": "text"},
    {"columns": None},
]


@pytest.mark.parametrize("change", HOSTILE, ids=str)
def test_a_record_that_contradicts_itself_costs_its_chunk(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    assert reads(tmp_path / "a.batch", {**good_record(), **change}) == (1, 3, 3)


@pytest.mark.parametrize("key", ["bus", "clock", "resolution_ns", "n", "kinds", "first", "columns"])
def test_a_record_that_lacks_a_part_costs_its_chunk(tmp_path: Path, key: str) -> None:
    record = good_record()
    del record[key]
    assert reads(tmp_path / "a.batch", record) == (1, 3, 3)


def test_unknown_keys_of_a_record_are_passed_over(tmp_path: Path) -> None:
    assert reads(tmp_path / "a.batch", {**good_record(), "later": [1, 2]}) == (0, 43, 43)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_columns_are_read_or_refused_and_both_readers_agree(data: st.DataObject) -> None:
    record = good_record()
    columns = bytearray(record["columns"])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(columns) - 1))
        columns[place] = data.draw(st.integers(0, 255))
    record["columns"] = bytes(columns[: data.draw(st.integers(0, len(columns)) | st.none())])
    with tempfile.TemporaryDirectory() as folder:
        lost, found, other = reads(Path(folder, "a.batch"), record)
    assert found == other == (3 if lost else 43)


def test_a_claim_of_many_long_frames_takes_no_memory(tmp_path: Path) -> None:
    """Frames without bytes, and one that is long, would be a gigabyte as arrays."""
    one = np.zeros((1, 60_000), np.uint8)
    none = np.zeros((20_000, 8), np.uint8)
    records = [
        pack_frames(
            KeptFrames(
                FrameBlock.from_arrays(
                    bus="b",
                    time=np.zeros(len(data), np.int64),
                    id=np.zeros(len(data)),
                    length=np.full(len(data), length),
                    data=data,
                )
            )
        )
        for data, length in ((none, 0), (one, 60_000))
    ]
    n = 20_001
    kinds = np.array([0, 0], "<u4").tobytes() + bytes(2) + np.array([0, 60_000], "<u2").tobytes()
    index = bytes(20_000) + b"\1"
    columns = kinds + b"\0" + b"\1" + index + bytes(60_000)
    assert records[0]["n"] == 20_000
    assert reads(tmp_path / "a.batch", {**records[1], "n": n, "kinds": 2, "columns": columns}) == (
        1,
        3,
        3,
    )


def test_many_small_records_of_one_chunk_take_no_memory_either(tmp_path: Path) -> None:
    empty = FrameBlock.from_arrays(
        bus="b",
        time=np.zeros(500_000, np.int64),
        id=np.zeros(500_000),
        length=np.zeros(500_000),
        data=np.zeros((500_000, 8), np.uint8),
    )
    record = pack_frames(KeptFrames(empty))
    assert len(record["columns"]) == 9
    with BatchWriter(tmp_path / "a.batch") as writer:
        for _ in range(5):
            writer.record(Record.FRAMES, record)
    reader = BatchReader(tmp_path / "a.batch")
    assert list(reader.records()) == []
    assert reader.lost_chunks == 1
    assert "impossible sizes" in reader.notes[0]


def test_an_event_is_any_map_with_numbers_of_arrays(tmp_path: Path) -> None:
    value = {
        "kind": "trip",
        "time": np.int64(5),
        "values": {"Speed": np.float64(1.5), "On": np.bool_(True)},
        "odd": {"a": [1]},
    }
    with BatchWriter(tmp_path / "a.batch") as writer:
        writer.add(Event(value))
    (record,) = [v for kind, v in BatchReader(tmp_path / "a.batch").records() if kind == "event"]
    assert record["time"] == 5
    assert record["values"] == {"Speed": 1.5, "On": True}
    assert record["odd"] == {"a": [1]}


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"time": "noon", "clock": "boot"},
        {"time": 2**63, "clock": "boot"},
        {"time": 1, "clock": "sundial"},
        {"time": 1.5, "clock": "boot"},
    ],
)
def test_what_says_no_time_is_no_event(tmp_path: Path, value: dict[str, Any]) -> None:
    with BatchWriter(tmp_path / "a.batch", boot_id="b1", anchors=[ANCHOR]) as writer:
        writer.add(Event(value))
    assert list(read_events(tmp_path / "a.batch")) == []


def test_frames_and_events_of_an_early_batch_are_dated_by_a_later_one(tmp_path: Path) -> None:
    block = FrameBlock.from_arrays(
        bus="b", time=[SECOND], id=[1], length=[0], data=np.zeros((1, 8), np.uint8)
    )
    early, later = tmp_path / "early.batch", tmp_path / "later.batch"
    with BatchWriter(early, boot_id="b1") as writer:
        writer.add(KeptFrames(block))
        writer.add(Event({"time": SECOND, "clock": "boot", "first": SECOND, "last": None}))
    with BatchWriter(later, boot_id="b1", anchors=[ANCHOR]) as writer:
        pass
    assert [kept.block.clock for kept in read_frames(early)] == ["boot"]
    (kept,) = read_frames(early, later)
    (event,) = read_events(early, later)
    dated = 1_700_000_001 * SECOND
    assert (kept.block.clock, kept.block.time.tolist()) == ("wall", [dated])
    assert event == {"time": dated, "clock": "wall", "first": dated, "last": None}


@needs_shared
def test_a_busy_bus_takes_less_than_two_bytes_a_frame(tmp_path: Path) -> None:
    """Two buses of a Kona, 3,600 frames a second, in chunks of a second."""
    path = tmp_path / "kona.batch"
    log = shared("logs/kona_230112-7-2019-pcan-ccan-power-off-on-ready-off.csv")
    blocks = list(read_log(log))
    begin = min(int(block.time.min()) for block in blocks)
    frames = 0
    with BatchWriter(path) as writer:
        for second in range(11):
            for block in blocks:
                rows = (block.time - begin) // SECOND == second
                if rows.any():
                    writer.add(KeptFrames(block[rows]))
                    frames += int(rows.sum())
            writer.flush()
    assert frames == sum(map(len, blocks))
    assert path.stat().st_size < 2 * frames
