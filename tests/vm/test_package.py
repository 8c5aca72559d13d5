"""The package for Debian on a real Debian with systemd, from its installation to its purge.

One guest lives through it (`package_life.py`) and notes what it sees; each test here judges a part
of that.
"""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.vm.guest import Guest
from tests.vm.packages import FOLDER, build, inside, present

pytestmark = [pytest.mark.vm_host, pytest.mark.timeout(600)]

MOST_EXPOSED: Final = 2.0
OLDER: Final = "0.0.1"
AT_ONCE: Final = 500
BUNDLE: Final = "fleet 1"

Facts = dict[str, Any]


@pytest.fixture(scope="module")
def packages(guest: Guest) -> tuple[Path, Path]:  # noqa: ARG001 - it prepares .vm
    """One of an older version, and that of this checkout; the guest sees both."""
    return build(FOLDER, "--version", OLDER), present()


@pytest.fixture(scope="module")
def facts(
    guest: Guest, packages: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Facts:
    """What was seen in the life of a package."""
    out = tmp_path_factory.mktemp("facts")
    both = " ".join(map(inside, packages))
    done = guest.run(
        f"python3 -m tests.vm.package_life {both} /mnt/out/facts.json",
        timeout_s=400,
        out=out,
    )
    print(done.output)
    seen: Facts = json.loads((out / "facts.json").read_text("utf-8"))
    return {**seen, "end": (done.exit, done.output)}


def test_the_same_commit_gives_the_same_bytes(packages: tuple[Path, Path], tmp_path: Path) -> None:
    again = build(tmp_path)
    assert again.name == packages[1].name
    assert digest(again) == digest(packages[1])


def rounds(*numbers: int) -> list[int]:
    """What the frames of some rounds said."""
    return [n for number in numbers for n in range(number * AT_ONCE, (number + 1) * AT_ONCE)]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_life_of_a_package_has_no_surprises(facts: Facts) -> None:
    status, output = facts["end"]
    assert status == 0, f"it broke off after {list(facts)[-2:]}\n{output}"


class TestInstallation:
    def test_nothing_starts_before_it_is_set_up(self, facts: Facts) -> None:
        assert facts["installed"]["state"] == [
            {"ActiveState": "inactive", "UnitFileState": "disabled"}
        ]

    def test_the_example_can_be_checked_at_once(self, facts: Facts) -> None:
        assert facts["installed"]["check"].endswith("Good.\n")

    def test_the_kernel_may_hold_what_a_bus_asks_for(self, facts: Facts) -> None:
        assert facts["installed"]["rmem_max"] == str(8 << 20)

    def test_dpkg_finds_every_file_as_it_was_packed(self, facts: Facts) -> None:
        assert facts["installed"]["changed files"] == ""

    def test_it_takes_nothing_from_the_systems_packages(self, facts: Facts) -> None:
        assert facts["installed"]["modules outside"] == []


class TestUnits:
    def test_systemd_has_nothing_to_say_against_them(self, facts: Facts) -> None:
        assert facts["analysed"]["verify"] == [0, ""]
        assert facts["with drop-ins"]["verify"] == [0, ""]

    def test_they_are_hardly_exposed(self, facts: Facts) -> None:
        exposure = {**facts["analysed"]["exposure"], "serial": facts["with drop-ins"]["exposure"]}
        print(exposure)
        assert {unit: e for unit, e in exposure.items() if e > MOST_EXPOSED} == {}

    def test_the_agent_has_the_group_of_serial_devices_where_the_drop_in_says_so(
        self, facts: Facts
    ) -> None:
        assert facts["with drop-ins"]["groups"] == "dialout"

    def test_it_starts_without_a_credential_that_may_be_missing(self, facts: Facts) -> None:
        assert facts["with drop-ins"]["started"] == 0
        assert facts["with drop-ins"]["credential"] == "none"


class TestBuses:
    def test_a_virtual_bus_is_made_brought_up_and_taken_down(self, facts: Facts) -> None:
        seen = facts["a virtual bus"]
        assert (seen["mtu"], seen["up"]) == (72, True)
        assert "UP" not in seen["stopped"]

    def test_an_adapter_is_set_up_each_time_it_is_plugged_in(self, facts: Facts) -> None:
        assert facts["plugged in"] == ["active up", "inactive", "active up"]

    def test_an_interface_without_settings_is_left_alone(self, facts: Facts) -> None:
        assert facts["not configured"] == {"result": "success", "up": False}

    def test_a_controller_gets_its_bit_rate_and_only_listens(self, facts: Facts) -> None:
        seen = facts["a controller"]
        assert seen["started"], seen["said"]
        assert (seen["up"], seen["bitrate"]) == (True, 500_000)
        assert "LISTEN-ONLY" in seen["modes"]

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("wrong", "BITRATE=fast in /etc/edge-agent/can/vcan0.conf is not a whole number"),
            ("missing", "there is no such interface; is the adapter plugged in"),
            ("not possible", "the controller refuses: bitrate 500000 dbitrate 2000000 fd on"),
        ],
    )
    def test_what_cannot_be_is_said_in_the_journal(
        self, facts: Facts, name: str, words: str
    ) -> None:
        assert not facts[name]["started"]
        assert words in facts[name]["said"]

    def test_a_missing_interface_is_not_tried_again_and_again(self, facts: Facts) -> None:
        assert facts["missing"]["ActiveState"] == "failed"
        assert facts["missing"]["ExecMainStatus"] == "3"


