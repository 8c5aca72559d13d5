"""One connection of a vehicle to the platform: its frames in order, and what becomes of each.

an answer to a command of ours    goes to who waits for it
a frame before the login          ends the connection
a login that cannot be read       is ignored
a login                           takes the place of the VIN's older connection
everything else                   is kept, then answered as `Behaviour` says
what is malformed                 is kept with its reason, then answered with an error
"""

import asyncio
import contextlib
import dataclasses
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from agent.bench.gbt32960 import mischief
from agent.bench.gbt32960.behaviour import (
    HEARTBEAT,
    LOGIN,
    LOGOUT,
    REPORTS,
    TIME_SYNC,
    Answer,
    Mischief,
)
from agent.bench.gbt32960.outlet import Outlet
from agent.bench.gbt32960.record import FullError, Taken
from agent.errors import TransientError
from agent.gbt32960.codec import GBT2016, GBT2025, Codec, Values, pack_time
from agent.gbt32960.envelope import PLAIN, Frame, Stream
from agent.gbt32960.layout import COMMAND, GbtError

if TYPE_CHECKING:
    from agent.bench.gbt32960.platform import Platform

QUERY: Final = 0x80
SET: Final = 0x81
CONTROL: Final = 0x82
OK: Final = 0x01
ERROR: Final = 0x02
DUPLICATE: Final = 0x03
STRUCTURE: Final = 0x06
DECRYPTION: Final = 0x07

_GIVE_UP_S: Final = 5.0
"""The rest of a frame that has begun takes no longer than this."""
_ANSWERED: Final = (LOGIN, LOGOUT, HEARTBEAT, TIME_SYNC, *REPORTS)
_TIMELESS: Final = (HEARTBEAT, TIME_SYNC)
_MOST_ASKED: Final = 100
_RESET: Final = struct.pack("ii", 1, 0)  # linger for 0 s: close() sends a reset


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """What a vehicle answered to a command that was sent down."""

    vin: str
    command: int
    ack: int
    body: bytes
    values: Values | None
    """None where it cannot be read."""
    wrong: str = ""


