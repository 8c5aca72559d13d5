"""A serial port: opened, read, and its errors worded for a person.

Every error of pyserial and of the system leaves as a `BusError` with a whole sentence that fits
behind "waiting: ".
"""

import contextlib
import errno
import os
import termios
from collections.abc import Iterator
from typing import Any, Final

import serial

from agent.errors import BusError

READ_BYTES: Final = 65_536


def open_port(device: str, baudrate: int, *, what: str = "adapter") -> Any:
    """An exclusively opened `serial.Serial`, raw, eight data bits, no parity, one stop bit.

    Args:
        device: a device such as /dev/ttyACM0, or the path of a pseudo-terminal.
        baudrate: of the serial line; devices on USB do not mind.
        what: what a person would call the device.

    Raises:
        BusError: the device cannot be opened; the message says why and what to do.
    """
    try:
        return serial.Serial(
            device, baudrate=baudrate, timeout=0.05, write_timeout=1.0, exclusive=True
        )
    except (OSError, ValueError, OverflowError, termios.error) as error:
        raise BusError(_why(device, what, error)) from error


@contextlib.contextmanager
def in_use(device: str, *, what: str = "adapter") -> Iterator[None]:
    """Around reading and writing: whatever fails there means that the device is gone.

    Raises:
        BusError: in place of what was raised inside.
    """
    try:
        yield
    except (OSError, termios.error) as error:
        raise BusError(f"the {what} {device} is gone ({error})") from error


def read_some(descriptor: int) -> bytes:
    """What has come, at most `READ_BYTES`; nothing where nothing has come after all.

    Raises:
        OSError: the device is gone; `in_use` translates it.
    """
    try:
        data = os.read(descriptor, READ_BYTES)
    except BlockingIOError:
        return b""
    if not data:
        raise OSError(errno.ENODEV, "unplugged")
    return data


def _why(device: str, what: str, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == errno.ENOENT:
        return f"the {what} {device} is not there"
    if number in (errno.EACCES, errno.EPERM):
        return f"no permission to open {device}; its group (often dialout) must include this user"
    if number in (errno.EBUSY, errno.EAGAIN):
        return f"the {what} {device} is in use by another program"
    return f"the {what} {device} cannot be opened ({error})"
