"""CAN interfaces of a real kernel: every frame, exactly, whatever happens to them."""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from agent.blocks import (
    ERROR,
    EXTENDED,
    FD_BIT_RATE_SWITCH,
    FD_ERROR_STATE,
    FD_FRAME,
    REMOTE,
    SENT,
    FrameBlock,
    SignalTable,
)
from agent.bus.canframes import parse
from agent.bus.canraw import CanSocket, Filters
from agent.bus.early import EarlyReader
from agent.bus.netlink import link
from agent.bus.socketcan import SocketCanSource
from agent.clock import SystemClock
from agent.errors import BusError
from tests.vm.frames import Prepared, Sender, classic, fd, numbered, numbers
from tests.vm.links import Links

pytestmark = pytest.mark.vm

WAIT_S: Final = 60.0


def wait_until(true: Callable[[], bool]) -> None:
    moment = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        if true():
            return
        moment.wait(0.01)
    raise AssertionError("it did not come about")


def quiet_for(seconds: float) -> None:
    """Nothing is on the bus; other threads run."""
    threading.Event().wait(seconds)


class Reading:
    """A source that runs, and what it has delivered; `hold` keeps it from delivering."""

    def __init__(self, interface: str, **options: Any) -> None:
        self.source = SocketCanSource("powertrain", interface, **options)
        self.delivered: list[FrameBlock | SignalTable] = []
        self.go = threading.Event()
        self.go.set()
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self.source.run, args=(self._deliver, self._stop), daemon=True
        )

    def _deliver(self, block: FrameBlock | SignalTable) -> None:
        self.go.wait(WAIT_S)
        self.delivered.append(block)

    def start(self, state: str = "reading") -> "Reading":
        self._thread.start()
        wait_until(lambda: self.source.state == state)
        return self

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.go.set()
        if self._thread.is_alive():
            self.stop()

    def blocks(self) -> list[FrameBlock]:
        return [each for each in list(self.delivered) if isinstance(each, FrameBlock)]

    def count(self) -> int:
        return sum(len(block) for block in self.blocks())

    def has_accounted_for(self, sent: int) -> Callable[[], bool]:
        return lambda: self.count() + self.source.counts["dropped"] >= sent

    def numbers(self) -> list[int]:
        return [number for block in self.blocks() for number in numbers(block)]

    def times(self) -> list[int]:
        return [t for block in self.blocks() for t in block.time.tolist()]

    def rows(self, name: str) -> list[int]:
        """A signal of `BusState`, without repetitions."""
        values = [
            value
            for each in list(self.delivered)
            if isinstance(each, SignalTable) and each.message == "BusState"
            for value in each.raw[name].tolist()
        ]
        return [value for value, _ in itertools.groupby(values)]


Read = Callable[..., Reading]


@pytest.fixture
def read() -> Iterator[Read]:
    """Starts a source on an interface."""
    readings: list[Reading] = []

    def start(interface: str, **options: Any) -> Reading:
        readings.append(Reading(interface, **options))
        return readings[-1]

    yield start
    for reading in readings:
        reading.close()


def test_frames_of_every_kind_are_received_exactly(vcan: Links, read: Read) -> None:
    name = vcan()
    reading = read(name, block_ms=50).start()
    error = bytes([0, 0x08, 0, 0, 0, 0, 100, 7])
    with Sender(name) as sender:
        sender.send(
            classic(0x123, b"\x01\x02\x03"),
            classic(0x1ABCDEF0 | EXTENDED, bytes(range(8))),
            classic(0x7FF | REMOTE, length=5),
            classic(0x204 | ERROR, error),
            fd(0x321, bytes(range(64)), flags=FD_BIT_RATE_SWITCH | FD_ERROR_STATE),
            fd(0x1ABCDEF1 | EXTENDED, b"\x55" * 12),
            classic(0x000),
        )
        wait_until(lambda: reading.count() == 7)
    reading.stop()

    (block,) = reading.blocks()
    assert block.id.tolist() == [
        0x123,
        0x1ABCDEF0 | EXTENDED,
        0x7FF | REMOTE,
        0x204 | ERROR,
        0x321,
        0x1ABCDEF1 | EXTENDED,
        0,
    ]
    assert block.length.tolist() == [3, 8, 5, 8, 64, 12, 0]
    # On a virtual bus every frame was sent by this computer.
    assert block.flags.tolist() == [
        SENT,
        SENT,
        SENT,
        SENT,
        SENT | FD_FRAME | FD_BIT_RATE_SWITCH | FD_ERROR_STATE,
        SENT | FD_FRAME,
        SENT,
    ]
    payloads = [block.data[n, : block.length[n]].tobytes() for n in range(7)]
    assert payloads == [
        b"\x01\x02\x03",
        bytes(range(8)),
        bytes(5),
        error,
        bytes(range(64)),
        b"\x55" * 12,
        b"",
    ]
    assert reading.rows("State") == [0, 1]
    assert reading.rows("TransmitErrors")[-1] == 100
    assert reading.source.counts == {
        "dropped": 0,
        "filtered": 0,
        "bad_lines": 0,
        "clamped": 0,
    }


