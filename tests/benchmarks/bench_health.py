"""What watching the buses and the database costs beside decoding."""

import functools
import itertools
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.blocks import FrameBlock
from agent.settings.plan import Health
from agent.signals import Database, Decoder
from agent.signals.health import DatabaseHealth
from tests.benchmarks import reference
from tests.benchmarks.report import Figure, cpu_s, medians, parser, show
from tests.benchmarks.traffic import join, later

_BLOCKS = (1024, 16_384)
_FRAMES = 4 * 16_384
_ROUNDS = 9
_TURN_S = 0.2
_TARGET = 0.2
_CHECKED = {"speed": "0|1000", "torque": "-1000|1000", "pressure": "0|200"}
_NOTES = (
    "Frames are the reference load's, both buses as one: 100 ids with ten signals, one of them a",
    "  counter that is watched. Ranges: three signals of each message have one that is narrower",
    "  than their bits, and keep it. Unknown: the database has half of the ids.",
    "The part is (decoding and watching) / decoding - 1; decoding makes every value physical.",
    "Medians of alternating rounds, CPU time.",
)


class Contest:
    """One database, and the frames of the reference load."""

    def __init__(self, folder: Path, text: str) -> None:
        path = folder / "bench.dbc"
        path.write_text(text, "ascii")
        rate = 2 * reference.FRAMES_A_SECOND
        parts = [
            reference.frames("can0", reference.messages(n), 1 + _FRAMES / rate) for n in (0, 1)
        ]
        self._block = join(parts)[:_FRAMES]
        self._span = int(self._block.time[-1] - self._block.time[0]) + 1_000_000
        self._database = Database.load([str(path)])

    def contestants(self, size: int) -> dict[str, Callable[[], float]]:
        return {
            f"alone {size}": functools.partial(self._run, size, self._agent(watch=False)),
            f"watched {size}": functools.partial(self._run, size, self._agent(watch=True)),
        }

    def _agent(self, *, watch: bool) -> Callable[[list[FrameBlock]], None]:
        decoder = Decoder(self._database)
        health = DatabaseHealth(decoder, Health())
        turn = itertools.count()

        def run(blocks: list[FrameBlock]) -> None:
            for block in later(blocks, next(turn) * self._span):
                tables = decoder.decode(block)
                for table in tables:
                    for kind in table.values:
                        table.physical_values(kind)
                if watch:
                    health.look(block, tables)

        return run

    def _run(self, size: int, agent: Callable[[list[FrameBlock]], None]) -> float:
        """CPU seconds a block."""
        blocks = [self._block[i : i + size] for i in range(0, _FRAMES, size)]
        return cpu_s(lambda: agent(blocks), _TURN_S) / len(blocks)

    def figures(self, label: str) -> Iterator[Figure]:
        contestants: dict[str, Callable[[], float]] = {}
        for size in _BLOCKS:
            contestants |= self.contestants(size)
        found = medians(contestants, _ROUNDS)
        for size in _BLOCKS:
            alone, watched = found[f"alone {size}"], found[f"watched {size}"]
            yield Figure(
                f"{label}, blocks of {size:,}",
                watched / alone - 1,
                "of decoding",
                bound="at most",
                target=_TARGET if size == max(_BLOCKS) else None,
                note=f"({1e6 * (watched - alone):.0f} µs beside {1e6 * alone:.0f} µs)",
            )


def _with_ranges(text: str) -> str:
    for name, limits in _CHECKED.items():
        text = re.sub(rf"( SG_ {name} : [^\[]*)\[0\|0\]", rf"\1[{limits}]", text)
    return text


def main() -> None:
    args = parser(__doc__ or "").parse_args()
    everything = reference.messages(0) + reference.messages(1)
    plain = reference.dbc(everything)
    figures: list[Figure] = []
    for label, text in (
        ("100 ids", plain),
        ("with ranges", _with_ranges(plain)),
        ("no two alike", reference.varied_dbc(everything)),
        ("half unknown", reference.dbc(everything[::2])),
    ):
        with tempfile.TemporaryDirectory() as name:
            figures += Contest(Path(name), text).figures(label)
    show("Health", figures, _NOTES, as_json=args.json)


if __name__ == "__main__":
    main()
