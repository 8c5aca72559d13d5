"""What units mean, and how one becomes another."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import ConfigError
from agent.signals.units import conversion, quantities

SAME = (Fraction(1), Fraction(0))

VSS_UNITS = {
    **dict.fromkeys(("mm", "cm", "m", "km", "inch"), "length"),
    **dict.fromkeys(("km/h", "m/s"), "velocity"),
    **dict.fromkeys(("m/s^2", "cm/s^2"), "acceleration"),
    **dict.fromkeys(("ml", "l", "cm^3"), "volume"),
    **dict.fromkeys(("celsius", "fahrenheit"), "temperature"),
    **dict.fromkeys(("degrees/s", "rad/s", "rpm"), "angular speed"),
    **dict.fromkeys(("W", "kW", "PS"), "power"),
    **dict.fromkeys(("g", "kg", "lbs"), "mass"),
    **dict.fromkeys(("ms", "s", "min", "h", "day", "weeks"), "duration"),
    **dict.fromkeys(("months", "years"), "calendar"),
    **dict.fromkeys(("mbar", "Pa", "kPa", "psi"), "pressure"),
    **dict.fromkeys(("kWh/100km", "Wh/km"), "energy per distance"),
    **dict.fromkeys(("ml/100km", "l/100km"), "volume per distance"),
    **dict.fromkeys(("mpg-us", "mpg-uk", "mpg", "mpge", "km/l"), "distance per volume"),
    **dict.fromkeys(("N", "kN"), "force"),
    **dict.fromkeys(("Hz", "cpm", "bpm"), "frequency"),
    **dict.fromkeys(("ratio", "percent", "nm/km"), "relation"),
    "degrees": "angle",
    "kWh": "energy",
    "V": "voltage",
    "A": "current",
    "Ah": "charge",
    "unix-time": "datetime",
    "stars": "rating",
    "g/s": "mass per time",
    "g/km": "mass per distance",
    "l/h": "volume per time",
    "Nm": "torque",
    "Ohm": "resistance",
    "lx": "illuminance",
    "dBm": "power level",
    "dB": "level",
}


@pytest.mark.parametrize(("unit", "quantity"), VSS_UNITS.items())
def test_the_units_of_vss_are_known(unit: str, quantity: str) -> None:
    assert quantity in quantities(unit)


@pytest.mark.parametrize(
    ("from_unit", "to_unit", "value", "result"),
    [
        ("mph", "km/h", 100, "160.9344"),
        ("kph", "m/s", 36, 10),
        ("m/s", "km/h", 10, 36),
        ("knots", "km/h", 1, "1.852"),
        ("degC", "K", 20, "293.15"),
        ("K", "celsius", 0, "-273.15"),
        ("degF", "celsius", 212, 100),
        ("celsius", "fahrenheit", -40, -40),
        ("°C", "celsius", 7, 7),
        ("C", "celsius", 7, 7),
        ("mV", "V", 3701, "3.701"),
        ("A", "mA", 2, 2000),
        ("W", "kW", 150, "0.15"),
        ("kWh", "J", 1, 3_600_000),
        ("Wh", "kWh", 250, "0.25"),
        ("rpm", "degrees/s", 10, 60),
        ("1/min", "rpm", 900, 900),
        ("1/min", "Hz", 900, 15),
        ("%", "ratio", 55, "0.55"),
        ("bar", "kPa", 2, 200),
        ("hPa", "mbar", 3, 3),
        ("MPa", "bar", 1, 10),
        ("psi", "Pa", 6_451_600_000, 44_482_216_152_605),
        ("mi", "km", 1, "1.609344"),
        ("min", "s", 2, 120),
        ("g", "kg", 500, "0.5"),
        ("g", "m/s^2", 1, "9.80665"),
        ("m/s2", "g", "9.80665", 1),
        ("l/h", "l/min", 60, 1),
        ("PS", "kW", 1, "0.73549875"),
        ("Wh/km", "kWh/100km", 180, 18),
    ],
)
def test_conversions_are_exact(
    from_unit: str, to_unit: str, value: int | str, result: int | str
) -> None:
    factor, offset = conversion(from_unit, to_unit)
    assert Fraction(value) * factor + offset == Fraction(result)


def test_only_what_has_pi_in_it_is_rounded() -> None:
    factor, offset = conversion("rad", "degrees")
    assert float(factor) == math.degrees(1)
    assert offset == 0


@pytest.mark.parametrize(
    ("spelling", "unit"),
    [
        ("KM/H", "km/h"),
        ("Kmh", "km/h"),
        ("km / h", "km/h"),
        ("[V]", "V"),
        ("kilometer per hour", "km/h"),
        ("meters per second squared", "m/s^2"),
        ("degree celsius", "celsius"),
        ("deg C", "celsius"),
        ("m/s²", "m/s^2"),
        ("m/s**2", "m/s^2"),
        ("N·m", "Nm"),
        ("N*m", "Nm"),
        ("\u00b5s", "us"),
        ("k\u2126", "kOhm"),
        ("RPM", "rpm"),
        ("Mpa", "MPa"),
        ("KWH", "kWh"),
        ("Percent", "%"),
        ("MPH", "mph"),
    ],
)
def test_spellings_of_one_unit(spelling: str, unit: str) -> None:
    assert conversion(spelling, unit) == SAME


@pytest.mark.parametrize("unit", ["MV", "mPa", "MA", "S", "H", "k", "furlong", "km/h/h"])
def test_nothing_is_guessed(unit: str) -> None:
    """Mega is not milli, and a siemens is no second."""
    with pytest.raises(ConfigError, match=r"is unknown|is not"):
        conversion(unit, "V" if unit != "S" else "s")


def test_other_quantities_are_refused() -> None:
    words = "km/h cannot be made of degC: velocity is not temperature"
    with pytest.raises(ConfigError, match=words):
        conversion("degC", "km/h")


def test_what_is_not_linear_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be made of l/100km"):
        conversion("l/100km", "mpg")


def test_an_unknown_unit_is_named_with_its_neighbours() -> None:
    with pytest.raises(ConfigError, match=r'"kmm/h" is unknown; near it: .*km/h'):
        conversion("kmm/h", "m/s")


def test_no_unit_is_no_unit() -> None:
    with pytest.raises(ConfigError, match="the database gives no unit"):
        conversion("", "km/h")


def test_what_is_spelled_alike_needs_no_conversion_even_if_nobody_knows_it() -> None:
    assert conversion("furlong", "furlong") == SAME


@given(st.sampled_from(sorted(VSS_UNITS)), st.sampled_from(sorted(VSS_UNITS)))
def test_there_and_back_is_nothing(one: str, other: str) -> None:
    if not set(quantities(one)) & set(quantities(other)):
        return
    (a, b), (c, d) = conversion(one, other), conversion(other, one)
    assert (a * c, b * c + d) == SAME


@given(st.text(max_size=20))
def test_any_text_is_known_or_refused(text: str) -> None:
    if quantities(text):
        assert conversion(text, text) == SAME
    elif text != "V":
        with pytest.raises(ConfigError):
            conversion(text, "V")
