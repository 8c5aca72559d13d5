"""Diagnostics through the kernel: real sockets, an ECU in a process of its own, a witness.

The ECU is can-isotp on python-can. The witness is a socket that sees every frame on the bus.
"""

import contextlib
import itertools
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent.blocks import FrameBlock, SignalTable
from agent.bus.diagnostics import (
    DiagnosticsSource,
    Did,
    Field,
    ObdDtcRequest,
    ObdRequest,
    Request,
    UdsDtcRequest,
    UdsRequest,
)
from tests.vm.links import Links

pytestmark = pytest.mark.vm

FD_FLAG = 0x04
DEADLINE_S = 30

ECU = """
import sys
import can, isotp
name, fd = sys.argv[1], sys.argv[2] == "fd"
mine = [{"can_id": i, "can_mask": 0x7FF, "extended": False} for i in (0x7DF, 0x7E0, 0x7E4)]
bus = can.Bus(name, interface="socketcan", fd=fd, can_filters=mine)
notifier = can.Notifier(bus, [])
more = {"can_fd": True, "tx_data_length": 64} if fd else {"tx_padding": 0xAA}
def stack(rx, tx):
    address = isotp.Address(isotp.AddressingMode.Normal_11bits, rxid=rx, txid=tx)
    made = isotp.NotifierBasedCanStack(bus, notifier, address=address, params=more)
    made.start()
    return made
engine, everybody, battery = stack(0x7E0, 0x7E8), stack(0x7DF, 0x7E8), stack(0x7E4, 0x7EC)
values = {0x04: "80", 0x05: "5a", 0x0C: "1af8", 0x0D: "32", 0x10: "0102", 0x11: "40"}
def obd(request):
    if request == b"\\x03":
        return bytes.fromhex("43020301c1a2")
    if request == b"\\x01\\x00":
        return b"\\x41\\x00" + sum(1 << 32 - n for n in values).to_bytes(4, "big")
    if request[0] == 1:
        found = [bytes([n]) + bytes.fromhex(values[n]) for n in request[1:] if n in values]
        return b"\\x41" + b"".join(found)
answers = {
    "22f190": "62f190" + b"WVWZZZ1KZAW000001".hex(),
    "224801": "6248011f40ff38",
    "22dead": "7f2231",
    "190209": "59027f" + "03011a2c" * 20,
}
print("ready", flush=True)
while True:
    for asked, answering in ((everybody, engine), (engine, engine), (battery, battery)):
        request = asked.recv(block=True, timeout=0.005)
        if request is None:
            continue
        if asked is battery:
            answer = bytes.fromhex(answers.get(request.hex(), ""))
        else:
            answer = obd(bytes(request))
        if answer:
            answering.send(answer)
"""

BATTERY = UdsRequest(
    0x7E4,
    0x7EC,
    [
        Did(0xF190, [Field("Vin", bits=17 * 8, kind="ascii")]),
        Did(
            0x4801,
            [
                Field("StateOfCharge", bits=16, scale=0.01, unit="%"),
                Field("PackCurrent", byte=2, bits=16, kind="signed", scale=0.1, unit="A"),
            ],
        ),
        Did(0xDEAD, [Field("Nothing")]),
    ],
    interval_s=0.3,
)
PARAMETERS = [0x04, 0x05, 0x0C, 0x0D, 0x10, 0x11, 0x2F]


