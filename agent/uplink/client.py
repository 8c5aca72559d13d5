"""Requests by aiohttp, and what its exceptions mean.

aiohttp takes a tenth of a second to import, so nothing imports this module before a sender has
something to send; `transport` does it in a thread.

Nothing that a receiver does costs more than one stall timeout and a few KiB: bodies of answers are
read up to a bound and never decompressed, redirects are not followed, cookies are not kept, and a
connection with anything left on it is closed.
"""

import asyncio
import base64
import ssl
import urllib.parse
import weakref
from typing import Any, Final
from urllib.request import getproxies_environment, proxy_bypass_environment  # type: ignore[attr-defined]

import aiohttp
import yarl
from aiohttp.http_exceptions import HttpProcessingError

from agent.settings import Uplink
from agent.uplink import trust, wire
from agent.uplink.body import Body
from agent.uplink.credentials import Credentials
from agent.uplink.policy import Answer, Digest, Fault
from agent.uplink.stall import Progress, Sockets

_ANSWER_BYTES: Final = 4096
_LOOKS: Final = 4
_OUR_CERTIFICATE: Final = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")
"""In the names of TLS alerts (RFC 8446, 6.2) that say what the peer thinks of our certificate."""


_alerts: weakref.WeakKeyDictionary[ssl.SSLContext, str] = weakref.WeakKeyDictionary()
"""The name of the last alert that came from a peer."""


