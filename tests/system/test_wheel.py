"""The program as it is installed from its wheel, without the checkout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel holds, and nothing else of this project."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "-w", str(folder), str(REPOSITORY)], check=True, timeout=300
    )
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(target), str(wheel)],
        check=True,
        timeout=300,
    )
    return target


def run(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agent.cli", *arguments],
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": str(installed),
            "EDGE_AGENT_STATE_DIR": str(cwd / "state"),
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_installed_program_finds_its_configuration_and_database(
    installed: Path, tmp_path: Path
) -> None:
    checked = run(installed, tmp_path, "check", "-c", "bench.toml")
    assert checked.returncode == 0, checked.stderr
    assert str(installed / "agent" / "_data" / "config" / "bench.toml") in checked.stdout
    made = run(installed, tmp_path, "simulate", "--log", "ev.log", "--seconds", "2")
    assert made.returncode == 0, made.stderr
    decoded = run(installed, tmp_path, "decode", "ev.log", "--dbc", "ev.dbc")
    assert decoded.returncode == 0, decoded.stderr
    assert "100.0 %" in decoded.stdout
