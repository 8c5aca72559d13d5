"""Answers as tables.

| message | signals | a row for |
|---|---|---|
| `Obd` | those of one parameter | each answer; branch `PID=0x0C` |
| `Uds`, or as asked | those of one identifier | each answer; branch `DID=0xF190` |
| `Dtc`, `PendingDtc`, `PermanentDtc` | Code | each trouble code of a list |
| `Dtc`, or as asked, by UDS | Code, Status | each trouble code of a list |
| `DtcCount`, ... | Count (by UDS also AvailableStatus) | each list, also an empty one |

The source of a table is the low byte of the id with which the ECU answers: 0xE8 for 0x7E8, and the
ECU's address where ids have 29 bits. A row's time is that of the first frame of the answer. Rows of
one list have one time, and are kept or thinned together.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.blocks import Kind, SignalSchema, SignalTable, TableSchema
from agent.bus.diagnostics.fields import Field
from agent.bus.diagnostics.pids import PIDS
from agent.bus.diagnostics.requests import ObdDtcRequest, ObdRequest, Request, UdsRequest
from agent.clock import BootNs

OBD: Final = "Obd"
DTC_OF_SERVICE: Final[Mapping[int, str]] = {0x03: "Dtc", 0x07: "PendingDtc", 0x0A: "PermanentDtc"}
_DTYPES: Final[Mapping[Kind, type[np.generic]]] = {
    "int64": np.int64,
    "uint64": np.uint64,
    "float32": np.float32,
    "float64": np.float64,
}


def pid_branch(number: int) -> str:
    return f"PID=0x{number:02X}"


def did_branch(number: int) -> str:
    return f"DID=0x{number:04X}"


def service_branch(number: int) -> str:
    return f"Service=0x{number:02X}"


def _values_schema(bus: str, message: str, branch: str, fields: Sequence[Field]) -> TableSchema:
    return TableSchema(bus, message, tuple(field.schema for field in fields), branch=branch)


def _dtc_schemas(bus: str, message: str, service: int) -> tuple[TableSchema, TableSchema]:
    """Of the list and of its count."""
    branch = service_branch(service)
    uds = service == 0x19
    code = SignalSchema("Code", "bytes", 64 if uds else 40)
    status = (SignalSchema("Status", "uint64", 8),) if uds else ()
    available = (SignalSchema("AvailableStatus", "uint64", 8),) if uds else ()
    count = SignalSchema("Count", "uint64", 16)
    return (
        TableSchema(bus, message, (code, *status), branch=branch, entries=True),
        TableSchema(bus, f"{message}Count", (count, *available), branch=branch),
    )


def schemas(bus: str, requests: Sequence[Request]) -> tuple[TableSchema, ...]:
    """Every table that requests can give, each once, without a source."""
    found: list[TableSchema] = []
    for request in requests:
        if isinstance(request, ObdRequest):
            found += (
                _values_schema(bus, OBD, pid_branch(number), PIDS[number].fields)
                for number in request.numbers
            )
        elif isinstance(request, ObdDtcRequest):
            for service in request.services:
                found += _dtc_schemas(bus, DTC_OF_SERVICE[service], service)
        elif isinstance(request, UdsRequest):
            found += (
                _values_schema(bus, request.message, did_branch(did.did), did.fields)
                for did in request.dids
            )
        else:
            found += _dtc_schemas(bus, request.message, 0x19)
    return tuple(dict.fromkeys(found))


class Tables:
    """Makes tables of answers; tables of the same signals share a schema."""

    def __init__(self, bus: str) -> None:
        self._bus = bus
        self._known: dict[TableSchema, TableSchema] = {}

    def _schema(self, schema: TableSchema, source: int) -> TableSchema:
        schema = dataclasses.replace(schema, source=source)
        return self._known.setdefault(schema, schema)

    def values(
        self,
        message: str,
        branch: str,
        fields: Sequence[Field],
        *,
        source: int,
        time: BootNs,
        data: bytes,
    ) -> SignalTable | None:
        """One row of the fields that the data cover; None where they cover none."""
        covered = [field for field in fields if field.covered(len(data))]
        if not covered:
            return None
        schema = self._schema(_values_schema(self._bus, message, branch, covered), source)
        numbers: dict[Kind, list[float]] = {}
        payloads = []
        for field, signal in zip(covered, schema.signals, strict=True):
            value = field.read(data)
            if isinstance(value, bytes):
                payloads.append(np.frombuffer(value, np.uint8)[None, :].copy())
            else:
                numbers.setdefault(signal.kind, []).append(value)
        columns = {
            kind: np.array(column, _DTYPES[kind])[:, None] for kind, column in numbers.items()
        }
        return SignalTable(schema, np.array([time], np.int64), columns, tuple(payloads))

    def dtcs(
        self,
        message: str,
        service: int,
        codes: Sequence[tuple[str, int]],
        *,
        available: int,
        source: int,
        time: BootNs,
    ) -> list[SignalTable]:
        """A list of trouble codes with their states, and its count; of an empty one only that."""
        listed, counted = (
            self._schema(schema, source) for schema in _dtc_schemas(self._bus, message, service)
        )
        uds = service == 0x19
        count = [[len(codes)], [available]] if uds else [[len(codes)]]
        tables = [
            SignalTable(counted, np.array([time], np.int64), {"uint64": np.array(count, np.uint64)})
        ]
        if codes:
            text = b"".join(code.encode("ascii") for code, _ in codes)
            columns: dict[Kind, NDArray[np.generic]] = {}
            if uds:
                columns["uint64"] = np.array([[status for _, status in codes]], np.uint64)
            tables.append(
                SignalTable(
                    listed,
                    np.full(len(codes), time, np.int64),
                    columns,
                    (np.frombuffer(text, np.uint8).reshape(len(codes), -1).copy(),),
                )
            )
        return tables


def dtc_text(code: bytes) -> str:
    """A trouble code of 2 bytes as `P0301`, one of 3 as `P0301-1A` (SAE J2012, ISO 15031-6)."""
    first = code[0]
    text = f"{'PCBU'[first >> 6]}{first >> 4 & 3}{first & 15:X}{code[1]:02X}"
    return f"{text}-{code[2]:02X}" if len(code) > 2 else text
