"""The virtual EV on its way to the reports of platforms, through decoding, mapping and schedule."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from agent.bench.disturb import Disturbed
from agent.bench.vehicle import BUS, VirtualVehicle
from agent.blocks import Kept, Reports
from agent.clock import SECOND, BootNs, SystemClock, WallNs
from agent.collect.collector import Destination
from agent.collect.reports.tuning import Tuning
from agent.gbt32960.codec import CODECS, Codec, pack_time
from agent.gbt32960.layout import Item
from agent.ledger import Ledger, differences
from agent.ota import build_plan
from agent.pipeline import Pipeline, prepare
from agent.settings import packaged
from agent.spool.positions import Positions

PLAN = packaged("config/plan-gbt32960.toml")
TUNINGS = {
    "old": Tuning(edition=2016),
    "new": Tuning(edition=2025, alarm_until_end=True, off_watch_s=3600),
}
START = 1_000 * SECOND


class Platforms:
    """What would have been given to the spool and to the senders."""

    def __init__(self) -> None:
        self.got: dict[str, list[Reports]] = {name: [] for name in TUNINGS}

    def keep(self, kept: Mapping[Destination, Sequence[Kept]], positions: Positions | None) -> None:
        for where, rows in kept.items():
            for row in rows:
                if isinstance(row, Reports):
                    assert where == Destination("report", where.uplinks)
                    (platform,) = where.uplinks
                    self.got[platform].append(row)

    def seconds(self, platform: str, *, live: bool | None = None) -> list[float]:
        """The times of reports, in seconds of the drive."""
        wanted = [r for r in self.got[platform] if live is None or r.live == live]
        times = np.concatenate([r.time for r in wanted]) - START
        return [float(t) for t in np.unique(times / SECOND)]

    def items(self, platform: str, second: float) -> list[Item]:
        for reports in self.got[platform]:
            for time, body in zip(reports.time.tolist(), reports.bodies, strict=True):
                if time == START + round(second * SECOND):
                    return decoded(codec_of(reports), body)
        raise AssertionError(f"no report of {second}")


def codec_of(reports: Reports) -> Codec:
    return next(c for c in CODECS.values() if reports.form == f"gbt32960-{c.layout.name}")


def decoded(codec: Codec, body: bytes) -> list[Item]:
    values = codec.decode(0x02, pack_time(WallNs(1_700_000_000 * SECOND)) + body)
    items: list[Item] = values["items"]
    return items


def drive(
    seconds: int, *, false: tuple[str, int, tuple[float, float]] | None = None, plan: Path = PLAN
) -> tuple[Platforms, Ledger]:
    """Let the virtual EV drive, with a false value in a signal for a while."""
    ledger = Ledger()
    platforms = Platforms()
    prepared = prepare(
        build_plan(plan, buses=[BUS], uplinks=["cloud"], platforms=list(TUNINGS)),
        ledger,
        tunings=TUNINGS,
    )
    pipeline = Pipeline(prepared, ledger, SystemClock(), platforms.keep)
    disturbed = Disturbed(prepared.plan.database)
    vehicle = VirtualVehicle(seed=3, start=BootNs(START))
    for tenth in range(10 * seconds):
        block = vehicle.frames((tenth + 1) / 10)
        if false is not None:
            signal, raw, (begin, end) = false
            on = begin <= tenth / 10 < end
            if on != bool(disturbed.active):
                disturbed.set("false-value", on, **({"signal": signal, "value": raw} if on else {}))
            block = disturbed.apply(block)
        ledger.add("bus", BUS, received=len(block), read=len(block), queued=len(block))
        pipeline.take(block)
    return platforms, ledger


@pytest.fixture(scope="module")
def quiet() -> tuple[Platforms, Ledger]:
    return drive(65)


@pytest.fixture(scope="module")
def hot() -> tuple[Platforms, Ledger]:
    """A level-3 alarm from second 60 to second 105."""
    return drive(150, false=("BatteryStatus.OverTemperature", 1, (60, 105)))


@pytest.mark.parametrize("platform", TUNINGS)
def test_a_report_comes_each_period(quiet: tuple[Platforms, Ledger], platform: str) -> None:
    seconds = quiet[0].seconds(platform)
    assert len(seconds) >= 6
    assert set(np.diff(seconds)) == {10.0}
    assert quiet[0].seconds(platform, live=True) == seconds


def test_the_ledger_of_the_reports_closes(hot: tuple[Platforms, Ledger]) -> None:
    platforms, ledger = hot
    counts = ledger.snapshot()
    assert differences(counts) == []
    for name in TUNINGS:
        row = counts["report"][name]
        assert row["reported"] == len(platforms.seconds(name))
        assert row["sampled"] >= 145


@pytest.mark.parametrize(("platform", "last"), [("old", 30), ("new", 45)])
def test_an_alarm_is_told_whole(hot: tuple[Platforms, Ledger], platform: str, last: int) -> None:
    """30 s before it and 30 s after (2025: until its end), each second, none missing."""
    platforms, _ = hot
    began = next(
        s for s in platforms.seconds(platform, live=True) if level(platforms, platform, s) == 3
    )
    assert 59 <= began <= 62
    expected = [began + n for n in range(-30, last)]
    assert [s for s in platforms.seconds(platform) if began - 30 <= s < began + last] == expected
    before = platforms.seconds(platform, live=False)
    # What was reported before went live, each ten seconds; all others follow as reissue.
    live = platforms.seconds(platform, live=True)
    assert before == [s for s in expected if s < began and s not in live]
    assert all(level(platforms, platform, s) == 3 for s in live if began <= s < began + 30)


def test_an_alarm_of_an_instant_between_two_seconds_counts() -> None:
    platforms, _ = drive(50, false=("BatteryStatus.OverTemperature", 1, (40.2, 40.5)))
    seconds = platforms.seconds("old", live=True)
    alarmed = [s for s in seconds if level(platforms, "old", s) == 3]
    assert alarmed == [41.0]
    assert platforms.seconds("old")[-30:] != []
    assert {11.0 + n for n in range(38)} <= set(platforms.seconds("old"))


def level(platforms: Platforms, platform: str, second: float) -> int:
    kind = {"old": 0x07, "new": 0x06}[platform]
    (alarms,) = (item for item in platforms.items(platform, second) if item.type == kind)
    found: int = alarms.values["level"]
    return found


@pytest.mark.parametrize(
    ("platform", "types"),
    [
        ("old", [0x01, 0x02, 0x05, 0x06, 0x07, 0x08, 0x09, 0x80]),
        ("new", [0x01, 0x02, 0x05, 0x06, 0x07, 0x08, 0x80]),
    ],
)
def test_a_report_has_what_the_plan_maps(
    quiet: tuple[Platforms, Ledger], platform: str, types: list[int]
) -> None:
    platforms, _ = quiet
    second = platforms.seconds(platform)[-1]
    items = platforms.items(platform, second)
    assert [item.type for item in items] == types
    codec = codec_of(platforms.got[platform][0])
    body: dict[str, Any] = {"time": 1_700_000_000 * SECOND, "items": items}
    known: Literal[0x02] = 0x02
    vehicle = codec.physical(known, body)["items"][0].values
    assert vehicle["vehicle_state"] == 1
    assert 300 < vehicle["total_voltage"] < 420
    assert 0 <= vehicle["speed"] < 130
    assert 50 < vehicle["soc"] < 80