def test_a_classic_block_is_eight_bytes_wide(vcan: Links, read: Read) -> None:
    name = vcan()
    reading = read(name).start()
    with Sender(name) as sender:
        sender.send_many(Prepared(numbered(100)))
        wait_until(lambda: reading.count() == 100)

    assert {block.data.shape[1] for block in reading.blocks()} == {8}


def test_eight_buses_at_once_each_with_every_frame(vcan: Links, read: Read) -> None:
    names = [vcan() for _ in range(8)]
    readings = [read(name, block_ms=20).start() for name in names]
    rounds, a_round = 20, 100

    senders = [Sender(name) for name in names]
    for part in range(rounds):
        frames = Prepared(numbered(a_round, part * a_round))
        for sender in senders:
            sender.send_many(frames)
        # A virtual bus is fed faster than any wire; more than 1,000 would not fit the kernel's
        # queue before the sockets.
        for reading in readings:
            wait_until(reading.has_accounted_for((part + 1) * a_round))
    for sender in senders:
        sender.close()

    for reading in readings:
        reading.stop()
        assert reading.numbers() == list(range(rounds * a_round))
        assert reading.times() == sorted(reading.times())
        assert reading.source.counts == {
            "dropped": 0,
            "filtered": 0,
            "bad_lines": 0,
            "clamped": 0,
        }


