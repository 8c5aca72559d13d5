"""One campaign at work: what it wants of a block, step by step.

    select  ->  privacy  ->  gate  ->  policies  ->  ring  ->  budget  ->  kept
    columns     masked       condition  rates, dead   only around  fewer when
    and frames  positions    and days   bands, ...    triggers     it is short

Each step counts what it leaves out, and what it still holds, so that

    offered + made = kept + thinned + folded + outside + masked + held

holds after every block. What is kept depends on the samples and their times, and not on where
blocks end.
"""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from agent.blocks import Event, FrameBlock, Kept, KeptFrames, SignalTable, TimeBase
from agent.clock import SECOND
from agent.collect.budget import Slower
from agent.collect.gate import Gate
from agent.collect.plan import CompiledCampaign, condition_of, trigger_of
from agent.collect.policies import Outcome, policy_of
from agent.collect.ring import Ring
from agent.collect.rows import Rows, bus_of, samples, take, times
from agent.collect.selection import Columns, Frames
from agent.collect.trigger import FOREVER, Trigger, Window
from agent.settings import Lane
from agent.signals.database import SignalPath

if TYPE_CHECKING:
    from agent.collect.conditions import Conditions, Steps
    from agent.collect.privacy import Profile

RING_BYTES = 16 << 20
_SLOWED: tuple[Lane, ...] = ("telemetry", "raw")
_LAG_NS = 2 * SECOND
"""Rows of a bus that is this far behind the others are not waited for."""
_UNDECIDED_NS = 10 * SECOND
"""Rows wait no longer for a condition: it may read a bus that never speaks."""
_LATE_NS = 10 * SECOND
"""For so long after its end a window still takes rows that come late."""


class Destination(NamedTuple):
    """A lane, the uplinks for which something is kept, and how it is masked for them."""

    lane: Lane
    uplinks: tuple[str, ...]
    profile: str = ""


@dataclasses.dataclass(slots=True)
class Flow:
    """What a block brings besides its rows."""

    steps: Mapping[str, "Steps"]
    """Conditions that changed."""
    conditions: "Conditions | None"
    """None where the plan has none."""
    reached: Mapping[str, int]
    """Bus -> up to which time everything of it has come, ns."""
    wall_offset: int | None = None
    """Wall time less boot time; None while the clock cannot be trusted."""
    factor: int = 1
    """One sample in so many where the budget is short."""
    lanes_off: frozenset[Lane] = frozenset()
    """Lanes for which nothing is kept, because the budget is spent."""
    quiet: bool = False
    """Nothing is kept: an earlier run has had this block."""
    values: Callable[[str, int], Mapping[SignalPath, Any]] = lambda _condition, _time: {}
    """What the signals of a condition said at a time."""


Counts = collections.Counter[str]


