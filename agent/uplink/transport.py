"""HTTP: one batch in, one `Answer` out. What can go wrong on the way is an answer too.

Nothing that a receiver does costs more than one stall timeout and a few KiB: bodies of answers are
read up to a bound and never decompressed, redirects are not followed, cookies are not kept, and a
connection with anything left on it is closed.
"""

import asyncio
import hashlib
import os
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, Final

import aiohttp
import yarl
from aiohttp.http_exceptions import HttpProcessingError

from agent.settings import Uplink
from agent.spool.outbox import Parcel
from agent.uplink import wire
from agent.uplink.policy import Answer, Digest, Fault
from agent.uplink.stall import Progress, Sockets

_PIECE_BYTES: Final = 64 * 1024
_ANSWER_BYTES: Final = 4096
_TOKEN_BYTES: Final = 64 * 1024

# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (openssl/x509_vfy.h).
_NOT_YET_VALID: Final = 9
_HAS_EXPIRED: Final = 10


class Gone(Exception):  # noqa: N818  (no error: the spool may evict a batch at any time)
    """The file of a parcel is not there any more."""


class _Unusable(Exception):  # noqa: N818  (never leaves this module: it carries the answer)
    """A token or CA file with which no request can be made."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.answer = Answer(fault=fault, detail=detail)


class HttpTransport:
    """The connection of one uplink. Belongs to one event loop and one sender.

    Raises:
        ConfigError: the address is a template without `{batch_id}`.
    """

    def __init__(self, settings: Uplink, vehicle: str, user_agent: str) -> None:
        self._settings = settings
        self._vehicle = vehicle
        self._user_agent = user_agent
        self._template = wire.template(settings)
        self._sockets = Sockets()
        self._session: aiohttp.ClientSession | None = None
        self._token = ""
        self._digests: dict[str, bytes] = {}

    async def put(self, parcel: Parcel) -> Answer:
        """Send a batch.

        Raises:
            Gone: its file has vanished.
        """
        try:
            file, size, sha256 = await asyncio.to_thread(self._open_file, parcel)
        except FileNotFoundError as e:
            raise Gone(parcel.batch_id) from e
        except OSError as e:
            return Answer(fault=Fault.UNREADABLE, detail=_reason(e))
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
        """Read the token file again; gives whether the token is another one."""
        old = self._token
        try:
            self._token = await asyncio.to_thread(_read_token, self._settings.token_file)
        except _Unusable:
            return False
        return self._token != old

    async def close(self) -> None:
        """Close the connections; the next request opens new ones, with the files of that time."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

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
        body = _Body(file, size)
        headers = {
            "If-None-Match": "*",
            "Content-Digest": wire.digest_field(sha256),
            "Content-Type": wire.CONTENT_TYPE,
            "Content-Length": str(size),
        }
        answer = await self._exchange(
            "PUT", parcel.batch_id, sha256, size, headers=headers, body=body
        )
        if body.error is not None:
            return Answer(fault=Fault.UNREADABLE, detail=_reason(body.error))
        success = answer.status is not None and 200 <= answer.status < 300
        if success and body.handed < size:
            # A captive portal says 200 to anything; nobody has a batch that was not yet sent.
            return Answer(detail=f"answered {answer.status} before the batch was sent")
        return answer

    async def _exchange(
        self,
        method: str,
        batch_id: str,
        sha256: bytes,
        size: int,
        *,
        headers: dict[str, str] | None = None,
        body: "_Body | None" = None,
    ) -> Answer:
        stall_s = self._settings.stall_timeout_s
        url = wire.address(self._template, self._vehicle, batch_id)
        try:
            session = await self._open()
            async with asyncio.timeout(self._settings.connect_timeout_s + stall_s) as deadline:
                with Progress(deadline, self._sockets, stall_s) as progress:
                    if body is not None:
                        body.on_piece = progress.moved
                    response = await session.request(
                        method,
                        yarl.URL(url, encoded=True),
                        data=body,
                        headers=self._common_headers() | (headers or {}),
                        allow_redirects=False,
                    )
        except _Unusable as e:
            return e.answer
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as e:
            return await self._failed(e)  # a TimeoutError is an OSError
        try:
            return await self._judge(response, sha256, size)
        finally:
            if response.content.at_eof() and (body is None or body.handed >= size):
                response.release()
            else:
                response.close()

    def _common_headers(self) -> dict[str, str]:
        # Compression would change the length that HEAD tells.
        headers = {"User-Agent": self._user_agent, "Accept-Encoding": "identity"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        return headers

    async def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            settings = self._settings
            self._token = await asyncio.to_thread(_read_token, settings.token_file)
            context: ssl.SSLContext | bool = True
            if settings.url.startswith("https:"):
                context = await asyncio.to_thread(_tls, settings.ca_file)
            sockets = self._sockets
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=context, limit=2, socket_factory=lambda a: sockets.make(a[0], a[1], a[2])
                ),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=settings.connect_timeout_s,
                    sock_connect=settings.connect_timeout_s,
                    sock_read=None,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=_ANSWER_BYTES,
                trust_env=True,
            )
        return self._session

    async def _judge(self, response: aiohttp.ClientResponse, sha256: bytes, size: int) -> Answer:
        fields = [
            *response.headers.getall("Repr-Digest", []),
            *response.headers.getall("Content-Digest", []),
        ]
        said = b""
        if response.method != "HEAD":
            said = await self._read_some(response)
        head_length = response.headers.get("Content-Length", "")
        return Answer(
            status=response.status,
            digest=wire.compare(fields, sha256) if sha256 else Digest.ABSENT,
            length_matched=response.method == "HEAD" and head_length == str(size),
            retry_after_s=wire.retry_after(
                response.headers.get("Retry-After"), response.headers.get("Date")
            ),
            detail=wire.detail(said, self._token) if _explains(response.status) else "",
        )

    async def _read_some(self, response: aiohttp.ClientResponse) -> bytes:
        """The beginning of a body. The status has been said: a body that fails changes nothing."""
        said = b""
        try:
            async with asyncio.timeout(self._settings.stall_timeout_s):
                while len(said) < _ANSWER_BYTES and not response.content.at_eof():
                    said += await response.content.read(_ANSWER_BYTES - len(said))
        except (aiohttp.ClientError, HttpProcessingError, OSError):
            pass
        return said

    async def _failed(self, error: Exception) -> Answer:
        answer = _translate(error)
        if answer.fault in (Fault.TLS, Fault.CLOCK):
            # The CA file may be replaced meanwhile; it is read with the next connection.
            await self.close()
        return answer


