"""How one value of a report is made at a moment: the kinds of terms that a mapping compiles to.

A term gives a double, NaN where nothing is known: before the first sample, where the last one is a
code, and where it is older than the term may use (`stale_ns`).
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64
from agent.collect.expression.tree import Arithmetic, Function, Number, Numeric, Signal
from agent.collect.measures import Column
from agent.collect.reports.held import Held

NAN = math.nan
Computation = Callable[[Sequence[float]], float]


class Moment:
    """What is known at one moment."""

    def __init__(self, held: Held, truths: Mapping[str, bool], time_ns: int) -> None:
        """`truths` has every condition of the mapping at `time_ns`."""
        self._held = held
        self.truths = truths
        self._age = time_ns - held.time
        self._known: dict[int, tuple[Float64, list[float]]] = {}

    def values(self, stale_ns: int) -> Float64:
        """float64[slots], NaN for what is older."""
        return self._of(stale_ns)[0]

    def numbers(self, stale_ns: int) -> Sequence[float]:
        """The same, for single values."""
        return self._of(stale_ns)[1]

    def is_fresh(self, slots: NDArray[np.intp], stale_ns: int) -> bool:
        """Whether any of these was heard not longer ago, even if what came was no value."""
        return bool((self._age[slots] <= stale_ns).any())

    def _of(self, stale_ns: int) -> tuple[Float64, list[float]]:
        if stale_ns not in self._known:
            values = np.where(self._age <= stale_ns, self._held.value, np.nan)
            self._known[stale_ns] = values, values.tolist()
        return self._known[stale_ns]


class Term(Protocol):
    """Makes a value."""

    def at(self, moment: Moment) -> float:
        """NaN where it is not known."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Constant:
    value: float

    def at(self, moment: Moment) -> float:
        return self.value


@dataclasses.dataclass(frozen=True, slots=True)
class Read:
    """A signal's last value in the field's unit."""

    column: Column
    stale_ns: int

    def at(self, moment: Moment) -> float:
        column = self.column
        value = moment.numbers(self.stale_ns)[column.slot]
        return value * column.above / column.below + column.offset


@dataclasses.dataclass(frozen=True, slots=True)
class Looked:
    """What a table says of a signal's last raw value; codes are raw values as any other here."""

    slot: int
    table: Mapping[float, float]
    otherwise: float
    stale_ns: int

    def at(self, moment: Moment) -> float:
        raw = moment.numbers(self.stale_ns)[self.slot]
        return NAN if math.isnan(raw) else self.table.get(raw, self.otherwise)


@dataclasses.dataclass(frozen=True, slots=True)
class Computed:
    """An expression; each signal in it stands in its own unit, the result in the field's."""

    compute: Computation
    above: float
    below: float
    offset: float
    stale_ns: int

    def at(self, moment: Moment) -> float:
        value = self.compute(moment.numbers(self.stale_ns))
        return value * self.above / self.below + self.offset


@dataclasses.dataclass(frozen=True, slots=True)
class Flag:
    """1 where a condition holds, 0 where it does not."""

    condition: str

    def at(self, moment: Moment) -> float:
        return float(moment.truths[self.condition])


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One of several conditions, with the slots of what it reads.

    It says something while any of these is fresh. One that asks for what is missing always does.
    """

    condition: str
    value: float
    slots: NDArray[np.intp]
    always: bool

    def speaks(self, moment: Moment, stale_ns: int) -> bool:
        return self.always or moment.is_fresh(self.slots, stale_ns)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """The value of the first condition that is true."""

    cases: tuple[Case, ...]
    otherwise: float
    stale_ns: int

    def at(self, moment: Moment) -> float:
        speaking = [case for case in self.cases if case.speaks(moment, self.stale_ns)]
        for case in speaking:
            if moment.truths[case.condition]:
                return case.value
        return self.otherwise if speaking else NAN


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """The last values of several signals, in the field's unit and in the order of the plan."""

    slots: NDArray[np.intp]
    above: Float64
    below: Float64
    offset: Float64
    stale_ns: int

    @classmethod
    def of(cls, columns: Sequence[Column], stale_ns: int) -> "Series":
        return cls(
            np.array([c.slot for c in columns], np.intp),
            np.array([c.above for c in columns], np.float64),
            np.array([c.below for c in columns], np.float64),
            np.array([c.offset for c in columns], np.float64),
            stale_ns,
        )

    def at(self, moment: Moment) -> Float64:
        """float64[n], NaN where it is not known."""
        values: Float64 = moment.values(self.stale_ns)[self.slots]
        return values * self.above / self.below + self.offset


def computation(node: Numeric, slot_of: Callable[[Signal], int]) -> Computation:
    """A tree as a function of the values of all slots.

    Raises:
        TypeError: what looks at more than the last value of a signal.
    """
    match node:
        case Number(value=value):
            return lambda _: value
        case Signal():
            slot = slot_of(node)
            return lambda values: values[slot]
        case Function(name=name):
            of = computation(node.of, slot_of)
            if name == "abs":
                return lambda values: abs(of(values))
            return lambda values: -of(values)
        case Arithmetic():
            left, right = computation(node.left, slot_of), computation(node.right, slot_of)
            return _arithmetic(node, left, right)
        case _:
            raise TypeError(f"{type(node).__name__} is more than the last value of a signal")


def _arithmetic(node: Arithmetic, left: Computation, right: Computation) -> Computation:
    match node.operator:
        case "+":
            return lambda values: left(values) + right(values)
        case "-":
            return lambda values: left(values) - right(values)
        case "*":
            return lambda values: left(values) * right(values)
        case _:
            return lambda values: _divided(left(values), right(values))


def _divided(above: float, below: float) -> float:
    """A division by zero is unknown, as in conditions."""
    return above / below if below else NAN
