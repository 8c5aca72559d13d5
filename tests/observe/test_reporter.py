"""When the cloud is told how the agent is."""

import asyncio
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.clock import BootNs
from agent.observe.reporter import EVERY_S, Reporter
from agent.observe.vitals import Vitals
from tests.observe.statuses import well
from tests.spool.car import StillClock

Change = Callable[[dict[str, Any]], None]


def told_in(minutes: list[Change], folder: Path) -> list[dict[str, Any]]:
    """The events of a run in which the status changes so before each minute's look."""
    clock, status = StillClock(), well()
    events: list[dict[str, Any]] = []
    began = clock.now_s
    left = list(minutes)

    async def sleep(seconds: float) -> None:
        if not left:
            raise asyncio.CancelledError
        assert seconds == EVERY_S
        clock.now_s += seconds
        status["uptime_s"] = clock.now_s - began
        left.pop(0)(status)

    def now() -> dict[str, Any]:
        if "defect" in status:
            raise status["defect"]
        return {**copy.deepcopy(status), **reporter.status()}

    reporter = Reporter(Vitals(folder), clock, now, events.append, sleep=sleep)

    async def run() -> None:
        with pytest.raises(asyncio.CancelledError):
            await reporter.run()

    status["uptime_s"] = 0.0
    asyncio.run(run())
    return events


def nothing(_status: dict[str, Any]) -> None:
    """All stays as it is."""


def test_a_record_is_told_each_minute_from_the_first_one_on(tmp_path: Path) -> None:
    events = told_in([nothing] * 3, tmp_path)
    assert [event["time"] for event in events] == [
        BootNs(minute * 60 * 10**9 + 1000 * 10**9) for minute in (1, 2, 3)
    ]
    assert len({event["id"] for event in events}) == 3
    assert all(event["disk_free_bytes"] > 0 for event in events)
    assert all(event["cpu_percent"] >= 0 for event in events)


def test_nothing_is_told_while_the_key_is_off(tmp_path: Path) -> None:
    def off(status: dict[str, Any]) -> None:
        status["ignition"]["state"] = "asleep"

    def on(status: dict[str, Any]) -> None:
        status["ignition"]["state"] = "awake"

    events = told_in([nothing, off, nothing, on], tmp_path)
    assert [event["uptime_s"] for event in events] == [60, 240]


def test_nothing_is_told_where_nobody_is_to_be_told(tmp_path: Path) -> None:
    def alone(status: dict[str, Any]) -> None:
        status["uplinks"] = []

    assert told_in([alone, nothing], tmp_path) == []


def test_new_trouble_hurries_and_old_trouble_does_not(tmp_path: Path) -> None:
    def full(status: dict[str, Any]) -> None:
        status["spool"]["trouble"] = "the spool cannot be written"

    events = told_in([nothing, full, nothing], tmp_path)
    assert [event.get("complete") for event in events] == [None, True, None]
    assert [event.get("trouble") for event in events] == [
        None,
        ["the spool cannot be written"],
        ["the spool cannot be written"],
    ]


def test_a_defect_costs_one_record_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(status: dict[str, Any]) -> None:
        status["defect"] = RuntimeError("a defect")

    def mended(status: dict[str, Any]) -> None:
        del status["defect"]

    events = told_in([nothing, broken, nothing, mended], tmp_path)
    assert [event["uptime_s"] for event in events] == [60, 240]
    assert len(caplog.records) == 1
