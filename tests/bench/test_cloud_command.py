"""`edge-agent cloud`, as a person starts it."""

import argparse
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agent.commands import cloud
from agent.errors import ConfigError
from tests.bench.cloudbench import VEHICLE, Client, Drive, files

_PROGRAM = """
import argparse, sys
from agent.commands import cloud
parser = argparse.ArgumentParser()
cloud.add_parser(parser.add_subparsers())
args = parser.parse_args(["cloud", *sys.argv[1:]])
raise SystemExit(cloud.run(args))
"""


def _args(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    cloud.add_parser(parser.add_subparsers())
    return parser.parse_args(["cloud", *words])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_where_it_listens_tells_each_batch_and_stops_cleanly(
    tmp_path: Path, number: signal.Signals
) -> None:
    batch = Drive().batch()
    words = ["--listen", "127.0.0.1:0", "--data", str(tmp_path), "--verbose"]
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *words], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline().split()
        url = first[2].rstrip(",")
        host, _, port = url.removeprefix("http://").rpartition(":")
        assert Client(host, int(port)).put(batch).status == 201
        line = process.stdout.readline()
        process.send_signal(number)
        assert process.wait(30) == 0
    assert first[-1] == str(tmp_path)
    assert line.startswith(f"{VEHICLE} {batch.batch_id} ")
    assert len(files(tmp_path)) == 1


def test_a_port_in_use_is_said_in_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: .*--listen"):
            cloud.run(_args("--listen", f"127.0.0.1:{port}", "--data", str(tmp_path)))


def test_a_folder_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--data"):
        cloud.run(_args("--listen", "127.0.0.1:0", "--data", str(tmp_path / "file")))


@pytest.mark.parametrize("text", ["8080", "localhost:", "localhost:http", "localhost:70000"])
def test_an_address_that_cannot_be_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        cloud.run(_args("--listen", text, "--data", str(tmp_path)))


def test_it_serves_a_repository_beside_its_batches(tmp_path: Path) -> None:
    metadata = tmp_path / "repository" / "metadata"
    metadata.mkdir(parents=True)
    (metadata / "timestamp.json").write_bytes(b"{}")
    words = ["--listen", "127.0.0.1:0", "--data", str(tmp_path / "data")]
    words += ["--ota", str(metadata.parent)]
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *words], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[2].rstrip(",")
        host, _, port = url.removeprefix("http://").rpartition(":")
        answer = Client(host, int(port)).ask("GET", "/ota/metadata/timestamp.json")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert (answer.status, answer.body) == (200, b"{}")


def test_a_repository_that_is_not_there_is_refused_at_the_start(tmp_path: Path) -> None:
    words = ("--listen", "127.0.0.1:0", "--data", str(tmp_path / "data"))
    with pytest.raises(ConfigError, match="no such folder"):
        cloud.run(_args(*words, "--ota", str(tmp_path / "nothing")))
