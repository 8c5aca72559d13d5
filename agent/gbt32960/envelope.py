"""The frame around a data unit, and frames out of a stream of bytes.

    offset  bytes
         0      2   "##" (2016) or "$$" (2025)
         2      1   command
         3      1   ack flag: 0xFE asks, everything else answers
         4     17   VIN, ASCII, padded with zeros
        21      1   encryption of the data unit
        22      2   its length n, 0 to 65531
        24      n   data unit
    24 + n      1   BCC: XOR of all bytes from offset 2 to the last of the data unit

Nothing is escaped, so the start marks may stand anywhere in a data unit, too. A stream that has
lost its place finds it again at the next mark from which length and BCC agree. XOR over all bytes
so far is kept beside them: the BCC of a candidate is then two look-ups, whatever its length, and a
stream of nothing but marks costs no more a byte than any other.

A false mark may announce up to 64 KiB that never come, and frames behind it wait for them. Only
time tells: `Stream.give_up` is for the caller, whose clock it is.
"""

import dataclasses
import re
from typing import Final

import numpy as np

from agent.gbt32960.codec import CODECS, Codec, Values, pack_text, unpack_text
from agent.gbt32960.layout import COMMAND, GbtError

MAX_BODY: Final = 65531
OVERHEAD: Final = 25
MAX_FRAME: Final = OVERHEAD + MAX_BODY
PLAIN: Final = 0x01

_HEADER: Final = 24
_LENGTH: Final = slice(22, 24)
_START: Final = re.compile(rb"##|\$\$")
_HALF: Final = (b"#", b"$")


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `body` is the data unit as it lies on the wire."""

    codec: Codec
    command: int
    ack: int
    vin: str
    body: bytes = b""
    encryption: int = PLAIN

    def to_bytes(self) -> bytes:
        """The frame as it is sent.

        Raises:
            GbtError: a VIN that does not fit, a data unit that is too long, or a number over 255.
        """
        if len(self.body) > MAX_BODY:
            raise GbtError(f"a data unit has at most {MAX_BODY} bytes, not {len(self.body)}")
        small = {"command": self.command, "ack": self.ack, "encryption": self.encryption}
        for name, value in small.items():
            if not 0 <= value <= 0xFF:
                raise GbtError(f"{name} = {value} is no byte")
        inside = b"".join(
            (
                bytes((self.command, self.ack)),
                pack_text("VIN", self.vin, 17),
                bytes((self.encryption,)),
                len(self.body).to_bytes(2, "big"),
                self.body,
            )
        )
        return self.codec.layout.start + inside + bytes((bcc(inside),))

    def decode(self) -> Values:
        """The values of the data unit, as `Codec.decode` gives them.

        Raises:
            GbtError: it is encrypted or malformed.
        """
        if self.encryption != PLAIN:
            known = self.codec.layout.encryptions.get(self.encryption, "unknown")
            raise GbtError(f"the data unit is encrypted (0x{self.encryption:02X}, {known})")
        return self.codec.decode(self.command, self.body, self.ack)


def bcc(data: bytes) -> int:
    """XOR of all bytes."""
    return int(np.bitwise_xor.reduce(np.frombuffer(data, np.uint8), initial=0))


def request(codec: Codec, command: int, vin: str, body: bytes = b"") -> Frame:
    """A frame that asks."""
    return Frame(codec, command, COMMAND, vin, body)


def parse(data: bytes) -> Frame:
    """A frame from exactly its bytes.

    Raises:
        GbtError: no start mark, a length that is not that of the bytes, or a wrong BCC.
    """
    if len(data) < OVERHEAD or data[:2] not in CODECS:
        raise GbtError("this is no frame: no start mark, or shorter than 25 bytes", 0)
    length = int.from_bytes(data[_LENGTH], "big")
    if length > MAX_BODY or len(data) != OVERHEAD + length:
        raise GbtError(f"a length of {length} in a frame of {len(data)} bytes", _LENGTH.start)
    wanted = bcc(data[2:-1])
    if wanted != data[-1]:
        raise GbtError(f"BCC is 0x{data[-1]:02X} and should be 0x{wanted:02X}", len(data) - 1)
    return _frame(data)


def _frame(data: bytes) -> Frame:
    """A frame from bytes of which length and BCC are known to be right."""
    return Frame(
        codec=CODECS[data[:2]],
        command=data[2],
        ack=data[3],
        vin=unpack_text(data[4:21]),
        body=data[_HEADER:-1],
        encryption=data[21],
    )


class Stream:
    """Frames from bytes as they come, in pieces of any size.

    Between two calls it holds less than one frame of the greatest length.

    Attributes:
        frames: how many were found.
        skipped_bytes: how many bytes belonged to no frame.
        bad_frames: how many start marks led to no frame: a length over 65531, or a wrong BCC.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        # _sums[i] is the XOR of everything before byte i, and one more than there are bytes.
        self._sums = bytearray(1)
        self.frames = 0
        self.skipped_bytes = 0
        self.bad_frames = 0

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait for more."""
        return len(self._bytes)

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes; gives the frames that they complete, in order. Raises nothing."""
        found: list[Frame] = []
        # In pieces, so that what is held stays bounded whatever comes at once.
        for begin in range(0, len(data), MAX_FRAME):
            self._add(data[begin : begin + MAX_FRAME])
            self._drain(0, found)
        return found

    def give_up(self) -> list[Frame]:
        """The rest of a begun frame will not come: look for frames behind its start mark.

        Gives what was hidden by it. At the end of a connection, call it until nothing is pending.
        """
        found: list[Frame] = []
        if self._bytes:
            self.bad_frames += 1
            self._drain(1, found)
        return found

    def _add(self, data: bytes) -> None:
        if not data:
            return
        piece = np.frombuffer(data, np.uint8).copy()
        piece[0] ^= self._sums[-1]
        self._bytes += data
        self._sums += np.bitwise_xor.accumulate(piece).tobytes()

    def _drain(self, at: int, found: list[Frame]) -> None:
        """Take every frame from `at` on; what came before it and between is skipped."""
        used = 0  # up to here, bytes are skipped or in frames
        while True:
            start = _START.search(self._bytes, at)
            if start is None:
                at = max(at, len(self._bytes) - self._bytes.endswith(_HALF))
                break
            at = start.start()
            size = self._size(at)
            if size is None or len(self._bytes) - at < size:
                if size is None and len(self._bytes) - at >= _HEADER:
                    self.bad_frames += 1
                    at += 1
                    continue
                break
            end = at + size
            if self._sums[at + 2] ^ self._sums[end - 1] != self._bytes[end - 1]:
                self.bad_frames += 1
                at += 1
                continue
            self.skipped_bytes += at - used
            self.frames += 1
            found.append(_frame(bytes(self._bytes[at:end])))
            at = used = end
        self.skipped_bytes += at - used
        del self._bytes[:at]
        del self._sums[:at]

    def _size(self, at: int) -> int | None:
        """The size of the frame that begins there; None where it is not known or too great."""
        if len(self._bytes) - at < _HEADER:
            return None
        length = int.from_bytes(self._bytes[at + 22 : at + 24], "big")
        return OVERHEAD + length if length <= MAX_BODY else None
