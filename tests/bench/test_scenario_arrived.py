"""What arrived, and how it is told: missing samples are noticed, events are counted once."""

import concurrent.futures
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.batch import BatchWriter
from agent.batch.format import Record
from agent.bench.scenario import telling
from agent.bench.scenario.arrived import Arrived, Samples
from agent.bench.scenario.recording import Recording, decode_directly, differences
from agent.blocks import SignalSchema, SignalTable, TableSchema
from agent.clock import SECOND
from agent.errors import AgentError

SPEED = SignalSchema("Speed", "uint64", 8, scale=2, codes=((255, 255, "not available"),))
SCHEMA = TableSchema("can", "Motion", (SPEED,), clock="recorded")
NAME = "0123456789abcdef-1-telemetry"
UPDATE = {"kind": "update", "name": "update", "id": "u-1", "what": "committed", "bundle": "b 1"}


def table(campaign: str, rows: int) -> SignalTable:
    time = 100 * SECOND + np.arange(rows) * SECOND
    raw = np.arange(1, rows + 1, dtype=np.uint64)[None, :]
    return SignalTable(SCHEMA, time, {"uint64": raw}, campaign=campaign)


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
def arrived(tmp_path: Path) -> Arrived:
    """Five samples of one campaign, three of another, an event told twice, and a trip."""
    arrived = Arrived(tmp_path)
    with BatchWriter(tmp_path / f"{NAME}-2.batch", vehicle="car") as writer:
        writer.add(table("hot", 3))
        writer.record(Record.EVENT, event("hot", complete=True))
        writer.record(Record.EVENT, TRIP)
        writer.record(Record.EVENT, UPDATE | {"time": 1, "clock": "recorded"})
    arrived.look()
    with BatchWriter(tmp_path / f"{NAME}-1.batch", vehicle="car") as writer:
        writer.add(table("everything", 5))
        writer.record(Record.EVENT, event("hot", complete=False))
        writer.record(Record.EVENT, UPDATE | {"time": 1, "clock": "recorded"})
    arrived.look()
    return arrived


class TestArrived:
    def test_samples_are_counted_by_campaign_and_events_once(self, arrived: Arrived) -> None:
        assert arrived.by_campaign(1) == {"everything": 5, "hot": 3}
        assert arrived.samples == arrived.kept == 8
        assert [e["name"] for e in arrived.events] == ["trip", "hot"]
        assert arrived.events[1]["complete"]
        assert [u["what"] for u in arrived.updates] == ["committed"]
        assert arrived.begin == 100 * SECOND

    def test_a_batch_is_read_once_however_often_one_looks(self, arrived: Arrived) -> None:
        arrived.look()

        assert len(arrived.files) == 2
        assert arrived.samples == 8

    def test_looks_beside_each_other_read_a_batch_once(self, tmp_path: Path) -> None:
        for number in range(1, 9):
            with BatchWriter(tmp_path / f"{NAME}-{number}.batch", vehicle="car") as writer:
                writer.add(table("everything", 100))
        (tmp_path / "before").mkdir()
        arrived = Arrived(tmp_path / "before")
        for path in tmp_path.glob("*.batch"):
            path.rename(tmp_path / "before" / path.name)

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            for look in [pool.submit(arrived.look) for _ in range(4)]:
                look.result()

        assert arrived.samples == 800

    def test_signals_have_their_number_and_their_values(self, arrived: Arrived) -> None:
        assert arrived.signals == {"Motion.Speed": Samples(8, 42.0, 2.0, 10.0)}

    def test_what_is_no_measurement_is_counted_and_has_no_value(self, tmp_path: Path) -> None:
        arrived = Arrived(tmp_path)
        with BatchWriter(tmp_path / f"{NAME}-1.batch", vehicle="car") as writer:
            raw = np.array([[3, 255]], np.uint64)
            time = np.array([1, 2]) * SECOND
            writer.add(SignalTable(SCHEMA, time, {"uint64": raw}, campaign="a"))
        arrived.look()

        speed = arrived.signals["Motion.Speed"]
        assert (speed.count, speed.minimum, speed.maximum) == (2, 6.0, 6.0)

    def test_what_was_there_before_is_of_others(self, arrived: Arrived, tmp_path: Path) -> None:
        assert arrived.files
        later = Arrived(tmp_path)
        later.look()

        assert not later.files

    def test_a_file_that_is_no_batch_is_said(self, tmp_path: Path) -> None:
        arrived = Arrived(tmp_path)
        (tmp_path / f"{NAME}-1.batch").write_bytes(b"nothing of the kind")
        arrived.look()

        assert not arrived.files
        assert len(arrived.unreadable) == 1

    def test_what_is_as_the_ledger_says_is_no_difference(self, arrived: Arrived) -> None:
        assert arrived.differences(ledger(8, everything=5, hot=3), 1) == []

    @pytest.mark.parametrize(
        ("counts", "says"),
        [
            (ledger(9, everything=5, hot=3), "run 1 kept 9 samples, but 8 are in the cloud"),
            (ledger(8, everything=6, hot=2), "campaign everything kept 6 in run 1, but 5"),
        ],
    )
    def test_what_is_missing_is_a_sentence(
        self, arrived: Arrived, counts: Mapping[str, Any], says: str
    ) -> None:
        assert re.search(says, " ".join(arrived.differences(counts, 1)))


