"""A sample of a vehicle as the information items of an edition.

`encode` gives the bodies of frames: items in ascending order of their types, without the time and
without a signature. Only what is mapped is sent. It writes what `codec` reads, and is made for one
report a second of a pack with hundreds of cells: lists of numbers are scaled in one go.

What becomes what:

- No value (NaN) becomes the invalid code, a value out of range the abnormal code; both are counted,
  one for each field. Fields that nobody mapped are invalid, too, and are not counted.
- A number of 2016 that is one byte cannot name a cell or probe after the 250th: it is invalid.
- Insulation resistance of 2016 has no codes: a value beyond the range is its nearest end, and no
  value is 0xFFFF, which any receiver sees to be none, where 0 or 60000 would be a lie.
- An unknown gear sets the bit for that in 2025; in 2016 it is neutral.
- A thermal event, level 4 of 2025, is level 3 in 2016. Alarms that an edition has no bit for are
  left out.
- Without a fix the last valid one is repeated; where there was none, the place is invalid.
- Motors and the engine are left out while the vehicle is parked and charges.
- 2016 carries 200 cells of a pack in a frame: the further ones go in frames of their own, of the
  same time. A frame is never longer than the standard allows.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agent.gbt32960.layout import Edition, Field, Kind, Number, Prefix, Rows
from agent.gbt32960.layout2016 import LAYOUT2016
from agent.gbt32960.layout2025 import LAYOUT2025
from agent.gbt32960.packs import CELLS_PER_FRAME, PACKS_PER_FRAME
from agent.gbt32960.sample import Alarms, Sample, Values

FORMS: Final[Mapping[Edition, str]] = {2016: "gbt32960-2016", 2025: "gbt32960-2025"}
"""What `Reports.form` says of an edition."""
# A data unit has at most 65531 bytes: room for the time, and for a signature of some size.
BODY_BYTES: Final = 65_531 - 6 - 1024

_LAYOUTS: Final = {2016: LAYOUT2016, 2025: LAYOUT2025}
_BIG: Final = {1: ">u1", 2: ">u2", 4: ">u4"}
_PARKED_CHARGING: Final = 1
_VOLTAGES_BYTES: Final = 60_000


class Codes:
    """How many fields became codes."""

    __slots__ = ("abnormal", "invalid")

    def __init__(self) -> None:
        self.invalid = 0
        self.abnormal = 0


_Packer: TypeAlias = Callable[[Values, Codes], bytes]


def encode(sample: Sample, edition: Edition) -> tuple[list[bytes], int, int]:
    """The bodies of the frames of a sample: one, or several of the same time.

    Also gives how many fields have no value (invalid), and how many have one that the standard does
    not allow (abnormal). A sample in which nothing is mapped has no body.
    """
    codes = Codes()
    bodies = _encoder(edition).bodies(sample, codes)
    return bodies, codes.invalid, codes.abnormal


def raw_values(number: Number, values: Any, codes: Codes) -> NDArray[Any]:
    """`Number.raw` of many values at once: an array of the number's width, big-endian.

    The number has a range and codes, no labels and no bits.
    """
    physical = np.asarray(values, np.float64)
    low, high = number.range or (0, 0)
    with np.errstate(invalid="ignore", over="ignore"):
        raw = np.rint((physical - number.offset) * number.steps)
        good = (raw >= low) & (raw <= high)
    if not good.all():
        missing = np.isnan(physical)
        invalid = int(missing.sum())
        codes.invalid += invalid
        codes.abnormal += int((~good).sum()) - invalid
        raw[~good] = number.full - 1
        raw[missing] = number.full
    return raw.astype(_BIG[number.width])


@functools.cache
def _encoder(edition: Edition) -> "_Encoder":
    return _Encoder(edition)


class _Encoder:
    """The items of one edition, from its table."""

    def __init__(self, edition: Edition) -> None:
        layout = _LAYOUTS[edition]
        is_2016 = edition == 2016
        types = {kind.name: type_ for type_, kind in layout.items.items()}
        self._singles = [
            (type_, kind.name, _row(kind.fields, edition))
            for type_, kind in layout.items.items()
            if not any(isinstance(f, Rows) and isinstance(f.row, tuple) for f in kind.fields)
            and kind.name != "signature"
        ]
        lists = {"motors": "motors", "stacks": "stacks", "temperatures": "packs"}
        if not is_2016:
            lists["cell_voltages"] = "packs"
        needs = {"temperatures": "probes", "cell_voltages": "cells"}
        self._lists = [
            (type_, lists[kind.name], needs.get(kind.name), *_list(kind, edition))
            for type_, kind in layout.items.items()
            if kind.name in lists
        ]
        self._alarms = types["alarms"], _Alarms(layout.items[types["alarms"]])
        self._voltages = _Voltages(types["cell_voltages"]) if is_2016 else None

    def bodies(self, sample: Sample, codes: Codes) -> list[bytes]:
        charges = sample.items.get("vehicle", {}).get("charge_state") == _PARKED_CHARGING
        skip = ("motors", "engine") if charges else ()
        items: dict[int, bytes] = {}
        for type_, name, pack in self._singles:
            if (values := sample.items.get(name)) is not None and name not in skip:
                items[type_] = pack(values, codes)
        for type_, name, needed, most, pack in self._lists:
            rows = sample.lists.get(name, ()) if name not in skip else ()
            if needed is not None:
                rows = [row for row in rows if len(_array(row, needed))]
            if rows:
                codes.abnormal += max(0, len(rows) - most)
                packed = [pack(row, codes) for row in rows[:most]]
                items[type_] = bytes((len(packed),)) + b"".join(packed)
        if sample.alarms is not None:
            type_, alarms = self._alarms
            items[type_] = alarms.pack(sample.alarms, codes)
        further: list[bytes] = []
        if self._voltages is not None and (
            parts := self._voltages.pack(sample.lists.get("packs", ()), codes)
        ):
            type_ = self._voltages.type
            items[type_] = parts[0]
            further = [bytes((type_,)) + each for each in parts[1:]]
        for type_, data in sample.maker.items():
            items[type_] = len(data).to_bytes(2, "big") + data
        whole = [bytes((type_,)) + item for type_, item in sorted(items.items())]
        return [*_bodies(whole, codes), *further]


def _bodies(items: Sequence[bytes], codes: Codes) -> Iterator[bytes]:
    """Join items, as many as a frame takes."""
    body = b""
    for item in items:
        if len(item) > BODY_BYTES:
            codes.abnormal += 1
        elif len(body) + len(item) > BODY_BYTES:
            yield body
            body = item
        else:
            body += item
    if body:
        yield body


def _array(values: Values, name: str) -> Any:
    return values.get(name, ())


# -- fields --------------------------------------------------------------------------------------


def _row(fields: Sequence[Field], edition: Edition) -> _Packer:
    packers = [_field(field, edition) for field in fields]

    def pack(values: Values, codes: Codes) -> bytes:
        return b"".join([each(values, codes) for each in packers])

    return pack


def _list(kind: Kind, edition: Edition) -> tuple[int, _Packer]:
    """How many rows an item of rows takes, and what packs a row."""
    (rows,) = kind.fields
    assert isinstance(rows, Rows)  # noqa: S101  so are the tables
    assert isinstance(rows.row, tuple)  # noqa: S101
    assert isinstance(rows.count, Prefix)  # noqa: S101
    return rows.count.high, _row(rows.row, edition)


def _field(field: Field, edition: Edition) -> _Packer:
    if isinstance(field, Rows):
        return _numbers(field)
    assert isinstance(field, Number)  # noqa: S101  reports have no other fields
    if field.name == "gear_byte":
        return _gear(field)
    if field.name == "status":
        return _position_status
    if field.name == "datum":
        return _datum(field)
    key = field.name
    if field.name == "hydrogen_concentration_max" and edition == 2025:
        key = "hydrogen_concentration_volume"
    if not field.coded:
        return _clamped(field)
    names = edition == 2016 and field.name.endswith(("_cell", "_probe", "_subsystem"))
    return _number(field, key, beyond_is_invalid=names)


def _number(number: Number, key: str, *, beyond_is_invalid: bool = False) -> _Packer:
    has_hemisphere = number.name in ("longitude", "latitude")
    width, invalid, abnormal = number.width, number.full, number.full - 1
    nobody = invalid.to_bytes(width, "big")

    def pack(values: Values, codes: Codes) -> bytes:
        value = values.get(key)
        if value is None:
            return nobody
        value = float(value)
        raw = number.raw(abs(value) if has_hemisphere else value)
        if raw == abnormal and beyond_is_invalid:
            raw = invalid
        if raw == invalid:
            codes.invalid += 1
        elif raw == abnormal:
            codes.abnormal += 1
        return raw.to_bytes(width, "big")

    return pack


def _clamped(number: Number) -> _Packer:
    """A number without codes."""
    low, high = number.range or (0, number.full)

    def pack(values: Values, codes: Codes) -> bytes:
        value = float(values.get(number.name, math.nan))
        if math.isnan(value):
            codes.invalid += number.name in values
            return number.full.to_bytes(number.width, "big")
        raw = (value - number.offset) * number.steps
        near = round(min(max(raw, low), high))
        codes.abnormal += not low <= raw <= high
        return near.to_bytes(number.width, "big")

    return pack


def _numbers(field: Rows) -> _Packer:
    number, count = field.row, field.count
    assert isinstance(number, Number)  # noqa: S101  so are the tables
    assert isinstance(count, Prefix)  # noqa: S101

    def pack(values: Values, codes: Codes) -> bytes:
        array = _array(values, field.name)
        codes.abnormal += max(0, len(array) - count.high)
        raw = raw_values(number, array[: count.high], codes)
        return len(raw).to_bytes(count.width, "big") + raw.tobytes()

    return pack


def _gear(number: Number) -> _Packer:
    parts = {part.name: part for part in number.parts}
    has_invalid = "gear_invalid" in parts

    def pack(values: Values, codes: Codes) -> bytes:
        gear = float(values.get("gear", math.nan))
        if gear in parts["gear"].labels:
            raw = int(gear)
        else:
            raw = 1 << parts["gear_invalid"].shift if has_invalid else 0
            codes.invalid += "gear" in values and math.isnan(gear)
            codes.abnormal += not math.isnan(gear)
        for name in ("brake_force", "drive_force"):
            raw |= (values.get(name) == 1) << parts[name].shift
        return bytes((raw,))

    return pack


def _position_status(values: Values, _codes: Codes) -> bytes:
    longitude, latitude = (float(values.get(n, math.nan)) for n in ("longitude", "latitude"))
    none = math.isnan(longitude) or math.isnan(latitude)
    no_fix = none or values.get("no_fix", 0) != 0
    return bytes((no_fix | (latitude < 0) << 1 | (longitude < 0) << 2,))


def _datum(number: Number) -> _Packer:
    def pack(values: Values, _codes: Codes) -> bytes:
        datum = values.get("datum", 1)
        return bytes((int(datum) if datum in number.labels else max(number.labels),))

    return pack


# -- items that are made in another way ----------------------------------------------------------


class _Alarms:
    def __init__(self, kind: Kind) -> None:
        level, flags, *lists = kind.fields
        assert isinstance(level, Number)  # noqa: S101  so are the tables
        assert isinstance(flags, Number)  # noqa: S101
        self._level = level
        self._highest = max(level.labels)
        self._bits = {part.name: part.shift for part in flags.parts}
        self._has_levels = len(lists) > 4

    def pack(self, alarms: Alarms, codes: Codes) -> bytes:
        level = self._level.raw(min(alarms.level, self._highest))
        if math.isnan(alarms.level):
            level = self._level.full
        codes.invalid += level == self._level.invalid
        codes.abnormal += level == self._level.abnormal
        bits = sum(1 << self._bits[name] for name in alarms.flags if name in self._bits)
        found = [bytes((level,)), bits.to_bytes(4, "big")]
        for faults in (
            alarms.battery_faults,
            alarms.motor_faults,
            alarms.engine_faults,
            alarms.other_faults,
        ):
            some = [fault & 0xFFFFFFFF for fault in faults[:252]]
            found += [bytes((len(some),)), *(fault.to_bytes(4, "big") for fault in some)]
        if self._has_levels:
            levels = [
                bytes((self._bits[name], min(max(level, 0), self._highest)))
                for name, level in alarms.levels.items()
                if name in self._bits
            ]
            found += [bytes((len(levels),)), *sorted(levels)]
        return b"".join(found)


class _Voltages:
    """Cell voltages of 2016, which are split as `packs.split_packs` does it."""

    def __init__(self, type_: int) -> None:
        self.type = type_
        (rows,) = LAYOUT2016.items[type_].fields
        assert isinstance(rows, Rows)  # noqa: S101  so are the tables
        assert isinstance(rows.row, tuple)  # noqa: S101
        number, voltage, current, total, _, cells = rows.row
        assert isinstance(total, Number)  # noqa: S101
        assert isinstance(cells, Rows)  # noqa: S101
        assert isinstance(cells.row, Number)  # noqa: S101
        self._head = _row((number, voltage, current), 2016)
        self._most = total.high or 0
        self._cell = cells.row

    def pack(self, packs: Sequence[Values], codes: Codes) -> list[bytes]:
        """Items without their type, one a frame."""
        waiting = [parts for pack in packs if (parts := self._parts(pack, codes))]
        found: list[bytes] = []
        while waiting:
            rows: list[bytes] = []
            size = 0
            for parts in waiting:
                row = parts.pop(0)
                if rows and (size + len(row) > _VOLTAGES_BYTES or len(rows) == PACKS_PER_FRAME):
                    found.append(bytes((len(rows),)) + b"".join(rows))
                    rows, size = [], 0
                rows.append(row)
                size += len(row)
            found.append(bytes((len(rows),)) + b"".join(rows))
            waiting = [parts for parts in waiting if parts]
        return found

    def _parts(self, pack: Values, codes: Codes) -> list[bytes]:
        cells = _array(pack, "cells")
        if not len(cells):
            return []
        codes.abnormal += max(0, len(cells) - self._most)
        raw = raw_values(self._cell, cells[: self._most], codes)
        head = self._head(pack, codes) + len(raw).to_bytes(2, "big")
        return [
            head + (first + 1).to_bytes(2, "big") + bytes((len(part),)) + part.tobytes()
            for first in range(0, len(raw), CELLS_PER_FRAME)
            for part in (raw[first : first + CELLS_PER_FRAME],)
        ]
