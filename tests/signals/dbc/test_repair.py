"""What is wrong in real DBC files, a small file each: what is said, and that all else survives."""

import dataclasses

import pytest

from agent.signals.dbc import read
from agent.signals.model import Message

HEAD = 'VERSION ""\n\nNS_ :\n\tCM_\n\tBA_\n\nBS_:\n\nBU_: ECU\n\n'
"""10 lines."""
FIRST = 'BO_ 100 First: 8 ECU\n SG_ Before : 0|8@1+ (0.5,-40) [0|0] "°C" ECU\n\n'
LAST = 'BO_ 200 Last: 8 ECU\n SG_ After : 7|16@0- (1,0) [0|0] "" ECU\n\n'
TABLE = 'VAL_ 200 After 0 "off" 1 "on" ;\n'
SURVIVORS = {"First.Before", "Last.After"}


@dataclasses.dataclass
class Result:
    messages: dict[str, Message]
    notes: list[str]

    @property
    def signals(self) -> set[str]:
        return {f"{m.name}.{s.name}" for m in self.messages.values() for s in m.signals}


def result(text: str) -> Result:
    reading = read(text.encode())
    notes = [f"{n.line}: {n.item}: {n.what}; {n.done}" for n in reading.notes]
    return Result({m.name: m for m in reading.messages}, notes)


def between(middle: str, after: str = "") -> Result:
    """Read a file with something wrong between and after what is right; all of that survives."""
    found = result(HEAD + FIRST + middle + LAST + TABLE + after)
    first, last = found.messages["First"], found.messages["Last"]
    before, behind = first.by_name["Before"].schema, last.by_name["After"].schema
    assert (before.scale, before.offset, before.unit) == (0.5, -40, "°C")
    assert behind.choices == ((0, "off"), (1, "on"))
    return found


def message(*signals: str, head: str = "BO_ 150 Odd: 8 ECU") -> str:
    return "\n".join([head, *(f" SG_ {s}" for s in signals), "", ""])


GOOD = 'Good : 0|8@1+ (1,0) [0|0] "" ECU'


def test_a_file_in_which_nothing_is_wrong_has_no_notes() -> None:
    assert between("").notes == []


@pytest.mark.parametrize(
    ("after", "note"),
    [
        ('CM_ SG_ 100 "lost";\n', "comment on a signal without the signal's name"),
        ('CM_ SG_ 100 None "x";\n', "message First has no such signal"),
        ('CM_ BO_ 9 "x";\n', "there is no message with the id 9"),
        ('VAL_ 100 None 0 "x" ;\n', "VAL_ 100 None: message First has no such signal"),
        ('VAL_ 9 None 0 "x" ;\n', "VAL_ 9 None: there is no message with the id 9"),
        ("SIG_VALTYPE_ 9 None : 1;\n", "SIG_VALTYPE_ 9 None: there is no message"),
        ("SIG_VALTYPE_ 100 None : 1;\n", "message First has no such signal"),
        ("SG_MUL_VAL_ 100 None Before 1-1;\n", "message First has no such signal"),
        ('BA_DEF_ SG_ "a" INT 0 1;\nBA_ "a" SG_ 100 None 1;\n', "has no such signal"),
        ('BA_DEF_ BO_ "a" INT 0 1;\nBA_ "a" BO_ 9 1;\n', "no message with the id 9"),
        ('BA_ "never" BO_ 100 1;\n', 'attribute "never": is not defined by BA_DEF_'),
        ('BA_DEF_DEF_ "never" 1;\n', "is a default of no attribute"),
        ("SIG_VALTYPE_ 100 Before : 1;\n", "is a float of 8 bits, which there is not"),
        ('VAL_ 100 Before 0 "a" 0 "b" ;\n', '0 is "a" and "b"; the last one counts'),
        ('VAL_ 100 Before 0.5 "a" 1 "b" ;\n', '"a" is for 0.5, which is no raw value'),
        ('VAL_ 100 Before 1.0 "a" ;\n', "the value is written 1.0; read as 1"),
        ("VAL_ 100 Before Unknown ;\n", "the table Unknown is missing"),
        ('VAL_ 100 Before 0 "a"\n', "VAL_: has no semicolon"),
        ('CM_ BO_ 100 "a"\n', "CM_: has no semicolon"),
        ('CM_ BO_ 100 "a "b" c";\n', "has quotes inside its text"),
        ("FOO_ 12 bar;\n", '"FOO_ 12 bar;": is no statement that is known; left out'),
        ("VAL_ ;\n", "cannot be read"),
        ("SG_MUL_VAL_ 100 Before Mux 5-3;\n", "5-3 is no range"),
    ],
)
def test_a_statement_about_nothing_or_with_a_fault_costs_itself(after: str, note: str) -> None:
    found = between("", after)
    assert any(note in n for n in found.notes), found.notes
    assert found.signals == SURVIVORS


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ('None : 8|0@1+ (1,0) [0|0] "" ECU', "Odd.None: has no bits; left out"),
        ('Far : 600|8@1+ (1,0) [0|0] "" ECU', "ends in byte 76, beyond every frame"),
        ('Bad : 8|8@1+ (x,0) [0|0] "" ECU', 'the scale and offset "x,0" cannot be read'),
        ('Two : 8|8@1+ (2,5,3) [0|0] "" ECU', 'the scale and offset "2,5,3" cannot be read'),
        ("Cut : 8|8@1+ (1", 'the scale and offset "1" cannot be read'),
        ("Cut : 8|8", "cannot be read; the signal is left out"),
        ('Inf : 8|8@1+ (1e999,0) [0|0] "" ECU', "a number is beyond all bounds"),
    ],
)
def test_a_signal_in_doubt_is_left_out_and_the_others_stay(line: str, note: str) -> None:
    found = between(message(line, GOOD))
    assert [n for n in found.notes if note in n and n.startswith("15: ")], found.notes
    assert found.signals == SURVIVORS | {"Odd.Good"}


