"""Samples of a vehicle as the items of an edition, read again by the codec."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import WallNs
from agent.gbt32960.codec import GBT2016, GBT2025, pack_time
from agent.gbt32960.layout import Code, Item, Number, Rows
from agent.gbt32960.packs import Pack, join_packs, split_packs
from agent.gbt32960.report import BODY_BYTES, encode
from agent.gbt32960.sample import Alarms, Sample
from agent.gbt32960.signature import append

Edition = Literal[2016, 2025]
EDITIONS: tuple[Edition, ...] = (2016, 2025)
CODECS = {2016: GBT2016, 2025: GBT2025}
NAN = math.nan
TIME = pack_time(WallNs(1_790_000_000_000_000_000))
UNMAPPED = 0xFF

VEHICLE = {
    "vehicle_state": 1.0,
    "charge_state": 3.0,
    "run_mode": 1.0,
    "speed": 57.3,
    "odometer": 12345.6,
    "total_voltage": 371.2,
    "total_current": -12.3,
    "soc": 77.0,
    "dc_dc": 1.0,
    "gear": 14.0,
    "brake_force": 0.0,
    "drive_force": 1.0,
    "insulation_resistance": 5000.0,
    "accelerator_pedal": 12.0,
    "brake_pedal": 101.0,
}


def items_of(body: bytes, edition: Edition) -> dict[int, Any]:
    """What a platform reads: values of items by type, in the order of the frame."""
    items: list[Item] = CODECS[edition].decode(0x02, TIME + body)["items"]
    assert [item.type for item in items] == sorted({item.type for item in items})
    return {item.type: item.values for item in items}


def one(sample: Sample, edition: Edition) -> dict[int, Any]:
    (body,), _, _ = encode(sample, edition)
    return items_of(body, edition)


def codes(sample: Sample, edition: Edition) -> tuple[int, int]:
    """How many fields are invalid, and how many abnormal."""
    _, invalid, abnormal = encode(sample, edition)
    return invalid, abnormal


def pack(number: int, cells: int, probes: int = 0) -> dict[str, Any]:
    return {
        "number": float(number),
        "voltage": 370.0,
        "current": -3.5,
        "cells": np.linspace(3.0, 3.5, cells),
        "probes": np.linspace(20.0, 30.0, probes),
    }


# -- equality with the codec ---------------------------------------------------------------------

value = st.one_of(
    st.just(NAN),
    st.floats(-60_000, 70_000, width=32),
    st.integers(-45, 300).map(float),
    st.sampled_from([math.inf, -math.inf, 1e300]),
)
SPECIAL = {"gear_byte", "status", "datum", "insulation_resistance"}


@st.composite
def filled(draw: st.DrawFn, fields: Any) -> dict[str, Any]:
    """Values for the fields of a table, some of them without."""
    found: dict[str, Any] = {}
    for field in fields:
        if isinstance(field, Rows):
            found[field.name] = np.array(draw(st.lists(value, min_size=1, max_size=5)))
        elif field.name not in SPECIAL and draw(st.integers(0, 9)):
            found[field.name] = draw(value)
    return found


def expected(field: Any, sample: Mapping[str, Any], edition: Edition) -> Any:
    if isinstance(field, Rows):
        assert isinstance(field.row, Number)
        return [field.row.raw(float(each)) for each in sample[field.name]]
    physical = sample.get(field.name, NAN)
    raw = field.raw(abs(physical) if field.name in ("longitude", "latitude") else physical)
    names = edition == 2016 and field.name.endswith(("_cell", "_probe", "_subsystem"))
    return field.invalid if names and raw == field.abnormal else raw


@pytest.mark.parametrize("edition", EDITIONS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_receiver_reads_the_raw_values_of_what_was_sampled(
    edition: Edition, data: st.DataObject
) -> None:
    layout = CODECS[edition].layout
    plain = {
        type_: kind
        for type_, kind in layout.items.items()
        if kind.name not in ("alarms", "signature")
        and not any(isinstance(f, Rows) and isinstance(f.row, tuple) for f in kind.fields)
    }
    items = {kind.name: data.draw(filled(kind.fields)) for kind in plain.values()}
    items["vehicle"]["charge_state"] = 3.0
    if "fuel_cell" in items and edition == 2025:
        concentration = items["fuel_cell"].pop("hydrogen_concentration_max", NAN)
        items["fuel_cell"]["hydrogen_concentration_volume"] = concentration

    read = one(Sample(items=items), edition)

    assert set(read) == set(plain)
    for type_, kind in plain.items():
        sampled = dict(items[kind.name])
        if "hydrogen_concentration_volume" in sampled:
            sampled["hydrogen_concentration_max"] = sampled["hydrogen_concentration_volume"]
        for field in kind.fields:
            assert isinstance(field, Number | Rows)
            if field.name not in SPECIAL:
                assert read[type_][field.name] == expected(field, sampled, edition), field.name


@pytest.mark.parametrize("edition", EDITIONS)
def test_what_is_complete_and_in_range_is_what_a_strict_writer_writes(edition: Edition) -> None:
    sample = Sample(
        items={
            "vehicle": VEHICLE,
            "engine": {"state": 1.0, "speed": 900.0, "consumption": 6.5},
            "position": {"longitude": 116.39, "latitude": 39.91, "no_fix": 0.0, "datum": 1.0},
        },
        lists={"motors": [{"number": 1.0, "state": 1.0}], "packs": [pack(1, 96, 16)]},
        alarms=Alarms(2.0, frozenset({"soc_low"}), battery_faults=[7, 0xFFFFFFFF]),
        maker={0x90: b"ours", 0x80: b"mine"},
    )

    (body,), invalid, abnormal = encode(sample, edition)

    read = CODECS[edition].decode(0x02, TIME + body)
    assert CODECS[edition].encode(0x02, read) == TIME + body
    assert (invalid, abnormal) == (0, 0)


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.sampled_from([1, 96, 200, 201, 399, 400, 401, 650]), max_size=4))
def test_packs_are_split_as_the_standard_splits_them(sizes: list[int]) -> None:
    packs = [pack(number, size) for number, size in enumerate(sizes, 1)]
    whole = [
        Pack(n, 3700, 9965, dict(enumerate(np.rint(p["cells"] * 1000).astype(int).tolist(), 1)), s)
        for n, (p, s) in enumerate(zip(packs, sizes, strict=True), 1)
    ]

    bodies, _, _ = encode(Sample(lists={"packs": packs}), 2016)

    parts = [items_of(body, 2016)[0x08] for body in bodies]
    assert parts == list(split_packs(whole))
    assert join_packs(parts) == whole


# -- what is sent --------------------------------------------------------------------------------


def test_a_great_pack_of_2016_goes_in_frames_of_one_time_the_first_with_everything_else() -> None:
    sample = Sample(items={"vehicle": VEHICLE}, lists={"packs": [pack(1, 450, 30)]})

    first, *others = (items_of(body, 2016) for body in encode(sample, 2016)[0])

    assert list(first) == [0x01, 0x08, 0x09]
    assert [list(other) for other in others] == [[0x08], [0x08]]
    assert list(one(sample, 2025)) == [0x01, 0x07, 0x08]


def test_a_vehicle_with_more_cells_than_a_frame_has_room_for_sends_all_of_them() -> None:
    sample = Sample(
        items={"vehicle": VEHICLE},
        lists={"packs": [pack(number, 200, 100) for number in range(1, 251)]},
    )

    bodies, _, abnormal = encode(sample, 2016)

    read = [items_of(body, 2016) for body in bodies]
    voltages = join_packs(each[0x08] for each in read if 0x08 in each)
    assert sum(len(p.cells) for p in voltages) == 50_000
    assert sum(0x01 in each for each in read) == 1
    assert max(map(len, bodies)) <= BODY_BYTES
    assert abnormal == 0


@pytest.mark.parametrize("edition", EDITIONS)
def test_only_what_is_mapped_is_sent(edition: Edition) -> None:
    assert encode(Sample(), edition) == ([], 0, 0)
    assert list(one(Sample(items={"engine": {"speed": 700.0}}), edition)) == [0x04]
    probes_only = {key: v for key, v in pack(1, 1, 3).items() if key != "cells"}
    temperatures = 0x09 if edition == 2016 else 0x08
    assert list(one(Sample(lists={"packs": [probes_only]}), edition)) == [temperatures]
    assert encode(Sample(lists={"motors": [], "packs": []}), edition)[0] == []


@pytest.mark.parametrize("edition", EDITIONS)
def test_motors_and_the_engine_rest_while_the_vehicle_is_parked_and_charges(
    edition: Edition,
) -> None:
    def sent(charge_state: float) -> list[int]:
        vehicle = VEHICLE | {"charge_state": charge_state}
        items = {"vehicle": vehicle, "engine": {"speed": 0.0}}
        return list(one(Sample(items, {"motors": [{"number": 1.0}]}), edition))

    assert sent(1.0) == [0x01]
    assert sent(2.0) == [0x01, 0x02, 0x04]


def test_an_edition_gets_what_it_knows_of() -> None:
    sample = Sample(
        items={"extremes": {"voltage_max": 3.5}, "supercapacitor": {"number": 1.0}},
        lists={"stacks": [{"number": 1.0, "coolant_temperatures": np.array([60.0])}]},
    )

    assert list(one(sample, 2016)) == [0x06]
    assert list(one(sample, 2025)) == [0x30, 0x31]


# -- values that are none ------------------------------------------------------------------------


def test_no_value_is_invalid_and_one_out_of_range_abnormal_and_both_are_counted() -> None:
    vehicle = VEHICLE | {"speed": NAN, "soc": 101.0, "vehicle_state": 7.0}
    cells = pack(1, 4, 2) | {"cells": np.array([3.3, NAN, 99.0, NAN])}
    sample = Sample(items={"vehicle": vehicle}, lists={"packs": [cells]})

    read = one(sample, 2016)

    assert read[0x01]["speed"] == 0xFFFF
    assert read[0x01]["soc"] == 0xFE
    assert read[0x01]["vehicle_state"] == 0xFE
    assert read[0x08]["packs"][0]["cells"] == [3300, 0xFFFF, 0xFFFE, 0xFFFF]
    assert codes(sample, 2016) == codes(sample, 2025) == (3, 3)


def test_fields_that_nobody_mapped_are_invalid_and_no_trouble() -> None:
    sample = Sample(items={"vehicle": {"speed": 50.0}})

    read = one(sample, 2025)[0x01]

    assert read["speed"] == 500
    assert {read[name] for name in ("vehicle_state", "soc", "dc_dc")} == {UNMAPPED}
    assert read["insulation_resistance"] == 0xFFFF
    assert codes(sample, 2025) == (0, 0)


@pytest.mark.parametrize(
    ("kohm", "raw", "counted"),
    [(0.0, 0, (0, 0)), (70_000.0, 60_000, (0, 1)), (-1.0, 0, (0, 1)), (NAN, 0xFFFF, (1, 0))],
)
def test_insulation_resistance_of_2016_has_no_codes(
    kohm: float, raw: int, counted: tuple[int, int]
) -> None:
    sample = Sample(items={"vehicle": VEHICLE | {"insulation_resistance": kohm}})

    assert one(sample, 2016)[0x01]["insulation_resistance"] == raw
    assert codes(sample, 2016) == counted


def test_an_unknown_gear_is_neutral_in_2016_and_says_so_in_2025() -> None:
    def gear(value: float, edition: Edition) -> int:
        vehicle = VEHICLE | {"gear": value, "brake_force": 1.0}
        raw: int = one(Sample(items={"vehicle": vehicle}), edition)[0x01]["gear_byte"]
        return raw

    assert gear(15.0, 2016) == 0b0011_1111
    assert gear(NAN, 2016) == 0b0011_0000
    assert gear(NAN, 2025) == 0b1011_0000
    assert codes(Sample(items={"vehicle": VEHICLE | {"gear": NAN}}), 2016) == (1, 0)
    assert codes(Sample(items={"vehicle": VEHICLE | {"gear": 9.0}}), 2025) == (0, 1)


def test_a_cell_that_a_byte_cannot_number_is_invalid_in_2016() -> None:
    found = {"voltage_max_subsystem": 1.0, "voltage_max_cell": 251.0, "voltage_max": 3.6}
    names = {"extremes": found, "supercapacitor_extremes": found}

    extremes = one(Sample(items=names), 2016)[0x06]

    assert extremes["voltage_max_cell"] == 0xFF
    assert extremes["voltage_max"] == 3600
    assert codes(Sample(items={"extremes": found}), 2016) == (1, 0)
    assert one(Sample(items=names), 2025)[0x32]["voltage_max_cell"] == 251


# -- position and alarms -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "status"),
    [
        ({"longitude": 116.397128, "latitude": 39.916527, "no_fix": 0.0}, 0b000),
        ({"longitude": -58.38, "latitude": -34.6, "no_fix": 0.0}, 0b110),
        ({"longitude": 116.397128, "latitude": -39.916527, "no_fix": 1.0}, 0b011),
    ],
)
def test_the_hemisphere_and_the_fix_are_in_the_status(place: dict[str, float], status: int) -> None:
    read = one(Sample(items={"position": place | {"datum": 2.0}}), 2025)[0x05]

    assert read == {
        "status": status,
        "datum": 2,
        "longitude": round(abs(place["longitude"]) * 1e6),
        "latitude": round(abs(place["latitude"]) * 1e6),
    }


def test_before_the_first_fix_there_is_no_place() -> None:
    nowhere = {"longitude": NAN, "latitude": NAN, "no_fix": 1.0}

    read = one(Sample(items={"position": nowhere}), 2016)[0x05]

    assert read == {"status": 1, "longitude": 0xFFFFFFFF, "latitude": 0xFFFFFFFF}


def test_alarms_are_named_as_far_as_the_edition_has_names() -> None:
    alarms = Alarms(
        level=4.0,
        flags=frozenset({"temperature_difference", "storage_overcharge", "thermal_event"}),
        motor_faults=[0x01020304],
        other_faults=range(300),
        levels={"thermal_event": 4, "storage_overcharge": 3},
    )

    old, new = (one(Sample(alarms=alarms), edition) for edition in EDITIONS)

    assert (old[0x07]["level"], old[0x07]["flags"]) == (3, 1 | 1 << 18)
    assert (new[0x06]["level"], new[0x06]["flags"]) == (4, 1 | 1 << 18 | 1 << 23)
    assert old[0x07]["motor_faults"] == [0x01020304]
    assert old[0x07]["other_faults"] == list(range(252))
    assert new[0x06]["alarm_levels"] == [{"bit": 18, "level": 3}, {"bit": 23, "level": 4}]


@pytest.mark.parametrize(("level", "raw"), [(NAN, 0xFF), (-1.0, 0xFE), (0.0, 0), (3.0, 3)])
def test_the_level_of_alarms_has_codes_as_any_field(level: float, raw: int) -> None:
    assert one(Sample(alarms=Alarms(level)), 2016)[0x07]["level"] == raw


def test_a_signature_can_follow_what_was_made() -> None:
    (body,), _, _ = encode(Sample(items={"vehicle": VEHICLE}, maker={0xA0: b"x"}), 2025)

    signed = append(TIME + body, 1, bytes(32), bytes(32))

    kinds = [item.type for item in GBT2025.decode(0x02, signed)["items"]]
    assert kinds == [0x01, 0xA0, 0xFF]
    assert Code.INVALID not in GBT2025.physical(0x02, GBT2025.decode(0x02, signed)).values()
