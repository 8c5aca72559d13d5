"""GB/T 32960.3-2016 as one table.

Limits of a raw value are those of the standard. Where its text contradicts itself (hydrogen
concentration: 60,000 or 50,000), the wider one is taken. A count that is "abnormal" or "invalid" is
followed by no list. Insulation resistance is the one quantity without codes.
"""

from typing import Final

from agent.gbt32960.layout import (
    CUSTOM,
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
    Of,
    Part,
    Prefix,
    Rows,
    Tagged,
    Text,
    Time,
    bits,
    labels,
)

SERIAL: Final = Number("serial", 2, low=1, high=65531, coded=False)
CELL: Final = Number("cell", 2, "V", 1000, high=60000)
PROBE: Final = Number("probe", 1, "°C", offset=-40, high=250)
FAULTS: Final = Number("fault", 4, coded=False)
FAULT_COUNT: Final = Prefix(1, 0, 252, coded=True)

GEAR: Final = Part(
    "gear",
    0,
    4,
    {0: "neutral"} | {n: f"gear {n}" for n in range(1, 7)} | labels("R", "D", "P", first=13),
)
ALARM_BITS: Final = (
    "temperature_difference",
    "battery_over_temperature",
    "storage_over_voltage",
    "storage_under_voltage",
    "soc_low",
    "cell_over_voltage",
    "cell_under_voltage",
    "soc_too_high",
    "soc_jump",
    "storage_mismatch",
    "cell_consistency",
    "insulation",
    "dc_dc_temperature",
    "brake_system",
    "dc_dc_status",
    "motor_controller_temperature",
    "high_voltage_interlock",
    "motor_temperature",
    "storage_overcharge",
)

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
        Number("speed", 2, "km/h", 10, high=2200),
        Number("odometer", 4, "km", 10, high=9_999_999),
        Number("total_voltage", 2, "V", 10, high=10000),
        Number("total_current", 2, "A", 10, -1000, high=20000),
        Number("soc", 1, "%", high=100),
        Number("dc_dc", 1, labels=labels("working", "off")),
        Number(
            "gear_byte",
            1,
            coded=False,
            parts=(GEAR, Part("brake_force", 4), Part("drive_force", 5)),
        ),
        Number("insulation_resistance", 2, "kΩ", high=60000, coded=False),
        Number("accelerator_pedal", 1, "%", high=100),
        Number("brake_pedal", 1, "%", high=100, labels={0x65: "applied"}),
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
                Number("speed", 2, "rpm", offset=-20000, high=65531),
                Number("torque", 2, "N·m", 10, -2000, high=65531),
                Number("motor_temperature", 1, "°C", offset=-40, high=250),
                Number("controller_voltage", 2, "V", 10, high=60000),
                Number("controller_current", 2, "A", 10, -1000, high=20000),
            ),
        ),
    ),
)
FUEL_CELL: Final = Kind(
    "fuel_cell",
    (
        Number("voltage", 2, "V", 10, high=20000),
        Number("current", 2, "A", 10, high=20000),
        Number("consumption", 2, "kg/100km", 100, high=60000),
        Rows(
            "probe_temperatures",
            Prefix(2, 0, 65531, coded=True),
            Number("probe", 1, "°C", offset=-40, high=240),
        ),
        Number("hydrogen_temperature_max", 2, "°C", 10, -40, high=2400),
        Number("hydrogen_temperature_probe", 1, low=1, high=252),
        Number("hydrogen_concentration_max", 2, "mg/kg", high=60000),
        Number("hydrogen_concentration_sensor", 1, low=1, high=252),
        Number("hydrogen_pressure_max", 2, "MPa", 10, high=1000),
        Number("hydrogen_pressure_sensor", 1, low=1, high=252),
        Number("dc_dc", 1, labels=labels("working", "off")),
    ),
)
ENGINE: Final = Kind(
    "engine",
    (
        Number("state", 1, labels=labels("on", "off")),
        Number("speed", 2, "rpm", high=60000),
        Number("consumption", 2, "L/100km", 100, high=60000),
    ),
)
# Magnitudes: the hemisphere is in the status. Longitude comes first.
POSITION_STATUS: Final = Number("status", 1, coded=False, parts=bits("no_fix", "south", "west"))
LONGITUDE: Final = Number("longitude", 4, "°", 1_000_000, high=180_000_000)
LATITUDE: Final = Number("latitude", 4, "°", 1_000_000, high=90_000_000)
POSITION: Final = Kind("position", (POSITION_STATUS, LONGITUDE, LATITUDE))
EXTREMES: Final = Kind(
    "extremes",
    (
        Number("voltage_max_subsystem", 1, low=1, high=250),
        Number("voltage_max_cell", 1, low=1, high=250),
        Number("voltage_max", 2, "V", 1000, high=15000),
        Number("voltage_min_subsystem", 1, low=1, high=250),
        Number("voltage_min_cell", 1, low=1, high=250),
        Number("voltage_min", 2, "V", 1000, high=15000),
        Number("temperature_max_subsystem", 1, low=1, high=250),
        Number("temperature_max_probe", 1, low=1, high=250),
        Number("temperature_max", 1, "°C", offset=-40, high=250),
        Number("temperature_min_subsystem", 1, low=1, high=250),
        Number("temperature_min_probe", 1, low=1, high=250),
        Number("temperature_min", 1, "°C", offset=-40, high=250),
    ),
)
FAULT_LISTS: Final = (
    Rows("battery_faults", FAULT_COUNT, FAULTS),
    Rows("motor_faults", FAULT_COUNT, FAULTS),
    Rows("engine_faults", FAULT_COUNT, FAULTS),
    Rows("other_faults", FAULT_COUNT, FAULTS),
)
ALARMS: Final = Kind(
    "alarms",
    (
        Number("level", 1, labels=labels("none", "driving", "limited", "stop", first=0)),
        Number("flags", 4, coded=False, parts=bits(*ALARM_BITS)),
        *FAULT_LISTS,
    ),
)
# A pack of more than 200 cells is split over frames of the same time: see `packs`.
CELL_VOLTAGES: Final = Kind(
    "cell_voltages",
    (
        Rows(
            "packs",
            Prefix(1, 1, 250, coded=True),
            (
                Number("number", 1, low=1, high=250),
                Number("voltage", 2, "V", 10, high=10000),
                Number("current", 2, "A", 10, -1000, high=20000),
                Number("total_cells", 2, low=1, high=65531),
                Number("first_cell", 2, low=1, high=65531),
                Rows("cells", Prefix(1, 1, 200, coded=True), CELL),
            ),
        ),
    ),
)
TEMPERATURES: Final = Kind(
    "temperatures",
    (
        Rows(
            "packs",
            Prefix(1, 1, 250, coded=True),
            (
                Number("number", 1, low=1, high=250),
                Rows("probes", Prefix(2, 1, 65531, coded=True), PROBE),
            ),
        ),
    ),
)

