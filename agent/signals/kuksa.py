"""Mapping files of the Kuksa CAN provider (`vss_dbc.json`): which VSS path is which CAN signal.

The file is a VSS tree in JSON. Branches have `children`; a leaf is a `sensor`, `actuator` or
`attribute`, and one that is mapped has

    "dbc2vss": {"signal": NAME, "interval_ms": N, "on_change": B,
                "transform": ..., "multiplexer": ...}

or, in older files, the same as `dbc`. Without `interval_ms` it is 1000, or 0 with `on_change`.
`transform` is {"math": an expression of x} or {"mapping": [{"from": A, "to": B}, ...]}, and x is
the physical value; `multiplexer` lists other signals of the frame with the values that select this
one. `vss2dbc` is the way back, to a bus. A dict without a type is looked into and gives no name, as
the provider does it.

(mapping/README.md and dbcfeederlib/dbc2vssmapper.py of eclipse-kuksa/kuksa-can-provider.)
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from agent.errors import ConfigError

__all__ = ["Mapped", "Tree", "linear", "read"]

_MOST_BYTES = 64 << 20
_DAY_MS = 86_400_000
_LEAVES = ("sensor", "actuator", "attribute")
_LONGEST = 1000
"""Characters of an expression."""
_DEEPEST = 50


@dataclasses.dataclass(frozen=True)
class Mapped:
    """One leaf that is read from a bus."""

    path: str
    signal: str
    interval_ms: int = 1000
    on_change: bool = False
    unit: str = ""
    math: str = ""
    values: tuple[tuple[Any, Any], ...] = ()
    """Of a mapping: from, to."""
    selected_by: tuple[tuple[str, int], ...] = ()
    """Multiplexers and their values."""


@dataclasses.dataclass(frozen=True)
class Tree:
    mapped: tuple[Mapped, ...]
    written: tuple[str, ...]
    """Paths that are written to a bus."""


def read(path: Path) -> Tree:
    """Read a mapping file.

    Raises:
        ConfigError: it cannot be read, is no JSON, or something in it is not what it has to be.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror}") from e
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{path}: is larger than {_MOST_BYTES >> 20} MB; that is no mapping file")
    try:
        tree = json.loads(data.decode("utf-8-sig"))
    except RecursionError as e:
        raise ConfigError(f"{path}: is nested too deeply") from e
    except ValueError as e:
        raise ConfigError(f"{path}: is not valid JSON: {e}") from e
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: is no VSS tree: it has to be a JSON object")
    mapped, written = [], []
    try:
        for name, leaf in _leaves(tree):
            if (entry := _mapped(name, leaf)) is not None:
                mapped.append(entry)
            if "vss2dbc" in leaf:
                written.append(name)
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from e
    return Tree(tuple(mapped), tuple(written))


