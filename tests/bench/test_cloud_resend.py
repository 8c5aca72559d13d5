"""A cloud that has lost a batch asks for it with the next answer."""

import time
from pathlib import Path

from agent.bench.cloud.store import Store
from agent.bench.cloud.wanted import wanted
from tests.bench.cloudbench import INSTALL, VEHICLE, Answer, Batch, Client, Drive, cloud


def asked(client: Client, drive: Drive) -> tuple[Batch, str]:
    """Send until the cloud asks for something: it looks for gaps beside the answers."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        batch = drive.batch()
        answer: Answer = client.put(batch)
        assert answer.status == 201
        if ranges := answer.headers.get("Edge-Agent-Resend"):
            return batch, ranges
    raise AssertionError


def test_what_was_lost_is_asked_for_until_it_is_there(tmp_path: Path) -> None:
    drive = Drive()
    batches = [drive.batch() for _ in range(6)]
    with cloud(Store(tmp_path)) as client:
        for batch in batches:
            assert "Edge-Agent-Resend" not in client.put(batch).headers
    for batch in batches[2:4]:
        (lost,) = tmp_path.rglob(f"{batch.batch_id}.batch")
        lost.unlink()
    with cloud(Store(tmp_path), look_for_gaps_s=0.0) as client:
        _, ranges = asked(client, drive)
        begin = f"{INSTALL}-1-telemetry-"
        assert ranges == f"{begin}3..{begin}4"
        for batch in batches[2:4]:
            assert client.put(batch).status == 201
        whole = client.get(f"/v1/vehicles/{VEHICLE}/completeness")
        assert wanted(whole) == ""
        assert whole["missing_samples"] == 0


def test_a_gap_that_the_vehicle_explains_is_not_asked_for(tmp_path: Path) -> None:
    drive = Drive()
    first, gone = drive.batch(), drive.batch()
    last = drive.batch(tombstones=[gone.tombstone()])
    with cloud(Store(tmp_path)) as client:
        for batch in (first, last):
            client.put(batch)
        assert wanted(client.get(f"/v1/vehicles/{VEHICLE}/completeness")) == ""


def test_at_most_eight_ranges_and_the_newest_first() -> None:
    gaps = [{"kind": "missing", "lane": "raw", "sequences": [[n, n]]} for n in range(20)]
    runs = [{"install": "ab", "run": run, "gaps": gaps[run::10]} for run in range(1, 9)]
    ranges = wanted({"runs": runs}).split(", ")
    assert len(ranges) == 8
    assert ranges[0].startswith("ab-8-raw-")
