"""Interfaces as the kernel describes them: messages made byte by byte, a scripted and the real one.

Numbers and layouts here are those of linux/netlink.h, linux/if_link.h and linux/can/netlink.h.
"""

import contextlib
import errno
import itertools
import select
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.bus.linkmessage import (
    Answer,
    CanCounters,
    LinkEvent,
    LinkInfo,
    LinkStatistics,
    parse_events,
)
from agent.bus.netlink import LinkWatch, link, links
from agent.errors import BusError

NEW_LINK, DEL_LINK, ERROR, DONE, NOOP = 16, 17, 2, 3, 1
MULTI, INTERRUPTED = 0x02, 0x10
UP, RUNNING = 0x01, 0x40
LOOPBACK_HARDWARE, CAN_HARDWARE = 772, 280
IFNAME, MTU, OPERSTATE, LINKINFO, STATS64 = 3, 4, 16, 18, 23
KIND, DATA, XSTATS = 1, 2, 3


def u32(*values: int) -> bytes:
    return struct.pack(f"={len(values)}I", *values)


def attribute(kind: int, *parts: bytes, size: int | None = None) -> bytes:
    """With `size`, the length that it claims to have."""
    value = b"".join(parts)
    claimed = 4 + len(value) if size is None else size
    return struct.pack("=HH", claimed, kind) + value + bytes(-len(value) % 4)


def about(
    *attributes: bytes,
    name: str = "can0",
    index: int = 7,
    flags: int = UP | RUNNING,
    hardware: int = CAN_HARDWARE,
    family: int = 0,
) -> bytes:
    """The payload of a message about an interface."""
    header = struct.pack("=BBHiII", family, 0, hardware, index, flags, 0)
    return header + attribute(IFNAME, name.encode() + b"\0") + b"".join(attributes)


def message(kind: int, payload: bytes, *, flags: int = 0, sequence: int = 1) -> bytes:
    size = 16 + len(payload)
    return struct.pack("=IHHII", size, kind, flags, sequence, 0) + payload + bytes(-size % 4)


def parsed(*attributes: bytes, **header: Any) -> LinkInfo:
    (event,) = parse_events(message(NEW_LINK, about(*attributes, **header)))
    assert event.info is not None
    return event.info


def bit_timing(bitrate: int, sample_point: int) -> bytes:
    return u32(bitrate, sample_point, 25, 13, 14, 12, 1, 2)


def controller(*data: bytes, counters: bytes = u32(1, 2, 3, 4, 5, 6)) -> bytes:
    return attribute(
        LINKINFO, attribute(KIND, b"can\0"), attribute(XSTATS, counters), attribute(DATA, *data)
    )


FULL: Final = (
    attribute(MTU, u32(72)),
    attribute(OPERSTATE, b"\x06"),
    attribute(STATS64, struct.pack("=25Q", *range(100, 125))),
    controller(
        attribute(1, bit_timing(500_000, 875)),
        attribute(2, b"mcp251xfd".ljust(16, b"\0"), u32(*range(8))),  # constants of the hardware
        attribute(3, u32(40_000_000)),  # its clock
        attribute(4, u32(2)),  # error passive
        attribute(5, u32(0, 0x02 | 0x10 | 0x20)),  # listen only, bus error reports, FD
        attribute(6, u32(100)),
        attribute(8, struct.pack("=HH", 12, 130)),
        attribute(9, bit_timing(2_000_000, 750)),
        attribute(11, struct.pack("=H", 120)),  # termination
        attribute(0x8000 | 16, attribute(7, u32(1))),  # nested, flagged so
        attribute(99, b"of a later kernel"),
    ),
    attribute(0x8000 | 26, attribute(2, attribute(1, u32(1)))),
    attribute(500),
)

