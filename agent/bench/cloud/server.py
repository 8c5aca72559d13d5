"""The reference cloud over HTTP: its addresses, and what it answers to questions.

Queries read files and decode, so all of them run in threads. What arrives is in `uploads.py`.
"""

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from aiohttp import hdrs, web

from agent import __version__
from agent.batch.format import MEDIA_TYPE
from agent.bench.cloud import digest as digests
from agent.bench.cloud.answers import as_json, plain_errors, refuse
from agent.bench.cloud.identity import Identity
from agent.bench.cloud.page import landing
from agent.bench.cloud.queries import MAX_SAMPLES, Catalogue
from agent.bench.cloud.repository import Repository
from agent.bench.cloud.store import Outcome, Store, Stored
from agent.bench.cloud.uploads import Uploads
from agent.bench.cloud.wanted import wanted
from agent.errors import ConfigError
from agent.uplink.wire import RESEND

_log = logging.getLogger(__name__)

_EVENTS_SHOWN: Final = 20
"""On the page."""
MAX_BATCH: Final = 64 << 20
RECEIVED: Final[web.AppKey[Callable[[Outcome], None]]] = web.AppKey("received")
"""What is to be called in the event loop for a batch that became durable by another way."""


def create_app(
    store: Store,
    *,
    on_received: Callable[[Outcome], None] | None = None,
    stall_timeout_s: float = 30.0,
    max_batch: int = MAX_BATCH,
    identity: Identity | None = None,
    look_for_gaps_s: float = 10.0,
    ota: Repository | None = None,
) -> web.Application:
    """The application; it uses `store` and leaves closing it to the caller.

    `on_received` is called in the event loop for each batch that became durable here. With an
    `identity` vehicles need their certificates. Gaps are looked for, and asked for, once in
    `look_for_gaps_s` for each vehicle that sends. `ota` is served below `/ota/`.
    """
    cloud = _Cloud(store, look_for_gaps_s)

    def received(outcome: Outcome) -> None:
        cloud.refresh(outcome.stored.vehicle)
        if on_received is not None:
            on_received(outcome)

    uploads = Uploads(store, received, stall_timeout_s, max_batch)
    app = web.Application(middlewares=[plain_errors, *([identity.guard()] if identity else [])])
    app[RECEIVED] = received
    batch = "/v1/vehicles/{vehicle}/batches/{batch_id}"
    app.router.add_route("PUT", batch, uploads.put, expect_handler=uploads.expect)
    app.router.add_route("HEAD", batch, cloud.head)
    app.router.add_route("GET", batch, cloud.file)
    for path, handler in (
        ("/", cloud.page),
        ("/healthz", cloud.health),
        ("/v1/vehicles", cloud.vehicles),
        ("/v1/vehicles/{vehicle}", cloud.vehicle),
        ("/v1/vehicles/{vehicle}/completeness", cloud.completeness),
        ("/v1/vehicles/{vehicle}/latest", cloud.latest),
        ("/v1/vehicles/{vehicle}/batches", cloud.batches),
        ("/v1/vehicles/{vehicle}/events", cloud.events),
        ("/v1/vehicles/{vehicle}/updates", cloud.updates),
        ("/v1/vehicles/{vehicle}/samples", cloud.samples),
    ):
        app.router.add_get(path, handler)
    if ota is not None:
        app.router.add_get("/ota/{path:.+}", ota.get)
    if identity is not None:
        app.router.add_post("/v1/vehicles/{vehicle}/enrol", identity.enrol)
    app.on_response_prepare.append(cloud.remind)
    app.on_cleanup.append(cloud.finish)
    return app


@contextlib.asynccontextmanager
async def serve(
    app: web.Application, host: str, port: int, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Listen while the context lasts; gives the base address, with the port that was picked for 0.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=5)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, ssl_context=tls)
        try:
            await site.start()
        except (OSError, OverflowError) as e:
            reason = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
            raise ConfigError(
                f"cannot listen on {host}:{port}: {reason}; name another address with --listen"
            ) from e
        bound = runner.addresses[0]
        name = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
        yield f"{'http' if tls is None else 'https'}://{name}:{bound[1]}"
    finally:
        await runner.cleanup()


