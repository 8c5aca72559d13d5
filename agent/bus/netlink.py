"""What the kernel says of network interfaces: is it there, is it up, how is the CAN controller.

Asked over rtnetlink (man 7 rtnetlink), as `ip -details link show` does, so nothing is started and
no text of another program is read. A socket of the family AF_NETLINK is all that is used: no root,
no sysfs, and a service with `RestrictAddressFamilies=AF_NETLINK` can do it. Bytes are parsed in
`agent.bus.linkmessage`; this is the thin shell of sockets around it.

`link` and `links` ask once. `LinkWatch` tells what changes from then on: interfaces that come, go,
change their name, go up or down. A controller that goes bus-off loses its carrier, which is told
too (`running`); its other states and counters are not, they have to be asked for.
"""

import errno
import os
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from agent.bus.linkmessage import (
    Answer,
    CanCounters,
    LinkEvent,
    LinkInfo,
    LinkStatistics,
    parse_events,
    request_link,
    request_links,
)
from agent.errors import BusError

__all__ = [
    "CanCounters",
    "LinkEvent",
    "LinkInfo",
    "LinkStatistics",
    "LinkWatch",
    "link",
    "links",
    "route_socket",
]

_GROUP_LINK: Final = 1  # RTMGRP_LINK, the mask of the group RTNLGRP_LINK
_RECEIVE_BYTES: Final = 65_536  # the kernel makes pieces of at most 32 KiB
_TRIES: Final = 8
_READS: Final = 1_024


def route_socket(groups: int = 0) -> socket.socket:
    """A socket that talks with the kernel, and hears what the groups of this mask are told.

    Raises:
        BusError: this process may not have one.
    """
    try:
        channel = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
    except OSError as error:
        hint = ""
        if error.errno in (errno.EAFNOSUPPORT, errno.EPERM, errno.EACCES):
            hint = "; in a systemd unit RestrictAddressFamilies= must name AF_NETLINK"
        raise BusError(f"the kernel cannot be asked about interfaces ({error}){hint}") from error
    try:
        channel.bind((0, groups))
        channel.connect((0, 0))  # no other process can answer in the kernel's place
    except OSError as error:
        channel.close()
        raise BusError(f"the kernel cannot be asked about interfaces ({error})") from error
    return channel


Connect = Callable[[], socket.socket]
"""Gives a socket that keeps the borders of datagrams: the seam to the kernel."""


def _link_group() -> socket.socket:
    return route_socket(_GROUP_LINK)


def link(name: str, *, timeout_s: float = 1.0, connect: Connect = route_socket) -> LinkInfo | None:
    """The interface of this name, or with this as an alternative name; None if there is none.

    Raises:
        BusError: the kernel does not answer in time, refuses, or its answer is not valid.
    """
    request = request_link(name)
    if request is None:
        return None
    answer = _ask(request, timeout_s, connect)
    if answer.error == errno.ENODEV:
        return None
    _refused(answer, f"interface {name}")
    if not answer.links:
        raise BusError(f"the kernel's answer about interface {name} is empty")
    return answer.links[0]


def links(*, timeout_s: float = 1.0, connect: Connect = route_socket) -> list[LinkInfo]:
    """All interfaces of this network namespace, by their index.

    Args:
        timeout_s: for one listing; it is asked anew where interfaces change meanwhile.
        connect: the seam to the kernel.

    Raises:
        BusError: the kernel does not answer in time, refuses, or its answer is not valid.
    """
    for _ in range(_TRIES):
        answer = _ask(request_links(), timeout_s, connect)
        _refused(answer, "interfaces")
        if not answer.interrupted:
            return sorted(answer.links, key=lambda info: info.index)
    raise BusError("interfaces change faster than the kernel can list them; try again later")


def _ask(request: bytes, timeout_s: float, connect: Connect) -> Answer:
    answer = Answer()
    deadline = time.monotonic() + timeout_s
    with connect() as channel:
        try:
            channel.settimeout(timeout_s)
            channel.send(request)
            while not answer.feed(_receive(channel)):
                channel.settimeout(_left_s(deadline))
        except TimeoutError as error:
            raise BusError(
                f"the kernel did not answer about interfaces in {timeout_s} s"
            ) from error
        except OSError as error:
            raise BusError(f"the kernel cannot be asked about interfaces ({error})") from error
    return answer


def _left_s(deadline: float) -> float:
    left_s = deadline - time.monotonic()
    if left_s <= 0:  # a socket would take zero as "do not wait", and less not at all
        raise TimeoutError
    return left_s


def _refused(answer: Answer, what: str) -> None:
    if answer.error:
        raise BusError(f"the kernel does not tell about {what} ({os.strerror(answer.error)})")


class LinkWatch:
    """Tells of interfaces that change, from now on.

    To be used with `select` or an event loop by its `fileno`. To miss nothing, open it first and
    ask with `links` then.

    Args:
        receive_bytes: room that the kernel keeps for what was not read yet; its default is enough
            for about a hundred changes.
        connect: the seam to the kernel.

    Raises:
        BusError: this process may not have such a socket.
    """

    def __init__(self, *, receive_bytes: int | None = None, connect: Connect = _link_group) -> None:
        self.bad = 0
        """Datagrams so far that were not valid; each was reported as an overrun."""
        self._socket = connect()
        try:
            self._socket.setblocking(False)
            if receive_bytes is not None:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        except OSError as error:
            self._socket.close()
            raise BusError(f"changes of interfaces cannot be watched ({error})") from error

    def fileno(self) -> int:
        """Becomes readable when there is something to `read`; -1 when closed."""
        return self._socket.fileno()

    def read(self) -> list[LinkEvent]:
        """What has changed since the last call, in its order; does not wait.

        Raises:
            BusError: the watch is closed, or the socket has failed for good.
        """
        events: list[LinkEvent] = []
        for _ in range(_READS):  # what comes without end is read in portions
            try:
                events += parse_events(_receive(self._socket))
            except BlockingIOError:
                break
            except BusError:
                self.bad += 1
                events.append(LinkEvent(None, overrun=True))
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise BusError(f"changes of interfaces are not told ({error})") from error
                events.append(LinkEvent(None, overrun=True))
        return events

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _receive(channel: socket.socket) -> bytes:
    datagram, _control, flags, _sender = channel.recvmsg(_RECEIVE_BYTES)
    if flags & socket.MSG_TRUNC:
        raise BusError(f"a message of the kernel is longer than {_RECEIVE_BYTES} bytes")
    if not datagram:
        raise BusError("a message of the kernel is empty")
    return datagram
