"""A repository of configuration below `/ota/`, as files: what `edge-agent ota` has signed.

The cloud signs nothing and checks nothing: a vehicle does not believe where a file comes from, only
its signatures. So a plain web server does the same, and this one is here so that a bench is one
process.

Only regular files below `metadata` and `targets` are given, by their whole names: no listing, no
hidden file, and nothing to which a link leads out of the two. The keys of an operator, which may
lie beside them, are out of reach.

An ETag stands for one state of one file, so that a vehicle that asks again is answered 304 without
content. Files are replaced by renaming: who is being sent the old one gets all of the old one.
"""

import asyncio
import io
import os
import stat
from pathlib import Path
from typing import Final

from aiohttp import ETag, hdrs, web

from agent.bench.cloud.answers import refuse
from agent.errors import ConfigError

_FOLDERS: Final = ("metadata", "targets")
_PIECE: Final = 64 * 1024


class Repository:
    """The files below one folder.

    Raises:
        ConfigError: there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ConfigError(
                f"{root}: there is no such folder; name that of a repository with --ota, "
                "in which metadata and targets are"
            )
        self._root = root

    async def get(self, request: web.Request) -> web.StreamResponse:
        """GET and HEAD of one file."""
        file = await asyncio.to_thread(self._open, request.match_info["path"])
        if file is None:
            refuse(404, "unknown", "there is no such file in the repository")
        with file:
            state = os.fstat(file.fileno())
            tag = ETag(f"{state.st_mtime_ns:x}-{state.st_size:x}-{state.st_ino:x}")
            asked = request.if_none_match or ()
            same = any(each.value in (tag.value, "*") for each in asked)
            response = web.StreamResponse(status=304 if same else 200)
            response.etag = tag
            response.headers[hdrs.CACHE_CONTROL] = "no-cache"
            if same:
                await response.prepare(request)
                return response
            # JSON and archives are nothing that a browser should open.
            response.content_type = "application/octet-stream"
            response.headers["X-Content-Type-Options"] = "nosniff"
            response.content_length = state.st_size
            await response.prepare(request)
            if request.method != hdrs.METH_HEAD:
                await _send(file, state.st_size, response)
            return response

    def _open(self, path: str) -> io.FileIO | None:
        """The file of this name, if it is one that may be given."""
        first, *rest = path.split("/")
        if first not in _FOLDERS or not rest or any(not p or p.startswith(".") for p in rest):
            return None
        try:
            folder = self._root.resolve(strict=True) / first
            found = folder.joinpath(*rest).resolve(strict=True)
            if not found.is_relative_to(folder) or not stat.S_ISREG(found.stat().st_mode):
                return None
            # Whatever takes its name meanwhile is not waited for, nor followed.
            return io.FileIO(
                found, opener=lambda p, flags: os.open(p, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
            )
        except (OSError, ValueError, RuntimeError):  # too: a zero byte, a link to itself
            return None


async def _send(file: io.FileIO, size: int, response: web.StreamResponse) -> None:
    """All bytes that were announced.

    Raises:
        ConnectionError: the file has become shorter; the connection must not look whole.
    """
    left = size
    while left:
        piece = await asyncio.to_thread(file.read, min(left, _PIECE))
        if not piece:
            raise ConnectionAbortedError("the file became shorter while it was sent")
        await response.write(piece)
        left -= len(piece)
