"""A number by its name: of the ledger, of the agent's status, or of the bench.

    uplink.cloud.evicted                     ledger: account, name, counter
    bus.*.dropped                            * stands for every name: the sum
    status.health.*.stuck_counters.messages  status: keys; an item of a list by its `name`
    bench.frames                             what the bench knows: see BENCH

What is not there is no number, which is not 0: a misspelt name must not pass for "nothing was
lost". The accounts and counters of the ledger are known before a run, so those are checked at load.
"""

import dataclasses
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Self

from agent.errors import ConfigError
from agent.ledger import Counts, Ledger

BENCH: Final[Mapping[str, str]] = {
    "frames": "frames that the vehicle put on the bus",
    "runs": "processes that the agent has had: one more than its power cuts",
    "batches": "batches at the cloud",
    "samples": "samples at the cloud",
    "events": "events at the cloud: of triggers, trips and charging sessions",
}
LEVELS: Final = frozenset({"queued", "held", "memory", "waiting"})
"""Counters of the ledger that are levels: only those of the newest process are so now."""

_COMPARISONS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION: Final = re.compile(r"\s*(\S+)\s*(>=|<=|==|>|<)\s*(-?[0-9][0-9_]*(?:\.[0-9]+)?)\s*")


def _counters() -> Mapping[str, frozenset[str]]:
    """Account of the ledger -> its counters."""
    ledger = Ledger()
    for account in ledger.snapshot():
        ledger.open(account, "")
    return {account: frozenset(rows[""]) for account, rows in ledger.snapshot().items()}


_ACCOUNTS: Final = _counters()


@dataclasses.dataclass(frozen=True, slots=True)
class Figures:
    """All that figures are read from."""

    ledgers: Sequence[Counts]
    """The newest one of each process of the agent, the oldest process first."""
    status: Mapping[str, Any]
    bench: Mapping[str, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """The name of a number, taken apart."""

    text: str
    root: str
    rest: tuple[str, ...]

    @classmethod
    def read(cls, text: str) -> Self:
        """Take a name apart.

        Raises:
            ConfigError: it is none; the message has no place.
        """
        root, *rest = text.split(".")
        if root in _ACCOUNTS:
            known = ", ".join(sorted(_ACCOUNTS[root]))
            if len(rest) < 2:
                raise ConfigError(f"write {root}.NAME.COUNTER; the counters are {known}")
            # The name of a bus may have dots in it.
            name, counter = ".".join(rest[:-1]), rest[-1]
            if counter not in _ACCOUNTS[root]:
                raise ConfigError(f'the account {root} has no "{counter}"; it has {known}')
            return cls(text, root, (name, counter))
        if root == "bench" and rest and rest[0] in BENCH and len(rest) == 1:
            return cls(text, root, (rest[0],))
        if root == "status" and rest and all(rest):
            return cls(text, root, tuple(rest))
        roots = ", ".join([f"{account}.NAME.COUNTER" for account in _ACCOUNTS])
        bench = ", ".join(f"bench.{name}" for name in BENCH)
        raise ConfigError(f'"{text}" is no figure; figures are {roots}, {bench} and status.KEY...')

    def of(self, figures: Figures) -> float | None:
        """The number; None where there is none."""
        if self.root == "bench":
            return figures.bench.get(self.rest[0])
        if self.root == "status":
            found = list(_walk(figures.status, self.rest))
        else:
            name, counter = self.rest
            ledgers = figures.ledgers[-1:] if counter in LEVELS else figures.ledgers
            rows = [ledger.get(self.root, {}) for ledger in ledgers]
            found = [r[counter] for row in rows for n, r in row.items() if name in ("*", n)]
        return sum(found) if found else None


def _walk(value: Any, keys: Sequence[str]) -> Iterator[float]:
    if not keys:
        if isinstance(value, int | float):
            yield value
        return
    key, rest = keys[0], keys[1:]
    if isinstance(value, Mapping):
        for name in value if key == "*" else [key]:
            if name in value:
                yield from _walk(value[name], rest)
    elif isinstance(value, list):
        for item in value:
            if key == "*" or (isinstance(item, Mapping) and item.get("name") == key):
                yield from _walk(item, rest)


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """`uplink.cloud.waiting > 1000`."""

    figure: Figure
    sign: str
    number: float

    @classmethod
    def read(cls, text: str) -> Self:
        """Take a condition apart.

        Raises:
            ConfigError: it is none; the message has no place.
        """
        match = _CONDITION.fullmatch(text)
        if match is None:
            signs = " ".join(_COMPARISONS)
            raise ConfigError(f"write a figure, one of {signs}, and a number")
        name, sign, number = match.groups()
        return cls(Figure.read(name), sign, float(number))

    def holds(self, figures: Figures) -> bool:
        """Whether it is so; not where there is no such number."""
        value = self.figure.of(figures)
        return value is not None and _COMPARISONS[self.sign](value, self.number)
