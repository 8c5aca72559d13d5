"""A recording that canplayer puts on a virtual bus, and that the agent reads from there.

What reaches the cloud adds up to the same figures as `decode --summary` of the file.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pytest

from agent.batch import read_batch
from agent.bench.play import candump_lines
from agent.bench.vehicle import VirtualVehicle, dbc_path
from agent.blocks import FD_BIT_RATE_SWITCH, FD_FRAME, FrameBlock
from agent.bus import read_log
from agent.clock import MILLISECOND, SECOND, BootNs
from agent.signals.summary import Summary
from tests import processes
from tests.shared_data import needs_shared, shared
from tests.signals.reference import LOGS, PAIRS
from tests.vm.links import Links

pytestmark = pytest.mark.vm

PLAY_S: Final = 8.0
OWN_TABLES: Final = ("BusState.", "BusError.")
TIMES: Final = ("first_time", "last_time")
FD_DATABASE: Final = """VERSION ""
BS_:
BU_: ECU
BO_ 2147483905 Wide: 64 ECU
 SG_ First : 0|16@1+ (0.5,0) [0|0] "V" Vector__XXX
 SG_ Middle : 255|32@0- (1,0) [0|0] "" Vector__XXX
 SG_ Last : 448|64@1+ (1,0) [0|0] "" Vector__XXX
BO_ 258 Short: 12 ECU
 SG_ Tail : 80|16@1- (0.1,-40) [0|0] "degC" Vector__XXX
"""


class Drive(NamedTuple):
    """A candump log with one channel, and what describes it."""

    log: Path
    dbc: Path
    j1939: bool = False


def written(folder: Path, blocks: Iterator[FrameBlock]) -> Path:
    """Blocks as a candump log, its times shrunk so that it plays for at most `PLAY_S`."""
    several = list(blocks)
    first = int(several[0].time[0])
    longest = max(int(block.time.max()) for block in several) - first
    shrink = max(1.0, longest / (PLAY_S * SECOND))
    log = folder / "drive.log"
    with log.open("w", encoding="ascii") as file:
        for block in several:
            block.time[:] = first + ((block.time - first) / shrink).astype(np.int64)
            file.writelines(candump_lines(block, "can0"))
    return log


def begin_of(name: str, channel: str | None, frames: int) -> Iterator[FrameBlock]:
    """The first blocks of a recording, together at least so many frames if it has them."""
    count = 0
    with read_log(shared(f"logs/{name}"), channel=channel, bus="can0") as reader:
        for block in reader:
            yield block
            count += len(block)
            if count >= frames:
                return


def fd_frames() -> FrameBlock:
    random = np.random.default_rng(5)
    n = 4_000
    wide = np.arange(n) % 2 == 0
    data = random.integers(0, 256, (n, 64), np.uint8)
    data[~wide, 12:] = 0
    return FrameBlock.from_arrays(
        bus="can0",
        time=np.arange(n) * MILLISECOND,
        id=np.where(wide, 0x8000_0101, 0x102),
        length=np.where(wide, 64, 12),
        flags=FD_FRAME | np.where(np.arange(n) % 4 < 2, FD_BIT_RATE_SWITCH, 0),
        data=data,
    )


def of_the_file(drive: Drive) -> dict[str, Any]:
    """What `edge-agent decode --summary` says."""
    words = ["decode", str(drive.log), "--dbc", str(drive.dbc), "--summary", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli", *words, *(["--j1939"] if drive.j1939 else [])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


def configuration(folder: Path, drive: Drive, interface: str, port: int) -> Path:
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
        kind = "socketcan"
        interface = "{interface}"
        [[uplink]]
        name = "cloud"
        url = "http://127.0.0.1:{port}"
        [batch]
        seal_after_s = 1
        [spool]
        commit_interval_s = 0.5
        """
    )
    return path


