"""SocketCAN sockets that are only read, opened before everything that is slow to import.

A vehicle's buses talk while this program still starts, so the sockets are opened first: this module
needs nothing but the standard library, and not even `typing` or `dataclasses` of that. The kernel
keeps what comes from then on; where its buffer is small, `agent.bus.early` empties it meanwhile.

`receive` takes up to 1,024 messages in one system call (recvmmsg) into a ring of memory
(`agent.bus.ring`), where they lie until they are parsed, many at once, by `agent.bus.canframes`.
Nothing is done per frame here. Each read notes both clocks, because the kernel's stamps are wall
time that must be converted with the offset of that moment.

Safety: nothing here can send. There is no shutdown for writing on such sockets (the kernel answers
EOPNOTSUPP) and no flag that forbids it, so it is a matter of code: the socket object is given up
for its bare descriptor as soon as it is bound, and the only calls that are made with that are
recvmmsg, poll, getsockopt, setsockopt and close.
"""

import ctypes
import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence

from agent.bus.ring import FRAME_BYTES, HEADER_BYTES, Messages, Read, Ring
from agent.errors import BusError

STAMP_CONTROL_BYTES = 64  # a stamp (32) and the drop counter (24), rounded up
HARDWARE_CONTROL_BYTES = 96  # three stamps (64) and the drop counter (24), rounded up

SLOTS = 16_384
MESSAGES_A_CALL = 1024
MAX_FILTERS = 512  # linux/can/raw.h: CAN_RAW_FILTER_MAX
RECEIVE_BUFFER_BYTES = 4 << 20
"""Asked for; the kernel counts some 800 bytes a frame, and doubles what is asked: 10,000 frames."""

Filters = Sequence[tuple[int, int]]
"""(id, mask) with the kernel's flag bits; a frame passes where id & mask agree with one of them."""

Clocks = Callable[[], tuple[int, int]]
"""Gives (boot time now in ns, boot time - wall time in ns)."""

# asm-generic/socket.h, linux/net_tstamp.h, linux/sock_diag.h, linux/can/raw.h: what the socket
# module has not, or the checker does not know of.
_CAN_RAW_ERR_FILTER = 2
_SO_RCVBUFFORCE = 33
_SO_TIMESTAMPNS = 35
_SO_TIMESTAMPING = 37
_SO_RXQ_OVFL = 40
_SO_MEMINFO = 55
_MEMINFO_FIELDS, _MEMINFO_DROPS = 9, 8
_STAMPING = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6  # RX_HARDWARE, RX_SOFTWARE, SOFTWARE, RAW_HARDWARE
_ERROR_MASK = 0x1FFF_FFFF  # every class of error frames

_FILTER = struct.Struct("=II")
_ADDRESS = struct.Struct("=Hxxi16x")  # struct sockaddr_can

_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_uint,
    ctypes.c_int,
    ctypes.c_void_p,
)
_recvmmsg.restype = ctypes.c_int


def _boot() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class ClockPair:
    """Reads both clocks as nearly at once as can be.

    The wall clock is read between two readings of the boot clock and laid into their middle. Where
    that took much longer than usual, the process was interrupted: it is tried again, three times
    at most, and the tightest counts.
    """

    def __init__(
        self, boot: Callable[[], int] = _boot, wall: Callable[[], int] = time.time_ns
    ) -> None:
        self._boot = boot
        self._wall = wall
        self._least = 0

    def __call__(self) -> tuple[int, int]:
        """Boot time now, and boot time - wall time, in ns."""
        tightest = offset = -1
        for _ in range(3):
            before = self._boot()
            label = self._wall()
            now = self._boot()
            took = now - before
            if tightest < 0 or took < tightest:
                tightest, offset = took, (before + now) // 2 - label
            if tightest <= 4 * self._least:
                break
        if not self._least or tightest < self._least:
            self._least = max(1, tightest)
        return now, offset


