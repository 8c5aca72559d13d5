"""Faults of a vehicle and its buses, on frames on their way from the vehicle to the bus.

    ecu-silent     frames of a message, or of all messages of a node, are not sent
    stuck-counter  the bits of a signal keep the value that they have at first, for each id
    false-value    the bits of a signal have a given value, such as that of an alarm
    bit-flips      so many bits of a million in payloads are the other way round
    overload       frames are sent several times, until the bus carries that many times as much

They are applied in this order, so what is added is as false as what it repeats. The result depends
on the seed, the frames and when a fault was set, and not on how the frames are cut into blocks.
Parts of J1939 transfers belong to a node, and to no message.
"""

import dataclasses
import fnmatch
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.bench.curves import uniform
from agent.bench.encode import Encoder, raw_range, selected
from agent.bench.nodes import Key
from agent.blocks import ERROR, EXTENDED, REMOTE, FrameBlock, Int64, UInt8
from agent.errors import ConfigError
from agent.signals import Database, Decoder
from agent.signals.compiled import Extraction
from agent.signals.dbc.layout import bits
from agent.signals.decoder import Occurrences
from agent.signals.model import Message, Signal

FAULTS: Final = ("ecu-silent", "stuck-counter", "false-value", "bit-flips", "overload")
MAX_FACTOR: Final = 50.0
_MILLION: Final = 1_000_000
_PARTS: Final = 1000  # in which a factor is counted, so that it adds up exactly
_ADDRESSES: Final = 0x100

_Fault = Callable[[FrameBlock], FrameBlock]


