"""What has to go: too old, over the quota, or in the way of the free-space floor.

The quota is for all that lies in the spool sealed: what waits (a batch that waits for two uplinks
counts for both), what was sent and is kept, and quarantine. Sent batches go first, then quarantine,
then the oldest batch of the least important lane of the uplink that is furthest over its share; a
tombstone says so in a coming batch.
"""

import logging
from collections.abc import Mapping

from agent.clock import SECOND
from agent.ledger import Ledger
from agent.settings import Spool
from agent.spool.ages import Ages
from agent.spool.folder import SpoolFolder
from agent.spool.outbox import FolderOutbox
from agent.spool.parcel import Parcel
from agent.spool.recovery import made
from agent.spool.shelf import Kept, Shelf

log = logging.getLogger("edge_agent.spool")

_LOOK_NS = 60 * SECOND
"""How often ages are looked at."""
_HOUR_NS = 3600 * SECOND
_QUIET_NS = 600 * SECOND
"""Evicting is said again after so long without it."""


class Keeper:
    """Keeps a spool within its bounds; belongs to the spool's thread."""

    def __init__(
        self,
        folder: SpoolFolder,
        settings: Spool,
        outboxes: Mapping[str, FolderOutbox],
        shares: Mapping[str, float],
        *,
        sent: Shelf,
        quarantine: Shelf,
        ages: Ages,
        ledger: Ledger,
    ) -> None:
        """`shares` are weights by uplink; one that is not named has the weight 1."""
        self._folder = folder
        self._quota = settings.quota_mb << 20
        self._floor = settings.free_floor_mb << 20
        self._max_age_ns = round(settings.max_age_days * 86_400 * SECOND)
        self._keep_sent_ns = round(settings.keep_sent_hours * _HOUR_NS)
        self._outboxes = outboxes
        self._shares = shares
        self._sent = sent
        self._quarantine = quarantine
        self._ages = ages
        self._ledger = ledger
        self._look_at: int | None = None
        self._quiet_until = -1

    def remove_old(self) -> None:
        """Give up what is too old, remove what was kept long enough.

        Raises:
            OSError: as the disk does.
        """
        now = self._ages.uptime()
        if self._look_at is not None and now < self._look_at:
            return
        for uplink, outbox in self._outboxes.items():
            for kept in self._sent.of(uplink):
                if not self._keep_sent_ns or self._kept_ns(kept, now) > self._keep_sent_ns:
                    self._sent.remove(uplink, kept)
            for parcel in outbox.all() if self._max_age_ns else ():
                if self._ages.age_ns(parcel.born) > self._max_age_ns:
                    self._give_up(outbox, "too old", parcel)
        self._look_at = now + _LOOK_NS

    def _kept_ns(self, kept: Kept, now: int) -> int:
        """How long it is kept; of what an earlier run sent, how old it is."""
        if kept.since is not None:
            return now - kept.since
        return self._ages.age_ns(made(self._folder.fs, kept.path))

    def keep_within(self, *, full: bool) -> None:
        """Evict what is too much; `full`: the disk takes nothing, whatever it says of free space.

        For the free space only as much as is lacking goes, then the disk is asked again in the
        next round: some file systems give space back late, and a batch that is being sent keeps
        its.

        Raises:
            OSError: as the disk does.
        """
        free = self._folder.fs.free_bytes(self._folder.root)
        lacking = max(self._floor - free, int(full))
        while True:
            waiting = {name: box.waiting()[1] for name, box in self._outboxes.items()}
            shelves = [*self._sent.totals().values(), *self._quarantine.totals().values()]
            over = sum(waiting.values()) + sum(size for _, size in shelves) > self._quota
            if not (over or lacking > 0):
                return
            gone = self._sent.remove_oldest() or self._quarantine.remove_oldest()
            if not gone:
                furthest = max(
                    waiting, key=lambda name: waiting[name] / self._shares.get(name, 1), default=""
                )
                reason = "evicted: " + ("quota" if over else "free space")
                outbox = self._outboxes.get(furthest)
                victim = self._give_up(outbox, reason) if outbox else None
                if victim is None:
                    return
                self._say(furthest, victim, reason)
                gone = victim.size
            lacking -= gone

    def _say(self, uplink: str, victim: Parcel, reason: str) -> None:
        now = self._ages.uptime()
        if now > self._quiet_until:
            log.warning(
                "the spool is full (%s): the oldest batches go, first %s of uplink %s",
                reason.removeprefix("evicted: "),
                victim.batch_id,
                uplink,
            )
        self._quiet_until = now + _QUIET_NS

    def _give_up(
        self, outbox: FolderOutbox, reason: str, parcel: Parcel | None = None
    ) -> Parcel | None:
        victim = outbox.evict(reason, parcel)
        if victim is not None:
            n = victim.samples
            self._ledger.add("uplink", outbox.uplink, waiting=-n, evicted=n)
        return victim
