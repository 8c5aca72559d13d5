"""Both ends of a transfer for tests: who sends the frames, and a slow and obvious receiver.

The receiver has no sessions that frames change. For each announcement it walks on through the
recording from there until it knows what became of the message; and it begins again for the next.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from agent.blocks import EXTENDED, FrameBlock

MS = 1_000_000


class Frame(NamedTuple):
    """A frame: nanoseconds, id with flag bits, payload."""

    time: int
    id: int
    data: bytes


class Whole(NamedTuple):
    """A message that was put together."""

    time: int
    id: int
    data: bytes


def block_of(frames: Sequence[Frame], bus: str = "bus", width: int = 8) -> FrameBlock:
    data = b"".join(f.data.ljust(width, b"\0") for f in frames)
    return FrameBlock.from_arrays(
        bus=bus,
        time=[f.time for f in frames],
        id=[f.id for f in frames],
        length=[len(f.data) for f in frames],
        data=np.frombuffer(data, np.uint8).reshape(len(frames), width),
    )


def wholes(blocks: Iterable[FrameBlock]) -> list[Whole]:
    """What blocks of reassembled messages hold, having checked their form."""
    found = []
    for block in blocks:
        width = block.data.shape[1]
        assert width % 8 == 0
        for i, (time, number, length) in enumerate(
            zip(block.time.tolist(), block.id.tolist(), block.length.tolist(), strict=True)
        ):
            assert width - 8 < length <= width
            assert not block.data[i, length:].any()
            found.append(Whole(time, number, bytes(block.data[i, :length])))
    return found


# -- sending -------------------------------------------------------------------------------------


def control(sender: int, to: int, data: bytes) -> tuple[int, bytes]:
    """TP.CM."""
    return EXTENDED | 0x1CEC_0000 | to << 8 | sender, data


def announcement(kind: int, size: int, packets: int, group: int) -> bytes:
    return bytes([kind, size & 0xFF, size >> 8, packets, 0xFF]) + group.to_bytes(3, "little")


def packet(sender: int, to: int, number: int, data: bytes) -> tuple[int, bytes]:
    """TP.DT, padded as on the bus."""
    piece = data[7 * (number - 1) : 7 * number].ljust(7, b"\xff")
    return EXTENDED | 0x1CEB_0000 | to << 8 | sender, bytes([number]) + piece


def to_all(sender: int, group: int, data: bytes) -> list[tuple[int, bytes]]:
    packets = -(-len(data) // 7)
    frames = [control(sender, 0xFF, announcement(32, len(data), packets, group))]
    return frames + [packet(sender, 0xFF, n + 1, data) for n in range(packets)]


def clear_to_send(receiver: int, sender: int, group: int, n: int, first: int) -> tuple[int, bytes]:
    data = bytes([17, n, first, 0xFF, 0xFF]) + group.to_bytes(3, "little")
    return control(receiver, sender, data)


def request(sender: int, to: int, group: int, data: bytes) -> tuple[int, bytes]:
    return control(sender, to, announcement(16, len(data), -(-len(data) // 7), group))


def end(receiver: int, sender: int, group: int, data: bytes) -> tuple[int, bytes]:
    return control(receiver, sender, announcement(19, len(data), -(-len(data) // 7), group))


def abort(sender: int, to: int, group: int, reason: int = 3) -> tuple[int, bytes]:
    return control(sender, to, bytes([255, reason, 0xFF, 0xFF, 0xFF]) + group.to_bytes(3, "little"))


def to_one(
    sender: int, to: int, group: int, data: bytes, window: int = 16
) -> list[tuple[int, bytes]]:
    """RTS, CTS, packets, EndOfMsgACK."""
    packets = -(-len(data) // 7)
    frames = [request(sender, to, group, data)]
    for first in range(1, packets + 1, window):
        n = min(window, packets + 1 - first)
        frames.append(clear_to_send(to, sender, group, n, first))
        frames += [packet(sender, to, i, data) for i in range(first, first + n)]
    return [*frames, end(to, sender, group, data)]


def fast(number: int, sequence: int, data: bytes) -> list[tuple[int, bytes]]:
    """A fast packet, padded as on the bus."""
    head = sequence << 5
    pieces = [bytes([len(data)]) + data[:6]]
    pieces += [data[begin : begin + 7] for begin in range(6, len(data), 7)]
    return [
        (number | EXTENDED, bytes([head | i]) + piece.ljust(7, b"\xff"))
        for i, piece in enumerate(pieces)
    ]


def timed(frames: Iterable[tuple[int, bytes]], begin: int = 0, step: int = 10 * MS) -> list[Frame]:
    return [Frame(begin + i * step, *frame) for i, frame in enumerate(frames)]


# -- receiving -----------------------------------------------------------------------------------


class Receiver:
    """What becomes of all messages in a recording of one bus."""

    def __init__(self, frames: Sequence[Frame], fast_groups: Iterable[int] = ()) -> None:
        self.frames = frames
        self.fast = set(fast_groups)
        self.outcomes: Counter[str] = Counter()
        self.wholes: list[Whole] = []
        self._now: list[int] = []
        self._set_back: list[bool] = []
        self._run_clock()
        self._repeats: set[int] = set()
        self.parts = [self.kind(f) != "" for f in frames]
        done = []
        for i, frame in enumerate(frames):
            if i in self._repeats:
                continue
            kind = self.kind(frame)
            if kind == "control" and frame.data[:1] in (b"\x10", b"\x20"):
                result = self._transfer(i)
            elif kind == "fast" and frame.data and frame.data[0] & 0x1F == 0:
                result = self._fast(i)
            else:
                continue
            self.outcomes[result if isinstance(result, str) else "completed"] += 1
            if isinstance(result, tuple):
                done.append(result)
        self.wholes = [whole for _, whole in sorted(done)]
        del self.outcomes["open"]

    def kind(self, frame: Frame) -> str:
        if frame.id >> 29 != 4:
            return ""
        form = frame.id >> 16 & 0x3FF
        if form in (0xEC, 0xEB):
            return "control" if form == 0xEC else "data"
        group = frame.id >> 8 & 0x3FFFF
        if (group >> 8 & 0xFF) < 240:
            group &= 0x3FF00
        return "fast" if group in self.fast and len(frame.data) <= 8 else ""

    def _run_clock(self) -> None:
        now = None
        for frame in self.frames:
            now = frame.time if now is None else max(now, frame.time)
            back = self.kind(frame) != "" and frame.time < now - 1250 * MS
            now = frame.time if back else now
            self._now.append(now)
            self._set_back.append(back)

    def _later(self, i: int, limit: int) -> Iterator[tuple[int, Frame, list[bool]]]:
        """Frames after i while time has not run out; the caller says what renews it."""
        last = self._now[i]
        for j in range(i + 1, len(self.frames)):
            if self._set_back[j] or self._now[j] - last > limit:
                return
            renewed: list[bool] = []
            yield j, self.frames[j], renewed
            last = self._now[j] if renewed else last
        yield -1, self.frames[-1], []

    def _transfer(self, i: int) -> str | tuple[int, Whole]:
        frame = self.frames[i]
        sender, to = frame.id & 0xFF, frame.id >> 8 & 0xFF
        if len(frame.data) != 8:
            return "broken_size"
        broadcast = frame.data[0] == 32
        size = int.from_bytes(frame.data[1:3], "little")
        packets = frame.data[3]
        group = without_destination(frame.data[5:8])
        if not 9 <= size <= 1785 or -(-size // 7) != packets or group >= 1 << 18:
            return "broken_size"
        if broadcast != (to == 255):
            return "broken_size"
        pieces: dict[int, bytes] = {}
        newest = 0
        for j, f, renew in self._later(i, (750 if broadcast else 1250) * MS):
            if j < 0:
                return "open"
            who, whom = f.id & 0xFF, f.id >> 8 & 0xFF
            kind = self.kind(f)
            code = f.data[0] if f.data else -1
            if kind == "control" and (who, whom) == (sender, to) and code in (16, 32):
                same = f.data[:4] == frame.data[:4] and without_destination(f.data[5:8]) == group
                if pieces or not same or len(f.data) < 8:
                    return "replaced"
                self._repeats.add(j)
                renew.append(True)
                continue
            if kind == "control" and len(f.data) == 8:
                same = without_destination(f.data[5:8]) == group
                if (whom, who) == (sender, to):
                    if code == 17 and same:
                        renew.append(True)
                    elif code == 17 or (code == 19 and same):
                        return "broken_sequence"
                if code == 255 and same and whom != 255 and {who, whom} == {sender, to}:
                    return "aborted"
            if kind == "data" and (who, whom) == (sender, to) and f.data:
                number = code
                if not 1 <= number <= packets:
                    return "broken_sequence"
                needed = min(7, size - 7 * (number - 1))
                piece = f.data[1 : 1 + needed]
                if len(piece) < needed:
                    return "broken_size"
                if number in pieces and pieces[number] != piece:
                    return "broken_sequence"
                if broadcast and number not in (newest, newest + 1):
                    return "broken_sequence"
                pieces[number] = piece
                newest = number
                renew.append(True)
                if len(pieces) == packets:
                    address = to if (group >> 8 & 0xFF) < 240 else 0
                    number = frame.id & 0x1C00_0000 | group << 8 | address << 8 | sender
                    data = b"".join(pieces[n] for n in sorted(pieces))
                    return j, Whole(f.time, number | EXTENDED, data)
        return "timed_out"

    def _fast(self, i: int) -> str | tuple[int, Whole]:
        frame = self.frames[i]
        if len(frame.data) < 2 or not 1 <= frame.data[1] <= 223:
            return "broken_size"
        size = frame.data[1]
        data = frame.data[2 : 2 + min(size, 6)]
        if len(data) < min(size, 6):
            return "broken_size"
        if len(data) == size:
            return i, Whole(frame.time, frame.id, data)
        newest, piece = 0, data
        for j, f, renew in self._later(i, 750 * MS):
            if j < 0:
                return "open"
            same_id = f.id & 0x03FF_FFFF == frame.id & 0x03FF_FFFF
            if self.kind(f) != "fast" or not same_id or not f.data:
                continue
            if f.data[0] >> 5 != frame.data[0] >> 5:
                continue
            counter = f.data[0] & 0x1F
            if counter == 0:
                if newest == 0 and f.data[1:] == frame.data[1:]:
                    self._repeats.add(j)
                    renew.append(True)
                    continue
                return "replaced"
            if 6 + 7 * (counter - 1) >= size:
                return "broken_sequence"
            needed = min(7, size - 6 - 7 * (counter - 1))
            if len(f.data) - 1 < needed:
                return "broken_size"
            if counter == newest and f.data[1 : 1 + needed] == piece:
                renew.append(True)
                continue
            if counter != newest + 1:
                return "broken_sequence"
            newest, piece = counter, f.data[1 : 1 + needed]
            data += piece
            renew.append(True)
            if len(data) == size:
                return j, Whole(f.time, frame.id, data)
        return "timed_out"


def without_destination(field: bytes) -> int:
    group = int.from_bytes(field, "little")
    return group & ~0xFF if (group >> 8 & 0xFF) < 240 else group
