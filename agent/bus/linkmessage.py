"""Messages of rtnetlink about network interfaces: bytes to `LinkInfo`, without a socket.

A message is a header with a length and then attributes, each with a length, some of them nested.
Every length is compared with the bytes that are there, what is of an unknown type is skipped, and
what does not fit is a `BusError`. Layouts: linux/netlink.h, linux/rtnetlink.h, linux/if_link.h,
linux/can/netlink.h; numbers are in the byte order of the machine. Structures may be longer than
known here: the kernel lets them grow at their end.
"""

import dataclasses
import socket
import struct
from collections.abc import Iterator
from typing import Final

from agent.errors import BusError

_MESSAGE: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_LINK: Final = struct.Struct("=BxHiII")  # ifinfomsg: family, hardware type, index, flags, change
_ATTRIBUTE: Final = struct.Struct("=HH")  # nlattr: length with this header, type
_NUMBER: Final = struct.Struct("=i")
_U32: Final = struct.Struct("=I")
_BIT_TIMING: Final = struct.Struct("=II")  # can_bittiming begins: bit rate, sample point
_CONTROL_MODE: Final = struct.Struct("=II")  # can_ctrlmode: mask, flags
_ERROR_COUNTERS: Final = struct.Struct("=HH")  # can_berr_counter: txerr, rxerr
_CAN_COUNTERS: Final = struct.Struct("=6I")  # can_device_stats
_STATISTICS: Final = struct.Struct("=19Q")  # rtnl_link_stats64, up to tx_fifo_errors

_NOOP, _ERROR, _DONE = 1, 2, 3
_NEW_LINK, _DEL_LINK, _GET_LINK = 16, 17, 18
_REQUEST, _DUMP, _MULTI, _DUMP_INTERRUPTED = 0x001, 0x300, 0x002, 0x010
_TYPE_BITS: Final = 0x3FFF  # without the bits "nested" and "network byte order"

_IFNAME, _MTU, _OPERSTATE, _LINKINFO, _STATS64 = 3, 4, 16, 18, 23
_INFO_KIND, _INFO_DATA, _INFO_XSTATS = 1, 2, 3
_CAN_BITTIMING, _CAN_STATE, _CAN_CTRLMODE, _CAN_RESTART_MS = 1, 4, 5, 6
_CAN_BERR_COUNTER, _CAN_DATA_BITTIMING = 8, 9
_MODE_LOOPBACK, _MODE_LISTEN_ONLY, _MODE_FD = 0x01, 0x02, 0x20

_FLAG_UP, _FLAG_RUNNING = 0x01, 0x40
_HARDWARE_CAN: Final = 280  # ARPHRD_CAN
_STATES: Final = ("active", "warning", "passive", "off", "stopped", "sleeping")
_OPERSTATES: Final = (
    "unknown",
    "notpresent",
    "down",
    "lowerlayerdown",
    "testing",
    "dormant",
    "up",
)
_BITRATE_UNKNOWN: Final = 0xFFFF_FFFF  # slcan says so where somebody else has set the adapter up
_NAME_BYTES: Final = 16  # IFNAMSIZ, with the zero at the end
_SEQUENCE: Final = 1  # the same for all: every request has a socket of its own


@dataclasses.dataclass(frozen=True, slots=True)
class LinkStatistics:
    """Frames and bytes since the interface was made (struct rtnl_link_stats64).

    What a CAN driver could not store in time is in `rx_over_errors` (the controller's memory) or
    `rx_fifo_errors` (the driver's queue), depending on the driver.
    """

    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_errors: int
    tx_errors: int
    rx_dropped: int
    tx_dropped: int
    multicast: int
    collisions: int
    rx_length_errors: int
    rx_over_errors: int
    rx_crc_errors: int
    rx_frame_errors: int
    rx_fifo_errors: int
    rx_missed_errors: int
    tx_aborted_errors: int
    tx_carrier_errors: int
    tx_fifo_errors: int


@dataclasses.dataclass(frozen=True, slots=True)
class CanCounters:
    """How often what has happened to a controller since it was made (struct can_device_stats)."""

    bus_error: int
    error_warning: int
    error_passive: int
    bus_off: int
    arbitration_lost: int
    restarts: int


