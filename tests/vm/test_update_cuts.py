"""Power cuts in every step of an update: a start finds a whole plan, and what was known."""

import random
from typing import Any

import pytest

from tests.vm.guest import POWER_CUT, Guest
from tests.vm.test_cuts import lines, promised
from tests.vm.updates_drive import WINDOWS

pytestmark = pytest.mark.vm_host

_PROGRAM = "python3 -m tests.vm.updates_drive"
_PLACE = "/mnt/data/car vcan0"
_FIRST: dict[str, Any] = {
    "serial": 0,
    "floors": {},
    "running": "factory",
    "last_good": "factory",
    "rejected": [],
}


@pytest.mark.parametrize(
    "cuts",
    [3, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_a_power_cut_in_an_update_leaves_a_plan_that_runs(
    guest: Guest, disk: str, cuts: int
) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    moments = random.Random(seed)
    points: dict[int, int] = {}
    known = _FIRST
    for number, window in enumerate(windows(moments, cuts), 1):
        delay_s = moments.uniform(0, WINDOWS[window])
        seen = guest.run(
            f"{_PROGRAM} run {_PLACE} {number} {window} {delay_s:.3f}",
            disk=disk,
            kill_on='"cut"',
        )
        assert seen.exit == POWER_CUT, seen.output
        told = lines(seen.output)
        print(f"round {number}: cut {delay_s:.3f} s after {window}")
        goes_on(told, known)
        points |= promised(told)
        known = [line["promised"] for line in told if "promised" in line][-1]
    assert any(points.values())

    seen = guest.run(f"{_PROGRAM} finish {_PLACE} {cuts + 1 + cuts % 2}", disk=disk)

    assert seen.exit == 0, seen.output
    told = lines(seen.output)
    goes_on(told, known)
    end = told[-1]
    arrived = {int(number): count for number, count in end["arrived"].items()}
    # Each round is an unbroken row from 0 on, and reaches at least as far as was durable.
    assert (end["rounds"], end["twice"]) == (len(arrived), 0)
    assert sorted(set(end["heard"])) == ["accepted", "applied", "committed"]
    assert {n: (points[n], arrived.get(n)) for n in points if arrived.get(n, 0) < points[n]} == {}
    print(f"{cuts} power cuts, {sum(points.values()):,} samples durable before them, none lost")


def windows(moments: random.Random, n: int) -> list[str]:
    """In which steps the power is cut: in each of them, in any order, again and again."""
    found: list[str] = []
    while len(found) < n:
        found += moments.sample(list(WINDOWS), len(WINDOWS))
    return found[:n]


def goes_on(told: list[dict[str, Any]], known: dict[str, Any]) -> None:
    """What was durable before the cut is there, and the agent has started with a whole plan."""
    (started,) = (line for line in told if "started" in line)
    assert started["plan"] == ("all" if started["started"] == "factory" else "fleet")
    found = [line for line in told if "left" in line]
    if not found:
        assert known == _FIRST
        assert started["started"] == "factory"
        return
    (left,), (shown,) = found, (line for line in told if "shown" in line)
    now = left["left"]
    assert left["trouble"] == ""
    assert (shown["shown"], shown["running"]) == (0, now["running"]), shown
    assert now["serial"] >= known["serial"]
    floors = now["floors"]
    sunk = {role: n for role, n in known["floors"].items() if floors.get(role, 0) < n}
    assert sunk == {}, floors
    assert set(now["rejected"]) >= set(known["rejected"])
    assert version(now["last_good"]) >= version(known["last_good"])
    # What runs is what ran; or what ran well before, where the trial had no starts left.
    assert started["started"] in (now["running"], now["last_good"])


def version(bundle: str) -> int:
    return 0 if bundle == "factory" else int(bundle.split()[1])