class Campaign:
    """Belongs to the decode thread."""

    def __init__(
        self,
        campaign: CompiledCampaign,
        *,
        profile: "Profile | None" = None,
        ring_bytes: int = RING_BYTES,
        boot_id: str = "",
    ) -> None:
        """`ring_bytes` bounds what waits for a trigger; `boot_id` tells events of boots apart."""
        self.campaign = campaign
        self.destination = Destination(campaign.lane, campaign.uplinks, campaign.privacy)
        self.profile = profile
        self.ring = Ring(ring_bytes)
        self._boot_id = boot_id
        self._select = Columns(campaign.signals)
        self._policies = [
            (Columns(paths) if len(campaign.rules) > 1 else None, policy_of(rule))
            for rule, paths in campaign.rules
        ]
        self._frames = Frames(campaign.frames, campaign.name) if campaign.frames else None
        self._gate = Gate() if campaign.condition is not None else None
        self._trigger = Trigger(campaign.trigger) if campaign.trigger is not None else None
        self._slower = Slower()
        self._buses: set[str] = set()
        self._clock: TimeBase = "boot"
        self._counted = 0
        """Of what is held: how much is in the ledger."""
        self._gaps: list[tuple[int, int, str]] = []
        self._asked: list[str] = []
        """Requests that wait for the first time that is known."""
        self._requested: list[Window] = []
        """Windows of requests that are to be told."""

    @property
    def held(self) -> int:
        """Samples that are not decided."""
        gate = self._gate.held if self._gate else 0
        return gate + sum(policy.held for _, policy in self._policies) + self.ring.held

    @property
    def suppressed(self) -> int:
        """Events that were refused: too soon after another, or too many in a day."""
        return self._trigger.suppressed if self._trigger else 0

    @property
    def is_open(self) -> bool:
        """Whether an event is under way."""
        trigger = self._trigger
        return trigger is not None and (
            bool(self._asked) or any(not w.told for w in trigger.windows)
        )

    @property
    def has_trigger(self) -> bool:
        return self._trigger is not None

    def fire(self, words: str, flow: Flow) -> None:
        """Begin an event by request, at the newest time of its clock; `take` gives it.

        While no such time is known, it waits for the first one.
        """
        self._asked.append(words)
        self._begin_asked(flow)

    def take(
        self, tables: Sequence[SignalTable], block: FrameBlock | None, flow: Flow
    ) -> tuple[list[Kept], Counts]:
        """What it keeps of a block, and the changes of its counters."""
        before = self.held
        counts: Counts = collections.Counter()
        selected = self._select.of(tables)
        counts["offered"] += sum(table.samples for table in selected)
        if self.profile is not None:
            selected, masked = self.profile.apply(selected, tables)
            counts["masked"] += masked
        rows: list[Rows] = [table for table in selected if len(table)]
        if self._frames is not None and block is not None:
            frames = self._frames.of(block)
            if frames is not None:
                counts["offered"] += len(frames)
                rows.append(frames)
        self._note(rows)
        rows = self._let_in(rows, flow, counts)
        rows = self._thin(rows, flow, counts)
        kept = self._around_triggers(rows, flow, counts)
        return self._close(kept, before, counts, quiet=flow.quiet), counts

    def finish(self, flow: Flow) -> tuple[list[Kept], Counts]:
        """The end of the run or of the plan: what is still to be given."""
        before = self.held
        counts: Counts = collections.Counter()
        rows = self._let_in([], flow, counts)
        rows = self._thin(rows, flow, counts)
        for _, policy in self._policies:
            rows += self._outcome(policy.finish(), counts)
        kept = self._around_triggers(rows, flow, counts)
        return self._close(kept, before, counts, quiet=flow.quiet), counts

    # -- the steps ---------------------------------------------------------------------------

    def _note(self, rows: Sequence[Rows]) -> None:
        for each in rows:
            if (bus := bus_of(each)) not in self._buses:
                self._buses.add(bus)
                table = isinstance(each, SignalTable)
                self._clock = each.clock if table else each.block.clock  # type: ignore[union-attr]

    def _let_in(self, rows: list[Rows], flow: Flow, counts: Counts) -> list[Rows]:
        campaign = self.campaign
        if campaign.start_ns is not None or campaign.end_ns is not None:
            begin = samples(rows)
            rows = [each for each in (self._in_days(r, flow) for r in rows) if len(each)]
            counts["outside"] += begin - samples(rows)
        if self._gate is not None and flow.conditions is not None:
            name = condition_of(campaign.name)
            horizon = max(flow.conditions.horizon(name), self._newest(flow) - _UNDECIDED_NS)
            rows, outside = self._gate.take(rows, flow.steps.get(name), horizon)
            counts["outside"] += outside
        return rows

    def _newest(self, flow: Flow) -> int:
        """The newest time of a bus from which it has rows."""
        return max((flow.reached[b] for b in self._buses if b in flow.reached), default=-FOREVER)

    def _in_days(self, rows: Rows, flow: Flow) -> Rows:
        campaign = self.campaign
        moments = times(rows)
        clock = rows.clock if isinstance(rows, SignalTable) else rows.block.clock
        if clock == "boot":
            if flow.wall_offset is None:
                return take(rows, np.zeros(len(moments), bool))
            moments = moments + flow.wall_offset
        inside = np.ones(len(moments), bool)
        if campaign.start_ns is not None:
            inside &= moments >= campaign.start_ns
        if campaign.end_ns is not None:
            inside &= moments < campaign.end_ns
        return take(rows, inside)

    def _thin(self, rows: list[Rows], flow: Flow, counts: Counts) -> list[Rows]:
        if self.campaign.lane in flow.lanes_off:
            counts["thinned"] += samples(rows)
            return []
        found: list[Rows] = [each for each in rows if isinstance(each, KeptFrames)]
        tables = [each for each in rows if isinstance(each, SignalTable)]
        slow = flow.factor if self._trigger is None and self.campaign.lane in _SLOWED else 1
        for columns, policy in self._policies:
            mine = tables if columns is None else columns.of(tables)
            # Rows that hold until the next one cannot say that one of them is missing.
            kind = policy.rule.kind
            if kind not in ("every", "window"):
                mine, thinned = self._slower.apply(mine, slow)
                counts["thinned"] += thinned
            outcome = policy.apply(mine, flow.reached)
            if kind == "every":
                outcome.tables, thinned = self._slower.apply(outcome.tables, slow)
                counts["thinned"] += thinned
            found += self._outcome(outcome, counts)
        return found

    def _outcome(self, outcome: Outcome, counts: Counts) -> list[Rows]:
        counts.update(thinned=outcome.thinned, folded=outcome.folded, made=outcome.made)
        name = self.campaign.name
        return [
            SignalTable(t.schema, t.time, t.values, t.payloads, name)
            for t in outcome.tables
            if len(t)
        ]

    # -- triggers ----------------------------------------------------------------------------

    def _around_triggers(self, rows: list[Rows], flow: Flow, counts: Counts) -> list[Kept]:
        trigger, compiled = self._trigger, self.campaign.trigger
        if trigger is None or compiled is None or flow.conditions is None:
            return list(rows)
        name = trigger_of(self.campaign.name)
        steps = flow.steps.get(name)
        begun = [] if steps is None else trigger.take(steps, self._event_ids())
        horizon = flow.conditions.horizon(name)
        for window in begun:
            self._note_begin(window, flow)
        self._begin_asked(flow)
        begun += self._requested
        self._requested = []
        # What lies behind the horizon belongs to an open window only if that goes on.
        sure = [
            dataclasses.replace(w, last=min(w.last, horizon + compiled.post_ns))
            if w.last == FOREVER
            else w
            for w in trigger.windows
        ]
        kept: list[Kept] = [self._event(window) for window in begun]
        kept += self.ring.take(rows, sure)
        counts["thinned"] += self.ring.forget(horizon - compiled.pre_ns)
        counts["events"] += len(begun)
        settled = self._settled(flow)
        for window in trigger.windows:
            if not window.told and window.last < settled:
                window.told = True
                kept.append(self._event(window))
        trigger.forget(settled - _LATE_NS)
        return kept

    def _begin_asked(self, flow: Flow) -> None:
        trigger = self._trigger
        if not self._asked or trigger is None or flow.conditions is None:
            return
        # What is older than the horizon by more than `pre` is gone from the ring.
        horizon = flow.conditions.horizon(trigger_of(self.campaign.name))
        moment = max(self._newest(flow), horizon)
        if moment <= -FOREVER:
            return
        asked, self._asked = self._asked, []
        for words in asked:
            window = trigger.fire(moment, self._event_ids(), words)
            if window is not None:
                self._note_begin(window, flow)
                self._requested.append(window)

    def _note_begin(self, window: Window, flow: Flow) -> None:
        """Note what is missing already, and what the signals of the condition say."""
        self._miss(window)
        window.values = {
            str(path): value
            for path, value in flow.values(trigger_of(self.campaign.name), window.time).items()
            if self.profile is None or not self.profile.covers(path)
        }

    def _settled(self, flow: Flow) -> int:
        """Up to which time the rows of all its buses have come, or are not waited for."""
        reached = [flow.reached[bus] for bus in self._buses if bus in flow.reached]
        return max(min(reached), max(reached) - _LAG_NS) if reached else -FOREVER

    def _event_ids(self) -> str:
        boot = f"{self._boot_id[:8]}-" if self._clock == "boot" else ""
        return f"{boot}{self.campaign.name}-"

    def _miss(self, window: Window) -> None:
        """Note which parts of a window are not there."""
        lost = self.ring.lost_until
        if lost is not None and lost >= window.first:
            window.missing.append([window.first, min(lost, window.time), "no memory was left"])
        for first, last, why in self._gaps:
            if first <= window.last and last >= window.first:
                window.missing.append([max(first, window.first), min(last, window.last), why])

    def _told_expression(self) -> str:
        """What fired it, unless that would tell what the privacy profile hides."""
        compiled = self.campaign.trigger
        if compiled is None:
            return ""
        from agent.collect.expression import signals_of  # noqa: PLC0415 - of triggers only

        hidden = self.profile is not None and any(
            self.profile.covers(path) for path in signals_of(compiled.when)
        )
        return "" if hidden else compiled.text

    def _event(self, window: Window) -> Event:
        return Event(
            {
                "kind": "trigger",
                "id": window.id,
                "name": self.campaign.name,
                "campaign": self.campaign.name,
                "time": window.time,
                "clock": self._clock,
                "first": window.first,
                "last": None if window.last == FOREVER else window.last,
                "complete": window.told,
                "expression": window.request or self._told_expression(),
                "requested": bool(window.request),
                "values": window.values,
                "missing": window.missing,
            }
        )

    def _close(self, kept: list[Kept], before: int, counts: Counts, *, quiet: bool) -> list[Kept]:
        """Count what is kept and held; a block that an earlier run has had counts for nothing."""
        if quiet:
            counts.clear()
            return []
        counts["offered"] += before - self._counted  # held since a time that was not counted
        counts["held"] += self.held - self._counted
        self._counted = self.held
        counts["kept"] += sum(each.samples for each in kept)
        return kept

    def retire(self, flow: Flow) -> tuple[list[Kept], Counts]:
        """As `finish`, and nothing waits for a trigger any more: nobody collects for it."""
        kept, counts = self.finish(flow)
        if flow.quiet:
            return kept, counts
        counts["held"] -= self.held
        counts["thinned"] += self.held
        if self._trigger is None or flow.conditions is None:
            return kept, counts
        for window in self._trigger.windows:
            if not window.told:
                end = flow.conditions.horizon(trigger_of(self.campaign.name))
                last = end if window.last == FOREVER else window.last
                window.missing.append([end + 1, max(last, end + 1), "nothing was collected then"])
                window.last, window.told = last, True
                kept.append(self._event(window))
        return kept, counts

    # -- from plan to plan, from run to run --------------------------------------------------

    def adopt(self, old: "Campaign") -> None:
        """Go on with the state of an equal campaign."""
        for name in (
            *("ring", "_gate", "_trigger", "_policies", "_slower", "_buses"),
            *("_clock", "_counted", "_gaps", "_asked", "_requested"),
        ):
            setattr(self, name, getattr(old, name))
        if self.profile is not None and old.profile is not None:
            self.profile.adopt(old.profile)

    def state(self) -> dict[str, Any] | None:
        """What must outlive the process: open events, and what waits for the next one."""
        if self._trigger is None:
            return None
        return {
            "trigger": self._trigger.state(),
            "clock": self._clock,
            "buses": sorted(self._buses),
            "asked": list(self._asked),
        }

    def restore(self, state: Mapping[str, Any], rows: Sequence[Rows], gap: tuple[int, int]) -> None:
        """Go on where an earlier run of this boot stopped; nobody listened during the gap.

        Raises:
            ValueError: the state is none.
        """
        if self._trigger is None:
            return
        self._trigger.restore(dict(state["trigger"]))
        self._buses = {str(bus) for bus in state["buses"]}
        self._asked = [str(words) for words in state.get("asked", ())]
        self._gaps = [(*gap, "the agent did not run")]
        for window in self._trigger.windows:
            if not window.told:
                self._miss(window)
        self.ring.take(rows, ())
