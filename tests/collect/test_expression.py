"""Conditions of plans: what they mean, what is refused, and in which words."""

import sys
import threading
from collections.abc import Mapping
from typing import Final

import numpy as np
import pytest

from agent.blocks import Kind, SignalSchema, TableSchema
from agent.clock import MILLISECOND, SECOND
from agent.collect.expression import compile_condition, nodes_of, signals_of, unparse
from agent.collect.expression.tree import (
    Arithmetic,
    Both,
    Changed,
    Compare,
    Condition,
    Edge,
    Either,
    For,
    Function,
    Missing,
    Not,
    Number,
    Numeric,
    Previous,
    RawIs,
    Signal,
    Truth,
    Valid,
    Window,
)
from agent.errors import ConfigError
from agent.signals import Database, model
from agent.signals.database import ANY_BUS, SignalPath
from agent.signals.expand import EXPANDERS

GEARS: Final = ((0, "Park"), (1, "Reverse"), (2, "Neutral"), (3, "Drive"), (7, "SNA"))
MODES: Final = tuple((number, f"Mode {number}") for number in range(20))
TEMPERATURE: Final = SignalSchema("PackTemp", "int64", 16, scale=0.1, unit="degC")


def message(name: str, *schemas: SignalSchema) -> model.Message:
    return model.Message(
        name,
        0x100,
        extended=False,
        length=8,
        signals=tuple(model.Signal(s, 0, s.bits, big_endian=False) for s in schemas),
    )


DATABASE: Final = Database(
    {
        "ev": (
            message(
                "BMS",
                TEMPERATURE,
                SignalSchema("PackVoltage", "uint64", 16, scale=0.1, unit="V"),
                SignalSchema("Flags", "uint64", 8),
                SignalSchema("Counter", "uint64", 4),
                SignalSchema("Ratio", "float32", 32),
                SignalSchema("Serial", "bytes", 128),
            ),
            message(
                "Drive",
                SignalSchema("Gear", "uint64", 3, choices=GEARS),
                SignalSchema("Speed", "uint64", 16, scale=0.01, unit="km/h"),
                SignalSchema("Counter", "uint64", 4),
                SignalSchema("Mode", "uint64", 8, choices=MODES),
                SignalSchema(
                    "Lamp", "uint64", 2, choices=((0, "off"), (1, "Off"), (2, "ON"), (3, "Off"))
                ),
                SignalSchema("min", "uint64", 8),
                SignalSchema("or", "uint64", 8),
            ),
        ),
        "can-1": (message("Body", SignalSchema("2nd Door", "uint64", 1)),),
        ANY_BUS: (message("BMS", TEMPERATURE), message("Brake", SignalSchema("On", "uint64", 1))),
    },
    expanders={"ev": (EXPANDERS["DM1"],)},
    tables=(
        TableSchema("gps", "Position", (SignalSchema("Altitude", "float64", 64),)),
        TableSchema("gps", "Position", (SignalSchema("Altitude", "float64", 64),), branch="b"),
    ),
    telling=(TableSchema("agent", "BusHealth", (SignalSchema("Load", "float64", 64),)),),
)
VSS: Final[Mapping[str, SignalPath]] = {
    "Vehicle.Speed": SignalPath("ev", "Drive", "Speed"),
    "Vehicle.Powertrain.Battery.Temperature": SignalPath("ev", "BMS", "PackTemp"),
}


def compiled(text: str) -> Condition:
    return compile_condition(text, DATABASE, vss=VSS)


def refusal(text: str, *, where: str = "") -> str:
    with pytest.raises(ConfigError) as caught:
        compile_condition(text, DATABASE, vss=VSS, where=where)
    return str(caught.value)


def signal(address: str) -> Signal:
    bus, name, field = address.split(".")
    for each in DATABASE.buses[bus]:
        if each.name == name:
            return Signal(0, SignalPath(bus, name, field), each.by_name[field].schema)
    raise AssertionError(address)


def number(value: float) -> Number:
    return Number(0, value)


SPEED: Final = signal("ev.Drive.Speed")
VOLTAGE: Final = signal("ev.BMS.PackVoltage")
GEAR: Final = signal("ev.Drive.Gear")
FLAGS: Final = signal("ev.BMS.Flags")
SERIAL: Final = signal("ev.BMS.Serial")


