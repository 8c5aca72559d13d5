"""A condition as a tree, after every name in it was found in the database.

Numbers are physical values (raw * scale + offset, in the signal's unit). A number is *unknown*
before the signal's first sample and where its raw value is a code (not available, error, reserved)
or NaN. What is computed or compared with something unknown is unknown; `and`, `or` and `not` follow
Kleene: false and unknown is false, true or unknown is true. A condition holds where it is true.

Durations are whole nanoseconds. `at` is the position in the text, counted from 0, for messages.
"""

import dataclasses
from typing import Literal

from agent.blocks import SignalSchema
from agent.signals.database import SignalPath


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """Nodes compare by what they mean, not by where they stand in a text."""

    at: int = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Number(Node):
    value: float


@dataclasses.dataclass(frozen=True, slots=True)
class Truth(Node):
    value: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Signal(Node):
    """The signal's last physical value, held from its time until the next sample.

    A path of bus `*` means the message on any bus; samples of several buses or J1939 sources are
    one series, in the order of time.
    """

    path: SignalPath
    schema: SignalSchema = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Arithmetic(Node):
    """Of two numbers. A division by zero is unknown."""

    operator: Literal["+", "-", "*", "/"]
    left: "Numeric"
    right: "Numeric"


@dataclasses.dataclass(frozen=True, slots=True)
class Function(Node):
    """`-x` and `abs(x)`."""

    name: Literal["negative", "abs"]
    of: "Numeric"


@dataclasses.dataclass(frozen=True, slots=True)
class Previous(Node):
    """`previous(x)`: the physical value of the sample before the last one of a signal."""

    of: Signal


@dataclasses.dataclass(frozen=True, slots=True)
class Window(Node):
    """`mean(x, 5 s)`: over the valid samples of a signal with t - duration < time <= t.

    min, max, mean; count (0 where there are none; the others are unknown then); delta, the last
    less the first; rate, delta by the seconds between them (unknown with fewer than two times).
    A window is looked at when a sample of any signal of the condition comes, and also when a sample
    leaves it.
    """

    name: Literal["min", "max", "mean", "count", "delta", "rate"]
    of: Signal
    duration_ns: int


@dataclasses.dataclass(frozen=True, slots=True)
class Compare(Node):
    operator: Literal["<", "<=", ">", ">=", "==", "!="]
    left: "Numeric"
    right: "Numeric"


@dataclasses.dataclass(frozen=True, slots=True)
class RawIs(Node):
    """`Gear == "Drive"`, `Gear in ("Drive", "Reverse")`, `bit(Flags, 3)`.

    Whether `(raw & mask) in raws`, with raw as it is on the bus (`mask` None takes all of it; only
    with unsigned or signed whole numbers). Unknown before the first sample; codes count like any
    raw value here, because labels name them, too.
    """

    of: Signal
    raws: frozenset[int]
    mask: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Valid(Node):
    """`valid(x)`, `unavailable(x)`, `faulty(x)`: what the last sample says; false before the first.

    `meaning` is valid (no code, no NaN), not available or error.
    """

    of: Signal
    meaning: Literal["valid", "not available", "error"] = "valid"


@dataclasses.dataclass(frozen=True, slots=True)
class Missing(Node):
    """`missing(x, 2 s)`: no sample since `duration_ns`, from exactly then on.

    A signal that was never seen is missing from `duration_ns` after the first look on.
    """

    of: Signal
    duration_ns: int


@dataclasses.dataclass(frozen=True, slots=True)
class Changed(Node):
    """`changed(x)`: true at the moment of a sample whose raw value differs from the one before."""

    of: Signal


@dataclasses.dataclass(frozen=True, slots=True)
class Edge(Node):
    """`rises(c)`, `falls(c)`: true at the moment at which a condition becomes true, or false.

    From unknown to true, or to false, is an edge, too, except at the first moment of all.
    """

    name: Literal["rises", "falls"]
    of: "Condition"


@dataclasses.dataclass(frozen=True, slots=True)
class For(Node):
    """`c for 5 s`: true from the moment at which c has been true for so long, until it ends."""

    of: "Condition"
    duration_ns: int


@dataclasses.dataclass(frozen=True, slots=True)
class Not(Node):
    of: "Condition"


@dataclasses.dataclass(frozen=True, slots=True)
class Both(Node):
    """`and`."""

    left: "Condition"
    right: "Condition"


@dataclasses.dataclass(frozen=True, slots=True)
class Either(Node):
    """`or`."""

    left: "Condition"
    right: "Condition"


Numeric = Number | Signal | Arithmetic | Function | Previous | Window
Condition = Truth | Compare | RawIs | Valid | Missing | Changed | Edge | For | Not | Both | Either
