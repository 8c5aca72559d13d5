"""Fields from bytes, by the table of an edition. `codec` is the door to this."""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from agent.gbt32960.layout import (
    MAKER_DATA,
    Code,
    Count,
    Field,
    GbtError,
    Item,
    Maybe,
    Number,
    Octets,
    Of,
    Prefix,
    Rest,
    Rows,
    Size,
    SumOf,
    Tagged,
    Text,
    Time,
    Values,
)
from agent.gbt32960.scalars import unpack_text, unpack_time

_STRUCT: Final = {1: "B", 2: "H", 4: "I"}


class Reader:
    """Bytes from the front, and where they are read for."""

    def __init__(self, data: bytes, where: str) -> None:
        self._data = data
        self._at = 0
        self.where = where

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int, what: str) -> bytes:
        if size > self.left:
            raise self.error(f"{what} needs {size} bytes and {self.left} are left")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, width: int, what: str) -> int:
        return int.from_bytes(self.take(width, what), "big")

    def error(self, words: str, back: int = 0) -> GbtError:
        """What is wrong; `back`: how many bytes before the present one."""
        offset = self._at - back
        return GbtError(f"{self.where}, offset {offset}: {words}", offset)


def decode(
    fields: Sequence[Field], reader: Reader, values: Values, outer: Mapping[str, Any]
) -> None:
    """Read fields into `values`; `outer` has earlier values that a count may refer to."""
    for field in fields:
        match field:
            case Number():
                values[field.name] = reader.number(field.width, field.name)
            case Time():
                data = reader.take(6, field.name)
                try:
                    values[field.name] = unpack_time(data)
                except GbtError as error:
                    raise reader.error(str(error), back=6) from error
            case Text():
                size = _size(field.name, field.size, reader, values, outer)
                data = reader.take(size, field.name)
                values[field.name] = unpack_text(data, field.pad, chinese=field.chinese)
            case Octets():
                size = _size(field.name, field.size, reader, values, outer)
                values[field.name] = reader.take(size, field.name)
            case Rows():
                _decode_rows(field, reader, values, outer)
            case Tagged():
                _decode_items(field, reader, values)
            case Maybe() if reader.left:
                decode(field.fields, reader, values, outer)


def _decode_rows(field: Rows, reader: Reader, values: Values, outer: Mapping[str, Any]) -> None:
    count = _count(field.name, field.count, reader, values, outer)
    if isinstance(count, Code):
        values[field.name] = count
        return
    row = field.row
    if isinstance(row, Number):
        data = reader.take(count * row.width, field.name)
        values[field.name] = list(struct.unpack(f">{count}{_STRUCT[row.width]}", data))
        return
    rows: list[Any] = []
    values[field.name] = rows
    if isinstance(row, Text):
        size = _size(field.name, row.size, reader, values, outer)
        for _ in range(count if size else 0):
            data = reader.take(size, field.name)
            rows.append(unpack_text(data, row.pad, chinese=row.chinese))
        return
    for _ in range(count):
        one: Values = {}
        decode(row, reader, one, {})
        rows.append(one)


def _decode_items(field: Tagged, reader: Reader, values: Values) -> None:
    items: list[Item] = []
    values[field.name] = items
    count = field.count
    if isinstance(count, Prefix):
        read = _count(field.name, count, reader, values, {})
        count = 0 if isinstance(read, Code) else read
    where = reader.where
    seen: Values = {}
    while len(items) < count if isinstance(count, int) else reader.left:
        kind = reader.number(1, f"a type of {field.name}")
        known = field.kinds.get(kind, None if kind in field.maker else field.other)
        reader.where = f"{where}, {known.name if known else 'type'} 0x{kind:02X}"
        if known is not None:
            one: Values = {}
            decode(known.fields, reader, one, seen)
            seen.update(one)
            items.append(Item(kind, one))
        elif kind in field.maker:
            size = _size("data", MAKER_DATA.size, reader, {}, {})
            items.append(Item(kind, reader.take(size, "data")))
        else:
            raise reader.error("this type is unknown and has no length to skip it by", back=1)
        reader.where = where
        if kind in field.last:
            return


def _count(
    name: str, count: Count, reader: Reader, values: Mapping[str, Any], outer: Mapping[str, Any]
) -> int | Code:
    if isinstance(count, int):
        return count
    if not isinstance(count, Prefix):
        return refer(name, count, reader.error, values, outer)
    number = reader.number(count.width, f"the count of {name}")
    if count.coded and number >= 256**count.width - 2:
        return Code.INVALID if number & 1 else Code.ABNORMAL
    if number > count.high:
        words = f"the count of {name} is {number}, and {count.high} are allowed"
        raise reader.error(words, back=count.width)
    return number


def _size(
    name: str, size: Size, reader: Reader, values: Mapping[str, Any], outer: Mapping[str, Any]
) -> int:
    if isinstance(size, Rest):
        return reader.left
    count = _count(name, size, reader, values, outer)
    assert isinstance(count, int)  # noqa: S101  no size in the tables is coded
    return count


def refer(
    name: str,
    count: Of | SumOf,
    error: Callable[[str], GbtError],
    values: Mapping[str, Any],
    outer: Mapping[str, Any],
) -> int:
    """A count that earlier values say; the same way in both directions."""
    value = values.get(count.field, outer.get(count.field))
    if isinstance(count, SumOf) and isinstance(value, list):
        if not all(isinstance(one, int) and 0 <= one <= count.high for one in value):
            raise error(f"{count.field} is {value}, and {count.high} are allowed of each")
        return sum(value)
    if not isinstance(count, Of) or not isinstance(value, int):
        raise error(f"{name} needs {count.field}, which does not stand before it")
    if not 0 <= value <= count.high:
        raise error(f"{count.field} is {value}, and {count.high} are allowed")
    return value
