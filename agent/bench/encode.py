"""The inverse of decoding, on arrays: raw values of signals -> payloads of frames.

A payload is built as 64-bit words: a row for each word of the payload, a column for each frame.
Little-endian signals count their bits from the least significant bit of the first byte, so they are
shifted into words that are later written little-endian. Big-endian signals count from the most
significant bit of the first byte, so they go into a second set of words that is written big-endian.
A signal that crosses a border of words is put into both. The two sets are joined by OR.

Messages are those of the agent's own database reader: whatever the agent can load can be encoded.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agent.blocks import Float64, UInt8, UInt64
from agent.signals.dbc.layout import bits as bits_of
from agent.signals.model import Message, Signal

_FLOATS: Final[Mapping[int, tuple[type[Any], type[Any]]]] = {
    16: (np.float16, np.uint16),
    32: (np.float32, np.uint32),
    64: (np.float64, np.uint64),
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """Where the bits of a signal go: `word << shift`, and what is over into `spill`."""

    signal: Signal
    word: int
    shift: int
    spill: int | None


def _place(signal: Signal) -> _Place:
    first = signal.first_bit
    last = first + signal.length - 1
    if signal.big_endian:
        word, spill, shift = last // 64, first // 64, 63 - last % 64
    else:
        word, spill, shift = first // 64, last // 64, first % 64
    return _Place(signal, word, shift, spill if spill != word else None)


class Encoder:
    """Makes payloads of one message; layout is worked out once."""

    def __init__(self, message: Message) -> None:
        self.message = message
        self.width = width_of(message.length)
        self._places = {s.name: _place(s) for s in message.signals}

    def encode(self, values: Mapping[str, ArrayLike]) -> UInt8:
        """Payloads uint8[n, w] of n frames: w = 8 up to eight bytes, 64 up to CAN FD's 64.

        Args:
            values: signal name -> raw values, an array of n or one number for all frames. Integers
                as on the bus (two's complement where signed); floats for float signals. A signal
                that is not named stays 0. A multiplexed signal is written only in the frames whose
                selector, as given in `values`, selects it.

        Raises:
            KeyError: the message has no signal of that name.
            ValueError: a value that its signal cannot hold, arrays of different lengths, a signal
                of more than 64 bits, or one that lies beyond the message.
        """
        arrays = {name: np.atleast_1d(np.asarray(value)) for name, value in values.items()}
        n = max((len(a) for a in arrays.values()), default=0)
        if any(len(a) not in (1, n) for a in arrays.values()):
            raise ValueError(f"all arrays of {self.message.name} must have the same length")
        little = np.zeros((self.width // 8, n), np.uint64)
        big = np.zeros((self.width // 8, n), np.uint64)
        for name, array in arrays.items():
            place = self._places[name]
            signal = place.signal
            if signal.length > 64 or signal.end_byte > self.message.length:
                raise ValueError(
                    f"{name} has {signal.length} bits up to byte {signal.end_byte} of "
                    f"{self.message.length}; a number has at most 64, inside the message"
                )
            bits = _bits(signal, array)
            if signal.parent:
                bits = np.where(selected(self.message, signal, arrays), bits, np.uint64(0))
            words = big if signal.big_endian else little
            words[place.word] |= bits << np.uint64(place.shift)
            if place.spill is not None:
                words[place.spill] |= bits >> np.uint64(64 - place.shift)
        front = np.ascontiguousarray(little.T).astype("<u8", copy=False).view(np.uint8)
        back = np.ascontiguousarray(big.T).astype(">u8").view(np.uint8)
        return front | back


def width_of(length: int) -> int:
    """Bytes of a row that holds so many: 8, 64, or whole words beyond."""
    return 8 if length <= 8 else max(64, -(-length // 8) * 8)


def selected(
    message: Message, signal: Signal, raw: Mapping[str, NDArray[Any]]
) -> NDArray[np.bool_]:
    """In which frames the selector, and its own selector, chooses a signal; bool[n] or bool[1]."""
    if not signal.parent:
        return np.ones(1, np.bool_)
    selector = message.by_name[signal.parent]
    # As the decoder compares them: the bits of a signed selector, carried on to 64.
    value = raw.get(selector.name, np.zeros(1, np.int64)).astype(np.uint64)
    chosen = np.isin(value, np.array(sorted(signal.selected_by), np.uint64))
    return chosen & selected(message, selector, raw)


def unused_bits(message: Message) -> UInt8:
    """The bits of a payload that no signal has, uint8[length]."""
    used = 0
    for signal in message.signals:
        used |= bits_of(signal)
    free = (1 << 8 * message.length) - 1 & ~used
    return np.frombuffer(free.to_bytes(message.length, "little"), np.uint8)


def _bits(signal: Signal, raw: NDArray[Any]) -> UInt64:
    """Raw values as the unsigned integer that stands on the bus."""
    bits = signal.length
    if signal.schema.kind in ("float32", "float64"):
        number, unsigned = _FLOATS[bits]
        pattern: UInt64 = raw.astype(number).view(unsigned).astype(np.uint64)
        return pattern
    low, high = raw_range(signal)
    if raw.dtype.kind not in "iub":
        raise ValueError(f"{signal.name} wants whole raw values, not {raw.dtype}")
    if len(raw) and (int(raw.min()) < low or int(raw.max()) > high):
        raise ValueError(f"{signal.name} holds {low} to {high}, not {raw.min()} to {raw.max()}")
    return raw.astype(np.uint64) & np.uint64((1 << bits) - 1)


def raw_range(signal: Signal) -> tuple[int, int]:
    """The lowest and the highest integer that the bits of a signal hold."""
    bits = signal.length
    signed = signal.schema.kind == "int64"
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def limits(signal: Signal) -> tuple[int, int]:
    """The lowest and the highest raw integer that the file allows and the bits hold.

    What the bits hold alone, where the file has no limits or none that the bits can reach.
    """
    schema = signal.schema
    low, high = raw_range(signal)
    if schema.minimum is None or schema.maximum is None or schema.scale == 0:
        return low, high
    ends = sorted((end - schema.offset) / schema.scale for end in (schema.minimum, schema.maximum))
    # Beyond all doubles, no limit is left.
    least = max(low, round(ends[0])) if math.isfinite(ends[0]) else low
    most = min(high, round(ends[1])) if math.isfinite(ends[1]) else high
    return (least, most) if least <= most else (low, high)


def to_raw(signal: Signal, physical: ArrayLike) -> NDArray[Any]:
    """Physical values -> raw: int64[n] (uint64[n] beyond), float64[n] for float signals.

    Rounded to the nearest step and clamped to the signal's own limits and to what its bits hold.
    """
    schema = signal.schema
    values: Float64 = (np.asarray(physical, np.float64) - schema.offset) / schema.scale
    if schema.kind in ("float32", "float64"):
        return values
    low, high = limits(signal)
    steps = np.rint(values)
    if high > 1 << 53:
        # Doubles are coarse here: clip as doubles, and once more as integers for the last step.
        kind = np.int64 if schema.kind == "int64" else np.uint64
        top = np.nextafter(float(high), 0)
        whole = np.clip(steps, float(low), top).astype(kind)
        return np.where(steps > top, kind(high), whole)
    return np.clip(steps, low, high).astype(np.int64)
