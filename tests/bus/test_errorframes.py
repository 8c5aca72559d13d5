"""Error frames: the state of a controller, its tables, and how busy the bus was."""

import logging
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.blocks import (
    ERROR,
    EXTENDED,
    FD_BIT_RATE_SWITCH,
    FD_FRAME,
    REMOTE,
    FrameBlock,
    SignalTable,
)
from agent.bus.errorframes import (
    BUS_ERROR,
    BUS_OFF,
    CONTROLLER,
    COUNTERS,
    LOST_ARBITRATION,
    NOT_TOLD,
    PROTOCOL,
    RESTARTED,
    TRANSCEIVER,
    Controller,
    State,
    advance,
    describe,
    error_frames,
    error_table,
    schemas,
)
from agent.bus.health import BusHealth
from agent.bus.linkmessage import LinkInfo
from agent.bus.load import LoadMeter, busy_bits

SECOND: Final = 1_000_000_000


def errors(*rows: tuple[int, dict[int, int]], begin: int = 0) -> FrameBlock:
    """Error frames a millisecond apart: class bits, and the bytes that are not zero."""
    data = np.zeros((len(rows), 8), np.uint8)
    for row, (_, told) in enumerate(rows):
        for place, value in told.items():
            data[row, place] = value
    return FrameBlock.from_arrays(
        bus="powertrain",
        time=begin + np.arange(len(rows)) * 1_000_000,
        id=[classes | ERROR for classes, _ in rows],
        length=np.full(len(rows), 8),
        data=data,
    )


ErrorFrame = tuple[int, dict[int, int]]

WARNING: Final[ErrorFrame] = (CONTROLLER | COUNTERS, {1: 0x04, 6: 12, 7: 97})
PASSIVE: Final[ErrorFrame] = (CONTROLLER | COUNTERS, {1: 0x20, 6: 130, 7: 10})
ACTIVE: Final[ErrorFrame] = (CONTROLLER, {1: 0x40})
OFF: Final[ErrorFrame] = (BUS_OFF, {})
BACK: Final[ErrorFrame] = (RESTARTED, {})
BIT_ERROR: Final[ErrorFrame] = (PROTOCOL | BUS_ERROR, {2: 0x01, 3: 0x0A})


def test_the_state_follows_the_error_frames() -> None:
    block = errors(WARNING, BIT_ERROR, WARNING, PASSIVE, OFF, BACK, ACTIVE)

    after, changes = advance(Controller(State.ACTIVE), block)

    assert changes.state.tolist() == [State.WARNING, State.PASSIVE, State.OFF, State.ACTIVE]
    assert changes.time.tolist() == [0, 3_000_000, 4_000_000, 5_000_000]
    assert changes.error_frames.tolist() == [1, 4, 5, 6]
    assert changes.transmit_errors.tolist() == [12, 130, 130, 130]
    assert changes.receive_errors.tolist() == [97, 10, 10, 10]
    assert after == Controller(State.ACTIVE, 130, 10, 7, "controller, active")


def test_frames_that_tell_no_state_change_none() -> None:
    known = Controller(State.PASSIVE, 140, 3, 10)

    after, changes = advance(known, errors(BIT_ERROR, (LOST_ARBITRATION, {0: 5})))

    assert len(changes.time) == 0
    assert after == Controller(State.PASSIVE, 140, 3, 12, "arbitration lost")


def test_the_worse_state_wins_where_a_frame_tells_two() -> None:
    after, _ = advance(Controller(), errors((CONTROLLER | BUS_OFF | RESTARTED, {1: 0x7C})))

    assert after.state is State.OFF


def test_counters_of_drivers_that_do_not_announce_them_are_read_too() -> None:
    after, _ = advance(Controller(), errors((CONTROLLER, {1: 0x10, 6: 1, 7: 128})))

    assert (after.transmit_errors, after.receive_errors) == (1, 128)


def test_counters_stay_unknown_until_they_are_told() -> None:
    after, changes = advance(Controller(), errors(OFF))

    assert (after.transmit_errors, after.receive_errors) == (NOT_TOLD, NOT_TOLD)
    assert changes.transmit_errors.tolist() == [NOT_TOLD]


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (WARNING, "controller, receive warning"),
        (BIT_ERROR, "protocol, bus error, bit, data"),
        ((TRANSCEIVER, {4: 0x05}), "transceiver, CAN high: short to battery"),
        ((CONTROLLER, {1: 0x03}), "controller, receive overflow, transmit overflow"),
        ((0, {}), "not told"),
    ],
)
def test_the_last_error_is_told_in_words(frame: ErrorFrame, words: str) -> None:
    after, _ = advance(Controller(), errors(frame))

    assert after.last_error == words


any_error = st.tuples(
    st.integers(0, 0x1FFF_FFFF), st.dictionaries(st.integers(0, 7), st.integers(0, 255))
)


