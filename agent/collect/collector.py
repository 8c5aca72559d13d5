"""A plan at work on the tables of a block.

What only some plans need, such as conditions, is imported only for those: it costs much of the time
of a start.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Event, FrameBlock, Kept, Reports, SignalSchema, SignalTable
from agent.clock import SECOND, Anchor, Quality
from agent.collect.budget import Degradation
from agent.collect.campaign import RING_BYTES, Campaign, Counts, Destination, Flow
from agent.collect.plan import Plan
from agent.collect.rows import Rows
from agent.errors import ConfigError
from agent.ledger import Ledger
from agent.signals.database import ANY_BUS, SignalPath

if TYPE_CHECKING:
    from agent.collect.conditions import Conditions, Steps
    from agent.collect.privacy import Profile
    from agent.collect.reports.maker import ReportMaker
    from agent.collect.reports.tuning import Tuning
    from agent.collect.sessions import SessionMaker
    from agent.settings import Privacy

# ruff: noqa: PLC0415 - see above

__all__ = ["Collector", "Destination"]

_ALL_RINGS_BYTES = 64 << 20
_NEVER = -(1 << 63)
_RECENT = 8
_FOREVER = (1 << 63) - 1
_SILENT_NS = 2 * SECOND
"""Nothing of an earlier time comes any more from a bus that is read live."""


class Collector:
    """Applies a plan; belongs to the decode thread."""

    def __init__(
        self,
        plan: Plan,
        ledger: Ledger,
        *,
        vehicle: str = "",
        secret: bytes = b"",
        boot_id: str = "",
        tunings: "Mapping[str, Tuning] | None" = None,
    ) -> None:
        """`secret` makes pseudonyms of `vehicle`; `boot_id` tells events of boots apart.

        `tunings` say how often a platform wants reports.

        Raises:
            ConfigError: a privacy profile says what cannot be.
        """
        self.plan = plan
        self._boot_id = boot_id
        self._ledger = ledger
        self.conditions = _conditions(plan)
        """None where the plan has none."""

        def profile_of(written: "Privacy") -> "Profile":
            from agent.collect.privacy import Profile

            return Profile(written, plan.database, plan.vss, vehicle=vehicle, secret=secret)

        written = {profile.name: profile for profile in plan.written.privacy}
        self.profiles = {name: profile_of(profile) for name, profile in written.items()}
        """One of each, for what batches say of them."""
        triggers = sum(c.trigger is not None for c in plan.campaigns)
        self._ring_bytes = min(RING_BYTES, _ALL_RINGS_BYTES // max(1, triggers))
        self.campaigns = [
            Campaign(
                c,
                profile=profile_of(written[c.privacy]) if c.privacy else None,
                ring_bytes=self._ring_bytes,
                boot_id=boot_id,
            )
            for c in plan.campaigns
        ]
        self.sessions = _sessions(plan)
        self.reports = _reports(plan, ledger, tunings or {})
        self.reached: dict[str, int] = {}
        self.with_frames: set[str] = set()
        self._tells_values = triggers > 0
        self.live: set[str] = set()
        """Buses whose times are boot times: they go on also when nothing comes."""
        self.recent: collections.deque[Sequence[SignalTable]] = collections.deque(maxlen=_RECENT)
        """Of the last blocks, for the values that events tell."""
        self.degradation = Degradation()
        """What budget and limits ask for; set from the event loop, also before the plan begins."""
        self.anchor: Anchor | None = None
        """How wall time follows from boot time; set from the event loop."""
        self.came_true: set[str] = set()
        """Conditions that have been true."""
        for campaign in plan.campaigns:
            ledger.open("campaign", campaign.name)

    @property
    def destinations(self) -> list[Destination]:
        """Where things can go."""
        found = [c.destination for c in self.campaigns]
        if (sessions := self._session_destination()) is not None:
            found.append(sessions)
        if self.plan.reports is not None:
            found += map(_to_platform, self.plan.reports.platforms)
        return list(dict.fromkeys(found))

    @property
    def needs_history(self) -> bool:
        """Whether what is kept depends on more than the block at hand.

        A recording is then read from its begin, also where a run goes on in the middle.
        """
        simple = all(
            c.trigger is None
            and c.condition is None
            and not c.privacy
            and all(rule.kind == "all" for rule, _ in c.rules)
            for c in self.plan.campaigns
        )
        return not simple or self.sessions is not None or self.reports is not None

    def _session_destination(self) -> Destination | None:
        sessions = self.plan.sessions
        if sessions is None:
            return None
        return Destination(sessions.settings.lane, sessions.uplinks, sessions.settings.privacy)

    def offer(
        self,
        tables: Sequence[SignalTable],
        skip: frozenset[Destination] = frozenset(),
        block: FrameBlock | None = None,
        *,
        live_ns: int | None = None,
    ) -> dict[Destination, list[Kept]]:
        """What is kept of the tables (and raw frames) of a block, by destination.

        Destinations in `skip` have had this block in an earlier run: it gives them nothing.
        `live_ns` is the boot time now, where nothing waits to be decoded: a bus that is silent
        holds up no decision then.
        """
        self._reach(tables, block, live_ns)
        if tables and self._tells_values:
            self.recent.append(tables)
        steps = self.conditions.feed(tables, self.reached) if self.conditions else {}
        return self._flow(tables, block, steps, skip)

    def finish(self) -> dict[Destination, list[Kept]]:
        """The end of all input: decide everything, give what is still to be given."""
        steps = self.conditions.finish() if self.conditions else {}
        reached, self.reached = self.reached, dict.fromkeys(self.reached, _FOREVER)
        kept = self._end(steps, retire=self.campaigns, every=True)
        if self.reports is not None:
            self._report([*self.reports.take([], steps, reached, None).items()], kept)
            self._report([*self.reports.finish().items()], kept)
        return kept

    def suspend(self) -> dict[Destination, list[Kept]]:
        """The end of a live run: give what a next one cannot; `state` and `rows` have the rest."""
        kept: dict[Destination, list[Kept]] = {}
        flow = self._make_flow({})
        for campaign in self.campaigns:
            rows, counts = campaign.finish(flow)
            self._count(campaign, counts)
            if rows:
                kept.setdefault(campaign.destination, []).extend(rows)
        return kept

    def retire(self, following: "Collector") -> dict[Destination, list[Kept]]:
        """The end of this plan at a block's border; `following` goes on with what is equal."""
        following.adopt(self)
        gone = [c for c in self.campaigns if c.campaign not in following.plan.campaigns]
        sessions = self.sessions is not None and not self.same_sessions(following)
        return self._end({}, retire=gone, every=sessions)

    def squeeze(self, level: int) -> None:
        """Hold less for the time before triggers: half of it at each level. From any thread.

        What that costs goes with the next block, and events say so.
        """
        for campaign in self.campaigns:
            campaign.ring.bound = self._ring_bytes >> level

    def _end(
        self, steps: Mapping[str, "Steps"], *, retire: Sequence[Campaign], every: bool
    ) -> dict[Destination, list[Kept]]:
        kept: dict[Destination, list[Kept]] = {}
        flow = self._make_flow(steps)
        for campaign in retire:
            rows, counts = campaign.retire(flow)
            self._count(campaign, counts)
            if rows:
                kept.setdefault(campaign.destination, []).extend(rows)
        where = self._session_destination()
        if every and self.sessions is not None and where is not None:
            found = self._sessions_take([], steps) + self.sessions.finish()
            if found:
                kept.setdefault(where, []).extend(map(self._event, found))
        return kept

    def fire(self, campaign: str, why: str) -> list[str]:
        """Begin an event by request, as if the condition of a trigger had just come true.

        `campaign` names one; empty: every one that has a trigger. `why` is told in the event in
        place of the condition. The event begins at the newest time that the campaign's buses have
        reached; its begin is given with the next block. Called between two blocks. Gives the names
        of those that fired: none where `campaign` is empty and the plan has no trigger.

        Raises:
            ConfigError: there is no such campaign, or it has no trigger.
        """
        able = [c for c in self.campaigns if c.has_trigger]
        wanted = [c for c in able if campaign in ("", c.campaign.name)]
        if campaign and not wanted:
            known = any(c.campaign.name == campaign for c in self.campaigns)
            wrong = "has no trigger" if known else "is none of this plan"
            names = ", ".join(c.campaign.name for c in able) or "none"
            raise ConfigError(
                f'campaign "{campaign}" {wrong}, so it cannot be fired; '
                f"those of plan {self.plan.name} with a trigger: {names}"
            )
        flow = self._make_flow({})
        for each in wanted:
            each.fire(why, flow)
        return [each.campaign.name for each in wanted]

    # -- a block -----------------------------------------------------------------------------

    def _reach(
        self, tables: Sequence[SignalTable], block: FrameBlock | None, live_ns: int | None
    ) -> None:
        """Note up to which time each bus has come.

        Of a bus with frames only these tell it: what its source says besides (its state, each
        second) may overtake frames that are not delivered yet.
        """
        reached = self.reached
        if block is not None and len(block):
            self.with_frames.add(block.bus)
            reached[block.bus] = max(int(block.time.max()), reached.get(block.bus, _NEVER))
        elif block is None:
            for table in tables:
                if len(table):
                    late = _SILENT_NS if table.bus in self.with_frames else 0
                    newest = int(table.time.max()) - late
                    reached[table.bus] = max(newest, reached.get(table.bus, _NEVER))
        if block is not None and block.clock == "boot":
            self.live.add(block.bus)
        self.live |= {table.bus for table in tables if block is None and table.clock == "boot"}
        if live_ns is not None:
            for bus in self.live & reached.keys():
                reached[bus] = max(reached[bus], live_ns - _SILENT_NS)

    def _make_flow(self, steps: Mapping[str, "Steps"]) -> Flow:
        anchor = self.anchor
        sure = anchor is not None and anchor.quality is not Quality.UNSYNCHRONISED
        return Flow(
            steps=steps,
            conditions=self.conditions,
            reached=self.reached,
            wall_offset=anchor.offset if anchor is not None and sure else None,
            factor=self.degradation.factor,
            lanes_off=self.degradation.lanes_off,
            values=self._values,
        )

    def _values(self, condition: str, moment: int) -> dict[SignalPath, Any]:
        """What the signals of a condition said last at a moment that was just decided."""
        from agent.collect.expression import signals_of

        # What is held is right for all that did not come lately; for the others the rows tell.
        held = self.conditions.last(condition) if self.conditions else []
        found = {signal.path: _said(signal.schema, raw) for signal, raw in held}
        for path in sorted(signals_of(self.plan.conditions[condition]), key=str):
            newest = _NEVER
            for table in (t for tables in self.recent for t in tables):
                here = table.message == path.message and path.bus in (table.bus, ANY_BUS)
                if not here or path.signal not in table.names:
                    continue
                before = np.flatnonzero(table.time <= moment)
                if len(before) and table.time[before[-1]] >= newest:
                    row = int(before[-1])
                    newest = int(table.time[row])
                    schema = table.schema.by_name[path.signal]
                    found[path] = _said(schema, table.raw[path.signal][row : row + 1])
        return found

    def _flow(
        self,
        tables: Sequence[SignalTable],
        block: FrameBlock | None,
        steps: Mapping[str, "Steps"],
        skip: frozenset[Destination],
    ) -> dict[Destination, list[Kept]]:
        kept: dict[Destination, list[Kept]] = {}
        self.came_true |= {name for name, each in steps.items() if each.before or len(each.times)}
        flow = self._make_flow(steps)
        for campaign in self.campaigns:
            flow.quiet = campaign.destination in skip
            rows, counts = campaign.take(tables, block, flow)
            self._count(campaign, counts)
            if rows:
                kept.setdefault(campaign.destination, []).extend(rows)
        where = self._session_destination()
        if where is not None:
            found = self._sessions_take(tables, steps)
            if found and where not in skip:
                kept.setdefault(where, []).extend(map(self._event, found))
        if self.reports is not None:
            offset = self.anchor.offset if self.anchor is not None else None
            made = self.reports.take(tables, steps, self.reached, offset)
            self._report(made.items(), kept, skip)
        return kept

    def _report(
        self,
        made: Iterable[tuple[str, list[Reports]]],
        kept: dict[Destination, list[Kept]],
        skip: frozenset[Destination] = frozenset(),
    ) -> None:
        for platform, reports in made:
            where = _to_platform(platform)
            if reports and where not in skip:
                kept.setdefault(where, []).extend(reports)

    def _event(self, session: dict[str, Any]) -> Event:
        boot = f"{self._boot_id[:8]}-" if session["clock"] == "boot" else ""
        return Event({"id": f"{boot}{session['kind']}-{session['first']}", **session})

    def _sessions_take(
        self, tables: Sequence[SignalTable], steps: Mapping[str, "Steps"]
    ) -> list[dict[str, Any]]:
        if self.sessions is None:
            return []
        moving, charging = steps.get("sessions moving"), steps.get("sessions charging")
        # Other sources may have another clock than the recording of a bus.
        reached = {b: t for b, t in self.reached.items() if b in self.with_frames} or self.reached
        return self.sessions.take(tables, moving, charging, reached)

    def _count(self, campaign: Campaign, counts: Counts) -> None:
        changes = {name: n for name, n in counts.items() if n}
        if changes:
            self._ledger.add("campaign", campaign.campaign.name, **changes)

    # -- from plan to plan, from run to run --------------------------------------------------

    def adopt(self, old: "Collector") -> None:
        """Go on with the state of everything that the old plan had, too."""
        if self.conditions is not None and old.conditions is not None:
            self.conditions.adopt(old.conditions)
        self.reached = dict(old.reached)
        self.with_frames = set(old.with_frames)
        self.live = set(old.live)
        self.recent = old.recent
        self.anchor = old.anchor
        before = {c.campaign: c for c in old.campaigns}
        for campaign in self.campaigns:
            if campaign.campaign in before:
                campaign.adopt(before[campaign.campaign])
        if self.sessions is not None and old.sessions is not None and old.same_sessions(self):
            self.sessions.adopt(old.sessions)
        if self.reports is not None and old.reports is not None:
            self.reports.adopt(old.reports)

    def same_sessions(self, other: "Collector") -> bool:
        return self.plan.sessions == other.plan.sessions

    def state(self) -> dict[str, Any]:
        """What must outlive this process in the same boot; rows are given by `rows`."""
        campaigns = {c.campaign.name: c.state() for c in self.campaigns}
        return {
            "reached": dict(self.reached),
            "conditions": self.conditions.state() if self.conditions else None,
            "campaigns": {name: state for name, state in campaigns.items() if state},
            "sessions": self.sessions.state() if self.sessions else None,
        }

    def open_events(self) -> dict[str, Any]:
        """As `state`, without what only a run that ends in order can leave."""
        campaigns = {c.campaign.name: c.state() for c in self.campaigns if c.is_open}
        return {
            "reached": dict(self.reached),
            "conditions": None,
            "campaigns": {name: state for name, state in campaigns.items() if state},
            "sessions": None,
        }

    def rows(self) -> dict[str, list[Rows]]:
        """What waits for a trigger, by campaign."""
        return {c.campaign.name: c.ring.all() for c in self.campaigns if c.ring.held}

    def restore(
        self, state: Mapping[str, Any], rows: Mapping[str, Sequence[Rows]], now_ns: int
    ) -> None:
        """Go on where the run before stopped, in the same boot.

        Raises:
            ValueError: the state is none, or that of another plan.
        """
        try:
            if self.conditions is not None and state["conditions"] is not None:
                self.conditions.restore(state["conditions"])
            if self.sessions is not None and state["sessions"] is not None:
                self.sessions.restore(state["sessions"])
            newest = max((int(t) for t in state["reached"].values()), default=now_ns)
            for campaign in self.campaigns:
                name = campaign.campaign.name
                if name in state["campaigns"]:
                    gap = (newest + 1, now_ns)
                    campaign.restore(state["campaigns"][name], rows.get(name, ()), gap)
        except (KeyError, TypeError, AttributeError) as e:
            raise ValueError(f"no state of a collector: {e}") from e

    def status(self) -> list[dict[str, Any]]:
        """What the status tells of each campaign."""
        counts = self._ledger.snapshot()["campaign"]
        return [
            {
                "name": c.campaign.name,
                "lane": c.campaign.lane,
                "signals": len(c.campaign.signals),
                "events": counts.get(c.campaign.name, {}).get("events", 0),
                "suppressed": c.suppressed,
                "ring_bytes": c.ring.nbytes,
            }
            for c in self.campaigns
        ]