ITEMS: Final = {
    0x01: VEHICLE,
    0x02: MOTORS,
    0x03: FUEL_CELL,
    0x04: ENGINE,
    0x05: POSITION,
    0x06: EXTREMES,
    0x07: ALARMS,
    0x08: CELL_VOLTAGES,
    0x09: TEMPERATURES,
}


def _number(name: str, width: int, unit: str = "", low: int = 0, high: int | None = None) -> Kind:
    assert width in (1, 2)  # noqa: S101  a slip in the table below, found at import
    return Kind(
        name, (Number(name, 1 if width == 1 else 2, unit, low=low, high=high, coded=False),)
    )


PARAMETERS: Final = {
    0x01: _number("storage_period", 2, "ms", 0, 60000),
    0x02: _number("report_period", 2, "s", 1, 600),
    0x03: _number("alarm_report_period", 2, "ms", 0, 60000),
    0x04: _number("platform_domain_length", 1),
    0x05: Kind("platform_domain", (Text("platform_domain", Of("platform_domain_length", 255)),)),
    0x06: _number("platform_port", 2),
    0x07: Kind("hardware_version", (Text("hardware_version", 5),)),
    0x08: Kind("firmware_version", (Text("firmware_version", 5),)),
    0x09: _number("heartbeat_period", 1, "s", 1, 240),
    0x0A: _number("terminal_timeout", 2, "s", 1, 600),
    0x0B: _number("platform_timeout", 2, "s", 1, 600),
    0x0C: _number("login_pause", 1, "min", 1, 240),
    0x0D: _number("public_domain_length", 1),
    0x0E: Kind("public_domain", (Text("public_domain", Of("public_domain_length", 255)),)),
    0x0F: _number("public_port", 2),
    0x10: Kind("sampling", (Number("sampling", 1, coded=False, labels=labels("yes", "no")),)),
}
CONTROLS: Final = {
    # Sources differ in the order of its fields, which semicolons join.
    0x01: Kind("upgrade", (Octets("fields", REST),)),
    0x02: Kind("shut_down", ()),
    0x03: Kind("reset", ()),
    0x04: Kind("factory_reset", ()),
    0x05: Kind("drop_link", ()),
    0x06: Kind(
        "alarm",
        (Number("level", 1, high=3, coded=False), Text("text", REST, pad=b"", chinese=True)),
    ),
    0x07: Kind("start_sampling", ()),
}


