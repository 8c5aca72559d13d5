"""The trees of many conditions as one list of expressions, equal ones once.

Expressions are known by a digest of what they mean, made of the digests of their parts: equal in
two runs, so state can be kept by it. Nothing here recurses: a long chain of `and` is a deep tree.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from agent.blocks import SignalSchema
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
    Node,
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

_OF_VALUE = (Arithmetic, Function, Compare)
LEVEL = {"int64": 0, "uint64": 0, "float32": 1, "float64": 1, "bytes": 2}
"""Of the kinds of signals: whole numbers, floats, bytes."""


def parts(node: Node) -> tuple[Node, ...]:
    """The expressions of which one is made."""
    match node:
        case Arithmetic() | Compare() | Both() | Either():
            return (node.left, node.right)
        case Number() | Truth() | Signal():
            return ()
        case (
            Function()
            | Previous()
            | Window()
            | RawIs()
            | Valid()
            | Missing()
            | Changed()
            | Edge()
            | For()
            | Not()
        ):
            return (node.of,)
    raise TypeError(f"{type(node).__name__} is no part of a condition")


def _own(node: Node) -> object:
    """What a node says besides its parts."""
    match node:
        case Number():
            return repr(float(node.value))
        case Truth():
            return node.value
        case Signal():
            return (node.path.bus, node.path.message, node.path.signal)
        case Arithmetic() | Compare():
            return node.operator
        case Function() | Edge():
            return node.name
        case Window():
            return (node.name, node.duration_ns)
        case For() | Missing():
            return node.duration_ns
        case RawIs():
            return (sorted(node.raws), node.mask)
        case Valid():
            return node.meaning
    return None


def _post_order(root: Node) -> Iterator[Node]:
    """Every node after its parts."""
    stack = [(root, False)]
    while stack:
        node, seen = stack.pop()
        if seen:
            yield node
            continue
        stack.append((node, True))
        stack += [(part, False) for part in reversed(parts(node))]


def _digest(node: Node, of_parts: Iterable[str]) -> str:
    text = json.dumps([type(node).__name__, _own(node), *of_parts])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def digest(tree: Condition) -> str:
    """A name for what a condition means, wherever it stands in a text."""
    found: dict[int, str] = {}
    for node in _post_order(tree):
        found[id(node)] = _digest(node, [found[id(part)] for part in parts(node)])
    return found[id(tree)]


def paths(tree: Condition) -> set[SignalPath]:
    """The signals of a condition."""
    return {node.path for node in _post_order(tree) if isinstance(node, Signal)}


class Program:
    """Expressions in an order in which each comes after its parts.

    `numbers` begin with the signals: first those of whole numbers, then floats, then bytes. Their
    places are the numbers of the slots in which the values of signals are held.
    """

    def __init__(self, trees: Sequence[Condition]) -> None:
        """Join the trees.

        Raises:
            ValueError: a duration that is not positive, or bytes that are used as a number.
        """
        signals: dict[SignalPath, Signal] = {}
        for tree in trees:
            for node in _post_order(tree):
                _check(node)
                if isinstance(node, Signal):
                    signals.setdefault(node.path, node)
        self.signals = sorted(signals.values(), key=lambda s: LEVEL[s.schema.kind])
        self.slot = {signal.path: number for number, signal in enumerate(self.signals)}
        kinds = [LEVEL[s.schema.kind] for s in self.signals]
        self.whole = kinds.count(0)
        """How many signals are whole numbers."""
        self.floats = kinds.count(1)
        schemas = [s.schema for s in self.signals]
        self.scale = np.array([float(s.scale) for s in schemas], np.float64)
        self.offset = np.array([float(s.offset) for s in schemas], np.float64)
        self.plain = np.array([_is_plain(s) for s in schemas], bool)
        """Whether raw * scale + offset in float64 is what `SignalSchema.physical` gives."""
        self.coded = np.array([bool(s.codes) for s in schemas], bool)
        self.numbers: list[Numeric] = list(self.signals)
        self.conditions: list[Condition] = []
        self.number_parts: list[tuple[int, ...]] = [()] * len(self.signals)
        self.condition_parts: list[tuple[int, ...]] = []
        """Places in `numbers` for compared values and signals, in `conditions` for the others."""
        self.digests: list[str] = []
        """Of `conditions`."""
        self.place: dict[str, int] = {}
        """By digest; numbers and conditions each have their own counting."""
        self._below: dict[int, list[int]] = {}
        self.roots = [self._add(tree) for tree in trees]

    def _add(self, tree: Condition) -> int:
        found: dict[int, tuple[str, int]] = {}
        for node in _post_order(tree):
            known = [found[id(part)] for part in parts(node)]
            name = _digest(node, [of for of, _ in known])
            if name not in self.place:
                self.place[name] = self._append(node, name, tuple(place for _, place in known))
            found[id(node)] = (name, self.place[name])
        return found[id(tree)][1]

    def _append(self, node: Node, name: str, places: tuple[int, ...]) -> int:
        if isinstance(node, Signal):
            return self.slot[node.path]
        if isinstance(node, Condition):
            self.conditions.append(node)
            self.condition_parts.append(places)
            self.digests.append(name)
            return len(self.conditions) - 1
        if isinstance(node, Numeric):
            self.numbers.append(node)
            self.number_parts.append(places)
            return len(self.numbers) - 1
        raise TypeError(f"{type(node).__name__} is no part of a condition")

    def of_type(self, kind: type[Node]) -> list[int]:
        """The places of conditions of one type."""
        return [place for place, node in enumerate(self.conditions) if isinstance(node, kind)]

    def slots_below(self, condition: int) -> list[int]:
        """The slots of all signals in a condition."""
        if condition not in self._below:
            found = paths(self.conditions[condition])
            self._below[condition] = sorted(self.slot[path] for path in found)
        return self._below[condition]


def _is_plain(schema: SignalSchema) -> bool:
    wide = schema.kind == "uint64" and schema.bits > 63  # held as bits of int64
    return schema.kind != "bytes" and not wide and not schema.needs_whole_arithmetic


def _check(node: Node) -> None:
    if isinstance(node, Window | Missing | For) and node.duration_ns <= 0:
        raise ValueError(f"a duration of {node.duration_ns} ns is not positive")
    needs = parts(node) if isinstance(node, _OF_VALUE) else ()
    if isinstance(node, Previous | Window | RawIs):
        needs = (node.of,)
    for part in needs:
        if isinstance(part, Signal) and part.schema.kind == "bytes":
            raise ValueError(f"{part.path} holds bytes, not a number")
