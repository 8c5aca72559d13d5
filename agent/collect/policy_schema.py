"""Schemas as plain values, for what a policy leaves behind at a clean stop."""

from typing import Any, get_args

from agent.blocks import Codes, Kind, SignalSchema, TableSchema, TimeBase

_MAX_BITS = 1 << 16


def pack_signal(signal: SignalSchema) -> list[Any]:
    """A signal's schema, as msgpack can hold it."""
    return [
        signal.name,
        signal.kind,
        signal.bits,
        signal.scale,
        signal.offset,
        signal.unit,
        [list(choice) for choice in signal.choices],
        signal.minimum,
        signal.maximum,
        signal.vss,
        [list(code) for code in signal.codes],
    ]


def unpack_signal(packed: object) -> SignalSchema:
    """A signal's schema from outside.

    Raises:
        ValueError: it is none.
    """
    name, kind, bits, scale, offset, unit, choices, least, most, vss, codes = array(packed, 11)
    size = whole(bits)
    if not 0 < size <= _MAX_BITS:
        raise ValueError(f"a signal of {size} bits")
    return SignalSchema(
        name=text(name),
        kind=_kind(kind),
        bits=size,
        scale=number(scale),
        offset=number(offset),
        unit=text(unit),
        choices=tuple((whole(k), text(v)) for k, v in (array(c, 2) for c in array(choices))),
        minimum=None if least is None else number(least),
        maximum=None if most is None else number(most),
        vss=text(vss),
        codes=_codes(codes),
    )


def pack_table(schema: TableSchema, numbers: list[int]) -> list[Any]:
    """A table's schema; `numbers` are the series of its signals."""
    return [schema.bus, schema.message, schema.source, schema.branch, schema.clock, numbers]


def unpack_table(packed: object, signals: list[SignalSchema]) -> TableSchema:
    """A table's schema from outside, of signals that `pack_table` gave numbers for.

    Raises:
        ValueError: it is none.
    """
    bus, message, source, branch, clock, numbers = array(packed, 6)
    found = [whole(n) for n in array(numbers)]
    if not found or any(not 0 <= n < len(signals) for n in found):
        raise ValueError("a table of signals that are not there")
    schema = TableSchema(
        text(bus),
        text(message),
        tuple(signals[n] for n in found),
        None if source is None else whole(source),
        text(branch),
        _clock(clock),
    )
    if len(schema.place) != len(schema.signals):
        raise ValueError("a table that has a signal twice")
    return schema


def array(value: object, length: int | None = None) -> list[Any]:
    """A list, of so many items.

    Raises:
        ValueError: it is none, as with all that follow.
    """
    if not isinstance(value, list | tuple) or (length is not None and len(value) != length):
        raise ValueError(f"no list of {'some' if length is None else length} items: {value!r:.60}")
    return list(value)


def text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"no text: {value!r:.60}")  # noqa: TRY004 - from a file, not from a caller
    return value


def whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"no whole number: {value!r:.60}")  # noqa: TRY004 - as above
    return value


def number(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"no number: {value!r:.60}")  # noqa: TRY004 - as above
    return value


def octets(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"no bytes: {value!r:.60}")  # noqa: TRY004 - as above
    return value


def mapping(value: object) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"no map: {value!r:.60}")  # noqa: TRY004 - as above
    return value


def _kind(value: object) -> Kind:
    kinds: tuple[Kind, ...] = get_args(Kind)
    for kind in kinds:
        if value == kind:
            return kind
    raise ValueError(f"no kind of value: {value!r:.60}")


def _clock(value: object) -> TimeBase:
    clocks: tuple[TimeBase, ...] = get_args(TimeBase)
    for clock in clocks:
        if value == clock:
            return clock
    raise ValueError(f"no clock: {value!r:.60}")


def _codes(value: object) -> Codes:
    found = []
    for code in array(value):
        first, last, meaning = array(code, 3)
        found.append((whole(first), whole(last), text(meaning)))
    return tuple(found)
