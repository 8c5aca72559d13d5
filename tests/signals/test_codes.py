"""Raw values that are no measurements: by SAE J1939-71, by a plan, and what is made of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.batch import BatchWriter, read_batch
from agent.batch.schema import pack_schema, unpack_schema
from agent.bench.cloud.summary import label
from agent.blocks import Codes, SignalSchema, SignalTable, TableSchema
from agent.cli import main
from agent.errors import BatchError, ConfigError
from agent.ota import load_factory_plan
from agent.settings import CodesOfSignals, Device, packaged
from agent.signals import Database, cache
from agent.signals.codes import of_j1939, with_j1939
from agent.signals.model import Message, Signal
from tests.signals.dbctext import Msg, Sig, text

NOT_AVAILABLE, ERROR, RESERVED = "not available", "error", "reserved"
ENGINE = Msg(
    "Engine",
    0x18FEF100,
    8,
    [Sig("Speed", 0, 16, scale="0.125"), Sig("Switch", 16, 2), Sig("Load", 24, 8)],
    extended=True,
)
BODY = Msg("Body", 0x100, 8, [Sig("Heat", 0, 8, offset="-40"), Sig("Slope", 8, 8, signed=True)])
LOG = """\
(10.000000) can0 18FEF10B#00020110
(10.500000) can0 18FEF10B#FFFF03FE
(11.000000) can0 18FEF10C#00FE02FF
"""


def unsigned(bits: int, **more: Any) -> SignalSchema:
    return SignalSchema("S", "uint64", bits, **more)


# -- what J1939 says -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "error", "not_available"),
    [
        (2, (2, 2), (3, 3)),
        (4, (0xE, 0xE), (0xF, 0xF)),
        (5, (30, 30), (31, 31)),
        (7, (0x7E, 0x7E), (0x7F, 0x7F)),
        (8, (0xFE, 0xFE), (0xFF, 0xFF)),
        (10, (0x3F8, 0x3FB), (0x3FC, 0x3FF)),
        (12, (0xFE0, 0xFEF), (0xFF0, 0xFFF)),
        (16, (0xFE00, 0xFEFF), (0xFF00, 0xFFFF)),
        (20, (0xFE000, 0xFEFFF), (0xFF000, 0xFFFFF)),
        (32, (0xFE000000, 0xFEFFFFFF), (0xFF000000, 0xFFFFFFFF)),
    ],
)
def test_the_highest_numbers_are_codes(
    bits: int, error: tuple[int, int], not_available: tuple[int, int]
) -> None:
    assert of_j1939(unsigned(bits)) == ((*not_available, NOT_AVAILABLE), (*error, ERROR))


@pytest.mark.parametrize(
    "schema",
    [
        *(unsigned(bits) for bits in (1, 3, 33, 64)),
        SignalSchema("S", "int64", 8),
        SignalSchema("S", "float32", 32),
        SignalSchema("S", "bytes", 136),
    ],
    ids=lambda s: f"{s.kind} of {s.bits} bits",
)
def test_of_other_numbers_the_standard_says_nothing(schema: SignalSchema) -> None:
    assert of_j1939(schema) == ()


def test_nmea_2000_has_two_numbers_for_codes() -> None:
    expected = ((0xFFFF, 0xFFFF, NOT_AVAILABLE), (0xFFFE, 0xFFFE, ERROR))
    assert of_j1939(unsigned(16), narrow=True) == expected


@pytest.mark.parametrize(
    ("more", "kept"),
    [
        ({"maximum": 250.0, "minimum": 0.0}, {NOT_AVAILABLE, ERROR}),
        ({"maximum": 253.0}, {NOT_AVAILABLE, ERROR}),
        ({"maximum": 254.0}, {NOT_AVAILABLE}),
        ({"maximum": 255.0}, set()),
        ({"maximum": 0.0, "minimum": 0.0}, {NOT_AVAILABLE, ERROR}),  # as [0|0]: unknown
        ({"maximum": 210.0, "minimum": -40.0, "offset": -40}, {NOT_AVAILABLE, ERROR}),
        ({"maximum": 215.0, "minimum": -40.0, "offset": -40}, set()),
        ({"maximum": 100.0, "minimum": 0.0, "scale": 0.4}, {NOT_AVAILABLE, ERROR}),
        ({"maximum": 102.0, "minimum": 0.0, "scale": 0.4}, set()),
        ({"maximum": 0.0, "minimum": -255.0, "scale": -1}, set()),
        ({"maximum": 0.0, "minimum": -250.0, "scale": -1}, {NOT_AVAILABLE, ERROR}),
        ({"choices": ((0, "Off"), (1, "On"))}, {NOT_AVAILABLE, ERROR}),
        ({"choices": ((255, "Other"),)}, {ERROR}),
        ({"choices": ((255, "SNA"), (254, "Sensor fault"))}, {NOT_AVAILABLE, ERROR}),
        ({"choices": ((255, "Not Available"),), "maximum": 255.0}, {NOT_AVAILABLE}),
        ({"choices": ((254, "Reserved"), (255, "Take no action"))}, {NOT_AVAILABLE}),
    ],
)
def test_what_the_file_says_goes_before(more: dict[str, Any], kept: set[str]) -> None:
    assert {meaning for _, _, meaning in of_j1939(unsigned(8, **more))} == kept


@pytest.mark.parametrize(
    ("number", "j1939", "coded"),
    [
        (0x18FEF100, True, True),
        (0x18FEF100, False, False),
        (0x18DAF110, True, False),  # diagnostics over CAN
        (0x1DF80100, True, True),
    ],
)
def test_only_messages_of_j1939_have_them(number: int, j1939: bool, coded: bool) -> None:
    signal = Signal(unsigned(8), 0, 8, big_endian=False)
    message = Message("M", number, extended=True, length=8, signals=(signal,), j1939=j1939)
    assert bool(with_j1939(message).signals[0].schema.codes) == coded


def test_a_multiplexer_selects_with_all_its_values() -> None:
    signal = Signal(unsigned(8), 0, 8, big_endian=False, multiplexer=True)
    message = Message("M", 0x18FEF100, extended=True, length=8, signals=(signal,), j1939=True)
    assert with_j1939(message) == message


def test_lamps_have_the_codes_that_their_words_confirm() -> None:
    (dm1, *_) = Database.load([packaged("dbc/gbt27930.dbc")], expand=["DM1"]).messages("any")[-1:]
    codes = {s.name: s.schema.codes for s in dm1.signals}
    assert codes["RedStopLamp"] == ((3, 3, NOT_AVAILABLE), (2, 2, ERROR))
    assert codes["RedStopLampFlash"] == ()


def test_fields_of_gbt27930_that_use_all_numbers_have_none() -> None:
    messages = {m.name: m for m in Database.load([packaged("dbc/gbt27930.dbc")]).messages("any")}
    for message, signal in (
        ("BCS", "MaxCellGroup"),
        ("BSM", "MaxVoltageCell"),
        ("BEM", "Timeouts"),
    ):
        assert messages[message].by_name[signal].schema.codes == ()


def test_a_database_from_the_cache_has_them_too(tmp_path: Path) -> None:
    path = write(tmp_path)
    first, second = (Database.load([path], cache=tmp_path / "cache") for _ in range(2))
    assert first == second
    assert len(list((tmp_path / "cache").glob(f"*{cache._SUFFIX}"))) == 1
    assert codes_of(second)["Engine.Load"]


# -- what a plan says ----------------------------------------------------------------------------


def write(folder: Path) -> Path:
    path = folder / "car.dbc"
    path.write_text(text([ENGINE], j1939=True) + text([BODY]), "utf-8")
    return path


def codes_of(database: Database) -> dict[str, Codes]:
    return {
        f"{m.name}.{s.name}": s.schema.codes for m in database.messages("any") for s in m.signals
    }


def planned(folder: Path, codes: str, expand: str = "[]") -> Database:
    write(folder)
    (folder / "plan.toml").write_text(
        'version = 1\nname = "p"\n[[database]]\nbus = "*"\nfiles = ["car.dbc"]\n'
        f"expand = {expand}\ncodes = {codes}\n"
        '[[campaign]]\nname = "all"\nsignals = ["*"]\n',
        "utf-8",
    )
    return load_factory_plan(Device(vehicle="v", plan=str(folder / "plan.toml"))).database


def test_a_plan_gives_codes_to_the_signals_that_it_names(tmp_path: Path) -> None:
    database = planned(
        tmp_path,
        '[{ signals = ["Body.Heat"], not_available = [255], error = ["0xFD - 0xFE", "0"] },'
        ' { signals = ["Slope"], reserved = ["-128--127"] }]',
    )
    codes = codes_of(database)
    assert codes["Body.Heat"] == ((0, 0, ERROR), (253, 254, ERROR), (255, 255, NOT_AVAILABLE))
    assert codes["Body.Slope"] == ((-128, -127, RESERVED),)
    assert codes["Engine.Switch"] == ((3, 3, NOT_AVAILABLE), (2, 2, ERROR))


def test_a_plan_replaces_what_j1939_says(tmp_path: Path) -> None:
    codes = codes_of(
        planned(
            tmp_path,
            '[{ signals = ["Engine.S*"] }, { signals = ["Load"], error = [251] }]',
        )
    )
    assert codes["Engine.Speed"] == codes["Engine.Switch"] == ()
    assert codes["Engine.Load"] == ((251, 251, ERROR),)


def test_of_signals_of_a_pattern_those_take_a_code_that_can_have_it(tmp_path: Path) -> None:
    codes = codes_of(planned(tmp_path, '[{ signals = ["*"], not_available = [200] }]'))
    assert {name for name, c in codes.items() if c == ((200, 200, NOT_AVAILABLE),)} == {
        "Engine.Speed",
        "Engine.Load",
        "Body.Heat",
    }


def test_entries_of_lists_have_the_codes_of_a_plan(tmp_path: Path) -> None:
    database = planned(tmp_path, '[{ signals = ["DM1_DTC.OC"], not_available = [127] }]', '["DM1"]')
    (dm1,) = database.lists("any")
    assert {s.name: s.codes for s in dm1.signals if s.codes} == {"OC": ((127, 127, NOT_AVAILABLE),)}


@pytest.mark.parametrize(
    ("codes", "words"),
    [
        ('[{ signals = ["Body.Heet"] }]', 'no signal is called "Body.Heet"; near it: .*Heat'),
        ('[{ signals = ["Z*"], error = [1] }]', 'no signal is called "Z\\*"'),
        ('[{ signals = ["Heat"], error = ["much"] }]', '"much" is no number and no range; write'),
        ('[{ signals = ["Heat"], error = ["9-7"] }]', '"9-7" is no number and no range'),
        ('[{ signals = ["Heat"], error = ["0x"] }]', '"0x" is no number'),
        ('[{ signals = ["Heat"], error = ["007"] }]', '"007" is no number'),
        ('[{ signals = ["Heat"], error = ["1-2-3"] }]', '"1-2-3" is no number'),
        ('[{ signals = ["Heat"], error = [1.5] }]', "plan.toml:7: .*float"),
        ("[{ signals = [], error = [1] }]", "plan.toml:7: .*length >= 1"),
        (
            '[{ signals = ["Heat"], eror = [1] }]',
            'plan.toml:7: unknown key "eror".*did you mean "error"',
        ),
        ('[{ signals = ["Heat"], error = [256] }]', "Body.Heat: no whole number that has 0x100"),
        ('[{ signals = ["Heat"], error = [-1] }]', "Body.Heat: no whole number that has -0x1"),
        (
            '[{ signals = ["Heat"], error = ["1-5"], reserved = [5] }]',
            r"codes: 5 \(0x5\) is both error and reserved",
        ),
        ('[{ signals = ["Heat"], error = [5, "5"] }]', "is error twice"),
        (
            '[{ signals = ["Heat"], error = [5] }, { signals = ["Body.H*"], reserved = ["4-6"] }]',
            "two entries say what 5 of Body.Heat means",
        ),
    ],
)
def test_what_a_plan_cannot_mean_is_refused(tmp_path: Path, codes: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        planned(tmp_path, codes)
    assert str(caught.value).startswith(str(tmp_path / "plan.toml"))


def test_codes_of_one_bus_are_not_those_of_another(tmp_path: Path) -> None:
    path = write(tmp_path)
    database = Database.load({"front": [path], "rear": [path]})
    entry = CodesOfSignals(signals=["Body.Heat"], error=[254])
    coded = database.with_codes("front", [entry])
    by_bus = {bus: coded.messages(bus)[-1].by_name["Heat"].schema.codes for bus in coded.buses}
    assert by_bus == {"front": ((254, 254, ERROR),), "rear": ()}


# -- what is made of them ------------------------------------------------------------------------


def coded_table(raw: list[int], codes: Codes) -> SignalTable:
    schema = TableSchema("b", "M", (unsigned(64, scale=0.5, codes=codes),))
    values = np.array([raw], np.uint64)
    return SignalTable(schema, np.arange(len(raw)), {"uint64": values})


def test_validity_says_what_each_sample_is() -> None:
    top = (1 << 64) - 1
    codes = ((1, 1, ERROR), (2, 5, RESERVED), (6, 6, "of later"), (top - 1, top, NOT_AVAILABLE))
    table = coded_table([0, 1, 2, 5, 6, 7, 1 << 63, top - 1, top], codes)
    validity = table.validity("S")
    assert validity.dtype == np.uint8
    assert validity.tolist() == [0, 2, 3, 3, 3, 0, 0, 1, 1]
    assert table.physical("S")[:4].tolist() == [0, 0.5, 1, 2.5]  # as if there were no codes
    with pytest.raises(KeyError):
        table.validity("T")


def test_without_codes_everything_is_valid() -> None:
    schema = TableSchema(
        "b", "M", (SignalSchema("F", "float64", 64), SignalSchema("B", "bytes", 8))
    )
    table = SignalTable(
        schema, np.arange(2), {"float64": np.zeros((1, 2))}, (np.zeros((2, 1), np.uint8),)
    )
    assert table.validity("F").tolist() == table.validity("B").tolist() == [0, 0]


def test_codes_beyond_what_a_column_holds_meet_nothing() -> None:
    codes = ((-5, -1, ERROR), (1 << 64, 1 << 70, RESERVED))
    assert coded_table([0, 1 << 63], codes).validity("S").tolist() == [0, 0]


def test_frames_of_a_truck_are_decoded_with_their_validity(tmp_path: Path) -> None:
    log = tmp_path / "truck.log"
    log.write_text(LOG, "utf-8")
    out = tmp_path / "out.csv"
    path = write(tmp_path)
    assert main(["decode", str(log), "--dbc", str(path), "--csv", str(out)]) == 0
    lines = [line.split(",") for line in out.read_text("utf-8").splitlines()[1:]]
    labels = sorted((cells[0], cells[7], cells[8], cells[10]) for cells in lines)
    assert labels == [
        ("10000000000", "Load", "16", ""),
        ("10000000000", "Speed", "512", ""),
        ("10000000000", "Switch", "1", ""),
        ("10500000000", "Load", "254", ERROR),
        ("10500000000", "Speed", "65535", NOT_AVAILABLE),
        ("10500000000", "Switch", "3", NOT_AVAILABLE),
        ("11000000000", "Load", "255", NOT_AVAILABLE),
        ("11000000000", "Speed", "65024", ERROR),
        ("11000000000", "Switch", "2", ERROR),
    ]


def test_the_summary_for_people_says_how_many_samples_are_not_valid(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "truck.log"
    log.write_text(LOG + "(12.000000) can0 100#FFFF\n", "utf-8")
    assert main(["decode", str(log), "--dbc", str(write(tmp_path))]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert lines["Engine.Speed"].endswith("(2 not valid)")
    assert lines["Engine.Speed"].split()[2:5] == ["64", "5461.29", "8191.88"]  # as cantools has it
    assert "not valid" not in lines["Body.Heat"]


def test_a_batch_says_which_values_are_codes(tmp_path: Path) -> None:
    table = coded_table([1, 254, 255], ((255, 255, NOT_AVAILABLE), (254, 254, ERROR)))
    with BatchWriter(tmp_path / "some.batch", vehicle="v") as writer:
        writer.add(table)
    (read,) = read_batch(tmp_path / "some.batch")
    assert read.schema.signals == table.schema.signals
    assert read.validity("S").tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    "codes",
    [
        5,
        "text",
        [5],
        [[1, 2]],
        [[1, 2, 3]],
        [["1", 2, "error"]],
        [[2, 1, "error"]],
        [[1, 2.5, "a"]],
    ],
)
def test_a_schema_with_other_codes_is_refused(codes: Any) -> None:
    record = pack_schema(0, coded_table([], ()).schema, "")
    record["signals"][0]["codes"] = codes
    with pytest.raises(BatchError):
        unpack_schema(record)


def test_the_cloud_shows_what_a_value_means() -> None:
    schema = unsigned(8, choices=((0, "off"),), codes=((255, 255, NOT_AVAILABLE),))
    assert label(schema, np.array([0, 1, 255], np.uint64)) == ["off", "", NOT_AVAILABLE]