class Disturbed:
    """Applies what is set; `set` may be called from another thread than `apply`.

    `counts` are totals: `silenced` and `added` frames, `stuck` frames whose signal was held,
    `false` frames whose signal was given a value,
    `flipped_bits`, and `flipped_frames` in which these are.

    Args:
        database: which messages and signals there are.
        seed: decides which bits are flipped.
        senders: the node that sends each message (`DatabaseVehicle.senders`, or
            `agent.bench.nodes.read_nodes`), for `ecu-silent` by node.
    """

    def __init__(
        self, database: Database, seed: int = 1, senders: Mapping[Key, str] | None = None
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._database = database
        self._senders = dict(senders or {})
        self._seed = seed
        self._decoder = Decoder(database)
        self._lock = threading.Lock()
        self._active: dict[str, _Fault] = {}

    @property
    def active(self) -> frozenset[str]:
        """The faults that are set."""
        return frozenset(self._active)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Nodes that `ecu-silent` knows by name."""
        return tuple(sorted(set(self._senders.values())))

    def set(self, name: str, on: bool, **parameters: Any) -> None:
        """Set a fault, anew where it is set already, or take it back.

        Args:
            name: one of `FAULTS`.
            on: whether it is to be.
            parameters: of ecu-silent `message` (a name, also with `*` and `?`) or `node` (a name,
                or a J1939 address such as `0x17`); of stuck-counter `signal` (`Message.Signal`, as
                patterns are written in plans); of false-value `signal` and its raw `value`; of
                bit-flips `per_million` (above 0, up to a million); of overload `factor` (1 to 50).

        Raises:
            ConfigError: no such fault, message, node or signal, or a number that cannot be.
        """
        makers: Mapping[str, Callable[..., _Fault]] = {
            "ecu-silent": self._silent,
            "stuck-counter": self._stuck,
            "false-value": self._false,
            "bit-flips": self._flips,
            "overload": self._overload,
        }
        if name not in makers:
            raise ConfigError(f'"{name}" is no fault of frames; there are {", ".join(FAULTS)}')
        fault = None
        if on:
            try:
                fault = makers[name](**parameters)
            except TypeError as error:
                given = ", ".join(parameters) or "nothing"
                raise ConfigError(f"{name} cannot be set with {given}") from error
        with self._lock:
            self._active.pop(name, None)
            if fault is not None:
                self._active[name] = fault

    def apply(self, block: FrameBlock) -> FrameBlock:
        """What becomes of a block; the block itself where nothing is set."""
        with self._lock:
            faults = [self._active[name] for name in FAULTS if name in self._active]
        for fault in faults:
            if len(block):
                block = fault(block)
        return block

    def _silent(self, message: str = "", node: str = "") -> _Fault:
        if bool(message) == bool(node):
            raise ConfigError("ecu-silent needs a message or a node, and not both")
        address = _address(node)

        def theirs(described: Message) -> bool:
            if message:
                return fnmatch.fnmatchcase(described.name, message)
            return self._senders.get((described.extended, described.id)) == node

        if message and not any(theirs(m) for ms in self._database.buses.values() for m in ms):
            raise ConfigError(f'ecu-silent: no message is called "{message}"')
        if node and address is None and node not in self.nodes:
            known = f"; there are {', '.join(self.nodes)}" if self._senders else ""
            raise ConfigError(f'ecu-silent: no node is called "{node}"{known}')

        def silence(block: FrameBlock) -> FrameBlock:
            keep = np.ones(len(block), np.bool_)
            for rows, _ in self._rows(block, theirs):
                keep[rows] = False
            if address is not None:
                extended = block.id & np.uint32(EXTENDED) != 0
                keep &= ~(extended & (block.id & np.uint32(0xFF) == address))
            self.counts["silenced"] += int(np.count_nonzero(~keep))
            return block[keep]

        return silence

    def _stuck(self, signal: str = "") -> _Fault:
        if not signal:
            raise ConfigError("stuck-counter needs a signal")
        return self._held(signal, _Held(), "stuck")

    def _false(self, signal: str = "", value: float = 0) -> _Fault:
        if not signal:
            raise ConfigError("false-value needs a signal")
        if not float(value).is_integer():
            raise ConfigError(f"false-value: value is a whole number, as on the bus, not {value}")
        held = _Held(int(value))
        for path in self._database.select([signal]):
            for message in self._database.messages(path.bus):
                if message.name == path.message:
                    held.check(message.by_name[path.signal])
        return self._held(signal, held, "false")

    def _held(self, signal: str, held: "_Held", count: str) -> _Fault:
        paths = {(p.message, p.signal) for p in self._database.select([signal])}

        def hold(block: FrameBlock) -> FrameBlock:
            data = block.data.copy()
            for rows, message in self._rows(block, lambda m: any(m.name == p[0] for p in paths)):
                for each in message.signals:
                    if (message.name, each.name) in paths:
                        self.counts[count] += held.hold(block, data, rows, message, each)
            return dataclasses.replace(block, data=data)

        return hold

    def _flips(self, per_million: float = 0) -> _Fault:
        chance = _number("bit-flips", "per_million", per_million, 0, _MILLION) / _MILLION
        if chance == 0:
            raise ConfigError("bit-flips needs per_million above 0")
        flips = _Flips(self._seed, chance)

        def flip(block: FrameBlock) -> FrameBlock:
            plain = block.id & np.uint32(REMOTE | ERROR) == 0
            ends = np.cumsum(np.where(plain, block.length.astype(np.int64) * 8, 0))
            places = flips.take(int(ends[-1]))
            rows = np.searchsorted(ends, places, "right")
            place = places - np.concatenate([np.zeros(1, np.int64), ends])[rows]
            data = block.data.copy()
            ones = np.left_shift(1, place % 8).astype(np.uint8)
            np.bitwise_xor.at(data, (rows, place // 8), ones)
            self.counts["flipped_bits"] += len(places)
            self.counts["flipped_frames"] += len(np.unique(rows))
            return dataclasses.replace(block, data=data)

        return flip

    def _overload(self, factor: float = 0) -> _Fault:
        parts = round(_number("overload", "factor", factor, 1, MAX_FACTOR) * _PARTS)
        rest = 0  # thousandths of a frame that are still owed

        def repeat(block: FrameBlock) -> FrameBlock:
            nonlocal rest
            owed = rest + parts * np.arange(len(block) + 1, dtype=np.int64)
            rest = int(owed[-1] % _PARTS)
            rows = np.repeat(np.arange(len(block)), np.diff(owed // _PARTS))
            self.counts["added"] += len(rows) - len(block)
            return block[rows]

        return repeat

    def _rows(
        self, block: FrameBlock, wanted: Callable[[Message], bool]
    ) -> list[tuple[NDArray[np.intp], Message]]:
        """The rows of each message that is wanted."""
        found: Occurrences = self._decoder.occurrences(block)
        messages = self._database.messages(block.bus)
        return [
            (found.order[begin : begin + count], messages[number])
            for number, begin, count in zip(
                found.numbers.tolist(), found.begins.tolist(), found.counts.tolist(), strict=True
            )
            if wanted(messages[number])
        ]


class _Held:
    """The bits of signals, for each id: those of a raw value, or as they were first met."""

    def __init__(self, value: int | None = None) -> None:
        self._value = value
        self._values: dict[tuple[int, str], UInt8] = {}

    def check(self, signal: Signal) -> None:
        """Whether a signal can have the value.

        Raises:
            ConfigError: it cannot.
        """
        low, high = raw_range(signal)
        whole = signal.schema.kind in ("int64", "uint64")
        if not whole or self._value is None or not low <= self._value <= high:
            raise ConfigError(
                f"false-value: {signal.name} holds whole numbers from {low} to {high} on the bus"
                if whole
                else f"false-value: {signal.name} holds no whole number"
            )

    def hold(
        self,
        block: FrameBlock,
        data: UInt8,
        rows: NDArray[np.intp],
        message: Message,
        signal: Signal,
    ) -> int:
        """Write them into `data` at these rows of a block; how many frames that were."""
        width = data.shape[1]
        if signal.end_byte > width:
            return 0
        there = block.length[rows] >= signal.end_byte
        if signal.parent:
            there &= selected(message, signal, _selectors(message, signal, block.data[rows]))
        rows = rows[there]
        mask = np.frombuffer(bits(signal).to_bytes(width, "little"), np.uint8)
        for identifier in np.unique(block.id[rows]).tolist():
            mine = rows[block.id[rows] == identifier]
            key = (identifier, signal.name)
            if key not in self._values:
                first = data[mine[0]]
                if self._value is not None:
                    first = _payload(message, signal, self._value, width)
                self._values[key] = first & mask
            value = self._values[key]
            data[mine] = data[mine] & ~mask | value
        return len(rows)


def _payload(message: Message, signal: Signal, value: int, width: int) -> UInt8:
    """A payload of so many bytes in which a signal has this raw value."""
    values = {signal.name: value}
    above = signal
    while above.parent:
        values[above.parent] = min(above.selected_by)
        above = message.by_name[above.parent]
    made: UInt8 = np.zeros(width, np.uint8)
    payload = Encoder(message).encode(values)[0][:width]
    made[: len(payload)] = payload
    return made


class _Flips:
    """Which bits of an endless row of bits are flipped, drawn as the gaps between them."""

    def __init__(self, seed: int, chance: float) -> None:
        self._seed = seed
        self._chance = chance
        self._drawn = 0
        self._coming = np.array([-1], np.int64)  # from the first bit that is still to come
        self._coming = self._more(1)

    def _more(self, count: int) -> Int64:
        """The next places, after those that are known."""
        index = np.arange(self._drawn, self._drawn + count, dtype=np.int64)
        self._drawn += count
        gaps = np.ones(count, np.int64)
        if self._chance < 1:
            drawn = np.log1p(-uniform(self._seed, "bit-flips", index))
            gaps += np.minimum(drawn / math.log1p(-self._chance), 1e15).astype(np.int64)
        places: Int64 = np.cumsum(gaps) + self._coming[-1]
        return places

    def take(self, count: int) -> Int64:
        """The places among the next so many bits."""
        while self._coming[-1] < count:
            likely = 1 + int((count - self._coming[-1]) * self._chance)
            self._coming = np.concatenate([self._coming, self._more(likely)])
        now = int(np.searchsorted(self._coming, count))
        found, later = self._coming[:now], self._coming[now:]
        self._coming = later - count
        return found


def _selectors(message: Message, signal: Signal, data: UInt8) -> dict[str, NDArray[Any]]:
    """Raw values of the multiplexers above a signal."""
    raw: dict[str, NDArray[Any]] = {}
    while signal.parent:
        signal = message.by_name[signal.parent]
        if signal.end_byte <= data.shape[1]:
            values, _ = Extraction([signal], data.shape[1]).take(data)
            raw[signal.name] = next(iter(values.values()))[0]
    return raw


def _address(node: str) -> int | None:
    """A J1939 address that is written as a hexadecimal number."""
    try:
        address = int(node, 16) if node.lower().startswith("0x") else -1
    except ValueError:
        return None
    return address if 0 <= address < _ADDRESSES else None


def _number(fault: str, name: str, value: object, least: float, most: float) -> float:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    if not least <= number <= most:
        raise ConfigError(f"{fault}: {name} is a number from {least:g} to {most:g}, not {value}")
    return float(number)