class TestFilters:
    def test_only_what_passes_is_seen_and_error_frames_always(
        self, vcan: Links, read: Read
    ) -> None:
        name = vcan()
        reading = read(
            name, filters=[(0x100, 0x700 | EXTENDED), (0x18FEF100 | EXTENDED, 0x9FFFFFFF)]
        ).start()
        with Sender(name) as sender:
            sender.send(
                classic(0x101),
                classic(0x201),
                classic(0x18FEF100 | EXTENDED),
                classic(0x18FEF101 | EXTENDED),
                classic(0x40 | ERROR, bytes(8)),
                classic(0x1FF),
            )
            wait_until(lambda: reading.count() >= 4)
        reading.stop()

        seen = [i for block in reading.blocks() for i in block.id.tolist()]
        assert seen == [0x101, 0x18FEF100 | EXTENDED, 0x40 | ERROR, 0x1FF]

    def test_512_are_taken(self, vcan: Links, read: Read) -> None:
        name = vcan()
        reading = read(name, filters=[(n, 0x7FF) for n in range(512)]).start()
        with Sender(name) as sender:
            sender.send(*(classic(n) for n in range(0x800)))
            wait_until(lambda: reading.count() >= 512)
        reading.stop()

        assert [i for block in reading.blocks() for i in block.id.tolist()] == list(range(512))

    def test_513_are_refused(self, vcan: Links) -> None:
        with pytest.raises(BusError, match="513 filters are more than the 512"):
            CanSocket(vcan(), filters=[(n, 0x7FF) for n in range(513)])

    def test_they_change_while_frames_come(self, vcan: Links, read: Read) -> None:
        name = vcan()
        witness = Witness(name)
        reading = read(name, block_ms=10).start()
        passing: list[Filters | None] = [None, [(2, 0x7FF)], [], None]
        with Sender(name) as sender:
            for turn, filters in enumerate(passing, start=1):
                reading.source.set_filters(filters)
                sender.send(classic(1, bytes(8)), classic(2, bytes(8)))
                witness.hears(2 * turn)
        reading.stop()
        witness.close()

        seen = [i for block in reading.blocks() for i in block.id.tolist()]
        assert seen == [1, 2, 2, 1, 2]

    def test_a_change_loses_and_doubles_no_frame(self, vcan: Links, read: Read) -> None:
        name = vcan()
        reading = read(name).start()
        stop = threading.Event()

        def change() -> None:
            while not stop.is_set():
                reading.source.set_filters([(0, 0)])
                reading.source.set_filters(None)

        changing = threading.Thread(target=change)
        changing.start()
        with Sender(name) as sender:
            for part in range(20):
                sender.send_many(Prepared(numbered(100, part * 100)))
        stop.set()
        changing.join()
        wait_until(lambda: reading.count() >= 2000)
        reading.stop()

        assert reading.numbers() == list(range(2000))

    def test_what_they_hide_is_counted_to_the_frame(self, vcan: Links, read: Read) -> None:
        name = vcan()
        witness = Witness(name)
        reading = read(name, filters=[(0x100, 0x700)]).start()
        error = classic(0x40 | ERROR, bytes(8))
        parts, a_part = 70, 0x100
        with Sender(name) as sender, Sender(name) as other:
            for part in range(parts):
                sender.send_many(Prepared(numbered(a_part, part * a_part)))
                other.send(classic(0x123), classic(0x223, bytes(8)), fd(0x323, bytes(64)), error)
                witness.hears((part + 1) * (a_part + 4))
        reading.stop()
        witness.close()

        assert reading.count() == parts // 7 * a_part + parts * 2
        assert reading.source.counts["dropped"] == 0
        assert reading.source.counts["filtered"] == parts * (a_part + 4) - reading.count()

    def test_all_frames_add_up_also_where_some_are_lost(self, vcan: Links, read: Read) -> None:
        name = vcan()
        reading = read(name, filters=[(0x100, 0x700)], receive_buffer_bytes=10_000).start()
        with Sender(name) as sender:
            for part in range(50):
                sender.send_many(Prepared(numbered(0x700, part * 0x700)))
        wait_until(lambda: reading.source.counts["filtered"] > 0)
        reading.stop()

        counts = reading.source.counts
        assert counts["dropped"] > 0
        assert reading.count() + counts["dropped"] + counts["filtered"] == 50 * 0x700

    def test_nothing_is_hidden_where_everything_passes(self, vcan: Links, read: Read) -> None:
        name = vcan()
        reading = read(name, filters=[(0, 0)]).start()
        load = Load(name)
        load.start()
        wait_until(lambda: len(reading.blocks()) >= 6)  # some seconds
        load.end()
        reading.stop()

        assert reading.count() == load.sent
        assert reading.source.counts["filtered"] == 0

    def test_what_they_hide_is_counted_while_the_interface_comes_and_goes(
        self, vcan: Links, read: Read
    ) -> None:
        name = vcan()
        reading = read(name, filters=[]).start()
        hidden = 0
        for change, back in ((vcan.down, vcan.up), (vcan.remove, vcan.add)) * 2:
            with Sender(name) as sender:
                sender.send_many(Prepared(numbered(200)))
            hidden += 200
            wait_until(lambda hidden=hidden: reading.source.counts["filtered"] == hidden)  # type: ignore[misc]
            change(name)
            wait_until(lambda: reading.source.state.startswith("waiting: "))
            back(name)
            wait_until(lambda: reading.source.state == "reading")
        reading.stop()

        assert reading.count() == 0
        assert reading.source.counts["filtered"] == hidden


def _taken(opened: CanSocket) -> int:
    return opened.waiting + (opened.drops() or 0)


