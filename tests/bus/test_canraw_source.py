"""The source of a CAN interface, on interfaces that come and go and sockets of another family."""

import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import pytest

from agent.blocks import ERROR, MAX_BLOCK_FRAMES, FrameBlock, SignalTable
from agent.bus.canraw import ClockPair, Filters, MessageSocket
from agent.bus.early import EarlyReader
from agent.bus.errorframes import schemas
from agent.bus.interfaces import Watch
from agent.bus.linkmessage import LinkEvent, LinkInfo
from agent.bus.socketcan import SocketCanSource
from agent.clock import SystemClock, WallNs
from agent.errors import BusError
from tests.bus.messages import Wire, classic

WAIT_S: Final = 30.0
NOT_TOLD: Final = 0xFFFF


def interface(
    index: int = 7, *, up: bool = True, listen_only: bool | None = None, name: str = "can0"
) -> LinkInfo:
    return LinkInfo(
        index=index,
        name=name,
        kind="can",
        can=True,
        up=up,
        running=up,
        operstate="up" if up else "down",
        mtu=16,
        state="active" if up else "stopped",
        bitrate=500_000,
        listen_only=listen_only,
    )


class FakeWatch:
    def __init__(self, close: Callable[["FakeWatch"], None]) -> None:
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK)
        self._events: list[LinkEvent] = []
        self._lock = threading.Lock()
        self._closing = close
        self.broken = False

    def tell(self, event: LinkEvent) -> None:
        with self._lock:
            self._events.append(event)
            os.eventfd_write(self._descriptor, 1)

    def fileno(self) -> int:
        return self._descriptor

    def read(self) -> list[LinkEvent]:
        if self.broken:
            raise BusError("changes of interfaces are not told")
        with self._lock:
            if self._events:
                os.eventfd_read(self._descriptor)
            events, self._events = self._events, []
        return events

    def close(self) -> None:
        self._closing(self)
        os.close(self._descriptor)


class FakeLinks:
    """Interfaces that a test makes and unmakes; `silent` refuses every question."""

    def __init__(self, *infos: LinkInfo) -> None:
        self._infos = {info.name: info for info in infos}
        self._watches: list[FakeWatch] = []
        self.silent = False
        self.lost_before: int | None = 1_000

    def link(self, name: str) -> LinkInfo | None:
        if self.silent:
            raise BusError("the kernel cannot be asked about interfaces")
        return self._infos.get(name)

    def watch(self) -> Watch:
        if self.silent:
            raise BusError("the kernel cannot be asked about interfaces")
        watch = FakeWatch(self._watches.remove)
        self._watches.append(watch)
        return watch

    def lost(self, name: str) -> int | None:
        return self.lost_before if name in self._infos else None

    def change(self, info: LinkInfo) -> None:
        """It is there, and like this, from now on."""
        self._infos[info.name] = info
        self._tell(LinkEvent(info))

    def remove(self, name: str) -> None:
        self._tell(LinkEvent(self._infos.pop(name), gone=True))

    def break_watches(self) -> None:
        for watch in self._watches:
            watch.broken = True
        self._tell(LinkEvent(None, overrun=True))

    def _tell(self, event: LinkEvent) -> None:
        for watch in self._watches:
            watch.tell(event)


