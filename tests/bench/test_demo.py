"""What the demo says of batches: it must notice what is missing, and tell what arrived."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.batch import BatchWriter
from agent.batch.format import Record
from agent.bench.demo import telling
from agent.bench.demo.__main__ import main
from agent.bench.demo.arrived import Arrived
from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.clock import SECOND

SCHEMA = TableSchema("can", "Motion", (SignalSchema("Speed", "uint64", 8),), clock="recorded")


def table(campaign: str, rows: int) -> SignalTable:
    time = 100 * SECOND + np.arange(rows) * SECOND
    return SignalTable(SCHEMA, time, {"uint64": np.ones((1, rows), np.uint64)}, campaign=campaign)


def event(name: str, *, complete: bool, **more: Any) -> dict[str, Any]:
    return {
        "kind": "trigger",
        "id": f"{name}-1",
        "name": name,
        "campaign": name,
        "time": 112_300_000_000,
        "clock": "recorded",
        "first": 102_300_000_000,
        "last": 117_300_000_000 if complete else None,
        "complete": complete,
        "expression": "Motion.Speed > 50\nfor 5 s",
        "values": {"can.Motion.Speed": 51.25},
        "missing": [],
    } | more


def ledger(uplink: int, **campaigns: int) -> Mapping[str, Any]:
    return {
        "uplink": {"cloud": {"kept": uplink}},
        "campaign": {name: {"offered": 2 * n, "kept": n} for name, n in campaigns.items()},
    }


TRIP = {
    "kind": "trip", "name": "trip", "campaign": "", "clock": "recorded", "complete": True,
    "time": 131 * SECOND, "first": 101 * SECOND, "last": 131 * SECOND, "duration_s": 30.0,
    "distance_km": 2.94321, "energy_in_kwh": 0.1, "energy_out_kwh": 0.5, "gap_s": 0.0,
    "soc_first": 61.5, "soc_last": 61.0, "soc_min": 61.0, "soc_max": 61.5,
    "cell_min": {"value": 3.5, "number": 4}, "cell_max": {"value": 3.75, "number": 37},
    "cell_spread_max": 0.093,
}  # fmt: skip


@pytest.fixture
def batches(tmp_path: Path) -> list[Path]:
    """Five samples of one campaign, three of another, an event told twice, and a trip."""
    first, second = tmp_path / "1.batch", tmp_path / "2.batch"
    with BatchWriter(first, vehicle="car") as writer:
        writer.add(table("everything", 5))
        writer.record(Record.EVENT, event("hot", complete=False))
    with BatchWriter(second, vehicle="car") as writer:
        writer.add(table("hot", 3))
        writer.record(Record.EVENT, event("hot", complete=True))
        writer.record(Record.EVENT, TRIP)
    return [second, first]


class TestArrived:
    def test_samples_are_counted_by_campaign_and_events_once(self, batches: list[Path]) -> None:
        arrived = Arrived.read(batches)

        assert arrived.by_campaign == {"everything": 5, "hot": 3}
        assert arrived.samples == arrived.kept == 8
        assert [e["name"] for e in arrived.events] == ["trip", "hot"]
        assert arrived.events[1]["complete"]
        assert arrived.begin == 100 * SECOND

    def test_what_is_as_the_ledger_says_is_no_difference(self, batches: list[Path]) -> None:
        arrived = Arrived.read(batches)

        assert arrived.differences(ledger(8, everything=5, hot=3), ["hot", "trip"]) == []

    @pytest.mark.parametrize(
        ("counts", "expected", "says"),
        [
            (ledger(9, everything=5, hot=3), (), "9 samples were kept, but 8 are in the cloud"),
            (ledger(8, everything=6, hot=2), (), "campaign everything kept 6, but 5"),
            (ledger(8, everything=5, hot=3), ("cold",), 'event "cold" did not arrive.*hot, trip'),
        ],
    )
    def test_what_is_missing_is_a_sentence(
        self,
        batches: list[Path],
        counts: Mapping[str, Any],
        expected: tuple[str, ...],
        says: str,
    ) -> None:
        wrong = " ".join(Arrived.read(batches).differences(counts, expected))

        assert re.search(says, wrong)

    def test_an_event_without_its_end_is_a_difference(self, batches: list[Path]) -> None:
        arrived = Arrived.read(batches[1:])

        wrong = arrived.differences(ledger(5, everything=5), ["hot"])

        assert wrong == ['the event "hot" arrived, but not its end']


class TestTelling:
    def test_events_are_told_with_time_and_what_fired_them(
        self, batches: list[Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        telling.events(Arrived.read(batches))

        shown = capsys.readouterr().out
        assert "event hot at 12.3 s: Motion.Speed > 50 for 5 s" in shown
        assert "kept 10 s before and 5 s after; Speed = 51.25" in shown
        assert "trip from 1.0 s to 31.0 s\n" in shown
        assert "2.94 km, 0.100 kWh in, 0.500 out, charge 61.50 to 61.00 %" in shown
        assert "cell 37 up to 3.750 V, 4 down to 3.500 V; apart by 0.093" in shown

    def test_campaigns_are_told_in_columns(self, capsys: pytest.CaptureFixture[str]) -> None:
        telling.campaigns(ledger(8, everything=5, hot=1_234_567))

        lines = capsys.readouterr().out.splitlines()
        assert lines[2].split() == ["hot", "2,469,134", "1,234,567", "50.0%", "-"]
        assert len({len(line) for line in lines}) == 1


def test_a_recording_needs_its_database_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--log", "drive.blf", "--folder", str(tmp_path / "demo")]) == 2
    assert "LOG=drive.blf DBC=car.dbc" in capsys.readouterr().err


def test_a_recording_that_no_file_describes_is_said_with_its_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, dbc = tmp_path / "x.log", tmp_path / "x.dbc"
    log.write_text("(1.000000) can0 123#11\n(1.000100) can0 123#22\n")
    dbc.write_text('VERSION ""\n\nBU_: A\n\nBO_ 1 M: 1 A\n SG_ S : 0|8@1+ (1,0) [0|0] "" A\n')

    options = ["--log", str(log), "--dbc", str(dbc), "--folder", str(tmp_path / "demo")]
    assert main(options) == 1
    assert "Ids that occur most: 123" in capsys.readouterr().err
