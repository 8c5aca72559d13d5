"""The demo car at a charging station: it comes, is plugged in, charges, is unplugged.

The same car and the same bus as the virtual car, with another schedule: a short way to the station,
then 200 s at 130 A. Each cycle of 300 s is such a session, and the state of charge goes on from one
to the next, until the target is reached; later sessions charge what the way took out.

One of its cells is weak: its resistance is twice that of the others, so its voltage runs
ahead of theirs while current flows in, and its module warms up.
"""

import dataclasses
from typing import Final

import numpy as np

from agent.bench.curves import uniform
from agent.bench.drive import Car, Schedule
from agent.bench.vehicle import VirtualVehicle
from agent.clock import BootNs

SESSION: Final = Schedule(
    speed=((8, 0), (16, 30), (44, 30), (52, 0)),
    hill=1,
    ready=5,
    off=56,
    plugged=66,
    full=280,
    turns=((42, 53, 2),),
    current=130,
    target=80,
)
WEAK_CELL: Final = 37
"""Counted from 1, as signals are."""

_CELLS_A_MODULE: Final = 4
_WEAK_OFFSET_MV: Final = -9.0
_WEAK_RESISTANCE: Final = 0.7  # mV a A, beyond the mean
_WEAK_WARMTH: Final = 4.0  # K at 90 A


def weak_car(seed: int) -> Car:
    """The car of a seed, nearly empty and with the weak cell."""
    car = Car.of(seed)
    cell, module = WEAK_CELL - 1, (WEAK_CELL - 1) // _CELLS_A_MODULE
    offset, resistance = car.cell_offset.copy(), car.cell_resistance.copy()
    offset[cell], resistance[cell] = _WEAK_OFFSET_MV, _WEAK_RESISTANCE
    warmth = car.module_warmth.copy()
    warmth[module] = _WEAK_WARMTH
    return dataclasses.replace(
        car,
        charge=24 + 10 * float(uniform(seed, "arrival", np.arange(1))[0]),
        cell_offset=offset,
        cell_resistance=resistance,
        module_warmth=warmth,
    )


class ChargingVehicle(VirtualVehicle):
    """The demo car in charging sessions; equal seeds give equal frames."""

    def __init__(self, seed: int = 1, start: BootNs = BootNs(0)) -> None:  # noqa: B008 - an int
        super().__init__(seed, start, car=weak_car(seed), schedule=SESSION)
