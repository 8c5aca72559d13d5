"""A device that comes and goes: opened, read until it breaks, waited for, and opened again.

What all sources of such devices share: the loop, the sentence in `state`, and two lines in the log,
one where a failure begins and one where it has ended. How often it was tried in between stands
nowhere. A plug with a loose contact may fail every second for hours, so failures that begin within
a minute of the last line are not told, unless one of them stays.
"""

import abc
import logging
import threading
from collections.abc import Mapping
from typing import Final

from agent.bus.source import Deliver
from agent.clock import SECOND, BootNs, Clock, SystemClock
from agent.errors import BusError

log = logging.getLogger("edge_agent")

_TELL_NS: Final = 60 * SECOND


class DeviceSource(abc.ABC):
    """A `Source` of one device; a subclass says what one session with it is.

    Args:
        bus: name of the bus.
        retry_s: time between two tries to open the device.
        clock: the seam to time.
    """

    def __init__(self, bus: str, *, retry_s: float = 1.0, clock: Clock | None = None) -> None:
        self.bus = bus
        self.state = "starting"
        self._retry_s = retry_s
        self._clock = clock or SystemClock()
        self._told = False
        self._told_at: BootNs | None = None

    @property
    @abc.abstractmethod
    def counts(self) -> Mapping[str, int]:
        """As `Source.counts`."""

    @abc.abstractmethod
    def _session(self, deliver: Deliver, stop: threading.Event) -> None:
        """Open, call `_reads`, read until `stop`, close.

        Raises:
            BusError: the device cannot be opened, refuses, or is gone.
        """

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """As `Source.run`."""
        self.state = "starting"
        while not stop.is_set():
            try:
                self._session(deliver, stop)
            except BusError as error:
                self._waits(str(error))
                stop.wait(self._retry_s)
        self.state = "ended"

    def _reads(self) -> None:
        """All is well; may be called at any rate."""
        if self.state == "reading":
            return
        self.state = "reading"
        if self._told:
            log.info("bus %s: reading again", self.bus)
            self._told = False

    def _waits(self, why: str) -> None:
        """Nothing can be read; may be called at any rate."""
        self.state = f"waiting: {why}"
        now = self._clock.boot()
        if not self._told and (self._told_at is None or now - self._told_at >= _TELL_NS):
            log.warning("bus %s: %s", self.bus, why)
            self._told, self._told_at = True, now