def above(value: float, of: Numeric = SPEED) -> Compare:
    return Compare(0, ">", of, number(value))


def equals(value: float, of: Numeric = SPEED) -> Compare:
    return Compare(0, "==", of, number(value))


MEANINGS: Final[Mapping[str, Condition]] = {
    "Speed > 5": above(5),
    "5 < Speed": Compare(0, "<", number(5), SPEED),
    "Speed != -0.5e1": Compare(0, "!=", SPEED, number(-5)),
    "Speed >= .25": Compare(0, ">=", SPEED, number(0.25)),
    "Speed <= 0xFF": Compare(0, "<=", SPEED, number(255)),
    "abs(Speed - 2) == 1": equals(1, Function(0, "abs", Arithmetic(0, "-", SPEED, number(2)))),
    "-Speed > 5": above(5, Function(0, "negative", SPEED)),
    "Speed > -(-(5))": above(5),
    "previous(Speed) > 5": above(5, Previous(0, SPEED)),
    "min(Speed, 1 s) > 5": above(5, Window(0, "min", SPEED, SECOND)),
    "max(Speed, 1500ms) > 5": above(5, Window(0, "max", SPEED, 1500 * MILLISECOND)),
    "mean(Speed, 0.1 s) > 5": above(5, Window(0, "mean", SPEED, 100 * MILLISECOND)),
    "count(Speed, 1 h) > 5": above(5, Window(0, "count", SPEED, 3600 * SECOND)),
    "delta(Speed, 2 min) > 5": above(5, Window(0, "delta", SPEED, 120 * SECOND)),
    "rate((Speed), 0.5min) > 5": above(5, Window(0, "rate", SPEED, 30 * SECOND)),
    "valid(Speed)": Valid(0, SPEED),
    "unavailable(Speed)": Valid(0, SPEED, "not available"),
    "faulty(Speed)": Valid(0, SPEED, "error"),
    "missing(Speed, 24 h)": Missing(0, SPEED, 86_400 * SECOND),
    "changed(Speed)": Changed(0, SPEED),
    "changed(Serial) or valid(Serial)": Either(0, Changed(0, SERIAL), Valid(0, SERIAL)),
    "missing(Serial, 1 s)": Missing(0, SERIAL, SECOND),
    "rises(Speed > 5)": Edge(0, "rises", above(5)),
    "falls(not Speed > 5)": Edge(0, "falls", Not(0, above(5))),
    "bit(Flags, 3)": RawIs(0, FLAGS, frozenset({8}), 8),
    "bit(Flags, 0x7)": RawIs(0, FLAGS, frozenset({128}), 128),
    'Gear == "Drive"': RawIs(0, GEAR, frozenset({3})),
    "'Drive' == Gear": RawIs(0, GEAR, frozenset({3})),
    'Gear != "Drive"': Not(0, RawIs(0, GEAR, frozenset({3}))),
    'Gear in ("Drive", "Reverse")': RawIs(0, GEAR, frozenset({1, 3})),
    'Gear not in ("Drive")': Not(0, RawIs(0, GEAR, frozenset({3}))),
    "Gear == 3": equals(3, GEAR),
    "Speed in (1)": equals(1),
    "Speed in (1, -2, 3)": Either(0, Either(0, equals(1), equals(-2)), equals(3)),
    "Speed not in (1, 2)": Not(0, Either(0, equals(1), equals(2))),
    "Speed > 5 for 2 s": For(0, above(5), 2 * SECOND),
    "true and Speed > 5": Both(0, Truth(0, value=True), above(5)),
    "false or Speed > 5": Either(0, Truth(0, value=False), above(5)),
    "Speed\n  > 5\n\tor\r\n valid(Speed)": Either(0, above(5), Valid(0, SPEED)),
}


@pytest.mark.parametrize("text", MEANINGS)
def test_each_part_of_the_language_means(text: str) -> None:
    assert compiled(text) == MEANINGS[text]


@pytest.mark.parametrize("text", MEANINGS)
def test_what_is_unparsed_means_the_same(text: str) -> None:
    assert compiled(unparse(compiled(text))) == MEANINGS[text]


