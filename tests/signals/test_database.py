"""Database files: what is read, what is refused, and which signals a pattern names."""

from pathlib import Path

import pytest

from agent.errors import ConfigError, DatabaseError
from agent.settings import packaged
from agent.signals import Database
from tests.shared_data import needs_shared, shared
from tests.signals.dbctext import LITTLE, Msg, Sig, text

DEGREES = 'BO_ 5 Wärme: 8 ECU\n SG_ Temperatur : 0|8@1+ (1,-40) [0|0] "°C" ECU\n'


def names(database: Database, *patterns: str) -> list[str]:
    return sorted(str(path) for path in database.select(patterns))


@pytest.fixture
def two(tmp_path: Path) -> Database:
    """Two buses, each with a message Motor; Speed is in two messages."""
    motor = Msg("Motor", 1, 8, [Sig("Speed", 0, 16), Sig("Torque", 16, 16)])
    wheels = Msg("Wheels", 2, 8, [Sig("Speed", 0, 16), Sig("Slip", 16, 8, LITTLE)])
    first, second = tmp_path / "first.dbc", tmp_path / "second.dbc"
    first.write_text(text([motor, wheels]), "utf-8")
    second.write_text(text([motor]), "utf-8")
    return Database.load({"front": [first], "rear": [second]})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "latin-1"])
def test_units_survive_the_encodings_in_which_dbc_files_come(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "any.dbc"
    path.write_bytes((text([]) + DEGREES.replace("ä", "ae")).encode(encoding))
    (message,) = Database.load([path]).messages("any bus")
    assert message.by_name["Temperatur"].schema.unit == "°C"


def test_bytes_that_are_no_cp1252_are_still_read(tmp_path: Path) -> None:
    path = tmp_path / "any.dbc"
    path.write_bytes((text([]) + DEGREES.replace("ä", "ae")).encode("latin-1") + b"\n// \x81\x8d\n")
    (message,) = Database.load([path]).messages("any bus")
    assert message.by_name["Temperatur"].schema.unit == "°C"


@needs_shared
@pytest.mark.parametrize("name", [p.name for p in sorted(shared("dbc").glob("*.dbc"))])
def test_a_database_of_a_real_vehicle_is_read(name: str) -> None:
    database = Database.load([shared(f"dbc/{name}")])
    assert database.paths() or name == "cp1252.dbc"
    for message in database.messages("any bus"):
        assert all(s.length >= 1 and s.first_bit >= 0 for s in message.signals)


def test_a_sound_file_without_a_message_is_a_finding(tmp_path: Path) -> None:
    path = tmp_path / "tables.dbc"
    path.write_text('VERSION ""\n\nBS_:\n\nBU_:\n\nVAL_TABLE_ Gear 1 "R" 0 "P" ;\n')
    database = Database.load([path])
    assert database.paths() == []
    assert [f.what for f in database.findings] == ["has no messages"]


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match=r"none\.dbc: cannot be read: No such file"):
        Database.load([tmp_path / "none.dbc"])


def test_a_folder_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DatabaseError, match="cannot be read: Is a directory"):
        Database.load([tmp_path])


@pytest.mark.parametrize(
    "content",
    [
        b"this is no database\n",
        bytes(range(256)) * 20,
        b"",
        b'BO_ 5 A: 8 ECU\n SG_ S : 0|0@1+ (1,0) [0|0] "" ECU\n',
        b'BO_ 5 A: 8 ECU\n SG_ S : 0|8@1+ (x,0) [0|0] "" ECU\n',
        b"BO_ 99999999999 A: 8 ECU\n",
    ],
    ids=[
        "prose",
        "bytes",
        "nothing",
        "a signal without bits",
        "a factor that is none",
        "an id beyond all",
    ],
)
def test_garbage_is_refused_with_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "garbage.dbc"
    path.write_bytes(content)
    with pytest.raises(
        DatabaseError, match=r"garbage\.dbc: (cannot be used: .|has no messages)"
    ) as e:
        Database.load([path])
    assert "\n" not in str(e.value)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.dbc"
    path.write_bytes(b" \n")
    with pytest.raises(DatabaseError, match=r"empty\.dbc: has no messages"):
        Database.load([path])


def test_a_signal_beyond_its_message_is_a_finding_and_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "long.dbc"
    path.write_text(text([Msg("Short", 5, 2, [Sig("Far", 8, 16)])]), "utf-8")
    database = Database.load([path])
    (finding,) = database.findings
    assert str(finding) == (
        f"{path}:10: Short.Far: ends in byte 3 of a message of 2; "
        "decoded where a frame is long enough"
    )
    assert names(database, "*") == ["Short.Far"]


