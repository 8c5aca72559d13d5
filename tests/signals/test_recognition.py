"""Whether a vehicle is the plan's, and whether its database fits: real and made-up traffic."""

import dataclasses
import functools
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.bench.vehicle import VirtualVehicle, dbc_path
from agent.blocks import EXTENDED, REMOTE, FrameBlock, SignalSchema, SignalTable, TableSchema
from agent.bus import read_log
from agent.clock import MILLISECOND, SECOND
from agent.errors import ConfigError
from agent.settings.plan import Recognise
from agent.signals import Database, Decoder
from agent.signals.recognition import Recognition
from tests.shared_data import needs_shared, shared
from tests.signals.test_health import BEGIN, Frame, Msg, block, every, load
from tests.signals.transfers import to_all

LOGS: Final = {
    "kona": ("kona_230112-7-2019-pcan-ccan-power-off-on-ready-off.csv", None),
    "kona battery": ("kona_bms_idle30.asc", None),
    "gps and obd": ("css_canmodgps_seq_02.mf4", None),
    "truck": ("css_j1939_truck_400s.mf4", "1"),
    "unnamed": ("savvycan_candump.log", None),
}


@functools.cache
def recording(log: str) -> list[FrameBlock]:
    name, channel = LOGS[log]
    with read_log(shared(f"logs/{name}"), channel=channel) as reader:
        return list(reader)


def watched(database: Database, blocks: Iterable[FrameBlock], **names: Any) -> Recognition:
    decoder = Decoder(database)
    recognition = Recognition(None, decoder, **names)
    for part in blocks:
        recognition.look(part, decoder.decode(part))
    recognition.conclude()
    return recognition


def verdicts(recognition: Recognition) -> dict[str, str]:
    return {name: bus["verdict"] for name, bus in recognition.status()["buses"].items()}


# -- real recordings -----------------------------------------------------------------------------


@needs_shared
@pytest.mark.parametrize(
    ("log", "dbc", "expected"),
    [
        ("kona", "kona_pcan_fixed.dbc", {"0": "fits", "1": "fits"}),
        ("kona battery", "kona_pcan_fixed.dbc", {"0": "fits"}),
        ("gps and obd", "canmod-gps.dbc", {"2": "fits", "1": "undecided"}),
        ("gps and obd", "OBD-v4.4.dbc", {"2": "undecided", "1": "fits"}),
        ("truck", "CSS-Electronics-SAE-J1939-DEMO.dbc", {"1": "fits"}),
    ],
)
def test_a_real_recording_fits_its_own_database(
    log: str, dbc: str, expected: dict[str, str]
) -> None:
    found = watched(Database.load([shared(f"dbc/{dbc}")], j1939="J1939" in dbc), recording(log))
    assert verdicts(found) == expected
    assert found.findings == []


@needs_shared
@pytest.mark.parametrize("log", ["kona", "kona battery", "truck", "unnamed"])
@pytest.mark.parametrize(
    "dbc", ["kuksa_Model3CAN.dbc", "vw_mqb.dbc", "hyundai_canfd_generated.dbc", "vehicle.dbc"]
)
def test_a_real_recording_does_not_fit_the_database_of_another_vehicle(log: str, dbc: str) -> None:
    found = watched(Database.load([shared(f"dbc/{dbc}")]), recording(log))
    assert set(verdicts(found).values()) == {"does not fit"}
    assert len(found.findings) == len(verdicts(found))


@needs_shared
def test_the_sentence_says_how_much_is_known() -> None:
    path = shared("dbc/kuksa_Model3CAN.dbc")
    found = watched(
        Database.load([path]), recording("kona battery"), files={"*": ["kuksa_Model3CAN.dbc"]}
    )
    (sentence,) = found.findings
    assert sentence == (
        "bus 0: 2 of 24 ids that are seen are in kuksa_Model3CAN.dbc (10 % of the frames); "
        "this looks like another vehicle's database"
    )


# -- made-up traffic -----------------------------------------------------------------------------


def test_the_virtual_vehicle_fits_its_database() -> None:
    found = watched(Database.load([dbc_path()]), [VirtualVehicle().frames(62)])
    assert verdicts(found) == {"powertrain": "fits"}


def messages(first: int, count: int, **more: Any) -> list[Msg]:
    return [Msg(f"M{i:X}", first + i, **more) for i in range(count)]


