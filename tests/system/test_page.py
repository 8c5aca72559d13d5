"""The page of the reference cloud in a real browser: fleet, vehicle, and what must never happen."""

import asyncio
import time
from pathlib import Path

import pytest

from agent.clock import SECOND
from tests import processes
from tests.bench.cloudbench import Drive
from tests.system.browser import Page
from tests.system.pageworld import PLOT, Filling, filled, inked, opened, run, table

pytestmark = pytest.mark.system

DAY_S = 86_400
NODES = "document.querySelectorAll('*').length"


def test_a_drive_that_was_uploaded_is_a_vehicle_that_is_complete(tmp_path: Path) -> None:
    async def look() -> None:
        log = tmp_path / "drive.log"
        simulated = await processes.start(
            *("simulate", "--log", str(log), "--seconds", "5"), log=tmp_path / "simulate.log"
        )
        assert await simulated.wait() == 0
        async with processes.cloud(tmp_path / "cloud") as port:
            origin = f"http://127.0.0.1:{port}"
            settings = tmp_path / "agent.toml"
            await asyncio.to_thread(settings.write_text, recording(log, origin))
            agent = await processes.start(
                *("run", "-c", str(settings), "--drain"), log=tmp_path / "agent.log"
            )
            assert await asyncio.wait_for(agent.wait(), processes.LIMIT_S) == 0
            async with opened(tmp_path / "profile", origin) as page:
                await fleet_to_ledger(page)

    run(look())


def recording(log: Path, origin: str) -> str:
    return f"""
        vehicle = "seen-in-a-browser"
        plan = "{Path(__file__).parents[2] / "config" / "plan-ev.toml"}"
        state_dir = "state"
        [[bus]]
        name = "powertrain"
        kind = "recording"
        path = "{log}"
        speed = 0
        [[uplink]]
        name = "cloud"
        url = "{origin}"
    """


async def fleet_to_ledger(page: Page) -> None:
    """From the fleet to a vehicle, and through its parts, as a person would go."""
    await page.until("document.querySelector('.fleet tbody tr')", "a row of the fleet")
    row = await page.text(".fleet tbody tr")
    assert "seen-in-a-browser" in row
    assert "complete" in row
    await page.click(".fleet tbody a")
    await page.until(f"{PLOT} && {inked()} > 500", "a chart is drawn")
    assert "VehicleSpeed" in await page.text(".charts")
    await page.click(".tabs a:nth-child(2)")
    await page.until("location.hash.endsWith('/events')", "the part for events")
    await page.until("document.querySelector('.part .hint').innerText !== ''", "events are told")
    await page.click(".tabs a:nth-child(3)")
    await page.until("/Updates/.test(document.body.innerText)", "the part for health")
    await page.click(".tabs a:nth-child(4)")
    await page.until("document.querySelector('.closing')", "the ledger")
    assert "every sum closes" in await page.text(".closing")
    assert "received here" in await page.text("main")


def test_an_empty_cloud_says_how_a_vehicle_comes_here(tmp_path: Path) -> None:
    async def look(origin: str) -> None:
        async with opened(tmp_path / "profile", origin) as page:
            await page.until("!document.querySelector('.empty').hidden", "the hint")
            assert "No batch has arrived yet." in await page.text(".empty")
            assert f'url = "{origin}"' in await page.text(".empty")

    with filled(tmp_path, []) as (_, origin):
        run(look(origin))


def test_a_gap_is_seen_in_the_fleet_and_named_in_the_ledger(tmp_path: Path) -> None:
    drive = Drive()
    first, _, last = drive.batch(), drive.batch(7), drive.batch(final=True)

    async def look(origin: str) -> None:
        async with opened(tmp_path / "profile", origin) as page:
            await page.until("document.querySelector('.badge.bad')", "a bad verdict")
            assert "14 samples" in await page.text(".fleet tbody tr")
            await page.go(f"{origin}/#/v/car-1/ledger")
            await page.until("document.querySelector('.gaps')", "the gap")
            assert "14" in await page.text(".gaps")

    with filled(tmp_path, [first, last]) as (_, origin):
        run(look(origin))