# The answer of Linux 6.1 about an slcan adapter (500 kbit/s, listen only) that just went bus-off
# after three frames, a warning and error passive.
REAL: Final = (
    bytes.fromhex(
        "8003000010000000010000002b23e186000018010b000000c1000000000000000900030063616e30"
        "0000000008000d000a00000005001000060000000500110000000000080004001000000008003200"
        "00000000080033000000000008001b000000000008001e000000000008003d000000000008001f00"
        "0100000008002800ffff0000080029000000010008003a000000010008003b000000010008003c00"
        "ffff000005002100000000000f000600706669666f5f666173740000080023000200000008002f00"
        "010000000800300001000000050027000000000024000e0000000000000000000000000000000000"
        "0000000000000000000000000000000004002a00cc00170003000000000000000000000000000000"
        "06000000000000000000000000000000000000000000000002"
    )
    + bytes(156)
    + bytes.fromhex("00000064000700030000000000000006000000000000000000000002")
    + bytes(72)
    + bytes.fromhex(
        "0000000c002b000500020000000000b00012000800010063616e001c000300000000000100000001"
        "000000010000000000000000000000880002002400010020a1070000000000000000000000000000"
        "000000000000000000000000000000080003000000000008000400030000000c0005000000000002"
        "000000080006000000000028000d0010270000204e000050c30000a086010048e8010090d0030020"
        "a1070000350c0040420f0008000f00000000000c001180080001000200000090001a008c00020088"
        "000100000000000000000000000000010000000100000001000000010000000000000001"
    )
    + bytes(68)
    + bytes.fromhex("00000010270000e80300000000000000000000000000000000000001000000")
)


def test_a_can_controller_is_described_in_full() -> None:
    info = parsed(*FULL)

    assert info == LinkInfo(
        index=7,
        name="can0",
        kind="can",
        can=True,
        up=True,
        running=True,
        operstate="up",
        mtu=72,
        statistics=LinkStatistics(*range(100, 119)),
        state="passive",
        bitrate=500_000,
        sample_point=0.875,
        data_bitrate=2_000_000,
        data_sample_point=0.75,
        listen_only=True,
        loopback=False,
        fd=True,
        restart_ms=100,
        tx_errors=12,
        rx_errors=130,
        counters=CanCounters(
            bus_error=1,
            error_warning=2,
            error_passive=3,
            bus_off=4,
            arbitration_lost=5,
            restarts=6,
        ),
    )


def test_the_answer_of_a_real_kernel_about_a_real_controller_is_read() -> None:
    answer = Answer()

    assert answer.feed(REAL)

    (info,) = answer.links
    assert (info.index, info.name, info.kind, info.mtu) == (11, "can0", "can", 16)
    assert (info.state, info.bitrate, info.listen_only) == ("off", 500_000, True)
    assert info.counters == CanCounters(
        bus_error=0, error_warning=1, error_passive=1, bus_off=1, arbitration_lost=0, restarts=0
    )
    assert info.statistics is not None
    assert (info.statistics.rx_packets, info.statistics.rx_bytes) == (3, 6)
    assert (info.sample_point, info.tx_errors, info.rx_errors) == (None, None, None)


@pytest.mark.parametrize(
    ("number", "state"),
    [
        (0, "active"),
        (1, "warning"),
        (2, "passive"),
        (3, "off"),
        (4, "stopped"),
        (5, "sleeping"),
        (6, None),
        (0xFFFF_FFFF, None),
    ],
)
def test_states_have_names_and_those_of_a_later_kernel_have_none(
    number: int, state: str | None
) -> None:
    assert parsed(controller(attribute(4, u32(number)))).state == state


@pytest.mark.parametrize("bitrate", [0, 0xFFFF_FFFF])
def test_a_bit_rate_that_nobody_has_set_is_no_bit_rate(bitrate: int) -> None:
    info = parsed(controller(attribute(1, bit_timing(bitrate, 0))))

    assert (info.bitrate, info.sample_point) == (None, None)


@pytest.mark.parametrize(
    "flag_and_field", [(0x01, "loopback"), (0x02, "listen_only"), (0x20, "fd")]
)
def test_each_mode_is_a_flag_of_its_own(flag_and_field: tuple[int, str]) -> None:
    flag, field = flag_and_field

    info = parsed(controller(attribute(5, u32(0, flag))))

    assert {name for name in ("loopback", "listen_only", "fd") if getattr(info, name)} == {field}


def test_a_virtual_bus_has_no_controller() -> None:
    info = parsed(attribute(LINKINFO, attribute(KIND, b"vcan\0")), name="vcan0")

    assert (info.kind, info.can) == ("vcan", True)
    assert (info.state, info.bitrate, info.listen_only, info.counters) == (None, None, None, None)


def test_an_interface_of_which_the_kernel_names_no_driver_has_no_kind() -> None:
    assert (parsed().kind, parsed().can) == ("", True)
    assert not parsed(hardware=LOOPBACK_HARDWARE).can


def test_attributes_of_another_kind_are_not_taken_for_those_of_a_controller() -> None:
    vlan = attribute(LINKINFO, attribute(KIND, b"vlan\0"), attribute(DATA, attribute(1, b"\x05\0")))

    info = parsed(vlan, hardware=1)

    assert (info.kind, info.bitrate) == ("vlan", None)


