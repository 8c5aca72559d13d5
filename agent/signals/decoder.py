"""Blocks of frames to tables of samples."""

import dataclasses
import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from agent.blocks import (
    ERROR,
    EXTENDED,
    ID_BITS,
    REMOTE,
    FrameBlock,
    Int64,
    SignalTable,
    TableSchema,
    UInt16,
    UInt32,
    UInt64,
)
from agent.signals.bulk import Family, Group, keep_freed_memory
from agent.signals.compiled import MessagePlan
from agent.signals.database import Database, SignalPath
from agent.signals.expand import ListPlan
from agent.signals.model import Message
from agent.signals.transport import Reassembler, fast_packet_groups

_UNKNOWN, _SPECIAL, _TRANSPORT = -1, -2, -3  # instead of the number of a message
_LEAST = _TRANSPORT
_MAX_GROUPS = 64
"""Which messages come together varies from block to block; this many sets are remembered."""
_SMALL_CLASS = 4
"""Messages of up to 2**4 - 1 rows are decoded together, others with those of half to all their
rows."""
_PADDING = 2048
"""Classes are decoded together all the same where about this many rows, empty ones that shorter
messages get, cost less than the calls for one more group."""
_FAMILY, _MEMBER = 12_288, 1024
"""Messages of one layout are decoded as one where they have so many rows, a message more counting
for some: the calls for each of its signals then cost less than the steps of a group."""
_NOT_LOOKED_AT, _NEVER = -1, 1 << 20  # in place of a length
_FULL = 8  # bytes of a classic frame, as nearly all have
_NO_PRIORITY = 0x03FF_FFFF  # SAE J1939-21: the upper three bits of 29


_Group = tuple[Family | Group, list[TableSchema]]


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
    reassembled: int = 0
    """Messages put together from transport parts, and decoded: no frames, so in no sum."""
    transport_lost: int = 0
    """Messages that were announced and did not become whole."""

    def __iadd__(self, other: "Counts") -> Self:
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))
        return self


@dataclasses.dataclass(frozen=True, slots=True)
class Occurrences:
    """Which frames of a block are of which message: m messages occur.

    `order[begins[i] : begins[i] + counts[i]]` are the rows of message `numbers[i]` (a place in
    `Database.messages`), in the order received. Parts of transport are of no message, unless a file
    describes them; remote and error frames never are.
    """

    order: NDArray[np.intp]
    numbers: NDArray[np.int16]
    begins: Int64
    counts: Int64
    unknown: NDArray[np.intp]
    """Rows of the frames that are in no database, and no parts of messages."""


