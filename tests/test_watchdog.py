"""systemd's watchdog and the agent as a process: what it does while decoding hangs, and after."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.observe.notify import STOPPING
from tests import processes

HANG = """
import sys
import time
from pathlib import Path

from agent.cli import main
from agent.pipeline import Pipeline

take, brake = Pipeline.take, Path(sys.argv.pop(1))


def take_while_free(*args, **kwargs):
    while brake.exists():
        time.sleep(0.01)
    return take(*args, **kwargs)


Pipeline.take = take_while_free
sys.exit(main())
"""
"""The agent, whose decode thread hangs in a block for as long as a file is there."""

DBC = """VERSION ""
BU_: A
BO_ 256 Motion: 8 A
 SG_ Speed : 0|16@1+ (0.01,0) [0|655] "km/h" A
"""
PLAN = """version = 1
name = "test"
database = [{ bus = "*", files = ["tiny.dbc"] }]
[[campaign]]
name = "all"
signals = ["*"]
"""
DEVICE = """vehicle = "car-1"
plan = "plan.toml"
state_dir = "state"
[[bus]]
name = "powertrain"
kind = "recording"
path = "drive.log"
speed = 1.0
[spool]
free_floor_mb = 0
[[uplink]]
name = "cloud"
url = "http://127.0.0.1:9"
"""


@pytest.fixture
def vehicle(tmp_path: Path) -> Path:
    """A vehicle with an hour of a bus."""
    frames = (f"({n / 10:.6f}) can0 100#{n % 65536:04X}000000000000\n" for n in range(36_000))
    files = {"tiny.dbc": DBC, "plan.toml": PLAN, "agent.toml": DEVICE, "drive.log": "".join(frames)}
    for name, text in files.items():
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd would listen on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def told(manager: socket.socket) -> list[bytes]:
    """What was told since the last look."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(manager.recv(4096))
    return found


def uptime_s(vehicle: Path) -> float:
    status = processes.status(vehicle / "state/agent.sock")
    assert status is not None
    return float(status["uptime_s"])


def test_while_decoding_hangs_nothing_is_fed(vehicle: Path, manager: socket.socket) -> None:
    asyncio.run(hang(vehicle, manager))


async def hang(vehicle: Path, manager: socket.socket) -> None:
    brake, log = vehicle / "brake", vehicle / "agent.log"
    environment = {"NOTIFY_SOCKET": str(manager.getsockname()), "WATCHDOG_USEC": "1000000"}
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", HANG, str(brake), "run", "-c", str(vehicle / "agent.toml")),
            stderr=errors,
            env=environment,
        )
    try:
        await processes.until(lambda: b"WATCHDOG=1" in told(manager), "it is fed")
        brake.touch()
        await processes.until(lambda: "decoding hangs" in log.read_text("utf-8"), "it is noticed")
        told(manager)

        # The event loop goes on, and answers; but what it tells systemd is not that all is well.
        noticed_s = uptime_s(vehicle)
        await processes.until(lambda: uptime_s(vehicle) > noticed_s + 2, "it answers for a while")
        assert told(manager) == []

        brake.unlink()
        await processes.until(lambda: b"WATCHDOG=1" in told(manager), "it is fed again")
    finally:
        assert await processes.stop(process) == 0
    assert STOPPING.encode() in told(manager)  # a slow end is no hang
    said = log.read_text("utf-8")
    assert "in take_while_free" in said  # where it hung
    assert "decoding goes on" in said
