"""What holds for every format: blocks, channels, compression, cut files, and errors in words."""

import gzip
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from backports import zstd

from agent.blocks import MAX_BLOCK_FRAMES
from agent.bus import FrameBlock, LogReader, read_log
from agent.errors import BusError
from tests.bus import recordings
from tests.bus.recordings import KINDS, drive, write

FORMATS = {
    "log": "candump",
    "asc": "asc",
    "blf": "blf",
    "trc": "trc",
    "mf4": "mf4",
    "csv": "gvret",
}
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstd.compress,
}


@pytest.fixture(scope="module", params=list(FORMATS))
def recording(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short recording of each format."""
    kind: str = request.param
    path = tmp_path_factory.mktemp("logs") / f"drive.{kind}"
    return write(path, drive(120, channels=(0, 2), kinds=KINDS[kind]))


def candump_lines(count: int, buses: tuple[str, ...] = ("can0",)) -> str:
    return "".join(
        f"({n}.{n % 1_000_000:06d}) {buses[n % len(buses)]} {n % 0x7FF:03X}#{n:016X}\n"
        for n in range(count)
    )


def read(path: Path, **options: str) -> tuple[LogReader, list[FrameBlock]]:
    with read_log(path, **options) as reader:
        return reader, list(reader)


def same(one: list[FrameBlock], other: list[FrameBlock]) -> bool:
    return len(one) == len(other) and all(
        a.bus == b.bus
        and np.array_equal(a.time, b.time)
        and np.array_equal(a.id, b.id)
        and np.array_equal(a.length, b.length)
        and np.array_equal(a.flags, b.flags)
        and np.array_equal(a.data, b.data)
        for a, b in zip(one, other, strict=True)
    )


def test_a_reader_tells_its_format_and_how_far_it_is(recording: Path) -> None:
    with read_log(recording) as reader:
        assert reader.format == FORMATS[recording.suffix[1:]]
        assert 0 <= reader.progress <= 1
        blocks = list(reader)
        assert reader.progress == 1
        assert next(reader, None) is None
    assert {block.clock for block in blocks} == {"recorded"}


def test_blocks_have_the_dtypes_and_shapes_of_the_design(recording: Path) -> None:
    for block in read_log(recording):
        assert block.time.dtype == np.int64
        assert block.id.dtype == np.uint32
        assert block.length.dtype == np.uint16
        assert block.flags.dtype == np.uint8
        assert block.data.dtype == np.uint8
        assert block.data.shape == (len(block), 64 if block.length.max() > 8 else 8)


@pytest.mark.parametrize("suffix", list(PACKERS))
def test_a_compressed_recording_gives_the_same_blocks(
    recording: Path, tmp_path: Path, suffix: str
) -> None:
    packed = tmp_path / (recording.name + suffix)
    packed.write_bytes(PACKERS[suffix](recording.read_bytes()))
    assert same(read(packed)[1], read(recording)[1])


def test_content_tells_the_format_where_the_name_says_nothing_or_is_wrong(
    recording: Path, tmp_path: Path
) -> None:
    plain, blocks = read(recording)
    for name in ("drive.txt", "drive", "drive.blf", "drive.log", "drive.bin.gz"):
        other = tmp_path / name
        other.write_bytes(recording.read_bytes())
        reader, read_blocks = read(other)
        assert reader.format == plain.format
        assert same(read_blocks, blocks)


def test_a_channel_is_chosen_by_its_name_or_by_its_number(recording: Path) -> None:
    _, blocks = read(recording)
    for bus in {block.bus for block in blocks}:
        wanted = [block for block in blocks if block.bus == bus]
        number = bus.removeprefix("can")
        assert same(read(recording, channel=bus)[1], wanted)
        assert same(read(recording, channel=number)[1], wanted)


def test_the_name_of_the_bus_replaces_the_channel(recording: Path) -> None:
    _, blocks = read(recording, bus="powertrain")
    assert {block.bus for block in blocks} == {"powertrain"}


def test_a_channel_that_is_not_there_is_said_with_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "drive.log"
    path.write_text(candump_lines(10, ("can0", "can1")))
    reader, blocks = read(path, channel="7")
    assert blocks == []
    assert reader.bad == 0
    assert reader.notes == ["drive.log: no frame is of channel 7; there are can0, can1"]


def test_a_number_is_the_whole_number_at_the_end_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "drive.log"
    path.write_text(candump_lines(40, ("can1", "can11", "vcan01", "1")))
    assert {b.bus for b in read(path, channel="1")[1]} == {"can1", "vcan01", "1"}
    assert {b.bus for b in read(path, channel="can1")[1]} == {"can1"}


def test_a_block_ends_at_16384_frames_and_windows_keep_buses_together(tmp_path: Path) -> None:
    path = tmp_path / "drive.log"
    path.write_text(candump_lines(40_000, ("can0", "can1", "can1")))
    reader, blocks = read(path)
    again = read(path)[1]
    assert same(blocks, again)
    assert reader.bad == 0
    assert sum(len(b) for b in blocks) == 40_000
    windows = [blocks[n : n + 2] for n in range(0, len(blocks), 2)]
    assert [sum(len(b) for b in w) for w in windows] == [MAX_BLOCK_FRAMES, MAX_BLOCK_FRAMES, 7232]
    for window in windows:
        assert {b.bus for b in window} == {"can0", "can1"}
        assert all((np.diff(b.time) > 0).all() for b in window)
    (first, *_) = read(path, channel="can0")[1]
    assert len(first) == 40_000 // 3 + 1


def test_only_blocks_with_long_frames_are_wide(tmp_path: Path) -> None:
    path = tmp_path / "drive.log"
    long = f"(0.1) can0 123##1{'AB' * 64}\n"
    path.write_text(long + candump_lines(MAX_BLOCK_FRAMES))
    assert [(len(b), b.data.shape[1]) for b in read(path)[1]] == [(MAX_BLOCK_FRAMES, 64), (1, 8)]


@pytest.mark.parametrize(
    ("name", "head", "line"),
    [
        ("drive.log", "", "(1.5) can0 123#1122334455667788 R"),
        ("drive.log", "", "(1.5) can0 123#11223344"),
        ("drive.asc", "base hex timestamps absolute\n", "0.1 1 123 Rx d 4 11 22 33 44"),
        ("drive.trc", "", "1) 0.1 0123 4 11 22 33 44"),
        ("drive.csv", "Time Stamp,ID,Extended,Bus,LEN,D1\n", "1,00000123,false,0,4,11,22,33,44"),
    ],
)
def test_a_line_that_is_cut_anywhere_is_counted_and_named_and_never_misread(
    tmp_path: Path, name: str, head: str, line: str
) -> None:
    path = tmp_path / name
    whole = f"{head}{line}\n{line}\n{line}"
    lines = whole.count("\n") + 1
    (expected, *_) = read_rows(path, whole)
    for cut in range(1, len(line)):
        rows, reader = read_rows(path, whole[:-cut])
        assert rows == expected[: len(rows)]
        assert len(rows) + reader.bad == 3
        if reader.bad:
            assert reader.notes == [f"{name}:{lines}: cut in mid-line, skipped"]
        else:
            assert line.startswith("(")
            assert whole[:-cut].endswith(("R", "8", "8 ")), "only the direction may be missing"


def read_rows(path: Path, text: str) -> tuple[list[tuple[int, recordings.Row]], LogReader]:
    path.write_text(text)
    with read_log(path) as reader:
        return recordings.rows_of_blocks(reader), reader


def test_a_last_line_without_a_line_end_counts_where_nothing_is_missing(tmp_path: Path) -> None:
    rows, reader = read_rows(tmp_path / "drive.log", "(1) can0 123#1122\n(2) can0 123#3344")
    assert len(rows) == 2
    assert reader.bad == 0


def test_bad_lines_cost_themselves_and_the_first_ten_are_named(tmp_path: Path) -> None:
    path = tmp_path / "drive.log"
    bad = [
        "(1.0) can0 123#112",
        "(1.0) can0 123#GG",
        "(1.0) can0 #11",
        "(1.0) can0 123456789#11",
        "(1.0) can0 123##",
        "(1.0) can0 123#112233445566778899",
        f"(1.0) can0 123##0{'00' * 65}",
        "(x.0) can0 123#11",
        "1.0 can0 123#11",
        "(1.0) can0 123#11 X",
        "(1.0) can0 123#11 R more",
        "(99999999999999999999.0) can0 123#11",
        "garbage",
    ]
    path.write_text("".join(f"{line}\n(2.0) can0 123#11\n\n" for line in bad))
    reader, blocks = read(path)
    assert sum(len(b) for b in blocks) == len(bad)
    assert reader.bad == len(bad)
    assert len(reader.notes) == 10
    assert reader.notes[1] == "drive.log:4: not a frame as candump writes it, skipped"


@pytest.mark.parametrize(
    ("name", "text", "bad"),
    [
        ("a.asc", "base hex\n0.1 1 123 Rx d 2 11\n0.1 1 123 Rx q 2 11\njunk\n0.1 1 7 Rx d 0\n", 3),
        ("a.asc", "base hex\n0.1 1 FFFFFFFFx Rx d 0\n0.1 1 3 Rx d 1 1FF\n0.1 1 7 Rx d 0\n", 2),
        ("a.asc", "base dec\n0.1 1 3 Rx d 1 256\n0.1 CANFD 1 Rx 3 0 0 8 65\n0.1 1 7 Rx d 0\n", 2),
        ("a.trc", "1) 1 0123 9 1 2 3 4 5 6 7 8 9\n2) x 0123 0\n3) 1 G 0\n4) 1 0001 0\n", 3),
        ("a.csv", "Time Stamp,ID,Extended,Bus,LEN\n1,1,x,0,0\n1,1,true,0,65\n1,1,true,0,0\n", 2),
    ],
)
def test_hostile_fields_are_bad_lines(tmp_path: Path, name: str, text: str, bad: int) -> None:
    rows, reader = read_rows(tmp_path / name, text)
    assert len(rows) == 1
    assert reader.bad == bad


@pytest.mark.parametrize("suffix", list(PACKERS))
def test_a_compressed_file_that_ends_early_gives_what_came_before(
    tmp_path: Path, suffix: str
) -> None:
    text = "".join(
        f"({n}.000000) can0 123#{n * 0x9E3779B97F4A7C15 % (1 << 64):016X}\n" for n in range(20_000)
    )
    packed = PACKERS[suffix](text.encode())
    path = tmp_path / f"drive.log{suffix}"
    path.write_bytes(packed[: len(packed) * 3 // 4])
    reader, blocks = read(path)
    count = sum(len(b) for b in blocks)
    assert 1000 < count < 20_000
    assert reader.bad >= 1
    assert any("is cut or damaged" in note for note in reader.notes)
    times = np.concatenate([b.time for b in blocks])
    assert times.tolist() == [n * 1_000_000_000 for n in range(count)]


def test_a_cut_blf_gives_the_whole_objects_and_counts_the_rest(tmp_path: Path) -> None:
    messages = drive(3000, kinds=KINDS["blf"])
    whole = write(tmp_path / "whole.blf", messages, max_container_size=4096)
    expected = sorted(recordings.rows_of_blocks(read(whole)[1]))
    raw = whole.read_bytes()
    path = tmp_path / "cut.blf"
    for share in (0.3, 0.61, 0.999):
        path.write_bytes(raw[: int(len(raw) * share)])
        reader, blocks = read(path)
        rows = sorted(recordings.rows_of_blocks(blocks))
        assert rows == expected[: len(rows)]
        assert len(rows) > 2900 * share - 200
        assert reader.bad == 1


def test_damage_inside_a_blf_costs_the_frames_around_it(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.blf", drive(5000), max_container_size=4096)
    expected = set(recordings.rows_of_blocks(read(whole)[1]))
    raw = bytearray(whole.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 64] = bytes(64)
    path = tmp_path / "damaged.blf"
    path.write_bytes(raw)
    reader, blocks = read(path)
    rows = set(recordings.rows_of_blocks(blocks))
    assert rows <= expected
    assert len(rows) > 4700
    assert reader.bad >= 1


def test_data_that_looks_like_an_object_of_a_blf_is_data(tmp_path: Path) -> None:
    messages = drive(200)
    for message in messages[50:150]:
        message.data = bytearray(b"xLOBJ\x20\0\1")
        message.dlc = 8
    path = write(tmp_path / "drive.blf", messages)
    reader, blocks = read(path)
    assert sum(len(b) for b in blocks) == 200
    assert reader.bad == 0


@pytest.mark.parametrize("level", [0, 9])
def test_a_blf_is_read_whether_its_containers_are_packed_or_not(tmp_path: Path, level: int) -> None:
    path = write(
        tmp_path / "drive.blf", drive(500), compression_level=level, max_container_size=1000
    )
    reader, blocks = read(path)
    assert sum(len(b) for b in blocks) == 500
    assert reader.bad == 0


def test_each_failure_to_open_is_a_sentence(tmp_path: Path) -> None:
    empty = tmp_path / "empty.log"
    empty.touch()
    empty_gz = tmp_path / "empty.log.gz"
    empty_gz.write_bytes(gzip.compress(b""))
    unknown = tmp_path / "notes.txt"
    unknown.write_text("bread, milk")
    other_csv = tmp_path / "prices.csv"
    other_csv.write_text("a,b\n1,2\n")
    not_blf = tmp_path / "drive.blf"
    not_blf.write_bytes(b"\0" * 100)
    for path, words in [
        (tmp_path / "none.log", "There is no recording"),
        (tmp_path, "is a directory"),
        (empty, "is an empty recording"),
        (empty_gz, "is an empty recording"),
        (unknown, "candump (.log), Vector (.asc, .blf), PEAK (.trc)"),
        (other_csv, "does not begin as a .csv recording does"),
        (not_blf, "does not begin as a .blf recording does"),
        (Path("a\0b.log"), "cannot be opened"),
        (Path("/dev/null"), "is no regular file"),
        (empty / "x.log", "cannot be opened"),
    ]:
        with pytest.raises(BusError) as caught:
            read_log(path)
        assert words in str(caught.value)
        assert str(caught.value).endswith(".")


def test_an_mdf_file_without_asammdf_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "drive.mf4", drive(5))
    monkeypatch.setitem(sys.modules, "asammdf", None)
    with (
        read_log(path) as reader,
        pytest.raises(BusError, match=r"pip install 'vehicle-edge-agent\[mdf\]'"),
    ):
        next(reader)


@pytest.mark.parametrize("content", [b"MDF     3.30    " + bytes(400), b"MDF     4.10    " * 9])
def test_an_mdf_file_that_cannot_be_read_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "drive.mf4"
    path.write_bytes(content)
    with read_log(path) as reader, pytest.raises(BusError, match=r"drive\.mf4 is "):
        next(reader)


def test_a_peak_trace_of_an_unknown_version_is_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "drive.trc"
    path.write_text(";$FILEVERSION=3.0\n1) 1 0123 0\n")
    with read_log(path) as reader, pytest.raises(BusError, match=r"of version '3\.0'"):
        next(reader)


def test_a_closed_reader_has_no_more_blocks(tmp_path: Path) -> None:
    path = tmp_path / "drive.log"
    path.write_text(candump_lines(40_000))
    reader = read_log(path)
    assert len(next(reader)) == MAX_BLOCK_FRAMES
    assert 0 < reader.progress <= 1
    reader.close()
    assert list(reader) == []
