"""The platform as a process beside the cloud: its addresses, and that a kill loses nothing."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.bench.cloud import Store
from agent.bench.cloud.server import create_app, serve
from agent.bench.gbt32960.platform import Platform
from agent.bench.gbt32960.record import Record
from agent.bench.gbt32960.view import PlatformView
from agent.commands import cloud as command
from agent.errors import ConfigError
from agent.gbt32960.codec import GBT2016, GBT2025
from agent.gbt32960.envelope import request
from agent.gbt32960.layout import Item
from tests import processes
from tests.bench.gbt32960.platformbench import (
    CODECS,
    VIN,
    Terminal,
    alarm_item,
    at,
    cell_items,
    heartbeat,
    login,
    report,
    vehicle_item,
)
from tests.bench.test_cloud_command import _args


@contextlib.asynccontextmanager
async def cloud(
    folder: Path, number: int = signal.SIGTERM, port: int = 0
) -> AsyncIterator[tuple[str, int]]:
    """`edge-agent cloud --gbt32960`: its address, and the port of the platform."""
    process = await processes.start(
        *("cloud", "--listen", "127.0.0.1:0", "--data", str(folder), "--gbt32960", str(port)),
        log=folder.with_suffix(".log"),
    )
    assert process.stdout is not None
    try:
        lines = [(await process.stdout.readline()).decode() for _ in range(2)]
        url = lines[0].split()[2].rstrip(",")
        yield url, int(lines[1].rpartition(":")[2])
    finally:
        await processes.stop(process, number)
        await process.stdout.read()


@contextlib.asynccontextmanager
async def beside(folder: Path) -> AsyncIterator[tuple[str, int]]:
    """The same in this process."""
    store = Store(folder)
    try:
        async with Platform(Record(folder / "gbt32960")) as platform:
            app = create_app(store, platform=PlatformView(platform))
            async with serve(app, "127.0.0.1", 0) as url:
                yield url, platform.port
    finally:
        store.close()


async def asked(url: str, path: str) -> Any:
    async with aiohttp.ClientSession(url) as session, session.get(path) as answer:
        return json.loads(await answer.text()) | {"status_code": answer.status}


def test_what_was_confirmed_is_there_after_a_kill(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            cloud(tmp_path / "data", signal.SIGKILL) as (_, port),
            Terminal.connect(port) as vehicle,
        ):
            vehicle.send(login(GBT2016), *(report(GBT2016, t) for t in range(0, 500, 10)))
            while (await vehicle.asks(heartbeat(GBT2016))).command != 0x07:
                pass

        async with cloud(tmp_path / "data") as (url, port):
            known = await asked(url, f"/v1/gbt32960/{VIN}")
            assert (known["reports"], known["gaps"], known["online"]) == (50, 0, False)

    asyncio.run(test())


def test_the_page_is_told_of_every_vehicle(tmp_path: Path) -> None:
    async def test() -> None:
        async with beside(tmp_path / "data") as (url, port):
            async with contextlib.AsyncExitStack() as stack:
                for n, codec in enumerate(CODECS):
                    vin = f"{VIN[:-1]}{n}"
                    vehicle = await stack.enter_async_context(Terminal.connect(port))
                    alarm = alarm_item(codec, 3, ["soc_low", "insulation"])
                    items = [vehicle_item(codec), alarm]
                    sent = [report(codec, t, *items, vin=vin) for t in (0, 100)]
                    broken = request(codec, 0x02, vin, b"\x1a\x01")
                    await vehicle.asks(login(codec, vin, serial=3))
                    vehicle.send(*sent)
                    await vehicle.asks(broken)

                listed = await asked(url, "/v1/gbt32960")
                old, new = listed["vehicles"]
                assert (old["edition"], new["edition"]) == ("2016", "2025")
                for each in (old, new):
                    assert each["online"]
                    assert (each["serial"], each["reports"], each["live"]) == (3, 2, 2)
                    assert (each["malformed"], each["gaps"], each["missing"]) == (1, 1, 3)
                    assert each["alarm_level"] == 3

                known = await asked(url, f"/v1/gbt32960/{new['vin']}")
                assert known["named_gaps"] == ["2026-01-01 10:00:30 to 10:01:40: 3 reports missing"]
                assert known["alarms"][0]["flags"] == ["soc_low", "insulation"]
                assert known["latest"]["time"] == "2026-01-01 10:01:40"
                assert known["latest"]["items"]["vehicle"]["speed"] == "50 km/h"
                assert known["latest"]["items"]["vehicle"]["vehicle_state"] == "started"
                assert known["malformed_frames"][0]["reason"].startswith("realtime")
                assert known["logins"][0]["serial"] == 3
            assert (await asked(url, "/healthz"))["platform"] is True
            assert (await asked(url, "/v1/gbt32960/nobody"))["status_code"] == 404

    asyncio.run(test())


def test_strange_vins_and_items_are_shown_as_text(tmp_path: Path) -> None:
    async def test() -> None:
        async with beside(tmp_path / "data") as (url, port), Terminal.connect(port) as vehicle:
            vin = "<b>\udcff\x01\u007f"
            items = [Item(0x80, b"\xff" * 30), *cell_items(100)]
            await vehicle.asks(login(GBT2016, vin))
            vehicle.send(report(GBT2016, 0, *items, vin=vin))
            await vehicle.asks(heartbeat(GBT2016, vin))

            (listed,) = (await asked(url, "/v1/gbt32960"))["vehicles"]
            assert listed["vin"] == "<b>\\xff\\x01\\x7f"
            known = await asked(url, "/v1/gbt32960/%3Cb%3E%5Cxff%5Cx01%5Cx7f")
            items_known = known["latest"]["items"]
            assert items_known["maker"] == ["0x80: 30 bytes"]
            assert items_known["cell_voltages"]["packs"][0]["cells"] == "100 of 100, 3.001 to 3.1 V"

    asyncio.run(test())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gbt32960", "x"], "--gbt32960 127.0.0.1:x: write HOST:PORT"),
        (["--gbt32960", "0", "--shared"], "leave out --shared"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        command.run(_args("--listen", "127.0.0.1:0", "--data", str(tmp_path), *words))


def test_a_vehicle_with_nothing_but_a_login_is_shown(tmp_path: Path) -> None:
    async def test() -> None:
        async with beside(tmp_path / "data") as (url, port), Terminal.connect(port) as vehicle:
            await vehicle.asks(login(GBT2025, time=at(5)))

            known = await asked(url, f"/v1/gbt32960/{VIN}")

            assert known["latest"] is None
            assert known["verdict"] == ""

    asyncio.run(test())


@pytest.mark.parametrize("path", ["/v1/gbt32960?period_s=x", "/v1/gbt32960?period_s=0"])
def test_a_period_that_is_none_is_refused(tmp_path: Path, path: str) -> None:
    async def test() -> None:
        async with beside(tmp_path / "data") as (url, _):
            assert (await asked(url, path))["status_code"] == 400

    asyncio.run(test())


def test_gaps_are_those_of_the_period_that_is_asked_for(tmp_path: Path) -> None:
    async def test() -> None:
        async with beside(tmp_path / "data") as (url, port), Terminal.connect(port) as vehicle:
            await vehicle.asks(login(GBT2016))
            vehicle.send(*(report(GBT2016, t) for t in (0, 20, 40)))
            await vehicle.asks(heartbeat(GBT2016))

            for period_s, gaps in ((10, 2), (20, 0), (30, 0)):
                known = await asked(url, f"/v1/gbt32960/{VIN}?period_s={period_s}")
                assert (known["gaps"], known["missing"]) == (gaps, gaps)

    asyncio.run(test())


def test_a_cloud_without_a_platform_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        store = Store(tmp_path)
        async with serve(create_app(store), "127.0.0.1", 0) as url:
            assert (await asked(url, "/healthz"))["platform"] is False
            async with aiohttp.ClientSession(url) as session:
                assert (await session.get("/v1/gbt32960")).status == 404
        store.close()

    asyncio.run(test())
