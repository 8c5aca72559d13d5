"""Diagnostic requests of a bus: what is asked, and how answers are read."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from agent.settings.types import Name, described

_Id = Annotated[
    int, Meta(ge=0, le=0x1FFF_FFFF, description="A CAN id; one above 0x7FF has 29 bits.")
]
_Interval = Annotated[
    float, Meta(ge=0.05, le=86_400, description="How often it is asked, seconds.")
]


class _Request(Struct, kw_only=True, forbid_unknown_fields=True):
    pass


class Obd(_Request, kw_only=True):
    """Parameters of OBD-II (service 01)."""

    pids: Annotated[
        list[int | str],
        Meta(min_length=1, description='Numbers or names, such as 0x0C or "EngineSpeed".'),
    ]
    interval_s: _Interval = 1.0
    address: Annotated[_Id, described("0x7DF asks all ECUs, 0x7E0 to 0x7E7 one.")] = 0x7DF


class ObdDtc(_Request, kw_only=True):
    """Trouble codes of OBD-II (services 03, 07, 0A)."""

    services: Annotated[
        list[Literal[3, 7, 10]],
        Meta(min_length=1, description="3 stored, 7 pending, 10 permanent."),
    ] = msgspec.field(default_factory=lambda: [3])
    interval_s: _Interval = 60.0
    address: _Id = 0x7DF


class UdsField(Struct, kw_only=True, forbid_unknown_fields=True):
    """A value in the answer to a data identifier."""

    name: Annotated[Name, described("The signal.")]
    byte: Annotated[int, Meta(ge=0, le=4095, description="Its first byte, from 0.")] = 0
    bit: Annotated[
        int, Meta(ge=0, le=7, description="Its first bit in that byte, 0 the most significant.")
    ] = 0
    bits: Annotated[int, Meta(ge=1, le=32_760, description="How many bits it has.")] = 8
    kind: Annotated[
        Literal["unsigned", "signed", "float", "bytes", "ascii"], described("How to read them.")
    ] = "unsigned"
    little_endian: Annotated[bool, described("The least significant byte comes first.")] = False
    scale: Annotated[float, described("value = raw * scale + offset")] = 1
    offset: Annotated[float, described("value = raw * scale + offset")] = 0
    unit: Annotated[str, described("The unit of the value.")] = ""


class UdsDid(Struct, kw_only=True, forbid_unknown_fields=True):
    """A data identifier and what is in its answer."""

    did: Annotated[int, Meta(ge=0, le=0xFFFF, description="The identifier.")]
    field: Annotated[list[UdsField], Meta(min_length=1, description="Its values.")]


class Uds(_Request, kw_only=True):
    """Data identifiers of one ECU (UDS 0x22)."""

    request_id: Annotated[_Id, described("The id on which the ECU is asked.")]
    response_id: Annotated[_Id, described("The id on which it answers.")]
    did: Annotated[list[UdsDid], Meta(min_length=1, description="What is asked for.")]
    interval_s: _Interval = 10.0
    session: Annotated[
        int, Meta(ge=0, le=0x7F, description="A session to ask for first; 0: none, 2 is refused.")
    ] = 0
    tester_present: Annotated[bool, described("Keep that session open.")] = False
    message: Annotated[Name, described("The message that its signals belong to.")] = "Uds"


class UdsDtc(_Request, kw_only=True):
    """Trouble codes of one ECU (UDS 0x19 02)."""

    request_id: _Id
    response_id: _Id
    status_mask: Annotated[int, Meta(ge=1, le=255, description="Which codes are asked for.")] = 0x09
    interval_s: _Interval = 60.0
    message: Annotated[Name, described("The message that its signals belong to.")] = "Dtc"
