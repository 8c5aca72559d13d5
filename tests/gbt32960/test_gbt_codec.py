"""Data units of both editions by hand: what each type says, and what is wrong with a bad one."""

import math
from typing import Any

import pytest

from agent.clock import SECOND, WallNs
from agent.gbt32960.codec import CODECS, GBT2016, GBT2025, Codec, pack_time, unpack_time
from agent.gbt32960.layout import Code, GbtError, Item, Number

TIME = "1a 07 07 06 37 0f"  # 2026-07-07 06:55:15 in Beijing
AT = WallNs(1_783_378_515 * SECOND)


def unit(codec: Codec, command: int, body: str, ack: int = 0xFE) -> dict[str, Any]:
    """What a data unit says; and it becomes the same bytes again."""
    data = bytes.fromhex(body)
    values = codec.decode(command, data, ack)
    assert codec.encode(command, values, ack, checked=False) == data
    return values


def item(codec: Codec, body: str) -> Any:
    """The values in units of the one item of a report."""
    values = unit(codec, 0x02, TIME + body)
    assert values["time"] == AT
    [one] = codec.physical(0x02, values)["items"]
    return one.values


def number(codec: Codec, kind: int, name: str) -> Number:
    [found] = [f for f in codec.layout.items[kind].fields if f.name == name]  # type: ignore[union-attr]
    assert isinstance(found, Number)
    return found


# Times


def test_a_time_is_six_bytes_of_beijing_time() -> None:
    assert unpack_time(bytes.fromhex(TIME)) == AT
    assert pack_time(AT) == bytes.fromhex(TIME)
    assert pack_time(WallNs(AT + SECOND - 1)) == bytes.fromhex(TIME)


def test_the_first_and_the_last_time() -> None:
    first, last = bytes((0, 1, 1, 0, 0, 0)), bytes((99, 12, 31, 23, 59, 59))
    assert pack_time(unpack_time(first)) == first
    assert pack_time(unpack_time(last)) == last
    for time in (unpack_time(first) - 1, unpack_time(last) + SECOND):
        with pytest.raises(GbtError, match="outside of 2000 to 2099"):
            pack_time(WallNs(time))


@pytest.mark.parametrize(
    "body",
    [
        "64 01 01 00 00 00",
        "1a 00 01 00 00 00",
        "1a 0d 01 00 00 00",
        "17 02 1d 00 00 00",
        "1a 01 01 18 00 00",
        "1a 01 01 00 3c 00",
        "1a 01 01 00 00 3c",
        "ff ff ff ff ff ff",
    ],
)
def test_what_is_no_time(body: str) -> None:
    with pytest.raises(GbtError, match="is no time"):
        unpack_time(bytes.fromhex(body))
    with pytest.raises(GbtError, match=r"vehicle_logout, offset 0: .* is no time") as caught:
        GBT2016.decode(0x04, bytes.fromhex(body + "0001"))
    assert caught.value.offset == 0


# Commands


def test_login_2016() -> None:
    values = unit(GBT2016, 0x01, TIME + "0102" + "38" * 19 + "00" + "02 03 414243 444500")
    assert values == {
        "time": AT,
        "serial": 258,
        "iccid": "8" * 19,
        "subsystems": 2,
        "code_length": 3,
        "codes": ["ABC", "DE"],
    }


def test_a_login_that_names_a_system_and_sends_no_code() -> None:
    values = unit(GBT2016, 0x01, TIME + "0001" + "38" * 20 + "01 00")
    assert (values["subsystems"], values["code_length"], values["codes"]) == (1, 0, [])
    body = GBT2016.encode(0x01, values)
    assert GBT2016.encode(0x01, values | {"codes": [""]}) == body


def test_login_2025_has_all_counts_before_the_codes() -> None:
    codes = "41" * 24 + "42" * 24 + "43" * 24
    values = unit(GBT2025, 0x01, TIME + "0001" + "38" * 20 + "02 02 01" + codes)
    assert values["pack_counts"] == [2, 1]
    assert values["codes"] == ["A" * 24, "B" * 24, "C" * 24]


def test_logouts_and_platform_login() -> None:
    assert unit(GBT2016, 0x04, TIME + "0007") == {"time": AT, "serial": 7}
    assert unit(GBT2025, 0x06, TIME + "fffb") == {"time": AT, "serial": 65531}
    # "battery" in GB 18030, and a password that is text in no script
    values = unit(GBT2016, 0x05, TIME + "0001 b5e7b3d8" + "00" * 8 + "ff" * 20 + "03")
    assert (values["user"], values["encryption_rule"]) == ("电池", 3)
    assert values["password"] == "\udcff" * 20


