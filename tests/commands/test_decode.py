"""`edge-agent decode`, as a person or a program calls it."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pyarrow import parquet

from agent.cli import main
from agent.settings import packaged
from tests.shared_data import needs_shared, shared
from tests.signals import reference
from tests.signals.dbctext import Msg, Sig, text

TOTALS = [
    "frames",
    "decoded_frames",
    "unknown_frames",
    "undecodable_frames",
    "remote_or_error_frames",
    "first_time",
    "last_time",
    "signals",
]
FIGURES = [
    "count",
    "raw_sum",
    "raw_min",
    "raw_max",
    "sum",
    "min",
    "max",
    "first_time",
    "last_time",
]

MOTOR = Msg("Motor", 0x100, 8, [Sig("Speed", 0, 16), Sig("Heat", 16, 8, scale="0.5", offset="-40")])
GROUP = Msg("Group", 0x18FEF100, 8, [Sig("V", 0, 8)], extended=True)
LOG = """\
(10.000000) can0 100#E803500000000000
(10.250000) can1 100#0000000000000000
(10.500000) can0 100#D0075A
(11.000000) can0 18FEF10B#0500000000000000
(11.500000) can0 100#01
(12.000000) can0 100#R
(12.500000) can0 7E8#00
"""


class Answer(NamedTuple):
    """What a run of the command gave."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out, parse_constant=pytest.fail)


