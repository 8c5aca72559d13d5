"""Trips and charging sessions, against a slow and obvious reading of the same frames."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from agent.blocks import FrameBlock, Int64, SignalTable
from agent.collect.sessions import SessionMaker
from agent.errors import ConfigError
from agent.settings import CodesOfSignals, Sessions, VssOfSignal, packaged
from agent.signals import Database, Decoder
from agent.signals.vss import with_vss

S = 1_000_000_000
FOREVER = (1 << 63) - 1

POWER_DBC = """VERSION ""
BS_:
BU_: A
BO_ 1 Pack: 4 A
 SG_ Voltage : 0|16@1+ (0.1,0) [0|0] "V" A
 SG_ Current : 16|16@1- (0.1,0) [0|0] "A" A
BO_ 2 Charge: 2 A
 SG_ Soc : 0|8@1+ (0.5,0) [0|0] "%" A
BO_ 3 Way: 4 A
 SG_ Odometer : 0|32@1+ (1,0) [0|0] "m" A
BO_ 4 Direct: 2 A
 SG_ PackPower : 0|16@1- (100,0) [0|0] "W" A
"""
BATTERY_DBC = """VERSION ""
BS_:
BU_: A
BO_ 1 Cells: 5 A
 SG_ Page M : 0|8@1+ (1,0) [0|0] "" A
 SG_ Cell1 m0 : 8|16@1+ (1,0) [0|0] "mV" A
 SG_ Cell2 m0 : 24|16@1+ (1,0) [0|0] "mV" A
 SG_ Cell9 m1 : 8|16@1+ (1,0) [0|0] "mV" A
 SG_ Cell10 m1 : 24|16@1+ (1,0) [0|0] "mV" A
BO_ 2 Heat: 2 A
 SG_ Inlet : 0|8@1+ (1,233.15) [0|0] "K" A
 SG_ Outlet : 8|8@1+ (1,-40) [0|0] "degC" A
"""
CELLS = ("Cell1", "Cell2", "Cell9", "Cell10")
NO_VALUE = 0xFFFF
ALL = Sessions(
    moving="set by the tests",
    charging="set by the tests",
    voltage="Voltage",
    current="Current",
    soc="Soc",
    odometer="Odometer",
    cell_voltages=["Cell*"],
    temperatures=["Inlet", "Outlet"],
    end_after_s=10,
)


@dataclasses.dataclass(frozen=True)
class Steps:
    """A condition: what it was before, and when it changed."""

    before: bool
    times: Int64


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame of the tests; time in ns, raw values by signal."""

    time: int
    bus: str
    id: int
    data: bytes
    raw: dict[str, int]


def pack(t: float, volts: int, amperes: int) -> Frame:
    """Voltage and current in tenths."""
    data = volts.to_bytes(2, "little") + amperes.to_bytes(2, "little", signed=True)
    return Frame(round(t * S), "power", 1, data, {"Voltage": volts, "Current": amperes})


def voltage(t: float, volts: int) -> Frame:
    """A short frame, of which only the voltage is there."""
    return Frame(round(t * S), "power", 1, volts.to_bytes(2, "little"), {"Voltage": volts})


def soc(t: float, halves: int) -> Frame:
    return Frame(round(t * S), "power", 2, bytes([halves, 0]), {"Soc": halves})


def odometer(t: float, metres: int) -> Frame:
    return Frame(round(t * S), "power", 3, metres.to_bytes(4, "little"), {"Odometer": metres})


def cells(t: float, page: int, first: int, second: int) -> Frame:
    """Two cells in mV."""
    data = bytes([page]) + first.to_bytes(2, "little") + second.to_bytes(2, "little")
    names = CELLS[2 * page : 2 * page + 2]
    return Frame(round(t * S), "battery", 1, data, dict(zip(names, (first, second), strict=True)))


