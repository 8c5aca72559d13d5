"""Who follows README.md word by word on a bare system has data in a cloud at the end."""

import json
import shlex
from typing import Any, Final

import pytest

from tests.vm.guest import Guest
from tests.vm.packages import inside, present
from tests.vm.walk import SENT, commands

pytestmark = [pytest.mark.vm_host, pytest.mark.timeout(600)]

STATUS: Final = "edge-agent status "

Facts = dict[str, Any]


@pytest.fixture(scope="module")
def facts(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """What was seen on the way."""
    out = tmp_path_factory.mktemp("walk")
    done = guest.run(
        f"python3 -m tests.vm.walk {inside(present())} /mnt/out/facts.json",
        timeout_s=250,
        out=out,
    )
    print(done.output)
    seen: Facts = json.loads((out / "facts.json").read_text("utf-8"))
    assert done.exit == 0, f"it broke off: {json.dumps(seen, indent=1)}\n{done.output}"
    return seen


def test_the_first_command_builds_the_package_that_is_installed() -> None:
    assert shlex.split(commands()[0], comments=True) == ["make", "deb"]


@pytest.mark.parametrize("line", commands()[1:], ids=lambda line: line.partition(" #")[0].strip())
def test_each_command_succeeds(facts: Facts, line: str) -> None:
    assert facts[line]["status"] == 0, facts[line]["output"]


def test_the_status_shows_that_it_works(facts: Facts) -> None:
    (said,) = (seen["output"] for line, seen in facts.items() if line.startswith(STATUS))
    assert "bus powertrain (socketcan): reading;" in said
    assert "The ledger closes." in said


def test_the_cloud_has_what_was_on_the_wire_and_nothing_else(facts: Facts) -> None:
    found = [(name, n) for name, values in facts["in the cloud"] for n in values]
    assert [n for name, n in found if name == "Numbers.Number"] == SENT
    assert {name for name, _ in found if not of_the_bus(name)} == {"Numbers.Number"}


def test_the_table_that_was_exported_says_the_same(facts: Facts) -> None:
    found = [float(value) for name, value in facts["exported"] if name == "Numbers.Number"]
    assert found == [float(n) for n in SENT]


def of_the_bus(name: str) -> bool:
    """Whether a signal tells how the bus is."""
    return name.startswith(("BusState.", "BusError."))
