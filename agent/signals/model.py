"""Messages and signals as the decoder needs them, whatever file they came from."""

import dataclasses
import functools

from agent.blocks import Kind, SignalSchema


@dataclasses.dataclass(frozen=True, slots=True)
class Signal:
    """One signal of a message.

    `start` is the bit number that the file gives: of the lowest bit where little-endian, of the
    highest bit where big-endian, bits numbered 0 to 7 from the lowest within each byte.
    """

    schema: SignalSchema
    start: int
    length: int
    big_endian: bool
    multiplexer: bool = False
    parent: str = ""
    """The multiplexer that selects this signal; empty where it is always there."""
    selected_by: frozenset[int] = frozenset()
    """The multiplexer's raw values with which this signal is there."""

    @property
    def name(self) -> str:
        return self.schema.name

    @property
    def first_bit(self) -> int:
        """The position of the signal's first bit in the order of its own byte order.

        Little-endian: bits counted upward from the lowest bit of byte 0. Big-endian: downward from
        the highest bit of byte 0.
        """
        return 8 * (self.start // 8) + 7 - self.start % 8 if self.big_endian else self.start

    @property
    def first_byte(self) -> int:
        return self.first_bit // 8

    @property
    def end_byte(self) -> int:
        """How many bytes a frame must have for this signal to lie wholly inside."""
        return (self.first_bit + self.length + 7) // 8


@dataclasses.dataclass(frozen=True)
class Message:
    name: str
    id: int
    """Without flag bits."""
    extended: bool
    length: int
    signals: tuple[Signal, ...]
    j1939: bool = False
    cycle_ms: int | None = None

    @property
    def pgn(self) -> int:
        """SAE J1939-21: the destination of a PDU1 format is no part of the group number."""
        pgn = self.id >> 8 & 0x3FFFF
        return pgn & 0x3FF00 if (pgn >> 8 & 0xFF) < 240 else pgn

    @functools.cached_property
    def by_name(self) -> dict[str, Signal]:
        return {s.name: s for s in self.signals}


def kind_of(*, length: int, signed: bool, is_float: bool) -> Kind:
    """The column type that holds a raw value exactly."""
    if is_float:
        return "float64" if length == 64 else "float32"
    if length > 64:
        return "bytes"
    return "int64" if signed else "uint64"
