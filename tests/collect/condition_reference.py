"""Conditions one moment at a time, over the whole history: slow, and as the words say.

Nothing is shared with the evaluator but the tree, and `SignalSchema` for physical values.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from agent.blocks import SignalSchema
from agent.collect.expression import tree as t
from agent.signals.database import SignalPath

Truth = bool | None
"""None is unknown, of numbers, too."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table."""

    bus: str
    message: str
    time: int
    raws: Mapping[str, Any]
    source: int | None = None
    branch: str = ""


@dataclasses.dataclass(frozen=True)
class Sample:
    time: int
    raw: Any
    value: float | None
    """Physical; None where it is unknown."""
    validity: int


def sample(schema: SignalSchema, time: int, raw: Any) -> Sample:
    if schema.kind == "bytes":
        return Sample(time, raw, 0.0, 0)
    array = np.array([raw], schema.kind)
    validity = int(schema.validity(array)[0])
    value: float | None = float(schema.physical(array)[0])
    if validity or math.isnan(value or 0.0):
        value = None
    return Sample(time, array[0], value, validity)


def same_raw(one: Any, other: Any) -> bool:
    return one.tobytes() == other.tobytes() if isinstance(one, np.generic) else bool(one == other)


def signals(node: Any) -> set[t.Signal]:
    if isinstance(node, t.Signal):
        return {node}
    fields = [getattr(node, f.name) for f in dataclasses.fields(node)]
    return {s for part in fields if isinstance(part, t.Node) for s in signals(part)}


