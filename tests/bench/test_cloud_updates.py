"""What the cloud says of configuration over the air: which bundle runs where, and what became."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.batch import BatchWriter
from agent.bench.cloud.store import Store
from agent.blocks import Event
from agent.clock import SECOND
from tests.bench.cloudbench import ANCHOR, BOOT_ID, INSTALL, VEHICLE, WALL, Batch, Client, cloud

UPDATES = f"/v1/vehicles/{VEHICLE}/updates"


def report(number: int, what: str, **more: Any) -> Event:
    """As the agent tells one, `number` seconds after its boot."""
    value: dict[str, Any] = {"kind": "update", "id": f"update-{number}", "name": "update"}
    value |= {"campaign": "", "clock": "boot", "complete": True}
    value |= {"what": what, "bundle": "ev 3", "why": ""}
    return Event({**value, "time": number * SECOND, **more})


def batch(
    folder: Path, sequence: int, events: Sequence[Event] = (), *, lane: str = "report", **more: Any
) -> Batch:
    batch_id = f"{INSTALL}-1-{lane}-{sequence}"
    path = folder / f"{batch_id}.one"
    header: dict[str, Any] = {"stream": lane, "previous": sequence - 1, "uplinks": ["cloud"]}
    header |= {"boot_id": BOOT_ID, "anchors": [ANCHOR], "created": {"boot": sequence}}
    with BatchWriter(path, batch_id=batch_id, vehicle=VEHICLE, **{**header, **more}) as writer:
        for event in events:
            writer.add(event)
    return Batch(batch_id, path.read_bytes(), 0)


def put(client: Client, *batches: Batch) -> None:
    for each in batches:
        assert client.put(each).status == 201


def test_reports_are_listed_each_once_the_newest_first(tmp_path: Path) -> None:
    first = [report(10, "accepted"), report(11, "applied")]
    # What was told and not yet known to be durable is told again.
    second = [report(11, "applied"), report(20, "rolled back", why="nothing was decoded")]
    with cloud(Store(tmp_path / "data")) as client:
        put(client, batch(tmp_path, 2, second), batch(tmp_path, 1, first))
        updates = client.get(UPDATES)["updates"]
    assert [u["what"] for u in updates] == ["rolled back", "applied", "accepted"]
    assert updates[0] == {
        "batch_id": f"{INSTALL}-1-report-2",
        "time_ns": WALL + 20 * SECOND,
        "clock": "wall",
        "time": "2023-11-14T22:13:40.000Z",
        "id": "update-20",
        "what": "rolled back",
        "bundle": "ev 3",
        "why": "nothing was decoded",
    }


def test_a_report_that_was_told_late_has_the_time_at_which_it_was_made(tmp_path: Path) -> None:
    late = report(500, "committed", wall=WALL + 5 * SECOND)
    unknown = report(501, "accepted", wall=0)
    with cloud(Store(tmp_path / "data")) as client:
        put(client, batch(tmp_path, 1, [late, unknown]))
        accepted, committed = client.get(UPDATES)["updates"]
    assert committed["time"] == "2023-11-14T22:13:25.000Z"
    assert accepted["time_ns"] == WALL + 501 * SECOND


def test_a_report_of_an_undated_boot_has_no_time_of_day(tmp_path: Path) -> None:
    with cloud(Store(tmp_path / "data")) as client:
        put(client, batch(tmp_path, 1, [report(7, "refused", why="too new")], anchors=[]))
        (update,) = client.get(UPDATES)["updates"]
    assert (update["clock"], update["time"], update["why"]) == ("boot", None, "too new")


def test_a_campaign_that_is_called_update_is_no_report(tmp_path: Path) -> None:
    with cloud(Store(tmp_path / "data")) as client:
        put(client, batch(tmp_path, 1, [report(1, "hot", kind="trigger", campaign="update")]))
        assert client.get(UPDATES)["updates"] == []
        assert len(client.get(f"/v1/vehicles/{VEHICLE}/events")["events"]) == 1


def test_reports_from_outside_cannot_hurt(tmp_path: Path) -> None:
    deep: Any = "<script>"
    for _ in range(200):
        deep = [deep]
    hostile = [
        Event({"name": "update"}),
        Event({"name": "update", "time": "noon", "clock": "boot"}),
        report(1, "<script>", bundle="<script>", why="<script>" * 10_000),
        report(2, deep, bundle=deep, why=None, wall="noon"),
        report(3, "accepted", wall=(1 << 63) - 1),
        report(4, "accepted", wall=1 << 63),
        report(5, "accepted", wall=True, id=5),
        Event({"name": "update", "time": 6, "clock": "recorded"}),
    ]
    header: dict[str, Any] = {"bundle": "<script>" * 1000, "plan": "<script>"}
    header |= {"created": {"boot": "never"}}
    with cloud(Store(tmp_path / "data")) as client:
        put(client, batch(tmp_path, 1, hostile, **header))
        put(client, batch(tmp_path, 2, bundle=deep, plan=7, created=deep))
        updates = client.get(UPDATES)["updates"]
    assert len(updates) == 6
    assert all(isinstance(u[key], str) for u in updates for key in ("what", "bundle", "why"))
    assert max(len(u["why"]) for u in updates) == 1000


def test_many_other_events_do_not_push_reports_out(tmp_path: Path) -> None:
    others = [report(n, "", name="hot", campaign="hot") for n in range(10, 3000)]
    with cloud(Store(tmp_path / "data")) as client:
        put(client, batch(tmp_path, 1, [report(1, "committed"), *others]))
        assert [u["what"] for u in client.get(UPDATES)["updates"]] == ["committed"]


def test_the_newest_batch_on_board_says_which_plan_and_bundle_a_vehicle_runs(
    tmp_path: Path,
) -> None:
    factory = batch(tmp_path, 1, plan="ev", lane="telemetry")
    newer = batch(tmp_path, 2, plan="ev-more", bundle="ev 3")
    older = batch(tmp_path, 2, plan="ev", lane="telemetry", created={"boot": 1})
    with cloud(Store(tmp_path / "data")) as client:
        put(client, factory)
        row = client.get(f"/v1/vehicles/{VEHICLE}")
        assert (row["plan"], row["bundle"]) == ("ev", None)
        put(client, newer, older)  # of two lanes the one that was begun last counts
        row = client.get(f"/v1/vehicles/{VEHICLE}")
        assert (row["plan"], row["bundle"]) == ("ev-more", "ev 3")
        (line,) = client.get("/v1/vehicles")["vehicles"]
        assert line.items() <= row.items()
        batches = client.get(f"/v1/vehicles/{VEHICLE}/batches")["batches"]
    assert [b["bundle"] for b in batches] == [None, "ev 3", None]


@pytest.mark.parametrize("what", ["updates", "events"])
def test_of_an_unknown_vehicle_nothing_is_said(tmp_path: Path, what: str) -> None:
    with cloud(Store(tmp_path / "data")) as client:
        assert client.ask("GET", f"/v1/vehicles/nobody/{what}").status == 404
