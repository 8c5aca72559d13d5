"""One request and the answers to it, over ISO-TP (ISO 15765-2, by the library can-isotp).

A state machine without I/O and without threads: it is given frames and times, and gives frames to
send. The library's own timers read a clock of their own, so they are set far out and the limits
here hold:

- the first frame of an answer must come within `answer_ns`; a functional request waits that long
  for everybody, unless all who are expected have answered;
- then each frame within a second (N_Cr), and after each "response pending" (0x78) 5 s (P2*);
- after 30 s it is over, whatever an ECU still promises.

A message has at most 4095 bytes; a longer one is refused with the flow control for that. Flow
control goes only to an ECU that is asked at the moment, once a message and eight times a request.
Whatever else comes, broken frames, wrong sequence numbers, answers to other questions, is counted
and costs itself.
"""

import logging
from collections import Counter, deque
from typing import Any, Final

import isotp

from agent.blocks import EXTENDED, ID_BITS
from agent.bus.diagnostics.jobs import Ask
from agent.bus.diagnostics.messages import NEGATIVE, RESPONSE_PENDING, Answer
from agent.clock import SECOND, BootNs

MAX_MESSAGE: Final = 4095
NEXT_FRAME_NS: Final = SECOND
PENDING_NS: Final = 5 * SECOND
LIMIT_NS: Final = 30 * SECOND
_FAR_MS: Final = 600_000
_FLOW_MAX: Final = 8

Frame = tuple[int, bytes]
"""Id, with the flag of 29-bit ids, and data."""

# What goes wrong on the bus is counted here; the library would write a line for each.
_QUIET: Final = logging.getLogger("edge_agent.isotp")
_QUIET.disabled = True


def _no_wait(_: float) -> None:
    pass


class Layer:
    """The transport layer between this program and one ECU."""

    def __init__(self, send_id: int, answer_id: int, *, fd: bool, padding: int | None) -> None:
        self._answer_id = answer_id
        self._came: deque[isotp.CanMessage] = deque()
        self._out: list[Frame] = []
        self.bad = 0
        wide = bool((send_id | answer_id) & EXTENDED)
        mode = isotp.AddressingMode.Normal_29bits if wide else isotp.AddressingMode.Normal_11bits
        parameters: dict[str, Any] = {
            "logger_name": _QUIET.name,
            "wait_func": _no_wait,
            "tx_padding": padding,
            "tx_data_length": 64 if fd else 8,
            "tx_data_min_length": None if padding is None else 8,
            "can_fd": fd,
            "bitrate_switch": fd,
            "max_frame_size": MAX_MESSAGE,
            "blocksize": 0,
            "stmin": 0,
            "rx_flowcontrol_timeout": _FAR_MS,
            "rx_consecutive_frame_timeout": _FAR_MS,
        }
        self._logic = isotp.TransportLayerLogic(
            self._next,
            self._put,
            isotp.Address(mode, txid=send_id & ID_BITS, rxid=answer_id & ID_BITS),
            self._error,
            parameters,
        )

    def _next(self, _: float) -> isotp.CanMessage | None:
        return self._came.popleft() if self._came else None

    def _put(self, message: isotp.CanMessage) -> None:
        flag = EXTENDED if message.is_extended_id else 0
        self._out.append((message.arbitration_id | flag, bytes(message.data)))

    def _error(self, _: Exception) -> None:
        self.bad += 1

    @property
    def receiving(self) -> bool:
        """Whether a message of several frames has begun and has not ended."""
        return self._logic.is_rx_active()

    def reset(self) -> None:
        self._came.clear()
        self._logic.reset()

    def send(self, payload: bytes) -> list[Frame]:
        """The frames of a request; all requests of this program fit into one."""
        self._logic.send(payload)
        return self._process()

    def feed(self, data: bytes) -> tuple[list[bytes], list[Frame]]:
        """A frame of the ECU: messages that it completes, and frames to send for it."""
        self._came.append(
            isotp.CanMessage(
                arbitration_id=self._answer_id & ID_BITS,
                dlc=len(data),
                data=data,
                extended_id=bool(self._answer_id & EXTENDED),
            )
        )
        frames = self._process()
        messages = []
        while (message := self._logic.recv()) is not None:
            messages.append(bytes(message))
        return messages, frames

    def _process(self) -> list[Frame]:
        try:
            self._logic.process()
        except Exception:  # noqa: BLE001 - a foreign state machine that is fed by strangers
            self.bad += 1
            self.reset()
        frames, self._out = self._out, []
        return frames


