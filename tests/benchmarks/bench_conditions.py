"""Five hundred conditions over 3,000 signals, against decoding the same frames."""

import dataclasses
import functools
import gc
import itertools
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Float64, FrameBlock, Int64, SignalSchema, UInt64
from agent.clock import SECOND
from agent.collect.conditions import Conditions
from agent.collect.expression import tree as t
from agent.signals import Database, Decoder
from agent.signals.database import SignalPath
from tests.benchmarks.report import Figure, medians, parser, show

_FRAMES_A_SECOND = 60_000
_BLOCK = 16_384
_CONDITIONS = 500
_WARM_UP, _MEASURED = 20, 12
"""Blocks; the windows are full after the first ones."""
_ROUNDS = 5
_SHARES = (0.0, 0.004, 0.02, 0.1)
_USUAL = 0.01
"""Above this share, some ten conditions change in a second: no plan, but what hurts."""
# Messages, and how often each comes in a second: 60,000 frames in all, of 375 ids.
_RATES: Final = ((100, 400), (100, 100), (175, 400 / 7))
assert round(sum(n * rate for n, rate in _RATES)) == _FRAMES_A_SECOND, "the rates make up the load"
# Name, bits, scale, offset; one behind the other, 64 bits in all, in another order in each message.
_SIGNALS: Final = (
    ("counter", 4, 1, 0),
    ("mode", 4, 1, 0),
    ("speed", 12, 0.1, 0),
    ("torque", 12, 0.5, -1024),
    ("pressure", 10, 0.2, 0),
    ("temperature", 8, 1, -40),
    ("current", 8, 0.5, -64),
    ("checksum", 6, 1, 0),
)
_MESSAGES = sum(n for n, _ in _RATES)
_EVENT_A = 40
"""A current that there is only where a condition is to change."""
_NOTES = (
    f"{_CONDITIONS} conditions over {_MESSAGES * len(_SIGNALS):,} signals in {_MESSAGES} messages,",
    f"  {_FRAMES_A_SECOND:,} frames a second, blocks of {_BLOCK:,}. Two or three comparisons each;",
    "  one in six with `for`, one in ten with a window, some with equality, changed or missing.",
    "Ratio: CPU of the conditions to that of decoding the same blocks, every value made physical",
    "  as in bench_decode; and to that of decoding them to raw values only.",
    "Signals move slowly, with noise; where conditions are to change, the current of some messages",
    "  is another for a third of each block.",
    "Two buses: half of the messages on each, its blocks half as long, and nine in ten conditions",
    "  read both. The blocks of one end in the middle of those of the other, so that half of each",
    "  waits for the other bus.",
    "Each block is decoded just before the conditions see it, as in the decode thread.",
    "Medians of alternating rounds, CPU time.",
)


def _layout(message: int) -> Sequence[tuple[str, int, float, float]]:
    return random.Random(message).sample(_SIGNALS, len(_SIGNALS))


def dbc() -> str:
    lines = ['VERSION ""', "", "NS_ :", "", "BS_:", "", "BU_: ECU", ""]
    for message in range(_MESSAGES):
        lines.append(f"BO_ {0x100 + message} ecu_{message:03}: 8 ECU")
        start = 0
        for name, bits, scale, offset in _layout(message):
            lines.append(f' SG_ {name} : {start}|{bits}@1+ ({scale},{offset}) [0|0] "" ECU')
            start += bits
        lines.append("")
    return "\n".join(lines)