@pytest.mark.parametrize(
    ("text", "as_if"),
    [
        ("Speed>1 or Speed>2 and Speed>3", "Speed>1 or (Speed>2 and Speed>3)"),
        ("Speed>1 and Speed>2 or Speed>3", "(Speed>1 and Speed>2) or Speed>3"),
        ("Speed>1 or Speed>2 or Speed>3", "(Speed>1 or Speed>2) or Speed>3"),
        ("not Speed>1 and Speed>2", "(not Speed>1) and Speed>2"),
        ("not not Speed > 1", "not (not (Speed > 1))"),
        ("not Speed>1 for 2 s", "not ((Speed>1) for 2 s)"),
        ("Speed>1 and Speed>2 for 2 s", "Speed>1 and ((Speed>2) for 2 s)"),
        ("valid(Speed) for 2 s or Speed>1", "(valid(Speed) for 2 s) or Speed>1"),
        ("Speed in (1, 2) for 2 s", "(Speed == 1 or Speed == 2) for 2 s"),
        ("Speed + 1 > 2 * Speed - 3", "(Speed + 1) > ((2 * Speed) - 3)"),
        ("Speed - 1 - 2 > 3", "((Speed - 1) - 2) > 3"),
        ("Speed / 2 * 3 > 3", "((Speed / 2) * 3) > 3"),
        ("Speed * -Speed > 3", "Speed * (-Speed) > 3"),
        ("-Speed + 1 > 3", "(-Speed) + 1 > 3"),
        ("2 - -3 < Speed", "2 - (-3) < Speed"),
        ("Speed + 1 in (1, 2)", "(Speed + 1) == 1 or (Speed + 1) == 2"),
    ],
)
def test_what_binds_stronger(text: str, as_if: str) -> None:
    assert compiled(text) == compiled(as_if)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("(Speed > 1 and Speed > 2) and Speed > 3", None),
        ("Speed > 1 and (Speed > 2 and Speed > 3)", None),
        ("(not Speed > 1) for 5 s", None),
        ("(Speed > 1 for 5 s) for 90 s", "(Speed > 1 for 5 s) for 90 s"),
        ("not (Speed > 1 for 5 s)", "not Speed > 1 for 5 s"),
        ("(Speed - 1) - (Speed - 2) > 0.5", "Speed - 1 - (Speed - 2) > 0.5"),
        ("-(Speed + 1) < 1500 ", "-(Speed + 1) < 1500"),
        ("Speed == 1 or Speed == 2 or valid(Speed)", "Speed in (1, 2) or valid(Speed)"),
        ("Speed > 1 for 1.5 ms", "Speed > 1 for 1.5 ms"),
        ("Speed > 1 for 3600 s", "Speed > 1 for 1 h"),
        ('Lamp == "OFF"', 'Lamp in ("off", "Off")'),
    ],
)
def test_unparsed_text_has_the_parentheses_that_it_needs(text: str, short: str | None) -> None:
    written = unparse(compiled(text))
    assert compiled(written) == compiled(text)
    if short is not None:
        assert written.replace("ev.Drive.", "") == short


def test_nodes_know_where_they_stand() -> None:
    found = compiled("valid(Speed) and  mean(Flags, 5 s) > 3")
    assert {type(node).__name__: node.at for node in nodes_of(found)} == {
        "Both": 0,
        "Valid": 0,
        "Signal": 23,
        "Compare": 18,
        "Window": 18,
        "Number": 37,
    } | {"Signal": max(n.at for n in nodes_of(found) if isinstance(n, Signal))}


# Names.


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("Gear", "ev.Drive.Gear"),
        ("Drive.Gear", "ev.Drive.Gear"),
        ("ev.Drive.Gear", "ev.Drive.Gear"),
        ("`ev.Drive.Gear`", "ev.Drive.Gear"),
        ("ev.BMS.PackTemp", "ev.BMS.PackTemp"),
        ("*.BMS.PackTemp", "*.BMS.PackTemp"),
        ("`*.BMS.PackTemp`", "*.BMS.PackTemp"),
        ("Vehicle.Speed", "ev.Drive.Speed"),
        ("Vehicle.Powertrain.Battery.Temperature", "ev.BMS.PackTemp"),
        ("Brake.On", "*.Brake.On"),
        ("`2nd Door`", "can-1.Body.2nd Door"),
        ("`can-1.Body.2nd Door`", "can-1.Body.2nd Door"),
        ("DM1_DTC.SPN", "ev.DM1_DTC.SPN"),
        ("DM1_DTC.Number", "ev.DM1_DTC.Number"),
        ("Altitude", "gps.Position.Altitude"),
        ("BusHealth.Load", "agent.BusHealth.Load"),
        ("min", "ev.Drive.min"),
        ("`or`", "ev.Drive.or"),
        ("Drive.or", "ev.Drive.or"),
    ],
)
def test_a_signal_is_found_by_any_of_its_names(name: str, path: str) -> None:
    found = compiled(f"{name} > 0")
    assert [f"{p.bus}.{p}" for p in signals_of(found)] == [path]
    assert compiled(unparse(found)) == found


