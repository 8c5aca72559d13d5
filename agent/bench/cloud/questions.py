"""What the cloud is asked about its vehicles, over HTTP; the answers are made in `queries.py`.

All of it runs in a few threads of its own, the making of JSON too: the event loop is for uploads,
and the threads that store them are others. Batches are taken in by another thread still, so a
backlog that is read holds up no question.

Answers have an ETag, which changes with each batch: who asks with `If-None-Match` gets 304 as long
as there is nothing new. `revision` in an answer says the same as a number. The last answers are
kept, so that pages that are looked at by many, or again and again, cost nothing until then.
"""

import asyncio
import functools
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Final, TypeVar

from aiohttp import hdrs, web

from agent.bench.cloud.answers import dumps, refuse
from agent.bench.cloud.queries import MAX_SAMPLES, Catalogue
from agent.bench.cloud.series import USUAL_POINTS, QueryError, Question

PATIENCE_S: Final = 1.0
"""A question waits so long for batches that have arrived and are not read yet."""
_THREADS: Final = 2
_TURN_S: Final = 1.0
_KEPT_BYTES: Final = 32 << 20

_T = TypeVar("_T")


class _Answers:
    """The last answers by their address, within a bound; thread-safe."""

    def __init__(self, room_bytes: int) -> None:
        self._room = room_bytes
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self._bytes = 0

    def get(self, path: str, tag: str) -> bytes | None:
        with self._lock:
            known = self._known.get(path)
            if known is None or known[0] != tag:
                return None
            self._known.move_to_end(path)
            return known[1]

    def keep(self, path: str, tag: str, body: bytes) -> None:
        with self._lock:
            if path in self._known:
                self._bytes -= len(path) + len(self._known.pop(path)[1])
            self._known[path] = tag, body
            self._bytes += len(path) + len(body)
            while self._bytes > self._room:
                old, (_, gone) = self._known.popitem(last=False)
                self._bytes -= len(old) + len(gone)