def until(condition: Callable[[], bool]) -> None:
    """Look until something is so; the deadline is far, and only for a test that would hang."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "this never became so"
        time.sleep(0.005)


Frame = tuple[int, bytes, int]


class Witness:
    """Sees every frame of a bus; can also send on it."""

    def __init__(self, name: str) -> None:
        self._socket = socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW)
        self._socket.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FD_FRAMES, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self._socket.bind((name,))

    def frame(self, timeout_s: float) -> Frame | None:
        """Id, data, and flags of the next frame."""
        if not select.select([self._socket], [], [], timeout_s)[0]:
            return None
        packed = self._socket.recv(72)
        frame, length, flags = struct.unpack_from("=IBB", packed)
        return frame, packed[8 : 8 + length], flags | (FD_FLAG if len(packed) == 72 else 0)

    def so_far(self) -> list[Frame]:
        frames = []
        while (frame := self.frame(0)) is not None:
            frames.append(frame)
        return frames

    def close(self) -> None:
        self._socket.close()


class Others:
    """Other nodes that talk, or not."""

    def __init__(self, name: str) -> None:
        self._socket = socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW)
        self._socket.setsockopt(socket.SOL_CAN_RAW, socket.CAN_RAW_FILTER, b"")
        self._socket.bind((name,))
        self._talk = threading.Event()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.05):
            if self._talk.is_set():
                # The first send after the bus was down is told of that.
                with contextlib.suppress(OSError):
                    self._socket.send(struct.pack("=IB3x8s", 0x123, 8, b"traffic!"))

    def talk(self) -> None:
        self._talk.set()

    def hush(self) -> None:
        self._talk.clear()

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        self._socket.close()


class Polled:
    """A source that runs in a thread, and what it gave."""

    def __init__(self, name: str, requests: list[Request], **options: Any) -> None:
        self.tables: list[SignalTable] = []
        self.source = DiagnosticsSource(
            "body", name, requests, transmit=True, retry_s=0.05, **options
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.source.run, args=(self._take, self._stop))
        self._thread.start()

    def _take(self, block: FrameBlock | SignalTable) -> None:
        assert isinstance(block, SignalTable)
        self.tables.append(block)

    def values(self, name: str) -> list[Any]:
        return [v for t in list(self.tables) if name in t.names for v in t.raw[name].tolist()]

    def end(self) -> None:
        self._stop.set()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()


class Bench:
    """A bus with an ECU, other nodes and a witness."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._closing: list[Callable[[], object]] = []
        self.others = Others(name)
        self._closing.append(self.others.close)

    def ecu(self, kind: str = "classic") -> None:
        process = subprocess.Popen(
            [sys.executable, "-c", ECU, self.name, kind], stdout=subprocess.PIPE, text=True
        )
        self._closing += [process.communicate, process.kill]
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def witness(self) -> Witness:
        witness = Witness(self.name)
        self._closing.append(witness.close)
        return witness

    def poll(self, requests: list[Request], **options: Any) -> Polled:
        polled = Polled(self.name, requests, **options)
        self._closing.append(polled.end)
        return polled

    def close(self) -> None:
        while self._closing:
            self._closing.pop()()


@pytest.fixture
def bench(vcan: Links) -> Iterator[Bench]:
    made = Bench(vcan())
    yield made
    made.close()


def requests_of(frames: list[Frame]) -> list[Frame]:
    """What a tester asks: its ids, without flow control."""
    return [f for f in frames if f[0] in (0x7DF, *range(0x7E0, 0x7E8)) and f[1][0] >> 4 == 0]


def test_parameters_identifiers_and_trouble_codes_arrive_as_tables(bench: Bench) -> None:
    bench.ecu()
    bench.others.talk()
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    polled = bench.poll(
        [
            ObdRequest(PARAMETERS, 0.3),
            ObdDtcRequest(interval_s=0.5),
            BATTERY,
            UdsDtcRequest(0x7E4, 0x7EC, interval_s=0.5),
        ],
        answer_ms=2000,
    )
    until(lambda: len(polled.values("EngineSpeed")) > 2 and len(polled.values("Count")) > 2)
    until(lambda: len(polled.values("Vin")) > 1 and polled.source.totals["unsupported"] == 1)
    polled.end()
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    assert set(polled.values("EngineSpeed")) == {0x1AF8}
    assert set(polled.values("MassAirFlow")) == {0x0102}
    assert set(polled.values("StateOfCharge")) == {8000}
    assert set(polled.values("PackCurrent")) == {-200}
    assert not polled.values("FuelLevel")
    texts = {bytes(c) for t in polled.tables if "Vin" in t.names for c in t.raw["Vin"]}
    assert texts == {b"WVWZZZ1KZAW000001"}
    codes = {bytes(c) for t in polled.tables if t.message == "Dtc" for c in t.raw["Code"]}
    assert codes == {b"P0301", b"U01A2", b"P0301-1A"}
    assert {t.source for t in polled.tables} == {0xE8, 0xEC}
    assert all(before <= int(at) <= after for t in polled.tables for at in t.time)
    totals = polled.source.totals
    assert (totals["timeouts"], totals["bad"], totals["unexpected"]) == (0, 0, 0)
    assert polled.source.state == "ended"


def test_only_one_request_is_outstanding(bench: Bench) -> None:
    bench.ecu()
    witness = bench.witness()
    bench.others.talk()
    requests: list[Request] = [
        ObdRequest(PARAMETERS, 0.1),
        ObdRequest([0x0C], 0.05, 0x7E0),
        BATTERY,
    ]
    polled = bench.poll(requests, pause_ms=0, answer_ms=2000)
    until(lambda: polled.source.totals["answered"] > 40)
    polled.end()

    # Between two requests lies the end of an answer: a whole message, or its last part.
    outstanding = False
    asked = 0
    left = 0
    for frame, data, _ in witness.so_far():
        if frame in (0x7DF, 0x7E0, 0x7E4) and data[0] >> 4 == 0:
            assert not outstanding
            outstanding = True
            asked += 1
        elif frame in (0x7E8, 0x7EC):
            kind = data[0] >> 4
            if kind == 1:
                left = (int.from_bytes(data[:2], "big") & 0xFFF) - 6
            elif kind == 2:
                left -= 7
            outstanding = outstanding and not (kind == 0 or (kind == 2 and left <= 0))
    assert asked == polled.source.totals["requests"]
    assert polled.source.totals["timeouts"] == 0


