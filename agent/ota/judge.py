"""Does a plan that was just switched to do well? Pure: readings go in, a verdict comes out.

A reading comes about once a second, also before the switch. Harm is told as soon as it is clear,
and that all is well when the trial is over. A trial is harmful when

    frames     a bus decodes less than half of the share that it should: of what it decoded before,
               or of what the rehearsal of this plan made of its frames if that was less;
               nothing that the rehearsal met comes any more, though the bus is alive;
               nothing was offered to any campaign in the whole trial, though frames came
    ledger     it does not close
    spool      it is in trouble, loses samples to the disk, or gives up what was not sent
    cost       CPU or memory over the limit
    events     more in a minute than the limit
    uploads    the receiver refuses batches; or the plan lets nothing be sent any more

and none of it was so before: what the plan before did as well is not this one's fault. It is to be
allowed to want less: frames that are in its database count, whether it wants them or not, and
samples that it was offered, whether it kept them or not. A trigger that waits keeps nothing, too.

What did not happen cannot be judged: on a silent bus nothing is decoded, and nothing is uploaded
while there is no link. That is not harmful, and `Verdict.unjudged` says it.

A process that starts in the middle of a trial has no readings from before it. It judges what can be
judged alone: a plan that decodes nothing at all of many frames, the ledger, the cost, the uploads.
Not what is given up by a full spool: that may have been so for days.

Levels that waver (trouble, memory) count when three readings in a row say the same. Time during
which nobody looked, such as that of a suspended computer, is not time of the trial.
"""

import collections
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from agent.clock import SECOND, BootNs
from agent.ledger import Counts, differences

IN_A_ROW: Final = 3
"""A ledger is read in one moment and closes in each; a disk error or a peak of memory may pass."""
HALF: Final = 0.5
"""Messages come and go with what a vehicle does; that half of them go is another database."""
LEAST_FRAMES: Final = 100
"""So many should have been decoded before a share is one: chance does not take half of them."""
LEAST_BEFORE: Final = 10
"""So few decoded frames before the switch tell no share."""
LEAST_ALONE: Final = 1000
"""Frames of which one must be decoded where nothing is known of before: a second of a busy bus."""
ALIVE_NS: Final = 30 * SECOND
"""What came in the ten seconds of a rehearsal comes again in three times as many."""
SETTLE_NS: Final = 5 * SECOND
"""Messages are compiled when they are first met, and the plan before is let go of, within this."""
MEAN_NS: Final = 10 * SECOND
"""CPU is a mean over so long: compressing a backlog takes seconds, and does no harm."""
MINUTE_NS: Final = 60 * SECOND
MARGIN: Final = 1.25
"""What was over a limit before may vary by so much: it was measured for some seconds only."""
LEAST_SPAN_NS: Final = 3 * SECOND
"""The readings before the switch tell a rate where they span so long."""
MOST_GAP_NS: Final = 5 * SECOND
"""Of a longer time between two readings only this counts for the trial: nobody looked."""
SILENT: Final = "no frames came: decoding could not be judged"


@dataclass(frozen=True)
class Reading:
    """What the agent says of itself at one moment; counts are totals of this process.

    Attributes:
        at: when.
        decoded: frames by bus.
        not_decoded: the same of frames that are in no database, or undecodable.
        kept: samples of all campaigns, as the next two.
        offered: to a campaign.
        events: triggers that fired.
        lost_disk: samples of all uplinks, as the next three.
        evicted: given up before they were sent, because the spool is full.
        acknowledged: the receiver has them.
        quarantined: the receiver refused them.
        differences: the sums of the ledger that do not close.
        spool_trouble: what the disk does wrong now; empty when all is well.
        sending_stopped: why nothing can be sent any more; empty unless that is the plan's doing.
        online: whether a receiver was heard of lately.
        cpu_s: of the process, all threads.
        memory_bytes: resident.
        on_bus: frames that an interface received, also those that filters hide; where it is known.
    """

    at: BootNs
    decoded: Mapping[str, int]
    not_decoded: Mapping[str, int]
    kept: int
    offered: int
    events: int
    lost_disk: int
    evicted: int
    acknowledged: int
    quarantined: int
    differences: tuple[str, ...]
    spool_trouble: str
    sending_stopped: str
    online: bool
    cpu_s: float
    memory_bytes: int
    on_bus: Mapping[str, int] = field(default_factory=dict)

    @property
    def buses(self) -> set[str]:
        return {*self.decoded, *self.not_decoded}

    def frames(self, bus: str) -> int:
        return self.decoded.get(bus, 0) + self.not_decoded.get(bus, 0)


