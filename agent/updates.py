"""Configuration over the air at work: looks, tries, stays or goes back. One task of the daemon.

What is decided is decided elsewhere, and purely: `agent.ota.choice` says what is for this vehicle,
`agent.ota.judge` whether it does well, `agent.ota.record` what is remembered. Here the steps are
put in their order, each durable before the next (see `agent.ota`), and each told: what was
accepted, refused, applied, committed or rolled back, with the reason, goes to every uplink as an
event in the lane `report`. A report is in the record until the spool has it.
"""

import asyncio
import contextlib
import functools
import logging
import random as _random
import secrets
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from agent import __version__
from agent.blocks import FrameBlock
from agent.clock import SECOND, BootNs, Clock, WallNs, certain
from agent.collect import Plan
from agent.errors import AgentError, ConfigError, DatabaseError, UpdateError
from agent.ignition import signal_of
from agent.ota import choice, listing
from agent.ota import record as records
from agent.ota.bundle import read
from agent.ota.judge import SILENT, Judge, Limits, Reading, Verdict
from agent.ota.record import Record, Report, What
from agent.ota.start import forget_plans, load_bundle, load_current
from agent.ota.store import Store
from agent.ota.trusted import Looked
from agent.ota.types import BundleId, Target
from agent.ota.watch import Watch
from agent.pipeline import Prepared
from agent.rehearsal import Rehearsal, expectations, rehearse
from agent.settings import Device, Ota, SocketCanBus

log = logging.getLogger("edge_agent.ota")

_BEFORE_S: Final = 5
"""How long the plan before is watched, for what it does to be compared with."""
_SOON_S: Final = 60.0
"""The shortest time between two looks that somebody asks for over the network."""
_CROWD_S: Final = 10.0
"""A whole fleet may be told at once: each vehicle waits for a part of this."""
_DURABLE_S: Final = 5.0
_SILENT_NS: Final = 3600 * SECOND
"""A plan that nobody has seen decode does not stay, but for buses that are silent for so long."""
_JITTER: Final = 0.2


Step = Callable[[Record], Record]


class Host(Protocol):
    """What the daemon does for updates. In the event loop, but for `rehearsed`."""

    def prepared(self) -> Prepared: ...
    def rehearsed(self, plan: Plan) -> Prepared:
        """A plan compiled, with a ledger of its own; in any thread."""
        ...

    def switch(self, plan: Plan, bundle: str, /) -> Awaitable[None]: ...
    def reading(self) -> Reading: ...
    def frames(self) -> list[FrameBlock]: ...
    def tell(self, event: dict[str, Any]) -> threading.Event:
        """An event for the lane `report`; is set when it is durable."""
        ...

    async def fire(self, campaign: str, why: str) -> list[str]: ...
    async def resend(self, uplink: str, first: str, last: str) -> int: ...


