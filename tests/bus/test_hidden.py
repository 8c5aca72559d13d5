"""Frames that filters hide: from what an interface counts and what its socket got."""

import dataclasses
import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.blocks import ERROR, SENT, FrameBlock
from agent.bus.early import EarlyReader
from agent.bus.hidden import HiddenCounter, Traffic, read_traffic
from agent.bus.linkmessage import LinkInfo
from tests.bus.messages import Wire, classic
from tests.bus.test_canraw_source import Bus, FakeLinks, interface


def frames(n: int, identifier: int = 1, flags: int = 0) -> FrameBlock:
    return FrameBlock(
        "powertrain",
        np.arange(n),
        np.full(n, identifier, np.uint32),
        np.zeros(n, np.uint16),
        np.full(n, flags, np.uint8),
        np.zeros((n, 8), np.uint8),
    )


class Interface:
    """An interface and the socket on it: what it has counted, and what is still to be read."""

    def __init__(self, kind: str | None = "can", *, wanted: bool = True) -> None:
        self.traffic: Traffic | None = Traffic(index=7, received=1_000, sent=100)
        self.hidden = HiddenCounter("can0", lambda _name: self.traffic, wanted=wanted)
        self.hidden.kind = kind
        self.lost = 0

    def carries(self, received: int = 0, sent: int = 0) -> None:
        assert self.traffic is not None
        self.traffic = dataclasses.replace(
            self.traffic,
            received=self.traffic.received + received,
            sent=self.traffic.sent + sent,
        )

    def compare(self, *late: FrameBlock) -> int:
        """The `late` frames come after the interface was asked, and are read with the others."""
        carried = self.hidden.ask(7)
        for block in late:
            self.carries(len(block))
            self.hidden.take(block)
        self.hidden.compare(carried, self.lost)
        return self.hidden.total


def test_what_was_carried_and_neither_passed_nor_was_dropped_is_hidden() -> None:
    can = Interface()
    can.compare()

    can.carries(received=40, sent=5)
    can.hidden.take(frames(12))
    can.hidden.take(frames(2, flags=SENT))
    can.lost = 3

    assert can.compare() == 40 + 5 - 12 - 2 - 3


def test_frames_that_are_sent_on_a_virtual_bus_count_once() -> None:
    vcan = Interface("vcan")
    vcan.compare()

    vcan.carries(received=10, sent=10)
    vcan.hidden.take(frames(4, flags=SENT))

    assert vcan.compare() == 6


def test_error_frames_of_a_driver_are_not_carried_and_those_that_are_sent_are() -> None:
    vcan = Interface("vcan")
    vcan.compare()

    vcan.carries(received=10, sent=10)
    vcan.hidden.take(frames(4, 0x40 | ERROR, SENT))
    vcan.hidden.take(frames(100, 0x40 | ERROR))

    assert vcan.compare() == 6


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 5), st.integers(0, 50)),
        max_size=20,
    )
)
def test_a_total_never_falls_is_never_too_high_and_is_right_when_all_was_read(
    seconds: list[tuple[int, int, int, int]],
) -> None:
    can = Interface()
    can.compare()
    before = truth = 0
    for hidden, passed, lost, late in seconds:
        can.carries(received=hidden + passed + lost)
        can.hidden.take(frames(passed))
        can.lost += lost
        truth += hidden
        told = can.compare(frames(late))
        assert before <= told <= truth
        before = told

    assert can.compare() == truth


def test_counts_that_begin_anew_are_followed_from_there() -> None:
    can = Interface()
    can.compare()
    can.carries(received=10)
    can.compare()

    can.traffic = Traffic(index=7, received=3, sent=0)  # a driver that forgets when it goes up
    can.compare()
    can.carries(received=8)
    can.hidden.take(frames(1))

    assert can.compare() == 10 + 7


def test_another_interface_by_the_same_name_is_not_compared() -> None:
    can = Interface()
    can.compare()

    can.traffic = Traffic(index=8, received=1_000_000, sent=0)
    can.compare()
    can.traffic = None
    can.compare()
    can.traffic = Traffic(index=7, received=1_004, sent=100)

    assert can.compare() == 4


def test_with_a_new_socket_and_with_new_filters_counting_begins_anew() -> None:
    can = Interface()
    can.compare()
    can.carries(received=1)
    can.compare()

    can.hidden.end()
    can.carries(received=100)
    can.compare()
    can.carries(received=2)
    can.hidden.wanted = False
    can.compare()  # what was hidden until the filters were taken away
    can.carries(received=100)
    can.compare()
    can.hidden.wanted = True
    can.compare()
    can.carries(received=4)

    assert can.compare() == 1 + 2 + 4


@pytest.mark.parametrize(("kind", "wanted"), [(None, True), ("can", False)])
def test_nothing_is_counted_without_filters_or_of_an_unknown_kind(
    kind: str | None, *, wanted: bool
) -> None:
    can = Interface(kind, wanted=wanted)
    can.compare()
    can.carries(received=100, sent=100)

    assert can.compare() == 0