def test_a_ledger_that_does_not_close_is_said_in_words(tmp_path: Path) -> None:
    counts = {"bus": {"powertrain": {"received": 100, "read": 90, "dropped": 4, "decoded": 90}}}
    batch = Filling(tmp_path).batch([table("Pack", ["Voltage"], 5)], counts=counts)

    async def look(origin: str) -> None:
        async with opened(tmp_path / "profile", origin, "#/v/car-1/ledger") as page:
            await page.until("document.querySelector('.closing .badge.bad')", "that it is open")
            assert "bus powertrain" in await page.text(".closing")
            said = await page.text(".closes.open")
            assert "100 came in, 94 are accounted for: 6 are missing" in said

    with filled(tmp_path, [batch]) as (_, origin):
        run(look(origin))


def test_names_from_outside_are_texts_whatever_they_say(tmp_path: Path) -> None:
    """Signals, units, triggers: markup in them is shown, and nothing of it is done."""
    evil = '<img src=x onerror="window.evil=1"><b>bold</b>'
    event = {
        "kind": "event",
        "name": evil,
        "campaign": evil,
        "id": "1",
        "time": SECOND,
        "clock": "boot",
        "complete": True,
        "expression": evil,
        "values": {evil: evil},
    }
    batch = Filling(tmp_path).batch([table(evil, [evil], 20, unit=evil)], [event])

    async def look(origin: str) -> None:
        async with opened(tmp_path / "profile", origin, "#/v/car-1") as page:
            await page.until(f"{PLOT} && {inked()} > 500", "a chart is drawn")
            assert evil in await page.text(".chart")
            assert evil in await page.text(".option")
            await page.go(f"{origin}/#/v/car-1/events")
            await page.until("document.querySelector('.event')", "the event")
            assert (await page.text(".event")).count(evil) >= 3
            assert await page.evaluate("document.querySelectorAll('main img, main b').length") == 0
            assert await page.evaluate("window.evil === undefined")

    with filled(tmp_path, [batch]) as (_, origin):
        run(look(origin))


def test_a_page_outlives_its_cloud_and_says_so(tmp_path: Path) -> None:
    async def look() -> None:
        async with processes.cloud(tmp_path / "one") as port:
            origin = f"http://127.0.0.1:{port}"
            browsing = opened(tmp_path / "profile", origin, quiet=False)
            page = await browsing.__aenter__()
            await page.until("!document.querySelector('.empty').hidden", "the fleet")
        try:
            await page.until("!document.querySelector('.banner').hidden", "the banner")
            assert "The cloud does not answer." in await page.text(".banner")
            listen = f"127.0.0.1:{port}"
            again = await processes.start(
                *("cloud", "--listen", listen, "--data", str(tmp_path / "one")),
                log=tmp_path / "again.log",
            )
            try:
                await page.until("document.querySelector('.banner').hidden", "it is well again")
            finally:
                await processes.stop(again)
        finally:
            await browsing.__aexit__(None, None, None)

    run(look())


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390], ids=["desktop", "phone"])
def test_no_view_is_wider_than_the_screen(tmp_path: Path, width: int, *, dark: bool) -> None:
    """Each view has a picture in the test's folder, for people to look at."""
    drive = Drive()
    batches = [drive.batch(50) for _ in range(3)]

    async def look(origin: str) -> None:
        async with opened(tmp_path / "profile", origin) as page:
            await page.show_as(width, 800, dark=dark)
            for name, path, shown in (
                ("fleet", "#/", ".fleet tbody tr"),
                ("signals", "#/v/car-1", ".chart canvas"),
                ("events", "#/v/car-1/events", ".group"),
                ("health", "#/v/car-1/health", ".card"),
                ("ledger", "#/v/car-1/ledger", ".stages .sum"),
            ):
                await page.go(f"{origin}/{path}")
                await page.until(f"document.querySelector('{shown}')", name)
                over = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
                assert over <= 0, name
                await page.screenshot(tmp_path / f"{name}.png")
            back = await page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, back.strip("rgb()").split(","))) < 200) is dark
            await page.click("#theme")
            turned = await page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert turned != back

    with filled(tmp_path, batches) as (_, origin):
        run(look(origin))


