"""What a group remembers besides the last samples of its signals."""

import numpy as np

from agent.blocks import Int64
from agent.collect.evaluate.program import Program
from agent.collect.evaluate.slots import Base
from agent.collect.evaluate.windows import Histories
from agent.collect.expression.tree import Changed, Edge, For, Previous, Window


class Memory:
    """Timers, edges, windows and truths at the last decided moment."""

    def __init__(self, program: Program, began: int) -> None:
        self.base = Base(len(program.signals), began)
        self.fors = {place: i for i, place in enumerate(program.of_type(For))}
        """Place of a condition -> place in `since` and `holds`."""
        self.since: Int64 = np.full(len(self.fors), began, np.int64)
        """When the operand became true, where it is."""
        self.holds = np.zeros(len(self.fors), bool)
        """Whether the operand is true."""
        self.edges = {place: i for i, place in enumerate(program.of_type(Edge))}
        self.fired = np.zeros(len(self.edges), bool)
        """Whether there was an edge at just that moment."""
        self.truths = np.zeros(len(program.conditions), bool)
        """Of whole conditions."""
        self.fresh = np.ones(len(program.conditions), bool)
        """Which were never looked at."""
        self.histories = Histories()
        longest: dict[int, int] = {}
        for place, node in enumerate(program.numbers):
            if isinstance(node, Window):
                slot = program.number_parts[place][0]
                longest[slot] = max(longest.get(slot, 0), node.duration_ns)
        for slot, duration in longest.items():
            self.histories.add(slot, program.signals[slot].schema, duration)
        self.windowed = np.zeros(len(program.signals), bool)
        self.windowed[list(longest)] = True
        """Slots with windows."""
        self.changing = sorted({program.condition_parts[p][0] for p in program.of_type(Changed)})
        """Slots whose changes are asked for."""
        self.preceding = sorted(
            {
                program.number_parts[place][0]
                for place, node in enumerate(program.numbers)
                if isinstance(node, Previous)
            }
        )
        """Slots whose samples before the last are asked for."""
