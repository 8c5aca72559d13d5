"""A scenario on a bench: start, steps, looks, rest, end, verdict.

One look every quarter of a second takes the agent's status, keeps the newest ledger of each of its
processes, and judges what can be decided already. The cloud's batches are read beside it, each
once. All of it belongs to one event loop; what reads files or decodes runs in threads.
"""

import asyncio
import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from agent.bench.scenario.arrived import Arrived
from agent.bench.scenario.figures import Figures
from agent.bench.scenario.judge import judge
from agent.bench.scenario.model import PlacedExpect, SameAsDecoded, Scenario, UpdateEnds
from agent.bench.scenario.recorded import RecordedWorld, record
from agent.bench.scenario.recording import Decoded, Recording, decode_directly, differences
from agent.bench.scenario.seen import Seen
from agent.bench.scenario.steps import LOOK_S, StepRun
from agent.bench.scenario.telling import Progress, campaigns, happened, total
from agent.bench.scenario.verdict import Judged, Verdict
from agent.bench.world import Options, World
from agent.errors import AgentError
from agent.ledger import Counts
from agent.settings import packaged

Say = Callable[[str], None]

_ARRIVED_EVERY: Final = 4
"""Looks: batches come every second or two."""
_LOOK_FOR_UPDATES_S: Final = 10.0
"""A vehicle looks for them every second here, and rehearses what it finds."""
_MOST_TROUBLE: Final = 100
"""Sentences about a ledger that does not close."""


@dataclasses.dataclass(frozen=True)
class Where:
    """Where a bench is: its folder (None: a temporary one), and the address of its cloud."""

    folder: Path | None = None
    host: str = "127.0.0.1"
    port: int = 0


class OpenWorld(Protocol):
    """How a bench is started: `World.open`, or what a test has in its place."""

    def __call__(
        self, options: Options, tell: Say, /
    ) -> contextlib.AbstractAsyncContextManager[World]: ...


async def run_scenario(
    scenario: Scenario,
    where: Where | None = None,
    *,
    say: Say = lambda _: None,
    open_world: OpenWorld | None = None,
) -> Verdict:
    """Run a scenario to its end.

    Args:
        scenario: a checked one.
        where: folder and address; None: a temporary one, and any port of this computer.
        say: takes lines for people while it runs.
        open_world: starts the bench, in place of the one that suits the scenario.

    Raises:
        ConfigError: the bench cannot be as the scenario wants it.
        AgentError: the bench does not start, or the recording cannot be decoded.
    """
    where = where or Where()
    decoded = await _decoded(scenario, say)
    if where.folder is not None:
        return await _run(scenario, where, decoded, say, open_world)
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="edge-agent-scenario-"))
    good = True
    try:
        there = dataclasses.replace(where, folder=folder)
        verdict = await _run(scenario, there, decoded, say, open_world)
        good = verdict.good
        return dataclasses.replace(verdict, folder=None) if good else verdict
    finally:
        if good:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def _run(
    scenario: Scenario,
    where: Where,
    decoded: Decoded | None,
    say: Say,
    open_world: OpenWorld | None,
) -> Verdict:
    options = _options(scenario, where, decoded)
    async with contextlib.AsyncExitStack() as stack:
        if scenario.recorded and options.log is None:
            if options.folder is None:
                raise AssertionError
            await asyncio.to_thread(options.folder.mkdir, parents=True, exist_ok=True)
            log = options.folder.absolute() / "drive.log"
            say(f"{scenario.head.vehicle.kind}: its drive is being recorded ...")
            await asyncio.to_thread(record, scenario.head.vehicle, log)
            options = dataclasses.replace(options, log=log, seconds=None)
        suits: OpenWorld = RecordedWorld.open if scenario.recorded else World.open
        world = await stack.enter_async_context((open_world or suits)(options, say))
        return await _Run(scenario, world, decoded, say).to_its_end()


async def _decoded(scenario: Scenario, say: Say) -> Decoded | None:
    """The recording decoded directly, where that is to be known."""
    vehicle = scenario.head.vehicle
    compared = any(isinstance(placed.expect, SameAsDecoded) for placed in scenario.expects)
    if vehicle.kind != "log" or not (compared or vehicle.takes_s):
        return None
    dbc = [Path(each) for each in vehicle.dbc]
    say(f"Decoding {vehicle.log} directly ...")
    recording = Recording(Path(vehicle.log), dbc, vehicle.channel, vehicle.j1939)
    decoded = await asyncio.to_thread(decode_directly, recording)
    say(f"  {decoded.sentence}")
    return decoded


