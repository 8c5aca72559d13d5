"""`edge-agent status`, asking a server on a real socket."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.ledger import Ledger, differences
from agent.observe.report import duration, size
from agent.observe.socket import StatusServer


def status(ledger: Ledger, *, why: str = "", batches: int = 0) -> dict[str, Any]:
    """What a running agent tells."""
    counts = ledger.snapshot()
    return {
        "agent": "0.1.0",
        "vehicle": "kona-1",
        "plan": "all",
        "uptime_s": 7325.5,
        "clock": "ntp",
        "boot_id": "boot",
        "buses": [{"name": "can0", "kind": "slcan", "state": "reading"}],
        "ignition": {"state": "awake", "trouble": ""},
        "uplinks": [
            {
                "name": "cloud",
                "state": "waiting" if why else "idle",
                "why": why,
                "until_s": 200 if why else None,
                "sent_batches": 12,
                "sent_bytes": 34_567,
            }
        ],
        "spool": {
            "trouble": "",
            "lanes": {"cloud": {"telemetry": {"batches": batches, "bytes": 2_500_000}}},
        },
        "budget": {"degraded": ""},
        "recognition": {"findings": []},
        "ledger": counts,
        "differences": differences(counts),
    }


@pytest.fixture
def ledger() -> Ledger:
    made = Ledger()
    made.add("bus", "can0", received=1234, read=1234, decoded=1234)
    made.open("campaign", "fast")
    made.open("uplink", "cloud")
    return made


def asked(path: Path, answer: dict[str, Any], *arguments: str) -> int:
    """The exit status of the command beside an agent that answers so."""

    async def both() -> int:
        async with StatusServer(path, {"status": lambda: answer}):
            command = ["status", "--socket", str(path), *arguments]
            return await asyncio.to_thread(main, command)

    return asyncio.run(both())


def test_a_status_for_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ledger: Ledger
) -> None:
    assert asked(tmp_path / "s", status(ledger)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "vehicle kona-1, plan all, agent 0.1.0, up 2 h 2 min, clock ntp",
        "bus can0 (slcan): reading",
        "uplink cloud: idle; nothing waits; 12 batches, 35 kB sent",
    ]
    assert any("1,234" in line and line.split()[0] == "can0" for line in lines)
    assert lines[-1] == "The ledger closes."


def test_a_status_says_why_something_waits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ledger: Ledger
) -> None:
    asked(tmp_path / "s", status(ledger, why="503 Service Unavailable", batches=3))
    assert (
        "uplink cloud: waiting; 3 batches, 2.5 MB wait: 503 Service Unavailable "
        "(next try in 3 min); 12 batches, 35 kB sent"
    ) in capsys.readouterr().out


def test_a_status_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ledger: Ledger
) -> None:
    answer = status(ledger)
    assert asked(tmp_path / "s", answer, "--json") == 0
    assert json.loads(capsys.readouterr().out) == answer


def test_a_status_says_what_is_given_up_and_what_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ledger: Ledger
) -> None:
    answer = status(ledger)
    answer["budget"] = {"degraded": "one sample in 2 is kept"}
    answer["recognition"] = {"findings": ["bus can0: this is another vehicle"]}
    asked(tmp_path / "s", answer)
    lines = capsys.readouterr().out.splitlines()
    assert "budget: one sample in 2 is kept" in lines
    assert "vehicle: bus can0: this is another vehicle" in lines


def test_a_ledger_that_does_not_close_is_exit_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ledger: Ledger
) -> None:
    ledger.add("bus", "can0", received=1)
    assert asked(tmp_path / "s", status(ledger)) == 1
    assert "The ledger does not close:\n  bus can0: received = 1,235" in capsys.readouterr().out


def test_no_agent_is_one_line_and_exit_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--socket", str(tmp_path / "none")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "no agent answers here (No such file or directory); is it running?" in err
    assert err.count("\n") == 1


def test_a_refusal_is_one_line_and_exit_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert asked(tmp_path / "s", {"error": "unknown command"}) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("the agent answers: unknown command\n")


@pytest.mark.parametrize(
    ("n", "words"),
    [(0, "0 B"), (999, "999 B"), (3400, "3.4 kB"), (96e6, "96 MB"), (7.5e12, "7500 GB")],
)
def test_sizes_for_people(n: float, words: str) -> None:
    assert size(n) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.9, "0 s"), (119, "119 s"), (300, "5 min"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")],
)
def test_durations_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words
