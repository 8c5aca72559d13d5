"""Figures of each signal of a recording."""

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.blocks import ERROR, EXTENDED, REMOTE, FrameBlock
from agent.signals import Decoder
from agent.signals.summary import Summary
from tests.signals.dbctext import Msg, Sig, text
from tests.signals.reference import load

WIDE = Msg("Wide", 1, 8, [Sig("Number", 0, 64)])
SIGNED = Msg("Signed", 1, 8, [Sig("Number", 0, 64, signed=True)])
REAL = Msg("Real", 1, 8, [Sig("Number", 0, 64, signed=True, is_float=True)])


def summary_of(
    folder: Path, message: Msg, rows: Sequence[tuple[int, int, bytes]], *, by_source: bool = False
) -> Summary:
    """The summary of frames (time in ns, id, payload), a block for each frame."""
    decoder = Decoder(load(folder, text([message], j1939=message.extended)))
    summary = Summary(by_source=by_source)
    for time, number, payload in rows:
        block = FrameBlock.from_arrays(
            bus="1",
            time=[time],
            id=[number],
            length=[len(payload)],
            data=np.frombuffer(payload.ljust(8, b"\0"), np.uint8).reshape(1, 8),
            clock="recorded",
        )
        summary.note(block, decoder.knows(block))
        summary.add(decoder.decode(block))
    summary.counts = decoder.counts
    return summary


def figures(summary: Summary) -> dict[str, Any]:
    (only,) = summary.as_json()["signals"].values()
    return dict(only)


@pytest.mark.parametrize(("message", "signed"), [(WIDE, False), (SIGNED, True)])
@given(data=st.data())
def test_sums_of_64_bit_integers_are_exact(
    tmp_path_factory: pytest.TempPathFactory, message: Msg, signed: bool, data: st.DataObject
) -> None:
    low, high = (-(2**63), 2**63 - 1) if signed else (0, 2**64 - 1)
    numbers = data.draw(st.lists(st.integers(low, high), min_size=1, max_size=20))
    block = FrameBlock.from_arrays(
        bus="1",
        time=range(len(numbers)),
        id=[1] * len(numbers),
        length=[8] * len(numbers),
        data=np.array([list(n.to_bytes(8, "little", signed=signed)) for n in numbers], np.uint8),
    )
    summary = Summary()
    database = load(tmp_path_factory.getbasetemp(), text([message]))
    summary.add(Decoder(database).decode(block))
    found = figures(summary)
    assert (found["count"], found["raw_sum"]) == (len(numbers), sum(numbers))
    assert (found["raw_min"], found["raw_max"]) == (min(numbers), max(numbers))
    assert (found["min"], found["max"]) == (float(min(numbers)), float(max(numbers)))


def test_values_that_are_no_numbers_are_counted_and_left_out_of_the_sums(tmp_path: Path) -> None:
    values = [1.5, math.nan, -2.0, math.inf, -math.inf]
    rows = [(i, 1, struct.pack("<d", v)) for i, v in enumerate(values)]
    found = figures(summary_of(tmp_path, REAL, rows))
    assert found["count"] == 5
    assert (found["sum"], found["min"], found["max"]) == (-0.5, -2.0, 1.5)
    assert (found["raw_sum"], found["raw_min"], found["raw_max"]) == (None, None, None)


@pytest.mark.parametrize("values", [[math.nan], [1.7e308, 1.7e308]])
def test_what_json_has_no_word_for_is_null(tmp_path: Path, values: list[float]) -> None:
    rows = [(i, 1, struct.pack("<d", v)) for i, v in enumerate(values)]
    summary = summary_of(tmp_path, REAL, rows)
    assert figures(summary)["sum"] is None
    assert json.dumps(summary.as_json(), allow_nan=False)


def test_a_signal_of_bytes_has_a_count_and_times_only(tmp_path: Path) -> None:
    message = Msg("Any", 1, 64, [Sig("Text", 0, 72)])
    decoder = Decoder(load(tmp_path, text([message])))
    block = FrameBlock.from_arrays(
        bus="1", time=[2_000_000_000], id=[1], length=[9], data=np.zeros((1, 64), np.uint8)
    )
    summary = Summary()
    summary.add(decoder.decode(block))
    found = figures(summary)
    assert (found.pop("count"), found.pop("first_time"), found.pop("last_time")) == (1, 2.0, 2.0)
    assert set(found.values()) == {None}


def test_times_are_the_earliest_and_the_latest_in_whatever_order_they_come(
    tmp_path: Path,
) -> None:
    rows = [(t, 1, bytes(8)) for t in (5_000_000_000, 1_500_000_000, 7_250_000_000, 6_000_000_000)]
    summary = summary_of(tmp_path, WIDE, rows)
    found = figures(summary)
    assert (found["first_time"], found["last_time"]) == (1.5, 7.25)
    total = summary.frames_json()
    assert (total["first_time"], total["last_time"]) == (1.5, 7.25)


def test_times_before_zero_are_times(tmp_path: Path) -> None:
    rows = [(t, 1, bytes(8)) for t in (-3_000_000_000, -2_000_000_000)]
    found = figures(summary_of(tmp_path, WIDE, rows))
    assert (found["first_time"], found["last_time"]) == (-3.0, -2.0)


def test_sources_are_added_up_unless_asked_to_split(tmp_path: Path) -> None:
    message = Msg("Speed", 0x18FEF100, 8, [Sig("V", 0, 8)], extended=True)
    rows = [
        (0, 0x18FEF100 | EXTENDED, bytes([3, *bytes(7)])),
        (1, 0x18FEF10B | EXTENDED, bytes([4, *bytes(7)])),
        (2, 0x0CFEF10B | EXTENDED, bytes([5, *bytes(7)])),
    ]
    together = summary_of(tmp_path, message, rows).as_json()["signals"]
    assert {name: f["raw_sum"] for name, f in together.items()} == {"Speed.V": 12}
    apart = summary_of(tmp_path, message, rows, by_source=True).as_json()["signals"]
    assert {name: f["raw_sum"] for name, f in apart.items()} == {
        "Speed.V@0x00": 3,
        "Speed.V@0x0b": 9,
    }


def test_the_commonest_unknown_ids_are_named_without_remote_and_error_frames(
    tmp_path: Path,
) -> None:
    ids = [0x7E8, 0x7E8, 0x18FEF100 | EXTENDED, 2, 2, 2, 1, 1, 1, 1]
    ids += [0x55 | REMOTE, 0x66 | ERROR] * 5
    summary = summary_of(tmp_path, WIDE, [(i, n, bytes(8)) for i, n in enumerate(ids)])
    assert summary.commonest_ids(8) == ["2", "7E8", "18FEF100x"]
    assert summary.frames_json()["remote_or_error_frames"] == 10
    line = summary.frames_line()
    assert line.startswith("20 frames, 4 decoded (20.0 %), 6 not in the database, 5 remote")


def test_nothing_has_no_times() -> None:
    assert Summary().as_json() == {
        "frames": 0,
        "decoded_frames": 0,
        "unknown_frames": 0,
        "undecodable_frames": 0,
        "remote_or_error_frames": 0,
        "first_time": None,
        "last_time": None,
        "signals": {},
    }
    assert list(Summary().lines()) == ["0 frames, 0 decoded (0.0 %)"]
