"""Platforms that get reports: their senders, and how often each wants to hear.

What the decode thread makes goes to the spool first, and is then offered to the sender of its
platform, which may send it at once. Who makes reports and who sends them share a `Tuning`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.blocks import Kept, Reports
from agent.clock import SECOND, Clock
from agent.collect.collector import Destination
from agent.ledger import Ledger
from agent.settings import Device, Gbt32960, Uplink
from agent.spool.store import SpoolStore

if TYPE_CHECKING:
    from agent.collect.reports.tuning import Tuning
    from agent.uplink.gbt32960.link import PlatformSender

# ruff: noqa: PLC0415 - few devices have a platform

_SEAL_NS: Final = 5 * SECOND
"""Sealing for the sake of a platform is not done more often."""


class Platforms:
    """Of one device."""

    def __init__(self, device: Device, store: SpoolStore, ledger: Ledger, clock: Clock) -> None:
        self._device = device
        self._store = store
        self._ledger = ledger
        self._clock = clock
        self._senders: dict[str, PlatformSender] = {}
        self._sealed = self._clock.boot()
        self.tunings = {name: _tuning(settings) for name, settings in device.platforms.items()}

    def sender(self, uplink: Uplink) -> "PlatformSender":
        """The sender of an uplink that is a platform.

        Raises:
            ConfigError: its address or its credentials cannot be.
        """
        from agent.uplink.gbt32960.link import PlatformSender

        made = self._senders[uplink.name] = PlatformSender(
            uplink,
            self._store.outboxes[uplink.name],
            self._ledger,
            self._clock,
            tuning=self.tunings[uplink.name],
            state_dir=Path(self._device.state_dir),
            seal=self._store.seal_now,
            anchor=self._store.anchor,
        )
        return made

    def offer(self, kept: Mapping[Destination, Sequence[Kept]]) -> None:
        """Reports that the spool has, to those who may send them at once. From any thread.

        What may not, such as the time before an alarm, has to be sealed to be sent: that is soon.
        """
        if not self._senders:
            return
        later = False
        for where, rows in kept.items():
            for reports in rows:
                if isinstance(reports, Reports):
                    self._senders[where.uplinks[0]].offer(reports)
                    later |= not reports.live and len(reports) > 0 and reports.clock == "boot"
        now = self._clock.boot()
        if later and now - self._sealed >= _SEAL_NS:
            self._sealed = now
            self._store.seal_now()


def _tuning(settings: Gbt32960) -> "Tuning":
    from agent.collect.reports.tuning import Tuning

    newer = settings.edition == 2025
    until_end = settings.alarm_until_end
    return Tuning(
        edition=settings.edition,
        report_s=settings.report_s,
        alarm_after_s=settings.alarm_after_s,
        alarm_until_end=newer if until_end is None else until_end,
        off_watch_s=3600.0 if newer else 180.0,
    )