def test_heartbeat_and_time_synchronisation_are_empty() -> None:
    assert unit(GBT2016, 0x07, "") == {}
    assert unit(GBT2025, 0x08, "") == {}
    assert unit(GBT2016, 0x08, TIME, ack=1) == {"time": AT}


@pytest.mark.parametrize("codec", [GBT2016, GBT2025])
@pytest.mark.parametrize("command", [0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x81, 0x82])
def test_an_answer_has_everything_or_its_time_or_nothing(codec: Codec, command: int) -> None:
    assert unit(codec, command, "", ack=1) == {}
    assert unit(codec, command, TIME, ack=2) == {"time": AT}
    assert unit(codec, command, TIME + "0102", ack=3) == {"time": AT, "echo": b"\x01\x02"}
    with pytest.raises(GbtError, match="time needs 6 bytes and 2 are left"):
        codec.decode(command, b"\x01\x02", 1)


def test_parameters_are_queried_and_answered() -> None:
    assert unit(GBT2016, 0x80, TIME + "02 01 10") == {"time": AT, "ids": [1, 16]}
    values = unit(GBT2016, 0x80, TIME + "04 02001e 0403 05616263 0776312e3000", ack=1)
    assert values["parameters"] == [
        Item(2, {"report_period": 30}),
        Item(4, {"platform_domain_length": 3}),
        Item(5, {"platform_domain": "abc"}),
        Item(7, {"hardware_version": "v1.0"}),
    ]


def test_periods_are_one_byte_in_2025() -> None:
    values = unit(GBT2025, 0x81, TIME + "03 021e 0301 0a0258")
    assert [one.values for one in values["parameters"]] == [
        {"report_period": 30},
        {"alarm_report_period": 1},
        {"terminal_timeout": 600},
    ]


def test_every_parameter_has_its_bounds() -> None:
    bounds = {
        (2016, 0x01): (0, 60000),
        (2016, 0x02): (1, 600),
        (2016, 0x03): (0, 60000),
        (2016, 0x09): (1, 240),
        (2016, 0x0A): (1, 600),
        (2016, 0x0B): (1, 600),
        (2016, 0x0C): (1, 240),
        (2025, 0x01): (0, 60000),
        (2025, 0x02): (1, 30),
        (2025, 0x03): (0, 1),
        (2025, 0x09): (1, 240),
    }
    for (edition, parameter), (low, high) in bounds.items():
        codec = GBT2016 if edition == 2016 else GBT2025
        [field] = codec.layout.parameters[parameter].fields
        assert isinstance(field, Number)
        assert field.range == (low, high)
        for value in (low - 1, high + 1):
            entry = [Item(parameter, {field.name: value})]
            with pytest.raises(GbtError, match=r"out of range|no number"):
                codec.encode(0x81, {"time": AT, "parameters": entry})


def test_control() -> None:
    assert unit(GBT2016, 0x82, TIME + "03")["control"] == [Item(3, {})]
    values = unit(GBT2016, 0x82, TIME + "06 02 b5e7b3d8")
    assert values["control"] == [Item(6, {"level": 2, "text": "电池"})]
    values = unit(GBT2025, 0x82, TIME + "01 613b62")
    assert values["control"] == [Item(1, {"fields": b"a;b"})]
    # One of the maker's own
    assert unit(GBT2016, 0x82, TIME + "90 91")["control"] == [Item(0x90, {"data": b"\x91"})]


def test_activation_answer_and_key_exchange() -> None:
    body = TIME + "41" * 10 + "20" * 6 + "0003 010203" + "31" * 17 + "01 0001 aa 0002 bbcc"
    assert unit(GBT2025, 0x09, body) == {
        "time": AT,
        "chip_id": "A" * 10,
        "public_key": b"\x01\x02\x03",
        "vin": "1" * 17,
        "signature_kind": 1,
        "signature_r": b"\xaa",
        "signature_s": b"\xbb\xcc",
    }
    for ack in (0xFE, 0x01):
        assert unit(GBT2025, 0x0A, "02 01", ack) == {"status": 2, "info": 1}
    values = unit(GBT2025, 0x0B, "04 0002 abcd" + TIME + "1b 07 07 06 37 0f")
    assert (values["key_kind"], values["key"], values["valid_from"]) == (4, b"\xab\xcd", AT)
    assert values["valid_until"] == AT + 365 * 86400 * SECOND


