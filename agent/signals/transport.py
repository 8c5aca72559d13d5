"""Messages that need more than one frame, put together again: observed, never answered.

Two ways to cut a message into frames are followed. SAE J1939-21 (5.10) announces it by TP.CM (PGN
0x00EC00) and carries it in TP.DT (PGN 0x00EB00), 7 bytes each: to everybody (BAM), or to one node
that steers the transfer (RTS, CTS, EndOfMsgACK, Abort). NMEA 2000 fast packets have the message's
own PGN, begin with 3 bits of sequence and 5 bits of counter, and hold 6 bytes in the first frame
and 7 in the others.

    TP.CM  control, size u16, packets, packets in one CTS or FF, PGN u24     RTS 16, BAM 32
           control 17 (CTS), packets, next packet, FF FF, PGN                from the receiver
           control 19 (EndOfMsgACK), size, packets, FF, PGN                  from the receiver
           control 255 (Abort), reason, FF FF FF, PGN                        from either
    TP.DT  number of the packet from 1, 7 bytes
    fast   sequence << 5 | 0, size, 6 bytes; then sequence << 5 | k, 7 bytes

Rules, each on the side of giving nothing rather than something wrong:

- A session is known by sender and destination; a fast packet by its id without priority and its
  sequence. A new announcement replaces the session. At most `sessions` of each way are open: the
  oldest is given up. So memory is bounded whatever the bus says.
- A BAM and a fast packet have no second chance: packets come in order, or the message is broken.
  (The same packet twice in a row is harmless: a controller repeats a frame whose end it missed.)
- Between two nodes a packet is stored where its number says, because a CTS may ask again for what
  the receiver missed, and what was missed here may be asked for as well. A packet that comes again
  with other bytes belongs to a message whose RTS was missed: broken.
- An announcement that cannot be (size outside 9 to 1785, packets that do not fit the size) opens
  nothing, and ends what was open: the packets that follow are not of the old session.
- Time-outs go by the stamps of frames: 750 ms between packets to everybody and in fast packets
  (T1), 1250 ms between two nodes (T2, T3), longer than the 1050 ms in which a receiver that holds
  the line speaks again (T4). A clock that is set back ends all sessions.

The result depends on the sequence of frames and not on how it is cut into blocks: a session is
timed by the latest stamp seen on the bus so far, of any frame. Frames that are no parts are looked
at by array operations only; parts, which are few, in a loop.
"""

import dataclasses
from collections.abc import Iterable
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from agent.blocks import ERROR, EXTENDED, ID_BITS, REMOTE, FrameBlock, Int64
from agent.signals.model import Message

MAX_SIZE: Final = 1785
MAX_SESSIONS: Final = 64
_MAX_FAST: Final = 223
_T1_NS: Final = 750_000_000
_T3_NS: Final = 1_250_000_000
_TO_ALL: Final = 0xFF
_RTS, _CTS, _END, _BAM, _ABORT = 16, 17, 19, 32, 255
_PRIORITY: Final = 0x1C00_0000

# Of an id with its flag bits: all that tells TP.CM and TP.DT from other frames.
_FORMAT: Final = np.uint32(EXTENDED | REMOTE | ERROR | 0x03FF_0000)
_TP_DT: Final = np.uint32(EXTENDED | 0x00EB_0000)
_TP_CM: Final = 0x00EC_0000  # comes next

Loss = Literal["timed_out", "broken_sequence", "broken_size", "aborted", "replaced", "evicted"]


@dataclasses.dataclass(slots=True)
class TransportCounts:
    """What became of announced messages."""

    completed: int = 0
    timed_out: int = 0
    broken_sequence: int = 0
    """A packet was missing, out of order, or came again with other bytes."""
    broken_size: int = 0
    """An announcement that cannot be, or a packet shorter than its share of the message."""
    aborted: int = 0
    replaced: int = 0
    """The sender began another message before this one was whole."""
    evicted: int = 0

    @property
    def lost(self) -> int:
        """All that did not complete, without those still under way."""
        return (
            self.timed_out
            + self.broken_sequence
            + self.broken_size
            + self.aborted
            + self.replaced
            + self.evicted
        )


