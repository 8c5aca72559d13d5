"""Power cuts and kills of the real agent under load: what was durable arrives, once."""

import collections
import json
import random
from typing import Any

import pytest

from tests.vm.guest import POWER_CUT, Guest

pytestmark = pytest.mark.vm_host

_PROGRAM = "python3 -m tests.vm.drive"
_FOLDER = "/mnt/data/car"


def lines(output: str) -> list[dict[str, Any]]:
    """What the drive has told; a power cut may leave half a line."""
    found = []
    for line in output.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in found if isinstance(line, dict)]


def promised(told: list[dict[str, Any]]) -> dict[int, int]:
    """The last durable point of each round."""
    points: dict[int, int] = collections.defaultdict(int)
    for line in told:
        if "durable" in line:
            points[line["round"]] = max(points[line["round"]], line["durable"])
    return dict(points)


def hold(told: list[dict[str, Any]], points: dict[int, int]) -> None:
    """Everything that was durable is at the cloud once, in an unbroken row from 0 on."""
    end = told[-1]
    assert "arrived" in end, told[-5:]
    arrived = {int(number): count for number, count in end["arrived"].items()}
    short = {n: (points[n], arrived.get(n, 0)) for n in points if arrived.get(n, 0) < points[n]}
    assert short == {}
    # An unbroken row of each round is everything: no number came out of it, none came twice.
    assert (end["twice"], end["unreadable"]) == (0, 0)
    assert sum(arrived.values()) == end["total"]


@pytest.mark.parametrize(
    "cuts",
    [3, pytest.param(20, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_a_power_cut_costs_nothing_that_was_durable(guest: Guest, disk: str, cuts: int) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")
    moments = random.Random(seed)
    points: dict[int, int] = {}
    for number in range(cuts):
        after_s = moments.uniform(0, 5)
        seen = guest.run(
            f"{_PROGRAM} run {_FOLDER} vcan0 {number} {after_s}", disk=disk, kill_on='"cut"'
        )
        assert seen.exit == POWER_CUT, seen.output
        points |= promised(lines(seen.output))
    assert any(points.values())

    seen = guest.run(f"{_PROGRAM} check {_FOLDER} vcan0", disk=disk)

    assert seen.exit == 0, seen.output
    hold(lines(seen.output), points)
    print(f"{cuts} power cuts, {sum(points.values()):,} samples durable before them, none lost")


@pytest.mark.parametrize(
    "kills",
    [3, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])],
)
def test_a_killed_agent_costs_nothing_that_was_durable(guest: Guest, disk: str, kills: int) -> None:
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"seed {seed}")

    seen = guest.run(
        f"{_PROGRAM} kill {_FOLDER} vcan0 {kills} {seed}", disk=disk, timeout_s=120 + 10 * kills
    )

    assert seen.exit == 0, seen.output
    told = lines(seen.output)
    points = promised(told)
    assert any(points.values())
    hold(told, points)
    print(f"{kills} kills, {sum(points.values()):,} samples durable before them, none lost")