class Connection(asyncio.Protocol):
    """One connection of a vehicle.

    Attributes:
        vin: of the vehicle once it has logged in; empty before.
        codec: of the edition of its login.
        outlet: what goes down to it.
    """

    outlet: Outlet

    def __init__(self, platform: "Platform") -> None:
        self.vin = ""
        self.codec: Codec = GBT2016
        self._platform = platform
        self._transport: asyncio.Transport | None = None
        self._stream = Stream()
        self._frames = 0
        self._bad_frames = 0
        self._heard = 0.0
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: dict[int, deque[asyncio.Future[Reply]]] = {}
        self._over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  what a TCP server gives
        self._transport = transport
        platform = self._platform
        platform.connections.add(self)
        platform.counts["connected"] += 1
        self.outlet = Outlet(transport, platform.behaviour)
        if not platform.has_room():
            self.reset("refused")
            return
        self._heard = asyncio.get_running_loop().time()
        self._later("login", platform.behaviour.login_s, lambda: self.reset("no_login"))

    def data_received(self, data: bytes) -> None:
        self._heard = asyncio.get_running_loop().time()
        self._take(self._stream.feed(data))
        self._wait_for_the_rest()

    def pause_writing(self) -> None:
        self.outlet.pause()

    def resume_writing(self) -> None:
        self.outlet.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("left")

    def reset(self, why: str) -> None:
        """End it at once, as a network does that breaks; `why` is counted."""
        if self._over or self._transport is None:
            return
        end = self._transport.get_extra_info("socket")
        if end is not None:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()
        self._end(why)

    def _end(self, why: str) -> None:
        if self._over:
            return
        self._over = True
        platform = self._platform
        platform.counts[why] += 1
        platform.connections.discard(self)
        if platform.online.get(self.vin) is self:
            del platform.online[self.vin]
        for timer in self._timers.values():
            timer.cancel()
        for task in self._tasks:
            task.cancel()
        self.outlet.stop()
        for waiting in self._asked.values():
            for each in waiting:
                if not each.done():
                    each.set_exception(TransientError(f"{self.vin} has left"))
        platform.changed()

    # -- time --------------------------------------------------------------------------------

    def _later(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        """Call it then, unless a timer of this name runs."""

        def due() -> None:
            del self._timers[name]
            call()

        if name not in self._timers and not self._over:
            self._timers[name] = asyncio.get_running_loop().call_later(seconds, due)

    def _listen(self) -> None:
        """Drop it when it says nothing for too long."""
        loop = asyncio.get_running_loop()
        left_s = self._heard + self._platform.behaviour.silence_s - loop.time()
        if left_s <= 0:
            self.reset("silent")
        else:
            self._later("silence", left_s, self._listen)

    def _wait_for_the_rest(self) -> None:
        """What looks like the begin of a frame may be none, and hide those behind it."""
        if not self._stream.pending_bytes:
            timer = self._timers.pop("begun", None)
            if timer is not None:
                timer.cancel()
            return

        def given_up() -> None:
            self._take(self._stream.give_up())
            self._wait_for_the_rest()

        self._later("begun", _GIVE_UP_S, given_up)

    # -- frames ------------------------------------------------------------------------------

    def _take(self, frames: list[Frame]) -> None:
        for frame in frames:
            if self._over:
                return
            self._take_one(frame)
        bad = self._stream.bad_frames - self._bad_frames
        self._bad_frames += bad
        if bad:
            self._platform.counts["bad_frames"] += bad
            if self.vin:
                self._platform.record.damaged(self.vin, bad, self._platform.now())
        self._platform.changed()

    def _take_one(self, frame: Frame) -> None:
        platform = self._platform
        platform.counts["frames"] += 1
        if not self.vin and (frame.command != LOGIN or frame.ack != COMMAND):
            self.reset("before_login")
            return
        if frame.command == LOGIN and not self._readable_login(frame):
            platform.counts["bad_logins"] += 1
            return
        try:
            taken = platform.record.take(frame, platform.now(), self.vin or frame.vin)
        except FullError:
            # Not kept is not confirmed.
            self.reset("not_kept")
            return
        self._frames += 1
        most = platform.behaviour.drop_after_frames
        if most and self._frames >= most:
            self.reset("dropped")
        elif frame.ack != COMMAND:
            self._replied(frame, taken)
        else:
            self._answer(frame, taken)

    def _readable_login(self, frame: Frame) -> bool:
        if not frame.vin or (self.vin and frame.vin != self.vin):
            return False
        try:
            frame.decode()
        except GbtError:
            return False
        return True

    def _logged_in(self, frame: Frame) -> None:
        platform = self._platform
        behaviour = platform.behaviour
        self.vin, self.codec = frame.vin, frame.codec
        older = platform.online.get(self.vin)
        if older is not None and older is not self:
            older.reset("replaced")
        platform.online[self.vin] = self
        timer = self._timers.pop("login", None)
        if timer is not None:
            timer.cancel()
        self._listen()
        if behaviour.drop_every_s:
            self._later("drop", behaviour.drop_every_s, lambda: self.reset("dropped"))

    # -- answers -----------------------------------------------------------------------------

    def _answer(self, frame: Frame, taken: Taken) -> None:
        platform = self._platform
        behaviour = platform.behaviour
        style = behaviour.to(frame.command)
        if frame.command == LOGIN and style not in (Answer.ERROR, Answer.DUPLICATE):
            self._logged_in(frame)
        answer = self._answered(frame, style, taken.wrong)
        if answer is not None:
            platform.counts["answers"] += 1
            garbage = mischief.garbage(behaviour.garbage_bytes, platform.counts["answers"])
            self.outlet.say(garbage + answer.to_bytes())
        if frame.command == LOGIN and self.vin:
            for what in behaviour.mischief:
                self.harass(what)

    def _answered(self, frame: Frame, style: Answer, wrong: str) -> Frame | None:
        if style is Answer.NEVER:
            return None
        if wrong or frame.command not in _ANSWERED:
            return dataclasses.replace(
                frame, ack=_flag(frame), body=frame.body[:6], encryption=PLAIN
            )
        now = pack_time(self._platform.now())
        time = now if frame.command in _TIMELESS else frame.body[:6]
        ack, body = OK, time
        match style:
            case Answer.CORRECT:
                if frame.command in REPORTS:
                    return None
                if frame.command == HEARTBEAT:
                    body = b""
            case Answer.ECHO:
                # Who is asked for the time has nothing to repeat.
                body = now if frame.command == TIME_SYNC else frame.body
            case Answer.EMPTY:
                body = b""
            case Answer.ERROR:
                ack = ERROR
            case Answer.DUPLICATE:
                ack = DUPLICATE
        return Frame(frame.codec, frame.command, ack, frame.vin, body)

    def _replied(self, frame: Frame, taken: Taken) -> None:
        reply = Reply(frame.vin, frame.command, frame.ack, frame.body, taken.values, taken.wrong)
        self._platform.replies.append(reply)
        waiting = self._asked.get(frame.command)
        while waiting:
            first = waiting.popleft()
            if not first.done():
                first.set_result(reply)
                return
        self._platform.counts["unasked_replies"] += 1

    # -- down --------------------------------------------------------------------------------

    async def ask(self, frame: Frame, limit_s: float) -> Reply:
        """Send a command and wait for its answer.

        Raises:
            TransientError: the vehicle leaves, does not answer in time, or has too much to answer.
        """
        waiting = self._asked.setdefault(frame.command, deque())
        if len(waiting) >= _MOST_ASKED:
            raise TransientError(f"{self.vin} has {_MOST_ASKED} commands to answer already")
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        waiting.append(reply)
        self.outlet.say(frame.to_bytes())
        try:
            return await asyncio.wait_for(reply, limit_s)
        except TimeoutError as error:
            raise TransientError(
                f"{self.vin} has not answered command 0x{frame.command:02X} in {limit_s:g} s"
            ) from error

    def harass(self, what: Mischief) -> None:
        """Do mischief to this vehicle."""
        task = asyncio.get_running_loop().create_task(self._harass(what))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _harass(self, what: Mischief) -> None:
        self._platform.counts["mischief"] += 1
        for piece in mischief.pieces(what, self.codec, self.vin, self._platform.now()):
            await self.outlet.room()
            if self._over:
                return
            self.outlet.say(piece)
            # A loop that never waits would keep everybody else from being heard.
            await asyncio.sleep(0)


def _flag(frame: Frame) -> int:
    """Which error it is: only 2025 tells them apart."""
    if frame.codec is not GBT2025:
        return ERROR
    return STRUCTURE if frame.encryption == PLAIN else DECRYPTION
