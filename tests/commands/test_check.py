"""`edge-agent check`, and the plan of the device file that it loads."""

import json
from pathlib import Path

import pytest

from agent.cli import main
from tests.signals.dbctext import Msg, Sig, text

DEVICE = """\
vehicle = "kona-1"
plan = "plan.toml"
state_dir = "state"
[[bus]]
name = "can0"
kind = "slcan"
device = "/dev/none"
[[uplink]]
name = "cloud"
url = "http://127.0.0.1:1"
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
MOTOR = Msg("Motor", 1, 8, [Sig("Speed", 0, 16), Sig("Torque", 16, 16)])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "agent.toml").write_text(DEVICE, "utf-8")
    (tmp_path / "plan.toml").write_text(PLAN, "utf-8")
    (tmp_path / "car.dbc").write_text(text([MOTOR]), "utf-8")
    return tmp_path / "agent.toml"


def change(path: Path, old: str, new: str) -> None:
    content = path.read_text("utf-8")
    assert content.count(old) == 1
    path.write_text(content.replace(old, new), "utf-8")


def test_good_configuration_is_called_good(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "-c", str(config)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "campaign fast: 2 signals" in out
    assert out.endswith("Good.\n")


def test_the_result_for_programs(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-c", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "config": str(config),
        "vehicle": "kona-1",
        "plan": "all",
        "buses": ["can0"],
        "uplinks": ["cloud"],
        "campaigns": {"fast": 2},
        "findings": [],
    }


def test_findings_of_a_database_are_usable_and_exit_status_1(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = text([MOTOR, Msg("Short", 2, 1, [Sig("Far", 0, 16)])])
    (config.parent / "car.dbc").write_text(content, "utf-8")
    assert main(["check", "-c", str(config)]) == 1
    out = capsys.readouterr().out
    assert "finding: " in out
    assert "Short.Far: ends in byte 2" in out


def test_an_uplink_that_no_campaign_uses_is_a_finding(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with config.open("a", encoding="utf-8") as file:
        file.write('[[uplink]]\nname = "home"\nurl = "http://127.0.0.1:2"\n')
    with (config.parent / "plan.toml").open("a", encoding="utf-8") as file:
        file.write('uplinks = ["cloud"]\n')
    assert main(["check", "-c", str(config)]) == 1
    assert 'no campaign sends to the uplink "home"' in capsys.readouterr().out


def test_a_kernel_that_holds_too_little_of_a_bus_is_a_finding(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At 20 Mbit/s any kernel does, with the buffer that is asked for by default."""
    with config.open("a", encoding="utf-8") as file:
        file.write(
            '[[bus]]\nname = "fast"\nkind = "socketcan"\ninterface = "can9"\nbitrate = 20_000_000\n'
        )
    assert main(["check", "-c", str(config)]) == 1
    said = capsys.readouterr().out
    assert 'bus "fast": the kernel holds only' in said
    assert "sysctl -w net.core.rmem_max=" in said


def test_a_key_that_is_no_signal_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with config.open("a", encoding="utf-8") as file:
        file.write('[ignition]\nsignal = "Motor.Sped"\n')
    assert main(["check", "-c", str(config)]) == 2
    said = capsys.readouterr().err
    assert "[ignition] signal" in said
    assert "near it: " in said


def test_a_wrong_parameter_is_told_of_its_bus(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with config.open("a", encoding="utf-8") as file:
        file.write('[[bus]]\nname = "obd"\nkind = "socketcan"\ninterface = "can1"\n')
        file.write('transmit = true\n[[bus.obd]]\npids = ["EngineSpeeed"]\n')
    assert main(["check", "-c", str(config)]) == 2
    said = capsys.readouterr().err
    assert 'bus "obd": ' in said
    assert 'did you mean "EngineSpeed"?' in said


def test_an_address_that_does_not_fit_its_kind_is_refused(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with config.open("a", encoding="utf-8") as file:
        file.write('[[uplink]]\nname = "home"\nkind = "mqtt"\nurl = "https://127.0.0.1:2"\n')
    assert main(["check", "-c", str(config)]) == 2
    assert "begins with mqtt:// or mqtts://" in capsys.readouterr().err


def test_another_plan_can_be_checked_in_place_of_its_own(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = config.parent / "other.toml"
    other.write_text(PLAN.replace("Motor.*", "Speed").replace('"all"', '"other"'), "utf-8")
    assert main(["check", "-c", str(config), str(other), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["plan"], found["campaigns"]) == ("other", {"fast": 1})


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (("agent.toml", "vehicle", "vehcle"), 'agent.toml:1: unknown key "vehcle"'),
        (("agent.toml", "plan.toml", "none.toml"), "none.toml: cannot be read"),
        (
            ("plan.toml", "Motor.*", "Moter.Speed"),
            'plan.toml: campaign "fast": no signal is called',
        ),
        (("plan.toml", '"*"', '"can7"'), 'bus "can7" is no bus of agent.toml, which has: can0'),
        (("plan.toml", "car.dbc", "none.dbc"), "none.dbc: cannot be read: No such file"),
        (("plan.toml", '["Motor.*"]', '["*"]\nuplinks = ["x"]'), 'no uplink is called "x"; agent'),
        (("car.dbc", "BO_ 1 Motor", "BO_ Motor"), "car.dbc: has no messages that can be used"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_exit_status_2(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    mistake: tuple[str, str, str],
    words: str,
) -> None:
    file, old, new = mistake
    change(config.parent / file, old, new)
    assert main(["check", "-c", str(config)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1


def test_a_missing_device_file_is_exit_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "-c", str(tmp_path / "none.toml")]) == 2
    assert "none.toml: cannot be read: No such file" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["device", "plan"])
def test_the_json_schema_is_printed_without_any_configuration(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--schema", kind]) == 0
    assert "$defs" in json.loads(capsys.readouterr().out)
