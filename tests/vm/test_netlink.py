"""Interfaces in a kernel with CAN: virtual buses, and a controller that the kernel's slcan makes.

Compared with what iproute2 says.
"""

import fcntl
import json
import os
import pty
import select
import shlex
import socket
import struct
import subprocess
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from agent.blocks import ERROR, FrameBlock, SignalTable
from agent.bus.netlink import LinkEvent, LinkInfo, LinkWatch, link, links
from agent.bus.socketcan import SocketCanSource
from tests.vm.guest import Guest
from tests.vm.links import Links

pytestmark = pytest.mark.vm

N_SLCAN: Final = 17  # linux/tty.h
CAN_RAW_ERR_FILTER: Final = 2  # linux/can/raw.h
ALL_ERRORS: Final = 0x1FFF_FFFF


def ip(*words: str) -> str:
    return subprocess.run(
        ["ip", *words], check=True, capture_output=True, text=True, timeout=20
    ).stdout


def ip_says(name: str) -> dict[str, Any]:
    (entry,) = json.loads(ip("-details", "-statistics", "-json", "link", "show", name))
    return dict(entry)


def asked(name: str) -> LinkInfo:
    info = link(name)
    assert info is not None
    return info


def told(watch: LinkWatch, wanted: Callable[[LinkEvent], bool]) -> LinkEvent:
    """The first event that is wanted; others before it are skipped."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        select.select([watch], [], [], 1)
        for event in watch.read():
            if wanted(event):
                return event
    raise AssertionError("the event did not come")


class TestVirtualBus:
    def test_it_is_described_as_iproute2_does(self, vcan: Links) -> None:
        bus = vcan()

        info, expected = asked(bus), ip_says(bus)

        assert (info.index, info.name) == (expected["ifindex"], bus)
        assert (info.kind, info.mtu) == ("vcan", expected["mtu"])
        assert info.operstate == expected["operstate"].lower()
        assert (info.can, info.up, info.running) == (True, True, True)
        assert (info.state, info.listen_only, info.bitrate) == (None, None, None)

    def test_its_frames_are_counted(self, vcan: Links) -> None:
        bus = vcan()
        with socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW) as sender:
            sender.bind((bus,))
            for _ in range(3):
                sender.send(struct.pack("=IB3x8s", 0x123, 8, bytes(8)))

        statistics, expected = asked(bus).statistics, ip_says(bus)["stats64"]

        assert statistics is not None
        assert (statistics.tx_packets, statistics.tx_bytes) == (3, 24)
        assert statistics.tx_packets == expected["tx"]["packets"]
        assert statistics.rx_packets == expected["rx"]["packets"]

    def test_all_interfaces_are_listed_as_iproute2_does(self, vcan: Links) -> None:
        vcan.down(vcan())
        vcan(mtu=16)

        listed = [
            (info.index, info.name, info.mtu, info.operstate, info.kind, info.up)
            for info in links()
        ]

        assert listed == [
            (
                entry["ifindex"],
                entry["ifname"],
                entry["mtu"],
                entry["operstate"].lower(),
                entry.get("linkinfo", {}).get("info_kind", ""),
                "UP" in entry["flags"],
            )
            for entry in json.loads(ip("-details", "-json", "link", "show"))
        ]

    def test_an_alternative_name_finds_it(self, vcan: Links) -> None:
        bus = vcan()
        ip("link", "property", "add", "dev", bus, "altname", f"{bus}x")

        assert asked(f"{bus}x").name == bus

    def test_its_life_is_told(self, vcan: Links) -> None:
        bus = vcan()
        new_name = f"{bus}x"
        vcan.remove(bus)
        with LinkWatch() as watch:
            vcan.link("add", bus, "type", "vcan")
            added = told(watch, lambda event: event.name == bus)
            vcan.up(bus)
            up = told(watch, lambda event: event.name == bus and event.up)
            vcan.down(bus)
            down = told(watch, lambda event: event.name == bus and not event.up)
            vcan.link("set", bus, "name", new_name)
            renamed = told(watch, lambda event: event.name == new_name)
            vcan.remove(new_name)
            gone = told(watch, lambda event: event.name == new_name and event.gone)

        assert (added.up, added.gone) == (False, False)
        assert (up.running, up.gone) == (True, False)
        assert (down.running, down.gone) == (False, False)
        assert gone.up is False
        assert added.index == up.index == down.index == renamed.index == gone.index
        assert link(bus) is None
        assert link(new_name) is None

    def test_what_comes_faster_than_it_is_read_is_an_overrun(self, vcan: Links) -> None:
        bus = vcan()
        with LinkWatch(receive_bytes=1) as watch:
            for _ in range(20):
                vcan.down(bus)
                vcan.up(bus)
            events = watch.read()
            vcan.down(bus)
            after = told(watch, lambda event: event.name == bus)

        assert [event for event in events if event.overrun]
        assert watch.bad == 0
        assert not after.up


class Adapter:
    """A serial adapter on a pseudo-terminal, of which the kernel makes a CAN controller."""

    def __init__(self) -> None:
        before = {info.index for info in links()}
        self._wire, self._line = pty.openpty()
        tty.setraw(self._line)
        try:
            fcntl.ioctl(self._line, termios.TIOCSETD, struct.pack("i", N_SLCAN))
        except OSError as error:
            pytest.fail(f"this kernel has no slcan (CONFIG_CAN_SLCAN): {error}")
        (self.name,) = (info.name for info in links() if info.index not in before)

    def start(self, *options: str) -> None:
        """Set up and start; what the kernel tells the adapter meanwhile is read and dropped."""
        ip("link", "set", self.name, "type", "can", "bitrate", "500000", *options)
        with subprocess.Popen(["ip", "link", "set", self.name, "up"]) as process:
            while process.poll() is None:
                if select.select([self._wire], [], [], 0.05)[0]:
                    os.read(self._wire, 1024)
            assert process.returncode == 0

    def says(self, line: bytes) -> None:
        """Send a line to the kernel, and wait until the kernel has made a frame of it."""
        with socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW) as reader:
            reader.setsockopt(socket.SOL_CAN_RAW, CAN_RAW_ERR_FILTER, struct.pack("=I", ALL_ERRORS))
            reader.bind((self.name,))
            reader.settimeout(20)
            os.write(self._wire, line + b"\r")
            reader.recv(16)

    def hears(self, line: bytes) -> None:
        """Wait until the kernel has told it this line."""
        told = b""
        while not told.endswith(line + b"\r"):
            assert select.select([self._wire], [], [], 20)[0], told
            told += os.read(self._wire, 1024)

    def unplug(self) -> None:
        for descriptor in (self._wire, self._line):
            os.close(descriptor)


@pytest.fixture
def adapter() -> Iterator[Adapter]:
    made = Adapter()
    yield made
    made.unplug()


class TestController:
    def test_before_it_is_set_up_it_has_no_bit_rate(self, adapter: Adapter) -> None:
        info = asked(adapter.name)

        assert (info.kind, info.can, info.up) == ("can", True, False)
        assert (info.state, info.bitrate) == ("stopped", None)
        assert (info.listen_only, info.loopback, info.fd) == (False, False, False)

    @pytest.mark.parametrize("mode", ["on", "off"])
    def test_it_is_described_as_iproute2_does(self, adapter: Adapter, mode: str) -> None:
        adapter.start("listen-only", mode)
        adapter.says(b"t1232AABB")

        info, expected = asked(adapter.name), ip_says(adapter.name)

        controller = expected["linkinfo"]["info_data"]
        assert info.bitrate == controller["bittiming_bitrate"] == 500_000
        assert info.listen_only == ("LISTEN-ONLY" in controller.get("ctrlmode", []))
        assert info.listen_only == (mode == "on")
        assert info.state == controller["state"].lower().removeprefix("error-") == "active"
        assert info.restart_ms == controller["restart_ms"]
        assert info.statistics is not None
        assert info.statistics.rx_packets == expected["stats64"]["rx"]["packets"] == 1

    def test_errors_are_seen_in_its_state_and_its_counters(self, adapter: Adapter) -> None:
        adapter.start()
        states = []
        for line in (b"sw100002", b"sp128200", b"sb255000"):  # warning, passive, bus-off
            adapter.says(line)
            states.append(asked(adapter.name).state)
        counters = asked(adapter.name).counters

        assert states == ["warning", "passive", "off"]
        assert counters is not None
        expected = ip_says(adapter.name)["linkinfo"]["info_xstats"]
        assert counters.error_warning == expected["error_warning"] == 1
        assert counters.error_passive == expected["error_passive"] == 1
        assert counters.bus_off == expected["bus_off"] == 1
        assert counters.bus_error == expected["bus_error"]
        assert counters.restarts == expected["restarts"] == 0

    def test_bus_off_is_told_because_the_carrier_is_lost(self, adapter: Adapter) -> None:
        adapter.start()
        with LinkWatch() as watch:
            adapter.says(b"sb255000")
            off = told(watch, lambda event: event.name == adapter.name and not event.running)

        assert (off.up, off.gone) == (True, False)
        assert off.info is not None
        assert (off.info.state, off.info.operstate) == ("off", "down")

    def test_unplugged_it_is_gone(self) -> None:
        adapter = Adapter()
        adapter.start()
        with LinkWatch() as watch:
            adapter.unplug()
            gone = told(watch, lambda event: event.gone)

        assert gone.name == adapter.name
        assert link(adapter.name) is None

    def test_what_filters_hide_on_it_is_counted_also_of_what_this_computer_sends(
        self, adapter: Adapter
    ) -> None:
        adapter.start()
        source = SocketCanSource("powertrain", adapter.name, filters=[(0x123, 0x7FF)])
        delivered: list[FrameBlock | SignalTable] = []
        stop = threading.Event()
        thread = threading.Thread(target=source.run, args=(delivered.append, stop), daemon=True)
        thread.start()
        _until(lambda: source.state == "reading")

        for line in (b"t1230", b"t1240", b"t1250", b"t1260", b"sw100002"):
            adapter.says(line)
        with socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW) as sender:
            sender.bind((adapter.name,))
            for identifier in (0x123, 0x124, 0x125):
                sender.send(struct.pack("=IB3x8s", identifier, 0, bytes(8)))
                adapter.hears(f"t{identifier:X}0".encode("ascii"))
        _until(lambda: _sent(adapter.name) == 3)
        stop.set()
        thread.join(20)

        seen = [i for each in delivered if isinstance(each, FrameBlock) for i in each.id.tolist()]
        assert [i for i in seen if not i & ERROR] == [0x123, 0x123]
        assert len(seen) == 3, "an error frame passes, and is not among what the interface counts"
        assert source.counts["filtered"] == 3 + 2


def _sent(name: str) -> int:
    statistics = asked(name).statistics
    assert statistics is not None
    return statistics.tx_packets


def _until(true: Callable[[], bool]) -> None:
    moment = threading.Event()
    for _ in range(2_000):
        if true():
            return
        moment.wait(0.01)
    raise AssertionError("it did not come about")


SANDBOXED: Final = """
import socket
from agent.bus.netlink import LinkWatch, link
try:
    socket.socket(socket.AF_INET)
except OSError:
    print("sandboxed", end=" ")
with LinkWatch() as watch:
    print(link("vcan0").kind, watch.read())
"""


@pytest.mark.vm_host
def test_a_service_without_rights_can_ask_and_watch(guest: Guest) -> None:
    properties = (
        "DynamicUser=yes",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "RestrictAddressFamilies=AF_NETLINK",
    )
    options = " ".join(f"--property={option}" for option in properties)

    seen = guest.run(
        f'systemd-run --pipe --wait --quiet {options} "$(command -v python3)"'
        f" -c {shlex.quote(SANDBOXED)}"
    )

    assert (seen.exit, seen.output.strip()) == (0, "sandboxed vcan []")