class Transport:
    """The transport layers of one bus, made when an ECU is first met."""

    def __init__(self, *, fd: bool, padding: int | None) -> None:
        self._fd = fd
        self._padding = padding
        self._layers: dict[tuple[int, int], Layer] = {}

    def layer(self, send_id: int, answer_id: int) -> Layer:
        key = (send_id, answer_id)
        if key not in self._layers:
            self._layers[key] = Layer(send_id, answer_id, fd=self._fd, padding=self._padding)
        return self._layers[key]


class Conversation:
    """What follows from one `Ask`; `out` are the frames to send, `answers` what has come."""

    def __init__(
        self, ask: Ask, transport: Transport, totals: Counter[str], *, now: BootNs, answer_ns: int
    ) -> None:
        self._ask = ask
        self._transport = transport
        self._totals = totals
        self._window = BootNs(now + answer_ns)
        self._limit = BootNs(now + LIMIT_NS)
        self._layers: dict[int, Layer] = {}
        self._began: dict[int, BootNs] = {}
        self._until: dict[int, BootNs] = {}
        self._flow: Counter[int] = Counter()
        self._done: dict[int, Answer] = {}
        send_id = ask.address.send_id
        # A functional request is nobody's: the id of its answers does not matter to what is sent.
        answer_id = next(iter(ask.address.only), send_id ^ 0x10)
        layer = transport.layer(send_id, answer_id)
        layer.reset()
        self.out: list[Frame] = layer.send(ask.payload)

    @property
    def answers(self) -> tuple[Answer, ...]:
        return tuple(self._done.values())

    @property
    def over_at(self) -> BootNs:
        """Until when to wait for a frame; not after now when there is nothing to wait for."""
        if self._ask.silent:
            return BootNs(0)
        waits = [until for ecu, until in self._until.items() if ecu not in self._done]
        if not self._ask.expects or self._ask.expects - self._done.keys():
            waits.append(self._window)
        return min(self._limit, max(waits, default=BootNs(0)))

    def frame(self, ecu: int, data: bytes, time: BootNs, now: BootNs) -> None:
        """A frame with an id from which ECUs answer; `out` may have grown after it."""
        flow_id = self._ask.address.flow_id(ecu)
        if flow_id is None or ecu in self._done or self._flow[ecu] >= _FLOW_MAX:
            self._totals["unexpected"] += 1
            return
        if ecu not in self._layers:
            self._layers[ecu] = self._transport.layer(flow_id, ecu)
            self._layers[ecu].reset()
        layer = self._layers[ecu]
        began_before = layer.receiving
        bad = layer.bad
        messages, frames = layer.feed(data)
        self._totals["bad"] += layer.bad - bad
        self.out += frames
        self._flow[ecu] += len(frames)
        if not began_before:
            self._began[ecu] = time
        if layer.receiving:
            self._until[ecu] = BootNs(now + NEXT_FRAME_NS)
        elif began_before:
            self._until.pop(ecu, None)
        for message in messages:
            self._message(ecu, message, now)

    def _message(self, ecu: int, message: bytes, now: BootNs) -> None:
        if ecu in self._done:
            return
        service = self._ask.payload[0]
        if len(message) >= 3 and message[0] == NEGATIVE and message[1] == service:
            if message[2] == RESPONSE_PENDING:
                self._totals["pending"] += 1
                self._until[ecu] = BootNs(now + PENDING_NS)
                return
        elif not message.startswith(self._ask.echoes):
            self._totals["unexpected"] += 1
            return
        self._done[ecu] = Answer(ecu, self._began[ecu], message)