class Questions:
    """The handlers of GET. `behind` is called for a vehicle of which batches are not read yet."""

    def __init__(self, catalogue: Catalogue, behind: Callable[[str], None]) -> None:
        self._catalogue = catalogue
        self._behind = behind
        self._asking = ThreadPoolExecutor(_THREADS, "answers")
        self._reading = ThreadPoolExecutor(1, "batches")
        self._closing = False
        self._answers = _Answers(_KEPT_BYTES)
        self._process = secrets.token_hex(4)
        """Revisions are of one process."""

    def add_to(self, app: web.Application) -> None:
        """Add the addresses; the application ends the threads."""
        of_one = "/v1/vehicles/{vehicle}"
        for path, handler in (
            ("/v1/vehicles", self.vehicles),
            (of_one, self.vehicle),
            (f"{of_one}/completeness", self.completeness),
            (f"{of_one}/latest", self.latest),
            (f"{of_one}/series", self.series),
            (f"{of_one}/samples", self.samples),
            (f"{of_one}/batches", self.batches),
            (f"{of_one}/events", self.events),
            (f"{of_one}/updates", self.updates),
        ):
            app.router.add_get(path, handler)

    async def take_in(self, vehicle: str) -> None:
        """Read the batches of a vehicle that arrived since; vehicles with many take turns."""
        loop, refresh = asyncio.get_running_loop(), self._catalogue.refresh
        left = 1
        while left and not self._closing:
            left = await loop.run_in_executor(self._reading, refresh, vehicle, _TURN_S)

    async def ask(self, question: Callable[[], _T]) -> _T:
        """Call something that reads files and decodes, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._asking, question)

    def stop(self) -> None:
        """Let `take_in` end soon: the rest is read when somebody asks again."""
        self._closing = True

    async def close(self) -> None:
        """Wait for what is under way; `stop` was called before."""
        for threads in (self._asking, self._reading):
            await asyncio.to_thread(threads.shutdown)

    async def vehicles(self, request: web.Request) -> web.Response:
        catalogue = self._catalogue
        return await self._answer(
            request, catalogue.revisions, lambda: {"vehicles": catalogue.vehicles()}
        )

    async def vehicle(self, request: web.Request) -> web.Response:
        return await self._of_vehicle(request, self._catalogue.vehicle)

    async def completeness(self, request: web.Request) -> web.Response:
        return await self._of_vehicle(request, self._catalogue.completeness)

    async def latest(self, request: web.Request) -> web.Response:
        return await self._listed(request, "signals", self._catalogue.latest)

    async def batches(self, request: web.Request) -> web.Response:
        return await self._listed(request, "batches", self._catalogue.batches)

    async def events(self, request: web.Request) -> web.Response:
        return await self._listed(request, "events", self._catalogue.events)

    async def updates(self, request: web.Request) -> web.Response:
        return await self._listed(request, "updates", self._catalogue.updates)

    async def series(self, request: web.Request) -> web.Response:
        await self._known(request)
        query = request.query
        points = query.get("points", str(USUAL_POINTS))
        question = Question(
            query.getall("signal", []),
            _moment(query, "from"),
            _moment(query, "to"),
            int(points) if re.fullmatch(r"[0-9]{1,9}", points) else -1,
            query.get("clock", ""),
            query.get("boot", ""),
        )
        return await self._of_vehicle(
            request, lambda vehicle: self._catalogue.series(vehicle, question)
        )

    async def samples(self, request: web.Request) -> web.Response:
        await self._known(request)
        query = request.query
        patterns = query.getall("signal", [])
        if not patterns:
            refuse(400, "query", "name signals: ?signal=Message.Signal, with * and ?")
        limit = query.get("limit", "10000")
        if not re.fullmatch(r"[0-9]{1,9}", limit):
            refuse(400, "query", f"limit is a number up to {MAX_SAMPLES}")
        samples = functools.partial(
            self._catalogue.samples,
            patterns=patterns,
            first_ns=_moment(query, "from"),
            last_ns=_moment(query, "to"),
            limit=min(int(limit), MAX_SAMPLES),
        )
        return await self._of_vehicle(request, samples)

    async def _listed(
        self, request: web.Request, what: str, make: Callable[[str], object]
    ) -> web.Response:
        return await self._of_vehicle(
            request, lambda vehicle: {"vehicle": vehicle, what: make(vehicle)}
        )

    async def _of_vehicle(
        self, request: web.Request, make: Callable[[str], object]
    ) -> web.Response:
        vehicle = await self._known(request)
        catalogue = self._catalogue
        response = await self._answer(
            request, lambda: catalogue.revision(vehicle), lambda: make(vehicle)
        )
        if catalogue.behind(vehicle):
            self._behind(vehicle)
        return response

    async def _known(self, request: web.Request) -> str:
        vehicle = request.match_info["vehicle"]
        if not await self.ask(lambda: self._catalogue.has(vehicle)):
            refuse(404, "unknown", "nothing has come from such a vehicle")
        return vehicle

    async def _answer(
        self, request: web.Request, revision: Callable[[], str], make: Callable[[], object]
    ) -> web.Response:
        known = {tag.value for tag in request.if_none_match or ()}

        def answer() -> tuple[str, bytes | None]:
            tag = f"{self._process}.{revision()}"
            if tag in known:
                return tag, None
            body = self._answers.get(request.path_qs, tag)
            if body is None:
                body = dumps(make()).encode()
                self._answers.keep(request.path_qs, tag, body)
            return tag, body

        try:
            tag, body = await self.ask(answer)
        except QueryError as e:
            refuse(400, "query", str(e))
        headers = {hdrs.ETAG: f'W/"{tag}"', hdrs.CACHE_CONTROL: "no-cache"}
        if body is None:
            return web.Response(status=304, headers=headers)
        return web.Response(
            body=body, headers=headers, content_type="application/json", charset="utf-8"
        )


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
