"""Reports of a small vehicle on two buses, from frames to the bytes of reports."""

import bisect
import dataclasses
import itertools
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.blocks import FrameBlock, Reports, TimeBase
from agent.collect.conditions import Conditions
from agent.collect.reports.maker import ReportMaker
from agent.collect.reports.mapping import CompiledReports
from agent.collect.reports.mapping import Mapping as FieldMapping
from agent.collect.reports.tuning import Tuning
from agent.gbt32960.codec import GBT2016, GBT2025
from agent.ledger import Ledger, differences
from agent.settings import Gbt32960Mapping, load_plan, packaged
from agent.signals import Database, Decoder
from agent.signals.vss import with_vss

S = 1_000_000_000
CODECS = {"gbt32960-2016": GBT2016, "gbt32960-2025": GBT2025}
ALARMS = {"gbt32960-2016": 0x07, "gbt32960-2025": 0x06}
STARTED, OFF = 1, 2

DRIVE_DBC = """VERSION ""
BS_:
BU_: A
BO_ 1 Drive: 4 A
 SG_ Speed : 0|16@1+ (0.1,0) [0|0] "km/h" A
 SG_ State : 16|8@1+ (1,0) [0|0] "" A
 SG_ Level : 24|8@1+ (1,0) [0|0] "" A
"""
BATTERY_DBC = """VERSION ""
BS_:
BU_: A
BO_ 1 Cells: 4 A
 SG_ Cell1 : 0|16@1+ (1,0) [0|0] "mV" A
 SG_ Cell2 : 16|16@1+ (1,0) [0|0] "mV" A
BO_ 2 Heat: 1 A
 SG_ Probe1 : 0|8@1+ (1,-40) [0|0] "degC" A
"""
PLAN = """
stale_after_s = 5
[vehicle]
vehicle_state = { signal = "Drive.State" }
speed = "Drive.Speed"
[[pack]]
cells = ["Cell*"]
probes = ["Probe*"]
[alarms]
level = "Drive.Level"
cell_over_voltage = "Cell1 > 4200"
battery_over_temperature = { when = "Probe1 > 60", level = 3 }
"""


@dataclasses.dataclass(frozen=True, order=True)
class Frame:
    time: int
    bus: str
    id: int
    data: bytes


def drive(t: float, speed: int = 0, state: int = STARTED, level: int = 0) -> Frame:
    """Speed in tenths of km/h."""
    return Frame(round(t * S), "drive", 1, speed.to_bytes(2, "little") + bytes([state, level]))


def cells(t: float, first: int, second: int = 3300) -> Frame:
    data = first.to_bytes(2, "little") + second.to_bytes(2, "little")
    return Frame(round(t * S), "battery", 1, data)


def heat(t: float, celsius: int) -> Frame:
    return Frame(round(t * S), "battery", 2, bytes([celsius + 40]))


def driving(first: float, last: float, step: float = 0.25) -> list[Frame]:
    """Both buses, all the time; the speed and the cells tell the time."""
    found = []
    for n in range(round((last - first) / step)):
        t = first + n * step
        tenths = round(t * 10) % 2000
        found += [drive(t + 0.01, tenths), cells(t + 0.02, 3000 + tenths % 1000), heat(t, 25)]
    return found


class Vehicle:
    """The databases and a mapping."""

    def __init__(self, folder: Path, plan: str = PLAN) -> None:
        files = {}
        for bus, text in (("drive", DRIVE_DBC), ("battery", BATTERY_DBC)):
            files[bus] = [folder / f"{bus}.dbc"]
            files[bus][0].write_text(text, "utf-8")
        database = Database.load(files)
        written = msgspec.convert(tomllib.loads(plan), Gbt32960Mapping, strict=True)
        self.compiled: CompiledReports = FieldMapping.build(written, database, {})
        self.decoder = Decoder(database)


