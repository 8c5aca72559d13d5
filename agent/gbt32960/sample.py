"""What a vehicle is at one moment, in physical units and without an edition.

`report.encode` makes the information items of an edition of it. Names and units of values are those
of the layouts; NaN is "no value". What is not mapped is not there: an item, a list, a field. The
fields of an item that is there, and which nobody mapped, become the invalid code.

Where a sample says a thing in another way than the layouts:

    vehicle    gear (the number of the layout's GEAR), brake_force and drive_force (0 or 1) in place
               of gear_byte
    position   longitude and latitude in degrees, negative in the west and in the south, of the last
               valid fix (NaN: there was none); no_fix: 1 while there is none; datum 1, 2 or 3
    fuel_cell  hydrogen_concentration_volume is what 2025 calls hydrogen_concentration_max: the
               quantity is another one there
    packs      one list for voltages and temperatures, in place of two
    alarms     flags by name in place of bits, see `Alarms`
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from agent.blocks import Float64

Values: TypeAlias = Mapping[str, float | Float64]
"""Numbers by field, float64[n] where the field is a list of numbers."""


@dataclasses.dataclass(slots=True)
class Alarms:
    """The alarms of a sample.

    Attributes:
        level: the highest level of all alarms, 0 to 4; NaN where it is not known.
        flags: names of the general alarms that are there, of either edition.
        battery_faults: codes of the maker, 0 to 0xFFFFFFFF; so the other three lists.
        levels: 2025: the level of a general alarm, by its name.
    """

    level: float = float("nan")
    flags: frozenset[str] = frozenset()
    battery_faults: Sequence[int] = ()
    motor_faults: Sequence[int] = ()
    engine_faults: Sequence[int] = ()
    other_faults: Sequence[int] = ()
    levels: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class Sample:
    """A vehicle at one moment.

    Attributes:
        items: by name: vehicle, engine, fuel_cell (with probe_temperatures), position, extremes,
            supercapacitor (with number, cells and probes), supercapacitor_extremes.
        lists: by name: motors, stacks (with coolant_temperatures), packs (number, voltage, current,
            cells, probes; a pack without `cells` or without `probes` has none of that mapped).
        alarms: None where nothing of them is mapped.
        maker: bytes of maker items, by type (0x80 to 0xFE).
        fresh: whether any mapped signal was heard lately.
    """

    items: Mapping[str, Values] = dataclasses.field(default_factory=dict)
    lists: Mapping[str, Sequence[Values]] = dataclasses.field(default_factory=dict)
    alarms: Alarms | None = None
    maker: Mapping[int, bytes] = dataclasses.field(default_factory=dict)
    fresh: bool = True