def test_a_command_goes_the_way_that_it_goes() -> None:
    for codec in CODECS.values():
        commands = codec.layout.commands
        down = {command for command, known in commands.items() if known.down and not known.up}
        assert down == {0x80, 0x81, 0x82} | ({0x0A} if codec is GBT2025 else set())
        assert commands[0x02].up
        assert not commands[0x02].down
    assert GBT2025.layout.commands[0x0B].up
    assert GBT2025.layout.commands[0x0B].down


@pytest.mark.parametrize(
    ("codec", "command"), [(GBT2016, 0x09), (GBT2016, 0x83), (GBT2025, 0x0C), (GBT2025, 0x00)]
)
def test_a_reserved_command_is_refused(codec: Codec, command: int) -> None:
    with pytest.raises(GbtError, match=f"0x{command:02X} does not exist in {codec.layout.name}"):
        codec.decode(command, b"")


def test_a_command_that_two_platforms_made_up_is_bytes() -> None:
    assert unit(GBT2016, 0xC0, "23 23") == {"data": b"##"}


# Information types


def test_vehicle_2016() -> None:
    values = item(GBT2016, "01 01 03 01 0226 000f423f 0e10 26bb 50 01 3e 03e8 2a 65")
    assert values == {
        "vehicle_state": 1,
        "charge_state": 3,
        "run_mode": 1,
        "speed": 55.0,
        "odometer": 99_999.9,
        "total_voltage": 360.0,
        "total_current": -8.5,  # 9915, as a car at the charger sends it
        "soc": 80,
        "dc_dc": 1,
        "gear_byte": 0x3E,
        "insulation_resistance": 1000,
        "accelerator_pedal": 42,
        "brake_pedal": 101,  # applied, without a travel
    }
    gear = number(GBT2016, 0x01, "gear_byte")
    assert gear.split(0x3E) == {"gear": 14, "brake_force": 1, "drive_force": 1}
    assert gear.join({"gear": 14, "drive_force": 1}) == 0x2E


def test_vehicle_2025_has_no_pedals_and_another_offset_of_current() -> None:
    values = item(GBT2025, "01 02 01 02 1388 00000001 ea60 7530 64 02 af ffff")
    assert values["speed"] == 500.0
    assert (values["total_voltage"], values["total_current"]) == (6000.0, 0.0)
    assert values["insulation_resistance"] is Code.INVALID
    assert len(values) == 11
    gear = number(GBT2025, 0x01, "gear_byte").split(values["gear_byte"])
    assert gear == {"gear": 15, "brake_force": 0, "drive_force": 1, "gear_invalid": 1}


def test_codes_of_every_width() -> None:
    values = item(GBT2016, "01 fe ff 01 fffe ffffffff ffff fffe ff fe 00 ffff fe ff")
    invalid, abnormal = Code.INVALID, Code.ABNORMAL
    assert (values["vehicle_state"], values["charge_state"]) == (abnormal, invalid)
    assert (values["speed"], values["odometer"]) == (abnormal, invalid)
    assert (values["total_voltage"], values["total_current"]) == (invalid, abnormal)
    # The one quantity of 2016 without codes
    assert values["insulation_resistance"] is Code.OUT_OF_RANGE


def test_values_out_of_range_are_read_and_not_sent() -> None:
    body = bytes.fromhex(TIME + "01 04 05 04 0899 00989680 2711 4e21 65 03 40 ea61 65 66")
    values = GBT2016.decode(0x02, body)
    [one] = GBT2016.physical(0x02, values)["items"]
    assert set(one.values.values()) == {Code.OUT_OF_RANGE}
    with pytest.raises(GbtError, match="vehicle 0x01: vehicle_state = 4 is out of range"):
        GBT2016.encode(0x02, values)
    assert GBT2016.encode(0x02, values, checked=False) == body


