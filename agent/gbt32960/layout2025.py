"""GB/T 32960.3-2025 as one table.

Alarms, pack voltages and temperatures have other types than in 2016, and an unlimited pack is one
item. Where no range is known, every value below the codes is in range.
"""

from typing import Final

from agent.gbt32960.layout import (
    ECHO,
    MAKER,
    REST,
    Command,
    Field,
    Kind,
    Layout,
    Maybe,
    Number,
    Octets,
    Part,
    Prefix,
    Rows,
    SumOf,
    Tagged,
    Text,
    Time,
    bits,
    labels,
)
from agent.gbt32960.layout2016 import (
    ALARM_BITS,
    CELL,
    FAULT_COUNT,
    FAULT_LISTS,
    GEAR,
    LATITUDE,
    LONGITUDE,
    POSITION_STATUS,
    PROBE,
    SERIAL,
    parameter_commands,
)
from agent.gbt32960.layout2016 import COMMANDS as COMMANDS2016
from agent.gbt32960.layout2016 import PARAMETERS as PARAMETERS2016

SIGNATURE_TYPE: Final = 0xFF
# Of any list whose count is two bytes.
MANY: Final = Prefix(2, 0, 65531, coded=True)
CURRENT: Final = Number("current", 2, "A", 10, -3000, high=60000)
VOLTAGE: Final = Number("voltage", 2, "V", 10, high=60000)

VEHICLE: Final = Kind(
    "vehicle",
    (
        Number("vehicle_state", 1, labels=labels("started", "off", "other")),
        Number(
            "charge_state",
            1,
            labels=labels("parked charging", "driving charging", "not charging", "charge complete"),
        ),
        Number("run_mode", 1, labels=labels("electric", "hybrid", "fuel")),
        Number("speed", 2, "km/h", 10, high=5000),
        Number("odometer", 4, "km", 10, high=9_999_999),
        Number("total_voltage", 2, "V", 10, high=60000),
        Number("total_current", 2, "A", 10, -3000, high=60000),
        Number("soc", 1, "%", high=100),
        Number("dc_dc", 1, labels=labels("working", "off")),
        Number(
            "gear_byte",
            1,
            coded=False,
            parts=(
                GEAR,
                Part("brake_force", 4),
                Part("drive_force", 5),
                Part("gear_invalid", 7),
            ),
        ),
        Number("insulation_resistance", 2, "kΩ", high=60000),
    ),
)
MOTORS: Final = Kind(
    "motors",
    (
        Rows(
            "motors",
            Prefix(1, 1, 253, coded=True),
            (
                Number("number", 1, low=1, high=253),
                Number("state", 1, labels=labels("consuming", "generating", "off", "ready")),
                Number("controller_temperature", 1, "°C", offset=-40, high=250),
                Number("speed", 2, "rpm", offset=-32000, high=65531),
                Number("torque", 4, "N·m", 10, -20000, high=400_000),
                Number("motor_temperature", 1, "°C", offset=-40, high=250),
            ),
        ),
    ),
)
FUEL_CELL: Final = Kind(
    "fuel_cell",
    (
        Number("hydrogen_temperature_max", 2, "°C", offset=-40),
        Number("hydrogen_temperature_probe", 1),
        Number("hydrogen_concentration_max", 2, "% vol", 10_000, high=60000),
        Number("hydrogen_concentration_sensor", 1),
        Number("hydrogen_pressure_max", 2, "MPa", 10),
        Number("hydrogen_pressure_sensor", 1),
        Number("dc_dc", 1, labels=labels("working", "off")),
        Number("hydrogen_left", 1, "%", high=100),
        Number("dc_dc_temperature", 1, "°C", offset=-40),
    ),
)
ENGINE: Final = Kind("engine", (Number("speed", 2, "rpm", high=60000),))
POSITION: Final = Kind(
    "position",
    (
        POSITION_STATUS,
        Number("datum", 1, coded=False, labels=labels("WGS84", "GCJ02", "other")),
        LONGITUDE,
        LATITUDE,
    ),
)
ALARMS: Final = Kind(
    "alarms",
    (
        Number(
            "level",
            1,
            labels=labels("none", "driving", "limited", "stop", "thermal event", first=0),
        ),
        Number(
            "flags",
            4,
            coded=False,
            # In this edition a "cell" of bits 5, 6 and 10 is the smallest parallel unit.
            parts=bits(
                *ALARM_BITS,
                "motor_overspeed",
                "motor_over_current",
                "supercapacitor_over_temperature",
                "supercapacitor_over_voltage",
                "thermal_event",
                "hydrogen_leak",
                "hydrogen_pressure",
                "hydrogen_temperature",
                "stack_over_temperature",
            ),
        ),
        *FAULT_LISTS,
        Rows(
            "alarm_levels",
            FAULT_COUNT,
            (Number("bit", 1, high=31, coded=False), Number("level", 1, high=4, coded=False)),
        ),
    ),
)
PACK_VOLTAGES: Final = Kind(
    "cell_voltages",
    (
        Rows(
            "packs",
            Prefix(1, 0, 50, coded=True),
            (Number("number", 1), VOLTAGE, CURRENT, Rows("cells", MANY, CELL)),
        ),
    ),
)
PACK_TEMPERATURES: Final = Kind(
    "temperatures",
    (
        Rows(
            "packs",
            Prefix(1, 0, 50, coded=True),
            (Number("number", 1), Rows("probes", MANY, PROBE)),
        ),
    ),
)
STACKS: Final = Kind(
    "stacks",
    (
        Rows(
            "stacks",
            Prefix(1, 0, 253, coded=True),
            (
                Number("number", 1),
                Number("voltage", 2, "V", 10),
                Number("current", 2, "A", 10),
                Number("hydrogen_inlet_pressure", 2, "kPa", 10, -100),
                Number("air_inlet_pressure", 2, "kPa", 10, -100),
                Number("air_inlet_temperature", 1, "°C", offset=-40),
                Rows("coolant_temperatures", MANY, Number("coolant", 1, "°C", offset=-40)),
            ),
        ),
    ),
)
SUPERCAPACITOR: Final = Kind(
    "supercapacitor",
    (
        Number("number", 1),
        VOLTAGE,
        CURRENT,
        Rows("cells", MANY, CELL),
        Rows("probes", MANY, PROBE),
    ),
)
SUPERCAPACITOR_EXTREMES: Final = Kind(
    "supercapacitor_extremes",
    (
        Number("voltage_max_subsystem", 1),
        Number("voltage_max_cell", 2),
        Number("voltage_max", 2, "V", 1000, high=60000),
        Number("voltage_min_subsystem", 1),
        Number("voltage_min_cell", 2),
        Number("voltage_min", 2, "V", 1000, high=60000),
        Number("temperature_max_subsystem", 1),
        Number("temperature_max_probe", 2),
        Number("temperature_max", 1, "°C", offset=-40, high=250),
        Number("temperature_min_subsystem", 1),
        Number("temperature_min_probe", 2),
        Number("temperature_min", 1, "°C", offset=-40, high=250),
    ),
)
SIGNATURE: Final = (
    Number("signature_kind", 1, coded=False, labels=labels("SM2", "RSA", "ECC")),
    Octets("signature_r", Prefix(2)),
    Octets("signature_s", Prefix(2)),
)
ACTIVATION_ANSWER: Final = (
    Number("status", 1, coded=False, labels=labels("ok", "failed")),
    Number(
        "info",
        1,
        coded=False,
        labels=labels("ok", "chip already active", "duplicate VIN", first=0),
    ),
)

