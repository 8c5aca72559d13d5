"""A vehicle that is not there, made of database files alone: all that the agent can load, it sends.

Each message is sent at the cycle time that the file gives, one without at 100 ms, or 1 s if it is
sent on events. Where that is more than the bus is to carry, the periods that were guessed are
stretched first, then all. agent.bench.motion says how signals move.

A frame's length is what the file says; above eight bytes it is a frame of CAN FD, filled up to the
next length that there is, or of J1939 a transfer (agent.bench.transfers). The transfers of one
sender follow each other, each once a page at most. Bits that no signal has are 1 in J1939, else 0.

Nothing is sent of a message that no frame can carry, or that the decoder could not tell from
another one: `left` names these, and the signals that stay 0, each with the reason.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.bench import transfers
from agent.bench.encode import Encoder, selected, unused_bits, width_of
from agent.bench.motion import Motion
from agent.bench.nodes import Key, read_nodes
from agent.bench.pages import PAGE_S, Part, Vehicle
from agent.blocks import EXTENDED, FD_BIT_RATE_SWITCH, FD_FRAME, FrameBlock, Int64, UInt8
from agent.bus.load import busy_bits
from agent.clock import MILLISECOND, SECOND, BootNs
from agent.errors import ConfigError
from agent.signals import Database
from agent.signals.model import Message
from agent.signals.transport import fast_packet_groups

BUS: Final = "can0"
LOAD: Final = 0.6
BITRATE: Final = 500_000
_DATA_RATE: Final = 4  # times as fast, of CAN FD
_PAGE_NS: Final = PAGE_S * SECOND
_DEFAULT_NS: Final = 100 * MILLISECOND
_EVENT_NS: Final = SECOND
_LEAST_NS: Final = MILLISECOND
_GUESSED_SHARE: Final = 0.1
"""Of what the bus is to carry, at least, for messages without a cycle time."""
_GOLDEN: Final = 0.618_033_988_749_895
_FRAME: Final = 8
_FD_LENGTHS: Final = (*range(9), 12, 16, 20, 24, 32, 48, 64)
_TRANSPORT: Final = frozenset((0xEB00, 0xEC00))
_NO_PRIORITY: Final = 0x03FF_FFFF


@dataclasses.dataclass(frozen=True)
class Samples:
    """What one message said in a page: n frames or transfers.

    Attributes:
        time: int64[n], ns since the vehicle began; of a transfer, when it began.
        raw: signal name -> raw values, n each. Signals that are not driven are not there.
        there: signal name -> bool[n], where a multiplexer selects the signal.
    """

    time: Int64
    raw: Mapping[str, NDArray[Any]]
    there: Mapping[str, NDArray[np.bool_]]


@dataclasses.dataclass(frozen=True)
class _Sender:
    """A message and when it is sent: every `period` ns, beginning with `first`."""

    message: Message
    motion: Motion
    encoder: Encoder
    length: int  # of a frame
    fill: UInt8
    period: int
    first: int
    fast: bool = False
    duration: int = 0  # of the frames that make one message

    def times(self, page: int) -> tuple[Int64, Int64]:
        """The numbers of the frames of a page, and their times."""
        begin, end = (-(-(p * _PAGE_NS - self.first) // self.period) for p in (page, page + 1))
        number = np.arange(max(0, begin), max(0, end), dtype=np.int64)
        time = self.first + number * self.period
        # What takes several frames must end within its page.
        return number, np.minimum(time, (page + 1) * _PAGE_NS - self.duration - 1)


@dataclasses.dataclass(frozen=True)
class _Transfers:
    """The long messages of one J1939 sender, in as many pages as they need, again and again."""

    pages: Sequence[Sequence[tuple[_Sender, int]]]  # each with its place in the page, ns

    def of(self, page: int) -> list[tuple[_Sender, Int64, Int64]]:
        turn, which = divmod(page, len(self.pages))
        number = np.array([turn], np.int64)
        return [(s, number, np.array([page * _PAGE_NS + at])) for s, at in self.pages[which]]


class DatabaseVehicle(Vehicle):
    """One bus with everything that database files describe.

    `database` is what was read, `senders` the node of each message (by whether its id has 29 bits,
    and the id), `left` what stays unsent or 0: "Message" or "Message.Signal" -> why.

    Args:
        files: database files of any kind that the agent reads.
        seed: decides everything that is random. Equal seeds give equal frames.
        start: boot time of the vehicle's first moment; frames are dated from there.
        bus: what the bus is called.
        j1939: all 29-bit ids are of J1939, as in the settings of a bus.
        load: how much of the bus may be used at most, 0 to 1.
        bitrate: of the bus, bit/s; data of CAN FD is four times as fast.

    Raises:
        DatabaseError: a file cannot be read, or nothing in it can be used.
        ConfigError: nothing in the files can be sent, or a load or bit rate that cannot be.
    """

    def __init__(
        self,
        files: Sequence[str | os.PathLike[str]],
        seed: int = 1,
        start: BootNs = BootNs(0),  # noqa: B008 - an int
        bus: str = BUS,
        *,
        j1939: bool = False,
        load: float = LOAD,
        bitrate: int = BITRATE,
    ) -> None:
        if not 0 < load <= 1 or bitrate <= 0:
            raise ConfigError("a load is above 0 and at most 1, and a bit rate above 0")
        self.database = Database.load(files, j1939=j1939)
        nodes = read_nodes(files)
        self.senders: Mapping[Key, str] = nodes.senders
        self.left: dict[str, str] = {}
        messages = self._sendable(self.database.messages(bus))
        if not messages:
            raise ConfigError(f"nothing in {', '.join(map(str, files))} can be sent on a bus")
        fast = fast_packet_groups(messages)
        width = max((width_of(m.length) for m in messages if not m.j1939), default=_FRAME)
        super().__init__(bus, start, width=width)
        motions = [
            Motion(message, seed, nodes.checksums.get((message.extended, message.id)))
            for message in messages
        ]
        for motion in motions:
            name = motion.message.name
            self.left |= {f"{name}.{signal}": why for signal, why in motion.left.items()}
        cyclic: list[_Sender] = []
        long: dict[int, list[_Sender]] = {}
        for motion in motions:
            message = motion.message
            event = (message.extended, message.id) in nodes.on_event
            sender = _sender(motion, fast=message.pgn in fast, event=event)
            if message.j1939 and message.length > _FRAME and not sender.fast:
                long.setdefault(message.id & 0xFF, []).append(sender)
            else:
                cyclic.append(sender)
        self._transfers = tuple(map(_in_turn, long.values()))
        self._cyclic = _timetable(cyclic, load, bitrate, self._transfers)

    def _sendable(self, messages: Sequence[Message]) -> list[Message]:
        sendable: list[Message] = []
        ids: set[tuple[bool, int]] = set()
        for message in messages:
            most = transfers.MAX_BYTES if message.j1939 else _FD_LENGTHS[-1]
            key = (message.j1939, message.id & _NO_PRIORITY if message.j1939 else message.id)
            why = ""
            if message.length > most:
                why = f"has {message.length} bytes, more than a frame or a transfer"
            elif message.j1939 and message.pgn in _TRANSPORT:
                why = "is a part of the transport protocol"
            elif message.extended and key in ids:
                why = "differs from another message by its priority alone"
            if why:
                self.left[message.name] = why
                continue
            if message.extended:
                ids.add(key)
            sendable.append(message)
        return sendable

    @property
    def messages(self) -> tuple[Message, ...]:
        """All that are sent."""
        long = [s for t in self._transfers for page in t.pages for s, _ in page]
        return tuple(s.message for s in (*self._cyclic, *long))

    def samples(self, page: int) -> dict[str, Samples]:
        """What each message says in a page of 5 s, as it is before it is encoded."""
        return {
            sender.message.name: _samples(sender, number, time)
            for sender, number, time in self._due(page)
        }

    def _due(self, page: int) -> list[tuple[_Sender, Int64, Int64]]:
        due = [(sender, *sender.times(page)) for sender in self._cyclic]
        return due + [each for t in self._transfers for each in t.of(page)]

    def _parts(self, index: int) -> list[Part]:
        parts: list[Part] = []
        for sender, number, time in self._due(index):
            message = sender.message
            _, payload = _said(sender, number, time)
            if sender.duration:
                parts += transfers.cut(message, time, number, payload, fast=sender.fast)
            else:
                identifier = message.id | (EXTENDED if message.extended else 0)
                parts.append((time, identifier, sender.length, payload))
        return [(t, i, length, _wide(rows, self._width)) for t, i, length, rows in parts]


def _said(sender: _Sender, number: Int64, time: Int64) -> tuple[dict[str, NDArray[Any]], UInt8]:
    """Raw values of n frames, and their payloads."""
    encoder = sender.encoder
    raw = sender.motion.raw(time / SECOND, number)
    payload = encoder.encode(raw) if raw else np.zeros((len(time), encoder.width), np.uint8)
    payload |= sender.fill
    for signal, rule in sender.motion.computed:
        raw[signal.name] = rule.raw(signal, payload[:, : sender.message.length])
        payload |= encoder.encode({signal.name: raw[signal.name]})
    return raw, payload


def _wide(rows: UInt8, width: int) -> UInt8:
    if rows.shape[1] == width:
        return rows
    wide = np.zeros((len(rows), width), np.uint8)
    wide[:, : rows.shape[1]] = rows
    return wide


def _samples(sender: _Sender, number: Int64, time: Int64) -> Samples:
    raw, _ = _said(sender, number, time)
    there = {
        s.name: np.broadcast_to(selected(sender.message, s, raw), len(time))
        for s in sender.motion.driven
    }
    return Samples(time, raw, there)


def _sender(motion: Motion, *, fast: bool, event: bool) -> _Sender:
    """Of a message, at the time that the file gives or that is guessed."""
    message = motion.message
    fast = fast and message.j1939 and 0 < message.length <= transfers.MAX_FAST
    encoder = Encoder(message)
    fill = np.zeros(encoder.width, np.uint8)
    if message.j1939:
        fill[: message.length] = unused_bits(message)
    duration = 0
    if fast or (message.j1939 and message.length > _FRAME):
        gap = transfers.gap_ns(message, fast=fast)
        duration = gap * (transfers.steps(message, fast=fast) + 1)
    guessed = _EVENT_NS if event else _DEFAULT_NS
    period = max(_LEAST_NS, (message.cycle_ms or 0) * MILLISECOND, duration)
    return _Sender(
        message,
        motion,
        encoder,
        next(n for n in _FD_LENGTHS if n >= min(message.length, _FD_LENGTHS[-1])),
        fill,
        period if message.cycle_ms else max(guessed, duration),
        0,
        fast,
        duration,
    )


def _in_turn(senders: Sequence[_Sender]) -> _Transfers:
    """One after another, as many in a page as have room."""
    pages: list[list[tuple[_Sender, int]]] = [[]]
    at = 0
    for sender in senders:
        if at + sender.duration > _PAGE_NS:
            pages.append([])
            at = 0
        pages[-1].append((sender, at))
        at += sender.duration
    return _Transfers(pages)


def _timetable(
    senders: Sequence[_Sender], load: float, bitrate: int, long: Sequence[_Transfers]
) -> tuple[_Sender, ...]:
    """Periods that keep the load, and a first moment for each message, far from its neighbours'."""
    busy = [_busy_s(sender, bitrate) * SECOND / sender.period for sender in senders]
    given = sum(b for s, b in zip(senders, busy, strict=True) if s.message.cycle_ms)
    guessed = sum(busy) - given
    taken = max(
        (
            sum(_busy_s(s, bitrate) for t in long for s, _ in t.pages[page % len(t.pages)]) / PAGE_S
            for page in range(max((len(t.pages) for t in long), default=0))
        ),
        default=0.0,
    )
    room = max(load - taken, load * _GUESSED_SHARE)
    stretch = max(1.0, guessed / max(room - given, room * _GUESSED_SHARE))
    overall = max(1.0, (given + guessed / stretch) / room)
    placed = []
    for place, sender in enumerate(senders):
        factor = overall if sender.message.cycle_ms else overall * stretch
        period = round(sender.period * factor)
        first = int(place * _GOLDEN % 1 * period)
        placed.append(dataclasses.replace(sender, period=period, first=first))
    return tuple(placed)


def _busy_s(sender: _Sender, bitrate: int) -> float:
    """For how long the bus is busy with one message."""
    message = sender.message
    frames = transfers.steps(message, fast=sender.fast) if sender.duration else 1
    length = _FRAME if sender.duration else sender.length
    frame = FrameBlock.from_arrays(
        bus="",
        time=[0],
        id=[EXTENDED if message.extended else 0],
        length=[length],
        flags=[FD_FRAME | FD_BIT_RATE_SWITCH if length > _FRAME else 0],
        data=np.zeros((1, 64), np.uint8),
    )
    nominal, switched = busy_bits(frame)
    return frames * (nominal + switched / _DATA_RATE) / bitrate
