"""Plausible values for signals of which nothing is known but their description.

Each value is a function of the time, or of the number of the frame, and of the seed: so it depends
neither on the steps in which a vehicle is asked nor on what was asked before.

- Numbers are a mixture of three slow waves, in the middle of the range that the file allows, or
  where the unit says what is usual, there: a speed goes up to 120 km/h and not to 655.35. Where the
  file allows everything ([0|0]) and there are many bits, the lowest 2**16 steps are taken.
- Flags and value tables switch every 3 to 20 seconds; labels such as "SNA" or "error" are left out
  where there are others. A distance driven only grows.
- A multiplexer takes its branches in turn, frame by frame, and one below another each time the
  upper one is through. Of values that select the same signals a few stand for all.
- What is called a counter of messages counts frames and fills its bits, or its limits.

Left at 0, each with its reason: checksums, where the file does not say how they are made, text and
other signals of more than 64 bits, and signals whose bits another one of the same frame has: bits
can be sent only once.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.bench.checksums import Rule
from agent.bench.curves import hashed, uniform
from agent.bench.encode import limits, raw_range
from agent.blocks import Float64, Int64
from agent.signals.dbc.layout import Overlaps, bits
from agent.signals.health_counters import is_counter
from agent.signals.model import Message, Signal

Raw = NDArray[Any]

_WORD: Final = 64
_EXACT: Final = 1 << 52
_WIDE: Final = 16  # bits beyond which a range that nobody limits is not used in full
_COUNTER_BITS: Final = 16
_FLAG_BITS: Final = 2
_TABLE_BITS: Final = 8
_ALIKE: Final = 3  # of multiplexer values that select the same
_MOST_CHECKSUM: Final = 32  # bits
_MARGIN: Final = 0.1
_FLOAT_SPAN: Final = 100.0
_FLOAT_LIMIT: Final = {16: 6e4, 32: 3e38, 64: 1e300}
_WAVES: Final = ((0.6, 20.0, 120.0), (0.3, 7.0, 19.0), (0.1, 2.0, 5.0))  # share, periods in s
_DWELL_S: Final = (3.0, 20.0)
_GROWTH: Final = 0.02  # km/s, about 70 km/h

_USUAL: Final[Mapping[str, Sequence[tuple[float, float]]]] = {
    "km/h": ((0, 120),), "kph": ((0, 120),), "kmh": ((0, 120),), "mph": ((0, 75),),
    "m/s": ((0, 33),), "rpm": ((700, 4000), (0, 2000)), "1/min": ((700, 4000), (0, 2000)),
    "v": ((330, 400), (11.8, 14.4), (3.3, 4.1), (0, 5)), "volt": ((330, 400), (11.8, 14.4)),
    "mv": ((3300, 4100),), "a": ((-150, 200), (0, 60)), "kw": ((-50, 120), (0, 120)),
    "degc": ((15, 45),), "c": ((15, 45),), "°c": ((15, 45),), "deg c": ((15, 45),),
    "f": ((50, 110),), "k": ((280, 320),), "%": ((20, 80),), "nm": ((-100, 250), (0, 250)),
    "bar": ((1, 6),), "kpa": ((95, 300),), "hpa": ((950, 1050),), "g": ((-0.4, 0.4),),
    "m/s2": ((-3, 3),), "m/s^2": ((-3, 3),), "deg/s": ((-20, 20),), "hz": ((45, 55),),
}  # fmt: skip
_DISTANCE: Final = frozenset(("km", "mi", "miles"))
_ODOMETER: Final = re.compile("odo|mileage|total|distance", re.IGNORECASE)
_ROLLING: Final = re.compile(r"(?i)counter|alive|rolling|(?:^|_)(?:cnt|ctr|cntr|bz)(?:_|\d|$)")
_CHECKSUM: Final = re.compile(r"(?i)check_?sum|(?:^|_)(?:crc|chk|chks|cks|xor)(?:_|\d|$)|crc\d*$")
_NO_VALUE: Final = re.compile(
    r"(?i)\bsna\b|_sna$|invalid|not[ _]?avail|error|fault|reserved|unused|undefined|not[ _]?used"
)


@dataclasses.dataclass(frozen=True, slots=True)
class _Wave:
    """A number: the middle and half of what it moves through, and its ends; raw, not rounded."""

    signal: Signal
    centre: float
    half: float
    low: float
    high: float


class Motion:
    """The signals of one message.

    `driven` are all that have values: those of `raw`, and `computed`, the checksums with a rule,
    which are made of the payload. `left` has those that stay 0, each with the reason.
    """

    def __init__(
        self, message: Message, seed: int, checksums: Mapping[str, Rule] | None = None
    ) -> None:
        self.message = message
        self.computed: list[tuple[Signal, Rule]] = []
        self._checksums = checksums or {}
        self._seed = seed
        self.left: dict[str, str] = {}
        self._turns: list[tuple[Signal, Raw, int]] = []
        self._counters: list[tuple[Signal, int, int]] = []
        self._states: list[tuple[Signal, Raw]] = []
        self._growing: list[Signal] = []
        self._waves: list[_Wave] = []
        selectors = _selectors(message)
        self.driven = self._choose(selectors)
        turns: dict[str, int] = {}
        for signal in self.driven:
            if signal.name in selectors:
                values = selectors[signal.name]
                every = turns.get(signal.parent, 1)
                turns[signal.name] = every * len(values)
                self._turns.append((signal, values, every))
            elif signal.name in self._checksums and not _unfit(signal):
                self.computed.append((signal, self._checksums[signal.name]))
            else:
                self._sort(signal)
        self._mixture = _Mixture(self._waves, self._stream, seed)

    def raw(self, time_s: Float64, number: Int64) -> dict[str, Raw]:
        """Raw values of all but the computed, at times, for frames with these numbers; n each."""
        values: dict[str, Raw] = {}
        for signal, choices, every in self._turns:
            values[signal.name] = choices[number // every % len(choices)]
        for signal, low, count in self._counters:
            values[signal.name] = low + number % count
        for signal, states in self._states:
            values[signal.name] = states[self._state(signal, time_s, len(states))]
        for signal in self._growing:
            low, high = limits(signal)
            low, high = max(low, -_EXACT), min(high, _EXACT)
            grown = 0.3 * (high - low) + time_s * _GROWTH / abs(signal.schema.scale or 1)
            values[signal.name] = low + (grown % (high - low + 1)).astype(np.int64)
        values |= self._mixture.raw(time_s)
        return values

    def _stream(self, signal: Signal) -> str:
        return f"{self.message.name}.{signal.name}"

    def _state(self, signal: Signal, time_s: Float64, count: int) -> NDArray[np.intp]:
        stream = self._stream(signal)
        dwell = _between(*_DWELL_S, self._seed, f"{stream} dwell")
        turn = (time_s / dwell).astype(np.int64)
        return (hashed(self._seed, stream, turn) % np.uint64(count)).astype(np.intp)

    def _choose(self, selectors: Mapping[str, Raw]) -> tuple[Signal, ...]:
        """The signals that are driven, selectors before what they select."""
        message, by_name = self.message, self.message.by_name
        overlaps = Overlaps()
        shared: dict[str, set[str]] = {}
        for first, second in overlaps.of(message.signals):
            shared.setdefault(first.name, set()).add(second.name)
            shared.setdefault(second.name, set()).add(first.name)
        used = 0
        driven: dict[str, Signal] = {}
        # Multiplexers first: without them nobody knows what else is in a frame; then counters.
        ranked = sorted(
            message.signals,
            key=lambda s: (s.name not in selectors, _depth(s, by_name), not _is_rolling(s)),
        )
        for signal in ranked:
            why = ""
            other = next((n for n in shared.get(signal.name, ()) if n in driven), "")
            if signal.length > _WORD:
                why = "has more than 64 bits"
            elif signal.end_byte > message.length:
                why = "lies beyond the message"
            elif signal.parent and signal.parent not in driven:
                why = "cannot be selected"
            elif (
                signal.name not in selectors
                and _CHECKSUM.search(signal.name)
                and (signal.name not in self._checksums or _unfit(signal))
            ):
                why = "is a checksum, and the file does not say of what"
            elif other or (overlaps.given_up and bits(signal) & used):
                why = f"shares bits with {other or 'others'}"
            elif (
                signal.parent
                and not np.isin(
                    selectors[signal.parent].astype(np.uint64),
                    np.array(sorted(signal.selected_by), np.uint64),
                ).any()
            ):
                why = "is never selected"
            if why:
                self.left[signal.name] = why
            else:
                driven[signal.name] = signal
                used |= bits(signal)
        return tuple(driven.values())

    def _sort(self, signal: Signal) -> None:
        """Find out what a signal is."""
        schema = signal.schema
        if schema.kind in ("float32", "float64"):
            self._waves.append(_float_wave(signal))
            return
        low, high = limits(signal)
        if _is_rolling(signal):
            self._counters.append((signal, low, high - low + 1))
        elif states := _states(signal):
            self._states.append((signal, np.array(states, np.int64)))
        elif schema.unit.lower() in _DISTANCE and _ODOMETER.search(signal.name):
            self._growing.append(signal)
        else:
            self._waves.append(_whole_wave(signal))


class _Mixture:
    """All numbers of a message at once: k signals, n times."""

    def __init__(self, waves: Sequence[_Wave], stream: Callable[[Signal], str], seed: int) -> None:
        self._waves = waves
        self._parts: list[tuple[float, Float64, Float64]] = []
        for part, (share, shortest, longest) in enumerate(_WAVES):
            drawn = [
                (
                    _between(shortest, longest, seed, f"{stream(w.signal)} period {part}"),
                    _between(0, 2 * np.pi, seed, f"{stream(w.signal)} phase {part}"),
                )
                for w in waves
            ]
            table = np.array(drawn, np.float64).reshape(len(waves), 2)
            self._parts.append((share, 2 * np.pi / table[:, :1], table[:, 1:]))

    def raw(self, time_s: Float64) -> dict[str, Raw]:
        if not self._waves:
            return {}
        moved = np.zeros((len(self._waves), len(time_s)))
        for share, speed, phase in self._parts:
            moved += share * np.sin(speed * time_s + phase)
        values: dict[str, Raw] = {}
        for wave, row in zip(self._waves, moved, strict=True):
            value = np.clip(wave.centre + wave.half * row, wave.low, wave.high)
            kind = wave.signal.schema.kind
            if kind in ("float32", "float64"):
                # A float of 16 bits holds less than the column that carries it.
                narrow = np.float16 if wave.signal.length == 16 else np.dtype(kind)
                values[wave.signal.name] = value.astype(narrow).astype(kind)
            else:
                values[wave.signal.name] = np.rint(value).astype(np.int64)
        return values


def _between(low: float, high: float, seed: int, stream: str) -> float:
    return low + (high - low) * float(uniform(seed, stream, np.zeros(1, np.int64))[0])


def _depth(signal: Signal, by_name: Mapping[str, Signal]) -> int:
    depth = 0
    while signal.parent:
        signal = by_name[signal.parent]
        depth += 1
    return depth


def _selectors(message: Message) -> dict[str, Raw]:
    """Multiplexers that select something, each with the values that it takes in turn."""
    children: dict[str, list[Signal]] = {}
    for signal in message.signals:
        if signal.parent:
            children.setdefault(signal.parent, []).append(signal)
    found: dict[str, Raw] = {}
    for name, selected in children.items():
        signal = message.by_name[name]
        if signal.length > _WORD:
            continue
        _, high = raw_range(signal)
        branches: dict[int, list[str]] = {}
        for child in selected:
            for value in child.selected_by:
                if value <= min(high, _EXACT):
                    branches.setdefault(value, []).append(child.name)
        alike: dict[tuple[str, ...], list[int]] = {}
        for value in sorted(branches):
            members = alike.setdefault(tuple(branches[value]), [])
            if len(members) < _ALIKE:
                members.append(value)
        values = sorted(itertools.chain.from_iterable(alike.values()))
        if values:
            found[name] = np.array(values, np.int64)
    return found


def _unfit(signal: Signal) -> bool:
    """Whether a signal cannot be a checksum of a whole payload."""
    return bool(signal.parent) or signal.schema.kind != "uint64" or signal.length > _MOST_CHECKSUM


def _is_rolling(signal: Signal) -> bool:
    schema = signal.schema
    called = schema.kind == "uint64" and 1 < schema.bits <= _COUNTER_BITS
    plain = not schema.unit and not schema.choices
    return is_counter(schema) or (called and plain and _ROLLING.search(schema.name) is not None)


def _states(signal: Signal) -> list[int]:
    """The raw values between which a flag or a value table switches; empty for a number."""
    schema = signal.schema
    low, high = limits(signal)
    least, most = raw_range(signal)
    named = {value: label for value, label in schema.choices if least <= value <= most}
    if len(named) >= 2 and (not schema.unit or len(named) > (high - low) // 2):
        good = [v for v, label in named.items() if not _NO_VALUE.search(label)] or list(named)
        if signal.length <= _TABLE_BITS or len(named) > _TABLE_BITS or high - low < _WORD:
            inside = [v for v in good if low <= v <= high and abs(v) <= _EXACT]
            return sorted(inside or (v for v in good if abs(v) <= _EXACT))
    if signal.length == 1 or (signal.length <= _FLAG_BITS and not schema.unit):
        return list(range(low, high + 1))
    return []


def _usual(unit: str, low: float, high: float) -> tuple[float, float] | None:
    """What is usual for a unit, where a range holds it."""
    for least, most in _USUAL.get(unit.strip().lower(), ()):
        if low <= least and most <= high:
            return least, most
    return None


def _whole_wave(signal: Signal) -> _Wave:
    schema = signal.schema
    low, high = limits(signal)
    for first, last, _ in schema.codes:  # what is no measurement lies at the upper end
        if low < first <= high <= last:
            high = first - 1
    free = (low, high) == raw_range(signal)
    low, high = max(low, -_EXACT), min(high, _EXACT)
    scale, offset = schema.scale or 1, schema.offset
    ends = sorted((low * scale + offset, high * scale + offset))
    usual = _usual(schema.unit, *ends)
    if usual is not None:
        least, most = sorted((end - offset) / scale for end in usual)
    else:
        if free and signal.length > _WIDE:
            low, high = max(low, -(1 << _WIDE - 1)), min(high, 1 << _WIDE)
        margin = _MARGIN * (high - low)
        least, most = low + margin, high - margin
    return _Wave(signal, (least + most) / 2, (most - least) / 2, low, high)


def _float_wave(signal: Signal) -> _Wave:
    schema = signal.schema
    most = _FLOAT_LIMIT[signal.length]
    scale, offset = schema.scale or 1, schema.offset
    low, high = schema.minimum, schema.maximum
    if low is None or high is None or low >= high:
        low, high = -_FLOAT_SPAN, _FLOAT_SPAN
    usual = _usual(schema.unit, low, high) or (low, high)
    least, top = sorted(float(np.clip((end - offset) / scale, -most, most)) for end in usual)
    return _Wave(signal, least / 2 + top / 2, top / 2 - least / 2, least, top)