def parameter_commands(parameters: dict[int, Kind]) -> dict[int, Command]:
    """Query, set and control, which differ between the editions by the parameters only."""
    listed = Tagged("parameters", Prefix(1, 0, 252), parameters)
    number = Number("id", 1, coded=False)
    control = Tagged("control", 1, CONTROLS, other=Kind("custom", (Octets("data", REST),)))
    return {
        0x80: Command(
            "parameter_query",
            (Time(), Rows("ids", Prefix(1, 0, 252), number)),
            (Maybe((Time(), Maybe((listed,)))),),
            up=False,
            down=True,
        ),
        0x81: Command("parameter_set", (Time(), listed), ECHO, up=False, down=True),
        0x82: Command("control", (Time(), control), ECHO, up=False, down=True),
    }


REPORT: Final[tuple[Field, ...]] = (Time(), Tagged("items", REST, ITEMS, MAKER))
COMMANDS: Final = {
    0x01: Command(
        "vehicle_login",
        (
            Time(),
            SERIAL,
            Text("iccid", 20),
            Number("subsystems", 1, high=250, coded=False),
            Number("code_length", 1, high=50, coded=False),
            Rows("codes", Of("subsystems", 250), Text("code", Of("code_length", 50))),
        ),
        ECHO,
    ),
    0x02: Command("realtime", REPORT, ECHO),
    0x03: Command("reissue", REPORT, ECHO),
    0x04: Command("vehicle_logout", (Time(), SERIAL), ECHO),
    0x05: Command(
        "platform_login",
        (
            Time(),
            SERIAL,
            Text("user", 12, chinese=True),
            Text("password", 20, chinese=True),
            Number("encryption_rule", 1, coded=False),
        ),
        ECHO,
    ),
    0x06: Command("platform_logout", (Time(), SERIAL), ECHO),
    0x07: Command("heartbeat", (), ECHO),
    0x08: Command("time_sync", (), ECHO),
    **parameter_commands(PARAMETERS),
    **CUSTOM,
}

LAYOUT2016: Final = Layout(
    name="2016",
    start=b"##",
    commands=COMMANDS,
    items=ITEMS,
    parameters=PARAMETERS,
    acks={0x01: "success", 0x02: "error", 0x03: "duplicate VIN"},
    encryptions={0x01: "none", 0x02: "RSA", 0x03: "AES-128", 0xFE: "abnormal", 0xFF: "invalid"},
)