class Bus:
    """A source that runs, the wires that it is plugged into one after another, what it delivers."""

    def __init__(
        self, links: FakeLinks | None = None, *, wire: Wire | None = None, **options: Any
    ) -> None:
        self.links = links or FakeLinks(interface())
        self.wires = [wire or Wire()]
        self.refusals: list[str] = []
        self.delivered: list[FrameBlock | SignalTable] = []
        self._opened = 0
        self._stop = threading.Event()
        self.source = SocketCanSource(
            "powertrain",
            "can0",
            **{"block_ms": 20, **options},
            links=self.links,
            open_socket=self.open,
        )
        self._thread = threading.Thread(
            target=self.source.run, args=(self.delivered.append, self._stop), daemon=True
        )

    def open(self, filters: Filters | None) -> MessageSocket:
        if self.refusals:
            raise BusError(self.refusals.pop(0))
        self._opened += 1
        if self._opened > len(self.wires):
            self.wires.append(Wire())
        return self.wires[self._opened - 1].reader

    def start(self) -> "Bus":
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def until(self, true: Callable[[], bool]) -> None:
        moment = threading.Event()
        for _ in range(int(WAIT_S / 0.005)):
            if true():
                return
            moment.wait(0.005)
        raise AssertionError(f"{self.source.state}, {len(self.frames())} frames, {self.states()}")

    def until_state(self, state: str) -> None:
        self.until(lambda: self.source.state == state)

    def frames(self) -> list[int]:
        return [i for block in self.blocks() for i in block.id.tolist()]

    def blocks(self) -> list[FrameBlock]:
        return [each for each in list(self.delivered) if isinstance(each, FrameBlock)]

    def tables(self, message: str) -> list[SignalTable]:
        return [
            each
            for each in list(self.delivered)
            if isinstance(each, SignalTable) and each.message == message
        ]

    def column(self, name: str) -> list[int]:
        """A signal of all rows of `BusState`."""
        return [n for table in self.tables("BusState") for n in table.raw[name].tolist()]

    def states(self) -> list[int]:
        """The state in `BusState`, without repetitions."""
        return [state for state, _ in itertools.groupby(self.column("State"))]

    def close(self) -> None:
        if self._thread.is_alive():
            self.stop()
        for wire in self.wires:
            wire.close()


@pytest.fixture
def made() -> Iterator[list[Bus]]:
    buses: list[Bus] = []
    yield buses
    for bus in buses:
        bus.close()


@pytest.fixture
def plug(made: list[Bus]) -> Callable[..., Bus]:
    def make(links: FakeLinks | None = None, **options: Any) -> Bus:
        made.append(Bus(links, **options))
        return made[-1]

    return make


Plug = Callable[..., Bus]


def test_frames_come_as_blocks_in_their_order_with_their_times(plug: Plug) -> None:
    clock = SystemClock()
    bus = plug().start()
    bus.until_state("reading")
    begin = clock.boot()

    for part in range(0, 1000, 100):
        bus.wires[0].send(*(classic(n, b"\x05") for n in range(part, part + 100)))
    bus.until(lambda: len(bus.frames()) == 1000)
    bus.stop()

    assert bus.frames() == list(range(1000))
    times = np.concatenate([block.time for block in bus.blocks()])
    assert (np.diff(times) >= 0).all()
    assert begin - 2_000_000 <= times[0] <= times[-1] <= clock.boot()
    assert all(block.clock == "boot" and block.bus == "powertrain" for block in bus.blocks())
    assert bus.source.counts == {
        "dropped": 0,
        "filtered": 0,
        "bad_lines": 0,
        "clamped": 0,
    }
    assert bus.source.state == "ended"


def test_what_waits_at_the_stop_is_read_and_delivered(plug: Plug) -> None:
    bus = plug(block_ms=60_000).start()
    bus.until_state("reading")

    bus.wires[0].send(*(classic(n) for n in range(50)))
    bus.stop()

    assert bus.frames() == list(range(50))


def test_a_block_closes_at_its_greatest_size(plug: Plug) -> None:
    bus = plug(block_ms=60_000).start()
    bus.until_state("reading")

    for part in range(20):
        bus.wires[0].send(*(classic(part) for _ in range(1000)))
        bus.until(lambda enough=part: _taken(bus) > enough * 1000)  # type: ignore[misc]
    bus.stop()

    assert sum(len(block) for block in bus.blocks()) == 20_000
    assert max(len(block) for block in bus.blocks()) <= MAX_BLOCK_FRAMES


def _taken(bus: Bus) -> int:
    return len(bus.frames()) + bus.wires[0].reader.waiting


def test_what_the_kernel_dropped_is_counted_once_and_exactly(plug: Plug) -> None:
    links = FakeLinks(interface(up=False))
    bus = plug(links, wire=Wire(buffer_bytes=10_000))
    bus.wires[0].send(*(classic(n) for n in range(500)))  # before anybody reads
    bus.start()
    bus.until(lambda: bus.source.counts["dropped"] > 0 and bus.frames() != [])  # there is room
    bus.wires[0].send(classic(2000))
    bus.until(lambda: 2000 in bus.frames())
    bus.stop()

    assert len(bus.frames()) + bus.source.counts["dropped"] == 501
    assert bus.column("Dropped")[-1] == bus.source.counts["dropped"]


