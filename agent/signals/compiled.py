"""One message, compiled: which shifts take which signals out of a payload.

A `MessagePlan` holds an `Extraction` for each set of signals that can be present together: one for
each multiplexer branch and each set that a received length covers. They are made when first met and
kept.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agent.blocks import (
    FrameBlock,
    Kind,
    SignalTable,
    TableSchema,
    TimeBase,
    UInt8,
    UInt64,
)
from agent.signals.bulk import Layout
from agent.signals.model import Message, Signal

_ORDER: tuple[Kind, ...] = ("int64", "uint64", "float32", "float64", "bytes")


@dataclasses.dataclass(frozen=True, slots=True)
class _Window:
    """Signals of one kind in one 8-byte stretch of the payload, in one byte order."""

    kind: Kind
    byte: int
    big_endian: bool
    rows: slice
    left: UInt64
    """uint64[k, 1]: shifts that put each signal's highest bit at bit 63."""


class Extraction:
    """Takes a fixed set of signals out of n payloads at once."""

    def __init__(self, signals: Sequence[Signal], width: int) -> None:
        self._width = width
        placed = sorted(
            ((s, _window_byte(s, width)) for s in signals),
            key=lambda p: (
                _ORDER.index(p[0].schema.kind),
                p[1],
                p[0].big_endian,
                p[0].first_bit,
            ),
        )
        self.signals = tuple(s for s, _ in placed)
        self._counts: dict[Kind, int] = {}
        self._windows: list[_Window] = []
        self._right: dict[Kind, UInt64] = {}
        self._split: list[tuple[Kind, int, Signal]] = []
        self._bytes = [s for s in self.signals if s.schema.kind == "bytes"]
        for kind in _ORDER[:-1]:
            of_kind = [(s, byte) for s, byte in placed if s.schema.kind == kind]
            if not of_kind:
                continue
            self._counts[kind] = len(of_kind)
            self._right[kind] = np.array([[64 - s.length] for s, _ in of_kind], np.uint64)
            self._split += [
                (kind, row, s) for row, (s, byte) in enumerate(of_kind) if _reaches_on(s, byte)
            ]
            begin = 0
            for row in range(1, len(of_kind) + 1):
                here = of_kind[begin]
                if row < len(of_kind) and (
                    (of_kind[row][1], of_kind[row][0].big_endian) == (here[1], here[0].big_endian)
                ):
                    continue
                left = [[max(0, _left(s, byte))] for s, byte in of_kind[begin:row]]
                self._windows.append(
                    _Window(
                        kind,
                        here[1],
                        here[0].big_endian,
                        slice(begin, row),
                        np.array(left, np.uint64),
                    )
                )
                begin = row

    @functools.cached_property
    def layout(self) -> Layout | None:
        """For decoding in bulk: of whole numbers in classic frames."""
        if self._width != 8 or not set(self._counts) <= {"int64", "uint64"} or self._bytes:
            return None
        windows = sorted(self._windows, key=lambda w: (_ORDER.index(w.kind), w.rows.start))
        return Layout(
            signals=tuple(s.schema for s in self.signals),
            signed=self._counts.get("int64", 0),
            big_endian=np.array([s.big_endian for s in self.signals], bool),
            left=np.concatenate([w.left[:, 0] for w in windows]),
            right=np.array([64 - s.length for s in self.signals], np.uint64),
        )

    def take(self, data: UInt8) -> tuple[dict[Kind, NDArray[Any]], tuple[UInt8, ...]]:
        """The columns of uint8[n, width] payloads: kind -> [k, n], and the bytes signals."""
        n = len(data)
        bits = {kind: np.empty((k, n), np.uint64) for kind, k in self._counts.items()}
        words: dict[tuple[int, bool], UInt64] = {}
        for window in self._windows:
            key = (window.byte, window.big_endian)
            word = words.get(key)
            if word is None:
                word = words[key] = _word(data, *key)
            np.left_shift(word[None, :], window.left, out=bits[window.kind][window.rows])
        for kind, row, signal in self._split:
            bits[kind][row] = _split_word(data, signal)
        values: dict[Kind, NDArray[Any]] = {}
        for kind, array in bits.items():
            if kind == "int64":
                signed = array.view(np.int64)
                np.right_shift(signed, self._right[kind].view(np.int64), out=signed)
                values[kind] = signed
                continue
            np.right_shift(array, self._right[kind], out=array)
            if kind == "uint64":
                values[kind] = array
            elif kind == "float64":
                values[kind] = array.view(np.float64)
            else:
                values[kind] = _float32(array, self.signals)
        return values, tuple(_long_bits(data, s) for s in self._bytes)


