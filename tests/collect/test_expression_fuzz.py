"""Whatever is written: a condition that means the same when it is unparsed, or a clear refusal."""

import re
from collections.abc import Callable
from typing import Final, Literal

from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from agent.blocks import SignalSchema, TableSchema
from agent.collect.expression import compile_condition, nodes_of, signals_of, unparse
from agent.collect.expression.lexer import UNITS_NS
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
from agent.signals import Database
from agent.signals.database import ANY_BUS
from tests.collect.test_expression import (
    DATABASE,
    FLAGS,
    GEAR,
    GEARS,
    MEANINGS,
    REFUSALS,
    SERIAL,
    SPEED,
    VOLTAGE,
    VSS,
    message,
)

ANY: Final = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SEEDS: Final = [*MEANINGS, *REFUSALS, " and ".join(MEANINGS)]
PIECES: Final = [
    *"()+-*/<>=!&|.,;:#%[]{}@$?\\\"'`\n\t \x00\x7f\xa0é\u202e\ud800\uff15_9",
    *["and", "or", "not", "in", "for", "true", "false", "AND", "is", "if", "None", "lambda"],
    *["<=", ">=", "==", "!=", "&&", "||", "<>", "**", "//", "``", '""', "''", "=<"],
    *["5", "0.5", "-5", "1e3", "1e999", "0x1F", "0x", "1_0", "9" * 50, "5 s", "5s", "24 h", "min"],
    *["abs(", "mean(", "valid(", "bit(", "rises(", "missing(", "previous(", "eval(", "x.y("],
    *["Speed", "Gear", "Counter", "Serial", "ev.Drive.Gear", "*.Brake.On", "`2nd Door`", "PackTmp"],
    *["Vehicle.Speed", '"Drive"', "'Park'", '"Fly"', "__class__", "Speed.__class__", "*.", "a.b.c"],
]
PLACE: Final = re.compile(r"(?:line (\d+), )?column (\d+): ")


def check(text: str) -> None:
    """It is compiled or refused; what is compiled can be written, what is refused is told."""
    try:
        found = compile_condition(text, DATABASE, vss=VSS)
    except ConfigError as e:
        told = str(e)
        match = PLACE.match(told)
        assert match is not None
        lines = text.split("\n")
        line = lines[int(match[1] or 1) - 1]
        assert (match[1] is None) == (len(lines) == 1)
        # What is missing at the end is missing one place behind it.
        assert 1 <= int(match[2]) <= len(line) + 1
        assert all(c.isprintable() or c == "\n" for c in told)
        assert told.count("\n") == 2
        assert len(told) < 1000
        return
    nodes = list(nodes_of(found))
    assert len(nodes) <= 256
    assert all(0 <= node.at < len(text) for node in nodes)
    assert signals_of(found)
    assert compile_condition(unparse(found), DATABASE) == found


@given(st.text(st.characters(), max_size=200))
@settings(parent=ANY, max_examples=300)
def test_any_text(text: str) -> None:
    check(text)


@given(st.text("Speedrn0159.()<>=!+-*/ \"'`,\n", max_size=60))
@settings(parent=ANY, max_examples=300)
def test_any_text_of_characters_of_the_language(text: str) -> None:
    check(text)


@given(st.lists(st.sampled_from(PIECES), max_size=40), st.sampled_from(["", " "]))
@settings(parent=ANY, max_examples=300)
def test_any_order_of_pieces(pieces: list[str], between: str) -> None:
    check(between.join(pieces))


@given(st.data())
@settings(parent=ANY, max_examples=300)
def test_any_change_of_a_condition(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(SEEDS))
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(begin, min(len(text), begin + 12)))
        piece = data.draw(
            st.one_of(
                st.just(""),
                st.sampled_from(PIECES),
                st.characters(),
                st.just(text[begin:end] * 2),
                st.sampled_from(SEEDS).map(lambda other: f"({other})"),
            )
        )
        text = text[:begin] + piece + text[end:]
    check(text)


@given(
    st.lists(
        st.sampled_from(["(", "not ", "-", "abs(", "rises(", "not(", "Speed + (", "true or ("]),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 3000),
    st.sampled_from(["", "Speed > 5", "valid(Speed)", "5"]),
    st.booleans(),
)
@settings(parent=ANY, max_examples=150)
@example(["("], 2000, "valid(Speed)", True)
def test_any_depth(openings: list[str], times: int, inner: str, closed: bool) -> None:
    text = "".join(openings) * times + inner
    check(text + ")" * text.count("(") if closed else text)
    check(text[:4096])


