"""Recording -> agent -> HTTP -> cloud -> export gives exactly what cantools gives frame by frame.

In the middle the link is cut and the agent is killed. The agent and the cloud are real processes,
the link is a relay of real sockets.
"""

import asyncio
import collections
import csv
import signal
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent.bench.link import Link
from agent.bench.play import candump_lines
from agent.bench.vehicle import VirtualVehicle, dbc_path
from agent.blocks import FrameBlock
from agent.bus import read_log
from agent.cli import main
from agent.clock import MILLISECOND, BootNs
from tests import processes
from tests.shared_data import needs_shared, shared
from tests.signals.reference import LOGS, PAIRS, Cantools

PLAY_S = 5.0


class Drive(NamedTuple):
    """A recording and what belongs to it."""

    log: Path
    channel: str | None
    dbc: Path
    j1939: bool


Samples = dict[str, Counter[tuple[int, str, float]]]
"""Signal -> (time in ms, exact raw value as text, physical value), and how often."""


def by_cantools(drive: Drive) -> tuple[Samples, int, float]:
    """What must arrive, how many frames there are, and how many seconds they took."""
    reference = Cantools(drive.dbc.read_text("utf-8-sig"), j1939=drive.j1939)
    samples: Samples = collections.defaultdict(Counter)
    frames = 0
    times: list[int] = []
    with read_log(drive.log, channel=drive.channel, bus="bus") as blocks:
        for block in blocks:
            frames += len(block)
            times += [int(block.time.min()), int(block.time.max())]
            numbered = FrameBlock.from_arrays(
                bus="bus",
                time=range(len(block)),
                id=block.id,
                length=block.length,
                flags=block.flags,
                data=block.data,
            )
            for (message, source, name), column in reference.columns(numbered).items():
                key = f"{message}.{name}" + ("" if source is None else f"@{source}")
                samples[key].update(
                    (int(block.time[i]) // MILLISECOND, str(raw), physical)
                    for i, raw, physical in zip(*column, strict=True)
                )
    return dict(samples), frames, (max(times) - min(times)) / 1e9


def exported(cloud: Path, target: Path) -> Samples:
    """What `edge-agent batch export` makes of everything that the cloud has."""
    assert main(["batch", "export", str(cloud), "--to", str(target)]) == 0
    samples: Samples = collections.defaultdict(Counter)
    with target.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            source = f"@{row['source']}" if row["source"] else ""
            key = f"{row['message']}.{row['signal']}{source}"
            assert int(row["time_ns"]) % MILLISECOND == 0
            assert row["clock"] == "recorded"
            samples[key][int(row["time_ns"]) // MILLISECOND, row["raw"], float(row["value"])] += 1
    return dict(samples)


def configuration(folder: Path, drive: Drive, port: int, speed: float) -> Path:
    (folder / "plan.toml").write_text(
        f"""
        version = 1
        name = "all"
        [[database]]
        bus = "*"
        files = ["{drive.dbc}"]
        j1939 = {str(drive.j1939).lower()}
        [[campaign]]
        name = "all"
        signals = ["*"]
        """
    )
    path = folder / "agent.toml"
    path.write_text(
        f"""
        vehicle = "car"
        plan = "plan.toml"
        state_dir = "state"
        [[bus]]
        name = "bus"
        kind = "recording"
        path = "{drive.log}"
        channel = "{drive.channel or ""}"
        speed = {speed}
        block_ms = 50
        [[uplink]]
        name = "cloud"
        url = "http://127.0.0.1:{port}"
        [batch]
        seal_after_s = 1
        [spool]
        commit_interval_s = 0.2
        """
    )
    return path


async def run_with_troubles(folder: Path, drive: Drive, frames: int, seconds: float) -> Any:
    """Cut the link, kill the agent, start it again, restore the link; gives the last status."""
    socket = folder / "state" / "agent.sock"

    def read(share: float) -> Any:
        status = processes.status(socket)
        if status is None:
            return None
        bus, uplink = status["ledger"]["bus"]["bus"], status["ledger"]["uplink"]["cloud"]
        enough = bus["received"] >= share * frames and uplink["waiting"] > 0
        return status if enough else None

    async with processes.cloud(folder / "cloud") as port, Link("127.0.0.1", port) as link:
        config = configuration(folder, drive, link.port, seconds / PLAY_S)
        log = folder / "agent.log"
        agent = await processes.start("run", "-c", str(config), "--drain", log=log)
        await processes.until(lambda: read(0.1), "the first tenth was read")
        link.cut()
        before = await processes.until(lambda: read(0.3), "three tenths were read")
        assert await processes.stop(agent, signal.SIGKILL) == -signal.SIGKILL
        assert before["ledger"]["bus"]["bus"]["received"] < frames, "killed in the middle"
        agent = await processes.start("run", "-c", str(config), "--drain", log=log)
        await processes.until(lambda: read(0.1), "the agent goes on without a link")
        tried = link.connections
        await processes.until(lambda: link.connections > tried or None, "the cut link is tried")
        link.restore()
        assert await asyncio.wait_for(agent.wait(), processes.LIMIT_S) == 0, log.read_text()
        assert link.connections > tried + 1
    return before


def check(drive: Drive) -> None:
    expected, frames, seconds = by_cantools(drive)
    with tempfile.TemporaryDirectory() as name:  # a short path, as sockets need it
        folder = Path(name)
        asyncio.run(run_with_troubles(folder, drive, frames, seconds))
        arrived = exported(folder / "cloud", folder / "all.csv")
    assert sorted(arrived) == sorted(expected)
    for signal_name, samples in expected.items():
        assert arrived[signal_name] == samples, signal_name


@needs_shared
@pytest.mark.parametrize(("log", "dbc"), PAIRS)
def test_a_real_recording_arrives_exactly_through_a_cut_and_a_kill(log: str, dbc: str) -> None:
    name, channel = LOGS[log]
    check(Drive(shared(f"logs/{name}"), channel, shared(f"dbc/{dbc}"), PAIRS[log, dbc]))


def test_a_generated_recording_arrives_exactly_through_a_cut_and_a_kill(tmp_path: Path) -> None:
    log = tmp_path / "drive.log"
    vehicle = VirtualVehicle(seed=7, start=BootNs(1_767_225_600_000_000_000))
    log.write_text("".join(candump_lines(vehicle.frames(30.0), "can0")))
    check(Drive(log, None, dbc_path(), j1939=False))
