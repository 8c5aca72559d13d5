"""`edge-agent doctor` as a person calls it, beside an agent on a real socket."""

import argparse
import asyncio
import json
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from agent.commands import doctor
from agent.errors import ConfigError
from agent.observe.socket import StatusServer
from tests.observe.patients import uplink, well
from tests.signals.dbctext import Msg, Sig, text

DEVICE = """\
vehicle = "van-7"
plan = "plan.toml"
state_dir = "state"
[spool]
free_floor_mb = 0
"""
PLAN = """\
version = 1
name = "all"
[[database]]
bus = "*"
files = ["car.dbc"]
[[campaign]]
name = "fast"
signals = ["Motor.*"]
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "agent.toml").write_text(DEVICE, "utf-8")
    (tmp_path / "plan.toml").write_text(PLAN, "utf-8")
    motor = Msg("Motor", 1, 8, [Sig("Speed", 0, 16)])
    (tmp_path / "car.dbc").write_text(text([motor]), "utf-8")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "agent.toml"


def called(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    doctor.add_parser(parser.add_subparsers())
    args = parser.parse_args(["doctor", *arguments])
    status: int = args.run(args)
    return status


def beside(answer: dict[str, Any], path: Path, *arguments: str) -> int:
    """The exit status beside an agent that answers so."""

    async def both() -> int:
        async with StatusServer(path, {"status": lambda: answer}):
            return await asyncio.to_thread(called, "--socket", str(path), *arguments)

    return asyncio.run(both())


def texts(path: Path) -> dict[str, str]:
    with tarfile.open(path) as packed:
        return {
            member.name.partition("/")[2]: file.read().decode()
            for member in packed
            if (file := packed.extractfile(member)) is not None
        }


def test_a_refused_uplink_is_said_and_everything_is_in_one_file_here(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = well(uplinks=[uplink(state="held", why="answered 401 Unauthorized")])
    assert beside(answer, tmp_path / "s", "-c", str(config)) == 1
    out = capsys.readouterr().out
    assert 'Uplink "cloud": answered 401 Unauthorized.' in out
    (made,) = (tmp_path / "here").iterdir()
    assert made.name.startswith("doctor-van-7-20")
    assert made.name.endswith("Z.tar.gz")
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert f"All that was found is in {made.name}; secrets were taken out." in out
    files = texts(made)
    assert json.loads(files["check.txt"])["plan"] == "all"
    assert json.loads(files["status.txt"])["vehicle"] == "van-7"
    assert 'Uplink "cloud": answered 401' in files["report.txt"]


def test_json_for_programs(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.tar.gz"
    status = beside(well(), tmp_path / "s", "-c", str(config), "--json", "-o", str(out))
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == str(out)
    assert status == (0 if told["well"] else 1)
    assert told["well"] == (not told["causes"])
    assert "stopped" not in [cause["key"] for cause in told["causes"]]
    assert set(texts(out)) == {*told["files"]} | {"report.txt", "report.json"}


def test_without_an_agent_and_with_a_broken_configuration(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text(DEVICE + "quota = 5\n")
    out = tmp_path / "out.tar.gz"
    assert called("-c", str(config), "-o", str(out)) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("1. The configuration cannot be used: ")
    assert 'unknown key "quota"' in said[0]
    assert "quota = 5" in texts(out)["configuration.toml"]


def test_where_the_file_cannot_be_written_it_says_so(config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        called("-c", str(config), "-o", str(tmp_path / "none" / "out.tar.gz"))
