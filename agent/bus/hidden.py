"""What filters of the kernel hide: frames that an interface carried and its socket did not get.

    hidden = carried by the interface - passed to the socket - dropped

since counting began: when the socket was opened, or within a second of setting filters on an open
one. It is about right, not exact, and rather too low than too high: the interface is asked first,
then the socket is emptied. A total never falls. Where the interface's own counts fall (a driver
begins anew when it goes up, 32 bits are full), counting begins anew there. What is hidden in the
last second before an adapter is pulled out is never told.

What an interface carries, by what drivers count:

- `rx_packets`: each frame from the wire. On a virtual bus (vcan) each frame that a program has
  sent, because there is no other wire.
- `tx_packets`: each frame that programs of this computer have sent. Sockets of other programs get
  those too, the one here among them, but no real controller has them in `rx_packets`, so they are
  added. On a virtual bus they would be there twice. A frame whose sender wants no loop-back is
  counted and never passes.
- Error frames of a driver pass whatever the filters say. Since Linux 5.17 they are in neither
  count, so they are left out here. An earlier kernel has them in `rx_packets`: then they appear as
  hidden, beside being received.

Of a frame that the interface lost itself it is not known whether it was carried; it is taken as if
it was, as `dropped` counts it.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from agent.blocks import ERROR, SENT, FrameBlock

__all__ = ["HiddenCounter", "ReadTraffic", "Traffic", "read_traffic"]

_VIRTUAL: Final = "vcan"


@dataclasses.dataclass(frozen=True, slots=True)
class Traffic:
    """Frames that an interface has received and sent since it was made; `index` tells which."""

    index: int
    received: int
    sent: int


ReadTraffic = Callable[[str], Traffic | None]
"""Gives the traffic of the interface of this name; None where there is none, or it is not told."""


def read_traffic(name: str) -> Traffic | None:
    """Of this kernel's interface of this name; None if there is none.

    Not over netlink: see `agent.bus.interfaces.SystemLinks.lost`.
    """
    folder = Path("/sys/class/net", name)
    try:
        return Traffic(
            index=int((folder / "ifindex").read_bytes()),
            received=int((folder / "statistics/rx_packets").read_bytes()),
            sent=int((folder / "statistics/tx_packets").read_bytes()),
        )
    except (OSError, ValueError):
        return None


class HiddenCounter:
    """Counts the frames that filters have hidden. Of one thread, but for `total` and `wanted`.

    Args:
        interface: its name.
        wanted: there are filters.
        traffic: the seam to the kernel.
    """

    def __init__(self, interface: str, traffic: ReadTraffic, *, wanted: bool) -> None:
        self.total = 0
        self.wanted = wanted
        self.kind: str | None = None
        """The interface's, as `LinkInfo.kind`. Nothing is counted while it is not known."""
        self._interface = interface
        self._traffic = traffic
        self._passed = 0
        self._carried = 0
        self._begin: int | None = None
        self._hidden = 0  # since the begin

    @property
    def counting(self) -> bool:
        return self._begin is not None

    def take(self, block: FrameBlock) -> None:
        """Frames that have passed."""
        made_here = (block.id & np.uint32(ERROR) != 0) & (block.flags & np.uint8(SENT) == 0)
        self._passed += len(block) - int(np.count_nonzero(made_here))

    def ask(self, index: int) -> int | None:
        """What the interface has carried so far; None where nothing is to be compared with it.

        Args:
            index: the interface's, to which the socket is bound: by the same name there may be
                another one by now.
        """
        if self.kind is None or not (self.wanted or self.counting):
            return None
        traffic = self._traffic(self._interface)
        if traffic is None or traffic.index != index:
            return None
        return traffic.received + (0 if self.kind == _VIRTUAL else traffic.sent)

    def compare(self, carried: int | None, lost: int) -> None:
        """Compare; the first time it is where counting begins.

        Args:
            carried: of `ask`, before the socket was emptied (the first time: after).
            lost: what neither passed nor was hidden so far; only grows.
        """
        if carried is not None:
            missing = carried - self._passed - lost
            if self._begin is None or carried < self._carried:
                self._begin, self._hidden = missing, 0
            self._carried = carried
            if (hidden := missing - self._begin) > self._hidden:
                self.total += hidden - self._hidden
                self._hidden = hidden
        if not self.wanted:
            self.end()

    def end(self) -> None:
        """The socket is closed; with another one counting begins anew."""
        self._begin = None