def _conditions(plan: Plan) -> "Conditions | None":
    conditions = plan.conditions
    if not conditions:
        return None
    from agent.collect.conditions import Conditions

    return Conditions(conditions)


def _sessions(plan: Plan) -> "SessionMaker | None":
    if plan.sessions is None:
        return None
    from agent.collect.sessions import SessionMaker

    return SessionMaker(plan.sessions.settings, plan.database, plan.vss)


def _reports(plan: Plan, ledger: Ledger, tunings: "Mapping[str, Tuning]") -> "ReportMaker | None":
    if plan.reports is None or not plan.reports.platforms:
        return None
    from agent.collect.reports.maker import ReportMaker
    from agent.collect.reports.tuning import Tuning

    for platform in plan.reports.platforms:
        ledger.open("report", platform)
    return ReportMaker(
        plan.reports.compiled,
        {name: tunings.get(name) or Tuning() for name in plan.reports.platforms},
        lambda platform, changes: ledger.add("report", platform, **changes),
    )


def _to_platform(platform: str) -> Destination:
    return Destination("report", (platform,))


def _said(signal: SignalSchema, raw: NDArray[Any]) -> float | int | str:
    """One sample for people and programs: the word of its value table, or a number in its unit."""
    if signal.kind == "bytes":
        return raw.tobytes().hex()
    word = dict(signal.choices).get(int(raw[0])) if signal.kind in ("int64", "uint64") else None
    return word if word is not None else float(signal.physical(raw)[0])
