"""How a bench ended: does the ledger close, and is all that was kept at the cloud?"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from agent.ledger import Counts, differences

Run = tuple[str, int]
"""Installation and number: one process of the agent."""
_EXPLAINED = ("empty",)
"""Kinds of gaps at the cloud that are none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """How it ended. `wrong` is empty when all is well: ledger closed, all that was kept arrived."""

    ledger: Mapping[str, Any]
    """Of the last process of the agent: account -> name -> counter, as the status has it."""
    runs: int
    """Processes that the agent has had."""
    frames: int
    """That the vehicle put on the bus."""
    kept: int
    """Samples and raw frames that the last process kept."""
    arrived: int
    """Of that process, at the cloud."""
    samples: int
    """At the cloud, of all processes of this bench."""
    batches: int
    events: tuple[Mapping[str, Any], ...]
    """That arrived, as the cloud tells them, the newest first."""
    updates: tuple[Mapping[str, Any], ...]
    """What the vehicle made of bundles, as the cloud tells it, the newest first."""
    wrong: tuple[str, ...]
    """Sentences."""
    platform: Mapping[str, Any] | None = None
    """What a GB/T 32960 platform has, where there is one: see `agent.bench.gbt32960.verdict`."""

    @property
    def good(self) -> bool:
        return not self.wrong

    def as_json(self) -> dict[str, Any]:
        """For programs; the same names."""
        return dataclasses.asdict(self) | {"good": self.good}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ended:
    """What is known at the end of a bench."""

    ledgers: Mapping[Run, Counts]
    """Of each process, the newest that is known; the oldest process first."""
    clean: Collection[Run]
    """Processes that ended in order: their ledger is the last word."""
    frames: int
    whole_bus: bool
    """Every frame that the vehicle sent must have been read: nothing was done to the bus, and no
    process was killed."""
    batches: Sequence[Mapping[str, Any]]
    """As the cloud tells them."""
    events: Sequence[Mapping[str, Any]]
    updates: Sequence[Mapping[str, Any]]
    completeness: Mapping[str, Any] | None
    troubles: Sequence[str]
    """What is wrong already, as sentences."""
    elsewhere: Collection[str] = ()
    """Uplinks that do not send to the cloud."""


def judge(ended: Ended) -> Verdict:
    """Compare what arrived with what the ledgers say."""
    wrong = list(ended.troubles)
    mine = {
        run: [b for b in ended.batches if (b["install"], b["run"]) == run] for run in ended.ledgers
    }
    arrived = {run: sum(b["samples"] for b in batches) for run, batches in mine.items()}
    last: Run | None = None
    kept = 0
    for last, ledger in ended.ledgers.items():
        wrong += differences(ledger)
        rows = [row for name, row in ledger["uplink"].items() if name not in ended.elsewhere]
        clean = last in ended.clean
        kept = sum(row["kept"] if clean else row["spooled"] for row in rows)
        lost = sum(row["lost_disk"] + row["lost_end"] for row in rows) if clean else 0
        gone = sum(row["evicted"] + row["quarantined"] for row in rows)
        what = f"run {last[1]}: {kept:,} samples were {'kept' if clean else 'durable'}"
        # More than was known to be durable may arrive of a process that was killed.
        if arrived[last] < kept - lost - gone or (clean and arrived[last] > kept):
            wrong.append(f"{what}, {arrived[last]:,} are at the cloud")
        if lost or gone:
            wrong.append(f"{what}, of which {lost:,} were lost and {gone:,} given up, and counted")
    wrong += _of_the_end(ended, last)
    wrong += _gaps(ended)
    return Verdict(
        ledger=ended.ledgers[last] if last is not None else {},
        runs=len(ended.ledgers),
        frames=ended.frames,
        kept=kept,
        arrived=arrived[last] if last is not None else 0,
        samples=sum(arrived.values()),
        batches=sum(map(len, mine.values())),
        events=tuple(ended.events),
        updates=tuple(ended.updates),
        wrong=tuple(wrong),
    )


def _of_the_end(ended: Ended, last: Run | None) -> list[str]:
    if last is None:
        return ["the agent never said how it is"]
    wrong = []
    ledger = ended.ledgers[last]
    waiting = sum(
        row["waiting"] for name, row in ledger["uplink"].items() if name not in ended.elsewhere
    )
    if waiting:
        wrong.append(f"{waiting:,} samples still wait on board")
    received = sum(
        row["received"] for counts in ended.ledgers.values() for row in counts["bus"].values()
    )
    if ended.whole_bus and received != ended.frames:
        wrong.append(f"the vehicle sent {ended.frames:,} frames, {received:,} were read")
    return wrong


def _gaps(ended: Ended) -> list[str]:
    """What the cloud misses, by the chain of batches, of the processes of this bench."""
    if ended.completeness is None:
        return []  # nothing has come: the ledgers say whether anything should have
    return [
        f"the cloud: {gap['text']}"
        for run in ended.completeness["runs"]
        if (run["install"], run["run"]) in ended.ledgers
        for gap in run["gaps"]
        if gap["kind"] not in _EXPLAINED
    ]