@given(st.lists(any_error, min_size=1, max_size=20), st.sampled_from(State), st.data())
def test_any_frames_at_once_are_the_same_as_one_by_one(
    rows: list[ErrorFrame], begin: State, data: st.DataObject
) -> None:
    block = errors(*rows)
    cut = data.draw(st.integers(0, len(rows)))
    at_once, changes = advance(Controller(begin), block)

    step, seen = Controller(begin), []
    for row in range(len(rows)):
        before = step.state
        step, _ = advance(step, block[row : row + 1])
        if step.state is not before:
            seen.append(int(step.state))
    halves, halved = Controller(begin), 0
    for part in (block[:cut], block[cut:]):
        if len(part):
            halves, some = advance(halves, part)
            halved += len(some.time)

    assert at_once == step == halves
    assert changes.state.tolist() == seen
    assert halved == len(seen)


def test_errors_are_picked_out_of_a_block() -> None:
    block = errors(WARNING, OFF)
    mixed = FrameBlock.from_arrays(
        bus="powertrain",
        time=[0, 1, 2],
        id=[0x123, int(block.id[0]), 0x20 | EXTENDED],
        length=[8, 8, 8],
        data=np.zeros((3, 8)),
    )

    found = error_frames(mixed)

    assert found is not None
    assert found.time.tolist() == [1]
    assert error_frames(mixed[:1]) is None


def test_each_error_frame_is_a_row_with_its_parts() -> None:
    _, schema = schemas("powertrain")

    table = error_table(
        schema, errors(WARNING, BIT_ERROR, (LOST_ARBITRATION | TRANSCEIVER, {0: 11, 4: 0x70}))
    )

    rows = {name: table.raw[name].tolist() for name in table.names}
    assert rows == {
        "Class": [CONTROLLER | COUNTERS, PROTOCOL | BUS_ERROR, LOST_ARBITRATION | TRANSCEIVER],
        "ArbitrationBit": [0, 0, 11],
        "Controller": [4, 0, 0],
        "Protocol": [0, 1, 0],
        "Location": [0, 10, 0],
        "Transceiver": [0, 0, 0x70],
        "TransmitErrors": [12, NOT_TOLD, NOT_TOLD],
        "ReceiveErrors": [97, NOT_TOLD, NOT_TOLD],
    }
    assert table.validity("TransmitErrors").tolist() == [0, 1, 1]


def test_the_catalogue_names_both_tables_and_what_states_mean() -> None:
    state, error = schemas("powertrain")

    assert (state.bus, state.message, error.message) == ("powertrain", "BusState", "BusError")
    assert state.names == (
        "State",
        "TransmitErrors",
        "ReceiveErrors",
        "ErrorFrames",
        "Dropped",
        "Load",
    )
    assert state.by_name["State"].choices == (
        (0, "active"),
        (1, "warning"),
        (2, "passive"),
        (3, "off"),
        (4, "unknown"),
    )
    load = state.by_name["Load"]
    assert (load.scale, load.unit) == (0.1, "%")
    assert load.physical(np.array([405], np.uint64)).tolist() == [40.5]


def test_words_for_what_no_header_names() -> None:
    assert describe(PROTOCOL, bytes([0, 0, 0, 0xEE, 0, 0, 0, 0])) == "protocol"


# -- load ------------------------------------------------------------------------------------


def frames(
    n: int, length: int, identifier: int = 0x100, flags: int = 0, *, width: int = 8
) -> FrameBlock:
    return FrameBlock.from_arrays(
        bus="powertrain",
        time=np.arange(n),
        id=np.full(n, identifier, np.uint32),
        length=np.full(n, length),
        flags=np.full(n, flags),
        data=np.zeros((n, width), np.uint8),
    )


@pytest.mark.parametrize(
    ("block", "least", "most"),
    [
        # Without stuffing, and with the most that there can be: a bit after each four.
        (frames(1, 8), 47 + 64, 47 + 64 + 24),
        (frames(1, 0), 47, 47 + 8),
        (frames(1, 8, 0x100 | EXTENDED), 67 + 64, 67 + 64 + 29),
        (frames(1, 8, 0x100 | REMOTE), 47, 47 + 8),
        (frames(3, 8), 3 * 111, 3 * 135),
    ],
)
def test_bits_of_classic_frames_lie_between_none_and_all_stuffed(
    block: FrameBlock, least: int, most: int
) -> None:
    nominal, switched = busy_bits(block)

    assert least < nominal < most
    assert switched == 0


def test_bits_of_fd_frames_are_told_apart_by_rate() -> None:
    slow = busy_bits(frames(1, 64, flags=FD_FRAME, width=64))
    fast = busy_bits(frames(1, 64, flags=FD_FRAME | FD_BIT_RATE_SWITCH, width=64))

    assert slow[1] == 0
    assert sum(fast) == pytest.approx(slow[0])
    assert 30 < fast[0] < 35
    assert 512 + 37 < fast[1] < (512 + 5) * 1.25 + 32