def test_a_database_without_buses_of_their_own_is_addressed_with_and_without_the_bus() -> None:
    database = Database({ANY_BUS: (message("BMS", TEMPERATURE),)})
    found = {
        path
        for name in ("PackTemp", "BMS.PackTemp", "*.BMS.PackTemp")
        for path in signals_of(compile_condition(f"{name} > 5", database))
    }
    assert found == {SignalPath(ANY_BUS, "BMS", "PackTemp")}


def test_a_changed_database_is_another_one() -> None:
    for name in ("First", "Second", "Third"):
        database = Database({"ev": (message("M", SignalSchema(name, "uint64", 8)),)})
        for _ in range(2):
            assert signals_of(compile_condition(f"{name} > 0", database)) == {
                SignalPath("ev", "M", name)
            }


def test_the_schema_of_the_database_comes_with_the_signal() -> None:
    found = next(n for n in nodes_of(compiled("ev.BMS.PackTemp > 5")) if isinstance(n, Signal))
    assert found.schema is TEMPERATURE


def test_signals_of_tells_everything_that_is_read() -> None:
    found = compiled("rises(valid(Speed) for 2 s) or Gear != 'Park' and abs(-Flags) > Ratio / 2")
    assert {str(path) for path in signals_of(found)} == {
        "Drive.Speed",
        "Drive.Gear",
        "BMS.Flags",
        "BMS.Ratio",
    }


# Labels.


@pytest.mark.parametrize(
    ("label", "raws"),
    [("off", {0}), ("Off", {1, 3}), ("OFF", {0, 1, 3}), ("on", {2}), (" On  ", {2})],
)
def test_a_label_is_looked_up_exactly_and_then_without_regard_to_case(
    label: str, raws: set[int]
) -> None:
    found = compiled(f'Lamp == "{label}"')
    assert isinstance(found, RawIs)
    assert found.raws == raws


def test_quotes_in_a_label_are_doubled_or_of_the_other_kind() -> None:
    choices = ((0, 'the "old" one'), (1, "driver's"), (2, "`both` \"'"), (3, "two\nlines"))
    database = Database({"ev": (message("M", SignalSchema("S", "uint64", 8, choices=choices)),)})
    for text, raw in (
        ("""S == 'the "old" one'""", 0),
        ('''S == "the ""old"" one"''', 0),
        ('''S == "driver's"''', 1),
        ("""S == 'driver''s'""", 1),
        ('''S == "`both` ""'"''', 2),
        ('S == "two lines"', 3),
    ):
        found = compile_condition(text, database)
        assert isinstance(found, RawIs)
        assert found.raws == {raw}
        assert compile_condition(unparse(found), database) == found


def test_names_with_backquotes_and_spaces_can_be_written() -> None:
    database = Database({"a `b`": (message("C D", SignalSchema("E`", "uint64", 8)),)})
    found = compile_condition("`E``` > 5", database)
    assert signals_of(found) == {SignalPath("a `b`", "C D", "E`")}
    assert unparse(found) == "`a ``b``.C D.E``` > 5"
    assert compile_condition(unparse(found), database) == found


def test_raw_values_without_a_label_have_no_text() -> None:
    for node in (RawIs(0, GEAR, frozenset({5})), RawIs(0, FLAGS, frozenset({1}), 3)):
        with pytest.raises(ValueError, match=r"Gear|Flags"):
            unparse(node)


