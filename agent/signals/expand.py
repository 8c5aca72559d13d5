"""Lists whose length the message decides: no database file can describe them, so they are built in.

An expander is enabled by name (`expand = ["DM1"]` in a plan's `[[database]]`). It makes a message
of its own, `DM1_DTC`, whose table has a row for each entry of the list: `Number`, counted from 1,
and the fields of the entry. All rows of one payload have the payload's time. What stands in front
of the list stays with the message itself (`DM1`): as the database file describes it or, where no
file has its PGN, as described here. Names have no dot, because a dot separates parts of an address:
`DM1_DTC.SPN` selects a signal like any other.

    DM1, DM2  SAE J1939-73 5.7.1, 5.7.2: two bytes of lamps, then 4 bytes for each trouble code:
              SPN bits 0-15, FMI 5 bits, SPN bits 16-18, occurrence count 7 bits, conversion 1 bit
    BMV       GB/T 27930: 2 bytes for each cell: voltage 12 bits, group 4 bits
    BMT       GB/T 27930: 1 byte for each probe

Bytes behind the last whole entry are padding. SPN is read as version 4 of J1939-73 has it; a code
whose conversion bit CM is 1 comes from an older device, which may order it in another way.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.blocks import FrameBlock, Kind, SignalSchema, SignalTable, TableSchema, UInt64
from agent.errors import ConfigError
from agent.signals.model import Message, Signal

NUMBER: Final = "Number"


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One field of an entry: pieces of (first bit, bits), the lowest piece first."""

    schema: SignalSchema
    pieces: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Expander:
    """How the list of a message is laid out."""

    message: Message
    """The message itself, where no file describes its PGN."""
    name: str
    """Of the message that the entries make."""
    begin: int
    """Bytes in front of the list."""
    size: int
    """Bytes of an entry: 1, 2 or 4, little-endian."""
    fields: tuple[Field, ...]
    nothing: tuple[int, ...] = ()
    """Entries that say that there is none."""

    @property
    def pgn(self) -> int:
        return self.message.pgn

    @functools.cached_property
    def signals(self) -> tuple[SignalSchema, ...]:
        number = SignalSchema(NUMBER, "uint64", 16)
        return (number, *(field.schema for field in self.fields))


class ListPlan:
    """An expander with the signals that somebody wants."""

    def __init__(self, expander: Expander, wanted: Iterable[str]) -> None:
        names = set(wanted)
        self._expander = expander
        self._schemas = tuple(s for s in expander.signals if s.name in names)
        self._fields = tuple(f for f in expander.fields if f.schema.name in names)
        self._known: dict[tuple[str, int | None, str], TableSchema] = {}

    def tables(self, frames: FrameBlock, source: int | None) -> list[SignalTable]:
        """The entries of n payloads of one sender: no table where there are none."""
        if not self._schemas:
            return []
        rows, columns, words = _entries(self._expander, frames)
        if not len(rows):
            return []
        values = np.empty((len(self._schemas), len(rows)), np.uint64)
        if self._schemas[0].name == NUMBER:
            values[0] = columns + 1
        for out, field in zip(values[len(values) - len(self._fields) :], self._fields, strict=True):
            out[:] = _field(words, field.pieces)
        kinds: dict[Kind, NDArray[Any]] = {"uint64": values}
        return [SignalTable(self._schema(frames, source), frames.time[rows], kinds)]

    def _schema(self, frames: FrameBlock, source: int | None) -> TableSchema:
        key = (frames.bus, source, frames.clock)
        schema = self._known.get(key)
        if schema is None:
            schema = self._known[key] = TableSchema(
                bus=frames.bus,
                message=self._expander.name,
                signals=self._schemas,
                source=source,
                clock=frames.clock,
                entries=True,
            )
        return schema


