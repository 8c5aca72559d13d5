"""The inverse of decoding, on arrays: raw values of signals -> payloads of frames.

A payload is built as 64-bit words: a row for each word of the payload, a column for each frame.
Little-endian signals count their bits from the least significant bit of the first byte, so they are
shifted into words that are later written little-endian. Big-endian signals count from the most
significant bit of the first byte, so they go into a second set of words that is written big-endian.
A signal that crosses a border of words is put into both. The two sets are joined by OR.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from cantools.database.can import Message, Signal
from numpy.typing import ArrayLike, NDArray

from agent.blocks import Float64, UInt8, UInt64

_FLOATS: Final[Mapping[int, tuple[type[Any], type[Any]]]] = {
    16: (np.float16, np.uint16),
    32: (np.float32, np.uint32),
    64: (np.float64, np.uint64),
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """Where the bits of a signal go: `word << shift`, and what is over into `spill`."""

    signal: Signal
    big_endian: bool
    word: int
    shift: int
    spill: int | None
    mask: int


def _place(signal: Signal) -> _Place:
    bits = int(signal.length)
    if bits > 64:
        raise ValueError(f"{signal.name} has {bits} bits; an integer here has at most 64")
    mask = (1 << bits) - 1
    if signal.byte_order == "big_endian":
        first = 8 * (signal.start // 8) + 7 - signal.start % 8  # counted from the front
        last = first + bits - 1
        word, spill = last // 64, first // 64
        shift = 63 - last % 64
    else:
        word, spill = signal.start // 64, (signal.start + bits - 1) // 64
        shift = signal.start % 64
    return _Place(
        signal,
        signal.byte_order == "big_endian",
        word,
        shift,
        spill if spill != word else None,
        mask,
    )


class Encoder:
    """Makes payloads of one message; layout is worked out once.

    Raises:
        ValueError: a signal of more than 64 bits.
    """

    def __init__(self, message: Message) -> None:
        self.message = message
        self.width = 8 if message.length <= 8 else max(64, -(-message.length // 8) * 8)
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
            ValueError: a value that its signal cannot hold, or arrays of different lengths.
        """
        arrays = {name: np.atleast_1d(np.asarray(value)) for name, value in values.items()}
        n = max((len(a) for a in arrays.values()), default=0)
        if any(len(a) not in (1, n) for a in arrays.values()):
            raise ValueError(f"all arrays of {self.message.name} must have the same length")
        little = np.zeros((self.width // 8, n), np.uint64)
        big = np.zeros((self.width // 8, n), np.uint64)
        for name, array in arrays.items():
            place = self._places[name]
            bits = _bits(place.signal, array)
            if place.signal.multiplexer_ids is not None:
                bits = np.where(self._selected(place.signal, arrays), bits, np.uint64(0))
            words = big if place.big_endian else little
            words[place.word] |= bits << np.uint64(place.shift)
            if place.spill is not None:
                words[place.spill] |= bits >> np.uint64(64 - place.shift)
        front = np.ascontiguousarray(little.T).astype("<u8", copy=False).view(np.uint8)
        back = np.ascontiguousarray(big.T).astype(">u8").view(np.uint8)
        return front | back

    def _selected(self, signal: Signal, arrays: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """In which frames the selector, and its own selector, chooses this signal."""
        selector = self._places[str(signal.multiplexer_signal)].signal
        raw = arrays.get(selector.name, np.zeros(1, np.int64))
        chosen = np.isin(raw, np.asarray(signal.multiplexer_ids))
        if selector.multiplexer_ids is not None:
            chosen = chosen & self._selected(selector, arrays)
        return chosen


def _bits(signal: Signal, raw: NDArray[Any]) -> UInt64:
    """Raw values as the unsigned integer that stands on the bus."""
    bits = int(signal.length)
    if signal.is_float:
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
    bits = int(signal.length)
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signal.is_signed else (0, (1 << bits) - 1)


def to_raw(signal: Signal, physical: ArrayLike) -> NDArray[Any]:
    """Physical values -> raw: int64[n] (uint64[n] beyond), float64[n] for float signals.

    Rounded to the nearest step and clamped to the signal's own limits and to what its bits hold.
    """
    values: Float64 = (np.asarray(physical, np.float64) - signal.offset) / signal.scale
    if signal.is_float:
        return values
    low, high = raw_range(signal)
    ends = [
        round((limit - signal.offset) / signal.scale)
        for limit in (signal.minimum, signal.maximum)
        if limit is not None
    ]
    if len(ends) == 2:
        low, high = max(low, min(ends)), min(high, max(ends))
    steps = np.rint(values)
    if high > 1 << 53:
        # Doubles are coarse here: clip as doubles, and once more as integers for the last step.
        kind = np.int64 if signal.is_signed else np.uint64
        top = np.nextafter(float(high), 0)
        whole = np.clip(steps, float(low), top).astype(kind)
        return np.where(steps > top, kind(high), whole)
    return np.clip(steps, low, high).astype(np.int64)
