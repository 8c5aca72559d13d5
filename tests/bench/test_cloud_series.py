"""Series of signals for charts: equal to what a slow reference makes of the same batches."""

import dataclasses
import itertools
import math
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.batch import BatchWriter, read_batch
from agent.bench.cloud.queries import Catalogue
from agent.bench.cloud.series import QueryError, Question
from agent.bench.cloud.store import Store
from agent.blocks import SignalSchema, SignalTable, TableSchema, TimeBase
from agent.clock import MILLISECOND, SECOND
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

MOTOR = TableSchema(
    bus="powertrain",
    message="Motor",
    signals=(
        SignalSchema("Speed", "int64", 16, 0.5, -10, "rpm", codes=((32767, 32767, "error"),)),
        SignalSchema("Torque", "float32", 32, unit="Nm"),
        SignalSchema("Power", "float64", 64, unit="kW"),
        SignalSchema("Mode", "uint64", 2, choices=((0, "off"), (1, "on"), (3, "broken"))),
        SignalSchema("Serial", "bytes", 64),
    ),
)


def motor(times_ns: Sequence[int], seed: int, schema: TableSchema = MOTOR) -> SignalTable:
    """Rows at these times, in this order, with all that a column may hold."""
    n = len(times_ns)
    rng = np.random.default_rng(seed)
    speed = rng.integers(-300, 300, (1, n))
    speed[rng.random((1, n)) < 0.2] = 32767
    torque = rng.normal(0, 50, (1, n)).astype(np.float32)
    power = rng.normal(0, 50, (1, n))
    power[rng.random((1, n)) < 0.2] = math.nan
    values = {
        "int64": speed,
        "uint64": rng.integers(0, 4, (1, n)).astype(np.uint64),
        "float32": torque,
        "float64": power,
    }
    serial = rng.integers(ord("A"), ord("Z"), (n, 8)).astype(np.uint8)
    kinds = {signal.kind for signal in schema.signals}
    kept: Any = {kind: array for kind, array in values.items() if kind in kinds}
    payloads = (serial,) if "bytes" in kinds else ()
    return SignalTable(schema, np.array(times_ns, np.int64), kept, payloads)


def batch(
    folder: Path,
    tables: Iterable[SignalTable],
    *,
    run: int = 1,
    sequence: int = 1,
    lane: str = "telemetry",
    boot_id: str = BOOT_ID,
    anchors: Sequence[Any] = (ANCHOR,),
) -> Batch:
    """A batch with a chunk a table."""
    batch_id = f"{INSTALL}-{run}-{lane}-{sequence}"
    path = folder / f"{batch_id}.made"
    header: dict[str, Any] = {"vehicle": VEHICLE, "stream": "cloud", "uplinks": ["cloud"]}
    header |= {"boot_id": boot_id, "anchors": list(anchors), "previous": sequence - 1}
    with BatchWriter(path, batch_id=batch_id, **header) as writer:
        for each in tables:
            writer.add(each)
            writer.flush()
    return Batch(batch_id, path.read_bytes(), 0)


def catalogue(folder: Path, batches: Iterable[Batch], **options: Any) -> Catalogue:
    """Of a cloud that got these batches in this order."""
    store = Store(folder / "data")
    for each in batches:
        upload = store.upload(each.vehicle, each.batch_id)
        upload.write(each.data)
        store.commit(upload, upload.digest)
        upload.close()
    store.close()
    return Catalogue(store, **options)


def ask(folder: Catalogue, *signals: str, **more: Any) -> dict[str, Any]:
    return folder.series(VEHICLE, Question(signals, **more))


# -- the reference: sample by sample --------------------------------------------------------------

Sample = tuple[int, float | None]


