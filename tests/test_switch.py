"""A plan in place of another while frames come: nothing that both want is lost or doubled."""

import contextlib
import itertools
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from agent.blocks import Event, FrameBlock, Kept, SignalTable
from agent.clock import BootNs, SystemClock
from agent.collect import Plan
from agent.collect.collector import Destination
from agent.decoding import DecodeThread
from agent.ledger import Ledger, differences
from agent.pipeline import Pipeline, Prepared, prepare
from agent.settings import Campaign, DatabaseOfBus, PolicyOfSignals, Trigger
from agent.settings import Plan as PlanFile
from agent.signals import Database
from agent.spool.positions import Positions
from tests.signals.dbctext import Msg, Sig, text

MS = 1_000_000
WAIT_S = 30.0
BLOCKS = 400
ROWS = 250
"""Frames of a block, one in a millisecond; a borders lies within everything that has a state."""

MOTOR = Msg("Motor", 1, 8, [Sig("Speed", 0, 16), Sig("Torque", 16, 16)])
PACK = Msg("Pack", 2, 8, [Sig("Temp", 0, 8), Sig("Volt", 8, 16)])

STAYS = [
    Campaign(name="whole", signals=["Motor.Speed"]),
    Campaign(name="rate", signals=["Motor.Torque"], every_ms=333),
    Campaign(name="door", signals=["Pack.Volt"], swinging_door=0.5),
    Campaign(
        name="window",
        signals=["Pack.Temp"],
        window_ms=777,
        policy=[PolicyOfSignals(signals=["Temp"], window_ms=1111, aggregates=["mean", "count"])],
    ),
    Campaign(
        name="hot",
        signals=["Motor.*", "Pack.*"],
        trigger=Trigger(when="Temp > 200 for 20 ms", pre_s=0.4, post_s=0.4),
    ),
]
COMES_AND_GOES = {
    "a": [Campaign(name="only-a", signals=["Pack.*"], every_ms=50)],
    "b": [
        Campaign(name="only-b", signals=["Motor.*"], on_change=True),
        Campaign(name="late", signals=["Pack.Volt"], trigger=Trigger(when="Temp < 3", pre_s=1)),
    ],
}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    path = tmp_path_factory.mktemp("switch") / "car.dbc"
    path.write_text(text([MOTOR, PACK]), "utf-8")
    return Database.load([path])


def plan_of(database: Database, name: str) -> Plan:
    described = [DatabaseOfBus(bus="*", files=["car.dbc"])]
    campaigns = [*STAYS, *COMES_AND_GOES[name]]
    written = PlanFile(version=1, name=name, database=described, campaign=campaigns)
    return Plan.build(written, database, ["cloud"])


def block_of(number: int) -> FrameBlock:
    n = np.arange(number * ROWS, (number + 1) * ROWS)
    data = np.zeros((ROWS, 8), np.uint8)
    data[:, 0] = n // 7 % 251
    data[:, 1] = n % 256
    data[:, 2] = n // 256 % 256
    return FrameBlock.from_arrays(
        bus="can0", time=n * MS, id=n % 2 + 1, length=np.full(ROWS, 8), data=data
    )


class BeforeAll(SystemClock):
    """Never later than the frames: no bus counts as silent."""

    def boot(self) -> BootNs:
        return BootNs(0)


class Store:
    def __init__(self) -> None:
        self.kept: list[Kept] = []

    def keep(self, kept: Mapping[Destination, Sequence[Kept]], at: Positions | None) -> None:
        del at
        self.kept += [each for rows in kept.values() for each in rows]

    def of(self, campaign: str) -> list[tuple[Any, ...]]:
        """Every sample of a campaign, in the order of time."""
        return sorted(
            (moment, table.message, name, value)
            for table in self.kept
            if isinstance(table, SignalTable) and table.campaign == campaign
            for name in table.names
            for moment, value in zip(table.time.tolist(), table.raw[name].tolist(), strict=True)
        )

    def events(self, campaign: str) -> list[tuple[int, bool]]:
        values = [e.value for e in self.kept if isinstance(e, Event)]
        return [(v["time"], v["complete"]) for v in values if v["campaign"] == campaign]


def prepared_of(plan: Plan, ledger: Ledger) -> Prepared:
    return prepare(plan, ledger, boot_id="boot-1")


def drive(database: Database, switches: int) -> tuple[Store, Ledger, list[str]]:
    """All blocks through a decode thread while plans follow each other as fast as they can."""
    store, ledger = Store(), Ledger()
    failed: list[str] = []
    pipeline = Pipeline(
        prepared_of(plan_of(database, "a"), ledger), ledger, BeforeAll(), store.keep
    )
    thread = DecodeThread(
        pipeline,
        switched=lambda _prepared: None,
        ended=pipeline.finish,
        failed=failed.append,
    )

    def feed() -> None:
        for number in range(BLOCKS):
            ledger.add("bus", "can0", received=ROWS, read=ROWS, queued=ROWS)
            thread.put((block_of(number), None, frozenset()))
        thread.end()

    feeder = threading.Thread(target=feed)
    thread.start()
    feeder.start()
    done = []
    for name in itertools.islice(itertools.cycle("ba"), switches):
        if not thread.alive:
            break
        following = thread.switch(prepared_of(plan_of(database, name), ledger))
        with contextlib.suppress(TimeoutError):
            following.result(WAIT_S if thread.alive else 0)
            done.append(name)
    feeder.join(WAIT_S)
    thread.join(WAIT_S)
    assert not thread.alive
    assert failed == []
    return store, ledger, done


def test_what_both_plans_want_is_neither_lost_nor_doubled(database: Database) -> None:
    undisturbed, _, _ = drive(database, 0)

    store, ledger, switched = drive(database, 12)

    assert len(switched) > 2
    for campaign in STAYS:
        assert store.of(campaign.name) == undisturbed.of(campaign.name), campaign.name
    assert store.events("hot") == undisturbed.events("hot")
    assert len(store.of("whole")) == BLOCKS * ROWS // 2
    assert differences(ledger.snapshot()) == []
    row = ledger.snapshot()["bus"]["can0"]
    assert row["queued"] == 0


def test_what_only_the_old_plan_wanted_ends_counted(database: Database) -> None:
    _, ledger, _ = drive(database, 1)
    counts = ledger.snapshot()["campaign"]
    assert counts["only-a"]["held"] == 0
    assert counts["only-a"]["offered"] == counts["only-a"]["kept"] + counts["only-a"]["thinned"]
