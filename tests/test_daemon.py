"""The agent as a process: recordings in, batches at a real cloud, signals, locks, the socket."""

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent.batch import BatchReader, read_batch
from agent.errors import AgentError
from agent.ledger import differences
from agent.observe.socket import ask

DBC = """VERSION ""
BU_: A
BO_ 256 Motion: 8 A
 SG_ Speed : 0|16@1+ (0.01,0) [0|655] "km/h" A
 SG_ Distance : 16|32@1+ (1,0) [0|0] "m" A
"""

PLAN = """version = 1
name = "test"
[[database]]
bus = "*"
files = ["tiny.dbc"]
[[campaign]]
name = "all"
signals = ["Motion.*"]
[[campaign]]
name = "speed"
signals = ["Speed"]
every_ms = 1000
lane = "event"
"""

DEADLINE_S = 30.0


def until(condition: Callable[[], Any]) -> Any:
    """Wait for something to be so, and give what it was."""
    deadline = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
    return found


class Bench:
    """A vehicle with one recording as its bus, and a cloud that may be there or not."""

    def __init__(self, folder: Path, processes: contextlib.ExitStack) -> None:
        self.folder = folder
        self._processes = processes
        self.port = 0
        (folder / "tiny.dbc").write_text(DBC)
        (folder / "plan.toml").write_text(PLAN)

    def record(self, frames: int) -> None:
        """Frames at 10 ms, each with a distance of its own."""
        lines = [
            f"({i / 100:.6f}) can0 100#{i % 65536:04x}{i:08x}0000".upper().replace("CAN0", "can0")
            for i in range(frames)
        ]
        (self.folder / "drive.log").write_text("\n".join(lines) + "\n")

    def configure(self, *, speed: float = 0, kind: str = "http") -> None:
        (self.folder / "agent.toml").write_text(
            f"""vehicle = "car-1"
plan = "plan.toml"
state_dir = "state"
[[bus]]
name = "powertrain"
kind = "recording"
path = "drive.log"
speed = {speed}
[[uplink]]
name = "cloud"
kind = "{kind}"
url = "http://127.0.0.1:{self.port or 9}"
[spool]
commit_interval_s = 0.1
free_floor_mb = 0
"""
        )

    def agent(self, *options: str) -> "subprocess.Popen[str]":
        words = ["-m", "agent.cli", "run", "-c", str(self.folder / "agent.toml"), *options]
        return self._start(words, stderr=subprocess.PIPE)

    def cloud(self) -> None:
        """Start the reference cloud."""
        data = str(self.folder / "cloud")
        process = self._start(
            ["-m", "agent.cli", "cloud", "--listen", "127.0.0.1:0", "--data", data],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        match = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert match
        self.port = int(match[1])

    def _start(self, words: list[str], **streams: Any) -> "subprocess.Popen[str]":
        process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, *words], text=True, **streams
        )
        self._processes.enter_context(process)
        self._processes.callback(_kill, process)
        return process

    def status(self) -> Any:
        """What the running agent says; None while none answers."""
        try:
            return ask(self.folder / "state/agent.sock", "status")
        except AgentError:
            return None

    def spooled(self) -> list[Path]:
        """Sealed batches that wait for the cloud."""
        return sorted((self.folder / "state/spool/uplinks/cloud").rglob("*.batch"))

    def open(self) -> list[Path]:
        return sorted((self.folder / "state/spool/open").glob("*.batch"))

    def arrived(self) -> list[Path]:
        return sorted((self.folder / "cloud").rglob("*.batch"))


def _kill(process: "subprocess.Popen[str]") -> None:
    if process.poll() is None:
        process.kill()


def _said(process: "subprocess.Popen[str]") -> str:
    """Wait for the end of a process; what it wrote on standard error."""
    return process.communicate(timeout=DEADLINE_S)[1]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with contextlib.ExitStack() as processes:
        yield Bench(tmp_path, processes)


def _distances(paths: list[Path]) -> list[int]:
    tables = (t for path in paths for t in read_batch(path) if t.campaign == "all")
    return sorted(v for table in tables for v in table.raw["Distance"].tolist())


def _expected(frames: int) -> list[int]:
    return [int.from_bytes(i.to_bytes(4, "big"), "little") for i in range(frames)]


