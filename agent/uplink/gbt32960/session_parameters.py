"""What a platform asks for: parameters are shown and set within bounds, control is refused.

Parameters are those of the table of 0x80 and 0x81: a platform may change periods and time-outs
within the bounds of its edition, and nothing else. Where to connect is never its to say, and
neither is what becomes of this computer.

A platform that asks without end costs a count: only so many commands a minute are answered.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from agent.clock import SECOND, BootNs
from agent.uplink.gbt32960.session_settings import SessionSettings
from agent.uplink.gbt32960.session_types import (
    Action,
    Control,
    Edition,
    KeepParameters,
    Query,
    SendReply,
    SetParameters,
)

QUERY: Final = 0x80
SET: Final = 0x81
CONTROL: Final = 0x82

_MINUTE_NS: Final = 60 * SECOND

_STORAGE, _REPORT, _ALARM, _HEARTBEAT = 0x01, 0x02, 0x03, 0x09
_TERMINAL_TIMEOUT, _PLATFORM_TIMEOUT, _LOGIN_PAUSE, _MONITORING = 0x0A, 0x0B, 0x0C, 0x10

_BOUNDS_2016: Final[Mapping[int, tuple[int, int]]] = {
    _STORAGE: (0, 60_000),  # ms
    _REPORT: (1, 600),  # s
    _ALARM: (0, 60_000),  # ms
    _HEARTBEAT: (1, 240),  # s
    _TERMINAL_TIMEOUT: (1, 600),  # s
    _PLATFORM_TIMEOUT: (1, 600),  # s
    _LOGIN_PAUSE: (1, 240),  # min
    _MONITORING: (1, 2),  # yes, no
}
_BOUNDS: Final[Mapping[Edition, Mapping[int, tuple[int, int]]]] = {
    Edition.E2016: _BOUNDS_2016,
    # Both have become a BYTE of seconds.
    Edition.E2025: {**_BOUNDS_2016, _REPORT: (1, 30), _ALARM: (0, 1)},
}
_ALARM_PERIOD: Final = {Edition.E2016: 1000, Edition.E2025: 1}
"""A second, in the unit of the edition."""


class Parameters:
    """The present values of the parameters of 0x80 and 0x81.

    Storage period (0x01), terminal time-out (0x0A) and sampling monitoring (0x10) are kept and
    told, and change nothing here: every report is stored, and the platform is the one who waits
    for the terminal.

    `kept` are values that a platform set in an earlier run. What is out of bounds in them is left
    at its default: the device file may have changed the edition since.
    """

    def __init__(self, settings: SessionSettings, kept: Mapping[int, int] | None = None) -> None:
        self._settings = settings
        self._bounds = _BOUNDS[settings.edition]
        self._values = {
            _STORAGE: 10_000,
            _REPORT: settings.report_s,
            _ALARM: _ALARM_PERIOD[settings.edition],
            _HEARTBEAT: settings.heartbeat_s,
            _TERMINAL_TIMEOUT: 60,
            _PLATFORM_TIMEOUT: settings.answer_timeout_s,
            _LOGIN_PAUSE: settings.login_pause_min,
            _MONITORING: 2,
        }
        for id_, value in (kept or {}).items():
            if self._good(id_, value):
                self._values[id_] = value

    def change(self, values: Iterable[tuple[int, int | None]]) -> bool:
        """Set all of them or, if one is unknown, refused or out of bounds, none."""
        wanted = {}
        for id_, value in values:
            if value is None or not self._good(id_, value):
                return False
            wanted[id_] = value
        self._values.update(wanted)
        return True

    def raw(self) -> tuple[tuple[int, int], ...]:
        """Those that can be set, for keeping."""
        return tuple(sorted(self._values.items()))

    def answer(self, ids: Iterable[int]) -> tuple[tuple[int, int | str], ...] | None:
        """Present values for a query; None: an id that the table does not have."""
        settings = self._settings
        known: dict[int, int | str] = {
            **self._values,
            0x04: len(settings.domain.encode()),
            0x05: settings.domain,
            0x06: settings.port,
            0x07: settings.hardware_version,
            0x08: settings.firmware_version,
            # There is no second, public platform in this session.
            0x0D: 0,
            0x0E: "",
            0x0F: 0,
        }
        wanted = tuple(ids)
        if any(id_ not in known for id_ in wanted):
            return None
        return tuple((id_, known[id_]) for id_ in wanted)

    def _good(self, id_: int, value: int | None) -> bool:
        low, high = self._bounds.get(id_, (1, 0))
        return value is not None and low <= value <= high

    @property
    def report_ms(self) -> int:
        """Between two reports, never above the standard's 30 s."""
        return 1000 * min(self._values[_REPORT], self._settings.longest_period_s)

    @property
    def heartbeat_s(self) -> int:
        return self._values[_HEARTBEAT]

    @property
    def answer_timeout_s(self) -> int:
        return self._values[_PLATFORM_TIMEOUT]

    @property
    def login_pause_s(self) -> int:
        return self._values[_LOGIN_PAUSE] * 60


class CommandDesk:
    """Answers down-commands of one platform, and counts them."""

    def __init__(
        self, settings: SessionSettings, parameters: Parameters, counts: Counter[str]
    ) -> None:
        self._most = settings.commands_per_minute
        self._parameters = parameters
        self._counts = counts
        self._minute = -_MINUTE_NS
        self._answered = 0

    def answer(self, event: Query | SetParameters | Control, now: BootNs) -> list[Action]:
        """What a command leads to; nothing but a count where there were too many."""
        if isinstance(event, Control):
            self._counts["controls_refused"] += 1
        if now - self._minute >= _MINUTE_NS:
            self._minute, self._answered = now, 0
        if self._answered >= self._most:
            self._counts["commands_over_limit"] += 1
            return []
        self._answered += 1
        match event:
            case Query():
                return [self._query(event)]
            case SetParameters():
                return self._set(event)
            case Control():
                # Who may stop, reset or upgrade this computer is not for a report link to say.
                return [SendReply(CONTROL, event.time, ok=False)]

    def _query(self, event: Query) -> SendReply:
        values = self._parameters.answer(event.ids)
        if values is None:
            self._counts["queries_refused"] += 1
            return SendReply(QUERY, event.time, ok=False)
        self._counts["queries"] += 1
        return SendReply(QUERY, event.time, ok=True, values=values)

    def _set(self, event: SetParameters) -> list[Action]:
        before = self._parameters.raw()
        if not self._parameters.change(event.values):
            self._counts["settings_refused"] += 1
            return [SendReply(SET, event.time, ok=False)]
        self._counts["settings"] += 1
        reply = SendReply(SET, event.time, ok=True)
        after = self._parameters.raw()
        return [reply] if after == before else [KeepParameters(after), reply]