@pytest.mark.parametrize(
    ("kind", "raw", "there"), [("int64", -1, True), ("int64", 1, False), ("uint64", 1 << 63, True)]
)
def test_the_highest_bit_of_64_is_one_that_the_numbers_of_the_signal_can_have(
    kind: Kind, raw: int, there: bool
) -> None:
    database = Database({"ev": (message("M", SignalSchema("S", kind, 64)),)})
    found = compile_condition("bit(S, 63)", database)
    assert isinstance(found, RawIs)
    assert found.mask is not None
    assert (raw & found.mask in found.raws) is there
    for number in (found.mask, *found.raws):
        assert np.array([number], kind)[0] == number
    assert compile_condition(unparse(found), database) == found


# Refusals: whole messages.


def test_a_message_names_the_place_the_reason_and_what_is_near() -> None:
    assert refusal("valid(Speed) or BMS.PackTmp > 55", where='campaign "hot": trigger') == (
        'campaign "hot": trigger: column 17: no signal is called "BMS.PackTmp"; near it: '
        "ev.BMS.PackTemp, BMS.PackVoltage\n"
        "  valid(Speed) or BMS.PackTmp > 55\n"
        "                  ^^^^^^^^^^^"
    )


def test_a_message_shows_the_line_of_a_text_of_several_lines() -> None:
    assert refusal("Speed > 5\n  and\tPackTmp > 5\n") == (
        'line 2, column 7: no signal is called "PackTmp"; near it: ev.BMS.PackTemp\n'
        "    and PackTmp > 5\n"
        "        ^^^^^^^"
    )


def test_a_message_shows_a_part_of_a_long_line() -> None:
    text = "valid(Speed) and " * 12 + "Sped > 5" + " and valid(Speed)" * 20
    _, line, carets = refusal(text).splitlines()
    assert len(line) < 120
    assert line[carets.index("^") : carets.rindex("^") + 1] == "Sped"


def test_a_message_holds_nothing_that_could_deceive_a_terminal() -> None:
    message = refusal("Speed > 5 and `a\u202eb\ud800` > '\u2066' \x1b[2J")
    assert all(c.isprintable() or c == "\n" for c in message)


# Refusals: place and words.

