"""Where a value lies in the bytes of an answer, and what it means.

Diagnostic tables count bytes from the left and bits from the most significant one (SAE J1979 calls
them A7 to A0, B7 and so on), so that is how a `Field` counts: bit 0 is A7. Values are read raw;
scale and offset go into the schema.
"""

import dataclasses
import struct
from typing import Final, Literal

from agent.blocks import Codes, Kind, SignalSchema
from agent.errors import ConfigError

FieldKind = Literal["unsigned", "signed", "float", "bytes", "ascii"]

_PAD: Final = b"\x00\xff\x20"  # what ECUs fill up texts with


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One value in the bytes of an answer.

    Attributes:
        name: of the signal.
        byte: the first byte, from 0.
        bit: the first bit in that byte, 0 for the most significant one.
        bits: length. Whole bytes, from bit 0, for all kinds but `unsigned` and `signed`.
        kind: `signed` is two's complement, `float` IEEE 754 of 32 or 64 bits; `bytes` are kept as
            they are; `ascii` loses the padding at its end, and what is no printable character.
        little_endian: the first byte is the least significant one; whole bytes only.
        scale, offset, unit, choices, codes: as in `SignalSchema`.

    Raises:
        ConfigError: a place or a length that cannot be.
    """

    name: str
    byte: int = 0
    bit: int = 0
    bits: int = 8
    kind: FieldKind = "unsigned"
    little_endian: bool = False
    scale: float = 1
    offset: float = 0
    unit: str = ""
    choices: tuple[tuple[int, str], ...] = ()
    codes: Codes = ()

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("a field of a diagnostic answer needs a name")
        if not 0 <= self.byte < 4095 or not 0 <= self.bit < 8 or self.bits < 1:
            raise ConfigError(
                f"field {self.name}: byte {self.byte}, bit {self.bit}, {self.bits} bits long: "
                "is no place in an answer"
            )
        number = self.kind in ("unsigned", "signed")
        if (not number or self.little_endian) and (self.bit or self.bits % 8):
            raise ConfigError(f"field {self.name}: must be whole bytes from bit 0 on")
        if number and self.bits > 64:
            raise ConfigError(
                f"field {self.name}: a number has at most 64 bits, not {self.bits}; "
                'longer ones are of kind "bytes"'
            )
        if self.kind == "float" and self.bits not in (32, 64):
            raise ConfigError(f"field {self.name}: a float has 32 or 64 bits, not {self.bits}")
        if self.end > 4095:
            raise ConfigError(f"field {self.name}: ends beyond the longest answer, 4095 bytes")

    @property
    def end(self) -> int:
        """How many bytes an answer must have for this field."""
        return self.byte + (self.bit + self.bits + 7) // 8

    @property
    def schema(self) -> SignalSchema:
        kinds: dict[FieldKind, Kind] = {
            "unsigned": "uint64",
            "signed": "int64",
            "float": "float32" if self.bits == 32 else "float64",
            "bytes": "bytes",
            "ascii": "bytes",
        }
        return SignalSchema(
            self.name,
            kinds[self.kind],
            self.bits,
            self.scale,
            self.offset,
            self.unit,
            self.choices,
            codes=self.codes,
        )

    def covered(self, length: int) -> bool:
        """Whether an answer of so many bytes holds this field; a text may be cut short."""
        return length > self.byte if self.kind in ("bytes", "ascii") else length >= self.end

    def read(self, data: bytes) -> int | float | bytes:
        """The raw value; bytes are `bits // 8` long, filled up with zeros."""
        part = data[self.byte : self.end]
        if self.kind == "bytes":
            return part.ljust(self.bits // 8, b"\0")
        if self.kind == "ascii":
            text = bytes(c for c in part.rstrip(_PAD) if 0x20 <= c < 0x7F)
            return text.ljust(self.bits // 8, b"\0")
        if self.kind == "float":
            order = "<" if self.little_endian else ">"
            return float(struct.unpack(order + ("f" if self.bits == 32 else "d"), part)[0])
        value = int.from_bytes(part, "little" if self.little_endian else "big")
        value = value >> (-(self.bit + self.bits) % 8) & ((1 << self.bits) - 1)
        if self.kind == "signed" and value >> (self.bits - 1):
            value -= 1 << self.bits
        return value
