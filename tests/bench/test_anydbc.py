"""A vehicle made of any DBC file: what it says it sends is what the agent decodes."""

import argparse
import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agent.bench.anydbc import DatabaseVehicle
from agent.bench.pages import PAGE_S
from agent.bench.vehicle import dbc_path
from agent.blocks import EXTENDED, FD_FRAME, FrameBlock, SignalTable
from agent.bus import read_log
from agent.bus.load import busy_bits
from agent.clock import SECOND, BootNs
from agent.commands import simulate
from agent.errors import ConfigError, DatabaseError
from agent.settings import packaged
from agent.signals import Decoder
from tests.shared_data import SHARED, needs_shared
from tests.signals.dbctext import Msg, text
from tests.signals.test_decoder import messages

HEAD = 'VERSION ""\n\nNS_ :\n\nBS_:\n\nBU_: ECU Dash\n\n'
OURS = ("ev", "truck", "gbt27930")
EMPTY = "cp1252.dbc"  # it has value tables, and no message


def vehicle_of(folder: Path, body: str, **options: Any) -> DatabaseVehicle:
    path = folder / "some.dbc"
    path.write_text(HEAD + body)
    return DatabaseVehicle([path], **options)


def column(tables: Sequence[SignalTable], name: str) -> tuple[NDArray[np.int64], NDArray[np.void]]:
    """Times and raw values of one signal, of all branches of a message, in the order of time."""
    have = [t for t in tables if name in t.names]
    if not have:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    time = np.concatenate([t.time for t in have])
    order = np.argsort(time, kind="stable")
    return time[order], np.concatenate([t.raw[name] for t in have])[order]


def check(vehicle: DatabaseVehicle, pages: int = 2) -> int:
    """Decode some pages and compare with what the vehicle says; how many values there were."""
    decoder = Decoder(vehicle.database)
    tables: dict[str, list[SignalTable]] = {}
    for page in range(pages):
        for table in decoder.decode(vehicle.frames((page + 1) * PAGE_S)):
            tables.setdefault(table.message, []).append(table)
    counts = decoder.counts
    assert counts.unknown == counts.undecodable == counts.transport_lost == 0
    told = [vehicle.samples(page) for page in range(pages)]
    compared = 0
    for message in vehicle.messages:
        said = [page[message.name] for page in told if message.name in page]
        for name in said[0].raw if said else ():
            there = np.concatenate([s.there[name] for s in said])
            wanted = np.concatenate([s.raw[name] for s in said])[there]
            time, found = column(tables.get(message.name, []), name)
            where = f"{message.name}.{name}"
            # Through whole numbers: there are signed and unsigned columns.
            assert found.tolist() == wanted.tolist(), where
            if not message.j1939:
                assert (time == np.concatenate([s.time for s in said])[there]).all(), where
            compared += len(wanted)
    return compared


class TestSharedFiles:
    @needs_shared
    @pytest.mark.parametrize(
        "path", sorted((SHARED / "dbc").glob("*.dbc")), ids=lambda p: str(p.name)
    )
    def test_each_file_drives_a_vehicle_that_decodes_to_what_it_sent(self, path: Path) -> None:
        if path.name == EMPTY:
            with pytest.raises(ConfigError, match=r"nothing in .* can be sent"):
                DatabaseVehicle([path])
            return
        vehicle = DatabaseVehicle([path], seed=5)

        assert check(vehicle) >= 100
        # Nearly everything is driven: what is left has one of the reasons that there are.
        described = sum(len(m.signals) for m in vehicle.database.messages("can0"))
        sent = described - len(vehicle.left)
        checksums = sum("checksum" in why for why in vehicle.left.values())
        assert sent > 0.95 * (described - checksums), vehicle.left

    @pytest.mark.parametrize("name", OURS)
    def test_our_own_files_do_too(self, name: str) -> None:
        assert check(DatabaseVehicle([packaged(f"dbc/{name}.dbc")])) > 1000

    @needs_shared
    def test_each_branch_of_a_big_multiplexed_message_has_its_turn(self) -> None:
        vehicle = DatabaseVehicle([SHARED / "dbc/OBD-v4.4.dbc"])

        told = [vehicle.samples(page) for page in range(12)]

        names = {n for m in vehicle.messages for n in told[0][m.name].there}
        met = {
            n for page in told for said in page.values() for n, on in said.there.items() if on.any()
        }
        assert len(met) > 0.9 * len(names)