class _Body:
    """A file in pieces, read outside the event loop. Each iteration begins at the beginning."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self.handed = 0
        self.error: OSError | None = None
        self.on_piece: Callable[[], None] = lambda: None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.handed = 0
        while self.handed < self._size:
            try:
                piece = await asyncio.to_thread(self._read, self.handed)
            except OSError as e:
                self.error = e
                raise
            # Counted before it is written: an answer can come before the generator goes on.
            self.handed += len(piece)
            self.on_piece()
            yield piece

    def _read(self, offset: int) -> bytes:
        self._file.seek(offset)
        piece = self._file.read(min(_PIECE_BYTES, self._size - offset))
        if not piece:
            raise OSError(0, "it is shorter than it was")
        return piece


def _explains(status: int) -> bool:
    """Whether the body is worth keeping: not that of a success, nor what is said of a token."""
    return status >= 400 and status not in (401, 403)


def _read_token(name: str) -> str:
    if not name:
        return ""
    try:
        with Path(name).open("rb") as file:
            token = file.read(_TOKEN_BYTES).decode("ascii").strip()
    except OSError as e:
        raise _Unusable(Fault.CREDENTIAL, f"{name}: {_reason(e)}") from e
    except UnicodeDecodeError as e:
        raise _Unusable(Fault.CREDENTIAL, f"{name}: is not ASCII text") from e
    if not token.isprintable() or " " in token or not token:
        raise _Unusable(Fault.CREDENTIAL, f"{name}: does not contain one token and nothing else")
    return token


def _tls(ca_file: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ValueError) as e:
        # An ssl.SSLError is an OSError.
        raise _Unusable(Fault.TLS, f"{ca_file}: {_reason(e)}") from e
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _translate(error: Exception) -> Answer:
    """The fault behind an exception, in words without the address: it may carry a credential."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return Answer(fault=Fault.TIMEOUT)
        case TimeoutError() if not isinstance(error, aiohttp.ClientOSError):
            return Answer(fault=Fault.STALLED)
        case aiohttp.ClientConnectorCertificateError():
            return _certificate(error.certificate_error)
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return Answer(fault=Fault.TLS, detail=_reason(error))
        case aiohttp.ServerDisconnectedError():
            return Answer(detail="it closed the connection without an answer")
        case aiohttp.ClientHttpProxyError():
            return Answer(detail=f"the proxy answered {error.status}")
        case aiohttp.ClientProxyConnectionError():
            return Answer(detail=f"the proxy is not there: {_reason(error)}")
        case aiohttp.ClientResponseError() | HttpProcessingError():
            return Answer(detail="what it answered is not HTTP")
        case OSError():
            return Answer(detail=_reason(error))
        case ValueError():
            return Answer(detail="the address or a header cannot be used for a request")
    return Answer(detail=type(error).__name__)


def _certificate(error: Exception) -> Answer:
    code = getattr(error, "verify_code", None)
    words = getattr(error, "verify_message", "") or "the certificate does not fit"
    if code == _NOT_YET_VALID:
        return Answer(fault=Fault.CLOCK, detail="the receiver's certificate is not yet valid")
    if code == _HAS_EXPIRED:
        words = "the receiver's certificate has expired, or this clock is ahead"
        return Answer(fault=Fault.CLOCK, detail=words)
    return Answer(fault=Fault.TLS, detail=words)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or getattr(error, "reason", None) or "no reason given"
