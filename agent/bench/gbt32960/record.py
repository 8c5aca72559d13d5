"""What came from vehicles, kept in a file for each below a folder, and read again at the start.

A frame is written down before it is answered: so what a vehicle was told to be here is here, also
after a kill. Memory is bounded: some 100 bytes a report, so 7 days of one vehicle are 10 MB, and an
hour of 1,000 vehicles is 50 MB. Whoever would need more than the bounds gets no answers.

    folder/
        LEDGAGENT00000001.frames     a vehicle whose VIN can be a name
        =4c2fff.frames               any other, in hexadecimal
"""

import contextlib
import dataclasses
import logging
import re
from pathlib import Path
from typing import Final

from agent.bench.gbt32960.behaviour import REPORTS
from agent.bench.gbt32960.journal import DAMAGED, FRAME, Entry, Journal
from agent.bench.gbt32960.vehicle import VehicleRecord, entry_of
from agent.clock import WallNs
from agent.errors import AgentError, ConfigError
from agent.gbt32960.codec import Values
from agent.gbt32960.envelope import Frame, parse
from agent.gbt32960.layout import COMMAND, GbtError

_log = logging.getLogger(__name__)

_PLAIN: Final = re.compile(r"[A-Za-z0-9]{1,17}")
_SUFFIX: Final = ".frames"


class FullError(AgentError):
    """A frame is not kept, as a bound is reached or the disk is full."""


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """A frame that is kept; `wrong` says why a malformed one is malformed."""

    values: Values | None
    wrong: str = ""


class Record:
    """What came from all vehicles.

    Args:
        folder: where files are kept; without one only memory knows, until the process ends.
        most_vehicles: so many at most.
        most_reports: so many different ones at most, of all vehicles.
        most_bytes: so many on disk.

    Attributes:
        vehicles: by VIN.
        period_s: the longest time between two reports of a vehicle.

    Raises:
        ConfigError: the folder cannot be used.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        period_s: float = 30.0,
        most_vehicles: int = 20_000,
        most_reports: int = 2_000_000,
        most_bytes: int = 8 << 30,
    ) -> None:
        self.vehicles: dict[str, VehicleRecord] = {}
        self.period_s = period_s
        self._folder = folder
        self._most = (most_vehicles, most_reports, most_bytes)
        self._journals: dict[str, Journal] = {}
        self._reports = 0
        self._bytes = 0
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                self._read(folder)
            except OSError as error:
                raise ConfigError(f"{folder} cannot keep what vehicles send: {error}") from error

    def take(self, frame: Frame, arrival: WallNs, vin: str) -> Taken:
        """Keep a frame; it survives a kill from now on.

        Args:
            frame: as it came.
            arrival: when.
            vin: of the login of its connection.

        Raises:
            FullError: it is not kept.
        """
        wrong, values = "", None
        try:
            values = frame.decode()
            if frame.vin != vin:
                wrong, values = f"VIN {shown(frame.vin)} on the connection of {shown(vin)}", None
        except GbtError as error:
            wrong = str(error)
        entry = entry_of(frame, values, arrival)
        self._keep(vin, entry)
        self._count(vin, entry, frame, values, wrong)
        return Taken(values, wrong)

    def damaged(self, vin: str, frames: int, arrival: WallNs) -> None:
        """So many start marks of a vehicle led to no frame."""
        entry = Entry(DAMAGED, arrival, flags=min(frames, 0xFFFF_FFFF))
        with contextlib.suppress(FullError):
            self._keep(vin, entry)
        self._count(vin, entry, None, None, "")

    def _keep(self, vin: str, entry: Entry) -> None:
        most_vehicles, most_reports, most_bytes = self._most
        if (
            (vin not in self.vehicles and len(self.vehicles) >= most_vehicles)
            or self._reports >= most_reports
            or self._bytes >= most_bytes
        ):
            raise FullError("the record of the platform is full")
        if self._folder is None:
            return
        journal = self._journals.get(vin)
        if journal is None:
            journal = self._journals[vin] = Journal(self._folder / _file_name(vin))
        before = journal.size
        try:
            journal.append(entry)
        except OSError as error:
            raise FullError(f"{shown(vin)}: {error}") from error
        self._bytes += journal.size - before

    def _count(
        self, vin: str, entry: Entry, frame: Frame | None, values: Values | None, wrong: str
    ) -> None:
        vehicle = self.vehicles.get(vin)
        if vehicle is None:
            vehicle = self.vehicles[vin] = VehicleRecord(vin)
        before = vehicle.reports
        vehicle.take(entry, frame, values, wrong)
        self._reports += vehicle.reports - before

    # -- at the start ------------------------------------------------------------------------

    def _read(self, folder: Path) -> None:
        for path in sorted(folder.glob(f"*{_SUFFIX}")):
            vin = _vin(path.name.removesuffix(_SUFFIX))
            if vin is None:
                _log.warning("%s is no file of a vehicle", path)
                continue
            journal = self._journals[vin] = Journal(path)
            for entry in journal.read():
                self._read_entry(vin, entry)
            self._bytes += journal.size

    def _read_entry(self, vin: str, entry: Entry) -> None:
        if entry.kind == DAMAGED:
            self._count(vin, entry, None, None, "")
            return
        frame = parse(entry.frame)
        if entry.kind == FRAME and frame.ack == COMMAND and frame.command in REPORTS:
            # All that is needed of them is in the entry, but for the cells of split packs.
            self._count(vin, entry, frame, frame.decode() if entry.split else None, "")
            return
        values, wrong = None, "another VIN than that of the login"
        try:
            values = frame.decode()
        except GbtError as error:
            wrong = str(error)
        self._count(vin, entry, frame, values, wrong)


def shown(vin: str) -> str:
    """A VIN as text; bytes that are no ASCII are escaped."""
    text = vin.encode("ascii", "surrogateescape").decode("ascii", "backslashreplace")
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def _file_name(vin: str) -> str:
    if _PLAIN.fullmatch(vin):
        return vin + _SUFFIX
    return f"={vin.encode('ascii', 'surrogateescape').hex()}{_SUFFIX}"


def _vin(name: str) -> str | None:
    if _PLAIN.fullmatch(name):
        return name
    try:
        return bytes.fromhex(name.removeprefix("=")).decode("ascii", "surrogateescape") or None
    except ValueError:
        return None
