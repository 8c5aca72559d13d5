"""ISO-TP (ISO 15765-2) as one ECU speaks it, frame by frame: no I/O, no clock, no threads.

    0n data                single frame of n bytes
    1n nn data             first frame of nnn bytes, answered with flow control
    2k data                consecutive frames, k counts 1 to 15, 0, 1 ...
    3s bb tt               flow control: go on (0), wait (1), overflow (2); block size; gap (STmin)

Classic frames of eight bytes, normal addressing, one message each way at a time. A new first or
single frame ends what was under way. What makes no sense is counted and dropped.
"""

from collections.abc import Iterator
from typing import Final

from agent.clock import MILLISECOND

MAX_BYTES: Final = 4095
_FRAME: Final = 8
_SINGLE, _FIRST, _CONSECUTIVE, _FLOW = range(4)
_GO_ON, _WAIT, _OVERFLOW = range(3)
_PADDING: Final = 0xAA
_MICROSECONDS: Final = range(0xF1, 0xFA)  # in hundreds, from 1
_LONGEST_MS: Final = 127

Sent = tuple[int, bytes]
"""A delay in ns, counted from what caused the frame, and its eight bytes."""


class Transport:
    """One ECU's end of a conversation with one tester.

    `bad` counts frames that made no sense, `unfinished` messages that did not become whole.
    """

    def __init__(self) -> None:
        self.bad = 0
        self.unfinished = 0
        self._came = bytearray()
        self._wanted = 0
        self._next = 0
        self._waiting: list[bytes] = []

    def send(self, payload: bytes) -> list[Sent]:
        """The frames of a message; those after the first one wait for flow control.

        Raises:
            ValueError: an empty message, or one of more than 4095 bytes.
        """
        if not 0 < len(payload) <= MAX_BYTES:
            raise ValueError(f"a message has 1 to {MAX_BYTES} bytes, not {len(payload)}")
        self._give_up()
        if len(payload) < _FRAME:
            return [(0, _padded(bytes([len(payload)]) + payload))]
        rest = payload[6:]
        self._waiting = [
            _padded(bytes([_CONSECUTIVE << 4 | (1 + n) % 16]) + rest[7 * n : 7 * n + 7])
            for n in range(-(-len(rest) // 7))
        ]
        return [(0, (_FIRST << 12 | len(payload)).to_bytes(2, "big") + payload[:6])]

    def feed(self, data: bytes) -> tuple[bytes | None, list[Sent]]:
        """A frame of the tester: the message that it completes, and what is sent for it."""
        kind = data[0] >> 4 if data else -1
        if kind == _SINGLE and 0 < data[0] < _FRAME and len(data) > data[0]:
            self._drop()
            return data[1 : 1 + data[0]], []
        if kind == _FIRST and len(data) == _FRAME:
            return None, self._begin(data)
        if kind == _CONSECUTIVE and self._wanted:
            return self._go_on(data), []
        if kind == _FLOW and self._waiting and len(data) >= 3:
            return None, list(self._flow(data))
        self.bad += 1
        return None, []

    def _begin(self, data: bytes) -> list[Sent]:
        self._drop()
        size = int.from_bytes(data[:2], "big") & 0xFFF
        if size < _FRAME:
            self.bad += 1
            return []
        self._came = bytearray(data[2:])
        self._wanted, self._next = size, 1
        return [(0, _padded(bytes([_FLOW << 4 | _GO_ON, 0, 0])))]

    def _go_on(self, data: bytes) -> bytes | None:
        if data[0] & 15 != self._next:
            self.bad += 1
            self._drop()
            return None
        self._next = (self._next + 1) % 16
        self._came += data[1:]
        if len(self._came) < self._wanted:
            if len(data) < _FRAME:  # only the last one may be short
                self.bad += 1
                self._drop()
            return None
        message = bytes(self._came[: self._wanted])
        self._wanted = 0
        return message

    def _flow(self, data: bytes) -> Iterator[Sent]:
        state = data[0] & 15
        if state == _WAIT:
            return
        if state != _GO_ON:
            self.bad += state != _OVERFLOW
            self._give_up()
            return
        count = data[1] or len(self._waiting)
        now, self._waiting = self._waiting[:count], self._waiting[count:]
        gap = _gap_ns(data[2])
        for number, frame in enumerate(now):
            yield number * gap, frame

    def _drop(self) -> None:
        """A message of the tester that is not whole is over."""
        self.unfinished += bool(self._wanted)
        self._wanted = 0

    def _give_up(self) -> None:
        """So is one of ours."""
        self.unfinished += bool(self._waiting)
        self._waiting = []


def _padded(data: bytes) -> bytes:
    return data.ljust(_FRAME, bytes([_PADDING]))


def _gap_ns(value: int) -> int:
    """STmin; what is reserved means the longest (ISO 15765-2, 9.6.5.5)."""
    if value in _MICROSECONDS:
        return (value - 0xF0) * MILLISECOND // 10
    return min(value, _LONGEST_MS) * MILLISECOND