def _finals(paths: list[Path]) -> list[bool]:
    """By batch in order: whether it says that its run has ended well."""
    return [
        any(v["final"] for kind, v in BatchReader(p).records() if kind == "ledger") for p in paths
    ]


def test_all_of_a_recording_arrives_and_drain_ends(bench: Bench) -> None:
    bench.record(5000)
    bench.cloud()
    bench.configure()
    agent = bench.agent("--drain")
    said = _said(agent)
    assert agent.returncode == 0, said
    assert _distances(bench.arrived()) == sorted(_expected(5000))
    assert bench.spooled() == []
    assert True in _finals(bench.arrived())


def test_sigterm_leaves_with_all_in_sealed_batches(bench: Bench) -> None:
    """Also while the recording plays and no cloud is there; the next run goes on from there."""
    bench.record(3000)
    bench.configure(speed=2)
    agent = bench.agent()
    until(lambda: (s := bench.status()) and s["ledger"]["uplink"]["cloud"]["spooled"] > 100)
    agent.send_signal(signal.SIGTERM)
    said = _said(agent)
    assert agent.returncode == 0, said
    first = bench.spooled()
    assert all(BatchReader(p).scan().whole for p in first)
    assert True in _finals(first)
    assert not [p for p in bench.open() if BatchReader(p).count_samples()]
    some = _distances(first)
    assert 0 < len(some) < 3000

    bench.cloud()
    bench.configure()
    agent = bench.agent("--drain")
    said = _said(agent)
    assert agent.returncode == 0, said
    assert "goes on at frame" in said
    assert _distances(bench.arrived()) == sorted(_expected(3000))


def test_a_killed_agent_loses_nothing_and_doubles_nothing(bench: Bench) -> None:
    bench.record(2000)
    bench.configure(speed=4)
    agent = bench.agent()
    until(lambda: (s := bench.status()) and s["ledger"]["uplink"]["cloud"]["spooled"] > 100)
    agent.kill()
    _said(agent)

    bench.cloud()
    bench.configure()
    agent = bench.agent("--drain")
    said = _said(agent)
    assert agent.returncode == 0, said
    assert _distances(bench.arrived()) == sorted(_expected(2000))


def test_a_second_agent_on_the_same_spool_is_refused_in_a_sentence(bench: Bench) -> None:
    bench.record(1000)
    bench.configure(speed=1)
    first = bench.agent()
    until(bench.status)
    second = bench.agent()
    said = _said(second)
    assert second.returncode == 1
    assert "another edge-agent is using this spool; stop it, or choose another state_dir" in said
    assert "Traceback" not in said
    assert bench.status()  # the first one did not notice
    first.send_signal(signal.SIGINT)
    said = _said(first)
    assert first.returncode == 0, said


def test_a_running_agent_answers_on_its_socket(bench: Bench) -> None:
    bench.record(1000)
    bench.configure(speed=1)
    bench.agent()
    status = until(bench.status)
    assert (status["vehicle"], status["plan"]) == ("car-1", "test")
    assert [b["name"] for b in status["buses"]] == ["powertrain"]
    assert [u["name"] for u in status["uplinks"]] == ["cloud"]
    (finding,) = status["database"]["findings"]
    assert "tiny.dbc: BS_: the file has no section" in finding
    for _ in range(20):  # at whatever moment
        status = bench.status()
        assert status["differences"] == differences(status["ledger"]) == []
    until(lambda: bench.status()["spool"]["open"])
    with pytest.raises(AgentError, match="unknown command"):
        ask(bench.folder / "state/agent.sock", "nonsense")


def test_without_a_cloud_data_stays_and_arrives_once_it_is_there(bench: Bench) -> None:
    bench.record(2000)
    bench.cloud()
    port, bench.port = bench.port, 9  # discard: nothing listens there
    bench.configure()
    agent = bench.agent("--drain")
    until(bench.spooled)
    status = until(lambda: (s := bench.status()) and s["uplinks"][0]["attempts"] and s)
    assert status["uplinks"][0]["state"] == "waiting"
    agent.send_signal(signal.SIGTERM)
    said = _said(agent)
    assert agent.returncode == 0, said
    assert _distances(bench.spooled()) == sorted(_expected(2000))

    bench.port = port
    bench.configure()
    agent = bench.agent("--drain")
    said = _said(agent)
    assert agent.returncode == 0, said
    assert bench.spooled() == []
    assert _distances(bench.arrived()) == sorted(_expected(2000))


