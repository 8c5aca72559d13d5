"""Two clouds share the load of 200 vehicles through one broker."""

import asyncio
import resource
import time
from collections import Counter
from pathlib import Path

import pytest

from agent.bench.fleet import Fleet
from tests import processes
from tests.system.broker import Mosquitto, mosquitto
from tests.system.mqttworld import check_end, end_well, stored_samples, to

pytestmark = pytest.mark.system

VEHICLES = 200
INTERVAL_S = 10.0
DRIVE_S = 30.0


async def taken(stdout: asyncio.StreamReader) -> Counter[str]:
    """What a cloud says it took, by vehicle."""
    found: Counter[str] = Counter()
    while line := await stdout.readline():
        if line.startswith(b"van-"):
            found[line.split()[0].decode()] += 1
    return found


def test_two_clouds_share_two_hundred_vehicles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def main(broker: Mosquitto) -> str:
        await broker.start()
        words = ("cloud", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "data"), "--shared")
        clouds = [
            await processes.start(
                *words, "--mqtt", broker.url, "--verbose", log=tmp_path / "cloud.log"
            )
            for _ in range(2)
        ]
        for process in clouds:
            assert process.stdout is not None
            while not (await process.stdout.readline()).startswith(b"subscribed"):
                pass
        told = [asyncio.create_task(taken(p.stdout)) for p in clouds if p.stdout]
        fleet = Fleet(
            tmp_path / "fleet",
            VEHICLES,
            to(broker.url, stall_timeout_s=30.0),
            interval_s=INTERVAL_S,
        )
        began, cpu = time.monotonic(), time.process_time()
        async with fleet.sending():
            await fleet.drive(DRIVE_S)
            await end_well(fleet, tmp_path)
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        assert [await processes.stop(process) for process in clouds] == [0, 0]
        shares = await asyncio.gather(*told)
        check_end(fleet, tmp_path)
        stored = stored_samples(tmp_path)
        # Nothing twice: what the two have taken are all batches that there are, each once.
        assert sum(share.total() for share in shares) == len(stored) == fleet.counts["batches"]
        assert all(share.total() >= len(stored) / 4 for share in shares)
        assert len(shares[0] + shares[1]) == VEHICLES
        retries = sum(v.sender.state["retries"] for v in fleet.vehicles)
        fleet.close()
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (
            f"{VEHICLES} vehicles, {len(stored)} batches, {fleet.counts['bytes']:,} bytes, "
            f"{stored.total():,} samples in {seconds:.1f} s; shares "
            f"{' and '.join(str(s.total()) for s in shares)}, {retries} sent again; a vehicle was "
            f"late by {fleet.late_s:.2f} s at the most; CPU: vehicles {cpu:.1f} s, clouds "
            f"{children.ru_utime + children.ru_stime:.1f} s"
        )

    with mosquitto(tmp_path / "broker") as broker:
        figures = asyncio.run(main(broker))
    with capsys.disabled():
        print(f"\n{figures}")