@pytest.mark.parametrize(
    ("line", "note", "numbers"),
    [
        ('S : 8|8@1+ (.25,0) [0|0] "u" ECU', "has no digit before its point", (0.25, 0)),
        (
            'S : 8|8@1+ (0,25,-40) [0|0] "u" ECU',
            "decimal commas; read as 0.25 and -40",
            (0.25, -40),
        ),
        ('S : 8|8@1+ (0,1,0,5) [0|0] "u" ECU', "decimal commas; read as 0.1 and 0.5", (0.1, 0.5)),
        ('S : 8|8@1+ (1,0,5) [0|0] "u" ECU', "decimal commas; read as 1 and 0.5", (1, 0.5)),
        ('S : 8|8@1+ (1,0) [0|2,5] "u" ECU', "the limit is written 2,5; read as 2.5", (1, 0)),
        ('S : 8.0|8@1+ (1,0) [0|0] "u" ECU', "bits are written 8.0|8; read as 8|8", (1, 0)),
        ('S : 8|+8@1+ (1,0) [0|0] "u" ECU', "read as 8|8", (1, 0)),
        ('S : 8|8@1+ (0,0) [0|0] "u" ECU', "the scale is 0; kept", (0, 0)),
        ('S : 8|8@1+ (1,0) [5|1] "u" ECU', "the minimum 5 is above the maximum 1; kept", (1, 0)),
        ('S : 8|8@1+ (1,0 [0|0] "u" ECU', "", (1, 0)),
        ('S : 8|8@1+ (1,0) [0|0] "u ECU', 'the unit is not closed; read as "u"', (1, 0)),
        ('S : 8|8@1+ (1,0) [0|0] "u"', "has no receivers", (1, 0)),
        ('S : 8|8@1+ (1,0) [0|0] "u" ECU;', "", (1, 0)),
        (
            'S : 4|8@1+ (1,0) [0|0] "u" ECU',
            "Odd.S: shares bits with Good; both are decoded",
            (1, 0),
        ),
        ('S : 60|8@1+ (1,0) [0|0] "u" ECU', "ends in byte 9 of a message of 8; decoded", (1, 0)),
        ('S m5 : 8|8@1+ (1,0) [0|0] "u" ECU', "(m5), but the message has no multiplexer", (1, 0)),
        ('S\t:\t8|8@1+(1,0)[0|0]"u"ECU', "", (1, 0)),
    ],
)
def test_a_signal_that_leaves_no_doubt_is_kept(
    line: str, note: str, numbers: tuple[float, float]
) -> None:
    found = between(message(GOOD, line))
    schema = found.messages["Odd"].by_name["S"].schema
    assert (schema.scale, schema.offset, schema.unit) == (*numbers, "u")
    assert any(note in n for n in found.notes) or not note, found.notes
    assert found.signals == SURVIVORS | {"Odd.Good", "Odd.S"}


