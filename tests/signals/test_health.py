"""What is found of a bus and its database: on a bus that is well, and on all kinds that are not."""

import dataclasses
import itertools
import logging
import math
import re
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.blocks import ERROR, EXTENDED, REMOTE, FrameBlock, SignalSchema, SignalTable
from agent.bus import read_log
from agent.clock import MILLISECOND, SECOND
from agent.errors import ConfigError
from agent.settings.plan import CodesOfSignals, Health
from agent.signals import Database, Decoder
from agent.signals.database import SignalPath
from agent.signals.health import DatabaseHealth, counters, schemas
from agent.signals.health_counters import is_counter
from agent.signals.health_ranges import range_of
from agent.signals.health_time import BusTime, IdCounter
from tests.shared_data import needs_shared, shared
from tests.signals.test_decoder import block_of

BEGIN: Final = 1000 * SECOND
J1939: Final = (
    'BA_DEF_ BO_ "VFrameFormat" ENUM "StandardCAN","ExtendedCAN","reserved","J1939PG";',
    'BA_DEF_DEF_ "VFrameFormat" "StandardCAN";',
)


@dataclasses.dataclass(frozen=True)
class Msg:
    """A message of a DBC file."""

    name: str
    id: int
    cycle_ms: int = 0
    length: int = 8
    signals: str = ' SG_ Value : 0|16@1+ (1,0) [0|0] "" X'
    j1939: bool = False


def load(folder: Path, messages: Iterable[Msg]) -> Database:
    messages = list(messages)
    lines = ['VERSION ""', "", "NS_ :", "", "BS_:", "", "BU_: X", ""]
    for m in messages:
        lines += [f"BO_ {m.id} {m.name}: {m.length} X", m.signals, ""]
    lines += ['BA_DEF_ BO_ "GenMsgCycleTime" INT 0 100000;', *J1939]
    lines += [f'BA_ "GenMsgCycleTime" BO_ {m.id} {m.cycle_ms};' for m in messages if m.cycle_ms]
    lines += [f'BA_ "VFrameFormat" BO_ {m.id} 3;' for m in messages if m.j1939]
    path = folder / "bus.dbc"
    path.write_text("\n".join([*lines, ""]), "ascii")
    return Database.load([path])


@dataclasses.dataclass(frozen=True)
class Frame:
    time: int
    id: int
    data: bytes = bytes(8)


def every(
    ms: float, number: int, begin_s: float, end_s: float, data: Sequence[bytes] = (bytes(8),)
) -> list[Frame]:
    """A cyclic message in a stretch of seconds after `BEGIN`; its payloads go round."""
    times = np.arange(begin_s * 1000, end_s * 1000 - 1e-6, ms) * MILLISECOND
    payloads = itertools.cycle(data)
    return [
        Frame(BEGIN + int(t), number, payload)
        for t, payload in zip(times.tolist(), payloads, strict=False)
    ]


def block(frames: Sequence[Frame], width: int = 8) -> FrameBlock:
    made = block_of([(f.id, f.data) for f in frames], width, "can0")
    return dataclasses.replace(made, time=np.array([f.time for f in frames], np.int64))


class Watched:
    """A bus that is decoded and watched."""

    def __init__(self, database: Database, how: Health | None = None) -> None:
        self.decoder = Decoder(database)
        self.health = DatabaseHealth(self.decoder, how or Health())
        self.tables: list[SignalTable] = []

    def take(self, *parts: Sequence[Frame], cuts: Iterable[int] = (), width: int = 8) -> None:
        frames = sorted(itertools.chain(*parts), key=lambda f: f.time)
        self.take_block(block(frames, width), cuts)

    def take_block(self, whole: FrameBlock, cuts: Iterable[int] = ()) -> None:
        edges = sorted({0, len(whole), *(c for c in cuts if 0 < c < len(whole))})
        for a, b in itertools.pairwise(edges):
            self.tables += self.health.look(whole[a:b], self.decoder.decode(whole[a:b]))

    @property
    def bus_rows(self) -> list[dict[str, int]]:
        """The rows of `BusHealth`; `s` is the time, in seconds after `BEGIN`."""
        return rows(t for t in self.tables if t.message == "BusHealth")

    @property
    def states(self) -> list[tuple[float, int, str]]:
        """The rows of `MessageHealth`: seconds, id, state."""
        names = dict(schemas("can0")[1].by_name["State"].choices)
        found = rows(t for t in self.tables if t.message == "MessageHealth")
        return [(row["s"], row["Id"], names[row["State"]]) for row in found]

    @property
    def cycles(self) -> list[float]:
        found = rows(t for t in self.tables if t.message == "MessageHealth")
        return [row["MeasuredCycle"] for row in found]

    @property
    def status(self) -> dict[str, Any]:
        return dict(self.health.status()["can0"])