def test_nothing_is_sent_while_nothing_is_due(bench: Bench) -> None:
    bench.ecu()
    bench.others.talk()
    witness = bench.witness()
    polled = bench.poll([UdsRequest(0x7E4, 0x7EC, BATTERY.dids, interval_s=3600)])
    until(lambda: polled.source.totals["requests"] == 3)
    until(lambda: polled.source.totals["answered"] + polled.source.totals["negative"] == 3)
    assert len(requests_of(witness.so_far())) == 3

    heard = [witness.frame(1) for _ in range(30)]

    assert all(frame is not None and frame[0] == 0x123 for frame in heard)
    assert polled.source.state == "reading"


def test_nothing_is_sent_before_and_after_others_talk(bench: Bench) -> None:
    bench.ecu()
    witness = bench.witness()
    polled = bench.poll([ObdRequest(PARAMETERS, 0.1), BATTERY], quiet_s=1)
    asleep = "waiting: no frame was seen on the bus for 1 s"
    until(lambda: polled.source.state == asleep)
    assert witness.frame(1.5) is None

    bench.others.talk()
    until(lambda: len(polled.values("EngineSpeed")) > 5)
    assert polled.source.state == "reading"

    # Requests and answers go on when others fall silent, and are no reason to go on.
    bench.others.hush()
    until(lambda: polled.source.state == asleep)
    assert requests_of(witness.so_far())
    assert witness.frame(1.5) is None

    bench.others.talk()
    answered = polled.source.totals["answered"]
    until(lambda: polled.source.totals["answered"] > answered + 5)


def test_frames_of_others_are_traffic_and_no_answers(bench: Bench) -> None:
    bench.ecu()
    busy = socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW)
    busy.bind((bench.name,))
    polled = bench.poll([BATTERY], quiet_s=1, answer_ms=2000)
    deadline = time.monotonic() + DEADLINE_S
    while len(polled.values("Vin")) < 5:
        assert time.monotonic() < deadline
        for frame in (0x100, 0x7F0, 0x7DE, 0x7EB):
            busy.send(struct.pack("=IB3x8s", frame, 8, bytes(8)))
        time.sleep(0.002)
    busy.close()
    polled.end()

    assert polled.source.totals["unexpected"] == 0
    assert polled.source.totals["timeouts"] == 0


def test_fd_frames_carry_a_long_answer_at_once(bench: Bench) -> None:
    bench.ecu("fd")
    witness = bench.witness()
    bench.others.talk()
    polled = bench.poll([BATTERY], fd=True)
    until(lambda: bool(polled.values("Vin")))
    polled.end()

    frames = [f for f in witness.so_far() if f[0] in (0x7E4, 0x7EC)]
    assert all(flags & FD_FLAG for _, _, flags in frames)
    assert [f for f in frames if f[0] == 0x7EC and len(f[1]) > 8]
    assert not [f for f in frames if f[1][0] >> 4], "no message needs two frames"


def test_an_interface_that_goes_down_and_away_is_waited_for(bench: Bench, vcan: Links) -> None:
    bench.ecu()
    bench.others.talk()
    polled = bench.poll([ObdRequest([0x0C], 0.1)])
    until(lambda: len(polled.values("EngineSpeed")) > 2)
    bench.others.hush()

    vcan.down(bench.name)
    until(lambda: polled.source.state == f"waiting: the interface {bench.name} is down")
    vcan.up(bench.name)
    until(lambda: polled.source.state.startswith("waiting: no frame was seen"))
    bench.ecu()  # the first one has not borne it
    bench.others.talk()
    got = len(polled.values("EngineSpeed"))
    until(lambda: len(polled.values("EngineSpeed")) > got)

    bench.others.close()
    vcan.remove(bench.name)
    until(lambda: polled.source.state == f"waiting: there is no interface {bench.name}")


def test_a_silent_ecu_gets_fewer_and_fewer_requests(bench: Bench) -> None:
    witness = bench.witness()
    bench.others.talk()
    polled = bench.poll([ObdRequest([0x0C], 0.05)], answer_ms=20)
    until(lambda: polled.source.state == "waiting: no ECU answers")
    polled.end()

    requests = [f for f in requests_of(witness.so_far()) if f[0] == 0x7DF]
    assert [data[:3] for _, data, _ in requests] == list(
        itertools.repeat(b"\x02\x01\x00", len(requests))
    )
    assert len(requests) == polled.source.totals["timeouts"] == 3
