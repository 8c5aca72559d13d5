"""How the reference cloud answers: JSON, and every refusal with a code and a sentence."""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NoReturn

from aiohttp import hdrs, web

_log = logging.getLogger(__name__)


def dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def as_json(value: object) -> web.Response:
    return web.json_response(value, dumps=dumps)


def refuse(
    status: int,
    code: str,
    text: str,
    headers: Mapping[str, str] | None = None,
    *,
    close: bool = False,
) -> NoReturn:
    """Answer with a status, a code for programs and a sentence for people."""
    error = _Refusal(status, dumps({"error": {"code": code, "message": text}}), headers)
    if close:
        error.force_close()
    raise error


class _Refusal(web.HTTPException):
    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        self.status_code = status
        super().__init__(headers=headers, text=text, content_type="application/json")


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal as JSON, and no word of the inside in an answer."""
    try:
        return await handler(request)
    except web.HTTPException as e:
        if e.status < 400 or e.content_type == "application/json":
            raise
        refuse(e.status, "http", e.reason, _allowed(e))
    except ConnectionError:
        raise
    except Exception:  # noqa: BLE001 - the client must not see what it was; the log does
        _log.exception("%s %s failed", request.method, request.path)
        refuse(500, "internal", "this went wrong here; the log of the cloud says why", close=True)


def _allowed(error: web.HTTPException) -> dict[str, str]:
    return {k: error.headers[k] for k in (hdrs.ALLOW, hdrs.LOCATION) if k in error.headers}