def _entries(
    expander: Expander, frames: FrameBlock
) -> tuple[NDArray[np.intp], NDArray[np.intp], UInt64]:
    """Of each entry: the row of its payload, its place in the list, and its bits."""
    begin, size = expander.begin, expander.size
    counts = np.maximum(frames.length.astype(np.intp) - begin, 0) // size
    most = int(counts.max(initial=0))
    cells = np.ascontiguousarray(frames.data[:, begin : begin + most * size])
    words = cells.view(f"<u{size}").astype(np.uint64)
    there = np.arange(most) < counts[:, None]
    for nothing in expander.nothing:
        there &= words != np.uint64(nothing)
    rows, columns = np.nonzero(there)
    return rows, columns, words[rows, columns]


def _field(words: UInt64, pieces: Sequence[tuple[int, int]]) -> UInt64:
    value = np.zeros(len(words), np.uint64)
    below = 0
    for first, bits in pieces:
        value |= (words >> np.uint64(first) & np.uint64((1 << bits) - 1)) << np.uint64(below)
        below += bits
    return value


def find(names: Iterable[str]) -> tuple[Expander, ...]:
    """The expanders of these names, each once.

    Raises:
        ConfigError: there is none of such a name.
    """
    chosen = dict.fromkeys(names)
    for name in chosen:
        if name not in EXPANDERS:
            raise ConfigError(f'expand: nothing is called "{name}"; there are: {_known()}')
    return tuple(EXPANDERS[name] for name in chosen)


def _known() -> str:
    return ", ".join(EXPANDERS)


def _field_of(name: str, *pieces: tuple[int, int], **schema: Any) -> Field:
    bits = sum(length for _, length in pieces)
    return Field(SignalSchema(name, "uint64", bits, **schema), pieces)


_LAMP = ((0, "Off"), (1, "On"), (2, "Error"), (3, "Not available"))
_FLASH = ((0, "Slow"), (1, "Fast"), (2, "Reserved"), (3, "Does not flash"))


def _lamps() -> tuple[Signal, ...]:
    """J1939-73 5.7.1.1 to 5.7.1.8: lamps in byte 1, how they flash in byte 2."""
    lamps = ("ProtectLamp", "AmberWarningLamp", "RedStopLamp", "MalfunctionIndicatorLamp")
    placed = [(name, 2 * i, _LAMP) for i, name in enumerate(lamps)]
    placed += [(f"{name}Flash", 8 + 2 * i, _FLASH) for i, name in enumerate(lamps)]
    return tuple(
        Signal(SignalSchema(name, "uint64", 2, choices=choices), start, 2, big_endian=False)
        for name, start, choices in placed
    )


def _message(
    name: str, number: int, signals: tuple[Signal, ...] = (), cycle_ms: int | None = None
) -> Message:
    return Message(
        name, number, extended=True, length=0, signals=signals, j1939=True, cycle_ms=cycle_ms
    )


_DTC = (
    _field_of("SPN", (0, 16), (21, 3)),
    _field_of("FMI", (16, 5)),
    _field_of("CM", (31, 1)),
    _field_of("OC", (24, 7)),
)
# Zeros say "no trouble code", and so did all ones in an older edition (5.7.1).
_NO_DTC = (0, 0xFFFF_FFFF)

EXPANDERS: Final[Mapping[str, Expander]] = {
    "DM1": Expander(_message("DM1", 0x18FECAFE, _lamps(), 1000), "DM1_DTC", 2, 4, _DTC, _NO_DTC),
    "DM2": Expander(_message("DM2", 0x18FECBFE, _lamps()), "DM2_DTC", 2, 4, _DTC, _NO_DTC),
    "BMV": Expander(
        _message("BMV", 0x1C1556F4, cycle_ms=10_000),
        "BMV_Cell",
        0,
        2,
        (
            _field_of("Voltage", (0, 12), scale=0.01, unit="V"),
            _field_of("Group", (12, 4)),
        ),
    ),
    "BMT": Expander(
        _message("BMT", 0x1C1656F4, cycle_ms=10_000),
        "BMT_Probe",
        0,
        1,
        (_field_of("Temperature", (0, 8), offset=-50, unit="degC"),),
    ),
}
"""By the name that enables them."""