def test_this_computers_interfaces_are_asked_by_name() -> None:
    traffic = read_traffic("lo")

    assert traffic is not None
    assert traffic.index == socket.if_nametoindex("lo")
    assert read_traffic("no such one") is None


class Filtered(Bus):
    """A bus whose interface tells what it carries."""

    def __init__(self, **options: Any) -> None:
        self.traffic = Traffic(index=7, received=1_000, sent=100)
        super().__init__(**options, traffic=lambda _name: self.traffic)
        self._passed = 0

    @property
    def filtered(self) -> int:
        return self.source.counts["filtered"]

    def carries(self, received: int, sent: int = 0) -> None:
        self.traffic = dataclasses.replace(
            self.traffic,
            received=self.traffic.received + received,
            sent=self.traffic.sent + sent,
        )

    def passes(self, n: int) -> None:
        """Frames pass the filters, and are delivered."""
        self.wires[0].send(*(classic(1) for _ in range(n)))
        self._passed += n
        self.until(lambda: len(self.frames()) == self._passed)

    def next_second(self) -> None:
        """All that is done in a second was done once since."""
        rows = len(self.column("State"))
        self.until(lambda: len(self.column("State")) >= rows + 2)


Plug = Callable[..., Filtered]


class TestSource:
    """The source of a CAN interface with filters. Its wire gives only what passes."""

    @pytest.fixture
    def plug(self) -> Iterator[Callable[..., Filtered]]:
        made: list[Filtered] = []

        def make(**options: Any) -> Filtered:
            made.append(Filtered(**options))
            return made[-1]

        yield make
        for bus in made:
            bus.close()

    def test_it_is_told_every_second_and_does_not_fall(self, plug: Plug) -> None:
        bus = plug(filters=[(1, 0x7FF)])
        bus.start()
        bus.until_state("reading")

        bus.passes(10)
        bus.carries(received=30, sent=5)
        bus.until(lambda: bus.filtered == 25)
        bus.passes(20)
        bus.stop()

        assert bus.filtered == 25
        assert bus.source.counts["dropped"] == 0

    def test_what_is_hidden_just_before_the_stop_is_told(self, plug: Plug) -> None:
        bus = plug(filters=[])
        bus.start()
        bus.until_state("reading")

        bus.carries(received=30)
        bus.stop()

        assert bus.filtered == 30

    def test_without_filters_nothing_is_hidden(self, plug: Plug) -> None:
        bus = plug()
        bus.start()
        bus.until_state("reading")

        bus.carries(received=30)
        bus.next_second()
        bus.stop()

        assert bus.filtered == 0

    def test_filters_that_come_and_go_count_while_they_are_there(self, plug: Plug) -> None:
        bus = plug()
        bus.start()
        bus.until_state("reading")

        bus.carries(received=1_000)
        bus.source.set_filters([])
        bus.next_second()
        bus.carries(received=30)
        bus.source.set_filters([(1, 0x7FF)])
        bus.until(lambda: bus.filtered == 30)
        bus.source.set_filters(None)
        bus.next_second()
        bus.carries(received=1_000)
        bus.next_second()
        bus.stop()

        assert bus.filtered == 30

    def test_what_came_early_has_passed_before_counting_begins(self, plug: Plug) -> None:
        wire = Wire(slots=64)
        early = EarlyReader([wire.reader])
        early.start()
        wire.send(*(classic(n) for n in range(200)))
        bus = plug(filters=[], wire=wire, early=early.hand_over(wire.reader))
        early.stop()
        bus.start()
        bus.until(lambda: len(bus.frames()) == 200)

        bus.next_second()
        bus.carries(received=30)
        bus.until(lambda: bus.filtered == 30)

    def test_what_was_dropped_or_was_no_frame_was_not_hidden(self, plug: Plug) -> None:
        bus = plug(filters=[(1, 0x7FF)])
        bus.start()
        bus.until_state("reading")

        bus.wires[0].send(b"short")
        bus.links.lost_before = 1_007
        bus.until(lambda: bus.source.counts["dropped"] == 7 and bus.source.counts["bad_lines"] == 1)
        bus.carries(received=30)
        bus.until(lambda: bus.filtered == 22)

    def test_a_plugged_in_adapter_counts_from_its_own_begin(self, plug: Plug) -> None:
        bus = plug(filters=[])
        bus.start()
        bus.until_state("reading")
        bus.carries(received=30)
        bus.until(lambda: bus.filtered == 30)

        bus.links.remove("can0")
        bus.until_state("waiting: there is no interface can0")
        bus.wires.append(Wire())
        bus.wires[1].reader.index = 8
        bus.traffic = Traffic(index=8, received=5_000, sent=0)
        bus.links.change(interface(8))
        bus.until_state("reading")
        bus.carries(received=4)
        bus.until(lambda: bus.filtered == 34)

    def test_on_a_virtual_bus_what_is_sent_counts_once(self, plug: Plug) -> None:
        virtual: LinkInfo = dataclasses.replace(interface(), kind="vcan")
        bus = plug(filters=[], links=FakeLinks(virtual))
        bus.start()
        bus.until_state("reading")

        bus.carries(received=30, sent=30)
        bus.stop()

        assert bus.filtered == 30
