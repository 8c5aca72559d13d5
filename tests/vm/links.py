"""Virtual CAN buses of this kernel (`vcan`), through `ip link` as a person makes them."""

import itertools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

MTU: Final = 72  # classic and FD frames; 16 is classic only
_ARPHRD_CAN: Final = "280"  # linux/if_arp.h
_UP: Final = 1  # IFF_UP
_numbers = itertools.count()


class LinkError(Exception):
    """`ip link` refused."""


class Links:
    """Makes virtual buses with names that nobody else has, and removes them in the end."""

    def __init__(self) -> None:
        self._names: list[str] = []

    def __call__(self, *, mtu: int = MTU) -> str:
        """A new bus that is up; gives its name.

        Raises:
            LinkError: this user may not make one, or this kernel has none.
        """
        name = f"vt{os.getpid() % 10_000_000}x{next(_numbers) % 10_000}"
        self._names.append(name)
        self.add(name, mtu=mtu)
        return name

    def add(self, name: str, *, mtu: int = MTU) -> None:
        """Make a bus by this name, such as one that was removed before."""
        self.link("add", name, "type", "vcan")
        self.link("set", name, "mtu", str(mtu))
        self.up(name)

    def up(self, name: str) -> None:
        self.link("set", name, "up")

    def down(self, name: str) -> None:
        self.link("set", name, "down")

    def remove(self, name: str) -> None:
        """Take the bus away, as an adapter is pulled out."""
        self.link("del", name)

    def link(self, *words: str) -> None:
        """`ip link WORDS`.

        Raises:
            LinkError: it failed.
        """
        tool = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if tool is None:
            raise LinkError("there is no `ip`; on Debian it is in iproute2")
        done = subprocess.run(
            [tool, "link", *words], capture_output=True, text=True, check=False, timeout=60
        )
        if done.returncode:
            raise LinkError(f"ip link {' '.join(words)}: {done.stderr.strip()}")

    def close(self) -> None:
        """Remove every bus that is still there."""
        for name in self._names:
            if Path("/sys/class/net", name).exists():
                self.remove(name)


def why_not() -> str | None:
    """Why this user cannot have virtual buses of this kernel; None where that works."""
    links = Links()
    try:
        links()
    except LinkError as error:
        return str(error)
    finally:
        links.close()
    return None
