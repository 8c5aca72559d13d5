"""gpsd's protocol: JSON objects, one a line -> epochs.

Read are TPV (time, position, velocity) and SKY (satellites, dilution of precision); gpsd_json(5)
describes them. gpsd tells the fix of one moment several times while it learns its receiver, each
report fuller than the last: reports of the same time are one epoch. All other classes are skipped.
A line that is no object, that has a value which cannot be, or more than 65,536 bytes, is a bad
line and costs itself.
"""

import datetime as dt
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

import msgspec

from agent.bus.gnss.epochs import Epoch, Joiner, Mark, Report
from agent.bus.gnss.tables import (
    MOST_ALTITUDE,
    MOST_DOP,
    MOST_LATITUDE,
    MOST_LONGITUDE,
    MOST_SATELLITES,
    MOST_SPEED,
)
from agent.clock import BootNs, WallNs

MOST_BYTES: Final = 65_536
WATCH: Final = b'?WATCH={"enable":true,"json":true};\n'

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
# `status` of TPV as GGA numbers it. gpsd leaves it out where it is 0 or 1.
_QUALITY: Final = {0: 1, 1: 1, 2: 2, 3: 4, 4: 5, 5: 6, 6: 6, 7: 7, 8: 8, 9: 3}


class _Class(msgspec.Struct):
    name: str = msgspec.field(name="class")


class _Tpv(msgspec.Struct):
    mode: int = 0
    status: int = 0
    time: str = ""
    lat: Decimal | None = None
    lon: Decimal | None = None
    alt: Decimal | None = None
    above_sea: Decimal | None = msgspec.field(default=None, name="altMSL")
    speed: Decimal | None = None
    track: Decimal | None = None


class _Satellite(msgspec.Struct):
    used: bool = False


class _Sky(msgspec.Struct):
    hdop: Decimal | None = None
    pdop: Decimal | None = None
    vdop: Decimal | None = None
    in_view: int | None = msgspec.field(default=None, name="nSat")
    used: int | None = msgspec.field(default=None, name="uSat")
    satellites: list[_Satellite] | None = None


_CLASS: Final = msgspec.json.Decoder(_Class)
_TPV: Final = msgspec.json.Decoder(_Tpv)
_SKY: Final = msgspec.json.Decoder(_Sky)


class GpsdParser:
    """Bytes in any pieces -> epochs. `good` and `bad` count lines. `feed` never raises."""

    def __init__(self) -> None:
        self.good = 0
        self.bad = 0
        self._joiner = Joiner()
        self._tail = b""
        self._tail_mark = Mark(BootNs(0))

    def feed(self, data: bytes, mark: Mark) -> list[Epoch]:
        """The epochs that end with these bytes."""
        epochs: list[Epoch] = []
        *lines, tail = (self._tail + data).split(b"\n")
        here = self._tail_mark if self._tail else mark
        for line in lines:
            if line.strip(b"\r") and (report := self._read(line)) is not None:
                epochs += self._joiner.add(report, here)
            here = mark
        self._tail, self._tail_mark = tail[: MOST_BYTES + 1], here
        return epochs

    def quiet(self) -> list[Epoch]:
        """Nothing has come for a while."""
        return self._joiner.quiet()

    def end(self) -> list[Epoch]:
        """Nothing will come any more; half a line is left unread."""
        return self._joiner.end()

    def _read(self, line: bytes) -> Report | None:
        report = None
        if len(line) > MOST_BYTES:
            self.bad += 1
            return None
        try:
            name = _CLASS.decode(line).name
            if name == "TPV":
                report = _of_tpv(_TPV.decode(line))
            elif name == "SKY":
                report = _of_sky(_SKY.decode(line))
        # msgspec's errors are ValueErrors; nesting without end is not.
        except (ValueError, RecursionError):
            self.bad += 1
            return None
        self.good += 1
        return report


def _of_tpv(tpv: _Tpv) -> Report:
    if not 0 <= tpv.mode <= 3:
        raise ValueError("no mode")
    utc = _utc(tpv.time) if tpv.time else None
    latitude = _steps(tpv.lat, 7, 1, MOST_LATITUDE)
    longitude = _steps(tpv.lon, 7, 1, MOST_LONGITUDE)
    heading = _steps(tpv.track, 2, 1, 36_000, least=0)
    # Metres a second; 0.001 km/h is 1/3,600 of it.
    speed = _steps(tpv.speed, 0, 3600, MOST_SPEED, least=0)
    # Before gpsd 3.20, `alt` was the height above the sea.
    height = tpv.alt if tpv.above_sea is None else tpv.above_sea
    altitude = _steps(height, 2, 1, MOST_ALTITUDE)
    mode = {"FixMode": tpv.mode} if tpv.mode else {}
    if tpv.mode < 2 or latitude is None or longitude is None:
        return Report("TPV", makes_epoch=True, repeats=True, at=utc, largest=mode)
    values = {
        "Latitude": latitude,
        "Longitude": longitude,
        "Altitude": altitude,
        "Speed": speed,
        "Heading": None if heading is None else heading % 36_000,
        "FixQuality": _QUALITY.get(tpv.status),
    }
    return Report(
        "TPV",
        makes_epoch=True,
        repeats=True,
        at=utc,
        fixed=True,
        values={name: value for name, value in values.items() if value is not None},
        largest=mode,
        utc=utc,
    )


def _of_sky(sky: _Sky) -> Report:
    used, in_view = sky.used, sky.in_view
    if sky.satellites is not None:  # gpsd before 3.23 gives the list alone
        used = sum(s.used for s in sky.satellites) if used is None else used
        in_view = len(sky.satellites) if in_view is None else in_view
    for count in (used, in_view):
        if count is not None and not 0 <= count <= MOST_SATELLITES:
            raise ValueError("out of range")
    dops = {
        "Hdop": _steps(sky.hdop, 2, 1, MOST_DOP, least=0),
        "Pdop": _steps(sky.pdop, 2, 1, MOST_DOP, least=0),
        "Vdop": _steps(sky.vdop, 2, 1, MOST_DOP, least=0),
    }
    return Report(
        "SKY",
        values={name: value for name, value in dops.items() if value is not None},
        largest={} if used is None else {"SatellitesUsed": used},
        in_view=in_view,
    )


def _steps(
    value: Decimal | None, digits: int, factor: int, most: int, *, least: int | None = None
) -> int | None:
    """`value` times `factor` in steps of 10**-digits, rounded half to even.

    Raises:
        ValueError: not between `least` (else -most) and `most`.
    """
    if value is None:
        return None
    # Compared first, as it is: a number may say 1e999999999.
    if not value.is_finite() or abs(value) > most:
        raise ValueError("out of range")
    raw = int((value.scaleb(digits) * factor).to_integral_value(ROUND_HALF_EVEN))
    if not (-most if least is None else least) <= raw <= most:
        raise ValueError("out of range")
    return raw


def _utc(text: str) -> WallNs:
    """ISO 8601 in UTC, exact to the microsecond.

    Raises:
        ValueError: no such time.
    """
    time = dt.datetime.fromisoformat(text)
    if time.tzinfo is None or not 1900 < time.year < 2200:
        raise ValueError("no time")
    return WallNs((time - _EPOCH) // dt.timedelta(microseconds=1) * 1000)
