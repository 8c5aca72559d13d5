"""The parameters of OBD-II service 01: current data of the powertrain.

Numbers, lengths, scales and units follow SAE J1979 and its digital annex (ISO 15031-5 is the same
table). A, B, C and D are the bytes of the answer; where a scale is a fraction in the standard
(100/255 %), it is that fraction here and not its decimal.

Some parameters begin with a byte that says which of their values the ECU has; it is a signal of its
own (`...Supported`), and a value whose bit is not set means nothing.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Final

from agent.blocks import Codes
from agent.bus.diagnostics.fields import Field, FieldKind

Choices = tuple[tuple[int, str], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Pid:
    """One parameter: how long its answers may be, in bytes, and what is in them."""

    number: int
    lengths: tuple[int, ...]
    fields: tuple[Field, ...]


_PERCENT: Final = 100 / 255
_TRIM: Final = 100 / 128
_LAMBDA: Final = 2 / 65536

_FUEL_SYSTEM: Final[Choices] = (
    (0, "off"),
    (1, "open loop: cold"),
    (2, "closed loop"),
    (4, "open loop: load or deceleration"),
    (8, "open loop: fault"),
    (16, "closed loop with a fault"),
)
_AIR: Final[Choices] = (
    (1, "upstream"),
    (2, "downstream"),
    (4, "outside or off"),
    (8, "pump on for diagnostics"),
)
_STANDARDS: Final[Choices] = (
    (1, "OBD-II (CARB)"),
    (2, "OBD (EPA)"),
    (3, "OBD and OBD-II"),
    (4, "OBD-I"),
    (5, "none"),
    (6, "EOBD"),
    (7, "EOBD and OBD-II"),
    (8, "EOBD and OBD"),
    (9, "EOBD, OBD and OBD-II"),
    (10, "JOBD"),
    (11, "JOBD and OBD-II"),
    (12, "JOBD and EOBD"),
    (13, "JOBD, EOBD and OBD-II"),
    (17, "EMD"),
    (18, "EMD+"),
    (19, "HD OBD-C"),
    (20, "HD OBD"),
    (21, "WWH OBD"),
    (23, "HD EOBD-I"),
    (24, "HD EOBD-I N"),
    (25, "HD EOBD-II"),
    (26, "HD EOBD-II N"),
    (28, "OBDBr-1"),
    (29, "OBDBr-2"),
    (30, "KOBD"),
    (31, "IOBD I"),
    (32, "IOBD II"),
    (33, "HD EOBD-VI"),
)
_FUELS: Final[Choices] = tuple(
    enumerate(
        (
            "not available",
            "gasoline",
            "methanol",
            "ethanol",
            "diesel",
            "LPG",
            "CNG",
            "propane",
            "electric",
            "bifuel: gasoline",
            "bifuel: methanol",
            "bifuel: ethanol",
            "bifuel: LPG",
            "bifuel: CNG",
            "bifuel: propane",
            "bifuel: electricity",
            "bifuel: electric and combustion",
            "hybrid gasoline",
            "hybrid ethanol",
            "hybrid diesel",
            "hybrid electric",
            "hybrid electric and combustion",
            "hybrid regenerative",
            "bifuel: diesel",
        )
    )
)
_NO_TRIM: Final[Codes] = ((255, 255, "not available"),)


def _at(
    place: str,
    name: str,
    scale: float = 1,
    offset: float = 0,
    unit: str = "",
    *,
    kind: FieldKind = "unsigned",
    choices: Choices = (),
    codes: Codes = (),
) -> Field:
    """A field at a place in the standard's words: `A`, `AB`, `C7` (a bit), `A6-A0` (bits)."""
    if place.isalpha():
        byte, bit, bits = ord(place[0]) - ord("A"), 0, 8 * len(place)
    else:
        first, last = place.split("-") if "-" in place else (place, place)
        byte, bit = ord(first[0]) - ord("A"), 7 - int(first[1])
        bits = int(first[1]) - int(last[1]) + 1
    return Field(name, byte, bit, bits, kind, False, scale, offset, unit, choices, codes)


def _monitors(prefix: str) -> tuple[Field, ...]:
    return (
        _at("B0", f"{prefix}MisfireMonitor"),
        _at("B1", f"{prefix}FuelSystemMonitor"),
        _at("B2", f"{prefix}ComponentMonitor"),
        _at("B3", f"{prefix}CompressionIgnition"),
        _at("B4", f"{prefix}MisfireIncomplete"),
        _at("B5", f"{prefix}FuelSystemIncomplete"),
        _at("B6", f"{prefix}ComponentIncomplete"),
        _at("C", f"{prefix}MonitorsSupported"),
        _at("D", f"{prefix}MonitorsIncomplete"),
    )