def _leaves(tree: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names with dots, and leaves, in the order of the file."""
    waiting: list[tuple[str, str, Any]] = [("", name, node) for name, node in tree.items()][::-1]
    while waiting:
        prefix, name, node = waiting.pop()
        if not isinstance(node, dict):
            continue
        kind = node.get("type")
        if kind in _LEAVES:
            yield prefix + name, node
            continue
        inside = node
        if kind == "branch" or isinstance(node.get("children"), dict):
            prefix = f"{prefix}{name}."
            inside = node.get("children", {})
            if not isinstance(inside, dict):
                raise ConfigError(f'{_quoted(prefix[:-1])}: "children" is no object')
        waiting += [(prefix, child, each) for child, each in inside.items()][::-1]


def _mapped(path: str, leaf: dict[str, Any]) -> Mapped | None:
    keys = [key for key in ("dbc2vss", "dbc") if key in leaf]
    if not keys:
        return None
    where = _quoted(path)
    if len(keys) > 1:
        raise ConfigError(f'{where}: has both "dbc2vss" and "dbc", which are the same')
    key = keys[0]
    entry = leaf[key]
    if not isinstance(entry, dict):
        raise ConfigError(f'{where}: "{key}" is no object')
    signal = entry.get("signal")
    if not isinstance(signal, str) or not signal:
        raise ConfigError(f'{where}: "signal" is missing in "{key}", or no text')
    on_change = entry.get("on_change", False)
    if not isinstance(on_change, bool):
        raise ConfigError(f'{where}: "on_change" is neither true nor false')
    interval = entry.get("interval_ms", 0 if on_change else 1000)
    if not _is_whole(interval) or not 0 <= interval <= _DAY_MS:
        raise ConfigError(f'{where}: "interval_ms" is no whole number from 0 to {_DAY_MS}')
    unit = leaf.get("unit", "")
    if not isinstance(unit, str):
        raise ConfigError(f'{where}: "unit" is no text')
    math, values = _transform(where, entry.get("transform"))
    selected_by = _multiplexers(where, entry.get("multiplexer", []))
    return Mapped(path, signal, interval, on_change, unit, math, values, selected_by)


def _transform(where: str, transform: Any) -> tuple[str, tuple[tuple[Any, Any], ...]]:
    if transform is None:
        return "", ()
    if not isinstance(transform, dict) or ("math" in transform) == ("mapping" in transform):
        raise ConfigError(f'{where}: "transform" has to have "math" or "mapping"')
    if "math" in transform:
        if not isinstance(transform["math"], str):
            raise ConfigError(f'{where}: "math" is no text')
        return transform["math"], ()
    values = transform["mapping"]
    if not isinstance(values, list) or not all(
        isinstance(v, dict) and "from" in v and "to" in v for v in values
    ):
        raise ConfigError(f'{where}: "mapping" is no list of objects with "from" and "to"')
    return "", tuple((v["from"], v["to"]) for v in values)


def _multiplexers(where: str, entries: Any) -> tuple[tuple[str, int], ...]:
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("signal"), str) and _is_whole(e.get("value"))
        for e in entries
    ):
        raise ConfigError(f'{where}: "multiplexer" is no list of "signal" and a whole "value"')
    return tuple((e["signal"], e["value"]) for e in entries)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _quoted(text: str) -> str:
    """Any text, fit to be shown on one line."""
    shown = text if text.isprintable() else json.dumps(text)
    return shown if len(shown) <= 200 else f"{shown[:200]}..."


# -- expressions -----------------------------------------------------------------------------

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d{1,30}\.?\d{0,30}|\.\d{1,30})(?:[eE][+-]?\d{1,2})?)(?![\w.])"
    r"|(?P<x>x)(?!\w)|(?P<sign>[-+*/()]))"
)

_Line = tuple[Fraction, Fraction]
"""a and b of a * x + b."""


class _NotLinearError(Exception):
    pass


def linear(text: str) -> tuple[Fraction, Fraction] | None:
    """Factor and offset of an expression such as `(x - 32) * 5 / 9`; None where it is no line.

    Numbers, `x`, `+ - * /` and parentheses; nothing is evaluated but these.
    """
    if len(text) > _LONGEST:
        return None
    try:
        return _Expression(text).whole()
    except _NotLinearError:
        return None


class _Expression:
    """A sum of products of factors; a factor is a number, x, a sum in parentheses, or signed."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str]] = []
        at, end = 0, len(text.rstrip())
        while at < end:
            match = _TOKEN.match(text, at)
            if match is None:
                raise _NotLinearError
            self._tokens.append((match.lastgroup or "", match[match.lastgroup or 0]))
            at = match.end()
        self._at = 0
        self._depth = 0

    def whole(self) -> _Line:
        found = self._sum()
        if self._at != len(self._tokens):
            raise _NotLinearError
        return found

    def _next(self, signs: str) -> str:
        """The next sign if it is one of these, and past it; empty otherwise."""
        if self._at < len(self._tokens):
            kind, text = self._tokens[self._at]
            if kind == "sign" and text in signs:
                self._at += 1
                return text
        return ""

    def _sum(self) -> _Line:
        a, b = self._product()
        while sign := self._next("+-"):
            c, d = self._product()
            a, b = (a + c, b + d) if sign == "+" else (a - c, b - d)
        return a, b

    def _product(self) -> _Line:
        a, b = self._factor()
        while sign := self._next("*/"):
            c, d = self._factor()
            if sign == "/":
                if c or not d:
                    raise _NotLinearError
                a, b = a / d, b / d
            elif a and c:
                raise _NotLinearError
            else:
                a, b = a * d + b * c, b * d
        return a, b

    def _factor(self) -> _Line:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise _NotLinearError
        try:
            if sign := self._next("+-"):
                a, b = self._factor()
                return (a, b) if sign == "+" else (-a, -b)
            if self._next("("):
                found = self._sum()
                if not self._next(")"):
                    raise _NotLinearError
                return found
            if self._at == len(self._tokens):
                raise _NotLinearError
            kind, text = self._tokens[self._at]
            self._at += 1
            if kind == "x":
                return Fraction(1), Fraction(0)
            if kind == "number":
                return Fraction(0), Fraction(text)
            raise _NotLinearError
        finally:
            self._depth -= 1
