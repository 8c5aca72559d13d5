"""A GNSS receiver on a serial port, or behind gpsd, as a source of signals."""

import contextlib
import dataclasses
import errno
import logging
import re
import select
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from agent.bus import serialport
from agent.bus.gnss.dating import AnchorKeeper, correct
from agent.bus.gnss.epochs import Epoch, Mark
from agent.bus.gnss.gpsd import WATCH, GpsdParser
from agent.bus.gnss.nmea import NmeaParser
from agent.bus.gnss.tables import position_row, satellites_row, time_row
from agent.bus.session import DeviceSource
from agent.bus.source import Deliver
from agent.clock import MILLISECOND, SECOND, BootNs, Clock, WallNs
from agent.errors import BusError, ConfigError

Anchor = Callable[[BootNs, WallNs], None]

_log = logging.getLogger("edge_agent.gnss")

_WAIT_S: Final = 0.1
_QUIET_NS: Final = 200 * MILLISECOND
# So long may a driver (its FIFO, the latency timer of a USB adapter) hold bytes back.
_DRIVER_NS: Final = 20 * MILLISECOND
# What may have waited longer than this, because this thread was held up, dates nothing.
_PROMPT_NS: Final = 100 * MILLISECOND
_BITS_A_BYTE: Final = 10
# Some seconds of a slow line without one sentence are no accident.
_NOISE_BYTES: Final = 4096
_CONNECT_S: Final = 3.0
_GPSD_PORT: Final = 2947
_ADDRESS: Final = re.compile(r"(?:\[([^\]]+)\]|([^:\[\]]+))(?::(\d{1,5}))?")


class GnssSource(DeviceSource):
    """The signals of one receiver: tables `Position`, `Satellites` and `Time` (`schemas`).

    `refused_times` counts epochs whose date was none (agent.bus.gnss.dating), and `weeks_added` is
    what the last date was corrected by; 0 with a sound receiver.

    Args:
        bus: name of the bus, such as `gnss`: signals are then `gnss.Position.Latitude`.
        device: a device such as /dev/ttyUSB0 that sends NMEA 0183.
        baudrate: of the serial line; receivers on USB do not mind.
        gpsd: in place of a device, the address of a gpsd: `localhost:2947`, `[::1]:2947`.
        retry_s: time between two tries to open the device or to connect.
        clock: the seam to time.
        anchor: takes a boot time and what time it was then; called in the thread of `run`, once for
            each epoch that is to be believed.

    Raises:
        BusError: pynmea2, which a device needs, is not installed.
        ConfigError: neither a device nor gpsd, both, or an address that is none.
    """

    def __init__(
        self,
        bus: str,
        *,
        device: str = "",
        baudrate: int = 9600,
        gpsd: str = "",
        retry_s: float = 1.0,
        clock: Clock | None = None,
        anchor: Anchor | None = None,
    ) -> None:
        if bool(device) == bool(gpsd):
            raise ConfigError(f"bus {bus}: a GNSS receiver needs either a device or gpsd")
        super().__init__(bus, retry_s=retry_s, clock=clock)
        self.refused_times = 0
        self.weeks_added = 0
        self._peer = _Gpsd(bus, gpsd) if gpsd else _Device(device, baudrate)
        self._anchor = anchor
        self._keeper = AnchorKeeper()
        self._bad = 0
        self._told_of_weeks = False

    @property
    def counts(self) -> Mapping[str, int]:
        return {"bad_lines": self._bad}

    def status(self) -> dict[str, Any]:
        """What the status tells of a receiver."""
        return {"refused_times": self.refused_times, "weeks_added": self.weeks_added}

    def _session(self, deliver: Deliver, stop: threading.Event) -> None:
        """Open, read until `stop`, close.

        Raises:
            BusError: it cannot be opened, or is gone.
        """
        parser = self._peer.parser()
        before, received = self._bad, 0
        with contextlib.closing(self._peer.open()) as link:
            self._reads()
            reader = _Reader(link, self._clock)
            try:
                while not stop.is_set():
                    data, mark = reader.read()
                    if data:
                        epochs = parser.feed(data, mark)
                        self._bad = before + parser.bad
                        received += len(data)
                    else:
                        epochs = parser.quiet() if reader.quiet else []
                    self._give(epochs, deliver)
                    noise = received >= _NOISE_BYTES and not parser.good
                    if noise:
                        self._waits(self._peer.noise)
                    else:
                        self._reads()
            finally:
                self._give(parser.end(), deliver)

    def _give(self, epochs: list[Epoch], deliver: Deliver) -> None:
        for epoch in epochs:
            at = epoch.mark.read
            deliver(position_row(self.bus, at, epoch.values))
            if epoch.in_view is not None:
                deliver(satellites_row(self.bus, at, epoch.in_view))
            if epoch.utc is not None:
                self._date(epoch.mark, epoch.utc, deliver)

    def _date(self, mark: Mark, shown: WallNs, deliver: Deliver) -> None:
        corrected = correct(shown)
        if corrected is None:
            self.refused_times += 1
            return
        wall, self.weeks_added = corrected
        if self.weeks_added and not self._told_of_weeks:
            self._told_of_weeks = True
            _log.warning(
                "bus %s: the receiver's date lies %d weeks in the past (its firmware is old); "
                "it is corrected",
                self.bus,
                self.weeks_added,
            )
        deliver(time_row(self.bus, mark.read, wall, self.weeks_added))
        if mark.began is None:
            return
        found = self._keeper.take(mark.began, wall)
        if found is not None and self._anchor is not None:
            self._anchor(*found)