class Witness:
    """Another node of the bus: what it has heard is in the sockets, and not on its way any more."""

    def __init__(self, interface: str) -> None:
        self._socket = CanSocket(interface)
        self._heard: list[int] = []

    def hears(self, sent: int) -> None:
        """Wait until it has heard so many frames in all."""
        wait_until(lambda: self._listen() >= sent)

    def heard(self) -> list[int]:
        self._listen()
        return self._heard

    def _listen(self) -> int:
        with contextlib.suppress(OSError):  # told once, when the interface has gone down
            self._socket.receive()
        self._heard += numbers(_block(parse(self._socket.messages())))
        self._socket.clear()
        return len(self._heard)

    def close(self) -> None:
        self._socket.close()


class TestOverflow:
    def test_what_a_reader_that_is_held_back_misses_is_counted_exactly(
        self, vcan: Links, read: Read
    ) -> None:
        name = vcan()
        witness = Witness(name)
        reading = read(name, block_ms=10, receive_buffer_bytes=30_000).start()
        sent = 0
        with Sender(name) as sender:
            for _ in range(3):
                reading.go.clear()
                for _ in range(10):
                    sent += sender.send_many(Prepared(numbered(500, sent)))
                    witness.hears(sent)
                reading.go.set()
                wait_until(reading.has_accounted_for(sent))
        reading.stop()
        witness.close()

        counts = reading.source.counts
        assert counts["dropped"] > 0
        assert reading.count() + counts["dropped"] == sent
        assert reading.rows("Dropped")[-1] == counts["dropped"]
        assert reading.numbers() == sorted(set(reading.numbers()))

    def test_what_is_lost_before_the_socket_is_counted_too(self, vcan: Links, read: Read) -> None:
        # So much at once may overflow the kernel's queue before the sockets; nothing hides that.
        name = vcan()
        reading = read(name, block_ms=10).start()
        sent = 0
        with Sender(name) as sender:
            for _ in range(10):
                sent += sender.send_many(Prepared(numbered(3000, sent)))
        wait_until(reading.has_accounted_for(sent))
        reading.stop()

        assert reading.count() + reading.source.counts["dropped"] == sent

    def test_the_count_is_that_of_the_kernel(self, vcan: Links) -> None:
        name = vcan()
        opened = CanSocket(name, receive_buffer_bytes=10_000)
        with Sender(name) as sender:
            sender.send_many(Prepared(numbered(300)))
            wait_until(lambda: opened.receive() == 0 and _taken(opened) == 300)
            before = opened.waiting
            sender.send(classic(1, bytes(8)))
            wait_until(lambda: opened.receive() == 1)
        frames = parse(opened.messages())

        assert 0 < before < 300
        assert opened.drops() == frames.drops == 300 - before
        opened.close()

    def test_what_is_dropped_at_the_very_end_is_counted_too(self, vcan: Links, read: Read) -> None:
        name = vcan()
        witness = Witness(name)
        reading = read(name, block_ms=10, receive_buffer_bytes=10_000).start()
        reading.go.clear()
        with Sender(name) as sender:
            sender.send(classic(1, bytes(8)))
            wait_until(lambda: reading.source.counts["dropped"] == 0)
            sent = 1 + sender.send_many(Prepared(numbered(600)))
            witness.hears(sent)
            witness.close()
        stopping = threading.Thread(target=reading.stop)
        stopping.start()
        reading.go.set()
        stopping.join()

        assert reading.count() + reading.source.counts["dropped"] == sent


class Load(threading.Thread):
    """Sends numbered frames on one interface until it is told to stop; counts them."""

    def __init__(self, interface: str) -> None:
        super().__init__(daemon=True)
        self._interface = interface
        self.stop = threading.Event()
        self.sent = 0

    def run(self) -> None:
        with Sender(self._interface) as sender:
            while not self.stop.wait(0.002):
                self.sent += sender.send_many(Prepared(numbered(10, self.sent)))

    def end(self) -> None:
        self.stop.set()
        self.join()


