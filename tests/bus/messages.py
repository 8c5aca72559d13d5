"""Messages of the kernel for tests: made by hand, or by a real socket that is no CAN socket."""

import dataclasses
import socket
import struct
from typing import Final, Self

from agent.bus.canraw import Clocks, MessageSocket, prepare_for_reading
from agent.bus.ring import HEADER_BYTES, Messages, Read

SOL_SOCKET: Final = 1
TIMESTAMPNS: Final = 35
TIMESTAMPING: Final = 37
RXQ_OVFL: Final = 40
DONTROUTE: Final = 0x04
CTRUNC: Final = 0x08
TRUNC: Final = 0x20

CLASSIC: Final = struct.Struct("=IB3x8s")
FD: Final = struct.Struct("=IBBxx64s")


def classic(identifier: int, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A `struct can_frame`; `length` lies where it is given."""
    return CLASSIC.pack(identifier, len(data) if length is None else length, data)


def fd(identifier: int, data: bytes = b"", *, flags: int = 0, length: int | None = None) -> bytes:
    """A `struct canfd_frame`."""
    return FD.pack(identifier, len(data) if length is None else length, flags, data)


def cmsg(kind: int, body: bytes, *, level: int = SOL_SOCKET, length: int | None = None) -> bytes:
    """A control message with its padding; `length` lies where it is given."""
    size = 16 + len(body) if length is None else length
    return struct.pack("=Qii", size % 2**64, level, kind) + body + bytes(-len(body) % 8)


def timespec(ns: int) -> bytes:
    return struct.pack("=qq", ns // 1_000_000_000, ns % 1_000_000_000)


def stamp(ns: int) -> bytes:
    return cmsg(TIMESTAMPNS, timespec(ns))


def stamps(software_ns: int, hardware_ns: int) -> bytes:
    return cmsg(TIMESTAMPING, timespec(software_ns) + bytes(16) + timespec(hardware_ns))


def drops(count: int) -> bytes:
    return cmsg(RXQ_OVFL, struct.pack("=I", count))


@dataclasses.dataclass(frozen=True)
class Message:
    """What the kernel writes for one message, and what is left of an earlier one around it."""

    frame: bytes
    control: bytes = b""
    flags: int = 0
    size: int | None = None
    left_behind: int = 0xA5


def messages(
    rows: list[Message], *, control_bytes: int = 64, reads: list[Read] | None = None
) -> Messages:
    """The rows as they lie in a ring."""
    headers, frames, controls = bytearray(), bytearray(), bytearray()
    for row in rows:
        size = len(row.frame) if row.size is None else row.size
        head = struct.pack(
            "=QQQQQQIIII", 0, 0, 0x1000, 1, 0x2000, len(row.control), row.flags, 0, size, 0
        )
        assert len(head) == HEADER_BYTES
        headers += head
        frames += row.frame.ljust(72, bytes([row.left_behind]))[:72]
        controls += row.control.ljust(control_bytes, bytes([row.left_behind]))[:control_bytes]
    return Messages(
        len(rows),
        bytes(headers),
        bytes(frames),
        control=bytes(controls),
        control_bytes=control_bytes,
        reads=reads or [Read(len(rows), 0, 0, emptied=True)],
    )


class Wire:
    """A bus made of a UDP socket: the same kernel calls, stamps and drop counts as a CAN socket.

    `reader` is what a source reads; `send` puts a frame on the wire.
    """

    def __init__(
        self,
        *,
        buffer_bytes: int = 4 << 20,
        slots: int = 16_384,
        hardware_stamps: bool = False,
        clocks: Clocks | None = None,
    ) -> None:
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.bind(("127.0.0.1", 0))
        self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sender.connect(receiver.getsockname())
        prepare_for_reading(receiver, buffer_bytes, hardware_stamps=hardware_stamps)
        self.reader = MessageSocket(
            receiver.detach(),
            index=7,
            control_bytes=96 if hardware_stamps else 64,
            slots=slots,
            clocks=clocks,
        )

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self._sender.send(frame)

    def close(self) -> None:
        self._sender.close()
        self.reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