class NoGoodbye(BaseHTTPRequestHandler):
    """An object store that takes every batch but those that tell the end of a run."""

    refused = threading.Event()
    folder: Path

    def do_PUT(self) -> None:
        path = self.folder / self.path.rpartition("/")[2]
        path.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
        last = _finals([path])[0]
        self.send_response(503 if last else 201)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if last:
            self.refused.set()

    def log_message(self, *_: object) -> None:
        pass


def test_a_drained_agent_that_waits_with_its_last_words_obeys_sigterm(bench: Bench) -> None:
    """All has arrived; only the word that the run has ended well finds nobody to take it."""
    NoGoodbye.folder = bench.folder
    with ThreadingHTTPServer(("127.0.0.1", 0), NoGoodbye) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        bench.port = server.server_port
        bench.record(500)
        bench.configure(kind="object-store")
        agent = bench.agent("--drain")
        assert NoGoodbye.refused.wait(DEADLINE_S)
        until(lambda: (s := bench.status()) and s["uplinks"][0]["state"] == "waiting")
        agent.send_signal(signal.SIGTERM)
        said = _said(agent)
        server.shutdown()
    assert agent.returncode == 0, said
    assert len(bench.spooled()) == 2  # one a stream


def test_a_key_that_is_off_seals_sends_and_rests_and_wakes_again(bench: Bench) -> None:
    bench.record(20_000)
    bench.cloud()
    bench.configure(speed=5)
    agent = bench.agent()
    until(lambda: (s := bench.status()) and s["ledger"]["uplink"]["cloud"]["spooled"] > 100)
    assert bench.arrived() == []
    socket = bench.folder / "state/agent.sock"
    assert ask(socket, "sleep")["state"] == "sealing"
    until(lambda: bench.status()["ignition"]["state"] == "asleep")
    slept = len(bench.arrived())
    assert slept
    before = bench.status()["ledger"]["bus"]["powertrain"]["read"]
    until(lambda: bench.status()["ledger"]["bus"]["powertrain"]["read"] > before)
    assert len(bench.arrived()) == slept
    assert ask(socket, "wake")["state"] == "awake"
    assert ask(socket, "sleep")["state"] == "sealing"
    until(lambda: len(bench.arrived()) > slept)
    agent.send_signal(signal.SIGTERM)
    said = _said(agent)
    assert agent.returncode == 0, said
    assert "key off: all is sent; the computer may sleep" in said
    kept = _distances(bench.arrived() + bench.spooled())
    assert kept == sorted(_expected(len(kept)))


def test_key_off_by_a_signal_ends_the_program_when_all_is_sent(bench: Bench) -> None:
    """The recording stands still at its end: Speed is 0 there."""
    lines = [f"({i / 100:.6f}) can0 100#{1 if i < 500 else 0:02X}00{i:08X}0000" for i in range(900)]
    (bench.folder / "drive.log").write_text("\n".join(lines) + "\n")
    bench.cloud()
    bench.configure(speed=10)
    with (bench.folder / "agent.toml").open("a") as file:
        file.write('[ignition]\nsignal = "Motion.Speed"\noff_after_s = 0\nwhen_done = "exit"\n')
    agent = bench.agent()
    said = _said(agent)
    assert agent.returncode == 0, said
    assert "the computer may sleep" in said
    assert len(_distances(bench.arrived())) > 500


def test_a_command_at_key_off_that_does_not_end_holds_up_nothing(bench: Bench) -> None:
    bench.record(20_000)
    bench.cloud()
    bench.configure(speed=1)
    with (bench.folder / "agent.toml").open("a") as file:
        file.write('[ignition]\nwhen_done = "command"\ncommand = ["sleep", "1000"]\n')
    agent = bench.agent()
    until(bench.status)
    socket = bench.folder / "state/agent.sock"
    for _ in range(2):
        assert ask(socket, "sleep")["state"] == "sealing"
        until(lambda: bench.status()["ignition"]["state"] == "asleep")
        assert ask(socket, "wake")["state"] == "awake"
    agent.send_signal(signal.SIGTERM)
    said = _said(agent)
    assert agent.returncode == 0, said
    assert "Traceback" not in said