class Updates:
    """Belongs to the event loop; `nudge` may be called from any thread."""

    def __init__(
        self,
        device: Device,
        settings: Ota,
        store: Store,
        clock: Clock,
        host: Host,
        *,
        random: Callable[[], float] = _random.random,
    ) -> None:
        """`store` is open, and the plan that its record names is the one that runs."""
        self._device = device
        self._settings = settings
        self._store = store
        self._clock = clock
        self._host = host
        self._random = random
        work = Path(device.state_dir) / "ota" / "work"
        self._watch = Watch(self._settings, store, clock, work)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._due = self._soonest = clock.boot()
        self._busy = asyncio.Lock()
        """Held while what runs changes, or is on trial."""
        self._back = ""
        """Why the trial under way is to be taken back; empty: it is not."""
        self._unsaved: Record | None = None
        """What holds already, and the disk has not taken yet."""
        self._state = "waiting"
        self._why = "not looked yet"
        self._trouble = ""
        self._failures = 0
        self._looked: BootNs | None = None
        self._expires: WallNs | None = None
        self._findings: Sequence[str] = ()

    # -- the task ----------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled; a defect in one round costs that round."""
        self._loop = asyncio.get_running_loop()
        while True:
            try:
                await self._round()
            except UpdateError as e:
                self._failures += 1
                self._complain(str(e))
            except Exception:
                self._failures += 1
                log.exception("looking for updates failed")
            await self._rest()

    async def _round(self) -> None:
        if not await asyncio.to_thread(self._save_late):
            return  # the disk takes nothing; the store says so
        await self._tell()
        if (trial := self._store.record.trial) is not None:
            async with self._busy:
                await self._trial(trial.bundle)
        await self._look()
        await self._tell()

    async def _rest(self) -> None:
        """Until the next look is due, or somebody asks for one."""
        every = self._settings.poll_s
        if self._failures:
            every = min(every, _SOON_S * 2 ** min(self._failures - 1, 10))
        every *= 1 + _JITTER * (2 * self._random() - 1)
        began = self._clock.boot()
        self._due = BootNs(began + round(every * SECOND))
        self._soonest = BootNs(began + round(min(every, _SOON_S) * SECOND))
        self._changed.clear()
        while (left := self._due - self._clock.boot()) > 0:
            # asyncio's clock stands still while the computer is suspended; boot time does not.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left / SECOND, _SOON_S))
            self._changed.clear()

    def nudge(self) -> None:
        """Somebody on the network says that a look is worth it: soon, and not too often."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ask, self._random() * _CROWD_S)

    def _ask(self, delay_s: float) -> None:
        wanted = max(BootNs(self._clock.boot() + round(delay_s * SECOND)), self._soonest)
        self._due = min(self._due, wanted)
        self._changed.set()

    def end(self, failed: Sequence[str]) -> None:
        """The process ends: in order, which is no fault of a trial, or by a defect."""
        record = self._store.record
        if record.trial is None:
            return
        try:
            if failed:
                words = f"the agent ended in its trial: {failed[0]}"
                report = self._new("rolled back", record.trial.bundle, words)
                self._store.save(records.reported(records.rejected(record, words), report))
            else:
                self._store.save(records.stopped(record))
        except UpdateError as e:
            log.warning("%s", e)

    # -- a look ------------------------------------------------------------------------------

    async def _look(self) -> None:
        """What the repository says now, and what follows from it."""
        self._state = "looking"
        try:
            await self._follow(await asyncio.to_thread(self._watch.look))
        except UpdateError as e:
            self._failures += 1
            self._complain(str(e))
        else:
            self._failures = 0
            self._complain("")
        self._state = "waiting"

    def _complain(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.warning("%s", trouble)
        elif self._trouble and not trouble:
            log.info("the repository answers, and its word is good again")
        self._trouble = trouble

    async def _follow(self, looked: Looked) -> None:
        self._looked = self._clock.boot()
        self._expires = looked.expires
        offers = listing.parse(looked.targets)
        if offers.findings != self._findings:
            self._findings = offers.findings
            for finding in offers.findings:
                log.warning("%s", finding)
        record = self._store.record
        for request in choice.due(offers, self._identity, record.done, self._watch.reference):
            await self._fulfil(request)
        chosen = choice.choose(
            offers,
            self._identity,
            current=record.current,
            rejected=[each.bundle.sha256 for each in record.rejected],
            pinned=record.pinned,
        )
        match chosen:
            case choice.Take(offer, why):
                self._why = why
                await self._take(looked.targets[offer.path], offer)
            case choice.Leave(why):
                self._why = why
                async with self._busy:
                    if (bundle := self._store.record.current) is not None:
                        await self._leave(bundle, why, left=False)
            case choice.Stay(why):
                self._why = why

    @property
    def _identity(self) -> choice.Identity:
        groups = frozenset(self._settings.groups)
        return choice.Identity(self._device.vehicle, groups, __version__)

    # -- requests ----------------------------------------------------------------------------

    async def _fulfil(self, request: listing.Request) -> None:
        """Do what was asked once. It is remembered first: a cut costs it, and never doubles it."""
        await asyncio.to_thread(self._store.change, lambda r: records.done(r, request.id))
        try:
            if request.do == "fire":
                fired = await self._host.fire(request.campaign, f"request {request.id}")
                why = f"{request.id}: fired {', '.join(fired)}"
            else:
                n = await self._host.resend(request.uplink, request.first, request.last)
                why = f"{request.id}: {n} batches are sent again"
        except AgentError as e:
            why = f"{request.id}: {e}"
        await self._note(_as_it_is, "request", None, why)

    # -- a bundle ----------------------------------------------------------------------------

    async def _take(self, target: Target, offer: listing.Offer) -> None:
        """Fetch what is offered, look at it, and try it."""
        bundle = offer.id
        self._state, self._why = "fetching", f"{bundle.title} is fetched"
        data = await asyncio.to_thread(self._watch.download, target)
        try:
            await asyncio.to_thread(self._admit, data, bundle)
            plan = await asyncio.to_thread(load_bundle, self._device, self._store, bundle)
            signal_of(self._device.ignition, plan)
        except (UpdateError, ConfigError, DatabaseError) as e:
            await self._refuse(bundle, str(e))
            return
        before = [self._host.reading()]
        for _ in range(_BEFORE_S):
            await asyncio.sleep(1)
            before.append(self._host.reading())
        self._state, self._why = "rehearsing", f"{bundle.title} is rehearsed"
        rehearsal = await asyncio.to_thread(self._rehearse, plan)
        if rehearsal.harm:
            await self._refuse(bundle, rehearsal.harm)
            return
        async with self._busy:
            words = "; ".join(dict.fromkeys([rehearsal.summary, *rehearsal.findings]))
            await self._note(lambda r: records.accepted(r, bundle), "accepted", bundle, words)
            try:
                await self._host.switch(plan, bundle.title)
            except AgentError as e:
                await self._return(bundle, str(e))
                return
            await self._note(_as_it_is, "applied", bundle, "")
            await self._trial(bundle, before, rehearsal.expected)

    def _admit(self, data: bytes, bundle: BundleId) -> None:
        """Keep an archive whose manifest says what the repository says; in a thread."""
        manifest = read(data).manifest
        if (manifest.name, manifest.version) != (bundle.name, bundle.version):
            raise UpdateError(
                f"the repository calls it {bundle.title}, but its manifest says "
                f"{manifest.name} {manifest.version}"
            )
        if not manifest.audience.fits(self._device.vehicle, self._settings.groups):
            raise UpdateError("its manifest says that it is not for this vehicle")
        if not choice.meets(__version__, manifest.minimum_agent):
            raise UpdateError(
                f"it needs agent {manifest.minimum_agent} or later; this one is {__version__}"
            )
        self._store.keep(data, bundle.sha256)

    def _rehearse(self, plan: Plan) -> Rehearsal:
        """In a thread, beside the run."""
        return rehearse(
            self._host.rehearsed(plan),
            self._host.prepared(),
            self._host.frames(),
            filtered=[
                bus.name
                for bus in self._device.bus
                if isinstance(bus, SocketCanBus) and bus.kernel_filter
            ],
            max_events_per_minute=self._settings.max_events_per_minute,
        )

    async def _refuse(self, bundle: BundleId, why: str) -> None:
        log.warning("bundle %s is refused: %s", bundle.title, why)
        await self._note(lambda r: records.refused(r, bundle, why), "refused", bundle, why)
        self._why = f"{bundle.title} is refused: {why}"
        await asyncio.to_thread(self._tidy)

    # -- the trial ---------------------------------------------------------------------------

    async def _trial(
        self,
        bundle: BundleId,
        before: Sequence[Reading] = (),
        expected: Mapping[str, float] | None = None,
    ) -> None:
        """Watch until the verdict; then stay, or go back."""
        if expected is None:
            buses = [bus.name for bus in self._device.bus]
            expected = expectations(self._host.prepared(), buses)
        self._state, self._why = "trial", f"{bundle.title} is on trial"
        log.info("bundle %s is on trial for %g s", bundle.title, self._settings.trial_s)
        began = self._clock.boot()
        verdict = await self._verdict(before, expected)
        while verdict.good and SILENT in verdict.unjudged:
            if self._clock.boot() - began >= _SILENT_NS:
                break
            self._why = f"{bundle.title} is on trial, and waits for frames"
            verdict = await self._verdict(before, expected)
        if not verdict.good:
            await self._return(bundle, verdict.why)
            return
        await self._note(records.committed, "committed", bundle, verdict.why)
        log.info("bundle %s stays: %s", bundle.title, verdict.why)
        self._why = f"{bundle.title} runs"
        await asyncio.to_thread(self._tidy)

    async def _verdict(self, before: Sequence[Reading], expected: Mapping[str, float]) -> Verdict:
        settings = self._settings
        limits = Limits(
            settings.trial_s,
            settings.max_cpu_percent,
            settings.max_memory_mb,
            settings.max_events_per_minute,
        )
        judge = Judge(limits, before, expected=expected)
        while True:
            if self._back:
                back, self._back = self._back, ""
                return Verdict(good=False, why=back)
            if (verdict := judge.look(self._host.reading())) is not None:
                return verdict
            await asyncio.sleep(1)

    async def _return(self, bundle: BundleId, why: str) -> None:
        """Take back what is on trial."""
        log.warning("bundle %s is taken back: %s", bundle.title, why)
        await self._go_on(records.rejected(self._store.record, why), bundle, why)
        self._why = f"{bundle.title} was taken back: {why}"

    async def _leave(self, bundle: BundleId, why: str, *, left: bool) -> None:
        """Give up the bundle that runs; with `left` so that it is not taken again."""
        record = self._store.record
        after = records.left(record, why) if left else records.withdrawn(record)
        log.warning("bundle %s is given up: %s", bundle.title, why)
        await self._go_on(after, bundle, why)

    async def _go_on(self, after: Record, without: BundleId, why: str) -> None:
        """Without this bundle, also where the disk does not take the word of it yet."""
        self._unsaved = records.reported(after, self._new("rolled back", without, why))
        await asyncio.to_thread(self._save_late)
        plan, bundle = await asyncio.to_thread(
            load_current, self._device, self._store, after, certain(self._clock)
        )
        await self._host.switch(plan, bundle.title if bundle else "")
        await asyncio.to_thread(self._tidy)
        await self._tell()

    def _save_late(self) -> bool:
        """Make durable what the disk did not take before; whether all is."""
        if self._unsaved is not None and self._store.attempt(self._unsaved):
            self._unsaved = None
        return self._unsaved is None

    def _tidy(self) -> None:
        with contextlib.suppress(UpdateError):  # it is in `trouble`, and done another time
            self._store.clean()
        forget_plans(self._device, self._store)

    # -- telling -----------------------------------------------------------------------------

    async def _note(self, step: Step, what: What, bundle: BundleId | None, why: str) -> None:
        """Remember a step together with the report of it, and tell that.

        Raises:
            UpdateError: it could not be made durable, or is not possible.
        """
        report = self._new(what, bundle, why)
        await asyncio.to_thread(self._store.change, lambda r: records.reported(step(r), report))
        await self._tell()

    def _new(self, what: What, bundle: BundleId | None, why: str) -> Report:
        return Report(secrets.token_hex(6), what, bundle, why, certain(self._clock))

    async def _tell(self) -> None:
        """Give reports to the spool, and forget them once they are durable there."""
        reports = self._store.record.reports
        if not reports:
            return
        durable = [self._host.tell(_event(report, self._clock.boot())) for report in reports]
        if all([await asyncio.to_thread(each.wait, _DURABLE_S) for each in durable]):
            ids = [report.id for report in reports]
            await asyncio.to_thread(self._store.change, lambda r: records.told(r, ids))

    # -- by hand -----------------------------------------------------------------------------

    async def command(self, what: str) -> dict[str, Any]:
        """The command `ota` of the socket: show, poll, rollback, pin, unpin.

        Raises:
            ConfigError: there is no such thing to do.
            UpdateError: it could not be made durable.
        """
        record = self._store.record
        match what:
            case "show":
                pass
            case "poll":
                self._due = self._clock.boot()
                self._changed.set()
            case "pin" | "unpin":
                step = functools.partial(records.pinned, on=what == "pin")
                await asyncio.to_thread(self._store.change, step)
            case "rollback" if record.trial is not None:
                self._back = records.BY_HAND
            case "rollback":
                async with self._busy:
                    if (bundle := records.running(self._store.record)) is None:
                        raise ConfigError("the factory plan runs: there is nothing to go back to")
                    await self._leave(bundle, records.BY_HAND, left=True)
            case _:
                raise ConfigError(f"ota: there is show, poll, rollback, pin and unpin, not {what}")
        return self.status()

    def status(self) -> dict[str, Any]:
        """For the status socket; fit for JSON."""
        now = self._clock.boot()
        looked = None if self._looked is None else round((now - self._looked) / SECOND, 3)
        expires = None if self._expires is None else self._expires // SECOND
        return {
            **records.summary(self._store.record),
            "state": self._state,
            "why": self._why,
            "trouble": self._trouble or self._store.trouble,
            "looked_s_ago": looked,
            "expires": expires,
            "clock_untrusted": self._watch.clock_untrusted,
            "findings": list(self._findings),
        }


def _as_it_is(record: Record) -> Record:
    return record


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