def heat(t: float, inlet: int, outlet: int) -> Frame:
    """Temperatures in degC + 40."""
    raw = {"Inlet": inlet, "Outlet": outlet}
    return Frame(round(t * S), "battery", 2, bytes([inlet, outlet]), raw)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    folder = tmp_path_factory.mktemp("sessions")
    files = {}
    for bus, text in (("power", POWER_DBC), ("battery", BATTERY_DBC)):
        path = folder / f"{bus}.dbc"
        path.write_text(text, "utf-8")
        files[bus] = [path]
    found = Database.load(files)
    found = found.with_codes(
        "power", [CodesOfSignals(signals=["Voltage"], not_available=[NO_VALUE])]
    )
    return found.with_codes("battery", [CodesOfSignals(signals=["Cell*"], error=[NO_VALUE])])


def block(frames: Sequence[Frame], bus: str) -> FrameBlock:
    data = b"".join(f.data.ljust(8, b"\0") for f in frames)
    return FrameBlock.from_arrays(
        bus=bus,
        time=[f.time for f in frames],
        id=[f.id for f in frames],
        length=[len(f.data) for f in frames],
        data=np.frombuffer(data, np.uint8).reshape(-1, 8),
    )


class Drive:
    """Feeds a maker as the decode thread does: blocks of the buses by turns, decided steps."""

    def __init__(
        self, database: Database, settings: Sessions = ALL, maker: SessionMaker | None = None
    ) -> None:
        self.database, self.settings = database, settings
        self.maker = maker or SessionMaker(settings, database)
        self.decoder = Decoder.of_paths(database, self.maker.wanted)
        self.reached: dict[str, int] = {}
        self.told: dict[str, int] = {}
        self.found: list[dict[str, Any]] = []

    def give(
        self, frames: Sequence[Frame], moving: Sequence[int] = (), charging: Sequence[int] = ()
    ) -> None:
        """One block of one bus; of the steps (ns), what is decided by then."""
        tables: list[SignalTable] = []
        if frames:
            (bus,) = {f.bus for f in frames}
            tables = self.decoder.decode(block(frames, bus))
            self.reached[bus] = max(self.reached.get(bus, 0), frames[-1].time)
        trip, charge = self._steps("moving", moving), self._steps("charging", charging)
        self.found += self.maker.take(tables, trip, charge, self.reached)

    def end(self, moving: Sequence[int] = (), charging: Sequence[int] = ()) -> None:
        """The end of all input: no more rows come."""
        self.reached = dict.fromkeys(self.reached, FOREVER)
        self.give([], moving, charging)
        self.found += self.maker.finish()

    def _steps(self, name: str, times: Sequence[int]) -> Steps:
        decided = [t for t in times if t < min(self.reached.values(), default=0)]
        told, self.told[name] = self.told.get(name, 0), len(decided)
        return Steps(bool(told & 1), np.array(decided[told:], np.int64))


def drive(
    database: Database,
    frames: Sequence[Frame],
    moving: Sequence[float] = (),
    settings: Sessions = ALL,
    charging: Sequence[float] = (),
) -> list[dict[str, Any]]:
    """All frames in two blocks, and the end; steps in s."""
    run = Drive(database, settings)
    steps = [round(t * S) for t in moving], [round(t * S) for t in charging]
    run.reached = {"power": 0, "battery": 0}
    for bus in ("power", "battery"):
        mine = [f for f in frames if f.bus == bus]
        if mine:
            run.give(mine, *steps)
    run.end(*steps)
    return run.found


# -- the reference ---------------------------------------------------------------------------

_Sample = tuple[int, str, float]


def samples_of(frames: Sequence[Frame]) -> list[_Sample]:
    """Every valid value as (time, signal, value), in the order of their coming."""
    found = []
    for frame in sorted(frames, key=lambda f: f.time):
        for name, raw in frame.raw.items():
            if raw == NO_VALUE:
                continue
            value: float
            match name:
                case "Voltage" | "Current":
                    value = raw * 0.1
                case "Soc":
                    value = raw * 0.5
                case "Inlet":
                    value = (raw + 233.15) - 273.15
                case "Outlet":
                    value = raw - 40.0
                case _:  # mV and m
                    value = raw / 1000
            found.append((frame.time, name, value))
    return found