def traffic(first: int, count: int, seconds: float = 70, length: int = 8) -> list[Frame]:
    parts = [every(500, first + i, i / 1000, seconds, [bytes(length)]) for i in range(count)]
    return sorted((f for part in parts for f in part), key=lambda f: f.time)


@pytest.mark.parametrize(
    ("described", "seen", "length", "expected"),
    [
        ((0x100, 40), (0x100, 40), 8, "fits"),
        ((0x100, 100), (0x100, 30), 8, "fits"),  # some of its control units are not built in
        ((0x100, 10), (0x100, 100), 8, "fits"),  # a file about a few messages
        ((0x100, 100), (0x19E, 100), 8, "does not fit"),  # two ids are the same by chance
        ((0x100, 40), (0x100, 40), 5, "does not fit"),  # the same ids, but all lengths are others
        ((0x100, 100), (0x200, 50), 8, "does not fit"),
        ((0x100, 100), (0x150, 400), 8, "undecided"),  # a fifth is there
        ((0x100, 4), (0x200, 50), 8, "undecided"),  # four messages may all be answers
        ((0x100, 40), (0x200, 2), 8, "undecided"),
    ],
)
def test_a_database_is_judged_by_the_messages_that_are_met(
    tmp_path: Path,
    described: tuple[int, int],
    seen: tuple[int, int],
    length: int,
    expected: str,
) -> None:
    database = load(tmp_path, messages(*described))
    found = watched(database, [block(traffic(*seen, length=length))])
    assert verdicts(found) == {"can0": expected}


def test_cyclic_messages_say_more_than_those_that_may_never_come(tmp_path: Path) -> None:
    database = load(tmp_path, [*messages(0x100, 10, cycle_ms=500), *messages(0x200, 90)])
    found = watched(database, [block(traffic(0x100, 10) + traffic(0x600, 90))])
    assert verdicts(found) == {"can0": "fits"}


def test_what_no_database_describes_is_left_out(tmp_path: Path) -> None:
    database = load(tmp_path, messages(0x98FE_F100, 1, j1939=True) + messages(0x98FF_0000, 4))
    whole = to_all(0x31, 0xFECA, bytes(100))
    parts = [Frame(BEGIN + n * 50 * MILLISECOND, i, d) for n, (i, d) in enumerate(whole * 9)]
    remote = every(10, 0x123 | REMOTE, 0, 70)
    frames = sorted([*parts, *remote, *every(100, 0x98FE_F101, 0, 70)], key=lambda f: f.time)
    found = watched(database, [block(frames)])
    assert found.status()["buses"]["can0"]["frames"] == 600
    assert found.status()["buses"]["can0"]["unknown_ids"] == 0


def test_it_is_decided_by_the_first_minute_wherever_blocks_end(tmp_path: Path) -> None:
    database = load(tmp_path, messages(0x100, 20))
    frames = block(traffic(0x100, 20, 59.9) + every(1, 0x700, 60.5, 70))
    whole = watched(database, [frames]).status()
    assert whole["buses"]["can0"]["frames"] == whole["buses"]["can0"]["known_frames"]
    cut = watched(database, [frames[i : i + 77] for i in range(0, len(frames), 77)])
    assert cut.status() == whole


def test_look_says_when_something_is_decided(tmp_path: Path) -> None:
    decoder = Decoder(load(tmp_path, messages(0x100, 20)))
    recognition = Recognition(None, decoder)
    frames = block(traffic(0x100, 20, 70))
    decided = [
        int(part.time[0] - BEGIN) // SECOND
        for i in range(0, len(frames), 40)
        if recognition.look(part := frames[i : i + 40])
    ]
    assert decided == [60, 65], "the bus, and five seconds later all that may still come"
    assert recognition.done
    assert recognition.report()["kind"] == "database"


def test_a_bus_whose_frames_come_in_one_late_block_is_judged_by_its_first_minute(
    tmp_path: Path,
) -> None:
    decoder = Decoder(load(tmp_path, messages(0x100, 20)))
    recognition = Recognition(None, decoder)
    frames = block(traffic(0x100, 20, 300))
    recognition.look(frames)
    assert recognition.done
    assert recognition.look(dataclasses.replace(frames, bus="can1"))
    assert verdicts(recognition) == {"can0": "fits", "can1": "fits"}
    assert recognition.status()["buses"]["can1"]["frames"] == 20 * 120