def test_up_and_running_are_different_things() -> None:
    bus_off = parsed(attribute(OPERSTATE, b"\x02"), flags=UP)

    assert (bus_off.up, bus_off.running, bus_off.operstate) == (True, False, "down")


def test_a_name_that_is_no_text_is_still_printable() -> None:
    broken = attribute(IFNAME, b"can\xff\0")

    assert parsed(broken).name == "can\\xff"


@pytest.mark.parametrize(
    "attributes",
    [
        attribute(MTU, b"\x48\0"),
        attribute(STATS64, struct.pack("=18Q", *range(18))),
        attribute(LINKINFO, b"\0\0"),
        controller(attribute(1, u32(500_000))),
        controller(attribute(4, b"\x02")),
        controller(attribute(5, u32(2))),
        controller(attribute(6, b"")),
        controller(attribute(8, b"\x0c\0\x82")),
        controller(counters=u32(1, 2, 3, 4, 5)),
    ],
)
def test_a_value_that_is_too_short_is_no_answer(attributes: bytes) -> None:
    with pytest.raises(BusError, match="ends early"):
        parsed(attributes)


@pytest.mark.parametrize("size", [0, 1, 3, 9, 4_000, 65_535])
@pytest.mark.parametrize(
    "nest",
    [
        lambda wrong: wrong,
        lambda wrong: attribute(LINKINFO, wrong),
        lambda wrong: attribute(LINKINFO, attribute(KIND, b"can\0"), attribute(DATA, wrong)),
    ],
)
def test_a_length_that_is_not_that_of_its_bytes_is_no_answer(
    size: int, nest: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(BusError, match=f"gives its length as {size}"):
        parsed(nest(attribute(6, u32(100), size=size)))


def test_an_interface_without_a_name_is_no_answer() -> None:
    with pytest.raises(BusError, match="no name"):
        parsed(name="")


class TestEvents:
    def test_an_interface_that_is_deleted_is_gone_and_neither_up_nor_running(self) -> None:
        datagram = message(NEW_LINK, about(flags=0)) + message(DEL_LINK, about(name="can1"))

        first, second = parse_events(datagram)

        assert (first.name, first.index, first.gone, first.up) == ("can0", 7, False, False)
        assert (second.name, second.gone, second.up, second.running) == ("can1", True, False, False)

    def test_a_port_that_leaves_its_bridge_is_not_gone(self) -> None:
        assert parse_events(message(DEL_LINK, about(family=socket.AF_BRIDGE))) == []

    def test_messages_of_other_types_are_skipped(self) -> None:
        assert parse_events(message(NOOP, b"") + message(20, b"an address")) == []


Reader = Callable[[bytes], object]


def read_events(datagram: bytes) -> object:
    return parse_events(datagram)


def read_answer(datagram: bytes) -> object:
    return Answer().feed(datagram)


readers = st.sampled_from((read_events, read_answer))
originals = st.sampled_from((REAL, message(NEW_LINK, about(*FULL), flags=MULTI)))


def survives(reader: Reader, datagram: bytes) -> None:
    with contextlib.suppress(BusError):
        reader(datagram)


class TestHostileBytes:
    """Any bytes give a result or a `BusError`, and always an end."""

    @given(readers, st.binary(max_size=200))
    def test_random(self, reader: Reader, datagram: bytes) -> None:
        survives(reader, datagram)

    @given(
        readers,
        st.integers(0, 20),
        st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 30), st.binary(max_size=40))),
    )
    def test_random_attributes_behind_valid_headers(
        self, reader: Reader, kind: int, attributes: list[tuple[int, int, bytes]]
    ) -> None:
        parts = [attribute(number, value, size=size) for size, number, value in attributes]
        survives(reader, message(kind, about(*parts)))
        survives(reader, message(NEW_LINK, about(controller(*parts))))

    @given(readers, originals, st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=8))
    def test_bytes_that_were_changed(
        self, reader: Reader, original: bytes, changes: list[tuple[int, int]]
    ) -> None:
        datagram = bytearray(original)
        for place, value in changes:
            datagram[place % len(datagram)] = value
        survives(reader, bytes(datagram))

    @given(readers, originals, st.integers(0), st.integers(0, 0xFFFF))
    def test_any_length_at_any_place(
        self, reader: Reader, original: bytes, place: int, size: int
    ) -> None:
        at = place % (len(original) // 4) * 4
        survives(reader, original[:at] + struct.pack("=H", size) + original[at + 2 :])

    @given(readers, originals, st.integers(0))
    def test_what_ends_early(self, reader: Reader, original: bytes, size: int) -> None:
        cut = original[: size % len(original)]

        if cut:
            with pytest.raises(BusError):
                reader(cut)
        else:
            reader(cut)


class Kernel:
    """Answers in the kernel's place: for each socket that is asked for, the next datagrams."""

    def __init__(self, *answers: tuple[bytes, ...]) -> None:
        self._answers = iter(answers)
        self._ends: list[socket.socket] = []

    def __call__(self) -> socket.socket:
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ends.append(mine)
        for datagram in next(self._answers, ()):
            mine.send(datagram)
        return theirs

    def tell(self, datagram: bytes) -> None:
        self._ends[-1].send(datagram)

    def close(self) -> None:
        for end in self._ends:
            end.close()


@pytest.fixture
def kernel() -> Iterator[Callable[..., Kernel]]:
    made: list[Kernel] = []

    def make(*answers: tuple[bytes, ...]) -> Kernel:
        made.append(Kernel(*answers))
        return made[-1]

    yield make
    for one in made:
        one.close()


def refusal(number: int) -> bytes:
    return message(ERROR, struct.pack("=i", -number) + bytes(16))


def part(name: str, index: int, *, flags: int = 0) -> bytes:
    return message(NEW_LINK, about(name=name, index=index), flags=MULTI | flags)


END: Final = message(DONE, struct.pack("=i", 0), flags=MULTI)


class TestAsking:
    def test_no_such_interface_is_none(self, kernel: Callable[..., Kernel]) -> None:
        assert link("can9", connect=kernel((refusal(errno.ENODEV),))) is None

    def test_another_refusal_is_an_error_with_its_reason(
        self, kernel: Callable[..., Kernel]
    ) -> None:
        with pytest.raises(BusError, match=r"about interface can9 \(Operation not permitted\)"):
            link("can9", connect=kernel((refusal(errno.EPERM),)))
        with pytest.raises(BusError, match="about interfaces"):
            links(connect=kernel((refusal(errno.EPERM),)))

    def test_an_answer_in_several_datagrams_is_put_together(
        self, kernel: Callable[..., Kernel]
    ) -> None:
        answers = (part("can1", 4) + part("can0", 3), part("lo", 1), END)

        assert [info.name for info in links(connect=kernel(answers))] == ["lo", "can0", "can1"]

    def test_a_refusal_in_the_midst_of_a_list_is_an_error(
        self, kernel: Callable[..., Kernel]
    ) -> None:
        end = message(DONE, struct.pack("=i", -errno.ENOMEM), flags=MULTI)

        with pytest.raises(BusError, match="Cannot allocate memory"):
            links(connect=kernel((part("lo", 1), end)))

    def test_an_answer_to_another_request_is_skipped(self, kernel: Callable[..., Kernel]) -> None:
        stray = message(NEW_LINK, about(name="stray"), sequence=9)
        answers = (stray, message(NOOP, b""), message(NEW_LINK, about()))

        info = link("can0", connect=kernel(answers))

        assert info is not None
        assert info.name == "can0"

    def test_a_list_that_changed_meanwhile_is_asked_for_anew(
        self, kernel: Callable[..., Kernel]
    ) -> None:
        interrupted = (part("lo", 1), part("lo", 1, flags=INTERRUPTED), END)
        answers = kernel(interrupted, (part("lo", 1), part("can0", 3), END))

        assert [info.name for info in links(connect=answers)] == ["lo", "can0"]

    def test_a_list_that_changes_for_ever_is_given_up(self, kernel: Callable[..., Kernel]) -> None:
        interrupted = (part("lo", 1, flags=INTERRUPTED), END)

        with pytest.raises(BusError, match="change faster"):
            links(connect=kernel(*itertools.repeat(interrupted, 100)))

    def test_no_answer_is_an_error_after_the_time_out(self, kernel: Callable[..., Kernel]) -> None:
        with pytest.raises(BusError, match=r"did not answer about interfaces in 0.01 s"):
            link("can0", timeout_s=0.01, connect=kernel())
        with pytest.raises(BusError, match="did not answer"):
            links(timeout_s=0.01, connect=kernel((part("lo", 1),)))

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (b"", "is empty"),
            (b"no message at all", "gives its length"),
            (message(NEW_LINK, about())[:-8], "gives its length"),
            (message(ERROR, b"\0"), "ends early"),
            (message(ERROR, struct.pack("=i", 5)), "gives 5 as the number"),
            (message(ERROR, struct.pack("=i", -(2**31))), "as the number of an error"),
            (message(ERROR, struct.pack("=i", 0)), "interface can0 is empty"),
            (bytes(70_000), "longer than"),
        ],
    )
    def test_garbage_is_an_error(
        self, kernel: Callable[..., Kernel], answer: bytes, words: str
    ) -> None:
        with pytest.raises(BusError, match=words):
            link("can0", connect=kernel((answer,)))

    @pytest.mark.parametrize("name", ["", "x" * 16, "can0\0", "\udcff" * 9, "nope"])
    def test_a_name_that_no_interface_has_is_none(self, name: str) -> None:
        assert link(name) is None


