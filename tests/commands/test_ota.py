"""`edge-agent ota`, the device's part, where no agent runs; beside one: tests/test_updates_at_work.

What the words print beside a running agent is tested with a status as one gives it.
"""

import socket
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agent.commands.ota import lines
from agent.ota import record as records
from agent.ota.record import Record
from agent.ota.store import Store
from agent.ota.types import BundleId
from tests.ota.desk import DBC, DEVICE, PLAN, Answer, run

ONE, TWO, THREE = (BundleId("ev", n, str(n) * 64) for n in (1, 2, 3))
WITH_TWO = Record(current=TWO, previous=ONE)
OTA = '[ota]\nurl = "https://updates.example"\nroot_file = "root.json"\n'


class Device:
    """A device file, and a state folder that no agent uses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "agent.toml"
        self.state = folder / "state"
        (folder / "car.dbc").write_text(DBC)
        (folder / "plan.toml").write_text(PLAN.format(every_ms=100))
        self.write(OTA)

    def write(self, ota: str) -> None:
        device = DEVICE.replace("[[bus]]", f'state_dir = "{self.state}"\n[[bus]]', 1)
        self.file.write_text(device + ota)

    def remember(self, record: Record) -> None:
        with Store(self.state / "ota") as store:
            store.save(record)

    @property
    def record(self) -> Record:
        return Store(self.state / "ota").load()

    def run(self, *words: object) -> Answer:
        return run(*words, "-c", self.file)

    def good(self, *words: object) -> str:
        answer = self.run(*words)
        assert (answer.status, answer.err) == (0, ""), answer
        return answer.out

    def bad(self, *words: object, status: int = 1) -> str:
        """What is said on standard error by a command that is refused."""
        answer = self.run(*words)
        assert (answer.status, answer.out) == (status, ""), answer
        assert "Traceback" not in answer.err
        return answer.err


@pytest.fixture
def device(tmp_path: Path) -> Device:
    return Device(tmp_path)


def test_a_vehicle_that_never_took_a_plan(device: Device) -> None:
    assert device.good("show") == (
        "running: the factory plan\nbefore it: factory\nstate: not running\n"
    )
    assert device.run("show", "--json").json == {
        **records.summary(Record()),
        "state": "not running",
        "trouble": "",
    }
    assert not device.state.exists()


@pytest.mark.parametrize("what", ["rollback", "pin", "unpin"])
def test_without_a_plan_there_is_nothing_to_change(device: Device, what: str) -> None:
    assert f"{device.state}/ota: no plan has come over the air yet" in device.bad(what)


@pytest.mark.parametrize("what", ["show", "poll", "rollback", "pin", "unpin"])
def test_a_vehicle_that_takes_none(device: Device, what: str) -> None:
    device.remember(WITH_TWO)
    device.write("")
    assert (
        f"{device.file}: there is no table [ota], so this vehicle takes no plans over the air"
        in device.bad(what, status=2)
    )


def test_what_runs_and_what_was_taken_back(device: Device) -> None:
    device.remember(records.refused(WITH_TWO, THREE, "it does harm"))
    assert device.good("show").splitlines() == [
        "running: bundle ev 2",
        "before it: ev 1",
        "state: not running",
        "rejected: ev 3: it does harm",
    ]
    found = device.run("show", "--json").json
    assert (found["running"], found["previous"]) == ("ev 2", "ev 1")
    assert found["rejected"] == [{"bundle": "ev 3", "why": "it does harm"}]


def test_what_is_on_trial(device: Device) -> None:
    device.remember(records.accepted(WITH_TWO, THREE))
    assert device.good("show").splitlines()[:2] == [
        "running: bundle ev 3, on trial",
        "last good: ev 2; start 1 of this trial",
    ]


def test_back_to_the_one_before_it_and_the_cloud_will_hear_of_it(device: Device) -> None:
    device.remember(WITH_TWO)
    assert device.good("rollback").splitlines() == [
        "running: bundle ev 1",
        "before it: factory",
        "state: not running",
        "rejected: ev 2: by hand",
    ]
    (report,) = device.record.reports
    assert (report.what, report.bundle, report.why) == ("rolled back", TWO, "by hand")
    assert device.good("rollback").startswith("running: the factory plan\n")
    assert "the factory plan runs: there is nothing to go back to" in device.bad("rollback")
    assert [each.bundle for each in device.record.rejected] == [TWO, ONE]
    assert len(device.record.reports) == 2


def test_back_from_a_trial(device: Device) -> None:
    device.remember(records.accepted(WITH_TWO, THREE))
    assert device.good("rollback").startswith("running: bundle ev 2\n")
    assert device.record.trial is None
    assert device.record.current == TWO


def test_pinned_and_unpinned(device: Device) -> None:
    device.remember(WITH_TWO)
    assert device.good("pin").startswith("running: bundle ev 2, pinned\n")
    assert device.record.pinned
    assert device.run("unpin", "--json").json["pinned"] is False
    assert not device.record.pinned


def test_nobody_looks_where_no_agent_runs(device: Device) -> None:
    assert "no agent runs here" in device.bad("poll")


def test_a_socket_that_an_agent_left_behind_is_none(device: Device) -> None:
    device.remember(WITH_TWO)
    path = device.state / "agent.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.exists()
    assert device.good("show").startswith("running: bundle ev 2\n")


def test_the_folder_of_a_running_agent_is_shown_and_not_changed(device: Device) -> None:
    """Its socket is elsewhere."""
    device.remember(WITH_TWO)
    with Store(device.state / "ota"):
        assert device.good("show").startswith("running: bundle ev 2\n")
        for what in ("rollback", "pin", "unpin"):
            assert "an edge-agent is running and uses it; ask that one, or stop it" in device.bad(
                what
            )
    assert replace(device.record, serial=0) == WITH_TWO


def test_a_record_that_is_damaged_is_told(device: Device) -> None:
    device.remember(WITH_TWO)
    for path in (device.state / "ota").glob("record*"):
        path.write_bytes(b"nonsense")
    answer = device.run("show")
    assert (answer.status, answer.err) == (1, "")
    assert "running: the factory plan\n" in answer.out
    assert "trouble: " in answer.out
    assert "is damaged" in answer.out


def test_an_agent_elsewhere_is_asked_at_its_socket(device: Device) -> None:
    """Nobody answers there: the state folder of the device file is what is left."""
    device.remember(WITH_TWO)
    nowhere = device.folder / "nobody.sock"
    assert device.good("show", "--socket", nowhere).startswith("running: bundle ev 2\n")


def test_a_device_file_that_is_none(device: Device) -> None:
    device.file.unlink()
    assert "agent.toml" in device.bad("show", status=2)


def test_the_lines_of_a_running_agent() -> None:
    status: dict[str, Any] = {
        **records.summary(WITH_TWO),
        "pinned": True,
        "state": "waiting",
        "why": "ev 2 is pinned at this vehicle",
        "trouble": "the repository does not answer",
        "looked_s_ago": 7300.0,
        "expires": 1_800_000_000,
        "clock_untrusted": True,
        "findings": ["an entry is skipped"],
    }
    assert list(lines(status)) == [
        "running: bundle ev 2, pinned",
        "before it: ev 1",
        "state: waiting; ev 2 is pinned at this vehicle",
        "repository: looked 2 h 1 min ago, its word holds until 2027-01-15 08:00 UTC",
        "clock: not trusted; expiries are judged by the last time that was known for sure",
        "trouble: the repository does not answer",
        "finding: an entry is skipped",
    ]
