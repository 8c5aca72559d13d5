"""What follows from limits: what campaigns keep, what stays in memory, the file of the count."""

import asyncio
import datetime as dt
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.blocks import FrameBlock
from agent.clock import SECOND, Quality, WallNs
from agent.collect import Plan
from agent.decoding import DecodeThread
from agent.ledger import Ledger
from agent.observe.vitals import Vitals
from agent.pipeline import Pipeline, prepare
from agent.recent import RecentFrames
from agent.settings import Budget, Campaign, DatabaseOfBus, Device, Limits, Link
from agent.settings import Plan as PlanFile
from agent.signals import Database
from agent.spending import FILE, Spending
from agent.spool.filesystem import WRITTEN, RealFileSystem, Written
from agent.uplink.durable import replace_durably
from agent.uplink.meter import Meter
from tests.signals.dbctext import Msg, Sig, text
from tests.virtualtime import Time

MB = 1_000_000
MIB = 1 << 20
NOON = WallNs(round(dt.datetime(2031, 5, 10, 12, tzinfo=dt.UTC).timestamp()) * SECOND)


def plan_of(folder: Path, *budgets: Budget) -> Plan:
    path = folder / "car.dbc"
    path.write_text(text([Msg("Motor", 1, 8, [Sig("Speed", 0, 16)])]), "utf-8")
    written = PlanFile(
        version=1,
        name="test",
        database=[DatabaseOfBus(bus="*", files=["car.dbc"])],
        campaign=[Campaign(name="all", signals=["Motor.*"])],
        budget=list(budgets),
    )
    return Plan.build(written, Database.load([path]), ["cloud"])


class Car:
    """The limits of an agent at work; the kernel's word on memory is a file of the test."""

    def __init__(self, folder: Path, time: Time, *budgets: Budget, **limits: Any) -> None:
        self.folder = folder
        self.time = time
        self.resident(50)
        plan = plan_of(folder, *budgets)
        self.pipeline = Pipeline(prepare(plan, Ledger()), Ledger(), time, lambda _kept, _at: None)
        self.recent = RecentFrames()
        device = Device(
            vehicle="car-1",
            plan="plan.toml",
            state_dir=str(folder),
            limits=Limits(**{"memory_mb": 0, **limits}),
        )
        self.written = Written()
        self.meter = Meter(Link(metered="no"), folder, time)
        self.spending = Spending(
            device,
            plan,
            self.meter,
            time,
            pipeline=self.pipeline,
            decoder=DecodeThread(self.pipeline, switched=print, ended=lambda: None, failed=print),
            recent=self.recent,
            vitals=Vitals(folder, folder),
            written=self.written,
        )

    def resident(self, mib: int) -> None:
        statm = self.folder / "proc/self/statm"
        statm.parent.mkdir(parents=True, exist_ok=True)
        statm.write_text(f"999999 {mib * MIB // os.sysconf('SC_PAGE_SIZE')} 1 1 0 1 0\n")

    @property
    def level(self) -> int:
        return self.pipeline.collector.degradation.level

    def run(self, seconds: float) -> None:
        """Look twice a second, as the daemon does."""

        async def looks() -> None:
            tending = asyncio.create_task(self.spending.tend())
            for _ in range(round(2 * seconds)):
                await asyncio.sleep(0.5)
                self.spending.look()
            tending.cancel()
            await asyncio.gather(tending, return_exceptions=True)

        self.time.run(looks())


@pytest.fixture
def time() -> Iterator[Time]:
    with Time(NOON, Quality.NTP) as made:
        yield made


def block() -> FrameBlock:
    return FrameBlock.from_arrays(
        bus="can0", time=[1], id=[1], length=[8], data=np.zeros((1, 8), np.uint8)
    )


def kept(folder: Path) -> int:
    """What the file says was written this day."""
    return int(json.loads((folder / FILE).read_bytes())["day"]["spent_bytes"])


# -- bytes written ---------------------------------------------------------------------------------


def test_what_the_spool_and_small_files_write_is_counted(tmp_path: Path) -> None:
    before = WRITTEN.total
    fs = RealFileSystem()
    handle = fs.create(tmp_path / "batch")
    fs.write_at(handle, 0, bytes(12_345))
    fs.close(handle)
    replace_durably(tmp_path / "small", b"12345", 0o600)
    assert WRITTEN.total - before == 12_350


