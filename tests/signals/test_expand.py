"""Lists of a length that the message decides: a row for each entry."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent import settings as model
from agent.blocks import EXTENDED, ID_BITS, SignalTable
from agent.cli import main
from agent.collect import Plan
from agent.collect.collector import Collector
from agent.errors import ConfigError
from agent.ledger import Ledger
from agent.ota.factory import load_factory_plan
from agent.signals import Counts, Database, Decoder
from tests.signals import transfers
from tests.signals.dbctext import Msg, Sig, text
from tests.signals.transfers import MS, Frame, block_of, timed

DM1 = 0xFECA
DM1_ID = EXTENDED | 0x18FECA00
LAMPS = b"\x54\xff"

Code = tuple[int, int, int, int]
"""SPN, FMI, CM, OC."""


def trouble_code(code: Code) -> bytes:
    """J1939-73 5.7.1: bytes 3 to 6 of DM1, by the text of the clause."""
    spn, fmi, conversion, occurrences = code
    return bytes([spn & 0xFF, spn >> 8 & 0xFF, spn >> 16 << 5 | fmi, conversion << 7 | occurrences])


def database(folder: Path, *expand: str, messages: tuple[Msg, ...] = ()) -> Database:
    other = Msg("Other", 0x18FEF100, 8, [Sig("A", 0, 8)], extended=True)
    path = folder / "made.dbc"
    path.write_text(text([other, *messages], j1939=True), "utf-8")
    return Database.load([path], expand=expand)


def rows(table: SignalTable) -> list[tuple[Any, ...]]:
    """Time, and the values of all signals."""
    columns = [table.time.tolist(), *(table.raw[name].tolist() for name in table.names)]
    return list(zip(*columns, strict=True))


def named(tables: list[SignalTable]) -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = {}
    for table in tables:
        found.setdefault(table.message, []).extend(rows(table))
    return found


codes = st.tuples(
    st.integers(0, (1 << 19) - 1), st.integers(0, 31), st.integers(0, 1), st.integers(0, 127)
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(codes, max_size=20), min_size=1, max_size=6))
def test_every_trouble_code_of_every_message_is_a_row(
    tmp_path_factory: pytest.TempPathFactory, lists: list[list[Code]]
) -> None:
    decoder = Decoder(database(tmp_path_factory.mktemp("dbc"), "DM1"))
    frames: list[Frame] = []
    expected = []
    for number, of_one in enumerate(lists):
        data = LAMPS + b"".join(trouble_code(code) for code in of_one)
        begin = number * 1000 * MS
        if len(data) > 8:
            frames += timed(transfers.to_all(0, DM1, data), begin)
        else:
            frames += [Frame(begin, DM1_ID, data.ljust(8, b"\xff"))]
        last = frames[-1].time
        there = of_one or [(0x7FFFF, 31, 1, 127)]  # padding that looks like a code
        expected += [
            (last, i, *code)
            for i, code in enumerate(there, 1)
            if code not in ((0, 0, 0, 0), (0x7FFFF, 31, 1, 127))
        ]
    tables, counts = decoder.decode_counted(block_of(frames))
    assert sorted(named(tables).get("DM1_DTC", [])) == expected
    assert len(named(tables)["DM1"]) == len(lists)
    assert counts.decoded + counts.reassembled == len(lists)
    assert counts.unknown == 0


def test_no_trouble_is_no_row(tmp_path: Path) -> None:
    decoder = Decoder(database(tmp_path, "DM1", "DM2"))
    frames = [
        Frame(1, DM1_ID, bytes.fromhex("00ff00000000ffff")),
        Frame(2, DM1_ID, bytes.fromhex("00ffffffffffffff")),
        Frame(3, DM1_ID, bytes.fromhex("00ff")),
        Frame(4, DM1_ID | 0x100, bytes.fromhex("00ff00000000ffff")),
    ]
    tables, counts = decoder.decode_counted(block_of(frames))
    assert {t.message: len(t) for t in tables} == {"DM1": 3, "DM2": 1}
    assert counts == Counts(decoded=4)


def test_lamps_belong_to_the_message_and_codes_to_their_sender(tmp_path: Path) -> None:
    decoder = Decoder(database(tmp_path, "DM1"))
    data = b"\x10\xff" + trouble_code((100, 1, 0, 5)) + b"\xff\xff"
    tables = decoder.decode(block_of([Frame(1, DM1_ID, data), Frame(2, DM1_ID | 3, data)]))
    lamps = {t.source: t for t in tables if t.message == "DM1"}
    assert lamps[0].raw["RedStopLamp"].tolist() == [1]
    assert lamps[0].raw["ProtectLamp"].tolist() == [0]
    assert lamps[0].schema.by_name["RedStopLamp"].choices[1] == (1, "On")
    entries = {t.source: t for t in tables if t.message == "DM1_DTC"}
    assert rows(entries[3]) == [(2, 1, 100, 1, 0, 5)]
    assert entries[3].names == ("Number", "SPN", "FMI", "CM", "OC")


def test_a_file_that_describes_the_message_is_kept_to(tmp_path: Path) -> None:
    own = Msg("Diagnosis", 0x18FECAFE, 8, [Sig("Red", 4, 2)], extended=True)
    decoder = Decoder(database(tmp_path, "DM1", messages=(own,)))
    data = b"\x10\xff" + trouble_code((100, 1, 0, 5)) + b"\xff\xff"
    assert named(decoder.decode(block_of([Frame(1, DM1_ID, data)]))) == {
        "DM1_DTC": [(1, 1, 100, 1, 0, 5)],
        "Diagnosis": [(1, 1)],
    }


def test_a_file_need_not_say_that_a_listed_message_is_j1939(tmp_path: Path) -> None:
    own = Msg("Diagnosis", 0x18FECAFE, 8, [Sig("Red", 4, 2)], extended=True)
    path = tmp_path / "plain.dbc"
    path.write_text(text([own]), "utf-8")
    decoder = Decoder(Database.load([path], expand=["DM1"]))
    (_, counts) = decoder.decode_counted(block_of([Frame(1, DM1_ID, bytes(8))]))
    assert counts == Counts(decoded=1)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 0xFFFF), max_size=60), st.lists(st.integers(0, 255), max_size=60))
def test_cells_and_probes_are_rows(
    tmp_path_factory: pytest.TempPathFactory, cells: list[int], probes: list[int]
) -> None:
    decoder = Decoder(database(tmp_path_factory.mktemp("dbc"), "BMV", "BMT"))
    frames = []
    for group, data in ((0x1500, struct.pack(f"<{len(cells)}H", *cells)), (0x1600, bytes(probes))):
        number = EXTENDED | 0x1C000000 | group << 8 | 0x56F4
        sent = transfers.to_one(0xF4, 0x56, group, data) if len(data) > 8 else [(number, data)]
        frames += timed(sent, group * MS)
    tables = decoder.decode(block_of(frames))
    found = {t.message: t for t in tables}
    if cells:
        table = found["BMV_Cell"]
        assert table.raw["Number"].tolist() == list(range(1, len(cells) + 1))
        assert table.physical("Voltage").tolist() == pytest.approx([c % 4096 / 100 for c in cells])
        assert table.raw["Group"].tolist() == [c >> 12 for c in cells]
        assert len(set(table.time.tolist())) == 1
    if probes:
        table = found["BMT_Probe"]
        assert table.physical("Temperature").tolist() == [p - 50 for p in probes]
        assert table.schema.by_name["Temperature"].unit == "degC"
    assert len(found) == bool(cells) + bool(probes)


def test_only_the_signals_that_are_asked_for(tmp_path: Path) -> None:
    data = LAMPS + trouble_code((100, 1, 0, 5)) + trouble_code((200, 2, 0, 6))
    block = block_of(timed(transfers.to_all(0, DM1, data)))
    made = database(tmp_path, "DM1")
    some = Decoder(made, ["DM1_DTC.SPN", "FMI"]).decode(block)
    assert [t.names for t in some] == [("SPN", "FMI")]
    assert [row[1:] for row in rows(some[0])] == [(100, 1), (200, 2)]
    numbers = Decoder(made, ["DM1_DTC.Number"]).decode(block)
    assert [row[1:] for row in rows(numbers[0])] == [(1,), (2,)]
    assert named(Decoder(made, ["Other.A"]).decode(block)) == {}
    everything = {str(path) for path in made.select(["*"])}
    assert {"DM1_DTC.OC", "DM1.RedStopLamp", "Other.A"} <= everything


def test_what_nothing_expands_is_refused_with_what_does(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='"DM3"; there are: DM1, DM2, BMV, BMT'):
        database(tmp_path, "DM1", "DM3")


@pytest.mark.parametrize("name", ["DM1", "DM1_DTC"])
def test_a_message_of_another_group_with_that_name_is_refused(tmp_path: Path, name: str) -> None:
    taken = Msg(name, 0x18FEEE00, 8, [Sig("B", 0, 8)], extended=True)
    with pytest.raises(ConfigError, match=f"another message {name};"):
        database(tmp_path, "DM1", messages=(taken,))


def test_lists_belong_to_the_bus_that_names_them(tmp_path: Path) -> None:
    database(tmp_path)
    path = tmp_path / "made.dbc"
    made = Database.load({"front": [path], "rear": [path]}, expand={"rear": ["DM1"]})
    decoder = Decoder(made)
    frames = [Frame(1, DM1_ID, LAMPS + trouble_code((7, 7, 0, 7)) + b"\xff\xff")]
    assert named(decoder.decode(block_of(frames, "front"))) == {}
    assert named(decoder.decode(block_of(frames, "rear")))["DM1_DTC"] == [(1, 1, 7, 7, 0, 7)]


def test_a_campaign_keeps_or_thins_a_list_whole(tmp_path: Path) -> None:
    made = database(tmp_path, "DM1")
    campaign = model.Campaign(name="codes", signals=["DM1_DTC.*"], every_ms=10_000)
    written = model.Plan(version=1, name="p", database=[], campaign=[campaign])
    collector = Collector(Plan.build(written, made, ["cloud"]), Ledger())
    data = LAMPS + trouble_code((100, 1, 0, 5)) + trouble_code((200, 2, 0, 6))
    frames = [
        frame for i in range(30) for frame in timed(transfers.to_all(0, DM1, data), i * 1000 * MS)
    ]
    kept = collector.offer(Decoder(made).decode(block_of(frames)))
    (found,) = kept.values()
    tables = [each for each in found if isinstance(each, SignalTable)]
    seconds = [(row[0] // (1000 * MS), row[1]) for table in tables for row in rows(table)]
    assert seconds == [(0, 1), (0, 2), (10, 1), (10, 2), (20, 1), (20, 2)]


def test_a_recording_is_expanded_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database(tmp_path)
    data = LAMPS + trouble_code((100, 1, 0, 5)) + trouble_code((200, 2, 0, 6))
    log = tmp_path / "drive.log"
    frames = timed(transfers.to_all(0, DM1, data), 10**9)
    lines = [f"({f.time / 1e9:.6f}) can0 {f.id & ID_BITS:08X}#{f.data.hex()}" for f in frames]
    log.write_text("\n".join(lines) + "\n", "utf-8")
    arguments = ["decode", str(log), "--dbc", str(tmp_path / "made.dbc")]
    assert main([*arguments, "--expand", "DM1", "--summary", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["unknown_frames"] == 0
    spn = printed["signals"]["DM1_DTC.SPN"]
    assert (spn["count"], spn["raw_min"], spn["raw_max"]) == (2, 100, 200)
    assert main([*arguments, "--expand", "DM1"]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert "3 parts of longer messages, 1 messages put together" in line


def test_a_plan_expands_by_name(tmp_path: Path) -> None:
    database(tmp_path)
    plan = tmp_path / "plan.toml"
    written = """
    version = 1
    name = "codes"
    [[database]]
    bus = "*"
    files = ["made.dbc"]
    expand = ["%s"]
    [[campaign]]
    name = "codes"
    signals = ["DM1_DTC.SPN"]
    """
    plan.write_text(written % "DM1", "utf-8")
    device = model.Device(vehicle="v", plan=str(plan))
    device.uplink = [model.Uplink(name="cloud", url="http://127.0.0.1:1")]
    assert {str(path) for path in load_factory_plan(device).wanted} == {"DM1_DTC.SPN"}
    plan.write_text(written % "DTC", "utf-8")
    with pytest.raises(ConfigError, match=r'plan\.toml: expand: nothing is called "DTC"; there'):
        load_factory_plan(device)
