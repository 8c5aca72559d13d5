"""What the platform knows, for its page and for programs: plain values that JSON can carry.

Nothing of a vehicle is trusted here either: texts are made printable, lists are short.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agent.bench.cloud.summary import iso
from agent.bench.gbt32960.connection import Reply
from agent.bench.gbt32960.gaps import moment
from agent.bench.gbt32960.platform import Platform
from agent.bench.gbt32960.record import shown
from agent.bench.gbt32960.vehicle import VehicleRecord
from agent.clock import SECOND, WallNs
from agent.gbt32960.codec import Codec
from agent.gbt32960.layout import Code, Field, Item, Number, Rows
from agent.gbt32960.packs import Pack

_SHOWN: Final = 200
_SHOWN_ROWS: Final = 20
_SPLIT_CELLS: Final = 0x08
_COUNTS: Final = (
    "frames",
    "live",
    "reissued",
    "copies",
    "malformed",
    "bad_frames",
    "disorder",
    "heartbeat",
    "replies",
)


class PlatformView:
    """Of one platform."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def vehicles(self, period_s: float | None = None) -> dict[str, Any]:
        """All vehicles in short, and what happened to connections.

        `period_s` is the longest time between two reports; None: that of the record.
        """
        record = self._platform.record
        period_s = period_s or record.period_s
        known = (record.vehicles[vin] for vin in sorted(record.vehicles))
        return {
            "vehicles": [self._short(vehicle, period_s) for vehicle in known],
            "connections": len(self._platform.connections),
            "period_s": period_s,
            "counts": dict(sorted(self._platform.counts.items())),
        }

    def vehicle(self, name: str, period_s: float | None = None) -> dict[str, Any] | None:
        """Everything of one vehicle, by its VIN as it is shown; None where it is unknown."""
        record = self._platform.record
        period_s = period_s or record.period_s
        for vin, vehicle in record.vehicles.items():
            if shown(vin) == name:
                return self._short(vehicle, period_s) | self._long(vehicle, period_s)
        return None

    def _short(self, vehicle: VehicleRecord, period_s: float) -> dict[str, Any]:
        found = vehicle.gaps(period_s)
        login = vehicle.logins[-1] if vehicle.logins else None
        return {
            "vin": shown(vehicle.vin),
            "edition": vehicle.codec.layout.name,
            "online": vehicle.vin in self._platform.online,
            "serial": login[1] if login else None,
            "last_received": _iso(vehicle.last_arrival),
            "reports": vehicle.reports,
            **{name: vehicle.counts[name] for name in _COUNTS},
            "incomplete": vehicle.incomplete,
            "gaps": len(found),
            "missing": sum(gap.missing for gap in found),
            "alarm_level": vehicle.alarm_level,
            "verdict": "; ".join(troubles(vehicle, period_s)),
        }

    def _long(self, vehicle: VehicleRecord, period_s: float) -> dict[str, Any]:
        flags = _flags(vehicle.codec)
        replies = [r for r in self._platform.replies if r.vin == vehicle.vin]
        return {
            "logins": [
                {"time": moment(time // SECOND), "serial": serial, "received": _iso(arrival)}
                for time, serial, arrival in list(vehicle.logins)[-_SHOWN:]
            ],
            "named_gaps": [gap.name for gap in vehicle.gaps(period_s)[-_SHOWN:]],
            "alarms": [
                {
                    "name": alarm.name,
                    "level": alarm.level,
                    "flags": list(flags.flags(alarm.flags)),
                    "missing": alarm.missing,
                }
                for alarm in vehicle.alarms()[-_SHOWN:]
            ],
            "malformed_frames": [
                {"received": _iso(arrival), "reason": _text(reason), "bytes": data}
                for arrival, reason, data in vehicle.malformed
            ],
            "latest": _latest(vehicle),
            "answers": [_reply(reply) for reply in replies[-_SHOWN:]],
        }


def troubles(vehicle: VehicleRecord, period_s: float) -> list[str]:
    """What is wrong with what came from a vehicle, as sentences without its name."""
    found = vehicle.gaps(period_s)
    wrong = [gap.name for gap in found[:3]]
    if len(found) > len(wrong):
        wrong.append(f"and {len(found) - len(wrong):,} more gaps")
    wrong += [f"alarm {alarm.name}" for alarm in vehicle.alarms() if alarm.missing]
    counts = vehicle.counts
    wrong += [
        f"{n:,} {'frame was' if n == 1 else 'frames were'} {what}"
        for n, what in (
            (counts["disorder"], "live and older than the live report before"),
            (counts["malformed"], "malformed"),
            (counts["bad_frames"], "damaged"),
            (vehicle.incomplete, "with packs of which cells are missing"),
        )
        if n
    ]
    return wrong


def _iso(time: WallNs | None) -> str | None:
    return None if time is None else iso(time)


def _text(text: str) -> str:
    """Printable, and no surrogates."""
    plain = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else "\ufffd" for c in plain)[:1000]


def _flags(codec: Codec) -> Number:
    for kind in codec.layout.items.values():
        for field in kind.fields:
            if kind.name == "alarms" and isinstance(field, Number) and field.name == "flags":
                return field
    raise AssertionError(codec.layout.name)


def _reply(reply: Reply) -> dict[str, Any]:
    return {
        "command": f"0x{reply.command:02X}",
        "ack": reply.ack,
        "values": None if reply.values is None else _plain(reply.values),
        "wrong": _text(reply.wrong),
    }


def _plain(value: Any) -> Any:
    """Values of an answer as JSON has them."""
    if isinstance(value, Item):
        return {"type": value.type, "values": _plain(value.values)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, bytes):
        return value[:_SHOWN].hex(" ")
    if isinstance(value, list):
        return [_plain(each) for each in value[:_SHOWN]]
    if isinstance(value, Code):
        return value.value
    return _text(value) if isinstance(value, str) else value


# -- the newest report -----------------------------------------------------------------------


def _latest(vehicle: VehicleRecord) -> dict[str, Any] | None:
    """The newest report: texts with units by information type and field."""
    time, frames = vehicle.latest()
    if not frames:
        return None
    items: dict[str, Any] = {}
    for codec, values in frames:
        for item in values["items"]:
            kind = codec.layout.items.get(item.type)
            if kind is None or not isinstance(item.values, Mapping):
                items.setdefault("maker", []).append(f"0x{item.type:02X}: {len(item.values)} bytes")
            elif item.type != _SPLIT_CELLS or codec.layout.name != "2016":
                items[kind.name] = _fields(kind.fields, item.values)
    packs = vehicle.packs()
    if packs:
        items["cell_voltages"] = {"packs": [_pack(pack) for pack in packs[:_SHOWN_ROWS]]}
    return {"time": moment(time), "items": items}


def _pack(pack: Pack) -> dict[str, str]:
    cells = [raw / 1000 for raw in pack.cells.values() if raw <= 60_000]
    return {
        "number": str(pack.number),
        "voltage": f"{pack.voltage / 10:g} V",
        "current": f"{pack.current / 10 - 1000:g} A",
        "cells": f"{len(pack.cells)} of {pack.total}{_spread(cells, 'V')}",
    }


def _fields(fields: Sequence[Field], values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields:
        value = values.get(getattr(field, "name", ""))
        if isinstance(field, Number) and isinstance(value, int):
            found[field.name] = _number(field, value)
        elif isinstance(field, Rows) and isinstance(value, list):
            found[field.name] = _rows(field, value)
        elif isinstance(value, Code):
            found[getattr(field, "name", "")] = value.value
        elif isinstance(value, bytes):
            found[getattr(field, "name", "")] = f"{len(value)} bytes"
    return found


def _number(field: Number, raw: int) -> Any:
    if raw in field.labels:
        return field.labels[raw]
    if field.name == "flags":
        return list(field.flags(raw))
    if field.parts:
        parts = {part.name: part for part in field.parts}
        split = {name: parts[name].labels.get(v, v) for name, v in field.split(raw).items()}
        return ", ".join(f"{name} {value}" for name, value in split.items())
    value = field.physical(raw)
    return value.value if isinstance(value, Code) else f"{value:g} {field.unit}".rstrip()


def _rows(field: Rows, values: list[Any]) -> Any:
    row = field.row
    if isinstance(row, Number):
        if not row.unit:
            return [f"0x{raw:X}" for raw in values[:_SHOWN_ROWS]]
        found = [v for v in map(row.physical, values) if not isinstance(v, Code)]
        return f"{len(values)}{_spread(found, row.unit)}"
    if isinstance(row, tuple):
        return [_fields(row, each) for each in values[:_SHOWN_ROWS]]
    return [_text(each) for each in values[:_SHOWN_ROWS]]


def _spread(values: Sequence[float], unit: str) -> str:
    return f", {min(values):g} to {max(values):g} {unit}" if values else ""
