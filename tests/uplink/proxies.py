"""A small forward proxy on loopback: CONNECT tunnels, and requests with a whole address."""

import asyncio
import base64
import contextlib
import urllib.parse
from collections.abc import AsyncIterator


class Proxy:
    """With `pair` it wants `user:password` by the Basic scheme (RFC 7617)."""

    def __init__(self, pair: str = "") -> None:
        self.pair = pair
        self.seen: list[str] = []
        self.refused = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        tasks: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._request(reader, writer):
                pass
        except (OSError, EOFError):
            pass
        finally:
            writer.transport.abort()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first, fields, lines = await _head(reader)
        method, target, _ = first.split(" ")
        self.seen.append(f"{method} {target}")
        wanted = f"Basic {base64.b64encode(self.pair.encode()).decode()}"
        if self.pair and fields.get("proxy-authorization") != wanted:
            self.refused += 1
            writer.write(b"HTTP/1.1 407 X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            while await reader.read(65536):
                pass
            return False
        if method == "CONNECT":
            host, _, port = target.rpartition(":")
            there = await asyncio.open_connection(host.strip("[]"), int(port))
            writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
            await asyncio.gather(_pump(reader, there[1]), _pump(there[0], writer))
            return False
        parts = urllib.parse.urlsplit(target)
        inner, outer = await asyncio.open_connection(parts.hostname, parts.port)
        path = parts._replace(scheme="", netloc="").geturl()
        kept = [li for li in lines if not li.lower().startswith("proxy-")]
        outer.write("\r\n".join([f"{method} {path} HTTP/1.1", *kept]).encode() + b"\r\n\r\n")
        outer.write(await reader.readexactly(int(fields.get("content-length", "0"))))
        status, said, lines = await _head(inner)
        writer.write("\r\n".join([status, *lines]).encode() + b"\r\n\r\n")
        writer.write(await inner.readexactly(int(said["content-length"])))
        outer.transport.abort()
        return True


async def _head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str], list[str]]:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    return first, {k.lower(): v.strip() for k, _, v in (li.partition(":") for li in lines)}, lines


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await source.read(65536):
            target.write(piece)
            await target.drain()
    target.close()
