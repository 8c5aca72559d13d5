"""The two kinds of field that are neither a number nor bytes: times and texts."""

import contextlib
import datetime as dt
from typing import Final

from agent.clock import SECOND, WallNs
from agent.gbt32960.layout import GbtError

_BEIJING: Final = dt.timezone(dt.timedelta(hours=8))


def year_begins(year: int) -> WallNs:
    """When a year begins in Beijing."""
    return WallNs(int(dt.datetime(year, 1, 1, tzinfo=_BEIJING).timestamp()) * SECOND)


FIRST: Final = year_begins(2000)
"""The first time that the six bytes can say; `END` is the first one that they cannot."""
END: Final = year_begins(2100)


def pack_time(time: WallNs) -> bytes:
    """Six bytes of Beijing time; what is less than a second is dropped.

    Raises:
        GbtError: a time outside of 2000 to 2099, which the six bytes cannot say.
    """
    seconds = time // SECOND
    if not FIRST <= time < END:
        raise GbtError(f"a time of {seconds} s since 1970 lies outside of 2000 to 2099")
    moment = dt.datetime.fromtimestamp(seconds, _BEIJING)
    return bytes((moment.year - 2000, *moment.timetuple()[1:6]))


def unpack_time(data: bytes) -> WallNs:
    """UTC from six bytes of Beijing time.

    Raises:
        GbtError: not six bytes, or no date and time of day.
    """
    if len(data) != 6:
        raise GbtError(f"a time has 6 bytes, not {len(data)}")
    if data[0] > 99:
        raise GbtError(f"{data.hex(' ')} is no time: year {data[0]} of the century")
    year, month, day, hour, minute, second = data
    try:
        moment = dt.datetime(2000 + year, month, day, hour, minute, second, tzinfo=_BEIJING)
    except ValueError as error:
        raise GbtError(f"{data.hex(' ')} is no time: {error}") from error
    return WallNs(int(moment.timestamp()) * SECOND)


def pack_text(
    name: str, text: str, size: int | None, pad: bytes = b"\0", *, chinese: bool = False
) -> bytes:
    """A text of exactly `size` bytes, or of as many as it takes.

    Raises:
        GbtError: it is longer, or in no script that the field has.
    """
    try:
        data = text.encode("ascii", "surrogateescape")
    except UnicodeEncodeError as error:
        if not chinese:
            raise GbtError(f"{name} {text!r} is not ASCII") from error
        try:
            data = text.encode("gb18030")
        except UnicodeEncodeError as hopeless:
            raise GbtError(f"{name} {text!r} is not GB 18030") from hopeless
    if size is None:
        return data
    if len(data) > size:
        raise GbtError(f"{name} {text!r} has {len(data)} bytes, and {size} fit")
    return data.ljust(size, pad)


def unpack_text(data: bytes, pad: bytes = b"\0", *, chinese: bool = False) -> str:
    """The text without its padding. What is no text becomes surrogates, as in names of files."""
    data = data.rstrip(pad)
    if chinese:
        with contextlib.suppress(UnicodeDecodeError):
            text = data.decode("gb18030")
            # Some characters have two codes; only what becomes the same bytes again is text.
            if text.encode("gb18030") == data:
                return text
    return data.decode("ascii", "surrogateescape")
