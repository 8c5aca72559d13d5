"""HTTP: one batch in, one `Answer` out. What can go wrong on the way is an answer too.

This is the half that knows batches, files and credentials; the half that knows aiohttp is
`client`, which is imported when there is something to send.
"""

import asyncio
import hashlib
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, BinaryIO

from agent.clock import WallNs
from agent.settings import Uplink
from agent.spool.outbox import Parcel
from agent.uplink import trust, wire
from agent.uplink.body import Body
from agent.uplink.budget import Pace
from agent.uplink.credentials import Credentials
from agent.uplink.policy import Answer, Fault
from agent.uplink.trust import Unusable

if TYPE_CHECKING:
    from agent.uplink.client import Client


class Gone(Exception):  # noqa: N818  (no error: the spool may evict a batch at any time)
    """The file of a parcel is not there any more."""


class HttpTransport:
    """The connection of one uplink. Belongs to one event loop and one sender.

    `now` and `sleep` are seams for tests: the clock of the bandwidth limit, and what waits for it.

    Raises:
        ConfigError: the address is a template without `{batch_id}`.
    """

    def __init__(
        self,
        settings: Uplink,
        vehicle: str,
        user_agent: str,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._settings = settings
        self._vehicle = vehicle
        self._user_agent = user_agent
        self._template = wire.template(settings)
        self._credentials = Credentials(settings)
        self._pace = Pace(settings.max_kbit_s) if settings.max_kbit_s else None
        self._now = now
        self._sleep = sleep
        self._client: Client | None = None
        self._digests: dict[str, bytes] = {}

    async def put(self, parcel: Parcel) -> Answer:
        """Send a batch.

        Raises:
            Gone: its file has vanished.
        """
        try:
            file, size, sha256 = await self._opened(parcel)
        except FileNotFoundError as e:
            raise Gone(parcel.batch_id) from e
        except OSError as e:
            return Answer(fault=Fault.UNREADABLE, detail=trust.reason(e))
        try:
            return await self._put(parcel, file, size, sha256)
        finally:
            await asyncio.to_thread(file.close)

    async def ask(self, parcel: Parcel) -> Answer:
        """HEAD: what the receiver has under the name of this batch. Comes after `put` of it."""
        sha256 = self._digests.get(parcel.batch_id, b"")
        return await self._exchange("HEAD", parcel.batch_id, sha256, parcel.size)

    def forget(self, batch_id: str) -> None:
        """This batch will not be sent again."""
        self._digests.pop(batch_id, None)

    async def reload(self) -> bool:
        """Read the credentials again; gives whether they are others."""
        try:
            changed = await asyncio.to_thread(self._credentials.look)
        except Unusable:
            return False
        if changed:
            await self.close()
        return changed

    async def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    def notice(self, wall: WallNs, *, synchronised: bool) -> str:
        """What a person should know of the credentials at this time; empty when all is well."""
        return self._credentials.notice(wall, synchronised=synchronised)

    async def _opened(self, parcel: Parcel) -> tuple[BinaryIO, int, bytes]:
        """What `_open_file` gives; who is cancelled meanwhile leaves no file open."""
        handed: list[BinaryIO] = []
        abandoned = threading.Event()

        def run() -> tuple[BinaryIO, int, bytes]:
            opened = self._open_file(parcel)
            handed.append(opened[0])
            if abandoned.is_set():
                opened[0].close()
            return opened

        try:
            return await asyncio.to_thread(run)
        except asyncio.CancelledError:
            abandoned.set()
            for file in handed:
                file.close()
            raise

    def _open_file(self, parcel: Parcel) -> tuple[BinaryIO, int, bytes]:
        file = parcel.path.open("rb")
        try:
            sha256 = self._digests.get(parcel.batch_id)
            if sha256 is None:
                sha256 = hashlib.file_digest(file, "sha256").digest()
                self._digests[parcel.batch_id] = sha256
            return file, os.fstat(file.fileno()).st_size, sha256
        except BaseException:
            file.close()
            raise

    async def _put(self, parcel: Parcel, file: BinaryIO, size: int, sha256: bytes) -> Answer:
        body = Body(file, size, self._pace, now=self._now, sleep=self._sleep)
        headers = {
            "If-None-Match": "*",
            "Content-Digest": wire.digest_field(sha256),
            "Content-Type": wire.CONTENT_TYPE,
            "Content-Length": str(size),
        }
        answer = await self._exchange("PUT", parcel.batch_id, sha256, size, headers, body=body)
        if body.error is not None:
            return Answer(
                fault=Fault.UNREADABLE, detail=trust.reason(body.error), sent_bytes=body.sent
            )
        success = answer.status is not None and 200 <= answer.status < 300
        if success and not body.done:
            # A captive portal says 200 to anything; nobody has a batch that was not yet sent.
            return Answer(
                detail=f"answered {answer.status} before the batch was sent", sent_bytes=body.sent
            )
        return answer.after(body.sent)

    async def _exchange(
        self,
        method: str,
        batch_id: str,
        sha256: bytes,
        size: int,
        headers: dict[str, str] | None = None,
        *,
        body: Body | None = None,
    ) -> Answer:
        try:
            client = await self._open()
        except Unusable as e:
            return e.answer.after(0)
        url = wire.address(self._template, self._vehicle, batch_id)
        answer = await client.exchange(
            method, url, headers or {}, sha256=sha256, size=size, body=body
        )
        if answer.status is None and answer.fault in (Fault.TLS, Fault.CLOCK, Fault.CREDENTIAL):
            await self.close()  # the next try is to show what the files say then
        return answer

    async def _open(self) -> "Client":
        """The client for the credentials of now.

        Raises:
            Unusable: they cannot be used.
        """
        if await asyncio.to_thread(self._credentials.look):
            await self.close()
        if self._client is None:
            make = await asyncio.to_thread(_client)
            self._client = make(self._settings, self._credentials, self._user_agent)
        return self._client


def _client() -> "type[Client]":
    from agent.uplink.client import Client  # noqa: PLC0415  (slow to import)

    return Client
