"""The platform's view of the page, in a browser, with vehicles that report over TCP."""

import contextlib
from pathlib import Path

import pytest

from agent.bench.cloud import Store
from agent.bench.cloud.server import create_app, serve
from agent.bench.gbt32960.platform import Platform
from agent.bench.gbt32960.view import PlatformView
from agent.gbt32960.codec import GBT2016
from agent.gbt32960.envelope import request
from tests.bench.gbt32960.platformbench import (
    CODECS,
    VIN,
    Terminal,
    alarm_item,
    cell_items,
    login,
    report,
    vehicle_item,
)
from tests.system.pageworld import opened, run

pytestmark = pytest.mark.system


def says(words: str) -> str:
    return f"document.querySelector('main').innerText.includes({words!r})"


def test_vehicles_of_the_platform_are_listed_and_shown(tmp_path: Path) -> None:
    async def look() -> None:
        store = Store(tmp_path / "cloud")
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(store.close)
            platform = await stack.enter_async_context(Platform())
            app = create_app(store, platform=PlatformView(platform))
            origin = await stack.enter_async_context(serve(app, "127.0.0.1", 0))
            for n, codec in enumerate(CODECS):
                vin = f"{VIN[:-1]}{n}"
                vehicle = await stack.enter_async_context(Terminal.connect(platform.port))
                alarm = alarm_item(codec, 3, ["soc_low", "insulation"])
                cells = cell_items(100) if codec is GBT2016 else []
                items = [vehicle_item(codec), alarm, *cells]
                sent = [report(codec, t, *items, vin=vin) for t in (0, 100)]
                await vehicle.asks(login(codec, vin, serial=3))
                vehicle.send(*sent)
                await vehicle.asks(request(codec, 0x02, vin, b"<b>x"))
            page = await stack.enter_async_context(opened(tmp_path / "profile", origin))

            await page.until("!document.querySelector('[data-view=gbt32960]').hidden", "a platform")
            await page.click("[data-view=gbt32960]")
            await page.until(says("2 vehicles by GB/T 32960: 2 online"), "both are listed")
            await page.click("tbody tr:first-child a")
            await page.until(says("3 reports missing"), "its gap is named")
            await page.until(says("soc low, insulation"), "its alarm is named")
            await page.until(says("50 km/h"), "its newest report is shown")
            await page.until(says("realtime"), "the malformed frame has its reason")

    run(look())


def test_a_cloud_without_a_platform_has_no_such_view(tmp_path: Path) -> None:
    async def look() -> None:
        store = Store(tmp_path / "cloud")
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(store.close)
            origin = await stack.enter_async_context(serve(create_app(store), "127.0.0.1", 0))
            page = await stack.enter_async_context(opened(tmp_path / "profile", origin))

            await page.until("document.querySelector('main .hint')", "the fleet is shown")
            await page.until("document.querySelector('[data-view=gbt32960]').hidden", "hidden")

    run(look())