def test_motors() -> None:
    one = "01 01 5a 4e20 07d0 50 0e10 2710"
    two = "02 04 ff 4e21 4e20 fe ffff fffe"
    first, second = item(GBT2016, "02 02" + one + two)["motors"]
    assert first == {
        "number": 1,
        "state": 1,
        "controller_temperature": 50,
        "speed": 0,
        "torque": -1800.0,
        "motor_temperature": 40,
        "controller_voltage": 360.0,
        "controller_current": 0.0,
    }
    assert second["torque"] == 0.0
    assert second["controller_current"] is Code.ABNORMAL
    [motor] = item(GBT2025, "02 01 03 02 28 7d01 00030d41 29")["motors"]
    assert (motor["speed"], motor["torque"], motor["motor_temperature"]) == (1, 0.1, 1)


def test_fuel_cell() -> None:
    values = item(GBT2016, "03 0001 0002 0003 0002 28 ff 0190 05 0007 06 000a 07 02")
    assert (values["voltage"], values["current"], values["consumption"]) == (0.1, 0.2, 0.03)
    assert values["probe_temperatures"] == [0, Code.INVALID]
    assert values["hydrogen_temperature_max"] == 0.0
    assert (values["hydrogen_concentration_max"], values["hydrogen_pressure_max"]) == (7, 1.0)
    values = item(GBT2025, "03 0028 05 2710 06 000a 07 01 63 2a")
    assert (values["hydrogen_temperature_max"], values["hydrogen_concentration_max"]) == (0, 1.0)
    assert (values["hydrogen_left"], values["dc_dc_temperature"]) == (99, 2)


def test_engine() -> None:
    values = item(GBT2016, "04 01 0bb8 012c")
    assert values == {"state": 1, "speed": 3000, "consumption": 3.0}
    assert item(GBT2025, "04 0bb8") == {"speed": 3000}


def test_position_has_longitude_first_and_a_datum_in_2025_alone() -> None:
    values = item(GBT2016, "05 06 06ef0bf8 026036c8")
    assert (values["longitude"], values["latitude"]) == (116.329464, 39.859912)
    assert number(GBT2016, 0x05, "status").flags(values["status"]) == ("south", "west")
    values = item(GBT2025, "05 01 02 06ef0bf8 026036c8")
    assert (values["datum"], values["longitude"]) == (2, 116.329464)
    assert number(GBT2025, 0x05, "status").flags(1) == ("no_fix",)


def test_extremes_are_of_2016() -> None:
    body = "06 01 02 1068 03 04 0ed8 05 06 41 07 08 28"
    values = item(GBT2016, body)
    assert (values["voltage_max_subsystem"], values["voltage_max_cell"]) == (1, 2)
    assert (values["voltage_max"], values["voltage_min"]) == (4.2, 3.8)
    assert (values["temperature_max"], values["temperature_min"]) == (25, 0)
    with pytest.raises(GbtError, match="alarms 0x06"):
        unit(GBT2025, 0x02, TIME + body)


def test_alarms_2016_count_bits_from_the_least_significant() -> None:
    values = item(GBT2016, "07 03 00010801 02 00000001 deadbeef 00 fe 01 00000002")
    assert values["level"] == 3
    assert number(GBT2016, 0x07, "flags").flags(values["flags"]) == (
        "temperature_difference",
        "insulation",
        "high_voltage_interlock",
    )
    assert values["battery_faults"] == [1, 0xDEADBEEF]
    assert values["motor_faults"] == []
    assert values["engine_faults"] is Code.ABNORMAL  # and no list follows
    assert values["other_faults"] == [2]


def test_alarms_2025_are_type_6_and_give_the_levels() -> None:
    values = item(GBT2025, "06 04 0f800001 00 00 00 ff 02 00 01 17 04")
    assert values["level"] == 4
    assert number(GBT2025, 0x06, "flags").flags(values["flags"]) == (
        "temperature_difference",
        "thermal_event",
        "hydrogen_leak",
        "hydrogen_pressure",
        "hydrogen_temperature",
        "stack_over_temperature",
    )
    assert values["other_faults"] is Code.INVALID
    assert values["alarm_levels"] == [{"bit": 0, "level": 1}, {"bit": 23, "level": 4}]


def test_bits_of_both_editions_by_name() -> None:
    old = number(GBT2016, 0x07, "flags").parts
    new = number(GBT2025, 0x06, "flags").parts
    assert [part.shift for part in new] == list(range(28))
    assert new[:19] == old
    named = {part.shift: part.name for part in new}
    assert (named[4], named[7], named[8]) == ("soc_low", "soc_too_high", "soc_jump")
    assert (named[18], named[19]) == ("storage_overcharge", "motor_overspeed")
    assert (named[21], named[22]) == (
        "supercapacitor_over_temperature",
        "supercapacitor_over_voltage",
    )