def _float32(bits: UInt64, signals: Sequence[Signal]) -> NDArray[np.float32]:
    values = bits.astype(np.uint32).view(np.float32)
    halves = [
        row
        for row, s in enumerate(s for s in signals if s.schema.kind == "float32")
        if s.length == 16
    ]
    for row in halves:
        values[row] = bits[row].astype(np.uint16).view(np.float16)
    return values


def _window_byte(signal: Signal, width: int) -> int:
    """Where the 8-byte window of a signal begins: aligned where it fits, else at its first byte."""
    aligned = signal.first_byte // 8 * 8
    byte = aligned if signal.first_bit + signal.length <= 8 * aligned + 64 else signal.first_byte
    return min(byte, width - 8)


def _left(signal: Signal, byte: int) -> int:
    """The shift that puts the highest bit at bit 63, of a signal inside its window."""
    first = signal.first_bit - 8 * byte
    return first if signal.big_endian else 64 - first - signal.length


def _reaches_on(signal: Signal, byte: int) -> bool:
    """Whether the signal touches a ninth byte, after its window."""
    return signal.first_bit - 8 * byte + signal.length > 64


def _word(data: UInt8, byte: int, big_endian: bool) -> UInt64:
    if data.shape[1] == 8:
        word = data.view("<u8")[:, 0]
    else:
        word = np.ascontiguousarray(data[:, byte : byte + 8]).view("<u8")[:, 0]
    return word.byteswap() if big_endian else word


def _split_word(data: UInt8, signal: Signal) -> UInt64:
    """A signal that touches 9 bytes, its highest bit at bit 63."""
    begin = signal.first_byte
    nine = data[:, begin : begin + 9].astype(np.uint64)
    over = signal.first_bit % 8
    if signal.big_endian:
        word = np.zeros(len(data), np.uint64)
        for i in range(8):
            word |= nine[:, i] << np.uint64(56 - 8 * i)
        return word << np.uint64(over) | nine[:, 8] >> np.uint64(8 - over)
    word = np.zeros(len(data), np.uint64)
    for i in range(8):
        word |= nine[:, i] << np.uint64(8 * i)
    low = word >> np.uint64(over) | nine[:, 8] << np.uint64(64 - over)
    return low << np.uint64(64 - signal.length)


