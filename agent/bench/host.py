"""The agent of a bench: a process of its own, as it runs in a vehicle.

What it logs goes through a pipe and is written to a file by the bench, so that the agent itself can
be kept from writing files: to it the disk is full then, and it still can say so.

    starting --> running --> ended      it was told to leave, or left by itself
                    |  ^
                    v  |
                   killed               the power is off
"""

import asyncio
import collections
import contextlib
import json
import os
import resource
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from agent.bench.shifted import Offset
from agent.clock import SECOND
from agent.errors import AgentError
from agent.ledger import Counts
from agent.observe.socket import ask
from agent.settings import PREFIX

State = Literal["starting", "running", "killed", "ended"]

_START_S: Final = 30.0
_LEAVE_S: Final = 15.0
_LOOK_S: Final = 0.25
_SHOWN: Final = 8
"""Lines of the log in an error."""
_KEPT: Final = 200
# Of the surroundings of the bench, and not of a vehicle.
_NOT_HANDED_ON: Final = ("JOURNAL_STREAM", "NOTIFY_SOCKET", "STATE_DIRECTORY", "WATCHDOG_USEC")


class BenchError(AgentError):
    """A part of the bench does not do what it should; the message says which and why."""


class AgentProcess:
    """`edge-agent run -c CONFIG`, again and again.

    Args:
        config: the device file.
        socket: where it answers.
        folder: for its log, agent.log, and for the offset of its clock.

    Attributes:
        state: see above.
        runs: how often it was started.
        status: what it said of itself at the last look, a quarter of a second ago; None while it
            does not answer.
        ledgers: installation and run -> the counts of that process at the last look, or at its end;
            the oldest process first.
    """

    def __init__(self, config: Path, socket: Path, folder: Path) -> None:
        self.state: State = "starting"
        self.runs = 0
        self.status: dict[str, Any] | None = None
        self.ledgers: dict[tuple[str, int], Counts] = {}
        self.log_file = folder / "agent.log"
        self._offset = Offset(folder / "clock-offset")
        self._offset.ns = 0
        self._config = config
        self._socket = socket
        self._lines: collections.deque[str] = collections.deque(maxlen=_KEPT)
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._disk_full = False

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def start(self) -> None:
        """Start it, and wait until it answers.

        Raises:
            BenchError: it does not; the message has the last lines of its log.
        """
        self.state = "starting"
        self.runs += 1
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "agent.bench.shifted", str(self._offset_file), str(os.getpid())),
            *("run", "-c", str(self._config)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=_surroundings(os.environ),
            # A Ctrl-C is for the bench, which ends its parts in order.
            process_group=0,
        )
        self._reading = asyncio.create_task(self._read(process))
        loop = asyncio.get_running_loop()
        end = loop.time() + _START_S
        while await self.look() is None:
            if process.returncode is not None:
                await self._reading
                self.state = "ended"
                raise BenchError(f"the agent did not start:\n{self.last_words()}")
            if loop.time() > end:
                await self.end()
                raise BenchError(f"the agent does not answer:\n{self.last_words()}")
            await asyncio.sleep(_LOOK_S / 5)
        self.state = "running"
        if self._disk_full:
            self._limit()

    @property
    def _offset_file(self) -> Path:
        return self.log_file.parent / "clock-offset"

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        if process.stderr is None:
            raise AssertionError
        with self.log_file.open("ab", buffering=0) as file:
            while True:
                try:
                    line = await process.stderr.readline()
                except ValueError:  # longer than asyncio keeps; the rest of it follows
                    continue
                if not line:
                    break
                self._lines.append(line.decode(errors="replace").rstrip())
                with contextlib.suppress(OSError):  # the log is no reason to stop
                    file.write(line)
        await process.wait()
        if process is self._process and self.state == "running":
            self.state = "ended"
            self.status = None

    async def look(self) -> dict[str, Any] | None:
        """What it says of itself right now; None while it does not answer."""
        process = self._process
        if process is None or process.returncode is not None:
            self.status = None
            return None
        status: dict[str, Any] | None
        try:
            status = await asyncio.to_thread(ask, self._socket, "status")
        except AgentError:
            status = None
        if process is self._process:
            self.status = status
        if status is not None:
            self._note(status)
        return status

    def _note(self, status: dict[str, Any]) -> None:
        run = (str(status["spool"]["install"]), int(status["spool"]["run"]))
        self.ledgers[run] = status["ledger"]

    async def watch(self) -> None:
        """Look every quarter of a second; to be a task."""
        while True:
            if self.state == "running":
                await self.look()
            await asyncio.sleep(_LOOK_S)

    def check(self) -> None:
        """Raise if it ended by itself.

        Raises:
            BenchError: it did; the message has the last lines of its log.
        """
        if self.state == "ended":
            status = self._process.returncode if self._process is not None else None
            raise BenchError(f"the agent ended by itself ({status}):\n{self.last_words()}")

    def last_words(self) -> str:
        """The end of its log."""
        said = [f"  {line}" for line in list(self._lines)[-_SHOWN:]]
        return "\n".join([*said, f"  (all of it: {self.log_file})"])

    async def kill(self) -> None:
        """The power goes."""
        await self.look()
        self.state = "killed"
        self.status = None
        if self._process is not None and self._reading is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._reading

    async def leave(self) -> dict[str, Any]:
        """Tell it to leave; its last status.

        Raises:
            BenchError: it does not leave, or not well.
        """
        process, state = self._process, self.state
        if process is None or self._reading is None:
            raise BenchError("the agent was never started")
        self.check()
        self.state = "ended"
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_LEAVE_S):
                await asyncio.shield(self._reading)
        except TimeoutError:
            process.kill()
            await self._reading
            raise BenchError(
                f"the agent did not leave within {_LEAVE_S:g} s:\n{self.last_words()}"
            ) from None
        self.status = None
        if process.returncode or state != "running":
            raise BenchError(f"the agent ended badly ({process.returncode}):\n{self.last_words()}")
        path = self.log_file.parent / "state" / "last-run.json"
        try:
            last: dict[str, Any] = json.loads(await asyncio.to_thread(path.read_bytes))
        except (OSError, ValueError) as e:
            raise BenchError(f"the agent left no last word ({e}):\n{self.last_words()}") from e
        self._note(last)
        return last

    async def end(self) -> None:
        """Whatever it does, it is gone after this."""
        process = self._process
        if process is None or self._reading is None:
            return
        self.state = "ended"
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await self._reading

    def set_disk_full(self, on: bool) -> None:
        """Each write to a file fails, or does not any more."""
        self._disk_full = on
        if self.state == "running":
            self._limit()

    def _limit(self) -> None:
        if (pid := self.pid) is None:
            return
        # The soft limit alone: that one may be raised again without being root.
        with contextlib.suppress(ProcessLookupError):
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            soft = 0 if self._disk_full else hard
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))

    def shift_clock(self, seconds: float) -> None:
        """Its wall clock is off by so much from now on."""
        self._offset.ns = round(seconds * SECOND)


def _surroundings(variables: Mapping[str, str]) -> dict[str, str]:
    """Variables of ours that are for it, too: none that configures an agent."""
    return {
        name: value
        for name, value in variables.items()
        if not name.startswith(PREFIX) and name not in _NOT_HANDED_ON
    }