def test_cell_voltages() -> None:
    [pack] = item(GBT2016, "08 01 01 0fa0 2710 00cb 00c9 03 1068 1067 ffff")["packs"]
    assert (pack["number"], pack["voltage"], pack["current"]) == (1, 400.0, 0.0)
    assert (pack["total_cells"], pack["first_cell"]) == (203, 201)
    assert pack["cells"] == [4.2, 4.199, Code.INVALID]
    first, second = item(GBT2025, "07 02 01 0fa0 7530 0001 1068 02 0fa0 7530 012c" + "1067" * 300)[
        "packs"
    ]
    assert (first["cells"], second["cells"]) == ([4.2], [4.199] * 300)
    assert second["current"] == 0.0


@pytest.mark.parametrize(("codec", "kind"), [(GBT2016, "09"), (GBT2025, "08")])
def test_temperatures(codec: Codec, kind: str) -> None:
    first, second = item(codec, kind + "02 01 0002 28 29 02 0001 ff")["packs"]
    assert first == {"number": 1, "probes": [0, 1]}
    assert second == {"number": 2, "probes": [Code.INVALID]}


def test_stacks_and_supercapacitor() -> None:
    [stack] = item(GBT2025, "30 01 01 0001 0002 03e8 03e9 28 0002 29 2a")["stacks"]
    assert (stack["voltage"], stack["current"]) == (0.1, 0.2)
    assert (stack["hydrogen_inlet_pressure"], stack["air_inlet_pressure"]) == (0.0, 0.1)
    assert (stack["air_inlet_temperature"], stack["coolant_temperatures"]) == (0, [1, 2])
    values = item(GBT2025, "31 01 0001 7530 0002 0a8c 0a8d 0001 28")
    assert (values["current"], values["cells"], values["probes"]) == (0.0, [2.7, 2.701], [0])
    values = item(GBT2025, "32 01 0102 0a8c 02 0103 0a8d 03 0104 29 04 0105 28")
    assert (values["voltage_max_cell"], values["voltage_min_cell"]) == (0x102, 0x103)
    assert (values["temperature_max_probe"], values["temperature_max"]) == (0x104, 1)


def test_maker_items_are_passed_over_by_their_length() -> None:
    body = TIME + "80 0001 ff fe 0004 01020304 04 01 0bb8 012c"
    first, second, engine = unit(GBT2016, 0x03, body)["items"]
    assert (first, second) == (Item(0x80, b"\xff"), Item(0xFE, b"\x01\x02\x03\x04"))
    assert engine.values["speed"] == 3000


def test_a_report_may_hold_nothing() -> None:
    assert unit(GBT2016, 0x02, TIME) == {"time": AT, "items": []}


# Malformed


@pytest.mark.parametrize(
    ("codec", "command", "body", "offset", "message"),
    [
        (GBT2016, 0x07, "00", 0, "heartbeat, offset 0: 1 bytes too many"),
        (GBT2016, 0x04, TIME + "00", 6, "serial needs 2 bytes and 1 are left"),
        (GBT2016, 0x02, TIME + "0a 0000", 6, "type 0x0A, .* unknown and has no length"),
        (GBT2016, 0x02, TIME + "06" * 8, 13, "extremes 0x06, .*: voltage_min needs 2"),
        (GBT2016, 0x02, TIME + "ff 01 0000 0000", 6, "type 0xFF, .* unknown"),
        (GBT2016, 0x02, TIME + "04 01 0000", 10, "engine 0x04, offset 10: consumption needs 2"),
        (GBT2016, 0x02, TIME + "02 02 01", 9, "motors 0x02, offset 9: state needs 1 bytes and 0"),
        (GBT2016, 0x02, TIME + "07 00 00000000 fd", 12, "battery_faults is 253, and 252 are"),
        (GBT2016, 0x02, TIME + "08 fb", 7, "count of packs is 251, and 250 are allowed"),
        (GBT2016, 0x02, TIME + "08 01 01 0000 0000 0001 0001 c9", 17, "cells is 201, and 200"),
        (GBT2016, 0x02, TIME + "09 01 01 fffc", 9, "probes is 65532, and 65531 are allowed"),
        (GBT2016, 0x02, TIME + "09 01 01 fffb", 11, "probes needs 65531 bytes and 0 are left"),
        (GBT2016, 0x02, TIME + "80 0002 00", 9, "type 0x80, offset 9: data needs 2 bytes and 1"),
        (GBT2016, 0x01, TIME + "0001" + "30" * 20 + "fb 00", 30, "subsystems is 251, and 250"),
        (GBT2016, 0x01, TIME + "0001" + "30" * 20 + "01 33", 30, "code_length is 51, and 50"),
        (GBT2025, 0x01, TIME + "0001" + "30" * 20 + "15", 28, "pack_counts is 21, and 20"),
        (GBT2025, 0x01, TIME + "0001" + "30" * 20 + "01 33", 30, "50 are allowed of each"),
        (GBT2025, 0x02, TIME + "07 33", 7, "packs is 51, and 50 are allowed"),
        (GBT2025, 0x02, TIME + "ff 01 0000 0000 04", 12, "1 bytes too many"),
        (GBT2016, 0x80, TIME + "02 01", 7, "ids needs 2 bytes and 1 are left"),
        (GBT2016, 0x81, TIME + "01 05 61", 8, "needs platform_domain_length, which does not"),
        (GBT2016, 0x81, TIME + "01 11 61", 7, "type 0x11, .* unknown"),
        (GBT2016, 0x82, TIME, 6, "a type of control needs 1 bytes"),
        (GBT2016, 0x82, TIME + "03 00", 7, "1 bytes too many"),
    ],
)
def test_malformed(codec: Codec, command: int, body: str, offset: int, message: str) -> None:
    with pytest.raises(GbtError, match=message) as caught:
        codec.decode(command, bytes.fromhex(body))
    assert caught.value.offset == offset


