"""What is written to what is meant: names become signals, labels raw values, and types are checked.

A number and a condition are never taken for one another: what would be "true" in another language
because it is not 0 is refused, with what to write instead.
"""

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

from agent.collect.expression import labels
from agent.collect.expression.lexer import UNITS_NS, quoted
from agent.collect.expression.names import Names
from agent.collect.expression.parser import (
    MAX_NODES,
    Binary,
    Called,
    DurationOf,
    Held,
    Listed,
    Named,
    NumberOf,
    Span,
    Syntax,
    TextOf,
    TruthOf,
    Unary,
    parse,
    size,
)
from agent.collect.expression.source import Source, short
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
from agent.collect.expression.writing import signals_of
from agent.errors import ConfigError
from agent.signals.database import Database, SignalPath

_NO_VSS: Final[Mapping[str, SignalPath]] = MappingProxyType({})
_MAX_WINDOW_NS: Final = UNITS_NS["h"]

_ARITHMETIC: Final[Mapping[str, Literal["+", "-", "*", "/"]]] = {
    "+": "+",
    "-": "-",
    "*": "*",
    "/": "/",
}
_COMPARISONS: Final[Mapping[str, Literal["<", "<=", ">", ">=", "==", "!="]]] = {
    "<": "<",
    "<=": "<=",
    ">": ">",
    ">=": ">=",
    "==": "==",
    "!=": "!=",
}
_WINDOWS: Final[Mapping[str, Literal["min", "max", "mean", "count", "delta", "rate"]]] = {
    "min": "min",
    "max": "max",
    "mean": "mean",
    "count": "count",
    "delta": "delta",
    "rate": "rate",
}
_EDGES: Final[Mapping[str, Literal["rises", "falls"]]] = {"rises": "rises", "falls": "falls"}
_MEANINGS: Final[Mapping[str, Literal["valid", "not available", "error"]]] = {
    "valid": "valid",
    "unavailable": "not available",
    "faulty": "error",
}
_NUMBERS: Final[Mapping[str, str]] = {
    "abs": "abs(x)",
    "previous": "previous(Signal)",
    **{name: f"{name}(Signal, 10 s)" for name in _WINDOWS},
}
_CONDITIONS: Final[Mapping[str, str]] = {
    **{name: f"{name}(Signal)" for name in _MEANINGS},
    "missing": "missing(Signal, 10 s)",
    "changed": "changed(Signal)",
    **{name: f"{name}(Signal > 5)" for name in _EDGES},
    "bit": "bit(Signal, 3)",
}
_USAGE: Final[Mapping[str, str]] = {**_NUMBERS, **_CONDITIONS}


def compile_condition(
    text: str, database: Database, *, vss: Mapping[str, SignalPath] = _NO_VSS, where: str = ""
) -> Condition:
    """A condition of a plan, with every name in it found.

    `vss` gives the signals of VSS paths, `where` the words before a message.

    Raises:
        ConfigError: it is no condition, or names what does not exist; with the place in the text.
    """
    source = Source(text, where)
    written, nodes = parse(source)
    found = _Binder(source, Names.of(database), vss, nodes).condition(written)
    if not signals_of(found):
        raise source.refuse(
            written.at,
            written.end,
            "the condition names no signal, so it would be the same for ever",
        )
    return found


def compile_number(
    text: str, database: Database, *, vss: Mapping[str, SignalPath] = _NO_VSS, where: str = ""
) -> Numeric:
    """A number that a plan computes, with every name in it found; it may name no signal at all.

    `vss` and `where` are those of `compile_condition`.

    Raises:
        ConfigError: it is no number, or names what does not exist; with the place in the text.
    """
    source = Source(text, where)
    written, nodes = parse(source)
    return _Binder(source, Names.of(database), vss, nodes).number(written)