class Reference:
    """One condition."""

    def __init__(self, root: t.Condition, rows: Iterable[Row], began: int) -> None:
        self._root = root
        self._began = began
        self._now = began
        self._samples: dict[SignalPath, list[Sample]] = {}
        order = sorted(
            rows, key=lambda r: (r.time, r.bus, -1 if r.source is None else r.source, r.branch)
        )
        for signal in signals(root):
            bus, message, name = signal.path.bus, signal.path.message, signal.path.signal
            self._samples[signal.path] = [
                sample(signal.schema, row.time, row.raws[name])
                for row in order
                if row.message == message and bus in {"*", row.bus} and name in row.raws
            ]
        self._since: dict[int, int] = {}
        self._was: dict[int, tuple[int, Truth]] = {}
        """Of the operand of each edge: when it was looked at last, and what it was."""
        self._before: dict[int, Truth] = {}
        self._deadlines: list[int] = []

    def steps(self, end: int) -> list[int]:
        """When the truth changes, first to true."""
        self._now = self._began - 1  # before the first look, nothing has come
        self._look(self._root)
        found = []
        holds = False
        moment: int | None = self._began
        while moment is not None and moment <= end:
            self._now = moment
            self._deadlines = []
            if (self._look(self._root) is True) != holds:
                holds = not holds
                found.append(moment)
            times = [s.time for of in self._samples.values() for s in of]
            later = [time for time in times + self._deadlines if time > moment]
            moment = min(later, default=None)
        return found

    def _so_far(self, signal: t.Signal) -> list[Sample]:
        return [s for s in self._samples[signal.path] if s.time <= self._now]

    # Numbers

    def _number(self, node: t.Numeric) -> float | None:
        value = self._any_number(node)
        return None if value is None or math.isnan(value) else value

    def _any_number(self, node: t.Numeric) -> float | None:
        match node:
            case t.Number():
                return node.value
            case t.Signal():
                so_far = self._so_far(node)
                return so_far[-1].value if so_far else None
            case t.Previous():
                so_far = self._so_far(node.of)
                return so_far[-2].value if len(so_far) > 1 else None
            case t.Function():
                of = self._number(node.of)
                if of is None:
                    return None
                return abs(of) if node.name == "abs" else -of
            case t.Arithmetic():
                left, right = self._number(node.left), self._number(node.right)
                if left is None or right is None:
                    return None
                if node.operator == "/":
                    return left / right if right != 0 else None
                return {"+": left + right, "-": left - right, "*": left * right}[node.operator]
        return self._window(node)

    def _window(self, node: t.Window) -> float | None:
        begin = self._now - node.duration_ns
        inside = [s for s in self._so_far(node.of) if s.time > begin and s.value is not None]
        self._deadlines += [s.time + node.duration_ns for s in inside]
        values = [s.value for s in inside if s.value is not None]
        if node.name == "count":
            return len(values)
        if not values:
            return None
        match node.name:
            case "min":
                return min(values)
            case "max":
                return max(values)
            case "mean":
                schema = node.of.schema
                if schema.kind.startswith("float"):
                    return sum(values) / len(values)
                total = sum(int(s.raw) for s in inside)
                return float(total) / len(values) * float(schema.scale) + float(schema.offset)
            case "delta":
                return values[-1] - values[0]
        lasted = inside[-1].time - inside[0].time
        return (values[-1] - values[0]) / (lasted / 1e9) if lasted else None

    # Conditions

    def _look(self, node: t.Condition) -> Truth:
        match node:
            case t.Truth():
                return node.value
            case t.Not():
                return negated(self._look(node.of))
            case t.Both():
                return both(self._look(node.left), self._look(node.right))
            case t.Either():
                left, right = self._look(node.left), self._look(node.right)
                return negated(both(negated(left), negated(right)))
            case t.Compare():
                return compare(node.operator, self._number(node.left), self._number(node.right))
            case t.For():
                return self._for(node)
            case t.Edge():
                return self._edge(node)
        return self._of_signal(node)

    def _of_signal(self, node: t.RawIs | t.Valid | t.Missing | t.Changed) -> Truth:
        so_far = self._so_far(node.of)
        match node:
            case t.Missing():
                last = so_far[-1].time if so_far else self._began
                self._deadlines.append(last + node.duration_ns)
                return self._now - last >= node.duration_ns
            case t.RawIs():
                if not so_far:
                    return None
                raw = so_far[-1].raw.item()
                if node.mask is not None:
                    raw &= node.mask
                return raw in node.raws
            case t.Valid():
                if not so_far:
                    return False
                if node.meaning == "valid":
                    return so_far[-1].value is not None
                return so_far[-1].validity == {"not available": 1, "error": 2}[node.meaning]
        return self._for_a_moment(
            any(
                one.time == self._now and not same_raw(one.raw, before.raw)
                for before, one in itertools.pairwise(so_far)
            )
        )

    def _for_a_moment(self, truth: bool) -> bool:
        if truth:
            self._deadlines.append(self._now + 1)
        return truth

    def _for(self, node: t.For) -> bool:
        if self._look(node.of) is not True:
            self._since.pop(id(node), None)
            return False
        since = self._since.setdefault(id(node), max(self._now, self._began))
        self._deadlines.append(since + node.duration_ns)
        return self._now - since >= node.duration_ns

    def _edge(self, node: t.Edge) -> bool:
        truth = self._look(node.of)
        moment, was = self._was.get(id(node), (self._now, truth))
        if moment == self._now:  # the same edge stands in the condition twice
            was = self._before.get(id(node), truth)
        self._before[id(node)] = was
        self._was[id(node)] = (self._now, truth)
        return self._for_a_moment(self._is_edge(node, was, truth))

    def _is_edge(self, node: t.Edge, was: Truth, truth: Truth) -> bool:
        if truth is not (node.name == "rises") or was is truth:
            return False
        if was is not None:
            return True
        firsts = [of[0].time for s in signals(node.of) if (of := self._samples[s.path])]
        return bool(firsts) and self._now > min(firsts)


def both(left: Truth, right: Truth) -> Truth:
    if left is False or right is False:
        return False
    return None if left is None or right is None else True


def negated(truth: Truth) -> Truth:
    return None if truth is None else not truth


def compare(operator: str, left: float | None, right: float | None) -> Truth:
    if left is None or right is None:
        return None
    match operator:
        case "<":
            return left < right
        case "<=":
            return left <= right
        case ">":
            return left > right
        case ">=":
            return left >= right
        case "==":
            return left == right
    return left != right


def expected(root: t.Condition, rows: Sequence[Row]) -> list[int]:
    """When a condition changes, of everything that came on all buses."""
    buses = {s.path.bus for s in signals(root)}
    if "*" in buses or not buses:
        buses = {row.bus for row in rows}
    begins = [row.time for row in rows if row.bus in buses]
    if not begins:
        return []
    return Reference(root, rows, min(begins)).steps(max(row.time for row in rows))