def samples_of(paths: Iterable[Path], signal: str, clock: TimeBase) -> list[Sample]:
    """Samples of one signal by time, by the public reader; None for what is no measurement."""
    found: list[Sample] = []
    tables = [t for t in read_batch(*paths) if signal in t.names and t.clock == clock]
    for each in sorted(tables, key=lambda t: int(t.time.min())):
        rows = zip(
            each.time.tolist(),
            each.physical(signal).tolist(),
            each.validity(signal).tolist(),
            strict=True,
        )
        for time, value, invalid in rows:
            found.append((time, None if invalid or not math.isfinite(value) else value))
    found.sort(key=lambda sample: sample[0])
    return [s for i, s in enumerate(found) if i == 0 or s != found[i - 1]]


def expected(samples: Sequence[Sample], points: int, bucket_ms: float | None) -> dict[str, Any]:
    """What a series must be, by the words of docs/upload-protocol.md."""
    distances = [b[0] - a[0] for a, b in itertools.pairwise(samples)]
    usual = float(np.median(distances)) if distances else 0.0
    gap = max(5 * SECOND, int(10 * usual))
    width = 1 if bucket_ms is None else int(bucket_ms * MILLISECOND)
    assert (bucket_ms is None) == (len(samples) <= points)
    buckets: list[list[Sample]] = []
    for i, sample in enumerate(samples):
        same = i > 0 and samples[i - 1][0] // width == sample[0] // width
        if bucket_ms is not None and same:
            buckets[-1].append(sample)
        else:
            buckets.append([sample])
    assert len(buckets) <= points
    rows: list[tuple[float, float | None, float | None, float | None]] = []
    before: int | None = None
    for bucket in buckets:
        first, last = bucket[0][0], bucket[-1][0]
        if before is not None and first - before > gap:
            rows.append((ms(before + (first - before) // 2), None, None, None))
        values = [v for _, v in bucket if v is not None]
        if values:
            rows.append((ms(last), min(values), max(values), values[-1]))
        else:
            rows.append((ms(last), None, None, None))
        before = last
    shown = {key: [row[i] for row in rows] for i, key in enumerate(("t", "min", "max", "last"))}
    return {**shown, "samples": len(samples), "gap": (gap + (width if bucket_ms else 0)) / 1e6}


def ms(ns: int) -> float:
    return ns // MILLISECOND + ns % MILLISECOND / MILLISECOND


def agrees(answer: dict[str, Any], reference: dict[str, Any]) -> None:
    assert {key: answer[key] for key in reference} == reference


@pytest.mark.parametrize("seed", range(12))
def test_a_series_equals_what_a_slow_reader_makes_of_the_batches(tmp_path: Path, seed: int) -> None:
    """Several boots and runs, gaps, rows out of order, batches in any order of arrival."""
    rng = random.Random(seed)
    batches = []
    for run in range(1, 4):
        boot_id = f"boot-{(run + 1) // 2}"  # runs 1 and 2 are of one boot
        begin = (run % 2) * 400 + (run - 1) * 900
        anchor = {**ANCHOR, "boot_id": boot_id, "wall": WALL + run // 3 * 5000 * SECOND}
        # The boot is dated by one batch alone, whichever that is.
        dating = rng.randrange(3)
        for sequence in range(1, 4):
            tables = []
            for chunk in range(rng.randrange(1, 4)):
                now = (begin + 100 * sequence + 20 * chunk) * 1000
                steps = [rng.choice((1, 10, 10, 10, 100)) for _ in range(rng.randrange(1, 40))]
                if rng.random() < 0.3:
                    steps[len(steps) // 2] = 30_000
                times = [(now + sum(steps[:i])) * MILLISECOND for i in range(len(steps))]
                if rng.random() < 0.3:
                    rng.shuffle(times)
                schema = rng.choice((MOTOR, MOTOR.subset(["Speed", "Power"])))
                tables.append(motor(times, seed + chunk, schema))
            anchors = [anchor] if sequence - 1 == dating else []
            batches.append(
                batch(
                    tmp_path,
                    tables,
                    run=run,
                    sequence=sequence,
                    lane=rng.choice(("telemetry", "event")),
                    boot_id=boot_id,
                    anchors=anchors,
                )
            )
    rng.shuffle(batches)
    found = catalogue(tmp_path, batches)
    paths = [tmp_path / f"{each.batch_id}.made" for each in batches]
    for name in ("Speed", "Torque", "Power", "Mode"):
        points = rng.choice((10, 50, 4000))
        samples = samples_of(paths, name, "wall")
        (answer,) = ask(found, f"Motor.{name}", points=points)["signals"]
        agrees(answer, expected(samples, points, answer["bucket"]))
        first, last = sorted(rng.sample([time for time, _ in samples], 2))
        inside = [s for s in samples if first <= s[0] <= last]
        window = {"first_ns": first, "last_ns": last, "points": points}
        (answer,) = ask(found, f"powertrain.Motor.{name}", **window)["signals"]
        agrees(answer, expected(inside, points, answer["bucket"]))


@pytest.mark.parametrize("seed", range(4))
def test_latest_values_equal_what_a_slow_reader_finds_last(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    batches = []
    for run, sequence in itertools.product((1, 2), (1, 2, 3)):
        tables = []
        for chunk in range(3):
            times = [rng.randrange(10_000) * MILLISECOND for _ in range(20)]
            schema = rng.choice((MOTOR, MOTOR.subset(["Speed", "Serial"]), MOTOR.subset(["Power"])))
            tables.append(motor(times, seed + chunk, schema))
        batches.append(batch(tmp_path, tables, run=run, sequence=sequence))
    rng.shuffle(batches)
    newest: dict[str, tuple[int, int]] = {}
    values: dict[tuple[str, int, int], list[Any]] = {}
    for each in batches:
        run = int(each.batch_id.split("-")[1])
        for rows in read_batch(tmp_path / f"{each.batch_id}.made"):
            for name in rows.names:
                column = rows.raw[name]
                raws = [bytes(r).hex() for r in column] if column.ndim == 2 else column.tolist()
                for time, raw in zip(rows.time.tolist(), raws, strict=True):
                    newest[name] = max(newest.get(name, (0, 0)), (run, time))
                    values.setdefault((name, run, time), []).append(raw)
    told = catalogue(tmp_path, batches).latest(VEHICLE)
    assert {row["signal"] for row in told} == newest.keys()
    for row in told:
        name = row["signal"]
        assert row["time_ns"] == newest[name][1]
        # Several rows may have the same time: any of them is the last.
        found = values[name, *newest[name]]
        assert row["raw"] in ["nan" if str(v) == "nan" else v for v in found]
        if name == "Speed":
            assert row["value"] == row["raw"] * 0.5 - 10
            assert row["label"] == ("error" if row["raw"] == 32767 else "")


def test_buckets_stay_where_they_are_when_the_window_moves(tmp_path: Path) -> None:
    rows = [motor([n * 10 * MILLISECOND for n in range(5000)], 1)]
    found = catalogue(tmp_path, [batch(tmp_path, rows)])

    def points(first_s: float) -> dict[float, Any]:
        window = {"first_ns": WALL + int(first_s * SECOND), "points": 60}
        window["last_ns"] = window["first_ns"] + 40 * SECOND
        (each,) = ask(found, "Motor.Torque", **window)["signals"]
        assert each["bucket"] == 800
        rows_ = zip(each["t"], each["min"], each["max"], each["last"], strict=True)
        return {row[0]: row for row in list(rows_)[1:-1]}

    before, after = points(1), points(3.3)
    both = before.keys() & after.keys()
    assert len(both) > 40
    assert all(before[t] == after[t] for t in both)


def test_states_have_the_texts_of_their_values(tmp_path: Path) -> None:
    found = catalogue(tmp_path, [batch(tmp_path, [motor([0, SECOND], 3)])])
    mode, speed = ask(found, "Motor.Mode", "Motor.Speed")["signals"]
    assert (mode["kind"], mode["choices"]) == ("state", {"0": "off", "1": "on", "3": "broken"})
    assert (speed["kind"], speed["unit"], speed["choices"]) == ("number", "rpm", {})


def test_payloads_are_text_or_hexadecimal(tmp_path: Path) -> None:
    rows = motor([0, SECOND], 3)
    rows.payloads[0][0] = list(b"VIN 12\0\0")
    rows.payloads[0][1] = list(b"\x80\1\2\3\4\5\6\7")
    found = catalogue(tmp_path, [batch(tmp_path, [rows])])
    (serial,) = ask(found, "Motor.Serial")["signals"]
    assert serial["kind"] == "text"
    assert serial["last"] == ["VIN 12", "8001020304050607"]
    assert serial["t"] == [WALL // MILLISECOND, WALL // MILLISECOND + 1000]


def test_what_two_campaigns_kept_comes_once(tmp_path: Path) -> None:
    one = motor([n * SECOND for n in range(20)], 1)
    two = dataclasses.replace(one, campaign="more")
    found = catalogue(tmp_path, [batch(tmp_path, [one, two])])
    (power,) = ask(found, "Motor.Power")["signals"]
    assert power["samples"] == 20


def test_each_source_and_each_bus_is_a_series_of_its_own(tmp_path: Path) -> None:
    schemas = [
        dataclasses.replace(MOTOR, source=3),
        dataclasses.replace(MOTOR, source=33),
        dataclasses.replace(MOTOR, bus="can.2"),
    ]
    tables = [motor([0], n, schema) for n, schema in enumerate(schemas)]
    found = catalogue(tmp_path, [batch(tmp_path, tables)])

    def names(asked: str) -> list[str]:
        return [each["id"] for each in ask(found, asked)["signals"]]

    every = ["powertrain.Motor.Mode@3", "powertrain.Motor.Mode@33", "can.2.Motor.Mode"]
    assert sorted(names("Motor.Mode")) == sorted(every)
    assert sorted(names("powertrain.Motor.Mode")) == every[:2]
    assert [names(each) for each in every] == [[each] for each in every]
    assert names("Motor.Mode@33") == every[1:2]
    latest = [r["id"] for r in found.latest(VEHICLE) if r["signal"] == "Mode"]
    assert sorted(latest) == sorted(every)


def test_a_boot_that_is_not_dated_is_of_its_own_clock(tmp_path: Path) -> None:
    dated = batch(tmp_path, [motor([0, SECOND], 1)])
    later = [
        batch(tmp_path, [motor([n * SECOND], n)], run=n, boot_id=f"boot-{n}", anchors=[])
        for n in (2, 3)
    ]
    found = catalogue(tmp_path, later)
    answer = ask(found, "Motor.Mode")
    assert (answer["clock"], answer["boot_id"]) == ("boot", "boot-3")
    assert answer["signals"][0]["t"] == [3000]
    older = ask(found, "Motor.Mode", clock="boot", boot_id="boot-2")
    assert (older["from"], older["to"], older["signals"][0]["t"]) == (2000, 2000, [2000])
    found = catalogue(tmp_path, [dated])
    answer = ask(found, "Motor.Mode")
    assert (answer["clock"], answer["from"]) == ("wall", WALL / MILLISECOND)
    assert [each["clock"] for each in answer["clocks"]] == ["wall", "boot", "boot"]


def test_an_anchor_that_comes_later_dates_what_is_here(tmp_path: Path) -> None:
    first = batch(tmp_path, [motor([0, SECOND], 1)], anchors=[])
    store = Store(tmp_path / "data")
    with cloud(store) as client:
        client.put(first)
        path = f"/v1/vehicles/{VEHICLE}/series?signal=Motor.Mode"
        assert client.get(path)["clock"] == "boot"
        client.put(batch(tmp_path, [motor([2 * SECOND], 2)], sequence=2))
        answer = client.get(path)
    assert answer["clock"] == "wall"
    assert answer["signals"][0]["t"] == [WALL // MILLISECOND + 1000 * n for n in range(3)]


def test_times_of_a_recording_stay_its_own(tmp_path: Path) -> None:
    schema = dataclasses.replace(MOTOR, clock="recorded")
    found = catalogue(tmp_path, [batch(tmp_path, [motor([5 * SECOND], 1, schema)])])
    answer = ask(found, "Motor.Mode")
    assert (answer["clock"], answer["signals"][0]["t"]) == ("recorded", [5000])


def test_a_restart_answers_the_same_from_what_is_kept(tmp_path: Path) -> None:
    drive = Drive()
    batches = [drive.batch(50), drive.batch(50, lost=3), drive.batch(50, final=True)]
    first = catalogue(tmp_path, batches)
    asked = ("Speed.Vehicle", "Speed.Gear")
    told = [ask(first, *asked), first.latest(VEHICLE), first.vehicle(VEHICLE)]
    again = catalogue(tmp_path, [])
    assert [ask(again, *asked), again.latest(VEHICLE), again.vehicle(VEHICLE)] == told


@pytest.mark.parametrize("harm", ["remove", "empty", "cut", "flip", "swap"])
def test_shelves_that_are_lost_or_damaged_are_made_again(tmp_path: Path, harm: str) -> None:
    drive = Drive()
    first = catalogue(tmp_path, [drive.batch(500), drive.batch(400)])
    told = ask(first, "Speed.Vehicle"), first.latest(VEHICLE)
    shelves = sorted((tmp_path / "data" / "shelves" / VEHICLE).iterdir())
    contents = [path.read_bytes() for path in shelves]
    for path, content, other in zip(shelves, contents, contents[::-1], strict=True):
        if harm == "remove":
            path.unlink()
            continue
        flipped = bytearray(content)
        flipped[-20] ^= 0x40
        kinds = {"empty": b"", "cut": content[:-9], "flip": bytes(flipped), "swap": other}
        path.write_bytes(kinds[harm])
    # A process that knows them, with nothing decoded in memory, and one that does not.
    running = catalogue(tmp_path, [], room_bytes=0)
    assert (ask(running, "Speed.Vehicle"), running.latest(VEHICLE)) == told
    again = catalogue(tmp_path, [])
    assert (ask(again, "Speed.Vehicle"), again.latest(VEHICLE)) == told


def test_shelves_that_cannot_be_written_cost_time_and_nothing_else(tmp_path: Path) -> None:
    drive = Drive()
    batches = [drive.batch(50), drive.batch(50)]
    told = ask(catalogue(tmp_path / "a", batches), "Speed.Vehicle")
    (tmp_path / "b" / "data").mkdir(parents=True)
    (tmp_path / "b" / "data" / "shelves").write_text("in the way")
    found = catalogue(tmp_path / "b", batches)
    assert ask(found, "Speed.Vehicle") == told
    assert len(found.latest(VEHICLE)) == 2


def test_decoded_columns_stay_within_their_bound(tmp_path: Path) -> None:
    drive = Drive()
    batches = [drive.batch(200) for _ in range(20)]
    room = 20_000
    found = catalogue(tmp_path, batches, room_bytes=room)
    told = [ask(found, "Speed.Vehicle", "Speed.Gear", points=4000) for _ in range(2)]
    assert told[0] == told[1]
    assert told[0]["signals"][0]["samples"] == 4000
    assert found.decoded_bytes <= room


def test_more_samples_than_can_be_read_at_once_are_refused(tmp_path: Path) -> None:
    found = catalogue(tmp_path, [Drive().batch(101)], most_samples=100)
    with pytest.raises(QueryError, match="101 rows of Speed"):
        ask(found, "Speed.Vehicle")
    assert len(ask(found, "Speed.Vehicle", last_ns=WALL - 1)["signals"]) == 1


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("", "name signals"),
        ("&".join(f"signal=A.B{n}" for n in range(33)), "32 at the most"),
        ("signal=A.B&points=9", "10 to 4000"),
        ("signal=A.B&points=4001", "10 to 4000"),
        ("signal=A.B&points=many", "10 to 4000"),
        ("signal=A.B&from=yesterday", "from is nanoseconds"),
        ("signal=A.B&to=1e300", "to is nanoseconds"),
        ("signal=A.B&from=2&to=1", "from is later than to"),
        ("signal=A.B&clock=sun", "clock is wall"),
    ],
)
def test_a_question_that_cannot_be_answered_gets_a_sentence(
    tmp_path: Path, query: str, word: str
) -> None:
    with cloud(Store(tmp_path)) as client:
        client.put(Drive().batch())
        answer = client.ask("GET", f"/v1/vehicles/{VEHICLE}/series?{query}")
        assert client.ask("GET", f"/v1/vehicles/nobody/series?{query}").status == 404
    assert (answer.status, answer.code) == (400, "query")
    assert word in answer.json["error"]["message"]


def test_a_name_that_fits_too_many_signals_is_refused(tmp_path: Path) -> None:
    tables = [motor([0], n, dataclasses.replace(MOTOR, source=n)) for n in range(33)]
    found = catalogue(tmp_path, [batch(tmp_path, tables)])
    with pytest.raises(QueryError, match="name the bus and the source"):
        ask(found, "Motor.Mode")


def test_unknown_signals_are_named_and_others_answered(tmp_path: Path) -> None:
    with cloud(Store(tmp_path)) as client:
        client.put(Drive().batch())
        base = f"/v1/vehicles/{VEHICLE}/series"
        answer = client.get(f"{base}?signal=Speed.Vehicle&signal=Speed.None&signal=Vehicle")
        beyond = client.get(f"{base}?signal=Speed.Vehicle&from=2100-01-01T00:00:00Z")
        nothing = client.get(f"{base}?signal=No.Thing")
    assert answer["unknown"] == ["Speed.None", "Vehicle"]
    assert [each["signal"] for each in answer["signals"]] == ["Speed.Vehicle"]
    assert (beyond["signals"][0]["t"], beyond["signals"][0]["samples"]) == ([], 0)
    assert beyond["from"] == WALL // MILLISECOND
    assert (nothing["signals"], nothing["from"], nothing["clock"]) == ([], None, "wall")


def test_an_answer_is_not_sent_again_until_there_is_something_new(tmp_path: Path) -> None:
    drive = Drive()
    with cloud(Store(tmp_path)) as client:
        client.put(drive.batch())
        for path in ("", "/latest", "/series?signal=Speed.Vehicle", "/events", "/completeness"):
            _asks_again(client, f"/v1/vehicles/{VEHICLE}{path}", drive)
        _asks_again(client, "/v1/vehicles", drive)


def _asks_again(client: Client, path: str, drive: Drive) -> None:
    client.get(path)
    first = client.ask("GET", path)
    known = {"If-None-Match": first.headers["Etag"]}
    same = client.ask("GET", path, headers=known)
    assert (first.status, same.status, same.body) == (200, 304, b"")
    client.put(drive.batch())
    assert client.ask("GET", path, headers=known).status == 200


def test_questions_are_answered_while_batches_arrive(tmp_path: Path) -> None:
    """Every answer holds what was acknowledged before it was asked for."""
    drive = Drive()
    with cloud(Store(tmp_path)) as client:
        for count in range(1, 30):
            client.put(drive.batch(20))
            answer = client.get(f"/v1/vehicles/{VEHICLE}/series?signal=Speed.Vehicle")
            assert answer["signals"][0]["samples"] == 20 * count
            assert (answer["revision"], answer["behind"]) == (count, 0)


def test_hostile_times_hurt_nobody(tmp_path: Path) -> None:
    far = (1 << 63) - 1
    tables = [motor([-(far // MILLISECOND) * MILLISECOND, 0, far], 1)]
    anchor = {**ANCHOR, "wall": 1 << 63}
    with cloud(Store(tmp_path / "data")) as client:
        client.put(batch(tmp_path, tables, anchors=[anchor]))
        client.put(batch(tmp_path, [table(0, 5)], sequence=2))
        base = f"/v1/vehicles/{VEHICLE}/series?signal=Motor.Mode&signal=Speed.Gear&points=10"
        assert client.get(base)["unknown"] == []
        assert client.get(f"{base}&from=0&to=9223372036854775807")["unknown"] == []