@pytest.mark.parametrize("scale", ["1.", "1e0", "+1", "1E-0", "1.0"])
def test_numbers_that_all_programs_read_are_nothing_wrong(scale: str) -> None:
    found = between(message(f'S : 8|8@1+ ({scale},0) [0|0] "" ECU'))
    assert found.notes == []
    assert found.messages["Odd"].by_name["S"].schema.scale == 1


@pytest.mark.parametrize(
    ("head", "note", "number", "extended"),
    [
        ("BO_ 2048 Odd: 8 ECU", "more than 11 bits and is not marked", 0x800, True),
        ("BO_ 3758096385 Odd: 8 ECU", "has more than 29 bits; read as the 29-bit id 0x1", 1, True),
        ("BO_ -2147483647 Odd: 8 ECU", "the id -2147483647 is negative", 1, True),
        ("BO_ 0x7E8 Odd: 8 ECU", "the id is written 0x7E8", 0x7E8, False),
        ("BO_ 150 Odd : 100 ECU", "has 100 bytes, more than a frame", 150, False),
        ("BO_ 150 Odd: 8", "has no sender", 150, False),
        ("BO_ 150 Odd: ECU", "has no length; taken as 8 bytes", 150, False),
        ("BO_150 Odd:8 ECU", "", 150, False),
        ("BO_ 150 Odd:8 ECU;", "", 150, False),
        ("BO_ 150 Odd: 8 ECU\r", "", 150, False),
    ],
)
def test_a_message_that_leaves_no_doubt_is_kept(
    head: str, note: str, number: int, extended: bool
) -> None:
    found = between(message(GOOD, head=head))
    odd = found.messages["Odd"]
    assert (odd.id, odd.extended) == (number, extended)
    assert any(note in n for n in found.notes) or not note, found.notes
    assert found.signals == SURVIVORS | {"Odd.Good"}


@pytest.mark.parametrize(
    ("head", "note"),
    [
        ("BO_ 99999999999 Odd: 8 ECU", "has more than 32 bits; left out, with its signals"),
        ("BO_ 3758096484 Odd: 8 ECU", "has more than 29 bits; left out, with its signals"),
        ("BO_ Odd: 8 ECU", "is no id, name and length"),
    ],
)
def test_a_message_without_an_id_is_left_out_with_its_signals(head: str, note: str) -> None:
    found = between(message(GOOD, head=head))
    assert any(note in n for n in found.notes), found.notes
    assert found.signals == SURVIVORS


def test_signals_that_belong_to_no_message_are_ignored_in_silence() -> None:
    found = between(
        message(GOOD, head="BO_ 3221225472 VECTOR__INDEPENDENT_SIG_MSG: 0 Vector__XXX"),
        'VAL_ 3221225472 Good 0 "a" ;\n',
    )
    assert (found.signals, found.notes) == (SURVIVORS, [])


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("2ndGear", "_2ndGear"),
        ("Gas-Pedal", "Gas_Pedal"),
        ("Höhe", "Hoehe"),
        ("电压", "u7535u538B"),
    ],
)
def test_a_name_that_is_none_is_kept_under_an_alias(name: str, alias: str) -> None:
    found = between(
        f'BO_ 150 {name}: 8 ECU\n SG_ {name} : 0|8@1+ (1,0) [0|0] "" ECU\n\n',
        f'VAL_ 150 {name} 1 "one" ;\nCM_ SG_ 150 {name} "said";\n',
    )
    assert found.signals == SURVIVORS | {f"{alias}.{alias}"}
    assert found.messages[alias].by_name[alias].schema.choices == ((1, "one"),)
    assert sum(f'is called "{alias}"' in n and f'"{name}"' in n for n in found.notes) == 2


