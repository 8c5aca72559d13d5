"""What every policy of a campaign is: tables in, what is kept of them out."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from agent.blocks import SignalTable
from agent.collect.policy_memory import Memory
from agent.collect.rules import Rule

NOTHING: Mapping[str, int] = MappingProxyType({})


@dataclasses.dataclass(slots=True)
class Outcome:
    """What became of samples.

    Over all calls: samples offered = kept + thinned + folded + `Policy.held`.
    """

    tables: list[SignalTable] = dataclasses.field(default_factory=list)
    """What is kept, and what was made; tables that are kept whole are those that were offered."""
    kept: int = 0
    thinned: int = 0
    folded: int = 0
    """Samples that went into aggregates, also invalid ones, which no aggregate counts."""
    made: int = 0
    """Samples of aggregates in `tables`, which were never offered."""


class Policy(abc.ABC):
    """Decides what is kept of the signals of a campaign, each signal by itself.

    A series is what one sender sends of one signal: (bus, message, source, signal). It may come in
    several tables of a block; its samples are then taken in the order of time, those of one time in
    the order of the tables. Samples that are older than the one before them are taken as they come.

    What is decided does not depend on where blocks end. Not thread-safe.
    """

    def __init__(self, rule: Rule, memory: Memory) -> None:
        self.rule = rule
        self._memory = memory

    @property
    def held(self) -> int:
        """Samples that were offered and are not decided yet."""
        return 0

    @abc.abstractmethod
    def apply(self, tables: Sequence[SignalTable], reached: Mapping[str, int] = NOTHING) -> Outcome:
        """What is kept of the tables of one block.

        `reached` says for buses up to which time (ns) everything has come, with these tables.
        """

    def finish(self) -> Outcome:
        """Decide what is held; at the end of a run or of a plan."""
        return Outcome()

    def adopt(self, old: "Policy") -> None:
        """Go on where another policy of the same rule was, which is not used any more.

        Raises:
            ValueError: it has another rule.
        """
        if old.rule != self.rule:
            raise ValueError(f"a policy of {self.rule} cannot go on where one of {old.rule} was")
        self._memory = old._memory  # noqa: SLF001 - one policy to another

    def state(self) -> dict[str, Any]:
        """All that later decisions depend on, as msgpack can hold it."""
        return self._memory.pack()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state` of the same rule, which comes from outside.

        Raises:
            ValueError: it is none; nothing has changed then.
        """
        memory = self._memory.unpacked(state)
        self._check(memory)
        self._memory = memory

    def _check(self, memory: Memory) -> None:  # noqa: B027 - most have nothing to look at
        """Look whether what came from outside fits together.

        Raises:
            ValueError: it does not.
        """