@given(
    st.sampled_from([" or Speed > 1", " and valid(Speed)", " + 1", " * Speed", ", 1", " for 5 s"]),
    st.sampled_from(["Speed > 1", "Speed", "Speed in (1", "valid(Speed)"]),
    st.sampled_from(["", " > 5", ")"]),
    st.integers(0, 600),
)
@settings(parent=ANY, max_examples=150)
def test_any_length(piece: str, begin: str, end: str, times: int) -> None:
    check(begin + piece * times + end)


# Trees to text and back, with a second way of writing that knows of no precedence.

DURATIONS: Final = st.one_of(
    st.integers(1, 3600 * 10**9),
    st.integers(1, 3600).map(lambda s: s * 10**9),
    st.integers(1, 1000).map(lambda ms: ms * 10**6),
)
NUMBERS: Final = st.one_of(
    st.integers(-1000, 1000).map(float), st.floats(allow_nan=False, allow_infinity=False)
).map(lambda value: Number(0, value))
SIGNALS: Final = st.sampled_from([SPEED, VOLTAGE, GEAR, FLAGS])


def arithmetic(operator: Literal["+", "-", "*", "/"], left: Numeric, right: Numeric) -> Numeric:
    by_zero = operator == "/" and isinstance(right, Number) and right.value == 0
    return Arithmetic(0, "*" if by_zero else operator, left, right)


def negative(of: Numeric) -> Numeric:
    """The negative of a number is a number."""
    return Number(0, -of.value) if isinstance(of, Number) else Function(0, "negative", of)


def grown_number(of: st.SearchStrategy[Numeric]) -> st.SearchStrategy[Numeric]:
    return st.one_of(
        st.builds(arithmetic, st.sampled_from("+-*/"), of, of),
        st.builds(negative, of),
        st.builds(Function, st.just(0), st.just("abs"), of),
    )


NUMERICS: Final[st.SearchStrategy[Numeric]] = st.recursive(
    st.one_of(
        NUMBERS,
        SIGNALS,
        st.builds(Previous, st.just(0), SIGNALS),
        st.builds(
            Window,
            st.just(0),
            st.sampled_from(["min", "max", "mean", "count", "delta", "rate"]),
            SIGNALS,
            DURATIONS,
        ),
    ),
    grown_number,
    max_leaves=6,
)
BITS: Final = st.integers(0, 7).map(lambda n: RawIs(0, FLAGS, frozenset({1 << n}), 1 << n))
LABELS: Final = st.sets(st.sampled_from([raw for raw, _ in GEARS]), min_size=1).map(
    lambda raws: RawIs(0, GEAR, frozenset(raws))
)
COMPARISONS: Final = st.builds(
    Compare, st.just(0), st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), NUMERICS, NUMERICS
)
# Lists of numbers come of comparisons of one signal.
SIMPLE: Final = st.builds(Compare, st.just(0), st.just("=="), SIGNALS, NUMBERS)


