"""systemd's notification socket (sd_notify(3)): a datagram, no library needed."""

import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from typing import Final, Protocol

log = logging.getLogger("edge_agent")

_OURS: Final = {
    name: os.environ.pop(name)
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
    if name in os.environ
}
"""Taken out of the environment: a program that this one starts must not speak for it."""

STOPPING: Final = "STOPPING=1\nWATCHDOG_USEC=0"
"""A stop in order: TimeoutStopSec= limits it, and the watchdog, which is fed no more, rests."""


def notify(message: str, environment: Mapping[str, str] = _OURS) -> bool:
    """Tell systemd, such as `READY=1`; False where nobody listens."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(address)
            sender.sendall(message.encode())
    except OSError:
        return False
    return True


def watchdog_limit_s(environment: Mapping[str, str] = _OURS) -> float | None:
    """The most that systemd allows between two `WATCHDOG=1`; None without a watchdog."""
    value = environment.get("WATCHDOG_USEC", "")
    return int(value) / 1e6 if value.isdigit() and int(value) else None


class Work(Protocol):
    """A loop that must go on."""

    @property
    def name(self) -> str:
        """For the log."""
        ...

    @property
    def stuck_s(self) -> float:
        """How long its present step takes already; 0 where it has ended."""
        ...

    def where(self) -> str:
        """At which line it is now; empty where that cannot be told."""
        ...


async def feed_watchdog(work: Work, environment: Mapping[str, str] = _OURS) -> None:
    """For as long as both the event loop and `work` go on; ends at once where nobody watches.

    Work that takes half of systemd's limit for one step is no progress: nothing is fed until the
    step has ended, so that systemd starts another process if it never does. The log then has where
    it hung.
    """
    limit = watchdog_limit_s(environment)
    stuck = False
    while limit is not None:
        before, stuck = stuck, work.stuck_s > limit / 2
        if not stuck:
            notify("WATCHDOG=1", environment)
        if stuck and not before:
            log.error("%s hangs; systemd will start the agent again\n%s", work.name, work.where())
        elif before and not stuck:
            log.warning("%s goes on", work.name)
        await asyncio.sleep(limit / 4)