def test_what_the_interface_lost_before_the_socket_is_dropped_too(plug: Plug) -> None:
    links = FakeLinks(interface())
    bus = plug(links).start()
    bus.until_state("reading")

    links.lost_before = 1_007
    bus.until(lambda: bus.source.counts["dropped"] == 7)
    links.remove("can0")
    bus.until_state("waiting: there is no interface can0")
    links.lost_before = 2_000  # another interface, which lost these before it was read
    links.change(interface(8))
    bus.until_state("reading")
    links.lost_before = 2_001
    bus.until(lambda: bus.source.counts["dropped"] == 8)
    bus.stop()

    assert bus.column("Dropped")[-1] == 8


def test_an_interface_that_does_not_tell_its_losses_is_read_all_the_same(plug: Plug) -> None:
    links = FakeLinks(interface())
    links.lost_before = None
    bus = plug(links).start()
    bus.until_state("reading")

    bus.wires[0].send(classic(1))
    bus.until(lambda: bus.frames() == [1])

    assert bus.source.counts["dropped"] == 0


def test_messages_that_are_no_frames_cost_themselves_and_are_counted(plug: Plug) -> None:
    bus = plug().start()

    bus.wires[0].send(classic(1), b"short", classic(2, length=9), classic(3))
    bus.until(lambda: bus.frames() == [1, 3])
    bus.stop()

    assert bus.source.counts["bad_lines"] == 2


class OtherClock(SystemClock):
    """Shows a wall time that the kernel's stamps have nothing to do with."""

    def wall(self) -> WallNs:
        return WallNs(super().wall() - 50 * 365 * 24 * 3600 * 10**9)


def test_stamps_that_fit_no_clock_are_put_between_two_reads_and_counted(plug: Plug) -> None:
    clock = OtherClock()
    wire = Wire(clocks=ClockPair(clock.boot, clock.wall))
    bus = plug(wire=wire, clock=clock).start()
    bus.until_state("reading")
    begin = clock.boot()

    bus.wires[0].send(*(classic(n) for n in range(100)))
    bus.until(lambda: len(bus.frames()) == 100)
    bus.stop()

    times = np.concatenate([block.time for block in bus.blocks()])
    assert (np.diff(times) >= 0).all()
    assert begin - 10**9 <= times[0] <= times[-1] <= clock.boot()
    assert bus.source.counts["clamped"] == 100


