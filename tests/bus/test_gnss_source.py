"""The source: a receiver on a pseudo-terminal, and a gpsd, that come, go and misbehave."""

import contextlib
import functools
import json
import logging
import operator
import os
import pty
import random
import socket
import sys
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Self

import pytest

from agent.blocks import FrameBlock, SignalTable
from agent.bus import serialport
from agent.bus.gnss import GnssSource, schemas
from agent.clock import SECOND, BootNs, Quality, WallNs
from agent.errors import BusError, ConfigError

NOON: Final = 1_774_267_200 * SECOND  # 2026-03-23 12:00:00


def until(condition: Callable[[], bool]) -> None:
    """Look until something is so; the deadline is far, and only for a test that would hang."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "this never became so"
        time.sleep(0.005)


def line(body: str) -> bytes:
    check = functools.reduce(operator.xor, body.encode(), 0)
    return f"${body}*{check:02X}\r\n".encode()


def burst(tenth: int, date: str = "230326") -> bytes:
    """An epoch so many tenths of a second after noon."""
    minute, rest = divmod(tenth, 600)
    hms = f"12{minute:02d}{rest // 10:02d}.{rest % 10}0"
    return b"".join(
        (
            line(f"GNRMC,{hms},A,4717.11399,N,00833.91590,E,10.500,77.52,{date},,,A,V"),
            line("GNVTG,77.52,T,,M,10.500,N,19.446,K,A"),
            line(f"GNGGA,{hms},4717.11399,N,00833.91590,E,1,08,1.01,499.6,M,48.0,M,,"),
            line("GNGSA,A,3,23,29,07,08,09,18,26,28,,,,,1.94,1.01,1.54,1"),
            line("GPGSV,3,1,10,23,38,230,44,29,71,156,47,07,29,116,41,08,09,081,36,1"),
        )
    )


class Receiver:
    """A receiver on a pseudo-terminal, reached by a link as by /dev/ttyUSB0."""

    def __init__(self, path: Path) -> None:
        self._master, slave = pty.openpty()
        tty.setraw(slave)
        self._path = path
        path.symlink_to(os.ttyname(slave))
        os.close(slave)

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._master, data) :]

    def unplug(self) -> None:
        self._path.unlink()
        os.close(self._master)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()


class Gpsd:
    """The server's side of gpsd's protocol, on a real port; one client at a time.

    It greets, waits for the client's wish to watch, and then sends what it is told to.
    """

    def __init__(self, port: int = 0) -> None:
        self._server = socket.create_server(("127.0.0.1", port))
        self.port: int = self._server.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self.wishes: list[bytes] = []
        self._client: socket.socket | None = None

    def accept(self) -> None:
        self._client, _ = self._server.accept()
        self.send(report("VERSION", release="3.22", proto_major=3, proto_minor=14))
        self.wishes.append(self._client.makefile("rb").readline())
        self.send(report("DEVICES", devices=[]) + report("WATCH", enable=True, json=True))

    def send(self, data: bytes) -> None:
        assert self._client is not None
        self._client.sendall(data)

    def drop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()
        self._server.close()


def report(name: str, **fields: Any) -> bytes:
    return json.dumps({"class": name, **fields}).encode() + b"\r\n"


def tpv(tenth: int) -> bytes:
    moment = f"2026-03-23T12:00:{tenth // 10:02d}.{tenth % 10}00Z"
    return report("TPV", mode=3, time=moment, lat=47.285233167, lon=8.565265, alt=499.6)


class FakeClock:
    boot_id = "b"

    def __init__(self) -> None:
        self.now = 1000 * SECOND

    def boot(self) -> BootNs:
        return BootNs(self.now)

    def wall(self) -> WallNs:
        return WallNs(self.now)

    def quality(self) -> Quality:
        return Quality.UNSYNCHRONISED


class Bench:
    """A source in its thread, and what it has given."""

    def __init__(self, **options: Any) -> None:
        self.anchors: list[tuple[int, int]] = []
        self.source = GnssSource(
            "gnss", retry_s=0.02, anchor=lambda *pair: self.anchors.append(pair), **options
        )
        self.tables: list[SignalTable] = []
        self.gate = threading.Event()
        self.gate.set()
        self.stop = threading.Event()
        self._thread = threading.Thread(
            target=self.source.run, args=(self._deliver, self.stop), daemon=True
        )
        self._thread.start()

    def _deliver(self, what: FrameBlock | SignalTable) -> None:
        assert isinstance(what, SignalTable)
        self.tables.append(what)
        self.gate.wait()

    def of(self, message: str) -> list[SignalTable]:
        return [table for table in self.tables if table.message == message]

    def rows(self) -> int:
        return len(self.of("Position"))

    def close(self) -> None:
        self.stop.set()
        self.gate.set()
        self._thread.join()


Start = Callable[..., Bench]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ttyUSB0"


@pytest.fixture
def start() -> Iterator[Start]:
    with contextlib.ExitStack() as benches:

        def begin(**options: Any) -> Bench:
            bench = Bench(**options)
            benches.callback(bench.close)
            return bench

        yield begin


@pytest.fixture
def plugged(path: Path, start: Start) -> Iterator[tuple[Receiver, Bench]]:
    with Receiver(path) as receiver:
        bench = start(device=str(path))
        until(lambda: bench.source.state == "reading")
        yield receiver, bench
        bench.close()


class TestReceiver:
    def test_a_burst_gives_a_row_of_each_message(self, plugged: tuple[Receiver, Bench]) -> None:
        receiver, bench = plugged
        before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

        receiver.send(burst(5))
        until(lambda: len(bench.tables) == 3)

        position, satellites, clock = bench.tables
        assert tuple(table.schema for table in bench.tables) == schemas("gnss")
        assert position.raw["Latitude"].tolist() == [472_852_332]
        assert position.raw["Speed"].tolist() == [19_446]
        assert satellites.raw["InView"].tolist() == [10]
        assert clock.physical("Utc").tolist() == [pytest.approx(NOON / SECOND + 0.5)]
        assert clock.raw["WeeksAdded"].tolist() == [0]
        times = {int(table.time[0]) for table in bench.tables}
        assert len(times) == 1
        assert before < times.pop() <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        assert all(table.clock == "boot" for table in bench.tables)

    def test_bytes_may_come_in_any_pieces(self, plugged: tuple[Receiver, Bench]) -> None:
        receiver, bench = plugged
        stream = b"".join(map(burst, range(30)))
        places = sorted(random.Random(5).sample(range(len(stream)), 200))

        for begin, end in zip([0, *places], [*places, len(stream)], strict=True):
            receiver.send(stream[begin:end])
        until(lambda: bench.rows() == 30)

        assert bench.source.counts == {"bad_lines": 0}
        times = [int(table.time[0]) for table in bench.of("Position")]
        assert times == sorted(times)

    def test_among_noise_every_sentence_arrives_and_the_rest_is_counted(
        self, plugged: tuple[Receiver, Bench]
    ) -> None:
        receiver, bench = plugged
        noise = b"\xb5\x62\x01\x07\x5c\x00" + bytes(range(128, 220)) + b"\n$GPGGA,12\r\n"

        for tenth in range(10):
            receiver.send(noise + burst(tenth))
        until(lambda: bench.rows() == 10)

        assert bench.source.counts == {"bad_lines": 20}
        assert bench.source.state == "reading"

    def test_unplugged_and_plugged_in_again_it_goes_on(self, path: Path, start: Start) -> None:
        with Receiver(path) as receiver:
            bench = start(device=str(path))
            until(lambda: bench.source.state == "reading")
            receiver.send(b"x\r\n" + burst(1) + b"$GNRMC,1200")  # then the plug is pulled
            until(lambda: bench.source.counts["bad_lines"] == 1)
        until(lambda: bench.source.state == f"waiting: the receiver {path} is not there")

        with Receiver(path) as receiver:
            until(lambda: bench.source.state == "reading")
            receiver.send(b"y\r\n" + burst(2) + burst(3))
            until(lambda: bench.rows() == 3)
            bench.close()

        assert bench.source.counts == {"bad_lines": 2}
        assert bench.source.state == "ended"

    def test_what_a_missing_receiver_waits_for_is_said(self, path: Path, start: Start) -> None:
        bench = start(device=str(path))

        until(lambda: bench.source.state == f"waiting: the receiver {path} is not there")

    def test_a_wrong_baud_rate_is_suspected_until_a_sentence_comes(
        self, plugged: tuple[Receiver, Bench]
    ) -> None:
        receiver, bench = plugged
        receiver.send(random.Random(1).randbytes(8000))
        until(lambda: "is the baud rate of 9600 right?" in bench.source.state)
        assert bench.tables == []
        assert bench.source.counts["bad_lines"] >= 20

        receiver.send(b"\r\n" + burst(1))
        until(lambda: bench.rows() == 1)
        until(lambda: bench.source.state == "reading")

    def test_when_it_is_stopped_the_epoch_in_hand_is_given(self, path: Path, start: Start) -> None:
        clock = FakeClock()  # stands still: no silence ever ends an epoch
        with Receiver(path) as receiver:
            bench = start(device=str(path), clock=clock)
            until(lambda: bench.source.state == "reading")
            receiver.send(burst(1) + burst(2) + b"x\r\n")
            until(lambda: bench.source.counts["bad_lines"] == 1)
            assert bench.rows() == 1
            bench.close()

        assert bench.rows() == 2
        assert bench.source.state == "ended"


class TestAnchor:
    def test_it_says_what_time_it_was_and_is_not_late_by_more_than_the_receiver(
        self, plugged: tuple[Receiver, Bench]
    ) -> None:
        receiver, bench = plugged
        tenths = iter(range(600))
        began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

        def told() -> bool:
            # All of the epochs are sent within the second of which they tell, more or less.
            receiver.send(burst(next(tenths)))
            return len(bench.anchors) >= 3

        until(told)

        for boot, wall in bench.anchors:
            assert wall >= NOON
            assert began - SECOND < boot <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        first, last = bench.anchors[0], bench.anchors[-1]
        assert last[1] > first[1]

    def test_an_old_firmware_is_corrected_marked_and_said_once(
        self, plugged: tuple[Receiver, Bench], caplog: pytest.LogCaptureFixture
    ) -> None:
        receiver, bench = plugged
        with caplog.at_level(logging.WARNING, "edge_agent.gnss"):
            tenths = iter(range(600))

            def told() -> bool:
                receiver.send(burst(next(tenths), date="070806"))
                return len(bench.anchors) >= 2

            until(told)

        assert bench.of("Time")[0].raw["WeeksAdded"].tolist() == [1024]
        assert bench.of("Time")[0].raw["Utc"].tolist() == [NOON // 1_000_000]
        assert all(wall >= NOON for _, wall in bench.anchors)
        assert bench.source.status() == {"refused_times": 0, "weeks_added": 1024}
        assert [r.message for r in caplog.records] == [
            (
                "bus gnss: the receiver's date lies 1024 weeks in the past (its firmware is old); "
                "it is corrected"
            )
        ]

    def test_a_default_date_is_refused_and_the_position_kept(
        self, plugged: tuple[Receiver, Bench]
    ) -> None:
        receiver, bench = plugged
        for tenth in range(8):
            receiver.send(burst(tenth, date="060180"))
        until(lambda: bench.rows() == 8)

        assert bench.anchors == []
        assert bench.of("Time") == []
        assert bench.source.refused_times == 8

    def test_what_was_read_late_dates_nothing(self, path: Path, start: Start) -> None:
        clock = FakeClock()
        with Receiver(path) as receiver:
            bench = start(device=str(path), clock=clock)
            until(lambda: bench.source.state == "reading")
            bench.gate.clear()
            receiver.send(burst(0) + burst(1))
            until(lambda: len(bench.tables) == 1)  # and there the reader is held up
            for tenth in range(2, 7):
                receiver.send(burst(tenth))
            clock.now += 5 * SECOND
            bench.gate.set()
            until(lambda: bench.rows() == 6)
            assert bench.anchors == []  # though four in a row agree with each other

            tenths = iter(range(7, 600))

            def told() -> bool:
                receiver.send(burst(next(tenths)))
                return bool(bench.anchors)

            until(told)

        boot, wall = bench.anchors[0]
        assert boot <= clock.now
        assert wall > NOON + SECOND * 6 // 10


class TestGpsd:
    def test_it_asks_for_reports_and_gives_rows(self, start: Start) -> None:
        with Gpsd() as gpsd:
            bench = start(gpsd=gpsd.address)
            gpsd.accept()
            for tenth in range(5):
                gpsd.send(tpv(tenth))
            until(lambda: bench.rows() == 5)

            assert gpsd.wishes == [b'?WATCH={"enable":true,"json":true};\n']
            assert bench.of("Position")[0].raw["Latitude"].tolist() == [472_852_332]
            assert bench.of("Time")[0].raw["Utc"].tolist() == [NOON // 1_000_000]
            assert bench.source.state == "reading"
            bench.close()

        assert bench.source.counts == {"bad_lines": 0}

    def test_its_time_is_an_anchor(self, start: Start) -> None:
        with Gpsd() as gpsd:
            bench = start(gpsd=gpsd.address)
            gpsd.accept()
            tenths = iter(range(600))

            def told() -> bool:
                gpsd.send(tpv(next(tenths)))
                return bool(bench.anchors)

            until(told)
            bench.close()

        boot, wall = bench.anchors[0]
        assert wall >= NOON
        assert boot <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def test_half_lines_and_garbage_are_counted(self, start: Start) -> None:
        with Gpsd() as gpsd:
            bench = start(gpsd=gpsd.address)
            gpsd.accept()
            whole = tpv(1)
            gpsd.send(whole[:40])
            gpsd.send(whole[40:] + b'\xff\xfe\x00\r\n{"class":"TPV","mode":3,\n' + tpv(2))
            gpsd.send(b'{"class":"TPV","lat":1e99999,"lon":0,"mode":3}\n' + tpv(3))
            until(lambda: bench.rows() == 3)
            bench.close()

        assert bench.source.counts == {"bad_lines": 3}

    def test_when_it_hangs_up_it_is_called_again(self, start: Start) -> None:
        with Gpsd() as gpsd:
            bench = start(gpsd=gpsd.address)
            gpsd.accept()
            gpsd.send(tpv(1) + tpv(2)[:30])
            gpsd.drop()
            gpsd.accept()
            gpsd.send(tpv(3))
            until(lambda: bench.rows() == 2)
            bench.close()

        assert bench.source.counts == {"bad_lines": 0}

    def test_a_gpsd_that_is_not_running_is_waited_for(self, start: Start) -> None:
        with Gpsd() as gone:
            port = gone.port
        bench = start(gpsd=f"127.0.0.1:{port}")
        why = f"waiting: gpsd at 127.0.0.1:{port} refuses the connection; is it running?"
        until(lambda: bench.source.state == why)

        with Gpsd(port) as gpsd:
            gpsd.accept()
            gpsd.send(tpv(1) + tpv(2))
            until(lambda: bench.rows() == 2)
            bench.close()

    def test_a_line_without_end_is_one_bad_line(self, start: Start) -> None:
        with Gpsd() as gpsd:
            bench = start(gpsd=gpsd.address)
            gpsd.accept()
            for _ in range(100):
                gpsd.send(b'{"class":"TPV",' + b" " * 10_000)
            gpsd.send(b"\n" + tpv(1) + tpv(2))
            until(lambda: bench.rows() == 2)
            bench.close()

        assert bench.source.counts == {"bad_lines": 1}

    def test_a_port_on_which_something_else_answers_is_said(self, start: Start) -> None:
        with Gpsd() as gpsd:
            bench = start(gpsd=gpsd.address)
            gpsd._client, _ = gpsd._server.accept()
            gpsd.send(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n" * 200)
            why = f"waiting: what comes from gpsd at {gpsd.address} is not gpsd's protocol"
            until(lambda: bench.source.state == why)
            bench.close()

    def test_a_name_that_nobody_knows_is_waited_for(self, start: Start) -> None:
        bench = start(gpsd="a..b:2947")

        until(lambda: bench.source.state.startswith("waiting: gpsd at a..b:2947 cannot be reached"))


class TestSettings:
    @pytest.mark.parametrize("options", [{}, {"device": "/dev/ttyUSB0", "gpsd": "localhost"}])
    def test_it_is_either_a_device_or_gpsd(self, options: dict[str, str]) -> None:
        with pytest.raises(ConfigError, match="either a device or gpsd"):
            GnssSource("gnss", **options)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "address", ["host:0", "host:70000", ":2947", "a:b:c", "host:x", "[::1"]
    )
    def test_an_address_that_is_none_is_refused(self, address: str) -> None:
        with pytest.raises(ConfigError, match="is no address"):
            GnssSource("gnss", gpsd=address)

    @pytest.mark.parametrize("address", ["localhost", "localhost:2947", "[::1]", "[::1]:2947"])
    def test_an_address_may_leave_the_port_out(self, address: str) -> None:
        assert GnssSource("gnss", gpsd=address).state == "starting"

    def test_without_the_library_a_device_is_refused_and_gpsd_works(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pynmea2", None)

        with pytest.raises(BusError, match=r"pip install 'vehicle-edge-agent\[gnss\]'"):
            GnssSource("gnss", device="/dev/ttyUSB0")
        assert GnssSource("gnss", gpsd="localhost").state == "starting"

    def test_all_unknown_values_are_outside_the_limits(self) -> None:
        for schema in schemas("gnss")[:2]:
            for signal in schema.signals:
                ((unknown, _, meaning),) = signal.codes
                assert meaning == "not available"
                assert signal.maximum is not None
                assert unknown * signal.scale > signal.maximum


class TestSerialPort:
    def test_a_port_that_another_program_has_open_is_said(self, path: Path) -> None:
        with (
            Receiver(path),
            contextlib.closing(serialport.open_port(str(path), 9600)),
            pytest.raises(BusError, match=r"the adapter .* is in use by another program"),
        ):
            serialport.open_port(str(path), 9600)

    def test_a_file_that_is_no_port_is_said(self, path: Path) -> None:
        path.write_bytes(b"")
        with pytest.raises(BusError, match=r"the receiver .* cannot be opened"):
            serialport.open_port(str(path), 9600, what="receiver")

    def test_a_baud_rate_that_cannot_be_is_said(self, path: Path) -> None:
        with Receiver(path), pytest.raises(BusError, match="cannot be opened"):
            serialport.open_port(str(path), -1)