def _options(scenario: Scenario, where: Where, decoded: Decoded | None) -> Options:
    head, vehicle, agent = scenario.head, scenario.head.vehicle, scenario.head.agent
    virtual = vehicle.kind if vehicle.kind in ("ev", "truck", "charging") else "ev"
    plan = Path(head.plan) if head.plan else None
    if plan is None and scenario.recorded and vehicle.kind == virtual:
        plan = packaged(f"config/plan-{virtual}.toml")
    speed = vehicle.speed
    if vehicle.takes_s:
        seconds = decoded.seconds if decoded is not None else vehicle.seconds or 0.0
        speed = max(1.0, seconds / vehicle.takes_s)
    return Options(
        vehicle=virtual,
        dbc=tuple(Path(each) for each in vehicle.dbc),
        log=Path(vehicle.log) if vehicle.log else None,
        channel=vehicle.channel,
        j1939=vehicle.j1939,
        loop=vehicle.loop,
        speed=speed,
        seconds=vehicle.seconds,
        seed=vehicle.seed,
        plan=plan,
        host=where.host,
        port=where.port,
        folder=where.folder,
        bus="memory" if agent.bus == "recording" else agent.bus,
        seal_after_s=agent.seal_after_s,
        trial_s=agent.trial_s,
        gbt32960=agent.gbt32960,
    )


