"""A web server over a repository's folder, which misbehaves as it is told.

    with Server(repo.folder) as server:
        server.misbehave("*/timestamp.json", slowly(b"..."))     # from now on
        server.misbehave("*", status(500), times=1)              # the next request only
        client.look(...)                                         # of Ota(url=server.url, ...)
        assert server.asked == ["metadata/timestamp.json"]

Real sockets, a thread for each connection, and answers that are written as they are: nothing is
repaired on the way. Well behaved, it serves ETags and answers 304, and keeps connections open.
"""

import contextlib
import fnmatch
import hashlib
import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import unquote

_PATIENCE_S = 30.0


@dataclass(frozen=True)
class Request:
    """What was asked: `name` is the path below the server's folder."""

    name: str
    headers: Mapping[str, str]


@dataclass
class Exchange:
    """One request, and the means to answer it well or badly."""

    server: "Server"
    request: Request
    connection: socket.socket
    open: bool = field(default=True)

    def send(self, content: bytes) -> None:
        self.connection.sendall(content)

    def reply(
        self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        lines = {"Content-Length": str(len(body)), **(headers or {})}
        self.send(head(status, lines) + body)

    def hang_up(self) -> None:
        """After this answer the connection is closed."""
        self.open = False

    def content(self) -> bytes | None:
        """The file that was asked for."""
        path = self.server.folder / self.request.name
        return path.read_bytes() if path.is_file() else None


Behaviour = Callable[[Exchange], None]


def head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


def etag_of(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


def behave(x: Exchange) -> None:
    content = x.content()
    if content is None:
        x.reply(404, b"no such file\n")
    elif x.request.headers.get("if-none-match") == etag_of(content):
        x.send(head(304, {"ETag": etag_of(content)}))
    else:
        x.reply(200, content, {"ETag": etag_of(content)})


def status(code: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Behaviour:
    return lambda x: x.reply(code, body, headers)


def content(body: bytes) -> Behaviour:
    """Another file than the one that was asked for."""
    return status(200, body)


def raw(answer: bytes) -> Behaviour:
    """These bytes, then hang up."""

    def give(x: Exchange) -> None:
        x.send(answer)
        x.hang_up()

    return give


def changed(change: Callable[[bytes], bytes]) -> Behaviour:
    """The right file with something done to it."""

    def give(x: Exchange) -> None:
        x.reply(200, change(x.content() or b""))

    return give


def hang_up(x: Exchange) -> None:
    x.hang_up()


def silence(x: Exchange) -> None:
    """Nothing, for as long as the client stays."""
    x.connection.recv(1)
    x.hang_up()


def drip(every: Callable[[], object], beginning: bytes | None = None) -> Behaviour:
    """The file byte by byte, then blanks without an end; `every` is called before each byte."""

    def give(x: Exchange) -> None:
        x.hang_up()
        source = beginning
        if source is None:
            source = x.content() or bytes(10_000)
            x.send(head(200, {"Content-Length": str(len(source))}))
        for byte in itertools.chain(source, itertools.repeat(32)):
            every()
            x.send(bytes([byte]))

    return give


def endless(x: Exchange) -> None:
    """The file, and after it blanks without an end, as fast as they go."""
    body = x.content() or b"{}"
    x.hang_up()
    x.send(head(200, {"Transfer-Encoding": "chunked"}) + chunk(body))
    while True:
        x.send(chunk(b" " * 65536))


def endless_chunks(x: Exchange) -> None:
    """Chunks of one byte without an end."""
    x.hang_up()
    x.send(head(200, {"Transfer-Encoding": "chunked"}))
    while True:
        x.send(b"1\r\n \r\n" * 4096)


def endless_trailer(x: Exchange) -> None:
    body = x.content() or b"{}"
    x.hang_up()
    x.send(head(200, {"Transfer-Encoding": "chunked"}))
    x.send(chunk(body) + b"0\r\n")
    while True:
        x.send(b"X-More: yes\r\n" * 4096)


def endless_promises(x: Exchange) -> None:
    """`100 Continue` without an end."""
    x.hang_up()
    while True:
        x.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 1024)


class Server:
    """Serves a folder on loopback while the `with` lasts.

    Args:
        folder: what is below it is what can be asked for.
        tls: a context, for https.

    Attributes:
        requests: everything that was asked, in order.
        connections: how many there were.
    """

    def __init__(self, folder: Path, tls: ssl.SSLContext | None = None) -> None:
        self.folder = folder
        self.requests: list[Request] = []
        self.connections = 0
        self._tls = tls
        self._rules: list[tuple[str, Behaviour, int | None]] = []
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._listen)]

    @property
    def url(self) -> str:
        scheme = "https" if self._tls else "http"
        return f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def asked(self) -> list[str]:
        """The names that were asked for, in order."""
        return [request.name for request in self.requests]

    def misbehave(self, pattern: str, behaviour: Behaviour, times: int | None = None) -> None:
        """Answer what fits the pattern so, for so many requests; the newest rule comes first."""
        with self._lock:
            self._rules.insert(0, (pattern, behaviour, times))

    def recover(self) -> None:
        """Behave again, and forget what was asked."""
        with self._lock:
            self._rules.clear()
            self.requests.clear()

    def close_idle(self) -> None:
        """Close every connection, as a server does with those that are idle."""
        with self._lock:
            for connection in self._sockets:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(_PATIENCE_S)
        self.close_idle()
        for thread in self._threads:
            thread.join(_PATIENCE_S)
            assert not thread.is_alive()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(_PATIENCE_S)
                thread = threading.Thread(target=self._serve, args=(connection,))
                with self._lock:
                    self.connections += 1
                    self._sockets.append(connection)
                    self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(connection)
            if self._tls is not None:
                connection = stack.enter_context(
                    self._tls.wrap_socket(connection, server_side=True)
                )
                with self._lock:
                    self._sockets.append(connection)
            with connection.makefile("rb") as lines:
                while (request := _request(iter(lines.readline, b""))) is not None:
                    exchange = Exchange(self, request, connection)
                    with self._lock:
                        self.requests.append(request)
                        behaviour = self._behaviour(request.name)
                    behaviour(exchange)
                    if not exchange.open:
                        break

    def _behaviour(self, name: str) -> Behaviour:
        for i, (pattern, behaviour, times) in enumerate(self._rules):
            if fnmatch.fnmatchcase(name, pattern):
                if times is not None:
                    self._rules[i : i + 1] = [(pattern, behaviour, times - 1)] if times > 1 else []
                return behaviour
        return behave


def _request(lines: Iterator[bytes]) -> Request | None:
    """The head of the next request; None where the client has gone."""
    first = next(lines, b"").decode("latin-1").split(" ")
    if len(first) != 3:
        return None
    headers = {}
    for line in lines:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            break
        headers[name.lower()] = value.strip()
    return Request(unquote(first[1]).lstrip("/"), headers)
