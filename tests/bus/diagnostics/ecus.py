"""A bus in memory with ECUs on it, for diagnostics: a `Link` whose waiting moves the clock.

The ECUs speak ISO-TP by code of their own, so that what is tested does not test itself, and they
misbehave as a test wants.
"""

import dataclasses
import heapq
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from agent.blocks import EXTENDED, FrameBlock, SignalTable
from agent.bus.diagnostics import DiagnosticsSource, Request
from agent.clock import MILLISECOND, SECOND, BootNs, Quality, WallNs
from agent.errors import BusError

START = 1000 * SECOND

Payloads = Iterable[bytes]


class Time:
    """A clock that stands still unless somebody waits."""

    boot_id = "boot"

    def __init__(self) -> None:
        self.now = START

    def boot(self) -> BootNs:
        return BootNs(self.now)

    def wall(self) -> WallNs:
        return WallNs(self.now)

    def quality(self) -> Quality:
        return Quality.UNSYNCHRONISED


class Stop(threading.Event):
    """What ends a source; a wait takes no time and moves the clock."""

    def __init__(self, time: Time) -> None:
        super().__init__()
        self._time = time

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self._time.now += round(timeout * SECOND)
        return self.is_set()


class Node(Protocol):
    """Something on the bus: gives (delay in ns, id, data) for each frame that it hears."""

    def hear(self, frame: int, data: bytes) -> Iterable[tuple[int, int, bytes]]: ...


