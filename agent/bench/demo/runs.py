"""One vehicle of the demo: its agent, from the start to the last status, and what arrived."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.bench.demo import telling
from agent.bench.demo.arrived import Arrived
from agent.bench.demo.processes import (
    END_S,
    START_S,
    DemoError,
    out,
    result_of,
    spawn,
    status_of,
    tail,
    ticks,
)
from agent.bench.demo.recording import device_file
from agent.bench.link import Link
from agent.bus import read_log
from agent.ledger import differences
from agent.observe.report import ledger_lines
from agent.settings import packaged

_SEAL_S = "2"


@dataclasses.dataclass
class Run:
    """An agent with one bus and one uplink; the folder is its own."""

    folder: Path
    config: Path
    link: Link
    cloud: Path
    """Where the cloud keeps batches."""
    expected: Sequence[str] = ()
    """Events that must arrive, by name or kind."""
    begin: int | None = None
    """The time of the vehicle's first frame, ns, where it is known."""
    agent: asyncio.subprocess.Process = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self._before = set(self.cloud.rglob("*.batch"))

    @property
    def _log(self) -> Path:
        return self.folder / "agent.log"

    @property
    def _socket(self) -> Path:
        """A socket's path must be short, the demo's folder need not be."""
        path = self.folder / "agent.sock"
        return path if len(os.fsencode(path)) < 100 else Path("/tmp") / f"demo-{os.getpid()}.sock"  # noqa: S108

    async def start(self, stack: contextlib.AsyncExitStack, *, adapter: Path | None = None) -> None:
        """Start the agent: on a serial adapter, else on the recording of its device file.

        Raises:
            DemoError: it does not start.
        """
        environment = {
            "EDGE_AGENT_STATE_DIR": str(self.folder / "state"),
            "EDGE_AGENT_SOCKET": str(self._socket),
            "EDGE_AGENT_BATCH__SEAL_AFTER_S": _SEAL_S,
            "EDGE_AGENT_UPLINK__CLOUD__URL": f"http://127.0.0.1:{self.link.port}",
        }
        options = ["--drain"]
        if adapter is not None:
            environment["EDGE_AGENT_BUS__POWERTRAIN__DEVICE"] = str(adapter)
            options = []
        self.agent = await spawn(
            stack,
            self._log,
            *("run", "-c", str(self.config), *options),
            environment=environment,
        )
        async for _ in ticks(START_S, "the agent does not answer"):
            if self.agent.returncode not in (None, 0):
                raise DemoError(f"the agent did not start:\n{tail(self._log)}")
            if self.agent.returncode == 0 or await status_of(self._socket) is not None:
                break
        telling.process("agent", self.agent.pid, str(self.config))

    async def watch(
        self,
        seconds: float,
        vehicle: asyncio.subprocess.Process | None = None,
        *,
        step_s: float,
        cut: bool,
    ) -> None:
        """Show progress until the vehicle has driven; cut the link in the middle third.

        Raises:
            DemoError: the agent ends early.
        """
        watched = vehicle or self.agent
        cut_at, restore_at = seconds * 0.35, seconds * 0.65
        shown = -step_s
        telling.progress_head()
        limit_s = seconds * 3 + END_S
        async for passed in ticks(limit_s, f"it does not end; see {self._log}", 0.25):
            if watched.returncode is not None:
                break
            if self.agent.returncode not in (None, 0):
                raise DemoError(f"the agent ended early:\n{tail(self._log)}")
            if cut and not self.link.is_cut and passed >= cut_at:
                telling.note("--- the link to the cloud is cut ---")
                self.link.cut()
                cut = False
            if self.link.is_cut and passed >= restore_at:
                telling.note("--- the link is back ---")
                self.link.restore()
            if passed - shown >= step_s:
                shown += step_s
                status = await status_of(self._socket)
                if status:
                    telling.progress(passed, status, up=not self.link.is_cut)
        self.link.restore()

    async def end(self, sent: int | None = None) -> dict[str, Any]:
        """Let the agent finish what `sent` frames are, and give its last status.

        Raises:
            DemoError: it does not, or not well.
        """
        if self.agent.returncode is None and sent is not None:
            async for _ in ticks(END_S, f"batches still wait; see {self._log}"):
                status = await status_of(self._socket)
                if status is None:
                    raise DemoError(f"the agent does not answer:\n{tail(self._log)}")
                (bus,) = status["ledger"]["bus"].values()
                (uplink,) = status["ledger"]["uplink"].values()
                done = bus["received"] >= sent and not bus["queued"] and not uplink["memory"]
                if done and not status["spool"]["lanes"].get("cloud"):
                    break
            telling.note("--- the car has arrived; the agent is told to stop ---")
            self.agent.send_signal(signal.SIGTERM)
        await asyncio.wait_for(self.agent.wait(), END_S)
        if self.agent.returncode:
            raise DemoError(f"the agent ended badly:\n{tail(self._log)}")
        last: dict[str, Any] = json.loads((self.folder / "state" / "last-run.json").read_text())
        return last

    def verdict(
        self, status: dict[str, Any], *, sent: int | None = None, whole_ledger: bool
    ) -> tuple[Arrived, list[str]]:
        """Tell what arrived; what is wrong with it, as sentences."""
        ledger = status["ledger"]
        arrived = Arrived.read(set(self.cloud.rglob("*.batch")) - self._before, self.begin)
        wrong = list(differences(ledger))
        telling.say()
        if whole_ledger:
            for line in ledger_lines(ledger):
                telling.note(line)
            telling.say()
        else:
            telling.campaigns(ledger)
        telling.events(arrived)
        telling.total(arrived)
        (bus,) = ledger["bus"].values()
        if sent is not None:
            telling.note(f"The vehicle sent {sent:,} frames, the agent read {bus['received']:,}.")
            if sent != bus["received"]:
                wrong.append(f"the vehicle sent {sent:,} frames, {bus['received']:,} were read")
        if not whole_ledger and not wrong:
            telling.note("The ledger closes.")
        wrong += arrived.differences(ledger, self.expected)
        for sentence in wrong:
            telling.note(f"WRONG: {sentence}")
        if not wrong:
            telling.note("Every sample and every event is in the cloud.")
        return arrived, wrong


