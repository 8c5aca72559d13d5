"""How a vehicle is, as far as its batches tell: health record, buses, findings, ledger."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.batch import BatchWriter
from agent.batch.format import Record
from agent.bench.cloud.queries import Catalogue
from agent.bench.cloud.store import Store
from agent.blocks import Event
from agent.clock import SECOND, BootNs
from agent.ledger import Ledger
from agent.observe.health import record
from tests.bench.cloudbench import ANCHOR, BOOT_ID, INSTALL, VEHICLE, WALL, Batch, Drive, cloud
from tests.observe.statuses import well

PATH = f"/v1/vehicles/{VEHICLE}"


def report(
    folder: Path,
    sequence: int,
    events: Sequence[Mapping[str, Any]] = (),
    ledgers: Sequence[Mapping[str, Any]] = (),
    *,
    run: int = 1,
) -> Batch:
    batch_id = f"{INSTALL}-{run}-report-{sequence}"
    path = folder / f"{batch_id}.made"
    header: dict[str, Any] = {"stream": "reports", "previous": sequence - 1, "uplinks": ["cloud"]}
    header |= {"boot_id": BOOT_ID, "anchors": [ANCHOR]}
    with BatchWriter(path, batch_id=batch_id, vehicle=VEHICLE, **header) as writer:
        for event in events:
            writer.add(Event(dict(event)))
        for each in ledgers:
            writer.record(Record.LEDGER, dict(each))
    return Batch(batch_id, path.read_bytes(), 0)


def health(second: int, **more: Any) -> dict[str, Any]:
    return {**record(well(), BootNs(second * SECOND)), **more}


def test_the_newest_health_record_is_told_whatever_came_last(tmp_path: Path) -> None:
    newer, older = health(120, cpu_percent=7.5), health(60, cpu_percent=3.5)
    with cloud(Store(tmp_path / "data")) as client:
        client.put(Drive().batch())
        before = client.get(PATH)
        client.put(report(tmp_path, 2, [newer]))
        client.put(report(tmp_path, 1, [older]))
        answer = client.get(PATH)
        events = client.get(f"{PATH}/events")["events"]
    assert (before["health"], before["buses"], before["findings"]) == (None, {}, None)
    assert answer["health"]["time_ns"] == WALL + 120 * SECOND
    assert answer["health"]["batch_id"] == f"{INSTALL}-1-report-2"
    assert answer["health"]["record"]["cpu_percent"] == 7.5
    assert answer["buses"] == answer["health"]["record"]["buses"] != {}
    assert events == []  # one a minute would push out what happened


def test_what_was_found_out_about_the_database_is_told(tmp_path: Path) -> None:
    found = {"id": "database-7", "name": "database", "campaign": "", "time": 7, "clock": "boot"}
    found["findings"] = ["bus powertrain: no frame fits the file ev.dbc"]
    of_campaign = {**found, "time": 9, "campaign": "database", "findings": []}
    with cloud(Store(tmp_path / "data")) as client:
        client.put(report(tmp_path, 1, [found, of_campaign]))
        findings = client.get(PATH)["findings"]
    assert findings["report"]["findings"] == found["findings"]
    assert findings["time_ns"] == WALL + 7


def test_the_ledger_is_that_of_the_newest_run(tmp_path: Path) -> None:
    ledger = Ledger()
    ledger.add("bus", "powertrain", received=10, read=9, dropped=1, decoded=9)
    told = {"at": "seal", "boot": 60 * SECOND, "run": ledger.snapshot(), "final": False}
    ledger.add("bus", "powertrain", received=5, read=4)
    later = {**told, "boot": 61 * SECOND, "run": ledger.snapshot()}
    of_before = {**told, "boot": 900 * SECOND, "final": True}
    with cloud(Store(tmp_path / "data")) as client:
        client.put(report(tmp_path, 1, ledgers=[told], run=2))
        closes = client.get(PATH)["ledger"]
        client.put(report(tmp_path, 2, ledgers=[later], run=2))
        client.put(report(tmp_path, 1, ledgers=[of_before], run=1))
        open_ = client.get(PATH)["ledger"]
    assert (closes["run"], closes["final"], closes["differences"]) == (2, False, [])
    assert closes["totals"]["bus"]["powertrain"]["decoded"] == 9
    assert closes["time_ns"] == WALL + 60 * SECOND
    assert (open_["run"], open_["time_ns"]) == (2, WALL + 61 * SECOND)
    assert len(open_["differences"]) == 2


def test_hostile_health_and_ledgers_hurt_nobody(tmp_path: Path) -> None:
    deep: Any = "x"
    for _ in range(200):
        deep = [deep]
    events = [
        {"kind": "health", "time": 1, "clock": "boot", "buses": deep},
        {"kind": "health", "time": "now", "clock": "boot"},
        {"name": "database", "time": (1 << 63) - 1, "clock": "boot", "findings": deep},
    ]
    ledgers: list[dict[str, Any]] = [
        {"at": deep, "boot": "never", "run": deep},
        {"run": {"bus": 7, "uplink": {"a": {"kept": "many"}, "b": 3}}, "boot": 1 << 62},
    ]
    with cloud(Store(tmp_path / "data")) as client:
        client.put(report(tmp_path, 1, events, ledgers))
        answer = client.get(PATH)
    assert answer["unreadable"] == {}
    assert answer["ledger"]["totals"] == {"uplink": {"a": {}}}


def test_a_backlog_that_is_not_read_yet_is_said_and_hides_nothing(tmp_path: Path) -> None:
    drive = Drive()
    store = Store(tmp_path)
    for batch in [drive.batch() for _ in range(5)] + [drive.batch(final=True)]:
        upload = store.upload(batch.vehicle, batch.batch_id)
        upload.write(batch.data)
        store.commit(upload, upload.digest)
        upload.close()
    store.close()
    catalogue = Catalogue(store, patience_s=0)
    early = catalogue.vehicle(VEHICLE)
    assert early["revision"] + early["behind"] == 6
    assert 0 < early["behind"] < 6
    assert not early["complete"]
    assert "are not read yet" in early["verdict"]
    catalogue.refresh(VEHICLE)
    whole = catalogue.vehicle(VEHICLE)
    assert (whole["complete"], whole["behind"], whole["revision"]) == (True, 0, 6)
