"""The limits of a real agent: it keeps less, says so, and counts what it left out."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.batch import read_batch
from agent.ledger import differences
from agent.observe.metrics import exposition
from tests.test_daemon import Bench, _distances, _said, until

FRAMES = 6000
ORDER = [
    "one sample in 2 is kept",
    "one sample in 4 is kept",
    "one sample in 4 is kept, and no raw frames",
    "one sample in 8 is kept, and no raw frames",
    "only events and reports are kept",
]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with contextlib.ExitStack() as processes:
        yield Bench(tmp_path, processes)


def limit(bench: Bench, limits: str) -> None:
    path = bench.folder / "agent.toml"
    path.write_text(f"{path.read_text()}[limits]\n{limits}\n")


def told(bench: Bench, name: str) -> Any:
    """What the running agent says of one of its limits; None while nothing is given up for it."""
    status = bench.status()
    rows = status["limits"]["limits"] if status else []
    return next((row for row in rows if row["name"] == name and row["level"]), None)


def for_people(bench: Bench) -> "subprocess.CompletedProcess[str]":
    words = ["-m", "agent.cli", "status", "-c", str(bench.folder / "agent.toml")]
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=60, check=False
    )


def given_up(log: str) -> list[str]:
    """What is kept after each change, as the log says it."""
    lines = (line for line in log.splitlines() if " limit: " in line)
    return [line.rpartition(": ")[2] for line in lines]


def campaign(bench: Bench) -> dict[str, int]:
    counts: dict[str, int] = bench.status()["ledger"]["campaign"]["all"]
    return counts


def test_a_day_of_few_bytes_is_shared_out_and_a_restart_does_not_begin_it_anew(
    bench: Bench,
) -> None:
    bench.record(FRAMES)
    bench.cloud()
    bench.configure(speed=4)
    limit(bench, "written_mb_day = 0.012")
    agent = bench.agent()

    until(lambda: (row := told(bench, "written")) and row["level"] == 5)
    until(lambda: campaign(bench)["thinned"] > 1000)

    said = for_people(bench)
    assert said.returncode == 1
    assert "limits: memory " in said.stdout
    assert "MB of 0.012 MB today: only events and reports are kept" in said.stdout
    status = bench.status()
    assert 'edge_agent_limit_level{limit="written"} 5' in exposition(status)
    counts = campaign(bench)
    assert counts["offered"] == counts["kept"] + counts["thinned"]
    assert differences(status["ledger"]) == []
    agent.send_signal(signal.SIGTERM)
    log = _said(agent)
    assert agent.returncode == 0, log
    assert given_up(log) == [said for said in ORDER if said in given_up(log)]
    assert given_up(log)[-1] == ORDER[-1]

    bench.configure()
    limit(bench, "written_mb_day = 0.012")
    again = bench.agent("--drain")
    log = _said(again)
    assert again.returncode == 0, log
    assert given_up(log) == [ORDER[-1]]
    arrived = bench.arrived()
    assert 0 < len(_distances(arrived)) < FRAMES
    events = (t for path in arrived for t in read_batch(path) if t.campaign == "speed")
    assert sum(len(table) for table in events) == FRAMES / 100  # one a second: none is missing


def test_an_agent_that_takes_too_much_of_the_computer_keeps_less(bench: Bench) -> None:
    bench.record(FRAMES)
    bench.cloud()
    bench.configure(speed=3)
    limit(bench, "cpu_percent = 0.01\nmemory_mb = 20")
    agent = bench.agent("--drain")

    until(lambda: told(bench, "cpu") and told(bench, "memory"))
    until(lambda: campaign(bench)["thinned"] > 10)

    said = for_people(bench).stdout
    assert " % of 0.01 %, memory " in said
    assert " MB of 20 MB: " in said
    log = _said(agent)
    assert agent.returncode == 0, log
    assert "limit: cpu " in log
    assert "limit: memory " in log
    assert given_up(log)[0] == ORDER[0]
    assert 0 < len(_distances(bench.arrived())) < FRAMES