def rows(tables: Iterable[SignalTable]) -> list[dict[str, Any]]:
    return [
        {"s": (time - BEGIN) / SECOND} | {n: table.raw[n][i].item() for n in table.names}
        for table in tables
        for i, time in enumerate(table.time.tolist())
    ]


TWO: Final = (Msg("Fast", 0x100, 10), Msg("Slow", 0x200, 100))


# -- a bus that is well, and the grid ------------------------------------------------------------


def test_a_bus_that_is_well_has_a_row_each_interval_and_nothing_else(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, TWO))
    watched.take(every(10, 0x100, 0.3, 35), every(100, 0x200, 0.3, 35))
    assert [row["s"] for row in watched.bus_rows] == [10, 20, 30]
    assert all(v == 0 for row in watched.bus_rows for n, v in row.items() if n != "s")
    assert watched.states == []


def test_tables_have_the_schemas_that_a_plan_can_name_and_the_clock_of_the_block(
    tmp_path: Path,
) -> None:
    database = load(tmp_path, TWO)
    declared = schemas("can0")
    named = dataclasses.replace(database, telling=declared).select(["can0.BusHealth.*"])
    assert SignalPath("can0", "BusHealth", "UnknownFrames") in named
    watched = Watched(database)
    frames = block(every(10, 0x100, 0, 25))
    watched.take_block(dataclasses.replace(frames, clock="recorded"))
    assert {t.schema for t in watched.tables} <= {
        dataclasses.replace(s, clock="recorded") for s in declared
    }


def test_an_interval_of_minutes_is_looked_at_every_ten_seconds(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, TWO), Health(interval_s=40))
    watched.take(every(10, 0x100, 0, 90), every(100, 0x200, 0, 2))
    assert [row["s"] for row in watched.bus_rows] == [40, 80]
    assert watched.states == [(10, 0x200, "silent")]


# -- ids -----------------------------------------------------------------------------------------


def test_frames_of_unknown_ids_are_counted_and_the_most_frequent_ones_named(
    tmp_path: Path,
) -> None:
    watched = Watched(load(tmp_path, TWO))
    long = 0x18FF_1234 | EXTENDED
    watched.take(every(10, 0x100, 0, 11), every(500, 0x7A0, 0, 11), every(1000, long, 0, 11))
    assert watched.bus_rows[0]["UnknownFrames"] == 30
    assert watched.bus_rows[0]["UnknownIds"] == 2
    assert watched.status["unknown"] == {
        "frames": 33,
        "ids": 2,
        "more_ids": False,
        "most": [{"id": "0x7a0", "frames": 22}, {"id": "0x18ff1234", "frames": 11}],
    }


def test_remote_and_error_frames_are_not_unknown(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, TWO))
    watched.take(every(10, 0x7A0 | REMOTE, 0, 1), every(10, ERROR | 4, 0, 1))
    assert watched.status["unknown"]["frames"] == 0


@given(st.lists(st.lists(st.integers(0, 60), max_size=30), max_size=8))
def test_the_first_ids_are_remembered_and_every_frame_counted(parts: list[list[int]]) -> None:
    counter = IdCounter(16)
    for part in parts:
        counter.add(np.array(part, np.uint32) * np.uint32(99_999))
    everything = [99_999 * i for part in parts for i in part]
    first = list(dict.fromkeys(everything))[:16]
    assert counter.frames == len(everything)
    assert dict(counter.most(99)) == {i: everything.count(i) for i in first}
    assert counter.full == (len(first) == 16)


# -- lengths -------------------------------------------------------------------------------------


def test_frames_that_are_too_short_or_too_long_are_counted_by_message(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, [Msg("Five", 0x100, length=5), Msg("Eight", 0x101)]))
    watched.take(
        every(100, 0x100, 0, 11, [bytes(5), bytes(4), bytes(6), bytes(5)]),
        every(100, 0x101, 0, 11),
    )
    assert watched.status["wrong_length"] == {
        "frames": 55,
        "messages": 1,
        "worst": [{"message": "Five", "length": 5, "frames": 55}],
    }
    assert watched.states == [(10, 0x100, "wrong length")]


def test_a_wrong_length_is_over_after_an_interval_of_right_ones(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, [Msg("Eight", 0x101)]))
    watched.take(every(100, 0x101, 0, 5, [bytes(7)]), every(100, 0x101, 5, 31))
    assert watched.states == [(10, 0x101, "wrong length"), (20, 0x101, "ok")]


