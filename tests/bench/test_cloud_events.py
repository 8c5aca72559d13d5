"""What the cloud says of raw frames and of events."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.batch import BatchWriter
from agent.batch.format import Record
from agent.bench.cloud.store import Store
from agent.blocks import Event, FrameBlock, Kept, KeptFrames, Reports
from agent.clock import SECOND
from tests.bench.cloudbench import ANCHOR, BOOT_ID, INSTALL, VEHICLE, WALL, Batch, cloud, table


def _told(name: str, second: int, **more: Any) -> Event:
    value = {"kind": "trigger", "name": name, "id": f"{name}-{second}", "campaign": "hot"}
    return Event({**value, "time": second * SECOND, "clock": "boot", "complete": True, **more})


def _of_events(
    folder: Path, sequence: int, kept: Sequence[Kept], *, before: Mapping[str, int] | None = None
) -> Batch:
    """A batch of the lane `event`; `before` is what its stream had when it was begun."""
    batch_id = f"{INSTALL}-1-event-{sequence}"
    path = folder / f"{batch_id}.one"
    header: dict[str, Any] = {"stream": "events", "previous": sequence - 1, "uplinks": ["cloud"]}
    header |= {"boot_id": BOOT_ID, "anchors": [ANCHOR]}
    with BatchWriter(path, batch_id=batch_id, vehicle=VEHICLE, **header) as writer:
        if before is not None:
            writer.record(Record.LEDGER, {"at": "open", "boot": 0, "stream": dict(before)})
        for each in kept:
            writer.add(each)
    return Batch(batch_id, path.read_bytes(), 0)


def _frames(n: int) -> KeptFrames:
    data = np.zeros((n, 8), np.uint8)
    time = 5 * SECOND + np.arange(n) * 1_000_000
    block = FrameBlock.from_arrays(
        bus="powertrain", time=time, id=np.full(n, 1), length=np.full(n, 8), data=data
    )
    return KeptFrames(block, "raw")


def test_raw_frames_count_as_samples(tmp_path: Path) -> None:
    with cloud(Store(tmp_path / "data")) as client:
        client.put(_of_events(tmp_path, 1, [_frames(7), table(1, 5)], before={"samples": 0}))
        client.put(_of_events(tmp_path, 2, [_frames(3)], before={"samples": 17}))
        row = client.get(f"/v1/vehicles/{VEHICLE}")
        assert (row["samples"], row["frames"], row["complete"]) == (20, 10, True)
        batches = client.get(f"/v1/vehicles/{VEHICLE}/batches")["batches"]
        assert [(b["samples"], b["frames"], b["lost_samples"]) for b in batches] == [
            (17, 7, 0),
            (3, 3, 0),
        ]
        assert batches[1]["first"]["time_ns"] == WALL + 5 * SECOND


def test_reports_count_as_samples(tmp_path: Path) -> None:
    """They are no business of this cloud, but a lane with them has no gap."""
    times = np.array([5, 6, 7]) * SECOND
    reports = Reports("gbt32960-2016", times, (b"a", b"b", b"c"))
    with cloud(Store(tmp_path / "data")) as client:
        client.put(_of_events(tmp_path, 1, [reports, table(1, 5)], before={"samples": 0}))
        client.put(_of_events(tmp_path, 2, [_frames(3)], before={"samples": 13}))
        row = client.get(f"/v1/vehicles/{VEHICLE}")
        assert (row["samples"], row["frames"], row["complete"]) == (16, 3, True)
        first, _ = client.get(f"/v1/vehicles/{VEHICLE}/batches")["batches"]
        assert (first["samples"], first["lost_samples"]) == (13, 0)


def test_events_are_told_once_the_newest_first(tmp_path: Path) -> None:
    first = _of_events(tmp_path, 1, [_told("hot", 10, complete=False), _told("cold", 11)])
    second = _of_events(tmp_path, 2, [_told("hot", 10, values={"Speed": math.nan, "Raw": b"\1"})])
    with cloud(Store(tmp_path / "data")) as client:
        for batch in (second, first):  # whatever the order in which they come
            assert client.put(batch).status == 201
        hot, cold = client.get(f"/v1/vehicles/{VEHICLE}/events")["events"][::-1]
        assert client.get(f"/v1/vehicles/{VEHICLE}")["events"] == 3
    assert (cold["event"]["name"], cold["time"]) == ("cold", "2023-11-14T22:13:31.000Z")
    assert (hot["batch_id"], hot["clock"]) == (second.batch_id, "wall")
    assert hot["event"]["complete"] is True
    assert hot["event"]["values"] == {"Speed": "nan", "Raw": "01"}


def test_events_from_outside_cannot_hurt(tmp_path: Path) -> None:
    deep: Any = "<script>"
    for _ in range(200):
        deep = [deep]
    hostile = [
        Event({}),
        Event({"time": "noon", "clock": "boot"}),
        _told("deep", 1, expression="<script>", values=deep, missing={"a": deep}, last="never"),
        _told("odd", 2, values={"1": {"2": "<script>"}}, complete="yes", first=None),
    ]
    with cloud(Store(tmp_path / "data")) as client:
        assert client.put(_of_events(tmp_path, 1, hostile)).status == 201
        events = client.get(f"/v1/vehicles/{VEHICLE}/events")["events"]
        assert [e["event"]["name"] for e in events] == ["odd", "deep"]
        assert client.get(f"/v1/vehicles/{VEHICLE}")["unreadable"] == {}


def test_a_missing_batch_that_told_events_is_a_gap(tmp_path: Path) -> None:
    with cloud(Store(tmp_path / "data")) as client:
        client.put(_of_events(tmp_path, 1, [_told("a", 1)], before={"samples": 0}))
        client.put(_of_events(tmp_path, 3, [_told("c", 3)], before={"samples": 0, "events": 3}))
        whole = client.get(f"/v1/vehicles/{VEHICLE}/completeness")
        assert not whole["complete"]
        assert (
            "batch 2 of lane event with 0 samples and 2 event records missing" in whole["verdict"]
        )
        client.put(_of_events(tmp_path, 2, [_told("b", 2)] * 2, before={"samples": 0, "events": 1}))
        assert client.get(f"/v1/vehicles/{VEHICLE}/completeness")["complete"]
