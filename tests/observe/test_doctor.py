"""The doctor on a made-up computer: what is in the file, what is not, and what is said."""

import asyncio
import io
import json
import stat
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from agent.errors import AgentError, BusError, ConfigError
from agent.observe.doctor import Examination, as_json, examine, lines, pack, write
from agent.observe.gather import SOURCES, Subject, subject_of
from agent.observe.machine import MOST_BYTES, Output, SystemMachine, TooLong, together
from agent.observe.socket import StatusServer
from tests.observe.patients import Patient, bus, interface, uplink, well

DEVICE = """\
vehicle = "van-7"
plan = "plan.toml"
state_dir = "state"
[[bus]]
name = "powertrain"
kind = "socketcan"
interface = "can0"
[[uplink]]
name = "cloud"
url = "https://cloud.example/in"
"""
PLAN = 'version = 1\nname = "all"\n[[campaign]]\nname = "fast"\nsignals = ["*"]\n'
UNIT = "LoadState=loaded\nActiveState=active\nResult=success\nNRestarts=0\nMemoryHigh=671088640\n"
MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/root rw
23 22 0:5 / /proc rw - proc proc rw
"""
CHECK = ("edge-agent", "check")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "agent.toml").write_text(DEVICE, "utf-8")
    (tmp_path / "plan.toml").write_text(PLAN, "utf-8")
    (tmp_path / "state" / "spool" / "open").mkdir(parents=True)
    return tmp_path / "agent.toml"


@pytest.fixture
def patient() -> Patient:
    """A vehicle that is well."""
    made = Patient()
    made.status = well()
    made.interfaces = [interface()]
    made.prints("edge-agent check", json.dumps({"findings": []}))
    made.prints("journalctl -u", "2031-05-09T14:00:00 edge-agent[77]: running\n")
    made.prints("journalctl -k", "[    0.0] Linux version 6.6\n")
    made.prints("journalctl --list-boots", "0 1111 now\n")
    made.prints("systemctl show", UNIT)
    made.prints("systemctl cat", "[Service]\nExecStart=/usr/bin/edge-agent run\n")
    made.prints("timedatectl show", "NTPSynchronized=yes\n")
    made.prints("ip ", "3: can0: <NOARP,UP,LOWER_UP> mtu 16\n")
    made.files |= {
        "/proc/sys/net/core/rmem_max": b"8388608\n",
        "/proc/meminfo": b"MemTotal: 2000000 kB\nMemAvailable: 1000000 kB\n",
        "/proc/loadavg": b"0.10 0.20 0.30 1/100 4242\n",
        "/proc/self/mountinfo": MOUNTS.encode(),
        "/sys/class/thermal/thermal_zone0/temp": b"51000\n",
        "/sys/class/thermal/thermal_zone0/type": b"cpu\n",
        "/sys/block/mmcblk0/device/life_time": b"0x01 0x02\n",
        "/sys/block/mmcblk0/device/pre_eol_info": b"0x01\n",
    }
    return made


def examined(patient: Patient, config: Path) -> Examination:
    return examine(patient, subject_of(config, CHECK, patient))


def archive(found: Examination) -> dict[str, str]:
    """What is in the file, by names without its folder."""
    with tarfile.open(fileobj=io.BytesIO(pack(found)), mode="r:gz") as packed:
        texts = {}
        for member in packed:
            folder, _, name = member.name.partition("/")
            assert folder == found.name
            file = packed.extractfile(member)
            assert file is not None
            texts[name] = file.read().decode()
        return texts


def test_of_a_vehicle_that_is_well_everything_is_there(patient: Patient, config: Path) -> None:
    found = examined(patient, config)
    assert found.well
    assert next(lines(found)) == "Nothing is wrong, as far as can be seen from here."
    files = archive(found)
    assert set(files) == {"report.txt", "report.json", *(name for name, _, _ in SOURCES)}
    assert 'vehicle = "van-7"' in files["configuration.toml"]
    assert 'name = "fast"' in files["plan.toml"]
    assert json.loads(files["status.txt"])["vehicle"] == "van-7"
    assert "edge-agent[77]: running" in files["log.txt"]
    assert "Linux version 6.6" in files["kernel-log.txt"]
    assert "ExecStart=" in files["unit.txt"]
    assert "LOWER_UP" in files["interfaces.txt"]
    assert '"bitrate": 500000' in files["interfaces.txt"]
    assert "MemAvailable: 1000000 kB" in files["computer.txt"]
    assert "ext4" in files["storage.txt"]
    assert '"life_times": [1, 2]' in files["storage.txt"]
    assert "51.0 °C" in files["heat.txt"]
    assert "NTPSynchronized=yes" in files["clock.txt"]
    assert "edge-agent 0." in files["packages.txt"]
    assert "numpy" in files["packages.txt"]
    assert json.loads(files["report.json"]) == as_json(found) | {
        "files": sorted(set(files) - {"report.txt", "report.json"})
    }
    assert set(found.failed) == {"process.txt"}  # none holds this spool


def test_the_same_examination_is_the_same_file(patient: Patient, config: Path) -> None:
    found = examined(patient, config)
    assert found.name == "doctor-van-7-20310509T140000Z"
    assert pack(found) == pack(found)
    with tarfile.open(fileobj=io.BytesIO(pack(found)), mode="r:gz") as packed:
        members = packed.getmembers()
    assert [m.name for m in members] == sorted(m.name for m in members)
    assert {(m.mode, m.uid, m.uname, m.mtime) for m in members} == {(0o600, 0, "", found.time_s)}


def test_a_file_that_only_its_owner_may_read(
    patient: Patient, config: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out.tar.gz"
    path.write_text("an older one")
    path.chmod(0o644)
    found = examined(patient, config)
    write(found, path)
    assert path.read_bytes() == pack(found)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_where_it_cannot_be_written_that_is_said(
    patient: Patient, config: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="name another place with --output"):
        write(examined(patient, config), tmp_path / "none" / "out.tar.gz")


# secrets

SECRETS = [f"s3cret-{kind}-{n:02d}" for n, kind in enumerate(("alpha", "beta", "gamma") * 5)]


def test_no_secret_is_in_the_file(patient: Patient, tmp_path: Path) -> None:
    """Wherever somebody may have put one, and wherever it may come out."""
    s = iter(SECRETS)
    url, query, password, inline, phrase, variable, unit, credential, flag, plan = (
        next(s) for _ in range(10)
    )
    token, key, proxy, comment = (next(s) for _ in range(4))
    for name, content in (("token", token), ("client.key", key), ("proxy", proxy)):
        (tmp_path / name).write_text(content)
    (tmp_path / "state" / "spool" / "open").mkdir(parents=True)
    (tmp_path / "plan.toml").write_text(f'{PLAN}token = "{plan}"\n')
    config = tmp_path / "agent.toml"
    config.write_text(
        f"""\