@pytest.mark.parametrize("section", ["BS_", "BU_", "VERSION"])
def test_a_missing_section_is_noted_and_nothing_else(section: str) -> None:
    lines = [line for line in (HEAD + FIRST).split("\n") if not line.startswith(section)]
    found = result("\n".join(lines))
    assert [n for n in found.notes if n.startswith(f"0: {section}: ")] == found.notes != []
    assert found.signals == {"First.Before"}


def test_two_messages_with_one_name_are_both_kept() -> None:
    found = between('BO_ 150 First: 8 ECU\n SG_ S : 0|8@1+ (1,0) [0|0] "" ECU\n\n')
    assert found.signals == SURVIVORS | {"First_2.S"}
    assert any('is called "First_2"' in n for n in found.notes)


def test_two_messages_with_one_id_are_one_with_the_signals_of_both() -> None:
    found = between(
        'BO_ 100 Again: 8 ECU\n SG_ Before : 0|8@1+ (0.5,-40) [0|0] "" ECU\n'
        ' SG_ More : 8|8@1+ (1,0) [0|0] "" ECU\n\n'
        'BO_ 100 Third: 8 ECU\n SG_ Before : 16|8@1+ (1,0) [0|0] "" ECU\n\n'
        'BO_ 100 First: 8 ECU\n SG_ Before : 0|8@1+ (0.5,-40) [0|0] "" ECU\n\n'
    )
    assert found.signals == SURVIVORS | {"First.More", "First.Before_2"}
    assert any("Before as Before_2" in n for n in found.notes)
    assert any("left out: it says the same" in n for n in found.notes)


def test_two_signals_with_one_name_are_both_kept_where_their_bits_differ() -> None:
    found = between(
        message(GOOD, 'Good : 8|8@1+ (1,0) [0|0] "" ECU', 'Good : 8|8@1+ (1,0) [0|0] "" ECU')
    )
    assert found.signals == SURVIVORS | {"Odd.Good", "Odd.Good_2"}
    assert found.messages["Odd"].by_name["Good_2"].start == 8
    assert sum("is there twice, with the same bits" in n for n in found.notes) == 1


def test_one_signal_written_for_each_multiplexer_value_is_one() -> None:
    found = between(
        message(
            'Mux M : 0|8@1+ (1,0) [0|0] "" ECU',
            *(f'S m{i} : 8|8@1+ (1,0) [0|0] "" ECU' for i in range(3)),
        )
    )
    assert found.messages["Odd"].by_name["S"].selected_by == {0, 1, 2}
    assert found.signals == SURVIVORS | {"Odd.Mux", "Odd.S"}


def test_several_multiplexers_without_ranges_select_nothing() -> None:
    found = between(
        message(
            'A M : 0|8@1+ (1,0) [0|0] "" ECU',
            'B M : 8|8@1+ (1,0) [0|0] "" ECU',
            'S m1 : 16|8@1+ (1,0) [0|0] "" ECU',
        )
    )
    assert found.messages["Odd"].by_name["S"].parent == ""
    assert any("has 2 multiplexers (A, B) without SG_MUL_VAL_" in n for n in found.notes)


def test_multiplexers_that_select_each_other_are_always_there() -> None:
    found = between(
        message('A m1M : 0|8@1+ (1,0) [0|0] "" ECU', 'B m1M : 8|8@1+ (1,0) [0|0] "" ECU'),
        "SG_MUL_VAL_ 150 A B 1-1;\nSG_MUL_VAL_ 150 B A 1-1;\n",
    )
    assert {s.parent for s in found.messages["Odd"].signals} == {""}
    assert sum("select each other" in n for n in found.notes) == 2


def test_a_float_of_another_length_than_its_type_is_the_float_that_it_can_be() -> None:
    found = between(
        message('F : 0|64@1- (1,0) [0|0] "" ECU', 'I : 0|24@1- (1,0) [0|0] "" ECU'),
        "SIG_VALTYPE_ 150 F : 1;\nSIG_VALTYPE_ 150 I : 1;\n",
    )
    kinds = {s.name: s.schema.kind for s in found.messages["Odd"].signals}
    assert kinds == {"F": "float64", "I": "int64"}


