"""What a session says and hears, as frames.

Of what a platform sends only answers to this vehicle and the three commands of the standard count.
An answer is judged by its command and flag; its content may be anything, and only a time at its
begin is looked at. A command whose content is malformed is refused, as it still wants an answer.
"""

from collections.abc import Mapping
from typing import Any, Final

from agent.clock import WallNs
from agent.gbt32960.codec import GBT2016, GBT2025, unpack_time
from agent.gbt32960.envelope import PLAIN, Frame, request
from agent.gbt32960.layout import COMMAND, GbtError, Item
from agent.settings.gbt32960 import Gbt32960
from agent.uplink.gbt32960.rows import Row
from agent.uplink.gbt32960.session_types import (
    Answered,
    Command,
    Control,
    Event,
    Query,
    Result,
    SendReply,
    SetParameters,
)

_LOGIN: Final = 0x01
REALTIME: Final = 0x02
REISSUE: Final = 0x03
_LOGOUT: Final = 0x04
_HEARTBEAT: Final = 0x07
_TIME_SYNC: Final = 0x08
_QUERY: Final = 0x80
_SET: Final = 0x81
_CONTROL: Final = 0x82

_COMMANDS: Final[Mapping[int, Command]] = {
    _LOGIN: Command.LOGIN,
    REALTIME: Command.REALTIME,
    REISSUE: Command.REISSUE,
    _LOGOUT: Command.LOGOUT,
    _HEARTBEAT: Command.HEARTBEAT,
    _TIME_SYNC: Command.TIME_SYNC,
}
_OK: Final = 0x01
_ERROR: Final = 0x02
_RESULTS: Final = {
    _OK: Result.OK,
    _ERROR: Result.ERROR,
    0x03: Result.DUPLICATE_VIN,
}
_RESULTS_2025: Final = {
    **_RESULTS,
    0x04: Result.VIN_UNKNOWN,
    0x05: Result.SIGNATURE,
    0x06: Result.STRUCTURE,
    0x07: Result.DECRYPTION,
}
_NO_PARAMETER: Final = 0x00
_NO_CONTROL: Final = -1


class Words:
    """Frames of one vehicle.

    Raises:
        ConfigError: there can be no login by these settings.
    """

    def __init__(self, settings: Gbt32960) -> None:
        self._settings = settings
        self._newer = settings.edition == 2025
        self.codec = GBT2025 if self._newer else GBT2016

    # -- what is sent ------------------------------------------------------------------------

    def login(self, time: WallNs, serial: int, iccid: str) -> bytes:
        """0x01.

        Raises:
            GbtError: the codes of subsystems or packs cannot be sent.
        """
        settings = self._settings
        values: dict[str, Any] = {"time": time, "serial": serial, "iccid": iccid}
        if self._newer:
            values["pack_counts"] = [len(codes) for codes in settings.pack_codes]
            values["codes"] = [code for codes in settings.pack_codes for code in codes]
        else:
            codes = settings.subsystem_codes
            number = len(codes) or settings.subsystems
            values["subsystems"] = number
            values["code_length"] = len(codes[0]) if codes else 0
            if any(len(code) != len(codes[0]) for code in codes):
                raise GbtError("the codes of subsystems are not all of one length")
            values["codes"] = codes or [""] * number
        return self._request(_LOGIN, self.codec.encode(_LOGIN, values))

    def logout(self, time: WallNs, serial: int) -> bytes:
        body = self.codec.encode(_LOGOUT, {"time": time, "serial": serial})
        return self._request(_LOGOUT, body)

    def heartbeat(self) -> bytes:
        return self._request(_HEARTBEAT)

    def time_sync(self) -> bytes:
        return self._request(_TIME_SYNC)

    def report(self, command: int, row: Row) -> bytes:
        """A report, live (0x02) or not (0x03), in the edition in which it was made."""
        return request(row.codec, command, self._settings.vin, row.data).to_bytes()

    def reply(self, reply: SendReply) -> tuple[bytes, bool]:
        """The answer to a command, and whether it says that all is well."""
        if reply.ok and reply.command == _QUERY:
            known = self.codec.layout.parameters
            items = [
                # A parameter is one field, which has a name.
                Item(id_, {known[id_].fields[0].name: value})  # type: ignore[union-attr]
                for id_, value in reply.values
            ]
            values = {"time": reply.time, "parameters": items}
            try:
                body = self.codec.encode(_QUERY, values, _OK)
            except GbtError:
                return self._reply(reply, _ERROR), False  # such as a name without its length
            return Frame(self.codec, _QUERY, _OK, self._settings.vin, body).to_bytes(), True
        return self._reply(reply, _OK if reply.ok else _ERROR), reply.ok

    def _reply(self, reply: SendReply, ack: int) -> bytes:
        body = self.codec.encode(reply.command, {"time": reply.time}, ack)
        return Frame(self.codec, reply.command, ack, self._settings.vin, body).to_bytes()

    def _request(self, command: int, body: bytes = b"") -> bytes:
        return request(self.codec, command, self._settings.vin, body).to_bytes()

    # -- what is heard -----------------------------------------------------------------------

    def event(self, frame: Frame) -> tuple[Event | None, str]:
        """What a frame means to the session, and what is wrong with it; either may be nothing."""
        if frame.vin != self._settings.vin:
            return None, "of another vehicle"
        if frame.ack == COMMAND:
            return self._commanded(frame)
        command = _COMMANDS.get(frame.command)
        if command is None:
            return None, "an answer to nothing"
        results = _RESULTS_2025 if self._newer else _RESULTS
        result = results.get(frame.ack, Result.UNKNOWN)
        return Answered(command, result, _time(frame)), ""

    def _commanded(self, frame: Frame) -> tuple[Event | None, str]:
        if frame.command not in (_QUERY, _SET, _CONTROL) or frame.codec is not self.codec:
            return None, "a command that is none"
        time = _time(frame)
        if time is None:
            return None, "a command without a time"
        try:
            values = frame.decode()
        except GbtError as e:
            return _malformed(frame.command, time), str(e)
        match frame.command:
            case 0x80:
                return Query(time, tuple(values["ids"])), ""
            case 0x81:
                return SetParameters(time, tuple(map(_parameter, values["parameters"]))), ""
            case _:
                return Control(time, values["control"][0].type), ""


def _time(frame: Frame) -> WallNs | None:
    if frame.encryption != PLAIN or len(frame.body) < 6:
        return None
    try:
        return unpack_time(frame.body[:6])
    except GbtError:
        return None


def _malformed(command: int, time: WallNs) -> Event:
    """A command that can only be refused."""
    if command == _QUERY:
        return Query(time, (_NO_PARAMETER,))
    if command == _SET:
        return SetParameters(time, ((_NO_PARAMETER, None),))
    return Control(time, _NO_CONTROL)


def _parameter(item: Item) -> tuple[int, int | None]:
    value = next(iter(item.values.values()), None)
    return item.type, value if isinstance(value, int) else None