def frames(share: float) -> FrameBlock:
    """All frames in the order of time; in each block a share of the messages has an event."""
    count = (_WARM_UP + _MEASURED) * _BLOCK
    seconds = count / _FRAMES_A_SECOND
    block_s = _BLOCK / _FRAMES_A_SECOND
    times, ids, words = [], [], []
    message = 0
    for n, rate in _RATES:
        for _ in range(n):
            number = np.arange(round(seconds * rate))
            at = ((number + message / _MESSAGES) / rate).astype(np.float64)
            block, within = np.divmod(at / block_s, 1)
            turn = (message * 7 + block * 41) % _MESSAGES < share * _MESSAGES
            event = turn & (within > 1 / 3) & (within < 2 / 3)
            times.append((at * SECOND).astype(np.int64))
            ids.append(np.full(len(at), 0x100 + message, np.uint32))
            words.append(_payload(message, number, at, event))
            message += 1
    time_ns = np.concatenate(times)
    order = np.argsort(time_ns, kind="stable")[:count]
    data = np.ascontiguousarray(np.concatenate(words)[order].astype("<u8"))
    return FrameBlock.from_arrays(
        bus="can0",
        time=time_ns[order],
        id=np.concatenate(ids)[order],
        length=np.full(len(order), 8),
        data=data.view(np.uint8).reshape(-1, 8),
        clock="recorded",
    )


def _payload(message: int, number: Int64, at: Float64, event: NDArray[np.bool_]) -> UInt64:
    noise = np.random.default_rng(message).normal(0, 1, len(at))
    columns = {
        "counter": number % 16,
        "mode": np.full(len(at), message % 4),
        "speed": 600 + 400 * np.sin(at / 40 + message) + noise,
        "torque": 2048 + 400 * np.sin(at / 11 + message) + 2 * noise,
        "pressure": 400 + 150 * np.sin(at / 60 + message),
        "temperature": 60 + 40 * (1 - np.exp(-at / 600)) + message % 11,
        "current": np.where(event, 2 * (_EVENT_A + 64 + 10), 128 + 30 * np.sin(at / 5) + 3 * noise),
        "checksum": number * 37 % 64,
    }
    word = np.zeros(len(at), np.uint64)
    start = 0
    for name, bits, *_ in _layout(message):
        value = np.clip(columns[name], 0, (1 << bits) - 1).astype(np.uint64)
        word |= value << np.uint64(start)
        start += bits
    return word


@dataclasses.dataclass(frozen=True)
class Maker:
    """Makes conditions; number i says something about message i and some others."""

    bus_of: Sequence[str]

    def signal(self, message: int, name: str) -> t.Signal:
        message %= _MESSAGES
        _, bits, scale, offset = next(s for s in _SIGNALS if s[0] == name)
        path = SignalPath(self.bus_of[message], f"ecu_{message:03}", name)
        return t.Signal(0, path, SignalSchema(name, "uint64", bits, scale, offset))

    def compare(
        self, message: int, name: str, operator: Literal["<", ">"], value: float
    ) -> t.Compare:
        return t.Compare(0, operator, self.signal(message, name), t.Number(0, value))

    def condition(self, i: int) -> t.Condition:
        current = self.compare(i, "current", ">", _EVENT_A)
        # Of another message, and of another bus where there are two.
        warm = self.compare(i + 188, "temperature", "<", 125)
        match i % 30:
            case 0 | 1 | 2 | 3 | 4:
                return t.For(0, t.Both(0, current, warm), 2 * SECOND)
            case 5 | 6:
                mean = t.Window(0, "mean", self.signal(i + 31, "pressure"), 2 * SECOND)
                high = t.Compare(0, ">", mean, t.Number(0, 150))
                return t.Either(0, t.Both(0, high, warm), current)
            case 7:
                most = t.Window(0, "max", self.signal(i + 31, "torque"), SECOND)
                high = t.Compare(0, ">", most, t.Number(0, 800))
                return t.Either(0, t.Both(0, high, warm), current)
            case 8:
                mode = t.RawIs(0, self.signal(i + 5, "mode"), frozenset({7, 8}))
                return t.Either(0, t.Both(0, mode, warm), current)
            case 9:
                changed = t.Changed(0, self.signal(i + 5, "mode"))
                return t.Both(0, t.Either(0, changed, current), warm)
            case 10:
                lost = t.Missing(0, self.signal(i + 5, "mode"), 2 * SECOND)
                return t.Either(0, t.Both(0, lost, warm), current)
        fast = self.compare(i + 17, "speed", ">", 130 if i % 2 else 20)
        return t.Both(0, t.Either(0, fast, warm), current)