def test_lengths_are_rounded_up_to_those_of_can_fd(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, [Msg("Ten", 0x100, length=10), Msg("All", 0x101, length=64)]))
    watched.take(
        every(100, 0x100, 0, 5, [bytes(12)]), every(100, 0x101, 0, 5, [bytes(64)]), width=64
    )
    assert watched.status["wrong_length"]["frames"] == 0
    watched.take(every(100, 0x100, 5, 6, [bytes(16)]), width=64)
    assert watched.status["wrong_length"]["frames"] == 10


def test_j1939_fills_frames_up_and_long_messages_come_in_parts(tmp_path: Path) -> None:
    two, long = 0x98FE_F100, 0x98FE_CA00
    database = load(
        tmp_path,
        [
            Msg("Two", two, length=2, j1939=True),
            Msg("Long", long, 100, length=20, j1939=True),
        ],
    )
    watched = Watched(database)
    watched.take(every(100, two, 0, 80), every(1000, long, 0, 1))
    assert watched.status["wrong_length"]["frames"] == 0
    assert watched.states == []
    watched.take(every(100, two, 80, 81, [bytes(1)]))
    assert watched.status["wrong_length"]["frames"] == 10


# -- cycles --------------------------------------------------------------------------------------


def test_a_cycle_that_is_off_by_a_third_drifts_and_says_what_it_is(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, TWO))
    watched.take(every(13.3, 0x100, 0, 30), every(10, 0x100, 30.01, 61), every(100, 0x200, 0, 61))
    assert watched.states == [(20, 0x100, "drifting"), (40, 0x100, "ok")]
    assert watched.cycles[0] == pytest.approx(13.3, rel=0.001)
    assert watched.bus_rows[2]["DriftingNow"] == 1
    assert watched.bus_rows[-1]["DriftingNow"] == 0
    assert watched.bus_rows[-1]["Drifting"] == 1


def test_who_drifts_stands_in_the_status_with_both_cycles(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, TWO))
    watched.take(every(5, 0x100, 0, 31), every(150, 0x200, 0, 31))
    assert watched.status["drifting"] == {
        "messages": 2,
        "worst": [
            {"message": "Fast", "stated_ms": 10, "measured_ms": 5.0},
            {"message": "Slow", "stated_ms": 100, "measured_ms": 150.0},
        ],
    }


def test_jitter_of_single_frames_is_no_drift(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    watched = Watched(load(tmp_path, TWO))
    jittery = [
        dataclasses.replace(f, time=f.time + int(rng.integers(0, 45 * MILLISECOND)))
        for f in every(100, 0x200, 0, 100)
    ]
    watched.take(jittery)
    assert [state for _, i, state in watched.states if i == 0x200] == []


def test_a_sender_that_starts_again_does_not_drift(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, TWO))
    watched.take(every(10, 0x100, 0, 12), every(10, 0x100, 15.5, 41), every(100, 0x200, 0, 41))
    assert watched.states == []


def test_a_message_much_slower_than_stated_drifts_and_is_not_silent(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, TWO))
    watched.take(every(200, 0x100, 0, 61), every(100, 0x200, 0, 61))
    assert watched.states == [(20, 0x100, "drifting")]


def test_of_a_j1939_group_with_several_senders_no_cycle_is_measured(tmp_path: Path) -> None:
    number = 0x98FE_F100
    watched = Watched(load(tmp_path, [Msg("Speed", number, 100, j1939=True)]))
    watched.take(*(every(100, number | source, source / 100, 41) for source in (1, 2, 3)))
    assert watched.states == []
    alone = Watched(load(tmp_path, [Msg("Speed", number, 100, j1939=True)]))
    alone.take(every(33, number | 1, 0, 41))
    assert [state for _, _, state in alone.states] == ["drifting"]


# -- silence -------------------------------------------------------------------------------------


def test_a_message_falls_silent_and_comes_back(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, TWO))
    watched.take(every(10, 0x100, 0, 41), every(100, 0x200, 0, 15), every(100, 0x200, 31, 41))
    assert watched.states == [(20, 0x200, "silent"), (40, 0x200, "ok")]
    assert [row["SilentNow"] for row in watched.bus_rows] == [0, 1, 1, 0]
    assert watched.bus_rows[-1]["Silent"] == 1


def test_who_is_silent_stands_in_the_status(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, TWO))
    watched.take(every(10, 0x100, 0, 20.01), every(100, 0x200, 0, 15))
    assert watched.status["silent"] == {
        "messages": 1,
        "longest": [{"message": "Slow", "seconds": 5.1}],
    }