class TestInterfaces:
    """They may be missing, go down, be pulled out, be renamed, and come back."""

    def test_one_that_is_missing_is_waited_for(self, plug: Plug) -> None:
        links = FakeLinks()
        bus = plug(links).start()
        bus.until_state("waiting: there is no interface can0")

        links.change(interface())
        bus.until_state("reading")
        bus.wires[0].send(classic(1))
        bus.until(lambda: bus.frames() == [1])

        assert bus.states() == [0]

    def test_one_that_is_down_is_waited_for_and_its_socket_stays(self, plug: Plug) -> None:
        links = FakeLinks(interface(up=False))
        bus = plug(links).start()
        bus.until_state("waiting: can0 is down")

        links.change(interface())
        bus.until_state("reading")
        bus.wires[0].send(classic(1))
        bus.until(lambda: bus.frames() == [1])
        links.change(interface(up=False))
        bus.until_state("waiting: can0 is down")
        links.change(interface())
        bus.until_state("reading")
        bus.wires[0].send(classic(2))
        bus.until(lambda: bus.frames() == [1, 2])
        bus.stop()

        assert len(bus.wires) == 1
        assert bus.states() == [0, 4, 0]

    def test_one_that_was_pulled_out_is_emptied_and_opened_anew(self, plug: Plug) -> None:
        links = FakeLinks(interface(7))
        bus = plug(links, block_ms=60_000).start()
        bus.until_state("reading")

        bus.wires[0].send(classic(1))
        links.remove("can0")
        bus.until_state("waiting: there is no interface can0")
        assert bus.frames() == [1]
        links.change(interface(8))
        bus.until_state("reading")
        bus.wires[1].send(classic(2))
        bus.stop()

        assert bus.frames() == [1, 2]
        assert bus.states() == [0, 4, 0]

    def test_another_one_by_the_same_name_is_another_one(self, plug: Plug) -> None:
        links = FakeLinks(interface(7))
        bus = plug(links).start()
        bus.until_state("reading")

        links.change(interface(8))
        bus.until(lambda: len(bus.wires) == 2)
        bus.until_state("reading")
        bus.wires[1].send(classic(2))
        bus.until(lambda: bus.frames() == [2])

        assert bus.states() == [0, 4, 0]

    def test_one_that_is_renamed_is_gone_and_back_when_it_gets_its_name(self, plug: Plug) -> None:
        links = FakeLinks(interface(7))
        bus = plug(links).start()
        bus.until_state("reading")

        links.remove("can0")
        links.change(interface(7, name="body"))
        bus.until_state("waiting: there is no interface can0")
        links.change(interface(7))
        bus.until_state("reading")

    def test_one_that_cannot_be_opened_is_tried_again(self, plug: Plug) -> None:
        bus = plug()
        bus.refusals = ["no permission to open can0", "no permission to open can0"]
        bus.start()

        bus.until_state("waiting: no permission to open can0")
        bus.until_state("reading")

    def test_one_that_cannot_be_read_is_closed_and_tried_again(self, plug: Plug) -> None:
        bus = plug().start()
        bus.until_state("reading")

        elsewhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(elsewhere, bus.wires[0].reader.fileno())
        os.close(elsewhere)
        bus.until(lambda: len(bus.wires) == 2)
        bus.until_state("reading")
        bus.wires[1].send(classic(3))
        bus.until(lambda: bus.frames() == [3])

    def test_without_netlink_frames_are_read_all_the_same(
        self, plug: Plug, caplog: pytest.LogCaptureFixture
    ) -> None:
        links = FakeLinks(interface())
        links.silent = True
        with caplog.at_level(logging.INFO, "edge_agent"):
            bus = plug(links).start()
            bus.until_state("reading")
            bus.wires[0].send(classic(3))
            bus.until(lambda: bus.frames() == [3])

        assert "changes of can0 are seen late" in caplog.messages[0]

    def test_a_watch_that_breaks_is_no_reason_to_stop(self, plug: Plug) -> None:
        bus = plug().start()
        bus.until_state("reading")

        bus.links.break_watches()
        bus.wires[0].send(classic(3))
        bus.until(lambda: bus.frames() == [3])

    def test_each_change_is_logged_once(self, plug: Plug, caplog: pytest.LogCaptureFixture) -> None:
        links = FakeLinks(interface(up=False))
        with caplog.at_level(logging.INFO, "edge_agent"):
            bus = plug(links).start()
            bus.until_state("waiting: can0 is down")
            for _ in range(3):
                links.change(interface(up=False))
            bus.until(lambda: len(bus.column("State")) > 2)
            links.change(interface())
            bus.until_state("reading")
            bus.stop()

        assert caplog.messages == [
            "bus powertrain: waiting: can0 is down",
            "bus powertrain: reading can0",
        ]


class TestListenOnly:
    @pytest.mark.parametrize(("mode", "word"), [(False, "is not"), (None, "cannot be")])
    def test_a_controller_that_takes_part_is_refused(self, mode: bool | None, word: str) -> None:
        with pytest.raises(BusError, match=f"can0 {word} listen-only, and bus powertrain"):
            SocketCanSource(
                "powertrain",
                "can0",
                require_listen_only=True,
                links=FakeLinks(interface(listen_only=mode)),
            )

    def test_one_that_only_listens_is_read_and_says_so(self, plug: Plug) -> None:
        bus = plug(FakeLinks(interface(listen_only=True)), require_listen_only=True).start()

        bus.until_state("reading")

        assert bus.source.listen_only is True

    def test_one_that_comes_back_otherwise_is_not_read(self, plug: Plug) -> None:
        links = FakeLinks(interface(listen_only=True))
        bus = plug(links, require_listen_only=True).start()
        bus.until_state("reading")

        links.change(interface(listen_only=False))
        bus.until(lambda: bus.source.state.startswith("waiting: can0 is not listen-only"))
        links.change(interface(listen_only=True))
        bus.until_state("reading")

    def test_nothing_is_read_where_it_cannot_be_found_out(self, plug: Plug) -> None:
        links = FakeLinks(interface(listen_only=True))
        bus = plug(links, require_listen_only=True)
        links.silent = True
        bus.start()

        bus.until(lambda: bus.source.state.startswith("waiting: is can0 listen-only?"))


