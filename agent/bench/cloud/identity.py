"""Who is asking: with `--tls` a vehicle needs its own certificate, which it gets by POST .../enrol.

Questions of people (GET) stay open, as they are without TLS: the reference cloud knows no users.
"""

import asyncio
import logging
from typing import Any, Final

from aiohttp import hdrs, web

from agent.bench.cloud.answers import Handler, refuse
from agent.bench.cloud.enrol import Authority, RefusedError

_log = logging.getLogger(__name__)

_REQUEST_BYTES: Final = 16 * 1024


class Identity:
    """The check of every request, and the handler of enrolment."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    def guard(self) -> Any:
        """The middleware."""

        @web.middleware
        async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
            vehicle = request.match_info.get("vehicle")
            if vehicle is not None and request.method in ("PUT", "HEAD"):
                self._check(request, vehicle)
            return await handler(request)

        return check

    async def enrol(self, request: web.Request) -> web.Response:
        """A certificate for a token, or for the present one."""
        vehicle = request.match_info["vehicle"]
        asked = await self._body(request)
        scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        try:
            if scheme.lower() == "bearer" and token:
                enrol = self._authority.enrol
                chain = await asyncio.to_thread(enrol, vehicle, token.strip(), asked)
            else:
                self._check(request, vehicle)
                chain = await asyncio.to_thread(self._authority.renew, vehicle, asked)
        except RefusedError as e:
            if e.unauthorised:
                refuse(401, "token", str(e))
            refuse(422, "request", str(e))
        except OSError as e:
            _log.warning("%s could not be enrolled: %s", vehicle, e)
            refuse(507, "storage", "the token could not be marked as used; try again")
        _log.info("%s is enrolled", vehicle)
        return web.Response(
            status=201, body=chain, content_type="application/pem-certificate-chain"
        )

    def _check(self, request: web.Request, vehicle: str) -> None:
        transport = request.transport
        shown = transport.get_extra_info("peercert") if transport is not None else None
        names = [
            v for part in (shown or {}).get("subject", ()) for k, v in part if k == "commonName"
        ]
        if not names:
            refuse(401, "certificate", "show the certificate of this vehicle", close=True)
        if names != [vehicle]:
            refuse(403, "certificate", f"the certificate is not that of {vehicle}", close=True)

    async def _body(self, request: web.Request) -> bytes:
        if request.content_length is None or request.content_length > _REQUEST_BYTES:
            refuse(413, "size", f"a request has at most {_REQUEST_BYTES} bytes", close=True)
        return await request.read()
