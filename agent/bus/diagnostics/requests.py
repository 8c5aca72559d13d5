"""What is asked of which ECU, and how often. Plain descriptions: nothing here sends.

Ids are numbers as they are printed in tables: one above 0x7FF is a 29-bit id. Everything is checked
when it is made.
"""

import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from typing import Final

from agent.blocks import EXTENDED, ID_BITS
from agent.bus.diagnostics.fields import Field
from agent.bus.diagnostics.pids import BY_NAME, PIDS
from agent.errors import ConfigError

FUNCTIONAL: Final = 0x7DF
FUNCTIONAL_29: Final = 0x18DB33F1
_PHYSICAL: Final = range(0x7E0, 0x7E8)
_TESTER: Final = 0xF1

_LONGEST_S: Final = 86_400.0


def frame_id(number: int) -> int:
    """An id as it is on the bus, with the flag of 29-bit ids."""
    number &= ID_BITS
    return number | EXTENDED if number > 0x7FF else number


@dataclasses.dataclass(frozen=True, slots=True)
class Address:
    """Where a request goes and who may answer; `response` is None for the functional ids of OBD."""

    request: int
    response: int | None = None

    @property
    def send_id(self) -> int:
        return frame_id(self.request)

    @property
    def only(self) -> frozenset[int]:
        """The id with which the one ECU answers; empty for a functional address."""
        return frozenset() if self.response is None else frozenset({frame_id(self.response)})

    def flow_id(self, answer: int) -> int | None:
        """Where flow control for an answer goes; None where the answer is none of this address."""
        if self.response is not None:
            return self.send_id if answer in self.only else None
        if self.request == FUNCTIONAL:
            return answer - 8 if answer - 8 in _PHYSICAL else None
        if answer & ~0xFF == frame_id(0x18DAF100) and answer & 0xFF != _TESTER:
            return frame_id(0x18DA0000 | (answer & 0xFF) << 8 | _TESTER)
        return None

    @property
    def filters(self) -> tuple[tuple[int, int], ...]:
        """Id and mask (with the flag of 29-bit ids) of all answers, as a kernel filter has them."""
        if self.response is not None:
            return tuple((answer, EXTENDED | ID_BITS) for answer in self.only)
        if self.request == FUNCTIONAL:
            return ((0x7E8, EXTENDED | 0x1FFF_FFF8),)
        return ((frame_id(0x18DAF100), EXTENDED | 0x1FFF_FF00),)

    def __str__(self) -> str:
        return f"0x{self.request:X}"


def obd_address(number: int) -> Address:
    """An address of ISO 15765-4: 0x7DF and 0x18DB33F1 ask all ECUs, the others one.

    Raises:
        ConfigError: it is none.
    """
    if number in (FUNCTIONAL, FUNCTIONAL_29):
        return Address(number)
    if number in _PHYSICAL:
        return Address(number, number + 8)
    if number <= ID_BITS and number & 0x1FFF_00FF == 0x18DA00F1 and number != 0x18DAF1F1:
        return Address(number, 0x18DAF100 | number >> 8 & 0xFF)
    raise ConfigError(
        f"0x{number:X} is no address for OBD requests: 0x7DF or 0x18DB33F1 ask all ECUs, "
        "0x7E0 to 0x7E7 or 0x18DAxxF1 ask one"
    )


def _check_interval(interval_s: float, what: str) -> None:
    if not 0.05 <= interval_s <= _LONGEST_S:
        raise ConfigError(f"{what}: an interval of {interval_s} s is not within 0.05 s and a day")


@dataclasses.dataclass(frozen=True, slots=True)
class ObdRequest:
    """Parameters of service 01, by number or by the name of a signal (see the module `pids`).

    Only those are asked for that an ECU says it has. Up to `together` (1 to 6) go into one request,
    fewer where an ECU does not answer that.

    Raises:
        ConfigError: an unknown parameter, no address of OBD, a wrong interval.
    """

    pids: Sequence[int | str]
    interval_s: float = 1.0
    address: int = FUNCTIONAL
    together: int = 6

    def __post_init__(self) -> None:
        obd_address(self.address)
        _check_interval(self.interval_s, "OBD parameters")
        if not 1 <= self.together <= 6:
            raise ConfigError(f"one OBD request takes 1 to 6 parameters, not {self.together}")
        if not self.numbers:
            raise ConfigError("an OBD request names no parameters")

    @property
    def numbers(self) -> tuple[int, ...]:
        """The parameters, each once, in their order."""
        return tuple(dict.fromkeys(_pid(pid) for pid in self.pids))


def _pid(pid: int | str) -> int:
    number = pid if isinstance(pid, int) else BY_NAME.get(pid, -1)
    if number < 0 and isinstance(pid, str) and pid.lower().startswith("0x"):
        try:
            number = int(pid, 16)
        except ValueError:
            number = -1
    if number not in PIDS:
        shown = f"0x{pid:02X}" if isinstance(pid, int) else repr(pid)
        near = difflib.get_close_matches(str(pid), BY_NAME, 1)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        raise ConfigError(f"{shown} is no OBD parameter that this program knows{hint}")
    return number