class _Index:
    """Ids of one bus to numbers of messages, -1 where there is none.

    Where a file has several J1939 messages of one PGN (proprietary ones, a layout for each sender),
    the one with the frame's own addresses is taken, else the first.
    """

    def __init__(self, messages: tuple[Message, ...]) -> None:
        self._standard = np.full(0x800, -1, np.int16)
        extended: dict[int, int] = {}
        groups: dict[int, int] = {}
        senders: dict[int, int] = {}
        shared = {
            group for group, n in Counter(m.pgn for m in messages if m.j1939).items() if n > 1
        }
        for number, message in enumerate(messages):
            if message.j1939:
                groups.setdefault(message.pgn, number)
                if message.pgn in shared:
                    senders.setdefault(message.id & _NO_PRIORITY, number)
            elif message.extended:
                extended.setdefault(message.id & ID_BITS, number)
            elif message.id < 0x800:
                self._standard[message.id] = number
        fast = fast_packet_groups(messages)
        self.fast = np.array([m.j1939 and m.pgn in fast for m in messages], bool)
        """bool[messages]: which come as NMEA 2000 fast packets."""
        self.transport = Reassembler(fast) if groups else None
        """Follows transfers, where there is J1939 on the bus."""
        self.bulk_length = np.full(len(messages), _NOT_LOOKED_AT, np.int32)
        """int32[messages]: how long frames must be to be decoded in bulk."""
        self.wanted = np.zeros(len(messages), bool)
        """bool[messages]: whether any signal of it is wanted."""
        self.layout = np.zeros(len(messages), np.intp)
        """intp[messages]: equal for those that can be decoded as one, if in bulk."""
        self._layouts: dict[tuple[Any, ...], int] = {}
        self._ids, self._numbers = _sorted(extended)
        self._pgns, self._pgn_numbers = _sorted(groups)
        self._senders, self._sender_numbers = _sorted(senders)

    def met(self, number: int, plan: MessagePlan) -> None:
        """Note how a message is decoded in bulk, or that it is not."""
        if not plan.message.j1939 and (plan.wants_nothing or plan.layout):
            self.bulk_length[number] = plan.bulk_length
        else:
            self.bulk_length[number] = _NEVER
        self.wanted[number] = not plan.wants_nothing
        if plan.layout:
            self.layout[number] = self._layouts.setdefault(plan.layout.key, len(self._layouts))

    def look_up(self, ids: UInt32) -> NDArray[np.int16]:
        """int16[n]: the number of each frame's message."""
        if not len(ids) or int(ids.max()) < len(self._standard):
            return self._standard.take(ids, mode="clip")  # all are in it: saves a look at each
        low: NDArray[np.int16] = self._standard.take(ids & np.uint32(0x7FF), mode="clip")
        is_extended = (ids & np.uint32(EXTENDED)) != 0
        if not is_extended.any():
            return low
        bits = ids & np.uint32(ID_BITS)
        found = _find(self._ids, self._numbers, bits)
        if len(self._senders):
            sent = _find(self._senders, self._sender_numbers, bits & np.uint32(_NO_PRIORITY))
            found = np.where(found >= 0, found, sent)
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
        keep_freed_memory()
        self.database = database
        self._wanted = None if signals is None else database.select(signals)
        self._indices: dict[str, _Index] = {}
        self._plans: dict[tuple[str, int, int], MessagePlan] = {}
        self._groups: dict[tuple[type, str, str, bytes], _Group] = {}
        self._lists: dict[tuple[str, int], ListPlan | None] = {}
        self._last: _Sorted | None = None
        self.counts = Counts()
        """Of all blocks so far."""

    @classmethod
    def of_paths(cls, database: Database, wanted: set[SignalPath]) -> "Decoder":
        """A decoder of the given signals."""
        decoder = cls(database)
        decoder._wanted = wanted
        return decoder

    def adopt(self, old: "Decoder") -> None:
        """Go on with transfers that are under way on buses whose messages are the same."""
        for bus, index in old._indices.items():  # noqa: SLF001 - one of our own
            if self.database.messages(bus) == old.database.messages(bus):
                self._index(bus).transport = index.transport

    def decode(self, block: FrameBlock) -> list[SignalTable]:
        """The samples of a block: tables by message, in each the rows in the order received."""
        return self.decode_counted(block)[0]

    def decode_counted(self, block: FrameBlock) -> tuple[list[SignalTable], Counts]:
        """The samples of a block, and what became of its frames."""
        counts = Counts()
        tables: list[SignalTable] = []
        index = self._index(block.bus)
        parts: NDArray[np.bool_] | None = None
        messages: list[FrameBlock] = []
        if index.transport is not None:
            before = index.transport.counts.lost
            parts, messages = index.transport.take(block)
            counts.transport_lost += index.transport.counts.lost - before
        self._last = _Sorted(block, index, counts, parts)
        tables += self._decode_sorted(self._last, index, counts)
        for whole in messages:
            of_messages = Counts()
            ordered = _Sorted(whole, index, of_messages, None)
            tables += self._decode_sorted(ordered, index, of_messages)
            counts.reassembled += of_messages.decoded
        self.counts += counts
        return tables, counts

    def _decode_sorted(self, frames: "_Sorted", index: _Index, counts: Counts) -> list[SignalTable]:
        tables: list[SignalTable] = []
        rest = np.arange(len(frames.present))
        if len(rest) and frames.block.data.shape[1] == 8:
            tables, rest = self._decode_in_bulk(frames, index, counts)
        for place in rest.tolist():
            begin = int(frames.begins[place])
            rows = frames.ordered[begin : begin + int(frames.counts[place])]
            tables += self._tables(int(frames.present[place]), rows, counts)
        return tables

    def _decode_in_bulk(
        self, frames: "_Sorted", index: _Index, counts: Counts
    ) -> tuple[list[SignalTable], NDArray[np.intp]]:
        """The tables of messages of fixed layout, and the places of all others."""
        block = frames.block
        present = frames.present
        for number in present[index.bulk_length[present] == _NOT_LOOKED_AT].tolist():
            index.met(number, self._plan(block.bus, number, 8))
        chosen = frames.shortest >= index.bulk_length[present]
        counts.decoded += int(frames.counts[chosen].sum())
        places = np.flatnonzero(chosen & index.wanted[present])
        tables: list[SignalTable] = []
        if not len(places):
            return tables, np.flatnonzero(~chosen)
        time = frames.time
        for kind, part in _together(places, index.layout[present[places]], frames.counts[places]):
            group, schemas = self._group(kind, block, present[part])
            begins, lengths = frames.begins[part], frames.counts[part]
            tables += [
                SignalTable(schema, time[a:b], rows.values(), (), "", rows)
                for schema, a, b, rows in zip(
                    schemas,
                    begins.tolist(),
                    (begins + lengths).tolist(),
                    group.take(frames.words, begins, lengths),
                    strict=True,
                )
            ]
        return tables, np.flatnonzero(~chosen)

    def _group(
        self, kind: type[Family | Group], block: FrameBlock, members: NDArray[np.int16]
    ) -> _Group:
        key = (kind, block.bus, block.clock, members.tobytes())
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= _MAX_GROUPS:
                self._groups.clear()
            plans = [self._plan(block.bus, number, 8) for number in members.tolist()]
            layouts = [plan.layout for plan in plans if plan.layout is not None]
            schemas = [plan.schema(block.bus, block.clock) for plan in plans]
            group = self._groups[key] = (kind(layouts), schemas)
        return group

    def knows(self, block: FrameBlock) -> NDArray[np.bool_]:
        """bool[n]: whether each frame has a message in the database, or is a part of messages."""
        index = self._index(block.bus)
        plain = (block.id & np.uint32(REMOTE | ERROR)) == 0
        known: NDArray[np.bool_] = plain & (index.look_up(block.id) >= 0)
        return known if index.transport is None else known | index.transport.parts(block)

    def occurrences(self, block: FrameBlock) -> Occurrences:
        """Where the frames of each message are; costs nothing for the block just decoded."""
        last = self._last
        if last is None or last.block is not block:
            index = self._index(block.bus)
            parts = None if index.transport is None else index.transport.parts(block)
            last = _Sorted(block, index, Counts(), parts)
        return last.occurrences

    def _index(self, bus: str) -> _Index:
        index = self._indices.get(bus)
        if index is None:
            index = self._indices[bus] = _Index(self.database.messages(bus))
        return index

    def _tables(self, number: int, rows: FrameBlock, counts: Counts) -> list[SignalTable]:
        plan = self._plan(rows.bus, number, rows.data.shape[1])
        parts = _by_source(rows) if plan.message.j1939 else [(None, rows)]
        made: list[SignalTable] = []
        entries = self._list(rows.bus, number, plan.message)
        for source, part in parts:
            if entries is not None:
                made += entries.tables(part, source)
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
            names = self._wanted_of(bus, message.name, [s.name for s in message.signals])
            signals = [s for s in message.signals if s.name in names]
            plan = self._plans[key] = MessagePlan(message, signals, width)
        return plan

    def _list(self, bus: str, number: int, message: Message) -> ListPlan | None:
        """What expands the list of a message, if something does."""
        key = (bus, number)
        if key not in self._lists:
            expander = next(
                (e for e in self.database.lists(bus) if message.j1939 and e.pgn == message.pgn),
                None,
            )
            plan = None
            if expander is not None:
                names = [s.name for s in expander.signals]
                plan = ListPlan(expander, self._wanted_of(bus, expander.name, names))
            self._lists[key] = plan
        return self._lists[key]

    def _wanted_of(self, bus: str, message: str, names: Iterable[str]) -> set[str]:
        wanted = self._wanted
        if wanted is None:
            return set(names)
        buses = {bus} if bus in self.database.buses else {"*", bus}
        return {n for n in names if any(SignalPath(b, message, n) in wanted for b in buses)}


