"""A receiver on loopback that misbehaves as it is told: raw sockets, so that nothing is repaired.

The n-th PUT meets the n-th behaviour of `puts`, later ones meet `always`. What has really been done
is noted in `happened`, and what is held in `stored`.
"""

import asyncio
import base64
import contextlib
import hashlib
import itertools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable


class Exchange:
    """One request, and the means to answer it well or badly."""

    def __init__(
        self,
        server: "BadServer",
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        head: bytes,
    ) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.server = server
        self.reader = reader
        self.writer = writer
        self.method, self.target, _ = lines[0].split(" ")
        self.headers = {k.lower(): v.strip() for k, _, v in (li.partition(":") for li in lines[1:])}
        self.batch_id = self.target.partition("?")[0].rpartition("/")[2]
        self.left = int(self.headers.get("content-length", "0"))

    async def body(self) -> bytes:
        """The rest of the body, of which the digest is checked."""
        content = await self.reader.readexactly(self.left)
        self.left = 0
        assert self.headers["content-digest"] == digest_of(content)
        return content

    async def reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        await self.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def write(self, content: bytes) -> None:
        self.writer.write(content)
        await self.writer.drain()

    def note(self, what: str) -> None:
        self.server.happened.append(what)
        self.server.noted.set()


Behaviour = Callable[[Exchange], Awaitable[None]]


def digest_of(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


async def behave(x: Exchange) -> None:
    """As a receiver should."""
    if x.method == "HEAD":
        stored = x.server.stored.get(x.batch_id)
        if stored is None:
            await x.reply(404, {})
        else:
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(stored)}\r\n"
            await x.write(f"{head}Repr-Digest: {digest_of(stored)}\r\n\r\n".encode())
        x.note("head")
        return
    content = await x.body()
    if x.batch_id in x.server.stored:
        assert x.headers["if-none-match"] == "*"
        await x.reply(412, {})
        x.note("412")
        return
    x.server.stored[x.batch_id] = content
    x.note("stored")
    await x.reply(201, {"Content-Digest": digest_of(content)})


def drop_after(count: int) -> Behaviour:
    async def drop(x: Exchange) -> None:
        await x.reader.readexactly(min(count, x.left))
        x.note("dropped")
        x.writer.transport.abort()

    return drop


async def lose_answer(x: Exchange) -> None:
    x.server.stored[x.batch_id] = await x.body()
    x.note("answer lost")
    x.writer.transport.abort()


async def answer_twice(x: Exchange) -> None:
    """As a proxy that sends the request on twice: the second answer belongs to no request."""
    content = await x.body()
    x.server.stored[x.batch_id] = content
    await x.reply(201, {"Content-Digest": digest_of(content)})
    await x.reply(412, {})
    x.note("answered twice")


async def judge_twice(x: Exchange) -> None:
    """As a proxy that sends the request on twice and passes the second answer back."""
    x.server.stored[x.batch_id] = await x.body()
    x.note("sent on twice")
    await x.reply(412, {})


async def answer_late(x: Exchange) -> None:
    """A good answer, after a while and in pieces."""
    content = await x.body()
    x.server.stored[x.batch_id] = content
    head = f"HTTP/1.1 201 Created\r\nContent-Digest: {digest_of(content)}\r\nContent-Length: 0"
    x.note("answered late")
    for piece in (head[:7], head[7:40], head[40:], "\r\n\r\n"):
        await asyncio.sleep(0.02)
        await x.write(piece.encode())


async def never_answer(x: Exchange) -> None:
    await x.body()
    x.note("no answer")
    await x.reader.read()


async def never_read(x: Exchange) -> None:
    x.writer.transport.pause_reading()  # type: ignore[attr-defined]
    x.note("not read")
    await asyncio.Event().wait()


async def drip(x: Exchange) -> None:
    """A head that never ends, so slowly that it looks alive."""
    await x.body()
    x.note("dripping")
    with contextlib.suppress(ConnectionError):
        while True:
            await x.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await asyncio.sleep(0.01)


def answer(status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> Behaviour:
    async def give(x: Exchange) -> None:
        if x.method != "HEAD":
            await x.body()
        x.note(str(status))
        await x.reply(status, headers or {}, body)

    return give


async def wrong_digest(x: Exchange) -> None:
    await x.body()
    x.note("wrong digest")
    await x.reply(201, {"Content-Digest": digest_of(b"something else")})


async def redirect_to_itself(x: Exchange) -> None:
    await x.body()
    x.note("redirected")
    await x.reply(307, {"Location": x.target})


async def garbage(x: Exchange) -> None:
    await x.body()
    x.note("garbage")
    await x.write(bytes(range(256)) * 4 + b"\r\n\r\n")
    x.writer.close()


def nonsense(name: str, content: bytes) -> Behaviour:
    """What looks like an answer at first."""

    async def give(x: Exchange) -> None:
        await x.body()
        x.note(name)
        await x.write(content)
        x.writer.close()

    return give


async def captive_portal(x: Exchange) -> None:
    await x.body()
    x.note("portal")
    await x.reply(200, {"Content-Type": "text/html"}, b"<html>Accept the terms of our WLAN</html>")


async def endless_head(x: Exchange) -> None:
    await x.body()
    x.note("endless head")
    await x.write(b"HTTP/1.1 201 Created\r\n")
    with contextlib.suppress(ConnectionError):
        for i in itertools.count():
            await x.write(f"X-{i}: {'y' * 1000}\r\n".encode())


async def endless_body(x: Exchange) -> None:
    """A good answer to which there is no end."""
    content = await x.body()
    x.server.stored[x.batch_id] = content
    await x.write(f"HTTP/1.1 201 Created\r\nContent-Digest: {digest_of(content)}\r\n\r\n".encode())
    x.note("endless body")
    with contextlib.suppress(ConnectionError):
        while True:
            await x.write(b"z" * 65536)


async def early_success(x: Exchange) -> None:
    """Says 201 with the right digest and has not read the batch."""
    x.note("answered early")
    await x.reply(201, {"Content-Digest": x.headers["content-digest"]})
    await x.reader.readexactly(x.left)
    x.left = 0


class BadServer:
    def __init__(self, *puts: Behaviour, always: Behaviour = behave) -> None:
        self.puts = list(puts)
        self.heads: list[Behaviour] = []
        self.always = always
        self.stored: dict[str, bytes] = {}
        self.happened: list[str] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.noted = asyncio.Event()
        self.port = 0

    @contextlib.asynccontextmanager
    async def running(
        self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
    ) -> AsyncIterator["BadServer"]:
        tasks: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(connected, host, 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert not [e for e in ended if isinstance(e, Exception)], ended

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                exchange = Exchange(self, reader, writer, head)
                self.requests.append((exchange.method, exchange.target, exchange.headers))
                await self._behaviour(exchange.method)(exchange)
                if exchange.left:
                    break
        except (OSError, EOFError):
            pass  # the client has gone, as it may
        finally:
            writer.transport.abort()

    def _behaviour(self, method: str) -> Behaviour:
        if method == "HEAD":
            return self.heads.pop(0) if self.heads else behave
        return self.puts.pop(0) if self.puts else self.always
