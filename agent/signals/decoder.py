"""Blocks of frames to tables of samples."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Self

import numpy as np
from numpy.typing import NDArray

from agent.blocks import ERROR, EXTENDED, ID_BITS, REMOTE, FrameBlock, SignalTable, UInt32
from agent.signals.compiled import MessagePlan
from agent.signals.database import Database, SignalPath
from agent.signals.model import Message

_CLASSIC = 8
_FD = 64


@dataclasses.dataclass(slots=True)
class Counts:
    """What became of the frames of one or more blocks; the first six add up to all frames."""

    decoded: int = 0
    transport: int = 0
    remote: int = 0
    error: int = 0
    unknown: int = 0
    undecodable: int = 0
    no_branch: int = 0
    """Of the decoded: a multiplexer had a value for which the database has no branch."""
    short: int = 0
    """Of the decoded and undecodable: shorter than the database says."""

    def __iadd__(self, other: "Counts") -> Self:
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self


class _Index:
    """Ids of one bus to numbers of messages, -1 where there is none."""

    def __init__(self, messages: tuple[Message, ...]) -> None:
        self._standard = np.full(0x800, -1, np.int16)
        extended: dict[int, int] = {}
        groups: dict[int, int] = {}
        for number, message in enumerate(messages):
            if message.j1939:
                groups.setdefault(message.pgn, number)
            elif message.extended:
                extended.setdefault(message.id & ID_BITS, number)
            elif message.id < 0x800:
                self._standard[message.id] = number
        self._ids, self._numbers = _sorted(extended)
        self._pgns, self._pgn_numbers = _sorted(groups)

    def look_up(self, ids: UInt32) -> NDArray[np.int16]:
        """int16[n]: the number of each frame's message."""
        low: NDArray[np.int16] = self._standard[ids & np.uint32(0x7FF)]
        is_extended = (ids & np.uint32(EXTENDED)) != 0
        if not is_extended.any():
            return low
        bits = ids & np.uint32(ID_BITS)
        found = _find(self._ids, self._numbers, bits)
        if len(self._pgns):
            pgn = bits >> np.uint32(8) & np.uint32(0x3FFFF)
            pdu1 = (pgn >> np.uint32(8) & np.uint32(0xFF)) < 240
            pgn = np.where(pdu1, pgn & np.uint32(0x3FF00), pgn)
            found = np.where(found >= 0, found, _find(self._pgns, self._pgn_numbers, pgn))
        numbers: NDArray[np.int16] = np.where(is_extended, found, low)
        return numbers


def _sorted(numbers: dict[int, int]) -> tuple[UInt32, NDArray[np.int16]]:
    keys = sorted(numbers)
    return np.array(keys, np.uint32), np.array([numbers[k] for k in keys], np.int16)


def _find(keys: UInt32, numbers: NDArray[np.int16], wanted: UInt32) -> NDArray[np.int16]:
    if not len(keys):
        return np.full(len(wanted), -1, np.int16)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    found: NDArray[np.int16] = np.where(keys[at] == wanted, numbers[at], np.int16(-1))
    return found


class Decoder:
    """Compiled once; decodes blocks of any bus of its database.

    Not thread-safe: one thread decodes.
    """

    def __init__(self, database: Database, signals: Iterable[str] | None = None) -> None:
        """Compile.

        `signals` are patterns as in `Database.select`; None means all.

        Raises:
            ConfigError: a pattern names no signal.
        """
        self.database = database
        self._wanted = None if signals is None else database.select(signals)
        self._indices: dict[str, _Index] = {}
        self._plans: dict[tuple[str, int, int], MessagePlan] = {}
        self.counts = Counts()
        """Of all blocks so far."""

    @classmethod
    def of_paths(cls, database: Database, wanted: set[SignalPath]) -> "Decoder":
        """A decoder of the given signals."""
        decoder = cls(database)
        decoder._wanted = wanted
        return decoder

    def decode(self, block: FrameBlock) -> list[SignalTable]:
        """The samples of a block: tables by message, in each the rows in the order received."""
        return self.decode_counted(block)[0]

    def decode_counted(self, block: FrameBlock) -> tuple[list[SignalTable], Counts]:
        """The samples of a block, and what became of its frames."""
        counts = Counts()
        tables: list[SignalTable] = []
        for number, rows in self._by_message(block, counts):
            tables += self._tables(number, rows, counts)
        self.counts += counts
        return tables, counts

    def knows(self, block: FrameBlock) -> NDArray[np.bool_]:
        """bool[n]: whether the database has a message for each frame."""
        plain = (block.id & np.uint32(REMOTE | ERROR)) == 0
        known: NDArray[np.bool_] = plain & (self._index(block.bus).look_up(block.id) >= 0)
        return known

    def _index(self, bus: str) -> _Index:
        index = self._indices.get(bus)
        if index is None:
            index = self._indices[bus] = _Index(self.database.messages(bus))
        return index

    def _by_message(self, block: FrameBlock, counts: Counts) -> Iterator[tuple[int, FrameBlock]]:
        numbers = self._index(block.bus).look_up(block.id)
        special = (block.id & np.uint32(REMOTE | ERROR)) != 0
        if special.any():
            error = (block.id & np.uint32(ERROR)) != 0
            counts.error += int(error.sum())
            counts.remote += int((special & ~error).sum())
            numbers = np.where(special, np.int16(-2), numbers)
        # A stable sort of int16 is a radix sort: frames stay in order within a message.
        order = np.argsort(numbers, kind="stable")
        ordered = block[order]
        present, begins = np.unique(numbers[order], return_index=True)
        ends = [*begins[1:].tolist(), len(block)]
        for number, begin, end in zip(present.tolist(), begins.tolist(), ends, strict=True):
            if number == -1:
                counts.unknown += end - begin
            elif number >= 0:
                yield number, ordered[begin:end]

    def _tables(self, number: int, rows: FrameBlock, counts: Counts) -> list[SignalTable]:
        plan = self._plan(rows.bus, number, rows.data.shape[1])
        parts = _by_source(rows) if plan.message.j1939 else [(None, rows)]
        made: list[SignalTable] = []
        for source, part in parts:
            tables, undecodable, short, no_branch = plan.tables(part, source)
            made += tables
            counts.decoded += len(part) - undecodable
            counts.undecodable += undecodable
            counts.short += short
            counts.no_branch += no_branch
        return made

    def _plan(self, bus: str, number: int, width: int) -> MessagePlan:
        key = (bus, number, width)
        plan = self._plans.get(key)
        if plan is None:
            message = self.database.messages(bus)[number]
            wanted = self._wanted
            names = {bus} if bus in self.database.buses else {"*", bus}
            signals = [
                s
                for s in message.signals
                if wanted is None
                or any(SignalPath(name, message.name, s.name) in wanted for name in names)
            ]
            plan = self._plans[key] = MessagePlan(message, signals, width)
        return plan


def _by_source(rows: FrameBlock) -> Iterator[tuple[int, FrameBlock]]:
    """Frames of one PGN by their J1939 source address."""
    source = (rows.id & np.uint32(0xFF)).astype(np.uint8)
    if (source == source[0]).all():
        yield int(source[0]), rows
        return
    order = np.argsort(source, kind="stable")
    present, begins = np.unique(source[order], return_index=True)
    ends = [*begins[1:].tolist(), len(rows)]
    for address, begin, end in zip(present.tolist(), begins.tolist(), ends, strict=True):
        yield address, rows[order[begin:end]]
