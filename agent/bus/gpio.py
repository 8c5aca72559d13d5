"""One input line of a GPIO chip, such as the ignition (terminal 15) behind a level shifter.

Read through the kernel's GPIO character device (/dev/gpiochipN), with libgpiod's own Python
bindings: the extra `gpio`, imported only when a line is opened. The line belongs to this process
until it is closed, and is only ever an input.

Whoever waits gets the level as it is after a change, never the change itself: the kernel keeps few
changes, and drops some where a contact bounces, but the level that is read then is always right.
Bouncing is taken out by the kernel, which reports a level when it was stable for `debounce_ms`.
"""

import contextlib
import datetime as dt
import errno
import importlib
import select
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Protocol, Self

from agent.errors import BusError

_CONSUMER: Final = "edge-agent"  # what `gpioinfo` shows as the user of the line
_READS: Final = 64


class Request(Protocol):
    """What is used of `gpiod.LineRequest`."""

    def fileno(self) -> int: ...

    def get_value(self, line: int | str) -> Any: ...

    def read_edge_events(self) -> Any: ...

    def release(self) -> None: ...


class Chip(Protocol):
    """What is used of `gpiod.Chip`."""

    def line_offset_from_id(self, id: str | int) -> int: ...  # noqa: A002 - the library's name

    def get_line_info(self, line: int | str) -> Any: ...

    def request_lines(self, config: Any, consumer: str | None = None) -> Request: ...

    def close(self) -> None: ...


class GpioLine:
    """An input line; to be used by one thread at a time.

    Args:
        chip: a device such as /dev/gpiochip0, or its name without the folder.
        line: its number on the chip, or the name that the board's device tree gives it.
        active_low: the input is on when the line is low, as behind most opto-couplers.
        debounce_ms: how long a level must last to count; 0 for none.
        open_chip: the seam to the hardware; `gpiod.Chip` if it is not given.

    Raises:
        BusError: the library is not installed, there is no such chip or line, no permission, the
            line is in use, or it cannot tell of changes.
    """

    def __init__(
        self,
        chip: str,
        line: int | str,
        *,
        active_low: bool = False,
        debounce_ms: int = 20,
        open_chip: Callable[[str], Chip] | None = None,
    ) -> None:
        library = _library()
        path = chip if "/" in chip else f"/dev/{chip}"
        self._place = f"GPIO line {line} of {path}"
        self._active = library.line.Value.ACTIVE
        settings = library.LineSettings(
            direction=library.line.Direction.INPUT,
            edge_detection=library.line.Edge.BOTH,
            active_low=active_low,
            debounce_period=dt.timedelta(milliseconds=debounce_ms),
        )
        try:
            device = (open_chip or library.Chip)(path)
        except (OSError, ValueError) as error:
            raise BusError(_no_chip(path, error)) from error
        try:
            self._offset = self._find(device, line)
            self._request = self._take(device, {self._offset: settings})
        finally:
            device.close()

    def fileno(self) -> int:
        """Becomes readable when the line has changed and `wait` would not wait.

        Raises:
            BusError: it is closed.
        """
        with self._translated():
            return self._request.fileno()

    def read(self) -> bool:
        """Whether the input is on now; with `active_low`, whether the line is low.

        Raises:
            BusError: the chip is gone, or the line is closed.
        """
        with self._translated():
            return bool(self._request.get_value(self._offset) == self._active)

    def wait(self, timeout_s: float) -> bool | None:
        """Wait for a change since the last one that was waited for: the level then; None for none.

        The level may be the same as before, if it has changed twice.

        Raises:
            BusError: the chip is gone, or the line is closed.
        """
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN)
        if not poll.poll(max(0, round(timeout_s * 1000))):
            return None
        with self._translated():
            # All that is known so far is dropped before the level is read. What comes later, also
            # between these two, wakes the next wait.
            for _ in range(_READS):
                self._request.read_edge_events()
                if not poll.poll(0):
                    break
        return self.read()

    def close(self) -> None:
        """Give the line back; may be called again."""
        self._request.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _find(self, device: Chip, line: int | str) -> int:
        # The library takes a negative number for a very large one, or raises something of its own.
        if isinstance(line, int) and line < 0:
            raise BusError(f"{self._place}: lines are numbered from 0")
        try:
            return device.line_offset_from_id(line)
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) or error.errno in (errno.ENOENT, errno.EINVAL):
                raise BusError(
                    f"there is no {self._place}; `gpioinfo` lists what there is"
                ) from error
            raise BusError(f"{self._place} cannot be used ({error})") from error

    def _take(self, device: Chip, config: Mapping[int, Any]) -> Request:
        try:
            return device.request_lines(config, consumer=_CONSUMER)
        except (OSError, ValueError) as error:
            raise BusError(self._refusal(device, error)) from error

    def _refusal(self, device: Chip, error: Exception) -> str:
        number = getattr(error, "errno", None)
        if number == errno.EBUSY:
            user = ""
            with contextlib.suppress(OSError, ValueError):
                user = device.get_line_info(self._offset).consumer
            return f"{self._place} is in use{f' by {user}' if user else ''}"
        if number == errno.ENXIO:
            return f"{self._place} cannot tell of changes (it has no interrupt); choose another one"
        if number in (errno.EACCES, errno.EPERM):
            return f"no permission to use {self._place}"
        return f"{self._place} cannot be used ({error})"

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BusError(f"{self._place} is gone ({error})") from error
        except _library().RequestReleasedError as error:
            raise BusError(f"{self._place} is closed") from error


def _library() -> Any:
    """The module gpiod.

    Raises:
        BusError: it is not installed, or it is one that goes by the same name.
    """
    try:
        library = importlib.import_module("gpiod")
    except ImportError as error:
        raise BusError(
            "GPIO lines need the Python package gpiod; "
            "install it with: pip install 'vehicle-edge-agent[gpio]'"
        ) from error
    # Debian 12 and Raspberry Pi OS have libgpiod 1 under this name, with other functions.
    if not hasattr(library, "LineSettings"):
        raise BusError(
            "GPIO lines need version 2 of the Python package gpiod, and this is an older one; "
            "install it with: pip install 'vehicle-edge-agent[gpio]'"
        )
    return library


def _no_chip(path: str, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number in (errno.EACCES, errno.EPERM):
        return f"no permission to open {path}; its group (often gpio) must include this user"
    if number == errno.ENOENT:
        return f"there is no {path}; `gpiodetect` lists the GPIO chips"
    if number in (errno.ENODEV, errno.ENOTTY):
        return f"{path} is no GPIO chip; `gpiodetect` lists them"
    return f"the GPIO chip {path} cannot be opened ({error})"
