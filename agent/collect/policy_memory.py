"""What a policy remembers of each series, from one block to the next.

A series has a number; what is remembered is an array for each field, indexed by that number, so
that the series of a whole block are read and written at once. A schema's numbers are looked up
when it is met for the first time.

A series is known by (bus, message, source) and its signal's whole schema: where another database
gives a signal another scale, it is another series, and no value is read with the wrong one.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.blocks import NUMERIC_KINDS, Float64, Kind, SignalSchema, TableSchema, UInt8, UInt64
from agent.collect import policy_schema as packing

Fields = Mapping[str, tuple[str, float]]
"""Name -> (dtype, little-endian; what a new series has)."""
Slots = NDArray[np.intp]

KINDS: tuple[Kind, ...] = (*NUMERIC_KINDS, "bytes")


class Key(NamedTuple):
    """What makes a series."""

    bus: str
    message: str
    source: int | None
    signal: SignalSchema


class Layout:
    """The columns of the tables of one schema, kind by kind, and the series that they are.

    `spans` says of each kind which columns it has: (kind, first, how many).
    """

    def __init__(self, schema: TableSchema, memory: "Memory") -> None:
        self.schema = schema
        self._memory = memory
        self.stream = (schema.bus, schema.message, schema.source)
        self.columns: list[SignalSchema] = []
        self.spans: list[tuple[Kind, int, int]] = []
        for kind in KINDS:
            found = [s for s in schema.signals if s.kind == kind]
            if found:
                self.spans.append((kind, len(self.columns), len(found)))
                self.columns += found
        numbers = [memory.number(Key(*self.stream, signal)) for signal in self.columns]
        self.slots = np.array(numbers, np.intp)
        self.coded = [i for i, s in enumerate(self.columns) if s.codes]
        self.whole = [i for i, s in enumerate(self.columns) if s.needs_whole_arithmetic]

    @functools.cached_property
    def place(self) -> list[tuple[Kind, int]]:
        """Of each column: (kind, row in the array of that kind)."""
        return [(kind, row) for kind, _, count in self.spans for row in range(count)]

    @functools.cached_property
    def column(self) -> dict[int, int]:
        """Number of a series -> its column."""
        return {slot: column for column, slot in enumerate(self.slots.tolist())}

    @functools.cached_property
    def singles(self) -> list[TableSchema]:
        """Of each column: the schema of a table that has only this one."""
        if len(self.columns) == 1:
            return [self.schema]
        return [self._memory.single(self.schema, signal.name) for signal in self.columns]

    @functools.cached_property
    def homes(self) -> list[int]:
        """Of each column: the number of that schema among those of what is held."""
        return [self._memory.home(single) for single in self.singles]


class Memory:
    """Arrays by series, and what is not one number a series.

    Besides its arrays: `homes`, the schemas of the tables that are made later of what is held now;
    `payloads`, the bytes that a series of kind bytes had last, with a number that stands for them;
    `marks`, the time that buses have reached, as a policy counts it.
    """

    def __init__(self, fields: Fields) -> None:
        self._fields = fields
        self.keys: list[Key] = []
        self.columns: dict[str, NDArray[Any]] = {
            name: np.empty(0, dtype) for name, (dtype, _) in fields.items()
        }
        self.scale: Float64 = np.empty(0)
        self.offset: Float64 = np.empty(0)
        self.homes: list[TableSchema] = []
        self.payloads: dict[int, tuple[int, bytes]] = {}
        self.marks: dict[str, int] = {}
        self._numbers: dict[Key, int] = {}
        self._home_numbers: dict[TableSchema, int] = {}
        self._singles: dict[TableSchema, TableSchema] = {}
        self._layouts: dict[TableSchema, Layout] = {}
        self._of_bus: dict[str, Slots] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.columns[name]

    def layout(self, schema: TableSchema) -> Layout:
        """The columns of a schema; its signals are series from now on."""
        layout = self._layouts.get(schema)
        if layout is None:
            layout = self._layouts[schema] = Layout(schema, self)
            self._grow()
        return layout

    def number(self, key: Key) -> int:
        number = self._numbers.setdefault(key, len(self.keys))
        if number == len(self.keys):
            self.keys.append(key)
        return number

    def single(self, schema: TableSchema, name: str) -> TableSchema:
        """The schema of one signal; equal ones are one object, as they are keys downstream."""
        single = schema.subset([name])
        return self._singles.setdefault(single, single)

    def home(self, schema: TableSchema) -> int:
        """The place of a schema in `homes`."""
        number = self._home_numbers.setdefault(schema, len(self.homes))
        if number == len(self.homes):
            self.homes.append(schema)
        return number

    def has_home(self, slot: int) -> bool:
        """Whether a series has a home that can be its own."""
        number, key = int(self["home"][slot]), self.keys[slot]
        if not 0 <= number < len(self.homes):
            return False
        home = self.homes[number]
        return key[:3] == (home.bus, home.message, home.source) and key.signal in home.signals

    def slots_of(self, bus: str) -> Slots:
        """The numbers of the series of a bus."""
        if bus not in self._of_bus:
            found = [n for n, key in enumerate(self.keys) if key.bus == bus]
            self._of_bus[bus] = np.array(found, np.intp)
        return self._of_bus[bus]

    def tokens(self, slot: int, payload: UInt8) -> UInt64:
        """Numbers that stand for bytes, uint64[n] of uint8[n, w], n > 0.

        A number differs from that of the sample before, also of the block before, where the bytes
        do.
        """
        token, last = self.payloads.get(slot, (0, payload[0].tobytes()))
        changed = np.empty(len(payload), bool)
        changed[0] = payload[0].tobytes() != last
        np.any(payload[1:] != payload[:-1], axis=1, out=changed[1:])
        tokens = np.uint64(token) + np.cumsum(changed, dtype=np.uint64)
        self.payloads[slot] = (int(tokens[-1]), payload[-1].tobytes())
        return tokens

    def _grow(self) -> None:
        more = self.keys[len(self.scale) :]
        if not more:
            return
        self._of_bus.clear()
        for name, (dtype, fill) in self._fields.items():
            tail = np.full(len(more), fill, dtype)
            self.columns[name] = np.concatenate([self.columns[name], tail])
        scale = [float(key.signal.scale) for key in more]
        offset = [float(key.signal.offset) for key in more]
        self.scale = np.concatenate([self.scale, scale])
        self.offset = np.concatenate([self.offset, offset])

    def pack(self) -> dict[str, Any]:
        """Everything, as msgpack can hold it; arrays are little-endian."""
        signals = {signal: n for n, signal in enumerate(dict.fromkeys(k.signal for k in self.keys))}
        return {
            "signals": [packing.pack_signal(signal) for signal in signals],
            "series": [[k.bus, k.message, k.source, signals[k.signal]] for k in self.keys],
            "columns": {name: column.tobytes() for name, column in self.columns.items()},
            "homes": [
                packing.pack_table(home, [signals[signal] for signal in home.signals])
                for home in self.homes
            ],
            "payloads": [[slot, token, last] for slot, (token, last) in self.payloads.items()],
            "marks": dict(self.marks),
        }

    def unpacked(self, state: Mapping[str, Any]) -> "Memory":
        """Another memory of the same fields, from what `pack` gave.

        Raises:
            ValueError: it did not give this.
        """
        memory = Memory(self._fields)
        try:
            memory._unpack(packing.mapping(state))
        except (KeyError, OverflowError) as e:
            raise ValueError(f"a part of a policy's state is missing or out of range: {e}") from e
        return memory

    def _unpack(self, state: dict[Any, Any]) -> None:
        signals = [packing.unpack_signal(signal) for signal in packing.array(state["signals"])]
        for packed in packing.array(state["series"]):
            bus, message, source, at = packing.array(packed, 4)
            if not 0 <= packing.whole(at) < len(signals):
                raise ValueError("a series of a signal that is not there")
            sender = None if source is None else packing.whole(source)
            self.number(Key(packing.text(bus), packing.text(message), sender, signals[at]))
        if len(self.keys) != len(state["series"]):
            raise ValueError("a series that is there twice")
        self._grow()
        columns = packing.mapping(state["columns"])
        for name, (dtype, _) in self._fields.items():
            self.columns[name] = _column(columns[name], np.dtype(dtype), len(self.keys))
        for packed in packing.array(state["homes"]):
            self.home(packing.unpack_table(packed, signals))
        if len(self.homes) != len(state["homes"]):
            raise ValueError("a schema that is there twice")
        for packed in packing.array(state["payloads"]):
            slot, token, last = packing.array(packed, 3)
            if not 0 <= packing.whole(slot) < len(self.keys):
                raise ValueError("bytes of a series that is not there")
            if not 0 <= packing.whole(token) < 1 << 63:
                raise ValueError(f"a number for bytes that cannot be: {token}")
            self.payloads[slot] = (token, packing.octets(last))
        for bus, mark in packing.mapping(state["marks"]).items():
            if abs(packing.whole(mark)) >= 1 << 63:
                raise ValueError(f"a time that cannot be: {mark}")
            self.marks[packing.text(bus)] = mark


def as_kind(words: UInt64, kind: Kind) -> NDArray[Any]:
    """Raw values, kind[n], from their bits, uint64[n]."""
    if kind == "float32":
        return words.astype(np.uint32).view(np.float32)
    return words.view(kind)


def as_words(values: NDArray[Any]) -> UInt64:
    """The bits of raw values, uint64[n]."""
    if values.dtype.itemsize == 4:
        return values.view(np.uint32).astype(np.uint64)
    return values.view(np.uint64)


def _column(packed: object, dtype: np.dtype[Any], n: int) -> NDArray[Any]:
    data = packing.octets(packed)
    if len(data) != n * dtype.itemsize:
        raise ValueError(f"{len(data)} bytes for {n} series of {dtype.itemsize}")
    if dtype == np.bool_ and np.frombuffer(data, np.uint8).max(initial=0) > 1:
        raise ValueError("neither true nor false")
    return np.frombuffer(data, dtype).copy()
