"""What the ECUs of a virtual vehicle say, taken from what the vehicle sends.

A speed that is asked for must be the one on the bus. So `Watch` reads the vehicle's own frames, and
the readings of the ECUs are the newest values of its signals: whichever of a database look like a
speed, a temperature and so on, by their units and names. What no signal shows, no ECU has.
"""

import re
import threading
from collections.abc import Mapping, Sequence
from typing import Final

from agent.bench.responder import EcuDescription, Linear, Readings, Responder, Trouble
from agent.blocks import FrameBlock
from agent.signals import Database, Decoder

_TEMPERATURES: Final = frozenset(("degc", "c", "°c", "deg c"))
_LIKE: Final[Mapping[str, tuple[frozenset[str], str]]] = {
    "speed": (frozenset(("km/h", "kph", "kmh")), "vehicle_?speed|veh|speed"),
    "rpm": (frozenset(("rpm", "1/min")), "motor_?speed|engine_?speed|rpm|speed"),
    "coolant": (_TEMPERATURES, "cool"),
    "ambient": (_TEMPERATURES, "ambient|outside|outdoor"),
    "oil": (_TEMPERATURES, "oil"),
    "fuel": (frozenset("%"), "fuel"),
    "charge": (frozenset("%"), "state_?of_?charge|soc"),
    "pedal": (frozenset("%"), "accel|pedal"),
    "voltage": (frozenset(("v", "volt")), "low_?volt|12_?v|aux|battery_?volt"),
    "pack_voltage": (frozenset(("v", "volt")), "pack_?volt|hv|traction"),
    "pack_current": (frozenset("a"), "pack_?curr|hv|traction|current"),
}
"""Reading -> units, and what a name may have, best first."""

VIN: Final = "WEAVIRTUALCAR0001"
_CHARGE_DID: Final = 0x4801
_PACK_DID: Final = 0x4802
_PART_DID, _SOFTWARE_DID = 0xF187, 0xF195


class Watch:
    """The newest values of a vehicle's signals; `note` and `readings` may be in two threads.

    Args:
        database: what the vehicle sends.
        bus: the bus of its frames.
    """

    def __init__(self, database: Database, bus: str) -> None:
        self.signals = _looking_like(database, bus)
        """Reading -> `Message.Signal`."""
        self._names = {path: reading for reading, path in self.signals.items()}
        wanted = sorted(set(self._names))
        self._decoder = Decoder(database, wanted) if wanted else None
        self._newest: dict[str, float] = {}
        self._lock = threading.Lock()

    def note(self, block: FrameBlock) -> None:
        """Frames that the vehicle has sent."""
        if self._decoder is None:
            return
        newest = {}
        for table in self._decoder.decode(block):
            for name in table.names:
                reading = self._names.get(f"{table.message}.{name}")
                if reading is not None:
                    newest[reading] = float(table.physical(name)[-1])
        with self._lock:
            self._newest |= newest

    def readings(self) -> Mapping[str, float]:
        """What was seen last; nothing before the first frames."""
        with self._lock:
            return dict(self._newest)


def vehicle_ecus(
    readings: Readings, *, vin: str = VIN, troubles: Sequence[Trouble] = ()
) -> Responder:
    """A motor control unit (0x7E0), and a battery that speaks UDS alone (0x7E4)."""
    stored = troubles or (Trouble("P0A1F"), Trouble("P0C73", 0x1A, 0x04))
    return Responder(
        [
            EcuDescription(0x7E0, 0x7E8, "MCU-MotorControl", vin, readings, troubles=stored),
            EcuDescription(
                0x7E4,
                0x7EC,
                vin=vin,
                readings=readings,
                identifiers={
                    _PART_DID: b"EA-BAT-0001",
                    _SOFTWARE_DID: b"1.0.0",
                    _CHARGE_DID: (Linear("charge", 2, 0.01),),
                    _PACK_DID: (
                        Linear("pack_voltage", 2, 0.1),
                        Linear("pack_current", 2, 0.1, -3276.8),
                    ),
                },
                troubles=(Trouble("P0AA6", 0x00, 0x04),),
                obd=False,
            ),
        ]
    )


def _looking_like(database: Database, bus: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for reading, (units, names) in _LIKE.items():
        fitting = [
            (m.name, s.name)
            for m in database.messages(bus)
            for s in m.signals
            if s.schema.unit.strip().lower() in units
            and s.schema.kind != "bytes"
            and f"{m.name}.{s.name}" not in found.values()
        ]
        for pattern in names.split("|"):
            like = [f"{m}.{s}" for m, s in fitting if re.search(pattern, s, re.IGNORECASE)]
            if like:
                found[reading] = like[0]
                break
    return found