@pytest.mark.parametrize(("after", "silent"), [(5, True), (30, False)])
def test_how_many_cycles_are_silence_is_a_setting(
    tmp_path: Path, after: float, silent: bool
) -> None:
    watched = Watched(load(tmp_path, TWO), Health(silent_after=after))
    watched.take(every(10, 0x100, 0, 10.5), every(100, 0x200, 0, 8))
    assert bool(watched.states) == silent


def test_nothing_is_silent_on_a_bus_that_sleeps(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, TWO))
    both = [(10, 0x100), (100, 0x200)]
    watched.take(*(every(ms, i, a, b) for ms, i in both for a, b in ((0, 13), (7213, 7250))))
    assert watched.states == []
    assert len(watched.bus_rows) == 4, "an hour of sleep has no rows"


def test_a_message_that_never_comes_is_told_after_a_minute(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, [*TWO, Msg("Event", 0x300)]))
    watched.take(every(10, 0x100, 0, 91), every(100, 0x200, 85, 91))
    assert watched.states == [(70, 0x200, "never seen"), (90, 0x200, "ok")]
    assert watched.status["never_seen"] == {"messages": 0, "names": []}


# -- ranges --------------------------------------------------------------------------------------

RANGES: Final = """\
 SG_ Level : 0|8@1+ (0.1,0) [0|20] "" X
 SG_ Torque : 8|16@1- (0.5,-100) [-300|300] "" X
 SG_ Free : 24|8@1+ (1,0) [0|255] "" X
 SG_ Unstated : 32|8@1+ (1,0) [0|0] "" X"""


def ranged(level: int, torque: int = 0, free: int = 255) -> bytes:
    return (
        bytes([level]) + torque.to_bytes(2, "little", signed=True) + bytes([free, 255]) + bytes(3)
    )


def test_samples_out_of_the_stated_range_are_counted_by_signal(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, [Msg("Sensor", 0x100, signals=RANGES)]))
    payloads = [ranged(200), ranged(201), ranged(0, 800), ranged(0, 801), ranged(9, -401)]
    watched.take(every(100, 0x100, 0, 10.1, payloads))
    assert watched.status["out_of_range"] == {
        "samples": 60,
        "worst": [
            {"signal": "Sensor.Torque", "samples": 40},
            {"signal": "Sensor.Level", "samples": 20},
        ],
    }
    assert watched.states == [(10, 0x100, "out of range")]
    assert watched.bus_rows[0]["OutOfRange"] == 60


def test_codes_are_not_out_of_range(tmp_path: Path) -> None:
    database = load(tmp_path, [Msg("Sensor", 0x100, signals=RANGES)])
    codes = [CodesOfSignals(signals=["Sensor.Level"], not_available=[255], error=[254])]
    watched = Watched(database.with_codes("*", codes))
    watched.take(every(100, 0x100, 0, 1, [ranged(255), ranged(254), ranged(253), ranged(1)]))
    assert watched.status["out_of_range"]["samples"] == 2


def test_what_is_no_number_is_in_no_range_and_not_out_of_it(tmp_path: Path) -> None:
    load(tmp_path, [Msg("F", 0x100, signals=' SG_ V : 0|32@1- (1,0) [0|1] "" X')])
    path = tmp_path / "bus.dbc"
    path.write_text(path.read_text("ascii") + "SIG_VALTYPE_ 256 V : 1;\n", "ascii")
    watched = Watched(Database.load([path]))
    values = [math.nan, 0.5, 1.0, 2.0, -math.inf]
    watched.take(every(100, 0x100, 0, 1, [struct.pack("<fI", v, 0) for v in values]))
    assert watched.status["out_of_range"]["samples"] == 4
    watched.take(every(100, 0x100, 1, 2, [struct.pack("<fI", math.nan, 0)]))
    assert watched.status["out_of_range"]["samples"] == 4


def test_only_signals_that_are_decoded_are_looked_at(tmp_path: Path) -> None:
    database = load(tmp_path, [Msg("Sensor", 0x100, signals=RANGES)])
    decoder = Decoder(database, ["Sensor.Torque"])
    health = DatabaseHealth(decoder, Health())
    frames = block(every(100, 0x100, 0, 1, [ranged(255, 999)]))
    health.look(frames, decoder.decode(frames))
    assert health.status()["can0"]["out_of_range"]["worst"] == [
        {"signal": "Sensor.Torque", "samples": 10}
    ]