def test_what_was_read_before_the_fault_is_there() -> None:
    with pytest.raises(GbtError) as caught:
        GBT2016.decode(0x02, bytes.fromhex(TIME + "04 01 0bb8 012c 0a 00"))
    partial = caught.value.partial
    assert partial is not None
    assert partial["time"] == AT
    assert [one.type for one in partial["items"]] == [0x04]


ENGINE = {"state": 1, "speed": 3000, "consumption": 300}


@pytest.mark.parametrize(
    ("command", "values", "message"),
    [
        (0x04, {"time": AT}, "vehicle_logout: serial is missing"),
        (0x04, {"time": AT, "serial": 1, "sum": 2}, "no field is called sum"),
        (0x04, {"time": AT, "serial": 0}, "serial = 0 is out of range"),
        (0x04, {"time": AT, "serial": 65532}, "serial = 65532 is out of range"),
        (0x04, {"time": AT, "serial": 65536}, "serial = 65536 is no number of 2 bytes"),
        (0x04, {"time": AT, "serial": 1.0}, "serial = 1.0 is no number"),
        (0x04, {"time": "now", "serial": 1}, "time = 'now' is no time"),
        (0x04, {"time": -1, "serial": 1}, "outside of 2000 to 2099"),
        (0x02, {"time": AT, "items": "no"}, "items is no list of items"),
        (0x02, {"time": AT, "items": [Item(0x0A, b"")]}, "items knows no type 0x0A"),
        (0x02, {"time": AT, "items": [Item(0x04, b"")]}, "b'' are no values"),
        (0x02, {"time": AT, "items": [Item(0x80, {})]}, "maker item 0x80: .* is not bytes"),
        (0x02, {"time": AT, "items": [Item(0x80, b"")]}, "data has 0, and 1 to 65531"),
        (0x02, {"time": AT, "items": [Item(0x02, {"motors": 3})]}, "motors = 3 is no list"),
        (0x02, {"time": AT, "items": [Item(0x02, {"motors": [3]})]}, "3 is no row of motors"),
        (0x02, {"time": AT, "items": [Item(0x02, {"motors": []})]}, "motors has 0, and 1 to 253"),
        (0x80, {"time": AT, "ids": Code.INVALID}, "ids cannot be invalid"),
        (0x81, {"time": AT, "parameters": [Item(5, {"platform_domain": "a"})]}, "which does not"),
        (0x82, {"time": AT, "control": []}, "control has 0 items and must have 1"),
        (0xC0, {"data": "text"}, "data = 'text' is not bytes"),
    ],
)
def test_what_cannot_be_sent(command: int, values: dict[str, Any], message: str) -> None:
    with pytest.raises(GbtError, match=message):
        GBT2016.encode(command, values)