class TestState:
    """Rows of `BusState` and `BusError`."""

    def test_error_frames_change_the_state_and_are_rows_of_their_own(self, plug: Plug) -> None:
        bus = plug().start()
        bus.until_state("reading")

        warning = bytes([0, 0x04, 0, 0, 0, 0, 3, 97])
        bus.wires[0].send(classic(1), classic(0x204 | ERROR, warning), classic(0x40 | ERROR))
        bus.until(lambda: bus.states() == [0, 1, 3])
        bus.stop()

        assert bus.source.controller.last_error == "bus off"
        (errors,) = bus.tables("BusError")
        assert errors.raw["Class"].tolist() == [0x204, 0x40]
        assert errors.raw["ReceiveErrors"].tolist() == [97, NOT_TOLD]
        assert bus.column("ErrorFrames")[-1] == 2
        assert len(bus.frames()) == 3, "the frames stay in their block"

    def test_there_is_a_row_each_second_also_of_a_bus_that_is_silent(self, plug: Plug) -> None:
        clock = SystemClock()
        begin = clock.boot()
        bus = plug().start()

        bus.until(lambda: len(bus.column("State")) >= 4)

        rows = np.concatenate([table.time for table in bus.tables("BusState")])
        assert (np.diff(rows[1:]) >= 900_000_000).all()
        assert rows[0] >= begin

    def test_the_load_is_known_where_the_bit_rate_is(self, plug: Plug) -> None:
        bus = plug().start()
        bus.until_state("reading")
        bus.wires[0].send(*(classic(1, bytes(8)) for _ in range(100)))

        bus.until(lambda: any(0 < load < NOT_TOLD for load in bus.column("Load")))

    def test_filters_hide_a_part_of_the_load(self, plug: Plug) -> None:
        bus = plug(filters=[(1, 0x7FF)]).start()
        bus.until_state("reading")
        bus.wires[0].send(*(classic(1, bytes(8)) for _ in range(100)))

        bus.until(lambda: len(bus.column("Load")) >= 3)

        assert set(bus.column("Load")) == {NOT_TOLD}


def test_filters_beyond_what_the_kernel_takes_are_refused_at_once() -> None:
    with pytest.raises(BusError, match="513 filters"):
        SocketCanSource(
            "powertrain", "can0", filters=[(n, 0x7FF) for n in range(513)], links=FakeLinks()
        )


def test_frames_that_came_before_the_source_come_first(plug: Plug) -> None:
    wire = Wire(slots=64)
    early = EarlyReader([wire.reader])
    early.start()
    wire.send(*(classic(n) for n in range(200)))
    moment = threading.Event()
    while wire.reader.waiting != 200 % 64 and not moment.wait(0.005):
        pass
    bus = plug(wire=wire, early=early.hand_over(wire.reader))
    early.stop()

    bus.start()
    bus.until_state("reading")
    wire.send(*(classic(n) for n in range(200, 300)))
    bus.until(lambda: len(bus.frames()) == 300)
    bus.stop()

    assert bus.frames() == list(range(300))
    assert bus.source.counts == {
        "dropped": 0,
        "filtered": 0,
        "bad_lines": 0,
        "clamped": 0,
    }


def test_an_early_socket_of_an_interface_that_has_gone_is_emptied_and_closed(plug: Plug) -> None:
    wire = Wire()
    wire.send(classic(1))
    early = EarlyReader([wire.reader])
    bus = plug(FakeLinks(), wire=wire, early=early.hand_over(wire.reader)).start()

    bus.until_state("waiting: there is no interface can0")

    assert bus.frames() == [1]
    assert wire.reader.fileno() == -1


def test_the_tables_are_those_of_the_catalogue(plug: Plug) -> None:
    bus = plug().start()
    bus.until_state("reading")
    bus.wires[0].send(classic(0x40 | ERROR, bytes(8)))
    bus.until(lambda: bool(bus.tables("BusError")))
    bus.stop()

    known = set(schemas("powertrain"))
    assert {each.schema for each in bus.delivered if isinstance(each, SignalTable)} == known