class _Parser(Protocol):
    good: int
    bad: int

    def feed(self, data: bytes, mark: Mark) -> list[Epoch]: ...

    def quiet(self) -> list[Epoch]: ...

    def end(self) -> list[Epoch]: ...


class _Link(Protocol):
    """Something open; `read` does not wait, and raises BusError when the other end is gone."""

    byte_ns: int

    def fileno(self) -> int: ...

    def read(self) -> bytes: ...

    def close(self) -> None: ...


class _Reader:
    """Reads what has come, and knows how long it may have lain there."""

    def __init__(self, link: _Link, clock: Clock) -> None:
        self._link = link
        self._clock = clock
        self._empty: int | None = None  # when there was last known to be nothing to read
        self._last = clock.boot()

    @property
    def quiet(self) -> bool:
        return self._clock.boot() - self._last >= _QUIET_NS

    def read(self) -> tuple[bytes, Mark]:
        """What has come, after a wait of at most a tenth of a second; b"" if nothing has.

        Raises:
            BusError: the device is gone.
        """
        link = self._link
        waits = not _readable(link, 0)
        if waits:
            self._empty = self._clock.boot()
            if not _readable(link, _WAIT_S):
                return b"", Mark(self._empty)
        now = self._clock.boot()
        data = link.read()
        if data:
            self._last = now
        since = self._empty
        if since is None:
            return data, Mark(now)
        if waits:
            since = max(since, now - _DRIVER_NS)
        if now - since > _PROMPT_NS:
            return data, Mark(now)
        return data, Mark(now, BootNs(max(since, now - len(data) * link.byte_ns)))


def _readable(link: _Link, wait_s: float) -> bool:
    return bool(select.select([link.fileno()], [], [], wait_s)[0])


@dataclasses.dataclass(frozen=True)
class _Device:
    """A receiver on a serial port."""

    path: str
    baudrate: int

    @property
    def noise(self) -> str:
        return (
            f"what comes from {self.path} is no NMEA 0183; is the baud rate of {self.baudrate} "
            "right?"
        )

    def parser(self) -> _Parser:
        return NmeaParser()

    def open(self) -> _Link:
        return _SerialLink(self)

    def __post_init__(self) -> None:
        NmeaParser()  # what it needs is missing now or never


class _SerialLink:
    def __init__(self, device: _Device) -> None:
        self.byte_ns = _BITS_A_BYTE * SECOND // max(1, device.baudrate)
        self._path = device.path
        self._port = serialport.open_port(device.path, device.baudrate, what="receiver")

    def fileno(self) -> int:
        return int(self._port.fileno())

    def read(self) -> bytes:
        with serialport.in_use(self._path, what="receiver"):
            return serialport.read_some(self.fileno())

    def close(self) -> None:
        self._port.close()


class _Gpsd:
    """A gpsd somewhere.

    Raises:
        ConfigError: no address.
    """

    def __init__(self, bus: str, address: str) -> None:
        match = _ADDRESS.fullmatch(address)
        port = int(match[3] or _GPSD_PORT) if match else 0
        if match is None or not 0 < port < 65_536:
            raise ConfigError(
                f'bus {bus}: gpsd = "{address}" is no address; write it as localhost:2947'
            )
        self.name = f"gpsd at {address}"
        self.noise = f"what comes from {self.name} is not gpsd's protocol"
        self.place = (str(match[1] or match[2]), port)

    def parser(self) -> _Parser:
        return GpsdParser()

    def open(self) -> _Link:
        return _SocketLink(self)


class _SocketLink:
    byte_ns = 0

    def __init__(self, gpsd: _Gpsd) -> None:
        self._name = gpsd.name
        try:
            self._socket = socket.create_connection(gpsd.place, _CONNECT_S)
        except (OSError, UnicodeError) as error:
            raise BusError(_why(gpsd.name, error)) from error
        try:
            self._socket.sendall(WATCH)
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise BusError(f"{gpsd.name} has closed the connection ({error})") from error

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> bytes:
        try:
            data = self._socket.recv(serialport.READ_BYTES)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise BusError(f"{self._name} has closed the connection ({error})") from error
        if not data:
            raise BusError(f"{self._name} has closed the connection")
        return data

    def close(self) -> None:
        self._socket.close()


def _why(name: str, error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return f"{name} refuses the connection; is it running?"
    if isinstance(error, TimeoutError) or getattr(error, "errno", None) == errno.EHOSTUNREACH:
        return f"{name} does not answer"
    return f"{name} cannot be reached ({error})"
