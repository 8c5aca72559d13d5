"""The second decoder against frames written by hand, and against the generator of valid frames."""

from fractions import Fraction
from random import Random
from typing import Any

import pytest

from tests.gbt32960.generate import COMMANDS, ITEMS_2016, ITEMS_2025, random_frame
from tests.gbt32960.second import NAMES, decode, scan
from tests.gbt32960.second_scales import SCALES_2016, SCALES_2025, physical

TIME = "1a 07 07 06 37 0f"  # 2026-07-07 06:55:15 in Beijing
AT = [26, 7, 7, 6, 55, 15]
# VIN: 17 times the digit 1. Command 07, ack FE, encryption 01, no data unit.
# Check byte: 07 ^ FE ^ 31 (an odd number of times) ^ 01 ^ 00 ^ 00 = C9.
HEARTBEAT = bytes.fromhex("2323 07 fe" + "31" * 17 + "01 0000 c9")


def whole(start: str, command: int, body: str, ack: int = 0xFE) -> bytes:
    """A frame around a data unit in hex."""
    unit = bytes.fromhex(body)
    inner = bytes([command, ack]) + b"1" * 17 + b"\x01" + len(unit).to_bytes(2, "big") + unit
    check = 0
    for byte in inner:
        check ^= byte
    return start.encode() + inner + bytes([check])


def data(start: str, command: int, body: str, ack: int = 0xFE) -> Any:
    return decode(whole(start, command, body, ack))["data"]


def only_item(start: str, body: str) -> dict[str, Any]:
    unit = data(start, 0x02, TIME + body)
    assert unit["time"] == AT
    [item] = unit["items"]
    assert set(item) <= NAMES[item["name"]]
    return dict(item)


def test_envelope_of_a_heartbeat() -> None:
    assert decode(HEARTBEAT) == {
        "edition": 2016,
        "command": 7,
        "ack": 0xFE,
        "vin": "1" * 17,
        "encryption": 1,
        "body": b"",
        "data": {},
    }


def test_a_short_vin_is_padded_with_zero_bytes() -> None:
    # 07 ^ FE ^ 41 ^ 42 ^ 01 = FB
    frame = bytes.fromhex("2424 07 fe 4142" + "00" * 15 + "01 0000 fb")
    assert decode(frame)["vin"] == "AB"
    assert decode(frame)["edition"] == 2025


def test_check_byte_leaves_the_start_out() -> None:
    # Two equal start bytes cancel out, so a check over them too gives the same; one more or one
    # less byte at either end does not.
    for wrong in (0xC9 ^ 0x23, 0xC9 ^ 0x07, 0x00):
        with pytest.raises(ValueError, match="check byte"):
            decode(HEARTBEAT[:-1] + bytes([wrong]))