class _Sorted:
    """The frames of a block by the number of their message; what has none is counted."""

    def __init__(
        self, block: FrameBlock, index: _Index, counts: Counts, parts: NDArray[np.bool_] | None
    ) -> None:
        self.block = block
        numbers = index.look_up(block.id)
        if parts is not None and parts.any():
            # TP.DT as a file describes it is decoded like any frame; a fast packet makes no sense.
            parts = parts & ((numbers < 0) | index.fast[numbers])
            numbers = np.where(parts, np.int16(_TRANSPORT), numbers)
        special = (block.id & np.uint32(REMOTE | ERROR)) != 0
        if special.any():
            error = (block.id & np.uint32(ERROR)) != 0
            counts.error += int(error.sum())
            counts.remote += int((special & ~error).sum())
            numbers = np.where(special, np.int16(_SPECIAL), numbers)
        # A stable sort of 8 or 16 bits is a radix sort: frames stay in order within a message.
        shifted = numbers + np.int16(-_LEAST)
        small = len(index.wanted) - _LEAST <= 256
        self._order = np.argsort(shifted.astype(np.uint8) if small else shifted, kind="stable")
        sizes = np.bincount(shifted, minlength=-_LEAST)
        places = np.flatnonzero(sizes)
        begins = (np.cumsum(sizes) - sizes)[places]
        counts.unknown += int(sizes[_UNKNOWN - _LEAST])
        counts.transport += int(sizes[_TRANSPORT - _LEAST])
        known = places >= -_LEAST
        self.present = (places[known] + _LEAST).astype(np.int16)
        """int16[messages]: numbers of the messages that occur."""
        self.begins = begins[known]
        """int64[messages]: where the frames of each begin, in order."""
        self.counts = sizes[places[known]]
        """int64[messages]: how many there are of each."""
        before = int(sizes[: _UNKNOWN - _LEAST].sum())
        self._unknown = slice(before, before + int(sizes[_UNKNOWN - _LEAST]))

    @property
    def occurrences(self) -> Occurrences:
        order = self._order
        return Occurrences(order, self.present, self.begins, self.counts, order[self._unknown])

    @functools.cached_property
    def ordered(self) -> FrameBlock:
        return self.block[self._order]

    @functools.cached_property
    def time(self) -> Int64:
        return self.block.time[self._order]

    @functools.cached_property
    def shortest(self) -> UInt16:
        """uint16[messages]: the shortest frame of each."""
        least = int(self.block.length.min(initial=_FULL))
        if least == _FULL or not len(self.begins):
            return np.full(len(self.begins), least, np.uint16)
        shortest: UInt16 = np.minimum.reduceat(self.block.length[self._order], self.begins)
        return shortest

    @functools.cached_property
    def words(self) -> UInt64:
        """uint64[n]: payloads of 8 bytes in order, little-endian."""
        words: UInt64 = np.ascontiguousarray(self.block.data).view("<u8")[:, 0][self._order]
        return words


def _together(
    places: NDArray[np.intp], layouts: NDArray[np.intp], counts: Int64
) -> Iterator[tuple[type[Family | Group], NDArray[np.intp]]]:
    """What is decoded as one, of messages with these layouts and so many rows."""
    if int(counts.sum()) + _MEMBER * len(places) >= _FAMILY:
        rows = np.bincount(layouts, counts + _MEMBER)
        for layout in np.flatnonzero(rows >= _FAMILY).tolist():
            yield Family, places[layouts == layout]
        others = rows[layouts] < _FAMILY
        places, counts = places[others], counts[others]
        if not len(places):
            return
    size = np.maximum(np.frexp(counts)[1], _SMALL_CLASS)
    classes = np.bincount(size)
    least = waiting = 0
    present = np.flatnonzero(classes).tolist()
    for this, longer in zip(present, [*present[1:], 62], strict=True):
        waiting += int(classes[this])
        if waiting * ((1 << longer) - (1 << this)) > _PADDING:
            yield Group, places[(size > least) & (size <= this)]
            least, waiting = this, 0


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
