"""The car that charges: a session with everything a battery engineer looks for."""

import numpy as np
import pytest

from agent.bench.charging import SESSION, WEAK_CELL, ChargingVehicle, weak_car
from agent.bench.drive import CYCLE_S, Cycle, Life
from agent.bench.vehicle import BUS, VirtualVehicle, dbc_path
from agent.blocks import Float64, SignalTable, concatenate
from agent.signals import Database, Decoder


@pytest.fixture(scope="module")
def session() -> dict[tuple[str, str], SignalTable]:
    """What the agent decodes of one session, by message and branch."""
    decoder = Decoder(Database.load([dbc_path()]))
    found: dict[tuple[str, str], list[SignalTable]] = {}
    for table in decoder.decode(ChargingVehicle(1).frames(CYCLE_S)):
        found.setdefault((table.message, table.branch), []).append(table)
    assert decoder.counts.unknown == decoder.counts.undecodable == 0
    return {key: concatenate(parts) for key, parts in found.items()}


def column(session: dict[tuple[str, str], SignalTable], path: str) -> tuple[Float64, Float64]:
    """Seconds since the start, and physical values."""
    message, name = path.split(".")
    for (found, _), table in session.items():
        if found == message and name in table.names:
            return table.time / 1e9, table.physical(name)
    raise AssertionError(path)


def at(session: dict[tuple[str, str], SignalTable], path: str, second: float) -> float:
    time, values = column(session, path)
    return float(values[np.searchsorted(time, second) - 1])


Session = dict[tuple[str, str], SignalTable]


def test_it_parks_plugs_in_charges_and_unplugs(session: Session) -> None:
    _, state = column(session, "ChargeState.ChargingState")
    changes = state[np.flatnonzero(np.diff(state, prepend=-1))]
    _, plug = column(session, "ChargeState.PlugState")

    assert changes.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0]
    assert plug[0] == plug[-1] == 0
    time, speed = column(session, "VehicleMotion.VehicleSpeed")
    assert 20 < speed.max() < 40
    assert speed[time > SESSION.plugged].max() == 0


def test_current_flows_into_the_pack_while_it_charges_and_the_charge_rises(
    session: Session,
) -> None:
    time, current = column(session, "PackPower.PackCurrent")
    charging = (time > SESSION.plugged + 20) & (time < SESSION.full - 35)

    assert -131 < current[charging].mean() < -129
    assert abs(current[(time > 57) & (time < 66)]).max() < 1
    before = at(session, "BatteryCharge.StateOfCharge", SESSION.plugged)
    after = at(session, "BatteryCharge.StateOfCharge", CYCLE_S)
    assert 4 < after - before < 10


def test_the_station_delivers_what_the_pack_takes(session: Session) -> None:
    second = 150.0
    current = -at(session, "PackPower.PackCurrent", second)

    assert abs(at(session, "ChargePower.ChargeDcCurrent", second) - current) < 1
    energy = at(session, "ChargeState.SessionEnergy", CYCLE_S - 15)
    voltage = at(session, "PackPower.PackVoltage", second)
    assert 0.8 < energy / (current * voltage / 1000 * 200 / 3600) < 1.05


def test_one_cell_runs_ahead_while_current_flows_and_not_at_rest(session: Session) -> None:
    charging = at(session, f"CellVoltages.CellVoltage{WEAK_CELL}", 200)
    mean = at(session, "CellExtremes.CellVoltageMean", 200)

    assert charging - mean > 70
    assert at(session, "CellExtremes.CellOfMaximum", 200) == WEAK_CELL
    rest = at(session, f"CellVoltages.CellVoltage{WEAK_CELL}", 60)
    assert abs(rest - at(session, "CellExtremes.CellVoltageMean", 60)) < 15


def test_its_module_warms_up(session: Session) -> None:
    module = (WEAK_CELL - 1) // 4 + 1
    warm = at(session, f"ModuleTemperatures.ModuleTemperature{module:02d}", 275)
    beside = at(session, f"ModuleTemperatures.ModuleTemperature{module + 1:02d}", 275)

    assert warm - beside > 4


def test_the_charge_goes_on_from_session_to_session_up_to_the_target() -> None:
    car = weak_car(2)
    life = Life.begin(car)
    ends: list[float] = []
    for index in range(12):
        cycle = Cycle(car, index, life, SESSION)
        charge = cycle.columns["StateOfCharge"]
        if ends:
            assert abs(charge[0] - ends[-1]) < 0.01
        ends.append(float(charge[-1]))
        life = cycle.life

    assert min(np.diff(ends)) > -1e-9
    assert abs(ends[-1] - (SESSION.target or 0)) < 0.05


def test_equal_seeds_give_equal_frames_on_the_bus_of_the_car() -> None:
    same = [ChargingVehicle(seed).frames(3) for seed in (7, 7, 8)]

    assert same[0].data.tobytes() == same[1].data.tobytes()
    assert same[0].data.tobytes() != same[2].data.tobytes()
    assert same[0].bus == BUS
    assert len(same[0]) == len(VirtualVehicle(7).frames(3))