_DTC_SERVICES: Final = (0x03, 0x07, 0x0A)


@dataclasses.dataclass(frozen=True, slots=True)
class ObdDtcRequest:
    """Trouble codes by OBD: services 03 (confirmed), 07 (pending) and 0A (permanent).

    Raises:
        ConfigError: another service, no address of OBD, a wrong interval.
    """

    services: Sequence[int] = (0x03,)
    interval_s: float = 60.0
    address: int = FUNCTIONAL

    def __post_init__(self) -> None:
        obd_address(self.address)
        _check_interval(self.interval_s, "OBD trouble codes")
        if not self.services or any(s not in _DTC_SERVICES for s in self.services):
            raise ConfigError(
                f"services for OBD trouble codes are 3, 7 and 10, not {list(self.services)}"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class Did:
    """A data identifier of an ECU, and how to read its data (the bytes after the identifier).

    Raises:
        ConfigError: no such identifier, no fields, or two of one name.
    """

    did: int
    fields: Sequence[Field]

    def __post_init__(self) -> None:
        if not 0 <= self.did <= 0xFFFF:
            raise ConfigError(f"0x{self.did:X} is no data identifier: they have 16 bits")
        names = [field.name for field in self.fields]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"identifier 0x{self.did:04X}: needs fields, each with its own name")


def _check_ids(request: int, response: int) -> None:
    for number in (request, response):
        if not 0 <= number <= ID_BITS:
            raise ConfigError(f"0x{number:X} is no CAN id")
    if (request > 0x7FF) != (response > 0x7FF):
        raise ConfigError(
            f"0x{request:X} and 0x{response:X}: request and response have ids of one length"
        )
    if request == response:
        raise ConfigError(f"request and response cannot both have the id 0x{request:X}")


@dataclasses.dataclass(frozen=True, slots=True)
class UdsRequest:
    """ReadDataByIdentifier (0x22) of one ECU, one identifier at a time.

    Attributes:
        session: a diagnostic session (3: extended) to open before identifiers are read; 0 for none.
            It is opened again for each round of reads: an ECU leaves it 5 s after the last request.
        tester_present: keep that session open between the rounds.
        message: of the tables.

    Raises:
        ConfigError: ids, identifiers or an interval that cannot be.
    """

    request_id: int
    response_id: int
    dids: Sequence[Did]
    interval_s: float = 10.0
    session: int = 0
    tester_present: bool = False
    message: str = "Uds"

    def __post_init__(self) -> None:
        _check_ids(self.request_id, self.response_id)
        _check_interval(self.interval_s, f"ECU 0x{self.request_id:X}")
        numbers = [did.did for did in self.dids]
        if not numbers or len(set(numbers)) != len(numbers):
            raise ConfigError(f"ECU 0x{self.request_id:X}: needs identifiers, each once")
        if not 0 <= self.session <= 0x7E or self.session == 2:
            # In the programming session an ECU stops its work.
            raise ConfigError(
                f"ECU 0x{self.request_id:X}: session {self.session} is not one to read data in"
            )
        if self.tester_present and not self.session:
            raise ConfigError(
                f"ECU 0x{self.request_id:X}: tester_present keeps a session open, and none is set"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class UdsDtcRequest:
    """ReadDTCInformation (0x19), by status mask (sub-function 02), of one ECU.

    Raises:
        ConfigError: ids, a mask or an interval that cannot be.
    """

    request_id: int
    response_id: int
    status_mask: int = 0x09
    interval_s: float = 60.0
    message: str = "Dtc"

    def __post_init__(self) -> None:
        _check_ids(self.request_id, self.response_id)
        _check_interval(self.interval_s, f"ECU 0x{self.request_id:X}")
        if not 1 <= self.status_mask <= 0xFF:
            raise ConfigError(f"0x{self.status_mask:X} is no mask of trouble code states")


Request = ObdRequest | ObdDtcRequest | UdsRequest | UdsDtcRequest


def address_of(request: Request) -> Address:
    """Where a request goes."""
    if isinstance(request, ObdRequest | ObdDtcRequest):
        return obd_address(request.address)
    return Address(request.request_id, request.response_id)


def check(requests: Iterable[Request]) -> None:
    """Whether requests can stand beside each other on one bus.

    Raises:
        ConfigError: nothing is asked, or two ECUs could not be told apart in the tables.
    """
    requests = list(requests)
    if not requests:
        raise ConfigError("there are no diagnostic requests")
    ecus: dict[tuple[str, int], int] = {}
    for request in requests:
        if not isinstance(request, UdsRequest | UdsDtcRequest):
            continue
        kind = request.message
        other = ecus.setdefault((kind, request.response_id & 0xFF), request.response_id)
        if other != request.response_id:
            raise ConfigError(
                f"the answers of ECUs 0x{other:X} and 0x{request.response_id:X} would both be "
                f'"{kind}" of source 0x{other & 0xFF:02X}: give one of them another message name'
            )
