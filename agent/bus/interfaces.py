"""The seam between the source of a CAN interface and the kernel's network interfaces."""

from pathlib import Path
from typing import Final, Protocol

from agent.bus.linkmessage import LinkEvent, LinkInfo
from agent.bus.netlink import LinkWatch, link

_LOSSES: Final = ("rx_dropped", "rx_missed_errors", "rx_over_errors", "rx_fifo_errors")


class Watch(Protocol):
    """What `agent.bus.netlink.LinkWatch` is."""

    def fileno(self) -> int: ...

    def read(self) -> list[LinkEvent]: ...

    def close(self) -> None: ...


class Links(Protocol):
    """The seam to the kernel's network interfaces.

    `link` and `watch` raise BusError where the kernel cannot be asked. `lost` gives the frames that
    an interface lost before any socket since it was made, None where that is not told.
    """

    def link(self, name: str) -> LinkInfo | None: ...

    def watch(self) -> Watch: ...

    def lost(self, name: str) -> int | None: ...


class SystemLinks:
    """This kernel's."""

    def link(self, name: str) -> LinkInfo | None:
        return link(name)

    def watch(self) -> Watch:
        return LinkWatch()

    def lost(self, name: str) -> int | None:
        # Not over netlink: while a driver holds the kernel's lock of all links, which may be for
        # seconds, that would keep this thread from reading.
        folder = Path("/sys/class/net", name, "statistics")
        try:
            return sum(int((folder / counter).read_bytes()) for counter in _LOSSES)
        except (OSError, ValueError):
            return None
