"""What error frames tell of a controller: its state, its error counters, and each error. Pure.

A driver reports by frames with the error bit (linux/can/error.h): the class of the error stands in
the identifier, and the eight bytes are

    0  bit of the identifier at which arbitration was lost (0: not told)
    1  controller: queue overflows, warning, passive, active again
    2  protocol: bit, form, stuffing, ...    3  where in the frame
    4  transceiver: wires                    6, 7  transmit and receive error counter

Two tables come of them. `BusState` has a row at each change of state and one each second, also from
a bus without any errors; `BusError` has a row for each error frame. `schemas` names them, for the
catalogue of what a plan may ask for.
"""

import dataclasses
import enum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agent.blocks import (
    ERROR,
    ID_BITS,
    FrameBlock,
    Int64,
    SignalSchema,
    SignalTable,
    TableSchema,
    UInt8,
    UInt32,
    UInt64,
)

TX_TIMEOUT: Final = 0x001
LOST_ARBITRATION: Final = 0x002
CONTROLLER: Final = 0x004
PROTOCOL: Final = 0x008
TRANSCEIVER: Final = 0x010
NO_ACKNOWLEDGEMENT: Final = 0x020
BUS_OFF: Final = 0x040
BUS_ERROR: Final = 0x080
RESTARTED: Final = 0x100
COUNTERS: Final = 0x200

_OVERFLOWS: Final = 0x03
_WARNING: Final = 0x0C
_PASSIVE: Final = 0x30
_ACTIVE: Final = 0x40

NOT_TOLD: Final = 0xFFFF
_NOT_TOLD: Final = ((NOT_TOLD, NOT_TOLD, "not available"),)


class State(enum.IntEnum):
    """Of a controller, as in ISO 11898-1; UNKNOWN also where the interface is down or gone."""

    ACTIVE = 0
    WARNING = 1
    PASSIVE = 2
    OFF = 3
    UNKNOWN = 4

    @property
    def words(self) -> str:
        return _STATE_WORDS[self]


_STATE_WORDS: Final = {
    State.ACTIVE: "active",
    State.WARNING: "warning",
    State.PASSIVE: "passive",
    State.OFF: "off",
    State.UNKNOWN: "unknown",
}

_CLASSES: Final = (
    (TX_TIMEOUT, "transmit time-out"),
    (LOST_ARBITRATION, "arbitration lost"),
    (CONTROLLER, "controller"),
    (PROTOCOL, "protocol"),
    (TRANSCEIVER, "transceiver"),
    (NO_ACKNOWLEDGEMENT, "no acknowledgement"),
    (BUS_OFF, "bus off"),
    (BUS_ERROR, "bus error"),
    (RESTARTED, "restarted"),
    (COUNTERS, "counters"),
)
_CONTROLLER: Final = (
    (0x01, "receive overflow"),
    (0x02, "transmit overflow"),
    (0x04, "receive warning"),
    (0x08, "transmit warning"),
    (0x10, "receive passive"),
    (0x20, "transmit passive"),
    (0x40, "active"),
)
_PROTOCOL: Final = (
    (0x01, "bit"),
    (0x02, "form"),
    (0x04, "stuffing"),
    (0x08, "dominant bit"),
    (0x10, "recessive bit"),
    (0x20, "overload"),
    (0x40, "active error announcement"),
    (0x80, "while sending"),
)
_LOCATION: Final = (
    (0x00, "not told"),
    (0x02, "identifier bits 28 to 21"),
    (0x03, "start of frame"),
    (0x04, "substitute remote request"),
    (0x05, "identifier extension"),
    (0x06, "identifier bits 20 to 18"),
    (0x07, "identifier bits 17 to 13"),
    (0x08, "checksum"),
    (0x09, "reserved bit 0"),
    (0x0A, "data"),
    (0x0B, "data length"),
    (0x0C, "remote request"),
    (0x0D, "reserved bit 1"),
    (0x0E, "identifier bits 4 to 0"),
    (0x0F, "identifier bits 12 to 5"),
    (0x12, "intermission"),
    (0x18, "checksum delimiter"),
    (0x19, "acknowledgement"),
    (0x1A, "end of frame"),
    (0x1B, "acknowledgement delimiter"),
)
_TRANSCEIVER: Final = (
    (0x00, "not told"),
    (0x04, "CAN high: no wire"),
    (0x05, "CAN high: short to battery"),
    (0x06, "CAN high: short to supply"),
    (0x07, "CAN high: short to ground"),
    (0x40, "CAN low: no wire"),
    (0x50, "CAN low: short to battery"),
    (0x60, "CAN low: short to supply"),
    (0x70, "CAN low: short to ground"),
    (0x80, "CAN low: short to CAN high"),
)


