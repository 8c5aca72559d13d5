"""The service on a real kernel below real systemd: every fault ends in an agent that runs.

Three guests after each other have one disk in common (`service_life.py`): faults while frames flow
and a shutdown, a boot and a power cut, the boot after that. They note what they see; each test here
judges a part of it. Frames carry numbers, so a run of the agent shows what it has brought to the
cloud: an unbroken row, each number once, and as many as its ledger called durable.
"""

import json
import os
import uuid
from collections.abc import Iterator
from typing import Any, Final

import pytest

from agent.clock import SECOND
from tests.vm.guest import POWER_CUT, Guest
from tests.vm.packages import inside, present
from tests.vm.service_life import CUT, OFF, PARTS

pytestmark = [pytest.mark.vm_host, pytest.mark.timeout(900)]

Facts = dict[str, Any]

FAULTS: Final = ("late", "hung", "killed", "out of memory", "full disk", "clock")
BY_FORCE: Final = ("hung", "killed", "out of memory")
RECOVERED: Final = "that an earlier run left open, sealed now: "
ROUGHLY: Final = 300 * SECOND
"""The hour and the decades by which the clock was wrong would show."""


@pytest.fixture(scope="module")
def facts(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facts]:
    """What was seen, by part."""
    package = inside(present())
    out = tmp_path_factory.mktemp("facts")
    disk = f"edge-agent-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    seen: Facts = {}
    try:
        for part, last_word in zip(PARTS, (OFF, CUT, None), strict=True):
            done = guest.run(
                f"python3 -m tests.vm.service_life {package} {part} /mnt/out/{part}.json",
                disk=disk,
                kill_on=last_word,
                timeout_s=300,
                out=out,
            )
            print(done.output)
            wanted = 0 if last_word is None else POWER_CUT
            assert done.exit == wanted, f"{part} broke off: {done.output}"
            seen[part] = json.loads((out / f"{part}.json").read_text("utf-8"))
        yield seen
    finally:
        guest.remove_disk(disk)


def said(lines: list[str], *words: str) -> None:
    """All these words are in the journal, in this order."""
    rest = iter(lines)
    for each in words:
        assert any(each in line for line in rest), f"{each!r} is not in its place in {lines}"


class TestEveryFault:
    @pytest.mark.parametrize("name", FAULTS)
    def test_it_runs_is_well_and_its_ledger_closes(self, facts: Facts, name: str) -> None:
        seen = facts["faults"][name]
        assert (seen["ActiveState"], seen["status"], seen["problems"]) == ("active", 0, [])
        assert seen["differences"] == []

    @pytest.mark.parametrize("name", BY_FORCE)
    def test_another_run_follows_one_that_ended_by_force(self, facts: Facts, name: str) -> None:
        assert facts["faults"][name]["next"] > facts["faults"][name]["run"]

    @pytest.mark.parametrize("name", BY_FORCE)
    def test_what_was_durable_arrives(self, facts: Facts, name: str) -> None:
        seen = facts["faults"][name]
        assert seen["durable"] > 0
        assert row(facts, seen["run"])["count"] >= seen["durable"]


def row(facts: Facts, run: int) -> dict[str, Any]:
    """What of a run arrived."""
    found: dict[str, Any] = facts["end"]["arrived"]["runs"][str(run)]
    return found


class TestWhatArrived:
    def test_no_number_comes_twice(self, facts: Facts) -> None:
        assert facts["end"]["arrived"]["twice"] == 0

    def test_each_run_has_brought_an_unbroken_row(self, facts: Facts) -> None:
        runs = facts["end"]["arrived"]["runs"]
        broken = {n: r for n, r in runs.items() if r["last"] + 1 - r["first"] != r["count"]}
        assert runs
        assert broken == {}


class TestInterfaceThatComesLate:
    def test_the_agent_waits_for_it_and_says_so(self, facts: Facts) -> None:
        seen = facts["faults"]["missing"]
        assert (seen["ActiveState"], seen["status"]) == ("active", 1)
        assert "there is no interface vcan20" in " ".join(seen["problems"])

    def test_it_is_brought_up_and_read_from_the_first_frame_on(self, facts: Facts) -> None:
        seen = facts["faults"]["late"]
        assert seen["enabled"] == 0
        assert row(facts, seen["run"])["first"] == 0
        said(seen["journal"], "waiting: there is no interface vcan20", "reading vcan20")

    def test_lines_about_a_bus_can_be_searched_for(self, facts: Facts) -> None:
        assert facts["faults"]["fields"] == {
            "MESSAGE": "bus powertrain: reading vcan20",
            "PRIORITY": "6",
            "BUS": "powertrain",
            "LOGGER": "edge_agent",
        }


class TestEndsByForce:
    def test_a_killed_agent_is_started_again(self, facts: Facts) -> None:
        said(
            facts["faults"]["killed"]["journal"],
            "Main process exited, code=killed, status=9/KILL",
            "Scheduled restart",
            RECOVERED,
            "Started edge-agent.service",
        )

    def test_the_watchdog_ends_one_that_hangs(self, facts: Facts) -> None:
        said(
            facts["faults"]["hung"]["journal"],
            "Watchdog timeout",
            "Failed with result 'watchdog'",
            "Scheduled restart",
            "Started edge-agent.service",
        )

    def test_the_kernel_ends_one_that_takes_too_much_memory(self, facts: Facts) -> None:
        said(
            facts["faults"]["out of memory"]["journal"],
            "killed by the OOM killer",
            "Scheduled restart",
            "Started edge-agent.service",
        )


