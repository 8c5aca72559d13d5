"""A second decoder of GB/T 32960.3 frames, written apart from the agent's own, to check it.

It takes the bytes of one whole frame of either edition (2016 starts with `##`, 2025 with `$$`) and
gives dicts, lists, raw integers, text, and bytes (keys, signatures, maker items). Nothing is
scaled; `second_scales` does that, exactly. Code that reads field after field, no tables of
layout: the agent's codec is table-driven, and two of one kind would share their mistakes.

What it takes for malformed, always a ValueError with a sentence: a wrong start, length or check
byte, a data unit that ends early or has bytes left over, a count above its range, an information
type whose length nobody knows, text that is not text, a time that no calendar or clock has. Values
out of range are values. A count that says "abnormal" or "invalid" has no list behind it. Encrypted
data units and commands that the edition does not define are kept as bytes: `data` is None then.
"""

from functools import reduce
from itertools import accumulate
from operator import xor
from typing import Final

from tests.gbt32960.second_items import Reader, Record, items_of, signature_block, text_of

# The names of all fields, by record. `data` of a frame is one of the records of its command, the
# items of a report have `name` for the record that they are.
NAMES: Final[dict[str, frozenset[str]]] = {
    record: frozenset(names.split())
    for record, names in {
        "frame": "edition command ack vin encryption body data",
        # Data units. Answers may be shorter: empty, or the time alone.
        "login": "time serial iccid system_count code_length codes",  # 2016
        "login_2025": "time serial iccid system_count pack_counts codes",
        "logout": "time serial",  # of a vehicle and of a platform
        "report": "time items",  # realtime and reissue
        "platform_login": "time serial user password encryption_rule",
        "time": "time",  # the answer to a time synchronisation, and short answers
        "query": "time count ids",
        "parameters": "time count values",  # the answer to a query; a set
        "parameter": "id value",  # value: integer, or text for domains and versions
        "control": "time control parameters level text",  # level and text: of control 6 alone
        "activation": "time chip_id key vin signed signature",
        "activation_answer": "status info",
        "key_exchange": "kind key valid_from valid_until",
        # Items of a report.
        "vehicle": "type name vehicle_state charge_state run_mode speed odometer voltage current "
        "soc dcdc gear gear_position brake_force drive_force gear_invalid insulation accelerator "
        "brake",  # gear: the byte; gear_position to gear_invalid: its bits (the last: 2025)
        "motors": "type name count motors",
        "motor": "number state controller_temperature speed torque motor_temperature voltage "
        "current",  # voltage and current: 2016
        "fuel_cell": "type name voltage current consumption count probes hydrogen_temperature "
        "hydrogen_temperature_probe concentration concentration_sensor pressure pressure_sensor "
        "dcdc",  # 2016
        "hydrogen": "type name hydrogen_temperature hydrogen_temperature_probe concentration "
        "concentration_sensor pressure pressure_sensor dcdc hydrogen_left dcdc_temperature",  # 2025
        "engine": "type name state crankshaft fuel",  # state and fuel: 2016
        "position": "type name status valid south west datum longitude latitude",  # datum: 2025
        "extremes": "type name max_voltage_system max_voltage_cell max_voltage min_voltage_system "
        "min_voltage_cell min_voltage max_temperature_system max_temperature_probe max_temperature "
        "min_temperature_system min_temperature_probe min_temperature",  # 2016
        "supercapacitor_extremes": "type name max_voltage_system max_voltage_cell max_voltage "
        "min_voltage_system min_voltage_cell min_voltage max_temperature_system "
        "max_temperature_probe max_temperature min_temperature_system min_temperature_probe "
        "min_temperature",  # 2025
        "alarms": "type name level flags bits battery_count battery_faults motor_count "
        "motor_faults engine_count engine_faults other_count other_faults general_count levels",
        "alarm_level": "bit level",  # 2025
        "cell_voltages": "type name count packs",
        "pack_voltages": "number voltage current cell_total first_cell cell_count cells",
        "temperatures": "type name count packs",
        "pack_temperatures": "number probe_count probes",
        "stacks": "type name count stacks",
        "stack": "number voltage current hydrogen_pressure air_pressure air_temperature "
        "probe_count probes",
        "supercapacitor": "type name number voltage current cell_count cells probe_count probes",
        "custom": "type name content",  # a maker's item
        "signature": "type name signed kind r s",  # without type, name, signed in an activation
    }.items()
}