class _Run:
    """One run; see the module."""

    def __init__(self, scenario: Scenario, world: World, decoded: Decoded | None, say: Say) -> None:
        self._scenario = scenario
        self._world = world
        self._decoded = decoded
        self._say = say
        self._arrived = Arrived(world.folder / "cloud")
        self._status: dict[str, Any] = {}
        self._open_ledgers: list[str] = []
        self._platform: Mapping[str, Any] | None = None
        self._looks = 0
        self._known = Figures((), {}, {})
        """Of the last look; batches are read in a thread meanwhile."""
        self._driving = True
        self._began = asyncio.get_running_loop().time() - world.seconds
        self._progress = Progress(say)
        self._open: list[PlacedExpect] = list(scenario.expects)
        self._judged: list[Judged] = []
        self._trouble: list[str] = []
        self._steps = [
            StepRun(placed, world, self._now, lambda: self._known, say) for placed in scenario.steps
        ]

    def _now(self) -> float:
        return asyncio.get_running_loop().time() - self._began

    async def to_its_end(self) -> Verdict:
        """Steps, rest, end, and the verdict."""
        looking = asyncio.create_task(self._look_on())
        driving = asyncio.create_task(self._drive())
        try:
            # A look that fails ends the drive, and so does an agent that ended by itself.
            await asyncio.wait({looking, driving}, return_when=asyncio.FIRST_COMPLETED)
            await (looking if looking.done() else driving)
            ledger = await self._finish()
        except AgentError as e:
            self._trouble.append(str(e))
            ledger = self._newest()
        finally:
            for task in (looking, driving):
                task.cancel()
            await asyncio.gather(looking, driving, return_exceptions=True)
        seconds = self._now()
        await self._judge_the_end()
        return Verdict(
            self._scenario,
            sorted(self._judged, key=lambda each: each.line),
            [step.seen for step in self._steps],
            self._trouble,
            ledger,
            seconds,
            max(1, len(self._ledgers)),
            self._world.folder,
        )

    async def _drive(self) -> None:
        """Until the vehicle has arrived and each step is taken; then all faults are over."""
        steps = [asyncio.create_task(step.run()) for step in self._steps]
        driven = asyncio.create_task(self._world.driven())
        try:
            await asyncio.gather(*steps, driven)
        finally:
            for task in (*steps, driven):
                task.cancel()
            await asyncio.gather(*steps, driven, return_exceptions=True)
        self._driving = False
        for step in self._steps:
            if step.is_on:
                await step.take_back()
        self._say("--- the vehicle has arrived ---")
        await self._rest()

    async def _rest(self) -> None:
        """Until all is at the cloud; what is still missing then is for the judge."""
        limit_s = self._scenario.head.settle_s
        await self._world.settled(limit_s)
        begun = self._now()
        trial_s = min(limit_s, 2 * self._scenario.head.agent.trial_s + _LOOK_FOR_UPDATES_S)
        while self._now() < begun + limit_s:
            on_trial = self._now() < begun + trial_s and self._awaits_updates()
            if not (self._unrecovered() or on_trial):
                break
            await asyncio.sleep(LOOK_S)

    def _awaits_updates(self) -> bool:
        """Whether a trial may still be going on that is expected to end in some way."""
        seen = self._seen(over=True)
        updates = [each.expect for each in self._open if isinstance(each.expect, UpdateEnds)]
        return any(judge(expect, seen).state != "ok" for expect in updates)

    def _unrecovered(self) -> bool:
        steps = [step.seen for step in self._steps]
        return any(step.back_s is not None and step.recovered_s is None for step in steps)

    async def _finish(self) -> Counts:
        for step in self._steps:
            if step.stays:
                # To withdraw it now would make the vehicle change its plan while it leaves.
                self._world.switchboard.over(step.seen.do)
        verdict = await self._world.finish(self._scenario.head.settle_s)
        self._platform = verdict.platform
        return self._newest()

    @property
    def _ledgers(self) -> list[tuple[int, Counts]]:
        """Number and newest ledger of each process, the oldest one first."""
        return sorted((run, counts) for (_, run), counts in self._world.ledgers.items())

    def _newest(self) -> Counts:
        ledgers = self._ledgers
        return ledgers[-1][1] if ledgers else {}

    async def _look_on(self) -> None:
        while True:
            status = await self._world.status()
            self._take(status)
            if self._looks % _ARRIVED_EVERY == 0:
                await asyncio.to_thread(self._arrived.look)
            self._looks += 1
            self._known = figures = self._figures()
            for step in self._steps:
                step.look(figures, drives=self._driving, answers=status is not None)
            self._show()
            self._progress.look(self._now(), self._world.state()["agent"]["state"], status)
            self._judge(self._seen(over=False))
            await asyncio.sleep(LOOK_S)

    def _show(self) -> None:
        """What the page shows of it."""
        steps = [step.seen for step in self._steps]
        self._world.scenario = {
            "name": self._scenario.name,
            "step": sum(step.taken_s is not None for step in steps),
            "of": len(steps),
            "says": self._scenario.head.about,
        }

    def _take(self, status: dict[str, Any] | None) -> None:
        if status is None:
            return
        self._status = status
        if len(self._open_ledgers) < _MOST_TROUBLE:
            self._open_ledgers += [f"at {self._now():.1f} s: {d}" for d in status["differences"]]

    def _figures(self) -> Figures:
        arrived = self._arrived
        return Figures(
            [ledger for _, ledger in self._ledgers],
            self._status,
            {
                "frames": self._world.frames,
                "runs": len(self._ledgers),
                "batches": len(arrived.files),
                "samples": arrived.kept,
                "events": len(arrived.events),
            },
        )

    def _seen(self, *, over: bool) -> Seen:
        arrived = self._arrived
        return Seen(
            self._now(),
            over,
            self._figures(),
            self._looks,
            tuple(self._open_ledgers),
            events=arrived.events,
            updates=arrived.updates,
            signals=arrived.signals,
            steps=[step.seen for step in self._steps],
        )

    def _judge(self, seen: Seen) -> None:
        for placed in list(self._open):
            finding = judge(placed.expect, seen)
            if finding.state == "open":
                continue
            self._open.remove(placed)
            decided_s = None if seen.over else round(seen.at_s, 2)
            that = str(placed.expect.__struct_config__.tag)
            judged = Judged(placed.line, that, finding, decided_s, placed.expect.note)
            self._judged.append(judged)
            if not seen.over:
                word = "ok" if judged.good else "WRONG"
                self._say(f"  {word}: {finding.expected}: {finding.seen}")

    async def _judge_the_end(self) -> None:
        world, arrived = self._world, self._arrived
        await asyncio.to_thread(arrived.look)
        completeness = await world.cloud("completeness")
        if completeness is not None:
            # The folder may have served other benches before.
            runs = [r for r in completeness["runs"] if (r["install"], r["run"]) in world.ledgers]
            completeness = {**completeness, "runs": runs}
        ledgers = self._ledgers
        wrong = arrived.differences(ledgers[-1][1], ledgers[-1][0]) if ledgers else ()
        compared = None
        if self._decoded is not None:
            compared = differences(arrived.signals, self._decoded.totals)
        seen = dataclasses.replace(
            self._seen(over=True),
            completeness=completeness,
            differences=wrong,
            platform=self._platform,
            compared=compared,
        )
        self._judge(seen)
        self._tell_the_end()

    def _tell_the_end(self) -> None:
        self._say("")
        if ledger := self._newest():
            for line in campaigns(ledger):
                self._say(line)
        for line in happened(self._arrived):
            self._say(line)
        self._say(total(self._arrived))
        self._say("")
