"""A car that is not there: the frames of the demo electric car, the same for a seed each time.

Within each 10 ms a message has a slot of its own of 0.3 ms (longer than any classic frame at
500 kbit/s) and moves in it by some microseconds: frames never overlap, as on a real bus. Messages
of 100 ms and more are spread over the rounds of 10 ms.
"""

import dataclasses
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.bench.curves import normal, uniform
from agent.bench.drive import CYCLE_S, DAY, MODULES, STEPS, Car, Cycle, Life, Schedule
from agent.bench.encode import Encoder, to_raw
from agent.bench.pages import PAGE_S, STEP_NS, STEPS_OF_PAGE, Part, Vehicle
from agent.blocks import EXTENDED, Int64, UInt8
from agent.clock import MILLISECOND, BootNs
from agent.settings import packaged
from agent.signals import Database
from agent.signals.model import Message, Signal

BUS: Final = "powertrain"
_SLOT_NS: Final = 300_000
_JITTER_NS: Final = 25_000

# How far a sensor's noise goes (one deviation), in the unit of the signal.
_NOISE: Final = {
    "VehicleSpeed": 0.01, "LongitudinalAcceleration": 0.02, "LateralAcceleration": 0.02,
    "WheelSpeedFrontLeft": 0.03, "WheelSpeedFrontRight": 0.03, "WheelSpeedRearLeft": 0.03,
    "WheelSpeedRearRight": 0.03, "SteeringAngle": 0.05, "SteeringRate": 0.3, "SteeringTorque": 0.02,
    "YawRate": 0.04, "PitchRate": 0.05, "RollRate": 0.05, "VerticalAcceleration": 0.08,
    "MotorSpeed": 0.6, "MotorTorque": 0.15, "InverterVoltage": 0.15, "InverterCurrent": 0.2,
    "PhaseCurrent": 0.4, "PackVoltage": 0.03, "PackCurrent": 0.05, "LinkVoltage": 0.06,
    "IsolationResistance": 30, "LowVoltage": 0.004, "LowVoltageCurrent": 0.2, "Altitude": 0.3,
    "Latitude": 2e-7, "Longitude": 3e-7, "GnssSpeed": 0.05, "AmbientLight": 60, "RoadSlope": 0.05,
}  # fmt: skip
# At rest these sensors show nothing: a wheel that stands gives no pulses.
_QUIET_AT_ZERO: Final = frozenset(
    ("VehicleSpeed", "WheelSpeedFrontLeft", "WheelSpeedFrontRight", "WheelSpeedRearLeft",
     "WheelSpeedRearRight", "MotorSpeed", "MotorTorque", "PackCurrent", "PhaseCurrent",
     "InverterVoltage", "InverterCurrent", "LinkVoltage", "LowVoltageCurrent"),
)  # fmt: skip
_COMPUTED: Final = frozenset(("Counter", "Checksum"))


def dbc_path() -> Path:
    """The DBC file of the virtual car."""
    return packaged("dbc/ev.dbc")


@dataclasses.dataclass(frozen=True)
class _Sender:
    """A message and when it is sent: every `period` steps, beginning with `first`, at `slot_ns`."""

    message: Message
    encoder: Encoder
    id: int
    period: int
    first: int
    slot_ns: int
    signals: tuple[Signal, ...]  # all but counter and checksum


class VirtualVehicle(Vehicle):
    """The demo electric car on its powertrain bus, about 1,070 frames a second.

    Args:
        seed: decides everything that is random. Equal seeds give equal frames.
        start: boot time of the vehicle's first moment; frames are dated from there.
        car: another car than that of the seed.
        schedule: what it does all day.
    """

    def __init__(
        self,
        seed: int = 1,
        start: BootNs = BootNs(0),  # noqa: B008 - an int
        *,
        car: Car | None = None,
        schedule: Schedule = DAY,
    ) -> None:
        super().__init__(BUS, start)
        messages = Database.load([dbc_path()]).messages(BUS)
        self._car = car or Car.of(seed)
        self._schedule = schedule
        self._senders = tuple(_sender(i, m) for i, m in enumerate(messages))
        self._cycle_index = -1
        self._cycle: Cycle
        self._life = Life.begin(self._car)

    def _parts(self, index: int) -> list[Part]:
        while self._cycle_index < index * STEPS_OF_PAGE // STEPS:
            self._cycle_index += 1
            self._cycle = Cycle(self._car, self._cycle_index, self._life, self._schedule)
            self._life = self._cycle.life
        return [self._sent(sender, index) for sender in self._senders]

    def _sent(self, sender: _Sender, page: int) -> Part:
        count = STEPS_OF_PAGE // sender.period
        number = page * count + np.arange(count, dtype=np.int64)
        step = number * sender.period + sender.first
        jitter = uniform(self._car.seed, f"{sender.message.name} jitter", number)
        late = sender.slot_ns + (_JITTER_NS * jitter).astype(np.int64)
        payloads = self._payloads(sender, number, step % STEPS)
        return step * STEP_NS + late, sender.id, sender.message.length, payloads

    def _payloads(self, sender: _Sender, number: Int64, step: Int64) -> UInt8:
        """Sample all signals of a message at `step` of the cycle; `number` counts its frames."""
        raw: dict[str, NDArray[Any]] = {}
        if sender.message.name == "CellVoltages":
            raw["CellGroup"] = number % 24
            cells = self._cycle.cells(step, np.arange(96))
            rows = cells + 0.4 * normal(self._car.seed, "cell noise", number)
            for cell, signal in enumerate(sender.signals[1:]):
                raw[signal.name] = to_raw(signal, rows[cell])
        elif sender.message.name == "ModuleTemperatures":
            raw["ModuleGroup"] = number % 4
            modules = self._cycle.modules(step, np.arange(MODULES))
            for module, signal in enumerate(sender.signals[1:]):
                raw[signal.name] = to_raw(signal, modules[module])
        else:
            for signal in sender.signals:
                raw[signal.name] = to_raw(signal, self._sample(signal.name, number, step))
        if len(sender.signals) == len(sender.message.signals):
            return sender.encoder.encode(raw)
        payload = sender.encoder.encode({**raw, "Counter": number % 16})
        payload[:, 7] = np.bitwise_xor.reduce(payload[:, :7], axis=1)
        return payload

    def _sample(self, name: str, number: Int64, step: Int64) -> NDArray[np.float64]:
        values = self._cycle.columns[name][step]
        deviation = _NOISE.get(name)
        if deviation is None:
            return values
        noise = deviation * normal(self._car.seed, name, number)
        if name in _QUIET_AT_ZERO:
            noise = np.where(np.abs(values) > 0.01, noise, 0)
        return values + noise


def _sender(place: int, message: Message) -> _Sender:
    period = (message.cycle_ms or 0) * MILLISECOND // STEP_NS
    return _Sender(
        message,
        Encoder(message),
        message.id | (EXTENDED if message.extended else 0),
        period,
        # Seven is prime to the ten rounds, so neighbours in the file lie far apart.
        7 * place % period,
        place * _SLOT_NS,
        tuple(sorted((s for s in message.signals if s.name not in _COMPUTED), key=_by_name)),
    )


def _by_name(signal: Signal) -> tuple[bool, str]:
    """Selectors first; numbered signals in the order of their numbers."""
    return not signal.multiplexer, signal.name


assert CYCLE_S % PAGE_S == 0, "a page lies within one cycle"  # noqa: S101 - of constants
