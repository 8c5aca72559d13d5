"""CAN interfaces of a guest, brought up by can-bus@.service: virtual, plugged in, a controller."""

import contextlib
import fcntl
import functools
import json
import os
import pty
import select
import struct
import termios
import threading
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.vm.package_guest import journal, properties, run, until

SETTINGS: Final = Path("/etc/edge-agent/can")
_N_SLCAN: Final = 17  # linux/tty.h


def buses() -> Iterator[tuple[str, Any]]:
    """What is seen, by name."""
    yield "a virtual bus", virtual_bus("vcan20")
    yield "plugged in", plugged("vcan21")
    yield "not configured", unconfigured("vcan22")
    yield "wrong", refused("vcan0", "BITRATE=fast\n")
    yield "missing", refused("can9", "BITRATE=500000\n")
    with controller() as name:
        yield "a controller", controlled(name, "BITRATE=500000\nRESTART_MS=\n")
        yield "not possible", refused(name, "BITRATE=500000\nFD=on\nDBITRATE=2000000\n")


def virtual_bus(name: str) -> dict[str, Any]:
    """Made and brought up by its unit."""
    settings(name, "KIND=vcan\nFD=on\n")
    run("systemctl", "start", unit(name))
    found = link(name)
    run("systemctl", "stop", unit(name))
    return {"mtu": found["mtu"], "up": "UP" in found["flags"], "stopped": flags(name)}


def plugged(name: str) -> list[str]:
    """The unit's states while an interface comes, goes, and comes again: udev starts it."""
    settings(name, "KIND=vcan\n")
    seen = []
    for word, state in (("add", "active"), ("del", "inactive"), ("add", "active")):
        run("ip", "link", word, name, *(("type", "vcan") if word == "add" else ()))
        until(functools.partial(is_active, name, state), f"{name} is {state}")
        seen.append(active(name) + (" up" if "UP" in flags(name) else ""))
    return seen


def unconfigured(name: str) -> dict[str, Any]:
    """An interface without a file is left alone."""
    run("ip", "link", "add", name, "type", "vcan")
    run("udevadm", "settle")
    until(lambda: active(name) == "inactive", f"{name} is looked at", lambda: active(name))
    return {"result": properties(unit(name), "Result")["Result"], "up": "UP" in flags(name)}


def refused(name: str, text: str) -> dict[str, Any]:
    """Settings that cannot be."""
    settings(name, text)
    done = run("systemctl", "restart", unit(name))
    state = properties(unit(name), "ActiveState", "ExecMainStatus")
    run("systemctl", "stop", unit(name))
    return {"started": done.returncode == 0, **state, "said": journal(unit(name))}


def controlled(name: str, text: str) -> dict[str, Any]:
    settings(name, text)
    done = run("systemctl", "restart", unit(name))
    found = link(name)
    data = found["linkinfo"]["info_data"]
    return {
        "started": done.returncode == 0,
        "up": "UP" in found["flags"],
        "bitrate": data["bittiming_bitrate"],
        "modes": data.get("ctrlmode", []),
        "said": journal(unit(name)),
    }


@contextlib.contextmanager
def controller() -> Iterator[str]:
    """A controller that is plugged in; gives its name."""
    with adapter() as (name, _):
        try:
            yield name
        finally:
            run("systemctl", "stop", unit(name))


@contextlib.contextmanager
def adapter() -> Iterator[tuple[str, int]]:
    """A controller, which the kernel makes of an adapter on a pseudo-terminal.

    Gives its name, and a file of the adapter's end: what is written there, as LAWICEL ASCII, are
    frames from the bus.
    """
    before = interfaces()
    wire, line = pty.openpty()
    tty.setraw(line)
    fcntl.ioctl(line, termios.TIOCSETD, struct.pack("i", _N_SLCAN))
    (name,) = interfaces() - before
    ended = threading.Event()

    def take() -> None:  # what the kernel tells the adapter; it waits for that to be taken
        while not ended.is_set():
            if select.select([wire], [], [], 0.05)[0]:
                os.read(wire, 1024)

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield name, wire
    finally:
        ended.set()
        thread.join()
        os.close(wire)
        os.close(line)


def interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def settings(name: str, text: str) -> None:
    (SETTINGS / f"{name}.conf").write_text(text, "ascii")


def unit(name: str) -> str:
    return f"can-bus@{name}.service"


def active(name: str) -> str:
    return properties(unit(name), "ActiveState")["ActiveState"]


def is_active(name: str, state: str) -> bool:
    return active(name) == state


def link(name: str) -> dict[str, Any]:
    """What iproute2 says of an interface."""
    (found,) = json.loads(run("ip", "-details", "-json", "link", "show", name).stdout)
    return dict(found)


def flags(name: str) -> list[str]:
    return list(link(name)["flags"]) if name in interfaces() else []
