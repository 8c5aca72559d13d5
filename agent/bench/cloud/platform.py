"""A GB/T 32960 platform beside the cloud, below `/v1/gbt32960`: what came to it, as JSON."""

from typing import Any, Protocol

from aiohttp import web

from agent.bench.cloud.answers import as_json, refuse


class PlatformDoor(Protocol):
    """What a platform tells of itself; see `agent.bench.gbt32960.view`."""

    def vehicles(self, period_s: float | None = None) -> dict[str, Any]: ...

    def vehicle(self, name: str, period_s: float | None = None) -> dict[str, Any] | None: ...


def add_platform(app: web.Application, door: PlatformDoor) -> None:
    """Add the addresses of a platform; `period_s` asks for gaps by another period."""

    async def vehicles(request: web.Request) -> web.Response:
        return as_json(door.vehicles(_period(request)))

    async def vehicle(request: web.Request) -> web.Response:
        found = door.vehicle(request.match_info["vin"], _period(request))
        if found is None:
            refuse(404, "unknown", "no such vehicle has logged in to the platform")
        return as_json(found)

    app.router.add_get("/v1/gbt32960", vehicles)
    app.router.add_get("/v1/gbt32960/{vin}", vehicle)


def _period(request: web.Request) -> float | None:
    text = request.query.get("period_s")
    if text is None:
        return None
    try:
        period_s = float(text)
    except ValueError:
        period_s = 0.0
    if not 1 <= period_s <= 3600:
        refuse(400, "period", "period_s is between 1 and 3600")
    return period_s