class Bench:
    """A recording and a database in a folder, and the command."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys
        self.log = folder / "drive.log"
        self.dbc = folder / "car.dbc"
        self.log.write_text(LOG, "utf-8")
        self.dbc.write_text(text([MOTOR, GROUP]), "utf-8")

    def run(self, *arguments: str | Path, log: str | Path | None = None) -> Answer:
        """`edge-agent decode LOG arguments...`; `--dbc` is given unless it is among them."""
        dbc = [] if "--dbc" in arguments else ["--dbc", str(self.dbc)]
        self.capsys.readouterr()
        try:
            status = main(["decode", str(log or self.log), *dbc, *map(str, arguments)])
        except SystemExit as leaving:
            status = int(leaving.code or 0)
        out, err = self.capsys.readouterr()
        assert "Traceback" not in err
        return Answer(status, out, err)


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, capsys)


# -- against cantools, on recordings of real vehicles --------------------------------------------


@needs_shared
@pytest.mark.parametrize(("log", "dbc"), reference.PAIRS)
def test_the_summary_of_a_real_recording_is_what_cantools_says(
    bench: Bench, log: str, dbc: str
) -> None:
    name, channel = reference.LOGS[log]
    extra = ["--channel", channel] if channel else []
    extra += ["--j1939"] if reference.PAIRS[log, dbc] else []
    path = shared(f"dbc/{dbc}")
    answer = bench.run("--dbc", path, "--summary", "--json", *extra, log=shared(f"logs/{name}"))
    assert answer.status == 0
    found = answer.json
    assert list(found) == TOTALS
    blocks = reference.recording(log)
    expected, known = reference.reference(log, dbc)
    assert found["frames"] == sum(len(block) for block in blocks)
    assert found["decoded_frames"] == known
    times = [t for block in blocks for t in block.time.tolist()]
    assert (found["first_time"], found["last_time"]) == (min(times) / 1e9, max(times) / 1e9)
    wanted: dict[str, list[reference.Column]] = {}
    for (message, _, signal), column in expected.items():
        wanted.setdefault(f"{message}.{signal}", []).append(column)
    assert sorted(found["signals"]) == sorted(wanted)
    for signal, columns in wanted.items():
        figures = found["signals"][signal]
        assert list(figures) == FIGURES
        raw = [v for c in columns for v in c.raw]
        physical = [v for c in columns for v in c.physical]
        frames = [v for c in columns for v in c.frame]
        exact = [figures[key] for key in FIGURES[:4]]
        assert exact == [len(raw), sum(raw), min(raw), max(raw)], signal
        assert all(type(v) is int for v in exact)
        assert (figures["min"], figures["max"]) == (min(physical), max(physical)), signal
        assert math.isclose(figures["sum"], math.fsum(physical), rel_tol=1e-12), signal
        assert figures["first_time"] == min(times[f] for f in frames) / 1e9
        assert figures["last_time"] == max(times[f] for f in frames) / 1e9


@needs_shared
def test_the_installed_command_gives_the_same_summary_as_a_program_of_its_own() -> None:
    log, dbc = shared("logs/kona_bms_idle30.asc"), shared("dbc/kona_pcan_fixed.dbc")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "agent.cli", "decode", log),
            *("--dbc", dbc, "--summary", "--json"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=packaged("dbc").parent,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert list(found) == TOTALS
    assert (found["frames"], found["decoded_frames"]) == (5934, 5904)


@needs_shared
def test_a_real_recording_with_a_foreign_database_is_said_to_be_0_percent_decoded(
    bench: Bench,
) -> None:
    answer = bench.run(
        "--dbc", shared("dbc/socialledge.dbc"), log=shared("logs/kona_bms_idle30.asc")
    )
    assert answer.status == 1
    assert "0 % decoded: no frame of " in answer.err
    assert "kona_bms_idle30.asc is described by " in answer.err


# -- each option, on a few lines -----------------------------------------------------------------


def test_a_program_is_started_without_a_traceback_and_with_an_exit_status(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli", "decode", tmp_path / "none.log", "--dbc", "none.dbc"],
        capture_output=True,
        text=True,
        check=False,
        cwd=packaged("dbc").parent,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("edge-agent: none.dbc: cannot be read: No such file")


def test_the_summary_of_a_few_lines(bench: Bench) -> None:
    answer = bench.run("--summary", "--json")
    assert answer.status == 0
    assert answer.json == {
        "frames": 7,
        "decoded_frames": 3,
        "unknown_frames": 2,
        "undecodable_frames": 1,
        "remote_or_error_frames": 1,
        "first_time": 10.0,
        "last_time": 12.5,
        "signals": {
            "Motor.Heat": {
                "count": 3,
                "raw_sum": 0x50 + 0 + 0x5A,
                "raw_min": 0,
                "raw_max": 0x5A,
                "sum": -35.0,
                "min": -40.0,
                "max": 5.0,
                "first_time": 10.0,
                "last_time": 10.5,
            },
            "Motor.Speed": {
                "count": 3,
                "raw_sum": 3000,
                "raw_min": 0,
                "raw_max": 2000,
                "sum": 3000.0,
                "min": 0.0,
                "max": 2000.0,
                "first_time": 10.0,
                "last_time": 10.5,
            },
        },
    }


@pytest.mark.parametrize(("channel", "count"), [("can0", 2), ("0", 2), ("can1", 1)])
def test_a_channel_is_named_whole_or_by_its_number(bench: Bench, channel: str, count: int) -> None:
    answer = bench.run("--json", "--summary", "--channel", channel)
    assert answer.json["signals"]["Motor.Speed"]["count"] == count


def test_a_channel_that_the_recording_does_not_have_is_said_so(bench: Bench) -> None:
    answer = bench.run("--channel", "7")
    assert answer.status == 1
    assert "there are no frames of channel 7" in answer.err
    assert "there are can0, can1" in answer.err


def test_j1939_matches_by_group_where_the_database_does_not_say_so(bench: Bench) -> None:
    assert "Group.V" not in bench.run("--json", "--summary").json["signals"]
    found = bench.run("--json", "--summary", "--j1939").json
    assert found["signals"]["Group.V"]["raw_sum"] == 5
    assert found["decoded_frames"] == 4


def test_sources_are_told_apart_when_asked(bench: Bench) -> None:
    found = bench.run("--json", "--summary", "--j1939", "--by-source").json
    assert "Group.V@0x0b" in found["signals"]
    assert "Motor.Speed" in found["signals"]


@pytest.mark.parametrize(
    ("globs", "names"),
    [
        (["Speed"], ["Motor.Speed"]),
        (["Motor.*"], ["Motor.Heat", "Motor.Speed"]),
        (["*ea?", "Motor.Speed"], ["Motor.Heat", "Motor.Speed"]),
    ],
)
def test_only_the_signals_that_are_asked_for(
    bench: Bench, globs: list[str], names: list[str]
) -> None:
    options = [option for glob in globs for option in ("--signals", glob)]
    everything = bench.run("--json", "--summary").json
    found = bench.run("--json", "--summary", *options).json
    assert list(found["signals"]) == names
    assert all(found["signals"][n] == everything["signals"][n] for n in names)
    assert found["decoded_frames"] == everything["decoded_frames"]


def test_a_signal_that_does_not_exist_is_misuse_with_a_suggestion(bench: Bench) -> None:
    answer = bench.run("--signals", "Sped")
    assert (answer.status, answer.out) == (2, "")
    assert answer.err == 'edge-agent: no signal is called "Sped"; near it: Speed, Motor.Speed\n'


def test_json_lines_hold_all_samples_in_physical_units(bench: Bench) -> None:
    answer = bench.run("--json")
    assert answer.status == 0
    lines = [json.loads(line) for line in answer.out.splitlines()]
    assert lines[0] == {
        "bus": "can0",
        "message": "Motor",
        "source": None,
        "branch": "",
        "time": [10.0, 10.5],
        "signals": {"Speed": [1000.0, 2000.0], "Heat": [0.0, 5.0]},
    }
    assert [line["bus"] for line in lines] == ["can0", "can1"]


def test_json_lines_say_null_for_what_is_no_number(bench: Bench) -> None:
    real = Msg("Real", 1, 8, [Sig("A", 0, 32, signed=True, is_float=True)])
    bench.dbc.write_text(text([real]), "utf-8")
    bench.log.write_text("(1.0) can0 001#0000C07F00000000\n(2.0) can0 001#0000803F\n", "utf-8")
    answer = bench.run("--json")
    assert json.loads(answer.out, parse_constant=pytest.fail)["signals"] == {"A": [None, 1.0]}


def test_csv_has_a_row_for_each_sample(bench: Bench) -> None:
    target = bench.folder / "out.csv"
    answer = bench.run("--csv", target)
    assert answer.status == 0
    assert answer.out.rstrip().endswith(f"-> {target}")
    with target.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted((r["time_ns"], r["signal"], r["raw"], r["value"]) for r in rows) == [
        ("10000000000", "Heat", "80", "0.0"),
        ("10000000000", "Speed", "1000", "1000.0"),
        ("10250000000", "Heat", "0", "-40.0"),
        ("10250000000", "Speed", "0", "0.0"),
        ("10500000000", "Heat", "90", "5.0"),
        ("10500000000", "Speed", "2000", "2000.0"),
    ]


def test_parquet_has_a_row_for_each_sample(bench: Bench) -> None:
    target = bench.folder / "out.parquet"
    answer = bench.run("--parquet", target, "--json")
    assert answer.status == 0
    assert answer.json["decoded_frames"] == 3
    rows = parquet.read_table(target).to_pylist()
    assert sorted((r["time_ns"], r["raw_int"]) for r in rows if r["signal"] == "Speed") == [
        (10_000_000_000, 1000),
        (10_250_000_000, 0),
        (10_500_000_000, 2000),
    ]


def test_a_target_that_cannot_be_written_is_said_so(bench: Bench) -> None:
    answer = bench.run("--csv", bench.folder / "none" / "out.csv")
    assert answer.status == 2
    assert "out.csv: cannot be written: No such file" in answer.err


def test_for_people_there_is_a_table(bench: Bench) -> None:
    answer = bench.run()
    assert answer.status == 0
    assert answer.out.splitlines() == [
        (
            "7 frames, 3 decoded (42.9 %), 2 not in the database, 1 undecodable, 1 remote, "
            "2 shorter than the database says"
        ),
        "from 10.000000 s, 2.500 s long",
        "commonest unknown ids: 7E8, 18FEF10Bx",
        "signal           count           min          mean           max  unit",
        "Motor.Heat           3           -40      -11.6667             5",
        "Motor.Speed          3             0          1000          2000",
    ]


def test_0_percent_decoded_says_so_and_names_the_ids(bench: Bench) -> None:
    bench.dbc.write_text(text([Msg("Other", 1, 8, [Sig("A", 0, 8)])]), "utf-8")
    answer = bench.run("--summary", "--json")
    assert answer.status == 1
    assert answer.json["decoded_frames"] == 0
    assert answer.err == (
        f"edge-agent: 0 % decoded: no frame of {bench.log} is described by {bench.dbc}. "
        "Ids that occur most: 100, 7E8, 18FEF10Bx\n"
    )


def test_0_percent_decoded_of_known_messages_says_what_is_wrong_with_the_frames(
    bench: Bench,
) -> None:
    bench.log.write_text("(1.0) can0 100#\n(2.0) can0 100#R\n", "utf-8")
    answer = bench.run()
    assert answer.status == 1
    assert "could be decoded with" in answer.err
    assert "1 undecodable, 1 remote" in answer.err


def test_a_recording_cut_in_mid_line_gives_all_before_the_cut(bench: Bench) -> None:
    bench.log.write_text(LOG + "(13.000000) can0 100#E80", "utf-8")
    answer = bench.run("--summary", "--json")
    assert answer.status == 1
    assert answer.json["decoded_frames"] == 3
    assert f"edge-agent: {bench.log.name}:8:" in answer.err


def test_bad_lines_are_named_up_to_ten_and_counted_beyond(bench: Bench) -> None:
    bench.log.write_text(LOG + "(13.000000) can0 100#XYZ\n" * 14, "utf-8")
    answer = bench.run()
    assert answer.status == 1
    assert answer.err.count(f"{bench.log.name}:") >= 10
    assert "4 more bad lines" in answer.err


def test_an_empty_recording_has_no_frames(bench: Bench) -> None:
    bench.log.write_text("\n", "utf-8")
    answer = bench.run("--summary", "--json")
    assert answer.status == 1
    assert answer.json["signals"] == {}
    assert answer.err == f"edge-agent: {bench.log}: there are no frames\n"


def test_findings_of_the_database_are_told_beside_the_output(bench: Bench) -> None:
    bench.dbc.write_text(text([MOTOR, Msg("Short", 2, 1, [Sig("Far", 0, 16)])]), "utf-8")
    answer = bench.run("--summary", "--json")
    assert answer.status == 0
    assert "edge-agent: finding: " in answer.err
    assert "Short.Far: ends in byte 2 of a message of 1" in answer.err
    assert list(answer.json) == TOTALS


def test_a_missing_recording_is_said_so(bench: Bench) -> None:
    answer = bench.run(log=bench.folder / "none.asc")
    assert (answer.status, answer.out) == (1, "")
    assert answer.err == f"edge-agent: There is no recording {bench.folder / 'none.asc'}.\n"


def test_a_recording_of_no_known_format_is_said_so(bench: Bench) -> None:
    other = bench.folder / "drive.pdf"
    other.write_bytes(b"%PDF-1.4 nothing of ours")
    answer = bench.run(log=other)
    assert (answer.status, answer.out) == (1, "")
    assert "drive.pdf is no recording of a known format; candump" in answer.err


@pytest.mark.parametrize("content", [None, b"no database"])
def test_a_database_that_cannot_be_used_is_said_so(bench: Bench, content: bytes | None) -> None:
    path = bench.folder / "bad.dbc"
    if content is not None:
        path.write_bytes(content)
    answer = bench.run("--dbc", path)
    assert (answer.status, answer.out) == (1, "")
    assert answer.err.startswith(f"edge-agent: {path}: ")
    assert answer.err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [["--nonsense"], ["--summary", "--csv", "x"], ["--dbc"], ["--channel"]]
)
def test_misuse_has_exit_status_2(bench: Bench, arguments: list[str]) -> None:
    answer = bench.run(*arguments)
    assert (answer.status, answer.out) == (2, "")
    assert "usage: edge-agent" in answer.err
