"""Batches in, over HTTP; what each status means stands in the package's docstring.

The event loop moves bytes and nothing else: files, digests and checks are worked on in threads. An
upload is bounded in size, in the time that it may stand still, and in how many run at once; one
that ends early leaves nothing behind.
"""

import asyncio
import dataclasses
import errno
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from aiohttp import ClientError, hdrs, web

from agent.batch.format import MEDIA_TYPE
from agent.bench.cloud import digest as digests
from agent.bench.cloud.answers import dumps, refuse
from agent.bench.cloud.store import (
    ConflictError,
    DigestMismatchError,
    Outcome,
    Store,
    Stored,
    Upload,
    is_batch_id,
    is_vehicle,
)
from agent.errors import BatchError

_log = logging.getLogger(__name__)

_MAX_UPLOADS: Final = 64
_WRITE_SIZE: Final = 256 << 10
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
BATCH_TYPES: Final = (MEDIA_TYPE, "application/octet-stream")
_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)

_T = TypeVar("_T")
Received = Callable[[Outcome], None]


@dataclasses.dataclass(frozen=True, slots=True)
class _Announced:
    """What the head of a PUT says, checked."""

    vehicle: str
    batch_id: str
    size: int
    digest: bytes
    only_new: bool


class Uploads:
    """The handlers of PUT. `on_received` is called in the event loop for each new batch."""

    def __init__(
        self, store: Store, on_received: Received, stall_timeout_s: float, max_batch: int
    ) -> None:
        self._store = store
        self._on_received = on_received
        self._stall_timeout_s = stall_timeout_s
        self._max_batch = max_batch
        self.running = 0

    async def expect(self, request: web.Request) -> None:
        """Judge by the head alone before the body is asked for."""
        if request.headers.get(hdrs.EXPECT, "").lower() != "100-continue":
            refuse(417, "expectation", "only 100-continue can be expected", close=True)
        try:
            await self._answer_early(self._announced(request))
        except web.HTTPException as e:
            # The body may or may not follow, so what comes next is not known to be a request.
            e.force_close()
            raise
        await request.writer.write(_CONTINUE)
        request.writer.output_size = 0

    async def put(self, request: web.Request) -> web.Response:
        announced = self._announced(request)
        if hdrs.EXPECT not in request.headers:
            await self._answer_early(announced)
        if self.running >= _MAX_UPLOADS:
            refuse(503, "busy", "too many uploads at once", {hdrs.RETRY_AFTER: "1"}, close=True)
        self.running += 1
        try:
            return await self._take(request, announced)
        except OSError as e:
            if isinstance(e, ConnectionError):
                raise
            _log.warning("batch %s could not be kept: %s", announced.batch_id, e)
            refuse(*why_not_kept(e), close=True)
        finally:
            self.running -= 1

    def _announced(self, request: web.Request) -> _Announced:
        vehicle, batch_id = request.match_info["vehicle"], request.match_info["batch_id"]
        if not is_vehicle(vehicle):
            refuse(404, "vehicle", "the address has no valid vehicle name", close=True)
        if not is_batch_id(batch_id):
            refuse(400, "batch-id", "a batch id is INSTALL-RUN-LANE-SEQUENCE", close=True)
        headers = request.headers
        if request.content_length is None:
            refuse(411, "length", "Content-Length is required", close=True)
        if request.content_length > self._max_batch:
            refuse(413, "size", f"a batch has at most {self._max_batch} bytes", close=True)
        if request.content_type not in BATCH_TYPES or hdrs.CONTENT_ENCODING in headers:
            refuse(415, "type", f"send {MEDIA_TYPE} without Content-Encoding", close=True)
        try:
            digest = digests.parse(", ".join(headers.getall("Content-Digest", ())))
        except ValueError as e:
            refuse(400, "digest", str(e), {"Want-Content-Digest": "sha-256=10"}, close=True)
        condition = headers.get(hdrs.IF_NONE_MATCH)
        if condition not in (None, "*"):
            refuse(400, "condition", "If-None-Match can only be *", close=True)
        return _Announced(vehicle, batch_id, request.content_length, digest, condition == "*")

    async def _answer_early(self, announced: _Announced) -> None:
        find = self._store.find
        stored = await asyncio.to_thread(find, announced.vehicle, announced.batch_id)
        if stored is not None:
            raise await self._already_here(announced, stored)

    async def _already_here(self, announced: _Announced, stored: Stored) -> web.HTTPException:
        if announced.only_new:
            refuse(412, "exists", f"{stored.batch_id} is here; HEAD tells its digest")
        digest = await asyncio.to_thread(self._store.digest, stored)
        if digest != announced.digest:
            refuse(409, "identity-conflict", f"{stored.batch_id} is here with other content")
        return web.HTTPOk(
            headers=_repeated(digest),
            text=dumps(_stored_json(stored, digest)),
            content_type="application/json",
        )

    async def _take(self, request: web.Request, announced: _Announced) -> web.Response:
        upload = await asyncio.to_thread(self._store.upload, announced.vehicle, announced.batch_id)
        try:
            await self._receive(request, upload, announced.size)
            try:
                outcome = await _uninterrupted(
                    asyncio.to_thread(self._store.commit, upload, announced.digest)
                )
            except (DigestMismatchError, ConflictError, BatchError) as e:
                status, code, text = why_not_kept(e)
                if status == 412 and not announced.only_new:
                    status = 409
                refuse(status, code, text)
        finally:
            await _uninterrupted(asyncio.to_thread(upload.close))
        if outcome.status == "present":
            raise await self._already_here(announced, outcome.stored)
        self._on_received(outcome)
        return web.Response(
            status=201,
            headers=_repeated(announced.digest),
            text=dumps(_stored_json(outcome.stored, announced.digest)),
            content_type="application/json",
        )

    async def _receive(self, request: web.Request, upload: Upload, size: int) -> None:
        waiting = bytearray()
        while True:
            try:
                async with asyncio.timeout(self._stall_timeout_s):
                    data = await request.content.readany()
            except TimeoutError:
                refuse(408, "stalled", "the upload stopped moving", close=True)
            except (ConnectionError, ClientError, web.RequestPayloadError) as e:
                raise ConnectionResetError(f"{upload.batch_id}: the sender went away") from e
            waiting += data
            if upload.size + len(waiting) > size:
                refuse(400, "length", "the body is longer than Content-Length", close=True)
            if len(waiting) >= _WRITE_SIZE or (waiting and not data):
                await _uninterrupted(asyncio.to_thread(upload.write, bytes(waiting)))
                waiting.clear()
            if not data:
                break
        if upload.size != size:
            refuse(400, "length", "the body is shorter than Content-Length", close=True)


def why_not_kept(
    error: DigestMismatchError | ConflictError | BatchError | OSError,
) -> tuple[int, str, str]:
    """The status, a code and a sentence for what `Store` raises."""
    match error:
        case DigestMismatchError():
            return 409, "digest-mismatch", str(error)
        case ConflictError():
            return 412, "identity-conflict", str(error)
        case BatchError():
            return 422, "not-a-batch", str(error)
    status = 507 if error.errno in _FULL else 500
    reason = error.strerror or type(error).__name__
    return status, "storage", f"the batch could not be kept: {reason}"


async def _uninterrupted(work: Awaitable[_T]) -> _T:
    """Wait for a thread to its end, also when cancelled: it uses what the caller cleans up."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _repeated(digest: bytes) -> dict[str, str]:
    """The sender's digest in the field that it used, and in the one that RFC 9530 has for it."""
    return dict.fromkeys(("Content-Digest", "Repr-Digest"), digests.field(digest))


def _stored_json(stored: Stored, digest: bytes) -> dict[str, Any]:
    return {
        "vehicle": stored.vehicle,
        "batch_id": stored.batch_id,
        "bytes": stored.size,
        "digest": digests.field(digest),
    }