def _temperatures(prefix: str) -> tuple[Field, ...]:
    return (
        _at("A", f"{prefix}Supported"),
        *(
            _at(place, f"{prefix}{number}", 0.1, -40, "°C")
            for number, place in enumerate(("BC", "DE", "FG", "HI"), 1)
        ),
    )


def _table() -> Iterator[Pid]:  # a table, however long
    def pid(number: int, *fields: Field, lengths: tuple[int, ...] = ()) -> Pid:
        return Pid(number, lengths or (max(field.end for field in fields),), fields)

    for base in range(0x00, 0xE0, 0x20):
        yield pid(base, _at("ABCD", f"PidsSupported{base + 1:02X}"))
    yield pid(0x01, _at("A7", "MilOn"), _at("A6-A0", "DtcCount"), *_monitors(""))
    yield pid(0x02, _at("AB", "FreezeFrameDtc"))
    yield pid(
        0x03,
        _at("A", "FuelSystem1Status", choices=_FUEL_SYSTEM),
        _at("B", "FuelSystem2Status", choices=_FUEL_SYSTEM),
    )
    yield pid(0x04, _at("A", "EngineLoad", _PERCENT, 0, "%"))
    yield pid(0x05, _at("A", "CoolantTemperature", 1, -40, "°C"))
    # Banks 3 and 4 are there in vehicles that have them (those that support 1D).
    for number, (bank, term) in enumerate(itertools.product((1, 2), ("Short", "Long")), 0x06):
        yield pid(
            number,
            _at("A", f"{term}TermFuelTrim{bank}", _TRIM, -100, "%"),
            _at("B", f"{term}TermFuelTrim{bank + 2}", _TRIM, -100, "%"),
            lengths=(1, 2),
        )
    yield pid(0x0A, _at("A", "FuelPressure", 3, 0, "kPa"))
    yield pid(0x0B, _at("A", "IntakeManifoldPressure", 1, 0, "kPa"))
    yield pid(0x0C, _at("AB", "EngineSpeed", 0.25, 0, "rpm"))
    yield pid(0x0D, _at("A", "VehicleSpeed", 1, 0, "km/h"))
    yield pid(0x0E, _at("A", "TimingAdvance", 0.5, -64, "°"))
    yield pid(0x0F, _at("A", "IntakeAirTemperature", 1, -40, "°C"))
    yield pid(0x10, _at("AB", "MassAirFlow", 0.01, 0, "g/s"))
    yield pid(0x11, _at("A", "ThrottlePosition", _PERCENT, 0, "%"))
    yield pid(0x12, _at("A", "SecondaryAirStatus", choices=_AIR))
    yield pid(0x13, _at("A", "O2SensorsIn2Banks"))
    for sensor in range(1, 9):
        yield pid(
            0x13 + sensor,
            _at("A", f"O2Sensor{sensor}Voltage", 1 / 200, 0, "V"),
            _at("B", f"O2Sensor{sensor}FuelTrim", _TRIM, -100, "%", codes=_NO_TRIM),
        )
    yield pid(0x1C, _at("A", "ObdStandard", choices=_STANDARDS))
    yield pid(0x1D, _at("A", "O2SensorsIn4Banks"))
    yield pid(0x1E, _at("A0", "PtoActive"))
    yield pid(0x1F, _at("AB", "RunTime", 1, 0, "s"))
    yield pid(0x21, _at("AB", "DistanceWithMil", 1, 0, "km"))
    yield pid(0x22, _at("AB", "FuelRailPressureVacuum", 5178 / 65535, 0, "kPa"))
    yield pid(0x23, _at("AB", "FuelRailPressure", 10, 0, "kPa"))
    for sensor in range(1, 9):
        yield pid(
            0x23 + sensor,
            _at("AB", f"WideO2Sensor{sensor}Lambda", _LAMBDA),
            _at("CD", f"WideO2Sensor{sensor}Voltage", 8 / 65536, 0, "V"),
        )
    yield pid(0x2C, _at("A", "CommandedEgr", _PERCENT, 0, "%"))
    yield pid(0x2D, _at("A", "EgrError", _TRIM, -100, "%"))
    yield pid(0x2E, _at("A", "CommandedEvapPurge", _PERCENT, 0, "%"))
    yield pid(0x2F, _at("A", "FuelLevel", _PERCENT, 0, "%"))
    yield pid(0x30, _at("A", "WarmUpsSinceClear"))
    yield pid(0x31, _at("AB", "DistanceSinceClear", 1, 0, "km"))
    yield pid(0x32, _at("AB", "EvapPressure", 0.25, 0, "Pa", kind="signed"))
    yield pid(0x33, _at("A", "BarometricPressure", 1, 0, "kPa"))
    for sensor in range(1, 9):
        yield pid(
            0x33 + sensor,
            _at("AB", f"CurrentO2Sensor{sensor}Lambda", _LAMBDA),
            _at("CD", f"CurrentO2Sensor{sensor}Current", 1 / 256, -128, "mA"),
        )
    for number, place in enumerate(
        ("Bank1Sensor1", "Bank2Sensor1", "Bank1Sensor2", "Bank2Sensor2")
    ):
        yield pid(0x3C + number, _at("AB", f"CatalystTemperature{place}", 0.1, -40, "°C"))
    yield pid(0x41, *_monitors("Cycle"))
    yield pid(0x42, _at("AB", "ControlModuleVoltage", 0.001, 0, "V"))
    yield pid(0x43, _at("AB", "AbsoluteLoad", _PERCENT, 0, "%"))
    yield pid(0x44, _at("AB", "CommandedLambda", _LAMBDA))
    yield pid(0x45, _at("A", "RelativeThrottlePosition", _PERCENT, 0, "%"))
    yield pid(0x46, _at("A", "AmbientAirTemperature", 1, -40, "°C"))
    yield pid(0x47, _at("A", "ThrottlePositionB", _PERCENT, 0, "%"))
    yield pid(0x48, _at("A", "ThrottlePositionC", _PERCENT, 0, "%"))
    yield pid(0x49, _at("A", "AcceleratorPositionD", _PERCENT, 0, "%"))
    yield pid(0x4A, _at("A", "AcceleratorPositionE", _PERCENT, 0, "%"))
    yield pid(0x4B, _at("A", "AcceleratorPositionF", _PERCENT, 0, "%"))
    yield pid(0x4C, _at("A", "CommandedThrottle", _PERCENT, 0, "%"))
    yield pid(0x4D, _at("AB", "TimeWithMil", 1, 0, "min"))
    yield pid(0x4E, _at("AB", "TimeSinceClear", 1, 0, "min"))
    yield pid(
        0x4F,
        _at("A", "MaxLambda"),
        _at("B", "MaxO2Voltage", 1, 0, "V"),
        _at("C", "MaxO2Current", 1, 0, "mA"),
        _at("D", "MaxIntakeManifoldPressure", 10, 0, "kPa"),
    )
    yield pid(0x50, _at("A", "MaxMassAirFlow", 10, 0, "g/s"), lengths=(4,))
    yield pid(0x51, _at("A", "FuelType", choices=_FUELS))
    yield pid(0x52, _at("A", "EthanolPercent", _PERCENT, 0, "%"))
    yield pid(0x53, _at("AB", "EvapPressureAbsolute", 1 / 200, 0, "kPa"))
    yield pid(0x54, _at("AB", "EvapPressureWide", 1, 0, "Pa", kind="signed"))
    for number, (bank, term) in enumerate(itertools.product((1, 2), ("Short", "Long")), 0x55):
        yield pid(
            number,
            _at("A", f"{term}TermO2Trim{bank}", _TRIM, -100, "%"),
            _at("B", f"{term}TermO2Trim{bank + 2}", _TRIM, -100, "%"),
            lengths=(1, 2),
        )
    yield pid(0x59, _at("AB", "FuelRailPressureAbsolute", 10, 0, "kPa"))
    yield pid(0x5A, _at("A", "RelativeAcceleratorPosition", _PERCENT, 0, "%"))
    yield pid(0x5B, _at("A", "HybridBatteryRemaining", _PERCENT, 0, "%"))
    yield pid(0x5C, _at("A", "OilTemperature", 1, -40, "°C"))
    yield pid(0x5D, _at("AB", "FuelInjectionTiming", 1 / 128, -210, "°"))
    yield pid(0x5E, _at("AB", "FuelRate", 0.05, 0, "L/h"))
    yield pid(0x5F, _at("A", "EmissionRequirements"))
    yield pid(0x61, _at("A", "DemandedTorque", 1, -125, "%"))
    yield pid(0x62, _at("A", "ActualTorque", 1, -125, "%"))
    yield pid(0x63, _at("AB", "ReferenceTorque", 1, 0, "Nm"))
    yield pid(
        0x64,
        _at("A", "TorqueAtIdle", 1, -125, "%"),
        *(_at("ABCDE"[point], f"TorqueAtPoint{point}", 1, -125, "%") for point in range(1, 5)),
    )
    yield pid(0x65, _at("A", "AuxiliaryInputsSupported"), _at("B", "AuxiliaryInputs"))
    yield pid(
        0x66,
        _at("A", "MassAirFlowSensorsSupported"),
        _at("BC", "MassAirFlowA", 1 / 32, 0, "g/s"),
        _at("DE", "MassAirFlowB", 1 / 32, 0, "g/s"),
    )
    yield pid(
        0x67,
        _at("A", "CoolantSensorsSupported"),
        _at("B", "CoolantTemperature1", 1, -40, "°C"),
        _at("C", "CoolantTemperature2", 1, -40, "°C"),
    )
    yield pid(
        0x68,
        _at("A", "IntakeAirSensorsSupported"),
        *(_at("ABCDEFG"[n], f"IntakeAirTemperature{n}", 1, -40, "°C") for n in range(1, 7)),
        lengths=(7, 3),
    )
    yield pid(
        0x6B,
        _at("A", "EgrTemperaturesSupported"),
        *(_at("ABCDE"[n], f"EgrTemperature{n}", 1, -40, "°C") for n in range(1, 5)),
    )
    yield pid(
        0x6F,
        _at("A", "CompressorInletPressuresSupported"),
        _at("B", "CompressorInletPressureA", 1, 0, "kPa"),
        _at("C", "CompressorInletPressureB", 1, 0, "kPa"),
    )
    yield pid(0x78, *_temperatures("ExhaustTemperatureBank1Sensor"))
    yield pid(0x79, *_temperatures("ExhaustTemperatureBank2Sensor"))
    yield pid(0x7C, *_temperatures("ParticulateFilterTemperature"))
    yield pid(0x84, _at("A", "ManifoldSurfaceTemperature", 1, -40, "°C"))
    yield pid(0x8D, _at("A", "ThrottlePositionG", _PERCENT, 0, "%"))
    yield pid(0x8E, _at("A", "EngineFrictionTorque", 1, -125, "%"))
    yield pid(
        0x9A,
        _at("A", "HybridDataSupported"),
        _at("B", "HybridStatus"),
        _at("CD", "HybridBatteryVoltage", 1 / 64, 0, "V"),
        _at("EF", "HybridBatteryCurrent", 0.1, 0, "A", kind="signed"),
    )
    yield pid(
        0x9D,
        _at("AB", "EngineFuelRate", 0.02, 0, "g/s"),
        _at("CD", "VehicleFuelRate", 0.02, 0, "g/s"),
    )
    yield pid(0x9E, _at("AB", "ExhaustFlowRate", 0.2, 0, "kg/h"))
    yield pid(0xA2, _at("AB", "CylinderFuelRate", 1 / 32, 0, "mg/stroke"))
    yield pid(
        0xA4,
        _at("A", "TransmissionSupported"),
        _at("B7-B4", "TransmissionGear"),
        _at("CD", "TransmissionRatio", 0.001),
    )
    yield pid(0xA6, _at("ABCD", "Odometer", 0.1, 0, "km"))


PIDS: Final[Mapping[int, Pid]] = {pid.number: pid for pid in _table()}
BY_NAME: Final[Mapping[str, int]] = {
    field.name: pid.number for pid in PIDS.values() for field in pid.fields
}


def split(data: bytes, asked: frozenset[int]) -> dict[int, bytes] | None:
    """The bytes of each parameter in an answer (after its service byte) to one or more of them.

    An answer is number, bytes, number, bytes; a few parameters come in two lengths, so that length
    is taken with which everything fits. None where that is none, or more than one.
    """
    readings = list(itertools.islice(_readings(data, asked), 2))
    return readings[0] if len(readings) == 1 else None


def _readings(data: bytes, asked: frozenset[int]) -> Iterator[dict[int, bytes]]:
    if not data:
        yield {}
        return
    pid = PIDS.get(data[0]) if data[0] in asked else None
    for length in pid.lengths if pid else ():
        if len(data) > length:
            for rest in _readings(data[1 + length :], asked - {data[0]}):
                yield {data[0]: data[1 : 1 + length], **rest}
