"""The budget of the plan at work: looked at beside the run, told as a signal, kept by campaigns."""

import logging
from typing import Any, Final

from agent.clock import SECOND, BootNs, Clock
from agent.collect import Plan
from agent.collect.budget import BudgetKeeper
from agent.decoding import DecodeThread
from agent.pipeline import Pipeline
from agent.uplink.meter import Meter

log = logging.getLogger("edge_agent")

_TELL_EVERY_NS: Final = 10 * SECOND


class Spending:
    """Belongs to the event loop."""

    def __init__(
        self, plan: Plan, meter: Meter, clock: Clock, pipeline: Pipeline, decoder: DecodeThread
    ) -> None:
        self._meter = meter
        self._clock = clock
        self._pipeline = pipeline
        self._decoder = decoder
        self._keeper = BudgetKeeper(())
        self._told = BootNs(0)
        self.follow(plan)

    def follow(self, plan: Plan) -> None:
        """Go on by the budgets of this plan."""
        keeper = BudgetKeeper(plan.written.budget)
        if plan.written.budget:
            keeper.adopt(self._keeper)
        self._keeper = keeper
        self._meter.budgeted = bool(plan.written.budget)

    def look(self) -> None:
        """Whether more or less is to be given up; at a change and now and then it is told."""
        if not self._meter.budgeted:
            return
        before = self._keeper.degradation
        now = self._keeper.look(self._clock.boot(), self._meter.sent_today())
        self._pipeline.collector.degradation = now
        if self._keeper.change:
            log.warning("%s", self._keeper.change)
        if now != before or self._clock.boot() - self._told >= _TELL_EVERY_NS:
            told = self._clock.boot()
            if self._decoder.offer((self._keeper.row(told), None, frozenset())):
                self._told = told

    @property
    def spent(self) -> str:
        """Why only events and reports are kept now; empty while more is."""
        return self._keeper.spent

    def status(self) -> dict[str, Any]:
        return self._keeper.status()
