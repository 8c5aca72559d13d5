"""The words in which an edition of GB/T 32960.3 is described.

An edition is data: commands, information types and fields, built from the few kinds of field here.
`codec` reads and writes data units by them, and tests make their examples from them; nothing else
knows where a field lies. All numbers are big-endian and unsigned.

    Number   1, 2 or 4 bytes; physical = raw / steps + offset. Codes of "abnormal" and "invalid" are
             the two highest values of its width, unless `coded` is false.
    Text     of a fixed length, padded, in ASCII or where it may be Chinese in GB 18030
    Octets   bytes of which nothing is known
    Time     6 bytes of Beijing time, nanoseconds of UTC outside
    Rows     a list, of one field (values) or of several (dicts)
    Tagged   a list of `Item`, each with a type byte that says what it holds
    Maybe    fields that may be left out at the end of a data unit

How many there are of something is an int, or one of these:

    Prefix   a number right before it, which is not a value of its own
    Of       the value of an earlier field
    SumOf    the sum of an earlier list
    REST     whatever is left
"""

import dataclasses
import enum
import math
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from agent.errors import UplinkError

# A data unit by the names of its fields: see `codec`.
Values: TypeAlias = dict[str, Any]


Edition: TypeAlias = Literal[2016, 2025]


class GbtError(UplinkError):
    """A data unit or frame that is not as the standard has it, or a value that does not fit.

    Attributes:
        offset: byte of the data unit (or frame) at which it was noticed; None while encoding.
        partial: values that were decoded before that, where there are any.
    """

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message)
        self.offset = offset
        self.partial: Values | None = None


