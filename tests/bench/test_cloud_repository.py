"""A repository of configuration below `/ota/`: its files, and nothing else."""

import contextlib
import http.client
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.bench.cloud.repository import Repository
from agent.bench.cloud.store import Store
from agent.errors import ConfigError
from tests.bench.cloudbench import Answer, Client, cloud

METADATA = b'{"signed": {}}'
BUNDLE = bytes(range(256)) * 1000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository, with what does not concern vehicles beside it."""
    root = tmp_path / "repository"
    (root / "metadata").mkdir(parents=True)
    (root / "targets" / "bundles").mkdir(parents=True)
    (root / "metadata" / "timestamp.json").write_bytes(METADATA)
    (root / "targets" / "bundles" / "ev-3.bundle").write_bytes(BUNDLE)
    (root / "targets" / ".half").write_bytes(b"secret")
    (root / "keys").mkdir()
    (root / "keys" / "root.key").write_bytes(b"secret")
    (tmp_path / "outside").write_bytes(b"secret")
    return root


@contextlib.contextmanager
def serving(root: Path) -> Iterator[Client]:
    with cloud(Store(root.parent / "data"), ota=Repository(root)) as client:
        yield client


def tag_of(answer: Answer) -> str:
    return {name.lower(): value for name, value in answer.headers.items()}["etag"]


def test_metadata_and_targets_are_given_as_they_are(root: Path) -> None:
    with serving(root) as client:
        metadata = client.ask("GET", "/ota/metadata/timestamp.json")
        bundle = client.ask("GET", "/ota/targets/bundles/ev-3.bundle")
        head = client.ask("HEAD", "/ota/targets/bundles/ev-3.bundle")
    assert (metadata.status, metadata.body) == (200, METADATA)
    assert (bundle.status, bundle.body) == (200, BUNDLE)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(BUNDLE))
    assert tag_of(head) == tag_of(bundle)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_has_it_already_gets_no_content_until_it_changes(root: Path, method: str) -> None:
    path = "/ota/metadata/timestamp.json"

    def ask(client: Client, tags: str) -> Answer:
        return client.ask(method, path, headers={"If-None-Match": tags})

    with serving(root) as client:
        tag = tag_of(client.ask("GET", path))
        for tags in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            answer = ask(client, tags)
            assert (answer.status, answer.body, tag_of(answer)) == (304, b"", tag)
        for tags in ('"other"', "", "nonsense", '"'):
            assert ask(client, tags).status == 200
        new = root / "metadata" / "new"
        new.write_bytes(METADATA[::-1])  # as long as the old one
        new.rename(root / "metadata" / "timestamp.json")
        answer = ask(client, tag)
    assert answer.status == 200
    assert tag_of(answer) != tag
    assert answer.body == (METADATA[::-1] if method == "GET" else b"")


def test_a_connection_goes_on_after_an_answer_without_content(root: Path) -> None:
    with serving(root) as client:
        tag = tag_of(client.ask("GET", "/ota/metadata/timestamp.json"))
        connection = http.client.HTTPConnection(client.host, client.port, timeout=30)
        with contextlib.closing(connection):
            for _ in range(3):
                for headers, body in (({"If-None-Match": tag}, b""), ({}, METADATA)):
                    connection.request("GET", "/ota/metadata/timestamp.json", headers=headers)
                    assert connection.getresponse().read() == body


@pytest.mark.parametrize(
    "path",
    [
        "",
        "metadata",
        "metadata/",
        "targets/bundles",
        "targets/bundles/",
        "targets/nothing",
        "targets/.half",
        "targets/bundles/../../keys/root.key",
        "targets/%2e%2e/keys/root.key",
        "targets/..%2Fkeys%2Froot.key",
        "targets//bundles/ev-3.bundle",
        "targets/./bundles/ev-3.bundle",
        "keys/root.key",
        "../outside",
        "%2e%2e/outside",
        "/etc/passwd",
        "metadata//etc/passwd",
        "metadata/%00",
        "metadata/timestamp.json/x",
        "metadata/" + 300 * "x",
        "metadata/%FF%FE",
    ],
)
def test_nothing_else_is_given(root: Path, path: str) -> None:
    with serving(root) as client, socket.create_connection((client.host, client.port), 30) as raw:
        # As a stranger would write it: a library would tidy the address up.
        raw.sendall(f"GET /ota/{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65_536), b""))
    assert answer.split()[1] == b"404"
    assert b"secret" not in answer
    assert b"root:" not in answer


def test_links_out_and_what_is_no_file_are_not_given(root: Path) -> None:
    targets = root / "targets"
    (targets / "out").symlink_to(root.parent / "outside")
    (targets / "key").symlink_to("../keys/root.key")
    (targets / "folder").symlink_to(root.parent)
    (targets / "round").symlink_to("round")
    (targets / "inside").symlink_to("bundles/ev-3.bundle")
    os.mkfifo(targets / "pipe")
    with serving(root) as client:
        for name in ("out", "key", "folder/outside", "round", "pipe"):
            assert client.ask("GET", f"/ota/targets/{name}").status == 404
        assert client.ask("GET", "/ota/targets/inside").body == BUNDLE


def test_a_folder_of_the_two_that_is_a_link_out_is_not_given(root: Path) -> None:
    (root / "metadata").rename(root / "old")
    (root / "metadata").symlink_to(root / "keys")
    with serving(root) as client:
        assert client.ask("GET", "/ota/metadata/root.key").status == 404


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
def test_nothing_can_be_changed(root: Path, method: str) -> None:
    with serving(root) as client:
        answer = client.ask(method, "/ota/metadata/timestamp.json", b"x")
        assert answer.status == 405
        assert client.ask("GET", "/ota/metadata/timestamp.json").body == METADATA


def test_who_is_being_sent_a_file_that_is_replaced_gets_all_of_the_old_one(root: Path) -> None:
    large = root / "targets" / "large"
    size = 64 << 20  # more than fits into the buffers between the two
    with large.open("wb") as file:
        file.truncate(size)
    with serving(root) as client:
        connection = http.client.HTTPConnection(client.host, client.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", "/ota/targets/large")
            response = connection.getresponse()
            (root / "targets" / "new").write_bytes(b"new")
            (root / "targets" / "new").rename(large)
            assert len(response.read()) == size
        assert client.ask("GET", "/ota/targets/large").body == b"new"


def test_a_file_that_becomes_shorter_while_it_is_sent_does_not_look_whole(root: Path) -> None:
    large = root / "targets" / "large"
    with large.open("wb") as file:
        file.truncate(64 << 20)
    with serving(root) as client:
        connection = http.client.HTTPConnection(client.host, client.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", "/ota/targets/large")
            response = connection.getresponse()
            os.truncate(large, 1)
            with pytest.raises((http.client.IncompleteRead, ConnectionError)):
                response.read()
        assert client.ask("GET", "/ota/targets/large").body == b"\0"


def test_without_a_repository_there_is_nothing_below_its_address(tmp_path: Path) -> None:
    with cloud(Store(tmp_path)) as client:
        assert client.ask("GET", "/ota/metadata/timestamp.json").status == 404


def test_a_repository_that_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no such folder.*--ota"):
        Repository(tmp_path / "nothing")
