"""Units: what the spellings of database files mean, and how one becomes another.

All conversions are linear, exact fractions where the definition is exact (all but those with pi).
A spelling may have several meanings: `g` is a mass and an acceleration, `1/min` a rotation and a
frequency. `conversion` takes the pair of meanings that are of one quantity, so the other unit
decides. What is no linear scale of another (decibels, litres per 100 km against miles per gallon)
is a quantity of its own.

Spellings are compared without spaces, underscores, brackets and `^`, and with the signs of degree,
micro, ohm and powers written out. Where that finds nothing, case is ignored: but not in units of
one letter (S is no second), and not in the first letter of units with the prefix milli or mega.

The names of COVESA VSS (its units.yaml, versions 3 to 6) and its words ("kilometer per hour") are
known, too. VSS has a quantity for rotational and one for angular speed; here they are one.
"""

import dataclasses
import difflib
import functools
import math
import re
from collections.abc import Mapping
from fractions import Fraction
from types import MappingProxyType

from agent.errors import ConfigError

__all__ = ["conversion", "quantities"]

_TABLE = """
length
  1 m meter meters metre metres
  1/1000 mm millimeter millimeters millimetre millimetres
  1/100 cm centimeter centimeters centimetre centimetres
  1000 km kilometer kilometers kilometre kilometres kms
  0.0254 inch in inches
  0.3048 ft foot feet
  0.9144 yd yard yards
  1609.344 mi mile miles
velocity
  1 m/s mps meterpersecond meterspersecond metrespersecond
  1/3.6 km/h kph kmh kmph km/hr km/hour kilometerperhour kilometersperhour kilometreperhour
  0.44704 mph mi/h mile/h miles/h mileperhour milesperhour
  1852/3600 kn knot knots kt kts
  1/100 cm/s
  1/1000 mm/s
acceleration
  1 m/s2 m/s/s mps2 meterspersecondsquared meterpersecondsquared
  1/100 cm/s2 centimeterspersecondsquared
  9.80665 g gee gn g0
jerk
  1 m/s3
volume
  1 l L liter liters litre litres dm3
  1/1000 ml milliliter milliliters millilitre cm3 ccm cubiccentimeters
  1000 m3 cubicmeters
  3.785411784 gal galus gallon gallons
temperature
  1 K kelvin degK
  1,273.15 celsius degC C degreecelsius degreescelsius degcelsius grdC gradC
  5/9,45967/180 fahrenheit degF F degreefahrenheit degreesfahrenheit degfahrenheit
angle
  1 degrees deg degree grad.deg
  pi rad radian radians
  360 rev revolution revolutions
angular speed
  1 degrees/s deg/s degree/s dps degreepersecond degreespersecond deg/sec
  pi rad/s radianspersecond radianpersecond rad/sec
  6 rpm 1/min /min min-1 r/min rev/min revs/min U/min rotations/min revolutionsperminute
  360 1/s s-1 rps rev/s
angular acceleration
  1 degrees/s2 deg/s2
  pi rad/s2
power
  1 W watt watts
  1/1000 mW milliwatt milliwatts
  1000 kW kilowatt kilowatts
  1000000 MW megawatt
  735.49875 PS metrichorsepower
  745.69987158227022 hp bhp horsepower
energy
  1 J joule joules Ws
  1000 kJ kilojoule
  1000000 MJ megajoule
  3600 Wh watthour watthours
  3600000 kWh kilowatthour kilowatthours
mass
  1 kg kilogram kilograms
  1/1000 g gram grams
  1/1000000 mg milligram milligrams
  1000 t ton tons tonne tonnes
  0.45359237 lbs lb pound pounds
voltage
  1 V v volt volts Vdc VDC
  1/1000 mV millivolt millivolts
  1/1000000 uV microvolt
  1000 kV kilovolt
current
  1 A a amp amps ampere amperes Adc ADC
  1/1000 mA milliamp milliamps milliampere milliamperes
  1/1000000 uA microampere
  1000 kA kiloampere
charge
  1 C coulomb As
  3600 Ah amperehour amperehours amphour amphours
  3.6 mAh milliamperehours
resistance
  1 Ohm ohm ohms
  1/1000 mOhm milliohm
  1000 kOhm kiloohm
  1000000 MOhm megaohm
conductance
  1 S siemens
  1/1000000 uS
  1/1000 mS
duration
  1 s sec secs second seconds
  1/1000 ms msec millisecond milliseconds
  1/1000000 us usec microsecond microseconds
  60 min mins minute minutes
  3600 h hr hrs hour hours
  86400 day d days
  604800 weeks week
calendar
  1 months month
  12 years year
datetime
  1 unix-time UNIXTimestamp
pressure
  1 Pa pascal pascals
  100 hPa mbar hectopascal millibar millibars
  1000 kPa kilopascal kilopascals
  1000000 MPa megapascal
  100000 bar bars
  101325 atm
  133.322387415 mmHg
  44482216152605/6451600000 psi PSI lbf/in2 poundspersquareinch
mass per time
  1 g/s gramspersecond grampersecond
  1000 kg/s
  1/3.6 kg/h
  1/3600 g/h
  1/1000 mg/s
mass per distance
  1 g/km gramsperkilometer gramperkilometer
  10 kg/100km kilogramsper100kilometers
energy per distance
  1 Wh/km watthourperkm watthoursperkilometer
  10 kWh/100km kilowatthoursper100kilometers
  1000 kWh/km
volume per distance
  1 l/100km literper100kilometers litersper100kilometers
  1/1000 ml/100km milliliterper100kilometers
  100 l/km
volume per time
  1 l/h l/hr literperhour litersperhour
  60 l/min lpm
  3600 l/s
  3.6 ml/s
  1000 m3/h
distance per volume
  1 km/l kilometersperliter
  1.609344/3.785411784 mpg-us mpg milesperUSgallon mpge milesperUSgallonequivalent
  1.609344/4.54609 mpg-uk milesperImperialgallon
force
  1 N newton newtons
  1000 kN kilonewton
torque
  1 Nm N.m N-m newtonmeter newtonmeters newtonmetre
  1000 kNm
  1.3558179483314004 lbft lb-ft ft-lb ftlb lbfft
frequency
  1 Hz hertz 1/s s-1
  1000 kHz kilohertz
  1000000 MHz megahertz
  1/60 cpm cyclesperminute 1/min /min bpm beatsperminute
relation
  1 ratio
  1/100 percent % pct perc prozent
  1/1000 permille ‰
  1/1000000 ppm
  1/1000000000000 nm/km nanometerperkilometer
level
  1 dB decibel
power level
  1 dBm decibelmilliwatt
illuminance
  1 lx lux
irradiance
  1 W/m2
rating
  1 stars
"""
"""Quantities, and below each one: the factor to its first unit (and what is added), spellings."""

