"""The faults of a bench: which there are, what they take, and the switchboard that presses them.

A fault is pressed with parameters, and may be pressed again with others while it is on. Each is
really done to a part of the bench by its action, and each can be taken back.
"""

import asyncio
import dataclasses
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal

from agent.errors import ConfigError

UPDATE: Final = "update"
"""No fault: a good bundle, which stays when faults are taken back."""

Action = Callable[[bool, Mapping[str, Any]], Awaitable[None]]
"""Switches a fault; parameters are checked and complete."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameter:
    """What a fault wants to know. Numbers have bounds, choices are all there is to choose."""

    name: str
    kind: Literal["number", "text", "choice"]
    default: float | int | str
    choices: tuple[str, ...] = ()
    least: float = 0
    most: float = 0

    def checked(self, fault: str, value: object) -> float | int | str:
        """The value, if it can be one; a number may be written as a text.

        Raises:
            ConfigError: it cannot.
        """
        if self.kind == "number":
            number = _number(value)
            if number is None or not self.least <= number <= self.most:
                raise ConfigError(
                    f"fault {fault}: {self.name} = {value} is no number from {self.least:g} to "
                    f"{self.most:g}"
                )
            return number
        if not isinstance(value, str) or (self.choices and value not in self.choices):
            told = f"one of {', '.join(self.choices)}" if self.choices else "a text"
            raise ConfigError(f"fault {fault}: {self.name} = {value} is not {told}")
        return value

    def as_json(self) -> dict[str, Any]:
        bounds = {"least": self.least, "most": self.most} if self.kind == "number" else {}
        return {
            "name": self.name,
            "kind": self.kind,
            "default": self.default,
            "choices": list(self.choices),
            **bounds,
        }


@dataclasses.dataclass(frozen=True)
class Fault:
    """What can be pressed; `about` is a sentence for the page."""

    name: str
    title: str
    about: str
    parameters: tuple[Parameter, ...] = ()

    def checked(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters of the fault, those that are not given by their defaults.

        Raises:
            ConfigError: one that it does not have, or a value that cannot be.
        """
        mine = {p.name: p for p in self.parameters}
        for name in parameters:
            if name not in mine:
                there = f"it has: {', '.join(mine)}" if mine else "it has none"
                raise ConfigError(f"fault {self.name} has no parameter {name}; {there}")
        return {
            name: p.checked(self.name, parameters.get(name, p.default)) for name, p in mine.items()
        }


def _number_of(name: str, default: float, least: float, most: float) -> Parameter:
    return Parameter(name=name, kind="number", default=default, least=least, most=most)


CATALOGUE: Final = (
    Fault("link-down", "Link down", "Connections to the cloud are reset, and no new one comes up."),
    Fault(
        "link-slow",
        "Link slow",
        "So many kbit/s pass in each direction, late by so many ms.",
        (
            _number_of("kbit_s", 64, 1, 1_000_000),
            _number_of("latency_ms", 0, 0, 60_000),
        ),
    ),
    Fault(
        "link-lossy",
        "Link lossy",
        "So many packets in a hundred are lost; TCP waits and sends them again.",
        (_number_of("percent", 5, 0, 100),),
    ),
    Fault(
        "cloud-status",
        "Cloud answers",
        "Every upload is answered with this status in place of being taken. After 401, 403, 404 "
        "and 410 the agent looks again after a quarter of an hour, or a restart.",
        (_number_of("code", 503, 200, 599),),
    ),
    Fault(
        "lost-ack",
        "Acknowledgement lost",
        "The cloud stores an upload, and the connection breaks before the agent can know.",
    ),
    Fault("disk-full", "Disk full", "Each write of the agent to a file fails."),
    Fault(
        "ecu-silent",
        "ECU silent",
        "A message, or all messages of a node, are no longer sent.",
        (
            Parameter(name="message", kind="text", default=""),
            Parameter(name="node", kind="text", default=""),
        ),
    ),
    Fault(
        "bit-flips",
        "Bit flips",
        "So many bits of a million in payloads are inverted.",
        (_number_of("per_million", 100, 0.001, 1_000_000),),
    ),
    Fault(
        "stuck-counter",
        "Counter stuck",
        "A signal keeps the value that it has.",
        (Parameter(name="signal", kind="text", default=""),),
    ),
    Fault(
        "false-value",
        "False value",
        "A signal has this raw value, such as that of an alarm.",
        (
            Parameter(name="signal", kind="text", default=""),
            _number_of("value", 1, -(2.0**63), 2.0**63),
        ),
    ),
    Fault("bus-off", "Bus off", "The controller leaves the bus; a serial adapter goes away."),
    Fault(
        "overload",
        "Overload",
        "So many times as many frames as there should be.",
        (_number_of("factor", 10, 1, 50),),
    ),
    Fault(
        "clock-jump",
        "Clock jump",
        "The wall clock of the agent is off by so many seconds; boot time goes on.",
        (_number_of("seconds", 3600, -3_000_000_000, 3_000_000_000),),
    ),
    Fault(
        "power-cut",
        "Power cut",
        "The agent is killed without a word, and started again after so many seconds.",
        (_number_of("off_s", 3, 0, 86_400),),
    ),
    Fault(
        "hostile-update",
        "Hostile update",
        "A bundle that was changed on the server, or one that is signed and decodes nothing.",
        (
            Parameter(
                name="kind", kind="choice", default="tampered", choices=("tampered", "harmful")
            ),
        ),
    ),
    Fault(
        "platform-answers",
        "Platform answers",
        "The GB/T 32960 platform answers in this way, as others do in the field.",
        (
            Parameter(
                name="style",
                kind="choice",
                default="echo",
                choices=("echo", "time", "empty", "error", "duplicate", "never", "correct"),
            ),
            Parameter(
                name="to",
                kind="choice",
                default="reports",
                choices=("reports", "login", "heartbeat", "everything"),
            ),
        ),
    ),
    Fault(
        "platform-pieces",
        "Platform in pieces",
        "Its answers come in pieces of so many bytes, so many together, late by so many ms, and "
        "behind bytes that are none.",
        (
            _number_of("bytes", 7, 0, 65_536),
            _number_of("together", 0, 0, 1000),
            _number_of("late_ms", 0, 0, 60_000),
            _number_of("garbage", 0, 0, 65_536),
        ),
    ),
    Fault(
        "platform-drops",
        "Platform drops the link",
        "After so many frames, or so many seconds after each login; 0 is never.",
        (_number_of("frames", 5, 0, 1_000_000), _number_of("seconds", 0, 0, 86_400)),
    ),
    Fault(
        "platform-mischief",
        "Hostile platform",
        "It sends this to a vehicle that has logged in.",
        (
            Parameter(
                name="kind",
                kind="choice",
                default="control",
                choices=(
                    "control",
                    "garbage",
                    "endless",
                    "huge",
                    "counts",
                    "unknown",
                    "unasked",
                ),
            ),
        ),
    ),
    Fault(
        UPDATE,
        "A good update",
        "No fault: a signed bundle with the plan that is there already; off withdraws it.",
    ),
)
NAMES: Final = tuple(fault.name for fault in CATALOGUE)