def test_a_number_of_more_than_64_bits_is_bytes() -> None:
    found = between(message('B : 0|80@1- (1,0) [0|0] "" ECU', head="BO_ 150 Odd: 16 ECU"))
    assert found.messages["Odd"].by_name["B"].schema.kind == "bytes"
    assert any("has 80 bits, too many for a number; read as bytes" in n for n in found.notes)


def test_a_message_within_the_line_of_another_is_a_message() -> None:
    found = between('BO_ 150 Odd: 8 BO_ 151 Even: 8 ECU SG_ S : 0|8@1+ (1,0) [0|0] "" ECU\n\n')
    assert found.signals == SURVIVORS | {"Even.S"}
    assert found.messages["Odd"].signals == ()
    assert any("begins on the line of another message" in n for n in found.notes)


@pytest.mark.parametrize(
    "comment",
    [
        'CM_ BO_ 100 "two lines\nBO_ 7 NotOne: 8 ECU\n SG_ None : 0|8@1+ (1,0) [0|0] x\n";\n',
        'CM_ BO_ 100 "a \\"quoted\\" word; and\nVAL_ 100 so on";\n',
        "// BO_ 7 NotOne: 8 ECU\n",
        'CM_ "";\nEV_ Any: 0 [0|1] "" 0 1 DUMMY_NODE_VECTOR0 Vector__XXX;\n',
    ],
)
def test_what_looks_like_a_statement_inside_of_a_text_is_none(comment: str) -> None:
    found = between(comment)
    assert (found.signals, found.notes) == (SURVIVORS, [])


@pytest.mark.parametrize("comment", ['CM_ BO_ 100 "never closed\n', 'CM_ BO_ 100 "never ;\n'])
def test_an_open_string_costs_its_own_statement(comment: str) -> None:
    found = between(comment)
    assert found.signals == SURVIVORS
    assert any("the string is not closed" in n for n in found.notes)


def test_nul_bytes_are_left_out() -> None:
    found = result(HEAD + FIRST.replace("Before", "Be\0fore") + "\0\0")
    assert found.signals == {"First.Before"}
    assert any("3 in what should be text" in n for n in found.notes)


@pytest.mark.parametrize("before", ["BS_:\n", "BU_: ECU\n", 'VERSION ""\n', FIRST])
def test_a_line_of_no_statement_is_told_whatever_it_follows(before: str) -> None:
    text = (HEAD + FIRST + LAST).replace(before, f"{before}\nFOO_ : 12\n", 1)
    found = result(text)
    line = text[: text.index("FOO_")].count("\n") + 1
    assert found.notes == [f'{line}: "FOO_ : 12": is no statement that is known; left out']
    assert found.signals == SURVIVORS


def test_nodes_on_lines_of_their_own_are_nodes() -> None:
    found = result((HEAD + FIRST).replace("BU_: ECU", "BU_:\n\tECU\n\tOther One\n"))
    assert found.notes == []


def test_a_value_table_named_in_place_of_values_is_used() -> None:
    found = between("", 'VAL_TABLE_ Switch 0 "no" 1 "yes" ;\nVAL_ 100 Before Switch ;\n')
    choices = found.messages["First"].by_name["Before"].schema.choices
    assert choices == ((0, "no"), (1, "yes"))


def test_long_names_are_the_names_also_of_multiplexers() -> None:
    found = between(
        message('Mux M : 0|8@1+ (1,0) [0|0] "" ECU', 'S m1 : 8|8@1+ (1,0) [0|0] "" ECU'),
        'BA_DEF_ SG_ "SystemSignalLongSymbol" STRING ;\n'
        'BA_ "SystemSignalLongSymbol" SG_ 150 Mux "MultiplexerWithALongName";\n',
    )
    assert found.messages["Odd"].by_name["S"].parent == "MultiplexerWithALongName"


def test_of_a_thousand_faults_of_one_kind_two_hundred_are_told() -> None:
    found = between("", "".join(f'VAL_ {n} S 0 "a" ;\n' for n in range(1000, 2000)))
    assert len(found.notes) == 201
    assert found.notes[-1] == "0: reference: 800 more of this kind; treated the same way"