def test_of_two_messages_with_one_id_or_one_name_the_first_stays_and_a_finding_says_so(
    tmp_path: Path,
) -> None:
    for name, message in (
        ("a", Msg("First", 5, 8, [Sig("A", 0, 8)])),
        ("b", Msg("SameId", 5, 8, [Sig("B", 0, 8)])),
        ("c", Msg("First", 6, 8, [Sig("C", 0, 8)])),
        ("d", Msg("OtherKind", 5, 8, [Sig("D", 0, 8)], extended=True)),
    ):
        (tmp_path / f"{name}.dbc").write_text(text([message]), "utf-8")
    database = Database.load([tmp_path / f"{name}.dbc" for name in "abcd"])
    assert names(database, "*") == ["First.A", "OtherKind.D"]
    assert [f.item for f in database.findings] == [
        "message SameId (id 0x5)",
        "message First (id 0x6)",
    ]


def test_a_signal_has_the_words_limits_and_unit_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "any.dbc"
    path.write_text(
        text([])
        + 'BO_ 5 Gear: 8 ECU\n SG_ Lever : 7|4@0- (0.5,-2) [-4|3.5] "step" ECU\n'
        + 'VAL_ 5 Lever 0 "Park" 1 "Drive" ;\n',
        "utf-8",
    )
    (message,) = Database.load([path]).messages("any bus")
    schema = message.by_name["Lever"].schema
    assert (schema.kind, schema.bits, schema.unit) == ("int64", 4, "step")
    assert (schema.scale, schema.offset, schema.minimum, schema.maximum) == (0.5, -2, -4, 3.5)
    assert dict(schema.choices) == {0: "Park", 1: "Drive"}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["Wheels.Slip"], ["Wheels.Slip"]),
        (["Slip"], ["Wheels.Slip"]),
        (["front.Motor.Torque"], ["Motor.Torque"]),
        (["Wheels.*"], ["Wheels.Slip", "Wheels.Speed"]),
        (["S?ip"], ["Wheels.Slip"]),
        (["rear.*"], ["Motor.Speed", "Motor.Torque"]),
        (["*.Speed"], ["Motor.Speed", "Motor.Speed", "Wheels.Speed"]),
        (["Slip", "Wheels.Slip"], ["Wheels.Slip"]),
        ([], []),
    ],
)
def test_a_pattern_names_signals(two: Database, patterns: list[str], expected: list[str]) -> None:
    assert names(two, *patterns) == expected


def test_a_pattern_that_names_nothing_is_refused_with_what_is_near(two: Database) -> None:
    with pytest.raises(ConfigError, match=r'no signal is called "Torqe"; near it: .*Torque'):
        two.select(["Torqe"])


def test_case_matters_in_a_pattern(two: Database) -> None:
    with pytest.raises(ConfigError, match='no signal is called "SLIP"'):
        two.select(["SLIP"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Speed", r'"Speed" names 3 signals: front\.Motor\.Speed, front\.Wheels\.Speed, rear\.M'),
        ("Motor.Torque", r'"Motor\.Torque" names 2 signals: front\.Motor\.Torque, rear\.'),
    ],
)
def test_a_plain_name_that_names_several_signals_is_refused_with_their_full_names(
    two: Database, name: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        two.select([name])


def test_the_full_name_of_a_refusal_is_taken(two: Database) -> None:
    (path,) = two.select(["front.Wheels.Speed"])
    assert (path.bus, path.message, path.signal) == ("front", "Wheels", "Speed")


def test_the_demo_vehicle_has_no_findings() -> None:
    database = Database.load([packaged("dbc/ev.dbc")])
    assert database.findings == ()
    assert len(database.paths()) > 100


@pytest.mark.parametrize(
    ("frame_id", "group"),
    [(0x18FEF100, 0xFEF1), (0x18EA21FE, 0xEA00), (0x19FEF1FF, 0x1FEF1), (0x1AFEF100, 0x2FEF1)],
)
def test_the_group_number_leaves_priority_sender_and_destination_out(
    tmp_path: Path, frame_id: int, group: int
) -> None:
    path = tmp_path / "any.dbc"
    path.write_text(text([Msg("Any", frame_id, 8, [Sig("A", 0, 8)], extended=True)]), "utf-8")
    (message,) = Database.load([path], j1939=True).messages("any bus")
    assert (message.pgn, message.j1939) == (group, True)
