"""Frames for tests on a real kernel, and a sender that costs little: many frames a system call."""

import ctypes
import errno
import os
import socket
import struct
from types import TracebackType
from typing import Final, Self

from agent.blocks import FrameBlock

CLASSIC: Final = struct.Struct("=IB3x8s")
FD: Final = struct.Struct("=IBBxx64s")
_HEADERS: Final = 512

_libc: Final = ctypes.CDLL(None, use_errno=True)


def classic(identifier: int, data: bytes = b"", *, length: int | None = None) -> bytes:
    return CLASSIC.pack(identifier, len(data) if length is None else length, data)


def fd(identifier: int, data: bytes = b"", *, flags: int = 0) -> bytes:
    return FD.pack(identifier, len(data), flags, data)


def numbered(n: int, begin: int = 0) -> list[bytes]:
    """Classic frames that carry their number."""
    return [classic(i % 0x700, i.to_bytes(8, "little")) for i in range(begin, begin + n)]


def numbers(block: FrameBlock) -> list[int]:
    """What `numbered` frames carry."""
    carried: list[int] = block.data[:, :8].copy().view("<u8")[:, 0].tolist()
    return carried


class Sender:
    """Sends on one interface: a node of the bus beside the agent."""

    def __init__(self, interface: str) -> None:
        self._socket = socket.socket(socket.PF_CAN, socket.SOCK_RAW, socket.CAN_RAW)
        self._socket.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FD_FRAMES, 1)
        self._socket.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FILTER, b"")
        self._socket.bind((interface,))

    def send(self, *frames: bytes) -> None:
        for frame in frames:
            self._socket.send(frame)

    def send_many(self, prepared: "Prepared") -> int:
        """All frames, 512 in a system call; gives their number.

        Raises:
            OSError: the interface is down or gone.
        """
        sent = 0
        while sent < prepared.count:
            done = _libc.sendmmsg(
                self._socket.fileno(),
                ctypes.c_void_p(prepared.address + sent * 64),
                min(_HEADERS, prepared.count - sent),
                0,
            )
            if done < 0:
                number = ctypes.get_errno()
                if number in (errno.EINTR, errno.ENOBUFS):
                    continue
                raise OSError(number, os.strerror(number))
            sent += done
        return sent

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


class Prepared:
    """Frames in memory as sendmmsg takes them."""

    def __init__(self, frames: list[bytes]) -> None:
        self.count = len(frames)
        self._payload = ctypes.create_string_buffer(b"".join(frames))
        vectors, headers, at = bytearray(), bytearray(), ctypes.addressof(self._payload)
        for frame in frames:
            vectors += struct.pack("=QQ", at, len(frame))
            at += len(frame)
        self._vectors = ctypes.create_string_buffer(bytes(vectors))
        base = ctypes.addressof(self._vectors)
        for n in range(self.count):
            headers += struct.pack("=QQQQQQQQ", 0, 0, base + 16 * n, 1, 0, 0, 0, 0)
        self._headers = ctypes.create_string_buffer(bytes(headers))
        self.address = ctypes.addressof(self._headers)
