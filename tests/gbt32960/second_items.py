"""The information types of a report, for the second decoder; and how it takes bytes apart."""

from collections.abc import Callable
from typing import Any, Final

Record = dict[str, Any]


def text_of(raw: bytes, what: str, encoding: str = "ascii") -> str:
    """Text without the zero bytes behind it."""
    try:
        return raw.rstrip(b"\0").decode(encoding)
    except UnicodeDecodeError:
        raise ValueError(f"The {what} is no text.") from None


class Reader:
    """Takes bytes from the front; says which field is cut short."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, size: int, what: str) -> bytes:
        if size > self.left:
            raise ValueError(f"The data unit ends within: {what}.")
        self.at += size
        return self.data[self.at - size : self.at]

    def byte(self, what: str) -> int:
        return self.take(1, what)[0]

    def word(self, what: str) -> int:
        high, low = self.take(2, what)
        return high << 8 | low

    def dword(self, what: str) -> int:
        return self.word(what) << 16 | self.word(what)

    def time(self, what: str = "time") -> list[int]:
        """Year less 2000, month, day, hour, minute, second, in Beijing."""
        parts = list(self.take(6, what))
        year, month, day, hour, minute, second = parts
        days = [31, 29 if year % 4 == 0 else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]  # to 2099
        if (
            year > 99
            or not 1 <= month <= 12
            or not 1 <= day <= days[month - 1]
            or hour > 23
            or max(minute, second) > 59
        ):
            raise ValueError(f"The {what} is none: {parts}.")
        return parts

    def text(self, size: int, what: str) -> str:
        return text_of(self.take(size, what), what)

    def bytes_list(self, count: int, what: str) -> list[int]:
        return list(self.take(listed(count, 0xFFFE), what))

    def words_list(self, count: int, what: str) -> list[int]:
        return [self.word(what) for _ in range(listed(count, 0xFFFE))]

    def end(self) -> None:
        if self.left:
            raise ValueError(f"The data unit has {self.left} bytes too many.")


def listed(count: int, abnormal: int, most: int | None = None) -> int:
    """How many entries follow a count: none follow one that says abnormal or invalid."""
    if count >= abnormal:
        return 0
    if most is not None and count > most:
        raise ValueError(f"A count of {count} is above its range, which ends at {most}.")
    return count


def signature_block(reader: Reader) -> Record:
    """Kind, R and S; the 0xFF before them in a report is taken already."""
    return {
        "kind": reader.byte("kind of signature"),
        "r": reader.take(reader.word("length of R"), "R"),
        "s": reader.take(reader.word("length of S"), "S"),
    }


def items_of(edition: int, reader: Reader) -> list[Record]:
    """All items to the end of a report; a type of unknown length is an error."""
    items: list[Record] = []
    while reader.left:
        start = reader.at
        kind = reader.byte("information type")
        if kind == 0xFF and edition == 2025:
            # The signature covers the time and all items, without its own 0xFF; it is the last.
            signed = {"signed": reader.data[:start]}
            items.append({"type": kind, "name": "signature"} | signed | signature_block(reader))
            break
        if 0x80 <= kind <= 0xFE:
            content = reader.take(reader.word("length of a maker's item"), "maker's item")
            items.append({"type": kind, "name": "custom", "content": content})
            continue
        known = _TYPES_2016 if edition == 2016 else _TYPES_2025
        if kind not in known:
            raise ValueError(f"The length of information type {kind:#04x} is unknown.")
        name, read = known[kind]
        items.append({"type": kind, "name": name} | read(edition, reader))
    return items


def _vehicle(edition: int, reader: Reader) -> Record:
    item: Record = {
        "vehicle_state": reader.byte("vehicle state"),
        "charge_state": reader.byte("charge state"),
        "run_mode": reader.byte("run mode"),
        "speed": reader.word("speed"),
        "odometer": reader.dword("odometer"),
        "voltage": reader.word("total voltage"),
        "current": reader.word("total current"),
        "soc": reader.byte("SOC"),
        "dcdc": reader.byte("DC-DC"),
        "gear": reader.byte("gear"),
        "insulation": reader.word("insulation"),
    }
    item["gear_position"] = item["gear"] & 15
    item["brake_force"] = bool(item["gear"] & 16)
    item["drive_force"] = bool(item["gear"] & 32)
    if edition == 2025:
        item["gear_invalid"] = bool(item["gear"] & 128)
    else:
        item["accelerator"] = reader.byte("accelerator")
        item["brake"] = reader.byte("brake")
    return item


def _motors(edition: int, reader: Reader) -> Record:
    count = reader.byte("number of motors")
    motors = []
    for _ in range(listed(count, 0xFE)):
        motor: Record = {
            "number": reader.byte("motor number"),
            "state": reader.byte("motor state"),
            "controller_temperature": reader.byte("controller temperature"),
            "speed": reader.word("motor speed"),
            "torque": reader.word("torque") if edition == 2016 else reader.dword("torque"),
            "motor_temperature": reader.byte("motor temperature"),
        }
        if edition == 2016:
            motor["voltage"] = reader.word("controller voltage")
            motor["current"] = reader.word("controller current")
        motors.append(motor)
    return {"count": count, "motors": motors}


def _fuel_cell(_edition: int, reader: Reader) -> Record:
    item: Record = {
        "voltage": reader.word("fuel cell voltage"),
        "current": reader.word("fuel cell current"),
        "consumption": reader.word("fuel consumption"),
        "count": reader.word("number of probes"),
    }
    item["probes"] = reader.bytes_list(item["count"], "fuel cell probes")
    return item | _hydrogen_system(reader)


def _hydrogen(_edition: int, reader: Reader) -> Record:
    return _hydrogen_system(reader) | {
        "hydrogen_left": reader.byte("hydrogen left"),
        "dcdc_temperature": reader.byte("DC/DC temperature"),
    }


def _hydrogen_system(reader: Reader) -> Record:
    return {
        "hydrogen_temperature": reader.word("hydrogen temperature"),
        "hydrogen_temperature_probe": reader.byte("hydrogen temperature probe"),
        "concentration": reader.word("hydrogen concentration"),
        "concentration_sensor": reader.byte("hydrogen concentration sensor"),
        "pressure": reader.word("hydrogen pressure"),
        "pressure_sensor": reader.byte("hydrogen pressure sensor"),
        "dcdc": reader.byte("high-voltage DC/DC"),
    }


def _engine(edition: int, reader: Reader) -> Record:
    if edition == 2025:
        return {"crankshaft": reader.word("crankshaft speed")}
    return {
        "state": reader.byte("engine state"),
        "crankshaft": reader.word("crankshaft speed"),
        "fuel": reader.word("fuel consumption"),
    }


def _position(edition: int, reader: Reader) -> Record:
    status = reader.byte("position status")
    item: Record = {
        "status": status,
        "valid": not status & 1,
        "south": bool(status & 2),
        "west": bool(status & 4),
    }
    if edition == 2025:
        item["datum"] = reader.byte("datum")
    item["longitude"] = reader.dword("longitude")
    item["latitude"] = reader.dword("latitude")
    return item


def _extremes(edition: int, reader: Reader) -> Record:
    """Of the pack (2016) or of the supercapacitor (2025), where the places are words."""
    item = {}
    for which in ("max", "min"):
        item[f"{which}_voltage_system"] = reader.byte("system of a voltage")
        item[f"{which}_voltage_cell"] = (reader.byte if edition == 2016 else reader.word)("cell")
        item[f"{which}_voltage"] = reader.word("cell voltage")
    for which in ("max", "min"):
        item[f"{which}_temperature_system"] = reader.byte("system of a temperature")
        item[f"{which}_temperature_probe"] = (
            reader.byte("probe") if edition == 2016 else reader.word("probe")
        )
        item[f"{which}_temperature"] = reader.byte("temperature")
    return item


def _alarms(edition: int, reader: Reader) -> Record:
    item: Record = {"level": reader.byte("alarm level"), "flags": reader.dword("alarm flags")}
    item["bits"] = [bit for bit in range(32) if item["flags"] >> bit & 1]
    for group in ("battery", "motor", "engine", "other"):
        count = reader.byte(f"number of {group} faults")
        faults = [reader.dword(f"{group} fault") for _ in range(listed(count, 0xFE, 252))]
        item[f"{group}_count"] = count
        item[f"{group}_faults"] = faults
    if edition == 2025:
        item["general_count"] = reader.byte("number of alarm levels")
        item["levels"] = [
            {"bit": reader.byte("alarm bit"), "level": reader.byte("level of an alarm")}
            for _ in range(listed(item["general_count"], 0xFE, 252))
        ]
    return item


def _cell_voltages(edition: int, reader: Reader) -> Record:
    count = reader.byte("number of packs")
    packs = []
    for _ in range(listed(count, 0xFE, 250 if edition == 2016 else 50)):
        pack: Record = {
            "number": reader.byte("pack number"),
            "voltage": reader.word("pack voltage"),
            "current": reader.word("pack current"),
        }
        if edition == 2016:
            pack["cell_total"] = reader.word("number of cells")
            pack["first_cell"] = reader.word("first cell")
            pack["cell_count"] = reader.byte("cells in this frame")
            size = listed(pack["cell_count"], 0xFE, 200)
        else:
            pack["cell_count"] = reader.word("number of cells")
            size = pack["cell_count"]
        pack["cells"] = reader.words_list(size, "cell voltages")
        packs.append(pack)
    return {"count": count, "packs": packs}


def _temperatures(edition: int, reader: Reader) -> Record:
    count = reader.byte("number of packs")
    packs = []
    for _ in range(listed(count, 0xFE, 250 if edition == 2016 else 50)):
        number, probes = reader.byte("pack number"), reader.word("number of probes")
        values = reader.bytes_list(probes, "pack temperatures")
        packs.append({"number": number, "probe_count": probes, "probes": values})
    return {"count": count, "packs": packs}


def _stacks(_edition: int, reader: Reader) -> Record:
    count = reader.byte("number of stacks")
    stacks = []
    for _ in range(listed(count, 0xFE)):
        stack: Record = {
            "number": reader.byte("stack number"),
            "voltage": reader.word("stack voltage"),
            "current": reader.word("stack current"),
            "hydrogen_pressure": reader.word("hydrogen inlet pressure"),
            "air_pressure": reader.word("air inlet pressure"),
            "air_temperature": reader.byte("air inlet temperature"),
            "probe_count": reader.word("number of coolant probes"),
        }
        stack["probes"] = reader.bytes_list(stack["probe_count"], "coolant temperatures")
        stacks.append(stack)
    return {"count": count, "stacks": stacks}


def _supercapacitor(_edition: int, reader: Reader) -> Record:
    item: Record = {
        "number": reader.byte("supercapacitor number"),
        "voltage": reader.word("supercapacitor voltage"),
        "current": reader.word("supercapacitor current"),
        "cell_count": reader.word("number of cells"),
    }
    item["cells"] = reader.words_list(item["cell_count"], "cell voltages")
    item["probe_count"] = reader.word("number of probes")
    item["probes"] = reader.bytes_list(item["probe_count"], "supercapacitor temperatures")
    return item


_Read = Callable[[int, Reader], Record]
_TYPES_2016: Final[dict[int, tuple[str, _Read]]] = {
    0x01: ("vehicle", _vehicle),
    0x02: ("motors", _motors),
    0x03: ("fuel_cell", _fuel_cell),
    0x04: ("engine", _engine),
    0x05: ("position", _position),
    0x06: ("extremes", _extremes),
    0x07: ("alarms", _alarms),
    0x08: ("cell_voltages", _cell_voltages),
    0x09: ("temperatures", _temperatures),
}
_TYPES_2025: Final[dict[int, tuple[str, _Read]]] = {
    0x01: ("vehicle", _vehicle),
    0x02: ("motors", _motors),
    0x03: ("hydrogen", _hydrogen),
    0x04: ("engine", _engine),
    0x05: ("position", _position),
    0x06: ("alarms", _alarms),
    0x07: ("cell_voltages", _cell_voltages),
    0x08: ("temperatures", _temperatures),
    0x30: ("stacks", _stacks),
    0x31: ("supercapacitor", _supercapacitor),
    0x32: ("supercapacitor_extremes", _extremes),
}