class Ecu:
    """An ECU that answers requests.

    Args:
        answer: the messages that follow on a request; none for silence.
        request, response: its ids; by default the first of OBD.
        also: further ids of requests, such as the functional one.
        delay_ms: from a request to the first frame of each answer.
        consecutive: what is sent after the flow control, from the frames that would be right.
    """

    def __init__(
        self,
        answer: Callable[[bytes], Payloads],
        request: int = 0x7E0,
        response: int = 0x7E8,
        *,
        also: Sequence[int] = (0x7DF,),
        delay_ms: float = 10,
        consecutive: Callable[[list[bytes]], list[bytes]] = list,
        gap_ms: float = 1,
    ) -> None:
        self.answer = answer
        self.response = response
        self.requests: list[bytes] = []
        self.flow: list[bytes] = []
        self._request = request
        self._also = also
        self._delay = round(delay_ms * MILLISECOND)
        self._gap = round(gap_ms * MILLISECOND)
        self._consecutive = consecutive
        self._waiting: list[bytes] = []

    def hear(self, frame: int, data: bytes) -> Iterable[tuple[int, int, bytes]]:
        if frame not in (self._request, *self._also):
            return
        if data[0] >> 4 == 3:
            self.flow.append(data)
            frames, self._waiting = self._waiting, []
            if data[0] == 0x30:
                for number, part in enumerate(self._consecutive(frames), 1):
                    yield number * self._gap, self.response, part
            return
        assert data[0] >> 4 == 0, "requests fit into one frame"
        request = data[1 : 1 + data[0]]
        self.requests.append(request)
        for number, payload in enumerate(self.answer(request), 1):
            yield number * self._delay, self.response, self._begin(payload)

    def _begin(self, payload: bytes) -> bytes:
        """The first frame; the others wait for the flow control."""
        if len(payload) < 8:
            return bytes([len(payload)]) + payload.ljust(7, b"\xaa")
        rest = payload[6:]
        self._waiting = [
            bytes([0x20 | (1 + n) % 16]) + rest[7 * n : 7 * n + 7].ljust(7, b"\xaa")
            for n in range(-(-len(rest) // 7))
        ]
        return (0x1000 | len(payload)).to_bytes(2, "big") + payload[:6]


def obd(values: Mapping[int, bytes], at_once: int = 6) -> Callable[[bytes], Payloads]:
    """How an ECU with these parameters answers service 01; silent for more than `at_once`."""

    def bitmap(base: int) -> bytes:
        there = set(values) | {n for n in range(0x20, 0x100, 0x20) if max(values, default=0) > n}
        bits = sum(1 << 32 - (n - base) for n in there if base < n <= base + 0x20)
        return bits.to_bytes(4, "big")

    def answer(request: bytes) -> Payloads:
        if request[0] != 0x01 or len(request) - 1 > at_once:
            return
        parts = b""
        for number in request[1:]:
            if number % 0x20 == 0 and (number == 0 or max(values, default=0) > number):
                parts += bytes([number]) + bitmap(number)
            elif number in values:
                parts += bytes([number]) + values[number]
        if parts:
            yield b"\x41" + parts

    return answer


def fixed(answers: Mapping[bytes, bytes | Sequence[bytes]]) -> Callable[[bytes], Payloads]:
    """An ECU that knows a few requests, and is silent on others."""

    def answer(request: bytes) -> Payloads:
        found = answers.get(request, ())
        return (found,) if isinstance(found, bytes) else found

    return answer


class Bus:
    """The bus as a `Link`.

    Args:
        nodes: what is on it.
        seconds: how long a run takes; after that `stop` is set.
        others: whether other nodes talk at a time (seconds since the start).
        broken: whether the interface is gone at a time.
    """

    def __init__(
        self,
        time: Time,
        stop: threading.Event,
        nodes: Sequence[Node],
        seconds: float,
        *,
        others: Callable[[float], bool],
        broken: Callable[[float], bool],
    ) -> None:
        self.sent: list[tuple[float, int, bytes]] = []
        self.came: list[tuple[float, int, bytes]] = []
        self._time = time
        self._stop = stop
        self._nodes = nodes
        self._end = START + round(seconds * SECOND)
        self._others = others
        self._broken = broken
        self._coming: list[tuple[int, int, int, bytes]] = []
        self._number = 0

    @property
    def seconds(self) -> float:
        return (self._time.now - START) / SECOND

    def _check(self) -> None:
        if self._time.now >= self._end:
            self._stop.set()
        if self._broken(self.seconds):
            raise BusError("the interface is gone")

    def put(self, delay_ns: int, frame: int, data: bytes) -> None:
        """A frame that nobody has asked for."""
        self._number += 1
        heapq.heappush(self._coming, (self._time.now + delay_ns, self._number, frame, data))

    def send(self, frame: int, data: bytes) -> None:
        self._check()
        self.sent.append((self.seconds, frame, data))
        for node in self._nodes:
            for delay_ns, answer, part in node.hear(frame, data):
                self.put(delay_ns, answer, part)

    def recv(self, timeout_s: float) -> tuple[int, bytes, BootNs] | None:
        self._check()
        until = self._time.now + round(timeout_s * SECOND)
        if self._coming and self._coming[0][0] <= until:
            at, _, frame, data = heapq.heappop(self._coming)
            self._time.now = max(self._time.now, at)
            self.came.append((self.seconds, frame, data))
            return frame, data, BootNs(self._time.now)
        self._time.now = until
        self._check()
        return None

    def traffic(self) -> bool:
        return self._others(self.seconds)

    def close(self) -> None:
        self._coming.clear()

    @property
    def requests(self) -> list[tuple[float, int, bytes]]:
        """Time, id and payload of what was asked; no flow control."""
        return [(at, i, d[1 : 1 + d[0]]) for at, i, d in self.sent if d[0] >> 4 == 0]


@dataclasses.dataclass
class Run:
    """What came of a run."""

    source: DiagnosticsSource
    bus: Bus
    tables: list[SignalTable]

    def of(self, message: str, source: int | None = None) -> list[SignalTable]:
        return [t for t in self.tables if t.message == message and source in (None, t.source)]

    def values(self, name: str, source: int | None = None) -> list[Any]:
        """Raw values of a signal, in the order in which they came."""
        return [
            v
            for t in self.tables
            if name in t.names and source in (None, t.source)
            for v in t.raw[name].tolist()
        ]

    def physical(self, name: str) -> list[float]:
        return [v for t in self.tables if name in t.names for v in t.physical(name).tolist()]


def poll(
    requests: Sequence[Request],
    nodes: Sequence[Node],
    seconds: float = 5,
    *,
    others: Callable[[float], bool] = lambda _: True,
    broken: Callable[[float], bool] = lambda _: False,
    prepare: Callable[[Bus], None] = lambda _: None,
    watch: Callable[[float, str], object] = lambda *_: None,
    **options: Any,
) -> Run:
    """Poll for some seconds of the clock, which take no time; `watch` sees the state at a look."""
    time = Time()
    stop = Stop(time)

    def look(at: float) -> bool:
        watch(at, source.state)
        return others(at)

    bus = Bus(time, stop, nodes, seconds, others=look, broken=broken)
    prepare(bus)
    source = DiagnosticsSource(
        "body",
        "can0",
        requests,
        transmit=True,
        clock=time,
        open_link=lambda _: bus,
        **options,
    )
    tables: list[SignalTable] = []

    def deliver(block: FrameBlock | SignalTable) -> None:
        assert isinstance(block, SignalTable)
        tables.append(block)

    source.run(deliver, stop)
    return Run(source, bus, tables)


def wide(number: int) -> int:
    """An id of 29 bits, as on the bus."""
    return number | EXTENDED