def test_a_bus_without_frames_is_undecided(tmp_path: Path) -> None:
    made = load(tmp_path, messages(0x100, 20)).messages("*")
    found = watched(Database({"can0": made, "can1": made}), [block(traffic(0x100, 20))])
    assert verdicts(found) == {"can0": "fits", "can1": "undecided"}
    assert found.status()["buses"]["can1"]["why"] == (
        "bus can1: no frames were seen in the first minute"
    )


def test_what_is_wrong_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "edge_agent"):
        found = watched(load(tmp_path, messages(0x100, 20)), [block(traffic(0x400, 50))] * 2)
    assert [r.getMessage() for r in caplog.records] == found.findings
    assert len(found.findings) == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([8, 64]))
def test_no_traffic_does_any_harm(
    tmp_path_factory: pytest.TempPathFactory, seed: int, width: int
) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 9000))
    made = FrameBlock.from_arrays(
        bus="can0",
        time=BEGIN + np.cumsum(rng.integers(-5, 30, n)) * MILLISECOND,
        id=rng.integers(0, 2**32, n),
        length=rng.integers(0, width + 1, n),
        data=rng.integers(0, 256, (n, width)).astype(np.uint8),
    )
    database = load(tmp_path_factory.mktemp("db"), messages(0x100, 20))
    found = watched(database, [made[i : i + 500] for i in range(0, n, 500)])
    assert verdicts(found)["can0"] in ("undecided", "does not fit")
    assert found.status()["buses"]["can0"]["unknown_ids"] <= 4096


# -- the plan's vehicle --------------------------------------------------------------------------


class Vehicle:
    """A vehicle that a plan wants to recognise."""

    def __init__(self, database: Database, how: Recognise) -> None:
        self.decoder = Decoder(database)
        self.recognition = Recognition(how, self.decoder)

    def take(self, frames: Sequence[Frame], *, width: int = 8, came_true: bool = False) -> bool:
        made = block(frames, width)
        tables = self.decoder.decode(made)
        return self.recognition.look(made, tables, came_true=came_true)

    @property
    def answer(self) -> bool | None:
        return self.recognition.recognised

    @property
    def findings(self) -> str:
        return " ".join(self.recognition.findings)


PRESENT: Final = (0x100, 0x101)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([0x100, "0x101"], True),
        (["256"], True),
        (["0x18FF0001"], True),
        ([0x100, 0x7FF], False),
        (["0x00000100"], False),  # an id of 29 bits
    ],
)
def test_all_ids_must_be_seen(tmp_path: Path, ids: list[int | str], expected: bool) -> None:
    vehicle = Vehicle(load(tmp_path, messages(0x100, 3)), Recognise(ids=ids))
    parts = [every(500, i, 0, 70) for i in (*PRESENT, 0x18FF_0001 | EXTENDED)]
    vehicle.take(sorted((f for p in parts for f in p), key=lambda f: f.time))
    assert vehicle.answer is expected
    assert bool(vehicle.findings) is not expected


def test_ids_on_another_bus_do_not_count(tmp_path: Path) -> None:
    database = load(tmp_path, messages(0x100, 3))
    vehicle = Vehicle(database, Recognise(bus="can1", ids=[0x100]))
    vehicle.take(every(100, 0x100, 0, 66))
    assert vehicle.findings == (
        "this does not look like the vehicle that the plan is for: ids 0x100 are not seen"
    )


def test_what_comes_after_the_first_minute_is_too_late(tmp_path: Path) -> None:
    vehicle = Vehicle(load(tmp_path, messages(0x100, 3)), Recognise(ids=[0x102]))
    vehicle.take(every(100, 0x100, 0, 61))
    assert vehicle.answer is None
    vehicle.take(every(100, 0x102, 61, 66))
    assert vehicle.answer is False


def test_it_is_told_at_once_that_it_is_the_vehicle(tmp_path: Path) -> None:
    vehicle = Vehicle(
        load(tmp_path, messages(0x100, 3)), Recognise(ids=[0x100], signal="M0.Value > 3")
    )
    assert not vehicle.take(every(100, 0x100, 0, 1))
    assert vehicle.take(every(100, 0x100, 1, 2), came_true=True)
    assert vehicle.answer is True