class Code(enum.Enum):
    """What stands in the place of a physical value where there is none."""

    ABNORMAL = "abnormal"
    INVALID = "invalid"
    OUT_OF_RANGE = "out of range"


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One tagged item: an information type, a parameter or a control command.

    `values` are a dict of the fields, or the bytes of an item whose content the maker defines.
    """

    type: int
    values: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Prefix:
    """A count of `width` bytes. With `coded`, abnormal and invalid mean that there is no list."""

    width: Literal[1, 2]
    low: int = 0
    high: int = 0xFFFF
    coded: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Of:
    field: str
    high: int


@dataclasses.dataclass(frozen=True, slots=True)
class SumOf:
    """`high`: what each of the numbers may be at most."""

    field: str
    high: int


class Rest(enum.Enum):
    REST = "rest"


REST: Final = Rest.REST
Count: TypeAlias = int | Prefix | Of | SumOf
Size: TypeAlias = int | Prefix | Of | Rest


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """Some bits of a number; bit 0 is the least significant."""

    name: str
    shift: int
    width: int = 1
    labels: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def of(self, raw: int) -> int:
        """What these bits of a number say."""
        return raw >> self.shift & ((1 << self.width) - 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Number:
    """An unsigned number.

    Attributes:
        width: in bytes.
        steps: raw steps in one unit, the reciprocal of the scale.
        offset: in units.
        low: smallest raw value; with `high`, the range that the standard gives.
        high: largest raw value. None where only `labels` are allowed, or where there is no range.
        coded: whether the two highest values mean abnormal and invalid.
        labels: values with a meaning of their own, inside the range or beyond it.
        parts: the bits, where the number is made of bits; all others are zero.
        full: the highest value of the width.
        abnormal: the code, None where there is none.
        invalid: as `abnormal`.
        mask: all bits that have a meaning; every bit where there are no parts.
        range: lowest and highest raw value; None where only labelled values are allowed.
    """

    name: str
    width: Literal[1, 2, 4]
    unit: str = ""
    steps: int = 1
    offset: int = 0
    low: int = 0
    high: int | None = None
    coded: bool = True
    labels: Mapping[int, str] = dataclasses.field(default_factory=dict)
    parts: tuple[Part, ...] = ()

    full: int = dataclasses.field(init=False, repr=False, compare=False)
    abnormal: int | None = dataclasses.field(init=False, repr=False, compare=False)
    invalid: int | None = dataclasses.field(init=False, repr=False, compare=False)
    mask: int = dataclasses.field(init=False, repr=False, compare=False)
    range: tuple[int, int] | None = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        full = (1 << 8 * self.width) - 1
        mask = sum(((1 << part.width) - 1) << part.shift for part in self.parts)
        span = None
        if self.high is not None:
            span = self.low, self.high
        elif not self.labels:
            span = self.low, full - 2 if self.coded else full
        derived = {
            "full": full,
            "abnormal": full - 1 if self.coded else None,
            "invalid": full if self.coded else None,
            "mask": mask if self.parts else full,
            "range": span,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def scale(self) -> float:
        return 1 / self.steps

    def in_range(self, raw: int) -> bool:
        """Whether it is a value: not a code, and what the standard allows."""
        if raw in self.labels:
            return True
        if self.range is None or not self.range[0] <= raw <= self.range[1]:
            return False
        if not self.parts:
            return True
        labelled = (part for part in self.parts if part.labels)
        return not raw & ~self.mask and all(part.of(raw) in part.labels for part in labelled)

    def allowed(self, raw: int) -> bool:
        """Whether it may be sent: a value or a code."""
        return self.in_range(raw) or raw in (self.abnormal, self.invalid)

    def code(self, raw: int) -> Code | None:
        """Which code it is, None where it is a value."""
        if self.coded and raw >= self.full - 1:
            return Code.INVALID if raw == self.full else Code.ABNORMAL
        return None if self.in_range(raw) else Code.OUT_OF_RANGE

    def physical(self, raw: int) -> int | float | Code:
        """In `unit`; an int where a step is one unit. A label beyond the range gives itself."""
        code = self.code(raw)
        if code is not None:
            return code
        if raw in self.labels:
            return raw
        value = raw + self.offset * self.steps
        return value if self.steps == 1 else value / self.steps

    def raw(self, physical: float | None) -> int:
        """The nearest raw value: abnormal where it is out of range, invalid for None and NaN.

        Raises:
            GbtError: it needs a code, and this number has none.
        """
        code, what = self.abnormal, f"{physical} {self.unit}".rstrip()
        if physical is None or math.isnan(physical):
            code, what = self.invalid, "no value"
        elif math.isfinite(physical):
            raw = round((physical - self.offset) * self.steps)
            # A label beyond the range is no quantity: nothing is rounded to it.
            label = self.range is not None and raw in self.labels
            if self.in_range(raw) and (not label or raw == physical):
                return raw
        if code is None:
            raise GbtError(f"{self.name} has no code for {what}")
        return code

    def flags(self, raw: int) -> tuple[str, ...]:
        """Names of the single bits that are set."""
        return tuple(p.name for p in self.parts if p.width == 1 and raw >> p.shift & 1)

    def split(self, raw: int) -> dict[str, int]:
        """All parts by name."""
        return {part.name: part.of(raw) for part in self.parts}

    def join(self, parts: Mapping[str, int]) -> int:
        """A raw value from some of its parts; the others are zero.

        Raises:
            GbtError: there is no such part, or the value is too wide for it.
        """
        known = {part.name: part for part in self.parts}
        raw = 0
        for name, value in parts.items():
            part = known.get(name)
            if part is None or not 0 <= value < 1 << part.width:
                raise GbtError(f"{self.name} cannot hold {name} = {value}")
            raw |= value << part.shift
        return raw


@dataclasses.dataclass(frozen=True, slots=True)
class Text:
    """A text; `chinese`: whether GB 18030 is to be expected, of which ASCII is a part.

    Bytes that are neither survive as surrogates, as in the names of files.
    """

    name: str
    size: int | Of | Rest
    pad: bytes = b"\0"
    chinese: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Octets:
    name: str
    size: Size


@dataclasses.dataclass(frozen=True, slots=True)
class Time:
    name: str = "time"


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """A list: of values where `row` is one field, of dicts where it is several.

    Texts of no length are not sent at all: whatever the count, the list reads as empty.
    """

    name: str
    count: Count
    row: "Number | Text | tuple[Field, ...]"


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """What an item of one type holds."""

    name: str
    fields: "tuple[Field, ...]"


@dataclasses.dataclass(frozen=True, slots=True)
class Tagged:
    """Items with a type byte each.

    Attributes:
        count: how many; REST for as many as there are.
        kinds: what is known, by type.
        maker: types of maker items: a length of two bytes, and bytes.
        other: how any other type is read. None: it ends the data unit, as its length is unknown.
        last: types after which nothing may follow.
    """

    name: str
    count: int | Prefix | Rest
    kinds: Mapping[int, Kind]
    maker: range = range(0)
    other: Kind | None = None
    last: frozenset[int] = frozenset()


@dataclasses.dataclass(frozen=True, slots=True)
class Maybe:
    fields: "tuple[Field, ...]"


Field: TypeAlias = Number | Text | Octets | Time | Rows | Tagged | Maybe


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """A command: what it asks with, what is answered, and which way it goes from the vehicle."""

    name: str
    fields: tuple[Field, ...]
    answer: tuple[Field, ...]
    up: bool = True
    down: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """An edition.

    Attributes:
        name: its year.
        start: the two bytes before each frame.
        commands: by command id.
        items: information types by type byte.
        parameters: parameters of the terminal by id.
        acks: what the ack flag of an answer means.
        encryptions: what the encryption byte means.
    """

    name: str
    start: bytes
    commands: Mapping[int, Command]
    items: Mapping[int, Kind]
    parameters: Mapping[int, Kind]
    acks: Mapping[int, str]
    encryptions: Mapping[int, str]


# The ack flag of a frame that asks; every other value is an answer.
COMMAND: Final = 0xFE
# The bytes of an answer that is no more than an acknowledgement. Field practice differs: the whole
# data unit comes back, or its time only, or nothing.
ECHO: Final[tuple[Field, ...]] = (Maybe((Time(), Maybe((Octets("echo", REST),)))),)
# Maker items of both editions.
MAKER: Final = range(0x80, 0xFF)
MAKER_DATA: Final = Octets("data", Prefix(2, 1, 65531))
# Nobody but the two ends knows what lies in these.
CUSTOM: Final = {
    command: Command("platform_custom", (Octets("data", REST),), (Octets("data", REST),), down=True)
    for command in range(0xC0, 0xFF)
}


def labels(*names: str, first: int = 1) -> dict[int, str]:
    """Consecutive labels."""
    return dict(enumerate(names, first))


def bits(*names: str) -> tuple[Part, ...]:
    """Single bits, from bit 0 up."""
    return tuple(Part(name, shift) for shift, name in enumerate(names))
