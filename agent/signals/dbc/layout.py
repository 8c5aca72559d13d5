"""Where the signals of a message lie: what does not fit, and what lies on something else."""

from collections.abc import Sequence

from agent.signals.model import Signal

FRAME_BYTES = 64
"""The longest payload of one frame, of CAN FD."""
_STEPS = 1 << 20
"""Of placing signals, in one file: a large real one needs some ten thousand."""
_DEEPEST = 16
"""Multiplexers below multiplexers."""


def bits(signal: Signal) -> int:
    """A number with a 1 for each bit of the payload that the signal has."""
    ones = (1 << signal.length) - 1
    if not signal.big_endian:
        return ones << signal.first_bit
    size = signal.end_byte
    shifted = ones << (8 * size - signal.first_bit - signal.length)
    return int.from_bytes(shifted.to_bytes(size, "big"), "little")


class Overlaps:
    """Finds signals that share bits, within a bound for the whole file."""

    def __init__(self) -> None:
        self._steps = _STEPS

    @property
    def given_up(self) -> bool:
        return self._steps <= 0

    def of(self, signals: Sequence[Signal]) -> list[tuple[Signal, Signal]]:
        """Pairs of signals that can be in one frame and share a bit, each pair once."""
        self._children: dict[str, list[Signal]] = {}
        for signal in signals:
            self._children.setdefault(signal.parent, []).append(signal)
        self._pairs: dict[tuple[str, str], tuple[Signal, Signal]] = {}
        self._place(self._children.get("", []), [], 0)
        return list(self._pairs.values())

    def _place(self, signals: Sequence[Signal], placed: list[Signal], used: int) -> None:
        """Put signals that are there together beside those that are there already."""
        for signal in signals:
            self._steps -= 1 + signal.end_byte // 512
            if self.given_up:
                return
            mine = bits(signal)
            if mine & used:
                self._note(signal, mine, placed)
            used |= mine
            placed.append(signal)
            if signal.multiplexer and signal.name in self._children:
                before = len(placed)
                for branch in self._branches(signal.name):
                    self._steps -= before // 64
                    beside = placed[:before]
                    self._place(branch, beside, used)
                    placed += beside[before:]
                for child in placed[before:]:
                    used |= bits(child)

    def _branches(self, multiplexer: str) -> list[list[Signal]]:
        """The sets of signals that its values select."""
        selected: dict[int, list[Signal]] = {}
        for child in self._children[multiplexer]:
            for value in child.selected_by:
                selected.setdefault(value, []).append(child)
        return list({tuple(map(id, branch)): branch for branch in selected.values()}.values())

    def _note(self, signal: Signal, mine: int, placed: Sequence[Signal]) -> None:
        for other in placed:
            self._steps -= 1
            if self.given_up:
                return
            pair = (other.name, signal.name)
            if pair not in self._pairs and bits(other) & mine:
                self._pairs[pair] = (other, signal)


def unreachable(signals: Sequence[Signal]) -> set[str]:
    """Signals whose multiplexers select each other in a circle, or lie too deep."""
    parents = {s.name: s.parent for s in signals}
    depths = {"": 0}
    for name in parents:
        chain: list[str] = []
        at = name
        while at not in depths and at not in chain and len(chain) <= _DEEPEST:
            chain.append(at)
            at = parents.get(at, "")
        depth = depths.get(at, _DEEPEST + 1)
        for link in reversed(chain):
            depth += 1
            depths[link] = depth
    return {name for name in parents if depths[name] > _DEEPEST}