class TestInterfaces:
    """They go down, away, and come back, while the other buses go on."""

    def test_down_and_up_again(self, vcan: Links, read: Read) -> None:
        name, other = vcan(), vcan()
        witness = Witness(name)
        reading, steady = read(name, block_ms=20).start(), read(other, block_ms=20).start()
        load = Load(other)
        load.start()
        for turn in range(3):
            with Sender(name) as sender:
                sender.send(*numbered(10, 10 * turn))
            witness.hears(10 * (turn + 1))
            vcan.down(name)
            wait_until(lambda: reading.source.state == f"waiting: {name} is down")
            vcan.up(name)
            wait_until(lambda: reading.source.state == "reading")
        load.end()
        wait_until(lambda: steady.count() >= load.sent)
        reading.stop()
        steady.stop()
        witness.close()

        assert reading.numbers() == list(range(30))
        assert reading.rows("State") == [0, 4, 0, 4, 0, 4, 0]
        assert steady.numbers() == list(range(load.sent))
        assert steady.rows("State") == [0]
        assert steady.source.counts["dropped"] == reading.source.counts["dropped"] == 0

    def test_deleted_and_made_again_under_load(self, vcan: Links, read: Read) -> None:
        name, other = vcan(), vcan()
        reading, steady = read(name, block_ms=20).start(), read(other, block_ms=20).start()
        load = Load(other)
        load.start()
        for turn in range(3):
            witness = Witness(name)
            with Sender(name) as sender:
                sender.send(*numbered(200, 200 * turn))
            witness.hears(200)
            witness.close()
            vcan.remove(name)
            wait_until(lambda: reading.source.state == f"waiting: there is no interface {name}")
            vcan.add(name)
            wait_until(lambda: reading.source.state == "reading")
        with Sender(name) as sender:
            sender.send(*numbered(10, 600))
        wait_until(lambda: reading.count() >= 610)
        load.end()
        wait_until(lambda: steady.count() >= load.sent)
        reading.stop()
        steady.stop()

        assert reading.numbers() == list(range(610)), "also what waited when it was taken away"
        assert reading.rows("State") == [0, 4, 0, 4, 0, 4, 0]
        assert steady.numbers() == list(range(load.sent))
        assert steady.source.counts == {
            "dropped": 0,
            "filtered": 0,
            "bad_lines": 0,
            "clamped": 0,
        }

    def test_missing_at_the_start(self, vcan: Links, read: Read) -> None:
        name = vcan()
        vcan.remove(name)
        reading = read(name, block_ms=20).start(f"waiting: there is no interface {name}")

        vcan.add(name)
        wait_until(lambda: reading.source.state == "reading")
        with Sender(name) as sender:
            sender.send(*numbered(3))
        wait_until(lambda: reading.count() == 3)

    def test_down_at_the_start(self, vcan: Links, read: Read) -> None:
        name = vcan()
        vcan.down(name)
        reading = read(name, block_ms=20).start(f"waiting: {name} is down")

        vcan.up(name)
        wait_until(lambda: reading.source.state == "reading")
        with Sender(name) as sender:
            sender.send(*numbered(3))
        wait_until(lambda: reading.count() == 3)

    def test_renamed_and_named_back(self, vcan: Links, read: Read) -> None:
        name = vcan()
        reading = read(name, block_ms=20).start()

        vcan.down(name)
        vcan.link("set", name, "name", "elsewhere0")
        wait_until(lambda: reading.source.state == f"waiting: there is no interface {name}")
        vcan.link("set", "elsewhere0", "name", name)
        vcan.up(name)
        wait_until(lambda: reading.source.state == "reading")
        with Sender(name) as sender:
            sender.send(*numbered(3))
        wait_until(lambda: reading.count() == 3)

        assert reading.rows("State") == [0, 4, 0]

    def test_down_and_up_at_once_under_load_goes_on(self, vcan: Links, read: Read) -> None:
        name = vcan()
        reading = read(name, block_ms=20).start()
        for turn in range(20):
            vcan.down(name)
            vcan.up(name)
            with Sender(name) as sender:
                sender.send(*numbered(5, 5 * turn))
        wait_until(lambda: reading.count() >= 100)
        reading.stop()

        assert reading.numbers() == list(range(100))


def test_a_virtual_bus_cannot_be_listen_only_and_is_refused_where_that_is_required(
    vcan: Links,
) -> None:
    name = vcan()
    with pytest.raises(BusError, match=f"{name} cannot be listen-only, and bus powertrain"):
        SocketCanSource("powertrain", name, require_listen_only=True)


