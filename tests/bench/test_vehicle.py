"""The demo electric car: its DBC, and that its frames are coherent and the same each time."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from cantools.database import Database
from cantools.database.can import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.bench.drive import CYCLE_S, Car, Cycle, Life
from agent.bench.encode import Encoder
from agent.bench.vehicle import BUS, VirtualVehicle, dbc_path
from agent.blocks import EXTENDED, FrameBlock
from agent.clock import BootNs
from agent.signals import dbc


@pytest.fixture(scope="module")
def database() -> Database:
    result = Database(strict=True)
    result.add_dbc_file(dbc_path(), encoding="utf-8")
    return result


@pytest.fixture(scope="module")
def cycle() -> FrameBlock:
    """One whole drive cycle."""
    return VirtualVehicle(1).frames(CYCLE_S)


def payloads(block: FrameBlock, message: Message) -> FrameBlock:
    identifier = message.frame_id | (EXTENDED if message.is_extended_frame else 0)
    return block[block.id == identifier]


def column(block: FrameBlock, database: Database, path: str) -> np.ndarray[Any, Any]:
    """A signal's physical values, by cantools."""
    message_name, signal = path.split(".")
    message = database.get_message_by_name(message_name)
    rows = payloads(block, message).data[:, : message.length]
    decoded: list[Any] = [message.decode(row.tobytes(), decode_choices=False) for row in rows]
    return np.array([d[signal] for d in decoded if signal in d])


class TestDatabase:
    def test_every_message_says_who_sends_it_how_often_and_what_it_is(
        self, database: Database
    ) -> None:
        for message in database.messages:
            assert message.cycle_time, message.name
            assert message.senders, message.name
            assert message.comment, message.name

    def test_it_has_what_decoders_trip_over(self, database: Database) -> None:
        signals = [s for m in database.messages for s in m.signals]

        assert 25 <= len(database.messages) <= 32
        assert 200 <= len(signals) <= 300
        assert {s.byte_order for s in signals} == {"little_endian", "big_endian"}
        assert any(m.is_extended_frame for m in database.messages)
        assert any(s.is_float for s in signals)
        assert any(s.choices for s in signals)
        assert sum(m.is_multiplexed() for m in database.messages) == 2

    def test_the_limits_of_every_signal_fit_its_bits(self, database: Database) -> None:
        encoders = {m.name: Encoder(m) for m in dbc.read(dbc_path().read_bytes()).messages}
        for message in database.messages:
            for signal in message.signals:
                if signal.is_float:
                    continue
                ends = [
                    round((limit - signal.offset) / signal.scale)
                    for limit in (signal.minimum, signal.maximum)
                    if limit is not None
                ]
                values = np.full(1, min(ends)), np.full(1, max(ends))
                assert ends[0] < ends[1], signal.name
                for value in values:  # encode refuses what does not fit
                    encoders[message.name].encode({signal.name: value})


class TestFrames:
    def test_decoded_and_encoded_again_by_cantools_they_are_the_same_bytes(
        self, database: Database, cycle: FrameBlock
    ) -> None:
        for message in database.messages:
            for row in payloads(cycle, message).data[::97, : message.length]:
                raw: Any = message.decode(row.tobytes(), scaling=False, decode_choices=False)
                again = message.encode(raw, scaling=False, strict=False)
                assert again == row.tobytes(), message.name

    def test_every_message_comes_as_often_as_its_cycle_time_says(
        self, database: Database, cycle: FrameBlock
    ) -> None:
        counts = Counter(cycle.id.tolist())

        expected = {
            m.frame_id | (EXTENDED if m.is_extended_frame else 0): CYCLE_S
            * 1000
            // int(m.cycle_time or 0)
            for m in database.messages
        }
        assert counts == expected
        assert 1000 <= len(cycle) / CYCLE_S <= 1300

    def test_frames_are_in_order_and_never_overlap_on_the_bus(self, cycle: FrameBlock) -> None:
        standard = 47 + 8 * 8  # bits of a frame with 11-bit identifier, without stuffing
        assert int(np.diff(cycle.time).min()) > standard * 2000
        assert cycle.bus == BUS
        assert cycle.clock == "boot"

    def test_counters_count_and_checksums_agree(
        self, database: Database, cycle: FrameBlock
    ) -> None:
        protected = [m for m in database.messages if "Checksum" in [s.name for s in m.signals]]
        assert len(protected) >= 3
        for message in protected:
            data = payloads(cycle, message).data
            assert not np.bitwise_xor.reduce(data, axis=1).any(), message.name
            counter = data[:, 6] >> (0 if message.name == "Steering" else 4)
            assert (np.diff(counter & 15) % 16 == 1).all(), message.name

    def test_equal_seeds_give_equal_frames_and_other_seeds_others(self) -> None:
        same = [VirtualVehicle(seed).frames(2) for seed in (7, 7, 8)]

        assert same[0].data.tobytes() == same[1].data.tobytes()
        assert same[0].time.tobytes() == same[1].time.tobytes()
        assert same[0].data.tobytes() != same[2].data.tobytes()

    def test_times_count_from_the_start(self) -> None:
        early, late = VirtualVehicle(1).frames(1), VirtualVehicle(1, BootNs(5_000)).frames(1)

        assert (late.time - early.time == 5_000).all()

    @settings(max_examples=10, deadline=None)
    @given(st.lists(st.floats(0.0, 12.0), max_size=12))
    def test_they_do_not_depend_on_the_steps_in_which_they_are_asked_for(
        self, steps: list[float]
    ) -> None:
        vehicle = VirtualVehicle(3)
        parts = [vehicle.frames(until) for until in [*sorted(steps), 12.0]]

        whole = VirtualVehicle(3).frames(12.0)

        assert b"".join(p.time.tobytes() for p in parts) == whole.time.tobytes()
        assert b"".join(p.id.tobytes() for p in parts) == whole.id.tobytes()
        assert b"".join(p.data.tobytes() for p in parts) == whole.data.tobytes()

    def test_asking_for_the_past_gives_nothing(self) -> None:
        vehicle = VirtualVehicle(1)
        vehicle.frames(2)

        assert len(vehicle.frames(1)) == 0


