"""NMEA 0183: bytes in any pieces -> epochs.

pynmea2 takes a sentence apart (framing, checksum, which field is which); numbers are made here from
the digits, exactly: a float would be off by one step now and then, and "" is not 0.

A sentence begins with `$` and ends with a carriage return, a line feed or the next `$`. Whatever
else stands between these (the rest of a sentence, another protocol, the noise of a wrong baud rate)
is one bad line a piece. So is a sentence without a checksum or with a wrong one, with a field that
cannot be (a latitude of 91 degrees, a speed of NaN) or with more than 1,024 bytes: it costs itself
as a whole. Sentences of other instruments and of manufacturers (PUBX) are skipped, once their
checksum is right.

Read are RMC, GGA, GNS, GLL, GSA, VTG, GSV and ZDA of the talkers of satellite receivers. A sentence
that says "no fix" gives no position, even where it repeats the last one.
"""

import datetime as dt
import importlib
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final

from agent.bus.gnss.epochs import Epoch, Joiner, Mark, Report
from agent.bus.gnss.tables import (
    MOST_ALTITUDE,
    MOST_DOP,
    MOST_LATITUDE,
    MOST_LONGITUDE,
    MOST_SATELLITES,
    MOST_SPEED,
    STEPS_A_DEGREE,
)
from agent.clock import SECOND, BootNs, WallNs
from agent.errors import BusError

MOST_BYTES: Final = 1024
_TALKERS: Final = frozenset({"GP", "GN", "GL", "GA", "GB", "BD", "QZ", "GQ", "GI"})
_KM_IN_MILE: Final = Fraction(1852, 1000)

_PIECES: Final = re.compile(rb"[\r\n]|(?=\$)")
_PRINTABLE: Final = re.compile(rb"\$[ -~]*")
_UNSIGNED: Final = re.compile(r"\d{1,9}(?:\.\d{0,12})?|\.\d{1,12}")
_SIGNED: Final = re.compile(rf"-?(?:{_UNSIGNED.pattern})")
_ANGLE: Final = re.compile(r"(\d{0,3})(\d\d(?:\.\d{0,12})?)")
_TIME: Final = re.compile(r"(\d\d)(\d\d)(\d\d)(?:\.(\d{0,9})\d{0,9})?")
_DATE: Final = re.compile(r"(\d\d)(\d\d)(\d\d)")
_WHOLE: Final = re.compile(r"\d{1,4}")

# Mode letters of RMC, GLL and GNS (NMEA 2.3 and later) as GGA numbers them, the best first.
_MODES: Final = {"R": 4, "F": 5, "P": 3, "D": 2, "A": 1, "E": 6, "M": 7, "S": 8}


class NmeaParser:
    """Bytes in any pieces -> epochs. `good` and `bad` count lines. `feed` never raises.

    Raises:
        BusError: pynmea2 is not installed.
    """

    def __init__(self) -> None:
        self.good = 0
        self.bad = 0
        self._pynmea2 = _library()
        self._joiner = Joiner()
        self._tail = b""
        self._tail_mark = Mark(BootNs(0))

    def feed(self, data: bytes, mark: Mark) -> list[Epoch]:
        """The epochs that end with these bytes."""
        epochs: list[Epoch] = []
        *pieces, tail = _PIECES.split(self._tail + data)
        here = self._tail_mark if self._tail else mark  # of the first byte of the next piece
        for piece in filter(None, pieces):
            if (report := self._read(piece)) is not None:
                epochs += self._joiner.add(report, here)
            here = mark
        # One byte more than is allowed is enough to know that it is too long.
        self._tail, self._tail_mark = tail[: MOST_BYTES + 1], here
        return epochs

    def quiet(self) -> list[Epoch]:
        """Nothing has come for a while."""
        return self._joiner.quiet()

    def end(self) -> list[Epoch]:
        """Nothing will come any more; half a sentence is left unread."""
        return self._joiner.end()

    def _read(self, line: bytes) -> Report | None:
        try:
            sentence = self._sentence(line)
            report = None if sentence is None else _READERS[sentence.sentence_type](sentence)
        except ValueError:
            self.bad += 1
            return None
        self.good += 1
        return report

    def _sentence(self, line: bytes) -> Any:
        """A sentence with the right checksum; None for one that is not read here.

        Raises:
            ValueError: no whole sentence.
        """
        library = self._pynmea2
        if len(line) > MOST_BYTES or not _PRINTABLE.fullmatch(line):
            raise ValueError("no sentence")
        try:
            sentence = library.parse(line.decode("ascii"), check=True)
        except library.SentenceTypeError:
            return None  # raised after the checksum was compared
        except library.ParseError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError):
            # What the classes for manufacturers' sentences raise about fields that are missing;
            # they are made after the checksum was compared too.
            return None
        if not isinstance(sentence, library.TalkerSentence):
            return None  # a manufacturer's, or a question
        known = sentence.sentence_type in _READERS and sentence.talker in _TALKERS
        return sentence if known else None