def grown(of: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    at = st.just(0)
    return st.one_of(
        st.builds(Both, at, of, of),
        st.builds(Either, at, of, of),
        st.builds(Not, at, of),
        st.builds(For, at, of, DURATIONS),
        st.builds(Edge, at, st.sampled_from(["rises", "falls"]), of),
    )


CONDITIONS: Final[st.SearchStrategy[Condition]] = st.recursive(
    st.one_of(
        COMPARISONS,
        SIMPLE,
        BITS,
        LABELS,
        st.builds(Truth, st.just(0), st.booleans()),
        st.builds(Valid, st.just(0), SIGNALS, st.sampled_from(["valid", "not available", "error"])),
        st.builds(Missing, st.just(0), st.one_of(SIGNALS, st.just(SERIAL)), DURATIONS),
        st.builds(Changed, st.just(0), st.one_of(SIGNALS, st.just(SERIAL))),
    ),
    grown,
    max_leaves=12,
)


def bracketed(node: Condition | Numeric, space: Callable[[], str]) -> str:
    """With parentheses around everything, and any space between."""

    def text(of: Condition | Numeric) -> str:
        return bracketed(of, space)

    def call(name: str, of: Condition | Numeric, *more: str) -> str:
        inner = str(of.path) if isinstance(of, Signal) else text(of)
        return f"{name}{space()}({space()}{','.join((inner, *more))}{space()})"

    def duration(ns: int) -> str:
        return f"{ns // 10**6}.{ns % 10**6:06}{space()}ms"

    match node:
        case Number():
            return f"({node.value!r})"
        case Truth():
            return f"({str(node.value).lower()})"
        case Signal():
            return f"({space()}{node.path})"
        case Arithmetic() | Compare():
            return f"({text(node.left)}{space()}{node.operator}{space()}{text(node.right)})"
        case Both():
            return f"({text(node.left)}and{text(node.right)})"
        case Either():
            return f"({text(node.left)}or{text(node.right)})"
        case Not():
            return f"(not{text(node.of)})"
        case For():
            return f"({text(node.of)}for {space()}{duration(node.duration_ns)})"
        case Function(name="negative"):
            return f"(-{space()}{text(node.of)})"
        case Function():
            return call("abs", node.of)
        case Previous():
            return f"({call('previous', node.of)})"
        case Window():
            return f"({call(node.name, node.of, duration(node.duration_ns))})"
        case Missing():
            return f"({call('missing', node.of, duration(node.duration_ns))})"
        case Changed():
            return f"({call('changed', node.of)})"
        case Valid():
            names = {"valid": "valid", "not available": "unavailable", "error": "faulty"}
            return f"({call(names[node.meaning], node.of)})"
        case Edge():
            return f"({call(node.name, node.of)})"
        case RawIs(mask=None):
            texts = [quoted for raw, quoted in GEARS if raw in node.raws]
            return f"({node.of.path} in ({', '.join(map(repr, texts))}))"
        case RawIs():
            return f"({call('bit', node.of, str(min(node.raws).bit_length() - 1))})"


@given(CONDITIONS, st.data())
@settings(parent=ANY, max_examples=200)
def test_any_condition_is_read_as_it_is_meant_and_written_as_it_was_read(
    tree: Condition, data: st.DataObject
) -> None:
    assume(signals_of(tree))
    text = bracketed(tree, lambda: data.draw(st.sampled_from(["", " ", "\n", " \t "])))
    depth = deepest = 0
    for sign in text:
        depth += (sign == "(") - (sign == ")")
        deepest = max(deepest, depth)
    assume(deepest + text.count("not") + text.count("-") <= 32)

    read = compile_condition(text, DATABASE)

    assert read == tree
    assert compile_condition(unparse(read), DATABASE) == tree


@given(st.sampled_from([*UNITS_NS]), st.integers(1, 10**8), st.integers(0, 12))
@settings(parent=ANY)
def test_a_duration_is_exact(unit: str, digits: int, places: int) -> None:
    text = f"{digits}e-{places}"
    exact, rest = divmod(digits * UNITS_NS[unit], 10**places)
    assume(rest == 0 and 0 < exact <= 24 * UNITS_NS["h"])
    found = compile_condition(f"valid(Speed) for {text} {unit}", DATABASE)
    assert isinstance(found, For)
    assert found.duration_ns == exact


# Names: the rule is the one of `Database.select`.

PARTS: Final = st.sampled_from(["a", "b", "A", "a.b", "b.a", "x y", "*", "`", "or", "9", "ä"])


@st.composite
def databases(draw: st.DrawFn) -> Database:
    buses = draw(st.sets(st.one_of(PARTS, st.just(ANY_BUS)), max_size=3))

    def schemas() -> tuple[SignalSchema, ...]:
        names = draw(st.sets(PARTS, min_size=1, max_size=3))
        return tuple(SignalSchema(name, "uint64", 8) for name in sorted(names))

    def names() -> list[str]:
        return sorted(draw(st.sets(PARTS, min_size=1, max_size=3)))

    return Database(
        {bus: tuple(message(name, *schemas()) for name in names()) for bus in sorted(buses)},
        tables=tuple(TableSchema("gps", name, schemas()) for name in names()),
        telling=(TableSchema("agent", "told", schemas()),),
    )


@given(databases(), st.lists(PARTS, min_size=1, max_size=4).map(".".join), st.data())
@settings(parent=ANY, max_examples=300)
def test_a_name_names_what_it_names_elsewhere_in_a_plan(
    database: Database, name: str, data: st.DataObject
) -> None:
    if data.draw(st.booleans()):
        path = data.draw(st.sampled_from(database.paths()))
        name = data.draw(
            st.sampled_from([path.signal, str(path), f"{path.bus}.{path.message}.{path.signal}"])
        )
    try:
        # Not a plain name, which would have to be unique.
        wanted = database.select(["".join(f"[{sign}]" for sign in name)])
    except ConfigError:
        wanted = set()
    quoted = name.replace("`", "``")

    try:
        found = signals_of(compile_condition(f"`{quoted}` > 0", database))
        told = ""
    except ConfigError as e:
        found, told = set(), str(e)

    assert found == (wanted if len(wanted) == 1 else set())
    assert ("no signal is called" in told) == (not wanted)
    assert (f"names {len(wanted)} signals" in told) == (len(wanted) > 1)