REFUSALS: Final[Mapping[str, tuple[int, str]]] = {
    "": (1, "the condition is empty"),
    " \n\t": (1, "the condition is empty"),
    "true": (1, "the condition names no signal"),
    "5 > 3": (1, "the condition names no signal"),
    # Words and operators of other languages.
    "Speed > 5 && valid(Speed)": (11, '"&&": write "and"'),
    "Speed > 5 || valid(Speed)": (11, '"||": write "or"'),
    "!valid(Speed)": (1, '"!": write "not"'),
    "Speed = 5": (7, '"=": write "=="'),
    "Speed === 5": (7, '"===": write "=="'),
    "Speed <> 5": (7, '"<>": write "!="'),
    "Speed => 5": (7, '"=>": write ">="'),
    "Speed ** 2 > 5": (7, "there are no powers"),
    "Speed // 2 > 5": (7, "there is no whole division"),
    "Speed & 1": (7, "bit(signal, 3)"),
    "Speed > 5 AND valid(Speed)": (11, 'write "and" in lower case'),
    "NOT Speed > 5": (1, 'write "not" in lower case'),
    "Speed > 5 For 5 s": (11, 'write "for" in lower case'),
    "True": (1, 'write "true" in lower case'),
    "Speed is 5": (7, 'write "=="'),
    "Speed > +5": (9, "a number needs no sign"),
    "Speed > 5 # fast": (11, "there are no comments"),
    "Speed > 5; valid(Speed)": (10, "there is one condition, and no statements"),
    "x := 5": (3, 'write "=="'),
    "Speed in [1, 2]": (10, "a list of values stands in parentheses"),
    "Speed % 2 > 1": (7, '"%": it has no meaning'),
    "import os": (8, 'an operator must stand before "os"'),
    # Characters.
    "Sp\u0435ed > 5": (3, "U+0435 CYRILLIC SMALL LETTER IE: names have letters of ASCII"),
    "`Sp\u0435ed` > 5": (1, "it has U+0435; near it: Drive.Speed"),
    "Speed \u2264 5": (7, 'U+2264 LESS-THAN OR EQUAL TO: write "<="'),
    "Speed >\xa05": (8, "U+00A0 NO-BREAK SPACE: write a plain space"),
    "Gear == \u201cDrive\u201d": (9, "U+201C LEFT DOUBLE QUOTATION MARK: texts have straight"),
    "Speed > 5\x00": (10, "U+0000: it has no meaning"),
    "Speed > \uff15": (9, "U+FF15 FULLWIDTH DIGIT FIVE"),
    'Gear == "Dri\x07ve"': (13, "U+0007 cannot stand between quotes"),
    'Gear == "Drive': (9, 'the text that begins here has no closing "'),
    "Gear == 'Drive\n'": (9, "the text that begins here has no closing '"),
    "`Gear > 5": (1, "the name that begins here has no closing `"),
    "`` > 5": (1, "between the backquotes is no name"),
    # Numbers and durations.
    "Speed > 1e999": (9, "1e999 is beyond all numbers"),
    "Speed > 1e-999": (9, "1e-999 is too close to 0"),
    "Speed > " + "9" * 10_000: (4097, "at most 4096 characters, and this one 10008"),
    "Speed > " + "9" * 1000: (9, "a number has at most 40 characters, and this one 1000"),
    "Speed > 1_000": (9, '"1_000" is no number'),
    "Speed > 0x": (9, '"0x" is no number'),
    "Speed > 1.2.3": (9, '"1.2.3" is no number'),
    "2nd > 5": (1, "a name that begins with a digit stands in backquotes: `2nd`"),
    "Speed > 5 for 5": (15, "a duration has a number and one of the units ms, s, min, h"),
    "Speed > 5 for 5 sec": (15, "a duration has a number and one of the units"),
    "Speed > 5 for Gear": (15, 'after "for" stands a duration'),
    "Speed > 5 for": (14, 'after "for" stands a duration'),
    "Speed > 5 for -": (15, "a duration has a number"),
    "Speed > 5 for -5 s": (15, "a duration must be longer than 0"),
    "Speed > 5 for 0 s": (15, "a duration must be longer than 0"),
    "Speed > 5 for 1e-7 ms": (15, "a duration must be longer than 0"),
    "Speed > 5 for 25 h": (15, "a duration is at most 24 h"),
    "Speed > 5 for 1e300 h": (15, "a duration is at most 24 h"),
    "Speed > 5 for 5 s for 6 s": (19, 'put the condition before "for" in parentheses'),
    "Speed > 5 s": (9, 'a duration stands after "for" or in a function'),
    "5 s": (1, 'a duration stands after "for" or in a function'),
    "mean(Speed, 5) > 3": (13, "a duration has a unit: ms, s, min, h"),
    "mean(Speed, Gear) > 3": (13, "mean() takes a signal and a duration: mean(Signal, 10 s)"),
    "mean(Speed, 2 h) > 3": (13, "a window is at most 1 h long, because all samples"),
    "mean(Speed) > 3": (1, "mean() takes 2 arguments, not 1: mean(Signal, 10 s); a window has an"),
    # Grammar.
    "1 < Speed < 5": (11, 'comparisons cannot be chained; write "1 < Speed and Speed < ..."'),
    "Speed == Flags == Ratio": (16, "comparisons cannot be chained"),
    "Speed in (1, 2) == 3": (17, '"==" cannot follow a comparison'),
    "Speed >": (8, "the condition ends where a value must follow"),
    "(Speed > 5": (1, 'this "(" has no ")"'),
    "valid(Speed": (6, 'this "(" has no ")"'),
    "Speed > 5)": (10, 'this ")" closes nothing'),
    "Speed, Gear": (6, 'a "," separates'),
    "() > 5": (2, 'a value must stand here, not ")"'),
    "and > 5": (1, "a signal of this name stands in backquotes: `and`"),
    "Speed == not Gear": (10, 'put "not ..." in parentheses'),
    "Speed not > 5": (7, 'an operator must stand before "not"'),
    "Speed Gear": (7, 'an operator must stand before "Gear"'),
    "Speed > 5 sec": (11, "the units of a duration are ms, s, min, h"),
    "(Speed)(5)": (8, "only a function is followed by parentheses"),
    "Speed .x > 5": (7, "a dot joins the parts of a name"),
    "Speed in 5": (10, 'the values of "in" stand in parentheses'),
    "Speed in ()": (11, 'only numbers and texts stand in the list of "in"'),
    "Speed in (Gear)": (11, 'only numbers and texts stand in the list of "in"'),
    "Speed in (5 s)": (11, 'only numbers and texts stand in the list of "in"'),
    # Types.
    "Speed": (1, 'Speed is a number, not a condition; write "Speed != 0"'),
    "Gear": (1, 'write "Gear != 0" or such as Gear == "Park"'),
    "Speed > 5 and 5": (15, "5 is a number, not a condition"),
    "not Speed + 1": (5, 'Speed + 1 is a number, not a condition; write "Speed + 1 != 0"'),
    "mean(Speed, 1 s)": (1, 'write "mean(Speed, 1 s) != 0"'),
    "'Drive'": (1, "a text is no condition"),
    "true + 1 > Speed": (1, "true is a condition, not a number"),
    "Speed > -(Speed > 5)": (10, "(Speed > 5) is a condition, not a number"),
    "abs(valid(Speed)) > 5": (5, "valid(Speed) is a condition, not a number"),
    "Speed + 'a' > 5": (9, "a text is no number"),
    "Speed > 5 for 5 s > 3": (19, 'put the condition before ">" in parentheses'),
    "(Speed > 5) == (Flags > 5)": (1, "conditions are not compared"),
    "Flags == true": (10, 'nothing is compared with true or false; write "Flags != 0"'),
    "false == Flags": (1, 'nothing is compared with true or false; write "Flags == 0"'),
    "valid(Speed) == false": (17, 'write "not valid(Speed)"'),
    "valid(Speed) != false": (17, 'write "valid(Speed)"'),
    "Speed / 0 > 5": (9, "a division by 0 is never known"),
    "Serial > 5": (1, "BMS.Serial holds bytes and not a number; only changed(), valid() and"),
    "Serial": (1, "BMS.Serial holds bytes"),
    "faulty(Serial)": (8, "BMS.Serial holds bytes"),
    "count(Serial, 1 s) > 5": (7, "BMS.Serial holds bytes"),
    # Functions.
    "sqrt(Speed) > 5": (1, 'no function is called "sqrt"; there are: abs, previous, min'),
    "ABS(Speed) > 5": (1, 'no function is called "ABS"; write abs(x)'),
    "Speed.__class__ > 5": (1, 'no signal is called "Speed.__class__"'),
    "__import__('os')": (1, 'no function is called "__import__"'),
    "Speed.real() > 5": (1, 'no function is called "Speed.real"'),
    "valid()": (1, "valid() takes 1 argument, not 0: valid(Signal)"),
    "mean(Speed + 1, 5 s) > 3": (6, "mean() takes a signal itself, not an expression"),
    "valid(Speed > 5)": (7, "valid() takes a signal itself, not an expression"),
    "changed('Speed')": (9, "changed() takes a signal itself, a name stands without quotes"),
    "previous(previous(Speed)) > 5": (10, "previous() takes a signal itself"),
    "rises(Speed)": (7, 'write "Speed != 0"'),
    "bit(Flags, 8)": (12, "BMS.Flags has 8 bits: write a number from 0 (the lowest) to 7"),
    "bit(Flags, -1)": (12, "BMS.Flags has 8 bits"),
    "bit(Flags, 1.5)": (12, "BMS.Flags has 8 bits"),
    "bit(Flags, Speed)": (12, "BMS.Flags has 8 bits"),
    "bit(Ratio, 1)": (5, "BMS.Ratio is no whole number and has no bits"),
    "bit(Flags, 1) > 5": (1, "bit(Flags, 1) is a condition, and conditions are not compared"),
    # Names and labels.
    "Counter > 5": (1, '"Counter" names 2 signals: BMS.Counter, Drive.Counter; write one of these'),
    "BMS.PackTemp > 5": (1, '"BMS.PackTemp" names 2 signals: *.BMS.PackTemp, ev.BMS.PackTemp;'),
    "gear > 5": (1, 'no signal is called "gear"; near it: Drive.Gear'),
    "Vehicle.Sped > 5": (1, "near it: Vehicle.Speed"),
    "`2nd door` > 5": (1, "near it: `Body.2nd Door`"),
    "Cell*Voltage > 5": (1, 'no signal is called "Cell"'),
    'Gear == "Drve"': (
        9,
        'Drive.Gear has no value "Drve"; there are: "Drive", "Park", "Reverse", "Neutral", "SNA"',
    ),
    "Mode == 'Mode 99'": (9, '"Mode 4" and 12 more'),
    'Gear < "Drive"': (8, 'a text has no order; write "==" or "!="'),
    'Speed == "Drive"': (1, "Drive.Speed has no value table; only a signal with a value table"),
    'Gear + 1 == "Drive"': (1, "Gear + 1 is no signal; only a signal with a value table"),
    'previous(Gear) == "Drive"': (1, "previous(Gear) is no signal; only a signal with a value"),
    'Serial == "Drive"': (1, "BMS.Serial holds bytes"),
    '"Drive" == "Drive"': (1, "two texts are compared; one side must be a signal"),
    'Gear in ("Drive", 3)': (19, "one list has either texts or numbers"),
    'Gear in ("Drive", "Fly")': (19, 'Drive.Gear has no value "Fly"'),
}


