"""Tokens to a tree of what is written, before anything in it has a meaning.

Operator precedence by binding powers: each operator has a number, and an operand of an operator
takes in all operators that bind stronger. The depth of nesting and the number of nodes are counted
while reading, so neither the stack nor memory can be made to overflow.
"""

import dataclasses
import math
from typing import Final, Literal

from agent.collect.expression.lexer import KEYWORDS, UNITS_NS, Token, quoted, tokens
from agent.collect.expression.source import Source, short
from agent.errors import ConfigError

MAX_NODES: Final = 256
MAX_DEPTH: Final = 32
MAX_DURATION_NS: Final = 24 * UNITS_NS["h"]

_OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT, _UNARY = range(1, 8)
_POWERS: Final = {
    "or": _OR,
    "and": _AND,
    **dict.fromkeys(("<", "<=", ">", ">=", "==", "!=", "in", "not", "for"), _COMPARISON),
    **dict.fromkeys("+-", _SUM),
    **dict.fromkeys("*/", _PRODUCT),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """Where it stands: `text[at:end]`."""

    at: int
    end: int


@dataclasses.dataclass(frozen=True, slots=True)
class NumberOf(Span):
    value: float


@dataclasses.dataclass(frozen=True, slots=True)
class TextOf(Span):
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class TruthOf(Span):
    value: bool


@dataclasses.dataclass(frozen=True, slots=True)
class DurationOf(Span):
    ns: int


@dataclasses.dataclass(frozen=True, slots=True)
class Named(Span):
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Called(Span):
    name: str
    arguments: "tuple[Syntax, ...]"


@dataclasses.dataclass(frozen=True, slots=True)
class Unary(Span):
    operator: Literal["not", "-"]
    of: "Syntax"


@dataclasses.dataclass(frozen=True, slots=True)
class Binary(Span):
    """Arithmetic, a comparison, `and`, `or`."""

    operator: str
    left: "Syntax"
    right: "Syntax"


@dataclasses.dataclass(frozen=True, slots=True)
class Listed(Span):
    """`left in (values)`."""

    left: "Syntax"
    values: tuple[NumberOf | TextOf, ...]
    negated: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Held(Span):
    """`of for 5 s`."""

    of: "Syntax"
    ns: int


Syntax = NumberOf | TextOf | TruthOf | DurationOf | Named | Called | Unary | Binary | Listed | Held


def parse(source: Source) -> tuple[Syntax, int]:
    """What is written, and of how many nodes it is made.

    Raises:
        ConfigError: it follows no grammar, or is too large.
    """
    return _Parser(source).whole()


def size(syntax: Syntax) -> int:
    """Of how many nodes it is made; durations belong to what has them."""
    waiting, found = [syntax], 0
    while waiting:
        this = waiting.pop()
        found += not isinstance(this, DurationOf)
        match this:
            case Unary() | Held():
                waiting.append(this.of)
            case Binary():
                waiting += (this.left, this.right)
            case Called():
                waiting += this.arguments
            case Listed():
                waiting += (this.left, *this.values)
            case _:
                pass
    return found


class _Parser:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._tokens = tokens(source)
        self._place = 0
        self._depth = 0
        self._nodes = 0

    def whole(self) -> tuple[Syntax, int]:
        if len(self._tokens) == 1:
            raise self._source.refuse(0, 1, "the condition is empty")
        found = self._expression(_OR)
        if self._next.kind != "end":
            raise self._unexpected()
        return found, self._nodes

    @property
    def _next(self) -> Token:
        return self._tokens[self._place]

    @property
    def _behind(self) -> Token:
        return self._tokens[min(self._place + 1, len(self._tokens) - 1)]

    @property
    def _before(self) -> Token:
        return self._tokens[max(self._place - 1, 0)]

    def _take(self) -> Token:
        token = self._next
        self._place += 1
        return token

    def _count(self, token: Token) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._refuse(token, f"a condition has at most {MAX_NODES} parts")

    def _deeper(self, token: Token) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._refuse(token, f"a condition is nested at most {MAX_DEPTH} deep")

    def _expression(self, power: int) -> Syntax:
        left = self._operand(power)
        compared = False
        while (binding := _POWERS.get(self._next.word, 0)) >= power:
            operator = self._next
            if operator.word == "not" and self._behind.word != "in":
                raise self._unexpected()
            if (
                compared
                and binding >= _COMPARISON
                and not (operator.word == "for" and not isinstance(left, Held))
            ):
                raise self._after_comparison(left)
            compared = compared or binding == _COMPARISON
            self._count(self._take())
            match operator.word:
                case "for":
                    left = self._held(left)
                case "in":
                    left = self._listed(left, negated=False)
                case "not":
                    self._take()
                    left = self._listed(left, negated=True)
                case word:
                    right = self._expression(binding + 1)
                    left = Binary(left.at, right.end, word, left, right)
        return left

    def _operand(self, power: int) -> Syntax:
        """A value, with what stands in front of it."""
        token = self._next
        match token.kind:
            case "number":
                return self._number()
            case "text":
                self._count(self._take())
                return TextOf(token.at, token.end, token.text)
            case "quoted":
                self._count(self._take())
                return Named(token.at, token.end, token.text)
            case "name" if not token.keyword:
                return self._named()
            case _:
                pass
        match token.word:
            case "true" | "false":
                self._count(self._take())
                return TruthOf(token.at, token.end, token.text == "true")
            case "not" if power <= _NOT:
                return self._unary("not", _NOT)
            case "-":
                if self._behind.kind == "number":
                    return self._number()
                return self._unary("-", _UNARY)
            case "(":
                self._take()
                self._deeper(token)
                inner = self._expression(_OR)
                self._depth -= 1
                close = self._close(token)
                return dataclasses.replace(inner, at=token.at, end=close.end)
            case _:
                raise self._no_value()

    def _unary(self, operator: Literal["not", "-"], power: int) -> Unary:
        token = self._take()
        self._count(token)
        self._deeper(token)
        of = self._operand(power) if operator == "-" else self._expression(power)
        self._depth -= 1
        return Unary(token.at, of.end, operator, of)

    def _number(self) -> NumberOf | DurationOf:
        """A number with its sign, or a duration."""
        first = self._next
        if first.word == "-":
            self._take()
        token = self._take()
        value = self._value(token)
        unit_ns = self._next.unit_ns
        if unit_ns is not None:
            unit = self._take()
            return DurationOf(first.at, unit.end, self._duration(first, token, unit, value))
        self._count(first)
        return NumberOf(first.at, token.end, -value if first is not token else value)

    def _value(self, token: Token) -> float:
        if token.text[:2] in ("0x", "0X"):
            return float(int(token.text, 16))
        value = float(token.text)
        if math.isinf(value):
            raise self._refuse(token, f"{token.text} is beyond all numbers")
        if value == 0 and set(token.text.lower().partition("e")[0]) - set("0."):
            raise self._refuse(token, f"{token.text} is too close to 0")
        return value

    def _duration(self, first: Token, token: Token, unit: Token, value: float) -> int:
        """A duration in whole ns."""
        scaled = value * (unit.unit_ns or 0)
        if first is not token or scaled < 0.5:
            raise self._source.refuse(first.at, unit.end, "a duration must be longer than 0")
        if scaled > MAX_DURATION_NS:
            raise self._source.refuse(first.at, unit.end, "a duration is at most 24 h")
        return round(scaled)

    def _named(self) -> Named | Called:
        token = self._take()
        self._count(token)
        if self._next.word != "(":
            return Named(token.at, token.end, token.text)
        bracket = self._take()
        self._deeper(token)
        arguments = []
        if self._next.word != ")":
            arguments.append(self._expression(_OR))
            while self._next.word == ",":
                self._take()
                arguments.append(self._expression(_OR))
        self._depth -= 1
        close = self._close(bracket)
        return Called(token.at, close.end, token.text, tuple(arguments))

    def _listed(self, left: Syntax, *, negated: bool) -> Listed:
        bracket = self._next
        if bracket.word != "(":
            raise self._refuse(
                bracket, 'the values of "in" stand in parentheses: x in ("A", "B") or x in (1, 2)'
            )
        self._take()
        values = [self._listed_value()]
        while self._next.word == ",":
            self._take()
            values.append(self._listed_value())
        close = self._close(bracket)
        return Listed(left.at, close.end, left, tuple(values), negated)

    def _listed_value(self) -> NumberOf | TextOf:
        token = self._next
        if token.kind in ("text", "number") or (
            token.word == "-" and self._behind.kind == "number"
        ):
            value = self._operand(_UNARY)
            if isinstance(value, NumberOf | TextOf):
                return value
        raise self._refuse(token, 'only numbers and texts stand in the list of "in"')

    def _held(self, of: Syntax) -> Held:
        token = self._next
        if token.kind != "number" and token.word != "-":
            raise self._refuse(token, 'after "for" stands a duration, such as 5 s')
        duration = self._number() if self._behind.kind == "number" or token.word != "-" else None
        if not isinstance(duration, DurationOf):
            raise self._refuse(
                token,
                f"a duration has a number and one of the units {', '.join(UNITS_NS)}, such as 5 s",
            )
        return Held(of.at, duration.end, of, duration.ns)

    def _close(self, bracket: Token) -> Token:
        if self._next.word == ")":
            return self._take()
        if self._next.kind == "end":
            raise self._refuse(bracket, 'this "(" has no ")"')
        raise self._unexpected()

    def _refuse(self, token: Token, reason: str) -> ConfigError:
        return self._source.refuse(token.at, max(token.end, token.at + 1), reason)

    def _no_value(self) -> ConfigError:
        """Why no operand begins here."""
        token = self._next
        if token.kind == "end":
            return self._refuse(token, "the condition ends where a value must follow")
        hint = ""
        if token.keyword:
            hint = f"; a signal of this name stands in backquotes: {quoted(token.text, '`')}"
            if token.text == "not":
                hint = '; put "not ..." in parentheses'
        elif token.word == "+":
            hint = "; a number needs no sign"
        return self._refuse(token, f'a value must stand here, not "{token.text}"{hint}')

    def _unexpected(self) -> ConfigError:
        """Why what stands here cannot follow what stands before it."""
        token, before = self._next, self._before
        shown = short(self._source.text[token.at : token.end])
        if token.word == ")":
            return self._refuse(token, 'this ")" closes nothing')
        if token.word == ",":
            return self._refuse(
                token, 'a "," separates the arguments of a function or the values of "in"'
            )
        for word in (token, before):
            if word.kind == "name" and not word.keyword and word.text.lower() in KEYWORDS:
                return self._refuse(word, f'write "{word.text.lower()}" in lower case')
        hint = ""
        if before.kind == "number" and token.kind == "name":
            hint = f"; the units of a duration are {', '.join(UNITS_NS)}"
        elif token.kind == "name" and token.text == "is":
            hint = '; write "=="'
        elif token.word == "(":
            hint = "; only a function is followed by parentheses"
        return self._refuse(token, f'an operator must stand before "{shown}"{hint}')

    def _after_comparison(self, left: Syntax) -> ConfigError:
        """What follows a comparison can only be `for`, `and` or `or`."""
        token = self._next
        if isinstance(left, Held):
            return self._refuse(token, f'put the condition before "{token.text}" in parentheses')
        if isinstance(left, Binary) and _POWERS.get(token.word) == _COMPARISON:
            first, second = (self._source.excerpt(s.at, s.end) for s in (left.left, left.right))
            return self._refuse(
                token,
                "comparisons cannot be chained; write "
                f'"{first} {left.operator} {second} and {second} {token.text} ..."',
            )
        return self._refuse(token, f'"{token.text}" cannot follow a comparison')
