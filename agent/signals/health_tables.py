"""The tables `BusHealth` and `MessageHealth`; what their signals mean stands in `health`."""

import dataclasses
from typing import Final

import numpy as np

from agent.blocks import Float64, SignalSchema, SignalTable, TableSchema, TimeBase, UInt8, UInt64
from agent.clock import MILLISECOND
from agent.signals.health_messages import WORST, State

_BUS_SIGNALS: Final = tuple(
    SignalSchema(name, "uint64", 64)
    for name in (
        "UnknownFrames",
        "UnknownIds",
        "WrongLength",
        "Drifting",
        "Silent",
        "OutOfRange",
        "StuckCounters",
        "DriftingNow",
        "SilentNow",
        "StuckCountersNow",
    )
)
_MESSAGE_SIGNALS: Final = (
    SignalSchema("Id", "uint64", 32),
    SignalSchema("State", "uint64", 8, choices=tuple((int(s), s.words) for s in State)),
    SignalSchema("Findings", "uint64", 8, choices=tuple((s.bit, s.words) for s in State if s.bit)),
    SignalSchema("MeasuredCycle", "float64", 64, unit="ms"),
)


def schemas(bus: str) -> tuple[TableSchema, TableSchema]:
    """The tables `BusHealth` and `MessageHealth` of a bus."""
    return (
        TableSchema(bus, "BusHealth", _BUS_SIGNALS),
        TableSchema(bus, "MessageHealth", _MESSAGE_SIGNALS),
    )


@dataclasses.dataclass(slots=True)
class Rows:
    """The rows that come of one block."""

    bus: list[tuple[int, list[int]]] = dataclasses.field(default_factory=list)
    messages: list[tuple[int, UInt64, UInt8, Float64]] = dataclasses.field(default_factory=list)

    def add_bus(self, date: int, totals: list[int]) -> None:
        self.bus.append((date, totals))

    def add_messages(
        self,
        date: int,
        ids: UInt64,
        found: UInt8,
        measured_ns: Float64,
    ) -> None:
        self.messages.append((date, ids, found, measured_ns))

    def tables(self, of_bus: tuple[TableSchema, TableSchema], clock: TimeBase) -> list[SignalTable]:
        made = []
        if self.bus:
            dates = np.array([date for date, _ in self.bus], np.int64)
            totals = np.array([row for _, row in self.bus], np.uint64).T
            schema = dataclasses.replace(of_bus[0], clock=clock)
            made.append(SignalTable(schema, dates, {"uint64": np.ascontiguousarray(totals)}))
        if self.messages:
            sizes = [len(ids) for _, ids, _, _ in self.messages]
            dates = np.repeat(np.array([date for date, *_ in self.messages], np.int64), sizes)
            found = np.concatenate([f for _, _, f, _ in self.messages])
            whole = np.stack(
                [
                    np.concatenate([ids for _, ids, _, _ in self.messages]),
                    WORST[found],
                    found.astype(np.uint64),
                ]
            )
            cycles = np.concatenate([c for *_, c in self.messages]) / MILLISECOND
            schema = dataclasses.replace(of_bus[1], clock=clock)
            made.append(SignalTable(schema, dates, {"uint64": whole, "float64": cycles[None]}))
        return made