DEFINED: Final = {
    2016: frozenset([*range(0x01, 0x09), 0x80, 0x81, 0x82]),
    2025: frozenset([*range(0x01, 0x0C), 0x80, 0x81, 0x82]),
}
LONGEST: Final = 65531  # bytes of a data unit
COMMAND: Final = 0xFE  # the ack flag of a frame that is no answer


def scan(data: bytes) -> list[tuple[int, bytes]]:
    """All frames in `data`, with their offsets; what lies between them is skipped.

    A frame is a start, a legal length, and a check byte that fits. Where one of these fails the
    search goes on at the next byte, so that a false start hides no frame.
    """
    sums = list(accumulate(data, xor, initial=0))  # a long false frame costs no more than a short
    found = []
    at = 0
    while at + 25 <= len(data):
        end = at + 25 + (data[at + 22] << 8 | data[at + 23])
        if (
            data[at : at + 2] in (b"##", b"$$")
            and end <= min(len(data), at + 25 + LONGEST)
            and sums[end - 1] ^ sums[at + 2] == data[end - 1]
        ):
            found.append((at, data[at:end]))
            at = end
        else:
            at += 1
    return found


def decode(frame: bytes) -> Record:
    """What one whole frame says.

    Raises:
        ValueError: it is no whole frame, or its data unit is malformed.
    """
    if len(frame) < 25:
        raise ValueError(f"A frame has 25 bytes at least, this has {len(frame)}.")
    if frame[0:2] == b"##":
        edition = 2016
    elif frame[0:2] == b"$$":
        edition = 2025
    else:
        raise ValueError("A frame starts with ## or $$.")
    length = frame[22] << 8 | frame[23]
    if length > LONGEST:
        raise ValueError(f"A data unit has {LONGEST} bytes at most, this one claims {length}.")
    if len(frame) != 25 + length:
        raise ValueError(f"The frame has {len(frame)} bytes, its length field says {25 + length}.")
    if reduce(xor, frame[2:-1]) != frame[-1]:
        raise ValueError("The check byte does not fit.")
    command, ack, encryption, body = frame[2], frame[3], frame[21], frame[24:-1]
    return {
        "edition": edition,
        "command": command,
        "ack": ack,
        "vin": text_of(frame[4:21], "VIN"),
        "encryption": encryption,
        "body": body,
        "data": _data(edition, command, ack, body) if encryption == 1 else None,
    }


def _data(edition: int, command: int, ack: int, body: bytes) -> Record | None:
    reader = Reader(body)
    answer = ack != COMMAND
    unit: Record
    if command not in DEFINED[edition]:
        return None
    if answer and not body:
        unit = {}
    elif answer and len(body) == 6 and command not in (0x0A, 0x0B):  # these begin with no time
        unit = {"time": reader.time()}
    elif command == 0x01:
        unit = _login(reader) if edition == 2016 else _login_2025(reader)
    elif command in (0x02, 0x03):
        unit = {"time": reader.time(), "items": items_of(edition, reader)}
    elif command in (0x04, 0x06):
        unit = {"time": reader.time(), "serial": reader.word("serial")}
    elif command == 0x05:
        unit = {
            "time": reader.time(),
            "serial": reader.word("serial"),
            "user": text_of(reader.take(12, "user"), "user", "gb18030"),
            "password": text_of(reader.take(20, "password"), "password", "gb18030"),
            "encryption_rule": reader.byte("encryption rule"),
        }
    elif command in (0x07, 0x08):
        unit = {}
    elif command == 0x80 and not answer:
        time, count = reader.time(), reader.byte("number of parameters")
        unit = {"time": time, "count": count, "ids": list(reader.take(count, "parameter ids"))}
    elif command in (0x80, 0x81):
        unit = _parameters(edition, reader)
    elif command == 0x82:
        unit = _control(reader)
    elif command == 0x09:
        unit = _activation(reader)
    elif command == 0x0A:
        unit = {"status": reader.byte("status"), "info": reader.byte("info")}
    else:
        unit = {
            "kind": reader.byte("kind of key"),
            "key": reader.take(reader.word("length of the key"), "key"),
            "valid_from": reader.time("valid from"),
            "valid_until": reader.time("valid until"),
        }
    reader.end()
    return unit


