"""What requests and answers say: OBD by its few bytes, UDS with udsoncan. No I/O.

Imported only where requests are sent, as it needs a library of the extra `diagnostics`.
"""

import dataclasses
from typing import Final

from udsoncan.exceptions import InvalidResponseException
from udsoncan.Request import Request
from udsoncan.Response import Response
from udsoncan.services.DiagnosticSessionControl import DiagnosticSessionControl
from udsoncan.services.ReadDataByIdentifier import ReadDataByIdentifier
from udsoncan.services.ReadDTCInformation import ReadDTCInformation
from udsoncan.services.TesterPresent import TesterPresent

from agent.bus.diagnostics.tables import dtc_text
from agent.clock import BootNs

NEGATIVE: Final = 0x7F

# Response codes of ISO 14229-1 that mean something to a polling client.
SERVICE_NOT_SUPPORTED: Final = 0x11
SUBFUNCTION_NOT_SUPPORTED: Final = 0x12
BUSY_REPEAT_REQUEST: Final = 0x21
REQUEST_OUT_OF_RANGE: Final = 0x31
RESPONSE_PENDING: Final = 0x78
NEVER: Final = frozenset({SERVICE_NOT_SUPPORTED, SUBFUNCTION_NOT_SUPPORTED, REQUEST_OUT_OF_RANGE})
"""Asking again would not help."""
NOT_IN_THIS_SESSION: Final = frozenset({0x7E, 0x7F})


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What one ECU answers in the end: the id of its frames, when it began, all its bytes."""

    ecu: int
    time: BootNs
    payload: bytes

    @property
    def source(self) -> int:
        return self.ecu & 0xFF

    @property
    def refusal(self) -> int | None:
        """The code of a negative response; None for a positive one."""
        return self.payload[2] if self.payload[0] == NEGATIVE else None


def read_did(did: int) -> bytes:
    return _bytes(ReadDataByIdentifier.make_request(did, None))


def read_dtcs(mask: int) -> bytes:
    return _bytes(ReadDTCInformation.make_request(subfunction=2, status_mask=mask))


def open_session(session: int) -> bytes:
    return _bytes(DiagnosticSessionControl.make_request(session))


def tester_present() -> bytes:
    """With the bit that asks for no answer."""
    return bytes(TesterPresent.make_request().get_payload(suppress_positive_response=True))


def _bytes(request: Request) -> bytes:
    return bytes(request.get_payload())


def did_data(payload: bytes) -> bytes:
    """The data of a positive answer to `read_did`."""
    return bytes(Response.from_payload(payload).data or b"")[2:]


def uds_dtcs(payload: bytes) -> tuple[int, list[tuple[str, int]]] | None:
    """The states that an ECU knows, and its trouble codes with theirs; None for a broken list."""
    try:
        answer = ReadDTCInformation.interpret_response(
            Response.from_payload(payload), subfunction=2
        )
    except InvalidResponseException:
        return None
    data = answer.service_data
    available = data.status_availability.get_byte_as_int() if data.status_availability else 0
    return available, [
        (dtc_text(dtc.id.to_bytes(3, "big")), dtc.status.get_byte_as_int()) for dtc in data.dtcs
    ]


def obd_dtcs(payload: bytes) -> list[tuple[str, int]] | None:
    """Trouble codes of service 03, 07 or 0A: a count, and two bytes each (ISO 15765-4).

    None for a list that is shorter than its count. Pairs of zero bytes are no codes.
    """
    if len(payload) < 2 or len(payload) < 2 + 2 * payload[1]:
        return None
    pairs = (payload[2 + 2 * n : 4 + 2 * n] for n in range(payload[1]))
    return [(dtc_text(pair), 0) for pair in pairs if pair != b"\0\0"]
