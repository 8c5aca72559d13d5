"""The reference cloud over HTTP: its addresses, and the batches themselves.

What arrives is in `uploads.py`, what it answers to questions in `questions.py`.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Final

from aiohttp import hdrs, web

from agent import __version__
from agent.batch.format import MEDIA_TYPE
from agent.bench.cloud import digest as digests
from agent.bench.cloud.answers import as_json, plain_errors, refuse
from agent.bench.cloud.bench import add_bench
from agent.bench.cloud.faults import CloudFaults
from agent.bench.cloud.identity import Identity
from agent.bench.cloud.platform import PlatformDoor, add_platform
from agent.bench.cloud.queries import Catalogue
from agent.bench.cloud.questions import PATIENCE_S, Questions
from agent.bench.cloud.repository import Repository
from agent.bench.cloud.static import Page
from agent.bench.cloud.store import Outcome, Store, Stored
from agent.bench.cloud.stream import Stream
from agent.bench.cloud.uploads import Uploads
from agent.bench.cloud.wanted import wanted
from agent.bench.door import BenchDoor
from agent.errors import ConfigError
from agent.uplink.wire import RESEND

_log = logging.getLogger(__name__)

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
    bench: BenchDoor | None = None,
    faults: CloudFaults | None = None,
    platform: PlatformDoor | None = None,
) -> web.Application:
    """The application; it uses `store` and leaves closing it to the caller.

    `on_received` is called in the event loop for each batch that became durable here. With an
    `identity` vehicles need their certificates. Gaps are looked for, and asked for, once in
    `look_for_gaps_s` for each vehicle that sends. `ota` is served below `/ota/`.
    `bench` is answered for below `/bench/v1/`, and `faults` are done to uploads. `platform` is
    one of GB/T 32960 that runs beside it, answered for below `/v1/gbt32960`.
    """
    cloud = _Cloud(store, look_for_gaps_s)
    stream = Stream()

    def received(outcome: Outcome) -> None:
        stream.received(outcome.stored)
        cloud.refresh(outcome.stored.vehicle)
        if on_received is not None:
            on_received(outcome)

    uploads = Uploads(store, received, stall_timeout_s, max_batch)
    inner = [faults.middleware] if faults else []
    inner += [identity.guard()] if identity else []
    app = web.Application(middlewares=[plain_errors, *inner])
    app[RECEIVED] = received
    batch = "/v1/vehicles/{vehicle}/batches/{batch_id}"
    app.router.add_route("PUT", batch, uploads.put, expect_handler=uploads.expect)
    app.router.add_route("HEAD", batch, cloud.head)
    app.router.add_route("GET", batch, cloud.file)
    app.router.add_get("/healthz", cloud.health)
    cloud.questions.add_to(app)
    Page().add_to(app)
    stream.add_to(app)
    if ota is not None:
        app.router.add_get("/ota/{path:.+}", ota.get)
    if bench is not None:
        add_bench(app, bench)
    if platform is not None:
        add_platform(app, platform)
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
        self._catalogue = Catalogue(store, patience_s=PATIENCE_S)
        self.questions = Questions(self._catalogue, self.refresh)
        self._refreshing: dict[str, asyncio.Task[None]] = {}

    def refresh(self, vehicle: str) -> None:
        """Take the batch into the answers soon; at most one such thread a vehicle."""
        if vehicle not in self._refreshing:
            task = asyncio.create_task(self._take_in(vehicle))
            self._refreshing[vehicle] = task
            task.add_done_callback(lambda done: self._refreshed(vehicle, done))

    async def _take_in(self, vehicle: str) -> None:
        await self.questions.take_in(vehicle)
        now = asyncio.get_running_loop().time()
        if now - self._looked.get(vehicle, -1e9) >= self._look_for_gaps_s:
            self._looked[vehicle] = now
            whole = await self.questions.ask(lambda: self._catalogue.completeness(vehicle))
            # What has arrived and is not read yet only seems to be missing.
            self._wanted[vehicle] = "" if whole["behind"] else wanted(whole)

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
        self.questions.stop()
        await asyncio.gather(*self._refreshing.values(), return_exceptions=True)
        await self.questions.close()

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

    async def health(self, request: web.Request) -> web.Response:
        names = {resource.canonical for resource in request.app.router.resources()}
        # The page asks only for what there is.
        bench = "/bench/v1/state" in names
        platform = "/v1/gbt32960" in names
        return as_json({"status": "ok", "agent": __version__, "bench": bench, "platform": platform})
