"""A spool with time that stands still until a test moves it, and samples that tell who they are.

Every sample has a serial number of its own as its value, so that a test can say which arrived, and
whether twice. In the lane `raw` they are raw frames, and the number is what they carry.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.batch import BatchReader, read_batch, read_frames
from agent.blocks import FrameBlock, KeptFrames, SignalSchema, SignalTable, TableSchema
from agent.clock import SECOND, BootNs, Quality, WallNs
from agent.ledger import Ledger, differences
from agent.settings import Batch, Spool
from agent.spool.filesystem import FileSystem
from agent.spool.folder import Positions
from agent.spool.outbox import Parcel
from agent.spool.store import SpoolStore, StreamKey

BOTH = StreamKey("telemetry", ("cloud", "depot"))
CLOUD = StreamKey("telemetry", ("cloud",))
EVENT = StreamKey("event", ("cloud",))
RAW = StreamKey("raw", ("cloud",))

SERIALS = TableSchema("powertrain", "Serials", (SignalSchema("Serial", "uint64", 48),))


def serials(numbers: Iterable[int], schema: TableSchema = SERIALS) -> SignalTable:
    """A table whose values are these, one a row."""
    values = np.array([list(numbers)], np.uint64)
    return SignalTable(schema, values[0].astype(np.int64) * 1_000_000, {"uint64": values})


def frames(numbers: Iterable[int]) -> KeptFrames:
    """Frames that carry these numbers, one each."""
    values = np.array(list(numbers), "<u8")
    n = len(values)
    block = FrameBlock.from_arrays(
        bus="powertrain",
        time=values.astype(np.int64) * 1_000_000,
        id=np.full(n, 0x123),
        length=np.full(n, 8),
        data=values.view(np.uint8).reshape(n, 8),
    )
    return KeptFrames(block, "raw")


def numbers_of(kept: KeptFrames) -> list[int]:
    """What frames carry."""
    numbers: list[int] = kept.block.data.copy().view("<u8")[:, 0].tolist()
    return numbers


class StillClock:
    boot_id = "boot-1"

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.known = Quality.NTP

    def boot(self) -> BootNs:
        return BootNs(round(self.now_s * SECOND))

    def wall(self) -> WallNs:
        return WallNs(self.boot() + 1_700_000_000 * SECOND)

    def quality(self) -> Quality:
        return self.known


@dataclasses.dataclass
class Limits:
    quota_mb: int = 512
    free_floor_mb: int = 64
    memory_mb: int = 32
    seal_after_s: float = 60.0
    seal_kib: int = 16
    max_age_days: float = 0.0
    keep_sent_hours: float = 0.0


class Car:
    """One run of a spool, without its thread."""

    def __init__(
        self,
        root: Path,
        keys: Sequence[StreamKey] = (BOTH,),
        *,
        fs: FileSystem | None = None,
        limits: Limits | None = None,
        clock: StillClock | None = None,
        uplinks: Sequence[str] = ("cloud", "depot"),
        shares: Mapping[str, float] | None = None,
    ) -> None:
        limits = limits or Limits()
        self.clock = clock or StillClock()
        self.ledger = Ledger()
        self.store = SpoolStore(
            root,
            vehicle="car-1",
            uplinks=uplinks,
            spool=Spool(
                quota_mb=limits.quota_mb,
                free_floor_mb=limits.free_floor_mb,
                memory_mb=limits.memory_mb,
                max_age_days=limits.max_age_days,
                keep_sent_hours=limits.keep_sent_hours,
            ),
            batch=Batch(seal_after_s=limits.seal_after_s, seal_kib=limits.seal_kib),
            ledger=self.ledger,
            clock=self.clock,
            shares=shares,
            fs=fs,
        )
        self.store.start(keys, {"": {"plan": "test"}}, thread=False)

    def add(
        self, key: StreamKey, numbers: Iterable[int], positions: Positions | None = None
    ) -> None:
        make = frames if key.lane == "raw" else serials
        self.store.add({key: [make(numbers)]}, positions)

    def commit(self) -> None:
        self.store.commit()
        self.check()

    def later(self, seconds: float) -> None:
        """Let time pass, and a round of the spool thread happen."""
        self.clock.now_s += seconds
        self.commit()

    def check(self) -> None:
        """The ledger closes, and says what lies there."""
        assert differences(self.ledger.snapshot()) == []

    def counts(self, uplink: str = "cloud") -> dict[str, int]:
        return self.ledger.snapshot()["uplink"][uplink]

    def parcels(self, uplink: str = "cloud") -> list[Parcel]:
        """What waits, in the order in which it would be sent."""
        outbox, found = self.store.outboxes[uplink], list[Parcel]()
        while parcel := outbox.next(frozenset(p.batch_id for p in found)):
            found.append(parcel)
        return found

    def acknowledge(self, uplink: str = "cloud") -> Parcel:
        """As the sender does it."""
        parcel = self.store.outboxes[uplink].next()
        assert parcel is not None
        if self.store.outboxes[uplink].acknowledge(parcel):
            n = parcel.samples
            self.ledger.add("uplink", uplink, waiting=-n, acknowledged=n)
        return parcel

    def end(self) -> None:
        self.store.stop()
        self.check()
        self.store.close()


def content(path: Path) -> Counter[int]:
    """The serial numbers in a batch that a receiver would take."""
    reader = BatchReader(path)
    scan = reader.scan()
    found = Counter(v for table in read_batch(path) for v in table.raw["Serial"].tolist())
    for kept in read_frames(path):
        found.update(numbers_of(kept))
    assert scan.whole
    assert scan.samples == found.total()
    return found


def contents(parcels: Iterable[Parcel]) -> Counter[int]:
    return sum((content(p.path) for p in parcels), Counter[int]())


def records(path: Path, kind: str) -> list[Any]:
    return [value for k, value in BatchReader(path).records() if k == kind]


def run_and_identity(path: Path) -> tuple[str, int]:
    """Install id and run of a batch, by its name."""
    install, run, _, _ = path.name.removesuffix(".batch").split("-")
    return install, int(run)
