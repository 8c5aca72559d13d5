"""The settings of a session.

Where two sources of the standard disagree, both readings can be set.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Final, Self

from agent.errors import ConfigError
from agent.settings.gbt32960 import Gbt32960
from agent.uplink.gbt32960.session_types import Edition

_BEFORE_CONNECTING_S: Final = 40
"""Who sent junk is left alone for a while before."""
LOGIN_RETRY_S: Final[Mapping[Edition, int]] = {Edition.E2016: 60, Edition.E2025: 180}
"""How long a login may be without an answer, where the device file does not say it."""


@dataclasses.dataclass(frozen=True, slots=True)
class SessionSettings:
    """How a session behaves; `from_device` makes it of what was written.

    Raises:
        ConfigError: a value is out of its range.
    """

    edition: Edition = Edition.E2016
    report_s: int = 10
    """Default of parameter 0x02."""
    heartbeat_s: int = 60
    """Default of parameter 0x09."""
    answer_timeout_s: int = 60
    """Default of parameter 0x0B: how long the platform may take for an answer."""
    login_pause_min: int = 30
    """Default of parameter 0x0C: the wait after `login_tries`."""
    login_retry_s: int = 60
    """Conflict in the 2016 text: 1 min, and 3 min in a second sentence; 2025 says 3 min."""
    login_tries: int = 3
    longest_period_s: int = 30
    """A report at least so often, though parameter 0x02 of 2016 may be up to 600 s."""
    report_retry_s: int = 60
    """A report that was refused goes out again after this."""
    report_tries: int = 3
    """A report that was refused so often is given up."""
    refused_close_s: int = 600
    """The link is dropped with a report that is given up, but at most once in this time."""
    broken_tries: int = 8
    """A reissue at which the link broke so often is given up (session_window.py)."""
    reissue_days: float = 7
    """Conflict: 3 days in one reading of 2016, 7 days in another and in 2025."""
    reissue_gap_ms: int = 100
    """Silence before a reissue, so that live reports go first."""
    reissue_window: int = 128
    """So many reissues wait for a heartbeat answer at most."""
    fetch: int = 32
    """So many stored reports are lent at once."""
    most_unconfirmed: int = 1024
    """So many reports that went out are remembered; then live ones are left to the store."""
    heartbeats_answered: bool = True
    """False for a platform that answers none: what went out counts as confirmed when the link has
    stood for the answer's time-out."""
    time_sync: bool = True
    """Whether the platform is asked for the time while the clock is bad."""
    time_sync_retry_s: int = 60
    time_sync_period_s: int = 3600
    """While the clock stays bad though the platform told the time."""
    connect_timeout_s: int = 60
    """How long a connection may take to be there."""
    reconnect_s: int = 1
    """First step of the back-off after a lost connection; it doubles."""
    reconnect_most_s: int = 60
    commands_per_minute: int = 60
    """More down-commands than this are counted and not answered."""
    hardware_version: str = ""
    firmware_version: str = ""
    domain: str = ""
    port: int = 0

    @classmethod
    def from_device(
        cls,
        written: Gbt32960,
        *,
        domain: str = "",
        port: int = 0,
        connect_timeout_s: float = 0.0,
        hardware_version: str = "",
        firmware_version: str = "",
    ) -> Self:
        """What the device file says; the rest is only told to a platform that asks.

        Raises:
            ConfigError: a value is out of its range.
        """
        edition = Edition(written.edition)
        return cls(
            edition=edition,
            report_s=written.report_s,
            heartbeat_s=written.heartbeat_s,
            answer_timeout_s=written.answer_timeout_s,
            login_pause_min=written.login_pause_min,
            login_retry_s=written.login_retry_s or LOGIN_RETRY_S[edition],
            reissue_days=written.reissue_days,
            reissue_gap_ms=min(60_000, max(1, round(1000 / written.reissue_per_s))),
            time_sync=written.time_sync,
            heartbeats_answered=written.heartbeats_answered,
            domain=domain,
            port=port,
            connect_timeout_s=max(60, math.ceil(connect_timeout_s) + _BEFORE_CONNECTING_S),
            hardware_version=hardware_version,
            firmware_version=firmware_version,
        )

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"gbt32960: {name} = {value} is not within {low} to {high}")
        if self.reissue_window > self.most_unconfirmed // 2:
            raise ConfigError("gbt32960: reissue_window is over half of most_unconfirmed")


_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "report_s": (1, 30),
    "heartbeat_s": (1, 240),
    "answer_timeout_s": (1, 600),
    "login_pause_min": (1, 240),
    "login_retry_s": (1, 3600),
    "login_tries": (1, 100),
    "longest_period_s": (1, 600),
    "report_retry_s": (1, 3600),
    "report_tries": (1, 100),
    "refused_close_s": (0, 86_400),
    "broken_tries": (1, 1000),
    "reissue_days": (0, 366),
    "reissue_gap_ms": (1, 60_000),
    "reissue_window": (1, 65_536),
    "fetch": (1, 4096),
    "most_unconfirmed": (2, 131_072),
    "time_sync_retry_s": (1, 86_400),
    "time_sync_period_s": (1, 86_400),
    "connect_timeout_s": (1, 3600),
    "reconnect_s": (1, 3600),
    "reconnect_most_s": (1, 3600),
    "commands_per_minute": (1, 6000),
    "port": (0, 65_535),
}
