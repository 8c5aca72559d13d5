"""The bench below `/bench/v1/`: its state, and faults to press.

Pressing changes something on this computer, so no other site may do it in the user's browser: a
request must carry a header that a form cannot have (and a script of another site only after a
question that is not answered), and must have been sent to a loopback name, so that a name which
was made to point here does not do.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from agent.bench.cloud.answers import as_json, refuse
from agent.bench.door import BenchDoor
from agent.errors import AgentError, ConfigError

HEADER: Final = "X-Edge-Agent"
_LOOPBACK: Final = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_MOST_BYTES: Final = 65_536


def add_bench(app: web.Application, door: BenchDoor) -> None:
    """Add the addresses of a bench."""

    async def state(_: web.Request) -> web.Response:
        return as_json(door.state())

    async def press(request: web.Request) -> web.Response:
        if request.headers.get(HEADER) != "bench":
            refuse(403, "header", f"a fault is pressed with the header {HEADER}: bench")
        if not _LOOPBACK.fullmatch(request.headers.get("Host", "")):
            refuse(403, "host", "a fault is pressed on this computer: ask 127.0.0.1 or localhost")
        on, parameters = await _asked(request)
        try:
            return as_json(await door.press(request.match_info["name"], on, parameters))
        except ConfigError as e:
            refuse(400, "fault", str(e))
        except AgentError as e:
            refuse(409, "fault", str(e))

    app.router.add_get("/bench/v1/state", state)
    app.router.add_post("/bench/v1/faults/{name}", press)


async def _asked(request: web.Request) -> tuple[bool, Mapping[str, Any]]:
    """`{"on": ..., "parameters": {...}}`."""
    if (request.content_length or 0) > _MOST_BYTES:
        refuse(413, "size", "this is too long")
    try:
        body = await request.json()
    except (ValueError, RecursionError):
        body = None
    on = body.get("on") if isinstance(body, dict) else None
    parameters = body.get("parameters", {}) if isinstance(body, dict) else None
    if not isinstance(on, bool) or not isinstance(parameters, dict):
        refuse(400, "body", 'write {"on": true, "parameters": {}}')
    return on, parameters
