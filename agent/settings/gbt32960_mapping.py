"""`[gbt32960]` of a plan: from what the fields of reports to platforms are made.

The keys are the fields of agent/gbt32960/layout2016.py and layout2025.py, which have their units,
ranges and words, too; each edition takes what it has. What the values mean is said in
agent/collect/reports/mapping.py.
"""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from agent.settings.types import described

Constant = int | float | str
Stale = Annotated[
    float, Meta(gt=0, le=86_400, description="What is older than this is no value any more, s.")
]
Condition = Annotated[str, Meta(max_length=4096, description="A condition (docs/plans.md).")]
Patterns = Annotated[
    list[str],
    Meta(
        max_length=65_531,
        description="Signals in their order, with * and ? in natural order (Cell2 before Cell10).",
    ),
]


class FieldTable(Struct, kw_only=True, forbid_unknown_fields=True):
    """A field that takes more than a word: a table of states, conditions, a unit."""

    signal: Annotated[str, described("A signal, or an expression of numbers.")] = ""
    values: Annotated[
        dict[str, Constant],
        described(
            "Labels of the signal's value table, or raw values -> numbers, or the standard's words."
        ),
    ] = msgspec.field(default_factory=dict)
    when: Annotated[
        dict[str, Condition],
        described("Numbers or the standard's words -> conditions; the first that is true wins."),
    ] = msgspec.field(default_factory=dict)
    otherwise: Annotated[
        Constant | None, described("Where no entry of values or when holds; else it is invalid.")
    ] = None
    unit: Annotated[
        str, described("The unit of `signal`, where the database has another one or none.")
    ] = ""
    stale_after_s: Stale | None = None


Value = Annotated[
    int | float | str | FieldTable,
    described("A signal, a number, a word of the standard, an expression of numbers, or a table."),
]


class _Table(Struct, kw_only=True, forbid_unknown_fields=True):
    stale_after_s: Stale | None = None


class VehicleFields(_Table, kw_only=True, forbid_unknown_fields=True):
    """The whole vehicle."""

    vehicle_state: Value | None = None
    charge_state: Value | None = None
    run_mode: Value | None = None
    speed: Value | None = None
    odometer: Value | None = None
    total_voltage: Value | None = None
    total_current: Value | None = None
    soc: Value | None = None
    dc_dc: Value | None = None
    gear: Value | None = None
    brake_force: Condition = ""
    drive_force: Condition = ""
    insulation_resistance: Value | None = None
    accelerator_pedal: Value | None = None
    brake_pedal: Value | None = None


class MotorFields(_Table, kw_only=True, forbid_unknown_fields=True):
    """A drive motor."""

    number: Annotated[int, Meta(ge=1, le=253)] | None = None
    state: Value | None = None
    controller_temperature: Value | None = None
    speed: Value | None = None
    torque: Value | None = None
    motor_temperature: Value | None = None
    controller_voltage: Value | None = None
    controller_current: Value | None = None


class EngineFields(_Table, kw_only=True, forbid_unknown_fields=True):
    """The engine of a hybrid."""

    state: Value | None = None
    speed: Value | None = None
    consumption: Value | None = None


class FuelCellFields(_Table, kw_only=True, forbid_unknown_fields=True):
    """The fuel cell."""

    voltage: Value | None = None
    current: Value | None = None
    consumption: Value | None = None
    probe_temperatures: Patterns = msgspec.field(default_factory=list)
    hydrogen_temperature_max: Value | None = None
    hydrogen_temperature_probe: Value | None = None
    hydrogen_concentration_max: Annotated[Value | None, described("2016: in mg/kg.")] = None
    hydrogen_concentration_volume: Annotated[
        Value | None, described("2025: hydrogen_concentration_max in % by volume.")
    ] = None
    hydrogen_concentration_sensor: Value | None = None
    hydrogen_pressure_max: Value | None = None
    hydrogen_pressure_sensor: Value | None = None
    dc_dc: Value | None = None
    hydrogen_left: Value | None = None
    dc_dc_temperature: Value | None = None


class PositionFields(_Table, kw_only=True, forbid_unknown_fields=True):
    """Where the vehicle is; degrees, negative in the west and in the south."""

    longitude: Value
    latitude: Value
    valid: Annotated[
        Condition, described("Whether there is a fix; without it wherever both are known.")
    ] = ""
    datum: Annotated[Constant, described("2025: WGS84, GCJ02 or other.")] = "WGS84"


class ExtremesFields(_Table, kw_only=True, forbid_unknown_fields=True):
    """2016: highest and lowest cell. What is not here is found in the cells of the packs."""

    voltage_max_subsystem: Value | None = None
    voltage_max_cell: Value | None = None
    voltage_max: Value | None = None
    voltage_min_subsystem: Value | None = None
    voltage_min_cell: Value | None = None
    voltage_min: Value | None = None
    temperature_max_subsystem: Value | None = None
    temperature_max_probe: Value | None = None
    temperature_max: Value | None = None
    temperature_min_subsystem: Value | None = None
    temperature_min_probe: Value | None = None
    temperature_min: Value | None = None