def test_nothing_is_ever_sent(vcan: Links, read: Read) -> None:
    name = vcan()
    witness = Witness(name)
    reading = read(name, block_ms=20).start()
    with Sender(name) as sender:
        sender.send(*numbered(50))
        wait_until(lambda: reading.count() == 50)
        reading.source.set_filters([])
        reading.source.set_filters(None)
    vcan.down(name)
    wait_until(lambda: reading.source.state != "reading")
    vcan.up(name)
    wait_until(lambda: reading.source.state == "reading")
    reading.stop()

    # The kernel's own count of what left, and what another node has heard.
    info = link(name)
    assert info is not None
    assert info.statistics is not None
    assert info.statistics.tx_packets == 50
    witness.hears(50)
    assert witness.heard() == list(range(50))
    witness.close()


def _block(frames: Any) -> FrameBlock:
    return FrameBlock("heard", frames.stamp, frames.id, frames.length, frames.flags, frames.data)


@pytest.mark.vm_guest
class TestClock:
    """The wall clock is set while frames come."""

    @pytest.fixture
    def wall(self) -> Iterator[Callable[[int], None]]:
        """Sets the wall clock; the right time comes back afterwards."""
        offset = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)

        def set_to(ns: int) -> None:
            time.clock_settime_ns(time.CLOCK_REALTIME, ns)

        yield set_to
        set_to(offset + time.clock_gettime_ns(time.CLOCK_BOOTTIME))

    @pytest.mark.parametrize("hardware_stamps", [False, True])
    def test_from_1970_to_now_under_load_every_frame_stays_in_its_place(
        self,
        vcan: Links,
        read: Read,
        wall: Callable[[int], None],
        *,
        hardware_stamps: bool,
    ) -> None:
        name = vcan()
        now = time.time_ns()
        # A board without a battery: as long after 1970 as it is up (the kernel allows no less).
        booted = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 5 * 10**9
        wall(booted)
        reading = read(name, block_ms=100, hardware_stamps=hardware_stamps).start()
        clock = SystemClock()
        before, after = [], []
        steps = {200: now, 400: booted + 30 * 10**9, 600: now + 3600 * 10**9, 800: now}
        with Sender(name) as sender:
            for frame, number in zip(numbered(1000), range(1000), strict=True):
                if number in steps:
                    wall(steps[number])
                before.append(clock.boot())
                sender.send(frame)
                after.append(clock.boot())
                quiet_for(0.001)
        wait_until(lambda: reading.count() == 1000)
        reading.stop()

        times = np.array(reading.times())
        assert reading.numbers() == list(range(1000))
        assert (np.diff(times) >= 0).all()
        # The clocks are read at once, but not in no time.
        tolerance = 2_000_000
        assert (times >= np.array(before) - tolerance).all()
        assert (times <= np.array(after) + tolerance).all()
        assert reading.source.counts["clamped"] == 0


def test_an_early_socket_loses_nothing_while_the_rest_is_imported(vcan: Links, read: Read) -> None:
    name = vcan()
    opened = CanSocket(name, receive_buffer_bytes=100_000, slots=256)
    early = EarlyReader([opened])
    early.start()
    with Sender(name) as sender:
        for part in range(20):
            sender.send_many(Prepared(numbered(50, part * 50)))
            quiet_for(0.02)
        reading = read(name, early=early.hand_over(opened))
        early.stop()
        reading.start()
        sender.send_many(Prepared(numbered(50, 1000)))
        wait_until(lambda: reading.count() >= 1050)
    reading.stop()

    assert reading.numbers() == list(range(1050))
    assert reading.source.counts == {
        "dropped": 0,
        "filtered": 0,
        "bad_lines": 0,
        "clamped": 0,
    }


def test_the_buffer_that_was_granted_is_told(vcan: Links, read: Read) -> None:
    limit = int(Path("/proc/sys/net/core/rmem_max").read_text("ascii"))
    reading = read(vcan(), receive_buffer_bytes=4 * limit).start()

    assert reading.source.buffer_bytes == 8 * limit, "root is not bound by the limit"