class TestAnyFile:
    @settings(max_examples=60)
    @given(st.data())
    def test_whatever_is_described_decodes_to_what_was_sent(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        path = tmp_path_factory.mktemp("any") / "any.dbc"
        found = data.draw(st.lists(messages(), min_size=1, max_size=3))
        named = [
            dataclasses.replace(m, name=f"Any{i}", id=16 * i + m.id % 16)
            for i, m in enumerate(found)
        ]
        path.write_text(text(named))

        check(DatabaseVehicle([path], data.draw(st.integers(0, 1000))), 1)

    @settings(max_examples=40)
    @given(st.data())
    def test_messages_of_j1939_of_any_length_do_too(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        path = tmp_path_factory.mktemp("any") / "any.dbc"
        # To everybody, to one node, and in the range of fast packets; of two senders.
        groups = data.draw(
            st.lists(
                st.sampled_from((0xFEEC, 0xFF10, 0x0100, 0xEF00, 0x1F805, 0x1FA03, 0x1EF00)),
                min_size=1,
                max_size=4,
                unique=True,
            )
        )
        found = []
        for i, group in enumerate(groups):
            message = data.draw(messages())
            size = data.draw(st.sampled_from((message.size, message.size, 100, 223, 224, 1785)))
            low = 0x55 if (group >> 8 & 0xFF) < 240 else 0
            number = 0x1800_0000 | (group | low) << 8 | data.draw(st.sampled_from((0x20, 0xFE)))
            found.append(
                Msg(f"Any{i}", number, max(size, message.size), message.signals, extended=True)
            )
        path.write_text(text(found, j1939=True))

        check(DatabaseVehicle([path]), 3)

    @settings(max_examples=80)
    @given(st.data())
    def test_any_scale_limits_unit_and_table_give_values_that_the_signal_can_have(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        path = tmp_path_factory.mktemp("any") / "any.dbc"
        numbers = st.sampled_from(
            ("0", "1", "-1", "0.01", "-0.5", "255", "1e9", "-40", "1e-300", "1e300", "-1e300")
        ) | st.integers(-(2**63), 2**64 - 1).map(str)
        scale, offset, low, high = (data.draw(numbers) for _ in range(4))
        bits, sign = data.draw(st.integers(1, 64)), data.draw(st.sampled_from("+-"))
        unit = data.draw(st.sampled_from(("", "km/h", "V", "%", "km", "degC", "rpm", "x")))
        name = data.draw(st.sampled_from(("Odometer", "Counter", "Alive", "State", "Level")))
        body = (
            f"BO_ 1 M: 8 E\n SG_ {name} : 0|{bits}@1{sign} ({scale},{offset}) [{low}|{high}] "
            f'"{unit}" E\n\n'
        )
        if values := data.draw(st.lists(st.integers(-(2**63), 2**64 - 1) | st.integers(0, 9))):
            body += f"VAL_ 1 {name} " + " ".join(f'{v} "v{v}"' for v in values) + " ;\n"
        if data.draw(st.booleans()) and bits in (32, 64):
            body += f"SIG_VALTYPE_ 1 {name} : {bits // 32};\n"
        path.write_text(HEAD + body)

        check(DatabaseVehicle([path]), 1)

    def test_a_message_without_bytes_and_signals_is_sent_as_it_is(self, tmp_path: Path) -> None:
        frames = vehicle_of(tmp_path, "BO_ 1 Ping: 0 ECU\n").frames(1)

        assert set(frames.length.tolist()) == {0}
        assert len(frames) == 10


class TestWhen:
    def test_messages_come_at_their_cycle_time_and_others_at_100_ms_or_a_second(
        self, tmp_path: Path
    ) -> None:
        vehicle = vehicle_of(
            tmp_path,
            "BO_ 1 Fast: 8 ECU\n\nBO_ 2 Guessed: 8 ECU\n\nBO_ 3 Event: 8 Dash\n\n"
            'BA_DEF_ BO_ "GenMsgCycleTime" INT 0 65535;\n'
            'BA_DEF_ BO_ "GenMsgSendType" ENUM "Cyclic","OnEvent";\n'
            'BA_DEF_DEF_ "GenMsgSendType" "Cyclic";\n'
            'BA_ "GenMsgCycleTime" BO_ 1 7;\nBA_ "GenMsgSendType" BO_ 3 1;\n',
        )
        frames = vehicle.frames(20)

        for number, period_ms in ((1, 7), (2, 100), (3, 1000)):
            gaps = np.diff(frames.time[frames.id == number])
            assert set(gaps.tolist()) == {period_ms * 1_000_000}
        assert vehicle.senders == {(False, 1): "ECU", (False, 2): "ECU", (False, 3): "Dash"}

    @pytest.mark.parametrize("cycle", ["", 'BA_DEF_DEF_ "GenMsgCycleTime" 10;\n'])
    def test_the_bus_carries_no_more_than_it_is_to(self, tmp_path: Path, cycle: str) -> None:
        body = "".join(f"BO_ {n} M{n}: 8 ECU\n\n" for n in range(1, 400))
        defined = 'BA_DEF_ BO_ "GenMsgCycleTime" INT 0 65535;\n' + cycle
        vehicle = vehicle_of(tmp_path, body + defined, load=0.4, bitrate=250_000)

        frames = vehicle.frames(20)

        assert len(set(frames.id.tolist())) == 399
        assert busy_bits(frames)[0] / 20 / 250_000 == pytest.approx(0.4, rel=0.05)

    def test_what_is_given_stays_while_what_was_guessed_is_stretched(self, tmp_path: Path) -> None:
        body = "".join(f"BO_ {n} M{n}: 8 ECU\n\n" for n in range(1, 400))
        known = 'BA_DEF_ BO_ "GenMsgCycleTime" INT 0 65535;\nBA_ "GenMsgCycleTime" BO_ 1 10;\n'

        frames = vehicle_of(tmp_path, body + known).frames(10)

        assert set(np.diff(frames.time[frames.id == 1]).tolist()) == {10_000_000}
        assert int(np.diff(frames.time[frames.id == 2]).min()) > 100_000_000

    @settings(max_examples=20)
    @given(st.lists(st.floats(0.01, 17), min_size=1, max_size=6))
    def test_the_result_does_not_depend_on_the_steps(self, ends: list[float]) -> None:
        steps = [*sorted(ends), 17]
        whole = DatabaseVehicle([packaged("dbc/gbt27930.dbc")], 3).frames(17)
        vehicle = DatabaseVehicle([packaged("dbc/gbt27930.dbc")], 3)

        parts = [vehicle.frames(end) for end in steps]

        for field in ("time", "id", "length", "flags", "data"):
            assert b"".join(getattr(p, field).tobytes() for p in parts) == (
                getattr(whole, field).tobytes()
            )

    def test_equal_seeds_give_equal_frames_and_other_seeds_others(self) -> None:
        same = [DatabaseVehicle([packaged("dbc/ev.dbc")], seed).frames(6) for seed in (1, 1, 2)]

        assert same[0].data.tobytes() == same[1].data.tobytes()
        assert same[0].data.tobytes() != same[2].data.tobytes()

    def test_times_count_from_the_start(self, tmp_path: Path) -> None:
        path = tmp_path / "one.dbc"
        path.write_text(HEAD + "BO_ 1 M: 8 ECU\n")

        early = DatabaseVehicle([path]).frames(3)
        late = DatabaseVehicle([path], start=BootNs(7 * SECOND), bus="body").frames(3)

        assert (late.time - early.time == 7 * SECOND).all()
        assert late.bus == "body"

    def test_a_page_without_a_frame_is_empty(self, tmp_path: Path) -> None:
        vehicle = vehicle_of(
            tmp_path,
            "BO_ 1 Rare: 8 ECU\n\n"
            'BA_DEF_ BO_ "GenMsgCycleTime" INT 0 65535;\nBA_ "GenMsgCycleTime" BO_ 1 12000;\n',
        )

        assert [len(vehicle.frames(s)) for s in (5, 10, 15, 24)] == [1, 0, 1, 0]
        assert len(vehicle.frames(24)) == 0


def values(vehicle: DatabaseVehicle, seconds: int = 60) -> dict[str, NDArray[np.float64]]:
    """Physical values as the agent decodes them."""
    tables = Decoder(vehicle.database).decode(vehicle.frames(seconds))
    return {f"{t.message}.{n}": t.physical(n) for t in tables for n in t.names}


def raws(block: FrameBlock, vehicle: DatabaseVehicle, name: str) -> list[int]:
    tables = Decoder(vehicle.database).decode(block)
    return [int(v) for t in tables if name in t.names for v in t.raw[name].tolist()]


class TestMotion:
    def test_numbers_move_slowly_within_their_range_and_as_usual_for_their_unit(
        self, tmp_path: Path
    ) -> None:
        vehicle = vehicle_of(
            tmp_path,
            "BO_ 1 M: 8 ECU\n"
            ' SG_ Level : 0|10@1+ (0.1,-5) [0|60] "l" ECU\n'
            ' SG_ Speed : 10|16@1+ (0.01,0) [0|655.35] "km/h" ECU\n'
            ' SG_ Free : 32|32@1- (1,0) [0|0] "" ECU\n',
        )
        found = values(vehicle)

        level, speed, free = (found[f"M.{n}"] for n in ("Level", "Speed", "Free"))
        assert level.min() >= 0
        assert level.max() <= 60
        assert np.ptp(level) > 10
        assert speed.min() >= 0
        assert speed.max() <= 120
        assert np.ptp(speed) > 20
        assert np.abs(np.diff(speed)).max() < 5
        assert 1000 < np.ptp(free) < 1 << 17

    def test_flags_and_value_tables_switch_now_and_then_among_their_values(
        self, tmp_path: Path
    ) -> None:
        vehicle = vehicle_of(
            tmp_path,
            "BO_ 1 M: 8 ECU\n"
            ' SG_ Flag : 0|1@1+ (1,0) [0|0] "" ECU\n'
            ' SG_ Gear : 8|8@1+ (1,0) [0|0] "" ECU\n\n'
            'VAL_ 1 Gear 0 "P" 3 "R" 7 "N" 9 "D" 255 "SNA" ;\n',
        )
        found = values(vehicle, 300)

        assert set(found["M.Flag"].tolist()) == {0, 1}
        assert set(found["M.Gear"].tolist()) == {0, 3, 7, 9}
        changes = np.count_nonzero(np.diff(found["M.Gear"]))
        assert 5 < changes < 100

    @pytest.mark.parametrize(
        "name", ["Counter", "AliveCounter", "MSG_CNT", "CF_Alive_Cnt1", "ALIVE", "Rolling_x"]
    )
    def test_counters_count_frames_and_fill_their_bits(self, tmp_path: Path, name: str) -> None:
        body = f'BO_ 1 M: 8 ECU\n SG_ {name} : 4|4@1+ (1,0) [0|0] "" ECU\n'
        vehicle = vehicle_of(tmp_path, body)

        found = raws(vehicle.frames(10), vehicle, name)

        assert found == [n % 16 for n in range(100)]

    def test_a_counter_with_a_limit_wraps_there(self, tmp_path: Path) -> None:
        body = 'BO_ 1 M: 8 ECU\n SG_ COUNTER : 4|4@1+ (1,0) [0|14] "" ECU\n'
        vehicle = vehicle_of(tmp_path, body)

        assert raws(vehicle.frames(10), vehicle, "COUNTER") == [n % 15 for n in range(100)]

    def test_checksums_and_text_stay_0_and_are_named(self, tmp_path: Path) -> None:
        vehicle = vehicle_of(
            tmp_path,
            "BO_ 1 M: 24 ECU\n"
            ' SG_ CHECKSUM : 0|8@1+ (1,0) [0|0] "" ECU\n'
            ' SG_ Vin : 8|136@1+ (1,0) [0|0] "" ECU\n'
            ' SG_ Speed : 152|16@1+ (1,0) [0|0] "" ECU\n',
        )
        frames = vehicle.frames(5)

        assert not frames.data[:, :19].any()
        assert frames.data[:, 19:21].any()
        assert set(vehicle.left) == {"M.CHECKSUM", "M.Vin"}
        assert "checksum" in vehicle.left["M.CHECKSUM"]

    @pytest.mark.parametrize(
        ("comment", "bits", "wanted"),
        [
            ("XOR of bytes 0 to 6.", 8, lambda row: functools.reduce(operator.xor, row[:7])),
            ("Sum of bytes 1-3", 8, lambda row: sum(row[1:4]) & 0xFF),
            ("sum of all other bytes", 8, lambda row: sum(row[:7]) & 0xFF),
            (
                "Sum of all other nibbles in the message",
                4,
                lambda row: (sum(b & 15 for b in row) + sum(b >> 4 for b in row[:7])) & 15,
            ),
        ],
    )
    def test_a_checksum_is_right_where_the_file_says_in_words_how_it_is_made(
        self, tmp_path: Path, comment: str, bits: int, wanted: Callable[[list[int]], int]
    ) -> None:
        vehicle = vehicle_of(
            tmp_path,
            "BO_ 1 M: 8 ECU\n"
            ' SG_ Speed : 0|32@1+ (1,0) [0|4000000000] "" ECU\n'
            ' SG_ More : 32|24@1+ (1,0) [0|16000000] "" ECU\n'
            f' SG_ Checksum : {64 - bits}|{bits}@1+ (1,0) [0|0] "" ECU\n\n'
            f'CM_ SG_ 1 Checksum "{comment}";\n',
        )
        frames = vehicle.frames(10)

        found = raws(frames, vehicle, "Checksum")

        assert found == [wanted(row) for row in frames.data.tolist()]
        assert len(set(found)) > 8
        assert vehicle.left == {}

    def test_checksums_of_the_demo_car_are_those_that_it_sends_itself(self) -> None:
        frames = DatabaseVehicle([dbc_path()]).frames(5)

        rows = frames.data[frames.id == 160]

        assert (np.bitwise_xor.reduce(rows[:, :7], axis=1) == rows[:, 7]).all()

    def test_of_signals_with_the_same_bits_one_moves_and_the_other_is_named(
        self, tmp_path: Path
    ) -> None:
        vehicle = vehicle_of(
            tmp_path,
            "BO_ 1 M: 8 ECU\n"
            ' SG_ First : 0|16@1+ (1,0) [0|0] "" ECU\n'
            ' SG_ Second : 8|16@1+ (1,0) [0|0] "" ECU\n',
        )

        assert vehicle.left == {"M.Second": "shares bits with First"}


class TestFrames:
    def test_long_messages_are_frames_of_can_fd_of_a_length_that_there_is(
        self, tmp_path: Path
    ) -> None:
        vehicle = vehicle_of(
            tmp_path,
            'BO_ 1 Long: 13 ECU\n SG_ Last : 96|8@1+ (1,0) [0|0] "" ECU\n\nBO_ 2 Short: 4 ECU\n',
        )
        frames = vehicle.frames(1)

        long = frames.id == 1
        assert frames.data.shape[1] == 64
        assert set(frames.length[long].tolist()) == {16}
        assert (frames.flags[long] & FD_FRAME).all()
        assert set(frames.length[~long].tolist()) == {4}
        assert not frames.flags[~long].any()

    def test_bits_of_j1939_that_no_signal_has_are_1(self, tmp_path: Path) -> None:
        number = 0x18FEF100 | EXTENDED
        body = f'BO_ {number} CCVS: 8 ECU\n SG_ Speed : 8|16@1+ (1,0) [0|10] "" ECU\n'
        path = tmp_path / "some.dbc"
        path.write_text(HEAD + body)

        frames = DatabaseVehicle([path], j1939=True).frames(1)

        assert set(frames.id.tolist()) == {number}
        assert (frames.data[:, [0, 3, 4, 5, 6, 7]] == 0xFF).all()

    def test_what_no_frame_can_carry_is_named(self, tmp_path: Path) -> None:
        vehicle = vehicle_of(tmp_path, "BO_ 1 Pdu: 100 ECU\n\nBO_ 2 Fine: 8 ECU\n")

        assert [m.name for m in vehicle.messages] == ["Fine"]
        assert "100 bytes" in vehicle.left["Pdu"]

    def test_several_files_are_one_vehicle(self) -> None:
        vehicle = DatabaseVehicle([packaged("dbc/ev.dbc"), packaged("dbc/gbt27930.dbc")])

        seen = set(vehicle.frames(10).id.tolist())

        assert any(i & EXTENDED for i in seen)
        assert any(not i & EXTENDED for i in seen)


class TestSimulate:
    """`edge-agent simulate --dbc`, from the command line down."""

    def run(self, *words: str | Path) -> int:
        parser = argparse.ArgumentParser()
        simulate.add_parser(parser.add_subparsers())
        args = parser.parse_args(["simulate", *map(str, words)])
        return int(args.run(args))

    def test_a_log_holds_the_frames_of_the_vehicle(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        log, files = tmp_path / "drive.log", (dbc_path(), packaged("dbc/truck.dbc"))

        assert self.run("--dbc", *files, "--log", log, "--seconds", "4", "--seed", "3") == 0

        wanted = DatabaseVehicle(files, 3).frames(4)
        blocks = list(read_log(log))
        assert b"".join(b.id.tobytes() for b in blocks) == wanted.id.tobytes()
        assert b"".join(b.data.tobytes() for b in blocks) == wanted.data.tobytes()
        said = capsys.readouterr()
        assert f"{len(wanted)} frames" in said.out
        assert "VI.VIN (has more than 64 bits)" in said.err

    @needs_shared
    def test_frames_of_can_fd_come_through_a_log(self, tmp_path: Path) -> None:
        log, file = tmp_path / "fd.log", SHARED / "dbc/hyundai_canfd_generated.dbc"

        assert self.run("--dbc", file, "--log", log, "--seconds", "2") == 0

        wanted = DatabaseVehicle([file]).frames(2)
        blocks = list(read_log(log))
        assert b"".join(b.length.tobytes() for b in blocks) == wanted.length.tobytes()
        assert b"".join(b.flags.tobytes() for b in blocks) == wanted.flags.tobytes()
        rows = [r[:n].tobytes() for b in blocks for r, n in zip(b.data, b.length, strict=True)]
        lengths = zip(wanted.data, wanted.length, strict=True)
        assert rows == [r[:n].tobytes() for r, n in lengths]

    def test_ids_are_of_j1939_and_the_bus_slower_where_that_is_said(self, tmp_path: Path) -> None:
        path, log = tmp_path / "some.dbc", tmp_path / "drive.log"
        number = 0x18FEF100 | EXTENDED
        path.write_text(HEAD + f'BO_ {number} A: 8 E\n SG_ S : 8|8@1+ (1,0) [0|9] "" E\n')

        words = ("--dbc", path, "--log", log, "--seconds", "1")
        assert self.run(*words, "--j1939", "--bitrate", "1") == 0

        (block,) = read_log(log)
        assert (block.data[:, 7] == 0xFF).all()
        assert len(block) < 10

    @pytest.mark.parametrize(
        ("words", "why"),
        [
            (("--dbc", "a.dbc", "--vehicle", "car"), "leave out --vehicle"),
            (("--j1939",), "needs them"),
            (("--ecus",), "add --vcan"),
        ],
    )
    def test_options_that_make_no_sense_together(self, words: tuple[str, ...], why: str) -> None:
        with pytest.raises(ConfigError, match=why):
            self.run(*words, "--log", "never.log", "--seconds", "1")


class TestRefusals:
    @pytest.mark.parametrize("options", [{"load": 0}, {"load": 1.5}, {"bitrate": 0}])
    def test_a_load_or_bit_rate_that_cannot_be(self, options: dict[str, Any]) -> None:
        with pytest.raises(ConfigError, match="load"):
            DatabaseVehicle([packaged("dbc/ev.dbc")], **options)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(DatabaseError, match="cannot be read"):
            DatabaseVehicle([tmp_path / "none.dbc"])
