"""A vehicle that is not there: the frames of the demo electric car, the same for a seed each time.

Frames are made in pages of five seconds: every message of a page is sampled from the drive cycle,
encoded and put in order at once. What a caller asks for is cut out of pages, so the result cannot
depend on the steps in which it is asked for.

Within each 10 ms a message has a slot of its own of 0.3 ms (longer than any classic frame at
500 kbit/s) and moves in it by some microseconds: frames never overlap, as on a real bus. Messages
of 100 ms and more are spread over the rounds of 10 ms.
"""

import dataclasses
from pathlib import Path
from typing import Any, Final

import numpy as np
from cantools.database.can import Database, Message, Signal
from numpy.typing import NDArray

from agent.bench.drive import CYCLE_S, STEPS, Car, Cycle, Life, normal, uniform
from agent.bench.encode import Encoder, to_raw
from agent.blocks import EXTENDED, FrameBlock, Int64, UInt8
from agent.clock import MILLISECOND, SECOND, BootNs

BUS: Final = "powertrain"
_PAGE_S: Final = 5
_PAGE_STEPS: Final = 100 * _PAGE_S
_STEP_NS: Final = 10 * MILLISECOND
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
    """The DBC file of the virtual vehicle: beside the installed program, else in the checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_data" / "dbc" / "ev.dbc"
    return installed if installed.exists() else package.parent / "dbc" / "ev.dbc"


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


class VirtualVehicle:
    """The demo electric car on its powertrain bus, about 1,070 frames a second.

    Args:
        seed: decides everything that is random. Equal seeds give equal frames.
        start: boot time of the vehicle's first moment; frames are dated from there.
    """

    def __init__(self, seed: int = 1, start: BootNs = BootNs(0)) -> None:  # noqa: B008 - an int
        database = Database()
        database.add_dbc_file(dbc_path())
        self._car = Car.of(seed)
        self._start = start
        self._senders = tuple(_sender(i, m) for i, m in enumerate(database.messages))
        self._cycle_index = -1
        self._cycle: Cycle
        self._life = Life.begin(self._car)
        self._page_index = 0
        self._page = self._make_page(0)
        self._reached = 0  # simulated ns that have been handed out

    def frames(self, until_s: float) -> FrameBlock:
        """The frames since the last call, before `until_s` seconds of simulated time.

        Sorted by time, data uint8[n, 8]; empty when `until_s` is not beyond the last call's.
        """
        until = round(until_s * SECOND)
        parts = []
        while self._reached < until:
            page_end = (self._page_index + 1) * _PAGE_S * SECOND
            begin, end = np.searchsorted(
                self._page.time, [self._reached + self._start, min(until, page_end) + self._start]
            )
            parts.append(self._page[begin:end])
            self._reached = min(until, page_end)
            if self._reached == page_end:
                self._page_index += 1
                self._page = self._make_page(self._page_index)
        if not parts:
            return self._page[:0]
        if len(parts) == 1:
            return parts[0]
        return _join(parts)

    def _make_page(self, index: int) -> FrameBlock:
        first_step = index * _PAGE_STEPS
        while self._cycle_index < first_step // STEPS:
            self._cycle_index += 1
            self._cycle = Cycle(self._car, self._cycle_index, self._life)
            self._life = self._cycle.life
        times, ids, lengths, payloads = [], [], [], []
        for sender in self._senders:
            count = _PAGE_STEPS // sender.period
            number = index * count + np.arange(count, dtype=np.int64)
            step = number * sender.period + sender.first
            jitter = uniform(self._car.seed, f"{sender.message.name} jitter", number)
            late = sender.slot_ns + (_JITTER_NS * jitter).astype(np.int64)
            times.append(step * _STEP_NS + late)
            ids.append(np.full(count, sender.id, np.uint32))
            lengths.append(np.full(count, sender.message.length, np.uint16))
            payloads.append(self._payloads(sender, number, step % STEPS))
        time = np.concatenate(times)
        order = np.argsort(time, kind="stable")
        return FrameBlock.from_arrays(
            bus=BUS,
            time=time[order] + self._start,
            id=np.concatenate(ids)[order],
            length=np.concatenate(lengths)[order],
            data=np.concatenate(payloads)[order],
        )

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
            mean = self._cycle.module_mean[step]
            for module, signal in enumerate(sender.signals[1:]):
                raw[signal.name] = to_raw(signal, mean + self._car.module_offset[module])
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
    period = int(message.cycle_time or 0) * MILLISECOND // _STEP_NS
    return _Sender(
        message,
        Encoder(message),
        message.frame_id | (EXTENDED if message.is_extended_frame else 0),
        period,
        # Seven is prime to the ten rounds, so neighbours in the file lie far apart.
        7 * place % period,
        place * _SLOT_NS,
        tuple(sorted((s for s in message.signals if s.name not in _COMPUTED), key=_by_name)),
    )


def _by_name(signal: Signal) -> tuple[bool, str]:
    """Selectors first; numbered signals in the order of their numbers."""
    return not signal.is_multiplexer, signal.name


def _join(blocks: list[FrameBlock]) -> FrameBlock:
    return FrameBlock(
        BUS,
        np.concatenate([b.time for b in blocks]),
        np.concatenate([b.id for b in blocks]),
        np.concatenate([b.length for b in blocks]),
        np.concatenate([b.flags for b in blocks]),
        np.concatenate([b.data for b in blocks]),
    )


assert CYCLE_S % _PAGE_S == 0, "a page lies within one cycle"  # noqa: S101 - of constants