def _library() -> Any:
    try:
        # Imported here, because it is an extra: buses without NMEA 0183 do without it.
        return importlib.import_module("pynmea2")
    except ImportError as error:
        raise BusError(
            "a GNSS receiver on a serial port needs pynmea2, which is not installed; "
            "install it with: pip install 'vehicle-edge-agent[gnss]'"
        ) from error


# -- fields ------------------------------------------------------------------------------------
# Each gives None for a field that is empty or missing, and raises ValueError for a bad one.


def _field(sentence: Any, name: str) -> str:
    place: int = sentence.name_to_idx[name]
    return str(sentence.data[place]) if place < len(sentence.data) else ""


def _number(text: str, steps: Fraction | int, most: int, *, signed: bool = False) -> int | None:
    """So many steps, rounded half to even."""
    if not text:
        return None
    if not (_SIGNED if signed else _UNSIGNED).fullmatch(text):
        raise ValueError("no number")
    raw = round(Fraction(text) * steps)
    if abs(raw) > most:
        raise ValueError("out of range")
    return raw


def _whole(text: str, most: int) -> int | None:
    if not text:
        return None
    if not _WHOLE.fullmatch(text) or int(text) > most:
        raise ValueError("out of range")
    return int(text)


def _angle(text: str, side: str, sides: str, most: int) -> int | None:
    """Degrees and minutes (dddmm.mmmm) in steps of 1e-7 degrees."""
    if not text:
        return None
    match = _ANGLE.fullmatch(text)
    if match is None or len(side) != 1 or side not in sides:
        raise ValueError("no angle")
    minutes = Fraction(match[2])
    raw = round((60 * int(match[1] or 0) + minutes) * STEPS_A_DEGREE / 60)
    if minutes >= 60 or raw > most:
        raise ValueError("out of range")
    return raw if side == sides[0] else -raw


def _time_of_day(text: str) -> int | None:
    """Nanoseconds since midnight; a leap second is the 61st of its minute."""
    if not text:
        return None
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("no time")
    hour, minute, second = int(match[1]), int(match[2]), int(match[3])
    if hour > 23 or minute > 59 or second > 60:
        raise ValueError("no time")
    return (hour * 3600 + minute * 60 + second) * SECOND + int((match[4] or "").ljust(9, "0"))


def _utc(date: dt.date, time_of_day: int | None, text: str) -> WallNs | None:
    """None in a leap second, for which wall time has no number."""
    if time_of_day is None or text[4:6] == "60":
        return None
    days = (date - dt.date(1970, 1, 1)).days
    return WallNs(days * 86_400 * SECOND + time_of_day)


def _present(**values: int | None) -> dict[str, int]:
    return {name: value for name, value in values.items() if value is not None}


def _place(sentence: Any) -> dict[str, int]:
    """Latitude and longitude, or nothing.

    Raises:
        ValueError: one of them is bad, or only one is there.
    """
    place = _present(
        Latitude=_angle(_field(sentence, "lat"), _field(sentence, "lat_dir"), "NS", MOST_LATITUDE),
        Longitude=_angle(
            _field(sentence, "lon"), _field(sentence, "lon_dir"), "EW", MOST_LONGITUDE
        ),
    )
    if len(place) == 1:
        raise ValueError("half a position")
    return place


def _heading(text: str) -> int | None:
    raw = _number(text, 100, 36_000)
    return None if raw is None else raw % 36_000


def _dop(text: str) -> int | None:
    return _number(text, 100, MOST_DOP)


def _active(sentence: Any, mode: str) -> bool:
    status = _field(sentence, "status")
    if status not in ("A", "V", ""):
        raise ValueError("no status")
    return status == "A" and mode != "N"


# -- sentences ---------------------------------------------------------------------------------


def _kind(sentence: Any) -> str:
    return f"{sentence.talker}{sentence.sentence_type}"


