"""A week without a link: within quota and memory all the time, and then it drains.

The clock is simulated, batches are packed and written as always: what comes in is bytes that cannot
be packed any smaller, so that a rate of samples is a rate of stored bytes.
"""

from pathlib import Path

import numpy as np
import pytest

from agent.batch import BatchReader
from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.spool.filesystem import RealFileSystem
from agent.spool.naming import order_of
from tests.spool.car import CLOUD, Car, Limits

WEEK_S = 7 * 86_400
_ROW = 500
NOISE = TableSchema("powertrain", "Noise", (SignalSchema("Noise", "bytes", 8 * _ROW),))


class _Quick(RealFileSystem):
    """The kernel's, without waiting for a disk: what is tested here is how much there is."""

    def sync(self, handle: int) -> None:
        pass

    def sync_folder(self, path: Path) -> None:
        pass


def _noise(bytes_: int) -> SignalTable:
    rows = bytes_ // _ROW
    payload = np.random.default_rng(1).integers(0, 256, (rows, _ROW), dtype=np.uint8)
    return SignalTable(NOISE, np.arange(rows, dtype=np.int64) * 1_000_000, {}, (payload,))


@pytest.mark.parametrize(
    ("rate", "quota_mb"),
    [(600, 16), pytest.param(50_000, 512, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_a_week_offline_stays_within_its_bounds_and_drains(
    tmp_path: Path, rate: int, quota_mb: int
) -> None:
    """`rate` bytes a second for seven days; one step is a minute, or 3 MB where that is longer."""
    step_s = max(60, min(900, 3_000_000 // rate))
    limits = Limits(quota_mb=quota_mb, seal_kib=1024, free_floor_mb=0)
    car = Car(tmp_path / "spool", [CLOUD], fs=_Quick(), limits=limits)
    table = _noise(rate * step_s)
    most = most_memory = 0
    for _ in range(WEEK_S // step_s):
        car.store.add({CLOUD: [table]})
        most_memory = max(most_memory, car.store.status()["memory_bytes"])
        car.later(step_s)
        most = max(most, car.store.outboxes["cloud"].waiting()[1])
    counts = car.counts()
    stored = counts["kept"] * _ROW
    assert stored == pytest.approx(rate * WEEK_S, rel=0.01)
    assert counts["lost_disk"] == counts["memory"] == 0
    assert quota_mb << 20 >= most > 0.9 * (quota_mb << 20)
    assert most_memory <= 8 << 20
    files = [p.stat().st_size for p in (tmp_path / "spool").rglob("*.batch")]
    assert sum(files) <= (quota_mb + 8) << 20

    car.store.seal_now()
    car.commit()
    waiting = car.parcels()
    assert waiting[0].batch_id == max((p.batch_id for p in waiting), key=order_of)
    stones = []
    drained = 0
    while parcel := car.store.outboxes["cloud"].next():
        reader = BatchReader(parcel.path)
        for kind, value in reader.records():
            drained += value.samples if kind == "samples" else 0
            stones += [value] if kind == "tombstone" else []
        car.acknowledge()
    car.check()
    counts = car.counts()
    assert counts["waiting"] == 0
    assert drained == counts["acknowledged"] == counts["spooled"] - counts["evicted"]
    told = sum(stone["samples"] for stone in stones)
    assert told == counts["evicted"]  # the whole week is accounted for
    print(
        f"{stored / 1e9:.2f} GB in a week, at most {most / 1e6:.0f} MB waited, "
        f"{most_memory / 1e6:.1f} MB in memory; {drained * _ROW / 1e6:.0f} MB arrived, "
        f"{len(stones)} tombstones name the rest"
    )
    car.end()