def _long_bits(data: UInt8, signal: Signal) -> UInt8:
    """A signal of over 64 bits as bytes, in the order in which they lie on the bus."""
    order: Literal["big", "little"] = "big" if signal.big_endian else "little"
    begin = signal.first_bit
    if begin % 8 == 0 and signal.length % 8 == 0:
        return np.ascontiguousarray(data[:, begin // 8 : (begin + signal.length) // 8])
    bits = np.unpackbits(data, axis=1, bitorder=order)[:, begin : begin + signal.length]
    if signal.big_endian:  # the lowest bit of the last byte is the signal's lowest
        pad = -signal.length % 8
        bits = np.pad(bits, ((0, 0), (pad, 0)))
    packed: UInt8 = np.packbits(bits, axis=1, bitorder=order)
    return packed


_Key = tuple[int, ...]
"""How many of the signals' ends the length covers, then a segment for each multiplexer."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Selector:
    """A multiplexer: which of its raw values select something."""

    signal: Signal
    values: UInt64
    """Sorted; position i stands for segment i + 1, segment 0 for all other values."""
    extraction: Extraction


@dataclasses.dataclass(slots=True)
class _Branch:
    """A set of signals that are present together."""

    label: str
    extraction: Extraction | None
    lost: bool
    """A multiplexer had a value that selects nothing."""
    schemas: dict[tuple[str, int | None, str], TableSchema]


class MessagePlan:
    """A message with the signals that somebody wants."""

    def __init__(self, message: Message, wanted: Sequence[Signal], width: int) -> None:
        self.message = message
        self._width = width
        self._wanted = tuple(s for s in wanted if s.end_byte <= width)
        self._ends = np.array(sorted({s.end_byte for s in self._wanted}), np.uint16)
        self._shortest = min((s.end_byte for s in message.signals), default=0)
        self._selectors = self._make_selectors()
        self._branches: dict[_Key, _Branch] = {}
        self._by_names: dict[tuple[str, ...], _Branch] = {}

    @functools.cached_property
    def layout(self) -> Layout | None:
        """For decoding in bulk frames of at least `bulk_length` bytes; None where it cannot be."""
        if self._selectors or not len(self._ends):
            return None
        extraction = self._branch((len(self._ends),)).extraction
        return extraction.layout if extraction else None

    @functools.cached_property
    def bulk_length(self) -> int:
        """From this length on nothing is short, and every wanted signal is there."""
        return max(self.message.length, self._shortest, int(self._ends.max(initial=0)))

    @property
    def wants_nothing(self) -> bool:
        return not len(self._ends)

    def schema(self, bus: str, clock: TimeBase) -> TableSchema:
        """Of a table with all wanted signals."""
        return self._schema(self._branch((len(self._ends),)), bus, None, clock)

    def _make_selectors(self) -> list[_Selector]:
        """The multiplexers on which a wanted signal hangs, parents first."""
        needed: dict[str, None] = {}
        by_name = self.message.by_name

        def need(name: str) -> None:
            parent = by_name.get(name)
            if parent is None or name in needed or parent.end_byte > self._width:
                return
            if parent.parent != name:
                need(parent.parent)
            needed[name] = None

        for signal in self._wanted:
            need(signal.parent)
            if signal.multiplexer:
                need(signal.name)
        selectors = []
        for name in needed:
            signal = by_name[name]
            values = sorted(
                {v for s in self.message.signals if s.parent == name for v in s.selected_by}
            )
            if not values:
                continue
            selectors.append(
                _Selector(signal, np.array(values, np.uint64), Extraction([signal], self._width))
            )
        return selectors

    def tables(
        self, frames: FrameBlock, source: int | None
    ) -> tuple[list[SignalTable], int, int, int]:
        """Decode frames of this message: (tables, undecodable, short, without a branch)."""
        length = frames.length
        shortest = int(length.min())
        undecodable = int((length < self._shortest).sum()) if shortest < self._shortest else 0
        short = int((length < self.message.length).sum()) if shortest < self.message.length else 0
        if not len(self._ends):
            return [], undecodable, short, 0
        if not self._selectors and shortest >= self._ends[-1]:
            table = self._table(self._branch((len(self._ends),)), frames, source)
            return [table] if table is not None else [], undecodable, short, 0
        keys, first, inverse = self._keys(frames)
        branches = [self._branch(key) for key in keys]
        # Different keys can mean the same signals: their rows stay together, in order.
        groups: dict[int, list[int]] = {}
        for i, branch in enumerate(branches):
            groups.setdefault(id(branch), []).append(i)
        ordered = sorted(groups.values(), key=lambda members: int(first[members].min()))
        group_of = np.empty(len(keys), np.intp)
        for number, members in enumerate(ordered):
            group_of[members] = number
        group = group_of[inverse]
        rows = np.argsort(group, kind="stable")
        ends = np.cumsum(np.bincount(group, minlength=len(ordered)))
        no_branch = begin = 0
        tables = []
        for members, end in zip(ordered, ends.tolist(), strict=True):
            branch = branches[members[0]]
            picked = frames if end - begin == len(frames) else frames[rows[begin:end]]
            begin = end
            no_branch += len(picked) if branch.lost else 0
            table = self._table(branch, picked, source)
            if table is not None:
                tables.append(table)
        return tables, undecodable, short, no_branch

    def _keys(self, frames: FrameBlock) -> tuple[list[_Key], NDArray[np.intp], NDArray[np.intp]]:
        """What frames cover and select: the keys, the first frame of each, each frame's key."""
        parts = [np.searchsorted(self._ends, frames.length, side="right")]
        sizes = [len(self._ends) + 1]
        for selector in self._selectors:
            column = selector.extraction.take(frames.data)[0]
            value = next(iter(column.values()))[0].astype(np.uint64)
            values = selector.values
            at = np.minimum(np.searchsorted(values, value), len(values) - 1)
            hit = (values[at] == value) & (frames.length >= selector.signal.end_byte)
            parts.append(np.where(hit, at + 1, 0))
            sizes.append(len(values) + 1)
        if math.prod(sizes) < 1 << 62:
            combined = np.ravel_multi_index(tuple(parts), tuple(sizes))
            _, first, inverse = np.unique(combined, return_index=True, return_inverse=True)
        else:
            _, first, inverse = np.unique(
                np.stack(parts), axis=1, return_index=True, return_inverse=True
            )
        keys = [tuple(int(part[row]) for part in parts) for row in first.tolist()]
        return keys, first, inverse

    def _branch(self, key: _Key) -> _Branch:
        branch = self._branches.get(key)
        if branch is None:
            branch = self._branches[key] = self._make_branch(key)
        return branch

    def _make_branch(self, key: _Key) -> _Branch:
        chosen = {
            selector.signal.name: int(selector.values[segment - 1]) if segment else None
            for selector, segment in zip(self._selectors, key[1:], strict=True)
        }
        covered = int(self._ends[key[0] - 1]) if key[0] else 0
        by_name = self.message.by_name

        def present(signal: Signal, seen: tuple[str, ...] = ()) -> bool:
            if not signal.parent:
                return True
            parent = by_name.get(signal.parent)
            if parent is None or parent.name in seen or not present(parent, (*seen, signal.name)):
                return False
            return chosen.get(parent.name) in signal.selected_by

        signals = [s for s in self._wanted if s.end_byte <= covered and present(s)]
        active = {name: value for name, value in chosen.items() if present(by_name[name])}
        lost = any(
            value is None and by_name[name].end_byte <= covered for name, value in active.items()
        )
        names = tuple(s.name for s in signals)
        lost_key = (*names, "\0" if lost else "")
        known = self._by_names.get(lost_key)
        if known is not None:
            return known
        label = ",".join(
            f"{name}={_ranges(self._values_like(name, value))}"
            for name, value in active.items()
            if value is not None and any(s.parent == name for s in signals)
        )
        branch = _Branch(label, Extraction(signals, self._width) if signals else None, lost, {})
        self._by_names[lost_key] = branch
        return branch

    def _values_like(self, name: str, value: int) -> set[int]:
        """All values of a multiplexer that select the same wanted signals as `value` does."""
        mine = [s for s in self._wanted if s.parent == name]
        selected = {s.name for s in mine if value in s.selected_by}
        selector = next(s for s in self._selectors if s.signal.name == name)
        return {
            v
            for v in selector.values.tolist()
            if {s.name for s in mine if v in s.selected_by} == selected
        }

    def _table(self, branch: _Branch, frames: FrameBlock, source: int | None) -> SignalTable | None:
        if branch.extraction is None:
            return None
        schema = self._schema(branch, frames.bus, source, frames.clock)
        values, payloads = branch.extraction.take(frames.data)
        return SignalTable(schema, frames.time, values, payloads)

    def _schema(
        self, branch: _Branch, bus: str, source: int | None, clock: TimeBase
    ) -> TableSchema:
        key = (bus, source, clock)
        schema = branch.schemas.get(key)
        if schema is None:
            signals = branch.extraction.signals if branch.extraction else ()
            schema = branch.schemas[key] = TableSchema(
                bus=bus,
                message=self.message.name,
                signals=tuple(s.schema for s in signals),
                source=source,
                branch=branch.label,
                clock=clock,
            )
        return schema


def _ranges(values: set[int]) -> str:
    """`3`, `0-7` or `1-3+5`."""
    parts: list[list[int]] = []
    for value in sorted(values):
        if parts and parts[-1][1] == value - 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return "+".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
