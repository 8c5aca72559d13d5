"""What is remembered of updates, and told: the record, and the reports in it.

A step is made durable together with the report of it. A report goes to every uplink as an event in
the lane `report`, and stays in the record until the spool has it; one that is told twice has the
same id.

There are steps that must be taken whatever the disk says, such as going back from a harmful plan.
These hold at once, and are made durable before any other step, as soon as the disk takes them.
"""

import asyncio
import contextlib
import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from agent.clock import SECOND, BootNs, Clock, certain
from agent.errors import UpdateError
from agent.ota import record as records
from agent.ota.record import Record, Report, What
from agent.ota.store import Store
from agent.ota.types import BundleId

log = logging.getLogger("edge_agent.ota")

_DURABLE_S: Final = 5.0
"""How long the spool is waited for with what it was told."""

Step = Callable[[Record], Record]
Tell = Callable[[dict[str, Any]], threading.Event]
"""An event for the lane `report`; is set when it is durable."""


class Chronicle:
    """The record of a store, as it holds; `store` is open."""

    def __init__(self, store: Store, clock: Clock, tell: Tell) -> None:
        self._store = store
        self._clock = clock
        self._tell = tell
        self._guard = threading.RLock()
        self._unsaved: Record | None = None
        """What holds already, and the disk has not taken yet."""
        self._told: dict[str, threading.Event] = {}
        """Reports that this process gave to the spool."""

    @property
    def record(self) -> Record:
        """What holds now."""
        unsaved = self._unsaved
        return self._store.record if unsaved is None else unsaved

    # -- steps -------------------------------------------------------------------------------

    async def change(self, step: Step) -> None:
        """Make a step durable.

        Raises:
            UpdateError: it could not be made durable, or is not possible.
        """
        await asyncio.to_thread(self._change, step)

    async def note(self, step: Step, what: What, bundle: BundleId | None, why: str) -> None:
        """Make a step durable together with the report of it, and tell that.

        Raises:
            UpdateError: as `change`.
        """
        report = self._new(what, bundle, why)
        await self.change(lambda record: records.reported(step(record), report))
        await self.tell()

    async def insist(self, step: Step, what: What, bundle: BundleId | None, why: str) -> None:
        """As `note`, but the step holds also where the disk does not take it yet.

        Raises:
            UpdateError: it is not possible.
        """
        await asyncio.to_thread(self._insist, step, self._new(what, bundle, why))

    def save_late(self) -> bool:
        """Make durable what the disk did not take before; whether all is. Blocks."""
        with self._guard:
            if self._unsaved is not None and self._store.attempt(self._unsaved):
                self._unsaved = None
            return self._unsaved is None

    def end(self, failed: Sequence[str]) -> None:
        """The process ends: in order, which is no fault of a trial, or by a defect. Blocks."""
        with self._guard:
            trial = self.record.trial
            if trial is not None and failed:
                words = f"the agent ended in its trial: {failed[0]}"
                report = self._new("rolled back", trial.bundle, words)
                self._unsaved = records.reported(records.rejected(self.record, words), report)
            elif trial is not None or self.record.examined is not None:
                self._unsaved = records.stopped(self.record)
            self.save_late()

    def _change(self, step: Step) -> None:
        with self._guard:
            if not self.save_late():
                raise UpdateError(self._store.trouble)
            self._store.change(step)

    def _insist(self, step: Step, report: Report) -> None:
        with self._guard:
            self._unsaved = records.reported(step(self.record), report)
            self.save_late()

    # -- telling -----------------------------------------------------------------------------

    def _new(self, what: What, bundle: BundleId | None, why: str) -> Report:
        return Report(secrets.token_hex(6), what, bundle, why, certain(self._clock))

    async def tell(self) -> None:
        """Give reports to the spool, and forget them once they are durable there."""
        reports = self.record.reports
        if not reports:
            return
        for report in reports:
            if report.id not in self._told:
                self._told[report.id] = self._tell(_event(report, self._clock.boot()))
        until = self._clock.boot() + round(_DURABLE_S * SECOND)
        told = [self._told[report.id] for report in reports]
        # A thread of the spool sets no event of this loop.
        while not all(e.is_set() for e in told) and self._clock.boot() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        ids = {report.id for report in reports if self._told[report.id].is_set()}
        if ids:
            with contextlib.suppress(UpdateError):  # the store says so; it is done another time
                await self.change(lambda record: records.told(record, ids))
                for each in ids:
                    self._told.pop(each, None)


def _event(report: Report, now: BootNs) -> dict[str, Any]:
    return {
        "kind": "update",
        "id": f"update-{report.id}",
        "name": "update",
        "campaign": "",
        "time": now,
        "clock": "boot",
        "complete": True,
        "what": report.what,
        "bundle": report.bundle.title if report.bundle else "",
        "why": report.why,
        "wall": report.wall,
    }