def test_bytes_of_a_day_bring_levels_without_any_budget(
    tmp_path: Path, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    car = Car(tmp_path, time, written_mb_day=10)
    car.run(1)
    assert car.level == 0
    with caplog.at_level(logging.WARNING):
        car.written.add(8 * MB)
        car.run(60)
    assert car.level == 2
    assert [record.message for record in caplog.records] == [
        "limit: written 8 MB of 10 MB today: one sample in 4 is kept"
    ]


def test_what_a_run_has_written_counts_in_the_next_one_from_its_begin(
    tmp_path: Path, time: Time
) -> None:
    car = Car(tmp_path, time, written_mb_day=10)
    car.written.add(10 * MB)
    car.spending.close()

    assert Car(tmp_path, time, written_mb_day=10).level == 5

    time.set_wall(WallNs(NOON + 12 * 3600 * SECOND))
    assert Car(tmp_path, time, written_mb_day=10).level == 0


def test_the_count_is_written_once_a_minute_and_only_where_it_changed(
    tmp_path: Path, time: Time
) -> None:
    car = Car(tmp_path, time, written_mb_day=10)
    seen = set()
    for _ in range(300):
        car.written.add(1000)
        car.run(1)
        seen.add((tmp_path / FILE).read_bytes() if (tmp_path / FILE).exists() else b"")
    assert 4 <= len(seen - {b""}) <= 5

    car.run(180)
    assert kept(tmp_path) == 300_000
    settled = (tmp_path / FILE).read_bytes()
    car.run(600)
    assert (tmp_path / FILE).read_bytes() == settled


def test_a_killed_run_forgets_a_minute_at_most(tmp_path: Path, time: Time) -> None:
    car = Car(tmp_path, time, written_mb_day=10)
    for _ in range(200):
        car.written.add(1000)
        car.run(1)
    assert 138_000 <= kept(tmp_path) < 200_000


def test_without_a_limit_of_it_no_count_is_written(tmp_path: Path, time: Time) -> None:
    car = Car(tmp_path, time, memory_mb=512)
    car.written.add(1000)
    car.run(180)
    car.spending.close()
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"day": 7}', b"\xff\x00"])
def test_a_spoiled_file_counts_as_nothing_written(
    tmp_path: Path, time: Time, content: bytes
) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert Car(tmp_path, time, written_mb_day=10).level == 0


def test_a_file_that_cannot_be_written_is_said_once(
    tmp_path: Path, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    car = Car(tmp_path, time, written_mb_day=10)
    (tmp_path / FILE).mkdir()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            car.written.add(1000)
            car.run(90)
    (line,) = (record.message for record in caplog.records)
    assert line.startswith(f"limit: {tmp_path / FILE}: cannot be written")


# -- memory ----------------------------------------------------------------------------------------


def test_while_memory_is_short_no_frames_are_kept_for_rehearsals(
    tmp_path: Path, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    car = Car(tmp_path, time, memory_mb=100)
    car.recent.add(block())
    car.run(20)
    assert len(car.recent.blocks()) == 1

    with caplog.at_level(logging.WARNING):
        car.resident(95)
        car.run(10)
        car.recent.add(block())
        assert (car.level, car.recent.blocks()) == (1, [])

        car.resident(50)
        car.run(60)
        car.recent.add(block())
        assert (car.level, len(car.recent.blocks())) == (0, 1)
    assert [record.message for record in caplog.records] == [
        "limit: memory 95 MB of 100 MB: one sample in 2 is kept",
        "limit: memory 50 MB of 100 MB: everything is kept",
    ]


# -- budgets beside limits, plan after plan --------------------------------------------------------


def test_the_higher_level_of_budget_and_limits_counts(tmp_path: Path, time: Time) -> None:
    car = Car(tmp_path, time, Budget(link="any", mb_per_day=1), memory_mb=100)
    car.resident(95)
    car.run(11)
    assert car.level == 1
    assert car.spending.limits()["degraded"] == "one sample in 2 is kept"

    time.run(car.meter.spend(880_000))
    car.run(1)

    assert car.level == 4
    assert car.spending.limits()["level"] == 1
    assert car.spending.limits()["degraded"] == "one sample in 8 is kept, and no raw frames"
    assert car.spending.status()["level"] == 4


def test_a_limit_holds_for_the_plan_that_follows_and_another_budget_does_not(
    tmp_path: Path, time: Time
) -> None:
    """Else a bundle with a budget of next to nothing would stop collecting after its end, too."""
    car = Car(tmp_path, time, Budget(link="any", mb_per_day=1), memory_mb=100)
    time.run(car.meter.spend(2 * MB))
    car.resident(95)
    car.run(11)
    assert car.level == 5
    without = plan_of(tmp_path)
    larger = plan_of(tmp_path, Budget(link="any", mb_per_day=1000))

    assert car.spending.ahead(car.pipeline.plan).level == 5
    assert car.spending.ahead(larger).level == 1
    assert car.spending.ahead(without).level == 1

    following = prepare(without, Ledger())
    following.collector.degradation = car.spending.ahead(without)
    car.pipeline.switch(following)
    car.run(1)
    assert car.level == 1  # also before anybody has said that it is at work
    car.spending.follow(without)
    car.run(1)
    assert car.level == 1