class MessageSocket:
    """A socket of whole messages that is only read: a descriptor, and a ring for what it gives.

    One thread uses it at a time; only `set_filters` may be called from another one.

    Args:
        descriptor: of a datagram socket whose options are set; it is owned from now on.
        index: number of its network interface.
        control_bytes: room for control messages a message, a multiple of 8.
        slots: messages that the ring holds.
        clocks: the seam to time.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        index: int = 0,
        control_bytes: int = STAMP_CONTROL_BYTES,
        slots: int = SLOTS,
        clocks: Clocks | None = None,
    ) -> None:
        self._descriptor = descriptor
        self.index = index
        self._clocks = clocks or ClockPair()
        self.opened = self._clocks()
        """Both clocks before anything could come."""
        self.read_at = self.opened[0]
        """Boot time of the last read."""
        self._ring = Ring(slots, control_bytes)
        self._reads: list[Read] = []

    def fileno(self) -> int:
        return self._descriptor

    @property
    def waiting(self) -> int:
        """Messages in the ring."""
        return self._ring.count

    @property
    def room(self) -> int:
        """Messages that the ring can still take."""
        return self._ring.slots - self._ring.count

    @property
    def buffer_bytes(self) -> int:
        """What the kernel granted, in its own accounting: twice what was asked, or its limit."""
        size = ctypes.c_int(0)
        self._get(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
        return int(size.value)

    def receive(self) -> int:
        """Take what is there, at most 1,024 messages and what fits; never waits.

        Gives the number of messages. `emptied` of the last read says whether more may be there.

        Raises:
            OSError: what the kernel reports of the interface, once: ENETDOWN, ENODEV, ...
        """
        ring = self._ring
        begin = ring.count
        want = min(ring.slots - begin, MESSAGES_A_CALL)
        if not want:
            return 0
        ring.prepare(begin + want)
        got: int = _recvmmsg(
            self._descriptor,
            ring.address + begin * HEADER_BYTES,
            want,
            socket.MSG_DONTWAIT,
            None,
        )
        if got < 0:
            number = ctypes.get_errno()
            if number not in (errno.EAGAIN, errno.EINTR):
                raise OSError(number, os.strerror(number))
            got = 0
        ring.count += got
        self._note(emptied=got < want)
        return got

    @property
    def emptied(self) -> bool:
        """Nothing was left in the kernel by the last read."""
        return not self._reads or self._reads[-1].emptied

    def _note(self, *, emptied: bool) -> None:
        now, offset = self._clocks()
        self.read_at = now
        end = self._ring.count
        reads = self._reads
        begin = reads[-2].end if len(reads) > 1 else 0
        if reads and reads[-1].end == end == begin and reads[-1].emptied:
            reads.pop()  # a quiet bus: only the last of many empty reads matters
        reads.append(Read(end, now, offset, emptied=emptied))

    def messages(self) -> Messages:
        """What is in the ring, valid until `clear`."""
        ring = self._ring
        n = ring.count
        return Messages(
            n,
            ring.headers[: n * HEADER_BYTES],
            ring.frames[: n * FRAME_BYTES],
            control=ring.control[: n * ring.control_bytes],
            control_bytes=ring.control_bytes,
            reads=self._reads,
        )

    def clear(self) -> None:
        """Forget what is in the ring."""
        self._ring.reset()
        self._reads = []

    def drops(self) -> int | None:
        """How many messages the kernel dropped because the buffer was full, modulo 2**32.

        None where the kernel does not tell (before Linux 4.12).
        """
        numbers = (ctypes.c_uint * _MEMINFO_FIELDS)()
        try:
            self._get(socket.SOL_SOCKET, _SO_MEMINFO, numbers)
        except BusError:
            return None
        return int(numbers[_MEMINFO_DROPS])

    def set_filters(self, filters: Filters | None) -> None:
        """Change what passes; see `pack_filters`. No frame is missed or doubled by it.

        Raises:
            BusError: more filters than the kernel takes, or the interface has gone.
        """
        packed = pack_filters(filters)
        if _libc.setsockopt(
            self._descriptor, socket.SOL_CAN_RAW, socket.CAN_RAW_FILTER, packed, len(packed)
        ):
            number = ctypes.get_errno()
            raise BusError(f"the kernel refuses the filters ({os.strerror(number)})")

    def close(self) -> None:
        """Give the descriptor back; the ring may still be read."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _get(
        self, level: int, option: int, into: ctypes.Array[ctypes.c_uint] | ctypes.c_int
    ) -> None:
        size = ctypes.c_uint(ctypes.sizeof(into))
        if _libc.getsockopt(
            self._descriptor, level, option, ctypes.byref(into), ctypes.byref(size)
        ):
            number = ctypes.get_errno()
            raise BusError(f"the kernel does not tell option {option} ({os.strerror(number)})")


