"""What a session keeps over restarts: login serial, parameters of the platform, clocks of boots.

    <state_dir>/gbt32960-<uplink>.json

The file is replaced whole and synced before what it says is used: a serial before the login goes
out. One that cannot be read is set aside, and the session begins anew: the platform sees a serial
twice, and gets the periods of the device file until it sets them again.

A clock is what has to be added to the boot clock of one boot to get wall time. It is kept when it
is known for certain, or when the platform told it, so that what a boot left undated in the spool
can be dated by the next.
"""

import contextlib
import logging
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from agent.clock import SECOND
from agent.uplink.durable import replace_durably
from agent.uplink.gbt32960.session_types import SerialState

_log = logging.getLogger("edge_agent.uplink")

MOST_BOOTS: Final = 8
_MODE: Final = 0o640

_Whole = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]


class _Serial(Struct, forbid_unknown_fields=True):
    day: _Whole = 0
    serial: Annotated[int, Meta(ge=0, le=0xFFFF)] = 0


class _Content(Struct, forbid_unknown_fields=True):
    serial: _Serial = msgspec.field(default_factory=_Serial)
    parameters: Annotated[
        dict[Annotated[int, Meta(ge=0, le=255)], _Whole], Meta(max_length=256)
    ] = msgspec.field(default_factory=dict)
    clocks: Annotated[dict[str, int], Meta(max_length=MOST_BOOTS)] = msgspec.field(
        default_factory=dict
    )
    """By boot id, nanoseconds; the newest boot comes last."""


class State:
    """Of one uplink. The methods that write touch the disk; one caller at a time.

    What could not be written is in force all the same and is written with the next change.
    """

    def __init__(self, folder: Path, uplink: str) -> None:
        """Read what is there; a damaged file is set aside."""
        self._path = folder / f"gbt32960-{uplink}.json"
        self._uplink = uplink
        self._content = self._read()
        self._unwritten = False

    @property
    def serial(self) -> SerialState:
        return SerialState(self._content.serial.day, self._content.serial.serial)

    @property
    def parameters(self) -> dict[int, int]:
        """Raw, by id; empty before the platform has set any."""
        return dict(self._content.parameters)

    def clock(self, boot_id: str) -> int | None:
        """The offset of a boot, nanoseconds; None where it never was known."""
        return self._content.clocks.get(boot_id)

    def keep_serial(self, serial: SerialState) -> None:
        self._content.serial = _Serial(serial.day, serial.serial)
        self._write()

    def keep_parameters(self, values: dict[int, int]) -> None:
        self._content.parameters = dict(values)
        self._write()

    def keep_clock(self, boot_id: str, offset: int) -> None:
        """Keep the clock of a boot, unless that is known to the second already."""
        clocks = self._content.clocks
        known = clocks.get(boot_id)
        if known is not None and abs(known - offset) < SECOND:
            return
        clocks.pop(boot_id, None)
        clocks[boot_id] = offset
        while len(clocks) > MOST_BOOTS:
            del clocks[next(iter(clocks))]
        self._write()

    def _read(self) -> _Content:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return _Content()
        except OSError as e:
            _log.warning("uplink %s: %s cannot be read: %s", self._uplink, self._path, e.strerror)
            return _Content()
        try:
            return msgspec.json.decode(content, type=_Content)
        except (msgspec.MsgspecError, UnicodeDecodeError) as e:
            aside = self._path.with_suffix(".damaged")
            with contextlib.suppress(OSError):
                self._path.replace(aside)
            _log.warning(
                "uplink %s: %s is damaged (%s) and was set aside; the login serial begins anew, "
                "and what the platform had set is as in the device file",
                *(self._uplink, self._path, e),
            )
            return _Content()

    def _write(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replace_durably(self._path, msgspec.json.encode(self._content) + b"\n", _MODE)
        except OSError as e:
            if not self._unwritten:
                _log.warning(
                    "uplink %s: %s cannot be written: %s; a restart may use a serial again",
                    *(self._uplink, self._path, e.strerror),
                )
            self._unwritten = True
        else:
            self._unwritten = False
