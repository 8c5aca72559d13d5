"""Bytes of answers and what they mean: fields, the parameter table, answers to several at once."""

import itertools
import math
import re
import struct

import cantools
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.bus.diagnostics.fields import Field
from agent.bus.diagnostics.pids import BY_NAME, PIDS, split
from agent.bus.diagnostics.tables import OBD, Tables, pid_branch
from agent.clock import BootNs
from tests.shared_data import needs_shared, shared


def encode(fields: tuple[Field, ...], raw: dict[str, int], length: int) -> bytes:
    """Bytes that hold raw values, put together bit by bit."""
    bits = ["0"] * (8 * length)
    for field in fields:
        if field.end > length:
            continue
        digits = f"{raw[field.name] & ((1 << field.bits) - 1):0{field.bits}b}"
        begin = 8 * field.byte + field.bit
        bits[begin : begin + field.bits] = digits
    return int("".join(bits), 2).to_bytes(length, "big")


def raw_values(data: st.DataObject, fields: tuple[Field, ...]) -> dict[str, int]:
    raw = {}
    for field in fields:
        low, high = 0, (1 << field.bits) - 1
        if field.kind == "signed":
            low, high = -(1 << field.bits - 1), (1 << field.bits - 1) - 1
        raw[field.name] = data.draw(st.integers(low, high), field.name)
    return raw