class Overrun(socket.socket):
    """Says once that it had no room, as the kernel does, and goes on."""

    full = True

    def recvmsg(self, *arguments: Any) -> Any:
        if self.full:
            self.full = False
            raise OSError(errno.ENOBUFS, "No buffer space available")
        return super().recvmsg(*arguments)


class TestWatching:
    def test_events_come_in_their_order_and_are_not_waited_for(
        self, kernel: Callable[..., Kernel]
    ) -> None:
        script = kernel()
        with LinkWatch(connect=script) as watch:
            assert watch.read() == []
            script.tell(message(NEW_LINK, about()))
            script.tell(message(DEL_LINK, about()))

            assert [(event.name, event.gone) for event in watch.read()] == [
                ("can0", False),
                ("can0", True),
            ]
            assert watch.read() == []

    def test_what_the_kernel_had_no_room_for_is_an_overrun_and_the_rest_follows(
        self, kernel: Callable[..., Kernel]
    ) -> None:
        script = kernel()
        plain = script()
        overrun = Overrun(fileno=plain.detach())
        with LinkWatch(connect=lambda: overrun) as watch:
            script.tell(message(NEW_LINK, about()))

            lost, told = watch.read()

        assert lost == LinkEvent(None, overrun=True)
        assert (lost.index, lost.name, lost.up, lost.running) == (0, "", False, False)
        assert (told.name, told.up, told.overrun) == ("can0", True, False)
        assert watch.bad == 0

    @pytest.mark.parametrize(
        "garbage", [b"", b"garbage", message(NEW_LINK, b""), message(NEW_LINK, about()) + b"!"]
    )
    def test_garbage_is_counted_and_reported_as_an_overrun(
        self, kernel: Callable[..., Kernel], garbage: bytes
    ) -> None:
        script = kernel()
        with LinkWatch(connect=script) as watch:
            script.tell(garbage)
            script.tell(message(NEW_LINK, about()))

            events = watch.read()

        assert [(event.overrun, event.name) for event in events] == [(True, ""), (False, "can0")]
        assert watch.bad == 1

    def test_a_closed_watch_says_so(self) -> None:
        watch = LinkWatch()
        watch.close()

        assert watch.fileno() == -1
        with pytest.raises(BusError, match="Bad file descriptor"):
            watch.read()


