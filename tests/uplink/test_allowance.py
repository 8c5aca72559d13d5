"""Bytes over a link that costs money: counted by day and month, kept over restarts."""

import asyncio
import datetime as dt
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import SECOND, BootNs, Quality, WallNs
from agent.settings import Lane, Link
from agent.uplink.allowance import Allowance, Now, on_the_link
from agent.uplink.meter import FILE, Meter
from tests.uplink import badserver as bad
from tests.uplink.badserver import BadServer
from tests.uplink.world import FakeTime, World

HOUR = 3600
MAY = dt.datetime(2031, 5, 10, 12, tzinfo=dt.UTC)
BATCH = 100_000


def at(boot_s: float, moment: dt.datetime | None = None) -> Now:
    """A moment; with a clock that is synchronised where it is named."""
    wall = int((moment or dt.datetime(1970, 1, 1, tzinfo=dt.UTC)).timestamp())
    return Now(BootNs(round(boot_s * SECOND)), WallNs(wall * SECOND), moment is not None)


def filled(allowance: Allowance, now: Now, lane: Lane = "telemetry") -> int:
    """Send until it is refused; how many batches that were."""
    for n in range(10_000):
        if allowance.refusal(BATCH, lane, now):
            return n
        allowance.spend(BATCH, now)
    raise AssertionError


