"""A plan with a trigger at work on made-up frames: what tests of events begin with."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.blocks import Event, FrameBlock, Kept, KeptFrames, SignalTable
from agent.clock import BootNs
from agent.collect import Collector, Plan
from agent.ledger import Ledger, differences
from agent.memories import Memories
from agent.settings import Campaign, DatabaseOfBus, FramesOfBus, Trigger
from agent.settings import Plan as PlanFile
from agent.signals import Database, Decoder
from tests.signals.dbctext import Msg, Sig, text

MS = 1_000_000
S = 1_000_000_000
MOTOR = Msg("Motor", 1, 8, [Sig("Speed", 0, 16), Sig("Torque", 16, 16)])
PACK = Msg("Pack", 2, 8, [Sig("Temp", 0, 8), Sig("Volt", 8, 16)])

Row = tuple[int, int, bytes]
"""Time in ms, id, payload."""


def database_in(folder: Path) -> Database:
    """Of the two messages."""
    path = folder / "car.dbc"
    path.write_text(text([MOTOR, PACK]), "utf-8")
    return Database.load([path])


def plan_of(database: Database, *campaigns: Campaign) -> Plan:
    described = [DatabaseOfBus(bus="*", files=["car.dbc"])]
    written = PlanFile(version=1, name="test", database=described, campaign=list(campaigns))
    return Plan.build(written, database, ["cloud"])


def hot(*, frames: bool = False, **trigger: Any) -> Campaign:
    """Everything around the moments at which the pack gets hot."""
    return Campaign(
        name="hot",
        signals=["Motor.*", "Pack.*"],
        frames=[FramesOfBus(bus="*")] if frames else [],
        trigger=Trigger(**{"when": "Temp > 100", **trigger}),
    )


def block_of(rows: Sequence[Row]) -> FrameBlock:
    return FrameBlock.from_arrays(
        bus="can0",
        time=[t * MS for t, _, _ in rows],
        id=[i for _, i, _ in rows],
        length=[8] * len(rows),
        data=np.frombuffer(b"".join(p.ljust(8, b"\0") for *_, p in rows), np.uint8).reshape(-1, 8),
    )


def pack(t: int, temp: int) -> Row:
    return (t, 2, bytes([temp, t & 0xFF, t >> 8 & 0xFF]))


def motor(t: int) -> Row:
    return (t, 1, (t & 0xFFFF).to_bytes(2, "little"))


class Run:
    """A plan at work, on one ledger."""

    def __init__(self, plan: Plan, folder: Path | None = None) -> None:
        self.ledger = Ledger()
        self.plan = plan
        self.kept: list[Kept] = []
        self.folder = folder
        self._begin()

    def _begin(self) -> None:
        self.collector = Collector(self.plan, self.ledger, boot_id="boot-1")
        self.decoder = Decoder.of_paths(self.plan.database, self.plan.wanted)

    def feed(self, rows: Sequence[Row]) -> None:
        if rows:
            block = block_of(rows)
            kept = self.collector.offer(self.decoder.decode(block), block=block)
            self.kept += [each for rows in kept.values() for each in rows]
        assert differences(self.ledger.snapshot()) == []

    def restart(self, now_ms: int) -> None:
        """The process ends in order, and another one begins."""
        assert self.folder is not None
        self.kept += [each for rows in self.collector.suspend().values() for each in rows]
        memories = Memories(self.folder, "boot-1")
        memories.write(self.collector)
        self.ledger = Ledger()
        self._begin()
        memories.read(self.collector, BootNs(now_ms * MS))

    def finish(self) -> "Run":
        self.kept += [each for rows in self.collector.finish().values() for each in rows]
        assert differences(self.ledger.snapshot()) == []
        return self

    @property
    def rows(self) -> list[tuple[int, str]]:
        """(time in ms, message) of all rows of tables."""
        return sorted(
            (t // MS, table.message)
            for table in self.kept
            if isinstance(table, SignalTable)
            for t in table.time.tolist()
        )

    @property
    def frames(self) -> list[int]:
        """Times of raw frames, ms."""
        blocks = (each.block for each in self.kept if isinstance(each, KeptFrames))
        return sorted(t // MS for block in blocks for t in block.time.tolist())

    @property
    def events(self) -> list[dict[str, Any]]:
        """The last word on each event, in their order."""
        found = {e.value["id"]: e.value for e in self.kept if isinstance(e, Event)}
        return sorted(found.values(), key=lambda value: value["time"])
