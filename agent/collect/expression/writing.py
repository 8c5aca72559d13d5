"""A condition as text again, and what it reads."""

from collections.abc import Iterator
from typing import Final, Literal, assert_never

from agent.collect.expression.labels import labels_of
from agent.collect.expression.lexer import UNITS_NS, quoted
from agent.collect.expression.names import written
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
from agent.signals.database import SignalPath

# As in the grammar: what binds weaker needs parentheses where something stronger is asked for.
_OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT, _UNARY, _ATOM = range(8)
_MEANINGS: Final = {"valid": "valid", "not available": "unavailable", "error": "faulty"}


def nodes_of(node: Condition | Numeric) -> Iterator[Condition | Numeric]:
    """The node and all below it."""
    waiting = [node]
    while waiting:
        this = waiting.pop()
        yield this
        match this:
            case Number() | Truth() | Signal():
                pass
            case Arithmetic() | Compare() | Both() | Either():
                waiting += (this.right, this.left)
            case _:
                waiting.append(this.of)


def signals_of(node: Condition | Numeric) -> set[SignalPath]:
    """Every signal that it reads."""
    return {this.path for this in nodes_of(node) if isinstance(this, Signal)}


def unparse(node: Condition | Numeric) -> str:
    """Text that compiles to an equal tree; names are written in full, with their bus.

    For trees that `compile_condition` gives.

    Raises:
        ValueError: no text means this, such as raw values that have no label.
    """
    return _text(node, _OR)


def _text(node: Condition | Numeric, least: int) -> str:
    text, level = _written(node)
    return text if level >= least else f"({text})"


def _written(node: Condition | Numeric) -> tuple[str, int]:
    """The text, and how strongly what stands outermost in it binds."""
    match node:
        case Number():
            return _number(node.value), _UNARY if node.value < 0 else _ATOM
        case Truth():
            return ("true" if node.value else "false"), _ATOM
        case Signal():
            return written(node.path), _ATOM
        case Arithmetic():
            level = _SUM if node.operator in "+-" else _PRODUCT
            left, right = _text(node.left, level), _text(node.right, level + 1)
            return f"{left} {node.operator} {right}", level
        case Function(name="negative"):
            return f"-{_text(node.of, _UNARY)}", _UNARY
        case Function():
            return f"abs({_text(node.of, _OR)})", _ATOM
        case Previous():
            return f"previous({written(node.of.path)})", _ATOM
        case Window():
            return f"{node.name}({written(node.of.path)}, {_duration(node.duration_ns)})", _ATOM
        case Compare():
            left, right = _text(node.left, _SUM), _text(node.right, _SUM)
            return f"{left} {node.operator} {right}", _COMPARISON
        case RawIs():
            return _raw_is(node, "")
        case Valid():
            return f"{_MEANINGS[node.meaning]}({written(node.of.path)})", _ATOM
        case Missing():
            return f"missing({written(node.of.path)}, {_duration(node.duration_ns)})", _ATOM
        case Changed():
            return f"changed({written(node.of.path)})", _ATOM
        case Edge():
            return f"{node.name}({_text(node.of, _OR)})", _ATOM
        case For():
            # What is held is a comparison or stronger; held itself, it is as weak as `not`.
            return f"{_text(node.of, _COMPARISON)} for {_duration(node.duration_ns)}", _NOT
        case Not():
            return _negated(node)
        case Both():
            return f"{_text(node.left, _AND)} and {_text(node.right, _NOT)}", _AND
        case Either():
            return _list(node, "") or (
                f"{_text(node.left, _OR)} or {_text(node.right, _AND)}",
                _OR,
            )
        case _:
            assert_never(node)


def _negated(node: Not) -> tuple[str, int]:
    """`x != "A"` and `x not in (1, 2)` are shorter than what they mean."""
    of = node.of
    if isinstance(of, RawIs) and of.mask is None:
        return _raw_is(of, "not ")
    if isinstance(of, Either) and (found := _list(of, "not ")):
        return found
    return f"not {_text(of, _NOT)}", _NOT


def _raw_is(node: RawIs, negation: Literal["", "not "]) -> tuple[str, int]:
    name = written(node.of.path)
    if node.mask is not None:
        place = abs(node.mask).bit_length() - 1
        if node.raws != {node.mask} or abs(node.mask) != 1 << place:
            raise ValueError(f"no text means the mask {node.mask:#x} of {name}")
        return f"bit({name}, {place})", _ATOM
    texts = labels_of(node.of.schema, node.raws)
    if texts is None:
        raise ValueError(f"{name} has no labels for {sorted(node.raws)}")
    if len(texts) == 1:
        return f"{name} {'!=' if negation else '=='} {quoted(texts[0])}", _COMPARISON
    return f"{name} {negation}in ({', '.join(map(quoted, texts))})", _COMPARISON


def _list(node: Either, negation: Literal["", "not "]) -> tuple[str, int] | None:
    """`x in (1, 2)`, where it is that."""
    terms: list[Condition] = []
    rest: Condition = node
    while isinstance(rest, Either):
        terms.append(rest.right)
        rest = rest.left
    if not isinstance(rest, Compare):
        return None
    numbers = []
    for term in (rest, *reversed(terms)):
        if not (
            isinstance(term, Compare)
            and term.operator == "=="
            and isinstance(term.right, Number)
            and term.left == rest.left
        ):
            return None
        numbers.append(_number(term.right.value))
    return f"{_text(rest.left, _SUM)} {negation}in ({', '.join(numbers)})", _COMPARISON


def _number(value: float) -> str:
    return repr(value).removesuffix(".0")


def _duration(ns: int) -> str:
    for unit in ("h", "min", "s", "ms"):
        if ns % UNITS_NS[unit] == 0:
            return f"{ns // UNITS_NS[unit]} {unit}"
    whole, part = divmod(ns, UNITS_NS["ms"])
    return f"{whole}.{part:06}".rstrip("0") + " ms"