def _signal(name: str, bits: int, choices: tuple[tuple[int, str], ...] = ()) -> SignalSchema:
    return SignalSchema(name, "uint64", bits, choices=choices)


def _counter(name: str) -> SignalSchema:
    return SignalSchema(name, "uint64", 16, codes=_NOT_TOLD)


_STATE_SIGNALS: Final = (
    _signal("State", 8, tuple((int(state), words) for state, words in _STATE_WORDS.items())),
    _counter("TransmitErrors"),
    _counter("ReceiveErrors"),
    _signal("ErrorFrames", 64),
    _signal("Dropped", 64),
    SignalSchema("Load", "uint64", 16, scale=0.1, unit="%", codes=_NOT_TOLD),
)
_ERROR_SIGNALS: Final = (
    _signal("Class", 29, _CLASSES),
    _signal("ArbitrationBit", 8),
    _signal("Controller", 8, _CONTROLLER),
    _signal("Protocol", 8, _PROTOCOL),
    _signal("Location", 8, _LOCATION),
    _signal("Transceiver", 8, _TRANSCEIVER),
    _counter("TransmitErrors"),
    _counter("ReceiveErrors"),
)


def schemas(bus: str) -> tuple[TableSchema, TableSchema]:
    """The tables `BusState` and `BusError` of a bus."""
    return (
        TableSchema(bus, "BusState", _STATE_SIGNALS),
        TableSchema(bus, "BusError", _ERROR_SIGNALS),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Controller:
    """What is known of a controller. Counters are `NOT_TOLD` until something has told them."""

    state: State = State.UNKNOWN
    transmit_errors: int = NOT_TOLD
    receive_errors: int = NOT_TOLD
    error_frames: int = 0
    last_error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Changes:
    """k changes of state: time int64[k]; the other arrays uint64[k], as in `BusState`."""

    time: Int64
    state: UInt64
    transmit_errors: UInt64
    receive_errors: UInt64
    error_frames: UInt64


def advance(known: Controller, errors: FrameBlock) -> tuple[Controller, Changes]:
    """What is known after n error frames, n > 0, and when the state has changed.

    `errors` holds error frames only; see `error_frames`.
    """
    classes, data = errors.id & np.uint32(ID_BITS), errors.data
    states = _filled(_states_told(classes, data), int(known.state))
    transmit, receive = _counters(classes, data)
    transmit = _filled(transmit, known.transmit_errors)
    receive = _filled(receive, known.receive_errors)
    changed = np.flatnonzero(np.diff(states, prepend=int(known.state)))
    after = Controller(
        State(int(states[-1])),
        int(transmit[-1]),
        int(receive[-1]),
        known.error_frames + len(errors),
        describe(int(classes[-1]), data[-1].tobytes()),
    )
    return after, Changes(
        errors.time[changed],
        states[changed].astype(np.uint64),
        transmit[changed].astype(np.uint64),
        receive[changed].astype(np.uint64),
        (changed + 1 + known.error_frames).astype(np.uint64),
    )


def error_frames(block: FrameBlock) -> FrameBlock | None:
    """The error frames of a block; None where it has none."""
    error = block.id & np.uint32(ERROR) != 0
    return block[np.flatnonzero(error)] if error.any() else None


def _states_told(classes: UInt32, data: UInt8) -> Int64:
    """The state that each frame tells, int64[n]; -1 where it tells none."""
    told = np.full(len(classes), -1, np.int64)
    controller = np.where(classes & np.uint32(CONTROLLER), data[:, 1], 0)
    # The worse one wins where a frame says several things.
    told[classes & np.uint32(RESTARTED) != 0] = State.ACTIVE
    told[controller & _ACTIVE != 0] = State.ACTIVE
    told[controller & _WARNING != 0] = State.WARNING
    told[controller & _PASSIVE != 0] = State.PASSIVE
    told[classes & np.uint32(BUS_OFF) != 0] = State.OFF
    return told


def _counters(classes: UInt32, data: UInt8) -> tuple[Int64, Int64]:
    """Transmit and receive error counter of each frame, int64[n]; -1 where it tells none."""
    # Drivers older than Linux 6.0 fill the bytes without saying so.
    told = (classes & np.uint32(COUNTERS) != 0) | (data[:, 6:8] != 0).any(axis=1)
    counters = np.where(told, data[:, 6:8].T.astype(np.int64), -1)
    return counters[0], counters[1]


def _filled(told: NDArray[np.int64], known: int) -> Int64:
    """Each -1 becomes the value before it."""
    place = np.maximum.accumulate(np.where(told >= 0, np.arange(1, len(told) + 1), 0))
    filled: Int64 = np.concatenate([[known], told])[place]
    return filled


def describe(classes: int, data: bytes) -> str:
    """One error frame in words."""
    words = [name for bit, name in _CLASSES if classes & bit and bit != COUNTERS]
    if classes & CONTROLLER:
        words += [name for bit, name in _CONTROLLER if data[1] & bit]
    if classes & PROTOCOL:
        words += [name for bit, name in _PROTOCOL if data[2] & bit]
        words += [name for number, name in _LOCATION if number and data[3] == number]
    if classes & TRANSCEIVER:
        words += [name for number, name in _TRANSCEIVER if number and data[4] == number]
    return ", ".join(words) or "not told"


def error_table(schema: TableSchema, errors: FrameBlock) -> SignalTable:
    """A row of `BusError` for each of n error frames."""
    classes, data = errors.id & np.uint32(ID_BITS), errors.data
    columns = np.empty((len(_ERROR_SIGNALS), len(errors)), np.uint64)
    columns[0] = classes
    columns[1:6] = data[:, 0:5].T
    for row, counter in zip((6, 7), _counters(classes, data), strict=True):
        columns[row] = np.where(counter < 0, NOT_TOLD, counter)
    return SignalTable(schema, errors.time, {"uint64": columns})


def change_table(schema: TableSchema, changes: Changes, *, dropped: int, load: int) -> SignalTable:
    """A row of `BusState` for each of k changes; `load` in 0.1 %, or `NOT_TOLD`."""
    columns = np.empty((len(_STATE_SIGNALS), len(changes.time)), np.uint64)
    columns[0] = changes.state
    columns[1] = changes.transmit_errors
    columns[2] = changes.receive_errors
    columns[3] = changes.error_frames
    columns[4] = dropped
    columns[5] = load
    return SignalTable(schema, changes.time, {"uint64": columns})


def state_table(
    schema: TableSchema, time: int, known: Controller, *, dropped: int, load: int
) -> SignalTable:
    """One row of `BusState`; `load` in 0.1 %, or `NOT_TOLD`."""
    row = (
        int(known.state),
        known.transmit_errors,
        known.receive_errors,
        known.error_frames,
        dropped,
        load,
    )
    columns = np.array(row, np.uint64)[:, np.newaxis]
    return SignalTable(schema, np.array([time], np.int64), {"uint64": columns})
