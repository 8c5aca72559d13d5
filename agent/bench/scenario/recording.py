"""A recording decoded directly, without the agent, and compared with what the cloud has."""

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from agent.bench.scenario.arrived import Samples, Totals, add
from agent.blocks import ID_BITS
from agent.bus import read_log
from agent.clock import SECOND
from agent.errors import AgentError, BusError
from agent.signals import Database, Decoder


@dataclasses.dataclass(frozen=True)
class Recording:
    """A recording and the database files that describe it."""

    path: Path
    dbc: Sequence[Path]
    channel: str = ""
    j1939: bool = False


@dataclasses.dataclass(frozen=True)
class Decoded:
    """What the cloud must have in the end, and how long the recording is."""

    totals: Totals
    seconds: float
    frames: int
    decoded: float
    """Of 1, how many of the frames."""

    @property
    def sentence(self) -> str:
        samples = sum(row.count for row in self.totals.values())
        return (
            f"{self.frames:,} frames in {self.seconds:.1f} s, {self.decoded:.1%} decoded, "
            f"{len(self.totals):,} signals, {samples:,} samples"
        )


def decode_directly(recording: Recording) -> Decoded:
    """Decode a recording as the agent does, without the agent.

    Raises:
        BusError: it cannot be read, or has no frame.
        DatabaseError: a database file cannot be read.
        AgentError: no frame is described by the database files.
    """
    decoder = Decoder(Database.load(recording.dbc, j1939=recording.j1939))
    totals: Totals = {}
    ids: collections.Counter[int] = collections.Counter()
    first = last = None
    frames = 0
    with read_log(recording.path, channel=recording.channel or None, bus="bus") as reader:
        for block in reader:
            frames += len(block)
            low, high = int(block.time.min()), int(block.time.max())
            first = low if first is None else min(first, low)
            last = high if last is None else max(last, high)
            ids.update(block.id.tolist() if frames < 100_000 else ())
            for table in decoder.decode(block):
                add(totals, table)
    if first is None or last is None:
        raise BusError(f"{recording.path}: there are no frames")
    if not totals:
        common = ", ".join(f"{i & ID_BITS:X}" for i, _ in ids.most_common(8))
        raise AgentError(
            f"0 % decoded: no frame of {recording.path} is described by "
            f"{', '.join(map(str, recording.dbc))}. Ids that occur most: {common}"
        )
    return Decoded(totals, (last - first) / SECOND, frames, decoder.counts.decoded / frames)


def differences(arrived: Totals, decoded: Totals) -> list[str]:
    """Each signal of the recording against the cloud; what differs, as sentences."""
    wrong = []
    for name, row in decoded.items():
        here = arrived.get(name, Samples())
        tolerance = 1e-9 * max(1.0, abs(row.total))
        nan = row.total != row.total
        if here.count != row.count or not (nan or abs(here.total - row.total) <= tolerance):
            wrong.append(
                f"{name}: {row.count:,} samples that sum to {row.total:g} in the recording, "
                f"{here.count:,} that sum to {here.total:g} in the cloud"
            )
    return wrong
