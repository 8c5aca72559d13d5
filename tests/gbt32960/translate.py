"""What the agent's codec reads, in the words of the second decoder, so that they can be compared.

Two different shapes of the same thing: names differ, the codec leaves counts and single bits out
where lists and raw values say the same, and gives times as nanoseconds of UTC.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agent.clock import WallNs
from agent.gbt32960.codec import pack_time
from agent.gbt32960.envelope import Frame
from agent.gbt32960.layout import COMMAND, Code, Item, Kind, Number
from agent.gbt32960.layout2025 import SIGNATURE_TYPE
from tests.gbt32960.second_items import Record

_EXTREMES: Final = {
    f"{what}_{which}{mine}": f"{which}_{what}{theirs}"
    for what, place in (("voltage", "cell"), ("temperature", "probe"))
    for which in ("max", "min")
    for mine, theirs in (("_subsystem", "_system"), (f"_{place}", f"_{place}"), ("", ""))
}
_HYDROGEN: Final = {
    "hydrogen_temperature_max": "hydrogen_temperature",
    "hydrogen_concentration_max": "concentration",
    "hydrogen_concentration_sensor": "concentration_sensor",
    "hydrogen_pressure_max": "pressure",
    "hydrogen_pressure_sensor": "pressure_sensor",
    "dc_dc": "dcdc",
}
# Names that differ: of the fields of a record of the second decoder.
RENAMED: Final[dict[str, dict[str, str]]] = {
    "vehicle": {
        "total_voltage": "voltage",
        "total_current": "current",
        "dc_dc": "dcdc",
        "gear_byte": "gear",
        "insulation_resistance": "insulation",
        "accelerator_pedal": "accelerator",
        "brake_pedal": "brake",
    },
    "motor": {"controller_voltage": "voltage", "controller_current": "current"},
    "fuel_cell": {**_HYDROGEN, "probe_temperatures": "probes"},
    "hydrogen": {**_HYDROGEN, "dc_dc_temperature": "dcdc_temperature"},
    "engine": {"speed": "crankshaft", "consumption": "fuel"},
    "extremes": _EXTREMES,
    "supercapacitor_extremes": _EXTREMES,
    "pack_voltages": {"total_cells": "cell_total"},
    "stack": {
        "hydrogen_inlet_pressure": "hydrogen_pressure",
        "air_inlet_pressure": "air_pressure",
        "air_inlet_temperature": "air_temperature",
        "coolant_temperatures": "probes",
    },
}
# Lists of records: the item or record, the name of the list, and of what; then of plain values:
# the name of the count and how many bytes it has.
_ROWS: Final = {
    ("motors", "motors"): "motor",
    ("cell_voltages", "packs"): "pack_voltages",
    ("temperatures", "packs"): "pack_temperatures",
    ("stacks", "stacks"): "stack",
}
_LISTS: Final = {
    ("fuel_cell", "probes"): ("count", 2),
    ("pack_temperatures", "probes"): ("probe_count", 2),
    ("stack", "probes"): ("probe_count", 2),
    ("supercapacitor", "cells"): ("cell_count", 2),
    ("supercapacitor", "probes"): ("probe_count", 2),
    ("alarms", "battery_faults"): ("battery_count", 1),
    ("alarms", "motor_faults"): ("motor_count", 1),
    ("alarms", "engine_faults"): ("engine_count", 1),
    ("alarms", "other_faults"): ("other_count", 1),
}


def data_of(frame: Frame) -> Record | None:
    """The data unit of a frame as `second.decode` has it in `data`.

    Raises:
        GbtError: it is malformed.
    """
    edition, command = int(frame.codec.layout.name), frame.command
    if frame.encryption != 1 or command >= 0xC0:
        return None
    values = frame.decode()
    if frame.ack != COMMAND and command != 0x0A and "parameters" not in values:
        echo = values.get("echo", b"")
        if not echo:
            return {"time": _time(values["time"])} if "time" in values else {}
        return data_of(Frame(frame.codec, command, COMMAND, frame.vin, frame.body))
    return _unit(edition, command, values, frame)


def has_surrogates(value: Any) -> bool:
    """Whether some text in it was none."""
    if isinstance(value, str):
        return any("\udc80" <= letter <= "\udcff" for letter in value)
    if isinstance(value, Mapping):
        return any(has_surrogates(one) for one in value.values())
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return any(has_surrogates(one) for one in value)
    return isinstance(value, Item) and has_surrogates(value.values)


def _time(nanoseconds: int) -> list[int]:
    return list(pack_time(WallNs(nanoseconds)))


def _unit(edition: int, command: int, values: Mapping[str, Any], frame: Frame) -> Record:
    unit = dict(values)
    for name in ("time", "valid_from", "valid_until"):
        if name in unit:
            unit[name] = _time(unit[name])
    match command:
        case 0x01 if edition == 2016:
            unit["system_count"] = unit.pop("subsystems")
        case 0x01:
            unit["system_count"] = len(unit["pack_counts"])
        case 0x02 | 0x03:
            unit["items"] = [_item(edition, one, frame) for one in values["items"]]
        case 0x80 if "ids" in unit:
            unit["count"] = len(unit["ids"])
        case 0x80 | 0x81 if "parameters" in unit:
            parameters = unit.pop("parameters")
            unit["count"] = len(parameters)
            unit["values"] = [
                {"id": one.type, "value": value}
                for one in parameters
                for value in one.values.values()
            ]
        case 0x82:
            [item] = unit.pop("control")
            unit |= {"control": item.type, "parameters": frame.body[7:]}
            if item.type == 6:
                unit |= {"level": item.values["level"], "text": item.values["text"].rstrip("\0")}
        case 0x09:
            unit["key"] = unit.pop("public_key")
            unit["chip_id"] = unit["chip_id"].rstrip("\0")
            block = _block(unit)
            size = 5 + len(block["r"]) + len(block["s"])
            unit |= {"signature": block, "signed": frame.body[:-size]}
        case 0x0B:
            unit["kind"] = unit.pop("key_kind")
    return unit


def _block(values: dict[str, Any]) -> Record:
    return {name: values.pop(f"signature_{name}") for name in ("kind", "r", "s")}


def _item(edition: int, item: Item, frame: Frame) -> Record:
    if isinstance(item.values, bytes):
        return {"type": item.type, "name": "custom", "content": item.values}
    if item.type == SIGNATURE_TYPE:
        block = _block(dict(item.values))
        signed = frame.body[: -6 - len(block["r"]) - len(block["s"])]
        return {"type": item.type, "name": "signature", "signed": signed, **block}
    kind = frame.codec.layout.items[item.type]
    name = "hydrogen" if (edition, item.type) == (2025, 0x03) else kind.name
    return {"type": item.type, "name": name, **_record(name, item.values), **_bits(kind, item)}


def _bits(kind: Kind, item: Item) -> Record:
    """What the second decoder gives beside the raw value."""
    made_of_bits = {f.name: f for f in kind.fields if isinstance(f, Number) and f.parts}
    match kind.name:
        case "vehicle":
            parts = made_of_bits["gear_byte"].split(item.values["gear_byte"])
            position = {"gear_position": parts.pop("gear")}
            return position | {name: bool(value) for name, value in parts.items()}
        case "position":
            parts = made_of_bits["status"].split(item.values["status"])
            flags = {name: bool(parts[name]) for name in ("south", "west")}
            return {"valid": not parts["no_fix"], **flags}
        case "alarms":
            # The codec names flags; the table has them in the order of their bits.
            field, raw = made_of_bits["flags"], item.values["flags"]
            known = [part.name for part in field.parts]
            named = [known.index(name) for name in field.flags(raw)]
            return {"bits": named + [bit for bit in range(len(known), 32) if raw >> bit & 1]}
    return {}


def _record(name: str, values: Mapping[str, Any]) -> Record:
    result: Record = {}
    for mine, value in values.items():
        theirs = RENAMED.get(name, {}).get(mine, mine)
        if (name, theirs) in _ROWS:
            result["count"], rows = _counted(value, 1)
            result[theirs] = [_record(_ROWS[name, theirs], row) for row in rows]
        elif (name, theirs) in _LISTS:
            count, width = _LISTS[name, theirs]
            result[count], result[theirs] = _counted(value, width)
        elif (name, theirs) == ("pack_voltages", "cells"):
            width = 1 if "total_cells" in values else 2
            result["cell_count"], result["cells"] = _counted(value, width)
        elif (name, theirs) == ("alarms", "alarm_levels"):
            result["general_count"], result["levels"] = _counted(value, 1)
        else:
            result[theirs] = value
    return result


def _counted(value: list[Any] | Code, width: int) -> tuple[int, list[Any]]:
    if isinstance(value, Code):
        return (1 << 8 * width) - (1 if value is Code.INVALID else 2), []
    return len(value), value
