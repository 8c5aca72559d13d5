"""What the raw integers of the second decoder mean: exact scales and offsets."""

from fractions import Fraction
from typing import Final

# Scale and offset where they are not 1 and 0, "record.field": physical = raw * scale + offset.
SCALES_2016: Final[dict[str, tuple[str, int]]] = {
    "vehicle.speed": ("0.1", 0),  # km/h
    "vehicle.odometer": ("0.1", 0),  # km
    "vehicle.voltage": ("0.1", 0),  # V
    "vehicle.current": ("0.1", -1000),  # A
    "motor.controller_temperature": ("1", -40),  # °C
    "motor.speed": ("1", -20000),  # rpm
    "motor.torque": ("0.1", -2000),  # Nm
    "motor.motor_temperature": ("1", -40),
    "motor.voltage": ("0.1", 0),
    "motor.current": ("0.1", -1000),
    "fuel_cell.voltage": ("0.1", 0),
    "fuel_cell.current": ("0.1", 0),
    "fuel_cell.consumption": ("0.01", 0),  # kg/100 km
    "fuel_cell.probes": ("1", -40),
    "fuel_cell.hydrogen_temperature": ("0.1", -40),
    "fuel_cell.pressure": ("0.1", 0),  # MPa
    "engine.fuel": ("0.01", 0),  # l/100 km
    "position.longitude": ("0.000001", 0),
    "position.latitude": ("0.000001", 0),
    "extremes.max_voltage": ("0.001", 0),
    "extremes.min_voltage": ("0.001", 0),
    "extremes.max_temperature": ("1", -40),
    "extremes.min_temperature": ("1", -40),
    "pack_voltages.voltage": ("0.1", 0),
    "pack_voltages.current": ("0.1", -1000),
    "pack_voltages.cells": ("0.001", 0),
    "pack_temperatures.probes": ("1", -40),
}
SCALES_2025: Final[dict[str, tuple[str, int]]] = {
    **{k: v for k, v in SCALES_2016.items() if not k.startswith(("fuel_cell.", "extremes."))},
    "vehicle.current": ("0.1", -3000),
    "motor.speed": ("1", -32000),
    "motor.torque": ("0.1", -20000),
    "hydrogen.hydrogen_temperature": ("1", -40),
    "hydrogen.concentration": ("0.0001", 0),  # per cent of volume
    "hydrogen.pressure": ("0.1", 0),  # MPa
    "hydrogen.dcdc_temperature": ("1", -40),
    "pack_voltages.current": ("0.1", -3000),
    "stack.voltage": ("0.1", 0),
    "stack.current": ("0.1", 0),
    "stack.hydrogen_pressure": ("0.1", -100),  # kPa
    "stack.air_pressure": ("0.1", -100),
    "stack.air_temperature": ("1", -40),
    "stack.probes": ("1", -40),
    "supercapacitor.voltage": ("0.1", 0),
    "supercapacitor.current": ("0.1", -3000),
    "supercapacitor.cells": ("0.001", 0),
    "supercapacitor.probes": ("1", -40),
    "supercapacitor_extremes.max_voltage": ("0.001", 0),
    "supercapacitor_extremes.min_voltage": ("0.001", 0),
    "supercapacitor_extremes.max_temperature": ("1", -40),
    "supercapacitor_extremes.min_temperature": ("1", -40),
}


def physical(edition: int, field: str, raw: int) -> Fraction:
    """The physical value of a raw one, exactly; `field` is "record.field" as in NAMES."""
    scale, offset = (SCALES_2025 if edition == 2025 else SCALES_2016).get(field, ("1", 0))
    return raw * Fraction(scale) + offset