def system(name: str, field: str) -> str:
    return Path("/sys/class/net", name, field).read_text("ascii").strip()


class TestThisKernel:
    """The real kernel, and its own second opinion in /sys/class/net."""

    def test_the_loopback_interface_is_described(self) -> None:
        info = link("lo")

        assert info is not None
        assert (info.index, info.name, info.kind, info.can) == (1, "lo", "", False)
        assert info.mtu == int(system("lo", "mtu"))
        assert info.up == bool(int(system("lo", "flags"), 16) & UP)
        assert info.operstate == system("lo", "operstate")
        assert info.statistics is not None
        before = int(system("lo", "statistics/rx_packets"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"one more", ("127.0.0.1", 9))
        again = link("lo")
        assert again is not None
        assert again.statistics is not None
        assert again.statistics.rx_packets > before
        assert (again.state, again.listen_only, again.bitrate) == (None, None, None)

    def test_all_interfaces_are_listed(self) -> None:
        listed = {(info.index, info.name, info.mtu, info.operstate, info.can) for info in links()}

        assert listed == {
            (
                int(system(path.name, "ifindex")),
                path.name,
                int(system(path.name, "mtu")),
                system(path.name, "operstate"),
                int(system(path.name, "type")) == CAN_HARDWARE,
            )
            for path in Path("/sys/class/net").iterdir()
        }

    def test_changes_can_be_watched_with_select(self) -> None:
        with LinkWatch() as watch:
            ready = select.select([watch], [], [], 0)[0]
            events = watch.read()

        assert bool(ready) <= bool(events)
        assert all(event.index > 0 for event in events)