async def played(folder: Path, drive: Drive, interface: str, frames: int) -> dict[str, int]:
    """Play the log to an agent whose batches go to a cloud; gives the ledger's row of the bus."""
    player = shutil.which("canplayer")
    assert player, "canplayer is missing; on Debian it is in can-utils"
    socket = folder / "state" / "agent.sock"

    def reading() -> Any:
        status = processes.status(socket)
        return status and status["buses"][0]["state"] == "reading"

    def arrived() -> Any:
        status = processes.status(socket)
        if status is None:
            return None
        bus, uplink = status["ledger"]["bus"]["bus"], status["ledger"]["uplink"]["cloud"]
        done = bus["received"] >= frames and not bus["queued"]
        return bus if done and uplink["kept"] == uplink["acknowledged"] else None

    log = folder / "agent.log"
    async with processes.cloud(folder / "cloud") as port:
        config = configuration(folder, drive, interface, port)
        agent = await processes.start("run", "-c", str(config), log=log)
        try:
            await processes.until(reading, "the agent reads the bus")
            playing = await asyncio.create_subprocess_exec(
                player, "-I", str(drive.log), f"{interface}=can0"
            )
            assert await asyncio.wait_for(playing.wait(), processes.LIMIT_S) == 0
            bus: dict[str, int] = await processes.until(arrived, "everything is at the cloud")
        finally:
            status = await processes.stop(agent)
            sys.stderr.write(log.read_text())  # shown where the test fails
    assert status == 0
    return bus


def check(drive: Drive, interface: str) -> None:
    expected = of_the_file(drive)
    with tempfile.TemporaryDirectory() as name:  # a short path, as sockets need it
        folder = Path(name)
        bus = asyncio.run(played(folder, drive, interface, expected["frames"]))
        summary = Summary()
        summary.add(read_batch(*sorted((folder / "cloud").rglob("*.batch"))))

    assert bus["dropped"] == 0
    assert {
        "frames": bus["read"],
        "decoded_frames": bus["decoded"],
        "unknown_frames": bus["unknown"],
        "undecodable_frames": bus["undecodable"],
        "remote_or_error_frames": bus["remote"] + bus["error"],
    } == {key: expected[key] for key in expected if key not in (*TIMES, "signals")}
    found = {
        name: figures
        for name, figures in summary.as_json()["signals"].items()
        if not name.startswith(OWN_TABLES)
    }
    assert found.keys() == expected["signals"].keys()
    for name, figures in expected["signals"].items():
        # Blocks are cut at other places, so that sums of floats are rounded at others.
        wanted = {
            key: pytest.approx(value, rel=1e-9, abs=1e-9) if key == "sum" else value
            for key, value in figures.items()
            if key not in TIMES
        }
        assert {key: found[name][key] for key in wanted} == wanted, name


def test_a_generated_drive(vcan: Links, tmp_path: Path) -> None:
    vehicle = VirtualVehicle(seed=3, start=BootNs(1_767_225_600_000_000_000))
    log = written(tmp_path, iter([vehicle.frames(PLAY_S)]))

    check(Drive(log, dbc_path()), vcan())


def test_can_fd(vcan: Links, tmp_path: Path) -> None:
    dbc = tmp_path / "fd.dbc"
    dbc.write_text(FD_DATABASE)
    log = written(tmp_path, iter([fd_frames()]))

    check(Drive(log, dbc), vcan())


@needs_shared
@pytest.mark.parametrize(
    ("log", "dbc"),
    [("kona csv", "kona_pcan_fixed.dbc"), ("kona asc", "kona_pcan_fixed.dbc")],
)
def test_a_real_recording(log: str, dbc: str, vcan: Links, tmp_path: Path) -> None:
    name, channel = LOGS[log]
    played_log = written(tmp_path, begin_of(name, channel, 15_000))

    check(Drive(played_log, shared(f"dbc/{dbc}"), PAIRS[log, dbc]), vcan())


@needs_shared
def test_a_candump_as_it_was_recorded(vcan: Links, tmp_path: Path) -> None:
    """Its stamps are whole seconds: 1,600 frames come at once, eight times."""
    log = tmp_path / "candump.log"
    log.write_text(shared("logs/savvycan_candump.log").read_text().replace(" vcan0 ", " can0 "))
    with read_log(log) as reader:
        ids = sorted({int(i) for block in reader for i in np.unique(block.id)})
    # Nobody has published a database for this vehicle; so each id has eight bytes to look at.
    lines = ['VERSION ""', "BS_:", "BU_: ECU"]
    for i in ids:
        lines += [f"BO_ {i} M{i:X}: 8 ECU", *_eight_bytes()]
    dbc = tmp_path / "bytes.dbc"
    dbc.write_text("\n".join(lines) + "\n")

    check(Drive(log, dbc), vcan())


def _eight_bytes() -> list[str]:
    return [f' SG_ B{n} : {8 * n}|8@1+ (1,0) [0|0] "" Vector__XXX' for n in range(8)]
