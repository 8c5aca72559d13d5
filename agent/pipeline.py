"""What the decode thread does with each block: decode it, watch it, collect from it, hand it on.

    frames ──▶ decoder ──▶ health ──▶ collector ──▶ keep (the spool)
    tables ─────────────────────────────┘

One plan is at work at a time. Another one is compiled beside it, in any thread (`prepare`), and
takes its place between two blocks (`switch`): what both want is neither lost nor doubled, because
each block is wholly the one's or wholly the other's, and the state of equal campaigns moves over.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from agent import __version__
from agent.blocks import Event, FrameBlock, Kept, SignalTable, TimeBase
from agent.clock import Clock
from agent.collect import Collector, Plan
from agent.collect.collector import Destination
from agent.ledger import Ledger
from agent.recent import RecentFrames
from agent.settings import Lane
from agent.signals import Decoder
from agent.signals.database import ANY_BUS, SignalPath
from agent.signals.filters import kernel_filters
from agent.signals.health import DatabaseHealth, counters
from agent.signals.recognition import Recognition
from agent.signals.vss import Labels
from agent.spool.positions import Positions

if TYPE_CHECKING:
    from agent.collect.reports.tuning import Tuning

log = logging.getLogger("edge_agent")

_REPORTS: Lane = "report"
_FINDINGS = 50
"""In database files; of so many the status tells the words."""

Keep = Callable[[Mapping[Destination, Sequence[Kept]], Positions | None], None]


class Note(Protocol):
    """Looks at what was decoded, such as for the signal of the key."""

    def __call__(self, tables: Iterable[SignalTable], /) -> None: ...


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A plan that is compiled, and not at work."""

    plan: Plan
    wanted: set[SignalPath]
    """What must be read; counters are watched where they come."""
    decoder: Decoder
    collector: Collector
    health: DatabaseHealth
    recognition: Recognition
    labels: Labels
    reports: Destination
    """Where the agent's own reports go."""
    bundle: str = ""
    """What the bundle is called that the plan came with; empty is the factory plan."""

    @property
    def destinations(self) -> list[Destination]:
        return list(dict.fromkeys([*self.collector.destinations, self.reports]))

    def filters(self, bus: str) -> list[tuple[int, int]] | None:
        """What of a bus must be read, as filters of the kernel; None for everything."""
        if self.plan.raw_buses & {bus, ANY_BUS}:
            return None
        return kernel_filters(self.plan.database, bus, self.wanted)


def prepare(
    plan: Plan,
    ledger: Ledger,
    *,
    vehicle: str = "",
    secret: bytes = b"",
    boot_id: str = "",
    tunings: "Mapping[str, Tuning] | None" = None,
    also: Iterable[SignalPath] = (),
    bundle: str = "",
) -> Prepared:
    """Compile what a plan needs; `also` are signals that others than the plan want.

    `tunings` say how often platforms want reports.

    Raises:
        ConfigError: the plan says what cannot be.
    """
    wanted = plan.wanted | set(also)
    watched = counters(plan.database, plan.written.health)
    collector = Collector(
        plan, ledger, vehicle=vehicle, secret=secret, boot_id=boot_id, tunings=tunings
    )
    uplinks = sorted({name for campaign in plan.campaigns for name in campaign.uplinks})
    decoder = Decoder.of_paths(plan.database, wanted | watched)
    files: dict[str, Sequence[str]] = {
        each.bus: [Path(name).name for name in each.files] for each in plan.written.database
    }
    return Prepared(
        plan,
        wanted,
        decoder,
        collector,
        DatabaseHealth(decoder, plan.written.health),
        Recognition(plan.written.recognise, decoder, files),
        Labels(plan.database),
        Destination(_REPORTS, tuple(uplinks)),
        bundle,
    )


def headers(prepared: Prepared, more: Mapping[str, Any] | None = None) -> dict[str, dict[str, Any]]:
    """What the header of a batch says of the plan, by privacy profile; "" is none."""
    plain = {"plan": prepared.plan.name, "agent": __version__, **(more or {})}
    if prepared.bundle:
        plain["bundle"] = prepared.bundle
    profiles = {
        name: {**plain, "vehicle": profile.pseudonym, "privacy": profile.statement()}
        for name, profile in prepared.collector.profiles.items()
    }
    return {"": plain, **profiles}


