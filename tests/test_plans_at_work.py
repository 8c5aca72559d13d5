"""Plans in a real agent: another one while it runs, and events that a power cut interrupts."""

import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.batch import BatchReader, read_events
from agent.batch.dated import read_frames
from agent.errors import AgentError
from agent.observe.socket import ask
from tests.test_daemon import PLAN, Bench, _distances, _said, until

EVENTS = """
[[campaign]]
name = "around"
signals = ["Motion.*"]
frames = [{ bus = "*" }]
uplinks = ["cloud"]
[campaign.trigger]
when = "Distance > 0 and previous(Speed) > 6.00 and Speed < 4.00"   # where its counter begins anew
pre_s = 3
post_s = 4
"""


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Bench]:
    with contextlib.ExitStack() as processes:
        bench = Bench(tmp_path, processes)
        bench.cloud()
        yield bench


def record(bench: Bench, frames: int) -> None:
    """At 10 ms; the speed counts up to 6.99 km/h and begins anew, every 7 s."""
    lines = [
        f"({i / 100:.6f}) can0 100#"
        + ((i % 700).to_bytes(2, "little") + i.to_bytes(4, "little") + bytes(2)).hex().upper()
        for i in range(frames)
    ]
    (bench.folder / "drive.log").write_text("\n".join(lines) + "\n")


def plans(paths: list[Path]) -> set[str]:
    return {str(BatchReader(path).header["plan"]) for path in paths}


def around(paths: list[Path]) -> list[int]:
    """Times of raw frames that are around events, in hundredths of a second."""
    return sorted(t // 10_000_000 for kept in read_frames(*paths) for t in kept.block.time.tolist())


def expected_around(frames: int) -> list[int]:
    anew = range(700, frames, 700)
    return [i for i in range(frames) if any(a - 300 <= i <= a + 400 for a in anew)]


def test_a_reloaded_plan_takes_over_and_nothing_is_lost(drive: Bench) -> None:
    record(drive, 3000)
    drive.configure(speed=6)
    agent = drive.agent("--drain")
    socket = drive.folder / "state/agent.sock"
    until(lambda: (s := drive.status()) and s["ledger"]["campaign"]["all"]["kept"] > 1000)
    second = PLAN.replace('name = "test"', 'name = "second"').replace("1000", "500")
    (drive.folder / "plan.toml").write_text(second)

    assert ask(socket, "reload") == {"plan": "second"}

    until(lambda: (s := drive.status()) and s["plan"] == "second")
    (drive.folder / "plan.toml").write_text(second.replace("Motion", "Notion"))
    with pytest.raises(AgentError, match=re.escape('no signal is called "Notion.*"')):
        ask(socket, "reload")
    agent.send_signal(signal.SIGHUP)  # the same: it is only said in the log
    said = _said(agent)
    assert agent.returncode == 0, said
    assert "the plan stays as it is" in said
    assert plans(drive.arrived()) == {"test", "second"}
    assert _distances(drive.arrived()) == list(range(3000))


def test_events_are_whole_though_the_agent_was_killed_in_one(drive: Bench) -> None:
    record(drive, 4000)
    drive.configure(speed=8)
    (drive.folder / "plan.toml").write_text(PLAN + EVENTS)
    agent = drive.agent("--drain")

    def inside() -> Any:
        status = drive.status()
        return status and status["ledger"]["bus"]["powertrain"]["received"] > 800

    until(inside)
    agent.kill()
    agent.wait()
    agent = drive.agent("--drain")
    said = _said(agent)
    assert agent.returncode == 0, said

    paths = drive.arrived()
    assert around(paths) == expected_around(4000)
    assert _distances(paths) == list(range(4000))
    last = {event["id"]: event for event in read_events(*paths)}
    times = sorted(event["time"] // 10_000_000 for event in last.values())
    assert times == list(range(700, 4000, 700))
    assert all(event["complete"] and not event["missing"] for event in last.values())
