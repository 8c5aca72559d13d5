"""What arrives, told to pages that are open."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from agent.bench.cloud.answers import plain_errors
from agent.bench.cloud.server import serve
from agent.bench.cloud.store import Stored
from agent.bench.cloud.stream import Stream
from agent.clock import WallNs


def stored(vehicle: str, number: int = 1) -> Stored:
    name = f"00c0ffee-1-telemetry-{number}"
    return Stored(vehicle, name, Path(name), 1, WallNs(1_700_000_000_000_000_000))


@contextlib.asynccontextmanager
async def served(stream: Stream) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    app = web.Application(middlewares=[plain_errors])
    stream.add_to(app)
    async with aiohttp.ClientSession() as session, serve(app, "127.0.0.1", 0) as url:
        yield session, f"{url}/v1/stream"


async def opened(answer: aiohttp.ClientResponse) -> None:
    """It has begun: what arrives from now on is told."""
    assert answer.status == 200
    assert answer.content_type == "text/event-stream"
    assert (await answer.content.readuntil(b"\n\n")).startswith(b"retry:")


async def event(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            text = (await answer.content.readuntil(b"\n\n")).decode()
            if not text.startswith(":"):
                kind, data = text.strip().splitlines()
                assert kind == "event: received"
                found: dict[str, Any] = json.loads(data.removeprefix("data: "))
                return found


def test_a_page_hears_which_vehicle_has_sent_something() -> None:
    async def heard() -> dict[str, Any]:
        stream = Stream()
        async with served(stream) as (session, url), session.get(url) as answer:
            await opened(answer)
            stream.received(stored("car-1"))
            return await event(answer)

    assert asyncio.run(heard()) == {
        "vehicle": "car-1",
        "batch_id": "00c0ffee-1-telemetry-1",
        "received": "2023-11-14T22:13:20.000Z",
    }


def test_many_batches_at_once_are_one_event_a_vehicle_with_the_newest() -> None:
    async def heard() -> list[str]:
        stream = Stream(interval_s=0.01)
        async with served(stream) as (session, url), session.get(url) as answer:
            await opened(answer)
            for number in range(1000):
                stream.received(stored("car-1", number))
                stream.received(stored("car-2", number))
            first = [await event(answer), await event(answer)]
            stream.received(stored("car-3"))
            return [e["vehicle"] + e["batch_id"][-3:] for e in [*first, await event(answer)]]

    assert asyncio.run(heard()) == ["car-1999", "car-2999", "car-3y-1"]


def test_a_page_too_many_is_refused_and_served_when_another_has_gone() -> None:
    async def heard() -> tuple[int, str, str]:
        stream = Stream(most_clients=1, keep_alive_s=0.01, interval_s=0.01)
        async with served(stream) as (session, url):
            async with session.get(url) as answer:
                await opened(answer)
                async with session.get(url) as other:
                    refused = other.status, other.headers["Retry-After"]
                    assert (await other.json())["error"]["code"] == "busy"
            async with asyncio.timeout(30):
                while True:
                    async with session.get(url) as later:
                        if later.status == 200:
                            await opened(later)
                            stream.received(stored("car-1"))
                            return *refused, (await event(later))["vehicle"]

    assert asyncio.run(heard()) == (503, "10", "car-1")


def test_streams_end_when_the_cloud_does() -> None:
    async def rest() -> bytes:
        stream = Stream()
        async with contextlib.AsyncExitStack() as stack:
            session, url = await stack.enter_async_context(served(stream))
            answer = await session.get(url)
            await opened(answer)
            reading = asyncio.create_task(answer.content.read())
            await asyncio.sleep(0)  # until it reads
        return await reading

    assert asyncio.run(rest()) in (b"", b": still here\n\n")