@pytest.mark.parametrize("number", PIDS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_every_value_of_every_parameter_is_read_as_it_was_written(
    number: int, data: st.DataObject
) -> None:
    pid = PIDS[number]
    length = data.draw(st.sampled_from(pid.lengths))
    raw = raw_values(data, pid.fields)
    payload = encode(pid.fields, raw, length)

    table = Tables("body").values(
        OBD, pid_branch(number), pid.fields, source=0xE8, time=BootNs(7), data=payload
    )

    assert table is not None
    covered = [field for field in pid.fields if field.end <= length]
    assert table.names == tuple(field.name for field in covered)
    for field in covered:
        assert table.raw[field.name].tolist() == [raw[field.name]]
        expected = raw[field.name] * field.scale + field.offset
        assert math.isclose(table.physical(field.name)[0], expected, abs_tol=1e-9)
    assert split(bytes([number]) + payload, frozenset({number})) == {number: payload}


KNOWN = [
    # What the standard's tables give as the least and the greatest value of a parameter.
    ("EngineLoad", 0, 100),
    ("CoolantTemperature", -40, 215),
    ("ShortTermFuelTrim1", -100, 99.21875),
    ("LongTermFuelTrim2", -100, 99.21875),
    ("FuelPressure", 0, 765),
    ("IntakeManifoldPressure", 0, 255),
    ("EngineSpeed", 0, 16383.75),
    ("VehicleSpeed", 0, 255),
    ("TimingAdvance", -64, 63.5),
    ("MassAirFlow", 0, 655.35),
    ("O2Sensor1Voltage", 0, 1.275),
    ("FuelRailPressureVacuum", 0, 5178),
    ("FuelRailPressure", 0, 655350),
    ("WideO2Sensor1Voltage", 0, 7.99988),
    ("EgrError", -100, 99.21875),
    ("EvapPressure", -8192, 8191.75),
    ("CurrentO2Sensor1Current", -128, 127.99609),
    ("CatalystTemperatureBank1Sensor1", -40, 6513.5),
    ("ControlModuleVoltage", 0, 65.535),
    ("AbsoluteLoad", 0, 25700),
    ("CommandedLambda", 0, 1.99997),
    ("MaxMassAirFlow", 0, 2550),
    ("EvapPressureAbsolute", 0, 327.675),
    ("FuelInjectionTiming", -210, 301.9922),
    ("FuelRate", 0, 3276.75),
    ("DemandedTorque", -125, 130),
    ("MassAirFlowA", 0, 2047.96875),
    ("Odometer", 0, 429496729.5),
]


@pytest.mark.parametrize(("name", "least", "greatest"), KNOWN)
def test_the_range_of_a_parameter_is_that_of_the_standard(
    name: str, least: float, greatest: float
) -> None:
    field = next(f for f in PIDS[BY_NAME[name]].fields if f.name == name)
    ends = (0, (1 << field.bits) - 1)
    if field.kind == "signed":
        ends = (-(1 << field.bits - 1), (1 << field.bits - 1) - 1)

    assert [end * field.scale + field.offset for end in ends] == pytest.approx(
        [least, greatest], rel=1e-6
    )


def test_names_of_signals_are_unique_and_lengths_hold_them() -> None:
    names = [field.name for pid in PIDS.values() for field in pid.fields]

    assert len(set(names)) == len(names)
    for pid in PIDS.values():
        assert all(field.end <= max(pid.lengths) for field in pid.fields)
        places = [8 * f.byte + f.bit + bit for f in pid.fields for bit in range(f.bits)]
        assert len(set(places)) == len(places), f"{pid.number:02X}: fields overlap"


# Where the database differs from the standard's table: these have a sign there.
UNSIGNED_THERE = {0x32, 0x54}


@needs_shared
def test_scales_agree_with_a_published_database() -> None:
    database = cantools.database.load_file(shared("dbc/OBD-v4.4.dbc"), strict=False)
    assert isinstance(database, cantools.database.can.Database)
    message = next(m for m in database.messages if m.name == "OBD_RX")
    agreed = set()
    for signal in message.signals:
        match = re.fullmatch(r"S01PID([0-9A-F]{2})_.*", signal.name)
        number = int(match[1], 16) if match else -1
        if number not in PIDS or number in UNSIGNED_THERE or not signal.unit:
            continue
        # After length, service and parameter; a start bit in Motorola counting.
        byte = signal.start // 8 - 3
        field = next(f for f in PIDS[number].fields if (f.byte, f.bit) == (byte, 0))
        assert field.bits == signal.length, signal.name
        assert field.scale == pytest.approx(signal.scale, rel=2e-4), signal.name
        assert field.offset == signal.offset, signal.name
        agreed.add(number)
    assert len(agreed) > 80


@settings(deadline=None)
@given(data=st.data())
def test_an_answer_to_several_parameters_is_taken_apart(data: st.DataObject) -> None:
    numbers = data.draw(
        st.lists(st.sampled_from(sorted(PIDS)), unique=True, min_size=1, max_size=6)
    )
    parts = {
        n: data.draw(
            st.sampled_from(PIDS[n].lengths).flatmap(
                lambda length: st.binary(min_size=length, max_size=length)
            )
        )
        for n in numbers
    }
    answer = b"".join(bytes([n]) + part for n, part in parts.items())

    found = split(answer, frozenset(numbers))

    # A few parameters have two lengths, and then an answer may be read in two ways: in none then.
    assert found in (parts, None)
    if all(len(PIDS[n].lengths) == 1 for n in numbers):
        assert found == parts


@given(
    answer=st.binary(max_size=60), asked=st.frozensets(st.sampled_from(sorted(PIDS)), max_size=6)
)
def test_any_bytes_are_taken_apart_whole_or_not_at_all(
    answer: bytes, asked: frozenset[int]
) -> None:
    found = split(answer, asked)

    if found is not None:
        assert found.keys() <= asked
        assert sorted(answer) == sorted(b"".join(bytes([n]) + part for n, part in found.items()))


@settings(deadline=None)
@given(
    start=st.integers(0, 100),
    bits=st.integers(1, 64),
    signed=st.booleans(),
    payload=st.binary(min_size=24, max_size=24),
)
def test_a_number_is_read_from_any_bits(
    start: int, bits: int, signed: bool, payload: bytes
) -> None:
    field = Field("A", start // 8, start % 8, bits, "signed" if signed else "unsigned")

    digits = "".join(f"{byte:08b}" for byte in payload)[start : start + bits]
    value = int(digits, 2) - (signed and digits[0] == "1") * (1 << bits)
    assert field.read(payload) == value


@pytest.mark.parametrize("kind", ["unsigned", "signed"])
def test_little_endian_numbers(kind: str) -> None:
    payload = b"\xff" + struct.pack("<i", -5)
    field = Field("A", 1, 0, 32, kind, little_endian=True)  # type: ignore[arg-type]

    assert field.read(payload) == (-5 if kind == "signed" else 2**32 - 5)


@pytest.mark.parametrize(("bits", "form"), [(32, "f"), (64, "d")])
@pytest.mark.parametrize("order", ["<", ">"])
def test_floats(bits: int, form: str, order: str) -> None:
    field = Field("A", 2, 0, bits, "float", little_endian=order == "<")
    payload = b"\0\0" + struct.pack(order + form, 1.5)

    table = Tables("body").values("Uds", "", [field], source=1, time=BootNs(1), data=payload)

    assert table is not None
    assert table.raw["A"].tolist() == [1.5]
    assert table.raw["A"].dtype == (np.float32 if bits == 32 else np.float64)


@pytest.mark.parametrize(
    ("kind", "payload", "value"),
    [
        ("ascii", b"AB12", b"AB12\0\0"),
        ("ascii", b"AB\xff\xff\xff\xff", b"AB\0\0\0\0"),
        ("ascii", b"A\x01B   ", b"AB\0\0\0\0"),
        ("ascii", b"ABCDEFGH", b"ABCDEF"),
        ("bytes", b"\x01\xff", b"\x01\xff\0\0\0\0"),
        ("bytes", b"\x01\xff\0\0\0\x20", b"\x01\xff\0\0\0\x20"),
    ],
)
def test_texts_and_bytes_have_one_width(kind: str, payload: bytes, value: bytes) -> None:
    field = Field("A", bits=48, kind=kind)  # type: ignore[arg-type]

    table = Tables("body").values("Uds", "", [field], source=1, time=BootNs(1), data=payload)

    assert table is not None
    assert bytes(table.raw["A"][0]) == value


def test_tables_of_the_same_signals_share_their_schema() -> None:
    tables = Tables("body")
    field = Field("A")

    one, two = (
        tables.values("Uds", "", [field], source=1, time=BootNs(at), data=b"\1") for at in (1, 2)
    )

    assert one is not None
    assert two is not None
    assert one.schema is two.schema


def test_trims_of_oxygen_sensors_without_one_are_marked() -> None:
    pid = PIDS[0x14]
    table = Tables("body").values(
        OBD, "", pid.fields, source=0xE8, time=BootNs(1), data=b"\x5a\xff"
    )

    assert table is not None
    assert table.validity("O2Sensor1FuelTrim").tolist() == [1]


def test_all_lists_of_trouble_codes_of_a_bus_are_told_apart() -> None:
    tables = Tables("body")
    made = itertools.chain.from_iterable(
        tables.dtcs(message, service, [], available=0, source=0xE8, time=BootNs(1))
        for message, service in (
            ("Dtc", 3),
            ("PendingDtc", 7),
            ("PermanentDtc", 10),
            ("Dtc", 0x19),
        )
    )

    # What is thinned together: tables of one message, source and set of signals.
    assert len({(t.message, t.source, t.names) for t in made}) == 4