ITEMS: Final = {
    0x01: VEHICLE,
    0x02: MOTORS,
    0x03: FUEL_CELL,
    0x04: ENGINE,
    0x05: POSITION,
    0x06: ALARMS,
    0x07: PACK_VOLTAGES,
    0x08: PACK_TEMPERATURES,
    0x30: STACKS,
    0x31: SUPERCAPACITOR,
    0x32: SUPERCAPACITOR_EXTREMES,
    SIGNATURE_TYPE: Kind("signature", SIGNATURE),
}
REPORT: Final[tuple[Field, ...]] = (
    Time(),
    Tagged("items", REST, ITEMS, MAKER, last=frozenset({SIGNATURE_TYPE})),
)

PARAMETERS: Final = {
    **PARAMETERS2016,
    0x02: Kind("report_period", (Number("report_period", 1, "s", low=1, high=30, coded=False),)),
    0x03: Kind(
        "alarm_report_period", (Number("alarm_report_period", 1, "s", high=1, coded=False),)
    ),
}
COMMANDS: Final = {
    **COMMANDS2016,
    0x01: Command(
        "vehicle_login",
        (
            Time(),
            SERIAL,
            Text("iccid", 20),
            Rows("pack_counts", Prefix(1, 0, 20), Number("packs", 1, high=50, coded=False)),
            Rows("codes", SumOf("pack_counts", 50), Text("code", 24)),
        ),
        ECHO,
    ),
    0x02: Command("realtime", REPORT, ECHO),
    0x03: Command("reissue", REPORT, ECHO),
    0x09: Command(
        "activation",
        (
            Time(),
            Text("chip_id", 16, b" "),
            Octets("public_key", Prefix(2)),
            Text("vin", 17),
            *SIGNATURE,
        ),
        ECHO,
    ),
    # Sources do not say which ack flag this has, so both kinds of frame read alike.
    0x0A: Command(
        "activation_answer",
        ACTIVATION_ANSWER,
        (Maybe(ACTIVATION_ANSWER),),
        up=False,
        down=True,
    ),
    0x0B: Command(
        "key_exchange",
        (
            Number("key_kind", 1, coded=False),
            Octets("key", Prefix(2)),
            Time("valid_from"),
            Time("valid_until"),
        ),
        # It has no time to begin with, so an echo has none either.
        (Maybe((Octets("echo", REST),)),),
        down=True,
    ),
    **parameter_commands(PARAMETERS),
}

LAYOUT2025: Final = Layout(
    name="2025",
    start=b"$$",
    commands=COMMANDS,
    items=ITEMS,
    parameters=PARAMETERS,
    acks={
        0x01: "success",
        0x02: "other error",
        0x03: "duplicate VIN",
        0x04: "VIN unknown",
        0x05: "signature error",
        0x06: "structure error",
        0x07: "decryption error",
    },
    encryptions={
        0x01: "none",
        0x02: "RSA",
        0x03: "AES",
        0x04: "SM2",
        0x05: "SM4",
        0xFE: "abnormal",
        0xFF: "invalid",
    },
)