def signal(kind: Any = "uint64", bits: int = 8, **more: Any) -> SignalSchema:
    return SignalSchema("S", kind, bits, **more)


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (signal(scale=0.1, minimum=0, maximum=0.3), (None, 3)),
        (signal(scale=0.1, offset=-1, minimum=0, maximum=25), (10, None)),
        (signal(scale=-1, offset=100, minimum=0, maximum=50), (50, 100)),
        (signal(minimum=0, maximum=255), None),
        (signal(minimum=0, maximum=1e300), None),
        (signal(minimum=5, maximum=5), None),
        (signal(minimum=10, maximum=0), None),
        (signal(minimum=None, maximum=5), None),
        (signal(minimum=float("nan"), maximum=5), None),
        (signal(minimum=float("-inf"), maximum=5), None),
        (signal(scale=0, minimum=0, maximum=5), None),
        (signal(minimum=1000, maximum=2000), None),
        (signal("bytes", 80, minimum=0, maximum=5), None),
        (signal("int64", minimum=-100, maximum=127), (-100, None)),
        (signal("int64", 64, minimum=-(2.0**63), maximum=0), (None, 0)),
        (signal(minimum=0, maximum=250, codes=((251, 255, "error"),)), None),
        (signal(minimum=0, maximum=250, codes=((254, 255, "error"),)), (None, 250)),
        (
            signal(minimum=0, maximum=253, codes=((255, 255, "error"),), choices=((254, "x"),)),
            None,
        ),
    ],
)
def test_a_stated_range_becomes_one_of_raw_values(
    schema: SignalSchema, expected: tuple[int | None, int | None] | None
) -> None:
    limits = range_of(schema)
    assert (None if limits is None else (limits.low, limits.high)) == expected


@given(st.integers(1, 10_000), st.integers(-3, 2), st.integers(-500, 500), st.data())
def test_a_raw_value_is_right_where_its_decimal_value_is_in_the_range(
    digits: int, power: int, offset: int, data: st.DataObject
) -> None:
    scale = float(f"{digits}e{power}")
    first = data.draw(st.integers(0, 4094))
    last = data.draw(st.integers(first + 1, 4095))
    ends = [raw * scale + offset for raw in (first, last)]
    limits = range_of(signal(bits=12, scale=scale, offset=offset, minimum=ends[0], maximum=ends[1]))
    found = (None, None) if limits is None else (limits.low, limits.high)
    assert found == (first or None, last if last < 4095 else None)


# -- counters ------------------------------------------------------------------------------------

COUNTER: Final = ' SG_ AliveCounter : 0|4@1+ (1,0) [0|0] "" X\n SG_ V : 8|8@1+ (1,0) [0|0] "" X'
BRANCHES: Final = """\
 SG_ Counter : 0|4@1+ (1,0) [0|0] "" X
 SG_ Page M : 8|8@1+ (1,0) [0|0] "" X
 SG_ A m0 : 16|8@1+ (1,0) [0|0] "" X
 SG_ B m1 : 16|8@1+ (1,0) [0|0] "" X"""
COUNTING: Final = [bytes([i]) + bytes(7) for i in range(16)]


def test_a_counter_that_stands_still_is_found_and_counts_again(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, [Msg("Ecu", 0x100, signals=COUNTER)]))
    watched.take(
        every(100, 0x100, 0, 12, COUNTING),
        every(100, 0x100, 12, 18, [COUNTING[3]]),
        every(100, 0x100, 18, 41, COUNTING),
    )
    assert watched.states == [(20, 0x100, "stuck counter"), (30, 0x100, "ok")]
    assert watched.bus_rows[1]["StuckCountersNow"] == 1
    assert watched.bus_rows[-1]["StuckCounters"] == 1


def test_four_samples_of_one_value_are_not_yet_a_counter_that_stands_still(
    tmp_path: Path,
) -> None:
    watched = Watched(load(tmp_path, [Msg("Ecu", 0x100, signals=COUNTER)]))
    four = [payload for payload in COUNTING for _ in range(4)]
    watched.take(every(10, 0x100, 0, 2, COUNTING), every(10, 0x100, 2, 31, four))
    assert watched.states == []
    five = [payload for payload in COUNTING for _ in range(5)]
    watched.take(every(10, 0x100, 31, 41, five))
    assert [state for _, _, state in watched.states] == ["stuck counter"]


