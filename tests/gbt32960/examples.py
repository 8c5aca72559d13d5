"""Hypothesis strategies that make the values of any data unit from the tables of an edition."""

import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from agent.clock import SECOND
from agent.gbt32960.codec import GBT2016, GBT2025, Codec
from agent.gbt32960.layout import (
    Code,
    Field,
    Item,
    Kind,
    Maybe,
    Number,
    Octets,
    Of,
    Prefix,
    Rest,
    Rows,
    SumOf,
    Tagged,
    Text,
    Time,
)

CODECS = {"2016": GBT2016, "2025": GBT2025}
COMMANDS = [
    (edition, command, ack)
    for edition, codec in CODECS.items()
    for command in codec.layout.commands
    for ack in (0xFE, 0x01)
    if command < 0xC1
]
ITEMS = [(edition, kind) for edition, codec in CODECS.items() for kind in codec.layout.items]
NANOSECONDS = st.integers(946_656_000, 4_102_415_999).map(lambda seconds: seconds * SECOND)
# Lengths of texts, and numbers of lists that another field counts, stay small.
_FEW = 4


def raw_of(field: Number) -> st.SearchStrategy[int]:
    """Raw values that may be sent: the ends, the codes and the labels more often than by chance."""
    if field.parts:
        parts = [
            st.sampled_from(sorted(part.labels)) if part.labels else st.integers(0, 1)
            for part in field.parts
        ]
        names = [part.name for part in field.parts]
        return st.tuples(*parts).map(
            lambda values: field.join(dict(zip(names, values, strict=True)))
        )
    special = [*field.labels, field.abnormal, field.invalid, *(field.range or ())]
    chosen = st.sampled_from([raw for raw in special if raw is not None])
    return chosen if field.range is None else st.one_of(st.integers(*field.range), chosen)


@st.composite
def values_of(
    draw: st.DrawFn, fields: Sequence[Field], outer: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The values of some fields, as `Codec.decode` gives them."""
    values: dict[str, Any] = {}
    counts = {
        field.count.field
        for field in fields
        if isinstance(field, Rows | Tagged) and isinstance(field.count, Of | SumOf)
    }
    for field in fields:
        match field:
            case Number():
                small = field.name in counts or field.name.endswith("_length")
                values[field.name] = draw(st.integers(0, _FEW) if small else raw_of(field))
            case Time():
                values[field.name] = draw(NANOSECONDS)
            case Text():
                size = _size_of(field.size, values, outer or {})
                values[field.name] = draw(text_of(field, size))
            case Octets():
                most = 40 if isinstance(field.size, Rest | Prefix) else None
                assert most is not None, "no octets of the tables have another size"
                values[field.name] = draw(st.binary(max_size=most))
            case Rows():
                values[field.name] = draw(rows_of(field, values, small=field.name in counts))
            case Tagged():
                values[field.name] = draw(items_of(field))
            case Maybe():
                if draw(st.booleans()):
                    more = draw(values_of(field.fields))
                    values |= more if any(value != b"" for value in more.values()) else {}
    return values


def _size_of(
    size: "int | Of | Rest", values: Mapping[str, Any], outer: Mapping[str, Any]
) -> int | None:
    if isinstance(size, Of):
        found: int = values.get(size.field, outer.get(size.field))
        return found
    return size if isinstance(size, int) else None


def text_of(field: Text, size: int | None) -> st.SearchStrategy[str]:
    """Texts that fit and do not end like padding."""
    letters = string.ascii_letters + string.digits + ("电池温度高" if field.chinese else "")
    room = 20 if size is None else size
    texts = st.text(letters, max_size=room)
    return texts.filter(lambda text: len(text.encode("gb18030")) <= room)


@st.composite
def rows_of(draw: st.DrawFn, field: Rows, values: Mapping[str, Any], *, small: bool = False) -> Any:
    low, high = 0, _FEW
    match field.count:
        case Prefix():
            if field.count.coded and draw(st.integers(0, 9)) == 0:
                return draw(st.sampled_from([Code.ABNORMAL, Code.INVALID]))
            low = field.count.low
        case SumOf():
            low = high = sum(values[field.count.field])
        case Of():
            low = high = values[field.count.field]
        case int():
            low = high = field.count
    row = field.row
    if isinstance(row, Number):
        numbers = st.integers(0, 2) if small else raw_of(row)
        return draw(st.lists(numbers, min_size=low, max_size=high))
    if isinstance(row, Text):
        size = _size_of(row.size, values, {})
        return draw(st.lists(text_of(row, size), min_size=low, max_size=high)) if size else []
    return draw(st.lists(values_of(row), min_size=low, max_size=high))


@st.composite
def items_of(draw: st.DrawFn, field: Tagged) -> list[Item]:
    """Items of some types in any order; what counts a later one comes before it."""
    types = [*field.kinds, *([0x80, 0xFE] if field.maker else []), *([0x55] if field.other else [])]
    once = isinstance(field.count, int)
    size = field.count if isinstance(field.count, int) else draw(st.integers(0, _FEW))
    items: list[Item] = []
    seen: dict[str, Any] = {}
    for kind in draw(st.permutations(types))[:size]:
        known = field.kinds.get(kind, field.other)
        if known is None:
            items.append(Item(kind, draw(st.binary(min_size=1, max_size=40))))
            continue
        if kind in field.last and not once:
            continue
        needed = _counter_of(field, known)
        if needed is not None and needed not in [item.type for item in items]:
            continue
        values = draw(values_of(known.fields, seen))
        seen |= values
        items.append(Item(kind, values))
    last = [kind for kind in field.last if draw(st.booleans())]
    return items + [Item(kind, draw(values_of(field.kinds[kind].fields))) for kind in last]


def _counter_of(field: Tagged, kind: Kind) -> int | None:
    """The type of the item that says how long this one is."""
    for one in kind.fields:
        if isinstance(one, Text) and isinstance(one.size, Of):
            return next(t for t, k in field.kinds.items() if k.name == one.size.field)
    return None


def numbers_of(codec: Codec) -> Iterator[tuple[str, Number]]:
    """Every number of the information types, as "item.field" or "item.list.field"."""
    for kind in codec.layout.items.values():
        yield from _numbers(kind.name, kind.fields)


def _numbers(where: str, fields: Sequence[Field]) -> Iterator[tuple[str, Number]]:
    for field in fields:
        if isinstance(field, Number):
            yield f"{where}.{field.name}", field
        elif isinstance(field, Rows) and isinstance(field.row, Number):
            yield f"{where}.{field.name}", field.row
        elif isinstance(field, Rows) and isinstance(field.row, tuple):
            yield from _numbers(f"{where}.{field.name}", field.row)