def _rmc(sentence: Any) -> Report:
    time, mode = _field(sentence, "timestamp"), _field(sentence, "mode_indicator")
    at, place = _time_of_day(time), _place(sentence)
    fallback = _present(
        Speed=_number(_field(sentence, "spd_over_grnd"), 1000 * _KM_IN_MILE, MOST_SPEED),
        Heading=_heading(_field(sentence, "true_course")),
        FixQuality=_MODES.get(mode),
    )
    if not (_active(sentence, mode) and place):
        return Report(_kind(sentence), makes_epoch=True, at=at)
    utc = None
    # Read only with a fix: what stands there before the first one is no date.
    if date := _field(sentence, "datestamp"):
        match = _DATE.fullmatch(date)
        if match is None:
            raise ValueError("no date")
        # Two digits; there was no receiver before 1980.
        year = int(match[3]) + (1900 if int(match[3]) >= 80 else 2000)
        utc = _utc(dt.date(year, int(match[2]), int(match[1])), at, time)
    return Report(
        _kind(sentence),
        makes_epoch=True,
        at=at,
        fixed=True,
        values=place,
        fallback=fallback,
        utc=utc,
    )


def _gll(sentence: Any) -> Report:
    mode = _field(sentence, "faa_mode")
    at, place = _time_of_day(_field(sentence, "timestamp")), _place(sentence)
    if not (_active(sentence, mode) and place):
        return Report(_kind(sentence), makes_epoch=True, at=at)
    return Report(
        _kind(sentence),
        makes_epoch=True,
        at=at,
        fixed=True,
        fallback={**place, **_present(FixQuality=_MODES.get(mode))},
    )


def _gga(sentence: Any) -> Report:
    if _field(sentence, "altitude_units") not in ("M", ""):
        raise ValueError("no metres")
    quality = _whole(_field(sentence, "gps_qual"), 9) or 0
    return _with_altitude(sentence, quality, "horizontal_dil")


def _gns(sentence: Any) -> Report:
    modes = _field(sentence, "mode_indicator")
    quality = next((number for letter, number in _MODES.items() if letter in modes), 0)
    return _with_altitude(sentence, quality, "hdop")


def _with_altitude(sentence: Any, quality: int, hdop: str) -> Report:
    at, place = _time_of_day(_field(sentence, "timestamp")), _place(sentence)
    used = _present(SatellitesUsed=_whole(_field(sentence, "num_sats"), MOST_SATELLITES))
    values = _present(
        Altitude=_number(_field(sentence, "altitude"), 100, MOST_ALTITUDE, signed=True),
        Hdop=_dop(_field(sentence, hdop)),
        FixQuality=quality,
    )
    fixed = quality != 0 and bool(place)
    return Report(
        _kind(sentence),
        makes_epoch=True,
        at=at,
        fixed=fixed,
        values={**place, **values} if fixed else {},
        largest=used,
    )


def _gsa(sentence: Any) -> Report:
    mode = _whole(_field(sentence, "mode_fix_type"), 3)
    if mode == 0:
        raise ValueError("no mode")
    dops = _present(
        Pdop=_dop(_field(sentence, "pdop")),
        Hdop=_dop(_field(sentence, "hdop")),
        Vdop=_dop(_field(sentence, "vdop")),
    )
    return Report(_kind(sentence), values=dops, largest=_present(FixMode=mode))


def _vtg(sentence: Any) -> Report:
    knots = _number(_field(sentence, "spd_over_grnd_kts"), 1000 * _KM_IN_MILE, MOST_SPEED)
    kmph = _number(_field(sentence, "spd_over_grnd_kmph"), 1000, MOST_SPEED)
    values = _present(
        Speed=knots if kmph is None else kmph, Heading=_heading(_field(sentence, "true_track"))
    )
    return Report(_kind(sentence), values={} if _field(sentence, "faa_mode") == "N" else values)


def _gsv(sentence: Any) -> Report:
    return Report(
        _kind(sentence), in_view=_whole(_field(sentence, "num_sv_in_view"), MOST_SATELLITES)
    )


def _zda(sentence: Any) -> Report:
    time = _field(sentence, "timestamp")
    at = _time_of_day(time)
    day, month = _whole(_field(sentence, "day"), 31), _whole(_field(sentence, "month"), 12)
    year = _whole(_field(sentence, "year"), 2200)
    if not (day and month and year):
        return Report(_kind(sentence))
    return Report(_kind(sentence), at=at, utc=_utc(dt.date(year, month, day), at, time))


_READERS: Final[dict[str, Callable[[Any], Report]]] = {
    "RMC": _rmc,
    "GLL": _gll,
    "GGA": _gga,
    "GNS": _gns,
    "GSA": _gsa,
    "VTG": _vtg,
    "GSV": _gsv,
    "ZDA": _zda,
}
