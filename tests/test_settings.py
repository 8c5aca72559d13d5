"""The device file and the plan: what is taken, and with which words the rest is refused."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest

from agent.errors import ConfigError
from agent.settings import (
    Device,
    Plan,
    PythonCanBus,
    RecordingBus,
    SocketCanBus,
    load_device,
    load_plan,
    packaged,
    schema,
)

DEVICE = """\
vehicle = "kona-1"
plan = "plans/all.toml"
state_dir = "state"

[[bus]]
name = "powertrain"
kind = "recording"
path = "drive.log"

[[bus]]
name = "Body"
kind = "python-can"
interface = "socketcan"
options = { fd = true }

[[uplink]]
name = "cloud"
url = "https://example.com"
token_file = "token"

[spool]
quota_mb = 100
"""
PLAN = """\
version = 1
name = "all"

[[database]]
bus = "*"
files = ["car.dbc", "/usr/share/other.dbc"]

[[campaign]]
name = "fast"
signals = ["*"]
"""


def device(
    folder: Path, content: str | bytes = DEVICE, environment: Mapping[str, str] | None = None
) -> Device:
    path = folder / "agent.toml"
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return load_device(path, environment or {})


def plan(folder: Path, content: str = PLAN) -> Plan:
    path = folder / "plan.toml"
    path.write_text(content, "utf-8")
    return load_plan(path)


def refusal(
    folder: Path, content: str | bytes = DEVICE, environment: Mapping[str, str] | None = None
) -> str:
    """The words of a refusal, with the name of the file and not of its folder."""
    with pytest.raises(ConfigError) as caught:
        device(folder, content, environment)
    return str(caught.value).replace(f"{folder}/", "")


def test_relative_paths_stand_for_files_beside_the_device_file(tmp_path: Path) -> None:
    loaded = device(tmp_path)
    recording, socketcan = loaded.bus
    assert isinstance(recording, RecordingBus)
    assert isinstance(socketcan, PythonCanBus)
    assert recording.path == str(tmp_path / "drive.log")
    assert loaded.plan == str(tmp_path / "plans" / "all.toml")
    assert loaded.state_dir == str(tmp_path / "state")
    assert loaded.socket == str(tmp_path / "state" / "agent.sock")
    assert loaded.uplink[0].token_file == str(tmp_path / "token")
    assert loaded.uplink[0].ca_file == ""
    assert socketcan.options == {"fd": True}
    assert (loaded.spool.quota_mb, loaded.spool.commit_interval_s) == (100, 1.0)


def test_the_home_folder_may_be_written_short(tmp_path: Path) -> None:
    loaded = device(tmp_path, DEVICE.replace("plans/", "~/plans/"))
    assert loaded.plan == str(Path("~/plans/all.toml").expanduser())


def test_paths_of_a_plan_stand_beside_the_plan(tmp_path: Path) -> None:
    (database,) = plan(tmp_path).database
    assert database.files == [str(tmp_path / "car.dbc"), "/usr/share/other.dbc"]


def test_without_state_dir_the_folder_is_the_one_that_systemd_names(tmp_path: Path) -> None:
    content = DEVICE.replace('state_dir = "state"\n', "")
    loaded = device(tmp_path, content, {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"})
    assert loaded.state_dir == "/var/lib/a"
    assert loaded.socket == "/var/lib/a/agent.sock"
    words = refusal(tmp_path, content)
    assert words.startswith("agent.toml: state_dir is not set: name the folder")


def test_state_dir_of_the_file_wins_over_systemd(tmp_path: Path) -> None:
    loaded = device(tmp_path, DEVICE, {"STATE_DIRECTORY": "/var/lib/a"})
    assert loaded.state_dir == str(tmp_path / "state")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("vehicle =", "vehcle =", 'agent.toml:1: unknown key "vehcle"; did you mean "vehicle"?'),
        (
            "quota_mb",
            "quota",
            'agent.toml:22: unknown key "quota" in [spool]; did you mean "quota_mb"?',
        ),
        ("quota_mb", "zzz", 'agent.toml:22: unknown key "zzz" in [spool]'),
        (
            "interface =",
            "intrface =",
            'agent.toml:13: unknown key "intrface" in [bus #2]; did you mean "interface"?',
        ),
        ("path =", "bitrate =", 'agent.toml:8: unknown key "bitrate" in [bus #1]'),
        (
            "token_file",
            "token-file",
            'agent.toml:19: unknown key "token-file" in [uplink #1]; did you mean "token_file"?',
        ),
        ("= 100", '= "100"', 'agent.toml:22: "quota_mb" in [spool]: expected int, got str'),
        ("= 100", "= true", 'agent.toml:22: "quota_mb" in [spool]: expected int, got bool'),
        ("= 100", "= 1", 'agent.toml:22: "quota_mb" in [spool]: expected int >= 2'),
        ('kind = "recording"', 'kind = "record"', 'agent.toml:7: "kind" in [bus #1]: invalid val'),
        ('kind = "recording"\n', "", 'agent.toml:5: the key "kind" is missing in [bus #1]'),
        ('interface = "socketcan"\n', "", 'agent.toml:10: the key "interface" is missing in [b'),
        ('vehicle = "kona-1"\n', "", 'agent.toml:1: the key "vehicle" is missing'),
        ("kona-1", "kona 1", 'agent.toml:1: "vehicle": expected str matching regex'),
        ("https:", "ftp:", 'agent.toml:18: "url" in [uplink #1]: expected str matching regex'),
        ('"Body"', '"powertrain"', 'agent.toml: two [[bus]] are called "powertrain"; each needs'),
        ('"kona-1"', '"kona-1', "agent.toml: is not valid TOML: Illegal character"),
        ("fd = true", "fd = [1]", 'agent.toml:14: "options" in [bus #2]: expected'),
        ("plans/", "~nobody-of-that-name/", "~nobody-of-that-name/all.toml: there is no such home"),
    ],
)
def test_a_mistake_is_refused_with_file_line_key_and_what_was_probably_meant(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    assert DEVICE.count(old) == 1
    content = DEVICE.replace(old, new)
    assert refusal(tmp_path, content).startswith(words)


def test_keys_of_a_table_may_be_written_with_dots(tmp_path: Path) -> None:
    head, tail = DEVICE.split("\n\n", 1)
    tail = tail.replace("[spool]\nquota_mb = 100\n", "")
    assert device(tmp_path, f"{head}\nspool.quota_mb = 7\n{tail}").spool.quota_mb == 7
    words = refusal(tmp_path, f"{head}\nspool.quota_mb = 1\n{tail}")
    assert words == 'agent.toml:4: "quota_mb" in [spool]: expected int >= 2'


def test_a_file_that_is_no_text_is_refused_with_the_line(tmp_path: Path) -> None:
    words = refusal(tmp_path, b'vehicle = "a"\nplan = "\xff"\n')
    assert words == "agent.toml:2: is not UTF-8 text; save the file as UTF-8"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.toml", "none.toml: cannot be read: No such file or directory"),
        (".", "cannot be read: Is a directory"),
        ("a\0b", "is no name of a file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_by_name(
    tmp_path: Path, name: str, words: str
) -> None:
    for load in (load_plan, load_device):
        with pytest.raises(ConfigError, match=words):
            load(tmp_path / name)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("version = 1", "version = 2", 'plan.toml:1: "version": invalid enum value 2'),
        ('["*"]', '["*"]\nevery_ms = -1', 'plan.toml:11: "every_ms" in [campaign #1]: expected'),
        ("signals", "signal", 'plan.toml:10: unknown key "signal" in [campaign #1]; did you mean'),
        ("bus =", "bs =", 'plan.toml:5: unknown key "bs" in [database #1]; did you mean "bus"?'),
        ('name = "all"\n', "", 'plan.toml:1: the key "name" is missing'),
        (
            '["*"]\n',
            '["*"]\n[[campaign]]\nname = "fast"\nsignals = ["*"]\n',
            'plan.toml: two [[campaign]] are called "fast"',
        ),
        (
            "[[campaign]]",
            '[[database]]\nbus = "*"\nfiles = ["b.dbc"]\n[[campaign]]',
            'plan.toml: two [[database]] are called "*"',
        ),
        ('name = "all"', 'url = "http://evil"', 'plan.toml:2: unknown key "url"'),
    ],
)
def test_a_mistake_in_a_plan_is_refused_the_same_way(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    assert PLAN.count(old) == 1
    with pytest.raises(ConfigError) as caught:
        plan(tmp_path, PLAN.replace(old, new))
    assert str(caught.value).replace(f"{tmp_path}/", "").startswith(words)


def test_the_environment_overrides_any_setting(tmp_path: Path) -> None:
    loaded = device(
        tmp_path,
        DEVICE,
        {
            "EDGE_AGENT_VEHICLE": "truck-7",
            "EDGE_AGENT_SPOOL__QUOTA_MB": "250",
            "EDGE_AGENT_SPOOL__COMMIT_INTERVAL_S": "0.5",
            "EDGE_AGENT_BATCH__SEAL_KIB": "64",
            "EDGE_AGENT_UPLINK__CLOUD__URL": "http://127.0.0.1:8080/#a",
            "EDGE_AGENT_BUS__BODY__TRANSMIT": "true",
            "EDGE_AGENT_BUS__POWERTRAIN__PATH": "/logs/other.asc",
            "EDGE_AGENT_LOG_LEVEL": '"debug"',
            "ANOTHER_EDGE_AGENT_VEHICLE": "no",
            "EDGE_AGENT_OTA_PASSPHRASE": "of an operator's keys, and no setting",
        },
    )
    assert loaded.vehicle == "truck-7"
    assert (loaded.spool.quota_mb, loaded.spool.commit_interval_s) == (250, 0.5)
    assert loaded.batch.seal_kib == 64
    assert loaded.uplink[0].url == "http://127.0.0.1:8080/#a"
    assert [getattr(bus, "transmit", None) for bus in loaded.bus] == [False, True]
    assert isinstance(loaded.bus[0], RecordingBus)
    assert loaded.bus[0].path == "/logs/other.asc"
    assert loaded.log_level == "debug"


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("SPOOL__QUOTA_MB", "much", '"quota_mb" in [spool]: expected int, got str'),
        ("SPOOL__QUOTA", "3", 'unknown key "quota" in [spool]; did you mean "quota_mb"?'),
        ("UPLINK__CLOUD__URL", "nowhere", '"url" in [uplink #1]: expected str matching'),
        ("UPLINK__MOON__URL", "http://a", "the configuration has no uplink with the name 'moon'"),
        ("VEHICLE__NAME", "a", "does not name a setting"),
        ("VEHICLE__NAME__FIRST", "a", "does not name a setting"),
        ("BUS", "3", '"bus": expected array, got int'),
        ("", "3", "does not name a setting"),
    ],
)
def test_a_mistake_in_the_environment_is_refused_with_its_variable(
    tmp_path: Path, variable: str, value: str, words: str
) -> None:
    name = f"EDGE_AGENT_{variable}"
    assert refusal(tmp_path, DEVICE, {name: value}).startswith(f"{name}: {words}")


def test_the_environment_does_not_stumble_over_a_list_that_is_none(tmp_path: Path) -> None:
    content = 'bus = ["can0"]\n' + DEVICE.split("\n\n", maxsplit=1)[0]
    words = refusal(tmp_path, content, {"EDGE_AGENT_BUS__CAN0__TRANSMIT": "true"})
    assert (
        words == "EDGE_AGENT_BUS__CAN0__TRANSMIT: the configuration has no bus with the name 'can0'"
    )


@pytest.mark.parametrize("name", ["agent.toml", "bench.toml"])
def test_the_device_files_that_come_with_the_program_are_good(name: str) -> None:
    loaded = load_device(packaged(f"config/{name}"), {"STATE_DIRECTORY": "/var/lib/edge-agent"})
    assert loaded.bus
    assert load_plan(Path(loaded.plan)).campaign


def keys(of: Any) -> Iterator[str]:
    """All names of properties in a JSON Schema."""
    if isinstance(of, dict):
        yield from of.get("properties", {})
        for part in of.values():
            yield from keys(part)
    elif isinstance(of, list):
        for part in of:
            yield from keys(part)


@pytest.mark.parametrize("kind", ["device", "plan"])
def test_every_key_is_described_on_the_page_about_configuration(
    kind: Literal["device", "plan"],
) -> None:
    docs = Path(__file__).parents[1] / "docs"
    names_of_pages = ("configuration.md", "plans.md", "gbt32960.md")
    page = "".join((docs / name).read_text("utf-8") for name in names_of_pages)
    described = set(re.findall(r"`([a-z][a-z0-9_]*)`", page))
    names = set(keys(schema(kind)))
    assert {"name", "vehicle" if kind == "device" else "signals"} <= names
    assert names - described == set()


def test_diagnostic_requests_need_transmit(tmp_path: Path) -> None:
    table = '[[bus]]\nname = "obd"\nkind = "socketcan"\ninterface = "can1"\n'
    asks = '[[bus.obd]]\npids = ["EngineSpeed", 0x05]\n'
    with pytest.raises(ConfigError, match=r'bus "obd".*"transmit = true"'):
        device(tmp_path, DEVICE + table + asks)
    loaded = device(tmp_path, DEVICE + table + "transmit = true\n" + asks)
    bus = loaded.bus[-1]
    assert isinstance(bus, SocketCanBus)
    assert bus.obd[0].pids == ["EngineSpeed", 5]


def test_a_wrong_key_of_a_request_is_named_with_its_line(tmp_path: Path) -> None:
    table = '[[bus]]\nname = "obd"\nkind = "socketcan"\ninterface = "can1"\ntransmit = true\n'
    text = DEVICE + table + '[[bus.obd]]\npids = ["EngineSpeed"]\nintervals_s = 3\n'
    line = text[: text.index("intervals_s")].count("\n") + 1
    with pytest.raises(ConfigError, match=rf':{line}: unknown key "intervals_s".*"interval_s"'):
        device(tmp_path, text)


PLATFORM = """
[[uplink]]
name = "platform"
kind = "gbt32960"
url = "gbt32960://platform.example.com:32960"
"""
VEHICLE = '[uplink.gbt32960]\nvin = "LDEMO000000000001"\n'


def test_a_platform_takes_reports_and_no_batches(tmp_path: Path) -> None:
    loaded = device(tmp_path, DEVICE + PLATFORM + VEHICLE + 'iccid_file = "iccid"\n')
    assert "platform" not in loaded.receivers
    assert list(loaded.platforms) == ["platform"]
    assert loaded.platforms["platform"].iccid_file == str(tmp_path / "iccid")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (PLATFORM, "belong together"),
        (PLATFORM.replace('kind = "gbt32960"', 'kind = "http"') + VEHICLE, "belong together"),
        (PLATFORM + 'token_file = "t"\n' + VEHICLE, '"token_file" is of no use for a platform'),
        (PLATFORM + VEHICLE + 'iccid = "1"\niccid_file = "f"\n', 'either "iccid" or "iccid_file"'),
        (PLATFORM + VEHICLE + 'subsystem_codes = ["A", "BC"]\n', "all be of one length"),
        (PLATFORM + VEHICLE + 'edition = 2025\npack_codes = [["A"]]\n', "24 characters each"),
        (PLATFORM + VEHICLE + 'sign = ["x"]\n', '"sign" is of edition = 2025'),
        (PLATFORM + VEHICLE + 'edition = 2025\nsubsystem_codes = ["A"]\n', "of edition = 2016"),
        (PLATFORM + VEHICLE + "edition = 2020\n", "edition"),
        (PLATFORM + VEHICLE.replace("LDEMO", "LDEMO-TOO-LONG"), "vin"),
        (PLATFORM + VEHICLE + "heartbet_s = 5\n", 'did you mean "heartbeat_s"'),
    ],
)
def test_a_platform_that_cannot_be_is_refused_with_the_reason(
    tmp_path: Path, text: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        device(tmp_path, DEVICE + text)
