"""Faults on frames: what they do to what is decoded, and that they are counted."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.bench.anydbc import DatabaseVehicle
from agent.bench.disturb import Disturbed
from agent.bench.truck import VirtualTruck
from agent.bench.vehicle import VirtualVehicle
from agent.blocks import ERROR, EXTENDED, ID_BITS, REMOTE, FrameBlock
from agent.errors import ConfigError
from agent.settings import packaged
from agent.signals import Database, Decoder

EV = packaged("dbc/ev.dbc")
MULTIPLEXED = (
    'VERSION ""\n\nNS_ :\n\nBS_:\n\nBU_: A B\n\nBO_ 1 Mux: 8 A\n'
    ' SG_ Which M : 0|8@1+ (1,0) [0|0] "" A\n'
    ' SG_ One m1 : 8|16@1+ (1,0) [0|0] "" A\n'
    ' SG_ Two m2 : 8|16@1+ (1,0) [0|0] "" A\n\nBO_ 2 Other: 8 B\n'
    ' SG_ Free : 0|16@1+ (1,0) [0|0] "" A\n'
)
ANY_FAULT: dict[str, dict[str, Any]] = {
    "ecu-silent": {"message": "PackPower"},
    "stuck-counter": {"signal": "*.Counter"},
    "false-value": {"signal": "BatteryStatus.FaultCode", "value": 77},
    "bit-flips": {"per_million": 500},
    "overload": {"factor": 2.7},
}


@pytest.fixture(scope="module")
def ev() -> Database:
    return Database.load([EV])


@pytest.fixture(scope="module")
def frames() -> FrameBlock:
    return VirtualVehicle(1).frames(4)


@pytest.fixture
def mux(tmp_path: Path) -> DatabaseVehicle:
    path = tmp_path / "mux.dbc"
    path.write_text(MULTIPLEXED)
    return DatabaseVehicle([path])


def values(database: Database, block: FrameBlock, name: str) -> list[float]:
    tables = Decoder(database).decode(block)
    return [v for t in tables if name in t.names for v in t.raw[name].tolist()]


def messages(database: Database, block: FrameBlock) -> set[str]:
    return {t.message for t in Decoder(database).decode(block)}


def same(first: FrameBlock, second: FrameBlock) -> bool:
    fields = ("time", "id", "length", "flags", "data")
    return all(np.array_equal(getattr(first, f), getattr(second, f)) for f in fields)


def joined(blocks: Sequence[FrameBlock]) -> FrameBlock:
    fields = ("time", "id", "length", "flags", "data")
    arrays: Any = {f: np.concatenate([getattr(b, f) for b in blocks]) for f in fields}
    return FrameBlock.from_arrays(bus=blocks[0].bus, **arrays)


class TestSilence:
    def test_a_message_is_not_sent_until_it_is_taken_back(
        self, ev: Database, frames: FrameBlock
    ) -> None:
        disturbed = Disturbed(ev)
        disturbed.set("ecu-silent", True, message="PackPower")

        found = disturbed.apply(frames)

        assert messages(ev, frames) - messages(ev, found) == {"PackPower"}
        assert disturbed.counts["silenced"] == len(frames) - len(found) > 0
        disturbed.set("ecu-silent", False)
        assert disturbed.apply(frames) is frames

    def test_a_pattern_names_several_messages(self, ev: Database, frames: FrameBlock) -> None:
        disturbed = Disturbed(ev)
        disturbed.set("ecu-silent", True, message="Pack*")

        left = messages(ev, disturbed.apply(frames))

        assert left
        assert not any(name.startswith("Pack") for name in left)

    def test_a_node_is_known_by_its_name_in_the_file(self, mux: DatabaseVehicle) -> None:
        disturbed = Disturbed(mux.database, senders=mux.senders)
        disturbed.set("ecu-silent", True, node="A")

        assert messages(mux.database, disturbed.apply(mux.frames(2))) == {"Other"}
        assert disturbed.nodes == ("A", "B")

    def test_a_node_of_j1939_is_known_by_its_address_with_its_transfers(self) -> None:
        truck = Database.load([packaged("dbc/truck.dbc")])
        disturbed = Disturbed(truck)
        disturbed.set("ecu-silent", True, node="0x00")

        found = disturbed.apply(VirtualTruck(1).frames(20))

        assert 0 not in set((found.id & np.uint32(ID_BITS) & np.uint32(0xFF)).tolist())
        assert len(found) > 100
        assert (found.id & EXTENDED != 0).all()


class TestStuckCounter:
    def test_a_counter_keeps_its_first_value_and_all_else_goes_on(
        self, ev: Database, frames: FrameBlock
    ) -> None:
        disturbed = Disturbed(ev)
        early, late = frames[:2000], frames[2000:]
        disturbed.apply(early)
        disturbed.set("stuck-counter", True, signal="VehicleMotion.Counter")

        found = disturbed.apply(late)

        def counted(block: FrameBlock) -> list[float]:
            tables = Decoder(ev).decode(block)
            return [
                v for t in tables if t.message == "VehicleMotion" for v in t.raw["Counter"].tolist()
            ]

        first = counted(late)[0]
        assert counted(found) == [first] * len(counted(late))
        assert values(ev, found, "VehicleSpeed") == values(ev, late, "VehicleSpeed")
        assert disturbed.counts["stuck"] == len(counted(late))

    def test_a_multiplexed_signal_is_held_in_its_own_frames_only(
        self, mux: DatabaseVehicle
    ) -> None:
        disturbed = Disturbed(mux.database)
        disturbed.set("stuck-counter", True, signal="Mux.One")
        block = mux.frames(20)

        found = disturbed.apply(block)

        assert len(set(values(mux.database, block, "One"))) > 10
        assert len(set(values(mux.database, found, "One"))) == 1
        assert values(mux.database, found, "Two") == values(mux.database, block, "Two")


class TestBitFlips:
    def test_so_many_bits_of_a_million_are_flipped(self, ev: Database, frames: FrameBlock) -> None:
        disturbed = Disturbed(ev)
        disturbed.set("bit-flips", True, per_million=2000)

        found = disturbed.apply(frames)

        changed = int(np.unpackbits(found.data ^ frames.data).sum())
        sent = int(frames.length.astype(np.int64).sum()) * 8
        assert changed == disturbed.counts["flipped_bits"]
        assert changed == pytest.approx(sent * 0.002, rel=0.15)
        wrong = (found.data != frames.data).any(axis=1)
        assert int(wrong.sum()) == disturbed.counts["flipped_frames"]

    def test_nothing_beyond_the_length_and_no_frame_without_data_is_touched(self) -> None:
        block = FrameBlock.from_arrays(
            bus="a",
            time=np.arange(4),
            id=[1, 2 | REMOTE, 3 | ERROR, 4],
            length=[3, 8, 8, 0],
            data=np.zeros((4, 8)),
        )
        disturbed = Disturbed(Database({}))
        disturbed.set("bit-flips", True, per_million=1_000_000)

        found = disturbed.apply(block)

        assert found.data.tolist() == [[255] * 3 + [0] * 5, *[[0] * 8] * 3]
        assert disturbed.counts["flipped_bits"] == 24

    def test_what_is_given_stays_as_it_was(self, ev: Database, frames: FrameBlock) -> None:
        before = frames.data.copy()
        disturbed = Disturbed(ev)
        disturbed.set("bit-flips", True, per_million=50_000)
        disturbed.set("stuck-counter", True, signal="*.Counter")

        disturbed.apply(frames)

        assert (frames.data == before).all()


class TestOverload:
    @pytest.mark.parametrize("factor", [1, 1.5, 2, 10])
    def test_the_bus_carries_that_many_times_as_much(
        self, ev: Database, frames: FrameBlock, factor: float
    ) -> None:
        disturbed = Disturbed(ev)
        disturbed.set("overload", True, factor=factor)

        found = disturbed.apply(frames)

        assert len(found) == int(len(frames) * factor)
        assert disturbed.counts["added"] == len(found) - len(frames)
        assert (np.diff(found.time) >= 0).all()
        assert set(found.id.tolist()) == set(frames.id.tolist())


class TestTogether:
    @settings(max_examples=25)
    @given(st.lists(st.integers(0, 4000), max_size=5), st.sets(st.sampled_from(list(ANY_FAULT))))
    def test_the_result_does_not_depend_on_how_frames_are_cut(
        self, cuts: list[int], names: set[str]
    ) -> None:
        database, frames = Database.load([EV]), VirtualVehicle(1).frames(4)
        whole, parts = Disturbed(database, 9), Disturbed(database, 9)
        for name in names:
            whole.set(name, True, **ANY_FAULT[name])
            parts.set(name, True, **ANY_FAULT[name])
        edges = [0, *sorted(cuts), len(frames)]

        pieces = [parts.apply(frames[a:b]) for a, b in itertools.pairwise(edges)]

        assert same(joined(pieces), whole.apply(frames))
        assert parts.counts == whole.counts
        assert parts.active == names

    def test_equal_seeds_flip_equal_bits_and_other_seeds_others(
        self, ev: Database, frames: FrameBlock
    ) -> None:
        found = []
        for seed in (1, 1, 2):
            disturbed = Disturbed(ev, seed)
            disturbed.set("bit-flips", True, per_million=1000)
            found.append(disturbed.apply(frames))

        assert same(found[0], found[1])
        assert not same(found[0], found[2])

    def test_a_block_that_is_silenced_whole_is_empty(self, mux: DatabaseVehicle) -> None:
        disturbed = Disturbed(mux.database)
        disturbed.set("ecu-silent", True, message="*")
        disturbed.set("bit-flips", True, per_million=1000)
        disturbed.set("overload", True, factor=3)

        assert len(disturbed.apply(mux.frames(1))) == 0

    def test_frames_of_can_fd_are_disturbed_too(self, tmp_path: Path) -> None:
        path = tmp_path / "fd.dbc"
        line = ' SG_ Counter : 311|8@0+ (1,0) [0|0] "" A\n'
        path.write_text(MULTIPLEXED + f"\nBO_ 3 Long: 48 A\n{line}")
        vehicle = DatabaseVehicle([path])
        disturbed = Disturbed(vehicle.database)
        for name, parameters in (
            ("stuck-counter", {"signal": "Long.Counter"}),
            ("overload", {"factor": 2}),
        ):
            disturbed.set(name, True, **parameters)

        found = disturbed.apply(vehicle.frames(5))

        assert set(values(vehicle.database, found, "Counter")) == {0}


class TestFalseValue:
    def test_a_signal_has_the_value_and_its_neighbours_keep_theirs(
        self, ev: Database, frames: FrameBlock
    ) -> None:
        disturbed = Disturbed(ev)
        disturbed.set("false-value", True, signal="BatteryStatus.OverTemperature", value=1)

        found = disturbed.apply(frames)

        assert set(values(ev, found, "OverTemperature")) == {1}
        assert disturbed.counts["false"] == len(values(ev, found, "OverTemperature"))
        for other in ("UnderVoltage", "OverCurrent", "IsolationResistance"):
            assert list(values(ev, found, other)) == list(values(ev, frames, other))

    def test_a_multiplexed_and_a_signed_signal(self, ev: Database, frames: FrameBlock) -> None:
        disturbed = Disturbed(ev)
        for signal, raw in (("CellVoltages.CellVoltage42", 4321), ("MotorState.MotorTorque", -7)):
            disturbed.set("false-value", True, signal=signal, value=raw)
            found = disturbed.apply(frames)
            assert set(values(ev, found, signal.partition(".")[2])) == {raw}


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "parameters", "why"),
        [
            ("meteor", {}, "is no fault of frames"),
            ("ecu-silent", {}, "needs a message or a node"),
            ("ecu-silent", {"message": "A", "node": "B"}, "and not both"),
            ("ecu-silent", {"message": "Nothing"}, 'no message is called "Nothing"'),
            ("ecu-silent", {"node": "Nobody"}, 'no node is called "Nobody"'),
            ("ecu-silent", {"node": "0x1FF"}, "no node"),
            ("ecu-silent", {"nodes": "A"}, "cannot be set with nodes"),
            ("stuck-counter", {}, "needs a signal"),
            ("stuck-counter", {"signal": "Nothing"}, "no signal is called"),
            ("false-value", {}, "needs a signal"),
            ("false-value", {"signal": "PackPower.InterlockClosed", "value": 2}, "from 0 to 1"),
            ("false-value", {"signal": "PackPower.InterlockClosed", "value": 0.5}, "whole number"),
            ("bit-flips", {}, "above 0"),
            ("bit-flips", {"per_million": -1}, "from 0 to 1e"),
            ("bit-flips", {"per_million": "many"}, "not many"),
            ("overload", {"factor": 0.5}, "from 1 to 50"),
            ("overload", {"factor": float("nan")}, "from 1 to 50"),
            ("overload", {"factor": True}, "from 1 to 50"),
        ],
    )
    def test_what_cannot_be_says_why_and_changes_nothing(
        self, ev: Database, frames: FrameBlock, name: str, parameters: dict[str, Any], why: str
    ) -> None:
        disturbed = Disturbed(ev)

        with pytest.raises(ConfigError, match=why):
            disturbed.set(name, True, **parameters)

        assert disturbed.apply(frames) is frames