class _Listening(ssl.SSLObject):
    """Notes alerts: one that comes while a request is written is overtaken by "connection lost"."""

    def read(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().read(*args, **kwargs)
        except ssl.SSLError as e:
            if "ALERT" in (name := e.reason or ""):
                _alerts[self.context] = name
            raise


class Client:
    """The connections of one uplink, with the credentials of one time."""

    def __init__(self, settings: Uplink, credentials: Credentials, user_agent: str) -> None:
        self._settings = settings
        self._token = credentials.token
        self._proxy_auth = credentials.proxy_auth
        self._common = {"User-Agent": user_agent, "Accept-Encoding": "identity"}
        if self._token:
            self._common["Authorization"] = f"Bearer {self._token}"
        self._tls = credentials.tls
        if self._tls is not None:
            self._tls.sslobject_class = _Listening
        self._sockets = sockets = Sockets()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=True if credentials.tls is None else credentials.tls,
                limit=2,
                socket_factory=lambda a: sockets.make(a[0], a[1], a[2]),
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
            trust_env=False,  # it would read ~/.netrc too
        )

    async def close(self) -> None:
        await self._session.close()

    async def exchange(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        *,
        sha256: bytes,
        size: int,
        body: Body | None = None,
    ) -> Answer:
        """One request; `sha256` and `size` are those of the batch that it is about."""
        stall_s = self._settings.stall_timeout_s
        try:
            proxy = self._through(url)
            async with asyncio.timeout(self._settings.connect_timeout_s + stall_s) as deadline:
                with Progress(deadline, self._sockets, stall_s) as progress:
                    if body is not None:
                        body.watch(progress.moved, stall_s / _LOOKS)
                    response = await self._session.request(
                        method,
                        yarl.URL(url, encoded=True),
                        data=body,
                        headers=self._common | headers | proxy.pop("headers", {}),
                        allow_redirects=False,
                        **proxy,
                    )
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as e:
            alert = "" if self._tls is None else _alerts.pop(self._tls, "")
            return _refusal_of_ours(e, alert) or _translate(e)  # a TimeoutError is an OSError
        try:
            if response.status == 407 and proxy:
                return _proxy_wants_more(407)
            return await self._judge(response, sha256, size)
        finally:
            if response.content.at_eof() and (body is None or body.done):
                response.release()
            else:
                response.close()

    def _through(self, url: str) -> dict[str, Any]:
        """What a request needs to go through the proxy, if there is one for this address."""
        proxy, pair = self._settings.proxy, self._proxy_auth
        parts = urllib.parse.urlsplit(url)
        if proxy == "environment":
            proxy = getproxies_environment().get(parts.scheme, "")
            if not proxy or proxy_bypass_environment(parts.netloc.rpartition("@")[2]):
                return {}
            before, at, host = urllib.parse.urlsplit(proxy).netloc.rpartition("@")
            if at:
                pair = pair or urllib.parse.unquote(before)
                proxy = urllib.parse.urlsplit(proxy)._replace(netloc=host).geturl()
        if not proxy:
            return {}
        given: dict[str, Any] = {"proxy": proxy}
        if pair:
            encoded = base64.b64encode(pair.encode()).decode("ascii")
            kind = "proxy_headers" if parts.scheme == "https" else "headers"
            given[kind] = {"Proxy-Authorization": f"Basic {encoded}"}
        return given

    async def _judge(self, response: aiohttp.ClientResponse, sha256: bytes, size: int) -> Answer:
        fields = [
            *response.headers.getall("Repr-Digest", []),
            *response.headers.getall("Content-Digest", []),
        ]
        said = b""
        if response.method != "HEAD":
            said = await self._read_some(response)
        head_length = response.headers.get("Content-Length", "")
        secrets = (self._token, self._proxy_auth)
        return Answer(
            status=response.status,
            digest=wire.compare(fields, sha256) if sha256 else Digest.ABSENT,
            length_matched=response.method == "HEAD" and head_length == str(size),
            retry_after_s=wire.retry_after(
                response.headers.get("Retry-After"), response.headers.get("Date")
            ),
            detail=wire.detail(said, *secrets) if _explains(response.status) else "",
            resend=wire.resend(response.headers.getall(wire.RESEND, [])),
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


def _explains(status: int) -> bool:
    """Whether the body is worth keeping: not that of a success, nor what is said of a token."""
    return status >= 400 and status not in (401, 403)


def _translate(error: Exception) -> Answer:
    """The fault behind an exception, in words without the address: it may carry a credential."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return Answer(fault=Fault.TIMEOUT)
        case TimeoutError() if not isinstance(error, aiohttp.ClientOSError):
            return Answer(fault=Fault.STALLED)
        case aiohttp.ClientConnectorCertificateError():
            return trust.certificate(error.certificate_error)
        case aiohttp.ClientSSLError() | ssl.SSLError():
            return Answer(fault=Fault.TLS, detail=trust.reason(error))
        case aiohttp.ServerDisconnectedError():
            return Answer(detail="it closed the connection without an answer")
        case aiohttp.ClientHttpProxyError():
            return _proxy_wants_more(error.status)
        case aiohttp.ClientProxyConnectionError():
            return Answer(detail=f"the proxy is not there: {trust.reason(error)}")
        case aiohttp.ClientResponseError() | HttpProcessingError():
            return Answer(detail="what it answered is not HTTP")
        case OSError():
            return Answer(detail=trust.reason(error))
        case ValueError():
            return Answer(detail="the address or a header cannot be used for a request")
    return Answer(detail=type(error).__name__)


def _proxy_wants_more(status: int) -> Answer:
    detail = f"the proxy answered {status}"
    if status == 407:
        return Answer(fault=Fault.CREDENTIAL, detail=f"{detail}: it wants another credential")
    return Answer(detail=detail)


def _refusal_of_ours(error: BaseException | None, alert: str) -> Answer | None:
    """What to make of it if the peer does not take our certificate; None if it is not that.

    In TLS 1.3 the handshake is over before the peer has seen our certificate, so its alert comes
    when something is read, in the exception of that or beside another one.
    """
    for _ in range(4):
        if alert or error is None:
            break
        if isinstance(error, ssl.SSLError):
            alert = str(getattr(error, "reason", None) or "")  # aiohttp's own have none
        error = error.__cause__ or error.__context__
    if "ALERT" not in alert or not any(part in alert for part in _OUR_CERTIFICATE):
        return None
    words = alert.lower().replace("_", " ")
    return Answer(
        fault=Fault.CREDENTIAL, detail=f"the receiver does not take our certificate ({words})"
    )