class Contest:
    """Frames of a share of events, decoded once; and the conditions."""

    def __init__(self, path: Path, share: float, buses: int) -> None:
        self._database = Database.load([str(path)])
        self._decoder = Decoder(self._database)
        whole = frames(share)
        names = ["can0", "can1"][:buses]
        self._bus_of = [names[message % buses] for message in range(_MESSAGES)]
        self.blocks: list[FrameBlock] = []
        for number, name in enumerate(names):
            mine = whole[(whole.id - 0x100) % buses == number]
            of_bus = _blocks(mine, _BLOCK // buses, _BLOCK // buses * number // buses)
            self.blocks += [dataclasses.replace(block, bus=name) for block in of_bus]
        self.blocks.sort(key=lambda block: int(block.time[-1]))
        self._warm_up = len(self.blocks) * _WARM_UP // (_WARM_UP + _MEASURED)
        self.measured = sum(map(len, self.blocks[self._warm_up :])) / _BLOCK
        """How many blocks of the whole length."""
        self.changed = 0.0
        """How many conditions changed in a block."""

    def conditions(self) -> float:
        """CPU seconds for the measured blocks.

        Each is decoded just before, as in the decode thread; this does not count here.
        """
        maker = Maker(self._bus_of)
        conditions = Conditions({f"c{i}": maker.condition(i) for i in range(_CONDITIONS)})
        spent, changed = 0.0, 0
        for number, block in enumerate(self.blocks):
            tables = self._decoder.decode(block)
            began = time.process_time()
            steps = conditions.feed(tables, {block.bus: int(block.time[-1])})
            if number >= self._warm_up:
                spent += time.process_time() - began
                changed += len(steps)
        self.changed = changed / (len(self.blocks) - self._warm_up)
        return spent

    def decoding(self, *, physical: bool) -> float:
        """CPU seconds for the same blocks."""
        began = time.process_time()
        for block in self.blocks[self._warm_up :]:
            for table in self._decoder.decode(block):
                for kind in table.values if physical else ():
                    table.physical_values(kind)
        return time.process_time() - began


def _blocks(frames: FrameBlock, size: int, first: int) -> list[FrameBlock]:
    """Blocks of a size, after a first one of another, if that is not 0."""
    edges = [0, first, *range(first + size, len(frames), size), len(frames)]
    return [frames[a:b] for a, b in itertools.pairwise(sorted(set(edges)))]


def figures(path: Path) -> Iterator[Figure]:
    cases = [(share, 1) for share in _SHARES] + [(share, 2) for share in _SHARES[:3]]
    for share, buses in cases:
        contest = Contest(path, share, buses)
        # A full collection walks all that was imported, and would fall on either side by chance.
        gc.collect()
        gc.freeze()
        contestants: dict[str, Callable[[], float]] = {
            "conditions": contest.conditions,
            "physical": functools.partial(contest.decoding, physical=True),
            "raw": functools.partial(contest.decoding, physical=False),
        }
        found = medians(contestants, _ROUNDS)
        what = f"{100 * share:.2g} % of the conditions change in a block"
        if buses > 1:
            what += ", two buses"
        mine, decoding, raw = (1000 * found[name] / contest.measured for name in contestants)
        note = (
            f"({mine:.2f} ms against {decoding:.2f} ms for {_BLOCK:,} frames; "
            f"{contest.changed:.0f} changed)"
        )
        target = 1 if share <= (_USUAL if buses == 1 else 0) else None
        yield Figure(what, mine / decoding, "", "at most", target, note)
        yield Figure("  against raw values only", mine / raw)


def main() -> None:
    args = parser(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "bench.dbc"
        path.write_text(dbc(), "ascii")
        found = list(figures(path))
    show("Conditions, CPU against decoding", found, _NOTES, as_json=args.json)


if __name__ == "__main__":
    main()