_PI = Fraction(180) / Fraction(math.pi)
"""Degrees of a radian: the one factor that no fraction can be."""

_PREFIXED = frozenset(
    (
        *("mm", "mm/s", "mg", "mg/s", "ml", "ml/s", "ml/100km", "ms", "mS", "mV", "mA", "mAh"),
        *("mW", "MW", "mOhm", "MOhm", "MJ", "MPa", "mbar", "MHz"),
    )
)
"""Where the case of the first letter is milli against mega."""

_SIGNS = (
    *(("℃", "degC"), ("℉", "degF"), ("\u03a9", "Ohm"), ("\u2126", "Ohm")),
    *(("°", "deg"), ("º", "deg"), ("˚", "deg"), ("\u00b5", "u"), ("\u03bc", "u")),
    *(("²", "2"), ("³", "3"), ("⁻", "-"), ("¹", "1")),
)
_DROPPED = re.compile(r"[\s_^*·⋅∙\[\](){}]+")


@dataclasses.dataclass(frozen=True, slots=True)
class _Meaning:
    """A value in this unit, times `factor`, plus `offset`, is in the first unit of the quantity."""

    quantity: str
    factor: Fraction
    offset: Fraction


@dataclasses.dataclass(frozen=True, slots=True)
class _Known:
    exact: Mapping[str, tuple[_Meaning, ...]]
    folded: Mapping[str, tuple[_Meaning, ...]]
    """Spellings in lower case (those with a prefix keep their first letter)."""
    spellings: tuple[str, ...]


