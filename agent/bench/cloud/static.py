"""The files of the page, served from memory.

All of `web/` is read once, when the application is made: some 150 kB. An address is looked up in
what was read, so none can reach another file. Each answer has a strong ETag and `no-cache`: a
browser asks each time, gets 304, and never runs a page that is older than the cloud.

The policy lets the page load nothing but its own files and talk to nobody but this cloud, and runs
no inline script. uPlot sets styles through the object model, which `style-src 'self'` allows.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from aiohttp import hdrs, web

from agent.bench.cloud.answers import refuse

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy of the page and its files."""

_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
"""By suffix; what has another one (licences, notes) is not served."""

_HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    hdrs.CACHE_CONTROL: "no-cache",
}


@dataclasses.dataclass(frozen=True, slots=True)
class _File:
    body: bytes
    media_type: str
    etag: str


class Page:
    """The page at `/` and its files at `/static/...`."""

    def __init__(self) -> None:
        self._files = dict(_read(resources.files("agent.bench.cloud") / "web"))

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/", self.index)
        app.router.add_get("/static/{path:.+}", self.file)

    async def index(self, request: web.Request) -> web.Response:
        return self._answer(request, "index.html")

    async def file(self, request: web.Request) -> web.Response:
        return self._answer(request, request.match_info["path"])

    def _answer(self, request: web.Request, path: str) -> web.Response:
        file = self._files.get(path)
        if file is None:
            refuse(404, "unknown", "there is no such file")
        headers = {**_HEADERS, hdrs.ETAG: f'"{file.etag}"'}
        if any(tag.value in (file.etag, "*") for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=file.body, headers={**headers, hdrs.CONTENT_TYPE: file.media_type})


def _read(folder: Traversable, prefix: str = "") -> list[tuple[str, _File]]:
    found: list[tuple[str, _File]] = []
    for each in folder.iterdir():
        name = f"{prefix}{each.name}"
        if each.is_dir():
            found += _read(each, f"{name}/")
        elif media_type := _TYPES.get(f".{each.name.rpartition('.')[2]}"):
            body = each.read_bytes()
            found.append((name, _File(body, media_type, hashlib.sha256(body).hexdigest()[:32])))
    return found