def test_what_is_called_a_counter_but_does_not_count_is_left_alone(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, [Msg("Ecu", 0x100, signals=COUNTER)]))
    faults = [COUNTING[i // 40] for i in range(600)]
    watched.take(every(50, 0x100, 0, 30, faults))
    assert watched.states == []


def test_a_counter_that_the_plan_names_must_count_from_the_beginning(tmp_path: Path) -> None:
    watched = Watched(
        load(tmp_path, [Msg("Ecu", 0x100, signals=COUNTER)]), Health(counters=["Ecu.V"])
    )
    watched.take(every(100, 0x100, 0, 10.1, COUNTING))
    assert watched.states == [(10, 0x100, "stuck counter")]
    assert watched.status["stuck_counters"] == {"messages": 1, "names": ["Ecu.V"]}


def test_a_counter_that_is_not_available_does_not_stand_still(tmp_path: Path) -> None:
    database = load(tmp_path, [Msg("Ecu", 0x100, signals=COUNTER)])
    codes = [CodesOfSignals(signals=["Ecu.AliveCounter"], not_available=[15])]
    watched = Watched(database.with_codes("*", codes))
    watched.take(every(100, 0x100, 0, 5, COUNTING), every(100, 0x100, 5, 21, [COUNTING[15]]))
    assert watched.states == []


def test_a_counter_beside_branches_is_followed_through_all_of_them(tmp_path: Path) -> None:
    database = load(tmp_path, [Msg("Ecu", 0x100, signals=BRANCHES)])
    # In each of the two branches the counter has every value four times in a row, in both eight.
    payloads = [bytes([i // 2 % 16, i % 2]) + bytes(6) for i in range(320)]
    watched = Watched(database, Health(counters=["Counter"]))
    watched.take(every(10, 0x100, 0, 11, payloads))
    assert watched.states == []
    slow = [bytes([i // 8 % 16, i % 2]) + bytes(6) for i in range(320)]
    watched.take(every(10, 0x100, 11, 21, slow))
    assert watched.states == [(20, 0x100, "stuck counter")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Counter", True),
        ("COUNTER", True),
        ("AliveCounter", True),
        ("rolling_counter", True),
        ("CF_Esp_AliveCnt1", True),
        ("SpeedMessageCounter", True),
        ("Msg_Ctr", True),
        ("ESP_cnt_2", True),
        ("Encounter", False),
        ("CounterTorque", False),
        ("Discount", False),
        ("cntx", False),
    ],
)
def test_counters_are_found_by_their_names(name: str, expected: bool) -> None:
    assert is_counter(SignalSchema(name, "uint64", 4)) == expected
    assert not is_counter(SignalSchema(name, "uint64", 16))


def test_counters_of_a_plan_are_named_so_that_they_can_be_decoded(tmp_path: Path) -> None:
    database = load(tmp_path, [Msg("Ecu", 0x100, signals=COUNTER)])
    assert counters(database, Health()) == {SignalPath("*", "Ecu", "AliveCounter")}
    assert counters(database, Health(counters=["Ecu.V"])) == {SignalPath("*", "Ecu", "V")}
    with pytest.raises(ConfigError, match="no signal is called"):
        DatabaseHealth(Decoder(database), Health(counters=["Nothing"]))


# -- what a message is said to be ----------------------------------------------------------------


def test_of_several_findings_the_worst_is_the_state_and_all_are_told(tmp_path: Path) -> None:
    signals = COUNTER + '\n SG_ L : 16|8@1+ (1,0) [0|9] "" X'
    watched = Watched(load(tmp_path, [Msg("Ecu", 0x100, 100, signals=signals), *TWO[1:]]))
    short = [bytes([i, 0, 200]) + bytes(3) for i in range(16)]
    watched.take(every(100, 0x100, 0, 21, short), every(100, 0x200, 0, 21))
    (row,) = rows(t for t in watched.tables if t.message == "MessageHealth")
    names = dict(schemas("x")[1].by_name["Findings"].choices)
    found = {words for bit, words in names.items() if row["Findings"] & bit}
    assert found == {"wrong length", "out of range"}
    assert watched.states == [(10, 0x100, "wrong length")]


def test_ids_of_29_bits_are_told_as_files_write_them(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, [Msg("Long", 0x1234_5678 | EXTENDED), *TWO]))
    watched.take(every(100, 0x1234_5678 | EXTENDED, 0, 11, [bytes(3)]))
    assert watched.states == [(10, 0x1234_5678 | EXTENDED, "wrong length")]


def test_many_changes_at_once_are_told_by_and_by(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, [Msg(f"M{i}", i) for i in range(150)]))
    watched.take(*(every(1000, i, i / 1000, 31, [bytes(7)]) for i in range(150)))
    assert [sum(s == end for s, _, _ in watched.states) for end in (10, 20, 30)] == [64, 64, 22]
    assert len({i for _, i, _ in watched.states}) == 150


# -- the log -------------------------------------------------------------------------------------


def test_the_log_has_a_line_when_a_finding_begins_and_one_when_it_ends(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    watched = Watched(load(tmp_path, TWO))
    with caplog.at_level(logging.INFO, "edge_agent"):
        watched.take(every(10, 0x100, 0, 41), every(100, 0x200, 0, 15), every(100, 0x200, 31, 41))
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("WARNING", "bus can0: silent: Slow"),
        ("INFO", "bus can0: no longer silent: Slow"),
    ]


def test_a_few_lines_a_minute_are_enough(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(load(tmp_path, TWO), Health(interval_s=1))
    payloads = [bytes(7)] * 150 + [bytes(8)] * 150
    with caplog.at_level(logging.INFO, "edge_agent"):
        watched.take(every(10, 0x100, 0, 240, payloads), every(100, 0x200, 0, 240))
    assert len(caplog.records) <= 4 * 7
    assert any("more findings began or ended" in r.getMessage() for r in caplog.records)


def test_unknown_ids_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watched = Watched(load(tmp_path, TWO))
    with caplog.at_level(logging.INFO, "edge_agent"):
        watched.take(every(100, 0x7A0, 0, 31), every(10, 0x100, 0, 31), every(100, 0x200, 0, 31))
    assert [r.getMessage() for r in caplog.records] == [
        "bus can0: 1 ids are not in the database so far"
    ]


# -- another plan --------------------------------------------------------------------------------


def test_what_was_found_goes_over_to_another_plan(tmp_path: Path) -> None:
    database = load(tmp_path, [*TWO, Msg("Ecu", 0x300, signals=COUNTER)])
    first = Watched(database)
    first.take(
        every(10, 0x100, 0, 22),
        every(100, 0x200, 0, 12, [bytes(7)]),
        every(100, 0x7A0, 0, 22),
        every(100, 0x300, 0, 22, COUNTING),
    )
    before = first.status
    second = Watched(
        load(tmp_path, [*TWO, Msg("Ecu", 0x300, signals=COUNTER)]), Health(silent_after=6)
    )
    second.health.adopt(first.health)
    assert second.status == before
    second.take(every(10, 0x100, 22, 31), every(100, 0x300, 22, 31, [COUNTING[5]]))
    assert second.states == [(30, 0x300, "stuck counter")], "silence was told before"
    assert second.bus_rows[0]["Silent"] == 1
    assert second.bus_rows[0]["WrongLength"] == 120


def test_with_another_database_only_what_is_the_same_goes_on(tmp_path: Path) -> None:
    first = Watched(load(tmp_path, TWO))
    first.take(
        every(10, 0x100, 0, 22, [bytes(7)]),
        every(100, 0x200, 0, 12),
        every(100, 0x7A0, 0, 22),
    )
    second = Watched(load(tmp_path, [Msg("New", 0x7A0), TWO[1]]))
    second.health.adopt(first.health)
    assert second.status["unknown"] == {
        "frames": 220,
        "ids": 0,
        "more_ids": False,
        "most": [],
    }
    assert second.status["silent"]["messages"] == 1
    second.take(every(100, 0x7A0, 22, 31))
    assert second.bus_rows[0]["WrongLength"] == 2200, "totals never go back"


# -- blocks, clocks, hostile traffic -------------------------------------------------------------

MIXED: Final = (
    *TWO,
    Msg("Ecu", 0x300, 20, signals=COUNTER),
    Msg("Sensor", 0x301, 50, signals=RANGES),
    Msg("Speed", 0x98FE_F100, 100, j1939=True),
    Msg("Long", 0x98FE_CA00, length=20, j1939=True),
)
IDS: Final = (0x100, 0x200, 0x300, 0x301, 0x98FE_F101, 0x98FE_F102, 0x9CEC_FF01, 0x9CEB_FF01, 0x7A0)


def mixture(seed: int, seconds: float = 45) -> list[Frame]:
    """Cyclic messages that fail, stop, stand still and send nonsense now and then."""
    rng = np.random.default_rng(seed)
    frames: list[Frame] = []
    for number in IDS:
        at, count = float(rng.uniform(0, 0.1)), 0
        period = float(rng.choice([0.02, 0.05, 0.1]))
        while at < seconds:
            mood = rng.random()
            if mood < 0.01:
                at += float(rng.uniform(0, 8))
            count += int(mood > 0.2 or int(at) % 7 == 3)
            size = 8 if mood < 0.95 else int(rng.integers(0, 8))
            noise = rng.bytes(6) if mood > 0.5 else bytes(6)
            payload = (bytes([count % 16, int(rng.integers(0, 220))]) + noise)[:size]
            frames.append(Frame(BEGIN + int(at * SECOND), number, payload))
            at += period
    return sorted(frames, key=lambda f: f.time)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 5), st.lists(st.integers(1, 9000), max_size=12), st.sampled_from([1, 10, 25]))
def test_the_result_does_not_depend_on_where_blocks_end(
    tmp_path_factory: pytest.TempPathFactory, seed: int, cuts: list[int], interval: int
) -> None:
    database = load(tmp_path_factory.mktemp("db"), MIXED)
    frames = mixture(seed)
    whole = Watched(database, Health(interval_s=interval))
    whole.take(frames)
    cut = Watched(database, Health(interval_s=interval))
    cut.take(frames, cuts=cuts)
    assert whole.states
    assert cut.bus_rows == whole.bus_rows
    assert cut.states == whole.states
    assert cut.status == whole.status


steps = st.one_of(
    st.integers(-3, 20).map(lambda ms: ms * MILLISECOND),
    st.sampled_from([0, 4 * SECOND, 6 * SECOND, -6 * SECOND, 10**15, -(10**15)]),
)


@given(st.lists(steps, min_size=1, max_size=60), st.lists(st.integers(1, 59), max_size=5))
def test_the_time_of_a_bus_stands_still_in_pauses_and_never_goes_back(
    by: list[int], cuts: list[int]
) -> None:
    stamps = BEGIN + np.cumsum(np.array(by, np.int64))
    whole = BusTime().take(stamps)
    expected, here, peak = [], int(stamps[0]), int(stamps[0])
    for step in [0, *by[1:]]:
        here += step if abs(step) <= 5 * SECOND else 0
        peak = max(peak, here)
        expected.append(peak)
    assert whole.tolist() == expected
    time = BusTime()
    edges = sorted({0, len(by), *(c for c in cuts if c < len(by))})
    parts = [time.take(stamps[a:b]).tolist() for a, b in itertools.pairwise(edges)]
    assert list(itertools.chain(*parts)) == expected
    assert (time.stamp, time.now) == (int(stamps[-1]), expected[-1])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([8, 64]), st.booleans())
def test_no_traffic_does_any_harm(
    tmp_path_factory: pytest.TempPathFactory, seed: int, width: int, jumps: bool
) -> None:
    rng = np.random.default_rng(seed)
    watched = Watched(load(tmp_path_factory.mktemp("db"), MIXED), Health(interval_s=1))
    for _ in range(3):
        n = int(rng.integers(1, 3000))
        known = rng.random(n) < 0.5
        ids = np.where(known, rng.choice(IDS, n), rng.integers(0, 2**32, n)).astype(np.uint32)
        time = np.cumsum(rng.integers(0, 10 * MILLISECOND, n)) + BEGIN
        if jumps:
            time = time + np.where(rng.random(n) < 0.01, rng.integers(-(10**15), 10**15, n), 0)
        data = rng.integers(0, 256, (n, width)).astype(np.uint8)
        made = FrameBlock.from_arrays(
            bus="can0", time=time, id=ids, length=rng.integers(0, width + 1, n), data=data
        )
        watched.take_block(made)
    unknown = watched.decoder.counts.unknown
    assert watched.status["unknown"]["frames"] == unknown
    assert len(watched.states) <= 64 * len(watched.tables)


def test_a_bus_without_a_database_has_unknown_frames_only(tmp_path: Path) -> None:
    database = Database({"other": load(tmp_path, TWO).messages("*")})
    watched = Watched(database)
    watched.take(every(10, 0x100, 0, 11))
    assert watched.bus_rows[0]["UnknownFrames"] == 1000
    assert watched.states == []


def test_an_empty_block_is_nothing(tmp_path: Path) -> None:
    watched = Watched(load(tmp_path, TWO))
    watched.take([])
    assert watched.tables == []
    assert watched.health.status() == {}


# -- real recordings -----------------------------------------------------------------------------


def lengths_of(path: Path) -> dict[int, int]:
    """Id -> length, as the lines of a DBC file say."""
    found = re.findall(r"^BO_ (\d+) [^:]+:\s*(\d+)", path.read_text("utf-8"), re.MULTILINE)
    return {int(number): int(length) for number, length in found}


@needs_shared
def test_a_real_drive_has_the_wrong_lengths_that_are_counted_one_by_one() -> None:
    path = shared("dbc/kona_pcan_fixed.dbc")
    stated = lengths_of(path)
    decoder = Decoder(Database.load([path]))
    health = DatabaseHealth(decoder, Health())
    expected: dict[str, int] = {}
    name = "logs/kona_230112-7-2019-pcan-ccan-power-off-on-ready-off.csv"
    for part in read_log(shared(name)):
        health.look(part, decoder.decode(part))
        pairs = zip(part.id.tolist(), part.length.tolist(), strict=True)
        wrong = sum(number in stated and stated[number] != length for number, length in pairs)
        expected[part.bus] = expected.get(part.bus, 0) + wrong
    status = health.status()
    assert {bus: status[bus]["wrong_length"]["frames"] for bus in status} == expected
    assert sum(expected.values()) > 0
    assert sum(s["unknown"]["frames"] for s in status.values()) == decoder.counts.unknown
