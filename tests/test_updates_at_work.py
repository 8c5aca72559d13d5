"""Plans over the air with the real programs: the operator's commands, a cloud, an agent.

Whatever becomes of plans, no sample is lost and none comes twice.
"""

import contextlib
import json
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.batch import BatchReader
from tests.ota.desk import Answer, Desk, run
from tests.ota.server import Server, drip
from tests.test_daemon import DBC, PLAN, Bench, _distances, _said, until

ASKED = """
[[campaign]]
name = "asked"
signals = ["Speed"]
[campaign.trigger]
when = "Speed > 655"   # never
pre_s = 2
post_s = 1
"""
OTA = """
[ota]
url = "{url}"
root_file = "{root}"
poll_s = 1
trial_s = {trial_s}
"""
FRAMES = 30_000


class Fleet(Bench):
    """One vehicle, its cloud, which also has the repository, and the operator."""

    def __init__(self, folder: Path, processes: contextlib.ExitStack) -> None:
        super().__init__(folder, processes)
        (folder / "desk").mkdir()
        self.desk = Desk(folder / "desk")
        self.desk.init()
        self.desk.device = folder / "agent.toml"
        (folder / "desk/car.dbc").write_text(DBC)
        lines = [
            f"({i / 100:.6f}) can0 100#"
            + ((i % 60_000).to_bytes(2, "little") + i.to_bytes(4, "little") + bytes(2)).hex()
            for i in range(FRAMES)
        ]
        (folder / "drive.log").write_text("\n".join(lines) + "\n")

    def cloud(self) -> None:
        process = self._start(
            [
                *("-m", "agent.cli", "cloud", "--listen", "127.0.0.1:0"),
                *("--data", str(self.folder / "cloud"), "--ota", str(self.desk.repo)),
            ],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        match = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert match
        self.port = int(match[1])

    def configure_ota(self, *, trial_s: float, url: str = "") -> None:
        self.configure(speed=4)
        root = self.desk.repo / "metadata/1.root.json"
        url = url or f"http://127.0.0.1:{self.port}/ota"
        with (self.folder / "agent.toml").open("a") as file:
            file.write(OTA.format(url=url, root=root, trial_s=trial_s))

    def publish(self, version: int) -> None:
        """A bundle whose plan is called by its version, for every vehicle."""
        plan = PLAN.replace("tiny.dbc", "car.dbc").replace('"test"', f'"ev-{version}"') + ASKED
        bundle = self.desk.bundle(version, "--name", "ev", plan=plan)
        self.operator("publish", self.desk.repo, bundle, "-c", self.desk.device, "--to", "all")

    def operator(self, *words: object) -> None:
        self.desk.good(*words, *self.desk.signed)

    def ota(self, *words: object) -> Answer:
        """`edge-agent ota` at the vehicle."""
        return run(*words, "-c", self.folder / "agent.toml")

    def shows(self, running: str, *, trial: bool = False) -> Any:
        """What `ota show` says, where that is so."""
        answer = self.ota("show", "--json")
        if answer.status != 0:
            return None
        found = answer.json
        return found["running"] == running and bool(found["trial"]) == trial and found

    def tries(self, bundle: str) -> Any:
        """The same where a running agent has begun to watch it."""
        found = self.shows(bundle, trial=True)
        return found and found["state"] == "trial" and found

    def get(self, what: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/v1/vehicles/car-1/{what}"
        try:
            with urllib.request.urlopen(url) as answer:
                return json.load(answer)[what]
        except urllib.error.HTTPError as e:
            if e.code != 404:
                raise
            return []  # the cloud has not heard of this vehicle yet

    def updates(self) -> list[str]:
        """What the cloud has heard, the oldest first."""
        return [f"{u['what']} {u['bundle']}".strip() for u in reversed(self.get("updates"))]

    def heard(self, *words: str) -> bool:
        return self.updates() == list(words)

    def events(self) -> list[Any]:
        """Those of campaigns."""
        found = [told["event"] for told in self.get("events")]
        return [event for event in found if event["kind"] != "update"]

    def headers(self) -> dict[str, str]:
        """Bundle (or none) -> plan, of all batches with samples of the signals."""
        found = {}
        for path in self.arrived() + self.spooled():
            reader = BatchReader(path)
            if reader.count_samples():
                found[str(reader.header.get("bundle", ""))] = str(reader.header["plan"])
        return found

    def check(self) -> None:
        """All that was read is there, once."""
        kept = _distances(self.arrived() + self.spooled())
        assert len(kept) > 100
        assert kept == list(range(len(kept)))


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with contextlib.ExitStack() as processes:
        made = Fleet(tmp_path, processes)
        made.cloud()
        yield made


def leave(agent: "subprocess.Popen[str]") -> str:
    """SIGTERM; gives what was said."""
    agent.send_signal(signal.SIGTERM)
    said = _said(agent)
    assert agent.returncode == 0, said
    assert "Traceback" not in said
    return said


def test_a_bundle_from_the_operator_to_the_vehicle_and_back_by_hand(fleet: Fleet) -> None:
    fleet.configure_ota(trial_s=2)
    agent = fleet.agent()
    until(lambda: (s := fleet.status()) and s["ledger"]["uplink"]["cloud"]["spooled"] > 100)
    assert fleet.shows("factory")
    fleet.publish(1)
    until(lambda: fleet.shows("ev 1"))
    until(lambda: fleet.heard("accepted ev 1", "applied ev 1", "committed ev 1"))
    assert fleet.ota("show").out.startswith("running: bundle ev 1\nbefore it: factory\n")

    assert fleet.ota("pin", "--json").json["pinned"]
    fleet.publish(2)
    fleet.operator("request", fleet.desk.repo, "fire", "asked", "--all")
    until(lambda: fleet.updates()[-1:] == ["request"])
    assert fleet.get("updates")[0]["why"].endswith(": fired asked")
    until(lambda: [(e["campaign"], e["complete"]) for e in fleet.events()] == [("asked", True)])
    until(lambda: "pinned" in fleet.ota("show", "--json").json["why"])
    assert fleet.shows("ev 1")

    assert fleet.ota("rollback", "--json").json["running"] == "factory"
    until(lambda: fleet.updates()[-1:] == ["rolled back ev 1"])
    leave(agent)
    assert fleet.headers() == {"": "test", "ev 1": "ev-1"}
    fleet.check()


def test_a_trial_that_a_power_cut_interrupts_goes_on_and_back_by_hand_without_an_agent(
    fleet: Fleet,
) -> None:
    fleet.configure_ota(trial_s=4)
    fleet.publish(1)
    agent = fleet.agent()
    until(lambda: fleet.tries("ev 1"))
    agent.kill()
    _said(agent)
    assert fleet.shows("ev 1", trial=True)

    agent = fleet.agent()
    found = until(lambda: (s := fleet.status()) and s["ota"]["trial"] and s)
    assert (found["plan"], found["ota"]["trial"]) == ("ev-1", {"bundle": "ev 1", "starts": 2})
    until(lambda: fleet.heard("accepted ev 1", "applied ev 1", "committed ev 1"))
    leave(agent)

    assert fleet.ota("rollback").out.startswith("running: the factory plan\n")
    agent = fleet.agent()
    until(lambda: fleet.updates()[-1:] == ["rolled back ev 1"])
    assert fleet.status()["plan"] == "test"
    leave(agent)
    fleet.check()


def test_a_plan_with_which_the_agent_dies_is_taken_back_at_the_third_time(fleet: Fleet) -> None:
    fleet.configure_ota(trial_s=600)
    fleet.publish(1)
    for start in (1, 2, 3):
        agent = fleet.agent()
        assert until(lambda: fleet.tries("ev 1"))["trial"]["starts"] == start
        agent.kill()
        _said(agent)
    agent = fleet.agent()
    until(lambda: fleet.heard("accepted ev 1", "applied ev 1", "rolled back ev 1"))
    assert fleet.status()["plan"] == "test"

    other = fleet.folder / "desk/car.dbc"  # with it no frame of this vehicle is decoded
    other.write_text(DBC.replace("BO_ 256", "BO_ 700"))
    fleet.publish(2)
    until(lambda: fleet.updates()[-1:] == ["refused ev 2"])
    leave(agent)
    fleet.check()


def test_a_mirror_that_is_slow_without_an_end_holds_up_no_stop(fleet: Fleet) -> None:
    with Server(fleet.desk.repo) as mirror:
        mirror.misbehave("*", drip(lambda: time.sleep(0.1)))
        fleet.configure_ota(trial_s=2, url=mirror.url)
        agent = fleet.agent()
        until(lambda: mirror.asked)
        until(lambda: (s := fleet.status()) and s["ota"]["state"] == "looking")
        leave(agent)
        mirror.close_idle()