@pytest.mark.parametrize("text", REFUSALS, ids=[text[:40] for text in REFUSALS])
def test_what_is_refused_is_told_with_its_place_and_reason(text: str) -> None:
    column, reason = REFUSALS[text]
    first = refusal(text).splitlines()[0]
    assert f"column {column}: " in first
    assert reason in first


# Limits.


def terms(count: int) -> str:
    """A condition of 4 * count - 1 parts."""
    return " or ".join(["Speed > 1"] * count)


def test_a_text_may_have_4096_characters() -> None:
    assert compiled("Speed > 5".ljust(4096)) == above(5)
    assert "column 4097: a condition has at most 4096" in refusal("Speed > 5".ljust(4097))


def test_a_condition_may_have_256_parts() -> None:
    assert len(list(nodes_of(compiled(f"not {terms(64)}")))) == 256
    assert "a condition has at most 256 parts" in refusal(f"not not {terms(64)}")
    assert "a condition has at most 256 parts" in refusal("1" + " + 1" * 1000 + " > Speed")


def test_a_list_of_numbers_counts_as_the_comparisons_that_it_is() -> None:
    values = ", ".join(map(str, range(64)))
    assert len(list(nodes_of(compiled(f"Speed in ({values})")))) == 255
    for text in (f"Speed in ({values}, 64)", f"not not Speed in ({values})"):
        assert "this list is a comparison for each number" in refusal(text)
    wide = "Speed" + " + Speed" * 60
    assert "column 1: a condition has at most 256" in refusal(f"{wide} in (1, 2, 3)")