def held(samples: Sequence[_Sample], name: str, at: int, most: int) -> float | None:
    """The last value up to a time, if it is not older than `most`."""
    known = [(t, v) for t, n, v in samples if n == name and t <= at]
    return known[-1][1] if known and at - known[-1][0] <= most else None


def sessions_of(steps: Sequence[int], end_after: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """First, last and whether it ended, of each session."""
    truths = [*steps, FOREVER] if len(steps) % 2 == 0 else [*steps]
    first: int | None = None
    for number, time in enumerate(steps):
        if number % 2 == 0:
            first = time if first is None else first
            continue
        until = truths[number + 1] if number + 1 < len(truths) else FOREVER
        if until - time >= end_after:
            assert first is not None
            yield first, time, True
            first = None
    if first is not None:
        yield first, max(end, first), False


def expected(
    frames: Sequence[Frame], steps: Sequence[int], kind: str, others: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """The sessions of one kind; changes of the other condition may be the last that is known."""
    samples = samples_of(frames)
    end = max([f.time for f in frames] + [*steps, *others], default=0)
    found = []
    for first, last, complete in sessions_of(steps, 10 * S, end):
        mine = [s for s in samples if first <= s[0] <= last]
        record: dict[str, Any] = {
            "kind": kind,
            "name": kind,
            "campaign": "",
            "time": last,
            "first": first,
            "last": last,
            "clock": "boot",
            "complete": complete,
            "duration_s": (last - first) / S,
        }
        record |= energy(samples, mine, first, last)
        charges = [v for _, n, v in mine if n == "Soc"]
        if charges:
            figures = (charges[0], charges[-1], min(charges), max(charges))
        names = ("soc_first", "soc_last", "soc_min", "soc_max")
        record |= dict(zip(names, figures if charges else (None,) * 4, strict=True))
        way = [v for _, n, v in mine if n == "Odometer"]
        record["distance_km"] = way[-1] - way[0] if way else None
        record |= group(samples, mine, CELLS, "Cells", "cell")
        record |= group(samples, mine, ("Inlet", "Outlet"), "Heat", "temperature")
        found.append(record)
    return found


def energy(
    samples: Sequence[_Sample], mine: Sequence[_Sample], first: int, last: int
) -> dict[str, float | None]:
    points = []
    for time in sorted({t for t, n, _ in mine if n in ("Voltage", "Current")}):
        volts, amperes = (held(samples, n, time, 5 * S) for n in ("Voltage", "Current"))
        if volts is not None and amperes is not None:
            points.append((time, volts * amperes))
    inward, outward, gap = None, None, 0
    edges = [first, *(t for t, _ in points), last]
    for before, after in itertools.pairwise(edges):
        gap += after - before if after - before > 5 * S else 0
    for (t0, p0), (t1, p1) in itertools.pairwise(points):
        if t1 - t0 > 5 * S:
            continue
        a, b = min(p0, p1), max(p0, p1)
        seconds = (t1 - t0) / S
        if a < 0 < b:
            gone, come = b * b / (2 * (b - a)) * seconds, a * a / (2 * (b - a)) * seconds
        else:
            mean = (p0 + p1) / 2
            gone, come = max(mean, 0.0) * seconds, max(-mean, 0.0) * seconds
        inward, outward = (inward or 0.0) + come, (outward or 0.0) + gone
    return {
        "energy_in_kwh": None if inward is None else inward / 3_600_000,
        "energy_out_kwh": None if outward is None else outward / 3_600_000,
        "gap_s": gap / S,
    }


def group(
    samples: Sequence[_Sample],
    mine: Sequence[_Sample],
    names: Sequence[str],
    message: str,
    prefix: str,
) -> dict[str, Any]:
    here = [(t, names.index(n), v) for t, n, v in mine if n in names]
    record: dict[str, Any] = {f"{prefix}_{k}": None for k in ("min", "max", "spread_max")}
    for key, sign in (("min", 1), ("max", -1)):
        if here:
            time, place, value = min(here, key=lambda s: (sign * s[2], s[0], s[1]))
            record[f"{prefix}_{key}"] = {
                "value": value,
                "signal": f"{message}.{names[place]}",
                "number": place + 1,
                "time": time,
            }
    spreads = []
    for time in {t for t, _, _ in here}:
        known = [held(samples, n, time, 60 * S) for n in names]
        values = [v for v in known if v is not None]
        if len(values) > 1:
            spreads.append(max(values) - min(values))
    record[f"{prefix}_spread_max"] = max(spreads, default=None)
    return record


# -- whatever happens ------------------------------------------------------------------------

_WHEN = st.integers(0, 300).map(lambda n: n / 2)
_MILLIVOLTS = st.one_of(st.integers(3500, 3520), st.just(NO_VALUE))
_FRAMES = st.one_of(
    st.builds(
        pack, _WHEN, st.one_of(st.integers(3000, 4000), st.just(NO_VALUE)), st.integers(-900, 900)
    ),
    st.builds(voltage, _WHEN, st.integers(3000, 4000)),
    st.builds(soc, _WHEN, st.integers(0, 200)),
    st.builds(odometer, _WHEN, st.integers(0, 1 << 31)),
    st.builds(cells, _WHEN, st.integers(0, 1), _MILLIVOLTS, _MILLIVOLTS),
    st.builds(heat, _WHEN, st.integers(0, 255), st.integers(0, 255)),
)
_STEPS = st.lists(st.integers(0, 600).map(lambda n: n * S // 4), max_size=8).map(sorted)


@st.composite
def drives(draw: st.DrawFn) -> list[list[Frame]]:
    """Frames of two buses in the order of time, cut anywhere, the buses by any turns."""
    frames = sorted(draw(st.lists(_FRAMES, max_size=60)), key=lambda f: f.time)
    queues = []
    for bus in ("power", "battery"):
        mine = [f for f in frames if f.bus == bus]
        cuts = sorted(draw(st.lists(st.integers(0, len(mine)), max_size=4)))
        parts = [mine[a:b] for a, b in itertools.pairwise([0, *cuts, len(mine)])]
        queues.append([part for part in parts if part])
    blocks = []
    while any(queues):
        queue = draw(st.sampled_from([q for q in queues if q]))
        blocks.append(queue.pop(0))
    return blocks


def figures(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(found, key=lambda r: (r["kind"], r["first"], r["last"]))


@given(blocks=drives(), moving=_STEPS, charging=_STEPS)
@hypothesis_settings(max_examples=150, deadline=None)
def test_every_figure_is_that_of_the_reference_wherever_blocks_end(
    database: Database, blocks: list[list[Frame]], moving: list[int], charging: list[int]
) -> None:
    run = Drive(database)
    run.reached = {"power": -1, "battery": -1}
    for frames in blocks:
        run.give(frames, moving, charging)
    run.end(moving, charging)

    frames = list(itertools.chain(*blocks))
    wanted = expected(frames, moving, "trip", charging)
    wanted += expected(frames, charging, "charging", moving)
    assert figures(run.found) == figures(wanted)
    assert run.maker.late == 0


@given(blocks=drives(), moving=_STEPS, stop=st.integers(0, 8))
@hypothesis_settings(max_examples=60, deadline=None)
def test_a_session_goes_on_across_a_restart(
    database: Database, blocks: list[list[Frame]], moving: list[int], stop: int
) -> None:
    run = Drive(database)
    run.reached = {"power": -1, "battery": -1}
    for number, frames in enumerate(blocks):
        if number == stop:
            left = msgpack.unpackb(msgpack.packb(run.maker.state()))
            run.maker = SessionMaker(ALL, database)
            run.maker.restore(left)
        run.give(frames, moving)
    run.end(moving)
    assert figures(run.found) == figures(expected(list(itertools.chain(*blocks)), moving, "trip"))


@given(blocks=drives(), moving=_STEPS, change=st.integers(0, 8))
@hypothesis_settings(max_examples=30, deadline=None)
def test_a_session_goes_on_across_a_change_of_plan(
    database: Database, blocks: list[list[Frame]], moving: list[int], change: int
) -> None:
    run = Drive(database)
    run.reached = {"power": -1, "battery": -1}
    for number, frames in enumerate(blocks):
        if number == change:
            following = SessionMaker(ALL, database)
            assert following.adopt(run.maker)
            run.maker = following
        run.give(frames, moving)
    run.end(moving)
    assert figures(run.found) == figures(expected(list(itertools.chain(*blocks)), moving, "trip"))


def test_long_sums_are_the_same_to_the_last_bit(database: Database) -> None:
    """Additions in another order give another sum; a block must not decide about the order."""
    rng = np.random.default_rng(7)
    frames = [
        pack(n / 10, int(volts), int(amperes))
        for n, (volts, amperes) in enumerate(rng.integers((3000, -900), (4000, 900), (2000, 2)))
    ]
    sums = []
    for size in (2000, 500, 37, 1):
        run = Drive(database)
        run.reached = {"battery": FOREVER}
        for begin in range(0, len(frames), size):
            run.give(frames[begin : begin + size], [S])
        run.end([S])
        sums.append((run.found[0]["energy_in_kwh"], run.found[0]["energy_out_kwh"]))
    assert sums == [sums[0]] * 4


def test_buses_that_speak_at_one_time_stand_in_one_order(tmp_path: Path) -> None:
    """The same message on two buses: which block comes first must not matter."""
    path = tmp_path / "power.dbc"
    path.write_text(POWER_DBC, "utf-8")
    database = Database.load([path])
    found = []
    for buses in (("a", "b"), ("b", "a")):
        run = Drive(database, Sessions(moving="x", soc="Soc"))
        run.reached = {"a": 0, "b": 0}
        for bus in buses:
            run.give([dataclasses.replace(soc(5, 10 * ord(bus) % 97), bus=bus)], [S])
        run.end([S])
        found += run.found
    assert found[0] == found[1]
    assert found[0]["soc_first"] != found[0]["soc_last"]


# -- when a session is one -------------------------------------------------------------------


class TestBeginAndEnd:
    def spans(self, database: Database, steps: Sequence[float], **changes: Any) -> list[Any]:
        settings = but(ALL, **changes)
        frames = [soc(0, 100), soc(200, 100)]
        found = drive(database, frames, steps, settings)
        return [(r["first"] / S, r["last"] / S, r["complete"]) for r in found]

    def test_it_ends_when_its_condition_was_false_for_long_enough(self, database: Database) -> None:
        assert self.spans(database, [20, 50]) == [(20, 50, True)]

    def test_it_goes_on_after_a_shorter_pause(self, database: Database) -> None:
        assert self.spans(database, [20, 50, 59.75, 80]) == [(20, 80, True)]

    def test_a_pause_of_exactly_that_length_ends_it(self, database: Database) -> None:
        assert self.spans(database, [20, 50, 60, 80]) == [(20, 50, True), (60, 80, True)]

    def test_with_no_delay_every_fall_ends_it(self, database: Database) -> None:
        spans = self.spans(database, [20, 50, 51, 60], end_after_s=0)
        assert spans == [(20, 50, True), (51, 60, True)]

    def test_a_condition_that_flickers_is_one_session(self, database: Database) -> None:
        steps = [20 + n / 100 for n in range(4001)]
        assert self.spans(database, [*steps, 70]) == [(20, 70, True)]

    def test_one_that_is_going_on_at_the_end_is_not_complete(self, database: Database) -> None:
        assert self.spans(database, [20]) == [(20, 200, False)]

    def test_a_run_that_ends_before_the_end_is_sure_says_so(self, database: Database) -> None:
        run = Drive(database)
        run.reached = {"battery": 36 * S}
        run.give([soc(0, 100), soc(30, 90), soc(35, 80)], [10 * S, 30 * S])
        (found,) = run.maker.finish()
        assert (found["last"], found["complete"], found["soc_min"]) == (30 * S, False, 45.0)

    def test_it_is_given_once_the_end_is_sure_and_not_before(self, database: Database) -> None:
        run = Drive(database)
        run.reached = {"battery": FOREVER}
        steps = [10 * S, 30 * S]
        run.give([soc(0, 100), soc(39, 90)], steps)
        assert run.found == []
        run.give([soc(40, 90)], steps)
        assert [(r["first"], r["last"]) for r in run.found] == [(10 * S, 30 * S)]

    def test_a_trip_and_a_charge_do_not_disturb_one_another(self, database: Database) -> None:
        frames = [soc(t, 100 + t) for t in range(100)]
        found = drive(database, frames, [10, 50], charging=[30, 70])
        assert [(r["kind"], r["soc_first"], r["soc_last"]) for r in found] == [
            ("trip", 55.0, 75.0),
            ("charging", 65.0, 85.0),
        ]

    def test_a_condition_that_begins_anew_after_a_restart_goes_on_with_the_session(
        self, database: Database
    ) -> None:
        run = Drive(database)
        run.reached = {"battery": FOREVER}
        run.give([soc(0, 100), soc(20, 90)], [10 * S])
        left = run.maker.state()
        again = Drive(database)
        again.reached = {"battery": FOREVER}
        again.maker.restore(left)
        again.give([soc(26, 80), soc(60, 80)], [25 * S, 40 * S])  # false up to 25 s: not known
        again.end([25 * S, 40 * S])
        assert [(r["first"], r["last"]) for r in again.found] == [(10 * S, 40 * S)]

    def test_a_condition_that_held_from_before_begins_with_the_first_time(
        self, database: Database
    ) -> None:
        maker = SessionMaker(ALL, database)
        tables = Decoder.of_paths(database, maker.wanted).decode(
            block([soc(5, 100), soc(6, 90)], "power")
        )
        holds = Steps(before=True, times=np.empty(0, np.int64))
        assert maker.take([], holds, None, {}) == []
        maker.take(tables, holds, None, {"power": 6 * S})
        (found,) = maker.finish()
        assert (found["first"], found["last"], found["soc_first"]) == (5 * S, 6 * S, 50.0)


# -- what it says ----------------------------------------------------------------------------


class TestFigures:
    def test_energy_in_and_out(self, database: Database) -> None:
        """400 V, 90 A out for 10 s, back through zero in 2 s to 90 A in, and 10 s of that."""
        frames = [pack(t, 4000, 900) for t in range(11)]
        frames += [pack(t, 4000, -900) for t in range(12, 23)]
        (found,) = drive(database, frames, [0, 22])
        kilowatts = 36
        assert found["energy_out_kwh"] == pytest.approx(kilowatts * (10 + 0.5) / 3600)
        assert found["energy_in_kwh"] == pytest.approx(kilowatts * (10 + 0.5) / 3600)
        assert (found["duration_s"], found["gap_s"]) == (22.0, 0.0)

    def test_a_current_that_is_positive_into_the_pack(self, database: Database) -> None:
        frames = [pack(t, 4000, 900) for t in range(11)]
        settings = but(ALL, charging_current_is_positive=True)
        (found,) = drive(database, frames, [0, 10], settings)
        assert found["energy_in_kwh"] == pytest.approx(36 * 10 / 3600)
        assert found["energy_out_kwh"] == 0

    def test_power_in_place_of_voltage_and_current(self, database: Database) -> None:
        frames = [
            Frame(t * S, "power", 4, (-100).to_bytes(2, "little", signed=True), {})
            for t in range(11)
        ]
        settings = but(ALL, power="PackPower")
        (found,) = drive(database, frames, [0, 10], settings)
        assert found["energy_in_kwh"] == pytest.approx(10 * 10 / 3600)
        assert "Voltage" not in {p.signal for p in SessionMaker(settings, database).wanted}

    def test_what_was_not_there_is_no_energy_but_a_gap(self, database: Database) -> None:
        frames = [pack(t, 4000, 900) for t in (10, 11, 20, 21)]
        (found,) = drive(database, frames, [0, 40])
        assert found["energy_out_kwh"] == pytest.approx(36 * 2 / 3600)
        assert found["gap_s"] == 10 + 9 + 19

    def test_an_old_voltage_is_no_voltage(self, database: Database) -> None:
        """The current alone goes on; its frames say that the voltage is not available."""
        frames = [pack(0, 4000, 900), *(pack(t, NO_VALUE, 900) for t in range(1, 21))]
        (found,) = drive(database, frames, [0, 20])
        assert found["energy_out_kwh"] == pytest.approx(36 * 5 / 3600)
        assert found["gap_s"] == 15

    def test_without_any_power_energy_is_not_known(self, database: Database) -> None:
        (found,) = drive(database, [soc(0, 10), soc(50, 10)], [0, 40])
        assert (found["energy_in_kwh"], found["energy_out_kwh"]) == (None, None)
        assert found["gap_s"] == 40

    def test_units_of_the_database_become_those_of_the_record(self, database: Database) -> None:
        frames = [odometer(1, 123_456_000), heat(2, 60, 65), cells(3, 0, 3501, 3509)]
        frames.append(odometer(4, 123_459_500))
        (found,) = drive(database, frames, [0, 5])
        assert found["distance_km"] == pytest.approx(3.5)
        assert found["temperature_min"]["value"] == pytest.approx(20.0)
        assert found["temperature_max"]["value"] == 25.0
        assert found["cell_min"]["value"] == 3.501
        assert found["cell_spread_max"] == pytest.approx(0.008)

    def test_a_cell_has_the_number_of_its_place(self, database: Database) -> None:
        frames = [cells(1, 0, 3500, 3500), cells(2, 1, 3500, 3600), cells(3, 0, 3400, 3500)]
        (found,) = drive(database, frames, [0, 5])
        assert found["cell_max"] == {
            "value": 3.6,
            "signal": "Cells.Cell10",
            "number": 4,
            "time": 2 * S,
        }
        assert found["cell_min"]["number"] == 1
        assert found["cell_spread_max"] == pytest.approx(0.2)

    def test_the_plan_orders_the_cells(self, database: Database) -> None:
        settings = but(ALL, cell_voltages=["Cell10", "Cell*"])
        (found,) = drive(database, [cells(2, 1, 3500, 3600)], [0, 5], settings)
        assert (found["cell_max"]["number"], found["cell_min"]["number"]) == (1, 4)

    def test_cells_from_before_a_silence_are_not_set_against_those_after_it(
        self, database: Database
    ) -> None:
        frames = [cells(0, 0, 4100, 4100), cells(61, 1, 3500, 3501), cells(62, 0, 3502, 3503)]
        (found,) = drive(database, frames, [0, 70])
        assert found["cell_spread_max"] == pytest.approx(0.003)

    def test_only_what_is_mapped_is_told(self, database: Database) -> None:
        settings = Sessions(moving="x", soc="Soc")
        (found,) = drive(database, [soc(0, 100), soc(9, 90)], [0, 9], settings)
        always = {"kind", "name", "campaign", "time", "first", "last", "clock", "complete"}
        charge = {"soc_first", "soc_last", "soc_min", "soc_max"}
        assert set(found) == always | charge | {"duration_s"}

    def test_a_database_for_every_bus(self) -> None:
        """The demo car: 96 cells in 24 branches of one message."""
        database = Database.load([packaged("dbc/ev.dbc")])
        settings = Sessions(moving="x", cell_voltages=["CellVoltages.CellVoltage??"])
        maker = SessionMaker(settings, database)
        assert len(maker.wanted) == 96
        pages = [
            Frame(n * S // 50, "any", 548, page(n % 24, 3700 + n % 24), {}) for n in range(120)
        ]
        decoder = Decoder.of_paths(database, maker.wanted)
        steps = Steps(before=False, times=np.array([0], np.int64))
        maker.take(decoder.decode(block(pages, "any")), steps, None, {"any": 3 * S})
        (found,) = maker.finish()
        assert (found["cell_min"]["number"], found["cell_max"]["number"]) == (1, 93)
        assert found["cell_spread_max"] == pytest.approx(0.023)


def page(number: int, millivolts: int) -> bytes:
    """Four cells of the demo car, 13 bits each."""
    bits = number | sum(millivolts << (8 + 13 * n) for n in range(4))
    return bits.to_bytes(8, "little")


# -- what can be wrong -----------------------------------------------------------------------


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"voltage": "Volts"}, "no signal is called"),
            ({"voltage": ""}, '"voltage" and "current" belong together'),
            ({"soc": "Cell*"}, "soc: .* names 5 signals"),
            ({"soc": "Voltage"}, "soc: Pack.Voltage: % cannot be made of V"),
            ({"temperatures": ["Cell1"]}, "temperatures: Cells.Cell1: degC cannot be made of mV"),
        ],
    )
    def test_settings_that_cannot_be(
        self, database: Database, changes: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(ConfigError, match=words):
            SessionMaker(but(ALL, **changes), database)

    def test_bytes_are_no_number(self, tmp_path: Path) -> None:
        path = tmp_path / "long.dbc"
        text = 'BO_ 1 Long: 16 A\n SG_ Text : 0|128@1+ (1,0) [0|0] "" A\n'
        path.write_text(f'VERSION ""\nBS_:\nBU_: A\n{text}', "utf-8")
        with pytest.raises(ConfigError, match=r"soc: Long\.Text holds bytes"):
            SessionMaker(Sessions(moving="x", soc="Text"), Database.load([path]))

    def test_vss_paths_may_stand_for_signals(self, database: Database) -> None:
        path = "Vehicle.Powertrain.TractionBattery.StateOfCharge.Current"
        known, vss = with_vss(database, [VssOfSignal(path=path, signal="Soc", unit="percent")])
        maker = SessionMaker(Sessions(moving="x", soc=path), known, vss)
        assert [str(p) for p in maker.wanted] == ["Charge.Soc"]

    def test_other_signals_take_over_nothing(self, database: Database) -> None:
        old = SessionMaker(ALL, database)
        new = SessionMaker(but(ALL, soc=""), database)
        assert not new.adopt(old)
        with pytest.raises(ValueError, match="other signals"):
            new.restore(old.state())

    def test_samples_that_come_too_late_are_counted(self, database: Database) -> None:
        run = Drive(database)
        run.reached = {"battery": FOREVER}
        run.give([soc(0, 100), soc(50, 90)])
        run.give([soc(10, 80)])
        assert run.maker.late == 1

    def test_a_bus_that_stays_far_behind_holds_up_nothing(self, database: Database) -> None:
        run = Drive(database)
        run.reached = {"power": 0, "battery": 0}
        run.maker.take([], Steps(False, np.array([5, 10]) * S), None, run.reached)
        run.give([soc(1, 100), soc(1000, 90)])
        assert [r["last"] for r in run.found] == [10 * S]

    @given(st.data())
    @hypothesis_settings(max_examples=100, deadline=None)
    def test_a_state_that_is_none_is_refused_and_changes_nothing(
        self, database: Database, data: st.DataObject
    ) -> None:
        run = Drive(database)
        run.reached = {"battery": FOREVER}
        frames = [pack(0, 4000, 900), pack(1, 4000, 900), soc(2, 100), soc(20, 90)]
        run.give(frames, [S])
        state = msgpack.unpackb(msgpack.packb(run.maker.state()))
        spot: Any = state
        path: list[Any] = []
        while isinstance(spot, dict | list) and spot and (not path or data.draw(st.booleans())):
            keys = sorted(spot) if isinstance(spot, dict) else range(len(spot))
            path.append(data.draw(st.sampled_from(keys)))
            holder, spot = spot, spot[path[-1]]
        nonsense: list[Any] = [None, "x", -5, [], {}, b"abc", math.pi, [[1]], 1 << 70]
        holder[path[-1]] = data.draw(st.sampled_from(nonsense))
        fresh = SessionMaker(ALL, database)
        before = msgpack.packb(fresh.state())
        try:
            fresh.restore(state)
        except ValueError:
            assert msgpack.packb(fresh.state()) == before
        else:
            fresh.take([], Steps(False, np.array([S], np.int64)), None, {"power": 100 * S})
            fresh.finish()


def but(sessions: Sessions, **changes: Any) -> Sessions:
    """The same settings but for some."""
    return msgspec.structs.replace(sessions, **changes)