def find(name: str) -> Fault:
    """A fault by its name.

    Raises:
        ConfigError: there is none.
    """
    for fault in CATALOGUE:
        if fault.name == name:
            return fault
    raise ConfigError(f"there is no fault {name}; there are: {', '.join(NAMES)}")


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """`NAME` or `NAME:KEY=VALUE,...`, as the command line has it; name and checked parameters.

    Raises:
        ConfigError: it says something that cannot be.
    """
    name, _, rest = text.partition(":")
    fault = find(name)
    given: dict[str, Any] = {}
    for part in rest.split(",") if rest else []:
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(f"--fault {text}: {part} is not KEY=VALUE")
        given[key] = value
    return name, fault.checked(given)


class Switchboard:
    """Presses faults, one at a time, and knows which are on.

    Args:
        actions: what each fault does, by name.
        defaults: of parameters, in place of the catalogue's: fault -> parameter -> value.
    """

    def __init__(
        self, actions: Mapping[str, Action], defaults: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        self._faults = {
            fault.name: _with_defaults(fault, (defaults or {}).get(fault.name, {}))
            for fault in CATALOGUE
            if fault.name in actions
        }
        self._actions = actions
        self._active: dict[str, dict[str, Any]] = {}
        self._lock = asyncio.Lock()

    @property
    def active(self) -> Mapping[str, Mapping[str, Any]]:
        """Faults that are on, with their parameters."""
        return self._active

    async def press(self, name: str, parameters: Mapping[str, Any], *, on: bool) -> dict[str, Any]:
        """Switch a fault; gives its state.

        Raises:
            ConfigError: no such fault, or a parameter that cannot be.
            AgentError: it cannot be done; the fault is as it was.
        """
        if find(name).name not in self._faults:
            raise ConfigError(f"fault {name} needs a platform: start the bench with --gbt32960")
        wanted = self._faults[name].checked(parameters if on else {})
        async with self._lock:
            if on:
                await self._actions[name](True, wanted)
                self._active[name] = wanted
            elif name in self._active:
                await self._actions[name](False, self._active[name])
                self._active.pop(name, None)
        return self.state_of(name)

    def over(self, name: str) -> None:
        """A fault has ended by itself."""
        self._active.pop(name, None)

    async def lift(self) -> None:
        """Take back every fault that is on, the last one first; a good update is none.

        Raises:
            AgentError: that cannot be done.
        """
        for name in reversed(list(self._active)):
            if name != UPDATE:
                await self.press(name, {}, on=False)

    def state_of(self, name: str) -> dict[str, Any]:
        """As the page wants it; an active fault's defaults are the parameters that it has."""
        fault, given = self._faults[name], self._active.get(name)
        return {
            "name": fault.name,
            "title": fault.title,
            "about": fault.about,
            "active": given is not None,
            "parameters": [
                p.as_json() | ({"value": given[p.name]} if given is not None else {})
                for p in fault.parameters
            ],
        }

    def states(self) -> list[dict[str, Any]]:
        return [self.state_of(name) for name in self._faults]


def _with_defaults(fault: Fault, defaults: Mapping[str, Any]) -> Fault:
    parameters = tuple(
        dataclasses.replace(p, default=defaults.get(p.name, p.default)) for p in fault.parameters
    )
    return dataclasses.replace(fault, parameters=parameters)


def _number(value: object) -> float | int | None:
    """A finite number, whole where it was written so; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if not math.isfinite(number):
        return None
    return int(number) if number.is_integer() else number
