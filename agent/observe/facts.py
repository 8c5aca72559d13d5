"""What is known of a vehicle computer at one moment, and what a cause of trouble is.

`Facts` are gathered by `agent.observe.gather` and judged by `agent.observe.causes`. Everything in
them may be missing: a computer without systemd, a user who may not look, a status of another
version. None, or an empty text or table, means that it is not known, and never that it is well.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from agent.bus.linkmessage import LinkInfo
from agent.settings import Device

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return NOTHING


@dataclasses.dataclass(frozen=True, slots=True)
class Space:
    """The file system that a folder lies on."""

    path: str
    total_bytes: int
    free_bytes: int
    """For users that are not root."""
    free_files: int | None
    """None where a file system knows no such number."""
    options: tuple[str, ...] = ()
    """As it is mounted; empty where that is not known."""
    kind: str = ""
    source: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Flash:
    """What an eMMC says of its age (JESD84-B51, EXT_CSD 267 to 269), as the numbers it gives."""

    name: str
    life_times: tuple[int, ...] = ()
    """1: at most 10 % of its life are used, ... 10: at most 100 %, 11: more; 0: not known."""
    end_of_life: int = 0
    """1: normal, 2: 80 % of the reserve are used, 3: 90 %."""


@dataclasses.dataclass(frozen=True, slots=True)
class Process:
    """The running agent."""

    pid: int
    resident_bytes: int
    cpu_percent: float | None
    """Of one core."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    status: Mapping[str, Any] = dataclasses.field(default_factory=_nothing)
    """Of the running agent, or where none answers that of its last clean stop."""
    live: bool = False
    """The status is of now."""
    unanswered: str = ""
    """Why nobody answered, a sentence."""
    denied: bool = False
    """The socket of the agent is there, and this user may not talk to it."""
    device: Device | None = None
    config_error: str = ""
    """Why configuration or plan cannot be used."""
    findings: tuple[str, ...] = ()
    """What `edge-agent check` says beside that."""
    unit: Mapping[str, str] = dataclasses.field(default_factory=_nothing)
    """Properties of the service, as `systemctl show` names them."""
    log: tuple[str, ...] = ()
    kernel_log: tuple[str, ...] = ()
    links: Mapping[str, LinkInfo] | None = None
    """The network interfaces by name."""
    rmem_max: int | None = None
    space: Space | None = None
    flash: tuple[Flash, ...] = ()
    memory_bytes: int | None = None
    memory_available_bytes: int | None = None
    process: Process | None = None
    load: float | None = None
    """The mean of the last five minutes, in processes that want to run."""
    cpus: int = 1
    degrees: Mapping[str, float] = dataclasses.field(default_factory=_nothing)
    """Temperatures in °C by sensor."""
    synchronised: bool | None = None
    """Whether the kernel's clock is disciplined."""
    year: int | None = None
    """That the wall clock shows."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cause:
    """Something that is wrong."""

    weight: int
    """How likely it is what somebody complains about, 1 to 100."""
    key: str
    """What kind of trouble it is: a word for programs."""
    what: str
    """A sentence that says what is wrong, without its full stop."""
    do: str
    """What to do about it."""
    subject: str = ""
    """Which bus, uplink or disk. Of several causes with the same key and subject one is told."""


def text(tree: Any, *path: str) -> str:
    """A text in a status of whatever version; empty where it is none."""
    value = _at(tree, path)
    return value if isinstance(value, str) else ""


def number(tree: Any, *path: str) -> float | None:
    """A number in a status; None where it is none."""
    value = _at(tree, path)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def count(tree: Any, *path: str) -> int:
    """A count in a status; 0 where it is none."""
    value = _at(tree, path)
    return value if isinstance(value, int) else 0


def table(tree: Any, *path: str) -> Mapping[str, Any]:
    """A table in a status; empty where it is none."""
    value = _at(tree, path)
    return value if isinstance(value, Mapping) else NOTHING


def rows(tree: Any, *path: str) -> Iterator[Mapping[str, Any]]:
    """The tables of a list in a status."""
    value = _at(tree, path)
    if isinstance(value, (list, tuple)):
        yield from (item for item in value if isinstance(item, Mapping))


def sentences(tree: Any, *path: str) -> list[str]:
    """The texts of a list in a status."""
    value = _at(tree, path)
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
