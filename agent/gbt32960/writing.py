"""Bytes from fields, by the table of an edition. `codec` is the door to this."""

from collections.abc import Mapping, Sequence
from typing import Any

from agent.clock import WallNs
from agent.gbt32960.layout import (
    MAKER_DATA,
    Code,
    Field,
    GbtError,
    Item,
    Kind,
    Maybe,
    Number,
    Octets,
    Of,
    Prefix,
    Rest,
    Rows,
    Tagged,
    Text,
    Time,
    Values,
)
from agent.gbt32960.reading import refer
from agent.gbt32960.scalars import pack_text, pack_time


class Writer:
    """Bytes so far, and where they are written for."""

    def __init__(self, where: str, *, checked: bool) -> None:
        self.data = bytearray()
        self.where = where
        self.checked = checked

    def number(self, field: Number, raw: Any) -> None:
        if not isinstance(raw, int) or not 0 <= raw <= field.full:
            raise self.error(f"{field.name} = {raw!r} is no number of {field.width} bytes")
        if self.checked and not field.allowed(raw):
            raise self.error(f"{field.name} = {raw} is out of range")
        self.data += raw.to_bytes(field.width, "big")

    def prefix(self, prefix: Prefix, length: int, what: str) -> None:
        low = prefix.low if self.checked else 0
        if not low <= length <= prefix.high or length >= 256**prefix.width:
            raise self.error(f"{what} has {length}, and {low} to {prefix.high} are allowed")
        self.data += length.to_bytes(prefix.width, "big")

    def error(self, words: str) -> GbtError:
        return GbtError(f"{self.where}: {words}")


def encode(
    fields: Sequence[Field], writer: Writer, values: Mapping[str, Any], outer: Mapping[str, Any]
) -> None:
    """Write fields; every key of `values` must belong to one of them."""
    unknown = set(values) - set(_names(fields))
    if unknown:
        raise writer.error(f"no field is called {min(unknown)}")
    _encode_some(fields, writer, values, outer)


def _names(fields: Sequence[Field]) -> list[str]:
    names: list[str] = []
    for field in fields:
        names += _names(field.fields) if isinstance(field, Maybe) else [field.name]
    return names


def _encode_some(
    fields: Sequence[Field], writer: Writer, values: Mapping[str, Any], outer: Mapping[str, Any]
) -> None:
    for field in fields:
        if isinstance(field, Maybe):
            if not values.keys().isdisjoint(_names(field.fields)):
                _encode_some(field.fields, writer, values, outer)
            continue
        if field.name not in values:
            raise writer.error(f"{field.name} is missing")
        value = values[field.name]
        match field:
            case Number():
                writer.number(field, value)
            case Time():
                if not isinstance(value, int):
                    raise writer.error(f"{field.name} = {value!r} is no time")
                writer.data += pack_time(WallNs(value))
            case Text():
                _encode_text(field, writer, value, values, outer)
            case Octets():
                _encode_octets(field, writer, value, values, outer)
            case Rows():
                _encode_rows(field, writer, value, values, outer)
            case Tagged():
                _encode_items(field, writer, value)


def _encode_text(
    field: Text,
    writer: Writer,
    value: Any,
    values: Mapping[str, Any],
    outer: Mapping[str, Any],
) -> None:
    if not isinstance(value, str):
        raise writer.error(f"{field.name} = {value!r} is no text")
    size = None if isinstance(field.size, Rest) else field.size
    if isinstance(size, Of):
        size = refer(field.name, size, writer.error, values, outer)
    name = f"{writer.where}: {field.name}"
    writer.data += pack_text(name, value, size, field.pad, chinese=field.chinese)


def _encode_octets(
    field: Octets,
    writer: Writer,
    value: Any,
    values: Mapping[str, Any],
    outer: Mapping[str, Any],
) -> None:
    if not isinstance(value, bytes):
        raise writer.error(f"{field.name} = {value!r} is not bytes")
    size = field.size
    if isinstance(size, Prefix):
        writer.prefix(size, len(value), field.name)
    elif not isinstance(size, Rest):
        wanted = (
            size if isinstance(size, int) else refer(field.name, size, writer.error, values, outer)
        )
        if len(value) != wanted:
            raise writer.error(f"{field.name} has {len(value)} bytes and must have {wanted}")
    writer.data += value


def _encode_rows(
    field: Rows,
    writer: Writer,
    value: Any,
    values: Mapping[str, Any],
    outer: Mapping[str, Any],
) -> None:
    count, row = field.count, field.row
    if isinstance(value, Code):
        if not isinstance(count, Prefix) or not count.coded or value is Code.OUT_OF_RANGE:
            raise writer.error(f"{field.name} cannot be {value.value}")
        writer.data += (256**count.width - (1 if value is Code.INVALID else 2)).to_bytes(
            count.width, "big"
        )
        return
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise writer.error(f"{field.name} = {value!r} is no list")
    if isinstance(count, Prefix):
        writer.prefix(count, len(value), field.name)
    else:
        wanted = (
            count
            if isinstance(count, int)
            else refer(field.name, count, writer.error, values, outer)
        )
        none = False
        if isinstance(row, Text) and isinstance(row.size, Of):
            none = not value and refer(field.name, row.size, writer.error, values, outer) == 0
        if len(value) != wanted and not none:
            raise writer.error(f"{field.name} has {len(value)} and must have {wanted}")
    for one in value:
        if isinstance(row, Number):
            writer.number(row, one)
        elif isinstance(row, Text):
            _encode_text(row, writer, one, values, outer)
        elif isinstance(one, Mapping):
            encode(row, writer, one, {})
        else:
            raise writer.error(f"{one!r} is no row of {field.name}")


def _encode_items(field: Tagged, writer: Writer, value: Any) -> None:
    if not isinstance(value, Sequence) or not all(isinstance(one, Item) for one in value):
        raise writer.error(f"{field.name} is no list of items")
    if isinstance(field.count, Prefix):
        writer.prefix(field.count, len(value), field.name)
    elif isinstance(field.count, int) and len(value) != field.count:
        raise writer.error(f"{field.name} has {len(value)} items and must have {field.count}")
    where = writer.where
    seen: Values = {}
    for place, item in enumerate(value, 1):
        known = _kind(field, item, writer)
        writer.where = f"{where}, {known.name if known else 'maker item'} 0x{item.type:02X}"
        if item.type in field.last and place < len(value):
            raise writer.error("nothing may follow it")
        writer.data.append(item.type)
        if known is None:
            _encode_octets(MAKER_DATA, writer, item.values, {}, {})
        elif isinstance(item.values, Mapping):
            encode(known.fields, writer, item.values, seen)
            seen.update(item.values)
        else:
            raise writer.error(f"{item.values!r} are no values")
        writer.where = where


def _kind(field: Tagged, item: Item, writer: Writer) -> Kind | None:
    """How an item is laid out; None for one of the maker."""
    if item.type in field.kinds:
        return field.kinds[item.type]
    if item.type in field.maker:
        return None
    if field.other is None or not 0 <= item.type <= 0xFF:
        raise writer.error(f"{field.name} knows no type 0x{item.type:02X}")
    return field.other
