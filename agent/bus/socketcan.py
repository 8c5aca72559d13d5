"""Frames from a CAN interface of the kernel (SocketCAN).

    kernel buffer -> ring of 16,384 messages -> one block -> deliver

The thread reads every 50 ms, or as much earlier as the kernel's buffer asks for: hundreds of
frames come in one system call, and lie in the ring as they came. The kernel's stamps say when each
came in, so reading late costs no accuracy. Only when a block closes (16,384 frames, or `block_ms`
after its first frame was read) are they parsed, all at once.

An interface may be missing, go down, be pulled out, renamed and come back. The kernel tells the
socket (ENETDOWN, ENODEV) and everybody else (netlink); whichever comes first, the state of the link
is asked for and acted upon. A socket outlives going down and up. Where the interface is another one
than before, by its index, the old socket is emptied and closed and a new one is opened. A gap is a
row of `BusState` at its begin and at its end (see `agent.bus.errorframes`).

`dropped` has two parts. What did not fit into the socket's buffer is counted by the kernel exactly.
The count comes with frames, and is asked for every second and before closing; it is 32 bits wide
and begins at zero for each socket. What was lost before, in the controller's memory or the kernel's
queue (net.core.netdev_max_backlog), is in the interface's statistics, which are read every second:
an overflow of a controller counts as one there however many frames it cost, and a frame counts
whether the filters would have let it pass or not. While filters are set, what they hide is found
there too, about: `filtered` (see `agent.bus.hidden`).

The socket cannot send: see `agent.bus.canraw`.
"""

import contextlib
import errno
import logging
import os
import select
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from agent.blocks import FrameBlock, SignalTable
from agent.bus.canframes import parse
from agent.bus.canraw import (
    RECEIVE_BUFFER_BYTES,
    CanSocket,
    ClockPair,
    Filters,
    MessageSocket,
    pack_filters,
)
from agent.bus.early import EarlyFrames
from agent.bus.errorframes import Controller
from agent.bus.health import BusHealth
from agent.bus.hidden import HiddenCounter, ReadTraffic, read_traffic
from agent.bus.interfaces import Links, SystemLinks, Watch
from agent.bus.linkmessage import LinkInfo
from agent.bus.ring import Messages
from agent.bus.source import Deliver
from agent.bus.stamps import KernelStamps, Reads
from agent.clock import MILLISECOND, SECOND, Clock, SystemClock
from agent.errors import BusError

__all__ = ["OpenSocket", "SocketCanSource"]

log = logging.getLogger("edge_agent")

# A quiet bus wakes the thread this often; it bounds how late `stop` is seen.
_IDLE_S: Final = 0.2
_PAUSE_S: Final = 0.05
_PAUSES_A_BLOCK: Final = 10
_SHORTEST_PAUSE_S: Final = 0.001
# No bus carries more: classic frames without data at 1 Mbit/s are 21,000, short FD frames 25,000.
_MOST_FRAMES_A_SECOND: Final = 25_000
_FRAME_IN_KERNEL_BYTES: Final = 1024  # 768 on most kernels
_CALLS_A_TURN: Final = 32
_TICK_NS: Final = SECOND

OpenSocket = Callable[[Filters | None], MessageSocket]
"""Opens the interface; raises BusError."""