@pytest.fixture
def vehicle(tmp_path: Path) -> Vehicle:
    return Vehicle(tmp_path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Vehicle:
    return Vehicle(tmp_path_factory.mktemp("small"))


@dataclasses.dataclass
class Run:
    """A run of a maker, fed as a collector feeds it."""

    vehicle: Vehicle
    tunings: dict[str, Tuning] = dataclasses.field(default_factory=lambda: {"city": Tuning()})
    clock: TimeBase = "boot"
    offset: int | None = 0
    adopts: "Run | None" = None
    ledger: Ledger = dataclasses.field(default_factory=Ledger)
    made: dict[str, list[Reports]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.adopts is not None:
            self.ledger = self.adopts.ledger
        compiled = self.vehicle.compiled
        self.maker = ReportMaker(compiled, self.tunings, self._count)
        self.conditions = Conditions(compiled.conditions)
        self.reached: dict[str, int] = {}
        if self.adopts is not None:
            self.conditions.adopt(self.adopts.conditions)
            self.maker.adopt(self.adopts.maker)
            self.reached = self.adopts.reached

    def block(self, frames: Sequence[Frame]) -> None:
        """Frames of one bus."""
        length = [len(frame.data) for frame in frames]
        data = np.zeros((len(frames), 8), np.uint8)
        for row, frame in zip(data, frames, strict=True):
            row[: len(frame.data)] = list(frame.data)
        block = FrameBlock.from_arrays(
            bus=frames[0].bus,
            time=[frame.time for frame in frames],
            id=[frame.id for frame in frames],
            length=length,
            data=data,
            clock=self.clock,
        )
        newest = int(block.time.max())
        self.reached[block.bus] = max(newest, self.reached.get(block.bus, newest))
        tables = self.vehicle.decoder.decode(block)
        steps = self.conditions.feed(tables, self.reached)
        self._keep(self.maker.take(tables, steps, self.reached, self.offset))

    def feed(self, frames: Iterable[Frame], block_s: float = 1.0) -> None:
        """Frames of both buses, in blocks of about so long."""
        ordered = sorted(frames)
        for _, some in itertools.groupby(ordered, lambda f: int(f.time / S / block_s)):
            mine = list(some)
            for bus in sorted({frame.bus for frame in mine}):
                self.block([frame for frame in mine if frame.bus == bus])

    def silence(self, until: float) -> None:
        """Nothing comes, and the time goes on."""
        self.reached = dict.fromkeys(self.reached, round(until * S))
        steps = self.conditions.feed([], self.reached)
        self._keep(self.maker.take([], steps, self.reached, self.offset))

    def finish(self) -> None:
        steps = self.conditions.finish()
        self._keep(self.maker.take([], steps, self.reached, self.offset))
        self._keep(self.maker.finish())

    @property
    def row(self) -> dict[str, int]:
        return self.rows("city")

    def rows(self, platform: str) -> dict[str, int]:
        """The ledger of a platform."""
        return self.ledger.snapshot()["report"][platform]

    def times(self, platform: str = "city", *, live: bool | None = None) -> list[float]:
        """When reports are from, s, in the order in which they were made."""
        return [
            int(t) / S
            for reports in self.made.get(platform, [])
            if live is None or reports.live is live
            for t in reports.time
        ]

    def items(self, platform: str = "city") -> dict[float, dict[int, Any]]:
        """What a platform reads, by time."""
        return {
            int(time) / S: {
                item.type: item.values
                for item in CODECS[reports.form].decode(0x02, bytes(NOW) + body)["items"]
            }
            for reports in self.made.get(platform, [])
            for time, body in zip(reports.time, reports.bodies, strict=True)
        }

    def sleeps(self, platform: str = "city") -> int:
        return sum(not reports.awake for reports in self.made.get(platform, []))

    def _count(self, platform: str, changes: Mapping[str, int]) -> None:
        self.ledger.add("report", platform, **changes)
        assert differences(self.ledger.snapshot()) == []

    def _keep(self, made: Mapping[str, list[Reports]]) -> None:
        for platform, reports in made.items():
            self.made.setdefault(platform, []).extend(reports)


NOW = (26, 1, 1, 0, 0, 0)


def each_second() -> dict[str, Tuning]:
    return {"city": Tuning(report_s=1)}


def last_before(frames: Iterable[Frame], bus: str, id_: int, second: float) -> bytes | None:
    mine = sorted(f for f in frames if (f.bus, f.id) == (bus, id_))
    place = bisect.bisect_right([f.time for f in mine], round(second * S))
    return mine[place - 1].data if place else None


# -- values --------------------------------------------------------------------------------------


def test_each_second_has_the_values_that_were_heard_until_then(vehicle: Vehicle) -> None:
    frames = driving(10.3, 20, step=0.3)
    run = Run(vehicle, each_second())

    run.feed(frames, block_s=0.7)
    run.finish()

    items = run.items()
    assert sorted(items) == [float(t) for t in range(11, 20)]
    for second, read in items.items():
        heard = last_before(frames, "drive", 1, second)
        assert heard is not None
        assert read[0x01]["speed"] == int.from_bytes(heard[:2], "little")
        heard = last_before(frames, "battery", 1, second)
        assert heard is not None
        assert read[0x08]["packs"][0]["cells"][0] == int.from_bytes(heard[:2], "little")


def test_a_frame_right_at_the_second_belongs_to_it(vehicle: Vehicle) -> None:
    run = Run(vehicle, each_second())

    run.feed([drive(1, 10), cells(1, 3000), drive(2, 20), cells(2.5, 3001), drive(2.5, 25)])
    run.finish()

    assert [read[0x01]["speed"] for read in run.items().values()] == [10, 20]


def test_what_is_stale_is_invalid_and_counted(vehicle: Vehicle) -> None:
    run = Run(vehicle, each_second())

    run.feed([*driving(1, 3), *(cells(t, 3300) for t in range(3, 12))])
    run.finish()

    speeds = [read[0x01]["speed"] for read in run.items().values()]
    assert speeds[2:7] == [28, 28, 28, 28, 28]
    assert speeds[7:] == [0xFFFF] * 4
    assert run.row["invalid"] >= 3


def test_conditions_are_as_they_were_at_the_second(vehicle: Vehicle) -> None:
    run = Run(vehicle, each_second())
    drives = [drive(t / 2, 10) for t in range(20)]

    run.feed([*drives, cells(0, 4000), cells(2.5, 4300), cells(4.9, 4000), cells(9.5, 4000)])
    run.finish()

    flags = {t: read[0x07]["flags"] for t, read in run.items().items()}
    assert [t for t, bits in flags.items() if bits == 1 << 5] == [3.0, 4.0]


def test_a_late_frame_counts_from_the_next_second_on(vehicle: Vehicle) -> None:
    run = Run(vehicle, each_second())
    run.feed([drive(t, 10) for t in range(1, 30)])
    assert run.times()[-1] == 28.0

    run.block([cells(27.5, 4100)])
    run.block([drive(30.5, 10), drive(31.5, 10)])
    run.finish()

    cells_of = {t: read[0x08]["packs"][0]["cells"][0] for t, read in run.items().items()}
    assert (cells_of[28.0], cells_of[29.0]) == (0xFFFF, 4100)


# -- moments -------------------------------------------------------------------------------------


def test_reports_lie_on_whole_seconds_of_the_wall_clock(vehicle: Vehicle) -> None:
    run = Run(vehicle, each_second(), offset=1_790_000_000 * S + 250_000_000)

    run.feed(driving(10, 15))

    assert run.times() == [10.75, 11.75, 12.75, 13.75, 14.75]


def test_without_a_wall_clock_they_lie_on_seconds_of_the_boot_clock(vehicle: Vehicle) -> None:
    run = Run(vehicle, each_second(), offset=None)

    run.feed(driving(10.2, 14))

    assert run.times() == [11.0, 12.0, 13.0]


@pytest.mark.parametrize("step_ms", [20, -20])
def test_a_clock_that_is_slewed_doubles_no_second_and_leaves_none_out(
    vehicle: Vehicle, step_ms: int
) -> None:
    run = Run(vehicle, each_second())
    seconds: list[int] = []

    for t in range(10, 60):
        run.made.clear()
        assert run.offset is not None
        run.offset += step_ms * S // 1000
        run.feed(driving(t, t + 1))
        seconds += [round(time + run.offset / S) for time in run.times()]

    assert {b - a for a, b in itertools.pairwise(seconds)} == {1}


def test_a_clock_that_was_set_goes_on_at_once(vehicle: Vehicle) -> None:
    run = Run(vehicle, each_second(), offset=None)
    run.feed(driving(10, 20))

    run.offset = 1_790_000_000 * S + 400_000_000
    run.feed(driving(20, 30))

    assert run.times()[-3:] == [27.6, 28.6, 29.6]
    assert all(0.5 <= b - a <= 1.5 for a, b in itertools.pairwise(run.times()))


def test_a_bus_that_lags_is_waited_for_and_not_for_ever(vehicle: Vehicle) -> None:
    run = Run(vehicle, each_second())
    run.feed(driving(1, 3))

    run.feed([drive(t, 10) for t in range(3, 12)])
    assert run.times() == [1.0, 2.0]
    run.feed([drive(t, 10) for t in range(12, 16)])

    assert run.times()[-1] == 14.0


def test_a_bus_that_is_never_heard_holds_up_the_first_seconds_only(vehicle: Vehicle) -> None:
    run = Run(vehicle, each_second())

    run.feed([drive(t / 2, 10) for t in range(2, 60)])

    assert run.times() == [float(t) for t in range(1, 30)]


def test_a_recording_is_dated_by_its_own_clock_and_never_live(vehicle: Vehicle) -> None:
    begin = 1_790_000_000
    run = Run(vehicle, each_second(), clock="recorded", offset=123_456_789)

    run.feed(driving(begin, begin + 5))
    run.finish()

    assert run.times() == [float(begin + n) for n in range(5)]
    assert {(r.clock, r.live) for r in run.made["city"]} == {("recorded", False)}
    assert run.row["held"] == 0


def test_the_present_is_live_and_what_waited_in_a_queue_is_not(vehicle: Vehicle) -> None:
    run = Run(vehicle, each_second())
    run.feed(driving(10, 20))
    assert run.times(live=False) == []

    both = driving(20, 80)
    run.block([f for f in both if f.bus == "drive"])
    run.block([f for f in both if f.bus == "battery"])

    assert run.times(live=True)[-15:] == [float(t) for t in range(65, 80)]
    assert len(run.times()) == len(set(run.times())) == 70


# -- platforms -----------------------------------------------------------------------------------


def alarming(first: float, last: float, alarm: float, end: float) -> list[Frame]:
    """As `driving`, with a battery that is too hot for a while."""
    calm = [f for f in driving(first, last) if (f.bus, f.id) != ("battery", 2)]
    hot = (
        (t / 4, 70 if alarm <= t / 4 < end else 25) for t in range(int(first * 4), int(last * 4))
    )
    return [*calm, *(heat(t, celsius) for t, celsius in hot)]


def test_an_alarm_gives_half_a_minute_before_and_after_in_both_editions(vehicle: Vehicle) -> None:
    run = Run(
        vehicle,
        {
            "old": Tuning(edition=2016),
            "new": Tuning(edition=2025, alarm_until_end=True, off_watch_s=3600.0),
        },
    )

    run.feed(alarming(0, 200, alarm=100.3, end=150.6))
    run.finish()

    wanted = {"old": range(71, 132), "new": range(71, 151)}
    for platform, seconds in wanted.items():
        assert {float(t) for t in seconds} <= set(run.times(platform))
        assert len(run.times(platform)) == len(set(run.times(platform)))
        assert set(run.times(platform, live=False)) == {float(t) for t in range(71, 101) if t % 10}
        form = run.made[platform][0].form
        levels = {t: read[ALARMS[form]]["level"] for t, read in run.items(platform).items()}
        assert {t for t, level in levels.items() if level == 3} == {
            float(t) for t in seconds if t > 100
        } | {141.0}
    assert run.made["old"][0].form == "gbt32960-2016"
    assert run.made["new"][0].form == "gbt32960-2025"
    assert list(run.items("new")[80.0]) == [0x01, 0x06, 0x07, 0x08]
    assert list(run.items("old")[80.0]) == [0x01, 0x06, 0x07, 0x08, 0x09]


def test_each_platform_has_its_period_and_its_ledger(vehicle: Vehicle) -> None:
    run = Run(vehicle, {"city": Tuning(report_s=10), "state": Tuning(report_s=30)})

    run.feed(driving(0, 100))

    assert run.rows("city")["reported"] == 10
    assert run.rows("state")["reported"] == 4
    assert run.rows("city")["held"] == 28
    assert run.rows("city")["sampled"] == run.rows("state")["sampled"] == 100
    run.finish()
    assert run.rows("city")["held"] == 0


def test_a_platform_is_told_once_that_the_vehicle_sleeps(vehicle: Vehicle) -> None:
    run = Run(vehicle)
    run.feed(driving(0, 20))

    run.feed([drive(t, state=OFF) for t in range(20, 500)])

    assert run.sleeps() == 1
    assert max(run.times()) == 200.0
    (word,) = (r for r in run.made["city"] if not r.awake)
    assert (len(word), word.form) == (0, "gbt32960-2016")
    run.feed(driving(500, 520))
    assert 501.0 in run.times()


# -- silence -------------------------------------------------------------------------------------


def test_a_long_silence_costs_no_samples(vehicle: Vehicle) -> None:
    run = Run(vehicle)
    run.feed(driving(0, 20))

    run.silence(100_000)
    run.feed(driving(100_000, 100_020))

    assert run.row["sampled"] < 300
    assert run.row["skipped"] > 99_000
    assert run.row["sampled"] + run.row["skipped"] == 100_020
    assert run.sleeps() == 1
    assert [t for t in run.times() if t > 300] == [100_000.0, 100_010.0]


def test_a_pause_of_a_recording_is_no_silence_of_the_vehicle_for_ever(vehicle: Vehicle) -> None:
    run = Run(vehicle, clock="recorded")

    run.feed([*driving(0, 20), *driving(50_000, 50_020)])
    run.finish()

    assert run.row["sampled"] < 300
    assert [t for t in run.times() if t > 300] == [50_000.0, 50_010.0]


def test_before_anything_is_heard_there_is_nothing_to_report(vehicle: Vehicle) -> None:
    run = Run(vehicle)

    run.silence(1000)
    run.finish()

    assert run.made == {}


# -- another plan --------------------------------------------------------------------------------


def test_an_equal_mapping_goes_on_as_if_nothing_had_been(vehicle: Vehicle, tmp_path: Path) -> None:
    frames = alarming(0, 100, alarm=60.3, end=70)
    whole = Run(vehicle)
    whole.feed(frames)

    first = Run(vehicle)
    first.feed(f for f in frames if f.time < 40.4 * S)
    again = Vehicle(tmp_path)
    second = Run(again, adopts=first)
    second.feed(f for f in frames if f.time >= 40.4 * S)

    assert first.times() + second.times() == whole.times()
    assert first.items() | second.items() == whole.items()
    assert second.row == whole.row


def test_another_mapping_keeps_what_both_know_and_the_time_before_an_alarm(
    vehicle: Vehicle, tmp_path: Path
) -> None:
    frames = alarming(0, 100, alarm=60.3, end=70)
    first = Run(vehicle)
    first.feed(f for f in frames if f.time < 50.4 * S)

    other = Vehicle(tmp_path, PLAN + "[[maker]]\ntype = 0x80\nfields = [{ value = 7, bytes = 1 }]")
    second = Run(other, adopts=first)
    second.feed(f for f in frames if f.time >= 50.4 * S)

    assert {float(t) for t in range(31, 92)} <= {*first.times(), *second.times()}
    assert 0x80 not in second.items()[45.0]
    assert second.items()[61.0][0x80] == b"\x07"


def test_a_platform_that_is_gone_leaves_a_ledger_that_closes(vehicle: Vehicle) -> None:
    first = Run(vehicle, {"city": Tuning(), "state": Tuning()})
    first.feed(driving(0, 25))

    second = Run(vehicle, {"city": Tuning()}, adopts=first)

    assert second.rows("state")["held"] == 0
    assert second.rows("city")["held"] == 22


# -- all of it -----------------------------------------------------------------------------------

cuts = st.lists(st.integers(1, 60), min_size=1, max_size=12)


def in_blocks(frames: Sequence[Frame], sizes: Sequence[int]) -> Iterator[list[Frame]]:
    """Blocks of one bus each, as the buses take turns; none spans more than two seconds."""
    ordered = sorted(frames)
    turns = itertools.cycle(sizes)
    while ordered:
        first = ordered[0].time
        some = [f for f in ordered[: next(turns)] if f.time < first + 2 * S]
        ordered = ordered[len(some) :]
        for bus in ("drive", "battery") if len(some) % 2 else ("battery", "drive"):
            if mine := [frame for frame in some if frame.bus == bus]:
                yield mine


def rows_of(made: Iterable[Reports]) -> list[tuple[int, bytes]]:
    return [row for r in made for row in zip(r.time.tolist(), r.bodies, strict=True)]


CHANGEFUL = [
    *alarming(0, 40, alarm=33.3, end=35),
    *(drive(70 + t, state=OFF) for t in range(10)),
    *driving(5_000, 5_010),
]


@pytest.fixture(scope="module")
def uncut(small: Vehicle) -> Run:
    run = Run(small, {"a": Tuning(), "b": Tuning(edition=2025)})
    run.feed(CHANGEFUL, block_s=0.5)
    run.finish()
    return run


@settings(max_examples=8, deadline=None)
@given(sizes=cuts)
def test_it_does_not_matter_where_blocks_end(small: Vehicle, uncut: Run, sizes: list[int]) -> None:
    run = Run(small, {"a": Tuning(), "b": Tuning(edition=2025)})

    for block in in_blocks(CHANGEFUL, sizes):
        run.block(block)
    run.finish()

    for platform in ("a", "b"):
        assert rows_of(run.made[platform]) == rows_of(uncut.made[platform])
        assert run.rows(platform) == uncut.rows(platform)


def test_the_demo_car_is_reported_in_both_editions() -> None:
    plan = load_plan(packaged("config/plan-gbt32960.toml"))
    assert plan.gbt32960 is not None
    database = Database.load({"can": [packaged("dbc/ev.dbc")]})
    database, vss = with_vss(database, plan.vss)
    car = Vehicle.__new__(Vehicle)
    car.compiled = FieldMapping.build(plan.gbt32960, database, vss)
    car.decoder = Decoder(database)
    run = Run(car, {"old": Tuning(report_s=1), "new": Tuning(edition=2025, report_s=1)})

    speed = [Frame(round(t * S / 10), "can", 160, bytes([0x88, 0x13, *[0] * 6])) for t in range(50)]
    run.feed(speed)
    run.finish()

    for platform in ("old", "new"):
        assert run.times(platform) == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert run.items(platform)[3.0][0x01]["speed"] == 500
