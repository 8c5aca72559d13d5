"""GET /metrics over HTTP, and nothing else: a server of its own, as small as that.

Whoever connects may be slow, huge, many, or no HTTP at all, and must cost the agent nothing but a
little time. A request has at most `MOST_REQUEST` bytes; connection, request and answer together
take at most `PATIENCE_S`; one connection carries one request. How many are connected is bounded
(`agent.observe.clients`). The text is made at most once a second, however many ask for it.
"""

import asyncio
import contextlib
import http
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from agent.clock import SECOND, BootNs, Clock
from agent.errors import ConfigError
from agent.observe.clients import Clients
from agent.observe.exposition import CONTENT_TYPE
from agent.settings.metrics import TcpAddress

log = logging.getLogger("edge_agent")

MOST_REQUEST: Final = 8192
PATIENCE_S: Final = 5.0
_FRESH_NS: Final = SECOND
_MAX_PATH: Final = 107
"""sun_path of sockaddr_un, less its end mark."""
_PLAIN: Final = "text/plain; charset=utf-8"


class MetricsServer:
    """Answers until it is closed. Belongs to the event loop."""

    def __init__(
        self,
        where: TcpAddress | Path,
        text: Callable[[], str],
        clock: Clock,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """`text` makes what GET /metrics gives, in the event loop.

        Raises:
            ConfigError: the path is too long for a socket.
        """
        if isinstance(where, Path) and len(os.fsencode(where)) > _MAX_PATH:
            raise ConfigError(
                f"{where}: is too long for a socket (over {_MAX_PATH} bytes); set a shorter "
                '"listen" in [metrics]'
            )
        self.address = where
        """Where it listens; with the port that was free, where any was good."""
        self._text = text
        self._clock = clock
        self._patience_s = patience_s
        self._server: asyncio.Server | None = None
        self._clients = Clients(self._serve)
        self._made: tuple[BootNs, bytes] | None = None
        self._failure = ""

    async def __aenter__(self) -> Self:
        """Listen.

        Raises:
            ConfigError: this cannot be done there.
        """
        where = self.address
        try:
            if isinstance(where, Path):
                where.parent.mkdir(parents=True, exist_ok=True)
                _clear(where)
                self._server = await asyncio.start_unix_server(
                    self._clients.accept, where, limit=MOST_REQUEST
                )
                where.chmod(0o660)
            else:
                self._server = await asyncio.start_server(
                    self._clients.accept, where.host, where.port, limit=MOST_REQUEST
                )
                self.address = TcpAddress(where.host, self._server.sockets[0].getsockname()[1])
        except OSError as e:
            raise ConfigError(
                f'{where}: cannot listen here: {os.strerror(e.errno or 0)}; change "listen" in '
                "[metrics]"
            ) from e
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            await self._clients.close(self._server)
        if isinstance(self.address, Path):
            with contextlib.suppress(OSError):
                self.address.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that misbehaves costs itself.
        with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
            async with asyncio.timeout(self._patience_s):
                writer.write(await self._answer(reader))
                await writer.drain()
                writer.write_eof()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _response(http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        parts = head.partition(b"\r\n")[0].split(b" ")
        if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
            return _response(http.HTTPStatus.BAD_REQUEST)
        method, target, _ = parts
        if target.partition(b"?")[0] != b"/metrics":
            return _response(http.HTTPStatus.NOT_FOUND)
        if method not in (b"GET", b"HEAD"):
            return _response(http.HTTPStatus.METHOD_NOT_ALLOWED, more="Allow: GET, HEAD\r\n")
        body = self._body()
        if body is None:
            return _response(http.HTTPStatus.INTERNAL_SERVER_ERROR)
        answer = _response(http.HTTPStatus.OK, body, kind=CONTENT_TYPE)
        return answer if method == b"GET" else answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"

    def _body(self) -> bytes | None:
        """The text, at most a second old; None where a defect keeps it from being made."""
        now = self._clock.boot()
        if self._made is None or now - self._made[0] >= _FRESH_NS:
            try:
                self._made = now, self._text().encode("utf-8", "replace")
            except Exception as e:
                if self._failure != repr(e):
                    self._failure = repr(e)
                    log.exception("metrics cannot be told")
                return None
        return self._made[1]


def _clear(path: Path) -> None:
    """Remove a socket that an earlier run left; nothing else.

    Raises:
        ConfigError: something else is there.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f'{path}: is no socket; change "listen" in [metrics]')
        path.unlink()


def _response(
    status: http.HTTPStatus, body: bytes | None = None, *, kind: str = _PLAIN, more: str = ""
) -> bytes:
    said = f"{status.phrase}\n".encode() if body is None else body
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Content-Type: {kind}\r\n"
        f"Content-Length: {len(said)}\r\n"
        f"{more}"
        "Cache-Control: no-store\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode("ascii") + said
