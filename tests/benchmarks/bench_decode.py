"""Decoding against cantools frame by frame, and against C that cantools generates."""

import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.blocks import FrameBlock
from agent.signals import Database, Decoder
from tests.benchmarks import reference
from tests.benchmarks.cdecoder import COMPILER, CDecoder
from tests.benchmarks.report import Figure, cpu_s, medians, parser, show
from tests.benchmarks.traffic import cantools_messages, join

_BLOCKS = (256, 1024, 16_384)
_FRAMES = 2 * 16_384
_ROUNDS = 7
_TURN_S = 0.2
_FEW = 4
_TARGETS = {("few", 16_384): 25, ("100", 16_384): 25, ("100", 1024): 8}
_TARGETS_C = {"few": 0.3, "100": 0.8}
_NOTES = (
    "Each value is made physical by everybody: table.physical_values(kind) of every table;",
    "  message.decode(data, decode_choices=False), in a loop; _unpack and all _decode in C.",
    "Frames are the reference load's, both buses as one: 100 ids with ten signals; few ids: four",
    "  of its 10 ms messages. There the messages have one layout, as cells and radar objects do;",
    "  no two alike: a random layout for each of the 100, a quarter of them big-endian.",
    "Medians of alternating rounds, CPU time.",
)


class Contest:
    """One set of messages, and everybody who decodes it."""

    def __init__(self, folder: Path, sent: list[reference.Sent], text: str) -> None:
        path = folder / "bench.dbc"
        path.write_text(text, "ascii")
        rate = sum(1000 / m.period_ms for m in sent)
        half = [[m for m in sent if m in reference.messages(bus)] for bus in (0, 1)]
        seconds = 1 + _FRAMES / rate
        parts = [reference.frames("can0", part, seconds) for part in half if part]
        self.block = join(parts)[:_FRAMES]
        self._decoder = Decoder(Database.load([str(path)]))
        found = cantools_messages(path)
        self._messages = {m.frame_id: m for m in found}
        ids, data = self.block.id.tolist(), self.block.data
        self._frames = [(i, row.tobytes()) for i, row in zip(ids, data, strict=True)]
        self._c = None
        if CDecoder.available():
            self._c = CDecoder(folder, path, found)
            self._c.put(self.block)

    def agent(self, size: int, *, physical: bool = True) -> float:
        """CPU seconds a frame."""
        blocks = [self.block[i : i + size] for i in range(0, _FRAMES, size)]
        run = self._physical if physical else self._raw
        return cpu_s(lambda: run(blocks), _TURN_S) / _FRAMES

    def _physical(self, blocks: list[FrameBlock]) -> int:
        values = 0
        for block in blocks:
            for table in self._decoder.decode(block):
                for kind in table.values:
                    values += table.physical_values(kind).size
        assert values == 10 * _FRAMES
        return values

    def _raw(self, blocks: list[FrameBlock]) -> None:
        for block in blocks:
            self._decoder.decode(block)

    def cantools(self) -> float:
        return cpu_s(self._one_by_one, _TURN_S) / _FRAMES

    def _one_by_one(self) -> None:
        messages = self._messages
        for number, data in self._frames:
            messages[number].decode(data, decode_choices=False)

    def c(self) -> float:
        assert self._c is not None
        repeats = 100
        values, spent = self._c.run(repeats)
        assert values == repeats * 10 * _FRAMES
        return spent / repeats / _FRAMES

    def figures(self, kind: str, label: str) -> Iterator[Figure]:
        contestants: dict[str, Callable[[], float]] = {"cantools": self.cantools}
        for size in _BLOCKS:
            contestants[f"agent {size}"] = functools.partial(self.agent, size)
            contestants[f"raw {size}"] = functools.partial(self.agent, size, physical=False)
        if self._c is not None:
            contestants["c"] = self.c
        found = medians(contestants, _ROUNDS)
        yield Figure(f"{label}: cantools", 1e6 * found["cantools"], "µs/frame")
        for size in _BLOCKS:
            mine, raw = found[f"agent {size}"], found[f"raw {size}"]
            yield Figure(
                f"{label}: against cantools, blocks of {size:,}",
                found["cantools"] / mine,
                "x",
                target=_TARGETS.get((kind, size)),
                note=f"({1e6 * mine:.3f} µs/frame)",
            )
            note = f"({1e6 * raw:.3f} µs/frame)"
            yield Figure("  to raw values only", found["cantools"] / raw, "x", note=note)
        what = f"{label}: against C, blocks of 16,384"
        if self._c is None:
            yield Figure(what, None, note=f"there is no {COMPILER} here")
        else:
            note = f"(C: {1e6 * found['c']:.4f} µs/frame)"
            ratio = found["c"] / found["agent 16384"]
            yield Figure(what, ratio, "x", target=_TARGETS_C.get(kind), note=note)
            yield Figure("  to raw values only", found["c"] / found["raw 16384"], "x")


def main() -> None:
    args = parser(__doc__ or "").parse_args()
    everything = reference.messages(0) + reference.messages(1)
    figures: list[Figure] = []
    few = everything[:_FEW]
    for kind, label, sent, text in (
        ("few", f"{_FEW} ids", few, reference.dbc(few)),
        ("100", f"{len(everything)} ids", everything, reference.dbc(everything)),
        ("", "no two alike", everything, reference.varied_dbc(everything)),
    ):
        with tempfile.TemporaryDirectory() as name:
            figures += Contest(Path(name), sent, text).figures(kind, label)
    show("Decoding", figures, _NOTES, as_json=args.json)


if __name__ == "__main__":
    main()
