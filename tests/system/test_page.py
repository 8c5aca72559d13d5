"""The reference cloud's page in a real browser."""

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import processes

pytestmark = pytest.mark.system

_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=5000",
)


def page(address: str, profile: Path) -> str:
    """What a browser shows: the document after its scripts have run."""
    browser = shutil.which("chromium")
    assert browser, "chromium is not installed: make test-system installs it"
    done = subprocess.run(
        [browser, *_FLAGS, f"--user-data-dir={profile}", "--dump-dom", address],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    return done.stdout


async def drive(folder: Path) -> str:
    log = folder / "drive.log"
    assert (
        await (
            await processes.start(
                "simulate", "--log", str(log), "--seconds", "5", log=folder / "simulate.log"
            )
        ).wait()
        == 0
    )
    async with processes.cloud(folder / "cloud") as port:
        (folder / "agent.toml").write_text(
            f"""
            vehicle = "seen-in-a-browser"
            plan = "{Path(__file__).parents[2] / "config" / "plan-ev.toml"}"
            state_dir = "state"
            [[bus]]
            name = "powertrain"
            kind = "recording"
            path = "{log}"
            speed = 0
            [[uplink]]
            name = "cloud"
            url = "http://127.0.0.1:{port}"
            """
        )
        agent = await processes.start(
            "run", "-c", str(folder / "agent.toml"), "--drain", log=folder / "agent.log"
        )
        assert await asyncio.wait_for(agent.wait(), processes.LIMIT_S) == 0
        return await asyncio.to_thread(page, f"http://127.0.0.1:{port}/", folder / "profile")


def test_the_page_names_the_vehicle_and_that_it_is_complete(tmp_path: Path) -> None:
    shown = asyncio.run(drive(tmp_path))
    assert "seen-in-a-browser" in shown
    assert "complete" in shown
