"""A platform for many vehicles of both editions at once: a TCP server that answers as it is told.

    async with Platform(Record(folder)) as platform:
        platform.behaviour.answers = Answer.ECHO
        await platform.until(lambda: "LEDGAGENT00000001" in platform.online)
        reply = await platform.query("LEDGAGENT00000001", [0x02, 0x09])

A vehicle logs in first: another frame before that ends the connection, a login that cannot be read
is ignored, and a VIN that connects again takes the place of its old connection. What comes is
written down before it is answered, so a kill of this process loses nothing that it has confirmed.

Nothing here trusts a vehicle. A connection holds less than one frame of the greatest length, and is
not read while its answers wait; connections are counted, and those that are too many are closed at
once; whoever does not log in, or says nothing for long, is dropped. Everything is counted.
"""

import asyncio
import os
import resource
import ssl
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Self

from agent.bench.gbt32960.behaviour import Behaviour, Mischief
from agent.bench.gbt32960.connection import CONTROL, QUERY, SET, Connection, Reply
from agent.bench.gbt32960.record import Record
from agent.clock import Clock, SystemClock, WallNs
from agent.errors import TransientError
from agent.gbt32960.envelope import request
from agent.gbt32960.layout import Item
from agent.gbt32960.scalars import FIRST

__all__ = ["Platform", "Reply"]

_FILES_LEFT: Final = 64
_KEPT_REPLIES: Final = 1000
_BACKLOG: Final = 1024


class Platform:
    """A server that plays a platform; everything belongs to the event loop.

    Args:
        record: keeps what comes; without one, only in memory.
        host: where to listen.
        port: where to listen; 0 takes a free one, which `port` tells after `start`.
        behaviour: how it answers; may be changed at any time.
        clock: what time it is.
        tls: speak TLS.
        most: connections at a time, fewer where this process may not open so many files.

    Attributes:
        online: connections that have logged in, by VIN.
        counts: what happened, by name.
        replies: the last answers of vehicles to commands that were sent down.
        down: refuse whoever connects.
    """

    def __init__(
        self,
        record: Record | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        behaviour: Behaviour | None = None,
        clock: Clock | None = None,
        tls: ssl.SSLContext | None = None,
        most: int = 5000,
    ) -> None:
        self.port = port
        self.behaviour = behaviour or Behaviour()
        self.record = record if record is not None else Record()
        self.online: dict[str, Connection] = {}
        self.counts: Counter[str] = Counter()
        self.replies: deque[Reply] = deque(maxlen=_KEPT_REPLIES)
        self.down = False
        self.connections: set[Connection] = set()
        self.clock = clock or SystemClock()
        self._host = host
        self._tls = tls
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(1, min(most, files - _FILES_LEFT))
        self._server: asyncio.Server | None = None
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen.

        Raises:
            TransientError: the address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: Connection(self), self._host, self.port, ssl=self._tls, backlog=_BACKLOG
            )
        except (OSError, OverflowError) as error:
            code = error.errno if isinstance(error, OSError) else None
            reason = os.strerror(code) if code else str(error)
            raise TransientError(
                f"the platform cannot listen on {self._host}:{self.port}: {reason}; name another "
                "address with --gbt32960"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and drop every vehicle; the record stays open."""
        if self._server is None:
            return
        self._server.close()
        self.drop()
        await self._server.wait_closed()
        self._server = None

    def has_room(self) -> bool:
        """Whether one more connection may be; it is counted already."""
        return not self.down and len(self.connections) <= self._most

    def drop(self, vin: str | None = None) -> int:
        """Reset the connection of a vehicle, or all of them; gives how many."""
        doomed = [each for each in self.connections if vin is None or each.vin == vin]
        for each in doomed:
            each.reset("dropped")
        return len(doomed)

    @property
    def url(self) -> str:
        """Where vehicles connect to, as an uplink of the agent names it."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"gbt32960{'s' if self._tls else ''}://{host}:{self.port}"

    def now(self) -> WallNs:
        """What time it is, or the first that a frame can say."""
        return max(self.clock.wall(), FIRST)

    # -- what a test or a page waits for -----------------------------------------------------

    def changed(self) -> None:
        """Something happened: whoever waits looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until it is so; it is looked at after everything that happens here."""
        while not condition():
            await self._changed.wait()

    # -- down to a vehicle -------------------------------------------------------------------

    def send(self, vin: str, data: bytes) -> None:
        """Send any bytes.

        Raises:
            TransientError: the vehicle is not online.
        """
        self._connection(vin).outlet.say(data)

    def harass(self, vin: str, what: Mischief) -> None:
        """Do mischief to one vehicle, now.

        Raises:
            TransientError: the vehicle is not online.
        """
        self._connection(vin).harass(what)

    async def query(self, vin: str, ids: Sequence[int]) -> Reply:
        """Ask for parameters; see `ask`."""
        return await self.ask(vin, QUERY, {"time": self.now(), "ids": list(ids)})

    async def set_parameters(self, vin: str, items: Iterable[Item]) -> Reply:
        """Set parameters, such as `Item(0x02, {"report_period": 5})`; see `ask`."""
        return await self.ask(vin, SET, {"time": self.now(), "parameters": list(items)})

    async def control(self, vin: str, control: int, values: Mapping[str, Any]) -> Reply:
        """Send a control command; see `ask`."""
        return await self.ask(
            vin, CONTROL, {"time": self.now(), "control": [Item(control, dict(values))]}
        )

    async def ask(
        self, vin: str, command: int, values: Mapping[str, Any], *, limit_s: float = 10.0
    ) -> Reply:
        """Send a command and wait for its answer.

        Raises:
            TransientError: the vehicle is not online, leaves, or does not answer in time.
            GbtError: values that do not fit.
        """
        connection = self._connection(vin)
        body = connection.codec.encode(command, values)
        return await connection.ask(request(connection.codec, command, vin, body), limit_s)

    def _connection(self, vin: str) -> Connection:
        connection = self.online.get(vin)
        if connection is None:
            raise TransientError(f"{vin} is not online")
        return connection