def reading_of(
    at: BootNs,
    counts: Counts,
    *,
    spool_trouble: str,
    sending_stopped: str,
    online: bool,
    cpu_s: float,
    memory_bytes: int,
    on_bus: Mapping[str, int] | None = None,
) -> Reading:
    """A reading of a snapshot of the ledger, and of what else there is to read."""

    def total(account: str, counter: str) -> int:
        return sum(row.get(counter, 0) for row in counts.get(account, {}).values())

    buses = counts.get("bus", {})
    return Reading(
        at,
        {bus: row.get("decoded", 0) for bus, row in buses.items()},
        {bus: row.get("unknown", 0) + row.get("undecodable", 0) for bus, row in buses.items()},
        kept=total("campaign", "kept"),
        offered=total("campaign", "offered"),
        events=total("campaign", "events"),
        lost_disk=total("uplink", "lost_disk"),
        evicted=total("uplink", "evicted"),
        acknowledged=total("uplink", "acknowledged"),
        quarantined=total("uplink", "quarantined"),
        differences=tuple(differences(counts)),
        spool_trouble=spool_trouble,
        sending_stopped=sending_stopped,
        online=online,
        cpu_s=cpu_s,
        memory_bytes=memory_bytes,
        on_bus=on_bus or {},
    )


@dataclass(frozen=True)
class Limits:
    """What a trial takes, and must not cost; as `agent.settings.Ota` says it."""

    trial_s: float
    max_cpu_percent: float
    """Of one core."""
    max_memory_mb: int
    max_events_per_minute: int


@dataclass(frozen=True)
class Verdict:
    """How a trial ended."""

    good: bool
    why: str
    """A sentence with figures."""
    unjudged: tuple[str, ...] = ()
    """What there was no occasion to judge; `why` says it, too."""


class _Before:
    """What the plan before did, as far as its readings tell."""

    def __init__(self, readings: Sequence[Reading]) -> None:
        self.last = last = readings[-1] if readings else None
        self.decoded: dict[str, int] = {}
        self.share: dict[str, float] = {}
        """Of the frames of a bus, where enough were decoded."""
        self.seen: set[str] = set()
        """Buses that had frames."""
        self.cpu_percent = self.events_a_minute = 0.0
        self.memory_bytes = max((r.memory_bytes for r in readings), default=0)
        self.kept = self.quarantined = 0
        self.trouble = any(r.spool_trouble for r in readings)
        self.stopped = any(r.sending_stopped for r in readings)
        if last is None:
            return
        first = readings[0]
        self.kept = last.kept - first.kept
        self.quarantined = last.quarantined - first.quarantined
        for bus in last.buses:
            decoded = _grown(last.decoded, first.decoded, bus)
            frames = last.frames(bus) - first.frames(bus)
            if frames > 0:
                self.seen.add(bus)
            if decoded >= LEAST_BEFORE and frames > 0:
                self.decoded[bus], self.share[bus] = decoded, decoded / frames
        span = last.at - first.at
        if span >= LEAST_SPAN_NS:
            self.cpu_percent = _percent(last, first)
            self.events_a_minute = (last.events - first.events) * MINUTE_NS / span


