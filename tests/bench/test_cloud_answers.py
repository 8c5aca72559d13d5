"""What the cloud says of the data it has: complete or not and why, the latest values, samples."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.batch import BatchWriter
from agent.bench.cloud.queries import Catalogue
from agent.bench.cloud.store import Store
from agent.clock import SECOND
from tests.bench.cloudbench import (
    ANCHOR,
    BOOT_ID,
    INSTALL,
    VEHICLE,
    WALL,
    Batch,
    Client,
    Drive,
    cloud,
    table,
)


def _received(folder: Path, batches: Sequence[Batch]) -> Catalogue:
    """A catalogue of a cloud that got these batches in this order."""
    store = Store(folder)
    for batch in batches:
        _store(store, batch)
    store.close()
    return Catalogue(store)


def _store(store: Store, batch: Batch) -> None:
    upload = store.upload(batch.vehicle, batch.batch_id)
    upload.write(batch.data)
    store.commit(upload, upload.digest)
    upload.close()


def _only_run(catalogue: Catalogue) -> dict[str, Any]:
    (run,) = catalogue.completeness(VEHICLE)["runs"]
    return dict(run)


def test_a_run_of_which_all_is_here_is_complete(tmp_path: Path) -> None:
    drive = Drive()
    catalogue = _received(tmp_path, [drive.batch(), drive.batch(), drive.batch(final=True)])
    whole = catalogue.completeness(VEHICLE)
    (run,) = whole["runs"]
    assert whole["complete"]
    assert run["end"] == "clean"
    assert run["gaps"] == []
    assert run["samples"] == drive.samples
    assert run["streams"][0]["present"] == [[1, 3]]
    assert run["uplinks"][0]["kept"] == run["uplinks"][0]["received"] == drive.samples
    assert (
        "complete: 3 batches with 30 samples are here, and the run ended cleanly"
        in (run["verdict"])
    )


def test_a_missing_batch_is_named_with_its_samples_and_its_hour(tmp_path: Path) -> None:
    drive = Drive()
    first, missing, last = drive.batch(), drive.batch(7), drive.batch(final=True)
    run = _only_run(_received(tmp_path, [first, last]))
    (gap,) = run["gaps"]
    assert not run["complete"]
    assert gap["kind"] == "missing"
    assert gap["sequences"] == [[2, 2]] == run["streams"][0]["missing"]
    assert gap["samples"] == missing.samples == run["missing_samples"]
    assert gap["after"]["time_ns"] == WALL + 40_000_000
    assert gap["before"]["time"] == "2023-11-14T22:13:22.000Z"
    assert "batch 2 of lane telemetry with 14 samples missing, between 2023-" in run["verdict"]


def test_a_late_batch_closes_its_gap(tmp_path: Path) -> None:
    drive = Drive()
    batches = [drive.batch(), drive.batch(), drive.batch(final=True)]
    catalogue = _received(tmp_path, [batches[2], batches[0]])
    assert not catalogue.completeness(VEHICLE)["complete"]
    store = Store(tmp_path)
    _store(store, batches[1])
    again = Catalogue(store)
    assert again.completeness(VEHICLE)["complete"]
    store.close()


def test_many_missing_batches_are_one_gap_with_an_exact_count(tmp_path: Path) -> None:
    drive = Drive()
    batches = [drive.batch() for _ in range(9)]
    run = _only_run(_received(tmp_path, [batches[0], batches[8]]))
    (gap,) = run["gaps"]
    assert gap["sequences"] == [[2, 8]]
    assert gap["samples"] == 70


def test_an_evicted_batch_is_explained_by_its_tombstone(tmp_path: Path) -> None:
    drive = Drive()
    first, evicted = drive.batch(), drive.batch()
    last = drive.batch(final=True, tombstones=[evicted.tombstone("quota")])
    run = _only_run(_received(tmp_path, [first, last]))
    (gap,) = run["gaps"]
    assert gap["kind"] == "evicted"
    assert run["evicted_samples"] == evicted.samples
    assert run["missing_samples"] == 0
    assert run["streams"][0]["missing"] == []
    assert run["streams"][0]["evicted"] == [[2, 2]]
    assert "the vehicle evicted batch 2 of lane telemetry with 10 samples (quota)" in run["verdict"]


def test_of_a_gap_that_a_tombstone_explains_in_part_the_rest_is_missing(tmp_path: Path) -> None:
    drive = Drive()
    batches = [drive.batch() for _ in range(3)]
    last = drive.batch(tombstones=[batches[2].tombstone()])
    run = _only_run(_received(tmp_path, [batches[0], last]))
    missing, evicted = run["gaps"]
    assert (missing["kind"], missing["sequences"], missing["samples"]) == ("missing", [[2, 2]], 10)
    assert (evicted["kind"], evicted["sequences"], evicted["samples"]) == ("evicted", [[3, 3]], 10)


def test_a_tombstone_of_another_uplink_explains_nothing(tmp_path: Path) -> None:
    drive = Drive()
    first, missing = drive.batch(), drive.batch()
    stone = {**missing.tombstone(), "uplink": "backup"}
    run = _only_run(_received(tmp_path, [first, drive.batch(tombstones=[stone])]))
    assert [g["kind"] for g in run["gaps"]] == ["missing"]


def test_the_missing_end_of_a_clean_run_is_found_by_its_ledger(tmp_path: Path) -> None:
    """The final ledger came with another lane, so no chain shows that a batch is missing."""
    drive = Drive()
    first, _ = drive.batch(), drive.batch()
    events = Drive(lane="event")
    events.others = drive.samples
    closing = events.batch(0, final=True)
    run = _only_run(_received(tmp_path, [first, closing]))
    assert run["end"] == "clean"
    assert not run["complete"]
    assert [(g["kind"], g["samples"]) for g in run["gaps"]] == [("end", 10)]
    assert run["missing_samples"] == 10


def test_samples_that_were_lost_on_board_are_told(tmp_path: Path) -> None:
    run = _only_run(_received(tmp_path, [Drive().batch(final=True, lost=7)]))
    assert [(g["kind"], g["samples"]) for g in run["gaps"]] == [("lost", 7)]
    assert run["missing_samples"] == 0


def test_a_run_that_goes_on_is_complete_so_far(tmp_path: Path) -> None:
    drive = Drive()
    catalogue = _received(tmp_path, [drive.batch(), drive.batch()])
    run = _only_run(catalogue)
    assert (run["end"], run["complete"]) == ("running", True)
    assert "complete so far" in run["verdict"]
    assert "last heard of up to 2023-11-14T22:13:21.040Z" in run["verdict"]


def test_a_killed_run_has_no_gap_and_an_end_that_is_not_known(tmp_path: Path) -> None:
    killed, after = Drive(run=1), Drive(run=2)
    catalogue = _received(tmp_path, [killed.batch(), after.batch(final=True)])
    first, second = catalogue.completeness(VEHICLE)["runs"]
    assert (first["end"], first["complete"]) == ("cut", True)
    assert "ended without a word after 2023-11-14T22:13:20.040Z" in first["verdict"]
    assert second["end"] == "clean"
    assert catalogue.completeness(VEHICLE)["verdict"].endswith("run 1 ended without a word")


def test_of_a_killed_run_nothing_waits_when_a_later_run_found_nothing(tmp_path: Path) -> None:
    killed, after = Drive(run=1), Drive(run=2)
    after.found = 0
    whole = _received(tmp_path, [killed.batch(), after.batch()]).completeness(VEHICLE)
    assert whole["runs"][0]["verdict"].endswith("nothing of it waits on board")


def test_a_run_without_data_is_no_gap_when_a_later_run_found_nothing(tmp_path: Path) -> None:
    last = Drive(run=3)
    last.found = 0
    batches = [Drive(run=1).batch(final=True), last.batch(final=True)]
    whole = _received(tmp_path, batches).completeness(VEHICLE)
    assert whole["complete"]
    assert [r["run"] for r in whole["runs"]] == [1, 3]


def test_a_number_that_was_used_for_an_empty_batch_is_named_and_no_gap(tmp_path: Path) -> None:
    """The spool gives up a file that it began on a failing disk, and its number with it."""
    drive = Drive()
    batches = [drive.batch(), drive.batch(0), drive.batch(final=True)]
    run = _only_run(_received(tmp_path, [batches[0], batches[2]]))
    assert [(g["kind"], g["sequences"]) for g in run["gaps"]] == [("empty", [[2, 2]])]
    assert run["complete"]
    assert "complete: 2 batches" in run["verdict"]


def test_a_run_from_which_nothing_came_is_named(tmp_path: Path) -> None:
    batches = [Drive(run=1).batch(final=True), Drive(run=3).batch(final=True)]
    whole = _received(tmp_path, batches).completeness(VEHICLE)
    assert [r["run"] for r in whole["runs"]] == [1, 2, 3]
    assert not whole["complete"]
    assert "nothing has arrived from run 2" in whole["verdict"]


def test_impossible_numbers_in_a_batch_cost_no_time(tmp_path: Path) -> None:
    batch = Drive().batch(skip=10**11)
    run = _only_run(_received(tmp_path, [Drive().batch(), batch]))
    assert run["batches"] == 2


def test_a_batch_that_rots_here_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path)
    batch = Drive().batch(200, chunks=3, final=True)
    _store(store, batch)
    stored = store.find(VEHICLE, batch.batch_id)
    assert stored is not None
    middle = len(batch.data) // 2
    stored.path.write_bytes(
        bytes([*batch.data[:middle], batch.data[middle] ^ 1, *batch.data[middle + 1 :]])
    )
    run = _only_run(Catalogue(store))
    store.close()
    assert [g["kind"] for g in run["gaps"]] == ["damaged"]
    assert run["samples"] + run["missing_samples"] == batch.samples


def test_a_file_that_is_no_batch_any_more_does_not_hide_the_others(tmp_path: Path) -> None:
    drive = Drive()
    store = Store(tmp_path)
    for batch in (first := drive.batch(), drive.batch(final=True)):
        _store(store, batch)
    stored = store.find(VEHICLE, first.batch_id)
    assert stored is not None
    stored.path.write_bytes(b"gone")
    whole = Catalogue(store).completeness(VEHICLE)
    store.close()
    assert list(whole["unreadable"]) == [first.batch_id]
    assert not whole["complete"]
    assert whole["samples"] == 10


def test_latest_values_have_unit_label_and_wall_time(tmp_path: Path) -> None:
    gear, speed = _received(tmp_path, [Drive().batch(5)]).latest(VEHICLE)
    assert speed == {
        "id": "powertrain.Speed.Vehicle",
        "bus": "powertrain",
        "message": "Speed",
        "source": None,
        "signal": "Vehicle",
        "value": 0.04,
        "unit": "km/h",
        "kind": "number",
        "choices": {},
        "label": "",
        "raw": 4,
        "time_ns": WALL + 40_000_000,
        "clock": "wall",
        "time": "2023-11-14T22:13:20.040Z",
    }
    assert (gear["signal"], gear["raw"], gear["label"]) == ("Gear", 1, "drive")
    assert (gear["kind"], gear["choices"]) == ("state", {"0": "park", "1": "drive"})


def test_backlog_that_arrives_late_does_not_make_the_latest_value_older(tmp_path: Path) -> None:
    old, new = Drive(run=1), Drive(run=2)
    batches = [new.batch(9), old.batch(5)]
    (_, speed) = _received(tmp_path, batches).latest(VEHICLE)
    assert speed["raw"] == 8


def test_a_batch_from_before_the_clock_was_right_is_dated_by_a_later_one(tmp_path: Path) -> None:
    drive = Drive(anchors=())
    early = drive.batch()
    drive.anchors = [ANCHOR]
    alone = _received(tmp_path / "a", [early]).latest(VEHICLE)
    both = _received(tmp_path / "b", [early, drive.batch(0)]).latest(VEHICLE)
    assert (alone[1]["clock"], alone[1]["time_ns"]) == ("boot", 40_000_000)
    assert (both[1]["clock"], both[1]["time_ns"]) == ("wall", WALL + 40_000_000)


def test_samples_are_found_by_signal_and_time(tmp_path: Path) -> None:
    drive = Drive()
    batches = [drive.batch(), drive.batch()]
    catalogue = _received(tmp_path, batches)
    answer = catalogue.samples(VEHICLE, ["Speed.Veh*"], first_ns=WALL + SECOND + 20_000_000)
    (column,) = answer["signals"]
    assert column["raw"] == [2, 3, 4]
    assert column["value"] == [0.02, 0.03, 0.04]
    assert column["time_ns"][0] == WALL + SECOND + 20_000_000
    assert not answer["truncated"]


def test_an_answer_of_samples_is_bounded(tmp_path: Path) -> None:
    answer = _received(tmp_path, [Drive().batch(100)]).samples(VEHICLE, ["*"], limit=150)
    assert answer["truncated"]
    assert answer["samples"] == sum(len(c["raw"]) for c in answer["signals"]) == 150


def test_streams_of_one_lane_share_numbers_and_are_told_apart(tmp_path: Path) -> None:
    """Sequences 1 and 3 are of one set of uplinks, 2 of another one that came here too."""
    batches = [_of_stream(tmp_path, *spec) for spec in ((1, 0, "a"), (2, 0, "b"), (3, 1, "a"))]
    run = _only_run(_received(tmp_path / "data", batches))
    assert run["complete"]
    assert {s["stream"]: s["present"] for s in run["streams"]} == {
        "a": [[1, 1], [3, 3]],
        "b": [[2, 2]],
    }


def _of_stream(folder: Path, sequence: int, previous: int, stream: str) -> Batch:
    batch_id = f"{INSTALL}-1-telemetry-{sequence}"
    path = folder / "one.batch"
    header: dict[str, Any] = {"stream": stream, "previous": previous, "uplinks": ["cloud", stream]}
    with BatchWriter(path, batch_id=batch_id, vehicle=VEHICLE, boot_id=BOOT_ID, **header) as writer:
        writer.add(table(sequence, 5))
    return Batch(batch_id, path.read_bytes(), 10)


@pytest.fixture
def drive() -> Drive:
    return Drive()


def test_the_answers_over_http(tmp_path: Path, drive: Drive) -> None:
    batch = drive.batch(final=True)
    with cloud(Store(tmp_path)) as client:
        assert client.put(batch).status == 201
        (row,) = client.get("/v1/vehicles")["vehicles"]
        assert (row["vehicle"], row["complete"], row["samples"]) == (VEHICLE, True, 10)
        assert row["bytes"] == len(batch.data)
        base = f"/v1/vehicles/{VEHICLE}"
        assert client.get(base).items() >= row.items()
        assert client.get(f"{base}/completeness")["complete"]
        assert len(client.get(f"{base}/latest")["signals"]) == 2
        assert client.get(f"{base}/batches")["batches"][0]["batch_id"] == batch.batch_id
        samples = client.get(f"{base}/samples?signal=Vehicle&from=2023-11-14T22:13:20.03Z")
        assert samples["signals"][0]["raw"] == [3, 4]
        assert client.get("/healthz")["status"] == "ok"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/vehicles/nobody", 404),
        ("/v1/vehicles/nobody/latest", 404),
        (f"/v1/vehicles/{VEHICLE}/samples", 400),
        (f"/v1/vehicles/{VEHICLE}/samples?signal=*&from=yesterday", 400),
        (f"/v1/vehicles/{VEHICLE}/samples?signal=*&limit=many", 400),
        ("/nothing", 404),
    ],
)
def test_questions_that_cannot_be_answered_get_a_sentence(
    tmp_path: Path, drive: Drive, path: str, status: int
) -> None:
    with cloud(Store(tmp_path)) as client:
        client.put(drive.batch())
        answer = client.ask("GET", path)
    assert answer.status == status
    assert answer.json["error"]["message"]


def test_answers_are_the_same_after_a_restart(tmp_path: Path, drive: Drive) -> None:
    def ask(client: Client) -> list[Any]:
        base = f"/v1/vehicles/{VEHICLE}"
        return [client.get(f"{base}/{what}") for what in ("completeness", "latest", "batches")]

    with cloud(Store(tmp_path)) as client:
        for _ in range(3):
            client.put(drive.batch())
        before = ask(client)
    with cloud(Store(tmp_path)) as client:
        assert ask(client) == before


def test_a_batch_without_any_of_the_agents_facts_is_only_counted(tmp_path: Path) -> None:
    path = tmp_path / "plain.batch"
    batch_id = f"{INSTALL}-1-telemetry-1"
    with BatchWriter(path, batch_id=batch_id, vehicle=VEHICLE) as writer:
        writer.add(table(0, 5))
    batch = dataclasses.replace(Drive().batch(), data=path.read_bytes())
    run = _only_run(_received(tmp_path / "data", [batch]))
    assert (run["samples"], run["end"]) == (10, "running")
