"""Each plan that is shipped, on the vehicle that it is for: it finds what it is there to find.

The agent and the cloud are real processes; the vehicle is a recording of the virtual one, played
flat out.
"""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.batch import BatchReader
from agent.bench.charging import WEAK_CELL, ChargingVehicle
from agent.bench.haul import HAUL_S, Truck
from agent.bench.pages import Vehicle
from agent.bench.play import candump_lines
from agent.bench.scenario.arrived import Arrived
from agent.bench.truck import VirtualTruck
from agent.bench.vehicle import VirtualVehicle
from agent.blocks import SignalTable
from agent.clock import SECOND, BootNs
from agent.settings import load_plan, packaged
from agent.signals import Database, Decoder
from tests import processes

START = BootNs(1_767_225_600 * SECOND)
RUN = 1
DEVICE = """vehicle = "{name}"
plan = "{plan}"
state_dir = "state"
[[bus]]
name = "bus"
kind = "recording"
path = "drive.log"
speed = 0
[[uplink]]
name = "cloud"
url = "http://127.0.0.1:8080"
"""
VEHICLES = {"ev": VirtualVehicle, "truck": VirtualTruck, "charging": ChargingVehicle}


async def _run(folder: Path) -> None:
    async with processes.cloud(folder / "cloud") as port:
        agent = await processes.start(
            *("run", "-c", str(folder / "agent.toml"), "--drain"),
            log=folder / "agent.log",
            environment={"EDGE_AGENT_UPLINK__CLOUD__URL": f"http://127.0.0.1:{port}"},
        )
        try:
            ended = await asyncio.wait_for(agent.wait(), processes.LIMIT_S)
        except TimeoutError:
            ended = await processes.stop(agent)
        assert ended == 0, (folder / "agent.log").read_text()


def collect(folder: Path, name: str, seconds: float) -> tuple[Arrived, Mapping[str, Any]]:
    """What the cloud has of a vehicle after so many seconds with its plan, and the ledger."""
    vehicle: Vehicle = VEHICLES[name](1, START)
    log = folder / "drive.log"
    with log.open("w", encoding="ascii") as file:
        file.writelines(candump_lines(vehicle.frames(seconds), vehicle.bus))
    device = DEVICE.format(name=name, plan=packaged(f"config/plan-{name}.toml"))
    (folder / "agent.toml").write_text(device)
    arrived = Arrived(folder / "cloud")
    asyncio.run(_run(folder))
    arrived.look()
    ledger = json.loads((folder / "state" / "last-run.json").read_text())["ledger"]
    assert arrived.differences(ledger, RUN) == []
    return arrived, ledger


def ended(arrived: Arrived) -> set[str]:
    """The events that have arrived with their end."""
    return {str(e["name"]) for e in arrived.events if e.get("complete", True)}


def second(arrived: Arrived, name: str) -> float:
    """When an event happened, s since the beginning; there must be one."""
    (found,) = (e for e in arrived.events if e["name"] == name)
    return float(found["time"] - START) / SECOND


@pytest.mark.parametrize("name", VEHICLES)
def test_what_a_plan_names_is_there(name: str) -> None:
    plan = load_plan(packaged(f"config/plan-{name}.toml"))

    assert plan.name.startswith("demo")
    assert plan.sessions is not None
    assert plan.budget
    assert any(c.trigger for c in plan.campaign)


def test_the_car_of_the_demo(tmp_path: Path) -> None:
    arrived, ledger = collect(tmp_path, "ev", 30)

    assert "strong-start" in ended(arrived)
    assert 10 < second(arrived, "strong-start") < 16
    (trip,) = (e for e in arrived.events if e["kind"] == "trip")
    assert not trip["complete"]  # it still drives when the recording ends
    assert ledger["campaign"]["silent-pack"]["events"] == 0
    everything = sum(
        table.samples
        for table in Decoder(Database.load([packaged("dbc/ev.dbc")])).decode(
            VirtualVehicle(1, START).frames(30)
        )
    )
    assert arrived.by_campaign(RUN)["everything"] == everything
    # The others cost little beside it.
    assert arrived.samples < 1.25 * everything


def test_the_truck(tmp_path: Path) -> None:
    arrived, _ = collect(tmp_path, "truck", HAUL_S)

    assert ended(arrived) >= {"hot-engine", "trouble-code", "long-descent", "trip"}
    assert 90 < second(arrived, "trouble-code") < second(arrived, "hot-engine") < 120
    (trip,) = (e for e in arrived.events if e["kind"] == "trip")
    assert trip["complete"]
    assert 2.5 < trip["distance_km"] < 3.5
    # The identification went under a pseudonym.
    vin = Truck.of(1).vin.encode()
    assert arrived.by_campaign(RUN)["way"] > 0
    assert not any(vin in table.tobytes() for table in _texts(arrived, "way"))


def _texts(arrived: Arrived, campaign: str) -> list[Any]:
    return [
        payload
        for path in arrived.files
        for kind, table in BatchReader(path).records()
        if kind == "samples" and isinstance(table, SignalTable) and table.campaign == campaign
        for payload in table.payloads
    ]


def test_the_car_that_charges(tmp_path: Path) -> None:
    arrived, _ = collect(tmp_path, "charging", 300)

    assert ended(arrived) >= {"weak-cell", "charging-stops", "charging", "trip"}
    assert 80 < second(arrived, "weak-cell") < 95
    assert 279 < second(arrived, "charging-stops") < 281
    (charging,) = (e for e in arrived.events if e["kind"] == "charging")
    assert charging["complete"]
    assert 2 < charging["energy_in_kwh"] < 3
    assert 4 < charging["soc_last"] - charging["soc_first"] < 10
    assert charging["cell_max"]["number"] == WEAK_CELL