class Pipeline:
    """Belongs to the decode thread; `plan` and `status` may be read by any."""

    def __init__(
        self,
        prepared: Prepared,
        ledger: Ledger,
        clock: Clock,
        keep: Keep,
        note: Note = lambda _tables: None,
        *,
        recent: RecentFrames | None = None,
    ) -> None:
        """`keep` takes what is kept of a block, and how far recordings are read with it.

        `recent` takes the frames that a plan which may follow is tried with first.
        """
        self._now = prepared
        self._ledger = ledger
        self._clock = clock
        self._keep = keep
        self._note = note
        self._recent = recent

    @property
    def plan(self) -> Plan:
        return self._now.plan

    @property
    def prepared(self) -> Prepared:
        return self._now

    @property
    def collector(self) -> Collector:
        return self._now.collector

    def take(
        self,
        block: FrameBlock | SignalTable,
        position: Positions | None = None,
        skip: frozenset[Destination] = frozenset(),
        *,
        idle: bool = False,
    ) -> None:
        """A block of frames, or a table of a source; `idle` where nothing else waits."""
        live_ns = self._clock.boot() if idle else None
        if isinstance(block, SignalTable):
            self._collect([self._now.labels.apply(block)], None, position, skip, live_ns)
            return
        if self._recent is not None:
            self._recent.add(block)
        now = self._now
        tables, c = now.decoder.decode_counted(block)
        told = [now.labels.apply(table) for table in now.health.look(block, tables)]
        self._collect([*tables, *told], block, position, skip, live_ns)
        came_true = "recognise" in now.collector.came_true
        if now.recognition.look(block, tables, came_true=came_true) and now.recognition.done:
            self._report(int(block.time[-1]), block.clock, skip)
        self._ledger.add(
            "bus",
            block.bus,
            queued=-len(block),
            decoded=c.decoded,
            transport=c.transport,
            remote=c.remote,
            error=c.error,
            unknown=c.unknown,
            undecodable=c.undecodable,
            no_branch=c.no_branch,
            short=c.short,
            reassembled=c.reassembled,
            transport_lost=c.transport_lost,
        )

    def _collect(
        self,
        tables: list[SignalTable],
        block: FrameBlock | None,
        position: Positions | None,
        skip: frozenset[Destination],
        live_ns: int | None,
    ) -> None:
        self._note(tables)
        kept = self._now.collector.offer(tables, skip, block, live_ns=live_ns)
        self._keep(kept, position)

    def _report(self, time: int, clock: TimeBase, skip: frozenset[Destination]) -> None:
        """Tell what was found out about the vehicle, where somebody asked or something is wrong."""
        now = self._now
        if now.reports in skip or not (now.plan.written.recognise or now.recognition.findings):
            return
        report = {
            "id": f"database-{time}",
            "name": "database",
            "campaign": "",
            "time": time,
            "clock": clock,
            "complete": True,
            **now.recognition.report(),
        }
        self._keep({now.reports: [Event(report)]}, None)

    def idle(self) -> None:
        """Nothing came for a while: what only waits for time to pass is decided."""
        kept = self._now.collector.offer([], live_ns=self._clock.boot())
        if kept:
            self._keep(kept, None)

    def finish(
        self, positions: Positions | None = None, skip: frozenset[Destination] = frozenset()
    ) -> None:
        """Recordings have ended: give what was held back. `skip` have had it in an earlier run."""
        newest = max(self._now.collector.reached.values(), default=0)
        kept = self._now.collector.finish()
        if self._now.recognition.conclude():
            self._report(newest, "recorded", skip)
        self._keep({where: rows for where, rows in kept.items() if where not in skip}, positions)

    def suspend(self) -> None:
        """A live run ends: give what would else be lost; triggers may go on in the next run."""
        self._keep(self._now.collector.suspend(), None)

    def fire(self, campaign: str, why: str) -> list[str]:
        """Begin the event of a campaign, or of all, by request; between two blocks.

        Raises:
            ConfigError: no campaign of that name has a trigger.
        """
        return self._now.collector.fire(campaign, why)

    def switch(self, following: Prepared) -> None:
        """Go on with another plan; between two blocks, in the decode thread."""
        before = self._now
        following.decoder.adopt(before.decoder)
        following.health.adopt(before.health)
        kept = before.collector.retire(following.collector)
        self._keep(kept, None)
        self._now = following
        log.info("plan %s follows plan %s", following.plan.name, before.plan.name)

    def status(self) -> dict[str, Any]:
        """What the status tells of the plan."""
        now = self._now
        findings = now.plan.database.findings
        return {
            "campaigns": now.collector.status(),
            "health": now.health.status(),
            "recognition": now.recognition.status(),
            "database": {
                "findings": [str(each) for each in findings[:_FINDINGS]],
                "more": max(0, len(findings) - _FINDINGS),
            },
        }