class Judge:
    """Follows one trial."""

    def __init__(
        self,
        limits: Limits,
        before: Sequence[Reading] = (),
        *,
        expected: Mapping[str, float] | None = None,
    ) -> None:
        """`before` are readings of this process with the plan before, in order of time.

        `expected` is bus -> share of its frames, 0 to 1, that the new plan should decode, as
        `agent.rehearsal` finds it; nothing is asked of other buses then. None: that is not known.
        """
        self._limits = limits
        self._before = _Before(before)
        self._expected = expected
        self._trial_ns = round(limits.trial_s * SECOND)
        self._watched_ns = 0
        self._base: Reading | None = None
        self._recent: collections.deque[Reading] = collections.deque()
        """Of the last minute, and one before it."""
        self._streaks: collections.Counter[str] = collections.Counter()
        self._online = False
        self._cpu_judged = False
        self._verdict: Verdict | None = None

    def look(self, reading: Reading) -> Verdict | None:
        """Take the next reading; None while the trial goes on. A verdict stays."""
        if self._verdict is not None:
            return self._verdict
        if self._base is None:
            self._base = reading
        elif reading.at <= self._recent[-1].at:
            return None
        else:
            self._watched_ns += min(reading.at - self._recent[-1].at, MOST_GAP_NS)
        self._recent.append(reading)
        while len(self._recent) > 2 and self._recent[1].at <= reading.at - MINUTE_NS:
            self._recent.popleft()
        self._online = self._online or reading.online
        harms = list(self._harms(self._base, reading))
        over = self._watched_ns >= self._trial_ns and not any(self._streaks.values())
        if over and not harms:
            harms = list(self._at_end(self._base, reading))
        if harms:
            self._verdict = Verdict(good=False, why="; ".join(harms))
        elif over:
            self._verdict = self._good(self._base, reading)
        return self._verdict

    def _harms(self, base: Reading, now: Reading) -> Iterator[str]:
        """Each is looked at every time: what must be so several times in a row is counted."""
        yield from self._frames(base, now)
        yield from self._ledger(now)
        yield from self._spool(base, now)
        yield from self._cost(base, now)
        yield from self._events(now)
        yield from self._uploads(base, now)

    def _again(self, what: str, *, holds: bool) -> bool:
        self._streaks[what] = self._streaks[what] + 1 if holds else 0
        return self._streaks[what] >= IN_A_ROW

    # -- frames ------------------------------------------------------------------------------

    def _share(self, bus: str) -> float:
        """Of the frames of a bus, how many should be decoded; 0 where nothing is asked."""
        before = self._before.share.get(bus, 0.0)
        if self._expected is None:
            return before
        return min(before, self._expected.get(bus, 0.0))

    def _frames(self, base: Reading, now: Reading) -> Iterator[str]:
        if self._watched_ns < SETTLE_NS:
            return
        for bus in sorted(self._before.decoded):
            share = self._share(bus)
            decoded = _grown(now.decoded, base.decoded, bus)
            frames = now.frames(bus) - base.frames(bus)
            if share * frames >= LEAST_FRAMES and decoded < HALF * share * frames:
                yield (
                    f"bus {bus}: {decoded:,} of {frames:,} frames are decoded "
                    f"({decoded / frames:.0%}), where it should be {share:.0%}"
                )
            on_bus = _grown(now.on_bus, base.on_bus, bus)
            known = self._expected is not None and share > 0 and frames == 0
            if known and on_bus >= LEAST_FRAMES and self._watched_ns >= ALIVE_NS:
                yield (
                    f"bus {bus}: none of {on_bus:,} frames on it passes the filters of the plan, "
                    f"which met {share:.0%} of them in the rehearsal"
                )

    def _at_end(self, base: Reading, now: Reading) -> Iterator[str]:
        """What may still come as long as the trial goes on: buses do not wake all at once."""
        yield from self._alone(base, now)
        yield from self._nothing_offered(base, now)

    def _alone(self, base: Reading, now: Reading) -> Iterator[str]:
        """Buses of which nothing is known from before, together."""
        expected = self._expected
        buses = [
            bus
            for bus in now.buses
            if bus not in self._before.seen and (expected is None or expected.get(bus, 0.0) > 0)
        ]
        frames = sum(now.frames(bus) - base.frames(bus) for bus in buses)
        if frames >= LEAST_ALONE and not any(_grown(now.decoded, base.decoded, b) for b in buses):
            yield f"none of {frames:,} frames is decoded"

    def _nothing_offered(self, base: Reading, now: Reading) -> Iterator[str]:
        frames = sum(now.frames(bus) - base.frames(bus) for bus in now.buses)
        frames = max(frames, sum(_grown(now.on_bus, base.on_bus, bus) for bus in now.on_bus))
        nothing = now.kept <= base.kept and now.offered <= base.offered
        if self._before.kept > 0 and frames >= LEAST_FRAMES and nothing:
            yield f"nothing is collected of {frames:,} frames"

    # -- the ledger and the spool ------------------------------------------------------------

    def _ledger(self, now: Reading) -> Iterator[str]:
        before = self._before.last
        if before is not None and before.differences:
            return  # what does not close once never does again
        if self._again("ledger", holds=bool(now.differences)):
            yield f"the ledger does not close: {now.differences[0]}"

    def _spool(self, base: Reading, now: Reading) -> Iterator[str]:
        before = self._before.last
        reference = before or base
        known = self._before.trouble if before else bool(base.spool_trouble)
        if self._again("spool", holds=bool(now.spool_trouble) and not known):
            yield now.spool_trouble
        if reference.lost_disk == 0 and now.lost_disk > 0:
            yield f"{now.lost_disk:,} samples were lost, because the disk did not take them"
        if before is not None and before.evicted == 0 and now.evicted > 0:
            yield f"the spool is full: {now.evicted:,} samples were given up before they were sent"

    # -- what it costs -----------------------------------------------------------------------

    def _cost(self, base: Reading, now: Reading) -> Iterator[str]:
        settled = base.at + SETTLE_NS
        if now.at < settled:
            return
        limit = max(self._limits.max_cpu_percent, MARGIN * self._before.cpu_percent)
        of = [r for r in self._recent if settled <= r.at <= now.at - MEAN_NS]
        if of:
            self._cpu_judged = True
            percent = _percent(now, of[-1])
            if percent > limit:
                seconds = (now.at - of[-1].at) / SECOND
                yield (
                    f"it takes {percent:.0f} % of a core over {seconds:.0f} s, and the limit is "
                    f"{limit:.0f} %"
                )
        most = max(self._limits.max_memory_mb << 20, MARGIN * self._before.memory_bytes)
        if self._again("memory", holds=now.memory_bytes > most):
            yield (
                f"it takes {now.memory_bytes >> 20:,} MB of memory, and the limit is "
                f"{int(most) >> 20:,} MB"
            )

    def _events(self, now: Reading) -> Iterator[str]:
        a_minute = self._events_a_minute(now)
        limit = max(self._limits.max_events_per_minute, MARGIN * self._before.events_a_minute)
        if a_minute > limit:
            yield f"{a_minute:.0f} events in a minute, and the limit is {limit:.0f}"

    def _events_a_minute(self, now: Reading) -> float:
        """Of the last minute; what came in less is at least so much in a whole one."""
        earlier = [r for r in self._recent if r.at <= now.at - MINUTE_NS] or [self._recent[0]]
        span = max(MINUTE_NS, now.at - earlier[-1].at)
        return (now.events - earlier[-1].events) * MINUTE_NS / span

    # -- uploads -----------------------------------------------------------------------------

    def _uploads(self, base: Reading, now: Reading) -> Iterator[str]:
        refused = now.quarantined - (self._before.last or base).quarantined
        if self._before.quarantined <= 0 and refused > 0:
            yield f"the receiver refuses batches: {refused:,} samples are in quarantine"
        stopped = bool(now.sending_stopped) and not self._before.stopped
        if self._again("sending", holds=stopped):
            yield f"nothing is sent any more: {now.sending_stopped}"

    # -- the end -----------------------------------------------------------------------------

    def _good(self, base: Reading, now: Reading) -> Verdict:
        unjudged = tuple(self._unjudged(base, now))
        decoded = sum(_grown(now.decoded, base.decoded, bus) for bus in now.decoded)
        frames = sum(now.frames(bus) - base.frames(bus) for bus in now.buses)
        span = max(now.at - base.at, 1)
        told = (
            f"{decoded:,} of {frames:,} frames decoded",
            f"{now.kept - base.kept:,} samples kept",
            f"{now.events - base.events:,} events",
            f"{now.acknowledged - base.acknowledged:,} samples acknowledged",
            f"{100 * (now.cpu_s - base.cpu_s) * SECOND / span:.0f} % of a core",
            f"{now.memory_bytes >> 20:,} MB",
        )
        well = f"well for {self._watched_ns / SECOND:.0f} s: {', '.join(told)}"
        return Verdict(good=True, why="; ".join([well, *unjudged]), unjudged=unjudged)

    def _unjudged(self, base: Reading, now: Reading) -> Iterator[str]:
        counts = {bus: now.frames(bus) - base.frames(bus) for bus in now.buses}
        if counts and not any(counts.values()):
            yield SILENT
        else:
            for bus in sorted(self._before.decoded):
                frames, share = counts.get(bus, 0), self._share(bus)
                if share > 0 and share * frames < LEAST_FRAMES:
                    came = f"had {frames:,} frames only" if frames else "was silent"
                    yield f"bus {bus} {came}: decoding could not be judged"
        if not self._cpu_judged:
            yield "the trial was too short to judge the CPU"
        if not self._online:
            yield "offline: uploading could not be judged"
        elif now.acknowledged <= base.acknowledged:
            yield "nothing was acknowledged: uploading could not be judged"


def _grown(now: Mapping[str, int], base: Mapping[str, int], key: str) -> int:
    return now.get(key, 0) - base.get(key, 0)


def _percent(now: Reading, earlier: Reading) -> float:
    """Of one core, the mean between two readings."""
    return 100 * (now.cpu_s - earlier.cpu_s) * SECOND / max(now.at - earlier.at, 1)
