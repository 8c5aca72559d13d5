"""A truck that is not there: the frames of its SAE J1939 bus, the same for a seed each time.

Seven control units speak at 250 kbit/s, about 290 frames a second with identifiers of 29 bits. A
round of 10 ms has 15 slots of 0.66 ms, each longer than the longest frame; messages share slots in
different rounds, and frames never overlap. Bits of a group that no signal has are 1, as the
standard asks for.

The last slot belongs to what is not periodic in a simple way: DM1, as one frame while a sender has
one trouble code at most and as a broadcast transfer (BAM, J1939-21 5.10.2) while it has two; and
each ten seconds the cluster's request for the vehicle identification and the engine's answer, a
transfer, too, and another one for what software the engine has.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agent.bench.curves import normal, uniform
from agent.bench.encode import Encoder, to_raw, unused_bits
from agent.bench.haul import HAUL_S, STEPS, Haul, Life, Truck
from agent.bench.pages import PAGE_S, STEP_NS, STEPS_OF_PAGE, Part, Vehicle
from agent.blocks import EXTENDED, Int64, UInt8
from agent.clock import MILLISECOND, BootNs
from agent.settings import packaged
from agent.signals import Database
from agent.signals.model import Message

BUS: Final = "j1939"
_SLOT_NS: Final = 660_000
_SLOTS: Final = 14  # that messages share; one more is for transfers
_JITTER_NS: Final = 18_000
_SECOND: Final = 100  # steps

_ENGINE, _BRAKES, _CLUSTER = 0x00, 0x0B, 0x17
_BAM: Final = 32
_PACKET_STEPS: Final = 6  # 60 ms; the standard has 50 to 200
_VI, _SOFT, _DM1 = 0xFEEC, 0xFEDA, 0xFECA
_SOFTWARE: Final = b"\x01EA-1.0.00*"
_ASKED, _ANSWERED, _SOFTWARE_AT = 205, 210, 510  # steps into each ten seconds
_DM1_ENGINE, _DM1_BRAKES = 60, 30  # steps into each second
_CODES: Final = ((110, 16), (175, 16))  # SPN and FMI: coolant, oil; "above normal, moderately"
_AMBER: Final = 0x04
_BY_HAND: Final = frozenset(("VI", "SOFT", "RQST"))

# How far a sensor's noise goes (one deviation), in the unit of the signal.
_NOISE: Final = {
    "EngineSpeed": 2.0, "EngineTorque": 0.4, "EngineLoad": 0.4, "FuelRate": 0.1,
    "WheelSpeed": 0.03, "TachographSpeed": 0.03, "FrontAxleSpeed": 0.03, "OutputShaftSpeed": 0.5,
    "InputShaftSpeed": 0.5, "OilPressure": 3, "BoostPressure": 1.5, "ExhaustTemperature": 0.6,
    "ChargingVoltage": 0.03, "BatteryVoltage": 0.03, "Latitude": 3e-7, "Longitude": 4e-7,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Sender:
    """A message and when it is sent: every `period` steps, beginning with `first`, at `slot_ns`."""

    message: Message
    encoder: Encoder
    period: int
    first: int
    slot_ns: int
    fill: UInt8  # the bits that no signal has


class VirtualTruck(Vehicle):
    """A truck on its J1939 bus; dbc/truck.dbc describes it, and `expand = ["DM1"]` its codes.

    Args:
        seed: decides everything that is random. Equal seeds give equal frames.
        start: boot time of the vehicle's first moment; frames are dated from there.
    """

    def __init__(self, seed: int = 1, start: BootNs = BootNs(0)) -> None:  # noqa: B008 - an int
        super().__init__(BUS, start)
        messages = Database.load([packaged("dbc/truck.dbc")]).messages(BUS)
        self._truck = Truck.of(seed)
        self._senders = _timetable([m for m in messages if m.name not in _BY_HAND])
        self._haul_index = -1
        self._haul: Haul
        self._life = Life.begin(self._truck)

    def _parts(self, index: int) -> list[Part]:
        while self._haul_index < index * STEPS_OF_PAGE // STEPS:
            self._haul_index += 1
            self._haul = Haul(self._truck, self._haul_index, self._life)
            self._life = self._haul.life
        first = index * STEPS_OF_PAGE
        parts = [self._sent(sender, index) for sender in self._senders]
        parts += self._identification(first)
        for second in range(first, first + STEPS_OF_PAGE, _SECOND):
            parts += self._trouble(second)
        return parts

    def _sent(self, sender: _Sender, page: int) -> Part:
        count = STEPS_OF_PAGE // sender.period
        number = page * count + np.arange(count, dtype=np.int64)
        step = number * sender.period + sender.first
        name = sender.message.name
        raw: dict[str, NDArray[Any]] = {}
        for signal in sender.message.signals:
            values = self._haul.columns[signal.name][step % STEPS]
            if signal.name in _NOISE:
                noise = _NOISE[signal.name] * normal(self._truck.seed, signal.name, number)
                values = values + noise * (values != 0)  # what stands still gives no noise
            raw[signal.name] = to_raw(signal, values)
        time = self._times(step, sender.slot_ns, f"{name} jitter")
        return time, sender.message.id | EXTENDED, 8, sender.encoder.encode(raw) | sender.fill

    def _times(self, step: Int64, slot_ns: int, stream: str) -> Int64:
        jitter = uniform(self._truck.seed, stream, step)
        return step * STEP_NS + slot_ns + (_JITTER_NS * jitter).astype(np.int64)

    def _single(self, step: int, identifier: int, data: bytes) -> Part:
        rows = np.frombuffer(data.ljust(8, b"\0"), np.uint8).reshape(1, 8)
        times = self._times(np.array([step]), _SLOTS * _SLOT_NS, "other jitter")
        return times, identifier | EXTENDED, len(data), rows

    def _transfer(self, step: int, source: int, pgn: int, payload: bytes) -> list[Part]:
        """A message to everybody in packets of 7 bytes (TP.CM_BAM and TP.DT)."""
        packets = -(-len(payload) // 7)
        size, group = len(payload).to_bytes(2, "little"), pgn.to_bytes(3, "little")
        announced = bytes([_BAM, *size, packets, 0xFF, *group])
        padded = payload.ljust(7 * packets, b"\xff")
        return [
            self._single(step, 0x1CEC_FF00 | source, announced),
            *(
                self._single(
                    step + _PACKET_STEPS * (i + 1),
                    0x1CEB_FF00 | source,
                    bytes([i + 1]) + padded[7 * i : 7 * i + 7],
                )
                for i in range(packets)
            ),
        ]

    def _identification(self, first: int) -> list[Part]:
        """What is sent each ten seconds, as far as this page has it."""
        if first % (10 * _SECOND) == 0:
            request = self._single(
                first + _ASKED, 0x18EA_0000 | _ENGINE << 8 | _CLUSTER, _VI.to_bytes(3, "little")
            )
            vin = self._truck.vin.encode() + b"*"
            return [request, *self._transfer(first + _ANSWERED, _ENGINE, _VI, vin)]
        at = first + _SOFTWARE_AT - STEPS_OF_PAGE
        return self._transfer(at, _ENGINE, _SOFT, _SOFTWARE)

    def _trouble(self, second: int) -> list[Part]:
        """DM1 (J1939-73 5.7.1) of engine and brakes in one second."""
        step = second + _DM1_ENGINE
        active = [
            code
            for code, there in zip(_CODES, self._haul.codes, strict=True)
            if there[step % STEPS]
        ]
        lamps = bytes([_AMBER if active else 0, 0xFF])
        count = min(self._haul_index + 1, 126)
        listed = b"".join(_trouble_code(spn, fmi, count) for spn, fmi in active)
        payload = lamps + (listed or bytes(4))
        nothing = self._single(
            second + _DM1_BRAKES, 0x18FE_CA00 | _BRAKES, b"\0\xff\0\0\0\0\xff\xff"
        )
        if len(payload) > 8:
            return [nothing, *self._transfer(step, _ENGINE, _DM1, payload)]
        return [nothing, self._single(step, 0x18FE_CA00 | _ENGINE, payload.ljust(8, b"\xff"))]


def _trouble_code(spn: int, fmi: int, count: int) -> bytes:
    return bytes([spn & 0xFF, spn >> 8 & 0xFF, spn >> 16 << 5 | fmi, count])


def _timetable(messages: Sequence[Message]) -> tuple[_Sender, ...]:
    """A slot and a first round for each message, such that none meets another one."""
    taken = np.zeros((_SLOTS, _SECOND), np.bool_)
    senders = []
    ordered = sorted(messages, key=lambda m: m.cycle_ms or 0)
    for place, message in enumerate(ordered):
        period = (message.cycle_ms or 0) * MILLISECOND // STEP_NS
        slot, first = next(
            (slot % _SLOTS, first)
            for slot in range(5 * place, 5 * place + _SLOTS)
            for first in ((7 * place + i) % period for i in range(period))
            if not taken[slot % _SLOTS, first::period].any()
        )
        taken[slot, first::period] = True
        senders.append(
            _Sender(
                message,
                Encoder(message),
                period,
                first,
                slot * _SLOT_NS,
                unused_bits(message),
            )
        )
    return tuple(senders)


assert HAUL_S % (2 * PAGE_S) == 0, "pages of ten seconds lie within one haul"  # noqa: S101 - of constants
