"""What is given up now: for the budget of the plan, and for the limits of the agent itself.

Both are looked at beside the run; whichever asks for more decides what campaigns keep. The level of
the budget is told as a signal, too.

While memory is short, the frames that a new plan would be tried with are let go, and triggers hold
less for the time before them. At each level up the interpreter collects its garbage, and the C
library gives free pages back to the kernel: what was freed stays resident otherwise.

What was written this day is kept in `written.json`, where there is a limit of it: at the end of the
run, and before that once a minute at most, so that a kill forgets a minute. A file that cannot be
read counts as nothing written.
"""

import asyncio
import contextlib
import ctypes
import gc
import json
import logging
from pathlib import Path
from typing import Any, Final

from agent.clock import SECOND, BootNs, Clock, Quality
from agent.collect import Plan
from agent.collect.budget import BudgetKeeper, Degradation, degradation_of, sentence_of
from agent.decoding import DecodeThread
from agent.limits import Limiter, Taken
from agent.observe.vitals import Vitals
from agent.pipeline import Pipeline
from agent.recent import RecentFrames
from agent.settings import Device
from agent.spool.filesystem import WRITTEN, Written
from agent.uplink.allowance import Now
from agent.uplink.durable import replace_durably
from agent.uplink.meter import Meter

log = logging.getLogger("edge_agent")

FILE: Final = "written.json"
_TELL_EVERY_NS: Final = 10 * SECOND
_KEEP_EVERY_NS: Final = 60 * SECOND
_TEND_S: Final = 1.0
_M_TRIM_PAD: Final = 0


class Spending:
    """Belongs to the event loop."""

    def __init__(
        self,
        device: Device,
        plan: Plan,
        meter: Meter,
        clock: Clock,
        *,
        pipeline: Pipeline,
        decoder: DecodeThread,
        recent: RecentFrames | None = None,
        vitals: Vitals | None = None,
        written: Written = WRITTEN,
    ) -> None:
        """What earlier runs of the day have written counts from the first block on.

        `vitals` and `written` are seams for tests: what the process takes.
        """
        self._meter = meter
        self._clock = clock
        self._pipeline = pipeline
        self._decoder = decoder
        self._recent = recent
        self._keeper = BudgetKeeper(())
        self._told = BootNs(0)
        folder = Path(device.state_dir)
        self._vitals = vitals or Vitals(folder)
        self._written = written
        limited = device.limits.written_mb_day
        self._count = _Count(folder / FILE, clock, written) if limited else None
        self._limiter = Limiter(device.limits, self._count.read() if self._count else None)
        self._memory_level = 0
        self._relieve = False
        self.follow(plan)
        self._look_at_limits()

    def follow(self, plan: Plan) -> None:
        """Go on by the budgets of this plan, which is at work now."""
        self._plan = plan
        self._keeper = self._keeper_of(plan)
        self._meter.budgeted = bool(plan.written.budget)

    def ahead(self, plan: Plan) -> Degradation:
        """What a plan that will follow is to give up from its first block on.

        What another budget has spent is nothing to it; limits hold for any plan.
        """
        budget = self._keeper_of(plan).look(self._clock.boot(), self._meter.sent_today())
        return degradation_of(max(budget.level, self._limiter.level))

    def look(self) -> None:
        """Whether more or less is to be given up; a change is logged."""
        self._look_at_budget()
        self._look_at_limits()

    async def tend(self) -> None:
        """What may take a while, until cancelled: give memory back, keep the count."""
        failure = ""
        while True:
            try:
                if self._relieve:
                    self._relieve = False
                    await asyncio.to_thread(_give_back)
                if self._count is not None and self._count.due:
                    await asyncio.to_thread(self._count.keep, self._limiter.state())
            except Exception as e:
                if failure != repr(e):  # a defect; limits go on without this
                    failure = repr(e)
                    log.exception("tending the limits failed")
            await asyncio.sleep(_TEND_S)

    def close(self) -> None:
        """The end of the run: keep what was written until now. Blocks."""
        if self._count is not None:
            self._limiter.count(_now(self._clock), self._written.total)
            self._count.keep(self._limiter.state())

    @property
    def spent(self) -> str:
        """Why the budget keeps only events and reports now; empty while it keeps more."""
        return self._keeper.spent

    def status(self) -> dict[str, Any]:
        """Of the budget."""
        return self._keeper.status()

    def limits(self) -> dict[str, Any]:
        """Of the limits. `degraded` says what is kept while one of them asks for less."""
        told = self._limiter.status()
        return {**told, "degraded": sentence_of(self._level) if told["level"] else ""}

    @property
    def _level(self) -> int:
        return max(self._keeper.degradation.level, self._limiter.level)

    def _keeper_of(self, plan: Plan) -> BudgetKeeper:
        keeper = BudgetKeeper(plan.written.budget)
        if plan.written.budget:
            keeper.adopt(self._keeper)
        return keeper

    def _look_at_budget(self) -> None:
        """At a change and now and then its level is told as a signal."""
        if not self._meter.budgeted:
            return
        before = self._keeper.degradation
        now = self._keeper.look(self._clock.boot(), self._meter.sent_today())
        if self._keeper.change:
            log.warning("%s", self._keeper.change)
        if now != before or self._clock.boot() - self._told >= _TELL_EVERY_NS:
            told = self._clock.boot()
            if self._decoder.offer((self._keeper.row(told), None, frozenset())):
                self._told = told

    def _look_at_limits(self) -> None:
        """Then what is asked for by both takes effect."""
        process = self._vitals.process()
        taken = Taken(process["cpu_s"], process.get("memory_bytes"), self._written.total)
        for change in self._limiter.look(_now(self._clock), taken):
            log.warning("limit: %s: %s", change, sentence_of(self._level))
        memory = self._limiter.levels["memory"]
        prepared = self._pipeline.prepared
        if prepared.plan is self._plan:  # another one has just begun as `ahead` said
            prepared.collector.degradation = degradation_of(self._level)
        prepared.collector.squeeze(memory)
        if self._recent is not None and self._recent.paused != (memory > 0):
            self._recent.paused = memory > 0
        self._relieve = self._relieve or memory > self._memory_level
        self._memory_level = memory


class _Count:
    """The file of what was written this day."""

    def __init__(self, path: Path, clock: Clock, written: Written) -> None:
        self._path = path
        self._clock = clock
        self._written = written
        self._at = clock.boot()
        self._total = written.total
        """When, and at which count, it was read or written last."""
        self._trouble = ""

    @property
    def due(self) -> bool:
        """Whether there is something to keep, and it is time."""
        waited = self._clock.boot() - self._at >= _KEEP_EVERY_NS
        return waited and self._total != self._written.total

    def read(self) -> dict[str, Any]:
        try:
            kept = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return {}
        return kept if isinstance(kept, dict) else {}

    def keep(self, state: dict[str, Any]) -> None:
        """Blocks. The bytes of the file itself count the next time."""
        trouble = ""
        try:
            replace_durably(self._path, json.dumps(state).encode() + b"\n", 0o640)
        except OSError as e:
            trouble = f"{self._path}: cannot be written: {e.strerror}"
        if trouble and trouble != self._trouble:
            log.warning("limit: %s", trouble)
        self._trouble = trouble
        self._at, self._total = self._clock.boot(), self._written.total


def _now(clock: Clock) -> Now:
    return Now(clock.boot(), clock.wall(), clock.quality() > Quality.UNSYNCHRONISED)


def _give_back() -> None:
    """Memory that is free within the process, to the kernel: malloc_trim(3), where it is there."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(_M_TRIM_PAD)