def test_without_anything_to_recognise_nothing_is_said(tmp_path: Path) -> None:
    decoder = Decoder(load(tmp_path, messages(0x100, 3)))
    recognition = Recognition(None, decoder)
    recognition.look(block(every(100, 0x100, 0, 66)))
    assert recognition.done
    assert recognition.recognised is None


VIN: Final = b"KMHK381GFKU000001"


def vin_database(folder: Path, order: str = "1") -> Database:
    """A VIN in a J1939 message, and a part of it in eight bytes of either byte order."""
    start = 7 if order == "0" else 0
    whole = Msg("Vi", 0x98FE_EC00, 0, 17, ' SG_ Vin : 7|136@0+ (1,0) [0|0] "" X', j1939=True)
    part = Msg("Part", 0x200, signals=f' SG_ Text : {start}|64@{order}+ (1,0) [0|0] "" X')
    return load(folder, [whole, part])


@pytest.mark.parametrize(("prefix", "expected"), [("KMHK38", True), ("kmhk", True), ("WVW", None)])
def test_a_vin_is_read_from_a_message_of_several_frames(
    tmp_path: Path, prefix: str, expected: bool | None
) -> None:
    vehicle = Vehicle(vin_database(tmp_path), Recognise(vin=prefix, vin_signal="Vi.Vin"))
    parts = to_all(0x31, 0xFEEC, VIN)
    vehicle.take([Frame(BEGIN + n * 50 * MILLISECOND, i, d) for n, (i, d) in enumerate(parts)])
    assert vehicle.answer is expected
    vehicle.recognition.conclude()
    assert bool(vehicle.answer) == bool(expected)
    assert ("the VIN begins otherwise" in vehicle.findings) is not bool(expected)
    assert VIN.decode() not in str(vehicle.recognition.report()), "a VIN is nobody else's business"


@pytest.mark.parametrize("order", ["0", "1"])
def test_a_vin_is_read_from_eight_bytes_of_either_order(tmp_path: Path, order: str) -> None:
    vehicle = Vehicle(
        vin_database(tmp_path, order), Recognise(vin="KMHK381G", vin_signal="Part.Text")
    )
    vehicle.take(every(100, 0x200, 0, 1, [VIN[:8]]))
    assert vehicle.answer is True


def test_a_vin_is_read_from_an_answer_to_a_diagnostic_request(tmp_path: Path) -> None:
    schema = TableSchema("can0", "Identity", (SignalSchema("VIN", "bytes", 160),))
    database = dataclasses.replace(load(tmp_path, messages(0x100, 3)), tables=(schema,))
    vehicle = Vehicle(database, Recognise(vin="KMHK", vin_signal="Identity.VIN"))
    padded = np.frombuffer(VIN.rjust(20, b"\0"), np.uint8)[None]
    answer = SignalTable(schema, np.array([BEGIN], np.int64), {}, (padded,))
    assert vehicle.recognition.look(None, [answer])
    assert vehicle.answer is True


def test_without_a_vin_it_is_said_that_there_is_none(tmp_path: Path) -> None:
    vehicle = Vehicle(vin_database(tmp_path), Recognise(vin="KMHK", vin_signal="Vi.Vin"))
    vehicle.take(every(100, 0x200, 0, 66))
    assert "no VIN is seen" in vehicle.findings


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (Recognise(ids=["0x1G"]), '"0x1G" is no id'),
        (Recognise(ids=["0x20000000"]), '"0x20000000" is no id'),
        (Recognise(ids=[-1]), '"-1" is no id'),
        (Recognise(vin="KMHK"), "vin needs vin_signal"),
        (Recognise(vin="KMHK", vin_signal="Nothing"), "no signal is called"),
        (Recognise(vin="KMHK", vin_signal="M1.Value"), "is no text"),
    ],
)
def test_what_cannot_be_recognised_is_refused(tmp_path: Path, how: Recognise, why: str) -> None:
    twelve_bits = ' SG_ Value : 0|12@1+ (1,0) [0|0] "" X'
    decoder = Decoder(load(tmp_path, messages(0x100, 3, signals=twelve_bits)))
    with pytest.raises(ConfigError, match=why):
        Recognition(how, decoder)
