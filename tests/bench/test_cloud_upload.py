"""PUT to the reference cloud: acknowledged means durable, refused means nothing is left."""

import errno
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.bench.cloud.store import Disk, Store, Upload
from agent.errors import ConfigError
from tests.bench.cloudbench import Answer, Batch, Client, Drive, cloud, digest, files


def test_a_stored_batch_is_acknowledged_with_its_digest_and_comes_back_as_it_was(
    tmp_path: Path,
) -> None:
    batch = Drive().batch()
    with cloud(Store(tmp_path)) as client:
        answer = client.put(batch)
        head = client.ask("HEAD", batch.path)
        file = client.ask("GET", batch.path)
    assert answer.status == 201
    assert answer.headers["Content-Digest"] == digest(batch.data) == answer.json["digest"]
    assert answer.headers["Repr-Digest"] == digest(batch.data)
    assert head.status == 200
    assert head.headers["Content-Digest"] == digest(batch.data)
    assert head.headers["Content-Length"] == str(len(batch.data))
    assert file.body == batch.data
    assert file.headers["Content-Digest"] == digest(batch.data)


def test_files_lie_by_vehicle_and_day_of_receipt(tmp_path: Path) -> None:
    batch = Drive().batch()
    with cloud(Store(tmp_path)) as client:
        client.put(batch)
    (name,) = files(tmp_path)
    assert Path(name).match(f"vehicles/car-1/????-??-??/{batch.batch_id}.batch")


def test_an_unknown_batch_is_not_found(tmp_path: Path) -> None:
    with cloud(Store(tmp_path)) as client:
        assert client.ask("HEAD", Drive().batch().path).status == 404
        assert client.ask("GET", Drive().batch().path).status == 404


def test_the_same_batch_again_is_no_harm(tmp_path: Path) -> None:
    batch = Drive().batch()
    plain = {k: v for k, v in batch.headers.items() if k != "If-None-Match"}
    with cloud(Store(tmp_path)) as client:
        assert client.put(batch).status == 201
        assert client.put(batch).status == 412
        again = client.ask("PUT", batch.path, batch.data, plain)
    assert again.status == 200
    assert again.headers["Content-Digest"] == digest(batch.data)
    assert len(files(tmp_path)) == 1


def test_another_batch_under_a_known_id_never_replaces_it(tmp_path: Path) -> None:
    batch, other = Drive().batch(5), Drive().batch(6)
    plain = {k: v for k, v in other.headers.items() if k != "If-None-Match"}
    with cloud(Store(tmp_path)) as client:
        client.put(batch)
        assert client.put(other).status == 412
        conflict = client.ask("PUT", other.path, other.data, plain)
        assert (conflict.status, conflict.code) == (409, "identity-conflict")
        assert client.ask("GET", batch.path).body == batch.data


@pytest.mark.parametrize(
    "field",
    [
        "",
        "sha-256",
        "sha-256=:!!:",
        "sha-256=:AAAA:",
        "sha-512=:AAAA:",
        "sha-256=:AAAA:,",
        "x" * 2000,
    ],
)
def test_a_malformed_digest_is_refused(tmp_path: Path, field: str) -> None:
    batch = Drive().batch()
    with cloud(Store(tmp_path)) as client:
        answer = client.put(batch, **{"Content-Digest": field})
    assert (answer.status, answer.code) == (400, "digest")
    assert files(tmp_path) == []


def test_a_sha_256_beside_other_digests_is_found(tmp_path: Path) -> None:
    batch = Drive().batch()
    field = f"sha-512=:AAAA:, {digest(batch.data)}"
    with cloud(Store(tmp_path)) as client:
        answer = client.put(batch, **{"Content-Digest": field})
    assert answer.status == 201
    assert answer.headers["Content-Digest"] == digest(batch.data)


def test_bytes_that_changed_on_the_way_are_to_be_sent_again(tmp_path: Path) -> None:
    batch = Drive().batch()
    spoiled = bytes([*batch.data[:-1], batch.data[-1] ^ 1])
    with cloud(Store(tmp_path)) as client:
        answer = client.ask("PUT", batch.path, spoiled, batch.headers)
        assert (answer.status, answer.code) == (409, "digest-mismatch")
        assert files(tmp_path) == []
        assert client.put(batch).status == 201


def _flipped(data: bytes) -> bytes:
    return bytes([*data[:-200], data[-200] ^ 0x10, *data[-199:]])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        Drive().batch().data[:-10],
        Drive().batch().data[:60],
        Drive().batch().data + b"tail",
        _flipped(Drive().batch().data),
        Drive(run=2).batch().data,
    ],
    ids=["empty", "text", "cut in a chunk", "cut in the header", "tail", "bit", "other id"],
)
def test_what_is_no_whole_batch_of_this_address_is_refused(tmp_path: Path, data: bytes) -> None:
    batch = Batch(Drive().batch().batch_id, data, 0)
    with cloud(Store(tmp_path)) as client:
        answer = client.put(batch)
        assert client.ask("GET", "/v1/vehicles").json == {"vehicles": []}
    assert (answer.status, answer.code) == (422, "not-a-batch")
    assert str(tmp_path) not in answer.body.decode()
    assert files(tmp_path) == []


