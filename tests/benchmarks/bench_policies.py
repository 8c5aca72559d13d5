"""What each policy of a campaign costs, against decoding what it is applied to."""

import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from agent.blocks import FrameBlock, SignalTable
from agent.collect.policies import Policy, policy_of
from agent.collect.rules import Rule
from agent.signals import Database, Decoder
from tests.benchmarks import reference
from tests.benchmarks.report import Figure, cpu_s, medians, parser, show
from tests.benchmarks.traffic import join

_FRAMES = 16_384
_BLOCKS = 8
_ROUNDS = 5
_TURN_S = 0.1
_MS = 1_000_000
_SIGNALS = ("counter", "ready", "mode", "speed", "torque", "pressure", "temperature", "current")
_RULES = {
    "all": Rule(),
    "every 100 ms": Rule("every", interval_ns=100 * _MS),
    "on change": Rule("on_change"),
    "on change, at least each 1 s": Rule("on_change", at_least_ns=1000 * _MS),
    "dead band of 2": Rule("dead_band", bound=2.0),
    "dead band of 10 %": Rule("dead_band_relative", bound=0.1),
    "dead band of 0": Rule("dead_band", bound=0.0),
    "door of 2": Rule("door", bound=2.0),
    "door of 0": Rule("door", bound=0.0),
    "windows of 1 s": Rule("window", interval_ns=1000 * _MS),
    "windows of 100 ms": Rule("window", interval_ns=100 * _MS),
}
_NOTES = (
    "Frames are the reference load's, both buses as one, eight signals of each message; one",
    "  message: the frames of one with 10 ms, so blocks of a single message, the worst case.",
    "Decoding is to physical values. A ratio of 1 is a policy that costs as much as decoding.",
    "Medians of alternating rounds, CPU time.",
)


class Contest:
    """Blocks of frames, and everybody who has a go at them."""

    def __init__(self, folder: Path, sent: Sequence[reference.Sent]) -> None:
        path = folder / "bench.dbc"
        path.write_text(reference.dbc(sent), "ascii")
        rate = sum(1000 / m.period_ms for m in sent)
        seconds = 1 + _BLOCKS * _FRAMES / rate
        half = [[m for m in sent if m in reference.messages(bus)] for bus in (0, 1)]
        frames = join([reference.frames("can0", part, seconds) for part in half if part])
        self._blocks = [frames[i * _FRAMES : (i + 1) * _FRAMES] for i in range(_BLOCKS)]
        names = [f"*.{name}" for name in _SIGNALS]
        self._decoder = Decoder(Database.load([str(path)]), names)
        self._tables = [self._decode(block) for block in self._blocks]
        self._reached = [{"can0": int(block.time[-1])} for block in self._blocks]

    def _decode(self, block: FrameBlock) -> list[SignalTable]:
        tables = self._decoder.decode(block)
        for table in tables:
            for kind in table.values:
                table.physical_values(kind)
        return tables

    def decoding(self) -> float:
        """CPU seconds a block."""
        return cpu_s(lambda: [self._decode(block) for block in self._blocks], _TURN_S) / _BLOCKS

    def policy(self, rule: Rule) -> float:
        """CPU seconds a block; the first one, in which it gets to know the signals, is free."""
        policy = policy_of(rule)
        self._apply(policy, 0)
        return cpu_s(lambda: [self._apply(policy, n) for n in range(1, _BLOCKS)]) / (_BLOCKS - 1)

    def _apply(self, policy: Policy, number: int) -> int:
        """How much is kept or made of a block."""
        outcome = policy.apply(self._tables[number], self._reached[number])
        return outcome.kept + outcome.made

    def part(self, rule: Rule) -> float:
        """The part of all samples that is kept or made."""
        policy = policy_of(rule)
        kept = sum(self._apply(policy, number) for number in range(_BLOCKS))
        return kept / sum(table.samples for tables in self._tables for table in tables)

    def figures(self, label: str) -> Iterator[Figure]:
        contestants: dict[str, Callable[[], float]] = {"decoding": self.decoding}
        for name, rule in _RULES.items():
            contestants[name] = functools.partial(self.policy, rule)
        spent = medians(contestants, _ROUNDS)
        yield Figure(f"{label}: decoding", 1e3 * spent["decoding"], "ms")
        for name, rule in _RULES.items():
            note = f"({1e3 * spent[name]:.2f} ms, {self.part(rule):.1%} kept or made)"
            yield Figure(f"  {name}", spent[name] / spent["decoding"], "x", note=note)


def main() -> None:
    args = parser(__doc__ or "").parse_args()
    everything = reference.messages(0) + reference.messages(1)
    figures: list[Figure] = []
    for sent in (everything, everything[:1]):
        with tempfile.TemporaryDirectory() as name:
            label = f"{len(sent)} messages" if len(sent) > 1 else "one message"
            figures += Contest(Path(name), sent).figures(label)
    show(f"Policies, blocks of {_FRAMES:,} frames", figures, _NOTES, as_json=args.json)


if __name__ == "__main__":
    main()