class TestTelling:
    def test_events_are_told_with_time_and_what_fired_them(self, arrived: Arrived) -> None:
        shown = "\n".join(telling.happened(arrived))

        assert "event hot at 12.3 s: Motion.Speed > 50 for 5 s" in shown
        assert "kept 10 s before and 5 s after; Speed = 51.25" in shown
        assert "trip from 1.0 s to 31.0 s\n" in shown
        assert "2.94 km, 0.100 kWh in, 0.500 out, charge 61.50 to 61.00 %" in shown
        assert "cell 37 up to 3.750 V, 4 down to 3.500 V; apart by 0.093" in shown
        assert "update b 1 committed" in shown

    def test_campaigns_are_told_in_columns(self) -> None:
        lines = list(telling.campaigns(ledger(8, everything=5, hot=1_234_567)))

        assert lines[2].split() == ["hot", "2,469,134", "1,234,567", "50.0%", "-"]
        assert len({len(line) for line in lines}) == 1

    def test_progress_has_a_head_and_a_row_every_two_seconds(self) -> None:
        lines: list[str] = []
        progress = telling.Progress(lines.append)
        for moment in (0.0, 0.25, 1.9, 2.1):
            progress.look(moment, "killed", None)

        assert [line.split()[0] for line in lines] == ["time", "0", "2"]
        assert "killed" in lines[1]


DBC = 'VERSION ""\n\nBU_: A\n\nBO_ 291 M: 1 A\n SG_ S : 0|8@1+ (1,0) [0|0] "" A\n'


class TestRecording:
    @pytest.fixture
    def recording(self, tmp_path: Path) -> Recording:
        log, dbc = tmp_path / "x.log", tmp_path / "x.dbc"
        log.write_text("(1.000000) can0 123#11\n(3.500000) can0 123#22\n")
        dbc.write_text(DBC)
        return Recording(log, [dbc])

    def test_it_is_decoded_without_the_agent(self, recording: Recording) -> None:
        decoded = decode_directly(recording)

        assert decoded.totals == {"M.S": Samples(2, 51.0, 17.0, 34.0)}
        assert (decoded.seconds, decoded.frames, decoded.decoded) == (2.5, 2, 1.0)

    def test_one_that_no_file_describes_is_said_with_its_ids(self, recording: Recording) -> None:
        Path(recording.dbc[0]).write_text(DBC.replace("291", "1"))

        with pytest.raises(AgentError, match="Ids that occur most: 123"):
            decode_directly(recording)

    def test_a_signal_that_lacks_a_sample_differs(self, recording: Recording) -> None:
        decoded = decode_directly(recording)

        assert differences(decoded.totals, decoded.totals) == []
        (said,) = differences({"M.S": Samples(1, 17.0)}, decoded.totals)
        assert said.startswith("M.S: 2 samples that sum to 51 in the recording, 1 that sum to 17")