def test_the_last_tenth_is_for_events() -> None:
    allowance = Allowance(10, 0)
    now = at(0, MAY)
    usual = filled(allowance, now)
    events = filled(allowance, now, "event")
    assert usual == int(9e6 // on_the_link(BATCH))
    assert usual + events == int(10e6 // on_the_link(BATCH))


def test_a_day_ends_at_midnight_utc_and_it_is_said_when() -> None:
    allowance = Allowance(1, 0)
    now = at(0, MAY)
    filled(allowance, now)
    refusal = allowance.refusal(BATCH, "telemetry", now)
    assert refusal is not None
    assert refusal.until == 12 * HOUR * SECOND
    assert refusal.why.endswith("of 1 MB this day; events still go")
    assert (
        allowance.refusal(BATCH, "telemetry", at(12 * HOUR, MAY + dt.timedelta(hours=12))) is None
    )


def test_a_month_ends_with_the_calendar() -> None:
    allowance = Allowance(0, 1)
    filled(allowance, at(0, MAY))
    later = dt.datetime(2031, 5, 31, 23, 59, 59, tzinfo=dt.UTC)
    refusal = allowance.refusal(BATCH, "telemetry", at(5, later))
    assert refusal is not None
    assert refusal.until == 6 * SECOND
    assert allowance.refusal(BATCH, "telemetry", at(6, later + dt.timedelta(seconds=1))) is None


def test_without_a_clock_a_day_is_24_hours_of_running() -> None:
    allowance = Allowance(1, 0)
    filled(allowance, at(0))
    kept = allowance.state()
    for start in range(3):  # each boot begins at 0 again, and an hour passes in it
        allowance = Allowance(1, 0, kept)
        assert allowance.refusal(BATCH, "telemetry", at(0)), start
        assert allowance.refusal(BATCH, "telemetry", at(HOUR))
        kept = allowance.state()
    assert allowance.refusal(BATCH, "telemetry", at(21 * HOUR))
    assert allowance.refusal(BATCH, "telemetry", at(22 * HOUR)) is None


def test_a_clock_that_becomes_good_forgives_nothing() -> None:
    allowance = Allowance(1, 0)
    filled(allowance, at(0))
    assert allowance.refusal(BATCH, "telemetry", at(60, MAY))


def test_a_clock_that_was_ahead_does_not_block_for_years() -> None:
    allowance = Allowance(1, 0)
    filled(allowance, at(0, MAY.replace(year=2050)))
    assert allowance.refusal(BATCH, "telemetry", at(60, MAY))
    assert allowance.refusal(BATCH, "telemetry", at(61, MAY + dt.timedelta(days=1))) is None


def test_a_batch_above_the_limit_goes_alone() -> None:
    allowance = Allowance(1, 0)
    now = at(0, MAY)
    assert allowance.refusal(5_000_000, "telemetry", now) is None
    allowance.spend(5_000_000, now)
    assert allowance.refusal(1, "event", now)


@given(
    kept=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
        lambda inner: st.dictionaries(
            st.sampled_from(["day", "month", "name", "spent_bytes", "up_s"]), inner, max_size=4
        ),
        max_leaves=8,
    )
)
def test_whatever_was_kept_it_goes_on(kept: Any) -> None:
    allowance = Allowance(1, 1, kept if isinstance(kept, dict) else None)
    filled(allowance, at(0, MAY))
    assert filled(allowance, at(1, MAY + dt.timedelta(days=40))) > 0


@given(st.lists(st.tuples(st.integers(0, 2 * 86_400), st.booleans()), max_size=40))
def test_no_real_day_gets_more_than_its_limit(steps: list[tuple[int, bool]]) -> None:
    """Whatever the clock knows, and however often the computer was off."""
    allowance = Allowance(1, 0)
    spent: dict[str, int] = {}
    moment, boot = MAY, 0.0
    for seconds, good in steps:
        moment += dt.timedelta(seconds=seconds)
        boot += seconds
        now = at(boot, moment if good else None)
        spent.setdefault(f"{moment:%j}", 0)
        spent[f"{moment:%j}"] += filled(allowance, now, "event") * on_the_link(BATCH)
    # A period without a clock may begin at noon, so two of them can touch one day.
    assert all(n <= 2_000_000 for n in spent.values())


# -- the meter -------------------------------------------------------------------------------


def link(**keys: Any) -> Link:
    return Link(metered_mb_day=1, **keys)


def test_an_exhausted_link_says_so_lets_events_through_and_goes_on_the_next_day(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with BadServer().running() as server:
            world = World(tmp_path, server)
            world.time.set_wall(MAY)
            meter = Meter(link(metered="yes"), tmp_path, world.time)
            for i in range(12):
                world.outbox.put(f"old-{i}", world.random.randbytes(BATCH))
            sender = world.sender(meter=meter)
            state = await world.run(sender, until=lambda: sum(world.time.slept) > 1800)
            assert len(server.stored) == 8
            assert state["state"] == "waiting"
            assert "of 1 MB this day; events still go" in state["why"]

            world.outbox.put("accident", world.random.randbytes(BATCH // 2), "event")
            sender.wake()
            await world.run(sender, until=lambda: sum(world.time.slept) > 2 * 1800)
            assert "accident" in server.stored
            assert len(server.stored) == 9
            world.check()

            await world.run(sender)
            assert sum(world.time.slept) >= 12 * HOUR
            assert len(server.stored) == 13
            world.check()

    asyncio.run(main())


def test_failed_attempts_cost_as_well(tmp_path: Path) -> None:
    async def main() -> None:
        async with BadServer(*[bad.drop_after(50_000)] * 4).running() as server:
            world = World(tmp_path, server)
            world.time.set_wall(MAY)
            meter = Meter(link(metered="yes"), tmp_path, world.time)
            world.outbox.put("a", world.random.randbytes(BATCH))
            await world.run(world.sender(meter=meter))
            assert server.happened.count("dropped") == 4
            assert meter.status()["day"]["spent_bytes"] >= on_the_link(BATCH) + 4 * 52_000
            world.check()

    asyncio.run(main())


def test_what_was_spent_is_there_after_a_restart(tmp_path: Path) -> None:
    time = FakeTime()
    time.set_wall(MAY)

    async def main() -> None:
        meter = Meter(link(metered="yes"), tmp_path, time)
        assert await meter.refusal(950_000, "event") is None
        await meter.spend(950_000)
        again = Meter(link(metered="yes"), tmp_path, time)
        assert await again.refusal(BATCH, "event")
        assert again.status()["day"]["spent_bytes"] == on_the_link(950_000)

    asyncio.run(main())
    assert set(json.loads((tmp_path / FILE).read_text())) == {"day", "month", "all"}
    assert [p.name for p in tmp_path.iterdir()] == [FILE]


def test_with_budgets_every_byte_counts_whatever_the_link(tmp_path: Path) -> None:
    time = FakeTime()
    time.set_wall(MAY)

    async def main() -> None:
        free = Meter(Link(metered="no"), tmp_path, time)
        await free.spend(1000)
        assert free.sent_today() == {"metered": 0, "any": 0}
        free.budgeted = True
        await free.spend(1000)
        assert free.sent_today() == {"metered": 0, "any": on_the_link(1000)}
        costly = Meter(Link(metered="yes"), tmp_path, time)
        costly.budgeted = True
        await costly.spend(500)
        both = on_the_link(1000) + on_the_link(500)
        assert costly.sent_today() == {"metered": on_the_link(500), "any": both}
        time.set_wall(MAY + dt.timedelta(days=1))
        assert costly.sent_today() == {"metered": 0, "any": 0}

    asyncio.run(main())


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff", b'{"day": 3, "month": []}'])
def test_a_spoiled_file_counts_as_nothing_spent(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)

    async def main() -> None:
        meter = Meter(link(metered="yes"), tmp_path, FakeTime())
        assert await meter.refusal(BATCH, "telemetry") is None

    asyncio.run(main())


def metered(folder: Path, settings: Link, time: FakeTime | None = None) -> tuple[bool, str]:
    """What a meter finds, and what troubles it."""

    async def main() -> tuple[bool, str]:
        meter = Meter(settings, folder, time or FakeTime())
        await meter.refusal(1, "event")
        status = meter.status()
        return status["metered"], status["trouble"]

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"metered\n", True),
        (b"Unmetered by the depot\n", False),
        (b"", True),
        (b"free", True),
        (b"\xff\x00", True),
    ],
)
def test_a_file_says_it(tmp_path: Path, content: bytes, *, found: bool) -> None:
    (tmp_path / "link").write_bytes(content)
    is_metered, trouble = metered(tmp_path, link(metered="file", file=str(tmp_path / "link")))
    assert is_metered == found
    assert bool(trouble) == (b"metered" not in content.lower())


def test_no_file_means_metered(tmp_path: Path) -> None:
    name = str(tmp_path / "none")
    is_metered, trouble = metered(tmp_path, link(metered="file", file=name))
    assert is_metered
    assert trouble.startswith(f"{name}: does not say")


@pytest.mark.parametrize(
    ("program", "found"),
    [
        ("print('unmetered')", False),
        ("print('metered')", True),
        ("print('unmetered ' * 100_000)", False),
        ("print('unmetered'); raise SystemExit(1)", True),
        ("", True),
    ],
)
def test_a_command_says_it(tmp_path: Path, program: str, *, found: bool) -> None:
    command = [sys.executable, "-c", program]
    assert metered(tmp_path, link(metered="command", command=command))[0] == found


def test_a_command_that_is_not_there_means_metered(tmp_path: Path) -> None:
    assert metered(tmp_path, link(metered="command", command=[str(tmp_path / "none")]))[0]


@pytest.mark.parametrize(
    ("answer", "found"),
    [("u 0", False), ("u 1", True), ("u 2", False), ("u 3", True), ("u 4", False), ("", False)],
)
def test_networkmanager_is_asked_by_busctl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, *, found: bool
) -> None:
    busctl = tmp_path / "busctl"
    busctl.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\necho "{answer}"\n')
    busctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert metered(tmp_path, link(metered="auto"))[0] == found
    assert "get-property org.freedesktop.NetworkManager" in (tmp_path / "asked").read_text()


def test_without_busctl_the_link_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert metered(tmp_path, link(metered="auto")) == (False, "")


def test_the_class_of_the_link_is_asked_for_once_a_minute(tmp_path: Path) -> None:
    """A vehicle that comes to its depot goes on there within a minute."""
    time = FakeTime()
    answers = iter(["metered", "unmetered"])

    async def run(command: list[str]) -> str:
        assert command == ["x"]
        return next(answers)

    async def main() -> None:
        meter = Meter(link(metered="command", command=["x"]), tmp_path, time, run=run)
        seen: list[Callable[[], float] | bool] = []
        for _ in range(4):
            await meter.refusal(1, "event")
            seen.append(meter.status()["metered"])
            time.pass_s(25)
        assert seen == [True, True, True, False]

    asyncio.run(main())


def test_a_clock_without_synchronisation_is_not_believed(tmp_path: Path) -> None:
    time = FakeTime()
    time.set_wall(MAY, Quality.UNSYNCHRONISED)

    async def main() -> None:
        meter = Meter(link(metered="yes"), tmp_path, time)
        await meter.refusal(1, "event")
        await meter.spend(1)
        assert meter.status()["day"]["name"] == ""

    asyncio.run(main())