class TestService:
    def test_frames_reach_the_cloud(self, facts: Facts) -> None:
        assert facts["enabled"] == 0
        assert facts["arrived"] == {"": rounds(0)}

    def test_a_plan_over_the_air_stays(self, facts: Facts) -> None:
        assert facts["over the air"] == f"running: bundle {BUNDLE}"

    def test_it_reads_its_plan_again_and_refuses_a_wrong_one(self, facts: Facts) -> None:
        seen = facts["reloaded"]
        assert seen["good"] == 0
        assert seen["bad"] != 0
        assert (seen["plan"], seen["same process"]) == ("other", True)

    @pytest.mark.parametrize("name", ["killed", "hung"])
    def test_another_process_follows_one_that_died_or_hangs(self, facts: Facts, name: str) -> None:
        assert facts[name] == {"ActiveState": "active"}

    def test_it_stops_by_itself_and_its_ledger_closes(self, facts: Facts) -> None:
        assert facts["stopped"] == {
            "Result": "success",
            "ActiveState": "inactive",
            "differences": [],
        }


class TestAnotherVersion:
    @pytest.mark.parametrize("name", ["upgraded", "downgraded"])
    def test_edits_state_and_what_is_enabled_stay(self, facts: Facts, name: str) -> None:
        seen = facts[name]
        assert (seen["edits"], seen["identity"], seen["spool"]) == (True, True, True)
        assert seen["enabled"] == "enabled"

    @pytest.mark.parametrize("name", ["upgraded", "downgraded"])
    def test_the_plan_that_came_over_the_air_stays(self, facts: Facts, name: str) -> None:
        assert facts[name]["shown"] == f"running: bundle {BUNDLE}"
        assert facts[name]["named by new batches"] == [BUNDLE]

    @pytest.mark.parametrize("name", ["upgraded", "downgraded"])
    def test_it_runs_at_once_and_nothing_of_the_other_is_left(
        self, facts: Facts, name: str
    ) -> None:
        assert facts[name]["restarted"]
        assert facts[name]["changed files"].splitlines() in ([], [_EDITED])
        assert facts[name]["byte code without source"] == []

    def test_the_versions_are_in_order(self, facts: Facts) -> None:
        older, newer = facts["downgraded"]["version"], facts["upgraded"]["version"]
        words = ["dpkg", "--compare-versions", older, "lt", newer]
        assert subprocess.run(words, check=False).returncode == 0

    def test_what_waited_arrives_after_an_upgrade(self, facts: Facts) -> None:
        assert facts["waiting"]
        assert facts["arrived after the upgrade"] == {"": rounds(0), BUNDLE: rounds(1, 2, 3)}


# dpkg --verify: the MD5 of a conffile is another one.
_EDITED: Final = "??5?????? c /etc/edge-agent/agent.toml"


class TestEnd:
    def test_removed_it_leaves_no_process_and_no_program(self, facts: Facts) -> None:
        assert facts["removed"]["processes"] == []
        assert facts["removed"]["code"] == []
        assert facts["removed"]["unit"] == "not-found"

    def test_removed_it_leaves_configuration_and_state(self, facts: Facts) -> None:
        assert facts["removed"]["configuration"]
        assert facts["removed"]["state"]

    def test_purged_it_leaves_no_file(self, facts: Facts) -> None:
        assert facts["purged"] == []
        assert facts["gone"] == []