def test_a_batch_of_another_vehicle_is_refused(tmp_path: Path) -> None:
    batch = Drive().batch()
    batch.vehicle = "car-2"
    with cloud(Store(tmp_path)) as client:
        answer = client.put(batch)
    assert answer.status == 422
    assert "car-2" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/vehicles/../batches/00c0ffee-1-telemetry-1", 404),
        ("/v1/vehicles/%2e%2e/batches/00c0ffee-1-telemetry-1", 404),
        ("/v1/vehicles/a%2Fb/batches/00c0ffee-1-telemetry-1", 404),
        ("/v1/vehicles/a%00/batches/00c0ffee-1-telemetry-1", 404),
        (f"/v1/vehicles/{'a' * 65}/batches/00c0ffee-1-telemetry-1", 404),
        ("/v1/vehicles/a/batches/..%2F..%2Fx", 400),
        ("/v1/vehicles/a/batches/00c0ffee-1-telemetry-1%0A", 400),
        ("/v1/vehicles/a/batches/00c0ffee-1-secret-1", 400),
        ("/v1/vehicles/a/batches/00c0ffee-1-telemetry-1/x", 404),
        ("/x" * 5000, 400),
    ],
)
def test_addresses_that_cannot_be_leave_nothing(tmp_path: Path, path: str, status: int) -> None:
    batch = Drive().batch()
    with cloud(Store(tmp_path / "data")) as client:
        assert client.ask("PUT", path, batch.data, batch.headers).status == status
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/html"}, 415),
        ({"Content-Encoding": "gzip"}, 415),
        ({"If-None-Match": '"x"'}, 400),
        ({"Expect": "a pony"}, 417),
        ({"X-Huge": "x" * 20_000}, 400),
    ],
)
def test_heads_that_cannot_be_are_refused(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    with cloud(Store(tmp_path)) as client:
        assert client.put(Drive().batch(), **headers).status == status
    assert files(tmp_path) == []


def test_a_batch_over_the_limit_is_refused_before_its_body(tmp_path: Path) -> None:
    batch = Drive().batch()
    with cloud(Store(tmp_path), max_batch=100) as client:
        assert _talk(client, _head(batch)).startswith(b"HTTP/1.1 413 ")


def test_a_length_is_required(tmp_path: Path) -> None:
    batch = Drive().batch()
    head = _head(batch, "Transfer-Encoding: chunked")
    with cloud(Store(tmp_path)) as client:
        assert _talk(client, head + b"0\r\n\r\n").startswith(b"HTTP/1.1 411 ")


def _head(batch: Batch, *more: str) -> bytes:
    lines = [f"PUT {batch.path} HTTP/1.1", "Host: x", "Connection: close"]
    lines += [f"{k}: {v}" for k, v in batch.headers.items()]
    if not any(line.startswith("Transfer-Encoding") for line in more):
        lines.append(f"Content-Length: {len(batch.data)}")
    return "\r\n".join([*lines, *more, "", ""]).encode()


def _talk(client: Client, data: bytes) -> bytes:
    """Send bytes, nothing after them, and read up to the end of the first answer in JSON."""
    with socket.create_connection((client.host, client.port), timeout=30) as connection:
        connection.sendall(data)
        answer = b""
        while not answer.endswith(b"}\n") and (piece := connection.recv(65536)):
            answer += piece
        return answer


class _Watched(Store):
    """Tells when an upload was given up or finished."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.closed = threading.Event()
        self.begun = threading.Event()

    def upload(self, vehicle: str, batch_id: str) -> Upload:
        upload = super().upload(vehicle, batch_id)
        close = upload.close

        def closing() -> None:
            close()
            self.closed.set()

        upload.close = closing  # type: ignore[method-assign]
        self.begun.set()
        return upload


def test_a_sender_that_goes_away_leaves_nothing(tmp_path: Path) -> None:
    batch = Drive().batch()
    store = _Watched(tmp_path)
    with cloud(store) as client:
        with socket.create_connection((client.host, client.port)) as connection:
            connection.sendall(_head(batch) + batch.data[:100])
            assert store.begun.wait(30)
        assert store.closed.wait(30)
        assert files(tmp_path) == []
        assert client.put(batch).status == 201


def test_an_upload_that_stops_moving_is_given_up(tmp_path: Path) -> None:
    batch = Drive().batch()
    with cloud(Store(tmp_path), stall_timeout_s=0.05) as client:
        answer = _talk(client, _head(batch) + batch.data[:100])
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert files(tmp_path) == []


def test_a_sender_that_asks_first_is_spared_the_body_of_a_known_batch(tmp_path: Path) -> None:
    batch = Drive().batch()
    head = _head(batch, "Expect: 100-continue")
    with cloud(Store(tmp_path)) as client:
        fresh = _talk(client, head + batch.data)
        known = _talk(client, head)
    assert fresh.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 ")
    assert known.startswith(b"HTTP/1.1 412 ")


def test_of_many_uploads_of_one_batch_one_creates_it(tmp_path: Path) -> None:
    batch = Drive().batch()
    with cloud(Store(tmp_path)) as client, ThreadPoolExecutor(8) as pool:
        statuses = sorted(a.status for a in pool.map(lambda _: client.put(batch), range(16)))
    assert statuses == [201] + [412] * 15
    assert len(files(tmp_path)) == 1


class _Diary(Disk):
    """A disk that notes its steps and can fail at one."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.failing = ""

    def _step(self, name: str) -> None:
        if name == self.failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.steps.append(name)

    def write(self, fd: int, data: bytes) -> None:
        self._step("write")
        super().write(fd, data)

    def sync_file(self, fd: int) -> None:
        self._step("sync file")
        super().sync_file(fd)

    def rename(self, source: Path, target: Path) -> None:
        self._step("rename")
        super().rename(source, target)

    def sync_folder(self, path: Path) -> None:
        self._step("sync folder of batches" if path.name[:2] == "20" else "sync folder")
        super().sync_folder(path)


def test_the_answer_comes_after_file_name_and_folder_are_durable(tmp_path: Path) -> None:
    disk = _Diary()
    drive = Drive()
    store = Store(tmp_path, disk=disk)
    with cloud(store, on_received=lambda _: disk.steps.append("answer")) as client:
        client.put(drive.batch())
        disk.steps.clear()
        assert client.put(drive.batch()).status == 201
    assert disk.steps == ["write", "sync file", "rename", "sync folder of batches", "answer"]


@pytest.mark.parametrize(
    "step", ["write", "sync file", "rename", "sync folder", "sync folder of batches"]
)
def test_a_full_disk_is_told_and_keeps_nothing(tmp_path: Path, step: str) -> None:
    batch = Drive().batch()
    disk = _Diary()
    with cloud(Store(tmp_path, disk=disk)) as client:
        disk.failing = step
        assert client.put(batch).status == 507
        assert client.ask("HEAD", batch.path).status == 404
        assert files(tmp_path) == []
        disk.failing = ""
        assert client.put(batch).status == 201


_DYING = """
import asyncio, os, sys
from pathlib import Path
from agent.bench.cloud import Store, create_app, serve
from agent.bench.cloud.store import Disk

class Dying(Disk):
    def sync_file(self, fd):
        die("before file")
        super().sync_file(fd)
        die("after file")

    def rename(self, source, target):
        super().rename(source, target)
        die("after rename")

    def sync_folder(self, path):
        super().sync_folder(path)
        if path.name.startswith("20"):
            die("after folder")

def die(step):
    if step == sys.argv[2]:
        os._exit(9)

async def main():
    store = Store(Path(sys.argv[1]), disk=Dying())
    async with serve(create_app(store), "127.0.0.1", 0) as url:
        print(url, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("step", "kept"),
    [("before file", False), ("after file", False), ("after rename", True), ("after folder", True)],
)
def test_a_cloud_that_dies_before_it_answers_has_the_batch_whole_or_not_at_all(
    tmp_path: Path, step: str, *, kept: bool
) -> None:
    batch = Drive().batch()
    command = [sys.executable, "-c", _DYING, str(tmp_path), step]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        host, _, port = process.stdout.readline().strip().removeprefix("http://").rpartition(":")
        with pytest.raises(ConnectionError):
            Client(host, int(port)).put(batch)
        assert process.wait(30) == 9
    with cloud(Store(tmp_path)) as client:
        there = client.ask("GET", batch.path)
        again = client.put(batch)
    assert there.status == (200 if kept else 404)
    assert there.body == batch.data or not kept
    assert again.status == (412 if kept else 201)
    assert len(files(tmp_path)) == 1


def test_a_restart_finds_every_batch_and_clears_away_half_ones(tmp_path: Path) -> None:
    drive = Drive()
    batches = [drive.batch() for _ in range(3)]
    with cloud(Store(tmp_path)) as client:
        for batch in batches:
            client.put(batch)
    (tmp_path / "incoming" / "left.part").write_bytes(b"half")
    with cloud(Store(tmp_path)) as client:
        answers: list[Answer] = [client.ask("HEAD", b.path) for b in batches]
        assert client.put(batches[0]).status == 412
    assert [a.headers["Content-Digest"] for a in answers] == [digest(b.data) for b in batches]
    assert len(files(tmp_path)) == 3


def test_a_data_folder_has_one_owner(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(ConfigError, match="another cloud"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


def test_a_data_folder_that_cannot_be_made_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot keep batches here: Not a directory"):
        Store(tmp_path / "file" / "data")
