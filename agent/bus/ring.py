"""The memory that messages are received into. Nothing but the standard library, as `canraw` wants.

For each message there is a slot of

    header    64 bytes    struct mmsghdr: where the next three lie, and what the kernel said of it
    vector    16 bytes    struct iovec, to the frame
    frame     72 bytes    struct canfd_frame (a classic frame fills the first 16)
    control   64 or 96    stamps and the drop counter, as control messages

each kind end to end, so that headers, frames and controls are arrays of their own.
"""

import contextlib
import ctypes
import mmap
import struct
import sys

from agent.errors import BusError

FRAME_BYTES = 72
HEADER_BYTES = 64

_VECTOR_BYTES = 16
_HEADER = struct.Struct(
    "=QQQQQQQQ"
)  # name, its length, vector, 1, control, its length, flags, size
_PREPARE = 512  # slots that are filled in at a time: a quiet bus never touches most of the ring


class Read:
    """One call of `receive`: the ring's fill after it, and the clocks at its end.

    `emptied` says that nothing was left in the kernel: what the next read finds came later.
    """

    __slots__ = ("emptied", "end", "now", "offset")

    def __init__(self, end: int, now: int, offset: int, *, emptied: bool) -> None:
        self.end = end
        self.now = now
        self.offset = offset
        self.emptied = emptied


class Messages:
    """n messages as the kernel left them: n headers, n frames and n controls, each end to end."""

    __slots__ = ("control", "control_bytes", "count", "frames", "headers", "reads")

    def __init__(
        self,
        count: int,
        headers: memoryview | bytes,
        frames: memoryview | bytes,
        *,
        control: memoryview | bytes,
        control_bytes: int,
        reads: list[Read],
    ) -> None:
        self.count = count
        self.headers = headers
        self.frames = frames
        self.control = control
        self.control_bytes = control_bytes
        self.reads = reads

    def copy(self) -> "Messages":
        """The same, independent of the ring."""
        return Messages(
            self.count,
            bytes(self.headers),
            bytes(self.frames),
            control=bytes(self.control),
            control_bytes=self.control_bytes,
            reads=list(self.reads),
        )

    @property
    def nbytes(self) -> int:
        return self.count * (HEADER_BYTES + FRAME_BYTES + self.control_bytes)


class Ring:
    """Memory for messages, prepared for recvmmsg; private pages that are touched when used."""

    def __init__(self, slots: int, control_bytes: int) -> None:
        if sys.byteorder != "little" or struct.calcsize("P") != 8:
            raise BusError("CAN interfaces are read on 64-bit ARM and x86 only")
        self.slots = slots
        self.control_bytes = control_bytes
        self.count = 0
        sizes = (
            slots * HEADER_BYTES,
            slots * _VECTOR_BYTES,
            slots * FRAME_BYTES,
            slots * control_bytes,
        )
        memory = mmap.mmap(-1, sum(sizes), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError):  # a kernel without huge pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
        # It pins the memory: the kernel writes to these addresses.
        self._pin = ctypes.c_char.from_buffer(memory)
        begins = [sum(sizes[:part]) for part in range(4)]
        view = memoryview(memory)
        self.headers, self._vectors, self.frames, self.control = (
            view[begin : begin + size] for begin, size in zip(begins, sizes, strict=True)
        )
        base = ctypes.addressof(self._pin)
        self.address, self._at_vectors, self._at_frames, self._at_control = (
            base + begin for begin in begins
        )
        self._fresh = bytearray()

    def prepare(self, upto: int) -> None:
        """Make the slots before `upto` ready to be received into."""
        ready = len(self._fresh) // HEADER_BYTES
        if upto <= ready:
            return
        upto = min(self.slots, upto + _PREPARE)
        vectors = bytearray()
        headers = bytearray()
        for slot in range(ready, upto):
            vectors += struct.pack("=QQ", self._at_frames + slot * FRAME_BYTES, FRAME_BYTES)
            headers += _HEADER.pack(
                0,
                0,
                self._at_vectors + slot * _VECTOR_BYTES,
                1,
                self._at_control + slot * self.control_bytes,
                self.control_bytes,
                0,
                0,
            )
        self._vectors[ready * _VECTOR_BYTES : upto * _VECTOR_BYTES] = vectors
        self.headers[ready * HEADER_BYTES : upto * HEADER_BYTES] = headers
        self._fresh += headers

    def reset(self) -> None:
        used = self.count * HEADER_BYTES
        # The kernel wrote how much room was used; it must find how much there is.
        self.headers[:used] = memoryview(self._fresh)[:used]
        self.count = 0
