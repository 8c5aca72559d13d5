"""The ECUs of a virtual vehicle that answer diagnostic requests: OBD-II and UDS. Pure.

`Responder.hear` takes a frame of the bus and gives the frames that answer it, each with its delay:
no I/O, no clock, no threads (agent.bench.answering has those). An ECU is a description: its ids,
its parameters, identifiers and trouble codes. Nothing that is asked changes the vehicle: services
that write, clear or control are refused.

    OBD-II (SAE J1979)   01 parameters, 03 07 0A trouble codes, 09 vehicle information
    UDS (ISO 14229-1)    10 session, 19 trouble codes (01, 02, 0A), 22 identifiers, 3E present

Who is asked with everybody else (0x7DF, 0x18DB33F1) does not say what it cannot.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from agent.bench.isotp import Sent, Transport
from agent.blocks import EXTENDED
from agent.bus.diagnostics.requests import FUNCTIONAL, FUNCTIONAL_29, frame_id

Frame = tuple[int, int, bytes]
"""A delay in ns, an id with the flag of 29-bit ids, and data."""

Readings = Callable[[], Mapping[str, float]]
"""What sensors show now, by the names of `PARAMETERS` and `Identifier.reading`, in its unit."""

_NEGATIVE: Final = 0x7F
_NO_SERVICE, _NO_SUBFUNCTION, _WRONG_LENGTH, _OUT_OF_RANGE = 0x11, 0x12, 0x13, 0x31
_KEPT_QUIET: Final = frozenset((_NO_SERVICE, _NO_SUBFUNCTION, _OUT_OF_RANGE))
_POSITIVE: Final = 0x40
_SUPPRESS: Final = 0x80
_SESSIONS: Final = frozenset((1, 3))  # default, extended
_TIMING: Final = bytes.fromhex("003201f4")  # P2 50 ms, P2* 5 s
_MOST_PIDS: Final = 6
_STATUS_AVAILABLE: Final = 0x2F
_PENDING, _CONFIRMED = 0x04, 0x08
_ISO_14229: Final = 0x01
_VIN_DID: Final = 0xF190
_CODE: Final = re.compile("([PCBU])([0-3])([0-9A-F]{3})")


@dataclasses.dataclass(frozen=True, slots=True)
class Linear:
    """A reading as an unsigned number of some bytes: (value - offset) / scale."""

    reading: str
    size: int = 1
    scale: float = 1
    offset: float = 0

    def bytes_of(self, value: float) -> bytes:
        """Rounded, and clamped to what the bytes hold; all ones for what is no number."""
        most = (1 << 8 * self.size) - 1
        raw = (value - self.offset) / self.scale
        whole = round(max(0.0, min(raw, float(most)))) if math.isfinite(raw) else most
        return whole.to_bytes(self.size, "big")


_PERCENT: Final = 100 / 255
PARAMETERS: Final[Mapping[int, Linear]] = {
    0x04: Linear("load", scale=_PERCENT),
    0x05: Linear("coolant", offset=-40),
    0x0C: Linear("rpm", 2, 0.25),
    0x0D: Linear("speed"),
    0x0F: Linear("intake", offset=-40),
    0x11: Linear("throttle", scale=_PERCENT),
    0x1F: Linear("runtime", 2),
    0x2F: Linear("fuel", scale=_PERCENT),
    0x31: Linear("distance", 2),
    0x33: Linear("pressure"),
    0x42: Linear("voltage", 2, 0.001),
    0x46: Linear("ambient", offset=-40),
    0x49: Linear("pedal", scale=_PERCENT),
    0x5B: Linear("charge", scale=_PERCENT),
    0x5C: Linear("oil", offset=-40),
}
"""Service 01: km/h, 1/min, degC, %, s, km, kPa and V (SAE J1979). An ECU has those of which it has
a reading."""


@dataclasses.dataclass(frozen=True, slots=True)
class Trouble:
    """A trouble code such as `P0301`, the kind of failure, and its state (ISO 14229-1, D.2).

    Raises:
        ValueError: no such code.
    """

    code: str
    failure: int = 0
    status: int = _CONFIRMED | 0x01
    permanent: bool = False

    def __post_init__(self) -> None:
        self.number  # noqa: B018 - says whether there is one

    @property
    def number(self) -> bytes:
        """Two bytes (SAE J2012)."""
        match = _CODE.fullmatch(self.code)
        if match is None:
            raise ValueError(f"{self.code} is no trouble code")
        system, first, rest = match.groups()
        return ("PCBU".index(system) << 14 | int(first) << 12 | int(rest, 16)).to_bytes(2, "big")


@dataclasses.dataclass(frozen=True, slots=True)
class EcuDescription:
    """An ECU: who it is, and what it can say.

    Attributes:
        request, response: its ids, as numbers: above 0x7FF they have 29 bits.
        name: up to 20 letters (service 09, 0A).
        vin: 17 letters, empty where it does not know.
        readings: what its sensors show.
        identifiers: UDS data identifiers: bytes, or a reading as a number.
        troubles: its trouble codes.
        obd: whether it answers OBD-II, and so to everybody's requests.
    """

    request: int
    response: int
    name: str = ""
    vin: str = ""
    readings: Readings = dict
    identifiers: Mapping[int, bytes | Sequence[Linear]] = dataclasses.field(default_factory=dict)
    troubles: Sequence[Trouble] = ()
    obd: bool = True


class Responder:
    """All ECUs of a vehicle.

    `counts`: `requests` that were understood as messages, `answers`, `negative` ones among them,
    and `bad` frames.
    """

    def __init__(self, ecus: Sequence[EcuDescription]) -> None:
        self._ecus = [_Ecu(description) for description in ecus]

    @property
    def ids(self) -> frozenset[int]:
        """Ids of the frames that concern it, with the flag of 29-bit ids."""
        return frozenset(i for ecu in self._ecus for i in ecu.ids)

    @property
    def counts(self) -> Counter[str]:
        total: Counter[str] = Counter()
        for ecu in self._ecus:
            total.update(ecu.counts)
        return total

    def hear(self, frame: int, data: bytes) -> list[Frame]:
        """A frame of the bus: the frames that follow from it. Any bytes may come."""
        return [
            (delay, ecu.response, row) for ecu in self._ecus for delay, row in ecu.hear(frame, data)
        ]


class _Ecu:
    def __init__(self, description: EcuDescription) -> None:
        self._of = description
        self.response = frame_id(description.response)
        self._physical = frame_id(description.request)
        wide = bool(self._physical & EXTENDED)
        self._functional = frame_id(FUNCTIONAL_29 if wide else FUNCTIONAL)
        self._transport = Transport()
        self._counted: Counter[str] = Counter()
        self._services: dict[int, Callable[[bytes], bytes | int | None]] = {
            0x10: self._session,
            0x19: self._uds_troubles,
            0x22: self._read,
            0x3E: self._present,
        }
        if description.obd:
            self._services |= {
                0x01: self._parameters,
                0x03: lambda request: self._obd_troubles(request, _CONFIRMED),
                0x07: lambda request: self._obd_troubles(request, _PENDING),
                0x0A: lambda request: self._obd_troubles(request, 0),
                0x09: self._information,
            }

    @property
    def ids(self) -> tuple[int, ...]:
        return (self._physical, self._functional)

    @property
    def counts(self) -> Counter[str]:
        return self._counted + Counter(bad=self._transport.bad)

    def hear(self, frame: int, data: bytes) -> list[Sent]:
        if frame not in self.ids:
            return []
        everybody = frame == self._functional
        if everybody and (not data or data[0] >> 4):
            return []  # to everybody there are single frames only
        message, frames = self._transport.feed(data)
        if message is None:
            return frames
        self._counted["requests"] += 1
        answer = self._answer(message, everybody=everybody)
        if answer is None:
            return frames
        self._counted["answers"] += 1
        return frames + self._transport.send(answer)

    def _answer(self, request: bytes, *, everybody: bool) -> bytes | None:
        service = self._services.get(request[0])
        answer = _NO_SERVICE if service is None else service(request)
        if isinstance(answer, int):
            if everybody and answer in _KEPT_QUIET:
                return None
            self._counted["negative"] += 1
            return bytes([_NEGATIVE, request[0], answer])
        return None if answer is None else bytes([request[0] | _POSITIVE]) + answer

    def _values(self) -> dict[int, bytes]:
        """The parameters that this ECU has, now."""
        readings = self._of.readings()
        values = {
            number: linear.bytes_of(readings[linear.reading])
            for number, linear in PARAMETERS.items()
            if linear.reading in readings
        }
        confirmed = sum(bool(t.status & _CONFIRMED) for t in self._of.troubles)
        lamp = 0x80 if confirmed else 0
        values[0x01] = bytes([lamp | min(confirmed, 0x7F), 0, 0, 0])
        values[0x1C] = bytes([6])  # EOBD
        return values

    def _parameters(self, request: bytes) -> bytes | int | None:
        numbers = request[1:]
        if not 0 < len(numbers) <= _MOST_PIDS:
            return _WRONG_LENGTH
        values = _with_bitmaps(self._values())
        found = [bytes([n]) + values[n] for n in numbers if n in values]
        return b"".join(found) or None

    def _obd_troubles(self, request: bytes, state: int) -> bytes | int:
        if len(request) != 1:
            return _WRONG_LENGTH
        codes = [
            t.number for t in self._of.troubles if (t.status & state if state else t.permanent)
        ]
        return bytes([len(codes)]) + b"".join(codes)

    def _information(self, request: bytes) -> bytes | int | None:
        if len(request) != 2:
            return _WRONG_LENGTH
        texts = {0x02: self._of.vin.encode(), 0x0A: self._of.name.encode().ljust(20, b"\0")}
        values = _with_bitmaps({n: b"\x01" + t for n, t in texts.items() if t.strip(b"\0")})
        return request[1:] + values[request[1]] if request[1] in values else None

    def _session(self, request: bytes) -> bytes | int | None:
        if len(request) != 2:
            return _WRONG_LENGTH
        session = request[1] & ~_SUPPRESS
        if session not in _SESSIONS:
            return _NO_SUBFUNCTION
        return None if request[1] & _SUPPRESS else bytes([session]) + _TIMING

    def _present(self, request: bytes) -> bytes | int | None:
        if len(request) != 2:
            return _WRONG_LENGTH
        if request[1] & ~_SUPPRESS:
            return _NO_SUBFUNCTION
        return None if request[1] & _SUPPRESS else b"\0"

    def _read(self, request: bytes) -> bytes | int:
        if len(request) < 3 or len(request) % 2 == 0:
            return _WRONG_LENGTH
        known = dict(self._of.identifiers)
        if self._of.vin:
            known.setdefault(_VIN_DID, self._of.vin.encode())
        readings = self._of.readings()
        found = b""
        for at in range(1, len(request), 2):
            content = known.get(int.from_bytes(request[at : at + 2], "big"), ())
            if not isinstance(content, bytes):
                shown = [c for c in content if c.reading in readings]
                if not content or len(shown) < len(content):
                    continue
                content = b"".join(c.bytes_of(readings[c.reading]) for c in shown)
            found += request[at : at + 2] + content
        return found or _OUT_OF_RANGE

    def _uds_troubles(self, request: bytes) -> bytes | int:
        if len(request) < 2:
            return _WRONG_LENGTH
        kind = request[1]
        if kind not in (0x01, 0x02, 0x0A):
            return _NO_SUBFUNCTION
        if len(request) != (2 if kind == 0x0A else 3):
            return _WRONG_LENGTH
        mask = 0xFF if kind == 0x0A else request[2]
        found = [
            t for t in self._of.troubles if kind == 0x0A or t.status & _STATUS_AVAILABLE & mask
        ]
        head = bytes([kind, _STATUS_AVAILABLE])
        if kind == 0x01:
            return head + bytes([_ISO_14229]) + len(found).to_bytes(2, "big")
        return head + b"".join(
            t.number + bytes([t.failure, t.status & _STATUS_AVAILABLE]) for t in found
        )


def _with_bitmaps(values: Mapping[int, bytes]) -> dict[int, bytes]:
    """Values, and the bitmaps 00, 20, 40 ... that say which there are."""
    last = max(values, default=0)
    bases = [base for base in range(0, 0x100, 0x20) if base == 0 or base < last]
    there = {*values, *bases}
    maps = {
        base: sum(1 << 0x20 - (n - base) for n in there if base < n <= base + 0x20)
        for base in bases
    }
    return {**values, **{base: bits.to_bytes(4, "big") for base, bits in maps.items()}}
