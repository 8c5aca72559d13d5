"""Configuration over the air at work: looks, tries, stays or goes back. One task of the daemon.

What is decided is decided elsewhere, and purely: `agent.ota.choice` says what is for this vehicle,
`agent.ota.judge` whether it does well, `agent.ota.record` what is remembered. Here the steps are
put in their order, each durable before the next (see `agent.ota`), and each told (see
`agent.chronicle`): what was accepted, refused, applied, committed or rolled back, and why.

A bundle is refused for what it is, and for that alone: where the disk, the link or this program
stand in its way, it is tried again later. At the end of the program nobody waits for what takes
long (see `agent.apart`). A step that is cut short is gone on with at the next look, or start: what
runs is brought to what the record says.
"""

import asyncio
import contextlib
import functools
import logging
import random as _random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from agent import __version__
from agent.apart import apart
from agent.chronicle import Chronicle, Step
from agent.clock import SECOND, BootNs, Clock, WallNs, certain
from agent.collect import Plan
from agent.errors import AgentError, ConfigError, UpdateError
from agent.host import Host
from agent.ignition import signal_of
from agent.ota import choice, listing
from agent.ota import record as records
from agent.ota.bundle import read
from agent.ota.judge import SILENT, Judge, Limits, Reading, Verdict
from agent.ota.record import Record, running
from agent.ota.start import forget_plans, load_current, plan_of
from agent.ota.store import Store
from agent.ota.trusted import Looked
from agent.ota.types import BundleId, Target
from agent.ota.watch import Watch
from agent.rehearsal import Rehearsal, expectations, rehearse
from agent.settings import Device, Ota, SocketCanBus

log = logging.getLogger("edge_agent.ota")

_BEFORE_S: Final = 5
"""How long the plan before is watched, for what it does to be compared with."""
_SOON_S: Final = 60.0
"""The shortest time between two looks that somebody asks for over the network."""
_CROWD_S: Final = 10.0
"""A whole fleet may be told at once: each vehicle waits for a part of this."""
_SILENT_NS: Final = 3600 * SECOND
"""A plan that nobody has seen decode does not stay, but for buses that are silent for so long."""
_JITTER: Final = 0.2

