"""systemd's notification socket (sd_notify(3)): a datagram, no library needed."""

import asyncio
import os
import socket
from collections.abc import Mapping
from typing import Final

_OURS: Final = {
    name: os.environ.pop(name)
    for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
    if name in os.environ
}
"""Taken out of the environment: a program that this one starts must not speak for it."""


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


def watchdog_interval_s(environment: Mapping[str, str] = _OURS) -> float | None:
    """Half of what systemd allows between two `WATCHDOG=1`; None without a watchdog."""
    value = environment.get("WATCHDOG_USEC", "")
    return int(value) / 2e6 if value.isdigit() and int(value) else None


async def feed_watchdog() -> None:
    """For as long as the event loop runs; ends at once where nobody watches."""
    interval = watchdog_interval_s()
    while interval is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)
