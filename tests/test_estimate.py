"""`edge-agent estimate` against what a run then uploads, real cloud and all."""

import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.bench.link import Link
from agent.cli import main
from agent.settings import packaged
from tests import processes
from tests.shared_data import needs_shared, shared
from tests.signals.reference import LOGS, PAIRS

SHARE = 0.05
"""How far an estimate may be off."""

PLAN = """
version = 1
name = "estimated"
[[database]]
bus = "*"
files = ["{dbc}"]
j1939 = {j1939}
[[campaign]]
name = "all"
signals = ["*"]
[[campaign]]
name = "slow"
signals = ["*"]
every_ms = 1000
uplinks = ["cloud"]
[[campaign]]
name = "changes"
signals = ["*"]
on_change = true
[[campaign]]
name = "minutes"
signals = ["*"]
window_ms = 5000
[[campaign]]
name = "raw"
frames = [{{ bus = "*" }}]
"""


def estimated(
    capsys: pytest.CaptureFixture[str], log: Path, plan: Path, channel: str | None
) -> dict[str, Any]:
    arguments = ["estimate", str(log), "--plan", str(plan), "--json", "--bus", "bus"]
    arguments += ["--channel", channel] if channel else []
    capsys.readouterr()
    assert main(arguments) in (0, 1)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


async def uploaded(
    folder: Path, log: Path, plan: Path, channel: str | None, speed: float
) -> tuple[int, dict[str, Any]]:
    """Bytes that the cloud has in the end, and the agent's last status."""
    async with processes.cloud(folder / "cloud") as port, Link("127.0.0.1", port) as link:
        config = folder / "agent.toml"
        config.write_text(
            f"""
            vehicle = "car"
            plan = "{plan}"
            state_dir = "state"
            [[bus]]
            name = "bus"
            kind = "recording"
            path = "{log}"
            channel = "{channel or ""}"
            speed = {speed}
            [[uplink]]
            name = "cloud"
            url = "http://127.0.0.1:{link.port}"
            """
        )
        agent = await processes.start("run", "-c", str(config), "--drain", log=folder / "log")
        assert await asyncio.wait_for(agent.wait(), 240) == 0, (folder / "log").read_text()
    files = sorted((folder / "cloud").rglob("*.batch"))
    status: dict[str, Any] = json.loads((folder / "state" / "last-run.json").read_text())
    return sum(path.stat().st_size for path in files), status


def check(
    capsys: pytest.CaptureFixture[str],
    log: Path,
    plan: Path,
    channel: str | None,
    speeds: Sequence[float],
) -> None:
    found = estimated(capsys, log, plan, channel)
    with tempfile.TemporaryDirectory() as name:
        for speed in speeds:
            (Path(name) / f"{speed}").mkdir()
            run = uploaded(Path(name) / f"{speed}", log, plan, channel, speed)
            size, status = asyncio.run(run)
            print(f"{log.name} at {speed}: {found['bytes']:,} estimated, {size:,} uploaded")
            kept = status["ledger"]["campaign"]
            assert {n: row["kept"] for n, row in kept.items()} == {
                n: row["kept"] for n, row in found["ledger"]["campaign"].items()
            }
            assert found["bytes"] == pytest.approx(size, rel=SHARE)


@needs_shared
@pytest.mark.parametrize(("log", "dbc"), PAIRS)
def test_an_estimate_is_what_a_run_then_uploads(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, log: str, dbc: str
) -> None:
    name, channel = LOGS[log]
    plan = tmp_path / "plan.toml"
    path = shared(f"dbc/{dbc}")
    plan.write_text(PLAN.format(dbc=path, j1939=str(PAIRS[log, dbc]).lower()))
    speeds = [0, 30] if log.startswith("kona") else [0]  # a drive of an hour takes its time
    check(capsys, shared(f"logs/{name}"), plan, channel, speeds)


@pytest.mark.parametrize("name", ["ev", "truck", "charging"])
def test_the_plans_that_come_with_the_program_cost_what_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    log = tmp_path / "drive.log"
    vehicle = "car" if name == "ev" else name
    assert main(["simulate", "--vehicle", vehicle, "--log", str(log), "--seconds", "300"]) == 0
    check(capsys, log, packaged(f"config/plan-{name}.toml"), None, [0])


def test_reports_to_a_platform_are_told_apart(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """They go in frames of their own, and in no batch."""
    log, config = tmp_path / "drive.log", tmp_path / "agent.toml"
    assert main(["simulate", "--log", str(log), "--seconds", "60"]) == 0
    plan = packaged("config/plan-gbt32960.toml")
    config.write_text(
        f"""
        vehicle = "car"
        plan = "{plan}"
        state_dir = "state"
        [[bus]]
        name = "powertrain"
        kind = "recording"
        path = "{log}"
        [[uplink]]
        name = "cloud"
        url = "http://127.0.0.1:9"
        [[uplink]]
        name = "province"
        kind = "gbt32960"
        url = "gbt32960://127.0.0.1:9"
        [uplink.gbt32960]
        vin = "LFV2A21K5B3000001"
        """
    )
    capsys.readouterr()
    arguments = ["estimate", str(log), "--plan", str(plan), "--json"]
    found = []
    for more in ([], ["-c", str(config)]):
        assert main([*arguments, *more]) == 0
        found.append(json.loads(capsys.readouterr().out))
    alone, both = found
    assert list(alone["platforms"]) == ["platform"]
    assert alone["platforms"]["platform"] == both["platforms"]["province"]
    told = both["platforms"]["province"]
    assert 5 <= told["reports"] <= 7  # one in ten seconds
    assert told["bytes"] > 100 * told["reports"]
    assert both["bytes"] == pytest.approx(alone["bytes"], rel=SHARE)
    assert list(both["uplinks"]) == ["cloud"]