async def drive_live(
    stack: contextlib.AsyncExitStack, run: Run, seconds: float
) -> tuple[Arrived, list[str]]:
    """The virtual car on a serial adapter, in real time; the link is cut in the middle."""
    adapter, log = run.folder / "can", run.folder / "vehicle.log"
    vehicle = await spawn(
        stack,
        log,
        *("simulate", "--slcan", str(adapter), "--seconds", f"{seconds:g}", "--json"),
    )
    async for _ in ticks(START_S, "the virtual car has no adapter"):
        if adapter.is_symlink():
            break
        if vehicle.returncode is not None:
            raise DemoError(f"the virtual car did not start:\n{tail(log)}")
    telling.process("vehicle", vehicle.pid, f"on the serial adapter {adapter}")
    await run.start(stack, adapter=adapter)
    await run.watch(seconds, vehicle, step_s=2, cut=True)
    sent = int(json.loads((await out(vehicle).read()).splitlines()[-1])["frames"])
    return run.verdict(await run.end(sent), sent=sent, whole_ledger=True)


@dataclasses.dataclass
class Prepared:
    """A recording of a virtual vehicle, which another process is writing."""

    kind: str
    folder: Path
    seconds: float
    process: asyncio.subprocess.Process

    @property
    def log(self) -> Path:
        return self.folder / "drive.log"

    @classmethod
    async def begin(
        cls, stack: contextlib.AsyncExitStack, folder: Path, kind: str, seconds: float
    ) -> "Prepared":
        """Let `edge-agent simulate` write it, beside what else goes on."""
        arguments = ("--vehicle", kind, "--log", str(folder / "drive.log"))
        process = await spawn(
            stack,
            folder / "vehicle.log",
            *("simulate", *arguments, "--seconds", f"{seconds:g}", "--json"),
        )
        return cls(kind, folder, seconds, process)

    async def frames(self) -> int:
        """Wait until it is written; how many frames it has."""
        result = await result_of(self.process, self.folder / "vehicle.log")
        return int(result["frames"])

    def begins(self) -> int:
        """The time of the first frame, ns."""
        with read_log(self.log) as blocks:
            return int(next(iter(blocks)).time[0])


async def drive_recorded(
    stack: contextlib.AsyncExitStack,
    prepared: Prepared,
    link: Link,
    cloud: Path,
    *,
    seconds: float,
    expected: Sequence[str],
) -> list[str]:
    """A virtual vehicle from its recording, so much faster that it takes `seconds`."""
    sent = await prepared.frames()
    speed = max(1.0, prepared.seconds / seconds)
    plan = packaged(f"config/plan-{prepared.kind}.toml")
    config = device_file(prepared.folder, f"demo-{prepared.kind}", str(plan), prepared.log, speed)
    run = Run(prepared.folder, config, link, cloud, expected, prepared.begins())
    telling.note(f"{prepared.seconds:.0f} s of driving, {speed:.0f} times as fast; plan {plan}")
    await run.start(stack)
    await run.watch(seconds, step_s=4, cut=False)
    _, wrong = run.verdict(await run.end(), sent=sent, whole_ledger=False)
    return wrong