@dataclasses.dataclass(frozen=True, slots=True)
class LinkInfo:
    """One interface at one moment.

    `kind` is the driver's family: "can" for every controller, real or slcan, "vcan", "vxcan"; ""
    where the kernel names none, as for `lo`. `can` is true for all that carries CAN frames. `up` is
    what the administrator has set, `running` what the interface then does: false with `up` means no
    carrier, for a controller bus-off (the kernel may take a second for it; `state` is immediate).
    `operstate` is that of RFC 2863.

    All after `statistics` is None where the interface has no controller (vcan), or the driver does
    not tell. Bit rates in bit/s; sample points as a fraction of the bit; `restart_ms` 0 means that
    bus-off is left by hand only; `tx_errors` and `rx_errors` are the error counters of ISO 11898-1,
    which fall again, not totals.
    """

    index: int
    name: str
    kind: str
    can: bool
    up: bool
    running: bool
    operstate: str
    mtu: int
    statistics: LinkStatistics | None = None
    state: str | None = None
    bitrate: int | None = None
    sample_point: float | None = None
    data_bitrate: int | None = None
    data_sample_point: float | None = None
    listen_only: bool | None = None
    loopback: bool | None = None
    fd: bool | None = None
    restart_ms: int | None = None
    tx_errors: int | None = None
    rx_errors: int | None = None
    counters: CanCounters | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class LinkEvent:
    """An interface that has changed, as it is now; with `gone`, as it was at its end.

    An interface keeps its index when its name changes. `overrun` means that something was not told
    because too much came at once: then `info` is None, and what is known must be asked for anew.
    """

    info: LinkInfo | None
    gone: bool = False
    overrun: bool = False

    @property
    def index(self) -> int:
        """0 with `overrun`: no interface has it."""
        return self.info.index if self.info else 0

    @property
    def name(self) -> str:
        return self.info.name if self.info else ""

    @property
    def up(self) -> bool:
        return self.info is not None and self.info.up and not self.gone

    @property
    def running(self) -> bool:
        return self.info is not None and self.info.running and not self.gone


def parse_link(payload: bytes) -> LinkInfo:
    """An interface from the payload of a message RTM_NEWLINK or RTM_DELLINK.

    Raises:
        BusError: a length that does not fit, or no name.
    """
    _family, hardware, index, flags, _change = _unpack(_LINK, payload)
    attributes = _attributes(payload[_LINK.size :])
    name = _text(attributes.get(_IFNAME, b""))
    if not name:
        raise BusError(f"the kernel's answer about interface {index} has no name")
    statistics = attributes.get(_STATS64)
    operstate = attributes.get(_OPERSTATE, b"\0")[:1]
    details = _attributes(attributes.get(_LINKINFO, b""))
    kind = _text(details.get(_INFO_KIND, b""))
    plain = LinkInfo(
        index=index,
        name=name,
        kind=kind,
        can=hardware == _HARDWARE_CAN,
        up=bool(flags & _FLAG_UP),
        running=bool(flags & _FLAG_RUNNING),
        operstate=_named(_OPERSTATES, operstate[0] if operstate else 0) or "unknown",
        mtu=_u32(attributes, _MTU) or 0,
        statistics=LinkStatistics(*_unpack(_STATISTICS, statistics)) if statistics else None,
    )
    # The numbers of attributes mean something else in every kind. Drivers of CAN controllers, also
    # those of vendors, get this one from the kernel's common code (drivers/net/can/dev).
    return _with_controller(plain, details) if kind == "can" else plain


def _with_controller(plain: LinkInfo, details: dict[int, bytes]) -> LinkInfo:
    data = _attributes(details.get(_INFO_DATA, b""))
    state = _u32(data, _CAN_STATE)
    bitrate, sample_point = _bit_timing(data.get(_CAN_BITTIMING))
    data_bitrate, data_sample_point = _bit_timing(data.get(_CAN_DATA_BITTIMING))
    mode = errors = counters = None
    if _CAN_CTRLMODE in data:
        mode = _unpack(_CONTROL_MODE, data[_CAN_CTRLMODE])[1]
    if _CAN_BERR_COUNTER in data:
        errors = _unpack(_ERROR_COUNTERS, data[_CAN_BERR_COUNTER])
    if _INFO_XSTATS in details:
        counters = CanCounters(*_unpack(_CAN_COUNTERS, details[_INFO_XSTATS]))
    return dataclasses.replace(
        plain,
        state=None if state is None else _named(_STATES, state),
        bitrate=bitrate,
        sample_point=sample_point,
        data_bitrate=data_bitrate,
        data_sample_point=data_sample_point,
        listen_only=None if mode is None else bool(mode & _MODE_LISTEN_ONLY),
        loopback=None if mode is None else bool(mode & _MODE_LOOPBACK),
        fd=None if mode is None else bool(mode & _MODE_FD),
        restart_ms=_u32(data, _CAN_RESTART_MS),
        tx_errors=errors[0] if errors else None,
        rx_errors=errors[1] if errors else None,
        counters=counters,
    )


