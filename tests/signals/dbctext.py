"""DBC text for tests, and an obvious reading of it: bits one by one, with whole numbers."""

import dataclasses
import struct
from collections.abc import Iterable, Sequence
from fractions import Fraction

BIG, LITTLE = 0, 1


@dataclasses.dataclass(frozen=True)
class Sig:
    """A signal as a DBC line; `first` is its first bit in the order of its own byte order."""

    name: str
    first: int
    length: int
    order: int = LITTLE
    signed: bool = False
    is_float: bool = False
    scale: str = "1"
    offset: str = "0"
    multiplexer: bool = False
    parent: str = ""
    values: tuple[int, ...] = ()

    @property
    def start(self) -> int:
        """The bit number that a DBC file states."""
        byte, bit = divmod(self.first, 8)
        return 8 * byte + 7 - bit if self.order == BIG else self.first

    @property
    def end(self) -> int:
        """How many bytes a frame needs to hold the signal whole."""
        return -(-(self.first + self.length) // 8)

    def places(self) -> set[int]:
        """Where its bits lie, counted from the lowest bit of each byte."""
        numbers = range(self.first, self.first + self.length)
        return {8 * (n // 8) + 7 - n % 8 if self.order == BIG else n for n in numbers}

    def bits(self, data: bytes) -> int:
        """The signal's bits as a number, one by one."""
        number = 0
        for i in range(self.length):
            byte, bit = divmod(self.first + i, 8)
            if self.order == BIG:
                number = number << 1 | data[byte] >> (7 - bit) & 1
            else:
                number |= (data[byte] >> bit & 1) << i
        return number

    def raw(self, data: bytes) -> int | float:
        """The raw value."""
        number = self.bits(data)
        if self.is_float:
            code = {16: "e", 32: "f", 64: "d"}[self.length]
            value: float = struct.unpack(f">{code}", number.to_bytes(self.length // 8, "big"))[0]
            return value
        if self.signed and number >> (self.length - 1):
            number -= 1 << self.length
        return number

    def exact(self, raw: int) -> Fraction:
        """The physical value without any rounding."""
        return raw * Fraction(self.scale) + Fraction(self.offset)


@dataclasses.dataclass(frozen=True)
class Msg:
    """A message as a DBC block."""

    name: str
    id: int
    size: int
    signals: Sequence[Sig]
    extended: bool = False

    @property
    def number(self) -> int:
        """The id as DBC files write it, which is also how frames have it."""
        return self.id | (0x8000_0000 if self.extended else 0)

    def present(self, data: bytes) -> dict[str, int | float]:
        """Raw values of all signals that lie wholly in the data and that are selected."""
        by_name = {s.name: s for s in self.signals}
        there: dict[str, bool] = {}

        def is_there(signal: Sig) -> bool:
            if signal.name not in there:
                inside = signal.end <= len(data)
                if inside and signal.parent:
                    parent = by_name[signal.parent]
                    inside = is_there(parent) and parent.raw(data) in signal.values
                there[signal.name] = inside
            return there[signal.name]

        return {s.name: s.raw(data) for s in self.signals if is_there(s)}


def text(messages: Iterable[Msg], *, j1939: bool = False) -> str:
    """A whole DBC file."""
    lines = ['VERSION ""', "", "NS_ :", "", "BS_:", "", "BU_: ECU", ""]
    floats, ranges, formats = [], [], []
    for message in messages:
        extended = sum(s.multiplexer for s in message.signals) > 1 or any(
            len(s.values) > 1 for s in message.signals
        )
        lines.append(f"BO_ {message.number} {message.name}: {message.size} ECU")
        for s in message.signals:
            mark = f"m{s.values[0]}" if s.parent else ""
            mark += "M" if s.multiplexer else ""
            lines.append(
                f" SG_ {s.name} {mark}{' ' if mark else ''}: {s.start}|{s.length}@{s.order}"
                f'{"-" if s.signed else "+"} ({s.scale},{s.offset}) [0|0] "" ECU'
            )
            if s.is_float:
                kind = 2 if s.length == 64 else 1
                floats.append(f"SIG_VALTYPE_ {message.number} {s.name} : {kind};")
            if extended and s.parent:
                spans = ", ".join(f"{v}-{v}" for v in s.values)
                ranges.append(f"SG_MUL_VAL_ {message.number} {s.name} {s.parent} {spans};")
        if j1939:
            formats.append(f'BA_ "VFrameFormat" BO_ {message.number} 3;')
        lines.append("")
    if j1939:
        names = ",".join(f'"{n}"' for n in ("StandardCAN", "ExtendedCAN", "reserved", "J1939PG"))
        lines += [f'BA_DEF_ BO_ "VFrameFormat" ENUM {names};', 'BA_DEF_DEF_ "VFrameFormat" "";']
    return "\n".join([*lines, *formats, *floats, *ranges, ""])