class _Cloud:
    def __init__(self, store: Store, look_for_gaps_s: float) -> None:
        self._store = store
        self._look_for_gaps_s = look_for_gaps_s
        self._looked: dict[str, float] = {}
        self._wanted: dict[str, str] = {}
        self._catalogue = Catalogue(store)
        self._refreshing: dict[str, asyncio.Task[None]] = {}

    def refresh(self, vehicle: str) -> None:
        """Take the batch into the answers soon; at most one such thread a vehicle."""
        if vehicle not in self._refreshing:
            task = asyncio.create_task(self._take_in(vehicle))
            self._refreshing[vehicle] = task
            task.add_done_callback(lambda done: self._refreshed(vehicle, done))

    async def _take_in(self, vehicle: str) -> None:
        await asyncio.to_thread(self._catalogue.refresh, vehicle)
        now = asyncio.get_running_loop().time()
        if now - self._looked.get(vehicle, -1e9) >= self._look_for_gaps_s:
            self._looked[vehicle] = now
            whole = await asyncio.to_thread(self._catalogue.completeness, vehicle)
            self._wanted[vehicle] = wanted(whole)

    async def remind(self, request: web.Request, response: web.StreamResponse) -> None:
        """Ask a vehicle that has just sent something for what is missing."""
        if request.method == "PUT" and response.status < 300:
            ranges = self._wanted.pop(request.match_info.get("vehicle", ""), "")
            if ranges:
                response.headers[RESEND] = ranges

    def _refreshed(self, vehicle: str, task: asyncio.Task[None]) -> None:
        self._refreshing.pop(vehicle, None)
        if not task.cancelled() and (error := task.exception()):
            _log.error("the state of %s could not be brought up to date: %r", vehicle, error)

    async def finish(self, app: web.Application) -> None:
        """Wait for the threads that still read batches."""
        await asyncio.gather(*self._refreshing.values(), return_exceptions=True)

    async def head(self, request: web.Request) -> web.Response:
        stored = await self._stored(request)
        digest = await asyncio.to_thread(self._store.digest, stored)
        headers = {
            "Content-Digest": digests.field(digest),
            hdrs.CONTENT_LENGTH: str(stored.size),
            hdrs.CONTENT_TYPE: MEDIA_TYPE,
        }
        return web.Response(headers=headers)

    async def file(self, request: web.Request) -> web.FileResponse:
        stored = await self._stored(request)
        digest = digests.field(await asyncio.to_thread(self._store.digest, stored))
        headers = {"Repr-Digest": digest, hdrs.CONTENT_TYPE: MEDIA_TYPE}
        if hdrs.RANGE not in request.headers:
            headers["Content-Digest"] = digest
        return web.FileResponse(stored.path, headers=headers)

    async def _stored(self, request: web.Request) -> Stored:
        named = request.match_info
        stored = await asyncio.to_thread(self._store.find, named["vehicle"], named["batch_id"])
        if stored is None:
            refuse(404, "unknown", "there is no such batch")
        return stored

    async def page(self, request: web.Request) -> web.Response:
        vehicles = await asyncio.to_thread(self._catalogue.vehicles)
        events = await asyncio.to_thread(self._catalogue.newest_events, _EVENTS_SHOWN)
        updates = await asyncio.to_thread(self._catalogue.newest_updates, _EVENTS_SHOWN)
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        text = landing(vehicles, events, updates)
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def health(self, request: web.Request) -> web.Response:
        return as_json({"status": "ok", "agent": __version__})

    async def vehicles(self, request: web.Request) -> web.Response:
        return as_json({"vehicles": await asyncio.to_thread(self._catalogue.vehicles)})

    async def vehicle(self, request: web.Request) -> web.Response:
        vehicle = await self._known(request)
        return as_json(await asyncio.to_thread(self._catalogue.vehicle, vehicle))

    async def completeness(self, request: web.Request) -> web.Response:
        vehicle = await self._known(request)
        return as_json(await asyncio.to_thread(self._catalogue.completeness, vehicle))

    async def latest(self, request: web.Request) -> web.Response:
        vehicle = await self._known(request)
        signals = await asyncio.to_thread(self._catalogue.latest, vehicle)
        return as_json({"vehicle": vehicle, "signals": signals})

    async def batches(self, request: web.Request) -> web.Response:
        vehicle = await self._known(request)
        batches = await asyncio.to_thread(self._catalogue.batches, vehicle)
        return as_json({"vehicle": vehicle, "batches": batches})

    async def events(self, request: web.Request) -> web.Response:
        vehicle = await self._known(request)
        events = await asyncio.to_thread(self._catalogue.events, vehicle)
        return as_json({"vehicle": vehicle, "events": events})

    async def updates(self, request: web.Request) -> web.Response:
        vehicle = await self._known(request)
        updates = await asyncio.to_thread(self._catalogue.updates, vehicle)
        return as_json({"vehicle": vehicle, "updates": updates})

    async def samples(self, request: web.Request) -> web.Response:
        vehicle, query = await self._known(request), request.query
        patterns = query.getall("signal", [])
        if not patterns:
            refuse(400, "query", "name signals: ?signal=Message.Signal, with * and ?")
        limit = query.get("limit", "10000")
        if not re.fullmatch(r"[0-9]{1,9}", limit):
            refuse(400, "query", f"limit is a number up to {MAX_SAMPLES}")
        answer = await asyncio.to_thread(
            self._catalogue.samples,
            vehicle,
            patterns,
            first_ns=_moment(query, "from"),
            last_ns=_moment(query, "to"),
            limit=min(int(limit), MAX_SAMPLES),
        )
        return as_json(answer)

    async def _known(self, request: web.Request) -> str:
        vehicle = request.match_info["vehicle"]
        if not await asyncio.to_thread(self._store.batches, vehicle):
            refuse(404, "unknown", "nothing has come from such a vehicle")
        return vehicle


def _moment(query: Mapping[str, str], key: str) -> int | None:
    """Nanoseconds, or ISO 8601 (UTC where it names no zone)."""
    text = query.get(key, "")
    if not text:
        return None
    if re.fullmatch(r"-?[0-9]{1,18}|[0-9]{19}", text):
        return min(int(text), (1 << 63) - 1)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        refuse(400, "query", f"{key} is nanoseconds, or a time such as 2024-05-01T12:00:00Z")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    microseconds = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    return max(-(1 << 63), min(microseconds * 1000, (1 << 63) - 1))