@dataclasses.dataclass(slots=True)
class _Session:
    """A message under way."""

    id: int
    """Of the whole message, without flag bits."""
    group: int
    data: bytearray
    first: int
    """Bytes in the first packet; 7 are in each of the others."""
    ordered: bool
    limit_ns: int
    got: bytearray
    """A byte for each packet that is there."""
    left: int
    """How many are not."""
    expected: int = 0
    deadline: int = 0


_Key = tuple[int, int]


def fast_packet_groups(messages: Iterable[Message]) -> frozenset[int]:
    """PGNs of the messages that must be fast packets: long, and in the ranges of NMEA 2000.

    NMEA 2000 has fast packets at 0x1ED00 to 0x1EFFF (126208 to 126975, addressed) and, among
    single frames, at 0x1F000 to 0x1FFFF (126976 to 131071); a length over 8 tells which they are.
    """
    return frozenset(
        m.pgn for m in messages if m.j1939 and m.length > 8 and 0x1ED00 <= m.pgn <= 0x1FFFF
    )


class Reassembler:
    """Follows the transfers on one bus.

    Not thread-safe; state lasts from block to block.
    """

    def __init__(self, fast_packets: Iterable[int] = (), *, sessions: int = MAX_SESSIONS) -> None:
        """`fast_packets` are PGNs; `sessions` bounds each of the two ways by itself."""
        self.counts = TransportCounts()
        """Of all blocks so far."""
        self._fast_groups = np.array(sorted(fast_packets), np.uint32)
        self._limit = sessions
        self._transfers: dict[_Key, _Session] = {}
        self._fast: dict[_Key, _Session] = {}
        self._now: int | None = None
        """The latest stamp so far."""
        self._time = 0
        """The stamp of the part at hand."""
        self._earliest: int | None = None
        """No open session ends before this."""
        self._done: list[tuple[int, int, bytes]] = []

    @property
    def open(self) -> int:
        """How many messages are under way."""
        return len(self._transfers) + len(self._fast)

    def parts(self, block: FrameBlock) -> NDArray[np.bool_]:
        """bool[n]: which frames are transport parts."""
        return self._is_transfer(block) | self._is_fast(block)

    def take(self, block: FrameBlock) -> tuple[NDArray[np.bool_], list[FrameBlock]]:
        """Go on with the next block of the bus.

        Returns bool[n], the frames that are transport parts, and the messages that became whole:
        a block for each width (the length rounded up to 8 bytes), in the order of their last
        parts, whose times they have. An id there has the priority of the announcement, the PGN of
        the message, its sender, and the destination where the PGN is of format PDU1.
        """
        transfers, fast = self._is_transfer(block), self._is_fast(block)
        parts = transfers | fast
        rows = np.flatnonzero(parts)
        tail = block.time
        if len(rows):
            self._loop(block, rows, fast[rows])
            tail = block.time[rows[-1] + 1 :]
        if len(tail):
            latest = int(tail.max())
            self._now = latest if self._now is None else max(self._now, latest)
            self._expire()
        done, self._done = self._done, []
        return parts, _blocks(block, done)

    def _is_transfer(self, block: FrameBlock) -> NDArray[np.bool_]:
        # TP.DT and TP.CM are neighbours: the difference is 0 or 0x10000, all else is more.
        apart = (block.id & _FORMAT) - _TP_DT
        parts: NDArray[np.bool_] = apart <= np.uint32(0x0001_0000)
        return parts

    def _is_fast(self, block: FrameBlock) -> NDArray[np.bool_]:
        groups = self._fast_groups
        if not len(groups):
            return np.zeros(len(block), bool)
        pgn = block.id >> np.uint32(8) & np.uint32(0x3FFFF)
        to_one = (pgn >> np.uint32(8) & np.uint32(0xFF)) < 240
        pgn = np.where(to_one, pgn & np.uint32(0x3FF00), pgn)
        plain = block.id & np.uint32(EXTENDED | REMOTE | ERROR) == np.uint32(EXTENDED)
        found = groups[np.minimum(np.searchsorted(groups, pgn), len(groups) - 1)] == pgn
        # What is longer than 8 bytes was put together by whoever recorded it.
        parts: NDArray[np.bool_] = plain & found & (block.length <= 8)
        return parts

    def _loop(self, block: FrameBlock, rows: NDArray[np.intp], is_fast: NDArray[np.bool_]) -> None:
        # The latest stamp in front of each part and its own, of frames since the part before.
        begins = np.concatenate((np.zeros(1, np.intp), rows[:-1] + 1))
        peaks = np.maximum.reduceat(block.time[: rows[-1] + 1], begins)
        ids = block.id[rows] & np.uint32(ID_BITS)
        lengths = np.minimum(block.length[rows], 8)
        octets = np.ascontiguousarray(block.data[rows, :8]).tobytes()
        begin = 0
        for frame_id, time, peak, length, fast in zip(
            ids.tolist(),
            block.time[rows].tolist(),
            peaks.tolist(),
            lengths.tolist(),
            is_fast.tolist(),
            strict=True,
        ):
            self._now = peak if self._now is None else max(self._now, peak)
            if time < self._now - _T3_NS:
                self._lose_all()
                self._now = time
            self._time = time
            self._expire()
            payload = octets[begin : begin + length]
            begin += 8
            if fast:
                self._fast_packet(frame_id, payload)
            elif frame_id & 0x00FF_0000 == _TP_CM:
                self._control(frame_id, payload)
            elif payload:
                key = (frame_id & 0xFF, frame_id >> 8 & 0xFF)
                self._put(self._transfers, key, payload[0] - 1, payload[1:])

    # -- SAE J1939-21 ------------------------------------------------------------------------

    def _control(self, frame_id: int, payload: bytes) -> None:
        control = payload[0] if payload else None
        sender, destination = frame_id & 0xFF, frame_id >> 8 & 0xFF
        if control in (_RTS, _BAM):
            self._announce(frame_id, payload)
        elif len(payload) < 8:
            pass  # 5.10.3: all eight bytes are there, also those that say nothing
        elif control == _CTS:
            key = (destination, sender)
            if self._speaks_of(key, payload):
                self._touch(self._transfers[key])
            elif key in self._transfers:  # of another message, whose RTS was missed
                self._lose(self._transfers, key, "broken_sequence")
        elif control == _END:
            # The receiver has it all, and here something is missing.
            if self._speaks_of((destination, sender), payload):
                self._lose(self._transfers, (destination, sender), "broken_sequence")
        elif control == _ABORT and destination != _TO_ALL:
            for key in ((sender, destination), (destination, sender)):
                if self._speaks_of(key, payload):
                    self._lose(self._transfers, key, "aborted")

    def _speaks_of(self, key: _Key, payload: bytes) -> bool:
        session = self._transfers.get(key)
        return session is not None and session.group == _group(payload)

    def _announce(self, frame_id: int, payload: bytes) -> None:
        sender, destination = frame_id & 0xFF, frame_id >> 8 & 0xFF
        key = (sender, destination)
        to_all = payload[0] == _BAM
        whole = payload.ljust(8, b"\xff")  # which no announcement can end with
        size, packets, group = whole[1] | whole[2] << 8, whole[3], _group(whole)
        session = self._transfers.get(key)
        if session is not None:
            repeated = session.left == packets and len(session.data) == size
            if repeated and session.group == group and session.ordered == to_all:
                self._touch(session)  # an RTS without an answer is sent again
                return
            self._lose(self._transfers, key, "replaced")
        if (
            not 9 <= size <= MAX_SIZE
            or packets != (size + 6) // 7
            or group > 0x3FFFF
            or to_all != (destination == _TO_ALL)
        ):
            self._count("broken_size")
            return
        limit = _T1_NS if to_all else _T3_NS
        self._open(
            self._transfers,
            key,
            _Session(
                id=frame_id & _PRIORITY
                | group << 8
                | (destination << 8 if (group >> 8 & 0xFF) < 240 else 0)
                | sender,
                group=group,
                data=bytearray(size),
                first=7,
                ordered=to_all,
                limit_ns=limit,
                got=bytearray(packets),
                left=packets,
            ),
        )

    # -- NMEA 2000 ---------------------------------------------------------------------------

    def _fast_packet(self, frame_id: int, payload: bytes) -> None:
        if not payload:
            return
        key = (frame_id & ~_PRIORITY, payload[0] >> 5)
        counter = payload[0] & 0x1F
        if counter:
            self._put(self._fast, key, counter, payload[1:])
            return
        size = payload[1] if len(payload) > 1 else 0
        session = self._fast.get(key)
        if session is not None:
            again = session.expected == 1 and len(session.data) == size
            if again and session.data[:6] == payload[2:]:
                self._touch(session)
                return
            self._lose(self._fast, key, "replaced")
        if not 0 < size <= _MAX_FAST:
            self._count("broken_size")
            return
        packets = 1 + size // 7
        session = _Session(
            id=frame_id,
            group=frame_id >> 8 & 0x3FFFF,
            data=bytearray(size),
            first=6,
            ordered=True,
            limit_ns=_T1_NS,
            got=bytearray(packets),
            left=packets,
        )
        self._open(self._fast, key, session)
        self._put(self._fast, key, 0, payload[2:])

    # -- sessions ----------------------------------------------------------------------------

    def _put(self, table: dict[_Key, _Session], key: _Key, number: int, payload: bytes) -> None:
        """Store packet `number`, from 0; hand the message on when it is whole."""
        session = table.get(key)
        if session is None:
            return
        if not 0 <= number < len(session.got):
            self._lose(table, key, "broken_sequence")
            return
        begin = session.first + 7 * (number - 1) if number else 0
        end = min(session.first + 7 * number, len(session.data))
        piece = payload[: end - begin]
        if len(piece) < end - begin:
            self._lose(table, key, "broken_size")
            return
        if session.got[number]:
            same = session.data[begin:end] == piece
            if not same or (session.ordered and number != session.expected - 1):
                self._lose(table, key, "broken_sequence")
            else:
                self._touch(session)
            return
        if session.ordered and number != session.expected:
            self._lose(table, key, "broken_sequence")
            return
        session.data[begin:end] = piece
        session.got[number] = 1
        session.expected = number + 1
        session.left -= 1
        if session.left:
            self._touch(session)
            return
        del table[key]
        self.counts.completed += 1
        self._done.append((self._time, session.id | EXTENDED, bytes(session.data)))

    def _open(self, table: dict[_Key, _Session], key: _Key, session: _Session) -> None:
        while len(table) >= self._limit:
            self._lose(table, next(iter(table)), "evicted")
        table[key] = session
        self._touch(session)
        if self._earliest is None or session.deadline < self._earliest:
            self._earliest = session.deadline

    def _touch(self, session: _Session) -> None:
        session.deadline = (self._now or 0) + session.limit_ns

    def _expire(self) -> None:
        now = self._now
        if now is None or self._earliest is None or now <= self._earliest:
            return
        for table in (self._transfers, self._fast):
            for key in [key for key, s in table.items() if s.deadline < now]:
                self._lose(table, key, "timed_out")
        self._earliest = min(
            (s.deadline for table in (self._transfers, self._fast) for s in table.values()),
            default=None,
        )

    def _lose_all(self) -> None:
        for table in (self._transfers, self._fast):
            for key in list(table):
                self._lose(table, key, "timed_out")

    def _lose(self, table: dict[_Key, _Session], key: _Key, why: Loss) -> None:
        del table[key]
        self._count(why)

    def _count(self, why: Loss) -> None:
        setattr(self.counts, why, getattr(self.counts, why) + 1)


def _group(payload: bytes) -> int:
    """The PGN in the last three bytes of TP.CM, without what some write for a destination."""
    group = int.from_bytes(payload[5:8], "little")
    return group & 0xFFFF00 if (group >> 8 & 0xFF) < 240 else group


def _blocks(of: FrameBlock, done: list[tuple[int, int, bytes]]) -> list[FrameBlock]:
    """Whole messages as blocks, one for each width."""
    by_width: dict[int, list[tuple[int, int, bytes]]] = {}
    for message in done:
        by_width.setdefault(-(-len(message[2]) // 8) * 8, []).append(message)
    blocks = []
    for width, messages in sorted(by_width.items()):
        data = b"".join(payload.ljust(width, b"\0") for _, _, payload in messages)
        times: Int64 = np.array([time for time, _, _ in messages], np.int64)
        blocks.append(
            FrameBlock(
                of.bus,
                times,
                np.array([i for _, i, _ in messages], np.uint32),
                np.array([len(payload) for _, _, payload in messages], np.uint16),
                np.zeros(len(messages), np.uint8),
                np.frombuffer(data, np.uint8).reshape(len(messages), width),
                of.clock,
            )
        )
    return blocks