def test_a_list_of_labels_is_one_part_however_long() -> None:
    labels = ", ".join(f"'Mode {number}'" for number in range(20))
    found = compiled(f"Mode in ({labels})")
    assert isinstance(found, RawIs)
    assert found.raws == set(range(20))


@pytest.mark.parametrize(
    ("opening", "closing"),
    [("(", ")"), ("not ", ""), ("not (", ")"), ("rises(", ")"), ("(Speed > 1 or ", ")")],
)
def test_nesting_is_32_deep_at_most(opening: str, closing: str) -> None:
    each = opening.count("(") + opening.count("not")
    deep = 32 // each
    assert compiled(f"{opening * deep}Speed > 5{closing * deep}")
    too_deep = f"{opening * (deep + 1)}Speed > 5{closing * (deep + 1)}"
    assert "a condition is nested at most 32 deep" in refusal(too_deep)


@pytest.mark.parametrize("opening", ["(", "-", "not ", "abs(", "not (", "-(", "Speed in ("])
def test_however_deep_it_is_nested_no_stack_overflows(opening: str) -> None:
    assert "column" in refusal((opening * 4096)[:4096])


def test_the_largest_conditions_need_little_stack() -> None:
    """They may come to a thread that is deep in other work already."""
    texts = [
        f"not {terms(64)}",
        "Speed" + " + 1" * 126 + " > 1",
        "(Speed > 1 and not (Speed + 2 * -(1 + Speed) > 2 or " * 10 + "Speed > 5" + "))" * 10,
        "(" * 32 + terms(60) + ")" * 32,
    ]
    found: list[bool] = []

    def work() -> None:
        for text in texts:
            tree = compiled(text)
            found.append(compiled(unparse(tree)) == tree)

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(600)
    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    finally:
        sys.setrecursionlimit(limit)
    assert found == [True] * len(texts)
