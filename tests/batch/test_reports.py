"""Reports to a platform come back, through the product's reader and through an independent one."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.batch import BatchReader, BatchWriter, read_reports
from agent.batch.encoder import BatchEncoder
from agent.batch.format import Record
from agent.batch.reports import pack_reports
from agent.blocks import FrameBlock, KeptFrames, Reports, SignalSchema, SignalTable, TableSchema
from agent.clock import SECOND
from agent.errors import BatchError
from tests.batch.independent_reader import Batch, read

Row = tuple[str, str, int, bytes]
"""Form, clock, time, body."""

OLD, NEW = "gbt32960-2016", "gbt32960-2025"
ANCHOR = {"boot_id": "b1", "boot": 0, "wall": 1_700_000_000 * SECOND, "quality": "gnss"}
SPEED = TableSchema("bus0", "Motor", (SignalSchema("Speed", "uint64", 16),))
I64 = st.integers(-(2**63), 2**63 - 1)


def reports(
    times: list[int], bodies: list[bytes], *, form: str = OLD, clock: Any = "boot"
) -> Reports:
    return Reports(form, np.array(times, np.int64), tuple(bodies), clock)


def rows_of(each: Reports) -> list[Row]:
    times = each.time.tolist()
    return [(each.form, each.clock, t, body) for t, body in zip(times, each.bodies, strict=True)]


def product(path: Path) -> list[Row]:
    records = BatchReader(path).records()
    return [row for kind, value in records if kind == "reports" for row in rows_of(value)]


def independent(batch: Batch) -> list[Row]:
    return [
        (each.record["form"], each.record["clock"], time, body)
        for each in batch.reported
        for time, body in each.reports
    ]


@st.composite
def some_reports(draw: st.DrawFn) -> Reports:
    rows = draw(st.lists(st.tuples(I64, st.binary(max_size=30)), max_size=8))
    return reports(
        [time for time, _ in rows],
        [body for _, body in rows],
        form=draw(st.sampled_from((OLD, NEW, "other"))),
        clock=draw(st.sampled_from(("boot", "recorded"))),
    )


@settings(max_examples=60, deadline=None)
@given(chunks=st.lists(st.lists(some_reports(), max_size=4), max_size=18))
def test_what_is_written_comes_back(chunks: list[list[Reports]]) -> None:
    written: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "some.batch")
        with BatchWriter(path) as writer:
            for kept in chunks:
                for each in kept:
                    writer.add(each)
                    written += rows_of(each)
                writer.flush()
        batch = read(path.read_bytes())
        found = product(path)
        totals = BatchReader(path).totals()
    assert batch.lost == 0
    assert batch.footer is not None
    assert batch.footer["samples"] == batch.footer.get("reports", 0) == len(written)
    assert totals == {"samples": len(written), **({"reports": len(written)} if written else {})}
    assert found == independent(batch)
    for key in {row[:2] for row in written}:  # within a form and clock nothing is moved
        assert [r for r in found if r[:2] == key] == [r for r in written if r[:2] == key]
    assert len(found) == len(written)
    times = [row[2] for row in written]
    ends = batch.footer["first"], batch.footer["last"]
    assert ends == (min(times, default=None), max(times, default=None))


@pytest.mark.parametrize(("n", "size"), [(150_000, 0), (6_000, 3_000), (200, 65_525)])
def test_what_does_not_fit_one_record_becomes_several(tmp_path: Path, n: int, size: int) -> None:
    rng = np.random.default_rng(n)
    bodies = [rng.bytes(size) for _ in range(n)]
    written = reports(list(range(n)), bodies)
    path = tmp_path / "big.batch"
    with BatchWriter(path) as writer:
        writer.add(written)
    reader = BatchReader(path)
    found = [value for kind, value in reader.records() if kind == "reports"]
    assert reader.lost_chunks == 0
    assert len(found) > 1
    assert [row for each in found for row in rows_of(each)] == rows_of(written)


def test_a_body_that_no_chunk_can_hold_is_refused() -> None:
    """Rather than written as a chunk that no reader would take."""
    encoder = BatchEncoder({"batch_id": "a"})
    encoder.begin()
    with pytest.raises(ValueError, match="too long"):
        encoder.chunk([reports([1], [bytes(13 << 20)])])


def some_batch(path: Path) -> list[Row]:
    """Reports, frames and samples side by side; all reports differ."""
    rng = np.random.default_rng(5)
    written: list[Row] = []
    with BatchWriter(path, boot_id="b1", anchors=[ANCHOR]) as writer:
        for chunk in range(36):
            times = [chunk * SECOND + n for n in range(1 + chunk % 4)]
            kept = reports(
                times, [rng.bytes(8) + bytes(20) for _ in times], form=(OLD, NEW)[chunk % 2]
            )
            written += rows_of(kept)
            writer.add(kept)
            at = np.array([chunk * SECOND])
            writer.add(SignalTable(SPEED, at, {"uint64": np.array([[chunk]], np.uint64)}))
            block = FrameBlock.from_arrays(
                bus="b", time=at, id=[chunk], length=[8], data=np.full((1, 8), chunk)
            )
            writer.add(KeptFrames(block))
            writer.flush()
    return written


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[Row], Path]:
    folder = tmp_path_factory.mktemp("damage")
    rows = some_batch(folder / "sound.batch")
    return (folder / "sound.batch").read_bytes(), rows, folder / "damaged.batch"


def test_a_damaged_chunk_costs_the_reports_up_to_the_next_zstd_frame(
    sound: tuple[bytes, list[Row], Path],
) -> None:
    whole, written, path = sound
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    path.write_bytes(damaged)
    found = product(path)
    assert 0 < len(found) < len(written)
    assert (found[0], found[-1]) == (written[0], written[-1])
    assert found == independent(read(bytes(damaged)))
    reader = BatchReader(path)
    assert reader.count_samples() < (reader.scan().samples or 0)
    assert reader.lost_chunks > 0


@settings(max_examples=250, deadline=None)
@given(
    flips=st.lists(
        st.tuples(st.integers(0, 2**20), st.integers(1, 255)), min_size=1, max_size=4, unique=True
    )
)
def test_damage_loses_chunks_but_never_invents_a_report(
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
    rng = np.random.default_rng(3)
    times = np.cumsum(rng.integers(0, 10**9, 40)).tolist()
    return pack_reports(reports(times, [rng.bytes(n % 7) for n in range(40)]))


def reads(path: Path, record: dict[str, Any]) -> tuple[int, int, int]:
    """Of a batch with this record in its second chunk: chunks lost, reports by both readers."""
    with BatchWriter(path) as writer:
        writer.add(reports([1, 2, 3], [b"a", b"", b"ccc"]))
        writer.flush()
        writer.record(Record.REPORTS, record)
    reader = BatchReader(path)
    found = sum(len(value) for kind, value in reader.records() if kind == "reports")
    batch = read(path.read_bytes())
    assert reader.lost_chunks == batch.lost
    return reader.lost_chunks, found, sum(len(each.reports) for each in batch.reported)


HOSTILE: list[dict[str, Any]] = [
    {"n": 0},
    {"n": -1},
    {"n": 2**40},
    {"n": 262_145},
    {"n": 41},
    {"n": 39},
    {"n": 40.0},
    {"n": True},
    {"n": None},
    {"first": 2**63},
    {"first": "0"},
    {"form": 5},
    {"form": None},
    {"clock": "sundial"},
    {"clock": []},
    {"bodies": b""},
    {"bodies": "text"},
    {"bodies": None},
    {"bodies": bytes(10_000)},
    {"columns": b""},
    {"columns": "text"},
    {"columns": None},
    # Eight bytes a length: four of 2**62 bytes would add up to nothing.
    {"n": 4, "bodies": b"", "columns": b"\0\x08" + bytes(28) + b"\x40" * 4},
    {"n": 262_143, "bodies": bytes(100), "columns": b"\0\0"},
]


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: str(change)[:60])
def test_a_record_that_contradicts_itself_costs_its_chunk(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    assert reads(tmp_path / "a.batch", {**good_record(), **change}) == (1, 3, 3)


@pytest.mark.parametrize("key", ["form", "clock", "n", "first", "columns", "bodies"])
def test_a_record_that_lacks_a_part_costs_its_chunk(tmp_path: Path, key: str) -> None:
    record = good_record()
    del record[key]
    assert reads(tmp_path / "a.batch", record) == (1, 3, 3)


def test_unknown_keys_of_a_record_are_passed_over(tmp_path: Path) -> None:
    assert reads(tmp_path / "a.batch", {**good_record(), "later": [1, 2]}) == (0, 43, 43)


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_any_columns_are_read_or_refused_and_both_readers_agree(data: st.DataObject) -> None:
    record = good_record()
    for key in ("columns", "bodies"):
        mutated = bytearray(record[key])
        for _ in range(data.draw(st.integers(0, 3))):
            mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
        cut = data.draw(st.none() | st.integers(0, len(mutated)))
        record[key] = bytes(mutated[:cut])
    record["n"] = data.draw(st.just(40) | st.integers(-1, 2**19))
    with tempfile.TemporaryDirectory() as folder:
        lost, found, other = reads(Path(folder, "a.batch"), record)
    assert found == other == (3 if lost else 3 + record["n"])


def test_many_small_records_of_one_chunk_take_no_memory(tmp_path: Path) -> None:
    record = pack_reports(reports([0] * 150_000, [b""] * 150_000))
    assert record["columns"] == b"\0\0"
    with BatchWriter(tmp_path / "a.batch") as writer:
        for _ in range(2):
            writer.record(Record.REPORTS, record)
    reader = BatchReader(tmp_path / "a.batch")
    assert list(reader.records()) == []
    assert reader.lost_chunks == 1
    assert "impossible sizes" in reader.notes[0]
    assert read((tmp_path / "a.batch").read_bytes()).lost == 1


def test_reports_of_an_early_batch_are_dated_by_a_later_one(tmp_path: Path) -> None:
    early, later = tmp_path / "early.batch", tmp_path / "later.batch"
    with BatchWriter(early, boot_id="b1") as writer:
        writer.add(reports([SECOND + 7], [b"x"]))
        writer.add(reports([5 * SECOND], [b"y"], clock="recorded"))
    with BatchWriter(later, boot_id="b1", anchors=[ANCHOR]):
        pass
    assert [each.clock for each in read_reports(early)] == ["boot", "recorded"]
    dated, recorded = read_reports(early, later)
    assert rows_of(dated) == [(OLD, "wall", 1_700_000_001 * SECOND + 7, b"x")]
    assert rows_of(recorded) == [(OLD, "recorded", 5 * SECOND, b"y")]


def test_a_boot_without_a_good_anchor_dates_no_report(tmp_path: Path) -> None:
    path = tmp_path / "a.batch"
    bad = {**ANCHOR, "quality": "unsynchronised"}
    other = {**ANCHOR, "boot_id": "b2"}
    with BatchWriter(path, boot_id="b1", anchors=[bad, other]) as writer:
        writer.add(reports([SECOND], [b"x"]))
    (each,) = read_reports(path)
    assert rows_of(each) == [(OLD, "boot", SECOND, b"x")]
