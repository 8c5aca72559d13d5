"""Schema records: what the columns of a table mean, written at first use in a batch."""

from typing import Any, get_args

from agent.batch.columns import ReadSchema
from agent.blocks import Kind, SignalSchema, TableSchema, TimeBase
from agent.errors import BatchError

_DEFAULTS: dict[str, Any] = {
    "scale": 1,
    "offset": 0,
    "unit": "",
    "minimum": None,
    "maximum": None,
    "vss": "",
}


def pack_schema(schema_id: int, schema: TableSchema, campaign: str) -> dict[str, Any]:
    """The map of a schema record; what has its default value is left out."""
    record: dict[str, Any] = {
        "id": schema_id,
        "bus": schema.bus,
        "message": schema.message,
        "clock": schema.clock,
        "signals": [_pack_signal(s) for s in schema.signals],
    }
    if schema.source is not None:
        record["source"] = schema.source
    if schema.branch:
        record["branch"] = schema.branch
    if campaign:
        record["campaign"] = campaign
    return record


def _pack_signal(signal: SignalSchema) -> dict[str, Any]:
    record: dict[str, Any] = {"name": signal.name, "kind": signal.kind, "bits": signal.bits}
    for key, default in _DEFAULTS.items():
        if (value := getattr(signal, key)) != default:
            record[key] = value
    if signal.choices:
        record["choices"] = dict(signal.choices)
    if signal.codes:
        record["codes"] = [list(code) for code in signal.codes]
    return record


def unpack_schema(record: dict[str, Any]) -> tuple[int, ReadSchema]:
    """A schema from outside.

    Raises:
        BatchError: a part is missing or of the wrong type.
    """
    try:
        schema = TableSchema(
            bus=_text(record["bus"]),
            message=_text(record["message"]),
            signals=tuple(_unpack_signal(s) for s in record["signals"]),
            source=_whole(record["source"]) if "source" in record else None,
            branch=_text(record.get("branch", "")),
            clock=_one_of(record["clock"], get_args(TimeBase)),
        )
        if len(schema.place) != len(schema.signals):
            raise BatchError("a schema names a signal twice")
        return _whole(record["id"]), ReadSchema(schema, _text(record.get("campaign", "")))
    except (KeyError, TypeError, AttributeError) as e:
        raise BatchError(f"a schema lacks a part or has it in the wrong form: {e}") from e


def _unpack_signal(record: dict[str, Any]) -> SignalSchema:
    kind: Kind = _one_of(record["kind"], get_args(Kind))
    bits = _whole(record["bits"])
    if not 0 < bits <= 1 << 16:
        raise BatchError(f"a signal of {bits} bits")
    minimum, maximum = record.get("minimum"), record.get("maximum")
    return SignalSchema(
        name=_text(record["name"]),
        kind=kind,
        bits=bits,
        scale=_number(record.get("scale", 1)),
        offset=_number(record.get("offset", 0)),
        unit=_text(record.get("unit", "")),
        choices=tuple((_whole(k), _text(v)) for k, v in record.get("choices", {}).items()),
        minimum=None if minimum is None else _number(minimum),
        maximum=None if maximum is None else _number(maximum),
        vss=_text(record.get("vss", "")),
        codes=tuple(_unpack_code(code) for code in record.get("codes", ())),
    )


def _unpack_code(code: Any) -> tuple[int, int, str]:
    if not isinstance(code, list) or len(code) != 3:
        raise TypeError(f"{code!r} is no list of first, last, meaning")
    first, last, meaning = _whole(code[0]), _whole(code[1]), _text(code[2])
    if first > last:
        raise BatchError(f"a code from {first} to {last}")
    return first, last, meaning


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


def _one_of(value: Any, choices: tuple[Any, ...]) -> Any:
    if value not in choices:
        raise TypeError(f"{value!r} is none of {', '.join(choices)}")
    return value