class TestPhysics:
    def test_it_drives_and_stops(self, database: Database, cycle: FrameBlock) -> None:
        speed = column(cycle, database, "VehicleMotion.VehicleSpeed")

        assert 80 < speed.max() < 120
        assert speed[0] == speed[-1] == 0
        assert abs(np.diff(speed)).max() < 0.5  # km/h in 10 ms: no jumps

    def test_the_motor_turns_with_the_wheels(self, database: Database, cycle: FrameBlock) -> None:
        speed = column(cycle, database, "VehicleMotion.VehicleSpeed")
        motor = column(cycle, database, "MotorState.MotorSpeed")

        assert np.corrcoef(speed, motor)[0, 1] > 0.999

    def test_current_takes_the_charge_and_the_station_gives_it_back(
        self, database: Database, cycle: FrameBlock
    ) -> None:
        charge = column(cycle, database, "BatteryCharge.StateOfCharge")
        current = column(cycle, database, "PackPower.PackCurrent")
        assert current.max() > 100
        assert current.min() < -40
        assert charge.min() < charge[0] - 0.5
        assert abs(charge[0] - charge[-1]) < 0.02
        assert abs(current.mean()) < 0.1

    def test_braking_charges_the_battery(self, database: Database, cycle: FrameBlock) -> None:
        power = column(cycle, database, "InverterPower.InverterPower")
        torque = column(cycle, database, "BrakeControl.RegenerationTorque")

        assert power.min() < -20
        assert (power[torque > 200] < 5).all()

    def test_the_cells_add_up_to_the_pack(self, database: Database, cycle: FrameBlock) -> None:
        parked = cycle[cycle.time < 5 * 10**9]
        cells = [
            column(parked, database, f"CellVoltages.CellVoltage{i + 1:02d}") for i in range(96)
        ]
        pack = column(parked, database, "PackPower.PackVoltage")

        assert abs(sum(c[0] for c in cells) / 1000 - pack[0]) < 1
        assert 3000 < min(c.min() for c in cells) <= max(c.max() for c in cells) < 4250

    def test_extremes_are_those_of_the_cells(self, database: Database, cycle: FrameBlock) -> None:
        quiet = cycle[cycle.time < 6 * 10**9]  # no current: all cells hold still
        cells = np.array(
            [column(quiet, database, f"CellVoltages.CellVoltage{i + 1:02d}")[0] for i in range(96)]
        )
        highest = column(quiet, database, "CellExtremes.CellVoltageMaximum")[0]
        where = int(column(quiet, database, "CellExtremes.CellOfMaximum")[0])

        assert abs(cells.max() - highest) <= 2
        assert abs(cells[where - 1] - highest) <= 2

    def test_the_way_is_a_loop(self, database: Database, cycle: FrameBlock) -> None:
        latitude = column(cycle, database, "GnssPosition.Latitude")
        longitude = column(cycle, database, "GnssPosition.Longitude")

        assert latitude.max() - latitude.min() > 0.003
        assert abs(latitude[-1] - latitude[0]) < 1e-4
        assert abs(longitude[-1] - longitude[0]) < 1e-4

    def test_what_lasts_goes_on_in_the_next_cycle(self, database: Database) -> None:
        vehicle = VirtualVehicle(1)
        vehicle.frames(CYCLE_S - 2)
        around = vehicle.frames(CYCLE_S + 2)

        for path in (
            "Odometer.Odometer",
            "EnergyCounters.EnergyDischarged",
            "DriveTemperatures.StatorTemperature",
            "BatteryThermal.PackTemperatureMaximum",
            "BatteryCharge.StateOfCharge",
            "GnssPosition.Latitude",
        ):
            values = column(around, database, path)
            assert np.ptp(values) <= 1, path

    @pytest.mark.parametrize("seed", range(5))
    def test_no_value_has_to_be_clamped_to_its_signal(self, database: Database, seed: int) -> None:
        car = Car.of(seed)
        columns = Cycle(car, 0, Life.begin(car)).columns

        for message in database.messages:
            for signal in message.signals:
                values = columns.get(signal.name)
                if values is not None:
                    step = abs(signal.scale)  # 359.996 deg is shown as 359.99
                    assert values.min() > (signal.minimum or 0) - step, signal.name
                    assert values.max() < (signal.maximum or 0) + step, signal.name
