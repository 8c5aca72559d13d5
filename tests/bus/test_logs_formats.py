"""Every format against python-can's own reader, on recordings made here and on real ones."""

import itertools
from pathlib import Path

import can
import numpy as np
import pytest

from agent.blocks import FD_FRAME, REMOTE, FrameBlock
from agent.bus import read_log
from tests.bus import recordings
from tests.bus.recordings import KINDS, READERS, Row, drive, write
from tests.shared_data import needs_shared, shared

# python-can counts the channels of these from 0, the files from 1.
FIRST_CHANNEL = {"asc": 1, "blf": 1}


def assert_same_as_python_can(path: Path, kind: str, *, limit: int | None = None) -> None:
    with READERS[kind](path) as messages:
        theirs = list(itertools.islice(messages, limit))
    first = FIRST_CHANNEL.get(kind, 0)
    expected = sorted(
        ((m.timestamp, recordings.row_of_message(m, first_channel=first)) for m in theirs),
        key=lambda pair: (pair[1].bus, pair[0]),
    )
    with read_log(path) as reader:
        ours = recordings.rows_of_blocks(reader)
        assert (reader.bad, reader.notes) == (0, [])
    if limit is not None:
        last = max(time for time, _ in expected)
        ours = [pair for pair in ours if pair[0] <= (last + 5e-7) * 1e9]
    ours.sort(key=lambda pair: (pair[1].bus, pair[0]))
    assert [row for _, row in ours] == [row for _, row in expected]
    np.testing.assert_allclose(
        [time / 1e9 for time, _ in ours], [time for time, _ in expected], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("kind", ["log", "asc", "blf", "trc", "mf4"])
def test_a_recording_reads_as_python_can_reads_it(tmp_path: Path, kind: str) -> None:
    channels = ("vcan0", "can1", "obd") if kind == "log" else (0, 1, 3)
    messages = drive(600, channels=channels, kinds=KINDS[kind])
    path = write(tmp_path / f"drive.{kind}", messages)
    assert_same_as_python_can(path, kind)


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.3", "2.0", "2.1"])
def test_each_version_of_a_peak_trace_reads_as_python_can_reads_it(
    tmp_path: Path, version: str
) -> None:
    kinds = ("classic", "remote", "fd") if version == "2.1" else ("classic", "remote")
    path = tmp_path / "drive.trc"
    path.write_bytes(recordings.trc(version, drive(300, channels=(1, 2), kinds=kinds)))

    with can.TRCReader(path) as messages:
        theirs = list(messages)
    # python-can leaves the DLC of FD frames as the code that it is.
    for message in theirs:
        if message.is_fd:
            message.dlc = len(message.data)
        if version == "1.0":
            message.is_rx = True
    with read_log(path) as reader:
        ours = recordings.rows_of_blocks(reader)
        assert reader.bad == 0
    expected = sorted((recordings.row_of_message(m) for m in theirs), key=lambda row: row.bus)
    assert [row for _, row in sorted(ours, key=lambda p: p[1].bus)] == expected
    assert {round(time / 1000) for time, _ in ours} == {
        round(m.timestamp * 1_000_000) for m in theirs
    }


def test_events_and_warnings_of_a_peak_trace_are_no_frames_and_not_bad(tmp_path: Path) -> None:
    path = tmp_path / "drive.trc"
    path.write_text(
        ";$FILEVERSION=1.1\n;$STARTTIME=40000.0\n"
        "     1)      1059.9  Rx         0300  2  00 01\n"
        "     2)      1283.2  Warng  FFFFFFFF  4  00 00 00 08  BUSHEAVY\n"
        "     3)      1290.0  Error      0004  4  00 00 00 08\n"
    )
    with read_log(path) as reader:
        assert sum(len(block) for block in reader) == 1
        assert reader.bad == 0


@pytest.mark.parametrize("direction", [False, True])
def test_gvret_gives_what_was_written(tmp_path: Path, direction: bool) -> None:
    messages = drive(500)
    path = tmp_path / "drive.csv"
    path.write_bytes(recordings.gvret(messages, direction=direction))
    for message in messages:
        message.is_rx = message.is_rx or not direction
    with read_log(path) as reader:
        ours = recordings.rows_of_blocks(reader)
        assert (reader.format, reader.bad) == ("gvret", 0)
    expected = [(recordings.microseconds(m) * 1000, recordings.row_of_message(m)) for m in messages]
    assert sorted(ours) == sorted(expected)


def blocks_of(tmp_path: Path, name: str, text: str) -> list[FrameBlock]:
    path = tmp_path / name
    path.write_text(text)
    return list(read_log(path))


def test_candump_knows_every_way_to_write_a_frame(tmp_path: Path) -> None:
    rows = recordings.rows_of_blocks(
        blocks_of(
            tmp_path,
            "all.log",
            "(0.000000001) vcan0 123#R\n"
            "(1.5) vcan0 123#R8\n"
            "(0002.25) vcan0 00000123#\n"
            "(3.000000) vcan0 7FF##3001122334455667788AABBCC T\n"
            "(4.000000) vcan0 20000088#0000000000000000\n"
            "(5) vcan0 1FFFFFFF#0102030405060708_E R\n"
            "(-6.000000001) vcan0 001#ff\n",
        )
    )
    assert rows == [
        (1, Row("vcan0", 0x123 | REMOTE, 0, 0, b"")),
        (1_500_000_000, Row("vcan0", 0x123 | REMOTE, 0, 8, b"")),
        (2_250_000_000, Row("vcan0", 0x80000123, 0, 0, b"")),
        (
            3_000_000_000,
            Row("vcan0", 0x7FF, 0x87, 12, bytes.fromhex("001122334455667788AABBCC")),
        ),
        (4_000_000_000, Row("", 0x20000000, 0, 0, b"")),
        (5_000_000_000, Row("vcan0", 0x9FFFFFFF, 0, 8, bytes(range(1, 9)))),
        (-6_000_000_001, Row("vcan0", 1, 0, 1, b"\xff")),
    ]


def test_an_error_frame_of_candump_keeps_its_class_and_data(tmp_path: Path) -> None:
    (block,) = blocks_of(tmp_path, "e.log", "(4.000000) can0 20000204#0008000000006000\n")
    assert block.id.tolist() == [0x20000204]
    assert block.data[0].tobytes().hex() == "0008000000006000"


def test_asc_in_decimal_reads_ids_data_and_dlc_as_decimal(tmp_path: Path) -> None:
    rows = recordings.rows_of_blocks(
        blocks_of(
            tmp_path,
            "dec.asc",
            "date Thu Nov 9 20:36:33 2023\nbase dec  timestamps absolute\n"
            "0.10 1 1000 Rx d 3 1 20 255\n0.20 2 300000000x Tx d 1 100\n0.30 1 5 Rx r 8\n",
        )
    )
    assert [row for _, row in rows] == [
        Row("1", 1000, 0, 3, bytes([1, 20, 255])),
        Row("1", 5 | REMOTE, 0, 8, b""),
        Row("2", 300000000 | 0x80000000, 0x80, 1, b"\x64"),
    ]


def test_asc_relative_times_are_added_up_over_events_that_are_no_frames(tmp_path: Path) -> None:
    (block,) = blocks_of(
        tmp_path,
        "rel.asc",
        "base hex timestamps relative\n"
        "0.1 1 10 Rx d 1 00\n0.1 1 Statistic: D 1 R 0\n0.000001 1 10 Rx d 1 00\n"
        "base hex timestamps absolute\n7.0 1 10 Rx d 1 00\n"
        "base hex timestamps relative\n0.5 1 10 Rx d 1 00\n",
    )
    assert block.time.tolist() == [100_000_000, 200_001_000, 7_000_000_000, 7_500_000_000]


def test_asc_passes_over_what_is_no_frame_without_calling_it_bad(tmp_path: Path) -> None:
    path = tmp_path / "events.asc"
    path.write_text(
        "date Thu Nov 9 08:36:33.123 pm 2023\nbase hex  timestamps absolute\n"
        "no internal events logged\n// version 9.0.0\nBegin Triggerblock Thu Nov 9 2023\n"
        "   0.000000 Start of measurement\n\n"
        "   0.015991 CAN 1 Status:chip status error passive - TxErr: 132 RxErr: 0\n"
        "   0.016000 1  Statistic: D 1 R 0 XD 0 XR 0 E 0 O 0 B 0.04%\n"
        "   0.017000 1  64  TxRq d 2 00 01\n"
        "   0.018000 SV: 2 0 1 ::Window\n"
        "   0.019000 1  64  Rx d 2 00 01  Length = 215910 BitCount = 112 ID = 100\n"
        "   0.020000 1  ErrorFrame   ECC: 10100010\n"
        "End TriggerBlock\n"
    )
    with read_log(path) as reader:
        (block,) = reader
        assert (reader.bad, reader.notes) == (0, [])
    assert block.id.tolist() == [0x64, 0x20000000]


def test_a_canfd_line_of_asc_may_have_a_name_and_may_hold_a_classic_frame(tmp_path: Path) -> None:
    tail = "102203 133 {} e0006659 46500250 4b140250 20011736 2001040d"
    rows = recordings.rows_of_blocks(
        blocks_of(
            tmp_path,
            "fd.asc",
            "base hex  timestamps absolute\n"
            f"0.1 CANFD 1 Rx 300 1 0 9 12 {'0A ' * 12} {tail.format('303000')}\n"
            f"0.2 CANFD 1 Tx 18fx EngineData 0 1 8 8 {'0B ' * 8} {tail.format('205000')}\n"
            f"0.3 CANFD 1 Rx 300 0 0 2 2 0C 0D {tail.format('200000')}\n"
            "0.4 CANFD 1 Tx 50005x 0 0 5 0 140000 73 200050 7a60 46500250 460a0250 20011736\n"
            "0.5 CANFD 1 Rx ErrorFrame Not Acknowledge error\n",
        )
    )
    assert [row for _, row in rows] == [
        Row("1", 0x300, FD_FRAME | 1, 12, b"\x0a" * 12),
        Row("1", 0x8000018F, FD_FRAME | 2 | 0x80, 8, b"\x0b" * 8),
        Row("1", 0x300, 0, 2, b"\x0c\x0d"),
        Row("1", 0x50005 | 0xC0000000, 0x80, 5, b""),
        Row("", 0x20000000, 0, 0, b""),
    ]


@needs_shared
@pytest.mark.parametrize(
    ("name", "kind", "limit"),
    [
        ("savvycan_candump.log", "log", None),
        ("kona_bms_idle30.asc", "asc", None),
        ("css_canmodgps_seq_02.mf4", "mf4", 3000),
        ("css_j1939_truck_400s.mf4", "mf4", 3000),
    ],
)
def test_a_real_recording_reads_as_python_can_reads_it(
    name: str, kind: str, limit: int | None
) -> None:
    assert_same_as_python_can(shared(f"logs/{name}"), kind, limit=limit)


@needs_shared
@pytest.mark.parametrize(
    ("name", "frames"),
    [
        ("savvycan_candump.log", {"vcan0": 12974}),
        ("kona_bms_idle30.asc", {"0": 5934}),
        ("css_canmodgps_seq_02.mf4", {"1": 8469, "2": 65343}),
        ("css_j1939_truck_400s.mf4", {"1": 139136, "9": 11275}),
        ("kona_230112-7-2019-pcan-ccan-power-off-on-ready-off.csv", {"0": 24263, "1": 15283}),
    ],
)
def test_every_frame_of_a_real_recording_is_there(name: str, frames: dict[str, int]) -> None:
    found: dict[str, int] = {}
    with read_log(shared(f"logs/{name}")) as reader:
        for block in reader:
            found[block.bus] = found.get(block.bus, 0) + len(block)
        assert reader.bad == 0
    assert found == frames