class TestFullDisk:
    def test_a_person_is_told_while_it_lasts(self, facts: Facts) -> None:
        full = facts["faults"]["full disk"]["full"]
        assert (full["ActiveState"], full["status"]) == ("active", 1)
        assert full["problems"] == ["problem: the spool cannot be written: No space left on device"]
        assert full["differences"] == []

    def test_what_came_meanwhile_arrives_once_there_is_room(self, facts: Facts) -> None:
        seen = facts["faults"]["full disk"]
        begin, end = seen["numbers"]
        arrived = row(facts, seen["run"])
        assert seen["run"] == seen["before"]
        assert (arrived["first"] <= begin, arrived["last"]) == (True, end - 1)
        assert (seen["evicted"], seen["lost_disk"]) == (0, 0)

    def test_the_journal_has_its_begin_and_its_end(self, facts: Facts) -> None:
        said(
            facts["faults"]["full disk"]["journal"],
            "the spool cannot be written: No space left on device",
            "the disk works again",
        )


class TestClock:
    def test_samples_are_dated_right_though_it_began_in_1970_and_jumped_twice(
        self, facts: Facts
    ) -> None:
        seen = facts["faults"]["clock"]
        arrived = row(facts, seen["run"])
        first, last = arrived["times"]
        begin, end = seen["times"]
        assert arrived["clocks"] == ["wall"]
        assert begin - ROUGHLY <= first <= last <= end + ROUGHLY

    def test_the_journal_tells_of_each_jump(self, facts: Facts) -> None:
        said(
            facts["faults"]["clock"]["journal"],
            "the clock shows 1970-01-01",
            "synchronised",
            "it jumped by -3,600 s",
        )

    def test_nothing_is_lost(self, facts: Facts) -> None:
        seen = facts["faults"]["clock"]
        arrived = row(facts, seen["run"])
        begin, end = seen["numbers"]
        assert (arrived["first"], arrived["last"] >= end - 1) == (begin, True)


class TestDoctor:
    def test_an_agent_that_is_well(self, facts: Facts) -> None:
        seen = facts["faults"]["well"]
        assert (seen["exit"], seen["causes"]) == (0, [])

    def test_the_first_cause_names_a_missing_interface(self, facts: Facts) -> None:
        seen = facts["faults"]["missing"]
        assert seen["exit"] == 1
        assert seen["causes"][0]["what"] == 'bus "powertrain": there is no interface vcan20'

    def test_the_first_cause_names_too_little_memory(self, facts: Facts) -> None:
        seen = facts["faults"]["out of memory"]["doctor"]
        assert seen["exit"] == 1
        assert seen["causes"][0]["key"] == "memory"
        assert "took too much memory" in seen["causes"][0]["what"]

    @pytest.mark.parametrize("name", ["well", "missing"])
    def test_its_file_has_all_that_it_looked_for(self, facts: Facts, name: str) -> None:
        seen = facts["faults"][name]
        assert seen["failed"] == {}
        assert seen["unit"] == ["ActiveState=active"]
        said(seen["log"], "systemd[1]: Started edge-agent", "edge-agent[")

    @pytest.mark.parametrize("name", ["well", "missing"])
    def test_its_file_is_for_its_owner_and_has_no_secret(self, facts: Facts, name: str) -> None:
        seen = facts["faults"][name]
        assert (seen["mode"], seen["owner"]) == ("0o600", 0)
        assert seen["with a secret"] == []


class TestShutdown:
    def test_the_service_stops_by_itself(self, facts: Facts) -> None:
        lines = facts["cut"]["shutdown"]
        last = max(n for n, line in enumerate(lines) if "Stopping edge-agent.service" in line)
        said(lines[last:], "stopped in", "Deactivated successfully", "Stopped edge-agent.service")
        assert not [line for line in lines[last:] if "timed out" in line or "Killing" in line]

    def test_its_last_word_is_a_ledger_that_closes(self, facts: Facts) -> None:
        seen = facts["cut"]["last run"]
        assert seen["differences"] == []
        assert seen["spool"]["run"] == facts["faults"]["before the shutdown"]["run"]
        uplink = seen["ledger"]["uplink"]["cloud"]
        assert (uplink["memory"], uplink["lost_disk"], uplink["lost_end"]) == (0, 0, 0)

    def test_what_waited_is_found_after_the_boot_and_arrives(self, facts: Facts) -> None:
        last = facts["cut"]["last run"]
        waited = last["ledger"]["uplink"]["cloud"]["waiting"]
        assert waited > 0
        assert facts["cut"]["booted"]["found"] == waited
        assert (
            row(facts, last["spool"]["run"])["count"] == last["ledger"]["uplink"]["cloud"]["kept"]
        )

    def test_nothing_had_to_be_recovered(self, facts: Facts) -> None:
        assert not [line for line in facts["cut"]["booted"]["journal"] if RECOVERED in line]


class TestPowerCut:
    def test_what_was_durable_arrives(self, facts: Facts) -> None:
        seen = facts["cut"]["durable"]
        assert seen["spooled"] > 0
        assert row(facts, seen["run"])["count"] >= seen["spooled"]

    def test_the_journal_says_what_was_found(self, facts: Facts) -> None:
        said(facts["end"]["booted"]["journal"], RECOVERED, "Started edge-agent.service")


@pytest.mark.parametrize(
    ("part", "name"), [("cut", "booted"), ("end", "booted"), ("end", "after all")]
)
def test_after_each_boot_it_runs_is_well_and_its_ledger_closes(
    facts: Facts, part: str, name: str
) -> None:
    seen = facts[part][name]
    assert (seen["ActiveState"], seen["status"], seen["problems"]) == ("active", 0, [])
    assert seen["differences"] == []