class AlarmTable(Struct, kw_only=True, forbid_unknown_fields=True):
    """A general alarm with its level."""

    when: Condition
    level: Annotated[
        int, Meta(ge=0, le=4, description="3: stop at once; 4: thermal event (2025).")
    ] = 0


Alarm = Annotated[
    Condition | AlarmTable, described("True as long as there is this alarm; with a level or not.")
]
Faults = Annotated[
    list[Value],
    Meta(max_length=252, description="Signals with codes of the maker; those that are not 0."),
]


class AlarmFields(_Table, kw_only=True, forbid_unknown_fields=True):
    """Alarms."""

    level: Annotated[
        Value | None, described("The highest level; that of the alarms below counts, too.")
    ] = None
    temperature_difference: Alarm = ""
    battery_over_temperature: Alarm = ""
    storage_over_voltage: Alarm = ""
    storage_under_voltage: Alarm = ""
    soc_low: Alarm = ""
    cell_over_voltage: Alarm = ""
    cell_under_voltage: Alarm = ""
    soc_too_high: Alarm = ""
    soc_jump: Alarm = ""
    storage_mismatch: Alarm = ""
    cell_consistency: Alarm = ""
    insulation: Alarm = ""
    dc_dc_temperature: Alarm = ""
    brake_system: Alarm = ""
    dc_dc_status: Alarm = ""
    motor_controller_temperature: Alarm = ""
    high_voltage_interlock: Alarm = ""
    motor_temperature: Alarm = ""
    storage_overcharge: Alarm = ""
    motor_overspeed: Alarm = ""
    motor_over_current: Alarm = ""
    supercapacitor_over_temperature: Alarm = ""
    supercapacitor_over_voltage: Alarm = ""
    thermal_event: Alarm = ""
    hydrogen_leak: Alarm = ""
    hydrogen_pressure: Alarm = ""
    hydrogen_temperature: Alarm = ""
    stack_over_temperature: Alarm = ""
    battery_faults: Faults = msgspec.field(default_factory=list)
    motor_faults: Faults = msgspec.field(default_factory=list)
    engine_faults: Faults = msgspec.field(default_factory=list)
    other_faults: Faults = msgspec.field(default_factory=list)


class PackFields(_Table, kw_only=True, forbid_unknown_fields=True):
    """A battery pack."""

    number: Annotated[int, Meta(ge=1, le=250)] | None = None
    voltage: Value | None = None
    current: Value | None = None
    cells: Patterns = msgspec.field(default_factory=list)
    probes: Patterns = msgspec.field(default_factory=list)


class StackFields(_Table, kw_only=True, forbid_unknown_fields=True):
    """A fuel cell stack (2025)."""

    number: Annotated[int, Meta(ge=1, le=253)] | None = None
    voltage: Value | None = None
    current: Value | None = None
    hydrogen_inlet_pressure: Value | None = None
    air_inlet_pressure: Value | None = None
    air_inlet_temperature: Value | None = None
    coolant_temperatures: Patterns = msgspec.field(default_factory=list)


class SupercapacitorFields(PackFields, kw_only=True, forbid_unknown_fields=True):
    """A supercapacitor (2025)."""


class MakerField(Struct, kw_only=True, forbid_unknown_fields=True):
    """A number in a maker item: raw = (value - offset) / scale, big-endian and unsigned."""

    value: Value
    width: Annotated[int, Meta(ge=1, le=8, description="Bytes.")] = msgspec.field(name="bytes")
    scale: Annotated[float, described("One raw step, in the unit of the value.")] = 1
    offset: Annotated[float, described("The value of raw 0.")] = 0


class MakerItem(_Table, kw_only=True, forbid_unknown_fields=True):
    """An item whose content the maker defines."""

    type: Annotated[int, Meta(ge=0x80, le=0xFE, description="Its type, 0x80 to 0xFE.")]
    fields: Annotated[list[MakerField], Meta(min_length=1, max_length=8191)]


class Gbt32960Mapping(Struct, kw_only=True, forbid_unknown_fields=True):
    """What is reported to platforms by GB/T 32960, and from which signals."""

    uplinks: Annotated[
        list[str], described("Which platforms; empty means every one of the device.")
    ] = msgspec.field(default_factory=list)
    stale_after_s: Stale = 10
    vehicle: VehicleFields | None = None
    motor: Annotated[list[MotorFields], Meta(max_length=253)] = msgspec.field(default_factory=list)
    engine: EngineFields | None = None
    fuel_cell: FuelCellFields | None = None
    position: PositionFields | None = None
    extremes: ExtremesFields | None = None
    alarms: AlarmFields | None = None
    pack: Annotated[list[PackFields], Meta(max_length=250)] = msgspec.field(default_factory=list)
    stack: Annotated[list[StackFields], Meta(max_length=253)] = msgspec.field(default_factory=list)
    supercapacitor: SupercapacitorFields | None = None
    maker: Annotated[list[MakerItem], Meta(max_length=127)] = msgspec.field(default_factory=list)