def _normal(unit: str) -> str:
    for sign, written in _SIGNS:
        unit = unit.replace(sign, written)
    return _DROPPED.sub("", unit)


def _number(text: str) -> Fraction:
    above, _, below = text.partition("/")
    if above == "pi":
        return _PI
    return Fraction(above) / Fraction(below or "1")


@functools.cache
def _known() -> _Known:
    exact: dict[str, tuple[_Meaning, ...]] = {}
    quantity = ""
    spellings = []
    for line in _TABLE.strip().splitlines():
        if not line.startswith(" "):
            quantity = line
            continue
        numbers, *names = line.split()
        factor, _, offset = numbers.partition(",")
        meaning = _Meaning(quantity, _number(factor), _number(offset or "0"))
        for name in names:
            exact[_normal(name)] = (*exact.get(_normal(name), ()), meaning)
            spellings.append(name)
    folded: dict[str, tuple[_Meaning, ...]] = {}
    ambiguous = set()
    for name, meanings in exact.items():
        key = _prefixed(name) if name in _PREFIXED else name.casefold()
        if folded.setdefault(key, meanings) != meanings:
            ambiguous.add(key)
    for key in ambiguous:
        del folded[key]
    return _Known(MappingProxyType(exact), MappingProxyType(folded), tuple(spellings))


def _prefixed(name: str) -> str:
    """A key that no folded spelling without a prefix has: those begin with no `=`."""
    return "=" + name[:1] + name[1:].casefold()


def _meanings(unit: str) -> tuple[_Meaning, ...]:
    known, name = _known(), _normal(unit)
    if found := known.exact.get(name):
        return found
    if len(name) < 2:
        return ()
    return known.folded.get(_prefixed(name)) or known.folded.get(name.casefold(), ())


def quantities(unit: str) -> tuple[str, ...]:
    """What a unit may measure, such as `("mass", "acceleration")`; empty where it is unknown."""
    return tuple(m.quantity for m in _meanings(unit))


def conversion(from_unit: str, to_unit: str) -> tuple[Fraction, Fraction]:
    """Factor and offset: value in `to_unit` = value in `from_unit` * factor + offset.

    Two equal spellings need no conversion, also where nobody knows them.

    Raises:
        ConfigError: a unit is unknown, or they measure different things.
    """
    if from_unit == to_unit:
        return Fraction(1), Fraction(0)
    ours, wanted = _meanings(from_unit), _meanings(to_unit)
    for unit, meanings in ((to_unit, wanted), (from_unit, ours)):
        if not meanings:
            raise ConfigError(_unknown(unit))
    for target in wanted:
        for source in ours:
            if source.quantity == target.quantity:
                return (
                    source.factor / target.factor,
                    (source.offset - target.offset) / target.factor,
                )
    kinds = [" or ".join(m.quantity for m in meanings) for meanings in (wanted, ours)]
    raise ConfigError(f"{to_unit} cannot be made of {from_unit}: {kinds[0]} is not {kinds[1]}")


def _unknown(unit: str) -> str:
    if not unit.strip():
        return "the database gives no unit"
    near = difflib.get_close_matches(_normal(unit)[:40], _known().spellings, 3, 0.6)
    hint = f"; near it: {', '.join(near)}" if near else ""
    return f'the unit "{unit}" is unknown{hint}'