def test_500_vehicles_are_found_and_put_in_order(tmp_path: Path) -> None:
    batches = [
        Filling(tmp_path, f"car-{n:03}").batch([table("Pack", ["Voltage"], 2 + n)])
        for n in range(500)
    ]

    async def look(origin: str) -> None:
        async with opened(tmp_path / "profile", origin) as page:
            began = time.perf_counter()
            await page.until("document.querySelectorAll('.fleet tbody tr').length === 500", "rows")
            print(f"\n500 vehicles after {time.perf_counter() - began:.2f} s")
            assert await page.evaluate(NODES) < 8_000
            await page.click(".fleet th:nth-child(6) button")
            await page.until(
                "document.querySelector('.fleet tbody th').innerText === 'car-499'", "most samples"
            )
            await page.click("#find")
            await page.type("car-12")
            await page.until("document.querySelectorAll('.fleet tbody tr').length === 10", "found")
            assert "q=car-12" in await page.evaluate("location.hash")
            await page.go("about:blank")
            await page.go(f"{origin}/#/?q=car-007")
            await page.until("document.querySelectorAll('.fleet tbody tr').length === 1", "again")

    with filled(tmp_path, batches) as (_, origin):
        run(look(origin))


def test_3000_signals_and_a_day_of_data_stay_few_elements(tmp_path: Path) -> None:
    filling = Filling(tmp_path)
    many = [
        table(f"Message{m:03}", [f"Signal{m:03}x{s}" for s in range(10)], 2) for m in range(300)
    ]
    day = table("Day", ["Wave", "Other"], 10 * DAY_S, step_ns=SECOND // 10)

    async def look(origin: str) -> None:
        path = "#/v/car-1?s=Day.Wave&s=Day.Other&range=1d"
        async with opened(tmp_path / "profile", origin, "") as page:
            began = time.perf_counter()
            await page.go(f"{origin}/{path}")
            await page.until(f"{PLOT} && {inked()} > 5000", "a day is drawn")
            print(f"\na day of 2 signals at 10 Hz after {time.perf_counter() - began:.2f} s")
            await page.until("/3,002 signals/.test(document.body.innerText)", "all are listed")
            print(f"3,002 signals after {time.perf_counter() - began:.2f} s")
            points = await page.evaluate("Number(document.querySelector('.canvas').dataset.points)")
            assert 100 < points <= 1300
            assert await page.evaluate("document.querySelectorAll('[role=option]').length") < 60
            await page.key("/")
            began = time.perf_counter()
            await page.type("signal299")
            await page.until("document.querySelectorAll('[role=option]').length === 10", "found")
            print(f"found among them after {time.perf_counter() - began:.2f} s")
            nodes = await page.evaluate(NODES)
            print(f"{nodes} elements")
            assert nodes < 1_000
            await page.evaluate("document.querySelector('#signals').scrollTop = 1e6")
            began = time.perf_counter()
            await page.drag(".chart .u-over", 0.4, 0.41)
            await page.until("location.hash.includes('from=')", "zoomed")
            await page.until(
                "document.querySelector('.when').innerText.includes('min)')", "the stretch is told"
            )
            print(f"zoomed into 14 minutes after {time.perf_counter() - began:.2f} s")

    with filled(tmp_path, [filling.batch(many), filling.batch([day])]) as (_, origin):
        run(look(origin))