class _Binder:
    def __init__(
        self, source: Source, names: Names, vss: Mapping[str, SignalPath], nodes: int
    ) -> None:
        self._source = source
        self._names = names
        self._vss = vss
        self._nodes = nodes

    def condition(self, syntax: Syntax) -> Condition:
        match syntax:
            case TruthOf():
                return Truth(syntax.at, syntax.value)
            case Unary(operator="not"):
                return Not(syntax.at, self.condition(syntax.of))
            case Binary(operator="and"):
                return Both(syntax.at, self.condition(syntax.left), self.condition(syntax.right))
            case Binary(operator="or"):
                return Either(syntax.at, self.condition(syntax.left), self.condition(syntax.right))
            case Binary() if syntax.operator in _COMPARISONS:
                return self._comparison(syntax)
            case Listed():
                return self._listed(syntax)
            case Held():
                return For(syntax.at, self.condition(syntax.of), syntax.ns)
            case Called() if syntax.name not in _NUMBERS:
                return self._asked(syntax)
            case _:
                raise self._no_condition(syntax)

    def number(self, syntax: Syntax) -> Numeric:
        match syntax:
            case NumberOf():
                return Number(syntax.at, syntax.value)
            case Named():
                return self._signal(syntax)
            case Unary(operator="-"):
                of = self.number(syntax.of)
                if isinstance(of, Number):
                    return Number(syntax.at, -of.value)
                return Function(syntax.at, "negative", of)
            case Binary() if syntax.operator in _ARITHMETIC:
                return self._arithmetic(syntax)
            case Called() if syntax.name not in _CONDITIONS:
                return self._computed(syntax)
            case _:
                raise self._no_number(syntax)

    def _arithmetic(self, syntax: Binary) -> Arithmetic:
        left, right = self.number(syntax.left), self.number(syntax.right)
        if syntax.operator == "/" and isinstance(right, Number) and right.value == 0:
            raise self._refuse(syntax.right, "a division by 0 is never known")
        return Arithmetic(syntax.at, _ARITHMETIC[syntax.operator], left, right)

    def _computed(self, syntax: Called) -> Numeric:
        """A function that gives a number."""
        self._check_call(syntax)
        if syntax.name == "abs":
            return Function(syntax.at, "abs", self.number(syntax.arguments[0]))
        if syntax.name == "previous":
            return Previous(syntax.at, self._signal_of(syntax))
        of = self._signal_of(syntax)
        duration_ns = self._duration_of(syntax)
        if duration_ns > _MAX_WINDOW_NS:
            raise self._refuse(
                syntax.arguments[1],
                "a window is at most 1 h long, because all samples in it are kept in memory",
            )
        return Window(syntax.at, _WINDOWS[syntax.name], of, duration_ns)

    def _asked(self, syntax: Called) -> Condition:
        """A function that gives a condition."""
        self._check_call(syntax)
        match syntax.name:
            case "missing":
                of = self._signal_of(syntax, payload=True)
                return Missing(syntax.at, of, self._duration_of(syntax))
            case "changed":
                return Changed(syntax.at, self._signal_of(syntax, payload=True))
            case "bit":
                return self._bit(syntax)
            case name if name in _EDGES:
                return Edge(syntax.at, _EDGES[name], self.condition(syntax.arguments[0]))
            case name:
                of = self._signal_of(syntax, payload=name == "valid")
                return Valid(syntax.at, of, _MEANINGS[name])

    def _bit(self, syntax: Called) -> RawIs:
        of = self._signal_of(syntax)
        place = syntax.arguments[1]
        bits = of.schema.bits
        if of.schema.kind not in ("int64", "uint64"):
            raise self._refuse(syntax.arguments[0], f"{of.path} is no whole number and has no bits")
        if (
            not isinstance(place, NumberOf)
            or not place.value.is_integer()
            or not 0 <= place.value < bits
        ):
            raise self._refuse(
                place,
                f"{of.path} has {bits} bits: write a number from 0 (the lowest) to {bits - 1}",
            )
        mask = 1 << int(place.value)
        if of.schema.kind == "int64" and mask >> 63:
            mask = -mask  # the sign, as a signed number of 64 bits has it
        return RawIs(syntax.at, of, frozenset({mask}), mask)

    def _comparison(self, syntax: Binary) -> Condition:
        left, right = syntax.left, syntax.right
        if isinstance(left, TextOf) or isinstance(right, TextOf):
            return self._labelled(syntax)
        for side, other in ((left, right), (right, left)):
            if isinstance(side, TruthOf) and syntax.operator in ("==", "!="):
                raise self._refuse(side, self._without_truth(side, other, syntax.operator))
        for side in (left, right):
            if _is_condition(side):
                raise self._refuse(
                    side,
                    f"{self._excerpt(side)} is a condition, and conditions are not compared; "
                    'join them with "and", "or" and "not"',
                )
        return Compare(
            syntax.at, _COMPARISONS[syntax.operator], self.number(left), self.number(right)
        )

    def _without_truth(self, side: TruthOf, other: Syntax, operator: str) -> str:
        """What to write in place of `x == true`."""
        shown = self._excerpt(other)
        wanted = side.value == (operator == "==")
        if _is_condition(other):
            instead = shown if wanted else f"not {shown}"
        else:
            instead = f"{shown} {'!=' if wanted else '=='} 0"
        return f'nothing is compared with true or false; write "{instead}"'

    def _labelled(self, syntax: Binary) -> Condition:
        """`Gear == "Drive"`."""
        label, other = syntax.left, syntax.right
        if not isinstance(label, TextOf):
            label, other = other, label
        if isinstance(other, TextOf) or not isinstance(label, TextOf):
            raise self._refuse(syntax, "two texts are compared; one side must be a signal")
        if syntax.operator not in ("==", "!="):
            raise self._refuse(label, 'a text has no order; write "==" or "!="')
        of = self._with_labels(other)
        found = RawIs(syntax.at, of, self._raws(of, label))
        return found if syntax.operator == "==" else Not(syntax.at, found)

    def _listed(self, syntax: Listed) -> Condition:
        """`x in (...)`."""
        texts = [value for value in syntax.values if isinstance(value, TextOf)]
        numbers = [value for value in syntax.values if isinstance(value, NumberOf)]
        found: Condition
        if texts and numbers:
            raise self._refuse(
                max(texts[0], numbers[0], key=lambda value: value.at),
                "one list has either texts or numbers",
            )
        if texts:
            of = self._with_labels(syntax.left)
            found = RawIs(
                syntax.at, of, frozenset().union(*(self._raws(of, text) for text in texts))
            )
        else:
            found = self._any_of(syntax, numbers)
        return Not(syntax.at, found) if syntax.negated else found

    def _any_of(self, syntax: Listed, numbers: list[NumberOf]) -> Condition:
        """A comparison with each number: what stands on the left is there several times."""
        self._nodes += (len(numbers) - 1) * (size(syntax.left) + 2)
        if self._nodes > MAX_NODES:
            raise self._refuse(
                syntax,
                f"a condition has at most {MAX_NODES} parts, and this list is a comparison for "
                "each number",
            )
        left = self.number(syntax.left)
        first, *others = (
            Compare(syntax.at, "==", left, Number(number.at, number.value)) for number in numbers
        )
        found: Condition = first
        for other in others:
            found = Either(syntax.at, found, other)
        return found

    def _with_labels(self, syntax: Syntax) -> Signal:
        """A signal that can be compared with texts."""
        reason = "only a signal with a value table is compared with a text"
        if not isinstance(syntax, Named):
            raise self._refuse(syntax, f"{self._excerpt(syntax)} is no signal; {reason}")
        found = self._signal(syntax)
        if not found.schema.choices:
            raise self._refuse(syntax, f"{found.path} has no value table; {reason}")
        return found

    def _raws(self, of: Signal, label: TextOf) -> frozenset[int]:
        raws = labels.raws_of(of.schema, label.text)
        if not raws:
            raise self._refuse(
                label,
                f"{of.path} has no value {quoted(short(label.text))}; "
                f"there are: {labels.shown(of.schema, label.text)}",
            )
        return raws

    def _signal(self, syntax: Named, *, payload: bool = False) -> Signal:
        try:
            path, schema = self._names.find(syntax.name, self._vss)
        except ConfigError as e:
            raise self._refuse(syntax, str(e)) from None
        if schema.kind == "bytes" and not payload:
            raise self._refuse(
                syntax,
                f"{path} holds bytes and not a number; only changed(), valid() and missing() "
                "take it",
            )
        return Signal(syntax.at, path, schema)

    def _check_call(self, syntax: Called) -> None:
        """Is there such a function, with so many arguments?"""
        usage = _USAGE.get(syntax.name)
        if usage is None:
            near = difflib.get_close_matches(syntax.name[:40].lower(), _USAGE, 1)
            known = f"write {_USAGE[near[0]]}" if near else f"there are: {', '.join(_USAGE)}"
            raise self._refuse(syntax, f'no function is called "{short(syntax.name)}"; {known}')
        wanted, given = usage.count(",") + 1, len(syntax.arguments)
        if wanted != given:
            values = "1 argument" if wanted == 1 else f"{wanted} arguments"
            window = "; a window has an end" if syntax.name in _WINDOWS and given == 1 else ""
            raise self._refuse(
                syntax, f"{syntax.name}() takes {values}, not {given}: {usage}{window}"
            )

    def _signal_of(self, call: Called, *, payload: bool = False) -> Signal:
        """The first argument."""
        given = call.arguments[0]
        if isinstance(given, Named):
            return self._signal(given, payload=payload)
        hint = "a name stands without quotes" if isinstance(given, TextOf) else "not an expression"
        raise self._refuse(
            given, f"{call.name}() takes a signal itself, {hint}: {_USAGE[call.name]}"
        )

    def _duration_of(self, call: Called) -> int:
        """The second argument, in ns."""
        given = call.arguments[1]
        if isinstance(given, DurationOf):
            return given.ns
        if isinstance(given, NumberOf):
            reason = f"a duration has a unit: {', '.join(UNITS_NS)}"
        else:
            reason = f"{call.name}() takes a signal and a duration: {_USAGE[call.name]}"
        raise self._refuse(given, reason)

    def _no_condition(self, syntax: Syntax) -> ConfigError:
        """Why it is none, and what may have been meant."""
        shown = self._excerpt(syntax)
        match syntax:
            case TextOf():
                reason = 'a text is no condition; write such as Gear == "Drive"'
            case DurationOf():
                reason = 'a duration stands after "for" or in a function'
            case NumberOf():
                reason = f"{shown} is a number, not a condition; compare a signal with it"
            case Named():
                of = self._signal(syntax)
                reason = f'{shown} is a number, not a condition; write "{shown} != 0"'
                if of.schema.choices:
                    label = quoted(short(of.schema.choices[0][1], 40))
                    reason += f" or such as {shown} == {label}"
            case _:
                reason = f'{shown} is a number, not a condition; write "{shown} != 0"'
        return self._refuse(syntax, reason)

    def _no_number(self, syntax: Syntax) -> ConfigError:
        match syntax:
            case TextOf():
                reason = 'a text is no number; a signal is compared with it by "==" or "!="'
            case DurationOf():
                reason = 'a duration stands after "for" or in a function'
            case _:
                reason = f"{self._excerpt(syntax)} is a condition, not a number"
        return self._refuse(syntax, reason)

    def _excerpt(self, syntax: Syntax) -> str:
        return self._source.excerpt(syntax.at, syntax.end)

    def _refuse(self, syntax: Span, reason: str) -> ConfigError:
        return self._source.refuse(syntax.at, syntax.end, reason)


def _is_condition(syntax: Syntax) -> bool:
    match syntax:
        case TruthOf() | Listed() | Held() | Unary(operator="not"):
            return True
        case Binary():
            return syntax.operator not in _ARITHMETIC
        case Called():
            return syntax.name in _CONDITIONS
        case _:
            return False