class CanSocket(MessageSocket):
    """A raw socket on one CAN interface, for reading.

    Args:
        interface: name of the interface, such as can0.
        receive_buffer_bytes: for frames that wait in the kernel. More than net.core.rmem_max needs
            CAP_NET_ADMIN; `buffer_bytes` tells what was granted.
        fd: receive CAN FD frames too.
        filters: what passes; None for everything, an empty sequence for nothing.
        error_frames: receive error frames, whatever the filters say.
        hardware_stamps: ask for the controller's own stamps too, where it makes any.
        slots: messages that the ring holds.
        clocks: the seam to time.

    Raises:
        BusError: there is no such interface, no CAN in this kernel, no permission, or too many
            filters.
    """

    def __init__(
        self,
        interface: str,
        *,
        receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES,
        fd: bool = True,
        filters: Filters | None = None,
        error_frames: bool = True,
        hardware_stamps: bool = False,
        slots: int = SLOTS,
        clocks: Clocks | None = None,
    ) -> None:
        self.interface = interface
        if not interface:
            raise BusError("a CAN interface needs a name, such as can0")
        packed = pack_filters(filters)
        try:
            with socket.socket(socket.PF_CAN, socket.SOCK_RAW, socket.CAN_RAW) as opened:
                opened.setblocking(False)
                raw = socket.SOL_CAN_RAW
                if fd:
                    opened.setsockopt(raw, socket.CAN_RAW_FD_FRAMES, 1)
                opened.setsockopt(raw, _CAN_RAW_ERR_FILTER, _ERROR_MASK if error_frames else 0)
                opened.setsockopt(raw, socket.CAN_RAW_RECV_OWN_MSGS, 0)
                opened.setsockopt(raw, socket.CAN_RAW_FILTER, packed)
                prepare_for_reading(opened, receive_buffer_bytes, hardware_stamps=hardware_stamps)
                # Clocks are read before the first frame can come.
                super().__init__(
                    -1,
                    control_bytes=HARDWARE_CONTROL_BYTES
                    if hardware_stamps
                    else STAMP_CONTROL_BYTES,
                    slots=slots,
                    clocks=clocks,
                )
                opened.bind((interface,))
                self._descriptor = opened.detach()
        except OSError as error:
            raise BusError(_why(interface, error)) from error
        self.index = self._bound()

    def _bound(self) -> int:
        """Number of the interface that the socket is bound to, whatever its name is by now."""
        address = ctypes.create_string_buffer(_ADDRESS.size)
        size = ctypes.c_uint(_ADDRESS.size)
        if _libc.getsockname(self._descriptor, address, ctypes.byref(size)):
            return 0
        return int(_ADDRESS.unpack(address.raw)[1])


def prepare_for_reading(
    opened: socket.socket, receive_buffer_bytes: int, *, hardware_stamps: bool = False
) -> None:
    """Set what any socket has: size of the buffer, stamps, drop counter.

    Raises:
        OSError: the kernel does not know one of them.
    """
    options = socket.SOL_SOCKET
    try:
        opened.setsockopt(options, _SO_RCVBUFFORCE, receive_buffer_bytes)
    except OSError:  # no CAP_NET_ADMIN: as much as net.core.rmem_max allows
        opened.setsockopt(options, socket.SO_RCVBUF, receive_buffer_bytes)
    opened.setsockopt(options, _SO_RXQ_OVFL, 1)
    if hardware_stamps:
        opened.setsockopt(options, _SO_TIMESTAMPING, _STAMPING)
    else:
        opened.setsockopt(options, _SO_TIMESTAMPNS, 1)


def pack_filters(filters: Filters | None) -> bytes:
    """Filters as the kernel takes them; None passes everything, no filters at all pass nothing.

    Raises:
        BusError: more than 512, or a number beyond 32 bits.
    """
    if filters is None:
        return _FILTER.pack(0, 0)
    if len(filters) > MAX_FILTERS:
        raise BusError(
            f"{len(filters)} filters are more than the {MAX_FILTERS} that the kernel takes for one "
            "socket; use wider masks, or none"
        )
    try:
        return b"".join(_FILTER.pack(identifier, mask) for identifier, mask in filters)
    except struct.error as error:
        raise BusError("identifiers and masks of filters are numbers of 32 bits") from error


def _why(interface: str, error: OSError) -> str:
    number = error.errno
    if number == errno.ENODEV:
        return f"there is no interface {interface}"
    if number in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
        return "this kernel has no CAN (try: modprobe can_raw)"
    if number in (errno.EPERM, errno.EACCES):
        return f"no permission to open {interface}"
    if number == errno.ENOPROTOOPT:
        return "this kernel is too old for CAN FD or drop counters"
    return f"{interface} cannot be opened ({error.strerror or error})"