_P = ParamSpec("_P")
_T = TypeVar("_T")


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
        self._chronicle = Chronicle(store, clock, host.tell)
        self._clock = clock
        self._host = host
        self._random = random
        work = Path(device.state_dir) / "ota" / "work"
        self._watch = Watch(self._settings, store, clock, work)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = asyncio.Event()
        self._due = self._soonest = clock.boot()
        self._nudged: BootNs | None = None
        """When somebody on the network wants us to look."""
        self._polled = False
        """Whether somebody here does."""
        self._busy = asyncio.Lock()
        """Held while what runs changes, or is on trial."""
        self._back = ""
        """Why the trial under way is to be taken back; empty: it is not."""
        self._fetched: tuple[str, bytes] | None = None
        """The last archive, until it is settled: it is not fetched twice."""
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
            except AgentError as e:
                self._failures += 1
                self._complain(str(e))
            except Exception:
                self._failures += 1
                log.exception("looking for updates failed")
            await self._rest()

    async def _round(self) -> None:
        if not self._host.alive:
            return
        if not await asyncio.to_thread(self._chronicle.save_late):
            self._failures += 1
            return  # the disk takes nothing; the store says so
        await self._chronicle.tell()
        async with self._busy:
            await self._settle()
            if (trial := self._chronicle.record.trial) is not None:
                await self._trial(trial.bundle)
        await self._look()
        await self._chronicle.tell()

    async def _rest(self) -> None:
        """Until the next look is due, or somebody asks for one."""
        every = self._settings.poll_s
        if self._failures:
            every = min(every, _SOON_S * 2 ** min(self._failures - 1, 10))
        every *= 1 + _JITTER * (2 * self._random() - 1)
        began = self._clock.boot()
        self._due = BootNs(began + round(every * SECOND))
        self._soonest = BootNs(began + round(min(every, _SOON_S) * SECOND))
        while not self._polled:
            self._changed.clear()
            due = self._due
            if self._nudged is not None:
                due = min(due, max(self._nudged, self._soonest))
            if (left := due - self._clock.boot()) <= 0:
                break
            # asyncio's clock stands still while the computer is suspended; boot time does not.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left / SECOND, _SOON_S))
        # Who asks from now on asks for another look.
        self._nudged, self._polled = None, False

    def nudge(self) -> None:
        """Somebody on the network says that a look is worth it: soon, and not too often."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ask, self._random() * _CROWD_S)

    def _ask(self, delay_s: float) -> None:
        wanted = BootNs(self._clock.boot() + round(delay_s * SECOND))
        self._nudged = wanted if self._nudged is None else min(self._nudged, wanted)
        self._changed.set()

    def end(self, failed: Sequence[str]) -> None:
        """The process ends: in order, which is no fault of a trial, or by a defect."""
        self._chronicle.end(failed)

    # -- a look ------------------------------------------------------------------------------

    async def _look(self) -> None:
        """What the repository says now, and what follows from it."""
        self._state = "looking"
        try:
            await self._follow(await apart(self._watch.look))
        except UpdateError as e:
            self._failures += 1
            self._complain(str(e))
        else:
            self._failures = 0
            self._complain("")
        finally:
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
        groups = frozenset(self._settings.groups)
        identity = choice.Identity(self._device.vehicle, groups, __version__)
        record = self._chronicle.record
        for request in choice.due(offers, identity, record.done, self._watch.reference):
            await self._fulfil(request)
        chosen = choice.choose(
            offers,
            identity,
            current=record.current,
            rejected=[each.bundle.sha256 for each in record.rejected],
            pinned=record.pinned,
        )
        self._why = chosen.why
        if isinstance(chosen, choice.Take):
            await self._take(looked.targets[chosen.offer.path], chosen.offer)
            return
        self._fetched = None
        if isinstance(chosen, choice.Leave):
            async with self._busy:
                if (bundle := self._chronicle.record.current) is not None:
                    await self._leave(bundle, _to_factory, chosen.why)

    # -- requests ----------------------------------------------------------------------------

    async def _fulfil(self, request: listing.Request) -> None:
        """Do what was asked once. It is remembered first: a cut costs it, and never doubles it."""
        await self._chronicle.change(lambda record: records.done(record, request.id))
        try:
            if request.do == "fire":
                fired = await self._host.fire(request.campaign, f"request {request.id}")
                why = f"{request.id}: fired {', '.join(fired)}"
            else:
                n = await self._host.resend(request.uplink, request.first, request.last)
                why = f"{request.id}: {n} batches are sent again"
        except AgentError as e:
            why = f"{request.id}: {e}"
        await self._chronicle.note(_as_it_is, "request", None, why)

    # -- a bundle ----------------------------------------------------------------------------

    async def _take(self, target: Target, offer: listing.Offer) -> None:
        """Fetch what is offered and try it, unless a look at it has ended the agent before."""
        bundle = offer.id
        self._state, self._why = "fetching", f"{bundle.title} is fetched"
        if self._fetched is None or self._fetched[0] != bundle.sha256:
            self._fetched = bundle.sha256, await apart(self._watch.download, target)
            self._complain("")
        try:
            await self._chronicle.change(functools.partial(records.examining, bundle=bundle))
        except UpdateError as e:
            if self._store.trouble:
                raise
            await self._refuse(bundle, str(e))
            return
        try:
            await self._consider(bundle, self._fetched[1])
        except AgentError:
            with contextlib.suppress(UpdateError):
                await self._chronicle.change(records.unexamined)
            raise
        if self._chronicle.record.examined is not None:
            await self._chronicle.change(records.unexamined)

    async def _consider(self, bundle: BundleId, data: bytes) -> None:
        """Look at a bundle, rehearse it, and try it."""
        async with self._busy:  # who goes back meanwhile also removes what nothing names
            plan = await self._examine(bundle, self._admit, data, bundle)
        if plan is None:
            return
        self._state, self._why = "rehearsing", f"{bundle.title} is rehearsed"
        before = [self._host.reading()]
        for _ in range(_BEFORE_S):
            await asyncio.sleep(1)
            before.append(self._host.reading())
        rehearsal = await self._examine(bundle, self._rehearse, plan)
        if rehearsal is None:
            return
        async with self._busy:
            if self._chronicle.record.pinned or not self._host.alive:
                return
            await asyncio.to_thread(self._store.keep, data, bundle.sha256)
            words = "; ".join(dict.fromkeys([rehearsal.summary, *rehearsal.findings]))
            step = functools.partial(records.accepted, bundle=bundle)
            await self._chronicle.note(step, "accepted", bundle, words)
            self._fetched = None
            if not await self._switch(plan, bundle):
                return
            with contextlib.suppress(UpdateError):  # the disk; the trial is what counts
                await self._chronicle.note(_as_it_is, "applied", bundle, "")
            await self._trial(bundle, before, rehearsal.expected)

    async def _examine(
        self, bundle: BundleId, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
    ) -> _T | None:
        """What a look at a bundle gives; None: by that it is refused."""
        try:
            return await apart(work, *args, **kwargs)
        except OSError as e:
            raise UpdateError(f"bundle {bundle.title} cannot be looked at now: {e}") from e
        except Exception as e:  # noqa: BLE001 - whatever it is would end the agent at a start
            await self._refuse(bundle, _words(e))
            return None

    def _admit(self, data: bytes, bundle: BundleId) -> Plan:
        """The plan of an archive whose manifest says what the repository says; in a thread."""
        found = read(data)
        manifest = found.manifest
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
        plan = plan_of(self._device, found)
        signal_of(self._device.ignition, plan)
        return plan

    def _rehearse(self, plan: Plan) -> Rehearsal:
        """In a thread, beside the run; an UpdateError: it does harm."""
        found = rehearse(
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
        if found.harm:
            raise UpdateError(found.harm)
        return found

    async def _refuse(self, bundle: BundleId, why: str) -> None:
        log.warning("bundle %s is refused: %s", bundle.title, why)
        step = functools.partial(records.refused, bundle=bundle, why=why)
        await self._chronicle.note(step, "refused", bundle, why)
        self._fetched = None
        self._why = f"{bundle.title} is refused: {why}"
        await asyncio.to_thread(self._tidy)

    async def _switch(self, plan: Plan, bundle: BundleId) -> bool:
        """Go on with what is on trial; where that cannot be, it is taken back."""
        try:
            await self._host.switch(plan, bundle.title)
        except Exception as e:  # noqa: BLE001 - whatever it is would end the agent at a start
            if self._host.alive:
                await self._return(bundle, _words(e))
            return False
        return True

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
        await self._chronicle.note(records.committed, "committed", bundle, verdict.why)
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
        await self._go_on(lambda record: records.rejected(record, why), bundle, why)
        self._why = f"{bundle.title} was taken back: {why}"

    async def _leave(self, bundle: BundleId, step: Step, why: str) -> None:
        """Give up the bundle that runs."""
        log.warning("bundle %s is given up: %s", bundle.title, why)
        await self._go_on(step, bundle, why)
        self._why = f"{bundle.title} was given up: {why}"

    async def _go_on(self, step: Step, without: BundleId, why: str) -> None:
        """Without this bundle, also where the disk does not take the word of it yet."""
        await self._chronicle.insist(step, "rolled back", without, why)
        await self._settle()
        await asyncio.to_thread(self._tidy)
        await self._chronicle.tell()

    async def _settle(self) -> None:
        """Run what the record says, where that is not what runs: a step was cut short."""
        record = self._chronicle.record
        if self._host.prepared().bundle == _title(running(record)):
            return
        plan, bundle = await apart(
            load_current, self._device, self._store, record, certain(self._clock)
        )
        if self._host.prepared().bundle == _title(bundle):
            return
        if bundle is not None and record.trial is not None and bundle == record.trial.bundle:
            await self._switch(plan, bundle)
        else:
            await self._host.switch(plan, _title(bundle))

    def _tidy(self) -> None:
        with contextlib.suppress(UpdateError):  # it is in `trouble`, and done another time
            self._store.clean()
        forget_plans(self._device, self._store)

    # -- by hand -----------------------------------------------------------------------------

    async def command(self, what: str) -> dict[str, Any]:
        """The command `ota` of the socket: show, poll, rollback, pin, unpin.

        Raises:
            ConfigError: there is no such thing to do.
            UpdateError: it could not be made durable.
        """
        match what:
            case "show":
                pass
            case "poll":
                self._polled = True
                self._changed.set()
            case "pin" | "unpin":
                await self._chronicle.change(functools.partial(records.pinned, on=what == "pin"))
            case "rollback":
                await self._roll_back()
            case _:
                raise ConfigError(f"ota: there is show, poll, rollback, pin and unpin, not {what}")
        return self.status()

    async def _roll_back(self) -> None:
        """Give up what runs now. A trial under way ends by that within a second."""
        bundle = running(self._chronicle.record)
        if self._busy.locked():
            self._back = records.BY_HAND
        elif bundle is None:
            raise ConfigError("the factory plan runs: there is nothing to go back to")
        async with self._busy:
            self._back = ""
            if bundle is not None and running(self._chronicle.record) == bundle:
                step = functools.partial(records.left, why=records.BY_HAND)
                await self._leave(bundle, step, records.BY_HAND)

    def status(self) -> dict[str, Any]:
        """For the status socket; fit for JSON."""
        now = self._clock.boot()
        looked = None if self._looked is None else round((now - self._looked) / SECOND, 3)
        expires = None if self._expires is None else self._expires // SECOND
        return {
            **records.summary(self._chronicle.record),
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


def _to_factory(record: Record) -> Record:
    """Nothing that the repository has is for this vehicle: neither is what ran before."""
    while running(record) is not None:
        record = records.withdrawn(record)
    return record


def _title(bundle: BundleId | None) -> str:
    """As a host calls it; the factory plan has no name."""
    return "" if bundle is None else bundle.title


def _words(error: Exception) -> str:
    if isinstance(error, AgentError):
        return str(error)
    return f"it cannot be used: {type(error).__name__}: {error}"