class SocketCanSource:
    """One bus behind a CAN interface of the kernel.

    Besides frames it delivers the tables `BusState` and `BusError` of `agent.bus.errorframes`.

    Args:
        bus: name of the bus.
        interface: name of the interface, such as can0.
        filters: what passes; None for everything, an empty sequence for nothing.
        block_ms: longest time that frames wait for their block to be closed.
        receive_buffer_bytes: for frames that wait in the kernel; see `CanSocket`.
        hardware_stamps: use the controller's own stamps, where it makes any.
        bitrate: in bit/s, for the load of an interface that does not tell it.
        require_listen_only: do not read a controller that takes part on its bus.
        early: a socket that was opened before, and what came so far.
        clock: the seam to time.
        links: the seam to the kernel's interfaces.
        traffic: the seam to their counts of frames.
        open_socket: the seam to the bus.

    Raises:
        BusError: the interface is there and is not listen-only although it must be, or there are
            more filters than the kernel takes.
    """

    def __init__(
        self,
        bus: str,
        interface: str,
        *,
        filters: Filters | None = None,
        block_ms: int = 500,
        receive_buffer_bytes: int = RECEIVE_BUFFER_BYTES,
        hardware_stamps: bool = False,
        bitrate: int | None = None,
        require_listen_only: bool = False,
        early: EarlyFrames | None = None,
        clock: Clock | None = None,
        links: Links | None = None,
        traffic: ReadTraffic = read_traffic,
        open_socket: OpenSocket | None = None,
    ) -> None:
        pack_filters(filters)
        self.bus = bus
        self.interface = interface
        self.state = "starting"
        self.listen_only: bool | None = None
        """Whether the controller is; None where that is not known, as for a virtual bus."""
        self.buffer_bytes = 0
        """What the kernel has granted for frames that wait."""
        self._filters = filters
        self._block_ns = block_ms * MILLISECOND
        self._receive_buffer_bytes = receive_buffer_bytes
        self._hardware_stamps = hardware_stamps
        self._require_listen_only = require_listen_only
        self._early = early
        self._clock = clock or SystemClock()
        self._links = links or SystemLinks()
        self._open_socket = open_socket or self._open_can
        self._health = BusHealth(bus, bitrate)
        self._hidden = HiddenCounter(interface, traffic, wanted=filters is not None)
        self._lock = threading.Lock()  # of the socket, for `set_filters`
        self._socket: MessageSocket | None = None
        self._watch: Watch | None = None
        self._poll = select.poll()
        self._deliver: Deliver = _nowhere
        self._stamps = KernelStamps(0, 0)
        self._clamped = 0
        self._began = 0
        self._busy = False
        self._rate = 0.0
        self._read_at = 0
        self._tick_at = 0
        if require_listen_only and (info := self._links.link(interface)) is not None:
            self._refuse_unless_silent(info)

    # -- for other threads -------------------------------------------------------------------

    @property
    def controller(self) -> Controller:
        """What is known of the bus's controller."""
        return self._health.controller

    @property
    def counts(self) -> Mapping[str, int]:
        """As `Source.counts`: `dropped`, `filtered`, `bad_lines`, `clamped`."""
        return {
            "dropped": self._health.dropped,
            "filtered": self._hidden.total,
            "bad_lines": self._health.bad,
            "clamped": self._clamped,
        }

    def status(self) -> dict[str, Any]:
        """What the status tells of it: the controller, the kernel's buffer."""
        told = {"listen_only": self.listen_only, "buffer_bytes": self.buffer_bytes}
        return self._health.status() | told

    def set_filters(self, filters: Filters | None) -> None:
        """Change what passes, also while reading. From any thread.

        Raises:
            BusError: more filters than the kernel takes.
        """
        pack_filters(filters)
        with self._lock:
            self._filters = filters
            self._hidden.wanted = filters is not None
            if self._socket is not None:
                # An interface that has just gone refuses them; the next socket has them.
                with contextlib.suppress(BusError):
                    self._socket.set_filters(filters)

    # -- the thread --------------------------------------------------------------------------

    def run(self, deliver: Deliver, stop: threading.Event) -> None:
        """As `Source.run`; blocks of at most 16,384 frames."""
        self._deliver = self._health.deliver = deliver
        self.state = "starting"
        self._tick_at = self._clock.boot() + _TICK_NS
        self._open_watch()
        try:
            if self._early is not None:
                self._adopt(self._early)
            self._look()
            while not stop.is_set():
                self._turn(stop)
        finally:
            self._close_socket()
            self._health.tell(self._clock.boot())
            if self._watch is not None:
                self._watch.close()
                self._watch = None
            self.state = "ended"

    def _turn(self, stop: threading.Event) -> None:
        opened = self._socket
        if self._busy and opened is not None:
            if (pause_s := self._pause_s(opened)) >= _SHORTEST_PAUSE_S:
                stop.wait(pause_s)
        elif opened is not None or self._watch is not None:
            self._await()
        else:
            stop.wait(_IDLE_S)
        if opened is not None and opened is self._socket:
            self._read(opened)
        # A clock costs a system call on some machines; the read has just asked it.
        now = opened.read_at if opened is not None else self._clock.boot()
        if (
            (opened := self._socket) is not None
            and opened.waiting
            and now - self._began >= self._block_ns
        ):
            self._flush(opened)
        if now >= self._tick_at:
            self._tick()

    def _await(self) -> None:
        """Wait for a frame or a word about the link."""
        wait_s = _IDLE_S
        opened = self._socket
        now = self._clock.boot()
        if opened is not None and opened.waiting:
            wait_s = min(wait_s, max(0, self._began + self._block_ns - now) / SECOND)
        wait_s = min(wait_s, max(0, self._tick_at - now) / SECOND)
        ready = {descriptor for descriptor, _ in self._poll.poll(int(wait_s * 1000) + 1)}
        if self._watch is not None and self._watch.fileno() in ready:
            self._listen()

    def _read(self, opened: MessageSocket) -> None:
        """Take what the kernel holds; it stays in the ring."""
        got = 0
        try:
            for _ in range(_CALLS_A_TURN):
                if not opened.room:
                    self._flush(opened)
                before = opened.waiting
                got += opened.receive()
                if not before and opened.waiting:
                    self._began = opened.read_at
                if opened.emptied:
                    break
        except OSError as error:
            self._fail(error)
            return
        rate = got * SECOND / max(1, opened.read_at - self._read_at)
        self._rate = max(rate, self._rate / 2)
        self._read_at = opened.read_at
        self._busy = got > 0
        if got and self.state != "reading":
            self._look(alive=True)

    def _pause_s(self, opened: MessageSocket) -> float:
        """How long the kernel's buffer can be left alone: until a quarter full, or a block due."""
        wait_s = min(_PAUSE_S, self._block_ns / (_PAUSES_A_BLOCK * SECOND))
        if opened.waiting:
            wait_s = min(wait_s, (self._began + self._block_ns - opened.read_at) / SECOND)
        quarter = self.buffer_bytes / (4 * _FRAME_IN_KERNEL_BYTES)
        full_s = quarter / max(self._rate, _MOST_FRAMES_A_SECOND)
        return min(max(wait_s, _SHORTEST_PAUSE_S), full_s)

    def _flush(self, opened: MessageSocket) -> None:
        """Close the block."""
        self._take(opened.messages())
        opened.clear()

    def _take(self, messages: Messages) -> None:
        if not messages.reads:
            return
        frames = parse(messages)
        self._health.bad += frames.bad
        if frames.drops is not None:
            self._health.drops.tell(frames.drops)
        before = self._stamps.forced
        times = self._stamps.times(
            frames.stamp,
            Reads.of(messages.reads, frames.rows),
            frames.hardware if self._hardware_stamps else None,
        )
        self._clamped += self._stamps.forced - before
        if not len(frames):
            return
        block = FrameBlock(self.bus, times, frames.id, frames.length, frames.flags, frames.data)
        self._deliver(block)
        self._health.take(block)
        self._hidden.take(block)

    # -- the link ----------------------------------------------------------------------------

    def _open_watch(self) -> None:
        try:
            self._watch = self._links.watch()
        except BusError as error:
            log.warning("bus %s: changes of %s are seen late: %s", self.bus, self.interface, error)
        self._register()

    def _listen(self) -> None:
        """Something was said about links; if it may be about ours, look."""
        if self._watch is None:
            return
        try:
            events = self._watch.read()
        except BusError as error:
            log.warning("bus %s: changes of %s are seen late: %s", self.bus, self.interface, error)
            self._watch.close()
            self._watch = None
            self._register()
            return
        ours = self._socket.index if self._socket is not None else 0
        if any(e.overrun or e.name == self.interface or e.index == ours for e in events):
            self._look()

    def _look(self, *, alive: bool = False) -> None:
        """Ask how the link is, and act upon it. `alive`: it has just given frames."""
        try:
            info = self._links.link(self.interface)
        except BusError as error:
            # It cannot be asked: what opening and reading tell must do.
            if self._require_listen_only:
                self._give_up(f"is {self.interface} listen-only? {error}")
            elif alive or self._socket is None:
                self._take_up(None)
            return
        opened = self._socket
        if info is None or (opened is not None and opened.index != info.index):
            self._give_up(f"there is no interface {self.interface}")
        if info is not None:
            self.listen_only = info.listen_only
            self._health.link(info)
            self._hidden.kind = info.kind
            self._take_up(info)

    def _take_up(self, info: LinkInfo | None) -> None:
        """Read the link, or wait for it."""
        try:
            if info is not None and self._require_listen_only:
                self._refuse_unless_silent(info)
            if self._socket is None:
                with self._lock:
                    self._socket = self._open_socket(self._filters)
                self._begin(self._socket)
        except BusError as error:
            self._give_up(str(error))
            return
        if info is not None and not info.up:
            self._wait(f"{self.interface} is down")
        elif self.state != "reading":
            self.state = "reading"
            log.info("bus %s: reading %s", self.bus, self.interface)
            self._health.begins(self._clock.boot(), info)

    def _refuse_unless_silent(self, info: LinkInfo) -> None:
        if not info.listen_only:
            what = "is not" if info.listen_only is False else "cannot be"
            raise BusError(
                f"{self.interface} {what} listen-only, and bus {self.bus} requires it "
                f"(ip link set {self.interface} type can listen-only on)"
            )

    def _give_up(self, why: str) -> None:
        self._close_socket()
        self._wait(why)

    def _wait(self, why: str) -> None:
        state = f"waiting: {why}"
        self._busy = False
        if state == self.state:
            return
        was_reading = self.state == "reading"
        self.state = state
        log.warning("bus %s: %s", self.bus, state)
        if was_reading:
            self._health.ends(self._clock.boot())

    def _fail(self, error: OSError) -> None:
        """Reading failed. Going down leaves the socket usable, everything else does not."""
        if error.errno == errno.ENETDOWN:
            if self._socket is not None:
                self._flush(self._socket)
            self._wait(f"{self.interface} is down")
            self._look()
        elif error.errno == errno.ENODEV:
            self._give_up(f"there is no interface {self.interface}")
        else:
            words = os.strerror(error.errno) if error.errno else str(error)
            self._give_up(f"{self.interface} cannot be read ({words})")

    # -- the socket --------------------------------------------------------------------------

    def _open_can(self, filters: Filters | None) -> MessageSocket:
        clock = self._clock
        return CanSocket(
            self.interface,
            receive_buffer_bytes=self._receive_buffer_bytes,
            filters=filters,
            hardware_stamps=self._hardware_stamps,
            clocks=ClockPair(clock.boot, clock.wall),
        )

    def _begin(self, opened: MessageSocket) -> None:
        self._stamps = KernelStamps(*opened.opened, last=self._stamps.last)
        self._health.drops.begin()
        self._health.losses.begin()
        # Early frames are not read yet: there the first comparison is the first second's.
        self._ask_losses(opened, self._hidden.ask(opened.index) if self._early is None else None)
        self.buffer_bytes = opened.buffer_bytes
        self._read_at = opened.read_at
        self._register()

    def _adopt(self, early: EarlyFrames) -> None:
        with self._lock:
            self._socket = early.socket
        self._begin(early.socket)
        self._early = None
        if self._filters is not None:
            self.set_filters(self._filters)
        for messages in early.captured:
            self._take(messages)
        self._began = self._clock.boot()

    def _close_socket(self) -> None:
        """Take what is left in the kernel and its last count of drops, and close."""
        if (opened := self._socket) is None:
            return
        carried = self._hidden.ask(opened.index)
        for _ in range(_CALLS_A_TURN):
            if not opened.room:
                self._flush(opened)
            try:
                opened.receive()
            except OSError as error:  # is told once, before the frames that came before it
                log.debug("bus %s: at its end: %s", self.bus, error)
                continue
            if opened.emptied:
                break
        self._flush(opened)
        self._ask_losses(opened, carried)
        self._hidden.end()
        with self._lock:
            self._socket = None
        opened.close()
        self._busy = False
        self._register()

    def _register(self) -> None:
        self._poll = select.poll()
        if self._socket is not None:
            self._poll.register(self._socket.fileno(), select.POLLIN)
        if self._watch is not None:
            self._poll.register(self._watch.fileno(), select.POLLIN)

    # -- once a second -----------------------------------------------------------------------

    def _tick(self) -> None:
        now = self._clock.boot()
        opened = self._socket
        carried = None if opened is None else self._hidden.ask(opened.index)
        if opened is not None and self._hidden.counting:
            self._read(opened)
        if opened is not None and opened is self._socket:
            self._flush(opened)
            self._ask_losses(opened, carried)
        seconds = (now - self._tick_at + _TICK_NS) / SECOND
        # Frames that a filter hides are on the bus all the same.
        whole = self._filters is None and self.state == "reading"
        self._tick_at = now + _TICK_NS
        self._health.tick(now, seconds, whole=whole)
        if self._busy:
            if self._watch is not None:
                self._listen()
        elif self.state != "reading":
            self._look()

    def _ask_losses(self, opened: MessageSocket, carried: int | None) -> None:
        """Ask what did not come. `carried`: by the interface, until before all was read."""
        if (drops := opened.drops()) is not None:
            self._health.drops.tell(drops)
        if (lost := self._links.lost(self.interface)) is not None:
            self._health.losses.tell(lost)
        self._hidden.compare(carried, self._health.dropped + self._health.bad)


def _nowhere(_block: FrameBlock | SignalTable) -> None:
    """Before the first run."""
