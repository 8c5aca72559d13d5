"""The virtual truck: its DBC, its frames on a J1939 bus, and that its drive is coherent."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from cantools.database import Database as Reference
from cantools.database.can import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.bench.encode import Encoder
from agent.bench.haul import HAUL_S, Haul, Life, Truck
from agent.bench.truck import BUS, VirtualTruck
from agent.blocks import EXTENDED, ID_BITS, FrameBlock, SignalTable, concatenate
from agent.clock import BootNs
from agent.settings import packaged
from agent.signals import Database, Decoder

DBC = packaged("dbc/truck.dbc")
BY_TRANSFER = ("VI", "SOFT")


@pytest.fixture(scope="module")
def reference() -> Reference:
    result = Reference(strict=True)
    result.add_dbc_file(DBC, encoding="utf-8")
    return result


@pytest.fixture(scope="module")
def haul() -> FrameBlock:
    return VirtualTruck(1).frames(HAUL_S)


@pytest.fixture(scope="module")
def tables(haul: FrameBlock) -> dict[tuple[str, int | None], SignalTable]:
    """What the agent decodes of a haul, by message and source."""
    decoder = Decoder(Database.load([DBC], expand=["DM1"]))
    found: dict[tuple[str, int | None], list[SignalTable]] = {}
    for table in decoder.decode(haul):
        found.setdefault((table.message, table.source), []).append(table)
    assert decoder.counts.unknown == decoder.counts.undecodable == 0
    return {key: in_order(concatenate(parts)) for key, parts in found.items()}


def in_order(table: SignalTable) -> SignalTable:
    """Messages that came whole and in packets are tables of their own."""
    return table.take(np.argsort(table.time, kind="stable"))


def messages(reference: Reference) -> list[Message]:
    return [m for m in reference.messages if m.name not in BY_TRANSFER]


class TestDatabase:
    def test_every_message_is_a_parameter_group_with_sender_cycle_and_comment(
        self, reference: Reference
    ) -> None:
        assert 20 <= len(reference.messages) <= 30
        assert len({m.senders[0] for m in reference.messages}) >= 5
        for message in reference.messages:
            assert message.protocol == "j1939", message.name
            assert message.is_extended_frame, message.name
            assert message.cycle_time, message.name
            assert message.comment, message.name

    def test_the_agent_finds_nothing_to_repair(self) -> None:
        assert Database.load([DBC]).findings == ()

    @pytest.mark.parametrize(
        ("signal", "place"),
        [
            ("EEC1.EngineSpeed", (190, 61444, 24, 16)),
            ("EEC1.EngineTorque", (513, 61444, 16, 8)),
            ("EEC2.AcceleratorPedal", (91, 61443, 8, 8)),
            ("CCVS1.WheelSpeed", (84, 65265, 8, 16)),
            ("CCVS1.BrakeSwitch", (597, 65265, 28, 2)),
            ("ET1.CoolantTemperature", (110, 65262, 0, 8)),
            ("ET1.OilTemperature", (175, 65262, 16, 16)),
            ("EFL_P1.OilPressure", (100, 65263, 24, 8)),
            ("LFE1.FuelRate", (183, 65266, 0, 16)),
            ("AMB.AmbientTemperature", (171, 65269, 24, 16)),
            ("VEP1.BatteryVoltage", (168, 65271, 32, 16)),
            ("HOURS.EngineHours", (247, 65253, 0, 32)),
            ("VDHR.TotalDistance", (917, 65217, 0, 32)),
            ("ETC2.CurrentGear", (523, 61445, 24, 8)),
            ("EBC1.BrakePedal", (521, 61441, 8, 8)),
            ("DD1.FuelLevel", (96, 65276, 8, 8)),
        ],
    )
    def test_signals_lie_where_j1939_71_has_their_spn(
        self, reference: Reference, signal: str, place: tuple[int, int, int, int]
    ) -> None:
        name, field = signal.split(".")
        message = reference.get_message_by_name(name)
        found = message.get_signal_by_name(field)

        group = message.frame_id >> 8 & 0xFFFF
        assert (found.spn, group, found.start, found.length) == place

    def test_the_limits_of_every_signal_fit_its_bits(self, reference: Reference) -> None:
        encoders = {m.name: Encoder(m) for m in Database.load([DBC]).messages(BUS)}
        for message in messages(reference):
            for signal in message.signals:
                top = round(((signal.maximum or 0) - signal.offset) / signal.scale)
                # It refuses what does not fit.
                encoders[message.name].encode({signal.name: np.full(1, top)})


class TestFrames:
    def test_decoded_and_encoded_again_by_cantools_they_are_the_same_bytes(
        self, reference: Reference, haul: FrameBlock
    ) -> None:
        for message in messages(reference):
            rows = haul[haul.id == message.frame_id | EXTENDED]
            assert len(rows), message.name
            for row in rows.data[::41, : message.length]:
                raw: Any = message.decode(row.tobytes(), scaling=False, decode_choices=False)
                again = message.encode(raw, scaling=False, strict=False, padding=True)
                assert again == row.tobytes(), message.name

    def test_every_message_comes_as_often_as_its_cycle_time_says(
        self, reference: Reference, haul: FrameBlock
    ) -> None:
        counts = Counter(haul.id.tolist())
        for message in messages(reference):
            expected = HAUL_S * 1000 // int(message.cycle_time or 0)
            assert counts[message.frame_id | EXTENDED] == expected, message.name

    def test_frames_never_overlap_at_250_kbit_s(self, haul: FrameBlock) -> None:
        longest = 67 + 8 * 8 + 26  # bits of a frame with 29-bit identifier and much stuffing
        assert int(np.diff(haul.time).min()) > longest * 4000
        assert haul.bus == BUS
        assert bool((haul.id & EXTENDED != 0).all())

    def test_seven_control_units_speak(self, haul: FrameBlock) -> None:
        sources = np.unique(haul.id & np.uint32(ID_BITS) & np.uint32(0xFF))
        assert len(sources) == 7

    def test_equal_seeds_give_equal_frames_and_other_seeds_others(self) -> None:
        same = [VirtualTruck(seed).frames(12) for seed in (7, 7, 8)]

        assert same[0].data.tobytes() == same[1].data.tobytes()
        assert same[0].time.tobytes() == same[1].time.tobytes()
        assert same[0].data.tobytes() != same[2].data.tobytes()

    def test_times_count_from_the_start(self) -> None:
        early, late = VirtualTruck(1).frames(1), VirtualTruck(1, BootNs(5_000)).frames(1)

        assert (late.time - early.time == 5_000).all()

    @settings(max_examples=10, deadline=None)
    @given(st.lists(st.floats(0.0, 22.0), max_size=12))
    def test_they_do_not_depend_on_the_steps_in_which_they_are_asked_for(
        self, steps: list[float]
    ) -> None:
        truck = VirtualTruck(3)
        parts = [truck.frames(until) for until in [*sorted(steps), 22.0]]

        whole = VirtualTruck(3).frames(22.0)

        assert b"".join(p.time.tobytes() for p in parts) == whole.time.tobytes()
        assert b"".join(p.id.tobytes() for p in parts) == whole.id.tobytes()
        assert b"".join(p.data.tobytes() for p in parts) == whole.data.tobytes()

    def test_asking_for_nothing_gives_nothing(self) -> None:
        truck = VirtualTruck(1)
        assert len(truck.frames(0)) == 0
        assert truck.frames(0).data.shape == (0, 8)


class TestWhatTheAgentReads:
    def test_the_vehicle_identification_is_put_together_from_its_packets(
        self, tables: dict[tuple[str, int | None], SignalTable]
    ) -> None:
        table = tables["VI", 0]

        assert len(table) == HAUL_S // 10
        assert {row.tobytes() for row in table.raw["VIN"]} == {Truck.of(1).vin.encode()}
        assert len(Truck.of(1).vin) == 17
        software = tables["SOFT", 0].raw["SoftwareIdentification"]
        assert {row.tobytes() for row in software} == {b"EA-1.0.00*"}

    def test_somebody_asks_for_it_before(
        self, tables: dict[tuple[str, int | None], SignalTable]
    ) -> None:
        asked, answered = tables["RQST", 0x17], tables["VI", 0]

        assert set(asked.raw["RequestedGroup"].tolist()) == {0xFEEC}
        assert bool((answered.time > asked.time).all())
        assert int((answered.time - asked.time).max()) < 1_250_000_000

    def test_trouble_codes_come_when_the_engine_is_hot_and_go_again(
        self, tables: dict[tuple[str, int | None], SignalTable]
    ) -> None:
        lamps, codes = tables["DM1", 0], tables["DM1_DTC", 0]
        lit = lamps.raw["AmberWarningLamp"] == 1

        assert len(lamps) == HAUL_S
        assert 20 < int(lit.sum()) < 100
        assert not lit[0]
        assert not lit[-1]
        pairs = set(zip(codes.raw["SPN"].tolist(), codes.raw["FMI"].tolist(), strict=True))
        assert pairs == {(110, 16), (175, 16)}
        assert int(codes.raw["Number"].max()) == 2  # both at once: a transfer
        assert set(codes.time.tolist()) == set(lamps.time[lit].tolist())

    def test_the_brakes_have_none(self, tables: dict[tuple[str, int | None], SignalTable]) -> None:
        assert not tables["DM1", 0x0B].raw["AmberWarningLamp"].any()
        assert ("DM1_DTC", 0x0B) not in tables

    def test_what_it_does_not_have_is_not_available(
        self, tables: dict[tuple[str, int | None], SignalTable]
    ) -> None:
        assert set(tables["ETC1", 3].validity("ConverterLockup").tolist()) == {1}
        assert not tables["EEC1", 0].validity("EngineSpeed").any()


class TestPhysics:
    def test_it_drives_up_hill_becomes_hot_and_brakes_down_hill(
        self, tables: dict[tuple[str, int | None], SignalTable]
    ) -> None:
        speed = tables["CCVS1", 0].physical("WheelSpeed")
        coolant = tables["ET1", 0].physical("CoolantTemperature")
        retarder = tables["ERC1", 0x0F].physical("RetarderTorque")

        assert speed[0] == speed[-1] == 0
        assert 75 < speed.max() < 90
        assert coolant[0] < 90
        assert coolant[-1] < 90
        assert 20 < int((coolant > 105).sum()) < 80
        assert int((retarder < -40).sum()) > 50

    def test_the_engine_turns_as_the_gear_says(
        self, tables: dict[tuple[str, int | None], SignalTable]
    ) -> None:
        etc1, eec1 = tables["ETC1", 3], tables["EEC1", 0]
        shaft = np.interp(eec1.time, etc1.time, etc1.physical("InputShaftSpeed"))
        quiet = np.interp(eec1.time, etc1.time, etc1.physical("ShiftInProcess")) == 0
        driving = quiet & (shaft > 800)

        near = np.abs(eec1.physical("EngineSpeed") - shaft)[driving] < 60
        assert near.mean() > 0.9

    def test_fuel_is_burnt_up_hill_and_not_down_hill(
        self, tables: dict[tuple[str, int | None], SignalTable]
    ) -> None:
        lfe1 = tables["LFE1", 0]
        second = (lfe1.time - lfe1.time[0]) / 1e9
        fuel = lfe1.physical("FuelRate")

        assert fuel[(second > 90) & (second < 120)].mean() > 50
        assert fuel[(second > 160) & (second < 175)].mean() < 3

    def test_what_lasts_goes_on_in_the_next_haul(self) -> None:
        truck = VirtualTruck(1)
        truck.frames(HAUL_S - 3)
        decoder = Decoder(Database.load([DBC]))
        around: dict[str, list[float]] = {}
        for table in decoder.decode(truck.frames(HAUL_S + 3)):
            for name in table.names:
                around.setdefault(f"{table.message}.{name}", []).extend(
                    table.physical(name).tolist() if table.schema.by_name[name].bits < 65 else []
                )
        for path, step in (
            ("VDHR.TotalDistance", 0.1),
            ("HOURS.EngineHours", 0.1),
            ("ET1.CoolantTemperature", 2),
            ("DD1.FuelLevel", 1),
            ("VP.Latitude", 1e-4),
            ("AMB.BarometricPressure", 0.5),
        ):
            assert np.ptp(around[path]) <= step, path

    @pytest.mark.parametrize("seed", range(4))
    def test_no_value_has_to_be_clamped_to_its_signal(
        self, reference: Reference, seed: int
    ) -> None:
        truck = Truck.of(seed)
        first = Haul(truck, 0, Life.begin(truck))
        for columns in (first.columns, Haul(truck, 1, first.life).columns):
            for message in messages(reference):
                for signal in message.signals:
                    values = columns.get(signal.name)
                    if values is not None:
                        step = abs(signal.scale)
                        assert values.min() > (signal.minimum or 0) - step, signal.name
                        assert values.max() < (signal.maximum or 0) + step, signal.name


def test_a_long_life_stays_within_the_signals() -> None:
    """The tank is filled again and again, and the calendar goes on."""
    truck = Truck.of(5)
    life = Life.begin(truck)
    for index in range(3):
        life = Haul(truck, index, life).life
    late = Haul(truck, 40 * 360, life).columns  # in the 41st day

    assert set(late["Month"].tolist()) == {2}
    assert set(late["Day"].tolist()) == {10}
    assert 5 < late["FuelLevel"].min() <= late["FuelLevel"].max() <= 90