def login(**changes: Any) -> dict[str, Any]:
    values = {"time": AT, "serial": 1, "iccid": "8" * 20, "subsystems": 1, "code_length": 2}
    return values | {"codes": ["ab"]} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"iccid": "8" * 21}, "has 21 bytes, and 20 fit"),
        ({"iccid": "电池"}, "is not ASCII"),
        ({"iccid": 8}, "iccid = 8 is no text"),
        ({"codes": []}, "codes has 0 and must have 1"),
        ({"codes": ["abc"]}, "has 3 bytes, and 2 fit"),
        ({"code_length": 0}, "has 2 bytes, and 0 fit"),
        ({"code_length": 0, "codes": ["", ""]}, "codes has 2 and must have 1"),
        ({"subsystems": 251}, "subsystems = 251 is out of range"),
    ],
)
def test_a_login_that_does_not_agree_with_itself(changes: dict[str, Any], message: str) -> None:
    assert GBT2016.encode(0x01, login())
    with pytest.raises(GbtError, match=message):
        GBT2016.encode(0x01, login(**changes))


def test_what_is_chinese_and_does_not_fit() -> None:
    values = {"time": AT, "serial": 1, "user": "电池", "password": "", "encryption_rule": 1}
    assert len(GBT2016.encode(0x05, values)) == 41
    for user, message in (("电" * 7, "14 bytes, and 12 fit"), ("电\udcff", "is not GB 18030")):
        with pytest.raises(GbtError, match=message):
            GBT2016.encode(0x05, values | {"user": user})


def test_nothing_follows_a_signature() -> None:
    block = {"signature_kind": 1, "signature_r": b"r", "signature_s": b"s"}
    items = [Item(0xFF, block), Item(0x04, {"speed": 1})]
    with pytest.raises(GbtError, match="signature 0xFF: nothing may follow it"):
        GBT2025.encode(0x02, {"time": AT, "items": items})
    assert GBT2025.encode(0x02, {"time": AT, "items": items[::-1]})


# Physical values


def test_a_value_becomes_the_nearest_raw_one() -> None:
    current = number(GBT2016, 0x01, "total_current")
    assert current.raw(-8.5) == 9915
    assert current.raw(-8.54) == 9915
    assert current.raw(-8.56) == 9914
    assert current.raw(-1000) == 0
    assert current.raw(1000) == 20000


def test_what_is_out_of_range_becomes_abnormal_and_what_is_not_there_invalid() -> None:
    current = number(GBT2016, 0x01, "total_current")
    assert [current.raw(value) for value in (-1000.1, 1000.1, math.inf, -math.inf)] == [0xFFFE] * 4
    assert [current.raw(value) for value in (None, math.nan)] == [0xFFFF] * 2
    assert number(GBT2016, 0x01, "soc").raw(101) == 0xFE
    assert number(GBT2016, 0x01, "odometer").raw(None) == 0xFFFF_FFFF


def test_what_has_no_codes_says_so() -> None:
    insulation = number(GBT2016, 0x01, "insulation_resistance")
    for value in (60001, None, math.nan):
        with pytest.raises(GbtError, match="insulation_resistance has no code for"):
            insulation.raw(value)
    assert number(GBT2025, 0x01, "insulation_resistance").raw(60001) == 0xFFFE


def test_a_pedal_is_not_rounded_to_a_label() -> None:
    pedal = number(GBT2016, 0x01, "brake_pedal")
    assert (pedal.raw(100.4), pedal.raw(100.6), pedal.raw(101)) == (100, 0xFE, 101)


def test_a_state_is_one_of_its_labels() -> None:
    state = number(GBT2016, 0x01, "vehicle_state")
    assert [state.raw(value) for value in (0, 1, 3, 4, None)] == [0xFE, 1, 3, 0xFE, 0xFF]
    assert state.labels[2] == "off"


def test_gears_that_do_not_exist_and_bits_that_are_reserved() -> None:
    gear = number(GBT2016, 0x01, "gear_byte")
    assert [gear.in_range(raw) for raw in (0, 6, 7, 12, 13, 15, 0x3F, 0x40, 0x80)] == [
        True,
        True,
        False,
        False,
        True,
        True,
        True,
        False,
        False,
    ]
    assert number(GBT2025, 0x01, "gear_byte").in_range(0x80)
    with pytest.raises(GbtError, match="gear_byte cannot hold gear = 16"):
        gear.join({"gear": 16})
    with pytest.raises(GbtError, match="cannot hold clutch = 1"):
        gear.join({"clutch": 1})
