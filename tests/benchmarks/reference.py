"""The reference load: two buses at 60 % of 500 kbit/s, 50 messages of ten signals on each.

A classic frame with an 11-bit id and 8 bytes has 111 bits with its three bits of intermission, and
0 to 24 stuff bits (ISO 11898-1). 125 stands for both: 2,400 frames a second are 60 % of 500 kbit/s.
The periods below come to exactly that. Signals behave as a vehicle's do: a counter and a checksum,
flags that change now and then, slow temperatures, values that follow a drive, and sensor noise.
"""

import dataclasses
import itertools
import random
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.blocks import FrameBlock, Int64, UInt64
from agent.clock import MILLISECOND, SECOND

FRAME_BITS: Final = 125
BUSES: Final = ("can0", "can1")
FRAMES_A_SECOND: Final = 500_000 * 6 // 10 // FRAME_BITS
# Period in milliseconds, and how many messages of a bus have it.
_PERIODS: Final = ((10, 16), (20, 12), (50, 6), (100, 5), (200, 4), (500, 3), (1000, 4))
_FIRST_ID: Final = 0x100

# Name, bits, scale, offset, unit; little-endian, one behind the other, 64 bits in all.
_SIGNALS: Final = (
    ("counter", 4, 1, 0, ""),
    ("ready", 1, 1, 0, ""),
    ("fault", 1, 1, 0, ""),
    ("mode", 2, 1, 0, ""),
    ("speed", 12, 0.1, 0, "km/h"),
    ("torque", 12, 0.5, -1024, "Nm"),
    ("pressure", 10, 0.2, 0, "bar"),
    ("temperature", 8, 1, -40, "degC"),
    ("current", 8, 0.5, -64, "A"),
    ("checksum", 6, 1, 0, ""),
)
_WIDEST: Final = 32
_SIGNED: Final = 0.3
_BIG_ENDIAN: Final = 0.25
assert sum(bits for _, bits, *_ in _SIGNALS) == 64, "the signals fill a frame"
assert sum(1000 // ms * n for ms, n in _PERIODS) == FRAMES_A_SECOND, "the periods fill a bus"


@dataclasses.dataclass(frozen=True, slots=True)
class Sent:
    """A message of one bus."""

    name: str
    id: int
    period_ms: int
    seed: int


def messages(bus: int) -> list[Sent]:
    """What is sent on bus 0 or 1; no name and no id is on both."""
    periods = [ms for ms, n in _PERIODS for _ in range(n)]
    first = bus * len(periods)
    return [
        Sent(f"ecu_{first + i:03}", _FIRST_ID + 8 * (first + i), ms, first + i)
        for i, ms in enumerate(periods)
    ]


def dbc(sent: Sequence[Sent]) -> str:
    """A DBC file that describes these messages."""
    lines = ['VERSION ""', "", "NS_ :", "", "BS_:", "", "BU_: ECU", ""]
    for message in sent:
        lines.append(f"BO_ {message.id} {message.name}: 8 ECU")
        start = 0
        for name, bits, scale, offset, unit in _SIGNALS:
            place = f"{start}|{bits}@1+ ({scale},{offset}) [0|0]"
            lines.append(f' SG_ {name} : {place} "{unit}" ECU')
            start += bits
        lines.append("")
    return "\n".join(lines)


def varied_dbc(sent: Sequence[Sent]) -> str:
    """The same messages with ten signals of random sizes, signs, scales and byte orders each."""
    draw = random.Random(7)
    lines = ['VERSION ""', "", "NS_ :", "", "BS_:", "", "BU_: ECU", ""]
    for message in sent:
        lines.append(f"BO_ {message.id} {message.name}: 8 ECU")
        sizes = [64]
        while max(sizes) > _WIDEST:
            cuts = [0, *sorted(draw.sample(range(1, 64), len(_SIGNALS) - 1)), 64]
            sizes = [b - a for a, b in itertools.pairwise(cuts)]
        big_endian, start = draw.random() < _BIG_ENDIAN, 0
        for number, bits in enumerate(sizes):
            sign = "-" if bits > 4 and draw.random() < _SIGNED else "+"
            scale = draw.choice([1, 1, 1, 0.1, 0.5, 0.01, 2, 0.25])
            offset = draw.choice([0, 0, 0, -40, -100.5]) if scale != 1 else 0
            byte, bit = divmod(start, 8)
            place = f"{8 * byte + 7 - bit}|{bits}@0" if big_endian else f"{start}|{bits}@1"
            lines.append(f' SG_ s{number} : {place}{sign} ({scale},{offset}) [0|0] "" ECU')
            start += bits
        lines.append("")
    return "\n".join(lines)


def frames(bus: str, sent: Sequence[Sent], seconds: float) -> FrameBlock:
    """The frames of a bus in the order of time; the clock is `recorded` and begins at 0."""
    times: list[Int64] = []
    ids: list[NDArray[np.uint32]] = []
    words: list[UInt64] = []
    for place, message in enumerate(sent):
        count = round(seconds * 1000) // message.period_ms
        number = np.arange(count, dtype=np.int64)
        generator = np.random.default_rng(message.seed)
        jitter = generator.integers(0, 30_000, count)
        # Each message has a place of its own in every 10 ms, so that frames do not overlap.
        phase = place * 200_000 + place % (message.period_ms // 10) * 10 * MILLISECOND
        times.append(number * message.period_ms * MILLISECOND + phase + jitter)
        ids.append(np.full(count, message.id, np.uint32))
        words.append(_payload(message, number, generator))
    time = np.concatenate(times)
    order = np.argsort(time, kind="stable")
    data = np.ascontiguousarray(np.concatenate(words)[order].astype("<u8"))
    return FrameBlock(
        bus,
        time[order],
        np.concatenate(ids)[order],
        np.full(len(time), 8, np.uint16),
        np.zeros(len(time), np.uint8),
        data.view(np.uint8).reshape(-1, 8),
        "recorded",
    )


def _payload(message: Sent, number: Int64, generator: np.random.Generator) -> UInt64:
    t = number * message.period_ms / 1000
    phase = message.seed
    drive = np.abs(np.sin(t / 40 + phase)) * (1 + 0.2 * np.sin(t / 7))  # 0 to 1.2
    noise = generator.normal(0, 1, len(t))
    columns = {
        "counter": number % 16,
        "ready": t > 5 + phase % 7,
        "fault": (t + 3 * phase) % 300 < 2,
        "mode": (t / 45 + phase) % 4,
        "speed": 1300 * drive,
        "torque": 2048 + 900 * np.sin(t / 11 + phase) + 2 * noise,
        "pressure": 400 + 150 * np.sin(t / 60 + phase),
        "temperature": 60 + 40 * (1 - np.exp(-t / 600)) + phase % 11,
        "current": 128 + 60 * np.sin(t / 5 + phase) + 3 * noise,
        "checksum": np.zeros(len(t)),
    }
    word = np.zeros(len(t), np.uint64)
    start = 0
    for name, bits, *_ in _SIGNALS:
        value = np.asarray(columns[name], np.int64).astype(np.uint64)
        word |= (value & np.uint64((1 << bits) - 1)) << np.uint64(start)
        start += bits
    # The last six bits check the others, and are different in each frame where those are.
    mixed = word * np.uint64(0x9E37_79B9_7F4A_7C15)
    return word | (mixed >> np.uint64(58)) << np.uint64(58)


def candump(block: FrameBlock, begin_s: int = 1_700_000_000) -> str:
    """The frames as `candump -l` writes them."""
    micros = block.time // 1000
    texts = block.data.tobytes().hex().upper()
    rows = zip((micros // 1_000_000).tolist(), (micros % 1_000_000).tolist(), strict=True)
    return "".join(
        f"({begin_s + s}.{us:06}) {block.bus} {number:03X}#{texts[16 * i : 16 * i + 16]}\n"
        for i, ((s, us), number) in enumerate(zip(rows, block.id.tolist(), strict=True))
    )


assert FRAMES_A_SECOND * FRAME_BITS == 300_000, "60 % of 500 kbit/s"
assert SECOND == 1000 * MILLISECOND, "periods are in milliseconds"