def test_encrypted_and_undefined_data_units_stay_bytes() -> None:
    # As the heartbeat, with encryption 03 (AES) and 2 bytes: C9 ^ 01 ^ 03 ^ 02 ^ AA ^ BB = D8.
    frame = decode(bytes.fromhex("2323 07 fe" + "31" * 17 + "03 0002 aabb d8"))
    assert (frame["encryption"], frame["body"], frame["data"]) == (3, b"\xaa\xbb", None)
    assert data("##", 0xC0, "01 02") is None
    assert data("##", 0x09, "01 02") is None  # activation is of 2025
    assert data("$$", 0x00, "01 02") is None


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (HEARTBEAT[:-1], "25 bytes at least"),
        (HEARTBEAT + b"\0", "length field says 25"),
        (b"#$" + HEARTBEAT[2:], "starts with"),
        (HEARTBEAT[:22] + b"\xff\xfc" + HEARTBEAT[24:], "65531"),
        (whole("##", 0x07, "00"), "1 bytes too many"),
        (whole("##", 0x04, TIME + "00"), "ends within: serial"),
        (whole("##", 0x02, TIME + "0a 0000"), "type 0x0a is unknown"),
        (whole("##", 0x02, TIME + "ff 01 0000 0000"), "type 0xff is unknown"),  # 2016: no signature
        (whole("##", 0x02, TIME + "04 01 0000"), "ends within: fuel"),
        (whole("##", 0x02, TIME + "02 02 01"), "ends within: motor state"),
        (whole("##", 0x02, TIME + "07 00 00000000 fd"), "253 is above"),
        (whole("##", 0x02, TIME + "80 0002 00"), "ends within: maker's item"),
        (whole("##", 0x01, TIME + "0001" + "30" * 20 + "fb 00"), "out of range"),
        (whole("##", 0x01, TIME + "0001" + "30" * 20 + "01 33"), "out of range"),
        (whole("$$", 0x01, TIME + "0001" + "30" * 20 + "15"), "out of range"),
        (whole("##", 0x01, TIME + "0001" + "ff" * 20 + "00 00"), "ICCID is no text"),
        (whole("$$", 0x02, TIME + "ff 01 0000 0000 00"), "1 bytes too many"),  # not the last
        (whole("##", 0x81, TIME + "01 05 61"), "does not stand before"),
        (whole("##", 0x81, TIME + "01 11 61"), "parameter 0x11 is unknown"),
        (whole("##", 0x82, TIME + "03 00"), "no parameters"),
        (whole("##", 0x04, "1a 0d 07 06 37 0f 0001"), "time is none"),  # a thirteenth month
        (whole("##", 0x04, "17 02 1d 06 37 0f 0001"), "time is none"),  # 29 February 2023
        (whole("##", 0x04, "64 07 07 06 37 0f 0001"), "time is none"),  # year 100
        (whole("##", 0x04, "1a 07 07 06 3c 0f 0001"), "time is none"),  # minute 60
    ],
)
def test_malformed(frame: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(frame)


def test_login_2016() -> None:
    iccid = "38" * 19 + "00"  # 19 digits and a zero byte
    unit = data("##", 0x01, TIME + "0102" + iccid + "02 03" + "414243" + "444500")
    assert unit == {
        "time": AT,
        "serial": 258,
        "iccid": "8" * 19,
        "system_count": 2,
        "code_length": 3,
        "codes": ["ABC", "DE"],
    }


def test_login_that_names_a_system_and_sends_no_code() -> None:
    unit = data("##", 0x01, TIME + "0001" + "38" * 20 + "01 00")
    assert (unit["system_count"], unit["code_length"], unit["codes"]) == (1, 0, [])


def test_login_2025_has_all_counts_before_the_codes() -> None:
    codes = "41" * 24 + "42" * 24 + "43" * 24
    unit = data("$$", 0x01, TIME + "0001" + "38" * 20 + "02" + "02 01" + codes)
    assert (unit["system_count"], unit["pack_counts"]) == (2, [2, 1])
    assert unit["codes"] == ["A" * 24, "B" * 24, "C" * 24]


def test_logouts_and_platform_login() -> None:
    assert data("##", 0x04, TIME + "0007") == {"time": AT, "serial": 7}
    assert data("##", 0x06, TIME + "fffb") == {"time": AT, "serial": 65531}
    user, password = "75" * 4 + "00" * 8, "70" * 20
    unit = data("##", 0x05, TIME + "0001" + user + password + "03")
    assert (unit["user"], unit["password"], unit["encryption_rule"]) == ("uuuu", "p" * 20, 3)


def test_names_of_a_platform_may_be_chinese() -> None:
    unit = data("##", 0x05, TIME + "0001" + "b5e7b3d8" + "00" * 8 + "70" * 20 + "01")
    assert unit["user"] == "电池"


@pytest.mark.parametrize(("body", "unit"), [("", {}), (TIME, {"time": AT})])
def test_short_answers(body: str, unit: dict[str, Any]) -> None:
    for command in (0x01, 0x02, 0x04, 0x07, 0x08, 0x80, 0x81, 0x82):
        assert data("##", command, body, ack=1) == unit


def test_vehicle_2016() -> None:
    item = only_item(
        "##",
        "01"  # whole vehicle
        "01 03 01"  # started, not charging, electric
        "0226"  # 55.0 km/h
        "000f423f"  # 99999.9 km
        "0e10"  # 360.0 V
        "26bb"  # 9915: -8.5 A, charging in the one sample known
        "50 01"  # 80 %, DC-DC works
        "3e"  # 0011 1110: drive force, brake force, automatic D
        "03e8"  # 1000 kOhm
        "2a 65",  # accelerator 42 %; brake applied, no travel value
    )
    assert item["speed"] == 550
    assert item["odometer"] == 999_999
    assert (item["voltage"], item["current"], item["soc"], item["dcdc"]) == (3600, 9915, 80, 1)
    assert physical(2016, "vehicle.current", item["current"]) == Fraction("-8.5")
    assert (item["gear"], item["gear_position"]) == (0x3E, 14)
    assert (item["brake_force"], item["drive_force"]) == (True, True)
    assert (item["insulation"], item["accelerator"], item["brake"]) == (1000, 42, 101)
    assert "gear_invalid" not in item


def test_vehicle_2025_has_no_pedals_and_another_offset_of_current() -> None:
    item = only_item("$$", "01 02 01 02 0000 00000001 ea60 7530 64 02 af ffff")
    assert (item["gear_position"], item["gear_invalid"]) == (15, True)  # af = 1010 1111
    assert (item["brake_force"], item["drive_force"]) == (False, True)
    assert item["insulation"] == 0xFFFF
    assert physical(2025, "vehicle.current", item["current"]) == 0  # 30000 * 0.1 - 3000
    assert not {"accelerator", "brake"} & set(item)


def test_motors_2016_are_as_many_as_counted() -> None:
    one = "01 01 5a 4e20 07d0 50 0e10 2710"  # 0 rpm, 2000 * 0.1 - 2000 Nm, 0 A
    two = "02 04 ff 4e21 4e20 fe ffff fffe"  # 1 rpm, 0 Nm, codes
    item = only_item("##", "02 02" + one + two)
    first, second = item["motors"]
    assert item["count"] == 2
    assert set(first) == NAMES["motor"]
    assert [physical(2016, f"motor.{name}", first[name]) for name in ("speed", "current")] == [0, 0]
    assert physical(2016, "motor.controller_temperature", first["controller_temperature"]) == 50
    assert physical(2016, "motor.torque", first["torque"]) == -1800
    assert physical(2016, "motor.torque", second["torque"]) == 0
    assert (second["number"], second["state"], second["speed"]) == (2, 4, 20001)
    assert (second["motor_temperature"], second["voltage"]) == (0xFE, 0xFFFF)
    assert second["current"] == 0xFFFE


def test_motors_2025_have_a_torque_of_four_bytes_and_no_voltage() -> None:
    item = only_item("$$", "02 0103 02 28 7d00 00030d40 29")
    [motor] = item["motors"]
    assert (motor["number"], motor["motor_temperature"]) == (3, 41)
    assert physical(2025, "motor.speed", motor["speed"]) == 0  # 32000 - 32000
    assert physical(2025, "motor.torque", motor["torque"]) == 0  # 200000 * 0.1 - 20000
    assert "voltage" not in motor


def test_fuel_cell_and_hydrogen() -> None:
    item = only_item("##", "03 0001 0002 0003 0002 28 29 0190 05 0007 06 000a 07 02")
    assert [item["voltage"], item["current"], item["consumption"]] == [1, 2, 3]
    assert (item["count"], item["probes"]) == (2, [40, 41])
    assert physical(2016, "fuel_cell.hydrogen_temperature", item["hydrogen_temperature"]) == 0
    assert (item["hydrogen_temperature_probe"], item["concentration"]) == (5, 7)
    assert (item["concentration_sensor"], item["pressure"]) == (6, 10)
    assert (item["pressure_sensor"], item["dcdc"]) == (7, 2)
    item = only_item("$$", "03 0028 05 2710 06 000a 07 01 63 2a")
    assert physical(2025, "hydrogen.hydrogen_temperature", item["hydrogen_temperature"]) == 0
    assert physical(2025, "hydrogen.concentration", item["concentration"]) == 1
    assert (item["dcdc"], item["hydrogen_left"], item["dcdc_temperature"]) == (1, 99, 42)


def test_engine_of_both_editions() -> None:
    item = only_item("##", "04 01 0bb8 012c")
    assert (item["state"], item["crankshaft"], item["fuel"]) == (1, 3000, 300)
    assert only_item("$$", "04 0bb8")["crankshaft"] == 3000


@pytest.mark.parametrize(
    ("status", "valid", "south", "west"),
    [
        ("00", True, False, False),
        ("01", False, False, False),  # the last valid fix is repeated
        ("02", True, True, False),
        ("04", True, False, True),
        ("80", True, False, False),  # bit 7 is not bit 0
    ],
)
def test_position_bits(status: str, valid: bool, south: bool, west: bool) -> None:
    item = only_item("##", "05" + status + "06ef0bf8026036c8")
    assert (item["valid"], item["south"], item["west"]) == (valid, south, west)


def test_position_has_longitude_first_and_a_datum_in_2025_alone() -> None:
    # 06ef0bf8 = 116.329464 degrees east, 026036c8 = 39.859912 degrees north
    old = only_item("##", "05 00 06ef0bf8 026036c8")
    new = only_item("$$", "05 00 02 06ef0bf8 026036c8")
    east, north = Fraction("116.329464"), Fraction("39.859912")
    assert physical(2016, "position.longitude", old["longitude"]) == east
    assert physical(2016, "position.latitude", old["latitude"]) == north
    assert "datum" not in old
    assert (new["datum"], new["longitude"], new["latitude"]) == (
        2,
        116_329_464,
        39_859_912,
    )


def test_extremes_are_of_2016() -> None:
    body = "01 02 106803 04 0ed805 06 4107 08 28"
    item = only_item("##", "06" + body)
    assert [item[f"max_voltage{part}"] for part in ("_system", "_cell", "")] == [1, 2, 4200]
    assert [item[f"min_voltage{part}"] for part in ("_system", "_cell", "")] == [3, 4, 3800]
    assert [item[f"max_temperature{part}"] for part in ("_system", "_probe", "")] == [5, 6, 65]
    assert [item[f"min_temperature{part}"] for part in ("_system", "_probe", "")] == [7, 8, 40]
    with pytest.raises(ValueError, match="ends within"):  # 06 is alarms in 2025
        only_item("$$", "06" + body)


def test_alarms_2016_count_bits_from_the_least_significant() -> None:
    item = only_item(
        "##",
        "07 03"
        "00010801"  # bits 16, 11, 0: interlock, insulation, temperature difference
        "02 00000001 deadbeef"  # battery
        "00"  # motors
        "fe"  # engine: abnormal, no list
        "01 00000002",  # other
    )
    assert (item["level"], item["flags"], item["bits"]) == (3, 0x00010801, [0, 11, 16])
    assert item["battery_faults"] == [1, 0xDEADBEEF]
    assert (item["motor_count"], item["motor_faults"]) == (0, [])
    assert (item["engine_count"], item["engine_faults"]) == (0xFE, [])
    assert item["other_faults"] == [2]


def test_alarms_2025_are_type_6_and_give_the_levels() -> None:
    item = only_item("$$", "06 04 00800001 00 00 00 00 0200 0117 04")
    assert (item["level"], item["bits"]) == (4, [0, 23])
    assert item["levels"] == [{"bit": 0, "level": 1}, {"bit": 23, "level": 4}]


def test_cell_voltages_2016_are_a_part_of_the_pack() -> None:
    # Pack 1, 400.0 V, 0 A, 203 cells, this frame from cell 201 on, 3 cells
    item = only_item("##", "08 0101 0fa0 2710 00cb 00c9 03 1068 1067 ffff")
    [pack] = item["packs"]
    assert (pack["cell_total"], pack["first_cell"], pack["cell_count"]) == (203, 201, 3)
    assert pack["cells"] == [4200, 4199, 0xFFFF]
    assert physical(2016, "pack_voltages.current", pack["current"]) == 0
    with pytest.raises(ValueError, match="201 is above"):
        only_item("##", "08 0101 0fa0 2710 00c9 0001 c9" + "0000" * 201)


def test_cell_voltages_2025_are_the_whole_pack() -> None:
    item = only_item("$$", "07 0201 0fa0 7530 0001 106802 0fa0 7530 012c" + "1067" * 300)
    first, second = item["packs"]
    assert (first["cell_count"], first["cells"]) == (1, [4200])
    assert (second["number"], second["cells"]) == (2, [4199] * 300)
    assert physical(2025, "pack_voltages.current", second["current"]) == 0


@pytest.mark.parametrize(("start", "kind"), [("##", "09"), ("$$", "08")])
def test_temperatures(start: str, kind: str) -> None:
    item = only_item(start, kind + "0201 0002 28 2902 0001 ff")
    assert item["packs"] == [
        {"number": 1, "probe_count": 2, "probes": [40, 41]},
        {"number": 2, "probe_count": 1, "probes": [255]},
    ]


def test_stacks_and_supercapacitor() -> None:
    [stack] = only_item("$$", "30 0101 0001 0002 03e8 03e9 28 0002 29 2a")["stacks"]
    assert physical(2025, "stack.hydrogen_pressure", stack["hydrogen_pressure"]) == 0
    assert (stack["air_pressure"], stack["air_temperature"]) == (1001, 40)
    assert stack["probes"] == [41, 42]
    item = only_item("$$", "31 01 0001 7530 0002 0a8c 0a8d 0001 28")
    assert (item["number"], item["cells"], item["probes"]) == (1, [2700, 2701], [40])
    item = only_item("$$", "32 01 0102 0a8c02 0103 0a8d03 0104 2904 0105 28")
    assert [item["max_voltage_cell"], item["min_voltage_cell"]] == [0x102, 0x103]
    assert [item["max_temperature_probe"], item["min_temperature_probe"]] == [0x104, 0x105]
    assert [item["max_temperature"], item["min_temperature"]] == [41, 40]


def test_makers_items_are_skipped_to_the_signature_which_covers_them() -> None:
    signed = TIME + "04 0bb8" + "a0 0001 ff" + "a1 0097" + "23" * 151
    block = "01 0020" + "11" * 32 + "0020" + "22" * 32
    engine, one, two, signature = data("$$", 0x03, signed + "ff" + block)["items"]
    assert engine["crankshaft"] == 3000
    assert (one["type"], one["content"]) == (0xA0, b"\xff")
    assert (two["type"], two["content"]) == (0xA1, b"#" * 151)
    assert signature == {
        "type": 0xFF,
        "name": "signature",
        "signed": bytes.fromhex(signed),  # from the time to the byte before FF
        "kind": 1,
        "r": b"\x11" * 32,
        "s": b"\x22" * 32,
    }


def test_parameters() -> None:
    assert data("##", 0x80, TIME + "02 01 10") == {"time": AT, "count": 2, "ids": [1, 16]}
    values = "0402 001e04 0305 61626307 76312e3000"
    assert data("##", 0x80, TIME + values, ack=1)["values"] == [
        {"id": 2, "value": 30},
        {"id": 4, "value": 3},
        {"id": 5, "value": "abc"},
        {"id": 7, "value": "v1.0"},
    ]
    # 2025: the report periods are one byte each.
    unit = data("$$", 0x81, TIME + "0302 1e03 010a 0258")
    assert [entry["value"] for entry in unit["values"]] == [30, 1, 600]


def test_control() -> None:
    unit = data("##", 0x82, TIME + "03")
    assert unit == {"time": AT, "control": 3, "parameters": b""}
    unit = data("##", 0x82, TIME + "06 02 b5e7b3d8")  # "battery" in GB 18030
    assert (unit["level"], unit["text"]) == (2, "电池")


def test_activation_and_its_answer() -> None:
    signed = TIME + "41" * 10 + "20" * 6 + "0003 010203" + "31" * 17
    unit = data("$$", 0x09, signed + "01 0001 aa 0002 bbcc")
    assert (unit["chip_id"], unit["key"], unit["vin"]) == ("A" * 10, b"\x01\x02\x03", "1" * 17)
    assert unit["signed"] == bytes.fromhex(signed)
    assert unit["signature"] == {"kind": 1, "r": b"\xaa", "s": b"\xbb\xcc"}
    assert data("$$", 0x0A, "02 01") == {"status": 2, "info": 1}


def test_key_exchange() -> None:
    unit = data("$$", 0x0B, "04 0002 abcd" + TIME + "1b 01 02 03 04 05")
    assert unit == {
        "kind": 4,
        "key": b"\xab\xcd",
        "valid_from": AT,
        "valid_until": [27, 1, 2, 3, 4, 5],
    }


def test_scan_finds_frames_behind_false_starts_and_broken_frames() -> None:
    login = whole("$$", 0x04, TIME + "0001")
    broken = HEARTBEAT[:-1] + b"\0"
    false_start = b"##" + b"\0" * 20 + b"\xff\xff"
    stream = b"#" + HEARTBEAT + false_start + login + broken + b"$#" + HEARTBEAT + login[:-1]
    at = (1, 1 + 25 + 24, 1 + 25 + 24 + 33 + 25 + 2)
    assert scan(stream) == [(at[0], HEARTBEAT), (at[1], login), (at[2], HEARTBEAT)]
    assert scan(b"") == []
    assert scan(b"#" * 9_000) == []  # each start claims 0x2323 bytes, more than there are
    # The check byte of each, a zero, lies over an odd number of ones.
    assert scan((b"##\x01" + b"\0" * 19 + b"\x7f\xff") * 5_000) == []


@pytest.mark.parametrize("answer", [False, True])
@pytest.mark.parametrize(
    ("edition", "command"),
    [(edition, command) for edition, all_ in COMMANDS.items() for command in all_],
)
def test_what_the_generator_makes_is_read(edition: int, command: int, answer: bool) -> None:
    stream = b""
    frames = []
    for seed in range(40):
        rng = Random(seed)
        frame = random_frame(rng, edition, command, answer=answer)
        result = decode(frame)
        assert (result["edition"], result["command"]) == (edition, command)
        assert (result["ack"] == 0xFE) is not answer
        assert result["data"] is not None
        check_names(result)
        frames.append(frame)
        stream += rng.randbytes(rng.randint(0, 9)).translate(None, b"#$") + frame
    assert [frame for _, frame in scan(stream)] == frames


def check_names(value: Any) -> None:
    """All names are in the table of names."""
    if isinstance(value, dict):
        known = [NAMES[value["name"]]] if "name" in value else NAMES.values()
        assert any(set(value) <= names for names in known), value
        for inner in value.values():
            check_names(inner)
    elif isinstance(value, list):
        for inner in value:
            check_names(inner)


@pytest.mark.parametrize("edition", [2016, 2025])
def test_the_generator_makes_every_type(edition: int) -> None:
    frames = [decode(random_frame(Random(seed), edition, 0x02)) for seed in range(60)]
    types = {item["type"] for frame in frames for item in frame["data"]["items"]}
    assert types >= set(ITEMS_2016 if edition == 2016 else [*ITEMS_2025, 0xFF])
    assert any(0x80 <= kind <= 0xFE for kind in types)


@pytest.mark.parametrize("edition", [2016, 2025])
def test_a_cut_data_unit_is_refused_or_ends_between_two_items(edition: int) -> None:
    frame = random_frame(Random(3), edition, 0x02)
    body = decode(frame)["body"]
    start = "##" if edition == 2016 else "$$"
    whole_items = decode(frame)["data"]["items"]
    ends = 0
    for size in range(6, len(body)):
        try:
            items = data(start, 0x02, body[:size].hex())["items"]
        except ValueError:
            continue
        ends += 1
        assert items == whole_items[: len(items)]
    assert ends == len(whole_items)


def test_scales_are_of_named_fields() -> None:
    for field in [*SCALES_2016, *SCALES_2025]:
        record, name = field.split(".")
        assert name in NAMES[record]