def parse_events(datagram: bytes) -> list[LinkEvent]:
    """What a datagram of the group RTNLGRP_LINK tells.

    Raises:
        BusError: a length that does not fit, or an interface without a name.
    """
    events = []
    for kind, _flags, _sequence, payload in _messages(datagram):
        # Bridges tell here of their ports, with a family of their own: a port that leaves its
        # bridge is not gone.
        if kind in (_NEW_LINK, _DEL_LINK) and payload[:1] in (b"", b"\0"):
            events.append(LinkEvent(parse_link(payload), gone=kind == _DEL_LINK))
    return events


def request_link(name: str) -> bytes | None:
    """Asks for the interface of this name, or alternative name; None if no interface can have it.

    The kernel looks for names of up to 15 bytes here; longer ones are never those of a CAN bus.
    """
    wanted = name.encode("utf-8", "surrogatepass")
    if not 0 < len(wanted) < _NAME_BYTES or b"\0" in wanted:
        return None
    value = wanted + b"\0"
    attribute = _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), _IFNAME) + value
    return _request(attribute + bytes(-len(attribute) % 4), 0)


def request_links() -> bytes:
    """Asks for all interfaces of this network namespace."""
    return _request(b"", _DUMP)


def _request(attributes: bytes, flags: int) -> bytes:
    body = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attributes
    size = _MESSAGE.size + len(body)
    return _MESSAGE.pack(size, _GET_LINK, _REQUEST | flags, _SEQUENCE, 0) + body


class Answer:
    """Collects the answer to a request made here, datagram by datagram.

    `error` is the kernel's error number, 0 for none. `interrupted` says that interfaces changed
    while the kernel listed them: one may be missing or be there twice.
    """

    def __init__(self) -> None:
        self.links: list[LinkInfo] = []
        self.error = 0
        self.interrupted = False

    def feed(self, datagram: bytes) -> bool:
        """Take a datagram; True when the answer is complete.

        Raises:
            BusError: no valid answer.
        """
        for kind, flags, sequence, payload in _messages(datagram):
            if kind == _NOOP or sequence != _SEQUENCE:
                continue
            self.interrupted |= bool(flags & _DUMP_INTERRUPTED)
            if kind in (_ERROR, _DONE):
                self.error = _error_number(payload) if kind == _ERROR or payload else 0
                return True
            if kind == _NEW_LINK:
                self.links.append(parse_link(payload))
                if not flags & _MULTI:
                    return True
        return False


def _messages(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, flags, sequence and payload of each message."""
    at = 0
    while at < len(datagram):
        size, kind, flags, sequence, _port = _unpack(_MESSAGE, datagram[at:])
        if not _MESSAGE.size <= size <= len(datagram) - at:
            raise BusError(f"a message of the kernel gives its length as {size} bytes")
        yield kind, flags, sequence, datagram[at + _MESSAGE.size : at + size]
        at += size + -size % 4


def _attributes(data: bytes) -> dict[int, bytes]:
    """The values by their type; of two of a type the last, as the kernel itself does it."""
    values = {}
    at = 0
    while at < len(data):
        size, kind = _unpack(_ATTRIBUTE, data[at : at + _ATTRIBUTE.size])
        if not _ATTRIBUTE.size <= size <= len(data) - at:
            raise BusError(f"an attribute in a message of the kernel gives its length as {size}")
        values[kind & _TYPE_BITS] = data[at + _ATTRIBUTE.size : at + size]
        at += size + -size % 4
    return values


def _unpack(layout: struct.Struct, data: bytes) -> tuple[int, ...]:
    if len(data) < layout.size:
        raise BusError(f"a message of the kernel ends early: {len(data)} of {layout.size} bytes")
    return layout.unpack_from(data)


def _error_number(payload: bytes) -> int:
    """The kernel gives them negative, and none beyond 4095 (MAX_ERRNO)."""
    (number,) = _unpack(_NUMBER, payload)
    if not -4095 <= number <= 0:
        raise BusError(f"a message of the kernel gives {number} as the number of an error")
    return -number


def _u32(attributes: dict[int, bytes], kind: int) -> int | None:
    return _unpack(_U32, attributes[kind])[0] if kind in attributes else None


def _bit_timing(data: bytes | None) -> tuple[int | None, float | None]:
    """Bit rate and sample point; the kernel has the latter in tenths of a percent."""
    if data is None:
        return None, None
    bitrate, sample_point = _unpack(_BIT_TIMING, data)
    known = bitrate not in (0, _BITRATE_UNKNOWN)
    return bitrate if known else None, sample_point / 1000 if sample_point else None


def _named(names: tuple[str, ...], number: int) -> str | None:
    return names[number] if number < len(names) else None


def _text(value: bytes) -> str:
    return value.partition(b"\0")[0].decode("utf-8", "backslashreplace")