vehicle = "van-7"   # the password is {comment}
plan = "plan.toml"
state_dir = "state"
[[bus]]
name = "rare"
kind = "python-can"
interface = "socketcand"
options = {{ password = "{password}", port = 5 }}
[[uplink]]
name = "cloud"
url = "https://joe:{url}@cloud.example/in?sig={query}"
token_file = "token"
client_cert_file = "client.crt"
client_key_file = "client.key"
proxy_auth_file = "proxy"
"""
    )
    patient.environment = {
        "EDGE_AGENT_OTA_PASSPHRASE": phrase,
        "CLOUD_API_TOKEN": variable,
        "HTTPS_PROXY": f"http://u:{inline}@proxy:3128",
    }
    patient.prints("systemctl show", f"{UNIT}StateDirectory=edge-agent\n")
    patient.prints(
        "systemctl cat",
        f"[Service]\nEnvironment=EDGE_AGENT_UPLINK__CLOUD__TOKEN={unit}\n"
        f"SetCredential=token:{credential}\nExecStart=/bin/x --token {flag}\n",
    )
    chatter = "\n".join(
        f"edge-agent: error: a library repeats {secret}"
        for secret in (
            url,
            query,
            password,
            phrase,
            variable,
            unit,
            credential,
            inline,
            plan,
        )
    )
    patient.prints("journalctl -u", chatter)
    patient.prints("journalctl -k", chatter)
    patient.prints("edge-agent check", f"edge-agent: bad password {password} at {url}", 2)
    patient.status = well(uplinks=[uplink(state="waiting", why=f"cannot be reached: {url}")])
    found = examined(patient, config)
    assert not found.well
    texts = archive(found)
    told = [*texts.values(), *lines(found, 99), json.dumps(as_json(found)), found.name]
    for secret in SECRETS[:14]:
        assert not [text for text in told if secret in text], secret
    assert b"s3cret" not in b"".join(text.encode() for text in texts.values())
    assert 'token_file = "token"' in texts["configuration.toml"]
    assert "cloud.example" in texts["configuration.toml"]
    assert "port = 5" in texts["configuration.toml"]


def test_files_of_credentials_are_not_even_opened(
    patient: Patient, config: Path, tmp_path: Path
) -> None:
    config.write_text(DEVICE + 'token_file = "token"\nclient_cert_file = "crt"\n')
    (tmp_path / "token").write_text("s3cret")
    (tmp_path / "crt").write_text("s3cret")
    opened: list[str] = []

    class Watched(Patient):
        def read(self, path: str, most: int = MOST_BYTES) -> bytes:
            opened.append(Path(path).name)
            return super().read(path, most)

    watched = Watched()
    vars(watched).update(vars(patient))
    examined(watched, config)
    assert "agent.toml" in opened
    assert not {"token", "crt"} & set(opened)


# what fails


def test_a_computer_that_tells_nothing_is_examined_too(tmp_path: Path) -> None:
    patient = Patient()
    patient.root = False
    patient.interfaces = BusError("the kernel cannot be asked about interfaces")
    found = examined(patient, tmp_path / "none.toml")
    assert found.causes[0].key == "config"
    assert found.name == "doctor-unknown-20310509T140000Z"
    files = archive(found)
    for name in ("configuration.toml", "plan.toml", "check.txt", "log.txt", "unit.txt"):
        assert files[name].startswith("There is nothing here: ")
        assert "Traceback" not in files[name]
    assert "journalctl: there is no such file or command" in files["log.txt"]
    assert "cannot be asked about interfaces" in files["interfaces.txt"]
    assert "not gathered as root" in files["note.txt"]


@pytest.mark.parametrize(
    "error", [RuntimeError("a defect"), OSError(5, "Input/output error"), ValueError(), KeyError(1)]
)
def test_a_source_that_fails_costs_itself(patient: Patient, config: Path, error: Exception) -> None:
    class Sick(Patient):
        def names(self, path: str) -> list[str]:
            raise error

        def space(self, path: str) -> Any:
            raise error

    sick = Sick()
    vars(sick).update(vars(patient))
    found = examined(sick, config)
    assert "storage.txt" in found.failed
    assert "Linux version" in archive(found)["kernel-log.txt"]
    assert "Could not be had: " in list(lines(found))[-1]


def test_too_much_of_a_log_is_cut_and_its_end_stays(patient: Patient, config: Path) -> None:
    patient.prints("journalctl -u", "x" * 3 * MOST_BYTES + "the last word")
    patient.prints("systemctl cat", "y" * 3 * MOST_BYTES)
    files = archive(examined(patient, config))
    assert files["log.txt"].endswith("the last word")
    assert all(len(text.encode()) <= MOST_BYTES + 100 for text in files.values())


def test_bytes_that_are_no_text_are_shown_as_such(patient: Patient, config: Path) -> None:
    patient.commands["journalctl -u"] = Output(0, b"\xff\xfe and a word\n")
    assert "\\xff\\xfe and a word" in archive(examined(patient, config))["log.txt"]


# what is said


def test_the_likeliest_three_are_printed_and_all_are_in_the_file(
    patient: Patient, config: Path
) -> None:
    patient.status = well(
        buses=[bus(last_frames_s=500.0)],
        uplinks=[uplink(state="held", why="answered 401 Unauthorized")],
        differences=["bus powertrain: received = 10, but read + dropped = 9"],
        budget={"degraded": "rates are halved"},
    )
    found = examined(patient, config)
    assert [cause.key for cause in found.causes] == ["credential", "ledger", "bus", "budget"]
    said = list(lines(found))
    assert said[0] == '1. Uplink "cloud": answered 401 Unauthorized.'
    assert said[1].startswith("   Put the right token into the file")
    assert said[4].startswith('3. Bus "powertrain": no frames for 8 min')
    assert said[6].startswith("1 more in report.txt")
    assert "4. Budget: rates are halved." in archive(found)["report.txt"]


def test_findings_are_told_and_are_no_illness(patient: Patient, config: Path) -> None:
    patient.prints("edge-agent check", json.dumps({"findings": ["a.dbc:3: is repaired"]}), 1)
    found = examined(patient, config)
    assert found.well
    assert found.findings == ("a.dbc:3: is repaired",)
    assert "`edge-agent check` has 1 findings; they are in check.txt." in list(lines(found))


def test_a_plan_that_cannot_be_used_is_the_first_cause(patient: Patient, config: Path) -> None:
    patient.status = AgentError("no agent")
    patient.prints("systemctl show", "ActiveState=activating\nExecMainStatus=2\nExecMainCode=1\n")
    patient.prints("edge-agent check", "edge-agent: plan.toml:4: signals: there is no Motr\n", 2)
    found = examined(patient, config)
    assert [cause.key for cause in found.causes] == ["config", "stopped"]
    assert "plan.toml:4: signals: there is no Motr" in found.causes[0].what


def test_without_an_agent_the_status_of_the_last_stop_counts(
    patient: Patient, config: Path
) -> None:
    patient.status = AgentError("agent.sock: no agent answers here")
    patient.prints("systemctl show", "ActiveState=inactive\nResult=success\n")
    last = well(uplinks=[uplink(state="held", why="answered 404 Not Found")])
    (config.parent / "state" / "last-run.json").write_text(json.dumps(last))
    found = examined(patient, config)
    assert [cause.key for cause in found.causes] == ["stopped", "address"]
    assert "The status at the last clean stop:" in archive(found)["status.txt"]


def test_a_socket_that_may_not_be_used_is_no_dead_agent(patient: Patient, config: Path) -> None:
    denied = AgentError("agent.sock: no agent answers here (Permission denied)")
    denied.__cause__ = PermissionError(13, "Permission denied")
    patient.status = denied
    assert [cause.key for cause in examined(patient, config).causes] == ["permission"]


def test_files_of_the_kernel_become_facts(patient: Patient, config: Path) -> None:
    patient.files |= {
        "/proc/meminfo": b"MemTotal: 2000000 kB\nMemAvailable: 20000 kB\n",
        "/proc/self/mountinfo": MOUNTS.replace("/ / rw,relatime", "/ / ro,relatime").encode(),
        "/sys/class/thermal/thermal_zone0/temp": b"99000\n",
        "/sys/block/mmcblk0/device/life_time": b"0x01 0x0b\n",
    }
    patient.interfaces = []
    keys = {cause.key for cause in examined(patient, config).causes}
    assert keys == {"memory", "disk", "heat", "flash", "bus"}


@pytest.mark.parametrize("text", [b"", b"nonsense\n", b"\0\xff", b"0x 1 2 3: -\n\n - \n", b"-"])
def test_files_of_the_kernel_with_nonsense_harm_nobody(
    patient: Patient, config: Path, text: bytes
) -> None:
    patient.files = dict.fromkeys([*patient.files, "/proc/locks", "/proc/uptime"], text)
    assert examined(patient, config).well


def test_the_agent_that_holds_the_spool_is_measured(patient: Patient, config: Path) -> None:
    lock = config.parent / "state" / "spool" / "lock"
    lock.write_bytes(b"")
    file = lock.stat()
    device = f"{file.st_dev >> 8 & 0xFFF:02x}:{file.st_dev & 0xFF:02x}:{file.st_ino}"
    patient.files["/proc/locks"] = f"1: FLOCK  ADVISORY  WRITE 77 {device} 0 EOF\n".encode()
    patient.files["/proc/77/status"] = b"Name: edge-agent\nVmRSS: 660000 kB\n"
    ticks = iter((1000, 1095))

    class Busy(Patient):
        def read(self, path: str, most: int = MOST_BYTES) -> bytes:
            if path == "/proc/77/stat":
                return f"77 (edge agent)) S {' 0' * 10} {next(ticks)} 0 0".encode()
            return super().read(path, most)

    busy = Busy()
    vars(busy).update(vars(patient))
    found = examined(busy, config)
    assert [cause.key for cause in found.causes] == ["memory", "cpu"]
    assert "processor: 95.0 % of one, over 1.0 s" in archive(found)["process.txt"]


# the real computer


def test_a_command_that_does_not_end_is_ended() -> None:
    with pytest.raises(TooLong, match=r"did not end in 0\.2 s"):
        SystemMachine().run([sys.executable, "-c", "import time; time.sleep(600)"], 0.2)


@pytest.mark.parametrize(("tail", "letter"), [(True, b"b"), (False, b"a")])
def test_what_a_command_prints_is_bounded(tail: bool, letter: bytes) -> None:
    program = f"print('a' * {2 * MOST_BYTES}, end=''); print('b' * {2 * MOST_BYTES}, end='')"
    done = SystemMachine().run([sys.executable, "-c", program], 60, tail=tail)
    assert (done.status, done.cut) == (0, True)
    assert done.text == letter * MOST_BYTES


def test_both_outputs_and_the_status_of_a_command_are_told() -> None:
    program = "import sys; print('out', flush=True); print('err', file=sys.stderr); sys.exit(3)"
    done = SystemMachine().run([sys.executable, "-c", program], 60)
    assert (done.status, done.text, done.cut) == (3, b"out\nerr\n", False)


def test_a_file_without_end_and_a_pipe_without_writer_end_a_look(tmp_path: Path) -> None:
    import os  # noqa: PLC0415 - only here

    machine = SystemMachine()
    assert machine.read("/dev/zero") == bytes(MOST_BYTES)
    os.mkfifo(tmp_path / "pipe")
    assert machine.read(str(tmp_path / "pipe")) == b""


def test_one_that_hangs_is_left_alone() -> None:
    never = threading.Event()

    def fails() -> str:
        raise ValueError("no")

    jobs = [(lambda: "a", 60.0), (lambda: str(never.wait()), 0.05), (fails, 60.0)]
    first, second, third = together(jobs)
    never.set()
    assert first == "a"
    assert isinstance(second, TooLong)
    assert isinstance(third, ValueError)


def test_this_very_computer_with_a_real_agent_socket(config: Path, tmp_path: Path) -> None:
    """Whatever this computer has or has not: all sources answer or say why not."""
    machine = SystemMachine()
    check = [sys.executable, "-c", "print('{\"findings\": []}')"]
    path = tmp_path / "s"

    async def both() -> Examination:
        async with StatusServer(path, {"status": lambda: well(vehicle="here")}):
            subject = subject_of(config, check, machine, path)
            return await asyncio.to_thread(examine, machine, subject)

    found = asyncio.run(both())
    files = archive(found)
    assert json.loads(files["status.txt"])["vehicle"] == "here"
    assert "/proc/meminfo" in files["computer.txt"]
    assert "permission" not in [cause.key for cause in found.causes]
    assert "stopped" not in [cause.key for cause in found.causes]
    assert not any("Traceback" in files[name] for name in files if not name.endswith("log.txt"))


def test_a_subject_without_configuration_is_that_of_the_service() -> None:
    subject = Subject(Path("agent.toml"), CHECK, None, "no")
    assert subject.state == Path("/var/lib/edge-agent")
