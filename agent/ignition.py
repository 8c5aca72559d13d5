"""The key at work: where it is read, and what its state machine (agent.keyoff) asks for."""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

from agent.blocks import SignalTable
from agent.clock import SECOND, BootNs, Clock
from agent.collect import Plan
from agent.errors import BusError, ConfigError
from agent.keyoff import Action, KeyOff, State
from agent.observe.notify import notify
from agent.settings import Ignition
from agent.signals.database import ANY_BUS, SignalPath
from agent.uplink.sender import Senders

log = logging.getLogger("edge_agent")


class Key:
    """Follows the key. `note` belongs to the decode thread, all else to the event loop."""

    def __init__(
        self,
        settings: Ignition,
        plan: Plan,
        clock: Clock,
        senders: Senders,
        *,
        seal: Callable[[], threading.Event],
        heard: Callable[[], BootNs],
    ) -> None:
        """`seal` seals what is open, and its event tells when; `heard`: when any bus spoke last.

        Raises:
            ConfigError: the signal of the key is no signal.
        """
        self.signal = signal_of(settings, plan)
        self.leave = asyncio.Event()
        """The program is to end: all is done for this drive."""
        self._settings = settings
        self._clock = clock
        self._senders = senders
        self._seal = seal
        self._heard = heard
        self._machine = KeyOff(settings)
        self._on: bool | None = None
        self._sealed = threading.Event()
        self._gpio: Any = None
        self._trouble = ""
        self._command: asyncio.Task[None] | None = None

    def note(self, tables: Iterable[SignalTable]) -> None:
        """Look for the signal of the key in what was decoded."""
        if (path := self.signal) is None:
            return
        for table in tables:
            here = table.message == path.message and path.bus in (table.bus, ANY_BUS)
            if here and path.signal in table.names:
                valid = table.physical(path.signal)[table.validity(path.signal) == 0]
                if len(valid):
                    self._on = bool(valid[-1])

    async def look(self) -> None:
        """Read the key, and do what is due; called twice a second."""
        now = self._clock.boot()
        if (on := await asyncio.to_thread(self._read, now)) is not None:
            await self._act(self._machine.key(now, on=on))
        sent = self._sealed.is_set() and self._senders.idle
        await self._act(self._machine.tick(now, drained=sent))

    def sleep(self) -> dict[str, Any]:
        """The command `sleep`."""
        if self._machine.sleep(self._clock.boot()) == "seal":
            self._begin_to_seal()
        return self.status()

    def wake(self) -> dict[str, Any]:
        """The command `wake`."""
        if self._machine.wake() == "wake":
            self._awake()
        return self.status()

    async def close(self) -> None:
        """End the command, should it still run."""
        if self._command is not None:
            self._command.cancel()
            await asyncio.gather(self._command, return_exceptions=True)

    def awake(self) -> bool:
        """Whether the key is on, as far as is known. From any thread."""
        return self._machine.state is State.AWAKE

    def status(self) -> dict[str, Any]:
        return {"state": self._machine.state.value, "trouble": self._trouble}

    def _read(self, now: BootNs) -> bool | None:
        settings = self._settings
        if settings.gpio is not None:
            return self._read_gpio()
        if settings.silence_s:
            return now - self._heard() < settings.silence_s * SECOND
        return self._on

    def _read_gpio(self) -> bool | None:
        line = self._settings.gpio
        try:
            if self._gpio is None and line is not None:
                from agent.bus.gpio import GpioLine  # noqa: PLC0415 - an extra

                self._gpio = GpioLine(line.chip, line.line, active_low=line.active_low)
            on = bool(self._gpio.read())
        except BusError as e:
            self._say(str(e))
            return None
        self._say("")
        return on

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self._trouble:
            log.error("ignition: %s", trouble)
        elif self._trouble and not trouble:
            log.info("ignition: the line can be read again")
        self._trouble = trouble

    async def _act(self, action: Action | None) -> None:
        match action:
            case "seal":
                self._begin_to_seal()
            case "done":
                await self._done()
            case "wake":
                self._awake()

    def _begin_to_seal(self) -> None:
        deadline = self._settings.deadline_s
        log.info("key off: what is kept is sealed, and may be sent for %.0f s", deadline)
        self._sealed = self._seal()

    def _awake(self) -> None:
        log.info("key on")
        notify("STATUS=key on")
        self._senders.start()

    async def _done(self) -> None:
        settings = self._settings
        waiting = self._senders.waiting
        left = f"{waiting:,} batches wait for the next drive" if waiting else "all is sent"
        log.info("key off: %s; the computer may sleep", left)
        notify("STATUS=key off: the computer may sleep")
        await self._senders.stop()
        if settings.when_done == "exit":
            self.leave.set()
        elif settings.when_done == "command":
            # It may take its time, or never end: the key is looked at meanwhile.
            if self._command is None or self._command.done():
                self._command = asyncio.create_task(_run(settings.command))
            else:
                log.warning("ignition: %s still runs from last time", settings.command[0])


async def _run(command: list[str]) -> None:
    trouble = ""
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL)
        try:
            status = await process.wait()
        except asyncio.CancelledError:
            process.terminate()
            raise
        if status:
            trouble = f"ended with status {status}"
    except OSError as e:
        trouble = f"cannot be run: {e.strerror}"
    if trouble:
        log.error("ignition: %s %s", command[0], trouble)


def signal_of(settings: Ignition, plan: Plan) -> SignalPath | None:
    """The signal of the key; None where something else tells it.

    Raises:
        ConfigError: there is no such signal, or there are several.
    """
    if not settings.signal:
        return None
    try:
        found = plan.database.select([settings.signal])
    except ConfigError as e:
        raise ConfigError(f"agent.toml: [ignition] signal: {e}") from e
    if len(found) > 1:
        raise ConfigError(
            f'agent.toml: [ignition] signal: "{settings.signal}" names {len(found)} signals'
        )
    return found.pop()