def _login(reader: Reader) -> Record:
    unit: Record = {
        "time": reader.time(),
        "serial": reader.word("serial"),
        "iccid": reader.text(20, "ICCID"),
        "system_count": reader.byte("number of systems"),
        "code_length": reader.byte("length of a code"),
    }
    count, length = unit["system_count"], unit["code_length"]
    if count > 250 or length > 50:
        raise ValueError(f"A login with {count} codes of {length} characters is out of range.")
    unit["codes"] = [reader.text(length, "system code") for _ in range(count if length else 0)]
    return unit


def _login_2025(reader: Reader) -> Record:
    unit: Record = {
        "time": reader.time(),
        "serial": reader.word("serial"),
        "iccid": reader.text(20, "ICCID"),
        "system_count": reader.byte("number of BMS"),
    }
    if unit["system_count"] > 20:
        raise ValueError(f"A login with {unit['system_count']} BMS is out of range.")
    unit["pack_counts"] = list(reader.take(unit["system_count"], "pack counts"))
    if max(unit["pack_counts"], default=0) > 50:
        raise ValueError("A login with more than 50 packs of one BMS is out of range.")
    unit["codes"] = [reader.text(24, "pack code") for _ in range(sum(unit["pack_counts"]))]
    return unit


def _parameters(edition: int, reader: Reader) -> Record:
    unit: Record = {"time": reader.time(), "count": reader.byte("number of parameters")}
    unit["values"] = []
    lengths: dict[int, int] = {}  # of the domains, by the id of the domain
    for _ in range(unit["count"]):
        parameter = reader.byte("parameter id")
        what = f"parameter {parameter:#04x}"
        value: int | str
        if parameter in (0x02, 0x03):
            value = reader.word(what) if edition == 2016 else reader.byte(what)
        elif parameter in (0x01, 0x06, 0x0A, 0x0B, 0x0F):
            value = reader.word(what)
        elif parameter in (0x04, 0x0D):
            value = lengths[parameter + 1] = reader.byte(what)
        elif parameter in (0x05, 0x0E):
            if parameter not in lengths:
                raise ValueError(f"The length of {what} does not stand before it.")
            value = reader.text(lengths[parameter], what)
        elif parameter in (0x07, 0x08):
            value = reader.text(5, what)
        elif parameter in (0x09, 0x0C, 0x10):
            value = reader.byte(what)
        else:
            raise ValueError(f"The length of {what} is unknown.")
        unit["values"].append({"id": parameter, "value": value})
    return unit


def _control(reader: Reader) -> Record:
    unit: Record = {"time": reader.time(), "control": reader.byte("control command")}
    unit["parameters"] = reader.take(reader.left, "control parameters")
    if unit["control"] == 6:
        if not unit["parameters"]:
            raise ValueError("The data unit ends within: level of the warning.")
        unit["level"] = unit["parameters"][0]
        unit["text"] = text_of(unit["parameters"][1:], "warning", "gb18030")
    elif unit["parameters"] and unit["control"] in (2, 3, 4, 5, 7):
        raise ValueError(f"Control {unit['control']} has no parameters, and some came.")
    return unit


def _activation(reader: Reader) -> Record:
    unit: Record = {
        "time": reader.time(),
        "chip_id": text_of(reader.take(16, "chip id").rstrip(b" "), "chip id"),
        "key": reader.take(reader.word("length of the key"), "key"),
        "vin": reader.text(17, "VIN"),
    }
    unit["signed"] = reader.data[: reader.at]
    unit["signature"] = signature_block(reader)
    return unit
