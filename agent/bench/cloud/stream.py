"""What arrives, told to pages that are open: server-sent events at `/v1/stream`.

    event: received
    data: {"vehicle": "car-1", "batch_id": "...", "received": "2024-05-01T12:00:00.000Z"}

An event says that there is something new to ask for, and no more, so nobody needs all of them. A
client has no queue but one event a vehicle, the newest, and is sent what there is once in
`interval_s`. One that reads slowly holds up nobody, and costs no more than the number of vehicles.

`most_clients` are served; another one is refused with 503 and comes again by itself. A comment each
`keep_alive_s` shows a client that is gone. When the application shuts down the streams end.
"""

import asyncio
import contextlib
import json
from typing import Final

from aiohttp import hdrs, web

from agent.bench.cloud.answers import refuse
from agent.bench.cloud.store import Stored
from agent.bench.cloud.summary import iso

MOST_CLIENTS: Final = 32
INTERVAL_S: Final = 0.5
_RETRY_MS: Final = 3_000
"""After what time a browser connects again."""


class _Client:
    def __init__(self) -> None:
        self.news = asyncio.Event()
        self.waiting: dict[str, bytes] = {}
        """By vehicle: the newest event that was not sent yet."""


class Stream:
    """Belongs to one event loop."""

    def __init__(
        self,
        *,
        most_clients: int = MOST_CLIENTS,
        interval_s: float = INTERVAL_S,
        keep_alive_s: float = 15.0,
    ) -> None:
        self._most_clients = most_clients
        self._interval_s = interval_s
        self._keep_alive_s = keep_alive_s
        self._clients: set[_Client] = set()
        self._ending = asyncio.Event()

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/v1/stream", self.get)
        app.on_shutdown.append(self.end)

    def received(self, stored: Stored) -> None:
        """Tell every client, in the event loop."""
        if not self._clients:
            return
        told = {
            "vehicle": stored.vehicle,
            "batch_id": stored.batch_id,
            "received": iso(stored.received),
        }
        event = f"event: received\ndata: {json.dumps(told)}\n\n".encode()
        for client in self._clients:
            client.waiting[stored.vehicle] = event
            client.news.set()

    async def end(self, app: web.Application) -> None:
        """Let every stream end, so that nobody waits for a browser."""
        self._ending.set()
        for client in self._clients:
            client.news.set()

    async def get(self, request: web.Request) -> web.StreamResponse:
        if len(self._clients) >= self._most_clients:
            busy = {"Retry-After": "10"}
            refuse(503, "busy", f"{self._most_clients} pages listen already", busy)
        client = _Client()
        self._clients.add(client)
        try:
            response = web.StreamResponse(
                headers={
                    hdrs.CONTENT_TYPE: "text/event-stream",
                    hdrs.CACHE_CONTROL: "no-store",
                    "X-Accel-Buffering": "no",
                }
            )
            await response.prepare(request)
            # A browser that goes away is no error.
            with contextlib.suppress(ConnectionError):
                await response.write(f"retry: {_RETRY_MS}\n\n".encode())
                await self._serve(client, response)
            return response
        finally:
            self._clients.discard(client)

    async def _serve(self, client: _Client, response: web.StreamResponse) -> None:
        while not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.news.wait(), self._keep_alive_s)
            client.news.clear()
            events = b"".join(client.waiting.values())
            client.waiting.clear()
            await response.write(events or b": still here\n\n")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), self._interval_s)
