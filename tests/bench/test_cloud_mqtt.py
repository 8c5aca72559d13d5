"""Clouds side by side on one folder, and what `--mqtt` is told before any broker is asked."""

import argparse
import asyncio
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.bench.cloud.mqtt import BrokerIngest
from agent.bench.cloud.store import ConflictError, Outcome, Store
from agent.commands import cloud as command
from agent.errors import ConfigError
from tests.bench.cloudbench import VEHICLE, Batch, Drive, cloud, files


def keep(store: Store, batch: Batch) -> Outcome:
    """As a cloud keeps what has arrived."""
    upload = store.upload(VEHICLE, batch.batch_id)
    try:
        upload.write(batch.data)
        return store.commit(upload, upload.digest)
    finally:
        upload.close()


def test_of_two_clouds_on_one_folder_the_first_keeps_a_batch_and_the_other_knows_it(
    tmp_path: Path,
) -> None:
    batch = Drive().batch()
    first, second = Store(tmp_path, shared=True), Store(tmp_path, shared=True)
    assert keep(first, batch).status == "created"
    assert keep(second, batch).status == "present"
    found = second.find(VEHICLE, batch.batch_id)
    assert found is not None
    assert found.path.read_bytes() == batch.data
    assert len(files(tmp_path)) == 1
    first.close()
    second.close()


def test_a_day_later_a_batch_of_the_other_cloud_is_still_known(tmp_path: Path) -> None:
    batch = Drive().batch()
    first, second = Store(tmp_path, shared=True), Store(tmp_path, shared=True)
    stored = keep(first, batch).stored
    yesterday = stored.path.parent.with_name("2001-01-01")
    yesterday.mkdir()
    stored.path.rename(yesterday / stored.path.name)
    assert keep(second, batch).status == "present"
    assert len(files(tmp_path)) == 1
    first.close()
    second.close()


def test_another_batch_of_the_same_name_is_a_conflict_between_clouds_too(tmp_path: Path) -> None:
    batch, other = Drive().batch(), Drive().batch(rows=9)
    first, second = Store(tmp_path, shared=True), Store(tmp_path, shared=True)
    keep(first, batch)
    with pytest.raises(ConflictError):
        keep(second, other)
    assert len(files(tmp_path)) == 1
    first.close()
    second.close()


def test_of_many_clouds_that_get_the_same_batches_at_once_one_keeps_each(tmp_path: Path) -> None:
    drive = Drive()
    batches = [drive.batch() for _ in range(8)]
    stores = [Store(tmp_path, shared=True) for _ in range(4)]
    with ThreadPoolExecutor(16) as pool:
        made = [pool.submit(keep, store, batch) for batch in batches for store in stores]
        outcomes = [each.result() for each in made]
    assert sum(outcome.status == "created" for outcome in outcomes) == len(batches)
    assert len(files(tmp_path)) == len(batches)
    for store in stores:
        assert len(store.batches(VEHICLE)) == len(batches)
        assert store.vehicles() == [VEHICLE]
        store.close()


def test_the_same_questions_are_answered_alike_by_all_clouds_of_a_folder(tmp_path: Path) -> None:
    drive = Drive()
    first, second = drive.batch(), drive.batch(final=True)
    with (
        cloud(Store(tmp_path, shared=True)) as one,
        cloud(Store(tmp_path, shared=True)) as other,
    ):
        assert one.put(first).status == 201
        assert other.put(second).status == 201
        assert other.put(first).status == 412
        assert other.ask("HEAD", first.path).headers["Content-Digest"]
        answers = [c.get(f"/v1/vehicles/{VEHICLE}/completeness") for c in (one, other)]
        assert answers[0] == answers[1]
        assert answers[0]["complete"]
        assert [v["batches"] for v in other.get("/v1/vehicles")["vehicles"]] == [2]


def test_a_folder_is_shared_only_among_those_that_say_so(tmp_path: Path) -> None:
    shared = Store(tmp_path, shared=True)
    with pytest.raises(ConfigError, match="--shared"):
        Store(tmp_path)
    shared.close()
    alone = Store(tmp_path)
    with pytest.raises(ConfigError, match="another cloud keeps its batches here"):
        Store(tmp_path, shared=True)
    alone.close()


def test_a_start_takes_no_half_upload_from_another_cloud_but_clears_away_old_ones(
    tmp_path: Path,
) -> None:
    first = Store(tmp_path, shared=True)
    running = first.upload(VEHICLE, Drive().batch().batch_id)
    old = tmp_path / "incoming" / "old.part"
    old.write_bytes(b"half")
    yesterday = time.time() - 86_400
    os.utime(old, (yesterday, yesterday))
    second = Store(tmp_path, shared=True)
    assert running.path.exists()
    assert not old.exists()
    running.close()
    first.close()
    second.close()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--mqtt", "http://a"), "write mqtt://HOST:PORT"),
        (("--mqtt", "mqtt://a/#"), "beginning of topics"),
        (("--mqtt", "mqtt://a", "--mqtt-group", "a/b"), "--mqtt-group a/b"),
    ],
)
def test_what_cannot_be_a_broker_is_said_in_a_sentence(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["cloud", "--data", str(tmp_path), *words])
    with pytest.raises(ConfigError, match=message):
        command.run(args)
    Store(tmp_path).close()  # and the folder is free again


def test_a_broker_that_is_not_there_is_waited_for_and_said_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    said: list[str] = []
    slept: list[float] = []
    stop = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 7:
            stop.set()

    store = Store(tmp_path)
    ingest = BrokerIngest(
        store,
        f"mqtt://user:secret@127.0.0.1:{port}/fleet",
        told=said.append,
        random=lambda: 1.0,
        sleep=sleep,
    )

    async def main() -> None:
        await asyncio.wait_for(ingest.run(lambda _: None, stop), 60)

    asyncio.run(main())
    store.close()
    assert said == [f"waiting for mqtt://127.0.0.1:{port}/fleet: Connection refused"]
    assert slept == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