def test_error_frames_are_no_load() -> None:
    assert busy_bits(errors(WARNING)) == (0.0, 0.0)


def test_a_full_bus_is_at_one() -> None:
    meter = LoadMeter(500_000)
    meter.add(frames(2000, 8))
    meter.add(frames(2000, 8))
    assert meter.read(1.0) == pytest.approx(0.96, abs=0.01)
    assert meter.read(1.0) == 0.0
    meter.add(frames(9000, 8))
    assert meter.read(1.0) == 1.0


def test_the_load_is_unknown_without_the_rates_that_it_needs() -> None:
    unknown, half_known = LoadMeter(None), LoadMeter(500_000)
    for meter in (unknown, half_known):
        meter.add(frames(10, 64, flags=FD_FRAME | FD_BIT_RATE_SWITCH, width=64))

    assert unknown.read(1.0) is None
    assert half_known.read(1.0) is None
    assert half_known.read(1.0) == 0.0


# -- health ----------------------------------------------------------------------------------


def info(*, state: str | None, bitrate: int | None = None) -> LinkInfo:
    return LinkInfo(
        index=3,
        name="can0",
        kind="can",
        can=True,
        up=True,
        running=True,
        operstate="up",
        mtu=16,
        state=state,
        bitrate=bitrate,
        tx_errors=7 if state else None,
        rx_errors=9 if state else None,
    )


class Health:
    """A `BusHealth` and what it delivers."""

    def __init__(self, bitrate: int | None = None) -> None:
        self.health = BusHealth("powertrain", bitrate)
        self.tables: list[SignalTable] = []
        self.health.deliver = self.tables.append

    def rows(self) -> list[tuple[int, ...]]:
        """Time and signals of each row of `BusState`."""
        return [
            (int(table.time[row]), *(int(table.raw[name][row]) for name in table.names))
            for table in self.tables
            if table.message == "BusState"
            for row in range(len(table))
        ]


def test_a_bus_begins_as_the_kernel_says_and_then_follows_its_error_frames() -> None:
    bus = Health()

    bus.health.begins(SECOND, info(state="passive"))
    bus.health.take(errors(WARNING, ACTIVE, begin=2 * SECOND))
    bus.health.ends(3 * SECOND)
    bus.health.begins(4 * SECOND, info(state=None))

    unknown = NOT_TOLD
    assert bus.rows() == [
        (SECOND, 2, 7, 9, 0, 0, unknown),
        (2 * SECOND, 1, 12, 97, 1, 0, unknown),
        (2 * SECOND + 1_000_000, 0, 12, 97, 2, 0, unknown),
        (3 * SECOND, 4, unknown, unknown, 2, 0, unknown),
        (4 * SECOND, 0, unknown, unknown, 2, 0, unknown),
    ]


def test_a_state_that_this_program_does_not_know_is_unknown() -> None:
    bus = Health()

    bus.health.begins(0, info(state="sleeping"))

    assert bus.health.controller.state is State.UNKNOWN


def test_the_load_is_told_once_a_second_where_all_frames_were_seen() -> None:
    bus = Health(bitrate=1_000_000)
    bus.health.link(info(state=None, bitrate=500_000))

    for second, whole in ((1, True), (2, False), (3, True)):
        bus.health.take(frames(2000, 8))
        bus.health.tick(second * SECOND, 1.0, whole=whole)

    loads = [row[-1] for row in bus.rows()]
    assert loads[0] == loads[2] == pytest.approx(480, abs=5)
    assert loads[1] == NOT_TOLD


def test_a_change_that_came_before_the_last_row_does_not_go_back_in_time() -> None:
    bus = Health()

    bus.health.tell(5 * SECOND)
    bus.health.take(errors(OFF, begin=5 * SECOND - 1))

    assert [row[0] for row in bus.rows()] == [5 * SECOND, 5 * SECOND]


def test_trouble_is_logged_when_it_begins_and_when_it_has_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = Health()
    bus.health.begins(0, info(state="active"))

    with caplog.at_level(logging.INFO, "edge_agent"):
        for second in range(1, 40):
            if second < 5:
                bus.health.drops.tell(10 * second)
                bus.health.losses.tell(second)
                bus.health.bad += 1
                bus.health.take(errors(WARNING, PASSIVE, begin=second * SECOND))
            elif second == 5:
                bus.health.take(errors(ACTIVE, begin=second * SECOND))
            bus.health.tick(second * SECOND, 1.0, whole=True)

    assert sorted(caplog.messages) == [
        "bus powertrain: 3 frames were lost before the socket",
        "bus powertrain: 4 messages were no frames",
        "bus powertrain: the controller is active again",
        "bus powertrain: the controller is passive (last error: controller, transmit passive)",
        "bus powertrain: the controller or the kernel's queue before the socket overflows",
        "bus powertrain: the kernel drops frames, its buffer is full",
        "bus powertrain: the kernel gives messages that are no frames",
        "bus powertrain: the kernel has dropped 40 frames",
    ]
